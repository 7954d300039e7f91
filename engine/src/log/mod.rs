//! The log: where acknowledged records live.
//!
//! A core has one [`journal`], shared by all its partitions: appends of many partitions go to stable storage
//! in one write. Behind it each partition's [`Log`] drains its bytes into [`segment`] files, which are
//! Kafka's own format; a [`checkpoint`] says how far that got, and the journal's files are then used again. Large
//! appends may go [`direct`]ly to their segment: then the journal holds where they are.
//! [`recovery`] is the way back: checkpoint, then journal.
//!
//! Invariant: a byte that was acknowledged is in a durable journal group or in a flushed segment that the
//! checkpoint names, at every moment. This module knows no replicas, no leaders and no clients.

pub mod checkpoint;
pub mod direct;
pub mod drain;
pub mod group;
pub mod journal;
pub mod leader_epochs;
pub mod metadata_log;
pub mod offset_index;
pub mod partition_log;
pub mod producer_state;
pub mod prune;
pub mod reader;
pub mod recovery;
pub mod reserve;
pub mod segment;
pub mod tail;
pub mod tail_cache;
pub mod transaction_index;

pub use partition_log::Log;

use crate::protocol::Uuid;

/// A partition, bound to the topic's id: a topic made again under the same name is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId {
    /// The topic's id.
    pub topic_id: Uuid,
    /// The partition's index within its topic.
    pub partition: i32,
}

impl std::fmt::Display for PartitionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.topic_id, self.partition)
    }
}
