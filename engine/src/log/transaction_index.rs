//! The aborted transactions of a segment, in Kafka's `.txnindex` format.
//!
//! A transaction stands in the index of the segment that holds its abort marker, in the order of the
//! markers. Entries are 34 bytes, big endian: version i16 = 0, producer id, first offset, marker's offset,
//! and the last stable offset behind the marker (each i64). Kafka's format has no checksum, so the manifest
//! keeps one over all entries of a segment: a flipped bit must not turn an aborted record into a committed
//! one. A file that is gone or does not match is made again from the batches ([`rebuild`]). What lies behind the
//! drained end is rebuilt from the journal. It knows no producers.

pub mod rebuild;

use std::io;
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut, Bytes};

use super::segment::{Segment, open_alone};
use crate::io::buffer::{Buffer, round_down, round_up};
use crate::io::{Io, OpenMode};

/// Bytes of an entry on disk.
pub const ENTRY_BYTES: usize = 34;

const VERSION: i16 = 0;

/// A transaction that was aborted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// Whose.
    pub producer_id: i64,
    /// The offset of its first record in the partition.
    pub first_offset: i64,
    /// The offset of its marker.
    pub last_offset: i64,
    /// The last stable offset once the marker stands: no transaction that begins before it ends later.
    pub last_stable_offset: i64,
}

impl AbortedTransaction {
    /// Stands for the producer where nobody can say any more which transactions were aborted.
    pub const UNKNOWN: i64 = -1;

    /// Whether it stands for transactions that are not known any more.
    pub fn is_unknown(&self) -> bool {
        self.producer_id == AbortedTransaction::UNKNOWN
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.put_i16(VERSION);
        out.put_i64(self.producer_id);
        out.put_i64(self.first_offset);
        out.put_i64(self.last_offset);
        out.put_i64(self.last_stable_offset);
    }

    fn decode(bytes: &mut &[u8]) -> Option<AbortedTransaction> {
        if bytes.try_get_i16().ok()? != VERSION {
            return None;
        }
        Some(AbortedTransaction {
            producer_id: bytes.try_get_i64().ok()?,
            first_offset: bytes.try_get_i64().ok()?,
            last_offset: bytes.try_get_i64().ok()?,
            last_stable_offset: bytes.try_get_i64().ok()?,
        })
    }
}

/// The checksum of entries, from that of those before them.
pub fn checksum(before: u32, entries: &[AbortedTransaction]) -> u32 {
    let mut bytes = Vec::with_capacity(entries.len() * ENTRY_BYTES);
    entries.iter().for_each(|entry| entry.encode(&mut bytes));
    crc32c::crc32c_append(before, &bytes)
}

/// A write to an index, whose file is opened only when there is something to write.
pub struct IndexWrite {
    io: Io,
    path: PathBuf,
    position: u64,
    bytes: Bytes,
    /// The exact length, once the segment is complete.
    cut: Option<u64>,
}

impl IndexWrite {
    /// Puts `entries[written..]` behind the first `written`, and cuts the file to its length if they are `complete`.
    pub fn new(io: &Io, path: PathBuf, entries: &[AbortedTransaction], written: usize, complete: bool) -> IndexWrite {
        let (position, bytes) = write(entries, written);
        let cut = complete.then(|| (entries.len() * ENTRY_BYTES) as u64);
        IndexWrite { io: io.clone(), path, position, bytes, cut }
    }

    /// Writes and flushes. The name in the directory is the caller's to make durable.
    ///
    /// # Errors
    /// If the disk fails.
    pub async fn run(&self) -> io::Result<()> {
        let file = open_alone(&self.io, &self.path, OpenMode::Create).await?;
        if !self.bytes.is_empty() {
            file.write_at(self.position, self.bytes.clone()).await?;
        }
        if let Some(length) = self.cut {
            file.truncate(length).await?;
        }
        file.sync().await
    }
}

/// The block-aligned write that puts `entries[written..]` into the file behind the first `written`.
fn write(entries: &[AbortedTransaction], written: usize) -> (u64, Bytes) {
    let position = round_down(written * ENTRY_BYTES);
    let first = position / ENTRY_BYTES;
    let mut bytes = Vec::with_capacity((entries.len() - first) * ENTRY_BYTES);
    entries[first..].iter().for_each(|entry| entry.encode(&mut bytes));
    let mut buffer = Buffer::copy_of(&bytes[position - first * ENTRY_BYTES..]);
    buffer.pad_to_block();
    (position as u64, buffer.freeze())
}

/// A segment's entries.
#[derive(Debug)]
pub struct Loaded {
    /// In the order of the markers.
    pub entries: Vec<AbortedTransaction>,
    /// Whether its file holds them; they are rebuilt if not.
    pub in_file: bool,
}

/// The entries of the last of `segments`, which are all of the log up to it: from its file, or else rebuilt. The file of
/// a sealed segment is mended with them.
///
/// # Errors
/// If neither the file nor the segments can be read.
pub async fn load_or_rebuild(io: &Io, dir: &Path, segments: &[Segment]) -> io::Result<Loaded> {
    let Some(segment) = segments.last() else { return Ok(Loaded { entries: Vec::new(), in_file: true }) };
    match load(io, dir, segment).await {
        Ok(entries) => return Ok(Loaded { entries, in_file: true }),
        Err(error) if is_loss(&error) => {}
        Err(error) => return Err(error),
    }
    let entries = rebuild::rebuild(io, dir, segments).await?;
    let mut in_file = false;
    if segment.sealed && rebuild::is_as_recorded(segment, &entries) {
        match rebuild::store(io, dir, segment, &entries).await {
            Ok(()) => in_file = true,
            Err(error) => tracing::warn!(
                segment = segment.base_offset,
                dir = %dir.display(),
                "the transaction index stays damaged: {error}"
            ),
        }
    }
    Ok(Loaded { entries, in_file })
}

/// Whether a file is gone or holds other bytes than were written.
fn is_loss(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::NotFound)
}

/// The entries that the manifest says a segment has.
///
/// # Errors
/// `InvalidData` if the file does not hold them as they were written, `NotFound` if there is none.
async fn load(io: &Io, dir: &Path, segment: &Segment) -> io::Result<Vec<AbortedTransaction>> {
    if segment.aborted == 0 {
        return Ok(Vec::new());
    }
    let length = segment.aborted as usize * ENTRY_BYTES;
    let path = segment.transaction_index_path(dir);
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", path.display()));
    let file = io.open(&path, OpenMode::Read).await?;
    let read = file.read_at(0, round_up(length)).await?;
    let mut bytes = read.get(..length).ok_or_else(damaged)?;
    if crc32c::crc32c(bytes) != segment.aborted_crc {
        return Err(damaged());
    }
    (0..segment.aborted).map(|_| AbortedTransaction::decode(&mut bytes)).collect::<Option<_>>().ok_or_else(damaged)
}

/// Gathers the transactions of which `[from, to)` may hold records; true when no later entry can add one.
/// `entries` are in the order of their markers.
pub fn collect<'a>(
    entries: impl IntoIterator<Item = &'a AbortedTransaction>,
    from: i64,
    to: i64,
    found: &mut Vec<AbortedTransaction>,
) -> bool {
    for entry in entries {
        if entry.last_offset >= from && entry.first_offset < to {
            found.push(*entry);
        }
        if entry.last_stable_offset >= to {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(producer_id: i64, first_offset: i64, last_offset: i64, last_stable_offset: i64) -> AbortedTransaction {
        AbortedTransaction { producer_id, first_offset, last_offset, last_stable_offset }
    }

    #[test]
    fn entries_have_kafkas_bytes_and_survive() {
        let one = entry(1, 2, 3, 4);
        let mut bytes = Vec::new();
        one.encode(&mut bytes);
        let mut expected = vec![0, 0];
        [1i64, 2, 3, 4].iter().for_each(|field| expected.extend(field.to_be_bytes()));
        assert_eq!((bytes.len(), &bytes), (ENTRY_BYTES, &expected));
        assert_eq!(AbortedTransaction::decode(&mut &bytes[..]), Some(one));
    }

    #[test]
    fn appending_writes_whole_blocks_that_repeat_what_is_there() {
        let all: Vec<_> = (0..500).map(|at| entry(at, at * 2, at * 2 + 1, at * 2 + 2)).collect();
        let mut file = vec![0; 32 << 10];
        for (written, upto) in [(0, 3), (3, 3), (3, 130), (130, 241), (241, 500)] {
            let (position, bytes) = write(&all[..upto], written);
            file[position as usize..position as usize + bytes.len()].copy_from_slice(&bytes);
            let mut stored = &file[..];
            let read: Vec<_> =
                (0..upto).map(|_| AbortedTransaction::decode(&mut stored).expect("it was written")).collect();
            assert_eq!(read, all[..upto]);
        }
        assert_eq!(checksum(checksum(0, &all[..7]), &all[7..]), crc32c::crc32c(&file[..500 * ENTRY_BYTES]));
    }

    #[test]
    fn a_read_gets_what_overlaps_it_and_stops_when_all_is_known() {
        // Producer 2 began before producer 1 and ended later.
        let entries = [entry(1, 10, 20, 5), entry(2, 5, 30, 31), entry(3, 40, 50, 51)];
        let of = |from, to| {
            let mut found = Vec::new();
            let done = collect(&entries, from, to, &mut found);
            (found.iter().map(|entry| entry.producer_id).collect::<Vec<_>>(), done)
        };
        assert_eq!(of(0, 8), (vec![2], true));
        assert_eq!(of(0, 15), (vec![1, 2], true));
        assert_eq!(of(21, 31), (vec![2], true));
        assert_eq!(of(31, 45), (vec![3], true));
        assert_eq!(of(31, 60), (vec![3], false));
    }
}
