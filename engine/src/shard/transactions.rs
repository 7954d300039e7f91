//! A shard's part in transactions: who may append to one, its markers, and who has one open.
//!
//! What a transaction is and when it ends is the coordinator's to decide. Invariant: a marker is answered when
//! it is on stable storage, and never judged twice: what was refused left no trace.

use std::rc::Rc;

use super::Shard;
use super::message::{ActiveProducer, MarkerPart, PartitionId, Produced, Reply, Verification, VerifyTransaction};
use super::node::ReplyTo;
use super::purgatory::PendingProduce;
use crate::protocol::ErrorCode;
use crate::record::control::MARKER_SIZE;

impl Shard {
    pub(super) fn verify_transaction(&self, wanted: &VerifyTransaction) -> Result<Verification, ErrorCode> {
        match self.partitions.borrow_mut().get_mut(&wanted.id) {
            Some(partition) => Ok(partition.verify_transaction(wanted)),
            None => Err(ErrorCode::NotLeaderOrFollower),
        }
    }

    pub(super) fn describe_producers(&self, id: PartitionId) -> Result<Vec<ActiveProducer>, ErrorCode> {
        match self.partitions.borrow().get(&id) {
            Some(partition) => Ok(partition.log.borrow_mut().producers().active()),
            None => Err(ErrorCode::NotLeaderOrFollower),
        }
    }

    /// Appends markers in their order and answers when the last of them is durable.
    pub(super) async fn write_markers(self: Rc<Shard>, parts: Vec<MarkerPart>, reply: ReplyTo) {
        let mut ends = Vec::with_capacity(parts.len());
        for part in &parts {
            ends.push(self.append_marker(part).await);
        }
        let result = |end: &Result<i64, ErrorCode>| Produced::refused(end.err().unwrap_or(ErrorCode::None));
        let (results, waiting) = (ends.iter().map(result).collect(), ends.iter().map(Result::is_ok).collect());
        let pending = PendingProduce::new(results, waiting, reply, &self.purgatory, errors);
        for (index, (part, end)) in parts.iter().zip(ends).enumerate() {
            if let Ok(end) = end {
                self.settle_when_durable(part.id, end, &pending, index);
            }
        }
    }

    /// Gives the offset that must be durable.
    async fn append_marker(&self, part: &MarkerPart) -> Result<i64, ErrorCode> {
        loop {
            if self.disk_full.get() || self.failure.is_set() || self.stopping.get() {
                return Err(ErrorCode::KafkaStorageError);
            }
            if self.journal.has_room(MARKER_SIZE) {
                break;
            }
            self.housekeeping.ring();
            let failed = async {
                self.failure.wait().await;
            };
            futures_lite::future::or(self.journal.room(MARKER_SIZE), failed).await;
        }
        let mut partitions = self.partitions.borrow_mut();
        let partition = partitions.get_mut(&part.id).ok_or(ErrorCode::NotLeaderOrFollower)?;
        partition.append_marker(&self.journal, part, self.io.wall_clock_ms())
    }
}

fn errors(results: Vec<Produced>) -> Reply {
    Reply::WriteMarkers(results.into_iter().map(|result| result.error).collect())
}
