//! A stream as a WebSocket has it: one thread waits for its client and for a word from inside.
//!
//! What the bytes mean is the API's business, how they come that of [`Stream`].
//!
//! **Limit.** A read does not wait; a write has `WRITE_TIMEOUT`. **End.** That of the connection.

use std::{
    io::{self, Read, Write},
    os::fd::OwnedFd,
    sync::Arc,
    time::Instant,
};

use super::stream::Stream;
use crate::api::{RawOutlet, Wire};

/// See the module.
#[derive(Debug)]
pub(super) struct SocketWire<'a> {
    stream: &'a mut Stream,
    /// What was read together with the handshake.
    leftover: &'a [u8],
    /// There may be something to read: a plain socket that gave less than it might have has no more, until it says so.
    can_read: bool,
}

impl<'a> SocketWire<'a> {
    pub(super) fn new(stream: &'a mut Stream, leftover: &'a [u8]) -> SocketWire<'a> {
        SocketWire { stream, leftover, can_read: true }
    }
}

impl Read for SocketWire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.leftover.is_empty() {
            return self.leftover.read(buffer);
        }
        if !self.can_read {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let n = self.stream.read_now(buffer)?;
        // 0 is the end, and stays to be seen.
        self.can_read = n == 0 || n == buffer.len() || !self.stream.is_plain();
        Ok(n)
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
        self.can_read |= self.stream.wait(eventfd, until)?;
        Ok(())
    }

    fn outlet(&self) -> Option<Arc<dyn RawOutlet>> {
        self.stream.outlet()
    }
}
