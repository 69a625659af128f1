//! Arguments are held against their tool's `inputSchema` before a worker sees them, on every surface alike.

use serde_json::{Value, json};

use crate::{
    mcp::client::{Modern, Opening, Session, calling},
    sse::client::EventStream,
    support::{Gateway, Helper, KEY, Launch},
    ws::client::Socket,
};

/// One worker, so that its counts are all counts.
const ONE_WORKER: [(&str, &str); 2] = [("MIN_WORKERS", "1"), ("MAX_WORKERS", "1")];

/// What is wrong with `{"a":{"b":"x"}}` by [`schema`].
const WRONG: &str = r#"arguments of `echo`: /a/b: "x" is not of type "integer""#;

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {"a": {"type": "object", "properties": {"b": {"type": "integer"}}}},
        "required": ["a"],
    })
}

/// A gateway before a helper whose `echo` has this schema.
#[track_caller]
fn start(settings: &[(&str, &str)], schema: &Value) -> Gateway {
    let launch = Launch::new(Helper::with(&["--schema", &schema.to_string()]));
    launch.set_all(&ONE_WORKER).set_all(settings).start()
}

/// How many calls of `echo`, and of anything else but `counts`, the worker has seen.
#[track_caller]
fn calls_seen(gateway: &Gateway) -> i64 {
    let counts = gateway.counts();
    let before: i64 = counts["calls"].as_i64().unwrap();
    // This call itself is counted.
    before - 1
}

#[test]
fn wrong_arguments_are_refused_with_path_and_rule_before_a_worker_sees_them() {
    let gateway = start(&[], &schema());
    let wrong = r#"{"a":{"b":"x"}}"#;

    gateway.call("echo", wrong).expect_error(400, "invalid_arguments", WRONG);
    gateway.call("echo", "{}").expect_error(400, "invalid_arguments", r#""a" is a required property"#);
    gateway.post("/tools/echo", "").expect_error(400, "invalid_arguments", r#""a" is a required property"#);
    gateway.post("/servers/helper/tools/echo", "{}").expect_error(400, "invalid_arguments", "required");
    gateway.post("/tools/echo/stream", &format!(r#"{{"arguments":{wrong}}}"#)).expect_error(
        400,
        "invalid_arguments",
        WRONG,
    );
    gateway.get("/tools/echo/stream?arguments=%7B%22a%22%3A%7B%22b%22%3A%22x%22%7D%7D").expect_error(
        400,
        "invalid_arguments",
        WRONG,
    );

    let mut socket = Socket::open(&gateway, "/ws/tools/echo");
    socket.call("1", wrong);
    let told = socket.expect_error("invalid_arguments", WRONG);
    assert_eq!(told["id"], 1, "{}", told.raw);
    socket.call("2", r#"{"a":{"b":1}}"#);
    socket.expect_complete("2", &json!({"a": {"b": 1}}));

    assert_eq!(calls_seen(&gateway), 1, "only what was right");
    gateway.call("echo", r#"{"a":{"b":2}}"#).expect_data(&json!({"a": {"b": 2}}));
    EventStream::open(&gateway, "echo", r#"{"a":{}}"#).rest();
    let totals = gateway.stats()["totals"].take();
    assert_eq!(totals["errors"], 7, "{totals}");
}

#[test]
fn an_mcp_client_gets_a_result_that_says_what_to_mend() {
    let gateway = start(&[], &schema());
    let (session, modern) = (Session::open(&gateway), Modern::new(&gateway));
    let wrong = json!({"a": {"b": "x"}});

    let told = session.result("tools/call", calling("echo", wrong.clone(), None));
    assert_eq!(told, json!({"content": [{"type": "text", "text": WRONG}], "isError": true}));
    let told = modern.result("tools/call", calling("echo", wrong, None));
    assert_eq!((&told["isError"], &told["content"][0]["text"]), (&json!(true), &json!(WRONG)), "{told}");
    assert_eq!(told["resultType"], "complete", "{told}");
    assert_eq!(told["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "helper", "{told}");

    // Without any, and with what is no object at all.
    let told = session.result("tools/call", json!({"name": "echo"}));
    assert_eq!(
        (&told["isError"], told["content"][0]["text"].as_str().unwrap().contains("required")),
        (&json!(true), true)
    );
    let told = session.result("tools/call", json!({"name": "echo", "arguments": [1]}));
    assert_eq!(told["isError"], true, "{told}");

    assert_eq!(calls_seen(&gateway), 0);
    assert_eq!(session.text("echo", json!({"a": {"b": 1}})), r#"{"a":{"b":1}}"#);
    assert_eq!(modern.text("echo", json!({"a": {"b": 1}})), r#"{"a":{"b":1}}"#);
}

#[test]
fn with_several_servers_each_tool_has_its_own_rules() {
    let strict = schema().to_string();
    let gateway = Gateway::start_helpers(&[], &[("lax", &[]), ("strict", &["--schema", &strict])]);
    gateway.call("lax__echo", "{}").expect_status(200);
    gateway.call("strict__echo", "{}").expect_error(400, "invalid_arguments", "arguments of `strict__echo`");
    let session = Opening::new().at("/servers/strict/mcp").open(&gateway);
    let told = session.result("tools/call", json!({"name": "echo", "arguments": {}}));
    assert_eq!(told["isError"], true, "{told}");
}

#[test]
fn a_checked_argument_still_arrives_byte_for_byte() {
    let gateway = start(&[], &json!({"type": "object", "properties": {"z": {"type": "number"}}}));
    let arguments = r#"{"z":1.10,"a":[12345678901234567890123],"z2":-0.0}"#;
    let reply = gateway.call("echo", arguments);
    reply.expect_raw("data", arguments);
}

#[test]
fn nothing_is_checked_when_that_is_switched_off() {
    let gateway = start(&[("VALIDATE_INPUT", "false")], &schema());
    gateway.call("echo", r#"{"a":{"b":"x"}}"#).expect_data(&json!({"a": {"b": "x"}}));
    assert_eq!(Session::open(&gateway).text("echo", json!({"a": 1})), r#"{"a":1}"#);
    assert_eq!(Modern::new(&gateway).text("echo", json!({})), "{}");
}

#[test]
fn a_schema_that_its_server_got_wrong_is_not_enforced_and_logged_once() {
    let doubled: serde_json::Map<String, Value> = (0..60)
        .map(|n| (format!("d{n}"), json!({"allOf": vec![json!({"$ref": format!("#/$defs/d{}", n + 1)}); 2]})))
        .chain([("d60".to_owned(), json!(true))])
        .collect();
    let wrong = [
        json!({"type": "nonsense"}),
        json!({"$ref": "http://127.0.0.1:9/schema.json"}),
        json!({"$defs": doubled, "$ref": "#/$defs/d0"}),
        (0..200).fold(json!({"$ref": "#"}), |inner, _| json!({"not": inner})),
    ];
    for schema in wrong {
        let gateway = start(&[], &schema);
        for n in 0..3 {
            gateway.call("echo", &format!(r#"{{"n":{n}}}"#)).expect_data(&json!({"n": n}));
        }
        Session::open(&gateway).text("echo", json!({}));
        let log = gateway.log();
        let warnings = log.matches("arguments of `echo` of server helper are not checked").count();
        assert_eq!(warnings, 1, "{schema}\n{log}");
    }
}

#[test]
fn arguments_that_are_made_to_take_long_end_neither_the_gateway_nor_its_patience() {
    let twice =
        json!({"type": "object", "properties": {"a": {"allOf": [{"$ref": "#"}, {"$ref": "#"}]}}, "required": ["a"]});
    let gateway = start(&[], &twice);
    let nested = |depth: usize| format!("{}{{}}{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
    for depth in [2, 30, 100, 120] {
        gateway.call("echo", &nested(depth)).expect_error(400, "invalid_arguments", "arguments of `echo`");
    }
    gateway.call("echo", &nested(100_000)).expect_error(400, "invalid_arguments", "nested too deeply");
    let long = format!(r#"{{"a":[{}0]}}"#, "0,".repeat(1_000_000));
    gateway.call("echo", &long).expect_error(400, "invalid_arguments", "is not of type \"object\"");
    // A tool without rules takes anything.
    let deep = nested(10_000);
    gateway.call("received", &deep).expect_status(200);
    let key = [("X-API-Key", KEY)];
    gateway.request("GET", "/health/live", &key, b"").expect_status(200);
}
