//! Tools over plain HTTP: what a caller sees when all goes well.

use serde_json::{Value, json};

use crate::support::{Gateway, Helper, KEY, Launch, Server};

fn names(tools: &Value) -> Vec<&str> {
    tools["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect()
}

#[test]
fn the_root_says_what_runs_here_without_a_key() {
    let gateway = Gateway::start(&[], Helper::new());

    let reply = gateway.request("GET", "/", &[], b"");
    reply.expect_status(200).expect_header("Content-Type", "application/json");
    let body = reply.json();
    reply.expect(body["name"] == "mcpgate", "the name mcpgate");
    reply.expect(body["version"] == env!("CARGO_PKG_VERSION"), "the version of this crate");
    reply.expect(body["uptime_seconds"].is_number(), "uptime_seconds");
    reply.expect(!body["endpoints"].is_null(), "its endpoints");
}

#[test]
fn health_counts_the_workers_without_a_key() {
    let gateway = Gateway::start(&[("MIN_WORKERS", "3")], Helper::new());

    gateway.wait_until("3 ready workers", || gateway.usable_workers() == 3);
    let reply = gateway.request("GET", "/health", &[], b"");
    reply.expect_status(200);
    let body = reply.json();
    reply.expect(body["status"] == "healthy", "healthy");
    reply.expect(body["workers"]["total"] == 3, "3 workers in total");
    reply.expect(body["servers"]["helper"]["status"] == "healthy", "the server `helper` healthy");
    gateway.request("GET", "/health/live", &[], b"").expect_status(200);
    gateway.request("GET", "/health/ready", &[], b"").expect_status(200);
}

#[test]
fn a_gateway_whose_workers_still_start_says_so_and_lets_calls_wait() {
    let gateway = Launch::new(Helper::with(&["--start-delay-ms", "700"])).start_without_waiting();

    let health = gateway.get("/health");
    health.expect_status(503).expect(health.json()["status"] == "starting", "the status starting");
    gateway.get("/health/live").expect_status(200);
    gateway.call("echo", r#"{"a":1}"#).expect_data(&json!({"a": 1}));
}

#[test]
fn every_page_of_the_tools_is_listed_as_the_server_gave_it() {
    let gateway = Gateway::start(&[], Helper::with(&["--pages", "5"]));

    let reply = gateway.get("/tools");
    let body = reply.expect_status(200).json();
    let listed = names(&body);
    reply.expect(body["count"] == listed.len(), "a count of the tools");
    for name in ["echo", "delay", "crash", "no_content", "ask"] {
        reply.expect(listed.contains(&name), name);
    }
    let echo = &body["tools"][0];
    reply.expect(echo["server"] == "helper", "the server's name beside each tool");
    let schema = json!({"type": "object", "properties": {}, "required": []});
    reply.expect(echo["inputSchema"] == schema, "the schema of `echo`");
    let one = gateway.get("/tools/echo");
    one.expect_status(200).expect(one.json() == *echo, "the same as in the list");
}

#[test]
fn a_changed_list_of_tools_is_seen() {
    let gateway = Gateway::start(&[("MIN_WORKERS", "1"), ("MAX_WORKERS", "1")], Helper::new());

    gateway.call("set_tools", r#"{"names":["echo","fresh"]}"#).expect_status(200);
    gateway.wait_until("the new list", || names(&gateway.get("/tools").json()) == ["echo", "fresh"]);
    gateway.call("fresh", r#"{"is":"new"}"#).expect_data(&json!({"is": "new"}));
}

#[test]
fn a_call_says_who_answered_and_how_long_it_took() {
    let gateway = Gateway::start(&[], Helper::new());

    let reply = gateway.call("echo", r#"{"text":"hello"}"#);
    reply.expect_data(&json!({"text": "hello"}));
    let body = reply.json();
    reply.expect(body["tool"] == "echo", "the tool's name");
    reply.expect(body["worker"].as_str().is_some_and(|it| it.starts_with("helper-")), "the worker's name");
    reply.expect(body["duration_ms"].as_f64().is_some_and(|it| 0.0 < it), "duration_ms");
    reply.expect(body["request_id"].as_str() == reply.header("X-Request-Id"), "the request id of the header");
    gateway.post("/tools/echo", "{}").expect_data(&json!({}));
}

#[test]
fn the_callers_request_id_comes_back_if_it_is_a_sane_one() {
    let gateway = Gateway::start(&[], Helper::new());
    let ask = |id: &str| gateway.request("POST", "/tools/echo", &[("X-API-Key", KEY), ("X-Request-Id", id)], b"{}");

    let reply = ask("order-17.b");
    reply.expect_header("X-Request-Id", "order-17.b");
    reply.expect(reply.json()["request_id"] == "order-17.b", "the id in the body");
    for id in ["with \"quotes\"", &"x".repeat(1000)] {
        let reply = ask(id);
        reply.expect_status(200).expect(reply.header("X-Request-Id") != Some(id), "an id of the gateway's own");
    }
}

#[test]
fn arguments_arrive_as_they_were_sent() {
    let gateway = Gateway::start(&[], Helper::new());
    let arguments =
        r#"{"z":12345678901234567890,"a":{"y":1.10,"b":[1e400,-0.0,null]},"emoji":"🙂 é \u00e9 \"q\" \\","z2":""}"#;

    gateway.call("echo_structured", arguments).expect_raw("data", arguments);
    let escaped = arguments.replace('\\', "\\\\").replace('"', "\\\"");
    gateway.call("echo", arguments).expect_raw("content", &format!(r#"[{{"type":"text","text":"{escaped}"}}]"#));
}

#[test]
fn a_pretty_printed_body_arrives_on_one_line() {
    let gateway = Gateway::start(&[], Helper::new());
    let body = "{\r\n  \"arguments\": {\n    \"z\": 1,\n    \"a\": [\n      12345678901234567890,\n      \"two words\\n\"\n    ]\n  }\n}\n";

    let reply = gateway.post("/tools/echo_structured", body);
    reply.expect_raw("data", r#"{"z":1,"a":[12345678901234567890,"two words\n"]}"#);
}

#[test]
fn a_result_of_three_megabytes_arrives_whole() {
    let gateway = Gateway::start(&[], Helper::new());

    let reply = gateway.call("big", r#"{"bytes":3000000}"#);
    let text = format!("\"{}\"", "x".repeat(3_000_000));
    reply.expect_raw("content", &format!(r#"[{{"type":"text","text":{text}}}]"#)).expect_raw("data", &text);
    let plain = gateway.post("/call/big", r#"{"bytes":3000000}"#);
    plain.expect_status(200).expect_header("Content-Type", "application/json").expect(plain.text() == text, "the text");
}

#[test]
fn arguments_of_three_megabytes_arrive_whole() {
    let gateway = Gateway::start(&[], Helper::new());
    let arguments = format!(r#"{{"text":"{}"}}"#, "é\\n".repeat(750_000));

    gateway.call("echo_structured", &arguments).expect_raw("data", &arguments);
    // As text, which is JSON once its escapes are taken out.
    gateway.call("echo", &arguments).expect_raw("data", &arguments);
}

#[test]
fn data_is_the_value_of_the_only_block_or_an_array_of_all() {
    let gateway = Gateway::start(&[], Helper::new());
    let value = |value: &str| gateway.call("delay", &format!(r#"{{"ms":0,"value":{value}}}"#));

    value("1.10").expect_data(&json!("1.10"));
    value("true").expect_data(&json!("true"));
    value(r#"[1,{"a":2}]"#).expect_data(&json!([1, {"a": 2}]));
    value(r#""just text""#).expect_data(&json!("just text"));
    gateway.call("no_content", "{}").expect_data(&Value::Null).expect_raw("content", "[]");
    gateway.call("blocks", "{}").expect_data(&json!([
        "one",
        {"type": "image", "data": "iVBORw0KGgo=", "mimeType": "image/png"},
        {"type": "resource", "resource": {"uri": "test://two", "mimeType": "text/plain", "text": "two"}},
    ]));
}

#[test]
fn sixty_four_calls_of_a_slow_tool_run_side_by_side() {
    let settings = [("MIN_WORKERS", "8"), ("MAX_WORKERS", "8"), ("WORKER_CONCURRENCY", "32")];
    let gateway = Gateway::start(&settings, Helper::new());
    gateway.wait_until("8 ready workers", || gateway.usable_workers() == 8);

    // Held until all of them run: none waits for another.
    let mut callers: Vec<_> = (0..64).map(|_| gateway.connect()).collect();
    for caller in &mut callers {
        let body = br#"{"arguments":{"ms":60000}}"#;
        caller.send("POST", "/tools/delay", &[("X-API-Key", KEY)], body).unwrap();
    }
    gateway.wait_until("8 calls at each of 8 workers", || {
        let stats = gateway.stats();
        let workers = stats["servers"]["helper"]["workers"].as_array().unwrap().clone();
        workers.len() == 8 && workers.iter().all(|worker| worker["in_flight"] == 8)
    });
}

#[test]
fn statistics_name_every_worker_and_tool() {
    let gateway = Gateway::start(&[("MIN_WORKERS", "2")], Helper::new());
    gateway.wait_until("2 workers with a process", || gateway.worker_pids().len() == 2);

    gateway.call("echo", "{}").expect_status(200);
    let stats = gateway.stats();
    assert!(!stats["tools"]["echo"].is_null(), "{stats}");
    let pids = gateway.worker_pids();
    let own: Vec<u32> = gateway.processes().iter().map(|process| process.pid).collect();
    assert!(pids.iter().all(|pid| own.contains(pid)), "{pids:?} among {own:?}");
}

#[test]
fn statistics_tell_how_the_calls_of_a_tool_ended_and_how_long_they_took() {
    let gateway = Gateway::start(&[], Helper::new());

    assert_eq!(
        gateway.stats()["tools"]["delay"],
        json!({"calls": 0, "errors": 0, "errors_by_code": {}, "p50_ms": null, "p90_ms": null, "p99_ms": null}),
    );
    gateway.call("delay", r#"{"ms":50}"#).expect_status(200);
    gateway.post("/tools/delay", r#"{"arguments":{"ms":60000},"timeout":0.1}"#).expect_error(504, "timeout", "delay");
    gateway.post("/tools/delay/stream", r#"{"arguments":{"ms":60000},"timeout":0.1}"#).expect_status(200);
    let mut leaver = gateway.connect();
    leaver.send("POST", "/tools/delay", &[("X-API-Key", KEY)], br#"{"arguments":{"ms":60000}}"#).unwrap();
    drop(leaver);

    gateway.wait_until("the end of four calls", || gateway.stats()["tools"]["delay"]["calls"] == 4);
    let figures = gateway.stats()["tools"]["delay"].clone();
    assert_eq!((&figures["errors"], &figures["errors_by_code"]), (&json!(3), &json!({"timeout": 2, "cancelled": 1})));
    let ms = |name: &str| figures[name].as_f64().unwrap_or_else(|| panic!("no {name}: {figures}"));
    assert!(100.0 <= ms("p99_ms") && ms("p50_ms") <= ms("p90_ms") && ms("p90_ms") <= ms("p99_ms"), "{figures}");
}

#[test]
fn what_one_worker_of_the_bundled_server_creates_every_other_sees() {
    let gateway = Gateway::start(&[("MIN_WORKERS", "4"), ("MAX_WORKERS", "4")], Server::Bundled);
    gateway.wait_until("4 ready workers", || gateway.usable_workers() == 4);

    gateway.call("journeys_tool", r#"{"action":"create","name":"over the Alps"}"#).expect_status(200);
    let mut workers = std::collections::BTreeSet::new();
    gateway.wait_until("an answer of each of the 4 workers", || {
        let reply = gateway.call("journeys_tool", r#"{"action":"list","query":"over the Alps"}"#);
        reply.expect_status(200).expect(reply.text().contains("over the Alps"), "the new journey");
        workers.insert(reply.json()["worker"].as_str().unwrap().to_owned());
        workers.len() == 4
    });
}

#[test]
fn the_bundled_server_also_runs_inside_the_gateway() {
    let gateway = Gateway::start(&[("EXECUTION_MODE", "direct")], Server::Bundled);

    let reply = gateway.call("journeys_tool", r#"{"action":"list"}"#);
    reply.expect_status(200).expect(reply.json()["status"] == "success", "success");
    assert!(gateway.processes().is_empty(), "{:?}", gateway.processes());
}

#[test]
fn several_servers_live_side_by_side_and_one_that_fails_leaves_the_others_up() {
    let helper = Helper::program().display().to_string();
    let servers = json!({"mcpServers": {
        "one": {"command": helper, "min_workers": 1, "max_workers": 1, "env": {"GREETING": "hi"}},
        "two": {"command": helper, "args": ["--revision", "2024-11-05"], "min_workers": 1, "max_workers": 2},
        "broken": {"command": helper, "args": ["--exit-at-start", "7"]},
    }});
    let launch =
        Launch::new(Server::FromSettings).file("mcp.json", &servers.to_string()).arguments(&["--servers", "mcp.json"]);
    let gateway = launch.start();

    gateway.wait_until("the other server's tools", || gateway.get("/tools/two__echo").status == 200);
    gateway.call("two__echo", r#"{"a":1}"#).expect_data(&json!({"a": 1}));
    gateway.post("/servers/two/tools/echo", r#"{"arguments":{"b":2}}"#).expect_data(&json!({"b": 2}));
    let environment = gateway.call("one__env", "{}").data();
    assert_eq!(environment["GREETING"], "hi");
    gateway.wait_until("the reason of the broken one", || {
        let health = gateway.get("/health").json();
        let reason = health["servers"]["broken"]["reason"].as_str().unwrap_or_default().to_owned();
        health["status"] == "degraded" && reason.contains("exited with code 7")
    });
    gateway.call("broken__echo", "{}").expect_error(503, "no_worker", "exited with code 7");
}
