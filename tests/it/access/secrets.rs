//! Keys are shown nowhere: not in the log, errors, `/stats`, the process's title, nor the environment of a worker.

use std::fs;

use mcpgate::config::settings::{SETTINGS, secret_keys};

use super::surfaces::SURFACES;
use crate::{
    pool::Keys,
    support::{Folder, Gateway, Helper, Launch, Process},
};

const OWN: &str = "own-key-7d1c";
const WRONG: &str = "wrong-key-7d1c";

#[track_caller]
fn check_hidden(text: &str, secrets: &[&str], where_to: &str) {
    for secret in secrets {
        assert!(!text.contains(secret), "{secret} stands in {where_to}: {text}");
    }
}

#[test]
fn a_key_is_shown_nowhere() {
    let keys = Keys::new();
    let of_file = keys.make("file", None);
    let gateway = Launch::new(Helper::new())
        .set_all(&[("API_KEY", OWN), ("API_KEYS_FILE", &*keys.path()), ("LOG_LEVEL", "TRACE")])
        .start_without_waiting();
    gateway.wait_until("healthy", || gateway.request("GET", "/health", &[], b"").status == 200);
    let digest = fs::read_to_string(keys.path()).unwrap();
    let digest = digest.split('"').find(|it| it.len() == 64).unwrap().to_owned();
    let secrets = [OWN, WRONG, &*of_file, &*digest];

    for (_, call) in SURFACES {
        for key in [OWN, &*of_file, WRONG] {
            call(&gateway, Some(key), "echo");
        }
    }
    let path = |path: &str, key: &str| format!("{path}?api_key={key}");
    let mut shown = String::new();
    for key in [OWN, &*of_file, WRONG] {
        for (method, path) in [
            ("GET", path("/stats", key)),
            ("GET", path("/", key)),
            ("GET", path("/none", key)),
            ("PUT", path("/tools", key)),
            ("GET", path("/tools/none", key)),
            ("POST", path("/tools/error", key)),
            ("GET", path("no-path", key)),
            ("GET", format!("/resources/read?api_key={key}")),
            ("GET", format!("/tools/echo/stream?api_key={key}&arguments=nonsense")),
            ("GET", format!("http://localhost{}", path("/none", key))),
        ] {
            let reply = gateway.request(method, &path, &[], if method == "POST" { b"{}" } else { b"" });
            shown += &format!("{} {:?}\n", reply.text(), reply.headers);
        }
    }
    check_hidden(&shown, &secrets, "an answer");
    check_hidden(&gateway.log(), &secrets, "the log");
    let titles = |pid: u32| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let workers: Vec<u32> = gateway.processes().iter().map(|process: &Process| process.pid).collect();
    assert!(!workers.is_empty());
    for pid in workers.into_iter().chain([gateway.pid()]) {
        check_hidden(&titles(pid), &secrets, "a process's title");
    }
}

#[test]
fn a_worker_is_told_no_secret_whether_it_came_from_the_environment_or_the_file() {
    let keys = Keys::new();
    keys.make("file", None);
    let folder = Folder::new();
    let file = folder.file("keys-7d1c.json", &fs::read_to_string(keys.path()).unwrap());
    let file = file.display().to_string();
    let launch = |is_in_environment: bool| match is_in_environment {
        true => Launch::new(Helper::new()).set_all(&[("API_KEY", OWN), ("API_KEYS_FILE", &*file)]),
        false => Launch::new(Helper::new()).file("gateway.conf", &format!("API_KEY={OWN}\nAPI_KEYS_FILE={file}\n")),
    };
    for is_in_environment in [true, false] {
        let gateway: Gateway = launch(is_in_environment).start_without_waiting();
        gateway.wait_until("healthy", || gateway.request("GET", "/health", &[], b"").status == 200);
        let told = gateway.request("POST", "/tools/env", &[("X-API-Key", OWN)], b"{}").text();
        check_hidden(&told, &[OWN, "keys-7d1c"], "a worker's environment");
        for name in secret_keys() {
            assert!(!told.contains(&format!("\"{name}\"")), "{name}: {told}");
        }
    }
    assert!(SETTINGS.iter().any(|setting| setting.secret && setting.key == "API_KEYS_FILE"));
}
