//! The metadata image: what the cluster is, as of one record of the metadata log.
//!
//! An image never changes; a new one shares what did not change with the old one. Every core holds the
//! newest that it has applied. It knows neither files nor connections.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use thiserror::Error;

use super::acls::Acls;
use super::broker_configs::{self, BrokerValues, Settings};
use super::configs::TopicConfig;
use super::quotas::{self, Quotas};
use super::records::MetadataRecord;
use super::resource_configs::{self, ResourceKind};
use super::scram::{Credentials, ScramCredential, ScramMechanism};
use super::topic_configs;
use crate::protocol::Uuid;

/// What the cluster is.
#[derive(Debug, Clone, PartialEq)]
pub struct MetadataImage {
    /// The metadata log's offset of the last record that is in the image; −1 for none.
    pub offset: i64,
    /// The cluster's id, as clients see it.
    pub cluster_id: String,
    /// Topics by id.
    pub topics: BTreeMap<Uuid, Arc<Topic>>,
    /// Ids by name.
    pub names: BTreeMap<String, Uuid>,
    /// Of the names that have a '.' or '_': (as metrics have it, the name itself).
    metric_names: BTreeSet<(String, String)>,
    /// Dynamic broker configs of the cluster as a whole (the default resource, named "").
    pub cluster_configs: BTreeMap<String, String>,
    /// Dynamic configs of single brokers.
    pub broker_configs: BTreeMap<i32, BTreeMap<String, String>>,
    /// The first producer id that no block has taken yet.
    pub next_producer_id: i64,
    /// Who may do what.
    pub acls: Arc<Acls>,
    /// How much clients may use.
    pub quotas: Arc<Quotas>,
    /// Users' SCRAM credentials.
    pub scram: Arc<Credentials>,
    /// Levels of features that were finalised by request; [`super::features::level`] knows the others.
    pub features: BTreeMap<String, i16>,
    /// Configs of groups and of subscriptions to metrics, by kind and name.
    pub resource_configs: Arc<BTreeMap<(ResourceKind, String), BTreeMap<String, String>>>,
}

impl Default for MetadataImage {
    /// The image before the first record.
    fn default() -> MetadataImage {
        MetadataImage {
            offset: -1,
            cluster_id: String::new(),
            topics: BTreeMap::new(),
            names: BTreeMap::new(),
            metric_names: BTreeSet::new(),
            cluster_configs: BTreeMap::new(),
            broker_configs: BTreeMap::new(),
            next_producer_id: 0,
            acls: Arc::default(),
            quotas: Arc::default(),
            scram: Arc::default(),
            features: BTreeMap::new(),
            resource_configs: Arc::default(),
        }
    }
}

/// A topic.
#[derive(Debug, Clone, PartialEq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its id, for ever.
    pub id: Uuid,
    /// Its partitions by index.
    pub partitions: Vec<PartitionState>,
    /// What was set for it, under Kafka's names.
    pub configs: BTreeMap<String, String>,
    /// What is in force: its own settings over the broker's over the defaults.
    pub effective: TopicConfig,
}

/// Who holds a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionState {
    /// The leading broker.
    pub leader: i32,
    /// Grows with each new leader; never goes back for one topic id.
    pub leader_epoch: i32,
    /// Grows with each change of this record.
    pub partition_epoch: i32,
    /// The brokers that hold it, the preferred leader first.
    pub replicas: Vec<i32>,
    /// Those of them that are in sync.
    pub isr: Vec<i32>,
}

impl MetadataImage {
    /// The topic of that name.
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(self.names.get(name)?)
    }

    /// A topic whose metrics have the names that a topic of this name would have.
    pub fn twin(&self, name: &str) -> Option<&str> {
        let (flat, _) = metric_name(name)?;
        let from = (flat, String::new());
        let (found, twin) = self.metric_names.range(&from..).next()?;
        (*found == from.0).then_some(twin)
    }
}

/// Why a record does not fit the image: the log holds what no controller writes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ApplyError {
    /// The record is about a topic that does not exist.
    #[error("a record about topic id {0}, which does not exist")]
    NoTopic(Uuid),
    /// The record makes a topic that exists.
    #[error("a record that makes topic '{name}' with id {id}, of which the name or the id exists")]
    TopicExists {
        /// The name.
        name: String,
        /// The id.
        id: Uuid,
    },
    /// The record leaves a gap in a topic's partitions.
    #[error("a record about partition {partition} of topic id {id}, which has fewer partitions")]
    NoPartition {
        /// The topic's id.
        id: Uuid,
        /// The partition.
        partition: i32,
    },
    /// The record sets a value that is not valid.
    #[error("a record with an invalid config: {0}")]
    InvalidConfig(String),
}

impl MetadataImage {
    /// Makes the change of `record`; `settings` are those of the broker that will use the image. The offset
    /// is the caller's matter.
    ///
    /// # Errors
    /// If the record does not fit. The image is then of no use.
    pub fn apply(&mut self, record: &MetadataRecord, settings: &Settings) -> Result<(), ApplyError> {
        match record {
            MetadataRecord::Cluster { id } => self.cluster_id.clone_from(id),
            MetadataRecord::Topic { id, name } => self.add_topic(*id, name, settings)?,
            MetadataRecord::Partition { topic_id, partition, state } => {
                self.set_partition(*topic_id, *partition, state)?;
            }
            MetadataRecord::RemoveTopic { id } => {
                let topic = self.topics.remove(id).ok_or(ApplyError::NoTopic(*id))?;
                self.names.remove(&topic.name);
                metric_name(&topic.name).map(|name| self.metric_names.remove(&name));
            }
            MetadataRecord::TopicConfig { topic_id, name, value } => {
                self.set_topic_config(*topic_id, name, value.as_deref(), settings)?;
            }
            MetadataRecord::BrokerConfig { broker, name, value } => {
                self.set_broker_config(*broker, name, value.as_deref(), settings)?;
            }
            MetadataRecord::ProducerIds { next } => self.next_producer_id = *next,
            MetadataRecord::Acl { binding, removed: false } => Arc::make_mut(&mut self.acls).insert(binding),
            MetadataRecord::Acl { binding, removed: true } => Arc::make_mut(&mut self.acls).remove(binding),
            MetadataRecord::ClientQuota { entity, key, value } => {
                quotas::set(Arc::make_mut(&mut self.quotas), entity, key, *value);
            }
            MetadataRecord::ScramCredential { user, mechanism, credential } => {
                self.set_credential(user, *mechanism, credential.as_ref());
            }
            MetadataRecord::Feature { name, level } => {
                self.features.insert(name.clone(), *level);
            }
            MetadataRecord::ResourceConfig { kind, resource, name, value } => {
                self.set_resource_config(*kind, resource, name, value.as_deref())?;
            }
        }
        Ok(())
    }

    /// Records that make this image from an empty one.
    pub fn to_records(&self) -> Vec<MetadataRecord> {
        let mut records = Vec::new();
        if !self.cluster_id.is_empty() {
            records.push(MetadataRecord::Cluster { id: self.cluster_id.clone() });
        }
        for (broker, values) in &self.broker_configs {
            records.extend(broker_records(Some(*broker), values));
        }
        records.extend(broker_records(None, &self.cluster_configs));
        for (id, topic) in &self.topics {
            records.extend(topic.to_records(*id));
        }
        records.push(MetadataRecord::ProducerIds { next: self.next_producer_id });
        records.extend(self.acls.iter().map(|binding| MetadataRecord::Acl { binding, removed: false }));
        for (entity, values) in self.quotas.iter() {
            let quota = |(key, value): (&String, &f64)| MetadataRecord::ClientQuota {
                entity: entity.clone(),
                key: key.clone(),
                value: Some(*value),
            };
            records.extend(values.iter().map(quota));
        }
        for (user, credentials) in self.scram.iter() {
            let credential = |(mechanism, credential): (&ScramMechanism, &ScramCredential)| {
                let credential = Some(credential.clone());
                MetadataRecord::ScramCredential { user: user.clone(), mechanism: *mechanism, credential }
            };
            records.extend(credentials.iter().map(credential));
        }
        let feature = |(name, level): (&String, &i16)| MetadataRecord::Feature { name: name.clone(), level: *level };
        records.extend(self.features.iter().map(feature));
        for ((kind, resource), values) in self.resource_configs.iter() {
            let config = |(name, value): (&String, &String)| MetadataRecord::ResourceConfig {
                kind: *kind,
                resource: resource.clone(),
                name: name.clone(),
                value: Some(value.clone()),
            };
            records.extend(values.iter().map(config));
        }
        records
    }

    fn set_credential(&mut self, user: &str, mechanism: ScramMechanism, credential: Option<&ScramCredential>) {
        let users = Arc::make_mut(&mut self.scram);
        match credential {
            Some(credential) => {
                users.entry(user.to_owned()).or_default().insert(mechanism, credential.clone());
            }
            None => {
                let Some(credentials) = users.get_mut(user) else { return };
                credentials.remove(&mechanism);
                if credentials.is_empty() {
                    users.remove(user);
                }
            }
        }
    }

    fn set_resource_config(
        &mut self,
        kind: ResourceKind,
        resource: &str,
        name: &str,
        value: Option<&str>,
    ) -> Result<(), ApplyError> {
        if let Some(value) = value {
            resource_configs::check_one(kind, name, value).map_err(ApplyError::InvalidConfig)?;
        }
        let all = Arc::make_mut(&mut self.resource_configs);
        let key = (kind, resource.to_owned());
        let configs = all.entry(key.clone()).or_default();
        set(configs, name, value);
        if configs.is_empty() {
            all.remove(&key);
        }
        Ok(())
    }

    /// What was set for a group or a subscription to metrics.
    pub fn resource_config(&self, kind: ResourceKind, name: &str) -> Option<&BTreeMap<String, String>> {
        self.resource_configs.get(&(kind, name.to_owned()))
    }

    fn add_topic(&mut self, id: Uuid, name: &str, settings: &Settings) -> Result<(), ApplyError> {
        if self.topics.contains_key(&id) || self.names.contains_key(name) {
            return Err(ApplyError::TopicExists { name: name.to_owned(), id });
        }
        let configs = BTreeMap::new();
        let effective = TopicConfig::resolve(&configs, &BrokerValues::new(settings, self));
        let topic = Topic { name: name.to_owned(), id, partitions: Vec::new(), configs, effective };
        self.topics.insert(id, Arc::new(topic));
        self.names.insert(name.to_owned(), id);
        self.metric_names.extend(metric_name(name));
        Ok(())
    }

    fn set_partition(&mut self, id: Uuid, partition: i32, state: &PartitionState) -> Result<(), ApplyError> {
        let topic = Arc::make_mut(self.topics.get_mut(&id).ok_or(ApplyError::NoTopic(id))?);
        let index = usize::try_from(partition).map_err(|_| ApplyError::NoPartition { id, partition })?;
        match index.cmp(&topic.partitions.len()) {
            Ordering::Less => topic.partitions[index] = state.clone(),
            Ordering::Equal => topic.partitions.push(state.clone()),
            Ordering::Greater => return Err(ApplyError::NoPartition { id, partition }),
        }
        Ok(())
    }

    fn set_topic_config(
        &mut self,
        id: Uuid,
        name: &str,
        value: Option<&str>,
        settings: &Settings,
    ) -> Result<(), ApplyError> {
        // Alone: settings that need each other arrive one by one.
        if let Some(value) = value {
            let setting = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            topic_configs::check_each(&setting).map_err(ApplyError::InvalidConfig)?;
        }
        let mut topic = Topic::clone(self.topics.get(&id).ok_or(ApplyError::NoTopic(id))?);
        set(&mut topic.configs, name, value);
        topic.effective = TopicConfig::resolve(&topic.configs, &BrokerValues::new(settings, self));
        self.topics.insert(id, Arc::new(topic));
        Ok(())
    }

    fn set_broker_config(
        &mut self,
        broker: Option<i32>,
        name: &str,
        value: Option<&str>,
        settings: &Settings,
    ) -> Result<(), ApplyError> {
        if let Some(value) = value {
            let setting = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            broker_configs::check_dynamic(&setting).map_err(ApplyError::InvalidConfig)?;
        }
        match broker {
            None => set(&mut self.cluster_configs, name, value),
            Some(id) => {
                let configs = self.broker_configs.entry(id).or_default();
                set(configs, name, value);
                if configs.is_empty() {
                    self.broker_configs.remove(&id);
                }
            }
        }
        self.resolve_topics(settings);
        Ok(())
    }

    /// Topics take values from the broker: all that see other ones now change.
    fn resolve_topics(&mut self, settings: &Settings) {
        let mut topics = std::mem::take(&mut self.topics);
        let broker = BrokerValues::new(settings, self);
        for topic in topics.values_mut() {
            let effective = TopicConfig::resolve(&topic.configs, &broker);
            if effective != topic.effective {
                Arc::make_mut(topic).effective = effective;
            }
        }
        self.topics = topics;
    }
}

impl Topic {
    fn to_records(&self, id: Uuid) -> Vec<MetadataRecord> {
        let mut records = vec![MetadataRecord::Topic { id, name: self.name.clone() }];
        for (partition, state) in (0..).zip(&self.partitions) {
            records.push(MetadataRecord::Partition { topic_id: id, partition, state: state.clone() });
        }
        for (name, value) in &self.configs {
            let (name, value) = (name.clone(), Some(value.clone()));
            records.push(MetadataRecord::TopicConfig { topic_id: id, name, value });
        }
        records
    }
}

/// A topic's name as metrics have it, with '_' for '.', and the name itself; `None` for one that has neither, and so
/// shares its metrics with no other.
fn metric_name(name: &str) -> Option<(String, String)> {
    name.contains(['.', '_']).then(|| (name.replace('.', "_"), name.to_owned()))
}

fn broker_records(broker: Option<i32>, values: &BTreeMap<String, String>) -> impl Iterator<Item = MetadataRecord> {
    values.iter().map(move |(name, value)| {
        let (name, value) = (name.clone(), Some(value.clone()));
        MetadataRecord::BrokerConfig { broker, name, value }
    })
}

fn set(values: &mut BTreeMap<String, String>, name: &str, value: Option<&str>) {
    match value {
        Some(value) => values.insert(name.to_owned(), value.to_owned()),
        None => values.remove(name),
    };
}
