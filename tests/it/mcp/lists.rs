//! Lists: pages of the only server as it makes them, pages of several as one list.

use serde_json::{Value, json};

use super::{
    client::{Modern, Session},
    shared,
};
use crate::support::Gateway;

/// Method, field of the entries, and what an entry is known by.
const LISTS: [(&str, &str, &str); 4] = [
    ("tools/list", "tools", "name"),
    ("prompts/list", "prompts", "name"),
    ("resources/list", "resources", "uri"),
    ("resources/templates/list", "resourceTemplates", "uriTemplate"),
];

/// All pages of a list: what `ask` gives for the first and then for each cursor; and how many there were.
#[track_caller]
fn all_pages(method: &str, field: &str, key: &str, ask: impl Fn(&str, Value) -> Value) -> (Vec<String>, usize) {
    let (mut names, mut pages, mut params) = (Vec::new(), 0, json!({}));
    loop {
        let page = ask(method, params);
        let entries = page[field].as_array().unwrap_or_else(|| panic!("expected: `{field}`\nactual: {page}"));
        names.extend(entries.iter().map(|entry| entry[key].as_str().unwrap_or_default().to_owned()));
        pages += 1;
        assert!(pages < 200, "{method} goes on and on");
        match page.get("nextCursor") {
            Some(cursor) => params = json!({ "cursor": cursor }),
            None => return (names, pages),
        }
    }
}

/// The names of the tools, as plain HTTP has them.
#[track_caller]
fn tools_of(gateway: &Gateway) -> Vec<String> {
    let tools = gateway.get("/tools").json();
    let tools = tools["tools"].as_array().cloned().unwrap_or_default();
    tools.iter().map(|tool| tool["name"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn the_pages_of_the_only_server_are_passed_on_one_by_one() {
    let gateway = shared(&["--pages", "3"]);
    let (session, modern) = (Session::open(&gateway), Modern::new(&gateway));
    for (method, field, key) in LISTS {
        let (legacy, legacy_pages) = all_pages(method, field, key, |method, params| session.result(method, params));
        let (modern, modern_pages) = all_pages(method, field, key, |method, params| modern.result(method, params));
        assert_eq!((legacy_pages, modern_pages), (3, 3), "{method}");
        assert_eq!(legacy, modern, "{method}");
        match method {
            "tools/list" => assert_eq!(legacy, tools_of(&gateway)),
            "prompts/list" => assert_eq!(legacy, ["greeting", "plain"]),
            "resources/list" => assert_eq!(legacy, ["helper://text", "helper://json", "helper://blob"]),
            _ => assert_eq!(legacy, ["helper://item/{id}"]),
        }
    }
}

#[test]
fn entries_of_lists_pass_untouched() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    let tools = session.result("tools/list", json!({}));
    let named = |name: &str| {
        let tools = tools["tools"].as_array().unwrap();
        tools.iter().find(|tool| tool["name"] == name).unwrap_or_else(|| panic!("no `{name}` in {tools:#?}")).clone()
    };
    let region = named("region");
    assert_eq!(region["execution"], json!({"taskSupport": "forbidden"}), "{region}");
    assert_eq!(region["inputSchema"]["properties"]["region"]["x-mcp-header"], "Region", "{region}");
    assert_eq!(named("lookup")["annotations"], json!({"readOnlyHint": true}));
    let prompts = session.result("prompts/list", json!({}));
    let greeting = json!({
        "name": "greeting",
        "description": "Greets somebody.",
        "arguments": [{"name": "name", "description": "Whom to greet.", "required": true}],
    });
    assert_eq!(prompts["prompts"][0], greeting);
}

#[test]
fn a_cursor_that_is_none_is_refused() {
    for flags in [&[][..], &["--pages", "3"]] {
        let gateway = shared(flags);
        let (session, modern) = (Session::open(&gateway), Modern::new(&gateway));
        for (method, ..) in LISTS {
            for cursor in ["no cursor", "17", "-1"] {
                let error = session.error(method, json!({"cursor": cursor}));
                assert_eq!(error["code"], -32602, "{method} {cursor}: {error}");
                let reply = modern.send(1, method, json!({"cursor": cursor})).reply();
                super::client::check_error(&reply, 400, -32602, Some(json!(1)));
            }
        }
    }
}

#[test]
fn the_pages_of_several_servers_make_one_list() {
    let helpers = [("zebra", &["--pages", "3", "--uri-host", "z"][..]), ("ant", &["--pages", "2", "--uri-host", "a"])];
    let gateway = Gateway::start_helpers(&[], &helpers);
    let (session, modern) = (Session::open(&gateway), Modern::new(&gateway));
    for (method, field, key) in LISTS {
        let (legacy, _) = all_pages(method, field, key, |method, params| session.result(method, params));
        let (modern, _) = all_pages(method, field, key, |method, params| modern.result(method, params));
        assert_eq!(legacy, modern, "{method}");
        let expected = match method {
            "tools/list" => tools_of(&gateway),
            "prompts/list" => {
                ["zebra__greeting", "zebra__plain", "ant__greeting", "ant__plain"].map(str::to_owned).into()
            }
            "resources/list" => {
                let uris = |host: &str| ["text", "json", "blob"].map(|name| format!("helper://{host}/{name}"));
                [uris("z"), uris("a")].concat()
            }
            _ => ["z", "a"].map(|host| format!("helper://{host}/item/{{id}}")).into(),
        };
        assert_eq!(legacy, expected, "{method}");
        assert_eq!(session.error(method, json!({"cursor": "no cursor"}))["code"], -32602, "{method}");
    }
    // Below its own path, each has its own pages.
    let ant = super::client::Opening::new().at("/servers/ant/mcp").open(&gateway);
    let (tools, pages) = all_pages("tools/list", "tools", "name", |method, params| ant.result(method, params));
    assert_eq!((tools[0].as_str(), pages), ("echo", 2));
}

#[test]
fn a_server_without_prompts_and_resources_knows_none_of_their_methods() {
    let gateway = shared(&["--tools-only"]);
    let (session, modern) = (Session::open(&gateway), Modern::new(&gateway));
    assert_eq!(session.result["capabilities"], json!({"tools": {"listChanged": true}, "logging": {}}));
    for method in ["prompts/list", "resources/list", "resources/templates/list"] {
        assert_eq!(session.error(method, json!({}))["code"], -32601, "{method}");
        let reply = modern.send(1, method, json!({})).reply();
        super::client::check_error(&reply, 404, -32601, Some(json!(1)));
    }
}

#[test]
fn a_changed_list_is_seen_at_once() {
    let gateway = shared(&[]);
    let session = Session::open(&gateway);
    let mut standing = session.get();
    for what in ["tools", "prompts", "resources"] {
        let name = session.text("change", json!({"what": what}));
        standing.expect(&format!("notifications/{what}/list_changed"));
        // Whoever asks once it was told gets the new list.
        let list = session.result(&format!("{what}/list"), json!({}));
        assert!(list.to_string().contains(&format!("\"{name}\"")), "no `{name}` in {list}");
    }
}
