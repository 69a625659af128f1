//! The server as a client sees it: lines in, lines out, over real pipes.

use std::{
    io::{BufRead, BufReader, PipeWriter, Write},
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, bounded};

use super::{calls::CALLS_QUEUED_MAX, *};
use crate::{
    mcp::{
        incoming::{INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, PARSE_ERROR},
        revision::{CLIENT_CAPABILITIES_KEY, MODERN, PROTOCOL_VERSION_KEY, SERVER_INFO_KEY},
    },
    threads::{self, Joined},
};

/// Long enough for any machine; a test that waits this long has failed.
const DEADLINE: Duration = Duration::from_secs(20);

/// A client with its own connection to a server with test tools.
struct Client {
    input: Option<PipeWriter>,
    lines: Receiver<Value>,
    /// One message for each start of the tool `wait`.
    started: Receiver<()>,
    ended: Receiver<io::Result<()>>,
    _threads: [Joined; 2],
}

impl Client {
    fn connect() -> Client {
        let (server, started) = test_server();
        let (server_input, input) = io::pipe().unwrap();
        let (output, server_output) = io::pipe().unwrap();
        let (line_sender, lines) = bounded(10_000);
        let (end_sender, ended) = bounded(1);
        let serving = threads::spawn("test-serve", move || {
            let end = serve(Arc::new(server), BufReader::new(server_input), server_output);
            end_sender.send(end).unwrap();
        });
        let reading = threads::spawn("test-read", move || {
            for line in BufReader::new(output).lines() {
                let line = line.unwrap();
                line_sender.send(serde_json::from_str(&line).expect(&line)).unwrap();
            }
        });
        Client { input: Some(input), lines, started, ended, _threads: [serving.unwrap(), reading.unwrap()] }
    }

    fn legacy() -> Client {
        let mut client = Client::connect();
        client.ask(json!("init"), "initialize", json!({"protocolVersion": "2025-11-25"}));
        client.send_line(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        client
    }

    fn send_line(&mut self, line: &str) {
        let mut input = self.input.as_ref().unwrap();
        input.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn send(&mut self, id: Value, method: &str, params: Value) {
        self.send_line(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string());
    }

    fn call(&mut self, id: Value, tool: &str, arguments: Value) {
        self.send(id, "tools/call", json!({"name": tool, "arguments": arguments}));
    }

    fn cancel(&mut self, id: Value) {
        let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}});
        self.send_line(&cancel.to_string());
    }

    #[track_caller]
    fn next(&self) -> Value {
        self.lines.recv_timeout(DEADLINE).expect("no message came")
    }

    #[track_caller]
    fn ask(&mut self, id: Value, method: &str, params: Value) -> Value {
        self.send(id.clone(), method, params);
        let answer = self.next();
        assert_eq!(answer["id"], id, "{answer}");
        answer
    }

    #[track_caller]
    fn expect_error(&mut self, method: &str, params: Value, code: i64) -> Value {
        let answer = self.ask(json!(method), method, params);
        assert_eq!(answer["error"]["code"], code, "{answer}");
        answer["error"].clone()
    }

    #[track_caller]
    fn wait_for_start(&self) {
        self.started.recv_timeout(DEADLINE).expect("the tool did not start");
    }

    /// Ends the input and waits for the end of `serve`.
    #[track_caller]
    fn close(&mut self) -> io::Result<()> {
        self.input = None;
        self.ended.recv_timeout(DEADLINE).expect("serve did not return")
    }
}

/// The tools: `echo` its arguments; `wait` until cancelled; `report` progress and items; `refuse`; `panic`.
fn test_server() -> (Server, Receiver<()>) {
    let (started, start) = bounded(2 * CALLS_QUEUED_MAX);
    let wait = move |context: &Context, _: Arguments| {
        started.send(()).expect("the test holds the receiver");
        let deadline = Instant::now() + DEADLINE;
        while !context.is_cancelled() {
            assert!(Instant::now() < deadline, "not cancelled in time");
            thread::yield_now();
        }
        Ok(json!("cancelled"))
    };
    let report = |context: &Context, _: Arguments| {
        context.report_progress(0.0, Some(8.0), "first");
        context.emit(json!({"item": "a"}));
        context.emit(json!("b"));
        context.report_progress(1.0, Some(f64::NAN), "behind");
        context.report_progress(f64::INFINITY, None, "not a number");
        context.report_progress(7.5, None, "ahead");
        context.emit(json!(null));
        Ok(json!("done"))
    };
    let refuse = |_: &Context, _: Arguments| {
        Err(ToolError {
            code: "bad_argument",
            argument: Some("x".to_owned()),
            message: "`x` is 1".to_owned(),
            hint: "send 2".to_owned(),
        })
    };
    let server = Server::new("test", "Test", "1.0", "For tests.")
        .tool(test_tool("echo", true), |_, arguments| Ok(Value::Object(arguments)))
        .tool(test_tool("wait", false), wait)
        .tool(test_tool("report", false), report)
        .tool(test_tool("refuse", true), refuse)
        .tool(test_tool("panic", false), |_, _| panic!("on purpose"));
    (server, start)
}

fn test_tool(name: &'static str, has_output_schema: bool) -> Tool {
    Tool {
        name,
        title: "A test tool",
        description: "Only for tests.".to_owned(),
        input_schema: json!({"type": "object"}),
        output_schema: has_output_schema.then(|| json!({"type": "object"})),
        annotations: Annotations {
            read_only_hint: true,
            destructive_hint: false,
            idempotent_hint: true,
            open_world_hint: false,
        },
    }
}

fn modern(mut params: Value) -> Value {
    params["_meta"] = json!({ PROTOCOL_VERSION_KEY: MODERN, CLIENT_CAPABILITIES_KEY: {} });
    params
}

#[test]
fn a_legacy_client_is_greeted_in_its_revision_and_lists_and_calls_tools() {
    let mut client = Client::connect();
    let greeting = client.ask(json!(0), "initialize", json!({"protocolVersion": "2025-03-26"}));
    assert_eq!(greeting["result"]["protocolVersion"], "2025-03-26");
    assert_eq!(greeting["result"]["capabilities"], json!({"tools": {}}));
    assert_eq!(greeting["result"]["serverInfo"], json!({"name": "test", "title": "Test", "version": "1.0"}));

    let tools = client.ask(json!(1), "tools/list", json!({}));
    assert_eq!(tools["result"]["tools"].as_array().unwrap().len(), 5);
    assert_eq!(tools["result"]["tools"][0]["annotations"]["readOnlyHint"], true);
    assert_eq!(tools["result"]["tools"][1].get("outputSchema"), None);
    assert_eq!(tools["result"].get("resultType"), None);

    client.call(json!(2), "echo", json!({"b": 1, "a": "é\n"}));
    let expected = json!({
        "content": [{"type": "text", "text": r#"{"b":1,"a":"é\n"}"#}],
        "structuredContent": {"b": 1, "a": "é\n"},
    });
    assert_eq!(client.next(), json!({"jsonrpc": "2.0", "id": 2, "result": expected}));
    client.close().unwrap();
}

#[test]
fn before_initialize_only_ping_is_answered() {
    let mut client = Client::connect();
    assert_eq!(client.ask(json!("p"), "ping", json!({}))["result"], json!({}));
    client.expect_error("tools/list", json!({}), INVALID_REQUEST);
    client.expect_error("nothing/known", json!({}), INVALID_REQUEST);
    client.expect_error("initialize", json!({}), INVALID_PARAMS);
    let greeting = client.ask(json!(1), "initialize", json!({"protocolVersion": "1999-01-01"}));
    assert_eq!(greeting["result"]["protocolVersion"], "2025-11-25");
}

#[test]
fn a_legacy_session_refuses_what_it_does_not_know() {
    let mut client = Client::legacy();
    client.expect_error("initialize", json!({"protocolVersion": "2025-11-25"}), INVALID_REQUEST);
    client.expect_error("resources/list", json!({}), METHOD_NOT_FOUND);
    client.expect_error("tools/list", json!({"cursor": "2"}), INVALID_PARAMS);
    client.expect_error("tools/list", modern(json!({})), INVALID_REQUEST);
    client.expect_error("server/discover", json!({}), INVALID_REQUEST);
    client.expect_error("tools/call", json!({}), INVALID_PARAMS);
    client.expect_error("tools/call", json!({"name": "echo", "arguments": [1]}), INVALID_PARAMS);
    client.expect_error("tools/call", json!({"name": "echo", "_meta": {"progressToken": 1.5}}), INVALID_PARAMS);
    let error = client.expect_error("tools/call", json!({"name": "ecko"}), INVALID_PARAMS);
    let message = "there is no tool `ecko`; this server has `echo`, `wait`, `report`, `refuse`, `panic`";
    assert_eq!(error["message"], message);
}

#[test]
fn lines_that_are_no_messages_are_answered_without_an_id_and_do_no_harm() {
    let mut client = Client::legacy();
    for (line, code) in [("{", PARSE_ERROR), ("[]", INVALID_REQUEST), ("\u{7f}", PARSE_ERROR)] {
        client.send_line(line);
        let answer = client.next();
        assert_eq!((answer.get("id"), &answer["error"]["code"]), (None, &json!(code)), "{line}");
    }
    // None of these is a request, so none is answered.
    client.send_line("");
    client.send_line(" \r");
    client.send_line(r#"{"jsonrpc":"2.0","id":9,"result":{}}"#);
    client.send_line(r#"{"jsonrpc":"2.0","method":"notifications/unknown"}"#);
    client.send_line(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":[]}"#);
    client.cancel(json!({"not": "an id"}));
    client.ask(json!(1), "ping", json!({}));
}

#[test]
fn a_modern_client_discovers_lists_and_calls() {
    let mut client = Client::connect();
    let info = json!({"name": "test", "title": "Test", "version": "1.0"});
    let discovered = client.ask(json!("d"), "server/discover", modern(json!({})));
    assert_eq!(discovered["result"]["supportedVersions"], json!([MODERN]));
    assert_eq!(discovered["result"]["resultType"], "complete");
    assert_eq!(discovered["result"]["cacheScope"], "public");
    assert_eq!(discovered["result"]["_meta"][SERVER_INFO_KEY], info);

    let tools = client.ask(json!(1), "tools/list", modern(json!({})));
    assert_eq!(tools["result"]["ttlMs"], 60_000);
    assert_eq!(tools["result"]["resultType"], "complete");

    let called = client.ask(json!(2), "tools/call", modern(json!({"name": "echo", "arguments": {"a": 1}})));
    assert_eq!(called["result"]["structuredContent"], json!({"a": 1}));
    assert_eq!(called["result"]["resultType"], "complete");
    assert_eq!(called["result"]["_meta"][SERVER_INFO_KEY], info);
    assert_eq!(called["result"].get("ttlMs"), None);

    let refused = client.ask(json!(3), "tools/call", modern(json!({"name": "refuse"})));
    assert_eq!(refused["result"]["_meta"][SERVER_INFO_KEY], info);
    assert_eq!(refused["result"]["_meta"][ERROR_KEY]["argument"], "x");
}

#[test]
fn a_modern_session_refuses_legacy_requests_and_incomplete_meta() {
    let mut client = Client::connect();
    client.ask(json!(1), "tools/list", modern(json!({})));

    let error = client.expect_error("initialize", json!({"protocolVersion": "2025-06-18"}), -32022);
    assert_eq!(error["data"], json!({"supported": [MODERN], "requested": "2025-06-18"}));
    client.expect_error("initialize", modern(json!({})), METHOD_NOT_FOUND);
    client.expect_error("ping", modern(json!({})), METHOD_NOT_FOUND);
    client.expect_error("tools/list", json!({}), INVALID_PARAMS);
    client.expect_error("server/discover", json!({}), INVALID_PARAMS);
    client.expect_error("tools/list", json!({"_meta": {PROTOCOL_VERSION_KEY: MODERN}}), INVALID_PARAMS);
    client.expect_error("tools/list", json!({"_meta": {CLIENT_CAPABILITIES_KEY: {}}}), INVALID_PARAMS);
    let numbered = json!({"_meta": {PROTOCOL_VERSION_KEY: 20260728, CLIENT_CAPABILITIES_KEY: {}}});
    client.expect_error("tools/list", numbered, INVALID_PARAMS);
}

#[test]
fn a_modern_revision_nobody_knows_is_refused_and_leaves_both_eras_open() {
    let mut client = Client::connect();
    let future = json!({"_meta": {PROTOCOL_VERSION_KEY: "2030-01-01", CLIENT_CAPABILITIES_KEY: {}}});
    let error = client.expect_error("server/discover", future, -32022);
    assert_eq!(error["data"], json!({"supported": [MODERN], "requested": "2030-01-01"}));
    let greeting = client.ask(json!(1), "initialize", json!({"protocolVersion": "2024-11-05"}));
    assert_eq!(greeting["result"]["protocolVersion"], "2024-11-05");
}

#[test]
fn progress_rises_with_every_report_and_item_and_keeps_the_type_of_its_token() {
    for token in [json!("7"), json!(7)] {
        let mut client = Client::legacy();
        client.send(json!(1), "tools/call", json!({"name": "report", "_meta": {"progressToken": token}}));
        let notes: Vec<Value> = (0..7).map(|_| client.next()["params"].take()).collect();
        assert_eq!(notes[0], json!({"progressToken": token, "progress": 0, "total": 8, "message": "first"}));
        let chunk = json!({ CHUNK_KEY: {"index": 0, "data": {"item": "a"}} });
        assert_eq!(notes[1], json!({"progressToken": token, "progress": 1, "_meta": chunk}));
        assert_eq!(notes[2]["_meta"][CHUNK_KEY], json!({"index": 1, "data": "b"}));
        assert_eq!(notes[3].get("total"), None);
        assert_eq!(notes[5]["progress"], 7.5);
        assert_eq!(notes[6]["_meta"][CHUNK_KEY], json!({"index": 2, "data": null}));
        let progress: Vec<f64> = notes.iter().map(|it| it["progress"].as_f64().unwrap()).collect();
        assert!(progress.is_sorted_by(|before, after| before < after), "{progress:?}");
        // The result comes after all of them.
        assert_eq!(client.next()["result"]["content"][0]["text"], "\"done\"");
    }
}

#[test]
fn without_a_progress_token_there_is_no_progress() {
    let mut client = Client::legacy();
    client.call(json!(1), "report", json!({}));
    assert_eq!(client.next()["id"], 1);
}

#[test]
fn a_ping_is_answered_while_tools_run_and_a_cancelled_call_is_not() {
    let mut client = Client::legacy();
    // All threads but one are busy, and ids differ only in type.
    for id in [json!(1), json!("1"), json!(2)] {
        client.call(id, "wait", json!({}));
        client.wait_for_start();
    }
    client.ask(json!("ping"), "ping", json!({}));
    client.call(json!(3), "echo", json!({}));
    assert_eq!(client.next()["id"], 3);

    client.call(json!(2), "echo", json!({}));
    let refused = client.next();
    assert_eq!((&refused["id"], &refused["error"]["code"]), (&json!(2), &json!(INVALID_REQUEST)), "id in use");

    for id in [json!(1), json!("1"), json!(2), json!("never seen")] {
        client.cancel(id);
    }
    client.close().unwrap();
    assert!(client.lines.recv_timeout(DEADLINE).is_err(), "a cancelled call was answered");
}

#[test]
fn a_cancelled_call_that_still_waits_is_never_started() {
    let mut client = Client::legacy();
    for id in 0..4 {
        client.call(json!(id), "wait", json!({}));
        client.wait_for_start();
    }
    client.call(json!(4), "wait", json!({}));
    client.cancel(json!(4));
    for id in 0..4 {
        client.cancel(json!(id));
    }
    client.close().unwrap();
    assert!(client.started.is_empty(), "the fifth call was started");
}

#[test]
fn a_call_beyond_the_queue_is_refused_at_once() {
    let mut client = Client::legacy();
    for id in 0..4 {
        client.call(json!(id), "wait", json!({}));
        client.wait_for_start();
    }
    for id in 4..4 + CALLS_QUEUED_MAX {
        client.call(json!(id), "echo", json!({}));
    }
    client.call(json!("one too many"), "echo", json!({}));
    let refused = client.next();
    assert_eq!((&refused["id"], &refused["error"]["code"]), (&json!("one too many"), &json!(INTERNAL_ERROR)));

    for id in 0..4 {
        client.cancel(json!(id));
    }
    for _ in 0..CALLS_QUEUED_MAX {
        assert!(client.next().get("result").is_some());
    }
}

#[test]
fn calls_sent_before_the_end_of_the_input_are_answered_before_serve_returns() {
    let mut client = Client::legacy();
    for id in 0..100 {
        client.call(json!(id), "echo", json!({"id": id}));
    }
    client.close().unwrap();
    let mut ids: Vec<u64> = client.lines.iter().map(|it| it["id"].as_u64().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..100).collect::<Vec<_>>());
}

#[test]
fn a_tool_that_fails_or_panics_costs_only_its_own_call() {
    let mut client = Client::legacy();
    client.call(json!(1), "refuse", json!({}));
    let expected = json!({
        "content": [{"type": "text", "text": "`x` is 1; send 2"}],
        "isError": true,
        "_meta": {ERROR_KEY: {"code": "bad_argument", "argument": "x"}},
    });
    assert_eq!(client.next()["result"], expected);
    // More often than there are threads.
    for id in 0..8 {
        client.call(json!(id), "panic", json!({}));
        let answer = client.next();
        assert_eq!(answer["error"]["code"], INTERNAL_ERROR);
        assert_eq!(answer["error"]["message"], "tool `panic` panicked: on purpose");
    }
    client.call(json!(9), "echo", json!({}));
    assert_eq!(client.next()["id"], 9);
}

#[test]
fn a_client_that_is_gone_cancels_its_calls_and_ends_serve_with_an_error() {
    let (server, started) = test_server();
    let (server_input, mut input) = io::pipe().unwrap();
    let (output, server_output) = io::pipe().unwrap();
    let (end_sender, ended) = bounded(1);
    let _serving = threads::spawn("test-serve", move || {
        let end = serve(Arc::new(server), BufReader::new(server_input), server_output);
        end_sender.send(end).unwrap();
    });
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": modern(json!({"name": "wait"}))});
    writeln!(input, "{call}").unwrap();
    started.recv_timeout(DEADLINE).unwrap();

    drop(output);
    writeln!(input, "{{").unwrap();
    let end = ended.recv_timeout(DEADLINE).unwrap();
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}
