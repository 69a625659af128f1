//! The use of a group's workers: what a client's errand is, how it is begun, waited for, and taken back.
//!
//! **End.** A group lives as long as there is a lease; nothing else is kept by one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::value::RawValue;

use super::{
    catalog::Tool,
    dispatch::{Dispatch, Left, MORE_WORKERS},
    group::Group,
};
use crate::{
    error::{Error, Seconds},
    mcp::{message::Request, revision::Era, trace::Trace},
    worker::{
        Call, Habits, Link, ServerInfo, Terms, Waiter,
        mailbox::{Ended, Event, Mailbox, Wake},
        own,
    },
};

/// See the module.
#[derive(Debug)]
pub struct Lease {
    pub(super) group: Arc<Group>,
    /// Whose calls these are: those of one key wait in one line.
    key: Arc<str>,
    /// It only waits for news.
    is_standing: bool,
}

/// What a server is asked for on behalf of a client.
#[derive(Debug)]
pub struct Errand {
    request: Request,
    may_repeat: bool,
    habits: Arc<Habits>,
    log_level: Option<&'static str>,
    takes_input_requests: bool,
}

impl Errand {
    /// A call of `tool` by a client that speaks no MCP, for workers of this era. `arguments` is a JSON object; `trace` is what the
    /// client says that the call belongs to.
    pub fn tool(era: Era, tool: &Tool, arguments: &RawValue, trace: Option<&Trace>) -> Errand {
        let stamps = (era == Era::Modern).then(own::call_stamp).into_iter().chain(trace.map(Trace::stamp));
        let request = Request::tools_call(&tool.name, arguments, stamps);
        Errand { may_repeat: tool.may_repeat, habits: Arc::clone(&tool.habits), ..Errand::new(request) }
    }

    /// A request of a client that speaks no MCP, for workers of this era, that only reads, as those for lists, resources and
    /// prompts do. `params` is a JSON object.
    pub fn read(era: Era, method: &str, params: &str, trace: Option<&Trace>) -> Errand {
        Errand { may_repeat: true, ..Errand::new(own::traced(era, method, Some(params), trace)) }
    }

    /// A request of a client that speaks MCP, put together for the era of the workers already. It is one of
    /// `tool`, may be sent again when its worker dies if it `repeats`, and its client wants log lines of at least `log_level`
    /// (legacy workers only; a modern request says so itself).
    pub fn passed(request: Request, tool: Option<&Tool>, repeats: bool, log_level: Option<&'static str>) -> Errand {
        let habits = tool.map(|tool| Arc::clone(&tool.habits)).unwrap_or_default();
        Errand { may_repeat: repeats, habits, log_level, takes_input_requests: true, ..Errand::new(request) }
    }

    fn new(request: Request) -> Errand {
        Errand { request, may_repeat: false, habits: Arc::default(), log_level: None, takes_input_requests: false }
    }
}

/// An errand that only has to be begun; its lease is to live until it has ended.
#[derive(Debug)]
pub struct Ready {
    group: Arc<Group>,
    call: Arc<Call>,
}

/// Why a call is taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakenBack {
    /// Its client went away.
    ClientGone,
    /// Its client said so.
    ByClient,
    /// Its time is up.
    TooLong,
}

impl TakenBack {
    /// As the server is told.
    fn reason(self) -> &'static str {
        match self {
            TakenBack::ClientGone => "the client went away",
            TakenBack::ByClient => "the client cancelled it",
            TakenBack::TooLong => "the call took too long",
        }
    }
}

/// How long a call may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Longest silence: since the start of the call, or since its last progress.
    pub silence_max: Duration,
    /// Longest time in all.
    pub time_max: Duration,
}

impl Limits {
    /// When a call that began at `started_at` is to be given up, as things stand now.
    pub fn deadline(&self, call: &Call, started_at: Instant) -> Instant {
        (call.heard_at() + self.silence_max).min(started_at + self.time_max)
    }
}

/// A result and who gave it.
#[derive(Debug)]
pub struct Answered {
    /// The worker's name.
    pub worker: Arc<str>,
    /// The result, raw.
    pub raw: Box<RawValue>,
}

/// Why a call has no result.
#[derive(Debug)]
pub enum NoResult {
    /// It failed.
    Failed(Error),
    /// Nobody waits for it any more; it was taken back.
    ClientGone,
}

impl From<Error> for NoResult {
    fn from(error: Error) -> NoResult {
        NoResult::Failed(error)
    }
}

impl Lease {
    pub(super) fn new(group: &Arc<Group>, key: &Arc<str>) -> Lease {
        group.begin_use();
        Lease { group: Arc::clone(group), key: Arc::clone(key), is_standing: false }
    }

    /// The same use, which begins nothing any more: it keeps a group from being idle, but not a server that is replaced or removed.
    #[must_use]
    pub fn standing(mut self) -> Lease {
        if !std::mem::replace(&mut self.is_standing, true) {
            self.group.stand();
        }
        self
    }

    /// The era that these workers speak: the way in which an errand must be put. Settled once one of them was ready, which
    /// [`Lease::info_by`] waits for.
    pub fn era(&self) -> Era {
        self.group.era()
    }

    /// Whether these workers belong to the asker's session alone.
    pub fn is_own(&self) -> bool {
        self.group.whose().session().is_some()
    }

    /// What the server of these workers says of itself, waiting for the first of them at most until `deadline`, and only
    /// while `client` is there.
    ///
    /// Fails as [`Pool::catalog_by`](super::Pool::catalog_by) does.
    pub fn info_by(&self, deadline: Instant, client: &Mailbox) -> Result<Arc<ServerInfo>, Error> {
        self.group.info_by(deadline, client)
    }

    /// A tool as these workers list it.
    pub fn tool(&self, name: &str) -> Option<Arc<Tool>> {
        self.group.catalogs().get()?.get(name).map(Arc::clone)
    }

    /// Every tool as these workers list them; none before the first of them has.
    pub fn tools(&self) -> Vec<Arc<Tool>> {
        self.group.catalogs().get().map(|catalog| catalog.tools().to_vec()).unwrap_or_default()
    }

    /// Counts somebody who wants to hear of changes of the resource `uri`. With the first one every worker is told that has
    /// such a server, also those that get ready later. The caller bounds how many there are, and keeps this lease meanwhile.
    /// The worker of `knowing` was told by the client's own request.
    pub fn subscribe(&self, uri: &str, knowing: Option<&Arc<Link>>) {
        self.group.subscribed(|subscriptions| subscriptions.add(uri, knowing));
    }

    /// How many there are that want to hear of `uri`.
    pub fn subscribers(&self, uri: &str) -> usize {
        self.group.subscribed(|subscriptions| subscriptions.count(uri))
    }

    /// Takes one [`Lease::subscribe`] back. With the last one the workers are told.
    pub fn unsubscribe(&self, uri: &str, knowing: Option<&Arc<Link>>) {
        self.group.subscribed(|subscriptions| subscriptions.remove(uri, knowing));
    }

    /// Sends a line to every one of these workers, written by `push`: news from the client, which want no answer.
    pub fn tell(&self, push: impl Fn(&mut Vec<u8>)) {
        self.group.links().iter().for_each(|link| link.send_line(&push));
    }

    /// Begins what is asked for by `errand`, which `waiter` hears of under `tag`.
    ///
    /// Fails with [`Error::BreakerOpen`], [`Error::NoWorker`] or [`Error::Overloaded`] when it cannot even wait for a
    /// worker.
    pub fn begin(&self, errand: Errand, waiter: Waiter, tag: u64) -> Result<Arc<Call>, Error> {
        self.ready(errand, waiter, tag).begin()
    }

    /// As [`Lease::begin`], but for the beginning.
    pub fn ready(&self, errand: Errand, waiter: Waiter, tag: u64) -> Ready {
        let Errand { request, may_repeat, habits, log_level, takes_input_requests } = errand;
        let terms = Terms { line: Arc::clone(&self.key), may_repeat, habits, log_level, takes_input_requests };
        Ready { group: Arc::clone(&self.group), call: Call::new(request, Some(terms), waiter, tag) }
    }

    /// Takes a call back. True: its end is the caller's now. False: it ended before, and its end is in the mailbox, or
    /// will be in a moment.
    pub fn cancel(&self, call: &Arc<Call>, why: TakenBack) -> bool {
        let left = if why == TakenBack::TooLong { Left::TimedOut } else { Left::Cancelled };
        self.group.cancel(call, left, why.reason())
    }

    /// Does an errand and waits for its result, which `client` hears of; it must wait for nothing else meanwhile. The
    /// limits count from `started_at`; `name` stands for the errand in errors.
    pub fn call(
        &self,
        errand: Errand,
        name: &str,
        limits: Limits,
        started_at: Instant,
        client: &Arc<Mailbox>,
    ) -> Result<Answered, NoResult> {
        let tag = client.next_tag();
        let call = self.begin(errand, Waiter::Result(Arc::clone(client)), tag)?;
        loop {
            let why = match client.wait(limits.deadline(&call, started_at)) {
                Wake::Event(Event::Ended(ended)) if ended.tag == tag => return Ok(self.answered(ended)?),
                // Of an earlier call that was given up as it ended.
                Wake::Event(_) => continue,
                // Progress has moved the deadline while we slept.
                Wake::Deadline if Instant::now() < limits.deadline(&call, started_at) => continue,
                Wake::Deadline => TakenBack::TooLong,
                Wake::Closed => TakenBack::ClientGone,
            };
            return self.give_up(&call, why, name, limits, started_at, client);
        }
    }

    /// Takes back a call that `client` waits for, and says what became of it: it may have ended meanwhile. The others as in
    /// [`Lease::call`].
    pub fn give_up(
        &self,
        call: &Arc<Call>,
        why: TakenBack,
        name: &str,
        limits: Limits,
        started_at: Instant,
        client: &Mailbox,
    ) -> Result<Answered, NoResult> {
        let is_ours_to_end = self.cancel(call, why);
        if !is_ours_to_end {
            return Ok(self.answered(client.wait_for_end(call.tag()))?);
        }
        if client.is_closed() {
            return Err(NoResult::ClientGone);
        }
        Err(self.too_late(call, name, started_at, limits).into())
    }

    /// What the end of a call comes down to.
    pub fn answered(&self, ended: Ended) -> Result<Answered, Error> {
        let worker = ended.worker.unwrap_or_else(|| Arc::clone(self.group.server()));
        Ok(Answered { worker, raw: ended.outcome? })
    }

    /// What to say of a call whose time is up: how long, and what was waited for.
    pub fn too_late(&self, call: &Call, tool: &str, started_at: Instant, limits: Limits) -> Error {
        let is_silent = call.heard_at() + limits.silence_max <= started_at + limits.time_max;
        let after = if is_silent { limits.silence_max } else { limits.time_max };
        let Some(link) = call.link() else {
            let what = format!("no worker of `{}` was free within {}", self.group.server(), Seconds(after));
            let retry_after = self.group.look(Dispatch::retry_after);
            return Error::Overloaded { what, hint: MORE_WORKERS, retry_after };
        };
        let missed = if is_silent { "answer" } else { "finish" };
        Error::Timeout { what: format!("worker `{}` did not {missed} `{tool}`", link.worker()), after }
    }
}

impl Ready {
    /// Begins it. Fails like [`Lease::begin`].
    pub fn begin(self) -> Result<Arc<Call>, Error> {
        self.group.submit(&self.call)?;
        Ok(self.call)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.group.end_use(self.is_standing);
    }
}
