//! Decodes a chunked body, strictly and in pieces.
//!
//! Values in, values out. The decoder of the `chunked_transfer` package takes `+5` for a size and the end of the
//! connection for the end of the body, both of which smuggle requests; so this one is ours (RFC 9112, 7.1).
//!
//! **Limit.** A size line has at most `LINE_BYTES_MAX` bytes, the trailers together `TRAILER_BYTES_MAX`; the body is the
//! caller's to bound.

/// Longest size line, extensions included.
const LINE_BYTES_MAX: usize = 256;

/// Most digits of a chunk's size. More would fit, as zeros in front, and overflow the number of another program.
const SIZE_DIGITS_MAX: usize = 16;

/// Most bytes of trailers, which are read and forgotten.
const TRAILER_BYTES_MAX: usize = 4096;

/// See the module.
#[derive(Debug, Default)]
pub struct Decoder {
    state: State,
    line: Vec<u8>,
    n_trailer_bytes: usize,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    Data {
        left: u64,
    },
    DataEnd,
    Trailer,
    Done,
}

/// A body that is not in chunks, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl Decoder {
    /// Whether the last chunk and its trailers have been read.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Bytes of the current chunk that are still to come.
    pub fn left(&self) -> u64 {
        if let State::Data { left } = self.state { left } else { 0 }
    }

    /// Takes what it can from `bytes`, appends data to `body`, and returns how many bytes it took: all of them, unless
    /// the body has ended.
    pub fn feed(&mut self, bytes: &[u8], body: &mut Vec<u8>) -> Result<usize, Malformed> {
        let mut at = 0;
        while at < bytes.len() && !self.is_done() {
            if let State::Data { left } = self.state {
                let n = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - at);
                body.extend_from_slice(&bytes[at..at + n]);
                at += n;
                let left = left - n as u64;
                self.state = if left == 0 { State::DataEnd } else { State::Data { left } };
                continue;
            }
            self.line.push(bytes[at]);
            at += 1;
            let is_line = self.line.ends_with(b"\n");
            if is_line {
                self.take_line()?;
            } else if LINE_BYTES_MAX < self.line.len() {
                return Err(Malformed("a line between chunks is too long"));
            }
        }
        Ok(at)
    }

    fn take_line(&mut self) -> Result<(), Malformed> {
        let Some(line) = self.line.strip_suffix(b"\r\n") else {
            return Err(Malformed("a line between chunks ends in a bare LF"));
        };
        self.state = match self.state {
            State::Size => match chunk_size(line)? {
                0 => State::Trailer,
                left => State::Data { left },
            },
            State::DataEnd if line.is_empty() => State::Size,
            State::DataEnd => return Err(Malformed("a chunk is longer than its size")),
            State::Trailer if line.is_empty() => State::Done,
            State::Trailer => {
                if !is_trailer(line) {
                    return Err(Malformed("a trailer is malformed"));
                }
                self.n_trailer_bytes += line.len();
                if TRAILER_BYTES_MAX < self.n_trailer_bytes {
                    return Err(Malformed("the trailers are too long"));
                }
                State::Trailer
            }
            State::Data { .. } | State::Done => self.state,
        };
        self.line.clear();
        Ok(())
    }
}

/// One to sixteen hexadecimal digits, then perhaps extensions, which are ignored.
fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (digits, rest) = line.split_at(digits);
    let behind = rest.iter().copied().find(|byte| !matches!(byte, b' ' | b'\t'));
    let is_extension = if behind.is_none() { rest.is_empty() } else { behind == Some(b';') && is_text(rest) };
    if !is_extension || SIZE_DIGITS_MAX < digits.len() {
        return Err(Malformed("the size of a chunk is not a hexadecimal number"));
    }
    let number = std::str::from_utf8(digits).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
    number.ok_or(Malformed("the size of a chunk is not a hexadecimal number"))
}

/// A name that is a token, a colon, and text.
fn is_trailer(line: &[u8]) -> bool {
    let Some(colon) = line.iter().position(|byte| *byte == b':') else { return false };
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    0 < colon && line[..colon].iter().all(is_token) && is_text(&line[colon..])
}

/// Whether there is no control character: another program could end a line there.
fn is_text(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| !byte.is_ascii_control() || *byte == b'\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &[u8] = b"5;name=\"v\"\r\nhello\r\n00A\r\n, chunks!\n\r\n0\r\nTrailer: x\r\n\r\nNEXT";

    #[test]
    fn a_body_is_read_however_it_was_cut_and_what_follows_is_left() {
        for cut in 0..GOOD.len() {
            let (mut decoder, mut body) = (Decoder::default(), Vec::new());
            let n_first = decoder.feed(&GOOD[..cut], &mut body).unwrap();
            let n = n_first + decoder.feed(&GOOD[n_first..], &mut body).unwrap();
            assert!(decoder.is_done(), "cut at {cut}");
            assert_eq!((&body[..], &GOOD[n..]), (&b"hello, chunks!\n"[..], &b"NEXT"[..]), "cut at {cut}");
        }
    }

    #[test]
    fn an_unfinished_body_is_not_done() {
        for cut in 0..GOOD.len() - 4 {
            let (mut decoder, mut body) = (Decoder::default(), Vec::new());
            decoder.feed(&GOOD[..cut], &mut body).unwrap();
            assert!(!decoder.is_done(), "cut at {cut}");
        }
    }

    #[test]
    fn what_is_not_exactly_chunked_is_refused() {
        let long_line = [b"5;".as_slice(), &[b'x'; LINE_BYTES_MAX]].concat();
        let long_trailers = [b"0\r\n".as_slice(), &b"Trailer: 0123456789\r\n".repeat(300)].concat();
        let bodies: [&[u8]; 20] = [
            b"+5\r\nhello\r\n",
            b"-5\r\nhello\r\n",
            b"0x5\r\nhello\r\n",
            b" 5\r\nhello\r\n",
            b"5\nhello\n",
            b"5\r\nhelloX\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"\r\nhello\r\n",
            b"10000000000000000\r\n",
            b"5;a\rb\r\nhello\r\n",
            b"5;a\0b\r\nhello\r\n",
            b"5 \r\nhello\r\n",
            b"5 x\r\nhello\r\n",
            b"00000000000000005\r\nhello\r\n",
            b"0\r\nTrailer: a\rb\r\n\r\n",
            b"0\r\nTrailer : a\r\n\r\n",
            b"0\r\n folded\r\n\r\n",
            b"0\r\nGET / HTTP/1.1\r\n\r\n",
            &long_line,
            &long_trailers,
        ];
        for body in bodies {
            let result = Decoder::default().feed(body, &mut Vec::new());
            assert!(result.is_err(), "{}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn a_huge_size_allocates_nothing() {
        let mut body = Vec::new();
        Decoder::default().feed(b"ffffffffffffffff\r\nx", &mut body).unwrap();
        assert_eq!((body.as_slice(), body.capacity() < 100), (&b"x"[..], true));
    }
}
