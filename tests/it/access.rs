//! Who is let in: keys of a file with their tools and times, and pages of other sites.

mod browsers;
mod keys;
mod limits;
mod secrets;
mod surfaces;

use serde_json::json;

use crate::support::{Gateway, Helper, KEY, Launch, Server};

#[test]
fn a_key_of_the_file_opens_its_tools_and_is_refused_once_revoked() {
    let keys = |arguments: &[&str]| {
        let mut all = vec!["key"];
        all.extend_from_slice(arguments);
        Launch::new(Server::FromSettings).arguments(&all)
    };
    let folder = crate::support::Folder::new();
    let file = folder.path().join("keys.json").display().to_string();
    let key = |name: &str, tools: &str| {
        let made = keys(&["new", name, "--tools", tools, "--file", &file]).run();
        assert_eq!(made.code, Some(0), "{made:?}");
        made.stdout.trim().to_owned()
    };
    let (echo_key, other_key) = (key("echo-only", "ec*"), key("other", "delay"));
    let listed = keys(&["list", "--file", &file]).run();
    assert!(listed.stdout.contains("echo-only") && !listed.stdout.contains(&echo_key), "{listed:?}");
    let revoked = keys(&["revoke", "other", "--file", &file]).run();
    assert_eq!(revoked.code, Some(0), "{revoked:?}");

    let gateway = Gateway::start(&[("API_KEYS_FILE", &file)], Helper::new());
    let call = |key: &str, tool: &str| {
        gateway.request("POST", &format!("/tools/{tool}"), &[("X-API-Key", key)], br#"{"arguments":{"a":1}}"#)
    };
    call(&echo_key, "echo").expect_data(&json!({"a": 1}));
    call(&echo_key, "delay").expect_error(403, "forbidden", "`delay`");
    call(&echo_key, "no-such-tool").expect_status(404);
    call(&other_key, "delay").expect_error(401, "unauthorized", "not known");
    let shown = gateway.request("GET", "/tools", &[("X-API-Key", &echo_key)], b"").json();
    assert_eq!((&shown["count"], &shown["tools"][0]["name"]), (&json!(2), &json!("echo")), "echo and echo_structured");
    gateway.request("GET", "/tools/delay", &[("X-API-Key", &echo_key)], b"").expect_error(403, "forbidden", "`delay`");
}

#[test]
fn a_page_of_another_site_and_a_foreign_name_are_refused() {
    let gateway = Gateway::start(&[("ALLOWED_HOSTS", "box.example")], Helper::new());
    let own = gateway.address().to_string();
    let ask = |host: &str, origin: Option<&str>| {
        let mut connection = gateway.connect();
        let origin = origin.map_or(String::new(), |origin| format!("Origin: {origin}\r\n"));
        let head = format!("GET /tools?api_key={KEY} HTTP/1.1\r\nHost: {host}\r\n{origin}\r\n");
        connection.send_raw(head).unwrap();
        gateway.reply(format!("Host {host}, {origin}"), connection.receive(false).unwrap())
    };
    ask(&own, None).expect_status(200);
    ask(&own, Some(&format!("http://{own}"))).expect_status(200);
    ask("box.example:8000", Some("http://box.example:8000")).expect_status(200);
    ask(&own, Some("https://evil.example")).expect_error(403, "forbidden", "https://evil.example");
    ask(&own, Some("null")).expect_error(403, "forbidden", "null");
    ask("evil.example", Some("http://evil.example")).expect_error(403, "forbidden", "evil.example");
}

#[test]
fn what_is_no_object_cannot_be_arguments() {
    let gateway = Gateway::start(&[], Helper::new());
    gateway.call("echo", "[1]").expect_error(400, "invalid_arguments", "expected an object, got `[1]`");
}
