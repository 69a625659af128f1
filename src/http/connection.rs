//! One connection: requests in, answers out, one after the other, until somebody has enough.
//!
//! Where TLS is spoken, a handshake comes first. Then it reads a head, has the API screen it, reads the body, and writes the answer. Pipelined requests are answered in their
//! order. It knows nothing of paths, keys or tools.
//!
//! **Limit.** `HEAD_TIMEOUT` from accept (a handshake included) or from a request's first byte to the end of its head, `BODY_TIMEOUT` for the
//! body, `KEEP_ALIVE_TIMEOUT` between requests (most of it without a thread, see `rest.rs`), `WRITE_TIMEOUT` without progress.
//! **End.** The client closes, a deadline passes, a request cannot be understood, or the gateway drains. A panic in a
//! handler is answered with 500 and ends this connection only.

use std::{
    io,
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use tiny_http::{HTTPVersion, Method};

use super::{
    body::plain_body_len,
    doorstep::Doorstep,
    ended::Ended,
    head::{self, Framing, Head},
    peers::{Peer, Peers, Registration},
    request_id, response,
    stream::{Greeting, Stream},
    tls::Certificates,
    upgraded::Upgraded,
};
use crate::{
    access::{Principal, Visitor},
    api::{Answer, Api, Conversation, Counters, Events, Headers, Reply, Request},
    config::Live,
    error::Error,
    logs::access::AccessLog,
    mcp::trace::Trace,
    threads,
};

/// Longest time for the head of a request in the reserve, which whoever holds it longer takes from others that ask after
/// the gateway's health.
const RESERVE_HEAD_TIMEOUT: Duration = Duration::from_secs(1);

/// A buffer that grew beyond this for one request is not kept for the next.
const BUFFER_BYTES_KEPT: usize = 16 * 1024;

/// Plain calls in a row, after which a connection shares the threads of the lobby: who makes one call and goes should not move house.
const CALLS_BEFORE_LOBBY: u32 = 2;

/// See the module.
pub(super) struct Connection {
    pub(super) api: Arc<Api>,
    pub(super) config: Live,
    pub(super) access_log: Option<Arc<AccessLog>>,
    pub(super) client: IpAddr,
    pub(super) peers: Arc<Peers>,
    pub(super) peer: Arc<Peer>,
    /// What TLS is spoken with, when it is.
    pub(super) certificates: Option<Arc<Certificates>>,
    pub(super) stream: Stream,
    /// Where answers are left by others, once there was one.
    pub(super) doorstep: Option<Box<Doorstep>>,
    /// What there is of it since WebSocket is spoken.
    pub(super) upgraded: Option<Box<Upgraded>>,
    /// Since when it has been between two requests, when it comes from the lobby.
    pub(super) quiet_since: Option<Instant>,
    /// Accepted beyond `CONNECTIONS_MAX`: only questions after the gateway's health are answered.
    pub(super) is_reserve: bool,
    pub(super) accepted_at: Instant,
    /// Bytes that have been read and not been used.
    pub(super) buffer: Vec<u8>,
    pub(super) n_requests: u64,
    /// Whoever is at the other end.
    pub(super) visitor: Visitor,
    /// Whose the request is that is served, once that is known.
    pub(super) principal: Option<Arc<Principal>>,
    /// Dropped last: when it says that the connection is gone, it is.
    pub(super) _registration: Registration,
}

/// Why no answer was made.
pub(super) enum Failure {
    /// The client is to be told, and the connection closed.
    Refused(Error),
    /// There is nobody to tell.
    Lost,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Refused(error)
    }
}

/// What became of a request.
enum Outcome {
    /// It is to be answered.
    Answer {
        answer: Answer,
        keep_alive: bool,
        /// Part of the request may still be on its way.
        is_unread: bool,
    },
    /// It was answered while things happened.
    #[allow(missing_docs)]
    Told { status: u16, keep_alive: bool },
    /// Others will answer it.
    Left,
    /// WebSocket is spoken from now on.
    Upgraded(Box<Conversation>),
}

/// How a request was served.
pub(super) enum Served {
    /// It was answered.
    Answered,
    /// Others answer it.
    Left,
    /// WebSocket is spoken from now on.
    Upgraded,
    /// The connection is over.
    Over,
}

impl Connection {
    /// Serves requests until the end of the connection, or until it may rest: then it is run again when its client speaks.
    pub(super) fn run(mut self: Box<Self>) {
        if self.upgraded.is_some() {
            return self.speak();
        }
        let is_new = self.n_requests == 0;
        if is_new && !self.shake_hands() {
            return self.end();
        }
        let mut n_left = 0;
        loop {
            match self.await_request() {
                Ok(None) => {}
                Ok(Some(until)) => {
                    let peers = Arc::clone(&self.peers);
                    self.settle_down();
                    match peers.rest(self, until) {
                        Ok(()) => return,
                        Err(connection) => self = connection,
                    }
                    continue;
                }
                Err(Failure::Lost) => break,
                Err(Failure::Refused(error)) => {
                    let _ = self.refuse(&error);
                    break;
                }
            }
            match self.serve_one() {
                Ok(Served::Answered) => n_left = 0,
                Ok(Served::Left) => n_left += 1,
                Ok(Served::Upgraded) => return self.speak(),
                Ok(Served::Over) | Err(_) => break,
            }
            if CALLS_BEFORE_LOBBY <= n_left && self.may_enter_lobby() {
                n_left = 0;
                let lobby = Arc::clone(&self.peers.lobby);
                match lobby.enter(self) {
                    Ok(()) => return,
                    Err(connection) => self = connection,
                }
            }
        }
        self.end();
    }

    /// Begins to speak TLS, where that is spoken. False: the connection is over.
    fn shake_hands(&mut self) -> bool {
        let Some(certificates) = &self.certificates else { return true };
        let deadline = self.accepted_at + self.head_timeout();
        match self.stream.shake_hands(certificates.current(), deadline) {
            Ok(Greeting::Tls) => true,
            Ok(Greeting::PlainHttp) => {
                let _ = self.refuse(&Error::PlainHttp);
                false
            }
            Err(error) => {
                log::debug!("no TLS with the client of connection {}: {error}", self.peer.number());
                false
            }
        }
    }

    /// Serves one request.
    pub(super) fn serve_one(&mut self) -> io::Result<Served> {
        let head_end = match self.read_head() {
            Ok(head_end) => head_end,
            Err(Failure::Lost) => return Ok(Served::Over),
            Err(Failure::Refused(error)) => return self.refuse(&error),
        };
        let started_at = Instant::now();
        let written_before = self.stream.written_bytes();
        self.n_requests += 1;
        self.principal = None;
        Counters::add(&self.api.counters.requests_total);
        let head = match Head::parse(&self.buffer[..head_end]) {
            Ok(head) => head,
            Err(error) => return self.refuse(&error),
        };
        let request_id = self.request_id(head.header(&self.buffer, "X-Request-Id"));
        let trace = self.trace(&head);

        let outcome = match self.answer(&head, head_end, &request_id, trace.as_ref()) {
            Ok(outcome) => Some(outcome),
            Err(Failure::Lost) => None,
            Err(Failure::Refused(error)) => {
                let answer = Answer::error(&error, &request_id);
                let is_unread = head.framing != Framing::None;
                Some(Outcome::Answer {
                    answer,
                    keep_alive: head.keep_alive && !is_unread && !self.is_reserve,
                    is_unread,
                })
            }
        };
        let (status, keep_alive, must_linger) = match outcome {
            Some(Outcome::Left) => {
                self.forget(head_end + plain_body_len(&head));
                return Ok(Served::Left);
            }
            Some(Outcome::Upgraded(conversation)) => {
                let upgraded = Upgraded::new(*conversation, head, request_id, trace, started_at, written_before);
                self.upgraded = Some(Box::new(upgraded));
                return Ok(Served::Upgraded);
            }
            None => (None, false, false),
            Some(Outcome::Told { status, keep_alive }) => {
                (Some(status), keep_alive && !self.peers.is_draining(), false)
            }
            Some(Outcome::Answer { answer, keep_alive, is_unread }) => {
                let keep_alive = keep_alive && !self.peers.is_draining();
                let is_head_only = head.method == Method::Head;
                let answer = self.with_extras(answer, &head, head_end);
                let written = self.write(&answer, &request_id, &head.version, is_head_only, keep_alive);
                let may_have_sent_more = is_unread || head.keep_alive;
                match written {
                    Ok(()) => (Some(answer.status), keep_alive, !keep_alive && may_have_sent_more),
                    Err(_) => (None, false, false),
                }
            }
        };
        let ended = Ended { status, started_at, written_before, request_id: &request_id, trace: trace.as_deref() };
        self.note(Some(&head), &ended);
        if must_linger {
            self.stream.linger();
        }
        if !keep_alive {
            return Ok(Served::Over);
        }
        self.forget(head_end + plain_body_len(&head));
        Ok(Served::Answered)
    }

    /// The trace that a client says its request belongs to.
    fn trace(&self, head: &Head) -> Option<Arc<Trace>> {
        let [parent, state] = Trace::KEYS.map(|name| head.all(&self.buffer, name));
        Trace::read(parent, state).map(Arc::new)
    }

    /// Reads to the end of the head of a request whose beginning is there. Returns where that is in the buffer.
    fn read_head(&mut self) -> Result<usize, Failure> {
        let is_first = self.n_requests == 0;
        let head_timeout = self.head_timeout();
        let began_at = if is_first { self.accepted_at } else { Instant::now() };
        let deadline = began_at + head_timeout;
        let mut n_seen = 0;
        loop {
            if let Some(end) = head::find_end(&self.buffer, n_seen, self.config.now().head_bytes_max)? {
                return Ok(end);
            }
            n_seen = self.buffer.len();
            self.read_more(deadline, "head", head_timeout)?;
        }
    }

    /// How long a head may take.
    pub(super) fn head_timeout(&self) -> Duration {
        let head_timeout = self.config.now().head_timeout;
        if self.is_reserve { head_timeout.min(RESERVE_HEAD_TIMEOUT) } else { head_timeout }
    }

    /// Reads once more for a request that has begun.
    pub(super) fn read_more(&mut self, deadline: Instant, part: &'static str, after: Duration) -> Result<(), Failure> {
        match self.stream.read_until(deadline, &mut self.buffer) {
            Ok(0) => Err(Failure::Lost),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(Error::RequestTimeout { part, after }.into()),
            Err(_) => Err(Failure::Lost),
        }
    }

    fn answer(
        &mut self,
        head: &Head,
        head_end: usize,
        request_id: &str,
        trace: Option<&Arc<Trace>>,
    ) -> Result<Outcome, Failure> {
        let screened = self.api.screen(head, &self.buffer[..head_end], &mut self.visitor);
        let is_health = screened.as_ref().is_ok_and(|ticket| ticket.is_health());
        if self.is_reserve && !is_health {
            Counters::add(&self.api.counters.connections_refused_total);
            let what = format!("the gateway serves {} connections already", self.config.now().connections_max);
            return Err(
                Error::Overloaded { what, hint: super::MORE_CONNECTIONS, retry_after: super::RETRY_AFTER }.into()
            );
        }
        let ticket = screened?;
        self.principal = Some(Arc::clone(ticket.principal()));
        let body = self.read_body(head, head_end)?;
        let can_leave = head.keep_alive
            && head.version == (1, 1)
            && body.is_none()
            && self.buffer.len() == head_end + plain_body_len(head)
            && !self.is_reserve
            && self.access_log.is_none()
            && self.stream.is_plain()
            && !log::log_enabled!(log::Level::Debug);
        if can_leave && self.doorstep.is_none() {
            self.doorstep = Doorstep::new(self).ok().map(Box::new);
        }
        let request = Request {
            outlet: self.doorstep.as_ref().filter(|_| can_leave).map(|it| it.outlet()),
            head,
            head_bytes: &self.buffer[..head_end],
            body: body.as_deref().unwrap_or(&self.buffer[head_end..head_end + plain_body_len(head)]),
            id: request_id,
            client: &self.peer.client,
            address: self.visitor.address(),
            trace,
        };
        let keep_alive = head.keep_alive && !self.is_reserve;
        if !ticket.is_brief() {
            threads::about_to_wait();
        }
        match guard(request_id, || self.api.answer(&ticket, &request)) {
            Ok(Reply::Answer(answer)) => Ok(Outcome::Answer { answer, keep_alive, is_unread: false }),
            Ok(Reply::Later(later)) => {
                if let Some(doorstep) = &mut self.doorstep {
                    doorstep.expect(later);
                }
                Ok(Outcome::Left)
            }
            Ok(Reply::Gone) => Err(Failure::Lost),
            Ok(Reply::Stream(events)) => {
                let _open = Counters::hold(&self.api.counters.event_streams);
                // It may be quiet for hours.
                self.buffer.shrink_to_fit();
                let is_chunked = head.version == (1, 1);
                let mut extras = self.extras(head, head_end);
                let has_key = head.query(&self.buffer).is_some_and(|query| query.contains("api_key="));
                extras.push(("Cache-Control", if has_key { "no-cache, no-store" } else { "no-cache" }.to_owned()));
                let head =
                    response::stream_head(request_id, &extras, is_chunked, keep_alive).map_err(|_| Failure::Lost)?;
                let is_told = tell(&mut self.stream, head, is_chunked, events).is_ok();
                Ok(Outcome::Told { status: 200, keep_alive: is_told && keep_alive && is_chunked })
            }
            Ok(Reply::Socket(socket)) => {
                let head = response::upgrade_head(&socket.accept, request_id).map_err(|_| Failure::Lost)?;
                let read_ahead = self.buffer.split_off(head_end);
                // The request's head is noted when the conversation is over, which may be in hours.
                self.buffer.shrink_to_fit();
                let conversation = socket.begin(self.stream.outlet(), read_ahead).map_err(|error| {
                    let what = format!("the system has no room for a WebSocket: {error}");
                    let (hint, retry_after) = (super::MORE_DESCRIPTORS, super::RETRY_AFTER);
                    Error::Overloaded { what, hint, retry_after }
                })?;
                self.stream.write_all(&head, b"").map_err(|_| Failure::Lost)?;
                Ok(Outcome::Upgraded(Box::new(conversation)))
            }
            Err(error) => {
                let answer = Answer::error(&error, request_id);
                Ok(Outcome::Answer { answer, keep_alive: false, is_unread: false })
            }
        }
    }

    pub(super) fn write(
        &mut self,
        answer: &Answer,
        request_id: &str,
        version: &HTTPVersion,
        is_head_only: bool,
        keep_alive: bool,
    ) -> io::Result<()> {
        let head = response::head(answer, request_id, version, keep_alive)?;
        match &answer.insets {
            _ if is_head_only => self.stream.write_all(&head, b""),
            None => self.stream.write_all(&head, &answer.body),
            Some(_) => self.stream.write_pieces(&head, answer.pieces()),
        }
    }

    /// An answer with what goes along because of who asked.
    fn with_extras(&self, answer: Answer, head: &Head, head_end: usize) -> Answer {
        let mut extras = self.extras(head, head_end);
        if extras.is_empty() {
            return answer;
        }
        extras.extend(answer.headers);
        Answer { headers: extras, ..answer }
    }

    fn extras(&self, head: &Head, head_end: usize) -> Headers {
        // A body that came in chunks was taken out from behind the head.
        self.api.extras(head, &self.buffer[..head_end], self.visitor.address(), self.principal.as_deref())
    }

    /// Answers a request that could not even be read, and ends the connection.
    fn refuse(&mut self, error: &Error) -> io::Result<Served> {
        let request_id = self.request_id(None);
        log::debug!(request_id = request_id.as_str(); "{request_id} refused: {error}");
        let (started_at, written_before) = (Instant::now(), self.stream.written_bytes());
        let answer = Answer::error(error, &request_id);
        let written = self.write(&answer, &request_id, &HTTPVersion(1, 1), false, false);
        let status = written.is_ok().then_some(answer.status);
        self.principal = None;
        self.note(None, &Ended { status, started_at, written_before, request_id: &request_id, trace: None });
        if written.is_ok() {
            self.stream.linger();
        }
        Ok(Served::Over)
    }

    /// Drops a served request from the buffer.
    fn forget(&mut self, n_bytes: usize) {
        self.buffer.drain(..n_bytes.min(self.buffer.len()));
        let is_oversized = BUFFER_BYTES_KEPT < self.buffer.capacity() && self.buffer.len() < BUFFER_BYTES_KEPT;
        if is_oversized {
            self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        }
    }

    fn request_id(&self, given: Option<&str>) -> String {
        request_id::of(given, [super::process_tag().into(), self.peer.number(), self.n_requests])
    }
}

/// Writes an event stream: in chunks, or to the end of the connection for a client that knows none.
fn tell(stream: &mut Stream, head: Vec<u8>, is_chunked: bool, events: Box<dyn Events + '_>) -> io::Result<()> {
    let mut framed = head;
    if !events.begins_soon() {
        stream.write_all(&framed, b"")?;
        framed.clear();
    }
    let last = events.run(&mut |bytes| {
        let written = if is_chunked {
            push_chunk(&mut framed, bytes);
            stream.write_all(&framed, b"")
        } else {
            stream.write_all(&framed, bytes)
        };
        framed.clear();
        written
    })?;
    if !is_chunked {
        return stream.write_all(&framed, &last);
    }
    push_chunk(&mut framed, &last);
    framed.extend_from_slice(b"0\r\n\r\n");
    stream.write_all(&framed, b"")
}

/// Puts bytes into a chunk (RFC 9112, 7.1). An empty one would be the last of all, so nothing becomes none.
fn push_chunk(framed: &mut Vec<u8>, bytes: &[u8]) {
    if !bytes.is_empty() {
        framed.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
        framed.extend_from_slice(bytes);
        framed.extend_from_slice(b"\r\n");
    }
}

/// Runs a handler; its panic becomes [`Error::Internal`], so that it costs one connection only.
pub(super) fn guard<T>(request_id: &str, handler: impl FnOnce() -> T) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(handler)).map_err(|_| {
        let what = format!("the gateway failed while it served request {request_id}");
        log::error!("{what}; the panic stands above");
        Error::Internal { what }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_in_a_handler_becomes_an_answer() {
        let error = guard::<()>("id-1", || panic!("a handler that fails")).unwrap_err();
        assert_eq!((error.http_status(), error.code()), (500, "internal"));
        assert!(error.to_string().contains("id-1"), "{error}");
        assert_eq!(guard("id-2", || 7).unwrap(), 7);
    }
}
