//! Resources, prompts, and the contents that several of them and of the tools give.

use serde_json::{Map, Value, json};

use crate::{
    request::{Era, Failure, Outcome, Request},
    rounds,
};

/// One transparent pixel.
pub(crate) const PNG: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==";

/// A head of 44 bytes, and no sound.
pub(crate) const WAV: &str = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAAAAA==";

/// The one resource that changes; see the tool `test_update_resource`.
pub(crate) const WATCHED: &str = "test://watched-resource";

const TEMPLATE: &str = "test://template/{id}/data";

/// Uri, name, description, and type of each resource that is listed.
const RESOURCES: [(&str, &str, &str, &str); 3] = [
    ("test://static-text", "static-text", "A text that never changes.", "text/plain"),
    ("test://static-binary", "static-binary", "An image that never changes.", "image/png"),
    (WATCHED, "watched-resource", "A text that may change, for subscribers.", "text/plain"),
];

pub(crate) fn text(text: impl Into<String>) -> Value {
    json!({ "type": "text", "text": text.into() })
}

pub(crate) fn image() -> Value {
    json!({ "type": "image", "data": PNG, "mimeType": "image/png" })
}

pub(crate) fn embedded(uri: &str, mime_type: &str, text: &str) -> Value {
    json!({ "type": "resource", "resource": { "uri": uri, "mimeType": mime_type, "text": text } })
}

pub(crate) fn resources() -> Vec<Value> {
    let entry = |(uri, name, description, mime_type)| json!({ "uri": uri, "name": name, "description": description, "mimeType": mime_type });
    RESOURCES.into_iter().map(entry).collect()
}

pub(crate) fn templates() -> Vec<Value> {
    vec![json!({
        "uriTemplate": TEMPLATE,
        "name": "template",
        "description": "What there is about an id.",
        "mimeType": "application/json",
    })]
}

pub(crate) fn exists(uri: &str) -> bool {
    contents(uri).is_some()
}

/// Fails as the era does for a uri that names nothing.
pub(crate) fn must_exist(era: Era, uri: &str) -> Result<(), Failure> {
    let code = match era {
        _ if exists(uri) => return Ok(()),
        Era::Legacy => -32002,
        Era::Modern => -32602,
    };
    Err(Failure::new(code, format!("there is no resource `{uri}`")).with_data(json!({ "uri": uri })))
}

pub(crate) fn read(request: &Request<'_>) -> Outcome {
    let uri = request.text("uri")?;
    must_exist(request.era, uri)?;
    Ok(json!({ "contents": [contents(uri)] }))
}

fn contents(uri: &str) -> Option<Value> {
    match uri {
        "test://static-text" => {
            let text = "This is the content of the static text resource.";
            Some(json!({ "uri": uri, "mimeType": "text/plain", "text": text }))
        }
        "test://static-binary" => Some(json!({ "uri": uri, "mimeType": "image/png", "blob": PNG })),
        WATCHED => Some(json!({ "uri": uri, "mimeType": "text/plain", "text": "This is watched." })),
        _ => {
            let (before, after) = TEMPLATE.split_once("{id}")?;
            let id = uri.strip_prefix(before)?.strip_suffix(after)?;
            let is_id = !id.is_empty() && !id.contains('/');
            let data = json!({ "id": id, "templateTest": true, "data": format!("Data for ID: {id}") });
            is_id.then(|| json!({ "uri": uri, "mimeType": "application/json", "text": data.to_string() }))
        }
    }
}

pub(crate) fn prompts(era: Era) -> Vec<Value> {
    let mut prompts = vec![
        listed("test_simple_prompt", "A prompt without arguments.", &[]),
        listed(
            "test_prompt_with_arguments",
            "A prompt that names its arguments.",
            &[("arg1", "The first."), ("arg2", "The second.")],
        ),
        listed(
            "test_prompt_with_embedded_resource",
            "A prompt with a resource in it.",
            &[("resourceUri", "Uri of the resource.")],
        ),
        listed("test_prompt_with_image", "A prompt with an image in it.", &[]),
    ];
    if era == Era::Modern {
        prompts.push(listed(rounds::PROMPT, "A prompt that asks for the context first.", &[]));
    }
    prompts
}

fn listed(name: &str, description: &str, arguments: &[(&str, &str)]) -> Value {
    let argument =
        |(name, description): &(&str, &str)| json!({ "name": name, "description": description, "required": true });
    let mut prompt = Map::from_iter([("name".to_owned(), json!(name)), ("description".to_owned(), json!(description))]);
    if !arguments.is_empty() {
        prompt.insert("arguments".to_owned(), arguments.iter().map(argument).collect());
    }
    Value::Object(prompt)
}

pub(crate) fn prompt(request: &Request<'_>) -> Outcome {
    let contents = match (request.text("name")?, request.era) {
        ("test_simple_prompt", _) => vec![text("This is a simple prompt for testing.")],
        ("test_prompt_with_arguments", _) => {
            let (first, second) = (request.argument("arg1")?, request.argument("arg2")?);
            vec![text(format!("Prompt with arguments: arg1='{first}', arg2='{second}'"))]
        }
        ("test_prompt_with_embedded_resource", _) => {
            let uri = request.argument("resourceUri")?;
            vec![
                embedded(uri, "text/plain", "Embedded resource content for testing."),
                text("Please process the embedded resource above."),
            ]
        }
        ("test_prompt_with_image", _) => vec![image(), text("Please analyze the image above.")],
        (rounds::PROMPT, Era::Modern) => return rounds::prompt(request),
        (name, _) => return Err(Failure::invalid_params(format!("there is no prompt `{name}`"))),
    };
    Ok(messages(contents))
}

/// The result of a prompt: each content is a message of the user.
pub(crate) fn messages(contents: Vec<Value>) -> Value {
    let message = |content| json!({ "role": "user", "content": content });
    json!({ "messages": contents.into_iter().map(message).collect::<Vec<Value>>() })
}
