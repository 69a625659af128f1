//! What is no WebSocket handshake, or none for this caller, gets a plain answer; nothing hangs.

use crate::{
    support::{Gateway, Helper, KEY, Reply},
    ws::client::{FINAL, SAMPLE_ACCEPT, SAMPLE_KEY, Socket, TEXT, frame, handshake},
};

/// The answer to the handshake for `path`, with its lines changed by `change`.
#[track_caller]
fn answer(gateway: &Gateway, path: &str, change: impl Fn(&str) -> String) -> Reply {
    let head = format!("{}X-API-Key: {KEY}\r\n", handshake(path));
    let head = format!("{}\r\n", change(&head));
    let mut connection = gateway.connect();
    connection.send_raw(&head).unwrap();
    let answer = connection.receive(false);
    let answer = answer.unwrap_or_else(|cause| panic!("request: {head}\nno answer: {cause}\n{}", gateway.framed_log()));
    gateway.reply(head, answer)
}

/// A change of a head: the header `name` is left out, or has another value.
fn with(name: &'static str, value: Option<&'static str>) -> impl Fn(&str) -> String {
    move |head| {
        let lines = head.lines().filter(|line| !line.starts_with(&format!("{name}: ")));
        let rest: String = lines.map(|line| format!("{line}\r\n")).collect();
        value.map_or(rest.clone(), |value| format!("{rest}{name}: {value}\r\n"))
    }
}

#[test]
fn a_handshake_is_answered_as_the_standard_says() {
    let gateway = Gateway::start(&[], Helper::new());
    let query_key = format!("/ws/tools/echo?api_key={KEY}");
    // Each is what some browser or library sends.
    let heads = [
        format!("{}X-API-Key: {KEY}\r\n\r\n", handshake("/ws/tools/echo")),
        format!("{}Authorization: Bearer {KEY}\r\n\r\n", handshake("/ws/tools/echo")),
        format!("{}\r\n", handshake(&query_key)),
        format!("{}\r\n", handshake(&query_key).replace("Connection: Upgrade", "Connection: keep-alive, Upgrade")),
        format!("{}\r\n", handshake(&query_key).replace("Upgrade: websocket", "upgrade: WebSocket")),
        format!(
            "{}Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n",
            handshake(&query_key)
        ),
        format!("{}Origin: http://{}\r\n\r\n", handshake(&query_key), gateway.address())
            .replace("Host: localhost", &format!("Host: {}", gateway.address())),
    ];
    assert_eq!((SAMPLE_KEY, SAMPLE_ACCEPT), ("dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    for head in heads {
        let mut connection = gateway.connect();
        connection.send_raw(&head).unwrap();
        Socket::answering(connection, &gateway, &head).expect_open();
    }
}

#[test]
fn messages_right_behind_the_handshake_are_heard() {
    let gateway = Gateway::start(&[], Helper::new());
    let mut connection = gateway.connect();
    let head = format!("{}X-API-Key: {KEY}\r\n\r\n", handshake("/ws/tools/echo"));
    let mut bytes = head.clone().into_bytes();
    bytes.extend(frame(FINAL | TEXT, br#"{"id":1}"#));
    let second = frame(FINAL | TEXT, br#"{"id":2}"#);
    bytes.extend(&second[..3]);
    connection.send_raw(&bytes).unwrap();

    let mut socket = Socket::answering(connection, &gateway, &head);
    socket.expect_complete("1", &serde_json::json!({}));
    socket.send_raw(&second[3..], "the rest of a frame");
    socket.expect_complete("2", &serde_json::json!({}));
}

#[test]
fn a_connection_that_was_used_before_can_become_a_socket() {
    let gateway = Gateway::start(&[], Helper::new());
    let mut connection = gateway.connect();
    for _ in 0..2 {
        connection.send("POST", "/tools/echo", &[("X-API-Key", KEY)], b"{}").unwrap();
        gateway.reply("before the handshake", connection.receive(false).unwrap()).expect_status(200);
    }
    Socket::over(connection, &gateway, "/ws/tools/echo").expect_open();
}

#[test]
fn a_wrong_key_and_a_wrong_path_are_refused_before_the_upgrade() {
    let gateway = Gateway::start(&[], Helper::new());

    answer(&gateway, "/ws/tools/echo", with("X-API-Key", None)).expect_error(401, "unauthorized", "");
    answer(&gateway, "/ws/tools/echo", with("X-API-Key", Some("wrong"))).expect_error(401, "unauthorized", "");
    answer(&gateway, "/ws", with("X-API-Key", None)).expect_error(401, "unauthorized", "");
    answer(&gateway, "/ws/tools/ecko", str::to_owned).expect_error(404, "unknown_tool", "`echo`");
    answer(&gateway, "/servers/nobody/ws", str::to_owned).expect_status(404);
    for path in ["/ws/echo", "/ws/tools", "/ws/tools/echo/more"] {
        answer(&gateway, path, str::to_owned).expect_error(404, "not_found", "");
    }
    let evil = |head: &str| format!("{head}Origin: https://evil.example\r\n");
    answer(&gateway, "/ws/tools/echo", evil).expect_error(403, "forbidden", "evil.example");
    let post = |head: &str| head.replacen("GET", "POST", 1) + "Content-Length: 0\r\n";
    answer(&gateway, "/ws/tools/echo", post).expect_error(405, "method_not_allowed", "GET");
    // An upgrade of what is no socket changes nothing.
    answer(&gateway, "/health", str::to_owned).expect_status(200);
}

#[test]
fn what_is_no_handshake_is_told_what_is_missing() {
    let gateway = Gateway::start(&[], Helper::new());
    let check = |change: &dyn Fn(&str) -> String, status: u16, code: &str, text: &str| {
        for path in ["/ws/tools/echo", "/ws"] {
            let reply = answer(&gateway, path, change);
            reply.expect_error(status, code, text);
            if status == 426 {
                reply.expect_header("Sec-WebSocket-Version", "13");
            }
        }
    };
    check(&with("Upgrade", None), 426, "upgrade_required", "");
    check(&with("Upgrade", Some("h2c")), 426, "upgrade_required", "");
    check(&with("Sec-WebSocket-Version", None), 426, "upgrade_required", "13");
    for version in ["8", "0", "14", "x", "1 3"] {
        check(&with("Sec-WebSocket-Version", Some(version)), 426, "upgrade_required", "13");
    }
    check(&with("Sec-WebSocket-Key", None), 400, "bad_request", "Sec-WebSocket-Key");
    // Too short, too long, no base64, and nothing.
    for key in ["c2hvcnQ=", "dGhlIHNhbXBsZSBub25jZSB0aGF0IGlzIGxvbmc=", "dGhlIHNhbXBsZSBub25j!Q==", ""] {
        check(&with("Sec-WebSocket-Key", Some(key)), 400, "bad_request", "Sec-WebSocket-Key");
    }
}

#[test]
fn a_browser_that_looks_at_a_socket_is_told_what_it_is() {
    let gateway = Gateway::start(&[], Helper::new());
    let reply = gateway.get("/ws/tools/echo");
    reply.expect_error(426, "upgrade_required", "").expect_header("Sec-WebSocket-Version", "13");
    reply
        .expect(reply.header("Upgrade").is_some_and(|it| it.eq_ignore_ascii_case("websocket")), "`Upgrade: websocket`");
}

#[test]
fn a_handshake_without_connection_upgrade_or_of_an_old_client_is_refused() {
    let gateway = Gateway::start(&[], Helper::new());

    for value in [None, Some("keep-alive")] {
        let reply = answer(&gateway, "/ws/tools/echo", with("Connection", value));
        reply.expect(reply.status == 400 || reply.status == 426, "400 or 426");
    }
    let reply = answer(&gateway, "/ws/tools/echo", |head| head.replacen("HTTP/1.1", "HTTP/1.0", 1));
    reply.expect(400 <= reply.status, "an error");
}

#[test]
fn half_a_handshake_is_cut_off() {
    let gateway = Gateway::start(&[("HEAD_TIMEOUT", "0.2")], Helper::new());
    let head = format!("{}X-API-Key: {KEY}\r\n", handshake("/ws/tools/echo"));
    let mut connection = gateway.connect();
    connection.send_raw(&head).unwrap();
    gateway.reply(&head, connection.receive(false).unwrap()).expect_status(408);
    assert_eq!(connection.rest().unwrap(), b"");

    for end in 0..head.len() {
        let mut connection = gateway.connect();
        connection.send_raw(&head[..end]).unwrap();
    }
    gateway.call("echo", "{}").expect_status(200);
}
