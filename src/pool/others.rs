//! The groups of a server beside the one that everybody shares: for sessions, for keys, and for clients of the modern era.
//!
//! **Limit.** `SESSION_WORKERS_MAX` workers of sessions and keys. **End.** A group ends after `SESSION_IDLE_TIMEOUT` without a
//! lease, or with its session. The supervisor's thread carries that out: it alone starts workers, so none is forgotten.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use super::{group::Group, lease::Lease, lock, whose::Whose};
use crate::error::Error;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Others(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    groups: HashMap<Id, Arc<Group>>,
    /// Groups that nobody can find any more and that are to be stopped.
    leaving: Vec<Arc<Group>>,
    /// Groups that were told to stop, whose processes have not all ended.
    ending: Vec<Arc<Group>>,
}

/// What tells the groups of a server apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Id {
    pub(super) whose: Whose,
    /// Whether it is for clients of the modern era, of a server that speaks both.
    pub(super) is_second: bool,
}

impl Others {
    /// The use of a group, which is founded if there is none. Fails as `found` does.
    pub(super) fn lease(
        &self,
        id: Id,
        key: &Arc<str>,
        found: impl FnOnce(&Id) -> Result<Arc<Group>, Error>,
    ) -> Result<Lease, Error> {
        // Leased under the lock, so that it is not taken for idle meanwhile.
        match lock(&self.0).groups.entry(id) {
            Entry::Occupied(entry) => Ok(Lease::new(entry.get(), key)),
            Entry::Vacant(entry) => {
                let group = found(entry.key())?;
                Ok(Lease::new(entry.insert(group), key))
            }
        }
    }

    /// Has groups end that are `whose`, also when they are in use.
    pub(super) fn end(&self, whose: &Whose) {
        let mut state = lock(&self.0);
        let ended: Vec<_> = state.groups.extract_if(|id, _| id.whose == *whose).map(|(_, group)| group).collect();
        state.leaving.extend(ended);
    }

    /// Stops groups that are to end or were not used for `idle_max`. Returns those that have ended, and when the next one may
    /// have been idle for so long.
    pub(super) fn tend(&self, idle_max: Duration, now: Instant) -> (Vec<Arc<Group>>, Instant) {
        let mut state = lock(&self.0);
        let mut next = now + idle_max;
        let is_idle = |_: &Id, group: &mut Arc<Group>| {
            let idle_at = group.idle_at(idle_max, now);
            if now < idle_at {
                next = next.min(idle_at);
            }
            idle_at <= now
        };
        let mut stopping: Vec<_> = state.groups.extract_if(is_idle).map(|(_, group)| group).collect();
        stopping.append(&mut state.leaving);
        stopping.iter().for_each(|group| group.begin_stop());
        state.ending.append(&mut stopping);
        let ended = state.ending.extract_if(.., |group| group.has_ended()).collect();
        (ended, next)
    }

    /// Every group, those that end last.
    pub(super) fn all(&self) -> Vec<Arc<Group>> {
        let state = lock(&self.0);
        state.groups.values().chain(&state.leaving).chain(&state.ending).map(Arc::clone).collect()
    }
}
