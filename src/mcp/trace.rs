//! The trace that a request belongs to, as the client says, and as a server is told.
//!
//! A client says it in the headers `traceparent` and `tracestate` (W3C Trace Context, level 1, sections 3.2 and 3.3), a server is told in
//! `_meta` under the same names (MCP 2026-07-28, trace context; SEP-414). The gateway makes no spans: what it is given is passed on
//! as it came, and what is malformed is left out.

use std::ops::Range;

use super::raw;

/// Longest `tracestate` that is passed on. More than a sender may rely on (W3C, 3.3.1.5).
const STATE_BYTES_MAX: usize = 1024;

/// Most entries of a `tracestate`.
const STATE_ENTRIES_MAX: usize = 32;

/// Letters of a `traceparent` of version 00: version, trace id, parent id, flags.
const PARENT_LETTERS: usize = 55;

const TRACE_ID: Range<usize> = 3..35;
const PARENT_ID: Range<usize> = 36..52;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    parent: Box<str>,
    /// Fields of `_meta`, without the braces.
    stamp: Box<str>,
}

impl Trace {
    /// The fields of `_meta` that say it.
    pub const KEYS: [&str; 2] = ["traceparent", "tracestate"];

    /// Reads all headers of either name. `None` when there is not exactly one `traceparent` that is one; a `tracestate` that is none
    /// is left out.
    pub fn read<'a>(
        mut parents: impl Iterator<Item = &'a [u8]>,
        states: impl Iterator<Item = &'a [u8]>,
    ) -> Option<Trace> {
        let parent = std::str::from_utf8(parents.next()?).ok().filter(|parent| is_parent(parent))?;
        if parents.next().is_some() {
            return None;
        }
        // Several headers are one list (RFC 9110, 5.3).
        let state = states.collect::<Vec<_>>().join(&b","[..]);
        let state = std::str::from_utf8(&state).ok().filter(|state| is_state(state));
        let mut stamp = format!(r#""traceparent":"{parent}""#);
        if let Some(state) = state {
            stamp.push_str(&format!(r#","tracestate":{}"#, raw::quoted(state)));
        }
        Some(Trace { parent: parent.into(), stamp: stamp.into() })
    }

    /// What stands for the trace in logs: 32 hexadecimal digits.
    pub fn id(&self) -> &str {
        &self.parent[TRACE_ID]
    }

    /// The fields of `_meta` that tell a server, without the braces.
    pub fn stamp(&self) -> &str {
        &self.stamp
    }
}

/// Whether a `traceparent` is one. Of a version to come the beginning must be as in version 00.
fn is_parent(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_hex = |range: Range<usize>| bytes[range].iter().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'));
    let is_zero = |range: Range<usize>| bytes[range].iter().all(|it| *it == b'0');
    if bytes.len() < PARENT_LETTERS || !text.is_ascii() {
        return false;
    }
    let (version, rest) = (&text[..2], &text[PARENT_LETTERS..]);
    let has_dashes = [2, 35, 52].iter().all(|at| bytes[*at] == b'-');
    let has_digits = is_hex(0..2) && is_hex(TRACE_ID) && is_hex(PARENT_ID) && is_hex(53..PARENT_LETTERS);
    let ends_well = rest.is_empty() || (version != "00" && is_harmless(rest));
    has_dashes && has_digits && ends_well && version != "ff" && !is_zero(TRACE_ID) && !is_zero(PARENT_ID)
}

/// What a version to come may have behind what is known: something that can stand in quotes as it is.
fn is_harmless(rest: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    rest.starts_with('-') && rest.len() <= STATE_BYTES_MAX && rest.bytes().all(is_plain)
}

/// Whether a `tracestate` has the form that it must have and says anything.
fn is_state(text: &str) -> bool {
    let entries: Vec<&str> = text.split(',').map(|entry| entry.trim_matches([' ', '\t'])).collect();
    let mut said = entries.iter().filter(|entry| !entry.is_empty()).peekable();
    let says_anything = said.peek().is_some();
    says_anything
        && text.len() <= STATE_BYTES_MAX
        && entries.len() <= STATE_ENTRIES_MAX
        && said
            .all(|entry| entry.split_once('=').is_some_and(|(key, value)| is_state_key(key) && is_state_value(value)))
}

fn is_state_key(key: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/@".contains(&byte);
    (1..=256).contains(&key.len()) && key.bytes().all(is_letter) && !key.starts_with(['_', '-', '*', '/', '@'])
}

fn is_state_value(value: &str) -> bool {
    let is_letter = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'=';
    (1..=256).contains(&value.len()) && value.bytes().all(is_letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn read(parents: &[&str], states: &[&str]) -> Option<Trace> {
        Trace::read(parents.iter().map(|it| it.as_bytes()), states.iter().map(|it| it.as_bytes()))
    }

    #[track_caller]
    fn check_state(states: &[&str], stamp: &str) {
        let trace = read(&[PARENT], states).expect("a trace");
        assert_eq!(trace.stamp(), format!(r#""traceparent":"{PARENT}"{stamp}"#));
    }

    #[test]
    fn what_the_client_says_is_told_the_server_as_it_came() {
        assert_eq!(read(&[PARENT], &[]).unwrap().id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        check_state(&[], "");
        check_state(
            &["congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"],
            r#","tracestate":"congo=t61rcWkgMzE,rojo=00f067aa0ba902b7""#,
        );
        check_state(&["a=1", "t@b=\"x\" \\ y"], r#","tracestate":"a=1,t@b=\"x\" \\ y""#);
        check_state(&["a=1, ,b=2"], r#","tracestate":"a=1, ,b=2""#);
    }

    #[test]
    fn a_state_that_is_none_is_left_out_and_the_trace_stays() {
        let long = format!("a={}", "x".repeat(257));
        let many = (0..33).map(|n| format!("a{n}=1")).collect::<Vec<_>>().join(",");
        for state in ["", ",", "a", "A=1", "a=", "=1", "_a=1", "a=b=c", "a=\u{7f}", "a=é", &long, &many] {
            check_state(&[state], "");
        }
    }

    #[test]
    fn a_parent_that_is_none_is_no_trace() {
        let zero_trace = PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32));
        let zero_parent = PARENT.replace("00f067aa0ba902b7", &"0".repeat(16));
        for parent in [
            "",
            "00",
            &PARENT[..54],
            &PARENT.to_uppercase(),
            &PARENT.replacen("00", "ff", 1),
            &PARENT.replacen('-', "_", 1),
            &format!("{PARENT}-00"),
            &format!("{PARENT} "),
            &PARENT.replacen('4', "é", 1),
            &PARENT.replacen("00", "01", 1).replace("-01", "-01x"),
            &format!("{}-\"", PARENT.replacen("00", "01", 1)),
            &zero_trace,
            &zero_parent,
        ] {
            assert_eq!(read(&[parent], &["a=1"]), None, "{parent}");
        }
        assert_eq!(read(&[PARENT, PARENT], &[]), None, "two of them");
        assert_eq!(read(&[], &["a=1"]), None);
        assert!(read(&[&format!("{}-more", PARENT.replacen("00", "cc", 1))], &[]).is_some(), "a version to come");
    }

    #[test]
    fn every_prefix_of_a_parent_is_none() {
        for end in 0..PARENT.len() {
            assert_eq!(read(&[&PARENT[..end]], &[]), None, "{}", &PARENT[..end]);
        }
    }
}
