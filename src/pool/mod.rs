//! The workers of each server: who takes a call, who waits, how many there are, and what becomes of those that fail.
//!
//! A pool knows its server's tools and its workers, and nothing of HTTP. Reading order: `dispatch` decides about calls,
//! `tend` about workers; both are plain values that `queue`, `slot`, `learner`, `scaling` and `breaker` are
//! parts of. `group` and its `core` carry out what they decide, for workers that share their calls, `lease` is how a client uses
//! them, and `supervisor` is the thread that looks after all of them.
//!
//! A group speaks one era of MCP. The common one speaks the era that its server was found to speak; a server that speaks both
//! gets a second one when the first client of the modern era comes.
//!
//! **Limit.** `MIN_WORKERS` to `MAX_WORKERS` workers for everybody, `SESSION_WORKERS_MAX` on top for sessions or keys of
//! their own, `QUEUE_MAX` waiting calls for each group.
//! **End.** Dropping [`Servers`] stops all workers at once and waits for them.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use crate::{
    config::{Config, EraSetting, Isolation, ServerSpec},
    error::Error,
    mcp::revision::Era,
    threads::lock,
    worker::{Hello, Plan, ServerInfo, Status, mailbox::Mailbox, usage, usage::Usage},
};

mod breaker;
pub mod buckets;
pub mod catalog;
mod core;
mod dispatch;
mod group;
mod learner;
mod lease;
mod names;
mod others;
mod queue;
mod scaling;
mod servers;
#[cfg(test)]
mod simulation;
mod slot;
mod subscriptions;
mod supervisor;
mod tend;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod totals;
mod verdict;
mod watcher;
mod whose;

pub use crate::worker::Change;
pub use lease::{Answered, Errand, Lease, Limits, NoResult, TakenBack};
pub use servers::{SEPARATOR, Servers, Target};
pub use slot::Counts;
pub use tend::ScaleEvent;
pub use totals::TotalsSnapshot;
pub use watcher::{Nobody, Watcher};
pub use whose::Whose;

use catalog::{Catalog, Catalogs, Ledger};
use dispatch::Dispatch;
use group::Group;
use names::{Budget, Names};
use others::{Id, Others};
use supervisor::Wake;
use tend::Rules;
use totals::Totals;
use verdict::Verdict;

/// The workers of one server.
#[derive(Debug)]
pub struct Pool {
    premises: Arc<Premises>,
    catalogs: Arc<Catalogs>,
    /// The workers that everybody shares.
    common: Arc<Group>,
    others: Others,
    /// Whether the server speaks the modern era, if it is one that speaks the legacy one.
    verdict: Arc<Verdict>,
}

/// What all groups of a server's workers have in common.
#[derive(Debug)]
struct Premises {
    server: Arc<str>,
    spec: ServerSpec,
    config: Arc<Config>,
    names: Arc<Names>,
    budget: Arc<Budget>,
    ledger: Arc<Ledger>,
    totals: Arc<Totals>,
    wake: Wake,
    watcher: Arc<dyn Watcher>,
}

/// Who calls, as far as it decides which workers may take the call.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// The name of the key.
    pub key: &'a Arc<str>,
    /// The session, if there is one.
    pub session: Option<&'a str>,
    /// The era its client speaks, which decides only where a server speaks both.
    pub era: Era,
    /// What the session's client said of itself, for the session's own worker when this starts it.
    pub hello: Option<&'a Arc<Hello>>,
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
    /// The era that its process is spoken to in.
    pub era: Era,
}

impl Pool {
    /// A pool whose workers the supervisor will start.
    fn new(spec: &ServerSpec, config: &Arc<Config>, wake: Wake, watcher: Arc<dyn Watcher>) -> Pool {
        let server: Arc<str> = spec.name.as_str().into();
        let premises = Arc::new(Premises {
            server: Arc::clone(&server),
            spec: spec.clone(),
            config: Arc::clone(config),
            names: Arc::new(Names::new(Arc::clone(&server))),
            budget: Arc::new(Budget::new(config.session_workers_max)),
            ledger: Arc::default(),
            totals: Arc::default(),
            wake,
            watcher,
        });
        let era = if spec.era == EraSetting::Modern { Era::Modern } else { Era::Legacy };
        let (command, config) = (spec.command.clone(), Arc::clone(config));
        let plan = Plan { server, command, config, era, refusal: None, hello: None };
        let catalogs = Arc::new(premises.new_catalogs());
        let rules = Rules::new(&plan.config, spec.min_workers, spec.max_workers);
        let dispatch = premises.new_dispatch(rules, None);
        let common = Group::new(&premises, dispatch, Arc::clone(&catalogs), Whose::Everybody, plan, true);
        Pool { premises, catalogs, common, others: Others::default(), verdict: Arc::default() }
    }

    /// The server's name.
    pub fn server(&self) -> &Arc<str> {
        &self.premises.server
    }

    /// Who shares a worker.
    pub fn isolation(&self) -> Isolation {
        self.premises.spec.isolation
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

    /// Whether the server speaks the modern era, too or only. One that may speak both is asked once, in a process of its own
    /// that counts nowhere and gets `HEALTH_TIMEOUT`; its answer is waited for at most until `deadline`, and only while
    /// `client` is there. No answer is a no.
    pub fn speaks_modern(&self, deadline: Instant, client: &Mailbox) -> bool {
        if self.common.era() == Era::Modern {
            return true;
        }
        match self.premises.spec.era {
            EraSetting::Auto => self.verdict.by(deadline, client, || self.common.plan()),
            EraSetting::Legacy | EraSetting::Modern => false,
        }
    }

    /// The workers that may take the calls of this asker: those of his session or key, or those of everybody; of a server that
    /// is known to speak both eras ([`Pool::speaks_modern`]), those that speak his.
    ///
    /// Fails with [`Error::Overloaded`] when there are `SESSION_WORKERS_MAX` isolated workers already, and like a call
    /// when the server keeps dying.
    pub fn lease(&self, asker: Asker<'_>) -> Result<Lease, Error> {
        let may_choose = asker.era == Era::Modern && self.common.era() == Era::Legacy;
        let is_second = may_choose && self.verdict.get() == Some(true);
        let id = Id { whose: Whose::of(self.isolation(), &asker), is_second };
        if id.whose == Whose::Everybody && !id.is_second {
            return Ok(Lease::new(&self.common, asker.key));
        }
        self.others.lease(id, asker.key, |id| self.found(id, asker.hello))
    }

    /// A group beside the common one.
    fn found(&self, id: &Id, hello: Option<&Arc<Hello>>) -> Result<Arc<Group>, Error> {
        let Premises { server, spec, config, budget, .. } = &*self.premises;
        if let Some(error) = self.common.look(|dispatch| dispatch.refusal(Instant::now())) {
            return Err(error);
        }
        let is_isolated = id.whose != Whose::Everybody;
        let is_session = id.whose.session().is_some();
        if is_isolated && budget.take(1) == 0 {
            return Err(Error::Overloaded {
                what: format!("{} workers of `{server}` are taken by sessions already", budget.used()),
                hint: "try again when a session has ended, lower `SESSION_IDLE_TIMEOUT`, or raise `SESSION_WORKERS_MAX`",
                retry_after: Duration::from_secs(1),
            });
        }
        let mut rules = Rules::new(config, 1, if is_session { 1 } else { spec.max_workers });
        if is_session {
            // A successor would not know what the session's own worker knows.
            (rules.calls_max, rules.age_max, rules.memory_bytes_max) = (None, None, None);
        }
        let dispatch = self.premises.new_dispatch(rules, is_isolated.then(|| Arc::clone(budget)));
        let mut plan = Plan { hello: hello.filter(|_| is_session).map(Arc::clone), ..self.common.plan() };
        if id.is_second {
            plan.era = Era::Modern;
        }
        // Others may be listed to this client, or in this era.
        let has_own_list = id.is_second || plan.hello.is_some();
        let catalogs = if has_own_list { Arc::new(self.premises.new_catalogs()) } else { Arc::clone(&self.catalogs) };
        Ok(Group::new(&self.premises, dispatch, catalogs, id.whose.clone(), plan, false))
    }

    /// Ends the workers of a session, in order, without waiting.
    pub fn end_session(&self, key: &str, session: &str) {
        self.others.end(&Whose::Session { key: key.into(), session: session.into() });
        self.premises.wake.tell();
    }

    /// Looks after all workers. Returns when to look again.
    fn tend(&self, now: Instant) -> Instant {
        let (ended, look_again_at) = self.others.tend(self.premises.config.session_idle_timeout, now);
        for group in ended.iter().filter(|group| *group.whose() != Whose::Everybody) {
            self.premises.budget.give_back(group.look(|dispatch| dispatch.target));
        }
        self.groups().iter().map(|group| group.tend(now)).fold(look_again_at, Instant::min)
    }

    /// All groups, the common one first, those that end last.
    fn groups(&self) -> Vec<Arc<Group>> {
        std::iter::once(Arc::clone(&self.common)).chain(self.others.all()).collect()
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
            workers_min: self.premises.spec.min_workers,
            workers_max: self.premises.spec.max_workers,
            was_ready: dispatch.was_ready(),
            is_hopeless: dispatch.refusal(Instant::now()).is_some(),
            reason: dispatch.reason(),
        })
    }

    /// What else there is to say of the pool.
    pub fn figures(&self) -> PoolFigures {
        let isolated_workers = self.premises.budget.used();
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

    /// What was counted for all workers since the gateway started.
    pub fn totals(&self) -> TotalsSnapshot {
        self.premises.totals.snapshot()
    }

    /// Calls at workers, and calls that wait, of everybody's workers and of all others.
    pub fn load(&self) -> (usize, usize) {
        let groups = self.groups();
        let loads = groups.iter().map(|group| group.look(|dispatch| (dispatch.in_flight(), dispatch.queued().0)));
        loads.fold((0, 0), |(in_flight, queued), (more_in_flight, more_queued)| {
            (in_flight + more_in_flight, queued + more_queued)
        })
    }

    /// Each worker, those that everybody shares first.
    pub fn workers(&self) -> Vec<WorkerSnapshot> {
        let mut snapshots = Vec::new();
        for group in self.groups() {
            group.for_each_worker(|view| snapshots.push(WorkerSnapshot::new(view, &group)));
        }
        // The system is asked without a lock.
        for snapshot in &mut snapshots {
            snapshot.usage = snapshot.status.pid.and_then(usage::usage);
        }
        snapshots
    }

    /// Has all workers stop, without waiting for them.
    fn begin_stop(&self) {
        self.verdict.begin_stop();
        self.groups().iter().for_each(|group| group.begin_stop());
    }

    /// Waits for all workers, which were told to stop.
    fn wait_for_end(&self) {
        self.verdict.wait_for_end();
        self.groups().iter().for_each(|group| group.wait_for_end());
    }
}

impl Premises {
    fn new_catalogs(&self) -> Catalogs {
        Catalogs::new(Arc::clone(&self.server), Arc::clone(&self.ledger))
    }

    fn new_dispatch(&self, rules: Rules, budget: Option<Arc<Budget>>) -> Dispatch {
        let (server, names, totals) = (Arc::clone(&self.server), Arc::clone(&self.names), Arc::clone(&self.totals));
        Dispatch::new(server, rules, names, totals, budget, Instant::now())
    }
}

impl WorkerSnapshot {
    fn new(view: group::SlotView<'_>, group: &Group) -> WorkerSnapshot {
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
            whose: group.whose().label(),
            era: group.era(),
        }
    }
}

impl ScaleEvent {
    /// The time as RFC 3339 has it, in UTC.
    pub fn time_text(&self) -> String {
        humantime::format_rfc3339_millis(self.time.max(SystemTime::UNIX_EPOCH)).to_string()
    }
}
