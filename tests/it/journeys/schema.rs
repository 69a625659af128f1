//! What the server says, against JSON schemas: the tool's own, and those of each protocol revision.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{fs, path::Path};

use mcpgate::mcp::revision::{LEGACY, MODERN};
use serde_json::{Value, json};

use super::client::{Client, Folder};

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
    let schemas = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mcp-schema");
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
