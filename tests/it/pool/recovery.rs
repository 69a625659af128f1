//! A call whose worker died is sent once more if its tool says that this is safe; nothing else is ever sent twice.

use rustix::process::Signal;
use serde_json::json;

use super::{Sent, Trace, pool_of, wait_for_workers};
use crate::{
    sse::client::{EventStream, names},
    support::{Helper, send_signal},
    ws::client::Socket,
};

#[test]
fn a_call_that_may_be_repeated_is_sent_once_more_when_its_worker_is_killed() {
    let gateway = pool_of(2, &[], Helper::new());
    for tool in ["lookup", "put"] {
        let trace = Trace::new();
        wait_for_workers(&gateway, 2);
        let arguments = trace.arguments(json!({"ms": 500}));
        let call = Sent::call(&gateway, tool, &arguments);
        gateway.wait_until("the call at a worker", || trace.lines().len() == 1);
        send_signal(trace.pids()[0], Signal::KILL);
        call.reply().expect_data(&arguments);
        let pids = trace.pids();
        assert!(pids.len() == 2 && pids[0] != pids[1], "`{tool}` was carried out by {pids:?}");
    }
}

#[test]
fn any_other_call_fails_and_is_carried_out_once() {
    let gateway = pool_of(2, &[], Helper::new());
    let trace = Trace::new();
    let call = Sent::call(&gateway, "write", &trace.arguments(json!({"ms": 60000})));
    gateway.wait_until("the call at a worker", || trace.lines().len() == 1);
    send_signal(trace.pids()[0], Signal::KILL);
    call.reply().expect_error(502, "worker_crashed", "signal 9");

    let other = Trace::new();
    let reply = gateway.call("write", &other.crashing_once(json!({})).to_string());
    reply.expect_error(502, "worker_crashed", "signal 9");
    wait_for_workers(&gateway, 2);
    gateway.call("echo", "{}").expect_status(200);
    assert_eq!((trace.lines().len(), other.lines().len()), (1, 1));
}

#[test]
fn a_call_that_kills_every_worker_is_sent_twice_and_not_more() {
    let gateway = pool_of(3, &[], Helper::new());
    for tool in ["lookup", "put"] {
        let trace = Trace::new();
        wait_for_workers(&gateway, 3);
        let reply = gateway.call(tool, &trace.arguments(json!({"crash": true})).to_string());
        reply.expect_error(502, "worker_crashed", "signal 9");
        wait_for_workers(&gateway, 3);
        assert_eq!(trace.lines().len(), 2, "`{tool}`");
    }
}

#[test]
fn the_only_workers_call_is_sent_to_its_successor() {
    let gateway = pool_of(1, &[], Helper::new());
    let trace = Trace::new();

    let arguments = trace.crashing_once(json!({}));
    gateway.call("lookup", &arguments.to_string()).expect_data(&arguments);
    assert_eq!(trace.lines().len(), 2);
}

#[test]
fn repeating_can_be_switched_off() {
    let gateway = pool_of(2, &[("RETRY_READ_ONLY", "false")], Helper::new());
    for tool in ["lookup", "put"] {
        let trace = Trace::new();
        let reply = gateway.call(tool, &trace.crashing_once(json!({})).to_string());
        reply.expect_error(502, "worker_crashed", "signal 9");
        wait_for_workers(&gateway, 2);
        assert_eq!(trace.lines().len(), 1, "`{tool}`");
    }
}

#[test]
fn streams_and_sockets_are_repeated_too() {
    let gateway = pool_of(2, &[], Helper::new());
    let trace = Trace::new();
    let arguments = trace.crashing_once(json!({}));
    let events = EventStream::open(&gateway, "lookup", &arguments.to_string()).rest();
    assert_eq!(names(&events), ["result", "done"]);
    assert_eq!(events[0].data["data"], arguments);

    wait_for_workers(&gateway, 2);
    let trace = Trace::new();
    let arguments = trace.crashing_once(json!({}));
    let mut socket = Socket::open(&gateway, "/ws/tools/lookup");
    socket.call("1", &arguments.to_string());
    socket.expect_complete("1", &arguments);
    assert_eq!(trace.lines().len(), 2);
}

#[test]
fn a_client_that_has_seen_items_is_not_shown_them_again() {
    let gateway = pool_of(2, &[], Helper::new());
    let trace = Trace::new();
    let arguments = trace.crashing_once(json!({"chunk": true}));
    let events = EventStream::open(&gateway, "lookup", &arguments.to_string()).rest();
    assert_eq!(names(&events), ["chunk", "error", "done"]);
    assert_eq!(events[1].data["error"]["code"], "worker_crashed");
    assert_eq!(trace.lines().len(), 1);
}

#[test]
fn all_calls_of_a_killed_worker_that_may_be_repeated_are() {
    check_killed_together(&[("WORKER_CONCURRENCY", "16")]);
}

/// They have been taken already; only what comes now can be told that there is no room.
#[test]
fn a_full_queue_refuses_no_call_of_a_killed_worker() {
    check_killed_together(&[("WORKER_CONCURRENCY", "16"), ("QUEUE_MAX", "1")]);
}

/// Sixteen calls that may be repeated are in the only worker when it is killed.
#[track_caller]
fn check_killed_together(settings: &[(&str, &str)]) {
    let gateway = pool_of(1, settings, Helper::new());
    let trace = Trace::new();
    let arguments = |n: u32| trace.arguments(json!({"ms": 500, "value": n.to_string()}));
    let calls: Vec<Sent> = (0..16).map(|n| Sent::call(&gateway, "lookup", &arguments(n))).collect();
    gateway.wait_until("all calls at the worker", || trace.lines().len() == 16);

    send_signal(trace.pids()[0], Signal::KILL);
    for (call, n) in calls.into_iter().zip(0..) {
        call.reply().expect_data(&arguments(n));
    }
    let mut values: Vec<String> = trace.lines().into_iter().map(|(_, value)| value).collect();
    values.sort();
    let mut expected: Vec<String> = (0..16).flat_map(|n| [n.to_string(), n.to_string()]).collect();
    expected.sort();
    assert_eq!(values, expected, "each exactly twice");
}

#[test]
fn under_load_a_killed_worker_costs_no_call_that_may_be_repeated() {
    let gateway = pool_of(4, &[], Helper::new());

    super::under_load(&gateway, 8, "lookup", &json!({"ms": 5}), || {
        for _ in 0..5 {
            let pids = gateway.worker_pids();
            send_signal(pids[0], Signal::KILL);
            gateway.wait_until("4 other workers", || {
                let now = gateway.worker_pids();
                now.len() == 4 && !now.contains(&pids[0]) && gateway.usable_workers() == 4
            });
        }
    });
}
