//! Prompts over plain HTTP: the lists of all servers, and messages made from one with arguments.

use serde_json::{Value, json};

use crate::{
    pool::Keys,
    support::{Folder, Gateway, Helper, KEY, Launch, Reply, Server},
};

const ONE_WORKER: [(&str, &str); 2] = [("MIN_WORKERS", "1"), ("MAX_WORKERS", "1")];

/// The later one in the alphabet first.
const TWO_HELPERS: [(&str, &[&str]); 2] = [("zebra", &[]), ("ant", &[])];

/// Prompt `name` as the helper lists it, with the name and server that the gateway shows.
fn listed(name: &str, server: &str) -> Value {
    if name.ends_with("plain") {
        return json!({"name": name, "description": "Asks, and answers by itself.", "server": server});
    }
    let argument = json!({"name": "name", "description": "Whom to greet.", "required": true});
    json!({"name": name, "description": "Greets somebody.", "arguments": [argument], "server": server})
}

/// The list at `path` is exactly these prompts, by name and server.
#[track_caller]
fn check_list(gateway: &Gateway, path: &str, expected: &[(&str, &str)]) -> Reply {
    let reply = gateway.get(path);
    let body = reply.expect_status(200).json();
    let prompts: Vec<Value> = expected.iter().map(|(name, server)| listed(name, server)).collect();
    reply.expect(body["prompts"] == json!(prompts), &json!(prompts).to_string());
    reply.expect(body["count"] == expected.len(), "a count of them");
    reply
}

/// Has the prompt at `path` greet `name`.
#[track_caller]
fn greet(gateway: &Gateway, path: &str, name: &str) -> Reply {
    gateway.post(path, &json!({"arguments": {"name": name}}).to_string())
}

fn greeting(name: &str) -> Value {
    json!([{"role": "user", "content": {"type": "text", "text": format!("Hello, {name}!")}}])
}

fn methods(gateway: &Gateway, tool: &str) -> Value {
    gateway.call(tool, "{}").data()["methods"].take()
}

// --- lists ------------------------------------------------------------------------------------------------------

#[test]
fn every_page_of_the_prompts_is_listed_as_the_server_gave_it() {
    for pages in ["1", "2", "4"] {
        let gateway = Gateway::start(&ONE_WORKER, Helper::with(&["--pages", pages]));

        let reply = check_list(&gateway, "/prompts", &[("greeting", "helper"), ("plain", "helper")]);
        reply.expect(reply.json().get("unavailable").is_none(), "no `unavailable`, for all answered");
        let one = gateway.get("/prompts/plain");
        one.expect_status(200).expect(one.json() == listed("plain", "helper"), "the same as in the list");
        gateway.get("/servers/helper/prompts/greeting").expect_status(200);
    }
}

#[test]
fn a_server_without_prompts_is_not_asked_for_them() {
    let gateway = Gateway::start(&ONE_WORKER, Helper::with(&["--tools-only"]));

    check_list(&gateway, "/prompts", &[]);
    gateway.get("/prompts/plain").expect_error(404, "not_found", "there is no prompt `plain`");
    gateway.post("/prompts/plain", "").expect_error(404, "not_found", "there is no prompt `plain`");
    let methods = methods(&gateway, "counts");
    assert!(!methods.to_string().contains("prompts/"), "{methods}");
}

#[test]
fn prompts_of_several_servers_carry_their_names_in_the_order_of_the_servers_file() {
    let helpers = [TWO_HELPERS[0], ("mute", &["--tools-only"][..]), TWO_HELPERS[1]];
    let gateway = Gateway::start_helpers(&[], &helpers);

    let all =
        [("zebra__greeting", "zebra"), ("zebra__plain", "zebra"), ("ant__greeting", "ant"), ("ant__plain", "ant")];
    check_list(&gateway, "/prompts", &all);
    check_list(&gateway, "/servers/ant/prompts", &[("greeting", "ant"), ("plain", "ant")]);
    check_list(&gateway, "/servers/mute/prompts", &[]);
    let one = gateway.get("/prompts/ant__plain");
    one.expect_status(200).expect(one.json() == listed("ant__plain", "ant"), "the same as in the list");
    let methods = methods(&gateway, "mute__counts");
    assert!(!methods.to_string().contains("prompts/"), "{methods}");
}

#[test]
fn a_prompt_of_several_servers_is_got_by_its_long_name_or_from_its_server() {
    let gateway = Gateway::start_helpers(&[], &TWO_HELPERS);

    for (path, prompt, server) in [
        ("/prompts/zebra__greeting", "zebra__greeting", "zebra"),
        ("/prompts/ant__greeting", "ant__greeting", "ant"),
        ("/servers/ant/prompts/greeting", "greeting", "ant"),
    ] {
        let reply = greet(&gateway, path, "Zoë");
        reply.expect_data(&greeting("Zoë"));
        let body = reply.json();
        reply.expect(body["prompt"] == prompt && body["server"] == server, &format!("{prompt} of {server}"));
        reply.expect(body["worker"] == format!("{server}-1"), "the worker's name");
    }
    gateway.post("/prompts/greeting", "").expect_error(404, "not_found", "there is no prompt `greeting`");
    let scoped = "/servers/ant/prompts/ant__greeting";
    gateway.post(scoped, "").expect_error(404, "not_found", "there is no prompt `ant__greeting`");
    gateway.get("/servers/none/prompts").expect_error(404, "not_found", "/servers/none/prompts");
}

#[test]
fn a_server_that_is_down_is_left_out_of_the_prompts_and_named() {
    let gateway = Gateway::start_helpers(&[], &[("broken", &["--exit-at-start", "7"]), ("ant", &[])]);

    let reply = check_list(&gateway, "/prompts", &[("ant__greeting", "ant"), ("ant__plain", "ant")]);
    reply.expect(reply.json()["unavailable"] == json!(["broken"]), "`broken` as unavailable");
    greet(&gateway, "/prompts/ant__greeting", "Ann").expect_data(&greeting("Ann"));
    gateway.get("/servers/broken/prompts").expect_error(503, "no_worker", "exited with code 7");
    gateway.post("/servers/broken/prompts/plain", "").expect_error(503, "no_worker", "exited with code 7");
}

#[test]
fn a_server_that_still_starts_is_waited_for_when_it_is_the_only_one_or_asked_by_its_name() {
    let helper = Helper::with(&["--start-delay-ms", "700"]);
    let gateway = Launch::new(helper).start_without_waiting();
    gateway.post("/prompts/plain", "").expect_status(200);

    let program = Helper::program();
    let file = format!(
        r#"{{"mcpServers":{{"early":{{"command":{program:?}}},"late":{{"command":{program:?},"args":["--start-delay-ms","700"]}}}}}}"#
    );
    let launch = Launch::new(Server::FromSettings).file("mcp.json", &file).arguments(&["--servers", "mcp.json"]);
    let gateway = launch.start_without_waiting();
    check_list(&gateway, "/servers/late/prompts", &[("greeting", "late"), ("plain", "late")]);
}

// --- messages ---------------------------------------------------------------------------------------------------

#[test]
fn a_prompt_is_made_with_its_arguments_and_the_answer_says_by_whom() {
    let gateway = Gateway::start(&[], Helper::new());

    let reply = greet(&gateway, "/prompts/greeting", "Ann \"🙂\" \\");
    reply.expect_data(&greeting("Ann \"🙂\" \\"));
    let messages = r#"[{"role":"user","content":{"type":"text","text":"Hello, Ann \"🙂\" \\!"}}]"#;
    reply.expect_raw("messages", messages).expect_raw("data", messages);
    let body = reply.json();
    reply.expect(body["description"] == "A greeting.", "the description");
    reply.expect(body["prompt"] == "greeting", "the prompt's name");
    reply.expect(body["server"] == "helper", "the server's name");
    reply.expect(body["worker"].as_str().is_some_and(|it| it.starts_with("helper-")), "the worker's name");
    reply.expect(body["duration_ms"].as_f64().is_some_and(|it| 0.0 < it), "duration_ms");
    reply.expect(body["request_id"].as_str() == reply.header("X-Request-Id"), "the request id of the header");
}

#[test]
fn arguments_and_the_body_itself_may_be_left_out() {
    let gateway = Gateway::start(&[], Helper::new());
    let messages = json!([
        {"role": "user", "content": {"type": "text", "text": "Is it plain?"}},
        {"role": "assistant", "content": {"type": "text", "text": "It is."}},
    ]);

    for body in ["", "{}", r#"{"arguments":{}}"#, r#"{"timeout":5}"#] {
        let reply = gateway.post("/prompts/plain", body);
        reply.expect_data(&messages).expect(reply.json()["messages"] == messages, "the messages");
        reply.expect(reply.json().get("description").is_none(), "no description, for there is none");
    }
}

#[test]
fn what_is_wrong_with_the_body_of_a_prompt_is_said() {
    let gateway = Gateway::start(&[], Helper::new());
    let post = |body: &str| gateway.post("/prompts/greeting", body);

    post(r#"{"arguments": {"#).expect_error(400, "invalid_json", "valid JSON");
    post(r#"{"arguments": [1]}"#).expect_error(400, "invalid_arguments", "expected an object, got `[1]`");
    post(r#"{"timeout": "soon"}"#).expect_error(400, "bad_request", "timeout");
    post("[1]").expect_status(400);
}

#[test]
fn what_the_server_says_is_wrong_with_the_arguments_is_passed_on() {
    let gateway = Gateway::start(&[], Helper::new());

    for body in ["", r#"{"arguments":{"nome":"Ann"}}"#] {
        let reply = gateway.post("/prompts/greeting", body);
        reply.expect_error(502, "worker_error", "Missing required argument: name");
        reply.expect(reply.json()["error"]["rpc_code"] == -32602, "the server's own code");
    }
}

#[test]
fn an_unknown_prompt_gets_its_close_names() {
    let gateway = Gateway::start(&ONE_WORKER, Helper::new());

    for reply in [gateway.get("/prompts/greting"), gateway.post("/prompts/greting", "")] {
        reply.expect_error(404, "not_found", "there is no prompt `greting`");
        reply.expect_error(404, "not_found", "`greeting`");
    }
    gateway.get("/prompts/nothing-like-any").expect_error(404, "not_found", "there is no prompt `nothing-like-any`");
    let methods = methods(&gateway, "counts");
    assert!(methods["prompts/get"].is_null(), "{methods}");
}

// --- keys and methods -------------------------------------------------------------------------------------------

#[test]
fn prompts_need_a_key_that_is_for_everything() {
    let keys = Keys::new();
    let (all, some) = (keys.make("all", None), keys.make("some", Some("*")));
    let gateway = Gateway::start(&[("API_KEYS_FILE", &keys.path())], Helper::new());

    let requests = [("GET", "/prompts"), ("GET", "/prompts/plain"), ("POST", "/prompts/plain")];
    for (method, path) in requests {
        for path in [path.to_owned(), format!("/servers/helper{path}")] {
            let ask = |headers: &[(&str, &str)]| gateway.request(method, &path, headers, b"");
            ask(&[]).expect_error(401, "unauthorized", "X-API-Key");
            ask(&[("X-API-Key", "wrong")]).expect_error(401, "unauthorized", "key");
            ask(&[("X-API-Key", &some)]).expect_error(403, "forbidden", "tools");
            ask(&[("X-API-Key", &all)]).expect_status(200);
        }
    }
}

#[test]
fn other_methods_are_refused_with_those_that_are_allowed() {
    let gateway = Gateway::start(&[], Helper::new());
    let key = [("X-API-Key", KEY)];

    for (path, allow, wrong) in [
        ("/prompts", "GET, HEAD, OPTIONS", ["POST", "DELETE"]),
        ("/prompts/plain", "GET, HEAD, POST, OPTIONS", ["PUT", "DELETE"]),
    ] {
        for method in wrong {
            let reply = gateway.request(method, path, &key, b"{}");
            reply.expect_error(405, "method_not_allowed", method).expect_header("Allow", allow);
        }
        let head = gateway.request("HEAD", path, &key, b"");
        head.expect_status(200).expect(head.body.is_empty(), "no body");
        let options = gateway.request("OPTIONS", path, &[], b"");
        options.expect_status(200).expect_header("Allow", allow);
    }
    gateway.get("/prompts/plain/stream").expect_error(404, "not_found", "/prompts/plain/stream");
}

// --- what goes wrong ---------------------------------------------------------------------------------------------

#[test]
fn a_prompt_that_takes_too_long_is_given_up_and_cancelled() {
    let settings = [("MCP_REQUEST_TIMEOUT", "0.3"), ("MIN_WORKERS", "1"), ("MAX_WORKERS", "1")];
    let gateway = Gateway::start(&settings, Helper::new());

    greet(&gateway, "/prompts/greeting", "nobody").expect_error(504, "timeout", "within 300 ms");
    let sooner = gateway.post("/prompts/greeting", r#"{"arguments":{"name":"nobody"},"timeout":0.2}"#);
    sooner.expect_error(504, "timeout", "within 200 ms");
    gateway.wait_until("both cancellations", || gateway.call("counts", "{}").data()["cancels"] == 2);
}

#[test]
fn a_client_that_goes_away_has_its_prompt_cancelled() {
    let settings = [ONE_WORKER[0], ONE_WORKER[1], ("WORKER_CONCURRENCY", "32")];
    let gateway = Gateway::start(&settings, Helper::new());
    let mut connection = gateway.connect();

    let body = br#"{"arguments":{"name":"nobody"}}"#;
    connection.send("POST", "/prompts/greeting", &[("X-API-Key", KEY)], body).unwrap();
    gateway.wait_until("the request at the worker", || methods(&gateway, "counts")["prompts/get"] == 1);
    drop(connection);
    gateway.wait_until("the cancellation", || gateway.call("counts", "{}").data()["cancels"] == 1);
}

#[test]
fn a_prompt_whose_worker_dies_is_made_by_another() {
    let folder = Folder::new();
    let gateway = Gateway::start(&[("MIN_WORKERS", "2"), ("MAX_WORKERS", "2")], Helper::new());
    gateway.wait_until("2 usable workers", || gateway.usable_workers() == 2);

    let path = folder.path().join("crashed");
    let name = format!("crash-once?{}", path.display());
    greet(&gateway, "/prompts/greeting", &name).expect_data(&greeting(&name));
    assert!(path.exists(), "no worker died of it");
}
