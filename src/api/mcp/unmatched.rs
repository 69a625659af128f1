//! Cancellations of requests that are not known, or not known yet.
//!
//! A client may cancel what it has just sent. The two come on different connections, so that the cancellation may be read
//! while the request is on its way to its server but not yet noted as running; it is kept until the request is.
//!
//! **Limit.** [`KEPT_MAX`], each for [`KEPT_FOR`]: most are of requests that have ended, and mean nothing.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

const KEPT_MAX: usize = 16;
const KEPT_FOR: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Unmatched(VecDeque<(String, Instant)>);

impl Unmatched {
    /// Keeps the cancellation of the request with this raw id.
    pub(super) fn keep(&mut self, id: &str, now: Instant) {
        if self.0.len() == KEPT_MAX {
            self.0.pop_front();
        }
        self.0.push_back((id.to_owned(), now));
    }

    /// Whether the request with this raw id was cancelled before it was known.
    pub(super) fn take(&mut self, id: &str, now: Instant) -> bool {
        self.0.retain(|(_, kept_at)| now < *kept_at + KEPT_FOR);
        let found = self.0.iter().position(|(kept, _)| kept == id);
        found.is_some_and(|index| self.0.remove(index).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancellation_waits_a_moment_for_its_request_alone() {
        let (mut unmatched, now) = (Unmatched::default(), Instant::now());
        unmatched.keep("5", now);
        assert!(!unmatched.take("\"5\"", now), "another id");
        assert!(unmatched.take("5", now) && !unmatched.take("5", now), "once");
        unmatched.keep("6", now);
        assert!(!unmatched.take("6", now + KEPT_FOR), "too late");
        for id in 0..=KEPT_MAX {
            unmatched.keep(&id.to_string(), now);
        }
        assert!(!unmatched.take("0", now) && unmatched.take("1", now), "the oldest makes room");
    }
}
