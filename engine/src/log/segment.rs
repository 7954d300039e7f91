//! Segment files: Kafka's own format, `<base offset in 20 digits>.log`, and beside each its `.index` of runs.
//!
//! A segment grows at its end by whole-block writes; the last block is kept in memory and written again with
//! what follows. A block is only ever rewritten with the same bytes at its front, so that a tear between two
//! sectors cannot harm what is there. The end of an unsealed segment is what the checkpoint and the journal
//! say, never what a scan of its bytes finds; a sealed one is cut to its exact length.

use std::io;
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut, Bytes};

use super::journal;
use super::offset_index::{ENTRY_BYTES, Run};
use super::transaction_index::{self, AbortedTransaction, IndexWrite, Loaded};
use crate::io::buffer::{BLOCK, Buffer, round_down, round_up};
use crate::io::fault::DiskFault;
use crate::io::{File, Io, OpenMode};
use crate::limits::{RUN_BYTES, SEGMENT_STEP};
use crate::record::batch::{BatchView, batches};

/// What is known of a segment without opening it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// The offset that names it.
    pub base_offset: i64,
    /// One past its last offset.
    pub end_offset: i64,
    /// Its bytes.
    pub size: u64,
    /// The first batch's greatest timestamp; rolling by time counts from it.
    pub first_timestamp: i64,
    /// The greatest timestamp.
    pub max_timestamp: i64,
    /// Runs that its index file holds.
    pub runs: u32,
    /// The last run, which still grows; only of an unsealed segment.
    pub open_run: Option<Run>,
    /// Aborted transactions that its transaction index holds.
    pub aborted: u32,
    /// CRC-32C over their entries.
    pub aborted_crc: u32,
    /// Whether it is complete and cut to its length.
    pub sealed: bool,
}

impl Segment {
    /// An empty one.
    pub fn new(base_offset: i64) -> Segment {
        Segment {
            base_offset,
            end_offset: base_offset,
            size: 0,
            first_timestamp: -1,
            max_timestamp: -1,
            runs: 0,
            open_run: None,
            aborted: 0,
            aborted_crc: 0,
            sealed: false,
        }
    }

    /// Its file of batches in the partition's directory.
    pub fn log_path(&self, dir: &Path) -> PathBuf {
        dir.join(format!("{:020}.log", self.base_offset))
    }

    /// Its file of runs.
    pub fn index_path(&self, dir: &Path) -> PathBuf {
        dir.join(format!("{:020}.index", self.base_offset))
    }

    /// Its file of aborted transactions; there is none if it has no such.
    pub fn transaction_index_path(&self, dir: &Path) -> PathBuf {
        dir.join(format!("{:020}.txnindex", self.base_offset))
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_i64_le(self.base_offset);
        out.put_i64_le(self.end_offset);
        out.put_u64_le(self.size);
        out.put_i64_le(self.first_timestamp);
        out.put_i64_le(self.max_timestamp);
        out.put_u32_le(self.runs);
        out.put_u32_le(self.aborted);
        out.put_u32_le(self.aborted_crc);
        out.put_u8(u8::from(self.sealed) | u8::from(self.open_run.is_some()) << 1);
        if let Some(run) = &self.open_run {
            run.encode(out);
        }
    }

    pub(super) fn decode(bytes: &mut &[u8]) -> Option<Segment> {
        let mut segment = Segment {
            base_offset: bytes.try_get_i64_le().ok()?,
            end_offset: bytes.try_get_i64_le().ok()?,
            size: bytes.try_get_u64_le().ok()?,
            first_timestamp: bytes.try_get_i64_le().ok()?,
            max_timestamp: bytes.try_get_i64_le().ok()?,
            runs: bytes.try_get_u32_le().ok()?,
            open_run: None,
            aborted: bytes.try_get_u32_le().ok()?,
            aborted_crc: bytes.try_get_u32_le().ok()?,
            sealed: false,
        };
        let flags = bytes.try_get_u8().ok()?;
        segment.sealed = flags & 1 != 0;
        if flags & 2 != 0 {
            segment.open_run = Some(Run::decode(bytes)?);
            bytes.advance(ENTRY_BYTES);
        }
        Some(segment)
    }
}

/// The unsealed segment with its open files.
pub struct ActiveSegment {
    /// What the manifest will say of it.
    pub segment: Segment,
    /// Its closed runs, oldest first.
    pub runs: Vec<Run>,
    /// Transactions whose abort markers it holds, in their order.
    pub aborted: Vec<AbortedTransaction>,
    io: Io,
    dir: PathBuf,
    file: File,
    index: File,
    /// Runs that are in the index file already.
    indexed: usize,
    /// Aborted transactions that are in their file already.
    aborted_written: usize,
    /// The bytes of the last, incomplete block.
    partial: Vec<u8>,
    allocated: u64,
}

impl ActiveSegment {
    /// Makes a new segment's files. The caller syncs the directory before it relies on them.
    pub async fn create(io: &Io, dir: &Path, base_offset: i64) -> io::Result<ActiveSegment> {
        let segment = Segment::new(base_offset);
        let (file, index) = open_files(io, dir, &segment, OpenMode::Create).await?;
        Ok(ActiveSegment {
            segment,
            runs: Vec::new(),
            aborted: Vec::new(),
            io: io.clone(),
            dir: dir.to_owned(),
            file,
            index,
            indexed: 0,
            aborted_written: 0,
            partial: Vec::new(),
            allocated: 0,
        })
    }

    /// Opens a segment that an earlier start left unsealed: the last of `segments`, which are all of the log.
    pub async fn reopen(io: &Io, dir: &Path, segments: &[Segment]) -> io::Result<ActiveSegment> {
        let mut segment = *segments.last().expect("there is one to open");
        let (file, index) = open_files(io, dir, &segment, OpenMode::ReadWrite).await?;
        let runs = load_index(io, dir, &segment).await?;
        let Loaded { entries: aborted, in_file } = transaction_index::load_or_rebuild(io, dir, segments).await?;
        // What is rebuilt is written as a whole, and the next checkpoint knows it.
        let aborted_written = if in_file { aborted.len() } else { 0 };
        (segment.aborted, segment.aborted_crc) = (aborted.len() as u32, transaction_index::checksum(0, &aborted));
        let (partial, intact) = load_last_block(&file, &segment).await?;
        let indexed = runs.len().min(segment.runs as usize);
        let mut active = ActiveSegment {
            segment,
            runs,
            aborted,
            aborted_written,
            io: io.clone(),
            dir: dir.to_owned(),
            file,
            index,
            indexed,
            partial,
            allocated: segment.size,
        };
        if !intact {
            // Damage stays in the run that has it: what follows starts another one.
            active.close_run();
        }
        Ok(active)
    }

    /// The write that puts `chunks`, whole batches, behind the last one.
    pub fn prepare_append(&self, chunks: &[Bytes]) -> SegmentWrite {
        let added: usize = chunks.iter().map(Bytes::len).sum();
        let mut buffer = Buffer::with_capacity(round_up(self.partial.len() + added));
        buffer.extend_from_slice(&self.partial);
        chunks.iter().for_each(|chunk| buffer.extend_from_slice(chunk));
        let partial = buffer[round_down(buffer.len())..].to_vec();
        buffer.pad_to_block();
        let position = self.segment.size - self.partial.len() as u64;
        let allocate = self.allocation(position + buffer.len() as u64);
        SegmentWrite { file: self.file.clone(), allocate, position, bytes: buffer.freeze(), partial }
    }

    fn allocation(&self, end: u64) -> Option<(u64, u64)> {
        // Steps grow with the segment, so that a large one is not a heap of small extents.
        let step = SEGMENT_STEP.max((self.segment.size / 4).next_multiple_of(SEGMENT_STEP)).min(64 * SEGMENT_STEP);
        (end > self.allocated).then(|| (self.allocated, end.next_multiple_of(step) - self.allocated))
    }

    /// The write is complete: the batches are part of the segment.
    pub fn appended(&mut self, chunks: &[Bytes], write: SegmentWrite) {
        self.partial = write.partial;
        if let Some((from, len)) = write.allocate {
            self.allocated = from + len;
        }
        for chunk in chunks {
            for batch in batches(chunk) {
                self.count(&batch.expect("a journal entry holds whole batches"));
            }
        }
    }

    fn count(&mut self, batch: &BatchView<'_>) {
        let segment = &mut self.segment;
        if segment.size == 0 {
            segment.first_timestamp = batch.max_timestamp();
        }
        let (end_offset, max_timestamp) = (batch.last_offset() + 1, batch.max_timestamp());
        let contiguous = segment.open_run.is_some_and(|run| run.end_offset == batch.base_offset());
        if !contiguous || segment.open_run.is_some_and(|run| run.length as usize + batch.total_size() > RUN_BYTES) {
            self.close_run();
        }
        let segment = &mut self.segment;
        let run = segment.open_run.unwrap_or(Run {
            base_offset: batch.base_offset(),
            end_offset: batch.base_offset(),
            position: segment.size,
            length: 0,
            crc: 0,
            max_timestamp,
        });
        segment.open_run = Some(run.extended(batch));
        segment.size += batch.total_size() as u64;
        segment.end_offset = end_offset;
        segment.max_timestamp = segment.max_timestamp.max(max_timestamp);
    }

    fn close_run(&mut self) {
        self.runs.extend(self.segment.open_run.take());
        self.segment.runs = self.runs.len() as u32;
    }

    /// Markers that were appended to it ended these transactions.
    pub fn add_aborted(&mut self, aborted: &[AbortedTransaction]) {
        self.aborted.extend_from_slice(aborted);
        self.segment.aborted = self.aborted.len() as u32;
        self.segment.aborted_crc = transaction_index::checksum(self.segment.aborted_crc, aborted);
    }

    /// Whether it has aborted transactions that are in no file yet.
    pub fn has_unwritten(&self) -> bool {
        self.aborted_written < self.aborted.len()
    }

    /// What makes the batches, their closed runs and their aborted transactions durable as they are now.
    pub fn prepare_sync(&self) -> SegmentSync {
        SegmentSync {
            file: self.file.clone(),
            index: self.index.clone(),
            entries: self.index_write(),
            runs: self.runs.len(),
            transactions: self.transactions_write(false),
            aborted: self.aborted.len(),
            cut: None,
        }
    }

    fn transactions_write(&self, complete: bool) -> Option<IndexWrite> {
        if self.aborted_written == self.aborted.len() && (!complete || self.aborted.is_empty()) {
            return None;
        }
        let path = self.segment.transaction_index_path(&self.dir);
        Some(IndexWrite::new(&self.io, path, &self.aborted, self.aborted_written, complete))
    }

    fn index_write(&self) -> Option<(u64, Bytes)> {
        if self.indexed == self.runs.len() {
            return None;
        }
        let position = round_down(self.indexed * ENTRY_BYTES);
        let first = position / ENTRY_BYTES;
        let mut entries = Vec::with_capacity((self.runs.len() - first) * ENTRY_BYTES);
        self.runs[first..].iter().for_each(|run| run.encode(&mut entries));
        let mut buffer = Buffer::copy_of(&entries[position - first * ENTRY_BYTES..]);
        buffer.pad_to_block();
        Some((position as u64, buffer.freeze()))
    }

    /// Whether the next sync makes a file, whose name is to be durable too.
    pub fn makes_transaction_index(&self) -> bool {
        self.aborted_written == 0 && !self.aborted.is_empty()
    }

    /// The sync is complete.
    pub fn synced(&mut self, sync: &SegmentSync) {
        self.indexed = sync.runs;
        self.aborted_written = sync.aborted;
    }

    /// What seals the segment: no batch follows any more, both files are cut to their exact length. It
    /// counts as sealed when the checkpoint says so.
    pub fn prepare_seal(&mut self) -> SegmentSync {
        self.close_run();
        let cut = Some((self.segment.size, (self.runs.len() * ENTRY_BYTES) as u64));
        SegmentSync { cut, transactions: self.transactions_write(true), ..self.prepare_sync() }
    }

    /// The file of batches, for reading.
    pub fn file(&self) -> &File {
        &self.file
    }
}

/// A write to a segment, to be run while the segment may be read.
pub struct SegmentWrite {
    file: File,
    allocate: Option<(u64, u64)>,
    position: u64,
    bytes: Bytes,
    partial: Vec<u8>,
}

impl SegmentWrite {
    /// Writes. Nothing is durable by it.
    pub async fn run(&self) -> io::Result<()> {
        self.make_room().await?;
        self.file.write_at(self.position, self.bytes.clone()).await
    }

    /// Writes, and flushes what was written.
    pub async fn run_durable(&self) -> io::Result<()> {
        self.make_room().await?;
        self.file.write_durable_at(self.position, self.bytes.clone()).await
    }

    async fn make_room(&self) -> io::Result<()> {
        match self.allocate {
            Some((from, len)) => self.file.allocate(from, len).await,
            None => Ok(()),
        }
    }
}

/// A flush of a segment, to be run while the segment may be read.
pub struct SegmentSync {
    file: File,
    index: File,
    entries: Option<(u64, Bytes)>,
    runs: usize,
    transactions: Option<IndexWrite>,
    aborted: usize,
    cut: Option<(u64, u64)>,
}

impl SegmentSync {
    /// Flushes. An error of a flush voids what was not durable before; it is not tried again. Where only an index
    /// could not be written, which can be made again from the batches, its error is the result.
    pub async fn run(&self) -> io::Result<Option<io::Error>> {
        let lost_index = match self.write_indexes().await {
            Err(error) if DiskFault::is_of_file(&error) => Some(error),
            result => result.map(|()| None)?,
        };
        self.file.sync().await?;
        if lost_index.is_none() && (self.entries.is_some() || self.cut.is_some()) {
            self.index.sync().await?;
        }
        Ok(lost_index)
    }

    async fn write_indexes(&self) -> io::Result<()> {
        if let Some((position, entries)) = &self.entries {
            self.index.write_at(*position, entries.clone()).await?;
        }
        if let Some((log_bytes, index_bytes)) = self.cut {
            self.file.truncate(log_bytes).await?;
            self.index.truncate(index_bytes).await?;
        }
        match &self.transactions {
            Some(transactions) => transactions.run().await,
            None => Ok(()),
        }
    }
}

async fn open_files(io: &Io, dir: &Path, segment: &Segment, mode: OpenMode) -> io::Result<(File, File)> {
    let file = open_alone(io, &segment.log_path(dir), mode).await?;
    Ok((file, open_alone(io, &segment.index_path(dir), OpenMode::Create).await?))
}

/// Opens a file to be written, when nobody else writes it any more: a write of a process that was killed may still be in
/// the kernel's hands, and would put the zeros behind its end over what is written now.
pub(super) async fn open_alone(io: &Io, path: &Path, mode: OpenMode) -> io::Result<File> {
    let file = io.open(path, mode).await?;
    journal::lock(io, &file).await?;
    Ok(file)
}

/// The bytes of the last, incomplete block, and whether the open run matches its checksum.
async fn load_last_block(file: &File, segment: &Segment) -> io::Result<(Vec<u8>, bool)> {
    let block_start = segment.size - segment.size % BLOCK as u64;
    let from = segment.open_run.map_or(block_start, |run| run.position.min(block_start));
    let aligned = from - from % BLOCK as u64;
    let bytes = file.read_at(aligned, round_up((segment.size - aligned) as usize)).await?;
    if (bytes.len() as u64) < segment.size - aligned {
        return Err(lacking(segment));
    }
    let used = &bytes[..(segment.size - aligned) as usize];
    let intact =
        segment.open_run.is_none_or(|run| crc32c::crc32c(&used[(run.position - aligned) as usize..]) == run.crc);
    Ok((used[(block_start - aligned) as usize..].to_vec(), intact))
}

fn lacking(segment: &Segment) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!(
            "segment {:020} is shorter than the {} bytes that the checkpoint names",
            segment.base_offset, segment.size
        ),
    )
}

/// The closed runs of a segment, from its index file; where that is damaged, rebuilt from batches that pass
/// their own CRC and follow each other.
pub async fn load_index(io: &Io, dir: &Path, segment: &Segment) -> io::Result<Vec<Run>> {
    if segment.runs == 0 {
        return Ok(Vec::new());
    }
    let wanted = segment.runs as usize * ENTRY_BYTES;
    let read = match io.open(&segment.index_path(dir), OpenMode::Read).await {
        Ok(file) => file.read_at(0, round_up(wanted)).await?.to_vec(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let mut runs = Vec::with_capacity(segment.runs as usize);
    for index in 0..segment.runs as usize {
        let entry = read.get(index * ENTRY_BYTES..).and_then(Run::decode);
        runs.push(entry.filter(|run| run.end_position() <= segment.size));
    }
    if runs.iter().all(Option::is_some) {
        return Ok(runs.into_iter().flatten().collect());
    }
    tracing::warn!(segment = segment.base_offset, dir = %dir.display(), "the offset index is damaged; rebuilding it from the batches");
    rebuild_index(io, dir, segment, &runs).await
}

/// Fills the holes of an index by walking the batches between the entries that are whole.
async fn rebuild_index(io: &Io, dir: &Path, segment: &Segment, known: &[Option<Run>]) -> io::Result<Vec<Run>> {
    let file = io.open(&segment.log_path(dir), OpenMode::Read).await?;
    let end = segment.open_run.map_or(segment.size, |run| run.position);
    let mut runs: Vec<Run> = Vec::new();
    let (mut position, mut offset) = (0, segment.base_offset);
    let mut known = known.iter().flatten().copied().peekable();
    while position < end {
        while known.peek().is_some_and(|run| run.position < position) {
            known.next();
        }
        if let Some(run) = known.next_if(|run| run.position == position) {
            (position, offset) = (run.end_position(), run.end_offset);
            runs.push(run);
            continue;
        }
        let hole_end = known.peek().map_or(end, |run| run.position);
        let aligned = position - position % BLOCK as u64;
        let bytes = file.read_at(aligned, round_up((hole_end - aligned) as usize)).await?;
        let hole =
            bytes.get((position - aligned) as usize..(hole_end - aligned) as usize).ok_or_else(|| lacking(segment))?;
        runs.extend(walk(hole, position, offset));
        (position, offset) = (hole_end, known.peek().map_or(segment.end_offset, |run| run.base_offset));
    }
    Ok(runs)
}

/// Runs of the batches in `bytes` that are whole and follow each other from `offset` on.
fn walk(bytes: &[u8], start: u64, mut offset: i64) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut position = start;
    for batch in batches(bytes) {
        let Ok(batch) = batch else { break };
        if !batch.crc_ok() || batch.base_offset() < offset {
            break;
        }
        offset = batch.last_offset() + 1;
        let grown = runs.last_mut().filter(|run| {
            run.length as usize + batch.total_size() <= RUN_BYTES && run.end_offset == batch.base_offset()
        });
        match grown {
            Some(run) => *run = run.extended(&batch),
            None => runs.push(
                Run {
                    base_offset: batch.base_offset(),
                    end_offset: offset,
                    position,
                    length: 0,
                    crc: 0,
                    max_timestamp: -1,
                }
                .extended(&batch),
            ),
        }
        position += batch.total_size() as u64;
    }
    runs
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::io::sim::{CrashKind, FaultClass, Faults, World};
    use crate::record::BatchBuilder;

    const DIR: &str = "/t-0";

    fn chunk(number: usize) -> Bytes {
        let mut batch = BatchBuilder::new();
        batch.append(1, None, Some(&[number as u8; 700]), &[]);
        let mut bytes = batch.finish();
        crate::record::batch::set_base_offset(&mut bytes, number as i64);
        bytes.into()
    }

    /// Makes the segment and appends so many batches one by one.
    async fn write(io: Io, batches: usize) {
        let _ = io.create_dir(Path::new(DIR)).await;
        let mut active = ActiveSegment::create(&io, Path::new(DIR), 0).await.expect("a disk that works");
        for number in 0..batches {
            let write = active.prepare_append(&[chunk(number)]);
            write.run().await.expect("a disk that works");
            active.appended(&[chunk(number)], write);
        }
    }

    #[test]
    fn what_a_killed_process_still_writes_is_waited_for() {
        let mut in_flight = 0;
        for seed in 0..60 {
            let world = World::new(seed, Faults { stall: 0.3, ..Faults::none() });
            let node = world.add_node();
            world.start(node, 1, |io| write(io, 8));
            world.run_for(Duration::from_millis(2));
            world.crash(node, CrashKind::Kill);
            in_flight += world.coverage().count(FaultClass::KillInFlight);
            world.set_faults(Faults::none());
            world.block_on(node, |io| write(io, 16));
            world.run_for(Duration::from_secs(20));
            let path = Segment::new(0).log_path(Path::new(DIR));
            let content = world.file_content(node, &path).expect("the segment");
            let whole: usize = (0..16).map(|number| chunk(number).len()).sum();
            let found = batches(&content[..whole]).filter(|batch| batch.as_ref().is_ok_and(BatchView::crc_ok)).count();
            assert_eq!(found, 16, "seed {seed}");
        }
        assert!(in_flight >= 5, "writes were under way at the kill: {in_flight}");
    }
}
