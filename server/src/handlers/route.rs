//! From a client's names to partitions, and from partitions to the shards that own them.
//!
//! The invariant: parts that go to one shard keep the order in which the client named them.

use engine::controller::image::{MetadataImage, PartitionState, Topic};
use engine::protocol::messages::{fetch, produce, share_acknowledge, share_fetch};
use engine::protocol::{ErrorCode, Str, Uuid};
use engine::shard::message::{PartitionId, owner};

use crate::broker::Broker;

/// The topics that only the broker itself writes.
const INTERNAL_TOPICS: [&str; 3] = ["__consumer_offsets", "__transaction_state", "__share_group_state"];

/// Whether clients may not write the topic.
pub fn is_internal(name: &str) -> bool {
    INTERNAL_TOPICS.contains(&name)
}

/// The topic that a client names by id, if it gives one, or else by name.
///
/// # Errors
/// UNKNOWN_TOPIC_ID or UNKNOWN_TOPIC_OR_PARTITION.
pub fn find_topic<'i>(image: &'i MetadataImage, name: &str, id: Uuid) -> Result<&'i Topic, ErrorCode> {
    if id.is_zero() {
        return image.topic(name).map(|topic| &**topic).ok_or(ErrorCode::UnknownTopicOrPartition);
    }
    image.topics.get(&id).map(|topic| &**topic).ok_or(ErrorCode::UnknownTopicId)
}

/// A partition's record in the metadata, if there is such a partition.
pub fn partition_state(topic: &Topic, partition: i32) -> Option<&PartitionState> {
    topic.partitions.get(usize::try_from(partition).ok()?)
}

/// A partition that this broker leads.
///
/// # Errors
/// UNKNOWN_TOPIC_OR_PARTITION, or NOT_LEADER_OR_FOLLOWER if another broker leads it.
pub fn find_partition(broker: &Broker, topic: &Topic, partition: i32) -> Result<PartitionId, ErrorCode> {
    let state = partition_state(topic, partition).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    match state.leader == broker.node_id() {
        true => Ok(PartitionId { topic_id: topic.id, partition }),
        false => Err(ErrorCode::NotLeaderOrFollower),
    }
}

/// Parts of a request on their way to the shards that own their partitions.
pub struct Fan<T> {
    groups: Vec<Group<T>>,
    shards: usize,
}

/// The parts of one shard.
pub struct Group<T> {
    /// The shard.
    pub shard: usize,
    /// Each part's place in the request.
    pub places: Vec<usize>,
    /// The parts.
    pub parts: Vec<T>,
}

impl<T> Fan<T> {
    /// For the shards of `broker`.
    pub fn new(broker: &Broker) -> Fan<T> {
        Fan { groups: Vec::new(), shards: broker.core.shards() }
    }

    /// Adds the part for `id`, which stands at `place` in the request.
    pub fn add(&mut self, id: PartitionId, place: usize, part: T) {
        let shard = owner(id, self.shards);
        if let Some(group) = self.groups.iter_mut().find(|group| group.shard == shard) {
            group.places.push(place);
            group.parts.push(part);
            return;
        }
        self.groups.push(Group { shard, places: vec![place], parts: vec![part] });
    }

    /// The parts by shard.
    pub fn into_groups(self) -> Vec<Group<T>> {
        self.groups
    }
}

/// Who leads a partition that was asked for in vain, so that the client need not ask (KIP-951).
pub struct Leaders<'b> {
    broker: &'b Broker,
    named: Vec<i32>,
}

impl<'b> Leaders<'b> {
    /// None yet.
    pub fn new(broker: &'b Broker) -> Leaders<'b> {
        Leaders { broker, named: Vec::new() }
    }

    /// The leader and its epoch, to be named in the answer.
    pub fn name(&mut self, id: PartitionId) -> Option<(i32, i32)> {
        let image = self.broker.image();
        let state = partition_state(image.topics.get(&id.topic_id)?, id.partition)?;
        if !self.named.contains(&state.leader) {
            self.named.push(state.leader);
        }
        Some((state.leader, state.leader_epoch))
    }

    /// Where the named brokers are, of those that are known.
    fn endpoints(&self) -> impl Iterator<Item = (i32, &'b str, u16)> {
        let (host, port) = self.broker.config.advertised();
        self.named.iter().filter(|id| **id == self.broker.node_id()).map(move |id| (*id, host, port))
    }

    /// The brokers for an answer to Produce.
    pub fn produce_endpoints(&self) -> Vec<produce::NodeEndpoint<'_>> {
        let endpoint = |(node_id, host, port): (i32, _, u16)| produce::NodeEndpoint {
            node_id,
            host: Str::Borrowed(host),
            port: port.into(),
            rack: None,
        };
        self.endpoints().map(endpoint).collect()
    }

    /// The brokers for an answer to ShareFetch.
    pub fn share_fetch_endpoints(&self) -> Vec<share_fetch::NodeEndpoint<'b>> {
        let endpoint = |(node_id, host, port): (i32, _, u16)| share_fetch::NodeEndpoint {
            node_id,
            host: Str::Borrowed(host),
            port: port.into(),
            rack: None,
        };
        self.endpoints().map(endpoint).collect()
    }

    /// The brokers for an answer to ShareAcknowledge.
    pub fn share_acknowledge_endpoints(&self) -> Vec<share_acknowledge::NodeEndpoint<'b>> {
        let endpoint = |(node_id, host, port): (i32, _, u16)| share_acknowledge::NodeEndpoint {
            node_id,
            host: Str::Borrowed(host),
            port: port.into(),
            rack: None,
        };
        self.endpoints().map(endpoint).collect()
    }

    /// The brokers for an answer to Fetch.
    pub fn fetch_endpoints(&self) -> Vec<fetch::NodeEndpoint<'_>> {
        let endpoint = |(node_id, host, port): (i32, _, u16)| fetch::NodeEndpoint {
            node_id,
            host: Str::Borrowed(host),
            port: port.into(),
            rack: None,
        };
        self.endpoints().map(endpoint).collect()
    }
}
