//! The test's own chance: one stream per seed and purpose, apart from the world's.

/// SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Clone)]
pub(crate) struct Chance(u64);

impl Chance {
    /// The stream `name` of a seed.
    pub(crate) fn new(seed: u64, name: u64) -> Chance {
        // Mixed before it is a state: the states of one stream are a sum apart, and so would those of two seeds be.
        Chance(mix(mix(seed) ^ name))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Between `low` and `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True once in `n` times.
    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// Small numbers as likely as large ones: 2 to the power of something between 0 and `bits`.
    pub(crate) fn log_below(&mut self, bits: u64) -> u64 {
        let magnitude = self.below(bits) + 1;
        self.below(1 << magnitude)
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
