//! What the tests of workers and pools have in common.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::{Plan, ServerInfo};
use crate::{
    config::{Command, Config, Live},
    error::Error,
    mcp::revision::Era,
};

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

/// What a server with these capabilities says of itself.
pub(crate) fn info(era: Era, capabilities: &str) -> ServerInfo {
    ServerInfo {
        era,
        revision: String::new(),
        name: String::new(),
        version: String::new(),
        raw: raw("{}"),
        capabilities: raw(capabilities),
        instructions: None,
        server_info: None,
    }
}

/// A JSON-RPC error of a server.
pub(crate) fn refusal(rpc_code: i64, message: &str, data: Option<&str>) -> Error {
    let (message, raw_data) = (message.to_owned(), data.map(ToOwned::to_owned));
    Error::WorkerError { worker: "s-1".to_owned(), rpc_code, message, raw_data }
}

/// A server that is a line of shell.
pub(crate) fn shell(script: &str) -> Command {
    let args = vec!["-c".to_owned(), script.to_owned()];
    Command::Program { program: "/bin/sh".to_owned(), args, env: BTreeMap::new(), cwd: None }
}

/// A plan to start a server with these settings, in the legacy era.
pub(crate) fn plan(command: Command, config: Config) -> Plan {
    let (server, config) = ("s".into(), Live::new(config));
    Plan { server, command, config, era: Era::Legacy, refusal: None, hello: None }
}

/// A server that answers each line it reads which contains a text with the line beside it, `ID` being the id it read, and
/// passes over all others. The first text that fits counts. No apostrophes.
pub(crate) fn scripted(answers: &[(&str, &str)]) -> Command {
    let case = |(text, line): &(&str, &str)| {
        let line = line.replace("ID", r#"'"$id"'"#);
        format!("*'{text}'*) printf '%s\\n' '{line}';;")
    };
    let cases: Vec<String> = answers.iter().map(case).collect();
    let read_id = r#"id="${line#*\"id\":}"; id="${id%%,*}""#;
    shell(&format!(r#"while read -r line; do {read_id}; case "$line" in {} esac; done"#, cases.join(" ")))
}
