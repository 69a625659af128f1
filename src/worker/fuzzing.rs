//! A child's stdout through pipe, reader and link, with one call in flight, for `crate::fuzzing`.

#![allow(clippy::unwrap_used, reason = "what does not hold is to be a panic")]

use std::{
    io::{self, Read as _, Write as _},
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use serde_json::value::RawValue;

use super::{
    Call, Change, End, INBOX_EVENTS_MAX, Link, Owner, Ping, Sent, ServerInfo, Terms, Waiter,
    mailbox::{self, Mailbox, Note, Wake},
    pipe::{Line, Pipe},
    reader::Reader,
};
use crate::{
    config::{Config, Live},
    mcp::{id_scanner::IdScanner, message::Request, raw, revision::Era},
};

/// Small, so that a fuzzer finds it.
const LINE_BYTES_MAX: usize = 200;

/// What a pipe holds without anybody reading it, and a reader takes at once.
const BYTES_MAX: usize = 16 * 1024;

/// Lines are told apart as they are written, a call ends at most once, and what a server is answered is JSON on one line.
pub(crate) fn lines(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(BYTES_MAX)];
    let mut lines = Vec::new();
    full_pipe(bytes).read_lines(LINE_BYTES_MAX, |line| {
        lines.push(match line {
            Line::Whole(line) => Ok(line.to_vec()),
            Line::Long(line) => Ok(line.to_vec()),
            Line::TooLong(id) => Err(id),
        });
    });
    // Of a line without an end it is not known whether it is over; one that is too long by then is not told.
    let last = bytes.rsplit(|byte| *byte == b'\n').next().unwrap();
    let ended = if LINE_BYTES_MAX < last.len() { &bytes[..bytes.len() - last.len()] } else { bytes };
    let expected = ended.split(|byte| *byte == b'\n').filter_map(|line| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let mut scanner = IdScanner::default();
        scanner.feed(line);
        match line.len() {
            0 => None,
            n if n <= LINE_BYTES_MAX => Some(Ok(line.to_vec())),
            _ => Some(Err(scanner.id())),
        }
    });
    assert!(expected.eq(lines), "the lines that were written are the lines that are read");

    let (mut stdin, to_child) = io::pipe().unwrap();
    let (inbox, events) = crossbeam_channel::bounded(INBOX_EVENTS_MAX);
    let link = Link::new("s-1".into(), Era::Legacy, to_child.into(), inbox.clone()).unwrap();
    let mailbox = Arc::new(Mailbox::new(BYTES_MAX, || {}));
    let (line, habits) = ("somebody".into(), Arc::default());
    let terms = Terms { line, may_repeat: false, habits, log_level: None, takes_input_requests: false };
    let call = Call::new(Request::plain("m", None), Some(terms), Waiter::Dialogue(Arc::clone(&mailbox)), 1);
    assert_eq!(link.send(&call), Sent::Yes);
    let reader = Reader {
        slot: 0,
        link: Arc::clone(&link),
        owner: Arc::new(Nobody),
        inbox,
        tools_changed: Arc::new(AtomicBool::new(false)),
        config: Live::new(Config { worker_line_bytes_max: LINE_BYTES_MAX, ..Config::default() }),
    };
    reader.run(&full_pipe(bytes));

    let n_ended = std::iter::from_fn(|| match mailbox.wait(Instant::now()) {
        Wake::Event(event) => Some(event),
        Wake::Closed | Wake::Deadline => None,
    });
    let n_ended = n_ended.filter(|event| matches!(event, mailbox::Event::Ended(_))).count();
    let left = link.close();
    assert_eq!(n_ended + left.len(), 1, "a call ends once, or is still in flight");
    drop((call, left, link, events));
    let mut said = Vec::new();
    stdin.read_to_end(&mut said).unwrap();
    for line in said.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        // The last may be cut off, where the pipe was full.
        let message: &RawValue = match serde_json::from_slice(line) {
            Ok(message) => message,
            Err(_) if !said.ends_with(b"\n") => break,
            Err(error) => panic!("{error}: {}", String::from_utf8_lossy(line)),
        };
        assert_eq!(raw::text(message, "jsonrpc").as_deref(), Some("2.0"));
    }
}

/// A pipe that holds `bytes` and has no other end.
fn full_pipe(bytes: &[u8]) -> Pipe {
    let (reader, mut writer) = io::pipe().unwrap();
    writer.write_all(bytes).unwrap();
    Pipe::new(reader.into())
}

/// Whom nothing interests.
struct Nobody;

impl Owner for Nobody {
    fn ready(&self, _: usize, _: &Arc<Link>, _: Arc<ServerInfo>, _: Vec<Box<RawValue>>) {}
    fn tools_changed(&self, _: usize, _: Vec<Box<RawValue>>) {}
    fn closing(&self, _: usize) {}
    fn ended(&self, _: usize, _: End) {}
    fn answered(&self, _: usize, _: &Arc<Link>, _: &Arc<Call>, _: bool) {}
    fn answered_late(&self) {}
    fn asked(&self, _: usize, _: &Arc<Link>) -> Option<Arc<Call>> {
        None
    }
    fn pong(&self, _: usize, _: &Arc<Link>, _: Ping, _: Duration) {}
    fn is_of_a_session(&self) -> bool {
        true
    }
    fn repeat(&self, _: &Arc<Call>) {}
    fn changed(&self, _: Change) {}
    fn heard(&self, _: Note) -> bool {
        false
    }
}
