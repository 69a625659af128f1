//! The conversation with one running server process: calls in flight, and the lines on their way to its stdin.
//!
//! Beside the calls of clients it has a few requests of the gateway's own under way that nobody waits for: subscriptions, the
//! level of log lines, and in the modern era the open [`Listens`].
//!
//! **Limit.** As many calls as the owner allows; the outbox holds their lines at most.
//! **End.** [`Link::close`], once: no call gets in any more, and those in flight are handed back.

use std::{
    collections::VecDeque,
    fmt, io, mem,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crossbeam_channel::Sender;

use super::{
    Call, Event, Ping, ServerInfo, gathering,
    listens::{self, Listens},
    own,
};
use crate::mcp::{
    message::{self, Request},
    revision::Era,
};

/// Pings without an answer that are awaited.
const PINGS_AWAITED: usize = 4;

/// Calls without an answer that are remembered after they were given up, to tell late answers from second ones.
const GIVEN_UP_KEPT: usize = 1024;

/// With more than this unwritten, a server's own questions are left without an answer.
const OUTBOX_BYTES_FOR_ANSWERS: usize = 1024 * 1024;

/// Log lines that a client hears which has not said how severe they must be, in a process where another client has: the
/// level that most servers begin with.
const LOG_LEVEL_UNSAID: &str = "info";

/// See the module.
pub struct Link {
    worker: Arc<str>,
    era: Era,
    state: Mutex<State>,
    inbox: Sender<Event>,
    late_answers: AtomicU64,
}

struct State {
    /// `None` once the link is closed.
    stdin: Option<Arc<OwnedFd>>,
    /// Ids only grow, so an answer that finds no call is late or invented. Few enough for a linear search, from the end,
    /// where the brisk ones are.
    in_flight: Vec<(u64, Arc<Call>)>,
    /// Those of them whose clients wait for a result alone: others may be quiet for hours.
    n_brisk: usize,
    next_id: u64,
    /// Calls that were given up and not answered yet: the newest of them.
    given_up: VecDeque<GivenUp>,
    outbox: Vec<u8>,
    /// What a full pipe left over, and how much of it is written: it goes before the outbox.
    unsent: Option<(Vec<u8>, usize)>,
    /// A thread is writing, and will look at the outbox again before it stops.
    is_writing: bool,
    listens: Listens,
    /// Whether the server can be told which log lines to write.
    takes_log_level: bool,
    /// The least severe log lines that it was last told to write.
    log_level: Option<&'static str>,
}

/// A call that was given up.
#[derive(Debug)]
struct GivenUp {
    id: u64,
    /// Whether its answer is a late one, and not just the end of something that nobody wants any more.
    has_answer: bool,
}

/// What became of a call given to [`Link::send`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It is in flight.
    Yes,
    /// It was cancelled on its way here; its canceller has ended it.
    Cancelled,
    /// The link is closed. The owner knows already that this worker takes no calls.
    Closed,
}

/// How [`Link::answer`] found the call of an answer.
#[derive(Debug)]
pub enum Found {
    /// The call, which is now the finder's to end.
    Call(Arc<Call>),
    /// The call was given up before its answer came, which counts if somebody had waited for it.
    #[allow(missing_docs)]
    Late { counts: bool },
    /// The call had an answer already.
    Twice,
    /// No call ever had this id.
    Unknown,
}

impl Link {
    /// A link to the stdin of a child that is spoken to as `era` does. `inbox` is where the worker's thread learns that it
    /// has to write.
    pub fn new(worker: Arc<str>, era: Era, stdin: OwnedFd, inbox: Sender<Event>) -> io::Result<Arc<Link>> {
        // Only our end of the pipe: the child's stdin stays as it is.
        rustix::io::ioctl_fionbio(&stdin, true)?;
        let state = State {
            stdin: Some(Arc::new(stdin)),
            in_flight: Vec::new(),
            n_brisk: 0,
            next_id: 1,
            given_up: VecDeque::new(),
            outbox: Vec::new(),
            unsent: None,
            is_writing: false,
            listens: Listens::default(),
            takes_log_level: false,
            log_level: None,
        };
        Ok(Arc::new(Link { worker, era, state: Mutex::new(state), inbox, late_answers: AtomicU64::new(0) }))
    }

    /// The worker's name, like `journeys-1`.
    pub fn worker(&self) -> &Arc<str> {
        &self.worker
    }

    /// The era in which the child is spoken to.
    pub fn era(&self) -> Era {
        self.era
    }

    /// Answers that came after their call was given up.
    pub fn late_answers(&self) -> u64 {
        self.late_answers.load(Ordering::Relaxed)
    }

    /// Sends a call, unless the link is closed or nobody wants the answer any more.
    pub fn send(self: &Arc<Link>, call: &Arc<Call>) -> Sent {
        let mut state = self.lock();
        if state.stdin.is_none() {
            return Sent::Closed;
        }
        if !call.take_place(self) {
            return Sent::Cancelled;
        }
        Self::enlist(&mut state, call);
        if !gathering::note(self) {
            self.write_out(state);
        }
        Sent::Yes
    }

    /// Asks the server for a sign of life, which its owner hears of. Does nothing when the link is closed. Of those it
    /// leaves unanswered the newest are awaited.
    pub fn ping(&self) {
        let mut state = self.lock();
        if state.stdin.is_some() {
            state.forget_old_pings();
            Self::enlist(&mut state, &Call::ping(Ping::Routine, self.era));
            self.write_out(state);
        }
    }

    /// Notes what the server can do, and has it tell of changes of its lists where that must be asked for.
    pub(super) fn meet(&self, info: &ServerInfo) {
        let mut state = self.lock();
        state.takes_log_level = self.era == Era::Legacy && info.offers("logging");
        if self.era == Era::Modern
            && let Some(filter) = listens::of_lists(info)
        {
            state.listens.add(filter);
            self.listen(state);
        }
    }

    /// Has the server tell of changes of the resource `uri`.
    pub fn subscribe(&self, uri: &str) {
        let mut state = self.lock();
        match self.era {
            Era::Legacy => self.send_unattended(state, own::subscription(uri, true)),
            Era::Modern => {
                state.listens.add(listens::of_resource(uri));
                self.listen(state);
            }
        }
    }

    /// Takes [`Link::subscribe`] back.
    pub fn unsubscribe(&self, uri: &str) {
        let mut state = self.lock();
        match self.era {
            Era::Legacy => self.send_unattended(state, own::subscription(uri, false)),
            Era::Modern => {
                if let Some(id) = state.listens.remove(&listens::of_resource(uri))
                    && state.take_out_id(id).is_some()
                {
                    message::push_cancelled(&mut state.outbox, id, "nobody listens any more");
                    state.give_up(GivenUp { id, has_answer: false });
                }
                self.listen(state);
            }
        }
    }

    /// Sends what is to be listened to and is not yet, or not any more.
    fn listen(&self, mut state: MutexGuard<'_, State>) {
        if state.stdin.is_none() {
            return;
        }
        let mut listens = mem::take(&mut state.listens);
        for (request, id) in listens.idle() {
            *id = Some(Self::enlist(&mut state, &Call::unattended(listens::METHOD, request)));
        }
        state.listens = listens;
        self.write_out(state);
    }

    /// Notes that the server has ended what it was asked to tell of under `id`. False when that was nothing.
    pub(super) fn stop_listening(&self, id: u64) -> bool {
        let mut state = self.lock();
        state.listens.ended(id);
        let is_listen = state.in_flight.iter().any(|(it, call)| *it == id && call.as_unattended().is_some());
        is_listen && state.take_out_id(id).is_some()
    }

    fn send_unattended(&self, mut state: MutexGuard<'_, State>, (method, request): (&'static str, Request)) {
        if state.stdin.is_some() {
            Self::enlist(&mut state, &Call::unattended(method, request));
            self.write_out(state);
        }
    }

    /// Sends a line that no answer is awaited for, written by `push`. Lost when the link is closed, or when the server
    /// asks much and reads nothing.
    pub fn send_line(&self, push: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.lock();
        let is_deaf = state.is_writing && OUTBOX_BYTES_FOR_ANSWERS < state.outbox.len();
        if is_deaf {
            return;
        }
        push(&mut state.outbox);
        self.write_out(state);
    }

    /// Takes a call back, tells the server, and pings it. False when the call was no longer in flight.
    ///
    /// A server reads in order, so the answer to the ping says that it has read that the call was cancelled: it will ask
    /// nothing more for it, and it is not too busy with it to hear anything.
    pub fn cancel(&self, call: &Arc<Call>, reason: &str) -> bool {
        let mut state = self.lock();
        let Some(index) = state.in_flight.iter().rposition(|(_, it)| Arc::ptr_eq(it, call)) else {
            return false;
        };
        let (id, _) = state.take_out(index);
        message::push_cancelled(&mut state.outbox, id, reason);
        state.give_up(GivenUp { id, has_answer: true });
        if call.has_place() {
            Self::enlist(&mut state, &Call::ping(Ping::BehindCancel, self.era));
        }
        self.write_out(state);
        true
    }

    /// The call that has this worker for itself, if there is one.
    pub fn exclusive_call(&self) -> Option<Arc<Call>> {
        self.lock().in_flight.iter().find(|(_, call)| call.is_exclusive()).map(|(_, call)| Arc::clone(call))
    }

    /// Notes that the server has said something that may belong to any call in flight.
    pub(super) fn note_speech(&self) {
        let state = self.lock();
        state
            .in_flight
            .iter()
            .filter_map(|(_, call)| call.terms.as_ref())
            .for_each(|terms| terms.habits.silence.broken());
    }

    /// Whether there are clients' calls in flight that share this worker, and the client of each can be asked.
    pub(super) fn are_all_beside(&self) -> bool {
        let state = self.lock();
        let mut calls = state.in_flight.iter().filter(|(_, call)| call.has_place()).peekable();
        calls.peek().is_some() && calls.all(|(_, call)| call.is_beside())
    }

    /// The newest call in flight of a client that speaks MCP and hears what happens in it.
    pub fn newest_dialogue(&self) -> Option<Arc<Call>> {
        let state = self.lock();
        let found = state.in_flight.iter().rfind(|(_, call)| call.is_stream() && call.takes_input_requests());
        found.map(|(_, call)| Arc::clone(call))
    }

    /// The one client's call in flight, if there is just one. While the server may still say something for another that was cancelled,
    /// there is none.
    pub fn only_call(&self) -> Option<Arc<Call>> {
        let state = self.lock();
        let is_unsettled = state.in_flight.iter().any(|(_, call)| call.as_ping() == Some(Ping::BehindCancel));
        if is_unsettled {
            return None;
        }
        let mut calls = state.in_flight.iter().filter(|(_, call)| call.has_place());
        let (_, call) = calls.next()?;
        if calls.next().is_some() { None } else { Some(Arc::clone(call)) }
    }

    /// Finds and removes the call that an answer belongs to.
    pub fn answer(&self, id: u64) -> Found {
        let mut state = self.lock();
        if let Some(call) = state.take_out_id(id) {
            if call.as_unattended().is_some() {
                state.listens.ended(id);
            }
            return Found::Call(call);
        }
        let was_asked = 0 < id && id < state.next_id;
        if !was_asked {
            return Found::Unknown;
        }
        let was_closed = state.stdin.is_none();
        if was_closed {
            // What was in flight then has been handed back.
            return Found::Late { counts: false };
        }
        let Some(index) = state.given_up.iter().position(|it| it.id == id) else { return Found::Twice };
        let is_late = state.given_up.remove(index).is_some_and(|it| it.has_answer);
        self.late_answers.fetch_add(u64::from(is_late), Ordering::Relaxed);
        Found::Late { counts: is_late }
    }

    /// The call in flight under `id`.
    pub fn find(&self, id: u64) -> Option<Arc<Call>> {
        self.lock().in_flight.iter().rfind(|(it, _)| *it == id).map(|(_, call)| Arc::clone(call))
    }

    /// Closes the child's stdin and returns the calls that were in flight, which are now the closer's to end.
    pub fn close(&self) -> Vec<Arc<Call>> {
        let mut state = self.lock();
        state.stdin = None;
        state.outbox = Vec::new();
        state.unsent = None;
        state.n_brisk = 0;
        mem::take(&mut state.in_flight).into_iter().map(|(_, call)| call).collect()
    }

    /// The child's stdin, to wait on, while the link is open.
    pub fn stdin(&self) -> Option<Arc<OwnedFd>> {
        self.lock().stdin.clone()
    }

    /// Gives a call its id and puts its line behind the others, with what must be said to the server before it. Returns
    /// the id.
    fn enlist(state: &mut State, call: &Arc<Call>) -> u64 {
        // What one client has set is not to silence or to flood another that has set nothing.
        let unsaid = state.log_level.filter(|_| call.is_stream()).map(|_| LOG_LEVEL_UNSAID);
        let level = call.log_level().or(unsaid);
        if let Some(level) = level.filter(|level| state.takes_log_level && state.log_level != Some(level)) {
            state.log_level = Some(level);
            let (method, request) = own::log_level(level);
            Self::enlist(state, &Call::unattended(method, request));
        }
        let id = state.next_id;
        state.next_id += 1;
        state.in_flight.push((id, Arc::clone(call)));
        state.n_brisk += usize::from(call.is_brisk());
        call.request.write_to(id, &mut state.outbox);
        id
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn give_up(&mut self, given_up: GivenUp) {
        if self.given_up.len() == GIVEN_UP_KEPT {
            self.given_up.pop_front();
        }
        self.given_up.push_back(given_up);
    }

    fn forget_old_pings(&mut self) {
        let is_ping = |(_, call): &&(u64, Arc<Call>)| call.as_ping() == Some(Ping::Routine);
        let ids = self.in_flight.iter().filter(is_ping).map(|(id, _)| *id);
        let oldest = if ids.clone().count() < PINGS_AWAITED { None } else { ids.min() };
        let index = self.in_flight.iter().position(|(id, _)| Some(*id) == oldest);
        if let Some(index) = index {
            let (id, _) = self.take_out(index);
            self.give_up(GivenUp { id, has_answer: true });
        }
    }

    fn take_out_id(&mut self, id: u64) -> Option<Arc<Call>> {
        let index = self.in_flight.iter().rposition(|(it, _)| *it == id)?;
        Some(self.take_out(index).1)
    }

    fn take_out(&mut self, index: usize) -> (u64, Arc<Call>) {
        let (id, call) = self.in_flight.swap_remove(index);
        self.n_brisk -= usize::from(call.is_brisk());
        (id, call)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("worker", &self.worker).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
mod writing;
