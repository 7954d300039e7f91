//! The configs of a topic: the table, and the rules between them.
//!
//! The table is `LogConfig.java`'s of Kafka 4.1, without `internal.segment.bytes`, and with one of ours,
//! [`DURABILITY`]. It is sorted by name. Configs that this broker has no use for are kept and shown, because
//! tools set them (`super::config_docs::ECHOED` names them); what would keep records elsewhere is refused.

use std::collections::BTreeMap;

use super::configs::{ConfigDef, ConfigType as T, Valid as V};

/// When a producer is answered: `flushed` once the records are on stable storage, `relaxed` before.
pub const DURABILITY: &str = "durability";

/// A broker config that gives a topic config its value where the topic has none of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Synonym {
    /// The broker config's name.
    pub name: &'static str,
    /// Units of the topic config in one unit of the broker config.
    pub factor: i64,
}

impl Synonym {
    /// A broker's value in the topic config's unit. A negative time means "for ever" in any unit.
    pub(super) fn scale(&self, value: &str) -> String {
        if self.factor == 1 {
            return value.to_owned();
        }
        let number: i64 = value.trim().parse().expect("values are checked before they are kept");
        if number < 0 { "-1".to_owned() } else { number.saturating_mul(self.factor).to_string() }
    }
}

/// A topic config.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TopicConfigDef {
    /// Its definition.
    pub config: ConfigDef,
    /// Where the broker's value comes from, most specific first (`ServerTopicConfigSynonyms.java`).
    pub synonyms: &'static [Synonym],
}

const fn def(
    name: &'static str,
    kind: T,
    default: &'static str,
    valid: V,
    synonyms: &'static [Synonym],
) -> TopicConfigDef {
    TopicConfigDef { config: ConfigDef::new(name, kind, Some(default), valid), synonyms }
}

macro_rules! from {
    ($($name:literal $(* $factor:literal)?),*) => {
        &[$(Synonym { name: $name, factor: 1 $(* $factor)? }),*]
    };
}

const CODECS: V = V::OneOf(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]);
const MAX: &str = "9223372036854775807";

/// All topic configs, sorted by name.
pub const TOPIC_CONFIGS: &[TopicConfigDef] = &[
    def("cleanup.policy", T::List, "delete", V::OneOf(&["compact", "delete"]), from!["log.cleanup.policy"]),
    def("compression.gzip.level", T::Int, "-1", V::GzipLevel, from!["compression.gzip.level"]),
    def("compression.lz4.level", T::Int, "9", V::Between(1, 17), from!["compression.lz4.level"]),
    def("compression.type", T::String, "producer", CODECS, from!["compression.type"]),
    def("compression.zstd.level", T::Int, "3", V::Between(-131_072, 22), from!["compression.zstd.level"]),
    def("delete.retention.ms", T::Long, "86400000", V::AtLeast(0), from!["log.cleaner.delete.retention.ms"]),
    def(DURABILITY, T::String, "flushed", V::OneOf(&["flushed", "relaxed"]), from![]),
    def("file.delete.delay.ms", T::Long, "60000", V::AtLeast(0), from!["log.segment.delete.delay.ms"]),
    def("flush.messages", T::Long, MAX, V::AtLeast(1), from!["log.flush.interval.messages"]),
    def("flush.ms", T::Long, MAX, V::AtLeast(0), from!["log.flush.interval.ms", "log.flush.scheduler.interval.ms"]),
    def("follower.replication.throttled.replicas", T::List, "", V::ThrottledReplicas, from![]),
    def("index.interval.bytes", T::Int, "4096", V::AtLeast(0), from!["log.index.interval.bytes"]),
    def("leader.replication.throttled.replicas", T::List, "", V::ThrottledReplicas, from![]),
    def("local.retention.bytes", T::Long, "-2", V::AtLeast(-2), from!["log.local.retention.bytes"]),
    def("local.retention.ms", T::Long, "-2", V::AtLeast(-2), from!["log.local.retention.ms"]),
    def("max.compaction.lag.ms", T::Long, MAX, V::AtLeast(1), from!["log.cleaner.max.compaction.lag.ms"]),
    def("max.message.bytes", T::Int, "1048588", V::AtLeast(0), from!["message.max.bytes"]),
    def(
        "message.timestamp.after.max.ms",
        T::Long,
        "3600000",
        V::AtLeast(0),
        from!["log.message.timestamp.after.max.ms"],
    ),
    def("message.timestamp.before.max.ms", T::Long, MAX, V::AtLeast(0), from!["log.message.timestamp.before.max.ms"]),
    def(
        "message.timestamp.type",
        T::String,
        "CreateTime",
        V::OneOf(&["CreateTime", "LogAppendTime"]),
        from!["log.message.timestamp.type"],
    ),
    def("min.cleanable.dirty.ratio", T::Double, "0.5", V::Ratio, from!["log.cleaner.min.cleanable.ratio"]),
    def("min.compaction.lag.ms", T::Long, "0", V::AtLeast(0), from!["log.cleaner.min.compaction.lag.ms"]),
    def("min.insync.replicas", T::Int, "1", V::AtLeast(1), from!["min.insync.replicas"]),
    def("preallocate", T::Boolean, "false", V::Any, from!["log.preallocate"]),
    def("remote.log.copy.disable", T::Boolean, "false", V::Any, from![]),
    def("remote.log.delete.on.disable", T::Boolean, "false", V::Any, from![]),
    def("remote.storage.enable", T::Boolean, "false", V::Any, from![]),
    def("retention.bytes", T::Long, "-1", V::Any, from!["log.retention.bytes"]),
    def(
        "retention.ms",
        T::Long,
        "604800000",
        V::AtLeast(-1),
        from!["log.retention.ms", "log.retention.minutes" * 60_000, "log.retention.hours" * 3_600_000],
    ),
    def("segment.bytes", T::Int, "1073741824", V::AtLeast(1 << 20), from!["log.segment.bytes"]),
    def("segment.index.bytes", T::Int, "10485760", V::AtLeast(4), from!["log.index.size.max.bytes"]),
    def(
        "segment.jitter.ms",
        T::Long,
        "0",
        V::AtLeast(0),
        from!["log.roll.jitter.ms", "log.roll.jitter.hours" * 3_600_000],
    ),
    def("segment.ms", T::Long, "604800000", V::AtLeast(1), from!["log.roll.ms", "log.roll.hours" * 3_600_000]),
    def("unclean.leader.election.enable", T::Boolean, "false", V::Any, from!["unclean.leader.election.enable"]),
];

/// The topic config of that name.
pub fn find(name: &str) -> Option<&'static TopicConfigDef> {
    let index = TOPIC_CONFIGS.binary_search_by(|def| def.config.name.cmp(name)).ok()?;
    Some(&TOPIC_CONFIGS[index])
}

/// Checks all settings of a topic, alone and together.
///
/// # Errors
/// The sentence for the client.
pub fn check(settings: &BTreeMap<String, String>) -> Result<(), String> {
    check_each(settings)?;
    check_unsupported(settings)?;
    check_compaction_lags(settings)
}

/// Checks each setting alone: known, and a value of its definition.
pub(super) fn check_each(settings: &BTreeMap<String, String>) -> Result<(), String> {
    for name in settings.keys() {
        find(name).ok_or_else(|| format!("Unknown topic config name: {name}"))?;
    }
    for (name, value) in settings {
        find(name).expect("looked up above").config.check(value)?;
    }
    Ok(())
}

fn check_unsupported(settings: &BTreeMap<String, String>) -> Result<(), String> {
    let remote = settings.get("remote.storage.enable");
    if remote.is_some_and(|value| value.trim().eq_ignore_ascii_case("true")) {
        return Err("Tiered Storage functionality is disabled in the broker. \
                    Topic cannot be configured with remote log storage."
            .to_owned());
    }
    Ok(())
}

fn check_compaction_lags(settings: &BTreeMap<String, String>) -> Result<(), String> {
    let value = |name: &str| {
        let set = settings.get(name).map(String::as_str);
        let text = set.or(find(name)?.config.default)?;
        text.trim().parse::<i64>().ok()
    };
    let (least, most) = (value("min.compaction.lag.ms"), value("max.compaction.lag.ms"));
    match (least, most) {
        (Some(least), Some(most)) if least > most => Err(format!(
            "conflict topic config setting min.compaction.lag.ms ({least}) > max.compaction.lag.ms ({most})"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::broker_configs;
    use super::*;

    #[test]
    fn the_table_is_sorted_and_its_defaults_are_valid() {
        assert_eq!(TOPIC_CONFIGS.len(), 33 + 1);
        assert!(TOPIC_CONFIGS.is_sorted_by(|a, b| a.config.name < b.config.name));
        for def in TOPIC_CONFIGS {
            def.config.check(def.config.default.expect("a default")).expect("a valid default");
            for synonym in def.synonyms {
                broker_configs::find(synonym.name).expect("a synonym is a broker config");
            }
        }
    }

    #[test]
    fn settings_are_checked_together() {
        let check = |pairs: &[(&str, &str)]| {
            let settings = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            check(&settings)
        };
        check(&[("cleanup.policy", "compact,delete"), ("retention.ms", "-1")]).expect("valid settings");
        assert_eq!(check(&[("nosuch", "1")]), Err("Unknown topic config name: nosuch".to_owned()));
        check(&[("remote.storage.enable", "true")]).expect_err("no tiered storage here");
        for name in ["unclean.leader.election.enable", "remote.log.copy.disable", "remote.log.delete.on.disable"] {
            check(&[(name, "true")]).expect("what means nothing here is kept and shown");
        }
        check(&[("min.compaction.lag.ms", "10"), ("max.compaction.lag.ms", "9")]).expect_err("a conflict");
        check(&[("durability", "maybe")]).expect_err("neither flushed nor relaxed");
    }
}
