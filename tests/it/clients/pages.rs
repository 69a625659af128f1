//! What pages of other sites can do in a real browser: nothing, unless their origin is named in `CORS_ORIGINS`.

use std::{fs, path::Path};

use serde_json::{Value, json};

use super::{
    browser::{Browser, Site},
    program,
};
use crate::support::{Gateway, Helper, KEY, Server, root};

fn page(name: &str) -> String {
    fs::read_to_string(root().join("tests/clients").join(name)).unwrap()
}

/// Opens the page and gives what it reports.
#[track_caller]
fn report(chromium: &Path, site: &Site, url: &str, arguments: &[&str]) -> Value {
    let _browser = Browser::open_with(chromium, url, arguments);
    let Some(result) = site.wait_for_result() else {
        panic!("the page did not come to its end: {:#?}", site.requests());
    };
    serde_json::from_str(&result).unwrap()
}

/// No page has made a journey, and what it has asked for was refused.
#[track_caller]
fn check_nothing_done(gateway: &Gateway, refused_at_least: usize) {
    let made = gateway.call("journeys_tool", r#"{"action":"list","query":"foreign"}"#);
    made.expect(made.json()["data"]["count"] == 0, "no journey made by the page");
    let log = gateway.log();
    let asked: Vec<&str> =
        log.lines().filter(|line| line.contains("/journeys_tool") || line.contains(" /mcp ")).collect();
    let n_refused = asked.iter().filter(|line| line.contains(" 403 ")).count();
    // One is ours, if it stands there yet.
    let is_as_expected = refused_at_least <= n_refused && asked.len() - n_refused <= 1;
    assert!(is_as_expected, "{refused_at_least} or more refused, and no others: {asked:#?}");
}

#[test]
fn a_page_of_another_site_calls_no_tool() {
    let Some(chromium) = program("chromium") else { return };
    let gateway = Gateway::start(&[("LOG_LEVEL", "DEBUG")], Server::Bundled);
    // Another port is another origin.
    let page = page("foreign_page.html").replace("GATEWAY", &gateway.address().to_string());
    let site = Site::start(page, gateway.address());
    report(&chromium, &site, &site.page_url(), &[]);
    check_nothing_done(&gateway, 10);
}

/// The site passes on what it does not know itself, so it looks like a name that was first the page's and then the gateway's.
#[test]
fn a_page_whose_name_was_made_to_point_here_calls_no_tool() {
    let Some(chromium) = program("chromium") else { return };
    let gateway = Gateway::start(&[("LOG_LEVEL", "DEBUG")], Server::Bundled);
    let site = Site::start(page("rebound_page.html"), gateway.address());
    let url = format!("http://rebound.example:{}/page.html", site.port());
    let rules = "--host-resolver-rules=MAP rebound.example 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1";
    let seen = report(&chromium, &site, &url, &[rules]);
    assert_eq!(seen, json!({"post": 403, "text": 403, "list": 403, "mcp": 403, "source": "error", "socket": "error"}));
    check_nothing_done(&gateway, 5);
}

#[test]
fn a_page_of_a_named_origin_calls_in_every_way() {
    let Some(chromium) = program("chromium") else { return };
    // Where the gateway will be, the page is told behind the `#`.
    let site = Site::start(page("allowed_page.html"), ([127, 0, 0, 1], 9).into());
    let settings = [("CORS_ORIGINS", &*site.origin()), ("RATE_LIMIT", "1000")];
    let gateway = Gateway::start(&settings, Helper::with(&["--era", "both"]));
    let url = format!("{}#{}/{KEY}", site.page_url(), gateway.address());
    let seen = report(&chromium, &site, &url, &[]);
    let called = json!({"a": 1});
    let expected = json!({
        "post": {"status": 200, "data": called, "request_id": "page-1", "limit": "\"key\";q=1000;w=1"},
        "wrong_key": {"status": 401, "code": "unauthorized"},
        "source": called,
        "socket": called,
        "session": {"status": 200, "has_session": true},
        "tools": {"status": 200, "has_tools": true},
        "deleted": 204,
        "modern": {"status": 200, "has_content": true},
        "with_cookies": "refused by the browser",
    });
    assert_eq!(seen, expected, "{}", gateway.framed_log());
}
