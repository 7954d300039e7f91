//! The configs of a broker: the table, and the levels at which they are set.
//!
//! The table holds those of Kafka 4.1 that mean something here or that tools set, and all of groups, offsets and
//! transactions, under Kafka's names and with Kafka's defaults, sorted by name. What the process was started with is the static level; the metadata
//! log holds two dynamic levels, of one broker and of the cluster as a whole. Topic configs come from here
//! where a topic has none of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::configs::{self, ConfigDef, ConfigType as T, Valid as V};
use super::image::MetadataImage;
use super::topic_configs::{self, TOPIC_CONFIGS};

/// When a broker config may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// Only by a restart.
    Fixed,
    /// While the broker runs, for one broker or for all (`DynamicBrokerConfig.AllDynamicConfigs`).
    Dynamic,
    /// While the broker runs, for one broker alone (`DynamicBrokerConfig.PerBrokerConfigs`). They are of TLS and SASL,
    /// which are not served yet: a start with one of them would promise what it does not keep.
    PerBroker,
}

use Update::{Dynamic, Fixed, PerBroker};

/// The one value of `authorizer.class.name` that there is an authorizer for.
pub const STANDARD_AUTHORIZER: &str = "org.apache.kafka.metadata.authorizer.StandardAuthorizer";

/// How many replicas must be in sync for a batch with acks=all.
pub const MIN_INSYNC_REPLICAS: &str = "min.insync.replicas";

/// A broker config.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BrokerConfigDef {
    /// Its definition.
    pub config: ConfigDef,
    /// When it may change.
    pub update: Update,
}

const fn def(name: &'static str, kind: T, default: Option<&'static str>, valid: V, update: Update) -> BrokerConfigDef {
    BrokerConfigDef { config: ConfigDef::new(name, kind, default, valid), update }
}

/// All broker configs, sorted by name.
pub const BROKER_CONFIGS: &[BrokerConfigDef] = &[
    def("advertised.listeners", T::String, None, V::Any, Fixed),
    def("allow.everyone.if.no.acl.found", T::Boolean, Some("false"), V::Any, Fixed),
    def("authorizer.class.name", T::String, Some(""), V::OneOf(&["", STANDARD_AUTHORIZER]), Fixed),
    def("auto.create.topics.enable", T::Boolean, Some("true"), V::Any, Fixed),
    def("auto.leader.rebalance.enable", T::Boolean, Some("true"), V::Any, Fixed),
    def("background.threads", T::Int, Some("10"), V::AtLeast(1), Dynamic),
    def("broker.id", T::Int, Some("-1"), V::Any, Fixed),
    def("broker.rack", T::String, None, V::Any, Fixed),
    def("compression.gzip.level", T::Int, Some("-1"), V::GzipLevel, Dynamic),
    def("compression.lz4.level", T::Int, Some("9"), V::Between(1, 17), Dynamic),
    def(
        "compression.type",
        T::String,
        Some("producer"),
        V::OneOf(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]),
        Dynamic,
    ),
    def("compression.zstd.level", T::Int, Some("3"), V::Between(-131_072, 22), Dynamic),
    def("connections.max.idle.ms", T::Long, Some("600000"), V::Any, Fixed),
    def("controlled.shutdown.enable", T::Boolean, Some("true"), V::Any, Fixed),
    def("controller.quota.window.num", T::Int, Some("11"), V::AtLeast(1), Fixed),
    def("controller.quota.window.size.seconds", T::Int, Some("1"), V::AtLeast(1), Fixed),
    def("default.replication.factor", T::Int, Some("1"), V::AtLeast(1), Fixed),
    def("delete.records.purgatory.purge.interval.requests", T::Int, Some("1"), V::Any, Fixed),
    def("delete.topic.enable", T::Boolean, Some("true"), V::Any, Fixed),
    def("fetch.max.bytes", T::Int, Some("57671680"), V::AtLeast(1_024), Fixed),
    def("fetch.purgatory.purge.interval.requests", T::Int, Some("1000"), V::Any, Fixed),
    def("follower.replication.throttled.rate", T::Long, Some("9223372036854775807"), V::AtLeast(0), Dynamic),
    def("group.consumer.assignors", T::List, Some("uniform,range"), V::OneOf(&["uniform", "range"]), Fixed),
    def("group.consumer.heartbeat.interval.ms", T::Int, Some("5000"), V::AtLeast(1), Fixed),
    def("group.consumer.max.heartbeat.interval.ms", T::Int, Some("15000"), V::AtLeast(1), Fixed),
    def("group.consumer.max.session.timeout.ms", T::Int, Some("60000"), V::AtLeast(1), Fixed),
    def("group.consumer.max.size", T::Int, Some("2147483647"), V::AtLeast(1), Fixed),
    def(
        "group.consumer.migration.policy",
        T::String,
        Some("bidirectional"),
        V::OneOfAnyCase(&["DISABLED", "DOWNGRADE", "UPGRADE", "BIDIRECTIONAL"]),
        Fixed,
    ),
    def("group.consumer.min.heartbeat.interval.ms", T::Int, Some("5000"), V::AtLeast(1), Fixed),
    def("group.consumer.min.session.timeout.ms", T::Int, Some("45000"), V::AtLeast(1), Fixed),
    def("group.consumer.session.timeout.ms", T::Int, Some("45000"), V::AtLeast(1), Fixed),
    def("group.coordinator.append.linger.ms", T::Int, Some("5"), V::AtLeast(0), Fixed),
    def(
        "group.coordinator.rebalance.protocols",
        T::List,
        Some("classic,consumer,streams"),
        V::OneOf(&["consumer", "classic", "share", "streams"]),
        Fixed,
    ),
    def("group.coordinator.threads", T::Int, Some("4"), V::AtLeast(1), Fixed),
    def("group.initial.rebalance.delay.ms", T::Int, Some("3000"), V::Any, Fixed),
    def("group.max.session.timeout.ms", T::Int, Some("1800000"), V::Any, Fixed),
    def("group.max.size", T::Int, Some("2147483647"), V::AtLeast(1), Fixed),
    def("group.min.session.timeout.ms", T::Int, Some("6000"), V::Any, Fixed),
    def("group.share.assignors", T::List, Some("simple"), V::OneOf(&["simple"]), Fixed),
    def("group.share.delivery.count.limit", T::Int, Some("5"), V::Between(2, 10), Fixed),
    def("group.share.heartbeat.interval.ms", T::Int, Some("5000"), V::AtLeast(1), Fixed),
    def("group.share.max.heartbeat.interval.ms", T::Int, Some("15000"), V::AtLeast(1), Fixed),
    def("group.share.max.record.lock.duration.ms", T::Int, Some("60000"), V::Between(30_000, 3_600_000), Fixed),
    def("group.share.max.session.timeout.ms", T::Int, Some("60000"), V::AtLeast(1), Fixed),
    def("group.share.max.share.sessions", T::Int, Some("2000"), V::AtLeast(1), Fixed),
    def("group.share.max.size", T::Int, Some("200"), V::Between(1, 1_000), Fixed),
    def("group.share.min.heartbeat.interval.ms", T::Int, Some("5000"), V::AtLeast(1), Fixed),
    def("group.share.min.record.lock.duration.ms", T::Int, Some("15000"), V::Between(1_000, 30_000), Fixed),
    def("group.share.min.session.timeout.ms", T::Int, Some("45000"), V::AtLeast(1), Fixed),
    def("group.share.partition.max.record.locks", T::Int, Some("2000"), V::Between(100, 10_000), Fixed),
    def("group.share.record.lock.duration.ms", T::Int, Some("30000"), V::Between(1_000, 3_600_000), Fixed),
    def("group.share.session.timeout.ms", T::Int, Some("45000"), V::AtLeast(1), Fixed),
    def("group.streams.heartbeat.interval.ms", T::Int, Some("5000"), V::AtLeast(1), Fixed),
    def("group.streams.max.heartbeat.interval.ms", T::Int, Some("15000"), V::AtLeast(1), Fixed),
    def("group.streams.max.session.timeout.ms", T::Int, Some("60000"), V::AtLeast(1), Fixed),
    def("group.streams.max.size", T::Int, Some("2147483647"), V::AtLeast(1), Fixed),
    def("group.streams.max.standby.replicas", T::Int, Some("2"), V::AtLeast(0), Fixed),
    def("group.streams.min.heartbeat.interval.ms", T::Int, Some("5000"), V::AtLeast(1), Fixed),
    def("group.streams.min.session.timeout.ms", T::Int, Some("45000"), V::AtLeast(1), Fixed),
    def("group.streams.num.standby.replicas", T::Int, Some("0"), V::AtLeast(0), Fixed),
    def("group.streams.session.timeout.ms", T::Int, Some("45000"), V::AtLeast(1), Fixed),
    def("leader.replication.throttled.rate", T::Long, Some("9223372036854775807"), V::AtLeast(0), Dynamic),
    def(
        "listener.security.protocol.map",
        T::String,
        Some("SASL_SSL:SASL_SSL,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT"),
        V::Any,
        Fixed,
    ),
    def("listeners", T::String, Some("PLAINTEXT://:9092"), V::Any, Fixed),
    def("log.cleaner.backoff.ms", T::Long, Some("15000"), V::AtLeast(0), Dynamic),
    def("log.cleaner.dedupe.buffer.size", T::Long, Some("134217728"), V::Any, Dynamic),
    def("log.cleaner.delete.retention.ms", T::Long, Some("86400000"), V::AtLeast(0), Dynamic),
    def("log.cleaner.enable", T::Boolean, Some("true"), V::Any, Fixed),
    def("log.cleaner.io.buffer.load.factor", T::Double, Some("0.9"), V::Any, Dynamic),
    def("log.cleaner.io.buffer.size", T::Int, Some("524288"), V::AtLeast(0), Dynamic),
    def("log.cleaner.io.max.bytes.per.second", T::Double, Some("1.7976931348623157E308"), V::Any, Dynamic),
    def("log.cleaner.max.compaction.lag.ms", T::Long, Some("9223372036854775807"), V::AtLeast(1), Dynamic),
    def("log.cleaner.min.cleanable.ratio", T::Double, Some("0.5"), V::Ratio, Dynamic),
    def("log.cleaner.min.compaction.lag.ms", T::Long, Some("0"), V::AtLeast(0), Dynamic),
    def("log.cleaner.threads", T::Int, Some("1"), V::AtLeast(0), Dynamic),
    def("log.cleanup.policy", T::List, Some("delete"), V::OneOf(&["compact", "delete"]), Dynamic),
    def("log.dir", T::String, None, V::Any, Fixed),
    def("log.dirs", T::String, None, V::Any, Fixed),
    def("log.flush.interval.messages", T::Long, Some("9223372036854775807"), V::AtLeast(1), Dynamic),
    def("log.flush.interval.ms", T::Long, None, V::Any, Dynamic),
    def("log.flush.scheduler.interval.ms", T::Long, Some("9223372036854775807"), V::Any, Fixed),
    def("log.index.interval.bytes", T::Int, Some("4096"), V::AtLeast(0), Dynamic),
    def("log.index.size.max.bytes", T::Int, Some("10485760"), V::AtLeast(4), Dynamic),
    def("log.local.retention.bytes", T::Long, Some("-2"), V::AtLeast(-2), Dynamic),
    def("log.local.retention.ms", T::Long, Some("-2"), V::AtLeast(-2), Dynamic),
    def("log.message.timestamp.after.max.ms", T::Long, Some("3600000"), V::AtLeast(0), Dynamic),
    def("log.message.timestamp.before.max.ms", T::Long, Some("9223372036854775807"), V::AtLeast(0), Dynamic),
    def(
        "log.message.timestamp.type",
        T::String,
        Some("CreateTime"),
        V::OneOf(&["CreateTime", "LogAppendTime"]),
        Dynamic,
    ),
    def("log.preallocate", T::Boolean, Some("false"), V::Any, Dynamic),
    def("log.retention.bytes", T::Long, Some("-1"), V::Any, Dynamic),
    def("log.retention.check.interval.ms", T::Long, Some("300000"), V::AtLeast(1), Fixed),
    def("log.retention.hours", T::Int, Some("168"), V::Any, Fixed),
    def("log.retention.minutes", T::Int, None, V::Any, Fixed),
    def("log.retention.ms", T::Long, None, V::Any, Dynamic),
    def("log.roll.hours", T::Int, Some("168"), V::AtLeast(1), Fixed),
    def("log.roll.jitter.hours", T::Int, Some("0"), V::AtLeast(0), Fixed),
    def("log.roll.jitter.ms", T::Long, None, V::Any, Dynamic),
    def("log.roll.ms", T::Long, None, V::Any, Dynamic),
    def("log.segment.bytes", T::Int, Some("1073741824"), V::AtLeast(1_048_576), Dynamic),
    def("log.segment.delete.delay.ms", T::Long, Some("60000"), V::AtLeast(0), Dynamic),
    def("max.connection.creation.rate", T::Int, Some("2147483647"), V::AtLeast(0), Dynamic),
    def("max.connections", T::Int, Some("2147483647"), V::AtLeast(0), Dynamic),
    def("max.connections.per.ip", T::Int, Some("2147483647"), V::AtLeast(0), Dynamic),
    def("max.connections.per.ip.overrides", T::String, Some(""), V::Any, Dynamic),
    def("max.incremental.fetch.session.cache.slots", T::Int, Some("1000"), V::AtLeast(0), Fixed),
    def("max.request.partition.size.limit", T::Int, Some("2000"), V::AtLeast(1), Fixed),
    def("message.max.bytes", T::Int, Some("1048588"), V::AtLeast(0), Dynamic),
    def("min.insync.replicas", T::Int, Some("1"), V::AtLeast(1), Dynamic),
    def("node.id", T::Int, None, V::AtLeast(0), Fixed),
    def("num.io.threads", T::Int, Some("8"), V::AtLeast(1), Dynamic),
    def("num.network.threads", T::Int, Some("3"), V::AtLeast(1), Dynamic),
    def("num.partitions", T::Int, Some("1"), V::AtLeast(1), Fixed),
    def("num.recovery.threads.per.data.dir", T::Int, Some("2"), V::AtLeast(1), Dynamic),
    def("num.replica.fetchers", T::Int, Some("1"), V::Any, Dynamic),
    def("offset.metadata.max.bytes", T::Int, Some("4096"), V::Any, Fixed),
    def("offsets.commit.timeout.ms", T::Int, Some("5000"), V::AtLeast(1), Fixed),
    def("offsets.load.buffer.size", T::Int, Some("5242880"), V::AtLeast(1), Fixed),
    def("offsets.retention.check.interval.ms", T::Long, Some("600000"), V::AtLeast(1), Fixed),
    def("offsets.retention.minutes", T::Int, Some("10080"), V::AtLeast(1), Fixed),
    def("offsets.topic.compression.codec", T::Int, Some("0"), V::Between(0, 4), Fixed),
    def("offsets.topic.num.partitions", T::Int, Some("50"), V::AtLeast(1), Fixed),
    def("offsets.topic.replication.factor", T::Short, Some("3"), V::AtLeast(1), Fixed),
    def("offsets.topic.segment.bytes", T::Int, Some("104857600"), V::AtLeast(1), Fixed),
    def("process.roles", T::List, None, V::OneOf(&["broker", "controller"]), Fixed),
    def("producer.id.expiration.ms", T::Int, Some("86400000"), V::AtLeast(1), Dynamic),
    def("producer.purgatory.purge.interval.requests", T::Int, Some("1000"), V::Any, Fixed),
    def("queued.max.requests", T::Int, Some("500"), V::AtLeast(1), Fixed),
    def("quota.window.num", T::Int, Some("11"), V::AtLeast(1), Fixed),
    def("quota.window.size.seconds", T::Int, Some("1"), V::AtLeast(1), Fixed),
    def("remote.fetch.max.wait.ms", T::Int, Some("500"), V::AtLeast(1), Dynamic),
    def("remote.list.offsets.request.timeout.ms", T::Long, Some("30000"), V::AtLeast(1), Dynamic),
    def("remote.log.index.file.cache.total.size.bytes", T::Long, Some("1073741824"), V::AtLeast(1), Dynamic),
    def("remote.log.manager.copier.thread.pool.size", T::Int, Some("10"), V::AtLeast(1), Dynamic),
    def("remote.log.manager.copy.max.bytes.per.second", T::Long, Some("9223372036854775807"), V::AtLeast(1), Dynamic),
    def("remote.log.manager.expiration.thread.pool.size", T::Int, Some("10"), V::AtLeast(1), Dynamic),
    def("remote.log.manager.fetch.max.bytes.per.second", T::Long, Some("9223372036854775807"), V::AtLeast(1), Dynamic),
    def("remote.log.reader.threads", T::Int, Some("10"), V::AtLeast(1), Dynamic),
    def("remote.log.storage.system.enable", T::Boolean, Some("false"), V::Any, Fixed),
    def("replica.alter.log.dirs.io.max.bytes.per.second", T::Long, Some("9223372036854775807"), V::AtLeast(0), Dynamic),
    def("replica.fetch.max.bytes", T::Int, Some("1048576"), V::AtLeast(0), Fixed),
    def("replica.fetch.min.bytes", T::Int, Some("1"), V::Any, Fixed),
    def("replica.fetch.response.max.bytes", T::Int, Some("10485760"), V::AtLeast(0), Fixed),
    def("replica.fetch.wait.max.ms", T::Int, Some("500"), V::Any, Fixed),
    def("replica.lag.time.max.ms", T::Long, Some("30000"), V::Any, Fixed),
    def("request.timeout.ms", T::Int, Some("30000"), V::Any, Fixed),
    def("sasl.enabled.mechanisms", T::List, Some("GSSAPI"), V::Any, PerBroker),
    def("sasl.kerberos.kinit.cmd", T::String, Some("/usr/bin/kinit"), V::Any, PerBroker),
    def("sasl.kerberos.min.time.before.relogin", T::Long, Some("60000"), V::Any, PerBroker),
    def("sasl.kerberos.principal.to.local.rules", T::List, Some("DEFAULT"), V::Any, PerBroker),
    def("sasl.kerberos.service.name", T::String, None, V::Any, PerBroker),
    def("sasl.kerberos.ticket.renew.jitter", T::Double, Some("0.05"), V::Any, PerBroker),
    def("sasl.kerberos.ticket.renew.window.factor", T::Double, Some("0.8"), V::Any, PerBroker),
    def("sasl.login.refresh.buffer.seconds", T::Short, Some("300"), V::Between(0, 3_600), PerBroker),
    def("sasl.login.refresh.min.period.seconds", T::Short, Some("60"), V::Between(0, 900), PerBroker),
    def("sasl.login.refresh.window.factor", T::Double, Some("0.8"), V::Any, PerBroker),
    def("sasl.login.refresh.window.jitter", T::Double, Some("0.05"), V::Any, PerBroker),
    def("sasl.mechanism.inter.broker.protocol", T::String, Some("GSSAPI"), V::Any, PerBroker),
    def("share.coordinator.append.linger.ms", T::Int, Some("5"), V::AtLeast(0), Fixed),
    def("share.coordinator.load.buffer.size", T::Int, Some("5242880"), V::AtLeast(1), Fixed),
    def("share.coordinator.snapshot.update.records.per.snapshot", T::Int, Some("500"), V::AtLeast(0), Fixed),
    def("share.coordinator.state.topic.compression.codec", T::Int, Some("0"), V::Between(0, 4), Fixed),
    def("share.coordinator.state.topic.min.isr", T::Short, Some("2"), V::AtLeast(1), Fixed),
    def("share.coordinator.state.topic.num.partitions", T::Int, Some("50"), V::AtLeast(1), Fixed),
    def("share.coordinator.state.topic.replication.factor", T::Short, Some("3"), V::AtLeast(1), Fixed),
    def("share.coordinator.state.topic.segment.bytes", T::Int, Some("104857600"), V::AtLeast(1), Fixed),
    def("share.coordinator.threads", T::Int, Some("1"), V::AtLeast(1), Fixed),
    def("share.coordinator.write.timeout.ms", T::Int, Some("5000"), V::AtLeast(1), Fixed),
    def("share.fetch.purgatory.purge.interval.requests", T::Int, Some("1000"), V::Any, Fixed),
    def("socket.listen.backlog.size", T::Int, Some("50"), V::AtLeast(1), Fixed),
    def("socket.receive.buffer.bytes", T::Int, Some("102400"), V::Any, Fixed),
    def("socket.request.max.bytes", T::Int, Some("104857600"), V::AtLeast(1), Fixed),
    def("socket.send.buffer.bytes", T::Int, Some("102400"), V::Any, Fixed),
    def("ssl.cipher.suites", T::List, Some(""), V::Any, PerBroker),
    def("ssl.client.auth", T::String, Some("none"), V::OneOf(&["required", "requested", "none"]), PerBroker),
    def("ssl.enabled.protocols", T::List, Some("TLSv1.2,TLSv1.3"), V::Any, PerBroker),
    def("ssl.endpoint.identification.algorithm", T::String, Some("https"), V::Any, PerBroker),
    def("ssl.keymanager.algorithm", T::String, Some("SunX509"), V::Any, PerBroker),
    def("ssl.protocol", T::String, Some("TLSv1.3"), V::Any, PerBroker),
    def("ssl.provider", T::String, None, V::Any, PerBroker),
    def("ssl.secure.random.implementation", T::String, None, V::Any, PerBroker),
    def("ssl.trustmanager.algorithm", T::String, Some("PKIX"), V::Any, PerBroker),
    def("super.users", T::String, Some(""), V::Any, Fixed),
    def("transaction.abort.timed.out.transaction.cleanup.interval.ms", T::Int, Some("10000"), V::AtLeast(1), Fixed),
    def("transaction.max.timeout.ms", T::Int, Some("900000"), V::AtLeast(1), Fixed),
    def("transaction.partition.verification.enable", T::Boolean, Some("true"), V::Any, Dynamic),
    def("transaction.remove.expired.transaction.cleanup.interval.ms", T::Int, Some("3600000"), V::AtLeast(1), Fixed),
    def("transaction.state.log.load.buffer.size", T::Int, Some("5242880"), V::AtLeast(1), Fixed),
    def("transaction.state.log.min.isr", T::Int, Some("2"), V::AtLeast(1), Fixed),
    def("transaction.state.log.num.partitions", T::Int, Some("50"), V::AtLeast(1), Fixed),
    def("transaction.state.log.replication.factor", T::Short, Some("3"), V::AtLeast(1), Fixed),
    def("transaction.state.log.segment.bytes", T::Int, Some("104857600"), V::AtLeast(1), Fixed),
    def("transaction.two.phase.commit.enable", T::Boolean, Some("false"), V::Any, Fixed),
    def("transactional.id.expiration.ms", T::Int, Some("604800000"), V::AtLeast(1), Fixed),
    def("unclean.leader.election.enable", T::Boolean, Some("false"), V::Any, Dynamic),
];

/// Those that Kafka keeps to itself, sorted by name: shown only when they are set.
pub const INTERNAL_CONFIGS: &[BrokerConfigDef] = &[
    def("group.consumer.regex.refresh.interval.ms", T::Int, Some("600000"), V::AtLeast(10_000), Fixed),
    def("share.coordinator.cold.partition.snapshot.interval.ms", T::Int, Some("300000"), V::AtLeast(1), Fixed),
    def("share.coordinator.state.topic.prune.interval.ms", T::Int, Some("300000"), V::AtLeast(1), Fixed),
];

/// The broker config of that name.
pub fn find(name: &str) -> Option<&'static BrokerConfigDef> {
    let find_in = |table: &'static [BrokerConfigDef]| {
        let index = table.binary_search_by(|def| def.config.name.cmp(name)).ok()?;
        Some(&table[index])
    };
    find_in(BROKER_CONFIGS).or_else(|| find_in(INTERNAL_CONFIGS))
}

/// Other names of a broker config in coarser units, most specific first, the name itself included.
pub(super) fn synonyms(name: &'static str) -> Vec<&'static str> {
    let family = TOPIC_CONFIGS.iter().find(|def| def.synonyms.iter().any(|synonym| synonym.name == name));
    match family {
        Some(def) => def.synonyms.iter().map(|synonym| synonym.name).skip_while(|other| *other != name).collect(),
        None => vec![name],
    }
}

/// The first words of the names of Kafka 4.1's broker configs.
const KAFKAS_WORDS: &[&str] = &[
    "add",
    "advertised",
    "allow",
    "alter",
    "authorizer",
    "auto",
    "background",
    "broker",
    "client",
    "compression",
    "connection",
    "connections",
    "controlled",
    "controller",
    "create",
    "default",
    "delegation",
    "delete",
    "early",
    "fetch",
    "group",
    "initial",
    "inter",
    "kafka",
    "leader",
    "listener",
    "listeners",
    "log",
    "max",
    "message",
    "metadata",
    "metric",
    "metrics",
    "min",
    "node",
    "num",
    "offset",
    "offsets",
    "principal",
    "process",
    "producer",
    "queued",
    "quota",
    "remote",
    "replica",
    "replication",
    "request",
    "sasl",
    "security",
    "share",
    "socket",
    "ssl",
    "super",
    "telemetry",
    "transaction",
    "transactional",
    "unclean",
];

/// Whether a name that the table does not have may be set while the broker runs. As in Kafka it is kept for
/// whoever knows it, shown as a secret, and changes nothing here. A name that begins like one of Kafka's is not
/// taken: Kafka has it and it means nothing here, or it is a slip.
pub(super) fn is_custom(name: &str) -> bool {
    let first = name.split('.').next().unwrap_or_default();
    find(name).is_none() && KAFKAS_WORDS.binary_search(&first).is_err()
}

/// Checks values of the static level: each is known and valid, also as the topic config that it stands for.
///
/// # Errors
/// A sentence that names the first that is not.
pub fn check(values: &BTreeMap<String, String>) -> Result<(), String> {
    for name in values.keys() {
        let def = find(name).ok_or_else(|| format!("Unknown broker config name: {name}"))?;
        if def.update == PerBroker {
            return Err(format!("{name} cannot be set at a start: neither TLS nor SASL is served."));
        }
    }
    check_dynamic(values)
}

/// Pairs of configs of which the first must be no greater than the second (`GroupCoordinatorConfig`,
/// `ShareGroupConfig`). None of them may change while the broker runs.
const IN_ORDER: &[(&str, &str)] = &[
    ("group.consumer.min.heartbeat.interval.ms", "group.consumer.max.heartbeat.interval.ms"),
    ("group.consumer.min.heartbeat.interval.ms", "group.consumer.heartbeat.interval.ms"),
    ("group.consumer.heartbeat.interval.ms", "group.consumer.max.heartbeat.interval.ms"),
    ("group.consumer.min.session.timeout.ms", "group.consumer.max.session.timeout.ms"),
    ("group.consumer.min.session.timeout.ms", "group.consumer.session.timeout.ms"),
    ("group.consumer.session.timeout.ms", "group.consumer.max.session.timeout.ms"),
    ("group.share.min.heartbeat.interval.ms", "group.share.max.heartbeat.interval.ms"),
    ("group.share.min.heartbeat.interval.ms", "group.share.heartbeat.interval.ms"),
    ("group.share.heartbeat.interval.ms", "group.share.max.heartbeat.interval.ms"),
    ("group.share.min.session.timeout.ms", "group.share.max.session.timeout.ms"),
    ("group.share.min.session.timeout.ms", "group.share.session.timeout.ms"),
    ("group.share.session.timeout.ms", "group.share.max.session.timeout.ms"),
    ("group.share.min.record.lock.duration.ms", "group.share.record.lock.duration.ms"),
    ("group.share.record.lock.duration.ms", "group.share.max.record.lock.duration.ms"),
    ("group.share.max.size", "group.share.max.share.sessions"),
    ("group.streams.min.heartbeat.interval.ms", "group.streams.max.heartbeat.interval.ms"),
    ("group.streams.min.heartbeat.interval.ms", "group.streams.heartbeat.interval.ms"),
    ("group.streams.heartbeat.interval.ms", "group.streams.max.heartbeat.interval.ms"),
    ("group.streams.min.session.timeout.ms", "group.streams.max.session.timeout.ms"),
    ("group.streams.min.session.timeout.ms", "group.streams.session.timeout.ms"),
    ("group.streams.session.timeout.ms", "group.streams.max.session.timeout.ms"),
    ("group.streams.num.standby.replicas", "group.streams.max.standby.replicas"),
];

/// Pairs of which the first must be less than the second.
const IN_STRICT_ORDER: &[(&str, &str)] = &[
    ("group.consumer.heartbeat.interval.ms", "group.consumer.session.timeout.ms"),
    ("group.share.heartbeat.interval.ms", "group.share.session.timeout.ms"),
    ("group.streams.heartbeat.interval.ms", "group.streams.session.timeout.ms"),
];

/// Lists that must have an element: the name, and the element if it is a certain one.
const NEEDED_ELEMENTS: &[(&str, Option<&str>)] = &[
    ("group.consumer.assignors", None),
    ("group.coordinator.rebalance.protocols", Some("classic")),
    ("group.share.assignors", None),
];

/// Checks what must hold between values of the static level.
fn check_together(values: &BrokerValues<'_>) -> Result<(), String> {
    for (low, high) in IN_ORDER {
        if values.number(low) > values.number(high) {
            return Err(format!("{high} must be greater than or equal to {low}"));
        }
    }
    for (low, high) in IN_STRICT_ORDER {
        if values.number(low) >= values.number(high) {
            return Err(format!("{low} must be less than {high}"));
        }
    }
    for (name, needed) in NEEDED_ELEMENTS {
        if !values.list(name).any(|element| needed.is_none_or(|needed| needed == element)) {
            return Err(format!("{name} must contain {}", needed.unwrap_or("at least one element")));
        }
    }
    Ok(())
}

/// Checks values of a dynamic level: those that the table has, as [`check`] does.
///
/// # Errors
/// A sentence that names the first that is invalid.
pub(super) fn check_dynamic(values: &BTreeMap<String, String>) -> Result<(), String> {
    for (name, value) in values {
        let Some(def) = find(name) else { continue };
        def.config.check(value)?;
        check_as_topic_config(name, value)?;
    }
    Ok(())
}

fn check_as_topic_config(name: &str, value: &str) -> Result<(), String> {
    for def in TOPIC_CONFIGS {
        if let Some(synonym) = def.synonyms.iter().find(|synonym| synonym.name == name) {
            let setting = BTreeMap::from([(def.config.name.to_owned(), synonym.scale(value))]);
            topic_configs::check(&setting).map_err(|why| format!("{name} cannot be {value}: {why}"))?;
        }
    }
    Ok(())
}

/// What this broker was started with. Shared by all cores.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// This broker's id.
    pub node_id: i32,
    /// The static level, under Kafka's names; checked.
    pub static_configs: BTreeMap<String, String>,
}

impl Settings {
    /// Checks the static level and adds `node.id` and `broker.id` to it.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn new(node_id: i32, mut static_configs: BTreeMap<String, String>) -> Result<Arc<Settings>, String> {
        if node_id < 0 {
            return Err(format!("node.id is {node_id}; it must be at least 0."));
        }
        for name in ["node.id", "broker.id"] {
            static_configs.insert(name.to_owned(), node_id.to_string());
        }
        check(&static_configs)?;
        let settings = Settings { node_id, static_configs };
        check_together(&BrokerValues::new(&settings, &MetadataImage::default()))?;
        Ok(Arc::new(settings))
    }
}

/// Where a value comes from, with the code that DescribeConfigs gives it (`DescribeConfigsResponse.ConfigSource`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i8)]
pub enum ConfigSource {
    /// Set for the topic.
    DynamicTopic = 1,
    /// Set for this broker while it runs.
    DynamicBroker = 2,
    /// Set for all brokers while they run.
    DynamicDefaultBroker = 3,
    /// What this broker was started with.
    StaticBroker = 4,
    /// Nobody set it.
    Default = 5,
    /// The level of a broker's logger.
    BrokerLogger = 6,
    /// Set for a subscription to clients' metrics.
    ClientMetrics = 7,
    /// Set for a group.
    Group = 8,
}

impl ConfigSource {
    /// The code of the source on the wire.
    pub fn code(self) -> i8 {
        self as i8
    }
}

/// Values that were set at one level.
#[derive(Debug, Clone, Copy)]
pub struct Level<'a> {
    /// Which level.
    pub source: ConfigSource,
    /// The values by name.
    pub values: &'a BTreeMap<String, String>,
}

/// A broker's values at all levels.
#[derive(Debug, Clone, Copy, Default)]
pub struct BrokerValues<'a> {
    levels: [Option<Level<'a>>; 3],
}

impl<'a> BrokerValues<'a> {
    /// The values of the broker of `settings` under an image.
    pub fn new(settings: &'a Settings, image: &'a MetadataImage) -> BrokerValues<'a> {
        let level = |source, values| Some(Level { source, values });
        let own = image.broker_configs.get(&settings.node_id);
        BrokerValues {
            levels: [
                own.and_then(|values| level(ConfigSource::DynamicBroker, values)),
                level(ConfigSource::DynamicDefaultBroker, &image.cluster_configs),
                level(ConfigSource::StaticBroker, &settings.static_configs),
            ],
        }
    }

    /// The levels, from the one that wins.
    pub fn levels(&self) -> impl Iterator<Item = Level<'a>> + use<'a> {
        self.levels.into_iter().flatten()
    }

    /// The value in force; `None` if nobody set it and it has no default.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        let set = self.levels().find_map(|level| level.values.get(name));
        set.map(|value| value.trim()).or_else(|| find(name)?.config.default)
    }

    /// The value in force of a config that is a number and has a default.
    ///
    /// # Panics
    /// If the table has no such config.
    pub fn number(&self, name: &str) -> i64 {
        let text = self.text(name).expect("a broker config with a default");
        text.parse().expect("values are checked before they are kept")
    }

    /// The value in force of a config that is a number, if the table has it and it has a value.
    pub fn known_number(&self, name: &str) -> Option<i64> {
        find(name)?;
        self.text(name)?.parse().ok()
    }

    /// The elements of the value in force of a config that is a list and has a default.
    ///
    /// # Panics
    /// If the table has no such config.
    pub fn list(&self, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        configs::list(self.text(name).expect("a broker config with a default"))
    }

    /// The value in force of a config that is true or false.
    ///
    /// # Panics
    /// If the table has no such config.
    pub fn boolean(&self, name: &str) -> bool {
        self.text(name).expect("a broker config with a default").eq_ignore_ascii_case("true")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_its_defaults_are_valid() {
        assert!(KAFKAS_WORDS.is_sorted());
        for table in [BROKER_CONFIGS, INTERNAL_CONFIGS] {
            assert!(table.is_sorted_by(|a, b| a.config.name < b.config.name));
        }
        for def in BROKER_CONFIGS.iter().chain(INTERNAL_CONFIGS) {
            if let Some(default) = def.config.default {
                def.config.check(default).unwrap_or_else(|why| panic!("{why}"));
            }
        }
    }

    #[test]
    fn the_nearer_level_wins() {
        let statics = BTreeMap::from([("num.partitions".to_owned(), "3".to_owned())]);
        let settings = Settings::new(7, statics).expect("valid settings");
        let mut image = MetadataImage::default();
        let number = |image: &MetadataImage, name| BrokerValues::new(&settings, image).number(name);
        assert_eq!(number(&image, "num.partitions"), 3);
        assert_eq!(number(&image, "message.max.bytes"), 1_048_588);
        image.cluster_configs.insert("message.max.bytes".to_owned(), "2000".to_owned());
        assert_eq!(number(&image, "message.max.bytes"), 2000);
        image.broker_configs.insert(8, BTreeMap::from([("message.max.bytes".to_owned(), "1000".to_owned())]));
        assert_eq!(number(&image, "message.max.bytes"), 2000);
        image.broker_configs.insert(7, BTreeMap::from([("message.max.bytes".to_owned(), "3000".to_owned())]));
        assert_eq!(number(&image, "message.max.bytes"), 3000);
    }

    #[test]
    fn a_broker_value_is_valid_as_a_topic_value() {
        let refused = |name: &str, value: &str| {
            Settings::new(0, BTreeMap::from([(name.to_owned(), value.to_owned())])).expect_err("an invalid value")
        };
        refused("log.roll.ms", "0");
        refused("log.retention.ms", "-2");
        refused("no.such.config", "1");
        refused("sasl.enabled.mechanisms", "PLAIN");
    }

    #[test]
    fn settings_of_groups_that_do_not_go_together_are_refused() {
        let with = |name: &str, value: &str| Settings::new(0, BTreeMap::from([(name.to_owned(), value.to_owned())]));
        for (name, value) in [
            ("group.consumer.session.timeout.ms", "44999"),
            ("group.consumer.session.timeout.ms", "60001"),
            ("group.consumer.min.heartbeat.interval.ms", "5001"),
            ("group.share.max.heartbeat.interval.ms", "4999"),
            ("group.share.record.lock.duration.ms", "60001"),
            ("group.share.max.share.sessions", "199"),
            ("group.consumer.assignors", ""),
            ("group.consumer.assignors", "uniform,mine"),
            ("group.consumer.migration.policy", "sideways"),
            ("group.coordinator.rebalance.protocols", "consumer"),
            ("group.coordinator.rebalance.protocols", "classic,quick"),
        ] {
            with(name, value).expect_err(&format!("{name} must not be {value}"));
        }
        for (name, value) in [
            ("group.consumer.session.timeout.ms", "60000"),
            ("group.consumer.migration.policy", "Upgrade"),
            ("group.coordinator.rebalance.protocols", "classic"),
        ] {
            with(name, value).unwrap_or_else(|why| panic!("{name} may be {value}: {why}"));
        }
    }
}
