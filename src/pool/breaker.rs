//! The breaker of a server: whether its workers are started again after they died.
//!
//! `BREAKER_FAILURES` deaths in a row without one answered call open it. After `BREAKER_COOLDOWN` one worker is started
//! as a probe: when it gets ready the breaker is closed, but the very next death without an answered call opens it again;
//! when it dies, the cooldown begins anew. Times are given to it, so a test needs no clock.

use std::time::{Duration, Instant};

/// See the module.
#[derive(Debug)]
pub(super) struct Breaker {
    failures_max: u32,
    cooldown: Duration,
    failures: u32,
    state: State,
}

/// What may be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Everything.
    Closed,
    /// Nothing before this time.
    Open(Instant),
    /// Nothing beside the probe that is on its way.
    HalfOpen,
}

impl State {
    /// The word for it in `/stats`.
    pub(super) fn word(self) -> &'static str {
        match self {
            State::Closed => "closed",
            State::Open(_) => "open",
            State::HalfOpen => "half_open",
        }
    }
}

impl Breaker {
    pub(super) fn new(failures_max: u32, cooldown: Duration) -> Breaker {
        Breaker { failures_max, cooldown, failures: 0, state: State::Closed }
    }

    /// Goes by other figures from now on.
    pub(super) fn adapt(&mut self, failures_max: u32, cooldown: Duration) {
        (self.failures_max, self.cooldown) = (failures_max, cooldown);
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    /// Deaths in a row.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// A process died, or could not be started.
    pub(super) fn died(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        let is_too_often = self.failures_max <= self.failures;
        if is_too_often {
            self.state = State::Open(now + self.cooldown);
        }
    }

    /// A worker takes calls.
    pub(super) fn got_ready(&mut self) {
        if self.state != State::Closed {
            self.state = State::Closed;
            self.failures = self.failures_max - 1;
        }
    }

    /// A process has ended that tells nothing about the next one: another may be tried in its stead.
    pub(super) fn undecided(&mut self, now: Instant) {
        if self.state == State::HalfOpen {
            self.state = State::Open(now);
        }
    }

    /// A call was answered.
    pub(super) fn answered(&mut self) {
        self.failures = 0;
        self.state = State::Closed;
    }

    /// An operator asks for a try at once.
    pub(super) fn try_now(&mut self, now: Instant) {
        if let State::Open(_) = self.state {
            self.state = State::Open(now);
        }
    }

    /// How many workers may be started now; a probe counts as started.
    pub(super) fn starts_allowed(&mut self, now: Instant) -> usize {
        match self.state {
            State::Closed => usize::MAX,
            State::Open(until) if until <= now => {
                self.state = State::HalfOpen;
                1
            }
            State::Open(_) | State::HalfOpen => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOLDOWN: Duration = Duration::from_secs(10);

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::new(3, COOLDOWN);
        (0..3).for_each(|_| breaker.died(now));
        breaker
    }

    #[test]
    fn deaths_in_a_row_open_it_and_an_answered_call_in_between_does_not() {
        let now = Instant::now();
        let mut breaker = Breaker::new(3, COOLDOWN);
        breaker.died(now);
        breaker.died(now);
        breaker.answered();
        breaker.died(now);
        breaker.died(now);
        assert_eq!((breaker.state(), breaker.starts_allowed(now)), (State::Closed, usize::MAX));
        breaker.died(now);
        assert_eq!((breaker.state(), breaker.starts_allowed(now)), (State::Open(now + COOLDOWN), 0));
    }

    #[test]
    fn after_the_cooldown_one_probe_decides() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + COOLDOWN;
        assert_eq!((breaker.starts_allowed(later), breaker.starts_allowed(later)), (1, 0));
        breaker.died(later);
        assert_eq!(breaker.state(), State::Open(later + COOLDOWN));

        assert_eq!(breaker.starts_allowed(later + COOLDOWN), 1);
        breaker.got_ready();
        assert_eq!(breaker.state(), State::Closed);
        breaker.died(later);
        assert_eq!(breaker.state(), State::Open(later + COOLDOWN), "it has answered nothing yet");
    }

    #[test]
    fn a_probe_that_tells_nothing_is_followed_by_another() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + COOLDOWN;
        assert_eq!(breaker.starts_allowed(later), 1);
        breaker.undecided(later);
        assert_eq!((breaker.starts_allowed(later), breaker.failures()), (1, 3));
        breaker.got_ready();
        breaker.undecided(later);
        assert_eq!(breaker.state(), State::Closed);
    }

    #[test]
    fn an_operator_need_not_wait() {
        let now = Instant::now();
        let mut breaker = opened(now);
        breaker.try_now(now);
        assert_eq!(breaker.starts_allowed(now), 1);
    }
}
