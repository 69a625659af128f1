//! What each endpoint takes and gives, as the document says it: one entry for each surface of the map of routes.

use serde_json::{Map, Value};
use tiny_http::Method;

use super::schema::COMPONENTS;
use crate::{
    api::{
        calls::{PLAIN_ARGUMENTS, TIMEOUT_SECONDS_MAX},
        mcp::SESSION_PARAMETER,
        routes::Surface,
    },
    json::json,
};

/// Failures that a call of a tool may meet besides those of any request.
pub(super) const CALL_FAILURES: &[u16] = &[404, 422, 502, 504];

/// Failures of what is asked of a server, without being a call.
const READ_FAILURES: &[u16] = &[404, 502, 504];

/// Failures of what has a name in its path.
const NAME_FAILURES: &[u16] = &[404];

/// What most bodies are.
pub(super) const JSON: &str = "application/json";

const EVENTS: &str = "text/event-stream";

/// What is special about one operation.
#[derive(Default)]
pub(super) struct Details {
    pub(super) parameters: Vec<Value>,
    pub(super) body: Option<Value>,
    /// Its own answers, which stand for a failure of the same status.
    pub(super) answers: Vec<(&'static str, Value)>,
    pub(super) failures: &'static [u16],
}

impl Details {
    /// What the surface takes and gives by this method.
    pub(super) fn of(surface: Surface, method: &Method) -> Details {
        let is_post = *method == Method::Post;
        match surface {
            Surface::Info => {
                let mut info = object("Name, version, servers, totals, endpoints.");
                info.answers.push(("302", json!({ "description": "For browsers: the dashboard." })));
                info
            }
            Surface::Health | Surface::HealthReady => {
                let state = |about| answer(about, JSON, reference("Health"));
                let answers = vec![("200", state("Calls are served.")), ("503", state("No call is served."))];
                Details { answers, ..Details::default() }
            }
            Surface::HealthLive => object("The process answers."),
            Surface::Tools => object("`tools`, each as its server gave it plus `server`, and their `count`."),
            Surface::Tool | Surface::Prompt if !is_post => Details {
                parameters: vec![session()],
                failures: READ_FAILURES,
                ..object("As its server gave it, plus `server`.")
            },
            Surface::Tool => Details {
                parameters: vec![session()],
                body: Some(call_body()),
                answers: vec![("200", answer("The result.", JSON, reference("Success")))],
                failures: CALL_FAILURES,
            },
            Surface::Call => Details {
                body: Some(body("The arguments.", false, &[JSON], &object_schema())),
                answers: vec![("200", answer("The result.", JSON, json!({})))],
                failures: CALL_FAILURES,
                ..Details::default()
            },
            Surface::Stream => {
                let json_in_query = |name, schema: Value| json!({ "name": name, "in": "query", "content": { JSON: { "schema": schema } } });
                let in_query = [json_in_query("arguments", object_schema()), json_in_query("timeout", timeout())];
                let parameters = in_query.into_iter().filter(|_| !is_post).chain([session()]);
                Details {
                    parameters: parameters.collect(),
                    body: is_post.then(call_body),
                    answers: vec![(
                        "200",
                        answer("Events until the call has ended.", EVENTS, json!({ "type": "string" })),
                    )],
                    failures: CALL_FAILURES,
                }
            }
            Surface::Socket => Details {
                parameters: vec![session()],
                answers: vec![("101", json!({ "description": "A WebSocket from here on." }))],
                failures: &[404, 426],
                ..Details::default()
            },
            Surface::Resources | Surface::ResourceTemplates | Surface::Prompts => Details {
                parameters: vec![session()],
                failures: READ_FAILURES,
                ..object("The list, each entry as its server gave it plus `server`, and its `count`.")
            },
            Surface::ReadResource => Details {
                parameters: vec![
                    json!({ "name": "uri", "in": "query", "required": true, "schema": { "type": "string", "minLength": 1 } }),
                    session(),
                ],
                failures: READ_FAILURES,
                ..object("`data` and `contents` of the resource.")
            },
            Surface::Prompt => Details {
                parameters: vec![session()],
                body: Some(call_body()),
                failures: READ_FAILURES,
                ..object("`messages` of the prompt, and its `description`.")
            },
            Surface::Mcp => mcp(method),
            Surface::OldStream => Details {
                answers: vec![("200", answer("Events, without an end.", EVENTS, json!({ "type": "string" })))],
                ..Details::default()
            },
            Surface::OldMessages => Details {
                parameters: vec![json!({
                    "name": SESSION_PARAMETER, "in": "query", "required": true, "schema": { "type": "string", "minLength": 1 },
                })],
                body: Some(body("A JSON-RPC message.", true, &[JSON], &json!({}))),
                answers: vec![
                    ("202", json!({ "description": "Taken; the answer comes on the stream." })),
                    ("400", answer("No such message.", JSON, json!({}))),
                    ("404", answer("No such session.", JSON, json!({}))),
                    ("415", answer("Not JSON.", JSON, json!({}))),
                ],
                ..Details::default()
            },
            Surface::OpenApi => Details {
                answers: vec![
                    ("200", answer("This document.", JSON, object_schema())),
                    ("304", json!({ "description": "It is still as `If-None-Match` says." })),
                ],
                ..Details::default()
            },
            Surface::Docs => Details {
                answers: vec![("200", answer("The page.", "text/html", json!({ "type": "string" })))],
                ..Details::default()
            },
            Surface::Page | Surface::PageAsset => Details {
                answers: vec![
                    ("200", json!({ "description": "The page, or what it is made of." })),
                    ("304", json!({ "description": "It is still as `If-None-Match` says." })),
                    ("308", json!({ "description": "The page is one step up." })),
                ],
                failures: NAME_FAILURES,
                ..Details::default()
            },
            Surface::History => object("The last minutes and the last calls."),
            Surface::Stats => object("Figures since the gateway started."),
            Surface::Metrics => {
                let text = json!({ "schema": { "type": "string" } });
                let types = json!({ "text/plain": text, "application/openmetrics-text": text });
                let answers = vec![("200", json!({ "description": "The same for Prometheus.", "content": types }))];
                Details { answers, ..Details::default() }
            }
            Surface::RestartWorker | Surface::RestartServer => Details {
                answers: vec![("202", answer("It has begun.", JSON, object_schema()))],
                failures: NAME_FAILURES,
                ..Details::default()
            },
        }
    }
}

fn mcp(method: &Method) -> Details {
    let is_post = *method == Method::Post;
    let message = |about: &str| answer(about, JSON, json!({}));
    let events = json!({ "schema": { "type": "string" } });
    let told = json!({ "description": "The answer, or events with it.", "content": { JSON: {}, EVENTS: events } });
    let mut answers =
        vec![("200", told), ("202", json!({ "description": "Taken." })), ("204", json!({ "description": "Ended." }))];
    for status in ["400", "404", "405", "406", "409", "415", "503"] {
        answers.push((status, message("A JSON-RPC error.")));
    }
    let header = |name: &str| json!({ "name": name, "in": "header", "schema": { "type": "string" } });
    Details {
        parameters: vec![header("Mcp-Session-Id"), header("MCP-Protocol-Version")],
        body: is_post.then(|| body("A JSON-RPC message.", true, &[JSON], &json!({}))),
        answers,
        failures: &[],
    }
}

/// 200 with a JSON object.
fn object(about: &str) -> Details {
    Details { answers: vec![("200", answer(about, JSON, object_schema()))], ..Details::default() }
}

fn answer(about: &str, media_type: &str, schema: Value) -> Value {
    json!({ "description": about, "content": { media_type: { "schema": schema } } })
}

fn body(about: &str, is_required: bool, media_types: &[&str], schema: &Value) -> Value {
    let content: Map<String, Value> =
        media_types.iter().map(|it| ((*it).to_owned(), json!({ "schema": schema }))).collect();
    json!({ "description": about, "required": is_required, "content": content })
}

/// A call, or the plain arguments of one.
fn call_body() -> Value {
    let mut body = body("The call; or its arguments alone.", false, &[JSON], &reference("Call"));
    body["content"][PLAIN_ARGUMENTS] = json!({ "schema": object_schema() });
    body
}

fn session() -> Value {
    let schema = json!({ "type": "string", "pattern": "^[!-~]{1,128}$" });
    json!({ "name": "X-Session-Id", "in": "header", "description": "The session that it belongs to.", "schema": schema })
}

pub(super) fn object_schema() -> Value {
    json!({ "type": "object" })
}

/// The `timeout` of a call.
pub(super) fn timeout() -> Value {
    json!({
        "type": "number", "exclusiveMinimum": 0, "maximum": TIMEOUT_SECONDS_MAX,
        "description": "Seconds; shortens the gateway's own limit.",
    })
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("{COMPONENTS}{name}") })
}
