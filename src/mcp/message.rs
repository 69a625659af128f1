//! JSON-RPC messages as they stand on a stdio line, read and written without touching what they carry.
//!
//! Arguments and results pass as raw JSON, so key order, big numbers and unknown fields arrive as they were sent.
//! Nothing here does I/O.
//!
//! Source of the shapes: `schema.json` of MCP 2025-11-25, definitions `JSONRPCRequest` to `JSONRPCError`.

use std::{borrow::Cow, io::Write as _};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{envelope::Envelope, raw, revision, skim, trace::Trace};

/// One message a server wrote.
#[derive(Debug)]
pub enum Message<'a> {
    /// The answer to a request of ours.
    #[allow(missing_docs)]
    Response { id: u64, outcome: Result<&'a RawValue, RpcError<'a>> },
    /// A question to us. `id` is raw JSON and goes back as it is.
    #[allow(missing_docs)]
    Request { id: &'a RawValue, method: Cow<'a, str>, params: Option<&'a RawValue> },
    /// A message that wants no answer.
    #[allow(missing_docs)]
    Notification { method: Cow<'a, str>, params: Option<&'a RawValue> },
    /// JSON that is no JSON-RPC message we could use, and why.
    Unusable(&'static str),
}

/// The `error` object of a response.
#[derive(Debug, Deserialize)]
pub struct RpcError<'a> {
    /// JSON-RPC error code.
    #[serde(default)]
    pub code: i64,
    /// What the server says happened.
    #[serde(default, borrow)]
    pub message: Cow<'a, str>,
    /// Whatever the server added, raw.
    #[serde(borrow)]
    pub data: Option<&'a RawValue>,
}

/// The fields of a message, raw.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

impl<'a> Message<'a> {
    /// Reads one line. Fails when it is not a JSON object with the fields of JSON-RPC.
    pub fn parse(line: &'a [u8]) -> Result<Message<'a>, serde_json::Error> {
        match std::str::from_utf8(line) {
            Ok(line) => Message::parse_text(line),
            // Text in fields that nobody reads need not be UTF-8.
            Err(_) => serde_json::from_slice(line).map(Message::of),
        }
    }

    /// As [`Message::parse`], for a line that is known to be text.
    pub fn parse_text(line: &'a str) -> Result<Message<'a>, serde_json::Error> {
        let fields = Envelope::read(line).and_then(Fields::of);
        fields.map_or_else(|| serde_json::from_str(line), Ok).map(Message::of)
    }

    fn of(fields: Fields<'a>) -> Message<'a> {
        match fields {
            Fields { id: Some(id), method: Some(method), params, .. } => Message::Request { id, method, params },
            Fields { method: Some(method), params, .. } => Message::Notification { method, params },
            Fields { id: Some(id), result, error, .. } => {
                // Ids of ours are integers, so another type cannot be an answer to us.
                let Ok(id) = id.get().parse() else { return Message::Unusable("an answer to an unknown id") };
                let outcome = match (result, error) {
                    (_, Some(error)) => Err(serde_json::from_str(error.get()).unwrap_or(RpcError {
                        code: 0,
                        message: Cow::Borrowed(error.get()),
                        data: None,
                    })),
                    (Some(result), None) => Ok(result),
                    (None, None) => Err(RpcError {
                        code: 0,
                        message: Cow::Borrowed("the answer has neither `result` nor `error`"),
                        data: None,
                    }),
                };
                Message::Response { id, outcome }
            }
            Fields { id: None, error: Some(_), .. } => Message::Unusable("an error without an id"),
            Fields { .. } => Message::Unusable("neither a method nor an answer"),
        }
    }
}

impl<'a> Fields<'a> {
    fn of(envelope: Envelope<'a>) -> Option<Fields<'a>> {
        let known = |json: Option<&'a str>| json.map_or(Some(None), |json| raw::known(json).map(Some));
        Some(Fields {
            id: known(envelope.id)?,
            method: envelope.method.map(Cow::Borrowed),
            params: known(envelope.params)?,
            result: known(envelope.result)?,
            error: known(envelope.error)?,
        })
    }
}

/// The field of parameters and results that holds what is said about them.
pub const META: &str = "_meta";

/// The field of `_meta` by which progress is reported.
pub const PROGRESS_TOKEN: &str = "progressToken";

/// The field of `_meta` in which a server streams an item along.
const CHUNK: &str = "mcpgate/chunk";

/// What becomes of the `_meta` of a request that is passed on.
#[derive(Debug, Clone, Copy)]
pub enum Meta<'a> {
    /// All of it is kept.
    Keep,
    /// What the modern era says in it is left out: its server speaks a revision that says it in `initialize`.
    Legacy,
    /// As `Legacy`, and these fields are put in, a JSON object without its braces.
    Put(&'a str),
}

impl Meta<'_> {
    fn keeps(self, name: &str) -> bool {
        matches!(self, Meta::Keep) || !revision::REQUEST_KEYS.contains(&name)
    }
}

/// A request that still lacks its id: each worker puts it on a line under an id of its own.
#[derive(Debug)]
pub struct Request {
    /// Everything behind the id, line feed included.
    tail: Vec<u8>,
    /// Where in `tail` the id stands a second time, as progress token.
    token_at: Option<usize>,
}

impl Request {
    /// A `tools/call` that asks for progress. `arguments` is a JSON object; line breaks in it are taken out. `stamps`: what else
    /// goes into `_meta`, without the braces.
    pub fn tools_call<'s>(name: &str, arguments: &RawValue, stamps: impl IntoIterator<Item = &'s str>) -> Request {
        let arguments = arguments.get();
        let mut tail = Vec::with_capacity(arguments.len() + name.len() + 96);
        tail.extend_from_slice(br#","method":"tools/call","params":{"name":"#);
        push_json_str(&mut tail, name);
        tail.extend_from_slice(br#","arguments":"#);
        push_compact(&mut tail, arguments);
        tail.extend_from_slice(br#","_meta":{"#);
        for stamp in stamps {
            tail.extend_from_slice(stamp.as_bytes());
            tail.push(b',');
        }
        tail.extend_from_slice(br#""progressToken":"#);
        let token_at = Some(tail.len());
        tail.extend_from_slice(b"}}}\n");
        Request { tail, token_at }
    }

    /// Any other request. `params` is a JSON object; line breaks in it are taken out.
    pub fn plain(method: &str, params: Option<&str>) -> Request {
        let mut tail = Vec::with_capacity(64);
        tail.extend_from_slice(br#","method":"#);
        push_json_str(&mut tail, method);
        if let Some(params) = params {
            tail.extend_from_slice(br#","params":"#);
            push_compact(&mut tail, params);
        }
        tail.extend_from_slice(b"}\n");
        Request { tail, token_at: None }
    }

    /// A client's request, passed on as it came: only its progress token is replaced by one of ours, and its `_meta`
    /// treated as `meta` says. `params` is a JSON object; line breaks in it are taken out. Returns the client's own token
    /// beside it, raw.
    ///
    /// Progress is asked for when the client does, or when `wants_progress`. `trace` goes into its `_meta` unless the client says
    /// there itself which trace it belongs to.
    pub fn passed(
        method: &str,
        params: Option<&RawValue>,
        meta: Meta<'_>,
        wants_progress: bool,
        trace: Option<&Trace>,
    ) -> (Request, Option<Box<RawValue>>) {
        let fields = params.and_then(raw::Fields::read).unwrap_or_default();
        let client_meta = fields.get(META).and_then(raw::Fields::read).unwrap_or_default();
        let token = client_meta.get(PROGRESS_TOKEN).map(ToOwned::to_owned);
        let mut tail = Vec::with_capacity(params.map_or(0, |params| params.get().len()) + 128);
        tail.extend_from_slice(br#","method":"#);
        push_json_str(&mut tail, method);
        tail.extend_from_slice(br#","params":{"#);
        let others = fields.iter().filter(|(name, _)| *name != META);
        let mut writer = raw::FieldsWriter::new(&mut tail);
        others.for_each(|(name, value)| writer.push_with(name, |tail| push_compact(tail, value.get())));
        let mut token_at = None;
        let kept = || client_meta.iter().filter(|(name, _)| *name != PROGRESS_TOKEN && meta.keeps(name));
        let trace = trace.filter(|_| !Trace::KEYS.iter().any(|key| client_meta.get(key).is_some()));
        let has_more = trace.is_some() || matches!(meta, Meta::Put(_));
        let has_meta = token.is_some() || wants_progress || has_more || kept().next().is_some();
        if has_meta {
            writer.push_with(META, |tail| {
                tail.push(b'{');
                let mut writer = raw::FieldsWriter::new(tail);
                kept().for_each(|(name, value)| writer.push_with(name, |tail| push_compact(tail, value.get())));
                if let Meta::Put(stamp) = meta {
                    writer.push_all(stamp);
                }
                if let Some(trace) = trace {
                    writer.push_all(trace.stamp());
                }
                if token.is_some() || wants_progress {
                    writer.push_with(PROGRESS_TOKEN, |tail| token_at = Some(tail.len()));
                }
                tail.push(b'}');
            });
        }
        tail.extend_from_slice(b"}}\n");
        (Request { tail, token_at }, token)
    }

    /// Appends the whole line, under this id, to `out`.
    pub fn write_to(&self, id: u64, out: &mut Vec<u8>) {
        let (before_token, behind_token) = self.tail.split_at(self.token_at.unwrap_or(self.tail.len()));
        out.reserve(self.tail.len() + 64);
        push_display(out, format_args!(r#"{{"jsonrpc":"2.0","id":{id}"#));
        out.extend_from_slice(before_token);
        if self.token_at.is_some() {
            push_display(out, format_args!("{id}"));
        }
        out.extend_from_slice(behind_token);
    }
}

/// The line that takes a request of ours back.
pub fn push_cancelled(out: &mut Vec<u8>, id: u64, reason: &str) {
    push_display(
        out,
        format_args!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id},"reason":"#),
    );
    push_json_str(out, reason);
    out.extend_from_slice(b"}}\n");
}

/// The line of a notification without parameters.
pub fn push_notification(out: &mut Vec<u8>, method: &str) {
    push_display(out, format_args!("{{\"jsonrpc\":\"2.0\",\"method\":\"{method}\"}}\n"));
}

/// The line of a notification with parameters, a JSON object; line breaks in it are taken out.
pub fn push_notification_with(out: &mut Vec<u8>, method: &str, params: &RawValue) {
    push_display(out, format_args!(r#"{{"jsonrpc":"2.0","method":"{method}","params":"#));
    push_compact(out, params.get());
    out.extend_from_slice(b"}\n");
}

/// The line that answers a server's question. `result` is any JSON; line breaks in it are taken out.
pub fn push_result(out: &mut Vec<u8>, id: &RawValue, result: &str) {
    push_display(out, format_args!(r#"{{"jsonrpc":"2.0","id":{},"result":"#, id.get()));
    push_compact(out, result);
    out.extend_from_slice(b"}\n");
}

/// The line that refuses to answer a server's question.
pub fn push_error(out: &mut Vec<u8>, id: &RawValue, code: i64, message: &str) {
    push_display(out, format_args!(r#"{{"jsonrpc":"2.0","id":{},"error":{{"code":{code},"message":"#, id.get()));
    push_json_str(out, message);
    out.extend_from_slice(b"}}\n");
}

/// The line that passes a refusal on. `error` is an error object of JSON-RPC; line breaks in it are taken out.
pub fn push_raw_error(out: &mut Vec<u8>, id: &RawValue, error: &str) {
    push_display(out, format_args!(r#"{{"jsonrpc":"2.0","id":{},"error":"#, id.get()));
    push_compact(out, error);
    out.extend_from_slice(b"}\n");
}

/// Appends `text` as a JSON string, quotes included.
pub fn push_json_str(out: &mut Vec<u8>, text: &str) {
    // Writing a string into memory has no way to fail.
    let _ = serde_json::to_writer(out, text);
}

/// Appends valid JSON, without its white space when it has line breaks: a stdio line must not.
fn push_compact(out: &mut Vec<u8>, json: &str) {
    let bytes = json.as_bytes();
    if memchr::memchr2(b'\n', b'\r', bytes).is_none() {
        return out.extend_from_slice(bytes);
    }
    let mut in_string = false;
    let mut escaped = false;
    for &byte in bytes {
        if in_string {
            out.push(byte);
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else if !byte.is_ascii_whitespace() {
            out.push(byte);
            in_string = byte == b'"';
        }
    }
}

fn push_display(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Writing into memory has no way to fail.
    let _ = out.write_fmt(text);
}

/// The parameters of `notifications/progress`.
#[derive(Debug)]
pub struct Progress<'a> {
    /// Which request: an integer, as all tokens of ours are.
    pub progress_token: u64,
    chunk: Option<&'a str>,
}

impl<'a> Progress<'a> {
    /// Reads the parameters. `None` when they are not about a request of ours.
    pub fn read(params: &'a RawValue) -> Option<Progress<'a>> {
        let (mut token, mut meta) = (None, None);
        for (name, value) in skim::fields(params.get())? {
            if skim::is(name, PROGRESS_TOKEN) {
                token.get_or_insert(value);
            } else if skim::is(name, META) {
                meta.get_or_insert(value);
            }
        }
        let chunk = meta.and_then(|meta| skim::field(meta, CHUNK)).filter(|chunk| *chunk != "null");
        Some(Progress { progress_token: token?.parse().ok()?, chunk })
    }

    /// Whether a server streams an item along (`_meta["mcpgate/chunk"]`).
    pub fn has_chunk(&self) -> bool {
        self.chunk.is_some()
    }
}

/// `index` and `data` of the item in the parameters of `notifications/progress`, as one JSON object.
pub fn chunk_fields(params: &RawValue) -> Option<String> {
    raw::pick(Progress::read(params)?.chunk?, ["index", "data"])
}

/// `progress`, `total` and `message` of the parameters of `notifications/progress`, as one JSON object.
pub fn progress_fields(params: &RawValue) -> Option<String> {
    raw::pick(params.get(), ["progress", "total", "message"])
}

/// `level`, `logger` and `data` of the parameters of `notifications/message`, as one JSON object.
pub fn log_fields(params: &RawValue) -> Option<String> {
    raw::pick(params.get(), ["level", "logger", "data"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[track_caller]
    fn check_call_line(arguments: &str, line: &str) {
        let mut out = Vec::new();
        Request::tools_call("say \"hi\"", &json(arguments), None).write_to(7, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), line);
    }

    #[test]
    fn a_call_carries_its_arguments_untouched_and_its_id_as_progress_token() {
        check_call_line(
            r#"{"b": 12345678901234567890, "a":"\u00e9 é 😀"}"#,
            concat!(
                r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"say \"hi\"","#,
                r#""arguments":{"b": 12345678901234567890, "a":"\u00e9 é 😀"},"_meta":{"progressToken":7}}}"#,
                "\n"
            ),
        );
    }

    #[test]
    fn a_pretty_printed_body_becomes_one_line_and_strings_keep_their_blanks() {
        check_call_line(
            "{\n  \"a\": [1,\r\n 2],\t\"b c\": \"x \\\" \\\\\" }",
            concat!(
                r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"say \"hi\"","#,
                r#""arguments":{"a":[1,2],"b c":"x \" \\"},"_meta":{"progressToken":7}}}"#,
                "\n"
            ),
        );
    }

    #[test]
    fn what_a_call_is_stamped_with_stands_beside_its_progress_token() {
        let mut out = Vec::new();
        Request::tools_call("t", &json("{}"), Some(r#""a":1,"b":{}"#)).write_to(7, &mut out);
        let params = r#"{"name":"t","arguments":{},"_meta":{"a":1,"b":{},"progressToken":7}}"#;
        let line = format!("{{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"tools/call\",\"params\":{params}}}\n");
        assert_eq!(String::from_utf8(out).unwrap(), line);
    }

    #[track_caller]
    fn check_passed(params: Option<&str>, meta: Meta<'_>, wants_progress: bool, token: Option<&str>, line: &str) {
        let params = params.map(json);
        let (request, given) = Request::passed("m", params.as_deref(), meta, wants_progress, None);
        let mut out = Vec::new();
        request.write_to(7, &mut out);
        let head = r#"{"jsonrpc":"2.0","id":7,"method":"m","params":"#;
        assert_eq!(String::from_utf8(out).unwrap(), format!("{head}{line}}}\n"));
        assert_eq!(given.as_deref().map(RawValue::get), token);
    }

    #[test]
    fn a_request_is_passed_on_with_a_token_of_ours_and_the_clients_is_kept_with_its_type() {
        let modern = r#""io.modelcontextprotocol/protocolVersion":"x""#;
        check_passed(None, Meta::Legacy, false, None, "{}");
        check_passed(None, Meta::Keep, true, None, r#"{"_meta":{"progressToken":7}}"#);
        check_passed(
            Some(
                r#"{"b": 1.10,"_meta":{"progressToken":"1","k":[1,
2]},"a":{}}"#,
            ),
            Meta::Legacy,
            false,
            Some("\"1\""),
            r#"{"b":1.10,"a":{},"_meta":{"k":[1,2],"progressToken":7}}"#,
        );
        let params = format!(r#"{{"_meta":{{{modern},"progressToken":1}}}}"#);
        check_passed(Some(&params), Meta::Legacy, false, Some("1"), r#"{"_meta":{"progressToken":7}}"#);
        let kept = format!(r#"{{"_meta":{{{modern},"progressToken":7}}}}"#);
        check_passed(Some(&params), Meta::Keep, false, Some("1"), &kept);
        check_passed(Some("{}"), Meta::Put(modern), false, None, &format!(r#"{{"_meta":{{{modern}}}}}"#));
        check_passed(Some(&params), Meta::Put(r#""x":0"#), false, Some("1"), r#"{"_meta":{"x":0,"progressToken":7}}"#);
    }

    #[test]
    fn a_client_that_says_its_trace_itself_is_not_contradicted() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let trace = Trace::read([parent.as_bytes()].into_iter(), std::iter::empty()).unwrap();
        let check = |params: &str, meta: Meta<'_>, expected: &str| {
            let mut out = Vec::new();
            Request::passed("m", Some(&json(params)), meta, false, Some(&trace)).0.write_to(7, &mut out);
            let line = String::from_utf8(out).unwrap();
            assert_eq!(line, format!("{{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"m\",\"params\":{expected}}}\n"));
        };
        let stamp = trace.stamp();
        check("{}", Meta::Legacy, &format!(r#"{{"_meta":{{{stamp}}}}}"#));
        check(r#"{"_meta":{"k":1}}"#, Meta::Put(r#""x":0"#), &format!(r#"{{"_meta":{{"k":1,"x":0,{stamp}}}}}"#));
        for own in [r#"{"_meta":{"traceparent":"own"}}"#, r#"{"_meta":{"tracestate":"own"}}"#] {
            check(own, Meta::Keep, own);
        }
    }

    #[test]
    fn answers_questions_and_notes_are_told_apart() {
        let kinds = [
            (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, "Response"),
            (r#"{"id":1,"error":{"code":-1,"message":"m"}}"#, "Response"),
            (r#"{"id":"x","method":"ping"}"#, "Request"),
            (r#"{"method":"notifications/message","params":{}}"#, "Notification"),
            (r#"{"id":"x","result":{}}"#, "Unusable"),
            (r#"{"id":null,"error":{}}"#, "Unusable"),
            (r#"{}"#, "Unusable"),
        ];
        for (line, kind) in kinds {
            let message = format!("{:?}", Message::parse(line.as_bytes()).unwrap());
            assert!(message.starts_with(kind), "{line}: {message}");
        }
        for line in ["", "[]", "text", "{", "{\"id\":}", "1", "\u{feff}{}"] {
            assert!(Message::parse(line.as_bytes()).is_err(), "{line}");
        }
    }

    #[test]
    fn progress_keeps_the_fields_that_were_sent() {
        let params = json(
            r#"{"progressToken":7,"total":1.50,"progress":1e0,"x":1,"_meta":{"mcpgate/chunk":{"index":0,"data":[]}}}"#,
        );
        let progress = Progress::read(&params).unwrap();
        assert!(progress.progress_token == 7 && progress.has_chunk());
        assert_eq!(chunk_fields(&params).unwrap(), r#"{"index":0,"data":[]}"#);
        assert_eq!(progress_fields(&params).unwrap(), r#"{"progress":1e0,"total":1.50}"#);
        assert!(Progress::read(&json(r#"{"progressToken":"x","progress":1}"#)).is_none());
    }
}
