//! When requests are due: an open loop's schedule, made before and whatever the broker does.
//!
//! Invariant: due times never decrease, and depend on nothing but the seed, the rate and the start; so a
//! broker that stalls finds the requests of its stall waiting, each with the time at which it was due. Does
//! not know clocks: times are nanoseconds on whatever clock the start was read from.

use crate::config::Arrival;

/// A small generator of random numbers (SplitMix64; Steele, Lea and Flood, 2014): the same seed, the same run.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// The sequence of `seed`, and of `stream` among those of the seed.
    pub(crate) fn new(seed: u64, stream: u64) -> Random {
        let mut random = Random(seed ^ stream.wrapping_mul(0xd1b5_4a32_d192_ed03));
        random.next();
        random
    }

    /// 64 random bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in (0, 1].
    pub(crate) fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }
}

/// One connection's requests in time.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    arrival: Arrival,
    /// Mean time from one request to the next, in ns.
    interval: f64,
    start: f64,
    /// Requests that are past.
    index: u64,
    burst: u64,
    /// With [`Arrival::Poisson`], the time of the next request after the start.
    elapsed: f64,
    random: Random,
}

impl Schedule {
    /// `per_second` requests a second in the mean, for connection `lane` of `lanes`. Evenly spread
    /// connections take turns instead of all sending at once.
    pub(crate) fn new(
        arrival: Arrival,
        per_second: f64,
        burst: u32,
        start: u64,
        lane: (usize, usize),
        seed: u64,
    ) -> Schedule {
        assert!(per_second > 0.0, "a rate is above zero");
        let interval = 1e9 / per_second;
        let (lane, lanes) = lane;
        let burst = match arrival {
            Arrival::Burst => u64::from(burst.max(1)),
            Arrival::Uniform | Arrival::Poisson => 1,
        };
        let phase = interval * burst as f64 * lane as f64 / lanes as f64;
        let mut random = Random::new(seed, lane as u64);
        let (start, elapsed) = match arrival {
            Arrival::Poisson => (start as f64, gap(&mut random, interval)),
            Arrival::Uniform | Arrival::Burst => (start as f64 + phase, 0.0),
        };
        Schedule { arrival, interval, start, index: 0, burst, elapsed, random }
    }

    /// When the next request is due.
    pub(crate) fn due(&self) -> u64 {
        let after = match self.arrival {
            Arrival::Poisson => self.elapsed,
            // Multiplied, not added up, so that no error accumulates.
            Arrival::Uniform | Arrival::Burst => (self.index / self.burst * self.burst) as f64 * self.interval,
        };
        (self.start + after) as u64
    }

    /// Goes on to the request after that.
    pub(crate) fn advance(&mut self) {
        self.index += 1;
        if self.arrival == Arrival::Poisson {
            self.elapsed += gap(&mut self.random, self.interval);
        }
    }
}

/// An exponentially distributed time with the given mean.
fn gap(random: &mut Random, mean: f64) -> f64 {
    -random.unit().ln() * mean
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 5_000_000_000_000;

    fn times(schedule: &mut Schedule, n: usize) -> Vec<u64> {
        let mut next = || {
            let due = schedule.due();
            schedule.advance();
            due
        };
        (0..n).map(|_| next()).collect()
    }

    #[test]
    fn uniform_requests_are_an_interval_apart_also_after_days() {
        let mut schedule = Schedule::new(Arrival::Uniform, 1000.0, 1, START, (0, 1), 1);
        assert_eq!(times(&mut schedule, 3), [START, START + 1_000_000, START + 2_000_000]);
        schedule.index = 86_400_000 * 3;
        assert_eq!(schedule.due(), START + 3 * 86_400 * 1_000_000_000);
    }

    #[test]
    fn connections_take_turns() {
        let first = |lane| Schedule::new(Arrival::Uniform, 1000.0, 1, START, (lane, 4), 1).due();
        assert_eq!([0, 1, 2, 3].map(first), [0, 250_000, 500_000, 750_000].map(|after| START + after));
    }

    #[test]
    fn a_burst_is_due_at_once_and_keeps_the_rate() {
        let mut schedule = Schedule::new(Arrival::Burst, 1000.0, 3, START, (0, 1), 1);
        let after: Vec<u64> = times(&mut schedule, 7).into_iter().map(|time| (time - START) / 1_000_000).collect();
        assert_eq!(after, [0, 0, 0, 3, 3, 3, 6]);
    }

    #[test]
    fn poisson_has_the_mean_and_the_spread_of_its_rate_and_repeats_with_the_seed() {
        let schedule = |seed| Schedule::new(Arrival::Poisson, 1e6, 1, START, (0, 1), seed);
        let due = times(&mut schedule(9), 100_000);
        assert!(due.is_sorted());
        let mean = (due[due.len() - 1] - START) as f64 / due.len() as f64;
        assert!((980.0..1020.0).contains(&mean), "mean gap {mean} ns instead of 1000");
        // Of exponential gaps, 1 - 1/e are shorter than the mean; of even ones, none or all.
        let short = due.windows(2).filter(|pair| pair[1] - pair[0] < 1000).count() as f64 / due.len() as f64;
        assert!((0.62..0.645).contains(&short), "{short} of the gaps are short");
        assert_eq!(due, times(&mut schedule(9), 100_000));
        assert_ne!(due[..10], times(&mut schedule(10), 10));
    }
}
