//! One call on its way through the gateway: what is asked, who waits, and where it is now.
//!
//! A call is shared by the thread that waits for it, the queue, and the worker that has it. It ends exactly once:
//! whoever takes it out of the queue or of a worker's in-flight table is the one that answers it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crossbeam_channel::Sender;
use serde_json::value::RawValue;

use super::{
    Event, Link,
    mailbox::{Ended, Mailbox, Note},
};
use crate::{error::Error, mcp::message::Request};

/// See the module.
#[derive(Debug)]
pub struct Call {
    /// What goes on the worker's line.
    pub request: Request,
    tag: u64,
    waiter: Waiter,
    place: Mutex<Place>,
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
    /// The worker's own thread, for requests of its own.
    Worker(Sender<Event>),
}

#[derive(Debug)]
struct Place {
    link: Option<Arc<Link>>,
    heard_at: Instant,
    is_cancelled: bool,
}

impl Call {
    /// A call whose end `waiter` hears of under `tag`.
    pub fn new(request: Request, waiter: Waiter, tag: u64) -> Arc<Call> {
        let place = Mutex::new(Place { link: None, heard_at: Instant::now(), is_cancelled: false });
        Arc::new(Call { request, tag, waiter, place })
    }

    /// Whether it must have its worker for itself while it runs, so that every question and log line belongs to it.
    pub fn is_exclusive(&self) -> bool {
        matches!(self.waiter, Waiter::Dialogue(_))
    }

    /// Which call of its waiter it is.
    pub fn tag(&self) -> u64 {
        self.tag
    }

    /// Whether it takes one of its worker's places: the worker's own requests do not.
    pub fn has_place(&self) -> bool {
        !matches!(self.waiter, Waiter::Worker(_))
    }

    /// Whether its waiter wants to hear what happens meanwhile.
    pub fn is_stream(&self) -> bool {
        matches!(self.waiter, Waiter::Stream(_) | Waiter::Dialogue(_))
    }

    /// Tells the waiting thread what happens in the call, if it wants to hear it.
    pub fn note(&self, note: Note) {
        if let Waiter::Stream(mailbox) | Waiter::Dialogue(mailbox) = &self.waiter {
            mailbox.put_note(self.tag, note);
        }
    }

    /// Tells the waiting thread that the call is over.
    pub fn end(&self, worker: Option<Arc<str>>, outcome: Result<Box<RawValue>, Error>) {
        let ended = Ended { tag: self.tag, worker, outcome };
        match &self.waiter {
            Waiter::Result(mailbox) | Waiter::Stream(mailbox) | Waiter::Dialogue(mailbox) => mailbox.put_end(ended),
            // Closed only when the worker's thread has ended, and then nobody waits.
            Waiter::Worker(inbox) => drop(inbox.try_send(Event::Own(ended))),
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
