//! The body of a request: read whole, with a deadline, and never more of it than is allowed.
//!
//! **Limit.** `BODY_BYTES_MAX` and `BODY_TIMEOUT`; room is made for what has arrived, never for what was announced.

use std::time::Instant;

use super::{
    chunked,
    connection::{Connection, Failure},
    head::{Framing, Head},
};
use crate::error::Error;

impl Connection {
    /// Reads the body: into the buffer, behind the head, when its length is known; else it is returned, decoded.
    pub(super) fn read_body(&mut self, head: &Head, head_end: usize) -> Result<Option<Vec<u8>>, Failure> {
        let bytes_max = self.config.now().body_bytes_max;
        let too_large = || Failure::Refused(Error::BodyTooLarge { bytes_max });
        let deadline = Instant::now() + self.config.now().body_timeout;
        match head.framing {
            Framing::None => Ok(None),
            Framing::Length(length) => {
                let length =
                    usize::try_from(length).ok().filter(|length| *length <= bytes_max).ok_or_else(too_large)?;
                self.invite(head, head_end)?;
                while self.buffer.len() < head_end + length {
                    self.read_more(deadline, "body", self.config.now().body_timeout)?;
                }
                Ok(None)
            }
            Framing::Chunked => {
                self.invite(head, head_end)?;
                let mut decoder = chunked::Decoder::default();
                let mut body = Vec::new();
                loop {
                    let n = decoder
                        .feed(&self.buffer[head_end..], &mut body)
                        .map_err(|chunked::Malformed(what)| Error::BadRequest { what: what.to_owned() })?;
                    self.buffer.drain(head_end..head_end + n);
                    let is_within =
                        u64::try_from(bytes_max - body.len().min(bytes_max)).is_ok_and(|room| decoder.left() <= room);
                    if bytes_max < body.len() || !is_within {
                        return Err(too_large());
                    }
                    if decoder.is_done() {
                        return Ok(Some(body));
                    }
                    self.read_more(deadline, "body", self.config.now().body_timeout)?;
                }
            }
        }
    }

    /// Tells a client that waits for it that its body is welcome.
    fn invite(&mut self, head: &Head, head_end: usize) -> Result<(), Failure> {
        let is_waiting = head.expects_continue && self.buffer.len() == head_end;
        if is_waiting {
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n", b"").map_err(|_| Failure::Lost)?;
        }
        Ok(())
    }
}

/// Bytes of the body that stand behind the head in the buffer.
pub(super) fn plain_body_len(head: &Head) -> usize {
    match head.framing {
        // It was read into the buffer, so it fits.
        Framing::Length(length) => usize::try_from(length).unwrap_or_default(),
        Framing::None | Framing::Chunked => 0,
    }
}
