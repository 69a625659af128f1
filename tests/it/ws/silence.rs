//! Tools in whose calls servers say nothing: their calls come to share workers, and no client ever gets the question of another.

use serde_json::json;

use crate::{
    support::{Gateway, Helper},
    ws::client::Socket,
};

/// After so many answered calls a tool is taken to be silent.
const SILENT_CALLS: usize = 32;

/// The one worker takes two calls at once.
fn start() -> Gateway {
    let settings = [("MIN_WORKERS", "1"), ("MAX_WORKERS", "1"), ("WORKER_CONCURRENCY", "2")];
    let gateway = Gateway::start(&settings, Helper::new());
    gateway.wait_until("the worker", || gateway.usable_workers() == 1);
    gateway
}

/// Calls tools in silence until they are known for it.
#[track_caller]
fn be_silent(gateway: &Gateway, tools: &[(&str, &str)]) {
    for (tool, arguments) in tools {
        for _ in 0..SILENT_CALLS {
            gateway.call(tool, arguments).expect_status(200);
        }
    }
}

const STREAM: (&str, &str) = ("stream", r#"{"n":1}"#);
const OPEN: (&str, &str) = ("open", r#"{"n":0}"#);
/// A ping is no question: the gateway answers it.
const ASK: (&str, &str) = ("ask", r#"{"method":"ping"}"#);

/// A call that goes on until [`let_go`].
#[track_caller]
fn hold(gateway: &Gateway) -> Socket {
    let mut socket = Socket::open(gateway, "/ws");
    socket.send(r#"{"id":"held","tool":"stream","arguments":{"n":1,"gate":"each"}}"#);
    socket.expect_event("started", r#""held""#);
    gateway.wait_until("a call in flight", || n_in_flight(gateway) == 1);
    socket
}

#[track_caller]
fn let_go(gateway: &Gateway, mut held: Socket) {
    gateway.call("open", r#"{"n":2}"#).expect_status(200);
    held.expect_event("progress", r#""held""#);
    held.expect_event("complete", r#""held""#);
}

/// As [`let_go`] while a call waits that has to be alone, before which no other gets in.
#[track_caller]
fn take_back(mut held: Socket) {
    held.send(r#"{"id":"held","event":"cancel"}"#);
    held.expect_event("cancelled", r#""held""#);
}

fn n_in_flight(gateway: &Gateway) -> u64 {
    gateway.stats()["servers"]["helper"]["workers"][0]["in_flight"].as_u64().unwrap()
}

fn n_queued(gateway: &Gateway) -> u64 {
    gateway.stats()["servers"]["helper"]["pool"]["queued"].as_u64().unwrap()
}

#[track_caller]
fn ask(socket: &mut Socket, id: &str) {
    socket.send(format!(
        r#"{{"id":{id},"tool":"ask","arguments":{{"method":"elicitation/create","value":"whose {id}?"}}}}"#
    ));
    socket.expect_event("started", id);
}

#[track_caller]
fn answer_question(socket: &mut Socket, id: &str) {
    let question = socket.expect_event("input_required", id);
    assert_eq!(question["params"]["message"], format!("whose {id}?"));
    socket.input(&question, r#""result":{"content":1}"#);
    assert_eq!(socket.expect_event("complete", id)["data"]["result"]["content"], 1);
}

#[test]
fn calls_of_tools_that_never_ask_come_to_share_a_worker_unless_their_client_insists() {
    let gateway = start();
    let mut socket = Socket::open(&gateway, "/ws");
    let call = |input: &str| format!(r#"{{"id":1,"tool":"open",{input}"arguments":{{"n":0}}}}"#);
    be_silent(&gateway, &[STREAM]);
    for (input, is_alone) in [("", true), (r#""input":true,"#, true), (r#""input":false,"#, false), ("", false)] {
        if !is_alone {
            be_silent(&gateway, &[OPEN]);
        }
        let held = hold(&gateway);
        socket.send(call(input));
        if is_alone {
            gateway.wait_until("it waits", || n_queued(&gateway) == 1);
            // Nobody else gets in between, so it is the end of this call that lets the other one go on.
            socket.send(r#"{"id":1,"event":"cancel"}"#);
            socket.expect_event("started", "1");
            socket.expect_event("cancelled", "1");
        } else {
            socket.expect_complete("1", &json!("done"));
        }
        let_go(&gateway, held);
    }
}

#[test]
fn a_question_that_nobody_expected_goes_to_the_only_call_which_is_alone_from_then_on() {
    let gateway = start();
    be_silent(&gateway, &[ASK, OPEN]);
    let (mut socket, mut other) = (Socket::open(&gateway, "/ws"), Socket::open(&gateway, "/ws"));
    ask(&mut socket, "1");
    let question = socket.expect_event("input_required", "1");
    other.send(r#"{"id":2,"tool":"open","arguments":{"n":0}}"#);
    gateway.wait_until("it waits", || n_queued(&gateway) == 1);
    assert_eq!(n_in_flight(&gateway), 1);
    socket.input(&question, r#""result":{}"#);
    socket.expect_event("complete", "1");
    other.expect_complete("2", &json!("done"));

    // Now it is known for it.
    let held = hold(&gateway);
    socket.send(r#"{"id":3,"tool":"ask","arguments":{"method":"ping"}}"#);
    gateway.wait_until("it waits", || n_queued(&gateway) == 1);
    take_back(held);
    socket.expect_event("started", "3");
    socket.expect_event("complete", "3");
}

#[test]
fn a_question_that_could_be_anybodys_is_told_to_nobody_and_the_next_one_is_told() {
    let gateway = start();
    be_silent(&gateway, &[ASK, STREAM, OPEN]);
    let held = hold(&gateway);
    let mut socket = Socket::open(&gateway, "/ws");
    ask(&mut socket, "1");
    let refused = socket.expect_event("complete", "1")["data"]["error"].clone();
    assert_eq!(refused["code"], -32603, "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("several calls are running"), "{refused}");
    let warns =
        |line: &str| line.contains("[WARN]") && line.contains("asked `elicitation/create` while it had several");
    gateway.wait_until("a line in the log", || gateway.log().lines().any(warns));
    let_go(&gateway, held);

    // Both may have been meant, so both are alone now.
    let held = hold(&gateway);
    socket.send(r#"{"id":2,"tool":"ask","arguments":{"method":"elicitation/create","value":"whose 2?"}}"#);
    gateway.wait_until("it waits", || n_queued(&gateway) == 1);
    take_back(held);
    socket.expect_event("started", "2");
    answer_question(&mut socket, "2");
}

#[test]
fn a_question_of_a_plain_call_is_declined_as_ever_whoever_runs_beside_it() {
    let gateway = start();
    be_silent(&gateway, &[STREAM]);
    let held = hold(&gateway);
    let answer = gateway.call("ask", r#"{"method":"elicitation/create"}"#).data();
    assert_eq!(answer["error"]["code"], -32601, "{answer}");
    assert!(!gateway.log().contains("while it had several calls"), "{}", gateway.log());
    let_go(&gateway, held);
}

#[test]
fn a_log_line_ends_the_silence_of_its_tool_too() {
    let gateway = start();
    be_silent(&gateway, &[("log", r#"{"n":0}"#), STREAM, OPEN]);
    let held = hold(&gateway);
    let mut socket = Socket::open(&gateway, "/ws");
    let log = |id: usize| format!(r#"{{"id":{id},"tool":"log","arguments":{{"n":1,"level":"error","data":"said"}}}}"#);
    socket.send(log(1));
    socket.expect_event("started", "1");
    socket.expect_event("complete", "1");
    let_go(&gateway, held);

    let held = hold(&gateway);
    socket.send(log(2));
    gateway.wait_until("it waits", || n_queued(&gateway) == 1);
    take_back(held);
    socket.expect_event("started", "2");
    assert_eq!(socket.expect_event("log", "2")["data"], "said");
    socket.expect_event("complete", "2");
}
