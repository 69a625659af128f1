//! A conversation on a WebSocket: what its client says is heard, what happens in its calls is told, a turn at a time.
//!
//! Between two turns nobody serves it: `http` says when the next one is, on a thread of its own or on one that it shares with others. A
//! client here can be asked things, so each of its calls has a worker for itself, unless its tool is known to ask nothing or the call
//! says with `"input": false` that nobody answers. The end of a call that is the only one is told by the thread that has its result (`relay.rs`). One file holds it
//! all, because what is heard and what is told change the same few fields.
//!
//! **Limit.** [`CALLS_MAX`] calls at a time, `BODY_BYTES_MAX` for a message, the mailbox for what waits for the client.
//! **End.** Either side closes, the client is silent for `KEEP_ALIVE_TIMEOUT`, or the last call has ended and the gateway drains
//! or the key is not valid any more. Calls that still run are taken back when it is dropped.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde::Deserialize;
use serde_json::value::RawValue;
use tungstenite::{
    Message,
    error::{CapacityError, ProtocolError},
    protocol::{CloseFrame, Role, WebSocketConfig, WebSocketContext, frame::coding::CloseCode},
};

use super::{
    Socket,
    relay::{RESULT_BYTES_MAX, Shared},
    wording::{Incoming, error_text, event_text, object_text},
};
use crate::{
    api::{
        Counters, RawOutlet, Way,
        calls::{CANCELLED, CallBody, Caller, event_of},
    },
    error::Error,
    mcp::{message, raw},
    pool::{Limits, TakenBack},
    threads,
    worker::{
        Call, Waiter,
        mailbox::{Ended, Event, Leftover, Note, Question, Relay},
    },
};

/// Most calls that run on one socket.
const CALLS_MAX: usize = 64;

/// Messages that are heard, and events that are told, before it is the other's turn.
const AT_ONCE_MAX: usize = 64;

/// How long it may take until a client learns that the only call on its socket has started: when the call ends before that, both are
/// told together, which saves a wake-up on either side.
const STARTED_WITHIN: Duration = Duration::from_millis(5);

/// Bytes that are read at once. Every socket holds this much, so it is small.
const READ_BYTES: usize = 2048;

/// Written messages are kept together up to this much before they are flushed.
const WRITE_BYTES: usize = 16 * 1024;

/// JSON-RPC code of a client's refusal to answer a question, when it gives no error that JSON-RPC knows.
const REFUSED: i64 = -1;

/// See the module.
pub struct Conversation {
    socket: Arc<Socket>,
    web: WebSocketContext,
    /// Where the end of a call may be told by others.
    outlet: Option<Arc<dyn RawOutlet>>,
    /// Written to when a call has something to tell.
    bell: Arc<OwnedFd>,
    /// In the order of their beginning.
    calls: Vec<Running>,
    /// The call whose start is not told yet, and when it is to be.
    untold: Option<(u64, Instant)>,
    /// The call whose end others tell until the next turn.
    delegated: Option<u64>,
    n_calls: u64,
    heard_at: Instant,
    told_at: Instant,
    /// Longest time without a word of ours.
    quiet_max: Duration,
}

/// What follows a turn.
#[derive(Debug)]
pub enum Pause {
    /// The next turn, when there is something to read, the bell has rung, or this has come.
    Until(Instant),
    /// The next turn at once: there is more than should keep others waiting.
    None,
    /// Nothing: the conversation is over, and whether that is in order.
    Over(io::Result<()>),
}

/// A call that runs.
struct Running {
    tag: u64,
    shared: Arc<Shared>,
    call: Arc<Call>,
    limits: Limits,
    started_at: Instant,
    /// Its time was up as it ended; its end is on the way.
    is_ending: bool,
    /// What the server has asked and the client has not answered, by `input_id`.
    questions: HashMap<String, Question>,
    n_questions: u64,
}

impl Running {
    /// When it is to be given up. While the client thinks about a question, only the time in all counts.
    fn give_up_at(&self) -> Option<Instant> {
        if self.is_ending {
            return None;
        }
        Some(if self.questions.is_empty() {
            self.limits.deadline(&self.call, self.started_at)
        } else {
            self.started_at + self.limits.time_max
        })
    }

    /// Takes it back from its workers. False: it ended before.
    fn take_back(&self, why: TakenBack) -> bool {
        self.shared.look(|prepared| prepared.workers.cancel(&self.call, why)).unwrap_or(false)
    }
}

/// How much of what a client has sent was heard.
enum Heard {
    /// Everything.
    All,
    /// There may be more.
    Some,
    /// The conversation is over.
    End,
}

impl Conversation {
    pub(super) fn new(
        socket: Socket,
        bell: Arc<OwnedFd>,
        outlet: Option<Arc<dyn RawOutlet>>,
        read_ahead: Vec<u8>,
    ) -> Conversation {
        let bytes_max = Some(socket.api.config.now().body_bytes_max);
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BYTES)
            .write_buffer_size(WRITE_BYTES)
            .max_message_size(bytes_max)
            .max_frame_size(bytes_max);
        Counters::add(&socket.api.counters.sockets);
        let now = Instant::now();
        Conversation {
            quiet_max: socket.api.next_quiet_max(),
            socket: Arc::new(socket),
            web: WebSocketContext::from_partially_read(read_ahead, Role::Server, Some(config)),
            outlet,
            bell,
            calls: Vec::new(),
            untold: None,
            delegated: None,
            n_calls: 0,
            heard_at: now,
            told_at: now,
        }
    }

    /// Rings when there is something to tell.
    pub fn bell(&self) -> &Arc<OwnedFd> {
        &self.bell
    }

    /// When its client has last said something; in the beginning, when it was opened.
    pub fn heard_at(&self) -> Instant {
        self.heard_at
    }

    /// Tells what has happened and hears what was said, without waiting for more of either. Reading from `wire` does not block: it
    /// fails with [`io::ErrorKind::WouldBlock`] when there is nothing. Writing may, with a deadline.
    pub fn take_turn(&mut self, wire: &mut (impl Read + Write)) -> Pause {
        match self.tell_and_hear(wire) {
            Ok(pause) => pause,
            Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed) => Pause::Over(Ok(())),
            Err(tungstenite::Error::Io(error)) => Pause::Over(Err(error)),
            Err(error) => Pause::Over(Err(io::Error::other(error))),
        }
    }

    fn tell_and_hear(&mut self, wire: &mut (impl Read + Write)) -> tungstenite::Result<Pause> {
        if !self.recall(wire)? {
            // The bell is about to ring, whatever else is due.
            return Ok(Pause::Until(Instant::now() + self.quiet_max));
        }
        let all_told = self.tell_some(wire)?;
        let client = &self.socket.client;
        let must_end = client.is_closed() || self.calls.is_empty();
        if client.is_draining() && must_end {
            self.close(CloseCode::Away, "the gateway is stopping", wire)?;
            return Ok(Pause::Over(Ok(())));
        }
        if client.is_closed() {
            return Ok(Pause::Over(Ok(())));
        }
        // Running calls were let in, and end.
        if self.calls.is_empty()
            && let Err(error) = self.socket.api.check_still(&self.socket.principal)
        {
            self.close(CloseCode::Policy, &error.to_string(), wire)?;
            return Ok(Pause::Over(Ok(())));
        }
        let heard = self.hear_some(wire)?;
        if matches!(heard, Heard::End) {
            return Ok(Pause::Over(Ok(())));
        }
        self.look_at_the_time(wire)?;
        self.web.flush(wire)?;
        let is_quiet = all_told && matches!(heard, Heard::All);
        if !is_quiet {
            return Ok(Pause::None);
        }
        self.delegate();
        Ok(Pause::Until(self.next_deadline()))
    }

    /// Leaves the end of the only call to whoever has it, until the next turn: meanwhile nobody else writes.
    fn delegate(&mut self) {
        if let [only] = &self.calls[..]
            && self.outlet.is_some()
        {
            self.socket.client.delegate(only.tag, Arc::clone(&only.shared) as Arc<dyn Relay>);
            self.delegated = Some(only.tag);
        }
    }

    /// Has this turn tell everything again, and tells what is left of what happened since the last. False: somebody is at the end of
    /// the only call right now, and the bell will ring.
    fn recall(&mut self, wire: &mut (impl Read + Write)) -> tungstenite::Result<bool> {
        let Some(tag) = self.delegated else { return Ok(true) };
        let client = Arc::clone(&self.socket.client);
        let mut is_free = client.recall();
        // Somebody is at it, or was, so its end is there or comes in a moment.
        while !is_free {
            let event = if threads::has_stand_in() {
                let Some(event) = client.take_or_arm_for_all(&self.bell) else { return Ok(false) };
                event
            } else {
                client.wait_for_next()
            };
            is_free = match &event {
                Event::Ended(ended) => ended.tag == tag,
                Event::Relayed { tag: it, .. } => *it == tag,
                _ => false,
            };
            self.tell(event, wire)?;
        }
        self.delegated = None;
        Ok(true)
    }

    /// Tells what has happened. False: there is more, but the client is to be heard as well.
    fn tell_some(&mut self, wire: &mut (impl Read + Write)) -> tungstenite::Result<bool> {
        for _ in 0..AT_ONCE_MAX {
            match self.socket.client.take_or_arm(&self.bell) {
                Some(event) => self.tell(event, wire)?,
                None => return Ok(true),
            }
        }
        Ok(false)
    }

    /// Reads what has come, but not for ever: there may be something to tell.
    fn hear_some(&mut self, wire: &mut (impl Read + Write)) -> tungstenite::Result<Heard> {
        for _ in 0..AT_ONCE_MAX {
            match self.web.read(wire) {
                Ok(message) => {
                    self.heard_at = Instant::now();
                    match message {
                        Message::Text(text) => self.take_message(&text, wire)?,
                        Message::Binary(_) => {
                            let what = "binary messages are not taken; send JSON as text".to_owned();
                            self.send_error(None, &Error::BadRequest { what }, wire)?;
                        }
                        // Pings are answered with the next flush; a close is answered and ends with an error below.
                        Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => {}
                    }
                }
                Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Heard::All);
                }
                Err(tungstenite::Error::Capacity(CapacityError::MessageTooLong { .. })) => {
                    self.close(CloseCode::Size, "the message is larger than `BODY_BYTES_MAX`", wire)?;
                    return Ok(Heard::End);
                }
                Err(tungstenite::Error::Utf8(_)) => {
                    self.close(CloseCode::Invalid, "the text is not UTF-8", wire)?;
                    return Ok(Heard::End);
                }
                // The client left without a goodbye.
                Err(tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => {
                    return Ok(Heard::End);
                }
                Err(tungstenite::Error::Protocol(error)) => {
                    self.close(CloseCode::Protocol, &error.to_string(), wire)?;
                    return Ok(Heard::End);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Heard::Some)
    }

    fn take_message(&mut self, text: &str, wire: &mut (impl Read + Write)) -> tungstenite::Result<()> {
        let incoming: Incoming<'_> = match serde_json::from_str(text) {
            Ok(incoming) => incoming,
            Err(cause) => {
                let is_json = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
                let error = if is_json {
                    Error::BadRequest { what: format!("the message is not understood: {cause}") }
                } else {
                    Error::InvalidJson { what: "the message", cause: cause.to_string() }
                };
                return self.send_error(None, &error, wire);
            }
        };
        let id = incoming.id.map(|id| id.get());
        let is_id = |id: &str| id.starts_with(['"', '-']) || id.starts_with(|first: char| first.is_ascii_digit());
        if id.is_some_and(|id| !is_id(id)) {
            let what = "`id`: expected a string or a number".to_owned();
            return self.send_error(None, &Error::BadRequest { what }, wire);
        }
        let done = match incoming.event.as_deref() {
            None => self.begin(&incoming, id, wire),
            Some("cancel") => self.cancel(id, wire),
            Some("input") => self.answer_question(&incoming, id),
            Some(other) => Err(Error::BadRequest {
                what: format!("there is no event `{other}`; send a call, `cancel` or `input`"),
            }
            .into()),
        };
        match done {
            Ok(()) => Ok(()),
            Err(Trouble::Refused(error)) => {
                // An error with the id of a call is its end; one that runs on must not look ended.
                let is_running = self.calls.iter().any(|running| Some(&*running.shared.id) == id);
                self.send_error(id.filter(|_| !is_running), &error, wire)
            }
            Err(Trouble::Lost(error)) => Err(error),
        }
    }

    fn begin(
        &mut self,
        incoming: &Incoming<'_>,
        id: Option<&str>,
        wire: &mut (impl Read + Write),
    ) -> Result<(), Trouble> {
        let bad = |what: String| Trouble::Refused(Error::BadRequest { what });
        self.n_calls += 1;
        let id = id.map_or_else(|| format!("\"call-{}\"", self.n_calls), str::to_owned);
        if self.socket.client.is_draining() {
            let reason = "the gateway is stopping".to_owned();
            return Err(Trouble::Refused(Error::NoWorker {
                server: "all".to_owned(),
                reason,
                retry_after: Duration::from_secs(1),
            }));
        }
        if self.calls.iter().any(|running| running.shared.id == id) {
            return Err(bad(format!("a call with the id {id} is running already")));
        }
        if self.calls.len() == CALLS_MAX {
            let what = format!("{CALLS_MAX} calls run on this socket already");
            return Err(Trouble::Refused(Error::Overloaded {
                what,
                hint: "wait for one to end, or open another socket",
                retry_after: Duration::from_secs(1),
            }));
        }
        let socket = Arc::clone(&self.socket);
        let tool = match (&socket.tool, incoming.tool.as_deref()) {
            (Some(tool), None) => tool,
            (None, Some(tool)) => tool,
            (Some(tool), Some(other)) if tool == other => tool,
            (Some(tool), Some(_)) => {
                return Err(bad(format!("this socket is for `{tool}` alone; use `/ws` for others")));
            }
            (None, None) => return Err(bad("`tool` is missing: on `/ws` every call names its tool".to_owned())),
        };
        let Socket { api, scope, principal, session, client, address, request_id, .. } = &*socket;
        address.take_request()?;
        let body = CallBody { arguments: incoming.arguments, timeout: incoming.timeout };
        let own_trace = incoming.trace();
        let caller = Caller {
            scope: scope.as_deref(),
            principal,
            session: session.as_deref(),
            client,
            way: Way::WebSocket,
            request_id,
            trace: own_trace.as_ref().or(self.socket.trace.as_ref()),
        };
        let prepared = api.prepare(tool, &body, &caller)?;
        log::debug!("{request_id} call {id} of {}, key {}", tool.escape_debug(), principal.name);
        let tag = client.next_tag();
        let waiter = match incoming.input {
            Some(false) => Waiter::Stream(Arc::clone(client)),
            None if prepared.target.tool.habits.silence.is_known() => Waiter::Beside(Arc::clone(client)),
            None | Some(true) => Waiter::Dialogue(Arc::clone(client)),
        };
        let call = prepared.begin(waiter, tag);
        let call = call.inspect_err(|error| api.count_end(&prepared, request_id, None, Some(error.code())))?;
        let (limits, started_at) = (prepared.limits, prepared.started_at);
        let started = event_text("started", &id, &[("tool", &raw::quoted(tool))]);
        let shared = Arc::new(Shared {
            socket: Arc::clone(&socket),
            outlet: self.outlet.clone(),
            id,
            prepared: Mutex::new(Some(prepared)),
            untold: Mutex::new(Some(started)),
            has_chunks: AtomicBool::new(false),
        });
        // Noted before it is told: when the telling fails, it is taken back with the others.
        let (is_ending, questions, n_questions) = (false, HashMap::new(), 0);
        self.calls.push(Running { tag, shared, call, limits, started_at, is_ending, questions, n_questions });
        self.tell_started(wire)?;
        self.untold = Some((tag, Instant::now() + STARTED_WITHIN));
        let can_wait = self.outlet.is_some() && self.calls.len() == 1;
        if !can_wait {
            self.tell_started(wire)?;
        }
        Ok(())
    }

    /// Tells that a call has started, if that is not told yet.
    fn tell_started(&mut self, wire: &mut (impl Read + Write)) -> tungstenite::Result<()> {
        let Some((tag, _)) = self.untold.take() else { return Ok(()) };
        match self.running(tag).and_then(|running| running.shared.take_untold()) {
            Some(text) => self.send_text(text, wire),
            None => Ok(()),
        }
    }

    fn cancel(&mut self, id: Option<&str>, wire: &mut (impl Read + Write)) -> Result<(), Trouble> {
        let tag = self.tag_of(id)?;
        let Some(running) = self.running(tag) else { return Ok(()) };
        if running.take_back(TakenBack::ByClient) {
            self.tell_cancelled(tag, wire)?;
        }
        // Else it has just ended, and its end is told instead.
        Ok(())
    }

    fn answer_question(&mut self, incoming: &Incoming<'_>, id: Option<&str>) -> Result<(), Trouble> {
        let tag = self.tag_of(id)?;
        let missing = |what: &str| Trouble::Refused(Error::BadRequest { what: what.to_owned() });
        let input_id = incoming.input_id.as_deref().ok_or_else(|| missing("`input_id` is missing"))?;
        let is_answered = incoming.result.is_some() != incoming.error.is_some();
        if !is_answered {
            return Err(missing("an input has either `result` or `error`"));
        }
        let question = self.running_mut(tag).and_then(|running| running.questions.remove(input_id));
        let Some(question) = question else {
            let what = format!("nothing was asked as `{}`, or it is answered already", input_id.escape_debug());
            return Err(Trouble::Refused(Error::BadRequest { what }));
        };
        if let Some(running) = self.running(tag) {
            running.call.heard();
        }
        match (incoming.result, incoming.error) {
            (Some(result), _) => question.link.send_line(|out| message::push_result(out, &question.id, result.get())),
            (None, error) => {
                /// What JSON-RPC asks of an error; whatever else it has goes along.
                #[derive(Deserialize)]
                struct Refusal {
                    #[serde(rename = "code")]
                    _code: i64,
                    #[serde(rename = "message")]
                    _message: String,
                }
                let is_sound = |error: &&RawValue| serde_json::from_str::<Refusal>(error.get()).is_ok();
                match error.filter(is_sound) {
                    Some(error) => {
                        question.link.send_line(|out| message::push_raw_error(out, &question.id, error.get()))
                    }
                    None => {
                        let why = "the client refused to answer";
                        question.link.send_line(|out| message::push_error(out, &question.id, REFUSED, why));
                    }
                }
            }
        }
        Ok(())
    }

    fn tag_of(&self, id: Option<&str>) -> Result<u64, Error> {
        let id = id.ok_or_else(|| Error::BadRequest { what: "`id` is missing: which call is meant?".to_owned() })?;
        let found = self.calls.iter().find(|running| running.shared.id == id);
        found
            .map(|running| running.tag)
            .ok_or_else(|| Error::BadRequest { what: format!("no call with the id {id} is running") })
    }

    fn running(&self, tag: u64) -> Option<&Running> {
        self.calls.iter().find(|running| running.tag == tag)
    }

    fn running_mut(&mut self, tag: u64) -> Option<&mut Running> {
        self.calls.iter_mut().find(|running| running.tag == tag)
    }

    fn take_out(&mut self, tag: u64) -> Option<Running> {
        let index = self.calls.iter().position(|running| running.tag == tag)?;
        Some(self.calls.remove(index))
    }

    /// Tells the client what happened in one of its calls.
    fn tell(&mut self, event: Event, wire: &mut (impl Read + Write)) -> tungstenite::Result<()> {
        match event {
            Event::Ended(ended) => self.tell_end(ended, wire),
            Event::Note(tag, note) => {
                let Some(running) = self.running_mut(tag) else { return Ok(()) };
                if let Note::Question(question) = note {
                    running.n_questions += 1;
                    let input_id = format!("input-{}", running.n_questions);
                    let (id, method) = (running.shared.id.clone(), raw::quoted(&question.method));
                    let (quoted, params) = (raw::quoted(&input_id), question.params.get().to_owned());
                    running.questions.insert(input_id, question);
                    return self.send(
                        "input_required",
                        &id,
                        &[("input_id", &quoted), ("method", &method), ("params", &params)],
                        wire,
                    );
                }
                let Some((name, fields)) = event_of(&note) else { return Ok(()) };
                if name == "chunk" {
                    running.shared.has_chunks.store(true, Ordering::Relaxed);
                }
                let text = object_text(name, &running.shared.id, &fields);
                self.send_text(text, wire)
            }
            Event::Relayed { tag, at, leftover } => {
                self.take_out(tag);
                self.untold = None;
                self.told_at = at;
                match leftover {
                    Leftover::Nothing => Ok(()),
                    Leftover::Bytes(bytes) => Ok(wire.write_all(&bytes)?),
                    Leftover::Gone => Err(tungstenite::Error::ConnectionClosed),
                }
            }
            Event::TakenBack(_) | Event::Nudge => Ok(()),
        }
    }

    fn tell_end(&mut self, ended: Ended, wire: &mut (impl Read + Write)) -> tungstenite::Result<()> {
        let tag = ended.tag;
        if ended.outcome.as_ref().is_ok_and(|raw| RESULT_BYTES_MAX < raw.get().len()) {
            // Others are not to wait for a long one.
            threads::about_to_wait();
        }
        self.tell_started(wire)?;
        let Some(running) = self.take_out(tag) else { return Ok(()) };
        let Some(prepared) = running.shared.take() else { return Ok(()) };
        running.shared.conclude(&prepared, ended, |text| self.send_text(text, wire))
    }

    /// Gives up calls whose time is up, says something when it was quiet for long, and ends when the client is silent.
    fn look_at_the_time(&mut self, wire: &mut (impl Read + Write)) -> tungstenite::Result<()> {
        let now = Instant::now();
        let late: Vec<u64> = self
            .calls
            .iter()
            .filter(|running| running.give_up_at().is_some_and(|at| at <= now))
            .map(|running| running.tag)
            .collect();
        for tag in late {
            let Some(running) = self.running_mut(tag) else { continue };
            let error = running.shared.look(|prepared| prepared.too_late(&running.call));
            match error.filter(|_| running.take_back(TakenBack::TooLong)) {
                Some(error) => self.tell_end(Ended { tag, worker: None, outcome: Err(error) }, wire)?,
                None => running.is_ending = true,
            }
        }
        if self.untold.is_some_and(|(_, at)| at <= now) {
            self.tell_started(wire)?;
        }
        let config = self.socket.api.config.now();
        if self.heard_at + config.keep_alive_timeout <= now {
            return Err(tungstenite::Error::ConnectionClosed);
        }
        if self.told_at + self.quiet_max <= now {
            self.told_at = now;
            self.web.write(wire, Message::Ping(Vec::new().into()))?;
        }
        Ok(())
    }

    fn next_deadline(&self) -> Instant {
        let config = self.socket.api.config.now();
        let quiet = (self.heard_at + config.keep_alive_timeout).min(self.told_at + self.quiet_max);
        let quiet = self.untold.map_or(quiet, |(_, at)| quiet.min(at));
        self.calls.iter().filter_map(Running::give_up_at).fold(quiet, Instant::min)
    }

    /// Ends a call that its client took back.
    fn tell_cancelled(&mut self, tag: u64, wire: &mut (impl Read + Write)) -> tungstenite::Result<()> {
        self.tell_started(wire)?;
        let Some(running) = self.take_out(tag) else { return Ok(()) };
        if let Some(prepared) = running.shared.take() {
            self.socket.api.count_end(&prepared, &self.socket.request_id, None, Some(CANCELLED));
        }
        self.send("cancelled", &running.shared.id, &[], wire)
    }

    fn send(
        &mut self,
        event: &str,
        id: &str,
        fields: &[(&str, &str)],
        wire: &mut (impl Read + Write),
    ) -> tungstenite::Result<()> {
        self.send_text(event_text(event, id, fields), wire)
    }

    fn send_error(
        &mut self,
        id: Option<&str>,
        error: &Error,
        wire: &mut (impl Read + Write),
    ) -> tungstenite::Result<()> {
        self.send_text(error_text(id, error), wire)
    }

    fn send_text(&mut self, text: String, wire: &mut (impl Read + Write)) -> tungstenite::Result<()> {
        self.tell_started(wire)?;
        self.told_at = Instant::now();
        self.web.write(wire, Message::Text(text.into()))
    }

    fn close(&mut self, code: CloseCode, reason: &str, wire: &mut (impl Read + Write)) -> tungstenite::Result<()> {
        // A close frame holds 123 bytes of text.
        let reason: String = reason.chars().take(100).collect();
        self.web.close(wire, Some(CloseFrame { code, reason: reason.into() }))?;
        self.web.flush(wire)
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.socket.api.counters.sockets.fetch_sub(1, Ordering::Relaxed);
        self.socket.client.recall();
        // The newest first: the place of one that runs must not go to one that waits and is to be taken back as well.
        for running in std::mem::take(&mut self.calls).into_iter().rev() {
            running.take_back(TakenBack::ClientGone);
            if let Some(prepared) = running.shared.take() {
                self.socket.api.count_end(&prepared, &self.socket.request_id, None, Some(CANCELLED));
            }
        }
    }
}

/// Why a message was not carried out.
enum Trouble {
    /// The client is told.
    Refused(Error),
    /// The socket is over.
    Lost(tungstenite::Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        Trouble::Refused(error)
    }
}

impl From<tungstenite::Error> for Trouble {
    fn from(error: tungstenite::Error) -> Trouble {
        Trouble::Lost(error)
    }
}
