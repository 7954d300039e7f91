//! ListOffsets and OffsetForLeaderEpoch: offsets by time, by name and by leader epoch.

use std::collections::BTreeMap;
use std::rc::Rc;

use engine::protocol::ErrorCode;
use engine::protocol::Uuid;
use engine::protocol::messages::list_offsets::{
    ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse, ListOffsetsTopicResponse,
};
use engine::protocol::messages::offset_for_leader_epoch::{
    EpochEndOffset, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, OffsetForLeaderTopicResult,
};
use engine::shard::message::{EpochEnd, EpochEnded, ListOffset, ListedOffset, PartitionId, Reply, Request};

use super::route::{self, Fan};
use crate::authorizer::{Operation, Resource, authorize};
use crate::broker::Broker;
use crate::dispatch::{Answer, Call, Refusal};

/// Offsets by time, or by one of the names below.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn list(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: ListOffsetsRequest<'_> = call.decode()?;
    let read_committed = request.isolation_level == 1;
    let named = request
        .topics
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(|asked| (&*topic.name, asked.partition_index)));
    let counts = occurrences(named);
    let mut fan = Fan::new(broker);
    let mut listed = Vec::new();
    for topic in &request.topics {
        for asked in &topic.partitions {
            let found = authorize(broker, call, Operation::Describe, Resource::Topic(&topic.name)).and_then(|()| {
                check_timestamp(asked.timestamp, call.version)?;
                let once = counts[&(&*topic.name, asked.partition_index)] == 1;
                once.then_some(()).ok_or(ErrorCode::InvalidRequest)?;
                find(broker, &topic.name, asked.partition_index)
            });
            if let Ok(id) = found {
                let (current_leader_epoch, timestamp) = (asked.current_leader_epoch, asked.timestamp);
                fan.add(id, listed.len(), ListOffset { id, current_leader_epoch, timestamp, read_committed });
            }
            let error = found.err().unwrap_or(ErrorCode::None);
            listed.push(ListedOffset { error, timestamp: -1, offset: -1, leader_epoch: -1 });
        }
    }
    let replies: Vec<_> = fan
        .into_groups()
        .into_iter()
        .map(|group| (broker.core.request(group.shard, Request::ListOffsets(group.parts)), group.places))
        .collect();
    for (reply, places) in replies {
        let Some(Reply::ListOffsets(results)) = reply.await else { return Err(Refusal::Stopping) };
        for (place, result) in places.into_iter().zip(results) {
            listed[place] = result;
        }
    }
    let mut listed = listed.into_iter();
    let topics = request.topics.iter().map(|topic| ListOffsetsTopicResponse {
        name: topic.name.clone(),
        partitions: topic
            .partitions
            .iter()
            .zip(listed.by_ref())
            .map(|(asked, result)| listed_offset(asked.partition_index, &result))
            .collect(),
    });
    call.answer(&ListOffsetsResponse { topics: topics.collect(), ..Default::default() })
}

/// The names that offsets have in place of a time, and the version that brought each: latest, earliest, that
/// of the greatest timestamp, earliest local, latest tiered. A later Kafka has more.
fn check_timestamp(timestamp: i64, version: i16) -> Result<(), ErrorCode> {
    let since = match timestamp {
        -2.. => return Ok(()),
        -3 => 7,
        -4 => 8,
        -5 => 9,
        _ => i16::MAX,
    };
    if version >= since { Ok(()) } else { Err(ErrorCode::UnsupportedVersion) }
}

fn listed_offset(partition_index: i32, result: &ListedOffset) -> ListOffsetsPartitionResponse {
    ListOffsetsPartitionResponse {
        partition_index,
        error_code: result.error.code(),
        timestamp: result.timestamp,
        offset: result.offset,
        leader_epoch: result.leader_epoch,
    }
}

/// Where leader epochs end.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn for_leader_epoch(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: OffsetForLeaderEpochRequest<'_> = call.decode()?;
    let mut fan = Fan::new(broker);
    let mut ended = Vec::new();
    for topic in &request.topics {
        for asked in &topic.partitions {
            let found = authorize(broker, call, Operation::Describe, Resource::Topic(&topic.topic))
                .and_then(|()| find(broker, &topic.topic, asked.partition));
            if let Ok(id) = found {
                let (current_leader_epoch, leader_epoch) = (asked.current_leader_epoch, asked.leader_epoch);
                fan.add(id, ended.len(), EpochEnd { id, current_leader_epoch, leader_epoch });
            }
            let error = found.err().unwrap_or(ErrorCode::None);
            ended.push(EpochEnded { error, leader_epoch: -1, end_offset: -1 });
        }
    }
    let replies: Vec<_> = fan
        .into_groups()
        .into_iter()
        .map(|group| (broker.core.request(group.shard, Request::EpochEnd(group.parts)), group.places))
        .collect();
    for (reply, places) in replies {
        let Some(Reply::EpochEnd(results)) = reply.await else { return Err(Refusal::Stopping) };
        for (place, result) in places.into_iter().zip(results) {
            ended[place] = result;
        }
    }
    let mut ended = ended.into_iter();
    let topics = request.topics.iter().map(|topic| OffsetForLeaderTopicResult {
        topic: topic.topic.clone(),
        partitions: topic
            .partitions
            .iter()
            .zip(ended.by_ref())
            .map(|(asked, result)| epoch_end(asked.partition, &result))
            .collect(),
    });
    call.answer(&OffsetForLeaderEpochResponse { topics: topics.collect(), ..Default::default() })
}

fn epoch_end(partition: i32, result: &EpochEnded) -> EpochEndOffset {
    EpochEndOffset {
        error_code: result.error.code(),
        partition,
        leader_epoch: result.leader_epoch,
        end_offset: result.end_offset,
    }
}

fn find(broker: &Broker, name: &str, partition: i32) -> Result<PartitionId, ErrorCode> {
    let image = broker.image();
    route::find_partition(broker, route::find_topic(&image, name, Uuid::ZERO)?, partition)
}

fn occurrences<K: Ord>(keys: impl Iterator<Item = K>) -> BTreeMap<K, usize> {
    let mut counts = BTreeMap::new();
    for key in keys {
        *counts.entry(key).or_insert(0) += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_has_the_version_that_brought_it() {
        for (timestamp, since) in [(0, 1), (-1, 1), (-2, 1), (-3, 7), (-4, 8), (-5, 9)] {
            assert_eq!(check_timestamp(timestamp, since), Ok(()));
            assert!(since == 1 || check_timestamp(timestamp, since - 1) == Err(ErrorCode::UnsupportedVersion));
        }
        assert_eq!(check_timestamp(-6, 10), Err(ErrorCode::UnsupportedVersion));
    }
}
