//! Clients that no one here wrote, at `/mcp`: what they see is what they see of the same server on its own stdio.
//!
//! Each client runs twice, once with the server as its child and once through a gateway, and prints all it saw. Between
//! client and gateway a [`Relay`] listens, and everything the gateway wrote is held against the JSON schema of the revision
//! that was spoken. `scripts/test.sh` installs clients and servers; where one is missing, a test says that it is skipped,
//! and with `CI=true` it fails.

mod comparison;
mod inspector;
mod sdks;

use std::{path::PathBuf, process::Command, time::Duration};

use serde_json::{Value, json};

use crate::{
    clients::{Ran, program, run_within},
    support::{Folder, Gateway, Launch, Server, root},
};

/// How long a client may take for all it does. Interpreters start slowly on a busy machine.
const CLIENT_PATIENCE: Duration = Duration::from_secs(60);

/// The two ways to speak MCP, as the clients call them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Era {
    Legacy,
    Modern,
}

impl Era {
    /// The revision that a current client speaks with the gateway then.
    fn revision(self) -> &'static str {
        match self {
            Era::Legacy => "2025-11-25",
            Era::Modern => "2026-07-28",
        }
    }
}

/// A server that the clients are tried on.
struct Peer {
    /// Program and arguments.
    words: Vec<String>,
    /// What clients do with it.
    plan: PathBuf,
    /// Whether it speaks both eras; the gateway translates for one that does not.
    is_dual: bool,
    isolation: &'static str,
}

impl Peer {
    /// The reference server, written with the TypeScript SDK 1.
    ///
    /// It has other tools for other clients, so each session has a process of its own.
    fn server_everything() -> Option<Peer> {
        let program = program("node/node_modules/.bin/mcp-server-everything")?;
        let words = vec![program.display().to_string()];
        Some(Peer { words, plan: client_file("plan_everything.json"), is_dual: false, isolation: "session" })
    }

    /// A server written with FastMCP 4; all sessions share its process.
    fn fastmcp() -> Option<Peer> {
        let python = program("venv/bin/python")?;
        let script = root().join("tests/peers/fastmcp_everything.py");
        let words = [python, script].map(|it| it.display().to_string()).to_vec();
        Some(Peer { words, plan: client_file("plan_fastmcp.json"), is_dual: true, isolation: "shared" })
    }

    /// A gateway before this server, with these settings.
    fn behind_gateway(&self, settings: &[(&str, &str)]) -> Gateway {
        let entry = json!({
            "command": self.words[0], "args": self.words[1..], "isolation": self.isolation,
            "env": {"FASTMCP_CHECK_FOR_UPDATES": "off"}, "min_workers": 1, "max_workers": 1,
        });
        let servers = json!({"mcpServers": {"peer": entry}}).to_string();
        let launch = Launch::new(Server::FromSettings).file("mcp.json", &servers);
        // Wrong arguments are the server's to refuse here, in its own words.
        launch.set("VALIDATE_INPUT", "false").set_all(settings).arguments(&["--servers", "mcp.json"]).start()
    }
}

/// A file beside the client programs.
fn client_file(name: &str) -> PathBuf {
    root().join("tests/clients/mcp").join(name)
}

/// Runs a client to its end.
fn run(mut client: Command, input: &str) -> Ran {
    // A home of its own, because some keep things there.
    let home = Folder::new();
    client.env("HOME", home.path()).env("FASTMCP_CHECK_FOR_UPDATES", "off");
    run_within(CLIENT_PATIENCE, client, input)
}

/// Runs a client to its end and gives the JSON document it printed.
#[track_caller]
fn document(client: Command, input: &str, log: &dyn Fn() -> String) -> Value {
    let shown = format!("{client:?}");
    let ran = run(client, input);
    let document = serde_json::from_str(&ran.stdout).ok().filter(|_| ran.is_success);
    document.unwrap_or_else(|| panic!("{shown}\n{}\n{}", ran.shown(), log()))
}
