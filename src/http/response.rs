//! Puts an answer into bytes.
//!
//! tiny_http writes the status line, who answers, the date and how long the body is. The other lines are added as they stand: it has
//! no way to say `Connection` or `Upgrade`, and would allocate twice for each header. What it wrote is good for every answer of the
//! same status in the same second but for the length, so that is kept for as long.

use std::{
    io,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwapOption;
use tiny_http::{HTTPVersion, Header, Response, StatusCode};

use crate::api::{Answer, Headers};

/// What every answer tells browsers: to take it for what it says it is, to give it to no other site's page, and to tell nobody its
/// address, which may hold a key.
const FOR_BROWSERS: &[u8] =
    b"X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\nCross-Origin-Resource-Policy: same-origin\r\n";

/// What an answer tells them that is no page: to load and run nothing for it, and to show it in no other page.
const NO_PAGE: &[u8] = b"Content-Security-Policy: default-src 'none'; frame-ancestors 'none'\r\n";

/// Answers are about now, and for whoever has the key.
const NOT_KEPT: &[u8] = b"Cache-Control: no-store\r\n";

/// Room for a head, so that it need not grow.
const HEAD_BYTES_USUAL: usize = 640;

/// 304 Not Modified.
const NOT_MODIFIED: u16 = 304;

/// 426 Upgrade Required.
const UPGRADE_REQUIRED: u16 = 426;

/// The beginning of the last head that was made.
static LAST: ArcSwapOption<Beginning> = ArcSwapOption::const_empty();

/// What tiny_http writes for answers of one status in one second, without the length of the body and the empty line.
#[derive(Debug)]
struct Beginning {
    status: u16,
    version: HTTPVersion,
    /// Since 1970, by the clock on the wall.
    second: u64,
    lines: Vec<u8>,
}

impl Beginning {
    /// The one that holds now.
    fn now(status: u16, version: &HTTPVersion) -> io::Result<Arc<Beginning>> {
        let second = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let is_it = |it: &Beginning| (it.second, it.status) == (second, status) && it.version == *version;
        if let Some(last) = LAST.load().as_ref().filter(|last| is_it(last)) {
            return Ok(Arc::clone(last));
        }
        let response = Response::new(StatusCode(status), server(), io::empty(), Some(0), None);
        let mut lines = Vec::with_capacity(HEAD_BYTES_USUAL);
        // `true`: without the body, which goes out beside the head without being copied.
        response.raw_print(&mut lines, version.clone(), &[], true, None)?;
        remove(&mut lines, b"Content-Length: 0\r\n");
        lines.truncate(lines.len().saturating_sub(b"\r\n".len()));
        let beginning = Arc::new(Beginning { status, version: version.clone(), second, lines });
        LAST.store(Some(Arc::clone(&beginning)));
        Ok(beginning)
    }
}

/// Who answers.
fn server() -> Vec<Header> {
    Header::from_bytes("Server", "mcpgate").into_iter().collect()
}

/// What stands before the body of an answer.
///
/// `keep_alive` is whether another request may follow, in a version of HTTP that may need to be told.
pub(super) fn head(answer: &Answer, request_id: &str, version: &HTTPVersion, keep_alive: bool) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(HEAD_BYTES_USUAL);
    head.extend_from_slice(&Beginning::now(answer.status, version)?.lines);
    let mut lines = Lines(&mut head);
    // RFC 9110, 8.6: with that status it would be the length of what the client has already.
    if answer.status != NOT_MODIFIED {
        lines.raw(b"Content-Length: ");
        lines.raw(answer.body_bytes().to_string().as_bytes());
        lines.raw(b"\r\n");
    }
    let says = |name| answer.headers.iter().any(|(it, _)| *it == name);
    if 0 < answer.body_bytes() {
        lines.add("Content-Type", answer.content_type);
    }
    lines.add("X-Request-Id", request_id);
    lines.raw(FOR_BROWSERS);
    if !says("Content-Security-Policy") {
        lines.raw(NO_PAGE);
    }
    if !says("Cache-Control") {
        lines.raw(NOT_KEPT);
    }
    if answer.status == UPGRADE_REQUIRED {
        // RFC 9110, 15.5.22: it must say to what.
        lines.add("Upgrade", "websocket");
    }
    lines.add_all(&answer.headers);
    match (keep_alive, *version == (1, 0)) {
        (true, false) => {}
        (true, true) => lines.add("Connection", "keep-alive"),
        (false, _) => lines.add("Connection", "close"),
    }
    lines.end();
    Ok(head)
}

/// What stands before an event stream. Without chunks, it ends with the connection.
pub(super) fn stream_head(
    request_id: &str,
    extras: &Headers,
    is_chunked: bool,
    keep_alive: bool,
) -> io::Result<Vec<u8>> {
    let response = Response::new(StatusCode(200), server(), io::empty(), None, None);
    let mut head = Vec::with_capacity(HEAD_BYTES_USUAL);
    // As 1.1, since tiny_http would look for the end of the body first to tell a 1.0 client its length.
    response.raw_print(&mut head, HTTPVersion(1, 1), &[], true, None)?;
    if !is_chunked {
        remove(&mut head, b"Transfer-Encoding: chunked\r\n");
    }
    let mut lines = Lines::of(&mut head);
    lines.add("Content-Type", "text/event-stream");
    lines.add("X-Accel-Buffering", "no");
    lines.add("X-Request-Id", request_id);
    lines.raw(FOR_BROWSERS);
    lines.raw(NO_PAGE);
    lines.add_all(extras);
    if !is_chunked || !keep_alive {
        lines.add("Connection", "close");
    }
    lines.end();
    Ok(head)
}

/// What stands before a WebSocket. `accept` is the answer to the client's key.
pub(super) fn upgrade_head(accept: &str, request_id: &str) -> io::Result<Vec<u8>> {
    let response = Response::new(StatusCode(101), server(), io::empty(), None, None);
    let mut head = Vec::with_capacity(HEAD_BYTES_USUAL);
    response.raw_print(&mut head, HTTPVersion(1, 1), &[], true, Some("websocket"))?;
    let mut lines = Lines::of(&mut head);
    lines.add("Sec-WebSocket-Accept", accept);
    lines.add("X-Request-Id", request_id);
    lines.end();
    Ok(head)
}

/// Further lines of a head.
struct Lines<'h>(&'h mut Vec<u8>);

impl Lines<'_> {
    /// Those of a head that is complete: takes the empty line off its end, until [`Lines::end`].
    fn of(head: &mut Vec<u8>) -> Lines<'_> {
        head.truncate(head.len().saturating_sub(b"\r\n".len()));
        Lines(head)
    }

    /// A value with a control character or a letter beyond ASCII would be read as something else, so that line is left out.
    fn add(&mut self, name: &str, value: &str) {
        if value.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            for part in [name.as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                self.0.extend_from_slice(part);
            }
        }
    }

    fn add_all(&mut self, headers: &Headers) {
        headers.iter().for_each(|(name, value)| self.add(name, value));
    }

    fn raw(&mut self, lines: &[u8]) {
        self.0.extend_from_slice(lines);
    }

    fn end(self) {
        self.0.extend_from_slice(b"\r\n");
    }
}

fn remove(head: &mut Vec<u8>, line: &[u8]) {
    if let Some(at) = memchr::memmem::find(head, line) {
        head.drain(at..at + line.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(answer: &Answer, version: HTTPVersion, keep_alive: bool) -> String {
        String::from_utf8(head(answer, "id-1", &version, keep_alive).unwrap()).unwrap()
    }

    #[test]
    fn no_value_ends_its_line() {
        let headers = vec![("Location", "ui\r\nSet-Cookie: a=b".to_owned()), ("Allow", "GET".to_owned())];
        let head = text(&Answer { headers, ..Answer::empty(302) }, HTTPVersion(1, 1), true);
        assert!(!head.contains("Set-Cookie") && head.contains("\r\nAllow: GET\r\n"), "{head}");
    }

    #[test]
    fn one_line_says_who_answers() {
        let version = HTTPVersion(1, 1);
        let heads = [
            head(&Answer::empty(200), "id-1", &version, true),
            stream_head("id-1", &Headers::new(), true, true),
            upgrade_head("accepted", "id-1"),
        ];
        for head in heads.map(|head| String::from_utf8(head.unwrap()).unwrap()) {
            let servers: Vec<_> =
                head.lines().filter(|line| line.to_ascii_lowercase().starts_with("server:")).collect();
            assert_eq!(servers, ["Server: mcpgate"], "{head}");
        }
    }

    #[test]
    fn each_answer_has_its_own_status_version_length_and_the_date_of_now() {
        let long = Answer::text("text/plain", vec![b'a'; 12_345]);
        let cases = [
            (Answer::empty(404), HTTPVersion(1, 1), "HTTP/1.1 404 Not Found", "0"),
            (long, HTTPVersion(1, 1), "HTTP/1.1 200 OK", "12345"),
            (Answer::text("text/plain", "abc"), HTTPVersion(1, 1), "HTTP/1.1 200 OK", "3"),
            (Answer::text("text/plain", "abc"), HTTPVersion(1, 0), "HTTP/1.0 200 OK", "3"),
        ];
        for (answer, version, status, length) in cases {
            let head = text(&answer, version, true);
            assert!(head.starts_with(&format!("{status}\r\n")), "{head}");
            assert_eq!(head.matches(&format!("\r\nContent-Length: {length}\r\n")).count(), 1, "{head}");
            assert_eq!(head.matches("Content-Length").count(), 1, "{head}");
            assert_eq!(head.matches("\r\nDate: ").count(), 1, "{head}");
        }
        let kept = Beginning::now(204, &HTTPVersion(1, 1)).unwrap();
        let (status, version, second) = (kept.status, kept.version.clone(), kept.second - 1);
        LAST.store(Some(Arc::new(Beginning { status, version, second, lines: b"old".to_vec() })));
        assert!(!text(&Answer::empty(204), HTTPVersion(1, 1), true).contains("old"));
    }

    #[test]
    fn a_head_says_what_follows_and_what_becomes_of_the_connection() {
        let answer = Answer { headers: vec![("Retry-After", "1".to_owned())], ..Answer::json(&vec![0; 20_000]) };
        let head = text(&answer, HTTPVersion(1, 1), true);
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
        for line in [
            "Cache-Control: no-store",
            "X-Content-Type-Options: nosniff",
            "Server: mcpgate",
            "X-Request-Id: id-1",
            "Content-Length: 40001",
            "Retry-After: 1",
        ] {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "{line} in {head}");
        }
        assert!(!head.contains("Connection") && !head.contains("Transfer-Encoding"), "{head}");
        assert!(text(&answer, HTTPVersion(1, 1), false).ends_with("\r\nConnection: close\r\n\r\n"));
        let old = text(&answer, HTTPVersion(1, 0), true);
        assert!(old.starts_with("HTTP/1.0 200 OK\r\n") && old.ends_with("\r\nConnection: keep-alive\r\n\r\n"), "{old}");
        let empty = text(&Answer::empty(204), HTTPVersion(1, 1), true);
        assert!(!empty.contains("\r\nContent-Type"), "{empty}");
        let stream = String::from_utf8(stream_head("id-1", &Headers::new(), true, true).unwrap()).unwrap();
        assert!(stream.contains("\r\nX-Content-Type-Options: nosniff\r\n"), "{stream}");
        let unchanged = text(&Answer::empty(304), HTTPVersion(1, 1), true);
        assert!(!unchanged.contains("Content-Length"), "{unchanged}");
    }
}
