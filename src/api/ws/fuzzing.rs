//! A conversation over a wire in memory, with a gateway that has no server, for `crate::fuzzing`.

#![allow(clippy::unwrap_used, reason = "what does not hold is to be a panic")]

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::Ipv4Addr,
    sync::{Arc, LazyLock},
};

use serde_json::value::RawValue;
use tungstenite::{Message, WebSocket, error::ProtocolError, protocol::Role};

use super::{Pause, Socket};
use crate::{
    access::{Access, Principal},
    api::Api,
    config::{Config, Live},
    mcp::raw,
    worker::mailbox::Mailbox,
};

/// Small, so that a fuzzer finds it.
const BODY_BYTES_MAX: usize = 4096;

/// Any bytes end in an orderly way, and mean the same however they come.
pub(crate) fn frames(bytes: &[u8]) {
    let whole = said_to(&mut std::iter::once(bytes));
    let in_pieces = said_to(&mut bytes.chunks(1));
    assert_eq!(whole, in_pieces, "at once and byte by byte");
}

/// A text message is answered with one event, and the socket is of use behind it.
pub(crate) fn message(bytes: &[u8]) {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(BODY_BYTES_MAX / 4)]);
    let mut sent = Vec::new();
    let mut client = WebSocket::from_raw_socket(Sink(&mut sent), Role::Client, None);
    client.send(Message::Text(text.as_ref().into())).unwrap();
    client.send(Message::Text("no json".into())).unwrap();
    drop(client);
    let said = said_to(&mut std::iter::once(&sent[..]));
    let [first, second] = &said[..] else { panic!("{said:?}") };
    // There is no server, so no message can lead to anything else.
    assert!(first.contains(r#""event":"error""#) && first.contains(r#""code":"#), "{first}");
    assert!(second.contains(r#""code":"invalid_json""#), "{second}");
}

/// What the gateway says to these pieces: each text, and how it closes.
fn said_to(pieces: &mut dyn Iterator<Item = &[u8]>) -> Vec<String> {
    static API: LazyLock<Arc<Api>> = LazyLock::new(|| {
        let config = Config { body_bytes_max: BODY_BYTES_MAX, ..Config::default() };
        let access = Access::new(&config).unwrap();
        Arc::new(Api::start(Live::new(config), &[], access).unwrap())
    });
    let visitor = API.access.visit(Ipv4Addr::LOCALHOST.into()).unwrap();
    let socket = Socket {
        api: Arc::clone(&API),
        scope: None,
        principal: Principal::anybody(),
        session: None,
        client: Arc::new(Mailbox::new(BODY_BYTES_MAX, || {})),
        address: Arc::clone(visitor.address()),
        request_id: "r-1".to_owned(),
        trace: None,
        tool: None,
        accept: String::new(),
    };
    let mut said = Vec::new();
    let mut memory = Memory { pieces: pieces.collect(), said: &mut said };
    let mut conversation = socket.begin(None, Vec::new()).unwrap();
    // How it ends is seen in what it says.
    while !matches!(conversation.take_turn(&mut memory), Pause::Over(_)) {}
    let mut client = WebSocket::from_raw_socket(Answers(&said), Role::Client, None);
    let mut texts = Vec::new();
    loop {
        match client.read() {
            Ok(Message::Text(text)) => {
                let event: &RawValue = serde_json::from_str(&text).unwrap();
                assert!(raw::text(event, "event").is_some(), "{text}");
                texts.push(text.to_string());
            }
            Ok(Message::Close(frame)) => texts.push(format!("{frame:?}")),
            // Of several pings the last is answered, so pongs differ.
            Ok(Message::Pong(_)) => {}
            Ok(other) => panic!("{other:?}"),
            Err(tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => return texts,
            Err(tungstenite::Error::ConnectionClosed) => return texts,
            Err(error) => panic!("the gateway breaks the protocol: {error}"),
        }
    }
}

/// The gateway's end. Between two pieces there is nothing to read, for once.
struct Memory<'a> {
    pieces: VecDeque<&'a [u8]>,
    said: &'a mut Vec<u8>,
}

impl Read for Memory<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(piece) = self.pieces.front_mut() else { return Ok(0) };
        if piece.is_empty() {
            self.pieces.pop_front();
            return Err(io::ErrorKind::WouldBlock.into());
        }
        piece.read(buffer)
    }
}

impl Write for Memory<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.said.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A client's end that only writes.
struct Sink<'a>(&'a mut Vec<u8>);

impl Read for Sink<'_> {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

impl Write for Sink<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A client's end that only reads.
struct Answers<'a>(&'a [u8]);

impl Read for Answers<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Answers<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
