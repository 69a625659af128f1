//! A stdio MCP server with what the official conformance suite looks for; `scripts/conformance.sh` puts it behind the
//! gateway.
//!
//! It speaks both eras of the protocol, but a process only one of them: the first request decides. One with a revision
//! in its `_meta` is modern (2026-07-28), any other is legacy (up to 2025-11-25); what comes of the other era later is
//! refused. It knows nothing of HTTP, and it shares nothing with other processes of its kind but the key of `state.rs`.
//!
//! | file           | what it has                                                                  |
//! | -------------- | ---------------------------------------------------------------------------- |
//! | `peer.rs`      | the client at the other end: what is written, asked, awaited, subscribed     |
//! | `request.rs`   | one request while it is answered, and the ways to fail                       |
//! | `methods.rs`   | which method does what in which era, and what results have in common         |
//! | `tools.rs`     | the tools of both eras                                                       |
//! | `questions.rs` | the tools that ask the client while they run (legacy)                        |
//! | `rounds.rs`    | the tools that ask by ending with `input_required` (modern)                  |
//! | `state.rs`     | the signed state that such a question hands to the client                    |
//! | `content.rs`   | resources, prompts, and the contents that several of them give               |
//!
//! **Threads.** The main thread reads; each request has a thread of its own, so one that waits for an answer does not
//! hold up the reader. At most [`REQUESTS_MAX`] are answered at a time; one more is refused.
//!
//! **End.** At the end of stdin: whoever waits is woken up, and all threads are joined.

#![allow(clippy::print_stderr, reason = "stderr is the log of a stdio server")]

mod content;
mod methods;
mod peer;
mod questions;
mod request;
mod rounds;
mod state;
mod tools;

use std::{
    io::{self, BufRead},
    thread::{Builder, Scope, scope},
};

use serde_json::{Map, Value, json};

use crate::{
    peer::{Event, Peer},
    request::{Era, Failure, meta},
};

/// Most requests that are answered at a time.
const REQUESTS_MAX: usize = 256;

fn main() {
    let peer = Peer::default();
    scope(|threads| {
        let mut reader = Reader { peer: &peer, threads, era: None };
        for line in io::stdin().lock().split(b'\n') {
            let Ok(line) = line else { break };
            reader.read(&line);
        }
        peer.close();
    });
}

/// Sorts what comes in, on the main thread.
struct Reader<'scope, 'env> {
    peer: &'env Peer,
    threads: &'scope Scope<'scope, 'env>,
    era: Option<Era>,
}

impl<'env> Reader<'_, 'env> {
    fn read(&mut self, line: &[u8]) {
        if line.trim_ascii().is_empty() {
            return;
        }
        let Ok(Value::Object(mut message)) = serde_json::from_slice(line) else {
            eprintln!("passed over a line that is no JSON object: {}", String::from_utf8_lossy(line));
            return;
        };
        let id = message.remove("id");
        let params = match message.remove("params") {
            Some(Value::Object(params)) => params,
            _ => Map::new(),
        };
        match (message.get("method").and_then(Value::as_str), id) {
            (Some(method), Some(id)) => self.request(method, id, params),
            (Some(method), None) => self.notification(method, &params),
            (None, Some(id)) => self.answer(&id, message),
            (None, None) => eprintln!("passed over a message without `method` and `id`"),
        }
    }

    fn request(&mut self, method: &str, id: Value, params: Map<String, Value>) {
        let era = *self.era.get_or_insert_with(|| Era::of(&params));
        if let Err(failure) = admit(era, method, &params) {
            return self.peer.refuse(&id, failure);
        }
        let request = match self.peer.begin(era, id.clone(), params, REQUESTS_MAX) {
            Ok(request) => request,
            Err(failure) => return self.peer.refuse(&id, failure),
        };
        let method = method.to_owned();
        let thread = Builder::new().name("request".to_owned());
        let started = thread.spawn_scoped(self.threads, move || {
            let outcome = methods::answer(&request, &method);
            request.end(outcome);
        });
        if let Err(cause) = started {
            self.peer.forget(&id);
            self.peer.refuse(&id, Failure::internal(format!("cannot start a thread: {cause}")));
        }
    }

    fn notification(&self, method: &str, params: &Map<String, Value>) {
        if method == "notifications/cancelled"
            && let Some(id) = params.get("requestId")
        {
            self.peer.cancel(id);
        }
    }

    /// What the client says to a question; in the modern era there are none.
    fn answer(&self, id: &Value, mut message: Map<String, Value>) {
        let event = match message.remove("result") {
            Some(result) => Event::Answered(result),
            None => Event::Refused(message.remove("error").unwrap_or(Value::Null)),
        };
        self.peer.answered(id, event);
    }
}

/// Whether a process of this era answers such a request at all.
fn admit(era: Era, method: &str, params: &Map<String, Value>) -> Result<(), Failure> {
    match (era, Era::of(params)) {
        (Era::Legacy, Era::Legacy) => Ok(()),
        (Era::Legacy, Era::Modern) => {
            Err(Failure::invalid_request("this process was initialized, so it speaks no 2026-07-28"))
        }
        (Era::Modern, Era::Modern) => methods::check_meta(params),
        (Era::Modern, Era::Legacy) if method == "initialize" => {
            let requested = params.get("protocolVersion").cloned().unwrap_or(Value::Null);
            Err(methods::unsupported_version(requested))
        }
        (Era::Modern, Era::Legacy) => {
            let missing = json!({ "missing": [meta::VERSION] });
            Err(Failure::invalid_params("there is no protocol version in `_meta`").with_data(missing))
        }
    }
}
