//! The tools: one table, and those that both eras have.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    content::{WATCHED, WAV, embedded, image, text},
    questions,
    request::{Era, Failure, Outcome, Request, meta},
    rounds,
};

/// Time between two things that a tool tells while it runs.
const STEP: Duration = Duration::from_millis(50);

pub(crate) struct Tool {
    pub(crate) name: &'static str,
    pub(crate) description: &'static str,
    /// The only era that has it; `None` means both.
    pub(crate) era: Option<Era>,
    pub(crate) input_schema: fn() -> Value,
    pub(crate) run: fn(&Request<'_>) -> Outcome,
}

impl Tool {
    fn is_of(&self, era: Era) -> bool {
        self.era.is_none_or(|it| it == era)
    }
}

/// Those of this file.
const TOOLS: &[Tool] = &[
    Tool {
        name: "test_simple_text",
        description: "Gives a text.",
        era: None,
        input_schema: no_arguments,
        run: |_| Ok(contents(vec![text("This is a simple text response for testing.")])),
    },
    Tool {
        name: "test_image_content",
        description: "Gives an image.",
        era: None,
        input_schema: no_arguments,
        run: |_| Ok(contents(vec![image()])),
    },
    Tool {
        name: "test_audio_content",
        description: "Gives a sound.",
        era: None,
        input_schema: no_arguments,
        run: |_| Ok(contents(vec![json!({ "type": "audio", "data": WAV, "mimeType": "audio/wav" })])),
    },
    Tool {
        name: "test_embedded_resource",
        description: "Gives a resource.",
        era: None,
        input_schema: no_arguments,
        run: |_| {
            let text = "This is an embedded resource content.";
            Ok(contents(vec![embedded("test://embedded-resource", "text/plain", text)]))
        },
    },
    Tool {
        name: "test_multiple_content_types",
        description: "Gives a text, an image and a resource.",
        era: None,
        input_schema: no_arguments,
        run: |_| {
            let json = r#"{"test":"data","value":123}"#;
            let resource = embedded("test://mixed-content-resource", "application/json", json);
            Ok(contents(vec![text("Multiple content types test:"), image(), resource]))
        },
    },
    Tool {
        name: "test_tool_with_progress",
        description: "Reports three steps, and gives the progress token.",
        era: None,
        input_schema: no_arguments,
        run: progress,
    },
    Tool {
        name: "test_error_handling",
        description: "Always fails.",
        era: None,
        input_schema: no_arguments,
        run: |_| Ok(error("This tool intentionally returns an error for testing")),
    },
    Tool {
        name: "test_reconnection",
        description: "Takes its time, so that a client can lose the connection meanwhile.",
        era: None,
        input_schema: no_arguments,
        run: |request| {
            // A gateway that has something to tell before the answer must open a stream, which the suite then looks at.
            request.log("info", "The call takes a while");
            request.pause(Duration::from_millis(100))?;
            Ok(contents(vec![text("The call outlived its connection.")]))
        },
    },
    Tool {
        name: "json_schema_2020_12_tool",
        description: "Has an input schema with the keywords of JSON Schema 2020-12.",
        era: None,
        input_schema: schema_2020_12,
        run: |_| Ok(contents(vec![text("The schema is what matters here.")])),
    },
    Tool {
        name: "test_trigger_tool_change",
        description: "Says that the list of tools has changed.",
        era: None,
        input_schema: no_arguments,
        run: |request| {
            let method = "notifications/tools/list_changed";
            request.peer.tell_list_changed(request.era, method, "toolsListChanged");
            Ok(contents(vec![text("The list of tools was said to have changed.")]))
        },
    },
    Tool {
        name: "test_trigger_prompt_change",
        description: "Says that the list of prompts has changed.",
        era: None,
        input_schema: no_arguments,
        run: |request| {
            let method = "notifications/prompts/list_changed";
            request.peer.tell_list_changed(request.era, method, "promptsListChanged");
            Ok(contents(vec![text("The list of prompts was said to have changed.")]))
        },
    },
    Tool {
        name: "test_update_resource",
        description: "Says that `test://watched-resource` has changed, to those who have subscribed to it.",
        era: None,
        input_schema: no_arguments,
        run: |request| {
            request.peer.tell_updated(request.era, WATCHED);
            Ok(contents(vec![text(format!("{WATCHED} was said to have changed."))]))
        },
    },
    Tool {
        name: "test_tool_with_logging",
        description: "Logs three messages.",
        era: Some(Era::Legacy),
        input_schema: no_arguments,
        run: logging,
    },
    Tool {
        name: "test_logging_tool",
        description: "Logs three messages, if the call says from which level on.",
        era: Some(Era::Modern),
        input_schema: no_arguments,
        run: logging,
    },
    Tool {
        name: "test_missing_capability",
        description: "Needs a client that can sample.",
        era: Some(Era::Modern),
        input_schema: no_arguments,
        run: |request| {
            require(request, &["sampling"])?;
            Ok(contents(vec![text("The client can sample.")]))
        },
    },
    Tool {
        name: "test_streaming_elicitation",
        description: "Ends without asking anything.",
        era: Some(Era::Modern),
        input_schema: no_arguments,
        run: |_| Ok(contents(vec![text("Nothing was asked on the stream.")])),
    },
    Tool {
        name: "test_x_mcp_header",
        description: "Has an argument that clients repeat in a header.",
        era: Some(Era::Modern),
        input_schema: || {
            json!({
                "type": "object",
                "properties": { "region": { "type": "string", "x-mcp-header": "Region" } },
                "required": ["region"],
            })
        },
        run: |request| Ok(contents(vec![text(format!("The region is {}.", request.argument("region")?))])),
    },
];

pub(crate) fn list(era: Era) -> Vec<Value> {
    let entry = |tool: &Tool| json!({ "name": tool.name, "description": tool.description, "inputSchema": (tool.input_schema)() });
    all().filter(|it| it.is_of(era)).map(entry).collect()
}

pub(crate) fn call(request: &Request<'_>) -> Outcome {
    let name = request.text("name")?;
    let tool = all().find(|it| it.name == name && it.is_of(request.era));
    match tool {
        Some(tool) => (tool.run)(request),
        None => Err(Failure::invalid_params(format!("there is no tool `{name}`"))),
    }
}

fn all() -> impl Iterator<Item = &'static Tool> {
    TOOLS.iter().chain(questions::TOOLS).chain(rounds::TOOLS)
}

/// The result of a tool that has done its work.
pub(crate) fn contents(blocks: Vec<Value>) -> Value {
    json!({ "content": blocks })
}

/// The result of a tool that has failed at its work.
pub(crate) fn error(what: &str) -> Value {
    json!({ "content": [text(what)], "isError": true })
}

pub(crate) fn no_arguments() -> Value {
    json!({ "type": "object", "properties": {} })
}

/// Fails unless the client of a modern request has declared all of these capabilities.
pub(crate) fn require(request: &Request<'_>, capabilities: &[&str]) -> Result<(), Failure> {
    let missing: Vec<&&str> = capabilities.iter().filter(|it| !declares(request, it)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let required: Value = missing.iter().map(|it| ((**it).to_owned(), json!({}))).collect();
    let failure = Failure::new(-32021, format!("the client lacks what this needs: {missing:?}"));
    Err(failure.with_data(json!({ "requiredCapabilities": required })))
}

/// Whether the client of a modern request has declared this capability.
pub(crate) fn declares(request: &Request<'_>, capability: &str) -> bool {
    request.meta(meta::CAPABILITIES).is_some_and(|it| it.get(capability).is_some_and(Value::is_object))
}

fn progress(request: &Request<'_>) -> Outcome {
    for (step, progress) in [0, 50, 100].into_iter().enumerate() {
        if step != 0 {
            request.pause(STEP)?;
        }
        request.report(progress, 100);
    }
    let token = match request.meta("progressToken") {
        Some(Value::String(token)) => token.clone(),
        Some(token) => token.to_string(),
        None => "no progress token".to_owned(),
    };
    Ok(contents(vec![text(token)]))
}

fn logging(request: &Request<'_>) -> Outcome {
    request.log("info", "Tool execution started");
    request.pause(STEP)?;
    request.log("info", "Tool processing data");
    request.pause(STEP)?;
    request.log("info", "Tool execution completed");
    Ok(contents(vec![text("The tool has logged what it did.")]))
}

fn schema_2020_12() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {
            "address": {
                "$anchor": "addressDef",
                "type": "object",
                "properties": { "street": { "type": "string" }, "city": { "type": "string" } },
            },
        },
        "properties": {
            "name": { "type": "string" },
            "address": { "$ref": "#/$defs/address" },
            "contactMethod": { "type": "string", "enum": ["phone", "email"] },
            "phone": { "type": "string" },
            "email": { "type": "string" },
        },
        "allOf": [{ "anyOf": [{ "required": ["phone"] }, { "required": ["email"] }] }],
        "if": { "properties": { "contactMethod": { "const": "phone" } }, "required": ["contactMethod"] },
        "then": { "required": ["phone"] },
        "else": { "required": ["email"] },
        "additionalProperties": false,
    })
}
