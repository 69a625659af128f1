//! Clients at the same time, with the same ids and progress tokens: each hears its own, and nothing else.

use std::thread;

use serde_json::{Value, json};

use super::{
    ISOLATIONS,
    client::{Modern, Session},
    heard, in_flight, open_gate, progress_of, shared, start, text_of,
};
use crate::support::Gateway;

/// Settings under which fifty sessions may each have a worker.
const MANY: [(&str, &str); 2] = [("SESSION_WORKERS_MAX", "64"), ("QUEUE_MAX", "4096")];

/// What is told of a call of `progress` with these steps: that, with this token, and the response.
#[track_caller]
fn check_progress(messages: &[Value], id: &Value, token: &Value, name: &str, n_steps: usize) {
    let expected: Vec<String> = (1..=n_steps).map(|step| format!("{name} step {step}")).collect();
    assert_eq!(progress_of(messages), expected, "{messages:#?}");
    let (response, steps) = messages.split_last().unwrap();
    assert!(steps.iter().all(|step| step["params"]["progressToken"] == *token), "{messages:#?}");
    assert_eq!((steps.len(), &response["id"]), (n_steps, id), "{messages:#?}");
}

#[test]
fn two_sessions_with_the_same_ids_and_tokens_hear_their_own() {
    for isolation in ISOLATIONS {
        let gateway = start(isolation, &[], &[]);
        let sessions = [("left", Session::open(&gateway)), ("right", Session::open(&gateway))];
        for round in 0..20 {
            let text = json!(round.to_string());
            let (id, token) = if round % 2 == 0 { (json!(round), json!(1)) } else { (text, json!("t")) };
            let arguments = |name: &str| json!({"n": 4, "ms": 2, "value": name});
            // Both are sent before either is read.
            let posted = sessions
                .each_ref()
                .map(|(name, session)| session.follow(id.clone(), token.clone(), "progress", arguments(name)));
            for (posted, (name, _)) in posted.into_iter().zip(&sessions) {
                check_progress(&posted.messages(), &id, &token, name, 4);
            }
        }
    }
}

#[test]
fn two_calls_whose_ids_and_tokens_differ_in_type_only_are_two() {
    for isolation in ISOLATIONS {
        let gateway = start(isolation, &[], &[]);
        let session = Session::open(&gateway);
        let arguments = |name: &str| json!({"n": 1, "gate": "end", "value": name});
        let mut number = session.follow(1, 1, "stream", arguments("number")).stream();
        let mut text = session.follow("1", "1", "stream", arguments("text")).stream();
        let (step_of_number, step_of_text) =
            (number.expect("notifications/progress"), text.expect("notifications/progress"));
        assert_eq!(step_of_number["params"]["progressToken"], 1);
        assert_eq!(step_of_number["params"]["message"], "number step 1");
        assert_eq!(step_of_text["params"]["progressToken"], "1");
        assert_eq!(step_of_text["params"]["message"], "text step 1");
        session.text("open", json!({"n": 2}));
        number.response(1);
        text.response("1");
    }
}

#[test]
fn tokens_at_the_server_are_told_apart() {
    let gateway = shared(&["--record"]);
    let sessions = [Session::open(&gateway), Session::open(&gateway), Session::open(&gateway)];
    let mut streams = sessions.each_ref().map(|session| {
        let mut stream = session.follow(1, 1, "stream", json!({"n": 1, "gate": "end"})).stream();
        stream.expect("notifications/progress");
        stream
    });
    let heard = heard(&gateway);
    let tokens: Vec<&Value> =
        super::calls_of(&heard, "stream").iter().map(|line| &line["params"]["_meta"]["progressToken"]).collect();
    assert_eq!(tokens.len(), 3);
    assert!(tokens[0] != tokens[1] && tokens[1] != tokens[2] && tokens[0] != tokens[2], "{tokens:?}");
    (0..3).for_each(|_| open_gate(&gateway));
    for stream in &mut streams {
        stream.response(1);
    }
}

#[test]
fn a_client_that_gave_no_token_is_told_of_no_progress() {
    let gateway = shared(&["--record"]);
    let session = Session::open(&gateway);
    let messages = session.call(1, "progress", json!({"n": 3})).messages();
    assert_eq!(messages.len(), 1, "{messages:#?}");
    // Nor of what the server makes up.
    let made_up = |token: Value| json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": token, "progress": 1}});
    let messages = session.call(2, "say", json!({"messages": [made_up(json!(1)), made_up(json!("t"))]})).messages();
    assert_eq!(messages.len(), 1, "{messages:#?}");
}

#[test]
fn progress_of_a_call_that_has_ended_is_not_told() {
    let gateway = shared(&["--record"]);
    let (session, other) = (Session::open(&gateway), Session::open(&gateway));
    let mut standing = session.get();
    session.follow(1, "t", "echo", json!({})).result();
    let heard = heard(&gateway);
    let token = super::calls_of(&heard, "echo")[0]["params"]["_meta"]["progressToken"].clone();
    let late = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": token, "progress": 1}});
    let messages = other.follow(1, "t", "say", json!({"messages": [late]})).messages();
    assert_eq!(messages.len(), 1, "{messages:#?}");
    other.text("change", json!({"what": "tools"}));
    standing.expect("notifications/tools/list_changed");
}

#[test]
fn logs_of_one_call_reach_no_other() {
    let gateway = shared(&[]);
    let (listener, talker) = (Session::open(&gateway), Session::open(&gateway));
    let mut standing = listener.get();
    let mut running = listener.follow(1, "t", "stream", json!({"n": 1, "gate": "end"})).stream();
    running.expect("notifications/progress");
    for n in 0..10 {
        let messages = talker.call(n, "log", json!({"n": 5, "data": "of the talker"})).messages();
        // With two calls in the worker nobody can say whose they are.
        assert!(messages.len() == 1 || messages.len() == 6, "{messages:#?}");
    }
    open_gate(&gateway);
    assert_eq!(text_of(&running.response(1)), "done");
    gateway.call("change", r#"{"what":"tools"}"#).expect_status(200);
    standing.expect("notifications/tools/list_changed");
}

/// Everything a client may hear of, five times; all clients use the same ids and tokens.
#[track_caller]
fn talk(gateway: &Gateway, n: usize) {
    let session = Session::able(gateway);
    let (name, uri) = (format!("client {n}"), format!("helper://item/{n}"));
    session.result("resources/subscribe", json!({"uri": uri}));
    let mut standing = session.get();
    for round in 1..=5 {
        let (number, text) = (json!(round), json!(round.to_string()));
        let posted = session.follow(number.clone(), text.clone(), "progress", json!({"n": 3, "value": name}));
        check_progress(&posted.messages(), &number, &text, &name, 3);
        let posted = session.follow(text.clone(), number.clone(), "progress", json!({"n": 2, "value": name}));
        check_progress(&posted.messages(), &text, &number, &name, 2);

        let messages = session.call(format!("log {round}"), "log", json!({"n": 2, "data": name})).messages();
        let logs: Vec<&Value> = messages.iter().map(|it| &it["params"]["data"]).collect();
        assert_eq!(logs, [&json!(name), &json!(name), &Value::Null], "{messages:#?}");

        let id = format!("ask {round}");
        let asking = json!({"method": "sampling/createMessage", "value": name});
        let mut stream = session.call(id.clone(), "ask", asking).stream();
        let question = stream.expect("sampling/createMessage");
        assert_eq!(question["params"]["messages"][0]["content"]["text"], *name, "{question}");
        session.respond(&question, json!({"to": name}));
        let response = stream.response(id);
        assert!(text_of(&response).contains(&format!(r#""to":"{name}""#)), "{response}");

        session.text("update", json!({"uri": uri}));
        let updated = standing.expect("notifications/resources/updated");
        assert_eq!(updated["params"]["uri"], *uri, "{updated}");
    }
    session.delete().expect_status(204);
}

#[test]
fn fifty_clients_at_once_hear_their_own() {
    for isolation in ISOLATIONS {
        let gateway = start(isolation, &[], &MANY);
        thread::scope(|scope| {
            for n in 0..50 {
                let gateway = &gateway;
                scope.spawn(move || talk(gateway, n));
            }
        });
        gateway.wait_until("nothing in flight", || in_flight(&gateway) == 0);
    }
}

#[test]
fn legacy_and_modern_clients_at_once_hear_their_own() {
    let settings = [("MIN_WORKERS", "2"), ("MAX_WORKERS", "2")];
    for flags in [&["--era", "legacy"][..], &["--era", "both"], &["--era", "modern"]] {
        let gateway = start("shared", flags, &settings);
        thread::scope(|scope| {
            for n in 0..10 {
                let gateway = &gateway;
                scope.spawn(move || {
                    let session = Session::open(gateway);
                    let name = format!("legacy {n}");
                    for round in 0..20 {
                        let posted = session.follow(round, 1, "progress", json!({"n": 3, "ms": 1, "value": name}));
                        check_progress(&posted.messages(), &json!(round), &json!(1), &name, 3);
                    }
                });
                scope.spawn(move || {
                    let modern = Modern::new(gateway);
                    let name = format!("modern {n}");
                    for round in 0..20 {
                        let posted = modern.follow(round, 1, "progress", json!({"n": 3, "ms": 1, "value": name}));
                        check_progress(&posted.messages(), &json!(round), &json!(1), &name, 3);
                    }
                });
            }
        });
    }
}

#[test]
fn a_session_sees_nothing_of_what_others_have_subscribed_to() {
    let gateway = shared(&[]);
    let sessions: Vec<Session> = (0..5).map(|_| Session::open(&gateway)).collect();
    let mut streams: Vec<_> = sessions.iter().map(Session::get).collect();
    for (n, session) in sessions.iter().enumerate() {
        session.result("resources/subscribe", json!({"uri": format!("helper://item/{n}")}));
    }
    for n in (0..5).rev() {
        let arguments = json!({"uri": format!("helper://item/{n}")}).to_string();
        gateway.call("update", &arguments).expect_status(200);
    }
    gateway.call("change", r#"{"what":"tools"}"#).expect_status(200);
    for (n, stream) in streams.iter_mut().enumerate() {
        let updated = stream.expect("notifications/resources/updated");
        assert_eq!(updated["params"]["uri"], format!("helper://item/{n}"));
        stream.expect("notifications/tools/list_changed");
    }
}
