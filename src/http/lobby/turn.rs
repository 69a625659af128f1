//! A connection's turn in the lobby: what was said is served, and nothing is waited for.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use super::Watched;
use crate::{
    http::{
        connection::{Connection, Served},
        rest::REST_AFTER,
        upgraded::Spoken,
    },
    threads,
    worker::mailbox::Word,
};

/// A call with less time than this is waited for by a thread of its own, which is more exact.
const CALL_TIME_MIN: Duration = Duration::from_secs(2);

/// The same for `KEEP_ALIVE_TIMEOUT`.
const KEEP_ALIVE_MIN: Duration = Duration::from_secs(2);

/// Most that is read of a request here.
const BYTES_MAX: usize = 64 * 1024;

/// Requests that are answered at once, one after the other on one connection, before somebody else serves the others.
const ANSWERS_IN_A_ROW: u32 = 16;

/// What becomes of a connection after its turn.
pub(super) enum Turn {
    /// It waits for the next.
    Stay(Box<Connection>),
    /// It needs a thread of its own.
    Leave(Box<Connection>),
    /// It is over.
    Over(Box<Connection>),
}

impl Connection {
    /// Whether calls that follow are better served in the lobby, now that one was begun.
    pub(in crate::http) fn may_enter_lobby(&self) -> bool {
        KEEP_ALIVE_MIN <= self.config.now().keep_alive_timeout && self.has_time()
    }

    /// Whether the call under way has so much time that it need not be looked at soon.
    fn has_time(&self) -> bool {
        let later = self.doorstep.as_ref().and_then(|it| it.expected());
        later.is_some_and(|later| Instant::now() + CALL_TIME_MIN <= later.deadline())
    }

    /// What tells that something has happened here.
    pub(super) fn watched(&self) -> Vec<Watched> {
        let bells = [self.doorstep.as_ref().map(|it| it.bell()), self.upgraded.as_ref().map(|it| it.bell())];
        let bells = bells.into_iter().flatten().map(|it| Watched::Bell(Arc::clone(it)));
        std::iter::once(Watched::Socket(self.peer.tcp())).chain(bells).collect()
    }

    /// Sees to it that what happens now is told of. False: there is something to be seen to already.
    pub(super) fn is_at_ease(&mut self) -> bool {
        if self.upgraded.is_some() {
            // It comes when it has nothing to do, and its bell rings for ever.
            return true;
        }
        loop {
            match self.listen(false) {
                Some(Word::Relayed(_)) => {}
                Some(Word::None) => return self.buffer.is_empty(),
                Some(Word::Other) | None => return false,
            }
        }
    }

    fn is_expecting(&self) -> bool {
        self.doorstep.as_ref().is_some_and(|it| it.expected().is_some())
    }

    /// Serves what was said, without waiting for more. `is_due`: it has been here for [`REST_AFTER`] without a turn.
    pub(super) fn take_turn(mut self: Box<Self>, is_due: bool) -> Turn {
        if self.upgraded.is_some() {
            return self.go_on_speaking();
        }
        match self.listen(false) {
            Some(Word::Relayed(_) | Word::None) => {}
            Some(Word::Other) | None => return self.leave_or_end(),
        }
        let is_expecting = self.is_expecting();
        if is_due {
            let is_quiet = self.quiet_since.is_none_or(|since| REST_AFTER <= since.elapsed());
            if is_expecting || is_quiet {
                return Turn::Leave(self);
            }
        }
        let had_more = !self.buffer.is_empty();
        loop {
            match self.stream.read_now_into(&mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Who sends ahead is read no further than that.
                Ok(1..) if is_expecting && had_more => return Turn::Leave(self),
                Ok(1..) => self.quiet_since = None,
                Ok(0) | Err(_) => {
                    self.peer.client.close();
                    return self.leave_or_end();
                }
            }
            // What comes now is told of again.
            if self.buffer.len() < self.buffer.capacity() {
                break;
            }
            if BYTES_MAX < self.buffer.len() {
                threads::about_to_wait();
                return Turn::Leave(self);
            }
        }
        self.settle_in()
    }

    fn go_on_speaking(mut self: Box<Self>) -> Turn {
        let spoken = self.take_turn_to_speak(true);
        let is_quiet = self.upgraded.as_ref().is_some_and(|it| it.is_quiet());
        match spoken {
            Spoken::Waiting if !is_quiet => Turn::Stay(self),
            // Much at once is not done on other clients' time, nor is the end.
            Spoken::Waiting | Spoken::More | Spoken::Over => Turn::Leave(self),
        }
    }

    /// When it is to have its next turn, if nothing happens before.
    pub(super) fn next_turn_at(&self) -> Option<Instant> {
        self.upgraded.as_ref().and_then(|it| it.next_turn_at())
    }

    /// Needs a thread of its own, unless nobody is there and nothing is left to be done.
    fn leave_or_end(self: Box<Self>) -> Turn {
        let is_over = self.peer.client.is_closed() && !self.is_expecting() && self.buffer.is_empty();
        if is_over { Turn::Over(self) } else { Turn::Leave(self) }
    }

    /// Serves requests that were read, and waits for the next.
    fn settle_in(mut self: Box<Self>) -> Turn {
        let mut n_answered = 0;
        loop {
            match self.listen(!self.buffer.is_empty()) {
                Some(Word::Relayed(_)) => {}
                Some(Word::None) if self.is_expecting() || self.buffer.is_empty() => return Turn::Stay(self),
                Some(Word::None) => match self.serve_one() {
                    Ok(Served::Left) => {
                        self.quiet_since = None;
                        if !self.has_time() {
                            return Turn::Leave(self);
                        }
                    }
                    Ok(Served::Answered) => {
                        self.quiet_since = Some(Instant::now());
                        n_answered += 1;
                        if n_answered == ANSWERS_IN_A_ROW {
                            threads::about_to_wait();
                        }
                    }
                    Ok(Served::Upgraded) => return Turn::Leave(self),
                    Ok(Served::Over) | Err(_) => return Turn::Over(self),
                },
                Some(Word::Other) | None => return Turn::Leave(self),
            }
        }
    }

    /// Looks for a word about the call under way; see [`Mailbox::word_of`](crate::worker::mailbox::Mailbox::word_of).
    fn listen(&mut self, wants_end: bool) -> Option<Word> {
        let doorstep = self.doorstep.as_mut()?;
        let tag = doorstep.expected().map(|later| later.tag());
        let word = self.peer.client.word_of(tag, wants_end, doorstep.bell());
        if let Word::Relayed(at) = word {
            doorstep.note_answered();
            self.quiet_since = Some(at);
        }
        Some(word)
    }
}
