//! README and guides, tried as a new user would: each block of code is run or read by what would read it, or stands in
//! [`LEFT_OUT`] with a reason. A block that is none of these fails the tests, and so does a document that no test follows.
//!
//! How a document is followed is said in [`story`]. Where a program is missing, a test says that it is skipped; with `CI=true` it fails.

pub(crate) mod block;
mod links;
mod snippets;
mod story;

use std::{collections::BTreeSet, fs};

use block::{Example, blocks};
use story::{Story, commands, has_all};

use crate::{clients, support::root};

/// What is not tried: the file, what the command or block begins with, and why.
const LEFT_OUT: &[(&str, &str, &str)] = &[
    ("README.md", "./scripts/test.sh", "runs this very test"),
    ("docs/coming-from.md", "npx -y supergateway", OF_OTHERS),
    ("docs/coming-from.md", "uvx mcpo", OF_OTHERS),
    ("docs/coming-from.md", "npx mcp-proxy", OF_OTHERS),
    ("docs/coming-from.md", "mcp-proxy", OF_OTHERS),
    (
        "docs/operating.md",
        "./scripts/package.sh",
        "builds a package and tries it, as the step of that name in scripts/test.sh",
    ),
    ("docs/operating.md", "apt install", NEEDS_ROOT),
    ("docs/operating.md", "docker", "needs Docker"),
    ("docs/operating.md", "useradd", NEEDS_ROOT),
    ("docs/operating.md", "chown", NEEDS_ROOT),
    ("docs/operating.md", "install -m 644 scripts/mcpgate.service", NEEDS_ROOT),
    ("docs/operating.md", "journalctl", "needs a running systemd"),
    ("docs/performance.md", "./scripts/bench.sh", "takes minutes, and says more on a quiet machine"),
    ("docs/performance.md", "./scripts/instructions.sh", "a step of scripts/test.sh"),
    ("docs/quick-start.md", "python3 -m pip install", INSTALLS),
    ("docs/quick-start.md", "npm install", INSTALLS),
    ("docs/quick-start.md", "claude mcp add", "needs Claude Code and an account; the file above it is read"),
    ("docs/streaming.md", "python3 -m pip install", INSTALLS),
    ("docs/streaming.md", "npm install", INSTALLS),
];

const OF_OTHERS: &str = "is the command of another gateway, beside ours";
const NEEDS_ROOT: &str = "changes the system's own users, files or services";
const INSTALLS: &str = "installs from a registry, as `scripts/lib/tools.sh` does for the tests";

/// A server that documents name, and that `tests/clients/stand_ins` run.
const EVERYTHING: &str = "node/node_modules/.bin/mcp-server-everything";
const FILESYSTEM: &str = "node/node_modules/.bin/mcp-server-filesystem";

const BRIDGE: &str = "bridges/node_modules/.bin/mcp-remote";
const PYTHON_SDK: &str = "venv/bin/python";
const NODE_SDK: &str = "mcp-clients/node_modules/@modelcontextprotocol/client/package.json";

/// The documents, and what each needs.
const DOCUMENTS: &[(&str, &[&str])] = &[
    ("README.md", &["curl", EVERYTHING, FILESYSTEM]),
    ("docs/api.md", &[]),
    ("docs/coming-from.md", &["curl", FILESYSTEM]),
    ("docs/mcp.md", &["curl"]),
    ("docs/metrics.md", &["curl"]),
    ("docs/operating.md", &["curl", "sqlite3", FILESYSTEM]),
    ("docs/performance.md", &[]),
    ("docs/quick-start.md", &["curl", "node", "chromium", EVERYTHING, FILESYSTEM, BRIDGE, PYTHON_SDK, NODE_SDK]),
    ("docs/streaming.md", &["curl"]),
];

#[test]
fn the_readme_does_what_it_says() {
    follow("README.md");
}

#[test]
fn the_reference_does_what_it_says() {
    follow("docs/api.md");
}

#[test]
fn coming_from_elsewhere_does_what_it_says() {
    follow("docs/coming-from.md");
}

#[test]
fn the_guide_for_mcp_clients_does_what_it_says() {
    follow("docs/mcp.md");
}

#[test]
fn the_guide_to_metrics_does_what_it_says() {
    follow("docs/metrics.md");
}

#[test]
fn the_guide_to_operating_does_what_it_says() {
    follow("docs/operating.md");
}

#[test]
fn the_page_on_performance_does_what_it_says() {
    follow("docs/performance.md");
}

#[test]
fn the_quick_start_does_what_it_says() {
    follow("docs/quick-start.md");
}

#[test]
fn the_guide_to_streaming_does_what_it_says() {
    follow("docs/streaming.md");
}

#[test]
fn every_document_is_followed() {
    let guides = fs::read_dir(root().join("docs")).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap());
    let mut found: BTreeSet<String> =
        guides.filter(|name| name.ends_with(".md")).map(|name| format!("docs/{name}")).collect();
    found.insert("README.md".to_owned());
    let followed: BTreeSet<String> = DOCUMENTS.iter().map(|(file, _)| (*file).to_owned()).collect();
    assert_eq!(found, followed);

    let source = fs::read_to_string(root().join("tests/it/documents.rs")).unwrap();
    for (file, _) in DOCUMENTS {
        assert!(source.contains(&format!("    follow(\"{file}\");")), "no test follows {file}");
    }
}

#[test]
fn what_is_left_out_is_there() {
    for (file, start, reason) in LEFT_OUT {
        let begins = |example: &Example| {
            example.code.starts_with(start) || commands_of(example).iter().any(|command| command.starts_with(start))
        };
        assert!(blocks(file).iter().any(begins), "{file} has no `{start}`, which {reason}");
    }
}

/// Goes through a document, block by block.
#[track_caller]
fn follow(file: &'static str) {
    let (_, needs) = DOCUMENTS.iter().find(|(it, _)| *it == file).expect("it is in the table");
    if !has_all(needs) {
        return;
    }
    let mut story = Story::new();
    let is_left_out = |text: &str| LEFT_OUT.iter().any(|(it, start, _)| *it == file && text.starts_with(start));
    for example in blocks(file) {
        if example.is_output || clients::is_run_here(&example) {
            continue;
        }
        let is_left_out_whole = example.language != "sh" && is_left_out(&example.code);
        if is_left_out_whole {
            continue;
        }
        match example.language.as_str() {
            "sh" => {
                let written = story.run(&example, is_left_out);
                check_output(&example, &written);
            }
            "python" => {
                let written = story.run_file(&example, "python3", "example.py");
                check_output(&example, &written);
            }
            "js" => {
                let written = story.run_file(&example, "node", "example.mjs");
                check_output(&example, &written);
            }
            "html" => {
                let shown = snippets::open_page(&mut story, &example);
                check_output(&example, &shown);
            }
            "json" => snippets::check_json(&mut story, &example),
            "ini" if example.code.starts_with('[') => snippets::check_unit(&story, &example),
            "ini" => snippets::check_conf(&story, &example),
            "yaml" => snippets::check_yaml(&story, &example),
            "nginx" => snippets::check_nginx(&mut story, &example),
            "text" => {}
            other => panic!("{}: nobody runs or reads `{other}`; see `documents.rs`", example.place()),
        }
    }
}

/// What was written is what the document shows; where it shows nothing, it is no failure.
#[track_caller]
fn check_output(example: &Example, written: &str) {
    if example.output().is_some() {
        example.check_output(written);
        return;
    }
    assert!(!written.contains(r#"{"status":"error""#), "{}: {written}", example.place());
}

fn commands_of(example: &Example) -> Vec<String> {
    if example.language == "sh" { commands(&example.code) } else { Vec::new() }
}
