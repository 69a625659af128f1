//! Trace context: what a client says in headers, its server hears in `_meta`, and the logs have its id.

use serde_json::{Value, json};

use crate::{
    mcp::client::{Modern, PLAIN, Session, calling, request},
    sse::client::EventStream,
    support::{Gateway, Helper, KEY},
    ws::client::{Socket, handshake},
};

const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const OTHER_PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const STATE: &str = r#"rojo=00f067aa0ba902b7,congo=t61"x"#;

/// What a server that is called hears of a trace.
fn trace_of(line: &Value) -> (Option<&str>, Option<&str>) {
    let meta = &line["params"]["_meta"];
    (meta["traceparent"].as_str(), meta["tracestate"].as_str())
}

fn gateway(flags: &[&str]) -> Gateway {
    let settings = [("LOG_LEVEL", "DEBUG"), ("MIN_WORKERS", "1"), ("MAX_WORKERS", "1")];
    Gateway::start(&settings, Helper::with(flags))
}

/// What the server hears that is called with these headers.
#[track_caller]
fn heard_with(gateway: &Gateway, headers: &[(&str, &str)]) -> Value {
    let headers = [&[("X-API-Key", KEY)], headers].concat();
    gateway.request("POST", "/tools/received", &headers, b"{}").data()
}

/// The line in the text of a tool's result in a JSON-RPC response.
#[track_caller]
fn line_of(response: &Value) -> Value {
    let text = response["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{response}"));
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_plain_call_of_either_era_passes_it_on() {
    for flags in [&[][..], &["--era", "modern"]] {
        let gateway = gateway(flags);
        let heard = heard_with(&gateway, &[("traceparent", PARENT), ("TraceState", STATE)]);
        assert_eq!(trace_of(&heard), (Some(PARENT), Some(STATE)), "{heard}");
        assert!(heard["params"]["_meta"]["progressToken"].is_number(), "{heard}");
        let heard = heard_with(&gateway, &[("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2")]);
        assert_eq!(trace_of(&heard), (Some(PARENT), Some("a=1,b=2")), "several headers are one list");
    }
}

#[test]
fn without_one_or_with_a_malformed_one_nothing_is_added() {
    let gateway = gateway(&[]);
    let plain = heard_with(&gateway, &[]);
    assert_eq!(plain["params"]["_meta"].as_object().unwrap().len(), 1, "{plain}");
    for headers in [
        &[("traceparent", "00-xyz")][..],
        &[("traceparent", PARENT), ("traceparent", OTHER_PARENT)],
        &[("tracestate", STATE)],
    ] {
        let heard = heard_with(&gateway, headers);
        assert_eq!(trace_of(&heard), (None, None), "{headers:?}: {heard}");
    }
    let heard = heard_with(&gateway, &[("traceparent", PARENT), ("tracestate", "not a state")]);
    assert_eq!(trace_of(&heard), (Some(PARENT), None));
    assert!(!gateway.log().contains("xyz"), "{}", gateway.log());
}

#[test]
fn a_stream_passes_it_on() {
    let gateway = gateway(&[]);
    let mut connection = gateway.connect();
    let headers = [("X-API-Key", KEY), ("traceparent", PARENT)];
    connection.send("POST", "/tools/received/stream", &headers, b"{}").unwrap();
    let result = EventStream::answering(connection, &gateway, "a traced stream").expect_event("result");
    assert_eq!(trace_of(&result["data"]), (Some(PARENT), None), "{result}");
}

#[test]
fn a_websocket_passes_on_that_of_its_handshake_or_of_each_call() {
    let gateway = gateway(&[]);
    let head = handshake("/ws/tools/received") + &format!("X-API-Key: {KEY}\r\ntraceparent: {PARENT}\r\n\r\n");
    let mut connection = gateway.connect();
    connection.send_raw(&head).unwrap();
    let mut socket = Socket::answering(connection, &gateway, &head);
    let mut heard_by = |message: Value| {
        socket.send(message.to_string());
        socket.expect_event("started", "1");
        socket.expect_event("complete", "1")["data"].clone()
    };
    assert_eq!(trace_of(&heard_by(json!({"id": 1}))), (Some(PARENT), None));
    let own = json!({"id": 1, "traceparent": OTHER_PARENT, "tracestate": STATE});
    assert_eq!(trace_of(&heard_by(own)), (Some(OTHER_PARENT), Some(STATE)));
    assert_eq!(trace_of(&heard_by(json!({"id": 1, "traceparent": "none"}))), (Some(PARENT), None));
}

#[test]
fn resources_and_prompts_pass_it_on() {
    for flags in [&["--record"][..], &["--record", "--era", "modern"]] {
        let gateway = gateway(flags);
        let headers = [("X-API-Key", KEY), ("traceparent", PARENT)];
        gateway.request("GET", "/resources/read?uri=helper://item/1", &headers, b"").expect_status(200);
        gateway.request("POST", "/prompts/plain", &headers, b"{}").expect_status(200);
        let heard = gateway.call("heard", "{}").data();
        for method in ["resources/read", "prompts/get"] {
            let line = heard.as_array().unwrap().iter().find(|line| line["method"] == method).unwrap();
            assert_eq!(trace_of(line), (Some(PARENT), None), "{line}");
        }
    }
}

#[test]
fn what_an_mcp_client_says_in_meta_wins_over_its_headers() {
    for flags in [&[][..], &["--era", "modern"]] {
        let gateway = gateway(flags);
        let session = Session::open(&gateway);
        let modern = Modern::new(&gateway);
        let heard_by_legacy = |params: &Value| {
            let headers = [session.headers(), vec![("traceparent", PARENT), ("tracestate", STATE)]].concat();
            line_of(&gateway.request("POST", "/mcp", &headers, request(1, "tools/call", params).as_bytes()).json())
        };
        let heard_by_modern = |params: Value| {
            let params = modern.params(params);
            let mut headers = modern.headers("tools/call", &params);
            headers.extend([("traceparent", PARENT), ("tracestate", STATE)]);
            line_of(&gateway.request("POST", "/mcp", &headers, request(1, "tools/call", &params).as_bytes()).json())
        };
        let plain = calling("received", json!({}), None);
        assert_eq!(trace_of(&heard_by_legacy(&plain)), (Some(PARENT), Some(STATE)));
        assert_eq!(trace_of(&heard_by_modern(plain.clone())), (Some(PARENT), Some(STATE)));
        let mut own = plain;
        own["_meta"] = json!({"traceparent": OTHER_PARENT});
        assert_eq!(trace_of(&heard_by_legacy(&own)), (Some(OTHER_PARENT), None));
        let without = session.call(2, "received", json!({})).reply().json();
        assert_eq!(trace_of(&line_of(&without)), (None, None));
    }
    assert!(PLAIN.iter().all(|(name, _)| !name.starts_with("trace")));
}

#[test]
fn the_log_has_the_id_of_the_trace_at_the_request_and_the_call() {
    let gateway = gateway(&[]);
    heard_with(&gateway, &[("traceparent", PARENT), ("X-Request-Id", "req-7")]);
    let has_both = || {
        let log = gateway.log();
        let mut lines = log.lines().filter(|line| line.contains("req-7") && line.contains(TRACE_ID));
        let is_call = |line: &str| line.contains("call of received by key api_key: ok at helper-1 after");
        let (first, second) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        is_call(first) && second.contains("POST /tools/received 200")
    };
    gateway.wait_until("both lines", has_both);
}
