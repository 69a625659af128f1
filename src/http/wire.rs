//! A stream as a WebSocket has it: one thread waits for its client and for a word from inside.
//!
//! What the bytes mean is the API's business, how they come that of [`Stream`].
//!
//! **Limit.** A read does not wait; a write has `WRITE_TIMEOUT`. **End.** That of the connection.

use std::{
    io::{self, Read, Write},
    os::fd::OwnedFd,
    time::Instant,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::stream::Stream;
use crate::api::Wire;

/// See the module.
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
        // What was read and made plain already does not show at the socket.
        if self.stream.has_plain() {
            return Ok(());
        }
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: i64::from(left.subsec_nanos()) };
        let mut fds =
            [PollFd::from_borrowed_fd(self.stream.as_socket(), PollFlags::IN), PollFd::new(eventfd, PollFlags::IN)];
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
