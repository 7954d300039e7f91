//! Seeded chance: one small generator per subsystem, so that a draw more in one does not shift the others.

/// SplitMix64 (Steele, Lea and Flood, 2014): one word of state, full period.
pub(super) struct Random(u64);

impl Random {
    /// The stream `name` (any constant) of a seed.
    pub(super) fn stream(seed: u64, name: u64) -> Random {
        let mut random = Random(seed ^ name.wrapping_mul(0xd1b5_4a32_d192_ed03));
        random.next();
        random.0 ^= name.rotate_left(32);
        random
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is not zero.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// Between `low` and `high`, both included.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True with probability `p`. Draws nothing for a class that is off.
    pub(super) fn chance(&mut self, p: f64) -> bool {
        p > 0.0 && ((self.next() >> 11) as f64) < p * (1u64 << 53) as f64
    }

    pub(super) fn coin(&mut self) -> bool {
        self.next() >> 63 == 1
    }
}
