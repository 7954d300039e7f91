//! What the controller is asked, and what it answers.
//!
//! Plain data that travels between cores; handlers translate from and to messages. Answers stand in the order
//! of the items that they answer.

use std::collections::{BTreeMap, BTreeSet};

use super::acls::{AclBinding, AclFilter};
use super::describe::ConfigEntry;
use super::features::FeatureUpdate;
use super::quotas::QuotaAlteration;
use super::scram::ScramAlteration;
use crate::protocol::{ErrorCode, Uuid};

/// Why one item of a request was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Kafka's error; never NONE.
    pub error: ErrorCode,
    /// A sentence for the client; `None` leaves it to the error's own.
    pub message: Option<String>,
}

impl Refusal {
    /// A refusal that says why.
    pub fn new(error: ErrorCode, message: impl Into<String>) -> Refusal {
        Refusal { error, message: Some(message.into()) }
    }

    /// A refusal whose error says all.
    pub fn plain(error: ErrorCode) -> Refusal {
        Refusal { error, message: None }
    }
}

/// A config's name and value; a value must be there, but a message may lack it.
pub type Setting = (String, Option<String>);

/// A request to change the cluster.
#[derive(Debug, Clone, PartialEq)]
pub enum ControllerRequest {
    /// Make topics.
    CreateTopics {
        /// The topics.
        topics: Vec<NewTopic>,
        /// Check alone, change nothing.
        validate_only: bool,
    },
    /// Remove topics and all that is in them.
    DeleteTopics(Vec<TopicName>),
    /// Give topics more partitions.
    CreatePartitions {
        /// The topics.
        topics: Vec<NewPartitions>,
        /// Check alone, change nothing.
        validate_only: bool,
    },
    /// Change single configs.
    IncrementalAlterConfigs {
        /// The resources and what to do to their configs.
        resources: Vec<(ConfigResource, Vec<ConfigChange>)>,
        /// Check alone, change nothing.
        validate_only: bool,
    },
    /// Replace all configs of resources; what is not named goes back to its default.
    AlterConfigs {
        /// The resources and their whole new settings.
        resources: Vec<(ConfigResource, Vec<Setting>)>,
        /// Check alone, change nothing.
        validate_only: bool,
    },
    /// Take producer ids that nobody else will ever get.
    AllocateProducerIds {
        /// How many, 1 to [`super::producer_ids::MAX_BLOCK`]; what lies outside is brought inside.
        count: i32,
    },
    /// Add ACLs.
    CreateAcls(Vec<AclBinding>),
    /// Remove the ACLs that filters mean.
    DeleteAcls(Vec<AclFilter>),
    /// Change client quotas.
    AlterClientQuotas {
        /// What to change.
        alterations: Vec<QuotaAlteration>,
        /// Check alone, change nothing.
        validate_only: bool,
    },
    /// Change SCRAM credentials.
    AlterUserScramCredentials(Vec<ScramAlteration>),
    /// Finalise levels of features, all or none.
    UpdateFeatures {
        /// The features and their new levels.
        updates: Vec<FeatureUpdate>,
        /// Check alone, change nothing.
        validate_only: bool,
    },
}

/// A topic to make.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// How many partitions; −1 for the broker's default, or with `assignments`.
    pub partitions: i32,
    /// How many replicas each; −1 for the broker's default, or with `assignments`.
    pub replication_factor: i16,
    /// (partition, its brokers) if the client chooses them; else empty.
    pub assignments: Vec<(i32, Vec<i32>)>,
    /// Its settings, under Kafka's names.
    pub configs: Vec<Setting>,
}

/// A topic by name or by id; exactly one of them is given by a client that is right.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TopicName {
    /// The name, if given.
    pub name: Option<String>,
    /// The id; zero if not given.
    pub id: Uuid,
}

/// A topic to grow.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewPartitions {
    /// Its name.
    pub name: String,
    /// How many partitions it shall have in all.
    pub count: i32,
    /// The brokers of each new partition if the client chooses them.
    pub assignments: Option<Vec<Vec<i32>>>,
}

/// What has configs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConfigResource {
    /// A topic, by name.
    Topic(String),
    /// A broker by id, or with the empty name all of them.
    Broker(String),
    /// The levels of a broker's loggers, by its id.
    BrokerLogger(String),
    /// A subscription to clients' metrics, by name.
    ClientMetrics(String),
    /// A group of any protocol, by id.
    Group(String),
    /// Another kind, which has no configs here.
    Other {
        /// Its code (`ConfigResource.Type`).
        kind: i8,
        /// Its name.
        name: String,
    },
}

impl ConfigResource {
    /// The resource of a message.
    pub fn from_wire(kind: i8, name: String) -> ConfigResource {
        match kind {
            2 => ConfigResource::Topic(name),
            4 => ConfigResource::Broker(name),
            8 => ConfigResource::BrokerLogger(name),
            16 => ConfigResource::ClientMetrics(name),
            32 => ConfigResource::Group(name),
            _ => ConfigResource::Other { kind, name },
        }
    }

    /// The code of its kind, and its name.
    pub fn to_wire(&self) -> (i8, &str) {
        match self {
            ConfigResource::Topic(name) => (2, name),
            ConfigResource::Broker(name) => (4, name),
            ConfigResource::BrokerLogger(name) => (8, name),
            ConfigResource::ClientMetrics(name) => (16, name),
            ConfigResource::Group(name) => (32, name),
            ConfigResource::Other { kind, name } => (*kind, name),
        }
    }
}

/// A change of one config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigChange {
    /// The config's name.
    pub name: String,
    /// `AlterConfigOp.OpType`: 0 SET, 1 DELETE, 2 APPEND, 3 SUBTRACT.
    pub operation: i8,
    /// The value; `None` for DELETE.
    pub value: Option<String>,
}

/// The answer to the request of the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControllerReply {
    /// One result for each topic.
    CreateTopics(Vec<CreatedTopic>),
    /// One result for each topic.
    DeleteTopics(Vec<DeletedTopic>),
    /// (name, result) for each topic.
    CreatePartitions(Vec<(String, Result<(), Refusal>)>),
    /// (resource, result) for each resource of an IncrementalAlterConfigs or AlterConfigs.
    AlterConfigs(Vec<(ConfigResource, Result<(), Refusal>)>),
    /// The ids, which are the caller's for good.
    AllocateProducerIds(Result<ProducerIds, Refusal>),
    /// One result for each ACL.
    CreateAcls(Vec<Result<(), Refusal>>),
    /// For each filter the ACLs that it removed.
    DeleteAcls(Vec<Result<Vec<AclBinding>, Refusal>>),
    /// One result for each entity.
    AlterClientQuotas(Vec<Result<(), Refusal>>),
    /// (user, result) for each user.
    AlterUserScramCredentials(Vec<(String, Result<(), Refusal>)>),
    /// One result for all features.
    UpdateFeatures(Result<(), Refusal>),
}

/// What became of a topic to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedTopic {
    /// Its name.
    pub name: String,
    /// What it is, or why it is not.
    pub result: Result<NewTopicState, Refusal>,
}

/// A topic that was made, or with `validate_only` would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopicState {
    /// Its id; zero with `validate_only`.
    pub id: Uuid,
    /// How many partitions it has.
    pub partitions: i32,
    /// How many replicas each has.
    pub replication_factor: i16,
    /// All its configs, sorted by name.
    pub configs: Vec<ConfigEntry>,
}

/// What became of a topic to remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeletedTopic {
    /// Its name, if known.
    pub name: Option<String>,
    /// Its id; zero if not known.
    pub id: Uuid,
    /// Whether it is gone.
    pub result: Result<(), Refusal>,
}

/// A block of producer ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerIds {
    /// The first.
    pub first: i64,
    /// How many.
    pub count: i32,
}

impl ProducerIds {
    /// The next id of the block; `None` if all have been taken.
    pub fn take(&mut self) -> Option<i64> {
        if self.count == 0 {
            return None;
        }
        let id = self.first;
        self.first += 1;
        self.count -= 1;
        Some(id)
    }
}

impl ControllerRequest {
    /// The answer that refuses each item of the request for one reason.
    pub fn refused(&self, why: &Refusal) -> ControllerReply {
        let refuse = || Err(why.clone());
        match self {
            ControllerRequest::CreateTopics { topics, .. } => {
                let refused =
                    topics.iter().map(|topic| CreatedTopic { name: topic.name.clone(), result: Err(why.clone()) });
                ControllerReply::CreateTopics(refused.collect())
            }
            ControllerRequest::DeleteTopics(topics) => {
                let refused = topics.iter().map(|topic| DeletedTopic {
                    name: topic.name.clone(),
                    id: topic.id,
                    result: refuse(),
                });
                ControllerReply::DeleteTopics(refused.collect())
            }
            ControllerRequest::CreatePartitions { topics, .. } => {
                ControllerReply::CreatePartitions(topics.iter().map(|topic| (topic.name.clone(), refuse())).collect())
            }
            ControllerRequest::IncrementalAlterConfigs { resources, .. } => ControllerReply::AlterConfigs(
                resources.iter().map(|(resource, _)| (resource.clone(), refuse())).collect(),
            ),
            ControllerRequest::AlterConfigs { resources, .. } => ControllerReply::AlterConfigs(
                resources.iter().map(|(resource, _)| (resource.clone(), refuse())).collect(),
            ),
            ControllerRequest::AllocateProducerIds { .. } => ControllerReply::AllocateProducerIds(Err(why.clone())),
            ControllerRequest::CreateAcls(acls) => ControllerReply::CreateAcls(acls.iter().map(|_| refuse()).collect()),
            ControllerRequest::DeleteAcls(filters) => {
                ControllerReply::DeleteAcls(filters.iter().map(|_| Err(why.clone())).collect())
            }
            ControllerRequest::AlterClientQuotas { alterations, .. } => {
                ControllerReply::AlterClientQuotas(alterations.iter().map(|_| refuse()).collect())
            }
            ControllerRequest::AlterUserScramCredentials(alterations) => {
                let users: BTreeSet<_> = alterations.iter().map(|alteration| alteration.user.clone()).collect();
                ControllerReply::AlterUserScramCredentials(users.into_iter().map(|user| (user, refuse())).collect())
            }
            ControllerRequest::UpdateFeatures { .. } => ControllerReply::UpdateFeatures(refuse()),
        }
    }
}

/// As much of a name as a message repeats, which is every name that there can be. One may be 32 KiB long and be
/// answered a million times.
pub(super) fn shown(name: &str) -> &str {
    &name[..name.floor_char_boundary(super::topics::MAX_NAME_BYTES)]
}

/// How often each key occurs.
pub(super) fn occurrences<K: Ord>(keys: impl Iterator<Item = K>) -> BTreeMap<K, usize> {
    let mut counts = BTreeMap::new();
    for key in keys {
        *counts.entry(key).or_insert(0) += 1;
    }
    counts
}
