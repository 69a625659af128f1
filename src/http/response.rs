//! Puts an answer into bytes.
//!
//! tiny_http writes status line and headers; it has no way to say `Connection`, so that header is put in behind the
//! status line.

use std::io;

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

/// 304 Not Modified.
const NOT_MODIFIED: u16 = 304;

/// 426 Upgrade Required.
const UPGRADE_REQUIRED: u16 = 426;

/// What stands before the body of an answer.
///
/// `keep_alive` is whether another request may follow, in a version of HTTP that may need to be told.
pub(super) fn head(answer: &Answer, request_id: &str, version: &HTTPVersion, keep_alive: bool) -> io::Result<Vec<u8>> {
    let mut response = Response::new(StatusCode(answer.status), Vec::new(), io::empty(), Some(answer.body.len()), None)
        // The length is known, so nothing is ever chunked here.
        .with_chunked_threshold(usize::MAX);
    let mut add = |name: &str, value: &str| {
        // Only a value that is not ASCII fails, and of such only a request id could come from outside: it is checked.
        if let Ok(header) = Header::from_bytes(name, value) {
            response.add_header(header);
        }
    };
    add("Server", "mcpgate");
    if !answer.body.is_empty() {
        add("Content-Type", answer.content_type);
    }
    add("X-Request-Id", request_id);
    for (name, value) in &answer.headers {
        add(name, value);
    }
    let mut head = Vec::with_capacity(512);
    // `true`: without the body, which goes out beside the head without being copied.
    response.raw_print(&mut head, version.clone(), &[], true, None)?;
    insert_behind_status(&mut head, FOR_BROWSERS);
    let says = |name| answer.headers.iter().any(|(it, _)| *it == name);
    if !says("Content-Security-Policy") {
        insert_behind_status(&mut head, NO_PAGE);
    }
    if !says("Cache-Control") {
        insert_behind_status(&mut head, NOT_KEPT);
    }
    if answer.status == NOT_MODIFIED {
        // RFC 9110, 8.6: it would be the length of what the client has already.
        remove(&mut head, b"Content-Length: 0\r\n");
    }
    if answer.status == UPGRADE_REQUIRED {
        // RFC 9110, 15.5.22: it must say to what. tiny_http takes no such header.
        insert_behind_status(&mut head, b"Upgrade: websocket\r\n");
    }
    let connection = match (keep_alive, *version == (1, 0)) {
        (true, false) => return Ok(head),
        (true, true) => &b"Connection: keep-alive\r\n"[..],
        (false, _) => &b"Connection: close\r\n"[..],
    };
    insert_behind_status(&mut head, connection);
    Ok(head)
}

/// What stands before an event stream. Without chunks, it ends with the connection.
pub(super) fn stream_head(
    request_id: &str,
    extras: &Headers,
    is_chunked: bool,
    keep_alive: bool,
) -> io::Result<Vec<u8>> {
    let mut response = Response::new(StatusCode(200), Vec::new(), io::empty(), None, None);
    for (name, value) in [
        ("Server", "mcpgate"),
        ("Content-Type", "text/event-stream"),
        ("X-Accel-Buffering", "no"),
        ("X-Request-Id", request_id),
    ]
    .into_iter()
    .chain(extras.iter().map(|(name, value)| (*name, value.as_str())))
    {
        if let Ok(header) = Header::from_bytes(name, value) {
            response.add_header(header);
        }
    }
    let mut head = Vec::with_capacity(512);
    // As 1.1, since tiny_http would look for the end of the body first to tell a 1.0 client its length.
    response.raw_print(&mut head, HTTPVersion(1, 1), &[], true, None)?;
    insert_behind_status(&mut head, FOR_BROWSERS);
    insert_behind_status(&mut head, NO_PAGE);
    if !is_chunked {
        remove(&mut head, b"Transfer-Encoding: chunked\r\n");
    }
    if !is_chunked || !keep_alive {
        insert_behind_status(&mut head, b"Connection: close\r\n");
    }
    Ok(head)
}

/// What stands before a WebSocket. `accept` is the answer to the client's key.
pub(super) fn upgrade_head(accept: &str, request_id: &str) -> io::Result<Vec<u8>> {
    let mut response = Response::new(StatusCode(101), Vec::new(), io::empty(), None, None);
    for (name, value) in [("Server", "mcpgate"), ("Sec-WebSocket-Accept", accept), ("X-Request-Id", request_id)] {
        if let Ok(header) = Header::from_bytes(name, value) {
            response.add_header(header);
        }
    }
    let mut head = Vec::with_capacity(512);
    response.raw_print(&mut head, HTTPVersion(1, 1), &[], true, Some("websocket"))?;
    Ok(head)
}

fn remove(head: &mut Vec<u8>, line: &[u8]) {
    if let Some(at) = memchr::memmem::find(head, line) {
        head.drain(at..at + line.len());
    }
}

fn insert_behind_status(head: &mut Vec<u8>, line: &[u8]) {
    let behind_status = memchr::memchr(b'\n', head).map_or(head.len(), |at| at + 1);
    head.splice(behind_status..behind_status, line.iter().copied());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(answer: &Answer, version: HTTPVersion, keep_alive: bool) -> String {
        String::from_utf8(head(answer, "id-1", &version, keep_alive).unwrap()).unwrap()
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
        assert!(text(&answer, HTTPVersion(1, 1), false).starts_with("HTTP/1.1 200 OK\r\nConnection: close\r\n"));
        assert!(text(&answer, HTTPVersion(1, 0), true).starts_with("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n"));
        let empty = text(&Answer::empty(204), HTTPVersion(1, 1), true);
        assert!(!empty.contains("\r\nContent-Type"), "{empty}");
        let stream = String::from_utf8(stream_head("id-1", &Headers::new(), true, true).unwrap()).unwrap();
        assert!(stream.contains("\r\nX-Content-Type-Options: nosniff\r\n"), "{stream}");
        let unchanged = text(&Answer::empty(304), HTTPVersion(1, 1), true);
        assert!(!unchanged.contains("Content-Length"), "{unchanged}");
    }
}
