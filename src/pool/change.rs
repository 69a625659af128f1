//! Puts other servers in the place of those in service, one by one, while calls go on.
//!
//! A server whose program, isolation or era is another gets new workers. They are started and ready before any call goes to them;
//! then all new calls do, and the old ones stop when nobody uses them any more. Workers of sessions stay with their sessions.
//! When the new ones do not get ready, the old ones stay, unless those serve nobody either.
//!
//! Servers that are new are started together, and come into the roster at once with the leaving of those that are gone, so that names
//! change once. A new one that does not get ready comes in as it would at a start: it is tried again, and `/health` says why.
//!
//! **Limit.** `MCP_REQUEST_TIMEOUT` for each server to get ready. **End.** Whoever asks for the change may give up waiting; what was done by
//! then stays.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Leaving, Pool, Roster, Servers, Sizes, dispatch::Dispatch, group::Group, lock, tend::Rules, whose::Whose};
use crate::{config::ServerSpec, error::Seconds, worker::Change};

/// How often it is looked at whether new workers are ready.
const READY_LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// What a change of the servers came to, by their names.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Came into service.
    pub added: Vec<String>,
    /// Have new workers.
    pub replaced: Vec<String>,
    /// Have other numbers of workers.
    pub resized: Vec<String>,
    /// Left.
    pub removed: Vec<String>,
    /// Did not get ready: why, and what is done about it.
    pub failed: Vec<String>,
    /// The wait was given up before everything was done.
    pub is_unfinished: bool,
}

impl Changes {
    /// What was done, for the log: `+new, -old`. Empty when nothing was.
    pub fn summary(&self) -> String {
        let marked = |mark: &'static str, names: &[String]| -> Vec<String> {
            names.iter().map(|name| format!("{mark} {name}")).collect()
        };
        [
            marked("added", &self.added),
            marked("replaced", &self.replaced),
            marked("resized", &self.resized),
            marked("removed", &self.removed),
        ]
        .concat()
        .join(", ")
    }
}

/// Why new workers are not to be had.
enum NotReady {
    /// In words.
    Failed(String),
    GivenUp,
}

impl Servers {
    /// Has exactly these servers in service. `gives_up` waits for so long, and says whether it is to be given up.
    ///
    /// Settings that were set before apply to all pools from now on.
    pub fn change(&self, specs: &[ServerSpec], gives_up: &mut dyn FnMut(Duration) -> bool) -> Changes {
        let mut changes = Changes::default();
        for spec in specs {
            let Some(old) = self.now().get(&spec.name).map(Arc::clone) else { continue };
            if old.is_run_by(spec) {
                if old.adapt(spec) {
                    changes.resized.push(spec.name.clone());
                }
                continue;
            }
            let new = Arc::new(old.successor(spec));
            self.house.aside().push(Arc::clone(&new));
            let refused = match self.wait_until_ready(&new, gives_up) {
                Ok(()) => None,
                Err(NotReady::Failed(reason)) => Some(reason),
                Err(NotReady::GivenUp) => {
                    new.begin_to_leave(Leaving::Replaced);
                    changes.is_unfinished = true;
                    return changes;
                }
            };
            let serves = |pool: &Pool| pool.common.look(|dispatch| dispatch.refusal(Instant::now()).is_none());
            match refused {
                Some(reason) if serves(&old) => {
                    new.begin_to_leave(Leaving::Replaced);
                    let failure =
                        format!("server {}: its new workers are not ready: {reason}; the old ones stay", spec.name);
                    changes.failed.push(failure);
                    // Those are still as many as the file says.
                    old.adapt(spec);
                }
                refused => {
                    let failure =
                        refused.map(|reason| format!("server {}: its new workers are not ready: {reason}", spec.name));
                    changes.failed.extend(failure);
                    self.replace(&old, &new);
                    changes.replaced.push(spec.name.clone());
                }
            }
        }
        self.add_and_remove(specs, gives_up, &mut changes);
        changes
    }

    fn add_and_remove(&self, specs: &[ServerSpec], gives_up: &mut dyn FnMut(Duration) -> bool, changes: &mut Changes) {
        let before = Arc::clone(&self.now());
        let is_new = |spec: &&ServerSpec| before.get(&spec.name).is_none();
        let new_pool = |spec| Arc::new(Pool::new(spec, &self.config, self.wake.clone(), Arc::clone(&self.watcher)));
        let added: Vec<Arc<Pool>> = specs.iter().filter(is_new).map(new_pool).collect();
        self.house.aside().extend(added.iter().map(Arc::clone));
        for pool in &added {
            match self.wait_until_ready(pool, gives_up) {
                Ok(()) => {}
                Err(NotReady::Failed(reason)) => {
                    changes.failed.push(format!("server {} is not ready: {reason}; it is tried again", pool.server()));
                }
                Err(NotReady::GivenUp) => {
                    added.iter().for_each(|pool| pool.begin_to_leave(Leaving::Removed));
                    changes.is_unfinished = true;
                    return;
                }
            }
        }
        let find = |spec: &ServerSpec| {
            let is_it = |pool: &&Arc<Pool>| **pool.server() == *spec.name;
            before.get(&spec.name).or_else(|| added.iter().find(is_it)).map(Arc::clone)
        };
        let after: Vec<Arc<Pool>> = specs.iter().filter_map(find).collect();
        let is_same = after.len() == before.pools().len()
            && after.iter().zip(before.pools()).all(|(one, other)| Arc::ptr_eq(one, other));
        if is_same {
            return;
        }
        let removed: Vec<Arc<Pool>> = before
            .pools()
            .iter()
            .filter(|pool| specs.iter().all(|spec| **pool.server() != *spec.name))
            .map(Arc::clone)
            .collect();
        // Marked first, so that whoever goes by the new roster finds nothing of them.
        {
            let mut aside = self.house.aside();
            aside.retain(|pool| !added.iter().any(|added| Arc::ptr_eq(added, pool)));
            aside.extend(removed.iter().map(Arc::clone));
            self.house.roster.store(Arc::new(Roster::new(after)));
        }
        removed.iter().for_each(|pool| pool.begin_to_leave(Leaving::Removed));
        let names = |pools: &[Arc<Pool>]| pools.iter().map(|pool| pool.server().to_string()).collect::<Vec<_>>();
        (changes.added, changes.removed) = (names(&added), names(&removed));
        self.watcher.regrouped();
    }

    /// Has `new` take the place of `old`.
    fn replace(&self, old: &Arc<Pool>, new: &Arc<Pool>) {
        let swapped = |pool: &Arc<Pool>| Arc::clone(if Arc::ptr_eq(pool, old) { new } else { pool });
        let after: Vec<_> = self.now().pools().iter().map(swapped).collect();
        {
            let mut aside = self.house.aside();
            aside.retain(|pool| !Arc::ptr_eq(pool, new));
            aside.push(Arc::clone(old));
            self.house.roster.store(Arc::new(Roster::new(after)));
        }
        old.common.bequeath(&new.common);
        old.begin_to_leave(Leaving::Replaced);
        let offers = |name: &str| [old, new].iter().any(|pool| pool.info().is_some_and(|info| info.offers(name)));
        let mut news = Vec::new();
        let listings = |pool: &Pool| {
            let catalog = pool.catalog().unwrap_or_default();
            catalog.tools().iter().map(|tool| tool.listing.get().to_owned()).collect::<Vec<_>>()
        };
        if listings(old) != listings(new) {
            news.push(Change::Tools);
        }
        // What these are now is not known here.
        news.extend(offers("prompts").then_some(Change::Prompts));
        news.extend(offers("resources").then_some(Change::Resources));
        news.iter().for_each(|change| self.watcher.changed(new.server(), &Whose::Everybody, change));
    }

    /// Waits until a pool that is not in service has all the workers it begins with, or has one when the time is up.
    fn wait_until_ready(&self, pool: &Pool, gives_up: &mut dyn FnMut(Duration) -> bool) -> Result<(), NotReady> {
        let patience = self.config.now().request_timeout;
        let deadline = Instant::now() + patience;
        loop {
            let now = Instant::now();
            let (n_ready, n_wanted, refusal) = pool.common.look(|dispatch| {
                let n_ready = dispatch.slots.iter().filter(|slot| slot.is_open()).count();
                (n_ready, dispatch.target, dispatch.refusal(now))
            });
            if n_wanted <= n_ready {
                return Ok(());
            }
            if let Some(refusal) = refusal {
                return Err(NotReady::Failed(refusal.to_string()));
            }
            if deadline <= now {
                let reason = format!("it is still starting after {}", Seconds(patience));
                return if 0 < n_ready { Ok(()) } else { Err(NotReady::Failed(reason)) };
            }
            if gives_up(READY_LOOK_INTERVAL) {
                return Err(NotReady::GivenUp);
            }
        }
    }
}

impl Pool {
    /// How its workers are started, and how many there are.
    pub fn spec(&self) -> ServerSpec {
        let Sizes { min_workers, max_workers } = self.premises.sizes();
        ServerSpec { min_workers, max_workers, ..self.premises.spec.clone() }
    }

    /// Whether these workers are what `spec` asks for, apart from their number.
    fn is_run_by(&self, spec: &ServerSpec) -> bool {
        let ServerSpec { min_workers, max_workers, .. } = self.premises.spec;
        self.premises.spec == ServerSpec { min_workers, max_workers, ..spec.clone() }
    }

    /// Goes by the settings of now, and as many workers as `spec` says. Whether those are others than before.
    fn adapt(&self, spec: &ServerSpec) -> bool {
        let before = std::mem::replace(&mut *lock(&self.premises.sizes), Sizes::of(spec));
        self.premises.budget.set_workers_max(self.premises.config.now().session_workers_max);
        for group in self.groups() {
            let is_common = Arc::ptr_eq(&group, &self.common);
            let rules = if is_common { self.premises.common_rules() } else { self.premises.rules_of(group.whose()) };
            group.adapt(rules, "the settings were changed");
        }
        (before.min_workers, before.max_workers) != (spec.min_workers, spec.max_workers)
    }

    /// Takes no new calls from now on but of those who have found it already.
    fn begin_to_leave(&self, leaving: Leaving) {
        // Once only: nobody comes back.
        let _ = self.premises.leaving.set(leaving);
        self.premises.wake.tell();
    }

    /// Whether it has left, or is about to.
    pub(super) fn is_leaving(&self) -> bool {
        self.premises.leaving.get().is_some()
    }

    /// Stops the workers that nobody uses any more; none while somebody who `is_held` may come to use them. All but one of those that
    /// stay are stopped when they have no call.
    pub(super) fn leave(&self, is_held: bool) {
        let is_removed = self.premises.leaving.get() == Some(&Leaving::Removed);
        for group in self.groups() {
            // Who waits for news of a server that is gone waits in vain; of one that was replaced, the heir tells it.
            let is_used = if is_removed || group.has_heir() { group.is_in_use() } else { group.has_users() };
            if group.look(|dispatch| dispatch.is_stopping) {
                continue;
            }
            if !is_used && !is_held {
                group.begin_stop();
            } else if group.look(|dispatch| dispatch.queued().0 == 0) {
                group.shrink_to_one();
            }
        }
    }

    /// Whether it has left and none of its workers runs any more.
    pub(super) fn has_left(&self) -> bool {
        let has_ended = |group: &Arc<Group>| group.look(|dispatch| dispatch.is_stopping) && group.has_ended();
        self.is_leaving() && self.groups().iter().all(has_ended)
    }

    /// The names of its workers.
    pub(super) fn worker_names(&self) -> Vec<Arc<str>> {
        let names = |dispatch: &Dispatch| {
            let slots = dispatch.slots.iter().filter(|slot| !slot.is_vacant());
            slots.map(|slot| Arc::clone(&slot.name)).collect::<Vec<_>>()
        };
        self.groups().iter().flat_map(|group| group.look(names)).collect()
    }
}

impl Group {
    /// Keeps one worker, and those with calls until these have ended.
    fn shrink_to_one(&self) {
        let rules = self.look(|dispatch| {
            let is_small = dispatch.rules.max_workers == 1;
            (!is_small).then(|| Rules { min_workers: 1, max_workers: 1, ..dispatch.rules.clone() })
        });
        if let Some(rules) = rules {
            self.adapt(rules, "it is leaving");
        }
    }
}
