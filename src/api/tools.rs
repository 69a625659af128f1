//! `/tools`: the list, one tool, and the call that waits for its result; `/call`, the same call in its plainest form.

use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    Answer, Api, Request,
    calls::{CANCELLED, CallBody, Caller, Prepared},
    json::Json,
};
use crate::{
    access::Principal,
    error::Error,
    pool::{Answered, NoResult},
};

/// How a call is asked and answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `/tools/{name}`: arguments and limits in, the result with all that is to say about it out.
    Full,
    /// `/call/{name}`: nothing but the arguments in, nothing but `data` out.
    Plain,
}

/// All tools that the key may use.
pub(super) fn list(api: &Api, scope: Option<&str>, principal: &Principal) -> Answer {
    let roster = api.servers.now();
    let tools: Vec<_> = roster
        .tools(scope)
        .filter(|(pool, tool)| api.may_use(principal, pool, &tool.name))
        .map(|(pool, tool)| roster.listing(scope, pool, &tool))
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
    let found = api.servers.find(scope, name, api.config.now().request_timeout, request.client);
    let shown = found.and_then(|target| {
        api.check_allowed(principal, &target)?;
        Ok(Answer::json(&api.servers.now().listing(scope, &target.pool, &target.tool)))
    });
    shown.unwrap_or_else(|error| Answer::error(&error, request.id))
}

impl Api {
    /// Calls a tool and waits for its answer; `body` has been read, or could not be. `None`: the client went away.
    pub(super) fn answer_call(
        &self,
        name: &str,
        body: Result<CallBody<'_>, Error>,
        caller: &Caller<'_>,
        form: Form,
    ) -> Option<Answer> {
        match body.map_err(NoResult::Failed).and_then(|body| self.try_call(name, &body, caller, form)) {
            Ok(answer) => Some(answer),
            Err(NoResult::Failed(error)) => Some(Answer::error(&error, caller.request_id)),
            Err(NoResult::ClientGone) => None,
        }
    }

    fn try_call(&self, name: &str, body: &CallBody<'_>, caller: &Caller<'_>, form: Form) -> Result<Answer, NoResult> {
        let prepared = self.prepare(name, body, caller)?;
        let Prepared { target, workers, limits, started_at, .. } = &prepared;
        let errand = prepared.errand();
        let answered = workers.call(errand, &target.tool.name, *limits, *started_at, caller.client);
        self.conclude(&prepared, answered, caller.request_id, form)
    }

    /// What the end of a call is answered with. Counts it.
    pub(super) fn conclude(
        &self,
        prepared: &Prepared,
        answered: Result<Answered, NoResult>,
        request_id: &str,
        form: Form,
    ) -> Result<Answer, NoResult> {
        let mut worker = None;
        let answer = answered.and_then(|answered| {
            worker = Some(answered.worker.clone());
            let result = prepared.read(&answered)?;
            let mut json = Json::around(answered.raw.get());
            match form {
                Form::Full => prepared.success(&answered, &result, request_id).push_with_status(&mut json),
                Form::Plain => result.data(|part| json.push(part)),
            }
            let finished = json.finish();
            drop(result);
            Ok(finished.answer(answered.raw))
        });
        let error_code = answer.as_ref().err().map(|no_result| match no_result {
            NoResult::Failed(error) => error.code(),
            NoResult::ClientGone => CANCELLED,
        });
        self.count_end(prepared, request_id, worker.as_deref(), error_code);
        answer
    }
}
