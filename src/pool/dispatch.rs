//! Which worker takes which call: the places of the workers, and the queue before them. One file with its tests.
//!
//! A plain data structure under the pool's lock, which sends nothing, starts nothing and asks no clock, so every decision
//! can be tested as a table. What it decides about calls is here; about workers, in [`super::tend`]. A call goes to
//! the ready worker with the fewest calls in flight, ties to the one unused for longest: [`super::turns`] has them in that order, so
//! that a call costs no look at every worker.
//!
//! An exclusive call needs a worker without any other call. For each that waits, one busy worker is kept free: it gets no
//! calls that share it. The call goes to whichever worker is without a call first.
//!
//! **Limit.** For each worker, what [`super::learner`] says; `QUEUE_MAX` waiting calls.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    breaker::{self, Breaker},
    learner::{Course, Learner, PIPE_TIME, STUCK_TIME},
    names::{Budget, Names},
    queue::{Kind, Queue, Queued},
    scaling::Peak,
    slot::{Counts, Duty, Running, Slot, State},
    tend::{Rules, ScaleEvents},
    totals::Totals,
    turns::Turns,
};
use crate::{
    error::Error,
    worker::{Call, End, Link, Ping},
};

/// What helps when calls wait too long or are too many.
pub(super) const MORE_WORKERS: &str = "try again later, or raise `MAX_WORKERS`";

/// Longest and shortest time after which a refused caller is told to come back.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(super) struct Dispatch {
    pub(super) server: Arc<str>,
    pub(super) rules: Rules,
    pub(super) names: Arc<Names>,
    /// What is counted for the server.
    pub(super) totals: Arc<Totals>,
    /// What workers beyond the first come out of, when they do not come out of `MAX_WORKERS`.
    pub(super) budget: Option<Arc<Budget>>,
    pub(super) slots: Vec<Slot>,
    /// The slots in the order in which they are to get calls.
    pub(super) turns: Turns,
    /// Some worker may be kept free; none is otherwise.
    pub(super) may_keep_free: bool,
    /// Some worker may have left something unanswered; none has otherwise.
    pub(super) may_be_doubtful: bool,
    pub(super) queue: Queue,
    pub(super) learner: Learner,
    pub(super) breaker: Breaker,
    pub(super) peak: Peak,
    pub(super) scale_events: ScaleEvents,
    /// Workers there should be.
    pub(super) target: usize,
    /// Since when every open worker has had a call.
    pub(super) busy_since: Option<Instant>,
    /// When it is to be looked at whether all are still busy.
    pub(super) busy_look_at: Option<Instant>,
    /// When it is to be looked at whether anything has moved while calls wait.
    pub(super) stuck_look_at: Option<Instant>,
    /// When a call last got a place or left one.
    moved_at: Instant,
    /// Something has happened that [`super::tend`] must see.
    pub(super) needs_tending: bool,
    pub(super) is_stopping: bool,
    n_in_flight: usize,
    uses: u64,
    /// How the last process died that did.
    pub(super) last_death: Option<End>,
    /// When a worker last answered, or calls began to come.
    answered_at: Instant,
    /// Average time between two answers while there are calls, in seconds.
    answer_interval: Option<f64>,
}

/// A call whose place at a worker is taken: it is to be sent over the link.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) slot: usize,
    pub(super) link: Arc<Link>,
    pub(super) call: Arc<Call>,
}

/// What became of a call that came.
#[derive(Debug)]
pub(super) enum Admitted {
    /// It has a place.
    Placed(Placed),
    /// It waits.
    Waits,
    /// It waits, and this one is refused in its stead.
    InsteadOf(Arc<Call>, Error),
}

/// How a call left its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// With a result.
    Answered,
    /// With a JSON-RPC error.
    Failed,
    /// It was taken back; the server is told, and pinged.
    Cancelled,
    /// It ran out of time; the server is told, and pinged.
    TimedOut,
    /// It was never sent.
    Unsent,
}

impl Dispatch {
    pub(super) fn new(
        server: Arc<str>,
        rules: Rules,
        names: Arc<Names>,
        totals: Arc<Totals>,
        budget: Option<Arc<Budget>>,
        now: Instant,
    ) -> Dispatch {
        Dispatch {
            server,
            names,
            totals,
            budget,
            slots: Vec::new(),
            turns: Turns::default(),
            may_keep_free: false,
            may_be_doubtful: false,
            queue: Queue::new(rules.queue_max),
            learner: Learner::new(rules.concurrency),
            breaker: Breaker::new(rules.breaker_failures, rules.breaker_cooldown),
            peak: Peak::new(rules.scale_down_after, now),
            scale_events: ScaleEvents::default(),
            target: rules.min_workers,
            busy_since: None,
            busy_look_at: None,
            stuck_look_at: None,
            moved_at: now,
            needs_tending: true,
            is_stopping: false,
            n_in_flight: 0,
            uses: 0,
            last_death: None,
            answered_at: now,
            answer_interval: None,
            rules,
        }
    }

    /// Finds a place for a call.
    ///
    /// Fails with [`Error::BreakerOpen`] or [`Error::NoWorker`] when no worker can be expected to come up, with
    /// [`Error::Overloaded`] when the queue is full.
    pub(super) fn admit(&mut self, call: &Arc<Call>, now: Instant) -> Result<Admitted, Error> {
        let kind = Kind::of(call);
        if self.queue.is_empty_of(kind)
            && let Some(found) = self.find(call, now)
            && let Some(placed) = self.place(&found, call, now)
        {
            self.notice_load(now);
            return Ok(Admitted::Placed(placed));
        }
        if let Some(error) = self.refusal(now) {
            return Err(error);
        }
        let admitted = match self.queue.push(call, now) {
            Queued::Yes => Admitted::Waits,
            Queued::InsteadOf(other) => Admitted::InsteadOf(other, self.overloaded()),
            Queued::No => return Err(self.overloaded()),
        };
        self.keep_free();
        self.notice_load(now);
        if self.stuck_look_at.is_none() {
            self.stuck_look_at = Some(now + STUCK_TIME);
            self.needs_tending = true;
        }
        Ok(admitted)
    }

    /// Finds a place for a call again, whose worker is gone: it waits before all others.
    ///
    /// Fails with [`Error::BreakerOpen`] or [`Error::NoWorker`].
    pub(super) fn admit_again(&mut self, call: &Arc<Call>, now: Instant) -> Result<Vec<Placed>, Error> {
        if let Some(error) = self.refusal(now) {
            return Err(error);
        }
        // One that nobody wants any more would only be in the way.
        if !call.is_cancelled() {
            self.queue.push_front(call, now);
        }
        Ok(self.schedule(now))
    }

    /// A call has left worker `slot`. Returns the waiting calls that get a place now.
    ///
    /// Does nothing when the worker has another process by now, whose places are its own.
    pub(super) fn call_left(
        &mut self,
        slot: usize,
        link: &Arc<Link>,
        call: &Arc<Call>,
        left: Left,
        now: Instant,
    ) -> Vec<Placed> {
        let Some(current) = self.current(slot, link) else { return Vec::new() };
        let paced_at = std::mem::replace(&mut current.paced_at, now);
        let before = current.turn(slot);
        let was_alone = current.is_exclusive;
        let Some((running, course)) = current.leave(call, now) else { return Vec::new() };
        let after = current.turn(slot);
        match left {
            Left::Answered | Left::Failed => {
                current.failures = 0;
                current.health.lives();
            }
            Left::Cancelled | Left::TimedOut => {
                current.health.unsettled(1, now);
                current.health.is_suspect |= left == Left::TimedOut;
            }
            Left::Unsent => {}
        }
        current.errors_total += u64::from(matches!(left, Left::Failed | Left::TimedOut));
        let may_be_doubtful = current.health.is_doubtful();
        let is_idle = current.calls.is_empty();
        let is_drained = is_idle && current.duty == Duty::Drain;
        self.needs_tending |= is_drained || matches!(left, Left::Cancelled | Left::TimedOut);
        self.turns.change(before, after);
        self.may_be_doubtful |= may_be_doubtful;
        self.n_in_flight -= 1;
        self.moved_at = now;
        if is_idle {
            self.busy_since = None;
        }
        if running.is_probe {
            self.learner.probe_left();
        }
        if matches!(left, Left::Answered | Left::Failed) {
            // Others may be started again.
            self.needs_tending |= self.breaker.state() != breaker::State::Closed;
            self.breaker.answered();
            self.learner.paced(now.saturating_duration_since(paced_at));
            self.note_answer(now);
        }
        if left == Left::Answered
            && !was_alone
            && let Some(terms) = &call.terms
        {
            let took = running.took(now);
            self.learner.answered(course, took, terms.habits.usual.get(), now);
            if course == Course::Alone {
                terms.habits.usual.note(took);
            }
        }
        self.schedule(now)
    }

    /// The server of worker `slot` asks something, though no call has it for itself. Gives the one call that can be meant, which has it
    /// for itself from now on.
    pub(super) fn asked(&mut self, slot: usize, link: &Arc<Link>) -> Option<Arc<Call>> {
        let current = self.current(slot, link)?;
        // One that was cancelled may still ask until its server has read of that.
        let is_clear = current.calls.len() == 1 && current.health.n_unsettled <= 0;
        let only = current.calls.front().filter(|only| is_clear && only.call.is_beside())?;
        let call = Arc::clone(&only.call);
        current.is_exclusive = true;
        Some(call)
    }

    /// A ping of worker `slot` was answered. Returns the waiting calls that get a place now.
    pub(super) fn pong(
        &mut self,
        slot: usize,
        link: &Arc<Link>,
        ping: Ping,
        after: Duration,
        now: Instant,
    ) -> Vec<Placed> {
        let Some(current) = self.current(slot, link) else { return Vec::new() };
        current.health.lives();
        match ping {
            Ping::Routine => current.health.last_ping = Some(after),
            Ping::BehindCancel => current.health.unsettled(-1, now),
        }
        self.schedule(now)
    }

    /// Takes a waiting call out. Returns the waiting calls that get a place through that.
    pub(super) fn remove(&mut self, call: &Arc<Call>, now: Instant) -> Vec<Placed> {
        self.queue.remove(call);
        self.schedule(now)
    }

    /// Worker `slot` takes no calls any more, and its calls are somebody else's to end. Returns the waiting calls that get
    /// a place at another.
    pub(super) fn closing(&mut self, slot: usize, now: Instant) -> Vec<Placed> {
        let index = slot;
        let slot = &mut self.slots[index];
        if !matches!(slot.state, State::Stopping) {
            slot.state = State::Closing;
        }
        let before = slot.turn(index);
        self.n_in_flight -= slot.calls.len();
        let n_probes = slot.calls.drain(..).filter(|running| running.is_probe).count();
        self.turns.change(before, slot.turn(index));
        (0..n_probes).for_each(|_| self.learner.probe_left());
        slot.is_exclusive = false;
        slot.is_kept_free = false;
        self.schedule(now)
    }

    /// Workers by state.
    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for slot in self.slots.iter().filter(|slot| !slot.is_vacant()) {
            counts.total += 1;
            match &slot.state {
                State::Ready(_) if !slot.calls.is_empty() => counts.busy += 1,
                State::Ready(_) if !slot.health.is_mute => counts.ready += 1,
                State::Starting if !slot.is_hopeless() => counts.starting += 1,
                _ => counts.unhealthy += 1,
            }
        }
        counts
    }

    /// Why a call cannot be expected to get a worker, when that is so: the server keeps dying, or every worker does.
    pub(super) fn refusal(&self, now: Instant) -> Option<Error> {
        if self.slots.iter().any(Slot::is_ready) {
            return None;
        }
        let server = self.server.to_string();
        if self.is_stopping {
            let reason = "its workers were told to stop".to_owned();
            return Some(Error::NoWorker { server, reason, retry_after: RETRY_AFTER_MIN });
        }
        let breaker_says = match self.breaker.state() {
            breaker::State::Closed => None,
            breaker::State::Open(until) => Some(until.saturating_duration_since(now)),
            breaker::State::HalfOpen => Some(RETRY_AFTER_MIN),
        };
        if let Some(retry_after) = breaker_says {
            let (failures, reason) = (self.breaker.failures(), self.last_words());
            let stderr = self.last_death.as_ref().map(|end| end.stderr.clone()).unwrap_or_default();
            return Some(Error::BreakerOpen { server, failures, reason, stderr, retry_after });
        }
        let mut slots = self.slots.iter().filter(|slot| !slot.is_vacant()).peekable();
        if slots.peek().is_none() || !slots.all(Slot::is_hopeless) {
            return None;
        }
        let next_start = self.slots.iter().filter_map(|slot| match slot.state {
            State::Down(at) => Some(at.saturating_duration_since(now)),
            _ => None,
        });
        let retry_after = next_start.min().unwrap_or_default().max(RETRY_AFTER_MIN);
        Some(Error::NoWorker { server, reason: self.last_words(), retry_after })
    }

    /// Why a worker that is not up went down, fit for everybody's eyes.
    pub(super) fn reason(&self) -> Option<String> {
        let is_one_down =
            self.slots.iter().any(|slot| !slot.is_vacant() && !slot.is_ready() && slot.last_end.is_some());
        let reason = self.last_death.as_ref().map(|end| end.reason.clone())?;
        let failures = self.breaker.failures();
        match self.breaker.state() {
            breaker::State::Closed => Some(reason).filter(|_| is_one_down),
            breaker::State::Open(_) => Some(format!("the breaker is open after {failures} deaths in a row: {reason}")),
            breaker::State::HalfOpen => Some(format!("it is tried again after {failures} deaths in a row: {reason}")),
        }
    }

    /// How the last process died that did, with its last line on stderr.
    fn last_words(&self) -> String {
        let Some(end) = &self.last_death else { return String::new() };
        let last_line = end.stderr.last().map(|line| format!("; its last line on stderr: `{line}`"));
        end.reason.clone() + &last_line.unwrap_or_default()
    }

    /// Whether any worker ever got ready.
    pub(super) fn was_ready(&self) -> bool {
        self.slots.iter().any(|slot| slot.was_ready)
    }

    /// The worker that takes calls over this link.
    pub(super) fn slot_of(&self, link: &Arc<Link>) -> Option<usize> {
        self.slots.iter().position(|slot| matches!(&slot.state, State::Ready(it) if Arc::ptr_eq(it, link)))
    }

    /// Calls that wait now, and the most that ever did.
    pub(super) fn queued(&self) -> (usize, usize) {
        (self.queue.len(), self.queue.peak())
    }

    /// When a call last got a place or left one.
    pub(super) fn moved_at(&self) -> Instant {
        self.moved_at
    }

    /// Calls at workers.
    pub(super) fn in_flight(&self) -> usize {
        self.n_in_flight
    }

    /// When a caller that finds the queue as it is now may hope to be served, at the rate that was measured.
    pub(super) fn retry_after(&self) -> Duration {
        let seconds = self.answer_interval.unwrap_or_default() * (self.queued().0 + 1) as f64;
        Duration::try_from_secs_f64(seconds).unwrap_or(RETRY_AFTER_MAX).clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX)
    }

    /// What a caller is told who finds the queue full.
    fn overloaded(&self) -> Error {
        let what = format!("{} calls wait for a worker of `{}` already", self.queue.len(), self.server);
        Error::Overloaded { what, hint: MORE_WORKERS, retry_after: self.retry_after() }
    }

    /// Gives waiting calls the places there are.
    pub(super) fn schedule(&mut self, now: Instant) -> Vec<Placed> {
        let mut placed = Vec::new();
        while let Some((kind, found)) = self.next_place(now) {
            let Some((call, since)) = self.queue.pop(kind) else { break };
            self.totals.waited(now.saturating_duration_since(since));
            placed.extend(self.place(&found, &call, now));
        }
        self.keep_free();
        if !placed.is_empty() {
            self.notice_load(now);
        }
        placed
    }

    /// The next waiting call that fits somewhere, by its kind, and where.
    fn next_place(&self, now: Instant) -> Option<(Kind, Found)> {
        self.queue.kinds().find_map(|kind| Some((kind, self.find(self.queue.front(kind)?, now)?)))
    }

    /// Keeps as many workers free as exclusive calls wait, the least busy ones.
    fn keep_free(&mut self) {
        let n_wanted = self.queue.len_of(Kind::Exclusive);
        if n_wanted == 0 && !self.may_keep_free {
            return;
        }
        let mut n_kept = self.slots.iter().filter(|slot| slot.is_kept_free).count();
        while n_kept != n_wanted {
            let is_candidate = |slot: &&mut Slot| {
                let may_serve = slot.is_open() && !slot.is_exclusive && !slot.health.is_mute;
                if n_kept < n_wanted { may_serve && !slot.is_kept_free } else { slot.is_kept_free }
            };
            let candidates = self.slots.iter_mut().filter(is_candidate);
            let Some(slot) = candidates.min_by_key(|slot| slot.calls.len()) else { break };
            slot.is_kept_free = n_kept < n_wanted;
            n_kept = if slot.is_kept_free { n_kept + 1 } else { n_kept - 1 };
        }
        self.may_keep_free = 0 < n_kept;
    }

    /// The worker that has a place for this call now.
    fn find(&self, call: &Call, now: Instant) -> Option<Found> {
        // One that does not answer pings gets calls only when there is no hope of another.
        let is_hopeful = |slot: &Slot| {
            let is_coming = matches!(slot.state, State::Starting | State::Down(_));
            is_coming || (slot.is_open() && !slot.health.is_mute && slot.health.awaited_since.is_none())
        };
        let has_hope = || self.target < self.rules.max_workers || self.slots.iter().any(is_hopeful);
        let is_exclusive = call.is_exclusive();
        let (at_once, in_pipe) = (self.learner.at_once(), self.learner.in_pipe());
        let fits = |slot: &Slot| {
            if !slot.is_open() || slot.is_exclusive || slot.health.awaited_since.is_some() {
                return false;
            }
            if slot.health.is_mute && has_hope() {
                return false;
            }
            let n_calls = slot.calls.len();
            if is_exclusive {
                return n_calls == 0 && slot.health.n_unsettled <= 0;
            }
            let keeps_answering = || now.saturating_duration_since(slot.paced_at) < PIPE_TIME;
            !slot.is_kept_free && (n_calls < at_once || (n_calls < in_pipe && keeps_answering()))
        };
        let calls_max = if is_exclusive { 1 } else { at_once.max(in_pipe) };
        if let Some(slot) = self.turns.with_fewer(calls_max).find(|slot| fits(&self.slots[*slot])) {
            return Some(Found { slot, is_probe: false });
        }
        self.find_to_probe(call, now)
    }

    /// A worker that may be risked to have this call beside others, to see whether it does several at once: one whose calls
    /// have just begun and take hardly longer than this one, or any when nothing moves.
    fn find_to_probe(&self, call: &Call, now: Instant) -> Option<Found> {
        if call.is_exclusive() || !self.learner.may_probe(now) {
            return None;
        }
        let is_stuck = self.moved_at + STUCK_TIME <= now && self.rules.max_workers <= self.target;
        let usual = call.usual();
        // One that is nearly done would tell nothing: the call would hardly be behind it.
        let is_worth_it = |running: &Running| {
            let bearable = usual.map(|usual| usual * 2);
            let theirs = running.call.usual();
            theirs.zip(bearable).is_some_and(|(theirs, max)| theirs <= max && running.took(now) * 2 < theirs)
        };
        let fits = |slot: &Slot| {
            let is_well = !slot.health.is_mute && slot.health.awaited_since.is_none();
            let is_free = slot.is_open() && !slot.is_exclusive && !slot.is_kept_free;
            let has_probe = slot.calls.iter().any(|running| running.is_probe);
            is_free && is_well && !has_probe && (is_stuck || slot.calls.iter().all(is_worth_it))
        };
        self.turns.all().find(|slot| fits(&self.slots[*slot])).map(|slot| Found { slot, is_probe: true })
    }

    fn place(&mut self, found: &Found, call: &Arc<Call>, now: Instant) -> Option<Placed> {
        self.uses += 1;
        let Found { slot, is_probe } = *found;
        let State::Ready(link) = &self.slots[slot].state else { return None };
        let placed = Placed { slot, link: Arc::clone(link), call: Arc::clone(call) };
        if self.n_in_flight == 0 {
            self.answered_at = now;
        }
        let index = slot;
        let slot = &mut self.slots[index];
        let before = slot.turn(index);
        slot.last_used = self.uses;
        slot.is_kept_free &= !call.is_exclusive();
        slot.take(call, is_probe, now);
        self.turns.change(before, slot.turn(index));
        self.n_in_flight += 1;
        self.moved_at = now;
        self.needs_tending |= self.rules.calls_max == Some(slot.calls_of_process);
        if is_probe {
            self.learner.probe_sent();
        }
        Some(placed)
    }

    /// Worker `slot`, if this is still the link it takes calls over.
    fn current(&mut self, slot: usize, link: &Arc<Link>) -> Option<&mut Slot> {
        let slot = &mut self.slots[slot];
        let is_current = matches!(&slot.state, State::Ready(it) if Arc::ptr_eq(it, link));
        is_current.then_some(slot)
    }

    fn note_answer(&mut self, now: Instant) {
        let sample = now.saturating_duration_since(self.answered_at).as_secs_f64();
        self.answered_at = now;
        self.answer_interval = Some(self.answer_interval.map_or(sample, |it| it + (sample - it) / 8.0));
    }
}

/// Where a call can go.
#[derive(Debug, Clone, Copy)]
struct Found {
    slot: usize,
    is_probe: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        pool::testing::{beside_of, call, call_of, exclusive_of, link, ready, rules, start},
        worker::End,
    };

    fn dispatch(n_workers: usize, concurrency: usize, queue_max: usize) -> Dispatch {
        start(Rules { queue_max, ..rules(n_workers, n_workers, concurrency) }, Instant::now())
    }

    fn admit(dispatch: &mut Dispatch, call: &Arc<Call>) -> Option<Placed> {
        match dispatch.admit(call, Instant::now()) {
            Ok(Admitted::Placed(placed)) => Some(placed),
            Ok(Admitted::Waits) => None,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn check_goes_to(dispatch: &mut Dispatch, link: &Arc<Link>) -> Arc<Call> {
        let call = call();
        let placed = admit(dispatch, &call).expect("it was queued");
        assert!(Arc::ptr_eq(&placed.link, link));
        call
    }

    #[track_caller]
    fn check_waits(dispatch: &mut Dispatch, call: &Arc<Call>) {
        assert!(admit(dispatch, call).is_none());
    }

    fn answer(dispatch: &mut Dispatch, slot: usize, link: &Arc<Link>, call: &Arc<Call>) -> Vec<Placed> {
        dispatch.call_left(slot, link, call, Left::Answered, Instant::now())
    }

    #[track_caller]
    fn check_placed(placed: &[Placed], expected: &[(usize, &Arc<Call>)]) {
        let is_same = |(placed, (slot, call)): (&Placed, &(usize, &Arc<Call>))| {
            placed.slot == *slot && Arc::ptr_eq(&placed.call, call)
        };
        assert!(placed.len() == expected.len() && placed.iter().zip(expected).all(is_same), "{placed:?}");
    }

    fn died(reason: &str, line: &str) -> End {
        End { reason: reason.to_owned(), stderr: vec![line.to_owned()], ..End::default() }
    }

    #[test]
    fn a_call_goes_to_the_least_busy_worker_and_among_equals_to_the_one_unused_for_longest() {
        let mut dispatch = dispatch(3, 2, 10);
        let links = [0, 1, 2].map(|slot| ready(&mut dispatch, slot));
        let calls = [0, 1, 2].map(|slot| check_goes_to(&mut dispatch, &links[slot]));
        answer(&mut dispatch, 1, &links[1], &calls[1]);
        for slot in [1, 0, 2, 1] {
            check_goes_to(&mut dispatch, &links[slot]);
        }
        check_waits(&mut dispatch, &call());
    }

    #[test]
    fn waiting_calls_get_their_places_in_the_order_they_came() {
        let mut dispatch = dispatch(1, 1, 10);
        let waiting = [call(), call(), call()];
        waiting.iter().for_each(|it| check_waits(&mut dispatch, it));
        let link = link();
        let first = dispatch.ready(0, &link, crate::pool::testing::info(), Instant::now());
        check_placed(&first, &[(0, &waiting[0])]);
        dispatch.remove(&waiting[1], Instant::now());
        check_placed(&answer(&mut dispatch, 0, &link, &waiting[0]), &[(0, &waiting[2])]);
        check_placed(&answer(&mut dispatch, 0, &link, &waiting[2]), &[]);
        assert_eq!(dispatch.queued(), (0, 3));
    }

    #[test]
    fn a_full_queue_refuses_and_says_when_to_come_back_by_the_rate_it_has_seen() {
        let now = Instant::now();
        let mut dispatch = dispatch(1, 1, 2);
        let link = ready(&mut dispatch, 0);
        let first = call();
        assert!(matches!(dispatch.admit(&first, now), Ok(Admitted::Placed(_))));
        dispatch.call_left(0, &link, &first, Left::Answered, now + Duration::from_secs(3));
        for _ in 0..3 {
            assert!(dispatch.admit(&call(), now + Duration::from_secs(3)).is_ok());
        }
        let refused = dispatch.admit(&call(), now + Duration::from_secs(3)).expect_err("the queue is full");
        assert_eq!((refused.code(), refused.retry_after()), ("overloaded", Some(Duration::from_secs(9))));
        let Ok(Admitted::InsteadOf(_, error)) = dispatch.admit(&call_of("other"), now) else {
            panic!("it has no line")
        };
        assert_eq!(error.code(), "overloaded");
    }

    #[test]
    fn a_place_in_a_process_that_is_gone_frees_none_in_its_successor() {
        let mut dispatch = dispatch(1, 1, 1);
        let old = ready(&mut dispatch, 0);
        let lost = check_goes_to(&mut dispatch, &old);
        dispatch.closing(0, Instant::now());
        assert!(dispatch.ended(0, End::default(), Instant::now()).is_empty());
        let new = ready(&mut dispatch, 0);
        check_goes_to(&mut dispatch, &new);
        assert!(answer(&mut dispatch, 0, &old, &lost).is_empty());
        assert_eq!((dispatch.counts().busy, dispatch.in_flight()), (1, 1));
    }

    #[test]
    fn one_death_is_waited_out_and_a_second_in_a_row_is_told() {
        let now = Instant::now();
        let mut dispatch = dispatch(1, 1, 10);
        ready(&mut dispatch, 0);
        assert!(dispatch.ended(0, died("died", "oh"), now).is_empty());
        check_waits(&mut dispatch, &call());
        let in_vain = dispatch.ended(0, died("died again", "oh no"), now);
        let error = dispatch.refusal(now).expect("it is hopeless");
        assert_eq!(
            (in_vain.len(), error.to_string().as_str()),
            (1, "server `s` has no worker: died again; its last line on stderr: `oh no`")
        );
        assert_eq!(dispatch.admit(&call(), now).expect_err("it is hopeless").code(), "no_worker");
        assert_eq!(dispatch.counts(), Counts { total: 1, unhealthy: 1, ..Counts::default() });
        ready(&mut dispatch, 0);
        assert_eq!(dispatch.counts(), Counts { total: 1, ready: 1, ..Counts::default() });
    }

    #[test]
    fn a_server_that_never_came_up_fails_at_its_first_death() {
        let now = Instant::now();
        let mut dispatch = dispatch(2, 1, 10);
        check_waits(&mut dispatch, &call());
        assert!(dispatch.ended(0, died("exited with code 3", ""), now).is_empty(), "the other may still come up");
        assert_eq!(dispatch.ended(1, died("exited with code 3", ""), now).len(), 1);
    }

    #[test]
    fn an_exclusive_call_has_its_worker_alone() {
        let mut dispatch = dispatch(2, 8, 10);
        let links = [0, 1].map(|slot| ready(&mut dispatch, slot));
        let alone = exclusive_of("a");
        assert_eq!(admit(&mut dispatch, &alone).unwrap().slot, 0);
        check_goes_to(&mut dispatch, &links[1]);
        check_goes_to(&mut dispatch, &links[1]);
        answer(&mut dispatch, 0, &links[0], &alone);
        check_goes_to(&mut dispatch, &links[0]);
    }

    #[test]
    fn the_only_call_that_can_be_asked_has_its_worker_alone_once_that_was() {
        let now = Instant::now();
        let mut dispatch = dispatch(1, 8, 10);
        let (link, other) = (ready(&mut dispatch, 0), link());
        let plain = check_goes_to(&mut dispatch, &link);
        assert!(dispatch.asked(0, &link).is_none(), "it can be asked nothing");
        let beside = beside_of("a");
        assert_eq!(admit(&mut dispatch, &beside).unwrap().slot, 0);
        assert!(dispatch.asked(0, &link).is_none(), "one of two");
        answer(&mut dispatch, 0, &link, &plain);
        assert!(Arc::ptr_eq(&dispatch.asked(0, &link).unwrap(), &beside));
        let waiting = call();
        check_waits(&mut dispatch, &waiting);
        assert!(Arc::ptr_eq(&dispatch.asked(0, &link).unwrap(), &beside), "again");
        check_placed(&answer(&mut dispatch, 0, &link, &beside), &[(0, &waiting)]);
        answer(&mut dispatch, 0, &link, &waiting);

        // Whoever was cancelled may be the one who asks.
        let cancelled = beside_of("a");
        admit(&mut dispatch, &cancelled).unwrap();
        dispatch.call_left(0, &link, &cancelled, Left::Cancelled, now);
        dispatch.pong(0, &link, Ping::Routine, Duration::ZERO, now);
        let beside = beside_of("a");
        admit(&mut dispatch, &beside).unwrap();
        assert!(dispatch.asked(0, &link).is_none());
        dispatch.pong(0, &link, Ping::BehindCancel, Duration::ZERO, now);
        assert!(dispatch.asked(0, &link).is_some());
        assert!(dispatch.asked(0, &other).is_none(), "a process that is no more");
    }

    #[test]
    fn an_exclusive_call_reserves_the_least_busy_worker() {
        let mut dispatch = dispatch(2, 2, 10);
        let links = [0, 1].map(|slot| ready(&mut dispatch, slot));
        let calls = [0, 1, 0].map(|slot| check_goes_to(&mut dispatch, &links[slot]));
        let (alone, second, shared) = (exclusive_of("a"), exclusive_of("a"), call());
        check_waits(&mut dispatch, &alone);
        check_waits(&mut dispatch, &second);
        check_waits(&mut dispatch, &shared);
        assert_eq!(dispatch.queued().0, 3);
        check_placed(&answer(&mut dispatch, 0, &links[0], &calls[0]), &[]);
        check_placed(&answer(&mut dispatch, 1, &links[1], &calls[1]), &[(1, &alone)]);
        check_placed(&answer(&mut dispatch, 0, &links[0], &calls[2]), &[(0, &second)]);
        check_placed(&answer(&mut dispatch, 1, &links[1], &alone), &[(1, &shared)]);
    }

    #[test]
    fn a_reservation_ends_with_its_call_and_moves_when_its_worker_dies() {
        let mut dispatch = dispatch(2, 1, 10);
        let links = [0, 1].map(|slot| ready(&mut dispatch, slot));
        let calls = [0, 1].map(|slot| check_goes_to(&mut dispatch, &links[slot]));
        let (alone, shared) = (exclusive_of("a"), call());
        check_waits(&mut dispatch, &alone);
        check_waits(&mut dispatch, &shared);
        check_placed(&dispatch.closing(0, Instant::now()), &[]);
        check_placed(&answer(&mut dispatch, 1, &links[1], &calls[1]), &[(1, &alone)]);
        check_placed(&answer(&mut dispatch, 1, &links[1], &alone), &[(1, &shared)]);
        let (alone, next) = (exclusive_of("a"), call());
        check_waits(&mut dispatch, &alone);
        check_waits(&mut dispatch, &next);
        check_placed(&dispatch.remove(&alone, Instant::now()), &[]);
        check_placed(&answer(&mut dispatch, 1, &links[1], &shared), &[(1, &next)]);
    }

    #[test]
    fn a_worker_that_has_not_read_of_a_cancelled_call_gets_no_other_before_it_says_something() {
        let now = Instant::now();
        let mut dispatch = dispatch(1, 2, 10);
        let link = ready(&mut dispatch, 0);
        let cancelled = check_goes_to(&mut dispatch, &link);
        dispatch.call_left(0, &link, &cancelled, Left::Cancelled, now);
        let waiting = call();
        check_waits(&mut dispatch, &waiting);
        check_placed(&dispatch.pong(0, &link, Ping::BehindCancel, Duration::ZERO, now), &[(0, &waiting)]);
    }

    #[test]
    fn a_worker_that_may_still_ask_for_a_cancelled_call_gets_no_exclusive_one() {
        let now = Instant::now();
        let mut dispatch = dispatch(1, 2, 10);
        let link = ready(&mut dispatch, 0);
        let cancelled = exclusive_of("a");
        admit(&mut dispatch, &cancelled).unwrap();
        dispatch.call_left(0, &link, &cancelled, Left::Cancelled, now);
        // It lives, but has not read so far.
        dispatch.pong(0, &link, Ping::Routine, Duration::ZERO, now);
        let alone = exclusive_of("a");
        check_waits(&mut dispatch, &alone);
        check_placed(&dispatch.pong(0, &link, Ping::BehindCancel, Duration::ZERO, now), &[(0, &alone)]);

        // The server's answer may be there before the one who cancelled has said so.
        dispatch.pong(0, &link, Ping::BehindCancel, Duration::ZERO, now);
        let next = exclusive_of("a");
        check_waits(&mut dispatch, &next);
        check_placed(&dispatch.call_left(0, &link, &alone, Left::Cancelled, now), &[(0, &next)]);
    }

    #[test]
    fn a_silent_worker_gets_calls_only_when_no_other_is_up() {
        let mut dispatch = dispatch(2, 1, 10);
        let links = [0, 1].map(|slot| ready(&mut dispatch, slot));
        dispatch.slots[0].health.is_mute = true;
        assert_eq!(dispatch.counts(), Counts { total: 2, ready: 1, unhealthy: 1, ..Counts::default() });
        let first = check_goes_to(&mut dispatch, &links[1]);
        let waiting = call();
        check_waits(&mut dispatch, &waiting);
        check_placed(&dispatch.closing(1, Instant::now()), &[(0, &waiting)]);
        assert!(answer(&mut dispatch, 1, &links[1], &first).is_empty());
    }

    #[test]
    fn one_call_is_risked_behind_another_and_a_serial_server_gets_no_more() {
        let start_at = Instant::now();
        let at = |ms| start_at + Duration::from_millis(ms);
        let mut dispatch = start(Rules { concurrency: crate::config::Concurrency::Auto, ..rules(1, 1, 1) }, start_at);
        let link = ready(&mut dispatch, 0);
        let calls: Vec<_> = (0..20).map(|_| call()).collect();
        for call in &calls {
            call.terms.as_ref().unwrap().habits.usual.note(Duration::from_millis(200));
        }
        let mut at_worker = std::collections::VecDeque::new();
        for call in &calls {
            if let Ok(Admitted::Placed(placed)) = dispatch.admit(call, at(0)) {
                at_worker.push_back(placed.call);
            }
        }
        assert_eq!(at_worker.len(), 2, "one runs and one is risked");
        let mut most_later = 0;
        for round in 1..=20 {
            let Some(done) = at_worker.pop_front() else { break };
            let placed = dispatch.call_left(0, &link, &done, Left::Answered, at(round * 200));
            at_worker.extend(placed.into_iter().map(|placed| placed.call));
            if 4 < round && round < 9 {
                most_later = most_later.max(at_worker.len());
            }
        }
        assert_eq!((most_later, dispatch.learner.at_once()), (1, 1), "it was found to be serial");
    }
}
