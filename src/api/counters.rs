//! What is counted for the whole gateway, since it started.
//!
//! Relaxed atomics: each is right by itself, and nobody waits for another.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// See the module.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct Counters {
    pub requests_total: AtomicU64,
    pub calls_total: AtomicU64,
    pub errors_total: AtomicU64,
    pub connections: AtomicU64,
    pub connections_peak: AtomicU64,
    pub connections_total: AtomicU64,
    pub connections_refused_total: AtomicU64,
    /// Event streams that are open, those of `/mcp` included.
    pub event_streams: AtomicU64,
    /// WebSockets that are open.
    pub sockets: AtomicU64,
    /// Requests by what became of them.
    pub outcomes: Outcomes,
    /// What has gone through the connections.
    pub traffic: Arc<Traffic>,
}

/// Bytes of requests, answers and streams.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct Traffic {
    pub read_bytes: AtomicU64,
    pub written_bytes: AtomicU64,
}

/// Requests by the first digit of their status; 0 for those whose client went away before there was one.
#[derive(Debug, Default)]
pub struct Outcomes([AtomicU64; 6]);

/// Counts something for as long as it lives.
#[derive(Debug)]
pub struct Held<'a>(&'a AtomicU64);

impl Counters {
    /// Counts one.
    pub fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Reads a counter.
    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    /// Counts one, until what is returned is dropped.
    pub fn hold(counter: &AtomicU64) -> Held<'_> {
        Counters::add(counter);
        Held(counter)
    }
}

impl Outcomes {
    /// Counts a request that has this status, or none.
    pub fn add(&self, status: Option<u16>) {
        let class = usize::from(status.unwrap_or_default() / 100);
        // There are no other classes.
        self.0.get(class).into_iter().for_each(Counters::add);
    }

    /// How many there are of each class, which is called `none`, or `1xx` to `5xx`.
    pub fn by_class(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let names = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];
        names.into_iter().zip(self.0.iter().map(Counters::get))
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_apart_by_the_first_digit_of_their_status() {
        let outcomes = Outcomes::default();
        [None, Some(101), Some(200), Some(204), Some(404), Some(503)].into_iter().for_each(|it| outcomes.add(it));
        let counted: Vec<_> = outcomes.by_class().collect();
        assert_eq!(counted, [("none", 1), ("1xx", 1), ("2xx", 2), ("3xx", 0), ("4xx", 1), ("5xx", 1)]);
    }

    #[test]
    fn what_is_held_counts_until_it_is_let_go() {
        let open = AtomicU64::default();
        let held = Counters::hold(&open);
        assert_eq!(Counters::get(&open), 1);
        drop(held);
        assert_eq!(Counters::get(&open), 0);
    }
}
