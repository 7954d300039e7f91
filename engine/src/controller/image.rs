//! The metadata image: what the cluster is, as of one record of the metadata log.
//!
//! An image never changes; a new one shares what did not change with the old one. Every core holds the
//! newest that it has applied. It knows neither files nor connections.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::protocol::Uuid;

use super::configs::TopicConfig;

/// What the cluster is.
#[derive(Debug, Clone, Default)]
pub struct MetadataImage {
    /// The metadata log's offset of the last record that is in the image; −1 for none.
    pub offset: i64,
    /// The cluster's id, as clients see it.
    pub cluster_id: String,
    /// Topics by id.
    pub topics: BTreeMap<Uuid, Arc<Topic>>,
    /// Ids by name.
    pub names: BTreeMap<String, Uuid>,
    /// Dynamic broker configs of the cluster as a whole (the default resource, named "").
    pub cluster_configs: BTreeMap<String, String>,
    /// Dynamic configs of single brokers.
    pub broker_configs: BTreeMap<i32, BTreeMap<String, String>>,
    /// The first producer id that no block has taken yet.
    pub next_producer_id: i64,
}

/// A topic.
#[derive(Debug, Clone)]
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
}
