//! So many a second, and so many at once: one bucket that fills up again by itself.
//!
//! `governor` does the counting (GCRA, one atomic number); this file gives it a clock and says what answers tell of it, in the
//! header fields of draft-ietf-httpapi-ratelimit-headers-11.

use std::{
    fmt::Write as _,
    num::NonZeroU32,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, Reference},
    middleware::StateInformationMiddleware,
    state::{InMemoryState, NotKeyed},
};

/// Most a second that can be counted.
pub const RATE_MAX: f64 = 1_000_000.0;

/// Least a second: one in a day.
pub const RATE_MIN: f64 = 1.0 / 86_400.0;

/// How much there may be of something.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// From [`RATE_MIN`] to [`RATE_MAX`].
    pub per_second: f64,
    /// How much at once.
    pub burst: NonZeroU32,
}

/// How a limit stands, as clients are told it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// How much there may be at once.
    pub limit: u32,
    /// How much of that is left.
    pub remaining: u32,
    /// How long all of it takes to come back.
    pub window: Duration,
    /// When there will be more than is left.
    pub next: Duration,
}

/// See the module.
#[derive(Debug)]
pub struct Limiter<C: Clock<Instant = Duration> = SystemClock> {
    rate: Rate,
    /// How long one takes to come back.
    period: Duration,
    clock: C,
    bucket: RateLimiter<NotKeyed, InMemoryState, C, StateInformationMiddleware>,
    /// When the bucket will be full, in nanoseconds of the clock: governor says how it stands only to who takes.
    full_at: AtomicU64,
}

/// The time since the first question.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        static BEGAN_AT: LazyLock<Instant> = LazyLock::new(Instant::now);
        BEGAN_AT.elapsed()
    }
}

impl Rate {
    /// As many at once as in a second, unless `burst` says otherwise. `None` when `per_second` is out of range.
    pub fn new(per_second: f64, burst: Option<NonZeroU32>) -> Option<Rate> {
        if !(RATE_MIN..=RATE_MAX).contains(&per_second) {
            return None;
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is in range")]
        let as_many = NonZeroU32::new(per_second.ceil() as u32).unwrap_or(NonZeroU32::MIN);
        Some(Rate { per_second, burst: burst.unwrap_or(as_many) })
    }

    fn period(self) -> Duration {
        Duration::from_secs_f64(1.0 / self.per_second).max(Duration::from_nanos(1))
    }

    fn quota(self) -> Quota {
        // `None` is for a period of zero.
        Quota::with_period(self.period()).unwrap_or_else(|| Quota::per_second(self.burst)).allow_burst(self.burst)
    }
}

impl Limiter {
    /// Nothing taken yet.
    pub fn new(rate: Rate) -> Limiter {
        Limiter::with_clock(rate, SystemClock)
    }
}

impl<C: Clock<Instant = Duration> + Clone> Limiter<C> {
    /// Nothing taken yet, by this clock.
    pub fn with_clock(rate: Rate, clock: C) -> Limiter<C> {
        let bucket = RateLimiter::direct_with_clock(rate.quota(), clock.clone()).with_middleware();
        Limiter { rate, period: rate.period(), clock, bucket, full_at: AtomicU64::new(0) }
    }

    /// The rate it keeps.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// Takes one. Fails, when nothing is left, with the time after which there will be one again.
    pub fn take(&self) -> Result<(), Duration> {
        match self.bucket.check() {
            Ok(state) => {
                let missing = self.rate.burst.get().saturating_sub(state.remaining_burst_capacity());
                let full_at = self.clock.now().saturating_add(self.period.saturating_mul(missing));
                // Whoever took last is not always who gets here last.
                self.full_at.fetch_max(nanoseconds(full_at), Ordering::Relaxed);
                Ok(())
            }
            Err(not_until) => Err(not_until.wait_time_from(self.clock.now())),
        }
    }

    /// How the limit stands now.
    pub fn standing(&self) -> Standing {
        let limit = self.rate.burst.get();
        let period = nanoseconds(self.period);
        let missing = self.full_at.load(Ordering::Relaxed).saturating_sub(nanoseconds(self.clock.now()));
        let n_missing = missing.div_ceil(period);
        let next = missing.saturating_sub(n_missing.saturating_sub(1).saturating_mul(period));
        Standing {
            limit,
            remaining: limit.saturating_sub(u32::try_from(n_missing).unwrap_or(u32::MAX)),
            window: self.period.saturating_mul(limit),
            next: Duration::from_nanos(next),
        }
    }
}

/// The header fields that tell how limits stand, each under the name of its policy. Nothing without limits.
pub fn fields(standings: &[(&str, Standing)]) -> Option<[(&'static str, String); 2]> {
    let (mut policies, mut limits) = (String::new(), String::new());
    for (name, standing) in standings {
        let comma = if policies.is_empty() { "" } else { ", " };
        let Standing { limit, remaining, window, next } = standing;
        // Neither window may be 0. Writing to a `String` does not fail.
        let _ = write!(policies, "{comma}\"{name}\";q={limit};w={}", seconds(*window).max(1));
        let _ = write!(limits, "{comma}\"{name}\";r={remaining};t={}", seconds(*next).max(1));
    }
    (!standings.is_empty()).then_some([("RateLimit-Policy", policies), ("RateLimit", limits)])
}

/// Whole seconds, rounded up.
pub fn seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(0 < time.subsec_nanos()))
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What governor asks of a clock's instants.
const _: fn() = || {
    fn is_reference<R: Reference>() {}
    is_reference::<Duration>();
};

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use super::*;

    #[derive(Debug, Clone, Default)]
    struct TestClock(Rc<Cell<Duration>>);

    impl Clock for TestClock {
        type Instant = Duration;

        fn now(&self) -> Duration {
            self.0.get()
        }
    }

    impl TestClock {
        fn pass(&self, seconds: f64) {
            self.0.set(self.0.get() + Duration::from_secs_f64(seconds));
        }
    }

    fn limiter(per_second: f64, burst: Option<u32>) -> (Limiter<TestClock>, TestClock) {
        let clock = TestClock::default();
        clock.pass(100.0);
        let rate = Rate::new(per_second, burst.and_then(NonZeroU32::new)).unwrap();
        (Limiter::with_clock(rate, clock.clone()), clock)
    }

    fn n_taken(limiter: &Limiter<TestClock>, tries: usize) -> usize {
        (0..tries).filter(|_| limiter.take().is_ok()).count()
    }

    #[test]
    fn so_many_at_once_and_then_so_many_a_second() {
        let (limiter, clock) = limiter(2.0, Some(5));
        assert_eq!(n_taken(&limiter, 20), 5);
        clock.pass(1.0);
        assert_eq!(n_taken(&limiter, 20), 2);
        clock.pass(1000.0);
        assert_eq!(n_taken(&limiter, 20), 5, "it does not fill beyond its size");
    }

    #[test]
    fn without_a_burst_as_many_at_once_as_a_second_has() {
        assert_eq!(n_taken(&limiter(3.0, None).0, 10), 3);
        assert_eq!(n_taken(&limiter(2.5, None).0, 10), 3);
        assert_eq!(n_taken(&limiter(0.1, None).0, 10), 1);
    }

    #[test]
    fn it_tells_what_is_left_and_when_to_come_back() {
        let (limiter, clock) = limiter(0.5, Some(2));
        let check = |remaining, next| {
            let (window, next) = (Duration::from_secs(4), Duration::from_millis(next));
            assert_eq!(limiter.standing(), Standing { limit: 2, remaining, window, next });
        };
        check(2, 0);
        assert_eq!(limiter.take(), Ok(()));
        check(1, 2000);
        assert_eq!(limiter.take(), Ok(()));
        check(0, 2000);
        assert_eq!(limiter.take(), Err(Duration::from_secs(2)));
        check(0, 2000);
        clock.pass(1.5);
        assert_eq!(limiter.take(), Err(Duration::from_millis(500)));
        check(0, 500);
        clock.pass(0.5);
        check(1, 2000);
        assert_eq!(limiter.take(), Ok(()));
        clock.pass(100.0);
        check(2, 0);
    }

    #[test]
    fn limits_are_told_in_structured_fields() {
        let standing = |limit, remaining, window, next| {
            let time = Duration::from_millis;
            Standing { limit, remaining, window: time(window), next: time(next) }
        };
        assert_eq!(fields(&[]), None);
        let [policy, limit] =
            fields(&[("key", standing(5, 4, 1000, 200)), ("address", standing(3, 0, 1200, 0))]).unwrap();
        assert_eq!(policy, ("RateLimit-Policy", r#""key";q=5;w=1, "address";q=3;w=2"#.to_owned()));
        assert_eq!(limit, ("RateLimit", r#""key";r=4;t=1, "address";r=0;t=1"#.to_owned()));
    }

    #[test]
    fn rates_have_a_range() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-9, 1e9] {
            assert_eq!(Rate::new(rate, None), None, "{rate}");
        }
        for rate in [RATE_MIN, 0.5, 1.0, RATE_MAX] {
            assert!(Rate::new(rate, None).is_some(), "{rate}");
        }
        let (limiter, clock) = limiter(RATE_MAX, None);
        assert_eq!(n_taken(&limiter, 10), 10);
        clock.pass(0.001);
        assert!(limiter.take().is_ok());
    }

    #[test]
    fn seconds_are_rounded_up() {
        assert_eq!([0, 1, 1000, 1001].map(|ms| seconds(Duration::from_millis(ms))), [0, 1, 1, 2]);
    }
}
