//! The workers of each server: who takes a call, who waits, how many there are, and what becomes of those that fail.
//!
//! A pool knows its server's tools and its workers, and nothing of HTTP. Reading order: `dispatch` decides about calls,
//! `tend` about workers; both are plain values that `queue`, `slot`, `learner`, `scaling` and `breaker` are
//! parts of. `group` and its `core` carry out what they decide, for workers that share their calls, `lease` is how a client uses
//! them, and `supervisor` is the thread that looks after all of them.
//!
//! Which pools there are changes with a reload: `roster` is who is in service, `servers` has all, `change` puts one roster in the place of another.
//!
//! A group speaks one era of MCP. The common one speaks the era that its server was found to speak; a server that speaks both
//! gets a second one when the first client of the modern era comes.
//!
//! **Limit.** `MIN_WORKERS` to `MAX_WORKERS` workers for everybody, `SESSION_WORKERS_MAX` on top for sessions or keys of
//! their own, `QUEUE_MAX` waiting calls for each group.
//! **End.** Dropping [`Servers`] stops all workers at once and waits for them.

use std::{
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use crate::{
    config::{EraSetting, Isolation, Live, ServerSpec},
    error::Error,
    mcp::revision::Era,
    threads::lock,
    worker::{Hello, Plan, ServerInfo, mailbox::Mailbox},
};

#[cfg(any(test, benching))]
pub(crate) mod benching;
mod breaker;
pub mod buckets;
pub mod catalog;
mod change;
mod core;
mod dispatch;
mod group;
mod learner;
mod lease;
mod names;
mod others;
mod queue;
mod roster;
mod scaling;
mod servers;
#[cfg(test)]
mod simulation;
mod slot;
mod subscriptions;
mod supervisor;
mod tend;
#[cfg(any(test, benching))]
#[allow(clippy::unwrap_used, reason = "what goes wrong is to be seen")]
#[cfg_attr(benching, allow(dead_code, reason = "the benches need a part of it"))]
mod testing;
#[cfg(test)]
mod tests;
mod totals;
mod turns;
mod verdict;
mod view;
mod watcher;
mod whose;

pub use crate::worker::Change;
pub use change::Changes;
pub use lease::{Answered, Errand, Lease, Limits, NoResult, Ready, TakenBack};
pub use roster::{Roster, SEPARATOR, Target};
pub use servers::Servers;
pub use slot::Counts;
pub use tend::ScaleEvent;
pub use totals::TotalsSnapshot;
pub use view::{PoolFigures, PoolState, WorkerSnapshot};
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
    /// The workers of sessions, shared with the pool that takes the place of this one: they end with their sessions.
    sessions: Arc<Others>,
    /// Whether the server speaks the modern era, if it is one that speaks the legacy one.
    verdict: Arc<Verdict>,
}

/// What all groups of a server's workers have in common.
#[derive(Debug)]
struct Premises {
    server: Arc<str>,
    spec: ServerSpec,
    /// Fewest and most workers, which a reload may change.
    sizes: Mutex<Sizes>,
    config: Live,
    names: Arc<Names>,
    budget: Arc<Budget>,
    ledger: Arc<Ledger>,
    totals: Arc<Totals>,
    wake: Wake,
    watcher: Arc<dyn Watcher>,
    leaving: OnceLock<Leaving>,
}

#[derive(Debug, Clone, Copy)]
struct Sizes {
    min_workers: usize,
    max_workers: usize,
}

/// Why a pool takes no new calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    /// Another has taken its place.
    Replaced,
    /// Its server is no longer wanted.
    Removed,
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

impl Pool {
    /// A pool whose workers the supervisor will start.
    fn new(spec: &ServerSpec, config: &Live, wake: Wake, watcher: Arc<dyn Watcher>) -> Pool {
        let server: Arc<str> = spec.name.as_str().into();
        let premises = Premises {
            server: Arc::clone(&server),
            spec: spec.clone(),
            sizes: Mutex::new(Sizes::of(spec)),
            config: config.clone(),
            names: Arc::new(Names::new(server)),
            budget: Arc::new(Budget::new(config.now().session_workers_max)),
            ledger: Arc::default(),
            totals: Arc::default(),
            wake,
            watcher,
            leaving: OnceLock::new(),
        };
        Pool::with(premises, Arc::default())
    }

    /// A pool of the same server with another `spec`, that may take the place of this one. What was counted goes on, no two workers have
    /// one name, and sessions keep the workers they have.
    fn successor(&self, spec: &ServerSpec) -> Pool {
        let Premises { server, config, names, budget, ledger, totals, wake, watcher, .. } = &*self.premises;
        let premises = Premises {
            server: Arc::clone(server),
            spec: spec.clone(),
            sizes: Mutex::new(Sizes::of(spec)),
            config: config.clone(),
            names: Arc::clone(names),
            budget: Arc::clone(budget),
            ledger: Arc::clone(ledger),
            totals: Arc::clone(totals),
            wake: wake.clone(),
            watcher: Arc::clone(watcher),
            leaving: OnceLock::new(),
        };
        let successor = Pool::with(premises, Arc::clone(&self.sessions));
        let target = self.common.look(|dispatch| dispatch.target);
        successor.common.ask(|dispatch, _| dispatch.begin_with(target));
        successor
    }

    fn with(premises: Premises, sessions: Arc<Others>) -> Pool {
        let premises = Arc::new(premises);
        let Premises { server, spec, config, .. } = &*premises;
        let era = if spec.era == EraSetting::Modern { Era::Modern } else { Era::Legacy };
        let (server, command, config) = (Arc::clone(server), spec.command.clone(), config.clone());
        let plan = Plan { server, command, config, era, refusal: None, hello: None };
        let catalogs = Arc::new(premises.new_catalogs());
        let rules = premises.common_rules();
        let dispatch = premises.new_dispatch(rules, None);
        let common = Group::new(&premises, dispatch, Arc::clone(&catalogs), Whose::Everybody, plan, true);
        Pool { premises, catalogs, common, others: Others::default(), sessions, verdict: Arc::default() }
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
        let others = if id.whose.session().is_some() { &self.sessions } else { &self.others };
        others.lease(id, asker.key, |id| self.found(id, asker.hello))
    }

    /// A group beside the common one.
    fn found(&self, id: &Id, hello: Option<&Arc<Hello>>) -> Result<Arc<Group>, Error> {
        let Premises { server, budget, .. } = &*self.premises;
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
        let rules = self.premises.rules_of(&id.whose);
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
        self.sessions.end(&Whose::Session { key: key.into(), session: session.into() });
        self.premises.wake.tell();
    }

    /// Looks after all workers. Returns when to look again.
    fn tend(&self, now: Instant) -> Instant {
        let idle_max = self.premises.config.now().session_idle_timeout;
        let mut look_again_at = now + idle_max;
        for others in self.all_others() {
            let (ended, next) = others.tend(idle_max, now);
            look_again_at = look_again_at.min(next);
            for group in ended.iter().filter(|group| *group.whose() != Whose::Everybody) {
                self.premises.budget.give_back(group.look(|dispatch| dispatch.target));
            }
        }
        self.groups().iter().map(|group| group.tend(now)).fold(look_again_at, Instant::min)
    }

    /// The groups beside the common one that are this pool's to look after.
    fn all_others(&self) -> impl Iterator<Item = &Others> {
        let is_replaced = self.premises.leaving.get() == Some(&Leaving::Replaced);
        let sessions = (!is_replaced).then_some(&*self.sessions);
        std::iter::once(&self.others).chain(sessions)
    }

    /// All groups, the common one first, those that end last.
    fn groups(&self) -> Vec<Arc<Group>> {
        std::iter::once(Arc::clone(&self.common)).chain(self.all_others().flat_map(Others::all)).collect()
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
    fn sizes(&self) -> Sizes {
        *lock(&self.sizes)
    }

    /// What the workers that everybody shares go by.
    fn common_rules(&self) -> Rules {
        let Sizes { min_workers, max_workers } = self.sizes();
        Rules::new(&self.config.now(), min_workers, max_workers)
    }

    /// What workers beside those go by.
    fn rules_of(&self, whose: &Whose) -> Rules {
        let is_session = whose.session().is_some();
        let mut rules = Rules::new(&self.config.now(), 1, if is_session { 1 } else { self.sizes().max_workers });
        if is_session {
            // A successor would not know what the session's own worker knows.
            (rules.calls_max, rules.age_max, rules.memory_bytes_max) = (None, None, None);
        }
        rules
    }

    fn new_catalogs(&self) -> Catalogs {
        Catalogs::new(Arc::clone(&self.server), Arc::clone(&self.ledger))
    }

    fn new_dispatch(&self, rules: Rules, budget: Option<Arc<Budget>>) -> Dispatch {
        let (server, names, totals) = (Arc::clone(&self.server), Arc::clone(&self.names), Arc::clone(&self.totals));
        Dispatch::new(server, rules, names, totals, budget, Instant::now())
    }
}

impl Sizes {
    fn of(spec: &ServerSpec) -> Sizes {
        Sizes { min_workers: spec.min_workers, max_workers: spec.max_workers }
    }
}
