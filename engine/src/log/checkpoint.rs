//! The checkpoint of a journal: how far each partition is in its segments, and from which file a replay starts.
//!
//! Two files with the same frames, so that one damaged block loses nothing: a *generation* begins with a
//! frame that holds every partition and goes on with frames that hold those that changed. Frames are
//! chained by checksum and carry generation and index. A generation gets its name when its first frame is durable in
//! both files: one that has a name and is whole in neither is damaged, whereas a start that did not come so far
//! leaves nothing but `.new`. Invariant: a frame is written only after everything that it claims is flushed, and
//! journal files are given up only after the frame is durable in both files.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut, Bytes};

use super::PartitionId;
use super::partition_log::LogRecord;
use crate::io::buffer::{BLOCK, Buffer, round_up};
use crate::io::{File, Io, OpenMode};
use crate::protocol::Uuid;

const MAGIC: u32 = u32::from_le_bytes(*b"CLCP");
/// 2: open transactions, coordinator epochs and counts of aborted transactions came in. 3: the checksum begins with the
/// name of the directory, so that a misdirected write gives no journal the checkpoint of another.
const VERSION: u16 = 3;
/// A frame's flag: [`ReplayStart::is_end`].
const IS_END: u16 = 1;
const HEADER_BYTES: usize = 40;
/// A generation is written anew when its changes outgrow it by this.
const SLACK_BYTES: u64 = 1 << 20;

/// Where the replay of a journal starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplayStart {
    /// The journal's id.
    pub journal: [u8; 16],
    /// The first file that is still needed.
    pub file_sequence: u64,
    /// The last group known when the checkpoint was made: numbering never goes back behind it.
    pub last_sequence: u64,
    /// After a clean stop: that first file is still to be begun. Otherwise it is there, or lost.
    pub is_end: bool,
}

/// What a checkpoint says.
#[derive(Debug, Clone)]
pub struct Contents {
    /// Its generation.
    pub generation: u64,
    /// Where the replay starts.
    pub start: ReplayStart,
    /// Every partition's record.
    pub logs: BTreeMap<PartitionId, LogRecord>,
}

/// The checkpoint files of one journal, open for writing.
pub struct Checkpoint {
    io: Io,
    dir: PathBuf,
    generation: u64,
    /// Generations that the next one replaces.
    superseded: Vec<u64>,
    files: Option<[File; 2]>,
    position: u64,
    snapshot_bytes: u64,
    index: u32,
    last_crc: u32,
}

fn path(dir: &Path, generation: u64, mirror: usize) -> PathBuf {
    dir.join(format!("checkpoint-{generation:016}-{}", ["a", "b"][mirror]))
}

/// Where it is until it has its name.
fn new_path(dir: &Path, generation: u64, mirror: usize) -> PathBuf {
    path(dir, generation, mirror).with_added_extension("new")
}

impl Checkpoint {
    /// The successor of `generation`; the first write makes its files.
    pub fn after(io: Io, dir: PathBuf, generation: u64) -> Checkpoint {
        Checkpoint {
            io,
            dir,
            generation,
            superseded: Vec::new(),
            files: None,
            position: 0,
            snapshot_bytes: 0,
            index: 0,
            last_crc: 0,
        }
    }

    /// Whether the next frame must hold every partition.
    pub fn wants_snapshot(&self) -> bool {
        self.files.is_none() || self.position > self.snapshot_bytes * 3 + SLACK_BYTES
    }

    /// A write has failed: what is behind the last whole frame is not to be relied on, nor added to.
    pub fn begin_anew(&mut self) {
        if self.files.take().is_some() {
            self.superseded.push(self.generation);
        }
    }

    /// Begins a new generation with every partition; the older ones are removed once this one is durable.
    pub async fn write_snapshot<'a>(
        &mut self,
        start: ReplayStart,
        logs: impl Iterator<Item = &'a LogRecord>,
    ) -> io::Result<()> {
        self.begin_anew();
        self.generation += 1;
        // Until it is durable it is one of those that the next one replaces, whatever there is of it.
        self.superseded.push(self.generation);
        (self.position, self.index, self.last_crc) = (0, 0, 0);
        let mode = OpenMode::Create;
        let first = self.io.open(&new_path(&self.dir, self.generation, 0), mode).await?;
        let second = self.io.open(&new_path(&self.dir, self.generation, 1), mode).await?;
        self.files = Some([first, second]);
        self.write(start, logs, &[]).await?;
        self.snapshot_bytes = self.position;
        for mirror in 0..2 {
            let named = path(&self.dir, self.generation, mirror);
            self.io.rename(&new_path(&self.dir, self.generation, mirror), &named).await?;
        }
        self.io.sync_dir(&self.dir).await?;
        self.superseded.retain(|superseded| *superseded != self.generation);
        // An older one that stayed would ask for journal files that are given up next.
        while let Some(superseded) = self.superseded.last().copied() {
            remove_generation(&self.io, &self.dir, superseded).await?;
            self.superseded.pop();
        }
        Ok(())
    }

    /// Adds a frame with the partitions that changed and those that are gone.
    pub async fn write_changes<'a>(
        &mut self,
        start: ReplayStart,
        logs: impl Iterator<Item = &'a LogRecord>,
        removed: &[PartitionId],
    ) -> io::Result<()> {
        self.write(start, logs, removed).await
    }

    async fn write<'a>(
        &mut self,
        start: ReplayStart,
        logs: impl Iterator<Item = &'a LogRecord>,
        removed: &[PartitionId],
    ) -> io::Result<()> {
        let frame = self.encode(start, logs, removed);
        let files = self.files.clone().expect("a generation begins with a snapshot");
        for file in files {
            file.write_durable_at(self.position, frame.clone()).await?;
        }
        self.position += frame.len() as u64;
        self.index += 1;
        Ok(())
    }

    fn encode<'a>(
        &mut self,
        start: ReplayStart,
        logs: impl Iterator<Item = &'a LogRecord>,
        removed: &[PartitionId],
    ) -> Bytes {
        let mut body = Vec::new();
        body.put_slice(&start.journal);
        body.put_u64_le(start.file_sequence);
        body.put_u64_le(start.last_sequence);
        let count_at = body.len();
        body.put_u32_le(0);
        let mut count = 0u32;
        for log in logs {
            log.encode(&mut body);
            count += 1;
        }
        body[count_at..count_at + 4].copy_from_slice(&count.to_le_bytes());
        body.put_u32_le(removed.len() as u32);
        for id in removed {
            body.put_slice(&id.topic_id.0);
            body.put_i32_le(id.partition);
        }
        let mut frame = Vec::with_capacity(HEADER_BYTES + body.len());
        frame.put_u32_le(MAGIC);
        frame.put_u16_le(VERSION);
        frame.put_u16_le(if start.is_end { IS_END } else { 0 });
        frame.put_u64_le(self.generation);
        frame.put_u32_le(self.index);
        frame.put_u32_le(self.last_crc);
        frame.put_u64_le(body.len() as u64);
        let crc = checksum(&self.dir, &frame, &body);
        frame.put_u32_le(crc);
        frame.put_u32_le(0);
        debug_assert_eq!(frame.len(), HEADER_BYTES);
        frame.extend_from_slice(&body);
        self.last_crc = crc;
        let mut buffer = Buffer::copy_of(&frame);
        buffer.pad_to_block();
        buffer.freeze()
    }

    /// The generation that is being written.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Bytes in both files.
    pub fn size_bytes(&self) -> u64 {
        2 * self.position
    }
}

async fn remove_generation(io: &Io, dir: &Path, generation: u64) -> io::Result<()> {
    for path in (0..2).flat_map(|mirror| [path(dir, generation, mirror), new_path(dir, generation, mirror)]) {
        match io.remove_file(&path).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    io.sync_dir(dir).await
}

/// Removes every generation but `keep`.
pub async fn remove_others(io: &Io, dir: &Path, keep: Option<u64>) -> io::Result<()> {
    for generation in generations(io, dir).await? {
        if Some(generation) != keep {
            remove_generation(io, dir, generation).await?;
        }
    }
    Ok(())
}

async fn generations(io: &Io, dir: &Path) -> io::Result<Vec<u64>> {
    let entries = io.read_dir(dir).await?;
    let mut found: Vec<u64> = entries
        .iter()
        .filter_map(|entry| entry.name.strip_prefix("checkpoint-")?.split('-').next()?.parse().ok())
        .collect();
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// What a directory's complete generations say, newest first, and the newest number seen. There is more
/// than one only after a crash in the midst of a change of generation, or of a start. A frame that is whole
/// in neither file ends a generation: it was being written, and nothing relied on it.
///
/// # Errors
/// `InvalidData` if there are generations with a name and none is whole.
pub async fn load(io: &Io, dir: &Path) -> io::Result<(Vec<Contents>, u64)> {
    let mut found = Vec::new();
    let numbers = generations(io, dir).await?;
    let mut is_any_named = false;
    for generation in numbers.iter().copied().rev() {
        let named = [read(io, &path(dir, generation, 0)).await?, read(io, &path(dir, generation, 1)).await?];
        if named.iter().all(Option::is_none) {
            continue;
        }
        is_any_named = true;
        // While the second still waits for its name it can help already.
        let new = [read(io, &new_path(dir, generation, 0)).await?, read(io, &new_path(dir, generation, 1)).await?];
        let mirrors: Vec<Bytes> = named.into_iter().chain(new).flatten().collect();
        found.extend(parse(dir, &mirrors, generation));
    }
    if found.is_empty() && is_any_named {
        let what = format!("no checkpoint in {} is readable: both copies are damaged", dir.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok((found, numbers.last().copied().unwrap_or(0)))
}

/// All of a file, zeros where it cannot be read, which the other copy may make good; `None` if there is none.
async fn read(io: &Io, path: &Path) -> io::Result<Option<Bytes>> {
    match io.open(path, OpenMode::Read).await {
        Ok(file) => {
            let len = file.len().await?;
            let (bytes, unreadable) = file.read_around_faults(io, 0, round_up(len as usize)).await?;
            if !unreadable.is_empty() {
                tracing::error!(path = %path.display(), blocks = unreadable.len(), "a checkpoint's copy cannot be read whole");
            }
            Ok(Some(bytes.freeze()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn checksum(dir: &Path, header: &[u8], body: &[u8]) -> u32 {
    let name = dir.file_name().map_or(&[][..], |name| name.as_encoded_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(name), header), body)
}

fn parse(dir: &Path, mirrors: &[Bytes], generation: u64) -> Option<Contents> {
    let mut contents: Option<Contents> = None;
    let (mut position, mut index, mut last_crc) = (0, 0, 0);
    while let Some((flags, body, crc)) =
        mirrors.iter().find_map(|bytes| frame(dir, bytes.get(position..)?, generation, index, last_crc))
    {
        contents = Some(apply(contents, flags, body, generation)?);
        position += round_up(HEADER_BYTES + body.len());
        index += 1;
        last_crc = crc;
    }
    contents
}

/// The flags, body and CRC of the frame at the start of `bytes`, if it is the expected one and whole.
fn frame<'a>(dir: &Path, bytes: &'a [u8], generation: u64, index: u32, last_crc: u32) -> Option<(u16, &'a [u8], u32)> {
    let mut header = bytes.get(..HEADER_BYTES)?;
    let checked = &bytes[..HEADER_BYTES - 8];
    if header.get_u32_le() != MAGIC || header.get_u16_le() != VERSION {
        return None;
    }
    let flags = header.get_u16_le();
    let place = (header.get_u64_le(), header.get_u32_le(), header.get_u32_le());
    let length = usize::try_from(header.get_u64_le()).ok()?;
    let crc = header.get_u32_le();
    let body = bytes.get(HEADER_BYTES..HEADER_BYTES.checked_add(length)?)?;
    let whole = checksum(dir, checked, body) == crc;
    (whole && place == (generation, index, last_crc)).then_some((flags, body, crc))
}

fn apply(contents: Option<Contents>, flags: u16, mut body: &[u8], generation: u64) -> Option<Contents> {
    let body = &mut body;
    let mut journal = [0; 16];
    body.try_copy_to_slice(&mut journal).ok()?;
    let (file_sequence, last_sequence) = (body.try_get_u64_le().ok()?, body.try_get_u64_le().ok()?);
    let start = ReplayStart { journal, file_sequence, last_sequence, is_end: flags & IS_END != 0 };
    let mut contents = contents.unwrap_or(Contents { generation, start, logs: BTreeMap::new() });
    contents.start = start;
    for _ in 0..body.try_get_u32_le().ok()? {
        let log = LogRecord::decode(body)?;
        contents.logs.insert(log.id, log);
    }
    for _ in 0..body.try_get_u32_le().ok()? {
        let mut topic_id = [0; 16];
        body.try_copy_to_slice(&mut topic_id).ok()?;
        contents.logs.remove(&PartitionId { topic_id: Uuid(topic_id), partition: body.try_get_i32_le().ok()? });
    }
    Some(contents)
}

const _: () = assert!(HEADER_BYTES <= BLOCK);
