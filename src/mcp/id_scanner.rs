//! Finds the id of a message that is too long to keep, so that its call can fail by name.

/// Digits of the largest id there is.
const ID_DIGITS_MAX: usize = 20;

/// Two bytes are the longest name of interest; a third only shows that it is another.
const WORD_BYTES: usize = 3;

/// Finds the top-level `id` of a JSON object that is too long to keep, from bytes that come in pieces.
#[derive(Debug, Default)]
pub struct IdScanner {
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// The last name seen at depth 1, or the beginning of what stands for the id.
    word: Vec<u8>,
    is_id_value: bool,
    id: Option<u64>,
}

impl IdScanner {
    /// Looks at the next bytes of the object.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while let [byte, rest @ ..] = bytes {
            let is_known_enough = self.depth != 1 || WORD_BYTES <= self.word.len();
            if self.in_string && !self.escaped && is_known_enough {
                // Nothing in a string matters but where it ends.
                let n = memchr::memchr2(b'"', b'\\', bytes).unwrap_or(bytes.len());
                if 0 < n {
                    bytes = &bytes[n..];
                    continue;
                }
            }
            self.step(*byte);
            bytes = rest;
        }
    }

    /// The id, once it has come by and if it is one of ours (an integer).
    pub fn id(&self) -> Option<u64> {
        self.id
    }

    fn step(&mut self, byte: u8) {
        let at_top = self.depth == 1;
        if self.in_string {
            self.in_string = self.escaped || byte != b'"';
            self.escaped = !self.escaped && byte == b'\\';
            if at_top && self.in_string && self.word.len() < WORD_BYTES {
                self.word.push(byte);
            }
            return;
        }
        if at_top && self.is_id_value && !matches!(byte, b',' | b'}' | b']') {
            // Whatever is no digit shows that it is no id of ours: the rest of a string, a fraction, an array.
            if !byte.is_ascii_whitespace() && self.word.len() < ID_DIGITS_MAX + 1 {
                self.word.push(byte);
            }
        } else if at_top && byte == b'"' {
            self.word.clear();
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.end_value();
                self.depth = self.depth.saturating_sub(1);
            }
            b':' if at_top => {
                self.is_id_value = self.word == b"id";
                self.word.clear();
            }
            b',' if at_top => self.end_value(),
            _ => {}
        }
    }

    fn end_value(&mut self) {
        if self.depth == 1 && self.is_id_value {
            let is_number = self.word.iter().all(u8::is_ascii_digit);
            let digits = std::str::from_utf8(&self.word).ok().filter(|_| is_number);
            self.id = digits.and_then(|digits| digits.parse().ok());
            self.is_id_value = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_long_line_is_found_wherever_it_stands() {
        let cases = [
            (r#"{"jsonrpc":"2.0","id":17,"result":{"id":3}}"#, Some(17)),
            (r#"{"result":{"id":3,"x":["id",{"id":4}]},"jsonrpc":"2.0","id":18}"#, Some(18)),
            (r#"{"a":"\"id\":5","id": 19 ,"b":1}"#, Some(19)),
            (r#"{"a":"id","b":20}"#, None),
            (r#"{"id":"21"}"#, None),
            (r#"{"id":[21]}"#, None),
            (r#"{"id":{"id":21}}"#, None),
            (r#"{"id":-21}"#, None),
            (r#"{"id":2.1}"#, None),
            (r#"{"id":2e1}"#, None),
            (r#"{"id":null,"a":21}"#, None),
            (r#"{"id":18446744073709551615}"#, Some(u64::MAX)),
            (r#"{"id":100000000000000000001}"#, None),
            (r#"{"idx":22}"#, None),
        ];
        for (line, id) in cases {
            for cut in 0..line.len() {
                let mut scanner = IdScanner::default();
                scanner.feed(&line.as_bytes()[..cut]);
                scanner.feed(&line.as_bytes()[cut..]);
                assert_eq!(scanner.id(), id, "{line} cut at {cut}");
            }
        }
    }
}
