//! IncrementalAlterConfigs and AlterConfigs: which records a request becomes, or why it is refused.
//!
//! A resource's changes hold together or not at all; resources do not know of each other. Only what differs
//! becomes a record. Messages have the words of Kafka's `ConfigAdminManager`, `DynamicBrokerConfig` and
//! `ConfigurationControlManager`.

use std::collections::{BTreeMap, BTreeSet};

use super::Context;
use super::broker_configs::{self, BrokerValues, MIN_INSYNC_REPLICAS, Settings, Update};
use super::configs::{self, ConfigType};
use super::features;
use super::records::MetadataRecord;
use super::request::{ConfigChange, ConfigResource, Refusal, Setting, occurrences};
use super::resource_configs::{self, ResourceKind};
use super::topic_configs;
use super::topics;
use crate::protocol::{ErrorCode, Uuid};

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

/// What it costs to look a resource's settings up and to check them (see [`crate::io::Pace`]).
const RESOURCE_COST: usize = 10;

type Results = Vec<(ConfigResource, Result<(), Refusal>)>;
type Configs = BTreeMap<String, String>;

pub(super) async fn incremental(
    context: &mut Context<'_>,
    resources: &[(ConfigResource, Vec<ConfigChange>)],
    validate_only: bool,
) -> Results {
    let checked_changes = |target: &Target<'_>, changes: &[ConfigChange]| -> Result<Configs, Refusal> {
        check_unique(changes.iter().map(|change| change.name.as_str()))?;
        let is_null = |change: &&ConfigChange| change.operation != DELETE && change.value.is_none();
        check_no_nulls(changes.iter().filter(is_null).map(|change| change.name.as_str()))?;
        target.check_dynamic(changes.iter().map(|change| (change.operation != DELETE, change.name.as_str())))?;
        changed(target, changes)
    };
    each(context, resources, validate_only, checked_changes).await
}

pub(super) async fn replace(
    context: &mut Context<'_>,
    resources: &[(ConfigResource, Vec<Setting>)],
    validate_only: bool,
) -> Results {
    let replacement = |target: &Target<'_>, configs: &[Setting]| -> Result<Configs, Refusal> {
        check_unique(configs.iter().map(|(name, _)| name.as_str()))?;
        check_no_nulls(configs.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| name.as_str()))?;
        target.check_dynamic(configs.iter().map(|(name, _)| (true, name.as_str())))?;
        Ok(configs.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?))).collect())
    };
    each(context, resources, validate_only, replacement).await
}

/// Finds the whole new settings of each resource, checks them, and records what differs.
async fn each<C>(
    context: &mut Context<'_>,
    resources: &[(ConfigResource, Vec<C>)],
    validate_only: bool,
    new_configs: impl Fn(&Target<'_>, &[C]) -> Result<Configs, Refusal>,
) -> Results {
    let counts = occurrences(resources.iter().map(|(resource, _)| resource));
    let mut results: Results = Vec::with_capacity(counts.len());
    let mut answered = BTreeSet::new();
    for (resource, changes) in resources {
        context.pace.spend(RESOURCE_COST + changes.len()).await;
        let result = match counts[resource] {
            1 => records(context, resource, |target| new_configs(target, changes)),
            _ if !answered.insert(resource) => continue,
            _ => Err(Refusal::new(ErrorCode::InvalidRequest, "Each resource must appear at most once.")),
        };
        let result = result.map(|records| {
            if !validate_only {
                context.records.extend(records);
            }
        });
        results.push((resource.clone(), result));
    }
    results
}

fn records(
    context: &Context<'_>,
    resource: &ConfigResource,
    new_configs: impl FnOnce(&Target<'_>) -> Result<Configs, Refusal>,
) -> Result<Vec<MetadataRecord>, Refusal> {
    let target = Target::find(context, resource)?;
    let configs = new_configs(&target)?;
    target.check_kept(&configs)?;
    target.check(&configs)?;
    let removed = target.current.keys().filter(|name| !configs.contains_key(*name));
    let mut records: Vec<_> = removed.map(|name| target.record(name, None)).collect();
    let differing = configs.iter().filter(|(name, value)| target.current.get(*name) != Some(*value));
    records.extend(differing.map(|(name, value)| target.record(name, Some(value))));
    Ok(records)
}

/// The longest name of a group or of a subscription to metrics, in bytes.
const MAX_RESOURCE_NAME_BYTES: usize = 32 << 10;

/// What a resource's name stands for.
struct Target<'a> {
    kind: Kind,
    /// Its settings now.
    current: Configs,
    broker: BrokerValues<'a>,
    /// Whether `eligible.leader.replicas.version` is above 0.
    has_eligible_leaders: bool,
}

enum Kind {
    Topic(Uuid),
    Broker(Option<i32>),
    Resource(ResourceKind, String),
}

impl<'a> Target<'a> {
    fn find(context: &Context<'a>, resource: &ConfigResource) -> Result<Target<'a>, Refusal> {
        let broker = BrokerValues::new(context.settings, context.image);
        let has_eligible_leaders = features::level(context.image, features::ELIGIBLE_LEADER_REPLICAS_VERSION) > 0;
        match resource {
            ConfigResource::Topic(name) => {
                topics::check_name(name)?;
                let id = context.image.names.get(name).ok_or_else(|| {
                    Refusal::new(ErrorCode::UnknownTopicOrPartition, format!("The topic '{name}' does not exist."))
                })?;
                let current = context.image.topics[id].configs.clone();
                Ok(Target { kind: Kind::Topic(*id), current, broker, has_eligible_leaders })
            }
            ConfigResource::Broker(name) => {
                let id = broker_id(name, context.settings)?;
                let current = match id {
                    None => Some(&context.image.cluster_configs),
                    Some(id) => context.image.broker_configs.get(&id),
                };
                let current = current.cloned().unwrap_or_default();
                Ok(Target { kind: Kind::Broker(id), current, broker, has_eligible_leaders })
            }
            ConfigResource::ClientMetrics(name) => Target::of_resource(context, ResourceKind::ClientMetrics, name),
            ConfigResource::Group(name) => Target::of_resource(context, ResourceKind::Group, name),
            ConfigResource::BrokerLogger(_) => {
                let why = "The levels of loggers are set at the start, by CORELOG_LOG.";
                Err(Refusal::new(ErrorCode::InvalidRequest, why))
            }
            ConfigResource::Other { kind, .. } => {
                Err(Refusal::new(ErrorCode::InvalidRequest, format!("Unsupported resource type: {kind}")))
            }
        }
    }

    fn of_resource(context: &Context<'a>, kind: ResourceKind, name: &str) -> Result<Target<'a>, Refusal> {
        if name.is_empty() {
            return Err(Refusal::new(ErrorCode::InvalidRequest, "Default resources are not allowed."));
        }
        if name.len() > MAX_RESOURCE_NAME_BYTES {
            return Err(Refusal::new(ErrorCode::InvalidRequest, "The name of the resource is too long."));
        }
        let broker = BrokerValues::new(context.settings, context.image);
        let current = context.image.resource_config(kind, name).cloned().unwrap_or_default();
        Ok(Target { kind: Kind::Resource(kind, name.to_owned()), current, broker, has_eligible_leaders: false })
    }

    /// A broker's configs must be such that a running broker can take them. Each name comes with whether it gets a
    /// value.
    fn check_dynamic<'n>(&self, changed: impl Iterator<Item = (bool, &'n str)>) -> Result<(), Refusal> {
        let Kind::Broker(broker) = self.kind else { return Ok(()) };
        let changed: Vec<_> = changed.collect();
        let is_named = |named: &dyn Fn(bool, Option<Update>, &str) -> bool| {
            let wanted =
                |(is_set, name): &&(bool, &str)| named(*is_set, broker_configs::find(name).map(|def| def.update), name);
            changed.iter().filter(wanted).map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
        };
        let fixed = is_named(&|_, update, name| match update {
            Some(update) => update == Update::Fixed,
            None => !broker_configs::is_custom(name),
        });
        if !fixed.is_empty() {
            let why = format!("Cannot update these configs dynamically: Set({fixed})");
            return Err(Refusal::new(ErrorCode::InvalidRequest, why));
        }
        let per_broker = is_named(&|is_set, update, _| is_set && broker.is_none() && update == Some(Update::PerBroker));
        if !per_broker.is_empty() {
            let why = "Cannot update these configs at default cluster level, broker id must be specified";
            return Err(Refusal::new(ErrorCode::InvalidRequest, format!("{why}: Set({per_broker})")));
        }
        let is_own = broker.is_some() && changed.iter().any(|(_, name)| *name == MIN_INSYNC_REPLICAS);
        if is_own && self.has_eligible_leaders {
            let why = "Broker-level min.insync.replicas cannot be altered while ELR is enabled.";
            return Err(Refusal::new(ErrorCode::InvalidConfig, why));
        }
        Ok(())
    }

    /// While replicas out of sync may be eligible, all must know how many had to be in sync.
    fn check_kept(&self, configs: &Configs) -> Result<(), Refusal> {
        let is_removed = matches!(self.kind, Kind::Broker(None))
            && self.current.contains_key(MIN_INSYNC_REPLICAS)
            && !configs.contains_key(MIN_INSYNC_REPLICAS);
        if is_removed && self.has_eligible_leaders {
            let why = "Cluster-level min.insync.replicas cannot be removed while ELR is enabled.";
            return Err(Refusal::new(ErrorCode::InvalidConfig, why));
        }
        Ok(())
    }

    fn check(&self, configs: &Configs) -> Result<(), Refusal> {
        let invalid_config = |why| Refusal::new(ErrorCode::InvalidConfig, why);
        match &self.kind {
            Kind::Topic(_) => topic_configs::check(configs).map_err(invalid_config),
            Kind::Resource(kind, _) => resource_configs::check(*kind, configs, &self.broker).map_err(invalid_config),
            Kind::Broker(_) => {
                broker_configs::check_dynamic(configs).map_err(|why| Refusal::new(ErrorCode::InvalidRequest, why))
            }
        }
    }

    /// A config's type, and its value when this resource does not set it; `None` if there is no such config.
    fn inherited(&self, name: &str) -> Option<(ConfigType, String)> {
        match &self.kind {
            Kind::Resource(kind, _) => {
                let def = resource_configs::find(*kind, name)?;
                Some((def.config.kind, resource_configs::resolve(def, &Configs::new(), &self.broker)))
            }
            Kind::Topic(_) => {
                let def = topic_configs::find(name)?;
                Some((def.config.kind, configs::resolve(def, &Configs::new(), &self.broker)))
            }
            Kind::Broker(_) => {
                let def = broker_configs::find(name)?;
                Some((def.config.kind, self.broker.text(name).unwrap_or_default().to_owned()))
            }
        }
    }

    fn record(&self, name: &str, value: Option<&String>) -> MetadataRecord {
        let (name, value) = (name.to_owned(), value.cloned());
        match &self.kind {
            Kind::Topic(topic_id) => MetadataRecord::TopicConfig { topic_id: *topic_id, name, value },
            Kind::Broker(broker) => MetadataRecord::BrokerConfig { broker: *broker, name, value },
            Kind::Resource(kind, resource) => {
                MetadataRecord::ResourceConfig { kind: *kind, resource: resource.clone(), name, value }
            }
        }
    }
}

fn broker_id(name: &str, settings: &Settings) -> Result<Option<i32>, Refusal> {
    let invalid = |why| Err(Refusal::new(ErrorCode::InvalidRequest, why));
    if name.is_empty() {
        return Ok(None);
    }
    match name.parse::<i32>() {
        Err(_) => invalid(format!("Node id must be an integer, but it is: {name}")),
        Ok(id) if id != settings.node_id => {
            invalid(format!("Unexpected broker id, expected {}, but received {name}", settings.node_id))
        }
        Ok(id) => Ok(Some(id)),
    }
}

fn check_unique<'n>(names: impl Iterator<Item = &'n str>) -> Result<(), Refusal> {
    if occurrences(names).values().any(|count| *count > 1) {
        return Err(Refusal::new(ErrorCode::InvalidRequest, "Error due to duplicate config keys"));
    }
    Ok(())
}

fn check_no_nulls<'n>(nulls: impl Iterator<Item = &'n str>) -> Result<(), Refusal> {
    let nulls: Vec<_> = nulls.collect();
    if nulls.is_empty() {
        return Ok(());
    }
    Err(Refusal::new(ErrorCode::InvalidRequest, format!("Null value not supported for : {}", nulls.join(", "))))
}

fn changed(target: &Target<'_>, changes: &[ConfigChange]) -> Result<Configs, Refusal> {
    let mut configs = target.current.clone();
    for change in changes {
        let value = change.value.clone().unwrap_or_default();
        match change.operation {
            SET => drop(configs.insert(change.name.clone(), value)),
            DELETE => drop(configs.remove(&change.name)),
            APPEND | SUBTRACT => {
                let value = edited_list(target, change, &value)?;
                configs.insert(change.name.clone(), value);
            }
            unknown => {
                let why = format!("Unknown operation type {unknown}");
                return Err(Refusal::new(ErrorCode::InvalidRequest, why));
            }
        }
    }
    Ok(configs)
}

/// The list in force with elements added or taken out.
fn edited_list(target: &Target<'_>, change: &ConfigChange, value: &str) -> Result<String, Refusal> {
    let name = change.name.as_str();
    let Some((kind, inherited)) = target.inherited(name) else {
        return Err(Refusal::new(ErrorCode::InvalidConfig, format!("Unknown topic config name: {name}")));
    };
    if kind != ConfigType::List {
        let operation = if change.operation == APPEND { "APPEND" } else { "SUBTRACT" };
        let why = format!("Can't {operation} to key {name} because its type is not LIST.");
        return Err(Refusal::new(ErrorCode::InvalidConfig, why));
    }
    let current = target.current.get(name).unwrap_or(&inherited);
    let mut elements: Vec<&str> = configs::list(current).collect();
    if change.operation == SUBTRACT {
        let taken: BTreeSet<&str> = configs::list(value).collect();
        elements.retain(|element| !taken.contains(element));
    } else {
        let mut there: BTreeSet<&str> = elements.iter().copied().collect();
        elements.extend(configs::list(value).filter(|element| there.insert(element)));
    }
    Ok(elements.join(","))
}
