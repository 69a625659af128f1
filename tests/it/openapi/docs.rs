//! `/docs`, as a page over HTTP and in a real browser, driven by `tests/clients/openapi/docs.mjs`.

use std::{fs, path::PathBuf, time::Duration};

use serde_json::{Value, json};

use crate::{
    clients::{program, run_within, tools},
    support::{Gateway, KEY, Server, command, root},
};

/// How long a browser may take for all of it on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(180);

#[test]
fn the_page_needs_no_key_and_may_load_nothing_from_elsewhere() {
    let gateway = Gateway::start(&[], Server::Bundled);
    for path in ["/docs", "/docs/", "/servers/journeys/docs"] {
        let page = gateway.request("GET", path, &[], b"");
        page.expect_status(200).expect_header("Content-Type", "text/html; charset=utf-8");
        let policy = page.header("Content-Security-Policy").unwrap_or_default();
        page.expect(policy.starts_with("default-src 'none'; script-src 'sha256-"), "a strict policy");
        page.expect(!policy.contains("unsafe") && !policy.contains('*'), "no way around it");
        page.expect(!page.text().contains(KEY), "no data");
    }
}

#[test]
fn a_tool_is_found_read_and_tried_on_the_page() {
    let (Some(node), Some(chromium)) = (program("node"), program("chromium")) else { return };
    let Some(_puppeteer) = program("pages/node_modules/puppeteer-core/package.json") else { return };
    let Some(_axe) = program("pages/node_modules/axe-core/package.json") else { return };
    let gateway = Gateway::start(&[], Server::Bundled);
    // Kept, to be looked at.
    let shots = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("docs");
    fs::create_dir_all(&shots).unwrap();
    let mut driver = command(node);
    driver.arg(root().join("tests/clients/openapi/docs.mjs")).arg(tools().join("pages")).arg(chromium);
    driver.args([&format!("http://{}/docs", gateway.address()), KEY]).arg(shots);
    let ran = run_within(PATIENCE, driver, "");
    let seen: Value =
        serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{}\n{}", ran.shown(), gateway.log()));

    assert_eq!((&seen["foreign"], &seen["errors"]), (&json!([]), &json!([])), "{seen:#}");
    assert_eq!(seen["without_key"], "This gateway wants a key.");
    assert_eq!(seen["wrong_key"], "This key is not known here.");
    assert_eq!(seen["found"], json!(["journeys_tool"]), "what the search leaves of the list");
    assert!(seen["arguments"].as_array().unwrap().contains(&json!("action")), "{seen:#}");
    assert_eq!((&seen["example"], &seen["status"]), (&json!({"action": "list"}), &json!("200 OK")));
    assert_eq!(seen["result"]["action"], "list");
    assert_eq!(seen["failure"], "422 Unprocessable Entity", "a call that the tool refuses");
    assert!(seen["stream"].as_str().unwrap().contains("event: done"), "{seen:#}");
    // The shown command, with the key it asks for, does what the page did.
    let mut shell = command("sh");
    shell.arg("-c").arg(seen["curl"].as_str().unwrap()).env("API_KEY", KEY);
    let by_curl: Value = serde_json::from_str(&run_within(PATIENCE, shell, "").stdout).unwrap();
    assert_eq!(by_curl, seen["result"]);
    assert_eq!((&seen["phone_width"], &seen["keyboard"]), (&json!(390), &json!("journeys_tool")), "{seen:#}");
    assert_eq!(seen["axe"], json!([]), "serious findings on accessibility");
}
