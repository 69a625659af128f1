//! Clients that others wrote, before a certificate that the gateway itself made: curl, Python, Node and a real browser.
//!
//! They verify that certificate, but for the browser, which can only be told to let it pass. Where a program is missing a
//! test says that it is skipped, and with `CI=true` it fails.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::{Value, json};

use crate::{
    clients::{browser::Browser, program, run_within, tools},
    support::{Folder, Gateway, Helper, KEY, Launch, PATIENCE, Server, command, root},
};

use super::identity::trusting_certificate;

/// How long a page may take, with the start of the browser on a machine that does other things as well.
const PAGE_PATIENCE: Duration = Duration::from_secs(90);

/// A gateway with a certificate of its own making, which is in the file.
fn self_signed(folder: &Folder) -> (Gateway, PathBuf) {
    let out = folder.path().display().to_string();
    let made = Launch::new(Server::FromSettings).arguments(&["tls", "self-signed", "--out", &out]).run();
    made.expect(0, &["a certificate for localhost, 127.0.0.1, ::1"]);
    let file = folder.path().join("cert.pem");
    let certificate = CertificateDer::from_pem_slice(&fs::read(&file).unwrap()).unwrap();
    let launch = Launch::new(Helper::new()).client_tls(&trusting_certificate(certificate));
    (launch.file("gateway.conf", &made.stdout).start(), file)
}

/// Runs a program to its end and gives what it wrote.
#[track_caller]
fn run(command: Command, gateway: &Gateway, patience: Duration) -> String {
    let shown = format!("{command:?}");
    let ran = run_within(patience, command, "");
    assert!(ran.is_success, "{shown}\n{}\n{}", ran.shown(), gateway.framed_log());
    ran.stdout
}

/// What a script printed.
#[track_caller]
fn seen(command: Command, gateway: &Gateway, patience: Duration) -> Value {
    let output = run(command, gateway, patience);
    serde_json::from_str(&output).unwrap_or_else(|cause| panic!("{cause}: {output}"))
}

/// A script of `tests/clients` with Node, where it finds its packages.
fn node_script(node: PathBuf, folder: &Folder, name: &str) -> Command {
    fs::copy(root().join("tests/clients").join(name), folder.path().join(name)).unwrap();
    std::os::unix::fs::symlink(tools().join("clients/node_modules"), folder.path().join("node_modules")).unwrap();
    let mut command = command(node);
    command.arg(folder.path().join(name)).current_dir(folder.path());
    command
}

#[test]
fn curl_calls_over_both_versions_and_keeps_its_connection() {
    let Some(curl) = program("curl") else { return };
    let folder = Folder::new();
    let (gateway, trusted) = self_signed(&folder);
    let big = format!(r#"{{"arguments":{{"text":"{}"}}}}"#, "x".repeat(4 * 1024 * 1024 - 1024));
    let big = format!("@{}", folder.file("big.json", &big).display());
    for (version, max) in [("--tlsv1.2", "1.2"), ("--tlsv1.3", "1.3")] {
        let mut command = command(&curl);
        command.args(["--silent", "--show-error", "--fail", version, "--tls-max", max]).arg("--cacert").arg(&trusted);
        command.args(["--header", &format!("X-API-Key: {KEY}"), "--write-out", "\n%{http_version} %{num_connects}\n"]);
        let url = |path: &str| format!("https://{}{path}", gateway.address());
        command.args(["--data", r#"{"arguments":{"a":1}}"#, &url("/tools/echo"), &url("/tools/echo")]);
        let output = run(command, &gateway, PATIENCE);
        let lines: Vec<&str> = output.lines().collect();
        assert_eq!((lines.len(), lines[1], lines[3]), (4, "1.1 1", "1.1 0"), "{output}");
        assert!(lines[0].contains(r#""data":{"a":1}"#), "{output}");
    }
    let mut upload = command(&curl);
    upload.args(["--silent", "--show-error", "--fail"]).arg("--cacert").arg(&trusted);
    upload.args(["--header", &format!("X-API-Key: {KEY}"), "--data-binary", &big]);
    upload.arg(format!("https://{}/tools/echo", gateway.address()));
    assert!(4 * 1024 * 1024 < run(upload, &gateway, PATIENCE).len());
}

#[test]
fn python_calls_and_streams_over_both_versions() {
    let Some(python) = program("python3") else { return };
    let folder = Folder::new();
    let (gateway, trusted) = self_signed(&folder);
    for version in ["1.2", "1.3"] {
        let mut command = command(&python);
        let (host, port) = (gateway.address().ip().to_string(), gateway.address().port().to_string());
        command.arg(root().join("tests/clients/tls.py")).args([&host, &port]).arg(&trusted).args([KEY, version]);
        let expected = json!({
            "data": [{"n": 0}, {"n": 1}], "version": format!("TLSv{version}"), "alpn": "http/1.1", "big": true,
            "events": ["progress", "progress", "result", "done"], "kept": true,
        });
        assert_eq!(seen(command, &gateway, PATIENCE), expected);
    }
}

#[test]
fn node_calls_streams_and_speaks_over_a_websocket() {
    let Some(node) = program("node") else { return };
    let Some(_ws) = program("clients/node_modules/ws/package.json") else { return };
    let folder = Folder::new();
    let (gateway, trusted) = self_signed(&folder);
    let mut command = node_script(node, &folder, "tls.mjs");
    command.arg(gateway.address().to_string()).arg(&trusted).arg(KEY);
    let expected = json!({
        "data": [{"n": 0}, {"n": 1}], "big": true, "events": ["progress", "progress", "result", "done"],
        "socket": ["started", "progress", "progress", "complete", 1000], "connections": 1,
    });
    assert_eq!(seen(command, &gateway, PATIENCE), expected);
}

#[test]
fn a_page_calls_and_speaks_over_a_websocket() {
    let Some(chromium) = program("chromium") else { return };
    let Some(node) = program("node") else { return };
    let Some(_ws) = program("clients/node_modules/ws/package.json") else { return };
    let folder = Folder::new();
    let (gateway, _) = self_signed(&folder);
    let arguments = ["--remote-debugging-port=0", "--ignore-certificate-errors"];
    let browser = Browser::open_with(&chromium, "about:blank", &arguments);
    let mut command = node_script(node, &folder, "tls_page.mjs");
    let origin = format!("https://{}", gateway.address());
    command.arg(browser.profile().join("DevToolsActivePort")).arg(format!("{origin}/ui")).arg(KEY);
    let expected = json!({
        "origin": origin, "status": 200, "events": ["progress", "progress", "result", "done"],
        "socket": ["started", "progress", "progress", "complete", 1000], "protocol": "http/1.1",
    });
    assert_eq!(seen(command, &gateway, PAGE_PATIENCE), expected);
}
