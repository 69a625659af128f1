//! Workers and servers restarted by hand, without a failed call.

use std::{collections::BTreeSet, fs};

use serde_json::{Value, json};

use super::{Keys, pool_of, server, under_load, wait_for_workers, workers};
use crate::support::{Folder, Gateway, Helper, KEY, Launch, Reply};

#[track_caller]
fn expect_restarting(reply: &Reply, expected: &[&str]) {
    reply.expect_status(202);
    let body = reply.json();
    let mut ids: Vec<&str> = body["workers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    ids.sort_unstable();
    reply.expect(body["status"] == "restarting" && ids == expected, &format!("`restarting` with {expected:?}"));
}

#[track_caller]
fn pid_of(gateway: &Gateway, id: &str) -> u32 {
    let worker = workers(gateway).into_iter().find(|worker| worker["id"] == id);
    worker.and_then(|worker| worker["pid"].as_u64()).unwrap_or_else(|| panic!("no worker {id}")) as u32
}

#[test]
fn a_worker_is_replaced_and_no_call_fails() {
    let gateway = pool_of(2, &[], Helper::new());
    let (one, two) = (pid_of(&gateway, "helper-1"), pid_of(&gateway, "helper-2"));

    under_load(&gateway, 8, "write", &json!({"ms": 10}), || {
        expect_restarting(&gateway.post("/admin/workers/helper-1/restart", ""), &["helper-1"]);
        gateway.wait_until("another worker in its place", || {
            let (usable, pids) = (gateway.usable_workers(), gateway.worker_pids());
            assert!(2 <= usable, "only {usable} usable workers\n{}", gateway.framed_log());
            pids.len() == 2 && !pids.contains(&one)
        });
    });
    assert!(gateway.worker_pids().contains(&two), "the other one stays");
    assert_eq!(server(&gateway)["breaker"]["failures"], 0, "being restarted is no failure");
}

#[test]
fn all_workers_of_a_server_are_replaced_and_no_call_fails() {
    let gateway = pool_of(3, &[], Helper::new());
    let before = BTreeSet::from_iter(gateway.worker_pids());

    under_load(&gateway, 8, "write", &json!({"ms": 10}), || {
        let reply = gateway.post("/admin/servers/helper/restart", "");
        expect_restarting(&reply, &["helper-1", "helper-2", "helper-3"]);
        gateway.wait_until("3 other workers", || {
            let (usable, pids) = (gateway.usable_workers(), gateway.worker_pids());
            assert!(3 <= usable, "only {usable} usable workers\n{}", gateway.framed_log());
            pids.len() == 3 && pids.iter().all(|pid| !before.contains(pid))
        });
    });
}

#[test]
fn only_the_named_server_is_restarted() {
    let helper = Helper::program().display().to_string();
    let entry = || json!({"command": helper, "min_workers": 1, "max_workers": 1});
    let gateway = super::launch_servers(&json!({"one": entry(), "two": entry()})).start();
    let pid = |server: &str| gateway.stats()["servers"][server]["workers"][0]["pid"].clone();
    gateway.wait_until("both servers", || gateway.usable_workers() == 2);
    let (one, two) = (pid("one"), pid("two"));

    expect_restarting(&gateway.post("/admin/servers/two/restart", ""), &["two-1"]);
    gateway.wait_until("another worker", || pid("two").is_u64() && pid("two") != two);
    assert_eq!(pid("one"), one);
}

#[test]
fn what_is_not_there_cannot_be_restarted() {
    let gateway = pool_of(1, &[], Helper::new());

    gateway.post("/admin/workers/helper-9/restart", "").expect_error(404, "not_found", "helper-9");
    gateway.post("/admin/servers/elsewhere/restart", "").expect_error(404, "not_found", "elsewhere");
    gateway.post("/admin/workers/helper-1/explode", "").expect_error(404, "not_found", "explode");
}

#[test]
fn it_takes_a_post() {
    let gateway = pool_of(1, &[], Helper::new());
    let pids = gateway.worker_pids();

    for path in ["/admin/workers/helper-1/restart", "/admin/servers/helper/restart"] {
        let refused = gateway.get(path);
        refused.expect_error(405, "method_not_allowed", "GET");
        let allow = refused.header("Allow").unwrap_or_default().to_owned();
        refused.expect(allow.contains("POST") && !allow.contains("GET"), "an `Allow` with POST and without GET");
    }
    assert_eq!(gateway.worker_pids(), pids);
}

#[test]
fn it_takes_a_key_for_all_tools() {
    let keys = Keys::new();
    let (some, all) = (keys.make("some", Some("ec*")), keys.make("all", None));
    let gateway = pool_of(1, &[("API_KEYS_FILE", &keys.path())], Helper::new());
    let pids = gateway.worker_pids();

    for path in ["/admin/workers/helper-1/restart", "/admin/servers/helper/restart"] {
        gateway.request("POST", path, &[], b"").expect_error(401, "unauthorized", "key");
        gateway.request("POST", path, &[("X-API-Key", "wrong")], b"").expect_error(401, "unauthorized", "key");
        gateway.request("POST", path, &[("X-API-Key", &some)], b"").expect_error(403, "forbidden", "");
    }
    assert_eq!(gateway.worker_pids(), pids);
    for key in [&all, KEY] {
        let pids = gateway.worker_pids();
        gateway.request("POST", "/admin/servers/helper/restart", &[("X-API-Key", key)], b"").expect_status(202);
        gateway.wait_until("another worker", || {
            let now = gateway.worker_pids();
            now.len() == 1 && now != pids && gateway.usable_workers() == 1
        });
    }
}

#[test]
fn a_server_whose_breaker_is_open_is_tried_at_once() {
    let folder = Folder::new();
    let broken = folder.file("broken", "");
    let helper = Helper::with(&["--exit-while-exists", &broken.display().to_string()]);
    let gateway = Launch::new(helper).set("BREAKER_COOLDOWN", "3600").start_without_waiting();
    gateway.wait_until("the open breaker", || server(&gateway)["breaker"]["state"] == "open");

    // In vain at first: it opens again.
    gateway.post("/admin/servers/helper/restart", "").expect_status(202);
    let failures = || server(&gateway)["breaker"]["failures"].as_u64().unwrap_or_default();
    let before = failures();
    gateway.wait_until("the open breaker", || server(&gateway)["breaker"]["state"] == "open");
    assert!(before <= failures());
    fs::remove_file(broken).unwrap();
    gateway.wait_until("its workers", || {
        gateway.post("/admin/servers/helper/restart", "").expect_status(202);
        gateway.usable_workers() == 2
    });
    wait_for_workers(&gateway, 2);
    gateway.call("echo", "{}").expect_status(200);
}
