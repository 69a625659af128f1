//! The connections that are open: counted, told to end when the gateway stops, and watched for clients that go away.
//!
//! One thread waits for hang-ups on all sockets at once. A socket is registered when it is accepted and the system
//! reports its end once (edge-triggered `EPOLLRDHUP`), so a call that is waited for costs no system call here, and a quiet
//! connection costs nothing. A client that closes its sending side counts as gone. Connections that wait without a thread
//! (`rest.rs`) are registered for what their clients say, too, and the same thread starts theirs again.
//!
//! **End.** [`Peers::drain`] lets requests end; dropping [`HangUps`] ends the thread.

use std::{
    collections::HashMap,
    fmt, io,
    net::{Shutdown, TcpStream},
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::event::{
    EventfdFlags, Timespec,
    epoll::{self, CreateFlags, EventData, EventFlags},
};

use super::{connection::Connection, lobby::Lobby, rest::Resting};
use crate::{
    api::Api,
    config::Live,
    threads::{self, Joined},
    worker::mailbox::Mailbox,
};

/// Hang-ups taken at once.
const EVENTS_AT_ONCE: usize = 64;

/// How long a connection may take to notice that it is to end, and to say so.
const GOODBYE_TIME: Duration = Duration::from_millis(500);

/// Stands for a word to the thread that watches, among connection numbers.
const BELL: u64 = 0;

/// What a connection is watched for that has a thread.
const BUSY: EventFlags = EventFlags::RDHUP.union(EventFlags::ET);

/// What one is watched for that has none: told once.
const AT_REST: EventFlags = EventFlags::RDHUP.union(EventFlags::IN).union(EventFlags::ONESHOT);

/// One open connection, as others see it.
#[derive(Debug)]
pub struct Peer {
    number: u64,
    tcp: Arc<TcpStream>,
    /// Where the connection's thread waits for its calls.
    pub client: Arc<Mailbox>,
    is_busy: AtomicBool,
}

/// Counts a connection for as long as it lives.
#[derive(Debug)]
pub struct Registration {
    peers: Arc<Peers>,
    peer: Arc<Peer>,
    api: Arc<Api>,
}

impl Registration {
    /// Counts `peer` among the connections of `api` that are served.
    pub fn new(peers: Arc<Peers>, peer: Arc<Peer>, api: Arc<Api>) -> Registration {
        let open = api.counters.connections.fetch_add(1, Ordering::Relaxed) + 1;
        api.counters.connections_peak.fetch_max(open, Ordering::Relaxed);
        Registration { peers, peer, api }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.api.counters.connections.fetch_sub(1, Ordering::Relaxed);
        self.peers.remove(&self.peer);
    }
}

/// See the module.
pub struct Peers {
    config: Live,
    open: Mutex<Open>,
    all_gone: Condvar,
    epoll: OwnedFd,
    /// Wakes the thread that watches.
    bell: OwnedFd,
    resting: Mutex<Resting>,
    pub(super) lobby: Arc<Lobby>,
    is_draining: AtomicBool,
    is_over: AtomicBool,
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers").field("open", &self.open).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Open {
    peers: HashMap<u64, Arc<Peer>>,
    last_number: u64,
}

/// The thread that waits for hang-ups.
#[derive(Debug)]
pub struct HangUps {
    _thread: Joined,
    peers: Arc<Peers>,
}

impl Peers {
    /// No connections yet, and the thread that will watch them.
    pub fn new(config: Live) -> io::Result<(Arc<Peers>, HangUps)> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let bell = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &bell, EventData::new_u64(BELL), EventFlags::IN)?;
        let peers = Arc::new(Peers {
            config,
            open: Mutex::default(),
            all_gone: Condvar::new(),
            epoll,
            bell,
            resting: Mutex::default(),
            lobby: Arc::new(Lobby::new()?),
            is_draining: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        });
        let watched = Arc::clone(&peers);
        let thread = threads::spawn("hang-ups", move || watched.watch())?;
        Ok((Arc::clone(&peers), HangUps { _thread: thread, peers }))
    }

    /// Adds a connection and watches it. Returns it and how many there are now.
    pub fn add(&self, tcp: Arc<TcpStream>) -> io::Result<(Arc<Peer>, usize)> {
        let mut open = self.lock();
        open.last_number += 1;
        let number = open.last_number;
        epoll::add(&self.epoll, tcp.as_fd(), EventData::new_u64(number), BUSY)?;
        let behind = Arc::clone(&tcp);
        // Frees a thread that is stuck in a write as well.
        let cut_off = move || drop(behind.shutdown(Shutdown::Both));
        let client = Arc::new(Mailbox::new(self.config.now().stream_queue_bytes, cut_off));
        let peer = Arc::new(Peer { number, tcp, client, is_busy: AtomicBool::new(false) });
        open.peers.insert(number, Arc::clone(&peer));
        Ok((peer, open.peers.len()))
    }

    /// Forgets a connection, whose socket must be closed right after. Returns how many are left.
    pub fn remove(&self, peer: &Peer) -> usize {
        // The socket's last descriptor closes with it, but a child being started may hold a copy for a moment.
        let _ = epoll::delete(&self.epoll, peer.tcp.as_fd());
        let mut open = self.lock();
        open.peers.remove(&peer.number);
        if open.peers.is_empty() {
            self.all_gone.notify_all();
        }
        open.peers.len()
    }

    /// Whether connections are to end after the request they serve.
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::SeqCst)
    }

    /// Ends idle connections now and busy ones after the request they serve; after `patience`, those too. Returns how
    /// many had to be cut off.
    pub fn drain(&self, patience: Duration) -> usize {
        self.is_draining.store(true, Ordering::SeqCst);
        for peer in self.lock().peers.values() {
            // A WebSocket is busy for as long as it lives.
            peer.client.drain();
            if !peer.is_busy.load(Ordering::SeqCst) {
                // Its thread wakes up as if the client had closed.
                let _ = peer.tcp.shutdown(Shutdown::Read);
            }
        }
        let n_left = self.wait_until_gone(patience);
        self.lock().peers.values().for_each(|peer| peer.client.close());
        // What is left only has to say goodbye.
        self.wait_until_gone(GOODBYE_TIME);
        for peer in self.lock().peers.values() {
            let _ = peer.tcp.shutdown(Shutdown::Both);
        }
        self.wait_until_gone(GOODBYE_TIME);
        n_left
    }

    fn wait_until_gone(&self, patience: Duration) -> usize {
        let deadline = Instant::now() + patience;
        let mut open = self.lock();
        loop {
            let now = Instant::now();
            if open.peers.is_empty() || deadline <= now {
                return open.peers.len();
            }
            (open, _) = self.all_gone.wait_timeout(open, deadline - now).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Has a connection wait without a thread until its client speaks, and closes it when `until` has come. Gives it back when the
    /// system refuses.
    pub(super) fn rest(&self, connection: Box<Connection>, until: Instant) -> Result<(), Box<Connection>> {
        let data = EventData::new_u64(connection.peer.number());
        let is_next = {
            // What has come already is told at once; it is looked at when the connection is there.
            let mut resting = self.resting();
            if epoll::modify(&self.epoll, connection.peer.tcp.as_fd(), data, AT_REST).is_err() {
                return Err(connection);
            }
            resting.add(connection, until)
        };
        if is_next {
            self.ring();
        }
        Ok(())
    }

    fn watch(&self) {
        let mut events = Vec::with_capacity(EVENTS_AT_ONCE);
        while !self.is_over.load(Ordering::SeqCst) {
            events.clear();
            let left = self.resting().next_deadline().map(|until| until.saturating_duration_since(Instant::now()));
            let timeout = left.and_then(|left| Timespec::try_from(left).ok());
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return log::error!("hang-ups are no longer noticed: {error}"),
            }
            for event in &events {
                self.notice(event.data.u64());
            }
            while let Some(connection) = { self.resting().take_late(Instant::now()) } {
                connection.end();
            }
        }
        // Nobody would wake them up any more.
        while let Some(connection) = { self.resting().take_any() } {
            connection.end();
        }
    }

    /// Something has happened at a connection.
    fn notice(&self, number: u64) {
        if number == BELL {
            // Not blocking, and there is a number to take.
            let _ = rustix::io::read(&self.bell, &mut [0; 8]);
            return;
        }
        let resting = self.resting().take(number);
        if let Some(connection) = resting {
            return self.wake(connection);
        }
        // While draining, the end of a socket's reading side is our own doing.
        let peer = self.lock().peers.get(&number).cloned();
        if let Some(peer) = peer.filter(|_| !self.is_draining()) {
            peer.client.close();
        }
    }

    /// Gives a connection a thread again, unless its client has closed it.
    fn wake(&self, mut connection: Box<Connection>) {
        if connection.is_at_end() {
            return connection.end();
        }
        let (data, name) = (EventData::new_u64(connection.peer.number()), connection.thread_name());
        // A hang-up meanwhile is told again.
        let watched = epoll::modify(&self.epoll, connection.peer.tcp.as_fd(), data, BUSY).map_err(io::Error::from);
        if let Err(error) = watched.and_then(|()| threads::spawn_detached(name, move || connection.run())) {
            log::warn!("a connection is closed, because the system has no room to go on with it: {error}");
        }
    }

    fn ring(&self) {
        // A counter takes a number unless it is about to run over, and then it is readable anyway.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    fn resting(&self) -> MutexGuard<'_, Resting> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peer {
    /// Its socket.
    pub(super) fn tcp(&self) -> Arc<TcpStream> {
        Arc::clone(&self.tcp)
    }

    /// A number that no other connection of this process has.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Says whether the connection is between two requests.
    pub fn set_busy(&self, is_busy: bool) {
        self.is_busy.store(is_busy, Ordering::SeqCst);
    }
}

impl Drop for HangUps {
    fn drop(&mut self) {
        self.peers.is_over.store(true, Ordering::SeqCst);
        self.peers.ring();
        self.peers.lobby.close();
    }
}
