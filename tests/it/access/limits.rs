//! How much keys and addresses may ask for, and what they are told.

use std::net::{IpAddr, SocketAddr, TcpStream};

use serde_json::json;
use socket2::{Domain, Socket as RawSocket, Type};

use super::surfaces::{LET_IN, SURFACES};
use crate::{
    mcp::client::{Modern, Session, calling},
    pool::Keys,
    support::{Connection, Gateway, Helper, KEY, Launch, Reply, Server},
    ws::client::Socket,
};

/// Makes a key with these options.
#[track_caller]
fn key_with(keys: &Keys, name: &str, options: &[&str]) -> String {
    let path = keys.path();
    let made =
        Launch::new(Server::FromSettings).arguments(&[&["key", "new", name, "--file", &path], options].concat()).run();
    assert_eq!(made.code, Some(0), "{made:?}");
    made.stdout.trim().to_owned()
}

#[track_caller]
fn echo(gateway: &Gateway, key: &str) -> Reply {
    gateway.request("POST", "/tools/echo", &[("X-API-Key", key)], b"{}")
}

/// A request from this address of the machine itself.
fn get_from(gateway: &Gateway, from: [u8; 4], path: &str) -> Reply {
    let mut connection = connect_from(gateway, from);
    connection.send("GET", path, &[("X-API-Key", KEY)], b"").unwrap();
    let answer = connection.receive(false).unwrap();
    gateway.reply(format!("{path} from {from:?}"), answer)
}

fn connect_from(gateway: &Gateway, from: [u8; 4]) -> Connection {
    let socket = RawSocket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((IpAddr::from(from), 0)).into()).unwrap();
    socket.connect(&gateway.address().into()).unwrap();
    Connection::over(TcpStream::from(socket))
}

#[test]
fn a_key_has_so_many_calls_a_second_on_every_surface_together() {
    let keys = Keys::new();
    // One call in a hundred seconds.
    let slow: Vec<String> =
        (0..SURFACES.len()).map(|n| key_with(&keys, &format!("slow-{n}"), &["--rate", "0.01"])).collect();
    let gateway = Gateway::start(&[("API_KEYS_FILE", &keys.path())], Helper::new());
    for ((surface, call), slow) in SURFACES.iter().zip(&slow) {
        assert_eq!(call(&gateway, Some(slow), "echo"), LET_IN, "{surface}");
        for (other, call) in SURFACES {
            assert_eq!(call(&gateway, Some(slow), "echo"), "rate_limited", "{other} after {surface}");
        }
        // What is no call is not held against it, and neither is another key.
        gateway.request("GET", "/tools", &[("X-API-Key", slow)], b"").expect_status(200);
        assert_eq!(call(&gateway, Some(KEY), "echo"), LET_IN, "{surface}");
    }
}

#[test]
fn whoever_may_not_call_now_is_told_when_and_others_how_many_calls_are_left() {
    let settings = [("RATE_LIMIT", "0.05"), ("RATE_BURST", "3")];
    let gateway = Gateway::start(&settings, Helper::new());
    for left in ["2", "1", "0"] {
        let reply = gateway.call("echo", "{}");
        reply.expect_status(200).expect_header("RateLimit-Policy", r#""key";q=3;w=60"#);
        let expected = format!(r#""key";r={left};t=20"#);
        reply.expect_header("RateLimit", &expected);
    }
    let reply = gateway.call("echo", "{}");
    reply.expect_error(429, "rate_limited", "key `api_key` may make 0.05 calls a second");
    let limit = reply.header("RateLimit").unwrap_or_default().to_owned();
    let t: u64 = limit.strip_prefix(r#""key";r=0;t="#).unwrap_or_default().parse().unwrap_or_default();
    let retry_after: u64 = reply.header("Retry-After").unwrap_or_default().parse().unwrap_or_default();
    // Not before the window ends (draft-ietf-httpapi-ratelimit-headers-11, section 6).
    reply.expect(
        (1..=20).contains(&t) && (t..=20).contains(&retry_after),
        "`t` of at most 20, and `Retry-After` from there on",
    );
    assert_eq!(reply.json()["error"]["retry_after"], retry_after);

    let reply = gateway.post("/tools/echo/stream", "{}");
    reply.expect_error(429, "rate_limited", "0.05 calls a second");
    let mut socket = Socket::open(&gateway, "/ws/tools/echo");
    socket.call("1", "{}");
    let told = socket.expect_error("rate_limited", "0.05 calls a second");
    assert!(told["error"]["retry_after"].as_u64().is_some_and(|it| (1..=20).contains(&it)), "{}", told.raw);
    let modern = Modern::new(&gateway).call(1, "echo", json!({})).reply();
    modern.expect_status(429);
    assert!(modern.header("Retry-After").is_some());
    assert_eq!(modern.json()["error"]["data"]["code"], "rate_limited");
    let session = Session::open(&gateway);
    let error = session.error("tools/call", calling("echo", json!({}), None));
    assert_eq!(error["data"]["code"], "rate_limited", "{error}");
    assert!(error["data"]["retry_after"].is_u64(), "{error}");
    // Each call of a batch is one.
    let usage = gateway.stats()["keys"]["api_key"].take();
    assert_eq!(
        (&usage["calls"], &usage["rate_limited"], &usage["errors"]),
        (&json!(8), &json!(5), &json!(5)),
        "{usage}"
    );
}

#[test]
fn an_answer_that_streams_tells_how_the_limit_stands_too() {
    let gateway = Gateway::start(&[("RATE_LIMIT", "0.05"), ("RATE_BURST", "9")], Helper::new());
    gateway.post("/tools/echo/stream", "{}").expect_header("RateLimit", r#""key";r=8;t=20"#);
    let unlimited = Gateway::start(&[], Helper::new());
    let reply = unlimited.call("echo", "{}");
    assert_eq!((reply.header("RateLimit"), reply.header("RateLimit-Policy")), (None, None));
}

#[test]
fn a_key_has_so_many_calls_at_a_time() {
    let keys = Keys::new();
    let two = key_with(&keys, "two", &["--concurrent", "2"]);
    let gateway = Gateway::start(&[("API_KEYS_FILE", &keys.path())], Helper::new());
    let mut running: Vec<Connection> = Vec::new();
    for _ in 0..2 {
        let mut connection = gateway.connect();
        connection.send("POST", "/tools/silent", &[("X-API-Key", &two)], b"{}").unwrap();
        running.push(connection);
    }
    let in_flight = || gateway.stats()["keys"]["two"]["in_flight"].clone();
    gateway.wait_until("both running", || in_flight() == 2);
    for (surface, call) in SURFACES {
        assert_eq!(call(&gateway, Some(&two), "echo"), "rate_limited", "{surface}");
        assert_eq!(call(&gateway, Some(KEY), "echo"), LET_IN, "{surface}");
    }
    let reply = echo(&gateway, &two);
    reply.expect_error(429, "rate_limited", "key `two` has 2 calls running already").expect_header("Retry-After", "1");
    running.pop();
    gateway.wait_until("room for one", || echo(&gateway, &two).status == 200);
    drop(running);
    gateway.wait_until("nothing running", || in_flight() == 0);
}

#[test]
fn a_call_that_waits_for_its_client_is_still_one_call() {
    let keys = Keys::new();
    let one = key_with(&keys, "one", &["--concurrent", "1"]);
    let gateway = Gateway::start(&[("API_KEYS_FILE", &keys.path())], Helper::new());
    let modern = Modern::new(&gateway).key(&one).able_to(json!({"roots": {}}));
    let mut params = calling("ask", json!({"method": "roots/list", "value": "well?"}), None);
    let asked = modern.result("tools/call", params.clone());
    assert_eq!(asked["resultType"], "input_required", "{asked}");
    modern.call(1, "echo", json!({})).reply().expect_status(429);
    let key = asked["inputRequests"].as_object().unwrap().keys().next().unwrap().clone();
    params["requestState"] = asked["requestState"].clone();
    params["inputResponses"] = json!({key: {"roots": []}});
    let result = modern.result("tools/call", params);
    assert_eq!(result["resultType"], "complete", "{result}");
    let usage = || gateway.stats()["keys"]["one"].take();
    gateway.wait_until("nothing running", || usage()["in_flight"] == 0);
    assert_eq!(usage(), json!({"calls": 3, "errors": 1, "rate_limited": 1, "in_flight": 0}));
    modern.call(1, "echo", json!({})).reply().expect_status(200);
}

#[test]
fn an_address_has_so_many_requests_a_second_whatever_they_ask() {
    let gateway = Launch::new(Helper::new()).set("RATE_LIMIT_ADDRESS", "0.05").start_without_waiting();
    let path = "/tools/no-such-tool";
    get_from(&gateway, [127, 0, 0, 2], path).expect_status(404).expect_header("RateLimit", r#""address";r=0;t=20"#);
    let reply = get_from(&gateway, [127, 0, 0, 2], path);
    reply.expect_error(429, "rate_limited", "an address may make 0.05 requests a second");
    reply
        .expect_header("RateLimit-Policy", r#""address";q=1;w=20"#)
        .expect(reply.header("Retry-After").is_some(), "when");
    get_from(&gateway, [127, 0, 0, 2], "/no/such/path").expect_status(429);
    // What looks after the gateway is always answered, and so are others.
    assert_ne!(get_from(&gateway, [127, 0, 0, 2], "/health").status, 429);
    get_from(&gateway, [127, 0, 0, 3], path).expect_status(404);

    // Messages of a WebSocket count as requests do.
    let mut socket = Socket::over(connect_from(&gateway, [127, 0, 0, 4]), &gateway, "/ws");
    socket.send(r#"{"id":1,"tool":"echo"}"#);
    socket.expect_error("rate_limited", "an address may make");
}

#[test]
fn an_address_has_so_many_connections_and_others_have_theirs() {
    let gateway = Gateway::start(&[("CONNECTIONS_PER_ADDRESS_MAX", "3")], Helper::new());
    let mut held: Vec<Connection> = (0..3).map(|_| connect_from(&gateway, [127, 0, 0, 2])).collect();
    for connection in &mut held {
        connection.send("GET", "/health", &[], b"").unwrap();
        assert_eq!(connection.receive(false).unwrap().status, 200);
    }
    let mut refused = connect_from(&gateway, [127, 0, 0, 2]);
    let answer = refused.receive(false).unwrap();
    let reply = gateway.reply("a fourth connection", answer);
    reply.expect_error(503, "overloaded", "3 connections of your address already").expect_error(
        503,
        "overloaded",
        "`CONNECTIONS_PER_ADDRESS_MAX`",
    );
    assert!(refused.rest().unwrap().is_empty());
    get_from(&gateway, [127, 0, 0, 3], "/tools").expect_status(200);
    held.pop();
    gateway.wait_until("room", || {
        let mut connection = connect_from(&gateway, [127, 0, 0, 2]);
        // A connection that is refused may be closed before its request is sent.
        let _ = connection.send("GET", "/tools", &[("X-API-Key", KEY)], b"");
        connection.receive(false).is_ok_and(|answer| answer.status == 200)
    });
}

#[test]
fn wrong_keys_are_refused_for_a_while_after_ten_and_a_right_one_is_let_in() {
    let gateway = Gateway::start(&[], Helper::new());
    let status = |key: Option<&str>| {
        let headers: Vec<_> = key.into_iter().map(|key| ("X-API-Key", key)).collect();
        gateway.request("GET", "/tools", &headers, b"")
    };
    for _ in 0..20 {
        status(None).expect_status(401);
    }
    for _ in 0..10 {
        status(Some("wrong")).expect_status(401);
    }
    for (surface, call) in SURFACES {
        assert_eq!(call(&gateway, Some("wrong"), "echo"), "rate_limited", "{surface}");
        assert_eq!(call(&gateway, Some(KEY), "echo"), LET_IN, "{surface}");
    }
    let reply = status(Some("wrong"));
    reply.expect_error(429, "rate_limited", "10 wrong API keys came from your address");
    let retry_after: u64 = reply.header("Retry-After").unwrap_or_default().parse().unwrap_or_default();
    reply.expect((1..=60).contains(&retry_after), "a time within the minute");
    status(None).expect_status(401);
    get_from(&gateway, [127, 0, 0, 9], "/tools").expect_status(200);
}
