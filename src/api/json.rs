//! An answer as it is put together from parts, of which long ones are not copied.
//!
//! What a call is answered with is mostly its result, twice: what it comes down to, and the content as it came. Both stand in the
//! result itself, so a long answer keeps the result and says where what goes in between, and all of it is written at once.

use std::{borrow::Cow, ops::Range};

use serde_json::value::RawValue;

use super::Answer;
use crate::mcp::{message::push_json_str, raw};

/// Least length of a part that is not copied: a short one costs less to copy than to remember.
const INSET_BYTES_MIN: usize = 16 * 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Json<'w> {
    text: Vec<u8>,
    /// What long parts may be left in.
    whole: Option<&'w str>,
    list: Vec<Inset>,
}

/// What of an answer's body is kept apart from it.
#[derive(Debug)]
pub struct Insets {
    whole: Box<RawValue>,
    list: Vec<Inset>,
}

#[derive(Debug)]
struct Inset {
    /// Where in the body it goes.
    at: usize,
    what: What,
}

#[derive(Debug)]
enum What {
    /// A part of the whole.
    Part(Range<usize>),
    Own(String),
}

impl<'w> Json<'w> {
    /// Everything is copied.
    pub(super) fn copied() -> Json<'w> {
        Json { text: Vec::with_capacity(512), whole: None, list: Vec::new() }
    }

    /// Long parts of `whole` stay in it.
    pub(super) fn around(whole: &'w str) -> Json<'w> {
        Json { whole: Some(whole), ..Json::copied() }
    }

    /// Appends JSON, or a piece of it.
    pub(super) fn push<'p>(&mut self, part: impl Into<Cow<'p, str>>) {
        let part = part.into();
        let is_short = part.len() < INSET_BYTES_MIN;
        let what = match (self.whole.filter(|_| !is_short), part) {
            (Some(whole), Cow::Borrowed(part)) => raw::place_in(whole, part).map(What::Part).ok_or(Cow::Borrowed(part)),
            (Some(_), Cow::Owned(part)) => Ok(What::Own(part)),
            (None, part) => Err(part),
        };
        match what {
            Ok(what) => self.list.push(Inset { at: self.text.len(), what }),
            Err(part) => self.text.extend_from_slice(part.as_bytes()),
        }
    }

    /// Appends a text as a string of JSON.
    pub(super) fn push_str(&mut self, text: &str) {
        push_json_str(&mut self.text, text);
    }

    /// Appends a number.
    pub(super) fn push_number(&mut self, number: f64) {
        // Writing into memory has no way to fail.
        let _ = serde_json::to_writer(&mut self.text, &number);
    }

    /// All of it, when everything was copied.
    pub(super) fn into_string(self) -> String {
        // It was put together from text.
        String::from_utf8(self.text).unwrap_or_default()
    }

    /// What is left when nothing borrows from the whole any more.
    pub(super) fn finish(self) -> Finished {
        Finished { text: self.text, list: self.list }
    }
}

/// JSON that is complete but for what stands in its whole.
#[derive(Debug)]
pub(super) struct Finished {
    text: Vec<u8>,
    list: Vec<Inset>,
}

impl Finished {
    /// The answer; `whole` is what it was put together around.
    pub(super) fn answer(self, whole: Box<RawValue>) -> Answer {
        let has_insets = !self.list.is_empty();
        let insets = has_insets.then(|| Box::new(Insets { whole, list: self.list }));
        Answer { body: self.text, insets, ..Answer::empty(200) }
    }
}

impl Insets {
    fn bytes<'a>(&'a self, inset: &'a Inset) -> &'a [u8] {
        match &inset.what {
            What::Part(range) => &self.whole.get().as_bytes()[range.clone()],
            What::Own(text) => text.as_bytes(),
        }
    }
}

impl Answer {
    /// How long the whole body is.
    pub fn body_bytes(&self) -> usize {
        let insets = self.insets.iter().flat_map(|insets| insets.list.iter().map(|inset| insets.bytes(inset).len()));
        self.body.len() + insets.sum::<usize>()
    }

    /// The pieces of the whole body, in their order.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let list = self.insets.as_deref().map_or(&[][..], |insets| &insets.list);
        let starts = std::iter::once(0).chain(list.iter().map(|inset| inset.at));
        let ends = list.iter().map(|inset| inset.at).chain(std::iter::once(self.body.len()));
        let between = starts.zip(ends).map(|(start, end)| &self.body[start..end]);
        let insets = self.insets.iter().flat_map(|insets| insets.list.iter().map(|inset| insets.bytes(inset)));
        between
            .zip(insets.map(Some).chain(std::iter::once(None)))
            .flat_map(|(piece, inset)| std::iter::once(piece).chain(inset))
    }

    /// The whole body in one piece.
    pub fn whole_body(&self) -> Cow<'_, [u8]> {
        match self.insets {
            None => Cow::Borrowed(&self.body),
            Some(_) => Cow::Owned(self.pieces().collect::<Vec<_>>().concat()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(json: String) -> Box<RawValue> {
        RawValue::from_string(json).unwrap()
    }

    #[test]
    fn long_parts_stay_where_they_are_and_the_body_is_the_same() {
        let long = "x".repeat(INSET_BYTES_MIN);
        let whole = value(format!(r#"["{long}", "short"]"#));
        let text = whole.get();
        let (first, second) = (&text[1..long.len() + 3], &text[long.len() + 5..text.len() - 1]);
        let put_together = |mut json: Json<'_>| {
            json.push("[");
            json.push(first);
            json.push(",");
            json.push(second);
            json.push(",");
            json.push(format!("[{first}]"));
            json.push(first);
            json.push("]");
            json.finish()
        };
        let copied = put_together(Json::copied()).answer(value("0".to_owned()));
        let around = put_together(Json::around(text)).answer(whole.clone());
        assert!(copied.insets.is_none() && around.body.len() < 100, "{}", around.body.len());
        assert_eq!(around.whole_body(), copied.body);
        assert_eq!((around.body_bytes(), copied.body_bytes()), (copied.body.len(), copied.body.len()));
        assert_eq!(copied.pieces().collect::<Vec<_>>(), [&copied.body[..]]);
        assert_eq!(around.pieces().count(), 7);
    }
}
