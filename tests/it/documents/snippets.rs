//! What a document tells a reader to put into a file: read by what would read it.

use std::fs;

use serde_json::Value;

use super::{block::Example, story::Story};
use crate::{
    clients::{program, tools},
    support::{KEY, root},
};

/// Names under which clients keep the address of a server.
const ADDRESSES: &[&str] = &["url", "httpUrl", "serverUrl"];

/// The first thing that a client says.
const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"snippet","version":"1"}}}"#;

/// JSON: servers of a gateway or of a client are started, addresses are asked, with the headers beside them; anything else is parsed.
#[track_caller]
pub(super) fn check_json(story: &mut Story, example: &Example) {
    let path = story.save(example, "snippet.json");
    let value: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap())
        .unwrap_or_else(|cause| panic!("{}: {cause}", example.place()));
    let has_program =
        value["mcpServers"].as_object().is_some_and(|it| it.values().any(|entry| entry["command"].is_string()));
    if has_program {
        // One of them may be a bridge to the gateway.
        story.ensure_gateway();
        check_settings(story, &["--servers", path.to_str().unwrap()], &example.place());
    }
    ask_all(story, &value, &example.place());
}

/// `gateway.conf`: its settings are tried as at a start.
#[track_caller]
pub(super) fn check_conf(story: &Story, example: &Example) {
    let path = story.save(example, "snippet.conf");
    check_settings(story, &["--config", path.to_str().unwrap()], &example.place());
}

/// A drop-in of the systemd unit: systemd has nothing to say against it.
#[track_caller]
pub(super) fn check_unit(story: &Story, example: &Example) {
    let Some(_systemd) = program("systemd-analyze") else { return };
    let unit = fs::read_to_string(root().join("scripts/mcpgate.service")).unwrap();
    let folder = story.path("units/mcpgate.service.d");
    fs::create_dir_all(&folder).unwrap();
    fs::write(story.path("units/mcpgate.service"), story.here(&unit)).unwrap();
    fs::write(folder.join("override.conf"), &example.code).unwrap();
    let said = story.shell("systemd-analyze verify units/mcpgate.service 2>&1", &example.place());
    assert_eq!(said, "", "{}", example.place());
}

#[track_caller]
fn check_settings(story: &Story, arguments: &[&str], place: &str) {
    // A gateway has the port that the document names, maybe this story's.
    story.shell(&format!("LISTEN=127.0.0.1:0 mcpgate check {}", arguments.join(" ")), place);
}

/// Every address in the value takes a client's first message, with the headers beside it.
#[track_caller]
fn ask_all(story: &mut Story, value: &Value, place: &str) {
    let Some(object) = value.as_object() else { return };
    for url in ADDRESSES.iter().filter_map(|name| object.get(*name)?.as_str()) {
        story.ensure_gateway();
        let headers = object.get("headers").and_then(Value::as_object).into_iter().flatten();
        let headers: String =
            headers.map(|(name, it)| format!("-H '{name}: {}' ", it.as_str().unwrap_or_default())).collect();
        let accept = "-H 'Accept: application/json, text/event-stream' -H 'Content-Type: application/json'";
        let answer = story.shell(&format!("curl -s -X POST '{url}' {headers}{accept} -d '{INITIALIZE}'"), place);
        assert!(answer.contains(r#""serverInfo""#), "{place}: {url}\n{answer}");
    }
    object.values().for_each(|it| ask_all(story, it, place));
}

/// `prometheus.yml`, by Prometheus' own tool.
#[track_caller]
pub(super) fn check_yaml(story: &Story, example: &Example) {
    // `scripts/test.sh` takes the system's if there is one.
    let fetched = tools().join("prometheus/usr/bin/promtool");
    let Some(promtool) = Some(fetched).filter(|it| it.exists()).or_else(|| program("promtool")) else { return };
    let path = story.save(example, "snippet.yml");
    let alerts = root().join("scripts/alerts.yml");
    fs::copy(alerts, path.with_file_name("alerts.yml")).unwrap();
    fs::write(story.path("etc/prometheus/mcpgate.key"), KEY).unwrap();
    story.shell(&format!("{} check config {}", promtool.display(), path.display()), &example.place());
}

/// A site of nginx: a real one passes a stream and a WebSocket on to the gateway.
#[track_caller]
pub(super) fn check_nginx(story: &mut Story, example: &Example) {
    // `scripts/test.sh` takes the system's if there is one.
    let fetched = tools().join("nginx/usr/sbin/nginx");
    let Some(nginx) = Some(fetched).filter(|it| it.exists()).or_else(|| program("nginx")) else { return };
    let port = story.here("8080");
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|it| format!("{it}_temp_path {it};"));
    let site = story.here(&example.code);
    let conf = format!(
        "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr;\nevents {{}}\n\
         http {{\naccess_log off;\n{}\n{site}}}\n",
        temporary.join("\n")
    );
    let path = story.path("nginx.conf");
    fs::write(&path, conf).unwrap();
    story.ensure_gateway();
    let folder = story.path("");
    story.start_other(&format!("exec {} -p {} -c {} -e stderr", nginx.display(), folder.display(), path.display()));

    let (place, key) = (&example.place(), story.key());
    let call = format!(
        "curl -sN --retry 20 --retry-delay 1 --retry-connrefused -X POST http://127.0.0.1:{port}/servers/journeys/tools/journeys_tool/stream \
         -H 'X-API-Key: {key}' -d '{{\"arguments\": {{\"action\": \"list\"}}}}'"
    );
    let events = story.shell(&call, place);
    assert!(events.starts_with("event: progress\n") && events.contains("\nevent: done\n"), "{place}: {events}");
    let upgrade = format!(
        "curl -si --http1.1 --max-time 1 http://127.0.0.1:{port}/ws -H 'X-API-Key: {key}' -H 'Connection: Upgrade' -H 'Upgrade: websocket' \
         -H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' || test $? = 28"
    );
    let answer = story.shell(&upgrade, place);
    assert!(answer.starts_with("HTTP/1.1 101 "), "{place}: {answer}");
}

/// A page, saved and opened where its paragraph says; gives what it shows.
#[track_caller]
pub(super) fn open_page(story: &mut Story, example: &Example) -> String {
    const PATIENCE_MS: u32 = 10_000;
    story.save(example, "page.html");
    let url =
        example.lead.split(['<', '>']).find(|it| it.starts_with("http")).expect("the paragraph before says where");
    let profile = story.path("profile");
    let chromium = format!(
        "chromium --headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --no-proxy-server \
         --disable-dev-shm-usage --user-data-dir={} --virtual-time-budget={PATIENCE_MS} --dump-dom {} 2>chromium.log",
        profile.display(),
        story.here(url)
    );
    let page = story.shell(&chromium, &example.place());
    let (_, rest) = page.split_once("<pre id=\"log\">").unwrap_or_else(|| panic!("{}: {page}", example.place()));
    rest.split("</pre>").next().unwrap_or_default().to_owned()
}
