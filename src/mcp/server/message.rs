//! JSON-RPC messages as the server reads and writes them.
//!
//! Ids and progress tokens are kept as JSON values, because `1` and `"1"` are different ids.

use serde_json::{Map, Value};

use crate::{
    json::json,
    mcp::incoming::{INVALID_PARAMS, INVALID_REQUEST, PARSE_ERROR},
};

/// What a client sent.
#[derive(Debug, PartialEq)]
pub(super) enum Incoming {
    Request {
        id: Value,
        method: String,
        params: Map<String, Value>,
    },
    Notification {
        method: String,
        params: Map<String, Value>,
    },
    /// An answer. This server asks nothing, so it belongs to nobody.
    Response,
}

/// Why a request is refused, as JSON-RPC says it.
#[derive(Debug, PartialEq)]
pub(super) struct RpcError {
    pub(super) code: i64,
    pub(super) message: String,
    pub(super) data: Option<Value>,
}

impl RpcError {
    pub(super) fn new(code: i64, message: impl Into<String>) -> RpcError {
        RpcError { code, message: message.into(), data: None }
    }

    /// The message to send. Without a usable id the field is left out: no revision allows `null`.
    pub(super) fn to_message(&self, id: Option<&Value>) -> Value {
        let mut error = json!({"code": self.code, "message": self.message});
        if let Some(data) = &self.data {
            error["data"] = data.clone();
        }
        match id {
            Some(id) => json!({"jsonrpc": "2.0", "id": id, "error": error}),
            None => json!({"jsonrpc": "2.0", "error": error}),
        }
    }
}

/// The message that answers request `id` with `result`.
pub(super) fn response(id: &Value, result: Map<String, Value>) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": result})
}

/// Whether `value` may be a request id or a progress token: a string or an integer.
pub(super) fn is_id(value: &Value) -> bool {
    value.is_string() || value.is_i64() || value.is_u64()
}

/// Reads one message. An `Err` is the message to answer with, to its id if it has a usable one.
pub(super) fn parse(line: &[u8]) -> Result<Incoming, Value> {
    let message = serde_json::from_slice(line).map_err(|cause| {
        RpcError::new(PARSE_ERROR, format!("the message is not valid JSON: {cause}")).to_message(None)
    })?;
    let mut message = match message {
        Value::Object(message) => message,
        Value::Array(_) => return Err(invalid(None, "batches are not supported: send one message a line")),
        _ => return Err(invalid(None, "a message is a JSON object")),
    };

    let id = message.remove("id");
    let has_bad_id = id.as_ref().is_some_and(|it| !is_id(it));
    if has_bad_id {
        return Err(invalid(None, "`id` must be a string or an integer"));
    }
    let is_json_rpc = message.get("jsonrpc").is_some_and(|it| it == "2.0");
    if !is_json_rpc {
        return Err(invalid(id.as_ref(), "`jsonrpc` must be \"2.0\""));
    }
    let method = match message.remove("method") {
        Some(Value::String(method)) => method,
        None if message.contains_key("result") || message.contains_key("error") => return Ok(Incoming::Response),
        _ => return Err(invalid(id.as_ref(), "`method` must be a string")),
    };
    let params = match message.remove("params") {
        Some(Value::Object(params)) => params,
        // A notification is never answered, not even to say that it is wrong.
        Some(_) if id.is_none() => Map::new(),
        None => Map::new(),
        Some(_) => {
            return Err(RpcError::new(INVALID_PARAMS, "`params` must be an object").to_message(id.as_ref()));
        }
    };
    Ok(match id {
        Some(id) => Incoming::Request { id, method, params },
        None => Incoming::Notification { method, params },
    })
}

fn invalid(id: Option<&Value>, message: &str) -> Value {
    RpcError::new(INVALID_REQUEST, message).to_message(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_refused(line: &str, id: Option<Value>, code: i64) {
        let answer = parse(line.as_bytes()).expect_err(line);
        assert_eq!((answer.get("id"), &answer["error"]["code"]), (id.as_ref(), &json!(code)), "{line}: {answer}");
    }

    #[test]
    fn what_is_not_a_message_is_refused_with_its_id_if_it_has_one() {
        check_refused("{", None, PARSE_ERROR);
        check_refused("", None, PARSE_ERROR);
        check_refused("\u{0}", None, PARSE_ERROR);
        check_refused(r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, None, INVALID_REQUEST);
        check_refused("7", None, INVALID_REQUEST);
        check_refused(r#"{"id":1,"method":"ping"}"#, Some(json!(1)), INVALID_REQUEST);
        check_refused(r#"{"jsonrpc":"1.0","id":"a","method":"ping"}"#, Some(json!("a")), INVALID_REQUEST);
        check_refused(r#"{"jsonrpc":"2.0","id":1}"#, Some(json!(1)), INVALID_REQUEST);
        check_refused(r#"{"jsonrpc":"2.0","id":1,"method":2}"#, Some(json!(1)), INVALID_REQUEST);
        check_refused(r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}"#, Some(json!(1)), INVALID_PARAMS);
        for id in ["null", "1.5", "[]", "{}", "true"] {
            check_refused(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#), None, INVALID_REQUEST);
        }
    }

    #[test]
    fn every_prefix_of_a_message_is_refused_and_none_panics() {
        let line = r#"{"jsonrpc":"2.0","id":"é","method":"tools/call","params":{"name":"x","arguments":{"a":[1,2]}}}"#;
        for end in 0..line.len() {
            assert!(parse(&line.as_bytes()[..end]).is_err(), "{end}");
        }
        assert!(parse(line.as_bytes()).is_ok());
    }

    #[test]
    fn an_answer_is_told_from_a_request() {
        assert_eq!(parse(br#"{"jsonrpc":"2.0","id":1,"result":{}}"#), Ok(Incoming::Response));
        assert_eq!(parse(br#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":""}}"#), Ok(Incoming::Response));
    }
}
