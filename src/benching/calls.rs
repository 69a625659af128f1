//! Whole calls through a gateway in this process: over a socket in, over pipes to a server on a thread, and back.
//!
//! One connection, one call at a time, so that the threads take turns and the counts hardly differ from run to run. The client's own
//! reading and writing is counted too; it is the same in every version.

use std::{
    hint::black_box,
    io::{Read as _, Write as _},
    mem,
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use super::Bench;
use crate::{
    access::Access,
    api::Api,
    config::{Config, ExecutionMode, Listen, Live, servers},
    http::{Bound, Server},
};

/// See the module.
pub(super) const CALLS: &[Bench] = &[
    ("call", 100, |times| Talk::begin().posts(times, "/tools/echo", "", CALL)),
    ("call_mcp_session", 100, |times| {
        let mut talk = Talk::begin();
        let session = talk.open_session();
        talk.posts(times, "/mcp", &session, MCP_CALL);
    }),
    ("call_mcp_modern", 100, |times| {
        let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;
        let body = MCP_CALL.replace(r#""arguments""#, &format!(r#"{meta},"arguments""#));
        let headers = "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: echo\r\n";
        Talk::begin().posts(times, "/mcp", headers, &body);
    }),
    ("call_1m_result", 2, |times| Talk::begin().posts(times, "/tools/big", "", CALL)),
    ("call_100_events", 10, |times| Talk::begin().posts(times, "/tools/steps/stream", "", CALL)),
    ("call_websocket", 100, |times| Talk::begin().talk_over_websocket(times)),
];

const CALL: &str = r#"{"arguments":{"text":"hello"}}"#;
const MCP_CALL: &str =
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":"hello"}}}"#;
const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}"#;
const KEY: &str = "a-key-of-some-length";

/// How long a gateway may take to get ready, under valgrind on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A client with its connection, whose other end is a gateway that runs until the process ends.
struct Talk {
    tcp: TcpStream,
    buffer: Vec<u8>,
}

impl Talk {
    fn begin() -> Talk {
        let config = Config {
            listen: Listen { host: "127.0.0.1".to_owned(), port: 0 },
            api_key: KEY.to_owned(),
            execution_mode: ExecutionMode::Direct,
            min_workers: 1,
            max_workers: 1,
            // Nothing happens by the clock while instructions are counted.
            health_interval: Duration::from_secs(3600),
            sse_keep_alive: Duration::from_secs(3600),
            ..Config::default()
        };
        let (specs, _) = servers::list(&config).unwrap();
        let (access, bound) = (Access::new(&config).unwrap(), Bound::new(&config).unwrap());
        let live = Live::new(config);
        let api = Arc::new(Api::start(live.clone(), &specs, access).unwrap());
        let server = Server::start(bound, Arc::clone(&api), live, None, None).unwrap();
        let tcp = connect(server.address());
        // Its threads end with the process; to drain it would only be counted.
        mem::forget((api, server));
        let mut talk = Talk { tcp, buffer: vec![0; 4 * 1024 * 1024] };
        let started_at = Instant::now();
        // It waits for the worker, or is told to come back.
        while !talk.post("/tools/echo", "", CALL).starts_with(b"HTTP/1.1 200 ") {
            assert!(started_at.elapsed() < PATIENCE, "no worker got ready");
        }
        talk
    }

    fn posts(&mut self, times: u32, path: &str, headers: &str, body: &str) {
        for _ in 0..times {
            let answer = self.post(path, headers, body);
            assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(answer));
            black_box(answer);
        }
    }

    /// Sends a request and gives its whole answer, head included.
    fn post(&mut self, path: &str, headers: &str, body: &str) -> &[u8] {
        let n = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {KEY}\r\nContent-Type: application/json\r\n\
             Accept: application/json, text/event-stream\r\n{headers}Content-Length: {n}\r\n\r\n{body}"
        );
        self.tcp.write_all(head.as_bytes()).unwrap();
        let (mut n_read, mut wanted) = (0, None);
        loop {
            let n = self.tcp.read(&mut self.buffer[n_read..]).unwrap();
            assert!(n != 0, "the connection was closed after {}", String::from_utf8_lossy(&self.buffer[..n_read]));
            n_read += n;
            wanted = wanted.or_else(|| End::find(&self.buffer[..n_read]));
            let is_whole = match wanted {
                None => false,
                Some(End::Length(bytes)) => bytes <= n_read,
                Some(End::Chunked) => self.buffer[..n_read].ends_with(b"\r\n0\r\n\r\n"),
            };
            if is_whole {
                return &self.buffer[..n_read];
            }
        }
    }

    /// The headers of a session.
    fn open_session(&mut self) -> String {
        let answer = String::from_utf8_lossy(self.post("/mcp", "", INITIALIZE)).into_owned();
        let (_, rest) = answer.split_once("Mcp-Session-Id: ").unwrap_or_else(|| panic!("{answer}"));
        let (id, _) = rest.split_once("\r\n").unwrap();
        format!("Mcp-Session-Id: {id}\r\nMCP-Protocol-Version: 2025-11-25\r\n")
    }

    fn talk_over_websocket(&mut self, times: u32) {
        let head = format!(
            "GET /ws/tools/echo HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {KEY}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        self.tcp.write_all(head.as_bytes()).unwrap();
        let n_read = self.tcp.read(&mut self.buffer).unwrap();
        assert!(self.buffer[..n_read].starts_with(b"HTTP/1.1 101 "));
        // A mask of zeros is a mask.
        let frame = [&[0x81, 0x80 | u8::try_from(CALL.len()).unwrap(), 0, 0, 0, 0], CALL.as_bytes()].concat();
        for _ in 0..times {
            self.tcp.write_all(&frame).unwrap();
            let mut n_read = 0;
            while memchr::memmem::find(&self.buffer[..n_read], br#""event":"complete""#).is_none() {
                n_read += self.tcp.read(&mut self.buffer[n_read..]).unwrap();
            }
        }
    }
}

/// How the end of an answer is found.
#[derive(Clone, Copy)]
enum End {
    Length(usize),
    Chunked,
}

impl End {
    /// By its head, once that is there.
    fn find(bytes: &[u8]) -> Option<End> {
        let head = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
        let Some(at) = memchr::memmem::find(&bytes[..head], b"Content-Length: ") else { return Some(End::Chunked) };
        let digits = bytes[at + 16..].iter().take_while(|byte| byte.is_ascii_digit());
        Some(End::Length(head + digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'))))
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let tcp = TcpStream::connect(address).unwrap();
    tcp.set_nodelay(true).unwrap();
    tcp
}
