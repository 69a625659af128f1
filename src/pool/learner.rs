//! What a server can do at a time, learned from its answers (`WORKER_CONCURRENCY=auto`).
//!
//! A call that waits in the gateway can still go to another worker, be cancelled or time out cleanly; one that waits in a
//! serial child cannot. So a worker has one call at a time, until its server has shown that it works on several at once.
//! Two things are learned:
//!
//! **Overlap.** Now and then a call is sent behind another that still runs and takes no longer than itself; or behind any,
//! when calls have waited for [`STUCK_TIME`] and nothing moves. If the server is serial, it is answered one
//! usual time of its tool after the call before it; if not, one usual time after it was sent. How much of the time that it
//! spent behind the other was lost, over [`SAMPLES`] such calls, decides: less than half of it, and twice as many
//! calls are sent at a time, up to [`AT_ONCE_MAX`]; else half as many. An answer that overtakes an earlier call
//! decides at once. While a server seems serial, the pause between two tries doubles, up to [`PROBE_PAUSE_MAX`].
//!
//! **Pace.** A server that answers every few microseconds gains from several calls in its pipe even if it is serial,
//! and nobody waits long there: as many as it answers in [`PIPE_TIME`] are sent at a time.
//!
//! Times are given to it; it asks no clock.

use std::time::{Duration, Instant};

use crate::config::Concurrency;

/// Most calls that a worker is given at a time.
pub(super) const AT_ONCE_MAX: usize = 32;

/// Longest time that calls may wait in a child's pipe while their server seems serial.
pub(super) const PIPE_TIME: Duration = Duration::from_millis(2);

/// How long nothing may move while calls wait, before one of them is risked behind whatever runs.
pub(super) const STUCK_TIME: Duration = Duration::from_secs(1);

/// Calls that ran beside others before what they tell is judged.
const SAMPLES: u32 = 3;

/// Pause after the first try that found a server serial.
const PROBE_PAUSE_MIN: Duration = Duration::from_secs(1);

/// Longest pause between two tries.
const PROBE_PAUSE_MAX: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub(super) struct Learner {
    is_fixed: bool,
    /// Calls that a worker is given at a time because they overlap.
    at_once: usize,
    /// Average time between two answers of one worker that had calls, in seconds; none before the first.
    pace: Option<f64>,
    /// Calls that were sent behind others and have been answered since the last verdict.
    n_samples: u32,
    /// Seconds those spent behind others.
    behind: f64,
    /// Seconds they were answered later than usual.
    lost: f64,
    n_probes: usize,
    probe_pause: Duration,
    next_probe_at: Option<Instant>,
}

/// What an answered call went through.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Course {
    /// No other call was in its worker all the time.
    Alone,
    /// It was answered before a call that its worker had got earlier.
    Overtook,
    /// It was sent while others ran, and was behind them for so long.
    Behind(Duration),
    /// Others came while it ran, which tells nothing.
    Joined,
}

impl Learner {
    pub(super) fn new(concurrency: Concurrency) -> Learner {
        let (is_fixed, at_once) = match concurrency {
            Concurrency::Auto => (false, 1),
            Concurrency::Fixed(at_once) => (true, at_once),
        };
        Learner {
            is_fixed,
            at_once,
            pace: None,
            n_samples: 0,
            behind: 0.0,
            lost: 0.0,
            n_probes: 0,
            probe_pause: PROBE_PAUSE_MIN,
            next_probe_at: None,
        }
    }

    /// Goes by this setting from now on. Calls that were risked are on their way still.
    pub(super) fn adapt(&mut self, concurrency: Concurrency) {
        *self = Learner { n_probes: self.n_probes, ..Learner::new(concurrency) };
    }

    /// Calls that a worker may have at a time, also when the first of them takes long.
    pub(super) fn at_once(&self) -> usize {
        self.at_once
    }

    /// Calls that a worker may have at a time as long as it keeps answering.
    pub(super) fn in_pipe(&self) -> usize {
        let by_pace = |pace: f64| {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
            let calls = (PIPE_TIME.as_secs_f64() / pace.max(1e-6)).min(1e3) as usize;
            calls.min(AT_ONCE_MAX)
        };
        let by_pace = self.pace.filter(|_| !self.is_fixed).map_or(1, by_pace);
        by_pace.max(self.at_once)
    }

    /// Whether a call may be sent behind one that still runs, to see what comes of it.
    pub(super) fn may_probe(&self, now: Instant) -> bool {
        let is_time = self.next_probe_at.is_none_or(|at| at <= now);
        !self.is_fixed
            && self.at_once < AT_ONCE_MAX
            && is_time
            && self.n_samples as usize + self.n_probes < SAMPLES as usize
    }

    /// A call was sent behind another to see what comes of it.
    pub(super) fn probe_sent(&mut self) {
        self.n_probes += 1;
    }

    /// A call that was sent so has left, answered or not.
    pub(super) fn probe_left(&mut self) {
        self.n_probes = self.n_probes.saturating_sub(1);
    }

    /// A worker with calls has answered one, `after` its last answer or after it got the first of them.
    pub(super) fn paced(&mut self, after: Duration) {
        let sample = after.as_secs_f64();
        self.pace = Some(self.pace.map_or(sample, |pace| pace + (sample - pace) / 8.0));
    }

    /// A call has its result `took` after it was sent; calls of its tool that are alone take `usual`.
    pub(super) fn answered(&mut self, course: Course, took: Duration, usual: Option<Duration>, now: Instant) {
        if self.is_fixed {
            return;
        }
        match (course, usual) {
            (Course::Overtook, _) => self.more(),
            (Course::Behind(behind), Some(usual)) => {
                // One that was hardly behind anything tells nothing.
                if behind * 4 < usual || usual < PIPE_TIME {
                    return;
                }
                self.n_samples += 1;
                self.behind += behind.as_secs_f64();
                self.lost += took.as_secs_f64() - usual.as_secs_f64();
                if SAMPLES <= self.n_samples {
                    if self.lost < self.behind / 2.0 { self.more() } else { self.fewer(now) }
                }
            }
            (Course::Behind(_), None) | (Course::Alone | Course::Joined, _) => {}
        }
    }

    fn more(&mut self) {
        self.at_once = (self.at_once * 2).min(AT_ONCE_MAX);
        self.probe_pause = PROBE_PAUSE_MIN;
        self.forget();
    }

    fn fewer(&mut self, now: Instant) {
        self.at_once = (self.at_once / 2).max(1);
        if self.at_once == 1 {
            self.next_probe_at = Some(now + self.probe_pause);
            self.probe_pause = (self.probe_pause * 2).min(PROBE_PAUSE_MAX);
        }
        self.forget();
    }

    fn forget(&mut self) {
        (self.n_samples, self.behind, self.lost) = (0, 0.0, 0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Option<Duration> = Some(Duration::from_millis(200));

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Calls that were `behind` others and then `took` so long, until there is a verdict.
    fn judge(learner: &mut Learner, behind: u64, took: u64, now: Instant) {
        for _ in 0..SAMPLES {
            learner.answered(Course::Behind(ms(behind)), ms(took), USUAL, now);
        }
    }

    #[test]
    fn a_server_whose_calls_overlap_gets_twice_as_many_each_time() {
        let mut learner = Learner::new(Concurrency::Auto);
        for expected in [2, 4, 8, 16, 32, 32] {
            judge(&mut learner, 150, 210, Instant::now());
            assert_eq!(learner.at_once(), expected);
        }
        judge(&mut learner, 150, 350, Instant::now());
        assert_eq!(learner.at_once(), 16, "it does not overlap any more");
    }

    #[test]
    fn a_serial_server_keeps_to_one_and_is_tried_less_and_less_often() {
        let now = Instant::now();
        let mut learner = Learner::new(Concurrency::Auto);
        for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert!(learner.may_probe(now + Duration::from_secs(600)));
            judge(&mut learner, 150, 350, now);
            assert_eq!(learner.at_once(), 1);
            assert!(!learner.may_probe(now + Duration::from_secs(pause) - ms(1)), "{pause}");
            assert!(learner.may_probe(now + Duration::from_secs(pause)), "{pause}");
        }
    }

    #[test]
    fn one_short_call_behind_a_long_one_is_no_proof() {
        let mut learner = Learner::new(Concurrency::Auto);
        // Serial, but the second of three calls was much shorter than usual.
        for took in [390, 195, 390] {
            learner.answered(Course::Behind(ms(190)), ms(took), USUAL, Instant::now());
        }
        assert_eq!(learner.at_once(), 1);
    }

    #[test]
    fn overtaking_is_proof() {
        let mut learner = Learner::new(Concurrency::Auto);
        learner.answered(Course::Overtook, ms(5), None, Instant::now());
        assert_eq!(learner.at_once(), 2);
    }

    #[test]
    fn what_was_hardly_behind_or_alone_tells_nothing() {
        let mut learner = Learner::new(Concurrency::Auto);
        for course in [Course::Alone, Course::Joined, Course::Behind(ms(40))] {
            (0..10).for_each(|_| learner.answered(course, ms(200), USUAL, Instant::now()));
        }
        assert_eq!(learner.at_once(), 1);
        (0..10).for_each(|_| learner.answered(Course::Behind(ms(100)), ms(101), None, Instant::now()));
        assert_eq!(learner.at_once(), 1);
    }

    #[test]
    fn a_few_probes_at_a_time_are_enough() {
        let now = Instant::now();
        let mut learner = Learner::new(Concurrency::Auto);
        for _ in 0..SAMPLES {
            assert!(learner.may_probe(now));
            learner.probe_sent();
        }
        assert!(!learner.may_probe(now));
        learner.probe_left();
        assert!(learner.may_probe(now));
    }

    #[test]
    fn quick_answers_fill_the_pipe_and_a_slow_one_empties_it() {
        let mut learner = Learner::new(Concurrency::Auto);
        assert_eq!(learner.in_pipe(), 1);
        learner.paced(Duration::from_micros(20));
        assert_eq!((learner.in_pipe(), learner.at_once()), (AT_ONCE_MAX, 1));
        learner.paced(ms(200));
        assert_eq!(learner.in_pipe(), 1);
        (0..64).for_each(|_| learner.paced(Duration::from_micros(20)));
        assert_eq!(learner.in_pipe(), AT_ONCE_MAX);
    }

    #[test]
    fn a_fixed_number_stays() {
        let mut learner = Learner::new(Concurrency::Fixed(3));
        learner.answered(Course::Overtook, ms(5), USUAL, Instant::now());
        judge(&mut learner, 150, 350, Instant::now());
        learner.paced(Duration::from_micros(1));
        assert_eq!((learner.at_once(), learner.in_pipe(), learner.may_probe(Instant::now())), (3, 3, false));
    }
}
