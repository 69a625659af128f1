//! The standalone stream of a session (GET): changed lists, updated resources, and what is kept while nobody listens.

use serde_json::{Value, json};

use super::{
    ISOLATIONS,
    client::{Opening, Session, check_error},
    heard, in_flight, shared, start,
    stream::Stream,
    with_method,
};
use crate::support::Gateway;

const LISTS: [&str; 3] = ["tools", "prompts", "resources"];

#[track_caller]
fn subscribe(session: &Session, uri: &str) {
    assert_eq!(session.result("resources/subscribe", json!({"uri": uri})), json!({}));
}

/// Somebody else makes the shared worker tell of an update.
#[track_caller]
fn update(gateway: &Gateway, uri: &str) {
    gateway.call("update", &json!({"uri": uri, "anyway": true}).to_string()).expect_status(200);
}

#[track_caller]
fn expect_update(stream: &mut Stream, uri: &str) {
    let update = stream.expect("notifications/resources/updated");
    assert_eq!(update["params"], json!({"uri": uri}));
}

#[test]
fn every_session_hears_of_changed_lists() {
    for isolation in ISOLATIONS {
        let gateway = start(isolation, &[], &[]);
        let sessions = [Session::open(&gateway), Session::open(&gateway)];
        let mut streams = sessions.each_ref().map(Session::get);
        for what in LISTS {
            // With workers of their own, each hears of its own.
            let n_changes = if isolation == "session" { 2 } else { 1 };
            for session in &sessions[..n_changes] {
                session.text("change", json!({"what": what}));
            }
            for stream in &mut streams {
                let message = stream.expect(&format!("notifications/{what}/list_changed"));
                assert!(message.get("id").is_none(), "{message}");
            }
        }
    }
}

#[test]
fn a_changed_list_that_plain_http_has_caused_is_told_too() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    let mut stream = session.get();
    gateway.call("set_tools", r#"{"names":["echo","update","change"]}"#).expect_status(200);
    stream.expect("notifications/tools/list_changed");
}

#[test]
fn an_update_is_told_to_those_who_subscribed() {
    for isolation in ISOLATIONS {
        let gateway = start(isolation, &[], &[]);
        let (one, two) = (Session::open(&gateway), Session::open(&gateway));
        subscribe(&one, "helper://text");
        subscribe(&two, "helper://json");
        let (mut ones, mut twos) = (one.get(), two.get());
        for session in [&one, &two] {
            for uri in ["helper://text", "helper://json"] {
                session.text("update", json!({"uri": uri}));
            }
        }
        // Shared, each is told of both calls; alone, of its own one.
        let n_updates = if isolation == "session" { 1 } else { 2 };
        for _ in 0..n_updates {
            expect_update(&mut ones, "helper://text");
            expect_update(&mut twos, "helper://json");
        }
        for (session, stream) in [(&one, &mut ones), (&two, &mut twos)] {
            session.text("change", json!({"what": "tools"}));
            stream.expect("notifications/tools/list_changed");
        }
    }
}

#[test]
fn a_subscription_ends_when_it_is_taken_back_and_those_of_others_go_on() {
    let gateway = shared(&["--record"]);
    let (one, two) = (Session::open(&gateway), Session::open(&gateway));
    let (mut ones, mut twos) = (one.get(), two.get());
    for session in [&one, &two] {
        subscribe(session, "helper://text");
    }
    update(&gateway, "helper://text");
    expect_update(&mut ones, "helper://text");
    expect_update(&mut twos, "helper://text");

    assert_eq!(one.result("resources/unsubscribe", json!({"uri": "helper://text"})), json!({}));
    assert_eq!(two.text("update", json!({"uri": "helper://text"})), r#"["helper://text"]"#, "the server still tells");
    expect_update(&mut twos, "helper://text");
    two.text("change", json!({"what": "tools"}));
    ones.expect("notifications/tools/list_changed");
    twos.expect("notifications/tools/list_changed");

    assert_eq!(two.result("resources/unsubscribe", json!({"uri": "helper://text"})), json!({}));
    gateway.wait_until("the end of the subscription", || two.text("update", json!({"uri": "helper://x"})) == "[]");
    let heard = heard(&gateway);
    assert!(!with_method(&heard, "resources/unsubscribe").is_empty(), "{heard:#?}");
}

#[test]
fn a_subscription_the_server_refuses_is_refused() {
    for isolation in ISOLATIONS {
        let gateway = start(isolation, &[], &[]);
        let session = Session::open(&gateway);
        for method in ["resources/subscribe", "resources/unsubscribe"] {
            let error = session.error(method, json!({"uri": "helper://gone"}));
            let expected = json!({"code": -32002, "message": "Resource not found", "data": {"uri": "helper://gone"}});
            assert_eq!(error, expected, "{method}");
        }
        let mut stream = session.get();
        session.text("update", json!({"uri": "helper://gone", "anyway": true}));
        session.text("change", json!({"what": "tools"}));
        stream.expect("notifications/tools/list_changed");
    }
}

#[test]
fn what_is_said_while_nobody_listens_is_kept() {
    for isolation in ISOLATIONS {
        let gateway = start(isolation, &[], &[]);
        let session = Session::open(&gateway);
        subscribe(&session, "helper://text");
        // Before there ever was a stream.
        session.text("update", json!({"uri": "helper://text"}));
        session.text("change", json!({"what": "prompts"}));
        let mut stream = session.get();
        expect_update(&mut stream, "helper://text");
        stream.expect("notifications/prompts/list_changed");
        // And after one has gone.
        drop(stream);
        gateway.wait_until("the end of the stream", || gateway.stats()["connections"]["open"] == 1);
        session.text("change", json!({"what": "tools"}));
        session.text("update", json!({"uri": "helper://text"}));
        let mut stream = session.get();
        // A changed list may be told later, when the new one is known.
        let mut methods = [stream.message()["method"].take(), stream.message()["method"].take()];
        methods.sort_by_key(Value::to_string);
        assert_eq!(methods, ["notifications/resources/updated", "notifications/tools/list_changed"]);
    }
}

#[test]
fn what_is_kept_is_bounded() {
    let gateway = start("shared", &[], &[("STREAM_QUEUE_BYTES", "16k")]);
    let session = Session::open(&gateway);
    subscribe(&session, "helper://text");
    for _ in 0..1000 {
        update(&gateway, "helper://text");
    }
    let mut stream = session.get();
    gateway.call("change", r#"{"what":"tools"}"#).expect_status(200);
    let mut n_updates = 0;
    while stream.message()["method"] == "notifications/resources/updated" {
        n_updates += 1;
    }
    assert!((1..1000).contains(&n_updates), "{n_updates} of 1000 were kept in 16 kB");
}

#[test]
fn a_second_stream_replaces_the_first() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    subscribe(&session, "helper://text");
    let mut first = session.get();
    update(&gateway, "helper://text");
    expect_update(&mut first, "helper://text");
    let mut second = session.get();
    first.end();
    update(&gateway, "helper://text");
    expect_update(&mut second, "helper://text");
    for _ in 0..5 {
        let mut next = session.get();
        second.end();
        update(&gateway, "helper://text");
        expect_update(&mut next, "helper://text");
        second = next;
    }
}

#[test]
fn a_quiet_stream_is_kept_alive() {
    let gateway = start("shared", &[], &[("SSE_KEEP_ALIVE", "0.1")]);
    for revision in ["2025-11-25", "2024-11-05"] {
        Opening::new().revision(revision).open(&gateway).get().expect_comments(3);
    }
}

#[test]
fn messages_of_a_request_stay_on_its_own_stream() {
    for isolation in ISOLATIONS {
        let gateway = start(isolation, &[], &[]);
        let session = Session::open(&gateway);
        let mut standing = session.get();
        let messages = session.follow(1, "t", "progress", json!({"n": 2})).messages();
        assert_eq!(messages.len(), 3, "{messages:#?}");
        let messages = session.call(2, "log", json!({"n": 2})).messages();
        assert_eq!(messages.len(), 3, "{messages:#?}");
        session.text("change", json!({"what": "tools"}));
        standing.expect("notifications/tools/list_changed");
    }
}

#[test]
fn messages_of_the_session_stay_on_its_standalone_stream() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    subscribe(&session, "helper://text");
    let mut standing = session.get();
    let mut running = session.follow(1, "t", "stream", json!({"n": 1, "gate": "end"})).stream();
    running.expect("notifications/progress");
    let messages = session.call(2, "update", json!({"uri": "helper://text"})).messages();
    assert_eq!((messages.len(), &messages[0]["id"]), (1, &json!(2)), "{messages:#?}");
    gateway.call("change", r#"{"what":"tools"}"#).expect_status(200);
    expect_update(&mut standing, "helper://text");
    standing.expect("notifications/tools/list_changed");
    super::open_gate(&gateway);
    running.response(1);
}

#[test]
fn what_other_sessions_do_is_not_told() {
    let gateway = shared(&[]);
    let (quiet, busy) = (Session::open(&gateway), Session::able(&gateway));
    let mut stream = quiet.get();
    busy.follow(1, "t", "progress", json!({"n": 5})).result();
    busy.call(2, "log", json!({"n": 5})).result();
    let mut asking = busy.call(3, "ask", json!({"method": "roots/list"})).stream();
    let question = asking.expect("roots/list");
    busy.respond(&question, json!({"roots": []}));
    asking.response(3);
    gateway.wait_until("nothing in flight", || in_flight(&gateway) == 0);
    gateway.call("change", r#"{"what":"tools"}"#).expect_status(200);
    stream.expect("notifications/tools/list_changed");
}

#[test]
fn a_stream_that_is_refused_replaces_nothing() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    let mut stream = session.get();
    check_error(&session.try_get(Some("nonsense")).reply(), 400, -32600, None);
    gateway.call("change", r#"{"what":"tools"}"#).expect_status(200);
    stream.expect("notifications/tools/list_changed");
}
