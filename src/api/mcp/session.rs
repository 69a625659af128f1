//! One client session of the legacy era: what its client said of itself, what runs for it, and what it was asked.
//!
//! A session outlives requests and connections: a client may POST now and open an event stream later. It knows neither
//! HTTP nor which thread serves it; [`Streams`] holds what its client is to be told.
//!
//! **Limit.** [`QUESTIONS_MAX`] questions to its client at a time, [`SUBSCRIPTIONS_MAX`] resources; the bounds of
//! [`Streams`].
//! **End.** Deleted by its client, idle for `SESSION_IDLE_TIMEOUT`, or given up for a new one. All go through
//! [`Session::end`].

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, OnceLock},
    time::{Duration, Instant},
};

use serde_json::value::RawValue;

use super::{
    round::Round,
    streams::{EVENT_BYTES, STANDALONE, Streams},
    traits::{Ability, LogLevel, Traits},
    unmatched::Unmatched,
};
use crate::{
    mcp::{
        incoming::{self, METHOD_NOT_FOUND},
        message::{self, META, PROGRESS_TOKEN},
        raw,
    },
    pool::{Lease, TakenBack},
    threads,
    worker::{
        Call, Hello, Link,
        mailbox::{Mailbox, Note, Question},
    },
};

/// Questions that wait for a client's answer.
const QUESTIONS_MAX: usize = 1024;

/// Resources that a client is subscribed to.
pub(super) const SUBSCRIPTIONS_MAX: usize = 1024;

/// Bytes of messages of a client of the old transport that wait to be taken, beside one of any length.
const INBOUND_BYTES_MAX: usize = 1024 * 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: Arc<str>,
    /// The name of the key that opened it.
    pub(super) key: Arc<str>,
    /// The server whose own endpoint it is of; `None` for all.
    pub(super) scope: Option<String>,
    /// Whether it is spoken over one stream for everything, the transport of 2024-11-05.
    pub(super) is_old: bool,
    pub(super) streams: Streams,
    /// Set by `initialize`.
    agreed: OnceLock<Agreed>,
    state: Mutex<State>,
}

/// What client and gateway agreed on in `initialize`.
#[derive(Debug)]
pub(super) struct Agreed {
    pub(super) revision: &'static str,
    /// What the client can do.
    pub(super) traits: Traits,
    /// What the client said of itself.
    pub(super) hello: Arc<Hello>,
}

#[derive(Debug)]
struct State {
    log_level: Option<LogLevel>,
    /// Workers that belong to the session alone, by server. They live as long as the session.
    own: Vec<(Arc<str>, Arc<Lease>)>,
    running: Vec<RunningRef>,
    unmatched: Unmatched,
    questions: HashMap<u64, Pending>,
    last_question: u64,
    subscriptions: BTreeMap<(Arc<str>, String), Lease>,
    /// Messages that came over `/messages`, and the thread that takes them.
    inbound: VecDeque<Vec<u8>>,
    inbound_reader: Option<Arc<Mailbox>>,
    users: usize,
    last_used: Instant,
    is_over: bool,
}

/// A request that runs.
#[derive(Debug, Clone)]
pub(super) struct RunningRef {
    /// The client's id, raw.
    pub(super) id: String,
    pub(super) tag: u64,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) workers: Arc<Lease>,
    pub(super) call: Arc<Call>,
}

/// A question that its client has not answered.
#[derive(Debug)]
struct Pending {
    /// The request it was asked in, if any.
    tag: Option<u64>,
    asker: Asker,
}

/// Who asks.
#[derive(Debug)]
enum Asker {
    /// A server, over its link.
    #[allow(missing_docs)]
    Server { link: Arc<Link>, id: Box<RawValue>, token: Option<Box<RawValue>> },
    /// A result that asks for input; the answer is put into this round.
    #[allow(missing_docs)]
    Round { key: String, round: Arc<Round> },
}

/// Keeps a session from being idle.
#[derive(Debug)]
pub(super) struct Use(Arc<Session>);

impl Drop for Use {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.users -= 1;
        state.last_used = Instant::now();
    }
}

impl Session {
    /// A session that still has to be agreed on.
    pub(super) fn new(id: Arc<str>, key: &Arc<str>, scope: Option<&str>, is_old: bool, streams: Streams) -> Session {
        let state = State {
            log_level: None,
            own: Vec::new(),
            running: Vec::new(),
            unmatched: Unmatched::default(),
            questions: HashMap::new(),
            last_question: 0,
            subscriptions: BTreeMap::new(),
            inbound: VecDeque::new(),
            inbound_reader: None,
            users: 0,
            last_used: Instant::now(),
            is_over: false,
        };
        let (key, scope) = (Arc::clone(key), scope.map(str::to_owned));
        Session { id, key, scope, is_old, streams, agreed: OnceLock::new(), state: Mutex::new(state) }
    }

    /// Notes what was agreed on. False: that was done before.
    pub(super) fn agree(&self, agreed: Agreed) -> bool {
        self.agreed.set(agreed).is_ok()
    }

    /// What was agreed on, once it is.
    pub(super) fn agreed(&self) -> Option<&Agreed> {
        self.agreed.get()
    }

    /// What the client can do.
    pub(super) fn traits(&self) -> Traits {
        self.agreed().map_or_else(Traits::default, |agreed| agreed.traits)
    }

    /// Whether its revision is this one or a later one.
    pub(super) fn speaks(&self, revision: &str) -> bool {
        // Revisions are dates, which sort as text.
        self.agreed().is_some_and(|agreed| revision <= agreed.revision)
    }

    /// Keeps the session from being idle. `None` when it is over.
    pub(super) fn begin_use(self: &Arc<Session>) -> Option<Use> {
        let mut state = self.lock();
        if state.is_over {
            return None;
        }
        state.users += 1;
        Some(Use(Arc::clone(self)))
    }

    /// Since when nobody has used it. `None` while somebody does.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let state = self.lock();
        (state.users == 0 && state.running.is_empty()).then_some(state.last_used)
    }

    /// Whether it has ended.
    pub(super) fn is_over(&self) -> bool {
        self.lock().is_over
    }

    /// Whether it is of this key and this endpoint.
    pub(super) fn is_of(&self, key: &str, scope: Option<&str>) -> bool {
        &*self.key == key && self.scope.as_deref() == scope
    }

    /// Whether a server is spoken to through workers of the session's own.
    pub(super) fn has_own(&self, server: &str) -> bool {
        self.lock().own.iter().any(|(it, _)| &**it == server)
    }

    /// Keeps workers that belong to the session alone.
    pub(super) fn add_own(&self, server: &Arc<str>, workers: Lease) {
        let mut state = self.lock();
        if !state.is_over {
            state.own.push((Arc::clone(server), Arc::new(workers.standing())));
        }
    }

    /// Workers that belong to the session alone.
    pub(super) fn own(&self) -> Vec<Arc<Lease>> {
        self.lock().own.iter().map(|(_, workers)| Arc::clone(workers)).collect()
    }

    /// The least severe log lines the client wants; `None` when it has never said.
    pub(super) fn log_level(&self) -> Option<LogLevel> {
        self.lock().log_level
    }

    /// Notes it.
    pub(super) fn set_log_level(&self, level: LogLevel) {
        self.lock().log_level = Some(level);
    }

    // --- requests that run ---

    /// Notes a request that runs, so that it can be cancelled; takes it back if it was cancelled already. False: the session is
    /// over.
    pub(super) fn add_running(&self, running: RunningRef) -> bool {
        let mut state = self.lock();
        if state.is_over {
            return false;
        }
        state.running.push(running.clone());
        if state.unmatched.take(&running.id, Instant::now()) {
            drop(state);
            take_back(&running);
        }
        true
    }

    /// Forgets a request that has ended, and takes its open questions back.
    pub(super) fn remove_running(&self, mailbox: &Arc<Mailbox>, tag: u64) {
        let mut state = self.lock();
        state.running.retain(|running| running.tag != tag || !Arc::ptr_eq(&running.mailbox, mailbox));
        state.questions.retain(|_, pending| pending.tag != Some(tag));
        state.last_used = Instant::now();
    }

    /// Takes back the request with this raw id, if it runs, or is about to.
    pub(super) fn cancel(&self, id: &str) {
        let mut state = self.lock();
        let Some(running) = state.running.iter().rfind(|running| running.id == id).cloned() else {
            return state.unmatched.keep(id, Instant::now());
        };
        drop(state);
        take_back(&running);
    }

    // --- questions to the client ---

    /// Puts a server's question to the client: the message to tell, or `None` when the server was refused.
    pub(super) fn ask(&self, tag: Option<u64>, question: Question) -> Option<String> {
        let Question { link, id, method, params } = question;
        let refuse = |why: &str| link.send_line(|out| message::push_error(out, &id, METHOD_NOT_FOUND, why));
        if !self.can_be_asked(&method) {
            refuse(&format!("the client has not said that it can answer `{method}`"));
            return None;
        }
        let mut state = self.lock();
        if state.is_over || QUESTIONS_MAX <= state.questions.len() {
            refuse("the client has too many questions to answer, or is gone");
            return None;
        }
        state.last_question += 1;
        let number = state.last_question;
        let (params, token) = with_token(&params, number);
        let asker = Asker::Server { link, id, token };
        state.questions.insert(number, Pending { tag, asker });
        Some(incoming::request(number, &method, params.get()))
    }

    /// Asks the client what a result asks for under `key`: the message to tell. Fails with why it cannot be asked.
    pub(super) fn ask_for(&self, tag: u64, key: &str, wanted: &RawValue, round: &Arc<Round>) -> Result<String, String> {
        let method = raw::text(wanted, "method").unwrap_or_default();
        if !self.can_be_asked(&method) {
            return Err(format!("the server asks for `{method}`, which the client has not said it can answer"));
        }
        let params = raw::field(wanted, "params").map_or("{}", RawValue::get);
        let mut state = self.lock();
        if state.is_over || QUESTIONS_MAX <= state.questions.len() {
            return Err("the client has too many questions to answer, or is gone".to_owned());
        }
        state.last_question += 1;
        let number = state.last_question;
        let asker = Asker::Round { key: key.to_owned(), round: Arc::clone(round) };
        state.questions.insert(number, Pending { tag: Some(tag), asker });
        Ok(incoming::request(number, &method, params))
    }

    /// Whether the client can answer a request of this method.
    pub(super) fn can_be_asked(&self, method: &str) -> bool {
        Ability::of(method).is_some_and(|ability| self.traits().can(ability))
    }

    /// Whether the client is asked something in a request.
    pub(super) fn is_asked_in(&self, tag: u64) -> bool {
        self.lock().questions.values().any(|pending| pending.tag == Some(tag))
    }

    /// Takes the client's answer to a question: a result, or an error object. One to no open question is passed over.
    pub(super) fn answer(&self, id: &RawValue, outcome: Result<&RawValue, &RawValue>) {
        let (pending, running) = {
            let mut state = self.lock();
            let number = id.get().parse::<u64>().ok();
            let Some(pending) = number.and_then(|number| state.questions.remove(&number)) else { return };
            let running = state.running.iter().find(|running| Some(running.tag) == pending.tag).cloned();
            (pending, running)
        };
        if let Some(running) = running {
            running.call.heard();
            // The time that is left to it counts from now.
            running.mailbox.nudge();
        }
        match pending.asker {
            Asker::Server { link, id, .. } => match outcome {
                Ok(result) => link.send_line(|out| message::push_result(out, &id, result.get())),
                Err(error) => link.send_line(|out| message::push_raw_error(out, &id, error.get())),
            },
            Asker::Round { key, round } => {
                let own = |raw: &RawValue| raw.get().to_owned();
                round.put(key, outcome.map(own).map_err(own));
            }
        }
    }

    /// Passes progress on that the client reports on a question, to the server that asked.
    pub(super) fn pass_progress(&self, params: &RawValue) {
        let number = raw::field(params, PROGRESS_TOKEN).and_then(|token| token.get().parse::<u64>().ok());
        let state = self.lock();
        let pending = number.and_then(|number| state.questions.get(&number));
        if let Some(Pending { asker: Asker::Server { link, token: Some(token), .. }, .. }) = pending {
            let params = raw::with(params, PROGRESS_TOKEN, token.get());
            link.send_line(|out| message::push_notification_with(out, "notifications/progress", &params));
        }
    }

    /// A server does not want to know any more what it asked under `id`: the message that tells the client so.
    pub(super) fn withdraw(&self, link: &Arc<Link>, server_id: &RawValue) -> Option<String> {
        let mut state = self.lock();
        let is_it = |pending: &Pending| matches!(&pending.asker, Asker::Server { link: its, id, .. } if Arc::ptr_eq(its, link) && id.get() == server_id.get());
        let number = state.questions.iter().find(|(_, pending)| is_it(pending)).map(|(number, _)| *number)?;
        state.questions.remove(&number);
        Some(incoming::notification("notifications/cancelled", Some(&format!(r#"{{"requestId":{number}}}"#))))
    }

    // --- what servers say ---

    /// Takes what a worker of the session's own says while no request runs there. False: the client cannot answer it.
    pub(super) fn hear(&self, note: Note) -> bool {
        let message = match note {
            Note::Question(question) => {
                if !self.can_be_asked(&question.method) {
                    return false;
                }
                self.ask(None, question)
            }
            Note::Withdrawn { link, id } => self.withdraw(&link, &id),
            Note::Log(params) => self.log_message(&params),
            Note::Other { method, params } => {
                Some(incoming::notification(&method, params.as_deref().map(RawValue::get)))
            }
            // It belongs to a request that has ended.
            Note::Progress(_) | Note::Chunk(_) => None,
        };
        if let Some(message) = message {
            self.streams.push(STANDALONE, message);
        }
        true
    }

    /// The message of a log line, unless the client does not want to hear such.
    pub(super) fn log_message(&self, params: &RawValue) -> Option<String> {
        let is_wanted = self.log_level().is_none_or(|level| level.admits(params));
        is_wanted.then(|| incoming::notification("notifications/message", Some(params.get())))
    }

    // --- subscriptions ---

    /// Subscribes to a resource of a server, whose worker of `knowing` was told so already.
    pub(super) fn subscribe(&self, server: &Arc<str>, uri: &str, workers: Lease, knowing: Option<&Arc<Link>>) {
        let workers = workers.standing();
        workers.subscribe(uri, knowing);
        let before = {
            let mut state = self.lock();
            let before = state.subscriptions.insert((Arc::clone(server), uri.to_owned()), workers);
            if state.is_over { state.subscriptions.remove(&(Arc::clone(server), uri.to_owned())) } else { before }
        };
        if let Some(before) = before {
            before.unsubscribe(uri, None);
        }
    }

    /// The reverse.
    pub(super) fn unsubscribe(&self, server: &Arc<str>, uri: &str, knowing: Option<&Arc<Link>>) {
        let before = self.lock().subscriptions.remove(&(Arc::clone(server), uri.to_owned()));
        if let Some(before) = before {
            before.unsubscribe(uri, knowing);
        }
    }

    /// Whether it may subscribe to another resource.
    pub(super) fn may_subscribe(&self) -> bool {
        self.lock().subscriptions.len() < SUBSCRIPTIONS_MAX
    }

    /// Whether the client wants to hear of a resource.
    pub(super) fn is_subscribed(&self, server: &Arc<str>, uri: &str) -> bool {
        self.lock().subscriptions.contains_key(&(Arc::clone(server), uri.to_owned()))
    }

    // --- the old transport ---

    /// Leaves a message to the thread that tells this session. False when there is none, or too many wait.
    pub(super) fn put_inbound(&self, body: &[u8]) -> bool {
        let mut state = self.lock();
        let waiting: usize = state.inbound.iter().map(|body| body.len() + EVENT_BYTES).sum();
        let has_room = state.inbound.is_empty() || waiting + body.len() <= INBOUND_BYTES_MAX;
        let Some(mailbox) = state.inbound_reader.clone().filter(|_| has_room) else { return false };
        state.inbound.push_back(body.to_vec());
        mailbox.nudge();
        true
    }

    /// Takes such messages from now on.
    pub(super) fn read_inbound(&self, mailbox: &Arc<Mailbox>) {
        self.lock().inbound_reader = Some(Arc::clone(mailbox));
    }

    /// The next such message.
    pub(super) fn take_inbound(&self) -> Option<Vec<u8>> {
        self.lock().inbound.pop_front()
    }

    // --- its end ---

    /// Ends it: what runs is taken back, its streams end, nothing is told any more.
    pub(super) fn end(&self) {
        let (running, subscriptions, questions) = {
            let mut state = self.lock();
            state.is_over = true;
            let running = std::mem::take(&mut state.running);
            state.own.clear();
            (running, std::mem::take(&mut state.subscriptions), std::mem::take(&mut state.questions))
        };
        for pending in questions.into_values() {
            if let Pending { tag: None, asker: Asker::Server { link, id, .. } } = pending {
                link.send_line(|out| message::push_error(out, &id, METHOD_NOT_FOUND, "the client is gone"));
            }
        }
        // The newest first: the place of one that runs must not go to one that waits and is to be taken back as well.
        running.iter().rev().for_each(take_back);
        for ((_, uri), workers) in &subscriptions {
            workers.unsubscribe(uri, None);
        }
        self.streams.nudge_all();
        if let Some(mailbox) = &self.lock().inbound_reader {
            mailbox.nudge();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        threads::lock(&self.state)
    }
}

/// How long a session that a new one would need the place of must have been idle.
pub(super) const SPARE_AFTER: Duration = Duration::from_secs(60);

/// Takes a request back. One that has just ended may be told to its end all the same; one whose client is asked things before
/// it is sent again has no call now, so its thread is told in any case.
fn take_back(running: &RunningRef) {
    running.workers.cancel(&running.call, TakenBack::ByClient);
    running.mailbox.put_taken_back(running.tag);
}

/// The parameters of a server's question, with our number as progress token if there is one; the server's own beside it.
fn with_token(params: &RawValue, number: u64) -> (Box<RawValue>, Option<Box<RawValue>>) {
    let meta = raw::field(params, META);
    let Some((meta, token)) = meta.and_then(|meta| Some((meta, raw::field(meta, PROGRESS_TOKEN)?))) else {
        return (params.to_owned(), None);
    };
    let meta = raw::with(meta, PROGRESS_TOKEN, &number.to_string());
    (raw::with(params, META, meta.get()), Some(token.to_owned()))
}
