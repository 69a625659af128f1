//! What every way of calling a tool has in common: reading the body, finding the tool, and making sense of its result.
//!
//! `tools.rs` waits for a result, `stream.rs` and `ws/` also tell what happens meanwhile.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::{
    Api, Counters, Request,
    history::{Details, Way},
    json::Json,
};
use crate::{
    access::{CallInUse, Principal},
    error::Error,
    logs,
    mcp::{
        content::{EMPTY_OBJECT, ToolResult},
        message,
        revision::Era,
        trace::Trace,
    },
    pool::{Answered, Asker, Errand, Lease, Limits, Pool, SEPARATOR, Target},
    worker::{
        Call, Waiter,
        mailbox::{Mailbox, Note},
    },
};

/// What a body is that holds the arguments and nothing else.
pub(super) const PLAIN_ARGUMENTS: &str = "application/vnd.mcpgate.arguments+json";

/// Longest `timeout` of a call that is taken as a number of seconds at all.
pub(super) const TIMEOUT_SECONDS_MAX: f64 = 1e6;

/// How much is kept of the name of a tool that may not even be there.
const NAME_LETTERS_KEPT: usize = 128;

/// What a call is counted as that its client took back, or went away from.
pub(super) const CANCELLED: &str = "cancelled";

/// Who calls, and from where.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// The server whose own paths the call came by, if it did.
    pub scope: Option<&'a str>,
    /// Whose key it is.
    pub principal: &'a Principal,
    /// The session that the call belongs to, if its client named one.
    pub session: Option<&'a str>,
    /// Where the caller hears of its call, and that its client went away.
    pub client: &'a Arc<Mailbox>,
    /// How the call came in.
    pub way: Way,
    /// Goes into the answer.
    pub request_id: &'a str,
    /// The trace that the call belongs to, if its client said so.
    pub trace: Option<&'a Arc<Trace>>,
}

/// A call that may be begun.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) target: Target,
    /// The workers that may take it.
    pub(super) workers: Lease,
    /// The name it was called by.
    pub(super) name: String,
    pub(super) arguments: Box<RawValue>,
    pub(super) limits: Limits,
    pub(super) started_at: Instant,
    way: Way,
    trace: Option<Arc<Trace>>,
    /// Name of the key.
    key: Arc<str>,
    /// Has it counted for its key.
    in_use: CallInUse,
}

impl Api {
    /// Finds the tool and reads the body of a call; counts the call.
    pub(super) fn prepare(&self, name: &str, body: &CallBody<'_>, caller: &Caller<'_>) -> Result<Prepared, Error> {
        let started_at = Instant::now();
        let prepare = |in_use| {
            let limits = self.limits(body)?;
            let target = self.servers.find(caller.scope, name, limits.silence_max, caller.client)?;
            self.check_allowed(caller.principal, &target)?;
            let arguments = body.arguments(name)?.to_owned();
            if self.config.now().validate_input {
                let wrong = |what| Error::InvalidArguments { tool: name.to_owned(), what };
                target.tool.check_arguments(&arguments).map_err(wrong)?;
            }
            let workers = target.pool.lease(Asker {
                key: &caller.principal.name,
                session: caller.session,
                era: Era::Legacy,
                hello: None,
            })?;
            let key = Arc::clone(&caller.principal.name);
            Ok(Prepared {
                target,
                workers,
                name: name.to_owned(),
                arguments,
                limits,
                started_at,
                way: caller.way,
                trace: caller.trace.map(Arc::clone),
                key,
                in_use,
            })
        };
        let prepared = self
            .begin_call(caller.principal, false)
            .and_then(|in_use| prepare(in_use).inspect_err(|_| Counters::add(&self.counters.errors_total)));
        prepared.inspect_err(|error| {
            self.note_call(started_at.elapsed(), Some(error.code()), caller.trace.map(|trace| &**trace), || Details {
                tool: name.chars().take(NAME_LETTERS_KEPT).collect(),
                way: caller.way,
                key: caller.principal.name.to_string(),
                worker: None,
                request_id: caller.request_id.to_owned(),
            });
        })
    }

    /// Counts the end of a call that was begun; `error_code` is [`Error::code`] or [`CANCELLED`], `None` for a result, which came
    /// from `worker`.
    pub(super) fn count_end(
        &self,
        prepared: &Prepared,
        request_id: &str,
        worker: Option<&str>,
        error_code: Option<&'static str>,
    ) {
        let duration = prepared.started_at.elapsed();
        prepared.target.tool.figures.count(duration, error_code);
        self.note_call(duration, error_code, prepared.trace.as_deref(), || Details {
            tool: self.servers.now().public_name(None, &prepared.target.pool, &prepared.target.tool),
            way: prepared.way,
            key: prepared.key.to_string(),
            worker: worker.map(str::to_owned),
            request_id: request_id.to_owned(),
        });
        self.counters.errors_total.fetch_add(u64::from(error_code.is_some()), Ordering::Relaxed);
        if error_code.is_none() {
            prepared.in_use.succeed();
        }
    }

    /// How long what `body` asks for may take.
    pub(super) fn limits(&self, body: &CallBody<'_>) -> Result<Limits, Error> {
        let config = self.config.now();
        body.limits(config.request_timeout, config.call_time_max)
    }

    /// Tells the log and those who look at the dashboard of a call that has ended.
    pub(super) fn note_call(
        &self,
        duration: Duration,
        error_code: Option<&'static str>,
        trace: Option<&Trace>,
        details: impl Fn() -> Details,
    ) {
        if log::log_enabled!(log::Level::Debug) {
            log_call(&details(), duration, error_code, trace);
        }
        self.history.note(duration, error_code, details);
    }

    /// Fails with [`Error::Forbidden`] when the key does not allow the tool.
    pub(super) fn check_allowed(&self, principal: &Principal, target: &Target) -> Result<(), Error> {
        if self.may_use(principal, &target.pool, &target.tool.name) {
            return Ok(());
        }
        let public_name = self.servers.now().public_name(None, &target.pool, &target.tool);
        Err(Error::Forbidden {
            what: format!("key `{}` is not allowed to use `{public_name}`", principal.name),
            hint: "ask for a key with this tool, made by `mcpgate key new NAME --tools GLOB`",
        })
    }

    /// Whether the key allows the tool that a server calls `own_name`.
    pub(super) fn may_use(&self, principal: &Principal, pool: &Pool, own_name: &str) -> bool {
        // Names are put together for those only who are held to some.
        principal.may_use_everything() || {
            let full_name = format!("{}{SEPARATOR}{own_name}", pool.server());
            principal.may_use(&self.servers.now().name_in(None, pool, own_name), &full_name)
        }
    }
}

impl Prepared {
    /// Begins the call, which `waiter` hears of under `tag`. Fails like [`Lease::begin`].
    pub(super) fn begin(&self, waiter: Waiter, tag: u64) -> Result<Arc<Call>, Error> {
        self.workers.begin(self.errand(), waiter, tag)
    }

    /// What its server is asked for.
    pub(super) fn errand(&self) -> Errand {
        Errand::tool(self.workers.era(), &self.target.tool, &self.arguments, self.trace.as_deref())
    }

    /// What to say of it when its time is up.
    pub(super) fn too_late(&self, call: &Call) -> Error {
        self.workers.too_late(call, &self.name, self.started_at, self.limits)
    }

    /// Reads a raw result. Fails when it is none, or when the tool says that it failed.
    pub(super) fn read<'r>(&self, answered: &'r Answered) -> Result<ToolResult<'r>, Error> {
        let result = ToolResult::read(&answered.raw)
            .map_err(|what| Error::WorkerAnswer { worker: answered.worker.to_string(), what })?;
        if result.is_error {
            return Err(Error::ToolError {
                tool: self.name.clone(),
                message: result.first_text().unwrap_or_else(|| "it says no more".to_owned()),
                raw_content: result.content.to_owned(),
            });
        }
        Ok(result)
    }

    /// What a successful call is answered with.
    pub(super) fn success<'s>(
        &'s self,
        answered: &'s Answered,
        result: &'s ToolResult<'s>,
        request_id: &'s str,
    ) -> Success<'s> {
        Success { result, tool: &self.name, worker: &answered.worker, duration: self.started_at.elapsed(), request_id }
    }
}

/// The fields of a successful call, `status` and `event` aside.
pub(super) struct Success<'a> {
    result: &'a ToolResult<'a>,
    tool: &'a str,
    worker: &'a str,
    duration: Duration,
    request_id: &'a str,
}

impl Success<'_> {
    /// Appends the fields to what `json` begins the object with, and ends the object.
    pub(super) fn push(&self, json: &mut Json<'_>) {
        json.push(r#""data":"#);
        self.result.data(|part| json.push(part));
        json.push(r#","content":"#);
        json.push(self.result.content);
        for (name, value) in [("tool", self.tool), ("worker", self.worker)] {
            json.push(r#",""#);
            json.push(name);
            json.push(r#"":"#);
            json.push_str(value);
        }
        json.push(r#","duration_ms":"#);
        json.push_number(logs::milliseconds(self.duration));
        json.push(r#","request_id":"#);
        json.push_str(self.request_id);
        json.push("}");
    }

    /// As plain calls and event streams show it.
    pub(super) fn push_with_status(&self, json: &mut Json<'_>) {
        json.push(r#"{"status":"success","#);
        self.push(json);
    }
}

/// What happens in a running call, as event name and JSON object. A question is none of it.
pub(super) fn event_of(note: &Note) -> Option<(&'static str, String)> {
    match note {
        Note::Progress(params) => Some(("progress", message::progress_fields(params)?)),
        Note::Chunk(params) => Some(("chunk", message::chunk_fields(params)?)),
        Note::Log(params) => Some(("log", message::log_fields(params)?)),
        Note::Question(_) | Note::Withdrawn { .. } | Note::Other { .. } => None,
    }
}

/// The chunk that one item of a whole result is told as.
pub(super) fn chunk_of(index: usize, item: &str) -> String {
    format!(r#"{{"index":{index},"data":{item}}}"#)
}

/// The body of a call.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct CallBody<'a> {
    #[serde(borrow)]
    pub(super) arguments: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) timeout: Option<&'a RawValue>,
}

impl<'a> CallBody<'a> {
    /// Reads the body of a request, which is a call, or the plain arguments of one when its `Content-Type` says so.
    pub(super) fn of(request: &Request<'a>) -> Result<CallBody<'a>, Error> {
        let content_type = request.header("Content-Type").unwrap_or_default();
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        let is_plain = media_type.eq_ignore_ascii_case(PLAIN_ARGUMENTS);
        if is_plain { CallBody::plain(request.body) } else { CallBody::read(request.body) }
    }

    /// Reads a body that is the arguments; an empty one is a call without any.
    pub(super) fn plain(body: &'a [u8]) -> Result<CallBody<'a>, Error> {
        let is_empty = body.trim_ascii().is_empty();
        if is_empty {
            return Ok(CallBody::default());
        }
        let arguments = serde_json::from_slice(body)
            .map_err(|cause| Error::InvalidJson { what: "the body", cause: cause.to_string() })?;
        Ok(CallBody { arguments: Some(arguments), timeout: None })
    }

    /// Reads a body; an empty one is a call without arguments.
    pub(super) fn read(body: &'a [u8]) -> Result<CallBody<'a>, Error> {
        let is_empty = body.trim_ascii().is_empty();
        if is_empty {
            return Ok(CallBody::default());
        }
        // A struct would be read from an array too; this is no place for one.
        let is_object = body.trim_ascii_start().starts_with(b"{");
        let what = match serde_json::from_slice(body) {
            Ok(call) if is_object => return Ok(call),
            Err(cause) if is_object => cause.to_string(),
            _ => "expected an object".to_owned(),
        };
        if let Err(cause) = serde_json::from_slice::<serde::de::IgnoredAny>(body) {
            return Err(Error::InvalidJson { what: "the body", cause: cause.to_string() });
        }
        Err(Error::BadRequest { what: format!("the body is not a call: {what}; send {{\"arguments\": {{...}}}}") })
    }

    /// The arguments as they were sent; absent is `{}`.
    pub(super) fn arguments(&self, tool: &str) -> Result<&'a RawValue, Error> {
        let Some(arguments) = self.arguments else {
            return Ok(&EMPTY_OBJECT);
        };
        let is_object = arguments.get().starts_with('{');
        if is_object {
            return Ok(arguments);
        }
        let start: String = arguments.get().chars().take(40).collect();
        Err(Error::InvalidArguments { tool: tool.to_owned(), what: format!("expected an object, got `{start}`") })
    }

    /// The settings' limits, shortened by the caller's `timeout`, which counts for the call as a whole.
    pub(super) fn limits(&self, silence_max: Duration, time_max: Duration) -> Result<Limits, Error> {
        let Some(timeout) = self.timeout else { return Ok(Limits { silence_max, time_max }) };
        let seconds: Option<f64> = timeout.get().parse().ok();
        let is_sane = |seconds: &f64| 0.0 < *seconds && *seconds <= TIMEOUT_SECONDS_MAX;
        let Some(seconds) = seconds.filter(is_sane) else {
            return Err(Error::BadRequest { what: format!("`timeout`: expected seconds above 0, got `{timeout}`") });
        };
        let timeout = Duration::from_secs_f64(seconds);
        Ok(Limits { silence_max: silence_max.min(timeout), time_max: time_max.min(timeout) })
    }
}

/// The line of a call.
fn log_call(details: &Details, duration: Duration, error_code: Option<&'static str>, trace: Option<&Trace>) {
    let Details { tool, key, worker, request_id, .. } = details;
    let (outcome, duration_ms) = (error_code.unwrap_or("ok"), logs::milliseconds(duration));
    let (way, worker, trace_id) = (details.way.word(), worker.as_deref(), trace.map(Trace::id));
    let (at, in_trace) = (
        worker.map_or(String::new(), |worker| format!(" at {worker}")),
        trace_id.map_or(String::new(), |id| format!(", trace {id}")),
    );
    log::debug!(
        request_id = request_id.as_str(), key = key.as_str(), tool = tool.as_str(), way, worker, outcome, duration_ms, trace_id;
        "{request_id} call of {} by key {key}: {outcome}{at} after {duration_ms:.3} ms{in_trace}",
        tool.escape_debug()
    );
}

/// A duration as milliseconds with three digits behind the point.
pub(super) struct Milliseconds(pub(super) Duration);

impl Serialize for Milliseconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(logs::milliseconds(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_body(body: &str, code: &str, message: &str) {
        let error = CallBody::read(body.as_bytes()).err().expect(body);
        assert_eq!(error.code(), code, "{body}");
        assert!(error.to_string().contains(message), "{body}: {error}");
    }

    #[test]
    fn a_body_that_is_not_a_call_is_told_from_one_that_is_not_json() {
        check_body(r#"{"arguments": {"#, "invalid_json", "line 1 column");
        check_body("arguments=1", "invalid_json", "line 1 column 1");
        check_body("[]", "bad_request", "expected an object");
        check_body(r#"{"args": {}}"#, "bad_request", "unknown field `args`");
        check_body("\u{feff}{}", "invalid_json", "line 1 column 1");
    }

    #[test]
    fn arguments_are_an_object_or_absent() {
        for body in ["", "  \n", "{}", r#"{"arguments":{}}"#, r#"{"arguments":null}"#] {
            assert_eq!(CallBody::read(body.as_bytes()).unwrap().arguments("t").unwrap().get(), "{}", "{body}");
        }
        for body in [r#"{"arguments":[1]}"#, r#"{"arguments":"x"}"#, r#"{"arguments":1}"#] {
            let error = CallBody::read(body.as_bytes()).unwrap().arguments("t").unwrap_err();
            assert_eq!(error.code(), "invalid_arguments", "{body}");
        }
    }

    #[test]
    fn plain_arguments_are_an_object_or_nothing() {
        for (body, arguments) in
            [("", "{}"), (" \n", "{}"), ("{}", "{}"), (r#" {"timeout": 1.10} "#, r#"{"timeout": 1.10}"#)]
        {
            let call = CallBody::plain(body.as_bytes()).expect(body);
            assert_eq!((call.arguments("t").unwrap().get(), call.timeout.is_none()), (arguments, true), "{body}");
        }
        for body in ["[]", "null", "1", r#""x""#] {
            let error = CallBody::plain(body.as_bytes()).unwrap().arguments("t").unwrap_err();
            assert_eq!(error.code(), "invalid_arguments", "{body}");
        }
        for body in ["{", "{} {}", "a=1", "\u{feff}{}"] {
            assert_eq!(CallBody::plain(body.as_bytes()).err().expect(body).code(), "invalid_json", "{body}");
        }
    }

    #[test]
    fn a_caller_may_shorten_the_limit_but_not_extend_it() {
        let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3600));
        let limits = |body: &str| CallBody::read(body.as_bytes()).unwrap().limits(minute, hour);
        let short = limits(r#"{"timeout":0.5}"#).unwrap();
        assert_eq!((short.silence_max, short.time_max), (Duration::from_millis(500), Duration::from_millis(500)));
        let long = limits(r#"{"timeout":1000}"#).unwrap();
        assert_eq!((long.silence_max, long.time_max), (minute, Duration::from_secs(1000)));
        for timeout in ["0", "-1", "1e300", r#""5""#, "true"] {
            assert_eq!(limits(&format!("{{\"timeout\":{timeout}}}")).unwrap_err().code(), "bad_request", "{timeout}");
        }
    }
}
