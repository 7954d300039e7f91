//! What each config is for, in one sentence of ours: DescribeConfigs shows it to who asks for documentation.
//!
//! Two tables, sorted by name, hold all configs of all resources between them: those that act here, and those that
//! are kept and shown and do nothing more, because tools set them. The README lists the latter.

/// Configs that act.
pub const ACTING: &[(&str, &str)] = &[
    (
        "advertised.listeners",
        "Where clients are told to connect: the listeners under the names by which clients can reach them.",
    ),
    ("allow.everyone.if.no.acl.found", "Whether everyone may do what no ACL speaks of."),
    ("authorizer.class.name", "Who decides what clients may do: empty for nobody, or the standard authorizer of ACLs."),
    ("auto.create.topics.enable", "Whether a topic is made when a client asks for its metadata and allows it."),
    ("broker.id", "This broker's id, under its older name."),
    (
        "cleanup.policy",
        "What becomes of old records. With delete their start may be moved by DeleteRecords; with compact every record needs a key. Neither retention nor compaction runs yet.",
    ),
    ("compression.gzip.level", "The level at which batches are recompressed with gzip; -1 is gzip's own default."),
    ("compression.lz4.level", "The level at which batches are recompressed with LZ4."),
    (
        "compression.type",
        "The codec in which batches are stored: producer keeps the producer's own, any other recompresses those that differ.",
    ),
    ("compression.zstd.level", "The level at which batches are recompressed with Zstandard."),
    ("connections.max.idle.ms", "How long a connection may be silent until it is closed."),
    ("consumer.heartbeat.interval.ms", "How often members of this consumer group report that they live."),
    (
        "consumer.session.timeout.ms",
        "How long a member of this consumer group may be silent until it is taken for gone.",
    ),
    ("controller.quota.window.num", "Over how many windows the rate of topic changes is measured."),
    (
        "controller.quota.window.size.seconds",
        "How long each window is over which the rate of topic changes is measured.",
    ),
    ("default.replication.factor", "How many replicas a topic gets that does not say."),
    ("delete.topic.enable", "Whether topics may be deleted."),
    (
        "durability",
        "When a producer is answered: flushed is once the records are on stable storage, relaxed is before that.",
    ),
    ("fetch.max.bytes", "The most bytes that an answer to a Fetch holds, unless a single batch is larger."),
    ("group.consumer.assignors", "The assignors that members of consumer groups may choose; the first is the default."),
    (
        "group.consumer.heartbeat.interval.ms",
        "How often members of consumer groups report that they live, where the group does not say.",
    ),
    ("group.consumer.max.heartbeat.interval.ms", "The greatest heartbeat interval that a consumer group may be given."),
    ("group.consumer.max.session.timeout.ms", "The greatest session time-out that a consumer group may be given."),
    ("group.consumer.max.size", "How many members a consumer group may have."),
    (
        "group.consumer.migration.policy",
        "Whether groups may be converted between the classic and the consumer protocol, and in which direction.",
    ),
    ("group.consumer.min.heartbeat.interval.ms", "The least heartbeat interval that a consumer group may be given."),
    ("group.consumer.min.session.timeout.ms", "The least session time-out that a consumer group may be given."),
    (
        "group.consumer.regex.refresh.interval.ms",
        "How often the topics of a subscribed pattern are looked up again when nothing has changed.",
    ),
    (
        "group.consumer.session.timeout.ms",
        "How long a member of a consumer group may be silent until it is taken for gone, where the group does not say.",
    ),
    ("group.coordinator.rebalance.protocols", "The group protocols that are served."),
    (
        "group.initial.rebalance.delay.ms",
        "How long the first rebalance of an empty classic group waits for more members.",
    ),
    ("group.max.session.timeout.ms", "The greatest session time-out that members of classic groups may ask for."),
    ("group.max.size", "How many members a classic group may have."),
    ("group.min.session.timeout.ms", "The least session time-out that members of classic groups may ask for."),
    (
        "group.share.delivery.count.limit",
        "How often a record is given to members of a share group before it is given up.",
    ),
    (
        "group.share.heartbeat.interval.ms",
        "How often members of share groups report that they live, where the group does not say.",
    ),
    ("group.share.max.heartbeat.interval.ms", "The greatest heartbeat interval that a share group may be given."),
    (
        "group.share.max.record.lock.duration.ms",
        "The longest time for which a share group may let a member hold records.",
    ),
    ("group.share.max.session.timeout.ms", "The greatest session time-out that a share group may be given."),
    ("group.share.max.share.sessions", "How many share sessions are kept."),
    ("group.share.max.size", "How many members a share group may have."),
    ("group.share.min.heartbeat.interval.ms", "The least heartbeat interval that a share group may be given."),
    (
        "group.share.min.record.lock.duration.ms",
        "The shortest time for which a share group may let a member hold records.",
    ),
    ("group.share.min.session.timeout.ms", "The least session time-out that a share group may be given."),
    (
        "group.share.partition.max.record.locks",
        "How many records of a share partition may be in members' hands at a time.",
    ),
    (
        "group.share.record.lock.duration.ms",
        "How long a member of a share group holds records, where the group does not say.",
    ),
    (
        "group.share.session.timeout.ms",
        "How long a member of a share group may be silent until it is taken for gone, where the group does not say.",
    ),
    (
        "group.streams.heartbeat.interval.ms",
        "The heartbeat interval that streams groups show where they are not given one.",
    ),
    ("group.streams.max.heartbeat.interval.ms", "The greatest heartbeat interval that a streams group may be given."),
    ("group.streams.max.session.timeout.ms", "The greatest session time-out that a streams group may be given."),
    ("group.streams.min.heartbeat.interval.ms", "The least heartbeat interval that a streams group may be given."),
    ("group.streams.min.session.timeout.ms", "The least session time-out that a streams group may be given."),
    ("group.streams.session.timeout.ms", "The session time-out that streams groups show where they are not given one."),
    ("listeners", "Where this broker listens."),
    ("log.cleanup.policy", "What becomes of old records of topics that do not say; see cleanup.policy."),
    ("log.dirs", "The directory that this broker keeps its data in."),
    ("log.message.timestamp.after.max.ms", "How far records' times may lie in the future, for topics that do not say."),
    ("log.message.timestamp.before.max.ms", "How far records' times may lie in the past, for topics that do not say."),
    (
        "log.message.timestamp.type",
        "Whether records keep their producer's time or get that of their append, for topics that do not say.",
    ),
    ("log.roll.hours", "The age at which a segment is closed, in hours; finer units win."),
    ("log.roll.ms", "The age at which a segment is closed, for topics that do not say."),
    ("log.segment.bytes", "The size at which a segment is closed, for topics that do not say."),
    ("max.connection.creation.rate", "How many connections are accepted in a second."),
    ("max.connections", "How many connections may be open."),
    ("max.incremental.fetch.session.cache.slots", "How many fetch sessions are kept."),
    ("max.message.bytes", "The largest batch that is taken, as it is stored, with its header."),
    ("max.request.partition.size.limit", "How many partitions an answer to DescribeTopicPartitions holds."),
    ("message.max.bytes", "The largest batch that is taken, for topics that do not say."),
    ("message.timestamp.after.max.ms", "How far a record's time may lie in the future."),
    ("message.timestamp.before.max.ms", "How far a record's time may lie in the past."),
    ("message.timestamp.type", "Whether records keep their producer's time or get that of their append."),
    ("node.id", "This broker's id."),
    ("num.partitions", "How many partitions a topic gets that does not say."),
    ("offset.metadata.max.bytes", "How long the text may be that is committed with an offset, in UTF-16 units."),
    (
        "offsets.retention.check.interval.ms",
        "How often committed offsets are looked through for those that have expired.",
    ),
    ("offsets.retention.minutes", "How long committed offsets are kept after their group has become empty."),
    ("offsets.topic.num.partitions", "How many partitions the topic of committed offsets is made with."),
    ("offsets.topic.segment.bytes", "The segment size that the topic of committed offsets is made with."),
    ("producer.id.expiration.ms", "How long a partition remembers a producer that appends nothing."),
    ("quota.window.num", "Over how many windows the use of clients under a quota is measured."),
    ("quota.window.size.seconds", "How long each window is over which the use of clients is measured."),
    ("remote.storage.enable", "Whether segments go to tiered storage, which there is none of: only false is taken."),
    ("segment.bytes", "The size at which a segment is closed and the next begun."),
    ("segment.ms", "The age at which a segment is closed and the next begun."),
    ("share.auto.offset.reset", "Where a share group begins in a partition that is new to it."),
    (
        "share.coordinator.cold.partition.snapshot.interval.ms",
        "How often the state of share partitions is written anew that has not changed.",
    ),
    (
        "share.coordinator.snapshot.update.records.per.snapshot",
        "How many changes of a share partition's state are recorded between two whole states.",
    ),
    (
        "share.coordinator.state.topic.num.partitions",
        "How many partitions the topic of share groups' state is made with.",
    ),
    (
        "share.coordinator.state.topic.prune.interval.ms",
        "How often records of share groups' state that are out of date are given up.",
    ),
    (
        "share.coordinator.state.topic.segment.bytes",
        "The segment size that the topic of share groups' state is made with.",
    ),
    ("share.heartbeat.interval.ms", "How often members of this share group report that they live."),
    (
        "share.isolation.level",
        "Whether this share group is given records of transactions only when they are committed.",
    ),
    (
        "share.record.lock.duration.ms",
        "How long a member of this share group holds records that it has not acknowledged.",
    ),
    ("share.session.timeout.ms", "How long a member of this share group may be silent until it is taken for gone."),
    ("socket.request.max.bytes", "The largest request that is read."),
    ("super.users", "The principals that may do everything, separated by semicolons."),
    ("transaction.max.timeout.ms", "The longest time-out that a transactional producer may ask for."),
    (
        "transaction.partition.verification.enable",
        "Whether a batch of a transaction is appended only when its partition is known to be part of it.",
    ),
    ("transaction.state.log.num.partitions", "How many partitions the topic of transactions is made with."),
    ("transaction.state.log.segment.bytes", "The segment size that the topic of transactions is made with."),
    ("transactional.id.expiration.ms", "How long a transactional id is kept that nobody uses."),
];

/// Configs that are kept and shown alone.
pub const ECHOED: &[(&str, &str)] = &[
    ("auto.leader.rebalance.enable", "Whether leadership returns to preferred replicas by itself."),
    ("background.threads", "Threads for work in the background."),
    ("broker.rack", "The rack that this broker stands in."),
    ("controlled.shutdown.enable", "Whether leadership moves away before a broker stops."),
    (
        "delete.records.purgatory.purge.interval.requests",
        "How often finished deletions are swept from among those that wait.",
    ),
    ("delete.retention.ms", "How long compaction keeps tombstones."),
    ("fetch.purgatory.purge.interval.requests", "How often finished fetches are swept from among those that wait."),
    ("file.delete.delay.ms", "How long the file of a deleted segment stays."),
    (
        "flush.messages",
        "After how many records a log is flushed. Here every record is flushed before it is acknowledged.",
    ),
    ("flush.ms", "After how long a log is flushed. Here every record is flushed before it is acknowledged."),
    ("follower.replication.throttled.rate", "How fast this broker fetches throttled replicas, in bytes a second."),
    ("follower.replication.throttled.replicas", "The replicas whose fetching is throttled at their followers."),
    ("group.coordinator.append.linger.ms", "How long a coordinator collects records before it appends them."),
    ("group.coordinator.threads", "Threads of the group coordinator."),
    ("group.share.assignors", "The assignor of share groups."),
    ("group.streams.max.size", "How many members a streams group may have."),
    ("group.streams.max.standby.replicas", "The most standby replicas that a streams group may be given."),
    ("group.streams.num.standby.replicas", "The standby replicas of a streams group's tasks."),
    ("index.interval.bytes", "How many bytes of a log lie between two entries of its index."),
    ("interval.ms", "How often clients send the metrics of this subscription."),
    ("leader.replication.throttled.rate", "How fast this broker sends throttled replicas, in bytes a second."),
    ("leader.replication.throttled.replicas", "The replicas whose fetching is throttled at their leaders."),
    ("listener.security.protocol.map", "Which security protocol each listener speaks."),
    ("local.retention.bytes", "How much of a tiered partition stays on this disk."),
    ("local.retention.ms", "How long records of a tiered partition stay on this disk."),
    ("log.cleaner.backoff.ms", "How long compaction rests when there is nothing to compact."),
    ("log.cleaner.dedupe.buffer.size", "Memory for the keys that compaction compares."),
    ("log.cleaner.delete.retention.ms", "How long compaction keeps tombstones, for topics that do not say."),
    ("log.cleaner.enable", "Whether logs are compacted."),
    ("log.cleaner.io.buffer.load.factor", "How full compaction's table of keys may be."),
    ("log.cleaner.io.buffer.size", "Memory for what compaction reads and writes."),
    ("log.cleaner.io.max.bytes.per.second", "How fast compaction reads and writes."),
    ("log.cleaner.max.compaction.lag.ms", "How old an uncompacted record may become, for topics that do not say."),
    (
        "log.cleaner.min.cleanable.ratio",
        "The uncompacted share of a log that makes it worth compacting, for topics that do not say.",
    ),
    ("log.cleaner.min.compaction.lag.ms", "How old a record must be to be compacted, for topics that do not say."),
    ("log.cleaner.threads", "Threads that compact."),
    ("log.dir", "The data directory, where log.dirs does not name it."),
    ("log.flush.interval.messages", "After how many records a log is flushed, for topics that do not say."),
    ("log.flush.interval.ms", "After how long a log is flushed, for topics that do not say."),
    ("log.flush.scheduler.interval.ms", "How often logs are looked at for a flush that is due."),
    (
        "log.index.interval.bytes",
        "How many bytes of a log lie between two entries of its index, for topics that do not say.",
    ),
    ("log.index.size.max.bytes", "The largest index of a segment, for topics that do not say."),
    ("log.local.retention.bytes", "How much of a tiered partition stays on this disk, for topics that do not say."),
    ("log.local.retention.ms", "How long records of a tiered partition stay on this disk, for topics that do not say."),
    ("log.preallocate", "Whether a segment's file gets its whole size at once, for topics that do not say."),
    ("log.retention.bytes", "How much of a partition is kept, for topics that do not say."),
    ("log.retention.check.interval.ms", "How often logs are looked through for what may go."),
    ("log.retention.hours", "How long records are kept, in hours; finer units win."),
    ("log.retention.minutes", "How long records are kept, in minutes; milliseconds win."),
    ("log.retention.ms", "How long records are kept, for topics that do not say."),
    ("log.roll.jitter.hours", "The most that is taken at random off a segment's greatest age, in hours."),
    (
        "log.roll.jitter.ms",
        "The most that is taken at random off a segment's greatest age, for topics that do not say.",
    ),
    ("log.segment.delete.delay.ms", "How long the file of a deleted segment stays, for topics that do not say."),
    ("match", "Which clients this subscription is for: patterns of what they say of themselves."),
    ("max.compaction.lag.ms", "How old an uncompacted record may become."),
    ("max.connections.per.ip", "How many connections one address may have open."),
    ("max.connections.per.ip.overrides", "Other numbers of connections for single addresses."),
    ("metrics", "The metrics of this subscription, by the beginnings of their names."),
    ("min.cleanable.dirty.ratio", "The uncompacted share of a log that makes it worth compacting."),
    ("min.compaction.lag.ms", "How old a record must be to be compacted."),
    (
        "min.insync.replicas",
        "How many replicas must be in sync for a batch with acks=all. A partition of one replica always has them.",
    ),
    ("num.io.threads", "Threads that serve requests."),
    ("num.network.threads", "Threads that read and write connections."),
    ("num.recovery.threads.per.data.dir", "Threads that read logs at a start."),
    ("num.replica.fetchers", "Threads that fetch from each leader."),
    ("offsets.commit.timeout.ms", "How long a commit may wait for its replicas."),
    ("offsets.load.buffer.size", "How much of the topic of committed offsets is read at a time."),
    ("offsets.topic.compression.codec", "The codec of the topic of committed offsets."),
    (
        "offsets.topic.replication.factor",
        "How many replicas the topic of committed offsets is made with. It is made with as many as there are brokers.",
    ),
    ("preallocate", "Whether a segment's file gets its whole size at once."),
    ("process.roles", "What this process is: broker, controller or both."),
    ("producer.purgatory.purge.interval.requests", "How often finished produces are swept from among those that wait."),
    ("queued.max.requests", "How many requests may wait to be served."),
    ("remote.fetch.max.wait.ms", "How long a fetch waits for tiered storage."),
    ("remote.list.offsets.request.timeout.ms", "How long ListOffsets waits for tiered storage."),
    ("remote.log.copy.disable", "Whether a tiered topic copies nothing more to tiered storage."),
    ("remote.log.delete.on.disable", "Whether a topic's records in tiered storage go when it is no longer tiered."),
    ("remote.log.index.file.cache.total.size.bytes", "How much of tiered segments' indexes is kept on this disk."),
    ("remote.log.manager.copier.thread.pool.size", "Threads that copy to tiered storage."),
    ("remote.log.manager.copy.max.bytes.per.second", "How fast is copied to tiered storage."),
    ("remote.log.manager.expiration.thread.pool.size", "Threads that delete in tiered storage."),
    ("remote.log.manager.fetch.max.bytes.per.second", "How fast is read from tiered storage."),
    ("remote.log.reader.threads", "Threads that read from tiered storage."),
    ("remote.log.storage.system.enable", "Whether there is tiered storage."),
    ("replica.alter.log.dirs.io.max.bytes.per.second", "How fast replicas move between directories."),
    ("replica.fetch.max.bytes", "How much of a partition a follower asks for."),
    ("replica.fetch.min.bytes", "How much a follower waits for."),
    ("replica.fetch.response.max.bytes", "The most bytes that an answer to a follower holds."),
    ("replica.fetch.wait.max.ms", "How long a follower's fetch may wait."),
    ("replica.lag.time.max.ms", "How long a follower may lag until it is out of sync."),
    ("request.timeout.ms", "How long this broker waits for answers of others."),
    ("retention.bytes", "How much of a partition is kept; -1 is all."),
    ("retention.ms", "How long records are kept; -1 is for ever."),
    ("sasl.enabled.mechanisms", "The SASL mechanisms that clients may choose."),
    ("sasl.kerberos.kinit.cmd", "The command that gets a Kerberos ticket."),
    ("sasl.kerberos.min.time.before.relogin", "How long to wait between two Kerberos logins."),
    ("sasl.kerberos.principal.to.local.rules", "How Kerberos principals become short names."),
    ("sasl.kerberos.service.name", "The Kerberos name of this service."),
    ("sasl.kerberos.ticket.renew.jitter", "How much the time of a ticket's renewal varies at random."),
    ("sasl.kerberos.ticket.renew.window.factor", "After which part of its life a ticket is renewed."),
    ("sasl.login.refresh.buffer.seconds", "How long before its end a token must have been renewed."),
    ("sasl.login.refresh.min.period.seconds", "How long to wait at least until a token is renewed."),
    ("sasl.login.refresh.window.factor", "After which part of its life a token is renewed."),
    ("sasl.login.refresh.window.jitter", "How much the time of a token's renewal varies at random."),
    ("sasl.mechanism.inter.broker.protocol", "The SASL mechanism between brokers."),
    ("segment.index.bytes", "The largest index of a segment."),
    ("segment.jitter.ms", "The most that is taken at random off a segment's greatest age."),
    ("share.coordinator.append.linger.ms", "How long a share coordinator collects records before it appends them."),
    ("share.coordinator.load.buffer.size", "How much of the topic of share groups' state is read at a time."),
    ("share.coordinator.state.topic.compression.codec", "The codec of the topic of share groups' state."),
    ("share.coordinator.state.topic.min.isr", "How many replicas of share groups' state must be in sync."),
    (
        "share.coordinator.state.topic.replication.factor",
        "How many replicas the topic of share groups' state is made with. It is made with as many as there are brokers.",
    ),
    ("share.coordinator.threads", "Threads of the share coordinator."),
    ("share.coordinator.write.timeout.ms", "How long a share coordinator's write may wait for its replicas."),
    (
        "share.fetch.purgatory.purge.interval.requests",
        "How often finished fetches of share groups are swept from among those that wait.",
    ),
    ("socket.listen.backlog.size", "How many connections may wait to be accepted."),
    ("socket.receive.buffer.bytes", "The kernel's buffer for what a connection receives."),
    ("socket.send.buffer.bytes", "The kernel's buffer for what a connection sends."),
    ("ssl.cipher.suites", "The TLS ciphers that may be used."),
    ("ssl.client.auth", "Whether TLS clients must, may or need not show a certificate."),
    ("ssl.enabled.protocols", "The versions of TLS that may be used."),
    ("ssl.endpoint.identification.algorithm", "How the name in a TLS peer's certificate is checked."),
    ("ssl.keymanager.algorithm", "The algorithm of the manager of TLS keys."),
    ("ssl.protocol", "The version of TLS that is preferred."),
    ("ssl.provider", "The provider of TLS."),
    ("ssl.secure.random.implementation", "The source of chance for TLS."),
    ("ssl.trustmanager.algorithm", "The algorithm of the manager of trusted certificates."),
    ("streams.heartbeat.interval.ms", "How often members of this streams group report that they live."),
    ("streams.num.standby.replicas", "The standby replicas of this streams group's tasks."),
    ("streams.session.timeout.ms", "How long a member of this streams group may be silent until it is taken for gone."),
    (
        "transaction.abort.timed.out.transaction.cleanup.interval.ms",
        "How often transactions are looked through for those whose time is over.",
    ),
    (
        "transaction.remove.expired.transaction.cleanup.interval.ms",
        "How often transactional ids are looked through for those that nobody uses.",
    ),
    ("transaction.state.log.load.buffer.size", "How much of the topic of transactions is read at a time."),
    ("transaction.state.log.min.isr", "How many replicas of the topic of transactions must be in sync."),
    (
        "transaction.state.log.replication.factor",
        "How many replicas the topic of transactions is made with. It is made with as many as there are brokers.",
    ),
    ("transaction.two.phase.commit.enable", "Whether transactions may be prepared by a coordinator outside."),
    (
        "unclean.leader.election.enable",
        "Whether a replica out of sync may become leader. With one replica there is none.",
    ),
];

/// What the config of that name is for; `None` if there is no such config.
pub fn documentation(name: &str) -> Option<String> {
    let find = |table: &'static [(&str, &str)]| {
        let index = table.binary_search_by_key(&name, |(name, _)| *name).ok()?;
        Some(table[index].1)
    };
    let echoed = || Some(format!("{} It is kept and shown, and has no effect in this broker.", find(ECHOED)?));
    find(ACTING).map(str::to_owned).or_else(echoed)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::broker_configs::{BROKER_CONFIGS, INTERNAL_CONFIGS};
    use super::super::resource_configs::{CLIENT_METRICS_CONFIGS, GROUP_CONFIGS};
    use super::super::topic_configs::TOPIC_CONFIGS;
    use super::*;

    #[test]
    fn each_config_has_its_sentence_and_the_readme_lists_those_that_do_nothing() {
        let brokers = BROKER_CONFIGS.iter().chain(INTERNAL_CONFIGS).map(|def| def.config.name);
        let topics = TOPIC_CONFIGS.iter().map(|def| def.config.name);
        let others = GROUP_CONFIGS.iter().chain(CLIENT_METRICS_CONFIGS).map(|def| def.config.name);
        let configs: BTreeSet<_> = brokers.chain(topics).chain(others).collect();
        let documented: BTreeSet<_> = ACTING.iter().chain(ECHOED).map(|(name, _)| *name).collect();
        assert_eq!(documented, configs);
        assert_eq!(documented.len(), ACTING.len() + ECHOED.len(), "a config is in one table");
        assert!(ACTING.is_sorted() && ECHOED.is_sorted());

        let readme = include_str!("../../../README.md");
        let (_, section) = readme.split_once("## Configs that are kept and shown alone").expect("the section");
        let section = section.split("\n## ").next().expect("its text");
        let rows = section.lines().filter(|line| line.starts_with('|'));
        let listed: BTreeSet<_> = rows.flat_map(|row| row.split('`').skip(1).step_by(2)).collect();
        let echoed: BTreeSet<_> = ECHOED.iter().map(|(name, _)| *name).collect();
        assert_eq!(listed, echoed);
    }

    #[test]
    fn who_reads_the_documentation_learns_what_has_no_effect() {
        let text = |name| documentation(name).expect("a config");
        assert!(text("retention.ms").ends_with("It is kept and shown, and has no effect in this broker."));
        assert_eq!(text("num.partitions"), "How many partitions a topic gets that does not say.");
        assert_eq!(documentation("no.such.config"), None);
    }
}
