//! MCP itself at `/mcp`: both eras before servers of both eras, over raw HTTP.
//!
//! What its tests share stands here: gateways before one helper in either isolation, and what a helper has heard.
//! A message that must not come is shown by one that must and does, behind it on the same stream.

mod answers;
mod asking_modern;
mod batches;
mod cancelling;
pub(crate) mod client;
mod doors;
mod eras;
mod headers;
mod isolation;
mod keys;
mod ladder;
mod legacy_on_modern;
mod listening;
mod lists;
mod logging;
mod modern_on_legacy;
mod modern_on_modern;
mod old;
mod questions;
mod resuming;
mod sessions;
mod several;
mod standing;
pub(crate) mod stream;
mod together;
mod trouble;

use serde_json::{Value, json};

use crate::support::{Gateway, Helper, Launch, Server};

/// One worker for all that share, so that it hears and counts everything.
const ONE_WORKER: [(&str, &str); 3] = [("MIN_WORKERS", "1"), ("MAX_WORKERS", "1"), ("WORKER_CONCURRENCY", "32")];

/// Whether the sessions share their workers, or each has its own.
const ISOLATIONS: [&str; 2] = ["shared", "session"];

/// A gateway before these servers of an `mcpServers` file.
fn launch(servers: &Value) -> Launch {
    let text = json!({ "mcpServers": servers }).to_string();
    let launch = Launch::new(Server::FromSettings).file("mcp.json", &text).arguments(&["--servers", "mcp.json"]);
    launch.set_all(&ONE_WORKER)
}

/// The entry of a helper in such a file.
fn entry(flags: &[&str]) -> Value {
    json!({"command": Helper::program(), "args": flags})
}

/// A gateway before one worker of the helper, in this isolation.
#[track_caller]
fn start(isolation: &str, flags: &[&str], settings: &[(&str, &str)]) -> Gateway {
    let mut entry = entry(flags);
    entry["isolation"] = json!(isolation);
    launch(&json!({ "helper": entry })).set_all(settings).start()
}

/// A gateway before one worker of the helper, which all share.
#[track_caller]
fn shared(flags: &[&str]) -> Gateway {
    start("shared", flags, &[])
}

/// Lets gated streams of the shared worker take a step.
#[track_caller]
fn open_gate(gateway: &Gateway) {
    gateway.call("open", "{}").expect_status(200);
}

/// Requests at shared workers of the only server.
#[track_caller]
fn in_flight(gateway: &Gateway) -> u64 {
    let stats = gateway.stats();
    let workers = stats["servers"]["helper"]["workers"].as_array().cloned().unwrap_or_default();
    workers.iter().filter_map(|worker| worker["in_flight"].as_u64()).sum()
}

/// Waits until the shared worker was sent so many calls of this tool; it needs `--record`.
#[track_caller]
fn wait_for_calls(gateway: &Gateway, tool: &str, count: usize) {
    gateway.wait_until(&format!("`{tool}` at the worker"), || calls_of(&heard(gateway), tool).len() == count);
}

/// What the shared worker was sent; it needs `--record`.
#[track_caller]
fn heard(gateway: &Gateway) -> Vec<Value> {
    lines(&gateway.call("heard", "{}").data().to_string())
}

/// What the tool `heard` says.
#[track_caller]
fn lines(text: &str) -> Vec<Value> {
    serde_json::from_str(text).unwrap_or_else(|cause| panic!("expected: an array of lines\nactual: {text} ({cause})"))
}

/// The lines with this method, in order.
fn with_method<'l>(lines: &'l [Value], method: &str) -> Vec<&'l Value> {
    lines.iter().filter(|line| line["method"] == method).collect()
}

/// The calls of this tool among the lines, in order.
fn calls_of<'l>(lines: &'l [Value], tool: &str) -> Vec<&'l Value> {
    lines.iter().filter(|line| line["params"]["name"] == tool).collect()
}

/// What progress notifications say, in order.
fn progress_of(messages: &[Value]) -> Vec<&str> {
    let progress = messages.iter().filter(|it| it["method"] == "notifications/progress");
    progress.filter_map(|it| it["params"]["message"].as_str()).collect()
}

/// The text of a tool's result in a response.
fn text_of(response: &Value) -> &str {
    response["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("expected: a text\nactual: {response}"))
}
