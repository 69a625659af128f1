//! Where a waiting client hears of its calls: what happens in them, their end, and the end of the wait.
//!
//! One mailbox serves one waiting thread for as long as its connection lives, so a call costs no channel of its own.
//! It knows neither HTTP nor workers. A crossbeam channel would do for results alone, but not for what streams need:
//! a bound in bytes, and merging the progress of a client that is behind.
//!
//! **Limit.** `STREAM_QUEUE_BYTES` of what happens in calls; a client further behind is cut off. The ends of calls always
//! fit: there is one for each. Progress is merged (the newest is kept) once half of the room is taken.
//! **End.** [`Mailbox::close`] wakes the waiter for good: the client went away, or was cut off.

use std::{
    collections::VecDeque,
    fmt,
    os::fd::OwnedFd,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use serde_json::value::RawValue;

use super::Link;
use crate::{error::Error, mcp::message, threads::about_to_wait};

/// What an event counts for beside its text.
const EVENT_BYTES: usize = 64;

/// What a waiting thread is told about one of its calls.
#[derive(Debug)]
pub enum Event {
    /// Something happened in the call with this tag.
    Note(u64, Note),
    /// A call ended.
    Ended(Ended),
    /// The call with this tag was taken back by somebody else than the waiting thread; it has no other end.
    TakenBack(u64),
    /// Something that the waiting thread looks after has changed.
    Nudge,
    /// A relay has dealt with the end of the call with this tag, at that moment, all but what it left over.
    #[allow(missing_docs)]
    Relayed { tag: u64, at: Instant, leftover: Leftover },
}

/// What a relay could not do without waiting.
#[derive(Debug, PartialEq, Eq)]
pub enum Leftover {
    /// Nothing: it is all done.
    Nothing,
    /// These bytes are still to be written to the client.
    Bytes(Vec<u8>),
    /// The client takes nothing any more.
    Gone,
}

/// Deals with the end of a call in place of the thread that waits for it, on the thread that has the result.
pub trait Relay: fmt::Debug + Send + Sync {
    /// Deals with it, without ever waiting.
    fn take(&self, ended: Ended) -> Taken;
}

/// What a relay did with the end of a call.
#[derive(Debug)]
pub enum Taken {
    /// All that can be done without waiting.
    Done(Leftover),
    /// Nothing: the waiting thread is to deal with it.
    Not(Ended),
}

/// What happens in a running call.
#[derive(Debug)]
pub enum Note {
    /// `notifications/progress`: its parameters, raw.
    Progress(Box<RawValue>),
    /// The same, with an item that the server streams along.
    Chunk(Box<RawValue>),
    /// `notifications/message`: its parameters, raw.
    Log(Box<RawValue>),
    /// The server wants to know something.
    Question(Question),
    /// The server behind this link does not want to know any more what it asked under this id.
    #[allow(missing_docs)]
    Withdrawn { link: Arc<Link>, id: Box<RawValue> },
    /// Any other notification.
    #[allow(missing_docs)]
    Other { method: String, params: Option<Box<RawValue>> },
}

/// A server's request to its client, which must be answered over the same link.
#[derive(Debug)]
pub struct Question {
    /// Where the answer goes.
    pub link: Arc<Link>,
    /// The server's id for it, raw.
    pub id: Box<RawValue>,
    /// `sampling/createMessage`, `elicitation/create` or `roots/list`.
    pub method: String,
    /// Its parameters, raw; `{}` when there are none.
    pub params: Box<RawValue>,
}

impl Question {
    /// Answers it with a result, which is JSON.
    pub fn answer(&self, result: &RawValue) {
        self.link.send_line(|out| message::push_result(out, &self.id, result.get()));
    }

    /// Refuses to answer it.
    pub fn refuse(&self, code: i64, why: &str) {
        self.link.send_line(|out| message::push_error(out, &self.id, code, why));
    }
}

/// The end of a call.
#[derive(Debug)]
pub struct Ended {
    /// Which call: the tag it was started with.
    pub tag: u64,
    /// The worker that had the call, when one had.
    pub worker: Option<Arc<str>>,
    /// The raw result, or why there is none.
    pub outcome: Result<Box<RawValue>, Error>,
}

/// Why [`Mailbox::wait`] came back.
#[derive(Debug)]
pub enum Wake {
    /// Something happened.
    Event(Event),
    /// Nobody waits for answers any more.
    Closed,
    /// The deadline passed.
    Deadline,
}

/// What [`Mailbox::word_of`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Word {
    /// Nothing has happened.
    None,
    /// A relay had dealt with the call at that moment, and left nothing over. Taken out.
    Relayed(Instant),
    /// Something that is to be seen to, or the mailbox is closed or drained. Still there.
    Other,
}

/// See the module.
#[derive(Default)]
pub struct Mailbox {
    state: Mutex<State>,
    wake: Condvar,
    note_bytes_max: usize,
    /// Ends the connection of a client that is too far behind, even while its thread is stuck in a write.
    cut_off: Option<Box<dyn Fn() + Send + Sync>>,
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<Event>,
    note_bytes: usize,
    last_tag: u64,
    is_closed: bool,
    is_draining: bool,
    /// Nobody is there to hear what happens; what is asked waits all the same.
    is_quiet: bool,
    sleeper: Sleeper,
    /// Closed together with this one.
    follower: Option<Arc<Mailbox>>,
    /// Who deals with the end of the call with this tag.
    relay: Option<(u64, Arc<dyn Relay>)>,
}

/// How the owner sleeps: waking nobody would cost a system call all the same.
#[derive(Debug, Default)]
enum Sleeper {
    #[default]
    Awake,
    /// In [`Mailbox::wait`].
    Waiting,
    /// In a poll of its own, with this eventfd among what it polls.
    Polling(Arc<OwnedFd>),
    /// The same, and it wants to hear of what relays have done, too.
    PollingForAll(Arc<OwnedFd>),
}

impl Mailbox {
    /// A mailbox that takes `note_bytes_max` bytes of notes, and calls `cut_off` when more come.
    pub fn new(note_bytes_max: usize, cut_off: impl Fn() + Send + Sync + 'static) -> Mailbox {
        Mailbox { note_bytes_max, cut_off: Some(Box::new(cut_off)), ..Mailbox::default() }
    }

    /// A tag for the next call, so that the late end of an earlier one cannot be taken for its own.
    pub fn next_tag(&self) -> u64 {
        let mut state = self.lock();
        state.last_tag += 1;
        state.last_tag
    }

    /// Delivers the end of a call, to the relay if there is one.
    pub fn put_end(&self, ended: Ended) {
        let mut state = self.lock();
        let relay = state.relay.take_if(|(tag, _)| *tag == ended.tag);
        // Who drains has to be told so with the answer, and what happened before it comes first.
        let event = match relay.filter(|_| !state.is_draining && state.events.is_empty()) {
            None => Event::Ended(ended),
            Some((tag, relay)) => {
                drop(state);
                let taken = relay.take(ended);
                state = self.lock();
                match taken {
                    Taken::Done(leftover) => Event::Relayed { tag, at: Instant::now(), leftover },
                    Taken::Not(ended) => Event::Ended(ended),
                }
            }
        };
        let is_done = matches!(event, Event::Relayed { leftover: Leftover::Nothing, .. });
        let can_sleep_on = is_done && !state.is_draining && matches!(state.sleeper, Sleeper::Polling(_));
        state.events.push_back(event);
        if !can_sleep_on {
            self.wake(state);
        }
    }

    /// Has `relay` deal with the end of the call with this tag, on the thread that delivers it. An owner who polls is not woken when
    /// nothing is left for it to do: it finds [`Event::Relayed`] when it looks.
    pub fn delegate(&self, tag: u64, relay: Arc<dyn Relay>) {
        self.lock().relay = Some((tag, relay));
    }

    /// Takes [`Mailbox::delegate`] back. False: the relay is at it already.
    pub fn recall(&self) -> bool {
        self.lock().relay.take().is_some()
    }

    /// Says that a call has no end: somebody else took it back.
    pub fn put_taken_back(&self, tag: u64) {
        let mut state = self.lock();
        state.events.push_back(Event::TakenBack(tag));
        self.wake(state);
    }

    /// Has the waiting thread look after what it looks after. One nudge is kept, however many are given.
    pub fn nudge(&self) {
        let mut state = self.lock();
        let is_nudged = state.events.iter().any(|event| matches!(event, Event::Nudge));
        if !is_nudged {
            state.events.push_back(Event::Nudge);
            self.wake(state);
        }
    }

    /// Delivers what happened in a call. A client that is too far behind for it is cut off.
    pub fn put_note(&self, tag: u64, note: Note) {
        let mut state = self.lock();
        let is_said_in_vain = state.is_quiet && matches!(note, Note::Progress(_) | Note::Chunk(_) | Note::Log(_));
        if state.is_closed || is_said_in_vain {
            return;
        }
        let is_behind = self.note_bytes_max / 2 < state.note_bytes;
        if is_behind
            && let Note::Progress(_) = note
            && let Some(Event::Note(last_tag, last @ Note::Progress(_))) = state.events.back_mut()
            && *last_tag == tag
        {
            let (before, after) = (last.bytes(), note.bytes());
            *last = note;
            state.note_bytes = state.note_bytes + after - before;
            return;
        }
        state.note_bytes += note.bytes();
        let is_too_far_behind = self.note_bytes_max < state.note_bytes;
        if is_too_far_behind {
            state.is_closed = true;
            state.events.retain(|event| !matches!(event, Event::Note(..)));
            self.wake(state);
            log::warn!("a client is more than {} bytes behind its stream and is cut off", self.note_bytes_max);
            return self.cut_off.iter().for_each(|cut_off| cut_off());
        }
        state.events.push_back(Event::Note(tag, note));
        self.wake(state);
    }

    /// Ends every wait, now and later. What was delivered before is still handed out first.
    pub fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        let follower = state.follower.take();
        self.wake(state);
        follower.iter().for_each(|follower| follower.close());
    }

    /// Has another mailbox closed together with this one from now on, in place of the one before; `None` for no one.
    pub fn lead(&self, follower: Option<&Arc<Mailbox>>) {
        let mut state = self.lock();
        state.follower = follower.map(Arc::clone);
        let is_closed = state.is_closed;
        drop(state);
        if is_closed {
            self.close();
        }
    }

    /// Ends the connection of a client that is too far behind somewhere else, and every wait.
    pub fn cut_off(&self) {
        self.close();
        self.cut_off.iter().for_each(|cut_off| cut_off());
    }

    /// Whether [`Mailbox::close`] was called, or the client was cut off.
    pub fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// Says whether nobody is there to hear of progress and log lines, so that they need not be kept.
    pub fn set_quiet(&self, is_quiet: bool) {
        self.lock().is_quiet = is_quiet;
    }

    /// Asks the owner to begin nothing new, and wakes it.
    pub fn drain(&self) {
        self.lock().is_draining = true;
        self.nudge();
    }

    /// Whether [`Mailbox::drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.lock().is_draining
    }

    /// Waits for the next event, at most until `deadline`.
    pub fn wait(&self, deadline: Instant) -> Wake {
        let mut state = self.lock();
        state.sleeper = Sleeper::Awake;
        loop {
            if let Some(event) = state.take() {
                return Wake::Event(event);
            }
            if state.is_closed {
                return Wake::Closed;
            }
            let now = Instant::now();
            if deadline <= now {
                return Wake::Deadline;
            }
            state.sleeper = Sleeper::Waiting;
            about_to_wait();
            (state, _) = self.wake.wait_timeout(state, deadline - now).unwrap_or_else(PoisonError::into_inner);
            state.sleeper = Sleeper::Awake;
        }
    }

    /// The next event, if there is one.
    pub fn take(&self) -> Option<Event> {
        self.lock().take()
    }

    /// Waits for the next event, which is known to come, also when the mailbox is closed.
    pub fn wait_for_next(&self) -> Event {
        let mut state = self.lock();
        loop {
            if let Some(event) = state.take() {
                state.sleeper = Sleeper::Awake;
                return event;
            }
            state.sleeper = Sleeper::Waiting;
            about_to_wait();
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for the end of a call that nobody can take back any more, also when the mailbox is closed. Other events are
    /// passed over.
    pub fn wait_for_end(&self, tag: u64) -> Ended {
        loop {
            if let Event::Ended(ended) = self.wait_for_last(tag) {
                return ended;
            }
        }
    }

    /// As [`Mailbox::wait_for_end`] for a call that a relay may deal with: [`Event::Ended`] or [`Event::Relayed`].
    pub fn wait_for_last(&self, tag: u64) -> Event {
        let mut state = self.lock();
        loop {
            while let Some(event) = state.take() {
                match &event {
                    Event::Ended(ended) if ended.tag == tag => return event,
                    Event::Relayed { tag: it, .. } if *it == tag => return event,
                    _ => {}
                }
            }
            state.sleeper = Sleeper::Waiting;
            about_to_wait();
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.sleeper = Sleeper::Awake;
        }
    }

    /// What there is of the call with this tag, or of anything else when there is none, for an owner who serves others meanwhile.
    /// With [`Word::None`] the owner is asleep: `eventfd` will be written to as with [`Mailbox::take_or_arm`], and if
    /// `wants_end` also when a relay has dealt with the call.
    pub fn word_of(&self, tag: Option<u64>, wants_end: bool, eventfd: &Arc<OwnedFd>) -> Word {
        let mut state = self.lock();
        state.sleeper = Sleeper::Awake;
        let is_special = state.is_closed || state.is_draining;
        match state.events.front() {
            _ if is_special => Word::Other,
            Some(Event::Relayed { tag: it, at, leftover: Leftover::Nothing }) if Some(*it) == tag => {
                let at = *at;
                state.events.pop_front();
                Word::Relayed(at)
            }
            Some(_) => Word::Other,
            None => {
                let eventfd = Arc::clone(eventfd);
                state.sleeper = if wants_end { Sleeper::PollingForAll(eventfd) } else { Sleeper::Polling(eventfd) };
                Word::None
            }
        }
    }

    /// The next event, if there is one. If there is none, `eventfd` will be written to when there is, or when the mailbox
    /// is closed or drained.
    pub fn take_or_arm(&self, eventfd: &Arc<OwnedFd>) -> Option<Event> {
        self.take_or(|| Sleeper::Polling(Arc::clone(eventfd)))
    }

    /// As [`Mailbox::take_or_arm`], and `eventfd` will be written to also when a relay has dealt with a call.
    pub fn take_or_arm_for_all(&self, eventfd: &Arc<OwnedFd>) -> Option<Event> {
        self.take_or(|| Sleeper::PollingForAll(Arc::clone(eventfd)))
    }

    fn take_or(&self, sleeper: impl FnOnce() -> Sleeper) -> Option<Event> {
        let mut state = self.lock();
        let event = state.take();
        state.sleeper = if event.is_some() { Sleeper::Awake } else { sleeper() };
        event
    }

    fn wake(&self, mut state: MutexGuard<'_, State>) {
        match &state.sleeper {
            Sleeper::Awake => {}
            Sleeper::Waiting => {
                drop(state);
                self.wake.notify_one();
            }
            Sleeper::Polling(eventfd) | Sleeper::PollingForAll(eventfd) => {
                // A counter takes a number unless it is about to run over, and then it is readable anyway.
                let _ = rustix::io::write(eventfd, &1_u64.to_ne_bytes());
                state.sleeper = Sleeper::Awake;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        if let Event::Note(_, note) = &event {
            self.note_bytes = self.note_bytes.saturating_sub(note.bytes());
        }
        Some(event)
    }
}

impl Note {
    fn bytes(&self) -> usize {
        EVENT_BYTES
            + match self {
                Note::Progress(params) | Note::Chunk(params) | Note::Log(params) => params.get().len(),
                Note::Question(question) => question.params.get().len(),
                Note::Withdrawn { .. } => 0,
                Note::Other { params, .. } => params.as_ref().map_or(0, |params| params.get().len()),
            }
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox").field("state", &self.state).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
