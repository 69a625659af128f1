//! The connections that are open: counted, told to end when the gateway stops, and watched for clients that go away.
//!
//! One thread waits for hang-ups on all sockets at once. A socket is registered when it is accepted and the system
//! reports its end once (edge-triggered `EPOLLRDHUP`), so a call that is waited for costs no system call here, and a quiet
//! connection costs nothing. A client that closes its sending side counts as gone.
//!
//! **End.** [`Peers::drain`] lets requests end; dropping [`HangUps`] ends the thread.

use std::{
    collections::HashMap,
    io,
    net::{Shutdown, TcpStream},
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::event::{
    EventfdFlags,
    epoll::{self, CreateFlags, EventData, EventFlags},
};

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

/// Stands for the end of the watch, among connection numbers.
const STOP: u64 = 0;

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
#[derive(Debug)]
pub struct Peers {
    config: Live,
    open: Mutex<Open>,
    all_gone: Condvar,
    epoll: OwnedFd,
    is_draining: AtomicBool,
}

#[derive(Debug, Default)]
struct Open {
    peers: HashMap<u64, Arc<Peer>>,
    last_number: u64,
}

/// The thread that waits for hang-ups.
#[derive(Debug)]
pub struct HangUps {
    // Joined before `stop` is closed: the system forgets what a closed descriptor had to say.
    _thread: Joined,
    stop: OwnedFd,
}

impl Peers {
    /// No connections yet, and the thread that will watch them.
    pub fn new(config: Live) -> io::Result<(Arc<Peers>, HangUps)> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let stop = rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?;
        epoll::add(&epoll, &stop, EventData::new_u64(STOP), EventFlags::IN)?;
        let open = Mutex::default();
        let is_draining = AtomicBool::new(false);
        let peers = Arc::new(Peers { config, open, all_gone: Condvar::new(), epoll, is_draining });
        let watched = Arc::clone(&peers);
        let thread = threads::spawn("hang-ups", move || watched.watch())?;
        Ok((peers, HangUps { _thread: thread, stop }))
    }

    /// Adds a connection and watches it. Returns it and how many there are now.
    pub fn add(&self, tcp: Arc<TcpStream>) -> io::Result<(Arc<Peer>, usize)> {
        let mut open = self.lock();
        open.last_number += 1;
        let number = open.last_number;
        let flags = EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, tcp.as_fd(), EventData::new_u64(number), flags)?;
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

    fn watch(&self) {
        let mut events = Vec::with_capacity(EVENTS_AT_ONCE);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return log::error!("hang-ups are no longer noticed: {error}"),
            }
            for event in &events {
                let number = event.data.u64();
                if number == STOP {
                    return;
                }
                // While draining, the end of a socket's reading side is our own doing.
                let peer = self.lock().peers.get(&number).cloned();
                if let Some(peer) = peer.filter(|_| !self.is_draining()) {
                    peer.client.close();
                }
            }
        }
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
        // A counter that is not read takes a number at any time.
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
    }
}
