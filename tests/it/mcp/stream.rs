//! Answers of `/mcp` as they come: whole, or as an event stream that is taken apart event by event.

use std::{io, time::Instant};

use serde_json::Value;

use crate::support::{Connection, Gateway, PATIENCE, Reply};

/// How much of a stream a failure shows.
const SHOWN_BYTES_MAX: usize = 4000;

/// A request that was sent; its answer is taken when it is asked for. Dropping it is a client that goes away.
pub(crate) struct Posted<'a> {
    pub(crate) gateway: &'a Gateway,
    pub(crate) connection: Connection,
    shown: String,
}

impl<'a> Posted<'a> {
    /// Sends a request on a connection of its own.
    #[track_caller]
    pub(crate) fn send(
        gateway: &'a Gateway,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Posted<'a> {
        Posted::send_on(gateway.connect(), gateway, method, path, headers, body)
    }

    #[track_caller]
    pub(crate) fn send_on(
        mut connection: Connection,
        gateway: &'a Gateway,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Posted<'a> {
        let shown = format!("{method} {path} {body}\n{headers:?}");
        if let Err(cause) = connection.send(method, path, headers, body.as_bytes()) {
            panic!("request: {shown}\nit could not be sent: {cause}\n{}", gateway.framed_log());
        }
        Posted { gateway, connection, shown }
    }

    /// The whole answer, up to the end of its body.
    #[track_caller]
    pub(crate) fn reply(mut self) -> Reply {
        let answer = self.connection.receive(false).unwrap_or_else(|cause| {
            panic!("request: {}\nno answer: {cause}\n{}", self.shown, self.gateway.framed_log())
        });
        self.gateway.reply(self.shown, answer)
    }

    /// The answer as a stream, which it must be.
    #[track_caller]
    pub(crate) fn stream(mut self) -> Stream {
        let head = self.connection.head().unwrap_or_else(|cause| {
            panic!("request: {}\nno answer: {cause}\n{}", self.shown, self.gateway.framed_log())
        });
        let head = self.gateway.reply(self.shown, head);
        head.expect_status(200).expect_header("Content-Type", "text/event-stream");
        head.expect(head.is_chunked(), "a chunked body");
        Stream { connection: self.connection, head, n_comments: 0, buffer: Vec::new(), shown: String::new() }
    }

    /// All messages of an answer, which is JSON or a stream.
    #[track_caller]
    pub(crate) fn messages(self) -> Vec<Value> {
        let reply = self.reply();
        messages(&reply)
    }

    /// The response, which comes last, whatever was told before; with status 200.
    #[track_caller]
    pub(crate) fn response(self) -> Value {
        let reply = self.reply();
        reply.expect_status(200);
        messages(&reply).pop().unwrap_or_else(|| reply.fail("a response"))
    }

    /// The result of a response.
    #[track_caller]
    pub(crate) fn result(self) -> Value {
        let reply = self.reply();
        reply.expect_status(200);
        let mut response = messages(&reply).pop().unwrap_or_else(|| reply.fail("a response"));
        reply.expect(response["result"].is_object(), "a result");
        response["result"].take()
    }

    /// The error of a response, whatever its status.
    #[track_caller]
    pub(crate) fn error(self) -> Value {
        let reply = self.reply();
        let mut response = messages(&reply).pop().unwrap_or_else(|| reply.fail("a response"));
        reply.expect(response["error"]["code"].is_i64(), "an error");
        response["error"].take()
    }

    /// The text of the first block of a tool's result.
    #[track_caller]
    pub(crate) fn text(self) -> String {
        let result = self.result();
        result["content"][0]["text"].as_str().unwrap_or_else(|| panic!("expected: a text\nactual: {result}")).to_owned()
    }
}

/// All messages of an answer, which is JSON or a stream.
#[track_caller]
pub(crate) fn messages(reply: &Reply) -> Vec<Value> {
    match reply.header("Content-Type") {
        Some("application/json") => match reply.json() {
            Value::Array(messages) => messages,
            message => vec![message],
        },
        Some("text/event-stream") => {
            let mut buffer = reply.body.clone();
            let frames = std::iter::from_fn(|| frame(&mut buffer));
            let events: Vec<Event> = frames.filter_map(|it| event(&it).unwrap_or_else(|why| reply.fail(why))).collect();
            reply.expect(buffer.is_empty(), "whole events");
            let data = events.iter().filter(|event| !event.raw.is_empty());
            data.map(|event| event.json().unwrap_or_else(|| reply.fail("JSON in each event"))).collect()
        }
        _ => reply.fail("JSON, or an event stream"),
    }
}

/// A running event stream.
pub(crate) struct Stream {
    pub(crate) connection: Connection,
    pub(crate) head: Reply,
    /// Comments so far.
    pub(crate) n_comments: usize,
    buffer: Vec<u8>,
    shown: String,
}

/// One event.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) id: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) retry: Option<u64>,
    /// Its data as they came; empty in a priming event.
    pub(crate) raw: String,
}

impl Event {
    fn json(&self) -> Option<Value> {
        serde_json::from_str(&self.raw).ok()
    }
}

impl Stream {
    /// Fails the test: prints the request, what was expected, the end of what came, and the gateway's log.
    #[track_caller]
    pub(crate) fn fail(&self, expected: &str, actual: &str) -> ! {
        let (request, log) = (&self.head.request, self.head.log.framed());
        panic!("request: {request}\nexpected: {expected}\nactual: {actual}\nso far:\n{}\n{log}", self.shown);
    }

    /// The next event, `None` at the proper end of the stream; fails when it is cut off.
    pub(crate) fn try_next(&mut self) -> io::Result<Option<Event>> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let Some(frame) = frame(&mut self.buffer) else {
                match self.connection.chunk()? {
                    Some(mut chunk) => self.buffer.append(&mut chunk),
                    None if self.buffer.is_empty() => return Ok(None),
                    None => return Err(io::Error::other("half an event at the end")),
                }
                continue;
            };
            self.show(&frame);
            match event(&frame) {
                Ok(Some(event)) => return Ok(Some(event)),
                Ok(None) => self.n_comments += 1,
                Err(expected) => return Err(io::Error::other(format!("expected {expected}, got {frame:?}"))),
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "comments only"))
    }

    #[track_caller]
    pub(crate) fn next(&mut self) -> Option<Event> {
        match self.try_next() {
            Ok(event) => event,
            Err(cause) => self.fail("an event, or the end of the stream", &cause.to_string()),
        }
    }

    /// The next event, which is there.
    #[track_caller]
    pub(crate) fn event(&mut self) -> Event {
        match self.next() {
            Some(event) => event,
            None => self.fail("an event", "the end of the stream"),
        }
    }

    /// The next event that carries a message.
    #[track_caller]
    pub(crate) fn told(&mut self) -> Event {
        loop {
            let event = self.event();
            let is_priming = event.raw.is_empty();
            if !is_priming {
                return event;
            }
        }
    }

    /// The next message.
    #[track_caller]
    pub(crate) fn message(&mut self) -> Value {
        let event = self.told();
        event.json().unwrap_or_else(|| self.fail("JSON", &event.raw))
    }

    /// The next message, which is a notification or request with this method.
    #[track_caller]
    pub(crate) fn expect(&mut self, method: &str) -> Value {
        let message = self.message();
        if message["method"] != method {
            self.fail(&format!("`{method}`"), &message.to_string());
        }
        message
    }

    /// The next message, which is the response to the request `id`; behind it the stream ends.
    #[track_caller]
    pub(crate) fn response(&mut self, id: impl Into<Value>) -> Value {
        let (message, id) = (self.message(), id.into());
        if message["id"] != id || message.get("method").is_some() {
            self.fail(&format!("the response to {id}"), &message.to_string());
        }
        self.end();
        message
    }

    /// The stream ends here, properly, without another message.
    #[track_caller]
    pub(crate) fn end(&mut self) {
        while let Some(event) = self.next() {
            if !event.raw.is_empty() {
                self.fail("the end of the stream", &event.raw);
            }
        }
    }

    /// All messages up to the end of the stream.
    #[track_caller]
    pub(crate) fn rest(&mut self) -> Vec<Value> {
        let events = std::iter::from_fn(|| self.next()).filter(|event| !event.raw.is_empty());
        let events: Vec<Event> = events.collect();
        events.iter().map(|event| event.json().unwrap_or_else(|| self.fail("JSON", &event.raw))).collect()
    }

    /// Waits until this many comments more have come; no message may come before.
    #[track_caller]
    pub(crate) fn expect_comments(&mut self, count: usize) {
        let wanted = self.n_comments + count;
        while self.n_comments < wanted {
            if let Some(frame) = frame(&mut self.buffer) {
                self.show(&frame);
                match event(&frame) {
                    Ok(None) => self.n_comments += 1,
                    Ok(Some(event)) if event.raw.is_empty() => {}
                    _ => self.fail("only comments", &frame),
                }
                continue;
            }
            match self.connection.chunk() {
                Ok(Some(mut chunk)) => self.buffer.append(&mut chunk),
                Ok(None) => self.fail("a comment", "the end of the stream"),
                Err(cause) => self.fail("a comment", &cause.to_string()),
            }
        }
    }

    fn show(&mut self, text: &str) {
        self.shown.extend(text.chars().take(500));
        let excess = self.shown.len().saturating_sub(SHOWN_BYTES_MAX);
        let start = (excess..=self.shown.len()).find(|at| self.shown.is_char_boundary(*at)).unwrap_or_default();
        self.shown.drain(..start);
    }
}

/// Takes the bytes up to the next empty line.
fn frame(buffer: &mut Vec<u8>) -> Option<String> {
    let end = buffer.windows(2).position(|it| it == b"\n\n")?;
    let frame: Vec<u8> = buffer.drain(..end + 2).collect();
    Some(String::from_utf8_lossy(&frame).into_owned())
}

/// What a frame says; `None`: a comment. Fails with what a frame has to be.
fn event(frame: &str) -> Result<Option<Event>, &'static str> {
    const EXPECTED: &str = "lines `id: ID`, `event: NAME`, `retry: MS`, `data: DATA`, or a comment";
    let lines = frame.trim_end_matches('\n').split('\n');
    if lines.clone().all(|line| line.starts_with(':')) {
        return Ok(None);
    }
    let mut event = Event { id: None, name: None, retry: None, raw: String::new() };
    let mut data: Vec<&str> = Vec::new();
    for line in lines {
        let (field, value) = line.split_once(':').ok_or(EXPECTED)?;
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => event.id = Some(value.to_owned()),
            "event" => event.name = Some(value.to_owned()),
            "retry" => event.retry = Some(value.parse().map_err(|_| EXPECTED)?),
            "data" => data.push(value),
            _ => return Err(EXPECTED),
        }
    }
    // A priming event has data, which are empty.
    if data.is_empty() {
        return Err(EXPECTED);
    }
    event.raw = data.join("\n");
    Ok(Some(event))
}
