//! Committed offsets: OffsetCommit, OffsetFetch, OffsetDelete.
//!
//! What names a topic or partition that is not there is answered here; the rest goes to the coordinator.

use std::rc::Rc;

use engine::controller::MetadataImage;
use engine::coordinator::Reply;
use engine::coordinator::group::{GroupReply, GroupRequest};
use engine::protocol::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestTopic, OffsetCommitResponse, OffsetCommitResponsePartition,
    OffsetCommitResponseTopic,
};
use engine::protocol::messages::offset_delete::{
    OffsetDeleteRequest, OffsetDeleteRequestTopic, OffsetDeleteResponse, OffsetDeleteResponsePartition,
    OffsetDeleteResponseTopic,
};
use engine::protocol::messages::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics, OffsetFetchResponse,
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
};
use engine::protocol::{ErrorCode, IntoStatic};

use super::groups::{ask_for, refused};
use super::route;
use crate::authorizer::{Operation, Resource, allows, authorize};
use crate::broker::Broker;
use crate::dispatch::{Answer, Call, Refusal};

/// From this OffsetFetch version on a request names several groups.
const FETCH_GROUPS: i16 = 8;
/// From this OffsetFetch version on an answer has an error of its own.
const FETCH_ERROR: i16 = 2;

/// Whether the partition is there, for a client that may read it.
fn find(broker: &Broker, call: &Call, image: &MetadataImage, topic: &str, partition: i32) -> Result<(), ErrorCode> {
    authorize(broker, call, Operation::Read, Resource::Topic(topic))?;
    let known = image.topic(topic).and_then(|topic| route::partition_state(topic, partition));
    known.map(drop).ok_or(ErrorCode::UnknownTopicOrPartition)
}

/// Commits offsets.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn commit(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: OffsetCommitRequest<'_> = call.decode()?;
    let image = broker.image();
    let known = |topic: &OffsetCommitRequestTopic<'_>| OffsetCommitRequestTopic {
        name: topic.name.to_string().into(),
        partitions: topic
            .partitions
            .iter()
            .filter(|asked| find(broker, call, &image, &topic.name, asked.partition_index).is_ok())
            .map(|asked| asked.clone().into_static())
            .collect(),
    };
    let topics: Vec<_> = request.topics.iter().map(known).filter(|topic| !topic.partitions.is_empty()).collect();
    let allowed = authorize(broker, call, Operation::Read, Resource::Group(&request.group_id));
    let reply = if topics.is_empty() && !request.topics.is_empty() {
        Reply::Refused(allowed.err().unwrap_or(ErrorCode::UnknownTopicOrPartition))
    } else {
        let asked = OffsetCommitRequest { topics, ..request.clone() }.into_static();
        let asked = GroupRequest::Commit { request: asked, version: call.version };
        ask_for(broker, call, Operation::Read, &request.group_id, asked).await?
    };
    let mut results = match &reply {
        Reply::Group(GroupReply::Commit(response)) => {
            response.topics.iter().flat_map(|topic| &topic.partitions).map(|partition| partition.error_code).collect()
        }
        _ => Vec::new(),
    }
    .into_iter();
    let topics = request.topics.iter().map(|topic| OffsetCommitResponseTopic {
        name: topic.name.clone(),
        partitions: topic
            .partitions
            .iter()
            .map(|asked| {
                let found = allowed.and(find(broker, call, &image, &topic.name, asked.partition_index));
                let error_code = match found {
                    Ok(()) => results.next().unwrap_or_else(|| refused(&reply)),
                    Err(error) => error.code(),
                };
                OffsetCommitResponsePartition { partition_index: asked.partition_index, error_code }
            })
            .collect(),
    });
    call.answer(&OffsetCommitResponse { topics: topics.collect(), ..Default::default() })
}

/// Tells committed offsets.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn fetch(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request = call.decode::<OffsetFetchRequest<'_>>()?.into_static();
    if call.version >= FETCH_GROUPS {
        let mut groups = Vec::with_capacity(request.groups.len());
        for group in &request.groups {
            groups.push(fetch_group(broker, call, group.clone(), request.require_stable).await?);
        }
        return call.answer(&OffsetFetchResponse { groups, ..Default::default() });
    }
    let topics = request.topics.as_ref().map(|topics| {
        let topic = |topic: &engine::protocol::messages::offset_fetch::OffsetFetchRequestTopic<'static>| {
            OffsetFetchRequestTopics { name: topic.name.clone(), partition_indexes: topic.partition_indexes.clone() }
        };
        topics.iter().map(topic).collect()
    });
    let group = OffsetFetchRequestGroup { group_id: request.group_id.clone(), topics, ..Default::default() };
    let mut fetched = fetch_group(broker, call, group, request.require_stable).await?;
    if call.version < FETCH_ERROR && fetched.error_code != 0 {
        fetched.topics = refused_topics(&request, fetched.error_code);
    }
    let topics = fetched.topics.into_iter().map(|topic| OffsetFetchResponseTopic {
        name: topic.name,
        partitions: topic
            .partitions
            .into_iter()
            .map(|partition| OffsetFetchResponsePartition {
                partition_index: partition.partition_index,
                committed_offset: partition.committed_offset,
                committed_leader_epoch: partition.committed_leader_epoch,
                metadata: partition.metadata,
                error_code: partition.error_code,
            })
            .collect(),
    });
    let response =
        OffsetFetchResponse { topics: topics.collect(), error_code: fetched.error_code, ..Default::default() };
    call.answer(&response)
}

/// Topics that the client may not see are refused if they are named, and left out if all are asked for.
async fn fetch_group(
    broker: &Broker,
    call: &Call,
    mut group: OffsetFetchRequestGroup<'static>,
    stable: bool,
) -> Result<OffsetFetchResponseGroup<'static>, Refusal> {
    let group_id = group.group_id.clone();
    let may_see = |name: &str| allows(broker, call, Operation::Describe, Resource::Topic(name));
    let mut hidden = Vec::new();
    if let Some(topics) = &mut group.topics {
        (*topics, hidden) = std::mem::take(topics).into_iter().partition(|topic| may_see(&topic.name));
    }
    let asked = GroupRequest::Fetch { request: group, stable };
    let reply = ask_for(broker, call, Operation::Describe, &group_id, asked).await?;
    Ok(match reply {
        Reply::Group(GroupReply::Fetch(mut fetched)) => {
            fetched.topics.retain(|topic| may_see(&topic.name));
            let error = ErrorCode::TopicAuthorizationFailed.code();
            if fetched.error_code == 0 {
                fetched
                    .topics
                    .extend(hidden.iter().map(|topic| refused_topic(&topic.name, &topic.partition_indexes, error)));
            }
            fetched
        }
        other => {
            OffsetFetchResponseGroup { group_id: group_id.clone(), error_code: refused(&other), topics: Vec::new() }
        }
    })
}

/// The first versions say an error only for each partition.
fn refused_topics(request: &OffsetFetchRequest<'static>, error_code: i16) -> Vec<OffsetFetchResponseTopics<'static>> {
    let topics = request.topics.iter().flatten();
    topics.map(|topic| refused_topic(&topic.name, &topic.partition_indexes, error_code)).collect()
}

fn refused_topic(
    name: &engine::protocol::Str<'static>,
    partitions: &[i32],
    error_code: i16,
) -> OffsetFetchResponseTopics<'static> {
    let partition = |partition_index: &i32| OffsetFetchResponsePartitions {
        partition_index: *partition_index,
        committed_offset: -1,
        committed_leader_epoch: -1,
        metadata: Some("".into()),
        error_code,
    };
    OffsetFetchResponseTopics { name: name.clone(), partitions: partitions.iter().map(partition).collect() }
}

/// Deletes committed offsets.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn delete(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: OffsetDeleteRequest<'_> = call.decode()?;
    let image = broker.image();
    let known = |topic: &OffsetDeleteRequestTopic<'_>| OffsetDeleteRequestTopic {
        name: topic.name.to_string().into(),
        partitions: topic
            .partitions
            .iter()
            .filter(|asked| find(broker, call, &image, &topic.name, asked.partition_index).is_ok())
            .cloned()
            .collect(),
    };
    let topics = request.topics.iter().map(known).filter(|topic| !topic.partitions.is_empty()).collect();
    let asked = OffsetDeleteRequest { group_id: request.group_id.to_string().into(), topics };
    let asked = GroupRequest::DeleteOffsets(asked);
    let deleted = match ask_for(broker, call, Operation::Delete, &request.group_id, asked).await? {
        Reply::Group(GroupReply::DeleteOffsets(deleted)) => deleted,
        other => return call.answer(&OffsetDeleteResponse { error_code: refused(&other), ..Default::default() }),
    };
    let mut results = deleted.topics.iter().flat_map(|topic| &topic.partitions).map(|partition| partition.error_code);
    let topics = request.topics.iter().map(|topic| OffsetDeleteResponseTopic {
        name: topic.name.clone(),
        partitions: topic
            .partitions
            .iter()
            .map(|asked| {
                let error_code = match find(broker, call, &image, &topic.name, asked.partition_index) {
                    Ok(()) => results.next().expect("one result for each partition"),
                    Err(error) => error.code(),
                };
                OffsetDeleteResponsePartition { partition_index: asked.partition_index, error_code }
            })
            .collect(),
    });
    call.answer(&OffsetDeleteResponse { topics: topics.collect(), ..Default::default() })
}
