//! What the API is asked and what it answers, free of sockets.

use std::{borrow::Cow, fmt, io, sync::Arc};

use serde::Serialize;
use serde_json::value::RawValue;
use tiny_http::Method;

use super::{json::Insets, later::Later, ws::Socket};
use crate::{
    access::{Address, limiter},
    error::Error,
    http::head::Head,
    mcp::trace::Trace,
    worker::mailbox::{Leftover, Mailbox},
};

const JSON: &str = "application/json";

/// Room for a body, so that a usual one need not grow.
const BODY_BYTES_USUAL: usize = 512;

/// Longest name of a session.
const SESSION_LETTERS_MAX: usize = 128;

/// One request, its body read in full.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The head, and the bytes it was read from.
    pub head: &'a Head,
    /// See `head`.
    pub head_bytes: &'a [u8],
    /// The body; empty when there is none.
    pub body: &'a [u8],
    /// The client's own request id, or one made for it.
    pub id: &'a str,
    /// Where the waiting thread hears of its calls, and that its client went away.
    pub client: &'a Arc<Mailbox>,
    /// Where the client is.
    pub address: &'a Arc<Address>,
    /// The trace that the client says it belongs to.
    pub trace: Option<&'a Arc<Trace>>,
    /// Where others may write the answer, if that makes no difference to the client.
    pub outlet: Option<&'a Arc<dyn Outlet>>,
}

impl<'a> Request<'a> {
    /// The method.
    pub fn method(&self) -> &'a Method {
        &self.head.method
    }

    /// The path, still percent-encoded.
    pub fn path(&self) -> &'a str {
        self.head.path(self.head_bytes)
    }

    /// The first value of a query parameter, decoded.
    pub fn query(&self, name: &str) -> Option<String> {
        let query = self.head.query(self.head_bytes)?;
        form_urlencoded::parse(query.as_bytes()).find(|(it, _)| it == name).map(|(_, value)| value.into_owned())
    }

    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.head.header(self.head_bytes, name)
    }

    /// The session that the client's calls belong to, from the header `X-Session-Id`, else from `session_id` in the
    /// query.
    ///
    /// Fails with [`Error::BadRequest`] when it is not 1 to 128 visible ASCII characters: passed over, it would have
    /// its calls answered by workers that others use.
    pub fn session(&self) -> Result<Option<Cow<'a, str>>, Error> {
        let in_header = self.head.header_bytes(self.head_bytes, "X-Session-Id");
        let (place, session) = match in_header {
            Some(bytes) => ("`X-Session-Id`", Some(String::from_utf8_lossy(bytes))),
            None => ("`session_id` in the query", self.query("session_id").map(Cow::Owned)),
        };
        let is_visible = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        let is_session = |text: &str| (1..=SESSION_LETTERS_MAX).contains(&text.len()) && is_visible(text);
        if session.as_deref().is_none_or(is_session) {
            return Ok(session);
        }
        Err(Error::BadRequest {
            what: format!("{place}: expected 1 to {SESSION_LETTERS_MAX} visible ASCII characters"),
        })
    }
}

/// What goes back.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers besides those that every answer has.
    pub headers: Vec<(&'static str, String)>,
    /// What the body is, if there is any.
    pub content_type: &'static str,
    /// The body, but for its insets; empty when there is none.
    pub body: Vec<u8>,
    /// What goes in between: see [`Answer::pieces`].
    pub insets: Option<Box<Insets>>,
}

impl Answer {
    /// 200 with JSON.
    pub fn json(value: &impl Serialize) -> Answer {
        let mut body = Vec::with_capacity(BODY_BYTES_USUAL);
        if let Err(cause) = serde_json::to_writer(&mut body, value) {
            log::error!("an answer could not be written as JSON: {cause}");
            body = b"null".to_vec();
        }
        Answer { body, ..Answer::empty(200) }
    }

    /// 200 with a text of another type than JSON.
    pub fn text(content_type: &'static str, body: impl Into<Vec<u8>>) -> Answer {
        Answer { content_type, body: body.into(), ..Answer::empty(200) }
    }

    /// An answer without a body.
    pub fn empty(status: u16) -> Answer {
        Answer { status, headers: Vec::new(), content_type: JSON, body: Vec::new(), insets: None }
    }

    /// A failure, in the one shape that all failures have.
    pub fn error(error: &Error, request_id: &str) -> Answer {
        let body = error_object(error, Some(request_id)).into_bytes();
        let mut answer = Answer { body, ..Answer::empty(error.http_status()) };
        match error {
            Error::Unauthorized { .. } => answer.headers.push(("WWW-Authenticate", "Bearer".to_owned())),
            Error::MethodNotAllowed { allow, .. } => answer.headers.push(("Allow", (*allow).to_owned())),
            Error::UpgradeRequired { .. } => {
                answer.headers.push(("Sec-WebSocket-Version", WEBSOCKET_VERSION.to_owned()));
            }
            _ => {}
        }
        if let Some(seconds) = retry_after_seconds(error) {
            answer.headers.push(("Retry-After", seconds.to_string()));
        }
        answer
    }
}

/// The one version of the WebSocket protocol there is (RFC 6455).
pub(super) const WEBSOCKET_VERSION: &str = "13";

/// Longest time a client is asked to wait before it tries again.
const RETRY_AFTER_SECONDS_MAX: u64 = 60;

/// What a failure looks like on every surface: `{"status":"error","error":{...},"content"?,"request_id"?}`.
pub(super) fn error_object(error: &Error, request_id: Option<&str>) -> String {
    let (content, raw_data, rpc_code) = match error {
        Error::ToolError { raw_content, .. } => (Some(raw_content), None, None),
        Error::WorkerError { rpc_code, raw_data, .. } => (None, raw_data.as_ref(), Some(*rpc_code)),
        _ => (None, None, None),
    };
    let failure = Failure {
        status: "error",
        error: FailureError {
            code: error.code(),
            message: error.to_string(),
            hint: error.hint(),
            retry_after: retry_after_seconds(error),
            rpc_code,
            stderr: error.stderr(),
            data: raw_data.and_then(|text| serde_json::from_str(text).ok()),
        },
        content: content.and_then(|text| serde_json::from_str(text).ok()),
        request_id,
    };
    // Strings and raw JSON have no way to fail.
    serde_json::to_string(&failure).unwrap_or_default()
}

/// What the `data` of a JSON-RPC error says of a failure: all but its message.
pub(super) fn error_details(error: &Error) -> String {
    #[derive(Serialize)]
    struct Details<'a> {
        code: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after: Option<u64>,
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        stderr: &'a [String],
    }
    let details = Details {
        code: error.code(),
        hint: error.hint(),
        retry_after: retry_after_seconds(error),
        stderr: error.stderr(),
    };
    // Strings have no way to fail.
    serde_json::to_string(&details).unwrap_or_default()
}

/// [`Error::retry_after`] as clients are told it: whole seconds, rounded up. No client is asked to wait longer than a
/// minute, because things may get better sooner than it looked, unless it is its own limit that it waits for.
fn retry_after_seconds(error: &Error) -> Option<u64> {
    let after = error.retry_after()?;
    // Only a limit says exactly when there is more.
    let most = if matches!(error, Error::RateLimited { .. }) { u64::MAX } else { RETRY_AFTER_SECONDS_MAX };
    Some(limiter::seconds(after).clamp(1, most))
}

/// Appends JSON to an event, on one line. A line break would end the field; in JSON it can only stand between tokens, where a blank
/// does as well.
pub(super) fn push_on_one_line(bytes: &mut Vec<u8>, json: &str) {
    let start = bytes.len();
    bytes.extend_from_slice(json.as_bytes());
    let mut rest = &mut bytes[start..];
    while let Some(at) = memchr::memchr2(b'\n', b'\r', rest) {
        rest[at] = b' ';
        rest = &mut rest[at + 1..];
    }
}

/// Takes answers from other threads than the one that serves the connection.
pub trait Outlet: fmt::Debug + Send + Sync {
    /// Writes an answer, without waiting for a client that is slow to take it.
    fn write(&self, answer: &Answer, request_id: &str) -> Leftover;
}

/// What is told as events, while it happens.
pub trait Events {
    /// Whether it writes something within milliseconds, be it nothing at all, so that the head of its stream may go out with that.
    fn begins_soon(&self) -> bool {
        false
    }

    /// Tells it to its end, but for what comes last, which is handed back: it goes out together with the end of the stream. Fails when
    /// the client takes no more.
    fn run(self: Box<Self>, write: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<Vec<u8>>;
}

/// How a request is answered.
pub enum Reply<'a> {
    /// At once and whole.
    Answer(Answer),
    /// As events, while they happen.
    Stream(Box<dyn Events + 'a>),
    /// By speaking WebSocket from now on.
    Socket(Box<Socket>),
    /// By whoever has the result of the call, or by what comes back of it.
    Later(Later),
    /// Not at all: the client went away.
    Gone,
}

/// Takes bytes from other threads than the one that serves the connection, while that one writes nothing.
pub trait RawOutlet: fmt::Debug + Send + Sync {
    /// Writes them, without waiting for a client that is slow to take them.
    fn write(&self, bytes: Vec<u8>) -> Leftover;
}

#[derive(Serialize)]
struct Failure<'a> {
    status: &'static str,
    error: FailureError<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

#[derive(Serialize)]
struct FailureError<'a> {
    code: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    /// Seconds, as in the header `Retry-After`, which streams and WebSockets have no place for.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rpc_code: Option<i64>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stderr: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{access::Access, config::Config};

    /// The session of a request with this path and these header lines.
    fn session(path: &str, headers: &[u8]) -> Result<Option<String>, Error> {
        let head_bytes = [b"GET ", path.as_bytes(), b" HTTP/1.1\r\nHost: h\r\n", headers, b"\r\n"].concat();
        let head = Head::parse(&head_bytes).expect("a head");
        let client = Arc::new(Mailbox::default());
        let access = Access::new(&Config::default()).unwrap();
        let visitor = access.visit([127, 0, 0, 1].into()).unwrap();
        let address = visitor.address();
        let (head, head_bytes, client) = (&head, &head_bytes, &client);
        let request = Request { head, head_bytes, body: b"", id: "id-1", client, address, trace: None, outlet: None };
        request.session().map(|session| session.map(Cow::into_owned))
    }

    #[track_caller]
    fn check_no_session(path: &str, headers: &[u8], place: &str) {
        let error = session(path, headers).expect_err(path);
        assert_eq!(error.code(), "bad_request");
        assert_eq!(error.to_string(), format!("{place}: expected 1 to 128 visible ASCII characters"));
    }

    #[test]
    fn a_session_is_named_in_the_header_or_else_in_the_query() {
        let longest = "s".repeat(128);
        assert_eq!(session("/x?session=1", b"X-Session: 1\r\n"), Ok(None));
        assert_eq!(session("/x", b"x-session-id: a/~1!\r\n"), Ok(Some("a/~1!".to_owned())));
        assert_eq!(session("/x?session_id=a%2Fb%2B", b""), Ok(Some("a/b+".to_owned())));
        assert_eq!(session("/x?session_id=b", b"X-Session-Id: a\r\n"), Ok(Some("a".to_owned())));
        assert_eq!(session(&format!("/x?session_id={longest}"), b""), Ok(Some(longest)));
    }

    #[test]
    fn a_session_that_is_none_is_not_passed_over() {
        let too_long = "s".repeat(129);
        for header in ["", "a b", "a\tb", "é", &too_long] {
            let line = format!("X-Session-Id: {header}\r\n");
            check_no_session("/x?session_id=good", line.as_bytes(), "`X-Session-Id`");
        }
        check_no_session("/x", b"X-Session-Id: \xff\r\n", "`X-Session-Id`");
        for value in ["", "a+b", "a%00", "a%20", "%C3%A9", &too_long] {
            check_no_session(&format!("/x?session_id={value}"), b"", "`session_id` in the query");
        }
    }

    #[track_caller]
    fn check_retry_after(retry_after: Duration, seconds: &str) {
        let error = Error::NoWorker { server: "helper".to_owned(), reason: "it starts".to_owned(), retry_after };
        let answer = Answer::error(&error, "id-1");
        assert_eq!(answer.headers, [("Retry-After", seconds.to_owned())]);
        let body = String::from_utf8(answer.body).unwrap();
        assert!(body.contains(&format!(r#","retry_after":{seconds}}}"#)), "{body}");
    }

    #[test]
    fn a_client_is_told_in_whole_seconds_when_to_try_again() {
        check_retry_after(Duration::ZERO, "1");
        check_retry_after(Duration::from_millis(1), "1");
        check_retry_after(Duration::from_secs(1), "1");
        check_retry_after(Duration::from_millis(1001), "2");
        check_retry_after(Duration::from_secs(60), "60");
        check_retry_after(Duration::MAX, "60");
    }

    #[test]
    fn other_errors_do_not_ask_to_try_again() {
        let answer = Answer::error(&Error::NotFound { path: "/x".to_owned() }, "id-1");
        assert!(answer.headers.is_empty());
        assert!(!String::from_utf8(answer.body).unwrap().contains("retry_after"));
    }
}
