//! The head of an answer, for `crate::benching`.

#![allow(clippy::unwrap_used, reason = "whoever measures wants to see it fail")]

use std::hint::black_box;

use tiny_http::HTTPVersion;

use super::response;
use crate::api::Answer;

/// What stands before an answer.
pub(crate) fn answer_head(times: u32) {
    let answer = Answer::json(&"an answer");
    for _ in 0..times {
        black_box(response::head(black_box(&answer), "0b9a4d2e-6c1f-1", &HTTPVersion(1, 1), true).unwrap());
    }
}
