//! One call on its way through the gateway: what is asked, who waits, and where it is now.
//!
//! A call is shared by the thread that waits for it, the queue, and the worker that has it. It ends exactly once:
//! whoever takes it out of the queue or of a worker's in-flight table is the one that answers it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crossbeam_channel::Sender;
use serde_json::value::RawValue;

use super::{
    Event, Link,
    habits::Habits,
    mailbox::{Ended, Mailbox, Note},
    own,
};
use crate::{
    error::Error,
    mcp::{message::Request, revision::Era},
};

/// See the module.
#[derive(Debug)]
pub struct Call {
    /// What goes on the worker's line.
    pub request: Request,
    /// What its pool decides by; `None` for the gateway's own requests.
    pub terms: Option<Terms>,
    tag: u64,
    waiter: Waiter,
    place: Mutex<Place>,
    /// Its client has had a part of its result, or was asked something.
    has_told_part: AtomicBool,
    is_repeated: AtomicBool,
}

/// What a pool decides by when it places a client's call.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Whose call it is: those of one key wait in one line.
    pub line: Arc<str>,
    /// Whether its tool says that a second call does no harm, so that it may be sent again when its worker dies.
    pub may_repeat: bool,
    /// What is known of calls of its tool.
    pub habits: Arc<Habits>,
    /// The least severe log lines that its client wants to hear, if it has said so.
    pub log_level: Option<&'static str>,
    /// Whether its client can be answered with a request for input instead of a result.
    pub takes_input_requests: bool,
}

/// Who hears of the end of a call.
#[derive(Debug)]
pub enum Waiter {
    /// A client's thread, which wants the result alone.
    Result(Arc<Mailbox>),
    /// A client's thread, which also wants to hear what happens meanwhile.
    Stream(Arc<Mailbox>),
    /// As `Stream`, and the client can be asked things.
    Dialogue(Arc<Mailbox>),
    /// The same, beside other calls, because servers are known to be silent in calls of this tool.
    Beside(Arc<Mailbox>),
    /// The worker's own thread, for requests of its own.
    Worker(Sender<Event>),
    /// The owner of the worker: a ping.
    Owner(Ping),
    /// Nobody: a request of the gateway's own, by its method, whose answer says nothing that is needed.
    Nobody(&'static str),
}

/// Why a server is pinged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ping {
    /// To see whether it is alive.
    Routine,
    /// Behind the news that a call was cancelled.
    BehindCancel,
}

#[derive(Debug)]
struct Place {
    link: Option<Arc<Link>>,
    heard_at: Instant,
    is_cancelled: bool,
}

impl Call {
    /// A call whose end `waiter` hears of under `tag`.
    pub fn new(request: Request, terms: Option<Terms>, waiter: Waiter, tag: u64) -> Arc<Call> {
        let place = Mutex::new(Place { link: None, heard_at: Instant::now(), is_cancelled: false });
        let (has_told_part, is_repeated) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Call { request, terms, tag, waiter, place, has_told_part, is_repeated })
    }

    /// A ping: any answer to it is a sign of life.
    pub(super) fn ping(kind: Ping, era: Era) -> Arc<Call> {
        Call::new(own::ping(era), None, Waiter::Owner(kind), 0)
    }

    /// A request of the gateway's own that nobody waits for.
    pub(super) fn unattended(method: &'static str, request: Request) -> Arc<Call> {
        Call::new(request, None, Waiter::Nobody(method), 0)
    }

    /// Which ping it is, if it is one.
    pub(super) fn as_ping(&self) -> Option<Ping> {
        if let Waiter::Owner(kind) = self.waiter { Some(kind) } else { None }
    }

    /// Its method, if nobody waits for it.
    pub(super) fn as_unattended(&self) -> Option<&'static str> {
        if let Waiter::Nobody(method) = self.waiter { Some(method) } else { None }
    }

    /// Whether its client waits for a result alone: others may be quiet for hours.
    pub(super) fn is_brisk(&self) -> bool {
        matches!(self.waiter, Waiter::Result(_))
    }

    /// Takes the one right to be sent to another worker after its own died. False for a call that could do harm a second
    /// time, whose client has had a part of its result, that was sent twice already, or that nobody wants any more.
    pub(super) fn take_second_chance(&self) -> bool {
        let may_repeat = self.terms.as_ref().is_some_and(|terms| terms.may_repeat);
        if !may_repeat || self.has_told_part.load(Ordering::Relaxed) || self.is_repeated.swap(true, Ordering::Relaxed) {
            return false;
        }
        let mut place = self.place();
        place.link = None;
        !place.is_cancelled
    }

    /// Whether it was sent a second time, to another worker.
    pub fn is_repeated(&self) -> bool {
        self.is_repeated.load(Ordering::Relaxed)
    }

    /// Whether it must have its worker for itself while it runs, so that every question and log line belongs to it.
    pub fn is_exclusive(&self) -> bool {
        matches!(self.waiter, Waiter::Dialogue(_))
    }

    /// Whether its client can be asked things though it has its worker not for itself.
    pub fn is_beside(&self) -> bool {
        matches!(self.waiter, Waiter::Beside(_))
    }

    /// How long calls of its tool take that are alone in their worker, once that is known.
    pub fn usual(&self) -> Option<Duration> {
        self.terms.as_ref()?.habits.usual.get()
    }

    /// The least severe log lines that its client wants to hear, if it has said so.
    pub(super) fn log_level(&self) -> Option<&'static str> {
        self.terms.as_ref()?.log_level
    }

    /// Whether a request for input can be its answer.
    pub(super) fn takes_input_requests(&self) -> bool {
        self.terms.as_ref().is_some_and(|terms| terms.takes_input_requests)
    }

    /// Which call of its waiter it is.
    pub fn tag(&self) -> u64 {
        self.tag
    }

    /// Whether it takes one of its worker's places: the gateway's own requests do not.
    pub fn has_place(&self) -> bool {
        !matches!(self.waiter, Waiter::Worker(_) | Waiter::Owner(_) | Waiter::Nobody(_))
    }

    /// Whether its waiter wants to hear what happens meanwhile.
    pub fn is_stream(&self) -> bool {
        matches!(self.waiter, Waiter::Stream(_) | Waiter::Dialogue(_) | Waiter::Beside(_))
    }

    /// Tells the waiting thread what happens in the call, if it wants to hear it.
    pub fn note(&self, note: Note) {
        if let Waiter::Stream(mailbox) | Waiter::Dialogue(mailbox) | Waiter::Beside(mailbox) = &self.waiter {
            if let Note::Chunk(_) | Note::Question(_) = note {
                self.has_told_part.store(true, Ordering::Relaxed);
            }
            mailbox.put_note(self.tag, note);
        }
    }

    /// Tells the waiting thread that the call is over.
    pub fn end(&self, worker: Option<Arc<str>>, outcome: Result<Box<RawValue>, Error>) {
        let ended = Ended { tag: self.tag, worker, outcome };
        match &self.waiter {
            Waiter::Result(mailbox) | Waiter::Stream(mailbox) | Waiter::Dialogue(mailbox) | Waiter::Beside(mailbox) => {
                mailbox.put_end(ended)
            }
            // Closed only when the worker's thread has ended, and then nobody waits.
            Waiter::Worker(inbox) => drop(inbox.try_send(Event::Own(ended))),
            Waiter::Owner(_) | Waiter::Nobody(_) => {}
        }
    }

    /// The worker that has the call, when one has.
    pub fn link(&self) -> Option<Arc<Link>> {
        self.place().link.clone()
    }

    /// When the call began, or when its worker last reported progress.
    pub fn heard_at(&self) -> Instant {
        self.place().heard_at
    }

    /// Notes a sign of life, which extends the call's time.
    pub fn heard(&self) {
        self.place().heard_at = Instant::now();
    }

    /// Marks the call as unwanted and returns the worker that has it. When none has, none will take it any more.
    pub fn cancel(&self) -> Option<Arc<Link>> {
        let mut place = self.place();
        place.is_cancelled = true;
        place.link.clone()
    }

    /// Whether [`Call::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.place().is_cancelled
    }

    /// Notes that `link` has the call. False: it was cancelled before, so it must not be sent.
    pub(super) fn take_place(&self, link: &Arc<Link>) -> bool {
        let mut place = self.place();
        if place.is_cancelled {
            return false;
        }
        place.link = Some(Arc::clone(link));
        true
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
