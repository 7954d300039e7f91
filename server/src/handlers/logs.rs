//! DeleteRecords, DescribeLogDirs and AlterReplicaLogDirs: what lies on the disk, and what of it may go.
//!
//! There is one log directory, the data directory; partitions do not move between directories.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use engine::controller::image::MetadataImage;
use engine::protocol::messages::alter_replica_log_dirs::{
    AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult, AlterReplicaLogDirsRequest,
    AlterReplicaLogDirsResponse,
};
use engine::protocol::messages::delete_records::{
    DeleteRecordsPartitionResult, DeleteRecordsRequest, DeleteRecordsResponse, DeleteRecordsTopicResult,
};
use engine::protocol::messages::describe_log_dirs::{
    DescribeLogDirsPartition, DescribeLogDirsRequest, DescribeLogDirsResponse, DescribeLogDirsResult,
    DescribeLogDirsTopic,
};
use engine::protocol::{ErrorCode, Str, Uuid};
use engine::shard::message::{DeleteRecords, DeletedRecords, PartitionId, Reply, Request};

use super::flush_deadline;
use super::route::{self, Fan};
use crate::authorizer::{Operation, Resource, authorize};
use crate::broker::Broker;
use crate::dispatch::{Answer, Call, Refusal};
use crate::limits;

/// From this version on an error of the whole request can be told.
const TELLS_ERROR: i16 = 3;

/// Gives up records before an offset.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn delete_records(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: DeleteRecordsRequest<'_> = call.decode()?;
    let image = broker.image();
    let mut fan = Fan::new(broker);
    let mut results = Vec::new();
    for topic in &request.topics {
        let topic_error = authorize(broker, call, Operation::Delete, Resource::Topic(&topic.name)).and_then(|()| {
            let is_internal = route::is_internal(&topic.name);
            if is_internal { Err(ErrorCode::InvalidTopicException) } else { Ok(()) }
        });
        for asked in &topic.partitions {
            let found = topic_error.and_then(|()| {
                route::find_partition(
                    broker,
                    route::find_topic(&image, &topic.name, Uuid::ZERO)?,
                    asked.partition_index,
                )
            });
            if let Ok(id) = found {
                fan.add(id, results.len(), (id, asked.offset));
            }
            results.push(DeletedRecords::refused(found.err().unwrap_or(ErrorCode::None)));
        }
    }
    let now = broker.io().now();
    let deadline = flush_deadline(now, request.timeout_ms).min(now + limits::LONGEST_DELETE);
    let replies: Vec<_> = fan
        .into_groups()
        .into_iter()
        .map(|group| {
            let wanted = DeleteRecords { deadline, parts: group.parts };
            (broker.core.request(group.shard, Request::DeleteRecords(wanted)), group.places)
        })
        .collect();
    for (reply, places) in replies {
        let Some(Reply::DeleteRecords(deleted)) = reply.await else { return Err(Refusal::Stopping) };
        for (place, deleted) in places.into_iter().zip(deleted) {
            results[place] = deleted;
        }
    }
    let mut results = results.into_iter();
    let topics = request.topics.iter().map(|topic| {
        let partitions =
            topic.partitions.iter().zip(results.by_ref()).map(|(asked, deleted)| DeleteRecordsPartitionResult {
                partition_index: asked.partition_index,
                low_watermark: deleted.low_watermark,
                error_code: deleted.error.code(),
            });
        DeleteRecordsTopicResult { name: topic.name.clone(), partitions: partitions.collect() }
    });
    call.answer(&DeleteRecordsResponse { topics: topics.collect(), ..Default::default() })
}

/// How large partitions are, and how much room there is.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn describe_dirs(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: DescribeLogDirsRequest<'_> = call.decode()?;
    if let Err(error) = authorize(broker, call, Operation::Describe, Resource::Cluster) {
        let error_code = if call.version >= TELLS_ERROR { error.code() } else { 0 };
        return call.answer(&DescribeLogDirsResponse { error_code, ..Default::default() });
    }
    let wanted = request.topics.as_ref().map(|topics| {
        let all = topics.iter().flat_map(|topic| topic.partitions.iter().map(|partition| (&*topic.topic, *partition)));
        all.collect::<BTreeSet<_>>()
    });
    let sizes: Vec<_> = (0..broker.core.shards()).map(|shard| broker.core.request(shard, Request::LogSizes)).collect();
    let image = broker.image();
    let mut by_topic: BTreeMap<&str, Vec<DescribeLogDirsPartition>> = BTreeMap::new();
    for sizes in sizes {
        let Some(Reply::LogSizes(sizes)) = sizes.await else { return Err(Refusal::Stopping) };
        for (id, size) in sizes {
            let Some(topic) = image.topics.get(&id.topic_id) else { continue };
            let is_wanted = |wanted: &BTreeSet<_>| wanted.contains(&(topic.name.as_str(), id.partition));
            if wanted.as_ref().is_none_or(is_wanted) {
                by_topic.entry(&topic.name).or_default().push(described(id, size));
            }
        }
    }
    let topics = by_topic.into_iter().map(|(name, mut partitions)| {
        partitions.sort_by_key(|partition| partition.partition_index);
        DescribeLogDirsTopic { name: Str::Borrowed(name), partitions }
    });
    let topics = topics.collect();
    let path = log_dir(broker);
    let (total_bytes, usable_bytes) = room(broker).await;
    let result = DescribeLogDirsResult {
        log_dir: Str::Borrowed(&path),
        topics,
        total_bytes,
        usable_bytes,
        ..Default::default()
    };
    call.answer(&DescribeLogDirsResponse { results: vec![result], ..Default::default() })
}

fn described(id: PartitionId, size: u64) -> DescribeLogDirsPartition {
    DescribeLogDirsPartition {
        partition_index: id.partition,
        partition_size: i64::try_from(size).unwrap_or(i64::MAX),
        offset_lag: 0,
        is_future_key: false,
    }
}

/// Bytes of the filesystem, in all and free; −1 if it does not say.
async fn room(broker: &Broker) -> (i64, i64) {
    let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    match broker.io().disk_space(&broker.config.node.data_dir).await {
        Ok((total, free)) => (bytes(total), bytes(free)),
        Err(error) => {
            tracing::warn!(%error, "the filesystem does not say how much room there is");
            (-1, -1)
        }
    }
}

fn log_dir(broker: &Broker) -> String {
    let path = &broker.config.node.data_dir;
    std::path::absolute(path).unwrap_or_else(|_| path.clone()).display().to_string()
}

/// Moves partitions to another directory, of which there is none.
///
/// # Errors
/// If the request cannot be read.
pub fn alter_replica_dirs(broker: &Broker, call: &Call) -> Result<Answer, Refusal> {
    let request: AlterReplicaLogDirsRequest<'_> = call.decode()?;
    let allowed = authorize(broker, call, Operation::Alter, Resource::Cluster);
    let image = broker.image();
    let own = log_dir(broker);
    let mut topics: BTreeMap<&str, Vec<AlterReplicaLogDirPartitionResult>> = BTreeMap::new();
    for dir in &request.dirs {
        let known = allowed.and_then(|()| match *dir.path == *own {
            true => Ok(()),
            false => Err(ErrorCode::LogDirNotFound),
        });
        for topic in &dir.topics {
            let result = |partition_index: &i32| {
                let result = known.and_then(|()| is_here(broker, &image, &topic.name, *partition_index));
                let error_code = result.err().unwrap_or(ErrorCode::None).code();
                AlterReplicaLogDirPartitionResult { partition_index: *partition_index, error_code }
            };
            topics.entry(&topic.name).or_default().extend(topic.partitions.iter().map(result));
        }
    }
    let results = topics.into_iter().map(|(topic_name, partitions)| AlterReplicaLogDirTopicResult {
        topic_name: Str::Borrowed(topic_name),
        partitions,
    });
    call.answer(&AlterReplicaLogDirsResponse { results: results.collect(), ..Default::default() })
}

fn is_here(broker: &Broker, image: &MetadataImage, name: &str, partition: i32) -> Result<(), ErrorCode> {
    route::find_partition(broker, route::find_topic(image, name, Uuid::ZERO)?, partition).map(drop)
}
