//! A connection on which WebSocket is spoken, since a request asked for it.
//!
//! A conversation goes on turn by turn. Between two turns the connection's own thread waits for its client and for the conversation's
//! bell, or, while its client says one thing after the other, the threads of the lobby do (`lobby.rs`). What the bytes mean is the
//! API's business, how they come that of [`Stream`].
//!
//! **Limit.** A read does not wait; a write has `WRITE_TIMEOUT`. **End.** That of the conversation: then the request is noted and the
//! connection closed.

use std::{
    io::{self, Read, Write},
    os::fd::OwnedFd,
    sync::Arc,
    time::Instant,
};

use super::{connection::Connection, ended::Ended, head::Head, rest::REST_AFTER, stream::Stream};
use crate::{
    api::{Conversation, Pause},
    mcp::trace::Trace,
    threads,
};

/// Turns one soon after the other in which the client has said something, after which a connection shares the threads of the lobby.
const TURNS_BEFORE_LOBBY: u32 = 2;

/// Most that is read in a turn.
const BYTES_AT_ONCE_MAX: usize = 64 * 1024;

/// See the module. The head of the request is still in the connection's buffer.
pub(super) struct Upgraded {
    conversation: Conversation,
    /// When the next turn is to be, if nothing happens before.
    next_turn_at: Option<Instant>,
    is_over: bool,
    head: Head,
    request_id: String,
    trace: Option<Arc<Trace>>,
    started_at: Instant,
    written_before: u64,
}

/// What a connection on which WebSocket is spoken needs after a turn.
pub(super) enum Spoken {
    /// To wait.
    Waiting,
    /// Another turn, now.
    More,
    /// To be closed.
    Over,
}

impl Upgraded {
    /// What a request has become that came at `started_at`, when its connection had written so many bytes.
    pub(super) fn new(
        conversation: Conversation,
        head: Head,
        request_id: String,
        trace: Option<Arc<Trace>>,
        started_at: Instant,
        written_before: u64,
    ) -> Upgraded {
        let (next_turn_at, is_over) = (None, false);
        Upgraded { conversation, next_turn_at, is_over, head, request_id, trace, started_at, written_before }
    }

    /// When the next turn is to be, if nothing happens before.
    pub(super) fn next_turn_at(&self) -> Option<Instant> {
        self.next_turn_at
    }

    /// Rings when there is something to tell.
    pub(super) fn bell(&self) -> &Arc<OwnedFd> {
        self.conversation.bell()
    }

    /// Whether its client has said nothing for so long that its connection is better off with a thread of its own.
    pub(super) fn is_quiet(&self) -> bool {
        REST_AFTER <= self.conversation.heard_at().elapsed()
    }
}

impl Connection {
    /// Speaks until the end of the conversation, or until that goes on in the lobby.
    pub(super) fn speak(mut self: Box<Self>) {
        threads::about_to_wait();
        // It was for answers to requests, and there are none any more.
        self.doorstep = None;
        let (mut can_read, mut n_turns) = (true, 0);
        while let Some(upgraded) = &mut self.upgraded {
            let heard_at = upgraded.conversation.heard_at();
            let spoken = self.take_turn_to_speak(can_read);
            let Some(upgraded) = &mut self.upgraded else { break };
            let since_last = upgraded.conversation.heard_at() - heard_at;
            if REST_AFTER <= since_last {
                n_turns = 0;
            } else if !since_last.is_zero() {
                n_turns += 1;
            }
            can_read = match spoken {
                Spoken::Over => break,
                Spoken::More => true,
                Spoken::Waiting if TURNS_BEFORE_LOBBY <= n_turns && self.stream.is_plain() => {
                    n_turns = 0;
                    let lobby = Arc::clone(&self.peers.lobby);
                    match lobby.enter(self) {
                        Ok(()) => return,
                        Err(connection) => self = connection,
                    }
                    true
                }
                Spoken::Waiting => {
                    let until = upgraded.next_turn_at.unwrap_or_else(Instant::now);
                    match self.stream.wait(upgraded.conversation.bell(), until) {
                        Ok(can_read) => can_read,
                        Err(error) => {
                            log::debug!("{} the WebSocket broke off: {error}", upgraded.request_id);
                            break;
                        }
                    }
                }
            };
        }
        if let Some(upgraded) = self.upgraded.take() {
            let Upgraded { conversation, head, request_id, trace, started_at, written_before, .. } = *upgraded;
            // Its calls are taken back.
            drop(conversation);
            self.stream.linger();
            let (request_id, trace) = (&*request_id, trace.as_deref());
            self.note(Some(&head), &Ended { status: Some(101), started_at, written_before, request_id, trace });
        }
        self.end();
    }

    /// Has the conversation go on for a turn. `can_read`: there may be something to read.
    pub(super) fn take_turn_to_speak(&mut self, can_read: bool) -> Spoken {
        let Some(upgraded) = self.upgraded.as_mut().filter(|it| !it.is_over) else { return Spoken::Over };
        let mut wire = Wire { stream: &mut self.stream, can_read, n_read: 0 };
        upgraded.next_turn_at = None;
        match upgraded.conversation.take_turn(&mut wire) {
            Pause::Until(at) => {
                upgraded.next_turn_at = Some(at);
                Spoken::Waiting
            }
            Pause::None => Spoken::More,
            Pause::Over(ended) => {
                upgraded.is_over = true;
                if let Err(error) = ended {
                    log::debug!("{} the WebSocket broke off: {error}", upgraded.request_id);
                }
                Spoken::Over
            }
        }
    }
}

/// A stream as a conversation has it for a turn.
struct Wire<'a> {
    stream: &'a mut Stream,
    /// There may be something to read: a plain socket that gave less than it might have has no more, until it says so.
    can_read: bool,
    /// Bytes that were read in this turn.
    n_read: usize,
}

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.can_read {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        // The rest comes with the next turn: tungstenite reads a message to its end, and that may never come.
        if BYTES_AT_ONCE_MAX <= self.n_read {
            threads::about_to_wait();
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let n = self.stream.read_now(buffer)?;
        self.n_read += n;
        // 0 is the end, and stays to be seen.
        self.can_read = n == 0 || n == buffer.len() || !self.stream.is_plain();
        Ok(n)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.write_all(buffer, b"").map(|()| buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
