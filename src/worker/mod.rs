//! One worker: a thread that owns one server process, from its start to its end.
//!
//! The worker speaks MCP's handshake and keeps the list of tools; calls go past its thread, straight through its
//! [`Link`]. It leaves to its [`Owner`] which worker takes which call, how many workers there are, and whether another
//! one follows it.
//!
//! | Thread | Takes from | Gives to | Ends when |
//! | --- | --- | --- | --- |
//! | `{worker}` | its inbox | the owner, the child's stdin when the pipe was full | told to stop |
//! | `{worker}-out` | child's stdout | waiting threads, the inbox, the owner | end of file, or nudged |
//! | `{worker}-err` | child's stderr | the log | end of file, or nudged |
//!
//! **Limit.** The inbox holds [`INBOX_EVENTS_MAX`] events; the calls in flight are the owner's to bound.
//! **End.** With its process. Dropping [`Worker`] stops the process (`STOP_GRACE` for each step) and joins all threads. To end many
//! workers at once, call [`Worker::begin_stop`] on all of them first.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, bounded};
use serde_json::value::RawValue;

use crate::{
    config::{self, Live},
    error::Error,
    mcp::revision::Era,
    threads::{self, Joined, lock},
};

#[cfg(any(test, benching))]
pub(crate) mod benching;
mod call;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub mod gathering;
mod habits;
mod handshake;
mod life;
mod link;
mod listens;
pub mod mailbox;
pub mod orphans;
pub mod own;
mod pipe;
pub mod probe;
pub mod process;
mod reader;
mod server_info;
mod stderr;
#[cfg(any(test, benching))]
#[allow(clippy::unwrap_used, reason = "what goes wrong is to be seen")]
#[cfg_attr(benching, allow(dead_code, reason = "the benches need a part of it"))]
pub(crate) mod testing;
pub mod usage;

pub use call::{Call, Ping, Terms, Waiter};
pub use habits::Habits;
pub use link::{Link, Sent};
pub use server_info::{Hello, ServerInfo};

use mailbox::Note;

/// Room in a worker's inbox. There is at most one full outbox, one change of tools, one end of stdout and one answer to a
/// request of the worker's own under way, and a few orders to end, so it is never full.
pub const INBOX_EVENTS_MAX: usize = 64;

/// What a worker tells whoever owns it. Every method is called from the worker's threads and must not block.
pub trait Owner: Send + Sync + 'static {
    /// The handshake is done and the tools are known: calls may be sent over `link`.
    fn ready(&self, slot: usize, link: &Arc<Link>, info: Arc<ServerInfo>, tools: Vec<Box<RawValue>>);
    /// The server has changed its tools.
    fn tools_changed(&self, slot: usize, tools: Vec<Box<RawValue>>);
    /// The worker takes no calls any more; it will end those in flight itself.
    fn closing(&self, slot: usize);
    /// The process is gone, or could not be started, and so is its worker in a moment.
    fn ended(&self, slot: usize, end: End);
    /// A client's call was answered, so that another may come.
    fn answered(&self, slot: usize, link: &Arc<Link>, call: &Arc<Call>, is_error: bool);
    /// A call was answered after it was given up.
    fn answered_late(&self);
    /// The server asks something, though no call has it for itself. Gives the one call that can be meant, which has it for itself from
    /// now on.
    fn asked(&self, slot: usize, link: &Arc<Link>) -> Option<Arc<Call>>;
    /// A ping was answered, `after` this time.
    fn pong(&self, slot: usize, link: &Arc<Link>, ping: Ping, after: Duration);
    /// Whether its workers belong to one session alone.
    fn is_of_a_session(&self) -> bool;
    /// A call whose worker died is to be sent to another one.
    fn repeat(&self, call: &Arc<Call>);
    /// Something has changed at the server; its tools only come by [`Owner::tools_changed`].
    fn changed(&self, change: Change);
    /// The server says something that belongs to no call. False when nobody wants to hear it.
    fn heard(&self, note: Note) -> bool;
    /// The child wrote a line on its stdout that is no message; it was logged. This is how the line begins.
    fn noise(&self, _beginning: &str) {}
}

/// What a server tells of outside of any call.
#[derive(Debug, Clone)]
pub enum Change {
    /// Its list of tools.
    Tools,
    /// Its list of prompts.
    Prompts,
    /// Its list of resources.
    Resources,
    /// A resource that was subscribed to, with all parameters of the notification, raw.
    #[allow(missing_docs)]
    Resource { uri: String, params: Box<RawValue> },
}

/// How a worker ended.
#[derive(Debug, Clone, Default)]
pub struct End {
    /// In words, fit for everybody's eyes: `exited with code 3`.
    pub reason: String,
    /// Whether it was told to.
    pub was_wanted: bool,
    /// Whether it refused `initialize` as a server does that speaks the modern era only.
    pub speaks_modern_only: bool,
    /// Its last lines on stderr.
    pub stderr: Vec<String>,
    /// Calls that were lost with it; those that are sent again are not.
    pub calls_lost: u64,
    /// Answers that came after their call was given up.
    pub late_answers: u64,
}

/// Everything that can wake a worker's thread.
#[derive(Debug)]
pub enum Event {
    /// The link has lines that are left to us to write. It names no link: one in the inbox, which the link itself has an
    /// end of, would keep both for ever when the worker ends before it has looked.
    Outbox,
    /// `notifications/tools/list_changed` came.
    ToolsChanged,
    /// One of the worker's own requests ended.
    Own(mailbox::Ended),
    /// The child closed its stdout.
    StdoutEnded,
    /// The child exited; something it started may still hold its stdout.
    Exited,
    /// The owner wants the worker gone, in order.
    Stop,
    /// The owner has found the worker unusable: why.
    Kill(String),
}

/// What the workers of a group are started with.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The server's name: workers are called `{server}-{n}`.
    pub server: Arc<str>,
    /// What a worker runs.
    pub command: config::Command,
    /// All settings.
    pub config: Live,
    /// The era in which it is spoken to.
    pub era: Era,
    /// In a server of the modern era that was first taken for one of the legacy one: how it refused that, for errors.
    pub refusal: Option<Arc<str>>,
    /// The client for which a legacy worker is started; `None`: the gateway speaks for itself.
    pub hello: Option<Arc<Hello>>,
}

/// What `/stats` says of a worker, beside what its owner knows.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// Process id of the running child; none in direct mode or while there is no child.
    pub pid: Option<u32>,
    /// When the running process was started.
    pub started_at: Option<Instant>,
    /// Answers that came after their call was given up.
    pub late_answers: u64,
    /// Last lines on stderr.
    pub stderr: Vec<String>,
}

/// See the module.
#[derive(Debug)]
pub struct Worker {
    name: Arc<str>,
    inbox: Sender<Event>,
    board: Arc<Board>,
    // Joined last: `drop` asks the thread to stop before.
    _thread: Joined,
}

/// Where the worker's thread writes down its state for others to read.
#[derive(Debug, Default)]
struct Board {
    status: Mutex<Status>,
    link: Mutex<Option<Arc<Link>>>,
    stderr: Mutex<Arc<stderr::LastLines>>,
}

impl Worker {
    /// Starts a worker called `name`, which its owner knows as `slot`, and its process.
    pub fn start(slot: usize, name: Arc<str>, plan: Plan, owner: Arc<dyn Owner>) -> Result<Worker, Error> {
        let (inbox, events) = bounded(INBOX_EVENTS_MAX);
        let board = Arc::new(Board::default());
        let life = life::Life::new(slot, Arc::clone(&name), plan, owner, inbox.clone(), events, Arc::clone(&board));
        let thread = threads::spawn(&*name, move || life.run())
            .map_err(|cause| Error::Failed { what: format!("cannot start a thread: {cause}"), hint: String::new() })?;
        Ok(Worker { name, inbox, board, _thread: thread })
    }

    /// The worker's name, like `journeys-1`.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// What the worker is doing now.
    pub fn status(&self) -> Status {
        let mut status = lock(&self.board.status).clone();
        status.late_answers = lock(&self.board.link).as_ref().map_or(0, |link| link.late_answers());
        status.stderr = lock(&self.board.stderr).get();
        status
    }

    /// Process id of the running child, if there is one.
    pub fn pid(&self) -> Option<u32> {
        lock(&self.board.status).pid
    }

    /// Has the worker stop its process in order, without waiting for it.
    pub fn begin_stop(&self) {
        self.tell(Event::Stop);
    }

    /// Has the worker kill its process because of `reason`, without waiting for it.
    pub fn begin_kill(&self, reason: String) {
        self.tell(Event::Kill(reason));
    }

    fn tell(&self, event: Event) {
        // Fails only when the thread is gone, or has more to read than it could in a second.
        let _ = self.inbox.send_timeout(event, Duration::from_secs(1));
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.begin_stop();
    }
}

/// Names the receiving end for the life of a worker.
type Events = Receiver<Event>;
