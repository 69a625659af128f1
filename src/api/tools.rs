//! `/tools`: the list, one tool, and the call that waits for its result.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::{Answer, Api, Counters, Request};
use crate::{
    access::Principal,
    error::Error,
    mcp::content::{self, ToolResult},
    pool::{Limits, NoResult},
    worker::mailbox::Mailbox,
};

/// Longest `timeout` of a call that is taken as a number of seconds at all.
const TIMEOUT_SECONDS_MAX: f64 = 1e6;

/// All tools that the key may use.
pub(super) fn list(api: &Api, scope: Option<&str>, principal: &Principal) -> Answer {
    let tools: Vec<_> = api
        .servers
        .tools(scope)
        .filter(|(pool, tool)| principal.may_use(&api.servers.public_name(None, pool, tool)))
        .map(|(pool, tool)| api.servers.listing(scope, pool, &tool))
        .collect();
    Answer::json(&json_list(&tools))
}

fn json_list(tools: &[Box<RawValue>]) -> impl Serialize + '_ {
    #[derive(Serialize)]
    struct List<'a> {
        tools: &'a [Box<RawValue>],
        count: usize,
    }
    List { tools, count: tools.len() }
}

/// One tool.
pub(super) fn show(api: &Api, scope: Option<&str>, name: &str, principal: &Principal, request: &Request<'_>) -> Answer {
    let found = api.servers.find(scope, name, api.config.request_timeout, request.client);
    let shown = found.and_then(|target| {
        check_allowed(principal, &api.servers.public_name(None, target.pool, &target.tool))?;
        Ok(Answer::json(&api.servers.listing(scope, target.pool, &target.tool)))
    });
    shown.unwrap_or_else(|error| Answer::error(&error, request.id))
}

impl Api {
    /// Calls a tool and waits for its answer; `body` is what `POST /tools/{name}` takes. `None`: the client went away.
    pub fn call_tool(
        &self,
        scope: Option<&str>,
        name: &str,
        principal: &Principal,
        body: &[u8],
        client: &Arc<Mailbox>,
        request_id: &str,
    ) -> Option<Answer> {
        Counters::add(&self.counters.calls_total);
        let caller = Caller { scope, principal, client, request_id };
        match try_call(self, name, body, &caller) {
            Ok(answer) => Some(answer),
            Err(failure) => {
                Counters::add(&self.counters.errors_total);
                match failure {
                    NoResult::Failed(error) => Some(Answer::error(&error, request_id)),
                    NoResult::ClientGone => None,
                }
            }
        }
    }
}

/// Who calls, and from where.
struct Caller<'a> {
    scope: Option<&'a str>,
    principal: &'a Principal,
    client: &'a Arc<Mailbox>,
    request_id: &'a str,
}

fn try_call(api: &Api, name: &str, body: &[u8], caller: &Caller<'_>) -> Result<Answer, NoResult> {
    let started_at = Instant::now();
    let Caller { scope, principal, client, request_id } = *caller;
    let body = CallBody::read(body)?;
    let limits = body.limits(api.config.request_timeout, api.config.call_time_max)?;
    let target = api.servers.find(scope, name, limits.silence_max, client)?;
    check_allowed(principal, &api.servers.public_name(None, target.pool, &target.tool))?;
    let arguments = body.arguments(name)?;

    let outcome = target.pool.call(&target.tool.name, arguments, limits, client);
    let outcome = outcome.and_then(|(worker, raw)| {
        let result = ToolResult::read(&raw).map_err(|what| Error::WorkerAnswer { worker: worker.to_string(), what })?;
        if result.is_error {
            return Err(Error::ToolError {
                tool: name.to_owned(),
                message: result.first_text().unwrap_or_else(|| "it says no more".to_owned()),
                raw_content: result.content.get().to_owned(),
            }
            .into());
        }
        let success = Success {
            status: "success",
            data: &result,
            content: result.content,
            tool: name,
            worker: &worker,
            duration_ms: Milliseconds(started_at.elapsed()),
            request_id,
        };
        Ok(Answer::json(&success))
    });
    target.tool.counters.count(outcome.is_err());
    outcome
}

fn check_allowed(principal: &Principal, public_name: &str) -> Result<(), Error> {
    if principal.may_use(public_name) {
        return Ok(());
    }
    Err(Error::Forbidden {
        what: format!("key `{}` is not allowed to use `{public_name}`", principal.name),
        hint: "ask for a key with this tool, made by `mcpgate key new NAME --tools GLOB`",
    })
}

/// The body of a call.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct CallBody<'a> {
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
    #[serde(borrow)]
    timeout: Option<&'a RawValue>,
}

impl<'a> CallBody<'a> {
    fn read(body: &'a [u8]) -> Result<CallBody<'a>, Error> {
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
    fn arguments(&self, tool: &str) -> Result<&'a RawValue, Error> {
        let Some(arguments) = self.arguments else {
            return Ok(content::EMPTY_OBJECT.get_or_init(content::empty_object));
        };
        let is_object = arguments.get().starts_with('{');
        if is_object {
            return Ok(arguments);
        }
        let start: String = arguments.get().chars().take(40).collect();
        Err(Error::InvalidArguments { tool: tool.to_owned(), what: format!("expected an object, got `{start}`") })
    }

    /// The settings' limits, shortened by the caller's `timeout`, which counts for the call as a whole.
    fn limits(&self, silence_max: Duration, time_max: Duration) -> Result<Limits, Error> {
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

#[derive(Serialize)]
struct Success<'a> {
    status: &'static str,
    data: &'a ToolResult<'a>,
    content: &'a RawValue,
    tool: &'a str,
    worker: &'a str,
    duration_ms: Milliseconds,
    request_id: &'a str,
}

/// A duration as milliseconds with three digits behind the point.
struct Milliseconds(Duration);

impl Serialize for Milliseconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[allow(clippy::cast_precision_loss, reason = "microseconds of a call stay far below 2^53")]
        let milliseconds = self.0.as_micros() as f64 / 1000.0;
        serializer.serialize_f64(milliseconds)
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
