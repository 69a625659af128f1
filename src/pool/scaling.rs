//! How many workers a pool should have: pure figures in, a number and its reason out.
//!
//! It grows by what is asked of it now, and shrinks by the most that was asked of it in the last `SCALE_DOWN_AFTER`: a
//! worker that would have been idle for so long, had the calls been packed, is one too many. (Calls are not packed but spread, so under
//! a light load no worker is ever idle for long.) That is also why it does not flap: a load that comes back within that
//! time finds its workers still there.

use std::time::{Duration, Instant};

/// How finely `SCALE_DOWN_AFTER` is looked at: a peak is forgotten at most one part of it too late.
const PARTS: usize = 8;

/// What a pool is asked for, and what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Load {
    /// `MIN_WORKERS`.
    pub(super) min: usize,
    /// `MAX_WORKERS`.
    pub(super) max: usize,
    /// Workers it is to have as things stand.
    pub(super) target: usize,
    /// Those that take calls.
    pub(super) ready: usize,
    /// Calls at workers.
    pub(super) in_flight: usize,
    /// Calls that wait.
    pub(super) queued: usize,
    /// Since when every ready worker has had a call; none while one is idle.
    pub(super) busy_for: Option<Duration>,
    /// The most calls, at workers and waiting, that there were at a time in the last `SCALE_DOWN_AFTER`.
    pub(super) peak: usize,
}

/// The number of workers that a pool should have now, and why, when that is more than it has.
///
/// Towards one worker for each call at a worker or waiting, but at most twice those that are ready, so that each step
/// shows what the next needs.
pub(super) fn grown(load: &Load, up_after: Duration) -> Option<(usize, String)> {
    let Load { max, target, ready, in_flight, queued, busy_for, .. } = *load;
    let is_busy = busy_for.is_some_and(|busy_for| up_after <= busy_for);
    let wanted = (in_flight + queued).min(ready * 2).min(max);
    if wanted <= target || (queued == 0 && !is_busy) {
        return None;
    }
    let reason = match (queued, busy_for) {
        (0, busy_for) => format!("all {ready} were busy for {} ms", busy_for.unwrap_or_default().as_millis()),
        (1, _) => "a call waits".to_owned(),
        _ => format!("{queued} calls wait"),
    };
    Some((wanted, reason))
}

/// The number of workers that a pool should have now, and why, when that is less than it has.
pub(super) fn shrunk(load: &Load, down_after: Duration) -> Option<(usize, String)> {
    let wanted = load.peak.clamp(load.min, load.max);
    let seconds = down_after.as_secs_f64();
    (wanted < load.target).then(|| (wanted, format!("at most {} calls at a time in {seconds} s", load.peak)))
}

/// The most calls that there were at a time in the last `SCALE_DOWN_AFTER`.
#[derive(Debug)]
pub(super) struct Peak {
    part: Duration,
    /// The peak of each part of the time, the current one first.
    parts: [usize; PARTS + 1],
    part_ends_at: Instant,
}

impl Peak {
    pub(super) fn new(down_after: Duration, now: Instant) -> Peak {
        let part = down_after / u32::try_from(PARTS).unwrap_or(1);
        Peak { part, parts: [0; PARTS + 1], part_ends_at: now + part }
    }

    /// Keeps peaks for another time from now on.
    pub(super) fn adapt(&mut self, down_after: Duration, now: Instant) {
        self.part = down_after / u32::try_from(PARTS).unwrap_or(1);
        self.part_ends_at = self.part_ends_at.min(now + self.part);
    }

    /// Notes how many calls there are.
    pub(super) fn note(&mut self, n_calls: usize) {
        self.parts[0] = self.parts[0].max(n_calls);
    }

    /// Forgets what is too old, `n_calls` being there now. Returns the peak of what is left.
    pub(super) fn look(&mut self, n_calls: usize, now: Instant) -> usize {
        self.note(n_calls);
        // All of it is too old: so many steps at most.
        for _ in 0..=PARTS {
            if now < self.part_ends_at {
                break;
            }
            self.parts.rotate_right(1);
            self.parts[0] = n_calls;
            self.part_ends_at += self.part;
        }
        if self.part_ends_at <= now {
            self.part_ends_at = now + self.part;
        }
        self.parts.into_iter().max().unwrap_or_default()
    }

    /// When a look can tell something new.
    pub(super) fn next_look_at(&self) -> Instant {
        self.part_ends_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP_AFTER: Duration = Duration::from_millis(50);
    const DOWN_AFTER: Duration = Duration::from_secs(60);

    fn load(target: usize, ready: usize, in_flight: usize, queued: usize, busy_ms: Option<u64>) -> Load {
        let busy_for = busy_ms.map(Duration::from_millis);
        Load { min: 2, max: 8, target, ready, in_flight, queued, busy_for, peak: 0 }
    }

    #[test]
    fn a_pool_grows_by_what_waits_and_by_how_long_all_were_busy() {
        // target, ready, in flight, queued, busy for ms; grown to.
        let cases = [
            // Nothing to do.
            (2, 2, 0, 0, None, None),
            (2, 2, 1, 0, None, None),
            (2, 2, 2, 0, Some(49), None),
            // All busy, but no call that another worker would take.
            (2, 2, 2, 0, Some(1000), None),
            // All busy for long enough, with more calls than workers.
            (2, 2, 3, 0, Some(50), Some(3)),
            (2, 2, 64, 0, Some(50), Some(4)),
            // Somebody waits: at once.
            (2, 2, 2, 1, Some(0), Some(3)),
            (2, 2, 2, 62, Some(0), Some(4)),
            // One step at a time: the next one when the last is ready.
            (4, 2, 2, 62, Some(0), None),
            (4, 3, 3, 61, Some(0), Some(6)),
            (4, 4, 4, 60, Some(0), Some(8)),
            (8, 8, 8, 56, Some(0), None),
            (5, 5, 5, 1, Some(0), Some(6)),
            // None is ready: those that start are waited for.
            (2, 0, 0, 9, None, None),
        ];
        for (target, ready, in_flight, queued, busy_ms, expected) in cases {
            let load = load(target, ready, in_flight, queued, busy_ms);
            assert_eq!(grown(&load, UP_AFTER).map(|(wanted, _)| wanted), expected, "{load:?}");
        }
    }

    #[test]
    fn a_pool_shrinks_to_the_peak_of_the_last_while() {
        for (peak, target, expected) in
            [(0, 8, Some(2)), (1, 3, Some(2)), (5, 8, Some(5)), (8, 8, None), (20, 8, None), (0, 2, None)]
        {
            let load = Load { peak, ..load(target, target, 0, 0, None) };
            assert_eq!(shrunk(&load, DOWN_AFTER).map(|(wanted, _)| wanted), expected, "{load:?}");
        }
    }

    #[test]
    fn reasons_name_the_number_that_mattered() {
        let reason = |load: Load| grown(&load, UP_AFTER).map(|(_, reason)| reason);
        assert_eq!(reason(load(2, 2, 2, 62, Some(0))).as_deref(), Some("62 calls wait"));
        assert_eq!(reason(load(2, 2, 2, 1, Some(0))).as_deref(), Some("a call waits"));
        assert_eq!(reason(load(2, 2, 9, 0, Some(80))).as_deref(), Some("all 2 were busy for 80 ms"));
        let shrunk = shrunk(&Load { peak: 3, ..load(8, 8, 0, 0, None) }, DOWN_AFTER).map(|(_, reason)| reason);
        assert_eq!(shrunk.as_deref(), Some("at most 3 calls at a time in 60 s"));
    }

    #[test]
    fn a_peak_is_remembered_for_the_whole_time_and_not_much_longer() {
        let start = Instant::now();
        let mut peak = Peak::new(DOWN_AFTER, start);
        peak.note(8);
        for second in 1..=60 {
            assert_eq!(peak.look(1, start + Duration::from_secs(second)), 8, "{second}");
        }
        assert_eq!(peak.look(1, start + Duration::from_secs(68)), 1);
        assert_eq!(peak.look(0, start + Duration::from_secs(100)), 1, "one call was there all the time");
        assert_eq!(peak.look(0, start + Duration::from_secs(100_000)), 0);
        assert!(start + Duration::from_secs(100_000) < peak.next_look_at());
    }
}
