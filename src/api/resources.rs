//! `/resources`: the lists, and one resource read, without a session.

use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    Answer,
    calls::Milliseconds,
    reading::{Kind, Reading, missing},
};
use crate::{
    error::Error,
    mcp::{
        content::ResourceContents,
        incoming::{INVALID_PARAMS, RESOURCE_NOT_FOUND},
        raw,
    },
    pool::{NoResult, Pool},
};

/// What `resources/list` lists.
pub(super) const RESOURCES: Kind =
    Kind { method: "resources/list", field: "resources", is_offered: |info| info.offers("resources") };

/// What `resources/templates/list` lists.
pub(super) const TEMPLATES: Kind = Kind {
    method: "resources/templates/list",
    field: "resourceTemplates",
    is_offered: |info| info.offers("resources"),
};

/// Everything that `kind` says. Of two resources with one URI the first server's counts.
pub(super) fn list(reading: &Reading<'_>, kind: Kind) -> Result<Answer, NoResult> {
    let mut list = reading.list(kind)?;
    let mut uris: Vec<String> = Vec::new();
    list.entries.retain(|entry| {
        let Some(uri) = raw::text(&entry.raw, "uri") else { return true };
        let is_first = !uris.contains(&uri);
        if !is_first {
            log::warn!("resource {uri:?} of server {} is hidden by one of a server before it", entry.pool.server());
        }
        uris.push(uri);
        is_first
    });
    Ok(list.answer(kind.field))
}

/// Reads the resource at `uri` from the first server that lists it, else from the first that reads it.
pub(super) fn read(reading: &Reading<'_>, uri: &str) -> Result<Answer, NoResult> {
    let (servers, unavailable) = reading.servers(RESOURCES)?;
    if let ([only], []) = (&servers[..], &unavailable[..]) {
        return read_from(reading, only, uri);
    }
    for pool in &servers {
        // One that cannot be asked lists nothing.
        let listed = match reading.list_of(pool, RESOURCES) {
            Err(NoResult::ClientGone) => return Err(NoResult::ClientGone),
            listed => listed.unwrap_or_default(),
        };
        if listed.iter().any(|raw| raw::text(raw, "uri").as_deref() == Some(uri)) {
            return read_from(reading, pool, uri);
        }
    }
    let mut failure = None;
    for pool in servers {
        match read_from(reading, pool, uri) {
            Err(NoResult::Failed(error @ Error::Unknown { .. })) => {
                failure.get_or_insert(error);
            }
            Err(NoResult::Failed(error)) => failure = Some(error),
            done => return done,
        }
    }
    match failure.unwrap_or_else(|| unknown(uri)) {
        unknown @ Error::Unknown { .. } => Err(missing(unknown, unavailable.first().copied()).into()),
        failure => Err(failure.into()),
    }
}

fn read_from(reading: &Reading<'_>, pool: &Pool, uri: &str) -> Result<Answer, NoResult> {
    let params = serde_json::json!({ "uri": uri }).to_string();
    let answered = match reading.ask(pool, "resources/read", &params) {
        Err(NoResult::Failed(Error::WorkerError { rpc_code: RESOURCE_NOT_FOUND | INVALID_PARAMS, .. })) => {
            return Err(unknown(uri).into());
        }
        answered => answered?,
    };
    let contents = ResourceContents::read(&answered.raw)
        .map_err(|what| Error::WorkerAnswer { worker: answered.worker.to_string(), what })?;
    Ok(Answer::json(&Success {
        status: "success",
        data: &contents,
        contents: contents.raw,
        uri,
        server: pool.server(),
        worker: &answered.worker,
        duration_ms: Milliseconds(reading.started_at.elapsed()),
        request_id: reading.caller.request_id,
    }))
}

fn unknown(uri: &str) -> Error {
    Error::Unknown { what: "resource", name: uri.to_owned(), hint: "`GET /resources` lists the resources".to_owned() }
}

#[derive(Serialize)]
struct Success<'a> {
    status: &'static str,
    data: &'a ResourceContents<'a>,
    contents: &'a RawValue,
    uri: &'a str,
    server: &'a str,
    worker: &'a str,
    duration_ms: Milliseconds,
    request_id: &'a str,
}
