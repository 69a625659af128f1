//! Answers that others leave at a connection's door: who has the result of a call writes its answer, and the connection's thread
//! only waits for the next request.
//!
//! One wake-up less for each call, which with many connections is a third of what a call costs. The thread polls its socket and an
//! eventfd, by which it hears of what it must see to itself.
//!
//! **End.** That of the connection; a call whose client goes away meanwhile is taken back.

use std::{
    io::{self, IoSlice},
    net::TcpStream,
    os::fd::OwnedFd,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use rustix::event::{EventfdFlags, eventfd};
use tiny_http::HTTPVersion;

use super::{
    connection::{Connection, Failure, guard},
    response,
    rest::REST_AFTER,
    stream::send_now,
};
use crate::{
    api::{Answer, Api, Later, Outlet},
    pool::TakenBack,
    worker::mailbox::{Event, Leftover, Wake},
};

/// See the module.
#[derive(Debug)]
pub(super) struct Doorstep {
    outlet: Arc<dyn Outlet>,
    /// Wakes the connection's thread.
    bell: Arc<OwnedFd>,
    /// The call that is under way.
    expected: Option<Later>,
    /// It takes so long that its end is to wake the thread, which would else not know when the connection is idle.
    is_recalled: bool,
}

impl Doorstep {
    pub(super) fn new(connection: &Connection) -> io::Result<Doorstep> {
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let outlet = Arc::new(Socket { tcp: connection.peer.tcp(), api: Arc::clone(&connection.api) });
        Ok(Doorstep { outlet, bell, expected: None, is_recalled: false })
    }

    pub(super) fn outlet(&self) -> &Arc<dyn Outlet> {
        &self.outlet
    }

    /// The call under way.
    pub(super) fn expected(&self) -> Option<&Later> {
        self.expected.as_ref()
    }

    /// Notes that others have answered it.
    pub(super) fn note_answered(&mut self) {
        self.expected = None;
    }

    /// What wakes whoever waits for the connection.
    pub(super) fn bell(&self) -> &Arc<OwnedFd> {
        &self.bell
    }

    /// The answer of this call is to be waited for next.
    pub(super) fn expect(&mut self, later: Later) {
        self.is_recalled = false;
        self.expected = Some(later);
    }
}

impl Connection {
    /// Sees to it that the request before is answered, and reads what the client says meanwhile. Returns when it was answered, if
    /// others did that.
    pub(super) fn await_answer(&mut self) -> Result<Option<Instant>, Failure> {
        let client = Arc::clone(&self.peer.client);
        while let Some(doorstep) = &mut self.doorstep
            && let Some(later) = &doorstep.expected
        {
            if let Some(event) = client.take_or_arm(&doorstep.bell) {
                match self.hear(event)? {
                    Heard::Answered(at) => return Ok(at),
                    Heard::Nothing => continue,
                }
            }
            let now = Instant::now();
            let deadline = later.deadline();
            let is_over = client.is_closed() || deadline <= now;
            if is_over {
                return self.give_up().map(|()| None);
            }
            // That it was answered meanwhile shows at the next look only.
            let look_at = now + REST_AFTER;
            let until = if doorstep.is_recalled { deadline } else { deadline.min(look_at) };
            match self.stream.wait(&doorstep.bell, until).and_then(|can_read| match can_read {
                true => self.stream.read_now_into(&mut self.buffer).map(Some),
                false => Ok(None),
            }) {
                Ok(None) => {
                    if look_at <= Instant::now() && !doorstep.is_recalled {
                        doorstep.is_recalled = client.recall();
                    }
                }
                // Who sends the next request has the answer, mostly; one who has not has to wait for it.
                Ok(Some(1..)) => return self.settle(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(Some(0)) | Err(_) => client.close(),
            }
        }
        Ok(None)
    }

    /// Waits for the answer while the next request is there already.
    fn settle(&mut self) -> Result<Option<Instant>, Failure> {
        let client = Arc::clone(&self.peer.client);
        while let Some(later) = self.doorstep.as_ref().and_then(|it| it.expected.as_ref()) {
            match client.wait(later.deadline()) {
                Wake::Event(event) => {
                    if let Heard::Answered(at) = self.hear(event)? {
                        return Ok(at);
                    }
                }
                // Progress has moved the deadline while we slept.
                Wake::Deadline if Instant::now() < later.deadline() => {}
                Wake::Closed | Wake::Deadline => self.give_up()?,
            }
        }
        Ok(None)
    }

    /// Deals with what has happened in the call that is waited for.
    fn hear(&mut self, event: Event) -> Result<Heard, Failure> {
        let Some(later) = self.doorstep.as_mut().and_then(|it| it.expected.take()) else { return Ok(Heard::Nothing) };
        match event {
            Event::Relayed { tag, at, leftover } if tag == later.tag() => match leftover {
                Leftover::Nothing => Ok(Heard::Answered(Some(at))),
                Leftover::Bytes(bytes) => {
                    self.stream.write_all(&bytes, b"").map_err(|_| Failure::Lost)?;
                    Ok(Heard::Answered(None))
                }
                Leftover::Gone => Err(Failure::Lost),
            },
            Event::Ended(ended) if ended.tag == later.tag() => {
                self.answer_late(&later, |later| later.answer(ended))?;
                Ok(Heard::Answered(None))
            }
            _ => {
                if let Some(doorstep) = &mut self.doorstep {
                    doorstep.expected = Some(later);
                }
                Ok(Heard::Nothing)
            }
        }
    }

    /// Takes back the call that is waited for, because its time is up or its client is gone. It may be answered for all that.
    fn give_up(&mut self) -> Result<(), Failure> {
        let client = Arc::clone(&self.peer.client);
        let Some(doorstep) = &mut self.doorstep else { return Ok(()) };
        let is_recalled = doorstep.is_recalled || client.recall();
        if !is_recalled {
            // Somebody is at it, or was.
            let Some(tag) = doorstep.expected.as_ref().map(Later::tag) else { return Ok(()) };
            return self.hear(client.wait_for_last(tag)).map(drop);
        }
        let Some(later) = doorstep.expected.take() else { return Ok(()) };
        let why = if client.is_closed() { TakenBack::ClientGone } else { TakenBack::TooLong };
        self.answer_late(&later, |later| later.give_up(why, &client))
    }

    /// Answers a call that has come back.
    fn answer_late(&mut self, later: &Later, answer: impl FnOnce(&Later) -> Option<Answer>) -> Result<(), Failure> {
        let (answer, is_sound) = match guard(later.request_id(), || answer(later)) {
            Ok(answer) => (answer, true),
            Err(error) => (Some(Answer::error(&error, later.request_id())), false),
        };
        self.api.counters.outcomes.add(answer.as_ref().map(|it| it.status));
        let answer = answer.ok_or(Failure::Lost)?;
        let keep_alive = is_sound && !self.peers.is_draining();
        self.write(&answer, later.request_id(), &HTTPVersion(1, 1), false, keep_alive).map_err(|_| Failure::Lost)?;
        if keep_alive { Ok(()) } else { Err(Failure::Lost) }
    }
}

/// What an event says of the answer that is waited for.
enum Heard {
    Nothing,
    /// It was given; by others at that moment, or just now.
    Answered(Option<Instant>),
}

/// A connection's socket, as others write to it.
#[derive(Debug)]
struct Socket {
    tcp: Arc<TcpStream>,
    api: Arc<Api>,
}

impl Outlet for Socket {
    fn write(&self, answer: &Answer, request_id: &str) -> Leftover {
        let Ok(head) = response::head(answer, request_id, &HTTPVersion(1, 1), true) else { return Leftover::Gone };
        let body = answer.whole_body();
        let n_bytes = head.len() + body.len();
        let Some(written) = send_now(&self.tcp, &[IoSlice::new(&head), IoSlice::new(&body)]) else {
            return Leftover::Gone;
        };
        self.api.counters.outcomes.add(Some(answer.status));
        self.api.counters.traffic.written_bytes.fetch_add(written as u64, Ordering::Relaxed);
        if written == n_bytes {
            return Leftover::Nothing;
        }
        let mut left = head;
        left.extend_from_slice(&body);
        left.drain(..written);
        Leftover::Bytes(left)
    }
}
