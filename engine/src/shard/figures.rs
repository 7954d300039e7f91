//! What a shard counts for those who watch it.
//!
//! Counters are kept where things happen, by one call each; what is only a state is looked at now and then by
//! [`Shard::publish_figures`]. None of it decides anything.

use super::Shard;
use super::message::Produced;
use crate::io::Instant;
use crate::log::PartitionId;

impl Shard {
    /// A Produce that came then has its turn; gives the time.
    pub(super) fn count_wait(&self, came: Instant) -> Instant {
        let now = self.io.now();
        self.io.stats().stages.queue.record(now.since(came));
        now
    }

    /// A Produce whose turn had begun then has these results so far.
    pub(super) fn count_append(&self, begun: Instant, results: &[Produced]) {
        let stats = self.io.stats();
        stats.stages.append.record(self.io.now().since(begun));
        results.iter().for_each(|result| stats.produce_errors.note(result.error.code()));
    }

    /// Records up to `end` are acknowledged, whatever of them is durable.
    pub(super) fn count_unflushed(&self, id: PartitionId, durable_end: i64, end: i64) {
        self.unflushed.borrow_mut().acknowledged(self.io.stats(), id, durable_end, end);
    }

    /// Records before `durable_end` are durable.
    pub(super) fn count_durable(&self, id: PartitionId, durable_end: i64) {
        self.unflushed.borrow_mut().durable(self.io.stats(), id, durable_end);
    }

    /// The partition is gone.
    pub(super) fn count_gone(&self, id: PartitionId) {
        self.unflushed.borrow_mut().forget(self.io.stats(), id);
    }

    /// Shows what is only a state.
    pub(super) fn publish_figures(&self) {
        let stats = self.io.stats();
        stats.partitions.set(self.partitions.borrow().len() as i64);
        stats.journal.files.set(self.journal.files_in_use() as i64);
        let refuses = self.disk_full.get() || self.failure.is_set() || self.stopping.get();
        stats.refuses_produce.set(i64::from(refuses));
    }
}
