//! Batches: several messages in one POST, in the revisions that have them.

use serde_json::{Value, json};

use super::{
    client::{Opening, PLAIN, Session, calling, check_error},
    progress_of, shared,
    stream::Posted,
    text_of,
};
use crate::support::Gateway;

/// The revisions with batches.
const WITH: [&str; 2] = ["2024-11-05", "2025-03-26"];

fn call(id: Value, tool: &str, arguments: Value, token: Option<Value>) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": calling(tool, arguments, token)})
}

fn notification() -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "unknown"}})
}

#[track_caller]
fn open<'g>(gateway: &'g Gateway, revision: &str) -> Session<'g> {
    Opening::new().revision(revision).open(gateway)
}

/// The response to the request `id`, the only one.
#[track_caller]
fn response<'m>(messages: &'m [Value], id: &Value) -> &'m Value {
    let responses: Vec<&Value> = messages.iter().filter(|it| it["id"] == *id && it.get("method").is_none()).collect();
    assert_eq!(responses.len(), 1, "responses to {id} among {messages:#?}");
    responses[0]
}

#[test]
fn the_answers_of_a_batch_come_in_one_array() {
    let gateway = shared(&[]);
    for revision in WITH {
        let session = open(&gateway, revision);
        let batch = json!([
            call(json!(1), "echo", json!({"n": 1}), None),
            notification(),
            call(json!("1"), "echo", json!({"n": "1"}), None),
            {"jsonrpc": "2.0", "id": 2, "method": "ping"},
            {"jsonrpc": "2.0", "id": 3, "method": "no/such/method"},
        ]);
        let reply = session.post(&batch.to_string()).reply();
        reply.expect_status(200).expect_header("Content-Type", "application/json");
        let body = reply.json();
        let Some(answers) = body.as_array() else { reply.fail("an array") };
        assert_eq!(answers.len(), 4, "{answers:#?}");
        assert_eq!(text_of(response(answers, &json!(1))), r#"{"n":1}"#);
        assert_eq!(text_of(response(answers, &json!("1"))), r#"{"n":"1"}"#);
        assert_eq!(response(answers, &json!(2))["result"], json!({}));
        assert_eq!(response(answers, &json!(3))["error"]["code"], -32601);
    }
}

#[test]
fn a_batch_of_one_request_is_answered_with_an_array_of_one() {
    let gateway = shared(&[]);
    let session = open(&gateway, WITH[1]);
    let reply = session.post(&json!([call(json!(1), "echo", json!({}), None)]).to_string()).reply();
    reply.expect_status(200).expect(reply.json().as_array().is_some_and(|it| it.len() == 1), "an array of one");
}

#[test]
fn a_batch_with_something_to_tell_comes_as_a_stream_of_single_messages() {
    let gateway = shared(&[]);
    let session = open(&gateway, WITH[1]);
    let batch = json!([
        call(json!("a"), "progress", json!({"n": 2, "ms": 20, "value": "a"}), Some(json!("t"))),
        call(json!("b"), "progress", json!({"n": 2, "ms": 30, "value": "b"}), Some(json!(1))),
        call(json!("c"), "delay", json!({"ms": 100}), None),
    ]);
    let reply = session.post(&batch.to_string()).reply();
    reply.expect_status(200).expect_header("Content-Type", "text/event-stream");
    let messages = super::stream::messages(&reply);
    assert!(messages.iter().all(Value::is_object), "single messages: {messages:#?}");
    for id in ["a", "b", "c"] {
        assert_eq!(text_of(response(&messages, &json!(id))), "done");
    }
    for (name, token) in [("a", json!("t")), ("b", json!(1))] {
        let own: Vec<Value> = messages.iter().filter(|it| it["params"]["progressToken"] == token).cloned().collect();
        assert_eq!(progress_of(&own), [format!("{name} step 1"), format!("{name} step 2")]);
    }
    assert_eq!(messages.len(), 7, "{messages:#?}");
}

#[test]
fn a_batch_that_asks_nothing_is_accepted() {
    let gateway = shared(&[]);
    let session = open(&gateway, WITH[1]);
    session.accepted(&json!([notification()]));
    session.accepted(&json!([notification(), {"jsonrpc": "2.0", "id": 99, "result": {}}, notification()]));
}

#[test]
fn an_empty_batch_is_an_invalid_request() {
    let gateway = shared(&[]);
    for revision in WITH {
        check_error(&open(&gateway, revision).post("[]").reply(), 400, -32600, None);
    }
}

#[test]
fn a_session_does_not_begin_in_a_batch() {
    let gateway = shared(&[]);
    let initialize = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": Opening::new().params()});
    let batches = [json!([initialize]), json!([initialize, call(json!(1), "echo", json!({}), None)])];
    let session = open(&gateway, WITH[1]);
    for batch in batches {
        let reply = Posted::send(&gateway, "POST", "/mcp", &PLAIN, &batch.to_string()).reply();
        reply.expect_status(400).expect(reply.json()["error"]["code"] == -32600, "the error -32600");
        reply.expect(reply.header("Mcp-Session-Id").is_none(), "no session");
        let reply = session.post(&batch.to_string()).reply();
        reply.expect_status(400).expect(reply.json()["error"]["code"] == -32600, "the error -32600");
    }
    assert_eq!(session.result("ping", json!({})), json!({}));
}

#[test]
fn newer_revisions_have_no_batches() {
    let gateway = shared(&["--record"]);
    for revision in ["2025-06-18", "2025-11-25"] {
        let session = open(&gateway, revision);
        for batch in [json!([call(json!(1), "echo", json!({}), None)]), json!([notification()]), json!([])] {
            let reply = session.post(&batch.to_string()).reply();
            reply.expect_status(400).expect(reply.json()["error"]["code"] == -32600, "the error -32600");
        }
    }
    let heard = super::heard(&gateway);
    assert!(super::calls_of(&heard, "echo").is_empty(), "nothing of it is done: {heard:#?}");
}

#[test]
fn a_request_of_a_batch_can_be_cancelled_and_the_others_are_answered() {
    let gateway = shared(&[]);
    let session = open(&gateway, WITH[1]);
    let batch = json!([
        call(json!(1), "stream", json!({"n": 1, "gate": "end"}), Some(json!("t"))),
        call(json!(2), "echo", json!({}), None),
    ]);
    let mut stream = session.post(&batch.to_string()).stream();
    let mut first = [stream.message(), stream.message()];
    first.sort_by_key(|message| message.get("method").is_some());
    assert_eq!((&first[0]["id"], &first[1]["method"]), (&json!(2), &json!("notifications/progress")), "{first:#?}");
    session.notify("notifications/cancelled", json!({"requestId": 1}));
    stream.end();
    gateway.wait_until("the cancellation", || gateway.counts()["cancels"] == 1);
}

#[test]
fn questions_of_a_batch_are_answered_in_a_batch() {
    let gateway = shared(&[]);
    let session = Opening::new().revision(WITH[1]).able_to(json!({"sampling": {}})).open(&gateway);
    let ask = json!({"method": "sampling/createMessage", "value": "well?"});
    let mut stream = session.post(&json!([call(json!(1), "ask", ask, None)]).to_string()).stream();
    let question = stream.expect("sampling/createMessage");
    session.accepted(&json!([{"jsonrpc": "2.0", "id": question["id"], "result": {"text": "42"}}, notification()]));
    assert!(text_of(&stream.response(1)).contains(r#""text":"42""#));
}

#[test]
fn a_call_that_ends_while_a_list_of_all_servers_is_waited_for_is_answered_too() {
    let servers: [(&str, &[&str]); 2] = [("ant", &[]), ("mute", &["--deaf-to-lists"])];
    let gateway = Gateway::start_helpers(&[("MCP_REQUEST_TIMEOUT", "1")], &servers);
    let session = open(&gateway, WITH[1]);
    let list = |id: i32| json!({"jsonrpc": "2.0", "id": id, "method": "resources/list"});
    let batch =
        json!([call(json!(1), "ant__echo", json!({}), None), list(2), call(json!(3), "mute__echo", json!({}), None)]);
    let answers = session.post(&batch.to_string()).messages();
    assert_eq!(answers.len(), 3, "{answers:#?}");
    for id in [1, 3] {
        assert_eq!(text_of(response(&answers, &json!(id))), "{}");
    }
    // One that does not answer is left out.
    let listed = &response(&answers, &json!(2))["result"]["resources"];
    assert_eq!(listed.as_array().map(Vec::len), Some(3), "{answers:#?}");
}
