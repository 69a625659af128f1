//! Puts an answer into bytes.
//!
//! tiny_http writes status line and headers; it has no way to say `Connection`, so that header is put in behind the
//! status line.

use std::io;

use tiny_http::{HTTPVersion, Header, Response, StatusCode};

use crate::api::Answer;

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
        add("Content-Type", "application/json");
    }
    add("X-Request-Id", request_id);
    for (name, value) in &answer.headers {
        add(name, value);
    }
    let mut head = Vec::with_capacity(256);
    // `true`: without the body, which goes out beside the head without being copied.
    response.raw_print(&mut head, version.clone(), &[], true, None)?;
    let connection = match (keep_alive, *version == (1, 0)) {
        (true, false) => return Ok(head),
        (true, true) => &b"Connection: keep-alive\r\n"[..],
        (false, _) => &b"Connection: close\r\n"[..],
    };
    let behind_status = memchr::memchr(b'\n', &head).map_or(head.len(), |at| at + 1);
    head.splice(behind_status..behind_status, connection.iter().copied());
    Ok(head)
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
        for line in ["Server: mcpgate", "X-Request-Id: id-1", "Content-Length: 40001", "Retry-After: 1"] {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "{line} in {head}");
        }
        assert!(!head.contains("Connection") && !head.contains("Transfer-Encoding"), "{head}");
        assert!(text(&answer, HTTPVersion(1, 1), false).starts_with("HTTP/1.1 200 OK\r\nConnection: close\r\n"));
        assert!(text(&answer, HTTPVersion(1, 0), true).starts_with("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n"));
        let empty = text(&Answer::empty(204), HTTPVersion(1, 1), true);
        assert!(!empty.contains("Content-Type"), "{empty}");
    }
}
