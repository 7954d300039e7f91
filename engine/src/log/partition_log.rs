//! One partition's log: offsets, producers, epochs, segments and tail.
//!
//! Three ends, each at or below the one before it: the *log end* (next offset to give out), the *durable
//! end* (on stable storage in the journal or a segment; what anyone may see), the *drained end* (in a
//! segment; what the journal is no longer needed for once a checkpoint says so). The *last stable offset* is
//! the durable end, or the first offset of a transaction that has no durable marker. It decides nothing about
//! leaders and does no I/O by itself: [`super::drain`] moves its bytes, [`super::reader`] reads them.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};

use super::PartitionId;
use super::direct::Direct;
use super::group::{Entry, EntryKind};
use super::journal::Journal;
use super::leader_epochs::LeaderEpochs;
use super::producer_state::{Ended, Ends, ProducerStates};
use super::segment::{ActiveSegment, Segment, SegmentWrite};
use super::tail::{Chunk, Tail};
use super::transaction_index::AbortedTransaction;
use crate::io::Instant;
use crate::protocol::Uuid;
use crate::record::batch::{BatchView, batches, set_base_offset, set_leader_epoch};

/// What of a topic's configs a log itself obeys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogConfig {
    /// A segment is rolled before it grows beyond this (`segment.bytes`).
    pub segment_bytes: u64,
    /// A segment is rolled when a batch is newer than its first one by more than this (`segment.ms`).
    pub segment_ms: i64,
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig { segment_bytes: 1 << 30, segment_ms: 7 * 24 * 3600 * 1000 }
    }
}

/// What a checkpoint keeps of a log: everything that the journal behind it does not say again.
#[derive(Debug, Clone, PartialEq)]
pub struct LogRecord {
    /// Which partition.
    pub id: PartitionId,
    /// Grows each time that the partition enters another journal, which every start makes it do.
    pub ownership: u64,
    /// The first offset.
    pub log_start_offset: i64,
    /// One past the last offset that is in a flushed segment.
    pub drained_end_offset: i64,
    /// Oldest first; the last one may be unsealed.
    pub segments: Vec<Segment>,
    /// The producers as of the drained end.
    pub producers: ProducerStates,
    /// The epochs that began before the drained end.
    pub epochs: LeaderEpochs,
    /// Ranges of offsets whose records a fault destroyed: answered CORRUPT_MESSAGE, given to no other record.
    pub damaged: Vec<(i64, i64)>,
    /// Whether the end could not be proved: no produce until an operator accepts the loss.
    pub suspended: bool,
}

impl LogRecord {
    /// That of an empty log.
    pub fn new(id: PartitionId) -> LogRecord {
        LogRecord {
            id,
            ownership: 0,
            log_start_offset: 0,
            drained_end_offset: 0,
            segments: Vec::new(),
            producers: ProducerStates::default(),
            epochs: LeaderEpochs::default(),
            damaged: Vec::new(),
            suspended: false,
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_slice(&self.id.topic_id.0);
        out.put_i32_le(self.id.partition);
        out.put_u64_le(self.ownership);
        out.put_i64_le(self.log_start_offset);
        out.put_i64_le(self.drained_end_offset);
        out.put_u8(u8::from(self.suspended));
        out.put_u32_le(self.segments.len() as u32);
        self.segments.iter().for_each(|segment| segment.encode(out));
        self.producers.encode(out);
        self.epochs.encode(out);
        out.put_u32_le(self.damaged.len() as u32);
        for (from, to) in &self.damaged {
            out.put_i64_le(*from);
            out.put_i64_le(*to);
        }
    }

    pub(super) fn decode(bytes: &mut &[u8]) -> Option<LogRecord> {
        let mut topic_id = [0; 16];
        bytes.try_copy_to_slice(&mut topic_id).ok()?;
        let id = PartitionId { topic_id: Uuid(topic_id), partition: bytes.try_get_i32_le().ok()? };
        let ownership = bytes.try_get_u64_le().ok()?;
        let log_start_offset = bytes.try_get_i64_le().ok()?;
        let drained_end_offset = bytes.try_get_i64_le().ok()?;
        let suspended = bytes.try_get_u8().ok()? != 0;
        let segments = bytes.try_get_u32_le().ok()?;
        let segments = (0..segments).map(|_| Segment::decode(bytes)).collect::<Option<_>>()?;
        let producers = ProducerStates::decode(bytes)?;
        let epochs = LeaderEpochs::decode(bytes)?;
        let damaged = bytes.try_get_u32_le().ok()?;
        let range = |bytes: &mut &[u8]| Some((bytes.try_get_i64_le().ok()?, bytes.try_get_i64_le().ok()?));
        let damaged = (0..damaged).map(|_| range(bytes)).collect::<Option<_>>()?;
        Some(LogRecord {
            id,
            ownership,
            log_start_offset,
            drained_end_offset,
            segments,
            producers,
            epochs,
            damaged,
            suspended,
        })
    }
}

/// A partition's log on the core that owns it.
pub struct Log {
    /// Which partition.
    pub id: PartitionId,
    pub(super) dir: PathBuf,
    pub(super) config: LogConfig,
    ownership: u64,
    log_start_offset: i64,
    log_end_offset: i64,
    durable_end_offset: i64,
    pub(super) drained_end_offset: i64,
    pub(super) tail: Tail,
    /// Bytes of the tail's chunks behind the drained end.
    undrained: Undrained,
    /// How often what is behind the drained end was put into the journal once more.
    copies: u32,
    /// Sealed segments, oldest first, and the manifest's view of the unsealed one.
    pub(super) segments: Vec<Segment>,
    /// The unsealed segment's files, once it has been opened.
    pub(super) active: Option<ActiveSegment>,
    /// The producers as of the log end.
    producers: ProducerStates,
    /// The producers as of the drained end, for the checkpoint.
    drained_producers: ProducerStates,
    ends: Ends,
    /// Transactions whose marker is in the journal and not yet durable, in the order of the markers.
    ending: VecDeque<Ended>,
    /// Aborted transactions whose marker lies behind the drained end, in the order of the markers.
    pub(super) aborted: VecDeque<AbortedTransaction>,
    epochs: LeaderEpochs,
    damaged: Vec<(i64, i64)>,
    suspended: bool,
    /// See [`Log::is_broken`].
    broken: bool,
    /// Whether the checkpoint lacks something of this log.
    pub(super) dirty: bool,
    /// Whether a drain is under way; there is at most one.
    pub(super) draining: bool,
    /// Whether files were made or renamed since the directory was last synced.
    pub(super) directory_dirty: bool,
    /// Whether the topic has been deleted: nothing is written for it any more.
    pub(super) deleted: bool,
    /// What goes past the journal.
    pub(super) direct: Direct,
    /// Bytes that have gone past the journal since the last checkpoint: the next start would read them.
    pub(super) extent_bytes: u64,
}

/// Bytes that are in no segment yet, and the sum of them over the logs of a core.
#[derive(Default)]
struct Undrained {
    bytes: usize,
    total: Rc<Cell<usize>>,
}

impl Undrained {
    fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.total.set(self.total.get() + bytes);
    }

    fn sub(&mut self, bytes: usize) {
        assert!(bytes <= self.bytes && bytes <= self.total.get(), "what is drained was counted");
        self.bytes -= bytes;
        self.total.set(self.total.get() - bytes);
    }

    fn count_in(&mut self, total: &Rc<Cell<usize>>) {
        let bytes = self.bytes;
        self.sub(bytes);
        self.total = total.clone();
        self.add(bytes);
    }
}

impl Drop for Undrained {
    fn drop(&mut self) {
        self.sub(self.bytes);
    }
}

/// Where a batch was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The offset of its first record.
    pub base_offset: i64,
    /// One past the offset of its last record: durable when the log's durable end has reached it.
    pub end_offset: i64,
}

impl Log {
    /// The log as a checkpoint's record has it; its directory is `dir`. Entries of the journal follow by
    /// [`Log::replay`].
    pub fn restore(record: LogRecord, dir: PathBuf, config: LogConfig) -> Log {
        let end = record.drained_end_offset.max(record.damaged.last().map_or(0, |range| range.1));
        Log {
            id: record.id,
            dir,
            config,
            ownership: record.ownership,
            log_start_offset: record.log_start_offset,
            log_end_offset: end,
            durable_end_offset: end,
            drained_end_offset: record.drained_end_offset,
            tail: Tail::default(),
            undrained: Undrained::default(),
            copies: 0,
            segments: record.segments,
            active: None,
            producers: if planted!(ForgetProducerState) { ProducerStates::default() } else { record.producers.clone() },
            drained_producers: record.producers,
            ends: Ends::default(),
            ending: VecDeque::new(),
            aborted: VecDeque::new(),
            epochs: record.epochs,
            damaged: record.damaged,
            suspended: record.suspended,
            broken: false,
            dirty: false,
            draining: false,
            directory_dirty: false,
            deleted: false,
            direct: Direct::default(),
            extent_bytes: 0,
        }
    }

    /// The first offset.
    pub fn log_start_offset(&self) -> i64 {
        self.log_start_offset
    }

    /// The next offset to give out.
    pub fn log_end_offset(&self) -> i64 {
        self.log_end_offset
    }

    /// One past the last offset on stable storage.
    pub fn durable_end_offset(&self) -> i64 {
        self.durable_end_offset
    }

    /// One past the last offset that no open transaction holds back, of those on stable storage. A transaction
    /// is open until its marker is durable.
    pub fn last_stable_offset(&self) -> i64 {
        let ending = self.ending.iter().map(|ended| ended.first_offset);
        let open = self.producers.first_open_offset().into_iter().chain(ending).min();
        match open {
            Some(offset) if !planted!(StableOffsetAheadOfOpenTransaction) => {
                self.durable_end_offset.min(offset.max(self.log_start_offset))
            }
            _ => self.durable_end_offset,
        }
    }

    /// The producers as of the log end.
    pub fn producers(&mut self) -> &mut ProducerStates {
        &mut self.producers
    }

    /// Remembers what a batch says of its producer.
    fn note_producer(&mut self, batch: &BatchView<'_>, base_offset: i64) {
        if let Some(ended) = self.producers.note(batch, base_offset) {
            self.ending.push_back(ended);
            self.aborted.extend(ended.aborted);
        }
    }

    /// Forgets producers of which the log has had nothing for `expiration`.
    pub fn forget_silent_producers(&mut self, now: Instant, expiration: Duration) {
        let end = self.ends.note(now, self.log_end_offset, expiration);
        self.producers.forget_silent(end);
        self.drained_producers.forget_silent(end);
    }

    /// The leader epochs.
    pub fn epochs(&mut self) -> &mut LeaderEpochs {
        &mut self.epochs
    }

    /// Its segments, oldest first.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Its directory.
    pub fn dir(&self) -> &std::path::Path {
        &self.dir
    }

    /// Whether its batches cannot be put into a segment: the journal keeps what there is, and no more is taken.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether a drain has failed by the fault of the log's own files; gives whether that is news.
    pub fn set_broken(&mut self, broken: bool) -> bool {
        std::mem::replace(&mut self.broken, broken) != broken
    }

    /// Whether no produce is taken until an operator accepts a loss.
    pub fn is_suspended(&self) -> bool {
        self.suspended
    }

    /// The damaged range that holds `offset`, if one does.
    pub fn damage_at(&self, offset: i64) -> Option<(i64, i64)> {
        self.damaged.iter().copied().find(|(from, to)| (*from..*to).contains(&offset))
    }

    /// Where the first damaged range behind `offset` begins; beyond all offsets if there is none.
    pub fn damage_behind(&self, offset: i64) -> i64 {
        self.damaged.iter().map(|range| range.0).filter(|from| *from > offset).min().unwrap_or(i64::MAX)
    }

    /// New values of the topic's configs.
    pub fn configure(&mut self, config: LogConfig) {
        self.config = config;
    }

    /// One past the last offset that is in a segment.
    pub fn drained_end_offset(&self) -> i64 {
        self.drained_end_offset
    }

    /// Whether the checkpoint lacks something of the log.
    pub fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Whether a drain or a flush is under way.
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// The topic is gone: nothing more is written for the log.
    pub fn mark_deleted(&mut self) {
        self.deleted = true;
    }

    /// Whether the topic is gone.
    pub fn is_deleted(&self) -> bool {
        self.deleted
    }

    /// Bytes that are durable in the journal alone.
    pub fn undrained_bytes(&self) -> usize {
        self.undrained.bytes
    }

    /// Bytes of the log, in segments and behind them.
    pub fn size_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.size).sum::<u64>() + self.undrained_bytes() as u64
    }

    /// The oldest journal file that the log still needs.
    pub fn oldest_journal_file(&self) -> Option<u64> {
        self.tail.from(self.drained_end_offset).map(|chunk| chunk.file_sequence).min()
    }

    /// From now on appends go past the journal; true if the caller must see to [`super::direct::write_waiting`]. Not
    /// before something of the log is durable: a directory of which neither journal nor checkpoint knows would look, to
    /// the next start, as if they had been lost.
    pub fn open_direct(&mut self) -> bool {
        self.durable_end_offset > 0 && self.direct.open()
    }

    /// Whether another append may wait for its segment; always, if none does.
    pub fn has_direct_room(&self) -> bool {
        self.direct.has_room()
    }

    /// Bytes that have gone past the journal since the last checkpoint.
    pub fn extent_bytes(&self) -> u64 {
        self.extent_bytes
    }

    /// Gives a checked batch the next offsets and puts it into the journal, which must have room, or to what waits to
    /// go past it.
    pub fn append(&mut self, journal: &Journal, batch: &BatchView<'_>, leader_epoch: i32) -> Appended {
        let base_offset = self.log_end_offset;
        let end_offset = base_offset + i64::from(batch.last_offset_delta()) + 1;
        self.epochs.assign(leader_epoch, base_offset);
        self.note_producer(batch, base_offset);
        let complete = |bytes: &mut [u8]| {
            set_base_offset(bytes, base_offset);
            set_leader_epoch(bytes, leader_epoch);
        };
        if self.direct.is_open() {
            self.direct.push(base_offset, end_offset, batch.bytes(), complete);
        } else {
            let entry = self.entry(EntryKind::Append, base_offset, end_offset, leader_epoch);
            journal.append(entry, batch.bytes(), complete);
        }
        self.log_end_offset = end_offset;
        Appended { base_offset, end_offset }
    }

    /// Puts into the journal, which must have room, that the log begins at `log_start_offset` from now on. It
    /// does when the entry is durable: a start that was seen never goes back.
    ///
    /// # Panics
    /// If records that are not durable would be given up.
    pub fn advance_start(&mut self, journal: &Journal, log_start_offset: i64) {
        assert!(log_start_offset <= self.durable_end_offset, "only what is durable is given up");
        journal.append(self.entry(EntryKind::LogStart, log_start_offset, log_start_offset, -1), &[], |_| {});
    }

    /// Forgets the sealed segments all of whose offsets lie before the log's start; whether there were any.
    pub fn forget_old_segments(&mut self) -> bool {
        let is_old = |pair: &&[Segment]| pair[0].sealed && pair[1].base_offset <= self.log_start_offset;
        let old = self.segments.windows(2).take_while(is_old).count();
        self.segments.drain(..old);
        self.dirty |= old > 0;
        old > 0
    }

    pub(super) fn entry(&self, kind: EntryKind, base_offset: i64, end_offset: i64, leader_epoch: i32) -> Entry {
        Entry { kind, id: self.id, ownership: self.ownership, base_offset, end_offset, leader_epoch, length: 0, crc: 0 }
    }

    /// Puts the oldest chunks into the journal once more, so that older files are not kept for them.
    pub fn copy_forward(&mut self, journal: &Journal, chunk: &Chunk) {
        self.copies += 1;
        let entry = self.entry(EntryKind::Append, chunk.base_offset, chunk.end_offset, -1);
        journal.append(entry, &chunk.bytes, |_| {});
    }

    /// How often what is in no segment yet was put into the journal once more, since the last news of the log.
    pub fn copies(&self) -> u32 {
        self.copies
    }

    /// From now on what is in no segment yet is counted in `total` as well, as long as the log is in memory.
    pub fn count_undrained_in(&mut self, total: &Rc<Cell<usize>>) {
        self.undrained.count_in(total);
    }

    /// Chunks that only journal files before `file_sequence` hold.
    pub fn chunks_before_file(&self, file_sequence: u64) -> Vec<Chunk> {
        let undrained = self.tail.from(self.drained_end_offset);
        undrained.filter(|chunk| chunk.file_sequence < file_sequence).cloned().collect()
    }

    /// An entry of this log has become durable in a journal file; gives the records that it stands for.
    pub fn on_durable(&mut self, entry: &Entry, bytes: Bytes, file_sequence: u64) -> Bytes {
        if entry.kind == EntryKind::LogStart {
            self.log_start_offset = self.log_start_offset.max(entry.base_offset);
            self.dirty = true;
            return Bytes::new();
        }
        let chunk = match entry.kind {
            EntryKind::Extent => self.direct.durable(entry, file_sequence),
            _ => Chunk { base_offset: entry.base_offset, end_offset: entry.end_offset, bytes, file_sequence },
        };
        let bytes = chunk.bytes.clone();
        if entry.base_offset < self.durable_end_offset {
            self.tail.moved(chunk);
        } else {
            self.undrained.add(bytes.len());
            self.copies = 0;
            self.tail.push(chunk);
            self.durable_end_offset = entry.end_offset;
            while self.ending.front().is_some_and(|ended| ended.marker_offset < entry.end_offset) {
                self.ending.pop_front();
            }
        }
        bytes
    }

    /// Takes over what recovery found behind the drained end: it goes into this start's journal, under an
    /// ownership of its own, and counts as durable when that has it.
    pub fn adopt(&mut self, journal: &Journal, entry: &Entry, bytes: &Bytes) {
        for batch in batches(bytes) {
            let batch = batch.expect("recovery hands on whole batches");
            self.epochs.assign(batch.partition_leader_epoch(), batch.base_offset());
            if !planted!(ForgetProducerState) {
                self.note_producer(&batch, batch.base_offset());
            }
        }
        let entry = self.entry(EntryKind::Append, entry.base_offset, entry.end_offset, entry.leader_epoch);
        self.log_end_offset = entry.end_offset;
        journal.append(entry, bytes, |_| {});
    }

    /// The ownership number of this start.
    pub fn set_ownership(&mut self, ownership: u64) {
        assert!(ownership > self.ownership, "an ownership number grows");
        self.ownership = ownership;
        self.dirty = true;
    }

    /// Marks offsets up to `end` as damaged: they lie at the log's end and belong to no record any more.
    pub fn mark_damaged(&mut self, end: i64) {
        if end > self.log_end_offset {
            self.damaged.push((self.log_end_offset, end));
            self.log_end_offset = end;
            self.durable_end_offset = end;
            self.dirty = true;
        }
    }

    /// The end could not be proved: no produce from now on.
    pub fn suspend(&mut self) {
        self.suspended = true;
        self.dirty = true;
    }

    /// An operator has accepted the loss: produce goes on from the end that is known.
    pub fn accept_loss(&mut self) {
        self.suspended = false;
        self.dirty = true;
    }

    /// A write of batches that end at `end_offset` to the active segment is complete.
    pub(super) fn on_drained(&mut self, chunks: &[Bytes], end_offset: i64, write: SegmentWrite) {
        let mut aborted = Vec::new();
        for chunk in chunks {
            for batch in batches(chunk) {
                let batch = batch.expect("a journal entry holds whole batches");
                let ended = self.drained_producers.note(&batch, batch.base_offset());
                aborted.extend(ended.and_then(|ended| ended.aborted));
            }
        }
        self.undrained.sub(chunks.iter().map(Bytes::len).sum());
        self.copies = 0;
        let active = self.active.as_mut().expect("a write has its segment");
        active.appended(chunks, write);
        if !aborted.is_empty() {
            active.add_aborted(&aborted);
            self.directory_dirty = true;
        }
        let segment = active.segment;
        self.drained_end_offset = end_offset;
        while self.aborted.front().is_some_and(|entry| entry.last_offset < end_offset) {
            self.aborted.pop_front();
        }
        self.set_last_segment(segment);
        self.dirty = true;
    }

    /// The active segment's files are sealed: the next bytes go to another one.
    pub(super) fn seal_active(&mut self) {
        let active = self.active.take().expect("a segment is being sealed");
        self.set_last_segment(Segment { sealed: true, ..active.segment });
    }

    /// The last segment takes no more batches, though it is neither cut to its length nor indexed as a sealed one is:
    /// its file failed. What of it can be read is served, and the rest is answered as damaged.
    pub(super) fn leave_segment(&mut self, why: &io::Error) {
        self.active = None;
        self.dirty = true;
        let Some(last) = self.segments.last().copied() else { return };
        tracing::error!(partition = %self.id, segment = last.base_offset, "a segment takes no more batches, the log goes on in a new one: {why}");
        match last.size {
            // A new one has its name.
            0 => drop(self.segments.pop()),
            _ => self.set_last_segment(Segment { sealed: true, ..last }),
        }
    }

    pub(super) fn set_last_segment(&mut self, segment: Segment) {
        match self.segments.last_mut() {
            Some(last) if last.base_offset == segment.base_offset => *last = segment,
            _ => self.segments.push(segment),
        }
    }

    /// What the checkpoint says of the log now.
    pub(super) fn record(&self) -> LogRecord {
        let snapshot_is_ahead = planted!(SnapshotHoldsCutOffBatch);
        LogRecord {
            id: self.id,
            ownership: self.ownership,
            log_start_offset: self.log_start_offset,
            drained_end_offset: self.drained_end_offset,
            segments: self.segments.clone(),
            producers: if snapshot_is_ahead { self.producers.clone() } else { self.drained_producers.clone() },
            epochs: self.epochs.before(self.drained_end_offset),
            damaged: self.damaged.clone(),
            suspended: self.suspended,
        }
    }

    /// The bytes of the chunk that ends at `end_offset`, if it is in no segment yet and lies in that memory.
    pub(super) fn pinned_in(&self, memory: &Range<usize>, end_offset: i64) -> Option<usize> {
        self.tail.len_in(memory, end_offset).filter(|_| end_offset > self.drained_end_offset)
    }

    /// Gives that chunk memory of its own.
    pub(super) fn copy_out(&mut self, memory: &Range<usize>, end_offset: i64) {
        self.tail.copy_out(memory, end_offset);
    }

    /// Lets go of cached chunks that end at or before `offset`, as far as they are drained.
    pub fn evict_before(&mut self, offset: i64) {
        self.tail.evict_before(offset.min(self.drained_end_offset));
    }
}
