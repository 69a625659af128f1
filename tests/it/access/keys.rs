//! Keys of the file on every surface: wrong, missing, expired, revoked, not for this tool; and what becomes of what is open.

use serde_json::{Value, json};

use super::surfaces::{LET_IN, SURFACES};
use crate::{
    mcp::client::{Modern, Opening},
    pool::Keys,
    support::{Gateway, Helper, KEY, Launch, Server},
    ws::client::{Socket, handshake},
};

/// Changes the file of keys, in one step.
fn change(keys: &Keys, change: impl FnOnce(&mut Vec<Value>)) {
    let path = keys.path();
    let mut file: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    change(file["keys"].as_array_mut().unwrap());
    std::fs::write(format!("{path}.new"), file.to_string()).unwrap();
    std::fs::rename(format!("{path}.new"), path).unwrap();
}

#[track_caller]
fn revoke(keys: &Keys, name: &str) {
    let revoked = Launch::new(Server::FromSettings).arguments(&["key", "revoke", name, "--file", &keys.path()]).run();
    assert_eq!(revoked.code, Some(0), "{revoked:?}");
}

/// The key is refused from now on.
#[track_caller]
fn wait_until_refused(gateway: &Gateway, key: &str) {
    // A key that is gone is a wrong one, and after ten of these the answer is another.
    let status = || gateway.request("GET", "/tools", &[("X-API-Key", key)], b"").status;
    gateway.wait_until("the key refused", || matches!(status(), 401 | 429));
}

fn socket(gateway: &Gateway, key: &str) -> Socket {
    let head = format!("{}X-API-Key: {key}\r\n\r\n", handshake("/ws/tools/echo"));
    let mut connection = gateway.connect();
    connection.send_raw(&head).unwrap();
    Socket::answering(connection, gateway, &head)
}

#[test]
fn each_surface_asks_for_a_key_that_is_valid_and_for_this_tool() {
    let keys = Keys::new();
    let [good, some, expired, revoked] =
        [("good", None), ("some", Some("echo,helper__pid")), ("expired", None), ("revoked", None)]
            .map(|(name, tools)| keys.make(name, tools));
    change(&keys, |keys| keys[2]["expires"] = json!("2020-01-01T00:00:00Z"));
    let gateway = Gateway::start(&[("API_KEYS_FILE", &keys.path()), ("SSE_KEEP_ALIVE", "1")], Helper::new());
    for (surface, call) in SURFACES {
        assert_eq!(call(&gateway, Some(&revoked), "echo"), LET_IN, "{surface}");
    }
    revoke(&keys, "revoked");
    wait_until_refused(&gateway, &revoked);

    let cases = [
        ("the key of the settings", Some(KEY), "env", LET_IN),
        ("a key of the file", Some(&*good), "env", LET_IN),
        ("one for this tool", Some(&*some), "echo", LET_IN),
        ("one for this tool of this server", Some(&*some), "pid", LET_IN),
        ("one for other tools", Some(&*some), "env", "forbidden"),
        ("none", None, "echo", "unauthorized"),
        ("an expired one", Some(&*expired), "echo", "unauthorized"),
        ("a wrong one", Some("mcpg_wrong"), "echo", "unauthorized"),
        ("a revoked one", Some(&*revoked), "echo", "unauthorized"),
    ];
    for (what, key, tool, expected) in cases {
        for (surface, call) in SURFACES {
            let outcome = call(&gateway, key, tool);
            // Ten wrong keys a minute are told as such; then they are too many.
            let is_wrong = matches!(what, "a wrong one" | "a revoked one");
            let is_as_expected = outcome == expected || (is_wrong && outcome == "rate_limited");
            assert!(is_as_expected, "{what}, {surface}: {outcome} instead of {expected}\n{}", gateway.framed_log());
        }
    }
    // The table above has used up what there is of wrong tries, which harms nobody with a right one.
    gateway.request("GET", "/tools", &[("X-API-Key", "mcpg_wrong")], b"").expect_error(
        429,
        "rate_limited",
        "wrong API keys",
    );
    gateway.call("echo", "{}").expect_status(200);
}

#[test]
fn what_is_open_ends_with_its_key() {
    let keys = Keys::new();
    let (gone, stays) = (keys.make("gone", None), keys.make("stays", None));
    let settings = [("API_KEYS_FILE", &*keys.path()), ("SSE_KEEP_ALIVE", "0.5"), ("KEEP_ALIVE_TIMEOUT", "20")];
    let gateway = Gateway::start(&settings, Helper::with(&["--era", "both"]));
    let session = Opening::new().key(&gone).open(&gateway);
    let mut streams = vec![session.get()];
    streams.push(Modern::new(&gateway).key(&gone).listen(1, json!({"toolsListChanged": true})).0);
    let headers = [("X-API-Key", &*gone), ("Accept", "text/event-stream")];
    streams.push(crate::mcp::stream::Posted::send(&gateway, "GET", "/sse", &headers, "").stream());
    let (mut quiet, mut asking, mut other) =
        (socket(&gateway, &gone), socket(&gateway, &gone), socket(&gateway, &stays));
    // A call that was let in runs to its end.
    asking.send(r#"{"id":1,"arguments":{"a":1}}"#);
    asking.expect_complete("1", &json!({"a": 1}));
    quiet.answers_pings = false;

    revoke(&keys, "gone");
    wait_until_refused(&gateway, &gone);
    streams.iter_mut().for_each(|stream| while stream.next().is_some() {});
    quiet.expect_close(Some(1008));
    asking.expect_close(Some(1008));
    other.expect_open();
    let reply = session.send(1, "ping", json!({})).reply();
    reply.expect(matches!(reply.status, 401 | 429), "401, or 429 after many");
}

#[test]
fn a_message_of_a_revoked_key_is_refused_and_its_running_calls_end() {
    let keys = Keys::new();
    let gone = keys.make("gone", None);
    let gateway = Gateway::start(&[("API_KEYS_FILE", &keys.path())], Helper::new());
    let head = format!("{}X-API-Key: {gone}\r\n\r\n", handshake("/ws"));
    let mut connection = gateway.connect();
    connection.send_raw(&head).unwrap();
    let mut socket = Socket::answering(connection, &gateway, &head);
    socket.send(r#"{"id":1,"tool":"silent"}"#);
    socket.expect_event("started", "1");
    revoke(&keys, "gone");
    wait_until_refused(&gateway, &gone);
    socket.send(r#"{"id":2,"tool":"echo"}"#);
    let told = socket.expect_error("unauthorized", "taken away");
    assert_eq!(told["id"], 2, "{}", told.raw);
    socket.send(r#"{"event":"cancel","id":1}"#);
    let texts = socket.expect_close(Some(1008));
    assert!(texts.iter().any(|text| text.contains(r#""cancelled""#)), "{texts:?}");
}

#[test]
fn a_file_that_is_gone_or_wrong_is_told_once_and_a_revoked_key_does_not_profit_from_it() {
    let keys = Keys::new();
    let (one, other) = (keys.make("one", None), keys.make("other", None));
    let gateway = Gateway::start(&[("API_KEYS_FILE", &keys.path())], Helper::new());
    let status = |key: &str| gateway.request("GET", "/tools", &[("X-API-Key", key)], b"").status;
    // `other` is taken out, and a comma is lost with it.
    let text = std::fs::read_to_string(keys.path()).unwrap();
    let cut = text.find(r#""name": "other""#).unwrap();
    std::fs::write(keys.path(), format!("{} oops", &text[..cut])).unwrap();
    wait_until_refused(&gateway, &other);
    assert_eq!((status(&one), status(KEY)), (200, 200));
    gateway.wait_until("the complaint", || gateway.log().contains("until that is mended"));

    std::fs::write(keys.path(), &text).unwrap();
    gateway.wait_until("the key let in again", || status(&other) == 200);
    std::fs::remove_file(keys.path()).unwrap();
    wait_until_refused(&gateway, &one);
    assert_eq!(status(KEY), 200);
    let log = gateway.log();
    assert_eq!((log.matches("until that is mended").count(), log.matches("is gone").count()), (1, 1), "{log}");
}

#[test]
fn the_file_works_alone_and_beside_the_key_of_the_settings() {
    let keys = Keys::new();
    let one = keys.make("one", None);
    for (api_key, status) in [("", 401), (KEY, 200)] {
        let gateway = Launch::new(Helper::new())
            .set_all(&[("API_KEYS_FILE", &*keys.path()), ("API_KEY", api_key)])
            .start_without_waiting();
        gateway.wait_until("healthy", || gateway.request("GET", "/health", &[], b"").status == 200);
        gateway.request("GET", "/tools", &[("X-API-Key", &one)], b"").expect_status(200);
        gateway.request("GET", "/tools", &[("X-API-Key", KEY)], b"").expect_status(status);
    }
}

#[test]
fn a_key_is_counted_by_its_name() {
    let keys = Keys::new();
    let (one, some) = (keys.make("one", None), keys.make("some", Some("echo")));
    let gateway = Gateway::start(&[("API_KEYS_FILE", &keys.path()), ("LOG_LEVEL", "DEBUG")], Helper::new());
    let surfaces =
        SURFACES.iter().map(|(_, call)| call(&gateway, Some(&one), "echo")).filter(|it| it == LET_IN).count();
    gateway.request("POST", "/tools/error", &[("X-API-Key", &one)], b"{}").expect_status(422);
    gateway.request("POST", "/tools/env", &[("X-API-Key", &some)], b"{}").expect_status(403);
    let usage = |name: &str| gateway.stats()["keys"][name].take();
    gateway.wait_until("the counts", || usage("one")["in_flight"] == 0 && usage("one")["errors"] == 1);
    assert_eq!(usage("one"), json!({"calls": surfaces + 1, "errors": 1, "rate_limited": 0, "in_flight": 0}));
    assert_eq!(usage("some"), json!({"calls": 1, "errors": 1, "rate_limited": 0, "in_flight": 0}));
    // Whoever may not use everything sees only themselves.
    let shown = gateway.request("GET", "/stats", &[("X-API-Key", &some)], b"").json();
    assert_eq!(shown["keys"].as_object().unwrap().keys().collect::<Vec<_>>(), ["some"]);
    let log = gateway.log();
    for line in ["POST /tools/echo 200", "call 1 of echo"] {
        let is_named = log.lines().any(|it| it.contains(line) && it.contains("key one"));
        assert!(is_named, "{line}\n{log}");
    }
}
