//! Reads a line of a server once: whether it is JSON, and where the fields of JSON-RPC stand in it.
//!
//! A result of a megabyte is one string, mostly, so what counts is how fast a string is passed over: 64 bytes at a time, in a loop
//! that compiles to vector instructions. serde_json goes by eight and looks at the text once more for UTF-8.
//!
//! It takes no more than serde_json takes, which `fuzzing.rs` holds against it, but may take less: whatever is out of the ordinary (a
//! name with an escape, a field twice, brackets in more than 128 others) is left to serde_json, and so is all that is wrong,
//! because serde_json says what.

/// Brackets within brackets, one bit for each.
const DEPTH_MAX: u32 = u128::BITS;

/// Words of eight bytes that are looked at one by one before a string is taken for a long one.
const SHORT_WORDS: usize = 4;

/// The fields of a message, each as it stands in the line; `None` for one that is absent or `null`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// `id`.
    pub id: Option<&'a str>,
    /// What `method` says.
    pub method: Option<&'a str>,
    /// `params`.
    pub params: Option<&'a str>,
    /// `result`.
    pub result: Option<&'a str>,
    /// `error`.
    pub error: Option<&'a str>,
}

impl<'a> Envelope<'a> {
    /// Reads a line. `None`: it is no JSON object, or one that serde_json should see.
    pub fn read(line: &'a str) -> Option<Envelope<'a>> {
        let mut envelope = Envelope::default();
        // A field that is `null` must not come twice either.
        let mut seen = 0_u8;
        let mut text = Text { bytes: line.as_bytes(), at: 0 };
        text.blank();
        text.take(b'{')?;
        text.blank();
        if text.peek()? == b'}' {
            return None;
        }
        loop {
            let start = text.at;
            text.string()?;
            let name = line.get(start + 1..text.at - 1)?;
            text.blank();
            text.take(b':')?;
            text.blank();
            let start = text.at;
            text.value()?;
            let value = line.get(start..text.at)?;
            let (bit, place) = match name {
                "id" => (1, Some(&mut envelope.id)),
                "method" => (2, Some(&mut envelope.method)),
                "params" => (4, Some(&mut envelope.params)),
                "result" => (8, Some(&mut envelope.result)),
                "error" => (16, Some(&mut envelope.error)),
                name if has_escapes(name) => return None,
                _ => (0, None),
            };
            if seen & bit != 0 {
                return None;
            }
            seen |= bit;
            if let Some(place) = place {
                *place = (value != "null").then_some(value);
            }
            text.blank();
            if text.take(b',').is_none() {
                text.take(b'}')?;
                break;
            }
            text.blank();
        }
        text.blank();
        let is_whole = text.at == line.len();
        if let Some(method) = envelope.method {
            let method = method.strip_prefix('"')?.strip_suffix('"')?;
            envelope.method = Some(method).filter(|method| !has_escapes(method));
            envelope.method?;
        }
        is_whole.then_some(envelope)
    }
}

/// Text, and how far it was read. What is read as something is passed over; `None` when it is something else.
struct Text<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Text<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    fn blank(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// A name and the colon behind it.
    fn name(&mut self) -> Option<()> {
        self.string()?;
        self.blank();
        self.take(b':')
    }

    fn value(&mut self) -> Option<()> {
        // Which of the brackets that are open are those of objects; the innermost is the lowest bit.
        let (mut objects, mut depth) = (0_u128, 0);
        loop {
            self.blank();
            match self.peek()? {
                b'"' => self.string()?,
                bracket @ (b'{' | b'[') => {
                    let is_object = bracket == b'{';
                    self.at += 1;
                    self.blank();
                    // One that is empty ends at once, like a number.
                    if self.take(if is_object { b'}' } else { b']' }).is_none() {
                        if depth == DEPTH_MAX {
                            return None;
                        }
                        objects = objects << 1 | u128::from(is_object);
                        depth += 1;
                        if is_object {
                            self.name()?;
                        }
                        continue;
                    }
                }
                b't' => self.word(b"true")?,
                b'f' => self.word(b"false")?,
                b'n' => self.word(b"null")?,
                _ => self.number()?,
            }
            // A value has ended here, and with it perhaps what it stands in.
            loop {
                if depth == 0 {
                    return Some(());
                }
                self.blank();
                let is_object = objects & 1 == 1;
                match self.peek()? {
                    b',' => {
                        self.at += 1;
                        if is_object {
                            self.blank();
                            self.name()?;
                        }
                        break;
                    }
                    b'}' if is_object => {}
                    b']' if !is_object => {}
                    _ => return None,
                }
                self.at += 1;
                objects >>= 1;
                depth -= 1;
            }
        }
    }

    fn word(&mut self, word: &[u8]) -> Option<()> {
        self.bytes[self.at..].starts_with(word).then(|| self.at += word.len())
    }

    fn number(&mut self) -> Option<()> {
        let _ = self.take(b'-');
        if self.take(b'0').is_none() {
            self.digits()?;
        }
        if self.take(b'.').is_some() {
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    /// At least one.
    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (start < self.at).then_some(())
    }

    fn string(&mut self) -> Option<()> {
        self.take(b'"')?;
        loop {
            self.at += plain_bytes(&self.bytes[self.at..]);
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(());
                }
                b'\\' => match *self.bytes.get(self.at + 1)? {
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => self.at += 2,
                    b'u' => {
                        let digits = self.bytes.get(self.at + 2..self.at + 6)?;
                        self.at += digits.iter().all(u8::is_ascii_hexdigit).then_some(6)?;
                    }
                    _ => return None,
                },
                // A control character.
                _ => return None,
            }
        }
    }
}

fn has_escapes(string: &str) -> bool {
    string.bytes().any(|byte| byte == b'\\')
}

/// How many bytes go by before a quote, a backslash or a control character, or the end.
fn plain_bytes(bytes: &[u8]) -> usize {
    let (words, _) = bytes.as_chunks();
    for (index, word) in words.iter().take(SHORT_WORDS).enumerate() {
        if let Some(n) = special_in(*word) {
            return index * 8 + n;
        }
    }
    let mut at = words.len().min(SHORT_WORDS) * 8;
    for block in bytes[at..].chunks_exact(64) {
        // Without a way out in the middle.
        let (words, _) = block.as_chunks();
        let found = words.iter().fold(0, |found, word| found | specials_in(*word));
        if found != 0 {
            break;
        }
        at += block.len();
    }
    let (words, rest) = bytes[at..].as_chunks();
    for word in words {
        if let Some(n) = special_in(*word) {
            return at + n;
        }
        at += 8;
    }
    at + rest.iter().take_while(|byte| !is_special(**byte)).count()
}

/// Where the first special byte of these is.
fn special_in(word: [u8; 8]) -> Option<usize> {
    let found = specials_in(word);
    (found != 0).then(|| found.trailing_zeros() as usize / 8)
}

/// The highest bit of each special byte of these, and perhaps of some behind one; none when there is none.
fn specials_in(word: [u8; 8]) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    let word = u64::from_le_bytes(word);
    let below = |limit: u64, word: u64| word.wrapping_sub(ONES * limit) & !word;
    let special =
        below(0x20, word) | below(1, word ^ (ONES * u64::from(b'"'))) | below(1, word ^ (ONES * u64::from(b'\\')));
    special & (ONES << 7)
}

fn is_special(byte: u8) -> bool {
    byte < b' ' || byte == b'"' || byte == b'\\'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_message_are_found_as_they_stand() {
        let line = r#" {"jsonrpc" : "2.0","id":7, "method" :"a/b","params":{"x":[1, {}]} ,"result":null,"y":[[]]} "#;
        let expected =
            Envelope { id: Some("7"), method: Some("a/b"), params: Some(r#"{"x":[1, {}]}"#), ..Envelope::default() };
        assert_eq!(Envelope::read(line), Some(expected));
    }

    #[test]
    fn what_serde_should_see_is_left_to_it() {
        for line in [
            "",
            "{}",
            "[]",
            r#"{"id":1,"id":2}"#,
            r#"{"result":null,"result":1}"#,
            r#"{"\u0069d":1}"#,
            r#"{"method":"\u0061"}"#,
            r#"{"method":1}"#,
            r#"{"id":1} x"#,
            r#"{"id":1,}"#,
            r#"{"id":01}"#,
            r#"{"a":"\x"}"#,
            "{\"a\":\"\n\"}",
            r#"{"a":[1}}"#,
            r#"{"a":+1}"#,
            r#"{"a":1.}"#,
            r#"{"a":-}"#,
            r#"{"a":nul}"#,
        ] {
            assert_eq!(Envelope::read(line), None, "{line}");
        }
        let nested = |depth| format!(r#"{{"id":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
        assert!(Envelope::read(&nested(128)).is_some() && Envelope::read(&nested(1000)).is_none());
    }

    #[test]
    fn a_special_byte_is_seen_wherever_it_stands() {
        for length in 0..200 {
            let mut bytes = vec![b'a'; length];
            assert_eq!(plain_bytes(&bytes), length);
            for at in 0..length {
                for special in [b'"', b'\\', b'\n', 0, 0x1f] {
                    bytes[at] = special;
                    assert_eq!(plain_bytes(&bytes), at, "{special} at {at} of {length}");
                }
                for plain in [b' ', 0x7f, 0x80, 0xa2, 0xdc, 0xff, b'!', b'[', b']'] {
                    bytes[at] = plain;
                    assert_eq!(plain_bytes(&bytes), length, "{plain} at {at} of {length}");
                }
                bytes[at] = b'a';
            }
        }
    }
}
