//! What the threads of a group's workers and its callers share: places for calls, the list of tools, subscriptions, and the era.
//!
//! It is the owner of its workers: what they tell it is turned into decisions of the dispatch, and into news for the
//! gateway's [`Watcher`](super::Watcher).

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use serde_json::value::RawValue;

use super::{
    Premises,
    catalog::Catalogs,
    dispatch::{Admitted, Dispatch, Left, Placed},
    lock,
    slot::Slot,
    subscriptions::Subscriptions,
    whose::Whose,
};
use crate::{
    config::EraSetting,
    error::Error,
    mcp::revision::{Era, MODERN},
    worker::{Call, Change, End, Link, Owner, Ping, Plan, Sent, ServerInfo, mailbox::Note},
};

/// See the module.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) premises: Arc<Premises>,
    pub(super) dispatch: Mutex<Dispatch>,
    pub(super) catalogs: Arc<Catalogs>,
    pub(super) whose: Whose,
    pub(super) subscriptions: Mutex<Subscriptions>,
    /// What workers are started with, as long as the server has not refused the legacy era.
    plan: Plan,
    /// How it has.
    refusal: OnceLock<Arc<str>>,
}

impl Core {
    pub(super) fn new(
        premises: &Arc<Premises>,
        dispatch: Dispatch,
        catalogs: Arc<Catalogs>,
        whose: Whose,
        plan: Plan,
    ) -> Core {
        Core {
            premises: Arc::clone(premises),
            dispatch: Mutex::new(dispatch),
            catalogs,
            whose,
            subscriptions: Mutex::default(),
            plan,
            refusal: OnceLock::new(),
        }
    }

    /// The era that the workers speak, as far as is known.
    pub(super) fn era(&self) -> Era {
        if self.refusal.get().is_some() { Era::Modern } else { self.plan.era }
    }

    /// What the next worker is started with.
    pub(super) fn plan(&self) -> Plan {
        match self.refusal.get() {
            Some(refusal) => Plan { era: Era::Modern, refusal: Some(Arc::clone(refusal)), ..self.plan.clone() },
            None => self.plan.clone(),
        }
    }

    /// A worker has found that the server refuses the legacy era. Whether the group goes over to the modern one, or has: not
    /// when it must not, and not while workers serve in the legacy era, because all of a group speak one.
    fn goes_over(&self, dispatch: &Dispatch, refusal: &str) -> bool {
        if self.refusal.get().is_some() {
            return true;
        }
        let may = self.premises.spec.era == EraSetting::Auto && !dispatch.slots.iter().any(Slot::is_ready);
        if may && self.refusal.set(refusal.into()).is_ok() {
            log::info!(
                "server {} is spoken to as MCP {MODERN} has it: in the legacy era it {refusal}",
                dispatch.server
            );
        }
        may
    }

    /// Finds a worker for a call, or has it wait for one. Fails as [`Dispatch::admit`] does.
    pub(super) fn submit(&self, call: &Arc<Call>) -> Result<(), Error> {
        loop {
            let (admitted, needs_tending) = {
                let mut dispatch = lock(&self.dispatch);
                (dispatch.admit(call, Instant::now())?, dispatch.needs_tending)
            };
            if needs_tending {
                self.premises.wake.tell();
            }
            let Placed { slot, link, .. } = match admitted {
                Admitted::Placed(placed) => placed,
                Admitted::Waits => return Ok(()),
                Admitted::InsteadOf(other, error) => {
                    other.end(None, Err(error));
                    return Ok(());
                }
            };
            match link.send(call) {
                Sent::Yes => return Ok(()),
                Sent::Cancelled => {
                    self.change(|dispatch, now| dispatch.call_left(slot, &link, call, Left::Unsent, now));
                    return Ok(());
                }
                // A closed link belongs to a worker that the dispatch knows by now to be closing.
                Sent::Closed => {}
            }
        }
    }

    /// Takes a call back. False when it had ended before.
    pub(super) fn cancel(&self, call: &Arc<Call>, left: Left, reason: &str) -> bool {
        let Some(link) = call.cancel() else {
            // It waits, or is on its way to a worker, which will not take it any more.
            self.change(|dispatch, now| dispatch.remove(call, now));
            return true;
        };
        let was_in_flight = link.cancel(call, reason);
        if was_in_flight {
            self.change(|dispatch, now| match dispatch.slot_of(&link) {
                Some(slot) => dispatch.call_left(slot, &link, call, left, now),
                None => Vec::new(),
            });
        }
        was_in_flight
    }

    /// Starts no worker any more, and refuses calls once none is ready.
    pub(super) fn stop(&self) {
        let (in_vain, refusal) = {
            let mut dispatch = lock(&self.dispatch);
            let now = Instant::now();
            (dispatch.stop(now), dispatch.refusal(now))
        };
        self.refuse(&in_vain, refusal);
    }

    /// Ends calls that wait in vain, and has those look again who wait for the server's first words.
    fn refuse(&self, in_vain: &[Arc<Call>], refusal: Option<Error>) {
        if let Some(error) = refusal {
            in_vain.iter().for_each(|call| call.end(None, Err(error.clone())));
            self.catalogs.nudge();
        }
    }

    /// Changes the dispatch and sends the calls that get a place through that.
    fn change(&self, change: impl FnOnce(&mut Dispatch, Instant) -> Vec<Placed>) {
        let (placed, needs_tending) = {
            let mut dispatch = lock(&self.dispatch);
            // Read under the lock, so that times do not go back.
            let now = Instant::now();
            (change(&mut dispatch, now), dispatch.needs_tending)
        };
        if needs_tending {
            self.premises.wake.tell();
        }
        if !placed.is_empty() {
            self.send_all(placed.into());
        }
    }

    /// Sends calls that have a place.
    pub(super) fn send_all(&self, mut placed: VecDeque<Placed>) {
        while let Some(Placed { slot, link, call }) = placed.pop_front() {
            match link.send(&call) {
                Sent::Yes => {}
                Sent::Cancelled => {
                    let mut dispatch = lock(&self.dispatch);
                    placed.extend(dispatch.call_left(slot, &link, &call, Left::Unsent, Instant::now()));
                    if dispatch.needs_tending {
                        self.premises.wake.tell();
                    }
                }
                Sent::Closed => self.submit_again(&call),
            }
        }
    }

    /// Submits a call that was at a worker, or about to be, which is gone.
    fn submit_again(&self, call: &Arc<Call>) {
        self.change(|dispatch, now| match dispatch.admit_again(call, now) {
            Ok(placed) => placed,
            Err(error) => {
                call.end(None, Err(error));
                Vec::new()
            }
        });
    }
}

impl Owner for Core {
    fn ready(&self, slot: usize, link: &Arc<Link>, info: Arc<ServerInfo>, tools: Vec<Box<RawValue>>) {
        let has_other_tools = self.catalogs.meet(&info, tools);
        if info.has("resources", "subscribe") {
            lock(&self.subscriptions).join(slot, link);
        }
        self.change(|dispatch, now| dispatch.ready(slot, link, info, now));
        if has_other_tools {
            self.changed(Change::Tools);
        }
    }

    fn tools_changed(&self, _slot: usize, tools: Vec<Box<RawValue>>) {
        self.catalogs.learn(tools);
        self.changed(Change::Tools);
    }

    fn closing(&self, slot: usize) {
        lock(&self.subscriptions).leave(slot);
        self.change(|dispatch, now| dispatch.closing(slot, now));
    }

    fn ended(&self, slot: usize, mut end: End) {
        let (in_vain, refusal) = {
            let mut dispatch = lock(&self.dispatch);
            end.speaks_modern_only = end.speaks_modern_only && self.goes_over(&dispatch, &end.reason);
            let now = Instant::now();
            (dispatch.ended(slot, end, now), dispatch.refusal(now))
        };
        self.premises.wake.tell();
        self.refuse(&in_vain, refusal);
    }

    fn answered(&self, slot: usize, link: &Arc<Link>, call: &Arc<Call>, is_error: bool) {
        let left = if is_error { Left::Failed } else { Left::Answered };
        self.change(|dispatch, now| dispatch.call_left(slot, link, call, left, now));
    }

    fn asked(&self, slot: usize, link: &Arc<Link>) -> Option<Arc<Call>> {
        lock(&self.dispatch).asked(slot, link)
    }

    fn pong(&self, slot: usize, link: &Arc<Link>, ping: Ping, after: Duration) {
        self.change(|dispatch, now| dispatch.pong(slot, link, ping, after, now));
    }

    fn answered_late(&self) {
        self.premises.totals.answered_late();
    }

    fn repeat(&self, call: &Arc<Call>) {
        log::info!("a call that may be repeated is sent to another worker");
        self.submit_again(call);
    }

    fn changed(&self, change: Change) {
        self.premises.watcher.changed(&self.premises.server, &self.whose, &change);
    }

    fn is_of_a_session(&self) -> bool {
        self.whose.session().is_some()
    }

    fn heard(&self, note: Note) -> bool {
        let Premises { server, watcher, .. } = &*self.premises;
        self.whose.session().is_some_and(|session| watcher.heard(server, session, note))
    }
}
