//! Answers that are written by whoever has them, seen from outside: always whole, in their order, and told of the end.

use std::{io::Read as _, time::Duration};

use serde_json::json;

use crate::{
    http::{Connection, tool_call, tool_request},
    support::{Gateway, Helper, Launch},
};

#[test]
fn a_client_that_reads_late_gets_every_answer_whole_and_in_order() {
    const CALLS: usize = 300;
    let gateway = Gateway::start(&[], Helper::new());
    // Room for one answer or two, so that writing without waiting comes to its end.
    let mut connection = gateway.speaking(Connection::open_narrow(gateway.address(), 4096));
    let padding = "x".repeat(10_000);
    let n_calls = || gateway.stats()["totals"]["calls"].as_u64().unwrap();
    for number in 1..=CALLS {
        let before = n_calls();
        connection.send_raw(tool_call("echo", &format!(r#"{{"number":{number},"padding":"{padding}"}}"#))).unwrap();
        if number < 3 {
            // Each by itself; later ones follow upon those before.
            gateway.wait_until("the call", || before < n_calls());
        }
    }
    for number in 1..=CALLS {
        let answer = connection.receive(false).unwrap();
        gateway.reply("late", answer).expect_data(&json!({"number": number, "padding": padding}));
    }
    gateway.wait_until("all calls counted", || n_calls() == CALLS as u64);
}

#[test]
fn a_request_behind_a_running_call_waits_for_its_answer() {
    let gateway = Gateway::start(&[], Helper::new());
    let mut connection = gateway.connect();
    connection.send_raw(tool_call("delay", r#"{"ms":300,"value":"first"}"#)).unwrap();
    gateway.wait_for_a_call_at_work();

    connection
        .send_raw(format!("GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n{}", tool_call("echo", "{}")))
        .unwrap();
    let answers = [(); 3].map(|()| gateway.reply("in order", connection.receive(false).unwrap()));
    answers[0].expect_data(&json!("first"));
    assert_eq!(answers[1].json()["status"], "alive");
    answers[2].expect_data(&json!({}));
}

#[test]
fn a_call_that_fails_or_lasts_too_long_leaves_its_connection_as_good_as_before() {
    let gateway = Gateway::start(&[], Helper::new());
    let mut connection = gateway.connect();
    let mut ask = |request: String| {
        connection.send_raw(&request).unwrap();
        gateway.reply(request, connection.receive(false).unwrap())
    };
    ask(tool_call("error", "{}")).expect_status(422);
    ask(tool_request("delay", r#"{"arguments":{"ms":60000},"timeout":0.1}"#)).expect_status(504);
    ask(tool_call("crash", "{}")).expect_status(502);
    ask(tool_call("big", r#"{"bytes":1000000}"#)).expect_status(200);
    gateway.wait_until("another worker", || gateway.usable_workers() == 2);
    ask(tool_call("echo", r#"{"a":1}"#)).expect_data(&json!({"a": 1}));
}

#[test]
fn a_result_of_more_pieces_than_the_system_writes_at_once_comes_whole() {
    let gateway = Gateway::start(&[], Helper::new());
    let reply = gateway.call("many_blocks", r#"{"n":700,"bytes":16384}"#);
    reply.expect_status(200);
    assert_eq!(reply.data(), json!(vec!["x".repeat(16384); 700]));
}

#[test]
fn an_idle_connection_ends_with_the_gateway_and_a_busy_one_is_told_of_it() {
    let mut gateway = Launch::new(Helper::new()).start();
    let [mut idle, mut busy] = [gateway.connect(), gateway.connect()];
    idle.send_raw(tool_call("echo", "{}")).unwrap();
    assert_eq!(idle.receive(false).unwrap().status, 200);
    busy.send_raw(tool_call("delay", r#"{"ms":500,"value":"done"}"#)).unwrap();
    gateway.wait_for_a_call_at_work();

    check_end(&mut gateway, &mut [idle], &mut busy);
}

/// The gateway is told to end: `idle` connections do at once, a `busy` one after the answer of its call, which is `done`.
#[track_caller]
pub(crate) fn check_end(gateway: &mut Gateway, idle: &mut [Connection], busy: &mut Connection) {
    gateway.signal(rustix::process::Signal::TERM);
    for connection in idle {
        assert_eq!(connection.rest().unwrap(), b"", "closed without a word, and without waiting for its time");
    }
    let answer = busy.receive(false).unwrap();
    assert_eq!(answer.header("Connection"), Some("close"));
    gateway.reply("while it stops", answer).expect_data(&json!("done"));
    let mut rest = Vec::new();
    busy.stream.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
    assert!(gateway.wait_for_exit().success());
}

#[test]
fn time_between_two_requests_counts_from_the_answer() {
    let settings = [("KEEP_ALIVE_TIMEOUT", "0.5")];
    let gateway = Gateway::start(&settings, Helper::new());
    let mut connection = gateway.connect();
    // Longer than that time: a call is no idleness.
    connection.send_raw(tool_call("delay", r#"{"ms":800,"value":1}"#)).unwrap();
    gateway.reply("slow", connection.receive(false).unwrap()).expect_data(&json!("1"));
    std::thread::sleep(Duration::from_millis(100));
    connection.send_raw(tool_call("echo", "{}")).unwrap();
    gateway.reply("in time", connection.receive(false).unwrap()).expect_status(200);
    assert_eq!(connection.rest().unwrap(), b"");
}
