//! The SDKs as clients: the programs in `tests/clients/mcp`, each with the plan of a server.

use std::{fs, process::Command};

use serde_json::Value;

use super::{Era, Peer, client_file, comparison::differences, document};
use crate::{
    clients::{program, tools},
    relay::{Relay, Traffic},
    support::{Folder, KEY, command},
};

#[test]
fn the_typescript_sdk_1_sees_server_everything_as_on_stdio() {
    check(Sdk::typescript("typescript_v1.mjs"), Peer::server_everything(), &["legacy"]);
}

#[test]
fn the_typescript_sdk_1_sees_a_fastmcp_server_as_on_stdio() {
    check(Sdk::typescript("typescript_v1.mjs"), Peer::fastmcp(), &["legacy"]);
}

#[test]
fn the_typescript_sdk_2_sees_server_everything_as_on_stdio() {
    check(Sdk::typescript("typescript_v2.mjs"), Peer::server_everything(), &["legacy", "auto"]);
}

#[test]
fn the_typescript_sdk_2_sees_a_fastmcp_server_as_on_stdio() {
    check(Sdk::typescript("typescript_v2.mjs"), Peer::fastmcp(), &["legacy", "auto"]);
}

#[test]
fn the_python_sdk_sees_server_everything_as_on_stdio() {
    check(Sdk::python("mcp"), Peer::server_everything(), &["legacy", "auto"]);
}

#[test]
fn the_python_sdk_sees_a_fastmcp_server_as_on_stdio() {
    check(Sdk::python("mcp"), Peer::fastmcp(), &["legacy", "auto"]);
}

#[test]
fn the_fastmcp_client_sees_server_everything_as_on_stdio() {
    check(Sdk::python("fastmcp"), Peer::server_everything(), &["legacy", "auto"]);
}

#[test]
fn the_fastmcp_client_sees_a_fastmcp_server_as_on_stdio() {
    check(Sdk::python("fastmcp"), Peer::fastmcp(), &["legacy", "auto"]);
}

/// A client program.
struct Sdk {
    /// What runs it: interpreter, script and first arguments.
    words: Vec<String>,
    /// Where the script is, if it cannot be run where it belongs.
    _folder: Option<Folder>,
}

impl Sdk {
    fn typescript(script: &str) -> Option<Sdk> {
        let node = program("node")?;
        program("mcp-clients/node_modules/@modelcontextprotocol/client/package.json")?;
        // Node looks for packages beside the script.
        let folder = Folder::new();
        for name in ["seen.mjs", script] {
            fs::copy(client_file(name), folder.path().join(name)).unwrap();
        }
        let packages = tools().join("mcp-clients/node_modules");
        std::os::unix::fs::symlink(packages, folder.path().join("node_modules")).unwrap();
        let words = [node, folder.path().join(script)].map(|it| it.display().to_string()).to_vec();
        Some(Sdk { words, _folder: Some(folder) })
    }

    fn python(library: &str) -> Option<Sdk> {
        let python = program("venv/bin/python")?.display().to_string();
        let script = client_file("python_client.py").display().to_string();
        Some(Sdk { words: vec![python, script, library.to_owned()], _folder: None })
    }

    /// The program with its mode and where it connects to.
    fn command(&self, mode: &str, target: &[&str]) -> Command {
        let mut command = command(&self.words[0]);
        command.args(&self.words[1..]).arg(mode).args(target).env("CLIENT_KEY", KEY);
        command
    }
}

/// What the client sees through the gateway is what it sees on stdio, in each of these modes.
#[track_caller]
fn check(sdk: Option<Sdk>, peer: Option<Peer>, modes: &[&str]) {
    let (Some(sdk), Some(peer)) = (sdk, peer) else { return };
    let plan = fs::read_to_string(&peer.plan).unwrap();
    for mode in modes {
        let mut on_stdio = vec!["stdio"];
        on_stdio.extend(peer.words.iter().map(String::as_str));
        let direct = document(sdk.command(mode, &on_stdio), &plan, &String::new);

        let gateway = peer.behind_gateway(&[]);
        let relay = Relay::before(gateway.address());
        let url = relay.url("/mcp");
        let through = document(sdk.command(mode, &["http", &url]), &plan, &|| gateway.framed_log());
        let traffic = relay.traffic();

        // A gateway speaks both eras whatever its servers do, so `auto` finds the modern one.
        let era = if *mode == "auto" { Era::Modern } else { Era::Legacy };
        let is_translated = era == Era::Modern && !peer.is_dual;
        let found = differences(&direct, &through, is_translated).join("\n");
        let log = gateway.framed_log();
        assert!(found.is_empty(), "{mode}, through the gateway:\n{found}\n{}\n{log}", traffic.shown());
        traffic.check_schemas(era.revision());
        check_wire(&traffic, era);
    }
}

/// What a client does not show: that all progress was told, and how the session ended.
#[track_caller]
fn check_wire(traffic: &Traffic, era: Era) {
    // The TypeScript SDKs lose progress that comes right before its response, on stdio too.
    let is_last =
        |params: &&&Value| params["total"].is_number() && params["progress"].as_f64() == params["total"].as_f64();
    let progress = traffic.told("notifications/progress");
    assert_eq!(progress.iter().filter(is_last).count(), 1, "{progress:#?}");
    match era {
        Era::Legacy => {
            let deleted: Vec<u16> = traffic.requests("DELETE").iter().map(|it| it.status()).collect();
            assert_eq!(deleted, [204], "the client ends its session");
        }
        Era::Modern => {
            let is_sessionless = traffic.exchanges.iter().all(|it| it.answer_header("Mcp-Session-Id").is_none());
            let is_posted = traffic.exchanges.iter().all(|it| it.method == "POST");
            assert!(is_sessionless && is_posted, "{:#?}", traffic.exchanges);
        }
    }
}
