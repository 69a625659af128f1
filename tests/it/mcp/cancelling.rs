//! Calls that are cancelled, and calls whose client goes away: in the legacy era that is not the same, in the modern one it is.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{
    calls_of,
    client::{Modern, Session},
    heard, in_flight, open_gate, shared,
    stream::Stream,
    text_of, wait_for_calls, with_method,
};
use crate::support::Gateway;

/// A client is seen to be gone within 200 ms; a busy machine may need longer, a gateway that has to write first much longer.
const NOTICED_WITHIN: Duration = Duration::from_secs(3);

/// A call that has taken its step and answers when the gate opens.
#[track_caller]
fn gated(session: &Session, id: Value) -> Stream {
    let mut stream = session.follow(id.clone(), id, "stream", json!({"n": 1, "gate": "end"})).stream();
    stream.expect("notifications/progress");
    stream
}

#[track_caller]
fn wait_for_cancels(gateway: &Gateway, count: u64) {
    gateway.wait_until(&format!("{count} cancellations"), || gateway.counts()["cancels"] == count);
}

/// Waits until the gateway has no connection but the one that asks.
#[track_caller]
fn wait_for_silence(gateway: &Gateway) {
    gateway.wait_until("all connections gone", || gateway.stats()["connections"]["open"] == 1);
}

/// What the server was cancelled: the `requestId`s, which it must know as calls of this tool.
#[track_caller]
fn cancelled(gateway: &Gateway, tool: &str) -> Vec<Value> {
    let heard = heard(gateway);
    let calls: Vec<Value> = calls_of(&heard, tool).iter().map(|line| line["id"].clone()).collect();
    let cancelled = with_method(&heard, "notifications/cancelled");
    let ids: Vec<Value> = cancelled.iter().map(|line| line["params"]["requestId"].clone()).collect();
    assert!(ids.iter().all(|id| calls.contains(id)), "{ids:?} of {calls:?}: {heard:#?}");
    ids
}

// --- the legacy era ---------------------------------------------------------------------------------------------

#[test]
fn a_call_is_cancelled_by_a_notification_and_never_answered() {
    let gateway = shared(&["--record"]);
    let session = Session::open(&gateway);
    let mut stream = gated(&session, json!("c"));
    session.notify("notifications/cancelled", json!({"requestId": "c", "reason": "enough"}));
    stream.end();
    wait_for_cancels(&gateway, 1);
    assert_eq!(cancelled(&gateway, "stream").len(), 1);
    assert_eq!(session.text("echo", json!({})), "{}");
}

#[test]
fn a_cancelled_call_that_has_said_nothing_ends_without_a_message() {
    let gateway = shared(&["--record"]);
    let session = Session::open(&gateway);
    let posted = session.call(5, "silent", json!({}));
    wait_for_calls(&gateway, "silent", 1);
    session.notify("notifications/cancelled", json!({"requestId": 5}));
    let reply = posted.reply();
    reply.expect_status(200).expect_header("Content-Type", "text/event-stream");
    reply.expect(super::stream::messages(&reply).is_empty(), "no message");
    wait_for_cancels(&gateway, 1);
}

#[test]
fn a_call_that_waits_for_a_worker_can_be_cancelled_too() {
    let gateway = super::start("shared", &["--record"], &[("WORKER_CONCURRENCY", "1")]);
    let session = Session::open(&gateway);
    let queued = || gateway.stats()["servers"]["helper"]["pool"]["queued"].clone();
    let mut running = gated(&session, json!(1));
    let waiting = session.call(2, "echo", json!({"x": 1}));
    gateway.wait_until("a call in the queue", || queued() == 1);
    session.notify("notifications/cancelled", json!({"requestId": 2}));
    assert_eq!(waiting.messages(), [Value::Null; 0]);
    gateway.wait_until("an empty queue", || queued() == 0);
    session.notify("notifications/cancelled", json!({"requestId": 1}));
    running.end();
    wait_for_cancels(&gateway, 1);
    assert!(calls_of(&heard(&gateway), "echo").is_empty(), "it never reached the server");
}

#[test]
fn only_the_call_of_that_id_and_type_and_session_is_cancelled() {
    let gateway = shared(&["--record"]);
    let (session, other) = (Session::open(&gateway), Session::open(&gateway));
    let (mut number, mut text) = (gated(&session, json!(1)), gated(&session, json!("1")));
    let mut others = gated(&other, json!("1"));

    session.notify("notifications/cancelled", json!({"requestId": "1"}));
    text.end();
    wait_for_cancels(&gateway, 1);
    (0..2).for_each(|_| open_gate(&gateway));
    assert_eq!(text_of(&number.response(1)), "done");
    assert_eq!(text_of(&others.response("1")), "done");
    assert_eq!(cancelled(&gateway, "stream").len(), 1);
}

#[test]
fn cancelling_what_does_not_run_does_no_harm() {
    let gateway = shared(&["--record"]);
    let session = Session::open(&gateway);
    session.call(1, "echo", json!({})).result();
    for params in
        [json!({"requestId": 1}), json!({"requestId": "x"}), json!({"requestId": 2, "reason": "?"}), json!({})]
    {
        session.notify("notifications/cancelled", params);
    }
    assert_eq!(session.text("echo", json!({})), "{}");
    let heard = heard(&gateway);
    assert!(with_method(&heard, "notifications/cancelled").is_empty(), "{heard:#?}");
}

#[test]
fn a_late_answer_to_a_cancelled_call_reaches_nobody() {
    let gateway = shared(&["--record"]);
    let session = Session::open(&gateway);
    let posted = session.call(1, "delay", json!({"ms": 1000, "late": true}));
    wait_for_calls(&gateway, "delay", 1);
    session.notify("notifications/cancelled", json!({"requestId": 1}));
    assert_eq!(posted.messages(), [Value::Null; 0]);
    let late = || gateway.stats()["servers"]["helper"]["workers"][0]["late_answers_total"] == 1;
    gateway.wait_until("the late answer", late);
    assert_eq!(session.call(2, "echo", json!({"n": 2})).text(), r#"{"n":2}"#);
}

#[test]
fn a_request_outlives_its_client() {
    let gateway = super::start("shared", &["--record"], &[("SSE_KEEP_ALIVE", "0.1")]);
    let session = Session::open(&gateway);
    // One that has been told something, and one that has not.
    drop(gated(&session, json!(1)));
    let posted = session.call(2, "stream", json!({"n": 0, "gate": "end"}));
    wait_for_calls(&gateway, "stream", 2);
    drop(posted);
    // The signs of life are the clock: for a second it could be noticed that the client is gone.
    Session::open(&gateway).get().expect_comments(10);
    assert_eq!(in_flight(&gateway), 2, "both still run");
    (0..2).for_each(|_| open_gate(&gateway));
    gateway.wait_until("their end", || in_flight(&gateway) == 0);
    assert_eq!(cancelled(&gateway, "stream"), [Value::Null; 0]);
    assert_eq!(session.text("echo", json!({})), "{}");
}

#[test]
fn the_end_of_a_standalone_stream_ends_nothing_else() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    let mut stream = gated(&session, json!(1));
    drop(session.get());
    open_gate(&gateway);
    assert_eq!(text_of(&stream.response(1)), "done");
    assert_eq!(session.result("ping", json!({})), json!({}));
}

// --- the modern era ---------------------------------------------------------------------------------------------

#[test]
fn a_modern_client_that_goes_away_cancels_its_call_at_a_legacy_server() {
    let gateway = shared(&["--record"]);
    let modern = Modern::new(&gateway);
    let mut stream = modern.follow(1, "t", "stream", json!({"n": 1, "gate": "end"})).stream();
    stream.expect("notifications/progress");
    let left_at = Instant::now();
    drop(stream);
    wait_for_cancels(&gateway, 1);
    assert!(left_at.elapsed() < NOTICED_WITHIN, "{:?}", left_at.elapsed());

    let posted = modern.call("silent", "silent", json!({}));
    wait_for_calls(&gateway, "silent", 1);
    posted.connection.reset();
    wait_for_cancels(&gateway, 2);
    let heard = heard(&gateway);
    let ids: Vec<&Value> = ["stream", "silent"].iter().map(|tool| &calls_of(&heard, tool)[0]["id"]).collect();
    let cancelled = with_method(&heard, "notifications/cancelled");
    let cancelled: Vec<&Value> = cancelled.iter().map(|line| &line["params"]["requestId"]).collect();
    assert_eq!(cancelled, ids, "{heard:#?}");
}

#[test]
fn a_modern_client_that_goes_away_cancels_its_call_at_a_modern_server() {
    let gateway = shared(&["--record", "--era", "modern"]);
    let modern = Modern::new(&gateway);
    let mut stream = modern.follow(1, "t", "stream", json!({"n": 1, "gate": "end"})).stream();
    stream.expect("notifications/progress");
    drop(stream);
    let cancels = || {
        let counts: Value = serde_json::from_str(&modern.text("counts", json!({}))).unwrap();
        counts["cancels"].clone()
    };
    gateway.wait_until("the cancellation", || cancels() == 1);
    let heard = super::lines(&modern.text("heard", json!({})));
    let id = &calls_of(&heard, "stream")[0]["id"];
    assert_eq!(with_method(&heard, "notifications/cancelled")[0]["params"]["requestId"], *id, "{heard:#?}");
}

#[test]
fn a_modern_client_that_goes_away_after_the_answer_cancels_nothing() {
    let gateway = shared(&[]);
    let modern = Modern::new(&gateway);
    for n in 0..20 {
        assert_eq!(modern.call(n, "echo", json!({})).text(), "{}");
        modern.follow(n, n, "progress", json!({"n": 2})).result();
    }
    wait_for_silence(&gateway);
    assert_eq!(gateway.counts()["cancels"], 0);
}

#[test]
fn a_posted_cancellation_means_nothing_in_the_modern_era() {
    let gateway = shared(&[]);
    let modern = Modern::new(&gateway);
    let mut stream = modern.follow(1, "t", "stream", json!({"n": 1, "gate": "end"})).stream();
    stream.expect("notifications/progress");
    let params = modern.params(json!({"requestId": 1}));
    let body = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}).to_string();
    let headers = modern.headers("notifications/cancelled", &params);
    modern.post(&headers, &body).reply().expect_status(202);
    open_gate(&gateway);
    assert_eq!(text_of(&stream.response(1)), "done");
}
