//! CreateTopics, DeleteTopics, CreatePartitions: which records a request becomes, or why it is refused.
//!
//! Decides on an image alone. Each item of a request succeeds or fails by itself. Messages have the words of
//! Kafka's `ReplicationControlManager` and `Topic`, for tools show them.

use std::collections::{BTreeMap, BTreeSet};

use super::Context;
use super::broker_configs::BrokerValues;
use super::describe;
use super::image::{PartitionState, Topic};
use super::placement;
use super::records::MetadataRecord;
use super::request::{
    CreatedTopic, DeletedTopic, NewPartitions, NewTopic, NewTopicState, Refusal, Setting, TopicName, occurrences,
};
use super::topic_configs;
use crate::protocol::{ErrorCode, Uuid};

/// The longest topic name (`Topic.java`): directories are named after topics.
pub const MAX_NAME_BYTES: usize = 249;
/// Most partitions that one request makes (`ReplicationControlManager.MAX_PARTITIONS_PER_BATCH`).
pub const MAX_PARTITIONS_PER_REQUEST: usize = 10_000;
/// What it costs to describe a topic's configs (see [`crate::io::Pace`]).
const DESCRIBE_COST: usize = 50;
/// Kafka's own log of metadata; clients may not have a topic of that name.
const CLUSTER_METADATA: &str = "__cluster_metadata";

/// Checks a topic's name.
///
/// # Errors
/// INVALID_TOPIC_EXCEPTION and why.
pub fn check_name(name: &str) -> Result<(), Refusal> {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let why = if name.is_empty() {
        "the empty string is not allowed".to_owned()
    } else if matches!(name, "." | "..") {
        format!("'{name}' is not allowed")
    } else if name.len() > MAX_NAME_BYTES {
        format!("the length of '{name}' is longer than the max allowed length {MAX_NAME_BYTES}")
    } else if !name.bytes().all(is_legal) {
        format!("'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'")
    } else {
        return Ok(());
    };
    Err(Refusal::new(ErrorCode::InvalidTopicException, format!("Topic name is invalid: {why}")))
}

pub(super) async fn create(context: &mut Context<'_>, topics: &[NewTopic], validate_only: bool) -> Vec<CreatedTopic> {
    let counts = occurrences(topics.iter().map(|topic| topic.name.as_str()));
    let mut room = MAX_PARTITIONS_PER_REQUEST;
    let mut results = Vec::with_capacity(counts.len());
    let mut answered = BTreeSet::new();
    for topic in topics {
        context.pace.spend(1).await;
        let result = match counts[topic.name.as_str()] {
            1 => create_one(context, topic, validate_only, &mut room),
            // One answer for all of them.
            _ if !answered.insert(&topic.name) => continue,
            _ => Err(Refusal::new(ErrorCode::InvalidRequest, "Duplicate topic name.")),
        };
        if result.is_ok() {
            context.pace.spend(DESCRIBE_COST).await;
        }
        results.push(CreatedTopic { name: topic.name.clone(), result });
    }
    results
}

fn create_one(
    context: &mut Context<'_>,
    topic: &NewTopic,
    validate_only: bool,
    room: &mut usize,
) -> Result<NewTopicState, Refusal> {
    check_name_is_free(context, &topic.name)?;
    let mut settings = settings(&topic.configs)?;
    let replicas = placement::of_new_topic(context, topic)?;
    let replication_factor = replicas[0].len();
    if replicas.len() > *room {
        let why = "Excessively large number of partitions per request.";
        return Err(Refusal::new(ErrorCode::PolicyViolation, why));
    }
    *room -= replicas.len();
    // Acknowledged by all must mean more than one where there are three.
    if replication_factor >= 3 {
        settings.entry("min.insync.replicas".to_owned()).or_insert_with(|| "2".to_owned());
    }
    let configs = describe::topic_entries(&settings, &BrokerValues::new(context.settings, context.image));
    let id = if validate_only { Uuid::ZERO } else { new_id(context) };
    let state = NewTopicState {
        id,
        partitions: i32::try_from(replicas.len()).expect("bounded above"),
        replication_factor: i16::try_from(replication_factor).expect("bounded by the brokers"),
        configs,
    };
    if !validate_only {
        push_topic(context, id, &topic.name, replicas, settings);
    }
    Ok(state)
}

fn check_name_is_free(context: &Context<'_>, name: &str) -> Result<(), Refusal> {
    check_name(name)?;
    if name == CLUSTER_METADATA {
        let why = format!("Creation of internal topic {name} is prohibited.");
        return Err(Refusal::new(ErrorCode::InvalidRequest, why));
    }
    if context.image.names.contains_key(name) {
        return Err(Refusal::new(ErrorCode::TopicAlreadyExists, format!("Topic '{name}' already exists.")));
    }
    match context.image.twin(name) {
        Some(twin) => Err(Refusal::new(
            ErrorCode::InvalidTopicException,
            format!("Topic '{name}' collides with existing topic: {twin}"),
        )),
        None => Ok(()),
    }
}

fn settings(configs: &[Setting]) -> Result<BTreeMap<String, String>, Refusal> {
    let invalid = |why: String| Refusal::new(ErrorCode::InvalidConfig, why);
    let nulls: Vec<_> = configs.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| name.as_str()).collect();
    if !nulls.is_empty() {
        return Err(invalid(format!("Null value not supported for topic configs: {}", nulls.join(","))));
    }
    let settings = configs.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?))).collect();
    topic_configs::check(&settings).map_err(invalid)?;
    Ok(settings)
}

/// A random id; never one whose text begins with '-', which command lines would take for an option.
fn new_id(context: &mut Context<'_>) -> Uuid {
    loop {
        let id = context.random_uuid();
        if !context.image.topics.contains_key(&id) {
            return id;
        }
    }
}

fn push_topic(
    context: &mut Context<'_>,
    id: Uuid,
    name: &str,
    replicas: Vec<Vec<i32>>,
    settings: BTreeMap<String, String>,
) {
    context.records.push(MetadataRecord::Topic { id, name: name.to_owned() });
    push_partitions(context, id, 0, replicas);
    let configs = settings.into_iter().map(|(name, value)| MetadataRecord::TopicConfig {
        topic_id: id,
        name,
        value: Some(value),
    });
    context.records.extend(configs);
}

fn push_partitions(context: &mut Context<'_>, topic_id: Uuid, first: usize, replicas: Vec<Vec<i32>>) {
    for (index, replicas) in (first..).zip(replicas) {
        let partition = i32::try_from(index).expect("bounded above");
        let state = PartitionState {
            leader: replicas[0],
            leader_epoch: 0,
            partition_epoch: 0,
            isr: replicas.clone(),
            replicas,
        };
        context.records.push(MetadataRecord::Partition { topic_id, partition, state });
    }
}

pub(super) async fn delete(context: &mut Context<'_>, topics: &[TopicName]) -> Vec<DeletedTopic> {
    let names = occurrences(topics.iter().filter_map(|topic| topic.name.as_deref()));
    let ids = occurrences(topics.iter().filter_map(|topic| find(context, topic).ok().map(|(id, _)| id)));
    let enabled = BrokerValues::new(context.settings, context.image).boolean("delete.topic.enable");
    let mut results = Vec::with_capacity(topics.len());
    for topic in topics {
        context.pace.spend(1).await;
        let found = find(context, topic);
        let is_repeated = topic.name.as_deref().is_some_and(|name| names[name] > 1)
            || found.as_ref().is_ok_and(|(id, _)| ids[id] > 1);
        let result = match found {
            _ if !enabled => Err(Refusal::plain(ErrorCode::TopicDeletionDisabled)),
            _ if is_repeated => Err(Refusal::new(ErrorCode::InvalidRequest, "Duplicate topic name or id.")),
            Ok((id, _)) => {
                context.records.push(MetadataRecord::RemoveTopic { id });
                Ok(())
            }
            Err(ref refusal) => Err(refusal.clone()),
        };
        let (id, name) = found.map_or((topic.id, topic.name.clone()), |(id, name)| (id, Some(name)));
        results.push(DeletedTopic { name, id, result });
    }
    results
}

fn find(context: &Context<'_>, topic: &TopicName) -> Result<(Uuid, String), Refusal> {
    let invalid = |why: &str| Err(Refusal::new(ErrorCode::InvalidRequest, why));
    match (&topic.name, topic.id.is_zero()) {
        (None, true) => invalid("Neither topic name nor id were specified."),
        (Some(_), false) => invalid("You may not specify both topic name and topic id."),
        (Some(name), true) => {
            let id = context.image.names.get(name).ok_or(Refusal::plain(ErrorCode::UnknownTopicOrPartition))?;
            Ok((*id, name.clone()))
        }
        (None, false) => {
            let known = context.image.topics.get(&topic.id).ok_or(Refusal::plain(ErrorCode::UnknownTopicId))?;
            Ok((topic.id, known.name.clone()))
        }
    }
}

pub(super) async fn create_partitions(
    context: &mut Context<'_>,
    topics: &[NewPartitions],
    validate_only: bool,
) -> Vec<(String, Result<(), Refusal>)> {
    let counts = occurrences(topics.iter().map(|topic| topic.name.as_str()));
    let mut room = MAX_PARTITIONS_PER_REQUEST;
    let mut results: Vec<(String, Result<(), Refusal>)> = Vec::with_capacity(counts.len());
    let mut answered = BTreeSet::new();
    for topic in topics {
        context.pace.spend(1).await;
        let result = match counts[topic.name.as_str()] {
            1 => grow(context, topic, validate_only, &mut room),
            _ if !answered.insert(&topic.name) => continue,
            _ => Err(Refusal::new(ErrorCode::InvalidRequest, "Duplicate topic name.")),
        };
        results.push((topic.name.clone(), result));
    }
    results
}

fn grow(context: &mut Context<'_>, new: &NewPartitions, validate_only: bool, room: &mut usize) -> Result<(), Refusal> {
    let unknown = || Refusal::plain(ErrorCode::UnknownTopicOrPartition);
    let id = *context.image.names.get(&new.name).ok_or_else(unknown)?;
    let topic = context.image.topics[&id].clone();
    let additional = additional_partitions(&topic, new)?;
    if additional > *room {
        let why = "Excessively large number of partitions per request.";
        return Err(Refusal::new(ErrorCode::PolicyViolation, why));
    }
    *room -= additional;
    let replication_factor = topic.partitions[0].replicas.len();
    let replicas = match &new.assignments {
        Some(assignments) => {
            if assignments.len() != additional {
                let why = format!(
                    "Attempted to add {additional} additional partition(s), but only {} assignment(s) were specified.",
                    assignments.len()
                );
                return Err(Refusal::new(ErrorCode::InvalidReplicaAssignment, why));
            }
            for replicas in assignments {
                placement::check_assignment(context, replicas, Some(replication_factor))?;
            }
            assignments.clone()
        }
        None => placement::place(context, additional, replication_factor),
    };
    if !validate_only {
        push_partitions(context, id, topic.partitions.len(), replicas);
    }
    Ok(())
}

fn additional_partitions(topic: &Topic, new: &NewPartitions) -> Result<usize, Refusal> {
    let invalid = |why: String| Err(Refusal::new(ErrorCode::InvalidPartitions, why));
    let current = topic.partitions.len();
    let count = usize::try_from(new.count).unwrap_or(0);
    if count == current {
        return invalid(format!("Topic already has {current} partition(s)."));
    }
    if count < current {
        let (name, asked) = (&new.name, new.count);
        return invalid(format!(
            "The topic {name} currently has {current} partition(s); {asked} would not be an increase."
        ));
    }
    Ok(count - current)
}
