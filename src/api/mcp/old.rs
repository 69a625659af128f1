//! The HTTP+SSE transport of MCP 2024-11-05: one event stream for everything a client hears, and POSTs for what it says.
//!
//! The stream's thread drives all requests of its session; a POST only leaves its message to it. Facts: MCP 2024-11-05,
//! transports.
//!
//! **End.** The client goes away, the session ends, or the key is not valid any more; what runs is taken back.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Answer, Api, Reply, Request, check_media,
    exchange::Exchange,
    legacy::{end, new_session_id, take_notification},
    refusal,
    running::Asked,
    session::{Session, Use},
    streams::{News, Reader, STANDALONE},
};
use crate::{
    access::Principal,
    api::{exchange::Events, routes},
    error::Error,
    mcp::incoming::{Failure, Incoming, Parcel},
    worker::mailbox::{Mailbox, Wake},
};

/// The parameter that names a session.
pub(in crate::api) const SESSION_PARAMETER: &str = "sessionId";

/// Opens a session and its stream.
pub(in crate::api) fn open_stream<'a>(
    api: &'a Api,
    scope: Option<&'a str>,
    principal: &'a Principal,
    request: &Request<'_>,
) -> Reply<'a> {
    if let Err(answer) = check_media(request, &["text/event-stream"]) {
        return Reply::Answer(answer);
    }
    let opened = new_session_id().and_then(|id| api.sessions.open(id, &principal.name, scope, true));
    let (session, given_up) = match opened {
        Ok(opened) => opened,
        Err(error) => return Reply::Answer(Answer::error(&error, request.id)),
    };
    given_up.iter().for_each(|session| end(api, session));
    let client = Arc::clone(request.client);
    session.read_inbound(&client);
    let reader = session.streams.listen(&client);
    let endpoint = format!("{}?{SESSION_PARAMETER}={}", routes::messages_path(scope), session.id);
    let in_use = session.begin_use();
    let exchange = Exchange::new(api, scope, principal, &session, &client);
    Reply::Stream(Box::new(OldStream {
        api,
        principal,
        exchange,
        session,
        reader,
        client,
        _in_use: in_use,
        endpoint,
        quiet_max: api.next_quiet_max(),
    }))
}

/// Leaves a message to the thread of its session.
pub(in crate::api) fn post_message(
    api: &Api,
    scope: Option<&str>,
    principal: &Principal,
    request: &Request<'_>,
) -> Answer {
    if let Err(answer) = check_media(request, &[]) {
        return answer;
    }
    let Some(id) = request.query(SESSION_PARAMETER) else {
        let what = format!("`{SESSION_PARAMETER}` is missing in the query");
        return Answer::error(&Error::BadRequest { what }, request.id);
    };
    let session = api.sessions.get(&id).filter(|session| session.is_of(&principal.name, scope) && session.is_old);
    let Some(session) = session else {
        let hint = "open a session with `GET /sse`".to_owned();
        return Answer::error(&Error::Unknown { what: "session", name: id, hint }, request.id);
    };
    if let Err(unreadable) = Parcel::read(request.body) {
        return refusal(400, unreadable.id.as_deref(), &Failure::new(unreadable.code, unreadable.what));
    }
    if !session.put_inbound(request.body) {
        let what = "the session has too many messages waiting";
        let (hint, retry_after) = ("wait for answers before asking more", Duration::from_secs(1));
        return Answer::error(&Error::Overloaded { what: what.to_owned(), hint, retry_after }, request.id);
    }
    Answer::empty(202)
}

struct OldStream<'a> {
    api: &'a Api,
    principal: &'a Principal,
    exchange: Exchange<'a>,
    session: Arc<Session>,
    reader: Reader,
    client: Arc<Mailbox>,
    /// None when the session has ended before it began.
    _in_use: Option<Use>,
    /// Where the client is to POST.
    endpoint: String,
    quiet_max: Duration,
}

impl OldStream<'_> {
    fn take_inbound(&mut self) {
        while let Some(body) = self.session.take_inbound() {
            // It was read before it was left here.
            let Ok(parcel) = Parcel::read(&body) else { continue };
            for message in parcel.messages() {
                match message {
                    Incoming::Request { id, method, params } => {
                        self.exchange.begin(Asked { id: id.get(), method, params });
                    }
                    Incoming::Notification { method, params } => take_notification(&self.session, method, params),
                    Incoming::Response { id, outcome } => self.session.answer(id, outcome),
                }
            }
        }
    }
}

impl Events for OldStream<'_> {
    fn run(mut self: Box<Self>, write: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<Vec<u8>> {
        write(format!("event: endpoint\ndata: {}\n\n", self.endpoint).as_bytes())?;
        let mut quiet_since = Instant::now();
        // A key that was taken away hears nothing more.
        while self.api.check_still(self.principal).is_ok() {
            self.take_inbound();
            self.exchange.tell_on(STANDALONE);
            if let News::Open(bytes) | News::Over(bytes) = self.session.streams.news(&mut self.reader)
                && !bytes.is_empty()
            {
                write(&bytes)?;
                quiet_since = Instant::now();
            }
            let is_leaving = self.client.is_draining() && self.exchange.is_over();
            if self.session.is_over() || is_leaving {
                return Ok(Vec::new());
            }
            let quiet_until = quiet_since + self.quiet_max;
            let deadline = self.exchange.next_deadline().map_or(quiet_until, |deadline| deadline.min(quiet_until));
            match self.client.wait(deadline) {
                Wake::Event(event) => {
                    self.exchange.take(event);
                    while let Some(event) = self.client.take() {
                        self.exchange.take(event);
                    }
                }
                Wake::Deadline => {
                    self.exchange.look_at_time();
                    if quiet_until <= Instant::now() {
                        write(b": keep-alive\n\n")?;
                        quiet_since = Instant::now();
                    }
                }
                Wake::Closed => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
        Ok(Vec::new())
    }
}

impl Drop for OldStream<'_> {
    fn drop(&mut self) {
        self.exchange.take_all_back();
        if let Some(session) = self.api.sessions.remove(&self.session.id) {
            end(self.api, &session);
        }
    }
}
