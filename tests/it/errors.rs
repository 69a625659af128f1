//! Every row of the error table: one shape, the right status, and a message that names what was wrong.

use std::thread;

use crate::support::{Gateway, Helper, KEY, Launch};

#[test]
fn what_is_wrong_with_a_body_is_said() {
    let gateway = Gateway::start(&[], Helper::new());

    gateway.post("/tools/echo", r#"{"arguments": {"#).expect_error(400, "invalid_json", "valid JSON");
    gateway.post("/tools/echo", "hello").expect_error(400, "invalid_json", "valid JSON");
    gateway.post("/tools/echo", r#"{"arguments": {}} trailing"#).expect_error(400, "invalid_json", "valid JSON");
    gateway.post("/tools/echo", r#"{"arguments": [1]}"#).expect_status(400);
    gateway.post("/tools/echo", "[1]").expect_status(400);
    gateway.post("/tools/echo", r#"{"timeout": "soon"}"#).expect_error(400, "bad_request", "timeout");
    gateway.post("/tools/echo", &"[".repeat(100_000)).expect_status(400);
    let not_utf8 = gateway.request("POST", "/tools/echo", &[("X-API-Key", KEY)], b"{\"arguments\":{\"a\":\"\xff\"}}");
    not_utf8.expect_status(400);
    gateway.call("echo", "{}").expect_status(200);
}

#[test]
fn a_key_is_asked_for_and_may_stand_in_three_places() {
    let gateway = Gateway::start(&[], Helper::new());
    let ask = |path: &str, headers: &[(&str, &str)]| gateway.request("GET", path, headers, b"");

    ask("/tools", &[]).expect_error(401, "unauthorized", "X-API-Key");
    ask("/tools", &[("X-API-Key", "wrong")]).expect_error(401, "unauthorized", "key");
    ask("/tools?api_key=super-secre", &[]).expect_error(401, "unauthorized", "key");
    ask("/stats", &[]).expect_error(401, "unauthorized", "key");
    ask("/tools", &[("x-api-key", KEY)]).expect_status(200);
    ask("/tools", &[("Authorization", "Bearer super-secret")]).expect_status(200);
    ask("/tools?api_key=super%2Dsecret", &[]).expect_status(200);
}

#[test]
fn a_call_without_a_key_reaches_no_worker() {
    let gateway = Gateway::start(&[("MIN_WORKERS", "1"), ("MAX_WORKERS", "1")], Helper::new());

    gateway.request("POST", "/tools/echo", &[], b"{}").expect_error(401, "unauthorized", "key");
    let counts = gateway.call("counts", "{}").data();
    assert_eq!(counts["calls"], 1, "{counts}");
}

#[test]
fn an_unknown_tool_gets_its_close_names() {
    let gateway = Gateway::start(&[], Helper::new());

    gateway.call("ecko", "{}").expect_error(404, "unknown_tool", "`echo`");
    gateway.get("/tools/dely").expect_error(404, "unknown_tool", "`delay`");
    gateway.call("nothing-like-any", "{}").expect_error(404, "unknown_tool", "nothing-like-any");
}

#[test]
fn an_unknown_path_and_a_wrong_method_are_told_apart() {
    let gateway = Gateway::start(&[], Helper::new());

    gateway.get("/tool").expect_error(404, "not_found", "/tool");
    let wrong = gateway.request("DELETE", "/tools/echo", &[("X-API-Key", KEY)], b"");
    wrong.expect_error(405, "method_not_allowed", "DELETE");
    let allow = wrong.header("Allow").unwrap_or_default().to_owned();
    wrong.expect(allow.contains("GET") && allow.contains("POST"), "an `Allow` with GET and POST");
    gateway.post("/health", "{}").expect_error(405, "method_not_allowed", "POST");
}

#[test]
fn a_body_over_the_limit_is_refused() {
    let gateway = Gateway::start(&[("BODY_BYTES_MAX", "1k")], Helper::new());
    let text = "x".repeat(2000);

    gateway.call("echo", &format!(r#"{{"text":"{text}"}}"#)).expect_error(413, "body_too_large", "1024");
    gateway.call("echo", r#"{"text":"short"}"#).expect_status(200);
}

#[test]
fn a_session_that_is_none_is_refused_by_everything_that_calls() {
    let gateway = Gateway::start(&[], Helper::new());
    let ask = |method: &str, path: &str, session: &str| {
        gateway.request(method, path, &[("X-API-Key", KEY), ("X-Session-Id", session)], b"{}")
    };

    for (method, path) in [("POST", "/tools/echo"), ("POST", "/tools/echo/stream"), ("GET", "/ws/tools/echo")] {
        ask(method, path, "not one").expect_error(400, "bad_request", "`X-Session-Id`");
    }
    ask("POST", "/tools/echo", "one").expect_status(200);
    gateway.post("/tools/echo?session_id=", "{}").expect_error(400, "bad_request", "`session_id`");
    ask("GET", "/health", "not one").expect_status(200);
}

#[test]
fn what_a_tool_or_a_server_says_went_wrong_is_passed_on() {
    let gateway = Gateway::start(&[], Helper::new());

    let failed = gateway.call("error", r#"{"text":"no such city"}"#);
    failed.expect_error(422, "tool_error", "no such city");
    let content = r#"[{"type":"text","text":"no such city"}]"#;
    failed.expect(failed.raw("content") == content, content);

    let refused = gateway.call("rpc_error", r#"{"code":-32005,"message":"not today","data":{"retry":[1,2.50]}}"#);
    refused.expect_error(502, "worker_error", "not today");
    let error = refused.json()["error"].take();
    refused.expect(error["rpc_code"] == -32005, "the server's own code");
    refused.expect(refused.text().contains(r#"{"retry":[1,2.50]}"#), "the server's own data");

    gateway.call("not_mcp", "{}").expect_error(502, "worker_error", "MCP");
}

#[test]
fn a_server_that_prints_other_things_on_stdout_is_still_understood() {
    let gateway = Gateway::start(&[("MIN_WORKERS", "1"), ("MAX_WORKERS", "1")], Helper::new());

    for tool in ["garbage", "unknown_id", "twice"] {
        gateway.call(tool, "{}").expect_status(200);
    }
    let reply = gateway.call("twice", "{}");
    reply.expect_data(&"first".into());
    gateway.call("ask", r#"{"method":"ping"}"#).expect_status(200);
    let answer = gateway.call("ask", r#"{"method":"roots/list"}"#).data();
    assert_eq!(answer["error"]["code"], -32601, "{answer}");
    gateway.call("echo", r#"{"a":1}"#).expect_data(&serde_json::json!({"a": 1}));
}

#[test]
fn a_call_that_takes_too_long_is_given_up_and_cancelled() {
    let settings = [("MCP_REQUEST_TIMEOUT", "0.05"), ("MIN_WORKERS", "1"), ("MAX_WORKERS", "1")];
    let gateway = Gateway::start(&settings, Helper::new());

    let reply = gateway.call("delay", r#"{"ms":60000}"#);
    reply.expect_error(504, "timeout", "worker `helper-1` did not answer `delay` within 50 ms");
    gateway.wait_until("the cancellation", || gateway.call("counts", "{}").data()["cancels"] == 1);
}

#[test]
fn a_call_may_ask_for_less_time() {
    let gateway = Gateway::start(&[], Helper::new());

    let reply = gateway.post("/tools/delay", r#"{"arguments":{"ms":60000},"timeout":0.05}"#);
    reply.expect_error(504, "timeout", "within 50 ms");
}

#[test]
fn progress_keeps_a_call_alive() {
    let gateway = Gateway::start(&[("MCP_REQUEST_TIMEOUT", "0.4")], Helper::new());

    gateway.call("progress", r#"{"n":10,"ms":100}"#).expect_data(&"done".into());
}

#[test]
fn a_late_answer_is_dropped_and_the_worker_stays_up() {
    let settings = [("MCP_REQUEST_TIMEOUT", "0.05"), ("MIN_WORKERS", "1"), ("MAX_WORKERS", "1")];
    let gateway = Gateway::start(&settings, Helper::new());
    let pids = gateway.worker_pids();

    gateway.call("delay", r#"{"ms":200,"late":true}"#).expect_error(504, "timeout", "`delay`");
    gateway
        .wait_until("one late answer in /stats", || gateway.stats().to_string().contains(r#""late_answers_total":1"#));
    gateway.call("echo", r#"{"still":"here"}"#).expect_data(&serde_json::json!({"still": "here"}));
    assert_eq!(gateway.worker_pids(), pids);
}

#[test]
fn more_calls_than_fit_are_refused_at_once() {
    let settings = [("MIN_WORKERS", "1"), ("MAX_WORKERS", "1"), ("WORKER_CONCURRENCY", "1"), ("QUEUE_MAX", "1")];
    let gateway = Gateway::start(&settings, Helper::new());

    // One runs, one waits, and for the third there is no room.
    let replies = thread::scope(|scope| {
        let calls = [(); 3].map(|()| scope.spawn(|| gateway.call("delay", r#"{"ms":1000,"value":"done"}"#)));
        calls.map(|call| call.join().unwrap())
    });
    let (answered, refused): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == 200);
    assert_eq!((answered.len(), refused.len()), (2, 1));
    refused[0].expect_error(503, "overloaded", "wait");
    refused[0].expect(refused[0].header("Retry-After").is_some(), "a Retry-After");
    gateway.call("echo", "{}").expect_status(200);
}

#[test]
fn a_server_that_never_comes_up_is_named_with_its_reason() {
    let gateway = Launch::new(Helper::with(&["--exit-at-start", "3"])).start_without_waiting();

    gateway.wait_until("the reason", || gateway.get("/health").text().contains("exited with code 3"));
    let reply = gateway.call("echo", "{}");
    reply
        .expect_error(503, "no_worker", "exited with code 3")
        .expect(reply.header("Retry-After").is_some(), "Retry-After");
    gateway.get("/health").expect_status(503);
}

#[test]
fn a_server_of_an_unknown_revision_is_not_used() {
    let gateway = Launch::new(Helper::with(&["--revision", "2026-01-01"])).start_without_waiting();

    gateway.wait_until("the reason", || gateway.get("/health").text().contains("2026-01-01"));
}

#[test]
fn every_known_revision_is_spoken() {
    for revision in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        let gateway = Gateway::start(&[], Helper::with(&["--revision", revision]));
        gateway.call("echo", r#"{"a":1}"#).expect_data(&serde_json::json!({"a": 1}));
    }
}

#[test]
fn an_answer_over_the_limit_fails_its_call_and_not_the_worker() {
    let settings = [("WORKER_LINE_MAX", "100k"), ("MIN_WORKERS", "1"), ("MAX_WORKERS", "1")];
    let gateway = Gateway::start(&settings, Helper::new());
    let pids = gateway.worker_pids();

    gateway.call("big", r#"{"bytes":1000000}"#).expect_error(502, "worker_error", "longer than 102400 bytes");
    gateway.call("big", r#"{"bytes":50000}"#).expect_status(200);
    assert_eq!(gateway.worker_pids(), pids);
}
