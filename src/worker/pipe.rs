//! Reads a child's pipe line by line, without ever keeping more than one line of bounded length.
//!
//! A line over the limit is passed over in pieces, and only its JSON-RPC id is picked out, so that its call can fail
//! by name. Blocking reads; [`Pipe::nudge`] wakes a reader whose pipe a left-over grandchild keeps open.

use std::{
    io, mem,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::{
    buffer::spare_capacity,
    event::{PollFd, PollFlags, poll},
    io::Errno,
};

use crate::{
    mcp::id_scanner::IdScanner,
    threads::{self, Joined},
};

/// First size of a reader's buffer, and what it shrinks back to after a long line.
const BUFFER_BYTES: usize = 16 * 1024;

/// What makes a line a long one.
const LONG_BYTES: usize = 64 * 1024;

/// What a pipe is made to hold once a long line has come through it. It held 64 KB, and writer and reader woke each other up for every
/// one of these. Linux gives a user some 64 MB of such pipes.
const WIDE_PIPE_BYTES: usize = 256 * 1024;

/// Threads that read pipes. Dropping it ends them, even when somebody still holds the other ends.
#[derive(Default)]
pub(super) struct Readers(Vec<(Arc<Pipe>, Joined)>);

impl Readers {
    /// Starts a thread called `name` that reads a pipe. Fails when the system has no room for it.
    pub(super) fn start(
        &mut self,
        name: String,
        pipe: Pipe,
        read: impl FnOnce(&Pipe) + Send + 'static,
    ) -> io::Result<()> {
        let pipe = Arc::new(pipe);
        let theirs = Arc::clone(&pipe);
        let thread = threads::spawn(name, move || read(&theirs))?;
        self.0.push((pipe, thread));
        Ok(())
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.0.iter().for_each(|(pipe, _)| pipe.nudge());
    }
}

/// The reading end of a child's stdout or stderr.
pub(super) struct Pipe {
    fd: OwnedFd,
    is_stopped: AtomicBool,
    exit: Option<Exit>,
}

/// The exit of the process at the other end.
struct Exit {
    /// Readable once it has exited.
    fd: OwnedFd,
    tell: Box<dyn Fn() + Send + Sync>,
    is_told: AtomicBool,
}

/// What a reader is handed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// One line, without its end.
    Whole(&'a [u8]),
    /// The same, of at least [`LONG_BYTES`], with the memory that it was read into: whoever takes that need not copy it.
    Long(&'a mut Vec<u8>),
    /// A line of more than the allowed bytes has gone by. The JSON-RPC id in it, if it had an integer one.
    TooLong(Option<u64>),
}

impl Pipe {
    /// Reads from `fd`, which blocks.
    pub(super) fn new(fd: OwnedFd) -> Pipe {
        Pipe { fd, is_stopped: AtomicBool::new(false), exit: None }
    }

    /// As [`Pipe::new`], and whoever reads also watches `exit` and calls `tell`, once, when it becomes readable: an end of
    /// the pipe does not tell of a process whose children still hold it.
    pub(super) fn watching(fd: OwnedFd, exit: OwnedFd, tell: impl Fn() + Send + Sync + 'static) -> Pipe {
        let exit = Exit { fd: exit, tell: Box::new(tell), is_told: AtomicBool::new(false) };
        Pipe { exit: Some(exit), ..Pipe::new(fd) }
    }

    /// Hands every line of at most `line_bytes_max` bytes to `on_line`, until the end of the pipe or [`Pipe::nudge`].
    /// A last line without an end is handed over too. Empty lines are not.
    pub(super) fn read_lines(&self, line_bytes_max: usize, mut on_line: impl FnMut(Line<'_>)) {
        let mut buffer = Vec::with_capacity(BUFFER_BYTES);
        let mut too_long: Option<IdScanner> = None;
        let mut is_wide = false;
        loop {
            let n_seen = buffer.len();
            if buffer.capacity() == n_seen {
                buffer.reserve(n_seen.max(BUFFER_BYTES));
            }
            self.watch_exit();
            let n_read = match rustix::io::read(&self.fd, spare_capacity(&mut buffer)) {
                Ok(n_read) => n_read,
                Err(Errno::INTR) => continue,
                Err(_) => 0,
            };
            let has_ended = n_read == 0 || self.is_stopped.load(Ordering::SeqCst);
            if has_ended {
                // What a nudge has added is not the child's.
                buffer.truncate(n_seen);
                break;
            }

            let mut start = 0;
            let mut searched = n_seen;
            while let Some(end) = memchr::memchr(b'\n', &buffer[searched..]).map(|at| searched + at) {
                let is_long = LONG_BYTES <= end && start == 0 && end <= line_bytes_max && too_long.is_none();
                if is_long {
                    let mut rest = Vec::with_capacity(BUFFER_BYTES.max(buffer.len() - end));
                    rest.extend_from_slice(&buffer[end + 1..]);
                    let mut line = mem::replace(&mut buffer, rest);
                    line.truncate(if line[end - 1] == b'\r' { end - 1 } else { end });
                    on_line(Line::Long(&mut line));
                    searched = 0;
                    continue;
                }
                let line = &buffer[start..end];
                match too_long.take() {
                    Some(mut scanner) => {
                        scanner.feed(line);
                        on_line(Line::TooLong(scanner.id()));
                    }
                    None => hand_over(line, line_bytes_max, &mut on_line),
                }
                start = end + 1;
                searched = start;
            }
            buffer.drain(..start);
            let is_over = line_bytes_max < buffer.len() || too_long.is_some();
            if is_over {
                too_long.get_or_insert_default().feed(&buffer);
                buffer.clear();
            }
            let is_too_narrow = !is_wide && (is_over || LONG_BYTES <= buffer.len());
            if is_too_narrow {
                is_wide = true;
                // A system that does not let us have it costs some speed.
                let _ = rustix::pipe::fcntl_setpipe_size(&self.fd, WIDE_PIPE_BYTES);
            }
            let is_oversized = BUFFER_BYTES < buffer.capacity() && buffer.len() <= BUFFER_BYTES / 2;
            if is_oversized {
                buffer.shrink_to(BUFFER_BYTES);
            }
        }
        if too_long.is_none() {
            hand_over(&buffer, line_bytes_max, &mut on_line);
        }
    }

    /// Waits until there is something to read, if the exit of the process is to be watched meanwhile.
    fn watch_exit(&self) {
        let Some(exit) = self.exit.as_ref().filter(|exit| !exit.is_told.load(Ordering::Relaxed)) else { return };
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN), PollFd::new(&exit.fd, PollFlags::IN)];
        // Interrupted or failed, the read that follows waits in its stead.
        let _ = poll(&mut fds, None);
        if !fds[1].revents().is_empty() {
            exit.is_told.store(true, Ordering::Relaxed);
            (exit.tell)();
        }
    }

    /// Has the reader stop, even while somebody still holds the other end of the pipe.
    pub(super) fn nudge(&self) {
        self.is_stopped.store(true, Ordering::SeqCst);
        // A reader that waits needs a byte to wake up: the system gives us a writing end of the same pipe. When that
        // fails, nobody holds the pipe, and the reader has seen its end.
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
        if let Ok(writer) = rustix::fs::open(path, flags, rustix::fs::Mode::empty()) {
            // A full pipe has woken the reader already.
            let _: io::Result<usize> = rustix::io::write(writer, b"\n").map_err(io::Error::from);
        }
    }
}

fn hand_over(line: &[u8], line_bytes_max: usize, on_line: &mut impl FnMut(Line<'_>)) {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line_bytes_max < line.len() {
        let mut scanner = IdScanner::default();
        scanner.feed(line);
        on_line(Line::TooLong(scanner.id()));
    } else if !line.is_empty() {
        on_line(Line::Whole(line));
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, thread};

    use super::*;

    #[allow(clippy::disallowed_methods, reason = "a scoped writer beside the reader under test")]
    fn lines_of(pieces: &[&[u8]], line_bytes_max: usize) -> Vec<String> {
        let (reader, mut writer) = io::pipe().unwrap();
        let pipe = Pipe::new(reader.into());
        let mut lines = Vec::new();
        thread::scope(|scope| {
            scope.spawn(move || pieces.iter().for_each(|piece| writer.write_all(piece).unwrap()));
            pipe.read_lines(line_bytes_max, |line| {
                lines.push(match line {
                    Line::Whole(line) => String::from_utf8_lossy(line).into_owned(),
                    Line::Long(line) => format!("long {} {:?}", line.len(), line.last().map(|it| char::from(*it))),
                    Line::TooLong(id) => format!("too long {id:?}"),
                });
            });
        });
        lines
    }

    #[test]
    fn lines_come_whole_however_they_were_cut() {
        let text = b"one\r\n\ntwo\n{\"id\":3}\nlast";
        for cut in 0..text.len() {
            let lines = lines_of(&[&text[..cut], &text[cut..]], 100);
            assert_eq!(lines, ["one", "two", "{\"id\":3}", "last"], "cut at {cut}");
        }
    }

    #[test]
    fn a_long_line_is_handed_over_as_it_was_read() {
        let long = "x".repeat(LONG_BYTES);
        let text = format!("one\n{long}y\n{long}z\r\ntwo\n{long}");
        let lines = lines_of(&[text.as_bytes()], 1024 * 1024);
        let (y, z) = (format!("long {} Some('y')", LONG_BYTES + 1), format!("long {} Some('z')", LONG_BYTES + 1));
        let is_y = |line: &String| *line == y || *line == format!("{long}y");
        let is_z = |line: &String| *line == z || *line == format!("{long}z");
        assert!(lines[0] == "one" && is_y(&lines[1]) && is_z(&lines[2]) && lines[3] == "two" && lines[4] == long);
        let alone = lines_of(&[format!("{long}y\n").as_bytes(), b"two\n"], 1024 * 1024);
        assert_eq!(alone, [&*y, "two"]);
    }

    #[test]
    fn a_line_over_the_limit_is_passed_over_and_its_id_told() {
        let long = format!("{{\"result\":\"{}\",\"id\":7}}\nnext\n", "x".repeat(200_000));
        assert_eq!(lines_of(&[long.as_bytes()], 1000), ["too long Some(7)", "next"]);
        assert_eq!(lines_of(&[b"12345\n", b"123456\n", b"1\n"], 5), ["12345", "too long None", "1"]);
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a scoped reader under test")]
    fn a_nudge_ends_a_reader_whose_pipe_stays_open_and_is_no_line() {
        let (reader, writer) = io::pipe().unwrap();
        let pipe = Pipe::new(reader.into());
        thread::scope(|scope| {
            scope.spawn(|| pipe.read_lines(100, |line| panic!("{line:?}")));
            pipe.nudge();
        });
        drop(writer);
    }
}
