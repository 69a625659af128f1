//! `/tools/{name}/stream`: a call that tells what happens, as Server-Sent Events.
//!
//! Any number of `progress`, `chunk` and `log`, then one `result` or `error`, then `done`. What is wrong before the call
//! begins is a plain HTTP error. The wire format is that of the HTML standard, section 9.2.
//!
//! **Limit.** The mailbox bounds what waits for a slow client; every write has its own deadline in `http`.
//! **End.** The call's end; or the client's, and then the call is taken back.

use std::{
    io, mem,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::value::RawValue;
use tiny_http::Method;

use super::{
    Api, Request,
    calls::{CANCELLED, CallBody, Caller, Prepared, chunk_of, event_of},
    exchange::{Events, error_object, push_on_one_line},
    json::Json,
};
use crate::{
    error::Error,
    pool::{Answered, TakenBack},
    worker::{
        Call, Waiter,
        mailbox::{Ended, Event, Mailbox, Wake},
    },
};

#[cfg(any(test, benching))]
pub(crate) mod benching;

/// Events that wait are written together until they take this much.
const BATCH_BYTES: usize = 64 * 1024;

/// How long it may take until a client learns that its call has begun: the end of a quick one comes together with that.
const BEGUN_WITHIN: Duration = Duration::from_millis(5);

/// A call that has begun and is to be told.
#[derive(Debug)]
pub(super) struct EventStream<'a> {
    api: &'a Api,
    prepared: Prepared,
    call: Arc<Call>,
    client: Arc<Mailbox>,
    request_id: String,
    /// Events that are not written yet.
    batch: Vec<u8>,
    /// The server streams its items itself.
    has_chunks: bool,
    has_ended: bool,
}

impl Api {
    /// Begins the call that a request asks for.
    pub(super) fn begin_stream<'a>(
        &'a self,
        name: &str,
        caller: &Caller<'_>,
        request: &Request<'_>,
    ) -> Result<EventStream<'a>, Error> {
        let is_get = *request.method() == Method::Get;
        let arguments = query_json(request, "arguments", "`arguments` in the query").filter(|_| is_get).transpose()?;
        let timeout = query_json(request, "timeout", "`timeout` in the query").filter(|_| is_get).transpose()?;
        let body = if is_get {
            CallBody { arguments: arguments.as_deref(), timeout: timeout.as_deref() }
        } else {
            CallBody::of(request)?
        };
        self.begin(name, &body, caller)
    }

    /// Begins a call of somebody who did not come by a request, to be told as a stream is; `body` is what `POST /tools/{name}` takes.
    pub fn stream_tool(&self, name: &str, body: &[u8], caller: &Caller<'_>) -> Result<Box<dyn Events + '_>, Error> {
        Ok(Box::new(self.begin(name, &CallBody::read(body)?, caller)?))
    }

    fn begin(&self, name: &str, body: &CallBody<'_>, caller: &Caller<'_>) -> Result<EventStream<'_>, Error> {
        let prepared = self.prepare(name, body, caller)?;
        let waiter = Waiter::Stream(Arc::clone(caller.client));
        let tag = caller.client.next_tag();
        let call = prepared.begin(waiter, tag);
        let call = call.inspect_err(|error| self.count_end(&prepared, caller.request_id, None, Some(error.code())))?;
        Ok(EventStream {
            api: self,
            prepared,
            call,
            client: Arc::clone(caller.client),
            request_id: caller.request_id.to_owned(),
            batch: Vec::new(),
            has_chunks: false,
            has_ended: false,
        })
    }
}

impl Events for EventStream<'_> {
    fn begins_soon(&self) -> bool {
        true
    }

    fn run(mut self: Box<Self>, write: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<Vec<u8>> {
        let quiet_max = self.api.next_quiet_max();
        let mut quiet_since = Instant::now();
        let mut begin_at = Some(quiet_since + BEGUN_WITHIN);
        loop {
            let give_up_at = self.prepared.limits.deadline(&self.call, self.prepared.started_at);
            let until = give_up_at.min(quiet_since + quiet_max);
            let ended = match self.client.wait(begin_at.map_or(until, |at| at.min(until))) {
                Wake::Event(event) => self.take(event).or_else(|| self.take_waiting()),
                Wake::Closed if self.client.is_draining() => {
                    self.push_done("cancelled");
                    return Ok(mem::take(&mut self.batch));
                }
                Wake::Closed => return Err(io::ErrorKind::ConnectionAborted.into()),
                Wake::Deadline if begin_at.take().is_some() => {
                    write(b"")?;
                    None
                }
                Wake::Deadline
                    if Instant::now() < self.prepared.limits.deadline(&self.call, self.prepared.started_at) =>
                {
                    self.batch.extend_from_slice(b": keep-alive\n\n");
                    None
                }
                Wake::Deadline => Some(self.give_up()),
            };
            if let Some(ended) = ended {
                self.push_end(ended);
                return Ok(mem::take(&mut self.batch));
            }
            if !self.batch.is_empty() {
                write(&self.batch)?;
                self.batch.clear();
                begin_at = None;
                quiet_since = Instant::now();
            }
        }
    }
}

impl EventStream<'_> {
    /// Puts an event into the batch; the end of the call is handed back.
    fn take(&mut self, event: Event) -> Option<Ended> {
        match event {
            Event::Ended(ended) if ended.tag == self.call.tag() => Some(ended),
            Event::Note(tag, note) if tag == self.call.tag() => {
                if let Some((name, data)) = event_of(&note) {
                    self.has_chunks |= name == "chunk";
                    push_frame(&mut self.batch, name, &data);
                }
                None
            }
            // Of an earlier call on this connection.
            Event::Ended(_) | Event::Note(..) | Event::TakenBack(_) | Event::Nudge | Event::Relayed { .. } => None,
        }
    }

    /// Takes what has come meanwhile.
    fn take_waiting(&mut self) -> Option<Ended> {
        while self.batch.len() < BATCH_BYTES
            && let Some(event) = self.client.take()
        {
            let ended = self.take(event);
            if ended.is_some() {
                return ended;
            }
        }
        None
    }

    /// Takes back a call whose time is up.
    fn give_up(&self) -> Ended {
        if !self.prepared.workers.cancel(&self.call, TakenBack::TooLong) {
            return self.client.wait_for_end(self.call.tag());
        }
        let error = self.prepared.too_late(&self.call);
        Ended { tag: self.call.tag(), worker: None, outcome: Err(error) }
    }

    /// The last events of a call.
    fn push_end(&mut self, ended: Ended) {
        self.has_ended = true;
        let worker = ended.worker.clone();
        let outcome = self.push_result(ended);
        let error_code = outcome.as_ref().err().map(Error::code);
        self.api.count_end(&self.prepared, &self.request_id, worker.as_deref(), error_code);
        let status = if outcome.is_ok() { "complete" } else { "error" };
        if let Err(error) = outcome {
            push_frame(&mut self.batch, "error", &error_object(&error, Some(&self.request_id)));
        }
        self.push_done(status);
    }

    fn push_done(&mut self, status: &str) {
        push_frame(&mut self.batch, "done", &format!(r#"{{"status":"{status}"}}"#));
    }

    fn push_result(&mut self, ended: Ended) -> Result<(), Error> {
        let answered: Answered = self.prepared.workers.answered(ended)?;
        let result = self.prepared.read(&answered)?;
        if !self.has_chunks {
            for (index, item) in result.items().unwrap_or_default().iter().enumerate() {
                push_frame(&mut self.batch, "chunk", &chunk_of(index, item));
            }
        }
        let mut success = Json::copied();
        self.prepared.success(&answered, &result, &self.request_id).push_with_status(&mut success);
        push_frame(&mut self.batch, "result", &success.into_string());
        Ok(())
    }
}

impl Drop for EventStream<'_> {
    /// Takes the call back when it was not told to its end.
    fn drop(&mut self) {
        if !self.has_ended {
            self.prepared.workers.cancel(&self.call, TakenBack::ClientGone);
            self.api.count_end(&self.prepared, &self.request_id, None, Some(CANCELLED));
        }
    }
}

/// A parameter of the query that holds JSON; `what` names it in an error.
fn query_json(request: &Request<'_>, name: &str, what: &'static str) -> Option<Result<Box<RawValue>, Error>> {
    let text = request.query(name)?;
    Some(serde_json::from_str(&text).map_err(|cause| Error::InvalidJson { what, cause: cause.to_string() }))
}

/// Appends one event, whose data is JSON.
fn push_frame(batch: &mut Vec<u8>, event: &str, data: &str) {
    batch.extend_from_slice(b"event: ");
    batch.extend_from_slice(event.as_bytes());
    batch.extend_from_slice(b"\ndata: ");
    push_on_one_line(batch, data);
    batch.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_frame(data: &str, wire: &str) {
        let mut batch = Vec::new();
        push_frame(&mut batch, "chunk", data);
        assert_eq!(String::from_utf8(batch).unwrap(), wire);
    }

    #[test]
    fn an_event_has_its_data_on_one_line() {
        check_frame("{}", "event: chunk\ndata: {}\n\n");
        check_frame("[1,\n2,\r\n3]", "event: chunk\ndata: [1, 2,  3]\n\n");
    }
}
