//! The head of a request: read strictly, so that no two programs on the way can disagree about where it ends.
//!
//! Values in, values out. httparse does the parsing; what it lets pass and RFC 9112 does not, is refused here: a bare LF,
//! two ways to say how long the body is, an unknown transfer coding, a missing or second `Host`, one that is none or that
//! contradicts the target.
//!
//! **Limit.** `HEAD_BYTES_MAX` bytes and [`HEADERS_MAX`] headers.

use std::{mem::MaybeUninit, ops::Range, str::FromStr as _};

use tiny_http::{HTTPVersion, Method};

use crate::error::Error;

/// Most headers of a request.
pub const HEADERS_MAX: usize = 100;

/// A request's head. Text is kept as ranges of the bytes it was read from, which must be handed in again to see it.
#[derive(Debug)]
pub struct Head {
    /// The method.
    pub method: Method,
    /// 1.0 or 1.1.
    pub version: HTTPVersion,
    /// How the body is framed.
    pub framing: Framing,
    /// Whether the connection may serve another request behind this one.
    pub keep_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    path: Range<usize>,
    query: Option<Range<usize>>,
    headers: Vec<(Range<usize>, Range<usize>)>,
}

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// It has this many bytes.
    Length(u64),
    /// It comes in chunks.
    Chunked,
}

/// Finds the end of the head: the index behind its empty line. `n_seen` bytes were looked at before.
///
/// Fails at the first line that ends in a bare LF, and when no end is found in `head_bytes_max` bytes.
pub fn find_end(bytes: &[u8], n_seen: usize, head_bytes_max: usize) -> Result<Option<usize>, Error> {
    // The end may have begun in the bytes seen before.
    let from = n_seen.saturating_sub(3);
    for at in memchr::memchr_iter(b'\n', &bytes[from..]).map(|at| from + at) {
        let is_bare = at == 0 || bytes[at - 1] != b'\r';
        if is_bare {
            return Err(bad("a line of the head ends in a bare LF; end lines with CRLF"));
        }
        if at + 1 > head_bytes_max {
            break;
        }
        if bytes[..=at].ends_with(b"\r\n\r\n") {
            return Ok(Some(at + 1));
        }
    }
    if head_bytes_max < bytes.len() {
        return Err(Error::HeadTooLarge { what: format!("the head is larger than {head_bytes_max} bytes") });
    }
    Ok(None)
}

impl Head {
    /// Reads a whole head, its empty line included.
    // Its room for headers must not stay on the stack of a connection that waits.
    #[inline(never)]
    pub fn parse(bytes: &[u8]) -> Result<Head, Error> {
        let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(bytes, &mut headers) {
            Ok(httparse::Status::Complete(n)) if n == bytes.len() => {}
            Ok(_) => return Err(bad("the head of the request has no end")),
            Err(httparse::Error::TooManyHeaders) => {
                return Err(Error::HeadTooLarge { what: format!("the request has more than {HEADERS_MAX} headers") });
            }
            Err(httparse::Error::Version) => return Err(bad("only HTTP/1.0 and HTTP/1.1 are spoken here")),
            Err(cause) => return Err(bad(&format!("the head of the request is malformed: {cause}"))),
        }
        let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
            return Err(bad("the request line is incomplete"));
        };
        let range = |part: &[u8]| {
            let start = part.as_ptr() as usize - bytes.as_ptr() as usize;
            start..start + part.len()
        };
        let method = Method::from_str(method).map_err(|()| bad("the method is malformed"))?;
        let Target { authority, path, query } = Target::split(target, &method)?;
        let version = HTTPVersion(1, minor);
        let facts = Facts::read(request.headers, minor, authority)?;
        let headers = request.headers.iter().map(|header| (range(header.name.as_bytes()), range(header.value)));
        Ok(Head {
            method,
            version,
            framing: facts.framing,
            keep_alive: facts.keep_alive,
            expects_continue: facts.expects_continue,
            path: range(path.as_bytes()),
            query: query.map(|query| range(query.as_bytes())),
            headers: headers.collect(),
        })
    }

    /// The path, still percent-encoded.
    pub fn path<'b>(&self, bytes: &'b [u8]) -> &'b str {
        text(bytes, &self.path)
    }

    /// What stands behind the question mark, still encoded.
    pub fn query<'b>(&self, bytes: &'b [u8]) -> Option<&'b str> {
        self.query.as_ref().map(|range| text(bytes, range))
    }

    /// The first header of this name, if its value is UTF-8.
    pub fn header<'b>(&self, bytes: &'b [u8], name: &str) -> Option<&'b str> {
        std::str::from_utf8(self.header_bytes(bytes, name)?).ok()
    }

    /// Every header of this name, whatever its value is.
    pub fn all<'s>(&'s self, bytes: &'s [u8], name: &str) -> impl Iterator<Item = &'s [u8]> {
        let found = self.headers.iter().filter(move |(it, _)| is_called(bytes, it, name));
        found.filter_map(move |(_, value)| bytes.get(value.clone()))
    }

    /// The first header of this name, whatever its value is.
    pub fn header_bytes<'b>(&self, bytes: &'b [u8], name: &str) -> Option<&'b [u8]> {
        let found = self.headers.iter().find(|(it, _)| is_called(bytes, it, name));
        found.and_then(|(_, value)| bytes.get(value.clone()))
    }
}

/// What the headers say about the message itself.
struct Facts {
    framing: Framing,
    keep_alive: bool,
    expects_continue: bool,
}

impl Facts {
    fn read(headers: &[httparse::Header<'_>], minor: u8, authority: Option<&str>) -> Result<Facts, Error> {
        let is_1_1 = minor == 1;
        let mut facts = Facts { framing: Framing::None, keep_alive: is_1_1, expects_continue: false };
        let (mut length, mut codings, mut n_hosts) = (None, None, 0);
        for header in headers {
            let value = header.value;
            if header.name.eq_ignore_ascii_case("content-length") {
                let this = content_length(value)?;
                if length.is_some_and(|other| other != this) {
                    return Err(bad("the request has two different `Content-Length`"));
                }
                length = Some(this);
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                let is_chunked = value.eq_ignore_ascii_case(b"chunked");
                if !is_chunked || codings.is_some() {
                    return Err(bad("the only transfer coding taken is one `Transfer-Encoding: chunked`"));
                }
                codings = Some(());
            } else if header.name.eq_ignore_ascii_case("host") {
                n_hosts += 1;
                check_host(value, authority)?;
            } else if header.name.eq_ignore_ascii_case("connection") {
                for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                    if option.eq_ignore_ascii_case(b"close") {
                        facts.keep_alive = false;
                    } else if option.eq_ignore_ascii_case(b"keep-alive") && !is_1_1 {
                        facts.keep_alive = true;
                    }
                }
            } else if header.name.eq_ignore_ascii_case("expect") {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(bad("the only expectation understood is `Expect: 100-continue`"));
                }
                facts.expects_continue = is_1_1;
            }
        }
        facts.framing = match (length, codings) {
            (Some(_), Some(())) => return Err(bad("`Content-Length` and `Transfer-Encoding` exclude each other")),
            (None, Some(())) if !is_1_1 => return Err(bad("HTTP/1.0 has no `Transfer-Encoding`")),
            (None, Some(())) => Framing::Chunked,
            (Some(0) | None, None) => Framing::None,
            (Some(length), None) => Framing::Length(length),
        };
        let has_host = n_hosts == 1 || (n_hosts == 0 && !is_1_1);
        if !has_host {
            return Err(bad(&format!("HTTP/1.1 asks for one `Host` header, the request has {n_hosts}")));
        }
        Ok(facts)
    }
}

/// RFC 9110, 8.6: digits only, and a list of equal numbers is refused rather than guessed at.
fn content_length(value: &[u8]) -> Result<u64, Error> {
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(value).ok().filter(|_| is_number).and_then(|digits| digits.parse().ok());
    number.ok_or_else(|| {
        bad(&format!("`Content-Length`: expected a number of bytes, got `{}`", String::from_utf8_lossy(value)))
    })
}

/// RFC 9112, 3.2: the value of `Host` is a name or an address, perhaps with a port, and that of the target where the
/// target names one; who read the other would take the request for one to another place.
fn check_host(value: &[u8], authority: Option<&str>) -> Result<(), Error> {
    let is_letter = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(byte);
    if !value.iter().all(is_letter) {
        return Err(bad("the value of `Host` is not the name of a host"));
    }
    if authority.is_some_and(|authority| !authority.as_bytes().eq_ignore_ascii_case(value)) {
        return Err(bad("the target of the request and its `Host` name two hosts"));
    }
    Ok(())
}

/// The target of a request (RFC 9112, 3.2).
struct Target<'t> {
    /// The host, in the absolute form.
    authority: Option<&'t str>,
    path: &'t str,
    query: Option<&'t str>,
}

impl<'t> Target<'t> {
    /// Takes the origin form, the absolute form and, for OPTIONS, `*`.
    fn split(target: &'t str, method: &Method) -> Result<Target<'t>, Error> {
        let rest = target.strip_prefix("http://").or_else(|| target.strip_prefix("https://"));
        let (authority, local) = match rest {
            // Nothing behind the host is the root.
            Some(rest) => {
                let (authority, local) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
                (Some(authority), local)
            }
            None => (None, target),
        };
        let is_path = local.starts_with(['/', '?']) || authority.is_some();
        let is_star = local == "*" && *method == Method::Options;
        if !is_path && !is_star {
            // The target is not told: it may hold a key.
            return Err(bad("the target of the request is not a path"));
        }
        let end = memchr::memchr(b'#', local.as_bytes()).unwrap_or(local.len());
        let local = &local[..end];
        Ok(match memchr::memchr(b'?', local.as_bytes()) {
            Some(at) => Target { authority, path: &local[..at], query: Some(&local[at + 1..]) },
            None => Target { authority, path: local, query: None },
        })
    }
}

/// Whether the name of a header, which stands there, is `name`.
fn is_called(bytes: &[u8], range: &Range<usize>, name: &str) -> bool {
    range.len() == name.len() && bytes.get(range.clone()).is_some_and(|it| it.eq_ignore_ascii_case(name.as_bytes()))
}

fn text<'b>(bytes: &'b [u8], range: &Range<usize>) -> &'b str {
    bytes.get(range.clone()).and_then(|part| std::str::from_utf8(part).ok()).unwrap_or_default()
}

fn bad(what: &str) -> Error {
    Error::BadRequest { what: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Head, Error> {
        let bytes = text.as_bytes();
        let end = find_end(bytes, 0, 16 * 1024)?.ok_or(Error::BadRequest { what: "incomplete".to_owned() })?;
        Head::parse(&bytes[..end])
    }

    const GOOD: &str =
        "POST http://h/tools/a%20b?x=1&y HTTP/1.1\r\nHost: h\r\nX-API-Key:  k \r\nContent-Length: 3\r\n\r\nabc";

    #[test]
    fn a_head_is_read_once_it_is_whole_however_it_was_cut() {
        let end = GOOD.len() - 3;
        for cut in 0..end {
            let before = find_end(&GOOD.as_bytes()[..cut], 0, 1000).unwrap();
            assert_eq!(before, None, "cut at {cut}");
            assert_eq!(find_end(GOOD.as_bytes(), cut, 1000).unwrap(), Some(end), "cut at {cut}");
        }
        let head = parse(GOOD).unwrap();
        let bytes = GOOD.as_bytes();
        assert_eq!((head.path(bytes), head.query(bytes)), ("/tools/a%20b", Some("x=1&y")));
        assert_eq!((head.header(bytes, "x-api-key"), head.header(bytes, "nope")), (Some("k"), None));
        assert_eq!((head.framing, head.keep_alive), (Framing::Length(3), true));
    }

    #[test]
    fn no_prefix_of_a_head_and_no_broken_byte_panics() {
        for cut in 0..GOOD.len() {
            let _ = Head::parse(&GOOD.as_bytes()[..cut]);
            for byte in [0, b'\n', b'\r', b' ', b':', 0x80, 0xff] {
                let mut broken = GOOD.as_bytes().to_vec();
                broken[cut] = byte;
                if let Ok(Some(end)) = find_end(&broken, 0, 1000) {
                    let _ = Head::parse(&broken[..end]);
                }
            }
        }
    }

    /// Each of these lets two programs read different requests from the same bytes (RFC 9112, 11.2).
    #[test]
    fn what_could_smuggle_a_request_is_refused() {
        let heads = [
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 3\r\nContent-Length: 4\r\n",
            "Content-Length: 3, 3\r\n",
            "Content-Length: +3\r\n",
            "Content-Length: 0x3\r\n",
            "Content-Length: -1\r\n",
            "Content-Length: \r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: identity\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding : chunked\r\n",
            "Content-Length : 3\r\n",
            "A: b\r\n c\r\n",
            "A: b\nC: d\r\n",
            " A: b\r\n",
            "Host: other\r\n",
            "A\r\n",
            "A: b\0c\r\n",
        ];
        for lines in heads {
            let text = format!("POST / HTTP/1.1\r\nHost: h\r\n{lines}\r\n");
            let error = parse(&text).expect_err(lines);
            assert_eq!(error.http_status(), 400, "{lines}: {error}");
        }
        for text in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/2.0\r\nHost: h\r\n\r\n",
            "GET /\r\n\r\n",
            "GET x HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET http://other/ HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET http://h@other/ HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET http://h/ HTTP/1.1\r\nHost: \r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h x\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h/x\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: user@h\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\u{e9}\r\n\r\n",
            "GET * HTTP/1.1\r\nHost: h\r\n\r\n",
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET /\u{e9} HTTP/1.1\r\nHost: h\r\n\r\n\n",
        ] {
            let result = parse(text);
            assert!(
                result.as_ref().is_err_and(|error| error.http_status() == 400) || text.starts_with("GET /\u{e9}"),
                "{text}"
            );
        }
    }

    #[test]
    fn an_absolute_target_may_have_no_path() {
        for (target, host) in [("http://h", "h"), ("https://h:1", "H:1"), ("http://h?x=1", "h"), ("http://h/", "h")] {
            let text = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
            assert!(matches!(parse(&text).unwrap().path(text.as_bytes()), "" | "/"), "{target}");
        }
    }

    #[test]
    fn the_same_length_twice_is_one_length() {
        let head = parse("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n").unwrap();
        assert_eq!(head.framing, Framing::Length(3));
    }

    #[test]
    fn keep_alive_follows_version_and_connection_header() {
        let cases = [
            ("HTTP/1.1", "", true),
            ("HTTP/1.1", "Connection: close\r\n", false),
            ("HTTP/1.1", "Connection: te, Close\r\n", false),
            ("HTTP/1.0", "", false),
            ("HTTP/1.0", "Connection: Keep-Alive\r\n", true),
        ];
        for (version, header, keep_alive) in cases {
            let head = parse(&format!("GET / {version}\r\nHost: h\r\n{header}\r\n")).unwrap();
            assert_eq!(head.keep_alive, keep_alive, "{version} {header}");
        }
    }

    #[test]
    fn too_large_is_told_as_such() {
        let long = format!("GET / HTTP/1.1\r\nHost: h\r\nA: {}\r\n\r\n", "x".repeat(1000));
        assert_eq!(find_end(long.as_bytes(), 0, 100).unwrap_err().http_status(), 431);
        assert_eq!(find_end(&long.as_bytes()[..101], 0, 100).unwrap_err().http_status(), 431);
        let many = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "A: b\r\n".repeat(HEADERS_MAX));
        assert_eq!(parse(&many).unwrap_err().http_status(), 431);
    }
}
