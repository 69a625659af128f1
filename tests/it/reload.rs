//! Files that change while the gateway runs: what is applied at once, what is refused, and that nothing breaks meanwhile.

mod programs;
mod servers;
mod sessions;
mod settings;
pub(crate) mod storm;

use serde_json::{Value, json};

use crate::support::{Gateway, Helper, Launch, Server};

/// A gateway that takes its settings from a file, before a helper with one worker.
#[track_caller]
fn with_settings(conf: &str) -> Gateway {
    launch(conf, &servers(&[("helper", json!({}))])).start()
}

/// A gateway before these servers, one worker each: entries of `mcpServers`, each a helper unless it says otherwise.
#[track_caller]
fn with_servers(entries: &[(&str, Value)]) -> Gateway {
    let gateway = launch("MIN_WORKERS=1\nMAX_WORKERS=1\n", &servers(entries)).start();
    for (name, _) in entries {
        wait_for_server(&gateway, name);
    }
    gateway
}

fn launch(conf: &str, servers: &str) -> Launch {
    let launch = Launch::new(Server::FromSettings).file("gateway.conf", conf).file("mcp.json", servers);
    launch.arguments(&["--servers", "mcp.json"])
}

/// The text of an `mcpServers` file, in this order.
fn servers(entries: &[(&str, Value)]) -> String {
    let entry = |(name, fields): &(&str, Value)| {
        let mut entry = json!({"command": Helper::program(), "args": []});
        fields.as_object().unwrap().iter().for_each(|(key, value)| entry[key] = value.clone());
        format!("{name:?}:{entry}")
    };
    format!(r#"{{"mcpServers":{{{}}}}}"#, entries.iter().map(entry).collect::<Vec<_>>().join(","))
}

/// A helper with these flags, as an entry of `mcpServers`.
fn flags(flags: &[&str]) -> Value {
    json!({"args": flags})
}

#[track_caller]
fn wait_for_server(gateway: &Gateway, name: &str) {
    let is_healthy = || gateway.get("/health").json()["servers"][name]["status"] == "healthy";
    gateway.wait_until(&format!("the server `{name}` healthy"), is_healthy);
}

/// What `/stats` says of reloads.
#[track_caller]
fn reload(gateway: &Gateway) -> Value {
    gateway.stats()["reload"].clone()
}

/// Replaces a file, and waits until the gateway has made of it what it can. Gives what `/stats` says then.
#[track_caller]
fn change(gateway: &Gateway, file: &str, text: &str) -> Value {
    let before = reload(gateway);
    gateway.folder().replace(file, text);
    wait_for_reload(gateway, &before)
}

/// Waits until there was another reload than `before` knows of.
#[track_caller]
fn wait_for_reload(gateway: &Gateway, before: &Value) -> Value {
    gateway.wait_until("a reload", || reload(gateway)["last_at"] != before["last_at"]);
    reload(gateway)
}

/// As [`change`], and everything was applied.
#[track_caller]
fn apply(gateway: &Gateway, file: &str, text: &str) -> Value {
    let after = change(gateway, file, text);
    assert_eq!(after["last_error"], Value::Null, "{}", gateway.framed_log());
    after
}

/// As [`change`], and it was refused, or not done, for a reason that says `what`.
#[track_caller]
fn check_complaint(gateway: &Gateway, file: &str, text: &str, what: &[&str]) {
    let after = change(gateway, file, text);
    let error = after["last_error"].as_str().unwrap_or_default().to_owned();
    assert!(what.iter().all(|what| error.contains(what)), "{what:?} in {error:?}\n{}", gateway.framed_log());
    assert!(gateway.log().contains(&error), "{}", gateway.framed_log());
}

/// Waits until no worker is left whose server was replaced or removed.
#[track_caller]
fn wait_until_left(gateway: &Gateway) {
    gateway.wait_until("nobody leaving", || reload(gateway)["leaving"] == json!([]));
}

/// The names of all tools, in order.
#[track_caller]
fn tool_names(gateway: &Gateway) -> Vec<String> {
    let tools = gateway.get("/tools").json();
    tools["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn nothing_fails_while_settings_and_servers_change() {
    let seen = storm::run(8);
    assert!(8 <= seen.calls && storm::STREAMS <= seen.streams, "{seen:?}");
}
