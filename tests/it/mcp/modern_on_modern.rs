//! Modern clients of modern servers: the request as it is, to a process that all of them share.

use serde_json::{Value, json};

use super::{
    client::{MODERN, Modern, Session, calling, check_error},
    lines, progress_of, shared, start, text_of,
};
use crate::support::Gateway;

const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";

fn gateway(flags: &[&str]) -> Gateway {
    shared(&[&["--era", "modern"], flags].concat())
}

/// What the server got of a call of `received`.
#[track_caller]
fn received(modern: &Modern, params: Value) -> Value {
    let text = modern.send(1, "tools/call", params).text();
    serde_json::from_str(&text).unwrap_or_else(|cause| panic!("{text}: {cause}"))
}

#[test]
fn discovery_gives_what_the_server_says_of_itself() {
    let gateway = gateway(&["--instructions", "Ask nicely."]);
    let result = Modern::new(&gateway).result("server/discover", json!({}));
    assert_eq!(result["supportedVersions"], json!([MODERN]), "{result}");
    assert_eq!(result["instructions"], "Ask nicely.", "{result}");
    assert_eq!(result["_meta"][SERVER_INFO], json!({"name": "helper", "version": "1.0.0"}), "{result}");
    let capabilities = &result["capabilities"];
    for name in ["tools", "prompts", "resources", "completions"] {
        assert!(capabilities[name].is_object(), "{capabilities}");
    }
}

#[test]
fn the_request_arrives_as_it_was_sent() {
    let gateway = gateway(&[]);
    let modern = Modern::new(&gateway)
        .able_to(json!({"sampling": {"tools": {}}, "experimental": {"x": 1}}))
        .with_meta(LOG_LEVEL, json!("notice"))
        .with_meta("traceparent", json!("00-1-2-01"))
        .with_meta("com.example/own", json!({"z": 1, "a": [1.5]}));
    let params = calling("received", json!({"b": {"z": 1, "a": null}}), None);
    let mut got = received(&modern, params.clone());
    // Whether the gateway wants to hear of progress is its own affair.
    got["params"]["_meta"].as_object_mut().unwrap().remove("progressToken");
    assert_eq!(got["params"], modern.params(params), "{got:#}");
}

#[test]
fn results_pass_untouched() {
    let gateway = gateway(&[]);
    let modern = Modern::new(&gateway);
    let read = modern.result("resources/read", json!({"uri": "helper://text"}));
    assert_eq!((&read["ttlMs"], &read["cacheScope"]), (&json!(5000), &json!("private")), "{read}");
    let echo = modern.result("tools/call", json!({"name": "echo", "arguments": {"a": 1}}));
    let expected = json!({
        "content": [{"type": "text", "text": r#"{"a":1}"#}],
        "resultType": "complete",
        "_meta": {SERVER_INFO: {"name": "helper", "version": "1.0.0"}},
    });
    assert_eq!(echo, expected);
    let completion = json!({"ref": {"type": "ref/prompt", "name": "plain"}, "argument": {"name": "x", "value": "a"}});
    assert_eq!(
        modern.result("completion/complete", completion)["completion"]["values"],
        json!(["a of plain", "a too"])
    );
}

#[test]
fn progress_and_logs_come_on_the_stream_of_their_request() {
    let gateway = gateway(&[]);
    let modern = Modern::new(&gateway).with_meta(LOG_LEVEL, json!("warning"));
    for token in [json!("t"), json!(1), json!("1")] {
        let messages = modern.follow("id", token.clone(), "progress", json!({"n": 3})).messages();
        assert_eq!(progress_of(&messages), ["step 1", "step 2", "step 3"]);
        assert!(messages[..3].iter().all(|it| it["params"]["progressToken"] == token), "{messages:#?}");
        assert_eq!((messages.len(), &messages[3]["id"], text_of(&messages[3])), (4, &json!("id"), "done"));
    }
    assert_eq!(modern.call(1, "log", json!({"n": 2, "level": "error"})).messages().len(), 3);
    assert_eq!(modern.call(1, "log", json!({"n": 2, "level": "info"})).messages().len(), 1);
    assert_eq!(Modern::new(&gateway).call(1, "log", json!({"n": 2, "level": "error"})).messages().len(), 1);
}

#[test]
fn clients_with_the_same_ids_and_tokens_hear_their_own() {
    let gateway = gateway(&["--record"]);
    let clients = [Modern::new(&gateway), Modern::new(&gateway), Modern::new(&gateway)];
    let arguments = |n: usize| json!({"n": 1, "gate": "end", "value": format!("client {n}")});
    let mut streams: Vec<_> =
        clients.iter().enumerate().map(|(n, client)| client.follow(1, 1, "stream", arguments(n)).stream()).collect();
    for (n, stream) in streams.iter_mut().enumerate() {
        assert_eq!(stream.expect("notifications/progress")["params"]["message"], format!("client {n} step 1"));
    }
    let heard = lines(&clients[0].text("heard", json!({})));
    let calls = super::calls_of(&heard, "stream");
    let differ = |field: fn(&Value) -> &Value| field(calls[0]) != field(calls[1]) && field(calls[1]) != field(calls[2]);
    assert!(differ(|line| &line["id"]) && differ(|line| &line["params"]["_meta"]["progressToken"]), "{calls:#?}");
    clients[0].text("open", json!({"n": 3}));
    for stream in &mut streams {
        assert_eq!(text_of(&stream.response(1)), "done");
    }
}

#[test]
fn all_modern_clients_share_a_process() {
    for isolation in super::ISOLATIONS {
        let gateway = start(isolation, &["--era", "modern"], &[]);
        let pid = Modern::new(&gateway).text("pid", json!({}));
        assert_eq!(Modern::new(&gateway).text("pid", json!({})), pid, "{isolation}");
    }
}

#[test]
fn a_result_that_needs_input_passes_with_its_keys_and_its_state() {
    let gateway = gateway(&[]);
    let modern = Modern::new(&gateway).able_to(json!({"elicitation": {}}));
    let params = calling("ask", json!({"method": "elicitation/create", "value": "well?"}), None);
    let result = modern.send(1, "tools/call", params.clone()).result();
    assert_eq!(result["resultType"], "input_required", "{result}");
    assert_eq!(result["inputRequests"]["question-1"]["params"]["message"], "well?", "{result}");
    assert_eq!(result["requestState"], "round-1", "{result}");

    let mut retry = params.clone();
    retry["inputResponses"] = json!({"question-1": {"action": "accept", "content": {"answer": "é"}}});
    retry["requestState"] = result["requestState"].clone();
    let text = modern.send(2, "tools/call", retry.clone()).text();
    let got: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&got["inputResponses"], &got["requestState"]), (&retry["inputResponses"], &json!("round-1")));
    // Whether a state is right is for the server to say.
    retry["requestState"] = json!("tampered");
    check_error(&modern.send(3, "tools/call", retry).reply(), 400, -32602, Some(json!(3)));
}

#[test]
fn a_missing_capability_is_an_error_of_the_server() {
    let gateway = gateway(&[]);
    let params = calling("ask", json!({"method": "sampling/createMessage", "value": "well?"}), None);
    let reply = Modern::new(&gateway).send("id", "tools/call", params).reply();
    check_error(&reply, 400, -32021, Some(json!("id")));
    let expected = json!({"requiredCapabilities": {"sampling": {}}});
    reply.expect(reply.json()["error"]["data"] == expected, &expected.to_string());
}

#[test]
fn an_unknown_resource_passes_as_the_server_says_it() {
    let gateway = gateway(&[]);
    let reply = Modern::new(&gateway).send(1, "resources/read", json!({"uri": "helper://gone"})).reply();
    check_error(&reply, 400, -32602, Some(json!(1)));
    reply.expect(reply.json()["error"]["data"]["uri"] == "helper://gone", "data.uri");
}

#[test]
fn a_modern_worker_that_knows_no_ping_is_left_alone() {
    let quick = [("HEALTH_INTERVAL", "0.05"), ("HEALTH_TIMEOUT", "0.1"), ("STOP_GRACE", "0.2")];
    let gateway = start("shared", &["--era", "modern", "--record"], &quick);
    let modern = Modern::new(&gateway);
    let pid = modern.text("pid", json!({}));
    // Some rounds of it have passed when a second has.
    modern.call(1, "delay", json!({"ms": 1000})).result();
    assert_eq!(modern.text("pid", json!({})), pid, "{}", gateway.log());
}

#[test]
fn a_modern_worker_that_dies_is_replaced() {
    let gateway = gateway(&[]);
    let modern = Modern::new(&gateway);
    let pid = modern.text("pid", json!({}));
    let reply = modern.call(1, "crash", json!({"stderr": "out of luck"})).reply();
    check_error(&reply, 200, -32603, Some(json!(1)));
    let data = &reply.json()["error"]["data"];
    reply.expect(
        data["code"] == "worker_crashed" && data["stderr"].to_string().contains("out of luck"),
        "its last words",
    );
    gateway.wait_until("an answer", || modern.call(1, "echo", json!({})).response()["result"].is_object());
    assert_ne!(modern.text("pid", json!({})), pid);
}

#[test]
fn a_server_of_both_eras_has_a_process_for_each() {
    let gateway = shared(&["--era", "both", "--record"]);
    let (session, modern) = (Session::open(&gateway), Modern::new(&gateway));
    for _ in 0..3 {
        assert_ne!(session.text("pid", json!({})), modern.text("pid", json!({})));
    }
    // Each is spoken to in its own way only: it would have refused the other.
    let got = received(&modern, calling("received", json!({}), None));
    assert_eq!(got["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"], MODERN);
    let got: Value = serde_json::from_str(&session.text("received", json!({}))).unwrap();
    assert!(got["params"]["_meta"].get("io.modelcontextprotocol/protocolVersion").is_none(), "{got}");
}
