//! When these tests run, and how much each of them does.
//!
//! | variable                    | default | what it says                                                 |
//! | --------------------------- | ------- | ------------------------------------------------------------ |
//! | `MCPGATE_SLOW_TESTS`        |         | `1` runs them                                                |
//! | `MCPGATE_CHAOS_SECONDS`     | 10      | how long the storm lasts                                     |
//! | `MCPGATE_SOAK_CALLS`        | 20000   | calls of the soak                                            |
//! | `MCPGATE_SOAK_SESSIONS`     | 300     | sessions started and ended                                   |
//! | `MCPGATE_HANDSHAKES`        | 600     | new TLS connections wanted a second                          |
//! | `MCPGATE_HANDSHAKE_SECONDS` | 3       | how long they come                                           |
//! | `MCPGATE_MALFORMED`         | 20000   | malformed requests over sockets                              |
//! | `MCPGATE_SLOW_SECONDS`      | 3       | how long slow clients stay, in each mode                     |
//! | `MCPGATE_SLOW_SEED`         | time    | where random choices start; printed, to do the same again    |

use std::{
    env,
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

/// Held by the test that runs.
pub(crate) struct Turn {
    pub(crate) seed: u64,
    _guard: MutexGuard<'static, ()>,
}

impl Turn {
    /// Waits until no other of these tests runs. `None`, with a sentence, when they were not asked for.
    pub(crate) fn of(test: &str) -> Option<Turn> {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        if env::var("MCPGATE_SLOW_TESTS").as_deref() != Ok("1") {
            println!(
                "skipped: `{test}` takes long; run scripts/soak.sh or scripts/hostile.sh, or set MCPGATE_SLOW_TESTS=1"
            );
            return None;
        }
        // One that failed has dropped what it had started.
        let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seed = number("MCPGATE_SLOW_SEED", now.as_millis() as u64);
        // The test runner has begun a line of its own.
        println!("\n{test} (MCPGATE_SLOW_SEED={seed})");
        Some(Turn { seed, _guard: guard })
    }
}

/// How long the storm lasts.
pub(crate) fn chaos_seconds() -> u64 {
    number("MCPGATE_CHAOS_SECONDS", 10)
}

/// How many calls the soak makes.
pub(crate) fn soak_calls() -> u64 {
    number("MCPGATE_SOAK_CALLS", 20_000)
}

/// How many sessions start and end.
pub(crate) fn soak_sessions() -> u64 {
    number("MCPGATE_SOAK_SESSIONS", 300)
}

/// How many new TLS connections are wanted a second.
pub(crate) fn handshakes_per_second() -> u32 {
    number("MCPGATE_HANDSHAKES", 600).try_into().unwrap_or(u32::MAX).max(1)
}

/// How long new TLS connections come.
pub(crate) fn handshake_seconds() -> u64 {
    number("MCPGATE_HANDSHAKE_SECONDS", 3).max(1)
}

/// How many malformed requests are sent.
pub(crate) fn malformed_requests() -> u64 {
    number("MCPGATE_MALFORMED", 20_000)
}

/// How long slow clients stay.
pub(crate) fn slow_seconds() -> u64 {
    number("MCPGATE_SLOW_SECONDS", 3)
}

fn number(variable: &str, default: u64) -> u64 {
    match env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}: expected a whole number, got `{text}`")),
        Err(_) => default,
    }
}
