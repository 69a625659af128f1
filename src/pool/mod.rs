//! The workers of one server: who takes a call, who waits, and when a call is given up.
//!
//! A pool knows its tools and its workers, and nothing of HTTP. A call goes from the client's thread straight to a
//! worker's pipe, or into one queue; whoever frees a place sends the next call on its way ([`dispatch`]).
//!
//! **Limit.** `MIN_WORKERS` workers, `WORKER_CONCURRENCY` calls each, `QUEUE_MAX` waiting ones. Scaling, pings, the
//! breaker and recycling have their place in a supervisor beside [`dispatch`]; they are not here yet.
//! **End.** Dropping a [`Pool`] stops all its workers at once and waits for them.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde_json::value::RawValue;

use crate::{
    config::{Concurrency, Config, ServerSpec},
    error::{Error, Seconds},
    mcp::message::Request,
    worker::{
        Call, Link, Owner, Plan, Sent, ServerInfo, Status, Waiter, Worker,
        mailbox::{Ended, Event, Mailbox, Wake},
    },
};

pub mod catalog;
pub mod dispatch;
mod servers;

pub use servers::{Servers, Target};

use catalog::Catalog;
use dispatch::{Counts, Dispatch, Placed};

/// Why a call is taken back, as the server is told.
pub const CLIENT_GONE: &str = "the client went away";

/// Why a call is taken back, as the server is told.
pub const TOO_LONG: &str = "the call took too long";

/// How often a caller that waits for a server's first tools looks whether its client is still there.
const CLIENT_LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    workers: Mutex<Vec<Worker>>,
    workers_min: usize,
}

/// What the workers' threads and the callers share.
#[derive(Debug)]
struct Shared {
    server: Arc<str>,
    dispatch: Mutex<Dispatch>,
    catalog: Mutex<Known>,
    /// Notified when `catalog` changes or the server turns out to be hopeless.
    catalog_changed: Condvar,
}

#[derive(Debug, Default)]
struct Known {
    catalog: Option<Arc<Catalog>>,
    /// Callers that wait for the first catalog.
    n_waiting: usize,
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

/// How well a pool can serve.
#[derive(Debug)]
pub struct PoolState {
    /// Workers by state.
    pub counts: Counts,
    /// Workers there should be at least.
    pub workers_min: usize,
    /// Whether any worker ever got ready.
    pub was_ready: bool,
    /// Whether no worker can be expected to come up.
    pub is_hopeless: bool,
    /// Why a worker that is not up went down, fit for everybody's eyes.
    pub reason: Option<String>,
}

/// A worker as `/stats` shows it.
#[derive(Debug)]
pub struct WorkerSnapshot {
    /// Like `journeys-1`.
    pub name: Arc<str>,
    /// `starting`, `ready`, `busy`, `stopping` or `down`.
    pub state: &'static str,
    /// Calls it has now.
    pub in_flight: usize,
    /// Calls it was given since the gateway started.
    pub calls_total: u64,
    /// What its server said of itself.
    pub info: Option<Arc<ServerInfo>>,
    /// Its process.
    pub status: Status,
}

impl Pool {
    /// Starts the workers of a server, all at once, and does not wait for them.
    pub fn start(spec: &ServerSpec, config: &Arc<Config>) -> Result<Pool, Error> {
        let server: Arc<str> = spec.name.as_str().into();
        let concurrency = match config.worker_concurrency {
            Concurrency::Auto => 32,
            Concurrency::Fixed(number) => number,
        };
        let dispatch = Dispatch::new(Arc::clone(&server), spec.min_workers, concurrency, config.queue_max);
        let shared = Arc::new(Shared {
            server: Arc::clone(&server),
            dispatch: Mutex::new(dispatch),
            catalog: Mutex::default(),
            catalog_changed: Condvar::new(),
        });
        let plan = Plan { server, command: spec.command.clone(), config: Arc::clone(config) };
        let start = |slot| Worker::start(slot, plan.clone(), Arc::clone(&shared) as Arc<dyn Owner>);
        let workers = (0..spec.min_workers).map(start).collect::<Result<_, _>>()?;
        Ok(Pool { shared, workers: Mutex::new(workers), workers_min: spec.min_workers })
    }

    /// The server's name.
    pub fn server(&self) -> &Arc<str> {
        &self.shared.server
    }

    /// The server's tools, if any worker has told them yet.
    pub fn catalog(&self) -> Option<Arc<Catalog>> {
        lock(&self.shared.catalog).catalog.clone()
    }

    /// The server's tools, waiting for its first worker at most until `deadline`, and only while `client` is there.
    ///
    /// Fails with [`Error::NoWorker`] when none comes, with [`Error::Overloaded`] when `waiting_max` wait already.
    pub fn catalog_by(&self, deadline: Instant, client: &Mailbox, waiting_max: usize) -> Result<Arc<Catalog>, Error> {
        let shared = &self.shared;
        let no_worker = |reason: String| Error::NoWorker {
            server: shared.server.to_string(),
            reason,
            retry_after: Duration::from_secs(1),
        };
        let mut known = lock(&shared.catalog);
        if known.catalog.is_none() && waiting_max <= known.n_waiting {
            let what = format!("{waiting_max} calls wait for server `{}` to start already", shared.server);
            return Err(Error::Overloaded { what, hint: dispatch::MORE_WORKERS, retry_after: Duration::from_secs(1) });
        }
        loop {
            if let Some(catalog) = &known.catalog {
                return Ok(Arc::clone(catalog));
            }
            if let Some(reason) = lock(&shared.dispatch).hopeless() {
                return Err(no_worker(reason));
            }
            let now = Instant::now();
            if deadline <= now || client.is_closed() {
                return Err(no_worker("it is still starting".to_owned()));
            }
            let pause = CLIENT_LOOK_INTERVAL.min(deadline - now);
            known.n_waiting += 1;
            (known, _) = shared.catalog_changed.wait_timeout(known, pause).unwrap_or_else(PoisonError::into_inner);
            known.n_waiting -= 1;
        }
    }

    /// Begins a call of `tool`, which `waiter` hears of under `tag`.
    ///
    /// Fails with [`Error::NoWorker`] or [`Error::Overloaded`] when it cannot even wait for a worker.
    pub fn begin(&self, tool: &str, arguments: &RawValue, waiter: Waiter, tag: u64) -> Result<Arc<Call>, Error> {
        let call = Call::new(Request::tools_call(tool, arguments), waiter, tag);
        self.shared.submit(&call)?;
        Ok(call)
    }

    /// Takes a call back. True: its end is the caller's now. False: it ended before, and its end is in the mailbox, or
    /// will be in a moment.
    pub fn cancel(&self, call: &Arc<Call>, reason: &str) -> bool {
        self.shared.cancel(call, reason)
    }

    /// Calls `tool` and waits for its result, which `client` hears of; it must wait for no other call meanwhile. The
    /// limits count from `started_at`.
    pub fn call(
        &self,
        tool: &str,
        arguments: &RawValue,
        limits: Limits,
        started_at: Instant,
        client: &Arc<Mailbox>,
    ) -> Result<Answered, NoResult> {
        let tag = client.next_tag();
        let call = self.begin(tool, arguments, Waiter::Result(Arc::clone(client)), tag)?;
        loop {
            let reason = match client.wait(limits.deadline(&call, started_at)) {
                Wake::Event(Event::Ended(ended)) if ended.tag == tag => return Ok(self.answered(ended)?),
                // Of an earlier call that was given up as it ended.
                Wake::Event(_) => continue,
                // Progress has moved the deadline while we slept.
                Wake::Deadline if Instant::now() < limits.deadline(&call, started_at) => continue,
                Wake::Deadline => TOO_LONG,
                Wake::Closed => CLIENT_GONE,
            };
            let is_ours_to_end = self.cancel(&call, reason);
            if !is_ours_to_end {
                return Ok(self.answered(client.wait_for_end(tag))?);
            }
            if client.is_closed() {
                return Err(NoResult::ClientGone);
            }
            return Err(self.too_late(&call, tool, started_at, limits).into());
        }
    }

    /// What the end of a call comes down to.
    pub fn answered(&self, ended: Ended) -> Result<Answered, Error> {
        let worker = ended.worker.unwrap_or_else(|| Arc::clone(&self.shared.server));
        Ok(Answered { worker, raw: ended.outcome? })
    }

    /// What to say of a call whose time is up: how long, and what was waited for.
    pub fn too_late(&self, call: &Call, tool: &str, started_at: Instant, limits: Limits) -> Error {
        let is_silent = call.heard_at() + limits.silence_max <= started_at + limits.time_max;
        let after = if is_silent { limits.silence_max } else { limits.time_max };
        let Some(link) = call.link() else {
            let what = format!("no worker of `{}` was free within {}", self.shared.server, Seconds(after));
            return Error::Overloaded { what, hint: dispatch::MORE_WORKERS, retry_after: Duration::from_secs(1) };
        };
        let missed = if is_silent { "answer" } else { "finish" };
        Error::Timeout { what: format!("worker `{}` did not {missed} `{tool}`", link.worker()), after }
    }

    /// Workers by state.
    pub fn counts(&self) -> Counts {
        lock(&self.shared.dispatch).counts()
    }

    /// How well the pool can serve now.
    pub fn state(&self) -> PoolState {
        let dispatch = lock(&self.shared.dispatch);
        PoolState {
            counts: dispatch.counts(),
            workers_min: self.workers_min,
            was_ready: dispatch.was_ready(),
            is_hopeless: dispatch.hopeless().is_some(),
            reason: dispatch.reason(),
        }
    }

    /// Each worker, in the order of their numbers.
    pub fn workers(&self) -> Vec<WorkerSnapshot> {
        let workers = lock(&self.workers);
        let statuses: Vec<_> = workers.iter().map(|worker| (Arc::clone(worker.name()), worker.status())).collect();
        let dispatch = lock(&self.shared.dispatch);
        let snapshots = statuses.into_iter().zip(dispatch.slots()).map(|((name, status), slot)| WorkerSnapshot {
            name,
            state: match &slot.state {
                dispatch::State::Starting => "starting",
                dispatch::State::Ready(_) if 0 < slot.in_flight => "busy",
                dispatch::State::Ready(_) => "ready",
                dispatch::State::Closing => "stopping",
                dispatch::State::Down => "down",
            },
            in_flight: slot.in_flight,
            calls_total: slot.calls_total,
            info: slot.info.clone(),
            status,
        });
        snapshots.collect()
    }

    /// Calls that wait for a worker, and the most that ever did.
    pub fn queued(&self) -> (usize, usize) {
        lock(&self.shared.dispatch).queued()
    }

    /// Has all workers stop, without waiting for them.
    pub fn begin_stop(&self) {
        lock(&self.workers).iter().for_each(Worker::begin_stop);
    }

    /// Stops all workers at once and waits for them.
    pub fn stop(&self) {
        self.begin_stop();
        // Each is waited for when its handle is dropped, without the lock.
        let workers = std::mem::take(&mut *lock(&self.workers));
        drop(workers);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    /// Sends a call to a worker, or lets it wait for one.
    fn submit(&self, call: &Arc<Call>) -> Result<(), Error> {
        loop {
            let Some(placed) = lock(&self.dispatch).admit(call)? else { return Ok(()) };
            match placed.link.send(call) {
                Sent::Yes => return Ok(()),
                Sent::Cancelled => {
                    self.change(|dispatch| dispatch.call_left(placed.slot, &placed.link, true));
                    return Ok(());
                }
                // A closed link belongs to a worker that the dispatch knows by now to be closing.
                Sent::Closed => {}
            }
        }
    }

    /// See [`Pool::cancel`].
    fn cancel(&self, call: &Arc<Call>, reason: &str) -> bool {
        let Some(link) = call.cancel() else {
            // It waits, or is on its way to a worker, which will not take it any more.
            self.change(|dispatch| dispatch.remove(call));
            return true;
        };
        let was_in_flight = link.cancel(call, reason);
        if was_in_flight {
            self.change(|dispatch| match dispatch.slot_of(&link) {
                Some(slot) => dispatch.call_left(slot, &link, !call.is_exclusive()),
                None => Vec::new(),
            });
        }
        was_in_flight
    }

    /// Changes the dispatch and sends the calls that get a place through that.
    fn change(&self, change: impl FnOnce(&mut Dispatch) -> Vec<Placed>) {
        let placed = change(&mut lock(&self.dispatch));
        if !placed.is_empty() {
            self.send_all(placed.into());
        }
    }

    fn send_all(&self, mut placed: VecDeque<Placed>) {
        while let Some(Placed { slot, link, call }) = placed.pop_front() {
            match link.send(&call) {
                Sent::Yes => {}
                Sent::Cancelled => placed.extend(lock(&self.dispatch).call_left(slot, &link, true)),
                Sent::Closed => {
                    if let Err(error) = self.submit(&call) {
                        call.end(None, Err(error));
                    }
                }
            }
        }
    }

    fn learn(&self, tools: Vec<Box<RawValue>>) {
        let mut known = lock(&self.catalog);
        let before = known.catalog.clone().unwrap_or_default();
        let catalog = Catalog::new(&self.server, tools, &before);
        known.catalog = Some(Arc::new(catalog));
        self.catalog_changed.notify_all();
    }
}

impl Owner for Shared {
    fn starting(&self, slot: usize) {
        lock(&self.dispatch).starting(slot);
    }

    fn ready(&self, slot: usize, link: &Arc<Link>, info: Arc<ServerInfo>, tools: Vec<Box<RawValue>>) {
        self.learn(tools);
        self.change(|dispatch| dispatch.ready(slot, link, info));
    }

    fn tools_changed(&self, _slot: usize, tools: Vec<Box<RawValue>>) {
        self.learn(tools);
    }

    fn closing(&self, slot: usize) {
        self.change(|dispatch| dispatch.closing(slot));
    }

    fn down(&self, slot: usize, reason: &str, last_words: Option<&str>) {
        let in_vain = lock(&self.dispatch).down(slot, reason, last_words);
        let Some((calls, error)) = in_vain else { return };
        calls.iter().for_each(|call| call.end(None, Err(error.clone())));
        // The lock orders this behind a caller that has just found the server hopeful and is about to wait.
        let _known = lock(&self.catalog);
        self.catalog_changed.notify_all();
    }

    fn answered(&self, slot: usize, link: &Arc<Link>) {
        self.change(|dispatch| dispatch.answered(slot, link));
    }

    fn settled(&self, slot: usize, link: &Arc<Link>) {
        self.change(|dispatch| dispatch.settled(slot, link));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
