//! The server behind whole calls: it answers from ready-made text, so that hardly any of its own work is counted. It takes the place of
//! the bundled one in `EXECUTION_MODE=direct`.
//!
//! **End.** With its stdin.

use std::{
    io::{self, BufRead, Write},
    path::Path,
};

use super::result_with;

/// Its one tool's answer is as its name says: `echo`, `big` with 1 MB, `steps` with 100 notes of progress before it.
const TOOLS: [&str; 3] = ["echo", "big", "steps"];

/// Reads lines and answers them.
pub(crate) fn serve(_data_dir: &Path, mut stdin: impl BufRead, mut stdout: impl Write) -> io::Result<()> {
    let answers = TOOLS.map(|tool| match tool {
        "big" => result_with(&"0123456789abcdef".repeat(65_536)),
        _ => result_with("hello"),
    });
    let (mut line, mut out) = (String::new(), Vec::new());
    loop {
        line.clear();
        if stdin.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let Some((_, rest)) = line.split_once(r#""id":"#) else { continue };
        let id = &rest[..rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len())];
        out.clear();
        let tool = TOOLS.iter().position(|tool| rest.contains(&format!(r#""name":"{tool}""#)));
        if tool == Some(2) {
            for n in 0..100 {
                let params = format!(r#"{{"progressToken":{id},"progress":{n},"total":100,"message":"a step"}}"#);
                writeln!(out, r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{params}}}"#)?;
            }
        }
        let result = match tool {
            Some(tool) => &answers[tool],
            None if rest.contains("initialize") => {
                r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"b","version":"1"}}"#
            }
            None if rest.contains("tools/list") => &listing(),
            None => "{}",
        };
        writeln!(out, r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)?;
        stdout.write_all(&out)?;
    }
}

fn listing() -> String {
    let tools = TOOLS.map(|tool| {
        let schema =
            r#"{"type":"object","properties":{"text":{"type":"string","maxLength":1000}},"required":["text"]}"#;
        format!(r#"{{"name":"{tool}","inputSchema":{schema}}}"#)
    });
    format!(r#"{{"tools":[{}]}}"#, tools.join(","))
}
