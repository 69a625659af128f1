//! Clients of the modern era: every request says everything, and its client's going away cancels it.
//!
//! A request climbs the ladder of `mcp.md` 3.1 and is then taken there and back by a [`Trip`]. Facts: `mcp.md` 2.1 to 2.6.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::{
    Answer, Api, Reply, Request, Trouble, arguments, headers,
    listen::{Listening, Wanted},
    message,
    offers::Offers,
    party,
    plan::{Party, Plan, Route},
    refusal,
    running::{Asked, failure_of},
    session::SUBSCRIPTIONS_MAX,
    traits::{LogLevel, Traits},
    trip::{Post, Trip},
};
use crate::{
    access::{CallInUse, Principal},
    error::Error,
    mcp::{
        incoming::{
            self, Failure, HEADER_MISMATCH, INVALID_PARAMS, INVALID_REQUEST, Incoming, METHOD_NOT_FOUND, PARSE_ERROR,
            Parcel, UNSUPPORTED_VERSION,
        },
        message::META,
        raw,
        revision::{self, Era},
    },
};

/// Methods of the legacy era that the modern one does not know.
const LEGACY_ALONE: [&str; 5] =
    ["initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"];

/// Whether a message is of the modern era by its `_meta`.
pub(super) fn says_so(message: &Incoming<'_>) -> bool {
    let (Incoming::Request { params, .. } | Incoming::Notification { params, .. }) = message else { return false };
    let meta = params.and_then(|params| raw::field(params, META));
    meta.is_some_and(|meta| raw::field(meta, revision::PROTOCOL_VERSION_KEY).is_some())
}

/// What a request says of its client.
pub(super) struct Said {
    pub(super) traits: Traits,
    pub(super) log_level: Option<LogLevel>,
}

/// Answers what a client posted.
pub(super) fn post<'a>(
    api: &'a Api,
    scope: Option<&'a str>,
    principal: &'a Principal,
    request: &Request<'_>,
    parcel: &Parcel<'_>,
) -> Reply<'a> {
    let asked = match parcel.only() {
        Some(Incoming::Request { id, method, params }) => Asked { id: id.get(), method, params },
        Some(Incoming::Notification { .. }) => return Reply::Answer(Answer::empty(202)),
        Some(Incoming::Response { .. }) | None => {
            let failure = Failure::new(INVALID_REQUEST, "this revision takes one request or notification at a time");
            return Reply::Answer(refusal(400, None, &failure));
        }
    };
    let fields = asked.params.and_then(raw::Fields::read).unwrap_or_default();
    let said = match check(&asked, &fields, request) {
        Ok(said) => said,
        Err(failure) => return refuse(asked.id, &failure),
    };
    match answer(api, scope, principal, request, (asked, &fields), &said) {
        Ok(reply) => reply,
        Err(Trouble::Gone) => Reply::Gone,
        Err(Trouble::Failure(failure)) => refuse(asked.id, &failure),
    }
}

/// `fields` are those of its parameters.
fn answer<'a>(
    api: &'a Api,
    scope: Option<&'a str>,
    principal: &'a Principal,
    request: &Request<'_>,
    (asked, fields): (Asked<'_>, &raw::Fields<'_>),
    said: &Said,
) -> Result<Reply<'a>, Trouble> {
    let Asked { id, method, params } = asked;
    let client = request.client;
    let mut party = party(api, scope, principal, Era::Modern, client);
    party.trace = request.trace.map(Arc::clone);
    party.session = request
        .session()
        .map_err(|error| Failure::new(INVALID_REQUEST, error.to_string()))?
        .map(|session| session.as_ref().into());
    let answered = |result: &RawValue| Ok(Reply::Answer(message(200, incoming::result(id, result.get()))));
    if LEGACY_ALONE.contains(&method) || method.starts_with("tasks/") {
        return Err(Failure::new(METHOD_NOT_FOUND, format!("there is no `{method}` in this revision")).into());
    }
    match method {
        "server/discover" => return answered(&Offers::gather(&party)?.discover()),
        "subscriptions/listen" => return listen(&party, asked).map(|listening| Reply::Stream(Box::new(listening))),
        _ => {}
    }
    let inputs = fields.get("inputResponses");
    if inputs.is_some_and(|inputs| !inputs.get().starts_with('{')) {
        return Err(Failure::new(INVALID_PARAMS, "`inputResponses` is not an object").into());
    }
    let given_state = fields.get("requestState");
    let in_use = match party.let_in(method, given_state.is_some()) {
        Ok(in_use) => in_use,
        Err(error) => return Ok(too_many(id, request, error)),
    };
    let route = match party.plan(method, params)? {
        Plan::Answer(result) => return answered(&result),
        Plan::Pass(route) => route,
    };
    if method == "tools/call" {
        // The headers of its arguments can only be told from its schema.
        let name = route.params.as_deref().and_then(|params| raw::text(params, "name")).unwrap_or_default();
        let tool = route.workers.tool(&name);
        tool.iter().try_for_each(|tool| headers::check_arguments(tool, fields, request))?;
    }
    let is_legacy = route.workers.era() == Era::Legacy;
    // What is taken up again has to say what it said when it was checked.
    let state = given_state.filter(|_| is_legacy);
    // A modern server's call has ended when it asks something, so this is another one.
    let is_another = given_state.is_some() && state.is_none() && in_use.is_some();
    if is_another && let Err(error) = party.principal.check_concurrent() {
        return Ok(too_many(id, request, error));
    }
    if state.is_none()
        && let Some(refused) = arguments::refuse(&party, &route, params)
    {
        return answered(&refused);
    }
    let quiet_max = api.next_quiet_max();
    let trip = match state {
        Some(state) => {
            let trip = Trip::resume(party, asked, said, state, inputs, client)?;
            // What comes of it is counted for the call that goes on.
            in_use.iter().for_each(CallInUse::succeed);
            trip
        }
        None => Trip::begin(party, asked, said, without_answers(route, is_legacy), in_use, client)?,
    };
    Ok(Post::new(trip, quiet_max).answer())
}

/// A legacy server knows nothing of answers to questions it never put this way.
fn without_answers(mut route: Route, is_legacy: bool) -> Route {
    if let Some(params) = route.params.as_mut().filter(|_| is_legacy) {
        *params = raw::without(params, "inputResponses");
    }
    route
}

/// The answer to a call that its key may not make now.
fn too_many(id: &str, request: &Request<'_>, error: Error) -> Reply<'static> {
    let Answer { status, headers, .. } = Answer::error(&error, request.id);
    Reply::Answer(Answer { headers, ..refusal(status, Some(id), &failure_of(error)) })
}

/// A failure as answer, with the status that goes with its code.
fn refuse(id: &str, failure: &Failure) -> Reply<'static> {
    Reply::Answer(refusal(status_of(failure.code), Some(id), failure))
}

pub(super) fn status_of(code: i64) -> u16 {
    match code {
        METHOD_NOT_FOUND => 404,
        PARSE_ERROR | INVALID_REQUEST | INVALID_PARAMS | UNSUPPORTED_VERSION..=HEADER_MISMATCH => 400,
        _ => 200,
    }
}

/// Climbs the ladder up to the method. `fields` are those of its parameters.
fn check(asked: &Asked<'_>, fields: &raw::Fields<'_>, request: &Request<'_>) -> Result<Said, Failure> {
    let method = asked.method;
    let missing = |what: &str| Failure::new(INVALID_PARAMS, format!("`params._meta` lacks `{what}`"));
    let meta = fields.get(META).and_then(raw::Fields::read).unwrap_or_default();
    let version = meta
        .get(revision::PROTOCOL_VERSION_KEY)
        .and_then(raw::string)
        .ok_or_else(|| missing(revision::PROTOCOL_VERSION_KEY))?;
    let capabilities = meta.get(revision::CLIENT_CAPABILITIES_KEY).filter(|it| it.get().starts_with('{'));
    let capabilities = capabilities.ok_or_else(|| missing(revision::CLIENT_CAPABILITIES_KEY))?;
    headers::check(request, &version, method, fields)?;
    if version != revision::MODERN {
        let data = format!(r#"{{"supported":["{}"],"requested":{}}}"#, revision::MODERN, raw::quoted(&version));
        let message = format!("revision `{version}` is not spoken here");
        return Err(Failure { code: UNSUPPORTED_VERSION, message, data: Some(data) });
    }
    let log_level = match meta
        .get(revision::LOG_LEVEL_KEY)
        .map(|level| raw::string(level).as_deref().and_then(LogLevel::from_name))
    {
        Some(None) => {
            let what = format!("`{}`: expected one of {}", revision::LOG_LEVEL_KEY, LogLevel::NAMES.join(", "));
            return Err(Failure::new(INVALID_PARAMS, what));
        }
        level => level.flatten(),
    };
    Ok(Said { traits: Traits::read(capabilities, revision::MODERN), log_level })
}

/// Subscribes to what can be had of what the client wants.
fn listen<'a>(party: &Party<'a>, asked: Asked<'_>) -> Result<Listening<'a>, Trouble> {
    let wrong = || Failure::new(INVALID_PARAMS, "`notifications` does not say what to listen to");
    let wanted = asked.params.and_then(|params| raw::field(params, "notifications")).ok_or_else(wrong)?;
    let wanted: Wanted = serde_json::from_str(wanted.get()).map_err(|_| wrong())?;
    if SUBSCRIPTIONS_MAX < wanted.resource_subscriptions.len() {
        let what = format!("`resourceSubscriptions`: expected at most {SUBSCRIPTIONS_MAX}");
        return Err(Failure::new(INVALID_PARAMS, what).into());
    }
    let offers = Offers::gather(party)?;
    let mut subscribed = Vec::new();
    for uri in &wanted.resource_subscriptions {
        // Which server it is of is found as for reading it; what nobody has, nobody can watch.
        let params = raw::object(&format!("\"uri\":{}", raw::quoted(uri)));
        match party.plan("resources/read", Some(&params)) {
            Ok(Plan::Pass(route)) if route.info.has("resources", "subscribe") => {
                if let Some(pool) = party.pool(&route.server) {
                    subscribed.push((party.lease(&pool)?.standing(), route.server, uri.clone()));
                }
            }
            Ok(_) | Err(Trouble::Failure(_)) => {}
            Err(Trouble::Gone) => return Err(Trouble::Gone),
        }
    }
    // A key for some tools has nothing else.
    let is_free = party.principal.may_use_everything();
    let honoured = Wanted {
        tools_list_changed: wanted.tools_list_changed && offers.any(|info| info.has("tools", "listChanged")),
        prompts_list_changed: wanted.prompts_list_changed
            && is_free
            && offers.any(|info| info.has("prompts", "listChanged")),
        resources_list_changed: wanted.resources_list_changed
            && is_free
            && offers.any(|info| info.has("resources", "listChanged")),
        resource_subscriptions: subscribed.iter().map(|(_, _, uri)| uri.clone()).collect(),
    };
    Ok(Listening::begin(party, asked.id, honoured, subscribed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_their_status() {
        let codes =
            [(-32700, 400), (-32602, 400), (-32020, 400), (-32021, 400), (-32022, 400), (-32601, 404), (5, 200)];
        for (code, status) in codes.into_iter().chain([(-32603, 200)]) {
            assert_eq!(status_of(code), status, "{code}");
        }
    }
}
