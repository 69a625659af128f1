//! What is said on a WebSocket: the messages of a client, and the events that it is told.

use std::{borrow::Cow, sync::Arc};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    api::{calls::chunk_of, exchange::error_object},
    error::Error,
    mcp::trace::Trace,
};

/// What a client sends.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Incoming<'a> {
    #[serde(borrow)]
    pub(super) event: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) id: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) tool: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) arguments: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) timeout: Option<&'a RawValue>,
    /// Whether its client answers questions; it does when nothing is said.
    pub(super) input: Option<bool>,
    #[serde(borrow)]
    pub(super) traceparent: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) tracestate: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) input_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) result: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) error: Option<&'a RawValue>,
}

impl Incoming<'_> {
    /// The trace that this call says it belongs to.
    pub(super) fn trace(&self) -> Option<Arc<Trace>> {
        let (parent, state) = (self.traceparent.as_deref(), self.tracestate.as_deref());
        Trace::read(parent.map(str::as_bytes).into_iter(), state.map(str::as_bytes).into_iter()).map(Arc::new)
    }
}

/// `{"event":...,"id":...}` with further fields, whose values are JSON.
pub(super) fn event_text(event: &str, id: &str, fields: &[(&str, &str)]) -> String {
    let n_bytes = fields.iter().map(|(name, json)| name.len() + json.len() + r#","":"#.len()).sum();
    let mut text = begun(event, id, n_bytes);
    for (name, json) in fields {
        [r#",""#, name, r#"":"#, json].into_iter().for_each(|part| text.push_str(part));
    }
    text.push('}');
    text
}

/// An event with all fields of a JSON object.
pub(super) fn object_text(event: &str, id: &str, object: &str) -> String {
    let fields = object.trim_start().trim_start_matches('{').trim_start();
    let mut text = begun(event, id, fields.len());
    if !fields.starts_with('}') {
        text.push(',');
    }
    text.push_str(fields);
    text
}

/// What stands before the other fields of an event: `{"event":...,"id":...`.
pub(super) fn beginning<'t>(event: &'t str, id: &'t str) -> [&'t str; 4] {
    [r#"{"event":""#, event, r#"","id":"#, id]
}

/// The same as text, with room for a comma, so many bytes and a brace.
fn begun(event: &str, id: &str, n_bytes: usize) -> String {
    let parts = beginning(event, id);
    let mut text = String::with_capacity(parts.iter().map(|part| part.len()).sum::<usize>() + n_bytes + 2);
    parts.into_iter().for_each(|part| text.push_str(part));
    text
}

/// One item of a whole result.
pub(super) fn chunk_text(id: &str, index: usize, item: &str) -> String {
    object_text("chunk", id, &chunk_of(index, item))
}

pub(super) fn error_text(id: Option<&str>, error: &Error) -> String {
    let object = error_object(error, None);
    // All fields but `status`, which the event says.
    let fields = object.trim_start_matches(r#"{"status":"error","#);
    let id = id.map_or(String::new(), |id| format!(r#""id":{id},"#));
    format!(r#"{{"event":"error",{id}{fields}"#)
}
