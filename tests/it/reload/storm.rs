//! Changes of all kinds, one after the other, while clients call without pause and streams run: nothing fails, and nothing is left.
//!
//! `tests/slow` has it for longer.

use std::{
    collections::BTreeMap,
    fs,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use serde_json::{Value, json};

use crate::{
    support::{Connection, Gateway, Helper, KEY, Launch, PATIENCE, Server, holds_within},
    ws::client::Socket,
};

const CALLERS: usize = 16;
pub(crate) const STREAMS: usize = 10;

/// A long stream, longer than the time between two changes.
const STREAM_ARGUMENTS: &str = r#"{"n":30,"ms":30,"bytes":20}"#;

/// What a storm has seen.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) calls: usize,
    pub(crate) streams: usize,
}

/// What the gateway has open.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    threads: BTreeMap<String, usize>,
    descriptors: usize,
    processes: usize,
}

impl Held {
    fn of(gateway: &Gateway) -> Held {
        let folder = format!("/proc/{}", gateway.pid());
        let mut threads = BTreeMap::new();
        for task in fs::read_dir(format!("{folder}/task")).unwrap() {
            let name = fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default();
            // Numbers aside: workers and connections are others by now.
            let kind: String = name.trim_end().chars().filter(|letter| !letter.is_ascii_digit()).collect();
            *threads.entry(kind).or_default() += 1;
        }
        let descriptors = fs::read_dir(format!("{folder}/fd")).unwrap().count();
        Held { threads, descriptors, processes: gateway.processes().len() }
    }
}

struct Storm<'a> {
    gateway: &'a Gateway,
    is_over: &'a AtomicBool,
    calls: &'a AtomicUsize,
    streams: &'a AtomicUsize,
}

/// Makes `n_changes` changes.
#[track_caller]
pub(crate) fn run(n_changes: usize) -> Seen {
    let launch = Launch::new(Server::FromSettings).file("gateway.conf", &conf(0)).file("mcp.json", &servers(0));
    let gateway = launch.arguments(&["--servers", "mcp.json"]).start();
    gateway.wait_until("all workers", || gateway.usable_workers() == 4);
    // What is started with the first request of its kind is not held for the storm.
    for path in ["/tools/a__echo", "/tools/a__stream/stream"] {
        gateway.post(path, r#"{"arguments":{"n":1}}"#).expect_status(200);
    }
    mcp_stream(&gateway, r#"{"n":1}"#);
    let mut before = Held::of(&gateway);
    holds_within(PATIENCE, || {
        before = Held::of(&gateway);
        !before.threads.contains_key("conn-")
    });

    let (is_over, calls, streams) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let storm = Storm { gateway: &gateway, is_over: &is_over, calls: &calls, streams: &streams };
    thread::scope(|scope| {
        // However this ends, the clients must.
        let _end = SetWhenDropped(&is_over);
        let clients: Vec<_> = (0..CALLERS)
            .map(|n| {
                scope.spawn({
                    let storm = &storm;
                    move || storm.call(n)
                })
            })
            .chain((0..STREAMS).map(|n| {
                scope.spawn({
                    let storm = &storm;
                    move || storm.stream(n)
                })
            }))
            .collect();
        for n in 1..=n_changes {
            storm.change(n);
            assert!(
                clients.iter().all(|client| !client.is_finished()),
                "a client has failed\n{}",
                gateway.framed_log()
            );
        }
    });

    restore(&gateway);
    let is_as_before = holds_within(PATIENCE, || Held::of(&gateway) == before);
    assert!(is_as_before, "before: {before:?}\nafter: {:?}\n{}", Held::of(&gateway), gateway.framed_log());
    Seen { calls: calls.into_inner(), streams: streams.into_inner() }
}

struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The servers a and b, which are always there, in their nth form; c comes and goes.
fn servers(n: usize) -> String {
    let server = |form: usize| json!({"command": Helper::program(), "args": ["--instructions", form.to_string()]});
    let mut servers = serde_json::Map::new();
    servers.insert("a".to_owned(), server(n.div_ceil(4)));
    servers.insert("b".to_owned(), server((n + 2) / 4));
    if n % 4 == 2 || n % 4 == 3 {
        servers.insert("c".to_owned(), server(0));
    }
    json!({ "mcpServers": servers }).to_string()
}

fn conf(n: usize) -> String {
    let more = n % 3;
    format!("MIN_WORKERS=2\nMAX_WORKERS={}\nQUEUE_MAX={}\nSSE_KEEP_ALIVE={}\n", 2 + more, 1000 + n, 5 + more)
}

fn restore(gateway: &Gateway) {
    gateway.folder().replace("gateway.conf", &conf(0));
    gateway.folder().replace("mcp.json", &servers(0));
    gateway.wait_until("the servers as at the beginning", || {
        let stats = gateway.stats();
        stats["reload"]["leaving"] == json!([])
            && stats["servers"].as_object().unwrap().values().all(|it| it["pool"]["workers"]["total"] == 2)
            && stats["servers"].as_object().unwrap().len() == 2
            && stats["connections"]["open"] == 1
    });
}

impl Storm<'_> {
    /// Makes the nth change, and waits until it is made.
    #[track_caller]
    fn change(&self, n: usize) {
        let reload = || self.gateway.stats()["reload"].clone();
        let before = reload()["last_at"].clone();
        let folder = self.gateway.folder();
        let is_wrong = match n % 4 {
            0 => {
                folder.replace("gateway.conf", if n.is_multiple_of(8) { "MIN_WORKERS=x\n" } else { "NO_SUCH=1\n" });
                true
            }
            2 => {
                folder.replace("gateway.conf", &conf(n));
                false
            }
            _ => {
                // The other file may be wrong still from the last time.
                folder.replace("gateway.conf", &conf(n));
                folder.replace("mcp.json", &servers(n));
                false
            }
        };
        self.gateway.wait_until(&format!("change {n}"), || reload()["last_at"] != before);
        let after = reload();
        assert_eq!(after["last_error"].is_string(), is_wrong, "change {n}: {after}\n{}", self.gateway.framed_log());
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    /// Calls without pause over one connection.
    fn call(&self, n: usize) {
        let mut connection: Connection = self.gateway.connect();
        let paths = ["/tools/a__echo", "/tools/b__echo", "/servers/a/tools/echo", "/servers/b/tools/delay"];
        let body = r#"{"arguments":{"ms":3}}"#;
        while !self.is_over() {
            let path = paths[(n + self.calls.fetch_add(1, Ordering::Relaxed)) % paths.len()];
            let answer = connection
                .send("POST", path, &[("X-API-Key", KEY)], body.as_bytes())
                .and_then(|()| connection.receive(false))
                .unwrap_or_else(|cause| panic!("{path}: {cause}\n{}", self.gateway.framed_log()));
            let text = String::from_utf8_lossy(&answer.body);
            assert_eq!(answer.status, 200, "{path}: {text}\n{}", self.gateway.framed_log());
        }
    }

    /// Has one stream after the other.
    fn stream(&self, n: usize) {
        let mut socket = (n % 3 == 1).then(|| Socket::open(self.gateway, "/ws/tools/b__stream"));
        let mut round = 0;
        while !self.is_over() {
            round += 1;
            match (&mut socket, n % 3) {
                (Some(socket), _) => {
                    let id = round.to_string();
                    socket.call(&id, STREAM_ARGUMENTS);
                    socket.expect_event("started", &id);
                    while !matches!(socket.next()["event"].as_str(), Some("complete")) {}
                }
                (None, 0) => sse_stream(self.gateway, ["a", "b"][round % 2]),
                (None, _) => mcp_stream(self.gateway, STREAM_ARGUMENTS),
            }
            self.streams.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A call whose events are all there.
fn sse_stream(gateway: &Gateway, server: &str) {
    let reply =
        gateway.post(&format!("/tools/{server}__stream/stream"), &format!(r#"{{"arguments":{STREAM_ARGUMENTS}}}"#));
    reply
        .expect_status(200)
        .expect(reply.text().ends_with("data: {\"status\":\"complete\"}\n\n"), "a stream to its end");
}

/// A session with a call whose progress is told.
fn mcp_stream(gateway: &Gateway, arguments: &str) {
    let key =
        [("X-API-Key", KEY), ("Content-Type", "application/json"), ("Accept", "application/json, text/event-stream")];
    let open = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "storm", "version": "1"}
    }});
    let opened = gateway.request("POST", "/mcp", &key, open.to_string().as_bytes());
    opened.expect_status(200);
    let id = opened.header("Mcp-Session-Id").unwrap_or_else(|| opened.fail("a session")).to_owned();
    let headers = [&key[..], &[("Mcp-Session-Id", &*id), ("MCP-Protocol-Version", "2025-11-25")]].concat();
    let arguments: Value = serde_json::from_str(arguments).unwrap();
    let call = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {
        "name": "a__stream", "arguments": arguments, "_meta": {"progressToken": "t"}
    }});
    let called = gateway.request("POST", "/mcp", &headers, call.to_string().as_bytes());
    called.expect_status(200).expect(called.text().contains(r#""result""#), "a result");
    gateway.request("DELETE", "/mcp", &headers, b"").expect_status(204);
}
