//! A transaction index whose file is gone or damaged, made again from the batches of the log.
//!
//! A transaction may have begun in an earlier segment than its marker is in, so that the segment alone does not say
//! all. The log is walked through from ever earlier segments, until what comes out has the checksum that the manifest
//! keeps. If nothing has, because earlier records are deleted or damaged too, the whole log is what there is to know.
//! Invariant: what then cannot be known is not left out. A transaction that was open where batches are lost stands in
//! the index as [`AbortedTransaction::UNKNOWN`] up to there, and no reader gets past such an entry.

use std::io;
use std::path::Path;

use super::{AbortedTransaction, IndexWrite, checksum, is_loss};
use crate::io::buffer::{BLOCK, round_up};
use crate::io::{File, Io, OpenMode};
use crate::log::offset_index::Run;
use crate::log::producer_state::ProducerStates;
use crate::log::segment::{self, Segment};
use crate::record::batch::batches;

/// The transactions whose abort markers the last of `segments` holds. They are all segments of the log up to it.
///
/// # Errors
/// If the segments cannot be read. Damage in them is no error.
pub async fn rebuild(io: &Io, dir: &Path, segments: &[Segment]) -> io::Result<Vec<AbortedTransaction>> {
    let Some(last) = segments.last() else { return Ok(Vec::new()) };
    tracing::warn!(
        segment = last.base_offset,
        dir = %dir.display(),
        "the transaction index is missing or damaged; rebuilding it from the batches"
    );
    let mut walked = 1;
    loop {
        let entries = walk(io, dir, &segments[segments.len() - walked..], Gaps::Pass).await?;
        if is_as_recorded(last, &entries) {
            return Ok(entries);
        }
        if walked == segments.len() {
            return walk(io, dir, segments, Gaps::Heed).await;
        }
        walked = (2 * walked + 1).min(segments.len());
    }
}

/// Whether the entries are those that the manifest knows of.
pub fn is_as_recorded(segment: &Segment, entries: &[AbortedTransaction]) -> bool {
    entries.len() == segment.aborted as usize && checksum(0, entries) == segment.aborted_crc
}

/// Puts a sealed segment's entries into its file. Another rebuild is all that a crash in the midst of it costs.
pub async fn store(io: &Io, dir: &Path, segment: &Segment, entries: &[AbortedTransaction]) -> io::Result<()> {
    IndexWrite::new(io, segment.transaction_index_path(dir), entries, 0, true).run().await?;
    io.sync_dir(dir).await
}

/// What to make of offsets without batches.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gaps {
    /// Nothing: whoever wrote the index passed over them too, or the checksum tells.
    Pass,
    /// Whatever was open before them may have ended there.
    Heed,
}

/// A walk through batches.
struct Walk {
    producers: ProducerStates,
    found: Vec<AbortedTransaction>,
    /// Where the next batch is to begin.
    offset: i64,
    gaps: Gaps,
}

/// Walks through the segments; gives what the index of the last one is to hold.
async fn walk(io: &Io, dir: &Path, segments: &[Segment], gaps: Gaps) -> io::Result<Vec<AbortedTransaction>> {
    let (Some(first), Some(last)) = (segments.first(), segments.last()) else { return Ok(Vec::new()) };
    let mut walk = Walk { producers: ProducerStates::default(), found: Vec::new(), offset: first.base_offset, gaps };
    for segment in segments {
        if let Some((file, runs)) = open(io, dir, segment).await? {
            walk.take_segment(&file, &runs).await?;
        }
    }
    walk.pass_to(last.end_offset);
    walk.found.retain(|entry| entry.is_unknown() || entry.last_offset >= last.base_offset);
    Ok(walk.found)
}

/// A segment's file and runs; `None` if it is lost.
async fn open(io: &Io, dir: &Path, segment: &Segment) -> io::Result<Option<(File, Vec<Run>)>> {
    let opened = async {
        let file = io.open(&segment.log_path(dir), OpenMode::Read).await?;
        let mut runs = segment::load_index(io, dir, segment).await?;
        runs.extend(segment.open_run);
        Ok((file, runs))
    };
    match opened.await {
        Ok(opened) => Ok(Some(opened)),
        Err(error) if is_loss(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Walk {
    async fn take_segment(&mut self, file: &File, runs: &[Run]) -> io::Result<()> {
        for run in runs {
            let start = run.position - run.position % BLOCK as u64;
            let (from, to) = ((run.position - start) as usize, (run.end_position() - start) as usize);
            let bytes = file.read_at(start, round_up(to)).await?;
            if let Some(bytes) = bytes.get(from..to).filter(|bytes| crc32c::crc32c(bytes) == run.crc) {
                self.take(bytes);
            }
        }
        Ok(())
    }

    fn take(&mut self, run: &[u8]) {
        for batch in batches(run).map_while(Result::ok) {
            self.pass_to(batch.base_offset());
            let ended = self.producers.note(&batch, batch.base_offset());
            self.found.extend(ended.and_then(|ended| ended.aborted));
            self.offset = batch.last_offset() + 1;
        }
    }

    /// The next batch begins here; between is a gap, if anything is.
    fn pass_to(&mut self, offset: i64) {
        if offset <= self.offset || self.gaps == Gaps::Pass {
            return;
        }
        if let Some(first_offset) = self.producers.first_open_offset() {
            self.found.push(AbortedTransaction {
                producer_id: AbortedTransaction::UNKNOWN,
                first_offset,
                last_offset: offset - 1,
                last_stable_offset: first_offset,
            });
        }
        // What they write behind the gap counts as a transaction's beginning, and so it is for who reads there.
        self.producers = ProducerStates::default();
        self.offset = offset;
    }
}
