//! The workers of each server: who takes a call, who waits, how many there are, and what becomes of those that fail.
//!
//! A pool knows its server's tools and its workers, and nothing of HTTP. Reading order: `dispatch` decides about calls,
//! `tend` about workers; both are plain values that `queue`, `slot`, `learner`, `scaling` and `breaker` are
//! parts of. `group` carries out what they decide, for workers that share their calls, and `supervisor` is the thread
//! that looks after all of them.
//!
//! **Limit.** `MIN_WORKERS` to `MAX_WORKERS` workers for everybody, `SESSION_WORKERS_MAX` on top for sessions or keys of
//! their own, `QUEUE_MAX` waiting calls for each group.
//! **End.** Dropping [`Servers`] stops all workers at once and waits for them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use crate::{
    config::{Config, Isolation, ServerSpec},
    error::Error,
    worker::{Plan, ServerInfo, Status, mailbox::Mailbox, usage, usage::Usage},
};

mod breaker;
pub mod catalog;
mod dispatch;
mod group;
mod learner;
mod names;
mod queue;
mod scaling;
mod servers;
#[cfg(test)]
mod simulation;
mod slot;
mod supervisor;
mod tend;
#[cfg(test)]
mod testing;

pub use group::{Answered, Errand, Lease, Limits, NoResult, TakenBack};
pub use servers::{SEPARATOR, Servers, Target};
pub use slot::Counts;
pub use tend::ScaleEvent;

use catalog::{Catalog, Catalogs};
use dispatch::Dispatch;
use group::Group;
use names::{Budget, Names};
use supervisor::Wake;
use tend::Rules;

/// The workers of one server.
#[derive(Debug)]
pub struct Pool {
    spec: ServerSpec,
    plan: Plan,
    catalogs: Arc<Catalogs>,
    names: Arc<Names>,
    budget: Arc<Budget>,
    wake: Wake,
    /// The workers that everybody shares.
    common: Arc<Group>,
    isolated: Mutex<Isolated>,
}

/// Workers of sessions or keys of their own.
#[derive(Debug, Default)]
struct Isolated {
    groups: HashMap<String, Arc<Group>>,
    /// Groups that nobody can find any more, whose processes have not all ended.
    ending: Vec<Arc<Group>>,
}

/// Who calls, as far as it decides which workers may take the call.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// The name of the key.
    pub key: &'a Arc<str>,
    /// The session, if there is one.
    pub session: Option<&'a str>,
}

/// How well a pool can serve: the workers that everybody shares.
#[derive(Debug)]
pub struct PoolState {
    /// Workers by state.
    pub counts: Counts,
    /// Fewest and most workers.
    pub workers_min: usize,
    /// See `workers_min`.
    pub workers_max: usize,
    /// Whether any worker ever got ready.
    pub was_ready: bool,
    /// Whether no worker can be expected to come up.
    pub is_hopeless: bool,
    /// Why a worker that is not up went down, fit for everybody's eyes.
    pub reason: Option<String>,
}

/// What `/stats` says of a pool beside its state.
#[derive(Debug)]
pub struct PoolFigures {
    /// Calls that wait for one of the workers that everybody shares, and the most that ever did.
    pub queued: usize,
    /// See `queued`.
    pub queued_peak: usize,
    /// Calls that a worker may have at a time now, also when they take long.
    pub calls_per_worker: usize,
    /// Workers of sessions or keys of their own.
    pub isolated_workers: usize,
    /// The last changes in the number of workers, the newest last.
    pub scale_events: Vec<ScaleEvent>,
    /// `closed`, `open` or `half_open`.
    pub breaker: &'static str,
    /// Deaths in a row.
    pub breaker_failures: u32,
    /// Why the breaker is not closed.
    pub breaker_reason: Option<String>,
    /// Last lines on stderr of a worker that died; empty while the breaker is closed.
    pub breaker_stderr: Vec<String>,
    /// How long no worker will be started, when the breaker is open.
    pub breaker_retry_after: Option<Duration>,
}

/// A worker as `/stats` shows it.
#[derive(Debug)]
pub struct WorkerSnapshot {
    /// Like `journeys-1`.
    pub name: Arc<str>,
    /// `starting`, `ready`, `busy`, `draining`, `stopping` or `down`.
    pub state: &'static str,
    /// Calls it has now.
    pub in_flight: usize,
    /// Calls it was given since the gateway started, also those of earlier processes under its name.
    pub calls_total: u64,
    /// Those of them that it lost, did not answer in time, or answered with a JSON-RPC error.
    pub errors_total: u64,
    /// Answers that came after their call was given up.
    pub late_answers_total: u64,
    /// How often its process was started again after it died.
    pub restarts: u64,
    /// Time between the last ping and its answer.
    pub last_ping: Option<Duration>,
    /// Why the last process ended that did so by itself.
    pub last_error: Option<String>,
    /// What its server said of itself.
    pub info: Option<Arc<ServerInfo>>,
    /// Its process; the lines on stderr are those of the last one when there is none.
    pub status: Status,
    /// Memory and CPU of its process.
    pub usage: Option<Usage>,
    /// Whose worker it is; `None` for everybody's.
    pub whose: Option<String>,
}

impl Pool {
    /// A pool whose workers the supervisor will start.
    fn new(spec: &ServerSpec, config: &Arc<Config>, wake: Wake) -> Pool {
        let server: Arc<str> = spec.name.as_str().into();
        let plan = Plan { server: Arc::clone(&server), command: spec.command.clone(), config: Arc::clone(config) };
        let names = Arc::new(Names::new(Arc::clone(&server)));
        let catalogs = Arc::new(Catalogs::new(Arc::clone(&server)));
        let rules = Rules::new(config, spec.min_workers, spec.max_workers);
        let dispatch = Dispatch::new(server, rules, Arc::clone(&names), None, Instant::now());
        let common = Group::new(dispatch, plan.clone(), Arc::clone(&catalogs), wake.clone(), None);
        let budget = Arc::new(Budget::new(config.session_workers_max));
        let (common, isolated) = (Arc::new(common), Mutex::default());
        Pool { spec: spec.clone(), plan, catalogs, names, budget, wake, common, isolated }
    }

    /// The server's name.
    pub fn server(&self) -> &Arc<str> {
        &self.plan.server
    }

    /// The server's tools, if any worker has told them yet.
    pub fn catalog(&self) -> Option<Arc<Catalog>> {
        self.catalogs.get()
    }

    /// The server's tools, waiting for its first worker at most until `deadline`, and only while `client` is there.
    ///
    /// Fails with [`Error::NoWorker`] or [`Error::BreakerOpen`] when none comes, with [`Error::Overloaded`] when
    /// `waiting_max` wait already.
    pub fn catalog_by(&self, deadline: Instant, client: &Mailbox, waiting_max: usize) -> Result<Arc<Catalog>, Error> {
        self.catalogs.get_by(deadline, client, waiting_max, || self.common.look(|it| it.refusal(Instant::now())))
    }

    /// What the server says of itself, if any worker has got ready yet.
    pub fn info(&self) -> Option<Arc<ServerInfo>> {
        self.catalogs.info()
    }

    /// The workers that may take the calls of this asker: those of his session or key, or those of everybody.
    ///
    /// Fails with [`Error::Overloaded`] when there are `SESSION_WORKERS_MAX` isolated workers already, and like a call
    /// when the server keeps dying.
    pub fn lease(&self, asker: Asker<'_>) -> Result<Lease, Error> {
        let Asker { key, session } = asker;
        let (id, whose, workers_max) = match (self.spec.isolation, session) {
            (Isolation::Shared, _) | (Isolation::Session, None) => return Ok(Lease::new(&self.common, key)),
            // No key's name has a line break in it.
            (Isolation::Session, Some(session)) => (format!("{key}\n{session}"), "session".to_owned(), 1),
            (Isolation::Key, _) => (key.to_string(), format!("key {key}"), self.spec.max_workers),
        };
        let mut isolated = lock(&self.isolated);
        if let Some(group) = isolated.groups.get(&id) {
            return Ok(Lease::new(group, key));
        }
        let now = Instant::now();
        if let Some(error) = self.common.look(|dispatch| dispatch.refusal(now)) {
            return Err(error);
        }
        if self.budget.take(1) == 0 {
            return Err(Error::Overloaded {
                what: format!("{} workers of `{}` are taken by sessions already", self.budget.used(), self.server()),
                hint: "try again when a session has ended, lower `SESSION_IDLE_TIMEOUT`, or raise `SESSION_WORKERS_MAX`",
                retry_after: Duration::from_secs(1),
            });
        }
        let mut rules = Rules::new(&self.plan.config, 1, workers_max);
        if self.spec.isolation == Isolation::Session {
            // A successor would not know what the session's own worker knows.
            (rules.calls_max, rules.age_max, rules.memory_bytes_max) = (None, None, None);
        }
        let (names, budget) = (Arc::clone(&self.names), Some(Arc::clone(&self.budget)));
        let dispatch = Dispatch::new(Arc::clone(self.server()), rules, names, budget, now);
        let group = Group::new(dispatch, self.plan.clone(), Arc::clone(&self.catalogs), self.wake.clone(), Some(whose));
        let group = Arc::new(group);
        isolated.groups.insert(id, Arc::clone(&group));
        Ok(Lease::new(&group, key))
    }

    /// Looks after all workers. Returns when to look again.
    fn tend(&self, now: Instant) -> Instant {
        let look_again_at = self.end_idle(now);
        self.groups().iter().map(|group| group.tend(now)).fold(look_again_at, Instant::min)
    }

    /// Ends groups that nobody has used for `SESSION_IDLE_TIMEOUT`. Returns when the next one may be idle for so long.
    fn end_idle(&self, now: Instant) -> Instant {
        let idle_max = self.plan.config.session_idle_timeout;
        let mut next = now + idle_max;
        let mut isolated = lock(&self.isolated);
        let mut idle = Vec::new();
        for (id, group) in &isolated.groups {
            // Nobody can begin to use it meanwhile: that takes the lock on `isolated`.
            let idle_at = group.idle_at(idle_max, now);
            if idle_at <= now {
                idle.push(id.clone());
            } else {
                next = next.min(idle_at);
            }
        }
        for group in idle.iter().filter_map(|id| isolated.groups.remove(id)).collect::<Vec<_>>() {
            group.begin_stop();
            isolated.ending.push(group);
        }
        let ended: Vec<_> = isolated.ending.extract_if(.., |group| group.has_ended()).collect();
        drop(isolated);
        for group in ended {
            self.budget.give_back(group.look(|dispatch| dispatch.target));
        }
        next
    }

    /// All groups, the common one first, those that end last.
    fn groups(&self) -> Vec<Arc<Group>> {
        let isolated = lock(&self.isolated);
        let all = isolated.groups.values().chain(&isolated.ending);
        std::iter::once(&self.common).chain(all).map(Arc::clone).collect()
    }

    /// Has the worker of this name replaced; its calls go on. False when there is none.
    fn restart_worker(&self, name: &str) -> bool {
        let find = |dispatch: &Dispatch| dispatch.slots.iter().position(|slot| &*slot.name == name);
        self.groups().iter().any(|group| {
            let found = group.look(find);
            found.is_some_and(|slot| group.ask(|dispatch, now| dispatch.ask_restart(slot, now)))
        })
    }

    /// Has every worker replaced, one at a time of those that share their calls; the calls go on. Returns their names.
    fn restart(&self) -> Vec<Arc<str>> {
        let ask_all = |dispatch: &mut Dispatch, now| {
            let taken = (0..dispatch.slots.len()).filter(|slot| dispatch.ask_restart(*slot, now)).collect::<Vec<_>>();
            taken.into_iter().map(|slot| Arc::clone(&dispatch.slots[slot].name)).collect::<Vec<_>>()
        };
        self.groups().iter().flat_map(|group| group.ask(ask_all)).collect()
    }

    /// Workers by state, of those that everybody shares.
    pub fn counts(&self) -> Counts {
        self.common.look(Dispatch::counts)
    }

    /// How well the pool can serve now.
    pub fn state(&self) -> PoolState {
        self.common.look(|dispatch| PoolState {
            counts: dispatch.counts(),
            workers_min: self.spec.min_workers,
            workers_max: self.spec.max_workers,
            was_ready: dispatch.was_ready(),
            is_hopeless: dispatch.refusal(Instant::now()).is_some(),
            reason: dispatch.reason(),
        })
    }

    /// What else there is to say of the pool.
    pub fn figures(&self) -> PoolFigures {
        let isolated_workers = self.budget.used();
        self.common.look(|dispatch| {
            let (queued, queued_peak) = dispatch.queued();
            let state = dispatch.breaker.state();
            let is_closed = state == breaker::State::Closed;
            let last_death = dispatch.last_death.as_ref();
            PoolFigures {
                queued,
                queued_peak,
                calls_per_worker: dispatch.learner.at_once(),
                isolated_workers,
                scale_events: dispatch.scale_events.get(),
                breaker: state.word(),
                breaker_failures: dispatch.breaker.failures(),
                breaker_reason: dispatch.reason().filter(|_| !is_closed),
                breaker_stderr: last_death.filter(|_| !is_closed).map(|end| end.stderr.clone()).unwrap_or_default(),
                breaker_retry_after: match state {
                    breaker::State::Open(until) => Some(until.saturating_duration_since(Instant::now())),
                    breaker::State::Closed | breaker::State::HalfOpen => None,
                },
            }
        })
    }

    /// Each worker, those that everybody shares first.
    pub fn workers(&self) -> Vec<WorkerSnapshot> {
        let mut snapshots = Vec::new();
        for group in self.groups() {
            group.for_each_worker(|view| snapshots.push(WorkerSnapshot::new(view, group.whose.clone())));
        }
        // The system is asked without a lock.
        for snapshot in &mut snapshots {
            snapshot.usage = snapshot.status.pid.and_then(usage::usage);
        }
        snapshots
    }

    /// Has all workers stop, without waiting for them.
    fn begin_stop(&self) {
        self.groups().iter().for_each(|group| group.begin_stop());
    }

    /// Waits for all workers, which were told to stop.
    fn wait_for_end(&self) {
        self.groups().iter().for_each(|group| group.wait_for_end());
    }
}

impl WorkerSnapshot {
    fn new(view: group::SlotView<'_>, whose: Option<String>) -> WorkerSnapshot {
        let group::SlotView { slot, mut status } = view;
        if let Some(end) = slot.last_end.as_ref().filter(|_| status.started_at.is_none()) {
            status.stderr.clone_from(&end.stderr);
        }
        WorkerSnapshot {
            name: Arc::clone(&slot.name),
            state: slot.word(),
            in_flight: slot.calls.len(),
            calls_total: slot.calls_total,
            errors_total: slot.errors_total,
            late_answers_total: slot.late_answers_total + status.late_answers,
            restarts: slot.restarts,
            last_ping: slot.health.last_ping,
            last_error: slot.last_end.as_ref().map(|end| end.reason.clone()),
            info: slot.info.clone(),
            status,
            usage: None,
            whose,
        }
    }
}

impl ScaleEvent {
    /// The time as RFC 3339 has it, in UTC.
    pub fn time_text(&self) -> String {
        humantime::format_rfc3339_millis(self.time.max(SystemTime::UNIX_EPOCH)).to_string()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
