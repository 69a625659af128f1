//! Connections on which one plain call follows the other: a few threads serve all of them in turns.
//!
//! Such a connection needs a thread for some microseconds of a call, since the answer is written by others (`doorstep.rs`). With a thread for
//! each, the system changes threads for every call, and each finds the processor's caches full of what others needed. Here a
//! thread takes what was said on several connections, one after the other, as long as nothing has to be waited for.
//! Who is about to wait leaves its turn to a new thread ([`threads::about_to_wait`]), and is the connection's own from then on.
//!
//! **Limit.** A connection is here for as long as it speaks: it leaves when it has been quiet, or its call under way, for
//! [`REST_AFTER`]. As many threads as there are processors, at most [`THREADS_MAX`], while there are connections.
//! **End.** [`Lobby::close`].

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    io,
    num::NonZero,
    os::fd::{AsFd as _, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::event::{
    EventfdFlags, Timespec,
    epoll::{self, CreateFlags, EventData, EventFlags},
    eventfd,
};

use super::{
    connection::{Connection, Served},
    rest::REST_AFTER,
};
use crate::{
    threads::{self, lock},
    worker::{gathering, mailbox::Word},
};

/// Threads that take turns.
const THREADS_MAX: usize = 8;

/// Connections that one thread takes at once.
const EVENTS_AT_ONCE: usize = 16;

/// How often those are looked for that have been quiet, and how long a thread waits in vain.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// A call with less time than this is waited for by a thread of its own, which is more exact.
const CALL_TIME_MIN: Duration = Duration::from_secs(2);

/// The same for `KEEP_ALIVE_TIMEOUT`.
const KEEP_ALIVE_MIN: Duration = Duration::from_secs(2);

/// Most that is read of a request here.
const BYTES_MAX: usize = 64 * 1024;

/// Parts of the table of connections, each with a lock of its own.
const SHARDS: usize = 64;

/// Stands for a word to the threads, among connection numbers.
const BELL: u64 = 0;

/// What a connection's socket and eventfd are watched for.
const WATCHED: EventFlags = EventFlags::IN.union(EventFlags::ET);

/// See the module.
pub(super) struct Lobby {
    epoll: OwnedFd,
    /// Wakes all threads, for good.
    bell: OwnedFd,
    shards: [Mutex<HashMap<u64, Place>>; SHARDS],
    n_connections: AtomicUsize,
    next_look: Mutex<Instant>,
    n_threads_wanted: usize,
    on_duty: Mutex<OnDuty>,
    all_gone: Condvar,
    is_over: AtomicBool,
}

#[derive(Debug, Default)]
struct OnDuty {
    n_threads: usize,
    last_number: u64,
}

/// One connection in the lobby.
enum Place {
    /// Nobody serves it; since then.
    Waiting(Box<Connection>, Instant),
    /// Somebody does, and something was said meanwhile if it is `called`.
    Served { is_called: bool },
}

/// What becomes of a connection after its turn.
enum Turn {
    /// It waits for the next.
    Stay(Box<Connection>),
    /// It needs a thread of its own.
    Leave(Box<Connection>),
    /// It is over.
    Over(Box<Connection>),
}

/// What a thread has taken on.
#[derive(Debug, Default)]
struct Duty {
    /// Connections still to be served, and whether that is because they have been waiting for a while.
    batch: RefCell<VecDeque<(u64, bool)>>,
    /// Whom it serves.
    current: Cell<u64>,
}

impl Lobby {
    pub(super) fn new() -> io::Result<Lobby> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &bell, EventData::new_u64(BELL), EventFlags::IN)?;
        Ok(Lobby {
            epoll,
            bell,
            shards: std::array::from_fn(|_| Mutex::default()),
            n_connections: AtomicUsize::new(0),
            next_look: Mutex::new(Instant::now()),
            n_threads_wanted: thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX),
            on_duty: Mutex::default(),
            all_gone: Condvar::new(),
            is_over: AtomicBool::new(false),
        })
    }

    /// Takes a connection in whose call was just begun. Gives it back when it cannot stay.
    pub(super) fn enter(self: &Arc<Self>, connection: Box<Connection>) -> Result<(), Box<Connection>> {
        let number = connection.peer.number();
        lock(self.shard(number)).insert(number, Place::Served { is_called: false });
        self.n_connections.fetch_add(1, Ordering::SeqCst);
        if self.is_over.load(Ordering::SeqCst) || !self.has_threads() {
            self.forget(number);
            return Err(connection);
        }
        let mut turn = match self.watch(&connection) {
            Ok(()) => connection.settle_in(),
            Err(_) => Turn::Leave(connection),
        };
        while let Turn::Stay(connection) = turn {
            match self.put_back(connection) {
                None => return Ok(()),
                Some(connection) => turn = connection.take_turn(false),
            }
        }
        match turn {
            Turn::Stay(connection) | Turn::Leave(connection) => {
                self.leave(&connection);
                Err(connection)
            }
            Turn::Over(connection) => {
                self.leave(&connection);
                connection.end();
                Ok(())
            }
        }
    }

    /// Ends the threads, and what is left of connections.
    pub(super) fn close(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        // A counter takes a number unless it is about to run over, and then it is readable anyway.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        let mut on_duty = lock(&self.on_duty);
        while 0 < on_duty.n_threads {
            on_duty = self.all_gone.wait(on_duty).unwrap_or_else(PoisonError::into_inner);
        }
        drop(on_duty);
        for shard in &self.shards {
            let places = std::mem::take(&mut *lock(shard));
            for place in places.into_values() {
                if let Place::Waiting(connection, _) = place {
                    connection.end();
                }
            }
        }
    }

    /// Sees to it that there are threads. False: the system has no room for them.
    fn has_threads(self: &Arc<Self>) -> bool {
        let n_missing = self.n_threads_wanted.saturating_sub(lock(&self.on_duty).n_threads);
        let n_begun = (0..n_missing).filter(|_| self.begin_thread(VecDeque::new()).is_ok()).count();
        n_missing < self.n_threads_wanted || 0 < n_begun
    }

    /// Starts a thread that serves a batch first.
    fn begin_thread(self: &Arc<Self>, batch: VecDeque<(u64, bool)>) -> io::Result<()> {
        let name = {
            let mut on_duty = lock(&self.on_duty);
            on_duty.n_threads += 1;
            on_duty.last_number += 1;
            format!("lobby-{}", on_duty.last_number)
        };
        let lobby = Arc::clone(self);
        threads::spawn_detached(name, move || lobby.run(batch)).inspect_err(|error| {
            log::warn!("the system has no room for a thread: {error}");
            self.sign_off();
        })
    }

    fn sign_off(&self) {
        self.sign_off_from(&mut lock(&self.on_duty));
    }

    fn sign_off_from(&self, on_duty: &mut OnDuty) {
        on_duty.n_threads -= 1;
        if on_duty.n_threads == 0 {
            self.all_gone.notify_all();
        }
    }

    /// What each thread does.
    fn run(self: Arc<Self>, batch: VecDeque<(u64, bool)>) {
        let duty = Rc::new(Duty { batch: RefCell::new(batch), current: Cell::new(0) });
        let (lobby, its_duty) = (Arc::clone(&self), Rc::clone(&duty));
        threads::set_stand_in(Some(Box::new(move || lobby.replace(&its_duty))));
        gathering::start();
        let mut events = Vec::with_capacity(EVENTS_AT_ONCE);
        while !self.is_over.load(Ordering::SeqCst) {
            let next = duty.batch.borrow_mut().pop_front();
            let Some((number, is_due)) = next else {
                gathering::write();
                let is_vain = !self.fill(&mut duty.batch.borrow_mut(), &mut events);
                if is_vain && self.is_left_empty() {
                    return;
                }
                continue;
            };
            duty.current.set(number);
            // What panics costs one connection, which is dropped on the way.
            if catch_unwind(AssertUnwindSafe(|| self.serve(number, is_due))).is_err() {
                log::error!("connection {number} is closed; the panic stands above");
                self.forget(number);
            }
            if !threads::has_stand_in() {
                return;
            }
        }
        gathering::stop();
        threads::set_stand_in(None);
        self.sign_off();
    }

    /// Signs a thread off that has waited in vain, if there is nobody to wait for.
    fn is_left_empty(&self) -> bool {
        let mut on_duty = lock(&self.on_duty);
        // Who enters is counted before it looks for threads.
        let is_empty = self.n_connections.load(Ordering::SeqCst) == 0;
        if is_empty {
            self.sign_off_from(&mut on_duty);
        }
        is_empty
    }

    /// Has another thread take over, because this one is about to wait.
    fn replace(self: &Arc<Self>, duty: &Duty) -> bool {
        let Ok(mut batch) = duty.batch.try_borrow_mut() else { return false };
        if self.begin_thread(batch.clone()).is_err() {
            return false;
        }
        batch.clear();
        gathering::stop();
        self.sign_off();
        let name = format!("conn-{}", duty.current.get());
        // It is for those who look.
        let _ = std::ffi::CString::new(name).map(|name| rustix::thread::set_name(&name));
        true
    }

    /// Waits until something was said, and takes that on. False: nothing was.
    fn fill(&self, batch: &mut VecDeque<(u64, bool)>, events: &mut Vec<epoll::Event>) -> bool {
        let timeout = Timespec::try_from(LOOK_INTERVAL).ok();
        events.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                log::error!("connections cannot be waited for: {error}");
                thread::sleep(LOOK_INTERVAL);
            }
        }
        let numbers = events.iter().map(|event| event.data.u64()).filter(|number| *number != BELL);
        batch.extend(numbers.map(|number| (number, false)));
        self.find_due(batch);
        !batch.is_empty()
    }

    /// Takes on those that have been waiting for a while, when it is time to look for them.
    fn find_due(&self, batch: &mut VecDeque<(u64, bool)>) {
        let now = Instant::now();
        // Somebody else may be at it.
        let Ok(mut next_look) = self.next_look.try_lock() else { return };
        if now < *next_look {
            return;
        }
        *next_look = now + LOOK_INTERVAL;
        drop(next_look);
        for shard in &self.shards {
            for (number, place) in &*lock(shard) {
                if let Place::Waiting(_, since) = place
                    && *since + REST_AFTER <= now
                {
                    batch.push_back((*number, true));
                }
            }
        }
    }

    /// Gives a connection its turn, and goes on with it if it needs a thread of its own.
    fn serve(&self, number: u64, is_due: bool) {
        let Some(mut connection) = self.take(number) else { return };
        loop {
            match connection.take_turn(is_due) {
                Turn::Stay(stays) if threads::has_stand_in() => match self.put_back(stays) {
                    None => return,
                    Some(called) => connection = called,
                },
                Turn::Stay(leaves) | Turn::Leave(leaves) => {
                    self.leave(&leaves);
                    return leaves.run();
                }
                Turn::Over(it) => {
                    self.leave(&it);
                    return it.end();
                }
            }
        }
    }

    /// Takes a connection out of its place to serve it, unless somebody else does.
    fn take(&self, number: u64) -> Option<Box<Connection>> {
        let mut shard = lock(self.shard(number));
        let place = shard.get_mut(&number)?;
        match std::mem::replace(place, Place::Served { is_called: false }) {
            Place::Waiting(connection, _) => Some(connection),
            Place::Served { .. } => {
                *place = Place::Served { is_called: true };
                None
            }
        }
    }

    /// Puts a connection back that was served. Gives it back when something was said meanwhile.
    fn put_back(&self, connection: Box<Connection>) -> Option<Box<Connection>> {
        let number = connection.peer.number();
        match lock(self.shard(number)).get_mut(&number) {
            Some(place @ Place::Served { is_called: false }) => {
                *place = Place::Waiting(connection, Instant::now());
                None
            }
            Some(place) => {
                *place = Place::Served { is_called: false };
                Some(connection)
            }
            None => Some(connection),
        }
    }

    fn watch(&self, connection: &Connection) -> io::Result<()> {
        let data = || EventData::new_u64(connection.peer.number());
        epoll::add(&self.epoll, connection.peer.tcp().as_fd(), data(), WATCHED)?;
        if let Some(doorstep) = &connection.doorstep {
            epoll::add(&self.epoll, doorstep.bell().as_fd(), data(), WATCHED)?;
        }
        Ok(())
    }

    /// Forgets a connection that is served.
    fn leave(&self, connection: &Connection) {
        // What is not there need not be removed.
        let _ = epoll::delete(&self.epoll, connection.peer.tcp().as_fd());
        if let Some(doorstep) = &connection.doorstep {
            let _ = epoll::delete(&self.epoll, doorstep.bell().as_fd());
        }
        self.forget(connection.peer.number());
    }

    fn forget(&self, number: u64) {
        if lock(self.shard(number)).remove(&number).is_some() {
            self.n_connections.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn shard(&self, number: u64) -> &Mutex<HashMap<u64, Place>> {
        &self.shards[number as usize % SHARDS]
    }
}

impl Connection {
    /// Whether calls that follow are better served in the lobby, now that one was begun.
    pub(super) fn may_enter_lobby(&self) -> bool {
        KEEP_ALIVE_MIN <= self.config.now().keep_alive_timeout && self.has_time()
    }

    /// Whether the call under way has so much time that it need not be looked at soon.
    fn has_time(&self) -> bool {
        let later = self.doorstep.as_ref().and_then(|it| it.expected());
        later.is_some_and(|later| Instant::now() + CALL_TIME_MIN <= later.deadline())
    }

    /// Serves what was said, without waiting for more. `is_due`: it has been here for [`REST_AFTER`] without a turn.
    fn take_turn(mut self: Box<Self>, is_due: bool) -> Turn {
        match self.listen(false) {
            Some(Word::Other) | None => return Turn::Leave(self),
            Some(Word::Relayed(_) | Word::None) => {}
        }
        let is_expecting = self.doorstep.as_ref().is_some_and(|it| it.expected().is_some());
        if is_due {
            let is_quiet = self.quiet_since.is_none_or(|since| REST_AFTER <= since.elapsed());
            if is_expecting || is_quiet {
                return Turn::Leave(self);
            }
        }
        let had_more = !self.buffer.is_empty();
        loop {
            match self.stream.read_now_into(&mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Who sends ahead is read no further than that.
                Ok(1..) if is_expecting && had_more => return Turn::Leave(self),
                Ok(1..) => self.quiet_since = None,
                Ok(0) | Err(_) => return Turn::Leave(self),
            }
            // What comes now is told of again.
            if self.buffer.len() < self.buffer.capacity() {
                break;
            }
            if BYTES_MAX < self.buffer.len() {
                return Turn::Leave(self);
            }
        }
        self.settle_in()
    }

    /// Serves requests that were read, and waits for the next.
    fn settle_in(mut self: Box<Self>) -> Turn {
        loop {
            match self.listen(!self.buffer.is_empty()) {
                Some(Word::Relayed(_)) => {}
                Some(Word::None) => {
                    let is_expecting = self.doorstep.as_ref().is_some_and(|it| it.expected().is_some());
                    if is_expecting || self.buffer.is_empty() {
                        return Turn::Stay(self);
                    }
                    match self.serve_one() {
                        Ok(Served::Left) => {
                            self.quiet_since = None;
                            if !self.has_time() {
                                return Turn::Leave(self);
                            }
                        }
                        Ok(Served::Answered) => self.quiet_since = Some(Instant::now()),
                        Ok(Served::Over) | Err(_) => return Turn::Over(self),
                    }
                }
                Some(Word::Other) | None => return Turn::Leave(self),
            }
        }
    }

    /// Looks for a word about the call under way; see [`Mailbox::word_of`](crate::worker::mailbox::Mailbox::word_of).
    fn listen(&mut self, wants_end: bool) -> Option<Word> {
        let doorstep = self.doorstep.as_mut()?;
        let tag = doorstep.expected().map(|later| later.tag());
        let word = self.peer.client.word_of(tag, wants_end, doorstep.bell());
        if let Word::Relayed(at) = word {
            doorstep.is_answered();
            self.quiet_since = Some(at);
        }
        Some(word)
    }
}
