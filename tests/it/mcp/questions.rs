//! Questions of servers to legacy clients: whom they reach, how they are answered, and who is asked nothing.

use std::thread;

use serde_json::{Value, json};

use super::{
    ISOLATIONS,
    client::{Opening, Session, calling},
    heard, shared, start, text_of, with_method,
};
use crate::support::Gateway;

/// Method of a question, and the capability of a client that can be asked it.
const KINDS: [(&str, &str); 3] =
    [("sampling/createMessage", "sampling"), ("elicitation/create", "elicitation"), ("roots/list", "roots")];

fn able_to(capability: &str) -> Opening {
    Opening::new().able_to(json!({ capability: {} }))
}

/// What the server was answered, as the tool `ask` gives it back: the fields of the JSON-RPC answer.
#[track_caller]
fn answered(response: &Value) -> Value {
    serde_json::from_str(text_of(response)).unwrap_or_else(|cause| panic!("{response}: {cause}"))
}

#[test]
fn a_question_comes_on_the_stream_of_its_request_and_the_answer_goes_back() {
    let params =
        json!({"message": "how many? 🙂", "requestedSchema": {"type": "object", "properties": {"z": {}, "a": {}}}});
    for isolation in ISOLATIONS {
        let gateway = start(isolation, &[], &[]);
        for (method, capability) in KINDS {
            let session = able_to(capability).open(&gateway);
            let mut stream = session.call("q", "ask", json!({"method": method, "params": params})).stream();
            let question = stream.expect(method);
            assert_eq!(question["params"], params, "{question}");
            assert!(question["id"].is_string() || question["id"].is_i64(), "{question}");
            let result = json!({"action": "accept", "content": {"n": [1, null, "é"]}, "roots": []});
            session.respond(&question, result.clone());
            assert_eq!(answered(&stream.response("q"))["result"], result, "{method}");
        }
    }
}

#[test]
fn questions_and_answers_pass_byte_for_byte() {
    let gateway = shared(&[]);
    let session = Session::able(&gateway);
    let params = r#"{"message":"?","big":12345678901234567890,"z":1.10,"a":"é \"q\""}"#;
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"ask","arguments":{{"method":"elicitation/create","params":{params}}}}}}}"#
    );
    let mut stream = session.post(&body).stream();
    let event = stream.told();
    assert!(event.raw.contains(&format!(r#""params":{params}"#)), "{event:?}");
    let question: Value = serde_json::from_str(&event.raw).unwrap();
    let answer = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{params}}}"#, question["id"]);
    session.post(&answer).reply().expect_status(202);
    let response = stream.response(1);
    assert!(text_of(&response).contains(&format!(r#""result":{params}"#)), "{response}");
}

#[test]
fn a_question_can_be_refused() {
    let gateway = shared(&[]);
    let session = Session::able(&gateway);
    let mut stream = session.call(1, "ask", json!({"method": "sampling/createMessage", "value": "well?"})).stream();
    let question = stream.expect("sampling/createMessage");
    let error = json!({"code": -1, "message": "User rejected sampling request", "data": [1]});
    session.accepted(&json!({"jsonrpc": "2.0", "id": question["id"], "error": error}));
    assert_eq!(answered(&stream.response(1))["error"], error);
}

#[test]
fn a_client_is_asked_only_what_it_can_be_asked() {
    for isolation in ISOLATIONS {
        let gateway = start(isolation, &[], &[]);
        for (method, capability) in KINDS {
            let others = KINDS.iter().map(|kind| kind.1).filter(|kind| *kind != capability);
            let others: Value =
                others.map(|kind| (kind.to_owned(), json!({}))).collect::<serde_json::Map<_, _>>().into();
            for capabilities in [json!({}), others] {
                let session = Opening::new().able_to(capabilities).open(&gateway);
                let response = session.call(1, "ask", json!({"method": method, "value": "well?"})).response();
                assert_eq!(answered(&response)["error"]["code"], -32601, "{method}: {response}");
            }
        }
    }
}

#[test]
fn elicitation_is_unknown_to_clients_older_than_it() {
    let gateway = shared(&[]);
    for (revision, is_asked) in [("2024-11-05", false), ("2025-03-26", false), ("2025-06-18", true)] {
        let session = able_to("elicitation").revision(revision).open(&gateway);
        let posted = session.call(1, "ask", json!({"method": "elicitation/create", "value": "well?"}));
        if is_asked {
            let mut stream = posted.stream();
            let question = stream.expect("elicitation/create");
            session.respond(&question, json!({"action": "decline"}));
            assert_eq!(answered(&stream.response(1))["result"]["action"], "decline");
        } else {
            assert_eq!(answered(&posted.response())["error"]["code"], -32601, "{revision}");
        }
    }
}

#[test]
fn several_questions_come_in_turn_or_together() {
    let gateway = shared(&[]);
    let session = Session::able(&gateway);
    let asking = |is_together: bool| json!({"method": "elicitation/create", "value": "question", "n": 3, "together": is_together});
    let content = |n: usize| json!({"action": "accept", "content": {"n": n}});
    let contents = |response: &Value| {
        let answers = answered(response);
        let answers = answers.as_array().cloned().unwrap_or_default();
        answers.iter().map(|it| it["result"]["content"]["n"].clone()).collect::<Vec<Value>>()
    };

    let mut stream = session.call(1, "ask", asking(false)).stream();
    for n in 1..=3 {
        let question = stream.expect("elicitation/create");
        assert_eq!(question["params"]["message"], format!("question {n}"));
        session.respond(&question, content(n));
    }
    assert_eq!(contents(&stream.response(1)), [1, 2, 3]);

    let mut stream = session.call(2, "ask", asking(true)).stream();
    let questions: Vec<Value> = (0..3).map(|_| stream.expect("elicitation/create")).collect();
    let is_unique =
        questions.iter().enumerate().all(|(n, it)| questions[..n].iter().all(|other| other["id"] != it["id"]));
    assert!(is_unique, "an id for each: {questions:#?}");
    // Answered in another order than they came.
    for n in [2, 0, 1] {
        session.respond(&questions[n], content(n + 1));
    }
    assert_eq!(contents(&stream.response(2)), [1, 2, 3]);
}

#[test]
fn the_answer_of_another_session_changes_nothing() {
    for isolation in ISOLATIONS {
        let gateway = start(isolation, &[], &[]);
        let (session, other) = (Session::able(&gateway), Session::able(&gateway));
        let mut stream = session.call(1, "ask", json!({"method": "elicitation/create", "value": "well?"})).stream();
        let question = stream.expect("elicitation/create");
        other.respond(&question, json!({"from": "somebody else"}));
        session.accepted(&json!({"jsonrpc": "2.0", "id": "another", "result": {"to": "nothing"}}));
        // The same number as a text is another id, and the other way round.
        let lookalike = match &question["id"] {
            Value::String(text) => json!(text.parse::<i64>().unwrap_or(0)),
            id => json!(id.to_string()),
        };
        session.accepted(&json!({"jsonrpc": "2.0", "id": lookalike, "result": {"to": "a lookalike"}}));
        session.respond(&question, json!({"from": "the right one"}));
        assert_eq!(answered(&stream.response(1))["result"]["from"], "the right one");
        // Once is enough.
        session.respond(&question, json!({"from": "the right one again"}));
        assert_eq!(session.text("echo", json!({})), "{}");
    }
}

#[test]
fn a_question_can_be_answered_after_a_cut() {
    let gateway = shared(&[]);
    let session = Session::able(&gateway);
    let mut stream = session.call(1, "ask", json!({"method": "elicitation/create", "value": "one", "n": 2})).stream();
    let event = stream.told();
    let question: Value = serde_json::from_str(&event.raw).unwrap();
    drop(stream);
    session.respond(&question, json!({"n": 1}));
    let mut resumed = session.resume(event.id.as_deref().expect("an id"));
    let question = resumed.expect("elicitation/create");
    assert_eq!(question["params"]["message"], "one 2");
    session.respond(&question, json!({"n": 2}));
    assert!(text_of(&resumed.response(1)).contains(r#""n":2"#));
}

#[test]
fn a_client_can_report_progress_of_what_it_was_asked() {
    let gateway = shared(&["--record"]);
    let session = Session::able(&gateway);
    for (n, token) in [json!("t"), json!(7), json!("7")].into_iter().enumerate() {
        let params = json!({"messages": [], "maxTokens": 1, "_meta": {"progressToken": token}});
        let mut stream = session.call(n, "ask", json!({"method": "sampling/createMessage", "params": params})).stream();
        let question = stream.expect("sampling/createMessage");
        // What the client is told may be another one; the server gets its own back.
        let told = &question["params"]["_meta"]["progressToken"];
        assert!(told.is_string() || told.is_i64(), "{question}");
        session.notify("notifications/progress", json!({"progressToken": told, "progress": 0.5, "message": "half"}));
        session.respond(&question, json!({}));
        stream.response(n);
    }
    let heard = heard(&gateway);
    let progress = with_method(&heard, "notifications/progress");
    let tokens: Vec<&Value> = progress.iter().map(|line| &line["params"]["progressToken"]).collect();
    assert_eq!(tokens, [&json!("t"), &json!(7), &json!("7")], "{heard:#?}");
    assert_eq!(progress[0]["params"]["message"], "half");
}

#[test]
fn a_cancelled_call_takes_its_question_along() {
    let gateway = shared(&[]);
    let session = Session::able(&gateway);
    let mut stream = session.call(1, "ask", json!({"method": "elicitation/create", "value": "well?"})).stream();
    let question = stream.expect("elicitation/create");
    session.notify("notifications/cancelled", json!({"requestId": 1}));
    while let Some(event) = stream.next() {
        assert!(!event.raw.contains(r#""id":1,"result""#), "answered: {event:?}");
    }
    session.respond(&question, json!({"action": "accept"}));
    gateway.wait_until("the cancellation", || gateway.counts()["cancels"] == 1);
    assert_eq!(session.text("echo", json!({})), "{}");
}

#[test]
fn a_client_that_can_be_asked_has_the_worker_for_itself_while_its_call_runs() {
    let gateway = shared(&[]);
    let session = Session::able(&gateway);
    let mut stream = session.call(1, "ask", json!({"method": "elicitation/create", "value": "well?"})).stream();
    let question = stream.expect("elicitation/create");
    // Another call would have to share the only worker with the one that asks.
    let waiting = Session::open(&gateway).call(2, "echo", json!({}));
    gateway.wait_until("a call in the queue", || gateway.stats()["servers"]["helper"]["pool"]["queued"] == 1);
    session.respond(&question, json!({}));
    stream.response(1);
    assert_eq!(waiting.text(), "{}");
}

/// The same ids on both, 50 times, and both have a question open at the same time.
#[test]
fn two_sessions_never_get_each_others_questions() {
    for isolation in ISOLATIONS {
        let gateway = start(isolation, &[], &[("MIN_WORKERS", "2"), ("MAX_WORKERS", "2")]);
        gateway.wait_until("2 usable workers", || gateway.usable_workers() == 2);
        let sessions = [Session::able(&gateway), Session::able(&gateway)];
        for round in 0..50 {
            let (method, _) = KINDS[round % 2];
            let words = ["left", "right"].map(|side| format!("{side} {round}"));
            let mut streams =
                [0, 1].map(|n| sessions[n].call(round, "ask", json!({"method": method, "value": words[n]})).stream());
            let questions = streams.each_mut().map(|stream| stream.expect(method));
            for n in [1, 0] {
                assert!(questions[n].to_string().contains(&words[n]), "{} for {}", questions[n], words[n]);
                sessions[n].respond(&questions[n], json!({"to": words[n]}));
            }
            for (stream, word) in streams.iter_mut().zip(&words) {
                assert_eq!(answered(&stream.response(round))["result"]["to"], *word);
            }
        }
    }
}

#[test]
fn a_question_that_one_worker_takes_back_leaves_that_of_another_open() {
    let gateway = start("shared", &[], &[("MIN_WORKERS", "2"), ("MAX_WORKERS", "2")]);
    gateway.wait_until("2 usable workers", || gateway.usable_workers() == 2);
    let session = Session::able(&gateway);
    let mut asking = session.call("a", "ask", json!({"method": "elicitation/create", "value": "well?"})).stream();
    let question = asking.expect("elicitation/create");
    // The helper counts its questions from 1, so this is the same id at the other worker.
    let asked = json!({"jsonrpc": "2.0", "id": 1, "method": "roots/list"});
    let taken_back = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}});
    for n in 0..5 {
        let mut saying = session.call(n, "say", json!({"messages": [asked, taken_back]})).stream();
        let other = saying.expect("roots/list");
        assert_eq!(saying.expect("notifications/cancelled")["params"]["requestId"], other["id"]);
        assert_eq!(text_of(&saying.response(n)), "done");
    }

    session.respond(&question, json!({"content": "still wanted"}));
    assert_eq!(answered(&asking.response("a"))["result"]["content"], "still wanted");
}

#[test]
fn more_sessions_than_workers_ask_in_turn() {
    let gateway = start("shared", &[], &[("MIN_WORKERS", "2"), ("MAX_WORKERS", "2")]);
    thread::scope(|scope| {
        for n in 0..8 {
            let gateway: &Gateway = &gateway;
            scope.spawn(move || {
                let session = Session::able(gateway);
                for round in 0..10 {
                    let word = format!("session {n} round {round}");
                    let params = calling("ask", json!({"method": "elicitation/create", "value": word}), None);
                    let mut stream = session.send(round, "tools/call", params).stream();
                    let question = stream.expect("elicitation/create");
                    assert_eq!(question["params"]["message"], word);
                    session.respond(&question, json!({"content": word}));
                    assert_eq!(answered(&stream.response(round))["result"]["content"], word);
                }
            });
        }
        // Plain calls in between hold nobody up, and nobody holds them up.
        for n in 0..50 {
            gateway.call("echo", &format!(r#"{{"n":{n}}}"#)).expect_data(&json!({"n": n}));
        }
    });
}
