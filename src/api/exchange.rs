//! What the API is asked and what it answers, free of sockets.

use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;
use tiny_http::Method;

use crate::{error::Error, http::head::Head, worker::mailbox::Mailbox};

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
}

/// What goes back.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers besides those that every answer has.
    pub headers: Vec<(&'static str, String)>,
    /// JSON, if there is any.
    pub body: Vec<u8>,
}

impl Answer {
    /// 200 with JSON.
    pub fn json(value: &impl Serialize) -> Answer {
        let body = serde_json::to_vec(value).unwrap_or_else(|cause| {
            log::error!("an answer could not be written as JSON: {cause}");
            b"null".to_vec()
        });
        Answer { status: 200, headers: Vec::new(), body }
    }

    /// An answer without a body.
    pub fn empty(status: u16) -> Answer {
        Answer { status, headers: Vec::new(), body: Vec::new() }
    }

    /// A failure, in the one shape that all failures have.
    pub fn error(error: &Error, request_id: &str) -> Answer {
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
                rpc_code,
                data: raw_data.and_then(|text| serde_json::from_str(text).ok()),
            },
            content: content.and_then(|text| serde_json::from_str(text).ok()),
            request_id,
        };
        let mut answer = Answer::json(&failure);
        answer.status = error.http_status();
        match error {
            Error::Unauthorized { .. } => answer.headers.push(("WWW-Authenticate", "Bearer".to_owned())),
            Error::MethodNotAllowed { allow, .. } => answer.headers.push(("Allow", (*allow).to_owned())),
            Error::Overloaded { .. } | Error::NoWorker { .. } => {
                answer.headers.push(("Retry-After", RETRY_AFTER_SECONDS.to_string()));
            }
            _ => {}
        }
        answer
    }
}

/// When a refused client may try again: by then a crashed worker is back.
const RETRY_AFTER_SECONDS: u32 = 1;

#[derive(Serialize)]
struct Failure<'a> {
    status: &'static str,
    error: FailureError<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a RawValue>,
    request_id: &'a str,
}

#[derive(Serialize)]
struct FailureError<'a> {
    code: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rpc_code: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
}
