//! Several servers behind one `/mcp`: prefixed names, resources by their uri, and each server by itself below its path.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::client::{Modern, Opening, Session};
use crate::support::{Gateway, Helper};

/// Two helpers, the later one in the alphabet first, with uris of their own.
const TWO: [(&str, &[&str]); 2] = [("zebra", &["--uri-host", "z"]), ("ant", &["--uri-host", "a"])];

#[track_caller]
fn start(helpers: &[(&str, &[&str])]) -> Gateway {
    Gateway::start_helpers(&[], helpers)
}

/// How often a server was sent this method.
#[track_caller]
fn asked(gateway: &Gateway, server: &str, method: &str) -> u64 {
    let counts = gateway.call(&format!("{server}__counts"), "{}").data();
    counts["methods"][method].as_u64().unwrap_or_default()
}

#[track_caller]
fn strings(list: &Value, field: &str, key: &str) -> Vec<String> {
    let entries = list[field].as_array().unwrap_or_else(|| panic!("expected: `{field}`\nactual: {list}"));
    entries.iter().map(|entry| entry[key].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn the_gateway_introduces_itself_for_all_of_them() {
    let gateway = start(&[
        ("zebra", &["--instructions", "Count stripes."]),
        ("ant", &["--instructions", "Carry leaves.", "--capabilities", r#"{"tools":{},"tasks":{}}"#]),
    ]);
    let result = Session::open(&gateway).result;
    let discovered = Modern::new(&gateway).result("server/discover", json!({}));
    let own = &discovered["_meta"]["io.modelcontextprotocol/serverInfo"];
    for info in [&result["serverInfo"], own] {
        assert_eq!((&info["name"], &info["version"]), (&json!("mcpgate"), &json!(env!("CARGO_PKG_VERSION"))), "{info}");
    }
    for result in [&result, &discovered] {
        let instructions = result["instructions"].as_str().unwrap_or_default();
        assert!(instructions.contains("Count stripes.") && instructions.contains("Carry leaves."), "{result}");
        let capabilities = &result["capabilities"];
        for list in ["tools", "resources", "prompts"] {
            assert_eq!(capabilities[list]["listChanged"], true, "{capabilities}");
        }
        assert!(capabilities["completions"].is_object() && capabilities["logging"].is_object(), "{capabilities}");
        assert!(capabilities.get("tasks").is_none(), "{capabilities}");
    }
}

#[test]
fn tools_and_prompts_are_called_by_their_prefixed_names() {
    let gateway = start(&TWO);
    let (session, modern) = (Session::open(&gateway), Modern::new(&gateway));
    let listed = session.result("tools/list", json!({}));
    let names: BTreeSet<String> = strings(&listed, "tools", "name").into_iter().collect();
    assert!(names.contains("zebra__echo") && names.contains("ant__echo") && !names.contains("echo"), "{names:?}");

    let args = |text: String| -> Value { serde_json::from_str(&text).unwrap() };
    for (server, host) in [("zebra", "z"), ("ant", "a")] {
        let tool = format!("{server}__args");
        assert_eq!(args(session.text(&tool, json!({}))), json!(["--uri-host", host]));
        assert_eq!(args(modern.text(&tool, json!({}))), json!(["--uri-host", host]));
        // The server knows its tool by its own name.
        let received = session.text(&format!("{server}__received"), json!({}));
        assert!(received.contains(r#""name":"received""#), "{received}");

        let params = json!({"name": format!("{server}__greeting"), "arguments": {"name": "Ada"}});
        for prompt in [session.result("prompts/get", params.clone()), modern.result("prompts/get", params)] {
            assert_eq!(prompt["messages"][0]["content"]["text"], "Hello, Ada!");
        }
        assert_eq!(asked(&gateway, server, "prompts/get"), 2);
    }
}

#[test]
fn a_name_that_fits_two_servers_is_of_the_one_that_has_such_a_tool_and_of_the_longer_one_if_both_have() {
    let tool_of = |flags: [&[&str]; 2]| {
        let gateway = start(&[("a", flags[0]), ("a__b", flags[1])]);
        let (session, modern) = (Session::open(&gateway), Modern::new(&gateway));
        let listed = strings(&session.result("tools/list", json!({})), "tools", "name");
        assert!(listed.contains(&"a__b__args".to_owned()), "{listed:?}");
        let args = session.text("a__b__args", json!({}));
        assert_eq!(modern.text("a__b__args", json!({})), args);
        assert_eq!(gateway.call("a__b__args", "{}").data().to_string(), args);
        for name in ["a__b__none", "a__b__"] {
            assert_eq!(session.error("tools/call", json!({"name": name}))["code"], -32602);
        }
        args
    };
    let (a, b): (&[&str], &[&str]) = (&["--prefix", "b__"], &["--prefix", "x_"]);
    assert_eq!(tool_of([a, b]), r#"["--prefix","b__"]"#);
    assert_eq!(tool_of([a, &[]]), "[]");
}

#[test]
fn an_unknown_name_is_an_error_of_the_gateway() {
    let gateway = start(&TWO);
    let (session, modern) = (Session::open(&gateway), Modern::new(&gateway));
    for name in ["echo", "zebra__ecko", "bee__echo", "zebra__", "__echo", ""] {
        for method in ["tools/call", "prompts/get"] {
            assert_eq!(session.error(method, json!({"name": name}))["code"], -32602, "{method} {name}");
            let reply = modern.send(1, method, json!({"name": name})).reply();
            super::client::check_error(&reply, 400, -32602, Some(json!(1)));
        }
    }
}

#[test]
fn a_completion_goes_to_the_server_of_its_prompt_or_template() {
    let gateway = start(&TWO);
    let session = Session::open(&gateway);
    let complete = |reference: Value| {
        let argument = json!({"name": "name", "value": "x"});
        session.result("completion/complete", json!({"ref": reference, "argument": argument}))
    };
    let completed = complete(json!({"type": "ref/prompt", "name": "ant__greeting"}));
    assert_eq!(completed["completion"]["values"][0], "x of greeting", "{completed}");
    let completed = complete(json!({"type": "ref/resource", "uri": "helper://z/item/{id}"}));
    assert_eq!(completed["completion"]["values"][0], "x of helper://z/item/{id}", "{completed}");
    let counts = ["ant", "zebra"].map(|server| asked(&gateway, server, "completion/complete"));
    assert_eq!(counts, [1, 1]);
}

#[test]
fn a_resource_is_read_from_who_has_it() {
    let gateway = start(&TWO);
    let (session, modern) = (Session::open(&gateway), Modern::new(&gateway));
    // Listed, and only promised by a template.
    for uri in ["helper://a/text", "helper://z/json", "helper://a/item/1", "helper://z/item/2"] {
        let params = json!({ "uri": uri });
        for read in [session.result("resources/read", params.clone()), modern.result("resources/read", params)] {
            assert_eq!(read["contents"][0]["uri"], uri, "{read}");
        }
    }
    let error = session.error("resources/read", json!({"uri": "helper://b/text"}));
    assert!(error["code"] == -32002 || error["code"] == -32602, "{error}");
    let reply = modern.send(1, "resources/read", json!({"uri": "helper://b/text"})).reply();
    super::client::check_error(&reply, 400, -32602, Some(json!(1)));
    reply.expect(reply.json()["error"]["data"]["uri"] == "helper://b/text", "data.uri");
}

#[test]
fn of_two_resources_with_one_uri_that_of_the_first_server_counts() {
    let gateway = start(&[("zebra", &[]), ("ant", &[])]);
    let (session, modern) = (Session::open(&gateway), Modern::new(&gateway));
    for _ in 0..3 {
        session.result("resources/read", json!({"uri": "helper://text"}));
        modern.result("resources/read", json!({"uri": "helper://text"}));
    }
    assert_eq!((asked(&gateway, "zebra", "resources/read"), asked(&gateway, "ant", "resources/read")), (6, 0));
    // Below its own path the other one has it as well.
    let ant = Opening::new().at("/servers/ant/mcp").open(&gateway);
    ant.result("resources/read", json!({"uri": "helper://text"}));
    assert_eq!(asked(&gateway, "ant", "resources/read"), 1);
}

#[test]
fn a_subscription_goes_to_the_server_of_its_resource() {
    let gateway = start(&TWO);
    let session = Session::open(&gateway);
    let mut standing = session.get();
    session.result("resources/subscribe", json!({"uri": "helper://a/text"}));
    let [ant, zebra] = ["ant", "zebra"].map(|server| asked(&gateway, server, "resources/subscribe"));
    assert!(0 < ant && zebra == 0, "ant {ant}, zebra {zebra}");
    session.text("zebra__update", json!({"uri": "helper://z/text", "anyway": true}));
    session.text("ant__update", json!({"uri": "helper://a/text"}));
    assert_eq!(standing.expect("notifications/resources/updated")["params"]["uri"], "helper://a/text");
}

#[test]
fn changes_of_each_server_are_told() {
    let gateway = start(&TWO);
    let session = Session::open(&gateway);
    let mut standing = session.get();
    for server in ["zebra", "ant"] {
        for what in ["tools", "prompts", "resources"] {
            session.text(&format!("{server}__change"), json!({"what": what}));
            standing.expect(&format!("notifications/{what}/list_changed"));
        }
    }
    // A session of one server hears of that one.
    let ant = Opening::new().at("/servers/ant/mcp").open(&gateway);
    let mut ants = ant.get();
    session.text("zebra__change", json!({"what": "tools"}));
    session.text("ant__change", json!({"what": "prompts"}));
    ants.expect("notifications/prompts/list_changed");
}

#[test]
fn questions_logs_and_progress_of_each_server_come_back() {
    let gateway = start(&TWO);
    let session = Session::able(&gateway);
    for server in ["zebra", "ant"] {
        let messages = session.follow(server, 1, &format!("{server}__progress"), json!({"n": 2, "value": server}));
        assert_eq!(super::progress_of(&messages.messages()), [format!("{server} step 1"), format!("{server} step 2")]);
        let logs = session.call(format!("{server} log"), &format!("{server}__log"), json!({"n": 1, "data": server}));
        assert_eq!(logs.messages()[0]["params"]["data"], server);
    }
    // Both have the same id for their question.
    let asking = json!({"method": "sampling/createMessage", "value": "well?"});
    let mut streams = ["zebra", "ant"]
        .map(|server| session.call(format!("{server} ask"), &format!("{server}__ask"), asking.clone()).stream());
    let questions = streams.each_mut().map(|stream| stream.expect("sampling/createMessage"));
    assert_ne!(questions[0]["id"], questions[1]["id"]);
    for (question, server) in questions.iter().zip(["zebra", "ant"]) {
        session.respond(question, json!({"to": server}));
    }
    for (stream, server) in streams.iter_mut().zip(["zebra", "ant"]) {
        let response = stream.response(format!("{server} ask"));
        assert!(super::text_of(&response).contains(&format!(r#""to":"{server}""#)), "{response}");
    }
}

#[test]
fn a_level_reaches_every_server_that_logs() {
    let gateway = start(&[("zebra", &[]), ("ant", &[]), ("mute", &["--capabilities", r#"{"tools":{}}"#])]);
    let session = Session::open(&gateway);
    assert_eq!(session.result("logging/setLevel", json!({"level": "error"})), json!({}));
    for server in ["zebra", "ant"] {
        let level = || session.text(&format!("{server}__level"), json!({}));
        gateway.wait_until("the level", || level() == "error");
    }
    assert_eq!(asked(&gateway, "mute", "logging/setLevel"), 0);
}

#[test]
fn each_server_is_there_by_itself_below_its_own_path() {
    let gateway = start(&TWO);
    let (ant, modern) =
        (Opening::new().at("/servers/ant/mcp").open(&gateway), Modern::new(&gateway).at("/servers/ant/mcp"));
    assert_eq!(ant.result["serverInfo"]["name"], "helper");
    assert_eq!(strings(&ant.result("tools/list", json!({})), "tools", "name")[0], "echo");
    assert_eq!(strings(&modern.result("tools/list", json!({})), "tools", "name")[0], "echo");
    assert_eq!((ant.text("echo", json!({})), modern.text("echo", json!({}))), ("{}".to_owned(), "{}".to_owned()));
    // What it does not know it says itself.
    assert_eq!(ant.error("tools/call", json!({"name": "zebra__echo"}))["message"], "Unknown tool: zebra__echo");
    assert_eq!(ant.error("resources/read", json!({"uri": "helper://z/text"}))["code"], -32002);
}

#[test]
fn a_server_that_is_down_does_not_take_the_others_along() {
    let gateway = start(&[("broken", &["--exit-at-start", "3"]), ("ant", &["--uri-host", "a"])]);
    let (session, modern) = (Session::open(&gateway), Modern::new(&gateway));
    for list in [session.result("tools/list", json!({})), modern.result("tools/list", json!({}))] {
        let names = strings(&list, "tools", "name");
        assert!(!names.is_empty() && names.iter().all(|name| name.starts_with("ant__")), "{names:?}");
    }
    assert_eq!(strings(&session.result("prompts/list", json!({})), "prompts", "name"), ["ant__greeting", "ant__plain"]);
    assert_eq!(session.result("resources/read", json!({"uri": "helper://a/text"}))["contents"][0]["text"], "hello");
    assert_eq!(session.text("ant__echo", json!({})), "{}");
    assert!(session.error("tools/call", json!({"name": "broken__echo"}))["code"].is_i64());
    // By itself it has nothing to say, and says so in time.
    let reply = Opening::new().at("/servers/broken/mcp").try_open(&gateway);
    reply.expect(reply.json()["error"]["code"].is_i64() || reply.status == 200, "an error, or a session without tools");
}

#[test]
fn sessions_of_several_servers_have_a_worker_of_each_that_gives_them_one() {
    let isolated = json!({"command": Helper::program(), "isolation": "session"});
    let servers = json!({"own": isolated, "common": {"command": Helper::program()}});
    let gateway = super::launch(&servers).start();
    gateway.wait_until("both servers", || gateway.get("/health").json()["status"] == "healthy");
    let sessions = [Session::open(&gateway), Session::open(&gateway)];
    let pids = |tool: &str| sessions.each_ref().map(|session| session.text(tool, json!({})));
    let (own, common) = (pids("own__pid"), pids("common__pid"));
    assert!(own[0] != own[1] && common[0] == common[1], "own {own:?}, common {common:?}");
}
