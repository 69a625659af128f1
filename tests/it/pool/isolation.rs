//! Workers of one's own: for each session, or for each key.

use std::fs;

use serde_json::{Value, json};

use super::{Keys, Sent, launch_servers, process, server, wait_for_end, workers};
use crate::{
    sse::client::EventStream,
    support::{Folder, Gateway, Helper, KEY, Launch, Reply},
    ws::client::{Socket, handshake},
};

fn launch(isolation: &str) -> Launch {
    let program = Helper::program().display().to_string();
    launch_servers(&json!({"helper": {"command": program, "isolation": isolation}}))
}

/// A gateway whose clients can have sessions, with its common workers up.
#[track_caller]
fn with_sessions(settings: &[(&str, &str)]) -> Gateway {
    let gateway = launch("session").set_all(settings).set("MIN_WORKERS", "1").set("MAX_WORKERS", "1").start();
    super::wait_for_workers(&gateway, 1);
    gateway
}

#[track_caller]
fn call(gateway: &Gateway, key: &str, session: &str, tool: &str, body: &str) -> Reply {
    let headers = [("X-API-Key", key), ("X-Session-Id", session)];
    gateway.request("POST", &format!("/tools/{tool}"), &headers, body.as_bytes())
}

/// The process that serves a session.
#[track_caller]
fn pid(gateway: &Gateway, session: &str) -> Value {
    call(gateway, KEY, session, "pid", "{}").data()
}

#[test]
fn a_session_has_a_worker_of_its_own() {
    let gateway = with_sessions(&[]);
    let common = gateway.call("pid", "{}").data();

    let (a, b) = (pid(&gateway, "a"), pid(&gateway, "b"));
    assert!(a != b && a != common && b != common, "a {a}, b {b}, common {common}");
    for _ in 0..5 {
        assert_eq!((pid(&gateway, "a"), pid(&gateway, "b")), (a.clone(), b.clone()));
        assert_eq!(gateway.call("pid", "{}").data(), common, "without a session");
    }
    let in_query = gateway.post("/tools/pid?session_id=a", "{}");
    in_query.expect_data(&a);

    let server = server(&gateway);
    assert_eq!(server["pool"]["isolated_workers"], 2, "{server:#}");
    let for_whom = |pid: &Value| {
        let workers = server["workers"].as_array().unwrap();
        let pid: u64 = pid.as_str().unwrap().parse().unwrap();
        workers.iter().find(|it| it["pid"] == pid).map(|it| it["for"].clone())
    };
    assert_eq!((for_whom(&a), for_whom(&common)), (Some(json!("session")), Some(Value::Null)), "{server:#}");
    assert_eq!(gateway.get("/health").json()["workers"]["total"], 1, "the common workers only");
}

#[test]
fn calls_of_a_session_at_the_same_time_go_to_its_one_worker() {
    let gateway = with_sessions(&[]);
    let replies: Vec<Value> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..8).map(|_| scope.spawn(|| pid(&gateway, "a"))).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    assert!(replies.iter().all(|it| *it == replies[0]), "{replies:?}");
}

#[test]
fn a_session_belongs_to_its_key() {
    let keys = Keys::new();
    let (one, two) = (keys.make("one", None), keys.make("two", None));
    let gateway = with_sessions(&[("API_KEYS_FILE", &keys.path())]);

    let pid = |key: &str| call(&gateway, key, "a", "pid", "{}").data();
    let (first, second) = (pid(&one), pid(&two));
    assert_ne!(first, second);
    assert_eq!((pid(&one), pid(&two)), (first, second));
}

#[test]
fn a_session_id_is_short_visible_ascii() {
    let gateway = with_sessions(&[]);
    for bad in ["two words", "é", "", &"x".repeat(129)] {
        call(&gateway, KEY, bad, "pid", "{}").expect_error(400, "bad_request", "X-Session-Id");
    }
    for good in ["!~#\"{}", &"x".repeat(128)] {
        call(&gateway, KEY, good, "pid", "{}").expect_status(200);
    }
    assert_eq!(server(&gateway)["pool"]["isolated_workers"], 2);
}

#[test]
fn a_session_more_than_allowed_is_refused_and_the_others_go_on() {
    let gateway = with_sessions(&[("SESSION_WORKERS_MAX", "2")]);
    let (a, b) = (pid(&gateway, "a"), pid(&gateway, "b"));

    let refused = call(&gateway, KEY, "c", "pid", "{}");
    refused.expect_error(503, "overloaded", "SESSION_WORKERS_MAX");
    refused.expect(refused.header("Retry-After").is_some(), "a Retry-After");
    assert_eq!((pid(&gateway, "a"), pid(&gateway, "b")), (a, b));
    gateway.call("echo", "{}").expect_status(200);
}

#[test]
fn a_session_without_calls_ends_with_its_worker_and_makes_room() {
    let gateway = with_sessions(&[("SESSION_WORKERS_MAX", "1"), ("SESSION_IDLE_TIMEOUT", "0.5")]);
    let a = process(pid(&gateway, "a").as_str().unwrap().parse().unwrap());

    wait_for_end(&gateway, "the session's worker", std::slice::from_ref(&a));
    gateway.wait_until("room", || server(&gateway)["pool"]["isolated_workers"] == 0);
    assert_eq!(workers(&gateway).len(), 1, "the common one is left");
    pid(&gateway, "b");
    gateway.wait_until("the end of the next session", || server(&gateway)["pool"]["isolated_workers"] == 0);
    assert_ne!(pid(&gateway, "a"), a.pid.to_string(), "a session that comes back has a new worker");
}

#[test]
fn a_session_in_a_call_is_not_idle() {
    let gateway = with_sessions(&[("SESSION_IDLE_TIMEOUT", "0.2")]);

    let body = r#"{"arguments":{"ms":1000}}"#;
    call(&gateway, KEY, "a", "delay", body).expect_data(&json!("done"));
}

#[test]
fn a_sessions_worker_that_dies_is_replaced_within_the_session() {
    let gateway = with_sessions(&[]);
    let (a, b) = (pid(&gateway, "a"), pid(&gateway, "b"));

    call(&gateway, KEY, "a", "crash", "{}").expect_error(502, "worker_crashed", "exited with code 1");
    let again = pid(&gateway, "a");
    assert_ne!(again, a);
    assert_eq!((pid(&gateway, "a"), pid(&gateway, "b")), (again, b));
    assert_eq!(server(&gateway)["pool"]["isolated_workers"], 2);
}

#[test]
fn a_session_whose_worker_cannot_come_back_ends_all_the_same() {
    let folder = Folder::new();
    let broken = folder.path().join("broken").display().to_string();
    let program = Helper::program().display().to_string();
    let args = ["--exit-while-exists", &broken];
    let gateway = launch_servers(&json!({"helper": {"command": program, "args": args, "isolation": "session"}}))
        .set_all(&[("MIN_WORKERS", "1"), ("SESSION_WORKERS_MAX", "1"), ("SESSION_IDLE_TIMEOUT", "0.5")])
        .start();
    super::wait_for_workers(&gateway, 1);

    folder.file("broken", "");
    call(&gateway, KEY, "a", "pid", "{}").expect_status(503);
    gateway.wait_until("its end", || server(&gateway)["pool"]["isolated_workers"] == 0);
    fs::remove_file(&broken).unwrap();
    call(&gateway, KEY, "b", "pid", "{}").expect_status(200);
}

#[test]
fn streams_and_sockets_are_part_of_a_session() {
    let gateway = with_sessions(&[]);
    let a = pid(&gateway, "a");

    let path = "/tools/pid/stream";
    for (path, session) in [(path, Some("a")), ("/tools/pid/stream?session_id=a", None)] {
        let mut headers = vec![("X-API-Key", KEY)];
        headers.extend(session.map(|session| ("X-Session-Id", session)));
        let mut connection = gateway.connect();
        connection.send("POST", path, &headers, b"{}").unwrap();
        let events = EventStream::answering(connection, &gateway, path).rest();
        let result = events.iter().find(|event| event.name == "result");
        assert_eq!(result.map(|event| &event.data["data"]), Some(&a), "{events:?}");
    }
    for (path, header) in [("/ws/tools/pid", "X-Session-Id: a\r\n"), ("/ws/tools/pid?session_id=a", "")] {
        let mut connection = gateway.connect();
        let head = format!("{}X-API-Key: {KEY}\r\n{header}\r\n", handshake(path));
        connection.send_raw(&head).unwrap();
        let mut socket = Socket::answering(connection, &gateway, &head);
        socket.call("1", "{}");
        socket.expect_complete("1", &a);
    }
}

#[test]
fn each_key_has_workers_of_its_own() {
    let keys = Keys::new();
    let (one, two) = (keys.make("one", None), keys.make("two", None));
    let gateway = launch("key").set("API_KEYS_FILE", &keys.path()).start();

    let pid = |key: &str| gateway.request("POST", "/tools/pid", &[("X-API-Key", key)], b"{}").data();
    let (first, second) = (pid(&one), pid(&two));
    assert_ne!(first, second);
    for _ in 0..3 {
        assert_eq!((pid(&one), pid(&two)), (first.clone(), second.clone()));
    }
    let for_whom: Vec<Value> = workers(&gateway).iter().map(|worker| worker["for"].clone()).collect();
    assert!(for_whom.contains(&json!("key one")) && for_whom.contains(&json!("key two")), "{for_whom:?}");
}

#[test]
fn a_shared_server_knows_no_sessions() {
    let gateway = launch("shared").set("MIN_WORKERS", "1").set("MAX_WORKERS", "1").start();

    assert_eq!(pid(&gateway, "a"), pid(&gateway, "b"));
    assert_eq!(server(&gateway)["pool"]["isolated_workers"], 0);
}

#[test]
fn an_isolation_that_there_is_not_is_named() {
    launch("shred").run().expect(2, &["isolation", "shred", "session"]);
}

#[test]
fn a_hundred_sessions_one_after_the_other_leave_nothing() {
    let gateway = with_sessions(&[("SESSION_WORKERS_MAX", "8"), ("SESSION_IDLE_TIMEOUT", "0.05")]);

    for n in 0..100 {
        let session = n.to_string();
        gateway.wait_until("room for a session", || call(&gateway, KEY, &session, "echo", "{}").status == 200);
    }
    gateway.wait_until("the end of all", || server(&gateway)["pool"]["isolated_workers"] == 0);
    gateway.wait_until("one process", || gateway.processes().len() == 1);
    // The common worker still serves.
    Sent::call(&gateway, "echo", &json!({})).reply().expect_status(200);
}
