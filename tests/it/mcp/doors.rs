//! Who comes in at all: methods, keys, origins, types, sizes, and what is no message.

use serde_json::{Value, json};

use super::{
    client::{MODERN, NEWEST, Opening, PLAIN, Session, changed, check_error, request},
    shared,
    stream::Posted,
};
use crate::support::{Gateway, KEY, Reply};

const PATHS: [&str; 2] = ["/mcp", "/servers/helper/mcp"];

/// Answered with `{}` in any session.
const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;

#[track_caller]
fn ask(gateway: &Gateway, method: &str, path: &str, changes: &[(&str, Option<&str>)], body: &str) -> Reply {
    Posted::send(gateway, method, path, &changed(&PLAIN, changes), body).reply()
}

/// Sends a request whose head has exactly these lines beside its length.
#[track_caller]
fn ask_raw(gateway: &Gateway, method: &str, path: &str, lines: &str, body: &str) -> Reply {
    let mut connection = gateway.connect();
    let request =
        format!("{method} {path} HTTP/1.1\r\n{lines}X-API-Key: {KEY}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    connection.send_raw(&request).unwrap();
    gateway.reply(request, connection.receive(false).unwrap())
}

#[test]
fn the_methods_that_are_allowed_are_named() {
    let gateway = shared(&[]);
    for path in PATHS {
        for method in ["OPTIONS", "PUT", "PATCH"] {
            let reply = ask(&gateway, method, path, &[], "");
            let expected = if method == "OPTIONS" { reply.status < 300 } else { reply.status == 405 };
            reply.expect(expected, "405, unless it is OPTIONS");
            reply.expect_header("Allow", "GET, POST, DELETE, OPTIONS");
        }
    }
}

#[test]
fn the_modern_era_has_neither_get_nor_delete() {
    let gateway = shared(&[]);
    for method in ["GET", "DELETE"] {
        for version in [MODERN, "2099-01-01"] {
            let reply = ask(&gateway, method, "/mcp", &[("MCP-Protocol-Version", Some(version))], "");
            reply.expect_status(405).expect_header("Allow", "POST");
        }
    }
}

#[test]
fn a_key_is_needed_for_everything_and_the_answer_says_how_to_give_it() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    for (method, body) in [("POST", PING), ("GET", ""), ("DELETE", "")] {
        for path in PATHS {
            for key in [None, Some("wrong")] {
                let changes = [("X-API-Key", key), ("Mcp-Session-Id", Some(&*session.id))];
                let reply = ask(&gateway, method, path, &changes, body);
                reply.expect_error(401, "unauthorized", "key");
                let asks = reply.header("WWW-Authenticate").is_some_and(|it| it.starts_with("Bearer"));
                reply.expect(asks, "WWW-Authenticate: Bearer");
            }
        }
    }
    session.result("ping", json!({}));
}

#[test]
fn a_key_may_come_as_a_bearer_token() {
    let gateway = shared(&[]);
    let bearer = format!("Bearer {KEY}");
    let body = request(0, "initialize", &Opening::new().params());
    let changes = [("X-API-Key", None), ("Authorization", Some(&*bearer))];
    ask(&gateway, "POST", "/mcp", &changes, &body).expect_status(200);
}

#[test]
fn a_foreign_origin_alone_is_refused() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    for (method, body) in [("POST", PING), ("GET", ""), ("DELETE", "")] {
        for origin in ["https://evil.example", "http://localhost.evil.example", "null"] {
            let changes = [("Origin", Some(origin)), ("Mcp-Session-Id", Some(&*session.id))];
            ask(&gateway, method, "/mcp", &changes, body).expect_error(403, "forbidden", origin);
        }
    }
    let own = format!("http://{}", gateway.address());
    let lines = format!(
        "Host: {}\r\nOrigin: {own}\r\nMcp-Session-Id: {}\r\nContent-Type: application/json\r\n",
        gateway.address(),
        session.id
    );
    ask_raw(&gateway, "POST", "/mcp", &lines, PING).expect_status(200);
}

#[test]
fn a_foreign_host_alone_is_refused() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    for (method, body) in [("POST", PING), ("GET", ""), ("DELETE", "")] {
        let lines = format!("Host: evil.example\r\nMcp-Session-Id: {}\r\n", session.id);
        ask_raw(&gateway, method, "/mcp", &lines, body).expect_error(403, "forbidden", "evil.example");
    }
    session.result("ping", json!({}));
}

#[test]
fn a_body_that_is_too_large_is_refused() {
    let gateway = super::start("shared", &[], &[("BODY_BYTES_MAX", "4k")]);
    let session = Session::open(&gateway);
    let body = request(1, "ping", &json!({"fill": "x".repeat(5000)}));
    session.post(&body).reply().expect_error(413, "body_too_large", "");
    session.result("ping", json!({}));
}

#[test]
fn a_client_that_cannot_take_both_kinds_of_answer_is_refused() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    let with_accept = |method: &str, accept: Option<&str>, body: &str| {
        let headers = session.headers();
        Posted::send(&gateway, method, "/mcp", &changed(&headers, &[("Accept", accept)]), body).reply()
    };
    for accept in
        ["application/json", "text/event-stream", "text/html", "text/*", "application/jsonp, text/event-stream"]
    {
        check_error(&with_accept("POST", Some(accept), PING), 406, -32600, None);
    }
    for accept in ["application/json", "text/html"] {
        check_error(&with_accept("GET", Some(accept), ""), 406, -32600, None);
    }
    let willing = [
        None,
        Some("*/*"),
        Some("application/*, text/*"),
        Some("text/event-stream,application/json;q=0.5"),
        Some("Application/JSON, Text/Event-Stream"),
    ];
    for accept in willing {
        let reply = with_accept("POST", accept, PING);
        reply.expect_status(200).expect(reply.json()["result"] == json!({}), "an answer");
    }
}

#[test]
fn only_json_is_taken() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    let with_type = |content_type: Option<&str>| {
        let headers = session.headers();
        Posted::send(&gateway, "POST", "/mcp", &changed(&headers, &[("Content-Type", content_type)]), PING).reply()
    };
    for content_type in [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("application/jsonp")]
    {
        check_error(&with_type(content_type), 415, -32600, None);
    }
    for content_type in ["application/json; charset=utf-8", "Application/JSON", "application/json;charset=UTF-8"] {
        with_type(Some(content_type)).expect_status(200);
    }
}

#[test]
fn what_is_not_json_is_a_parse_error() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    for body in ["", "{", r#"{"jsonrpc":"2.0","id":1,"method":"ping""#, "ping", "{'id':1}", "{} {}", "\u{0}"] {
        check_error(&session.post(body).reply(), 400, -32700, None);
        check_error(&ask(&gateway, "POST", "/mcp", &[], body), 400, -32700, None);
        let modern = ask(&gateway, "POST", "/mcp", &[("MCP-Protocol-Version", Some(MODERN))], body);
        check_error(&modern, 400, -32700, None);
    }
    let not_utf8 = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"p\xffng\"}";
    let reply = gateway.request("POST", "/mcp", &session.headers(), not_utf8);
    reply.expect_status(400);
    session.result("ping", json!({}));
}

#[test]
fn what_is_json_and_no_message_is_an_invalid_request() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    let bodies = [
        "42",
        "null",
        r#""ping""#,
        "{}",
        r#"{"jsonrpc":"2.0"}"#,
        r#"{"id":1,"method":"ping"}"#,
        r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":true,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":5}"#,
        r#"{"jsonrpc":"2.0","id":1}"#,
    ];
    for body in bodies {
        let reply = session.post(body).reply();
        reply.expect_status(400).expect(reply.json()["error"]["code"] == -32600, "the error -32600");
        reply.expect(reply.json().get("id") != Some(&Value::Null), "an id that is known, or none");
    }
    session.result("ping", json!({}));
}

#[test]
fn a_path_that_there_is_not_and_a_server_that_there_is_not_are_not_found() {
    let gateway = shared(&[]);
    let body = request(0, "initialize", &Opening::new().params());
    for path in ["/mcp/x", "/servers/nobody/mcp", "/servers/mcp"] {
        ask(&gateway, "POST", path, &[], &body).expect_status(404);
    }
    assert_eq!(Opening::new().at(PATHS[1]).open(&gateway).result["protocolVersion"], NEWEST);
}
