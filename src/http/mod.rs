//! HTTP on plain threads: our own accept loop and connection loop, tiny_http's messages.
//!
//! `tiny_http::Server` itself cannot face a network (`ARCHITECTURE.md` tells why, `tests/tiny_http_server.rs` shows it).
//! One thread accepts, one thread serves each connection (`connection.rs`), one watches all of them for clients that go away. Connections that
//! make one plain call after the other share a few threads (`lobby.rs`), and so do WebSockets (`upgraded.rs`); those that are quiet have none
//! (`rest.rs`). What a request means is the
//! API's business.
//!
//! **Limit.** `CONNECTIONS_MAX` connections, and [`RESERVE`] more that still learn about the gateway's health; beyond
//! that, and for an address with more than `CONNECTIONS_PER_ADDRESS_MAX`, 503 at once. A failed `accept` never ends the loop.
//! **End.** [`Server::drain`].

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    api::{Answer, Api, Counters},
    config::{Config, Live},
    error::Error,
    logs::access::AccessLog,
    threads::{self, Joined},
};

#[cfg(any(test, benching))]
pub(crate) mod benching;
mod body;
pub mod chunked;
mod connection;
mod doorstep;
mod ended;
pub mod head;
mod lobby;
pub mod peers;
mod request_id;
mod response;
mod rest;
mod stream;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(not(feature = "tls"))]
#[path = "../left_out/tls.rs"]
pub mod tls;
mod upgraded;

use connection::Connection;
use peers::{HangUps, Peers, Registration};
use stream::Stream;
use tls::Certificates;

/// Connections beyond `CONNECTIONS_MAX` whose head is still read.
pub const RESERVE: usize = 16;

/// Connections that the system keeps for us until they are accepted.
const BACKLOG: i32 = 1024;

/// When a client that was refused may try again: connections come and go quickly.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A fatal TLS alert, `internal_error`: what can be said before a handshake.
const TLS_REFUSAL: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];

/// What helps when connections are too many.
const MORE_CONNECTIONS: &str = "try again later, or raise `CONNECTIONS_MAX`";

/// What helps when the process may open nothing more.
const MORE_DESCRIPTORS: &str = "try again later, or raise the limit of open files (`ulimit -n`)";

/// Pause after an `accept` that failed for a reason that will not go away at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// A port that is served.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    listener: Arc<TcpListener>,
    is_stopping: Arc<AtomicBool>,
    accept: Option<Joined>,
    peers: Arc<Peers>,
    hang_ups: Option<HangUps>,
}

/// A port that is taken and not served yet.
#[derive(Debug)]
pub struct Bound(TcpListener);

impl Bound {
    /// Takes the address of `LISTEN`, so that a taken port is known before anything is started.
    pub fn new(config: &Config) -> Result<Bound, Error> {
        let address = config.listen.to_string();
        let fail = |cause: io::Error| Error::Listen { address: address.clone(), cause: cause.to_string() };
        let addresses = (&*config.listen.host, config.listen.port).to_socket_addrs().map_err(fail)?;
        // `localhost` may be both; most clients that are told a number are told 127.0.0.1.
        let (first, later): (Vec<_>, Vec<_>) = addresses.partition(SocketAddr::is_ipv4);
        let mut failure = io::Error::other("the name has no address");
        for address in first.into_iter().chain(later) {
            match listen(address) {
                Ok(listener) => return Ok(Bound(listener)),
                Err(error) => failure = error,
            }
        }
        Err(fail(failure))
    }

    /// The address in use, with the port the system chose when `LISTEN` left it open.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

impl Server {
    /// Begins to serve, with TLS when there are certificates.
    pub fn start(
        bound: Bound,
        api: Arc<Api>,
        config: Live,
        certificates: Option<Arc<Certificates>>,
        access_log: Option<Arc<AccessLog>>,
    ) -> Result<Server, Error> {
        let fail = |cause: io::Error| Error::Failed { what: format!("cannot serve: {cause}"), hint: String::new() };
        let address = bound.address().map_err(fail)?;
        let listener = Arc::new(bound.0);
        let (peers, hang_ups) = Peers::new(config.clone()).map_err(fail)?;
        let is_stopping = Arc::new(AtomicBool::new(false));
        let accept = Accept {
            listener: Arc::clone(&listener),
            is_stopping: Arc::clone(&is_stopping),
            peers: Arc::clone(&peers),
            api,
            config,
            certificates,
            access_log,
            spare: spare(),
        };
        let accept = threads::spawn("accept", move || accept.run()).map_err(fail)?;
        Ok(Server { address, listener, is_stopping, accept: Some(accept), peers, hang_ups: Some(hang_ups) })
    }

    /// The address in use.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections, lets running requests end for at most `patience`, and closes every connection.
    /// Returns how many had to be cut off.
    pub fn drain(&mut self, patience: Duration) -> usize {
        self.is_stopping.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts; it fails only when the socket is closed already.
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
        self.accept = None;
        let n_cut_off = self.peers.drain(patience);
        self.hang_ups = None;
        n_cut_off
    }
}

/// The thread that accepts.
struct Accept {
    listener: Arc<TcpListener>,
    is_stopping: Arc<AtomicBool>,
    peers: Arc<Peers>,
    api: Arc<Api>,
    config: Live,
    /// What TLS is spoken with, when it is.
    certificates: Option<Arc<Certificates>>,
    access_log: Option<Arc<AccessLog>>,
    /// A descriptor to give up when the process has no other, so that a waiting client can be told.
    spare: Option<File>,
}

impl Accept {
    fn run(mut self) {
        while !self.is_stopping.load(Ordering::SeqCst) {
            match self.listener.accept() {
                Ok((tcp, client)) => self.admit(tcp, client.ip()),
                Err(error) => self.recover(&error),
            }
        }
    }

    fn admit(&self, tcp: TcpStream, client: IpAddr) {
        let counters = &self.api.counters;
        Counters::add(&counters.connections_total);
        let tcp = Arc::new(tcp);
        let visitor = match self.api.visit(client) {
            Ok(visitor) => visitor,
            Err(error) => return self.refuse_with(&tcp, &error),
        };
        let (peer, n_open) = match self.peers.add(Arc::clone(&tcp)) {
            Ok(added) => added,
            Err(error) => return self.refuse(&tcp, &error.to_string(), MORE_DESCRIPTORS),
        };
        let (connections_max, write_timeout) = {
            let config = self.config.now();
            (config.connections_max, config.write_timeout)
        };
        let is_reserve = connections_max < n_open;
        let is_beyond = connections_max + RESERVE < n_open;
        let stream = Stream::new(Arc::clone(&tcp), write_timeout, Arc::clone(&counters.traffic));
        let (Ok(stream), false) = (stream, is_beyond) else {
            self.peers.remove(&peer);
            let what = format!("the gateway serves {} connections already", n_open - 1);
            return self.refuse(&tcp, &what, MORE_CONNECTIONS);
        };
        let registration = Registration::new(Arc::clone(&self.peers), Arc::clone(&peer), Arc::clone(&self.api));
        let connection = Box::new(Connection {
            api: Arc::clone(&self.api),
            config: self.config.clone(),
            access_log: self.access_log.clone(),
            client,
            peers: Arc::clone(&self.peers),
            peer,
            certificates: self.certificates.clone(),
            stream,
            doorstep: None,
            upgraded: None,
            quiet_since: None,
            is_reserve,
            accepted_at: Instant::now(),
            buffer: Vec::new(),
            n_requests: 0,
            visitor,
            principal: None,
            _registration: registration,
        });
        let name = connection.thread_name();
        // When there is no room for a thread, dropping the connection forgets it.
        if let Err(error) = threads::spawn_detached(name, move || connection.run()) {
            self.refuse(&tcp, &format!("the system has no room for another connection: {error}"), MORE_CONNECTIONS);
        }
    }

    fn refuse(&self, tcp: &TcpStream, what: &str, hint: &'static str) {
        self.refuse_with(tcp, &Error::Overloaded { what: what.to_owned(), hint, retry_after: RETRY_AFTER });
    }

    /// Answers 503 without waiting for the request, nor for the client to take the answer. With TLS there is no time to
    /// agree on how to say that, so the client sees [`TLS_REFUSAL`].
    fn refuse_with(&self, mut tcp: &TcpStream, error: &Error) {
        Counters::add(&self.api.counters.connections_refused_total);
        log::debug!("connection refused: {error}");
        let bytes = if self.certificates.is_some() {
            TLS_REFUSAL.to_vec()
        } else {
            let answer = Answer::error(error, "-");
            let Ok(head) = response::head(&answer, "-", &tiny_http::HTTPVersion(1, 1), false) else { return };
            [head, answer.body].concat()
        };
        // A client that is gone, or takes nothing, needs no answer.
        let _ = tcp.set_nonblocking(true);
        let _ = tcp.write_all(&bytes);
        let _ = tcp.shutdown(Shutdown::Write);
        // What it has sent already is read, since closing over unread bytes could take the answer away from it.
        let _ = tcp.read(&mut [0; 4096]);
    }

    /// Gets over an `accept` that failed.
    fn recover(&mut self, error: &io::Error) {
        let errno = Errno::from_io_error(error);
        let is_out_of_descriptors = |errno| matches!(errno, Some(Errno::MFILE | Errno::NFILE));
        if self.is_stopping.load(Ordering::SeqCst) || matches!(errno, Some(Errno::INTR | Errno::CONNABORTED)) {
            return;
        }
        if !is_out_of_descriptors(errno) {
            log::warn!("cannot accept a connection: {error}");
            return thread::sleep(ACCEPT_PAUSE);
        }
        // Linux says so before anybody has connected, so somebody is waited for first, and by then there may be room.
        let _ = poll(&mut [PollFd::new(&*self.listener, PollFlags::IN)], None);
        match self.listener.accept() {
            Ok((tcp, client)) => self.admit(tcp, client.ip()),
            Err(error) if is_out_of_descriptors(Errno::from_io_error(&error)) && self.spare.take().is_some() => {
                // Without this the client would wait for as long as the shortage lasts, and we would turn in circles.
                if let Ok((tcp, _)) = self.listener.accept() {
                    self.refuse(&tcp, "the gateway has no file descriptor left", MORE_DESCRIPTORS);
                }
            }
            Err(_) => thread::sleep(ACCEPT_PAUSE),
        }
        self.spare = self.spare.take().or_else(spare);
    }
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

/// A number that tells this process's request ids from those of its predecessors.
fn process_tag() -> u32 {
    static TAG: LazyLock<u32> = LazyLock::new(|| {
        let mut bytes = [0; 4];
        match getrandom::fill(&mut bytes) {
            Ok(()) => u32::from_ne_bytes(bytes),
            Err(_) => std::process::id(),
        }
    });
    *TAG
}
