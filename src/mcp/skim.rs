//! Finds its way in JSON that is known to be valid, without reading it once more.
//!
//! serde reads every byte of whatever stands between two fields, as it must with text that it does not know. What was read from a
//! [`RawValue`](serde_json::value::RawValue) has been through that: here only quotes, escapes and brackets are looked for, a string
//! of a megabyte at the speed of `memchr`.
//!
//! In text that is not valid JSON it finds less than there is, or nothing; it never fails otherwise and never finds what is not there.

use std::{borrow::Cow, iter};

/// The fields of an object in their order: name and value, both as they stand there. `None` when it is no object.
pub fn fields(object: &str) -> Option<impl Iterator<Item = (&str, &str)>> {
    let mut inside = Inside::of(object, b'{')?;
    Some(iter::from_fn(move || Some((inside.next_value()?, inside.next_value()?))))
}

/// The items of an array, as they stand there. `None` when it is none.
pub fn items(array: &str) -> Option<impl Iterator<Item = &str>> {
    let mut inside = Inside::of(array, b'[')?;
    Some(iter::from_fn(move || inside.next_value()))
}

/// The value of the first field of this name.
pub fn field<'a>(object: &'a str, name: &str) -> Option<&'a str> {
    fields(object)?.find(|(it, _)| is(it, name)).map(|(_, value)| value)
}

/// Whether a string, as it stands in JSON, says this.
pub fn is(string: &str, text: &str) -> bool {
    let Some(inner) = inner(string) else { return false };
    // What is written with escapes is longer than what it says.
    let may_have_escapes = text.len() < inner.len();
    inner == text
        || may_have_escapes && inner.bytes().any(|byte| byte == b'\\') && self::text(string).as_deref() == Some(text)
}

/// What a string says, given as it stands in JSON. `None` when it is no string, or one that no text can hold (`"\ud800"`).
pub fn text(string: &str) -> Option<Cow<'_, str>> {
    let inner = inner(string)?;
    let has_escapes = memchr::memchr(b'\\', inner.as_bytes()).is_some();
    if has_escapes { serde_json::from_str(string).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(inner)) }
}

/// What stands between the quotes of a string.
fn inner(string: &str) -> Option<&str> {
    string.strip_prefix('"')?.strip_suffix('"')
}

/// What is left of an object or an array.
struct Inside<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Inside<'a> {
    fn of(text: &'a str, open: u8) -> Option<Inside<'a>> {
        let at = text.bytes().position(|byte| !byte.is_ascii_whitespace())?;
        (text.as_bytes()[at] == open).then_some(Inside { text, at: at + 1 })
    }

    /// The next name, or the next value; `None` at the end.
    fn next_value(&mut self) -> Option<&'a str> {
        let bytes = self.text.as_bytes();
        while let b' ' | b'\t' | b'\n' | b'\r' | b',' | b':' = bytes.get(self.at)? {
            self.at += 1;
        }
        let start = self.at;
        let end = match bytes[start] {
            b'"' => string_end(bytes, start + 1)?,
            b'{' | b'[' => nested_end(bytes, start)?,
            b'}' | b']' => return None,
            _ => {
                let is_end = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r');
                start + bytes[start..].iter().position(is_end)?
            }
        };
        self.at = end;
        self.text.get(start..end)
    }
}

/// Where the string ends whose opening quote stands before `at`: behind the closing one.
fn string_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

/// Where the object or array ends that begins at `at`: behind its last bracket.
fn nested_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    loop {
        at = match *bytes.get(at)? {
            b'"' => string_end(bytes, at + 1)?,
            byte => {
                match byte {
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' if depth <= 1 => return Some(at + 1),
                    b'}' | b']' => depth -= 1,
                    _ => {}
                }
                at + 1
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_items_are_found_wherever_they_end() {
        let object = r#" {"a" : 1.10, "b\"":"}\\" ,"c":[{"d":"]"},[]],"e":{},"f":null } "#;
        let found: Vec<_> = fields(object).unwrap().collect();
        let expected = [
            (r#""a""#, "1.10"),
            (r#""b\"""#, r#""}\\""#),
            (r#""c""#, r#"[{"d":"]"},[]]"#),
            (r#""e""#, "{}"),
            (r#""f""#, "null"),
        ];
        assert_eq!(found, expected);
        let found: Vec<_> = items(r#"[[1,[2]] , "x,\"]" ,true, -1e5]"#).unwrap().collect();
        assert_eq!(found, ["[1,[2]]", r#""x,\"]""#, "true", "-1e5"]);
        for other in ["", " ", "1", "\"{\"", "[]"] {
            assert!(fields(other).is_none(), "{other}");
        }
        assert!(fields("{}").unwrap().next().is_none() && items("[ ]").unwrap().next().is_none());
    }

    #[test]
    fn a_name_is_found_however_it_is_written() {
        assert_eq!(field(r#"{"b":1,"\u0061":2,"a":3}"#, "a"), Some("2"));
        assert_eq!(field(r#"{"b":1}"#, "a"), None);
        assert!(is(r#""a\"b""#, "a\"b") && !is("1", "1") && !is("\"", ""));
    }

    #[test]
    fn a_string_that_no_text_can_hold_has_no_text() {
        assert_eq!(text(r#""\ud83d\ude00 é""#).as_deref(), Some("😀 é"));
        assert_eq!(text(r#""plain""#).as_deref(), Some("plain"));
        assert_eq!(text(r#""\ud800""#), None);
        assert_eq!(text("17"), None);
    }

    #[test]
    fn every_part_of_json_is_looked_at_without_a_panic() {
        let text = r#"{"a":[1,{"b":"é\"\\"}],"c":"é"}"#;
        for (start, _) in text.char_indices() {
            for end in (start..=text.len()).filter(|end| text.is_char_boundary(*end)) {
                let part = &text[start..end];
                fields(part).into_iter().flatten().for_each(drop);
                items(part).into_iter().flatten().for_each(drop);
                let _ = self::text(part);
            }
        }
    }
}
