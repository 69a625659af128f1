//! How a socket ends, and what keeps it alive: clients that leave, sleep, do not read or talk too much, and a gateway that
//! stops.

use std::{
    io::Write,
    net::Shutdown,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    support::{Connection, Gateway, Helper, PATIENCE, holds_within, pss_bytes},
    ws::{
        ONE_WORKER,
        client::{CLOSE, FINAL, PING, PONG, Socket, TEXT, frame},
    },
};

#[test]
fn a_socket_that_closes_in_mid_call_has_its_calls_cancelled() {
    let gateway = Gateway::start(&ONE_WORKER, Helper::new());
    let ways: [fn(Socket) -> Option<Socket>; 4] = [
        |mut closed_properly| {
            closed_properly.send_frame(FINAL | CLOSE, &1000_u16.to_be_bytes());
            Some(closed_properly)
        },
        |dropped| {
            drop(dropped);
            None
        },
        |half_closed| {
            half_closed.connection.stream.shutdown(Shutdown::Write).unwrap();
            Some(half_closed)
        },
        |reset| {
            reset.connection.reset();
            None
        },
    ];
    for (way, n_before) in ways.into_iter().zip(0..) {
        let mut socket = Socket::open(&gateway, "/ws/tools/quiet");
        socket.call("1", "{}");
        socket.expect_event("started", "1");
        socket.expect_event("progress", "1");
        let _left = way(socket);
        gateway.wait_until(&format!("cancellation {n_before}"), || gateway.counts()["cancels"] == n_before + 1);
    }
    gateway.wait_until("all connections gone", || gateway.stats()["connections"]["open"] == 1);
}

#[test]
fn a_gateway_that_stops_closes_idle_sockets_with_1001() {
    let mut gateway = Gateway::start(&[], Helper::new());
    let mut sockets: Vec<Socket> = (0..3).map(|_| Socket::open(&gateway, "/ws/tools/echo")).collect();
    sockets[0].expect_open();

    gateway.signal(Signal::TERM);
    for socket in &mut sockets {
        assert_eq!(socket.expect_close(Some(1001)), [""; 0]);
    }
    assert_eq!(gateway.wait_for_exit().code(), Some(0), "{}", gateway.log());
}

#[test]
fn a_gateway_that_stops_lets_running_calls_end_first() {
    let mut gateway = Gateway::start(&[], Helper::new());
    let mut socket = Socket::open(&gateway, "/ws/tools/progress");
    socket.call("1", r#"{"n":5,"ms":100}"#);
    socket.expect_event("started", "1");
    socket.expect_event("progress", "1");

    gateway.signal(Signal::TERM);
    let texts = socket.expect_close(Some(1001));
    let last = texts.last().map(String::as_str).unwrap_or_default();
    socket.expect(
        texts.len() == 5 && last.contains(r#""event":"complete""#),
        "4 steps and `complete`",
        &texts.join("\n"),
    );
    assert_eq!(gateway.wait_for_exit().code(), Some(0), "{}", gateway.log());
}

#[test]
fn a_call_that_outlasts_the_stop_is_ended_in_time() {
    let mut gateway = Gateway::start(&[("DRAIN_TIMEOUT", "0.3"), ("STOP_GRACE", "0.3")], Helper::new());
    let mut socket = Socket::open(&gateway, "/ws/tools/quiet");
    socket.call("1", "{}");
    socket.expect_event("started", "1");
    socket.expect_event("progress", "1");

    gateway.signal(Signal::TERM);
    socket.expect_close(Some(1001));
    assert_eq!(gateway.wait_for_exit().code(), Some(0), "{}", gateway.log());
}

#[test]
fn the_gateway_pings_and_closes_a_socket_that_does_not_answer() {
    let settings =
        [("SSE_KEEP_ALIVE", "0.1"), ("KEEP_ALIVE_TIMEOUT", "0.5"), ("MIN_WORKERS", "1"), ("MAX_WORKERS", "1")];
    let gateway = Gateway::start(&settings, Helper::new());
    let mut lively = Socket::open(&gateway, "/ws/tools/quiet");
    let mut dead = Socket::open(&gateway, "/ws/tools/quiet");
    dead.answers_pings = false;
    dead.call("1", "{}");
    dead.expect_event("started", "1");
    dead.expect_event("progress", "1");

    // For longer than the limit, one side does nothing but answer pings.
    for _ in 0..10 {
        let frame = lively.frame();
        assert_eq!(frame.opcode, PING, "{frame:?}");
        lively.send_frame(FINAL | PONG, &frame.payload);
    }
    gateway.wait_until("the cancellation", || gateway.counts()["cancels"] == 1);
    // It reads on, so it sees some pings and then the end.
    let deadline = Instant::now() + PATIENCE;
    while dead.try_frame().is_ok() {
        dead.expect(Instant::now() < deadline, "the end of the connection", "ping after ping");
    }
    lively.call("1", "{}");
    lively.expect_event("started", "1");
    lively.expect_event("progress", "1");
    lively.send_frame(FINAL | CLOSE, &1000_u16.to_be_bytes());
    lively.expect_close(Some(1000));
}

#[test]
fn a_socket_that_does_not_read_is_cut_off() {
    for settings in [[("STREAM_QUEUE_BYTES", "256k")], [("WRITE_TIMEOUT", "0.5")]] {
        let mut all = settings.to_vec();
        all.extend(ONE_WORKER);
        let gateway = Gateway::start(&all, Helper::new());
        let narrow = Connection::open_narrow(gateway.address(), 16 * 1024);
        let mut socket = Socket::over(narrow, &gateway, "/ws/tools/chunks");

        let n_chunks = if settings[0].0 == "WRITE_TIMEOUT" { 60 } else { 200 };
        socket.call("1", &format!(r#"{{"n":{n_chunks},"bytes":100000,"gate":"end"}}"#));
        gateway.wait_until("the cancellation", || gateway.counts()["cancels"] == 1);
        let mut n_read = 0;
        while socket.try_frame().is_ok_and(|frame| frame.opcode != CLOSE) {
            n_read += 1;
        }
        assert!(n_read < n_chunks, "{settings:?}: all of it came");
        gateway.wait_until("its end", || gateway.stats()["connections"]["open"] == 1);
    }
}

#[test]
fn a_client_that_sends_and_never_reads_is_cut_off() {
    let gateway = Gateway::start(&[("WRITE_TIMEOUT", "0.5")], Helper::new());
    let narrow = Connection::open_narrow(gateway.address(), 16 * 1024);
    let mut socket = Socket::over(narrow, &gateway, "/ws/tools/echo");
    let before = pss_bytes(gateway.pid());

    // Each is answered with an error that nobody reads.
    let piece: Vec<u8> = (0..1000).flat_map(|_| frame(FINAL | TEXT, b"nonsense")).collect();
    let mut peak = before;
    let mut is_open = true;
    socket.connection.stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let is_cut_off = holds_within(Duration::from_secs(20), || {
        is_open = is_open && socket.connection.send_raw(&piece).is_ok();
        peak = peak.max(pss_bytes(gateway.pid()));
        gateway.stats()["connections"]["open"] == 1
    });
    assert!(is_cut_off, "it is still open\n{}", gateway.framed_log());
    assert!(peak < before + 16 * 1024 * 1024, "{} kB more", (peak - before) / 1024);
    gateway.call("echo", "{}").expect_status(200);
}

#[test]
fn a_client_is_heard_while_a_server_floods_it() {
    let gateway = Gateway::start(&ONE_WORKER, Helper::new());
    let mut socket = Socket::open(&gateway, "/ws/tools/stream");
    socket.call("1", r#"{"n":100000000,"bytes":10}"#);
    socket.expect_event("started", "1");
    for _ in 0..100 {
        socket.expect_event("progress", "1");
    }
    socket.send(r#"{"event":"cancel","id":1}"#);
    // It reads all the while, so that nothing but the flood keeps the gateway from hearing it.
    let deadline = Instant::now() + Duration::from_secs(5);
    while socket.next()["event"] != "cancelled" {
        socket.expect(Instant::now() < deadline, "`cancelled` within 5 s", "more progress");
    }
}

#[test]
fn a_call_is_told_while_its_client_floods_the_gateway() {
    let gateway = Gateway::start(&[], Helper::new());
    let mut socket = Socket::open(&gateway, "/ws/tools/progress");
    socket.call("1", r#"{"n":20,"ms":10}"#);
    let mut flood = socket.connection.stream.try_clone().unwrap();
    let pongs: Vec<u8> = (0..1000).flat_map(|_| frame(FINAL | PONG, b"")).collect();
    let flooding = thread::spawn(move || while flood.write_all(&pongs).is_ok() {});

    let started_at = Instant::now();
    socket.expect_event("started", "1");
    for _ in 0..20 {
        socket.expect_event("progress", "1");
    }
    socket.expect_event("complete", "1");
    let elapsed = started_at.elapsed();
    socket.connection.stream.shutdown(Shutdown::Both).unwrap();
    flooding.join().unwrap();
    assert!(elapsed < Duration::from_secs(5), "{elapsed:?} for a call of 200 ms");
}
