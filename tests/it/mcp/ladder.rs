//! What a modern request has to be (MCP 2026-07-28), in the order in which it is looked at.

use serde_json::{Value, json};

use super::{
    client::{MODERN, Modern, changed, check_error, request},
    shared,
};
use crate::support::{Gateway, Reply};

const MISMATCH: i64 = -32020;
const UNSUPPORTED: i64 = -32022;
const INVALID_PARAMS: i64 = -32602;
const UNKNOWN_METHOD: i64 = -32601;

const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";

/// Methods, with parameters that are in order.
fn requests() -> [(&'static str, Value); 9] {
    let reference = json!({"type": "ref/prompt", "name": "greeting"});
    [
        ("server/discover", json!({})),
        ("tools/list", json!({})),
        ("tools/call", json!({"name": "echo", "arguments": {}})),
        ("prompts/list", json!({})),
        ("prompts/get", json!({"name": "plain"})),
        ("resources/list", json!({})),
        ("resources/templates/list", json!({})),
        ("resources/read", json!({"uri": "helper://text"})),
        ("completion/complete", json!({"ref": reference, "argument": {"name": "name", "value": "x"}})),
    ]
}

/// The same against servers of each era: all of it is decided before they are asked.
fn gateways() -> [Gateway; 2] {
    [shared(&[]), shared(&["--era", "modern"])]
}

/// Sends `tools/list` with these headers changed, and these fields of its `_meta`, where null takes one away.
#[track_caller]
fn list(gateway: &Gateway, changes: &[(&str, Option<&str>)], meta: &[(&str, Value)]) -> Reply {
    let modern = Modern::new(gateway);
    let mut params = modern.params(json!({}));
    let fields = params["_meta"].as_object_mut().unwrap();
    for (key, value) in meta {
        fields.insert((*key).to_owned(), value.clone());
        fields.retain(|_, value| !value.is_null());
    }
    let headers = modern.headers("tools/list", &params);
    modern.post(&changed(&headers, changes), &request("id", "tools/list", &params)).reply()
}

#[track_caller]
fn check(reply: &Reply, status: u16, code: i64) {
    check_error(reply, status, code, Some(json!("id")));
}

#[test]
fn every_method_of_the_revision_is_answered() {
    for gateway in gateways() {
        let modern = Modern::new(&gateway);
        for (method, params) in requests() {
            let reply = modern.send("id", method, params).reply();
            reply.expect_status(200).expect_header("Content-Type", "application/json");
            let body = reply.json();
            reply.expect(body["id"] == "id" && body["result"]["resultType"] == "complete", "a complete result");
            reply.expect(reply.header("Mcp-Session-Id").is_none(), "no session");
            let is_cacheable = !["tools/call", "prompts/get", "completion/complete"].contains(&method);
            if is_cacheable {
                let (ttl, scope) = (&body["result"]["ttlMs"], &body["result"]["cacheScope"]);
                reply.expect(ttl.as_u64().is_some(), "ttlMs");
                reply.expect(scope == "private" || scope == "public", "cacheScope");
            }
        }
    }
}

#[test]
fn what_has_no_id_is_accepted_and_nothing_else_of_it_looked_at() {
    let gateway = shared(&[]);
    let modern = Modern::new(&gateway);
    let headers = modern.headers("notifications/cancelled", &Value::Null);
    for params in [json!({"requestId": 1}), modern.params(json!({"requestId": 1}))] {
        let body = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}).to_string();
        for changes in [&[][..], &[("Mcp-Method", None)], &[("Mcp-Method", Some("tools/call"))]] {
            let reply = modern.post(&changed(&headers, changes), &body).reply();
            reply.expect_status(202).expect(reply.body.is_empty(), "an empty body");
        }
    }
    let odd = modern.post(&headers, r#"{"jsonrpc":"2.0","method":"notifications/no/such/thing"}"#).reply();
    odd.expect_status(202);
}

#[test]
fn version_and_capabilities_are_said_with_every_request() {
    for gateway in gateways() {
        check(&list(&gateway, &[], &[(VERSION, Value::Null)]), 400, INVALID_PARAMS);
        check(&list(&gateway, &[], &[(CAPABILITIES, Value::Null)]), 400, INVALID_PARAMS);
        check(&list(&gateway, &[], &[(VERSION, Value::Null), (CAPABILITIES, Value::Null)]), 400, INVALID_PARAMS);
        let modern = Modern::new(&gateway);
        let headers = modern.headers("tools/list", &Value::Null);
        for params in [json!({}), json!({"_meta": null}), json!({"_meta": []}), json!({"_meta": {}})] {
            let reply = modern.post(&headers, &request("id", "tools/list", &params)).reply();
            check(&reply, 400, INVALID_PARAMS);
        }
        let without_params = r#"{"jsonrpc":"2.0","id":"id","method":"tools/list"}"#;
        check(&modern.post(&headers, without_params).reply(), 400, INVALID_PARAMS);
        // Who asks need not be said.
        let unnamed = list(&gateway, &[], &[("io.modelcontextprotocol/clientInfo", Value::Null)]);
        unnamed.expect_status(200);
    }
}

#[test]
fn the_version_in_the_head_is_the_one_in_the_body() {
    for gateway in gateways() {
        for header in [None, Some("2099-01-01"), Some("2025-11-25")] {
            check(&list(&gateway, &[("MCP-Protocol-Version", header)], &[]), 400, MISMATCH);
        }
        check(&list(&gateway, &[], &[(VERSION, json!("2099-01-01"))]), 400, MISMATCH);
        list(&gateway, &[("MCP-Protocol-Version", Some("  2026-07-28\t"))], &[]).expect_status(200);
    }
}

#[test]
fn the_method_in_the_head_is_the_one_in_the_body() {
    for gateway in gateways() {
        for header in [None, Some("tools/call"), Some("Tools/List"), Some("")] {
            check(&list(&gateway, &[("Mcp-Method", header)], &[]), 400, MISMATCH);
        }
        // Names of headers may be written in any way.
        list(&gateway, &[("Mcp-Method", None), ("MCP-METHOD", Some("tools/list"))], &[]).expect_status(200);
        list(&gateway, &[("Mcp-Method", None), ("mcp-method", Some(" tools/list "))], &[]).expect_status(200);
    }
}

#[test]
fn another_version_is_refused_with_those_there_are() {
    for gateway in gateways() {
        for version in ["2099-01-01", "2026-07-29", "draft"] {
            let headers = [("MCP-Protocol-Version", Some(version))];
            let reply = list(&gateway, &headers, &[(VERSION, json!(version))]);
            check(&reply, 400, UNSUPPORTED);
            let expected = json!({"supported": [MODERN], "requested": version});
            reply.expect(reply.json()["error"]["data"] == expected, &expected.to_string());
        }
    }
}

#[test]
fn of_several_faults_the_first_one_counts() {
    let gateway = shared(&[]);
    let (odd_version, odd_meta) = (("MCP-Protocol-Version", Some("2099-01-01")), (VERSION, json!("2099-01-01")));
    let (odd_method, no_capabilities) = (("Mcp-Method", Some("tools/call")), [(CAPABILITIES, Value::Null)]);
    // Missing fields before a mismatch, a mismatch before an unknown version.
    check(&list(&gateway, &[odd_version, odd_method], &no_capabilities), 400, INVALID_PARAMS);
    check(&list(&gateway, &[odd_version], &[odd_meta.clone(), no_capabilities[0].clone()]), 400, INVALID_PARAMS);
    check(&list(&gateway, &[odd_version, odd_method], &[]), 400, MISMATCH);
    let odd_meta = [odd_meta];
    check(&list(&gateway, &[odd_version, odd_method], &odd_meta), 400, MISMATCH);
    check(&list(&gateway, &[odd_version], &odd_meta), 400, UNSUPPORTED);
    // All of it before the method.
    let modern = Modern::new(&gateway);
    let unknown = modern.send_with(&[("Mcp-Method", None)], "id", "no/such/method", json!({})).reply();
    check(&unknown, 400, MISMATCH);
}

#[test]
fn methods_there_are_not_any_more_are_not_found() {
    for gateway in gateways() {
        let modern = Modern::new(&gateway);
        let gone = [
            (
                "initialize",
                json!({"protocolVersion": MODERN, "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}),
            ),
            ("ping", json!({})),
            ("logging/setLevel", json!({"level": "info"})),
            ("resources/subscribe", json!({"uri": "helper://text"})),
            ("resources/unsubscribe", json!({"uri": "helper://text"})),
            ("tasks/get", json!({"taskId": "1"})),
            ("tasks/list", json!({})),
            ("tasks/cancel", json!({"taskId": "1"})),
            ("tasks/result", json!({"taskId": "1"})),
            ("no/such/method", json!({})),
        ];
        for (method, params) in gone {
            check(&modern.send("id", method, params).reply(), 404, UNKNOWN_METHOD);
        }
    }
}

#[test]
fn a_body_without_a_header_is_modern_too() {
    let gateway = shared(&[]);
    // So it is looked at as such: the header is missing.
    let reply = list(&gateway, &[("MCP-Protocol-Version", None), ("Mcp-Method", None)], &[]);
    check(&reply, 400, MISMATCH);
}

#[test]
fn ids_of_both_types_come_back_with_results_and_errors() {
    let gateway = shared(&[]);
    let modern = Modern::new(&gateway);
    for id in [json!(0), json!(-7), json!(1), json!("1"), json!(""), json!("é \"q\"")] {
        assert_eq!(modern.send(id.clone(), "tools/list", json!({})).response()["id"], id);
        check_error(&modern.send(id.clone(), "ping", json!({})).reply(), 404, UNKNOWN_METHOD, Some(id.clone()));
        let reply = modern.send_with(&[("Mcp-Method", None)], id.clone(), "tools/list", json!({})).reply();
        check_error(&reply, 400, MISMATCH, Some(id));
    }
}

#[test]
fn neither_batches_nor_answers_are_taken() {
    let gateway = shared(&[]);
    let modern = Modern::new(&gateway);
    let headers = modern.headers("tools/list", &Value::Null);
    let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": modern.params(json!({}))});
    for body in [json!([message]), json!([]), json!({"jsonrpc": "2.0", "id": 1, "result": {}})] {
        let reply = modern.post(&headers, &body.to_string()).reply();
        reply.expect_status(400).expect(reply.json()["error"]["code"] == -32600, "the error -32600");
    }
}

#[test]
fn sessions_and_event_ids_mean_nothing() {
    for gateway in gateways() {
        let changes = [("Mcp-Session-Id", Some("0123456789abcdef0123456789abcdef")), ("Last-Event-ID", Some("1-1"))];
        let reply = list(&gateway, &changes, &[]);
        reply.expect_status(200).expect(reply.header("Mcp-Session-Id").is_none(), "no session");
    }
}

#[test]
fn an_error_of_the_server_has_the_status_of_its_code() {
    for gateway in gateways() {
        let modern = Modern::new(&gateway);
        for (code, status) in
            [(-32021, 400), (-32602, 400), (-32600, 400), (-32601, 404), (-32000, 200), (-32603, 200), (7, 200)]
        {
            let reply = modern
                .call("id", "rpc_error", json!({"code": code, "message": "no", "data": {"requiredCapabilities": {}}}))
                .reply();
            check(&reply, status, code);
            reply.expect(reply.json()["error"]["message"] == "no", "its message");
        }
    }
}

#[test]
fn a_failure_of_the_gateway_is_an_internal_error() {
    for flags in [&[][..], &["--era", "modern"]] {
        let gateway = super::start("shared", flags, &[("MCP_REQUEST_TIMEOUT", "0.3")]);
        let modern = Modern::new(&gateway);
        for (tool, code) in [("silent", "timeout"), ("crash", "worker_crashed")] {
            let reply = modern.call("id", tool, json!({})).reply();
            check(&reply, 200, -32603);
            reply.expect(reply.json()["error"]["data"]["code"] == code, code);
        }
        gateway.wait_until("an answer", || modern.call(1, "echo", json!({})).response()["result"].is_object());
    }
}
