//! A client of the bundled server, and the folder that server works in.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{
    fs,
    io::{self, BufRead, BufReader, PipeWriter, Write},
    path::PathBuf,
    process,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crossbeam_channel::{Receiver, bounded};
use mcpgate::{
    journeys,
    mcp::{
        revision::{CLIENT_CAPABILITIES_KEY, MODERN, PROTOCOL_VERSION_KEY},
        server::{self, CHUNK_KEY, ERROR_KEY},
    },
    threads::{self, Joined},
};
use serde_json::{Value, json};

/// Long enough for any machine; a test that waits this long has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A fresh folder that is removed at the end.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Folder {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("mcpgate-journeys-{}-{n}", process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A client of a server of its own, over two pipes.
pub(crate) struct Client {
    revision: &'static str,
    input: Option<PipeWriter>,
    lines: Receiver<Value>,
    requests: u64,
    /// Every message the server sent, with the method it answers.
    pub(crate) received: Vec<(Value, &'static str)>,
    _threads: [Joined; 2],
}

impl Client {
    pub(crate) fn connect(folder: &Folder, revision: &'static str) -> Client {
        let server = Arc::new(journeys::server(&folder.0).unwrap());
        let (server_input, input) = io::pipe().unwrap();
        let (output, server_output) = io::pipe().unwrap();
        let (sender, lines) = bounded(10_000);
        let serving = threads::spawn("test-serve", move || {
            server::serve(server, BufReader::new(server_input), server_output).unwrap();
        });
        let reading = threads::spawn("test-read", move || {
            for line in BufReader::new(output).lines() {
                let line = line.unwrap();
                sender.send(serde_json::from_str(&line).expect(&line)).unwrap();
            }
        });
        let threads = [serving.unwrap(), reading.unwrap()];
        let mut client =
            Client { revision, input: Some(input), lines, requests: 0, received: Vec::new(), _threads: threads };
        if revision == MODERN {
            client.ask("server/discover", json!({}));
        } else {
            let client_info = json!({"name": "test", "version": "1"});
            let params = json!({"protocolVersion": revision, "capabilities": {}, "clientInfo": client_info});
            assert_eq!(client.ask("initialize", params)["protocolVersion"], revision);
        }
        client
    }

    pub(crate) fn latest(folder: &Folder) -> Client {
        Client::connect(folder, MODERN)
    }

    /// The result of a request, and before it any number of notifications.
    #[track_caller]
    pub(crate) fn ask(&mut self, method: &'static str, mut params: Value) -> Value {
        self.requests += 1;
        if self.revision == MODERN {
            params["_meta"][PROTOCOL_VERSION_KEY] = json!(MODERN);
            params["_meta"][CLIENT_CAPABILITIES_KEY] = json!({});
        }
        let request = json!({"jsonrpc": "2.0", "id": self.requests, "method": method, "params": params});
        writeln!(self.input.as_ref().unwrap(), "{request}").unwrap();
        loop {
            let message = self.lines.recv_timeout(DEADLINE).expect("no answer came");
            self.received.push((message.clone(), method));
            if message.get("id").is_some() {
                assert_eq!(message["id"], self.requests, "{message}");
                assert!(message.get("result").is_some(), "{message}");
                return message["result"].clone();
            }
        }
    }

    #[track_caller]
    pub(crate) fn call(&mut self, arguments: Value) -> Value {
        self.ask("tools/call", json!({"name": "journeys_tool", "arguments": arguments}))
    }

    /// What a call gives that succeeds.
    #[track_caller]
    pub(crate) fn act(&mut self, arguments: Value) -> Value {
        let result = self.call(arguments);
        assert_eq!(result.get("isError"), None, "{result}");
        let text = result["content"][0]["text"].as_str().unwrap();
        assert_eq!(serde_json::from_str::<Value>(text).unwrap(), result["structuredContent"]);
        result["structuredContent"].clone()
    }

    #[track_caller]
    pub(crate) fn expect_error(&mut self, arguments: Value, code: &str, argument: &str, text: &str) {
        let result = self.call(arguments.clone());
        assert_eq!(result["isError"], true, "{arguments}: {result}");
        assert_eq!(result["content"][0]["text"], text, "{arguments}");
        assert_eq!(result["_meta"][ERROR_KEY], json!({"code": code, "argument": argument}), "{arguments}");
        assert_eq!(result.get("structuredContent"), None);
    }

    pub(crate) fn create(&mut self, name: &str) -> String {
        let created = self.act(json!({"action": "create", "name": name}));
        created["journey"]["id"].as_str().unwrap().to_owned()
    }

    pub(crate) fn list(&mut self, filter: Value) -> Vec<String> {
        let mut arguments = json!({"action": "list"});
        arguments.as_object_mut().unwrap().extend(filter.as_object().unwrap().clone());
        let list = self.act(arguments);
        names(&list["journeys"])
    }

    pub(crate) fn chunks(&self) -> Vec<Value> {
        let chunks = self.received.iter().filter_map(|(it, _)| it.pointer("/params/_meta")?.get(CHUNK_KEY).cloned());
        chunks.collect()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // The end of the input is what ends the threads.
        self.input = None;
    }
}

pub(crate) fn names(journeys: &Value) -> Vec<String> {
    journeys.as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap().to_owned()).collect()
}
