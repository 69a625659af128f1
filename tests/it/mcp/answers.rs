//! Answers to requests of a session: JSON or a stream, what stands in each event, and what goes wrong.

use serde_json::{Value, json};

use super::{
    client::{Opening, Session, request},
    heard, progress_of, shared, start,
    stream::{Event, Posted},
    text_of, with_method,
};
use crate::support::Gateway;

/// Stream and number of an event's id.
#[track_caller]
fn numbers_of(event: &Event) -> (u64, u64) {
    let numbers = event.id.as_ref().and_then(|id| {
        let (stream, number) = id.split_once('-')?;
        Some((stream.parse().ok()?, number.parse().ok()?))
    });
    numbers.unwrap_or_else(|| panic!("expected: an id `STREAM-NUMBER`\nactual: {event:?}"))
}

/// All events of an answer that is a stream.
#[track_caller]
fn events_of(posted: Posted) -> Vec<Event> {
    let mut stream = posted.stream();
    std::iter::from_fn(|| stream.next()).collect()
}

#[test]
fn an_answer_with_nothing_to_tell_before_it_is_json() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    // Without a token there is no progress to tell of.
    for (tool, arguments) in [("echo", json!({"a": [1.5, "é"]})), ("progress", json!({"n": 3}))] {
        let reply = session.call("é", tool, arguments).reply();
        reply.expect_status(200).expect_header("Content-Type", "application/json");
        let body = reply.json();
        reply.expect(body["jsonrpc"] == "2.0" && body["id"] == "é", "the id of the request");
        reply.expect(body["result"]["content"].is_array(), "the tool's result");
        reply.expect(reply.header("Mcp-Session-Id").is_none_or(|it| it == session.id), "no other session");
    }
}

#[test]
fn an_answer_that_is_not_the_first_thing_to_tell_comes_as_a_stream() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    let messages = session.follow(1, "t", "progress", json!({"n": 3})).messages();
    assert_eq!(progress_of(&messages), ["step 1", "step 2", "step 3"], "{messages:#?}");
    assert_eq!(messages[0]["params"], json!({"progressToken": "t", "progress": 1, "total": 3, "message": "step 1"}));
    assert_eq!((messages.len(), &messages[3]["id"], text_of(&messages[3])), (4, &json!(1), "done"));

    let messages = session.call(2, "log", json!({"n": 2, "level": "warning", "data": {"z": 1}})).messages();
    let log = json!({
        "jsonrpc": "2.0",
        "method": "notifications/message",
        "params": {"level": "warning", "logger": "helper", "data": {"z": 1}},
    });
    assert_eq!(messages[..2], [log.clone(), log], "{messages:#?}");
    assert_eq!((messages.len(), &messages[2]["id"]), (3, &json!(2)));
}

#[test]
fn each_message_comes_when_it_is_said() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    let posted = session.follow(1, "t", "stream", json!({"n": 3, "gate": "each"}));
    super::open_gate(&gateway);
    let mut stream = posted.stream();
    stream.head.expect_header("Cache-Control", "no-cache");
    for step in 1..=3 {
        assert_eq!(stream.expect("notifications/progress")["params"]["progress"], step);
        // The tool takes no further step before this.
        super::open_gate(&gateway);
    }
    assert_eq!(text_of(&stream.response(1)), "done");
}

#[test]
fn each_event_of_a_stream_has_an_id_by_which_it_is_known_in_the_session() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    let first = events_of(session.follow(1, "t", "progress", json!({"n": 3})));
    let second = events_of(session.follow(2, "t", "progress", json!({"n": 2})));
    let mut streams = Vec::new();
    for events in [&first, &second] {
        let (stream, _) = numbers_of(&events[0]);
        let numbers: Vec<(u64, u64)> = events.iter().map(numbers_of).collect();
        assert!(numbers.iter().all(|it| it.0 == stream), "one stream: {events:#?}");
        assert!(numbers.is_sorted_by(|before, after| before.1 < after.1), "in order: {events:#?}");
        // Its name would be `message`, which is what no name means.
        assert!(events.iter().all(|event| event.name.as_deref().is_none_or(|it| it == "message")), "{events:#?}");
        streams.push(stream);
    }
    assert!(streams[0] != streams[1] && !streams.contains(&0), "{streams:?}: 0 is the standalone one");
}

#[test]
fn a_client_of_the_newest_revision_is_given_an_id_before_anything_else() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    let events = events_of(session.follow(1, "t", "progress", json!({"n": 1})));
    assert_eq!(events.len(), 3, "{events:#?}");
    assert_eq!((events[0].raw.as_str(), events[0].retry), ("", Some(1000)), "{events:#?}");
    numbers_of(&events[0]);
    assert!(events[1..].iter().all(|event| event.retry.is_none()), "{events:#?}");
}

#[test]
fn older_clients_are_told_no_event_without_data() {
    let gateway = shared(&[]);
    for revision in ["2024-11-05", "2025-03-26", "2025-06-18"] {
        let session = Opening::new().revision(revision).open(&gateway);
        let events = events_of(session.follow(1, "t", "progress", json!({"n": 1})));
        assert_eq!(events.len(), 2, "{revision}: {events:#?}");
        assert!(events.iter().all(|event| !event.raw.is_empty()), "{revision}: {events:#?}");

        session.result("resources/subscribe", json!({"uri": "helper://text"}));
        let mut standing = session.get();
        session.text("update", json!({"uri": "helper://text"}));
        assert!(!standing.event().raw.is_empty(), "{revision}");
    }
}

#[test]
fn a_request_that_takes_long_is_kept_alive_as_a_stream() {
    let gateway = start("shared", &[], &[("SSE_KEEP_ALIVE", "0.1")]);
    let session = Session::open(&gateway);
    let mut stream = session.call(1, "delay", json!({"ms": 800})).stream();
    let response = stream.response(1);
    assert_eq!(text_of(&response), "done");
    stream.head.expect(2 <= stream.n_comments, "signs of life");
}

#[test]
fn arguments_and_results_pass_byte_for_byte() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    let arguments = r#"{"z":12345678901234567890,"a":{"y":1.10,"b":[1e400,-0.0,null]},"é":"🙂 \"q\" \\","z2":""}"#;
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"echo_structured","arguments":{arguments},"_meta":{{"com.example/x":1.10}}}}}}"#
    );
    let reply = session.post(&body).reply();
    reply.expect_status(200).expect(reply.text().contains(&format!(r#""structuredContent":{arguments}"#)), arguments);

    let body = body.replace("echo_structured", "received");
    let received = session.post(&body).text();
    assert!(received.contains(&format!(r#""arguments":{arguments}"#)), "{received}");
    assert!(received.contains(r#""com.example/x":1.10"#), "{received}");
}

#[test]
fn ids_come_back_as_they_were_sent() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    for id in ["0", "-1", "9007199254740993", r#""""#, r#""1""#, r#""é \"q\" \\ \u0001""#, r#""x-0""#] {
        let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"echo"}}}}"#);
        let reply = session.post(&body).reply();
        let (sent, came): (Value, Value) = (serde_json::from_str(id).unwrap(), reply.json()["id"].clone());
        reply.expect_status(200).expect(came == sent, id);
    }
}

#[test]
fn a_large_answer_arrives_whole() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    assert_eq!(session.text("big", json!({"bytes": 3_000_000})).len(), 3_000_000);
}

#[test]
fn an_answer_larger_than_what_may_wait_for_its_client_arrives_on_a_stream_as_well() {
    let gateway = start("shared", &[], &[("STREAM_QUEUE_BYTES", "64k")]);
    let session = Session::able(&gateway);
    let mut stream = session.call(1, "ask", json!({"method": "elicitation/create", "value": "well?"})).stream();
    let question = stream.expect("elicitation/create");
    let content = "x".repeat(200_000);
    session.respond(&question, json!({"content": content}));
    assert!(text_of(&stream.response(1)).contains(&content));
}

#[test]
fn what_waits_on_the_standalone_stream_takes_no_room_from_answers() {
    let gateway = start("session", &[], &[("STREAM_QUEUE_BYTES", "64k")]);
    let session = Session::open(&gateway);
    let log = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x".repeat(1000)}});
    for _ in 0..20 {
        session.text("say", json!({"messages": vec![&log; 10], "after": true}));
        // Behind it they have come.
        session.text("echo", json!({}));
    }
    let messages = session.follow(1, "t", "progress", json!({"n": 3, "value": "x".repeat(3000)})).messages();
    assert_eq!((progress_of(&messages).len(), messages.len()), (3, 4), "{messages:#?}");
    assert_eq!(text_of(&messages[3]), "done");
}

#[test]
fn a_ping_is_answered_with_an_empty_result() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    let reply = session.post(r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#).reply();
    reply.expect_status(200).expect(reply.json() == json!({"jsonrpc": "2.0", "id": "p", "result": {}}), "{}");
}

#[test]
fn requests_have_ids_of_the_gateways_own_at_the_server() {
    let gateway = shared(&["--record"]);
    let session = Session::open(&gateway);
    let other = Session::open(&gateway);
    for session in [&session, &other] {
        session.send(1, "completion/complete", json!({})).error();
        session.call("2", "echo", json!({})).result();
    }
    let heard = heard(&gateway);
    let ids: Vec<&Value> = heard.iter().filter_map(|line| line.get("id")).collect();
    let is_doubled = ids.iter().enumerate().any(|(n, id)| ids[..n].contains(id));
    assert!(!is_doubled, "an id twice: {heard:#?}");
}

#[test]
fn prompts_resources_and_completions_are_the_servers() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    let prompt = session.result("prompts/get", json!({"name": "greeting", "arguments": {"name": "Ada"}}));
    assert_eq!(prompt["messages"][0]["content"]["text"], "Hello, Ada!", "{prompt}");
    let contents = session.result("resources/read", json!({"uri": "helper://item/17"}));
    assert_eq!(contents["contents"][0]["text"], "item 17", "{contents}");
    let reference = json!({"type": "ref/prompt", "name": "greeting"});
    let values =
        session.result("completion/complete", json!({"ref": reference, "argument": {"name": "name", "value": "A"}}));
    assert_eq!(values["completion"]["values"], json!(["A of greeting", "A too"]), "{values}");
}

#[test]
fn an_error_of_the_server_passes_untouched() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    let reply =
        session.call("e", "rpc_error", json!({"code": -32123, "message": "no luck", "data": {"a": [1.5]}})).reply();
    let error = json!({"code": -32123, "message": "no luck", "data": {"a": [1.5]}});
    reply.expect_status(200).expect(reply.json() == json!({"jsonrpc": "2.0", "id": "e", "error": error}), "that error");

    let unknown = session.error("tools/call", json!({"name": "no-such-tool"}));
    assert_eq!(unknown, json!({"code": -32602, "message": "Unknown tool: no-such-tool"}));
    let unknown = session.error("resources/read", json!({"uri": "helper://gone"}));
    assert_eq!((&unknown["code"], &unknown["data"]["uri"]), (&json!(-32002), &json!("helper://gone")));
    let unknown = session.error("no/such/method", json!({}));
    assert_eq!(unknown["code"], -32601, "{unknown}");
    let failed = session.result("tools/call", json!({"name": "error", "arguments": {"text": "oh"}}));
    assert_eq!(failed, json!({"content": [{"type": "text", "text": "oh"}], "isError": true}));
}

/// The error of the gateway itself that a call ends with.
#[track_caller]
fn check_failure(gateway: &Gateway, error: &Value, code: &str, text: &str) {
    let says = error["message"].as_str().is_some_and(|it| it.contains(text));
    let is_as_expected = error["code"] == -32603 && error["data"]["code"] == code && says;
    assert!(
        is_as_expected,
        "expected: -32603 with data.code `{code}` and {text:?}\nactual: {error}\n{}",
        gateway.framed_log()
    );
}

#[test]
fn a_call_without_an_answer_in_time_is_an_error_and_cancelled() {
    let gateway = start("shared", &[], &[("MCP_REQUEST_TIMEOUT", "0.3")]);
    let session = Session::open(&gateway);
    check_failure(&gateway, &session.call(1, "silent", json!({})).error(), "timeout", "`silent` within 300 ms");
    gateway.wait_until("the cancellation", || gateway.counts()["cancels"] == 1);
    let mut stream = session.follow(2, "t", "quiet", json!({})).stream();
    stream.expect("notifications/progress");
    check_failure(&gateway, &stream.response(2)["error"], "timeout", "`quiet`");
}

#[test]
fn a_worker_that_dies_is_an_error_with_its_last_words() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    let error = session.call(1, "crash", json!({"code": 3, "stderr": "out of luck"})).error();
    check_failure(&gateway, &error, "worker_crashed", "exited with code 3");
    assert!(error["data"]["stderr"].to_string().contains("out of luck"), "{error}");
}

#[test]
fn a_full_queue_is_an_error_that_says_when_to_try_again() {
    let gateway = start("shared", &[], &[("WORKER_CONCURRENCY", "1"), ("QUEUE_MAX", "1")]);
    let session = Session::open(&gateway);
    let queued = || gateway.stats()["servers"]["helper"]["pool"]["queued"] == 1;
    let mut running = session.follow(1, "t", "stream", json!({"n": 1, "gate": "end"})).stream();
    running.expect("notifications/progress");
    let waiting = session.call(2, "echo", json!({}));
    gateway.wait_until("a call in the queue", queued);

    let error = session.call(3, "echo", json!({})).error();
    check_failure(&gateway, &error, "overloaded", "");
    assert!(error["data"]["retry_after"].is_number(), "{error}");
    session.notify("notifications/cancelled", json!({"requestId": 1}));
    running.end();
    assert_eq!(text_of(&waiting.response()), "{}");
}

#[test]
fn a_server_that_keeps_dying_is_an_error_with_the_reason() {
    let settings = [("BREAKER_FAILURES", "1"), ("BREAKER_COOLDOWN", "60")];
    let folder = crate::support::Folder::new();
    let broken = folder.path().join("broken").display().to_string();
    let gateway = start("shared", &["--exit-while-exists", &broken], &settings);
    let session = Session::open(&gateway);
    folder.file("broken", "");
    session.call(1, "crash", json!({})).error();
    gateway.wait_until("the open breaker", || gateway.stats()["servers"]["helper"]["breaker"]["state"] == "open");

    let error = session.call(2, "echo", json!({})).error();
    check_failure(&gateway, &error, "breaker_open", "");
    assert!(error["data"]["retry_after"].is_number(), "{error}");
}

#[test]
fn a_notification_of_the_client_that_nobody_waits_for_is_accepted() {
    let gateway = shared(&["--record"]);
    let session = Session::open(&gateway);
    session.notify("notifications/no/such/thing", json!({"x": 1}));
    session.notify("notifications/progress", json!({"progressToken": "unknown", "progress": 1}));
    session.accepted(&json!({"jsonrpc": "2.0", "id": 17, "result": {}}));
    session.accepted(&json!({"jsonrpc": "2.0", "id": "x", "error": {"code": -1, "message": "no"}}));
    assert_eq!(session.text("echo", json!({})), "{}");
    let heard = heard(&gateway);
    // Nobody asked: the shared worker is not told that somebody answered.
    assert!(with_method(&heard, "notifications/progress").is_empty(), "{heard:#?}");
    assert!(heard.iter().all(|line| line.get("method").is_some()), "{heard:#?}");
}

#[test]
fn requests_of_a_session_run_at_the_same_time() {
    let gateway = shared(&["--record"]);
    let session = Session::open(&gateway);
    let waiting = session.call(1, "delay", json!({"ms": 60_000}));
    super::wait_for_calls(&gateway, "delay", 1);
    assert_eq!(session.text("echo", json!({"n": 2})), r#"{"n":2}"#);
    session.notify("notifications/cancelled", json!({"requestId": 1}));
    assert_eq!(waiting.messages(), [Value::Null; 0]);
}

#[test]
fn a_request_can_be_sent_on_the_connection_of_the_one_before() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    let mut connection = gateway.connect();
    for n in 0..3 {
        let body = request(n, "tools/call", &super::client::calling("progress", json!({"n": 2}), Some(json!(n))));
        let mut posted = Posted::send_on(connection, &gateway, "POST", "/mcp", &session.headers(), &body);
        let reply = gateway.reply("on the same connection", posted.connection.receive(false).unwrap());
        assert_eq!(progress_of(&super::stream::messages(&reply)), ["step 1", "step 2"]);
        connection = posted.connection;
    }
}
