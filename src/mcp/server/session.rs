//! One connection: which era it is in, and the answer to each request.
//!
//! The first request that is valid in an era picks it, and from then on the other era is refused: a legacy session
//! refuses modern requests with -32600, a modern one refuses `initialize` with -32022 and the revision to use. `ping`
//! is the exception: it needs no handshake, and without modern `_meta` it picks nothing.
//!
//! Everything is answered at once, on the thread that reads, except `tools/call`, which goes to [`Calls`].

use std::{io, sync::Arc};

use serde_json::{Map, Value};

use crate::{
    json::json,
    mcp::{
        incoming::{INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, UNSUPPORTED_VERSION},
        revision::{self, CLIENT_CAPABILITIES_KEY, MODERN, PROTOCOL_VERSION_KEY, SERVER_INFO_KEY},
    },
};

use super::{
    Server,
    calls::{Call, Calls},
    lines::{LINE_BYTES_MAX, Line},
    message::{Incoming, RpcError, is_id, parse, response},
    outbox::Outbox,
};

/// How long a client may keep what `server/discover` and `tools/list` said, in milliseconds. Tools do not change while a
/// server runs; a minute is how long a client may miss that another version was started.
const LIST_TTL_MS: u64 = 60_000;

type Params = Map<String, Value>;

/// The two wires MCP has had.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Era {
    Legacy,
    Modern,
}

impl Era {
    /// A result with the fields this era wants in every result.
    pub(super) fn complete(self, mut result: Map<String, Value>, server_info: &Value) -> Map<String, Value> {
        if self == Era::Modern {
            result.insert("resultType".to_owned(), json!("complete"));
            let meta = result.entry("_meta").or_insert_with(|| json!({}));
            meta[SERVER_INFO_KEY] = server_info.clone();
        }
        result
    }

    /// A complete result that a client may keep for a while. Nothing in it depends on who asks.
    fn complete_cacheable(self, mut result: Map<String, Value>, server_info: &Value) -> Map<String, Value> {
        if self == Era::Modern {
            result.insert("ttlMs".to_owned(), json!(LIST_TTL_MS));
            result.insert("cacheScope".to_owned(), json!("public"));
        }
        self.complete(result, server_info)
    }
}

/// What follows from a request.
enum Outcome {
    /// The result is known.
    Result(Map<String, Value>),
    /// A call was queued, and will answer by itself.
    Queued,
}

/// One connection.
pub(super) struct Session {
    server: Arc<Server>,
    outbox: Arc<Outbox>,
    calls: Calls,
    era: Option<Era>,
}

impl Session {
    pub(super) fn start(server: Arc<Server>, outbox: Arc<Outbox>) -> io::Result<Session> {
        let calls = Calls::start(&server, &outbox)?;
        Ok(Session { server, outbox, calls, era: None })
    }

    /// Takes one line from the client, and answers it if it is a request.
    pub(super) fn receive(&mut self, line: Line<'_>) {
        let text = match line {
            Line::Text(text) if text.trim_ascii().is_empty() => return,
            Line::Text(text) => text,
            Line::TooLong => {
                let message = format!("the message is longer than {LINE_BYTES_MAX} bytes");
                return self.outbox.send(&RpcError::new(INVALID_REQUEST, message).to_message(None));
            }
        };
        match parse(text) {
            Ok(Incoming::Request { id, method, params }) => match self.request(&id, &method, params) {
                Ok(Outcome::Result(result)) => self.outbox.send(&response(&id, result)),
                Ok(Outcome::Queued) => {}
                Err(error) => self.outbox.send(&error.to_message(Some(&id))),
            },
            Ok(Incoming::Notification { method, params }) => self.notification(&method, &params),
            Ok(Incoming::Response) => {}
            Err(answer) => self.outbox.send(&answer),
        }
    }

    fn notification(&self, method: &str, params: &Params) {
        // All others, `notifications/initialized` among them, change nothing here.
        if method == "notifications/cancelled"
            && let Some(id) = params.get("requestId")
        {
            self.calls.cancel(id);
        }
    }

    fn request(&mut self, id: &Value, method: &str, params: Params) -> Result<Outcome, RpcError> {
        let is_modern = meta(&params).is_some_and(|it| it.contains_key(PROTOCOL_VERSION_KEY));
        let is_modern = is_modern || method == "server/discover";
        match (self.era, is_modern) {
            (None | Some(Era::Modern), true) => {
                check_modern_meta(&params)?;
                self.era = Some(Era::Modern);
                self.modern(id, method, params)
            }
            (Some(Era::Modern), false) if method == "initialize" => {
                Err(unsupported_version(params.get("protocolVersion")))
            }
            (Some(Era::Modern), false) => {
                check_modern_meta(&params)?;
                self.modern(id, method, params)
            }
            (Some(Era::Legacy), true) => {
                let message = format!("this connection was opened with `initialize`; open another one to use {MODERN}");
                Err(RpcError::new(INVALID_REQUEST, message))
            }
            (None | Some(Era::Legacy), false) => self.legacy(id, method, params),
        }
    }

    fn legacy(&mut self, id: &Value, method: &str, params: Params) -> Result<Outcome, RpcError> {
        match method {
            "ping" => Ok(Outcome::Result(Map::new())),
            "initialize" if self.era.is_some() => {
                Err(RpcError::new(INVALID_REQUEST, "this connection is initialized already"))
            }
            "initialize" => {
                let Some(requested) = params.get("protocolVersion").and_then(Value::as_str) else {
                    return Err(RpcError::new(INVALID_PARAMS, "`protocolVersion` must be a string"));
                };
                self.era = Some(Era::Legacy);
                Ok(Outcome::Result(fields([
                    ("protocolVersion", json!(revision::negotiate(requested))),
                    ("capabilities", capabilities()),
                    ("serverInfo", self.server.info.clone()),
                    ("instructions", json!(self.server.instructions)),
                ])))
            }
            _ if self.era.is_none() => {
                let message = format!("`{method}` came before `initialize`; send that first");
                Err(RpcError::new(INVALID_REQUEST, message))
            }
            _ => self.tools(Era::Legacy, id, method, params),
        }
    }

    fn modern(&self, id: &Value, method: &str, params: Params) -> Result<Outcome, RpcError> {
        if method != "server/discover" {
            return self.tools(Era::Modern, id, method, params);
        }
        let result = fields([
            ("supportedVersions", json!([MODERN])),
            ("capabilities", capabilities()),
            ("instructions", json!(self.server.instructions)),
        ]);
        Ok(Outcome::Result(Era::Modern.complete_cacheable(result, &self.server.info)))
    }

    /// The methods both eras have.
    fn tools(&self, era: Era, id: &Value, method: &str, params: Params) -> Result<Outcome, RpcError> {
        match method {
            "tools/list" => {
                let has_cursor = params.get("cursor").is_some_and(|it| !it.is_null());
                if has_cursor {
                    return Err(RpcError::new(INVALID_PARAMS, "there is one page of tools: leave out `cursor`"));
                }
                let tools: Vec<_> = self.server.tools.iter().map(|it| &it.tool).collect();
                let result = fields([("tools", json!(tools))]);
                Ok(Outcome::Result(era.complete_cacheable(result, &self.server.info)))
            }
            "tools/call" => {
                let call = self.read_call(era, id, params)?;
                self.calls.submit(call)?;
                Ok(Outcome::Queued)
            }
            _ => Err(RpcError::new(METHOD_NOT_FOUND, format!("there is no method `{method}`"))),
        }
    }

    fn read_call(&self, era: Era, id: &Value, mut params: Params) -> Result<Call, RpcError> {
        let progress_token = meta(&params).and_then(|it| it.get("progressToken")).cloned();
        if progress_token.as_ref().is_some_and(|it| !is_id(it)) {
            return Err(RpcError::new(INVALID_PARAMS, "`_meta.progressToken` must be a string or an integer"));
        }
        let Some(name) = params.get("name").and_then(Value::as_str) else {
            return Err(RpcError::new(INVALID_PARAMS, "`name` must be a string: the name of a tool"));
        };
        let Some(tool_index) = self.server.tools.iter().position(|it| it.tool.name == name) else {
            let names: Vec<_> = self.server.tools.iter().map(|it| format!("`{}`", it.tool.name)).collect();
            let message = format!("there is no tool `{name}`; this server has {}", names.join(", "));
            return Err(RpcError::new(INVALID_PARAMS, message));
        };
        let arguments = match params.remove("arguments") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(arguments)) => arguments,
            Some(_) => return Err(RpcError::new(INVALID_PARAMS, "`arguments` must be an object")),
        };
        Ok(Call { id: id.clone(), era, tool_index, arguments, progress_token })
    }
}

/// Checks what a modern request must carry. `clientInfo` may be missing, and nothing depends on it.
fn check_modern_meta(params: &Params) -> Result<(), RpcError> {
    let meta = meta(params);
    let Some(version) = meta.and_then(|it| it.get(PROTOCOL_VERSION_KEY)).filter(|it| it.is_string()) else {
        return Err(RpcError::new(INVALID_PARAMS, format!("`_meta` must have the string `{PROTOCOL_VERSION_KEY}`")));
    };
    let has_capabilities = meta.and_then(|it| it.get(CLIENT_CAPABILITIES_KEY)).is_some_and(Value::is_object);
    if !has_capabilities {
        return Err(RpcError::new(INVALID_PARAMS, format!("`_meta` must have the object `{CLIENT_CAPABILITIES_KEY}`")));
    }
    if version != MODERN { Err(unsupported_version(Some(version))) } else { Ok(()) }
}

fn unsupported_version(requested: Option<&Value>) -> RpcError {
    let requested = requested.and_then(Value::as_str).unwrap_or_default();
    RpcError {
        code: UNSUPPORTED_VERSION,
        message: format!("protocol version `{requested}` is not supported here; use {MODERN}"),
        data: Some(json!({"supported": [MODERN], "requested": requested})),
    }
}

fn meta(params: &Params) -> Option<&Map<String, Value>> {
    params.get("_meta").and_then(Value::as_object)
}

fn capabilities() -> Value {
    json!({"tools": {}})
}

fn fields<const N: usize>(fields: [(&str, Value); N]) -> Map<String, Value> {
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
