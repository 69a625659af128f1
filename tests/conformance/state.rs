//! The state that a question hands to the client, which brings it back with its answers: where a tool was, signed.
//!
//! The client sees it and may change it; then it is refused. It is good for one tool only, and for ever: to let it
//! expire would need a clock that all processes share, and is left out of a fixture.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::request::Failure;

/// The same in every process, because a gateway may bring the answers to another one than asked.
const KEY: &[u8] = b"a fixture has no secrets";

/// `name` of the tool or prompt, and the `round` it has asked in.
pub(crate) fn sign(name: &str, round: u32) -> String {
    let mut keyed: Hmac<Sha256> = Hmac::new_from_slice(KEY).expect("HMAC takes keys of any length");
    keyed.update(format!("{name}\0{round}").as_bytes());
    let hex: String = keyed.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{round}.{hex}")
}

/// The round in which this tool has given out this state.
pub(crate) fn verify(name: &str, state: &str) -> Result<u32, Failure> {
    let round = state.split_once('.').and_then(|(round, _)| round.parse().ok());
    // Compared as a whole, so that no other spelling of the same state passes. How long that takes may be seen: the key
    // is no secret.
    let round = round.filter(|round| sign(name, *round) == state);
    round.ok_or_else(|| Failure::invalid_params("`requestState` was not given out for this"))
}
