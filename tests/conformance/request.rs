//! One request while it is answered: what it brought, whom it may tell and ask, and the ways to fail.
//!
//! **End.** [`Request::end`] answers, once; a request that was cancelled meanwhile is answered with nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};

use crate::peer::{Event, Peer};

/// Members of `_meta` that the modern era has given a meaning.
pub(crate) mod meta {
    pub(crate) const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
    pub(crate) const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
    pub(crate) const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
    pub(crate) const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";
    pub(crate) const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";
}

/// From the least to the most severe.
pub(crate) const LOG_LEVELS: [&str; 8] =
    ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// Longest wait for the client's answer to a question.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Which protocol a request speaks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Era {
    /// With `initialize`, up to 2025-11-25.
    Legacy,
    /// Each request by itself, from 2026-07-28 on.
    Modern,
}

impl Era {
    pub(crate) fn of(params: &Map<String, Value>) -> Era {
        let is_modern = params.get("_meta").is_some_and(|it| it.get(meta::VERSION).is_some());
        if is_modern { Era::Modern } else { Era::Legacy }
    }
}

/// Why there is no result.
#[derive(Debug)]
pub(crate) enum Failure {
    Error {
        code: i64,
        message: String,
        data: Option<Value>,
    },
    /// By the client, or because it has left: nobody waits for an answer.
    Cancelled,
}

pub(crate) type Outcome = Result<Value, Failure>;

impl Failure {
    pub(crate) fn new(code: i64, message: impl Into<String>) -> Failure {
        Failure::Error { code, message: message.into(), data: None }
    }

    pub(crate) fn invalid_request(message: impl Into<String>) -> Failure {
        Failure::new(-32600, message)
    }

    pub(crate) fn invalid_params(message: impl Into<String>) -> Failure {
        Failure::new(-32602, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Failure {
        Failure::new(-32603, message)
    }

    pub(crate) fn with_data(mut self, it: Value) -> Failure {
        if let Failure::Error { data, .. } = &mut self {
            *data = Some(it);
        }
        self
    }
}

/// What a handler sees of the request it answers.
pub(crate) struct Request<'env> {
    pub(crate) era: Era,
    pub(crate) id: Value,
    pub(crate) params: Map<String, Value>,
    pub(crate) peer: &'env Peer,
    pub(crate) events: Receiver<Event>,
    /// Set by whoever ends it first: its answer, or its cancellation.
    pub(crate) is_over: Arc<AtomicBool>,
}

impl Request<'_> {
    /// Writes the answer, unless the request was cancelled.
    pub(crate) fn end(self, outcome: Outcome) {
        let was_cancelled = self.is_over.swap(true, Ordering::SeqCst);
        if was_cancelled {
            return;
        }
        self.peer.forget(&self.id);
        match outcome {
            Ok(result) => self.peer.write(&json!({ "jsonrpc": "2.0", "id": self.id, "result": result })),
            Err(failure) => self.peer.refuse(&self.id, failure),
        }
    }

    /// A text that `params` must have.
    pub(crate) fn text(&self, key: &str) -> Result<&str, Failure> {
        let text = self.params.get(key).and_then(Value::as_str);
        text.ok_or_else(|| Failure::invalid_params(format!("`{key}` must be a string")))
    }

    /// A text that the arguments of a tool or prompt must have.
    pub(crate) fn argument(&self, key: &str) -> Result<&str, Failure> {
        let text = self.params.get("arguments").and_then(|it| it.get(key)).and_then(Value::as_str);
        text.ok_or_else(|| Failure::invalid_params(format!("the argument `{key}` must be a string")))
    }

    /// A member of `_meta`.
    pub(crate) fn meta(&self, key: &str) -> Option<&Value> {
        self.params.get("_meta").and_then(|it| it.get(key))
    }

    /// Waits, and fails when the request is cancelled meanwhile.
    pub(crate) fn pause(&self, pause: Duration) -> Result<(), Failure> {
        let until = Instant::now() + pause;
        loop {
            match self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) | Ok(Event::Cancelled) => return Err(Failure::Cancelled),
                // To a question that is given up.
                Ok(Event::Answered(_) | Event::Refused(_)) => {}
            }
        }
    }

    /// Waits for the end of the request: a subscription has no other.
    pub(crate) fn wait_for_the_end(&self) -> Failure {
        loop {
            if let Err(failure) = self.pause(Duration::from_secs(3600)) {
                return failure;
            }
        }
    }

    /// Reports that `progress` of `total` is done, if the client wants to know.
    pub(crate) fn report(&self, progress: u32, total: u32) {
        let Some(token) = self.meta("progressToken") else { return };
        let params = json!({ "progressToken": token, "progress": progress, "total": total });
        self.peer.notify("notifications/progress", params);
    }

    /// Logs, if the client wants to know: in the legacy era unless it has set a higher level, in the modern one only if
    /// the request has brought a level.
    pub(crate) fn log(&self, level: &str, text: &str) {
        let threshold = match self.era {
            Era::Legacy => Some(self.peer.log_level()),
            Era::Modern => self.meta(meta::LOG_LEVEL).and_then(|it| log_level(it).ok()),
        };
        let is_wanted = threshold.is_some_and(|it| Some(it) <= LOG_LEVELS.iter().position(|known| *known == level));
        if is_wanted {
            let params = json!({ "level": level, "logger": "conformance", "data": text });
            self.peer.notify("notifications/message", params);
        }
    }

    /// Asks the client, and waits for its answer; `Err` inside says why there is none. For the legacy era.
    pub(crate) fn ask(&self, method: &str, params: Value) -> Result<Result<Value, String>, Failure> {
        let question = self.peer.ask(self, method, params)?;
        let answer = match self.events.recv_timeout(ANSWER_TIMEOUT) {
            Ok(Event::Answered(result)) => Ok(Ok(result)),
            Ok(Event::Refused(error)) => {
                Ok(Err(error.get("message").and_then(Value::as_str).unwrap_or("no reason given").to_owned()))
            }
            Err(RecvTimeoutError::Timeout) => Ok(Err(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()))),
            Ok(Event::Cancelled) | Err(RecvTimeoutError::Disconnected) => Err(Failure::Cancelled),
        };
        self.peer.close_question(&question);
        answer
    }
}

/// Where a level stands in [`LOG_LEVELS`].
pub(crate) fn log_level(level: &Value) -> Result<usize, Failure> {
    let known = LOG_LEVELS.iter().position(|it| level == it);
    known.ok_or_else(|| Failure::invalid_params(format!("there is no log level {level}")))
}
