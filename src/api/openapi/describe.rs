//! What the document says of the gateway itself: its endpoints, from the map of routes, and what all answers have in common.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use tiny_http::Method;

use super::endpoints::{Details, JSON, object_schema, timeout};
use crate::{
    api::routes::{ENDPOINTS, Endpoint, base_path},
    error::ANSWERS,
    json::json,
};

/// Failures that any request may meet.
const FAILURES: &[u16] = &[400, 403, 405, 408, 413, 429, 431, 500, 503];

const ABOUT: &str = "\
Puts MCP servers on the network. Each of their tools has an operation of its own, `POST /call/{name}`: its arguments are the body, \
its result is the answer. These operations are the only ones with an `operationId`, so that a program which offers operations \
to a model offers it the tools, and not the gateway's own endpoints.

`POST /tools/{name}` is the same call with more to say: limits in, and in the answer also the server's content blocks, the worker \
and the time. `/tools/{name}/stream` tells what happens meanwhile, as Server-Sent Events: any number of `progress`, `chunk` and \
`log`, then `result` or `error`, then `done`. `/ws` and `/ws/tools/{name}` do so over a WebSocket, several calls at a time. `/mcp` is \
for MCP clients.

Calls that belong together say so with the header `X-Session-Id`, which matters to servers that keep a worker for each session. \
Every answer has the header `X-Request-Id`, the client's own if it sent one. A client that goes away has its call cancelled.";

/// Everything but the tools. `servers` are those whose tools follow; `paths` and `components.schemas` are to be continued.
pub(super) fn document(scope: Option<&str>, needs_key: bool, servers: &[&str]) -> Map<String, Value> {
    let title = scope.map_or("mcpgate".to_owned(), |server| format!("mcpgate: {server}"));
    let tag = |(name, description): (&str, String)| json!({ "name": name, "description": description });
    let of_servers = servers.iter().map(|name| tag((name, format!("Tools of the server `{name}`."))));
    let own = [(GATEWAY, "The gateway's own endpoints, by the names of what they are about.".to_owned())];
    let tags: Vec<Value> = of_servers.chain(own.map(tag)).collect();
    let mut document = Map::new();
    let mut set = |key: &str, value: Value| document.insert(key.to_owned(), value);
    set("openapi", "3.1.0".into());
    set(
        "info",
        json!({
            "title": title, "version": env!("CARGO_PKG_VERSION"), "summary": "MCP servers over HTTP.",
            "description": ABOUT, "license": { "name": env!("CARGO_PKG_LICENSE"), "identifier": env!("CARGO_PKG_LICENSE") },
        }),
    );
    // Not relative to where the document is, which many readers take for relative to the root.
    if let Some(server) = scope {
        set("servers", json!([{ "url": base_path(server) }]));
    }
    if needs_key {
        set("security", json!([{ "header": [] }, { "bearer": [] }, { "query": [] }]));
    }
    set("tags", tags.into());
    set("paths", paths(scope, needs_key).into());
    set("components", components(needs_key));
    document
}

/// The references of an operation to its failures.
pub(super) fn failures(more: &[u16], needs_key: bool) -> Map<String, Value> {
    let keyed: &[u16] = if needs_key { &[401] } else { &[] };
    let statuses: BTreeSet<u16> = FAILURES.iter().chain(more).chain(keyed).copied().collect();
    let reference = |status: u16| json!({ "$ref": format!("#/components/responses/{}", response_name(status)) });
    statuses.into_iter().map(|status| (status.to_string(), reference(status))).collect()
}

const GATEWAY: &str = "gateway";

fn response_name(status: u16) -> String {
    format!("Status{status}")
}

fn paths(scope: Option<&str>, needs_key: bool) -> Map<String, Value> {
    let is_here = |endpoint: &&Endpoint| scope.is_none() || endpoint.is_scoped;
    let item = |endpoint: &Endpoint| {
        // HEAD and OPTIONS need no words: they are what they are everywhere.
        let methods = [Method::Get, Method::Post, Method::Delete].into_iter();
        let methods = methods.filter(|method| endpoint.check_method(method, endpoint.path).is_ok());
        let mut item: Map<String, Value> =
            methods.map(|method| (method.as_str().to_lowercase(), operation(endpoint, &method, needs_key))).collect();
        if endpoint.path.contains("{name}") {
            let schema = json!({ "type": "string", "minLength": 1 });
            item.insert(
                "parameters".to_owned(),
                json!([{ "name": "name", "in": "path", "required": true, "schema": schema }]),
            );
        }
        (endpoint.path.to_owned(), item.into())
    };
    ENDPOINTS.iter().filter(is_here).map(item).collect()
}

fn operation(endpoint: &Endpoint, method: &Method, needs_key: bool) -> Value {
    let details = Details::of(endpoint.surface, method);
    let needs_key = needs_key && !endpoint.is_open;
    let mut operation = json!({ "summary": endpoint.about, "tags": [GATEWAY] });
    if !details.parameters.is_empty() {
        operation["parameters"] = details.parameters.into();
    }
    if let Some(body) = details.body {
        operation["requestBody"] = body;
    }
    let mut responses = failures(details.failures, needs_key);
    for (status, response) in details.answers.into_iter().rev() {
        responses.shift_insert(0, status.to_owned(), response);
    }
    operation["responses"] = responses.into();
    if endpoint.is_open {
        operation["security"] = json!([]);
    }
    operation
}

fn components(needs_key: bool) -> Value {
    let statuses: BTreeSet<u16> = ANSWERS.iter().map(|(_, status, _)| *status).collect();
    let response = |status: u16| {
        let cases = ANSWERS.iter().filter(|(_, it, _)| *it == status);
        let cases: Vec<String> = cases.map(|(code, _, when)| format!("`{code}`: {when}.")).collect();
        let content = json!({ JSON: { "schema": { "$ref": "#/components/schemas/Error" } } });
        (response_name(status), json!({ "description": cases.join("\n\n"), "content": content }))
    };
    let responses: Map<String, Value> = statuses.into_iter().map(response).collect();
    let mut components = json!({ "responses": responses });
    if needs_key {
        components["securitySchemes"] = json!({
            "header": { "type": "apiKey", "in": "header", "name": "X-API-Key" },
            "bearer": { "type": "http", "scheme": "bearer" },
            "query": {
                "type": "apiKey", "in": "query", "name": "api_key",
                "description": "For what can send no headers: EventSource, and WebSockets of browsers.",
            },
        });
    }
    // The last one, so that the schemas of the tools can follow.
    components["schemas"] = schemas();
    components
}

fn schemas() -> Value {
    let codes: Vec<&str> = ANSWERS.iter().map(|(code, _, _)| *code).collect();
    let text = || json!({ "type": "string" });
    let error = json!({
        "type": "object",
        "properties": {
            "code": { "type": "string", "enum": codes },
            "message": text(),
            "hint": { "type": "string", "description": "What to do about it." },
            "retry_after": { "type": "integer", "description": "Seconds, as in `Retry-After`." },
            "rpc_code": { "type": "integer", "description": "The code of the server's JSON-RPC error." },
            "data": { "description": "The data of the server's JSON-RPC error." },
            "stderr": { "type": "array", "items": text(), "description": "The last lines of the process that failed." },
        },
        "required": ["code", "message"],
    });
    json!({
        "Error": {
            "type": "object",
            "properties": {
                "status": { "const": "error" },
                "error": error,
                "content": { "type": "array", "items": {}, "description": "What the tool says, for `tool_error`." },
                "request_id": text(),
            },
            "required": ["status", "error"],
        },
        "Call": {
            "type": "object",
            "properties": { "arguments": object_schema(), "timeout": timeout() },
            "additionalProperties": false,
        },
        "Success": {
            "type": "object",
            "properties": {
                "status": { "const": "success" },
                "data": { "description": "The one value that the result comes down to." },
                "content": { "type": "array", "items": {}, "description": "The server's content blocks." },
                "tool": text(),
                "worker": text(),
                "duration_ms": { "type": "number" },
                "request_id": text(),
            },
            "required": ["status", "data", "content", "tool", "worker", "duration_ms", "request_id"],
        },
        "Health": {
            "type": "object",
            "properties": {
                "status": { "type": "string", "enum": ["healthy", "degraded", "starting", "unhealthy"] },
                "workers": object_schema(),
                "servers": object_schema(),
            },
            "required": ["status"],
        },
    })
}
