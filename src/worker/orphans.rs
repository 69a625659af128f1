//! Processes that leave their worker's process group: found, ended with their worker, and reaped.
//!
//! A server that starts a daemon (`setsid`) escapes the signals that go to its group, and its descendants outlive their
//! parents. The gateway is a subreaper (`prctl(2)`), so they become its own children, of its main thread; and every worker's
//! environment has a mark (`MCPGATE_WORKER`) which its descendants inherit, and by which they are told apart.
//!
//! **Limit.** A process that clears its environment is reaped but not ended. Without `CONFIG_PROC_CHILDREN` in the kernel
//! nothing is found.

use std::{
    fs,
    sync::{
        Once,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, WaitOptions};

/// Variable in the environment of every worker: its name, a number that no other start has, and the gateway's process id.
pub(super) const MARK: &str = "MCPGATE_WORKER";

/// How often marked processes are looked for while they get their time to end.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// How long killed processes are waited for.
const KILL_WAIT_MAX: Duration = Duration::from_secs(2);

/// Has the system hand orphaned descendants over to this process, from the first worker on.
pub(super) fn adopt() {
    static ADOPT: Once = Once::new();
    ADOPT.call_once(|| {
        if let Err(cause) = rustix::process::set_child_subreaper(Some(rustix::process::getpid())) {
            log::warn!("processes that leave their worker's group will not be found: {cause}");
        }
    });
}

/// A mark for a process that is about to start.
pub(super) fn new_mark(worker: &str) -> String {
    static STARTS: AtomicU64 = AtomicU64::new(1);
    let pid = rustix::process::getpid().as_raw_nonzero();
    format!("{worker}/{}/{pid}", STARTS.fetch_add(1, Ordering::Relaxed))
}

/// Ends every orphan with this mark: SIGTERM, and SIGKILL after `grace`.
pub(super) fn end_marked(mark: &str, grace: Duration) {
    let started_at = Instant::now();
    let mut asked = Vec::new();
    loop {
        reap();
        let left: Vec<Pid> = adopted().into_iter().filter(|pid| has_mark(*pid, mark)).collect();
        if left.is_empty() {
            return;
        }
        let is_over = started_at + grace <= Instant::now();
        for pid in left {
            if is_over {
                // Fails only when it has just ended.
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            } else if !asked.contains(&pid) {
                let _ = rustix::process::kill_process(pid, Signal::TERM);
                asked.push(pid);
            }
        }
        if started_at + grace + KILL_WAIT_MAX <= Instant::now() {
            return log::warn!("processes of worker {mark} do not end");
        }
        thread::sleep(LOOK_INTERVAL);
    }
}

/// Takes note of orphans that have ended, so that the system can forget them.
pub fn reap() {
    for pid in adopted() {
        // Fails only when somebody was faster.
        let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

/// Orphans: the children of the main thread, which starts no process itself.
fn adopted() -> Vec<Pid> {
    let main_thread = rustix::process::getpid().as_raw_nonzero();
    let children = fs::read_to_string(format!("/proc/self/task/{main_thread}/children")).unwrap_or_default();
    children.split_ascii_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

fn has_mark(pid: Pid, mark: &str) -> bool {
    let wanted = format!("{MARK}={mark}");
    // Empty for a process that has ended and is not reaped yet.
    let environ = fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).unwrap_or_default();
    environ.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
}
