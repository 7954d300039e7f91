//! What groups are configured by. Kafka's names stand behind each value.

use super::assignor::Assignor;

/// What the group coordinator is configured by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupConfig {
    /// `group.initial.rebalance.delay.ms`.
    pub initial_rebalance_delay_ms: u64,
    /// `group.min.session.timeout.ms`.
    pub min_session_timeout_ms: i32,
    /// `group.max.session.timeout.ms`.
    pub max_session_timeout_ms: i32,
    /// `group.max.size`.
    pub max_size: usize,
    /// `offset.metadata.max.bytes`.
    pub longest_metadata: usize,
    /// `offsets.retention.minutes`, in milliseconds.
    pub retention_ms: i64,
    /// `offsets.retention.check.interval.ms`.
    pub retention_check_interval_ms: u64,
    /// Those of the consumer protocol.
    pub consumer: ConsumerConfig,
    /// Those of share groups.
    pub share: ShareGroupConfig,
}

/// What share groups are configured by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareGroupConfig {
    /// `group.share.session.timeout.ms`.
    pub session_timeout_ms: u64,
    /// `group.share.heartbeat.interval.ms`.
    pub heartbeat_interval_ms: i32,
    /// `group.share.max.size`.
    pub max_size: usize,
}

/// What groups of the consumer protocol are configured by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerConfig {
    /// `group.consumer.session.timeout.ms`.
    pub session_timeout_ms: u64,
    /// `group.consumer.heartbeat.interval.ms`.
    pub heartbeat_interval_ms: i32,
    /// `group.consumer.max.size`.
    pub max_size: usize,
    /// `group.consumer.assignors`: the first is the default.
    pub assignors: Vec<Assignor>,
    /// When the topics of an expression are looked up again (`group.consumer.regex.refresh.interval.ms`).
    pub regex_refresh_ms: u64,
    /// Whether a classic group may become one (`group.consumer.migration.policy`).
    pub may_upgrade: bool,
    /// Whether one may become a classic group.
    pub may_downgrade: bool,
}

impl GroupConfig {
    /// The values that `number` and `text` give for Kafka's names.
    pub fn new(number: impl Fn(&'static str) -> i64, text: impl Fn(&'static str) -> String) -> GroupConfig {
        let int = |name| i32::try_from(number(name)).unwrap_or(i32::MAX);
        let positive = |name| u64::try_from(number(name)).unwrap_or(0);
        let assignors = text("group.consumer.assignors");
        let policy = text("group.consumer.migration.policy").to_ascii_lowercase();
        let may = |way: &str| policy == "bidirectional" || policy == way;
        let consumer = ConsumerConfig {
            session_timeout_ms: positive("group.consumer.session.timeout.ms"),
            heartbeat_interval_ms: int("group.consumer.heartbeat.interval.ms"),
            max_size: usize::try_from(number("group.consumer.max.size")).unwrap_or(0),
            assignors: assignors.split(',').filter_map(|name| Assignor::from_name(name.trim())).collect(),
            regex_refresh_ms: positive("group.consumer.regex.refresh.interval.ms"),
            may_upgrade: may("upgrade"),
            may_downgrade: may("downgrade"),
        };
        GroupConfig {
            initial_rebalance_delay_ms: positive("group.initial.rebalance.delay.ms"),
            min_session_timeout_ms: int("group.min.session.timeout.ms"),
            max_session_timeout_ms: int("group.max.session.timeout.ms"),
            max_size: usize::try_from(number("group.max.size")).unwrap_or(0),
            longest_metadata: usize::try_from(number("offset.metadata.max.bytes")).unwrap_or(0),
            retention_ms: number("offsets.retention.minutes").saturating_mul(60_000),
            retention_check_interval_ms: positive("offsets.retention.check.interval.ms").max(1),
            consumer,
            share: ShareGroupConfig {
                session_timeout_ms: positive("group.share.session.timeout.ms"),
                heartbeat_interval_ms: int("group.share.heartbeat.interval.ms"),
                max_size: usize::try_from(number("group.share.max.size")).unwrap_or(0),
            },
        }
    }
}

impl Default for GroupConfig {
    /// Kafka 4.1's defaults.
    fn default() -> GroupConfig {
        GroupConfig {
            initial_rebalance_delay_ms: 3000,
            min_session_timeout_ms: 6000,
            max_session_timeout_ms: 1_800_000,
            max_size: i32::MAX as usize,
            longest_metadata: 4096,
            retention_ms: 7 * 24 * 3_600_000,
            retention_check_interval_ms: 600_000,
            consumer: ConsumerConfig {
                session_timeout_ms: 45_000,
                heartbeat_interval_ms: 5000,
                max_size: i32::MAX as usize,
                assignors: vec![Assignor::Uniform, Assignor::Range],
                regex_refresh_ms: 600_000,
                may_upgrade: true,
                may_downgrade: true,
            },
            share: ShareGroupConfig { session_timeout_ms: 45_000, heartbeat_interval_ms: 5000, max_size: 200 },
        }
    }
}
