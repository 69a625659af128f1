//! HTTP/1.1 as it was recorded: requests of a connection, each with its answer, and the events of an answer that streams.
//!
//! Pure functions over bytes. A message that was cut off counts as far as it came: that is what streams end like.

use crate::http::Answer;

/// A request and what was answered to it, if anything was.
#[derive(Debug, Clone, Default)]
pub(crate) struct Exchange {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) answer: Option<Answer>,
    /// Whether the whole body of the answer came.
    pub(crate) is_complete: bool,
}

/// One event of a stream. `data` is `None` when it had no such field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SseEvent {
    pub(crate) id: Option<String>,
    pub(crate) event: Option<String>,
    pub(crate) data: Option<String>,
    pub(crate) retry: Option<String>,
}

impl Exchange {
    /// The first header of the request with this name, in any case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn answer_header(&self, name: &str) -> Option<&str> {
        self.answer.as_ref().and_then(|it| it.header(name))
    }

    /// The status of the answer; 0 when none came.
    pub(crate) fn status(&self) -> u16 {
        self.answer.as_ref().map_or(0, |it| it.status)
    }

    pub(crate) fn is_stream(&self) -> bool {
        self.answer_header("Content-Type").is_some_and(|it| it.starts_with("text/event-stream"))
    }

    /// The complete events of an answer that streams.
    pub(crate) fn events(&self) -> Vec<SseEvent> {
        match &self.answer {
            Some(answer) if self.is_stream() => sse_events(&String::from_utf8_lossy(&answer.body)),
            _ => Vec::new(),
        }
    }
}

/// The exchanges of a connection, in order.
///
/// Fails with what is wrong when the bytes are no HTTP.
pub(crate) fn read(by_client: &[u8], by_gateway: &[u8]) -> Result<Vec<Exchange>, String> {
    let (mut by_client, mut by_gateway) = (by_client, by_gateway);
    let mut exchanges = Vec::new();
    while let Some(head) = head(&mut by_client)? {
        let mut words = head.first_line.split(' ');
        let (Some(method), Some(path)) = (words.next(), words.next()) else {
            return Err(format!("not a request line: {:?}", head.first_line));
        };
        let (body, _) = body(&head.headers, &mut by_client, false)?;
        let (method, path) = (method.to_owned(), path.to_owned());
        let (answer, is_complete) = answer(&method, &mut by_gateway)?;
        exchanges.push(Exchange { method, path, headers: head.headers, body, answer, is_complete });
    }
    Ok(exchanges)
}

/// The events of a stream that have come to their end, an empty line.
fn sse_events(text: &str) -> Vec<SseEvent> {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut events = Vec::new();
    let mut event = SseEvent::default();
    for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        if line.is_empty() {
            if event != SseEvent::default() {
                events.push(std::mem::take(&mut event));
            }
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => event.id = Some(value.to_owned()),
            "event" => event.event = Some(value.to_owned()),
            "retry" => event.retry = Some(value.to_owned()),
            "data" => match &mut event.data {
                Some(data) => *data += &format!("\n{value}"),
                none => *none = Some(value.to_owned()),
            },
            // A comment, which begins with a colon, or a field of no meaning.
            _ => {}
        }
    }
    events
}

struct Head {
    first_line: String,
    headers: Vec<(String, String)>,
}

/// The next answer that is not an interim one, and whether all of it came.
fn answer(method: &str, bytes: &mut &[u8]) -> Result<(Option<Answer>, bool), String> {
    loop {
        let Some(head) = head(bytes)? else { return Ok((None, false)) };
        let status = head.first_line.split(' ').nth(1).and_then(|text| text.parse().ok());
        let status: u16 = status.ok_or_else(|| format!("not a status line: {:?}", head.first_line))?;
        if status < 200 {
            continue;
        }
        let has_no_body = method == "HEAD" || status == 204 || status == 304;
        let (body, is_complete) = match has_no_body {
            true => (Vec::new(), true),
            false => body(&head.headers, bytes, true)?,
        };
        return Ok((Some(Answer { status, headers: head.headers, body }), is_complete));
    }
}

/// The next head; `None` when none comes any more, or only part of one.
fn head(bytes: &mut &[u8]) -> Result<Option<Head>, String> {
    let Some(end) = bytes.windows(4).position(|it| it == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&bytes[..end]).map_err(|_| "a head that is not UTF-8".to_owned())?;
    *bytes = &bytes[end + 4..];
    let mut lines = text.split("\r\n");
    let first_line = lines.next().unwrap_or_default().to_owned();
    let header = |line: &str| match line.split_once(':') {
        Some((name, value)) => Ok((name.to_owned(), value.trim().to_owned())),
        None => Err(format!("not a header: {line:?}")),
    };
    Ok(Some(Head { first_line, headers: lines.map(header).collect::<Result<_, _>>()? }))
}

/// The body that goes with these headers, and whether all of it came. Without a length, that of an answer goes on to the end.
fn body(headers: &[(String, String)], bytes: &mut &[u8], is_answer: bool) -> Result<(Vec<u8>, bool), String> {
    let header = |name: &str| headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
    if header("Transfer-Encoding").is_some_and(|it| it.eq_ignore_ascii_case("chunked")) {
        return chunks(bytes);
    }
    let length = match header("Content-Length") {
        Some(text) => text.parse().map_err(|_| format!("not a length: {text:?}"))?,
        None if is_answer => bytes.len(),
        None => 0,
    };
    let came = length.min(bytes.len());
    let (body, rest) = bytes.split_at(came);
    *bytes = rest;
    Ok((body.to_vec(), came == length))
}

fn chunks(bytes: &mut &[u8]) -> Result<(Vec<u8>, bool), String> {
    let mut body = Vec::new();
    loop {
        let Some(end) = bytes.windows(2).position(|it| it == b"\r\n") else { return Ok((body, false)) };
        let line = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let size = line.split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(size, 16).map_err(|_| format!("not the size of a chunk: {line:?}"))?;
        let rest = &bytes[end + 2..];
        let has_all = size + 2 <= rest.len();
        if !has_all {
            body.extend_from_slice(&rest[..size.min(rest.len())]);
            *bytes = &[];
            return Ok((body, false));
        }
        if &rest[size..size + 2] != b"\r\n" {
            return Err(format!("a chunk of {size} bytes does not end where it should"));
        }
        body.extend_from_slice(&rest[..size]);
        *bytes = &rest[size + 2..];
        if size == 0 {
            return Ok((body, true));
        }
    }
}

#[test]
fn requests_are_paired_with_their_answers_whatever_frames_their_bodies() {
    let by_client = b"GET /a HTTP/1.1\r\nX: 1\r\n\r\nPOST /b HTTP/1.1\r\ncontent-length: 3\r\n\r\nabcPOST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n0\r\n\r\nDELETE /d HTTP/1.1\r\n\r\n";
    let by_gateway = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nAAHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n1;x=y\r\nB\r\n2\r\nBB\r\n0\r\n\r\nHTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\n\r\nto the end";
    let exchanges = read(by_client, by_gateway).unwrap();
    let told: Vec<_> = exchanges
        .iter()
        .map(|it| {
            let answer = it.answer.as_ref().unwrap();
            let texts = [&it.body, &answer.body].map(|body| String::from_utf8_lossy(body).into_owned());
            (format!("{} {}", it.method, it.path), texts, answer.status)
        })
        .collect();
    let expected = [("GET /a", ["", "AA"], 200), ("POST /b", ["abc", "BBB"], 202), ("POST /c", ["de", ""], 204)];
    let mut expected: Vec<_> = expected.iter().map(|it| (it.0.to_owned(), it.1.map(str::to_owned), it.2)).collect();
    expected.push(("DELETE /d".to_owned(), [String::new(), "to the end".to_owned()], 200));
    assert_eq!(told, expected);
    assert_eq!(exchanges[0].header("x"), Some("1"));
}

#[test]
fn a_recording_that_breaks_off_anywhere_is_read_as_far_as_it_goes() {
    let by_client = b"POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx";
    let by_gateway = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3\r\n, y\r\n0\r\n\r\n";
    for length in 0..=by_gateway.len() {
        let exchanges = read(by_client, &by_gateway[..length]).unwrap();
        assert_eq!(exchanges.len(), 1);
        assert_eq!(exchanges[0].is_complete, length == by_gateway.len(), "{length}");
        let body = exchanges[0].answer.as_ref().map_or(&[][..], |it| &it.body[..]);
        assert!(b"hello, y".starts_with(body), "{length}: {body:?}");
    }
    for length in 0..by_client.len() {
        read(&by_client[..length], by_gateway).unwrap();
    }
}

#[test]
fn what_is_no_http_is_said_to_be_none() {
    for (by_client, by_gateway) in [
        ("nonsense\r\n\r\n", ""),
        ("GET / HTTP/1.1\r\nno header\r\n\r\n", ""),
        ("GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", ""),
        ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 OK\r\n\r\n"),
        ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n"),
        ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n"),
    ] {
        assert!(read(by_client.as_bytes(), by_gateway.as_bytes()).is_err(), "{by_client:?} {by_gateway:?}");
    }
}

#[test]
fn events_are_read_as_the_standard_says() {
    let text = ": comment\nid: 1\nretry: 5\ndata:\n\r\ndata: a\rdata:b\n\nevent: endpoint\ndata:  c\n\n\nother: x\n\ndata: cut off\n";
    let event = |id: Option<&str>, event: Option<&str>, data: &str, retry: Option<&str>| SseEvent {
        id: id.map(str::to_owned),
        event: event.map(str::to_owned),
        data: Some(data.to_owned()),
        retry: retry.map(str::to_owned),
    };
    let expected = [
        event(Some("1"), None, "", Some("5")),
        event(None, None, "a\nb", None),
        event(None, Some("endpoint"), " c", None),
    ];
    assert_eq!(sse_events(text), expected);
}
