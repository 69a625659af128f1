//! Processes as the system shows them, signals to our own, and waiting for a condition instead of a time.

use std::{
    fs,
    process::{Child, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// How often a condition is looked at while a test waits for it.
const POLL: Duration = Duration::from_millis(5);

/// A process, told apart from a later one with the same id by its start time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) name: String,
    pub(crate) state: char,
    parent: u32,
    start_ticks: u64,
}

impl Process {
    /// `None` when there is no such process.
    pub(crate) fn read(pid: u32) -> Option<Process> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name stands in parentheses and may hold anything, also parentheses.
        let (head, tail) = stat.rsplit_once(')')?;
        let name = head.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
        let state = fields.first()?.chars().next()?;
        Some(Process {
            pid,
            name,
            state,
            parent: fields.get(1)?.parse().ok()?,
            start_ticks: fields.get(19)?.parse().ok()?,
        })
    }

    /// It runs or sleeps; one that only waits to be reaped does not live.
    pub(crate) fn is_alive(&self) -> bool {
        Process::read(self.pid).is_some_and(|now| now.start_ticks == self.start_ticks && now.state != 'Z')
    }

    /// All processes below `pid`.
    pub(crate) fn below(pid: u32) -> Vec<Process> {
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let all: Vec<Process> = pids.filter_map(Process::read).collect();
        let mut below: Vec<Process> = Vec::new();
        let mut parents = vec![pid];
        while let Some(parent) = parents.pop() {
            let children = all.iter().filter(|process| process.parent == parent);
            for child in children {
                parents.push(child.pid);
                below.push(child.clone());
            }
        }
        below
    }
}

/// The memory of a process, shared pages counted in part.
pub(crate) fn pss_bytes(pid: u32) -> usize {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("the process runs");
    let line = rollup.lines().find(|line| line.starts_with("Pss:")).expect("a line `Pss:`");
    let kilobytes: usize = line.split_ascii_whitespace().nth(1).and_then(|it| it.parse().ok()).expect("a number");
    kilobytes * 1024
}

/// Whether `condition` comes true within `patience`.
pub(crate) fn holds_within(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if condition() {
            return true;
        }
        if deadline < Instant::now() {
            return false;
        }
        thread::sleep(POLL);
    }
}

pub(crate) fn wait_for_exit(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let mut status = None;
    holds_within(patience, || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status
}

/// Sends a signal to a process that this test, or a gateway of this test, started.
pub(crate) fn send_signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    // A process that is already gone is as good as one that took the signal.
    let _ = kill_process(pid, signal);
}

/// How many threads of a process have a name that begins so.
pub(crate) fn n_threads(pid: u32, prefix: &str) -> usize {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with(prefix)).count()
}
