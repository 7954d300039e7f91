//! The configs of groups and of subscriptions to clients' metrics: the tables, and what values are valid.
//!
//! A resource of these kinds exists as soon as something is set for it, and has defaults before that. Values
//! of a group are bounded by the broker's configs. It knows no groups: the coordinators read what is set.

use std::collections::BTreeMap;

use super::broker_configs::BrokerValues;
use super::configs::{ConfigDef, ConfigType as T, Valid as V};

/// A kind of resource, with its code (`ConfigResource.Type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i8)]
pub enum ResourceKind {
    /// A subscription to clients' metrics.
    ClientMetrics = 16,
    /// A group of any protocol.
    Group = 32,
}

impl ResourceKind {
    /// That of a code.
    pub fn from_code(code: i8) -> Option<ResourceKind> {
        match code {
            16 => Some(ResourceKind::ClientMetrics),
            32 => Some(ResourceKind::Group),
            _ => None,
        }
    }

    /// Its configs, sorted by name.
    pub fn configs(self) -> &'static [ResourceConfigDef] {
        match self {
            ResourceKind::ClientMetrics => CLIENT_METRICS_CONFIGS,
            ResourceKind::Group => GROUP_CONFIGS,
        }
    }

    fn noun(self) -> &'static str {
        match self {
            ResourceKind::ClientMetrics => "client metrics",
            ResourceKind::Group => "group",
        }
    }
}

/// A config of such a resource.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ResourceConfigDef {
    /// Its definition.
    pub config: ConfigDef,
    /// The broker configs that hold its default, its least and its greatest value, where there are such.
    pub broker: Option<[&'static str; 3]>,
}

const fn def(
    name: &'static str,
    kind: T,
    default: &'static str,
    valid: V,
    broker: Option<[&'static str; 3]>,
) -> ResourceConfigDef {
    ResourceConfigDef { config: ConfigDef::new(name, kind, Some(default), valid), broker }
}

/// The configs of a group, sorted by name.
pub const GROUP_CONFIGS: &[ResourceConfigDef] = &[
    def(
        "consumer.heartbeat.interval.ms",
        T::Int,
        "5000",
        V::AtLeast(1),
        Some([
            "group.consumer.heartbeat.interval.ms",
            "group.consumer.min.heartbeat.interval.ms",
            "group.consumer.max.heartbeat.interval.ms",
        ]),
    ),
    def(
        "consumer.session.timeout.ms",
        T::Int,
        "45000",
        V::AtLeast(1),
        Some([
            "group.consumer.session.timeout.ms",
            "group.consumer.min.session.timeout.ms",
            "group.consumer.max.session.timeout.ms",
        ]),
    ),
    def("share.auto.offset.reset", T::String, "latest", V::ShareOffsetReset, None),
    def(
        "share.heartbeat.interval.ms",
        T::Int,
        "5000",
        V::AtLeast(1),
        Some([
            "group.share.heartbeat.interval.ms",
            "group.share.min.heartbeat.interval.ms",
            "group.share.max.heartbeat.interval.ms",
        ]),
    ),
    def(
        "share.isolation.level",
        T::String,
        "read_uncommitted",
        V::OneOf(&["read_committed", "read_uncommitted"]),
        None,
    ),
    def(
        "share.record.lock.duration.ms",
        T::Int,
        "30000",
        V::AtLeast(1000),
        Some([
            "group.share.record.lock.duration.ms",
            "group.share.min.record.lock.duration.ms",
            "group.share.max.record.lock.duration.ms",
        ]),
    ),
    def(
        "share.session.timeout.ms",
        T::Int,
        "45000",
        V::AtLeast(1),
        Some([
            "group.share.session.timeout.ms",
            "group.share.min.session.timeout.ms",
            "group.share.max.session.timeout.ms",
        ]),
    ),
    def(
        "streams.heartbeat.interval.ms",
        T::Int,
        "5000",
        V::AtLeast(1),
        Some([
            "group.streams.heartbeat.interval.ms",
            "group.streams.min.heartbeat.interval.ms",
            "group.streams.max.heartbeat.interval.ms",
        ]),
    ),
    def("streams.num.standby.replicas", T::Int, "0", V::Between(0, 2), None),
    def(
        "streams.session.timeout.ms",
        T::Int,
        "45000",
        V::AtLeast(1),
        Some([
            "group.streams.session.timeout.ms",
            "group.streams.min.session.timeout.ms",
            "group.streams.max.session.timeout.ms",
        ]),
    ),
];

/// The configs of a subscription to clients' metrics (KIP-714), sorted by name.
pub const CLIENT_METRICS_CONFIGS: &[ResourceConfigDef] = &[
    def("interval.ms", T::Int, "300000", V::Between(100, 3_600_000), None),
    def("match", T::List, "", V::ClientMatch, None),
    def("metrics", T::List, "", V::Any, None),
];

/// The config of that name.
pub fn find(kind: ResourceKind, name: &str) -> Option<&'static ResourceConfigDef> {
    kind.configs().iter().find(|def| def.config.name == name)
}

/// Checks a setting alone: known, and a value of its definition.
///
/// # Errors
/// The sentence for the client.
pub fn check_one(kind: ResourceKind, name: &str, value: &str) -> Result<(), String> {
    let def = find(kind, name).ok_or_else(|| format!("Unknown {} config name: {name}", kind.noun()))?;
    def.config.check(value)
}

/// Checks all settings of a resource, alone, against the broker's bounds and together.
///
/// # Errors
/// The sentence for the client.
pub fn check(kind: ResourceKind, settings: &BTreeMap<String, String>, broker: &BrokerValues<'_>) -> Result<(), String> {
    for (name, value) in settings {
        check_one(kind, name, value)?;
        let def = find(kind, name).expect("it was just found");
        check_bounds(def, value, broker)?;
    }
    for family in ["consumer", "share", "streams"] {
        let heartbeat = format!("{family}.heartbeat.interval.ms");
        let session = format!("{family}.session.timeout.ms");
        if kind == ResourceKind::Group
            && (settings.contains_key(&heartbeat) || settings.contains_key(&session))
            && number(&session, settings, broker) <= number(&heartbeat, settings, broker)
        {
            return Err(format!("{session} must be greater than {heartbeat}"));
        }
    }
    Ok(())
}

fn check_bounds(def: &ResourceConfigDef, value: &str, broker: &BrokerValues<'_>) -> Result<(), String> {
    let Some([_, least, most]) = def.broker else { return Ok(()) };
    let value: i64 = value.trim().parse().expect("a checked number");
    let name = def.config.name;
    if broker.known_number(least).is_some_and(|bound| value < bound) {
        return Err(format!("{name} must be greater than or equal to {least}"));
    }
    if broker.known_number(most).is_some_and(|bound| value > bound) {
        return Err(format!("{name} must be less than or equal to {most}"));
    }
    Ok(())
}

/// The value in force of a config: what is set, else the broker's, else the definition's.
pub fn resolve(def: &ResourceConfigDef, settings: &BTreeMap<String, String>, broker: &BrokerValues<'_>) -> String {
    let inherited = def.broker.and_then(|[name, ..]| broker.text(name)).or(def.config.default);
    settings.get(def.config.name).map(String::as_str).or(inherited).unwrap_or_default().to_owned()
}

/// The value in force of a group's config that is a number.
///
/// # Panics
/// If the table has no such config.
pub fn number(name: &str, settings: &BTreeMap<String, String>, broker: &BrokerValues<'_>) -> i64 {
    let def = find(ResourceKind::Group, name).expect("a config of the table");
    resolve(def, settings, broker).trim().parse().expect("values are checked before they are kept")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_sorted_and_defaults_valid() {
        for kind in [ResourceKind::ClientMetrics, ResourceKind::Group] {
            let configs = kind.configs();
            assert!(configs.is_sorted_by(|a, b| a.config.name < b.config.name));
            for def in configs {
                let default = def.config.default.expect("a default");
                def.config.check(default).unwrap_or_else(|why| panic!("{why}"));
            }
        }
    }

    #[test]
    fn groups_stay_within_the_brokers_bounds() {
        let broker = BrokerValues::default();
        let check = |settings: &[(&str, &str)]| {
            let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            check(ResourceKind::Group, &settings, &broker)
        };
        check(&[("consumer.session.timeout.ms", "50000")]).expect("within the bounds");
        check(&[("consumer.session.timeout.ms", "1")]).expect_err("below the least");
        check(&[("consumer.heartbeat.interval.ms", "15001")]).expect_err("above the greatest");
        check(&[("consumer.pause.ms", "1")]).expect_err("no such config");
        for (value, valid) in [("latest", true), ("by_duration:PT1H", true), ("by_duration:1h", false), ("x", false)] {
            assert_eq!(check(&[("share.auto.offset.reset", value)]).is_ok(), valid, "{value}");
        }
        let matched = |value: &str| check_one(ResourceKind::ClientMetrics, "match", value).is_ok();
        assert!(matched("client_id=a.*,client_software_name=x"));
        assert!(!matched("client_id") && !matched("planet=earth"));
    }
}
