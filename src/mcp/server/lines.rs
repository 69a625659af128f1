//! Lines of bounded length from a stream.
//!
//! A line that is too long is read past without being kept, and reported in its place, so that one bad message costs
//! neither memory nor the messages behind it.

use std::io::{self, BufRead, ErrorKind};

/// The longest message, in bytes.
pub const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What is kept of the buffer between lines; a longer line gives its memory back.
const BUFFER_BYTES_KEPT: usize = 64 * 1024;

/// One line without its line break.
#[derive(Debug, PartialEq)]
pub(super) enum Line<'a> {
    Text(&'a [u8]),
    TooLong,
}

/// The lines of a stream, one after the other.
pub(super) struct Lines<R> {
    input: R,
    buffer: Vec<u8>,
    bytes_max: usize,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(input: R) -> Lines<R> {
        Lines { input, buffer: Vec::new(), bytes_max: LINE_BYTES_MAX }
    }

    /// The next line, which need not end in a line break if it is the last; `None` at the end of the stream.
    pub(super) fn next_line(&mut self) -> io::Result<Option<Line<'_>>> {
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        let mut has_begun = false;
        let mut is_too_long = false;
        loop {
            let available = match self.input.fill_buf() {
                Ok(available) => available,
                Err(cause) if cause.kind() == ErrorKind::Interrupted => continue,
                Err(cause) => return Err(cause),
            };
            let is_at_end = available.is_empty();
            if is_at_end && !has_begun {
                return Ok(None);
            }
            has_begun = true;

            let line_end = memchr::memchr(b'\n', available);
            let part = &available[..line_end.unwrap_or(available.len())];
            is_too_long |= self.bytes_max < self.buffer.len() + part.len();
            if !is_too_long {
                self.buffer.extend_from_slice(part);
            }
            let part_bytes = part.len();
            self.input.consume(part_bytes + usize::from(line_end.is_some()));
            if is_at_end || line_end.is_some() {
                return Ok(Some(if is_too_long { Line::TooLong } else { Line::Text(&self.buffer) }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    #[track_caller]
    fn check_lines(text: &str, expected: &[Option<&str>]) {
        // A small reader, so that lines span several of its fillings.
        for capacity in [1, 3, 64] {
            let input = BufReader::with_capacity(capacity, text.as_bytes());
            let mut lines = Lines { input, buffer: Vec::new(), bytes_max: 5 };
            for line in expected {
                let line = line.map_or(Line::TooLong, |it| Line::Text(it.as_bytes()));
                assert_eq!(lines.next_line().unwrap(), Some(line), "{text:?}");
            }
            assert_eq!(lines.next_line().unwrap(), None, "{text:?}");
        }
    }

    #[test]
    fn lines_come_without_their_breaks_and_empty_ones_count() {
        check_lines("one\n\ntwo\n", &[Some("one"), Some(""), Some("two")]);
    }

    #[test]
    fn the_last_line_needs_no_break() {
        check_lines("one\ntwo", &[Some("one"), Some("two")]);
        check_lines("", &[]);
    }

    #[test]
    fn a_line_over_the_limit_is_skipped_and_the_next_one_read() {
        check_lines("12345\n123456\n12345678901\nok\n", &[Some("12345"), None, None, Some("ok")]);
        check_lines("123456", &[None]);
    }
}
