//! Offsets of share groups (KIP-932): DescribeShareGroupOffsets, AlterShareGroupOffsets, DeleteShareGroupOffsets.
//!
//! The group's coordinator keeps account of which partitions there are offsets of, the share coordinators have the
//! offsets. A change is told to the first before, the second, and the first behind; what is left half done between is
//! done again by whoever asks next.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use engine::controller::MetadataImage;
use engine::coordinator::group::consumer::Failure;
use engine::coordinator::group::shares::{ShareGroupReply, ShareGroupRequest};
use engine::coordinator::share::{ShareAction, SharePartitionKey, ShareReply};
use engine::protocol::messages::alter_share_group_offsets::{
    AlterShareGroupOffsetsRequest, AlterShareGroupOffsetsRequestTopic, AlterShareGroupOffsetsResponse,
    AlterShareGroupOffsetsResponsePartition, AlterShareGroupOffsetsResponseTopic,
};
use engine::protocol::messages::delete_share_group_offsets::{
    DeleteShareGroupOffsetsRequest, DeleteShareGroupOffsetsResponse, DeleteShareGroupOffsetsResponseTopic,
};
use engine::protocol::messages::describe_share_group_offsets::{
    DescribeShareGroupOffsetsRequest, DescribeShareGroupOffsetsRequestGroup, DescribeShareGroupOffsetsResponse,
    DescribeShareGroupOffsetsResponseGroup, DescribeShareGroupOffsetsResponsePartition,
    DescribeShareGroupOffsetsResponseTopic,
};
use engine::protocol::{ErrorCode, IntoStatic, Str, Uuid};

use super::share_groups::{self, are_enabled, finish_initialization, load_anew};
use super::share_state;
use crate::authorizer::{Operation, Resource, allows, authorize, sentence};
use crate::broker::Broker;
use crate::dispatch::{Answer, Call, Refusal};

/// Kafka's sentences for errors of whole requests.
fn why(error: ErrorCode) -> &'static str {
    match error {
        ErrorCode::UnsupportedVersion => "The version of API is not supported.",
        ErrorCode::InvalidGroupId => "The configured groupId is invalid.",
        ErrorCode::NonEmptyGroup => "The group is not empty.",
        ErrorCode::GroupIdNotFound => "The group id does not exist.",
        ErrorCode::UnknownTopicOrPartition => "This server does not host this topic-partition.",
        ErrorCode::TopicAuthorizationFailed
        | ErrorCode::GroupAuthorizationFailed
        | ErrorCode::ClusterAuthorizationFailed => sentence(error),
        _ => "The coordinator is not available.",
    }
}

/// Describes the start offsets of groups.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn describe(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: DescribeShareGroupOffsetsRequest<'_> = call.decode()?;
    let mut groups = Vec::with_capacity(request.groups.len());
    for asked in &request.groups {
        groups.push(describe_group(broker, call, asked).await?);
    }
    call.answer(&DescribeShareGroupOffsetsResponse { groups, ..Default::default() })
}

async fn describe_group(
    broker: &Broker,
    call: &Call,
    asked: &DescribeShareGroupOffsetsRequestGroup<'_>,
) -> Result<DescribeShareGroupOffsetsResponseGroup<'static>, Refusal> {
    let group = &*asked.group_id;
    let refuse = |error: ErrorCode, error_message: Option<Str<'static>>| DescribeShareGroupOffsetsResponseGroup {
        group_id: group.to_owned().into(),
        error_code: error.code(),
        error_message,
        ..Default::default()
    };
    if !are_enabled(broker) {
        return Ok(refuse(ErrorCode::UnsupportedVersion, None));
    }
    if let Err(error) = authorize(broker, call, Operation::Describe, Resource::Group(group)) {
        return Ok(refuse(error, None));
    }
    let image = broker.image();
    let may_see = |name: &str| allows(broker, call, Operation::Describe, Resource::Topic(name));
    let mut wanted: Vec<(Uuid, String, Vec<i32>)> = Vec::new();
    let mut topics = Vec::new();
    let mut hidden = Vec::new();
    match &asked.topics {
        Some(asked) => {
            for topic in asked {
                let known = image.topic(&topic.topic_name).map(|known| known.id);
                match known {
                    _ if !may_see(&topic.topic_name) => {
                        let error = ErrorCode::TopicAuthorizationFailed;
                        hidden.push(without_offsets(&topic.topic_name, &topic.partitions, error));
                    }
                    Some(id) => wanted.push((id, topic.topic_name.to_string(), topic.partitions.clone())),
                    None => topics.push(without_offsets(&topic.topic_name, &topic.partitions, ErrorCode::None)),
                }
            }
        }
        None => match share_groups::ask(broker, group, ShareGroupRequest::Partitions(group.to_owned())).await? {
            Ok(ShareGroupReply::Partitions(partitions)) => {
                for (id, partitions) in partitions {
                    let name = image.topics.get(&id).map(|topic| topic.name.clone());
                    if let Some(name) = name.filter(|name| may_see(name)) {
                        wanted.push((id, name, partitions.into_iter().collect()));
                    }
                }
            }
            Ok(other) => unreachable!("a coordinator answers what it is asked, not {other:?}"),
            Err(error) => return Ok(refuse(error, Some(why(error).into()))),
        },
    }
    topics.extend(read_offsets(broker, group, wanted).await?);
    topics.extend(hidden);
    Ok(DescribeShareGroupOffsetsResponseGroup { group_id: group.to_owned().into(), topics, ..Default::default() })
}

fn without_offsets(
    name: &str,
    partitions: &[i32],
    error: ErrorCode,
) -> DescribeShareGroupOffsetsResponseTopic<'static> {
    let partition = |index: &i32| DescribeShareGroupOffsetsResponsePartition {
        partition_index: *index,
        start_offset: -1,
        error_code: error.code(),
        error_message: error.is_error().then(|| why(error).into()),
        ..Default::default()
    };
    DescribeShareGroupOffsetsResponseTopic {
        topic_name: name.to_owned().into(),
        topic_id: Uuid::ZERO,
        partitions: partitions.iter().map(partition).collect(),
    }
}

async fn read_offsets(
    broker: &Broker,
    group: &str,
    wanted: Vec<(Uuid, String, Vec<i32>)>,
) -> Result<Vec<DescribeShareGroupOffsetsResponseTopic<'static>>, Refusal> {
    let key = |topic_id: Uuid, partition: i32| SharePartitionKey { group: group.to_owned(), topic_id, partition };
    let keys: Vec<SharePartitionKey> =
        wanted.iter().flat_map(|(id, _, partitions)| partitions.iter().map(|index| key(*id, *index))).collect();
    let mut answers = share_state::ask(broker, &keys, |_| ShareAction::Summarize, true).await?.into_iter();
    let mut partition = |partition_index: i32| {
        let summary = match answers.next() {
            Some(Ok(ShareReply::Summary(Ok(summary)))) => Some(summary),
            _ => None,
        };
        DescribeShareGroupOffsetsResponsePartition {
            partition_index,
            start_offset: summary.map_or(-1, |summary| summary.start_offset),
            leader_epoch: summary.map_or(0, |summary| summary.leader_epoch),
            ..Default::default()
        }
    };
    let topic = |(topic_id, name, partitions): (Uuid, String, Vec<i32>)| DescribeShareGroupOffsetsResponseTopic {
        topic_name: name.into(),
        topic_id,
        partitions: partitions.into_iter().map(&mut partition).collect(),
    };
    Ok(wanted.into_iter().map(topic).collect())
}

/// Gives a group without members other start offsets. (Kafka 4.1.0 loses the topics that there are on their way to its
/// coordinator, and changes nothing; here is what its coordinator answers.)
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn alter(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request = call.decode::<AlterShareGroupOffsetsRequest<'_>>()?.into_static();
    let refuse = |error: ErrorCode, why: &str| {
        let error_message = Some(why.to_owned().into());
        call.answer(&AlterShareGroupOffsetsResponse { error_code: error.code(), error_message, ..Default::default() })
    };
    if !are_enabled(broker) {
        return refuse(ErrorCode::UnsupportedVersion, why(ErrorCode::UnsupportedVersion));
    }
    let group = request.group_id.to_string();
    if let Err(error) = authorize(broker, call, Operation::Read, Resource::Group(&group)) {
        return refuse(error, why(error));
    }
    let image = broker.image();
    let mut responses = Vec::with_capacity(request.topics.len());
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let allowed = authorize(broker, call, Operation::Read, Resource::Topic(&topic.topic_name));
        let known = image.topic(&topic.topic_name).map(drop).ok_or(ErrorCode::UnknownTopicOrPartition);
        match allowed.and(known) {
            Ok(()) => topics.push(topic),
            Err(error) => responses.push(not_altered(&image, &topic, error)),
        }
    }
    if group.is_empty() {
        return refuse(ErrorCode::InvalidGroupId, why(ErrorCode::InvalidGroupId));
    }
    if !topics.is_empty() {
        let asked = ShareGroupRequest::AlterOffsets { group: group.clone(), topics };
        match share_groups::ask(broker, &group, asked).await? {
            Ok(ShareGroupReply::AlterOffsets(Ok((altered, initialization)))) => {
                let outcomes = share_state::begin(broker, &group, &initialization).await?;
                let succeeded = outcomes.values().all(Result::is_ok);
                finish_initialization(broker, &group, &initialization, succeeded).await?;
                load_anew(broker, &group, outcomes.keys().copied()).await?;
                responses.extend(altered.into_iter().map(|topic| with_outcomes(topic, &outcomes)));
            }
            Ok(ShareGroupReply::AlterOffsets(Err(Failure(error, why)))) => return refuse(error, &why),
            Ok(other) => unreachable!("a coordinator answers what it is asked, not {other:?}"),
            Err(error) => return refuse(error, why(error)),
        }
    }
    call.answer(&AlterShareGroupOffsetsResponse { responses, ..Default::default() })
}

fn not_altered(
    image: &MetadataImage,
    topic: &AlterShareGroupOffsetsRequestTopic<'static>,
    error: ErrorCode,
) -> AlterShareGroupOffsetsResponseTopic<'static> {
    let partition = |partition_index| AlterShareGroupOffsetsResponsePartition {
        partition_index,
        error_code: error.code(),
        error_message: Some(why(error).into()),
    };
    AlterShareGroupOffsetsResponseTopic {
        topic_name: topic.topic_name.clone(),
        topic_id: image.topic(&topic.topic_name).map_or(Uuid::ZERO, |known| known.id),
        partitions: topic.partitions.iter().map(|asked| partition(asked.partition_index)).collect(),
    }
}

fn with_outcomes(
    mut topic: AlterShareGroupOffsetsResponseTopic<'static>,
    outcomes: &BTreeMap<(Uuid, i32), share_state::Outcome>,
) -> AlterShareGroupOffsetsResponseTopic<'static> {
    for partition in &mut topic.partitions {
        if let Some(Err((error, why))) = outcomes.get(&(topic.topic_id, partition.partition_index)) {
            partition.error_code = error.code();
            partition.error_message = Some((*why).into());
        }
    }
    topic
}

/// Deletes the offsets of topics of a group without members.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn delete(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: DeleteShareGroupOffsetsRequest<'_> = call.decode()?;
    let refuse = |error: ErrorCode, why: &str| {
        let error_message = Some(why.to_owned().into());
        call.answer(&DeleteShareGroupOffsetsResponse { error_code: error.code(), error_message, ..Default::default() })
    };
    if !are_enabled(broker) {
        return refuse(ErrorCode::UnsupportedVersion, why(ErrorCode::UnsupportedVersion));
    }
    let group = request.group_id.to_string();
    if let Err(error) = authorize(broker, call, Operation::Delete, Resource::Group(&group)) {
        return refuse(error, why(error));
    }
    let mut responses = Vec::with_capacity(request.topics.len());
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        match authorize(broker, call, Operation::Read, Resource::Topic(&topic.topic_name)) {
            Ok(()) => topics.push(topic.topic_name.to_string()),
            Err(error) => responses.push(DeleteShareGroupOffsetsResponseTopic {
                topic_name: topic.topic_name.to_string().into(),
                error_code: error.code(),
                error_message: Some(why(error).into()),
                ..Default::default()
            }),
        }
    }
    if topics.is_empty() {
        return call.answer(&DeleteShareGroupOffsetsResponse { responses, ..Default::default() });
    }
    if group.is_empty() {
        return refuse(ErrorCode::InvalidGroupId, "The group id is invalid.");
    }
    let asked = ShareGroupRequest::BeginDeleteOffsets { group: group.clone(), topics };
    let (without, partitions) = match share_groups::ask(broker, &group, asked).await? {
        Ok(ShareGroupReply::BeginDeleteOffsets(Ok(begun))) => begun,
        Ok(ShareGroupReply::BeginDeleteOffsets(Err(Failure(error, why)))) => return refuse(error, &why),
        Ok(other) => unreachable!("a coordinator answers what it is asked, not {other:?}"),
        Err(error) => return refuse(error, why(error)),
    };
    let outcomes = share_state::forget(broker, &group, &partitions).await?;
    let forgotten: BTreeSet<Uuid> =
        outcomes.iter().filter(|(_, outcome)| outcome.is_ok()).map(|(topic, _)| *topic).collect();
    let flat = partitions.iter().flat_map(|(topic, all)| all.iter().map(|index| (*topic, *index)));
    load_anew(broker, &group, flat).await?;
    if !forgotten.is_empty() {
        let asked = ShareGroupRequest::FinishDeleteOffsets { group: group.clone(), topics: forgotten };
        if let Err(error) = share_groups::ask(broker, &group, asked).await? {
            return refuse(error, why(error));
        }
    }
    let image = broker.image();
    responses.extend(outcomes.into_iter().map(|(topic_id, outcome)| {
        let name = image.topics.get(&topic_id).map(|topic| topic.name.clone()).unwrap_or_default();
        DeleteShareGroupOffsetsResponseTopic {
            topic_name: name.into(),
            topic_id,
            error_code: outcome.err().map_or(0, |(error, _)| error.code()),
            error_message: outcome.err().map(|(_, why)| why.into()),
        }
    }));
    responses.extend(without);
    call.answer(&DeleteShareGroupOffsetsResponse { responses, ..Default::default() })
}
