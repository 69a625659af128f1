//! Questions of servers: they come to the socket whose call they belong to, and its answers go back to that server.

use std::thread;

use serde_json::{Value, json};

use crate::{
    support::{Gateway, Helper, raw_field},
    ws::{UNKNOWN, client::Socket},
};

/// What the server was answered, as the tool `ask` gives it back: the fields of the JSON-RPC answer.
#[track_caller]
fn answered(socket: &mut Socket, id: &str) -> Value {
    socket.expect_event("complete", id)["data"].clone()
}

#[test]
fn a_question_arrives_as_it_was_asked_and_its_answer_goes_back() {
    let gateway = Gateway::start(&[], Helper::new());
    let mut socket = Socket::open(&gateway, "/ws/tools/ask");
    let params = r#"{"message":"how many? 🙂","requestedSchema":{"type":"object","properties":{"z":{},"a":{}}},"big":12345678901234567890}"#;
    for method in ["elicitation/create", "sampling/createMessage", "roots/list"] {
        socket.call(r#""q""#, &format!(r#"{{"method":"{method}","params":{params}}}"#));
        socket.expect_event("started", r#""q""#);
        let question = socket.expect_event("input_required", r#""q""#);
        assert_eq!(question["method"], method);
        assert_eq!(raw_field(&question.raw, "params").as_deref(), Some(params));
        assert!(question["input_id"].is_string() || question["input_id"].is_number(), "{}", question.raw);

        let result = r#"{"action":"accept","content":{"n":12345678901234567890,"z":1.10,"text":"a\nb"}}"#;
        socket.input(&question, &format!(r#""result":{result}"#));
        let complete = socket.expect_event("complete", r#""q""#);
        assert!(complete.raw.contains(&format!(r#""result":{result}"#)), "{}", complete.raw);
    }
}

#[test]
fn a_question_can_be_refused() {
    let gateway = Gateway::start(&[], Helper::new());
    let mut socket = Socket::open(&gateway, "/ws/tools/ask");

    socket.call("1", r#"{"method":"elicitation/create","value":"well?"}"#);
    socket.expect_event("started", "1");
    let question = socket.expect_event("input_required", "1");
    socket.input(&question, r#""error":{"code":-1,"message":"User rejected sampling request","data":[1]}"#);
    let answer = answered(&mut socket, "1");
    assert_eq!(
        answer["error"],
        json!({"code": -1, "message": "User rejected sampling request", "data": [1]}),
        "{answer}"
    );

    socket.call("2", r#"{"method":"elicitation/create","value":"well?"}"#);
    socket.expect_event("started", "2");
    let question = socket.expect_event("input_required", "2");
    socket.input(&question, r#""result":{"action":"decline"}"#);
    let answer = answered(&mut socket, "2");
    assert_eq!(answer["result"], json!({"action": "decline"}), "{answer}");
}

#[test]
fn several_questions_of_a_call_come_in_turn_or_together() {
    let gateway = Gateway::start(&[], Helper::new());
    let mut socket = Socket::open(&gateway, "/ws/tools/ask");
    let content = |n: usize| format!(r#""result":{{"action":"accept","content":{{"answer":{n}}}}}"#);

    socket.call("1", r#"{"method":"elicitation/create","value":"question","n":3}"#);
    socket.expect_event("started", "1");
    for n in 1..=3 {
        let question = socket.expect_event("input_required", "1");
        assert_eq!(question["params"]["message"], format!("question {n}"));
        socket.input(&question, &content(n));
    }
    // The array of the answers comes as chunks too.
    let answers: Vec<Value> = (0..3).map(|_| socket.expect_event("chunk", "1")["data"].clone()).collect();
    let answers: Vec<&Value> = answers.iter().map(|it| &it["result"]["content"]["answer"]).collect();
    assert_eq!(answers, [1, 2, 3]);
    socket.expect_event("complete", "1");

    socket.call("2", r#"{"method":"elicitation/create","value":"question","n":3,"together":true}"#);
    socket.expect_event("started", "2");
    let questions: Vec<_> = (0..3).map(|_| socket.expect_event("input_required", "2")).collect();
    // Answered in another order than they came.
    for n in [2, 0, 1] {
        assert_eq!(questions[n]["params"]["message"], format!("question {}", n + 1));
        socket.input(&questions[n], &content(n));
    }
    let answers: Vec<Value> = (0..3).map(|_| socket.expect_event("chunk", "2")["data"].clone()).collect();
    let answers: Vec<&Value> = answers.iter().map(|it| &it["result"]["content"]["answer"]).collect();
    assert_eq!(answers, [0, 1, 2]);
}

#[test]
fn input_that_nobody_waits_for_is_an_error_and_changes_nothing() {
    let gateway = Gateway::start(&[], Helper::new());
    let mut socket = Socket::open(&gateway, "/ws/tools/ask");
    socket.send(r#"{"event":"input","id":"x","input_id":"y","result":{}}"#);
    assert_eq!(socket.expect_error(UNKNOWN, "x")["id"], "x");

    socket.call("1", r#"{"method":"elicitation/create","value":"well?"}"#);
    socket.expect_event("started", "1");
    let question = socket.expect_event("input_required", "1");
    let mut foreign = (*question).clone();
    foreign["input_id"] = json!("another");
    socket.input(&foreign, r#""result":{}"#);
    // Errors of input carry no id while the call runs: they do not end it.
    assert!(socket.expect_error(UNKNOWN, "another").get("id").is_none());
    // Neither an answer, nor two of them, nor what is no answer at all.
    let input_id = &question["input_id"];
    for fields in ["", r#","result":{},"error":{"code":1,"message":"x"}"#, r#","result":{},"colour":1"#] {
        socket.send(format!(r#"{{"event":"input","id":1,"input_id":{input_id}{fields}}}"#));
        assert!(socket.expect_error("bad_request", "").get("id").is_none());
    }
    socket.send(r#"{"event":"input","id":1,"result":{}}"#);
    assert!(socket.expect_error("bad_request", "input_id").get("id").is_none());

    socket.input(&question, r#""result":{"action":"accept"}"#);
    assert_eq!(answered(&mut socket, "1")["result"], json!({"action": "accept"}));
    // Once is enough.
    socket.input(&question, r#""result":{"action":"accept"}"#);
    assert_eq!(socket.expect_error(UNKNOWN, "")["id"], 1);
}

#[test]
fn a_call_that_is_cancelled_takes_its_question_along() {
    let gateway = Gateway::start(&[("MIN_WORKERS", "1"), ("MAX_WORKERS", "1")], Helper::new());
    let mut socket = Socket::open(&gateway, "/ws/tools/ask");
    socket.call("1", r#"{"method":"elicitation/create","value":"well?"}"#);
    socket.expect_event("started", "1");
    let question = socket.expect_event("input_required", "1");

    socket.send(r#"{"event":"cancel","id":1}"#);
    socket.expect_event("cancelled", "1");
    socket.input(&question, r#""result":{"action":"accept"}"#);
    assert_eq!(socket.expect_error(UNKNOWN, "")["id"], 1);
    gateway.wait_until("the cancellation", || gateway.counts()["cancels"] == 1);
}

#[test]
fn other_requests_of_a_server_are_answered_by_the_gateway() {
    let gateway = Gateway::start(&[], Helper::new());
    let mut socket = Socket::open(&gateway, "/ws/tools/ask");
    for (method, field) in [("ping", "result"), ("tasks/list", "error"), ("no/such/thing", "error")] {
        socket.call("1", &format!(r#"{{"method":"{method}"}}"#));
        socket.expect_event("started", "1");
        let answer = answered(&mut socket, "1");
        assert!(!answer[field].is_null(), "{method}: {answer}");
    }
}

#[test]
fn a_client_that_answers_nothing_is_not_asked() {
    let gateway = Gateway::start(&[], Helper::new());
    let mut socket = Socket::open(&gateway, "/ws/tools/ask");
    socket.send(r#"{"id":1,"input":false,"arguments":{"method":"elicitation/create"}}"#);
    socket.expect_event("started", "1");
    let answer = answered(&mut socket, "1");
    assert_eq!(answer["error"]["code"], -32601, "{answer}");
    // Only that call was meant.
    socket.call("2", r#"{"method":"elicitation/create"}"#);
    socket.expect_event("started", "2");
    let question = socket.expect_event("input_required", "2");
    socket.input(&question, r#""result":{}"#);
    answered(&mut socket, "2");
}

/// The only worker has a call that goes on and ends when the other one is carried out: a step, and its end.
#[test]
fn calls_whose_clients_answer_nothing_share_a_worker() {
    let settings = [("MIN_WORKERS", "1"), ("MAX_WORKERS", "1"), ("WORKER_CONCURRENCY", "2")];
    let gateway = Gateway::start(&settings, Helper::new());
    let (mut held, mut opening) = (Socket::open(&gateway, "/ws"), Socket::open(&gateway, "/ws"));
    held.send(r#"{"id":1,"tool":"stream","input":false,"arguments":{"n":1,"gate":"each"}}"#);
    held.expect_event("started", "1");
    gateway.wait_until("a call in flight", || gateway.stats()["servers"]["helper"]["workers"][0]["in_flight"] == 1);
    opening.send(r#"{"id":2,"tool":"open","input":false,"arguments":{"n":2}}"#);
    opening.expect_event("started", "2");
    opening.expect_event("complete", "2");
    held.expect_event("progress", "1");
    held.expect_event("complete", "1");
}

/// 200 times, both have a question open at the same time.
#[test]
fn two_sockets_never_get_each_others_questions() {
    let gateway = Gateway::start(&[("MIN_WORKERS", "2"), ("MAX_WORKERS", "2")], Helper::new());
    gateway.wait_until("2 ready workers", || gateway.usable_workers() == 2);
    let mut sockets = [Socket::open(&gateway, "/ws/tools/ask"), Socket::open(&gateway, "/ws/tools/ask")];

    for round in 0..200 {
        let words = ["left", "right"].map(|side| format!("{side} {round}"));
        // The same id on both: it means nothing beyond its socket.
        for (socket, word) in sockets.iter_mut().zip(&words) {
            let method = if round % 2 == 0 { "elicitation/create" } else { "sampling/createMessage" };
            socket.call("7", &format!(r#"{{"method":"{method}","value":"{word}"}}"#));
        }
        let questions = sockets.each_mut().map(|socket| {
            socket.expect_event("started", "7");
            socket.expect_event("input_required", "7")
        });
        for ((socket, word), question) in sockets.iter_mut().zip(&words).zip(&questions) {
            socket.expect(
                question.raw.contains(&format!("\"{word}\"")),
                &format!("its own question, {word}"),
                &question.raw,
            );
            socket.input(question, &format!(r#""result":{{"answer to":"{word}"}}"#));
        }
        for (socket, word) in sockets.iter_mut().zip(&words) {
            let answer = answered(socket, "7");
            assert_eq!(answer["result"], json!({"answer to": word}), "{answer}");
        }
    }
}

#[test]
fn more_sockets_than_workers_ask_in_turn_and_in_order() {
    let gateway = Gateway::start(&[("MIN_WORKERS", "2"), ("MAX_WORKERS", "2")], Helper::new());
    thread::scope(|scope| {
        for n in 0..6 {
            let gateway = &gateway;
            scope.spawn(move || {
                let mut socket = Socket::open(gateway, "/ws/tools/ask");
                for round in 0..20 {
                    let word = format!("socket {n} round {round}");
                    socket.call("1", &format!(r#"{{"method":"elicitation/create","value":"{word}"}}"#));
                    socket.expect_event("started", "1");
                    let question = socket.expect_event("input_required", "1");
                    assert_eq!(question["params"]["message"], word);
                    socket.input(&question, &format!(r#""result":{{"content":"{word}"}}"#));
                    assert_eq!(answered(&mut socket, "1")["result"]["content"], word);
                }
            });
        }
        // Plain calls in between hold nobody up, and nobody holds them up.
        for n in 0..50 {
            gateway.call("echo", &format!(r#"{{"n":{n}}}"#)).expect_data(&json!({"n": n}));
        }
    });
}
