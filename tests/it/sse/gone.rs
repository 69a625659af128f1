//! Clients that go away: each of their calls is cancelled at its worker, once, and no call that had ended is.

use std::{
    net::Shutdown,
    time::{Duration, Instant},
};

use crate::{
    sse::{
        ONE_WORKER,
        client::{EventStream, names},
    },
    support::{Connection, Gateway, Helper, KEY},
};

/// A client is seen to be gone within 200 ms; a busy machine may need longer, a gateway that has to write first much longer.
const NOTICED_WITHIN: Duration = Duration::from_secs(3);

/// Ways to go away.
const WAYS: [fn(Connection) -> Option<Connection>; 3] = [
    |closed| {
        drop(closed);
        None
    },
    |half_closed| {
        half_closed.stream.shutdown(Shutdown::Write).unwrap();
        Some(half_closed)
    },
    |reset| {
        reset.reset();
        None
    },
];

#[test]
fn a_client_that_leaves_in_mid_stream_has_its_call_cancelled_at_once() {
    let gateway = Gateway::start(&ONE_WORKER, Helper::new());

    for (way, n_before) in WAYS.into_iter().zip(0..) {
        let mut stream = EventStream::open(&gateway, "quiet", "{}");
        stream.expect_event("progress");
        let left_at = Instant::now();
        let left = way(stream.connection);
        gateway.wait_until("the cancellation", || gateway.counts()["cancels"] == n_before + 1);
        let elapsed = left_at.elapsed();
        assert!(elapsed < NOTICED_WITHIN, "way {n_before}: noticed after {elapsed:?}\n{}", gateway.framed_log());
        if let Some(mut connection) = left {
            connection.rest().expect("the gateway closes a connection whose client has closed its side");
        }
    }
}

#[test]
fn a_client_that_leaves_before_anything_happened_has_its_call_cancelled_too() {
    let gateway = Gateway::start(&ONE_WORKER, Helper::new());
    let in_flight = || gateway.stats()["servers"]["helper"]["workers"][0]["in_flight"].as_u64();

    // With a request that waits behind the stream, and without.
    for (behind, n_before) in [("", 0), ("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 1)] {
        let mut connection = EventStream::open(&gateway, "silent", "{}").connection;
        connection.send_raw(behind).unwrap();
        gateway.wait_until("the call at the worker", || in_flight() == Some(1));
        drop(connection);
        gateway.wait_until("the cancellation", || gateway.counts()["cancels"] == n_before + 1);
    }
}

#[test]
fn clients_that_leave_at_once_leave_no_call_behind() {
    let mut settings = ONE_WORKER.to_vec();
    settings.extend([("WORKER_CONCURRENCY", "128")]);
    let gateway = Gateway::start(&settings, Helper::new());
    let worker = || gateway.stats()["servers"]["helper"]["workers"][0].clone();

    // Some calls may not even begin; those that do must not run on.
    for way in WAYS.into_iter().cycle().take(99) {
        let mut connection = gateway.connect();
        connection.send("POST", "/tools/silent/stream", &[("X-API-Key", KEY)], b"{}").unwrap();
        way(connection);
    }
    gateway.wait_until("all connections gone", || gateway.stats()["connections"]["open"] == 1);
    gateway.wait_until("no call at the worker", || worker()["in_flight"] == 0);
    let (calls, cancels) = (gateway.counts()["methods"]["tools/call"].clone(), gateway.counts()["cancels"].clone());
    assert_eq!(calls.as_u64().map(|it| it - 1), cancels.as_u64(), "{}", gateway.framed_log());
}

#[test]
fn a_hundred_clients_that_leave_give_a_hundred_cancellations() {
    let mut settings = ONE_WORKER.to_vec();
    settings.extend([("WORKER_CONCURRENCY", "128")]);
    let gateway = Gateway::start(&settings, Helper::new());

    let mut streams: Vec<EventStream> = (0..100).map(|_| EventStream::open(&gateway, "quiet", "{}")).collect();
    for stream in &mut streams {
        stream.expect_event("progress");
    }
    let left: Vec<Option<Connection>> =
        streams.into_iter().zip(WAYS.into_iter().cycle()).map(|(stream, way)| way(stream.connection)).collect();
    gateway.wait_until("100 cancellations", || 100 <= gateway.counts()["cancels"].as_u64().unwrap());
    drop(left);
    gateway.wait_until("all connections gone", || gateway.stats()["connections"]["open"] == 1);
    assert_eq!(gateway.counts()["cancels"], 100, "{}", gateway.framed_log());
    // Their places are free again.
    assert_eq!(gateway.stats()["servers"]["helper"]["workers"][0]["in_flight"], 0);
}

#[test]
fn clients_that_leave_after_the_end_cancel_nothing() {
    let mut settings = ONE_WORKER.to_vec();
    settings.extend([("WORKER_CONCURRENCY", "128")]);
    let gateway = Gateway::start(&settings, Helper::new());

    let mut streams: Vec<EventStream> =
        (0..50).map(|_| EventStream::open(&gateway, "progress", r#"{"n":2,"ms":20}"#)).collect();
    let mut calls: Vec<Connection> = (0..50).map(|_| gateway.connect()).collect();
    for call in &mut calls {
        call.send("POST", "/tools/echo", &[("X-API-Key", KEY)], b"{}").unwrap();
    }
    for stream in &mut streams {
        assert_eq!(names(&stream.rest()), ["progress", "progress", "result", "done"]);
    }
    for call in &mut calls {
        assert_eq!(call.receive(false).unwrap().status, 200);
    }
    let connections = streams.into_iter().map(|stream| stream.connection).chain(calls);
    let left: Vec<Option<Connection>> =
        connections.zip(WAYS.into_iter().cycle()).map(|(connection, way)| way(connection)).collect();
    drop(left);
    gateway.wait_until("all connections gone", || gateway.stats()["connections"]["open"] == 1);
    assert_eq!(gateway.counts()["cancels"], 0, "{}", gateway.framed_log());
}

#[test]
fn a_client_that_leaves_the_queue_is_never_heard_of_at_the_worker() {
    let mut settings = ONE_WORKER.to_vec();
    settings.extend([("WORKER_CONCURRENCY", "1")]);
    let gateway = Gateway::start(&settings, Helper::new());
    let queued = || gateway.stats()["servers"]["helper"]["pool"]["queued"].as_u64();

    let mut running = EventStream::open(&gateway, "stream", r#"{"n":1,"ms":0,"gate":"end"}"#);
    running.expect_event("progress");
    let mut waiting = gateway.connect();
    waiting.send("POST", "/tools/quiet/stream", &[("X-API-Key", KEY)], b"{}").unwrap();
    gateway.wait_until("a call in the queue", || queued() == Some(1));
    drop(waiting);
    gateway.wait_until("an empty queue", || queued() == Some(0));
    drop(running);
    gateway.wait_until("one cancellation", || gateway.counts()["cancels"] == 1);
    assert_eq!(gateway.counts()["cancels"], 1);
}
