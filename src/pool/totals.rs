//! What is counted for all workers of a server together since the gateway started, whatever has become of them.
//!
//! A worker's slot forgets its counters when the worker is stopped; these only grow, as metrics must. Whoever counts holds the
//! lock of a group, so the atomics are for those who read, and for groups that count at the same time.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::buckets::{Buckets, Distribution};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Totals {
    starts: AtomicU64,
    restarts: AtomicU64,
    deaths: AtomicU64,
    late_answers: AtomicU64,
    grown: AtomicU64,
    shrunk: AtomicU64,
    breaker_opened: AtomicU64,
    waits: Buckets,
}

/// What was counted for a server, as it stands now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TotalsSnapshot {
    /// Processes that were started.
    pub starts: u64,
    /// Those of them that took the place of one that had died.
    pub restarts: u64,
    /// Processes that ended without being told to, or could not be started.
    pub deaths: u64,
    /// Answers that came after their call was given up.
    pub late_answers: u64,
    /// How often a group of workers was made larger.
    pub grown: u64,
    /// How often a group of workers was made smaller.
    pub shrunk: u64,
    /// How often the breaker opened.
    pub breaker_opened: u64,
    /// How long calls waited that had to, and got a worker.
    pub waits: Distribution,
}

impl Totals {
    /// A process is to be started.
    pub(super) fn started(&self, takes_the_place_of_a_dead_one: bool) {
        add(&self.starts);
        if takes_the_place_of_a_dead_one {
            add(&self.restarts);
        }
    }

    /// A process died.
    pub(super) fn died(&self, has_opened_the_breaker: bool) {
        add(&self.deaths);
        if has_opened_the_breaker {
            add(&self.breaker_opened);
        }
    }

    /// A call was answered that had been given up.
    pub(super) fn answered_late(&self) {
        add(&self.late_answers);
    }

    /// A group is to have another number of workers.
    pub(super) fn scaled(&self, from: usize, to: usize) {
        add(if from < to { &self.grown } else { &self.shrunk });
    }

    /// A call that waited got a worker.
    pub(super) fn waited(&self, time: Duration) {
        self.waits.note(time);
    }

    pub(super) fn snapshot(&self) -> TotalsSnapshot {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        TotalsSnapshot {
            starts: get(&self.starts),
            restarts: get(&self.restarts),
            deaths: get(&self.deaths),
            late_answers: get(&self.late_answers),
            grown: get(&self.grown),
            shrunk: get(&self.shrunk),
            breaker_opened: get(&self.breaker_opened),
            waits: self.waits.get(),
        }
    }
}

fn add(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}
