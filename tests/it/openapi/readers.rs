//! The document read by programs that no one here wrote: a validator, a client made from it, Open WebUI, and schemathesis.
//!
//! `scripts/test.sh` installs them; where one is missing, a test says that it is skipped, and with `CI=true` it fails.

use std::{path::PathBuf, process::Command, time::Duration};

use serde_json::{Value, json};

use crate::{
    clients::{Ran, program, run_within},
    support::{Folder, Gateway, Helper, KEY, Launch, Server, command, root},
};

use super::odd_tools;

/// How long a program may take on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(240);

/// A gateway before the bundled server, odd tools, and the reference server from npm.
fn gateway() -> Option<Gateway> {
    let everything = program("node/node_modules/.bin/mcp-server-everything")?;
    let servers = json!({"mcpServers": {
        "journeys": {"command": env!("CARGO_BIN_EXE_mcpgate"), "args": ["journeys"]},
        "odd": {"command": Helper::program(), "args": ["--listing", odd_tools()]},
        "everything": {"command": everything},
    }});
    let launch = Launch::new(Server::FromSettings).file("mcp.json", &servers.to_string());
    let gateway = launch.arguments(&["--servers", "mcp.json"]).start();
    for server in ["journeys", "odd", "everything"] {
        let is_known = || gateway.get(&format!("/servers/{server}/tools")).json()["count"].as_u64() > Some(0);
        gateway.wait_until(&format!("the tools of {server}"), is_known);
    }
    Some(gateway)
}

fn file(name: &str) -> PathBuf {
    root().join("tests/clients/openapi").join(name)
}

fn url(gateway: &Gateway, path: &str) -> String {
    format!("http://{}{path}", gateway.address())
}

#[track_caller]
fn run(command: Command) -> Ran {
    let shown = format!("{command:?}");
    let ran = run_within(PATIENCE, command, "");
    assert!(ran.is_success, "{shown}\n{}", ran.shown());
    ran
}

#[test]
fn a_validator_of_openapi_3_1_has_nothing_to_say() {
    let Some(validator) = program("openapi/venv/bin/openapi-spec-validator") else { return };
    let Some(gateway) = gateway() else { return };
    let folder = Folder::new();
    for (name, path) in [("all.json", "/openapi.json"), ("odd.json", "/servers/odd/openapi.json")] {
        let document = folder.file(name, &gateway.get(path).text());
        let mut command = command(&validator);
        command.args(["--schema", "3.1"]).arg(document);
        assert!(run(command).stdout.contains("OK"));
    }
}

#[test]
fn a_client_made_from_it_calls_tools() {
    let Some(node) = program("node") else { return };
    let Some(_axios) = program("openapi/node/node_modules/openapi-client-axios/package.json") else { return };
    let Some(gateway) = gateway() else { return };
    let called = |path: &str, calls: &[&str]| -> Value {
        let mut client = command(&node);
        client.arg(file("client.mjs")).arg(crate::clients::tools().join("openapi/node"));
        client.args([&url(&gateway, path), KEY]).args(calls);
        serde_json::from_str(&run(client).stdout).unwrap()
    };

    let [sum, tree] = [r#"{"a":1,"b":2}"#, r#"{"tree":{"name":"oak"}}"#];
    let answers = called("/openapi.json", &["everything__get-sum", sum, "odd__defs", tree, "odd__plain", "{}"]);
    assert_eq!(answers[0], json!({"status": 200, "data": "The sum of 1 and 2 is 3."}));
    assert_eq!(answers[1], json!({"status": 200, "data": {"tree": {"name": "oak"}}}));
    assert_eq!(
        (&answers[2]["status"], &answers[2]["data"]["error"]["code"]),
        (&json!(400), &json!("invalid_arguments"))
    );
    let answers = called("/servers/odd/openapi.json", &["defs", tree]);
    assert_eq!(answers, json!([{"status": 200, "data": {"tree": {"name": "oak"}}}]));
}

#[test]
fn open_webui_offers_the_tools_and_calls_them() {
    let Some(python) = program("clients/venv/bin/python") else { return };
    let Some(open_webui) = program("openapi/open_webui/open_webui/utils/tools.py") else { return };
    let Some(gateway) = gateway() else { return };
    let list = r#"{"action":"list","limit":1}"#;
    let mut client = command(python);
    client.arg(file("open_webui.py")).arg(open_webui).args([&url(&gateway, ""), KEY]);
    client.args(["journeys__journeys_tool", list, "odd__plain", r#"{"text":"a"}"#, "odd__plain", "{}"]);
    let seen: Value = serde_json::from_str(&run(client).stdout).unwrap();

    let offered = seen["offered"].as_array().unwrap();
    let n_tools = gateway.get("/tools").json()["count"].as_u64().unwrap();
    assert_eq!(offered.len() as u64, n_tools, "only tools, and each once");
    let parameters = |name: &str| offered.iter().find(|it| it["name"] == name).expect(name)["parameters"].clone();
    assert_eq!(parameters("journeys__journeys_tool")["required"], json!(["action"]));
    let name = &parameters("odd__defs")["properties"]["tree"]["properties"]["name"];
    assert_eq!(name["enum"], json!(["oak", "elm"]), "what is defined elsewhere is found");
    assert_eq!(parameters("odd__anchors")["properties"]["colour"]["enum"], json!(["red", "blue"]));
    let results = &seen["results"];
    assert_eq!((&results[0]["count"], &results[1]), (&json!(1), &json!({"text": "a"})));
    assert!(results[2]["error"].as_str().is_some_and(|it| it.contains("invalid_arguments")), "{results}");
}

#[test]
fn schemathesis_finds_nothing_that_is_not_as_it_says() {
    let Some(schemathesis) = program("openapi/venv/bin/schemathesis") else { return };
    let Some(gateway) = gateway() else { return };
    let folder = Folder::new();
    let run_schemathesis = |arguments: &[&str]| {
        let mut tester = command(&schemathesis);
        tester.arg("--config-file").arg(file("schemathesis.toml"));
        tester.arg("run").arg(url(&gateway, "/openapi.json")).args(["--url", &url(&gateway, "")]);
        tester.args(["--header", &format!("X-API-Key: {KEY}"), "--no-color", "--continue-on-failure", "--seed", "1"]);
        tester.args(["--phases", "examples,coverage,fuzzing", "--request-timeout", "60"]);
        let ran = run({
            tester.args(arguments).current_dir(folder.path()).env("HOME", folder.path());
            tester
        });
        assert!(ran.stdout.contains(" passed") && !ran.stdout.contains("No test cases"), "{}", ran.stdout);
    };

    // First, while no wrong key has been tried.
    let keyed = ["/tools", "/stats", "/call/odd__plain"].map(|path| ["--include-path", path]);
    run_schemathesis(&[&["--checks", "ignored_auth", "-n", "1"], &keyed.concat()[..]].concat());
    // Streams without an end, and tools that take their time or ask somebody.
    let slow = "everything__(trigger|simulate|gzip|get-roots)";
    run_schemathesis(&["-n", "10", "--exclude-path", "/sse", "--exclude-path-regex", slow]);
}
