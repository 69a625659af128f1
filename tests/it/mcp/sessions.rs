//! Sessions: how they begin, whose they are, how many there may be, and how they end.

use serde_json::{Value, json};

use super::{
    client::{Modern, NEWEST, Opening, PLAIN, Session, changed, check_error, request},
    launch, open_gate, shared, start,
    stream::Posted,
};
use crate::{
    pool::Keys,
    support::{Folder, Gateway, Helper, KEY, Reply},
};

const PING: &str = r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#;

const REVISIONS: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];

/// Processes of sessions.
fn isolated_workers(gateway: &Gateway) -> Value {
    gateway.stats()["servers"]["helper"]["pool"]["isolated_workers"].clone()
}

/// One request of each kind in a session, of this key.
#[track_caller]
fn ask_in(gateway: &Gateway, key: &str, session: Option<&str>) -> [Reply; 3] {
    let headers = changed(&PLAIN, &[("X-API-Key", Some(key)), ("Mcp-Session-Id", session)]);
    [("POST", PING), ("GET", ""), ("DELETE", "")]
        .map(|(method, body)| Posted::send(gateway, method, "/mcp", &headers, body).reply())
}

#[test]
fn initialize_begins_a_session_with_an_id_of_its_own() {
    let gateway = shared(&[]);
    let ids: Vec<String> = (0..5).map(|_| Session::open(&gateway).id).collect();
    for (n, id) in ids.iter().enumerate() {
        let is_hex = id.len() == 32 && id.bytes().all(|it| it.is_ascii_hexdigit());
        assert!(is_hex, "expected: 32 hex letters\nactual: {id}");
        assert!(!ids[..n].contains(id), "the same session twice: {ids:?}");
    }
}

#[test]
fn a_known_revision_is_spoken_and_for_any_other_the_newest() {
    let gateway = shared(&[]);
    for revision in REVISIONS {
        assert_eq!(Opening::new().revision(revision).open(&gateway).result["protocolVersion"], revision);
    }
    for revision in ["2024-10-07", "2026-07-28", "2099-01-01", "", "newest"] {
        let reply = Opening::new().revision(revision).try_open(&gateway);
        reply.expect_status(200).expect(reply.json()["result"]["protocolVersion"] == NEWEST, NEWEST);
    }
}

#[test]
fn what_an_older_server_speaks_does_not_matter_to_the_client() {
    let gateway = shared(&["--revision", "2024-11-05"]);
    for revision in REVISIONS {
        let session = Opening::new().revision(revision).open(&gateway);
        assert_eq!(session.result["protocolVersion"], revision);
        assert_eq!(session.text("echo", json!({"a": 1})), r#"{"a":1}"#);
    }
}

#[test]
fn the_only_server_introduces_itself() {
    let capabilities = r#"{"tools":{"listChanged":false},"prompts":{},"resources":{"subscribe":true},"completions":{},"tasks":{"list":{}},"experimental":{"x":{"y":1}}}"#;
    for isolation in super::ISOLATIONS {
        let flags = ["--capabilities", capabilities, "--instructions", "Ask \"nicely\"."];
        let gateway = start(isolation, &flags, &[]);
        for endpoint in ["/mcp", "/servers/helper/mcp"] {
            let result = Opening::new().at(endpoint).open(&gateway).result;
            assert_eq!(result["serverInfo"], json!({"name": "helper", "version": "1.0.0"}), "{result}");
            assert_eq!(result["instructions"], "Ask \"nicely\".", "{result}");
            let mut expected: Value = serde_json::from_str(capabilities).unwrap();
            if isolation == "shared" {
                // In one process the tasks of one client could be seen by others.
                expected.as_object_mut().unwrap().remove("tasks");
            }
            assert_eq!(result["capabilities"], expected, "{result}");
        }
    }
}

#[test]
fn without_a_session_there_is_only_initialize() {
    let gateway = shared(&[]);
    let [post, get, delete] = ask_in(&gateway, KEY, None);
    check_error(&post, 400, -32600, Some(json!("p")));
    check_error(&get, 400, -32600, None);
    check_error(&delete, 400, -32600, None);
    let others = [
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
        r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#,
    ];
    for body in others {
        Posted::send(&gateway, "POST", "/mcp", &PLAIN, body).reply().expect_status(400);
    }
}

#[test]
fn a_session_that_there_is_not_is_not_found() {
    let gateway = shared(&[]);
    for id in ["0123456789abcdef0123456789abcdef", "x", "!~"] {
        let [post, get, delete] = ask_in(&gateway, KEY, Some(id));
        check_error(&post, 404, -32600, Some(json!("p")));
        check_error(&get, 404, -32600, None);
        check_error(&delete, 404, -32600, None);
    }
}

#[test]
fn a_session_of_another_key_is_not_found() {
    let keys = Keys::new();
    let (one, two) = (keys.make("one", None), keys.make("two", None));
    for isolation in super::ISOLATIONS {
        let gateway = start(isolation, &[], &[("API_KEYS_FILE", &keys.path())]);
        let session = Opening::new().key(&one).open(&gateway);
        for key in [&*two, KEY] {
            let [post, get, delete] = ask_in(&gateway, key, Some(&session.id));
            check_error(&post, 404, -32600, Some(json!("p")));
            check_error(&get, 404, -32600, None);
            check_error(&delete, 404, -32600, None);
        }
        // It has not ended of that.
        assert_eq!(session.result("ping", json!({})), json!({}));
    }
}

#[test]
fn a_session_begins_once() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    let reply = session.send("again", "initialize", Opening::new().params()).reply();
    check_error(&reply, 400, -32600, Some(json!("again")));
    assert_eq!(session.result("ping", json!({})), json!({}));
}

#[test]
fn another_legacy_revision_in_the_header_is_accepted_and_a_missing_one_too() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    for version in [None, Some("2024-11-05"), Some("2025-03-26"), Some("2025-06-18"), Some("2025-11-25")] {
        let headers = session.headers();
        let headers = changed(&headers, &[("MCP-Protocol-Version", version)]);
        Posted::send(&gateway, "POST", "/mcp", &headers, PING).reply().expect_status(200);
    }
    // What is no legacy revision is taken for a modern one.
    let headers = session.headers();
    let headers = changed(&headers, &[("MCP-Protocol-Version", Some("1999-01-01"))]);
    Posted::send(&gateway, "POST", "/mcp", &headers, PING).reply().expect_status(400);
}

#[test]
fn more_sessions_than_allowed_are_refused_until_one_ends() {
    for isolation in super::ISOLATIONS {
        let gateway = start(isolation, &[], &[("SESSIONS_MAX", "2")]);
        let (one, two) = (Session::open(&gateway), Session::open(&gateway));

        let refused = Opening::new().try_open(&gateway);
        check_error(&refused, 503, -32603, Some(json!(0)));
        refused.expect(refused.header("Retry-After").is_some(), "a Retry-After");
        refused.expect(refused.header("Mcp-Session-Id").is_none(), "no session");
        refused.expect(refused.json()["error"]["data"]["code"] == "overloaded", "data.code `overloaded`");
        // Neither those there are nor modern clients, who need no session, notice.
        for session in [&one, &two] {
            assert_eq!(session.text("echo", json!({})), "{}");
        }
        assert_eq!(Modern::new(&gateway).text("echo", json!({})), "{}");
        one.delete().expect_status(204);
        Session::open(&gateway);
        Opening::new().try_open(&gateway).expect_status(503);
    }
}

#[test]
fn a_deleted_session_is_not_found_any_more() {
    for isolation in super::ISOLATIONS {
        let gateway = start(isolation, &[], &[]);
        let (session, other) = (Session::open(&gateway), Session::open(&gateway));
        let deleted = session.delete();
        deleted.expect_status(204).expect(deleted.body.is_empty(), "an empty body");
        for reply in ask_in(&gateway, KEY, Some(&session.id)) {
            reply.expect_status(404).expect(reply.json()["error"]["code"] == -32600, "the error -32600");
        }
        assert_eq!(other.result("ping", json!({})), json!({}));
    }
}

#[test]
fn deleting_a_session_ends_its_streams_and_cancels_what_runs() {
    let gateway = shared(&["--record"]);
    let (session, other) = (Session::open(&gateway), Session::open(&gateway));
    session.result("resources/subscribe", json!({"uri": "helper://text"}));
    let mut standing = session.get();
    let mut running = session.follow(1, "t", "stream", json!({"n": 1, "gate": "end"})).stream();
    let mut others = other.follow(1, "t", "stream", json!({"n": 1, "gate": "end"})).stream();
    running.expect("notifications/progress");
    others.expect("notifications/progress");

    session.delete().expect_status(204);
    running.end();
    standing.end();
    gateway.wait_until("the cancellation", || gateway.counts()["cancels"] == 1);
    gateway
        .wait_until("the end of its subscription", || other.text("update", json!({"uri": "helper://item/1"})) == "[]");
    let heard = super::heard(&gateway);
    let id = &super::calls_of(&heard, "stream")[0]["id"];
    assert_eq!(super::with_method(&heard, "notifications/cancelled")[0]["params"]["requestId"], *id, "{heard:#?}");
    open_gate(&gateway);
    assert_eq!(super::text_of(&others.response(1)), "done", "the other session goes on");
}

#[test]
fn deleting_a_session_stops_its_worker() {
    let gateway = start("session", &[], &[]);
    let (session, other) = (Session::open(&gateway), Session::open(&gateway));
    let pid = other.text("pid", json!({}));
    let running = session.call(1, "silent", json!({}));
    gateway.wait_until("two workers of sessions", || isolated_workers(&gateway) == 2);

    session.delete().expect_status(204);
    gateway.wait_until("one worker of a session", || isolated_workers(&gateway) == 1);
    drop(running);
    assert_eq!(other.text("pid", json!({})), pid);
}

#[test]
fn a_client_that_goes_away_before_its_session_has_begun_leaves_no_worker() {
    let folder = Folder::new();
    let gate = folder.path().join("gate");
    let script = r#"while [ -e "$0" ]; do sleep 0.05; done; exec "$1""#;
    let entry = json!({"command": "sh", "args": ["-c", script, gate, Helper::program()], "isolation": "session"});
    let gateway = launch(&json!({ "helper": entry })).set("SESSION_WORKERS_MAX", "2").start();
    folder.file("gate", "");
    for n_done in 0..4 {
        let initialize = request(0, "initialize", &Opening::new().params());
        let posted = Posted::send(&gateway, "POST", "/mcp", &PLAIN, &initialize);
        gateway.wait_until("its worker", || isolated_workers(&gateway) == 1);
        drop(posted);
        gateway.wait_until(&format!("its end, after {n_done} others"), || isolated_workers(&gateway) == 0);
    }
    std::fs::remove_file(gate).unwrap();
    gateway.wait_until("one process", || gateway.processes().len() == 1);
    assert_eq!(Session::open(&gateway).text("echo", json!({})), "{}");
}

#[test]
fn a_session_nobody_uses_ends_by_itself() {
    for isolation in super::ISOLATIONS {
        let settings = [("SESSION_IDLE_TIMEOUT", "0.3"), ("SSE_KEEP_ALIVE", "0.1")];
        let gateway = start(isolation, &[], &settings);
        let (idle, listening, calling) = (Session::open(&gateway), Session::open(&gateway), Session::open(&gateway));
        let mut standing = listening.get();
        let mut running = calling.follow(1, "t", "stream", json!({"n": 1, "gate": "end"})).stream();
        running.expect("notifications/progress");

        // The signs of life are the clock: a second has passed.
        standing.expect_comments(10);
        let reply = idle.post(PING).reply();
        check_error(&reply, 404, -32600, Some(json!("p")));
        assert_eq!(listening.result("ping", json!({})), json!({}), "one with an open stream is not idle");
        assert_eq!(calling.text("open", json!({})), "done", "nor is one in a call");
        assert_eq!(super::text_of(&running.response(1)), "done");
    }
}

#[test]
fn the_worker_of_an_idle_session_is_stopped() {
    let gateway = start("session", &[], &[("SESSION_IDLE_TIMEOUT", "0.3")]);
    let session = Session::open(&gateway);
    session.text("echo", json!({}));
    gateway.wait_until("the end of its worker", || isolated_workers(&gateway) == 0);
    gateway.wait_until("one process", || gateway.processes().len() == 1);
    check_error(&session.post(PING).reply(), 404, -32600, Some(json!("p")));
}
