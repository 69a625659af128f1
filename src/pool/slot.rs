//! One place for a worker in its pool: what it is doing, its calls, and what was counted for it.
//!
//! A slot outlives its processes: one that dies is followed by another in the same slot, under the same name. An empty slot
//! has no name and is used for the next worker that is needed.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{learner::Course, turns::Turn};
use crate::worker::{Call, End, Link, ServerInfo};

/// See the module.
#[derive(Debug)]
pub(super) struct Slot {
    /// Like `journeys-1`; empty when the slot is.
    pub(super) name: Arc<str>,
    pub(super) state: State,
    pub(super) since: Instant,
    /// What it does beside serving.
    pub(super) duty: Duty,
    /// The slot whose worker this one replaces once it is ready.
    pub(super) replaces: Option<usize>,
    /// What its server said of itself, from the last handshake.
    pub(super) info: Option<Arc<ServerInfo>>,

    /// Its calls, those it has had for longest first.
    pub(super) calls: VecDeque<Running>,
    /// Its one call has it alone.
    pub(super) is_exclusive: bool,
    /// It gets no more calls that share it, because one waits that needs it alone.
    pub(super) is_kept_free: bool,
    /// Which use of the pool its last call was.
    pub(super) last_used: u64,
    /// When it last answered, or got the first of its calls.
    pub(super) paced_at: Instant,

    pub(super) health: Health,
    /// Processes that died or could not start, in a row, without one that answered a call.
    pub(super) failures: u32,
    pub(super) was_ready: bool,
    /// Somebody wants its process replaced.
    pub(super) is_restart_asked: bool,

    pub(super) calls_total: u64,
    /// Calls of the process that runs now.
    pub(super) calls_of_process: u64,
    pub(super) errors_total: u64,
    pub(super) late_answers_total: u64,
    pub(super) restarts: u64,
    /// How the last process that died did so.
    pub(super) last_end: Option<End>,
}

/// What a worker is doing.
#[derive(Debug)]
pub(super) enum State {
    /// There is none.
    Vacant,
    /// Its process is starting and takes no calls yet.
    Starting,
    /// It takes calls over this link.
    Ready(Arc<Link>),
    /// Its process is dying.
    Closing,
    /// Its process was told to end, and nobody waits for another.
    Stopping,
    /// Its process is gone; the next start follows at this time, or when the breaker allows it.
    Down(Instant),
}

/// What a worker does beside serving.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Duty {
    /// Nothing.
    Serve,
    /// It is to be replaced, for this reason, and serves until its successor is ready.
    Retire(String),
    /// It takes no new calls and is stopped when the last has left.
    Drain,
}

/// A call at a worker.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) call: Arc<Call>,
    sent_at: Instant,
    /// Others were there when it came, and it was behind them until this time, once that is known.
    was_behind: bool,
    behind_until: Option<Instant>,
    /// Others came later.
    was_joined: bool,
    pub(super) is_probe: bool,
}

/// What is known of a worker's signs of life.
#[derive(Debug)]
pub(super) struct Health {
    /// Pings without an answer: when they were sent.
    pub(super) pings: Vec<Instant>,
    pub(super) next_ping_at: Instant,
    pub(super) last_ping: Option<Duration>,
    /// It has left a ping unanswered for `HEALTH_TIMEOUT`.
    pub(super) is_mute: bool,
    /// Cancelled calls whose server has not yet shown that it has read so. Below zero for the moment in which the news that it
    /// has overtakes the news that the call was cancelled.
    pub(super) n_unsettled: isize,
    /// Since when it is waited for a sign that it is not stuck in one of them. It gets no calls meanwhile.
    pub(super) awaited_since: Option<Instant>,
    /// One of its calls ran out of time, and it has not given a sign of life since.
    pub(super) is_suspect: bool,
    /// Memory when it was last looked at.
    pub(super) rss_bytes: u64,
}

/// Workers by state; every worker counts once.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// All workers.
    pub total: usize,
    /// Ready, without a call.
    pub ready: usize,
    /// Ready, with calls in flight.
    pub busy: usize,
    /// On their way.
    pub starting: usize,
    /// Dead, ending, silent, or failing again and again.
    pub unhealthy: usize,
}

impl Counts {
    /// Adds the workers of another server.
    pub fn add(&mut self, other: Counts) {
        self.total += other.total;
        self.ready += other.ready;
        self.busy += other.busy;
        self.starting += other.starting;
        self.unhealthy += other.unhealthy;
    }
}

impl Slot {
    /// Over which it takes calls, when it does.
    pub(super) fn link(&self) -> Option<&Arc<Link>> {
        if let State::Ready(link) = &self.state { Some(link) } else { None }
    }

    /// An empty slot.
    pub(super) fn vacant(now: Instant) -> Slot {
        Slot {
            name: "".into(),
            state: State::Vacant,
            since: now,
            duty: Duty::Serve,
            replaces: None,
            info: None,
            calls: VecDeque::new(),
            is_exclusive: false,
            is_kept_free: false,
            last_used: 0,
            paced_at: now,
            health: Health::new(now),
            failures: 0,
            was_ready: false,
            is_restart_asked: false,
            calls_total: 0,
            calls_of_process: 0,
            errors_total: 0,
            late_answers_total: 0,
            restarts: 0,
            last_end: None,
        }
    }

    pub(super) fn is_vacant(&self) -> bool {
        matches!(self.state, State::Vacant)
    }

    /// Whether it takes calls, a place and its health aside.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, State::Ready(_)) && self.duty != Duty::Drain
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready(_))
    }

    /// Whether it takes no call though it has none: it must first say something.
    pub(super) fn is_blocked(&self) -> bool {
        self.is_open() && self.calls.is_empty() && self.health.is_doubtful()
    }

    /// When its turn is to get a call, as slot `index`.
    pub(super) fn turn(&self, index: usize) -> Turn {
        (self.calls.len(), self.last_used, index)
    }

    /// Whether it counts for the size of its pool: not one that leaves, whose successor does.
    pub(super) fn counts(&self) -> bool {
        self.duty == Duty::Serve && !matches!(self.state, State::Vacant | State::Stopping)
    }

    /// One death of a worker that had been ready is an accident, and its next start is waited for.
    pub(super) fn is_hopeless(&self) -> bool {
        let accidents = u32::from(self.was_ready);
        !self.is_ready() && accidents < self.failures
    }

    /// The word for it in `/stats`.
    pub(super) fn word(&self) -> &'static str {
        match &self.state {
            State::Vacant => "vacant",
            State::Starting => "starting",
            State::Ready(_) if self.duty == Duty::Drain => "draining",
            State::Ready(_) if self.calls.is_empty() => "ready",
            State::Ready(_) => "busy",
            State::Closing | State::Stopping => "stopping",
            State::Down(_) => "down",
        }
    }

    /// Notes a call that is about to be sent.
    pub(super) fn take(&mut self, call: &Arc<Call>, is_probe: bool, now: Instant) {
        if self.calls.is_empty() {
            self.paced_at = now;
            // What it left unanswered while it was idle is forgotten: busy is not wedged.
            if !self.health.is_mute {
                self.health.pings.clear();
            }
        }
        let was_behind = !self.calls.is_empty();
        self.calls.iter_mut().for_each(|running| running.was_joined = true);
        self.calls.push_back(Running {
            call: Arc::clone(call),
            sent_at: now,
            was_behind,
            behind_until: None,
            was_joined: false,
            is_probe,
        });
        self.calls_total += 1;
        self.calls_of_process += 1;
        self.is_exclusive = call.is_exclusive();
    }

    /// Takes out a call that has left, with how it fared. `None` when it is not here.
    pub(super) fn leave(&mut self, call: &Arc<Call>, now: Instant) -> Option<(Running, Course)> {
        let index = self.calls.iter().position(|running| Arc::ptr_eq(&running.call, call))?;
        let running = self.calls.remove(index)?;
        self.is_exclusive = false;
        if index == 0
            && let Some(first) = self.calls.front_mut().filter(|first| first.was_behind)
        {
            first.behind_until = Some(now);
        }
        let course = match (index, running.was_behind, running.behind_until) {
            (1.., ..) => Course::Overtook,
            (0, true, Some(until)) => Course::Behind(until.saturating_duration_since(running.sent_at)),
            (0, true, None) => Course::Joined,
            (0, false, _) if running.was_joined => Course::Joined,
            (0, false, _) => Course::Alone,
        };
        Some((running, course))
    }
}

impl Running {
    /// How long it has been at its worker.
    pub(super) fn took(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.sent_at)
    }
}

impl Health {
    pub(super) fn new(now: Instant) -> Health {
        Health {
            pings: Vec::new(),
            next_ping_at: now,
            last_ping: None,
            is_mute: false,
            n_unsettled: 0,
            awaited_since: None,
            is_suspect: false,
            rss_bytes: 0,
        }
    }

    /// Whether it must first say something before it is relied on.
    pub(super) fn is_doubtful(&self) -> bool {
        self.is_mute || self.awaited_since.is_some()
    }

    /// The server has said something that shows that it lives.
    pub(super) fn lives(&mut self) {
        self.is_mute = false;
        self.is_suspect = false;
        self.awaited_since = None;
        self.pings.clear();
    }

    /// Notes a change in how many cancelled calls the server has not read about.
    pub(super) fn unsettled(&mut self, change: isize, now: Instant) {
        self.n_unsettled += change;
        if self.n_unsettled <= 0 {
            self.awaited_since = None;
        } else if 0 < change {
            self.awaited_since.get_or_insert(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::testing::call;

    /// When each of some calls was sent and answered, in ms, in the order in which they were sent; how they fared.
    #[track_caller]
    fn check_courses(times: &[(u64, u64)], expected: &[Course]) {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let calls: Vec<_> = times.iter().map(|_| call()).collect();
        let sent = times.iter().enumerate().map(|(index, (sent, _))| (*sent, index, true));
        let answered = times.iter().enumerate().map(|(index, (_, answered))| (*answered, index, false));
        let mut events: Vec<_> = sent.chain(answered).collect();
        events.sort_unstable();
        let mut slot = Slot::vacant(start);
        let mut courses = vec![None; times.len()];
        for (ms, index, is_sent) in events {
            if is_sent {
                slot.take(&calls[index], false, at(ms));
            } else {
                courses[index] = slot.leave(&calls[index], at(ms)).map(|(_, course)| course);
            }
        }
        assert_eq!(courses.into_iter().flatten().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn how_a_call_fared_tells_whether_its_worker_does_several_at_once() {
        use Course::{Alone, Behind, Joined, Overtook};
        let ms = Duration::from_millis;
        check_courses(&[(0, 10), (20, 30)], &[Alone, Alone]);
        check_courses(&[(0, 200), (50, 400)], &[Joined, Behind(ms(150))]);
        check_courses(&[(0, 200), (50, 100)], &[Joined, Overtook]);
        check_courses(&[(0, 200), (50, 300), (60, 310)], &[Joined, Behind(ms(150)), Behind(ms(240))]);
    }
}
