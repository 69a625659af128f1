//! `mcpgate call`: JSON and nothing else in a pipe, a bar on a terminal, and a call that is taken back when somebody does not want to wait.

use std::{fs, path::Path};

use serde_json::Value;

use crate::{
    process::Process,
    support::{Ended, Folder, Gateway, Helper, Launch, PATIENCE, Server, holds_within, send_signal},
    terminal::{Stdout, Terminal},
};

/// One worker that takes several calls at a time, so that one of them can let another go on.
const ONE_WORKER: [(&str, &str); 3] = [("MIN_WORKERS", "1"), ("MAX_WORKERS", "1"), ("WORKER_CONCURRENCY", "8")];

/// A call through this gateway.
fn through(gateway: &Gateway, words: &[&str]) -> Launch {
    let launch = Launch::new(Server::FromSettings).set("LISTEN", &gateway.address().to_string());
    launch.arguments(&["call"]).arguments(words)
}

/// A call of a helper with these flags, without a gateway.
fn directly(flags: &[&str], words: &[&str]) -> Launch {
    let launch = Launch::new(Server::FromSettings).set("MCP_COMMAND", &Helper::with(flags).command().join(" "));
    launch.arguments(&["call", "--direct"]).arguments(words)
}

/// The one line of JSON on standard output.
#[track_caller]
fn json(stdout: &str) -> Value {
    let line = stdout.strip_suffix('\n').expect("a line");
    assert!(!line.contains(['\n', '\x1b', '\r']), "{stdout}");
    serde_json::from_str(line).expect(line)
}

#[track_caller]
fn check_clean(ended: &Ended, data: &Value) {
    assert_eq!((ended.code, ended.log.as_str()), (Some(0), ""), "{ended:?}");
    assert_eq!(json(&ended.stdout)["data"], *data, "{ended:?}");
}

#[test]
fn a_pipe_gets_json_and_nothing_else() {
    let gateway = Gateway::start(&[], Helper::new());
    check_clean(&through(&gateway, &["echo", r#"{"a":[1,2]}"#]).run(), &serde_json::json!({ "a": [1, 2] }));
    let ended = through(&gateway, &["progress", r#"{"n":3,"ms":1}"#]).run();
    assert_eq!((ended.code, ended.log.as_str()), (Some(0), ""), "{ended:?}");
    assert_eq!(json(&ended.stdout)["status"], "success");
    // Key order, big numbers and digits arrive as they were sent.
    let ended = through(&gateway, &["echo", r#"{"z":1.10,"a":123456789012345678901234567890}"#]).run();
    assert!(ended.stdout.contains(r#""data":{"z":1.10,"a":123456789012345678901234567890}"#), "{ended:?}");
    let ended = through(&gateway, &["big", r#"{"bytes":3000000}"#]).run();
    assert_eq!(json(&ended.stdout)["data"].as_str().map(str::len), Some(3_000_000));
}

#[test]
fn a_failure_is_json_and_an_exit_code() {
    let gateway = Gateway::start(&[], Helper::new());
    let ended = through(&gateway, &["ecko"]).run();
    ended.expect(1, &["error: there is no tool `ecko` (unknown_tool)", "hint: did you mean `echo`"]);
    assert_eq!(json(&ended.stdout)["error"]["code"], "unknown_tool");
    let ended = through(&gateway, &["error", r#"{"text":"no disk"}"#]).run();
    ended.expect(1, &["no disk", "(tool_error)"]);
    assert_eq!(json(&ended.stdout)["status"], "error");
    through(&gateway, &["echo"]).set("API_KEY", "wrong").run().expect(1, &["(unauthorized)"]);
    through(&gateway, &["echo", "{"]).run().expect(1, &["the arguments is not valid JSON"]);
}

#[test]
fn nobody_there_is_said_with_a_way_out() {
    let launch = Launch::new(Server::FromSettings).set("LISTEN", "127.0.0.1:1").arguments(&["call", "echo"]);
    let ended = launch.run();
    ended.expect(1, &["no gateway answers at `127.0.0.1:1`", "hint: start one with `mcpgate`"]);
    assert_eq!(ended.stdout, "");
}

#[test]
fn a_server_runs_without_a_gateway() {
    let direct = |arguments: &[&str]| Launch::new(Server::Bundled).arguments(arguments).run();
    let ended = direct(&["call", "--direct", "journeys_tool", r#"{"action":"list","limit":1}"#]);
    assert!(ended.code == Some(0) && ended.stdout.contains(r#""count":1"#), "{ended:?}");
    direct(&["call", "--direct", "journeys_tool", "{"]).expect(1, &["the arguments is not valid JSON"]);
    check_clean(&directly(&[], &["echo", r#"{"a":1}"#]).run(), &serde_json::json!({ "a": 1 }));
    let ended = directly(&[], &["ecko"]).run();
    ended.expect(1, &["there is no tool `ecko` (unknown_tool)"]);
    directly(&["--exit-at-start", "3"], &["echo"]).run().expect(1, &["exited with code 3"]);
}

#[test]
fn a_terminal_shows_how_far_it_is_and_nothing_of_it_stays() {
    let gateway = Gateway::start(&ONE_WORKER, Helper::new());
    let words = ["stream", r#"{"n":4,"gate":"each","value":"Loading "}"#];
    let terminal = Terminal::run(through(&gateway, &words), (24, 80), Stdout::Pipe);
    terminal.wait_until("a clock", |screen| screen.contains(" s"));
    gateway.call("open", r#"{"n":1}"#).expect_status(200);
    terminal.wait_for("[=====>              ]  25 %  Loading ");
    gateway.call("open", r#"{"n":2}"#).expect_status(200);
    terminal.wait_for("[===============>    ]  75 %  Loading ");
    assert_eq!(terminal.lines().len(), 1, "{}", terminal.text());
    gateway.call("open", r#"{"n":2}"#).expect_status(200);
    let (status, stdout, terminal) = terminal.end();
    assert!(status.success(), "{}", terminal.text());
    assert_eq!(json(&stdout)["status"], "success");
    terminal.wait_until("a clean screen", |screen| screen.trim().is_empty());
}

#[test]
fn a_long_message_keeps_to_its_line_in_a_small_window() {
    let gateway = Gateway::start(&ONE_WORKER, Helper::new());
    let words = ["stream", r#"{"n":2,"gate":"each","bytes":500,"value":"\u001b[2JLoading "}"#];
    let terminal = Terminal::run(through(&gateway, &words), (12, 40), Stdout::Terminal);
    gateway.wait_for_a_call_at_work();
    gateway.call("open", r#"{"n":1}"#).expect_status(200);
    terminal.wait_for(" 50 %");
    assert_eq!(terminal.lines().len(), 1, "{}", terminal.text());
    assert!(!terminal.everything().contains("\x1b[2J"), "a server must not steer the terminal");
    gateway.call("open", r#"{"n":2}"#).expect_status(200);
    let (status, _, terminal) = terminal.end();
    assert!(status.success());
    terminal.wait_for(r#"{"status":"success""#);
    assert!(!terminal.text().contains('%'), "{}", terminal.text());
}

#[test]
fn ctrl_c_takes_the_call_back() {
    let gateway = Gateway::start(&ONE_WORKER, Helper::new());
    let terminal = Terminal::run(through(&gateway, &["delay", r#"{"ms":600000}"#]), (24, 80), Stdout::Pipe);
    gateway.wait_for_a_call_at_work();
    terminal.wait_until("a clock", |screen| screen.contains(" s"));
    terminal.press("\x03");
    let (status, stdout, terminal) = terminal.end();
    assert_eq!((status.code(), stdout.as_str()), (Some(130), ""), "{}", terminal.text());
    gateway.wait_until("a cancellation at the server", || gateway.counts()["cancels"] == 1);
    terminal.wait_until("no bar", |screen| !screen.contains(" s "));
}

#[test]
fn ctrl_c_takes_the_call_back_of_a_server_that_runs_for_it() {
    let folder = Folder::new();
    let diary = folder.path().join("diary");
    let launch = directly(&["--diary", diary.to_str().unwrap()], &["delay", r#"{"ms":600000}"#]);
    let terminal = Terminal::run(launch, (24, 80), Stdout::Pipe);
    terminal.wait_until("a clock", |screen| screen.contains(" s"));
    assert!(holds_within(PATIENCE, || fs::read_to_string(&diary).is_ok_and(|it| it.contains("tools/list"))));
    terminal.press("\x03");
    let (status, _, terminal) = terminal.end();
    assert_eq!(status.code(), Some(130), "{}", terminal.text());
    check_gone(&diary);
}

/// The processes that wrote into the diary have ended.
#[track_caller]
fn check_gone(diary: &Path) {
    let written = fs::read_to_string(diary).unwrap();
    let pids = written.lines().filter_map(|line| line.split_ascii_whitespace().next()?.parse().ok());
    assert!(pids.into_iter().all(|pid| Process::read(pid).is_none()), "{written}");
}

#[test]
fn a_gateway_that_goes_away_is_said_so() {
    let mut gateway = Gateway::start(&[("DRAIN_TIMEOUT", "0.1")], Helper::new());
    let terminal = Terminal::run(through(&gateway, &["delay", r#"{"ms":600000}"#]), (24, 100), Stdout::Pipe);
    gateway.wait_for_a_call_at_work();
    gateway.signal(rustix::process::Signal::KILL);
    gateway.wait_for_exit();
    let (status, stdout, terminal) = terminal.end();
    assert_eq!((status.code(), stdout.as_str()), (Some(1), ""));
    terminal.wait_for("ended the connection before the answer was whole");

    let mut gateway = Gateway::start(&[("DRAIN_TIMEOUT", "0.1")], Helper::new());
    let terminal = Terminal::run(through(&gateway, &["delay", r#"{"ms":600000}"#]), (24, 100), Stdout::Pipe);
    gateway.wait_for_a_call_at_work();
    gateway.stop();
    let (status, _, terminal) = terminal.end();
    assert_eq!(status.code(), Some(1));
    terminal.wait_for("the gateway stopped before the call had ended");
}

#[test]
fn a_dumb_terminal_gets_no_bar() {
    let gateway = Gateway::start(&[], Helper::new());
    let launch = through(&gateway, &["delay", r#"{"ms":600}"#]).set("TERM", "dumb");
    let (status, _, terminal) = Terminal::run(launch, (24, 80), Stdout::Pipe).end();
    assert!(status.success());
    assert_eq!(terminal.everything(), "");
}

#[test]
fn a_termination_is_an_interrupt_too() {
    let gateway = Gateway::start(&[], Helper::new());
    let terminal = Terminal::run(through(&gateway, &["delay", r#"{"ms":600000}"#]), (24, 80), Stdout::Pipe);
    gateway.wait_for_a_call_at_work();
    send_signal(terminal.pid(), rustix::process::Signal::TERM);
    assert_eq!(terminal.end().0.code(), Some(130));
}
