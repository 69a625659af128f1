//! A client of a gateway that runs, for the commands that ask one.
//!
//! One request on a connection of its own, and its answer: whole, or as it comes. What answers mean is left to the commands.
//!
//! **Limit.** [`CONNECT_TIMEOUT`] for each address that the name stands for, [`HEAD_BYTES_MAX`] for the head of an answer; the wait for
//! anything more is the caller's to say. **End.** The connection is closed when the [`Answer`] is dropped; to the gateway that
//! means that nobody wants it any more.

use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs as _},
    sync::Arc,
    time::Duration,
};

use serde::Deserialize;

use crate::{
    cli::{TrustArgs, trust},
    config::Config,
    error::Error,
    http::chunked::Decoder,
};

/// Longest time to connect to one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest head of an answer.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Most headers of an answer.
const HEADERS_MAX: usize = 64;

/// Bytes that are read at a time.
const READ_BYTES: usize = 16 * 1024;

/// How to ask one gateway.
#[derive(Debug, Clone)]
pub(super) struct Client {
    /// Name and port.
    address: String,
    /// Empty: none is sent.
    key: String,
    /// `None`: plain HTTP.
    tls: Option<Arc<trust::ClientConfig>>,
}

/// An answer whose head has come.
pub(super) struct Answer {
    /// HTTP status.
    pub(super) status: u16,
    stream: Box<dyn Read + Send>,
    framing: Framing,
    /// What has been read and not been looked at.
    rest: Vec<u8>,
}

/// How the end of a body is known.
enum Framing {
    /// So many bytes are to come.
    Length(usize),
    Chunked(Decoder),
}

trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}

impl Client {
    /// For the gateway at `url`, else the one that these settings would start, with the key of the settings.
    ///
    /// Fails with [`Error::Settings`] when a file that TLS needs cannot be used.
    pub(super) fn new(config: &Config, url: Option<&str>, args: &TrustArgs) -> Result<Client, Error> {
        let (is_https, address) = match url {
            Some(url) => parse_url(url)?,
            None => (config.tls_cert.is_some(), config.listen.to_string()),
        };
        let tls = if is_https { Some(trust::client(config.tls_cert.as_deref(), args)?) } else { None };
        Ok(Client { address, key: config.api_key.clone(), tls })
    }

    /// The same without a key, to ask somebody who need not be ours.
    pub(super) fn without_key(self) -> Client {
        Client { key: String::new(), ..self }
    }

    /// As somebody would write it in a browser.
    pub(super) fn url(&self) -> String {
        format!("{}://{}", if self.tls.is_some() { "https" } else { "http" }, self.address)
    }

    /// Asks, and waits for the head of the answer. Without a `body` it is a GET, else a POST of JSON. No pause in the answer may be longer than
    /// `patience`.
    pub(super) fn ask(&self, path: &str, body: Option<&str>, patience: Duration) -> Result<Answer, Error> {
        let failed = |cause: io::Error| self.failure(&cause);
        let tcp = self.connect(patience).map_err(failed)?;
        tcp.set_read_timeout(Some(patience)).map_err(failed)?;
        tcp.set_write_timeout(Some(patience)).map_err(failed)?;
        // Else the last piece of a long body would wait for the gateway to confirm the one before.
        tcp.set_nodelay(true).map_err(failed)?;
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(tcp),
            Some(tls) => Box::new(trust::over(Arc::clone(tls), &self.address, tcp).map_err(failed)?),
        };
        self.exchange(stream, path, body).map_err(failed)?.ok_or_else(|| self.foreign())
    }

    /// What it is when somebody else answers.
    pub(super) fn foreign(&self) -> Error {
        Error::Failed { what: format!("what answers at `{}` is no gateway", self.address), hint: String::new() }
    }

    /// What an answer with another status than 200 is.
    pub(super) fn refusal(&self, body: &str) -> Error {
        reason_of(body).unwrap_or_else(|| self.foreign())
    }

    /// What a failure on the way is to whoever gave the command.
    pub(super) fn failure(&self, cause: &io::Error) -> Error {
        let address = &self.address;
        let (what, hint) = match trust::failure(cause) {
            Some((what, hint)) => (format!("no TLS with what answers at `{address}`: {what}"), hint),
            None if matches!(cause.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
                (format!("the gateway at `{address}` ended the connection before the answer was whole"), "")
            }
            None => (
                format!("no gateway answers at `{address}`: {}", in_words(cause)),
                "start one with `mcpgate`, or name where it is: `http://HOST:PORT`",
            ),
        };
        Error::Failed { what, hint: hint.to_owned() }
    }

    fn connect(&self, patience: Duration) -> io::Result<TcpStream> {
        let mut failure = io::Error::other("the name has no address");
        for address in self.address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT.min(patience)) {
                Ok(stream) => return Ok(stream),
                Err(cause) => failure = cause,
            }
        }
        Err(failure)
    }

    /// `None`: the answer is not HTTP as our gateways speak it.
    fn exchange(&self, mut stream: Box<dyn Stream>, path: &str, body: Option<&str>) -> io::Result<Option<Answer>> {
        let (address, method) = (&self.address, if body.is_some() { "POST" } else { "GET" });
        let key = if self.key.is_empty() { String::new() } else { format!("X-API-Key: {}\r\n", self.key) };
        let about_body = body.map_or(String::new(), |body| {
            format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len())
        });
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{key}{about_body}\r\n");
        let request = [head.as_bytes(), body.unwrap_or_default().as_bytes()].concat();
        // What is refused by its head alone is answered, and closed, before the body is read.
        let sent = stream.write_all(&request).and_then(|()| stream.flush());
        let mut bytes = Vec::new();
        loop {
            let has_more = match read_some(&mut stream, &mut bytes) {
                Ok(n) => 0 < n,
                Err(cause) => return Err(sent.err().unwrap_or(cause)),
            };
            match parse_head(&bytes) {
                Head::Whole { status, framing, head_bytes } => {
                    let rest = bytes.split_off(head_bytes);
                    return Ok(Some(Answer { status, stream: Box::new(stream), framing, rest }));
                }
                Head::Part if has_more && bytes.len() <= HEAD_BYTES_MAX => {}
                Head::Part if bytes.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
                Head::Part | Head::Foreign => return Ok(None),
            }
        }
    }
}

impl Answer {
    /// Appends what comes next to `body`. False when the body is whole. Fails when it ends too early.
    pub(super) fn read(&mut self, body: &mut Vec<u8>) -> io::Result<bool> {
        loop {
            let n_before = body.len();
            let is_whole = match &mut self.framing {
                Framing::Length(left) => {
                    let n = (*left).min(self.rest.len());
                    body.extend(self.rest.drain(..n));
                    *left -= n;
                    *left == 0
                }
                Framing::Chunked(decoder) => {
                    let fed = decoder.feed(&self.rest, body);
                    fed.map_err(|malformed| io::Error::other(malformed.0))?;
                    self.rest.clear();
                    decoder.is_done()
                }
            };
            if n_before < body.len() || is_whole {
                return Ok(!is_whole);
            }
            if read_some(&mut self.stream, &mut self.rest)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// The whole body; it is refused when it is longer than `bytes_max`.
    pub(super) fn whole(mut self, bytes_max: usize) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        while self.read(&mut body)? {
            if bytes_max < body.len() {
                return Err(io::Error::other("the answer is too long"));
            }
        }
        Ok(body)
    }
}

enum Head {
    Part,
    /// Not HTTP, or not as our gateways speak it.
    Foreign,
    Whole {
        status: u16,
        framing: Framing,
        head_bytes: usize,
    },
}

fn parse_head(bytes: &[u8]) -> Head {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let head_bytes = match response.parse(bytes) {
        Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
        Ok(httparse::Status::Partial) => return Head::Part,
        Err(_) => return Head::Foreign,
    };
    let header = |name: &str| {
        let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(header.value).ok()
    };
    let is_chunked = header("Transfer-Encoding").is_some_and(|it| it.eq_ignore_ascii_case("chunked"));
    let length = header("Content-Length").and_then(|it| it.parse().ok());
    let framing = match length {
        _ if is_chunked => Framing::Chunked(Decoder::default()),
        Some(length) => Framing::Length(length),
        None => return Head::Foreign,
    };
    response.code.map_or(Head::Foreign, |status| Head::Whole { status, framing, head_bytes })
}

/// What a gateway's refusal says, which is JSON; `None` when it is none.
pub(super) fn reason_of(refusal: &str) -> Option<Error> {
    #[derive(Deserialize)]
    struct Refusal {
        error: Reason,
    }
    #[derive(Deserialize)]
    struct Reason {
        code: String,
        message: String,
        #[serde(default)]
        hint: String,
    }
    let Refusal { error: Reason { code, message, hint } } = serde_json::from_str(refusal).ok()?;
    Some(Error::Failed { what: format!("{message} ({code})"), hint })
}

/// Reads what is there, and waits for something. 0 at the end.
fn read_some(stream: &mut (impl Read + ?Sized), bytes: &mut Vec<u8>) -> io::Result<usize> {
    let mut piece = [0; READ_BYTES];
    loop {
        match stream.read(&mut piece) {
            Ok(n) => {
                bytes.extend_from_slice(&piece[..n]);
                return Ok(n);
            }
            // TLS without a goodbye. What has come says itself whether it is whole.
            Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
}

/// The system's words for a time that is up speak of a resource.
fn in_words(cause: &io::Error) -> String {
    match cause.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "nothing comes".to_owned(),
        io::ErrorKind::UnexpectedEof => "the connection ended too early".to_owned(),
        _ => cause.to_string(),
    }
}

/// Whether it is for TLS, and the address with its port.
fn parse_url(url: &str) -> Result<(bool, String), Error> {
    let wrong = || Error::Failed {
        what: format!("expected the address of a gateway, got `{url}`"),
        hint: "write http://127.0.0.1:8000 or https://box.local".to_owned(),
    };
    let (is_https, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => return Err(wrong()),
    };
    let address = rest.trim_end_matches('/');
    let is_address = !address.is_empty() && !address.contains(['/', '?', '#', '@', ' ', '\r', '\n']);
    if !is_address {
        return Err(wrong());
    }
    // The colons of an address in brackets belong to it.
    let has_port = address.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
    let port = if is_https { 443 } else { 80 };
    Ok((is_https, if has_port { address.to_owned() } else { format!("{address}:{port}") }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_the_port_of_its_scheme() {
        for (url, expected) in [
            ("http://box:8000", (false, "box:8000")),
            ("http://box/", (false, "box:80")),
            ("https://box", (true, "box:443")),
            ("https://[::1]", (true, "[::1]:443")),
            ("https://[::1]:8443/", (true, "[::1]:8443")),
        ] {
            assert_eq!(parse_url(url), Ok((expected.0, expected.1.to_owned())), "{url}");
        }
        for url in
            ["box:8000", "ftp://box", "https://", "http://box/mcp", "http://me@box", "https://box?x", "http://a b"]
        {
            assert!(parse_url(url).is_err(), "{url}");
        }
    }

    /// What comes of an answer of these bytes, which end there. `None`: it is none, or not whole.
    fn answer(bytes: &'static [u8]) -> Option<(u16, String)> {
        let Head::Whole { status, framing, head_bytes } = parse_head(bytes) else { return None };
        let rest = bytes[head_bytes..].to_vec();
        let answer = Answer { status, stream: Box::new(io::empty()), framing, rest };
        Some((status, String::from_utf8(answer.whole(1000).ok()?).unwrap()))
    }

    #[test]
    fn an_answer_is_taken_only_when_it_is_whole() {
        const LENGTH: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        const CHUNKS: &[u8] = b"HTTP/1.1 201 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n";
        for (bytes, status) in [(LENGTH, 200), (CHUNKS, 201)] {
            assert_eq!(answer(bytes), Some((status, "{}".to_owned())));
            for cut in 0..bytes.len() {
                assert_eq!(answer(&bytes[..cut]), None, "cut at {cut}");
            }
        }
        assert_eq!(answer(b"SSH-2.0-OpenSSH\r\n"), None);
        assert_eq!(answer(b"HTTP/1.1 200 OK\r\n\r\n"), None);
    }

    #[test]
    fn a_refusal_is_told_with_its_code_and_its_hint() {
        let refusal = r#"{"status":"error","error":{"code":"unknown_tool","message":"no `a`","hint":"try `b`"}}"#;
        let error = reason_of(refusal).unwrap();
        assert_eq!((error.to_string().as_str(), error.hint().as_deref()), ("no `a` (unknown_tool)", Some("try `b`")));
        assert_eq!(reason_of("{}"), None);
    }

    #[test]
    fn an_answer_without_end_is_refused() {
        let framing = Framing::Length(usize::MAX);
        let answer = Answer { status: 200, stream: Box::new(io::repeat(b'x')), framing, rest: Vec::new() };
        assert!(answer.whole(100_000).is_err());
    }
}
