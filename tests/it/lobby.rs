//! Connections that make one call after the other, seen from outside: they share a few threads, and none of them ever notices.

use std::{
    num::NonZero,
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    doorstep::check_end,
    http::{Connection, tool_call, tool_request},
    process,
    support::{Gateway, Helper, KEY, Launch},
};

/// Whoever waits here waits for the whole time of a slow thing that was meant to stand in nobody's way.
const SLOW: &str = r#"{"ms":60000}"#;

#[track_caller]
fn check_call(gateway: &Gateway, connection: &mut Connection, number: usize) {
    connection.send_raw(tool_call("echo", &format!(r#"{{"number":{number}}}"#))).unwrap();
    gateway.reply("a call", connection.receive(false).unwrap()).expect_data(&json!({"number": number}));
}

/// Connections that have just made some calls.
#[track_caller]
fn callers<const N: usize>(gateway: &Gateway) -> [Connection; N] {
    let mut connections: Vec<_> = (0..N).map(|_| gateway.connect()).collect();
    for number in 0..4 {
        connections.iter_mut().for_each(|connection| check_call(gateway, connection, number));
    }
    connections.try_into().ok().unwrap()
}

fn n_processors() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

#[test]
fn connections_that_call_again_and_again_share_a_few_threads() {
    let gateway = Gateway::start(&[], Helper::new());
    let mut connections = callers::<30>(&gateway);
    // While all of them go on, so that none rests.
    let mut number = 0;
    gateway.wait_until("no thread of their own", || {
        for connection in &mut connections {
            check_call(&gateway, connection, number);
            number += 1;
        }
        process::n_threads(gateway.pid(), "conn-") == 0
    });
    let n_threads = || process::n_threads(gateway.pid(), "lobby-");
    assert_eq!(n_threads(), n_processors().min(8));
    gateway.wait_until("no thread while nobody calls", || n_threads() == 0);
    check_call(&gateway, &mut connections[0], 1);
}

#[test]
fn nobody_waits_for_a_request_that_is_only_half_there() {
    let gateway = Gateway::start(&[], Helper::new());
    let [mut quick, mut slow @ ..] = callers::<20>(&gateway);
    let request = tool_call("echo", r#"{"text":"in two pieces"}"#);
    for (cut, connection) in slow.iter_mut().enumerate() {
        // In the head, in its end, and in the body.
        connection.send_raw(&request[..request.len() - 1 - 3 * cut]).unwrap();
    }
    for number in 0..20 {
        check_call(&gateway, &mut quick, number);
    }
    for (cut, connection) in slow.iter_mut().enumerate() {
        connection.send_raw(&request[request.len() - 1 - 3 * cut..]).unwrap();
        let answer = connection.receive(false).unwrap();
        gateway.reply("in two pieces", answer).expect_data(&json!({"text": "in two pieces"}));
        check_call(&gateway, connection, cut);
    }
}

#[test]
fn nobody_waits_for_calls_that_last_or_are_sent_ahead() {
    let settings = [("MIN_WORKERS", "1"), ("MAX_WORKERS", "1"), ("WORKER_CONCURRENCY", "64")];
    let gateway = Gateway::start(&settings, Helper::new());
    let [mut quick, mut slow @ ..] = callers::<20>(&gateway);
    let after = tool_call("echo", r#"{"after":true}"#);
    for connection in &mut slow {
        connection.send_raw(format!("{}{after}{after}", tool_call("delay", r#"{"ms":900,"value":1}"#))).unwrap();
    }
    for number in 0..20 {
        check_call(&gateway, &mut quick, number);
    }
    for connection in &mut slow {
        gateway.reply("slow", connection.receive(false).unwrap()).expect_data(&json!("1"));
        for _ in 0..2 {
            gateway.reply("sent ahead", connection.receive(false).unwrap()).expect_data(&json!({"after": true}));
        }
    }
}

#[test]
fn nobody_waits_for_a_client_that_does_not_read() {
    let gateway = Gateway::start(&[], Helper::new());
    let [mut quick] = callers::<1>(&gateway);
    let padding = "x".repeat(15_000);
    let padded = tool_call("echo", &format!(r#"{{"padding":"{padding}"}}"#));
    let mut lazy: Vec<_> = (0..6).map(|_| gateway.speaking(Connection::open_narrow(gateway.address(), 4096))).collect();
    for connection in &mut lazy {
        for number in 0..4 {
            check_call(&gateway, connection, number);
        }
        connection.send_raw(padded.repeat(12)).unwrap();
    }
    for number in 0..20 {
        check_call(&gateway, &mut quick, number);
    }
    for connection in &mut lazy {
        for _ in 0..12 {
            let answer = connection.receive(false).unwrap();
            gateway.reply("padded", answer).expect_data(&json!({"padding": padding}));
        }
    }
}

#[test]
fn nobody_waits_for_a_long_check_of_arguments() {
    const RULES: usize = 4000;
    let rules: Vec<_> = (0..RULES).map(|n| json!({"minimum": 1000 + n})).chain([json!({"type": "integer"})]).collect();
    let schema = json!({"type": "object", "properties": {"a": {"items": {"anyOf": rules}}}}).to_string();
    let gateway = Gateway::start(&[], Helper::with(&["--schema", &schema]));
    let [mut connection] = callers::<1>(&gateway);
    let newest = || (1..100).rev().find(|n| 0 < process::n_threads(gateway.pid(), &format!("lobby-{n}\n")));
    // Making the schema ready took long, too.
    let before = newest();
    for number in 0..3 {
        check_call(&gateway, &mut connection, number);
    }
    assert_eq!(newest(), before, "short checks take no thread of their own");
    let arguments = json!({"a": vec![1; 500]});
    connection.send_raw(tool_call("echo", &arguments.to_string())).unwrap();
    gateway.reply("long", connection.receive(false).unwrap()).expect_data(&arguments);
    assert!(before < newest(), "another thread has taken over");
}

#[test]
fn whatever_else_is_asked_is_answered_in_its_order() {
    let gateway = Gateway::start(&[], Helper::new());
    let asked =
        |method: &str, path: &str| format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {}\r\n\r\n", KEY);
    let padding = "x".repeat(200_000);
    let requests = [
        (tool_call("error", "{}"), 422),
        (tool_call("nobody_knows", "{}"), 404),
        (asked("GET", "/health/live"), 200),
        (tool_request("echo", "{"), 400),
        (tool_call("big", r#"{"bytes":1000000}"#), 200),
        (tool_call("echo", &format!(r#"{{"padding":"{padding}"}}"#)), 200),
        (asked("GET", "/tools"), 200),
        (asked("DELETE", "/tools/echo"), 405),
        (tool_call("echo/stream", "{}"), 200),
        (tool_call("rpc_error", "{}"), 502),
        (tool_call("crash", "{}"), 502),
        (asked("GET", "/stats"), 200),
        (tool_request("delay", r#"{"arguments":{"ms":60000},"timeout":0.1}"#), 504),
    ];
    let mut connections = callers::<4>(&gateway);
    for (request, status) in &requests {
        for (number, connection) in connections.iter_mut().enumerate() {
            // Both ways: on its own, and between two others.
            connection.send_raw(request).unwrap();
            gateway.reply(&request[..40], connection.receive(false).unwrap()).expect_status(*status);
            let call = tool_call("echo", &format!(r#"{{"number":{number}}}"#));
            connection.send_raw(format!("{call}{request}{call}")).unwrap();
            for expected in [200, *status, 200] {
                gateway.reply(&request[..40], connection.receive(false).unwrap()).expect_status(expected);
            }
            for number in 0..3 {
                check_call(&gateway, connection, number);
            }
        }
        gateway.wait_until("all workers", || gateway.usable_workers() == 2);
    }
}

#[test]
fn nobody_waits_for_a_client_that_sends_much_that_is_answered_at_once() {
    let gateway = Gateway::start(&[], Helper::new());
    let [mut quick, mut busy @ ..] = callers::<5>(&gateway);
    let live = "GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n";
    thread::scope(|scope| {
        for connection in &mut busy {
            scope.spawn(move || {
                for _ in 0..10 {
                    connection.send_raw(live.repeat(200)).unwrap();
                    (0..200).for_each(|_| assert_eq!(connection.receive(false).unwrap().status, 200));
                }
            });
        }
        for number in 0..100 {
            check_call(&gateway, &mut quick, number);
        }
    });
    busy.iter_mut().for_each(|connection| check_call(&gateway, connection, 1));
}

#[test]
fn a_client_that_goes_away_has_its_call_cancelled_and_one_that_waits_is_told_of_the_end_of_its_time() {
    let settings = [("MIN_WORKERS", "1"), ("MAX_WORKERS", "1"), ("MCP_REQUEST_TIMEOUT", "2.5")];
    let gateway = Gateway::start(&settings, Helper::new());
    let [mut gone, mut patient] = callers::<2>(&gateway);
    gone.send_raw(tool_call("delay", SLOW)).unwrap();
    gateway.wait_for_a_call_at_work();
    let left_at = Instant::now();
    drop(gone);
    gateway.wait_until("the cancellation", || gateway.counts()["cancels"] == 1);
    assert!(left_at.elapsed() < Duration::from_secs(2), "that was the end of its time");

    patient.send_raw(tool_call("delay", SLOW)).unwrap();
    gateway.reply("too slow", patient.receive(false).unwrap()).expect_error(504, "timeout", "delay");
    check_call(&gateway, &mut patient, 1);
}

#[test]
fn a_connection_that_falls_quiet_is_closed_in_time() {
    let gateway = Gateway::start(&[("KEEP_ALIVE_TIMEOUT", "2.5")], Helper::new());
    let [mut idle] = callers::<1>(&gateway);
    let idle_since = Instant::now();
    assert_eq!(idle.rest().unwrap(), b"", "closed without a word");
    assert!(Duration::from_secs_f64(2.4) < idle_since.elapsed(), "not before its time");
    gateway.wait_until("nobody but who asks", || gateway.stats()["connections"]["open"] == 1);
}

#[test]
fn connections_end_with_the_gateway_and_running_calls_first() {
    let mut gateway = Launch::new(Helper::new()).start();
    let [mut busy, mut idle @ ..] = callers::<10>(&gateway);
    busy.send_raw(tool_call("delay", r#"{"ms":400,"value":"done"}"#)).unwrap();
    gateway.wait_for_a_call_at_work();
    idle.iter_mut().for_each(|connection| check_call(&gateway, connection, 1));
    check_end(&mut gateway, &mut idle, &mut busy);
}

#[test]
fn many_clients_at_once_each_get_their_own_answers() {
    let gateway = Gateway::start(&[("WORKER_CONCURRENCY", "8")], Helper::new());
    thread::scope(|scope| {
        for client in 0..24 {
            let gateway = &gateway;
            scope.spawn(move || {
                let mut connection = gateway.connect();
                for number in 0..150 {
                    let number = client * 1000 + number;
                    if number % 50 == 49 {
                        // Quiet for so long that it leaves, for some at that very moment.
                        thread::sleep(Duration::from_millis(450 + 10 * (client as u64 % 12)));
                    }
                    check_call(gateway, &mut connection, number);
                }
            });
        }
    });
}
