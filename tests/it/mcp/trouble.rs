//! What goes wrong in mid-session: workers that die or ask back, clients that do not read, gateways that stop.

use std::{
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{
    ISOLATIONS,
    client::{NEWEST, Session, calling, request},
    heard, in_flight, shared, start,
    stream::Posted,
    text_of,
};
use crate::support::{Connection, Gateway, Process, send_signal};

/// Small enough that a client that does not read is noticed after a few hundred kilobytes.
const NARROW_BYTES: usize = 16 * 1024;

/// The response of a session that has a worker again.
#[track_caller]
fn wait_for_answer(gateway: &Gateway, session: &Session) {
    let is_answered = || session.response("tools/call", json!({"name": "echo"}))["result"].is_object();
    gateway.wait_until("an answer", is_answered);
}

#[test]
fn a_session_goes_on_when_a_shared_worker_dies() {
    let gateway = shared(&[]);
    let (session, other) = (Session::open(&gateway), Session::open(&gateway));
    let mut standing = session.get();
    let mut running = session.follow(1, "t", "stream", json!({"n": 1, "gate": "end"})).stream();
    running.expect("notifications/progress");

    send_signal(gateway.worker_pids()[0], Signal::KILL);
    let error = running.response(1)["error"].take();
    assert_eq!((&error["code"], &error["data"]["code"]), (&json!(-32603), &json!("worker_crashed")), "{error}");
    for session in [&session, &other] {
        wait_for_answer(&gateway, session);
    }
    // What the new worker says is heard as before.
    session.text("change", json!({"what": "prompts"}));
    let mut message = standing.message();
    while message["method"] != "notifications/prompts/list_changed" {
        assert!(message["method"].as_str().is_some_and(|it| it.ends_with("list_changed")), "{message}");
        message = standing.message();
    }
}

#[test]
fn a_session_with_its_own_worker_gets_another_one_when_it_dies() {
    let gateway = start("session", &["--record"], &[]);
    let (session, other) = (Session::able(&gateway), Session::open(&gateway));
    let others = other.text("pid", json!({}));
    let pid = session.text("pid", json!({}));
    let mut running = session.follow(1, "t", "stream", json!({"n": 1, "gate": "end"})).stream();
    running.expect("notifications/progress");

    send_signal(pid.parse().unwrap(), Signal::KILL);
    let error = running.response(1)["error"].take();
    assert_eq!((&error["code"], &error["data"]["code"]), (&json!(-32603), &json!("worker_crashed")), "{error}");
    wait_for_answer(&gateway, &session);
    assert_ne!(session.text("pid", json!({})), pid);
    assert_eq!(other.text("pid", json!({})), others);
    // The new one knows its client as well.
    let heard = super::lines(&session.text("heard", json!({})));
    let initialize = super::with_method(&heard, "initialize")[0];
    assert!(initialize["params"]["capabilities"]["sampling"].is_object(), "{initialize}");
    let mut asking = session.call(2, "ask", json!({"method": "roots/list"})).stream();
    let question = asking.expect("roots/list");
    session.respond(&question, json!({"roots": []}));
    asking.response(2);
}

#[test]
fn a_subscription_survives_the_worker() {
    for isolation in ISOLATIONS {
        let gateway = start(isolation, &[], &[]);
        let session = Session::open(&gateway);
        session.result("resources/subscribe", json!({"uri": "helper://text"}));
        let mut standing = session.get();
        session.call(1, "crash", json!({})).error();
        wait_for_answer(&gateway, &session);
        gateway.wait_until("the subscription at the new worker", || {
            session.text("update", json!({"uri": "helper://text"})).contains("helper://text")
        });
        let mut message = standing.message();
        while message["method"] != "notifications/resources/updated" {
            assert!(message["method"].as_str().is_some_and(|it| it.ends_with("list_changed")), "{message}");
            message = standing.message();
        }
    }
}

#[test]
fn a_question_whose_server_dies_leads_nowhere() {
    for isolation in ISOLATIONS {
        let gateway = start(isolation, &[], &[]);
        let session = Session::able(&gateway);
        let pid = session.text("pid", json!({}));
        let mut asking = session.call(1, "ask", json!({"method": "elicitation/create", "value": "well?"})).stream();
        let question = asking.expect("elicitation/create");
        send_signal(pid.parse().unwrap(), Signal::KILL);
        assert_eq!(asking.response(1)["error"]["data"]["code"], "worker_crashed");
        session.respond(&question, json!({"action": "accept"}));
        wait_for_answer(&gateway, &session);
    }
}

#[test]
fn a_ping_of_the_server_is_answered_and_reaches_no_client() {
    for isolation in ISOLATIONS {
        let gateway = start(isolation, &["--record"], &[]);
        let session = Session::able(&gateway);
        let mut standing = session.get();
        for id in [json!("p"), json!(1), json!("1")] {
            let ping = json!({"jsonrpc": "2.0", "id": id, "method": "ping"});
            let messages = session.call(id.clone(), "say", json!({"messages": [ping]})).messages();
            assert_eq!(messages.len(), 1, "{messages:#?}");
            let answer = json!({"jsonrpc": "2.0", "id": id, "result": {}});
            let heard = || super::lines(&session.text("heard", json!({})));
            gateway.wait_until("the answer at the worker", || heard().contains(&answer));
        }
        session.text("change", json!({"what": "tools"}));
        standing.expect("notifications/tools/list_changed");
    }
}

#[test]
fn a_request_of_the_server_that_is_none_of_mcp_is_refused() {
    let gateway = shared(&["--record"]);
    let session = Session::able(&gateway);
    let request = json!({"jsonrpc": "2.0", "id": "odd", "method": "no/such/method"});
    assert_eq!(session.call(1, "say", json!({"messages": [request]})).messages().len(), 1);
    let is_refusal = |line: &Value| line["id"] == "odd" && line["error"]["code"] == -32601;
    gateway.wait_until("the refusal at the worker", || heard(&gateway).iter().any(is_refusal));
}

#[test]
fn what_a_server_says_that_is_no_message_reaches_nobody() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    for tool in ["garbage", "unknown_id", "twice"] {
        let messages = session.call(tool, tool, json!({})).messages();
        assert_eq!((messages.len(), &messages[0]["id"]), (1, &json!(tool)), "{messages:#?}");
    }
    assert_eq!(session.text("echo", json!({})), "{}");
}

#[test]
fn a_client_that_does_not_read_is_cut_off_and_holds_nobody_up() {
    let gateway = start("shared", &[], &[("STREAM_QUEUE_BYTES", "256k"), ("WRITE_TIMEOUT", "0.5")]);
    let (slow, quick) = (Session::open(&gateway), Session::open(&gateway));
    let narrow = || Connection::open_narrow(gateway.address(), NARROW_BYTES);
    let arguments = json!({"n": 2000, "bytes": 10_000, "gate": "end"});
    let mut stalled: Vec<_> = (0..10)
        .map(|n| {
            let params = calling("chunks", arguments.clone(), Some(json!(n)));
            let body = request(n, "tools/call", &params);
            Posted::send_on(narrow(), &gateway, "POST", "/mcp", &slow.headers(), &body)
        })
        .collect();

    let mut longest = Duration::ZERO;
    for n in 0..200 {
        let called_at = Instant::now();
        assert_eq!(quick.text("echo", json!({"n": n})), format!(r#"{{"n":{n}}}"#));
        let steps = quick.follow(n, "t", "progress", json!({"n": 3})).messages();
        assert_eq!(steps.len(), 4, "{steps:#?}");
        longest = longest.max(called_at.elapsed());
    }
    assert!(longest < Duration::from_secs(5), "another call took {longest:?}");
    for posted in &mut stalled {
        // What the sockets held may still come, if there was anything before it was too much.
        let rest = posted.connection.rest().expect("the end of the connection");
        assert!(!rest.ends_with(b"0\r\n\r\n"), "the proper end of a stream\n{}", gateway.framed_log());
    }
    // It has lost its connections and not its session.
    assert_eq!(slow.result("ping", json!({})), json!({}));
    slow.delete().expect_status(204);
}

#[test]
fn a_client_that_does_not_read_its_standalone_stream_holds_nobody_up() {
    let gateway = start("shared", &[], &[("STREAM_QUEUE_BYTES", "64k"), ("WRITE_TIMEOUT", "0.5")]);
    let (slow, quick) = (Session::open(&gateway), Session::open(&gateway));
    // Far more than the sockets hold.
    let uri = format!("helper://item/{}", "x".repeat(15_000));
    for session in [&slow, &quick] {
        session.result("resources/subscribe", json!({"uri": uri}));
    }
    let connection = Connection::open_narrow(gateway.address(), NARROW_BYTES);
    let mut headers = slow.headers();
    headers.retain(|(name, _)| *name != "Content-Type");
    let mut stalled = Posted::send_on(connection, &gateway, "GET", "/mcp", &headers, "").stream();
    let mut standing = quick.get();
    for _ in 0..800 {
        quick.text("update", json!({"uri": uri}));
        standing.expect("notifications/resources/updated");
    }
    // What it got before has no gap: it can know where to go on.
    let mut numbers: Vec<u64> = Vec::new();
    while let Ok(Some(event)) = stalled.try_next() {
        let number: Option<u64> = event.id.as_ref().and_then(|id| id.strip_prefix("0-")?.parse().ok());
        numbers.extend(number.filter(|_| !event.raw.is_empty()));
    }
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{numbers:?}");
    assert!(numbers.len() < 800, "all of 12 MB were kept for a client that did not read");
    assert_eq!(slow.result("ping", json!({})), json!({}));
}

#[test]
fn a_gateway_that_stops_lets_running_requests_end() {
    let mut gateway = start("shared", &[], &[]);
    {
        let session = Session::open(&gateway);
        let standing = session.get();
        let mut running = session.follow(1, "t", "progress", json!({"n": 5, "ms": 100})).stream();
        running.expect("notifications/progress");
        gateway.signal(Signal::TERM);
        assert_eq!(text_of(&running.rest().pop().unwrap()), "done");
        drop(standing);
    }
    assert_eq!(gateway.wait_for_exit().code(), Some(0), "{}", gateway.log());
}

#[test]
fn open_standalone_streams_do_not_hold_up_a_gateway_that_stops() {
    let mut gateway = start("shared", &[], &[("DRAIN_TIMEOUT", "10")]);
    let mut streams: Vec<_> = (0..5).map(|_| Session::open(&gateway).get()).collect();
    let stopped_at = Instant::now();
    assert_eq!(gateway.stop().code(), Some(0), "{}", gateway.log());
    assert!(stopped_at.elapsed() < Duration::from_secs(8), "{:?}", stopped_at.elapsed());
    for stream in &mut streams {
        while let Ok(Some(event)) = stream.try_next() {
            assert!(event.raw.is_empty(), "{event:?}");
        }
    }
}

#[test]
fn a_hundred_sessions_leave_no_process_and_no_call_behind() {
    let gateway = start("session", &[], &[("SESSION_WORKERS_MAX", "128")]);
    thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                for _ in 0..10 {
                    let session = Session::open(&gateway);
                    session.text("echo", json!({}));
                    drop(session.call(1, "silent", json!({})));
                    session.delete().expect_status(204);
                }
            });
        }
    });
    gateway
        .wait_until("no worker of a session", || gateway.stats()["servers"]["helper"]["pool"]["isolated_workers"] == 0);
    gateway.wait_until("one process", || gateway.processes().len() == 1);
    assert_eq!(in_flight(&gateway), 0);
    let left: Vec<Process> = gateway.processes();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(Session::open(&gateway).result["protocolVersion"], NEWEST);
}
