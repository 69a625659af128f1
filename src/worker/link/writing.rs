//! Who writes the lines of a [`Link`] into the child's pipe, and when.
//!
//! With few calls in flight, whoever brings a call writes its line itself: one hop less than through the worker's thread. With many,
//! lines are left to that thread, which writes several at once, unless whoever brings them has several of them itself
//! (`gathering.rs`; `ARCHITECTURE.md` has the figures). While one thread writes, others only append. The pipe does not block: when the
//! child does not read, the rest is left to the worker's thread too, so that a deaf child holds up nobody.

use std::{io, mem, os::fd::OwnedFd, sync::MutexGuard};

use rustix::io::Errno;

use super::{Event, Link, State};

/// With more plain calls in flight than this, a line is left to the worker's thread, which takes several in one write.
/// Measured with the echo worker of the tests: with few calls the hop adds a tenth to the time of a call, with 64
/// connections the batches give a tenth more calls per second.
pub(super) const DIRECT_CALLS_MAX: usize = 4;

/// Rounds one thread writes for others before it leaves the rest to the worker's thread.
const WRITE_ROUNDS_MAX: usize = 16;

/// A buffer that grew for one long line is given back to the system instead of being kept.
const OUTBOX_BYTES_KEPT: usize = 64 * 1024;

impl Link {
    /// Writes what was left to the worker's thread by [`Event::Outbox`]. False: the pipe is full, so call again when
    /// [`Link::stdin`] takes bytes.
    pub fn resume(&self) -> bool {
        self.write_rounds(self.lock())
    }

    /// Writes what was gathered in the outbox, unless somebody is at it.
    pub(in crate::worker) fn flush(&self) {
        let mut state = self.lock();
        if state.is_writing {
            return;
        }
        state.is_writing = true;
        if !self.write_rounds(state) {
            self.leave_to_worker();
        }
    }

    /// Sees to it that the outbox gets written: by the thread that is at it already, by this one, or by the worker's.
    pub(super) fn write_out<'a>(&'a self, mut state: MutexGuard<'a, State>) {
        if state.is_writing {
            return;
        }
        state.is_writing = true;
        let has_company = DIRECT_CALLS_MAX < state.n_brisk;
        if has_company {
            drop(state);
        } else if self.write_rounds(state) {
            return;
        }
        self.leave_to_worker();
    }

    /// Has the worker's thread write the rest.
    fn leave_to_worker(&self) {
        // `is_writing` stays set until the worker's thread has resumed, so there is one of these at a time, and the
        // inbox has room for it: see `worker::INBOX_EVENTS_MAX`.
        let _ = self.inbox.try_send(Event::Outbox);
    }

    /// Writes until the outbox is empty. False: the pipe is full, or this thread has done enough for others; then
    /// `is_writing` stays set, and the worker's thread must go on.
    fn write_rounds<'a>(&'a self, mut state: MutexGuard<'a, State>) -> bool {
        for _ in 0..WRITE_ROUNDS_MAX {
            let has_work = state.unsent.is_some() || !state.outbox.is_empty();
            let Some(stdin) = state.stdin.clone().filter(|_| has_work) else {
                state.is_writing = false;
                return true;
            };
            let (mut bytes, start) = state.unsent.take().unwrap_or_else(|| (mem::take(&mut state.outbox), 0));
            drop(state);
            let written = write_some(&stdin, &bytes[start..]);
            state = self.lock();
            match written {
                Ok(n) if start + n < bytes.len() => {
                    state.unsent = Some((bytes, start + n));
                    return false;
                }
                Ok(_) => {
                    bytes.clear();
                    if state.outbox.is_empty() && bytes.capacity() <= OUTBOX_BYTES_KEPT {
                        state.outbox = bytes;
                    }
                }
                // The child is gone; the reader of its stdout sees the end, and the link is closed.
                Err(_) => {
                    state.outbox.clear();
                    state.is_writing = false;
                    return true;
                }
            }
        }
        false
    }
}

/// Writes until all is written or the pipe is full. Returns how much was written.
fn write_some(stdin: &OwnedFd, bytes: &[u8]) -> io::Result<usize> {
    let mut n = 0;
    while n < bytes.len() {
        match rustix::io::write(stdin, &bytes[n..]) {
            Ok(more) => n += more,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(n)
}
