//! `subscriptions/listen`: what a modern client asked to hear of, tagged, and nothing else.

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{
    client::{Modern, check_error, check_tag},
    lines, shared, start,
    stream::Stream,
    with_method,
};
use crate::support::Gateway;

/// The same before servers of each era.
const ERAS: [&[&str]; 2] = [&["--record"], &["--record", "--era", "modern"]];

/// Asks for everything but updates.
fn all_lists() -> Value {
    json!({"toolsListChanged": true, "promptsListChanged": true, "resourcesListChanged": true})
}

#[track_caller]
fn change(gateway: &Gateway, what: &str) {
    Modern::new(gateway).text("change", json!({"what": what}));
}

#[track_caller]
fn update(gateway: &Gateway, uri: &str) {
    Modern::new(gateway).text("update", json!({"uri": uri}));
}

/// The next message is this one, of this subscription.
#[track_caller]
fn expect(stream: &mut Stream, method: &str, id: &Value) -> Value {
    let message = stream.expect(method);
    check_tag(stream, &message, id);
    message
}

#[test]
fn what_is_asked_for_is_acknowledged_and_told() {
    for flags in ERAS {
        let gateway = shared(flags);
        let modern = Modern::new(&gateway);
        for id in [json!(1), json!("1"), json!("é")] {
            let (mut stream, honoured) = modern.listen(id.clone(), all_lists());
            assert_eq!(honoured, all_lists());
            for what in ["tools", "prompts", "resources"] {
                change(&gateway, what);
                expect(&mut stream, &format!("notifications/{what}/list_changed"), &id);
            }
        }
    }
}

#[test]
fn nothing_is_told_that_was_not_asked_for() {
    for flags in ERAS {
        let gateway = shared(flags);
        let modern = Modern::new(&gateway);
        let (mut stream, honoured) = modern.listen(1, json!({"promptsListChanged": true, "toolsListChanged": false}));
        assert_eq!(honoured["promptsListChanged"], true, "{honoured}");
        assert_ne!(honoured["toolsListChanged"], true, "{honoured}");
        assert!(honoured.get("resourcesListChanged").is_none_or(|it| *it == false), "{honoured}");
        change(&gateway, "tools");
        change(&gateway, "resources");
        update(&gateway, "helper://text");
        modern.follow(2, 2, "progress", json!({"n": 2})).result();
        change(&gateway, "prompts");
        expect(&mut stream, "notifications/prompts/list_changed", &json!(1));
    }
}

#[test]
fn updates_are_told_of_the_uris_that_were_asked_for() {
    for flags in ERAS {
        let gateway = shared(flags);
        let modern = Modern::new(&gateway);
        let uris = json!(["helper://text", "helper://item/1"]);
        let (mut stream, honoured) = modern.listen("u", json!({ "resourceSubscriptions": uris }));
        assert_eq!(honoured["resourceSubscriptions"], uris, "{honoured}");
        let (mut other, _) = modern.listen("o", json!({"resourceSubscriptions": ["helper://json"]}));
        for uri in ["helper://json", "helper://item/1", "helper://item/2", "helper://text"] {
            update(&gateway, uri);
        }
        for uri in ["helper://item/1", "helper://text"] {
            let message = expect(&mut stream, "notifications/resources/updated", &json!("u"));
            assert_eq!(message["params"]["uri"], uri);
        }
        let message = expect(&mut other, "notifications/resources/updated", &json!("o"));
        assert_eq!(message["params"]["uri"], "helper://json");
    }
}

#[test]
fn what_a_server_has_not_is_not_honoured() {
    for era in ["legacy", "modern"] {
        let gateway = shared(&["--tools-only", "--era", era]);
        let filter = json!({"toolsListChanged": true, "promptsListChanged": true, "resourceSubscriptions": ["x:y"]});
        let (mut stream, honoured) = Modern::new(&gateway).listen(1, filter);
        assert_eq!(honoured["toolsListChanged"], true, "{honoured}");
        assert!(honoured.get("promptsListChanged").is_none_or(|it| *it == false), "{honoured}");
        let uris = honoured.get("resourceSubscriptions").and_then(Value::as_array);
        assert!(uris.is_none_or(Vec::is_empty), "{honoured}");
        change(&gateway, "tools");
        expect(&mut stream, "notifications/tools/list_changed", &json!(1));
    }
}

#[test]
fn listeners_with_the_same_id_hear_each_their_own() {
    for flags in ERAS {
        let gateway = shared(flags);
        let clients = [Modern::new(&gateway), Modern::new(&gateway), Modern::new(&gateway)];
        let uri = |n: usize| format!("helper://item/{n}");
        let mut streams: Vec<Stream> = clients
            .iter()
            .enumerate()
            .map(|(n, client)| client.listen(1, json!({"resourceSubscriptions": [uri(n)], "toolsListChanged": true})).0)
            .collect();
        for n in [2, 0, 1] {
            update(&gateway, &uri(n));
        }
        change(&gateway, "tools");
        for (n, stream) in streams.iter_mut().enumerate() {
            let message = expect(stream, "notifications/resources/updated", &json!(1));
            assert_eq!(message["params"]["uri"], uri(n));
            expect(stream, "notifications/tools/list_changed", &json!(1));
        }
    }
}

#[test]
fn fifty_listeners_are_all_told() {
    for flags in ERAS {
        let gateway = shared(flags);
        let modern = Modern::new(&gateway);
        let mut streams: Vec<Stream> = (0..50).map(|n| modern.listen(n, json!({"toolsListChanged": true})).0).collect();
        for _ in 0..3 {
            change(&gateway, "tools");
            for (n, stream) in streams.iter_mut().enumerate() {
                expect(stream, "notifications/tools/list_changed", &json!(n));
            }
        }
    }
}

#[test]
fn a_subscription_ends_with_its_client() {
    for flags in ERAS {
        let gateway = shared(flags);
        let modern = Modern::new(&gateway);
        let filter = json!({"resourceSubscriptions": ["helper://text"]});
        let (mut kept, _) = modern.listen(1, filter.clone());
        let (left, _) = modern.listen(2, filter);
        drop(left);
        update(&gateway, "helper://text");
        expect(&mut kept, "notifications/resources/updated", &json!(1));
        drop(kept);
        let subscribed = || modern.text("update", json!({"uri": "helper://none"}));
        gateway.wait_until("the end of the subscriptions", || subscribed() == "[]");
    }
}

#[test]
fn the_end_of_a_subscription_is_told_to_a_modern_server_by_its_own_id() {
    let gateway = shared(ERAS[1]);
    let modern = Modern::new(&gateway);
    let (stream, _) = modern.listen("mine", json!({"resourceSubscriptions": ["helper://text"]}));
    drop(stream);
    let heard = || lines(&modern.text("heard", json!({})));
    gateway.wait_until("the cancellation", || !with_method(&heard(), "notifications/cancelled").is_empty());
    let heard = heard();
    let listens = with_method(&heard, "subscriptions/listen");
    let cancelled = &with_method(&heard, "notifications/cancelled")[0]["params"]["requestId"];
    assert!(listens.iter().any(|line| line["id"] == *cancelled), "{heard:#?}");
}

#[test]
fn a_gateway_that_stops_says_so_to_its_listeners() {
    for flags in ERAS {
        let mut gateway = shared(flags);
        let mut streams =
            [json!(7), json!("7")].map(|id| (Modern::new(&gateway).listen(id.clone(), all_lists()).0, id));
        gateway.signal(Signal::TERM);
        for (stream, id) in &mut streams {
            let response = stream.response(id.clone());
            let result = &response["result"];
            assert_eq!(result["resultType"], "complete", "{response}");
            assert_eq!(result["_meta"]["io.modelcontextprotocol/subscriptionId"], *id, "{response}");
        }
        assert_eq!(gateway.wait_for_exit().code(), Some(0), "{}", gateway.log());
    }
}

#[test]
fn a_quiet_subscription_is_kept_alive() {
    for flags in ERAS {
        let gateway = start("shared", flags, &[("SSE_KEEP_ALIVE", "0.1"), ("MCP_REQUEST_TIMEOUT", "0.3")]);
        let (mut stream, _) = Modern::new(&gateway).listen(1, all_lists());
        // It does not run out of time as a call would.
        stream.expect_comments(8);
        change(&gateway, "tools");
        expect(&mut stream, "notifications/tools/list_changed", &json!(1));
    }
}

#[test]
fn a_subscription_survives_the_worker() {
    for flags in ERAS {
        let gateway = shared(flags);
        let modern = Modern::new(&gateway);
        let (mut stream, _) = modern.listen(1, json!({"resourceSubscriptions": ["helper://text"]}));
        modern.call(2, "crash", json!({})).error();
        let is_subscribed = || {
            let response = modern.call(3, "update", json!({"uri": "helper://text"})).response();
            response["result"]["content"][0]["text"].as_str().is_some_and(|it| it.contains("helper://text"))
        };
        gateway.wait_until("the subscription at the new worker", is_subscribed);
        expect(&mut stream, "notifications/resources/updated", &json!(1));
    }
}

#[test]
fn a_filter_that_is_none_is_refused() {
    let gateway = shared(&[]);
    let modern = Modern::new(&gateway);
    for params in [json!({}), json!({"notifications": true}), json!({"notifications": {"resourceSubscriptions": "x"}})]
    {
        check_error(&modern.send(1, "subscriptions/listen", params).reply(), 400, -32602, Some(json!(1)));
    }
}

#[test]
fn listeners_of_several_servers_hear_of_each() {
    let helpers: [(&str, &[&str]); 2] =
        [("zebra", &["--uri-host", "z"]), ("ant", &["--uri-host", "a", "--era", "modern"])];
    let gateway = Gateway::start_helpers(&[], &helpers);
    let modern = Modern::new(&gateway);
    let uris = json!(["helper://a/text", "helper://z/text"]);
    let (mut stream, honoured) = modern.listen(1, json!({"toolsListChanged": true, "resourceSubscriptions": uris}));
    assert_eq!(honoured, json!({"toolsListChanged": true, "resourceSubscriptions": uris}));
    for (server, host) in [("ant", "a"), ("zebra", "z")] {
        modern.text(&format!("{server}__change"), json!({"what": "tools"}));
        expect(&mut stream, "notifications/tools/list_changed", &json!(1));
        modern.text(&format!("{server}__update"), json!({"uri": format!("helper://{host}/text")}));
        let message = expect(&mut stream, "notifications/resources/updated", &json!(1));
        assert_eq!(message["params"]["uri"], format!("helper://{host}/text"));
    }
}
