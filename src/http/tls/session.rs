//! TLS on one connection: what is read from a socket becomes plain, what is to be written becomes secret.
//!
//! rustls does that. Nothing here knows of sockets or time: `stream.rs` hands in what reads and writes, and decides how
//! long that may wait.
//!
//! **Limit.** What was read is handed out before more is read, so at most a few records are kept; what is to be
//! written goes out whenever [`WRITE_BYTES`] have come together.
//! **End.** [`Session::say_goodbye`]. After an error nothing more is written.

use std::{
    io::{self, BufRead as _, IoSlice, Read, Write},
    sync::Arc,
};

use rustls::{ServerConfig, ServerConnection};

/// Most bytes that are made secret before they are written.
const WRITE_BYTES: usize = 64 * 1024;

/// See the module.
#[derive(Debug)]
pub(in crate::http) struct Session {
    tls: ServerConnection,
    /// A record was cut off, so nothing that follows it could be understood.
    is_broken: bool,
}

impl Session {
    /// The server's side of a connection on which nothing has been said.
    pub(in crate::http) fn new(config: Arc<ServerConfig>) -> io::Result<Session> {
        let mut tls = ServerConnection::new(config).map_err(io::Error::other)?;
        tls.set_buffer_limit(Some(WRITE_BYTES));
        Ok(Session { tls, is_broken: false })
    }

    /// Whether client and server have not agreed yet.
    pub(in crate::http) fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// Whether [`Session::take`] would have something to say.
    pub(in crate::http) fn has_plain(&mut self) -> bool {
        // Only a session in which nothing is wrong has nothing.
        !matches!(self.tls.reader().fill_buf(), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Reads once from the client. What comes is answered as far as TLS itself asks for it: alerts, new keys.
    ///
    /// Fails as `from` and `to` do, and with [`io::ErrorKind::InvalidData`] when it is not TLS, or not as it should be; the
    /// client is told so first.
    pub(in crate::http) fn read_once(&mut self, from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
        self.tls.read_tls(from)?;
        let outcome = self.tls.process_new_packets();
        let flushed = self.flush(to);
        match outcome {
            Ok(_) => flushed,
            Err(error) => {
                self.is_broken = true;
                Err(io::Error::new(io::ErrorKind::InvalidData, error))
            }
        }
    }

    /// Hands out at most `bytes_max` of what was read. `None`: there is nothing yet. 0 bytes are the end of the stream.
    pub(in crate::http) fn take(&mut self, bytes_max: usize, mut into: impl FnMut(&[u8])) -> io::Result<Option<usize>> {
        let mut reader = self.tls.reader();
        let mut n_taken = 0;
        while n_taken < bytes_max {
            let n = match reader.fill_buf() {
                Ok(plain) => {
                    let n = plain.len().min(bytes_max - n_taken);
                    into(&plain[..n]);
                    n
                }
                // Closed without a goodbye. HTTP and WebSocket know by themselves whether something is missing.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && n_taken == 0 => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            if n == 0 {
                break;
            }
            reader.consume(n);
            n_taken += n;
        }
        Ok(Some(n_taken))
    }

    /// Writes all of `slices`: in one go when they are short, else in pieces of [`WRITE_BYTES`].
    pub(in crate::http) fn write_slices(
        &mut self,
        mut slices: &mut [IoSlice<'_>],
        to: &mut impl Write,
    ) -> io::Result<()> {
        if self.is_broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut left = slices.iter().map(|slice| slice.len()).sum::<usize>();
        while 0 < left {
            let n = self.tls.writer().write_vectored(slices)?;
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            left -= n;
            IoSlice::advance_slices(&mut slices, n);
            self.flush(to)?;
        }
        Ok(())
    }

    /// Tells the client that nothing more will come.
    pub(in crate::http) fn say_goodbye(&mut self, to: &mut impl Write) {
        if !self.is_broken {
            self.tls.send_close_notify();
            // A client that takes nothing, or is gone, needs no goodbye.
            let _ = self.flush(to);
            self.is_broken = true;
        }
    }

    fn flush(&mut self, to: &mut impl Write) -> io::Result<()> {
        while self.tls.wants_write() && !self.is_broken {
            match self.tls.write_tls(to) {
                Ok(0) => {
                    self.is_broken = true;
                    return Err(io::ErrorKind::WriteZero.into());
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.is_broken = true;
                    // Whoever reads must not take this for a read that would have to wait.
                    let is_timeout = error.kind() == io::ErrorKind::WouldBlock;
                    return Err(if is_timeout { io::ErrorKind::TimedOut.into() } else { error });
                }
            }
        }
        Ok(())
    }
}
