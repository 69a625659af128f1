//! Which worker takes which call: the places of the workers, and the queue before them.
//!
//! One file with its tests: a plain data structure under the pool's lock, which sends nothing and starts nothing, so
//! every decision can be tested as a table. A call goes to the ready worker with the fewest calls in flight, ties to the
//! one unused for longest.
//!
//! An exclusive call needs a worker without any other call. When there is none, it reserves the least busy one, which
//! gets no new calls until it is free; others wait in the queue, in the order they came, and pass only those that wait
//! for something else (a place beside others, or a worker of one's own).
//!
//! **Limit.** `WORKER_CONCURRENCY` calls for each worker, `QUEUE_MAX` waiting ones.

use std::{collections::VecDeque, sync::Arc, time::Duration};

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
    /// How many of the queue need a worker of their own.
    n_exclusive_queued: usize,
    n_reserved: usize,
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
    /// Its one call has it alone.
    is_exclusive: bool,
    /// The call that gets it alone as soon as the others have left.
    reserved: Option<Arc<Call>>,
    /// Cancelled exclusive calls that its server may still ask something for. Below zero for the moment in which the news
    /// that one has settled overtakes the news that it was cancelled.
    n_unsettled: isize,
    last_used: u64,
    was_ready: bool,
    /// Processes that died or could not start, in a row, without one that answered a call.
    failures: u32,
    /// Why the last process ended.
    reason: Option<String>,
    /// Its last line on stderr, which is not for everybody.
    last_words: Option<String>,
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

/// A call whose place at a worker is taken: it is to be sent over the link.
#[derive(Debug)]
pub struct Placed {
    /// The worker.
    pub slot: usize,
    /// Its link.
    pub link: Arc<Link>,
    /// The call.
    pub call: Arc<Call>,
}

impl Dispatch {
    /// `n_workers` workers that are about to start.
    pub fn new(server: Arc<str>, n_workers: usize, concurrency: usize, queue_max: usize) -> Dispatch {
        let slots = (0..n_workers).map(|_| Slot::new()).collect();
        Dispatch {
            server,
            slots,
            queue: VecDeque::new(),
            queue_peak: 0,
            concurrency,
            queue_max,
            n_exclusive_queued: 0,
            n_reserved: 0,
            uses: 0,
        }
    }

    /// Finds a place for a call. `None`: it waits.
    ///
    /// Fails with [`Error::NoWorker`] when no worker can be expected to come up, with [`Error::Overloaded`] when the
    /// queue is full.
    pub fn admit(&mut self, call: &Arc<Call>) -> Result<Option<Placed>, Error> {
        let is_exclusive = call.is_exclusive();
        let n_like_it = if is_exclusive { self.n_exclusive_queued } else { self.queue.len() - self.n_exclusive_queued };
        if n_like_it == 0 {
            match self.find(is_exclusive) {
                Some(slot) if !is_exclusive || self.slots[slot].in_flight == 0 => return Ok(self.place(slot, call)),
                Some(slot) => {
                    self.reserve(slot, call);
                    return Ok(None);
                }
                None => {}
            }
        }
        if let Some(reason) = self.hopeless() {
            return Err(Error::NoWorker {
                server: self.server.to_string(),
                reason,
                retry_after: Duration::from_secs(1),
            });
        }
        if self.queue_max <= self.queue.len() {
            let what = format!("{} calls wait for a worker of `{}` already", self.queue.len(), self.server);
            return Err(Error::Overloaded { what, hint: MORE_WORKERS, retry_after: Duration::from_secs(1) });
        }
        self.queue.push_back(Arc::clone(call));
        self.n_exclusive_queued += usize::from(is_exclusive);
        self.queue_peak = self.queue_peak.max(self.queue.len());
        Ok(None)
    }

    /// A call has left worker `slot`. Returns the waiting calls that get a place now.
    ///
    /// Does nothing when the worker has another process by now, whose places are its own. `is_settled`: nothing more
    /// will be asked for it; else [`Dispatch::settled`] follows.
    pub fn call_left(&mut self, slot: usize, link: &Arc<Link>, is_settled: bool) -> Vec<Placed> {
        if let Some(slot) = self.current(slot, link) {
            slot.in_flight = slot.in_flight.saturating_sub(1);
            slot.is_exclusive = false;
            slot.n_unsettled += isize::from(!is_settled);
        }
        self.schedule()
    }

    /// As [`Dispatch::call_left`], and with an answer: whatever its process had gone through, it works now.
    pub fn answered(&mut self, slot: usize, link: &Arc<Link>) -> Vec<Placed> {
        if let Some(slot) = self.current(slot, link) {
            slot.failures = 0;
        }
        self.call_left(slot, link, true)
    }

    /// Nothing more will be asked for a cancelled exclusive call of worker `slot`.
    pub fn settled(&mut self, slot: usize, link: &Arc<Link>) -> Vec<Placed> {
        if let Some(slot) = self.current(slot, link) {
            slot.n_unsettled -= 1;
        }
        self.schedule()
    }

    /// Takes a waiting call out. Returns the waiting calls that get a place through that.
    pub fn remove(&mut self, call: &Arc<Call>) -> Vec<Placed> {
        let is_it = |it: &Arc<Call>| Arc::ptr_eq(it, call);
        if let Some(index) = self.queue.iter().position(is_it) {
            self.unqueue(index);
        }
        for slot in &mut self.slots {
            if slot.reserved.as_ref().is_some_and(is_it) {
                slot.reserved = None;
                self.n_reserved -= 1;
            }
        }
        self.schedule()
    }

    /// A process is being started for worker `slot`.
    pub fn starting(&mut self, slot: usize) {
        self.slots[slot].state = State::Starting;
    }

    /// Worker `slot` takes calls. Returns the waiting ones that get a place now.
    pub fn ready(&mut self, slot: usize, link: &Arc<Link>, info: Arc<ServerInfo>) -> Vec<Placed> {
        let slot = &mut self.slots[slot];
        slot.state = State::Ready(Arc::clone(link));
        slot.in_flight = 0;
        slot.is_exclusive = false;
        slot.n_unsettled = 0;
        slot.was_ready = true;
        slot.info = Some(info);
        self.schedule()
    }

    /// Worker `slot` takes no calls any more. Returns the waiting calls that get a place at another.
    pub fn closing(&mut self, slot: usize) -> Vec<Placed> {
        let slot = &mut self.slots[slot];
        slot.state = State::Closing;
        slot.in_flight = 0;
        if let Some(call) = slot.reserved.take() {
            self.n_reserved -= 1;
            self.n_exclusive_queued += 1;
            self.queue.push_front(call);
        }
        self.schedule()
    }

    /// The process of worker `slot` is gone. When no worker can be expected to come up, returns the waiting calls and
    /// why they wait in vain.
    pub fn down(&mut self, slot: usize, reason: &str, last_words: Option<&str>) -> Option<(Vec<Arc<Call>>, Error)> {
        let slot = &mut self.slots[slot];
        slot.state = State::Down;
        slot.in_flight = 0;
        slot.failures += 1;
        slot.reason = Some(reason.to_owned());
        slot.last_words = last_words.map(str::to_owned);
        let reason = self.hopeless()?;
        self.n_exclusive_queued = 0;
        Some((
            self.queue.drain(..).collect(),
            Error::NoWorker { server: self.server.to_string(), reason, retry_after: Duration::from_secs(1) },
        ))
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

    /// Why no worker can be expected to come up, when that is so: every one fails again and again. With its last words.
    pub fn hopeless(&self) -> Option<String> {
        if !self.slots.iter().all(Slot::is_hopeless) {
            return None;
        }
        let mut slots = self.slots.iter().filter(|slot| slot.reason.is_some());
        let Some(Slot { reason: Some(reason), last_words, .. }) = slots.next() else { return Some(String::new()) };
        let last_words = last_words.as_ref().map(|line| format!("; its last line on stderr: `{line}`"));
        Some(reason.clone() + &last_words.unwrap_or_default())
    }

    /// Why the first worker that is not up went down, fit for everybody's eyes.
    pub fn reason(&self) -> Option<String> {
        self.slots.iter().filter(|slot| !slot.is_up()).find_map(|slot| slot.reason.clone())
    }

    /// Whether any worker ever got ready.
    pub fn was_ready(&self) -> bool {
        self.slots.iter().any(|slot| slot.was_ready)
    }

    /// The workers, in the order of their numbers.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The worker that takes calls over this link.
    pub fn slot_of(&self, link: &Arc<Link>) -> Option<usize> {
        self.slots.iter().position(|slot| matches!(&slot.state, State::Ready(it) if Arc::ptr_eq(it, link)))
    }

    /// Calls that wait now, and the most that ever did.
    pub fn queued(&self) -> (usize, usize) {
        (self.queue.len() + self.n_reserved, self.queue_peak)
    }

    /// Gives waiting calls the places there are.
    fn schedule(&mut self) -> Vec<Placed> {
        let mut placed = Vec::new();
        for slot in 0..self.slots.len() {
            let is_free = self.slots[slot].in_flight == 0;
            if 0 < self.n_reserved
                && is_free
                && let Some(call) = self.slots[slot].reserved.take()
            {
                self.n_reserved -= 1;
                placed.extend(self.place(slot, &call));
            }
        }
        let mut index = 0;
        let (mut shared_may_fit, mut exclusive_may_fit) = (true, true);
        while index < self.queue.len() && (shared_may_fit || (exclusive_may_fit && 0 < self.n_exclusive_queued)) {
            let is_exclusive = self.queue[index].is_exclusive();
            let may_fit = if is_exclusive { &mut exclusive_may_fit } else { &mut shared_may_fit };
            if !*may_fit {
                index += 1;
                continue;
            }
            let found = self.find(is_exclusive);
            let Some(slot) = found else {
                if is_exclusive {
                    exclusive_may_fit = false;
                } else {
                    shared_may_fit = false;
                }
                index += 1;
                continue;
            };
            let Some(call) = self.unqueue(index) else { break };
            if is_exclusive && 0 < self.slots[slot].in_flight {
                self.reserve(slot, &call);
            } else {
                placed.extend(self.place(slot, &call));
            }
        }
        placed
    }

    /// The worker for the next call of this kind; an exclusive one may have to wait for it.
    fn find(&self, is_exclusive: bool) -> Option<usize> {
        let fits = |slot: &Slot| {
            let is_open = matches!(slot.state, State::Ready(_)) && !slot.is_exclusive && slot.reserved.is_none();
            is_open && if is_exclusive { slot.n_unsettled <= 0 } else { slot.in_flight < self.concurrency }
        };
        let slots = self.slots.iter().enumerate().filter(|(_, slot)| fits(slot));
        slots.min_by_key(|(_, slot)| (slot.in_flight, slot.last_used)).map(|(index, _)| index)
    }

    fn place(&mut self, slot: usize, call: &Arc<Call>) -> Option<Placed> {
        self.uses += 1;
        let State::Ready(link) = &self.slots[slot].state else { return None };
        let placed = Placed { slot, link: Arc::clone(link), call: Arc::clone(call) };
        let slot = &mut self.slots[slot];
        slot.in_flight += 1;
        slot.calls_total += 1;
        slot.last_used = self.uses;
        slot.is_exclusive = call.is_exclusive();
        Some(placed)
    }

    fn reserve(&mut self, slot: usize, call: &Arc<Call>) {
        self.slots[slot].reserved = Some(Arc::clone(call));
        self.n_reserved += 1;
    }

    fn unqueue(&mut self, index: usize) -> Option<Arc<Call>> {
        let call = self.queue.remove(index)?;
        self.n_exclusive_queued -= usize::from(call.is_exclusive());
        Some(call)
    }

    /// Worker `slot`, if this is still the link it takes calls over.
    fn current(&mut self, slot: usize, link: &Arc<Link>) -> Option<&mut Slot> {
        let slot = &mut self.slots[slot];
        let is_current = matches!(&slot.state, State::Ready(it) if Arc::ptr_eq(it, link));
        is_current.then_some(slot)
    }
}

impl Slot {
    fn new() -> Slot {
        Slot {
            state: State::Starting,
            in_flight: 0,
            calls_total: 0,
            info: None,
            is_exclusive: false,
            reserved: None,
            n_unsettled: 0,
            last_used: 0,
            was_ready: false,
            failures: 0,
            reason: None,
            last_words: None,
        }
    }

    fn is_up(&self) -> bool {
        matches!(self.state, State::Ready(_))
    }

    /// One death of a worker that had been ready is an accident, and its next start is waited for.
    fn is_hopeless(&self) -> bool {
        let accidents = u32::from(self.was_ready);
        !self.is_up() && accidents < self.failures
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::{mcp::message::Request, worker::Waiter};

    fn dispatch(n_workers: usize, concurrency: usize, queue_max: usize) -> Dispatch {
        Dispatch::new("s".into(), n_workers, concurrency, queue_max)
    }

    fn call() -> Arc<Call> {
        Call::new(Request::plain("m", None), Waiter::Result(Arc::default()), 0)
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
        let placed = dispatch.admit(&call()).unwrap().expect("it was queued");
        assert!(Arc::ptr_eq(&placed.link, link));
    }

    #[test]
    fn a_call_goes_to_the_least_busy_worker_and_among_equals_to_the_one_unused_for_longest() {
        let mut dispatch = dispatch(3, 2, 10);
        let links = [0, 1, 2].map(|slot| ready(&mut dispatch, slot));
        for slot in [0, 1, 2] {
            check_goes_to(&mut dispatch, &links[slot]);
        }
        dispatch.call_left(1, &links[1], true);
        check_goes_to(&mut dispatch, &links[1]);
        for slot in [0, 2, 1] {
            check_goes_to(&mut dispatch, &links[slot]);
        }
        assert!(matches!(dispatch.admit(&call()), Ok(None)));
    }

    #[test]
    fn waiting_calls_get_their_places_in_the_order_they_came() {
        let mut dispatch = dispatch(1, 1, 10);
        let waiting = [call(), call(), call()];
        for it in &waiting {
            assert!(matches!(dispatch.admit(it), Ok(None)), "the worker is still starting");
        }
        let link = link();
        let first = dispatch.ready(0, &link, info());
        assert!(first.len() == 1 && Arc::ptr_eq(&first[0].call, &waiting[0]));
        dispatch.remove(&waiting[1]);
        let next = dispatch.call_left(0, &link, true);
        assert!(next.len() == 1 && Arc::ptr_eq(&next[0].call, &waiting[2]));
        assert!(dispatch.call_left(0, &link, true).is_empty());
        assert_eq!(dispatch.queued(), (0, 3));
    }

    #[test]
    fn a_full_queue_refuses() {
        let mut dispatch = dispatch(1, 1, 1);
        assert!(matches!(dispatch.admit(&call()), Ok(None)));
        assert!(matches!(dispatch.admit(&call()), Err(Error::Overloaded { .. })));
    }

    #[test]
    fn a_place_in_a_process_that_is_gone_frees_none_in_its_successor() {
        let mut dispatch = dispatch(1, 1, 1);
        let old = ready(&mut dispatch, 0);
        check_goes_to(&mut dispatch, &old);
        dispatch.closing(0);
        assert!(dispatch.down(0, "died", None).is_none());
        let new = ready(&mut dispatch, 0);
        check_goes_to(&mut dispatch, &new);
        assert!(dispatch.call_left(0, &old, true).is_empty());
        assert_eq!(dispatch.counts().busy, 1);
    }

    #[test]
    fn one_death_is_waited_out_and_a_second_in_a_row_is_told() {
        let mut dispatch = dispatch(1, 1, 10);
        ready(&mut dispatch, 0);
        assert!(dispatch.down(0, "died", None).is_none());
        assert!(matches!(dispatch.admit(&call()), Ok(None)));
        dispatch.starting(0);
        let (calls, error) = dispatch.down(0, "died again", Some("oh no")).unwrap();
        assert_eq!(
            (calls.len(), error.to_string().as_str()),
            (1, "server `s` has no worker: died again; its last line on stderr: `oh no`")
        );
        assert!(matches!(dispatch.admit(&call()), Err(Error::NoWorker { .. })));
        dispatch.starting(0);
        assert_eq!(dispatch.counts(), Counts { total: 1, unhealthy: 1, ..Counts::default() });
        ready(&mut dispatch, 0);
        assert_eq!(dispatch.counts(), Counts { total: 1, ready: 1, ..Counts::default() });
    }

    fn exclusive() -> Arc<Call> {
        Call::new(Request::plain("m", None), Waiter::Dialogue(Arc::default()), 0)
    }

    #[track_caller]
    fn check_placed(placed: &[Placed], expected: &[(usize, &Arc<Call>)]) {
        let is_same = |(placed, (slot, call)): (&Placed, &(usize, &Arc<Call>))| {
            placed.slot == *slot && Arc::ptr_eq(&placed.call, call)
        };
        assert!(placed.len() == expected.len() && placed.iter().zip(expected).all(is_same), "{placed:?}");
    }

    #[test]
    fn an_exclusive_call_has_its_worker_alone() {
        let mut dispatch = dispatch(2, 8, 10);
        let links = [0, 1].map(|slot| ready(&mut dispatch, slot));
        assert_eq!(dispatch.admit(&exclusive()).unwrap().unwrap().slot, 0);
        check_goes_to(&mut dispatch, &links[1]);
        check_goes_to(&mut dispatch, &links[1]);
        dispatch.call_left(0, &links[0], true);
        check_goes_to(&mut dispatch, &links[0]);
    }

    #[test]
    fn an_exclusive_call_reserves_the_least_busy_worker_and_others_pass_it() {
        let mut dispatch = dispatch(2, 2, 10);
        let links = [0, 1].map(|slot| ready(&mut dispatch, slot));
        for slot in [0, 1, 0] {
            check_goes_to(&mut dispatch, &links[slot]);
        }
        let (alone, second) = (exclusive(), exclusive());
        assert!(dispatch.admit(&alone).unwrap().is_none(), "worker 1 is reserved");
        assert!(dispatch.admit(&second).unwrap().is_none(), "worker 0 is reserved");
        let shared = call();
        assert!(dispatch.admit(&shared).unwrap().is_none());
        assert_eq!(dispatch.queued().0, 3);
        check_placed(&dispatch.call_left(0, &links[0], true), &[]);
        check_placed(&dispatch.call_left(1, &links[1], true), &[(1, &alone)]);
        check_placed(&dispatch.call_left(0, &links[0], true), &[(0, &second)]);
        check_placed(&dispatch.call_left(1, &links[1], true), &[(1, &shared)]);
    }

    #[test]
    fn a_reservation_ends_with_its_call_and_moves_when_its_worker_dies() {
        let mut dispatch = dispatch(2, 1, 10);
        let links = [0, 1].map(|slot| ready(&mut dispatch, slot));
        for slot in [0, 1] {
            check_goes_to(&mut dispatch, &links[slot]);
        }
        let (alone, shared) = (exclusive(), call());
        assert!(dispatch.admit(&alone).unwrap().is_none() && dispatch.admit(&shared).unwrap().is_none());
        check_placed(&dispatch.closing(0), &[]);
        check_placed(&dispatch.call_left(1, &links[1], true), &[(1, &alone)]);
        check_placed(&dispatch.call_left(1, &links[1], true), &[(1, &shared)]);
        assert!(dispatch.admit(&alone).unwrap().is_none(), "worker 1 is reserved");
        let next = call();
        assert!(dispatch.admit(&next).unwrap().is_none());
        check_placed(&dispatch.remove(&alone), &[]);
        check_placed(&dispatch.call_left(1, &links[1], true), &[(1, &next)]);
    }

    #[test]
    fn a_worker_that_may_still_ask_for_a_cancelled_call_gets_no_exclusive_one() {
        let mut dispatch = dispatch(1, 2, 10);
        let link = ready(&mut dispatch, 0);
        dispatch.admit(&exclusive()).unwrap().unwrap();
        dispatch.call_left(0, &link, false);
        let alone = exclusive();
        assert!(dispatch.admit(&alone).unwrap().is_none());
        check_goes_to(&mut dispatch, &link);
        check_placed(&dispatch.settled(0, &link), &[]);
        check_placed(&dispatch.call_left(0, &link, true), &[(0, &alone)]);

        // The server's answer may be there before the one who cancelled has said so.
        check_placed(&dispatch.settled(0, &link), &[]);
        let next = exclusive();
        assert!(dispatch.admit(&next).unwrap().is_none());
        check_placed(&dispatch.call_left(0, &link, false), &[(0, &next)]);
    }

    #[test]
    fn a_server_that_never_came_up_fails_at_its_first_death() {
        let mut dispatch = dispatch(2, 1, 10);
        assert!(dispatch.down(0, "exited with code 3", None).is_none(), "the other may still come up");
        assert!(dispatch.down(1, "exited with code 3", None).is_some());
    }
}
