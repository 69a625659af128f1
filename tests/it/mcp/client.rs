//! Clients of `/mcp` that hide nothing: a session of the legacy era, and one that speaks MCP 2026-07-28.

use std::cell::Cell;

use serde_json::{Map, Value, json};

use super::stream::{Posted, Stream};
use crate::support::{Gateway, KEY, Reply};

/// The newest revision with sessions.
pub(crate) const NEWEST: &str = "2025-11-25";

/// The revision without.
pub(crate) const MODERN: &str = "2026-07-28";

pub(crate) const BOTH_TYPES: &str = "application/json, text/event-stream";

pub(crate) type Headers<'h> = Vec<(&'h str, &'h str)>;

/// `headers` with some replaced, added, or, where the value is `None`, taken away.
pub(crate) fn changed<'h>(headers: &[(&'h str, &'h str)], changes: &[(&'h str, Option<&'h str>)]) -> Headers<'h> {
    let is_kept = |name: &str| changes.iter().all(|(changed, _)| !changed.eq_ignore_ascii_case(name));
    let kept = headers.iter().filter(|(name, _)| is_kept(name)).copied();
    let added = changes.iter().filter_map(|(name, value)| Some((*name, (*value)?)));
    kept.chain(added).collect()
}

/// The headers of a request outside of any session.
pub(crate) const PLAIN: [(&str, &str); 3] =
    [("X-API-Key", KEY), ("Content-Type", "application/json"), ("Accept", BOTH_TYPES)];

/// A JSON-RPC error with this status, code and id; `None`: without an id, which is then not even null.
#[track_caller]
pub(crate) fn check_error(reply: &Reply, status: u16, code: i64, id: Option<Value>) {
    let expected = format!("{status} and the JSON-RPC error {code} with the id {id:?}");
    reply.expect(reply.status == status, &expected).expect_header("Content-Type", "application/json");
    let body = reply.json();
    let is_error = body["jsonrpc"] == "2.0" && body["error"]["code"] == code && body.get("result").is_none();
    reply.expect(is_error && body.get("id") == id.as_ref(), &expected);
    reply.expect(body["error"]["message"].as_str().is_some_and(|it| !it.is_empty()), "a message");
}

/// A request as JSON.
pub(crate) fn request(id: impl Into<Value>, method: &str, params: &Value) -> String {
    json!({"jsonrpc": "2.0", "id": id.into(), "method": method, "params": params}).to_string()
}

/// The parameters of a call; with a progress token, if there is one.
pub(crate) fn calling(tool: &str, arguments: Value, token: Option<Value>) -> Value {
    let mut params = json!({"name": tool, "arguments": arguments});
    if let Some(token) = token {
        params["_meta"] = json!({"progressToken": token});
    }
    params
}

/// How a session is to begin.
pub(crate) struct Opening {
    endpoint: String,
    key: String,
    revision: String,
    capabilities: Value,
}

impl Opening {
    /// At `/mcp`, with the newest revision, and a client that can be asked nothing.
    pub(crate) fn new() -> Opening {
        Opening {
            endpoint: "/mcp".to_owned(),
            key: KEY.to_owned(),
            revision: NEWEST.to_owned(),
            capabilities: json!({}),
        }
    }

    pub(crate) fn at(mut self, endpoint: &str) -> Opening {
        self.endpoint = endpoint.to_owned();
        self
    }

    pub(crate) fn key(mut self, key: &str) -> Opening {
        self.key = key.to_owned();
        self
    }

    pub(crate) fn revision(mut self, revision: &str) -> Opening {
        self.revision = revision.to_owned();
        self
    }

    pub(crate) fn able_to(mut self, capabilities: Value) -> Opening {
        self.capabilities = capabilities;
        self
    }

    pub(crate) fn params(&self) -> Value {
        json!({
            "protocolVersion": self.revision,
            "capabilities": self.capabilities,
            "clientInfo": {"name": "test-client", "version": "0.1"},
        })
    }

    /// Sends `initialize` and gives what came back.
    #[track_caller]
    pub(crate) fn try_open(&self, gateway: &Gateway) -> Reply {
        let headers = changed(&PLAIN, &[("X-API-Key", Some(&self.key))]);
        Posted::send(gateway, "POST", &self.endpoint, &headers, &request(0, "initialize", &self.params())).reply()
    }

    /// Begins the session: `initialize`, and `notifications/initialized`.
    #[track_caller]
    pub(crate) fn open(self, gateway: &Gateway) -> Session<'_> {
        let reply = self.try_open(gateway);
        reply.expect_status(200).expect_header("Content-Type", "application/json");
        let Some(id) = reply.header("Mcp-Session-Id").map(str::to_owned) else { reply.fail("an Mcp-Session-Id") };
        let mut answer = reply.json();
        reply.expect(answer["id"] == 0 && answer["result"].is_object(), "the result of `initialize`");
        let Opening { endpoint, key, revision, .. } = self;
        let result = answer["result"].take();
        let session = Session { gateway, endpoint, key, revision, id, result, next_id: Cell::new(1000) };
        session.notify("notifications/initialized", json!({}));
        session
    }
}

/// A session of the legacy era. Ids the test does not care for count up from 1000.
pub(crate) struct Session<'a> {
    pub(crate) gateway: &'a Gateway,
    pub(crate) id: String,
    /// What `initialize` was answered.
    pub(crate) result: Value,
    endpoint: String,
    key: String,
    revision: String,
    next_id: Cell<i64>,
}

impl<'a> Session<'a> {
    #[track_caller]
    pub(crate) fn open(gateway: &'a Gateway) -> Session<'a> {
        Opening::new().open(gateway)
    }

    /// One whose client can be asked everything.
    #[track_caller]
    pub(crate) fn able(gateway: &'a Gateway) -> Session<'a> {
        Opening::new().able_to(json!({"sampling": {}, "elicitation": {}, "roots": {"listChanged": true}})).open(gateway)
    }

    pub(crate) fn headers(&self) -> Headers<'_> {
        let own = [("X-API-Key", Some(&*self.key)), ("Mcp-Session-Id", Some(&*self.id))];
        changed(&changed(&PLAIN, &own), &[("MCP-Protocol-Version", Some(&self.revision))])
    }

    /// Posts this body, whatever it is.
    #[track_caller]
    pub(crate) fn post(&self, body: &str) -> Posted<'a> {
        Posted::send(self.gateway, "POST", &self.endpoint, &self.headers(), body)
    }

    #[track_caller]
    pub(crate) fn send(&self, id: impl Into<Value>, method: &str, params: Value) -> Posted<'a> {
        self.post(&request(id, method, &params))
    }

    /// Calls a tool without wanting to hear of its progress.
    #[track_caller]
    pub(crate) fn call(&self, id: impl Into<Value>, tool: &str, arguments: Value) -> Posted<'a> {
        self.send(id, "tools/call", calling(tool, arguments, None))
    }

    /// Calls a tool whose progress is told with `token`.
    #[track_caller]
    pub(crate) fn follow(
        &self,
        id: impl Into<Value>,
        token: impl Into<Value>,
        tool: &str,
        arguments: Value,
    ) -> Posted<'a> {
        self.send(id, "tools/call", calling(tool, arguments, Some(token.into())))
    }

    /// The result of a request, with an id of the session's own.
    #[track_caller]
    pub(crate) fn result(&self, method: &str, params: Value) -> Value {
        self.send(self.take_id(), method, params).result()
    }

    /// The response to a request, whatever it says.
    #[track_caller]
    pub(crate) fn response(&self, method: &str, params: Value) -> Value {
        self.send(self.take_id(), method, params).response()
    }

    /// The error of a request that fails.
    #[track_caller]
    pub(crate) fn error(&self, method: &str, params: Value) -> Value {
        self.send(self.take_id(), method, params).error()
    }

    /// The text a tool gives.
    #[track_caller]
    pub(crate) fn text(&self, tool: &str, arguments: Value) -> String {
        self.call(self.take_id(), tool, arguments).text()
    }

    fn take_id(&self) -> i64 {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        id
    }

    #[track_caller]
    pub(crate) fn notify(&self, method: &str, params: Value) {
        self.accepted(&json!({"jsonrpc": "2.0", "method": method, "params": params}));
    }

    /// Answers a question of the server.
    #[track_caller]
    pub(crate) fn respond(&self, question: &Value, result: Value) {
        self.accepted(&json!({"jsonrpc": "2.0", "id": question["id"], "result": result}));
    }

    /// Posts a notification or a response, which is accepted without a word.
    #[track_caller]
    pub(crate) fn accepted(&self, message: &Value) {
        let reply = self.post(&message.to_string()).reply();
        reply.expect_status(202).expect(reply.body.is_empty(), "an empty body");
    }

    #[track_caller]
    pub(crate) fn try_get(&self, last_event_id: Option<&str>) -> Posted<'a> {
        let headers = self.headers();
        let changes = [("Accept", Some("text/event-stream")), ("Content-Type", None), ("Last-Event-ID", last_event_id)];
        Posted::send(self.gateway, "GET", &self.endpoint, &changed(&headers, &changes), "")
    }

    /// Opens the standalone stream.
    #[track_caller]
    pub(crate) fn get(&self) -> Stream {
        self.try_get(None).stream()
    }

    /// Goes on behind this event.
    #[track_caller]
    pub(crate) fn resume(&self, last_event_id: &str) -> Stream {
        self.try_get(Some(last_event_id)).stream()
    }

    #[track_caller]
    pub(crate) fn delete(&self) -> Reply {
        Posted::send(self.gateway, "DELETE", &self.endpoint, &self.headers(), "").reply()
    }
}

/// A client that speaks MCP 2026-07-28. Ids the test does not care for are 1.
pub(crate) struct Modern<'a> {
    pub(crate) gateway: &'a Gateway,
    endpoint: String,
    key: String,
    meta: Map<String, Value>,
}

impl<'a> Modern<'a> {
    /// At `/mcp`, and able to be asked nothing.
    pub(crate) fn new(gateway: &'a Gateway) -> Modern<'a> {
        let meta = json!({
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": {},
            "io.modelcontextprotocol/clientInfo": {"name": "test-client", "version": "0.2"},
        });
        let meta = meta.as_object().cloned().unwrap_or_default();
        Modern { gateway, endpoint: "/mcp".to_owned(), key: KEY.to_owned(), meta }
    }

    pub(crate) fn at(mut self, endpoint: &str) -> Modern<'a> {
        self.endpoint = endpoint.to_owned();
        self
    }

    pub(crate) fn key(mut self, key: &str) -> Modern<'a> {
        self.key = key.to_owned();
        self
    }

    pub(crate) fn able_to(self, capabilities: Value) -> Modern<'a> {
        self.with_meta("io.modelcontextprotocol/clientCapabilities", capabilities)
    }

    /// With a field more, or another one, in the `_meta` of each request.
    pub(crate) fn with_meta(mut self, key: &str, value: Value) -> Modern<'a> {
        self.meta.insert(key.to_owned(), value);
        self
    }

    /// Parameters with the `_meta` of a modern request; what `params` say there comes first.
    pub(crate) fn params(&self, mut params: Value) -> Value {
        let mut meta = self.meta.clone();
        meta.extend(params["_meta"].as_object().cloned().unwrap_or_default());
        params["_meta"] = Value::Object(meta);
        params
    }

    /// The headers of a request with these parameters.
    pub(crate) fn headers<'h>(&'h self, method: &'h str, params: &'h Value) -> Headers<'h> {
        let name = match method {
            "tools/call" | "prompts/get" => params["name"].as_str(),
            "resources/read" => params["uri"].as_str(),
            _ => None,
        };
        let own = [
            ("X-API-Key", Some(&*self.key)),
            ("MCP-Protocol-Version", Some(MODERN)),
            ("Mcp-Method", Some(method)),
            ("Mcp-Name", name),
        ];
        changed(&PLAIN, &own)
    }

    #[track_caller]
    pub(crate) fn post(&self, headers: &[(&str, &str)], body: &str) -> Posted<'a> {
        Posted::send(self.gateway, "POST", &self.endpoint, headers, body)
    }

    #[track_caller]
    pub(crate) fn send(&self, id: impl Into<Value>, method: &str, params: Value) -> Posted<'a> {
        self.send_with(&[], id, method, params)
    }

    /// With some headers replaced, added, or taken away.
    #[track_caller]
    pub(crate) fn send_with(
        &self,
        changes: &[(&str, Option<&str>)],
        id: impl Into<Value>,
        method: &str,
        params: Value,
    ) -> Posted<'a> {
        let params = self.params(params);
        let headers = self.headers(method, &params);
        self.post(&changed(&headers, changes), &request(id, method, &params))
    }

    #[track_caller]
    pub(crate) fn call(&self, id: impl Into<Value>, tool: &str, arguments: Value) -> Posted<'a> {
        self.send(id, "tools/call", calling(tool, arguments, None))
    }

    #[track_caller]
    pub(crate) fn follow(
        &self,
        id: impl Into<Value>,
        token: impl Into<Value>,
        tool: &str,
        arguments: Value,
    ) -> Posted<'a> {
        self.send(id, "tools/call", calling(tool, arguments, Some(token.into())))
    }

    #[track_caller]
    pub(crate) fn result(&self, method: &str, params: Value) -> Value {
        self.send(1, method, params).result()
    }

    #[track_caller]
    pub(crate) fn text(&self, tool: &str, arguments: Value) -> String {
        self.call(1, tool, arguments).text()
    }

    /// Begins to listen; gives the stream behind its acknowledgement, and what is honoured.
    #[track_caller]
    pub(crate) fn listen(&self, id: impl Into<Value>, filter: Value) -> (Stream, Value) {
        let id = id.into();
        let mut stream = self.send(id.clone(), "subscriptions/listen", json!({"notifications": filter})).stream();
        let mut acknowledged = stream.expect("notifications/subscriptions/acknowledged");
        check_tag(&stream, &acknowledged, &id);
        (stream, acknowledged["params"]["notifications"].take())
    }
}

/// The message belongs to the subscription `id`, which has its type.
#[track_caller]
pub(crate) fn check_tag(stream: &Stream, message: &Value, id: &Value) {
    let tag = &message["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"];
    if tag != id {
        stream.fail(&format!("the subscription {id}"), &message.to_string());
    }
}
