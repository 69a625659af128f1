//! What a gateway holds, as the system shows it, and the table that says so.

use std::{
    fs,
    time::{Duration, Instant},
};

use crate::support::{Gateway, PATIENCE, Process, holds_within, pss_bytes};

/// How long nothing may change before a gateway counts as idle.
const QUIET: Duration = Duration::from_millis(300);

/// One look at a gateway. Looking opens no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) pss_kb: usize,
    pub(crate) descriptors: usize,
    pub(crate) threads: usize,
    /// Everything below the gateway, zombies left out.
    pub(crate) processes: Vec<u32>,
    pub(crate) zombies: usize,
}

impl Figures {
    pub(crate) fn of(gateway: &Gateway) -> Figures {
        let pid = gateway.pid();
        let entries = |folder: &str| fs::read_dir(format!("/proc/{pid}/{folder}")).map_or(0, Iterator::count);
        let (zombies, processes): (Vec<Process>, Vec<Process>) =
            gateway.processes().into_iter().partition(|process| process.state == 'Z');
        Figures {
            pss_kb: pss_bytes(pid) / 1024,
            descriptors: entries("fd"),
            threads: entries("task"),
            processes: processes.iter().map(|process| process.pid).collect(),
            zombies: zombies.len(),
        }
    }

    /// The figures once they have not changed for a while.
    #[track_caller]
    pub(crate) fn when_idle(gateway: &Gateway) -> Figures {
        let mut last = Figures::of(gateway);
        let mut since = Instant::now();
        let is_idle = holds_within(PATIENCE, || {
            let now = Figures::of(gateway);
            if !now.holds_no_more_than(&last) || !last.holds_no_more_than(&now) {
                since = Instant::now();
            }
            last = now;
            QUIET <= since.elapsed()
        });
        assert!(is_idle, "the gateway did not come to rest; at last {last:?}");
        last
    }

    /// Not more descriptors, threads, processes and zombies; memory is another matter.
    pub(crate) fn holds_no_more_than(&self, other: &Figures) -> bool {
        self.descriptors <= other.descriptors
            && self.threads <= other.threads
            && self.processes.len() <= other.processes.len()
            && self.zombies <= other.zombies
    }
}

/// Prints the head of the table; `what` are the things that are counted.
pub(crate) fn print_head(what: &str) {
    println!(
        "{:>16} {:>10} {:>9} {:>12} {:>8} {:>10} {:>8}",
        what,
        format!("{what}/s"),
        "PSS kB",
        "descriptors",
        "threads",
        "processes",
        "zombies"
    );
}

/// Prints a row of the table.
pub(crate) fn print_row(label: &str, per_second: Option<f64>, figures: &Figures) {
    let Figures { pss_kb, descriptors, threads, processes, zombies } = figures;
    let per_second = per_second.map_or("-".to_owned(), |it| format!("{it:.0}"));
    let n_processes = processes.len();
    println!("{label:>16} {per_second:>10} {pss_kb:>9} {descriptors:>12} {threads:>8} {n_processes:>10} {zombies:>8}");
}

/// The end of a log, which after many faults is long.
pub(crate) fn log_end(gateway: &Gateway) -> String {
    const LINES_SHOWN: usize = 60;
    let log = gateway.log();
    let lines: Vec<&str> = log.lines().collect();
    let start = lines.len().saturating_sub(LINES_SHOWN);
    format!(
        "--- the last of {} lines of the gateway's log ---\n{}\n--- end of log ---",
        lines.len(),
        lines[start..].join("\n")
    )
}
