//! `mcpgate check`: what is wrong is found and said with a way out, each server is really tried, and nothing stays behind.

use std::{fs, net::TcpListener, path::Path};

use serde_json::Value;

use crate::{
    process::Process,
    support::{Ended, Folder, Gateway, Helper, Launch, PATIENCE, Server, holds_within},
    terminal::{Stdout, Terminal},
};

/// A key that nobody guesses.
const GOOD_KEY: (&str, &str) = ("API_KEY", "6d6370675f8d1f2e77c0ffee12345678");

fn checking(server: impl Into<Server>, settings: &[(&str, &str)]) -> Launch {
    Launch::new(server).set_all(settings).arguments(&["check"])
}

/// What the check of a server in front of these settings says. It ends with `code`, and says each of `texts`.
#[track_caller]
fn check(server: impl Into<Server>, settings: &[(&str, &str)], code: i32, texts: &[&str]) -> String {
    says(checking(server, settings).run(), code, texts)
}

#[track_caller]
fn says(ended: Ended, code: i32, texts: &[&str]) -> String {
    let says_all = texts.iter().all(|text| ended.stdout.contains(text));
    assert!(
        says_all && ended.code == Some(code),
        "expected {code} and {texts:#?}\n{:?}\n{}{}",
        ended.code,
        ended.stdout,
        ended.log
    );
    ended.stdout
}

/// A helper that a shell starts after this line.
fn behind_shell(line: &str, flags: &[&str]) -> Server {
    let words = [
        &["sh".to_owned(), "-c".to_owned(), format!("{line}; exec \"$0\" \"$@\"")],
        &Helper::with(flags).command()[..],
    ];
    Server::Program(words.concat())
}

#[test]
fn a_gateway_that_is_well_is_said_to_be() {
    let said = check(
        Helper::new(),
        &[GOOD_KEY],
        0,
        &[
            "Settings\n  ok ",
            "Listening\n  ok ",
            "Keys\n  ok ",
            "TLS\n  ok ",
            "Servers\n  ok ",
            "no errors, no warnings\n",
        ],
    );
    let server = said.lines().find(|line| line.contains("`helper`: ready after ")).expect("a line for the server");
    assert!(
        server.contains(" ms: helper ") && server.contains(", MCP 2025-11-25, ") && server.contains(" tools, "),
        "{server}"
    );
    assert!(!said.contains('\x1b'), "{said}");
}

#[test]
fn programs_read_one_object() {
    let ended = checking(Helper::new(), &[("API_KEY", "short")]).arguments(&["--json"]).run();
    assert_eq!((ended.code, ended.log.as_str()), (Some(0), ""));
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((&report["errors"], &report["warnings"]), (&0.into(), &1.into()), "{report:#}");
    let findings = report["findings"].as_array().unwrap();
    let of = |section: &str| findings.iter().find(|it| it["section"] == section).unwrap();
    assert_eq!(of("keys")["verdict"], "warning");
    assert!(of("keys")["hint"].as_str().unwrap().contains("openssl rand"), "{report:#}");
    let server = of("servers");
    assert_eq!((&server["server"], &server["figures"]["revision"]), (&"helper".into(), &"2025-11-25".into()));
    assert!(0 < server["figures"]["tools"].as_u64().unwrap() && 0.0 < server["figures"]["ready_ms"].as_f64().unwrap());

    let ended = Launch::new(Helper::new()).set("MIN_WORKERS", "x").arguments(&["check", "--json"]).run();
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((ended.code, &report["findings"][0]["verdict"]), (Some(2), &"error".into()), "{report:#}");
    assert!(report["findings"][0]["what"].as_str().unwrap().contains("`MIN_WORKERS`"), "{report:#}");
}

#[test]
fn wrong_settings_end_it_with_2() {
    Launch::new(Helper::new())
        .set("MIN_WORKERS", "x")
        .arguments(&["check"])
        .run()
        .expect(2, &["`MIN_WORKERS`", "hint: "]);
    let missing: &[&str] = &["/nowhere/serch"];
    check(missing, &[], 2, &["  error    `serch`: cannot start worker `/nowhere/serch`", "hint: give its full path"]);
    check(
        Helper::new(),
        &[("LOG_FILE", "/nowhere/gateway.log")],
        2,
        &["Files\n  error    `LOG_FILE`: cannot write `/nowhere/gateway.log`"],
    );
    check(
        Helper::new(),
        &[("ACCESS_LOG", "/nowhere/access.log")],
        2,
        &["`ACCESS_LOG`: cannot write `/nowhere/access.log`"],
    );
}

#[test]
fn where_it_writes_is_tried_and_left_as_it_was() {
    let folder = Folder::new();
    let (log, data) = (folder.path().join("gateway.log"), folder.path().join("data"));
    let [log_text, data_text] = [&log, &data].map(|path| path.display().to_string());
    let settings = [("LOG_FILE", &*log_text), ("DATA_DIR", &*data_text)];
    let said = check(Helper::new(), &settings, 0, &[&format!("`LOG_FILE`: `{log_text}` can be written")]);
    assert!(!log.exists() && !said.contains("`DATA_DIR`"), "nothing but the bundled server has data\n{said}");
    folder.file("data", "not a folder");
    check(Server::Bundled, &settings, 1, &["`DATA_DIR`: cannot write to", "hint: name a folder"]);
}

#[test]
fn who_has_the_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let own = format!("process {} (", std::process::id());
    check(
        Helper::new(),
        &[("LISTEN", &address)],
        1,
        &["Listening\n  error    cannot listen on", &address, &own, "hint: choose another port"],
    );
}

#[test]
fn a_gateway_that_runs_there_is_no_error() {
    let gateway = Gateway::start(&[], Helper::new());
    let address = gateway.address().to_string();
    let texts = [
        "  warning  `127.0.0.1:",
        "` is in use by a gateway that is running (mcpgate ",
        &format!("process {}", gateway.pid()),
    ];
    check(Helper::new(), &[("LISTEN", &address)], 0, &texts);
}

#[test]
fn keys_that_are_known_short_or_expired_are_pointed_out() {
    check(Helper::new(), &[], 0, &["Keys\n  warning  the key `super-secret` is known to the world"]);
    check(Helper::new(), &[("API_KEY", "")], 0, &["Keys\n  warning  keys are off because `API_KEY` is empty"]);
    check(
        Helper::new(),
        &[("API_KEY", "hunter2")],
        0,
        &["Keys\n  warning  `API_KEY` has 7 letters", "hint: take the output of"],
    );

    let launch = checking(Helper::new(), &[("API_KEY", ""), ("API_KEYS_FILE", "keys.json")]);
    let keys = r#"{"keys":[{"name":"old","sha256":"HASH","expires":"2020-01-01T00:00:00Z"}]}"#
        .replace("HASH", &"a".repeat(64));
    let said =
        says(launch.file("keys.json", &keys).run(), 0, &["nobody can call", "the key `old` has expired at 2020-01-01"]);
    assert!(said.contains("hint: `mcpgate key revoke old --file keys.json`"), "{said}");
    let launch = checking(Helper::new(), &[("API_KEY", ""), ("API_KEYS_FILE", "keys.json")]);
    says(launch.file("keys.json", "{").run(), 2, &["Keys\n  error    keys.json: "]);
}

#[test]
fn a_gateway_for_other_machines_without_tls_is_pointed_out() {
    let settings = [("LISTEN", "0.0.0.0:0"), GOOD_KEY];
    check(Helper::new(), &settings, 0, &["TLS\n  warning  off, and other machines can reach", "hint: set `TLS_CERT`"]);
}

#[test]
fn a_server_that_does_not_start_is_told_with_what_it_said() {
    let texts =
        ["  error    `helper`: exited with code 4", "stderr: ", "hint: its last lines on standard error say why"];
    check(Helper::with(&["--exit-at-start", "4"]), &[], 1, &texts);
}

#[test]
fn one_server_of_several_may_be_missing() {
    let servers = format!(
        r#"{{"mcpServers":{{"good":{{"command":{:?}}},"bad":{{"command":"/nowhere/serch"}}}}}}"#,
        Helper::program()
    );
    let launch = checking(Server::FromSettings, &[("MCP_SERVERS", "mcp.json")]).file("mcp.json", &servers);
    says(
        launch.run(),
        1,
        &["  ok       `good`: ready after", "  error    `bad`: cannot start worker `/nowhere/serch`"],
    );
}

#[test]
fn a_silent_server_has_its_time_and_is_gone_afterwards() {
    let folder = Folder::new();
    let diary = folder.path().join("diary");
    let flags = ["--never-initialize", "--ignore-eof", "--ignore-term", "--diary", diary.to_str().unwrap()];
    let settings = [("MCP_REQUEST_TIMEOUT", "0.3"), ("STOP_GRACE", "0.1")];
    let texts =
        ["  error    `helper`: did not answer `initialize` within 300 ms", "hint: is it an MCP server that speaks"];
    check(Helper::with(&flags), &settings, 1, &texts);
    check_gone(&diary);
}

/// Every process that wrote into the diary has ended.
#[track_caller]
fn check_gone(diary: &Path) {
    let written = fs::read_to_string(diary).unwrap();
    let pids: Vec<u32> =
        written.lines().filter_map(|line| line.split_ascii_whitespace().next()?.parse().ok()).collect();
    assert!(!pids.is_empty(), "{written}");
    assert!(pids.iter().all(|pid| Process::read(*pid).is_none()), "{written}");
}

#[test]
fn noise_on_standard_output_is_pointed_out() {
    let said = check(
        behind_shell("echo Loading; echo more", &[]),
        &[],
        0,
        &["`sh`: ready after", "not JSON-RPC on its standard output, as `Loading`"],
    );
    assert!(said.contains("wrote 2 lines") && said.contains("hint: standard output is for messages alone"), "{said}");
}

#[test]
fn a_slow_start_is_pointed_out() {
    check(
        Helper::with(&["--start-delay-ms", "2050"]),
        &[],
        0,
        &["takes 2.", " s to get ready, more than 2 s", "`MIN_WORKERS`"],
    );
}

#[test]
fn tools_with_a_wrong_schema_are_pointed_out() {
    let texts =
        ["  warning  `helper`: the `inputSchema` of its tool `echo` is wrong: ", "hint: its arguments are not checked"];
    check(Helper::with(&["--schema", r#"{"type":"objekt"}"#]), &[], 0, &texts);
}

#[test]
fn a_server_that_needs_a_signal_to_end_is_pointed_out() {
    let folder = Folder::new();
    let diary = folder.path().join("diary");
    let flags = ["--ignore-eof", "--ignore-term", "--diary", diary.to_str().unwrap()];
    let texts = ["did not end when its standard input was closed", "`STOP_GRACE`"];
    check(Helper::with(&flags), &[("STOP_GRACE", "0.1")], 0, &texts);
    check_gone(&diary);
}

#[test]
fn a_server_that_ends_when_it_is_ready_is_an_error() {
    let answers = r#"read -r line; echo '{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"n","version":"1"}}}'; read -r line; echo gone >&2; exit 3"#;
    let server: &[&str] = &["sh", "-c", answers];
    check(server, &[], 1, &["was ready after", "and then ended: exited with code 3", "stderr: gone"]);
}

#[test]
fn both_eras_are_found_out() {
    check(Helper::with(&["--era", "modern"]), &[], 0, &[", MCP 2026-07-28, "]);
    check(Helper::with(&["--era", "both"]), &[], 0, &[", MCP 2025-11-25 and 2026-07-28, "]);
}

#[test]
fn an_interrupt_ends_the_check_and_its_server() {
    let folder = Folder::new();
    let diary = folder.path().join("diary");
    let flags = ["--never-initialize", "--diary", diary.to_str().unwrap()];
    let terminal = Terminal::run(checking(Helper::with(&flags), &[]), (24, 80), Stdout::Terminal);
    assert!(
        holds_within(PATIENCE, || fs::read_to_string(&diary).is_ok_and(|it| it.contains("initialize"))),
        "it is asked"
    );
    assert!(!terminal.processes().is_empty());
    terminal.press("\x03");
    let (status, _, terminal) = terminal.end();
    assert_eq!(status.code(), Some(130), "{}", terminal.text());
    check_gone(&diary);
}

#[test]
fn a_terminal_shows_colours_unless_they_are_not_wanted() {
    let run = |settings: &[(&str, &str)]| {
        let (status, _, terminal) = Terminal::run(checking(Helper::new(), settings), (40, 120), Stdout::Terminal).end();
        assert!(status.success(), "{}", terminal.text());
        terminal.wait_for("no errors, 1 warning");
        terminal.everything()
    };
    assert!(run(&[]).contains("\x1b[32mok"), "green");
    assert!(!run(&[("NO_COLOR", "1")]).contains('\x1b'));
}
