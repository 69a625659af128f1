//! Several servers on one folder, in threads and in processes.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{
    collections::HashSet,
    env,
    mem::ManuallyDrop,
    process::{self, Stdio},
    sync::Barrier,
    thread,
};

use mcpgate::mcp::revision::LEGACY;
use serde_json::json;

use super::{
    SAMPLES,
    client::{Client, Folder},
};

/// Tells a process that was started by a test where to write.
const CHILD_FOLDER: &str = "MCPGATE_TEST_JOURNEYS_FOLDER";

#[test]
fn what_one_client_creates_the_others_see() {
    let folder = Folder::new();
    let (mut one, mut other) = (Client::latest(&folder), Client::connect(&folder, LEGACY[3]));
    let id = one.create("Shared");
    assert_eq!(other.act(json!({"action": "get", "id": id}))["journey"]["name"], "Shared");
    other.act(json!({"action": "delete", "id": id}));
    assert_eq!(one.list(json!({})).len(), SAMPLES);
}

#[test]
fn eight_servers_that_start_at_once_on_a_fresh_folder_fill_it_once() {
    // Often, because the moment is short.
    for _ in 0..10 {
        let folder = Folder::new();
        let start = Barrier::new(8);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    start.wait();
                    assert_eq!(Client::latest(&folder).list(json!({})).len(), SAMPLES);
                });
            }
        });
    }
}

#[test]
fn eight_clients_that_write_at_once_lose_nothing() {
    let folder = Folder::new();
    let shared = Client::latest(&folder).create("Shared");
    let start = Barrier::new(8);
    thread::scope(|scope| {
        for writer in 0..8 {
            let (folder, shared, start) = (&folder, &shared, &start);
            scope.spawn(move || write_as(folder, &format!("writer {writer}"), shared, start));
        }
    });
    check_all_written(&folder, &shared);
}

/// One of eight writers: five journeys of its own, and five steps on the shared one.
fn write_as(folder: &Folder, writer: &str, shared: &str, start: &Barrier) {
    let mut client = Client::latest(folder);
    start.wait();
    for n in 0..5 {
        client.create(&format!("{writer} journey {n}"));
        client.act(json!({"action": "add_step", "id": shared, "step": format!("{writer} step {n}")}));
    }
}

#[track_caller]
fn check_all_written(folder: &Folder, shared: &str) {
    let mut client = Client::latest(folder);
    let journeys = client.list(json!({"limit": 100}));
    let written: HashSet<_> = journeys.iter().filter(|it| it.contains(" journey ")).collect();
    assert_eq!(written.len(), 8 * 5);
    assert_eq!(journeys.iter().filter(|it| *it == "Make a first call").count(), 1, "filled more than once");
    let shared = client.act(json!({"action": "get", "id": shared}))["journey"].clone();
    let steps = shared["steps"].as_array().unwrap();
    let texts = steps.iter().map(|it| it["text"].as_str().unwrap());
    let texts: HashSet<_> = texts.filter(|it| it.contains(" step ")).collect();
    let numbers: Vec<_> = steps.iter().map(|it| it["number"].as_u64().unwrap()).collect();
    assert_eq!(texts.len(), 8 * 5);
    assert!(numbers.into_iter().eq(1..=steps.len() as u64));
}

#[test]
fn eight_processes_that_start_and_write_at_once_fill_the_folder_once_and_lose_nothing() {
    let folder = Folder::new();
    let test_binary = env::current_exe().unwrap();
    let children: Vec<_> = (0..8)
        .map(|_| {
            #[allow(clippy::disallowed_methods, reason = "a second process of this test, not a worker")]
            process::Command::new(&test_binary)
                .args(["--exact", "journeys::sharing::a_process_that_another_test_started_writes", "--include-ignored"])
                .env(CHILD_FOLDER, &folder.0)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    check_all_written(&folder, "own-server");
}

#[test]
#[ignore = "only does something in a process that another test starts"]
fn a_process_that_another_test_started_writes() {
    let Some(path) = env::var_os(CHILD_FOLDER) else { return };
    // Not ours to remove.
    let folder = ManuallyDrop::new(Folder(path.into()));
    write_as(&folder, &format!("process {}", process::id()), "own-server", &Barrier::new(1));
}
