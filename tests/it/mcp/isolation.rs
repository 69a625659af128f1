//! Sessions with a worker of their own (`"isolation": "session"`): it is started for this client, and speaks to it alone.

use serde_json::{Value, json};

use super::{
    calls_of,
    client::{Modern, Opening, Session},
    lines, start,
    stream::Stream,
    text_of, with_method,
};
use crate::{
    pool::Keys,
    support::{Gateway, KEY},
};

#[track_caller]
fn gateway(flags: &[&str]) -> Gateway {
    start("session", flags, &[])
}

/// What a session's worker was sent.
#[track_caller]
fn heard(session: &Session) -> Vec<Value> {
    lines(&session.text("heard", json!({})))
}

/// The server says this behind the answer to a call of `session`.
#[track_caller]
fn say_later(session: &Session, message: Value) {
    assert_eq!(session.text("say", json!({"messages": [message], "after": true})), "done");
}

#[test]
fn each_session_has_a_worker_of_its_own() {
    let gateway = gateway(&[]);
    let common = gateway.call("pid", "{}").data().as_str().unwrap().to_owned();
    let sessions = [Session::open(&gateway), Session::open(&gateway), Session::able(&gateway)];
    let pids = sessions.each_ref().map(|session| session.text("pid", json!({})));
    for (n, pid) in pids.iter().enumerate() {
        assert!(*pid != common && !pids[..n].contains(pid), "{pids:?}, common {common}");
    }
    for (session, pid) in sessions.iter().zip(&pids) {
        assert_eq!(session.text("pid", json!({})), *pid);
    }
    assert_eq!(gateway.stats()["servers"]["helper"]["pool"]["isolated_workers"], 3);
}

#[test]
fn modern_clients_share_their_workers() {
    let gateway = gateway(&[]);
    let pid = Modern::new(&gateway).text("pid", json!({}));
    for _ in 0..3 {
        assert_eq!(Modern::new(&gateway).text("pid", json!({})), pid);
    }
}

#[test]
fn the_worker_is_told_who_its_client_is_and_what_it_can() {
    let gateway = gateway(&["--record"]);
    let capabilities =
        json!({"roots": {"listChanged": true}, "sampling": {"tools": {}}, "experimental": {"x": {"y": 1}}});
    let session = Opening::new().able_to(capabilities.clone()).open(&gateway);
    let heard = heard(&session);
    let initialize = with_method(&heard, "initialize")[0];
    assert_eq!(initialize["params"]["capabilities"], capabilities, "{initialize}");
    assert_eq!(initialize["params"]["clientInfo"], json!({"name": "test-client", "version": "0.1"}), "{initialize}");
    assert_eq!(with_method(&heard, "notifications/initialized").len(), 1, "{heard:#?}");

    let plain = Session::open(&gateway);
    let heard = self::heard(&plain);
    assert_eq!(with_method(&heard, "initialize")[0]["params"]["capabilities"], json!({}));
}

#[test]
fn changed_roots_are_told_to_the_worker() {
    let gateway = gateway(&["--record"]);
    let (session, other) = (Session::able(&gateway), Session::able(&gateway));
    session.notify("notifications/roots/list_changed", json!({}));
    gateway.wait_until("the news at the worker", || {
        !with_method(&heard(&session), "notifications/roots/list_changed").is_empty()
    });
    assert!(with_method(&heard(&other), "notifications/roots/list_changed").is_empty());
}

#[test]
fn what_the_server_says_outside_of_requests_comes_on_the_standalone_stream_of_its_session_alone() {
    let gateway = gateway(&[]);
    let sessions = [Session::open(&gateway), Session::open(&gateway)];
    let mut streams: Vec<Stream> = sessions.iter().map(Session::get).collect();
    for (n, session) in sessions.iter().enumerate() {
        let data = format!("for {n}");
        let log =
            json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": data}});
        say_later(session, log.clone());
        assert_eq!(streams[n].expect("notifications/message"), log);
    }
    for (session, stream) in sessions.iter().zip(&mut streams) {
        session.text("change", json!({"what": "tools"}));
        stream.expect("notifications/tools/list_changed");
    }
}

#[test]
fn a_question_outside_of_requests_comes_on_the_standalone_stream() {
    let gateway = gateway(&["--record"]);
    let session = Session::able(&gateway);
    let mut standing = session.get();
    say_later(&session, json!({"jsonrpc": "2.0", "id": "own", "method": "roots/list"}));
    let question = standing.expect("roots/list");
    session.respond(&question, json!({"roots": [{"uri": "file:///x"}]}));
    let answer = json!({"jsonrpc": "2.0", "id": "own", "result": {"roots": [{"uri": "file:///x"}]}});
    gateway.wait_until("the answer at the worker", || heard(&session).contains(&answer));
    // One that this client cannot be asked is refused by the gateway.
    let plain = Session::open(&gateway);
    say_later(&plain, json!({"jsonrpc": "2.0", "id": 5, "method": "roots/list"}));
    let is_refused = |line: &Value| line["id"] == 5 && line["error"]["code"] == -32601;
    gateway.wait_until("the refusal at the worker", || heard(&plain).iter().any(is_refused));
}

#[test]
fn calls_of_an_able_client_run_at_the_same_time() {
    let gateway = gateway(&[]);
    let session = Session::able(&gateway);
    let mut asking = session.call(1, "ask", json!({"method": "elicitation/create", "value": "well?"})).stream();
    let question = asking.expect("elicitation/create");
    assert_eq!(session.text("echo", json!({"n": 2})), r#"{"n":2}"#);
    session.respond(&question, json!({}));
    asking.response(1);
}

#[test]
fn two_questions_of_a_session_come_each_on_a_stream_and_find_their_way_back() {
    let gateway = gateway(&[]);
    let session = Session::able(&gateway);
    let mut streams = ["a", "b"]
        .map(|word| session.call(word, "ask", json!({"method": "sampling/createMessage", "value": word})).stream());
    let mut questions = streams.each_mut().map(|stream| stream.expect("sampling/createMessage"));
    // A server does not say which call a question belongs to.
    questions.sort_by_key(|question| question["params"].to_string());
    for (question, word) in questions.iter().zip(["a", "b"]).rev() {
        assert!(question.to_string().contains(&format!("\"{word}\"")), "{question}");
        session.respond(question, json!({"to": word}));
    }
    for (stream, word) in streams.iter_mut().zip(["a", "b"]) {
        assert!(text_of(&stream.response(word)).contains(&format!(r#""to":"{word}""#)), "{word}");
    }
}

#[test]
fn a_question_that_the_server_takes_back_is_taken_back_by_the_id_the_client_knows() {
    let gateway = gateway(&[]);
    let session = Session::able(&gateway);
    let mut asking = session.call(1, "ask", json!({"method": "elicitation/create", "value": "well?"})).stream();
    let question = asking.expect("elicitation/create");
    // The helper counts its questions from 1.
    let cancelled = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}});
    let told = session.call(2, "say", json!({"messages": [cancelled]})).messages();
    let message = match told.iter().find(|it| it["method"] == "notifications/cancelled") {
        Some(message) => message.clone(),
        None => asking.expect("notifications/cancelled"),
    };
    assert_eq!(message["params"]["requestId"], question["id"], "{message}");
}

#[test]
fn the_worker_hears_of_a_cancellation_by_its_own_id() {
    let gateway = gateway(&["--record"]);
    let session = Session::open(&gateway);
    let mut stream = session.follow("c", "t", "stream", json!({"n": 1, "gate": "end"})).stream();
    stream.expect("notifications/progress");
    session.notify("notifications/cancelled", json!({"requestId": "c"}));
    stream.end();
    gateway.wait_until("the cancellation", || !with_method(&heard(&session), "notifications/cancelled").is_empty());
    let heard = heard(&session);
    let cancelled = &with_method(&heard, "notifications/cancelled")[0]["params"]["requestId"];
    assert_eq!(*cancelled, calls_of(&heard, "stream")[0]["id"], "{heard:#?}");
}

#[test]
fn more_workers_than_allowed_are_refused_and_the_others_go_on() {
    let gateway = start("session", &[], &[("SESSION_WORKERS_MAX", "2")]);
    let sessions = [Session::open(&gateway), Session::open(&gateway)];
    let pids = sessions.each_ref().map(|session| session.text("pid", json!({})));
    // At its begin or with its first call, but it is told.
    let refused = Opening::new().try_open(&gateway);
    let error = match refused.header("Mcp-Session-Id") {
        None => refused.json()["error"].clone(),
        Some(id) => {
            let headers = [("X-API-Key", KEY), ("Mcp-Session-Id", id), ("Content-Type", "application/json")];
            let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pid"}}"#;
            gateway.request("POST", "/mcp", &headers, body.as_bytes()).json()["error"].clone()
        }
    };
    assert_eq!((&error["code"], &error["data"]["code"]), (&json!(-32603), &json!("overloaded")), "{error}");
    for (session, pid) in sessions.iter().zip(&pids) {
        assert_eq!(session.text("pid", json!({})), *pid);
    }
}

#[test]
fn each_key_can_have_workers_of_its_own() {
    let keys = Keys::new();
    let (one, two) = (keys.make("one", None), keys.make("two", None));
    let gateway = start("key", &[], &[("API_KEYS_FILE", &keys.path())]);
    let pid = |key: &str| Opening::new().key(key).open(&gateway).text("pid", json!({}));
    let (first, second) = (pid(&one), pid(&two));
    assert_ne!(first, second);
    assert_eq!((pid(&one), pid(&two)), (first, second));
}

#[test]
fn what_changes_in_the_worker_of_a_key_is_told_to_no_other_key() {
    let keys = Keys::new();
    let (one, two) = (keys.make("one", None), keys.make("two", None));
    let gateway = start("key", &[], &[("API_KEYS_FILE", &keys.path())]);
    let sessions = [&one, &two].map(|key| Opening::new().key(key).open(&gateway));
    let mut streams = sessions.each_ref().map(Session::get);
    let filter = json!({
        "promptsListChanged": true, "toolsListChanged": true,
        "resourceSubscriptions": ["helper://text", "helper://json"],
    });
    let mut listening = [&one, &two].map(|key| Modern::new(&gateway).key(key).listen("l", filter.clone()).0);
    for session in &sessions {
        for uri in ["helper://text", "helper://json"] {
            session.result("resources/subscribe", json!({ "uri": uri }));
        }
    }
    for (n, [uri, what]) in [["helper://text", "prompts"], ["helper://json", "tools"]].into_iter().enumerate() {
        sessions[n].text("update", json!({"uri": uri, "anyway": true}));
        sessions[n].text("change", json!({ "what": what }));
        // The first that the second key hears is its own.
        for stream in [&mut streams[n], &mut listening[n]] {
            assert_eq!(stream.expect("notifications/resources/updated")["params"]["uri"], uri);
            stream.expect(&format!("notifications/{what}/list_changed"));
        }
    }
    // And the first key hears nothing of the second.
    sessions[0].text("change", json!({"what": "resources"}));
    streams[0].expect("notifications/resources/list_changed");
}
