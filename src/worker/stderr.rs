//! What a child says on stderr: written to the log, and its last lines kept for errors.
//!
//! **Limit.** [`LINES_KEPT`] lines are kept, each cut at [`LINE_BYTES_MAX`] bytes; at most [`LOG_LINES_PER_SECOND`] go to
//! the log, and how many were left out is logged when the second is over.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::pipe::{Line, Pipe};

/// Last lines kept for each worker.
pub(super) const LINES_KEPT: usize = 20;

const LINE_BYTES_MAX: usize = 4096;
const LOG_LINES_PER_SECOND: u32 = 100;

/// The last lines a child wrote, the newest last.
#[derive(Debug, Default)]
pub(super) struct LastLines(Mutex<VecDeque<String>>);

impl LastLines {
    /// A copy of the lines.
    pub(super) fn get(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn push(&self, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LINES_KEPT {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

/// Reads a child's stderr until its end.
pub(super) fn read(worker: &Arc<str>, pipe: &Pipe, last_lines: &LastLines) {
    let mut window = Window { began_at: Instant::now(), n_lines: 0, n_left_out: 0 };
    pipe.read_lines(LINE_BYTES_MAX, |line| {
        let text = match line {
            Line::Whole(line) => printable(&String::from_utf8_lossy(line)),
            Line::Long(line) => printable(&String::from_utf8_lossy(line)),
            Line::TooLong(_) => format!("(a line of more than {LINE_BYTES_MAX} bytes)"),
        };
        if window.has_room(worker) {
            log::info!(worker = &**worker; "{worker} stderr: {text}");
        }
        last_lines.push(text);
    });
}

struct Window {
    began_at: Instant,
    n_lines: u32,
    n_left_out: u32,
}

impl Window {
    fn has_room(&mut self, worker: &str) -> bool {
        if Duration::from_secs(1) <= self.began_at.elapsed() {
            if 0 < self.n_left_out {
                log::warn!("{worker} stderr: {} lines left out of the log", self.n_left_out);
            }
            *self = Window { began_at: Instant::now(), n_lines: 0, n_left_out: 0 };
        }
        let has_room = self.n_lines < LOG_LINES_PER_SECOND;
        self.n_lines += u32::from(has_room);
        self.n_left_out += u32::from(!has_room);
        has_room
    }
}

/// Control characters could forge log lines or steer a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|it| if it.is_control() && it != '\t' { '\u{fffd}' } else { it }).collect()
}
