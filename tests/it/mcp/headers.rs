//! What a modern request says in its head of the body: names and marked arguments, plain or in base64.

use serde_json::{Value, json};

use super::{
    client::{Modern, calling, check_error},
    shared,
};
use crate::support::{Gateway, Reply};

const MISMATCH: i64 = -32020;

/// `helper://item/é`.
const URI: (&str, &str) = ("helper://item/é", "=?base64?aGVscGVyOi8vaXRlbS/DqQ==?=");

/// Calls the tool `region` with these arguments and these headers more.
#[track_caller]
fn region(gateway: &Gateway, arguments: Value, headers: &[(&str, &str)]) -> Reply {
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, Some(*value))).collect();
    Modern::new(gateway).send_with(&headers, "id", "tools/call", calling("region", arguments, None)).reply()
}

#[track_caller]
fn check_taken(reply: &Reply) {
    reply.expect_status(200).expect(reply.json()["result"]["content"].is_array(), "the tool's result");
}

#[track_caller]
fn check_refused(reply: &Reply) {
    check_error(reply, 400, MISMATCH, Some(json!("id")));
}

fn gateways() -> [Gateway; 2] {
    [shared(&[]), shared(&["--era", "modern"])]
}

#[test]
fn what_is_asked_for_is_named_in_the_head() {
    let gateway = shared(&[]);
    let modern = Modern::new(&gateway);
    let named = [
        ("tools/call", json!({"name": "echo"}), "echo"),
        ("prompts/get", json!({"name": "plain"}), "plain"),
        ("resources/read", json!({"uri": "helper://text"}), "helper://text"),
    ];
    for (method, params, name) in named {
        let send =
            |header: Option<&str>| modern.send_with(&[("Mcp-Name", header)], "id", method, params.clone()).reply();
        for header in [None, Some("other"), Some(""), Some(&*name.to_uppercase()), Some(&*format!("{name}x"))] {
            check_refused(&send(header));
        }
        send(Some(name)).expect_status(200);
        send(Some(&format!("  {name} "))).expect_status(200);
    }
    // Other methods have no name, and one that is given all the same does no harm.
    modern.send("id", "tools/list", json!({})).reply().expect_status(200);
}

#[test]
fn names_in_base64_are_decoded_before_they_are_compared() {
    for gateway in gateways() {
        let modern = Modern::new(&gateway);
        let read = |header: &str| {
            modern.send_with(&[("Mcp-Name", Some(header))], "id", "resources/read", json!({"uri": URI.0})).reply()
        };
        let reply = read(URI.1);
        reply.expect_status(200).expect(reply.json()["result"]["contents"][0]["text"] == "item é", "the item");
        // Of another uri, without its padding, with a foreign letter, and cut.
        for wrong in [
            "=?base64?aGVscGVyOi8vaXRlbS8x?=",
            "=?base64?aGVscGVyOi8vaXRlbS/DqQ?=",
            "=?base64?aGVscGVyOi8vaXRlbS/DqQ=?=",
            "=?base64?aGVscGVyOi8vaXRlbS/D*Q==?=",
            "=?base64?aGVscGVyOi8vaXRlbS_DqQ==?=",
            "=?base64?aGVscGVyOi8vaXRlbS/DqQ==",
            "aGVscGVyOi8vaXRlbS/DqQ==",
            "=?base64??=",
        ] {
            check_refused(&read(wrong));
        }
        // Plain ASCII may come in base64 too.
        let echo =
            modern.send_with(&[("Mcp-Name", Some("=?base64?ZWNobw==?="))], "id", "tools/call", json!({"name": "echo"}));
        check_taken(&echo.reply());
    }
}

#[test]
fn a_marked_argument_is_said_in_the_head() {
    for gateway in gateways() {
        check_taken(&region(&gateway, json!({"region": "eu"}), &[("Mcp-Param-Region", "eu")]));
        check_taken(&region(&gateway, json!({"region": "eu"}), &[("mcp-param-region", " eu ")]));
        check_refused(&region(&gateway, json!({"region": "eu"}), &[]));
        for wrong in ["us", "EU", "", "eu2"] {
            check_refused(&region(&gateway, json!({"region": "eu"}), &[("Mcp-Param-Region", wrong)]));
        }
    }
}

#[test]
fn an_argument_that_is_not_given_is_not_said() {
    for gateway in gateways() {
        check_taken(&region(&gateway, json!({}), &[]));
        check_taken(&region(&gateway, json!({"region": null}), &[]));
        check_taken(&region(&gateway, json!({"other": "x"}), &[]));
    }
}

#[test]
fn marked_arguments_in_base64_are_decoded() {
    for gateway in gateways() {
        let japan = json!({"region": "日本"});
        check_taken(&region(&gateway, japan.clone(), &[("Mcp-Param-Region", "=?base64?5pel5pys?=")]));
        for wrong in ["=?base64?5pel5pyt?=", "=?base64?5pel5py?=", "=?base64?5pel*5pys?=", "5pel5pys"] {
            check_refused(&region(&gateway, japan.clone(), &[("Mcp-Param-Region", wrong)]));
        }
        check_taken(&region(&gateway, json!({"region": " eu"}), &[("Mcp-Param-Region", "=?base64?IGV1?=")]));
        check_taken(&region(&gateway, json!({"region": "=?base64?x"}), &[("Mcp-Param-Region", "=?base64?x")]));
    }
}

#[test]
fn marked_numbers_are_compared_as_numbers() {
    for gateway in gateways() {
        check_taken(&region(&gateway, json!({"count": 42}), &[("Mcp-Param-Count", "42")]));
        check_taken(&region(&gateway, json!({"count": -1}), &[("Mcp-Param-Count", "-1")]));
        check_taken(&region(&gateway, json!({"count": 42}), &[("Mcp-Param-Count", "42.0")]));
        for wrong in ["43", "4 2", "x", "", "-42"] {
            check_refused(&region(&gateway, json!({"count": 42}), &[("Mcp-Param-Count", wrong)]));
        }
        check_refused(&region(&gateway, json!({"count": 42}), &[]));
    }
}

#[test]
fn all_marked_arguments_are_compared() {
    let gateway = shared(&[]);
    let both = json!({"region": "eu", "count": 1, "other": {"x": 1}});
    check_taken(&region(&gateway, both.clone(), &[("Mcp-Param-Region", "eu"), ("Mcp-Param-Count", "1")]));
    check_refused(&region(&gateway, both.clone(), &[("Mcp-Param-Region", "eu")]));
    check_refused(&region(&gateway, both.clone(), &[("Mcp-Param-Count", "1")]));
    check_refused(&region(&gateway, both, &[("Mcp-Param-Region", "eu"), ("Mcp-Param-Count", "2")]));
}

#[test]
fn headers_of_arguments_that_are_not_marked_mean_nothing() {
    let gateway = shared(&[]);
    let reply = region(&gateway, json!({"other": "x"}), &[("Mcp-Param-Other", "y")]);
    check_taken(&reply);
    let headers = [("Mcp-Param-Region", Some("eu"))];
    let echo = Modern::new(&gateway).send_with(
        &headers,
        "id",
        "tools/call",
        json!({"name": "echo", "arguments": {"region": "us"}}),
    );
    check_taken(&echo.reply());
}

#[test]
fn a_refused_call_never_reaches_the_server() {
    let gateway = shared(&["--record"]);
    region(&gateway, json!({"region": "eu"}), &[]).expect_status(400);
    let heard = super::heard(&gateway);
    assert!(super::calls_of(&heard, "region").is_empty(), "{heard:#?}");
}

#[test]
fn names_of_several_servers_are_compared_with_their_prefix() {
    let gateway = Gateway::start_helpers(&[], &[("zebra", &[]), ("ant", &[])]);
    let modern = Modern::new(&gateway);
    let call = |name: &str, region: &str| {
        let headers = [("Mcp-Name", Some(name)), ("Mcp-Param-Region", Some(region))];
        let params = calling("ant__region", json!({"region": "eu"}), None);
        modern.send_with(&headers, "id", "tools/call", params).reply()
    };
    check_taken(&call("ant__region", "eu"));
    check_refused(&call("region", "eu"));
    check_refused(&call("ant__region", "us"));
}

#[test]
fn a_legacy_client_says_none_of_it() {
    let gateway = shared(&[]);
    let session = super::client::Session::open(&gateway);
    assert_eq!(session.text("region", json!({"region": "eu", "count": 3})), r#"{"region":"eu","count":3}"#);
}
