//! What a child says on its stdout, brought where it belongs: answers to those who wait, questions to those who can answer,
//! changes and what belongs to no call to the owner, the end to the worker's thread.
//!
//! A server does not say which call a question or a log line belongs to. A question goes to the call that has the worker
//! alone; anything else to the only call in flight. With more than one it is told to none rather than to the wrong one:
//! the owner may know somebody, if all of them are of one session. Tools in whose calls anything is said are known by that from
//! then on (`habits.rs`).
//!
//! It never waits for a client: what a client is told goes into its mailbox, which is bounded.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crossbeam_channel::Sender;
use serde_json::value::RawValue;

use super::{
    Call, Change, Event, Link, Owner,
    link::Found,
    mailbox::{Note, Question},
    pipe::{Line, Pipe},
};
use crate::{
    config::Live,
    error::Error,
    mcp::{
        content,
        incoming::{INTERNAL_ERROR, METHOD_NOT_FOUND},
        message::{self, META, Message, Progress},
        raw,
        revision::{Era, SUBSCRIPTION_ID_KEY},
    },
};

/// The thread that reads a child's stdout and brings each message where it belongs.
pub(super) struct Reader {
    pub(super) slot: usize,
    pub(super) link: Arc<Link>,
    pub(super) owner: Arc<dyn Owner>,
    pub(super) inbox: Sender<Event>,
    pub(super) tools_changed: Arc<AtomicBool>,
    pub(super) config: Live,
}

impl Reader {
    pub(super) fn run(self, pipe: &Pipe) {
        let line_bytes_max = self.config.now().worker_line_bytes_max;
        pipe.read_lines(line_bytes_max, |line| match line {
            Line::Whole(line) => self.read(line),
            Line::Long(line) => self.read_long(mem::take(line)),
            Line::TooLong(id) => {
                log::warn!("worker {} wrote a line of more than {line_bytes_max} bytes", self.link.worker());
                if let Some(id) = id {
                    let worker = self.link.worker().to_string();
                    self.end(id, Err(Error::LineTooLong { worker, bytes_max: line_bytes_max }));
                }
            }
        });
        // The worker's thread takes it as soon as it looks; it never looks away for good.
        let _ = self.inbox.send(Event::StdoutEnded);
    }

    fn read(&self, line: &[u8]) {
        log::trace!("{} > {}", self.link.worker(), String::from_utf8_lossy(line));
        self.take(Message::parse(line), line);
    }

    /// Reads a line whose memory becomes that of the result in it.
    fn read_long(&self, line: Vec<u8>) {
        let mut line = match String::from_utf8(line) {
            Ok(line) => line,
            Err(error) => return self.read(error.as_bytes()),
        };
        log::trace!("{} > {line}", self.link.worker());
        let message = Message::parse_text(&line);
        let Ok(Message::Response { id, outcome: Ok(result) }) = message else {
            return self.take(message, line.as_bytes());
        };
        let Some(place) = raw::place_in(&line, result.get()) else { return self.take(message, line.as_bytes()) };
        line.truncate(place.end);
        line.drain(..place.start);
        // It was JSON as a part of the line, so it is without the rest.
        if let Some(result) = raw::known_owned(line) {
            self.end(id, Ok(result));
        }
    }

    fn take(&self, message: Result<Message<'_>, serde_json::Error>, line: &[u8]) {
        let worker = self.link.worker();
        match message {
            Ok(Message::Response { id, outcome }) => {
                let outcome = outcome.map(ToOwned::to_owned).map_err(|error| Error::WorkerError {
                    worker: worker.to_string(),
                    rpc_code: error.code,
                    message: error.message.into_owned(),
                    raw_data: error.data.map(|data| data.get().to_owned()),
                });
                self.end(id, outcome);
            }
            Ok(Message::Request { id, method, params }) => self.take_question(id, &method, params),
            Ok(Message::Notification { method, params }) => self.note(&method, params),
            Ok(Message::Unusable(why)) => {
                let beginning = beginning(line);
                log::warn!("worker {worker} wrote {why}: {beginning}");
                self.owner.noise(&beginning);
            }
            Err(cause) => {
                let beginning = beginning(line);
                log::warn!("worker {worker} wrote a line that is not JSON-RPC ({cause}): {beginning}");
                self.owner.noise(&beginning);
            }
        }
    }

    fn end(&self, id: u64, outcome: Result<Box<RawValue>, Error>) {
        match self.link.answer(id) {
            Found::Call(call) => {
                if let Some(ping) = call.as_ping() {
                    return self.owner.pong(self.slot, &self.link, ping, call.heard_at().elapsed());
                }
                if let Some(method) = call.as_unattended() {
                    let how = outcome.map_or_else(|error| error.to_string(), |_| "it was answered".to_owned());
                    return log::debug!("worker {}: `{method}` is over: {how}", self.link.worker());
                }
                let outcome = outcome.and_then(|result| self.check_complete(&call, result));
                let is_error = outcome.is_err();
                // A modern server asks by such an answer, which only some calls may have.
                let may_be_question = self.link.era() == Era::Modern && call.takes_input_requests();
                if let Some(terms) = call.terms.as_ref().filter(|_| !is_error && !may_be_question) {
                    terms.habits.silence.kept();
                }
                // The next call first: who waits for this one may have the answer written here.
                if call.has_place() {
                    self.owner.answered(self.slot, &self.link, &call, is_error);
                }
                call.end(Some(Arc::clone(self.link.worker())), outcome);
            }
            Found::Late { counts } => {
                if counts {
                    self.owner.answered_late();
                }
                log::debug!("worker {} answered {id} after it was given up", self.link.worker());
            }
            Found::Twice => log::warn!("worker {} answered {id} a second time", self.link.worker()),
            Found::Unknown => log::warn!("worker {} answered {id}, which it was never asked", self.link.worker()),
        }
    }

    /// Fails with [`Error::InputRequested`] when a result asks for input that the call's client cannot give.
    fn check_complete(&self, call: &Call, result: Box<RawValue>) -> Result<Box<RawValue>, Error> {
        let may_ask = self.link.era() == Era::Legacy || call.takes_input_requests();
        let asks = !may_ask && raw::text(&result, "resultType").as_deref() == Some("input_required");
        if asks { Err(Error::InputRequested { worker: self.link.worker().to_string() }) } else { Ok(result) }
    }

    /// Passes a server's question on to somebody who can answer it, if there is one.
    fn take_question(&self, id: &RawValue, method: &str, params: Option<&RawValue>) {
        if method == "ping" {
            return self.link.send_line(|out| message::push_result(out, id, "{}"));
        }
        let can_be_passed_on = matches!(method, "sampling/createMessage" | "elicitation/create" | "roots/list");
        let question = Question {
            link: Arc::clone(&self.link),
            id: id.to_owned(),
            method: method.to_owned(),
            params: params.unwrap_or(&content::EMPTY_OBJECT).to_owned(),
        };
        self.link.note_speech();
        let asked = self.link.exclusive_call().or_else(|| self.owner.asked(self.slot, &self.link));
        let is_unclear = asked.is_none() && self.link.are_all_beside();
        let is_taken = can_be_passed_on && self.tell(asked, Note::Question(question));
        if is_taken {
            return;
        }
        let (code, why) = if can_be_passed_on && is_unclear {
            log::warn!(
                "worker {} asked `{method}` while it had several calls, so nobody could be asked; calls of their tools that begin from now on have their worker \
                 for themselves",
                self.link.worker()
            );
            let why = format!(
                "several calls are running, so nobody can tell whose `{method}` is; calls that begin from now on run alone"
            );
            (INTERNAL_ERROR, why)
        } else {
            (METHOD_NOT_FOUND, format!("nobody here can answer `{method}`"))
        };
        self.link.send_line(|out| message::push_error(out, id, code, &why));
    }

    /// Tells `call`, else the newest call of the one client whose worker it is, else the owner. False when nobody wants to
    /// hear it.
    fn tell(&self, call: Option<Arc<Call>>, note: Note) -> bool {
        let newest = || self.link.newest_dialogue().filter(|_| self.owner.is_of_a_session());
        match call.or_else(newest) {
            Some(call) => {
                call.note(note);
                true
            }
            None => self.owner.heard(note),
        }
    }

    /// The one call that what a server says can belong to, if its client wants to hear it.
    fn only_stream(&self) -> Option<Arc<Call>> {
        self.link.only_call().filter(|call| call.is_stream())
    }

    fn note(&self, method: &str, params: Option<&RawValue>) {
        match method {
            "notifications/progress" => {
                let Some(progress) = params.and_then(Progress::read) else { return };
                let Some(call) = self.link.find(progress.progress_token) else { return };
                call.heard();
                if let (true, Some(params)) = (call.is_stream(), params) {
                    let note = if progress.has_chunk() { Note::Chunk } else { Note::Progress };
                    call.note(note(params.to_owned()));
                }
            }
            "notifications/message" => {
                self.link.note_speech();
                if let Some(params) = params {
                    self.tell(self.only_stream(), Note::Log(params.to_owned()));
                }
            }
            "notifications/cancelled" => self.take_back(params.and_then(|params| raw::field(params, "requestId"))),
            // One event however often it changes, so that a flood of these cannot fill the inbox.
            "notifications/tools/list_changed" if !self.tools_changed.swap(true, Ordering::SeqCst) => {
                let _ = self.inbox.try_send(Event::ToolsChanged);
            }
            "notifications/tools/list_changed" => {}
            "notifications/prompts/list_changed" => self.owner.changed(Change::Prompts),
            "notifications/resources/list_changed" => self.owner.changed(Change::Resources),
            "notifications/resources/updated" => {
                if let Some((params, uri)) = params.and_then(|params| Some((params, raw::text(params, "uri")?))) {
                    self.owner.changed(Change::Resource { uri, params: without_subscription(params) });
                }
            }
            "notifications/subscriptions/acknowledged" => {}
            _ => {
                self.link.note_speech();
                let note = Note::Other { method: method.to_owned(), params: params.map(ToOwned::to_owned) };
                if !self.tell(self.only_stream(), note) {
                    log::debug!("worker {} notifies `{method}`", self.link.worker());
                }
            }
        }
    }

    /// The server takes back what it asked, or ends what it was asked to tell of.
    fn take_back(&self, request_id: Option<&RawValue>) {
        let Some(id) = request_id else { return };
        let is_listen = id.get().parse().is_ok_and(|id| self.link.stop_listening(id));
        if is_listen {
            return log::debug!("worker {} tells no more of what was asked for under {id}", self.link.worker());
        }
        self.tell(self.link.exclusive_call(), Note::Withdrawn { link: Arc::clone(&self.link), id: id.to_owned() });
    }
}

/// The parameters of a notification without the id of our own subscription, which means nothing to anybody else.
fn without_subscription(params: &RawValue) -> Box<RawValue> {
    let Some(meta) = raw::field(params, META) else { return params.to_owned() };
    let rest = raw::without(meta, SUBSCRIPTION_ID_KEY);
    let is_empty = rest.get() == "{}";
    if is_empty { raw::without(params, META) } else { raw::with(params, META, rest.get()) }
}

/// The first bytes of a line, fit for a log.
fn beginning(line: &[u8]) -> String {
    const BYTES_MAX: usize = 200;
    let text = String::from_utf8_lossy(&line[..line.len().min(BYTES_MAX)]);
    let dots = if BYTES_MAX < line.len() { "..." } else { "" };
    format!("`{}`{dots}", text.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_without(params: &str, rest: &str) {
        let params = RawValue::from_string(params.to_owned()).unwrap();
        assert_eq!(without_subscription(&params).get(), rest);
    }

    #[test]
    fn the_id_of_our_subscription_is_taken_out_and_nothing_else() {
        let id = r#""io.modelcontextprotocol/subscriptionId":4"#;
        check_without(r#"{"uri": "a"}"#, r#"{"uri": "a"}"#);
        check_without(&format!(r#"{{"_meta":{{{id}}},"uri":"a"}}"#), r#"{"uri":"a"}"#);
        check_without(&format!(r#"{{"uri":"a","_meta":{{"k":1.10,{id}}}}}"#), r#"{"uri":"a","_meta":{"k":1.10}}"#);
    }
}
