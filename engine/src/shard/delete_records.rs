//! Records that a client gives up, and how large logs are.
//!
//! Invariant: a log's new start is in the journal, durably, before anyone is shown it; it never goes back. The
//! bytes themselves go with their segments, which is not decided here.

use super::Shard;
use super::message::{DeleteRecords, DeletedRecords, PartitionId};
use super::partition::Partition;
use crate::io::Instant;
use crate::log::drain::SharedLog;
use crate::protocol::ErrorCode;

impl Shard {
    /// Moves the starts of logs forward; all of them wait for stable storage together.
    pub(super) async fn delete_records(&self, wanted: DeleteRecords) -> Vec<DeletedRecords> {
        let mut begun = Vec::with_capacity(wanted.parts.len());
        for (id, offset) in &wanted.parts {
            let start_to_be = |partition: &Partition| partition.start_to_be(*offset);
            begun.push(self.begin_to_delete(*id, wanted.deadline, start_to_be).await);
        }
        let mut results = Vec::with_capacity(begun.len());
        for begun in begun {
            results.push(match begun {
                Ok((log, offset)) => self.deleted(&log, offset, wanted.deadline).await,
                Err(error) => DeletedRecords::refused(error),
            });
        }
        results
    }

    /// Moves the start of an internal topic's log forward, whatever the topic's policy: its coordinator knows what
    /// of it counts.
    ///
    /// # Errors
    /// What a client who deletes records would be told.
    pub(super) async fn give_up_records(
        &self,
        id: PartitionId,
        offset: i64,
        deadline: Instant,
    ) -> Result<(), ErrorCode> {
        let start_to_be = |partition: &Partition| partition.own_start_to_be(offset);
        let (log, start) = self.begin_to_delete(id, deadline, start_to_be).await?;
        match self.deleted(&log, start, deadline).await.error {
            ErrorCode::None => Ok(()),
            error => Err(error),
        }
    }

    /// Puts a log's new start into the journal; gives the log and the start to wait for.
    async fn begin_to_delete(
        &self,
        id: PartitionId,
        deadline: Instant,
        start_to_be: impl Fn(&Partition) -> Result<i64, ErrorCode>,
    ) -> Result<(SharedLog, i64), ErrorCode> {
        let find = || -> Result<(SharedLog, i64), ErrorCode> {
            if self.failure.is_set() || self.stopping.get() {
                return Err(ErrorCode::KafkaStorageError);
            }
            let partitions = self.partitions.borrow();
            let partition = partitions.get(&id).ok_or(ErrorCode::NotLeaderOrFollower)?;
            Ok((partition.log.clone(), start_to_be(partition)?))
        };
        let (mut log, mut start) = find()?;
        if start <= log.borrow().log_start_offset() {
            return Ok((log, start));
        }
        if !self.journal.has_room(0) {
            if !self.wait_for_room(0, deadline).await {
                return Err(ErrorCode::RequestTimedOut);
            }
            (log, start) = find()?;
        }
        log.borrow_mut().advance_start(&self.journal, start);
        Ok((log, start))
    }

    /// Waits until the log begins at `offset` or later.
    async fn deleted(&self, log: &SharedLog, offset: i64, deadline: Instant) -> DeletedRecords {
        let started = self.started.until(|| {
            let log = log.borrow();
            let low_watermark = log.log_start_offset();
            if low_watermark >= offset {
                return Some(DeletedRecords { error: ErrorCode::None, low_watermark });
            }
            log.is_deleted().then_some(DeletedRecords::refused(ErrorCode::UnknownTopicOrPartition))
        });
        let failed = async {
            self.failure.wait().await;
            DeletedRecords::refused(ErrorCode::KafkaStorageError)
        };
        let late = async {
            self.io.sleep_until(deadline).await;
            DeletedRecords::refused(ErrorCode::RequestTimedOut)
        };
        futures_lite::future::or(started, futures_lite::future::or(failed, late)).await
    }

    /// Each of the shard's partitions and its bytes, in segments and in the journal alone.
    pub(super) fn log_sizes(&self) -> Vec<(PartitionId, u64)> {
        let partitions = self.partitions.borrow();
        partitions.iter().map(|(id, partition)| (*id, partition.log.borrow().size_bytes())).collect()
    }
}
