//! The dashboard `/ui`: its files over HTTP, and the page in a real browser, driven by `tests/clients/dashboard.mjs`.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    clients::{program, run_within, tools},
    support::{Gateway, Helper, KEY, Server, command, root},
};

/// How long a browser may take for one step on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(180);

/// The page is for people: Node, packages and Chromium are needed to be one.
fn driver(gateway: &Gateway, step: &str) -> Option<std::process::Command> {
    let (node, chromium) = (program("node")?, program("chromium")?);
    let _packages = (
        program("pages/node_modules/puppeteer-core/package.json")?,
        program("pages/node_modules/axe-core/package.json")?,
    );
    let mut driver = command(node);
    driver.arg(root().join("tests/clients/dashboard.mjs")).arg(tools().join("pages")).arg(chromium);
    driver.args([&format!("http://{}/ui", gateway.address()), KEY, step]).arg(shots());
    Some(driver)
}

/// Where the pictures are kept, to be looked at.
fn shots() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("dashboard");
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// What the driver saw in a step; nothing of it came from another place, and no script failed.
#[track_caller]
fn seen(gateway: &Gateway, step: &str) -> Option<Value> {
    let ran = run_within(PATIENCE, driver(gateway, step)?, "");
    let seen: Value =
        serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{step}: {}\n{}", ran.stdout, ran.stderr));
    check_clean(&seen);
    Some(seen)
}

#[track_caller]
fn check_clean(seen: &Value) {
    assert_eq!((&seen["foreign"], &seen["errors"]), (&json!([]), &json!([])), "{seen:#}");
}

#[test]
fn the_page_and_its_files_need_no_key_and_load_nothing_from_elsewhere() {
    let gateway = Gateway::start(&[], Server::Bundled);
    for (path, content_type) in [
        ("/ui", "text/html; charset=utf-8"),
        ("/ui/style.css", "text/css; charset=utf-8"),
        ("/ui/main.js", "text/javascript; charset=utf-8"),
        ("/ui/icon.svg", "image/svg+xml"),
    ] {
        let reply = gateway.request("GET", path, &[], b"");
        reply.expect_status(200);
        assert_eq!(reply.header("Content-Type"), Some(content_type), "{path}");
        assert_eq!(reply.header("X-Content-Type-Options"), Some("nosniff"), "{path}");
        let policy = reply.header("Content-Security-Policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';") && !policy.contains("unsafe"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
    }
    gateway.request("GET", "/ui/other.js", &[], b"").expect_error(404, "not_found", "/ui/other.js");
    gateway.request("GET", "/ui/..%2fmain.js", &[], b"").expect_error(404, "not_found", "main.js");
}

#[test]
fn the_key_is_asked_for_kept_in_the_tab_and_forgotten() {
    let gateway = Gateway::start(&[], Server::Bundled);
    let Some(seen) = seen(&gateway, "key") else { return };
    assert_eq!(seen["focus"], "key", "whoever opens the page can type at once");
    assert_eq!(seen["refused"], "the API key is not known");
    assert_eq!((&seen["kept"], &seen["stored"]), (&json!(true), &json!(0)), "{seen:#}");
}

#[test]
fn a_tool_is_tried_by_each_way_and_its_end_is_told() {
    let gateway = Gateway::start(&[], Helper::new());
    let Some(seen) = seen(&gateway, "calls") else { return };
    for way in ["call", "stream", "socket"] {
        let outcome = seen[way]["outcome"].as_str().unwrap();
        assert!(outcome.starts_with("Answered in ") && outcome.contains("by helper-"), "{way}: {outcome}");
        let result = seen[way]["result"][0].as_str().unwrap();
        assert!(result.contains("it's <b>here</b>"), "{way}: {result}");
    }
    assert_eq!(seen["missing"], true, "a required field that is empty is pointed out before anything is sent");
    let failed = seen["failed"]["outcome"].as_str().unwrap();
    assert!(
        failed.starts_with("Failed after ") && failed.contains("it went wrong") && failed.ends_with("(tool_error)"),
        "{failed}"
    );
    assert_eq!(seen["streamed"]["told"].as_array().unwrap().len(), 3, "{seen:#}");
    assert_eq!(seen["cancelled"]["outcome"], "Cancelled");
    let row = |tool: &str, outcome: &str| json!([tool, outcome]);
    let rows = seen["rows"].as_array().unwrap();
    assert_eq!(rows[0], row("silent", "cancelled"), "the newest call is on top: {seen:#}");
    assert!(rows.contains(&row("error", "tool_error")) && rows.contains(&row("echo", "answered")), "{seen:#}");
    let failures: Vec<_> = seen["failures"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
    assert_eq!(failures, ["cancelled", "tool_error"]);
}

/// The line that the page shows does the same when it is run.
#[test]
fn the_shown_command_does_what_the_page_did() {
    let gateway = Gateway::start(&[], Helper::new());
    let (Some(_curl), Some(seen)) = (program("curl"), seen(&gateway, "calls")) else { return };
    let mut shell = command("sh");
    shell.arg("-c").arg(seen["command"].as_str().unwrap()).env("MCPGATE_KEY", KEY);
    let ran = run_within(PATIENCE, shell, "");
    let answer: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{}\n{}", ran.stdout, ran.stderr));
    assert_eq!(answer["data"], json!({ "text": "it's <b>here</b>" }), "{answer}");
}

#[test]
fn a_question_of_a_server_is_asked_on_the_page() {
    let gateway = Gateway::start(&[], Helper::new());
    let Some(seen) = seen(&gateway, "asked") else { return };
    assert_eq!(seen["question"], "What is the answer?");
    let result = seen["answered"]["result"][0].as_str().unwrap();
    assert!(result.contains("accept") && result.contains("forty-two"), "{result}");
}

#[test]
fn a_worker_that_dies_or_is_replaced_is_seen_to_come_back() {
    let gateway = Gateway::start(&[("MIN_WORKERS", "1"), ("MAX_WORKERS", "1")], Helper::new());
    let Some(seen) = seen(&gateway, "workers") else { return };
    assert_eq!(seen["restarts"], "1");
    assert_eq!((&seen["news"], &seen["changed"]), (&json!("helper-1 is replaced"), &json!(true)));
}

#[test]
fn it_can_be_read_on_a_phone_in_the_dark_and_by_a_screen_reader() {
    let gateway = Gateway::start(&[], Helper::new());
    let Some(seen) = seen(&gateway, "looks") else { return };
    for look in ["wide-light", "wide-dark", "phone-light", "phone-dark"] {
        assert_eq!(seen[look], true, "{look}: nothing reaches beyond the window");
    }
    assert_eq!(seen["serious"], json!([]), "{seen:#}");
}

#[test]
fn a_gateway_that_goes_away_is_said_to_be_gone_and_seen_when_it_is_back() {
    let gateway = Gateway::start(&[], Helper::new());
    let Some(mut driver) = driver(&gateway, "gone") else { return };
    let mut browser = driver.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut words = BufReader::new(browser.stderr.take().unwrap()).lines();
    assert_eq!(words.next().unwrap().unwrap(), "ready");
    let address = gateway.address().to_string();
    drop(gateway);
    assert_eq!(words.next().unwrap().unwrap(), "seen");
    let _again = Gateway::start(&[("LISTEN", &address)], Helper::new());
    let output = browser.wait_with_output().unwrap();
    let seen: Value = serde_json::from_slice(&output.stdout).expect("what was seen");
    assert!(seen["trouble"].as_str().unwrap().starts_with("The gateway does not answer."), "{seen:#}");
    assert_eq!((&seen["back"], &seen["foreign"]), (&json!(true), &json!([])));
}
