//! Whether a server speaks the modern era beside the legacy one: found out once, when the first client wants to know.
//!
//! **Limit.** One process that is asked, whoever wants to know meanwhile. **End.** It ends when it has answered; with
//! [`Verdict::begin_stop`] at the latest.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Instant,
};

use super::{catalog::CLIENT_LOOK_INTERVAL, lock};
use crate::{
    threads::about_to_wait,
    worker::{Plan, mailbox::Mailbox, probe::Probe},
};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    state: Mutex<State>,
    /// Notified when it is known.
    is_known: Condvar,
}

#[derive(Debug, Default)]
struct State {
    knowledge: Knowledge,
    /// The last one, also when it is over.
    probe: Option<Probe>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Knowledge {
    #[default]
    Unknown,
    Asked,
    Known(bool),
}

impl Verdict {
    /// The verdict, once it is known.
    pub(super) fn get(&self) -> Option<bool> {
        if let Knowledge::Known(verdict) = lock(&self.state).knowledge { Some(verdict) } else { None }
    }

    /// The verdict, waiting for it at most until `deadline`, and only while `client` is there; false when it does not come.
    /// The first who asks has a process started by `plan`.
    pub(super) fn by(self: &Arc<Verdict>, deadline: Instant, client: &Mailbox, plan: impl FnOnce() -> Plan) -> bool {
        let mut state = lock(&self.state);
        if state.knowledge == Knowledge::Unknown {
            state.knowledge = Knowledge::Asked;
            drop(state);
            self.ask(plan());
            state = lock(&self.state);
        }
        loop {
            match state.knowledge {
                Knowledge::Known(verdict) => return verdict,
                Knowledge::Unknown => return false,
                Knowledge::Asked => {}
            }
            let now = Instant::now();
            if deadline <= now || client.is_closed() {
                return false;
            }
            let pause = CLIENT_LOOK_INTERVAL.min(deadline - now);
            about_to_wait();
            (state, _) = self.is_known.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn ask(self: &Arc<Verdict>, plan: Plan) {
        let news = News(Arc::clone(self));
        // Without the lock, which the news takes, also when they come to nothing.
        let started = Probe::start(plan, move |verdict| news.tell(verdict));
        let mut state = lock(&self.state);
        match started {
            Ok(mut probe) => {
                let is_over = state.knowledge != Knowledge::Asked;
                if is_over {
                    probe.begin_stop();
                }
                state.probe = Some(probe);
            }
            Err(cause) => {
                log::warn!("cannot start a thread: {cause}");
                state.knowledge = Knowledge::Unknown;
            }
        }
    }

    fn learn(&self, verdict: bool) {
        let mut state = lock(&self.state);
        if state.knowledge == Knowledge::Asked {
            state.knowledge = Knowledge::Known(verdict);
        }
        self.is_known.notify_all();
    }

    /// Has the process stop, without waiting for it. No other is started.
    pub(super) fn begin_stop(&self) {
        let mut state = lock(&self.state);
        if !matches!(state.knowledge, Knowledge::Known(_)) {
            state.knowledge = Knowledge::Known(false);
        }
        state.probe.iter_mut().for_each(Probe::begin_stop);
        self.is_known.notify_all();
    }

    /// Waits for the process, which was told to stop.
    pub(super) fn wait_for_end(&self) {
        // Waited for when it is dropped, without the lock.
        let probe = lock(&self.state).probe.take();
        drop(probe);
    }
}

/// Tells the verdict, at the latest when it is dropped: a server that could not even be started speaks nothing.
struct News(Arc<Verdict>);

impl News {
    fn tell(self, verdict: bool) {
        self.0.learn(verdict);
    }
}

impl Drop for News {
    fn drop(&mut self) {
        self.0.learn(false);
    }
}
