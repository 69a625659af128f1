//! What becomes of the workers: how many there are, who is replaced, who is asked whether it lives. One file, because
//! each of these must know of the others: a worker that is replaced is none that is missing.
//!
//! [`Dispatch::tend`] looks at everything there is to know and gives orders; it sends nothing, starts nothing and asks no
//! clock, so a day of traffic can be played to it in a second ([`super::simulation`]). [`super::supervisor`] calls it
//! when something has happened, or when it said it wanted to be called again, and carries the orders out.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{
    breaker,
    dispatch::{Dispatch, Placed},
    learner::STUCK_TIME,
    scaling::{self, Load},
    slot::{Duty, Health, Slot, State},
};
use crate::{
    config::{Concurrency, Config},
    error::Seconds,
    worker::{Call, End, Link, ServerInfo},
};

/// Pings that an idle worker may leave unanswered before it is replaced.
const PINGS_MAX: usize = 3;

/// Scale events kept.
const SCALE_EVENTS_MAX: usize = 50;

/// Wait before the first new start after a worker that had answered died. Doubles with every failure in a row.
const BACKOFF_MIN: Duration = Duration::from_millis(50);

/// Longest wait between two starts of a process that keeps dying.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// A process that lived for so long died by accident, however often the one before it did.
const LONG_LIFE: Duration = Duration::from_secs(60);

/// How long nothing may be looked at, when nothing is expected to happen.
const LOOK_PAUSE_MAX: Duration = Duration::from_secs(3600);

/// The settings that a pool goes by.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "each is a setting of this name")]
pub(super) struct Rules {
    pub(super) min_workers: usize,
    pub(super) max_workers: usize,
    pub(super) concurrency: Concurrency,
    pub(super) queue_max: usize,
    pub(super) scale_up_after: Duration,
    pub(super) scale_down_after: Duration,
    pub(super) health_interval: Duration,
    pub(super) health_timeout: Duration,
    pub(super) calls_max: Option<u64>,
    pub(super) age_max: Option<Duration>,
    pub(super) memory_bytes_max: Option<u64>,
    pub(super) breaker_failures: u32,
    pub(super) breaker_cooldown: Duration,
}

impl Rules {
    /// The rules of `config` for a pool of so many workers.
    pub(super) fn new(config: &Config, min_workers: usize, max_workers: usize) -> Rules {
        Rules {
            min_workers,
            max_workers,
            concurrency: config.worker_concurrency,
            queue_max: config.queue_max,
            scale_up_after: config.scale_up_after,
            scale_down_after: config.scale_down_after,
            health_interval: config.health_interval,
            health_timeout: config.health_timeout,
            calls_max: config.worker_calls_max,
            age_max: config.worker_age_max,
            memory_bytes_max: config.worker_memory_bytes_max,
            breaker_failures: config.breaker_failures,
            breaker_cooldown: config.breaker_cooldown,
        }
    }
}

/// A change in how many workers a pool is to have.
#[derive(Debug, Clone, PartialEq)]
pub struct ScaleEvent {
    /// When.
    pub time: SystemTime,
    /// Workers before.
    pub from: usize,
    /// Workers from now on.
    pub to: usize,
    /// Why.
    pub reason: String,
}

/// The last changes, the newest last.
#[derive(Debug, Default)]
pub(super) struct ScaleEvents(VecDeque<ScaleEvent>);

impl ScaleEvents {
    pub(super) fn get(&self) -> Vec<ScaleEvent> {
        self.0.iter().cloned().collect()
    }

    fn push(&mut self, from: usize, to: usize, reason: String) {
        if self.0.len() == SCALE_EVENTS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(ScaleEvent { time: SystemTime::now(), from, to, reason });
    }
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Order {
    /// Start a process for this slot, under this name.
    Start(usize, Arc<str>),
    /// Stop the process of this slot in order.
    Stop(usize),
    /// Kill the process of this slot, for this reason.
    Kill(usize, String),
    /// Ask for a sign of life.
    Ping(Arc<Link>),
}

/// What a look at everything came to.
#[derive(Debug)]
pub(super) struct Tended {
    pub(super) orders: Vec<Order>,
    /// Calls that have a place now.
    pub(super) placed: Vec<Placed>,
    /// When to look again, if nothing happens before.
    pub(super) look_again_at: Instant,
}

/// What the system says of a worker's process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) slot: usize,
    pub(super) is_stopped: bool,
    pub(super) rss_bytes: u64,
}

impl Dispatch {
    /// Notes that calls came: whether the pool is too small for them is to be looked at when it may be.
    pub(super) fn notice_load(&mut self, now: Instant) {
        let (in_flight, queued) = (self.at_work(), self.queued().0);
        self.peak.note(in_flight + queued);
        if self.rules.max_workers <= self.target {
            return;
        }
        if self.busy_since.is_none() {
            let is_free = |slot: usize| self.slots[slot].is_open() && !self.slots[slot].is_blocked();
            let is_busy = self.slots.iter().any(Slot::is_open) && !self.turns.with_fewer(1).any(is_free);
            self.busy_since = is_busy.then_some(now);
        }
        let Some(busy_since) = self.busy_since else { return };
        let load = self.load(now);
        if scaling::grown(&load, self.rules.scale_up_after).is_some() {
            self.needs_tending = true;
        } else if load.target < in_flight && self.busy_look_at.is_none() {
            self.busy_look_at = Some(busy_since + self.rules.scale_up_after);
            self.needs_tending = true;
        }
    }

    /// Worker `slot` takes calls. Returns the waiting ones that get a place now.
    pub(super) fn ready(&mut self, slot: usize, link: &Arc<Link>, info: Arc<ServerInfo>, now: Instant) -> Vec<Placed> {
        let replaced = {
            let slot = &mut self.slots[slot];
            slot.state = State::Ready(Arc::clone(link));
            slot.was_ready = true;
            slot.info = Some(info);
            slot.health = Health { next_ping_at: now + self.rules.health_interval, ..Health::new(now) };
            slot.replaces.take()
        };
        self.breaker.got_ready();
        self.busy_since = None;
        if let Some(old) = replaced.map(|old| &mut self.slots[old])
            && matches!(old.duty, Duty::Retire(_))
        {
            old.duty = Duty::Drain;
            old.is_kept_free = false;
        }
        self.needs_tending = true;
        self.schedule(now)
    }

    /// The process of worker `slot` is gone. When no worker can be expected to come up, returns the calls that wait in vain.
    pub(super) fn ended(&mut self, slot: usize, end: End, now: Instant) -> Vec<Arc<Call>> {
        self.needs_tending = true;
        let has_successor = self.slots.iter().any(|it| it.replaces == Some(slot));
        let ended = &mut self.slots[slot];
        ended.errors_total += end.calls_lost;
        ended.late_answers_total += end.late_answers;
        let (was_wanted, duty) = (end.was_wanted, std::mem::replace(&mut ended.duty, Duty::Serve));
        if end.speaks_modern_only {
            // It was asked in the wrong era, which is no failure of its own.
            ended.state = State::Down(now);
            self.breaker.undecided(now);
        } else if !was_wanted {
            let was_an_accident = LONG_LIFE <= now.saturating_duration_since(ended.since) && ended.was_ready;
            ended.failures = if was_an_accident { 1 } else { ended.failures + 1 };
            self.last_death = Some(end.clone());
            ended.last_end = Some(end);
            ended.state = State::Down(now + backoff(ended.failures));
            let was_closed = self.breaker.state() == breaker::State::Closed;
            self.breaker.died(now);
            self.totals.died(was_closed && self.breaker.state() != breaker::State::Closed);
        }
        if has_successor {
            self.slots.iter_mut().filter(|it| it.replaces == Some(slot)).for_each(|it| it.replaces = None);
        }
        if was_wanted || self.is_stopping || duty != Duty::Serve {
            self.vacate(slot, now);
        }
        self.take_hopeless(now)
    }

    /// The calls that wait in vain, when no worker can be expected to come up.
    fn take_hopeless(&mut self, now: Instant) -> Vec<Arc<Call>> {
        if self.refusal(now).is_some() { self.queue.drain() } else { Vec::new() }
    }

    /// Begins with as many workers as a pool before it had, as far as the rules allow it.
    pub(super) fn begin_with(&mut self, target: usize) {
        self.target = target.clamp(self.rules.min_workers, self.rules.max_workers);
    }

    /// Goes by other rules from now on, and says `why` when there are to be more or fewer workers. Workers that are too many take no new calls, and stop when they have none.
    pub(super) fn adapt(&mut self, rules: Rules, why: &str, now: Instant) {
        if self.rules == rules {
            return;
        }
        self.queue.set_calls_max(rules.queue_max);
        self.breaker.adapt(rules.breaker_failures, rules.breaker_cooldown);
        self.peak.adapt(rules.scale_down_after, now);
        if self.rules.concurrency != rules.concurrency {
            self.learner.adapt(rules.concurrency);
        }
        let wanted = self.target.clamp(rules.min_workers, rules.max_workers);
        if wanted < self.target {
            self.dismiss(self.target - wanted, now);
        }
        if let Some(budget) = &self.budget {
            budget.give_back(self.target.saturating_sub(wanted));
        }
        if wanted != self.target {
            self.scale(wanted, why.to_owned());
        }
        for slot in &mut self.slots {
            slot.health.next_ping_at = slot.health.next_ping_at.min(now + rules.health_interval);
        }
        self.rules = rules;
        self.needs_tending = true;
    }

    /// Has so many workers leave, the least useful ones.
    fn dismiss(&mut self, n_workers: usize, now: Instant) {
        let rank = |slot: &Slot| match slot.state {
            State::Down(_) => 0,
            State::Starting | State::Closing => 1,
            _ if slot.is_blocked() => 2,
            _ => 3 + slot.calls.len(),
        };
        let mut leaving: Vec<usize> = (0..self.slots.len()).filter(|index| self.slots[*index].counts()).collect();
        leaving.sort_by_key(|index| rank(&self.slots[*index]));
        for index in leaving.into_iter().take(n_workers) {
            if let State::Down(_) = self.slots[index].state {
                self.vacate(index, now);
            } else {
                self.slots[index].duty = Duty::Drain;
                self.slots[index].is_kept_free = false;
            }
        }
    }

    /// Asks that worker `slot` be replaced. False when there is none, or it ends anyway.
    pub(super) fn ask_restart(&mut self, slot: usize, now: Instant) -> bool {
        let slot = &mut self.slots[slot];
        match &mut slot.state {
            State::Ready(_) => slot.is_restart_asked = true,
            State::Down(start_at) => *start_at = now,
            // It may have read what it is started from before that was changed.
            State::Starting => slot.is_restart_asked = true,
            State::Closing => {}
            State::Vacant | State::Stopping => return false,
        }
        self.breaker.try_now(now);
        self.needs_tending = true;
        true
    }

    /// Workers whose process is to be looked at before the next [`Dispatch::tend`].
    pub(super) fn to_look_at(&self, now: Instant) -> Vec<usize> {
        let (timeout, has_limit) = (self.rules.health_timeout, self.rules.memory_bytes_max.is_some());
        let is_wanted = |slot: &Slot| {
            slot.is_ready() && (slot.health.is_overdue(timeout, now) || (has_limit && slot.health.next_ping_at <= now))
        };
        let slots = self.slots.iter().enumerate().filter(|(_, slot)| is_wanted(slot));
        slots.map(|(index, _)| index).collect()
    }

    /// Decides what is to be done. `seen`: what [`Dispatch::to_look_at`] asked for.
    pub(super) fn tend(&mut self, seen: &[Seen], now: Instant) -> Tended {
        self.needs_tending = false;
        let mut orders = Vec::new();
        let mut placed = Vec::new();
        if !self.is_stopping {
            self.check_health(seen, &mut orders, &mut placed, now);
            self.grow(now);
            self.shrink(&mut orders, now);
            self.retire(&mut orders, now);
            self.start_missing(&mut orders, now);
            placed.extend(self.schedule(now));
            if self.stuck_look_at.is_some_and(|at| at <= now) {
                let must_look = 0 < self.queued().0;
                self.stuck_look_at = must_look.then(|| (self.moved_at() + STUCK_TIME).max(now + STUCK_TIME / 4));
            }
        }
        Tended { orders, placed, look_again_at: self.look_again_at(now) }
    }

    fn check_health(&mut self, seen: &[Seen], orders: &mut Vec<Order>, placed: &mut Vec<Placed>, now: Instant) {
        let (interval, timeout) = (self.rules.health_interval, self.rules.health_timeout);
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            let State::Ready(link) = &slot.state else { continue };
            let link = Arc::clone(link);
            let seen = seen.iter().find(|seen| seen.slot == index);
            slot.health.rss_bytes = seen.map_or(slot.health.rss_bytes, |seen| seen.rss_bytes);
            if let Some(reason) = slot.why_unusable(seen.is_some_and(|seen| seen.is_stopped), interval, timeout, now) {
                placed.extend(self.closing(index, now));
                orders.push(Order::Kill(index, reason));
                continue;
            }
            let health = &mut slot.health;
            health.is_mute |= health.is_overdue(timeout, now);
            self.may_be_doubtful |= health.is_mute;
            if health.next_ping_at <= now {
                health.next_ping_at = now + interval;
                // A busy one that cannot answer while it works is not asked again and again.
                let pings_max = if slot.calls.is_empty() { PINGS_MAX } else { 1 };
                if health.pings.len() < pings_max {
                    health.pings.push(now);
                    orders.push(Order::Ping(link));
                }
            }
        }
        self.may_be_doubtful = self.slots.iter().any(|slot| slot.health.is_doubtful());
    }

    fn load(&self, now: Instant) -> Load {
        let max = self.budget.as_ref().map_or(self.rules.max_workers, |budget| {
            self.rules.max_workers.min(self.target + budget.workers_max().saturating_sub(budget.used()))
        });
        Load {
            min: self.rules.min_workers,
            max,
            target: self.target,
            ready: self.slots.iter().filter(|slot| slot.is_open()).count(),
            in_flight: self.at_work(),
            queued: self.queued().0,
            busy_for: self.busy_since.map(|since| now.saturating_duration_since(since)),
            peak: 0,
        }
    }

    /// Calls at workers, and workers that are held up by something that is no call any more.
    fn at_work(&self) -> usize {
        let n_blocked = || self.slots.iter().filter(|slot| slot.is_blocked()).count();
        self.in_flight() + if self.may_be_doubtful { n_blocked() } else { 0 }
    }

    fn grow(&mut self, now: Instant) {
        let is_due = self.busy_look_at.is_some_and(|at| at <= now);
        if is_due {
            self.busy_look_at = None;
        }
        let Some((mut wanted, reason)) = scaling::grown(&self.load(now), self.rules.scale_up_after) else { return };
        if let Some(budget) = &self.budget {
            wanted = self.target + budget.take(wanted - self.target);
        }
        if self.target < wanted {
            self.scale(wanted, reason);
        }
    }

    fn shrink(&mut self, orders: &mut Vec<Order>, now: Instant) {
        let demand = self.at_work() + self.queued().0;
        let peak = self.peak.look(demand, now);
        let Some((wanted, reason)) = scaling::shrunk(&Load { peak, ..self.load(now) }, self.rules.scale_down_after)
        else {
            return;
        };
        let n_before = self.target;
        for index in self.surplus(wanted) {
            if let State::Down(_) = self.slots[index].state {
                self.vacate(index, now);
            } else {
                self.slots[index].state = State::Stopping;
                orders.push(Order::Stop(index));
            }
            self.target -= 1;
        }
        let after = self.target;
        if after < n_before {
            if let Some(budget) = &self.budget {
                budget.give_back(n_before - after);
            }
            self.target = n_before;
            self.scale(after, reason);
        }
    }

    /// Workers that nobody would miss in a pool of `wanted`: those that are down, then those that are silent, then the newest
    /// that have no call, as long as `wanted` are left that can take one.
    fn surplus(&self, wanted: usize) -> Vec<usize> {
        let slots = || (0..self.slots.len()).rev().filter(|index| self.slots[*index].counts());
        let is_idle = |slot: &Slot| slot.is_ready() && slot.calls.is_empty() && !slot.is_kept_free;
        let is_down = |index: &usize| matches!(self.slots[*index].state, State::Down(_));
        let is_silent = |index: &usize| is_idle(&self.slots[*index]) && self.slots[*index].is_blocked();
        let is_fit = |index: &usize| is_idle(&self.slots[*index]) && !self.slots[*index].is_blocked();
        let n_fit = slots().filter(|index| self.slots[*index].is_ready() && !self.slots[*index].is_blocked()).count();
        let fit = slots().filter(is_fit).take(n_fit.saturating_sub(wanted));
        let unfit = slots().filter(is_down).chain(slots().filter(is_silent));
        unfit.chain(fit).take(self.target - wanted).collect()
    }

    fn scale(&mut self, to: usize, reason: String) {
        log::info!(server = &*self.server; "server {} goes from {} to {to} workers: {reason}", self.server, self.target);
        self.totals.scaled(self.target, to);
        self.scale_events.push(self.target, to, reason);
        self.target = to;
    }

    /// Has workers that are due for it replaced, one at a time, and stops those that have been.
    fn retire(&mut self, orders: &mut Vec<Order>, now: Instant) {
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            let is_drained = slot.is_ready() && slot.duty == Duty::Drain && slot.calls.is_empty();
            if is_drained {
                slot.state = State::Stopping;
                orders.push(Order::Stop(index));
            }
        }
        let is_one_under_way = self.slots.iter().any(|slot| slot.replaces.is_some());
        if is_one_under_way || self.breaker.state() != breaker::State::Closed {
            return;
        }
        // Whoever asks for a restart need not wait for the last call of the worker before.
        let is_one_draining = self.slots.iter().any(|slot| slot.is_ready() && slot.duty == Duty::Drain);
        let is_free = |slot: &Slot| !is_one_draining || slot.is_restart_asked;
        let mut slots = self.slots.iter().enumerate().filter(|(_, slot)| is_free(slot));
        let due = slots.find_map(|(index, slot)| Some((index, slot.why_retire(&self.rules, now)?)));
        let Some((index, reason)) = due else { return };
        let name = &*self.slots[index].name;
        log::info!(worker = name; "worker {name} is to be replaced: {reason}");
        self.slots[index].duty = Duty::Retire(reason);
        let successor = self.occupy(now);
        self.slots[successor].replaces = Some(index);
        orders.push(self.start(successor, false, now));
    }

    /// Starts what is missing, as far as the breaker allows it.
    fn start_missing(&mut self, orders: &mut Vec<Order>, now: Instant) {
        let mut counted: usize = self.slots.iter().filter(|slot| slot.counts()).count();
        // A probe has waited for the breaker's pause, and need not wait for its own.
        let is_probe = self.breaker.state() != breaker::State::Closed;
        let mut due = Vec::new();
        for index in 0..self.slots.len() {
            let State::Down(start_at) = self.slots[index].state else { continue };
            if self.target < counted {
                self.vacate(index, now);
                counted -= 1;
            } else if start_at <= now || is_probe {
                due.push(index);
            }
        }
        let n_new = self.target.saturating_sub(counted);
        if due.is_empty() && n_new == 0 {
            return;
        }
        let mut allowed = self.breaker.starts_allowed(now);
        for index in due {
            if allowed == 0 {
                return;
            }
            allowed -= 1;
            let has_died = 0 < self.slots[index].failures;
            self.slots[index].restarts += u64::from(has_died);
            orders.push(self.start(index, has_died, now));
        }
        for _ in 0..n_new.min(allowed) {
            let index = self.occupy(now);
            orders.push(self.start(index, false, now));
        }
    }

    fn start(&mut self, index: usize, has_died: bool, now: Instant) -> Order {
        self.totals.started(has_died);
        let slot = &mut self.slots[index];
        slot.state = State::Starting;
        slot.since = now;
        slot.calls_of_process = 0;
        slot.is_restart_asked = false;
        Order::Start(index, Arc::clone(&slot.name))
    }

    /// An empty slot with a name of its own.
    fn occupy(&mut self, now: Instant) -> usize {
        let index = self.slots.iter().position(Slot::is_vacant).unwrap_or_else(|| {
            let (index, slot) = (self.slots.len(), Slot::vacant(now));
            self.turns.add(slot.turn(index));
            self.slots.push(slot);
            index
        });
        self.slots[index].name = self.names.take();
        index
    }

    pub(super) fn vacate(&mut self, index: usize, now: Instant) {
        // One that was to be replaced by it goes on, until it is due again.
        if let Some(old) = self.slots[index].replaces.map(|old| &mut self.slots[old])
            && matches!(old.duty, Duty::Retire(_))
        {
            old.duty = Duty::Serve;
        }
        self.names.give_back(&self.slots[index].name);
        let before = std::mem::replace(&mut self.slots[index], Slot::vacant(now));
        self.turns.change(before.turn(index), self.slots[index].turn(index));
    }

    /// No worker is started any more, and those that run are told to end by somebody else. Returns the calls that wait in vain.
    pub(super) fn stop(&mut self, now: Instant) -> Vec<Arc<Call>> {
        self.is_stopping = true;
        for index in 0..self.slots.len() {
            if let State::Down(_) = self.slots[index].state {
                self.vacate(index, now);
            }
        }
        self.needs_tending = true;
        self.take_hopeless(now)
    }

    fn look_again_at(&self, now: Instant) -> Instant {
        let mut next = now + LOOK_PAUSE_MAX;
        if self.is_stopping {
            return next;
        }
        let mut consider = |at: Option<Instant>| next = next.min(at.unwrap_or(next));
        consider(self.busy_look_at);
        consider(self.stuck_look_at);
        consider((self.rules.min_workers < self.target).then(|| self.peak.next_look_at()));
        let start_at = |start_at: Instant| match self.breaker.state() {
            breaker::State::Closed => Some(start_at),
            breaker::State::Open(until) => Some(until),
            breaker::State::HalfOpen => None,
        };
        let timeout = self.rules.health_timeout;
        for slot in &self.slots {
            match &slot.state {
                State::Down(at) => consider(start_at(*at)),
                State::Ready(_) => {
                    let health = &slot.health;
                    consider(Some(health.next_ping_at));
                    let (pause, _) = health.patience(self.rules.health_interval, timeout);
                    consider(health.awaited_since.map(|since| since + pause));
                    let overdue = health.pings.iter().map(|sent_at| *sent_at + timeout).find(|at| now < *at);
                    consider(overdue);
                    consider(self.rules.age_max.map(|max| slot.since + max).filter(|at| now < *at));
                }
                State::Vacant | State::Starting | State::Closing | State::Stopping => {}
            }
        }
        let counted = self.slots.iter().filter(|slot| slot.counts()).count();
        if counted < self.target {
            consider(start_at(now));
        }
        // Never at once: an order that could not be carried out must not be given again and again.
        next.max(now + Duration::from_millis(1))
    }
}

impl Slot {
    /// Why its process is to be killed, if it is.
    fn why_unusable(&self, is_stopped: bool, interval: Duration, timeout: Duration, now: Instant) -> Option<String> {
        let health = &self.health;
        if is_stopped && health.is_overdue(timeout, now) {
            return Some("is stopped by a signal and does not answer pings".to_owned());
        }
        if let Some(since) = health.awaited_since {
            let (pause, what) = health.patience(interval, timeout);
            let pause_text = Seconds(pause);
            let reason = || format!("did not answer a ping within {pause_text} after one of its calls {what}");
            return (since + pause <= now).then(reason);
        }
        let last_ping = health.pings.get(PINGS_MAX - 1).filter(|_| self.calls.is_empty())?;
        (*last_ping + timeout <= now).then(|| format!("left {PINGS_MAX} pings unanswered"))
    }

    /// Why it is to be replaced by a new process, if it is.
    fn why_retire(&self, rules: &Rules, now: Instant) -> Option<String> {
        let serves = self.is_ready() && self.duty == Duty::Serve;
        if !serves {
            return None;
        }
        let age = now.saturating_duration_since(self.since);
        if self.is_restart_asked {
            return Some("a restart was asked for".to_owned());
        }
        if rules.calls_max.is_some_and(|max| max <= self.calls_of_process) {
            return Some(format!("it has had {} calls", self.calls_of_process));
        }
        if rules.age_max.is_some_and(|max| max <= age) {
            return Some(format!("it is {} old", Seconds(age)));
        }
        let rss_bytes = self.health.rss_bytes;
        rules
            .memory_bytes_max
            .is_some_and(|max| max < rss_bytes)
            .then(|| format!("it takes {rss_bytes} bytes of memory"))
    }
}

impl Health {
    /// How long a worker may say nothing after a call was taken back, and what that call did. One that ran out of time has
    /// shown already that something is wrong.
    fn patience(&self, interval: Duration, timeout: Duration) -> (Duration, &'static str) {
        let pings_max = u32::try_from(PINGS_MAX).unwrap_or(u32::MAX);
        if self.is_suspect { (timeout, "timed out") } else { (interval * pings_max + timeout, "was cancelled") }
    }

    /// Whether a ping has been unanswered for too long.
    fn is_overdue(&self, timeout: Duration, now: Instant) -> bool {
        self.pings.first().is_some_and(|sent_at| *sent_at + timeout <= now)
    }
}

/// Wait before start number `failures + 1`: doubling, with up to a quarter on top by chance, so that the workers of a
/// server do not start in step.
fn backoff(failures: u32) -> Duration {
    let doubled = BACKOFF_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(BACKOFF_MAX);
    let mut chance = [0; 1];
    // Without randomness the pause is just not spread.
    let _ = getrandom::fill(&mut chance);
    doubled + doubled.mul_f64(f64::from(chance[0]) / 1024.0)
}

#[cfg(test)]
mod tests;
