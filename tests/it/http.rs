//! A small HTTP/1.1 client that hides nothing: it sends what it is told, byte for byte, and gives back what came.
//!
//! With [`ClientTls`] it speaks TLS below that.
//!
//! **Limit.** Every read and write has [`PATIENCE`] as its deadline.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};
use socket2::{Domain, SockRef, Socket, Type};

use crate::support::KEY;

/// How long a test waits for anything before it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// One connection; requests may follow each other on it.
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    /// What is spoken over the stream, when it is not plain.
    tls: Option<Box<StreamOwned<ClientConnection, TcpStream>>>,
    /// Bytes that came and belong to no answer yet.
    pending: Vec<u8>,
}

/// How a client speaks TLS: whom it trusts, who it is, and which versions it knows.
pub(crate) type ClientTls = Arc<ClientConfig>;

/// An answer as it came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The first header with this name, in any case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn is_chunked(&self) -> bool {
        self.header("Transfer-Encoding").is_some_and(|it| it.eq_ignore_ascii_case("chunked"))
    }
}

/// A call of a tool with these arguments, on a connection that stays open.
pub(crate) fn tool_call(tool: &str, arguments: &str) -> String {
    tool_request(tool, &format!(r#"{{"arguments":{arguments}}}"#))
}

/// The same with this body.
pub(crate) fn tool_request(tool: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST /tools/{tool} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {KEY}\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Connection {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)
            .unwrap_or_else(|cause| panic!("cannot connect to {address}: {cause}"));
        Connection::over(stream)
    }

    /// A connection whose receiving side holds few bytes, so that a client that does not read is noticed early.
    pub(crate) fn open_narrow(address: SocketAddr, receive_bytes: usize) -> Connection {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        // It must be said before the connection is made.
        socket.set_recv_buffer_size(receive_bytes).unwrap();
        socket.connect(&address.into()).unwrap_or_else(|cause| panic!("cannot connect to {address}: {cause}"));
        Connection::over(socket.into())
    }

    /// Speaks TLS with `localhost` over this connection from now on. The handshake comes with the first byte.
    pub(crate) fn secured(self, tls: &ClientTls) -> Connection {
        let name = ServerName::try_from("localhost").unwrap();
        let client = ClientConnection::new(Arc::clone(tls), name).unwrap();
        let below = self.stream.try_clone().unwrap();
        Connection { tls: Some(Box::new(StreamOwned::new(client, below))), ..self }
    }

    /// What the handshake agreed on.
    pub(crate) fn tls(&self) -> &ClientConnection {
        &self.tls.as_ref().expect("a connection with TLS").conn
    }

    pub(crate) fn over(stream: TcpStream) -> Connection {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Connection { stream, tls: None, pending: Vec::new() }
    }

    /// Sends a request with the headers it is given, plus `Host` and, with a body, `Content-Length`.
    pub(crate) fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<()> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        let has_body = !body.is_empty() || method == "POST";
        if has_body {
            request += &format!("Content-Length: {}\r\n", body.len());
        }
        request += "\r\n";
        let mut bytes = request.into_bytes();
        bytes.extend_from_slice(body);
        self.send_raw(&bytes)
    }

    /// Sends these bytes and nothing else.
    pub(crate) fn send_raw(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => tls.write_all(bytes.as_ref()).and_then(|()| tls.flush()),
            None => self.stream.write_all(bytes.as_ref()),
        }
    }

    /// The next answer. An interim one (100) is skipped, one that ends HTTP (101) is not; `to_head` says that the request
    /// was a HEAD.
    pub(crate) fn receive(&mut self, to_head: bool) -> io::Result<Answer> {
        loop {
            let answer = self.receive_any(to_head)?;
            if 200 <= answer.status || answer.status == 101 {
                return Ok(answer);
            }
        }
    }

    fn receive_any(&mut self, to_head: bool) -> io::Result<Answer> {
        let mut answer = self.head()?;
        let status = answer.status;
        let has_no_body = to_head || status < 200 || status == 204 || status == 304;
        if has_no_body {
            return Ok(answer);
        }
        if answer.is_chunked() {
            while let Some(mut chunk) = self.chunk()? {
                answer.body.append(&mut chunk);
            }
        } else if let Some(length) = answer.header("Content-Length") {
            let length = length.parse().map_err(|_| invalid(format!("not a length: {length:?}")))?;
            answer.body = self.bytes(length)?;
        } else {
            answer.body = self.rest()?;
        }
        Ok(answer)
    }

    /// The head of the next answer; what follows is still to be taken.
    pub(crate) fn head(&mut self) -> io::Result<Answer> {
        let status_line = self.line()?;
        let status = status_line.split(' ').nth(1).and_then(|text| text.parse().ok());
        let status = status.ok_or_else(|| invalid(format!("not a status line: {status_line:?}")))?;
        let mut answer = Answer { status, ..Answer::default() };
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| invalid(format!("not a header: {line:?}")))?;
            answer.headers.push((name.to_owned(), value.trim().to_owned()));
        }
        Ok(answer)
    }

    /// The next chunk of a chunked body, `None` at its end.
    pub(crate) fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let size_line = self.line()?;
        let size = size_line.split(';').next().unwrap_or_default();
        let size =
            usize::from_str_radix(size, 16).map_err(|_| invalid(format!("not the size of a chunk: {size_line:?}")))?;
        let chunk = self.bytes(size)?;
        self.line()?;
        Ok((0 < size).then_some(chunk))
    }

    /// Says that nothing more will come, in the words of TLS.
    pub(crate) fn goodbye(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.conn.send_close_notify();
            // A peer that is gone needs no goodbye.
            let _ = tls.conn.write_tls(&mut tls.sock);
        }
    }

    /// Goes away with a reset instead of a proper end.
    pub(crate) fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Everything until the other side closes. Fails when it does not within [`PATIENCE`].
    pub(crate) fn rest(&mut self) -> io::Result<Vec<u8>> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match self.fill() {
                Ok(0) => return Ok(std::mem::take(&mut self.pending)),
                Ok(_) => {}
                // A peer that closes while we still send is seen as a reset; what came before it counts.
                Err(cause) if cause.kind() == io::ErrorKind::ConnectionReset => {
                    return Ok(std::mem::take(&mut self.pending));
                }
                Err(cause) => return Err(cause),
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "the connection was not closed"))
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.pending.windows(2).position(|it| it == b"\r\n") {
                let line: Vec<u8> = self.pending.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.fill_or_fail()?;
        }
    }

    /// Whatever has come, or comes next; empty at the end.
    pub(crate) fn piece(&mut self) -> io::Result<Vec<u8>> {
        if self.pending.is_empty() {
            self.fill()?;
        }
        Ok(std::mem::take(&mut self.pending))
    }

    /// The next `count` bytes.
    pub(crate) fn bytes(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.pending.len() < count {
            self.fill_or_fail()?;
        }
        Ok(self.pending.drain(..count).collect())
    }

    fn fill_or_fail(&mut self) -> io::Result<()> {
        if self.fill()? == 0 {
            let so_far = String::from_utf8_lossy(&self.pending).into_owned();
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("closed by the peer after {so_far:?}")));
        }
        Ok(())
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 64 * 1024];
        let n_read = match &mut self.tls {
            Some(tls) => tls.read(&mut buffer)?,
            None => self.stream.read(&mut buffer)?,
        };
        self.pending.extend_from_slice(&buffer[..n_read]);
        Ok(n_read)
    }
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
