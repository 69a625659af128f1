//! Choices that can be made again: a small generator with a seed.

/// Xorshift with a multiplication (`xorshift64*`); good enough to choose among things.
pub(crate) struct Random(u64);

impl Random {
    /// The `stream`-th of the generators that belong to `seed`.
    pub(crate) fn new(seed: u64, stream: u64) -> Random {
        let mixed = (seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        // Zero would stay zero for ever.
        let mut random = Random(mixed | 1);
        for _ in 0..4 {
            random.next();
        }
        random
    }

    /// One of `0..bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 16) % bound
    }

    /// One of them.
    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}
