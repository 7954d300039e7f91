//! How much clients use, and how long they are told to be silent when that is too much (KIP-13, KIP-219).
//!
//! The cores share the account, for a client's connections lie on several: a lock, but only clients under a
//! quota ever touch it, and never across an await. The invariant: a client under a bound gets, over the
//! windows, no more than the bound; what it did too much is answered at once, and then its connection is not
//! read from until the time that the answer names is over. It knows no messages.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use engine::controller::BrokerValues;
use engine::controller::quotas;
use engine::io::Instant;
use engine::shard::Core;
use engine::stats::CoreStats;

use crate::authorizer::Client;
use crate::limits;

/// What is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Bytes of Produce requests.
    Produce,
    /// Bytes of Fetch answers.
    Fetch,
    /// Percent of one core's time.
    Request,
    /// Partitions made or removed.
    Mutation,
}

impl Kind {
    fn key(self) -> &'static str {
        match self {
            Kind::Produce => quotas::PRODUCER_BYTE_RATE,
            Kind::Fetch => quotas::CONSUMER_BYTE_RATE,
            Kind::Request => quotas::REQUEST_PERCENTAGE,
            Kind::Mutation => quotas::CONTROLLER_MUTATION_RATE,
        }
    }
}

/// How use is measured: over some windows, of some length each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// How many; at least 1.
    pub count: usize,
    /// How long each is.
    pub length: Duration,
}

impl Windows {
    /// Those of the configs `<prefix>.window.num` and `<prefix>.window.size.seconds`.
    pub fn new(values: &BrokerValues<'_>, prefix: &str) -> Windows {
        let number = |what: &str| u64::try_from(values.number(&format!("{prefix}.window.{what}"))).unwrap_or(1);
        Windows {
            count: usize::try_from(number("num")).unwrap_or(usize::MAX).max(1),
            length: Duration::from_secs(number("size.seconds").max(1)),
        }
    }

    fn all(self) -> Duration {
        self.length.saturating_mul(u32::try_from(self.count).unwrap_or(u32::MAX))
    }

    /// The span over which a use is spread at least: all windows but the one that has just begun.
    fn full(self) -> Duration {
        self.all().saturating_sub(self.length).max(self.length)
    }
}

/// A rate over windows (`Rate` over `SampledStat`).
#[derive(Debug, Default)]
pub struct Rate {
    /// When each window began, and what was used in it.
    samples: VecDeque<(Instant, f64)>,
}

impl Rate {
    fn forget_old(&mut self, now: Instant, windows: Windows) {
        while self.samples.front().is_some_and(|(began, _)| now.since(*began) >= windows.all()) {
            self.samples.pop_front();
        }
    }

    /// Adds a use.
    pub fn record(&mut self, now: Instant, windows: Windows, amount: f64) {
        self.forget_old(now, windows);
        match self.samples.back_mut() {
            Some((began, used)) if now.since(*began) < windows.length => *used += amount,
            _ => self.samples.push_back((now, amount)),
        }
    }

    /// How long to be silent until the rate is `bound` in a second again; zero if it is not above.
    pub fn throttle(&mut self, now: Instant, windows: Windows, bound: f64) -> Duration {
        self.forget_old(now, windows);
        let Some((oldest, _)) = self.samples.front() else { return Duration::ZERO };
        let span = now.since(*oldest).max(windows.full()).as_secs_f64();
        let used: f64 = self.samples.iter().map(|(_, used)| used).sum();
        let rate = used / span;
        if rate <= bound {
            return Duration::ZERO;
        }
        if bound <= 0.0 {
            return windows.all();
        }
        let seconds = (rate - bound) / bound * span;
        Duration::try_from_secs_f64(seconds).unwrap_or(limits::LONGEST_THROTTLE).min(limits::LONGEST_THROTTLE)
    }

    fn is_idle(&self, now: Instant, windows: Windows) -> bool {
        self.samples.back().is_none_or(|(began, _)| now.since(*began) >= windows.all())
    }
}

/// A bucket that fills with the bound's rate and holds what all windows allow (KIP-599).
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn fill(&mut self, now: Instant, windows: Windows, bound: f64) {
        let most = bound * windows.all().as_secs_f64();
        self.tokens = (self.tokens + now.since(self.filled).as_secs_f64() * bound).min(most);
        self.filled = now;
    }

    fn throttle(&self, windows: Windows, bound: f64) -> Duration {
        if self.tokens >= 0.0 {
            return Duration::ZERO;
        }
        let seconds = -self.tokens / bound;
        Duration::try_from_secs_f64(seconds).unwrap_or(windows.all()).min(limits::LONGEST_THROTTLE)
    }
}

/// Whose use: of a kind, by a user if counted by user, with a client id if counted by that.
type Account = (Kind, Option<String>, Option<String>);

/// What clients under a quota have used, on all cores.
#[derive(Debug, Default)]
pub struct Accounts {
    rates: BTreeMap<Account, Rate>,
    buckets: BTreeMap<Account, Bucket>,
}

impl Accounts {
    /// Bounds the number of accounts: those that are not in use go when there are many.
    fn make_room(&mut self, now: Instant, windows: Windows) {
        if self.rates.len() >= limits::QUOTA_ACCOUNTS {
            self.rates.retain(|_, rate| !rate.is_idle(now, windows));
        }
        if self.buckets.len() >= limits::QUOTA_ACCOUNTS {
            self.buckets.retain(|_, bucket| now.since(bucket.filled) < windows.all());
        }
    }
}

/// A core's hand on the accounts.
pub struct QuotaManager {
    core: Core,
    accounts: Arc<Mutex<Accounts>>,
    windows: Windows,
    mutation_windows: Windows,
}

/// The quota of a client in force.
struct Bound {
    account: Account,
    bound: f64,
}

impl QuotaManager {
    /// For the clients of this core.
    pub fn new(core: Core, accounts: Arc<Mutex<Accounts>>, values: &BrokerValues<'_>) -> QuotaManager {
        let windows = Windows::new(values, "quota");
        let mutation_windows = Windows::new(values, "controller.quota");
        QuotaManager { core, accounts, windows, mutation_windows }
    }

    /// What the core counts.
    pub fn stats(&self) -> &CoreStats {
        self.core.io().stats()
    }

    /// The core's clock.
    pub fn now(&self) -> Instant {
        self.core.io().now()
    }

    /// Whether there is any quota, so that time is worth being measured.
    pub fn are_set(&self) -> bool {
        !self.core.image().quotas.is_empty()
    }

    fn bound(&self, client: &Client, client_id: &str, kind: Kind) -> Option<Bound> {
        let found = quotas::in_force(&self.core.image().quotas, &client.user, client_id, kind.key())?;
        let user = found.per_user.then(|| client.user.clone());
        let client_id = found.per_client.then(|| client_id.to_owned());
        Some(Bound { account: (kind, user, client_id), bound: found.bound })
    }

    fn accounts(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().expect("no holder of the lock panics")
    }

    /// Counts a use; gives how long the client shall be silent for it.
    pub fn record(&self, client: &Client, client_id: &str, kind: Kind, amount: f64) -> Duration {
        let Some(Bound { account, bound }) = self.bound(client, client_id, kind) else { return Duration::ZERO };
        let now = self.now();
        let mut accounts = self.accounts();
        accounts.make_room(now, self.windows);
        let rate = accounts.rates.entry(account).or_default();
        rate.record(now, self.windows, amount);
        rate.throttle(now, self.windows, bound)
    }

    /// Takes back a use that was counted and did not happen.
    pub fn unrecord(&self, client: &Client, client_id: &str, kind: Kind, amount: f64) {
        if let Some(Bound { account, .. }) = self.bound(client, client_id, kind)
            && let Some(rate) = self.accounts().rates.get_mut(&account)
        {
            rate.record(self.now(), self.windows, -amount);
        }
    }

    /// Counts the time that a request took of this core; a second at most is the penalty, as in Kafka.
    pub fn record_time(&self, client: &Client, client_id: &str, spent: Duration) -> Duration {
        let percent = spent.as_secs_f64() * 100.0;
        self.record(client, client_id, Kind::Request, percent).min(self.windows.length)
    }

    /// The most bytes that one answer to a Fetch may have, so that it can be within the bound at all.
    pub fn most_fetched(&self, client: &Client, client_id: &str) -> Option<usize> {
        let bound = self.bound(client, client_id, Kind::Fetch)?.bound;
        Some((bound * self.windows.full().as_secs_f64()) as usize)
    }

    /// Counts `partitions` to be made or removed. With `strict` it counts none, and is false, if what was
    /// counted before is already too much.
    pub fn mutate(&self, client: &Client, client_id: &str, partitions: usize, strict: bool) -> bool {
        self.with_bucket(client, client_id, |bucket, _| {
            if strict && bucket.tokens < 0.0 {
                return false;
            }
            bucket.tokens -= partitions as f64;
            true
        })
        .unwrap_or(true)
    }

    /// Takes back partitions that were counted and not made or removed.
    pub fn unmutate(&self, client: &Client, client_id: &str, partitions: usize) {
        self.with_bucket(client, client_id, |bucket, _| bucket.tokens += partitions as f64);
    }

    /// How long the client shall be silent for what it made and removed.
    pub fn mutation_throttle(&self, client: &Client, client_id: &str) -> Duration {
        let windows = self.mutation_windows;
        self.with_bucket(client, client_id, |bucket, bound| bucket.throttle(windows, bound)).unwrap_or_default()
    }

    fn with_bucket<T>(&self, client: &Client, client_id: &str, act: impl FnOnce(&mut Bucket, f64) -> T) -> Option<T> {
        let Bound { account, bound } = self.bound(client, client_id, Kind::Mutation)?;
        let (now, windows) = (self.now(), self.mutation_windows);
        let mut accounts = self.accounts();
        accounts.make_room(now, windows);
        let full = Bucket { tokens: bound * windows.all().as_secs_f64(), filled: now };
        let bucket = accounts.buckets.entry(account).or_insert(full);
        bucket.fill(now, windows, bound);
        Some(act(bucket, bound))
    }
}

/// New connections by address, on the core that accepts them.
#[derive(Debug, Default)]
pub struct ConnectionRates {
    by_ip: BTreeMap<IpAddr, Rate>,
    all: Rate,
}

impl ConnectionRates {
    /// Counts a connection from `ip`, unless the address has had too many: then how long it has to wait.
    pub fn admit(&mut self, now: Instant, windows: Windows, ip: IpAddr, bound: Option<f64>) -> Result<(), Duration> {
        let Some(bound) = bound else { return Ok(()) };
        if self.by_ip.len() >= limits::QUOTA_ACCOUNTS {
            self.by_ip.retain(|_, rate| !rate.is_idle(now, windows));
        }
        let rate = self.by_ip.entry(ip).or_default();
        rate.record(now, windows, 1.0);
        let throttle = rate.throttle(now, windows, bound);
        if throttle.is_zero() {
            return Ok(());
        }
        rate.record(now, windows, -1.0);
        Err(throttle)
    }

    /// Counts a connection from anywhere; how long to pause before the next is accepted.
    pub fn pause(&mut self, now: Instant, windows: Windows, bound: f64) -> Duration {
        self.all.record(now, windows, 1.0);
        self.all.throttle(now, windows, bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOWS: Windows = Windows { count: 11, length: Duration::from_secs(1) };

    fn at(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    #[test]
    fn silence_brings_a_rate_back_to_its_bound() {
        let mut rate = Rate::default();
        // Ten windows' worth at once is within the bound; what is above is paid by silence.
        rate.record(at(0), WINDOWS, 1000.0);
        assert_eq!(rate.throttle(at(0), WINDOWS, 100.0), Duration::ZERO);
        rate.record(at(10), WINDOWS, 500.0);
        assert_eq!(rate.throttle(at(10), WINDOWS, 100.0), Duration::from_secs(5));
        assert_eq!(rate.throttle(at(11_000), WINDOWS, 100.0), Duration::ZERO, "old windows are forgotten");
        rate.record(at(20_000), WINDOWS, 1.0);
        assert_eq!(rate.throttle(at(20_000), WINDOWS, 0.0), WINDOWS.all());
    }

    #[test]
    fn a_bucket_holds_what_the_windows_allow() {
        let mut bucket = Bucket { tokens: 11.0, filled: at(0) };
        bucket.tokens -= 13.0;
        assert_eq!(bucket.throttle(WINDOWS, 1.0), Duration::from_secs(2));
        bucket.fill(at(2_000), WINDOWS, 1.0);
        assert_eq!(bucket.throttle(WINDOWS, 1.0), Duration::ZERO);
        bucket.fill(at(1_000_000), WINDOWS, 1.0);
        assert_eq!(bucket.tokens, 11.0);
    }

    #[test]
    fn connections_above_the_bound_are_not_counted() {
        let mut rates = ConnectionRates::default();
        let ip: IpAddr = "10.0.0.1".parse().expect("an address");
        let other: IpAddr = "10.0.0.2".parse().expect("an address");
        let admitted = (0..100).filter(|i| rates.admit(at(*i), WINDOWS, ip, Some(2.0)).is_ok()).count();
        assert_eq!(admitted, 20);
        assert!(rates.admit(at(100), WINDOWS, other, Some(2.0)).is_ok());
        assert!(rates.admit(at(100), WINDOWS, ip, None).is_ok());
        assert!(rates.admit(at(12_000), WINDOWS, ip, Some(2.0)).is_ok());
    }
}
