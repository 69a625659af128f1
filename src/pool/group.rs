//! Workers that share their calls: those of a server that everybody uses, or those of one session or key.
//!
//! A call goes from the client's thread straight to a worker's pipe, or into one queue; whoever frees a place sends
//! the next call on its way. What is decided is decided in [`super::dispatch`] and [`super::tend`]; here it is carried out.
//!
//! **End.** [`Group::begin_stop`]; dropping it then waits for its workers.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    Premises,
    catalog::Catalogs,
    core::Core,
    dispatch::{Dispatch, Left},
    lock,
    slot::{Slot, State},
    subscriptions::Subscriptions,
    tend::{Order, Rules, Seen, Tended},
    whose::Whose,
};
use crate::{
    error::Error,
    mcp::revision::Era,
    worker::{Call, End, Link, Owner, Plan, ServerInfo, Status, Worker, mailbox::Mailbox, usage},
};

/// See the module.
#[derive(Debug)]
pub(super) struct Group {
    core: Arc<Core>,
    workers: Mutex<HashMap<usize, Worker>>,
    /// Leases of it.
    users: AtomicUsize,
    /// When the last lease ended; not noted in a group that never ends of itself.
    last_used: Option<Mutex<Instant>>,
    /// Those of them that only wait for news, and begin nothing.
    standing: AtomicUsize,
    /// The group that has taken its place.
    heir: OnceLock<Arc<Group>>,
}

/// A worker's slot with what its process says.
pub(super) struct SlotView<'a> {
    pub(super) slot: &'a Slot,
    pub(super) status: Status,
}

impl Group {
    /// A group whose workers the supervisor will start. It ends of itself when nobody uses it, unless it `is_lasting`.
    pub(super) fn new(
        premises: &Arc<Premises>,
        dispatch: Dispatch,
        catalogs: Arc<Catalogs>,
        whose: Whose,
        plan: Plan,
        is_lasting: bool,
    ) -> Arc<Group> {
        premises.wake.tell();
        Arc::new(Group {
            core: Arc::new(Core::new(premises, dispatch, catalogs, whose, plan)),
            workers: Mutex::default(),
            users: AtomicUsize::new(0),
            last_used: (!is_lasting).then(|| Mutex::new(Instant::now())),
            standing: AtomicUsize::new(0),
            heir: OnceLock::new(),
        })
    }

    /// The server's name.
    pub(super) fn server(&self) -> &Arc<str> {
        &self.core.premises.server
    }

    /// Whose workers these are.
    pub(super) fn whose(&self) -> &Whose {
        &self.core.whose
    }

    /// The era that they speak, as far as is known.
    pub(super) fn era(&self) -> Era {
        self.core.era()
    }

    /// What the next worker is started with.
    pub(super) fn plan(&self) -> Plan {
        self.core.plan()
    }

    /// The tools that they list.
    pub(super) fn catalogs(&self) -> &Catalogs {
        &self.core.catalogs
    }

    /// What their server says of itself. Waits and fails as [`Catalogs::get_by`] does.
    pub(super) fn info_by(&self, deadline: Instant, client: &Mailbox) -> Result<Arc<ServerInfo>, Error> {
        let refusal = || self.look(|dispatch| dispatch.refusal(Instant::now()));
        self.core.catalogs.info_by(deadline, client, self.core.premises.config.now().queue_max, refusal)
    }

    /// What they are to tell of; of a group whose place was taken, what its heir is to tell of.
    pub(super) fn subscribed<T>(&self, look: impl FnOnce(&mut Subscriptions) -> T) -> T {
        let mut subscriptions = lock(&self.core.subscriptions);
        match self.heir.get() {
            None => look(&mut subscriptions),
            Some(heir) => {
                drop(subscriptions);
                heir.subscribed(look)
            }
        }
    }

    /// Has `heir` tell of everything that these workers were to tell of.
    pub(super) fn bequeath(&self, heir: &Arc<Group>) {
        let mut subscriptions = lock(&self.core.subscriptions);
        if self.heir.set(Arc::clone(heir)).is_ok() {
            heir.subscribed(|theirs| theirs.inherit(&mut subscriptions));
        }
    }

    /// As [`Core::submit`].
    pub(super) fn submit(&self, call: &Arc<Call>) -> Result<(), Error> {
        self.core.submit(call)
    }

    /// As [`Core::cancel`].
    pub(super) fn cancel(&self, call: &Arc<Call>, left: Left, reason: &str) -> bool {
        self.core.cancel(call, left, reason)
    }

    /// The workers that take calls.
    pub(super) fn links(&self) -> Vec<Arc<Link>> {
        self.look(|dispatch| dispatch.slots.iter().filter_map(Slot::link).map(Arc::clone).collect())
    }

    /// Looks at the dispatch.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Dispatch) -> T) -> T {
        look(&lock(&self.core.dispatch))
    }

    /// Changes the dispatch, and has the supervisor see to the rest.
    pub(super) fn ask<T>(&self, ask: impl FnOnce(&mut Dispatch, Instant) -> T) -> T {
        let asked = ask(&mut lock(&self.core.dispatch), Instant::now());
        self.core.premises.wake.tell();
        asked
    }

    /// Hands every worker's slot to `each`, in the order of their slots.
    pub(super) fn for_each_worker(&self, mut each: impl FnMut(SlotView<'_>)) {
        let workers = lock(&self.workers);
        let statuses: HashMap<usize, Status> =
            workers.iter().map(|(index, worker)| (*index, worker.status())).collect();
        drop(workers);
        let dispatch = lock(&self.core.dispatch);
        for (index, slot) in dispatch.slots.iter().enumerate().filter(|(_, slot)| !slot.is_vacant()) {
            each(SlotView { slot, status: statuses.get(&index).cloned().unwrap_or_default() });
        }
    }

    /// Carries out what is to be done about the workers. Returns when to look again.
    pub(super) fn tend(self: &Arc<Group>, now: Instant) -> Instant {
        let to_look_at = lock(&self.core.dispatch).to_look_at(now);
        let seen: Vec<Seen> = to_look_at.into_iter().filter_map(|slot| self.see(slot)).collect();
        let (tended, over) = {
            let mut dispatch = lock(&self.core.dispatch);
            let tended = dispatch.tend(&seen, now);
            let is_over = |slot: usize| !dispatch.slots[slot].has_process();
            let mut workers = lock(&self.workers);
            let over: Vec<Worker> = workers.extract_if(|slot, _| is_over(*slot)).map(|(_, worker)| worker).collect();
            (tended, over)
        };
        // Their threads have nothing left to do; each is joined here.
        drop(over);
        let Tended { orders, placed, look_again_at } = tended;
        orders.into_iter().for_each(|order| self.carry_out(order));
        self.core.send_all(placed.into());
        look_again_at
    }

    fn see(&self, slot: usize) -> Option<Seen> {
        let pid = lock(&self.workers).get(&slot)?.pid()?;
        let rss_bytes = usage::usage(pid).unwrap_or_default().rss_bytes;
        Some(Seen { slot, is_stopped: usage::is_stopped(pid), rss_bytes })
    }

    fn carry_out(&self, order: Order) {
        match order {
            Order::Start(slot, name) => {
                let owner = Arc::clone(&self.core) as Arc<dyn Owner>;
                match Worker::start(slot, name, self.core.plan(), owner) {
                    Ok(worker) => {
                        let before = lock(&self.workers).insert(slot, worker);
                        drop(before);
                    }
                    Err(error) => {
                        log::error!("{error}");
                        self.core.ended(slot, End { reason: error.to_string(), ..End::default() });
                    }
                }
            }
            Order::Stop(slot) => lock(&self.workers).get(&slot).into_iter().for_each(Worker::begin_stop),
            Order::Kill(slot, reason) => {
                lock(&self.workers).get(&slot).into_iter().for_each(|worker| worker.begin_kill(reason.clone()));
            }
            Order::Ping(link) => link.ping(),
        }
    }

    /// Has all workers stop, without waiting for them. No other is started.
    pub(super) fn begin_stop(&self) {
        self.core.stop();
        lock(&self.workers).values().for_each(Worker::begin_stop);
    }

    /// Waits for the workers of a group that stops.
    pub(super) fn wait_for_end(&self) {
        // Each is waited for when its handle is dropped, without the lock.
        let workers = std::mem::take(&mut *lock(&self.workers));
        drop(workers);
    }

    /// Whether no worker of a group that stops is left.
    pub(super) fn has_ended(&self) -> bool {
        self.look(|dispatch| dispatch.slots.iter().all(Slot::is_vacant))
    }

    /// Notes that somebody uses it. It does not end meanwhile.
    pub(super) fn begin_use(&self) {
        self.users.fetch_add(1, Ordering::SeqCst);
    }

    /// Notes that a use of it only waits for news from now on.
    pub(super) fn stand(&self) {
        self.standing.fetch_add(1, Ordering::SeqCst);
        self.wake_if_leaving();
    }

    /// Whether somebody uses it who may begin something, or have something running.
    pub(super) fn is_in_use(&self) -> bool {
        self.standing.load(Ordering::SeqCst) < self.users.load(Ordering::SeqCst)
    }

    /// Whether it has an heir.
    pub(super) fn has_heir(&self) -> bool {
        self.heir.get().is_some()
    }

    /// Whether anybody uses it.
    pub(super) fn has_users(&self) -> bool {
        0 < self.users.load(Ordering::SeqCst)
    }

    /// Goes by other rules from now on. As [`Dispatch::adapt`].
    pub(super) fn adapt(&self, rules: Rules, why: &str) {
        self.ask(|dispatch, now| dispatch.adapt(rules, why, now));
    }

    fn wake_if_leaving(&self) {
        if self.core.premises.leaving.get().is_some() {
            self.core.premises.wake.tell();
        }
    }

    /// Notes the end of what [`Group::begin_use`] began, and [`Group::stand`] if it `stands`.
    pub(super) fn end_use(&self, stands: bool) {
        if let Some(last_used) = &self.last_used {
            *lock(last_used) = Instant::now();
        }
        if stands {
            self.standing.fetch_sub(1, Ordering::SeqCst);
        }
        self.users.fetch_sub(1, Ordering::SeqCst);
        self.wake_if_leaving();
    }

    /// When a group that nobody uses has been idle for `idle_max`, at the earliest.
    pub(super) fn idle_at(&self, idle_max: Duration, now: Instant) -> Instant {
        let is_used = 0 < self.users.load(Ordering::SeqCst);
        match &self.last_used {
            Some(last_used) if !is_used => *lock(last_used) + idle_max,
            _ => now + idle_max,
        }
    }
}

impl Slot {
    /// Whether there is, or may be, a process.
    fn has_process(&self) -> bool {
        !matches!(self.state, State::Vacant | State::Down(_))
    }
}
