//! What a service manager is told: that the gateway is ready, stops, and is alive (`sd_notify(3)`, `WatchdogSec=`).
//!
//! The protocol is one datagram to the socket that `NOTIFY_SOCKET` names. Without that variable nobody is told, and
//! nothing wakes up.
//!
//! **Alive** means that the gateway answers at its own port: every half of `WATCHDOG_USEC` it is asked for
//! `/health/live` as a client would ask, so that a gateway which accepts or answers nothing any more is started anew.

use std::{
    ffi::OsString,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    os::{
        linux::net::SocketAddrExt as _,
        unix::{ffi::OsStrExt as _, net},
    },
    process,
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError};

/// The variables that are for this process alone, so that no child takes itself for it.
pub const OWN_VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// Who is told. See the module.
#[derive(Debug, Default)]
pub struct ServiceManager {
    socket: Option<net::UnixDatagram>,
    /// Time between two signs of life.
    interval: Option<Duration>,
}

impl ServiceManager {
    /// The one that the environment names, if it names one.
    pub fn from_env(env: impl Fn(&str) -> Option<OsString>) -> ServiceManager {
        let Some(name) = env("NOTIFY_SOCKET") else { return ServiceManager::default() };
        let socket = connect(name.as_bytes())
            .inspect_err(|cause| log::warn!("`NOTIFY_SOCKET`: cannot tell `{}` anything: {cause}", name.display()))
            .ok();
        let number = |key| env(key)?.to_str()?.parse::<u64>().ok();
        let is_for_us = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(process::id()));
        let micros = number("WATCHDOG_USEC").filter(|micros| is_for_us && 0 < *micros);
        ServiceManager { socket, interval: micros.map(|micros| Duration::from_micros(micros) / 2) }
    }

    /// The gateway serves at `address`.
    pub fn ready(&self, address: SocketAddr) {
        self.tell(&format!("READY=1\nSTATUS=listening on {address}"));
    }

    /// It has begun to stop.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Waits for `signals` to say something, or to be closed; gives signs of life meanwhile if they are wanted.
    pub fn watch_until(&self, signals: &Receiver<()>, address: SocketAddr) {
        let Some(interval) = self.interval.filter(|_| self.socket.is_some()) else {
            let _ = signals.recv();
            return;
        };
        // Whatever is said, and also when nobody can say anything any more, it is over.
        while signals.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
            match ask_for_life(address, interval / 2) {
                Ok(()) => self.tell("WATCHDOG=1"),
                Err(cause) => log::warn!("the gateway does not answer itself at {address}: {cause}"),
            }
        }
    }

    fn tell(&self, message: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(cause) = socket.send(message.as_bytes()) {
            log::warn!("the service manager could not be told `{}`: {cause}", message.escape_debug());
        }
    }
}

/// A name that begins with `@` is in the abstract namespace (`sd_notify(3)`).
fn connect(name: &[u8]) -> io::Result<net::UnixDatagram> {
    let socket = net::UnixDatagram::unbound()?;
    match name.strip_prefix(b"@") {
        Some(rest) => socket.connect_addr(&net::SocketAddr::from_abstract_name(rest)?)?,
        None => socket.connect(std::path::Path::new(std::ffi::OsStr::from_bytes(name)))?,
    }
    Ok(socket)
}

/// Asks the gateway at `address` whether it is alive. Any answer is one: on a port with TLS it is that plain HTTP is not
/// spoken there.
fn ask_for_life(address: SocketAddr, patience: Duration) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&reachable(address), patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.write_all(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut start = [0; 5];
    stream.read_exact(&mut start)?;
    if &start == b"HTTP/" { Ok(()) } else { Err(io::Error::other("what answers is no gateway")) }
}

/// The address under which a socket that is bound to `address` is reached from this machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::threads;

    fn env<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<OsString> + 'a {
        |key| pairs.iter().find(|(it, _)| *it == key).map(|(_, value)| value.into())
    }

    #[test]
    fn without_a_socket_nobody_is_told_and_nothing_ticks() {
        let manager = ServiceManager::from_env(env(&[("WATCHDOG_USEC", "1000")]));
        manager.ready("127.0.0.1:1".parse().unwrap());
        let (tell, told) = crossbeam_channel::bounded(1);
        tell.send(()).unwrap();
        manager.watch_until(&told, "127.0.0.1:1".parse().unwrap());
    }

    #[test]
    fn the_watchdog_of_another_process_is_not_ours() {
        let other = (process::id() + 1).to_string();
        let name = format!("@mcpgate-test-{}", process::id());
        let listener = net::SocketAddr::from_abstract_name(&name[1..]).unwrap();
        let listener = net::UnixDatagram::bind_addr(&listener).unwrap();
        let pairs = [("NOTIFY_SOCKET", &*name), ("WATCHDOG_USEC", "2000000"), ("WATCHDOG_PID", &*other)];
        assert_eq!(ServiceManager::from_env(env(&pairs)).interval, None);
        let manager = ServiceManager::from_env(env(&pairs[..2]));
        assert_eq!(manager.interval, Some(Duration::from_secs(1)));
        manager.stopping();
        let mut bytes = [0; 32];
        let n = listener.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..n], b"STOPPING=1");
    }

    /// Whether a port counts as alive that answers a request with these bytes.
    fn is_alive(answer: &'static [u8]) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let answering = threads::spawn("answering", move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 256]);
            // Nothing is no answer; the connection stays open meanwhile.
            stream.write_all(answer).unwrap();
            let _ = stream.read(&mut [0; 256]);
        });
        let result = ask_for_life(address, Duration::from_millis(if answer.is_empty() { 50 } else { 5000 }));
        drop(answering);
        result.is_ok()
    }

    #[test]
    fn only_a_gateway_that_answers_is_alive() {
        assert!(is_alive(b"HTTP/1.1 200 OK\r\n"));
        assert!(is_alive(b"HTTP/1.1 400 Bad Request\r\n"), "plain HTTP at a port with TLS");
        assert!(!is_alive(b"SSH-2.0"));
        assert!(!is_alive(b""));
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(ask_for_life(address, Duration::from_secs(5)).is_err(), "nobody listens there any more");
    }

    #[test]
    fn a_port_for_every_address_is_asked_on_this_machine() {
        assert_eq!(reachable("0.0.0.0:80".parse().unwrap()), "127.0.0.1:80".parse().unwrap());
        assert_eq!(reachable("[::]:80".parse().unwrap()), "[::1]:80".parse().unwrap());
        assert_eq!(reachable("192.0.2.1:80".parse().unwrap()), "192.0.2.1:80".parse().unwrap());
    }
}
