//! The legacy tools that ask the client while they run.
//!
//! They ask without looking at what the client has declared: to keep such a question from a client that cannot take it
//! is what a gateway is tested for. One that is refused, or stays unanswered, makes the tool fail.

use serde_json::{Value, json};

use crate::{
    content::text,
    request::{Era, Outcome, Request},
    tools::{Tool, contents, error, no_arguments},
};

pub(crate) const TOOLS: &[Tool] = &[
    Tool {
        name: "test_sampling",
        description: "Has the client's model answer the prompt.",
        era: Some(Era::Legacy),
        input_schema: || json!({ "type": "object", "properties": { "prompt": { "type": "string" } }, "required": ["prompt"] }),
        run: sample,
    },
    Tool {
        name: "test_elicitation",
        description: "Asks the user for a name and an address.",
        era: Some(Era::Legacy),
        input_schema: || json!({ "type": "object", "properties": { "message": { "type": "string" } }, "required": ["message"] }),
        run: |request| elicit(request, request.argument("message")?, user_schema()),
    },
    Tool {
        name: "test_elicitation_sep1034_defaults",
        description: "Asks the user with a default for each kind of value.",
        era: Some(Era::Legacy),
        input_schema: no_arguments,
        run: |request| elicit(request, "Please check these values.", defaults_schema()),
    },
    Tool {
        name: "test_elicitation_sep1330_enums",
        description: "Asks the user with each form of a choice.",
        era: Some(Era::Legacy),
        input_schema: no_arguments,
        run: |request| elicit(request, "Please choose.", enums_schema()),
    },
];

fn sample(request: &Request<'_>) -> Outcome {
    let prompt = request.argument("prompt")?;
    let params = json!({ "messages": [{ "role": "user", "content": text(prompt) }], "maxTokens": 100 });
    let result = match request.ask("sampling/createMessage", params)? {
        Ok(result) => result,
        Err(reason) => return Ok(error(&format!("sampling/createMessage: {reason}"))),
    };
    let response = result.pointer("/content/text").and_then(Value::as_str).unwrap_or("no text");
    Ok(contents(vec![text(format!("LLM response: {response}"))]))
}

fn elicit(request: &Request<'_>, message: &str, schema: Value) -> Outcome {
    let params = json!({ "message": message, "requestedSchema": schema });
    let result = match request.ask("elicitation/create", params)? {
        Ok(result) => result,
        Err(reason) => return Ok(error(&format!("elicitation/create: {reason}"))),
    };
    let action = result.get("action").and_then(Value::as_str).unwrap_or("none");
    let content = result.get("content").cloned().unwrap_or_else(|| json!({}));
    Ok(contents(vec![text(format!("User response: action={action}, content={content}"))]))
}

fn user_schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "username": { "type": "string", "description": "Name of the user." },
            "email": { "type": "string", "description": "Address of the user." },
        },
        "required": ["username", "email"],
    })
}

fn defaults_schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "default": "John Doe" },
            "age": { "type": "integer", "default": 30 },
            "score": { "type": "number", "default": 95.5 },
            "status": { "type": "string", "enum": ["active", "inactive", "pending"], "default": "active" },
            "verified": { "type": "boolean", "default": true },
        },
        "required": [],
    })
}

fn enums_schema() -> Value {
    let options = ["option1", "option2", "option3"];
    let titled = json!([
        { "const": "value1", "title": "First" },
        { "const": "value2", "title": "Second" },
        { "const": "value3", "title": "Third" },
    ]);
    json!({
        "type": "object",
        "properties": {
            "untitledSingle": { "type": "string", "enum": options },
            "titledSingle": { "type": "string", "oneOf": titled },
            "legacyEnum": {
                "type": "string",
                "enum": ["opt1", "opt2", "opt3"],
                "enumNames": ["First", "Second", "Third"],
            },
            "untitledMulti": {
                "type": "array",
                "minItems": 1,
                "maxItems": 3,
                "items": { "type": "string", "enum": options },
            },
            "titledMulti": { "type": "array", "minItems": 1, "maxItems": 3, "items": { "anyOf": titled } },
        },
        "required": [],
    })
}
