//! A WebSocket client that can break every rule: it sends any bytes as frames, and checks the rules on what comes back.

use std::{io, ops::Deref, time::Instant};

use serde_json::Value;

use crate::support::{Connection, Gateway, KEY, Log, PATIENCE, shortened};

pub(crate) const TEXT: u8 = 0x1;
pub(crate) const BINARY: u8 = 0x2;
pub(crate) const CONTINUATION: u8 = 0x0;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xA;
/// The bit that says that a frame is the last of its message.
pub(crate) const FINAL: u8 = 0x80;

/// The example of RFC 6455, section 1.3, and what it must be answered with.
pub(crate) const SAMPLE_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(crate) const SAMPLE_ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// How much of a conversation a failure shows.
const SHOWN_BYTES_MAX: usize = 6000;

/// The head of a handshake as it should be, without the empty line at its end, so that headers can be added.
pub(crate) fn handshake(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {SAMPLE_KEY}\r\nSec-WebSocket-Version: 13\r\n"
    )
}

/// A frame of a client. `first` is the final bit, the reserved bits and the opcode.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = frame_head(first, payload.len() as u64, true);
    bytes.extend_from_slice(&MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// The bytes of a frame before its mask.
pub(crate) fn frame_head(first: u8, length: u64, is_masked: bool) -> Vec<u8> {
    let mask_bit = if is_masked { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match length {
        0..126 => bytes.push(mask_bit | length as u8),
        126..0x1_0000 => {
            bytes.push(mask_bit | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            bytes.push(mask_bit | 127);
            bytes.extend_from_slice(&length.to_be_bytes());
        }
    }
    bytes
}

/// An open WebSocket.
pub(crate) struct Socket {
    pub(crate) connection: Connection,
    /// Payloads of the pings that came.
    pub(crate) pings: Vec<Vec<u8>>,
    /// Payloads of the pongs that came.
    pub(crate) pongs: Vec<Vec<u8>>,
    pub(crate) answers_pings: bool,
    log: Log,
    shown: String,
}

/// A text message as it came.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) raw: String,
    value: Value,
}

impl Deref for Message {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.value
    }
}

/// A frame of the gateway.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) is_final: bool,
    pub(crate) opcode: u8,
    pub(crate) payload: Vec<u8>,
}

impl Socket {
    /// Opens `path` with the right key.
    #[track_caller]
    pub(crate) fn open(gateway: &Gateway, path: &str) -> Socket {
        Socket::over(gateway.connect(), gateway, path)
    }

    #[track_caller]
    pub(crate) fn over(mut connection: Connection, gateway: &Gateway, path: &str) -> Socket {
        let head = format!("{}X-API-Key: {KEY}\r\n\r\n", handshake(path));
        connection.send_raw(&head).unwrap();
        Socket::answering(connection, gateway, &head)
    }

    /// Takes the answer to a handshake that was already sent; it must be accepted.
    #[track_caller]
    pub(crate) fn answering(mut connection: Connection, gateway: &Gateway, head: &str) -> Socket {
        let answer = connection.head().unwrap_or_else(|cause| {
            panic!("request: {head}\nexpected: 101\nactual: {cause}\n{}", gateway.framed_log());
        });
        let reply = gateway.reply(head, answer);
        reply.expect_status(101);
        let is_upgrade = |name: &str, word: &str| reply.header(name).is_some_and(|it| it.eq_ignore_ascii_case(word));
        reply.expect(is_upgrade("Upgrade", "websocket") && is_upgrade("Connection", "upgrade"), "an upgrade");
        reply.expect_header("Sec-WebSocket-Accept", SAMPLE_ACCEPT);
        reply.expect(reply.header("Sec-WebSocket-Extensions").is_none(), "no extension");
        let (log, shown) = (reply.log.clone(), format!("{}\n", head.lines().next().unwrap_or_default()));
        Socket { connection, pings: Vec::new(), pongs: Vec::new(), answers_pings: true, log, shown }
    }

    /// Fails the test: prints the end of the conversation, what was expected, what came, and the gateway's log.
    #[track_caller]
    pub(crate) fn fail(&self, expected: &str, actual: &str) -> ! {
        panic!("conversation:\n{}\nexpected: {expected}\nactual: {actual}\n{}", self.shown, self.log.framed());
    }

    #[track_caller]
    pub(crate) fn expect(&self, is_as_expected: bool, expected: &str, actual: &str) {
        if !is_as_expected {
            self.fail(expected, actual);
        }
    }

    fn show(&mut self, direction: &str, what: &str) {
        self.shown += &format!("{direction} {}\n", what.chars().take(500).collect::<String>());
        let excess = self.shown.len().saturating_sub(SHOWN_BYTES_MAX);
        let start = (excess..=self.shown.len()).find(|at| self.shown.is_char_boundary(*at)).unwrap_or_default();
        self.shown.drain(..start);
    }

    // Sending.

    /// A text message in one frame.
    #[track_caller]
    pub(crate) fn send(&mut self, text: impl AsRef<str>) {
        self.send_frame(FINAL | TEXT, text.as_ref().as_bytes());
    }

    #[track_caller]
    pub(crate) fn send_frame(&mut self, first: u8, payload: &[u8]) {
        self.send_raw(&frame(first, payload), &format!("{first:#04x} {}", shortened(payload)));
    }

    /// Any bytes; `shown` stands for them in a failure. The gateway may have closed already, which shows later.
    pub(crate) fn send_raw(&mut self, bytes: &[u8], shown: &str) {
        self.show(">", shown);
        if let Err(cause) = self.connection.send_raw(bytes) {
            self.show(">", &format!("could not be sent: {cause}"));
        }
    }

    /// Starts a call; `id` is JSON.
    #[track_caller]
    pub(crate) fn call(&mut self, id: &str, arguments: &str) {
        self.send(format!(r#"{{"arguments":{arguments},"id":{id}}}"#));
    }

    /// Answers a question of the server; `answer` is `"result":...` or `"error":...`.
    #[track_caller]
    pub(crate) fn input(&mut self, question: &Value, answer: &str) {
        let (id, input_id) = (&question["id"], &question["input_id"]);
        self.send(format!(r#"{{"event":"input","id":{id},"input_id":{input_id},{answer}}}"#));
    }

    // Receiving.

    /// The next frame, which must follow the rules for servers.
    #[track_caller]
    pub(crate) fn frame(&mut self) -> Frame {
        match self.try_frame() {
            Ok(frame) => frame,
            Err(cause) => self.fail("a frame", &cause.to_string()),
        }
    }

    /// As [`Socket::frame`], for sockets that may be cut off.
    #[track_caller]
    pub(crate) fn try_frame(&mut self) -> io::Result<Frame> {
        let head = self.connection.bytes(2)?;
        let (is_final, opcode) = (head[0] & FINAL != 0, head[0] & 0x0f);
        self.expect(head[0] & 0x70 == 0, "reserved bits of 0", &format!("{head:x?}"));
        self.expect(head[1] & 0x80 == 0, "an unmasked frame", &format!("{head:x?}"));
        let length = match head[1] {
            126 => {
                let length = u64::from(u16::from_be_bytes(self.connection.bytes(2)?.try_into().unwrap()));
                self.expect(126 <= length, "the shortest way to write a length", &length.to_string());
                length
            }
            127 => {
                let length = u64::from_be_bytes(self.connection.bytes(8)?.try_into().unwrap());
                self.expect(0x1_0000 <= length, "the shortest way to write a length", &length.to_string());
                length
            }
            short => u64::from(short),
        };
        let is_control = opcode & 0x8 != 0;
        self.expect(!is_control || (is_final && length <= 125), "a short, whole control frame", &format!("{head:x?}"));
        let payload = self.connection.bytes(usize::try_from(length).unwrap())?;
        self.show("<", &format!("{:#04x} {}", head[0], shortened(&payload)));
        Ok(Frame { is_final, opcode, payload })
    }

    /// The next text message. Pings and pongs on the way are noted, and pings answered.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Message {
        let mut text = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.expect(Instant::now() < deadline, "a message", "pings and pongs only");
            let frame = self.frame();
            match frame.opcode {
                TEXT | CONTINUATION => {
                    text.extend_from_slice(&frame.payload);
                    if frame.is_final {
                        break;
                    }
                }
                _ => self.take_control(frame),
            }
        }
        let raw = String::from_utf8(text).unwrap_or_else(|cause| self.fail("UTF-8", &cause.to_string()));
        let value: Value = serde_json::from_str(&raw).unwrap_or_else(|cause| self.fail("JSON", &cause.to_string()));
        self.expect(value["event"].is_string(), "an `event`", &raw);
        Message { raw, value }
    }

    #[track_caller]
    fn take_control(&mut self, frame: Frame) {
        match frame.opcode {
            PING => {
                if self.answers_pings {
                    self.send_frame(FINAL | PONG, &frame.payload);
                }
                self.pings.push(frame.payload);
            }
            PONG => self.pongs.push(frame.payload),
            CLOSE => self.fail("an open socket", &format!("a close with {}", close_text(&frame.payload))),
            _ => self.fail("a text, a ping, a pong or a close", &format!("{frame:?}")),
        }
    }

    /// The next message is this event of the call with this id (JSON).
    #[track_caller]
    pub(crate) fn expect_event(&mut self, event: &str, id: &str) -> Message {
        let message = self.next();
        let id_field = format!(r#""id":{id}"#);
        let is_as_expected = message["event"] == event && message.raw.contains(&id_field);
        self.expect(is_as_expected, &format!("event `{event}` with {id_field}"), &message.raw);
        message
    }

    /// The call with this id starts, and completes with this value.
    #[track_caller]
    pub(crate) fn expect_complete(&mut self, id: &str, data: &Value) -> Message {
        self.expect_event("started", id);
        let message = self.expect_event("complete", id);
        self.expect(message["data"] == *data, &format!("data {data}"), &message.raw);
        message
    }

    /// The next message is an `error` event with this code, and `text` in its message or hint.
    #[track_caller]
    pub(crate) fn expect_error(&mut self, code: &str, text: &str) -> Message {
        let message = self.next();
        let error = &message["error"];
        let says = |field: &str| error[field].as_str().is_some_and(|it| it.contains(text));
        let is_as_expected = message["event"] == "error" && error["code"] == code && (says("message") || says("hint"));
        self.expect(is_as_expected, &format!("an error `{code}` that says {text:?}"), &message.raw);
        message
    }

    /// It is still of use: a call of `echo`, on a path where that is the tool, is answered.
    #[track_caller]
    pub(crate) fn expect_open(&mut self) {
        self.call(r#""still open""#, r#"{"a":1}"#);
        self.expect_complete(r#""still open""#, &serde_json::json!({"a": 1}));
    }

    /// A close with this code comes (`None`: without a code), is answered, and the connection ends. Text that was on
    /// its way is given back.
    #[track_caller]
    pub(crate) fn expect_close(&mut self, code: Option<u16>) -> Vec<String> {
        let mut texts = Vec::new();
        let close = loop {
            let frame = self.frame();
            match frame.opcode {
                CLOSE => break frame,
                TEXT | CONTINUATION => texts.push(String::from_utf8_lossy(&frame.payload).into_owned()),
                _ => self.take_control(frame),
            }
        };
        let expected = code.map_or("nothing".to_owned(), |code| code.to_string());
        let actual = close_text(&close.payload);
        let is_as_expected = code == close.payload.first_chunk().map(|code| u16::from_be_bytes(*code));
        self.expect(is_as_expected, &format!("a close with {expected}"), &format!("a close with {actual}"));
        self.send_frame(FINAL | CLOSE, &close.payload);
        match self.connection.rest() {
            Ok(rest) => self.expect(rest.is_empty(), "nothing after the close", &shortened(&rest)),
            Err(cause) => self.fail("the end of the connection after the close", &cause.to_string()),
        }
        texts
    }
}

fn close_text(payload: &[u8]) -> String {
    match payload.split_first_chunk() {
        Some((code, reason)) => format!("{} {:?}", u16::from_be_bytes(*code), String::from_utf8_lossy(reason)),
        None => "nothing".to_owned(),
    }
}
