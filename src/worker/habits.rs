//! What calls of one tool have shown of it, by which its next calls are placed.
//!
//! **Limit.** A few numbers for each tool. **End.** That of the last catalog with such a tool.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

/// Answered calls of a tool in which its server has said nothing, after which it is taken to be silent in all of them.
const SILENT_CALLS: u32 = 32;

/// See the module.
#[derive(Debug, Default)]
pub struct Habits {
    /// How long they take.
    pub usual: UsualTime,
    /// Whether servers say something in them.
    pub silence: Silence,
}

/// How long calls of one tool take that have their worker to themselves, when nothing holds them up: follows quick ones at
/// once and slow ones only when there are many.
#[derive(Debug, Default)]
pub struct UsualTime(AtomicU64);

impl UsualTime {
    /// Notes a call that was answered after `time`.
    pub fn note(&self, time: Duration) {
        let sample = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1);
        let before = self.0.load(Ordering::Relaxed);
        // Of two that are noted at the same moment one is lost, which does no harm.
        let after = match before {
            0 => sample,
            before if sample < before => before - (before - sample) / 2,
            before => before + (sample - before) / 16,
        };
        self.0.store(after, Ordering::Relaxed);
    }

    /// That time, once there is one.
    pub fn get(&self) -> Option<Duration> {
        let nanos = self.0.load(Ordering::Relaxed);
        (0 < nanos).then(|| Duration::from_nanos(nanos))
    }
}

/// Whether servers ask and log while calls of one tool run, which does not say which call it belongs to. Once broken, it is so for good.
#[derive(Debug, Default)]
pub struct Silence(AtomicU32);

/// Stands for a silence that was broken, among numbers of calls.
const BROKEN: u32 = u32::MAX;

impl Silence {
    /// Notes a call that was answered.
    pub fn kept(&self) {
        let n_calls = self.0.load(Ordering::Relaxed);
        if n_calls < SILENT_CALLS {
            // Of two at the same moment one is not counted, which does no harm.
            let _ = self.0.compare_exchange(n_calls, n_calls + 1, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Notes that a server has said something, maybe in such a call.
    pub fn broken(&self) {
        self.0.store(BROKEN, Ordering::Relaxed);
    }

    /// Whether nothing is expected to be said: never was anything, in [`SILENT_CALLS`] calls.
    pub fn is_known(&self) -> bool {
        self.0.load(Ordering::Relaxed) == SILENT_CALLS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_is_known_after_so_many_calls_and_broken_for_good() {
        let silence = Silence::default();
        for _ in 0..SILENT_CALLS {
            assert!(!silence.is_known());
            silence.kept();
        }
        silence.kept();
        assert!(silence.is_known());
        silence.broken();
        (0..SILENT_CALLS).for_each(|_| silence.kept());
        assert!(!silence.is_known());
    }
}
