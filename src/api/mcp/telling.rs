//! The two ways a client of the legacy era hears over Streamable HTTP: the answer to its POST, and a stream it opens with GET.
//!
//! The thread of a POST drives its requests to their end, whether their client is still there or not: what happens goes
//! into the session's [`Streams`], and to the socket for as long as it takes any.
//!
//! **End.** Of a POST: all its requests have ended. Of a GET: the client, the session or another GET of it, or the key.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Reply,
    exchange::Exchange,
    message,
    session::{Session, Use},
    streams::{News, Reader, Streams},
};
use crate::{
    access::Principal,
    api::{Api, exchange::Events},
    worker::mailbox::{Mailbox, Wake},
};

/// The first revision whose clients understand an event without a message.
const PRIMED_SINCE: &str = "2025-11-25";

/// Requests that came in one POST.
pub(super) struct Post<'a> {
    exchange: Exchange<'a>,
    /// The connection they came over.
    client: Arc<Mailbox>,
    is_batch: bool,
    /// Longest time without a word of ours.
    quiet_max: Duration,
    _in_use: Use,
}

impl<'a> Post<'a> {
    /// What was begun in `exchange` is told over the connection of `client`.
    pub(super) fn new(
        exchange: Exchange<'a>,
        client: Arc<Mailbox>,
        is_batch: bool,
        quiet_max: Duration,
        in_use: Use,
    ) -> Post<'a> {
        Post { exchange, client, is_batch, quiet_max, _in_use: in_use }
    }

    /// Answers with JSON if the answers are the first there is to tell, else with events.
    pub(super) fn answer(mut self) -> Reply<'a> {
        let until = Instant::now() + self.quiet_max;
        loop {
            if self.exchange.has_more_than_answers() {
                return Reply::Stream(Box::new(self));
            }
            if self.exchange.is_over() {
                let answers = self.exchange.answers();
                return match (answers.first(), self.is_batch) {
                    // All were cancelled.
                    (None, _) => Reply::Stream(Box::new(self)),
                    (Some(_), true) => Reply::Answer(message(200, format!("[{}]", answers.join(",")))),
                    (Some(only), false) => Reply::Answer(message(200, only.clone())),
                };
            }
            let deadline = self.exchange.next_deadline().map_or(until, |deadline| deadline.min(until));
            match self.exchange.mailbox.wait(deadline) {
                Wake::Event(event) => self.exchange.take(event),
                Wake::Deadline if until <= Instant::now() => return Reply::Stream(Box::new(self)),
                Wake::Deadline => self.exchange.look_at_time(),
                // Cut off, which only happens to streams; they look after it.
                Wake::Closed => return Reply::Stream(Box::new(self)),
            }
        }
    }

    /// Writes what there is to tell, if somebody hears it. Returns whether all was told that ever will be.
    fn tell(&mut self, reader: &mut Reader, write: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> bool {
        let Exchange { session, .. } = &self.exchange;
        let session = Arc::clone(session);
        let is_over = self.exchange.is_over();
        self.exchange.tell_on(reader.stream);
        if is_over {
            session.streams.finish(reader.stream);
        }
        if !self.exchange.is_attached {
            return false;
        }
        let written = match session.streams.news(reader) {
            News::Open(bytes) | News::Over(bytes) if bytes.is_empty() => Ok(()),
            News::Open(bytes) | News::Over(bytes) => write(&bytes),
            News::Replaced => {
                // Told over another connection now; nobody is to wait at this one.
                self.client.cut_off();
                Err(io::ErrorKind::ConnectionAborted.into())
            }
        };
        if written.is_err() {
            self.exchange.is_attached = false;
            session.streams.leave(reader);
        }
        written.is_ok()
    }
}

impl Events for Post<'_> {
    fn run(mut self: Box<Self>, write: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<Vec<u8>> {
        let session = Arc::clone(&self.exchange.session);
        let mailbox = Arc::clone(&self.exchange.mailbox);
        let mut reader = session.streams.open(&mailbox);
        if session.speaks(PRIMED_SINCE) {
            self.exchange.is_attached = write(Streams::priming(&reader).as_bytes()).is_ok();
        }
        loop {
            let was_over = self.exchange.is_over();
            let is_told = self.tell(&mut reader, write);
            if was_over {
                return if is_told { Ok(Vec::new()) } else { Err(io::ErrorKind::ConnectionAborted.into()) };
            }
            let quiet_until = Instant::now() + self.quiet_max;
            let deadline = self.exchange.next_deadline().map_or(quiet_until, |deadline| deadline.min(quiet_until));
            match mailbox.wait(deadline) {
                Wake::Event(event) => {
                    self.exchange.take(event);
                    while let Some(event) = mailbox.take() {
                        self.exchange.take(event);
                    }
                }
                Wake::Deadline => {
                    self.exchange.look_at_time();
                    let is_quiet = quiet_until <= Instant::now();
                    if is_quiet && self.exchange.is_attached && write(b": keep-alive\n\n").is_err() {
                        self.exchange.is_attached = false;
                        session.streams.leave(&reader);
                    }
                }
                Wake::Closed => {
                    self.exchange.give_all_up("the client was too far behind and was cut off");
                    self.exchange.tell_on(reader.stream);
                    session.streams.finish(reader.stream);
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
            }
        }
    }
}

/// A stream of a session that a client listens to.
pub(super) struct Get<'a> {
    api: &'a Api,
    principal: &'a Principal,
    session: Arc<Session>,
    reader: Reader,
    client: Arc<Mailbox>,
    is_primed: bool,
    quiet_max: Duration,
    _in_use: Use,
}

impl<'a> Get<'a> {
    /// What `reader` reads is told over the connection of `client`. `is_new`: it has heard nothing of this stream yet.
    pub(super) fn new(
        api: &'a Api,
        principal: &'a Principal,
        session: Arc<Session>,
        reader: Reader,
        client: Arc<Mailbox>,
        is_new: bool,
        in_use: Use,
    ) -> Get<'a> {
        let is_primed = is_new && session.speaks(PRIMED_SINCE);
        let quiet_max = api.next_quiet_max();
        Get { api, principal, session, reader, client, is_primed, quiet_max, _in_use: in_use }
    }
}

impl Events for Get<'_> {
    fn run(mut self: Box<Self>, write: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<Vec<u8>> {
        if self.is_primed {
            write(Streams::priming(&self.reader).as_bytes())?;
        }
        let mut quiet_since = Instant::now();
        // A key that was taken away hears nothing more.
        while self.api.check_still(self.principal).is_ok() {
            let (bytes, is_over) = match self.session.streams.news(&mut self.reader) {
                News::Open(bytes) => (bytes, self.session.is_over() || self.client.is_draining()),
                News::Over(bytes) => (bytes, true),
                News::Replaced => (Vec::new(), true),
            };
            if is_over {
                return Ok(bytes);
            }
            if !bytes.is_empty() {
                write(&bytes)?;
                quiet_since = Instant::now();
            }
            match self.client.wait(quiet_since + self.quiet_max) {
                Wake::Event(_) => {}
                Wake::Deadline => {
                    write(b": keep-alive\n\n")?;
                    quiet_since = Instant::now();
                }
                Wake::Closed => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
        Ok(Vec::new())
    }
}

impl Drop for Get<'_> {
    fn drop(&mut self) {
        self.session.streams.leave(&self.reader);
    }
}
