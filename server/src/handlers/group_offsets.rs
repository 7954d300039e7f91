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
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponseTopic,
};
use engine::protocol::{ErrorCode, IntoStatic};

use super::groups::{ask, refused};
use super::route;
use crate::broker::Broker;
use crate::dispatch::{Answer, Call, Refusal};

/// From this OffsetFetch version on a request names several groups.
const FETCH_GROUPS: i16 = 8;
/// From this OffsetFetch version on an answer has an error of its own.
const FETCH_ERROR: i16 = 2;

fn exists(image: &MetadataImage, topic: &str, partition: i32) -> bool {
    image.topic(topic).is_some_and(|topic| route::partition_state(topic, partition).is_some())
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
            .filter(|asked| exists(&image, &topic.name, asked.partition_index))
            .map(|asked| asked.clone().into_static())
            .collect(),
    };
    let topics: Vec<_> = request.topics.iter().map(known).filter(|topic| !topic.partitions.is_empty()).collect();
    let reply = if topics.is_empty() && !request.topics.is_empty() {
        Reply::Refused(ErrorCode::UnknownTopicOrPartition)
    } else {
        let asked = OffsetCommitRequest { topics, ..request.clone() }.into_static();
        ask(broker, &request.group_id, GroupRequest::Commit { request: asked, version: call.version }).await?
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
                let error_code = if exists(&image, &topic.name, asked.partition_index) {
                    results.next().unwrap_or_else(|| refused(&reply))
                } else {
                    ErrorCode::UnknownTopicOrPartition.code()
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
            groups.push(fetch_group(broker, group.clone(), request.require_stable).await?);
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
    let mut fetched = fetch_group(broker, group, request.require_stable).await?;
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

async fn fetch_group(
    broker: &Broker,
    group: OffsetFetchRequestGroup<'static>,
    stable: bool,
) -> Result<OffsetFetchResponseGroup<'static>, Refusal> {
    let group_id = group.group_id.clone();
    let reply = ask(broker, &group_id, GroupRequest::Fetch { request: group, stable }).await?;
    Ok(match reply {
        Reply::Group(GroupReply::Fetch(fetched)) => fetched,
        other => {
            OffsetFetchResponseGroup { group_id: group_id.clone(), error_code: refused(&other), topics: Vec::new() }
        }
    })
}

/// The first versions say an error only for each partition.
fn refused_topics(
    request: &OffsetFetchRequest<'static>,
    error_code: i16,
) -> Vec<engine::protocol::messages::offset_fetch::OffsetFetchResponseTopics<'static>> {
    use engine::protocol::messages::offset_fetch::{OffsetFetchResponsePartitions, OffsetFetchResponseTopics};
    let partition = |partition_index: &i32| OffsetFetchResponsePartitions {
        partition_index: *partition_index,
        committed_offset: -1,
        committed_leader_epoch: -1,
        metadata: Some("".into()),
        error_code,
    };
    let topics = request.topics.iter().flatten();
    topics
        .map(|topic| OffsetFetchResponseTopics {
            name: topic.name.clone(),
            partitions: topic.partition_indexes.iter().map(partition).collect(),
        })
        .collect()
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
            .filter(|asked| exists(&image, &topic.name, asked.partition_index))
            .cloned()
            .collect(),
    };
    let topics = request.topics.iter().map(known).filter(|topic| !topic.partitions.is_empty()).collect();
    let asked = OffsetDeleteRequest { group_id: request.group_id.to_string().into(), topics };
    let deleted = match ask(broker, &request.group_id, GroupRequest::DeleteOffsets(asked)).await? {
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
                let error_code = match exists(&image, &topic.name, asked.partition_index) {
                    true => results.next().expect("one result for each partition"),
                    false => ErrorCode::UnknownTopicOrPartition.code(),
                };
                OffsetDeleteResponsePartition { partition_index: asked.partition_index, error_code }
            })
            .collect(),
    });
    call.answer(&OffsetDeleteResponse { topics: topics.collect(), ..Default::default() })
}
