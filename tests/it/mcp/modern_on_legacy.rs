//! Modern clients of legacy servers: what is translated, and what stays as it is.

use serde_json::{Value, json};

use super::{
    client::{MODERN, Modern, check_error},
    heard, progress_of, shared,
    stream::Event,
    text_of,
};

const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";

#[test]
fn discovery_gives_what_the_server_said_of_itself() {
    let capabilities =
        r#"{"tools":{"listChanged":true},"prompts":{},"logging":{},"completions":{},"tasks":{"list":{}}}"#;
    let gateway = shared(&["--capabilities", capabilities, "--instructions", "Ask nicely."]);
    let result = Modern::new(&gateway).result("server/discover", json!({}));
    assert_eq!(result["supportedVersions"], json!([MODERN]), "{result}");
    assert_eq!(result["resultType"], "complete", "{result}");
    assert_eq!(result["instructions"], "Ask nicely.", "{result}");
    assert_eq!(result["_meta"][SERVER_INFO], json!({"name": "helper", "version": "1.0.0"}), "{result}");
    let has = |name: &str| result["capabilities"].get(name).is_some();
    assert!(has("tools") && has("prompts") && has("completions"), "{result}");
    assert!(!has("resources") && !has("tasks"), "{result}");
    assert_eq!((&result["ttlMs"], &result["cacheScope"]), (&json!(0), &json!("private")), "{result}");
}

#[test]
fn results_are_those_of_the_revision() {
    let gateway = shared(&[]);
    let modern = Modern::new(&gateway);
    let requests = [
        ("tools/list", json!({}), true),
        ("tools/call", json!({"name": "echo"}), false),
        ("prompts/list", json!({}), true),
        ("prompts/get", json!({"name": "plain"}), false),
        ("resources/list", json!({}), true),
        ("resources/templates/list", json!({}), true),
        ("resources/read", json!({"uri": "helper://text"}), true),
    ];
    for (method, params, is_cacheable) in requests {
        let result = modern.result(method, params);
        assert_eq!(result["resultType"], "complete", "{method}: {result}");
        assert_eq!(result["_meta"][SERVER_INFO]["name"], "helper", "{method}: {result}");
        let cache = (result.get("ttlMs"), result.get("cacheScope"));
        let expected = is_cacheable.then(|| (json!(0), json!("private")));
        assert_eq!(cache, (expected.as_ref().map(|it| &it.0), expected.as_ref().map(|it| &it.1)), "{method}: {result}");
    }
}

#[test]
fn tools_are_listed_without_what_the_revision_has_not() {
    let gateway = shared(&[]);
    let list = Modern::new(&gateway).result("tools/list", json!({}));
    let tools = list["tools"].as_array().unwrap();
    assert!(tools.iter().all(|tool| tool.get("execution").is_none()), "{tools:#?}");
    let region = tools.iter().find(|tool| tool["name"] == "region").unwrap();
    assert_eq!(region["inputSchema"]["properties"]["region"]["x-mcp-header"], "Region", "{region}");
    let lookup = tools.iter().find(|tool| tool["name"] == "lookup").unwrap();
    assert_eq!(lookup["annotations"], json!({"readOnlyHint": true}));
}

#[test]
fn what_a_tool_gives_passes_byte_for_byte() {
    let gateway = shared(&[]);
    let modern = Modern::new(&gateway);
    let arguments = r#"{"z":12345678901234567890,"a":{"y":1.10,"b":[1e400,-0.0,null]},"é":"🙂 \"q\" \\"}"#;
    let params = modern.params(json!({"name": "echo_structured", "arguments": {}}));
    let headers = modern.headers("tools/call", &params);
    let body = super::client::request(1, "tools/call", &params)
        .replace(r#""arguments":{}"#, &format!(r#""arguments":{arguments}"#));
    let reply = modern.post(&headers, &body).reply();
    reply.expect_status(200).expect(reply.text().contains(&format!(r#""structuredContent":{arguments}"#)), arguments);
    let failed = modern.result("tools/call", json!({"name": "error", "arguments": {"text": "oh"}}));
    assert_eq!((&failed["isError"], &failed["resultType"]), (&json!(true), &json!("complete")), "{failed}");
}

#[test]
fn an_unknown_resource_is_a_wrong_parameter() {
    let gateway = shared(&[]);
    let reply = Modern::new(&gateway).send("id", "resources/read", json!({"uri": "helper://gone"})).reply();
    check_error(&reply, 400, -32602, Some(json!("id")));
    reply.expect(reply.json()["error"]["data"]["uri"] == "helper://gone", "data.uri");
}

#[test]
fn progress_comes_on_a_stream_without_event_ids() {
    let gateway = shared(&[]);
    let modern = Modern::new(&gateway);
    for token in [json!("t"), json!(1), json!("1")] {
        let mut stream = modern.follow("id", token.clone(), "progress", json!({"n": 3})).stream();
        stream.head.expect_header("X-Accel-Buffering", "no");
        let events: Vec<Event> = std::iter::from_fn(|| stream.next()).collect();
        assert!(events.iter().all(|event| event.id.is_none() && event.retry.is_none()), "{events:#?}");
        let messages: Vec<Value> = events.iter().map(|event| serde_json::from_str(&event.raw).unwrap()).collect();
        assert_eq!(progress_of(&messages), ["step 1", "step 2", "step 3"]);
        assert!(messages[..3].iter().all(|it| it["params"]["progressToken"] == token), "{messages:#?}");
        assert_eq!((messages.len(), &messages[3]["id"], text_of(&messages[3])), (4, &json!("id"), "done"));
        assert_eq!(messages[3]["result"]["resultType"], "complete");
    }
    assert_eq!(modern.call(1, "progress", json!({"n": 3})).messages().len(), 1, "without a token there is none");
}

#[test]
fn a_quiet_call_is_kept_alive_as_a_stream() {
    let gateway = super::start("shared", &[], &[("SSE_KEEP_ALIVE", "0.1")]);
    let mut stream = Modern::new(&gateway).call(1, "delay", json!({"ms": 800})).stream();
    assert_eq!(text_of(&stream.response(1)), "done");
    stream.head.expect(2 <= stream.n_comments, "signs of life");
}

#[test]
fn logs_are_told_to_who_asks_for_them_from_the_level_that_is_asked_for() {
    let gateway = shared(&[]);
    let log = |modern: &Modern, level: &str| {
        let messages = modern.call(1, "log", json!({"n": 2, "level": level, "data": level})).messages();
        messages.iter().filter(|it| it["method"] == "notifications/message").count()
    };
    let silent = Modern::new(&gateway);
    let warned = Modern::new(&gateway).with_meta(LOG_LEVEL, json!("warning"));
    let all = Modern::new(&gateway).with_meta(LOG_LEVEL, json!("debug"));
    for (level, is_warning) in [("debug", false), ("notice", false), ("warning", true), ("emergency", true)] {
        assert_eq!(log(&silent, level), 0, "{level}");
        assert_eq!(log(&warned, level), if is_warning { 2 } else { 0 }, "{level}");
        assert_eq!(log(&all, level), 2, "{level}");
    }
}

#[test]
fn logs_of_one_client_reach_no_other() {
    let gateway = super::start("shared", &[], &[("MAX_WORKERS", "2")]);
    let clients =
        ["one", "two", "three"].map(|name| (name, Modern::new(&gateway).with_meta(LOG_LEVEL, json!("debug"))));
    std::thread::scope(|scope| {
        for (name, client) in &clients {
            scope.spawn(move || {
                for _ in 0..50 {
                    let messages = client.call(1, "log", json!({"n": 3, "data": name})).messages();
                    let told: Vec<&Value> = messages.iter().map(|message| &message["params"]["data"]).collect();
                    let all_its_own = [&json!(name), &json!(name), &json!(name), &Value::Null];
                    assert_eq!(told, all_its_own, "{messages:#?}");
                }
            });
        }
    });
}

#[test]
fn what_the_server_gets_is_legacy() {
    let gateway = shared(&["--record"]);
    let modern = Modern::new(&gateway);
    modern.result("tools/call", json!({"name": "echo", "_meta": {"traceparent": "00-1-2-01"}}));
    modern.result("server/discover", json!({}));
    let heard = heard(&gateway);
    assert!(super::with_method(&heard, "server/discover").is_empty(), "{heard:#?}");
    let meta = &super::calls_of(&heard, "echo")[0]["params"]["_meta"];
    assert_eq!(meta["traceparent"], "00-1-2-01", "{meta}");
}

#[test]
fn modern_and_plain_clients_use_the_same_workers() {
    let gateway = shared(&[]);
    let pid = gateway.call("pid", "{}").data();
    assert_eq!(Modern::new(&gateway).text("pid", json!({})), pid.as_str().unwrap());
    // But for the one that is asked whether it is modern.
    gateway.wait_until("no worker more", || gateway.processes().len() == 1);
}

#[test]
fn what_the_server_says_outside_of_requests_disturbs_nobody() {
    let gateway = shared(&[]);
    let modern = Modern::new(&gateway).with_meta(LOG_LEVEL, json!("debug"));
    let log = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "late"}});
    modern.text("say", json!({"messages": [log], "after": true}));
    // What came behind that answer has been read when the next one of the same worker has.
    gateway.call("echo", "{}").expect_status(200);
    for _ in 0..5 {
        let messages = modern.call(1, "echo", json!({})).messages();
        assert_eq!(messages.len(), 1, "{messages:#?}");
    }
}
