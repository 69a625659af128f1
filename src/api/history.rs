//! The last minutes: how many calls ended when, how long they took, and the last of them one by one.
//!
//! For people who look at the dashboard. Exact totals are `/stats`' business. Counting is atomic and takes no lock; of the
//! calls of a busy moment only some are kept one by one, so that their list costs a busy gateway next to nothing.
//!
//! **Limit.** [`POINTS`] times [`INTERVAL`], [`CALLS_KEPT`] calls; of each tenth of a second at most [`KEPT_PER_SLOT`] that
//! succeeded and as many that failed. A call that ends at the very beginning of an interval may be missed in it.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;

use crate::logs::milliseconds;

/// How long a point is.
const INTERVAL: Duration = Duration::from_secs(5);

/// How many points are kept, the one that is not over included.
const POINTS: usize = 60;

/// How many calls are kept one by one.
const CALLS_KEPT: usize = 200;

/// See the module.
const KEPT_PER_SLOT: u64 = 10;

/// How long one slot is.
const SLOT: Duration = Duration::from_millis(100);

/// Each doubling of a latency is told in so many steps.
const STEPS_PER_DOUBLING: u32 = 4;

/// Latencies are counted in microseconds up to two to this power, which is 19 hours.
const DOUBLINGS: u32 = 36;

const STEPS: usize = (DOUBLINGS * STEPS_PER_DOUBLING) as usize;

/// See the module.
#[derive(Debug)]
pub(super) struct History {
    started_at: Instant,
    /// Each is there from its first call on.
    points: Box<[OnceLock<Box<Point>>]>,
    calls: Mutex<Calls>,
    succeeded: Slot,
    failed: Slot,
}

/// How a call came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// `POST /tools/{name}`.
    Http,
    /// `/tools/{name}/stream`.
    Sse,
    /// `/ws`.
    WebSocket,
    /// `/mcp`, and `/sse` of old clients.
    Mcp,
}

impl Way {
    /// The word for it in logs, as in `/stats/history`.
    pub(super) fn word(self) -> &'static str {
        match self {
            Way::Http => "http",
            Way::Sse => "sse",
            Way::WebSocket => "websocket",
            Way::Mcp => "mcp",
        }
    }
}

/// What else is told of a call that has ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Details {
    /// The tool's public name.
    pub(super) tool: String,
    pub(super) way: Way,
    /// Name of the key.
    pub(super) key: String,
    /// The worker that answered it.
    pub(super) worker: Option<String>,
    /// Id of the request that brought it; on `/mcp` the one that its client gave the call.
    pub(super) request_id: String,
}

/// What has ended in one interval.
#[derive(Debug)]
struct Point {
    /// Which interval since the start this is of.
    interval: AtomicU64,
    calls: AtomicU32,
    errors: AtomicU32,
    /// How many took how long, by [`step_of`].
    latencies: [AtomicU32; STEPS],
}

/// How many calls of one slot were kept.
#[derive(Debug, Default)]
struct Slot {
    /// Number of the slot, shifted by 8, and how many.
    packed: AtomicU64,
}

#[derive(Debug, Default)]
struct Calls {
    kept: VecDeque<Kept>,
    n_kept: u64,
}

/// A call as `/stats/history` shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Kept {
    number: u64,
    time: String,
    #[serde(flatten)]
    details: Details,
    /// `ok`, or why there is no result.
    outcome: &'static str,
    duration_ms: f64,
}

/// All of it, as `/stats/history` shows it.
#[derive(Debug, Serialize)]
pub(super) struct Snapshot {
    interval_seconds: u64,
    /// Oldest first; the last one is not over.
    points: Vec<PointSnapshot>,
    /// Newest first.
    calls: Vec<Kept>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct PointSnapshot {
    /// How much of it is over.
    seconds: f64,
    calls: u32,
    errors: u32,
    p50_ms: Option<f64>,
    p90_ms: Option<f64>,
    p99_ms: Option<f64>,
}

impl History {
    /// An empty one, which begins now.
    pub(super) fn new() -> History {
        let points = (0..POINTS).map(|_| OnceLock::new()).collect();
        let (calls, succeeded, failed) = Default::default();
        History { started_at: Instant::now(), points, calls, succeeded, failed }
    }

    /// Notes a call that took `duration` from its arrival to its end; `error_code` says why there is no result: it is
    /// [`Error::code`](crate::error::Error::code), or `cancelled`. Its details are asked for if it is kept.
    pub(super) fn note(&self, duration: Duration, error_code: Option<&'static str>, details: impl FnOnce() -> Details) {
        self.note_at(self.started_at.elapsed(), duration, error_code, details);
    }

    /// `now` is the time since the start.
    fn note_at(
        &self,
        now: Duration,
        duration: Duration,
        error_code: Option<&'static str>,
        details: impl FnOnce() -> Details,
    ) {
        let is_error = error_code.is_some();
        self.point(interval_of(now)).count(duration, is_error);
        let slot = if is_error { &self.failed } else { &self.succeeded };
        if slot.has_room(now) {
            let kept = Kept::new(duration, error_code, details());
            self.calls.lock().unwrap_or_else(PoisonError::into_inner).keep(kept);
        }
    }

    /// The point of an interval, made ready for it if it was another's.
    fn point(&self, interval: u64) -> &Point {
        let point = self.points[index_of(interval)].get_or_init(|| Box::new(Point::new()));
        let before = point.interval.load(Ordering::Acquire);
        let is_first = before != interval
            && point.interval.compare_exchange(before, interval, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if is_first {
            point.clear();
        }
        point
    }

    /// All of it.
    pub(super) fn snapshot(&self) -> Snapshot {
        self.snapshot_at(self.started_at.elapsed())
    }

    fn snapshot_at(&self, now: Duration) -> Snapshot {
        let current = interval_of(now);
        let is_over = |interval| interval < current;
        let whole = INTERVAL.as_secs_f64();
        let points = (0..POINTS).rev().map(|age| {
            // The first interval has the number `POINTS`, so that there are always enough before it.
            let interval = current - u64::try_from(age).unwrap_or_default();
            let point = self.points[index_of(interval)].get();
            let seconds = if is_over(interval) { whole } else { now.as_secs_f64() % whole };
            let own = point.filter(|point| point.interval.load(Ordering::Acquire) == interval);
            own.map_or_else(|| PointSnapshot::empty(seconds), |point| point.snapshot(seconds))
        });
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        Snapshot {
            interval_seconds: INTERVAL.as_secs(),
            points: points.collect(),
            calls: calls.kept.iter().rev().cloned().collect(),
        }
    }
}

fn interval_of(now: Duration) -> u64 {
    now.as_secs() / INTERVAL.as_secs() + POINTS as u64
}

fn index_of(interval: u64) -> usize {
    usize::try_from(interval % POINTS as u64).unwrap_or_default()
}

impl Point {
    fn new() -> Point {
        let zero = |_| AtomicU32::new(0);
        Point {
            interval: AtomicU64::new(0),
            calls: AtomicU32::new(0),
            errors: AtomicU32::new(0),
            latencies: std::array::from_fn(zero),
        }
    }

    fn clear(&self) {
        let counters = [&self.calls, &self.errors].into_iter().chain(&self.latencies);
        counters.for_each(|counter| counter.store(0, Ordering::Relaxed));
    }

    fn count(&self, duration: Duration, is_error: bool) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.errors.fetch_add(u32::from(is_error), Ordering::Relaxed);
        self.latencies[step_of(duration)].fetch_add(1, Ordering::Relaxed);
    }

    fn snapshot(&self, seconds: f64) -> PointSnapshot {
        let counts: Vec<u32> = self.latencies.iter().map(|it| it.load(Ordering::Relaxed)).collect();
        let percentile = |hundredths| percentile_ms(&counts, hundredths);
        PointSnapshot {
            seconds,
            calls: self.calls.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
            p50_ms: percentile(50),
            p90_ms: percentile(90),
            p99_ms: percentile(99),
        }
    }
}

impl PointSnapshot {
    fn empty(seconds: f64) -> PointSnapshot {
        PointSnapshot { seconds, calls: 0, errors: 0, p50_ms: None, p90_ms: None, p99_ms: None }
    }
}

/// The step of a latency: its doublings, then the quarter of the way to the next one.
fn step_of(duration: Duration) -> usize {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).max(1);
    let doublings = micros.ilog2();
    // Below 4 us there are no quarters.
    let quarter = if doublings < 2 { 0 } else { u32::try_from((micros >> (doublings - 2)) & 3).unwrap_or_default() };
    usize::try_from(doublings * STEPS_PER_DOUBLING + quarter).unwrap_or(usize::MAX).min(STEPS - 1)
}

/// The middle of what a step stands for, in milliseconds.
fn step_ms(step: usize) -> f64 {
    let step = u32::try_from(step).unwrap_or_default();
    let quarters = 4.0 + f64::from(step % STEPS_PER_DOUBLING) + 0.5;
    2f64.powi(i32::try_from(step / STEPS_PER_DOUBLING).unwrap_or_default()) * quarters / 4.0 / 1000.0
}

/// What so many in a hundred took at most; `None` when there are none at all.
fn percentile_ms(counts: &[u32], hundredths: u64) -> Option<f64> {
    let total: u64 = counts.iter().map(|count| u64::from(*count)).sum();
    let wanted = (total * hundredths).div_ceil(100);
    let mut n_seen = 0;
    let step = counts.iter().position(|count| {
        n_seen += u64::from(*count);
        0 < n_seen && wanted <= n_seen
    });
    step.map(step_ms)
}

impl Slot {
    /// Whether one more call of this moment is kept. Two calls at once may both find the last place.
    fn has_room(&self, now: Duration) -> bool {
        let number = u64::try_from(now.as_millis() / SLOT.as_millis()).unwrap_or_default() << 8;
        let packed = self.packed.load(Ordering::Relaxed);
        let n_kept = if packed & !0xff == number { packed & 0xff } else { 0 };
        if KEPT_PER_SLOT <= n_kept {
            return false;
        }
        self.packed.store(number | (n_kept + 1), Ordering::Relaxed);
        true
    }
}

impl Calls {
    fn keep(&mut self, mut call: Kept) {
        self.n_kept += 1;
        call.number = self.n_kept;
        if self.kept.len() == CALLS_KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(call);
    }
}

impl Kept {
    fn new(duration: Duration, error_code: Option<&'static str>, details: Details) -> Kept {
        let duration_ms = milliseconds(duration);
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        Kept { number: 0, time, details, outcome: error_code.unwrap_or("ok"), duration_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn details() -> Details {
        let (tool, key, request_id) = ("echo".to_owned(), "api_key".to_owned(), "id-1".to_owned());
        Details { tool, way: Way::Http, key, worker: None, request_id }
    }

    #[test]
    fn a_latency_is_told_within_an_eighth() {
        for micros in [4_u64, 5, 7, 100, 999, 12_345, 1_000_000, 59_000_000, 3_600_000_000] {
            #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
            let ms = micros as f64 / 1000.0;
            let told = step_ms(step_of(Duration::from_micros(micros)));
            assert!((told / ms - 1.0).abs() <= 0.125, "{micros} us told as {told} ms");
        }
        assert_eq!(step_of(Duration::ZERO), 0);
        assert_eq!(step_of(Duration::MAX), STEPS - 1);
    }

    #[test]
    fn points_hold_what_ended_in_their_interval_and_are_used_again() {
        let history = History::new();
        let seconds = Duration::from_secs;
        history.note_at(seconds(1), Duration::from_millis(2), None, details);
        history.note_at(seconds(4), Duration::from_millis(200), Some("timeout"), details);
        history.note_at(seconds(7), Duration::from_millis(2), None, details);
        let points = history.snapshot_at(seconds(7)).points;
        assert_eq!(points.len(), POINTS);
        let [before, now] = &points[POINTS - 2..] else { panic!("too few points") };
        assert_eq!((before.calls, before.errors, before.seconds), (2, 1, 5.0));
        assert_eq!((now.calls, now.errors, now.seconds), (1, 0, 2.0));
        assert!(before.p50_ms < Some(3.0) && Some(150.0) < before.p99_ms, "{before:?}");
        assert!(points[..POINTS - 2].iter().all(|point| *point == PointSnapshot::empty(5.0)));

        let later = seconds(5 * POINTS as u64 + 1);
        assert_eq!(history.snapshot_at(later).points[0].calls, 1, "the interval from 5 to 10 s is the oldest now");
        history.note_at(later, Duration::from_millis(2), None, details);
        let points = history.snapshot_at(later).points;
        assert_eq!(
            (points[POINTS - 1].calls, points[POINTS - 1].errors),
            (1, 0),
            "nothing is left of the first interval"
        );
    }

    #[test]
    fn the_last_calls_are_kept_and_of_a_busy_moment_some() {
        let history = History::new();
        for _ in 0..1000 {
            history.note_at(Duration::from_millis(50), Duration::from_millis(1), None, details);
            history.note_at(Duration::from_millis(50), Duration::from_millis(1), Some("timeout"), details);
        }
        let outcomes: Vec<_> = history.snapshot_at(Duration::from_secs(1)).calls.iter().map(|it| it.outcome).collect();
        assert_eq!(outcomes.iter().filter(|it| **it == "ok").count(), 10);
        assert_eq!(outcomes.iter().filter(|it| **it == "timeout").count(), 10);

        for slot in 1..1000 {
            history.note_at(Duration::from_millis(slot * 100), Duration::from_millis(1), None, details);
        }
        let calls = history.snapshot_at(Duration::from_secs(200)).calls;
        assert_eq!((calls.len(), calls[0].number, calls[199].number), (CALLS_KEPT, 1019, 820), "newest first");
    }
}
