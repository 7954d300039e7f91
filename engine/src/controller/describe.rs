//! What DescribeConfigs and CreateTopics show of configs: each value, where it comes from, and what it covers.
//!
//! Reads an image; changes nothing. A secret's value is never in an entry.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::broker_configs::{
    self, BROKER_CONFIGS, BrokerConfigDef, BrokerValues, ConfigSource, INTERNAL_CONFIGS, Level, Settings, Update,
};
use super::configs::{self, ConfigDef, ConfigType, Valid};
use super::image::MetadataImage;
use super::request::{ConfigResource, Refusal};
use super::resource_configs::{self, ResourceKind};
use super::topic_configs::{TOPIC_CONFIGS, TopicConfigDef};
use crate::protocol::ErrorCode;

/// One config of a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigEntry {
    /// Kafka's name.
    pub name: Cow<'static, str>,
    /// The value in force; `None` if there is none or it is a secret.
    pub value: Option<String>,
    /// Where it comes from.
    pub source: ConfigSource,
    /// Whether it changes only by a restart.
    pub read_only: bool,
    /// Whether it is a secret.
    pub is_sensitive: bool,
    /// Its type.
    pub kind: ConfigType,
    /// All values set for it, the one in force first.
    pub synonyms: Vec<ConfigSynonym>,
}

/// One value set for a config, perhaps under another name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigSynonym {
    /// The name under which it is set.
    pub name: Cow<'static, str>,
    /// The value as set; `None` if it is a secret.
    pub value: Option<String>,
    /// Where it is set.
    pub source: ConfigSource,
}

/// The configs of a resource.
///
/// # Errors
/// The error that the client gets for this resource.
pub fn describe(
    image: &MetadataImage,
    settings: &Settings,
    resource: &ConfigResource,
) -> Result<Vec<ConfigEntry>, Refusal> {
    match resource {
        ConfigResource::Topic(name) => {
            let topic =
                image.topic(name).ok_or_else(|| Refusal::new(ErrorCode::UnknownTopicOrPartition, String::new()))?;
            Ok(topic_entries(&topic.configs, &BrokerValues::new(settings, image)))
        }
        ConfigResource::Broker(name) if name.is_empty() => Ok(cluster_entries(image)),
        ConfigResource::Broker(name) => {
            check_broker(name, settings.node_id)?;
            Ok(broker_entries(&BrokerValues::new(settings, image)))
        }
        ConfigResource::BrokerLogger(name) => {
            check_logger_broker(name, settings.node_id)?;
            Ok(logger_entries())
        }
        ConfigResource::ClientMetrics(name) if name.is_empty() => {
            Err(Refusal::new(ErrorCode::InvalidRequest, "Client metrics subscription name must not be empty"))
        }
        ConfigResource::ClientMetrics(name) => Ok(client_metrics_entries(image, name)),
        ConfigResource::Group(name) if name.is_empty() => {
            Err(Refusal::new(ErrorCode::InvalidRequest, "Group name must not be empty"))
        }
        ConfigResource::Group(name) => {
            let own = image.resource_config(ResourceKind::Group, name).cloned().unwrap_or_default();
            Ok(group_entries(&own, &BrokerValues::new(settings, image)))
        }
        ConfigResource::Other { kind, .. } => {
            Err(Refusal::new(ErrorCode::InvalidRequest, format!("Unsupported resource type: {kind}")))
        }
    }
}

/// All configs of a subscription to metrics.
fn client_metrics_entries(image: &MetadataImage, name: &str) -> Vec<ConfigEntry> {
    let kind = ResourceKind::ClientMetrics;
    let own = image.resource_config(kind, name).cloned().unwrap_or_default();
    let entries = kind.configs().iter().map(|def| {
        let name = def.config.name;
        let value = resource_configs::resolve(def, &own, &BrokerValues::default());
        let set = own.get(name).map(|value| ConfigSynonym {
            name: name.into(),
            value: Some(value.clone()),
            source: ConfigSource::ClientMetrics,
        });
        entry(&def.config, Some(value), set.into_iter().collect(), Update::Dynamic)
    });
    entries.collect()
}

/// The one logger that there is, which holds the others' most detailed level; it is set at the start.
fn logger_entries() -> Vec<ConfigEntry> {
    let def = ConfigDef::new("root", ConfigType::String, None, Valid::Any);
    let level = tracing::level_filters::LevelFilter::current().to_string().to_ascii_uppercase();
    let source = ConfigSource::BrokerLogger;
    vec![ConfigEntry { source, ..entry(&def, Some(level), Vec::new(), Update::Fixed) }]
}

/// All configs of a group with settings `own`.
fn group_entries(own: &BTreeMap<String, String>, broker: &BrokerValues<'_>) -> Vec<ConfigEntry> {
    let entries = ResourceKind::Group.configs().iter().map(|def| {
        let name = def.config.name;
        let value = resource_configs::resolve(def, own, broker);
        // The broker's value passes for the default, and under the group's name.
        let source = if own.contains_key(name) { ConfigSource::Group } else { ConfigSource::Default };
        let synonym = ConfigSynonym { name: name.into(), value: Some(value.clone()), source };
        entry(&def.config, Some(value), vec![synonym], Update::Dynamic)
    });
    entries.collect()
}

fn check_logger_broker(name: &str, node_id: i32) -> Result<(), Refusal> {
    match name.is_empty() {
        true => Err(Refusal::new(ErrorCode::InvalidRequest, "Broker id must not be empty")),
        false => check_broker(name, node_id),
    }
}

fn check_broker(name: &str, node_id: i32) -> Result<(), Refusal> {
    let invalid = |message| Err(Refusal::new(ErrorCode::InvalidRequest, message));
    match name.parse::<i32>() {
        Err(_) => invalid(format!("Broker id must be an integer, but it is: {name}")),
        Ok(id) if id != node_id => {
            invalid(format!("Unexpected broker id, expected {node_id} or empty string, but received {name}"))
        }
        Ok(_) => Ok(()),
    }
}

/// All configs of a topic with settings `own`.
pub fn topic_entries(own: &BTreeMap<String, String>, broker: &BrokerValues<'_>) -> Vec<ConfigEntry> {
    TOPIC_CONFIGS.iter().map(|def| topic_entry(def, own, broker)).collect()
}

fn topic_entry(def: &TopicConfigDef, own: &BTreeMap<String, String>, broker: &BrokerValues<'_>) -> ConfigEntry {
    let name = def.config.name;
    let mut synonyms = Vec::new();
    if let Some(value) = own.get(name) {
        let source = ConfigSource::DynamicTopic;
        synonyms.push(ConfigSynonym { name: name.into(), value: Some(value.clone()), source });
    }
    let names: Vec<_> = def.synonyms.iter().map(|synonym| synonym.name).collect();
    push_broker_synonyms(&mut synonyms, &names, broker);
    entry(&def.config, Some(configs::resolve(def, own, broker)), synonyms, Update::Dynamic)
}

/// Adds each value set under one of `names`, level by level, then the first name's default.
fn push_broker_synonyms(synonyms: &mut Vec<ConfigSynonym>, names: &[&'static str], broker: &BrokerValues<'_>) {
    for level in broker.levels() {
        for &name in names {
            if let Some(value) = level.values.get(name) {
                let value = Some(value.clone());
                synonyms.push(ConfigSynonym { name: name.into(), value, source: level.source });
            }
        }
    }
    let default = names.first().and_then(|name| broker_configs::find(name)).and_then(|def| def.config.default);
    if let Some(value) = default {
        let (name, value) = (names[0].into(), Some(value.to_owned()));
        synonyms.push(ConfigSynonym { name, value, source: ConfigSource::Default });
    }
}

fn broker_entries(broker: &BrokerValues<'_>) -> Vec<ConfigEntry> {
    let is_set = |def: &&BrokerConfigDef| broker.levels().any(|level| level.values.contains_key(def.config.name));
    let shown = BROKER_CONFIGS.iter().chain(INTERNAL_CONFIGS.iter().filter(is_set));
    let entries = shown.map(|def| {
        let mut synonyms = Vec::new();
        push_broker_synonyms(&mut synonyms, &broker_configs::synonyms(def.config.name), broker);
        // A coarser unit's value stands in the synonyms, but it is not this config's value.
        let value = broker.text(def.config.name).map(str::to_owned);
        entry(&def.config, value, synonyms, def.update)
    });
    let custom: BTreeSet<&String> = broker.levels().flat_map(|level| level.values.keys()).collect();
    let custom = custom.into_iter().filter(|name| broker_configs::is_custom(name));
    entries.chain(custom.map(|name| custom_entry(name, broker.levels()))).collect()
}

/// What is set for all brokers; nothing else, as in Kafka.
fn cluster_entries(image: &MetadataImage) -> Vec<ConfigEntry> {
    let level = Level { source: ConfigSource::DynamicDefaultBroker, values: &image.cluster_configs };
    let entries = level.values.iter().map(|(name, value)| {
        let Some(def) = broker_configs::find(name) else { return custom_entry(name, [level].into_iter()) };
        let synonym = ConfigSynonym { name: def.config.name.into(), value: Some(value.clone()), source: level.source };
        entry(&def.config, Some(value.clone()), vec![synonym], def.update)
    });
    entries.collect()
}

/// A config that is set and that nobody here knows: it may be a secret.
fn custom_entry<'a>(name: &str, levels: impl Iterator<Item = Level<'a>>) -> ConfigEntry {
    let name: Cow<'static, str> = name.to_owned().into();
    let set = levels.filter(|level| level.values.contains_key(&*name));
    let synonyms = set.map(|level| ConfigSynonym { name: name.clone(), value: None, source: level.source });
    let unknown = ConfigDef::new("", ConfigType::Password, None, Valid::Any);
    ConfigEntry { name: name.clone(), ..entry(&unknown, None, synonyms.collect(), Update::Dynamic) }
}

fn entry(def: &ConfigDef, value: Option<String>, mut synonyms: Vec<ConfigSynonym>, update: Update) -> ConfigEntry {
    let is_sensitive = def.kind == ConfigType::Password;
    if is_sensitive {
        synonyms.iter_mut().for_each(|synonym| synonym.value = None);
    }
    ConfigEntry {
        name: def.name.into(),
        value: value.filter(|_| !is_sensitive),
        source: synonyms.first().map_or(ConfigSource::Default, |synonym| synonym.source),
        read_only: update == Update::Fixed,
        is_sensitive,
        kind: def.kind,
        synonyms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown<'a>(entries: &'a [ConfigEntry], name: &str) -> &'a ConfigEntry {
        entries.iter().find(|entry| entry.name == name).expect("an entry of that name")
    }

    #[test]
    fn a_topics_own_value_covers_the_brokers() {
        let statics = BTreeMap::from([("log.retention.hours".to_owned(), "2".to_owned())]);
        let settings = Settings::new(1, statics).expect("valid settings");
        let image = MetadataImage::default();
        let broker = BrokerValues::new(&settings, &image);

        let inherited = topic_entries(&BTreeMap::new(), &broker);
        let retention = shown(&inherited, "retention.ms");
        assert_eq!(retention.value.as_deref(), Some("7200000"));
        assert_eq!(retention.source, ConfigSource::StaticBroker);
        let segment_bytes = shown(&inherited, "segment.bytes");
        assert_eq!((segment_bytes.source, segment_bytes.synonyms.len()), (ConfigSource::Default, 1));
        assert_eq!(segment_bytes.synonyms[0].name, "log.segment.bytes");
        assert!(shown(&inherited, "segment.ms").synonyms.is_empty());

        let own = BTreeMap::from([("retention.ms".to_owned(), "5".to_owned())]);
        let set = topic_entries(&own, &broker);
        let retention = shown(&set, "retention.ms");
        assert_eq!((retention.value.as_deref(), retention.source), (Some("5"), ConfigSource::DynamicTopic));
        assert_eq!(retention.synonyms.len(), 2);
        assert!(!retention.read_only);
    }

    #[test]
    fn brokers_show_themselves_alone() {
        let settings = Settings::new(1, BTreeMap::new()).expect("valid settings");
        let image = MetadataImage::default();
        let describe = |name: &str| describe(&image, &settings, &ConfigResource::Broker(name.to_owned()));
        let entries = describe("1").expect("this broker");
        let node_id = shown(&entries, "node.id");
        assert_eq!((node_id.value.as_deref(), node_id.read_only), (Some("1"), true));
        assert!(!shown(&entries, "log.retention.ms").read_only);
        assert_eq!(describe("").expect("the cluster's defaults"), []);
        assert_eq!(describe("2").expect_err("another broker").error, ErrorCode::InvalidRequest);
        assert_eq!(describe("x").expect_err("no broker").error, ErrorCode::InvalidRequest);
    }
}
