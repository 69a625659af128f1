//! Events as they are written to a stream, for `crate::benching`.

#![allow(clippy::unwrap_used, reason = "whoever measures wants to see it fail")]

use std::hint::black_box;

use serde_json::value::RawValue;

use super::{event_of, push_frame};
use crate::worker::mailbox::Note;

/// A hundred notes of progress.
pub(crate) fn events(times: u32) {
    let params = r#"{"progressToken":17,"progress":5,"total":100,"message":"Loading data..."}"#;
    let note = Note::Progress(RawValue::from_string(params.to_owned()).unwrap());
    let mut batch = Vec::with_capacity(64 * 1024);
    for _ in 0..times {
        batch.clear();
        for _ in 0..100 {
            let (name, data) = event_of(black_box(&note)).unwrap();
            push_frame(&mut batch, name, &data);
        }
        black_box(&batch);
    }
}
