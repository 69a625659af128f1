//! `--reload`: workers that are restarted when what they are made of changes.

use std::fs;

use serde_json::json;

use super::{apply, launch, servers, tool_names};
use crate::{
    sse::client::EventStream,
    support::{Gateway, Helper},
};

/// A server in a folder of its own: a script that becomes the helper, whose tools begin with `prefix`.
fn script(prefix: &str) -> String {
    format!("exec {} --prefix {prefix}\n", Helper::program().display())
}

#[track_caller]
fn start(arguments: &[&str]) -> Gateway {
    let entries = servers(&[("a", json!({"command": "sh", "args": ["app/server.sh"]})), ("b", json!({}))]);
    let line =
        format!("mkdir -p app/lib app/node_modules app/.git && echo '{}' > app/server.sh", script("one-").trim());
    launch("MIN_WORKERS=2\nMAX_WORKERS=2\n", &entries).arguments(arguments).shell_prelude(&line).start()
}

fn has(gateway: &Gateway, tool: &str) -> bool {
    tool_names(gateway).iter().any(|name| name == tool)
}

/// How often a server was restarted.
fn n_restarts(gateway: &Gateway) -> usize {
    gateway.log().matches("is restarted: ").count()
}

#[test]
fn a_script_that_changes_has_its_workers_restarted_and_running_calls_end() {
    let gateway = start(&["--reload"]);
    gateway.wait_until("the server", || has(&gateway, "a__one-echo"));
    let mut stream = EventStream::open(&gateway, "a__one-stream", r#"{"n":3,"ms":400}"#);
    stream.expect_event("progress");
    gateway.folder().file("app/server.sh", &script("two-"));
    gateway.wait_until("the new tools", || has(&gateway, "a__two-echo"));
    assert_eq!(stream.rest().last().map(|event| event.data.clone()), Some(json!({"status": "complete"})));
    let says =
        format!("server a is restarted: {} has changed", gateway.folder().path().join("app/server.sh").display());
    assert!(gateway.log().contains(&says), "{}", gateway.framed_log());
    assert_eq!(n_restarts(&gateway), 1, "{}", gateway.framed_log());
    gateway.wait_until("no worker of the old script", || {
        let workers = gateway.stats()["servers"]["a"]["workers"].as_array().unwrap().clone();
        workers.len() == 2 && workers.iter().all(|worker| worker["id"] != "a-1" && worker["state"] == "ready")
    });
}

#[test]
fn a_file_beside_the_script_counts_and_those_of_others_do_not() {
    let gateway = start(&["--reload"]);
    let app = gateway.folder().path().join("app");
    for file in ["node_modules/x.js", ".git/HEAD", ".server.sh.swp", "data.db", "server.log"] {
        fs::write(app.join(file), "x").unwrap();
    }
    gateway.folder().file("beside.txt", "x");
    // Whatever comes before is looked at before.
    fs::write(app.join("lib/new.py"), "x").unwrap();
    gateway.wait_until("a restart", || n_restarts(&gateway) == 1);
    assert!(gateway.log().contains("lib/new.py has changed"), "{}", gateway.framed_log());

    fs::create_dir_all(app.join("lib/deep/er")).unwrap();
    gateway.wait_until("a restart for the new folder", || n_restarts(&gateway) == 2);
    fs::write(app.join("lib/deep/er/file.py"), "x").unwrap();
    gateway.wait_until("a restart for what is in it", || gateway.log().contains("deep/er/file.py has changed"));
}

#[test]
fn without_the_flag_programs_are_left_alone() {
    let gateway = start(&[]);
    gateway.folder().file("app/server.sh", &script("two-"));
    apply(&gateway, "gateway.conf", "MIN_WORKERS=1\nMAX_WORKERS=2\n");
    assert!(n_restarts(&gateway) == 0 && has(&gateway, "a__one-echo"), "{}", gateway.framed_log());
}

#[test]
fn a_program_that_does_not_start_any_more_leaves_the_workers_that_run() {
    let gateway = start(&["--reload"]);
    gateway.wait_until("the server", || has(&gateway, "a__one-echo"));
    gateway.folder().file("app/server.sh", "exit 3\n");
    gateway.wait_until("a try", || gateway.log().contains("exited with code 3"));
    gateway.call("a__one-echo", "{}").expect_status(200);
    gateway.folder().file("app/server.sh", &script("three-"));
    gateway.wait_until("the mended one", || has(&gateway, "a__three-echo"));
}
