//! How long things took, counted in the buckets that metrics show.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use hdrhistogram::Histogram;

/// Upper bounds of the buckets, in microseconds: half a millisecond to a minute.
pub const BOUNDS_MICROS: [u64; 16] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 30_000_000, 60_000_000,
];

/// One bucket more, for what took longer than the last bound.
const BUCKETS: usize = BOUNDS_MICROS.len() + 1;

/// How many took how long.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Distribution {
    /// How many there are in each bucket, the one beyond the last bound included; those before it not.
    pub counts: [u64; BUCKETS],
    /// What all of them took together.
    pub sum_seconds: f64,
}

/// A [`Distribution`] that is being counted.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    counts: [AtomicU64; BUCKETS],
    sum_micros: AtomicU64,
}

impl Buckets {
    pub(super) fn note(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.counts[bucket_of(micros)].fetch_add(1, Ordering::Relaxed);
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> Distribution {
        let counts = std::array::from_fn(|index| self.counts[index].load(Ordering::Relaxed));
        Distribution { counts, sum_seconds: seconds(self.sum_micros.load(Ordering::Relaxed)) }
    }
}

impl Distribution {
    /// What a histogram of microseconds holds, whose values are exact to its digits: one that lies on a bound up to that may be
    /// counted below it though it is above. The same value is always counted in the same bucket.
    pub(super) fn of(histogram: &Histogram<u64>, sum_micros: u64) -> Distribution {
        let mut counts = [0; BUCKETS];
        for value in histogram.iter_recorded() {
            let lowest = histogram.lowest_equivalent(value.value_iterated_to());
            counts[bucket_of(lowest)] += value.count_at_value();
        }
        Distribution { counts, sum_seconds: seconds(sum_micros) }
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// The first bucket whose bound is not below.
fn bucket_of(micros: u64) -> usize {
    BOUNDS_MICROS.partition_point(|bound| *bound < micros)
}

#[allow(clippy::cast_precision_loss, reason = "exact up to 285 years")]
fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: [u64; 9] = [0, 499, 500, 501, 2_500, 100_001, 60_000_000, 60_000_001, 7_200_000_000];

    #[test]
    fn a_time_is_counted_at_the_first_bound_that_it_does_not_exceed() {
        let buckets = Buckets::default();
        TIMES.iter().for_each(|micros| buckets.note(Duration::from_micros(*micros)));
        let Distribution { counts, sum_seconds } = buckets.get();
        assert_eq!(counts, [3, 1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert!((sum_seconds - 7_320.104_002).abs() < 1e-9, "{sum_seconds}");
        assert_eq!(buckets.get().total(), 9);
    }

    #[test]
    fn a_histogram_says_the_same_to_within_its_digits() {
        let mut histogram = Histogram::new(2).unwrap();
        for micros in TIMES {
            histogram.record(micros).unwrap();
        }
        let counts = Distribution::of(&histogram, 0).counts;
        // 501 and 100,001 us, and that above a minute, cannot be told from the bound below them.
        assert_eq!(counts, [4, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 1]);
        for _ in 0..1000 {
            histogram.record(3_000).unwrap();
        }
        let more = Distribution::of(&histogram, 0).counts;
        assert!(counts.iter().zip(more).all(|(before, after)| *before <= after), "they only grow");
    }
}
