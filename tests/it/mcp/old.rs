//! The transport of 2024-11-05: a stream at `/sse` that names where to post, and all answers on that stream.

use serde_json::{Value, json};

use super::{
    client::{Opening, PLAIN, calling, changed, request},
    entry, heard, launch, progress_of, shared,
    stream::{Posted, Stream},
    text_of, with_method,
};
use crate::{
    pool::Keys,
    support::{Gateway, KEY, Reply},
};

/// A client of the old transport.
struct Old<'a> {
    gateway: &'a Gateway,
    stream: Stream,
    /// Where it posts.
    endpoint: String,
    key: String,
}

impl<'a> Old<'a> {
    /// Opens the stream and takes its first event, which names the endpoint.
    #[track_caller]
    fn connect(gateway: &'a Gateway, path: &str, key: &str) -> Old<'a> {
        let headers = [("X-API-Key", key), ("Accept", "text/event-stream")];
        let mut stream = Posted::send(gateway, "GET", path, &headers, "").stream();
        let event = stream.event();
        if event.name.as_deref() != Some("endpoint") {
            stream.fail("an event `endpoint`", &format!("{event:?}"));
        }
        // It may stand there with its origin.
        let origin = format!("http://{}", gateway.address());
        let endpoint = event.raw.strip_prefix(&origin).unwrap_or(&event.raw).to_owned();
        Old { gateway, stream, endpoint, key: key.to_owned() }
    }

    /// One that has begun, and can be asked what `capabilities` say.
    #[track_caller]
    fn open(gateway: &'a Gateway, capabilities: Value) -> Old<'a> {
        let mut old = Old::connect(gateway, "/sse", KEY);
        let params = Opening::new().revision("2024-11-05").able_to(capabilities).params();
        old.post(&request(0, "initialize", &params));
        let answer = old.message();
        assert_eq!(
            (&answer["id"], &answer["result"]["protocolVersion"]),
            (&json!(0), &json!("2024-11-05")),
            "{answer}"
        );
        old.post(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        old
    }

    #[track_caller]
    fn try_post(&self, body: &str) -> Reply {
        let headers = changed(&PLAIN, &[("X-API-Key", Some(&self.key))]);
        Posted::send(self.gateway, "POST", &self.endpoint, &headers, body).reply()
    }

    #[track_caller]
    fn post(&self, body: &str) {
        self.try_post(body).expect_status(202);
    }

    #[track_caller]
    fn call(&self, id: Value, tool: &str, arguments: Value, token: Option<Value>) {
        self.post(&request(id, "tools/call", &calling(tool, arguments, token)));
    }

    /// The next message on the stream.
    #[track_caller]
    fn message(&mut self) -> Value {
        let event = self.stream.told();
        // No name means `message`.
        if event.name.as_deref().is_some_and(|name| name != "message") {
            self.stream.fail("an event `message`", &format!("{event:?}"));
        }
        serde_json::from_str(&event.raw).unwrap_or_else(|cause| self.stream.fail("JSON", &cause.to_string()))
    }

    /// Messages up to the response to `id`.
    #[track_caller]
    fn until_response(&mut self, id: &Value) -> Vec<Value> {
        let mut messages = Vec::new();
        loop {
            let message = self.message();
            let is_response = message["id"] == *id && message.get("method").is_none();
            messages.push(message);
            if is_response {
                return messages;
            }
        }
    }
}

#[test]
fn the_stream_names_where_to_post_and_brings_the_answers() {
    let gateway = shared(&[]);
    for prefix in ["", "/servers/helper"] {
        let mut old = Old::connect(&gateway, &format!("{prefix}/sse"), KEY);
        let expected = format!("{prefix}/messages?sessionId=");
        assert!(old.endpoint.starts_with(&expected), "expected: {expected}\nactual: {}", old.endpoint);
        old.post(&request(0, "initialize", &Opening::new().revision("2024-11-05").params()));
        let answer = old.message();
        assert_eq!(answer["result"]["serverInfo"]["name"], "helper", "{answer}");
        old.call(json!("é"), "echo", json!({"a": 1}), None);
        assert_eq!(text_of(&old.until_response(&json!("é"))[0]), r#"{"a":1}"#);
    }
}

#[test]
fn whatever_belongs_to_a_session_comes_on_its_stream() {
    let gateway = shared(&[]);
    let mut old = Old::open(&gateway, json!({}));
    old.call(json!(1), "progress", json!({"n": 3}), Some(json!("t")));
    let messages = old.until_response(&json!(1));
    assert_eq!(progress_of(&messages), ["step 1", "step 2", "step 3"]);
    old.call(json!(2), "log", json!({"n": 2, "data": "x"}), None);
    assert_eq!(old.until_response(&json!(2)).len(), 3);
    old.post(&request(3, "resources/subscribe", &json!({"uri": "helper://text"})));
    old.until_response(&json!(3));
    gateway.call("update", r#"{"uri":"helper://text"}"#).expect_status(200);
    assert_eq!(old.message()["method"], "notifications/resources/updated");
    gateway.call("change", r#"{"what":"prompts"}"#).expect_status(200);
    assert_eq!(old.message()["method"], "notifications/prompts/list_changed");
}

#[test]
fn a_client_can_be_asked_over_it() {
    let gateway = shared(&[]);
    let mut old = Old::open(&gateway, json!({"sampling": {}, "elicitation": {}}));
    old.call(json!(1), "ask", json!({"method": "sampling/createMessage", "value": "well?"}), None);
    let question = old.message();
    assert_eq!(question["method"], "sampling/createMessage", "{question}");
    old.post(&json!({"jsonrpc": "2.0", "id": question["id"], "result": {"role": "assistant"}}).to_string());
    let response = old.until_response(&json!(1));
    assert!(text_of(&response[0]).contains(r#""role":"assistant""#), "{response:?}");
    // 2024-11-05 has no elicitation.
    old.call(json!(2), "ask", json!({"method": "elicitation/create", "value": "well?"}), None);
    let response = old.until_response(&json!(2));
    assert!(text_of(&response[0]).contains("-32601"), "{response:?}");
}

#[test]
fn each_client_hears_its_own() {
    let gateway = shared(&[]);
    let mut clients: Vec<Old> = (0..10).map(|_| Old::open(&gateway, json!({}))).collect();
    for round in 1..=5 {
        for (n, client) in clients.iter().enumerate() {
            let arguments = json!({"n": 3, "ms": 1, "value": format!("client {n}")});
            client.call(json!(round), "progress", arguments, Some(json!(1)));
        }
        for (n, client) in clients.iter_mut().enumerate() {
            let messages = client.until_response(&json!(round));
            let expected: Vec<String> = (1..=3).map(|step| format!("client {n} step {step}")).collect();
            assert_eq!(progress_of(&messages), expected, "{messages:#?}");
            assert_eq!(messages.len(), 4, "{messages:#?}");
        }
    }
}

#[test]
fn batches_are_split_into_single_messages() {
    let gateway = shared(&[]);
    let mut old = Old::open(&gateway, json!({}));
    let call = |id: i32| json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": "echo"}});
    old.post(&json!([call(1), call(2)]).to_string());
    let mut ids = [old.message()["id"].clone(), old.message()["id"].clone()];
    ids.sort_by_key(Value::as_i64);
    assert_eq!(ids, [json!(1), json!(2)]);
}

#[test]
fn a_call_that_ends_while_a_list_of_all_servers_is_waited_for_is_answered_too() {
    let servers: [(&str, &[&str]); 2] = [("ant", &[]), ("mute", &["--deaf-to-lists"])];
    let gateway = Gateway::start_helpers(&[("MCP_REQUEST_TIMEOUT", "1")], &servers);
    let mut old = Old::open(&gateway, json!({}));
    old.call(json!(1), "ant__echo", json!({"n": 1}), None);
    old.post(&request(2, "resources/list", &json!({})));
    old.call(json!(3), "ant__echo", json!({"n": 3}), None);
    let mut answers = [old.message(), old.message(), old.message()];
    answers.sort_by_key(|answer| answer["id"].as_i64());
    assert_eq!((text_of(&answers[0]), text_of(&answers[2])), (r#"{"n":1}"#, r#"{"n":3}"#));
    assert!(answers[1]["result"]["resources"].is_array(), "{answers:#?}");
}

#[test]
fn an_endpoint_that_there_is_not_is_not_found() {
    let keys = Keys::new();
    let one = keys.make("one", None);
    let servers = json!({"helper": entry(&[])});
    let gateway = launch(&servers).set("API_KEYS_FILE", &keys.path()).start();
    let post = |path: &str, key: &str| {
        let headers = changed(&PLAIN, &[("X-API-Key", Some(key))]);
        Posted::send(&gateway, "POST", path, &headers, &request(1, "ping", &json!({}))).reply()
    };
    for path in
        ["/messages?sessionId=0123456789abcdef0123456789abcdef", "/messages?sessionId=", "/messages?sessionId=x"]
    {
        post(path, KEY).expect_status(404);
    }
    let missing = post("/messages", KEY);
    missing.expect(missing.status == 400 || missing.status == 404, "400 or 404 without a session");
    let old = Old::connect(&gateway, "/sse", KEY);
    post(&old.endpoint, &one).expect_status(404);
    post(&old.endpoint, KEY).expect_status(202);
}

#[test]
fn keys_and_origins_are_looked_at_as_everywhere() {
    let gateway = shared(&[]);
    let old = Old::connect(&gateway, "/sse", KEY);
    for (method, path) in [("GET", "/sse"), ("POST", &*old.endpoint)] {
        let without = changed(&PLAIN, &[("X-API-Key", None)]);
        let reply = Posted::send(&gateway, method, path, &without, "").reply();
        reply.expect_error(401, "unauthorized", "key");
        reply.expect(reply.header("WWW-Authenticate").is_some(), "WWW-Authenticate");
        let foreign = changed(&PLAIN, &[("Origin", Some("https://evil.example"))]);
        Posted::send(&gateway, method, path, &foreign, "").reply().expect_error(403, "forbidden", "evil");
    }
    for (method, path) in [("PUT", "/sse"), ("DELETE", "/messages?sessionId=x")] {
        let reply = Posted::send(&gateway, method, path, &PLAIN, "").reply();
        reply.expect_status(405).expect(reply.header("Allow").is_some(), "Allow");
    }
}

#[test]
fn a_key_in_the_address_is_enough_for_a_browser() {
    let gateway = shared(&[]);
    let headers = [("Accept", "text/event-stream")];
    let mut stream = Posted::send(&gateway, "GET", &format!("/sse?api_key={KEY}"), &headers, "").stream();
    assert_eq!(stream.event().name.as_deref(), Some("endpoint"));
}

#[test]
fn the_end_of_the_stream_is_the_end_of_the_session() {
    let gateway = shared(&["--record"]);
    let old = Old::open(&gateway, json!({}));
    let other = Old::open(&gateway, json!({}));
    old.call(json!(1), "silent", json!({}), None);
    super::wait_for_calls(&gateway, "silent", 1);
    let Old { stream, endpoint, .. } = old;
    drop(stream);
    gateway.wait_until("the cancellation", || gateway.counts()["cancels"] == 1);
    let is_gone =
        || Posted::send(&gateway, "POST", &endpoint, &PLAIN, &request(2, "ping", &json!({}))).reply().status == 404;
    gateway.wait_until("the end of the session", is_gone);
    let heard = heard(&gateway);
    assert_eq!(with_method(&heard, "notifications/cancelled").len(), 1, "{heard:#?}");
    other.post(&request(3, "ping", &json!({})));
}

#[test]
fn a_quiet_stream_is_kept_alive_and_its_session_does_not_end() {
    let gateway = super::start("shared", &[], &[("SSE_KEEP_ALIVE", "0.1"), ("SESSION_IDLE_TIMEOUT", "0.3")]);
    let mut old = Old::open(&gateway, json!({}));
    old.stream.expect_comments(8);
    old.call(json!(1), "echo", json!({}), None);
    assert_eq!(text_of(&old.until_response(&json!(1))[0]), "{}");
}

#[test]
fn a_session_may_have_a_worker_of_its_own() {
    let gateway = super::start("session", &[], &[]);
    let (mut one, mut two) = (Old::open(&gateway, json!({})), Old::open(&gateway, json!({})));
    let pid = |old: &mut Old, id: i32| {
        old.call(json!(id), "pid", json!({}), None);
        text_of(&old.until_response(&json!(id))[0]).to_owned()
    };
    let pids = [pid(&mut one, 1), pid(&mut two, 1)];
    assert_ne!(pids[0], pids[1]);
    assert_eq!([pid(&mut one, 2), pid(&mut two, 2)], pids);
    drop((one, two));
    gateway
        .wait_until("no worker of a session", || gateway.stats()["servers"]["helper"]["pool"]["isolated_workers"] == 0);
}
