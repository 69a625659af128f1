//! What must hold whatever the bytes are, one function for each place where bytes of others are read.
//!
//! A function takes any bytes and panics when something does not hold that `Err` or silence cannot excuse: bytes that come
//! one by one mean the same as all at once, limits are kept, what was taken can be written and read again. Two callers feed
//! them: the targets of `fuzz/`, for hours, and the tests below this module, for a second, with the seeds of `fuzz/seeds`.
//! They are no part of the program.

#![allow(clippy::unwrap_used, reason = "what does not hold is to be a panic")]

use std::path::Path;

use serde_json::value::RawValue;

use crate::{
    access::keyfile::KeyFile,
    api::{self, routes},
    config::{Config, file, is_plain_name, mcp_servers},
    http::{
        chunked::{Decoder, Malformed},
        head::{self, Framing, HEADERS_MAX, Head},
    },
    mcp::{
        content::ToolResult,
        envelope::Envelope,
        id_scanner::IdScanner,
        incoming::{self, Failure, Incoming, Parcel},
        message::{self, Message, Meta, Progress, Request},
        raw::{self, Fields},
        skim,
    },
    worker,
};

#[cfg(test)]
mod tests;

/// A function of this module under its name, which is also that of its target and of its folder of seeds.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("request_head", request_head),
    ("chunked_body", chunked_body),
    ("websocket_frames", websocket_frames),
    ("websocket_message", websocket_message),
    ("worker_lines", worker_lines),
    ("worker_message", worker_message),
    ("id_scanner", id_scanner),
    ("client_message", client_message),
    ("event_id", event_id),
    ("gateway_conf", gateway_conf),
    ("servers_file", servers_file),
    ("key_file", key_file),
];

/// Small, so that a fuzzer finds it.
const HEAD_BYTES_MAX: usize = 1024;

/// The head of a request (`http/head.rs`), and the map of paths (`api/routes.rs`).
pub fn request_head(bytes: &[u8]) {
    let whole = head::find_end(bytes, 0, HEAD_BYTES_MAX);
    let in_pieces = (1..=bytes.len()).find_map(|n| match head::find_end(&bytes[..n], n - 1, HEAD_BYTES_MAX) {
        Ok(None) => None,
        Ok(Some(end)) => Some(Ok((n, end))),
        Err(error) => Some(Err(error)),
    });
    let end = match (whole, in_pieces) {
        (Ok(None), None) | (Err(_), Some(Err(_))) => return,
        (Ok(Some(end)), Some(Ok((n, same_end)))) => {
            assert_eq!((end, end), (same_end, n), "the end is seen as soon as it is there");
            end
        }
        (whole, in_pieces) => panic!("at once {whole:?}, byte by byte {in_pieces:?}"),
    };
    assert!(end <= HEAD_BYTES_MAX);
    let bytes = &bytes[..end];
    assert!((0..end).all(|n| Head::parse(&bytes[..n]).is_err()), "a part of a head is no head");
    let Ok(head) = Head::parse(bytes) else { return };

    // Read once more, by the simplest means there are.
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.strip_suffix("\r\n\r\n").unwrap().trim_start_matches("\r\n").split("\r\n");
    let request_line: Vec<&str> = lines.next().unwrap().split(' ').collect();
    let headers: Vec<(&str, &str)> = lines.map(|line| line.split_once(':').unwrap()).collect();
    assert!(headers.len() <= HEADERS_MAX);
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
    let is_value = |value: &str| value.chars().all(|letter| !letter.is_ascii_control() || letter == '\t');
    assert!(headers.iter().all(|(name, value)| is_name(name) && is_value(value)), "{headers:?}");
    let [method, target, version] = request_line[..] else { panic!("{request_line:?}") };
    assert_eq!((method, version), (head.method.as_str(), &*format!("HTTP/{}", head.version)));
    assert!(target.bytes().all(|byte| !byte.is_ascii_control()));
    let all = |wanted: &str| {
        let values = headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        values.map(|(_, value)| value.trim_matches([' ', '\t'])).collect::<Vec<_>>()
    };
    let (lengths, codings, hosts) = (all("Content-Length"), all("Transfer-Encoding"), all("Host"));
    match head.framing {
        Framing::None => assert!(codings.is_empty() && lengths.iter().all(|it| it.parse::<u64>() == Ok(0))),
        Framing::Length(n) => {
            assert!(0 < n && codings.is_empty() && !lengths.is_empty());
            assert!(lengths.iter().all(|it| it.parse() == Ok(n) && !it.starts_with('+')));
        }
        Framing::Chunked => {
            assert!(lengths.is_empty() && codings.len() == 1 && codings[0].eq_ignore_ascii_case("chunked"));
            assert!(head.version == (1, 1));
        }
    }
    assert!(hosts.len() == 1 || (hosts.is_empty() && head.version == (1, 0)));
    for (name, _) in &headers {
        let value = head.header_bytes(bytes, name).map(String::from_utf8_lossy);
        assert_eq!(value.as_deref(), all(name).first().copied());
    }
    let path = head.path(bytes);
    assert!(path.is_empty() || path == "*" || path.starts_with('/'), "{path}");
    assert!(!path.contains(['?', '#', ' ']) && !head.query(bytes).unwrap_or_default().contains(['#', ' ']));
    // It only must not panic.
    let _ = routes::find(path);
}

/// A body in chunks (`http/chunked.rs`).
pub fn chunked_body(bytes: &[u8]) {
    let feed = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let (mut decoder, mut body, mut n_taken) = (Decoder::default(), Vec::new(), 0);
        for piece in pieces {
            let n = decoder.feed(piece, &mut body)?;
            assert!(n == piece.len() || decoder.is_done());
            n_taken += n;
            if decoder.is_done() {
                break;
            }
        }
        Ok((decoder.is_done(), decoder.left(), body, n_taken))
    };
    let whole: Result<_, Malformed> = feed(&mut std::iter::once(bytes));
    assert_eq!(whole, feed(&mut bytes.chunks(1)), "at once and byte by byte");
    let Ok((is_done, left, body, n_taken)) = whole else { return };
    assert!(body.len() <= n_taken && n_taken <= bytes.len());
    if is_done {
        assert_eq!(left, 0);
        assert!(bytes[..n_taken].ends_with(b"\r\n"));
        assert!(bytes[..n_taken].windows(2).all(|pair| pair[1] != b'\n' || pair[0] == b'\r' || body.contains(&b'\n')));
        let again = [format!("{:x}\r\n", body.len()).as_bytes(), &body, b"\r\n0\r\n\r\n"].concat();
        let again = if body.is_empty() { &b"0\r\n\r\n"[..] } else { &again };
        let (is_done, _, same, _) = feed(&mut std::iter::once(again)).unwrap();
        assert!(is_done && same == body);
    }
}

/// What a client sends on an upgraded connection (`api/ws.rs` over tungstenite).
pub fn websocket_frames(bytes: &[u8]) {
    api::socket_fuzzing::frames(bytes);
}

/// One text message on a WebSocket.
pub fn websocket_message(bytes: &[u8]) {
    api::socket_fuzzing::message(bytes);
}

/// What a child writes to its stdout, through pipe, reader and link (`worker`).
pub fn worker_lines(bytes: &[u8]) {
    worker::fuzzing::lines(bytes);
}

/// One line of a child (`mcp/message.rs`), and what is made of its parts.
pub fn worker_message(line: &[u8]) {
    let line = match memchr::memchr(b'\n', line) {
        Some(end) => &line[..end],
        None => line,
    };
    envelope(line);
    let Ok(message) = Message::parse(line) else { return };
    match message {
        Message::Response { id, outcome } => {
            let raw = outcome.as_ref().map_or_else(|error| error.data, |raw| Some(*raw));
            raw.into_iter().for_each(look_into);
            // Text in fields that nobody reads need not be UTF-8.
            if let Ok(raw) = serde_json::from_slice(line) {
                assert_eq!(raw::field(raw, "id").unwrap().get(), id.to_string());
            }
        }
        Message::Request { id, method, params } => {
            let mut lines = Vec::new();
            message::push_result(&mut lines, id, params.map_or("{}", RawValue::get));
            message::push_error(&mut lines, id, incoming::METHOD_NOT_FOUND, &method);
            message::push_raw_error(&mut lines, id, params.map_or("{}", RawValue::get));
            let lines = split_lines(&lines);
            assert_eq!(lines.len(), 3);
            for line in &lines {
                assert_eq!(raw::field(json(line), "id").unwrap().get(), id.get());
            }
            params.into_iter().for_each(look_into);
        }
        Message::Notification { params, .. } => params.into_iter().for_each(look_into),
        Message::Unusable(_) => {}
    }
}

/// What is taken for JSON at a glance is JSON, and its fields are those that serde finds (`mcp/envelope.rs`).
fn envelope(line: &[u8]) {
    let Some(found) = std::str::from_utf8(line).ok().and_then(Envelope::read) else { return };
    let Envelope { id, method, params, result, error } = found;
    let raws = Fields::read(json(line)).unwrap();
    for (name, value) in [("id", id), ("params", params), ("result", result), ("error", error)] {
        assert_eq!(raws.get(name).map(RawValue::get).filter(|it| *it != "null"), value);
    }
    assert_eq!(raws.get("method").and_then(raw::string).as_deref(), method);
}

/// Everything that is read from, or changed in, JSON that passes through.
fn look_into(raw: &RawValue) {
    skim_through(raw, 8);
    let _ = Progress::read(raw);
    let parts = [message::chunk_fields(raw), message::progress_fields(raw), message::log_fields(raw)];
    for part in parts.into_iter().flatten() {
        assert!(Fields::read(json(part.as_bytes())).is_some());
    }
    let Some(fields) = Fields::read(raw) else {
        assert!(is_no_object(raw));
        return assert_eq!(raw::with_string(raw, "k", "v").get(), raw.get());
    };
    let (with, without) = (raw::with_string(raw, "k\"", "v\""), raw::without(raw, "k"));
    let (with, without) = (Fields::read(&with).unwrap(), Fields::read(&without).unwrap());
    assert_eq!(with.get("k\"").unwrap().get(), r#""v\"""#);
    assert!(without.get("k").is_none());
    for (name, _) in fields.iter().filter(|(name, _)| *name != "k" && *name != "k\"") {
        let of = |fields: &Fields<'_>| fields.get(name).unwrap().get().to_owned();
        assert_eq!((of(&with), of(&without)), (of(&fields), of(&fields)));
    }
}

/// What is found without reading it once more is what serde finds (`mcp/skim.rs`), and what a result comes down to is JSON.
fn skim_through(raw: &RawValue, depth: usize) {
    let is_object = raw.get().starts_with('{');
    let found: Option<Vec<_>> = skim::fields(raw.get()).map(Iterator::collect);
    assert_eq!(found.is_some(), is_object);
    if let (Some(found), Some(fields)) = (&found, Fields::read(raw)) {
        let found: Vec<_> = found.iter().map(|(name, value)| (skim::text(name).unwrap(), *value)).collect();
        let fields: Vec<_> = fields.iter().map(|(name, value)| (name.into(), value.get())).collect();
        assert_eq!(found, fields);
    }
    let items: Option<Vec<_>> = skim::items(raw.get()).map(Iterator::collect);
    let serde_items: Option<Vec<&RawValue>> = serde_json::from_str(raw.get()).ok();
    assert_eq!(items, serde_items.map(|items| items.into_iter().map(RawValue::get).collect()));
    assert_eq!(skim::text(raw.get()).as_deref(), serde_json::from_str::<String>(raw.get()).ok().as_deref());
    if let Ok(result) = ToolResult::read(raw) {
        json(result.content.as_bytes());
        let mut data = String::new();
        result.data(|part| data.push_str(&part));
        json(data.as_bytes());
        result.items().into_iter().flatten().for_each(|item| assert!(!json(item.as_bytes()).get().is_empty()));
    }
    let (is_string, text) = (raw.get().starts_with('"'), serde_json::from_str::<String>(raw.get()));
    if is_string {
        // Any string as the text of a result: what comes out says the same as what went in.
        let result = format!(r#"{{"content":[{{"type":"text","text":{raw}}}]}}"#);
        let result = serde_json::from_str(&result).unwrap();
        let mut data = String::new();
        ToolResult::read(result).unwrap().data(|part| data.push_str(&part));
        match (text, json(data.as_bytes())) {
            (Ok(text), data) if data.get().starts_with('"') => {
                assert_eq!(data.get(), serde_json::to_string(&text).unwrap());
            }
            (Ok(text), data) => assert_eq!(data.get(), text.trim_ascii()),
            (Err(_), data) => assert!(data.get().starts_with('{')),
        }
    }
    let inner = found.into_iter().flatten().map(|(_, value)| value).chain(items.into_iter().flatten());
    if 0 < depth {
        inner.for_each(|inner| skim_through(json(inner.as_bytes()), depth - 1));
    }
}

/// The id of a line that is too long to be kept (`mcp/id_scanner.rs`).
pub fn id_scanner(bytes: &[u8]) {
    let scan = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut scanner = IdScanner::default();
        pieces.for_each(|piece| scanner.feed(piece));
        scanner.id()
    };
    let id = scan(&mut std::iter::once(bytes));
    assert_eq!(id, scan(&mut bytes.chunks(1)), "at once and byte by byte");
    let Ok(raw) = serde_json::from_slice::<&RawValue>(bytes) else { return };
    let Some(fields) = Fields::read(raw) else { return assert!(is_no_object(raw)) };
    // A name with escapes in it is not looked for: nobody writes `id` like that.
    let names = raw.get().to_ascii_lowercase();
    let is_plain = fields.repeated().is_none() && !names.contains("\\u0069") && !names.contains("\\u0064");
    if is_plain {
        assert_eq!(id, fields.get("id").and_then(|id| id.get().parse().ok()), "as serde reads it");
    }
}

/// What a client of `/mcp` sends (`mcp/incoming.rs`), and the line that a server gets of it.
pub fn client_message(body: &[u8]) {
    let parcel = match Parcel::read(body) {
        Ok(parcel) => parcel,
        Err(unreadable) => {
            assert!(matches!(unreadable.code, incoming::PARSE_ERROR | incoming::INVALID_REQUEST));
            let failure = Failure::new(unreadable.code, unreadable.what);
            json(incoming::error(unreadable.id.as_deref(), &failure).as_bytes());
            return;
        }
    };
    assert!(0 < parcel.messages().count());
    assert!(parcel.is_batch || parcel.messages().count() == 1);
    for message in parcel.messages() {
        match message {
            Incoming::Request { id, method, params } => {
                let answer = incoming::result(id.get(), "{}");
                assert!(is_id(raw::field(json(answer.as_bytes()), "id").unwrap()));
                for meta in [Meta::Keep, Meta::Legacy, Meta::Put(r#""k":1"#)] {
                    passed(method, params, meta);
                }
            }
            Incoming::Notification { method, params } => {
                let text = incoming::notification(method, params.map(RawValue::get));
                assert_eq!(raw::text(json(text.as_bytes()), "method").unwrap(), method);
            }
            Incoming::Response { id, .. } => assert!(is_id(id)),
        }
    }
}

/// A request that is passed on is one line, with an id of ours, and all parameters that the client gave.
fn passed(method: &str, params: Option<&RawValue>, meta: Meta<'_>) {
    let (request, token) = Request::passed(method, params, meta, false, None);
    let mut bytes = Vec::new();
    request.write_to(7, &mut bytes);
    let [line] = split_lines(&bytes)[..] else { panic!("{}", String::from_utf8_lossy(&bytes)) };
    let Ok(Message::Request { id, method: same_method, params: Some(passed) }) = Message::parse(line) else {
        panic!("{}", String::from_utf8_lossy(line));
    };
    assert_eq!((id.get(), &*same_method), ("7", method));
    let passed = Fields::read(passed).unwrap();
    let given = params.map(|params| Fields::read(params).unwrap()).unwrap_or_default();
    for (name, value) in given.iter().filter(|(name, _)| *name != message::META) {
        // White space may have gone, where there were line breaks.
        let dense = |raw: &RawValue| raw.get().split_ascii_whitespace().collect::<String>();
        assert_eq!(passed.get(name).map(dense), Some(dense(value)));
    }
    let our_token = passed.get(message::META).and_then(|meta| raw::field(meta, message::PROGRESS_TOKEN));
    assert_eq!(token.is_some(), our_token.is_some_and(|token| token.get() == "7"));
}

/// Text that must be JSON, whatever its numbers and however deep it is.
fn json(text: &[u8]) -> &RawValue {
    serde_json::from_slice(text).unwrap_or_else(|cause| panic!("{cause}: {}", String::from_utf8_lossy(text)))
}

fn is_id(raw: &RawValue) -> bool {
    raw.get().starts_with(|first: char| first == '"' || first == '-' || first.is_ascii_digit())
}

/// Whether something is another kind of JSON, or has names that are no text (`"\ud800"`), which nothing is read from.
fn is_no_object(raw: &RawValue) -> bool {
    !raw.get().starts_with('{') || raw.get().contains("\\u")
}

/// `Last-Event-ID` (`api/mcp/streams.rs`).
pub fn event_id(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        api::mcp::fuzzing::event_id(text);
    }
}

/// `gateway.conf` (`config/file.rs`), and every value in it (`config/settings.rs`).
pub fn gateway_conf(bytes: &[u8]) {
    let Ok(lines) = file::parse(bytes, "gateway.conf") else { return };
    let mut config = Config::default();
    let mut again = String::new();
    for line in &lines {
        // A value that does not fit is an error, and no panic.
        let _ = (line.setting.set)(&mut config, &line.value);
        assert!(!line.value.contains(['\n', '\r', '\0']));
        let escaped = line.value.replace(['\\', '"', '$', '`'], "");
        let value = if line.value.contains('\'') { format!("\"{escaped}\"") } else { format!("'{}'", line.value) };
        again += &format!("{}={value}\n", line.setting.key);
    }
    let same = file::parse(again.as_bytes(), "gateway.conf").unwrap();
    assert_eq!(same.len(), lines.len());
    for (one, other) in lines.iter().zip(&same).filter(|(one, _)| !one.value.contains('\'')) {
        assert_eq!((one.setting.key, &one.value), (other.setting.key, &other.value));
    }
    let line_ends = memchr::memchr_iter(b'\n', bytes);
    for end in line_ends.take(16) {
        let first = file::parse(&bytes[..end], "gateway.conf").unwrap();
        assert!(first.iter().zip(&lines).all(|(one, other)| one.value == other.value));
    }
}

/// An `mcpServers` file (`config/mcp_servers.rs`).
pub fn servers_file(bytes: &[u8]) {
    let Ok((servers, _)) = mcp_servers::parse(bytes, "mcp.json", Path::new("/"), &Config::default()) else { return };
    assert!(!servers.is_empty());
    for (index, server) in servers.iter().enumerate() {
        assert!(is_plain_name(&server.name));
        assert!(servers[..index].iter().all(|other| other.name != server.name));
        assert!(0 < server.min_workers && server.min_workers <= server.max_workers && server.max_workers <= 1024);
    }
}

/// A file of keys (`access/keyfile.rs`).
pub fn key_file(bytes: &[u8]) {
    let Ok(file) = KeyFile::parse(bytes, "keys.json") else { return };
    for (index, entry) in file.keys.iter().enumerate() {
        assert!(is_plain_name(&entry.name));
        assert!(file.keys[..index].iter().all(|other| other.name != entry.name));
    }
    // Times are written to the second.
    let written = serde_json::to_vec(&file).unwrap();
    let again = KeyFile::parse(&written, "keys.json").unwrap();
    assert_eq!(serde_json::to_vec(&again).unwrap(), written);
}

/// The lines of a text that ends with a line end.
fn split_lines(bytes: &[u8]) -> Vec<&[u8]> {
    let text = bytes.strip_suffix(b"\n").expect("the last line has an end");
    text.split(|byte| *byte == b'\n').collect()
}
