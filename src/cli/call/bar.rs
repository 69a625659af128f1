//! What somebody sees who waits for a call at a terminal: that it goes on, for how long already, and how far it is.
//!
//! One line that is drawn again and again, and is gone when the call has ended. Plain ASCII, which every terminal has.
//!
//! **Limit.** It is drawn at most every [`INTERVAL`], and first after [`PATIENCE`], so that a short call does not flicker.

use std::{
    fmt::Write as _,
    io::{self, Write},
    time::{Duration, Instant},
};

use serde::Deserialize;

use crate::cli::terminal;

/// How often it is drawn.
pub(super) const INTERVAL: Duration = Duration::from_millis(100);

/// How long a call takes before there is anything to see.
const PATIENCE: Duration = Duration::from_millis(250);

/// Columns of the bar itself, without its ends.
const BAR_COLUMNS: usize = 20;

const SPINNER: [char; 4] = ['|', '/', '-', '\\'];

/// What a server says of how far it is.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub(super) struct Progress {
    #[serde(default)]
    pub(super) progress: f64,
    #[serde(default)]
    pub(super) total: Option<f64>,
    #[serde(default)]
    pub(super) message: Option<String>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Bar {
    started_at: Instant,
    progress: Option<Progress>,
    n_items: usize,
    n_drawn: usize,
}

impl Bar {
    /// Of a call that begins now.
    pub(super) fn new() -> Bar {
        Bar { started_at: Instant::now(), progress: None, n_items: 0, n_drawn: 0 }
    }

    /// The server says how far it is.
    pub(super) fn advance(&mut self, progress: Progress) {
        self.progress = Some(progress);
    }

    /// An item of the result has come.
    pub(super) fn count_item(&mut self) {
        self.n_items += 1;
    }

    /// Draws it as it is now on stderr.
    pub(super) fn draw(&mut self) {
        let elapsed = self.started_at.elapsed();
        if elapsed < PATIENCE {
            return;
        }
        self.n_drawn += 1;
        let mut stderr = io::stderr();
        // The last column stays free: some terminals go on to the next line when it is written.
        let columns = terminal::size(&stderr).columns.saturating_sub(1);
        let line = self.line(elapsed);
        // Nobody is served by an error about a bar.
        let _ = write!(stderr, "\r{}\x1b[K", terminal::cut(&line, columns)).and_then(|()| stderr.flush());
    }

    /// Leaves nothing of it.
    pub(super) fn wipe(&mut self) {
        if 0 < self.n_drawn {
            let mut stderr = io::stderr();
            let _ = write!(stderr, "\r\x1b[K").and_then(|()| stderr.flush());
            self.n_drawn = 0;
        }
    }

    fn line(&self, elapsed: Duration) -> String {
        let spinner = SPINNER[self.n_drawn % SPINNER.len()];
        let mut line = format!("{spinner} {:>5.1} s", elapsed.as_secs_f64());
        // Writing to a string has no way to fail.
        if let Some(Progress { progress, total, message }) = &self.progress {
            match total.filter(|total| 0.0 < *total) {
                Some(total) => {
                    let share = (progress / total).clamp(0.0, 1.0);
                    let _ = write!(line, "  [{}] {:>3.0} %", bar(share), share * 100.0);
                }
                None if 0.0 < *progress => {
                    let _ = write!(line, "  {progress}");
                }
                None => {}
            }
            if let Some(message) = message {
                let _ = write!(line, "  {}", terminal::printable(message));
            }
        }
        if 0 < self.n_items {
            let _ = write!(line, "  ({} items)", self.n_items);
        }
        line
    }
}

fn bar(share: f64) -> String {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "0 to 20")]
    let n_full = (share * BAR_COLUMNS as f64) as usize;
    let head = if n_full < BAR_COLUMNS { ">" } else { "" };
    format!("{:<BAR_COLUMNS$}", format!("{}{head}", "=".repeat(n_full)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(progress: f64, total: Option<f64>, message: &str) -> String {
        let message = Some(message.to_owned()).filter(|it| !it.is_empty());
        let bar = Bar { progress: Some(Progress { progress, total, message }), ..Bar::new() };
        bar.line(Duration::from_millis(3240))
    }

    #[test]
    fn it_shows_time_share_and_message() {
        assert_eq!(line(0.0, None, "Loading\x1b[2J"), "|   3.2 s  Loading [2J");
        assert_eq!(line(5.0, Some(20.0), "a"), "|   3.2 s  [=====>              ]  25 %  a");
        assert_eq!(line(20.0, Some(20.0), ""), "|   3.2 s  [====================] 100 %");
        assert_eq!(line(7.0, None, ""), "|   3.2 s  7");
        let bar = Bar { n_items: 3, ..Bar::new() };
        assert_eq!(bar.line(Duration::ZERO), "|   0.0 s  (3 items)");
    }

    #[test]
    fn shares_that_are_none_do_no_harm() {
        for (progress, total) in
            [(30.0, 20.0), (-1.0, 20.0), (f64::NAN, 20.0), (1.0, -5.0), (1.0, 0.0), (1e300, 1e-300)]
        {
            assert!(line(progress, Some(total), "").len() < 60, "{progress} of {total}");
        }
    }
}
