//! The metadata log: batches of records, in order, in two files that mirror each other.
//!
//! Few bytes that everything depends on: so each append is durable in both mirrors before it counts, and one
//! damaged byte, or one lost file, loses nothing. When the log has grown it is written anew as a snapshot, the
//! next generation. The invariant: at every moment, also in the middle of a compaction or of a repair, files
//! with their final names hold every acknowledged record. It does not know what records mean.
//!
//! Files of the directory: `log-a` and `log-b`; `log-a.new` and `log-b.new` while they are written anew. A new
//! pair is durable as a whole before `log-a` is replaced, and that before `log-b`; appends go on only after
//! both. So of two mirrors of different generations the newer one has all, and the older one lacks nothing.

mod frame;
mod recovery;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future::zip;
use thiserror::Error;

pub use frame::Batch;
use frame::{FRAMES_START, FileHeader, MAX_PAYLOAD_BYTES, Place};
use recovery::{Copy, Whole};

use crate::io::buffer::{BLOCK, Buffer, round_up};
use crate::io::fault::DiskFault;
use crate::io::{File, Io, OpenMode};

/// Most bytes of one batch's payload. 16 MiB.
pub const MAX_BATCH_BYTES: usize = MAX_PAYLOAD_BYTES;
/// Bytes of appends after which a compaction is worth its while, beside twice the snapshot's size. 4 MiB.
pub const COMPACT_AFTER_BYTES: u64 = 4 << 20;

const NAMES: [&str; 2] = ["log-a", "log-b"];
const NEW_NAMES: [&str; 2] = ["log-a.new", "log-b.new"];
/// By how much the files grow ahead of appends, so that a full disk refuses an append before it has begun.
const GROWTH_BYTES: u64 = 1 << 20;
/// The longest single read or write.
const CHUNK_BYTES: usize = 256 << 10;
/// How long a start waits for the writes of a process that has just died.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// Why the log cannot be opened.
#[derive(Debug, Error)]
pub enum MetadataLogError {
    /// Neither mirror can be read from its start.
    #[error("both files of the metadata log in {0} are damaged at their start; restore one of them from a backup")]
    NoHeader(PathBuf),
    /// Acknowledged records are damaged in both mirrors.
    #[error(
        "both files of the metadata log are damaged at byte {position}, and records follow that were acknowledged; \
         restore one of the files from a backup"
    )]
    Damaged {
        /// Where in the files.
        position: u64,
    },
    /// The device does not give what may be acknowledged records.
    #[error("neither file of the metadata log can be read from byte {position} on; the device returns errors")]
    Unreadable {
        /// Where in the files.
        position: u64,
    },
    /// Another process uses the files.
    #[error("{0} is locked by another process")]
    Locked(PathBuf),
    /// An operation failed.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Names the path of a failed operation.
trait At<T> {
    fn at(self, path: &Path) -> Result<T, MetadataLogError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, path: &Path) -> Result<T, MetadataLogError> {
        self.map_err(|source| MetadataLogError::Io { path: path.to_owned(), source })
    }
}

/// What the log held when it was opened.
#[derive(Debug)]
pub struct Recovered {
    /// The snapshot's batches, whose indexes mean nothing, then those after it.
    pub batches: Vec<Batch>,
    /// The index of the last record; −1 for none.
    pub last_index: i64,
    /// What was repaired, a sentence each.
    pub repairs: Vec<String>,
}

/// The open log. After a failed append it takes no more: what is on disk is then known only to a restart.
pub struct MetadataLog {
    io: Io,
    directory: PathBuf,
    files: [File; 2],
    header: FileHeader,
    /// Where the next frame goes: its place in the chain, and in the files.
    next: Place,
    position: u64,
    next_index: i64,
    /// How far the files have been grown.
    allocated: u64,
    /// Where a compaction is tried again after one that failed.
    compact_from: u64,
    failed: bool,
}

impl MetadataLog {
    /// Opens the log in `directory`, which is made if it is absent, and makes both mirrors whole.
    ///
    /// # Errors
    /// If acknowledged records are lost, or the disk fails.
    pub async fn open(io: &Io, directory: &Path) -> Result<(MetadataLog, Recovered), MetadataLogError> {
        make_directory(io, directory).await?;
        let finals = [read(io, directory, NAMES[0]).await?, read(io, directory, NAMES[1]).await?];
        let (log, recovered) = if finals.iter().all(Option::is_none) {
            // Nothing has been acknowledged before both files have their names.
            MetadataLog::create(io, directory).await?
        } else {
            MetadataLog::recover(io, directory, finals).await?
        };
        for name in NEW_NAMES {
            remove(io, &directory.join(name)).await?;
        }
        io.sync_dir(directory).await.at(directory)?;
        Ok((log, recovered))
    }

    async fn create(io: &Io, directory: &Path) -> Result<(MetadataLog, Recovered), MetadataLogError> {
        let header =
            FileHeader { generation: 1, nonce: io.random_u64(), snapshot_end: FRAMES_START as u64, snapshot_index: -1 };
        let content = header.encode().to_vec();
        let files = install(io, directory, &content).await?;
        let log = MetadataLog::at_end(io, directory, files, header, header.first_frame(), content.len(), 0);
        Ok((log, Recovered { batches: Vec::new(), last_index: -1, repairs: Vec::new() }))
    }

    async fn recover(
        io: &Io,
        directory: &Path,
        finals: [Option<(File, Copy)>; 2],
    ) -> Result<(MetadataLog, Recovered), MetadataLogError> {
        let headers = finals.iter().flatten().filter_map(|(_, copy)| copy.header());
        let newest = headers.max_by_key(|header| header.generation);
        // While the second mirror still waits for its new name it can help already.
        let news = [read(io, directory, NEW_NAMES[0]).await?, read(io, directory, NEW_NAMES[1]).await?];
        let header = newest.or_else(|| header_of_first(&finals, &news));
        let header = header.ok_or_else(|| MetadataLogError::NoHeader(directory.to_owned()))?;
        let all = finals.iter().chain(&news).flatten().map(|(_, copy)| copy);
        let copies: Vec<&Copy> = all.filter(|copy| copy.header() == Some(header)).collect();
        let whole = recovery::recover(&header, &copies)?;
        drop(news);
        let mut repairs = Vec::new();
        let [a, b] = finals;
        let files = [
            repair(io, directory, 0, a, &whole, &mut repairs).await?,
            repair(io, directory, 1, b, &whole, &mut repairs).await?,
        ];
        let Whole { content, batches, next, next_index } = whole;
        let log = MetadataLog::at_end(io, directory, files, header, next, content.len(), next_index);
        Ok((log, Recovered { batches, last_index: next_index - 1, repairs }))
    }

    fn at_end(
        io: &Io,
        directory: &Path,
        files: [File; 2],
        header: FileHeader,
        next: Place,
        position: usize,
        next_index: i64,
    ) -> MetadataLog {
        let position = position as u64;
        MetadataLog {
            io: io.clone(),
            directory: directory.to_owned(),
            files,
            header,
            next,
            position,
            next_index,
            allocated: position,
            compact_from: 0,
            failed: false,
        }
    }

    /// The index of the last record; −1 for none.
    pub fn last_index(&self) -> i64 {
        self.next_index - 1
    }

    /// Whether an append or a compaction has failed in such a way that only a restart can tell what is on disk.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// Appends a batch of `count` records; complete when it is durable in both mirrors. The index of its last
    /// record.
    ///
    /// # Errors
    /// `StorageFull` if the disk is full; nothing has happened then. With any other error the batch may or may
    /// not be found by the next start, and the log takes no more.
    ///
    /// # Panics
    /// If the payload is empty or larger than [`MAX_BATCH_BYTES`].
    pub async fn append(&mut self, term: i32, count: u32, payload: Bytes) -> io::Result<i64> {
        assert!(count > 0 && !payload.is_empty(), "a batch holds records");
        self.check_not_failed()?;
        let batch = Batch { term, index: self.next_index, count, payload };
        let (buffer, crc) = frame::encode(&self.next, &batch);
        let size = buffer.len() as u64;
        self.grow(self.position + size).await?;
        let bytes = buffer.freeze();
        // Failed until proved otherwise: also if this future is dropped half way.
        self.failed = true;
        let [a, b] = &self.files;
        let (a, b) =
            zip(a.write_durable_at(self.position, bytes.clone()), b.write_durable_at(self.position, bytes.clone()))
                .await;
        a.and(b)?;
        self.failed = false;
        self.position += size;
        self.next = self.next.after(crc);
        self.next_index += i64::from(count);
        Ok(self.last_index())
    }

    fn check_not_failed(&self) -> io::Result<()> {
        match self.failed {
            true => Err(io::Error::other("an earlier write of the metadata log failed; restart this broker")),
            false => Ok(()),
        }
    }

    /// Makes room up to `end`, in steps, and for one step more: on a full disk topics can then still be deleted.
    async fn grow(&mut self, end: u64) -> io::Result<()> {
        match self.allocate((end + GROWTH_BYTES).next_multiple_of(GROWTH_BYTES)).await {
            Err(error) if DiskFault::lack(&error).is_some() => self.allocate(end.next_multiple_of(GROWTH_BYTES)).await,
            result => result,
        }
    }

    async fn allocate(&mut self, end: u64) -> io::Result<()> {
        if end <= self.allocated {
            return Ok(());
        }
        for file in &self.files {
            match file.allocate(self.allocated, end - self.allocated).await {
                // Not every filesystem can; then the write itself makes the room.
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
                result => result?,
            }
        }
        self.allocated = end;
        Ok(())
    }

    /// Whether the log has grown so much that a snapshot should replace it.
    pub fn wants_compaction(&self) -> bool {
        let appended = self.position - self.header.snapshot_end;
        appended > COMPACT_AFTER_BYTES + 2 * self.header.snapshot_end && self.position >= self.compact_from
    }

    /// Replaces the log by a snapshot of it: `batches` of (count, payload), which together say what all records
    /// up to the last one say. Appends go on behind it.
    ///
    /// # Errors
    /// If the disk fails or is full. Nothing is lost; [`MetadataLog::has_failed`] says whether it may go on.
    pub async fn compact(&mut self, term: i32, batches: Vec<(u32, Bytes)>) -> Result<(), MetadataLogError> {
        self.check_not_failed().at(&self.directory)?;
        self.compact_from = self.position + GROWTH_BYTES;
        let (header, content, next) = self.snapshot(term, batches);
        let files = write_pair(&self.io, &self.directory, &content).await?;
        self.failed = true;
        rename_pair(&self.io, &self.directory).await?;
        self.failed = false;
        self.files = files;
        self.header = header;
        self.next = next;
        self.position = content.len() as u64;
        self.allocated = self.position;
        self.compact_from = 0;
        Ok(())
    }

    fn snapshot(&self, term: i32, batches: Vec<(u32, Bytes)>) -> (FileHeader, Vec<u8>, Place) {
        let mut header = FileHeader {
            generation: self.header.generation + 1,
            nonce: self.io.random_u64(),
            snapshot_end: 0,
            snapshot_index: self.last_index(),
        };
        let mut frames = Vec::new();
        let mut place = header.first_frame();
        for (count, payload) in batches {
            let batch = Batch { term, index: header.snapshot_index, count, payload };
            let (buffer, crc) = frame::encode(&place, &batch);
            frames.extend_from_slice(&buffer);
            place = place.after(crc);
        }
        header.snapshot_end = (FRAMES_START + frames.len()) as u64;
        let mut content = header.encode().to_vec();
        content.extend_from_slice(&frames);
        (header, content, place)
    }
}

/// The header of the very first pair, if only one of it has got its name, and that one is damaged: nothing has been
/// acknowledged then. Of any later pair both have had a name.
fn header_of_first(finals: &[Option<(File, Copy)>; 2], news: &[Option<(File, Copy)>; 2]) -> Option<FileHeader> {
    let waiting = finals.iter().zip(news).filter(|(named, _)| named.is_none()).find_map(|(_, new)| new.as_ref());
    waiting.and_then(|(_, copy)| copy.header()).filter(|header| header.generation == 1)
}

async fn make_directory(io: &Io, directory: &Path) -> Result<(), MetadataLogError> {
    match io.create_dir(directory).await {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        result => result.at(directory)?,
    }
    let parent = directory.parent().expect("the metadata's directory lies in the data directory");
    io.sync_dir(parent).await.at(parent)
}

async fn remove(io: &Io, path: &Path) -> Result<(), MetadataLogError> {
    match io.remove_file(path).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.at(path),
    }
}

/// Opens, locks and reads a file; `None` if there is none. With the lock no write of a dead process is pending.
async fn read(io: &Io, directory: &Path, name: &str) -> Result<Option<(File, Copy)>, MetadataLogError> {
    let path = directory.join(name);
    let file = match io.open(&path, OpenMode::ReadWrite).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result.at(&path)?,
    };
    lock(io, &file, &path).await?;
    let length = file.len().await.at(&path)? as usize;
    let mut copy = Copy { bytes: Vec::with_capacity(round_up(length)), unreadable_to: 0 };
    while copy.bytes.len() < length {
        read_chunk(&file, length, &mut copy).await;
    }
    copy.bytes.truncate(length);
    Ok(Some((file, copy)))
}

/// Reads on, as far as one chunk; block by block where that fails, with zeros for what cannot be read.
async fn read_chunk(file: &File, length: usize, copy: &mut Copy) {
    let start = copy.bytes.len();
    let end = round_up(length).min(start + CHUNK_BYTES);
    let whole = file.read_at(start as u64, end - start).await;
    match whole {
        Ok(bytes) => copy.bytes.extend_from_slice(&bytes),
        Err(_) => {
            for position in (start..end).step_by(BLOCK) {
                match file.read_at(position as u64, BLOCK).await {
                    Ok(bytes) => copy.bytes.extend_from_slice(&bytes),
                    Err(_) => copy.unreadable_to = position + BLOCK,
                }
                copy.bytes.resize(position + BLOCK, 0);
            }
        }
    }
    // A file that is shorter than it said ends here, with zeros.
    copy.bytes.resize(end, 0);
}

async fn lock(io: &Io, file: &File, path: &Path) -> Result<(), MetadataLogError> {
    let deadline = io.now() + LOCK_PATIENCE;
    while !file.try_lock().at(path)? {
        if io.now() >= deadline {
            return Err(MetadataLogError::Locked(path.to_owned()));
        }
        io.sleep(LOCK_RETRY).await;
    }
    Ok(())
}

/// Writes a file of another name with this content; durable, with its name, and locked.
async fn write_new(io: &Io, directory: &Path, which: usize, content: &[u8]) -> Result<File, MetadataLogError> {
    let path = directory.join(NEW_NAMES[which]);
    // Not written over: a dead process may still have a write to that one under way.
    remove(io, &path).await?;
    let file = io.open(&path, OpenMode::CreateNew).await.at(&path)?;
    lock(io, &file, &path).await?;
    for (position, chunk) in (0..).step_by(CHUNK_BYTES).zip(content.chunks(CHUNK_BYTES)) {
        file.write_at(position, Buffer::copy_of(chunk).freeze()).await.at(&path)?;
    }
    file.sync().await.at(&path)?;
    io.sync_dir(directory).await.at(directory)?;
    Ok(file)
}

async fn rename_new(io: &Io, directory: &Path, which: usize) -> Result<(), MetadataLogError> {
    let (from, to) = (directory.join(NEW_NAMES[which]), directory.join(NAMES[which]));
    io.rename(&from, &to).await.at(&to)?;
    io.sync_dir(directory).await.at(directory)
}

async fn write_pair(io: &Io, directory: &Path, content: &[u8]) -> Result<[File; 2], MetadataLogError> {
    Ok([write_new(io, directory, 0, content).await?, write_new(io, directory, 1, content).await?])
}

async fn rename_pair(io: &Io, directory: &Path) -> Result<(), MetadataLogError> {
    rename_new(io, directory, 0).await?;
    rename_new(io, directory, 1).await
}

async fn install(io: &Io, directory: &Path, content: &[u8]) -> Result<[File; 2], MetadataLogError> {
    let files = write_pair(io, directory, content).await?;
    rename_pair(io, directory).await?;
    Ok(files)
}

/// Makes one mirror whole: flushes it if it is, for what was read may sit in a volatile cache; else replaces it.
async fn repair(
    io: &Io,
    directory: &Path,
    which: usize,
    found: Option<(File, Copy)>,
    whole: &Whole,
    repairs: &mut Vec<String>,
) -> Result<File, MetadataLogError> {
    let path = directory.join(NAMES[which]);
    let what = match found {
        Some((file, copy)) if copy.is_exactly(&whole.content) => {
            file.sync().await.at(&path)?;
            return Ok(file);
        }
        Some((_, copy)) if copy.unreadable_to == 0 && copy.bytes.starts_with(&whole.content) => {
            "ended in an append that was never acknowledged; it was taken off"
        }
        Some(_) => "was damaged, behind or unfinished; it was written anew from its mirror",
        None => "was missing; it was written anew from its mirror",
    };
    repairs.push(format!("{} {what}", path.display()));
    let file = write_new(io, directory, which, &whole.content).await?;
    rename_new(io, directory, which).await?;
    Ok(file)
}
