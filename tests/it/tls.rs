//! TLS: everything that is served plainly is served the same, and what TLS adds ends as it should.
//!
//! The client here is rustls itself, below the HTTP client of the other tests; `clients.rs` has programs that others wrote,
//! `files.rs` what becomes of certificates, `identity.rs` makes them.

mod clients;
mod files;
mod identity;

use std::{
    io::Write,
    net::Shutdown,
    thread,
    time::{Duration, Instant},
};

use rustls::{HandshakeKind, ProtocolVersion, version};
use serde_json::json;

use crate::{
    sse::client::{EventStream, names},
    support::{ClientTls, Connection, Gateway, Helper, KEY, Launch, PATIENCE, Server},
    ws::client::{FINAL, Socket, TEXT, frame, handshake},
};

use identity::{Authority, Identity, trusting};

/// A client is seen to be gone within 200 ms; a busy machine may need longer.
const NOTICED_WITHIN: Duration = Duration::from_secs(3);

/// An alert that says, at the beginning of a connection, that nothing more will come.
const GOODBYE: [u8; 7] = [21, 3, 3, 0, 2, 1, 0];

const ONE_WORKER: [(&str, &str); 3] = [("MIN_WORKERS", "1"), ("MAX_WORKERS", "1"), ("WORKER_CONCURRENCY", "32")];

/// A gateway that speaks TLS, and its clients with it.
fn secured(settings: &[(&str, &str)]) -> Gateway {
    secured_launch(settings, &Authority::new().server()).start()
}

fn secured_launch(settings: &[(&str, &str)], identity: &Identity) -> Launch {
    let launch = Launch::new(Helper::new()).client_tls(&trusting(&identity.authority, None, &[]));
    launch.file("cert.pem", &identity.cert).file("key.pem", &identity.key).set_all(&identity::FILES).set_all(settings)
}

#[test]
fn both_versions_of_tls_are_spoken_and_a_connection_is_kept() {
    let authority = Authority::new();
    let gateway = secured_launch(&[], &authority.server()).start();
    assert!(gateway.log().contains("listening on https://127.0.0.1:"), "{}", gateway.log());

    for (offered, spoken) in [(&version::TLS12, ProtocolVersion::TLSv1_2), (&version::TLS13, ProtocolVersion::TLSv1_3)]
    {
        let tls = trusting(&authority, None, &[offered]);
        let mut connection = Connection::open(gateway.address()).secured(&tls);
        for number in 0..3 {
            let body = format!(r#"{{"arguments":{{"n":{number}}}}}"#);
            connection.send("POST", "/tools/echo", &[("X-API-Key", KEY)], body.as_bytes()).unwrap();
            let reply = gateway.reply(body, connection.receive(false).unwrap());
            reply.expect_data(&json!({"n": number}));
            assert_eq!(reply.header("Strict-Transport-Security"), None);
        }
        assert_eq!(connection.tls().protocol_version(), Some(spoken));
        assert_eq!(connection.tls().alpn_protocol(), Some(&b"http/1.1"[..]));
    }
}

#[test]
fn the_gateway_chooses_the_cipher() {
    let authority = Authority::new();
    let gateway = secured_launch(&[], &authority.server()).start();
    let agreed = |tls: &ClientTls| {
        let mut connection = Connection::open(gateway.address()).secured(tls);
        connection.send("GET", "/health/live", &[], b"").unwrap();
        assert_eq!(connection.receive(false).unwrap().status, 200);
        connection.tls().negotiated_cipher_suite().unwrap()
    };
    for offered in [&version::TLS12, &version::TLS13] {
        let backwards = identity::trusting_with_ciphers_backwards(&authority, &[offered]);
        assert_eq!(agreed(&trusting(&authority, None, &[offered])), agreed(&backwards));
    }
}

#[test]
fn a_session_is_resumed_by_as_many_clients_as_there_are() {
    let authority = Authority::new();
    let gateway = secured_launch(&[], &authority.server()).start();
    // More than a table of sessions in the gateway would hold.
    let handshake = |tls: &ClientTls| {
        let mut connection = Connection::open(gateway.address()).secured(tls);
        connection.send("GET", "/health/live", &[("Connection", "close")], b"").unwrap();
        assert_eq!(connection.receive(false).unwrap().status, 200);
        connection.tls().handshake_kind().unwrap()
    };
    for offered in [&version::TLS12, &version::TLS13] {
        let clients: Vec<ClientTls> = (0..300).map(|_| trusting(&authority, None, &[offered])).collect();
        assert!(clients.iter().all(|tls| handshake(tls) == HandshakeKind::Full));
        assert!(clients.iter().all(|tls| handshake(tls) == HandshakeKind::Resumed));
    }
}

#[test]
fn big_bodies_go_both_ways() {
    let gateway = secured(&[]);
    let text = "0123456789abcdef".repeat(4 * 1024 * 1024 / 16 - 16);
    gateway.call("echo", &format!(r#"{{"text":"{text}"}}"#)).expect_data(&json!({"text": text}));

    let chunked = format!(r#"{{"arguments":{{"text":"{text}"}}}}"#);
    let mut connection = gateway.connect();
    let head = "POST /tools/echo HTTP/1.1\r\nHost: localhost\r\nX-API-Key: super-secret\r\nTransfer-Encoding: chunked";
    connection.send_raw(format!("{head}\r\n\r\n{:x}\r\n{chunked}\r\n0\r\n\r\n", chunked.len())).unwrap();
    gateway.reply(head, connection.receive(false).unwrap()).expect_data(&json!({"text": text}));

    let data = gateway.call("big", r#"{"bytes":12000000}"#).data();
    assert_eq!(data.as_str().map(str::len), Some(12_000_000));
}

#[test]
fn requests_in_one_record_and_a_request_in_many_are_answered() {
    let gateway = secured(&[]);
    let request = "POST /tools/echo HTTP/1.1\r\nHost: localhost\r\nX-API-Key: super-secret\r\nContent-Length: 21\r\n\r\n\
                   {\"arguments\":{\"a\":1}}";
    let mut connection = gateway.connect();
    connection.send_raw(request.repeat(50)).unwrap();
    for _ in 0..50 {
        gateway.reply("pipelined", connection.receive(false).unwrap()).expect_data(&json!({"a": 1}));
    }
    for byte in request.bytes() {
        connection.send_raw([byte]).unwrap();
    }
    gateway.reply("byte by byte", connection.receive(false).unwrap()).expect_data(&json!({"a": 1}));
}

#[test]
fn a_client_may_ask_whether_to_send_its_body() {
    let gateway = secured(&[]);
    let mut connection = gateway.connect();
    let headers = [("X-API-Key", KEY), ("Expect", "100-continue"), ("Content-Length", "21")];
    connection.send("PUT", "/tools/echo", &headers, b"").unwrap();
    assert_eq!(connection.head().unwrap().status, 405);
    let mut connection = gateway.connect();
    let head = "POST /tools/echo HTTP/1.1\r\nHost: localhost\r\nX-API-Key: super-secret\r\nContent-Length: 21\r\n";
    connection.send_raw(format!("{head}Expect: 100-continue\r\n\r\n")).unwrap();
    assert_eq!(connection.head().unwrap().status, 100);
    connection.send_raw(r#"{"arguments":{"a":1}}"#).unwrap();
    gateway.reply("after 100", connection.receive(false).unwrap()).expect_data(&json!({"a": 1}));
}

#[test]
fn events_arrive_as_they_happen() {
    let gateway = secured(&ONE_WORKER);
    let mut stream = EventStream::open(&gateway, "stream", r#"{"n":3,"gate":"each"}"#);
    for _ in 0..3 {
        gateway.call("open", "{}").expect_status(200);
        stream.expect_event("progress");
    }
    gateway.call("open", "{}").expect_status(200);
    assert_eq!(names(&stream.rest()), ["result", "done"]);
}

#[test]
fn calls_run_on_a_websocket_however_its_bytes_are_cut() {
    let gateway = secured(&[]);
    let call = |id: u32| frame(FINAL | TEXT, format!(r#"{{"id":{id},"arguments":{{"a":{id}}}}}"#).as_bytes());

    // The first call comes in one record with the handshake, two more in one, the last byte by byte.
    let head = format!("{}X-API-Key: {KEY}\r\n\r\n", handshake("/ws/tools/echo"));
    let mut connection = gateway.connect();
    connection.send_raw([head.as_bytes(), &call(1)].concat()).unwrap();
    let mut socket = Socket::answering(connection, &gateway, &head);
    socket.expect_complete("1", &json!({"a": 1}));
    socket.send_raw(&[call(2), call(3)].concat(), "two calls");
    let done: Vec<_> = (0..4).map(|_| socket.next()).filter(|it| it["event"] == "complete").collect();
    assert_eq!(done.len(), 2, "{done:?}");
    for byte in call(4) {
        socket.send_raw(&[byte], "a byte");
    }
    socket.expect_complete("4", &json!({"a": 4}));
    let text = "x".repeat(3 * 1024 * 1024);
    socket.call("5", &format!(r#"{{"text":"{text}"}}"#));
    socket.expect_complete("5", &json!({"text": text}));
    socket.expect_open();
}

#[test]
fn many_messages_in_a_few_records_are_all_heard() {
    let gateway = secured(&[]);
    let mut socket = Socket::open(&gateway, "/ws/tools/echo");
    // More than are heard at once, so some wait inside of TLS while nothing shows at the socket.
    let pings: Vec<u8> = (0..1000).flat_map(|_| frame(FINAL | 0x9, b"")).collect();
    socket.send_raw(&pings, "1000 pings");
    socket.expect_open();
    assert_eq!(socket.pongs.len(), 1000);
}

#[test]
fn a_handshake_that_stalls_is_cut_off() {
    let gateway = secured(&[("HEAD_TIMEOUT", "0.3")]);
    // A record that announces 512 bytes, and its beginning.
    let hello = [&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3][..], &[7; 40]].concat();
    for said in [&[][..], &hello[..1], &hello] {
        let mut silent = Connection::open(gateway.address());
        let opened_at = Instant::now();
        silent.send_raw(said).unwrap();
        let answer = silent.rest().unwrap();
        assert!(answer.is_empty() || answer == GOODBYE, "{answer:?}");
        let elapsed = opened_at.elapsed();
        assert!(Duration::from_millis(250) < elapsed && elapsed < PATIENCE / 2, "cut off after {elapsed:?}");
    }
    // One byte at a time never pauses for as long as the limit, and yet never ends.
    let mut connection = Connection::open(gateway.address());
    let mut stream = connection.stream.try_clone().unwrap();
    let dripping = thread::spawn(move || {
        let start = Instant::now();
        let mut bytes = hello.iter().chain(std::iter::repeat(&7));
        while start.elapsed() < PATIENCE && stream.write_all(&[*bytes.next().unwrap()]).is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
        start.elapsed()
    });
    connection.rest().unwrap();
    let elapsed = dripping.join().unwrap();
    assert!(elapsed < PATIENCE / 2, "cut off after {elapsed:?}");
    gateway.call("echo", "{}").expect_status(200);
}

#[test]
fn the_head_has_what_the_handshake_left_of_its_time() {
    let gateway = secured(&[("HEAD_TIMEOUT", "0.5")]);
    let mut connection = gateway.connect();
    let opened_at = Instant::now();
    connection.send_raw("GET /health HTTP/1.1\r\nHost: loc").unwrap();
    let answer = connection.receive(false).unwrap();
    gateway.reply("half a head", answer).expect_status(408);
    assert!(opened_at.elapsed() < PATIENCE / 2);
    // A handshake without a request.
    let mut connection = gateway.connect();
    connection.send_raw("").unwrap();
    assert_eq!(connection.rest().unwrap(), b"");
}

#[test]
fn plain_http_is_told_to_use_https() {
    let gateway = secured(&[]);
    for request in [
        "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        format!("POST /tools/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n{}", "x".repeat(60_000)),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
    ] {
        let mut plain = Connection::open(gateway.address());
        plain.send_raw(&request).unwrap();
        let reply = gateway.reply(&request[..20], plain.receive(false).unwrap());
        reply.expect_error(400, "bad_request", "https");
        reply.expect_header("Connection", "close");
        assert_eq!(plain.rest().unwrap(), b"");
    }
    gateway.call("echo", "{}").expect_status(200);
}

#[test]
fn what_is_neither_tls_nor_http_is_refused_with_an_alert() {
    let gateway = secured(&[]);
    for bytes in [&b"\x80\x2e\x01\x00\x02"[..], &[0; 64], &[22, 3, 1, 0, 4, 1, 0, 0, 0], &[23, 3, 3, 0, 2, 1, 2]] {
        let mut connection = Connection::open(gateway.address());
        connection.send_raw(bytes).unwrap();
        connection.stream.shutdown(Shutdown::Write).unwrap();
        let answer = connection.rest().unwrap();
        assert!(answer.is_empty() || (answer[0] == 21 && answer.len() == 7), "{bytes:?}: {answer:?}");
    }
    gateway.call("echo", "{}").expect_status(200);
}

#[test]
fn a_client_that_goes_away_has_its_call_cancelled() {
    let gateway = secured(&ONE_WORKER);
    let goodbye = |mut connection: Connection| {
        connection.goodbye();
        drop(connection);
    };
    let with_another_request = |mut connection: Connection| {
        connection.send("GET", "/health", &[], b"").unwrap();
        connection.goodbye();
    };
    let ways: [fn(Connection); 5] =
        [drop, Connection::reset, |it| it.stream.shutdown(Shutdown::Write).unwrap(), goodbye, with_another_request];
    for (way, n_before) in ways.into_iter().zip(0..) {
        let mut stream = EventStream::open(&gateway, "quiet", "{}");
        stream.expect_event("progress");
        let left_at = Instant::now();
        way(stream.connection);
        gateway.wait_until("the cancellation", || gateway.counts()["cancels"] == n_before + 1);
        let elapsed = left_at.elapsed();
        assert!(elapsed < NOTICED_WITHIN, "way {n_before}: noticed after {elapsed:?}\n{}", gateway.framed_log());
    }
    gateway.wait_until("all connections gone", || gateway.stats()["connections"]["open"] == 1);
}

#[test]
fn a_client_that_only_says_goodbye_gets_its_answer() {
    let gateway = secured(&ONE_WORKER);
    let mut connection = gateway.connect();
    connection.send("POST", "/tools/stream", &[("X-API-Key", KEY)], br#"{"arguments":{"n":0,"gate":"end"}}"#).unwrap();
    gateway.wait_until("the call at the gate", || gateway.counts()["streamed"] == 1);
    // It sends nothing more; that it reads on is all that can be known.
    connection.goodbye();
    gateway.call("open", "{}").expect_status(200);
    gateway.reply("stream", connection.receive(false).unwrap()).expect_status(200);
    assert_eq!(connection.rest().unwrap(), b"");
}

#[test]
fn a_client_too_far_behind_its_stream_is_cut_off_in_mid_record() {
    let mut settings = ONE_WORKER.to_vec();
    settings.extend([("STREAM_QUEUE_BYTES", "256k")]);
    let gateway = secured(&settings);
    let mut narrow = gateway.speaking(Connection::open_narrow(gateway.address(), 4096));
    let arguments = br#"{"arguments":{"n":100000,"bytes":10000,"ms":0}}"#;
    narrow.send("POST", "/tools/chunks/stream", &[("X-API-Key", KEY)], arguments).unwrap();
    gateway.wait_until("the cancellation", || gateway.counts()["cancels"] == 1);
    gateway.wait_until("its connection gone", || gateway.stats()["connections"]["open"] == 1);
    assert!(gateway.log().contains("bytes behind its stream and is cut off"), "{}", gateway.log());
    drop(narrow);
}

#[test]
fn a_client_that_takes_nothing_of_its_answer_is_cut_off() {
    let gateway = secured(&[("WRITE_TIMEOUT", "0.2")]);
    let mut deaf = gateway.connect();
    deaf.send("POST", "/tools/big", &[("X-API-Key", KEY)], br#"{"arguments":{"bytes":12000000}}"#).unwrap();
    gateway.wait_until("the end of the deaf connection", || {
        let stats = gateway.stats();
        stats["totals"]["calls"] == 1 && stats["connections"]["open"] == 1
    });
}

#[test]
fn connections_end_with_a_goodbye() {
    let mut gateway = secured(&[("KEEP_ALIVE_TIMEOUT", "0.2")]);
    let call = |connection: &mut Connection, close: &str| {
        connection.send("GET", "/health", &[("Connection", close)], b"").unwrap();
        assert_eq!(connection.receive(false).unwrap().status, 200);
    };
    // Without one, rustls fails the last read.
    for close in ["close", "keep-alive"] {
        let mut connection = gateway.connect();
        call(&mut connection, close);
        assert_eq!(connection.rest().unwrap(), b"", "{close}");
    }
    let mut idle = gateway.connect();
    call(&mut idle, "keep-alive");
    let stopped_at = Instant::now();
    assert!(gateway.stop().success());
    assert_eq!(idle.rest().unwrap(), b"");
    assert!(stopped_at.elapsed() < PATIENCE / 2);
}

#[test]
fn a_running_call_ends_in_order_when_the_gateway_stops() {
    let mut gateway = secured(&ONE_WORKER);
    let mut stream = EventStream::open(&gateway, "stream", r#"{"n":2,"ms":300}"#);
    stream.expect_event("progress");
    let mut socket = Socket::open(&gateway, "/ws/tools/echo");
    assert!(gateway.stop().success());
    assert_eq!(names(&stream.rest()), ["progress", "result", "done"]);
    socket.expect_close(Some(1001));
}

#[test]
fn over_the_limit_health_is_still_answered_and_the_rest_is_told() {
    let gateway = secured(&[("CONNECTIONS_MAX", "2")]);
    let mut held: Vec<Connection> = Vec::new();
    gateway.wait_until("room for two connections", || {
        held.clear();
        held.extend((0..2).map(|_| gateway.connect()));
        held.iter_mut().all(|it| {
            it.send("GET", "/tools", &[("X-API-Key", KEY)], b"").unwrap();
            it.receive(false).is_ok_and(|answer| answer.status == 200)
        })
    });
    gateway.get("/health").expect_status(200);
    gateway.call("echo", "{}").expect_error(503, "overloaded", "connections");
    let mut reserve: Vec<Connection> = (0..64).map(|_| Connection::open(gateway.address())).collect();
    // Beyond the reserve there is no handshake, only an alert that ends it.
    let mut last = reserve.pop().unwrap();
    assert_eq!(last.rest().unwrap(), [21, 3, 3, 0, 2, 2, 80]);
}

#[test]
fn a_page_of_the_gateway_s_own_https_origin_may_call_and_no_other() {
    let gateway = secured(&[]);
    let call = |origin| gateway.request("GET", "/tools", &[("X-API-Key", KEY), ("Origin", origin)], b"");
    call("https://localhost").expect_status(200);
    call("https://localhost:1").expect_error(403, "forbidden", "https://localhost:1");
    call("https://evil.example").expect_error(403, "forbidden", "evil.example");
}

#[test]
fn the_bundled_server_is_served_in_direct_mode_too() {
    let identity = Authority::new().server();
    let launch = Launch::new(Server::Bundled).client_tls(&trusting(&identity.authority, None, &[]));
    let launch = launch.file("cert.pem", &identity.cert).file("key.pem", &identity.key).set_all(&identity::FILES);
    let gateway = launch.set("EXECUTION_MODE", "direct").start();
    gateway.call("journeys_tool", r#"{"action":"list"}"#).expect_status(200);
}
