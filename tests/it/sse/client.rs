//! A client of event streams that hides nothing: it takes them apart event by event, and knows what came in which chunk.

use std::{io, time::Instant};

use serde_json::Value;

use crate::support::{Connection, Gateway, KEY, Log, PATIENCE, Reply};

/// How much of a stream a failure shows.
const SHOWN_BYTES_MAX: usize = 4000;

/// A running event stream.
pub(crate) struct EventStream {
    pub(crate) connection: Connection,
    pub(crate) head: Reply,
    /// Comments so far.
    pub(crate) n_comments: usize,
    log: Log,
    buffer: Vec<u8>,
    /// Whether `buffer` was empty before the last chunk came.
    is_fresh: bool,
    shown: String,
}

/// One event.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) name: String,
    /// The data as it came.
    pub(crate) raw: String,
    pub(crate) data: Value,
    /// Its chunk held nothing else.
    pub(crate) is_alone: bool,
}

impl EventStream {
    /// Calls a tool over a connection of its own and takes the head of the answer, which must be a stream.
    #[track_caller]
    pub(crate) fn open(gateway: &Gateway, tool: &str, arguments: &str) -> EventStream {
        EventStream::over(gateway.connect(), gateway, tool, arguments)
    }

    #[track_caller]
    pub(crate) fn over(connection: Connection, gateway: &Gateway, tool: &str, arguments: &str) -> EventStream {
        let body = format!(r#"{{"arguments":{arguments}}}"#);
        EventStream::request(connection, gateway, "POST", &format!("/tools/{tool}/stream"), &body)
    }

    #[track_caller]
    pub(crate) fn request(
        mut connection: Connection,
        gateway: &Gateway,
        method: &str,
        path: &str,
        body: &str,
    ) -> EventStream {
        let request = format!("{method} {path} {body}");
        if let Err(cause) = connection.send(method, path, &[("X-API-Key", KEY)], body.as_bytes()) {
            panic!("request: {request}\nit could not be sent: {cause}\n{}", gateway.framed_log());
        }
        EventStream::answering(connection, gateway, &request)
    }

    /// Takes the head of the answer to a request that was already sent.
    #[track_caller]
    pub(crate) fn answering(mut connection: Connection, gateway: &Gateway, request: &str) -> EventStream {
        let head = connection.head().unwrap_or_else(|cause| {
            panic!("request: {request}\nexpected: the head of a stream\nactual: {cause}\n{}", gateway.framed_log())
        });
        if head.status != 200 {
            let answer = connection.rest().unwrap_or_default();
            let text = String::from_utf8_lossy(&answer).into_owned();
            panic!("request: {request}\nexpected: a stream\nactual: {} {text}\n{}", head.status, gateway.framed_log());
        }
        let head = gateway.reply(request, head);
        head.expect_header("Content-Type", "text/event-stream");
        EventStream {
            connection,
            log: head.log.clone(),
            head,
            n_comments: 0,
            buffer: Vec::new(),
            is_fresh: true,
            shown: String::new(),
        }
    }

    /// Fails the test: prints the request, what was expected, the end of what came, and the gateway's log.
    #[track_caller]
    pub(crate) fn fail(&self, expected: &str, actual: &str) -> ! {
        let (request, log) = (&self.head.request, self.log.framed());
        panic!("request: {request}\nexpected: {expected}\nactual: {actual}\nso far:\n{}\n{log}", self.shown);
    }

    #[track_caller]
    pub(crate) fn expect(&self, is_as_expected: bool, expected: &str, actual: &str) {
        if !is_as_expected {
            self.fail(expected, actual);
        }
    }

    /// The next event, `None` at the proper end of the stream.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Option<Event> {
        match self.try_next() {
            Ok(event) => event,
            Err(cause) => self.fail("an event, or the end of the stream", &cause.to_string()),
        }
    }

    /// As [`EventStream::next`], for streams that may be cut off.
    #[track_caller]
    pub(crate) fn try_next(&mut self) -> io::Result<Option<Event>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.expect(Instant::now() < deadline, "an event", "comments only");
            if let Some(frame) = self.frame() {
                if let Some(event) = self.event(&frame) {
                    return Ok(Some(event));
                }
                continue;
            }
            if !self.fill()? {
                self.expect(self.buffer.is_empty(), "whole events", "half an event at the end");
                return Ok(None);
            }
        }
    }

    /// The next event has this name; gives its data.
    #[track_caller]
    pub(crate) fn expect_event(&mut self, name: &str) -> Value {
        match self.next() {
            Some(event) if event.name == name => event.data,
            Some(event) => self.fail(&format!("an event `{name}`"), &format!("{event:?}")),
            None => self.fail(&format!("an event `{name}`"), "the end of the stream"),
        }
    }

    /// All events up to the proper end of the stream.
    #[track_caller]
    pub(crate) fn rest(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next() {
            events.push(event);
        }
        events
    }

    /// Waits until this many comments have come; no event may come before.
    #[track_caller]
    pub(crate) fn expect_comments(&mut self, count: usize) {
        while self.n_comments < count {
            if let Some(frame) = self.frame() {
                if let Some(event) = self.event(&frame) {
                    self.fail("only comments", &format!("{event:?}"));
                }
            } else if let Err(cause) = self.fill() {
                self.fail("a comment", &cause.to_string());
            }
        }
    }

    /// Reads until the connection ends, which must be before `done`: the gateway gave this client up.
    #[track_caller]
    pub(crate) fn expect_cut_off(&mut self) {
        loop {
            match self.try_next() {
                Ok(Some(event)) if event.name == "done" => self.fail("a stream that is cut off", "`done`"),
                Ok(Some(_)) => {}
                Ok(None) => self.fail("a stream that is cut off", "its proper end"),
                Err(cause) if matches!(cause.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    self.fail("a stream that is cut off", "nothing more, and no end");
                }
                Err(_) => return,
            }
        }
    }

    /// The bytes up to the next empty line.
    fn frame(&mut self) -> Option<Vec<u8>> {
        let end = self.buffer.windows(2).position(|it| it == b"\n\n")?;
        let frame: Vec<u8> = self.buffer.drain(..end + 2).collect();
        Some(frame)
    }

    /// What a frame says; `None`: a comment.
    #[track_caller]
    fn event(&mut self, frame: &[u8]) -> Option<Event> {
        let is_alone = self.is_fresh && self.buffer.is_empty();
        self.is_fresh = self.buffer.is_empty();
        let text = std::str::from_utf8(frame).unwrap_or_else(|cause| self.fail("UTF-8", &cause.to_string()));
        self.show(text);
        if text == ": keep-alive\n\n" {
            self.n_comments += 1;
            return None;
        }
        // A carriage return ends a line of an event stream too. Lines of data are joined, as the standard says.
        let mut lines = text.trim_end_matches('\n').split(['\n', '\r']);
        let name = lines.next().and_then(|line| line.strip_prefix("event: ")).map(str::to_owned);
        let data: Option<Vec<&str>> = lines.map(|line| line.strip_prefix("data: ")).collect();
        let (name, raw) = match (name, data) {
            (Some(name), Some(data)) if !data.is_empty() => (name, data.join("\n")),
            _ => self.fail("a line `event: NAME`, then lines `data: JSON`", &format!("{text:?}")),
        };
        let data = serde_json::from_str(&raw).unwrap_or_else(|cause| self.fail("JSON", &cause.to_string()));
        Some(Event { name, raw, data, is_alone })
    }

    /// Takes the next chunk; `false` at the end of the stream.
    fn fill(&mut self) -> io::Result<bool> {
        self.is_fresh = self.buffer.is_empty();
        let chunk = if self.head.is_chunked() {
            self.connection.chunk()?
        } else {
            Some(self.connection.piece()?).filter(|piece| !piece.is_empty())
        };
        self.buffer.extend_from_slice(chunk.as_deref().unwrap_or_default());
        Ok(chunk.is_some())
    }

    fn show(&mut self, text: &str) {
        self.shown.extend(text.chars().take(500));
        let excess = self.shown.len().saturating_sub(SHOWN_BYTES_MAX);
        let start = (excess..=self.shown.len()).find(|at| self.shown.is_char_boundary(*at)).unwrap_or_default();
        self.shown.drain(..start);
    }
}

/// The names of the events, in order.
pub(crate) fn names(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.name.as_str()).collect()
}
