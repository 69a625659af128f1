//! The clients of `docs/streaming.md` and `docs/mcp.md`, run as they are printed there: curl, Python, Node, and pages in a real browser.
//!
//! A test takes its code out of the document, puts the address of its own gateway in place of `localhost:8000`, runs it
//! with the program a reader would use, and compares what it writes with the plain answer to the same call and with
//! the output the document shows. `scripts/test.sh` installs the programs; where one is missing, a test says that it is
//! skipped, and with `CI=true` it fails.

pub(crate) mod browser;
mod pages;

use std::{
    env,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    documents::block::{ADDRESS, Example, MCP, STREAMING, example, examples, shown_as},
    support::{
        Folder, Gateway, KEY, PATIENCE, Process, Server, collect, command, holds_within, root, send_signal,
        wait_for_exit,
    },
};

use browser::{Browser, Site};

const JOURNEYS: &str = r#"{"action": "list"}"#;

/// The languages in which a reader can run something.
const LANGUAGES: &[&str] = &["sh", "python", "js", "html"];

/// The examples that a test below runs: heading and language.
const RUN: &[(&str, &str)] = &[
    ("curl", "sh"),
    ("Python: SSE with aiohttp", "python"),
    ("Python: WebSocket with websockets", "python"),
    ("Page: EventSource", "html"),
    ("Page: WebSocket", "html"),
    ("Node: SSE with fetch", "js"),
    ("Node: WebSocket with ws", "js"),
];

/// What a reader installs for them, which `scripts/lib/tools.sh` does for the tests.
const INSTALLED: &[(&str, &str)] = &[
    ("Python: SSE with aiohttp", "python3 -m pip install aiohttp\n"),
    ("Python: WebSocket with websockets", "python3 -m pip install websockets\n"),
    ("Node: WebSocket with ws", "npm install ws\n"),
];

/// Whether a test of this file runs the example.
pub(crate) fn is_run_here(example: &Example) -> bool {
    match example.file {
        STREAMING => RUN.contains(&(&example.heading, &example.language)) && !is_installed(example),
        MCP => example.language == "sh",
        _ => examples(STREAMING, LANGUAGES).iter().any(|it| it.code == example.code),
    }
}

fn is_installed(example: &Example) -> bool {
    INSTALLED.contains(&(&example.heading, &example.code))
}

#[test]
fn every_example_of_the_document_is_run() {
    let mut examples = examples(STREAMING, LANGUAGES);
    examples.retain(|it| !is_installed(it));
    let found: Vec<(&str, &str)> = examples.iter().map(|it| (it.heading.as_str(), it.language.as_str())).collect();
    assert_eq!(found, RUN);
}

#[test]
fn curl_shows_the_events_of_a_call() {
    let Some(_curl) = program("curl") else { return };
    let gateway = Gateway::start(&[], Server::Bundled);
    let example = example("curl", "sh");

    let mut shell = command("sh");
    shell.arg("-c").arg(example.at(gateway.address()));
    let output = run(shell, "");

    example.check_output(&output);
    check_sse(&gateway, &events_of_sse(&output));
}

#[test]
fn python_reads_events_with_aiohttp() {
    let Some(python) = program("clients/venv/bin/python") else { return };
    let gateway = Gateway::start(&[], Server::Bundled);
    let output = run_script(&gateway, &python, &example("Python: SSE with aiohttp", "python"), "stream.py");
    check_sse(&gateway, &printed_events(&output));
}

#[test]
fn python_calls_over_a_websocket_with_websockets() {
    let Some(python) = program("clients/venv/bin/python") else { return };
    let gateway = Gateway::start(&[], Server::Bundled);
    let output = run_script(&gateway, &python, &example("Python: WebSocket with websockets", "python"), "websocket.py");
    check_websocket(&gateway, &printed_events(&output));
}

#[test]
fn node_reads_events_with_fetch() {
    let Some(node) = program("node") else { return };
    let gateway = Gateway::start(&[], Server::Bundled);
    let output = run_script(&gateway, &node, &example("Node: SSE with fetch", "js"), "stream.mjs");
    check_sse(&gateway, &printed_events(&output));
}

#[test]
fn node_calls_over_a_websocket_with_ws() {
    let Some(node) = program("node") else { return };
    let Some(_ws) = program("clients/node_modules/ws/package.json") else { return };
    let gateway = Gateway::start(&[], Server::Bundled);
    let output = run_script(&gateway, &node, &example("Node: WebSocket with ws", "js"), "websocket.mjs");
    check_websocket(&gateway, &without_close(printed_events(&output)));
}

#[test]
fn a_page_reads_events_with_eventsource_and_calls_once() {
    let Some(chromium) = program("chromium") else { return };
    let gateway = Gateway::start(&[], Server::Bundled);
    let (page, site) = open_page(&gateway, &chromium, &example("Page: EventSource", "html"));

    check_sse(&gateway, &printed_events(page["shown"].as_str().unwrap()));
    assert_eq!(page["readyState"], 2, "the page left its EventSource open");
    let calls = site.requests().iter().filter(|it| it.contains("/tools/journeys_tool/stream")).count();
    assert_eq!(calls, 1, "{:#?}", site.requests());
}

#[test]
fn a_page_calls_over_a_websocket() {
    let Some(chromium) = program("chromium") else { return };
    let gateway = Gateway::start(&[], Server::Bundled);
    let (page, _site) = open_page(&gateway, &chromium, &example("Page: WebSocket", "html"));
    check_websocket(&gateway, &without_close(printed_events(page["shown"].as_str().unwrap())));
}

#[test]
fn curl_calls_over_mcp_and_shows_the_answer() {
    let Some(_curl) = program("curl") else { return };
    let gateway = Gateway::start(&[], Server::Bundled);
    let examples = examples(MCP, LANGUAGES);
    assert!(!examples.is_empty(), "{MCP} has no example");
    let plain = gateway.call("journeys_tool", r#"{"action": "get", "id": "own-server"}"#).data();
    for example in examples {
        let mut shell = command("sh");
        shell.arg("-c").arg(example.at(gateway.address()));
        let output = run(shell, "");

        example.check_output(&output);
        let answer: Value = serde_json::from_str(&output).unwrap();
        assert_eq!(answer["result"]["structuredContent"], plain, "{answer}");
    }
}

#[test]
fn a_question_of_a_server_is_asked_and_answered_as_the_document_shows() {
    let Some(fastmcp) = program("venv/bin/python") else { return };
    let Some(python) = program("clients/venv/bin/python") else { return };
    let file = |name: &str| root().join("tests/clients").join(name).display().to_string();
    let words = [fastmcp.display().to_string(), file("table_server.py")];
    let gateway = Gateway::start(&[("FASTMCP_CHECK_FOR_UPDATES", "off")], Server::Program(words.to_vec()));
    let exchange = example("Questions of a server", "text");
    let said_by = |who| exchange.code.lines().filter_map(|line| line.strip_prefix(who)).collect::<Vec<&str>>();

    let mut client = command(python);
    let url = format!("ws://{}/ws/tools/book_table", gateway.address());
    client.args([file("exchange.py").as_str(), url.as_str(), KEY]);
    let output = run(client, &said_by("> ").join("\n"));

    shown_as(&said_by("< "), &output);
}

// --- running ----------------------------------------------------------------------------------------------------

/// Where a program, or a file it needs, is: below `target/tools`, or on the `PATH`. `None` with a word when it is missing.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = match name.contains('/') {
        true => Some(tools().join(name)).filter(|it| it.exists()),
        false => env::split_paths(&path).map(|folder| folder.join(name)).find(|it| it.is_file()),
    };
    if found.is_none() {
        let is_ci = env::var("CI").is_ok_and(|it| it == "true");
        assert!(!is_ci, "{name} is missing; scripts/test.sh installs it");
        println!("skipped: {name} is missing; scripts/test.sh installs it");
    }
    found
}

/// Where `scripts/test.sh` installs what it does not take from the system.
pub(crate) fn tools() -> PathBuf {
    let beside_target = || Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("tools");
    env::var_os("MCPGATE_TOOLS").map_or_else(beside_target, PathBuf::from)
}

/// Runs an example as a file of this name, with the packages it imports, and gives what it wrote.
#[track_caller]
fn run_script(gateway: &Gateway, program: &Path, example: &Example, name: &str) -> String {
    let folder = Folder::new();
    let script = folder.file(name, &example.at(gateway.address()));
    // Where Node looks for packages; without any it points nowhere.
    std::os::unix::fs::symlink(tools().join("clients/node_modules"), folder.path().join("node_modules")).unwrap();
    let mut command = command(program);
    command.arg(script).current_dir(folder.path());
    let output = run(command, "");
    example.check_output(&output);
    output
}

/// Runs a program to its end with `input`, and gives what it wrote.
#[track_caller]
fn run(command: Command, input: &str) -> String {
    let shown = format!("{command:?}");
    let ran = run_within(PATIENCE, command, input);
    assert!(ran.is_success, "{shown}\n{}", ran.shown());
    ran.stdout
}

/// A program that ended, or was ended.
pub(crate) struct Ran {
    pub(crate) is_success: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    how: String,
}

impl Ran {
    /// How it ended and what it said, for a failure.
    pub(crate) fn shown(&self) -> String {
        format!("ended with {}\nstdout:\n{}\nstderr:\n{}", self.how, self.stdout, self.stderr)
    }
}

/// Runs a program with `input` until it ends, or is ended after `patience`.
pub(crate) fn run_within(patience: Duration, mut command: Command, input: &str) -> Ran {
    // A proxy for the network is none for this machine.
    command.env("no_proxy", "*").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = Running(command.spawn().unwrap());
    // One that ends without reading says itself what is wrong.
    let _ = running.0.stdin.take().unwrap().write_all(input.as_bytes());
    let stdout = collect(running.0.stdout.take().unwrap());
    let stderr = collect(running.0.stderr.take().unwrap());
    let status = wait_for_exit(&mut running.0, patience);
    drop(running);
    let is_success = status.is_some_and(|it| it.success());
    let how = status.map_or_else(|| format!("nothing within {patience:?}"), |it| it.to_string());
    Ran { is_success, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap(), how }
}

/// A program this test started. Dropping it ends it, and every process below it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        use rustix::process::Signal;
        if matches!(self.0.try_wait(), Ok(Some(_))) {
            return;
        }
        let below = Process::below(self.0.id());
        send_signal(self.0.id(), Signal::TERM);
        if wait_for_exit(&mut self.0, PATIENCE).is_none() {
            // It is our own child, not yet waited for.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
        // A browser's own processes end a moment after it, and write to its folder until then.
        if !holds_within(PATIENCE, || below.iter().all(|it| !it.is_alive())) {
            for process in below.iter().filter(|it| it.is_alive()) {
                send_signal(process.pid, Signal::KILL);
            }
        }
    }
}

/// Opens the example as a page of the gateway's own origin, and gives what the page reports at its end.
#[track_caller]
fn open_page(gateway: &Gateway, chromium: &Path, example: &Example) -> (Value, Site) {
    assert!(!example.code.contains(ADDRESS), "a page calls the place it comes from");
    let report = std::fs::read_to_string(root().join("tests/clients/report.html")).unwrap();
    let site = Site::start(format!("{}{report}", example.code), gateway.address());
    let _browser = Browser::open(chromium, &site.page_url());
    let Some(result) = site.wait_for_result() else {
        panic!("the page did not come to its end\nrequests: {:#?}\n{}", site.requests(), gateway.log());
    };
    let page: Value = serde_json::from_str(&result).unwrap();
    example.check_output(page["shown"].as_str().unwrap());
    (page, site)
}

// --- reading and comparing --------------------------------------------------------------------------------------

/// Name and data of an event.
type Event = (String, Value);

/// The events of a stream of Server-Sent Events, each exactly as the document describes it.
#[track_caller]
fn events_of_sse(stream: &str) -> Vec<Event> {
    let frames = stream.split_terminator("\n\n").filter(|frame| !frame.starts_with(':'));
    let event = |frame: &str| {
        let (name, data) = frame.strip_prefix("event: ")?.split_once("\ndata: ")?;
        Some((name.to_owned(), serde_json::from_str(data).ok()?))
    };
    frames.map(|frame| event(frame).unwrap_or_else(|| panic!("not an event: {frame:?}"))).collect()
}

/// The lines that the examples print: an event's name, and its data.
#[track_caller]
fn printed_events(output: &str) -> Vec<Event> {
    let event = |line: &str| {
        let (name, data) = line.split_once(' ')?;
        Some((name.to_owned(), serde_json::from_str(data).ok()?))
    };
    output.lines().map(|line| event(line).unwrap_or_else(|| panic!("not an event: {line:?}"))).collect()
}

/// The events before the socket was closed in order.
#[track_caller]
fn without_close(mut events: Vec<Event>) -> Vec<Event> {
    assert_eq!(events.pop(), Some(("closed".to_owned(), json!(1000))));
    events
}

/// Progress, one chunk for each journey, result, done.
#[track_caller]
fn check_sse(gateway: &Gateway, events: &[Event]) {
    let [progress, chunks @ .., result, done] = events else { panic!("too few events: {events:#?}") };
    check_progress(progress);
    check_chunks(gateway, chunks, &result.1);
    assert_eq!((result.0.as_str(), &result.1["status"]), ("result", &json!("success")));
    assert_eq!(done, &("done".to_owned(), json!({"status": "complete"})));
}

/// Started, progress, one chunk for each journey, complete; each with the id of the call.
#[track_caller]
fn check_websocket(gateway: &Gateway, events: &[Event]) {
    let events: Vec<Event> = events.iter().cloned().map(without_id).collect();
    let [started, progress, chunks @ .., complete] = &events[..] else { panic!("too few events: {events:#?}") };
    assert_eq!(started, &("started".to_owned(), json!({"tool": "journeys_tool"})));
    check_progress(progress);
    check_chunks(gateway, chunks, &complete.1);
    assert_eq!(complete.0, "complete");
}

#[track_caller]
fn without_id((name, mut data): Event) -> Event {
    let id = data.as_object_mut().and_then(|fields| fields.remove("id"));
    assert_eq!(id, Some(json!("req-1")), "{name} {data}");
    (name, data)
}

#[track_caller]
fn check_progress((name, data): &Event) {
    // JavaScript writes 0.0 as 0.
    let is_as_reported = data["progress"].as_f64() == Some(0.0) && data["message"] == "Loading data...";
    assert!(name == "progress" && is_as_reported, "{name} {data}");
}

/// One chunk for each journey, in the order of the result; the result is that of a plain call.
#[track_caller]
fn check_chunks(gateway: &Gateway, chunks: &[Event], result: &Value) {
    let plain = gateway.call("journeys_tool", JOURNEYS).json();
    assert_eq!((&result["data"], &result["content"]), (&plain["data"], &plain["content"]));
    assert_eq!(result["tool"], "journeys_tool");
    let journeys = plain["data"]["journeys"].as_array().expect("journeys");
    let expected = journeys.iter().enumerate();
    let expected = expected.map(|(index, journey)| ("chunk".to_owned(), json!({"index": index, "data": journey})));
    assert_eq!(chunks, expected.collect::<Vec<Event>>());
}
