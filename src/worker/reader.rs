//! What a child says on its stdout, brought where it belongs: answers to those who wait, questions to those who can answer,
//! the end to the worker's thread.
//!
//! It never waits for a client: what a client is told goes into its mailbox, which is bounded.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crossbeam_channel::Sender;
use serde_json::value::RawValue;

use super::{
    Event, Link, Owner,
    link::Found,
    mailbox::{Note, Question},
    pipe::{Line, Pipe},
};
use crate::{
    config::Config,
    error::Error,
    mcp::{
        content,
        message::{self, Message, Progress},
    },
};

/// The thread that reads a child's stdout and brings each message where it belongs.
pub(super) struct Reader {
    pub(super) slot: usize,
    pub(super) link: Arc<Link>,
    pub(super) owner: Arc<dyn Owner>,
    pub(super) inbox: Sender<Event>,
    pub(super) tools_changed: Arc<AtomicBool>,
    pub(super) config: Arc<Config>,
}

impl Reader {
    pub(super) fn run(self, pipe: &Pipe) {
        let line_bytes_max = self.config.worker_line_bytes_max;
        pipe.read_lines(line_bytes_max, |line| match line {
            Line::Whole(line) => self.read(line),
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
        let worker = self.link.worker();
        log::trace!("{worker} > {}", String::from_utf8_lossy(line));
        match Message::parse(line) {
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
            Ok(Message::Unusable(why)) => log::warn!("worker {worker} wrote {why}: {}", beginning(line)),
            Err(cause) => {
                log::warn!("worker {worker} wrote a line that is not JSON-RPC ({cause}): {}", beginning(line))
            }
        }
    }

    fn end(&self, id: u64, outcome: Result<Box<RawValue>, Error>) {
        match self.link.answer(id) {
            Found::Call(call) => {
                if let Some(ping) = call.as_ping() {
                    return self.owner.pong(self.slot, &self.link, ping, call.heard_at().elapsed());
                }
                let is_error = outcome.is_err();
                call.end(Some(Arc::clone(self.link.worker())), outcome);
                if call.has_place() {
                    self.owner.answered(self.slot, &self.link, &call, is_error);
                }
            }
            Found::Late => log::debug!("worker {} answered {id} after it was given up", self.link.worker()),
            Found::Twice => log::warn!("worker {} answered {id} a second time", self.link.worker()),
            Found::Unknown => log::warn!("worker {} answered {id}, which it was never asked", self.link.worker()),
        }
    }

    /// Passes a server's question on to the client that can answer it, if there is one.
    fn take_question(&self, id: &RawValue, method: &str, params: Option<&RawValue>) {
        if method == "ping" {
            return self.link.send_line(|out| message::push_result(out, id, "{}"));
        }
        let can_be_passed_on = matches!(method, "sampling/createMessage" | "elicitation/create" | "roots/list");
        let call = self.link.exclusive_call().filter(|_| can_be_passed_on);
        let Some(call) = call else {
            let why = format!("nobody here can answer `{method}`");
            return self.link.send_line(|out| message::push_error(out, id, message::METHOD_NOT_FOUND, &why));
        };
        call.note(Note::Question(Question {
            link: Arc::clone(&self.link),
            id: id.to_owned(),
            method: method.to_owned(),
            params: params.unwrap_or(&content::EMPTY_OBJECT).to_owned(),
        }));
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
            // It does not say which call it belongs to. With more than one in flight it is told to nobody rather than to
            // the wrong one.
            "notifications/message" => {
                if let (Some(call), Some(params)) = (self.link.only_call(), params) {
                    call.note(Note::Log(params.to_owned()));
                }
            }
            // One event however often it changes, so that a flood of these cannot fill the inbox.
            "notifications/tools/list_changed" if !self.tools_changed.swap(true, Ordering::SeqCst) => {
                let _ = self.inbox.try_send(Event::ToolsChanged);
            }
            "notifications/tools/list_changed" => {}
            _ => log::debug!("worker {} notifies `{method}`", self.link.worker()),
        }
    }
}

/// The first bytes of a line, fit for a log.
fn beginning(line: &[u8]) -> String {
    const BYTES_MAX: usize = 200;
    let text = String::from_utf8_lossy(&line[..line.len().min(BYTES_MAX)]);
    let dots = if BYTES_MAX < line.len() { "..." } else { "" };
    format!("`{}`{dots}", text.escape_debug())
}
