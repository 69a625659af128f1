//! The command line of the MCP Inspector, one command for each thing it can ask.

use std::process::Command;

use serde_json::Value;

use super::{
    Era, Peer,
    comparison::{differences_of_results, without_tools},
    document, run,
};
use crate::{
    clients::program,
    relay::Relay,
    support::{KEY, command},
};

/// Tools that server-everything has only for clients that can be asked. Where clients share a process, it was started with
/// what the gateway can be asked.
const TOOLS_THAT_ASK: [&str; 4] =
    ["get-roots-list", "trigger-elicitation-request", "trigger-url-elicitation", "trigger-sampling-request"];

const EVERYTHING: &[&[&str]] = &[
    &["initialize"],
    &["tools/list"],
    &["tools/call", "--tool-name", "echo", "--tool-arg", "message=hi \"there\" 🙂"],
    &["resources/list"],
    &["resources/read", "--uri", "demo://resource/static/document/features.md"],
    &["prompts/list"],
    &["prompts/get", "--prompt-name", "args-prompt", "--prompt-args", "city=Zürich", "state=ZH"],
];

const FASTMCP: &[&[&str]] = &[
    &["initialize"],
    &["tools/list"],
    &["tools/call", "--tool-name", "add", "--tool-arg", "a=1", "b=-2"],
    &["resources/list"],
    &["resources/read", "--uri", "demo://pixels"],
    &["prompts/list"],
    &["prompts/get", "--prompt-name", "letter", "--prompt-args", "to=you"],
];

#[test]
fn the_inspector_sees_server_everything_as_on_stdio_in_each_of_its_eras() {
    check(Peer::server_everything(), EVERYTHING);
}

#[test]
fn the_inspector_sees_a_fastmcp_server_as_on_stdio_in_each_of_its_eras() {
    check(Peer::fastmcp(), FASTMCP);
}

#[test]
fn the_inspector_is_let_in_with_a_key_in_either_header_and_not_without() {
    let (Some(inspector), Some(peer)) = (Inspector::find(), Peer::fastmcp()) else { return };
    let gateway = peer.behind_gateway(&[]);
    for (mode, era, header) in
        [("legacy", Era::Legacy, "Authorization: Bearer "), ("modern", Era::Modern, "X-API-Key: ")]
    {
        let list = |key: &str| {
            let relay = Relay::before(gateway.address());
            let mut command = inspector.command(&[&relay.url("/mcp"), "--transport", "http"], mode, &["tools/list"]);
            // Without the option it would open a browser to log in.
            command.args(["--stored-auth-only", "--header", &format!("{header}{key}")]);
            (run(command, ""), relay.traffic())
        };
        let (right, traffic) = list(KEY);
        let is_listed = right.is_success && right.stdout.contains("book_table");
        assert!(is_listed, "{}\n{}", right.shown(), gateway.framed_log());
        traffic.check_schemas(era.revision());

        let (wrong, traffic) = list("wrong");
        assert!(!wrong.is_success, "{}", wrong.shown());
        let refusal = traffic.requests("POST").first().copied().cloned().unwrap_or_default();
        let challenge = refusal.answer_header("WWW-Authenticate");
        assert_eq!((refusal.status(), challenge), (401, Some("Bearer")), "{}", wrong.shown());
    }
}

struct Inspector {
    program: String,
}

impl Inspector {
    fn find() -> Option<Inspector> {
        program("node")?;
        let program = program("mcp-clients/node_modules/.bin/mcp-inspector")?.display().to_string();
        Some(Inspector { program })
    }

    /// One command: the target, the mode of its era, and a method with its options.
    fn command(&self, target: &[&str], mode: &str, method: &[&str]) -> Command {
        let mut command = command(&self.program);
        command.arg("--cli").args(target).args(["--protocol-era", mode, "--method"]).args(method);
        command.args(["--format", "json", "-q"]);
        command
    }
}

#[track_caller]
fn check(peer: Option<Peer>, methods: &[&[&str]]) {
    let (Some(inspector), Some(peer)) = (Inspector::find(), peer) else { return };
    let words: Vec<&str> = peer.words.iter().map(String::as_str).collect();
    let on_stdio = |mode: &str| -> Vec<Value> {
        let ask = |method: &&[&str]| document(inspector.command(&words, mode, method), "", &String::new);
        methods.iter().map(ask).collect()
    };
    let legacy = on_stdio("legacy");
    let modern = peer.is_dual.then(|| on_stdio("auto"));

    for (mode, era) in [("legacy", Era::Legacy), ("auto", Era::Modern), ("modern", Era::Modern)] {
        // It leaves its sessions behind.
        let gateway = peer.behind_gateway(&[("API_KEY", ""), ("SESSION_IDLE_TIMEOUT", "3")]);
        let relay = Relay::before(gateway.address());
        let url = relay.url("/mcp");
        let is_translated = era == Era::Modern && !peer.is_dual;
        let direct = modern.as_ref().filter(|_| era == Era::Modern).unwrap_or(&legacy);
        for (method, direct) in methods.iter().zip(direct) {
            let command = inspector.command(&[&url, "--transport", "http"], mode, method);
            let through = document(command, "", &|| gateway.framed_log());
            let mut results = [direct, &through].map(|it| it["result"].clone());
            if is_translated {
                results = results.map(|it| without_tools(it, &TOOLS_THAT_ASK));
            }
            let found = differences_of_results(&results[0], &results[1], is_translated).join("\n");
            assert!(found.is_empty(), "{mode} {method:?}, through the gateway:\n{found}\n{}", gateway.framed_log());
        }
        relay.traffic().check_schemas(era.revision());
    }
}
