//! Connections on which one plain call follows the other, and WebSockets: a few threads serve all of them in turns.
//!
//! Such a connection needs a thread for some microseconds of a call, since the answer is written by others. With a thread for
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
    net::TcpStream,
    num::NonZero,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::event::{
    EventfdFlags, Timespec,
    epoll::{self, CreateFlags, EventData, EventFlags},
    eventfd,
};

use super::{connection::Connection, rest::REST_AFTER};
use crate::{
    threads::{self, lock},
    worker::gathering,
};

mod turn;

use turn::Turn;

/// Threads that take turns.
const THREADS_MAX: usize = 8;

/// Connections that one thread takes at once.
const EVENTS_AT_ONCE: usize = 16;

/// The most time between two looks for those that have been quiet, and how long a thread waits in vain.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// The least time between two such looks.
const LOOK_INTERVAL_MIN: Duration = Duration::from_millis(1);

/// Parts of the table of connections, each with a lock of its own.
const SHARDS: usize = 64;

/// Connections that have been quiet for a while and are seen to at a time.
const DUE_AT_ONCE: usize = 64;

/// How long the end waits for threads.
const CLOSE_TIME: Duration = Duration::from_millis(500);

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
    /// When those are looked for that are due, in microseconds since it began.
    next_look: AtomicU64,
    began_at: Instant,
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
    /// Nobody serves it.
    #[allow(missing_docs)]
    Waiting { connection: Box<Connection>, since: Instant, next_turn_at: Option<Instant> },
    /// Somebody does, and something was said meanwhile if it is `called`.
    Served { is_called: bool },
}

/// Something that is watched for a connection, kept open.
enum Watched {
    Socket(Arc<TcpStream>),
    Bell(Arc<OwnedFd>),
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Watched::Socket(tcp) => tcp.as_fd(),
            Watched::Bell(eventfd) => eventfd.as_fd(),
        }
    }
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
            next_look: AtomicU64::new(0),
            began_at: Instant::now(),
            n_threads_wanted: thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX),
            on_duty: Mutex::default(),
            all_gone: Condvar::new(),
            is_over: AtomicBool::new(false),
        })
    }

    /// Takes a connection in whose call was just begun. Gives it back when it cannot stay.
    pub(super) fn enter(self: &Arc<Self>, mut connection: Box<Connection>) -> Result<(), Box<Connection>> {
        let number = connection.peer.number();
        lock(self.shard(number)).insert(number, Place::Served { is_called: false });
        self.n_connections.fetch_add(1, Ordering::SeqCst);
        if self.is_over.load(Ordering::SeqCst) || !self.has_threads() {
            self.forget(number);
            return Err(connection);
        }
        if self.watch(&connection).is_err() || !connection.is_at_ease() {
            self.leave(&connection);
            return Err(connection);
        }
        let watched = connection.watched();
        if self.put_back(connection) {
            // Told of again, to one of the threads. What was closed meanwhile is watched no more.
            let data = || EventData::new_u64(number);
            let _ = watched.iter().try_for_each(|fd| epoll::modify(&self.epoll, fd, data(), WATCHED));
        }
        Ok(())
    }

    /// Ends the threads, and what is left of connections.
    pub(super) fn close(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        // A counter takes a number unless it is about to run over, and then it is readable anyway.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        let deadline = Instant::now() + CLOSE_TIME;
        let mut on_duty = lock(&self.on_duty);
        // One that could not be replaced may be in the middle of something.
        while 0 < on_duty.n_threads && Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            (on_duty, _) = self.all_gone.wait_timeout(on_duty, left).unwrap_or_else(PoisonError::into_inner);
        }
        drop(on_duty);
        for shard in &self.shards {
            let places = std::mem::take(&mut *lock(shard));
            for place in places.into_values() {
                if let Place::Waiting { connection, .. } = place {
                    connection.end();
                }
            }
        }
    }

    /// Sees to it that there are threads. False: the system has no room for them.
    fn has_threads(self: &Arc<Self>) -> bool {
        // Under the lock, so that nobody relies on threads that do not come.
        let mut on_duty = lock(&self.on_duty);
        while on_duty.n_threads < self.n_threads_wanted && self.begin_thread(&mut on_duty, VecDeque::new()).is_ok() {}
        0 < on_duty.n_threads
    }

    /// Starts a thread that serves a batch first.
    fn begin_thread(self: &Arc<Self>, on_duty: &mut OnDuty, batch: VecDeque<(u64, bool)>) -> io::Result<()> {
        on_duty.last_number += 1;
        let lobby = Arc::clone(self);
        threads::spawn_detached(format!("lobby-{}", on_duty.last_number), move || lobby.run(batch))
            .inspect(|()| on_duty.n_threads += 1)
            .inspect_err(|error| log::warn!("the system has no room for a thread: {error}"))
    }

    fn sign_off(&self, on_duty: &mut OnDuty) {
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
        let mut n_called = 0_usize;
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
            if is_due {
                // It takes longer, and nobody hangs on it.
                gathering::write();
            }
            // What panics costs one connection, which is dropped on the way.
            let served = catch_unwind(AssertUnwindSafe(|| self.serve(number, is_due)));
            if served.is_err() {
                log::error!("connection {number} is closed; the panic stands above");
                self.forget(number);
            }
            if !threads::has_stand_in() {
                return;
            }
            if let Ok(true) = served {
                // After the others, whose calls are not to wait for as long as this one goes on.
                n_called += 1;
                if n_called.is_multiple_of(EVENTS_AT_ONCE) {
                    gathering::write();
                }
                duty.batch.borrow_mut().push_back((number, false));
            }
        }
        gathering::stop();
        threads::set_stand_in(None);
        self.sign_off(&mut lock(&self.on_duty));
    }

    /// Signs a thread off that has waited in vain, if there is nobody to wait for.
    fn is_left_empty(&self) -> bool {
        let mut on_duty = lock(&self.on_duty);
        // Who enters is counted before it looks for threads.
        let is_empty = self.n_connections.load(Ordering::SeqCst) == 0;
        if is_empty {
            self.sign_off(&mut on_duty);
        }
        is_empty
    }

    /// Has another thread take over, because this one is about to wait.
    fn replace(self: &Arc<Self>, duty: &Duty) -> bool {
        // Whatever it is that it waits for may hang on these.
        gathering::write();
        let mut on_duty = lock(&self.on_duty);
        let mut batch = duty.batch.borrow_mut();
        if self.begin_thread(&mut on_duty, batch.clone()).is_err() {
            return false;
        }
        batch.clear();
        gathering::stop();
        self.sign_off(&mut on_duty);
        drop(on_duty);
        let name = format!("conn-{}", duty.current.get());
        // It is for those who look.
        let _ = std::ffi::CString::new(name).map(|name| rustix::thread::set_name(&name));
        true
    }

    /// Waits until something was said, and takes that on. False: nothing was.
    fn fill(&self, batch: &mut VecDeque<(u64, bool)>, events: &mut Vec<epoll::Event>) -> bool {
        let next_look = Duration::from_micros(self.next_look.load(Ordering::Relaxed));
        let left = next_look.saturating_sub(self.began_at.elapsed()).min(LOOK_INTERVAL);
        let timeout = Timespec::try_from(left).ok();
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

    /// Takes on those that are due, when it is time to look for them.
    fn find_due(&self, batch: &mut VecDeque<(u64, bool)>) {
        let now = Instant::now();
        let planned = self.next_look.load(Ordering::Relaxed);
        let after = self.micros(now + LOOK_INTERVAL);
        let is_time = planned <= self.micros(now);
        // Somebody else may be at it.
        if !is_time || self.next_look.compare_exchange(planned, after, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        for shard in &self.shards {
            if DUE_AT_ONCE <= batch.len() {
                // The others at the next opportunity.
                return self.look_by(now);
            }
            for (number, place) in &*lock(shard) {
                if place.is_due(now) {
                    batch.push_back((*number, true));
                } else if let Place::Waiting { next_turn_at: Some(at), .. } = place {
                    self.look_by((*at).max(now + LOOK_INTERVAL_MIN));
                }
            }
        }
    }

    /// Has those that are due looked for at that time at the latest.
    fn look_by(&self, at: Instant) {
        let at = self.micros(at);
        if at < self.next_look.load(Ordering::Relaxed) {
            self.next_look.fetch_min(at, Ordering::Relaxed);
        }
    }

    fn micros(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.began_at).as_micros() as u64
    }

    /// Gives a connection its turn, and goes on with it if it needs a thread of its own. True: it is to have another turn.
    fn serve(&self, number: u64, is_due: bool) -> bool {
        let Some(connection) = self.take(number, is_due) else { return false };
        match connection.take_turn(is_due) {
            Turn::Stay(connection) if threads::has_stand_in() => return self.put_back(connection),
            Turn::Stay(connection) | Turn::Leave(connection) => {
                self.leave(&connection);
                connection.run();
            }
            Turn::Over(connection) => {
                self.leave(&connection);
                connection.end();
            }
        }
        false
    }

    /// Takes a connection out of its place to serve it, unless somebody else does, or has since it was found to be due.
    fn take(&self, number: u64, is_due: bool) -> Option<Box<Connection>> {
        let mut shard = lock(self.shard(number));
        let place = shard.get_mut(&number)?;
        if is_due && !place.is_due(Instant::now()) {
            return None;
        }
        match std::mem::replace(place, Place::Served { is_called: false }) {
            Place::Waiting { connection, .. } => Some(connection),
            Place::Served { .. } => {
                *place = Place::Served { is_called: true };
                None
            }
        }
    }

    /// Puts a connection back that was served. True: something was said meanwhile, which nobody will be told of again.
    fn put_back(&self, connection: Box<Connection>) -> bool {
        let number = connection.peer.number();
        let next_turn_at = connection.next_turn_at();
        let place = Place::Waiting { connection, since: Instant::now(), next_turn_at };
        let before = lock(self.shard(number)).insert(number, place);
        if let Some(at) = next_turn_at {
            self.look_by(at);
        }
        matches!(before, Some(Place::Served { is_called: true }))
    }

    fn watch(&self, connection: &Connection) -> io::Result<()> {
        let data = || EventData::new_u64(connection.peer.number());
        connection.watched().iter().try_for_each(|fd| Ok(epoll::add(&self.epoll, fd, data(), WATCHED)?))
    }

    /// Forgets a connection that is served.
    fn leave(&self, connection: &Connection) {
        for fd in connection.watched() {
            // What is not there need not be removed.
            let _ = epoll::delete(&self.epoll, fd);
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

impl Place {
    /// Whether it is time for somebody to look at the connection, though nothing has happened there.
    fn is_due(&self, now: Instant) -> bool {
        match self {
            Place::Waiting { since, next_turn_at, .. } => {
                *since + REST_AFTER <= now || next_turn_at.is_some_and(|at| at <= now)
            }
            Place::Served { .. } => false,
        }
    }
}
