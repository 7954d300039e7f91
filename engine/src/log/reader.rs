//! Reading a log: from the tail's memory, or whole checked runs from a segment.
//!
//! Invariant: no byte from disk is handed out that does not match the checksum of its run. Where a fault has hit a run
//! all of it is damaged: a batch's own CRC says nothing of its partition, so that a misdirected block may hold one that
//! is whole, fits in, and is another partition's.

use std::cell::{OnceCell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use bytes::Bytes;

use super::PartitionId;
use super::drain::SharedLog;
use super::offset_index::{self, Run};
use super::partition_log::Log;
use super::segment::{self, Segment};
use super::tail::Taken;
use super::transaction_index::{self, AbortedTransaction};
use crate::io::buffer::{BLOCK, round_up};
use crate::io::{BYTES_PER_COST, File, Io, OpenMode, Pace};
use crate::limits::{CACHED_INDEXES, DISK_READ_BYTES};
use crate::record::batch::BatchView;
use crate::record::{Scratch, TimestampType};

/// What a read found.
#[derive(Debug)]
pub enum Found {
    /// Whole batches; none if there is nothing below the bound.
    Batches(Vec<Bytes>),
    /// The record at this offset was destroyed by a fault.
    Damaged,
}

/// A sealed or reopened segment's file and runs, kept for the next read.
struct Opened {
    key: (PartitionId, i64),
    sealed: bool,
    file: File,
    runs: Rc<Vec<Run>>,
    /// Its aborted transactions, once someone has asked for them.
    aborted: OnceCell<Rc<Vec<AbortedTransaction>>>,
}

/// Segments that one core has open for reading, the one used longest ago goes first.
#[derive(Clone, Default)]
pub struct OpenSegments(Rc<RefCell<VecDeque<Rc<Opened>>>>);

impl OpenSegments {
    /// Forgets the segments of a partition whose topic is gone.
    pub fn forget(&self, id: PartitionId) {
        self.0.borrow_mut().retain(|opened| opened.key.0 != id);
    }

    fn get(&self, id: PartitionId, segment: &Segment) -> Option<Rc<Opened>> {
        let mut cache = self.0.borrow_mut();
        let at = cache.iter().rposition(|opened| opened.key == (id, segment.base_offset) && opened.sealed)?;
        let opened = cache.remove(at)?;
        cache.push_back(opened.clone());
        Some(opened)
    }

    fn put(&self, opened: Rc<Opened>) {
        let mut cache = self.0.borrow_mut();
        if cache.len() >= CACHED_INDEXES {
            cache.pop_front();
        }
        cache.push_back(opened);
    }
}

/// A read from a segment that is ready to be done without the log.
struct DiskRead {
    id: PartitionId,
    dir: PathBuf,
    segment: Segment,
    active: Option<(File, Vec<Run>)>,
}

/// Reads whole batches from the one that holds `offset` on, of those that end at or before `end_offset`, up to
/// `max_bytes`; if `at_least_one`, the first even if it is larger. `offset` lies within the log.
pub async fn read(
    io: &Io,
    log: &SharedLog,
    opened: &OpenSegments,
    offset: i64,
    end_offset: i64,
    max_bytes: usize,
    at_least_one: bool,
) -> io::Result<Found> {
    if offset >= end_offset || (max_bytes == 0 && !at_least_one) {
        return Ok(Found::Batches(Vec::new()));
    }
    let mut end_offset = end_offset;
    let disk = {
        let log = log.borrow();
        if log.damage_at(offset).is_some() {
            return Ok(Found::Damaged);
        }
        // Whoever reads on meets the damage and is told; a gap in an answer would pass for a compacted log.
        end_offset = end_offset.min(log.damage_behind(offset));
        if let Some(chunks) = log.tail.read(offset, end_offset, max_bytes, at_least_one) {
            return Ok(Found::Batches(chunks));
        }
        plan(&log, offset)
    };
    let Some(disk) = disk else { return Ok(Found::Batches(Vec::new())) };
    disk.run(io, opened, offset, end_offset, max_bytes, at_least_one).await
}

/// The aborted transactions of which `[offset, end_offset)` may hold records, in the order of their markers.
/// All transactions that begin there have ended: the range lies below the last stable offset.
///
/// # Errors
/// `InvalidData` if an index and what it is rebuilt from are damaged, so that nobody can say what was aborted there.
pub async fn aborted_transactions(
    io: &Io,
    log: &SharedLog,
    opened: &OpenSegments,
    offset: i64,
    end_offset: i64,
) -> io::Result<Vec<AbortedTransaction>> {
    let mut found = Vec::new();
    let mut from = offset;
    loop {
        let (dir, id, segments) = {
            let log = log.borrow();
            let at = log.segments.partition_point(|segment| segment.end_offset <= from);
            let with_aborted = (at..log.segments.len()).find(|at| log.segments[*at].aborted > 0);
            let active = log.active.as_ref().filter(|active| {
                with_aborted.is_none_or(|at| log.segments[at].base_offset == active.segment.base_offset)
            });
            if with_aborted.is_none() || active.is_some() {
                let in_segment = active.filter(|active| active.segment.end_offset > from).map(|active| &active.aborted);
                let rest = in_segment.into_iter().flatten().chain(&log.aborted);
                transaction_index::collect(rest, offset, end_offset, &mut found);
                return known(found);
            }
            (log.dir.clone(), log.id, log.segments[..=with_aborted.expect("there is one")].to_vec())
        };
        let segment = segments.last().expect("there is one");
        let cached = opened.get(id, segment);
        let loaded = cached.as_ref().and_then(|opened| opened.aborted.get().cloned());
        let entries = match loaded {
            Some(entries) => entries,
            None => Rc::new(transaction_index::load_or_rebuild(io, &dir, &segments).await?.entries),
        };
        if let Some(opened) = cached {
            opened.aborted.get_or_init(|| entries.clone());
        }
        if transaction_index::collect(&*entries, offset, end_offset, &mut found) {
            return known(found);
        }
        from = segment.end_offset;
    }
}

/// The transactions, if none of them stands for what is not known any more.
fn known(found: Vec<AbortedTransaction>) -> io::Result<Vec<AbortedTransaction>> {
    match found.iter().find(|entry| entry.is_unknown()) {
        Some(lost) => {
            let (from, to) = (lost.first_offset, lost.last_offset);
            let why = format!("which transactions from {from} to {to} were aborted is lost");
            Err(io::Error::new(io::ErrorKind::InvalidData, why))
        }
        None => Ok(found),
    }
}

fn plan(log: &Log, offset: i64) -> Option<DiskRead> {
    let at = log.segments.partition_point(|segment| segment.end_offset <= offset);
    let segment = *log.segments.get(at)?;
    // While a drain holds the active segment, it is read as the manifest last knew it.
    let active = log.active.as_ref().filter(|active| active.segment.base_offset == segment.base_offset);
    let active = active
        .map(|active| (active.file().clone(), active.runs.iter().copied().chain(active.segment.open_run).collect()));
    Some(DiskRead { id: log.id, dir: log.dir.clone(), segment, active })
}

impl DiskRead {
    async fn open(&self, io: &Io, opened: &OpenSegments) -> io::Result<(File, Rc<Vec<Run>>)> {
        if let Some((file, runs)) = &self.active {
            return Ok((file.clone(), Rc::new(runs.clone())));
        }
        if let Some(opened) = opened.get(self.id, &self.segment) {
            return Ok((opened.file.clone(), opened.runs.clone()));
        }
        let file = io.open(&self.segment.log_path(&self.dir), OpenMode::Read).await?;
        let mut runs = segment::load_index(io, &self.dir, &self.segment).await?;
        runs.extend(self.segment.open_run);
        let runs = Rc::new(runs);
        if self.segment.sealed {
            let key = (self.id, self.segment.base_offset);
            let aborted = OnceCell::new();
            opened.put(Rc::new(Opened { key, sealed: true, file: file.clone(), runs: runs.clone(), aborted }));
        }
        Ok((file, runs))
    }

    async fn run(
        self,
        io: &Io,
        opened: &OpenSegments,
        offset: i64,
        end_offset: i64,
        max_bytes: usize,
        at_least_one: bool,
    ) -> io::Result<Found> {
        let (file, runs) = self.open(io, opened).await?;
        let first = offset_index::find(&runs, offset);
        // No run where there must be one: of an index that was rebuilt, its batches are damaged.
        let Some(first_run) = runs.get(first).copied().filter(|run| run.base_offset <= offset) else {
            return Ok(Found::Damaged);
        };
        let wanted = max_bytes.min(DISK_READ_BYTES) as u64;
        let mut last = first;
        while runs
            .get(last + 1)
            .filter(|run| run.base_offset == runs[last].end_offset)
            .is_some_and(|run| run.end_position() - first_run.position <= wanted && run.base_offset < end_offset)
        {
            last += 1;
        }
        let start = first_run.position - first_run.position % BLOCK as u64;
        let end = runs[last].end_position();
        let bytes = file.read_at(start, round_up((end - start) as usize)).await?.freeze();
        let mut taken = Taken { chunks: Vec::new(), bytes: 0, max_bytes, at_least_one };
        for run in &runs[first..=last] {
            let from = (run.position - start) as usize;
            let to = (from + run.length as usize).min(bytes.len());
            let run_bytes = bytes.slice(from.min(to)..to);
            if run_bytes.len() == run.length as usize
                && (planted!(NoCrcAtRecovery) || crc32c::crc32c(&run_bytes) == run.crc)
            {
                if !take_bounded(&mut taken, &run_bytes, run, offset, end_offset) {
                    break;
                }
                continue;
            }
            tracing::error!(partition = %self.id, base_offset = run.base_offset, "a run of the segment does not match its checksum");
            // None of its batches: one that passes its own CRC may have been meant for another place.
            if taken.chunks.is_empty() {
                return Ok(Found::Damaged);
            }
            break;
        }
        Ok(Found::Batches(taken.chunks))
    }
}

/// Takes the batches of a whole run that end at or before `end_offset`.
fn take_bounded(taken: &mut Taken, bytes: &Bytes, run: &Run, offset: i64, end_offset: i64) -> bool {
    if run.end_offset <= end_offset {
        return taken.take(bytes, run.base_offset, offset);
    }
    let mut to = 0;
    for batch in crate::record::batch::batches(bytes) {
        match batch {
            Ok(batch) if batch.last_offset() < end_offset => to += batch.total_size(),
            _ => break,
        }
    }
    taken.take(&bytes.slice(..to), run.base_offset, offset);
    false
}

/// A record found by its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimedOffset {
    /// The record's timestamp in milliseconds.
    pub timestamp: i64,
    /// Its offset.
    pub offset: i64,
    /// The epoch of its batch.
    pub leader_epoch: i32,
}

/// What to look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The first record with this timestamp or a later one.
    AtOrAfter(i64),
    /// The first record with the greatest timestamp of all.
    Greatest,
}

/// Looks for a record by its time among those below `end_offset`. Segments and runs that cannot hold it are
/// passed over by what their index says; the others are read.
pub async fn find_by_time(
    io: &Io,
    log: &SharedLog,
    opened: &OpenSegments,
    wanted: Wanted,
    end_offset: i64,
    scratch: &mut Scratch,
) -> io::Result<Option<TimedOffset>> {
    let target = match wanted {
        Wanted::AtOrAfter(timestamp) => timestamp,
        Wanted::Greatest => match greatest_timestamp(&log.borrow(), end_offset) {
            Some(timestamp) => timestamp,
            None => return Ok(None),
        },
    };
    let mut offset = log.borrow().log_start_offset();
    let start = offset;
    let pace = Pace::new(io);
    loop {
        let Some(from) = next_candidate(io, log, opened, offset, target).await? else { return Ok(None) };
        let Found::Batches(chunks) = read(io, log, opened, from, end_offset, 1, true).await? else {
            offset = log.borrow().damage_at(from).map_or(from + 1, |range| range.1);
            continue;
        };
        let Some(bytes) = chunks.first() else { return Ok(None) };
        for batch in crate::record::batch::batches(bytes).flatten() {
            if let Some(found) = first_in_batch(&batch, target, start, scratch, &pace).await {
                return Ok(Some(found));
            }
            offset = batch.last_offset() + 1;
        }
    }
}

fn greatest_timestamp(log: &Log, end_offset: i64) -> Option<i64> {
    let segments = log.segments.iter().filter(|segment| segment.size > 0).map(|segment| segment.max_timestamp);
    let chunks = log.tail.from(log.drained_end_offset).filter(|chunk| chunk.end_offset <= end_offset);
    let tail = chunks.filter_map(|chunk| BatchView::parse(&chunk.bytes).ok().map(|batch| batch.max_timestamp()));
    segments.chain(tail).max()
}

/// The first offset at or behind `offset` from which a batch with a time of `target` or later may start.
async fn next_candidate(
    io: &Io,
    log: &SharedLog,
    opened: &OpenSegments,
    mut offset: i64,
    target: i64,
) -> io::Result<Option<i64>> {
    loop {
        let disk = {
            let log = log.borrow();
            if offset >= log.drained_end_offset {
                let chunks = log.tail.from(offset);
                let later = |bytes: &Bytes| BatchView::parse(bytes).is_ok_and(|batch| batch.max_timestamp() >= target);
                return Ok(chunks.into_iter().find(|chunk| later(&chunk.bytes)).map(|chunk| chunk.base_offset));
            }
            let segment =
                log.segments.iter().find(|segment| segment.end_offset > offset && segment.max_timestamp >= target);
            match segment {
                Some(segment) => {
                    offset = offset.max(segment.base_offset);
                    plan(&log, offset)
                }
                None => None,
            }
        };
        let Some(disk) = disk else {
            offset = log.borrow().drained_end_offset;
            continue;
        };
        let end = disk.segment.end_offset;
        let (_, runs) = disk.open(io, opened).await?;
        let run = runs.iter().find(|run| run.end_offset > offset && run.max_timestamp >= target);
        match run {
            Some(run) => return Ok(Some(offset.max(run.base_offset))),
            None => offset = end,
        }
    }
}

async fn first_in_batch(
    batch: &BatchView<'_>,
    target: i64,
    start: i64,
    scratch: &mut Scratch,
    pace: &Pace,
) -> Option<TimedOffset> {
    if batch.max_timestamp() < target {
        return None;
    }
    let leader_epoch = batch.partition_leader_epoch();
    if batch.attributes().timestamp_type() == TimestampType::LogAppendTime {
        return Some(TimedOffset {
            timestamp: batch.max_timestamp(),
            offset: batch.base_offset().max(start),
            leader_epoch,
        });
    }
    let wanted = |timestamp, offset| timestamp >= target && offset >= start;
    let work = async |bytes: usize| pace.spend(bytes.div_ceil(BYTES_PER_COST)).await;
    let (timestamp, offset) = batch.first_record(scratch, wanted, &work).await?;
    Some(TimedOffset { timestamp, offset, leader_epoch })
}
