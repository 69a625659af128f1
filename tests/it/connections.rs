//! What arrives on a socket, well-formed or not: a clear answer, nothing hangs, and the next request is served.

use std::{
    fs,
    io::Write,
    net::Shutdown,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Resource, Rlimit};

use crate::support::{Connection, Gateway, Helper, KEY, Launch, PATIENCE};

const CALL: &str = "POST /tools/echo HTTP/1.1\r\nHost: localhost\r\nX-API-Key: super-secret\r\nContent-Length: 21\r\n\r\n{\"arguments\":{\"a\":1}}";

/// The gateway answers `bytes` with `status` and closes the connection; then it still serves.
#[track_caller]
fn check_refused(gateway: &Gateway, bytes: impl AsRef<[u8]>, status: u16) {
    let mut connection = gateway.connect();
    // It may answer and close before it has seen all of it.
    let _ = connection.send_raw(&bytes);
    let shown = String::from_utf8_lossy(bytes.as_ref()).chars().take(200).collect::<String>();
    let answer =
        connection.receive(false).unwrap_or_else(|cause| panic!("{shown:?}: no answer: {cause}\n{}", gateway.log()));
    gateway.reply(&shown, answer).expect_status(status);
    let rest = connection.rest().unwrap_or_else(|cause| panic!("{shown:?}: {cause}"));
    assert!(rest.is_empty(), "{shown:?}: {:?}", String::from_utf8_lossy(&rest));
    gateway.call("echo", "{}").expect_status(200);
}

#[test]
fn a_huge_announced_length_costs_nothing_and_gets_413() {
    let gateway = Gateway::start(&[], Helper::new());

    for length in ["1000000000000000", "18446744073709551615"] {
        let head = format!(
            "POST /tools/echo HTTP/1.1\r\nHost: localhost\r\nX-API-Key: super-secret\r\nContent-Length: {length}\r\n\r\n"
        );
        check_refused(&gateway, head, 413);
    }
}

#[test]
fn a_chunked_body_over_the_limit_gets_413() {
    let gateway = Gateway::start(&[("BODY_BYTES_MAX", "1k")], Helper::new());
    let chunk = format!("200\r\n{}\r\n", "x".repeat(0x200));
    let head =
        "POST /tools/echo HTTP/1.1\r\nHost: localhost\r\nX-API-Key: super-secret\r\nTransfer-Encoding: chunked\r\n\r\n";

    check_refused(&gateway, format!("{head}{}", chunk.repeat(3)), 413);
    check_refused(&gateway, format!("{head}ffffffffffffffff\r\n"), 413);
}

#[test]
fn an_endless_head_or_too_many_headers_get_431() {
    let gateway = Gateway::start(&[], Helper::new());

    check_refused(&gateway, format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}", "x".repeat(20_000)), 431);
    check_refused(&gateway, format!("GET /{} HTTP/1.1\r\n", "x".repeat(20_000)), 431);
    let headers: String = (0..150).map(|number| format!("X-{number}: y\r\n")).collect();
    check_refused(&gateway, format!("GET / HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"), 431);
}

#[test]
fn a_slow_head_and_a_slow_body_are_cut_off() {
    let gateway = Gateway::start(&[("HEAD_TIMEOUT", "0.2"), ("BODY_TIMEOUT", "0.2")], Helper::new());

    check_refused(&gateway, "GET /health HTTP/1.1\r\nHost: loc", 408);
    check_refused(&gateway, CALL.trim_end_matches("1}}"), 408);
    check_refused(
        &gateway,
        CALL.replace("Content-Length: 21", "Transfer-Encoding: chunked").replace("\r\n\r\n{", "\r\n\r\n15\r\n{"),
        408,
    );
}

#[test]
fn a_head_that_drips_is_cut_off_as_well() {
    let gateway = Gateway::start(&[("HEAD_TIMEOUT", "0.3")], Helper::new());
    let mut connection = gateway.connect();
    let mut stream = connection.stream.try_clone().unwrap();

    // One byte at a time never pauses for as long as the limit, and yet never ends.
    let dripping = thread::spawn(move || {
        let start = Instant::now();
        while start.elapsed() < PATIENCE && stream.write_all(b"a").is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
        start.elapsed()
    });
    let answer = connection.rest().unwrap();
    let elapsed = dripping.join().unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 4"), "{:?}", String::from_utf8_lossy(&answer));
    assert!(elapsed < PATIENCE / 2, "cut off after {elapsed:?}");
}

#[test]
fn a_request_that_stops_half_way_leaves_nothing_behind() {
    let gateway = Gateway::start(&[], Helper::new());

    for end in 0..CALL.len() {
        let mut connection = gateway.connect();
        connection.send_raw(&CALL[..end]).unwrap();
        connection.stream.shutdown(Shutdown::Both).unwrap();
    }
    gateway.wait_until("the end of all but the asking connection", || gateway.stats()["connections"]["open"] == 1);
    assert_eq!(gateway.stats()["totals"]["calls"], 0, "none was whole");
}

#[test]
fn a_request_that_arrives_byte_by_byte_is_served() {
    let gateway = Gateway::start(&[], Helper::new());
    let mut connection = gateway.connect();

    for byte in CALL.bytes() {
        connection.send_raw([byte]).unwrap();
    }
    let answer = connection.receive(false).unwrap();
    gateway.reply("byte by byte", answer).expect_data(&serde_json::json!({"a": 1}));
}

#[test]
fn a_chunked_body_is_served_and_its_trailers_are_skipped() {
    let gateway = Gateway::start(&[], Helper::new());
    let request = "POST /tools/echo HTTP/1.1\r\nHost: localhost\r\nX-API-Key: super-secret\r\nTransfer-Encoding: Chunked\r\n\r\n\
                   6;note=x\r\n{\"argu\r\nF\r\nments\":{\"a\":1}}\r\n0\r\nX-Trailer: y\r\n\r\n";

    let mut connection = gateway.connect();
    for _ in 0..2 {
        connection.send_raw(request).unwrap();
        let answer = connection.receive(false).unwrap();
        gateway.reply(request, answer).expect_data(&serde_json::json!({"a": 1}));
    }
}

#[test]
fn pipelined_requests_are_answered_in_order_on_one_connection() {
    let gateway = Gateway::start(&[], Helper::new());
    let mut connection = gateway.connect();
    let slow_first: String = (0..20)
        .map(|number| {
            let body = format!(r#"{{"arguments":{{"ms":{},"value":"{number}"}}}}"#, 20 - number);
            let length = body.len();
            format!("POST /tools/delay HTTP/1.1\r\nHost: localhost\r\nX-API-Key: super-secret\r\nContent-Length: {length}\r\n\r\n{body}")
        })
        .collect();

    connection.send_raw(slow_first).unwrap();
    for number in 0..20 {
        let answer = connection.receive(false).unwrap();
        gateway.reply("pipelined", answer).expect_data(&serde_json::json!(number.to_string()));
    }
}

#[test]
fn a_client_may_ask_whether_to_send_its_body() {
    let gateway = Gateway::start(&[], Helper::new());
    let mut connection = gateway.connect();
    let (head, body) = CALL.split_once("\r\n\r\n").unwrap();

    connection.send_raw(format!("{head}\r\nExpect: 100-continue\r\n\r\n")).unwrap();
    let mut interim = [0; 25];
    std::io::Read::read_exact(&mut connection.stream, &mut interim).unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    connection.send_raw(body).unwrap();
    let answer = connection.receive(false).unwrap();
    gateway.reply("after 100", answer).expect_status(200);
}

#[test]
fn head_answers_without_a_body_and_old_clients_are_closed() {
    let gateway = Gateway::start(&[], Helper::new());
    let mut connection = gateway.connect();

    for _ in 0..2 {
        connection.send("HEAD", "/health", &[], b"").unwrap();
        assert_eq!(connection.receive(true).unwrap().status, 200);
    }
    let mut old = gateway.connect();
    old.send_raw("GET /health HTTP/1.0\r\n\r\n").unwrap();
    let all = old.rest().unwrap();
    assert!(String::from_utf8_lossy(&all).contains(r#""status""#), "{:?}", String::from_utf8_lossy(&all));
}

#[test]
fn two_hundred_connections_at_once_are_all_served() {
    let gateway = Gateway::start(&[], Helper::new());

    let mut connections: Vec<Connection> = (0..200).map(|_| gateway.connect()).collect();
    for _ in 0..3 {
        for connection in &mut connections {
            connection.send_raw(CALL).unwrap();
        }
        for connection in &mut connections {
            let answer = connection.receive(false).unwrap();
            gateway.reply(CALL, answer).expect_data(&serde_json::json!({"a": 1}));
        }
    }
}

#[test]
fn over_the_limit_health_is_still_answered_and_the_rest_is_told() {
    let gateway = Gateway::start(&[("CONNECTIONS_MAX", "4")], Helper::new());
    let mut held: Vec<Connection> = Vec::new();
    gateway.wait_until("room for four connections", || {
        held.clear();
        held.extend((0..4).map(|_| gateway.connect()));
        // In the reserve, where a poll that is not yet over may have pushed one, only health is answered.
        held.iter_mut().all(|it| {
            it.send("GET", "/tools", &[("X-API-Key", KEY)], b"").unwrap();
            it.receive(false).is_ok_and(|answer| answer.status == 200)
        })
    });

    gateway.get("/health").expect_status(200);
    gateway.call("echo", "{}").expect_error(503, "overloaded", "connections");
    drop(held);
    gateway.wait_until("room again", || gateway.call("echo", "{}").status == 200);
}

/// With every place taken, and then the reserve as well, by clients that say nothing for as long as they may.
#[track_caller]
fn check_health_in_a_crowd(launch: Launch, connections_max: usize) {
    let gateway = launch.set("HEAD_TIMEOUT", "600").set("KEEP_ALIVE_TIMEOUT", "600").start();
    let health = || {
        let mut connection = gateway.connect();
        let sent = connection.send("GET", "/health", &[], b"");
        sent.and_then(|()| connection.receive(false)).is_ok_and(|answer| answer.status == 200)
    };
    let calls = || gateway.call("echo", "{}").status;

    let mut held: Vec<Connection> = Vec::new();
    gateway.wait_until("no room for calls", || {
        held.push(gateway.connect());
        calls() == 503
    });
    assert!(held.len() <= connections_max + 1, "{} connections are held", held.len());
    assert!(health(), "through the reserve\n{}", gateway.log());
    let more: Vec<Connection> = (0..100).map(|_| gateway.connect()).collect();
    gateway.wait_until("an answer about health, with the reserve taken", health);
    assert_eq!(calls(), 503, "the crowd is still there");
    drop((held, more));
    gateway.wait_until("room for calls", || calls() == 200);
}

#[test]
fn health_is_answered_while_all_connections_and_the_reserve_are_held() {
    check_health_in_a_crowd(Launch::new(Helper::new()).set("CONNECTIONS_MAX", "8"), 8);
}

#[test]
fn health_is_answered_while_all_descriptors_that_connections_may_take_are_taken() {
    let workers = [("MIN_WORKERS", "1"), ("MAX_WORKERS", "1")];
    let launch = Launch::new(Helper::new()).set_all(&workers).shell_prelude("ulimit -n 200");
    // What two descriptors each would allow, had workers and the gateway itself none.
    check_health_in_a_crowd(launch, 100);
}

#[test]
fn a_gateway_without_descriptors_goes_on_when_they_are_back() {
    let gateway = Launch::new(Helper::new()).shell_prelude("ulimit -n 64").start();

    let held: Vec<Connection> = (0..100).map(|_| gateway.connect()).collect();
    drop(held);
    gateway.wait_until("an answered call", || {
        let mut connection = gateway.connect();
        connection.send_raw(CALL).is_ok() && connection.receive(false).is_ok_and(|answer| answer.status == 200)
    });
}

#[test]
fn a_client_is_told_when_no_descriptor_is_left_and_the_next_is_served_when_there_is() {
    let gateway = Gateway::start(&[("LOG_LEVEL", "DEBUG")], Helper::new());
    let limit = |descriptors: u64| {
        let limit = Rlimit { current: Some(descriptors), maximum: Some(1024) };
        rustix::process::prlimit(Pid::from_raw(gateway.pid().cast_signed()), Resource::Nofile, limit).unwrap();
    };
    let n_open = fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap().count();

    // Room for a few, which are held; one of the next meets an `accept` that fails.
    limit(n_open as u64 + 2);
    let mut held = Vec::new();
    let refused = (0..10).find_map(|_| {
        let mut connection = gateway.connect();
        connection.send_raw(CALL).unwrap();
        let answer = connection.receive(false).unwrap_or_else(|cause| panic!("no answer: {cause}\n{}", gateway.log()));
        held.push(connection);
        (answer.status != 200).then_some(answer)
    });
    gateway.reply("without descriptors", refused.unwrap()).expect_error(503, "overloaded", "descriptor");
    limit(1024);
    gateway.call("echo", "{}").expect_status(200);
}

#[test]
fn an_idle_connection_is_closed_in_time() {
    let gateway = Gateway::start(&[("KEEP_ALIVE_TIMEOUT", "0.2")], Helper::new());
    let mut connection = gateway.connect();
    connection.send_raw(CALL).unwrap();
    assert_eq!(connection.receive(false).unwrap().status, 200);
    assert_eq!(connection.rest().unwrap(), b"", "closed without a word");
}

#[test]
fn a_client_that_takes_nothing_of_its_answer_is_cut_off() {
    let gateway = Gateway::start(&[("WRITE_TIMEOUT", "0.2")], Helper::new());
    let mut deaf = gateway.connect();
    // More than the buffers of both sockets hold.
    let body = br#"{"arguments":{"bytes":12000000}}"#;
    deaf.send("POST", "/tools/big", &[("X-API-Key", KEY)], body).unwrap();
    gateway.wait_until("the end of the deaf connection", || {
        let stats = gateway.stats();
        stats["totals"]["calls"] == 1 && stats["connections"]["open"] == 1
    });
}

#[test]
fn a_client_that_goes_away_has_its_call_cancelled() {
    let settings = [("MIN_WORKERS", "1"), ("MAX_WORKERS", "1"), ("WORKER_CONCURRENCY", "32")];
    let gateway = Gateway::start(&settings, Helper::new());
    let mut connection = gateway.connect();

    let body = r#"{"arguments":{"ms":60000}}"#;
    connection.send("POST", "/tools/delay", &[("X-API-Key", KEY)], body.as_bytes()).unwrap();
    gateway.wait_until("the call at the worker", || {
        gateway.call("counts", "{}").data()["methods"]["tools/call"].as_u64() >= Some(2)
    });
    drop(connection);
    gateway.wait_until("the cancellation", || gateway.call("counts", "{}").data()["cancels"] == 1);
}
