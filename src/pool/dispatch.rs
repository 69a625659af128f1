//! Which worker takes which call: the places of the workers, and the queue before them.
//!
//! A plain data structure under the pool's lock: it sends nothing and starts nothing, so every decision can be tested
//! as a table. A call goes to the ready worker with the fewest calls in flight, ties to the one unused for longest.
//!
//! **Limit.** `WORKER_CONCURRENCY` calls for each worker, `QUEUE_MAX` waiting ones.

use std::{collections::VecDeque, sync::Arc};

use serde::Serialize;

use crate::{
    error::Error,
    worker::{Call, Link, ServerInfo},
};

/// What helps when calls wait too long or are too many.
pub(super) const MORE_WORKERS: &str = "try again later, or raise `MIN_WORKERS`";

/// See the module.
#[derive(Debug)]
pub struct Dispatch {
    server: Arc<str>,
    slots: Vec<Slot>,
    queue: VecDeque<Arc<Call>>,
    queue_peak: usize,
    concurrency: usize,
    queue_max: usize,
    uses: u64,
}

/// One worker as its pool sees it.
#[derive(Debug)]
pub struct Slot {
    /// What it is doing.
    pub state: State,
    /// Calls it has now.
    pub in_flight: usize,
    /// Calls it was given since the gateway started.
    pub calls_total: u64,
    /// What its server said of itself, from the last handshake.
    pub info: Option<Arc<ServerInfo>>,
    last_used: u64,
    was_ready: bool,
    /// Processes that died or could not start, in a row, without one that got ready.
    failures: u32,
    reason: Option<String>,
}

/// What a worker is doing.
#[derive(Debug)]
pub enum State {
    /// Its process is starting and takes no calls yet.
    Starting,
    /// It takes calls over this link.
    Ready(Arc<Link>),
    /// Its process is ending.
    Closing,
    /// Its process is gone; the next start follows.
    Down,
}

/// Workers by state; every worker counts once.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// All workers.
    pub total: usize,
    /// Ready, without a call.
    pub ready: usize,
    /// Ready, with calls in flight.
    pub busy: usize,
    /// On their way.
    pub starting: usize,
    /// Dead, ending, or failing again and again.
    pub unhealthy: usize,
}

impl Counts {
    /// Adds the workers of another server.
    pub fn add(&mut self, other: Counts) {
        self.total += other.total;
        self.ready += other.ready;
        self.busy += other.busy;
        self.starting += other.starting;
        self.unhealthy += other.unhealthy;
    }
}

/// What is to be done with a new call.
#[derive(Debug)]
pub enum Admitted {
    /// Send it over this link: its place is taken.
    Send(Arc<Link>),
    /// It waits in the queue.
    Queued,
}

impl Dispatch {
    /// `n_workers` workers that are about to start.
    pub fn new(server: Arc<str>, n_workers: usize, concurrency: usize, queue_max: usize) -> Dispatch {
        let slots = (0..n_workers).map(|_| Slot::new()).collect();
        Dispatch { server, slots, queue: VecDeque::new(), queue_peak: 0, concurrency, queue_max, uses: 0 }
    }

    /// Finds a place for a call.
    ///
    /// Fails with [`Error::NoWorker`] when no worker can be expected to come up, with [`Error::Overloaded`] when the
    /// queue is full.
    pub fn admit(&mut self, call: &Arc<Call>) -> Result<Admitted, Error> {
        let has_room = |slot: &&mut Slot| matches!(slot.state, State::Ready(_)) && slot.in_flight < self.concurrency;
        let best = self.slots.iter_mut().filter(has_room).min_by_key(|slot| (slot.in_flight, slot.last_used));
        if let Some(slot) = best
            && let State::Ready(link) = &slot.state
            && self.queue.is_empty()
        {
            let link = Arc::clone(link);
            self.uses += 1;
            slot.take(self.uses);
            return Ok(Admitted::Send(link));
        }
        if let Some(reason) = self.hopeless() {
            return Err(Error::NoWorker { server: self.server.to_string(), reason });
        }
        if self.queue_max <= self.queue.len() {
            let what = format!("{} calls wait for a worker of `{}` already", self.queue.len(), self.server);
            return Err(Error::Overloaded { what, hint: MORE_WORKERS });
        }
        self.queue.push_back(Arc::clone(call));
        self.queue_peak = self.queue_peak.max(self.queue.len());
        Ok(Admitted::Queued)
    }

    /// A call has left worker `slot`. Returns the waiting call that takes its place, if one does.
    ///
    /// Does nothing when the worker has another process by now, whose places are its own.
    pub fn call_left(&mut self, slot: usize, link: &Arc<Link>) -> Option<Arc<Call>> {
        let slot = &mut self.slots[slot];
        let is_current = matches!(&slot.state, State::Ready(it) if Arc::ptr_eq(it, link));
        if !is_current {
            return None;
        }
        slot.in_flight = slot.in_flight.saturating_sub(1);
        let has_room = slot.in_flight < self.concurrency;
        let call = if has_room { self.queue.pop_front() } else { None }?;
        self.uses += 1;
        slot.take(self.uses);
        Some(call)
    }

    /// Takes a waiting call out of the queue. False when it does not wait.
    pub fn remove(&mut self, call: &Arc<Call>) -> bool {
        let index = self.queue.iter().position(|it| Arc::ptr_eq(it, call));
        index.and_then(|index| self.queue.remove(index)).is_some()
    }

    /// A process is being started for worker `slot`.
    pub fn starting(&mut self, slot: usize) {
        self.slots[slot].state = State::Starting;
    }

    /// Worker `slot` takes calls. Returns the waiting ones that it gets at once, their places taken.
    pub fn ready(&mut self, slot: usize, link: &Arc<Link>, info: Arc<ServerInfo>) -> Vec<Arc<Call>> {
        let slot = &mut self.slots[slot];
        slot.state = State::Ready(Arc::clone(link));
        slot.in_flight = 0;
        slot.failures = 0;
        slot.was_ready = true;
        slot.reason = None;
        slot.info = Some(info);
        let calls: Vec<_> = self.queue.drain(..self.concurrency.min(self.queue.len())).collect();
        for _ in &calls {
            self.uses += 1;
            slot.take(self.uses);
        }
        calls
    }

    /// Worker `slot` takes no calls any more.
    pub fn closing(&mut self, slot: usize) {
        let slot = &mut self.slots[slot];
        slot.state = State::Closing;
        slot.in_flight = 0;
    }

    /// The process of worker `slot` is gone. When no worker can be expected to come up, returns the waiting calls and
    /// why they wait in vain.
    pub fn down(&mut self, slot: usize, reason: &str) -> Option<(Vec<Arc<Call>>, Error)> {
        let slot = &mut self.slots[slot];
        slot.state = State::Down;
        slot.in_flight = 0;
        slot.failures += 1;
        slot.reason = Some(reason.to_owned());
        let reason = self.hopeless()?;
        Some((self.queue.drain(..).collect(), Error::NoWorker { server: self.server.to_string(), reason }))
    }

    /// Workers by state.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts { total: self.slots.len(), ..Counts::default() };
        for slot in &self.slots {
            match &slot.state {
                State::Ready(_) if 0 < slot.in_flight => counts.busy += 1,
                State::Ready(_) => counts.ready += 1,
                State::Starting if !slot.is_hopeless() => counts.starting += 1,
                State::Starting | State::Closing | State::Down => counts.unhealthy += 1,
            }
        }
        counts
    }

    /// Why no worker can be expected to come up, when that is so: every one fails again and again.
    pub fn hopeless(&self) -> Option<String> {
        let all_fail = self.slots.iter().all(Slot::is_hopeless);
        all_fail.then(|| self.reason().unwrap_or_else(|| "every worker fails".to_owned()))
    }

    /// Why the last worker that is not up went down.
    pub fn reason(&self) -> Option<String> {
        self.slots.iter().find_map(|slot| slot.reason.clone())
    }

    /// Whether any worker ever got ready.
    pub fn was_ready(&self) -> bool {
        self.slots.iter().any(|slot| slot.was_ready)
    }

    /// The workers, in the order of their numbers.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Calls that wait now, and the most that ever did.
    pub fn queued(&self) -> (usize, usize) {
        (self.queue.len(), self.queue_peak)
    }
}

impl Slot {
    fn new() -> Slot {
        Slot {
            state: State::Starting,
            in_flight: 0,
            calls_total: 0,
            info: None,
            last_used: 0,
            was_ready: false,
            failures: 0,
            reason: None,
        }
    }

    fn take(&mut self, use_number: u64) {
        self.in_flight += 1;
        self.calls_total += 1;
        self.last_used = use_number;
    }

    /// One death of a worker that had been ready is an accident, and its next start is waited for.
    fn is_hopeless(&self) -> bool {
        let accidents = u32::from(self.was_ready);
        accidents < self.failures
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::{
        mcp::message::Request,
        worker::{Waiter, mailbox::Mailbox},
    };

    fn dispatch(n_workers: usize, concurrency: usize, queue_max: usize) -> Dispatch {
        Dispatch::new("s".into(), n_workers, concurrency, queue_max)
    }

    fn call() -> Arc<Call> {
        Call::new(Request::plain("m", None), Waiter::Client(Arc::new(Mailbox::default())), 0)
    }

    fn link() -> Arc<Link> {
        let (_reader, writer) = io::pipe().unwrap();
        Link::new("s-1".into(), writer.into(), crossbeam_channel::bounded(1).0).unwrap()
    }

    fn info() -> Arc<ServerInfo> {
        let (revision, name, version) = (String::new(), String::new(), String::new());
        Arc::new(ServerInfo { revision, name, version, has_tools: true })
    }

    fn ready(dispatch: &mut Dispatch, slot: usize) -> Arc<Link> {
        let link = link();
        dispatch.ready(slot, &link, info());
        link
    }

    #[track_caller]
    fn check_goes_to(dispatch: &mut Dispatch, link: &Arc<Link>) {
        match dispatch.admit(&call()).unwrap() {
            Admitted::Send(it) => assert!(Arc::ptr_eq(&it, link)),
            Admitted::Queued => panic!("it was queued"),
        }
    }

    #[test]
    fn a_call_goes_to_the_least_busy_worker_and_among_equals_to_the_one_unused_for_longest() {
        let mut dispatch = dispatch(3, 2, 10);
        let links = [0, 1, 2].map(|slot| ready(&mut dispatch, slot));
        for slot in [0, 1, 2] {
            check_goes_to(&mut dispatch, &links[slot]);
        }
        dispatch.call_left(1, &links[1]);
        check_goes_to(&mut dispatch, &links[1]);
        for slot in [0, 2, 1] {
            check_goes_to(&mut dispatch, &links[slot]);
        }
        assert!(matches!(dispatch.admit(&call()), Ok(Admitted::Queued)));
    }

    #[test]
    fn waiting_calls_get_their_places_in_the_order_they_came() {
        let mut dispatch = dispatch(1, 1, 10);
        let waiting = [call(), call(), call()];
        for it in &waiting {
            assert!(matches!(dispatch.admit(it), Ok(Admitted::Queued)), "the worker is still starting");
        }
        let link = link();
        let first = dispatch.ready(0, &link, info());
        assert!(first.len() == 1 && Arc::ptr_eq(&first[0], &waiting[0]));
        assert!(dispatch.remove(&waiting[1]) && !dispatch.remove(&waiting[1]));
        assert!(Arc::ptr_eq(&dispatch.call_left(0, &link).unwrap(), &waiting[2]));
        assert!(dispatch.call_left(0, &link).is_none());
        assert_eq!(dispatch.queued(), (0, 3));
    }

    #[test]
    fn a_full_queue_refuses() {
        let mut dispatch = dispatch(1, 1, 1);
        assert!(matches!(dispatch.admit(&call()), Ok(Admitted::Queued)));
        assert!(matches!(dispatch.admit(&call()), Err(Error::Overloaded { .. })));
    }

    #[test]
    fn a_place_in_a_process_that_is_gone_frees_none_in_its_successor() {
        let mut dispatch = dispatch(1, 1, 1);
        let old = ready(&mut dispatch, 0);
        check_goes_to(&mut dispatch, &old);
        dispatch.closing(0);
        assert!(dispatch.down(0, "died").is_none());
        let new = ready(&mut dispatch, 0);
        check_goes_to(&mut dispatch, &new);
        assert!(dispatch.call_left(0, &old).is_none());
        assert_eq!(dispatch.counts().busy, 1);
    }

    #[test]
    fn one_death_is_waited_out_and_a_second_in_a_row_is_told() {
        let mut dispatch = dispatch(1, 1, 10);
        ready(&mut dispatch, 0);
        assert!(dispatch.down(0, "died").is_none());
        assert!(matches!(dispatch.admit(&call()), Ok(Admitted::Queued)));
        dispatch.starting(0);
        let (calls, error) = dispatch.down(0, "died again").unwrap();
        assert_eq!((calls.len(), error.to_string().as_str()), (1, "server `s` has no worker: died again"));
        assert!(matches!(dispatch.admit(&call()), Err(Error::NoWorker { .. })));
        dispatch.starting(0);
        assert_eq!(dispatch.counts(), Counts { total: 1, unhealthy: 1, ..Counts::default() });
        ready(&mut dispatch, 0);
        assert_eq!(dispatch.counts(), Counts { total: 1, ready: 1, ..Counts::default() });
    }

    #[test]
    fn a_server_that_never_came_up_fails_at_its_first_death() {
        let mut dispatch = dispatch(2, 1, 10);
        assert!(dispatch.down(0, "exited with code 3").is_none(), "the other may still come up");
        assert!(dispatch.down(1, "exited with code 3").is_some());
    }
}
