//! `/mcp`: MCP's own transports, so that any MCP client connects. Facts: `mcp.md`.
//!
//! Two eras share the endpoint. A *legacy* client (up to 2025-11-25) opens a session and may come back to what it missed; a
//! *modern* one (2026-07-28) says everything with every request. Either may meet a server of either era.
//!
//! Reading order: `plan` finds the server of a request, `running` takes it there and back, `legacy` and `modern` drive it
//! by the rules of their era; `session`, `streams` and `parked` are what outlives a connection; `old` is the transport
//! of 2024-11-05.

use tiny_http::Method;

use super::{Answer, Api, Reply, Request};
use crate::{
    access::Principal,
    error::Error,
    mcp::{
        incoming::{self, Failure, INTERNAL_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, Parcel},
        revision::{self, Era},
    },
    pool::NoResult,
};

mod arguments;
mod exchange;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod headers;
mod janitor;
mod legacy;
mod listen;
mod modern;
mod offers;
mod old;
mod parked;
mod plan;
mod round;
mod running;
mod session;
mod sessions;
mod streams;
mod telling;
mod traits;
mod trip;
mod unmatched;

pub use janitor::Janitor;
pub(super) use old::{SESSION_PARAMETER, open_stream, post_message};
pub(super) use parked::ParkedCalls;
pub use sessions::Sessions;

/// The header of the revision a client speaks.
const VERSION_HEADER: &str = "MCP-Protocol-Version";

/// Why a request has no result.
#[derive(Debug)]
enum Trouble {
    /// Its client is told.
    Failure(Failure),
    /// Its client went away.
    Gone,
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Trouble {
        Trouble::Failure(failure)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        Trouble::Failure(running::failure_of(error))
    }
}

impl From<NoResult> for Trouble {
    fn from(no_result: NoResult) -> Trouble {
        match no_result {
            NoResult::Failed(error) => error.into(),
            NoResult::ClientGone => Trouble::Gone,
        }
    }
}

impl Trouble {
    /// What to tell. Nobody reads it when the client is gone.
    fn failure(self) -> Failure {
        match self {
            Trouble::Failure(failure) => failure,
            Trouble::Gone => Failure::new(INTERNAL_ERROR, "the client went away"),
        }
    }
}

impl Api {
    /// Answers a request to `/mcp`, for the servers of `scope`.
    pub(super) fn answer_mcp<'a>(
        &'a self,
        scope: Option<&'a str>,
        principal: &'a Principal,
        request: &Request<'_>,
    ) -> Reply<'a> {
        let is_modern_header =
            request.header(VERSION_HEADER).is_some_and(|version| !revision::LEGACY.contains(&version));
        match request.method() {
            Method::Post => self.post_mcp(scope, principal, request, is_modern_header),
            _ if is_modern_header => {
                let failure = Failure::new(METHOD_NOT_FOUND, "this revision knows POST alone");
                let headers = vec![("Allow", "POST".to_owned())];
                Reply::Answer(Answer { headers, ..refusal(405, None, &failure) })
            }
            Method::Delete => Reply::Answer(legacy::delete(self, scope, principal, request)),
            _ => legacy::get(self, scope, principal, request),
        }
    }

    fn post_mcp<'a>(
        &'a self,
        scope: Option<&'a str>,
        principal: &'a Principal,
        request: &Request<'_>,
        is_modern_header: bool,
    ) -> Reply<'a> {
        if let Err(answer) = check_media(request, &["application/json", "text/event-stream"]) {
            return Reply::Answer(answer);
        }
        let parcel = match Parcel::read(request.body) {
            Ok(parcel) => parcel,
            Err(unreadable) => {
                return Reply::Answer(refusal(
                    400,
                    unreadable.id.as_deref(),
                    &Failure::new(unreadable.code, unreadable.what),
                ));
            }
        };
        let is_modern = is_modern_header || parcel.only().is_some_and(|message| modern::says_so(&message));
        if is_modern {
            modern::post(self, scope, principal, request, &parcel)
        } else {
            legacy::post(self, scope, principal, request, &parcel)
        }
    }
}

/// What a client of this key and endpoint is, before it has said anything.
fn party<'a>(
    api: &'a Api,
    scope: Option<&'a str>,
    principal: &'a Principal,
    era: Era,
    mailbox: &std::sync::Arc<crate::worker::mailbox::Mailbox>,
) -> plan::Party<'a> {
    let mailbox = std::sync::Arc::clone(mailbox);
    plan::Party { api, scope, principal, session: None, era, hello: None, mailbox, trace: None }
}

/// Fails with the answer for a client that takes none of what it would get, or sends what is not JSON.
fn check_media(request: &Request<'_>, answers: &[&str]) -> Result<(), Answer> {
    if let Some(missing) = answers.iter().find(|media| !accepts(request.header("Accept"), media)) {
        let message = format!("the header `Accept` must admit `{missing}`");
        return Err(refusal(406, None, &Failure::new(INVALID_REQUEST, message)));
    }
    let is_post = *request.method() == Method::Post;
    let media = request.header("Content-Type").unwrap_or_default();
    let is_json = parts(media.as_bytes(), b';').next().is_some_and(|it| it.eq_ignore_ascii_case(b"application/json"));
    if is_post && !is_json {
        let failure = Failure::new(INVALID_REQUEST, "the header `Content-Type` must be `application/json`");
        return Err(refusal(415, None, &failure));
    }
    Ok(())
}

/// Whether an `Accept` header admits a media type (RFC 9110, 12.5.1). None admits all.
fn accepts(accept: Option<&str>, media: &str) -> bool {
    let Some(accept) = accept else { return true };
    let kind = media.split('/').next().unwrap_or_default().as_bytes();
    parts(accept.as_bytes(), b',').any(|range| {
        let mut parts = parts(range, b';');
        let range = parts.next().unwrap_or_default();
        let fits = range == b"*/*"
            || range.eq_ignore_ascii_case(media.as_bytes())
            || range.strip_suffix(b"/*").is_some_and(|it| it.eq_ignore_ascii_case(kind));
        fits && !parts.any(|parameter| matches!(parameter, b"q=0" | b"q=0.0" | b"q=0.00" | b"q=0.000"))
    })
}

/// The parts of a header's value, without the white space around them.
fn parts(value: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    value.split(move |byte| *byte == separator).map(<[u8]>::trim_ascii)
}

/// One JSON-RPC message, or an array of them, as answer.
fn message(status: u16, message: String) -> Answer {
    Answer { body: message.into_bytes(), ..Answer::empty(status) }
}

/// A JSON-RPC error as answer.
fn refusal(status: u16, id: Option<&str>, failure: &Failure) -> Answer {
    message(status, incoming::error(id, failure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_says_what_it_takes() {
        for yes in ["application/json, text/event-stream", "*/*", "text/*;q=0.5, application/*", "TEXT/Event-Stream"] {
            assert!(accepts(Some(yes), "text/event-stream"), "{yes}");
        }
        for no in ["application/json", "", "text/event-stream;q=0", "text/plain", "application/*"] {
            assert!(!accepts(Some(no), "text/event-stream"), "{no}");
        }
        assert!(accepts(None, "application/json"));
    }
}
