//! `/prompts`: the list, one prompt, and its messages made with arguments.

use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    Answer,
    calls::{CallBody, Milliseconds},
    reading::{Entry, Kind, Reading, missing},
};
use crate::{
    error::{self, Error},
    mcp::raw,
    pool::{NoResult, SEPARATOR},
};

/// What `prompts/list` lists.
pub(super) const PROMPTS: Kind =
    Kind { method: "prompts/list", field: "prompts", is_offered: |info| info.offers("prompts") };

/// All prompts.
pub(super) fn list(reading: &Reading<'_>) -> Result<Answer, NoResult> {
    let mut list = reading.list(PROMPTS)?;
    for entry in &mut list.entries {
        if let Some(name) = public_name(reading, entry) {
            entry.raw = raw::with_string(&entry.raw, "name", &name);
        }
    }
    Ok(list.answer(PROMPTS.field))
}

/// One prompt as its server lists it.
pub(super) fn show(reading: &Reading<'_>, name: &str) -> Result<Answer, NoResult> {
    let entry = find(reading, name)?;
    let named = raw::with_string(&entry.raw, "name", name);
    Ok(Answer::json(&raw::with_string(&named, "server", entry.pool.server())))
}

/// A prompt's messages.
pub(super) fn get(reading: &Reading<'_>, name: &str, body: &CallBody<'_>) -> Result<Answer, NoResult> {
    let arguments = body.arguments(name)?;
    let Entry { pool, raw: listed } = find(reading, name)?;
    let own_name = raw::text(&listed, "name").unwrap_or_default();
    let own_name = serde_json::to_string(&own_name).unwrap_or_default();
    let params = format!(r#"{{"name":{own_name},"arguments":{arguments}}}"#);
    let answered = reading.ask(pool, "prompts/get", &params)?;
    let Some(messages) = raw::field(&answered.raw, "messages") else {
        let what = "the result of `prompts/get` has no `messages`".to_owned();
        return Err(Error::WorkerAnswer { worker: answered.worker.to_string(), what }.into());
    };
    Ok(Answer::json(&Success {
        status: "success",
        data: messages,
        description: raw::field(&answered.raw, "description"),
        messages,
        prompt: name,
        server: pool.server(),
        worker: &answered.worker,
        duration_ms: Milliseconds(reading.started_at.elapsed()),
        request_id: reading.caller.request_id,
    }))
}

/// The prompt called `name` by those who see the scope of the request.
fn find<'a>(reading: &Reading<'a>, name: &str) -> Result<Entry<'a>, NoResult> {
    let mut list = reading.list(PROMPTS)?;
    let names: Vec<_> = list.entries.iter().filter_map(|entry| public_name(reading, entry)).collect();
    let index = list.entries.iter().position(|entry| public_name(reading, entry).as_deref() == Some(name));
    index.map(|index| list.entries.swap_remove(index)).ok_or_else(|| {
        let close = error::close_names(name, names);
        let hint = if close.is_empty() {
            "`GET /prompts` lists the prompts".to_owned()
        } else {
            format!("did you mean {}", error::in_backticks(&close))
        };
        let unknown = Error::Unknown { what: "prompt", name: name.to_owned(), hint };
        let is_its = |server: &&&str| name.starts_with(&format!("{server}{SEPARATOR}"));
        missing(unknown, list.unavailable.iter().find(is_its).copied()).into()
    })
}

fn public_name(reading: &Reading<'_>, entry: &Entry<'_>) -> Option<String> {
    let own_name = raw::text(&entry.raw, "name")?;
    Some(reading.roster.name_in(reading.caller.scope, entry.pool, &own_name))
}

#[derive(Serialize)]
struct Success<'a> {
    status: &'static str,
    data: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a RawValue>,
    messages: &'a RawValue,
    prompt: &'a str,
    server: &'a str,
    worker: &'a str,
    duration_ms: Milliseconds,
    request_id: &'a str,
}
