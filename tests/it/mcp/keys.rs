//! Keys for some tools only, and what `/stats` counts.

use serde_json::{Value, json};

use super::{
    client::{Modern, Opening, Session, check_error, request},
    heard, launch, shared, start,
};
use crate::pool::Keys;

#[track_caller]
fn names(list: &Value) -> Vec<&str> {
    list["tools"].as_array().unwrap().iter().filter_map(|tool| tool["name"].as_str()).collect()
}

#[test]
fn a_key_for_some_tools_sees_and_calls_these_alone() {
    let keys = Keys::new();
    let some = keys.make("some", Some("echo*"));
    for isolation in super::ISOLATIONS {
        let gateway = start(isolation, &["--record"], &[("API_KEYS_FILE", &keys.path())]);
        let (session, modern) = (Opening::new().key(&some).open(&gateway), Modern::new(&gateway).key(&some));
        for list in [session.result("tools/list", json!({})), modern.result("tools/list", json!({}))] {
            assert_eq!(names(&list), ["echo", "echo_structured"]);
        }
        assert_eq!(session.text("echo", json!({"a": 1})), r#"{"a":1}"#);
        assert_eq!(modern.text("echo", json!({"a": 1})), r#"{"a":1}"#);

        let error = session.error("tools/call", json!({"name": "pid"}));
        assert_eq!((&error["code"], &error["data"]["code"]), (&json!(-32602), &json!("forbidden")), "{error}");
        let reply = modern.call(1, "pid", json!({})).reply();
        check_error(&reply, 400, -32602, Some(json!(1)));
        reply.expect(reply.json()["error"]["data"]["code"] == "forbidden", "data.code `forbidden`");
        let heard = heard(&gateway);
        assert!(super::calls_of(&heard, "pid").is_empty(), "{heard:#?}");
    }
}

#[test]
fn a_key_for_some_tools_has_neither_resources_nor_prompts_nor_completions() {
    let keys = Keys::new();
    let some = keys.make("some", Some("*"));
    let gateway = start("shared", &["--record"], &[("API_KEYS_FILE", &keys.path())]);
    let (session, modern) = (Opening::new().key(&some).open(&gateway), Modern::new(&gateway).key(&some));
    let discovered = modern.result("server/discover", json!({}));
    for result in [&session.result, &discovered] {
        let capabilities = &result["capabilities"];
        assert!(capabilities["tools"].is_object(), "{capabilities}");
        for hidden in ["resources", "prompts", "completions"] {
            assert!(capabilities.get(hidden).is_none(), "{capabilities}");
        }
    }
    let completion =
        json!({"ref": {"type": "ref/prompt", "name": "greeting"}, "argument": {"name": "name", "value": ""}});
    let requests = [
        ("resources/list", json!({})),
        ("resources/templates/list", json!({})),
        ("resources/read", json!({"uri": "helper://text"})),
        ("resources/subscribe", json!({"uri": "helper://text"})),
        ("prompts/list", json!({})),
        ("prompts/get", json!({"name": "plain"})),
        ("completion/complete", completion),
        ("tools/remove", json!({"name": "echo"})),
    ];
    for (method, params) in requests {
        assert!(session.error(method, params.clone())["code"].is_i64(), "{method}");
        let status = modern.send(1, method, params).reply().status;
        assert!(400 <= status, "{method}: {status}");
    }
    let heard = heard(&gateway);
    for method in ["resources/read", "resources/subscribe", "prompts/get", "completion/complete", "tools/remove"] {
        assert!(super::with_method(&heard, method).is_empty(), "{method} reached the server: {heard:#?}");
    }
}

#[test]
fn a_key_for_some_tools_cannot_name_another_one_beside_its_own() {
    let keys = Keys::new();
    let some = keys.make("some", Some("echo"));
    for isolation in super::ISOLATIONS {
        let gateway = start(isolation, &["--record"], &[("API_KEYS_FILE", &keys.path())]);
        let (session, modern) = (Opening::new().key(&some).open(&gateway), Modern::new(&gateway).key(&some));
        // Of a field that stands there twice, one program takes the first and another the last.
        let twice =
            [r#""name":"echo","name":"pid""#, r#""name":"pid","name":"echo""#, r#""name":"echo","n\u0061me":"pid""#];
        for names in twice {
            let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{{names}}}}}"#);
            check_error(&session.post(&body).reply(), 400, -32600, Some(json!(1)));
            let params = modern.params(json!({"name": "echo"}));
            let body = request(1, "tools/call", &params).replace(r#""name":"echo""#, names);
            assert!(body.contains(names), "{body}");
            check_error(
                &modern.post(&modern.headers("tools/call", &params), &body).reply(),
                400,
                -32600,
                Some(json!(1)),
            );
        }
        let heard = heard(&gateway);
        assert!(super::calls_of(&heard, "pid").is_empty(), "{heard:#?}");
        assert_eq!(session.text("echo", json!({})), "{}");
    }
}

#[test]
fn globs_of_a_key_are_those_of_the_prefixed_names() {
    let keys = Keys::new();
    let some = keys.make("some", Some("ant__echo"));
    let servers = json!({"zebra": super::entry(&[]), "ant": super::entry(&[])});
    let gateway = launch(&servers).set("API_KEYS_FILE", &keys.path()).start();
    gateway.wait_until("both servers", || gateway.get("/health").json()["status"] == "healthy");
    let session = Opening::new().key(&some).open(&gateway);
    assert_eq!(names(&session.result("tools/list", json!({}))), ["ant__echo"]);
    assert_eq!(session.text("ant__echo", json!({})), "{}");
    assert_eq!(session.error("tools/call", json!({"name": "zebra__echo"}))["data"]["code"], "forbidden");
}

#[test]
fn calls_are_counted_by_tool() {
    let gateway = shared(&[]);
    let (session, modern) = (Session::open(&gateway), Modern::new(&gateway));
    let calls = |tool: &str| gateway.stats()["tools"][tool]["calls"].as_u64().unwrap_or_default();
    for n in 1..=3 {
        session.text("echo", json!({}));
        modern.text("echo", json!({}));
        gateway.call("echo", "{}").expect_status(200);
        gateway.wait_until("the count", || calls("echo") == 3 * n);
    }
    session.follow(1, 1, "progress", json!({"n": 2})).result();
    session.result("prompts/get", json!({"name": "plain"}));
    gateway.wait_until("the count", || calls("progress") == 1);
    assert_eq!((calls("echo"), calls("pid")), (9, 0));
    let total = gateway.stats()["totals"]["calls"].as_u64();
    assert!(Some(10) <= total, "{total:?}");
}

#[test]
fn calls_of_several_servers_are_counted_by_their_prefixed_names() {
    let gateway = crate::support::Gateway::start_helpers(&[], &[("zebra", &[]), ("ant", &[])]);
    let session = Session::open(&gateway);
    session.text("ant__echo", json!({}));
    Opening::new().at("/servers/ant/mcp").open(&gateway).text("echo", json!({}));
    session.text("zebra__pid", json!({}));
    let calls = |tool: &str| gateway.stats()["tools"][tool]["calls"].as_u64().unwrap_or_default();
    gateway.wait_until("the counts", || calls("ant__echo") == 2 && calls("zebra__pid") == 1);
    assert_eq!(calls("zebra__echo"), 0);
}
