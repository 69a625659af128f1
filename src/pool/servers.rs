//! All servers behind the gateway: those in service, those on their way in or out, and the thread that looks after all.
//!
//! Who calls goes by the [`Roster`] of the moment, without a lock. [`super::change`] puts another one in its place. A pool that has left
//! the roster goes on for as long as somebody uses it: calls and streams that were let in end by themselves.
//!
//! **End.** Dropping [`Servers`] stops all workers at once and waits for them.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{Ordering, fence},
    },
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, Guard};

use super::{
    Pool, Roster, Target, Watcher, lock,
    supervisor::{Supervisor, Wake},
};
use crate::{
    config::{Live, ServerSpec},
    error::Error,
    worker::mailbox::Mailbox,
};

/// How often it is looked at whether a pool that has left is still used, beside when a use of it ends.
const LEAVING_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub struct Servers {
    pub(super) house: Arc<House>,
    pub(super) config: Live,
    pub(super) wake: Wake,
    pub(super) watcher: Arc<dyn Watcher>,
    /// Gone once the workers have been told to stop.
    supervisor: Mutex<Option<Supervisor>>,
}

/// Every pool there is.
#[derive(Debug)]
pub(super) struct House {
    pub(super) roster: ArcSwap<Roster>,
    /// Pools that are not in service: they are about to be, or have been.
    aside: Mutex<Vec<Arc<Pool>>>,
}

impl Servers {
    /// Starts every server's workers at once, and does not wait for them. `watcher` hears what they say outside of any call.
    pub fn start(specs: &[ServerSpec], config: &Live, watcher: Arc<dyn Watcher>) -> Result<Servers, Error> {
        let (wake, told) = Wake::new();
        let new_pool = |spec| Arc::new(Pool::new(spec, config, wake.clone(), Arc::clone(&watcher)));
        let roster = Roster::new(specs.iter().map(new_pool).collect());
        let house = Arc::new(House { roster: ArcSwap::from_pointee(roster), aside: Mutex::default() });
        let supervisor = Supervisor::start(Arc::clone(&house), wake.clone(), told, config.clone())?;
        Ok(Servers { house, config: config.clone(), wake, watcher, supervisor: Mutex::new(Some(supervisor)) })
    }

    /// The servers that are in service now.
    pub fn now(&self) -> Guard<Arc<Roster>> {
        self.house.roster.load()
    }

    /// As [`Roster::find`], among the servers of now, with `QUEUE_MAX` callers that wait.
    pub fn find(&self, scope: Option<&str>, name: &str, patience: Duration, client: &Mailbox) -> Result<Target, Error> {
        let waiting_max = self.config.now().queue_max;
        self.now().find(scope, name, patience, waiting_max, client)
    }

    /// The names of workers whose server has left, or was replaced, and that still have something to end.
    pub fn leaving(&self) -> Vec<Arc<str>> {
        let leaving: Vec<_> = self.house.aside().iter().filter(|pool| pool.is_leaving()).map(Arc::clone).collect();
        leaving.iter().flat_map(|pool| pool.worker_names()).collect()
    }

    /// Ends the workers that belong to a session alone, in order, without waiting.
    pub fn end_session(&self, key: &str, session: &str) {
        self.house.all().iter().for_each(|pool| pool.end_session(key, session));
    }

    /// Has the worker of this name replaced, without failing a call. False when there is none.
    pub fn restart_worker(&self, name: &str) -> bool {
        self.now().pools().iter().any(|pool| pool.restart_worker(name))
    }

    /// Has every worker of a server replaced, one at a time, without failing a call. `None` when there is no such server,
    /// else the workers' names.
    pub fn restart_server(&self, name: &str) -> Option<Vec<Arc<str>>> {
        self.now().get(name).map(|pool| pool.restart())
    }

    /// Stops every server's workers, all at once, and waits for them.
    pub fn stop(&self) {
        // First, so that nobody starts another one.
        let supervisor = lock(&self.supervisor).take();
        drop(supervisor);
        let pools = self.house.all();
        pools.iter().for_each(|pool| pool.begin_stop());
        pools.iter().for_each(|pool| pool.wait_for_end());
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop();
    }
}

impl House {
    /// The pools that are not in service.
    pub(super) fn aside(&self) -> MutexGuard<'_, Vec<Arc<Pool>>> {
        lock(&self.aside)
    }

    /// Those in service, and those that are not.
    fn all(&self) -> Vec<Arc<Pool>> {
        let in_service = self.roster.load().pools().to_vec();
        in_service.into_iter().chain(self.aside().iter().map(Arc::clone)).collect()
    }

    /// Looks after all workers. Returns when to look again, at `latest` at the latest.
    pub(super) fn tend(&self, now: Instant, latest: Instant) -> Instant {
        let roster = self.roster.load();
        let mut look_again_at = roster.pools().iter().map(|pool| pool.tend(now)).fold(latest, Instant::min);
        let mut aside = self.aside();
        for pool in aside.iter() {
            look_again_at = look_again_at.min(pool.tend(now));
            if pool.is_leaving() {
                look_again_at = look_again_at.min(now + LEAVING_LOOK_INTERVAL);
                // Whoever had it from an earlier roster and has not begun to use it yet holds it.
                let is_held = 1 < Arc::strong_count(pool);
                // Who held it and has let go has said before that he uses it.
                fence(Ordering::Acquire);
                pool.leave(is_held);
            }
        }
        let gone: Vec<_> = aside.extract_if(.., |pool| pool.has_left()).collect();
        drop(aside);
        for pool in gone {
            log::info!("server {}: the workers that were to leave have ended", pool.server());
            pool.wait_for_end();
        }
        look_again_at
    }
}
