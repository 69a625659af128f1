//! What `scripts/instructions.sh` counts: see `src/benching.rs`.

use std::process::ExitCode;

#[cfg(benching)]
fn main() -> ExitCode {
    mcpgate::benching::main()
}

#[cfg(not(benching))]
fn main() -> ExitCode {
    // The benches look at what is private, so they are compiled only for whom they are meant for.
    ExitCode::FAILURE
}
