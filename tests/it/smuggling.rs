//! Requests that two programs on one way could read differently (RFC 9112, 11): each is refused, or read in the one way that
//! the RFC leaves, and what is hidden in it is never answered as a request of its own.

use std::io;

use crate::support::{Connection, Gateway, Helper};

/// The bytes of a row are followed by this request, which is answered only where the connection goes on.
const NEXT: &str = "GET /health/live HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: next\r\nConnection: close\r\n\r\n";

/// A call up to its framing.
const POST: &str = "POST /tools/echo HTTP/1.1\r\nHost: localhost\r\nX-API-Key: super-secret\r\n";

/// What must not be answered (with 404) when it stands in a body.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: localhost\r\n\r\n";

const GET: &str = "GET /health/live HTTP/1.1\r\n";

/// What a row comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// The connection is closed.
    Close,
    /// The next request is answered.
    Next,
}

/// The statuses of the answers to `bytes`, and whether the request behind them was answered too.
fn answers(gateway: &Gateway, bytes: &[u8]) -> io::Result<(Vec<u16>, Then)> {
    let mut connection: Connection = gateway.connect();
    // The gateway may answer and close before it has seen all of it.
    let _ = connection.send_raw([bytes, NEXT.as_bytes()].concat());
    let mut statuses = Vec::new();
    loop {
        match connection.receive(false) {
            Ok(answer) if answer.header("X-Request-Id") == Some("next") => {
                let rest = connection.rest()?;
                assert!(rest.is_empty(), "behind the last answer: {}", String::from_utf8_lossy(&rest));
                return Ok((statuses, Then::Next));
            }
            Ok(answer) => statuses.push(answer.status),
            Err(cause) if matches!(cause.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
                return Ok((statuses, Then::Close));
            }
            Err(cause) => return Err(cause),
        }
    }
}

/// Every row gets these answers, and afterwards the gateway still serves.
#[track_caller]
fn check(rows: &[(String, &[u16], Then)]) {
    let gateway = Gateway::start(&[], Helper::new());
    let mut wrong = Vec::new();
    for (bytes, statuses, then) in rows {
        match answers(&gateway, bytes.as_bytes()) {
            Ok(got) if got == (statuses.to_vec(), *then) => {}
            got => wrong.push(format!("{bytes:?}\n  expected {statuses:?} {then:?}, got {got:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), gateway.log());
    gateway.call("echo", "{}").expect_status(200);
}

fn refused(bytes: impl Into<String>) -> (String, &'static [u16], Then) {
    (bytes.into(), &[400], Then::Close)
}

fn answered(status: &'static [u16], bytes: impl Into<String>) -> (String, &'static [u16], Then) {
    (bytes.into(), status, Then::Next)
}

#[test]
fn what_is_not_a_request_of_http_1_is_refused() {
    check(&[
        refused("hello\r\n\r\n"),
        refused("\u{16}\u{3}\u{1}\0\r\n\r\n"),
        // HTTP/0.9, and what came after 1.1.
        refused("GET /\r\n\r\n"),
        refused("GET / HTTP/0.9\r\n\r\n"),
        refused("GET / HTTP/2.0\r\nHost: localhost\r\n\r\n"),
        refused("GET / HTTP/1.2\r\nHost: localhost\r\n\r\n"),
        refused("GET / HTTP/01.1\r\nHost: localhost\r\n\r\n"),
        refused("GET / http/1.1\r\nHost: localhost\r\n\r\n"),
        refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        // The request line.
        refused("GET  /health HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        refused("GET /health  HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        refused("GET\t/health\tHTTP/1.1\r\nHost: localhost\r\n\r\n"),
        refused("GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        refused("GET /health HTTP/1.1 \r\nHost: localhost\r\n\r\n"),
        refused(" GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        refused("G(T /health HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        refused("GET /hea\0lth HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        // An empty line before a request is passed over (RFC 9112, 2.2), two are the end of a head.
        answered(&[200], format!("\r\n{GET}Host: localhost\r\n\r\n")),
        refused(format!("\r\n\r\n{GET}Host: localhost\r\n\r\n")),
    ]);
}

#[test]
fn a_target_and_a_host_that_leave_no_doubt_are_asked_for() {
    let get = |target: &str, headers: &str| format!("GET {target} HTTP/1.1\r\n{headers}\r\n");
    check(&[
        refused(get("/health", "")),
        refused(get("/health", "Host: localhost\r\nHost: localhost\r\n")),
        refused(get("/health", "Host: localhost\r\nHost: other\r\n")),
        refused(get("/health", "Host: local host\r\n")),
        refused(get("/health", "Host: localhost/x\r\n")),
        refused(get("/health", "Host: user@localhost\r\n")),
        refused(get("/health", "Host: localhost\\\r\n")),
        refused(get("/health", "Host: localhost#\r\n")),
        refused(get("health", "Host: localhost\r\n")),
        refused(get("*", "Host: localhost\r\n")),
        // Absolute form: the host in it and the header must be one.
        answered(&[200], get("http://localhost/health/live", "Host: LOCALHOST\r\n")),
        refused(get("http://localhost/health", "Host: other\r\n")),
        refused(get("http://other/health", "Host: localhost\r\n")),
        refused(get("http://localhost:80/health", "Host: localhost\r\n")),
        refused(get("http://other@localhost/health", "Host: localhost\r\n")),
        refused(get("http:///health", "Host: localhost\r\n")),
        refused(get("ftp://localhost/health", "Host: localhost\r\n")),
        // Authority form, which is for proxies.
        refused("CONNECT localhost:80 HTTP/1.1\r\nHost: localhost:80\r\n\r\n"),
        refused(get("localhost:80", "Host: localhost:80\r\n")),
    ]);
}

#[test]
fn a_header_is_a_name_a_colon_and_text_on_one_line() {
    let get = |line: &str| format!("{GET}Host: localhost\r\n{line}\r\n\r\n");
    let mut rows = vec![
        refused(format!("{GET}Host : localhost\r\n\r\n")),
        refused(get("X-A : b")),
        refused(get("X-A\t: b")),
        refused(get(": b")),
        refused(get("X-A")),
        refused(get("X A: b")),
        refused(get("X-A: b\r\n folded")),
        refused(get("X-A: b\r\n\tfolded")),
        refused(format!("{GET} Host: localhost\r\n\r\n")),
        // Line ends.
        refused("GET / HTTP/1.1\nHost: localhost\n\n"),
        refused(get("X-A: b\nX-C: d")),
        refused(get("X-A: b\rX-C: d")),
        refused(get("X-A: b\r\r\nX-C: d")),
        refused(format!("{GET}Host: localhost\r\n\n")),
        refused(format!("{GET}Host: localhost\n\r\n")),
        answered(&[200], get("X-A:\tb\tc ")),
        answered(&[200], get("X-A:")),
    ];
    for control in (0..0x20).chain([0x7f]).filter(|byte| ![b'\t', b'\n', b'\r'].contains(byte)) {
        let control = char::from(control);
        rows.push(refused(get(&format!("X-A: b{control}c"))));
        rows.push(refused(get(&format!("X-A{control}: b"))));
    }
    for letter in "()<>@,;\\\"/[]?={}".chars() {
        rows.push(refused(get(&format!("X-A{letter}B: b"))));
    }
    check(&rows);
}

#[test]
fn a_body_has_one_length() {
    let post = |headers: &str, body: &str| format!("{POST}{headers}\r\n\r\n{body}");
    let n = HIDDEN.len();
    let mut rows = vec![
        answered(&[200], post("Content-Length: 2", "{}")),
        answered(&[200], post("Content-Length: 2\r\nContent-Length: 2", "{}")),
        answered(&[200], post("Content-Length: 0000000000000000000000002", "{}")),
        answered(&[200], post("Content-Length: 0", "")),
        // A request in a body is a body.
        answered(&[400], post(&format!("Content-Length: {n}"), HIDDEN)),
        answered(&[400], post("Transfer-Encoding: chunked", &format!("{n:x}\r\n{HIDDEN}\r\n0\r\n\r\n"))),
        answered(&[200], format!("{GET}Host: localhost\r\nContent-Length: {n}\r\n\r\n{HIDDEN}")),
        answered(
            &[200],
            format!("{GET}Host: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{n:x}\r\n{HIDDEN}\r\n0\r\n\r\n"),
        ),
        // Without a framing there is no body, so what follows is a request (RFC 9112, 6.3).
        answered(&[200, 404], format!("{GET}Host: localhost\r\n\r\n{HIDDEN}")),
        // Also where the request is refused before its body is read, nothing of that is taken for a request.
        (
            format!("POST /tools/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: {n}\r\n\r\n{HIDDEN}"),
            &[401],
            Then::Close,
        ),
        (
            format!("POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: {n}\r\n\r\n{HIDDEN}"),
            &[404],
            Then::Close,
        ),
        // CL.TE and TE.CL.
        refused(post("Content-Length: 5\r\nTransfer-Encoding: chunked", &format!("0\r\n\r\n{HIDDEN}"))),
        refused(post("Transfer-Encoding: chunked\r\nContent-Length: 5", &format!("0\r\n\r\n{HIDDEN}"))),
        refused(post("Content-Length: 0\r\nTransfer-Encoding: chunked", "0\r\n\r\n")),
        refused(post("Content-Length: 2\r\nTransfer-Encoding: identity", "{}")),
        refused(post("Content-Length: 2\r\nTransfer-Encoding:", "{}")),
        // Two lengths.
        refused(post("Content-Length: 5\r\nContent-Length: 6", "0\r\n\r\n")),
        refused(post("Content-Length: 0\r\nContent-Length: 2", "{}")),
        refused(post("Content-Length: 2\r\ncontent-LENGTH: 02, 2", "{}")),
    ];
    for length in [
        "5, 5",
        "5,6",
        "5 5",
        "+5",
        "-1",
        "-0",
        "0x5",
        "5x",
        "5.0",
        "5e0",
        "\"5\"",
        "5;",
        "",
        "\u{665}",
        "99999999999999999999",
        "18446744073709551616",
        "1_0",
        "5\u{b}",
        "\u{a0}5",
    ] {
        rows.push(refused(post(&format!("Content-Length: {length}"), &format!("0\r\n\r\n{HIDDEN}"))));
    }
    // Sane numbers, too large ones.
    for length in ["1000000000000000", "18446744073709551615"] {
        rows.push((post(&format!("Content-Length: {length}"), "x"), &[413], Then::Close));
    }
    check(&rows);
}

#[test]
fn the_only_transfer_coding_is_chunked_in_no_other_form() {
    let post = |headers: &str| format!("{POST}{headers}\r\n\r\n0\r\n\r\n");
    let mut rows = vec![
        answered(&[200], post("Transfer-Encoding: chunked")),
        answered(&[200], post("transfer-encoding:\tCHUNKED \t")),
        refused(post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked")),
        refused(post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity")),
        refused(post("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked")),
        refused(post("Transfer-Encoding : chunked")),
        refused(post("Transfer-Encoding\t: chunked")),
        refused(post("Transfer-Encoding:\r\n chunked")),
        refused(post("Transfer-Encoding:\u{b}chunked")),
        refused(post("X: y\nTransfer-Encoding: chunked")),
        // HTTP/1.0 has none, and keeps nothing alive.
        refused("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        refused(
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n0\r\n\r\n",
        ),
    ];
    for coding in [
        "gzip",
        "identity",
        "gzip, chunked",
        "chunked, gzip",
        "chunked, identity",
        "chunked,",
        ",chunked",
        "chunked, chunked",
        "chunked;q=1",
        "\"chunked\"",
        "xchunked",
        "chunkedx",
        "x chunked",
        "chunk",
        "chunked\u{85}",
        "\u{1e01}chunked",
        "",
        "cow",
    ] {
        rows.push(refused(post(&format!("Transfer-Encoding: {coding}"))));
    }
    check(&rows);
}

#[test]
fn a_body_in_chunks_ends_where_its_chunks_say_and_nowhere_else() {
    let post = |body: &str| format!("{POST}Transfer-Encoding: chunked\r\n\r\n{body}");
    let whole = |size: &str| post(&format!("{size}\r\n{{}}\r\n0\r\n\r\n"));
    let mut rows = vec![
        answered(&[200], whole("2")),
        answered(&[200], whole("0000000000000002")),
        answered(&[200], whole("2;a")),
        answered(&[200], whole("2 ;\ta = \"b;c\"")),
        // Longer and shorter than they say.
        refused(post("1\r\n{}\r\n0\r\n\r\n")),
        refused(post("3\r\n{}\r\n0\r\n\r\n")),
        refused(post(&format!("2\r\n{{}}{HIDDEN}"))),
        refused(post("2\r\n{}0\r\n\r\n")),
        refused(post("2\r\n{}\n0\r\n\r\n")),
        refused(post("2\r\n{}\r0\r\n\r\n")),
        refused(post("2\r\n{}\r\n\r\n")),
        // Sizes with other line ends.
        refused(post("2\n{}\r\n0\r\n\r\n")),
        refused(post("2\r{}\r\n0\r\n\r\n")),
        refused(post("2;a\n{}\r\n0\r\n\r\n")),
        refused(post("2\r\n{}\r\n0\n\r\n")),
        refused(post("2\r\n{}\r\n0\r\n\n")),
        // Trailers are read and forgotten, whatever they say.
        answered(
            &[200],
            post("2\r\n{}\r\n0\r\nContent-Length: 100\r\nTransfer-Encoding: gzip\r\nX-API-Key: wrong\r\n\r\n"),
        ),
        refused(post("2\r\n{}\r\n0\r\nX-A: b\nX-C: d\r\n\r\n")),
        refused(post("2\r\n{}\r\n0\r\nX-A: b\rX-C: d\r\n\r\n")),
        refused(post("2\r\n{}\r\n0\r\nX-A : b\r\n\r\n")),
        refused(post("2\r\n{}\r\n0\r\nX-A: b\r\n folded\r\n\r\n")),
        refused(post(&format!("2\r\n{{}}\r\n0\r\n{HIDDEN}"))),
        refused(post(&format!("2\r\n{{}}\r\n0\r\n{}\r\n", "X-A: 0123456789\r\n".repeat(300)))),
        refused(post(&format!("2\r\n{{}}\r\n0\r\nX-A: {}", "x".repeat(5000)))),
        refused(whole(&format!("2;{}", "x".repeat(5000)))),
        (post("10000000\r\n"), &[413], Then::Close),
        (post("ffffffffffffffff\r\n"), &[413], Then::Close),
    ];
    for size in [
        "",
        "+2",
        "-2",
        "0x2",
        " 2",
        "\t2",
        "2 ",
        "2 2",
        "2,2",
        "2x",
        "x2",
        "2.0",
        "2\0",
        "2\u{b}",
        "2;a\u{0}b",
        "2;a\rb",
        "\u{662}",
        "00000000000000002",
        "10000000000000002",
        "100000000000000000000000000000002",
        ";a",
    ] {
        rows.push(refused(whole(size)));
    }
    check(&rows);
}

#[test]
fn what_a_client_expects_or_wants_to_speak_changes_nothing_about_where_a_request_ends() {
    let expecting = |expect: &str| format!("{POST}Expect: {expect}\r\nContent-Length: 2\r\n\r\n{{}}");
    check(&[
        answered(&[200], expecting("100-continue")),
        answered(&[200], expecting("100-Continue")),
        refused(expecting("")),
        refused(expecting("200-ok")),
        refused(expecting("100-continue, 100-continue")),
        refused(expecting("100-continue x")),
        refused(format!("{POST}Expect: 100-continue\r\nExpect: y\r\nContent-Length: 2\r\n\r\n{{}}")),
        // Nothing to wait for.
        answered(&[200], format!("{GET}Host: localhost\r\nExpect: 100-continue\r\n\r\n")),
        // HTTP/2 is not spoken; the request is answered as if nobody had asked (RFC 9110, 7.8).
        answered(
            &[200],
            format!(
                "{GET}Host: localhost\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n"
            ),
        ),
        answered(
            &[400],
            format!("{POST}Upgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: {}\r\n\r\n{HIDDEN}", HIDDEN.len()),
        ),
        // A WebSocket that is refused has not ended HTTP.
        answered(
            &[426],
            "GET /ws HTTP/1.1\r\nHost: localhost\r\nX-API-Key: super-secret\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 8\r\n\r\n",
        ),
        // Headers that other programs act on.
        answered(&[200], format!("{GET}Host: localhost\r\nConnection: Content-Length, Host\r\n\r\n")),
        answered(&[405], "TRACE /health HTTP/1.1\r\nHost: localhost\r\nX-HTTP-Method-Override: GET\r\n\r\n"),
    ]);
}
