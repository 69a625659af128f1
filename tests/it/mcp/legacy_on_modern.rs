//! Legacy clients of servers that only speak the modern era: the gateway does the handshake, and asks their questions.

use serde_json::{Value, json};

use super::{
    client::{MODERN, Opening, Session, calling},
    lines, progress_of, shared, text_of,
};
use crate::support::Gateway;

const META: &str = "io.modelcontextprotocol/";

fn gateway(flags: &[&str]) -> Gateway {
    shared(&[&["--era", "modern"], flags].concat())
}

/// The `_meta` the server got with a call of this session.
#[track_caller]
fn meta_of(session: &Session) -> Value {
    let mut line: Value = serde_json::from_str(&session.text("received", json!({}))).unwrap();
    line["params"]["_meta"].take()
}

/// What `ask` gives back at last: the responses and the state of the last round.
#[track_caller]
fn answered(response: &Value) -> Value {
    serde_json::from_str(text_of(response)).unwrap_or_else(|cause| panic!("{response}: {cause}"))
}

#[test]
fn a_session_begins_with_what_the_server_says_of_itself() {
    let gateway = gateway(&["--instructions", "Ask nicely."]);
    for revision in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        let session = Opening::new().revision(revision).open(&gateway);
        let result = &session.result;
        assert_eq!(result["protocolVersion"], revision, "{result}");
        assert_eq!(result["serverInfo"], json!({"name": "helper", "version": "1.0.0"}), "{result}");
        assert_eq!(result["instructions"], "Ask nicely.", "{result}");
        for name in ["tools", "prompts", "resources", "completions"] {
            assert!(result["capabilities"][name].is_object(), "{result}");
        }
        assert_eq!(session.text("echo", json!({"a": 1})), r#"{"a":1}"#);
    }
}

#[test]
fn every_method_is_answered() {
    let gateway = gateway(&[]);
    let session = Session::open(&gateway);
    assert_eq!(session.result("ping", json!({})), json!({}));
    assert_eq!(session.result("logging/setLevel", json!({"level": "info"})), json!({}));
    assert!(session.result("tools/list", json!({}))["tools"].to_string().contains("\"echo\""));
    assert_eq!(session.result("prompts/list", json!({}))["prompts"][1]["name"], "plain");
    assert_eq!(session.result("prompts/get", json!({"name": "plain"}))["messages"].as_array().map(Vec::len), Some(2));
    assert_eq!(session.result("resources/list", json!({}))["resources"][0]["uri"], "helper://text");
    assert_eq!(session.result("resources/templates/list", json!({}))["resourceTemplates"][0]["name"], "item");
    let read = session.result("resources/read", json!({"uri": "helper://item/1"}));
    assert_eq!(read["contents"][0]["text"], "item 1");
    let completion = json!({"ref": {"type": "ref/prompt", "name": "plain"}, "argument": {"name": "x", "value": "a"}});
    assert_eq!(session.result("completion/complete", completion)["completion"]["values"][0], "a of plain");
    let error = session.error("resources/read", json!({"uri": "helper://gone"}));
    assert_eq!(error["data"]["uri"], "helper://gone", "{error}");
    assert_eq!(session.error("tools/call", json!({"name": "no-such-tool"}))["code"], -32602);
}

#[test]
fn each_request_says_who_asks_and_what_the_client_can() {
    let gateway = gateway(&[]);
    let session = Opening::new().able_to(json!({"sampling": {}, "roots": {}})).open(&gateway);
    let meta = meta_of(&session);
    assert_eq!(meta[format!("{META}protocolVersion")], MODERN, "{meta}");
    let capabilities = &meta[format!("{META}clientCapabilities")];
    assert!(capabilities["sampling"].is_object() && capabilities["roots"].is_object(), "{meta}");
    assert!(capabilities.get("elicitation").is_none(), "{meta}");
    assert_eq!(meta[format!("{META}clientInfo")], json!({"name": "test-client", "version": "0.1"}), "{meta}");
    let plain = meta_of(&Session::open(&gateway));
    assert_eq!(plain[format!("{META}clientCapabilities")], json!({}), "{plain}");
    // What the client says itself is there as well.
    let params = json!({"name": "received", "_meta": {"traceparent": "00-1-2-01"}});
    let result = session.result("tools/call", params);
    assert!(result["content"][0]["text"].as_str().unwrap().contains("00-1-2-01"), "{result}");
}

#[test]
fn the_level_of_a_session_goes_with_each_request() {
    let gateway = gateway(&[]);
    let (session, other) = (Session::open(&gateway), Session::open(&gateway));
    session.result("logging/setLevel", json!({"level": "warning"}));
    assert_eq!(session.text("level", json!({})), "warning");
    assert_ne!(other.text("level", json!({})), "warning");
    let logs = |session: &Session, id: &str, level: &str| {
        session.call(id, "log", json!({"n": 2, "level": level})).messages().len() - 1
    };
    assert_eq!((logs(&session, "a", "error"), logs(&session, "b", "info")), (2, 0));
}

#[test]
fn progress_comes_on_the_stream_with_the_clients_token() {
    let gateway = gateway(&[]);
    let session = Session::open(&gateway);
    for (id, token) in [(json!(1), json!("t")), (json!("1"), json!(1))] {
        let messages = session.follow(id.clone(), token.clone(), "progress", json!({"n": 3})).messages();
        assert_eq!(progress_of(&messages), ["step 1", "step 2", "step 3"]);
        assert!(messages[..3].iter().all(|it| it["params"]["progressToken"] == token), "{messages:#?}");
        assert_eq!(messages[3]["id"], id);
    }
}

#[test]
fn rounds_of_input_are_questions_to_the_client() {
    let gateway = gateway(&[]);
    let session = Session::able(&gateway);
    for (n, method) in ["sampling/createMessage", "elicitation/create", "roots/list"].into_iter().enumerate() {
        let mut stream = session.call(n, "ask", json!({"method": method, "value": "well?", "n": 2})).stream();
        for round in 1..=2 {
            let question = stream.expect(method);
            assert!(question["id"].is_i64() || question["id"].is_string(), "{question}");
            if method == "elicitation/create" {
                assert_eq!(question["params"]["message"], format!("well? {round}"), "{question}");
            }
            session.respond(&question, json!({"action": "accept", "round": round}));
        }
        let answer = answered(&stream.response(n));
        assert_eq!(answer["inputResponses"]["question-2"], json!({"action": "accept", "round": 2}), "{answer}");
        assert_eq!(answer["requestState"], "round-2", "{answer}");
    }
}

#[test]
fn questions_of_one_round_come_together() {
    let gateway = gateway(&["--record"]);
    let session = Session::able(&gateway);
    let arguments = json!({"method": "elicitation/create", "value": "well?", "n": 3, "together": true});
    let mut stream = session.call(1, "ask", arguments).stream();
    let mut questions: Vec<Value> = (0..3).map(|_| stream.expect("elicitation/create")).collect();
    questions.sort_by_key(|question| question["params"]["message"].to_string());
    for (n, question) in questions.iter().enumerate().rev() {
        assert_eq!(question["params"]["message"], format!("well? {}", n + 1));
        session.respond(question, json!({"n": n + 1}));
    }
    let answer = answered(&stream.response(1));
    for n in 1..=3 {
        assert_eq!(answer["inputResponses"][format!("question-{n}")], json!({"n": n}), "{answer}");
    }
    // Each round is a request of its own at the server.
    let heard = lines(&session.text("heard", json!({})));
    let calls = super::calls_of(&heard, "ask");
    assert_eq!(calls.len(), 2);
    assert_ne!(calls[0]["id"], calls[1]["id"]);
}

#[test]
fn a_client_that_refuses_or_cannot_be_asked_ends_the_call_with_an_error() {
    let gateway = gateway(&[]);
    let session = Session::able(&gateway);
    let mut stream = session.call(1, "ask", json!({"method": "sampling/createMessage", "value": "well?"})).stream();
    let question = stream.expect("sampling/createMessage");
    let error = json!({"code": -1, "message": "User rejected sampling request"});
    session.accepted(&json!({"jsonrpc": "2.0", "id": question["id"], "error": error}));
    let response = stream.response(1);
    assert!(response["error"]["code"].is_i64(), "{response}");

    let plain = Session::open(&gateway);
    let error = plain.error("tools/call", json!({"name": "ask", "arguments": {"method": "sampling/createMessage"}}));
    assert_eq!(error["code"], -32021, "{error}");
}

#[test]
fn a_server_that_wants_to_be_asked_again_without_end_is_given_up() {
    let gateway = gateway(&["--record"]);
    let session = Session::able(&gateway);
    let error = session.error("tools/call", calling("ask", json!({"method": "elicitation/create", "n": 0}), None));
    assert_eq!(error["code"], -32603, "{error}");
    assert!(error["message"].as_str().is_some_and(|it| it.contains("too often")), "{error}");
    // It was called, and 64 times again.
    let heard = lines(&session.text("heard", json!({})));
    let calls = super::calls_of(&heard, "ask");
    assert_eq!(calls.len(), 65);
    assert_eq!(calls[64]["params"]["requestState"], "round-64");
}

#[test]
fn a_cancelled_round_is_asked_no_further() {
    let gateway = gateway(&["--record"]);
    let session = Session::able(&gateway);
    let mut stream = session.call(1, "ask", json!({"method": "elicitation/create", "value": "well?", "n": 2})).stream();
    let question = stream.expect("elicitation/create");
    session.notify("notifications/cancelled", json!({"requestId": 1}));
    while let Some(event) = stream.next() {
        assert!(!event.raw.contains("\"result\""), "{event:?}");
    }
    session.respond(&question, json!({"action": "accept"}));
    let heard = lines(&session.text("heard", json!({})));
    assert_eq!(super::calls_of(&heard, "ask").len(), 1, "{heard:#?}");
}

#[test]
fn changes_and_updates_come_on_the_standalone_stream() {
    let gateway = gateway(&[]);
    let (session, other) = (Session::open(&gateway), Session::open(&gateway));
    let (mut standing, mut others) = (session.get(), other.get());
    assert_eq!(session.result("resources/subscribe", json!({"uri": "helper://text"})), json!({}));
    let is_subscribed = || session.text("update", json!({"uri": "helper://none"})).contains("helper://text");
    gateway.wait_until("the subscription", is_subscribed);
    session.text("update", json!({"uri": "helper://text"}));
    let updated = standing.expect("notifications/resources/updated");
    assert_eq!(updated["params"]["uri"], "helper://text", "{updated}");
    for what in ["tools", "prompts", "resources"] {
        session.text("change", json!({"what": what}));
        standing.expect(&format!("notifications/{what}/list_changed"));
        others.expect(&format!("notifications/{what}/list_changed"));
    }
    assert_eq!(session.result("resources/unsubscribe", json!({"uri": "helper://text"})), json!({}));
    gateway.wait_until("the end of the subscription", || !is_subscribed());
}

#[test]
fn a_call_is_cancelled_at_the_server_by_its_own_id() {
    let gateway = gateway(&["--record"]);
    let session = Session::open(&gateway);
    let mut stream = session.follow("c", "t", "stream", json!({"n": 1, "gate": "end"})).stream();
    stream.expect("notifications/progress");
    session.notify("notifications/cancelled", json!({"requestId": "c"}));
    stream.end();
    let heard = || lines(&session.text("heard", json!({})));
    gateway.wait_until("the cancellation", || !super::with_method(&heard(), "notifications/cancelled").is_empty());
    let heard = heard();
    let id = &super::calls_of(&heard, "stream")[0]["id"];
    assert_eq!(super::with_method(&heard, "notifications/cancelled")[0]["params"]["requestId"], *id);
}

#[test]
fn plain_http_reaches_it_as_well() {
    let gateway = gateway(&[]);
    assert_eq!(gateway.get("/health").json()["status"], "healthy");
    gateway.call("echo", r#"{"a":1}"#).expect_data(&json!({"a": 1}));
    gateway.get("/resources/read?uri=helper://text").expect_data(&json!("hello"));
}
