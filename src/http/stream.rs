//! A client's socket on which every read and every write has a deadline.
//!
//! The system keeps the time (`SO_RCVTIMEO`, `SO_SNDTIMEO`), so that waiting costs no thread and no timer. A timeout is
//! only set anew when it changes: a warm connection needs one system call to read and one to write.

use std::{
    io::{self, IoSlice, Read, Write},
    net::{Shutdown, TcpStream},
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    buffer::spare_capacity,
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::RecvFlags,
};

use crate::api::Wire;

/// Least room a read is given.
const READ_BYTES_MIN: usize = 2048;

/// Shortest timeout the system takes: zero would mean for ever.
const TIMEOUT_MIN: Duration = Duration::from_millis(1);

/// Longest goodbye to a client that was refused in mid-request.
const LINGER_TIME_MAX: Duration = Duration::from_secs(1);

/// Most bytes of a refused request that are read and thrown away, so that the answer arrives.
const LINGER_BYTES_MAX: usize = 1024 * 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Stream {
    tcp: Arc<TcpStream>,
    read_timeout: Option<Duration>,
}

impl Stream {
    /// Takes over an accepted socket. A write without progress fails after `write_timeout`.
    pub(super) fn new(tcp: Arc<TcpStream>, write_timeout: Duration) -> io::Result<Stream> {
        tcp.set_nodelay(true)?;
        tcp.set_write_timeout(Some(write_timeout.max(TIMEOUT_MIN)))?;
        Ok(Stream { tcp, read_timeout: None })
    }

    /// Reads once, at most until `timeout` has passed, and appends to `buffer`. 0 is the end of the stream.
    pub(super) fn read_within(&mut self, timeout: Duration, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let timeout = timeout.max(TIMEOUT_MIN);
        if self.read_timeout != Some(timeout) {
            self.tcp.set_read_timeout(Some(timeout))?;
            self.read_timeout = Some(timeout);
        }
        let room = buffer.capacity() - buffer.len();
        if room < READ_BYTES_MIN {
            // Grows with what has arrived, never with what was announced.
            buffer.reserve(buffer.len().max(READ_BYTES_MIN));
        }
        loop {
            match rustix::io::read(&*self.tcp, spare_capacity(buffer)) {
                Ok(n) => return Ok(n),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads once, at most until `deadline`.
    pub(super) fn read_until(&mut self, deadline: Instant, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.read_within(left, buffer)
    }

    /// Writes all of `head` and `body`, in one system call when the socket takes it. Fails when the client takes
    /// nothing for as long as the write timeout.
    pub(super) fn write_all(&mut self, head: &[u8], body: &[u8]) -> io::Result<()> {
        let mut slices = [IoSlice::new(head), IoSlice::new(body)];
        let mut slices = &mut slices[..];
        let mut left = head.len() + body.len();
        while 0 < left {
            match (&*self.tcp).write_vectored(slices) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    left -= n;
                    IoSlice::advance_slices(&mut slices, n);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads what is there, without waiting: [`io::ErrorKind::WouldBlock`] when there is nothing.
    fn read_now(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match rustix::net::recv(&*self.tcp, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((n, _)) => return Ok(n),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Says goodbye to a client that may still be sending: closes our side and reads on for a moment. Closing at once
    /// would reset the connection, and the client could lose the answer.
    pub(super) fn linger(&mut self) {
        if self.tcp.shutdown(Shutdown::Write).is_err() {
            return;
        }
        let deadline = Instant::now() + LINGER_TIME_MAX;
        let mut thrown_away = Vec::new();
        let mut n_bytes = 0;
        while let Ok(n) = self.read_until(deadline, &mut thrown_away)
            && 0 < n
            && n_bytes < LINGER_BYTES_MAX
        {
            n_bytes += n;
            thrown_away.clear();
        }
    }
}

/// A stream that a WebSocket is spoken over.
#[derive(Debug)]
pub(super) struct SocketWire<'a> {
    stream: &'a mut Stream,
    /// What was read together with the handshake.
    leftover: &'a [u8],
}

impl<'a> SocketWire<'a> {
    pub(super) fn new(stream: &'a mut Stream, leftover: &'a [u8]) -> SocketWire<'a> {
        SocketWire { stream, leftover }
    }
}

impl Read for SocketWire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.leftover.is_empty() { self.stream.read_now(buffer) } else { self.leftover.read(buffer) }
    }
}

impl Write for SocketWire<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.write_all(buffer, b"").map(|()| buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Wire for SocketWire<'_> {
    fn wait(&mut self, eventfd: &OwnedFd, until: Instant) -> io::Result<()> {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: i64::from(left.subsec_nanos()) };
        let mut fds = [PollFd::new(&*self.stream.tcp, PollFlags::IN), PollFd::new(eventfd, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if !fds[1].revents().is_empty() {
            // Not blocking, and there is a number to take.
            let _ = rustix::io::read(eventfd, &mut [0; 8]);
        }
        Ok(())
    }
}
