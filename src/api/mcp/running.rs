//! One request of a client on its way to a server and back: begun, told about, ended.
//!
//! It knows neither sessions nor streams: who drives it decides where its messages go.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use serde_json::value::RawValue;

use super::{
    Trouble,
    plan::{Party, Route},
    traits::LogLevel,
};
use crate::{
    access::CallInUse,
    api::{Counters, Way, history::Details},
    error::Error,
    mcp::{
        eras,
        incoming::{self, Failure, INTERNAL_ERROR},
        message::{self, Meta, PROGRESS_TOKEN, Request},
        raw,
        revision::{self, Era},
    },
    pool::{Errand, Limits, TakenBack},
    worker::{
        Call, Waiter,
        mailbox::{Ended, Mailbox, Note},
    },
};

/// The request that calls a tool.
pub(super) const CALL: &str = "tools/call";

/// Requests in which a server may ask the client for something (MCP 2026-07-28, multi round-trip requests; before, any).
const MAY_ASK: [&str; 4] = ["tools/call", "prompts/get", "resources/read", "completion/complete"];

/// Requests that do no harm when they are sent a second time.
const REPEATABLE: [&str; 7] = [
    "tools/list",
    "prompts/list",
    "prompts/get",
    "resources/list",
    "resources/templates/list",
    "resources/read",
    "completion/complete",
];

/// How often a server may ask for input before it gives a result.
const ROUNDS_MAX: usize = 64;

/// What a server asks for with the result of a legacy `-32042`: the client is to visit pages first.
const ELICITATIONS: &str = "elicitations";

/// A request of a client.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    /// Its id, raw.
    pub(super) id: &'a str,
    pub(super) method: &'a str,
    pub(super) params: Option<&'a RawValue>,
}

/// How a client listens to its request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ear<'a> {
    pub(super) mailbox: &'a Arc<Mailbox>,
    /// Whether it can be asked things.
    pub(super) can_be_asked: bool,
    /// The least severe log lines it wants, if it has said so.
    pub(super) log_level: Option<LogLevel>,
    /// Whether it hears log lines also when it has not.
    pub(super) hears_logs: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Running {
    /// The client's id, raw.
    pub(super) id: String,
    pub(super) method: String,
    pub(super) route: Route,
    pub(super) call: Arc<Call>,
    /// Unique in this process.
    pub(super) tag: u64,
    pub(super) limits: Limits,
    pub(super) started_at: Instant,
    /// Its time was up as it ended; its end is on the way.
    pub(super) is_ending: bool,
    /// The parameters as the client sent them, if it may have to come back with the same.
    pub(super) asked_params: Option<Box<RawValue>>,
    token: Option<Box<RawValue>>,
    last_progress: f64,
    n_rounds: usize,
    is_counted: bool,
    /// Who answered it.
    worker: Option<Arc<str>>,
    /// Has a call counted for its key.
    in_use: Option<CallInUse>,
}

/// What the end of a request comes down to, in the words of the client's era.
#[derive(Debug)]
pub(super) enum End {
    /// Its result.
    Result(Box<RawValue>),
    /// Why there is none.
    Failure(Failure),
    /// A modern server wants to know this first, from a legacy client: requests by key, and what goes back with the answers.
    #[allow(missing_docs)]
    Wants { wanted: Vec<(String, Box<RawValue>)>, state: Option<Box<RawValue>> },
}

impl Running {
    /// Begins what `asked` asks for along `route`; if it is a call, it is one that was [let in](Party::let_in).
    pub(super) fn begin(
        party: &Party<'_>,
        asked: Asked<'_>,
        route: Route,
        ear: Ear<'_>,
        in_use: Option<CallInUse>,
    ) -> Result<Running, Trouble> {
        let is_call = asked.method == CALL;
        let tag = next_tag();
        let (request, token) = put_together(party, asked.method, &route, ear, is_call);
        let begun = begin(asked.method, &route, request, token.is_some(), ear, tag);
        let call = begun.inspect_err(|_| Counters::add(&party.api.counters.errors_total))?;
        Ok(Running {
            id: asked.id.to_owned(),
            method: asked.method.to_owned(),
            route,
            call,
            tag,
            limits: party.limits(),
            started_at: Instant::now(),
            is_ending: false,
            asked_params: None,
            token,
            last_progress: f64::NEG_INFINITY,
            n_rounds: 0,
            is_counted: false,
            worker: None,
            in_use,
        })
    }

    /// Whether it may be sent again once more, as its server wants; counts that it is.
    pub(super) fn may_go_on(&mut self) -> bool {
        self.n_rounds += 1;
        self.n_rounds <= ROUNDS_MAX
    }

    /// Sends it again, with answers to what its server wanted to know.
    pub(super) fn go_on(
        &mut self,
        party: &Party<'_>,
        ear: Ear<'_>,
        answers: &str,
        state: Option<&RawValue>,
    ) -> Result<(), Trouble> {
        let params = self.route.params.take().unwrap_or_else(|| raw::object(""));
        let mut params = raw::with(&params, "inputResponses", answers);
        params = match state {
            Some(state) => raw::with(&params, "requestState", state.get()),
            None => raw::without(&params, "requestState"),
        };
        self.route.params = Some(params);
        let (request, _) = put_together(party, &self.method, &self.route, ear, self.method == CALL);
        self.call = begin(&self.method, &self.route, request, self.token.is_some(), ear, self.tag)?;
        Ok(())
    }

    /// Has another request of the same client wait for it.
    pub(super) fn take_over(&mut self, asked: Asked<'_>) {
        self.id = asked.id.to_owned();
        self.token = asked
            .params
            .and_then(|params| raw::field(params, message::META))
            .and_then(|meta| raw::field(meta, PROGRESS_TOKEN))
            .map(ToOwned::to_owned);
        self.call.heard();
    }

    /// The message that tells of progress, if the client wants to hear of it.
    pub(super) fn progress(&mut self, params: &RawValue) -> Option<String> {
        let token = self.token.as_ref()?;
        let progress = raw::field(params, "progress").and_then(|progress| progress.get().parse::<f64>().ok());
        // A call that was sent again, because its worker died, begins anew; to its client progress only grows.
        let is_sent_again = self.call.is_repeated() || 0 < self.n_rounds;
        let goes_back = progress.is_some_and(|progress| progress < self.last_progress) && is_sent_again;
        if goes_back {
            return None;
        }
        self.last_progress = progress.unwrap_or(self.last_progress);
        let params = raw::with(params, PROGRESS_TOKEN, token.get());
        Some(incoming::notification("notifications/progress", Some(params.get())))
    }

    /// When it is to be given up. While the client thinks about a question, only the time in all counts.
    pub(super) fn give_up_at(&self, is_asked: bool) -> Instant {
        if is_asked {
            self.started_at + self.limits.time_max
        } else {
            self.limits.deadline(&self.call, self.started_at)
        }
    }

    /// Takes it back because its time is up: what its client is told, or `None` when it has just ended all the same.
    pub(super) fn give_up(&mut self, party: &Party<'_>) -> Option<Failure> {
        self.is_ending = !self.route.workers.cancel(&self.call, TakenBack::TooLong);
        (!self.is_ending).then(|| {
            self.count(party, Some("timeout"));
            self.too_late()
        })
    }

    fn too_late(&self) -> Failure {
        let name = self.route.tool.as_ref().map_or(&*self.method, |tool| &tool.name);
        failure_of(self.route.workers.too_late(&self.call, name, self.started_at, self.limits))
    }

    /// What its end comes down to.
    pub(super) fn end(&mut self, party: &Party<'_>, ended: Ended) -> End {
        let server_era = self.route.workers.era();
        let outcome = self.route.workers.answered(ended);
        let answered = match outcome {
            Ok(answered) => answered,
            Err(error) => {
                self.count(party, Some(error.code()));
                return self.failed(party, failure_of(error));
            }
        };
        self.worker = Some(answered.worker);
        let result = answered.raw;
        match (party.era, server_era) {
            (Era::Legacy, Era::Modern) if is_input_required(&result) => {
                let wanted = raw::field(&result, "inputRequests").and_then(raw::Fields::read).unwrap_or_default();
                let wanted = wanted.iter().map(|(key, request)| (key.to_owned(), request.to_owned())).collect();
                return End::Wants { wanted, state: raw::field(&result, "requestState").map(ToOwned::to_owned) };
            }
            _ => {}
        }
        let is_error = self.route.tool.is_some() && says_error(&result);
        self.count(party, is_error.then_some("tool_error"));
        let result = match (party.era, server_era) {
            (Era::Legacy, Era::Legacy) | (Era::Modern, Era::Modern) => result,
            (Era::Legacy, Era::Modern) => eras::to_legacy(&self.method, &result),
            (Era::Modern, Era::Legacy) => {
                eras::to_modern(&self.method, &result, self.route.info.server_info.as_deref())
            }
        };
        End::Result(self.as_far_as_allowed(party, result))
    }

    /// Without the tools that the key may not use.
    fn as_far_as_allowed(&self, party: &Party<'_>, result: Box<RawValue>) -> Box<RawValue> {
        if self.method != "tools/list" || party.principal.may_use_everything() {
            return result;
        }
        let tools = raw::field(&result, "tools").map_or("[]", RawValue::get);
        let mut tools: Vec<Box<RawValue>> = serde_json::from_str(tools).unwrap_or_default();
        let pool = party.pool(&self.route.server);
        tools.retain(|tool| {
            let name = raw::text(tool, "name").unwrap_or_default();
            pool.as_ref().is_some_and(|pool| party.api.may_use(party.principal, pool, &name))
        });
        raw::with(&result, "tools", &raw::array(&tools))
    }

    fn failed(&self, party: &Party<'_>, failure: Failure) -> End {
        let is_translated = party.era == Era::Modern && self.route.workers.era() == Era::Legacy;
        if !is_translated {
            return End::Failure(failure);
        }
        let uri = self.route.params.as_deref().and_then(|params| raw::text(params, "uri"));
        if failure.code == incoming::URL_ELICITATION_REQUIRED
            && let Some(result) = input_required_by(&failure)
        {
            return End::Result(result);
        }
        End::Failure(eras::error_to_modern(failure, uri.as_deref()))
    }

    /// Counts its end, once; `error_code` as in `/stats`.
    pub(super) fn count(&mut self, party: &Party<'_>, error_code: Option<&'static str>) {
        if std::mem::replace(&mut self.is_counted, true) {
            return;
        }
        if let Some(tool) = &self.route.tool {
            let duration = self.started_at.elapsed();
            tool.figures.count(duration, error_code);
            party.api.note_call(duration, error_code, party.trace.as_deref(), || Details {
                tool: party
                    .pool(&self.route.server)
                    .map_or_else(|| tool.name.clone(), |pool| party.api.servers.now().public_name(None, &pool, tool)),
                way: Way::Mcp,
                key: party.principal.name.to_string(),
                worker: self.worker.as_deref().map(str::to_owned),
                request_id: self.id.clone(),
            });
        }
        party.api.counters.errors_total.fetch_add(u64::from(error_code.is_some()), Ordering::Relaxed);
        // It is over for its key, also where something still waits to be told of it.
        if let Some(in_use) = self.in_use.take().filter(|_| error_code.is_none()) {
            in_use.succeed();
        }
    }
}

/// A number that no other request of this process has.
fn next_tag() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

/// The request as its server gets it, and the client's progress token.
fn put_together(
    party: &Party<'_>,
    method: &str,
    route: &Route,
    ear: Ear<'_>,
    is_call: bool,
) -> (Request, Option<Box<RawValue>>) {
    let stamp;
    let meta = match (party.era, route.workers.era()) {
        (_, Era::Legacy) => Meta::Legacy,
        (Era::Modern, Era::Modern) => Meta::Keep,
        (Era::Legacy, Era::Modern) => {
            stamp = stamp_of(party, ear.log_level);
            Meta::Put(&stamp)
        }
    };
    Request::passed(method, route.params.as_deref(), meta, is_call, party.trace.as_deref())
}

/// What a modern server wants to know with every request, said for a legacy client.
fn stamp_of(party: &Party<'_>, log_level: Option<LogLevel>) -> String {
    let (capabilities, client_info) =
        party.hello.as_ref().map_or(("{}", "{}"), |hello| (hello.capabilities.get(), hello.client_info.get()));
    let mut fields = format!(
        r#""{}":"{}","{}":{capabilities},"{}":{client_info}"#,
        revision::PROTOCOL_VERSION_KEY,
        revision::MODERN,
        revision::CLIENT_CAPABILITIES_KEY,
        revision::CLIENT_INFO_KEY,
    );
    if let Some(level) = log_level {
        fields.push_str(&format!(r#","{}":"{}""#, revision::LOG_LEVEL_KEY, level.name()));
    }
    fields
}

fn begin(
    method: &str,
    route: &Route,
    request: Request,
    wants_progress: bool,
    ear: Ear<'_>,
    tag: u64,
) -> Result<Arc<Call>, Error> {
    let may_ask = MAY_ASK.contains(&method);
    let is_shared = !route.workers.is_own();
    let is_legacy = route.workers.era() == Era::Legacy;
    let can_be_asked = ear.can_be_asked && is_legacy;
    // What a server asks and logs does not say for which request it is, so the worker has no other meanwhile.
    let is_exclusive = may_ask && is_shared && (can_be_asked || ear.log_level.is_some());
    let mailbox = Arc::clone(ear.mailbox);
    let is_told =
        wants_progress || !is_shared || ear.log_level.is_some() || (ear.hears_logs && route.info.offers("logging"));
    let waiter = match (is_exclusive, is_told) {
        (true, _) => Waiter::Dialogue(mailbox),
        (false, true) => Waiter::Stream(mailbox),
        // Nothing but its answer can come, and many such calls are written together.
        (false, false) => Waiter::Result(mailbox),
    };
    let tool = route.tool.as_deref();
    let repeats = tool.map_or(REPEATABLE.contains(&method), |tool| tool.may_repeat);
    let log_level = ear.log_level.filter(|_| is_legacy).map(LogLevel::name);
    route.workers.begin(Errand::passed(request, tool, repeats, log_level), waiter, tag)
}

/// A failure of a request as JSON-RPC tells it. A server's own passes untouched.
pub(super) fn failure_of(error: Error) -> Failure {
    if let Error::WorkerError { rpc_code, message, raw_data, .. } = error {
        return Failure { code: rpc_code, message, data: raw_data };
    }
    let message = error.to_string();
    Failure { code: INTERNAL_ERROR, message, data: Some(crate::api::exchange::error_details(&error)) }
}

fn is_input_required(result: &RawValue) -> bool {
    raw::text(result, eras::RESULT_TYPE).as_deref() == Some("input_required")
}

/// Whether the result of a tool says that it failed.
fn says_error(result: &RawValue) -> bool {
    memchr::memmem::find(result.get().as_bytes(), b"\"isError\"").is_some()
        && raw::field(result, "isError").is_some_and(|value| value.get() == "true")
}

/// What a client of the modern era is told when a legacy server wants it to visit pages first. It tries again when it has.
fn input_required_by(failure: &Failure) -> Option<Box<RawValue>> {
    let data = raw::from_bytes(failure.data.clone()?.into_bytes())?;
    let pages: Vec<&RawValue> = serde_json::from_str(raw::field(&data, ELICITATIONS)?.get()).ok()?;
    let requests = pages.iter().enumerate().map(|(index, params)| {
        format!(r#""elicitation-{}":{{"method":"elicitation/create","params":{params}}}"#, index + 1)
    });
    let requests: Vec<String> = requests.collect();
    let is_any = !requests.is_empty();
    is_any.then(|| {
        raw::object(&format!(r#""{}":"input_required","inputRequests":{{{}}}"#, eras::RESULT_TYPE, requests.join(",")))
    })
}

/// The message of what a server notes in a request, for a client that is told everything; `None` for a question.
pub(super) fn plain_message(note: &Note) -> Option<String> {
    match note {
        Note::Other { method, params } => Some(incoming::notification(method, params.as_deref().map(RawValue::get))),
        _ => None,
    }
}
