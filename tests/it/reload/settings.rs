//! `gateway.conf` that changes.

use std::{fs, os::unix::fs::symlink};

use mcpgate::config::settings::SETTINGS;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{apply, change, check_complaint, launch, reload, servers, wait_for_reload, with_settings};
use crate::support::{Gateway, Helper, KEY, Launch};

const ONE: &str = "MIN_WORKERS=1\nMAX_WORKERS=1\n";

#[track_caller]
fn wait_for_workers(gateway: &Gateway, n_workers: u64) {
    gateway.wait_until(&format!("{n_workers} usable workers"), || gateway.usable_workers() == n_workers);
}

/// Another value than the default for every setting, apart from those that say which server runs.
const OTHERS: &[(&str, &str)] = &[
    ("LISTEN", "127.0.0.1:1"),
    ("API_KEY", "another"),
    ("API_KEYS_FILE", "keys.json"),
    ("RATE_LIMIT", "1000"),
    ("RATE_BURST", "2000"),
    ("RATE_LIMIT_ADDRESS", "1000"),
    ("CONNECTIONS_PER_ADDRESS_MAX", "1000"),
    ("CORS_ORIGINS", "https://app.example"),
    ("ALLOWED_HOSTS", "box.example"),
    ("TLS_CERT", "cert.pem"),
    ("TLS_KEY", "key.pem"),
    ("TLS_CLIENT_CA", "authorities.pem"),
    ("MCP_REQUEST_TIMEOUT", "61"),
    ("MCP_CALL_TIME_MAX", "3601"),
    ("MIN_WORKERS", "1"),
    ("MAX_WORKERS", "9"),
    ("SCALE_UP_AFTER", "0.1"),
    ("SCALE_DOWN_AFTER", "61"),
    ("WORKER_CONCURRENCY", "2"),
    ("QUEUE_MAX", "1025"),
    ("RETRY_READ_ONLY", "false"),
    ("VALIDATE_INPUT", "false"),
    ("WORKER_LINE_MAX", "17M"),
    ("HEALTH_INTERVAL", "11"),
    ("HEALTH_TIMEOUT", "6"),
    ("WORKER_CALLS_MAX", "1000"),
    ("WORKER_AGE_MAX", "1000"),
    ("WORKER_MEMORY_MAX", "1000M"),
    ("BREAKER_FAILURES", "6"),
    ("BREAKER_COOLDOWN", "11"),
    ("SESSIONS_MAX", "1025"),
    ("SESSION_WORKERS_MAX", "33"),
    ("SESSION_IDLE_TIMEOUT", "1801"),
    ("STOP_GRACE", "6"),
    ("DRAIN_TIMEOUT", "11"),
    ("CONNECTIONS_MAX", "1023"),
    ("HEAD_TIMEOUT", "11"),
    ("BODY_TIMEOUT", "31"),
    ("WRITE_TIMEOUT", "31"),
    ("KEEP_ALIVE_TIMEOUT", "76"),
    ("SSE_KEEP_ALIVE", "16"),
    ("STREAM_QUEUE_BYTES", "9M"),
    ("HEAD_BYTES_MAX", "17k"),
    ("BODY_BYTES_MAX", "5M"),
    ("LOG_LEVEL", "DEBUG"),
    ("LOG_FILE", "a.log"),
    ("LOG_FORMAT", "json"),
    ("ACCESS_LOG", "stderr"),
    ("DATA_DIR", "elsewhere"),
];

#[test]
fn every_setting_is_applied_or_named() {
    let is_first = |key: &str| ["MCP_COMMAND", "MCP_SERVERS", "EXECUTION_MODE"].contains(&key);
    let known: Vec<&str> = SETTINGS.iter().map(|setting| setting.key).filter(|key| !is_first(key)).collect();
    assert_eq!(OTHERS.iter().map(|(key, _)| *key).collect::<Vec<_>>(), known, "each has another value");

    let launch = launch("", &servers(&[("helper", json!({}))])).unset("LISTEN").arguments(&["--port", "0"]);
    let gateway = launch.file("keys.json", r#"{"keys":[]}"#).start();
    let conf: String = OTHERS.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
    gateway.folder().replace("gateway.conf", &conf);
    gateway.wait_until("what waits for a restart", || gateway.log().contains("takes effect after a restart: "));
    let log = gateway.log();
    let line = |what: &str| log.lines().find_map(|line| Some(line.split_once(what)?.1)).unwrap_or_default();
    let applied: Vec<_> = line("reloaded: ").split(", ").map(|it| it.split('=').next().unwrap()).collect();
    let named: Vec<_> = line("takes effect after a restart: ").split(", ").collect();
    for setting in SETTINGS.iter().filter(|setting| !is_first(setting.key)) {
        let (is_applied, is_named) = (applied.contains(&setting.key), named.contains(&setting.key));
        assert_eq!((is_applied, is_named), (setting.live, !setting.live), "{}\n{log}", setting.key);
    }
}

#[test]
fn another_number_of_workers_counts_at_once() {
    let gateway = with_settings(ONE);
    let first = gateway.worker_pids();
    let after = apply(&gateway, "gateway.conf", "MIN_WORKERS=3\nMAX_WORKERS=4\n");
    assert_eq!((&after["total"], &after["needs_restart"]), (&json!(1), &json!([])));
    wait_for_workers(&gateway, 3);
    assert!(gateway.worker_pids().contains(&first[0]), "the first one stays");
    let pool = gateway.stats()["servers"]["helper"]["pool"].clone();
    assert_eq!((&pool["min"], &pool["max"]), (&json!(3), &json!(4)));
    assert!(gateway.log().contains("reloaded: MIN_WORKERS=3, MAX_WORKERS=4"), "{}", gateway.framed_log());
}

#[test]
fn workers_that_are_too_many_end_their_calls_first() {
    let gateway = with_settings("MIN_WORKERS=3\nMAX_WORKERS=3\n");
    wait_for_workers(&gateway, 3);
    let sent: Vec<_> = std::thread::scope(|scope| {
        let calls: Vec<_> =
            (0..3).map(|_| scope.spawn(|| gateway.call("delay", r#"{"ms":1500,"value":"done"}"#))).collect();
        gateway.wait_until("three busy workers", || gateway.get("/health").json()["workers"]["busy"] == 3);
        apply(&gateway, "gateway.conf", ONE);
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    for reply in sent {
        reply.expect_data(&json!("done"));
    }
    gateway.wait_until("one worker", || gateway.worker_pids().len() == 1);
}

/// Each on the connection that was there before.
#[test]
fn what_is_allowed_and_how_long_things_take_counts_for_the_next_request() {
    let gateway = with_settings(ONE);
    let mut connection = gateway.connect();
    let mut ask = |method: &str, path: &str, headers: &[(&str, &str)], body: &str| {
        connection.send(method, path, headers, body.as_bytes()).unwrap();
        connection.receive(false).unwrap()
    };
    let key = ("X-API-Key", KEY);
    assert_eq!(ask("POST", "/tools/echo", &[key], "{}").status, 200);

    apply(&gateway, "gateway.conf", &format!("{ONE}MCP_REQUEST_TIMEOUT=0.2\n"));
    assert_eq!(ask("POST", "/tools/silent", &[key], "{}").status, 504);

    apply(&gateway, "gateway.conf", &format!("{ONE}CORS_ORIGINS=https://app.example\nALLOWED_HOSTS=box.example\n"));
    let answer = ask("GET", "/tools", &[key, ("Origin", "https://app.example")], "");
    assert_eq!(answer.header("Access-Control-Allow-Origin"), Some("https://app.example"));

    apply(&gateway, "gateway.conf", &format!("{ONE}RATE_LIMIT=0.001\n"));
    assert_eq!(ask("POST", "/tools/echo", &[key], "{}").status, 200);
    assert_eq!(ask("POST", "/tools/echo", &[key], "{}").status, 429);

    apply(&gateway, "gateway.conf", &format!("{ONE}RATE_LIMIT_ADDRESS=1000\nVALIDATE_INPUT=false\n"));
    assert_eq!(ask("POST", "/tools/echo", &[key], "{}").status, 200, "no longer limited");

    apply(&gateway, "gateway.conf", &format!("{ONE}LOG_LEVEL=TRACE\n"));
    assert_eq!(ask("POST", "/tools/echo", &[key], r#"{"arguments":{"seen":"in the log"}}"#).status, 200);
    gateway.wait_until("messages in the log", || gateway.log().contains("in the log"));

    apply(&gateway, "gateway.conf", &format!("{ONE}BODY_BYTES_MAX=10\n"));
    assert_eq!(ask("POST", "/tools/echo", &[key], r#"{"arguments":{}}"#).status, 413);
}

#[test]
fn a_log_of_objects_takes_another_level_too() {
    let gateway = with_settings(&format!("{ONE}LOG_FORMAT=json\n"));
    let calls = || gateway.log().matches(r#""outcome":"#).count();
    gateway.call("echo", "{}").expect_status(200);
    apply(&gateway, "gateway.conf", &format!("{ONE}LOG_FORMAT=json\nLOG_LEVEL=DEBUG\n"));
    assert_eq!(calls(), 0);
    gateway.call("echo", "{}").expect_status(200);
    gateway.wait_until("a line for the call", || calls() == 1);
    apply(&gateway, "gateway.conf", &format!("{ONE}LOG_FORMAT=json\n"));
    gateway.call("echo", "{}").expect_status(200);
    apply(&gateway, "gateway.conf", &format!("{ONE}LOG_FORMAT=json\nQUEUE_MAX=7\n"));
    assert_eq!(calls(), 1);
}

#[test]
fn another_key_counts_and_the_one_before_no_more() {
    let gateway = with_settings(&format!("{ONE}API_KEY=first\n"));
    let status = |key: &str| gateway.request("GET", "/tools", &[("X-API-Key", key)], b"").status;
    assert_eq!((status("first"), status("second")), (200, 401));
    gateway.folder().replace("gateway.conf", &format!("{ONE}API_KEY=second\n"));
    // Wrong keys are counted, so it is not tried until it is right.
    gateway.wait_until("the other key", || gateway.log().contains("reloaded: API_KEY"));
    assert_eq!((status("first"), status("second")), (401, 200));
    assert!(gateway.log().contains("reloaded: API_KEY") && !gateway.log().contains("API_KEY=second"));
}

#[test]
fn what_needs_a_restart_is_named_and_the_rest_applied() {
    let gateway = with_settings(&format!("{ONE}DATA_DIR=a\n"));
    let conf = "MIN_WORKERS=2\nMAX_WORKERS=2\nDATA_DIR=b\nLOG_FILE=c.log\nACCESS_LOG=d.log\n";
    let after = apply(&gateway, "gateway.conf", conf);
    assert_eq!(after["needs_restart"], json!(["LOG_FILE", "ACCESS_LOG", "DATA_DIR"]));
    assert!(
        gateway.log().contains("takes effect after a restart: LOG_FILE, ACCESS_LOG, DATA_DIR"),
        "{}",
        gateway.framed_log()
    );
    wait_for_workers(&gateway, 2);
    assert!(!["c.log", "d.log"].iter().any(|name| gateway.folder().path().join(name).exists()));
}

#[test]
fn a_wrong_file_is_refused_whole_and_everything_goes_on() {
    let gateway = with_settings(ONE);
    let first = gateway.worker_pids();
    let wrong = [
        ("MIN_WORKERS=2\nMAX_WORKERS=x\n", &["gateway.conf line 2", "`MAX_WORKERS`", "a whole number", "`x`"][..]),
        ("MIN_WORKERS=2\nMAX_WORKER=2\n", &["gateway.conf line 2", "`MAX_WORKER`", "did you mean `MAX_WORKERS`"]),
        ("MIN_WORKERS=3\nMAX_WORKERS=2\n", &["`MIN_WORKERS`", "`MAX_WORKERS`"]),
        ("MIN_WORKERS = 2\n", &["gateway.conf line 1", "spaces around"]),
        ("API_KEYS_FILE=nowhere.json\nMIN_WORKERS=2\n", &["nowhere.json"]),
    ];
    for (conf, what) in wrong {
        check_complaint(&gateway, "gateway.conf", conf, what);
        assert_eq!(gateway.worker_pids(), first, "{conf}");
        gateway.call("echo", "{}").expect_status(200);
    }
    assert_eq!(reload(&gateway)["total"], 0);
    apply(&gateway, "gateway.conf", ONE);
    apply(&gateway, "gateway.conf", "MIN_WORKERS=2\nMAX_WORKERS=2\n");
    wait_for_workers(&gateway, 2);
}

#[test]
fn what_the_environment_and_the_command_line_say_goes_before_the_file_still() {
    let launch = launch(ONE, &servers(&[("helper", json!({}))])).set("MAX_WORKERS", "2").set("MIN_WORKERS", "2");
    let gateway = launch.arguments(&["--port", "0"]).start();
    let conf = "MIN_WORKERS=1\nMAX_WORKERS=5\nMCP_SERVERS=other.json\nQUEUE_MAX=7\n";
    apply(&gateway, "gateway.conf", conf);
    let pool = gateway.stats()["servers"]["helper"]["pool"].clone();
    assert_eq!((&pool["min"], &pool["max"]), (&json!(2), &json!(2)));
    assert!(gateway.log().contains("reloaded: QUEUE_MAX=7\n"), "{}", gateway.framed_log());
}

/// As Kubernetes mounts a ConfigMap.
#[test]
fn a_folder_that_is_swapped_under_a_link_is_seen() {
    let launch = Launch::new(Helper::new());
    let gateway = launch.arguments(&["--config", "mounted/gateway.conf"]).shell_prelude(
        "mkdir -p mounted/one mounted/two && echo MAX_WORKERS=2 > mounted/one/gateway.conf && \
         echo MAX_WORKERS=3 > mounted/two/gateway.conf && ln -s one mounted/..data && \
         ln -s ..data/gateway.conf mounted/gateway.conf",
    );
    let gateway = gateway.start();
    let max = || gateway.stats()["servers"]["helper"]["pool"]["max"].clone();
    assert_eq!(max(), 2);
    let mounted = gateway.folder().path().join("mounted");
    symlink("two", mounted.join("..new")).unwrap();
    fs::rename(mounted.join("..new"), mounted.join("..data")).unwrap();
    gateway.wait_until("the other file", || max() == 3);
    fs::write(mounted.join("two/gateway.conf"), "MAX_WORKERS=4\n").unwrap();
    gateway.wait_until("what is written through the link", || max() == 4);
}

#[test]
fn a_file_that_is_gone_is_missed_and_one_that_comes_is_read() {
    let gateway = with_settings(ONE);
    let before = reload(&gateway);
    fs::remove_file(gateway.folder().path().join("gateway.conf")).unwrap();
    let after = wait_for_reload(&gateway, &before);
    assert!(after["last_error"].as_str().is_some_and(|it| it.contains("gone")), "{after}");
    gateway.call("echo", "{}").expect_status(200);
    apply(&gateway, "gateway.conf", "MIN_WORKERS=2\nMAX_WORKERS=2\n");
    wait_for_workers(&gateway, 2);

    let gateway = Gateway::start(&[], Helper::new());
    apply(&gateway, "gateway.conf", "MAX_WORKERS=3\n");
    assert_eq!(gateway.stats()["servers"]["helper"]["pool"]["max"], 3);
}

#[test]
fn sighup_has_everything_read_again() {
    let mut gateway = with_settings(ONE);
    gateway.signal(Signal::HUP);
    gateway.wait_until("a look", || gateway.log().contains("nothing has changed"));
    assert_eq!(reload(&gateway)["last_at"], Value::Null);
    gateway.folder().file("gateway.conf", "MIN_WORKERS=x\n");
    gateway.signal(Signal::HUP);
    gateway.wait_until("a refusal", || reload(&gateway)["last_error"].is_string());
    let n_refusals = || gateway.log().matches("reload refused").count();
    let before = n_refusals();
    gateway.signal(Signal::HUP);
    gateway.wait_until("another refusal, to whoever asks", || before < n_refusals());
    change(&gateway, "gateway.conf", ONE);
    assert_eq!(reload(&gateway)["last_error"], Value::Null);
    assert!(gateway.stop().success());
}

/// Who closes a terminal does not want to leave a gateway behind.
#[test]
fn sighup_ends_a_gateway_whose_terminal_is_gone() {
    let ours = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).unwrap();
    rustix::pty::grantpt(&ours).unwrap();
    rustix::pty::unlockpt(&ours).unwrap();
    let theirs = rustix::pty::ptsname(&ours, Vec::new()).unwrap().into_string().unwrap();
    let launch = Launch::new(Helper::new()).shell_prelude(&format!("exec <{theirs}"));
    let mut gateway = launch.start();
    gateway.signal(Signal::HUP);
    assert!(gateway.wait_for_exit().success());
    assert!(gateway.log().contains("stopped"));
}
