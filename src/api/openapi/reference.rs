//! `docs/api.md`, made from what the gateway says of itself: the map of routes, what each endpoint takes and gives, the failures,
//! and the events of running calls. A test compares the file with this; `MCPGATE_WRITE_CONF=1 cargo test --lib` writes it anew.

use std::{collections::BTreeSet, env, fmt::Write as _, fs, path::Path};

use serde_json::{Map, Value};
use tiny_http::Method;

use super::describe;
use crate::{
    api::routes::{ENDPOINTS, Endpoint},
    error::ANSWERS,
};

const PATH: &str = "docs/api.md";

const HEAD: &str = "\
# API reference

Made from the tables that the gateway itself works with, the same as `/openapi.json`; do not edit. First steps: [quick start](quick-start.md). Events in
detail: [docs/streaming.md](streaming.md). `/mcp` and `/sse` in detail: [docs/mcp.md](mcp.md).

- A key goes in `X-API-Key: KEY`, `Authorization: Bearer KEY` or, for what can send no headers, `?api_key=KEY`.
- Every answer has `X-Request-Id`: the client's own, if it sent a sane one.
- `{name}` is percent-encoded. With several servers a tool or prompt is called `{server}__{name}`.
- What is marked *each server* exists below `/servers/{server}` too, for that server alone, which keeps its names.
- `HEAD` is answered wherever `GET` is, but on streams; `OPTIONS` says in `Allow` what a path takes.
";

const EVENTS_HEAD: &str = "
## Events

What a running call tells its client. On `/tools/{name}/stream` each is an `event:` and a `data:` line; on a WebSocket a JSON object with `event`, the `id` of the call, and the
fields beside them. What a client sends there, and the codes that close a socket: [docs/streaming.md](streaming.md#messages-of-the-websocket).

| event | event stream | WebSocket | fields | |
| --- | --- | --- | --- | --- |
";

/// One kind of event.
struct Told {
    name: &'static str,
    by_stream: bool,
    by_socket: bool,
    fields: &'static str,
    when: &'static str,
}

const STREAM: (bool, bool) = (true, false);
const SOCKET: (bool, bool) = (false, true);
const BOTH: (bool, bool) = (true, true);

/// All events, in the order in which they come.
const TOLD: &[Told] = &[
    told("started", SOCKET, "`tool`", "The call was accepted; first."),
    told("progress", BOTH, "`progress`; `total` and `message` where the server gives them", "Any number."),
    told("chunk", BOTH, "`index`, `data`", "A part of the result; any number."),
    told("log", BOTH, "`level`, `data`; `logger` where the server gives it", "Any number."),
    told(
        "input_required",
        SOCKET,
        "`input_id`, `method`, `params`",
        "The server asks the client something, and waits.",
    ),
    told("result", STREAM, "those of `Success`", "The call succeeded; once."),
    told("complete", SOCKET, "those of `Success`, without `status`", "The call succeeded; last."),
    told(
        "error",
        BOTH,
        "those of `Error`; on a WebSocket without `status` and `request_id`",
        "The call failed; once, and on a WebSocket last. There it also answers a message that was wrong.",
    ),
    told("cancelled", SOCKET, "none", "The call was cancelled; last."),
    told(
        "done",
        STREAM,
        "`status`: `complete` or `error`; `cancelled` when the gateway stops",
        "The stream is over; last.",
    ),
];

const fn told(
    name: &'static str,
    (by_stream, by_socket): (bool, bool),
    fields: &'static str,
    when: &'static str,
) -> Told {
    Told { name, by_stream, by_socket, fields, when }
}

#[test]
fn the_reference_says_what_the_tables_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PATH);
    let from_tables = reference();
    if env::var_os("MCPGATE_WRITE_CONF").is_some() {
        fs::write(&path, &from_tables).unwrap();
    }
    let on_disk = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(on_disk, from_tables, "run the tests once with MCPGATE_WRITE_CONF=1 to write {PATH} anew");
}

#[test]
fn the_reference_names_the_events_that_are_sent() {
    let calls = include_str!("../calls.rs");
    let common = names(calls, r#"Some((""#);
    let stream = names(include_str!("../stream.rs"), r#"push_frame(&mut self.batch, ""#);
    let socket =
        [include_str!("../ws/conversation.rs"), include_str!("../ws/wording.rs"), include_str!("../ws/relay.rs")];
    let starts = [
        r#"self.send(""#,
        r#"event_text(""#,
        r#"object_text(""#,
        r#"beginning(""#,
        r#"{{"event":""#,
        "self.send(\n                        \"",
    ];
    let socket: BTreeSet<&str> =
        starts.iter().flat_map(|start| socket.into_iter().flat_map(|it| names(it, start))).collect();
    let listed =
        |is_by: fn(&Told) -> bool| TOLD.iter().filter(|it| is_by(it)).map(|it| it.name).collect::<BTreeSet<_>>();
    assert_eq!(common, BTreeSet::from(["progress", "chunk", "log"]));
    assert_eq!(listed(|it| it.by_stream), &stream | &common);
    assert_eq!(listed(|it| it.by_socket), &socket | &common);
}

/// The words that follow `start` in a source, up to a quotation mark.
fn names<'s>(source: &'s str, start: &str) -> BTreeSet<&'s str> {
    let words = source.split(start).skip(1).filter_map(|rest| rest.split('"').next());
    words.filter(|word| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')).collect()
}

/// The whole file.
fn reference() -> String {
    let document = Value::Object(describe::document(None, true, &[]));
    let mut text = HEAD.to_owned();
    text.push_str("\n| path | methods | key | each server | |\n| --- | --- | --- | --- | --- |\n");
    for endpoint in ENDPOINTS {
        let Endpoint { path, about, .. } = endpoint;
        let methods: Vec<String> = methods(endpoint).iter().map(Method::to_string).collect();
        let key = if endpoint.is_open { "no" } else { "yes" };
        let scoped = if endpoint.is_scoped { "yes" } else { "" };
        let shown = match anchor(path) {
            none if none.is_empty() => format!("`{path}`"),
            anchor => format!("[`{path}`](#{anchor})"),
        };
        put(&mut text, format_args!("| {shown} | {} | {key} | {scoped} | {about} |\n", methods.join(", ")));
    }
    let common = statuses_of(&document["paths"]["/stats"]["get"]);
    let common: BTreeSet<&str> = common.into_iter().filter(|status| *status != "401").collect();
    put(
        &mut text,
        format_args!(
            "\nAny request may be answered with {}, and one that needs a key with 401: [failures](#failures).\n",
            listed(&common)
        ),
    );
    for endpoint in ENDPOINTS {
        put_endpoint(&mut text, endpoint, &document, &common);
    }
    put_schemas(&mut text, &document["components"]["schemas"]);
    text.push_str("\n## Failures\n\nEvery failure is an [Error](#body-error). Its `code` does not change between versions.\n\n| code | status | when |\n| --- | --- | --- |\n");
    for (code, status, when) in ANSWERS {
        put(&mut text, format_args!("| `{code}` | {status} | {} |\n", sentence(when)));
    }
    text.push_str(EVENTS_HEAD);
    for Told { name, by_stream, by_socket, fields, when } in TOLD {
        let mark = |is: &bool| if *is { "yes" } else { "" };
        put(&mut text, format_args!("| `{name}` | {} | {} | {fields} | {when} |\n", mark(by_stream), mark(by_socket)));
    }
    text
}

/// What a status says that is in the failures of every endpoint is said once.
fn put_endpoint(text: &mut String, endpoint: &Endpoint, document: &Value, common: &BTreeSet<&str>) {
    let Endpoint { path, about, .. } = endpoint;
    put(text, format_args!("\n### `{path}`\n\n{about}\n"));
    for method in methods(endpoint) {
        let operation = &document["paths"][*path][method.as_str().to_lowercase()];
        put(text, format_args!("\n**{}**\n\n", method.as_str()));
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let (name, place) = (word(&parameter["name"]), word(&parameter["in"]));
            let schema = if parameter["schema"].is_null() {
                &parameter["content"]["application/json"]["schema"]
            } else {
                &parameter["schema"]
            };
            let needed = if parameter["required"] == true { ", needed" } else { "" };
            let about = about_of(&[&parameter["description"], &schema["description"]]);
            put(text, format_args!("- `{name}` ({place}, {}{needed}){about}\n", kind(schema)));
        }
        if let Some(content) = operation["requestBody"]["content"].as_object() {
            let needed = if operation["requestBody"]["required"] == true { ", needed" } else { "" };
            let about = about_of(&[&operation["requestBody"]["description"]]);
            put(text, format_args!("- Body ({}{needed}){about}\n", contents(content)));
        }
        for (statuses, what) in answers(operation) {
            put(text, format_args!("- Answer {}{what}\n", statuses.join(", ")));
        }
        let more: BTreeSet<&str> =
            statuses_of(operation).into_iter().filter(|it| !common.contains(it) && *it != "401").collect();
        if !more.is_empty() {
            put(text, format_args!("- Failures beside those of any request: {}\n", listed(&more)));
        }
    }
}

/// The answers that are its own: those that say the same are said once.
fn answers(operation: &Value) -> Vec<(Vec<&str>, String)> {
    let mut all: Vec<(Vec<&str>, String)> = Vec::new();
    for (status, response) in operation["responses"].as_object().into_iter().flatten() {
        if response["$ref"].is_string() {
            continue;
        }
        let content = response["content"].as_object().map_or(String::new(), |it| format!(" ({})", contents(it)));
        let what = format!("{content}{}", about_of(&[&response["description"]]));
        match all.last_mut().filter(|(_, before)| *before == what) {
            Some((statuses, _)) => statuses.push(status),
            None => all.push((vec![status], what)),
        }
    }
    all
}

fn put_schemas(text: &mut String, schemas: &Value) {
    text.push_str("\n## Bodies\n");
    for (name, schema) in schemas.as_object().into_iter().flatten() {
        put(text, format_args!("\n### Body `{name}`\n\n| field | | |\n| --- | --- | --- |\n"));
        put_fields(text, "", schema);
    }
}

fn put_fields(text: &mut String, prefix: &str, schema: &Value) {
    let is_required = |name: &str| schema["required"].as_array().is_some_and(|all| all.iter().any(|it| it == name));
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let always = if is_required(name) { ", always" } else { "" };
        // Of an error's code the table of failures tells more.
        let kind = if name == "code" { "one of the [failures](#failures)".to_owned() } else { kind(field) };
        let about = field["description"].as_str().unwrap_or_default();
        put(text, format_args!("| `{prefix}{name}` | {kind}{always} | {about} |\n"));
        put_fields(text, &format!("{prefix}{name}."), field);
    }
}

/// The methods that have words of their own; HEAD and OPTIONS are what they are everywhere.
fn methods(endpoint: &Endpoint) -> Vec<Method> {
    let all = [Method::Get, Method::Post, Method::Delete].into_iter();
    all.filter(|method| endpoint.check_method(method, endpoint.path).is_ok()).collect()
}

/// The statuses that refer to failures.
fn statuses_of(operation: &Value) -> BTreeSet<&str> {
    let responses = operation["responses"].as_object().into_iter().flatten();
    responses.filter(|(_, response)| response["$ref"].is_string()).map(|(status, _)| status.as_str()).collect()
}

fn listed(statuses: &BTreeSet<&str>) -> String {
    statuses.iter().copied().collect::<Vec<_>>().join(", ")
}

/// Media types, each with what is in it.
fn contents(content: &Map<String, Value>) -> String {
    let one = |(media_type, it): (&String, &Value)| match it["schema"]["$ref"].as_str() {
        Some(reference) => format!("`{media_type}`: {}", of_reference(reference)),
        None => format!("`{media_type}`"),
    };
    content.iter().map(one).collect::<Vec<_>>().join(", or ")
}

fn of_reference(reference: &str) -> String {
    let name = reference.rsplit('/').next().unwrap_or_default();
    format!("[{name}](#body-{})", name.to_lowercase())
}

/// A schema in a few words.
fn kind(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        return of_reference(reference);
    }
    if let Some(value) = schema.get("const") {
        return format!("`{value}`");
    }
    if let Some(values) = schema["enum"].as_array() {
        return values.iter().map(|it| format!("`{it}`")).collect::<Vec<_>>().join(", ");
    }
    let mut words = schema["type"].as_str().unwrap_or("any JSON").to_owned();
    if let Some(bound) = schema["exclusiveMinimum"].as_f64() {
        put(&mut words, format_args!(" above {bound}"));
    }
    if let Some(bound) = schema["maximum"].as_f64() {
        put(&mut words, format_args!(", at most {bound}"));
    }
    if let Some(pattern) = schema["pattern"].as_str() {
        put(&mut words, format_args!(" like `{pattern}`"));
    }
    words
}

/// The first of these that says something.
fn about_of(descriptions: &[&Value]) -> String {
    descriptions.iter().find_map(|it| it.as_str()).map_or(String::new(), |about| format!(": {about}"))
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn sentence(words: &str) -> String {
    let mut letters = words.chars();
    letters.next().map_or(String::new(), |first| format!("{}{}.", first.to_uppercase(), letters.as_str()))
}

/// Where a heading of a path is, as hosts of Markdown name it.
fn anchor(path: &str) -> String {
    path.chars().filter(|it| it.is_alphanumeric() || *it == '_' || *it == '-').collect::<String>().to_lowercase()
}

fn put(text: &mut String, words: std::fmt::Arguments<'_>) {
    text.write_fmt(words).expect("a string takes text");
}
