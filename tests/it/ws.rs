//! WebSockets: calls on one socket, told apart by their ids.

pub(crate) mod client;
mod ends;
mod frames;
mod handshake;
mod questions;
mod silence;
mod turns;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Connection, Gateway, Helper, Server, raw_field, send_signal};
use client::{FINAL, Socket, TEXT, frame};

/// One worker for all calls, so that its counts are all counts.
const ONE_WORKER: [(&str, &str); 2] = [("MIN_WORKERS", "1"), ("MAX_WORKERS", "1")];

/// `error.code` for a call, or a question, that there is not.
const UNKNOWN: &str = "bad_request";

#[test]
fn a_call_starts_and_completes_with_what_a_plain_call_gives() {
    let gateway = Gateway::start(&[], Helper::new());
    for path in ["/ws/tools/echo", "/servers/helper/ws/tools/echo"] {
        let mut socket = Socket::open(&gateway, path);
        let arguments = r#"{"z":1.10,"a":[12345678901234567890],"text":"ünï 🙂"}"#;
        socket.call(r#""req-1""#, arguments);
        let started = socket.expect_event("started", r#""req-1""#);
        assert_eq!(*started, json!({"event": "started", "id": "req-1", "tool": "echo"}));
        let complete = socket.expect_event("complete", r#""req-1""#);
        socket.expect(complete.raw.contains(&format!(r#""data":{arguments}"#)), "the raw data", &complete.raw);
        assert_eq!(complete["content"][0]["type"], "text");
        assert_eq!(complete["tool"], "echo");
        assert!(complete["worker"].as_str().is_some_and(|it| it.starts_with("helper-")), "{}", complete.raw);
        assert!(complete["duration_ms"].is_number(), "{}", complete.raw);
        // Arguments may be left out.
        socket.send(r#"{"id":2}"#);
        socket.expect_complete("2", &json!({}));
    }
}

#[test]
fn a_list_of_journeys_streams_over_a_websocket_too() {
    let gateway = Gateway::start(&[], Server::Bundled);
    let mut socket = Socket::open(&gateway, "/ws/tools/journeys_tool");
    socket.call("1", r#"{"action":"list"}"#);

    socket.expect_event("started", "1");
    let progress = socket.expect_event("progress", "1");
    assert_eq!(*progress, json!({"event": "progress", "id": 1, "progress": 0, "message": "Loading data..."}));
    let chunks: Vec<Value> = (0..3).map(|_| socket.expect_event("chunk", "1")["data"].clone()).collect();
    let complete = socket.expect_event("complete", "1");
    assert_eq!(complete["data"]["journeys"], json!(chunks));
}

#[test]
fn events_carry_the_id_and_the_fields_of_event_streams() {
    let gateway = Gateway::start(&ONE_WORKER, Helper::new());
    let mut socket = Socket::open(&gateway, "/ws");
    let mut call = |tool: &str, arguments: &str, events: &[Value]| {
        socket.send(format!(r#"{{"tool":"{tool}","arguments":{arguments},"id":"x"}}"#));
        socket.expect_event("started", r#""x""#);
        for event in events {
            let message = socket.next();
            socket.expect(*message == *event, &event.to_string(), &message.raw);
        }
        socket.expect_event("complete", r#""x""#);
    };

    let progress =
        |n: u32| json!({"event": "progress", "id": "x", "progress": n, "total": 2, "message": format!("step {n}")});
    call("progress", r#"{"n":2}"#, &[progress(1), progress(2)]);
    let chunk = |n: u32| json!({"event": "chunk", "id": "x", "index": n, "data": {"item": n, "fill": "x"}});
    call("chunks", r#"{"n":2,"bytes":1}"#, &[chunk(0), chunk(1)]);
    let log = |n: u32| json!({"event": "log", "id": "x", "level": "error", "logger": "helper", "data": n});
    call("log", r#"{"n":2,"level":"error"}"#, &[log(1), log(2)]);
    let item = |n: u32, data: Value| json!({"event": "chunk", "id": "x", "index": n, "data": data});
    call("delay", r#"{"ms":0,"value":[7,"b"]}"#, &[item(0, json!(7)), item(1, json!("b"))]);
}

#[test]
fn a_thousand_steps_arrive_all_and_in_order() {
    let gateway = Gateway::start(&[], Helper::new());
    let mut socket = Socket::open(&gateway, "/ws/tools/stream");
    socket.call("1", r#"{"n":1000,"bytes":100}"#);

    socket.expect_event("started", "1");
    for n in 1..=1000 {
        let progress = socket.expect_event("progress", "1");
        socket.expect(progress["progress"] == n, &format!("step {n}"), &progress.raw);
    }
    socket.expect_event("complete", "1");
}

#[test]
fn events_arrive_before_the_call_ends() {
    let gateway = Gateway::start(&ONE_WORKER, Helper::new());
    let mut socket = Socket::open(&gateway, "/ws/tools/chunks");
    // It does not end before it is cancelled.
    socket.call("1", r#"{"n":3,"gate":"end"}"#);

    socket.expect_event("started", "1");
    for n in 0..3 {
        assert_eq!(socket.expect_event("chunk", "1")["index"], n);
    }
    socket.send(r#"{"event":"cancel","id":1}"#);
    socket.expect_event("cancelled", "1");
}

#[test]
fn several_calls_at_once_are_told_apart_by_their_ids() {
    let gateway = Gateway::start(&[("MIN_WORKERS", "4"), ("MAX_WORKERS", "4")], Helper::new());
    gateway.wait_until("4 ready workers", || gateway.usable_workers() == 4);
    let mut socket = Socket::open(&gateway, "/ws/tools/delay");

    // A string and a number are two ids, and each comes back as it was.
    let ids = [r#""1""#, "1", "12345678901234567890", r#""ünï \" 🙂""#];
    for (id, number) in ids.iter().zip(0..) {
        socket.call(id, &format!(r#"{{"ms":{},"value":{id}}}"#, 400 - 100 * number));
    }
    let mut started = Vec::new();
    let mut completed = Vec::new();
    while completed.len() < ids.len() {
        let message = socket.next();
        let raw_id = raw_field(&message.raw, "id");
        let id = ids.iter().position(|id| raw_id.as_deref() == Some(id));
        let id = id.unwrap_or_else(|| socket.fail("a known id", &message.raw));
        match message["event"].as_str() {
            Some("started") => started.push(id),
            Some("complete") => {
                let text = serde_json::from_str::<Value>(ids[id]).unwrap();
                let text = text.as_str().map_or(ids[id].to_owned(), str::to_owned);
                assert_eq!(message["data"], text, "{}", message.raw);
                completed.push(id);
            }
            _ => socket.fail("`started` or `complete`", &message.raw),
        }
    }
    started.sort_unstable();
    assert_eq!(started, [0, 1, 2, 3]);
    assert_eq!(completed, [3, 2, 1, 0], "the shortest first");
}

#[test]
fn many_calls_in_one_write_are_all_answered() {
    let gateway = Gateway::start(&[], Helper::new());
    let mut socket = Socket::open(&gateway, "/ws/tools/echo");
    let frames: Vec<u8> = (0..64)
        .flat_map(|n| frame(FINAL | TEXT, format!(r#"{{"arguments":{{"n":{n}}},"id":{n}}}"#).as_bytes()))
        .collect();
    socket.send_raw(&frames, "64 calls");

    let mut answers = vec![0; 64];
    while answers.contains(&0) {
        let message = socket.next();
        if message["event"] == "complete" {
            let n = message["id"].as_u64().unwrap();
            socket.expect(message["data"]["n"] == n, &format!("data for {n}"), &message.raw);
            answers[n as usize] += 1;
        } else {
            socket.expect(message["event"] == "started", "`started` or `complete`", &message.raw);
        }
    }
    assert_eq!(answers, [1; 64]);
}

#[test]
fn more_calls_than_a_socket_may_have_are_refused_one_by_one() {
    let gateway = Gateway::start(&ONE_WORKER, Helper::new());
    let mut socket = Socket::open(&gateway, "/ws/tools/quiet");
    for n in 0..100 {
        socket.call(&n.to_string(), "{}");
    }
    let (mut n_started, mut n_refused) = (0, 0);
    while n_started + n_refused < 100 {
        let message = socket.next();
        match message["event"].as_str() {
            Some("started") => n_started += 1,
            Some("error") if message["error"]["code"] == "overloaded" => n_refused += 1,
            Some("progress") => {}
            _ => socket.fail("`started`, or an error `overloaded`", &message.raw),
        }
    }
    socket.expect(n_started == 64, "64 calls that are taken", &n_started.to_string());
    // They are taken back with their socket, and the next call has room.
    drop(socket);
    gateway.call("echo", "{}").expect_status(200);
    assert_eq!(gateway.counts()["cancels"], 1, "only one had come to the worker");
}

#[test]
fn a_call_without_an_id_gets_one() {
    let gateway = Gateway::start(&[], Helper::new());
    let mut socket = Socket::open(&gateway, "/ws/tools/echo");

    let mut ids = Vec::new();
    for n in 0..3 {
        socket.send(format!(r#"{{"arguments":{{"n":{n}}}}}"#));
        let started = socket.next();
        let id = started["id"].as_str().unwrap_or_else(|| socket.fail("a string as id", &started.raw)).to_owned();
        let complete = socket.expect_event("complete", &json!(id).to_string());
        assert_eq!(complete["data"]["n"], n);
        ids.push(id);
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3, "{ids:?}");
}

#[test]
fn a_cancelled_call_says_so_and_its_id_is_free_again() {
    let gateway = Gateway::start(&ONE_WORKER, Helper::new());
    let mut socket = Socket::open(&gateway, "/ws/tools/quiet");

    for n in 1..=2 {
        socket.call(r#""a""#, "{}");
        socket.expect_event("started", r#""a""#);
        socket.expect_event("progress", r#""a""#);
        socket.send(r#"{"event":"cancel","id":"a"}"#);
        let cancelled = socket.expect_event("cancelled", r#""a""#);
        assert_eq!(*cancelled, json!({"event": "cancelled", "id": "a"}));
        gateway.wait_until("the cancellation", || gateway.counts()["cancels"] == n);
    }
    socket.send(r#"{"event":"cancel","id":"a"}"#);
    let error = socket.expect_error(UNKNOWN, "a");
    assert_eq!(error["id"], "a");
}

#[test]
fn a_call_that_waits_for_a_worker_can_be_cancelled() {
    let gateway = Gateway::start(&ONE_WORKER, Helper::new());
    let mut socket = Socket::open(&gateway, "/ws/tools/quiet");
    socket.call("1", "{}");
    socket.expect_event("started", "1");
    socket.expect_event("progress", "1");

    socket.call("2", "{}");
    gateway.wait_until("a call in the queue", || {
        gateway.stats()["servers"]["helper"]["pool"]["queued"].as_u64() == Some(1)
    });
    socket.send(r#"{"event":"cancel","id":2}"#);
    let mut message = socket.next();
    if message["event"] == "started" {
        // Said when it was taken, or when it has a worker: both will do.
        message = socket.next();
    }
    socket.expect(*message == json!({"event": "cancelled", "id": 2}), "`cancelled` of 2", &message.raw);
    socket.send(r#"{"event":"cancel","id":1}"#);
    socket.expect_event("cancelled", "1");
    gateway.wait_until("one cancellation", || gateway.counts()["cancels"] == 1);
    assert_eq!(gateway.counts()["cancels"], 1, "the one that waited never came to the worker");
}

#[test]
fn a_call_has_its_worker_for_itself() {
    let gateway = Gateway::start(&[("MIN_WORKERS", "2"), ("MAX_WORKERS", "2")], Helper::new());
    gateway.wait_until("2 ready workers", || gateway.usable_workers() == 2);
    let mut socket = Socket::open(&gateway, "/ws/tools/quiet");
    socket.call("1", "{}");
    socket.expect_event("started", "1");
    socket.expect_event("progress", "1");

    let mut pids: Vec<Value> = (0..10).map(|_| gateway.call("pid", "{}").data()).collect();
    pids.dedup();
    assert_eq!(pids.len(), 1, "the other worker alone takes calls");
    socket.send(r#"{"event":"cancel","id":1}"#);
    socket.expect_event("cancelled", "1");
    gateway.wait_until("calls at both workers", || gateway.call("pid", "{}").data() != pids[0]);
}

#[test]
fn failures_of_a_call_are_error_events_with_its_id() {
    let gateway = Gateway::start(&[("MCP_REQUEST_TIMEOUT", "1")], Helper::new());
    let mut socket = Socket::open(&gateway, "/ws");
    let mut check = |id: &str, tool: &str, arguments: &str, code: &str, text: &str| {
        socket.send(format!(r#"{{"tool":"{tool}","arguments":{arguments},"id":{id}}}"#));
        socket.expect_event("started", id);
        let error = socket.expect_error(code, text);
        socket.expect(error.raw.contains(&format!(r#""id":{id}"#)), "its id", &error.raw);
        error
    };
    let error = check("1", "error", r#"{"text":"no luck"}"#, "tool_error", "no luck");
    assert_eq!(error["content"], json!([{"type": "text", "text": "no luck"}]), "{}", error.raw);
    let error = check("2", "rpc_error", r#"{"code":-32123,"data":[1.50]}"#, "worker_error", "no such luck");
    assert_eq!((&error["error"]["rpc_code"], &error["error"]["data"]), (&json!(-32123), &json!([1.5])));
    check("3", "crash", r#"{"code":3}"#, "worker_crashed", "exited with code 3");
    check("4", "silent", "{}", "timeout", "`silent`");
    socket.send(r#"{"tool":"echo","id":"last"}"#);
    socket.expect_complete(r#""last""#, &json!({}));
}

#[test]
fn a_worker_killed_in_mid_call_is_an_error_event_and_the_socket_lives_on() {
    let gateway = Gateway::start(&ONE_WORKER, Helper::new());
    let mut socket = Socket::open(&gateway, "/ws");
    socket.send(r#"{"tool":"quiet","id":1}"#);
    socket.expect_event("started", "1");
    socket.expect_event("progress", "1");

    send_signal(gateway.worker_pids()[0], Signal::KILL);
    let error = socket.expect_error("worker_crashed", "signal 9");
    assert_eq!(error["id"], 1);
    socket.send(r#"{"tool":"echo","id":2}"#);
    socket.expect_complete("2", &json!({}));
}

#[test]
fn without_a_tool_in_the_path_each_message_names_one() {
    let gateway = Gateway::start(&[], Helper::new());
    for path in ["/ws", "/servers/helper/ws"] {
        let mut socket = Socket::open(&gateway, path);
        socket.send(r#"{"tool":"echo","arguments":{"a":1},"id":1}"#);
        socket.expect_complete("1", &json!({"a": 1}));
        socket.send(r#"{"tool":"delay","arguments":{"ms":0,"value":"x"},"id":"2"}"#);
        socket.expect_complete(r#""2""#, &json!("x"));
        socket.send(r#"{"arguments":{},"id":3}"#);
        assert_eq!(socket.expect_error("bad_request", "tool")["id"], 3);
        socket.send(r#"{"tool":"ecko","id":4}"#);
        assert_eq!(socket.expect_error("unknown_tool", "`echo`")["id"], 4);
    }
}

#[test]
fn calls_one_after_the_other_are_told_whole_and_in_order_however_late_they_are_read() {
    const CALLS: usize = 60;
    let gateway = Gateway::start(&[], Helper::new());
    // Room for one answer or two, so that whoever has the result cannot write all of it.
    let connection = gateway.speaking(Connection::open_narrow(gateway.address(), 4096));
    let mut socket = Socket::over(connection, &gateway, "/ws/tools/echo");
    let padding = "x".repeat(7_000);
    let n_calls = || gateway.stats()["totals"]["calls"].as_u64().unwrap();
    for number in 1..=CALLS {
        let before = n_calls();
        socket.call(&number.to_string(), &format!(r#"{{"number":{number},"padding":"{padding}"}}"#));
        if number < 3 {
            // Each by itself; later ones come together.
            gateway.wait_until("the call", || before < n_calls());
        }
    }
    let mut next_started = 1;
    let mut ended = std::collections::BTreeSet::new();
    while ended.len() < CALLS {
        let message = socket.next();
        let id = message["id"].as_u64().unwrap();
        match message["event"].as_str().unwrap() {
            "started" => {
                assert_eq!(id, next_started);
                next_started += 1;
            }
            "complete" => {
                assert!(id < next_started, "{id} ended before it was told to have started");
                assert_eq!(message["data"], json!({"number": id, "padding": padding}));
                assert!(ended.insert(id));
            }
            other => panic!("{other}: {}", message.raw),
        }
    }
}

#[test]
fn a_call_that_takes_its_time_is_told_to_have_started() {
    let gateway = Gateway::start(&ONE_WORKER, Helper::new());
    let mut socket = Socket::open(&gateway, "/ws");
    for id in ["1", "2"] {
        socket.send(format!(r#"{{"id":{id},"tool":"delay","arguments":{{"ms":60000}}}}"#));
        socket.expect_event("started", id);
    }
    for id in ["1", "2"] {
        socket.send(format!(r#"{{"event":"cancel","id":{id}}}"#));
        socket.expect_event("cancelled", id);
    }
    // Cancelled before anything was told.
    let messages = [r#"{"id":3,"tool":"delay","arguments":{"ms":60000}}"#, r#"{"event":"cancel","id":3}"#];
    let frames: Vec<u8> = messages.iter().flat_map(|text| frame(FINAL | TEXT, text.as_bytes())).collect();
    socket.connection.send_raw(frames).unwrap();
    socket.expect_event("started", "3");
    socket.expect_event("cancelled", "3");
}
