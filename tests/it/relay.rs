//! A relay on the loopback, between a client and the gateway: it passes bytes, and afterwards tells every message.
//!
//! A client that is no test of ours gets the relay's address instead of the gateway's. Nothing is changed on the way, and
//! an end on one side is passed to the other, so that both notice what they would notice without it. What was said comes
//! out as [`Traffic`], which can be held against the protocol's JSON schemas.
//!
//! | Thread          | Takes from         | Gives to               | Ends when                                |
//! | --------------- | ------------------ | ---------------------- | ---------------------------------------- |
//! | acceptor        | the listener       | two pumps a connection | the relay is dropped                     |
//! | pump to gateway | the client's half  | the gateway, a record  | end of its input, or nobody takes output |
//! | pump to client  | the gateway's half | the client, a record   | the same                                 |
//!
//! **Limit.** [`RECORDED_BYTES_MAX`] each way of a connection; a test that says more is told so.
//!
//! **End.** Dropping it shuts all connections and joins all threads.

mod exchange;
mod schemas;
mod traffic;

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic},
    thread,
};

use crate::support::{PATIENCE, holds_within};

pub(crate) use traffic::Traffic;

/// More than this is not kept of either direction of a connection.
const RECORDED_BYTES_MAX: usize = 32 * 1024 * 1024;

/// A running relay.
pub(crate) struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<thread::JoinHandle<()>>,
}

struct Shared {
    gateway: SocketAddr,
    is_over: atomic::AtomicBool,
    links: Mutex<Vec<Arc<Link>>>,
}

/// One connection of a client, and the one to the gateway that goes with it.
struct Link {
    client: TcpStream,
    gateway: TcpStream,
    record: Mutex<Record>,
    pumps: Mutex<Vec<thread::JoinHandle<()>>>,
}

/// What went over a connection.
#[derive(Clone, Default)]
struct Record {
    by_client: Vec<u8>,
    by_gateway: Vec<u8>,
    is_too_long: bool,
    ends: u32,
}

#[derive(Clone, Copy)]
enum Side {
    Client,
    Gateway,
}

impl Relay {
    /// A relay that passes on to what listens at `gateway`.
    pub(crate) fn before(gateway: SocketAddr) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { gateway, is_over: atomic::AtomicBool::new(false), links: Mutex::default() });
        let theirs = Arc::clone(&shared);
        let acceptor = thread::spawn(move || theirs.accept(&listener));
        Relay { address, shared, acceptor: Some(acceptor) }
    }

    /// What stands at `path` behind this relay.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// All that was said, once both sides have closed every connection.
    #[track_caller]
    pub(crate) fn traffic(&self) -> Traffic {
        let are_closed = || self.shared.links().iter().all(|link| link.record().ends == 2);
        assert!(holds_within(PATIENCE, are_closed), "a connection through the relay is still open");
        let records: Vec<Record> = self.shared.links().iter().map(|link| link.record().clone()).collect();
        assert!(!records.iter().any(|it| it.is_too_long), "more than {RECORDED_BYTES_MAX} bytes on a connection");
        let exchanges = records.iter().map(|record| exchange::read(&record.by_client, &record.by_gateway));
        Traffic::of(exchanges.flat_map(|it| it.unwrap_or_else(|what| panic!("on a connection: {what}"))).collect())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.is_over.store(true, atomic::Ordering::SeqCst);
        // Only to wake the acceptor; should it fail, nothing listens there any more.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            // A panic of a thread was already printed by it.
            let _ = acceptor.join();
        }
        for link in self.shared.links().drain(..) {
            link.shut();
            let pumps: Vec<_> = link.pumps.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect();
            for pump in pumps {
                let _ = pump.join();
            }
        }
    }
}

impl Shared {
    fn accept(&self, listener: &TcpListener) {
        for client in listener.incoming() {
            if self.is_over.load(atomic::Ordering::SeqCst) {
                return;
            }
            let Ok(client) = client else { continue };
            // A gateway that takes no connection is seen as one that closes it.
            let Ok(gateway) = TcpStream::connect_timeout(&self.gateway, PATIENCE) else { continue };
            self.links().push(Link::start(client, gateway));
        }
    }

    fn links(&self) -> MutexGuard<'_, Vec<Arc<Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    fn start(client: TcpStream, gateway: TcpStream) -> Arc<Link> {
        for stream in [&client, &gateway] {
            // Without it small messages would be held back, which neither side does by itself.
            stream.set_nodelay(true).unwrap();
        }
        let link = Arc::new(Link { client, gateway, record: Mutex::default(), pumps: Mutex::default() });
        let pumps = [Side::Client, Side::Gateway].map(|side| {
            let link = Arc::clone(&link);
            thread::spawn(move || link.pump(side))
        });
        link.pumps.lock().unwrap_or_else(PoisonError::into_inner).extend(pumps);
        link
    }

    /// Passes on what `side` says until it ends or the other side takes no more.
    fn pump(&self, side: Side) {
        let (mut from, mut to) = match side {
            Side::Client => (&self.client, &self.gateway),
            Side::Gateway => (&self.gateway, &self.client),
        };
        let mut buffer = [0; 16 * 1024];
        let has_ended = loop {
            let Ok(n_read) = from.read(&mut buffer) else { break false };
            if n_read == 0 {
                break true;
            }
            self.record().keep(side, &buffer[..n_read]);
            if to.write_all(&buffer[..n_read]).is_err() {
                break false;
            }
        };
        if has_ended {
            // Fails only when the other side is gone already.
            let _ = to.shutdown(Shutdown::Write);
        } else {
            self.shut();
        }
        self.record().ends += 1;
    }

    fn shut(&self) {
        for stream in [&self.client, &self.gateway] {
            // Fails only when it is shut already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    fn keep(&mut self, side: Side, bytes: &[u8]) {
        let kept = match side {
            Side::Client => &mut self.by_client,
            Side::Gateway => &mut self.by_gateway,
        };
        if kept.len() + bytes.len() <= RECORDED_BYTES_MAX {
            kept.extend_from_slice(bytes);
        } else {
            self.is_too_long = true;
        }
    }
}

#[test]
fn bytes_pass_unchanged_and_are_told_as_messages_afterwards() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let relay = Relay::before(listener.local_addr().unwrap());
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let request = format!("POST /mcp HTTP/1.1\r\nMcp-Session-Id: s\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 36\r\nConnection: close\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}";

    let mut client = TcpStream::connect(relay.address).unwrap();
    client.write_all(request.as_bytes()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    let mut came = vec![0; request.len()];
    server.read_exact(&mut came).unwrap();
    assert_eq!(came, request.as_bytes());
    server.write_all(answer.as_bytes()).unwrap();
    drop(server);
    let mut came = String::new();
    client.read_to_string(&mut came).unwrap();
    assert_eq!(came, answer);
    drop(client);

    let traffic = relay.traffic();
    let told: Vec<String> = traffic.messages.iter().map(|it| it.value.to_string()).collect();
    assert_eq!(told, [body, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#]);
    assert_eq!(traffic.messages[1].answers.as_deref(), Some("ping"));
    traffic.check_schemas("2025-11-25");
}

#[test]
fn a_client_that_goes_away_is_gone_for_the_gateway_too() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let relay = Relay::before(listener.local_addr().unwrap());
    let client = TcpStream::connect(relay.address).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    drop(client);
    assert_eq!(server.read(&mut [0]).unwrap(), 0);
}
