//! Connections that have been quiet for a moment: they wait for their next request without a thread.
//!
//! A thread that waits keeps what its deepest call has touched of its stack, and what malloc keeps ready for it, which together is
//! most of what an idle connection would cost. So it hands its connection over and ends, and the thread that watches for hang-ups
//! starts another one when there is something to read. Who is back within [`REST_AFTER`] finds the same thread.
//!
//! **Limit.** A connection each, until the time of `KEEP_ALIVE_TIMEOUT`, which the watching thread keeps.
//! **End.** The client speaks or closes, the time has come, or the gateway drains.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    time::{Duration, Instant},
};

use super::connection::{Connection, Failure};

/// How long a connection has to be quiet before its thread ends: long beside what it takes to start one.
pub(super) const REST_AFTER: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Default)]
pub(super) struct Resting {
    /// By number, with the time at which each is to be closed.
    connections: HashMap<u64, (Instant, Box<Connection>)>,
    by_time: BTreeSet<(Instant, u64)>,
}

impl Resting {
    /// Takes one in. True: it is the next to be closed.
    pub(super) fn add(&mut self, connection: Box<Connection>, until: Instant) -> bool {
        let number = connection.peer.number();
        self.connections.insert(number, (until, connection));
        self.by_time.insert((until, number));
        self.by_time.first() == Some(&(until, number))
    }

    /// Takes one out, if it is here.
    pub(super) fn take(&mut self, number: u64) -> Option<Box<Connection>> {
        let (until, connection) = self.connections.remove(&number)?;
        self.by_time.remove(&(until, number));
        Some(connection)
    }

    /// Takes one out whose time had come by `now`.
    pub(super) fn take_late(&mut self, now: Instant) -> Option<Box<Connection>> {
        let (_, number) = *self.by_time.first().filter(|(until, _)| *until <= now)?;
        self.take(number)
    }

    /// Takes one out, if there are any.
    pub(super) fn take_any(&mut self) -> Option<Box<Connection>> {
        let (_, number) = *self.by_time.first()?;
        self.take(number)
    }

    /// When the next is to be closed.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.by_time.first().map(|(until, _)| *until)
    }
}

impl Connection {
    /// Waits for a request. A time is when the connection is to be closed on which nothing has been said for a while.
    pub(super) fn await_request(&mut self) -> Result<Option<Instant>, Failure> {
        let is_first = self.n_requests == 0;
        let quiet_since = self.quiet_since.take();
        let answered_at = self.await_answer()?.or(quiet_since);
        if !self.buffer.is_empty() {
            return Ok(None);
        }
        self.peer.set_busy(false);
        if self.peers.is_draining() {
            return Err(Failure::Lost);
        }
        let read = if is_first {
            // What a handshake took of it is gone.
            self.stream.read_until(self.accepted_at + self.head_timeout(), &mut self.buffer)
        } else {
            let keep_alive_timeout = self.config.now().keep_alive_timeout;
            let passed = answered_at.map_or(Duration::ZERO, |at| at.elapsed());
            let can_rest = REST_AFTER < keep_alive_timeout;
            let left = REST_AFTER.min(keep_alive_timeout).saturating_sub(passed);
            let read = if can_rest && left.is_zero() {
                Err(io::ErrorKind::TimedOut.into())
            } else {
                self.stream.read_within(left, &mut self.buffer)
            };
            match read {
                Err(error) if can_rest && error.kind() == io::ErrorKind::TimedOut => {
                    let quiet = passed.max(REST_AFTER);
                    return Ok(Some(Instant::now() + keep_alive_timeout.saturating_sub(quiet)));
                }
                read => read,
            }
        };
        match read {
            Ok(0) | Err(_) => Err(Failure::Lost),
            Ok(_) => {
                self.peer.set_busy(true);
                Ok(None)
            }
        }
    }

    /// Closes the connection.
    pub(super) fn end(mut self: Box<Self>) {
        self.stream.say_goodbye();
    }

    /// What the connection's thread is called.
    pub(super) fn thread_name(&self) -> String {
        format!("conn-{}", self.peer.number())
    }

    /// Whether the client has closed the connection and nothing of it is left to be read.
    pub(super) fn is_at_end(&mut self) -> bool {
        self.stream.is_at_end()
    }

    /// Lets go of what only a thread needs.
    pub(super) fn settle_down(&mut self) {
        self.buffer = Vec::new();
        self.doorstep = None;
        self.principal = None;
    }
}
