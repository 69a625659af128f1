//! `/openapi.json` and what it describes: an operation for each tool, in the plainest form of a call.
//!
//! `readers` has programs of others read the document, `docs` opens the page that shows it.

mod docs;
mod readers;

use std::{collections::BTreeSet, path::PathBuf};

use serde_json::{Value, json};

use crate::support::{Folder, Gateway, Helper, KEY, Launch, Reply, Server, root};

const PLAIN: &str = "application/vnd.mcpgate.arguments+json";

/// Tools with names and schemas as they come in real life, and worse.
fn odd_tools() -> PathBuf {
    root().join("tests/clients/openapi/odd_tools.json")
}

fn odd_helper() -> Helper {
    Helper::with(&["--listing", &odd_tools().display().to_string()])
}

#[track_caller]
fn document(gateway: &Gateway, path: &str) -> Value {
    let reply = gateway.get(path);
    reply.expect_status(200).expect_header("Content-Type", "application/json");
    reply.json()
}

/// The operations that are tools, with their paths.
fn tools(document: &Value) -> Vec<(String, Value)> {
    let paths = document["paths"].as_object().unwrap();
    let posts = paths.iter().map(|(path, item)| (path.clone(), item["post"].clone()));
    posts.filter(|(_, operation)| operation["operationId"].is_string()).collect()
}

fn ids(document: &Value) -> Vec<String> {
    tools(document).iter().map(|(_, operation)| operation["operationId"].as_str().unwrap().to_owned()).collect()
}

/// Every `$ref` of a document.
fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str));
            fields.values().for_each(|value| references(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

fn post(gateway: &Gateway, path: &str, content_type: &str, body: &str) -> Reply {
    gateway.request("POST", path, &[("X-API-Key", KEY), ("Content-Type", content_type)], body.as_bytes())
}

#[test]
fn each_tool_is_an_operation_that_can_be_called_at_its_path() {
    let gateway = Gateway::start(&[("VALIDATE_INPUT", "false")], odd_helper());
    let document = document(&gateway, "/openapi.json");

    let listed: Vec<Value> = serde_json::from_slice(&std::fs::read(odd_tools()).unwrap()).unwrap();
    let operations = tools(&document);
    assert_eq!(operations.len(), listed.len());
    let is_safe = |id: &String| {
        let letters = id.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'_' || it == b'-');
        letters && (1..=64).contains(&id.len())
    };
    let ids = ids(&document);
    assert!(ids.iter().all(is_safe) && ids.iter().collect::<BTreeSet<_>>().len() == ids.len(), "{ids:?}");
    for ((path, operation), tool) in operations.iter().zip(&listed) {
        assert_eq!((&operation["x-mcpgate"]["tool"], &operation["tags"]), (&tool["name"], &json!(["helper"])));
        gateway.post(path, r#"{"a":1.10}"#).expect_status(200).expect(true, path);
    }
    let plain = &operations[0].1;
    assert_eq!((&plain["operationId"], &plain["summary"]), (&json!("plain"), &json!("A plain tool")));
    assert_eq!((&plain["description"], &plain["requestBody"]["required"]), (&json!("Nothing odd."), &json!(true)));
    assert_eq!(plain["x-mcpgate"]["annotations"], json!({"readOnlyHint": true}));
    let named = |name: &str| operations.iter().find(|(_, it)| it["operationId"] == name).unwrap().1.clone();
    let result = &named("result")["responses"]["200"]["content"]["application/json"]["schema"];
    assert_eq!(result, &json!({"$ref": "#/components/schemas/result.result"}));
    assert_eq!(named("no_schema")["summary"], "no_schema");
}

#[test]
fn every_reference_leads_somewhere() {
    let gateway = Gateway::start(&[], odd_helper());
    for path in ["/openapi.json", "/servers/helper/openapi.json"] {
        let document = document(&gateway, path);
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(100 < found.len());
        for reference in found {
            let way = reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference} leads outside"));
            assert!(document.pointer(way).is_some(), "{reference} leads nowhere");
        }
    }
}

#[test]
fn the_gateways_own_endpoints_are_in_it_as_they_are_on_the_map() {
    let gateway = Gateway::start(&[], Helper::new());
    let document = document(&gateway, "/openapi.json");
    let map = gateway.get("/").json();
    for endpoint in map["endpoints"].as_array().unwrap() {
        let (path, methods) = (endpoint["path"].as_str().unwrap(), endpoint["methods"].as_str().unwrap());
        let item = &document["paths"][path];
        for method in methods.split(", ").filter(|it| !["HEAD", "OPTIONS"].contains(it)) {
            let operation = &item[method.to_lowercase()];
            assert!(operation["responses"].is_object(), "{method} {path}");
            assert!(operation["operationId"].is_null(), "{method} {path} would be offered to models");
            assert_eq!(operation["security"].is_array(), endpoint["key"] == false, "{method} {path}");
        }
    }
    let scoped = gateway.get("/servers/helper/openapi.json").json();
    assert_eq!(scoped["servers"], json!([{"url": "/servers/helper"}]));
    assert!(scoped["paths"]["/stats"].is_null() && scoped["paths"]["/tools"].is_object());
}

#[test]
fn a_server_of_several_has_its_own_document_with_its_own_names() {
    let gateway = Gateway::start_helpers(&[], &[("one", &[]), ("two", &["--tools-only"])]);

    let all = ids(&document(&gateway, "/openapi.json"));
    assert!(all.contains(&"one__echo".to_owned()) && all.contains(&"two__echo".to_owned()), "{all:?}");
    let two = document(&gateway, "/servers/two/openapi.json");
    assert!(ids(&two).contains(&"echo".to_owned()) && ids(&two).len() * 2 == all.len());
    gateway.post("/servers/two/call/echo", r#"{"a":1}"#).expect_status(200);
    gateway.get("/servers/three/openapi.json").expect_status(404);
}

#[test]
fn a_key_sees_the_tools_that_it_may_use() {
    let folder = Folder::new();
    let file = folder.path().join("keys.json").display().to_string();
    let arguments = ["key", "new", "some", "--tools", "echo*", "--file", &file];
    let made = Launch::new(Server::FromSettings).arguments(&arguments).run();
    assert_eq!(made.code, Some(0), "{made:?}");
    let gateway = Gateway::start(&[("API_KEYS_FILE", &file)], Helper::new());
    let ask = |key: &str| gateway.request("GET", "/openapi.json", &[("X-API-Key", key)], b"");

    let (some, all) = (ask(made.stdout.trim()), ask(KEY));
    assert_eq!(ids(&some.json()), ["echo", "echo_structured"]);
    assert!(ids(&all.json()).len() > 10);
    assert_ne!(some.header("ETag"), all.header("ETag"));
    assert!(!some.text().contains("rpc_error.arguments") && all.text().contains("rpc_error.arguments"));
    gateway.request("GET", "/openapi.json", &[], b"").expect_error(401, "unauthorized", "no API key");
}

#[test]
fn a_gateway_without_keys_says_so() {
    let gateway = Gateway::start(&[("API_KEY", "")], Helper::new());
    let document = gateway.request("GET", "/openapi.json", &[], b"").json();
    assert!(document["security"].is_null() && document["components"]["securitySchemes"].is_null());
}

#[test]
fn it_is_made_once_for_each_list_of_tools_and_not_sent_twice() {
    let settings = [("MIN_WORKERS", "1"), ("MAX_WORKERS", "1"), ("LOG_LEVEL", "DEBUG")];
    let gateway = Gateway::start(&settings, Helper::new());
    let n_made = || gateway.log().matches("are described for `/openapi.json`").count();
    let ask = |known: &str| {
        let headers = [("X-API-Key", KEY), ("If-None-Match", known)];
        gateway.request("GET", "/openapi.json", &headers, b"")
    };

    let first = gateway.get("/openapi.json");
    let tag = first.header("ETag").expect("an ETag").to_owned();
    first.expect_header("Cache-Control", "private, no-cache");
    let again = ask(&tag);
    again.expect_status(304).expect_header("ETag", &tag).expect(again.body.is_empty(), "no body");
    assert_eq!((ask("\"other\"").text(), n_made()), (first.text(), 1));

    gateway.call("set_tools", r#"{"names":["echo","fresh"]}"#).expect_status(200);
    gateway.wait_until("the new list", || ids(&gateway.get("/openapi.json").json()) == ["echo", "fresh"]);
    ask(&tag).expect_status(200);
    assert_eq!(n_made(), 2);
}

#[test]
fn five_thousand_tools_are_described_too() {
    let folder = Folder::new();
    let schema =
        json!({"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"type": "integer"}}});
    let entry = |number: usize| json!({"name": format!("tool_{number}"), "inputSchema": schema});
    let entries: Vec<Value> = (0..5000).map(entry).collect();
    let file = folder.file("tools.json", &serde_json::to_string(&entries).unwrap());
    let gateway = Gateway::start(&[], Helper::with(&["--listing", &file.display().to_string()]));

    let document = document(&gateway, "/openapi.json");
    assert_eq!(tools(&document).len(), 5000);
    assert_eq!(document["components"]["schemas"]["tool_4999.arguments.A"], json!({"type": "integer"}));
}

#[test]
fn the_plainest_call_gives_its_result_and_nothing_else() {
    let gateway = Gateway::start(&[], Helper::new());

    let reply = gateway.post("/call/echo_structured", r#" {"z":12345678901234567890, "a":1.10}"#);
    reply.expect_status(200).expect_header("Content-Type", "application/json");
    assert_eq!(reply.text(), r#"{"z":12345678901234567890, "a":1.10}"#);
    assert_eq!(post(&gateway, "/call/delay", PLAIN, r#"{"ms":0,"value":"text"}"#).text(), r#""text""#);
    assert_eq!(gateway.post("/call/no_content", "").text(), "null");

    gateway.post("/call/error", r#"{"text":"no"}"#).expect_error(422, "tool_error", "no");
    gateway.post("/call/no-such-tool", "{}").expect_error(404, "unknown_tool", "no-such-tool");
    gateway.post("/call/echo", "{").expect_error(400, "invalid_json", "the body");
    gateway.post("/call/echo", "[1]").expect_error(400, "invalid_arguments", "expected an object");
    gateway.get("/call/echo").expect_error(405, "method_not_allowed", "POST");
    gateway.request("POST", "/call/echo", &[], b"{}").expect_error(401, "unauthorized", "key");
    assert_eq!(gateway.stats()["tools"]["echo_structured"]["calls"], 1);
}

#[test]
fn plain_arguments_are_known_by_their_content_type() {
    let gateway = Gateway::start(&[], Helper::new());
    let arguments = r#"{"arguments":{"timeout":"not ours"},"x":1}"#;
    let data: Value = serde_json::from_str(arguments).unwrap();

    for content_type in [PLAIN, "Application/VND.mcpgate.arguments+JSON; charset=utf-8"] {
        post(&gateway, "/tools/echo", content_type, arguments).expect_data(&data);
    }
    post(&gateway, "/tools/echo", PLAIN, "").expect_data(&json!({}));
    post(&gateway, "/tools/echo", PLAIN, "null").expect_error(400, "invalid_arguments", "expected an object");
    post(&gateway, "/tools/echo", PLAIN, "a=1").expect_error(400, "invalid_json", "the body");
    let events = post(&gateway, "/tools/echo/stream", PLAIN, arguments).text();
    assert!(events.contains(r#""data":{"arguments":{"timeout":"not ours"},"x":1}"#), "{events}");
    for content_type in ["application/json", "text/plain", "application/x-www-form-urlencoded", "nonsense"] {
        post(&gateway, "/tools/echo", content_type, r#"{"arguments":{"x":1}}"#).expect_data(&json!({"x": 1}));
        post(&gateway, "/tools/echo", content_type, arguments).expect_error(400, "bad_request", "unknown field");
    }
}
