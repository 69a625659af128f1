//! The program behind one worker: started in a process group of its own, and ended with everything it started.
//!
//! Every child of the gateway starts here. It knows nothing of MCP. The bundled server may also run on a thread of the
//! gateway, behind the same pipes, so that a worker need not know the difference.
//!
//! **End.** [`Process::stop`] for an orderly one, [`Process::kill`] for one that failed. A gateway that is killed takes
//! its direct children along, through the parent-death signal.

use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt as _,
    },
    path::Path,
    process::{self, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal},
};

use super::orphans;
use crate::{
    config::{self, settings},
    error::Error,
    systemd,
    threads::{self, Joined},
};

#[cfg(benching)]
use crate::benching::server::serve as serve_bundled;
#[cfg(not(benching))]
use crate::journeys::serve as serve_bundled;

/// How often the rest of a process group is looked at while it gets its time to end.
const GROUP_LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// How long a killed process may take to be gone. Longer only in uninterruptible sleep, on a broken disk for example.
const KILL_WAIT_MAX: Duration = Duration::from_secs(2);

/// A started program and its pipes.
#[derive(Debug)]
pub struct Started {
    /// The program.
    pub process: Process,
    /// Where it reads.
    pub stdin: OwnedFd,
    /// Where it answers.
    pub stdout: OwnedFd,
    /// What it says besides; the bundled server on a thread has none.
    pub stderr: Option<OwnedFd>,
}

/// A running program.
#[derive(Debug)]
pub enum Process {
    /// A child, with a descriptor that becomes readable when it exits.
    #[allow(missing_docs)]
    Child { child: process::Child, pidfd: OwnedFd, mark: String },
    /// A thread of the gateway, which ends when its stdin does.
    Thread(Joined),
}

/// Starts what `command` says. The thread that calls this must outlive the process: the system sends the parent-death
/// signal when that thread ends.
///
/// Fails with [`Error::WorkerStart`], which names the program.
pub fn start(worker: &str, command: &config::Command, data_dir: &Path) -> Result<Started, Error> {
    orphans::adopt();
    let mark = orphans::new_mark(worker);
    match command {
        config::Command::Direct => start_thread(data_dir)
            .map_err(|cause| Error::WorkerStart { program: "journeys".to_owned(), cause: cause.to_string() }),
        config::Command::Bundled => {
            let fail =
                |cause: io::Error| Error::WorkerStart { program: "mcpgate".to_owned(), cause: cause.to_string() };
            let mut command = new_command("/proc/self/exe");
            command.arg0("mcpgate").arg("journeys").arg("--data-dir").arg(data_dir);
            start_child(command, mark).map_err(fail)
        }
        config::Command::Program { program, args, env, cwd } => {
            let mut command = new_command(program);
            command.args(args).envs(env);
            if let Some(cwd) = cwd {
                command.current_dir(cwd);
            }
            let fail = |cause: io::Error| Error::WorkerStart { program: program.clone(), cause: cause.to_string() };
            start_child(command, mark).map_err(fail)
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "this is the place where children start")]
fn new_command(program: &str) -> process::Command {
    let mut command = process::Command::new(program);
    for setting in settings::SETTINGS.iter().filter(|setting| setting.secret) {
        command.env_remove(setting.key);
    }
    command
}

fn start_child(mut command: process::Command, mark: String) -> io::Result<Started> {
    for variable in systemd::OWN_VARIABLES {
        command.env_remove(variable);
    }
    command.env(orphans::MARK, &mark);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    die_with_parent(&mut command);
    let mut child = command.spawn()?;
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let pidfd = pid_of(&child)
        .ok_or_else(|| io::Error::other("the process has no id"))
        .and_then(|pid| Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?));
    match (pidfd, pipes) {
        (Ok(pidfd), (Some(stdin), Some(stdout), Some(stderr))) => Ok(Started {
            process: Process::Child { child, pidfd, mark },
            stdin: stdin.into(),
            stdout: stdout.into(),
            stderr: Some(stderr.into()),
        }),
        (pidfd, _) => {
            // Without a way to wait for it, it must not run. Both fail only when it is gone already.
            let _ = child.kill();
            let _ = child.wait();
            Err(pidfd.err().unwrap_or_else(|| io::Error::other("the process has no pipes")))
        }
    }
}

/// Has the system kill the child when the thread that starts it ends, so that not even `kill -9` leaves it behind.
#[allow(unsafe_code, reason = "code between fork and exec is unsafe; this makes system calls only")]
fn die_with_parent(command: &mut process::Command) {
    let parent = rustix::process::getpid();
    let before_exec = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the line above; then nobody would send the signal.
        let is_orphan = rustix::process::getppid() != Some(parent);
        if is_orphan { Err(io::Error::other("the gateway is gone")) } else { Ok(()) }
    };
    // SAFETY: the closure runs in the child between fork and exec, where only async-signal-safe functions may be
    // called. It makes two system calls through rustix, which allocates nothing for them; the error it returns on the
    // rare path allocates, in a process that is about to end and whose parent is dead.
    unsafe {
        command.pre_exec(before_exec);
    }
}

/// Runs the bundled server on a thread behind two pipes.
fn start_thread(data_dir: &Path) -> io::Result<Started> {
    let (their_stdin, stdin) = io::pipe()?;
    let (stdout, their_stdout) = io::pipe()?;
    let data_dir = data_dir.to_owned();
    let thread = threads::spawn("journeys-direct", move || {
        if let Err(error) = serve_bundled(&data_dir, io::BufReader::new(their_stdin), their_stdout) {
            log::error!("the bundled server ended: {error}");
        }
    })?;
    Ok(Started { process: Process::Thread(thread), stdin: stdin.into(), stdout: stdout.into(), stderr: None })
}

impl Process {
    /// The process id, if it is a process of its own.
    pub fn pid(&self) -> Option<u32> {
        match self {
            Process::Child { child, .. } => Some(child.id()),
            Process::Thread(_) => None,
        }
    }

    /// A descriptor that becomes readable when the process exits.
    pub fn exit(&self) -> io::Result<OwnedFd> {
        match self {
            Process::Child { pidfd, .. } => pidfd.try_clone(),
            Process::Thread(_) => Err(io::Error::other("a thread has no descriptor")),
        }
    }

    /// Whether the process ends by itself within `limit`. A thread always does, once its stdin is closed.
    pub fn ends_within(&self, limit: Duration) -> bool {
        let Process::Child { pidfd, .. } = self else { return true };
        is_ready(pidfd, PollFlags::IN, limit)
    }

    /// Ends a process whose stdin is closed: it has `grace` to go by itself, then SIGTERM goes to its group, and after
    /// another `grace` SIGKILL. Returns how it ended, in words.
    pub fn stop(self, grace: Duration) -> String {
        let has_ended = self.ends_within(grace);
        let Process::Child { child, mark, .. } = &self else { return self.kill() };
        // Also when it ended by itself: what it started may still run.
        signal_group(child, Signal::TERM);
        let group = pid_of(child);
        let mark = mark.clone();
        if !has_ended && !self.ends_within(grace) {
            return self.kill();
        }
        let ending = self.reap();
        let deadline = Instant::now() + grace;
        // What it started is our child now, and its group is not empty before that is reaped.
        orphans::reap();
        while let Some(group) = group
            && rustix::process::test_kill_process_group(group).is_ok()
        {
            if deadline <= Instant::now() {
                let _ = rustix::process::kill_process_group(group, Signal::KILL);
                break;
            }
            thread::sleep(GROUP_LOOK_INTERVAL);
            orphans::reap();
        }
        orphans::end_marked(&mark, deadline.saturating_duration_since(Instant::now()));
        ending
    }

    /// Ends the process and everything in its group now. Returns how it ended, in words.
    pub fn kill(self) -> String {
        if let Process::Child { child, .. } = &self {
            // Before it is reaped: until then its id cannot belong to another group.
            signal_group(child, Signal::KILL);
        }
        if !self.ends_within(KILL_WAIT_MAX) {
            return "was killed, but the system still holds it".to_owned();
        }
        let mark = if let Process::Child { mark, .. } = &self { Some(mark.clone()) } else { None };
        let ending = self.reap();
        if let Some(mark) = mark {
            orphans::end_marked(&mark, Duration::ZERO);
        }
        ending
    }

    fn reap(self) -> String {
        match self {
            Process::Child { mut child, .. } => match child.wait() {
                Ok(status) => describe(status),
                Err(error) => format!("ended in an unknown way ({error})"),
            },
            Process::Thread(thread) => {
                drop(thread);
                "ended".to_owned()
            }
        }
    }
}

/// Whether `fd` is ready for `flags`, or closed, within `limit`.
pub(super) fn is_ready(fd: impl AsFd, flags: PollFlags, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(&fd, flags)], Some(&timeout)) {
            Ok(n) => return 0 < n,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

fn signal_group(child: &process::Child, signal: Signal) {
    if let Some(group) = pid_of(child) {
        // Fails only when the whole group is gone already.
        let _ = rustix::process::kill_process_group(group, signal);
    }
}

fn pid_of(child: &process::Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended in an unknown way".to_owned(),
    }
}
