//! Streams that were told a few events, for `crate::fuzzing`.

#![allow(clippy::unwrap_used, reason = "what does not hold is to be a panic")]

use std::sync::Arc;

use super::streams::{News, Replays, Streams};
use crate::worker::mailbox::Mailbox;

/// Only the id of an event that was told is taken, in just the form in which it was told, and what comes behind is what came
/// behind.
pub(crate) fn event_id(text: &str) {
    let streams = Streams::new(1024 * 1024, Arc::new(Replays::default()));
    let mailbox = Arc::new(Mailbox::default());
    let mut first = streams.open(&mailbox);
    for event in ["a", "b", "c"] {
        streams.push(first.stream, event.to_owned());
    }
    let News::Open(told) = streams.news(&mut first) else { panic!("somebody else tells the stream") };
    let told = String::from_utf8(told).unwrap();
    let Ok(mut reader) = streams.resume(text, &mailbox) else { return };
    let (stream, number) = text.split_once('-').unwrap();
    let is_as_told = [stream, number].iter().all(|it| *it == "0" || !it.starts_with(['0', '+']));
    assert!(is_as_told && reader.stream.to_string() == stream, "{text}");
    let News::Open(rest) = streams.news(&mut reader) else { panic!("somebody else tells the stream") };
    let rest = String::from_utf8(rest).unwrap();
    let has_rest = if stream == "0" { rest.is_empty() } else { told.ends_with(&rest) };
    assert!(has_rest && !rest.contains(&format!("id: {text}\n")), "{text}: {rest}");
}
