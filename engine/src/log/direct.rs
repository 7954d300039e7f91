//! Large appends past the journal: a log's big batches go straight to its segment, and the journal holds where.
//!
//! So big data is written once. The order is what a crash tests: what the log has behind its drained end is drained,
//! then the batches are written to the segment with their flush, and only then an [`Extent`] of them enters a group of
//! the journal: one that is in a whole group is always durable. They count as durable, and as drained, when that group
//! is. While batches wait here, every later one of the log waits behind them, whatever its size: its offsets come later
//! and its place in the segment does too. Recovery reads an extent's bytes from the segment and takes them over like
//! any other entry's; how many that may be is bounded by checkpoints (see `shard::housekeeping`).
//!
//! A full disk is no failure: then what waits goes to the journal as bytes.

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use bytes::{Buf, BufMut, Bytes};

use super::PartitionId;
use super::drain::{self, SharedLog};
use super::group::{Entry, EntryKind, crc_of_batches};
use super::journal::Journal;
use super::recovery;
use super::segment::Segment;
use super::tail::Chunk;
use crate::io::buffer::{BLOCK, round_up};
use crate::io::local::Bell;
use crate::io::{Io, OpenMode};
use crate::limits::{DIRECT_QUEUE_BYTES, EXTENT_BYTES, EXTENTS_ROOM, SEGMENT_WRITE_BYTES};

/// Where in a partition's directory batches lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The base offset that names the segment.
    pub segment: i64,
    /// The position in its file of batches.
    pub position: u64,
    /// Their bytes.
    pub length: u32,
    /// CRC-32C over them.
    pub crc: u32,
}

/// Its bytes in a journal entry.
const EXTENT_ENTRY_BYTES: usize = 24;

impl Extent {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(EXTENT_ENTRY_BYTES);
        out.put_i64_le(self.segment);
        out.put_u64_le(self.position);
        out.put_u32_le(self.length);
        out.put_u32_le(self.crc);
        out
    }

    pub(super) fn decode(mut bytes: &[u8]) -> Option<Extent> {
        let whole = bytes.len() == EXTENT_ENTRY_BYTES;
        whole.then(|| Extent {
            segment: bytes.get_i64_le(),
            position: bytes.get_u64_le(),
            length: bytes.get_u32_le(),
            crc: bytes.get_u32_le(),
        })
    }

    /// Its batches, from the segment in the partition's directory; `None` if they are not whole any more.
    pub async fn read(&self, io: &Io, dir: &Path, id: PartitionId) -> io::Result<Option<Bytes>> {
        let path = Segment::new(self.segment).log_path(dir);
        let file = match io.open(&path, OpenMode::Read).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let start = self.position - self.position % BLOCK as u64;
        let from = (self.position - start) as usize;
        let to = from + self.length as usize;
        let bytes = file.read_at(start, round_up(to)).await?.freeze();
        let found = (bytes.len() >= to).then(|| bytes.slice(from..to));
        let whole = found.filter(|bytes| planted!(NoCrcAtRecovery) || crc32c::crc32c(bytes) == self.crc);
        if whole.is_none() {
            tracing::error!(partition = %id, extent = ?self, "batches that had been written past the journal are damaged");
        }
        Ok(whole)
    }
}

/// Batches that wait for their segment, as one journal entry will name them.
struct Waiting {
    base_offset: i64,
    end_offset: i64,
    bytes: Vec<u8>,
}

/// What of a log is on its way past the journal.
#[derive(Default)]
pub(super) struct Direct {
    /// Whether a writer is at work: all that is appended waits for it.
    is_open: bool,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// Of the write under way, or of one that is tried again.
    writing: VecDeque<Chunk>,
    /// In the segment; their extents are in the journal and not yet durable there.
    named: VecDeque<Chunk>,
}

impl Direct {
    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    /// From now on appends wait here for a writer; whether there was none.
    pub(super) fn open(&mut self) -> bool {
        !std::mem::replace(&mut self.is_open, true)
    }

    pub(super) fn has_room(&self) -> bool {
        self.waiting_bytes < DIRECT_QUEUE_BYTES
    }

    /// Takes a copy of a batch, which `patch` completes. Small ones share an entry.
    pub(super) fn push(&mut self, base_offset: i64, end_offset: i64, batch: &[u8], patch: impl FnOnce(&mut [u8])) {
        self.waiting_bytes += batch.len();
        let shares = self.waiting.back().is_some_and(|last| last.bytes.len() + batch.len() <= EXTENT_BYTES);
        if !shares {
            let bytes = Vec::with_capacity(batch.len());
            self.waiting.push_back(Waiting { base_offset, end_offset, bytes });
        }
        let last = self.waiting.back_mut().expect("one was just there");
        let start = last.bytes.len();
        last.bytes.extend_from_slice(batch);
        last.end_offset = end_offset;
        patch(&mut last.bytes[start..]);
    }

    fn first_offset(&self) -> Option<i64> {
        let writing = self.writing.front().map(|chunk| chunk.base_offset);
        writing.or(self.waiting.front().map(|waiting| waiting.base_offset))
    }

    /// Gives the next write so much to take from as it may be large.
    fn take_waiting(&mut self) {
        let mut bytes: usize = self.writing.iter().map(|chunk| chunk.bytes.len()).sum();
        while bytes < SEGMENT_WRITE_BYTES {
            let Some(Waiting { base_offset, end_offset, bytes: next }) = self.waiting.pop_front() else { break };
            self.waiting_bytes -= next.len();
            bytes += next.len();
            self.writing.push_back(Chunk { base_offset, end_offset, bytes: next.into(), file_sequence: 0 });
        }
    }

    /// The batches that end at or before this offset are in the segment and in the journal's hands.
    fn written(&mut self, end_offset: i64) {
        while self.writing.front().is_some_and(|chunk| chunk.end_offset <= end_offset) {
            self.writing.pop_front();
        }
        // The rest of one that a segment's end has cut in two is for the next segment, or for the journal.
        if let Some(cut) = self.writing.front_mut().filter(|chunk| chunk.base_offset < end_offset) {
            cut.bytes = recovery::behind(&cut.bytes, end_offset);
            cut.base_offset = end_offset;
        }
    }

    /// The batches of an extent that is durable in this journal file.
    pub(super) fn durable(&mut self, entry: &Entry, file_sequence: u64) -> Chunk {
        let chunk = self.named.pop_front().expect("only this start's own extents become durable");
        assert_eq!((chunk.base_offset, chunk.end_offset), (entry.base_offset, entry.end_offset), "in their order");
        Chunk { file_sequence, ..chunk }
    }
}

/// Writes what waits, until nothing does. With an error, or when it must not go on, nothing waits either: the journal has
/// it. There is one writer of a log at a time, and none while the log is drained or flushed.
pub async fn write_waiting(
    io: &Io,
    log: &SharedLog,
    journal: &Journal,
    finished: &Bell,
    may_go_on: impl Fn() -> bool,
) -> io::Result<()> {
    loop {
        if !may_go_on() {
            give_to_journal(log, journal).await;
            return Ok(());
        }
        let first = log.borrow().direct.first_offset().filter(|_| !log.borrow().deleted);
        let Some(first) = first else {
            log.borrow_mut().direct = Direct::default();
            return Ok(());
        };
        // What comes before is in the journal's hands, and gets its place in the segment first.
        is_durable(log, journal, first).await;
        journal.room(EXTENTS_ROOM).await;
        drain::begin(log, finished).await;
        let result = write_some(io, log, journal).await;
        drain::end(log, finished);
        if let Err(error) = result {
            give_to_journal(log, journal).await;
            return Err(error);
        }
    }
}

/// Completes when the log is durable up to `offset`, or gone.
async fn is_durable(log: &SharedLog, journal: &Journal, offset: i64) {
    let reached = || {
        let log = log.borrow();
        log.deleted || log.durable_end_offset() >= offset
    };
    journal.when_dealt_with(reached).await;
}

/// One write to the segment, and its extents. Nothing has happened, to be tried again, if meanwhile the journal has lost
/// its room for them: to wait for it here would keep the checkpoint from making some.
async fn write_some(io: &Io, log: &SharedLog, journal: &Journal) -> io::Result<()> {
    drain::drain_pieces(io, log).await?;
    let piece = {
        log.borrow_mut().direct.take_waiting();
        let log = log.borrow();
        drain::next_piece(&log, log.direct.writing.iter())
    };
    let Some(piece) = piece else { return Ok(()) };
    if let Some(base_offset) = piece.rolls {
        drain::roll(io, log, base_offset).await?;
    }
    let bytes = piece.bytes();
    let write = log.borrow().active.as_ref().expect("a piece has its segment").prepare_append(&bytes);
    match planted!(ExtentBeforeSegmentFlush) {
        true => write.run().await?,
        false => write.run_durable().await?,
    }
    drain::sync_directory(io, log).await?;
    if !journal.has_room(EXTENTS_ROOM) {
        return Ok(());
    }
    name_extents(&mut log.borrow_mut(), journal, &piece.chunks);
    is_durable(log, journal, piece.end_offset).await;
    let mut log = log.borrow_mut();
    if !log.deleted {
        log.on_drained(&bytes, piece.end_offset, write);
    }
    Ok(())
}

/// Puts into the journal where these batches are.
fn name_extents(log: &mut super::Log, journal: &Journal, chunks: &[Chunk]) {
    let segment = log.active.as_ref().expect("they were just written to it").segment;
    let mut position = segment.size;
    for chunk in chunks {
        let length = chunk.bytes.len() as u32;
        let extent = Extent { segment: segment.base_offset, position, length, crc: crc_of_batches(&chunk.bytes) };
        position += u64::from(length);
        let entry = log.entry(EntryKind::Extent, chunk.base_offset, chunk.end_offset, -1);
        journal.append(entry, &extent.encode(), |_| {});
        log.extent_bytes += u64::from(length);
        log.direct.named.push_back(chunk.clone());
        log.direct.written(chunk.end_offset);
    }
}

/// What waits goes to the journal as bytes, in its order.
async fn give_to_journal(log: &SharedLog, journal: &Journal) {
    loop {
        let chunk = {
            let mut log = log.borrow_mut();
            log.direct.take_waiting();
            let next = log.direct.writing.front().cloned().filter(|_| !log.deleted);
            let Some(next) = next else {
                log.direct = Direct::default();
                return;
            };
            next
        };
        journal.room(chunk.bytes.len()).await;
        let mut log = log.borrow_mut();
        log.direct.written(chunk.end_offset);
        log.copy_forward(journal, &chunk);
    }
}

#[cfg(test)]
mod tests;
