//! Clients of the legacy era over Streamable HTTP: what is accepted, and which session it is for.
//!
//! What a POST asks for is driven by an [`Exchange`] and told by `telling`. Facts: `mcp.md` 2.7 and 3.1.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::{
    Answer, Api, Reply, Request, Trouble, check_media,
    exchange::Exchange,
    message,
    offers::{Offers, Own},
    party,
    plan::Party,
    refusal,
    running::{Asked, failure_of},
    session::{Agreed, Session},
    telling::{Get, Post},
    traits::Traits,
};
use crate::{
    access::Principal,
    error::Error,
    mcp::{
        incoming::{self, Failure, INVALID_PARAMS, INVALID_REQUEST, Incoming, Parcel},
        message::push_notification,
        raw,
        revision::{self, Era},
    },
    worker::{Hello, mailbox::Mailbox},
};

/// The header that names a session.
const SESSION_HEADER: &str = "Mcp-Session-Id";

/// The revisions that know batches.
const WITH_BATCHES: [&str; 2] = ["2024-11-05", "2025-03-26"];

/// Sends what a client posted where it belongs.
pub(super) fn post<'a>(
    api: &'a Api,
    scope: Option<&'a str>,
    principal: &'a Principal,
    request: &Request<'_>,
    parcel: &Parcel<'_>,
) -> Reply<'a> {
    let is_initialize = |message: &Incoming<'_>| matches!(message, Incoming::Request { method: "initialize", .. });
    let wrong =
        |status: u16, what: &str| Reply::Answer(refusal(status, parcel.id(), &Failure::new(INVALID_REQUEST, what)));
    let session_id = request.header(SESSION_HEADER);
    if let (Some(Incoming::Request { id, params, .. }), None) = (parcel.only().filter(is_initialize), session_id) {
        return initialize(api, scope, principal, request, id.get(), params);
    }
    let session = match find(api, scope, principal, request, parcel.id()) {
        Ok(session) => session,
        Err(answer) => return Reply::Answer(answer),
    };
    if parcel.messages().any(|message| is_initialize(&message)) {
        return wrong(400, "`initialize` opens a session: it comes alone, and without `Mcp-Session-Id`");
    }
    let knows_batches = session.agreed().is_some_and(|agreed| WITH_BATCHES.contains(&agreed.revision));
    if parcel.is_batch && !knows_batches {
        return wrong(400, "batches are not known to the revision of this session");
    }
    let Some(in_use) = session.begin_use() else { return wrong(404, "the session has ended") };
    let mut asked = Vec::new();
    for message in parcel.messages() {
        match message {
            Incoming::Request { id, method, params } => asked.push(Asked { id: id.get(), method, params }),
            Incoming::Notification { method, params } => take_notification(&session, method, params),
            Incoming::Response { id, outcome } => session.answer(id, outcome),
        }
    }
    if asked.is_empty() {
        return Reply::Answer(Answer::empty(202));
    }
    let client = Arc::clone(request.client);
    let behind = Arc::clone(&client);
    // Not the connection's own: what runs here is not over when the client goes away.
    let mailbox = Arc::new(Mailbox::new(api.config.now().stream_queue_bytes, move || behind.cut_off()));
    let mut exchange = Exchange::new(api, scope, principal, &session, &mailbox);
    exchange.set_trace(request.trace);
    asked.into_iter().for_each(|asked| exchange.begin(asked));
    Post::new(exchange, client, parcel.is_batch, api.next_quiet_max(), in_use).answer()
}

/// Opens the stream of a session, or takes one up again.
pub(super) fn get<'a>(
    api: &'a Api,
    scope: Option<&'a str>,
    principal: &'a Principal,
    request: &Request<'_>,
) -> Reply<'a> {
    if let Err(answer) = check_media(request, &["text/event-stream"]) {
        return Reply::Answer(answer);
    }
    let session = match find(api, scope, principal, request, None) {
        Ok(session) => session,
        Err(answer) => return Reply::Answer(answer),
    };
    let wrong = |status: u16, what: String| Reply::Answer(refusal(status, None, &Failure::new(INVALID_REQUEST, what)));
    let Some(in_use) = session.begin_use() else { return wrong(404, "the session has ended".to_owned()) };
    let client = Arc::clone(request.client);
    let last_event_id = request.header("Last-Event-ID");
    let reader = match last_event_id {
        Some(event_id) => match session.streams.resume(event_id, &client) {
            Ok(reader) => reader,
            Err(what) => return wrong(400, what),
        },
        None => session.streams.listen(&client),
    };
    // One that comes back knows already how to.
    let is_new = last_event_id.is_none();
    Reply::Stream(Box::new(Get::new(api, principal, session, reader, client, is_new, in_use)))
}

/// Ends a session.
pub(super) fn delete(api: &Api, scope: Option<&str>, principal: &Principal, request: &Request<'_>) -> Answer {
    match find(api, scope, principal, request, None) {
        Ok(session) => {
            if let Some(session) = api.sessions.remove(&session.id) {
                end(api, &session);
            }
            Answer::empty(204)
        }
        Err(answer) => answer,
    }
}

/// Ends a session that nobody can find any more, with the workers that are its own.
pub(super) fn end(api: &Api, session: &Session) {
    session.end();
    api.servers.end_session(&session.key, &session.id);
}

/// An id that nobody can guess (MCP 2025-11-25, session management).
pub(super) fn new_session_id() -> Result<Arc<str>, Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|cause| Error::Internal { what: format!("no random numbers: {cause}") })?;
    Ok(data_encoding::HEXLOWER.encode(&bytes).into())
}

/// The session that a request names. `id` is the raw id of the message, if that is known.
fn find(
    api: &Api,
    scope: Option<&str>,
    principal: &Principal,
    request: &Request<'_>,
    id: Option<&str>,
) -> Result<Arc<Session>, Answer> {
    let refuse = |status: u16, what: &str| refusal(status, id, &Failure::new(INVALID_REQUEST, what));
    let Some(session_id) = request.header(SESSION_HEADER) else {
        return Err(refuse(400, "the header `Mcp-Session-Id` is missing: a session is opened with `initialize`"));
    };
    let session = api.sessions.get(session_id).filter(|it| it.is_of(&principal.name, scope) && !it.is_old);
    session.ok_or_else(|| refuse(404, "there is no such session, or not any more: open one with `initialize`"))
}

fn initialize<'a>(
    api: &'a Api,
    scope: Option<&'a str>,
    principal: &'a Principal,
    request: &Request<'_>,
    id: &str,
    params: Option<&RawValue>,
) -> Reply<'a> {
    let full = |error: &Error| {
        let headers = Answer::error(error, request.id).headers;
        Reply::Answer(Answer { headers, ..refusal(503, Some(id), &failure_of(error.clone())) })
    };
    if let Err(error) = api.sessions.check_room() {
        return full(&error);
    }
    let mut party = party(api, scope, principal, Era::Legacy, request.client);
    party.trace = request.trace.map(Arc::clone);
    let agreed = new_session_id().map_err(Trouble::from).and_then(|session_id| {
        let agreed = agree(&mut party, &session_id, params)
            .inspect_err(|_| api.servers.end_session(&principal.name, &session_id));
        agreed.map(|agreed| (session_id, agreed))
    });
    let (session_id, (agreed, own, result)) = match agreed {
        Ok(agreed) => agreed,
        Err(Trouble::Gone) => return Reply::Gone,
        Err(Trouble::Failure(failure)) => return Reply::Answer(refusal(200, Some(id), &failure)),
    };
    let (session, given_up) = match api.sessions.open(Arc::clone(&session_id), &principal.name, scope, false) {
        Ok(opened) => opened,
        Err(error) => {
            api.servers.end_session(&principal.name, &session_id);
            return full(&error);
        }
    };
    given_up.iter().for_each(|session| end(api, session));
    session.agree(agreed);
    own.into_iter().for_each(|(server, workers)| session.add_own(&server, workers));
    let headers = vec![(SESSION_HEADER, session.id.to_string())];
    Reply::Answer(Answer { headers, ..message(200, incoming::result(id, result.get())) })
}

/// What is agreed on with a client that says `params` in `initialize`, the workers that are the session's own, and the
/// result that tells it so.
pub(super) fn agree(
    party: &mut Party<'_>,
    session_id: &Arc<str>,
    params: Option<&RawValue>,
) -> Result<(Agreed, Own, Box<RawValue>), Trouble> {
    let fields = params.and_then(raw::Fields::read).unwrap_or_default();
    let object = |name: &str| {
        let value = fields.get(name).filter(|value| value.get().starts_with('{'));
        value.map_or_else(|| raw::object(""), ToOwned::to_owned)
    };
    let version = params.and_then(|params| raw::text(params, "protocolVersion"));
    let version = version.ok_or_else(|| Failure::new(INVALID_PARAMS, "`protocolVersion` is missing"))?;
    let revision = revision::negotiate(&version);
    let hello = Arc::new(Hello { capabilities: object("capabilities"), client_info: object("clientInfo") });
    party.session = Some(Arc::clone(session_id));
    party.hello = Some(Arc::clone(&hello));
    let offers = Offers::gather(party)?;
    let result = offers.initialize(revision);
    let traits = Traits::read(&hello.capabilities, revision);
    Ok((Agreed { revision, traits, hello }, offers.own, result))
}

/// Takes what wants no answer.
pub(super) fn take_notification(session: &Session, method: &str, params: Option<&RawValue>) {
    match method {
        "notifications/cancelled" => {
            if let Some(id) = params.and_then(|params| raw::field(params, "requestId")) {
                session.cancel(id.get());
            }
        }
        "notifications/progress" => params.into_iter().for_each(|params| session.pass_progress(params)),
        // Other workers ask in every request anew.
        "notifications/roots/list_changed" => {
            session.own().iter().for_each(|workers| workers.tell(|out| push_notification(out, method)));
        }
        _ => log::debug!("a client notifies `{method}`"),
    }
}
