//! Connections that have been quiet for a moment, seen from outside: they have no thread, and are as good as before.

use std::time::Duration;

use serde_json::json;

use crate::{
    http::{tool_call, tool_request},
    process,
    support::{Connection, Gateway, Helper, Launch},
};

#[track_caller]
fn check_call(gateway: &Gateway, connection: &mut Connection, number: usize) {
    connection.send_raw(tool_call("echo", &format!(r#"{{"number":{number}}}"#))).unwrap();
    gateway.reply("a call", connection.receive(false).unwrap()).expect_data(&json!({"number": number}));
}

/// How many connections have a thread.
fn n_threads(gateway: &Gateway) -> usize {
    process::n_threads(gateway.pid(), "conn-")
}

#[track_caller]
fn wait_for_rest(gateway: &Gateway) {
    gateway.wait_until("connections without a thread", || n_threads(gateway) == 0);
}

#[test]
fn quiet_connections_have_no_thread_and_are_served_again() {
    const CONNECTIONS: usize = 20;
    let gateway = Gateway::start(&[], Helper::new());
    let mut connections: Vec<_> = (0..CONNECTIONS).map(|_| gateway.connect()).collect();
    for round in 0..3 {
        for (number, connection) in connections.iter_mut().enumerate() {
            check_call(&gateway, connection, round * CONNECTIONS + number);
        }
        wait_for_rest(&gateway);
    }
    // The one that asks is one more, until it has rested and was closed.
    assert!(CONNECTIONS as u64 <= gateway.stats()["connections"]["open"].as_u64().unwrap());

    // In two pieces, with a pause between them, and two at once.
    let request = tool_call("echo", r#"{"number":1}"#);
    let (first, second) = request.split_at(request.len() / 2);
    connections[0].send_raw(first).unwrap();
    gateway.wait_until("a thread for it", || 0 < n_threads(&gateway));
    connections[0].send_raw(second).unwrap();
    connections[1].send_raw(request.repeat(2)).unwrap();
    for number in [0, 1, 1] {
        let answer = connections[number].receive(false).unwrap();
        gateway.reply("after a rest", answer).expect_data(&json!({"number": 1}));
    }
}

#[test]
fn a_call_that_lasts_longer_is_answered_and_its_connection_rests_afterwards() {
    let gateway = Gateway::start(&[], Helper::new());
    let mut connection = gateway.connect();
    for _ in 0..2 {
        connection.send_raw(tool_call("delay", r#"{"ms":1200,"value":1}"#)).unwrap();
        gateway.reply("slow", connection.receive(false).unwrap()).expect_data(&json!("1"));
    }
    connection.send_raw(tool_request("delay", r#"{"arguments":{"ms":60000},"timeout":0.8}"#)).unwrap();
    gateway.reply("too slow", connection.receive(false).unwrap()).expect_status(504);
    check_call(&gateway, &mut connection, 1);
    wait_for_rest(&gateway);
    check_call(&gateway, &mut connection, 2);
}

#[test]
fn a_client_that_goes_away_from_a_long_call_has_it_cancelled() {
    let gateway = Gateway::start(&[("MIN_WORKERS", "1"), ("MAX_WORKERS", "1")], Helper::new());
    let mut connection = gateway.connect();
    connection.send_raw(tool_call("delay", r#"{"ms":60000}"#)).unwrap();
    gateway.wait_for_a_call_at_work();
    // Longer than a connection has to be quiet before it rests.
    std::thread::sleep(Duration::from_millis(700));
    drop(connection);
    gateway.wait_until("the cancellation", || gateway.call("counts", "{}").data()["cancels"] == 1);
}

#[test]
fn a_resting_connection_is_closed_in_time_and_seen_to_be_gone() {
    let gateway = Gateway::start(&[("KEEP_ALIVE_TIMEOUT", "1.2")], Helper::new());
    let mut connections: Vec<_> = (0..3).map(|_| gateway.connect()).collect();
    for connection in &mut connections {
        check_call(&gateway, connection, 1);
    }
    drop(connections.pop());
    wait_for_rest(&gateway);
    drop(connections.pop());
    assert_eq!(connections[0].rest().unwrap(), b"", "closed without a word");
    gateway.wait_until("all others closed", || gateway.stats()["connections"]["open"] == 1);
}

#[test]
fn resting_connections_end_with_the_gateway() {
    let mut gateway = Launch::new(Helper::new()).start();
    let mut connections: Vec<_> = (0..5).map(|_| gateway.connect()).collect();
    for connection in &mut connections {
        check_call(&gateway, connection, 1);
    }
    wait_for_rest(&gateway);
    gateway.signal(rustix::process::Signal::TERM);
    for connection in &mut connections {
        assert_eq!(connection.rest().unwrap(), b"", "closed without a word");
    }
    assert!(gateway.wait_for_exit().success());
}
