//! Where a waiting client hears of its calls: events from workers, and the end of the wait.
//!
//! One mailbox serves one waiting thread for as long as its connection lives, so a call costs no channel of its own.
//! It knows neither HTTP nor workers. A crossbeam channel would do for results alone, but not for what streams need:
//! a bound in bytes, and merging the progress of a client that is behind.
//!
//! **Limit.** A call puts one event here, its end; a thread has as many as it has calls running.
//! **End.** [`Mailbox::close`] wakes the waiter for good: the client went away, or the gateway stops.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use serde_json::value::RawValue;

use crate::error::Error;

/// What a waiting thread is told about one of its calls.
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
    /// A call ended.
    Ended(Ended),
    /// Nobody waits for answers any more.
    Closed,
    /// The deadline passed.
    Deadline,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Mailbox {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<Ended>,
    last_tag: u64,
    is_closed: bool,
    /// Whether the owner sleeps: waking nobody would cost a system call all the same.
    is_waiting: bool,
}

impl Mailbox {
    /// A tag for the next call, so that the late end of an earlier one cannot be taken for its own.
    pub fn next_tag(&self) -> u64 {
        let mut state = self.lock();
        state.last_tag += 1;
        state.last_tag
    }

    /// Delivers the end of a call.
    pub fn put(&self, ended: Ended) {
        let mut state = self.lock();
        state.events.push_back(ended);
        self.wake(state);
    }

    /// Ends every wait, now and later. What was delivered before is still handed out first.
    pub fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        self.wake(state);
    }

    /// Whether [`Mailbox::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// Waits for the next event, at most until `deadline`.
    pub fn wait(&self, deadline: Instant) -> Wake {
        let mut state = self.lock();
        loop {
            if let Some(ended) = state.events.pop_front() {
                return Wake::Ended(ended);
            }
            if state.is_closed {
                return Wake::Closed;
            }
            let now = Instant::now();
            if deadline <= now {
                return Wake::Deadline;
            }
            state.is_waiting = true;
            (state, _) = self.wake.wait_timeout(state, deadline - now).unwrap_or_else(PoisonError::into_inner);
            state.is_waiting = false;
        }
    }

    fn wake(&self, state: MutexGuard<'_, State>) {
        let is_waiting = state.is_waiting;
        drop(state);
        if is_waiting {
            self.wake.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
