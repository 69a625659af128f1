//! What is counted and logged of a request that has ended.

use std::time::Instant;

use super::{connection::Connection, head::Head};
use crate::{
    logs::{
        access::{Asked, Entry},
        milliseconds,
    },
    mcp::trace::Trace,
};

/// How a request ended.
#[derive(Clone, Copy)]
pub(super) struct Ended<'a> {
    /// `None`: the client went away before it had an answer.
    pub(super) status: Option<u16>,
    pub(super) started_at: Instant,
    /// Bytes that the connection had written before it.
    pub(super) written_before: u64,
    pub(super) request_id: &'a str,
    pub(super) trace: Option<&'a Trace>,
}

impl Connection {
    /// Counts and logs a request that has ended.
    pub(super) fn note(&self, head: Option<&Head>, ended: &Ended<'_>) {
        let Ended { status, started_at, written_before, request_id, trace } = *ended;
        self.api.counters.outcomes.add(status);
        let trace_id = trace.map(Trace::id);
        let key = self.principal.as_ref().map(|principal| &*principal.name);
        if let Some(head) = head
            && log::log_enabled!(log::Level::Debug)
        {
            let (method, path) = (head.method.as_str(), head.path(&self.buffer));
            let duration_ms = milliseconds(started_at.elapsed());
            let status_text = status.map_or("-".to_owned(), |status| status.to_string());
            let (shown_key, in_trace) =
                (key.unwrap_or("-"), trace_id.map_or(String::new(), |id| format!(", trace {id}")));
            log::debug!(
                request_id, key, method, path, status, duration_ms, trace_id;
                "{request_id} {method} {path} {status_text} {duration_ms:.3} ms, key {shown_key}{in_trace}"
            );
        }
        let Some(access_log) = &self.access_log else { return };
        let asked = head.map(|head| Asked {
            method: head.method.as_str(),
            path: head.path(&self.buffer),
            query: head.query(&self.buffer),
            version: (head.version.0, head.version.1),
            referer: head.header(&self.buffer, "Referer"),
            user_agent: head.header(&self.buffer, "User-Agent"),
        });
        access_log.write(&Entry {
            client: self.client,
            key,
            asked,
            status,
            bytes: self.stream.written_bytes() - written_before,
            duration: started_at.elapsed(),
            request_id,
            trace_id,
        });
    }
}
