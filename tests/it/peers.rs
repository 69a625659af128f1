//! Servers that no one here wrote, asked through REST: what they say is byte for byte what they say on stdio themselves.
//!
//! Each call goes to two processes of the same server: one behind the gateway, and one that this test talks to on its
//! own. `scripts/test.sh` installs the servers into `target/tools` (or where `MCPGATE_TOOLS` says); where they are
//! missing, a test says that it is skipped, and with `CI=true` it fails.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Stdio},
    sync::mpsc::{Receiver, sync_channel},
    thread,
    time::Instant,
};

use serde_json::Value;

use crate::support::{Folder, Gateway, PATIENCE, Reply, command, raw_field, root};

#[test]
fn server_everything_answers_through_the_gateway_as_it_does_by_itself() {
    let Some(program) = tool("node/node_modules/.bin/mcp-server-everything") else { return };
    let mut peer = Peer::start(&[&program], &[]);

    peer.check("echo", r#"{"message":"pretty \"quoted\" \\ line\nbreak, emoji 🙂, 日本"}"#);
    peer.check("get-sum", r#"{"a":2,"b":40.5}"#);
    peer.check("get-tiny-image", "{}");
    peer.check("get-annotated-message", r#"{"messageType":"error","includeImage":true}"#);
    peer.check("get-resource-links", r#"{"count":4}"#);
    peer.check("get-structured-content", r#"{"location":"Chicago"}"#);
    peer.check("trigger-long-running-operation", r#"{"duration":0.2,"steps":4}"#);
    peer.check("get-sum", r#"{"a":"not a number","b":1}"#);
    peer.check_tools();
}

#[test]
fn the_resources_and_prompts_of_server_everything_come_through_as_it_gives_them_itself() {
    let Some(program) = tool("node/node_modules/.bin/mcp-server-everything") else { return };
    let mut peer = Peer::start(&[&program], &[]);

    peer.check_list("resources/list", "resources", "/resources");
    peer.check_list("resources/templates/list", "resourceTemplates", "/resources/templates");
    peer.check_list("prompts/list", "prompts", "/prompts");
    peer.check_resource("demo://resource/static/document/architecture.md");
    peer.check_resource("demo://resource/static/document/features.md");
    peer.check_resource("demo://no/such resource");
    // These tell the time; the server's own is another by then.
    for uri in ["demo://resource/dynamic/text/1", "demo://resource/dynamic/blob/2"] {
        let reply = peer.gateway.get(&format!("/resources/read?uri={uri}"));
        let content = reply.expect_status(200).json()["contents"][0].take();
        reply.expect(content["uri"] == uri && content["mimeType"] == "text/plain", "what its template promises");
    }
    peer.check_prompt("simple-prompt", "{}");
    peer.check_prompt("args-prompt", r#"{"city":"Zürich \"\\ 🙂","state":"ZH"}"#);
    peer.check_prompt("args-prompt", "{}");
    peer.check_prompt("completable-prompt", r#"{"department":"Sales","name":"David"}"#);
    peer.check_prompt("resource-prompt", r#"{"resourceType":"Nonsense","resourceId":"1"}"#);
    peer.gateway.post("/prompts/no-such-prompt", "{}").expect_error(404, "not_found", "`no-such-prompt`");
}

#[test]
fn server_filesystem_answers_through_the_gateway_as_it_does_by_itself() {
    let Some(program) = tool("node/node_modules/.bin/mcp-server-filesystem") else { return };
    let folder = Folder::new();
    let file = folder.file("ünïcode 🙂.txt", "first line\n\t\"second\" \\ line\r\nthird: 日本\n").display().to_string();
    let folder_name = folder.path().display().to_string();
    folder.file("big.txt", &"0123456789 ünïcode\n".repeat(50_000));
    let mut peer = Peer::start(&[&program, &folder_name], &[]);

    peer.check("read_text_file", &format!(r#"{{"path":"{file}"}}"#));
    peer.check("read_text_file", &format!(r#"{{"path":"{folder_name}/big.txt"}}"#));
    peer.check("list_directory", &format!(r#"{{"path":"{folder_name}"}}"#));
    peer.check("directory_tree", &format!(r#"{{"path":"{folder_name}"}}"#));
    peer.check("list_allowed_directories", "{}");
    peer.check("read_text_file", &format!(r#"{{"path":"{folder_name}/missing.txt"}}"#));
    peer.check("read_text_file", r#"{"path":"/etc/hostname"}"#);
    peer.check_tools();
}

#[test]
fn a_fastmcp_server_answers_through_the_gateway_as_it_does_by_itself() {
    let Some(python) = tool("venv/bin/python") else { return };
    let script = root().join("tests/peers/fastmcp_server.py").display().to_string();
    let mut peer = Peer::start(&[&python, &script], &[("FASTMCP_CHECK_FOR_UPDATES", "off")]);

    peer.check("greet", r#"{"name":"Zoë"}"#);
    peer.check("place", r#"{"name":"Utrecht"}"#);
    peer.check("numbers", r#"{"n":5}"#);
    peer.check("unicode", r#"{"text":"日本 é 👩‍👩‍👧"}"#);
    peer.check("nothing", "{}");
    peer.check("fail", r#"{"reason":"ß"}"#);
    peer.check("steps", r#"{"n":3}"#);
    peer.check_tools();
}

/// The installed program, or `None` with a word on what is missing.
pub(crate) fn tool(name: &str) -> Option<String> {
    let beside_target = || Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("tools");
    let program = env::var_os("MCPGATE_TOOLS").map_or_else(beside_target, PathBuf::from).join(name);
    if program.exists() {
        return Some(program.display().to_string());
    }
    let is_ci = env::var("CI").is_ok_and(|it| it == "true");
    assert!(!is_ci, "{} is missing; scripts/test.sh installs it", program.display());
    println!("skipped: {} is missing; scripts/test.sh installs it", program.display());
    None
}

/// One server, once behind a gateway and once by itself.
struct Peer {
    gateway: Gateway,
    direct: Direct,
}

impl Peer {
    fn start(words: &[&str], environment: &[(&str, &str)]) -> Peer {
        // Wrong arguments are the server's to refuse here, in its own words.
        let mut settings = vec![("MIN_WORKERS", "1"), ("MAX_WORKERS", "1"), ("VALIDATE_INPUT", "false")];
        settings.extend(environment);
        let direct = Direct::start(words, environment);
        Peer { gateway: Gateway::start(&settings, words), direct }
    }

    /// Calls the tool both ways and compares everything the server said.
    #[track_caller]
    fn check(&mut self, tool: &str, arguments: &str) {
        let request = format!(r#""method":"tools/call","params":{{"name":"{tool}","arguments":{arguments}}}"#);
        let line = self.direct.request(&request);
        let reply = self.gateway.call(tool, arguments);
        match raw_field(&line, "result") {
            Some(result) => check_result(&reply, &result),
            None => check_rpc_error(&reply, &line),
        }
    }

    /// The server's tools are listed as it gave them.
    #[track_caller]
    fn check_tools(&mut self) {
        self.check_list("tools/list", "tools", "/tools");
    }

    /// What `method` lists as `field` stands at `path` as the server gave it.
    #[track_caller]
    fn check_list(&mut self, method: &str, field: &str, path: &str) {
        let line = self.direct.request(&format!(r#""method":"{method}""#));
        let own: Value = serde_json::from_str(&line).unwrap();
        let reply = self.gateway.get(path);
        let mut listed = reply.expect_status(200).json();
        for entry in listed[field].as_array_mut().unwrap() {
            entry.as_object_mut().unwrap().remove("server");
        }
        reply.expect(listed[field] == own["result"][field], &format!("the {field} {}", own["result"][field]));
    }

    /// Reads the resource both ways. The `uri` needs no escapes in JSON.
    #[track_caller]
    fn check_resource(&mut self, uri: &str) {
        let line = self.direct.request(&format!(r#""method":"resources/read","params":{{"uri":"{uri}"}}"#));
        let reply = self.gateway.get(&format!("/resources/read?uri={}", uri.replace(' ', "%20")));
        match raw_field(&line, "result") {
            Some(result) => drop(reply.expect_raw("contents", &raw_field(&result, "contents").expect("contents"))),
            None => drop(reply.expect_error(404, "not_found", &format!("there is no resource `{uri}`"))),
        }
    }

    /// Has the prompt made both ways.
    #[track_caller]
    fn check_prompt(&mut self, prompt: &str, arguments: &str) {
        let request = format!(r#""method":"prompts/get","params":{{"name":"{prompt}","arguments":{arguments}}}"#);
        let line = self.direct.request(&request);
        let reply = self.gateway.post(&format!("/prompts/{prompt}"), &format!(r#"{{"arguments":{arguments}}}"#));
        match raw_field(&line, "result") {
            Some(result) => {
                let messages = raw_field(&result, "messages").expect("messages");
                reply.expect_raw("messages", &messages).expect_raw("data", &messages);
                let description = raw_field(&result, "description");
                reply.expect(raw_field(&reply.text(), "description") == description, &format!("{description:?}"));
            }
            None => check_rpc_error(&reply, &line),
        }
    }
}

#[track_caller]
fn check_result(reply: &Reply, result: &str) {
    let content = raw_field(result, "content").expect("content");
    let is_error = raw_field(result, "isError").as_deref() == Some("true");
    if is_error {
        reply.expect_error(422, "tool_error", "");
        reply.expect(reply.raw("content") == content, &format!("content {content}"));
        return;
    }
    reply.expect_raw("content", &content);
    if let Some(structured) = raw_field(result, "structuredContent") {
        reply.expect_raw("data", &structured);
    }
}

#[track_caller]
fn check_rpc_error(reply: &Reply, line: &str) {
    let error: Value = serde_json::from_str(line).unwrap();
    reply.expect_error(502, "worker_error", error["error"]["message"].as_str().unwrap());
    reply.expect(reply.json()["error"]["rpc_code"] == error["error"]["code"], line);
}

/// The server on its own stdio. Killed when dropped.
struct Direct {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    ids: u32,
}

impl Direct {
    fn start(words: &[&str], environment: &[(&str, &str)]) -> Direct {
        let mut server = command(words[0]);
        server.args(&words[1..]).envs(environment.iter().copied());
        server.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = server.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = sync_channel(1024);
        thread::Builder::new()
            .spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)))
            .unwrap();
        let mut direct = Direct { stdin: child.stdin.take().unwrap(), child, lines, ids: 0 };
        direct.request(
            r#""method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{}},"clientInfo":{"name":"test","version":"1"}}"#,
        );
        direct.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        direct
    }

    fn send(&mut self, line: &str) {
        self.stdin.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Sends a request with these fields and gives the line that answers it.
    #[track_caller]
    fn request(&mut self, fields: &str) -> String {
        self.ids += 1;
        let id = self.ids.to_string();
        self.send(&format!(r#"{{"jsonrpc":"2.0","id":{id},{fields}}}"#));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let patience = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(patience).unwrap_or_else(|_| panic!("no answer to {fields}"));
            let is_answer = raw_field(&line, "method").is_none() && raw_field(&line, "id").as_ref() == Some(&id);
            if is_answer {
                return line;
            }
        }
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        // Both fail only when the process is already gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
