//! Clients that read slowly or not at all: they lose their stream, nobody else notices, and memory stays bounded.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    sse::{
        ONE_WORKER,
        client::{EventStream, names},
    },
    support::{Connection, Gateway, Helper, KEY, holds_within, pss_bytes, shortened},
};

const MIB: usize = 1024 * 1024;

/// Small enough that a client that does not read is noticed after a few hundred kilobytes.
const NARROW_BYTES: usize = 16 * 1024;

/// A stream whose client reads its head and then nothing more.
#[track_caller]
fn stalled(gateway: &Gateway, tool: &str, arguments: &str) -> EventStream {
    EventStream::over(Connection::open_narrow(gateway.address(), NARROW_BYTES), gateway, tool, arguments)
}

#[test]
fn fifty_clients_that_stop_reading_are_cut_off_and_the_others_are_served() {
    let mut settings = ONE_WORKER.to_vec();
    settings.extend([("STREAM_QUEUE_BYTES", "256k"), ("WORKER_CONCURRENCY", "64")]);
    let gateway = Gateway::start(&settings, Helper::new());
    // What it needs once, and for a client that does read.
    assert_eq!(EventStream::open(&gateway, "chunks", r#"{"n":20,"bytes":1000}"#).rest().len(), 22);
    let before = pss_bytes(gateway.pid());

    let body = br#"{"arguments":{"n":2000,"bytes":10000,"gate":"end"}}"#;
    let mut stalled: Vec<Connection> = (0..50)
        .map(|_| {
            let mut connection = Connection::open_narrow(gateway.address(), NARROW_BYTES);
            connection.send("POST", "/tools/chunks/stream", &[("X-API-Key", KEY)], body).unwrap();
            connection
        })
        .collect();
    let (mut peak, mut longest) = (before, Duration::ZERO);
    gateway.wait_until("50 cancellations", || {
        let called_at = Instant::now();
        let cancels = gateway.counts()["cancels"].as_u64().unwrap();
        longest = longest.max(called_at.elapsed());
        peak = peak.max(pss_bytes(gateway.pid()));
        50 <= cancels
    });
    for connection in &mut stalled {
        // What the sockets held may still come.
        let rest = connection.rest().expect("the end of the connection");
        let text = String::from_utf8_lossy(&rest);
        assert!(!text.contains("event: done"), "{}\n{}", shortened(&rest), gateway.framed_log());
    }
    // Each may hold its queue, a line on its way there, and a thread.
    let room = 50 * (MIB / 4 + MIB / 8) + 10 * MIB;
    assert!(peak < before + room, "{} MiB more than {} MiB", (peak - before) / MIB, before / MIB);
    assert!(longest < Duration::from_secs(5), "another call took {longest:?}");
    assert_eq!(gateway.counts()["cancels"], 50, "{}", gateway.framed_log());
    gateway.wait_until("all connections gone", || gateway.stats()["connections"]["open"] == 1);
    println!("PSS {} MiB before, {} MiB at most; the slowest other call took {longest:?}", before / MIB, peak / MIB);
}

#[test]
fn a_client_that_takes_nothing_for_too_long_is_cut_off() {
    let mut settings = ONE_WORKER.to_vec();
    settings.extend([("WRITE_TIMEOUT", "0.5")]);
    let gateway = Gateway::start(&settings, Helper::new());

    // More than the sockets hold, and far less than the queue does.
    let started_at = Instant::now();
    let mut stream = stalled(&gateway, "chunks", r#"{"n":60,"bytes":100000,"gate":"end"}"#);
    gateway.wait_until("the cancellation", || gateway.counts()["cancels"] == 1);
    let elapsed = started_at.elapsed();
    assert!(Duration::from_millis(450) <= elapsed, "cut off after {elapsed:?} already");
    stream.expect_cut_off();
}

#[test]
fn a_slow_but_steady_client_gets_everything() {
    let gateway = Gateway::start(&[("WRITE_TIMEOUT", "0.5")], Helper::new());
    let connection = Connection::open_narrow(gateway.address(), 8 * NARROW_BYTES);
    let mut stream = EventStream::over(connection, &gateway, "chunks", r#"{"n":60,"bytes":50000}"#);

    let started_at = Instant::now();
    let mut n_chunks = 0;
    while let Some(event) = stream.next() {
        n_chunks += usize::from(event.name == "chunk");
        // It reads at its own pace.
        thread::sleep(Duration::from_millis(30));
    }
    assert_eq!(n_chunks, 60);
    assert!(Duration::from_secs(1) < started_at.elapsed());
}

#[test]
fn a_client_far_behind_misses_some_progress_and_nothing_else() {
    let mut settings = ONE_WORKER.to_vec();
    settings.extend([("STREAM_QUEUE_BYTES", "256k")]);
    let gateway = Gateway::start(&settings, Helper::new());

    let mut stream = stalled(&gateway, "stream", r#"{"n":20000,"bytes":1000}"#);
    gateway.wait_until("the end of the flood", || gateway.counts()["streamed"] == 1);
    let events = stream.rest();
    let (progress, end) = events.split_at(events.len() - 2);
    assert_eq!(names(end), ["result", "done"]);
    let numbers: Vec<u64> = progress.iter().filter_map(|event| event.data["progress"].as_u64()).collect();
    assert!(numbers.is_sorted_by(|before, after| before < after), "in order");
    assert_eq!(numbers.last(), Some(&20_000), "the newest is kept");
    assert!(numbers.len() < 20_000, "all of 20 MB were kept for a client that did not read");
}

#[test]
fn a_result_larger_than_the_queue_arrives() {
    let gateway = Gateway::start(&[("STREAM_QUEUE_BYTES", "256k")], Helper::new());
    let events = EventStream::open(&gateway, "big", r#"{"bytes":3000000}"#).rest();

    assert_eq!(names(&events), ["result", "done"]);
    assert_eq!(events[0].data["data"].as_str().map(str::len), Some(3_000_000));
}

#[test]
fn what_a_client_sends_during_its_stream_is_not_kept_in_memory() {
    let gateway = Gateway::start(&ONE_WORKER, Helper::new());
    let mut stream = EventStream::open(&gateway, "quiet", "{}");
    stream.expect_event("progress");
    let before = pss_bytes(gateway.pid());

    // Until nobody takes it any more, or the gateway has had enough of it.
    stream.connection.stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let piece = vec![b'x'; MIB];
    let n_sent = (0..64).take_while(|_| stream.connection.send_raw(&piece).is_ok()).count();
    let after = pss_bytes(gateway.pid());
    assert!(after < before + 8 * MIB, "{} MiB more after {n_sent} MiB", (after - before) / MIB);
    gateway.call("echo", "{}").expect_status(200);
}

#[test]
fn memory_is_given_back_when_the_slow_ones_are_gone() {
    let mut settings = ONE_WORKER.to_vec();
    settings.extend([("STREAM_QUEUE_BYTES", "4M"), ("WORKER_CONCURRENCY", "64")]);
    let gateway = Gateway::start(&settings, Helper::new());
    // Each holds 3 MB for clients that read nothing.
    let round = |n_before: u64| {
        let streams: Vec<EventStream> =
            (0..8).map(|_| stalled(&gateway, "chunks", r#"{"n":30,"bytes":100000,"gate":"end"}"#)).collect();
        gateway.wait_until("the floods", || n_before + 8 <= gateway.counts()["streamed"].as_u64().unwrap());
        drop(streams);
        gateway.wait_until("all connections gone", || gateway.stats()["connections"]["open"] == 1);
    };
    round(0);
    let after_first = pss_bytes(gateway.pid());
    for n_before in [8, 16, 24] {
        round(n_before);
    }
    let mut now = 0;
    let is_back = holds_within(Duration::from_secs(5), || {
        now = pss_bytes(gateway.pid());
        now < after_first + 8 * MIB
    });
    assert!(is_back, "{} MiB after one round, {} MiB after four", after_first / MIB, now / MIB);
}
