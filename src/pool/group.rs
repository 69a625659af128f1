//! Workers that share their calls: those of a server that everybody uses, or those of one session or key.
//!
//! A call goes from the client's thread straight to a worker's pipe, or into one queue; whoever frees a place sends
//! the next call on its way. What is decided is decided in [`super::dispatch`] and [`super::tend`]; here it is carried out.
//!
//! **End.** [`Group::begin_stop`]; dropping it then waits for its workers.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::value::RawValue;

use super::{
    catalog::{Catalogs, Tool},
    dispatch::{Admitted, Dispatch, Left, MORE_WORKERS, Placed},
    lock,
    slot::{Slot, State},
    supervisor,
    tend::{Order, Seen, Tended},
};
use crate::{
    error::{Error, Seconds},
    mcp::message::Request,
    worker::{
        Call, End, Link, Owner, Ping, Plan, Sent, ServerInfo, Status, Terms, UsualTime, Waiter, Worker,
        mailbox::{Ended, Event, Mailbox, Wake},
        usage,
    },
};

/// See the module.
#[derive(Debug)]
pub(super) struct Group {
    core: Arc<Core>,
    plan: Plan,
    workers: Mutex<HashMap<usize, Worker>>,
    /// Whose group it is; `None` for everybody's.
    pub(super) whose: Option<String>,
    /// Calls that use it now.
    users: AtomicUsize,
    last_used: Mutex<Instant>,
}

/// How long a call may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Longest silence: since the start of the call, or since its last progress.
    pub silence_max: Duration,
    /// Longest time in all.
    pub time_max: Duration,
}

impl Limits {
    /// When a call that began at `started_at` is to be given up, as things stand now.
    pub fn deadline(&self, call: &Call, started_at: Instant) -> Instant {
        (call.heard_at() + self.silence_max).min(started_at + self.time_max)
    }
}

/// A result and who gave it.
#[derive(Debug)]
pub struct Answered {
    /// The worker's name.
    pub worker: Arc<str>,
    /// The result, raw.
    pub raw: Box<RawValue>,
}

/// Why a call has no result.
#[derive(Debug)]
pub enum NoResult {
    /// It failed.
    Failed(Error),
    /// Nobody waits for it any more; it was taken back.
    ClientGone,
}

impl From<Error> for NoResult {
    fn from(error: Error) -> NoResult {
        NoResult::Failed(error)
    }
}

/// What the workers' threads and the callers share.
#[derive(Debug)]
struct Core {
    dispatch: Mutex<Dispatch>,
    catalogs: Arc<Catalogs>,
    wake: supervisor::Wake,
}

/// A worker's slot with what its process says.
pub(super) struct SlotView<'a> {
    pub(super) slot: &'a Slot,
    pub(super) status: Status,
}

impl Group {
    /// A group whose workers the supervisor will start.
    pub(super) fn new(
        dispatch: Dispatch,
        plan: Plan,
        catalogs: Arc<Catalogs>,
        wake: supervisor::Wake,
        whose: Option<String>,
    ) -> Group {
        let core = Arc::new(Core { dispatch: Mutex::new(dispatch), catalogs, wake });
        core.wake.tell();
        Group {
            core,
            plan,
            workers: Mutex::default(),
            whose,
            users: AtomicUsize::new(0),
            last_used: Mutex::new(Instant::now()),
        }
    }

    /// Looks at the dispatch.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Dispatch) -> T) -> T {
        look(&lock(&self.core.dispatch))
    }

    /// Changes the dispatch, and has the supervisor see to the rest.
    pub(super) fn ask<T>(&self, ask: impl FnOnce(&mut Dispatch, Instant) -> T) -> T {
        let asked = ask(&mut lock(&self.core.dispatch), Instant::now());
        self.core.wake.tell();
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
                match Worker::start(slot, name, self.plan.clone(), owner) {
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
        lock(&self.core.dispatch).stop(Instant::now());
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

    /// When a group that nobody uses has been idle for `idle_max`, at the earliest.
    pub(super) fn idle_at(&self, idle_max: Duration, now: Instant) -> Instant {
        let is_used = 0 < self.users.load(Ordering::SeqCst);
        if is_used { now + idle_max } else { *lock(&self.last_used) + idle_max }
    }
}

impl Slot {
    /// Whether there is, or may be, a process.
    fn has_process(&self) -> bool {
        !matches!(self.state, State::Vacant | State::Down(_))
    }
}

/// The use of a group's workers by one call. The group does not end meanwhile.
#[derive(Debug)]
pub struct Lease {
    group: Arc<Group>,
    /// Whose calls these are: those of one key wait in one line.
    key: Arc<str>,
}

/// What a server is asked for on behalf of a client.
#[derive(Debug)]
pub struct Errand {
    request: Request,
    may_repeat: bool,
    usual: Arc<UsualTime>,
}

impl Errand {
    /// A call of `tool`. `arguments` is a JSON object.
    pub fn tool(tool: &Tool, arguments: &RawValue) -> Errand {
        let request = Request::tools_call(&tool.name, arguments);
        Errand { request, may_repeat: tool.may_repeat, usual: Arc::clone(&tool.usual) }
    }

    /// A request that only reads, as those for lists, resources and prompts do. `params` is a JSON object.
    pub fn read(method: &str, params: &str) -> Errand {
        Errand { request: Request::plain(method, Some(params)), may_repeat: true, usual: Arc::default() }
    }
}

/// Why a call is taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakenBack {
    /// Its client went away.
    ClientGone,
    /// Its client said so.
    ByClient,
    /// Its time is up.
    TooLong,
}

impl TakenBack {
    /// As the server is told.
    fn reason(self) -> &'static str {
        match self {
            TakenBack::ClientGone => "the client went away",
            TakenBack::ByClient => "the client cancelled it",
            TakenBack::TooLong => "the call took too long",
        }
    }
}

impl Lease {
    pub(super) fn new(group: &Arc<Group>, key: &Arc<str>) -> Lease {
        group.users.fetch_add(1, Ordering::SeqCst);
        Lease { group: Arc::clone(group), key: Arc::clone(key) }
    }

    /// Begins what is asked for by `errand`, which `waiter` hears of under `tag`.
    ///
    /// Fails with [`Error::BreakerOpen`], [`Error::NoWorker`] or [`Error::Overloaded`] when it cannot even wait for a
    /// worker.
    pub fn begin(&self, errand: Errand, waiter: Waiter, tag: u64) -> Result<Arc<Call>, Error> {
        let Errand { request, may_repeat, usual } = errand;
        let terms = Terms { line: Arc::clone(&self.key), may_repeat, usual };
        let call = Call::new(request, Some(terms), waiter, tag);
        self.group.core.submit(&call)?;
        Ok(call)
    }

    /// Takes a call back. True: its end is the caller's now. False: it ended before, and its end is in the mailbox, or
    /// will be in a moment.
    pub fn cancel(&self, call: &Arc<Call>, why: TakenBack) -> bool {
        let left = if why == TakenBack::TooLong { Left::TimedOut } else { Left::Cancelled };
        self.group.core.cancel(call, left, why.reason())
    }

    /// Does an errand and waits for its result, which `client` hears of; it must wait for nothing else meanwhile. The
    /// limits count from `started_at`; `name` stands for the errand in errors.
    pub fn call(
        &self,
        errand: Errand,
        name: &str,
        limits: Limits,
        started_at: Instant,
        client: &Arc<Mailbox>,
    ) -> Result<Answered, NoResult> {
        let tag = client.next_tag();
        let call = self.begin(errand, Waiter::Result(Arc::clone(client)), tag)?;
        loop {
            let why = match client.wait(limits.deadline(&call, started_at)) {
                Wake::Event(Event::Ended(ended)) if ended.tag == tag => return Ok(self.answered(ended)?),
                // Of an earlier call that was given up as it ended.
                Wake::Event(_) => continue,
                // Progress has moved the deadline while we slept.
                Wake::Deadline if Instant::now() < limits.deadline(&call, started_at) => continue,
                Wake::Deadline => TakenBack::TooLong,
                Wake::Closed => TakenBack::ClientGone,
            };
            let is_ours_to_end = self.cancel(&call, why);
            if !is_ours_to_end {
                return Ok(self.answered(client.wait_for_end(tag))?);
            }
            if client.is_closed() {
                return Err(NoResult::ClientGone);
            }
            return Err(self.too_late(&call, name, started_at, limits).into());
        }
    }

    /// What the end of a call comes down to.
    pub fn answered(&self, ended: Ended) -> Result<Answered, Error> {
        let worker = ended.worker.unwrap_or_else(|| Arc::clone(&self.group.plan.server));
        Ok(Answered { worker, raw: ended.outcome? })
    }

    /// What to say of a call whose time is up: how long, and what was waited for.
    pub fn too_late(&self, call: &Call, tool: &str, started_at: Instant, limits: Limits) -> Error {
        let is_silent = call.heard_at() + limits.silence_max <= started_at + limits.time_max;
        let after = if is_silent { limits.silence_max } else { limits.time_max };
        let Some(link) = call.link() else {
            let what = format!("no worker of `{}` was free within {}", self.group.plan.server, Seconds(after));
            let retry_after = self.group.look(Dispatch::retry_after);
            return Error::Overloaded { what, hint: MORE_WORKERS, retry_after };
        };
        let missed = if is_silent { "answer" } else { "finish" };
        Error::Timeout { what: format!("worker `{}` did not {missed} `{tool}`", link.worker()), after }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.group.whose.is_some() {
            *lock(&self.group.last_used) = Instant::now();
        }
        self.group.users.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Core {
    fn submit(&self, call: &Arc<Call>) -> Result<(), Error> {
        loop {
            let (admitted, needs_tending) = {
                let mut dispatch = lock(&self.dispatch);
                (dispatch.admit(call, Instant::now())?, dispatch.needs_tending)
            };
            if needs_tending {
                self.wake.tell();
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

    fn cancel(&self, call: &Arc<Call>, left: Left, reason: &str) -> bool {
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

    /// Changes the dispatch and sends the calls that get a place through that.
    fn change(&self, change: impl FnOnce(&mut Dispatch, Instant) -> Vec<Placed>) {
        let (placed, needs_tending) = {
            let mut dispatch = lock(&self.dispatch);
            // Read under the lock, so that times do not go back.
            let now = Instant::now();
            (change(&mut dispatch, now), dispatch.needs_tending)
        };
        if needs_tending {
            self.wake.tell();
        }
        if !placed.is_empty() {
            self.send_all(placed.into());
        }
    }

    fn send_all(&self, mut placed: VecDeque<Placed>) {
        while let Some(Placed { slot, link, call }) = placed.pop_front() {
            match link.send(&call) {
                Sent::Yes => {}
                Sent::Cancelled => {
                    let mut dispatch = lock(&self.dispatch);
                    placed.extend(dispatch.call_left(slot, &link, &call, Left::Unsent, Instant::now()));
                    if dispatch.needs_tending {
                        self.wake.tell();
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
        self.catalogs.meet(&info);
        self.catalogs.learn(tools);
        self.change(|dispatch, now| dispatch.ready(slot, link, info, now));
    }

    fn tools_changed(&self, _slot: usize, tools: Vec<Box<RawValue>>) {
        self.catalogs.learn(tools);
    }

    fn closing(&self, slot: usize) {
        self.change(|dispatch, now| dispatch.closing(slot, now));
    }

    fn ended(&self, slot: usize, end: End) {
        let (in_vain, refusal) = {
            let mut dispatch = lock(&self.dispatch);
            let now = Instant::now();
            (dispatch.ended(slot, end, now), dispatch.refusal(now))
        };
        self.wake.tell();
        if let Some(error) = refusal {
            in_vain.iter().for_each(|call| call.end(None, Err(error.clone())));
            self.catalogs.nudge();
        }
    }

    fn answered(&self, slot: usize, link: &Arc<Link>, call: &Arc<Call>, is_error: bool) {
        let left = if is_error { Left::Failed } else { Left::Answered };
        self.change(|dispatch, now| dispatch.call_left(slot, link, call, left, now));
    }

    fn pong(&self, slot: usize, link: &Arc<Link>, ping: Ping, after: Duration) {
        self.change(|dispatch, now| dispatch.pong(slot, link, ping, after, now));
    }

    fn repeat(&self, call: &Arc<Call>) {
        log::info!("a call that may be repeated is sent to another worker");
        self.submit_again(call);
    }
}
