//! New TLS connections one after another, and calls beside them: a handshake costs as much as many calls.
//!
//! Clients with connections of their own make calls at an even pace, first alone, then beside so many new connections
//! a second, each with a whole handshake and one request, and beside some that stall in theirs. What is measured is
//! printed; it depends on what else the machine does, since both sides run on it.
//!
//! What is held against the gateway: every call and every new connection is served, and those that stall are cut off.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustls::{ClientConfig, HandshakeKind, client::Resumption};
use serde_json::json;

use crate::{
    identity::{Authority, FILES, trusting},
    numbers::{Turn, handshake_seconds, handshakes_per_second},
    support::{ClientTls, Connection, Gateway, Helper, KEY, Launch},
};

const CALLERS: u32 = 8;

/// Between two calls of one caller.
const CALL_PAUSE: Duration = Duration::from_millis(2);

const NEWCOMERS: u32 = 8;

/// Connections that begin a handshake and do not go on.
const STALLED: u32 = 100;

/// The beginning of a handshake: a record that announces 512 bytes.
const HALF_A_HELLO: [u8; 11] = [22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];

/// What a connection that stalled gets to see at its end: an alert without a fault.
const GOODBYE: [u8; 7] = [21, 3, 3, 0, 2, 1, 0];

#[test]
fn handshakes_do_not_starve_calls() {
    let Some(_turn) = Turn::of("handshakes") else { return };
    let authority = Authority::new();
    let identity = authority.server();
    let tls = trusting(&authority, None, &[]);
    let launch = Launch::new(Helper::new()).client_tls(&tls).set_all(&FILES).set("HEAD_TIMEOUT", "5");
    let gateway = launch.file("cert.pem", &identity.cert).file("key.pem", &identity.key).start();
    let lasting = Duration::from_secs(handshake_seconds());
    let per_second = handshakes_per_second();

    // The first calls find out how many at a time a worker can do.
    measure_calls(&gateway, Duration::from_secs(1));
    let alone = measure_calls(&gateway, lasting);
    let stalled: Vec<Connection> = (0..STALLED)
        .map(|_| {
            let mut connection = Connection::open(gateway.address());
            connection.send_raw(HALF_A_HELLO).unwrap();
            connection
        })
        .collect();
    let is_over = AtomicBool::new(false);
    let pause = Duration::from_secs(1) * NEWCOMERS / per_second;
    let (beside, new) = thread::scope(|scope| {
        let newcomers: Vec<_> =
            (0..NEWCOMERS).map(|_| scope.spawn(|| new_connections(&gateway, &tls, pause, &is_over))).collect();
        let beside = measure_calls(&gateway, lasting);
        is_over.store(true, Ordering::Relaxed);
        let new = newcomers.into_iter().flat_map(|it| it.join().unwrap()).collect();
        (beside, Latencies::of(new, lasting))
    });
    for mut connection in stalled {
        assert_eq!(connection.rest().unwrap_or_default(), GOODBYE, "a handshake that stalls is cut off");
    }

    println!(
        "{:.0} new connections/s of {per_second} wanted, with a whole handshake each: p50 {:.2} ms, p99 {:.2} ms",
        new.per_second, new.p50_ms, new.p99_ms
    );
    println!(
        "calls beside them: {:.0}/s ({:.2} of those alone), p50 {:.2} ms ({:.2}), p99 {:.2} ms ({:.2})",
        beside.per_second,
        beside.per_second / alone.per_second,
        beside.p50_ms,
        beside.p50_ms / alone.p50_ms,
        beside.p99_ms,
        beside.p99_ms / alone.p99_ms
    );
}

struct Latencies {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
}

impl Latencies {
    fn of(mut all: Vec<Duration>, lasting: Duration) -> Latencies {
        all.sort_unstable();
        let at = |part: f64| all[((all.len() - 1) as f64 * part) as usize].as_secs_f64() * 1000.0;
        Latencies { per_second: all.len() as f64 / lasting.as_secs_f64(), p50_ms: at(0.5), p99_ms: at(0.99) }
    }
}

fn measure_calls(gateway: &Gateway, lasting: Duration) -> Latencies {
    let until = Instant::now() + lasting;
    let all = thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS).map(|_| scope.spawn(|| calls(gateway, until))).collect();
        callers.into_iter().flat_map(|it| it.join().unwrap()).collect()
    });
    Latencies::of(all, lasting)
}

/// Calls on one connection; how long each took.
fn calls(gateway: &Gateway, until: Instant) -> Vec<Duration> {
    let mut connection = gateway.connect();
    let mut took = Vec::new();
    let mut n_calls = 0;
    while Instant::now() < until {
        n_calls += 1;
        let body = json!({"arguments": {"n": n_calls}}).to_string();
        let began_at = Instant::now();
        connection.send("POST", "/tools/echo", &[("X-API-Key", KEY)], body.as_bytes()).unwrap();
        let answer = connection.receive(false).unwrap();
        took.push(began_at.elapsed());
        gateway.reply(body, answer).expect_data(&json!({"n": n_calls}));
        thread::sleep(CALL_PAUSE);
    }
    took
}

/// New connections at an even pace, or as fast as it goes when that is slower; how long each took to be served.
fn new_connections(gateway: &Gateway, tls: &ClientTls, pause: Duration, is_over: &AtomicBool) -> Vec<Duration> {
    let mut config = ClientConfig::clone(tls);
    config.resumption = Resumption::disabled();
    let tls = ClientTls::new(config);
    let mut took = Vec::new();
    let mut next_at = Instant::now();
    while !is_over.load(Ordering::Relaxed) {
        let began_at = Instant::now();
        let mut connection = Connection::open(gateway.address()).secured(&tls);
        connection.send("GET", "/health/live", &[("Connection", "close")], b"").unwrap();
        assert_eq!(connection.receive(false).unwrap().status, 200);
        took.push(began_at.elapsed());
        assert_eq!(connection.tls().handshake_kind(), Some(HandshakeKind::Full));
        next_at = (next_at + pause).max(began_at);
        thread::sleep(next_at.saturating_duration_since(Instant::now()));
    }
    took
}
