//! The one thread that looks after the workers of all servers: it scales, pings, recycles and replaces them.
//!
//! It sleeps until something has happened that it must see ([`Wake`]), or until the time at which it wanted to look again:
//! the next ping, the end of a pause. It never waits for a process.
//!
//! **End.** Dropping [`Supervisor`]; workers that run go on running.

use std::{
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::servers::House;
use crate::{
    config::Live,
    error::Error,
    footprint,
    threads::{self, Joined},
    worker::orphans,
};

/// When a start is taken to be over.
const STARTED_AFTER: Duration = Duration::from_secs(1);

/// Tells the supervisor that something has happened. One word waits at most: it looks at everything anyway.
#[derive(Debug, Clone)]
pub(super) struct Wake(Sender<()>);

impl Wake {
    /// A way to wake, and where it is heard.
    pub(super) fn new() -> (Wake, Receiver<()>) {
        let (tell, told) = bounded(1);
        (Wake(tell), told)
    }

    pub(super) fn tell(&self) {
        // Full: it will look anyway. Closed: it looks no more, on purpose.
        let _ = self.0.try_send(());
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Supervisor {
    wake: Wake,
    is_stopped: Arc<AtomicBool>,
    // Joined after `drop` has told it to end.
    _thread: Joined,
}

impl Supervisor {
    /// Looks after all pools from now on; looks for ended orphans every `HEALTH_INTERVAL`.
    pub(super) fn start(house: Arc<House>, wake: Wake, told: Receiver<()>, config: Live) -> Result<Supervisor, Error> {
        let is_stopped = Arc::new(AtomicBool::new(false));
        let must_stop = Arc::clone(&is_stopped);
        let thread = threads::spawn("supervisor", move || {
            let mut start_is_over_at = Some(Instant::now() + STARTED_AFTER);
            while !must_stop.load(Ordering::SeqCst) {
                let now = Instant::now();
                let reap_interval = config.now().health_interval;
                let look = || {
                    orphans::reap();
                    house.tend(now, now + reap_interval)
                };
                // Whatever is wrong with one look, workers must not be left without the next.
                let look_again_at = panic::catch_unwind(AssertUnwindSafe(look)).unwrap_or_else(|_| {
                    log::error!("the supervisor panicked; its message stands above");
                    now + reap_interval
                });
                if start_is_over_at.is_some_and(|at| at <= now) {
                    start_is_over_at = None;
                    if let Err(error) = footprint::give_back_code() {
                        log::debug!("what only the start has needed stays in memory: {error}");
                    }
                }
                let look_again_at = start_is_over_at.map_or(look_again_at, |at| at.min(look_again_at));
                // Both ways to come back mean the same: look again.
                let _ = told.recv_deadline(look_again_at);
            }
        });
        let thread = thread
            .map_err(|cause| Error::Failed { what: format!("cannot start a thread: {cause}"), hint: String::new() })?;
        Ok(Supervisor { wake, is_stopped, _thread: thread })
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::SeqCst);
        self.wake.tell();
    }
}
