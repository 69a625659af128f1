//! Fifty changes of settings and servers while 16 clients call without pause and ten streams run.

use std::time::Instant;

use crate::{numbers::Turn, storm};

const CHANGES: usize = 50;

#[test]
fn fifty_changes_cost_no_call_and_no_stream() {
    let Some(_turn) = Turn::of("fifty_changes_cost_no_call_and_no_stream") else { return };
    let began_at = Instant::now();
    let seen = storm::run(CHANGES);
    let seconds = began_at.elapsed().as_secs();
    println!("{CHANGES} changes in {seconds} s: {} calls and {} streams, none failed", seen.calls, seen.streams);
}
