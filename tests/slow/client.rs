//! A client for load: one connection that is kept, and buffers that are used again. Every call has an id, and an answer
//! must carry it (`X-Request-Id`), also one that says what failed.
//!
//! **Limit.** Every read and write has [`PATIENCE`] as its deadline.
//!
//! **End.** What breaks the rule of one answer for each call is an `Err` that says so: an answer to another call, bytes
//! that nobody asked for, a connection that ends in mid-answer. Nothing is ever sent twice.

use std::{
    fmt::Write as _,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use memchr::memmem;
use socket2::SockRef;

use crate::support::{KEY, PATIENCE};

/// One call, as it goes over the wire.
pub(crate) struct Call<'a> {
    /// `TOOL`, or `TOOL/stream`.
    pub(crate) path: &'a str,
    /// Unique; comes back in the head of the answer.
    pub(crate) id: &'a str,
    /// JSON, sent as it stands.
    pub(crate) body: &'a str,
    /// The session it belongs to.
    pub(crate) session: Option<&'a str>,
}

/// What a call came to.
pub(crate) struct Got<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
}

impl Got<'_> {
    pub(crate) fn has(&self, text: &str) -> bool {
        memmem::find(self.body, text.as_bytes()).is_some()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(self.body).into_owned()
    }
}

pub(crate) struct Client {
    address: SocketAddr,
    /// Opened when it is needed.
    stream: Option<TcpStream>,
    request: String,
    /// What has come: `taken` bytes of it belong to answers that were given out.
    buffer: Vec<u8>,
    taken: usize,
    body: Vec<u8>,
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Client {
        Client { address, stream: None, request: String::new(), buffer: Vec::new(), taken: 0, body: Vec::new() }
    }

    /// Sends a call and takes its answer; that of a stream to its end.
    pub(crate) fn call(&mut self, call: &Call) -> io::Result<Got<'_>> {
        self.send(call)?;
        let head = self.head(call.id)?;
        self.body.clear();
        match head.length {
            Some(length) => {
                while self.buffer.len() < self.taken + length {
                    self.fill()?;
                }
                self.body.extend_from_slice(&self.buffer[self.taken..self.taken + length]);
                self.taken += length;
            }
            None => while self.chunk()? {},
        }
        self.expect_nothing_more()?;
        if head.is_last {
            self.stream = None;
        }
        Ok(Got { status: head.status, body: &self.body })
    }

    /// Sends a call and goes away after a while without having read its answer: with a reset, or a proper end.
    pub(crate) fn abandon(&mut self, call: &Call, after: Duration, with_reset: bool) -> io::Result<()> {
        self.send(call)?;
        std::thread::sleep(after);
        self.hang_up(with_reset)
    }

    /// Sends a call to a stream and goes away once something of the stream has come.
    pub(crate) fn abandon_stream(&mut self, call: &Call, with_reset: bool) -> io::Result<()> {
        self.send(call)?;
        let head = self.head(call.id)?;
        if head.length.is_none() {
            self.chunk()?;
        }
        self.hang_up(with_reset)
    }

    fn hang_up(&mut self, with_reset: bool) -> io::Result<()> {
        if let Some(stream) = self.stream.take() {
            SockRef::from(&stream).set_linger(with_reset.then_some(Duration::ZERO))?;
        }
        Ok(())
    }

    /// Fails when more comes within `patience`, although every call has its answer.
    pub(crate) fn expect_silence(&mut self, patience: Duration) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        stream.set_read_timeout(Some(patience))?;
        let mut bytes = [0; 256];
        match stream.read(&mut bytes) {
            Ok(0) => Ok(()),
            Ok(n_read) => Err(broken(format!("nobody asked for {:?}", String::from_utf8_lossy(&bytes[..n_read])))),
            Err(cause) if matches!(cause.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Ok(()),
            Err(cause) => Err(cause),
        }
    }

    fn send(&mut self, call: &Call) -> io::Result<()> {
        let Call { path, id, body, session } = call;
        self.request.clear();
        let length = body.len();
        let _ = write!(
            self.request,
            "POST /tools/{path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {KEY}\r\nX-Request-Id: {id}\r\n\
             Content-Length: {length}\r\n"
        );
        if let Some(session) = session {
            let _ = write!(self.request, "X-Session-Id: {session}\r\n");
        }
        self.request += "\r\n";
        self.request += body;
        // Every answer before was taken to its end, or its connection was left.
        self.buffer.clear();
        self.taken = 0;
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(connect(self.address)?),
        };
        stream.write_all(self.request.as_bytes())
    }

    /// The head of the next answer, which must be the one to `id`.
    fn head(&mut self, id: &str) -> io::Result<Head> {
        let end = loop {
            let unread = &self.buffer[self.taken..];
            if let Some(end) = memmem::find(unread, b"\r\n\r\n") {
                break self.taken + end + 4;
            }
            self.fill()?;
        };
        let head = Head::parse(&self.buffer[self.taken..end], id)?;
        self.taken = end;
        Ok(head)
    }

    /// Takes a chunk into the body; `false` at the end.
    fn chunk(&mut self) -> io::Result<bool> {
        let end = loop {
            let unread = &self.buffer[self.taken..];
            if let Some(end) = memmem::find(unread, b"\r\n") {
                break self.taken + end;
            }
            self.fill()?;
        };
        let size = String::from_utf8_lossy(&self.buffer[self.taken..end]).into_owned();
        let size =
            usize::from_str_radix(&size, 16).map_err(|_| broken(format!("not the size of a chunk: {size:?}")))?;
        let start = end + 2;
        while self.buffer.len() < start + size + 2 {
            self.fill()?;
        }
        self.body.extend_from_slice(&self.buffer[start..start + size]);
        self.taken = start + size + 2;
        Ok(0 < size)
    }

    fn expect_nothing_more(&self) -> io::Result<()> {
        let unread = &self.buffer[self.taken..];
        if unread.is_empty() {
            return Ok(());
        }
        Err(broken(format!("more than one answer; behind the first: {:?}", String::from_utf8_lossy(unread))))
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut bytes = [0; 16 * 1024];
        let stream = self.stream.as_mut().ok_or_else(|| broken("there is no connection".to_owned()))?;
        let n_read = stream.read(&mut bytes)?;
        if n_read == 0 {
            let so_far = String::from_utf8_lossy(&self.buffer[self.taken..]).into_owned();
            return Err(broken(format!("the connection ended after {so_far:?}")));
        }
        self.buffer.extend_from_slice(&bytes[..n_read]);
        Ok(())
    }
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

struct Head {
    status: u16,
    /// `None`: the body comes in chunks.
    length: Option<usize>,
    is_last: bool,
}

impl Head {
    fn parse(bytes: &[u8], id: &str) -> io::Result<Head> {
        let text = String::from_utf8_lossy(bytes);
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| broken(format!("not an answer: {text:?}")))?;
        let (mut length, mut is_chunked, mut is_last, mut is_ours) = (None, false, false, false);
        for (name, value) in text.lines().skip(1).filter_map(|line| line.split_once(": ")) {
            match name {
                "Content-Length" => length = value.parse().ok(),
                "Transfer-Encoding" => is_chunked = value == "chunked",
                "Connection" => is_last = value == "close",
                "X-Request-Id" => is_ours = value == id,
                _ => {}
            }
        }
        if !is_ours {
            return Err(broken(format!("the answer to `{id}` has another id: {text:?}")));
        }
        if length.is_none() && !is_chunked {
            return Err(broken(format!("an answer without an end: {text:?}")));
        }
        Ok(Head { status, length: length.filter(|_| !is_chunked), is_last })
    }
}

fn broken(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
