//! What goes on behind the acknowledgements: draining logs into segments, checkpoints, giving journal files and
//! old segments back.
//!
//! Order is everything here: drain, flush, checkpoint, and only then are journal files used again. A full
//! disk is not a failure: the journal keeps what it has, produce is refused, and it is tried again.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use super::{Shard, logs};
use crate::controller::BrokerValues;
use crate::io::buffer::trim_pool;
use crate::io::fault::{DiskFault, Lack};
use crate::io::local::Bell;
use crate::io::{Class, Instant};
use crate::limits::{
    COPIES_FORWARD, DRAIN_BYTES, DRAINS_AT_ONCE, FLUSHES_AT_ONCE, JOURNAL_FILES, POOL_TRIM_INTERVAL,
    SEGMENTS_OF_IDLE_LOGS, TAIL_BUFFERS_AT_ONCE,
};
use crate::log::checkpoint::{Checkpoint, ReplayStart};
use crate::log::drain::{self, SharedLog};
use crate::log::partition_log::LogRecord;
use crate::log::prune;

/// A log with less than this behind its drained end is copied forward in the journal rather than drained:
/// one write for many of them instead of two and a flush for each.
const COPY_FORWARD_BYTES: usize = 16 << 10;
/// Silent producers are looked for so often, or eight times in the time that makes them silent.
const PRODUCER_EXPIRATION_CHECK: Duration = Duration::from_mins(10);
/// How long a full disk, a lack or a bad file is left alone before the next try.
const LACK_PAUSE: Duration = Duration::from_secs(1);
/// A lack that lasts is told so often.
const LACK_IS_TOLD_EVERY: Duration = Duration::from_mins(1);

impl Shard {
    /// Drains large logs at once and all of them when the journal fills, for ever.
    pub(super) async fn keep_house(self: &Rc<Shard>) {
        // What an earlier start left behind after it had forgotten it.
        let mut old = logs(&self.partitions.borrow());
        old.retain(|log| log.borrow().log_start_offset() > 0);
        let (mut next_expiration, mut next_trim) = (self.io.now(), self.io.now());
        loop {
            let seen = self.housekeeping.rings();
            if self.failure.is_set() || self.stopping.get() {
                return;
            }
            self.keeping_house.set(true);
            if self.io.now() >= next_expiration {
                next_expiration = self.io.now() + self.forget_silent_producers();
            }
            self.drain_large().await;
            self.drain_for_memory().await;
            old.extend(self.forget_old_segments());
            let fills = self.has_many_extents() || self.journal.files_in_use() > JOURNAL_FILES / 4;
            if (fills || !old.is_empty()) && self.try_checkpoint().await {
                self.remove_old_files(std::mem::take(&mut old)).await;
            }
            self.keeping_house.set(false);
            self.drained.ring();
            self.tidy_memory(&mut next_trim);
            futures_lite::future::or(self.housekeeping.rung_since(seen), self.io.sleep(Duration::from_millis(500)))
                .await;
        }
    }

    /// Whether a start would have much to read that has gone past the journal: as much as makes one of the journal's own.
    fn has_many_extents(&self) -> bool {
        let bytes: u64 = self.partitions.borrow().values().map(|partition| partition.log.borrow().extent_bytes()).sum();
        self.extent_bytes.set(bytes);
        bytes >= self.most_extent_bytes / 4
    }

    /// Keeps to `producer.id.expiration.ms`; gives when to do so again.
    fn forget_silent_producers(&self) -> Duration {
        let image = self.image.borrow().clone();
        let expiration_ms = BrokerValues::new(&self.settings, &image).number("producer.id.expiration.ms");
        let expiration = Duration::from_millis(u64::try_from(expiration_ms).unwrap_or(u64::MAX));
        for log in logs(&self.partitions.borrow()) {
            log.borrow_mut().forget_silent_producers(self.io.now(), expiration);
        }
        PRODUCER_EXPIRATION_CHECK.min(expiration / 8)
    }

    async fn try_checkpoint(self: &Rc<Shard>) -> bool {
        let result = self.make_checkpoint().await;
        let is_made = result.is_ok();
        self.judge("a checkpoint", result).await;
        is_made
    }

    /// Logs forget the segments before their starts; gives those that did.
    fn forget_old_segments(&self) -> Vec<SharedLog> {
        let mut logs = logs(&self.partitions.borrow());
        logs.retain(|log| log.borrow_mut().forget_old_segments());
        logs
    }

    /// Removes what logs have forgotten; the checkpoint names it no longer. What cannot be removed only takes
    /// room: it is tried again at the next start.
    async fn remove_old_files(&self, old: Vec<SharedLog>) {
        for log in old {
            self.opened.forget(log.borrow().id);
            if let Err(error) = prune::remove_old_files(&self.io, &log).await {
                let id = log.borrow().id;
                tracing::warn!(partition = %id, "old segments could not be removed: {error}");
            }
            self.drained.ring();
        }
    }

    /// A lack is waited for, a full disk refusing produce meanwhile; any other error ends the log.
    pub(super) async fn judge(&self, what: &str, result: io::Result<()>) {
        let Err(error) = result else {
            if self.disk_full.replace(false) {
                tracing::info!("there is room on the disk again: taking produce");
            }
            return;
        };
        match DiskFault::of(&error) {
            DiskFault::Lack(Lack::Descriptors) if planted!(EmfileIsDiskFailure) => {
                self.failure.set(format!("{what}: {error}"))
            }
            DiskFault::Lack(lack) => self.wait_out(lack, &error).await,
            _ => self.failure.set(format!("{what} failed: {error}")),
        }
    }

    /// There is too little of something: the journal keeps what it has, and what failed is tried again after a pause.
    async fn wait_out(&self, lack: Lack, error: &io::Error) {
        if lack == Lack::Space {
            if !self.disk_full.replace(true) {
                tracing::error!("the disk is full ({error}): refusing produce until there is room");
            }
        } else if self.lack_was_told.get().is_none_or(|told| self.io.now().since(told) >= LACK_IS_TOLD_EVERY) {
            self.lack_was_told.set(Some(self.io.now()));
            tracing::error!("there are too few {lack} ({error}): what the journal holds waits for its segments");
        }
        self.io.sleep(LACK_PAUSE).await;
    }

    /// What a log's drain came to. Where its own files are at fault, that log alone takes no more batches, and its drain
    /// is tried again later.
    pub(super) fn judge_log(&self, log: &SharedLog, result: io::Result<()>) -> io::Result<()> {
        let broken = result.as_ref().is_err_and(DiskFault::is_of_file) && !planted!(BadFileIsDiskFailure);
        if log.borrow_mut().set_broken(broken) {
            let id = log.borrow().id;
            match &result {
                Err(error) => {
                    tracing::error!(partition = %id, "its segment cannot be written ({error}): refusing produce to it")
                }
                Ok(()) => tracing::info!(partition = %id, "its segment can be written again: taking produce"),
            }
        }
        if broken { Ok(()) } else { result }
    }

    /// Drains the logs that have much to drain, a few at a time.
    async fn drain_large(self: &Rc<Shard>) {
        let is_due = self.broken_are_due();
        let wants = |log: &SharedLog| {
            let log = log.borrow();
            if log.is_broken() { is_due } else { log.undrained_bytes() >= DRAIN_BYTES }
        };
        let large: Vec<_> = logs(&self.partitions.borrow()).into_iter().filter(wants).collect();
        let result = self.drain_all(large).await;
        self.judge("a write to a segment", result).await;
    }

    /// Drains the largest logs when too much memory is taken by what is in no segment yet.
    async fn drain_for_memory(self: &Rc<Shard>) {
        if self.undrained.get() <= self.most_undrained / 2 {
            return;
        }
        let mut all = logs(&self.partitions.borrow());
        all.retain(|log| !log.borrow().is_broken() && log.borrow().undrained_bytes() > 0);
        all.sort_by_cached_key(|log| std::cmp::Reverse(log.borrow().undrained_bytes()));
        let mut left = self.undrained.get();
        let few = all.iter().take_while(|log| {
            let is_needed = left > self.most_undrained / 4;
            left = left.saturating_sub(log.borrow().undrained_bytes());
            is_needed
        });
        let few = few.count();
        all.truncate(few);
        let result = self.drain_all(all).await;
        self.judge("a write to a segment", result).await;
    }

    /// Lets go of memory that nobody has a use for.
    fn tidy_memory(&self, next_trim: &mut Instant) {
        if self.has_gone.take() {
            let partitions = self.partitions.borrow();
            self.cache.borrow_mut().forget_gone(|id| !partitions.contains_key(&id));
        }
        self.evict(usize::MAX);
        if self.io.now() >= *next_trim {
            *next_trim = self.io.now() + POOL_TRIM_INTERVAL;
            trim_pool();
        }
    }

    /// Whether it is time to try again what a file's fault kept from its segment.
    fn broken_are_due(&self) -> bool {
        let is_due = self.io.now() >= self.broken_due.get();
        if is_due {
            self.broken_due.set(self.io.now() + LACK_PAUSE);
        }
        is_due
    }

    /// Drains these logs, at most [`DRAINS_AT_ONCE`] at a time; the first error that is not a log's own is the result.
    async fn drain_all(self: &Rc<Shard>, list: Vec<SharedLog>) -> io::Result<()> {
        let drain = |shard: Rc<Shard>, log: SharedLog| async move {
            let result = drain::drain(&shard.io, &log, &shard.drained).await;
            shard.evict(TAIL_BUFFERS_AT_ONCE);
            shard.judge_log(&log, result)
        };
        self.on_each(list, DRAINS_AT_ONCE, drain).await.map(drop)
    }

    /// Does `work` with each log, at most `at_once` at a time, and gives the results in the list's order. With an
    /// error, the first of them, but not before all have ended.
    async fn on_each<T, F>(
        self: &Rc<Shard>,
        list: Vec<SharedLog>,
        at_once: usize,
        work: impl Fn(Rc<Shard>, SharedLog) -> F,
    ) -> io::Result<Vec<T>>
    where
        T: 'static,
        F: Future<Output = io::Result<T>> + 'static,
    {
        let (ended, running) = (Bell::default(), Rc::new(Cell::new(0)));
        let results = Rc::new(RefCell::new(BTreeMap::new()));
        for (index, log) in list.into_iter().enumerate() {
            ended.until(|| (running.get() < at_once).then_some(())).await;
            running.set(running.get() + 1);
            let task = work(self.clone(), log);
            let (ended, running, results) = (ended.clone(), running.clone(), results.clone());
            self.io.spawn(Class::Background, async move {
                let result = task.await;
                results.borrow_mut().insert(index, result);
                running.set(running.get() - 1);
                ended.ring();
            });
        }
        ended.until(|| (running.get() == 0).then_some(())).await;
        results.take().into_values().collect()
    }

    /// Brings every log past the files before the current one, says so durably, and gives them back.
    async fn make_checkpoint(self: &Rc<Shard>) -> io::Result<()> {
        let target = self.journal.current_file_sequence();
        let behind = |log: &SharedLog| log.borrow().oldest_journal_file().is_some_and(|oldest| oldest < target);
        let late: Vec<_> = logs(&self.partitions.borrow()).into_iter().filter(behind).collect();
        let mut tired = 0;
        let mut is_copied = |log: &SharedLog| {
            let log = log.borrow();
            let is_small = log.undrained_bytes() < COPY_FORWARD_BYTES;
            let is_tired = is_small && log.copies() >= COPIES_FORWARD && tired < SEGMENTS_OF_IDLE_LOGS;
            tired += usize::from(is_tired);
            log.is_broken() || is_small && !is_tired
        };
        let (small, large): (Vec<_>, Vec<_>) = late.into_iter().partition(|log| is_copied(log));
        self.drain_all(large).await?;
        let rest = self.copy_forward(small, target).await;
        self.drain_all(rest).await?;
        if planted!(RecycleBeforeSegmentFlush) {
            self.journal.release_before(target);
        }
        let replay_from = self.oldest_needed_file().map_or(target, |oldest| oldest.min(target));
        self.write_checkpoint(replay_from).await?;
        self.journal.release_before(replay_from);
        Ok(())
    }

    /// The oldest journal file that holds something which is in no segment: also of groups that were in flight when
    /// the logs were looked at, and of logs that have grown since.
    fn oldest_needed_file(&self) -> Option<u64> {
        let logs = logs(&self.partitions.borrow());
        let needed = logs.iter().filter_map(|log| log.borrow().oldest_journal_file());
        needed.chain(self.journal.oldest_unsettled_file()).min()
    }

    /// Puts what small logs have in old files into the journal once more; gives back those for which there
    /// was no room.
    async fn copy_forward(&self, small: Vec<SharedLog>, target: u64) -> Vec<SharedLog> {
        let mut without_room = Vec::new();
        for log in small {
            let chunks = log.borrow().chunks_before_file(target);
            let mut copied = true;
            for chunk in chunks {
                copied = copied && self.journal.has_room(chunk.bytes.len());
                if copied {
                    log.borrow_mut().copy_forward(&self.journal, &chunk);
                }
            }
            if !copied {
                without_room.push(log);
            }
        }
        // With nothing in flight the bug would have nothing to be ahead of.
        if !planted!(SnapshotHoldsCutOffBatch) {
            self.journal.idle_or(&self.failure).await;
        }
        without_room
    }

    /// Flushes what was drained and writes a frame that says so. `replay_from` is the first journal file that
    /// a replay then needs.
    pub(super) async fn write_checkpoint(self: &Rc<Shard>, replay_from: u64) -> io::Result<()> {
        let mut checkpoint = self.checkpoint.borrow_mut().take().expect("one checkpoint is written at a time");
        let began = self.io.now();
        let result = self.write_checkpoint_to(&mut checkpoint, replay_from).await;
        if result.is_ok() {
            self.io.stats().housekeeping.checkpoints.record(self.io.now().since(began));
        } else {
            // What the logs think is written down may not be: the next one holds them all, in files of its own.
            checkpoint.begin_anew();
        }
        *self.checkpoint.borrow_mut() = Some(checkpoint);
        result
    }

    async fn write_checkpoint_to(self: &Rc<Shard>, checkpoint: &mut Checkpoint, replay_from: u64) -> io::Result<()> {
        let all = checkpoint.wants_snapshot();
        let removed = self.removed.borrow().clone();
        let mut changed = logs(&self.partitions.borrow());
        changed.retain(|log| all || log.borrow().is_dirty());
        let flush = |shard: Rc<Shard>, log| async move { shard.flush(&log).await };
        let records = self.on_each(changed, FLUSHES_AT_ONCE, flush).await?;
        let start = ReplayStart {
            journal: self.journal.id(),
            file_sequence: replay_from,
            last_sequence: self.journal.last_sequence(),
            is_end: replay_from > self.journal.current_file_sequence(),
        };
        if all {
            checkpoint.write_snapshot(start, records.iter()).await?;
        } else {
            checkpoint.write_changes(start, records.iter(), &removed).await?;
        }
        self.removed.borrow_mut().drain(..removed.len());
        Ok(())
    }

    async fn flush(&self, log: &SharedLog) -> io::Result<LogRecord> {
        loop {
            let seen = self.drained.rings();
            if let Some(record) = drain::flush(&self.io, log).await? {
                self.drained.ring();
                return Ok(record);
            }
            self.drained.rung_since(seen).await;
        }
    }

    /// Ends the shard cleanly: everything in segments, and a checkpoint behind which there is nothing to replay.
    /// Whether it was clean.
    pub(super) async fn stop(self: &Rc<Shard>) -> bool {
        self.stopping.set(true);
        self.housekeeping.ring();
        self.drained.until(|| (!self.keeping_house.get()).then_some(())).await;
        let written = self.drained.until(|| (self.direct_writers.get() == 0).then_some(()));
        futures_lite::future::or(written, async { drop(self.failure.wait().await) }).await;
        self.journal.idle_or(&self.failure).await;
        let result = self.stop_cleanly().await;
        if let Err(error) = &result {
            tracing::warn!("the clean stop did not complete ({error}); the next start replays the journal");
        }
        result.is_ok()
    }

    async fn stop_cleanly(self: &Rc<Shard>) -> io::Result<()> {
        if self.failure.is_set() {
            return Err(io::Error::other("the disk has failed"));
        }
        let all = logs(&self.partitions.borrow());
        self.drain_all(all).await?;
        if self.oldest_needed_file().is_some() {
            return Err(io::Error::other("some records are in the journal alone"));
        }
        self.write_checkpoint(self.journal.current_file_sequence() + 1).await
    }
}
