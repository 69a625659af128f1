//! Resources over plain HTTP: the lists of all servers, and one resource read from whoever has it.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::{
    pool::Keys,
    support::{Folder, Gateway, Helper, KEY, Launch, Reply},
};

const ONE_WORKER: [(&str, &str); 2] = [("MIN_WORKERS", "1"), ("MAX_WORKERS", "1")];

/// Two helpers, the later one in the alphabet first, with uris of their own.
const TWO_HELPERS: [(&str, &[&str]); 2] = [("zebra", &["--uri-host", "z"]), ("ant", &["--uri-host", "a"])];

const PATHS: [&str; 3] = ["/resources", "/resources/templates", "/resources/read?uri=helper://text"];

/// The path that reads `uri`, below `scope`, which is empty or `/servers/{name}`.
fn path_to(scope: &str, uri: &str) -> String {
    format!("{scope}/resources/read?uri={}", utf8_percent_encode(uri, NON_ALPHANUMERIC))
}

#[track_caller]
fn read(gateway: &Gateway, uri: &str) -> Reply {
    gateway.get(&path_to("", uri))
}

/// The list at `path` has, as `key` and `server` of its entries, exactly these pairs; and a count of them.
#[track_caller]
fn check_list(gateway: &Gateway, path: &str, field: &str, key: &str, expected: &[(&str, &str)]) -> Reply {
    let reply = gateway.get(path);
    let body = reply.expect_status(200).json();
    let Some(entries) = body[field].as_array() else { reply.fail(&format!("a list `{field}`")) };
    let pairs: Vec<_> = entries.iter().map(|it| (it[key].as_str(), it["server"].as_str())).collect();
    let expected_pairs: Vec<_> = expected.iter().map(|(it, server)| (Some(*it), Some(*server))).collect();
    reply.expect(pairs == expected_pairs, &format!("{expected:?}"));
    reply.expect(body["count"] == expected.len(), "a count of them");
    reply
}

#[track_caller]
fn check_nobody_has(gateway: &Gateway, scope: &str, uri: &str) {
    let reply = gateway.get(&path_to(scope, uri));
    reply.expect_error(404, "not_found", &format!("there is no resource `{uri}`"));
    reply.expect_error(404, "not_found", "GET /resources");
}

fn methods(gateway: &Gateway, tool: &str) -> Value {
    gateway.call(tool, "{}").data()["methods"].take()
}

// --- lists ------------------------------------------------------------------------------------------------------

#[test]
fn every_page_of_the_resources_is_listed_as_the_server_gave_it() {
    for pages in ["1", "2", "3", "5"] {
        let gateway = Gateway::start(&ONE_WORKER, Helper::with(&["--pages", pages]));

        let reply = gateway.get("/resources");
        let expected = json!({
            "resources": [
                {"uri": "helper://text", "name": "text", "mimeType": "text/plain", "server": "helper"},
                {"uri": "helper://json", "name": "json", "mimeType": "application/json", "server": "helper"},
                {"uri": "helper://blob", "name": "blob", "mimeType": "application/octet-stream", "server": "helper"},
            ],
            "count": 3,
        });
        reply.expect_status(200).expect(reply.json() == expected, &expected.to_string());
        reply.expect_header("Content-Type", "application/json");
    }
}

#[test]
fn every_page_of_the_resource_templates_is_listed_as_the_server_gave_it() {
    for pages in ["1", "3"] {
        let gateway = Gateway::start(&ONE_WORKER, Helper::with(&["--pages", pages]));

        let reply = gateway.get("/resources/templates");
        let template =
            json!({"uriTemplate": "helper://item/{id}", "name": "item", "mimeType": "text/plain", "server": "helper"});
        let expected = json!({"resourceTemplates": [template], "count": 1});
        reply.expect_status(200).expect(reply.json() == expected, &expected.to_string());
    }
}

#[test]
fn a_server_without_resources_is_not_asked_for_them() {
    let gateway = Gateway::start(&ONE_WORKER, Helper::with(&["--tools-only"]));

    check_list(&gateway, "/resources", "resources", "uri", &[]);
    check_list(&gateway, "/resources/templates", "resourceTemplates", "uriTemplate", &[]);
    check_nobody_has(&gateway, "", "helper://text");
    let methods = methods(&gateway, "counts");
    assert!(!methods.to_string().contains("resources/"), "{methods}");
}

#[test]
fn resources_of_several_servers_stand_in_the_order_of_the_servers_file() {
    let helpers = [TWO_HELPERS[0], ("mute", &["--tools-only"][..]), TWO_HELPERS[1]];
    let gateway = Gateway::start_helpers(&[], &helpers);

    let zebra = ["helper://z/text", "helper://z/json", "helper://z/blob"].map(|uri| (uri, "zebra"));
    let ant = ["helper://a/text", "helper://a/json", "helper://a/blob"].map(|uri| (uri, "ant"));
    let reply = check_list(&gateway, "/resources", "resources", "uri", &[zebra, ant].concat());
    reply.expect(reply.json().get("unavailable").is_none(), "no `unavailable`, for all answered");
    check_list(&gateway, "/servers/ant/resources", "resources", "uri", &ant);
    check_list(&gateway, "/servers/mute/resources", "resources", "uri", &[]);
    let templates = [("helper://z/item/{id}", "zebra"), ("helper://a/item/{id}", "ant")];
    check_list(&gateway, "/resources/templates", "resourceTemplates", "uriTemplate", &templates);
    let of_ant = "/servers/ant/resources/templates";
    check_list(&gateway, of_ant, "resourceTemplates", "uriTemplate", &templates[1..]);
    gateway.get("/servers/none/resources").expect_error(404, "not_found", "/servers/none/resources");
    let methods = methods(&gateway, "mute__counts");
    assert!(!methods.to_string().contains("resources/"), "{methods}");
}

#[test]
fn of_two_resources_with_one_uri_the_first_servers_is_shown_and_read_and_a_warning_logged() {
    let gateway = Gateway::start_helpers(&[], &[("zebra", &[]), ("ant", &[])]);

    let expected = ["helper://text", "helper://json", "helper://blob"].map(|uri| (uri, "zebra"));
    check_list(&gateway, "/resources", "resources", "uri", &expected);
    gateway.wait_until("the warning", || {
        let log = gateway.log();
        let mut lines = log.lines().map(str::to_lowercase);
        lines.any(|line| line.contains("warn") && line.contains("helper://text") && line.contains("ant"))
    });
    let reply = read(&gateway, "helper://text");
    reply.expect_data(&json!("hello")).expect(reply.json()["server"] == "zebra", "the first server");
    // Alone, the second one's is not hidden.
    let own = expected.map(|(uri, _)| (uri, "ant"));
    check_list(&gateway, "/servers/ant/resources", "resources", "uri", &own);
}

#[test]
fn a_server_that_is_down_is_left_out_of_the_lists_and_named() {
    let helpers = [("broken", &["--exit-at-start", "7"][..]), TWO_HELPERS[1]];
    let gateway = Gateway::start_helpers(&[], &helpers);

    let expected = ["helper://a/text", "helper://a/json", "helper://a/blob"].map(|uri| (uri, "ant"));
    let reply = check_list(&gateway, "/resources", "resources", "uri", &expected);
    reply.expect(reply.json()["unavailable"] == json!(["broken"]), "`broken` as unavailable");
    let templates = [("helper://a/item/{id}", "ant")];
    let reply = check_list(&gateway, "/resources/templates", "resourceTemplates", "uriTemplate", &templates);
    reply.expect(reply.json()["unavailable"] == json!(["broken"]), "`broken` as unavailable");
    read(&gateway, "helper://a/text").expect_data(&json!("hello"));
    read(&gateway, "helper://a/item/5").expect_data(&json!("item 5"));
    for path in ["/resources", "/resources/templates", "/resources/read?uri=helper://text"] {
        let reply = gateway.get(&format!("/servers/broken{path}"));
        reply.expect_error(503, "no_worker", "exited with code 7");
    }
}

#[test]
fn a_server_that_does_not_answer_leaves_time_for_the_next() {
    let helpers = [("silent", &["--deaf-to-lists"][..]), TWO_HELPERS[1]];
    let gateway = Gateway::start_helpers(&[("MCP_REQUEST_TIMEOUT", "0.5")], &helpers);

    let expected = ["helper://a/text", "helper://a/json", "helper://a/blob"].map(|uri| (uri, "ant"));
    let reply = check_list(&gateway, "/resources", "resources", "uri", &expected);
    reply.expect(reply.json()["unavailable"] == json!(["silent"]), "`silent` as unavailable");
    read(&gateway, "helper://a/text").expect_data(&json!("hello"));
}

#[test]
fn a_server_that_still_starts_is_waited_for_when_it_is_the_only_one() {
    for path in PATHS {
        let gateway = Launch::new(Helper::with(&["--start-delay-ms", "700"])).start_without_waiting();
        gateway.get(path).expect_status(200);
    }
}

#[test]
fn a_server_that_still_starts_is_waited_for_when_it_is_asked_by_its_name() {
    let program = Helper::program();
    let file = format!(
        r#"{{"mcpServers":{{"early":{{"command":{program:?}}},"late":{{"command":{program:?},"args":["--start-delay-ms","700"]}}}}}}"#
    );
    for path in PATHS {
        let launch = Launch::new(crate::support::Server::FromSettings).file("mcp.json", &file);
        let gateway = launch.arguments(&["--servers", "mcp.json"]).start_without_waiting();
        gateway.get(&format!("/servers/late{path}")).expect_status(200);
    }
}

#[test]
fn a_server_that_starts_for_too_long_is_not_waited_for_any_longer() {
    let settings = [("MCP_REQUEST_TIMEOUT", "0.3")];
    let launch = Launch::new(Helper::with(&["--start-delay-ms", "60000"])).set_all(&settings).set("STOP_GRACE", "0.1");
    let gateway = launch.start_without_waiting();

    for path in PATHS {
        let reply = gateway.get(path);
        reply.expect(reply.status == 503 || reply.status == 504, "that it takes too long");
    }
}

// --- reading ----------------------------------------------------------------------------------------------------

#[test]
fn a_resource_is_read_and_the_answer_says_from_whom() {
    let gateway = Gateway::start(&[], Helper::new());

    let reply = read(&gateway, "helper://text");
    reply.expect_data(&json!("hello"));
    reply.expect_raw("contents", r#"[{"uri":"helper://text","mimeType":"text/plain","text":"hello"}]"#);
    let body = reply.json();
    reply.expect(body["uri"] == "helper://text", "the uri");
    reply.expect(body["server"] == "helper", "the server's name");
    reply.expect(body["worker"].as_str().is_some_and(|it| it.starts_with("helper-")), "the worker's name");
    reply.expect(body["duration_ms"].as_f64().is_some_and(|it| 0.0 < it), "duration_ms");
    reply.expect(body["request_id"].as_str() == reply.header("X-Request-Id"), "the request id of the header");
    let scoped = gateway.get(&path_to("/servers/helper", "helper://text"));
    scoped.expect_data(&json!("hello"));
}

#[test]
fn data_is_the_value_of_the_only_content_or_an_array_of_all() {
    let gateway = Gateway::start(&[], Helper::new());

    read(&gateway, "helper://json").expect_data(&json!({"a": [1, 2]}));
    let blob = r#"{"uri":"helper://blob","mimeType":"application/octet-stream","blob":"AAEC/w=="}"#;
    read(&gateway, "helper://blob").expect_raw("data", blob).expect_raw("contents", &format!("[{blob}]"));
    read(&gateway, "helper://two").expect_data(&json!(["one", [2]]));
    read(&gateway, "helper://none").expect_data(&serde_json::Value::Null).expect_raw("contents", "[]");
}

#[test]
fn a_uri_that_only_a_template_promises_is_read() {
    let gateway = Gateway::start(&[], Helper::new());

    read(&gateway, "helper://item/17").expect_data(&json!("item 17"));
}

#[test]
fn a_uri_is_decoded_once_before_the_server_gets_it() {
    let gateway = Gateway::start(&[], Helper::new());

    for id in ["a b", "50% & more?x=y#z", "a%20b", "a+b", "日本 é", "\"q\" \\ \n"] {
        let uri = format!("helper://item/{id}");
        let reply = read(&gateway, &uri);
        reply.expect_data(&json!(format!("item {id}"))).expect(reply.json()["uri"] == uri, &uri);
    }
    gateway.get("/resources/read?uri=helper://item/1").expect_data(&json!("item 1"));
    gateway.get("/resources/read?other=x&uri=helper%3A%2F%2Fitem%2F2&more=y").expect_data(&json!("item 2"));
}

#[test]
fn a_uri_that_nobody_has_and_a_missing_one_are_told_apart() {
    let gateway = Gateway::start(&[], Helper::new());

    check_nobody_has(&gateway, "", "helper://gone?");
    check_nobody_has(&gateway, "", "no uri at all");
    check_nobody_has(&gateway, "/servers/helper", "helper://gone?");
    for path in ["/resources/read", "/resources/read?url=helper://text", "/resources/read?uri="] {
        gateway.get(path).expect_error(400, "bad_request", "uri");
    }
}

#[test]
fn a_uri_is_read_from_the_server_that_has_it() {
    let gateway = Gateway::start_helpers(&[], &TWO_HELPERS);
    let check = |uri: &str, data: Value, server: &str| {
        let reply = read(&gateway, uri);
        reply.expect_data(&data);
        let body = reply.json();
        reply.expect(body["server"] == server, server);
        reply.expect(body["worker"] == format!("{server}-1"), "the worker's name");
    };

    check("helper://z/text", json!("hello"), "zebra");
    check("helper://a/json", json!({"a": [1, 2]}), "ant");
    // Nobody lists these.
    check("helper://z/item/1", json!("item 1"), "zebra");
    check("helper://a/item/2", json!("item 2"), "ant");
    check_nobody_has(&gateway, "", "helper://b/text");
    check_nobody_has(&gateway, "/servers/zebra", "helper://a/text");
    gateway.get(&path_to("/servers/ant", "helper://a/two")).expect_data(&json!(["one", [2]]));
}

#[test]
fn a_listed_uri_is_asked_of_nobody_else() {
    let gateway = Gateway::start_helpers(&[], &TWO_HELPERS);

    read(&gateway, "helper://a/text").expect_data(&json!("hello"));
    let methods = methods(&gateway, "zebra__counts");
    assert!(methods["resources/read"].is_null(), "{methods}");
}

// --- keys and methods -------------------------------------------------------------------------------------------

#[test]
fn resources_need_a_key_that_is_for_everything() {
    let keys = Keys::new();
    let (all, some) = (keys.make("all", None), keys.make("some", Some("*")));
    let gateway = Gateway::start(&[("API_KEYS_FILE", &keys.path())], Helper::new());
    let ask = |path: &str, headers: &[(&str, &str)]| gateway.request("GET", path, headers, b"");

    for path in PATHS.iter().flat_map(|path| [path.to_string(), format!("/servers/helper{path}")]) {
        ask(&path, &[]).expect_error(401, "unauthorized", "X-API-Key");
        ask(&path, &[("X-API-Key", "wrong")]).expect_error(401, "unauthorized", "key");
        ask(&path, &[("X-API-Key", &some)]).expect_error(403, "forbidden", "tools");
        ask(&path, &[("X-API-Key", &all)]).expect_status(200);
    }
    let methods = methods(&gateway, "counts");
    assert!(methods["resources/read"].as_u64() <= Some(2), "the refused ones reached the server: {methods}");
}

#[test]
fn resources_are_only_got() {
    let gateway = Gateway::start(&[], Helper::new());

    for path in PATHS {
        for method in ["POST", "PUT", "DELETE"] {
            let reply = gateway.request(method, path, &[("X-API-Key", KEY)], b"{}");
            reply.expect_error(405, "method_not_allowed", method).expect_header("Allow", "GET, HEAD, OPTIONS");
        }
        let head = gateway.request("HEAD", path, &[("X-API-Key", KEY)], b"");
        head.expect_status(200).expect(head.body.is_empty(), "no body");
        let options = gateway.request("OPTIONS", path, &[], b"");
        options.expect_status(200).expect_header("Allow", "GET, HEAD, OPTIONS");
    }
    gateway.get("/resources/other").expect_error(404, "not_found", "/resources/other");
}

// --- what goes wrong ---------------------------------------------------------------------------------------------

#[test]
fn a_resource_that_takes_too_long_is_given_up_and_cancelled() {
    let settings = [("MCP_REQUEST_TIMEOUT", "0.3"), ("MIN_WORKERS", "1"), ("MAX_WORKERS", "1")];
    let gateway = Gateway::start(&settings, Helper::new());

    read(&gateway, "helper://slow").expect_error(504, "timeout", "within 300 ms");
    gateway.wait_until("the cancellation", || gateway.call("counts", "{}").data()["cancels"] == 1);
}

#[test]
fn a_client_that_goes_away_has_its_read_cancelled() {
    let settings = [ONE_WORKER[0], ONE_WORKER[1], ("WORKER_CONCURRENCY", "32")];
    let gateway = Gateway::start(&settings, Helper::new());
    let mut connection = gateway.connect();

    connection.send("GET", &path_to("", "helper://slow"), &[("X-API-Key", KEY)], b"").unwrap();
    gateway.wait_until("the request at the worker", || methods(&gateway, "counts")["resources/read"] == 1);
    drop(connection);
    gateway.wait_until("the cancellation", || gateway.call("counts", "{}").data()["cancels"] == 1);
}

#[test]
fn a_read_whose_worker_dies_is_answered_by_another() {
    let folder = Folder::new();
    let gateway = Gateway::start(&[("MIN_WORKERS", "2"), ("MAX_WORKERS", "2")], Helper::new());
    gateway.wait_until("2 usable workers", || gateway.usable_workers() == 2);

    let path = folder.path().join("crashed");
    read(&gateway, &format!("helper://crash-once?{}", path.display())).expect_data(&json!("again"));
    assert!(path.exists(), "no worker died of it");
}

#[test]
fn a_read_that_kills_two_workers_is_not_sent_to_a_third() {
    let settings = [("MIN_WORKERS", "3"), ("MAX_WORKERS", "3")];
    let gateway = Gateway::start(&settings, Helper::new());
    gateway.wait_until("3 usable workers", || gateway.usable_workers() == 3);
    let before = gateway.worker_pids();

    read(&gateway, "helper://crash").expect_error(502, "worker_crashed", "signal 9");
    gateway.wait_until("3 workers again", || gateway.worker_pids().len() == 3 && gateway.usable_workers() == 3);
    let left = gateway.worker_pids().iter().filter(|pid| before.contains(pid)).count();
    assert_eq!(left, 1, "of the workers {before:?}\n{}", gateway.log());
}

#[test]
fn reads_take_a_place_like_calls_and_wait_in_the_same_queue() {
    let settings = [ONE_WORKER[0], ONE_WORKER[1], ("WORKER_CONCURRENCY", "1"), ("QUEUE_MAX", "1")];
    let gateway = Gateway::start(&settings, Helper::new());
    let server = || gateway.stats()["servers"]["helper"].clone();
    let headers = [("X-API-Key", KEY)];

    let (mut caller, mut reader) = (gateway.connect(), gateway.connect());
    caller.send("POST", "/tools/delay", &headers, br#"{"arguments":{"ms":60000}}"#).unwrap();
    gateway.wait_until("the call at the worker", || server()["workers"][0]["in_flight"] == 1);
    reader.send("GET", &path_to("", "helper://text"), &headers, b"").unwrap();
    gateway.wait_until("the read in the queue", || server()["pool"]["queued"] == 1);
    let refused = read(&gateway, "helper://text");
    refused.expect_error(503, "overloaded", "wait").expect(refused.header("Retry-After").is_some(), "a Retry-After");
    drop(caller);
    gateway.reply("the waiting read", reader.receive(false).unwrap()).expect_data(&json!("hello"));
}
