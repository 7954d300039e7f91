//! What a core counts: written by that core alone, read by any thread.
//!
//! The invariant: a figure has one writer, so that counting is a load and a store, without a lock and without a cycle
//! spent on other cores. Readers see each figure whole, but not all of them of one moment. It knows neither names nor
//! formats: how figures are shown is for who shows them. Every core reaches its own by [`crate::io::Io::stats`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use crate::accounts::Class;

/// Counts up, by one thread alone.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Called by the owning core alone.
    pub fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A value that goes up and down, set by one thread alone.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Sets the value. Called by the owning core alone.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds to the value. Called by the owning core alone.
    pub fn add(&self, n: i64) {
        self.set(self.get().wrapping_add(n));
    }

    /// The value last set; 0 before that.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Buckets of a histogram with an upper bound; what is longer goes into one more.
pub const BUCKETS: usize = 42;

/// The buckets' upper bounds in microseconds: 10 µs to 70 s, six for each power of ten, so that a quantile read from them
/// is off by a third at most.
pub const BOUNDS_US: [u64; BUCKETS] = bounds();

const fn bounds() -> [u64; BUCKETS] {
    let (mut bounds, mut power, mut i) = ([0; BUCKETS], 1, 0);
    while i < BUCKETS {
        let tenths = [10, 15, 20, 30, 50, 70];
        bounds[i] = power * tenths[i % tenths.len()];
        i += 1;
        if i % tenths.len() == 0 {
            power *= 10;
        }
    }
    bounds
}

/// How long things took.
#[derive(Debug)]
pub struct Histogram {
    counts: [Counter; BUCKETS + 1],
    sum_ns: Counter,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: std::array::from_fn(|_| Counter::default()), sum_ns: Counter::default() }
    }
}

impl Histogram {
    /// Notes one that took `time`. Called by the owning core alone.
    pub fn record(&self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound| bound * 1_000 < ns);
        self.counts[bucket].add(1);
        self.sum_ns.add(ns);
    }

    /// How many are in each bucket, the one without a bound last.
    pub fn counts(&self) -> [u64; BUCKETS + 1] {
        std::array::from_fn(|bucket| self.counts[bucket].get())
    }

    /// The time of all together.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns.get())
    }
}

/// APIs that are counted, by their key; above any of Kafka 4.1's, which ends at 92.
pub const APIS: usize = 96;

/// What there was of one API.
#[derive(Debug, Default)]
pub struct ApiStats {
    /// Requests whose header was read.
    pub requests: Counter,
    /// Their bytes.
    pub request_bytes: Counter,
    /// Bytes of the answers.
    pub response_bytes: Counter,
}

/// The stages of a request. Their order is that of the time.
#[derive(Debug, Default)]
pub struct Stages {
    /// From a request's first bytes until it is whole, the wait for its memory included; nothing if it came at once.
    pub receive: Histogram,
    /// From a Produce's arrival at its shard until its turn.
    pub queue: Histogram,
    /// From there until all its batches are judged and appended, the wait for room included.
    pub append: Histogram,
    /// From the first append to a journal group until the group is durable; one sample a group.
    pub flush: Histogram,
    /// From the start of a write to a connection until the peer's machine has all of it.
    pub respond: Histogram,
}

/// Times from a request's header until its answer is ready to be written, by kind of request.
#[derive(Debug, Default)]
pub struct RequestTimes {
    /// Produce.
    pub produce: Histogram,
    /// Fetch and ShareFetch, which may wait for news.
    pub fetch: Histogram,
    /// All others; JoinGroup and SyncGroup may wait for other members.
    pub other: Histogram,
}

/// Why a connection is not served.
#[derive(Debug, Default)]
pub struct ConnectionRefusals {
    /// Its address connects too often (`connection_creation_rate`).
    pub rate: Counter,
    /// It could not be accepted, mostly for want of file descriptors.
    pub resources: Counter,
}

/// Why a request closed its connection instead of being answered.
#[derive(Debug, Default)]
pub struct RequestRefusals {
    /// It announces a size that is not served.
    pub size: Counter,
    /// It cannot be read.
    pub malformed: Counter,
    /// Its API or version is not served.
    pub not_served: Counter,
    /// The node stops, or its answer cannot be said in its version.
    pub unanswerable: Counter,
}

/// Error codes that are counted: Kafka 4.1's are −1 to 133.
const ERROR_CODES: usize = 136;

/// How often something was refused, by the error code that the client was told.
#[derive(Debug)]
pub struct Errors([Counter; ERROR_CODES]);

impl Default for Errors {
    fn default() -> Errors {
        Errors(std::array::from_fn(|_| Counter::default()))
    }
}

impl Errors {
    /// Notes one. 0 is no error and not counted. Called by the owning core alone.
    pub fn note(&self, code: i16) {
        if code != 0 {
            self.0[Self::place(code)].add(1);
        }
    }

    /// How many there were of `code`.
    pub fn get(&self, code: i16) -> u64 {
        self.0[Self::place(code)].get()
    }

    fn place(code: i16) -> usize {
        usize::try_from(code + 1).unwrap_or(0).min(ERROR_CODES - 1)
    }
}

/// What the journal has done.
#[derive(Debug, Default)]
pub struct JournalStats {
    /// Bytes of batches appended.
    pub appended_bytes: Counter,
    /// Bytes of groups written, their directories and padding included.
    pub written_bytes: Counter,
    /// Groups that became durable.
    pub groups: Counter,
    /// How long a group's write with its flush took.
    pub flush: Histogram,
    /// Files in use, of [`crate::limits::JOURNAL_FILES`].
    pub files: Gauge,
}

/// What goes on behind the acknowledgements.
#[derive(Debug, Default)]
pub struct HousekeepingStats {
    /// Bytes that left the tail cache to keep its bound.
    pub evicted_bytes: Counter,
    /// Writes to segments.
    pub drains: Counter,
    /// Their bytes.
    pub drained_bytes: Counter,
    /// Checkpoints that became durable, and how long each took with the flushes before it.
    pub checkpoints: Histogram,
}

/// The connections of a core.
#[derive(Debug, Default)]
pub struct ConnectionStats {
    /// Open now.
    pub open: Gauge,
    /// Accepted, by the core that accepts.
    pub accepted: Counter,
    /// Not served, by the core that accepts.
    pub refused: ConnectionRefusals,
}

/// All figures of one core. Aligned so that no two cores' share a cache line.
#[derive(Debug)]
#[repr(align(128))]
pub struct CoreStats {
    /// When the core last ran its tasks, in nanoseconds of [`crate::io::Io::now`]; 0 before it first did.
    pub heartbeat_ns: Counter,
    /// 1 while produce is refused because the disk is full or has failed.
    pub refuses_produce: Gauge,
    /// Partitions that the core owns.
    pub partitions: Gauge,
    /// By API.
    pub apis: [ApiStats; APIS],
    /// Times of stages.
    pub stages: Stages,
    /// Times of whole requests.
    pub requests: RequestTimes,
    /// Requests that closed their connection.
    pub refusals: RequestRefusals,
    /// Batches that were refused, by error.
    pub produce_errors: Errors,
    /// The journal.
    pub journal: JournalStats,
    /// Drains, checkpoints, evictions.
    pub housekeeping: HousekeepingStats,
    /// Connections.
    pub connections: ConnectionStats,
    /// Memory by class, in bytes, in the order of [`crate::accounts::Class::ALL`].
    pub accounts: [Gauge; Class::ALL.len()],
    /// Records that were acknowledged before they were durable, and still are not: 0 but for `durability=relaxed`.
    pub acknowledged_not_durable: Gauge,
}

impl Default for CoreStats {
    fn default() -> CoreStats {
        CoreStats {
            heartbeat_ns: Counter::default(),
            refuses_produce: Gauge::default(),
            partitions: Gauge::default(),
            apis: std::array::from_fn(|_| ApiStats::default()),
            stages: Stages::default(),
            requests: RequestTimes::default(),
            refusals: RequestRefusals::default(),
            produce_errors: Errors::default(),
            journal: JournalStats::default(),
            housekeeping: HousekeepingStats::default(),
            connections: ConnectionStats::default(),
            accounts: Default::default(),
            acknowledged_not_durable: Gauge::default(),
        }
    }
}

impl CoreStats {
    /// What is counted of the API with that key; of keys that there are not, the last one's.
    pub fn api(&self, key: i16) -> &ApiStats {
        &self.apis[usize::try_from(key).unwrap_or(APIS).min(APIS - 1)]
    }

    /// The heart beats: the core runs its tasks.
    pub fn beat(&self, now: crate::io::Instant) {
        let past = now.0.saturating_sub(self.heartbeat_ns.get());
        self.heartbeat_ns.add(past);
    }
}

/// Which records of each log were acknowledged and are not durable.
#[derive(Debug)]
pub struct Unflushed<K>(BTreeMap<K, (i64, i64)>);

impl<K> Default for Unflushed<K> {
    fn default() -> Unflushed<K> {
        Unflushed(BTreeMap::new())
    }
}

impl<K: Ord + Copy> Unflushed<K> {
    /// The log's records before `end` are acknowledged; those from `durable_end` on are not durable.
    pub fn acknowledged(&mut self, stats: &CoreStats, log: K, durable_end: i64, end: i64) {
        if end <= durable_end {
            return;
        }
        let (from, to) = self.0.entry(log).or_insert((durable_end, durable_end));
        let (new_from, new_to) = (durable_end.max(*from), end.max(*to));
        stats.acknowledged_not_durable.add((new_to - new_from) - (*to - *from));
        (*from, *to) = (new_from, new_to);
    }

    /// The log's records before `durable_end` are durable now.
    pub fn durable(&mut self, stats: &CoreStats, log: K, durable_end: i64) {
        let Some((from, to)) = self.0.get_mut(&log) else { return };
        let now = durable_end.clamp(*from, *to);
        stats.acknowledged_not_durable.add(*from - now);
        *from = now;
        if from == to {
            self.0.remove(&log);
        }
    }

    /// The log is gone.
    pub fn forget(&mut self, stats: &CoreStats, log: K) {
        self.durable(stats, log, i64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_grow_and_times_fall_into_their_bucket() {
        assert!(BOUNDS_US.is_sorted_by(|a, b| a < b));
        assert_eq!((BOUNDS_US[0], BOUNDS_US[6], BOUNDS_US[BUCKETS - 1]), (10, 100, 70_000_000));
        let histogram = Histogram::default();
        let times = [0, 10, 11, 15, 70_000_000, 70_000_001, u64::MAX / 2_000];
        times.iter().for_each(|us| histogram.record(Duration::from_micros(*us)));
        let counts = histogram.counts();
        assert_eq!((counts[0], counts[1], counts[BUCKETS - 1], counts[BUCKETS]), (2, 2, 1, 2));
        assert_eq!(counts.iter().sum::<u64>(), times.len() as u64);
    }

    #[test]
    fn every_error_has_its_place() {
        let errors = Errors::default();
        crate::protocol::ErrorCode::ALL.iter().for_each(|error| errors.note(error.code()));
        for error in crate::protocol::ErrorCode::ALL {
            assert_eq!(errors.get(error.code()), u64::from(error.code() != 0), "{}", error.name());
        }
    }

    #[test]
    fn every_api_has_its_place() {
        let stats = CoreStats::default();
        crate::protocol::ApiKey::ALL.iter().for_each(|api| stats.api(api.code()).requests.add(1));
        assert!(crate::protocol::ApiKey::ALL.iter().all(|api| stats.api(api.code()).requests.get() == 1));
        stats.api(i16::MIN).requests.add(1);
        stats.api(i16::MAX).requests.add(1);
        assert_eq!(stats.apis[APIS - 1].requests.get(), 2);
    }

    #[test]
    fn what_is_not_durable_is_counted_until_it_is() {
        let (stats, mut unflushed) = (CoreStats::default(), Unflushed::default());
        let count = || stats.acknowledged_not_durable.get();
        unflushed.acknowledged(&stats, 'a', 5, 5);
        assert_eq!(count(), 0);
        unflushed.acknowledged(&stats, 'a', 5, 8);
        unflushed.acknowledged(&stats, 'b', 0, 10);
        assert_eq!(count(), 13);
        unflushed.durable(&stats, 'a', 6);
        assert_eq!(count(), 12);
        unflushed.acknowledged(&stats, 'a', 6, 9);
        assert_eq!(count(), 13);
        unflushed.durable(&stats, 'a', 100);
        assert_eq!(count(), 10);
        unflushed.forget(&stats, 'b');
        unflushed.forget(&stats, 'c');
        assert_eq!(count(), 0);
    }

    #[test]
    fn the_heart_beats_forward() {
        let stats = CoreStats::default();
        [5, 9, 7].into_iter().for_each(|at| stats.beat(crate::io::Instant(at)));
        assert_eq!(stats.heartbeat_ns.get(), 9);
    }
}
