//! What a client of ours sends: JSON-RPC messages, one or several, with ids, parameters and results as they were sent.
//!
//! Source of the shapes: `schema.json` of MCP 2025-03-26 (which has batches) to 2026-07-28.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::raw;

/// JSON-RPC: the text is no JSON.
pub const PARSE_ERROR: i64 = -32700;

/// JSON-RPC: JSON, but no message, or not one for here and now.
pub const INVALID_REQUEST: i64 = -32600;

/// JSON-RPC: nobody here knows the method, or could carry it out.
pub const METHOD_NOT_FOUND: i64 = -32601;

/// JSON-RPC: the parameters are wrong.
pub const INVALID_PARAMS: i64 = -32602;

/// JSON-RPC: it was understood and could not be done.
pub const INTERNAL_ERROR: i64 = -32603;

/// MCP up to 2025-11-25: there is no such resource.
pub const RESOURCE_NOT_FOUND: i64 = -32002;

/// MCP 2025-11-25: pages must be visited first, which are named in the error's data.
pub const URL_ELICITATION_REQUIRED: i64 = -32042;

/// MCP 2026-07-28: a header does not say what the body says.
pub const HEADER_MISMATCH: i64 = -32020;

/// MCP 2026-07-28: the revision is not spoken here.
pub const UNSUPPORTED_VERSION: i64 = -32022;

/// One message of a client.
#[derive(Debug, Clone, Copy)]
pub enum Incoming<'a> {
    /// It wants an answer. `id` is a raw string or number; `params` an object.
    #[allow(missing_docs)]
    Request { id: &'a RawValue, method: &'a str, params: Option<&'a RawValue> },
    /// It wants none.
    #[allow(missing_docs)]
    Notification { method: &'a str, params: Option<&'a RawValue> },
    /// It answers a question of ours: with a result, or else an error object.
    #[allow(missing_docs)]
    Response { id: &'a RawValue, outcome: Result<&'a RawValue, &'a RawValue> },
}

/// The messages of one body, read from it.
#[derive(Debug)]
pub struct Parcel<'a> {
    envelopes: Vec<Envelope<'a>>,
    /// Whether it is an array, even of one.
    pub is_batch: bool,
}

/// Why a body has no messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// [`PARSE_ERROR`] or [`INVALID_REQUEST`].
    pub code: i64,
    /// What is wrong.
    pub what: String,
    /// The id that an answer can name.
    pub id: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    jsonrpc: Option<&'a RawValue>,
    // `null` is there, and is no id.
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

/// A field that is there, also when it is `null`.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl<'a> Parcel<'a> {
    /// Reads a body: one message, or an array of them.
    pub fn read(body: &'a [u8]) -> Result<Parcel<'a>, Unreadable> {
        let raw: &'a RawValue = serde_json::from_slice(body).map_err(|cause| Unreadable {
            code: PARSE_ERROR,
            what: format!("the body is not JSON: {cause}"),
            id: None,
        })?;
        let is_batch = raw.get().starts_with('[');
        let raws: Vec<&'a RawValue> =
            if is_batch { serde_json::from_str(raw.get()).unwrap_or_default() } else { vec![raw] };
        if raws.is_empty() {
            return Err(Unreadable { code: INVALID_REQUEST, what: "the batch is empty".to_owned(), id: None });
        }
        let envelopes = raws.into_iter().map(Envelope::read).collect::<Result<_, _>>()?;
        Ok(Parcel { envelopes, is_batch })
    }

    /// Every message, in order.
    pub fn messages(&self) -> impl Iterator<Item = Incoming<'_>> {
        self.envelopes.iter().filter_map(Envelope::message)
    }

    /// The raw id of the one request of a body that is no batch.
    pub fn id(&self) -> Option<&'a str> {
        let only = self.envelopes.first().filter(|it| !self.is_batch && it.method.is_some());
        only.and_then(|envelope| envelope.id).map(RawValue::get)
    }

    /// The one message of a body that is no batch.
    pub fn only(&self) -> Option<Incoming<'_>> {
        self.envelopes.first().filter(|_| !self.is_batch).and_then(Envelope::message)
    }
}

impl<'a> Envelope<'a> {
    fn read(raw: &'a RawValue) -> Result<Envelope<'a>, Unreadable> {
        let wrong = |what: &str, id: Option<&RawValue>| Unreadable {
            code: INVALID_REQUEST,
            what: what.to_owned(),
            id: id.filter(|id| is_id(id)).map(|id| id.get().to_owned()),
        };
        let is_object = raw.get().starts_with('{');
        let envelope = serde_json::from_str::<Envelope<'a>>(raw.get()).ok().filter(|_| is_object);
        let Some(envelope) = envelope else { return Err(wrong("a message is a JSON object", None)) };
        if envelope.jsonrpc.is_none_or(|version| version.get() != "\"2.0\"") {
            return Err(wrong("`jsonrpc` is not \"2.0\"", envelope.id));
        }
        if envelope.id.is_some_and(|id| !is_id(id)) {
            return Err(wrong("`id` is neither a string nor a number", None));
        }
        if envelope.params.is_some_and(|params| !params.get().starts_with('{')) {
            return Err(wrong("`params` is not an object", envelope.id));
        }
        if let Some(what) = envelope.params.and_then(fault) {
            return Err(wrong(&what, envelope.id));
        }
        if envelope.message().is_none() {
            return Err(wrong("the message is neither a request, nor a notification, nor a response", envelope.id));
        }
        Ok(envelope)
    }

    fn message(&self) -> Option<Incoming<'_>> {
        let Envelope { id, method, params, result, error, .. } = self;
        match (*id, method.as_deref(), *result, *error) {
            (Some(id), Some(method), ..) => Some(Incoming::Request { id, method, params: *params }),
            (None, Some(method), ..) => Some(Incoming::Notification { method, params: *params }),
            (Some(id), None, Some(result), _) => Some(Incoming::Response { id, outcome: Ok(result) }),
            (Some(id), None, None, Some(error)) => Some(Incoming::Response { id, outcome: Err(error) }),
            _ => None,
        }
    }
}

/// Fields of parameters that are looked into, and must not be seen otherwise by the server.
const LOOKED_INTO: [&str; 4] = ["_meta", "arguments", "ref", "notifications"];

/// Why parameters, or what of them is looked into, could be read in two ways: a name stands there twice, or is no text, as a
/// lone surrogate is not.
fn fault(params: &RawValue) -> Option<String> {
    let unreadable = || Some("a name in `params` is no Unicode text".to_owned());
    let Some(fields) = raw::Fields::read(params) else { return unreadable() };
    let nested = LOOKED_INTO.iter().filter_map(|name| fields.get(name));
    for object in nested.filter(|nested| nested.get().starts_with('{')) {
        let Some(fields) = raw::Fields::read(object) else { return unreadable() };
        if let Some(name) = fields.repeated() {
            return Some(format!("`params` has the field `{name}` twice"));
        }
    }
    fields.repeated().map(|name| format!("`params` has the field `{name}` twice"))
}

/// Whether this raw JSON can be the id of a request (JSON-RPC 2.0, 4; MCP takes no `null`).
fn is_id(id: &RawValue) -> bool {
    id.get().starts_with(|first: char| first == '"' || first == '-' || first.is_ascii_digit())
}

/// A failure as JSON-RPC tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The code.
    pub code: i64,
    /// One sentence.
    pub message: String,
    /// More about it, JSON.
    pub data: Option<String>,
}

impl Failure {
    /// A failure without data.
    pub fn new(code: i64, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into(), data: None }
    }
}

/// The message that answers a request with a result, which is JSON.
pub fn result(id: &str, result: &str) -> String {
    [r#"{"jsonrpc":"2.0","id":"#, id, r#","result":"#, result, "}"].concat()
}

/// The message that answers a request with a failure. Without an id it answers what has none that could be read.
pub fn error(id: Option<&str>, failure: &Failure) -> String {
    let id = id.map_or(String::new(), |id| format!(r#""id":{id},"#));
    let data = failure.data.as_ref().map_or(String::new(), |data| format!(r#","data":{data}"#));
    let Failure { code, message, .. } = failure;
    format!(r#"{{"jsonrpc":"2.0",{id}"error":{{"code":{code},"message":{}{data}}}}}"#, raw::quoted(message))
}

/// The message of a notification. `params` is a JSON object.
pub fn notification(method: &str, params: Option<&str>) -> String {
    let params = params.map_or(String::new(), |params| format!(r#","params":{params}"#));
    format!(r#"{{"jsonrpc":"2.0","method":{}{params}}}"#, raw::quoted(method))
}

/// The message of a request of ours. `params` is a JSON object.
pub fn request(id: u64, method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":{},"params":{params}}}"#, raw::quoted(method))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_unreadable(body: &str, code: i64, what: &str, id: Option<&str>) {
        let unreadable = Parcel::read(body.as_bytes()).expect_err(body);
        assert_eq!((unreadable.code, unreadable.id.as_deref()), (code, id), "{body}");
        assert!(unreadable.what.contains(what), "{body}: {unreadable:?}");
    }

    #[test]
    fn what_is_no_message_is_told_from_what_is_no_json() {
        check_unreadable("", PARSE_ERROR, "not JSON", None);
        check_unreadable(r#"{"jsonrpc":"2.0""#, PARSE_ERROR, "not JSON", None);
        check_unreadable("{}{}", PARSE_ERROR, "not JSON", None);
        check_unreadable("1", INVALID_REQUEST, "a JSON object", None);
        check_unreadable("[]", INVALID_REQUEST, "empty", None);
        check_unreadable("[1]", INVALID_REQUEST, "a JSON object", None);
        check_unreadable(r#"["a",null,1,"m",{},1]"#, INVALID_REQUEST, "a JSON object", None);
        check_unreadable(r#"{"id":1,"method":"m"}"#, INVALID_REQUEST, "`jsonrpc`", Some("1"));
        check_unreadable(r#"{"jsonrpc":"1.0","id":"x","method":"m"}"#, INVALID_REQUEST, "`jsonrpc`", Some("\"x\""));
        check_unreadable(r#"{"jsonrpc":"2.0","id":[1],"method":"m"}"#, INVALID_REQUEST, "`id`", None);
        check_unreadable(
            r#"{"jsonrpc":"2.0","id":1,"method":"m","params":[1]}"#,
            INVALID_REQUEST,
            "`params`",
            Some("1"),
        );
        check_unreadable(r#"{"jsonrpc":"2.0","id":null,"method":"m"}"#, INVALID_REQUEST, "`id`", None);
        for params in [r#"{"name":"a","x":1,"name":"b"}"#, r#"{"arguments":{"a":1,"\u0061":2}}"#] {
            let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{params}}}"#);
            check_unreadable(&body, INVALID_REQUEST, "twice", Some("1"));
        }
        for params in [r#"{"name":"a","\ud800":1,"name":"b"}"#, r#"{"arguments":{"a":1,"\udc00":2,"a":3}}"#] {
            let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{params}}}"#);
            check_unreadable(&body, INVALID_REQUEST, "no Unicode text", Some("1"));
        }
        check_unreadable(r#"{"jsonrpc":"2.0","id":1}"#, INVALID_REQUEST, "neither", Some("1"));
        check_unreadable(r#"{"jsonrpc":"2.0","id":1,"method":5}"#, INVALID_REQUEST, "a JSON object", None);
    }

    #[test]
    fn messages_are_told_apart_and_keep_what_they_carry() {
        let kinds = |body: &str| {
            let parcel = Parcel::read(body.as_bytes()).unwrap();
            let kind = |message: Incoming<'_>| match message {
                Incoming::Request { id, method, .. } => format!("request {id} {method}"),
                Incoming::Notification { method, .. } => format!("notification {method}"),
                Incoming::Response { id, outcome } => format!("response {id} {}", outcome.is_ok()),
            };
            (parcel.messages().map(kind).collect::<Vec<_>>(), parcel.is_batch)
        };
        assert_eq!(
            kinds(r#"{"jsonrpc":"2.0","id":"1","method":"a\u002fb"}"#),
            (vec!["request \"1\" a/b".into()], false)
        );
        assert_eq!(
            kinds(
                r#"[{"jsonrpc":"2.0","method":"n"},{"jsonrpc":"2.0","id":-1,"result":{}},{"jsonrpc":"2.0","id":2,"error":{}}]"#
            ),
            (vec!["notification n".into(), "response -1 true".into(), "response 2 false".into()], true)
        );
    }

    #[test]
    fn answers_name_the_id_only_when_there_is_one() {
        let failure = Failure { code: -1, message: "a \"b\"".to_owned(), data: Some("[1]".to_owned()) };
        assert_eq!(
            error(Some("\"x\""), &failure),
            r#"{"jsonrpc":"2.0","id":"x","error":{"code":-1,"message":"a \"b\"","data":[1]}}"#
        );
        assert_eq!(error(None, &Failure::new(-1, "m")), r#"{"jsonrpc":"2.0","error":{"code":-1,"message":"m"}}"#);
        assert_eq!(notification("n", None), r#"{"jsonrpc":"2.0","method":"n"}"#);
    }
}
