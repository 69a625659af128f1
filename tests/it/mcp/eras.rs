//! Which era a server speaks: found out without harm, or said in its entry of the `mcpServers` file.

use std::{collections::BTreeMap, fs, path::PathBuf, thread};

use serde_json::{Value, json};

use super::{
    client::{MODERN, Modern, Opening, Session},
    entry, launch, shared,
};
use crate::support::{Folder, Gateway};

/// Where each process of a helper notes what it is asked.
struct Diary {
    folder: Folder,
}

impl Diary {
    fn new() -> Diary {
        Diary { folder: Folder::new() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("diary")
    }

    /// These flags, and to keep the diary.
    fn flags<'f>(&self, flags: &[&'f str], path: &'f str) -> Vec<&'f str> {
        [flags, &["--diary", path]].concat()
    }

    /// The methods each process was asked, in order.
    fn by_process(&self) -> BTreeMap<u32, Vec<String>> {
        let text = fs::read_to_string(self.path()).unwrap_or_default();
        let mut methods: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for line in text.lines() {
            let (pid, method) = line.split_once(' ').unwrap_or_else(|| panic!("not a line of a diary: {line:?}"));
            methods.entry(pid.parse().unwrap()).or_default().push(method.to_owned());
        }
        methods
    }

    /// The processes that were asked `server/discover`.
    fn discovered(&self) -> Vec<u32> {
        let asked = |methods: &[String]| methods.iter().any(|it| it == "server/discover");
        self.by_process().into_iter().filter(|(_, methods)| asked(methods)).map(|(pid, _)| pid).collect()
    }
}

/// A gateway before a helper with these flags, which keeps this diary, and this era in its entry.
#[track_caller]
fn start(flags: &[&str], diary: &Diary, era: Option<&str>, settings: &[(&str, &str)]) -> Gateway {
    let path = diary.path().display().to_string();
    let mut entry = entry(&diary.flags(flags, &path));
    if let Some(era) = era {
        entry["era"] = json!(era);
    }
    launch(&json!({ "helper": entry })).set_all(settings).start()
}

/// Both a legacy and a modern client are served.
#[track_caller]
fn check_both(gateway: &Gateway) {
    let (session, modern) = (Session::open(gateway), Modern::new(gateway));
    assert_eq!(modern.result("server/discover", json!({}))["supportedVersions"], json!([MODERN]));
    assert_eq!(session.text("echo", json!({"a": 1})), r#"{"a":1}"#);
    assert_eq!(modern.text("echo", json!({"a": 1})), r#"{"a":1}"#);
}

#[test]
fn clients_of_both_eras_are_served_whatever_the_server_speaks() {
    for era in ["legacy", "modern", "both"] {
        check_both(&shared(&["--era", era]));
    }
}

#[test]
fn a_server_that_exits_when_it_is_asked_is_served_all_the_same() {
    let diary = Diary::new();
    let gateway = start(&["--exit-on-discover"], &diary, None, &[]);
    let pid = gateway.call("pid", "{}").data();
    check_both(&gateway);
    check_both(&gateway);
    // It was a process of its own that was lost.
    assert_eq!(gateway.call("pid", "{}").data(), pid);
    let worker: u32 = pid.as_str().unwrap().parse().unwrap();
    assert!(!diary.discovered().contains(&worker), "{:?}", diary.by_process());
    assert_eq!(gateway.stats()["servers"]["helper"]["breaker"]["failures"], 0);
}

#[test]
fn a_server_that_says_nothing_when_it_is_asked_is_served_all_the_same() {
    let diary = Diary::new();
    let gateway = start(&["--silent-on-discover"], &diary, None, &[("HEALTH_TIMEOUT", "0.5")]);
    let pid = gateway.call("pid", "{}").data();
    check_both(&gateway);
    check_both(&gateway);
    assert_eq!(gateway.call("pid", "{}").data(), pid);
    gateway.wait_until("the end of who was asked", || gateway.processes().len() == 1);
}

#[test]
fn nobody_is_asked_before_a_modern_client_comes_and_then_once() {
    let diary = Diary::new();
    let gateway = start(&[], &diary, None, &[]);
    let session = Session::open(&gateway);
    session.text("echo", json!({}));
    gateway.call("echo", "{}").expect_status(200);
    assert_eq!(diary.discovered(), [0; 0], "{:?}", diary.by_process());
    // Ten at once.
    thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| assert_eq!(Modern::new(&gateway).text("echo", json!({})), "{}"));
        }
    });
    assert_eq!(diary.discovered().len(), 1, "{:?}", diary.by_process());
}

#[test]
fn workers_of_a_legacy_server_are_begun_with_initialize() {
    let diary = Diary::new();
    let gateway = start(&["--era", "both"], &diary, None, &[]);
    check_both(&gateway);
    let session = Session::open(&gateway);
    let pid: u32 = session.text("pid", json!({})).parse().unwrap();
    let by_process = diary.by_process();
    assert_eq!(by_process[&pid][0], "initialize", "{by_process:?}");
    let modern_pid: u32 = Modern::new(&gateway).text("pid", json!({})).parse().unwrap();
    let methods = by_process.get(&modern_pid).cloned().unwrap_or_default();
    assert!(!methods.contains(&"initialize".to_owned()), "{by_process:?}");
}

#[test]
fn a_server_said_to_be_legacy_is_never_asked() {
    let diary = Diary::new();
    let gateway = start(&["--era", "both"], &diary, Some("legacy"), &[]);
    check_both(&gateway);
    assert_eq!(diary.discovered(), [0; 0], "{:?}", diary.by_process());
    assert_eq!(Session::open(&gateway).text("pid", json!({})), Modern::new(&gateway).text("pid", json!({})));
}

#[test]
fn a_server_said_to_be_modern_is_never_initialized() {
    let diary = Diary::new();
    let gateway = start(&["--era", "modern"], &diary, Some("modern"), &[]);
    check_both(&gateway);
    let by_process = diary.by_process();
    let methods: Vec<&String> = by_process.values().flatten().collect();
    assert!(!methods.iter().any(|it| *it == "initialize"), "{by_process:?}");
}

#[test]
fn an_era_that_there_is_not_is_named() {
    let mut entry = entry(&[]);
    entry["era"] = json!("moden");
    launch(&json!({ "helper": entry })).run().expect(2, &["era", "moden", "modern"]);
}

#[test]
fn servers_of_different_eras_stand_side_by_side() {
    let servers = json!({
        "old": entry(&["--uri-host", "o"]),
        "new": entry(&["--era", "modern", "--uri-host", "n"]),
        "both": entry(&["--era", "both", "--uri-host", "b"]),
    });
    let gateway = launch(&servers).set_all(&[("MAX_WORKERS", "2")]).start();
    gateway.wait_until("all servers", || gateway.get("/health").json()["status"] == "healthy");
    let session = Session::able(&gateway);
    let modern = Modern::new(&gateway).able_to(json!({"elicitation": {}}));
    let asking = json!({"method": "elicitation/create", "value": "well?"});
    for (server, host) in [("old", "o"), ("new", "n"), ("both", "b")] {
        assert_eq!(session.text(&format!("{server}__echo"), json!({"a": server})), json!({"a": server}).to_string());
        assert_eq!(modern.text(&format!("{server}__echo"), json!({"a": server})), json!({"a": server}).to_string());
        let params = json!({"uri": format!("helper://{host}/item/7")});
        for read in [session.result("resources/read", params.clone()), modern.result("resources/read", params)] {
            assert_eq!(read["contents"][0]["text"], "item 7", "{server}");
        }
    }
    // Last, because a question that is left open keeps a worker.
    for server in ["old", "new", "both"] {
        let ask = format!("{server}__ask");
        let mut stream = session.call(server, &ask, asking.clone()).stream();
        let question = stream.expect("elicitation/create");
        session.respond(&question, json!({"action": "accept"}));
        stream.response(server);
        let result = modern.call(1, &ask, asking.clone()).result();
        assert_eq!(result["resultType"], "input_required", "{server}: {result}");
        let questions: Vec<&Value> = result["inputRequests"].as_object().unwrap().values().collect();
        assert_eq!(questions[0]["params"]["message"], "well?", "{server}");
    }
    for endpoint in ["/servers/old/mcp", "/servers/new/mcp", "/servers/both/mcp"] {
        assert_eq!(Opening::new().at(endpoint).open(&gateway).text("echo", json!({})), "{}");
        assert_eq!(Modern::new(&gateway).at(endpoint).text("echo", json!({})), "{}");
    }
}
