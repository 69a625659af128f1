//! The bundled server, as its clients see it: over pipes, in both eras, several at once.

mod client;
mod schema;
mod sharing;

use std::{
    io::{self, BufReader, Read, Write},
    sync::Arc,
};

use crossbeam_channel::{Receiver, Sender, bounded};
use mcpgate::{
    journeys,
    mcp::{
        revision::{LEGACY, MODERN},
        server,
    },
    threads,
};
use serde_json::{Value, json};

use client::{Client, DEADLINE, Folder};

/// How many journeys a fresh folder has.
const SAMPLES: usize = 3;

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
