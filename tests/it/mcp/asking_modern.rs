//! Questions of legacy servers to modern clients: they come as results that need input, and the call is sent again with it.

use std::fs;

use serde_json::{Map, Value, json};

use super::{
    client::{Modern, calling, check_error},
    in_flight, shared, start,
    stream::Posted,
};
use crate::{
    pool::Keys,
    support::{Folder, Gateway, Reply},
};

fn able(gateway: &Gateway) -> Modern<'_> {
    Modern::new(gateway).able_to(json!({"sampling": {}, "elicitation": {"form": {}, "url": {}}, "roots": {}}))
}

/// Parameters of a call of `ask`.
fn asking(method: &str, n: Option<u32>, is_together: bool) -> Value {
    let mut arguments = json!({"method": method, "value": "well?", "together": is_together});
    if let Some(n) = n {
        arguments["n"] = json!(n);
    }
    calling("ask", arguments, None)
}

/// The same request once more, with what it needs and the state it was given.
fn again(params: &Value, responses: Value, state: &Value) -> Value {
    let mut params = params.clone();
    params["inputResponses"] = responses;
    params["requestState"] = state.clone();
    params
}

/// A result that needs input: its questions by their keys, and its state.
#[track_caller]
fn input_required(posted: Posted) -> (Map<String, Value>, Value) {
    let result = posted.result();
    let requests = result["inputRequests"].as_object().cloned().unwrap_or_default();
    let is_as_expected = result["resultType"] == "input_required"
        && !requests.is_empty()
        && requests.keys().all(|key| key.starts_with("input-"))
        && result["requestState"].is_string();
    assert!(is_as_expected, "expected: a result that needs input\nactual: {result}");
    (requests, result["requestState"].clone())
}

/// What the server was answered, as `ask` gives it back.
#[track_caller]
fn answered(result: &Value) -> Value {
    assert_eq!(result["resultType"], "complete", "{result}");
    serde_json::from_str(result["content"][0]["text"].as_str().unwrap_or_default()).expect("what `ask` was answered")
}

/// The one answer to one question.
fn one(answer: Value) -> Value {
    json!({"input-1": answer})
}

#[track_caller]
fn check_refused(reply: &Reply) {
    check_error(reply, 400, -32602, Some(json!("again")));
}

#[test]
fn a_question_is_a_result_that_needs_input() {
    let gateway = shared(&[]);
    let modern = able(&gateway);
    for method in ["sampling/createMessage", "elicitation/create", "roots/list"] {
        let params = asking(method, None, false);
        let (requests, state) = input_required(modern.send(1, "tools/call", params.clone()));
        let request = &requests["input-1"];
        assert_eq!((requests.len(), &request["method"]), (1, &json!(method)), "{requests:?}");
        assert!(request.get("id").is_none() && request.get("jsonrpc").is_none(), "{request}");
        if method != "roots/list" {
            assert!(request["params"].to_string().contains("well?"), "{request}");
        }
        let answer = json!({"action": "accept", "content": {"n": [1, null, "é"]}});
        let result = modern.send("second", "tools/call", again(&params, one(answer.clone()), &state)).result();
        assert_eq!(answered(&result)["result"], answer, "{method}");
    }
    gateway.wait_until("nothing in flight", || in_flight(&gateway) == 0);
}

#[test]
fn a_client_is_asked_only_what_it_declared() {
    let gateway = shared(&[]);
    let only_roots = Modern::new(&gateway).able_to(json!({"roots": {}}));
    for modern in [Modern::new(&gateway), only_roots] {
        for method in ["sampling/createMessage", "elicitation/create"] {
            let result = modern.send(1, "tools/call", asking(method, None, false)).result();
            assert_eq!(answered(&result)["error"]["code"], -32601, "{result}");
        }
    }
}

#[test]
fn several_questions_take_several_rounds_until_all_are_answered() {
    let gateway = shared(&[]);
    let modern = able(&gateway);
    for is_together in [false, true] {
        let mut params = asking("elicitation/create", Some(3), is_together);
        let (mut n_asked, mut states) = (0, Vec::new());
        let result = loop {
            assert!(n_asked <= 3, "it asks on and on");
            let result = modern.send(n_asked, "tools/call", params.clone()).result();
            if result["resultType"] == "complete" {
                break result;
            }
            let requests = result["inputRequests"].as_object().unwrap();
            n_asked += requests.len();
            let answer = |request: &Value| json!({"content": {"to": request["params"]["message"]}});
            let answers: Map<String, Value> = requests.iter().map(|(key, it)| (key.clone(), answer(it))).collect();
            assert!(!states.contains(&result["requestState"]), "the same state twice");
            states.push(result["requestState"].clone());
            params = again(&params, Value::Object(answers), &result["requestState"]);
        };
        let answers = answered(&result);
        let said: Vec<&Value> = answers.as_array().unwrap().iter().map(|it| &it["result"]["content"]["to"]).collect();
        assert_eq!(said, ["well? 1", "well? 2", "well? 3"], "together: {is_together}");
    }
}

#[test]
fn what_is_missing_is_asked_again() {
    let gateway = shared(&[]);
    let modern = able(&gateway);
    let params = asking("elicitation/create", None, false);
    let (mut requests, mut state) = input_required(modern.send(1, "tools/call", params.clone()));
    for responses in [json!({}), json!({"another": {"action": "accept"}})] {
        (requests, state) = input_required(modern.send(2, "tools/call", again(&params, responses, &state)));
        assert_eq!(requests.values().next().unwrap()["method"], "elicitation/create");
    }
    let key = requests.keys().next().unwrap();
    let responses = json!({key: {"action": "decline"}, "another": {"action": "accept"}});
    let result = modern.send(3, "tools/call", again(&params, responses, &state)).result();
    assert_eq!(answered(&result)["result"]["action"], "decline");
}

#[test]
fn a_state_that_was_tampered_with_is_refused_and_the_right_one_still_taken() {
    let gateway = shared(&[]);
    let modern = able(&gateway);
    let params = asking("elicitation/create", None, false);
    let (_, state) = input_required(modern.send(1, "tools/call", params.clone()));
    let text = state.as_str().unwrap();
    let with_other_letter = |at: usize| {
        let mut letters: Vec<char> = text.chars().collect();
        letters[at] = if letters[at] == 'A' { 'B' } else { 'A' };
        letters.into_iter().collect::<String>()
    };
    let length = text.chars().count();
    let mut wrong: Vec<String> = [0, length / 4, length / 2, length * 3 / 4].map(with_other_letter).into();
    wrong.extend([String::new(), "x".to_owned(), text[..text.len() / 2].to_owned(), format!("{text}{text}")]);
    for wrong in wrong {
        let retry = again(&params, one(json!({"action": "accept"})), &json!(wrong));
        check_refused(&modern.send("again", "tools/call", retry).reply());
    }
    for wrong in [json!(5), json!({}), json!([state])] {
        let retry = again(&params, one(json!({"action": "accept"})), &wrong);
        check_refused(&modern.send("again", "tools/call", retry).reply());
    }
    let result = modern.send(2, "tools/call", again(&params, one(json!({"action": "accept"})), &state)).result();
    assert_eq!(answered(&result)["result"]["action"], "accept");
}

#[test]
fn a_state_belongs_to_its_request() {
    let gateway = shared(&[]);
    let modern = able(&gateway);
    let params = asking("elicitation/create", None, false);
    let (_, state) = input_required(modern.send(1, "tools/call", params.clone()));
    let answer = one(json!({"action": "accept"}));
    let mut others = vec![params.clone(), params.clone(), params.clone()];
    others[0]["arguments"]["value"] = json!("something else");
    others[1]["arguments"] = json!({});
    others[2]["name"] = json!("echo");
    for other in others {
        check_refused(&modern.send("again", "tools/call", again(&other, answer.clone(), &state)).reply());
    }
    let prompt = again(&json!({"name": "plain"}), answer.clone(), &state);
    check_refused(&modern.send("again", "prompts/get", prompt).reply());
    modern.send(2, "tools/call", again(&params, answer, &state)).result();
}

#[test]
fn a_state_belongs_to_its_key() {
    let keys = Keys::new();
    let other = keys.make("other", None);
    let gateway = start("shared", &[], &[("API_KEYS_FILE", &keys.path())]);
    let (modern, foreign) = (able(&gateway), able(&gateway).key(&other));
    let params = asking("elicitation/create", None, false);
    let (_, state) = input_required(modern.send(1, "tools/call", params.clone()));
    let retry = again(&params, one(json!({"action": "accept"})), &state);
    check_refused(&foreign.send("again", "tools/call", retry.clone()).reply());
    modern.send(2, "tools/call", retry).result();
}

#[test]
fn a_state_that_was_used_is_refused() {
    let gateway = shared(&[]);
    let modern = able(&gateway);
    let params = asking("elicitation/create", None, false);
    let (_, state) = input_required(modern.send(1, "tools/call", params.clone()));
    let retry = again(&params, one(json!({"action": "accept"})), &state);
    modern.send(2, "tools/call", retry.clone()).result();
    check_refused(&modern.send("again", "tools/call", retry).reply());
    assert_eq!(modern.text("echo", json!({})), "{}");
}

#[test]
fn a_state_that_waits_for_too_long_expires_and_its_call_is_cancelled() {
    let folder = Folder::new();
    let diary = folder.path().join("diary");
    let flags = ["--diary", diary.to_str().unwrap()];
    let gateway = start("shared", &flags, &[("MCP_REQUEST_TIMEOUT", "0.5")]);
    let modern = able(&gateway);
    let params = asking("elicitation/create", None, false);
    let (_, state) = input_required(modern.send(1, "tools/call", params.clone()));
    let is_cancelled = || fs::read_to_string(&diary).is_ok_and(|text| text.contains("notifications/cancelled"));
    gateway.wait_until("the cancellation", is_cancelled);
    let retry = again(&params, one(json!({"action": "accept"})), &state);
    check_refused(&modern.send("again", "tools/call", retry).reply());
    assert_eq!(modern.text("echo", json!({})), "{}", "its worker is free again");
}

#[test]
fn coming_back_for_more_time_does_not_extend_what_a_call_may_take_in_all() {
    let folder = Folder::new();
    let diary = folder.path().join("diary");
    let flags = ["--diary", diary.to_str().unwrap()];
    let gateway = start("shared", &flags, &[("MCP_REQUEST_TIMEOUT", "30"), ("MCP_CALL_TIME_MAX", "1")]);
    let modern = able(&gateway);
    let params = asking("elicitation/create", None, false);
    let (_, mut state) = input_required(modern.send(1, "tools/call", params.clone()));
    gateway.wait_until("the end of the call", || {
        let response = modern.send("again", "tools/call", again(&params, json!({}), &state)).reply().json();
        state = response["result"]["requestState"].clone();
        response["error"]["code"].is_i64()
    });
    let is_cancelled = || fs::read_to_string(&diary).is_ok_and(|text| text.contains("notifications/cancelled"));
    gateway.wait_until("the cancellation", is_cancelled);
}

#[test]
fn a_call_that_has_much_to_tell_while_its_client_is_away_goes_on() {
    let gateway = start("shared", &[], &[("STREAM_QUEUE_BYTES", "256k")]);
    let modern = able(&gateway).with_meta("io.modelcontextprotocol/logLevel", json!("debug"));
    let folder = Folder::new();
    let mut params = asking("elicitation/create", Some(2), false);
    params["arguments"]["log_when"] = json!(folder.path().join("away"));
    let (_, state) = input_required(modern.send(1, "tools/call", params.clone()));
    folder.file("away", "");
    gateway.wait_until("all of it said", || gateway.log().contains("everything is logged"));
    let (_, state) = input_required(modern.send(2, "tools/call", again(&params, one(json!({"n": 1})), &state)));
    let result = modern.send(3, "tools/call", again(&params, one(json!({"n": 2})), &state)).result();
    assert_eq!(answered(&result)[1]["result"]["n"], 2);
}

#[test]
fn questions_of_many_clients_find_their_way() {
    let gateway = start("shared", &[], &[("MIN_WORKERS", "8"), ("MAX_WORKERS", "8")]);
    gateway.wait_until("8 usable workers", || gateway.usable_workers() == 8);
    let modern = able(&gateway);
    let params =
        |n: usize| calling("ask", json!({"method": "sampling/createMessage", "value": format!("client {n}")}), None);
    for round in 0..5 {
        // All ask at the same time, with the same id, and are answered in another order.
        let posted: Vec<Posted> = (0..8).map(|n| modern.send(round, "tools/call", params(n))).collect();
        let asked: Vec<_> = posted.into_iter().map(input_required).collect();
        for (n, (requests, state)) in asked.iter().enumerate().rev() {
            assert!(requests["input-1"].to_string().contains(&format!("\"client {n}\"")), "{requests:?}");
            let retry = again(&params(n), one(json!({"to": n})), state);
            let result = modern.send(round, "tools/call", retry).result();
            assert_eq!(answered(&result)["result"]["to"], n);
        }
    }
}

#[test]
fn a_page_to_visit_is_a_question_too() {
    let gateway = shared(&[]);
    let elicitation =
        json!({"mode": "url", "elicitationId": "e1", "url": "https://example.org/login", "message": "Please sign in"});
    let error = json!({"code": -32042, "message": "Sign in first", "data": {"elicitations": [elicitation]}});
    let posted = able(&gateway).send(1, "tools/call", calling("rpc_error", error, None));
    let result = posted.result();
    assert_eq!(result["resultType"], "input_required", "{result}");
    let requests: Vec<&Value> = result["inputRequests"].as_object().unwrap().values().collect();
    assert_eq!((requests.len(), &requests[0]["method"]), (1, &json!("elicitation/create")), "{result}");
    assert_eq!(requests[0]["params"]["url"], "https://example.org/login", "{result}");
}
