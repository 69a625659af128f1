//! A client's socket on which every read and every write has a deadline, plain or with TLS.
//!
//! The only file that reads or writes a connection's socket. With TLS a [`Session`] stands between the socket and
//! everybody else; a plain connection does not notice that there is such a thing.
//!
//! The system keeps the time (`SO_RCVTIMEO`, `SO_SNDTIMEO`), so that waiting costs no thread and no timer. A timeout is
//! only set anew when it changes: a warm connection needs one system call to read and one to write.

use std::{
    io::{self, IoSlice, Read, Write},
    net::{Shutdown, TcpStream},
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use rustix::{
    buffer::spare_capacity,
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{RecvFlags, SendAncillaryBuffer, SendFlags, sendmsg},
};

use super::tls::{ServerConfig, Session};
use crate::{
    api::{RawOutlet, Traffic},
    threads::about_to_wait,
    worker::mailbox::Leftover,
};

/// Least room a read is given.
const READ_BYTES_MIN: usize = 2048;

/// Most pieces that the system writes in one call (`UIO_MAXIOV` of Linux).
const SLICES_AT_ONCE: usize = 1024;

/// Shortest timeout the system takes: zero would mean for ever.
const TIMEOUT_MIN: Duration = Duration::from_millis(1);

/// Longest goodbye to a client that was refused in mid-request.
const LINGER_TIME_MAX: Duration = Duration::from_secs(1);

/// Most bytes of a refused request that are read and thrown away, so that the answer arrives.
const LINGER_BYTES_MAX: usize = 1024 * 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Stream {
    socket: Socket,
    /// There from the beginning of the handshake on.
    session: Option<Box<Session>>,
    meter: Meter,
}

/// A socket, and the timeout its reads have.
#[derive(Debug)]
struct Socket {
    tcp: Arc<TcpStream>,
    read_timeout: Option<Duration>,
}

/// Counts what goes through a connection, for itself and for all: what is said, without what TLS makes of it.
#[derive(Debug)]
struct Meter {
    written_bytes: u64,
    traffic: Arc<Traffic>,
}

impl Meter {
    fn read(&self, n: usize) {
        self.traffic.read_bytes.fetch_add(n as u64, Ordering::Relaxed);
    }

    fn wrote(&mut self, n: usize) {
        self.written_bytes += n as u64;
        self.traffic.written_bytes.fetch_add(n as u64, Ordering::Relaxed);
    }
}

/// What a client began with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Greeting {
    /// A handshake, which succeeded.
    Tls,
    /// Something that looks like a request in plain HTTP. It was not read.
    PlainHttp,
}

impl Stream {
    /// Takes over an accepted socket. A write without progress fails after `write_timeout`.
    pub(super) fn new(tcp: Arc<TcpStream>, write_timeout: Duration, traffic: Arc<Traffic>) -> io::Result<Stream> {
        tcp.set_nodelay(true)?;
        tcp.set_write_timeout(Some(write_timeout.max(TIMEOUT_MIN)))?;
        let meter = Meter { written_bytes: 0, traffic };
        Ok(Stream { socket: Socket { tcp, read_timeout: None }, session: None, meter })
    }

    /// Begins to speak TLS, at most until `deadline`.
    ///
    /// Fails with [`io::ErrorKind::TimedOut`], with [`io::ErrorKind::InvalidData`] when the two cannot agree, and with
    /// [`io::ErrorKind::UnexpectedEof`] when the client closes.
    pub(super) fn shake_hands(&mut self, config: Arc<ServerConfig>, deadline: Instant) -> io::Result<Greeting> {
        self.socket.set_read_timeout(left_until(deadline)?)?;
        let mut first = [0];
        let n = receive(&self.socket.tcp, &mut first, RecvFlags::PEEK).map_err(timed_out)?;
        let is_request = n == 1 && first[0].is_ascii_alphabetic();
        if is_request {
            return Ok(Greeting::PlainHttp);
        }
        self.session = Some(Box::new(Session::new(config)?));
        while let Some(session) = &mut self.session
            && session.is_handshaking()
        {
            session.read_once(&mut Raw(&self.socket.tcp), &mut &*self.socket.tcp).map_err(timed_out)?;
            let is_over = session.is_handshaking() && session.has_plain();
            if is_over {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.socket.set_read_timeout(left_until(deadline)?)?;
        }
        Ok(Greeting::Tls)
    }

    /// Bytes that were written so far.
    pub(super) fn written_bytes(&self) -> u64 {
        self.meter.written_bytes
    }

    /// Reads once, at most until `timeout` has passed, and appends to `buffer`. 0 is the end of the stream.
    pub(super) fn read_within(&mut self, timeout: Duration, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let n = match self.session {
            Some(_) => self.read_tls_within(timeout, buffer)?,
            None => self.read_raw_within(timeout, buffer)?,
        };
        self.meter.read(n);
        Ok(n)
    }

    fn read_tls_within(&mut self, timeout: Duration, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let mut deadline = None;
        while let Some(session) = &mut self.session {
            if let Some(n) = session.take(usize::MAX, |plain| buffer.extend_from_slice(plain))? {
                return Ok(n);
            }
            // A record may come in several pieces, which together have the time of one read. Only what is left for the
            // later ones differs from the timeout that was set for the read before.
            let left = deadline.map_or(Ok(timeout), left_until)?;
            deadline.get_or_insert_with(|| Instant::now() + timeout);
            self.socket.set_read_timeout(left)?;
            about_to_wait();
            session.read_once(&mut Raw(&self.socket.tcp), &mut &*self.socket.tcp).map_err(timed_out)?;
        }
        Ok(0)
    }

    fn read_raw_within(&mut self, timeout: Duration, buffer: &mut Vec<u8>) -> io::Result<usize> {
        self.socket.set_read_timeout(timeout)?;
        let room = buffer.capacity() - buffer.len();
        if room < READ_BYTES_MIN {
            // Grows with what has arrived, never with what was announced.
            buffer.reserve(buffer.len().max(READ_BYTES_MIN));
        }
        about_to_wait();
        loop {
            match rustix::io::read(&*self.socket.tcp, spare_capacity(buffer)) {
                Ok(n) => return Ok(n),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads once, at most until `deadline`.
    pub(super) fn read_until(&mut self, deadline: Instant, buffer: &mut Vec<u8>) -> io::Result<usize> {
        self.read_within(left_until(deadline)?, buffer)
    }

    /// Writes all of `head` and `body`, in one system call when the socket takes it. Fails when the client takes
    /// nothing for as long as the write timeout.
    pub(super) fn write_all(&mut self, head: &[u8], body: &[u8]) -> io::Result<()> {
        self.write_slices(&mut [IoSlice::new(head), IoSlice::new(body)])
    }

    /// As [`Stream::write_all`], for a body in pieces.
    pub(super) fn write_pieces<'p>(&mut self, head: &'p [u8], body: impl Iterator<Item = &'p [u8]>) -> io::Result<()> {
        self.write_slices(&mut std::iter::once(head).chain(body).map(IoSlice::new).collect::<Vec<_>>())
    }

    fn write_slices(&mut self, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut left = slices.iter().map(|slice| slice.len()).sum::<usize>();
        if let Some(session) = &mut self.session {
            session.write_slices(slices, &mut &*self.socket.tcp)?;
            self.meter.wrote(left);
            return Ok(());
        }
        // First what the socket takes at once.
        let mut flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        while 0 < left {
            let some = &slices[..slices.len().min(SLICES_AT_ONCE)];
            match sendmsg(&*self.socket.tcp, some, &mut SendAncillaryBuffer::default(), flags) {
                Err(Errno::AGAIN) if flags.contains(SendFlags::DONTWAIT) => {
                    about_to_wait();
                    flags.remove(SendFlags::DONTWAIT);
                }
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    self.meter.wrote(n);
                    left -= n;
                    IoSlice::advance_slices(&mut slices, n);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Reads what is there, without waiting: [`io::ErrorKind::WouldBlock`] when there is nothing.
    pub(super) fn read_now(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.take_now(buffer)?;
        self.meter.read(n);
        Ok(n)
    }

    /// As [`Stream::read_now`], appended to `buffer`.
    pub(super) fn read_now_into(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        buffer.reserve(READ_BYTES_MIN);
        let n = loop {
            match rustix::net::recv(&*self.socket.tcp, spare_capacity(buffer), RecvFlags::DONTWAIT) {
                Ok((_, n)) => break n,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        };
        self.meter.read(n);
        Ok(n)
    }

    fn take_now(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(session) = &mut self.session else { return receive(&self.socket.tcp, buffer, RecvFlags::DONTWAIT) };
        loop {
            let mut n_taken = 0;
            let taken = session.take(buffer.len(), |plain| {
                buffer[n_taken..n_taken + plain.len()].copy_from_slice(plain);
                n_taken += plain.len();
            });
            if let Some(n) = taken? {
                return Ok(n);
            }
            session.read_once(&mut RawNow(&self.socket.tcp), &mut &*self.socket.tcp)?;
        }
    }

    /// Whether nothing stands between the socket and what is said on it.
    pub(super) fn is_plain(&self) -> bool {
        self.session.is_none()
    }

    /// Where others may write what is to be said here, if nothing has to be made of it first.
    pub(super) fn outlet(&self) -> Option<Arc<dyn RawOutlet>> {
        let outlet = Outlet { tcp: Arc::clone(&self.socket.tcp), traffic: Arc::clone(&self.meter.traffic) };
        self.is_plain().then(|| Arc::new(outlet) as Arc<dyn RawOutlet>)
    }

    /// Waits until there is something to read, or `eventfd` was written to, or `until` has come. Resets `eventfd`. True: there is
    /// something to read, or the end of the stream.
    pub(super) fn wait(&mut self, eventfd: &OwnedFd, until: Instant) -> io::Result<bool> {
        // What was read and made plain already does not show at the socket.
        if self.has_plain() {
            return Ok(true);
        }
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: i64::from(left.subsec_nanos()) };
        let mut fds =
            [PollFd::from_borrowed_fd(self.socket.tcp.as_fd(), PollFlags::IN), PollFd::new(eventfd, PollFlags::IN)];
        about_to_wait();
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if !fds[1].revents().is_empty() {
            // Not blocking, and there is a number to take.
            let _ = rustix::io::read(eventfd, &mut [0; 8]);
        }
        Ok(!fds[0].revents().is_empty())
    }

    /// Whether something was read and made plain already, which does not show at the socket.
    pub(super) fn has_plain(&mut self) -> bool {
        self.session.as_mut().is_some_and(|session| session.has_plain())
    }

    /// Whether the client has closed and nothing of it is left to be read.
    pub(super) fn is_at_end(&mut self) -> bool {
        matches!(receive(&self.socket.tcp, &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT), Ok(0))
    }

    /// Ends what TLS has to say, without waiting for the client to take it.
    pub(super) fn say_goodbye(&mut self) {
        if let Some(session) = &mut self.session {
            session.say_goodbye(&mut RawNow(&self.socket.tcp));
        }
    }

    /// Says goodbye to a client that may still be sending: closes our side and reads on for a moment. Closing at once
    /// would reset the connection, and the client could lose the answer.
    pub(super) fn linger(&mut self) {
        self.say_goodbye();
        if self.socket.tcp.shutdown(Shutdown::Write).is_err() {
            return;
        }
        let deadline = Instant::now() + LINGER_TIME_MAX;
        let mut thrown_away = Vec::new();
        let mut n_bytes = 0;
        while let Ok(left) = left_until(deadline)
            && let Ok(n) = self.read_raw_within(left, &mut thrown_away)
            && 0 < n
            && n_bytes < LINGER_BYTES_MAX
        {
            n_bytes += n;
            thrown_away.clear();
        }
    }
}

/// Writes what the socket takes at once, and says how much that was. `None`: it takes nothing any more.
pub(super) fn send_now(tcp: &TcpStream, slices: &[IoSlice<'_>]) -> Option<usize> {
    loop {
        match sendmsg(tcp, slices, &mut SendAncillaryBuffer::default(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(n) => return Some(n),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Some(0),
            Err(_) => return None,
        }
    }
}

/// A plain socket, as others write to it.
#[derive(Debug)]
struct Outlet {
    tcp: Arc<TcpStream>,
    traffic: Arc<Traffic>,
}

impl RawOutlet for Outlet {
    fn write(&self, mut bytes: Vec<u8>) -> Leftover {
        let Some(written) = send_now(&self.tcp, &[IoSlice::new(&bytes)]) else { return Leftover::Gone };
        self.traffic.written_bytes.fetch_add(written as u64, Ordering::Relaxed);
        if written == bytes.len() {
            return Leftover::Nothing;
        }
        bytes.drain(..written);
        Leftover::Bytes(bytes)
    }
}

impl Socket {
    fn set_read_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        let timeout = timeout.max(TIMEOUT_MIN);
        if self.read_timeout != Some(timeout) {
            self.tcp.set_read_timeout(Some(timeout))?;
            self.read_timeout = Some(timeout);
        }
        Ok(())
    }
}

/// Time until `deadline`. Fails with [`io::ErrorKind::TimedOut`] when there is none.
fn left_until(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// The system says of a read whose time is up that it would have to wait.
fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

fn receive(tcp: &TcpStream, buffer: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
    loop {
        match rustix::net::recv(tcp, &mut *buffer, flags) {
            Ok((n, _)) => return Ok(n),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The socket as TLS reads it, waiting for as long as the socket's timeout.
struct Raw<'a>(&'a TcpStream);

impl Read for Raw<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        receive(self.0, buffer, RecvFlags::empty())
    }
}

/// The same without waiting.
struct RawNow<'a>(&'a TcpStream);

impl Read for RawNow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        receive(self.0, buffer, RecvFlags::DONTWAIT)
    }
}

impl Write for RawNow<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(self.0, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
