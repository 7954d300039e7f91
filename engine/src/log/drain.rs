//! Moving a log's bytes from the journal into its segments.
//!
//! Off the path of every acknowledgement. Invariant: at most one drain of a log at a time, and the log's
//! drained end moves only after the write is complete; that it is flushed is the checkpoint's matter.
//!
//! A segment that takes no more writes, or cannot be opened again, costs what it holds and no more: it is left as it
//! is, and the log goes on in a new one. What asks for an operation is cleared when that has succeeded, not before.

use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

use bytes::Bytes;

use super::partition_log::{Log, LogRecord};
use super::segment::{ActiveSegment, SegmentSync};
use super::tail::Chunk;
use crate::io::buffer::Buffer;
use crate::io::fault::DiskFault;
use crate::io::local::Bell;
use crate::io::{Io, OpenMode};
use crate::limits::SEGMENT_WRITE_BYTES;
use crate::protocol::Uuid;
use crate::record::batch::{BatchView, batches};

/// Names the topic id of a partition's directory, as in Kafka.
pub const PARTITION_METADATA: &str = "partition.metadata";

/// A log that its core's tasks share. No borrow is held over an await.
pub type SharedLog = Rc<RefCell<Log>>;

/// What one write to a segment takes.
pub(super) struct Piece {
    /// Whole batches, with their offsets.
    pub(super) chunks: Vec<Chunk>,
    pub(super) end_offset: i64,
    /// Whether a new segment begins with it.
    pub(super) rolls: Option<i64>,
}

impl Piece {
    pub(super) fn bytes(&self) -> Vec<Bytes> {
        self.chunks.iter().map(|chunk| chunk.bytes.clone()).collect()
    }
}

/// Drains all that is durable. Returns at once if a drain of the log is under way.
pub async fn drain(io: &Io, log: &SharedLog, finished: &Bell) -> io::Result<()> {
    if std::mem::replace(&mut log.borrow_mut().draining, true) {
        return Ok(());
    }
    let result = drain_pieces(io, log).await;
    end(log, finished);
    result
}

/// Waits until no drain of the log is under way, and begins one.
pub(super) async fn begin(log: &SharedLog, finished: &Bell) {
    finished.until(|| (!std::mem::replace(&mut log.borrow_mut().draining, true)).then_some(())).await;
}

/// Ends it.
pub(super) fn end(log: &SharedLog, finished: &Bell) {
    log.borrow_mut().draining = false;
    finished.ring();
}

/// Drains all that is durable, within a drain that the caller has begun.
pub(super) async fn drain_pieces(io: &Io, log: &SharedLog) -> io::Result<()> {
    let mut was_left = false;
    loop {
        open_active(io, log).await?;
        let piece = {
            let log = log.borrow();
            next_piece(&log, log.tail.from(log.drained_end_offset))
        };
        let Some(piece) = piece else { return Ok(()) };
        if let Some(base_offset) = piece.rolls {
            roll(io, log, base_offset).await?;
        }
        let bytes = piece.bytes();
        let write = log.borrow().active.as_ref().expect("a piece has its segment").prepare_append(&bytes);
        if let Err(error) = write.run().await {
            let may_go_on = DiskFault::is_of_file(&error) && !std::mem::replace(&mut was_left, true);
            if !may_go_on {
                return Err(error);
            }
            leave_active(log, &error).await?;
            continue;
        }
        count(io, &bytes);
        log.borrow_mut().on_drained(&bytes, piece.end_offset, write);
    }
}

/// The active segment takes no more writes: what it holds stays where it is, and the log goes on in a new one.
async fn leave_active(log: &SharedLog, why: &io::Error) -> io::Result<()> {
    let file = log.borrow().active.as_ref().map(|active| active.file().clone());
    let Some(file) = file else { return Ok(()) };
    // What was written to it is needed no longer in the journal when the next checkpoint says so.
    file.sync().await?;
    log.borrow_mut().leave_segment(why);
    Ok(())
}

fn count(io: &Io, bytes: &[Bytes]) {
    let stats = &io.stats().housekeeping;
    stats.drains.add(1);
    stats.drained_bytes.add(bytes.iter().map(Bytes::len).sum::<usize>() as u64);
}

/// Opens the unsealed segment that an earlier start left.
async fn open_active(io: &Io, log: &SharedLog) -> io::Result<()> {
    let (dir, segments) = {
        let log = log.borrow();
        let is_open = log.active.is_some() || log.segments.last().is_none_or(|segment| segment.sealed);
        if is_open || log.deleted {
            return Ok(());
        }
        (log.dir.clone(), log.segments.clone())
    };
    let active = match ActiveSegment::reopen(io, &dir, &segments).await {
        Err(error) if DiskFault::is_of_file(&error) && !planted!(BadFileIsDiskFailure) => {
            log.borrow_mut().leave_segment(&error);
            return Ok(());
        }
        active => active?,
    };
    let mut log = log.borrow_mut();
    log.set_last_segment(active.segment);
    if active.has_unwritten() {
        (log.directory_dirty, log.dirty) = (true, true);
    }
    log.active = Some(active);
    Ok(())
}

/// The next bytes of `chunks` for one segment: up to a write's size, or to where the segment is full.
pub(super) fn next_piece<'a>(log: &Log, chunks: impl Iterator<Item = &'a Chunk>) -> Option<Piece> {
    if log.deleted {
        return None;
    }
    let segment = log.active.as_ref().map(|active| active.segment);
    let mut piece = Piece { chunks: Vec::new(), end_offset: 0, rolls: None };
    let (mut taken, mut size) = (0, segment.map_or(0, |segment| segment.size));
    for chunk in chunks {
        if taken > 0 && taken + chunk.bytes.len() > SEGMENT_WRITE_BYTES {
            break;
        }
        let mut part: Option<(Range<usize>, Range<i64>)> = None;
        let (mut position, mut ends) = (0, false);
        for batch in batches(&chunk.bytes) {
            let batch = batch.expect("a journal entry holds whole batches");
            let start = position;
            position += batch.total_size();
            if batch.base_offset() < log.drained_end_offset {
                continue;
            }
            let full = match segment.filter(|_| piece.rolls.is_none()) {
                None => piece.rolls.is_none(),
                Some(segment) => is_full(log, segment.base_offset, segment.first_timestamp, size, &batch),
            };
            if full && taken > 0 {
                ends = true;
                break;
            }
            if full {
                piece.rolls = Some(batch.base_offset());
                size = 0;
            }
            size += batch.total_size() as u64;
            taken += batch.total_size();
            piece.end_offset = batch.last_offset() + 1;
            let (bytes, offsets) = part.get_or_insert((start..start, batch.base_offset()..batch.base_offset()));
            (bytes.end, offsets.end) = (position, piece.end_offset);
            if piece.rolls.is_some() {
                // A new segment's first timestamp is known only now: the rest is judged against it.
                ends = true;
                break;
            }
        }
        piece.chunks.extend(part.map(|(bytes, offsets)| Chunk {
            base_offset: offsets.start,
            end_offset: offsets.end,
            bytes: chunk.bytes.slice(bytes),
            file_sequence: chunk.file_sequence,
        }));
        if ends {
            break;
        }
    }
    (taken > 0).then_some(piece)
}

/// Kafka's rule (LogSegment.shouldRoll): bytes, time by the records' own clock, offsets beyond 32 bits.
fn is_full(log: &Log, base_offset: i64, first_timestamp: i64, size: u64, batch: &BatchView<'_>) -> bool {
    let too_large = size > 0 && size + batch.total_size() as u64 > log.config.segment_bytes;
    let known = first_timestamp >= 0 && batch.max_timestamp() >= 0;
    let too_old = size > 0 && known && batch.max_timestamp().saturating_sub(first_timestamp) > log.config.segment_ms;
    let too_far = batch.last_offset() - base_offset > i64::from(i32::MAX);
    too_large || too_old || too_far
}

/// Seals the active segment, if there is one, and begins the next.
pub(super) async fn roll(io: &Io, log: &SharedLog, base_offset: i64) -> io::Result<()> {
    let (seal, dir, id, has_segments) = {
        let mut log = log.borrow_mut();
        let seal = log.active.as_mut().map(ActiveSegment::prepare_seal);
        (seal, log.dir.clone(), log.id.topic_id, !log.segments.is_empty())
    };
    if let Some(seal) = seal {
        match seal.run().await? {
            Some(error) => log.borrow_mut().leave_segment(&error),
            None => log.borrow_mut().seal_active(),
        }
    }
    if !has_segments {
        make_directory(io, &dir, id).await?;
    }
    let active = match ActiveSegment::create(io, &dir, base_offset).await {
        // The directory is gone with all that it held. What the journal has goes into a new one.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_directory(io, &dir, id).await?;
            ActiveSegment::create(io, &dir, base_offset).await?
        }
        active => active?,
    };
    let mut log = log.borrow_mut();
    log.segments.push(active.segment);
    log.active = Some(active);
    log.directory_dirty = true;
    log.dirty = true;
    Ok(())
}

/// Makes a partition's directory with Kafka's `partition.metadata` in it. One that is there already was
/// left by a crash before any checkpoint knew of it.
async fn make_directory(io: &Io, dir: &Path, topic_id: Uuid) -> io::Result<()> {
    match io.create_dir(dir).await {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let text = format!("version: 0\ntopic_id: {topic_id}");
    let file = io.open(&dir.join(PARTITION_METADATA), OpenMode::Create).await?;
    let mut block = Buffer::copy_of(text.as_bytes());
    block.pad_to_block();
    file.write_at(0, block.freeze()).await?;
    file.truncate(text.len() as u64).await?;
    file.sync().await?;
    io.sync_dir(dir.parent().expect("a partition's directory is in the data directory")).await
}

/// Makes the names of new files durable, before anything relies on what is in them.
pub(super) async fn sync_directory(io: &Io, log: &SharedLog) -> io::Result<()> {
    let directory = log.borrow().directory_dirty.then(|| log.borrow().dir.clone());
    if let Some(directory) = directory {
        sync_names(io, &directory).await?;
        log.borrow_mut().directory_dirty = false;
    }
    Ok(())
}

/// Makes what is drained durable (the active segment, its runs, the directory if it has new files), and
/// gives what a checkpoint may say of the log from now on. `None` if a drain is under way.
pub async fn flush(io: &Io, log: &SharedLog) -> io::Result<Option<LogRecord>> {
    let (sync, directory, record) = {
        let mut log = log.borrow_mut();
        if log.draining {
            return Ok(None);
        }
        log.draining = true;
        let makes_file = log.active.as_ref().is_some_and(ActiveSegment::makes_transaction_index);
        let directory = (log.directory_dirty || makes_file).then(|| log.dir.clone());
        if planted!(DirectoryForgottenAfterFullDisk) {
            log.directory_dirty = false;
        }
        // What is said of the log while the flush is under way is for the next one.
        log.dirty = false;
        (log.active.as_ref().map(ActiveSegment::prepare_sync), directory, log.record())
    };
    let (extent_bytes, result) = {
        let extent_bytes = log.borrow().extent_bytes;
        (extent_bytes, flush_files(io, sync.as_ref(), directory.as_deref()).await)
    };
    let mut log = log.borrow_mut();
    log.draining = false;
    log.dirty |= result.is_err();
    let lost_index = result?;
    log.extent_bytes -= extent_bytes;
    log.directory_dirty &= directory.is_none();
    match (lost_index, log.active.as_mut(), &sync) {
        // Its batches are on stable storage, and the index is made again from them.
        (Some(error), ..) => log.leave_segment(&error),
        (None, Some(active), Some(sync)) => active.synced(sync),
        _ => {}
    }
    Ok(Some(record))
}

/// Gives the error that has cost an index, if one has.
async fn flush_files(io: &Io, sync: Option<&SegmentSync>, directory: Option<&Path>) -> io::Result<Option<io::Error>> {
    if planted!(CheckpointAheadOfFlush) {
        return Ok(None);
    }
    let lost_index = match sync {
        Some(sync) => sync.run().await?,
        None => None,
    };
    match directory {
        Some(dir) => sync_names(io, dir).await.map(|()| lost_index),
        None => Ok(lost_index),
    }
}

/// Makes a directory's names durable. One that is gone has none.
async fn sync_names(io: &Io, dir: &Path) -> io::Result<()> {
    match io.sync_dir(dir).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            tracing::error!(dir = %dir.display(), "a partition's directory is gone, and its segments with it");
            Ok(())
        }
        result => result,
    }
}

#[cfg(test)]
mod tests;
