//! Sockets on which one call follows the other, seen from outside: they share a few threads, and none of them ever notices.

use std::{
    io::Write as _,
    net::Shutdown,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::json;

use crate::{
    http::Connection,
    process,
    support::{Gateway, Helper},
    ws::client::{CLOSE, CONTINUATION, FINAL, PONG, Socket, TEXT, frame},
};

#[track_caller]
fn check_call(socket: &mut Socket, number: usize) {
    socket.send(format!(r#"{{"id":{number},"tool":"echo","arguments":{{"number":{number}}}}}"#));
    socket.expect_complete(&number.to_string(), &json!({"number": number}));
}

#[track_caller]
fn begin_slow(socket: &mut Socket, id: &str, fields: &str) {
    socket.send(format!(r#"{{"id":{id},"tool":"delay","arguments":{{"ms":60000}}{fields}}}"#));
    socket.expect_event("started", id);
}

fn n_threads(gateway: &Gateway, prefix: &str) -> usize {
    process::n_threads(gateway.pid(), prefix)
}

/// Sockets that take turns now.
#[track_caller]
fn callers(gateway: &Gateway, n_sockets: usize) -> Vec<Socket> {
    let mut sockets: Vec<_> = (0..n_sockets).map(|_| Socket::open(gateway, "/ws")).collect();
    settle(gateway, &mut sockets);
    sockets
}

#[track_caller]
fn settle(gateway: &Gateway, sockets: &mut [Socket]) {
    // While all of them go on, so that none is quiet.
    gateway.wait_until("no thread of their own", || {
        sockets.iter_mut().for_each(|socket| check_call(socket, 1));
        n_threads(gateway, "conn-") == 0
    });
}

#[test]
fn sockets_that_call_again_and_again_share_a_few_threads_and_quiet_ones_get_theirs_back() {
    let gateway = Gateway::start(&[], Helper::new());
    let mut sockets = callers(&gateway, 30);
    assert!((1..=8).contains(&n_threads(&gateway, "lobby-")));
    gateway
        .wait_until("a thread for each", || n_threads(&gateway, "conn-") == 30 && n_threads(&gateway, "lobby-") == 0);
    settle(&gateway, &mut sockets);
}

#[test]
fn a_start_is_told_in_time_though_nobody_waits_for_that_socket() {
    let gateway = Gateway::start(&[], Helper::new());
    let mut sockets = callers(&gateway, 1);
    // Of the threads, which look after all sockets each 250 ms, one must have looked earlier for each of these. A machine that is busy
    // with other things gets several tries.
    let are_in_time = (0..5).any(|_| {
        settle(&gateway, &mut sockets);
        let began_at = Instant::now();
        for _ in 0..10 {
            begin_slow(&mut sockets[0], r#""slow""#, "");
            sockets[0].send(r#"{"id":"slow","event":"cancel"}"#);
            sockets[0].expect_event("cancelled", r#""slow""#);
        }
        began_at.elapsed() < Duration::from_secs(1)
    });
    assert!(are_in_time, "10 starts were not told within a second");
}

#[test]
fn nobody_waits_for_half_a_message_or_a_socket_that_is_not_read() {
    let gateway = Gateway::start(&[], Helper::new());
    let padding = "x".repeat(100_000);
    let mut sockets = callers(&gateway, 3);
    let narrow = gateway.speaking(Connection::open_narrow(gateway.address(), 4096));
    sockets.push(Socket::over(narrow, &gateway, "/ws"));
    settle(&gateway, &mut sockets);
    let [quick, half, bytes, lazy] = &mut sockets[..] else { unreachable!() };

    let text = r#"{"id":"half","tool":"echo","arguments":{"a":1}}"#;
    let framed = frame(FINAL | TEXT, text.as_bytes());
    half.send_raw(&framed[..framed.len() - 7], "most of a call");
    for at in 0..3 {
        // In the frame's head.
        bytes.send_raw(&framed[at..=at], "a byte");
    }
    for number in 0..12 {
        lazy.send(format!(r#"{{"id":{number},"tool":"echo","arguments":{{"padding":"{padding}"}}}}"#));
    }
    for number in 0..50 {
        check_call(quick, number);
    }
    half.send_raw(&framed[framed.len() - 7..], "the rest of it");
    half.expect_complete(r#""half""#, &json!({"a": 1}));
    bytes.send_raw(&framed[3..], "the rest of it");
    bytes.expect_complete(r#""half""#, &json!({"a": 1}));
    let mut n_complete = 0;
    while n_complete < 12 {
        let message = lazy.next();
        if message["event"] == "complete" {
            assert_eq!(message["data"], json!({"padding": padding}));
            n_complete += 1;
        }
    }
    sockets.iter_mut().for_each(|socket| check_call(socket, 1));
}

/// More floods than there are threads to share.
#[test]
fn nobody_waits_for_a_client_that_never_stops() {
    let gateway = Gateway::start(&[], Helper::new());
    let floods: [Vec<u8>; 2] = [FINAL | PONG, CONTINUATION].map(|first| frame(first, b"").repeat(200_000));
    for flood in &floods {
        let mut sockets = callers(&gateway, 10);
        let (quick, busy) = sockets.split_first_mut().unwrap();
        let streams: Vec<_> = busy.iter().map(|socket| socket.connection.stream.try_clone().unwrap()).collect();
        thread::scope(|scope| {
            for (socket, mut stream) in busy.iter_mut().zip(&streams) {
                if flood[0] == CONTINUATION {
                    socket.send_frame(TEXT, b"{");
                }
                scope.spawn(move || while stream.write_all(flood).is_ok() {});
            }
            let served = scope.spawn(|| (0..200).for_each(|number| check_call(quick, number))).join();
            streams.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
            served.unwrap();
        });
    }
}

#[test]
fn what_happens_in_calls_and_what_is_asked_comes_as_ever() {
    let gateway = Gateway::start(&[("MIN_WORKERS", "2"), ("MAX_WORKERS", "2")], Helper::new());
    let mut sockets = callers(&gateway, 6);
    thread::scope(|scope| {
        for (socket, n) in sockets.iter_mut().zip(0..) {
            scope.spawn(move || {
                for round in 0..20 {
                    let word = format!("socket {n} round {round}");
                    socket.send(format!(
                        r#"{{"id":1,"tool":"ask","arguments":{{"method":"elicitation/create","value":"{word}"}}}}"#
                    ));
                    socket.expect_event("started", "1");
                    let question = socket.expect_event("input_required", "1");
                    assert_eq!(question["params"]["message"], word);
                    check_call_beside(socket, round);
                    socket.input(&question, &format!(r#""result":{{"content":"{word}"}}"#));
                    assert_eq!(socket.expect_event("complete", "1")["data"]["result"]["content"], word);

                    socket.send(r#"{"id":2,"tool":"progress","arguments":{"n":5}}"#);
                    socket.expect_event("started", "2");
                    (0..5).for_each(|_| drop(socket.expect_event("progress", "2")));
                    socket.expect_event("complete", "2");
                }
            });
        }
    });
}

/// A message that is answered at once, while a call waits.
#[track_caller]
fn check_call_beside(socket: &mut Socket, round: usize) {
    socket.send(format!(r#"{{"id":"{round}","tool":"nobody_knows"}}"#));
    socket.expect_error("unknown_tool", "nobody_knows");
}

#[test]
fn a_client_that_goes_away_has_its_call_cancelled_and_one_that_waits_is_told_of_the_end_of_its_time() {
    let gateway = Gateway::start(&[("MIN_WORKERS", "1"), ("MAX_WORKERS", "1")], Helper::new());
    let mut sockets = callers(&gateway, 3);
    let started_at = Instant::now();
    for (way, n_before) in [(true, 0), (false, 1)] {
        let mut socket = sockets.pop().unwrap();
        check_call(&mut socket, 1);
        begin_slow(&mut socket, "1", "");
        if way {
            socket.send_frame(FINAL | CLOSE, &1000_u16.to_be_bytes());
        }
        drop(socket);
        gateway.wait_until("the cancellation", || gateway.counts()["cancels"] == n_before + 1);
    }
    assert!(started_at.elapsed() < Duration::from_secs(50), "that was the end of the calls");
    settle(&gateway, &mut sockets);
    sockets[0].send(r#"{"id":2,"tool":"delay","arguments":{"ms":60000},"timeout":0.1}"#);
    sockets[0].expect_event("started", "2");
    sockets[0].expect_error("timeout", "delay");
    check_call(&mut sockets[0], 3);
    drop(sockets);
    gateway.wait_until("nobody but who asks", || gateway.stats()["connections"]["open"] == 1);
}

#[test]
fn sockets_close_when_the_gateway_stops_and_running_calls_end_first() {
    let mut gateway = Gateway::start(&[("MIN_WORKERS", "2"), ("MAX_WORKERS", "2")], Helper::new());
    let mut sockets = callers(&gateway, 4);
    sockets[0].send(r#"{"id":1,"tool":"delay","arguments":{"ms":300,"value":"done"}}"#);
    gateway.wait_for_a_call_at_work();
    gateway.signal(Signal::TERM);
    for socket in &mut sockets[1..] {
        socket.expect_close(Some(1001));
    }
    sockets[0].expect_complete("1", &json!("done"));
    sockets[0].expect_close(Some(1001));
    assert_eq!(gateway.wait_for_exit().code(), Some(0), "{}", gateway.log());
}

#[test]
fn many_sockets_at_once_each_get_their_own_answers() {
    let gateway = Gateway::start(&[("WORKER_CONCURRENCY", "8")], Helper::new());
    thread::scope(|scope| {
        for client in 0..16 {
            let gateway = &gateway;
            scope.spawn(move || {
                let mut socket = Socket::open(gateway, "/ws");
                for number in 0..150 {
                    if number % 50 == 49 {
                        // Quiet for so long that it leaves, for some at that very moment.
                        thread::sleep(Duration::from_millis(450 + 10 * (client as u64 % 12)));
                    }
                    check_call(&mut socket, client * 1000 + number);
                }
            });
        }
    });
}
