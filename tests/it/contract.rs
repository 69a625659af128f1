//! Requests of every kind to every endpoint, by chance but the same in every run: each gets an answer that the contract has.
//!
//! - A status and a code that `DESIGN` lists; 5xx only for workers that failed, are not there or too slow.
//! - Every failure in the one shape, JSON-RPC's on the surfaces that speak it, and every answer with `X-Request-Id`.

use std::fmt;

use mcpgate::api::routes::{ENDPOINTS, Endpoint};
use proptest::{
    prelude::Strategy,
    sample::select,
    test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner},
};
use serde_json::Value;

use crate::support::{Answer, Gateway, Helper, KEY};

const CASES: u32 = 2000;

/// What a failure is called, for each status.
const CODES: &[(u16, &[&str])] = &[
    (400, &["bad_request", "invalid_json", "invalid_arguments"]),
    (401, &["unauthorized"]),
    (403, &["forbidden"]),
    (404, &["not_found", "unknown_tool"]),
    (405, &["method_not_allowed"]),
    (413, &["body_too_large"]),
    (422, &["tool_error"]),
    (426, &["upgrade_required"]),
    (429, &["rate_limited"]),
    (431, &["head_too_large"]),
    (502, &["worker_error", "worker_crashed"]),
    (503, &["overloaded", "breaker_open", "no_worker", "worker_start"]),
    (504, &["timeout"]),
];

/// Statuses of answers that are no failure.
const SOUND: &[u16] = &[101, 200, 202, 204, 302, 304, 308];

const METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"];

const SCOPES: &[&str] = &["", "", "", "/servers/helper", "/servers/nobody", "/servers/%ff", "/servers/"];

/// Tools of the helper, and what comes of them.
const TOOLS: &[&str] = &["echo", "error", "rpc_error", "silent", "crash", "nothing", "big"];

const NAMES: &[&str] = &[
    "echo",
    "echo",
    "error",
    "silent",
    "crash",
    "counts",
    "helper-1",
    "helper",
    "nothing",
    "",
    "..",
    "%2e%2e%2f%2e%2e",
    "a%20b",
    "%00",
    "%ff",
    "%",
    "%zz",
    "%C3%A9",
    "echo%0d%0aX-Injected:%20y",
    "echo;x=1",
    "{name}",
    "~",
    "1e400",
];

const QUERIES: &[&str] = &[
    "",
    "",
    "",
    "?",
    "?arguments=%7B%7D",
    "?arguments=x",
    "?arguments=%ff",
    "?uri=",
    "?uri=file:///etc/passwd",
    "?api_key=wrong",
    "?session_id=",
    "?session_id=s&session_id=t",
    "?a=b&a=c&&=",
    "?timeout=-1",
    "?%00=%00",
    "?x=%0d%0a",
];

const HEADERS: &[(&str, &str)] = &[
    ("Accept", "*/*"),
    ("Accept", "text/html"),
    ("Accept", "text/event-stream"),
    ("Accept", "application/json, text/event-stream"),
    ("Content-Type", "application/json"),
    ("Content-Type", "text/plain"),
    ("Content-Type", "multipart/form-data; boundary=x"),
    ("X-Session-Id", "s-1"),
    ("X-Session-Id", "a b"),
    ("X-Request-Id", "mine"),
    ("X-Request-Id", "<script>"),
    ("Origin", "http://localhost"),
    ("Origin", "http://evil.example"),
    ("Sec-Fetch-Site", "cross-site"),
    ("Mcp-Session-Id", "unknown"),
    ("MCP-Protocol-Version", "2025-11-25"),
    ("MCP-Protocol-Version", "2026-07-28"),
    ("MCP-Protocol-Version", "x"),
    ("Mcp-Method", "tools/list"),
    ("Last-Event-ID", "1-1"),
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Range", "bytes=0-,5-1,5-2"),
    ("If-None-Match", "*"),
    ("Authorization", "Bearer wrong"),
    ("Authorization", "Basic %%%"),
    ("Accept-Encoding", "gzip"),
    ("Cookie", "a=b"),
];

const BODIES: &[&str] = &[
    "",
    "",
    "{}",
    "[]",
    "null",
    "{",
    "\u{feff}{}",
    r#"{"arguments":{}}"#,
    r#"{"arguments":{"value":1e999}}"#,
    r#"{"arguments":[]}"#,
    r#"{"arguments":{"a":1},"arguments":{}}"#,
    r#"{"args":{}}"#,
    r#"{"arguments":{},"timeout":0}"#,
    r#"{"arguments":{},"timeout":1e999}"#,
    r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#,
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{}}"#,
    r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
    r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
    r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"x","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}"#,
    r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#,
    r#"{"jsonrpc":"2.0","id":{},"method":5}"#,
];

/// One request.
#[derive(Clone)]
struct Asked {
    endpoint: Endpoint,
    method: &'static str,
    target: String,
    headers: Vec<(&'static str, &'static str)>,
    body: &'static str,
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {:?} {}", self.method, self.target, self.headers, self.body)
    }
}

/// Any request, or a call that could be carried out.
fn asked() -> impl Strategy<Value = Asked> {
    let calls: Vec<Endpoint> = ENDPOINTS.iter().filter(|it| it.path.starts_with("/tools/{name}")).copied().collect();
    let call = (select(calls), select(TOOLS), select(BODIES)).prop_map(|(endpoint, tool, body)| {
        let headers = vec![("X-API-Key", KEY)];
        Asked { endpoint, method: "POST", target: endpoint.path.replace("{name}", tool), headers, body }
    });
    proptest::prop_oneof![4 => anything(), 1 => call]
}

fn anything() -> impl Strategy<Value = Asked> {
    let target = (select(ENDPOINTS), select(SCOPES), select(NAMES), select(QUERIES));
    let headers = proptest::collection::vec(select(HEADERS), 0..6);
    // Most have the key: without it nothing much happens.
    let rest = (select(METHODS), headers, select(BODIES), 0..10_u8);
    (target, rest).prop_map(|((endpoint, scope, name, query), (method, mut headers, body, luck))| {
        if luck != 0 {
            headers.push(("X-API-Key", KEY));
        }
        let path = endpoint.path.replace("{name}", name);
        Asked { endpoint, method, target: format!("{scope}{path}{query}"), headers, body }
    })
}

/// What is wrong with an answer.
fn fault(asked: &Asked, answer: &Answer) -> Option<String> {
    if answer.header("X-Request-Id").is_none_or(|id| id == "<script>") {
        return Some("its `X-Request-Id` is missing, or not a sane one".to_owned());
    }
    if answer.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("X-Injected")) {
        return Some("a header was put into it".to_owned());
    }
    let codes = CODES.iter().find(|(status, _)| *status == answer.status).map(|(_, codes)| *codes);
    let Some(codes) = codes else {
        let is_sound = SOUND.contains(&answer.status) || is_of_json_rpc(asked, answer);
        return (!is_sound).then(|| "the contract has no such status".to_owned());
    };
    if asked.method == "HEAD" || is_of_json_rpc(asked, answer) || is_health(asked, answer) {
        return None;
    }
    let failure: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let (error, id) = (&failure["error"], failure["request_id"].as_str());
    let has_shape = failure["status"] == "error" && error["message"].is_string() && id == answer.header("X-Request-Id");
    let has_code = error["code"].as_str().is_some_and(|code| codes.contains(&code));
    if has_shape && has_code { None } else { Some(format!("a failure that is not in the contract: {failure}")) }
}

/// A gateway that cannot serve says so with 503.
fn is_health(asked: &Asked, answer: &Answer) -> bool {
    answer.status == 503 && asked.endpoint.is_health()
}

/// A failure as MCP's own surfaces tell it, of the client.
fn is_of_json_rpc(asked: &Asked, answer: &Answer) -> bool {
    let speaks_it = ["/mcp", "/sse", "/messages"].contains(&asked.endpoint.path) && answer.status < 500;
    let failure: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    speaks_it && failure["jsonrpc"] == "2.0" && failure["error"]["code"].is_i64()
}

#[test]
fn every_request_gets_an_answer_that_is_in_the_contract() {
    let settings = [("MCP_REQUEST_TIMEOUT", "0.2"), ("SESSION_IDLE_TIMEOUT", "1")];
    let gateway = Gateway::start(&settings, Helper::new());
    let config = Config { cases: CASES, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let checked = runner.run(&asked(), |asked| {
        let mut connection = gateway.connect();
        let fail = |what: String| TestCaseError::fail(format!("{asked:?}\n{what}"));
        let sent = connection.send(asked.method, &asked.target, &asked.headers, asked.body.as_bytes());
        // The head alone where the answer may go on for ever; else the whole.
        let mut answer = sent.and_then(|()| connection.head()).map_err(|cause| fail(format!("no answer: {cause}")))?;
        let length = answer.header("Content-Length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let has_body = asked.method != "HEAD" && answer.status != 101;
        if has_body {
            answer.body = connection.bytes(length).map_err(|cause| fail(format!("half an answer: {cause}")))?;
        }
        match fault(&asked, &answer) {
            None => Ok(()),
            Some(fault) => Err(fail(format!("{fault}\n{} {}", answer.status, String::from_utf8_lossy(&answer.body)))),
        }
    });
    checked.unwrap_or_else(|failure| panic!("{failure}\n{}", gateway.framed_log()));
    gateway.call("echo", "{}").expect_status(200);
}
