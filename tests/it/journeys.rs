//! The bundled server, as its clients see it: over pipes, in both eras, several at once.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{
    collections::HashSet,
    fs,
    io::{self, BufRead, BufReader, PipeWriter, Read, Write},
    path::{Path, PathBuf},
    process,
    sync::{
        Arc, Barrier,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender, bounded};
use mcpgate::{
    journeys,
    mcp::{
        revision::{CLIENT_CAPABILITIES_KEY, LEGACY, MODERN, PROTOCOL_VERSION_KEY},
        server::{self, CHUNK_KEY, ERROR_KEY},
    },
    threads::{self, Joined},
};
use serde_json::{Value, json};

/// Long enough for any machine; a test that waits this long has failed.
const DEADLINE: Duration = Duration::from_secs(60);

const SAMPLES: usize = 3;

/// Tells a process that was started by a test where to write.
const CHILD_FOLDER: &str = "MCPGATE_TEST_JOURNEYS_FOLDER";

/// A fresh folder that is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
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
struct Client {
    revision: &'static str,
    input: Option<PipeWriter>,
    lines: Receiver<Value>,
    requests: u64,
    /// Every message the server sent, with the method it answers.
    received: Vec<(Value, &'static str)>,
    _threads: [Joined; 2],
}

impl Client {
    fn connect(folder: &Folder, revision: &'static str) -> Client {
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

    fn latest(folder: &Folder) -> Client {
        Client::connect(folder, MODERN)
    }

    /// The result of a request, and before it any number of notifications.
    #[track_caller]
    fn ask(&mut self, method: &'static str, mut params: Value) -> Value {
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
    fn call(&mut self, arguments: Value) -> Value {
        self.ask("tools/call", json!({"name": "journeys_tool", "arguments": arguments}))
    }

    /// What a call gives that succeeds.
    #[track_caller]
    fn act(&mut self, arguments: Value) -> Value {
        let result = self.call(arguments);
        assert_eq!(result.get("isError"), None, "{result}");
        let text = result["content"][0]["text"].as_str().unwrap();
        assert_eq!(serde_json::from_str::<Value>(text).unwrap(), result["structuredContent"]);
        result["structuredContent"].clone()
    }

    #[track_caller]
    fn expect_error(&mut self, arguments: Value, code: &str, argument: &str, text: &str) {
        let result = self.call(arguments.clone());
        assert_eq!(result["isError"], true, "{arguments}: {result}");
        assert_eq!(result["content"][0]["text"], text, "{arguments}");
        assert_eq!(result["_meta"][ERROR_KEY], json!({"code": code, "argument": argument}), "{arguments}");
        assert_eq!(result.get("structuredContent"), None);
    }

    fn create(&mut self, name: &str) -> String {
        let created = self.act(json!({"action": "create", "name": name}));
        created["journey"]["id"].as_str().unwrap().to_owned()
    }

    fn list(&mut self, filter: Value) -> Vec<String> {
        let mut arguments = json!({"action": "list"});
        arguments.as_object_mut().unwrap().extend(filter.as_object().unwrap().clone());
        let list = self.act(arguments);
        names(&list["journeys"])
    }

    fn chunks(&self) -> Vec<Value> {
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

fn names(journeys: &Value) -> Vec<String> {
    journeys.as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_fresh_folder_has_sample_journeys_newest_first() {
    let folder = Folder::new();
    let samples = ["Open the gateway to the network", "Connect a server of your own", "Make a first call"];
    assert_eq!(Client::latest(&folder).list(json!({})), samples);
    assert_eq!(Client::latest(&folder).list(json!({})), samples, "opened a second time");
}

#[test]
fn a_journey_goes_from_draft_to_completed_step_by_step() {
    let folder = Folder::new();
    let mut client = Client::latest(&folder);
    let created = client.act(json!({"action": "create", "name": " Move house ", "description": "To the coast."}));
    let journey = created["journey"].clone();
    assert_eq!(created["action"], "create");
    assert_eq!((&journey["name"], &journey["status"]), (&json!("Move house"), &json!("draft")));
    assert_eq!(journey["steps"], json!([]));
    assert_eq!(journey["created_at"], journey["updated_at"]);
    let time = journey["created_at"].as_str().unwrap();
    let shape: String = time.chars().map(|it| if it.is_ascii_digit() { '0' } else { it }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000Z");

    let id = &journey["id"];
    client.act(json!({"action": "add_step", "id": id, "step": "Pack"}));
    client.act(json!({"action": "add_step", "id": id, "step": "Drive"}));
    let started = client.act(json!({"action": "complete_step", "id": id, "step": 1}));
    assert_eq!(started["journey"]["status"], "active");
    let expected = json!([
        {"number": 1, "text": "Pack", "completed": true},
        {"number": 2, "text": "Drive", "completed": false},
    ]);
    assert_eq!(started["journey"]["steps"], expected);
    let done = client.act(json!({"action": "complete_step", "id": id, "step": "Drive"}));
    assert_eq!(done["journey"]["status"], "completed");

    let updated = client.act(json!({"action": "update", "id": id, "name": "Moved", "status": "draft", "step": null}));
    assert_eq!(updated["journey"]["name"], "Moved");
    assert_eq!(updated["journey"]["description"], "To the coast.");
    assert_eq!(updated["journey"]["status"], "draft");
    assert_eq!(client.act(json!({"action": "get", "id": id}))["journey"], updated["journey"]);

    assert_eq!(client.act(json!({"action": "delete", "id": id}))["journey"], updated["journey"]);
    let text = format!("there is no journey `{}`; use `list` to see the ids", id.as_str().unwrap());
    client.expect_error(json!({"action": "get", "id": id}), "unknown_journey", "id", &text);
}

#[test]
fn a_list_says_that_it_loads_then_streams_each_journey_then_gives_the_result() {
    let folder = Folder::new();
    for revision in [LEGACY[0], MODERN] {
        let mut client = Client::connect(&folder, revision);
        client.received.clear();
        let params = json!({
            "name": "journeys_tool",
            "arguments": {"action": "list"},
            "_meta": {"progressToken": "list-1"},
        });
        let result = client.ask("tools/call", params);
        let notes: Vec<&Value> = client.received.iter().map(|(it, _)| &it["params"]).collect();
        let first = json!({"progressToken": "list-1", "progress": 0, "message": "Loading data..."});
        assert_eq!(notes[0], &first);
        let progress: Vec<i64> = notes.iter().filter_map(|it| it["progress"].as_i64()).collect();
        assert_eq!(progress, [0, 1, 2, 3]);

        let found = &result["structuredContent"];
        assert_eq!((&found["count"], &found["has_more"]), (&json!(SAMPLES), &json!(false)));
        let expected: Vec<Value> = (0..SAMPLES).map(|n| json!({"index": n, "data": found["journeys"][n]})).collect();
        assert_eq!(client.chunks(), expected);
    }
}

#[test]
fn a_list_is_filtered_by_status_text_and_limit() {
    let folder = Folder::new();
    let mut client = Client::latest(&folder);
    client.act(json!({"action": "create", "name": "ÜBER die Alpen", "status": "active"}));
    client.act(json!({"action": "create", "name": "By train", "description": "Über den Brenner"}));
    assert_eq!(client.list(json!({"query": " über "})), ["By train", "ÜBER die Alpen"]);
    assert_eq!(client.list(json!({"query": "über", "status": "active"})), ["ÜBER die Alpen"]);
    assert_eq!(client.list(json!({"query": "no such thing"})), [""; 0]);
    assert_eq!(client.list(json!({"limit": 2})), ["By train", "ÜBER die Alpen"]);
    assert_eq!(client.list(json!({"limit": 5.0})).len(), 5);
    for (limit, has_more) in [(4, true), (5, false), (6, false)] {
        assert_eq!(client.act(json!({"action": "list", "limit": limit}))["has_more"], has_more, "{limit}");
    }
}

#[test]
fn every_mistake_is_named_with_its_argument_and_a_way_out() {
    let folder = Folder::new();
    let mut client = Client::latest(&folder);
    let actions = "use one of `list`, `get`, `create`, `update`, `delete`, `add_step`, `complete_step`";
    let sent_actions = actions.replace("use", "send");
    let long_id = "x".repeat(65);
    let cases = [
        (json!({}), "missing_argument", "action", format!("`action` is missing; {actions}")),
        (json!({"action": null}), "missing_argument", "action", format!("`action` is missing; {actions}")),
        (json!({"action": "fly"}), "unknown_action", "action", format!("there is no action `fly`; {actions}")),
        (json!({"action": 7}), "bad_argument", "action", format!("`action` is `7`; {}", sent_actions)),
        (
            json!({"action": "get"}),
            "missing_argument",
            "id",
            "`get` needs the argument `id`; add `id` to the arguments".to_owned(),
        ),
        (
            json!({"action": "add_step", "id": "own-server"}),
            "missing_argument",
            "step",
            "`add_step` needs the argument `step`; add `step` to the arguments".to_owned(),
        ),
        (
            json!({"action": "create", "name": "a", "step": "b"}),
            "unexpected_argument",
            "step",
            "`create` does not take an argument `step`; it takes `name`, `description`, `status`".to_owned(),
        ),
        (
            json!({"action": "list", "colour": "red"}),
            "unknown_argument",
            "colour",
            "`list` does not take an argument `colour`; it takes `status`, `query`, `limit`".to_owned(),
        ),
        (
            json!({"action": "update", "id": "own-server"}),
            "missing_argument",
            "name",
            "`update` has nothing to change; add `name`, `description` or `status`".to_owned(),
        ),
        (
            json!({"action": "list", "status": "done"}),
            "bad_argument",
            "status",
            "`status` is `\"done\"`; send one of `draft`, `active`, `completed`".to_owned(),
        ),
        (
            json!({"action": "list", "limit": 101}),
            "bad_argument",
            "limit",
            "`limit` is `101`; send a whole number from 1 to 100".to_owned(),
        ),
        (
            json!({"action": "list", "limit": 1.5}),
            "bad_argument",
            "limit",
            "`limit` is `1.5`; send a whole number from 1 to 100".to_owned(),
        ),
        (
            json!({"action": "get", "id": ["a"]}),
            "bad_argument",
            "id",
            "`id` is `[\"a\"]`; send a text of 1 to 64 characters".to_owned(),
        ),
        (
            json!({"action": "get", "id": long_id}),
            "bad_argument",
            "id",
            "`id` has 65 characters; send a text of 1 to 64 characters".to_owned(),
        ),
        (
            json!({"action": "get", "id": "nobody"}),
            "unknown_journey",
            "id",
            "there is no journey `nobody`; use `list` to see the ids".to_owned(),
        ),
        (
            json!({"action": "create", "name": " "}),
            "bad_argument",
            "name",
            "`name` has 0 characters; send a text of 1 to 200 characters".to_owned(),
        ),
        (
            json!({"action": "create", "name": "a\u{7}"}),
            "bad_argument",
            "name",
            "`name` has the control character \\u{7}; leave it out; line breaks and tabs may stay".to_owned(),
        ),
        (
            json!({"action": "complete_step", "id": "own-server", "step": 4}),
            "unknown_step",
            "step",
            "journey `own-server` has no step `4`; send a number from 1 to 3, or the exact text of a step".to_owned(),
        ),
        (
            json!({"action": "complete_step", "id": "own-server", "step": -1}),
            "bad_argument",
            "step",
            "`step` is `-1`; send the number or the text of a step".to_owned(),
        ),
        (
            json!({"action": "add_step", "id": "own-server", "step": 4}),
            "bad_argument",
            "step",
            "`step` is `4`; send a text of 1 to 200 characters".to_owned(),
        ),
    ];
    for (arguments, code, argument, text) in cases {
        client.expect_error(arguments, code, argument, &text);
    }
    let shown = format!("`status` is `\"{}…`; send one of `draft`, `active`, `completed`", "é".repeat(59));
    client.expect_error(json!({"action": "list", "status": "é".repeat(100)}), "bad_argument", "status", &shown);
    // None of them changed anything.
    assert_eq!(client.list(json!({})).len(), SAMPLES);
}

#[test]
fn the_longest_texts_and_the_last_step_are_taken_and_one_more_is_not() {
    let folder = Folder::new();
    let mut client = Client::latest(&folder);
    let (name, description) = ("é".repeat(200), "🚲".repeat(2000));
    let created = client.act(json!({"action": "create", "name": name, "description": description}));
    let id = created["journey"]["id"].as_str().unwrap().to_owned();
    for _ in 0..50 {
        client.act(json!({"action": "add_step", "id": id, "step": "🚲".repeat(200)}));
    }
    let text = format!("journey `{id}` has 50 steps, the most it can have; use `create` for a second journey");
    client.expect_error(json!({"action": "add_step", "id": id, "step": "x"}), "too_many_steps", "step", &text);
    let text = "`description` has 2001 characters; send a text of 0 to 2000 characters";
    let arguments = json!({"action": "update", "id": id, "description": "x".repeat(2001)});
    client.expect_error(arguments, "bad_argument", "description", text);
    let journey = client.act(json!({"action": "get", "id": id}))["journey"].clone();
    assert_eq!((&journey["name"], &journey["description"]), (&json!(name), &json!(description)));
    assert_eq!(journey["steps"].as_array().unwrap().len(), 50);
}

#[test]
fn what_one_client_creates_the_others_see() {
    let folder = Folder::new();
    let (mut one, mut other) = (Client::latest(&folder), Client::connect(&folder, LEGACY[3]));
    let id = one.create("Shared");
    assert_eq!(other.act(json!({"action": "get", "id": id}))["journey"]["name"], "Shared");
    other.act(json!({"action": "delete", "id": id}));
    assert_eq!(one.list(json!({})).len(), SAMPLES);
}

#[test]
fn eight_servers_that_start_at_once_on_a_fresh_folder_fill_it_once() {
    // Often, because the moment is short.
    for _ in 0..10 {
        let folder = Folder::new();
        let start = Barrier::new(8);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    start.wait();
                    assert_eq!(Client::latest(&folder).list(json!({})).len(), SAMPLES);
                });
            }
        });
    }
}

#[test]
fn eight_clients_that_write_at_once_lose_nothing() {
    let folder = Folder::new();
    let shared = Client::latest(&folder).create("Shared");
    let start = Barrier::new(8);
    thread::scope(|scope| {
        for writer in 0..8 {
            let (folder, shared, start) = (&folder, &shared, &start);
            scope.spawn(move || write_as(folder, &format!("writer {writer}"), shared, start));
        }
    });
    check_all_written(&folder, &shared);
}

/// One of eight writers: five journeys of its own, and five steps on the shared one.
fn write_as(folder: &Folder, writer: &str, shared: &str, start: &Barrier) {
    let mut client = Client::latest(folder);
    start.wait();
    for n in 0..5 {
        client.create(&format!("{writer} journey {n}"));
        client.act(json!({"action": "add_step", "id": shared, "step": format!("{writer} step {n}")}));
    }
}

#[track_caller]
fn check_all_written(folder: &Folder, shared: &str) {
    let mut client = Client::latest(folder);
    let journeys = client.list(json!({"limit": 100}));
    let written: HashSet<_> = journeys.iter().filter(|it| it.contains(" journey ")).collect();
    assert_eq!(written.len(), 8 * 5);
    assert_eq!(journeys.iter().filter(|it| *it == "Make a first call").count(), 1, "filled more than once");
    let shared = client.act(json!({"action": "get", "id": shared}))["journey"].clone();
    let steps = shared["steps"].as_array().unwrap();
    let texts = steps.iter().map(|it| it["text"].as_str().unwrap());
    let texts: HashSet<_> = texts.filter(|it| it.contains(" step ")).collect();
    let numbers: Vec<_> = steps.iter().map(|it| it["number"].as_u64().unwrap()).collect();
    assert_eq!(texts.len(), 8 * 5);
    assert!(numbers.into_iter().eq(1..=steps.len() as u64));
}

#[test]
fn eight_processes_that_start_and_write_at_once_fill_the_folder_once_and_lose_nothing() {
    let folder = Folder::new();
    let test_binary = std::env::current_exe().unwrap();
    let children: Vec<_> = (0..8)
        .map(|_| {
            #[allow(clippy::disallowed_methods, reason = "a second process of this test, not a worker")]
            process::Command::new(&test_binary)
                .args(["--exact", "journeys::a_process_that_another_test_started_writes", "--include-ignored"])
                .env(CHILD_FOLDER, &folder.0)
                .stdout(process::Stdio::piped())
                .stderr(process::Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    check_all_written(&folder, "own-server");
}

#[test]
#[ignore = "only does something in a process that another test starts"]
fn a_process_that_another_test_started_writes() {
    let Some(path) = std::env::var_os(CHILD_FOLDER) else { return };
    // Not ours to remove.
    let folder = std::mem::ManuallyDrop::new(Folder(path.into()));
    write_as(&folder, &format!("process {}", process::id()), "own-server", &Barrier::new(1));
}

#[test]
fn a_cancelled_list_stops_streaming_and_is_not_answered() {
    let folder = Folder::new();
    // Both ways are channels without room, so the test knows how far the server is: it has dealt with a line when it
    // takes the next one, and it goes on after a message when the test has taken it.
    let (input, server_input) = bounded(0);
    let (server_output, output) = bounded(0);
    let server = Arc::new(journeys::server(&folder.0).unwrap());
    let _serving = threads::spawn("test-serve", move || {
        server::serve(server, BufReader::new(LinesIn(server_input)), LinesOut(server_output)).unwrap();
    });
    let send = |message: Value| input.send_timeout(format!("{message}\n"), DEADLINE).unwrap();
    let receive = || -> Value { serde_json::from_str(&output.recv_timeout(DEADLINE).unwrap()).unwrap() };

    send(json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": LEGACY[3]}}));
    receive();
    let params = json!({"name": "journeys_tool", "arguments": {"action": "list"}, "_meta": {"progressToken": 1}});
    send(json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}));
    assert_eq!(receive()["params"]["message"], "Loading data...");
    send(json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 2}}));
    send(json!({"jsonrpc": "2.0", "id": 3, "method": "ping"}));

    // At the end of the input the server ends, and with it the output.
    drop(input);

    let (mut items, mut answers) = (0, Vec::new());
    while let Ok(line) = output.recv_timeout(DEADLINE) {
        let message: Value = serde_json::from_str(&line).unwrap();
        if message.get("id").is_some() {
            answers.push(message["id"].clone());
        } else {
            items += 1;
        }
    }
    assert_eq!(answers, [3]);
    assert!(items <= 1, "only the item that was on its way may come, not {items}");
}

/// Input that comes line by line out of a channel.
struct LinesIn(Receiver<String>);

impl Read for LinesIn {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Ok(line) = self.0.recv() else { return Ok(0) };
        buffer[..line.len()].copy_from_slice(line.as_bytes());
        Ok(line.len())
    }
}

/// Output that goes line by line into a channel. It also shows that a message is one write.
struct LinesOut(Sender<String>);

impl Write for LinesOut {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        assert_eq!(line.iter().position(|it| *it == b'\n'), Some(line.len() - 1), "a write is one line");
        self.0.send(String::from_utf8_lossy(line).into_owned()).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn arguments_and_results_are_what_the_tool_says_of_them() {
    let folder = Folder::new();
    let mut client = Client::latest(&folder);
    let tool = client.ask("tools/list", json!({}))["tools"][0].clone();
    let input = jsonschema::validator_for(&tool["inputSchema"]).unwrap();
    let output = jsonschema::validator_for(&tool["outputSchema"]).unwrap();
    let right = [
        json!({"action": "list", "status": "active", "query": "", "limit": 1}),
        json!({"action": "get", "id": "own-server"}),
        json!({"action": "create", "name": "a"}),
        json!({"action": "update", "id": "own-server", "description": ""}),
        json!({"action": "add_step", "id": "own-server", "step": "s"}),
        json!({"action": "complete_step", "id": "own-server", "step": 2}),
        json!({"action": "delete", "id": "own-server"}),
    ];
    for arguments in right {
        assert!(input.is_valid(&arguments), "{arguments}");
        let result = client.act(arguments);
        assert!(output.is_valid(&result), "{result}");
    }
    let wrong = [
        json!({}),
        json!({"action": "fly"}),
        json!({"action": "list", "limit": 0}),
        json!({"action": "list", "colour": "red"}),
        json!({"action": "create", "name": "x".repeat(201)}),
        json!({"action": "complete_step", "id": "own-server", "step": 0}),
    ];
    for arguments in wrong {
        assert!(!input.is_valid(&arguments), "{arguments}");
        assert_eq!(client.call(arguments)["isError"], true);
    }
}

#[test]
fn every_message_is_what_the_schema_of_its_revision_says() {
    let schemas = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/mcp-schema");
    if !schemas.is_dir() {
        println!("skipped: the protocol's schemas are not beside the repository");
        return;
    }
    for revision in LEGACY.into_iter().chain([MODERN]) {
        let folder = Folder::new();
        let mut client = Client::connect(&folder, revision);
        client.ask("tools/list", json!({}));
        client.act(json!({"action": "get", "id": "own-server"}));
        client.call(json!({"action": "fly"}));
        let arguments = json!({"action": "list"});
        client
            .ask("tools/call", json!({"name": "journeys_tool", "arguments": arguments, "_meta": {"progressToken": 5}}));
        let text = fs::read_to_string(schemas.join(format!("{revision}.schema.json"))).unwrap();
        let schema: Value = serde_json::from_str(&text).unwrap();
        for (message, method) in &client.received {
            check_schema(&schema, "JSONRPCMessage", message);
            match message.get("result") {
                None => check_schema(&schema, "ProgressNotification", message),
                Some(result) => check_schema(&schema, result_type(method), result),
            }
        }
    }
}

fn result_type(method: &str) -> &'static str {
    match method {
        "initialize" => "InitializeResult",
        "server/discover" => "DiscoverResult",
        "tools/list" => "ListToolsResult",
        "tools/call" => "CallToolResult",
        other => panic!("no test asks for `{other}`"),
    }
}

#[track_caller]
fn check_schema(schema: &Value, definition: &str, instance: &Value) {
    let definitions = if schema.get("$defs").is_some() { "$defs" } else { "definitions" };
    let entry = json!({
        "$schema": schema["$schema"],
        "$ref": format!("#/{definitions}/{definition}"),
        definitions: schema[definitions],
    });
    let validator = jsonschema::validator_for(&entry).unwrap();
    let errors: Vec<_> = validator.iter_errors(instance).map(|it| it.to_string()).collect();
    assert!(errors.is_empty(), "{definition}: {errors:?}\n{instance}");
}
