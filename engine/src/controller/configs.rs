//! What a config is: its type, its default, its valid values; and the values of a topic as shards use them.
//!
//! A value is text under Kafka's name, checked against its definition before it becomes a record, so all text
//! in an image parses. Messages to clients have Kafka's words (`ConfigDef.java`, `LogConfig.java`): tools show
//! them. This module knows no requests.

use std::collections::BTreeMap;

use super::broker_configs::BrokerValues;
use super::topic_configs::{self, TopicConfigDef};
use crate::record::Codec;

/// The longest value that is taken, in bytes.
pub const MAX_VALUE_BYTES: usize = 256 << 10;

/// A config's type, with the code that DescribeConfigs gives it (`DescribeConfigsResponse.ConfigType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub enum ConfigType {
    /// `true` or `false`, in any case.
    Boolean = 1,
    /// Text.
    String = 2,
    /// 32 bits, signed.
    Int = 3,
    /// 16 bits, signed.
    Short = 4,
    /// 64 bits, signed.
    Long = 5,
    /// A double.
    Double = 6,
    /// Texts, separated by commas.
    List = 7,
    /// A secret: never shown.
    Password = 9,
}

impl ConfigType {
    /// Kafka's name of the type.
    pub fn name(self) -> &'static str {
        match self {
            ConfigType::Boolean => "BOOLEAN",
            ConfigType::String => "STRING",
            ConfigType::Int => "INT",
            ConfigType::Short => "SHORT",
            ConfigType::Long => "LONG",
            ConfigType::Double => "DOUBLE",
            ConfigType::List => "LIST",
            ConfigType::Password => "PASSWORD",
        }
    }

    /// The code of the type on the wire.
    pub fn code(self) -> i8 {
        self as i8
    }
}

/// Which values of a config's type are valid.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Valid {
    /// All.
    Any,
    /// Numbers from this one.
    AtLeast(i64),
    /// Numbers from the first to the second.
    Between(i64, i64),
    /// Doubles from 0 to 1.
    Ratio,
    /// −1, or from 1 to 9.
    GzipLevel,
    /// These texts; of a list, each element.
    OneOf(&'static [&'static str]),
    /// These texts, in any case.
    OneOfAnyCase(&'static [&'static str]),
    /// `*`, or a list of `partition:broker`.
    ThrottledReplicas,
    /// `earliest`, `latest` or `by_duration:` and a duration of ISO 8601.
    ShareOffsetReset,
    /// A list of `attribute=regex` over what a client says of itself (KIP-714).
    ClientMatch,
}

/// The definition of a config.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ConfigDef {
    /// Kafka's name.
    pub name: &'static str,
    /// Its type.
    pub kind: ConfigType,
    /// Its value when nobody sets one; `None` if it has none.
    pub default: Option<&'static str>,
    /// Its valid values.
    pub valid: Valid,
}

impl ConfigDef {
    /// A definition; for tables.
    pub const fn new(name: &'static str, kind: ConfigType, default: Option<&'static str>, valid: Valid) -> ConfigDef {
        ConfigDef { name, kind, default, valid }
    }

    /// Checks a value.
    ///
    /// # Errors
    /// The sentence for the client, in Kafka's words.
    pub fn check(&self, value: &str) -> Result<(), String> {
        if value.len() > MAX_VALUE_BYTES {
            return Err(format!("The value of configuration {} is longer than {MAX_VALUE_BYTES} bytes.", self.name));
        }
        match self.kind {
            ConfigType::Boolean => self.check_boolean(value),
            ConfigType::Int => self.check_integer(value, i32::MIN.into(), i32::MAX.into()),
            ConfigType::Short => self.check_integer(value, i16::MIN.into(), i16::MAX.into()),
            ConfigType::Long => self.check_integer(value, i64::MIN, i64::MAX),
            ConfigType::Double => self.check_double(value),
            ConfigType::List => self.check_list(value),
            ConfigType::String => self.check_text(value.trim()),
            ConfigType::Password => Ok(()),
        }
    }

    fn invalid<T>(&self, value: &str, why: &str) -> Result<T, String> {
        Err(format!("Invalid value {value} for configuration {}: {why}", self.name))
    }

    fn check_boolean(&self, value: &str) -> Result<(), String> {
        if parse_boolean(value).is_none() {
            return self.invalid(value, "Expected value to be either true or false");
        }
        Ok(())
    }

    fn check_integer(&self, value: &str, smallest: i64, largest: i64) -> Result<(), String> {
        let number = match value.trim().parse::<i64>() {
            Ok(number) if (smallest..=largest).contains(&number) => number,
            _ => return self.invalid(value, &format!("Not a number of type {}", self.kind.name())),
        };
        match self.valid {
            Valid::AtLeast(least) | Valid::Between(least, _) if number < least => {
                self.invalid(value, &format!("Value must be at least {least}"))
            }
            Valid::Between(_, most) if number > most => {
                self.invalid(value, &format!("Value must be no more than {most}"))
            }
            Valid::GzipLevel if number != -1 && !(1..=9).contains(&number) => {
                self.invalid(value, "Value must be between 1 and 9 or equal to -1")
            }
            _ => Ok(()),
        }
    }

    fn check_double(&self, value: &str) -> Result<(), String> {
        let number = match value.trim().parse::<f64>() {
            Ok(number) if number.is_finite() => number,
            _ => return self.invalid(value, "Not a number of type DOUBLE"),
        };
        match self.valid {
            Valid::Ratio if number < 0.0 => self.invalid(value, "Value must be at least 0"),
            Valid::Ratio if number > 1.0 => self.invalid(value, "Value must be no more than 1"),
            _ => Ok(()),
        }
    }

    fn check_list(&self, value: &str) -> Result<(), String> {
        match self.valid {
            Valid::ThrottledReplicas if !are_throttled_replicas(value) => self.invalid(
                value,
                &format!(
                    "{} must be the literal '*' or a list of replicas in the following format: \
                     [partitionId]:[brokerId],[partitionId]:[brokerId],...",
                    self.name
                ),
            ),
            Valid::OneOf(_) => list(value).try_for_each(|element| self.check_text(element)),
            Valid::ClientMatch => match list(value).find(|element| !is_client_match(element)) {
                Some(element) => self.invalid(element, "Illegal client matching pattern"),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn check_text(&self, value: &str) -> Result<(), String> {
        match self.valid {
            Valid::OneOf(texts) if !texts.contains(&value) => {
                self.invalid(value, &format!("String must be one of: {}", texts.join(", ")))
            }
            Valid::OneOfAnyCase(texts) if !texts.iter().any(|text| text.eq_ignore_ascii_case(value)) => {
                self.invalid(value, &format!("String must be one of (case insensitive): {}", texts.join(", ")))
            }
            Valid::ShareOffsetReset if !is_offset_reset(value) => self.invalid(
                value,
                "Value must be 'latest', 'earliest' or of the format 'by_duration:<duration>', where the duration is \
                 in ISO8601 format",
            ),
            _ => Ok(()),
        }
    }
}

fn parse_boolean(value: &str) -> Option<bool> {
    let value = value.trim();
    if value.eq_ignore_ascii_case("true") {
        return Some(true);
    }
    value.eq_ignore_ascii_case("false").then_some(false)
}

fn are_throttled_replicas(value: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_replica = |element: &str| {
        element.split_once(':').is_some_and(|(partition, broker)| is_number(partition) && is_number(broker))
    };
    let value = value.trim();
    value == "*" || list(value).all(is_replica)
}

/// What a client says of itself (`ClientMetricsConfigs.ALLOWED_MATCH_PARAMS`).
const CLIENT_ATTRIBUTES: [&str; 7] = [
    "client_instance_id",
    "client_id",
    "client_software_name",
    "client_software_version",
    "client_source_address",
    "client_source_port",
    "client_rack",
];

fn is_client_match(element: &str) -> bool {
    let parts = element.split_once('=');
    parts.is_some_and(|(name, regex)| CLIENT_ATTRIBUTES.contains(&name.trim()) && !regex.trim().is_empty())
}

fn is_offset_reset(value: &str) -> bool {
    let duration = value.strip_prefix("by_duration:");
    matches!(value, "earliest" | "latest") || duration.and_then(duration_ms).is_some()
}

/// Milliseconds of a duration of ISO 8601 as far as `java.time.Duration` reads it and it is not negative:
/// `PnDTnHnMn.nS`.
pub fn duration_ms(text: &str) -> Option<i64> {
    let upper = text.to_ascii_uppercase();
    let (days, time) = match upper.strip_prefix('P')?.split_once('T') {
        Some((_, "")) => return None,
        Some((days, time)) => (days, time),
        None => (upper.strip_prefix('P')?, ""),
    };
    if days.is_empty() && time.is_empty() {
        return None;
    }
    let mut total = match days {
        "" => 0,
        days => days.strip_suffix('D')?.parse::<u32>().ok().map(|days| i64::from(days) * 86_400_000)?,
    };
    let mut rest = time;
    for (unit, unit_ms) in [('H', 3_600_000), ('M', 60_000)] {
        if let Some((number, behind)) = rest.split_once(unit) {
            total += i64::from(number.parse::<u32>().ok()?) * unit_ms;
            rest = behind;
        }
    }
    if !rest.is_empty() {
        let seconds = rest.strip_suffix('S')?.parse::<f64>().ok()?;
        if !seconds.is_finite() || !(0.0..4e9).contains(&seconds) {
            return None;
        }
        total += (seconds * 1000.0) as i64;
    }
    Some(total)
}

/// The elements of a list's text, without those that are empty.
pub fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|element| !element.is_empty())
}

/// A topic's settings in force, as shards use them. Sizes are bytes, times milliseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct TopicConfig {
    /// Whether old segments are deleted (`cleanup.policy`).
    pub delete: bool,
    /// Whether the log is compacted (`cleanup.policy`).
    pub compact: bool,
    /// What batches are recompressed with; `None` keeps the producer's codec (`compression.type`).
    pub compression: Option<Codec>,
    /// `compression.gzip.level`: 1 to 9, or −1 for the codec's own default.
    pub compression_gzip_level: i32,
    /// `compression.lz4.level`: 1 to 17.
    pub compression_lz4_level: i32,
    /// `compression.zstd.level`: −131072 to 22.
    pub compression_zstd_level: i32,
    /// Whether the log stamps batches (`message.timestamp.type` is LogAppendTime).
    pub log_append_time: bool,
    /// How far a record's time may lie in the past; `i64::MAX` for no bound.
    pub message_timestamp_before_max_ms: i64,
    /// How far a record's time may lie in the future.
    pub message_timestamp_after_max_ms: i64,
    /// The largest batch, its header included.
    pub max_message_bytes: i32,
    /// The size at which a segment is rolled.
    pub segment_bytes: i32,
    /// The age at which a segment is rolled.
    pub segment_ms: i64,
    /// The most that is taken off `segment_ms`, at random, per segment.
    pub segment_jitter_ms: i64,
    /// How long records are kept; −1 for ever.
    pub retention_ms: i64,
    /// How much of a partition is kept; −1 (any negative value) all.
    pub retention_bytes: i64,
    /// Members of the ISR that acks=all needs; the effective value is at most the replication factor.
    pub min_insync_replicas: i32,
    /// How long tombstones and markers outlive the first pass of compaction.
    pub delete_retention_ms: i64,
    /// How old a record must be to be compacted.
    pub min_compaction_lag_ms: i64,
    /// How old an uncompacted record may become.
    pub max_compaction_lag_ms: i64,
    /// The uncompacted share of a log that makes it worth compacting; 0 to 1.
    pub min_cleanable_dirty_ratio: f64,
    /// How long a deleted segment's file stays.
    pub file_delete_delay_ms: i64,
    /// Whether producers are answered before the flush (`durability` is `relaxed`).
    pub durability_relaxed: bool,
}

impl TopicConfig {
    /// The settings in force of a topic with settings `own`, over the broker's, over the defaults.
    ///
    /// # Panics
    /// If a value does not pass its definition: values are checked before they become records.
    pub fn resolve(own: &BTreeMap<String, String>, broker: &BrokerValues<'_>) -> TopicConfig {
        let values = Values { own, broker };
        let policy = values.text("cleanup.policy");
        TopicConfig {
            delete: list(&policy).any(|element| element == "delete"),
            compact: list(&policy).any(|element| element == "compact"),
            compression: codec(values.text("compression.type").trim()),
            compression_gzip_level: values.int("compression.gzip.level"),
            compression_lz4_level: values.int("compression.lz4.level"),
            compression_zstd_level: values.int("compression.zstd.level"),
            log_append_time: values.text("message.timestamp.type").trim() == "LogAppendTime",
            message_timestamp_before_max_ms: values.long("message.timestamp.before.max.ms"),
            message_timestamp_after_max_ms: values.long("message.timestamp.after.max.ms"),
            max_message_bytes: values.int("max.message.bytes"),
            segment_bytes: values.int("segment.bytes"),
            segment_ms: values.long("segment.ms"),
            segment_jitter_ms: values.long("segment.jitter.ms"),
            retention_ms: values.long("retention.ms"),
            retention_bytes: values.long("retention.bytes"),
            min_insync_replicas: values.int("min.insync.replicas"),
            delete_retention_ms: values.long("delete.retention.ms"),
            min_compaction_lag_ms: values.long("min.compaction.lag.ms"),
            max_compaction_lag_ms: values.long("max.compaction.lag.ms"),
            min_cleanable_dirty_ratio: values.double("min.cleanable.dirty.ratio"),
            file_delete_delay_ms: values.long("file.delete.delay.ms"),
            durability_relaxed: values.text(topic_configs::DURABILITY).trim() == "relaxed",
        }
    }
}

impl Default for TopicConfig {
    /// The defaults of all settings.
    fn default() -> TopicConfig {
        TopicConfig::resolve(&BTreeMap::new(), &BrokerValues::default())
    }
}

fn codec(name: &str) -> Option<Codec> {
    match name {
        "uncompressed" => Some(Codec::None),
        "gzip" => Some(Codec::Gzip),
        "snappy" => Some(Codec::Snappy),
        "lz4" => Some(Codec::Lz4),
        "zstd" => Some(Codec::Zstd),
        _ => None,
    }
}

struct Values<'a> {
    own: &'a BTreeMap<String, String>,
    broker: &'a BrokerValues<'a>,
}

impl Values<'_> {
    fn text(&self, name: &str) -> String {
        let def = topic_configs::find(name).expect("a topic config of the table");
        resolve(def, self.own, self.broker)
    }

    fn long(&self, name: &str) -> i64 {
        self.text(name).trim().parse().expect("values are checked before they are kept")
    }

    fn int(&self, name: &str) -> i32 {
        self.text(name).trim().parse().expect("values are checked before they are kept")
    }

    fn double(&self, name: &str) -> f64 {
        self.text(name).trim().parse().expect("values are checked before they are kept")
    }
}

/// The value in force of one topic config.
pub(super) fn resolve(def: &TopicConfigDef, own: &BTreeMap<String, String>, broker: &BrokerValues<'_>) -> String {
    if let Some(value) = own.get(def.config.name) {
        return value.clone();
    }
    for level in broker.levels() {
        let set = def.synonyms.iter().find_map(|synonym| Some((synonym, level.values.get(synonym.name)?)));
        if let Some((synonym, value)) = set {
            return synonym.scale(value);
        }
    }
    def.config.default.expect("every topic config has a default").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_kafkas() {
        let config = TopicConfig::default();
        assert!(config.delete && !config.compact && !config.log_append_time && !config.durability_relaxed);
        assert_eq!(config.compression, None);
        assert_eq!(config.max_message_bytes, 1_048_588);
        assert_eq!(config.segment_bytes, 1 << 30);
        assert_eq!((config.retention_ms, config.retention_bytes), (604_800_000, -1));
        assert_eq!(config.message_timestamp_after_max_ms, 3_600_000);
        assert_eq!(config.min_insync_replicas, 1);
        assert_eq!(config.max_compaction_lag_ms, i64::MAX);
    }

    #[test]
    fn durations_are_read_as_java_reads_them() {
        for (text, ms) in
            [("PT1H", 3_600_000), ("P1D", 86_400_000), ("P1DT2H3M4.5S", 93_784_500), ("pt0s", 0), ("PT90M", 5_400_000)]
        {
            assert_eq!(duration_ms(text), Some(ms), "{text}");
        }
        for text in ["", "P", "PT", "1H", "PT1D", "P1H", "PT-1H", "PT1", "P1DT", "PTinfS"] {
            assert_eq!(duration_ms(text), None, "{text}");
        }
    }

    #[test]
    fn refusals_have_kafkas_words() {
        let refused = |name: &str, value: &str| {
            let def = topic_configs::find(name).expect("a config of the table");
            def.config.check(value).expect_err("an invalid value")
        };
        let cases = [
            ("retention.ms", "-5", "Invalid value -5 for configuration retention.ms: Value must be at least -1"),
            ("segment.bytes", "10", "Invalid value 10 for configuration segment.bytes: Value must be at least 1048576"),
            ("segment.bytes", "x", "Invalid value x for configuration segment.bytes: Not a number of type INT"),
            (
                "segment.bytes",
                "3000000000",
                "Invalid value 3000000000 for configuration segment.bytes: Not a number of type INT",
            ),
            (
                "cleanup.policy",
                "delete,purge",
                "Invalid value purge for configuration cleanup.policy: String must be one of: compact, delete",
            ),
            (
                "preallocate",
                "yes",
                "Invalid value yes for configuration preallocate: Expected value to be either true or false",
            ),
            (
                "min.cleanable.dirty.ratio",
                "1.5",
                "Invalid value 1.5 for configuration min.cleanable.dirty.ratio: Value must be no more than 1",
            ),
            (
                "compression.gzip.level",
                "0",
                "Invalid value 0 for configuration compression.gzip.level: Value must be between 1 and 9 or equal to -1",
            ),
            (
                "compression.zstd.level",
                "23",
                "Invalid value 23 for configuration compression.zstd.level: Value must be no more than 22",
            ),
        ];
        for (name, value, sentence) in cases {
            assert_eq!(refused(name, value), sentence);
        }
        assert!(refused("leader.replication.throttled.replicas", "1:").contains("must be the literal '*'"));
        for value in ["", "*", "0:1", "0:1,12:3"] {
            let def = topic_configs::find("leader.replication.throttled.replicas").expect("a config of the table");
            def.config.check(value).expect("a valid value");
        }
    }
}
