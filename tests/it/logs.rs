//! What is written about the gateway and its requests: the log as text, coloured and as JSON, the access log, and files that are
//! moved away.

use std::{fs, io::Write as _, path::Path, process::Stdio};

use serde_json::{Value, json};

use crate::{
    clients::program,
    sse::client::EventStream,
    support::{Folder, Gateway, Helper, KEY, Launch, Log, PATIENCE, Server, command, holds_within},
    ws::client::Socket,
};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// The lines of a text, each of which is a JSON object.
#[track_caller]
fn objects(text: &str) -> Vec<Value> {
    let object = |line: &str| -> Value {
        serde_json::from_str(line).unwrap_or_else(|cause| panic!("not JSON ({cause}): {line}\nin\n{text}"))
    };
    text.lines().map(object).collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Waits until a file has so many lines.
#[track_caller]
fn wait_for_lines(gateway: &Gateway, path: &Path, count: usize) -> Vec<String> {
    gateway.wait_until(&format!("{count} lines in {}", path.display()), || read(path).lines().count() == count);
    read(path).lines().map(str::to_owned).collect()
}

#[test]
fn as_json_every_line_is_an_object_and_a_call_has_its_fields() {
    let settings = [("LOG_FORMAT", "json"), ("LOG_LEVEL", "DEBUG"), ("MIN_WORKERS", "1"), ("MAX_WORKERS", "1")];
    let gateway = Gateway::start(&settings, Helper::new());
    let headers = [("X-API-Key", KEY), ("X-Request-Id", "req-1"), ("traceparent", PARENT)];
    gateway
        .request("POST", "/tools/stderr", &headers, br#"{"arguments":{"text":"a \"quoted\" word"}}"#)
        .expect_status(200);
    gateway
        .request("POST", "/tools/no_such_tool", &[("X-API-Key", KEY), ("X-Request-Id", "req-2")], b"{}")
        .expect_status(404);
    EventStream::open(&gateway, "error", "{}").rest();
    gateway.wait_until("four lines of requests", || gateway.log().matches("\"method\":\"POST\"").count() == 3);

    let lines = objects(&gateway.log());
    for line in &lines {
        let time = line["time"].as_str().unwrap();
        assert!(time.len() == 24 && time.ends_with('Z') && line["message"].is_string(), "{line}");
        assert!(["info", "debug", "warn"].contains(&line["level"].as_str().unwrap()), "{line}");
    }
    let calls: Vec<_> = lines.iter().filter(|line| line["outcome"].is_string()).collect();
    let (first, second, third) = (calls[0], calls[1], calls[2]);
    let expected = json!({
        "time": first["time"], "level": "debug", "message": first["message"], "request_id": "req-1", "key": "api_key",
        "tool": "stderr", "way": "http", "worker": "helper-1", "outcome": "ok", "duration_ms": first["duration_ms"],
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    });
    assert_eq!(*first, expected);
    assert!(first["duration_ms"].is_f64(), "{first}");
    assert_eq!((&second["outcome"], &second["tool"]), (&json!("unknown_tool"), &json!("no_such_tool")));
    assert!(second.get("worker").is_none() && second.get("trace_id").is_none(), "{second}");
    assert_eq!((&third["outcome"], &third["way"]), (&json!("tool_error"), &json!("sse")));
    let request = lines.iter().find(|line| line["request_id"] == "req-2" && line["status"].is_number()).unwrap();
    assert_eq!((&request["status"], &request["path"]), (&json!(404), &json!("/tools/no_such_tool")));
    let said = lines.iter().find(|line| line["message"].as_str().unwrap().contains("quoted")).unwrap();
    assert_eq!((&said["worker"], &said["level"]), (&json!("helper-1"), &json!("info")));
}

#[test]
fn as_text_a_call_has_a_line_at_debug_and_none_at_info() {
    for (level, count) in [("DEBUG", 1), ("INFO", 0)] {
        let gateway = Gateway::start(&[("LOG_LEVEL", level)], Helper::new());
        gateway.call("echo", "{}").expect_status(200);
        gateway.get("/stats").expect_status(200);
        let is_written = || level == "INFO" || gateway.log().contains("GET /stats 200");
        gateway.wait_until("the line behind it", is_written);
        let log = gateway.log();
        let calls: Vec<_> =
            log.lines().filter(|line| line.contains("call of echo by key api_key: ok at helper-")).collect();
        assert_eq!(calls.len(), count, "{log}");
        assert!(!log.contains('\u{1b}'), "a pipe gets no colours: {log}");
        // Either of its two may be the first.
        let is_ready = |number| log.contains(&format!("[INFO] worker helper-{number} is ready after"));
        assert!(is_ready(1) || is_ready(2), "{log}");
    }
}

/// What a gateway writes on a terminal, until it is interrupted there.
fn on_a_terminal(no_color: Option<&str>) -> Option<String> {
    program("script")?;
    let folder = Folder::new();
    let mut terminal = command("script");
    terminal.args(["-qefc", &format!("'{}' serve", env!("CARGO_BIN_EXE_mcpgate")), "/dev/null"]);
    terminal.env("LISTEN", "127.0.0.1:0").env("TERM", "xterm").env_remove("NO_COLOR").current_dir(folder.path());
    terminal.envs(no_color.map(|value| ("NO_COLOR", value)));
    let mut terminal = terminal.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let shown = Log::of(terminal.stdout.take().unwrap());
    let mut keys = terminal.stdin.take().unwrap();
    let is_up = holds_within(PATIENCE, || shown.text().contains("listening on"));
    // Ctrl-C.
    keys.write_all(b"\x03").unwrap();
    let has_ended = holds_within(PATIENCE, || terminal.try_wait().unwrap().is_some());
    assert!(is_up && has_ended, "{}", shown.framed());
    shown.wait_for_end();
    Some(shown.text())
}

#[test]
fn a_terminal_gets_colours_unless_they_are_unwanted() {
    let Some(coloured) = on_a_terminal(None) else { return };
    assert!(coloured.contains("\u{1b}[") && coloured.contains("INFO"), "{coloured:?}");
    let plain = on_a_terminal(Some("1")).unwrap();
    assert!(!plain.contains('\u{1b}') && plain.contains("[INFO] listening on"), "{plain:?}");
}

#[test]
fn the_access_log_has_a_line_for_each_request_that_ended() {
    let folder = Folder::new();
    let path = folder.path().join("access.log");
    let settings = [("ACCESS_LOG", path.to_str().unwrap()), ("API_KEY", "s3cret")];
    let gateway = Launch::new(Helper::new()).set_all(&settings).start_without_waiting();
    let key =
        [("X-API-Key", "s3cret"), ("X-Request-Id", "req-1"), ("User-Agent", "a \"test\""), ("traceparent", PARENT)];
    let echoed = gateway.request("POST", "/tools/echo", &key, br#"{"arguments":{"a":1}}"#);
    echoed.expect_status(200);
    // A line follows its answer; of two connections either may be first.
    wait_for_lines(&gateway, &path, 1);
    gateway.request("GET", "/tools?api_key=s3cret&x=1", &[], b"").expect_status(200);
    wait_for_lines(&gateway, &path, 2);
    gateway.request("GET", "/tools?api%5Fkey=wr0ng", &[("X-Request-Id", "req-3")], b"").expect_status(401);
    wait_for_lines(&gateway, &path, 3);
    let mut malformed = gateway.connect();
    malformed.send_raw("nonsense\r\n\r\n").unwrap();
    malformed.receive(false).unwrap();
    let lines = wait_for_lines(&gateway, &path, 4);

    assert!(lines[0].starts_with("127.0.0.1 - api_key ["), "{}", lines[0]);
    let rest = r#"+0000] "POST /tools/echo HTTP/1.1" 200 "#;
    assert!(lines[0].contains(rest), "{}", lines[0]);
    assert!(lines[0].contains(r#" "-" "a \"test\"" 0."#), "{}", lines[0]);
    assert!(lines[0].ends_with(" req-1 4bf92f3577b34da6a3ce929d0e0e4736"), "{}", lines[0]);
    let bytes: usize = lines[0].split_once(rest).unwrap().1.split(' ').next().unwrap().parse().unwrap();
    let body = echoed.text().len();
    assert!(body < bytes && bytes < body + 1000, "{body} and a head: {bytes}");
    assert!(lines[1].contains(r#""GET /tools?api_key=***&x=1 HTTP/1.1" 200 "#), "{}", lines[1]);
    assert!(lines[2].starts_with("127.0.0.1 - - [") && lines[2].contains(r#""GET /tools?api_key=*** HTTP/1.1" 401 "#));
    assert!(lines[3].starts_with("127.0.0.1 - - [") && lines[3].contains(r#"] "-" 400 "#), "{}", lines[3]);
    let all = lines.join("\n");
    assert!(!all.contains("s3cret") && !all.contains("wr0ng"), "{all}");

    // A stream and a WebSocket are written when they have ended, and what nobody waited for as well.
    let stream = gateway.request("POST", "/tools/echo/stream", &key, b"{}");
    stream.expect_status(200);
    wait_for_lines(&gateway, &path, 5);
    let head = format!("{}X-API-Key: s3cret\r\n\r\n", crate::ws::client::handshake("/ws/tools/echo"));
    let mut connection = gateway.connect();
    connection.send_raw(&head).unwrap();
    let mut socket = Socket::answering(connection, &gateway, &head);
    socket.call("1", "{}");
    socket.expect_complete("1", &json!({}));
    let before = wait_for_lines(&gateway, &path, 5);
    assert!(before[4].contains(r#""POST /tools/echo/stream HTTP/1.1" 200 "#), "{}", before[4]);
    drop(socket);
    let after = wait_for_lines(&gateway, &path, 6);
    assert!(
        after[5].contains(r#"- api_key ["#) && after[5].contains(r#""GET /ws/tools/echo HTTP/1.1" 101 "#),
        "{}",
        after[5]
    );
    let mut gone = gateway.connect();
    gone.send("POST", "/tools/silent", &key, b"{}").unwrap();
    gateway.wait_until("the call", || gateway.request("GET", "/stats", &key, b"").text().contains(r#""in_flight":1"#));
    drop(gone);
    gateway.wait_until("its end", || read(&path).contains(r#""POST /tools/silent HTTP/1.1" 499 "#));
}

#[test]
fn the_access_log_can_be_json_and_go_to_stderr() {
    let gateway = Gateway::start(&[("ACCESS_LOG", "stderr"), ("LOG_FORMAT", "json")], Helper::new());
    gateway.request("POST", "/tools/echo", &[("X-API-Key", KEY), ("X-Request-Id", "req-1")], b"{}").expect_status(200);
    gateway.wait_until("its line", || gateway.log().contains("req-1"));
    let lines = objects(&gateway.log());
    let line = lines.iter().find(|line| line["request_id"] == "req-1").unwrap();
    let expected = json!({
        "time": line["time"], "client": "127.0.0.1", "key": "api_key", "method": "POST", "path": "/tools/echo", "status": 200,
        "bytes": line["bytes"], "duration_ms": line["duration_ms"], "request_id": "req-1",
    });
    assert_eq!(*line, expected);
    assert!(lines.iter().any(|line| line["path"] == "/health"), "requests without a key are there too");
}

#[test]
fn files_may_be_moved_away() {
    let folder = Folder::new();
    let (log, access) = (folder.path().join("gateway.log"), folder.path().join("access.log"));
    let moved = |path: &Path| path.with_extension("log.1");
    let settings = [
        ("LOG_FILE", log.to_str().unwrap()),
        ("ACCESS_LOG", access.to_str().unwrap()),
        ("LOG_LEVEL", "DEBUG"),
        // The address is in the file.
        ("LISTEN", "127.0.0.1:0"),
    ];
    let mut gateway = command(env!("CARGO_BIN_EXE_mcpgate"));
    gateway.envs(settings).current_dir(folder.path()).stdin(Stdio::null()).stderr(Stdio::null());
    let mut gateway = gateway.arg("--").args(Helper::new().command()).spawn().unwrap();
    let address = || {
        let text = read(&log);
        text.split_once("listening on http://").and_then(|(_, rest)| rest.lines().next()?.parse().ok())
    };
    assert!(holds_within(PATIENCE, || address().is_some()), "{}", read(&log));
    let address = address().unwrap();
    let mut n_requests = 0;
    let mut ask = || {
        let mut connection = crate::support::Connection::open(address);
        connection.send("GET", "/health/live", &[], b"").unwrap();
        assert_eq!(connection.receive(false).unwrap().status, 200);
        n_requests += 1;
    };
    ask();
    assert!(holds_within(PATIENCE, || read(&access).lines().count() == 1));
    let first = read(&access);
    for path in [&log, &access] {
        fs::rename(path, moved(path)).unwrap();
    }
    let has_both = || {
        ask();
        log.exists() && access.exists()
    };
    assert!(holds_within(PATIENCE, has_both), "new files");
    let all = || read(&moved(&access)) + &read(&access);
    assert!(holds_within(PATIENCE, || all().lines().count() == n_requests), "no line is lost:\n{}", all());
    assert!(read(&moved(&access)).starts_with(&first) && all().lines().all(|line| line.contains("GET /health/live")));
    assert!(read(&moved(&log)).contains("listening on") && read(&log).contains("GET /health/live 200"));
    crate::support::send_signal(gateway.id(), rustix::process::Signal::TERM);
    assert!(gateway.wait().unwrap().success());
}

#[test]
fn an_access_log_that_cannot_be_written_is_said_at_the_start() {
    let launch = Launch::new(Server::Bundled).set("ACCESS_LOG", "/nowhere/access.log");
    launch.run().expect(2, &["`ACCESS_LOG`: cannot write `/nowhere/access.log`", "hint: name a file"]);
}
