//! The way back after a crash: checkpoints, then journals; no scan of segments.
//!
//! A group that is bad is *corrupt* if something later of the same journal says that it had been synced, and
//! *torn* otherwise. Nothing behind a torn group was ever acknowledged: it is left alone, and the next file's
//! header cuts it off. The offsets of a corrupt group are known from the group behind it; they stay taken,
//! and are answered CORRUPT_MESSAGE. Where two neighbours are lost, a partition whose end cannot be proved
//! takes no produce until an operator accepts the loss. Everything that was read is flushed before it is
//! believed: after a kill the data may sit in the device's cache alone.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::PartitionId;
use super::checkpoint::{self, Contents};
use super::direct::Extent;
use super::group::{Entry, EntryKind, FILE_GROUPS_START, FileHeader, Group, GroupPlace, Lineage};
use super::journal::{JournalStart, file_number, lock};
use super::partition_log::LogRecord;
use crate::io::buffer::{BLOCK, Buffer, round_up};
use crate::io::fault::DiskFault;
use crate::io::{File, Io, OpenMode};
use crate::limits::GROUP_BYTES;
use crate::record::batch::batches;

/// What a group may have besides its payload: its own directory and the previous one's.
const DIRECTORY_BYTES: usize = 64 << 10;

/// A log as it was found.
#[derive(Debug)]
pub struct RecoveredLog {
    /// What the newest checkpoint says, with the journal's news of its start.
    pub record: LogRecord,
    /// What follows the drained end, in order.
    pub pieces: Vec<Piece>,
}

/// A piece of a log behind its drained end.
#[derive(Debug)]
pub enum Piece {
    /// Whole batches.
    Bytes(Entry, Bytes),
    /// Whole batches that lie in a segment; of them those from the entry's base offset on.
    Extent(Entry, Extent),
    /// Offsets up to this one are taken, but their records are destroyed.
    Damaged(i64),
}

/// A journal as it was found.
#[derive(Debug, Clone)]
pub struct RecoveredJournal {
    /// Its directory.
    pub dir: PathBuf,
    /// Where it goes on.
    pub start: JournalStart,
    /// Its files that hold something of this start's replay: not to be used before all is taken over.
    pub needed: Vec<String>,
    /// Its files that hold nothing of worth.
    pub free: Vec<String>,
    /// The newest generation of its checkpoint.
    pub generation: u64,
    /// The number for the next file.
    pub next_name: u32,
}

/// Everything that was found.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Every partition of the checkpoints and journals, also of topics that are gone.
    pub logs: BTreeMap<PartitionId, RecoveredLog>,
    /// Journals by number.
    pub journals: BTreeMap<usize, RecoveredJournal>,
    /// Bytes read.
    pub bytes_read: u64,
    /// Groups found corrupt.
    pub corrupt_groups: u64,
    /// Whether groups are corrupt of which nothing says what they held. It may have been a partition's first
    /// records, and then nothing here knows of that partition.
    pub is_unproved: bool,
}

/// One thing that a journal says of a partition, with its place in the order of replay.
struct Said {
    journal: usize,
    sequence: u64,
    entry: Entry,
    /// `None` if the group that held it is corrupt.
    bytes: Option<Bytes>,
}

/// Groups of a journal up to this one are corrupt, and nothing says what they held.
#[derive(Clone, Copy)]
struct Gap {
    journal: usize,
    last_unknown: u64,
    /// The partition's greatest ownership that the journal knows of.
    ownership: u64,
}

/// A journal's walk: what it accepted.
#[derive(Default)]
struct Walk {
    groups: Vec<Group>,
    lost: Vec<Lost>,
    /// Sequences of corrupt groups of which nothing is known.
    unknown: Vec<u64>,
    corrupt_groups: u64,
    /// What the last file holds behind the last group that was accepted there.
    rest: Bytes,
    last_sequence: u64,
    last_crc: u32,
}

/// An entry of a corrupt group.
struct Lost {
    sequence: u64,
    entry: Entry,
    /// Its payload, if that is whole: a fault has hit another part of the group.
    bytes: Option<Bytes>,
}

struct JournalFile {
    name: String,
    header: FileHeader,
    bytes: Bytes,
    /// Positions of the blocks that cannot be read; `bytes` has zeros there.
    unreadable: Vec<u64>,
    /// See [`evidence`]; all of the file is looked through for it, once and only if it is asked for.
    evidence: OnceCell<u64>,
}

impl JournalFile {
    fn new(name: String, header: FileHeader, bytes: Bytes, unreadable: Vec<u64>) -> JournalFile {
        JournalFile { name, header, bytes, unreadable, evidence: OnceCell::new() }
    }
}

/// Reads every journal under `root`, whatever cores there are now.
pub async fn recover(io: &Io, root: &Path, quarantine: &Path) -> io::Result<Recovered> {
    let mut recovered = Recovered::default();
    let mut said: BTreeMap<PartitionId, Vec<Said>> = BTreeMap::new();
    let mut gaps: BTreeMap<PartitionId, Vec<Gap>> = BTreeMap::new();
    let mut records: BTreeMap<PartitionId, LogRecord> = BTreeMap::new();
    for entry in io.read_dir(root).await? {
        let Some(number) = entry.name.parse::<usize>().ok().filter(|_| entry.is_dir) else { continue };
        let dir = root.join(&entry.name);
        let (contents, generation) = checkpoint::load(io, &dir).await?;
        for contents in &contents {
            let (generation, start) = (contents.generation, contents.start);
            let logs = contents.logs.len();
            tracing::debug!(dir = %dir.display(), generation, ?start, logs, "a checkpoint was read");
        }
        let Files { files, free, next_name, is_first_lost } =
            read_files(io, &dir, &contents, &mut recovered.bytes_read).await?;
        let mut walk = walk(io, &files, quarantine).await?;
        let start = journal_start(io, &contents, &files, &walk);
        if is_first_lost {
            walk.lose_start(&dir, files.first(), start.last_sequence);
        }
        recovered.corrupt_groups += walk.corrupt_groups;
        let needed = files.iter().map(|file| file.name.clone()).collect();
        recovered.is_unproved |= !walk.unknown.is_empty();
        note_gaps(number, &contents, &walk, &mut gaps);
        collect_records(contents, &mut records);
        collect_entries(number, walk, &mut said);
        recovered.journals.insert(number, RecoveredJournal { dir, start, needed, free, generation, next_name });
    }
    for id in said.keys() {
        records.entry(*id).or_insert_with(|| LogRecord::new(*id));
    }
    for (id, record) in records {
        let entries = said.remove(&id).unwrap_or_default();
        let log = replay(record, entries, &gaps.remove(&id).unwrap_or_default());
        recovered.logs.insert(id, log);
    }
    Ok(recovered)
}

/// The files of a journal.
struct Files {
    /// Those that the replay needs, in order.
    files: Vec<JournalFile>,
    /// Names of those that it does not.
    free: Vec<String>,
    /// The number for the next file.
    next_name: u32,
    /// The first that the replay needs is not there, or cannot be told from a free one.
    is_first_lost: bool,
}

async fn read_files(io: &Io, dir: &Path, contents: &[Contents], bytes_read: &mut u64) -> io::Result<Files> {
    let needed_from = contents.iter().map(|contents| contents.start.file_sequence).min().unwrap_or(0);
    let journal = contents.first().map(|contents| contents.start.journal);
    let is_own = |lineage: &Lineage| journal.is_none_or(|journal| journal == lineage.journal);
    let (mut files, mut free, mut next_name) = (Vec::new(), Vec::new(), 0);
    for entry in io.read_dir(dir).await? {
        let Some(number) = file_number(&entry.name) else { continue };
        next_name = next_name.max(number + 1);
        let file = io.open(&dir.join(&entry.name), OpenMode::ReadWrite).await?;
        lock(io, &file).await?;
        let len = file.len().await? as usize;
        let head_len = (FILE_GROUPS_START as usize + (1 << 20)).min(round_up(len));
        let head = file.read_around_faults(io, 0, head_len).await?.0.freeze();
        *bytes_read += head.len() as u64;
        let header = header_of(&head).filter(|header| is_own(&header.lineage));
        match header.filter(|header| header.lineage.file_sequence >= needed_from) {
            Some(header) => {
                let (bytes, unreadable) = read_all(io, &file, bytes_read).await?;
                files.push((JournalFile::new(entry.name, header, bytes, unreadable), file));
            }
            None => free.push((entry.name, file)),
        }
    }
    let (mut files, doubles) = without_doubles(files);
    free.extend(doubles);
    let lost = missing(&files, contents);
    let candidates = if lost.is_empty() { Vec::new() } else { std::mem::take(&mut free) };
    for (name, file) in candidates {
        let (bytes, unreadable) = read_all(io, &file, bytes_read).await?;
        let is_lost = |lineage: &Lineage| is_own(lineage) && lost.contains(&lineage.file_sequence);
        let header = FileHeader::parse(&bytes).filter(|header| is_lost(&header.lineage));
        match header.or_else(|| any_group(&bytes, is_lost)) {
            Some(header) => files.push(JournalFile::new(name, header, bytes, unreadable)),
            None => free.push((name, file)),
        }
    }
    files.sort_by_key(|file| file.header.lineage.file_sequence);
    let is_first_lost = missing(&files, contents).contains(&needed_from);
    let free = free.into_iter().map(|(name, _)| name).collect();
    Ok(Files { files, free, next_name, is_first_lost })
}

/// Of two files of one sequence the one with more of its groups: a misdirected write has put a group of it where the
/// other's first should be, and so given that another name.
fn without_doubles(mut files: Vec<(JournalFile, File)>) -> (Vec<JournalFile>, Vec<(String, File)>) {
    let groups = |file: &JournalFile| groups_behind(file, FILE_GROUPS_START as usize, file.header.lineage).count();
    let sequence = |file: &JournalFile| file.header.lineage.file_sequence;
    let mut seen = BTreeMap::new();
    files.iter().for_each(|(file, _)| *seen.entry(sequence(file)).or_insert(0) += 1);
    files.sort_by_cached_key(|(file, _)| {
        let is_double = seen[&sequence(file)] > 1;
        (sequence(file), std::cmp::Reverse(if is_double { groups(file) } else { 0 }))
    });
    let (mut kept, mut doubles): (Vec<JournalFile>, _) = (Vec::new(), Vec::new());
    for (file, open) in files {
        match kept.last().is_some_and(|last| sequence(last) == sequence(&file)) {
            true => doubles.push((file.name, open)),
            false => kept.push(file),
        }
    }
    (kept, doubles)
}

/// Everything in a file, which is on stable storage from now on, and the blocks that cannot be read.
async fn read_all(io: &Io, file: &File, bytes_read: &mut u64) -> io::Result<(Bytes, Vec<u64>)> {
    let (bytes, unreadable) = file.read_around_faults(io, 0, round_up(file.len().await? as usize)).await?;
    let bytes = bytes.freeze();
    *bytes_read += bytes.len() as u64;
    if !planted!(ServeBeforeRecoveryFlush) {
        file.sync().await?;
    }
    Ok((bytes, unreadable))
}

/// The files, by their sequence, that are not among these although they must be: they are numbered without a gap.
fn missing(files: &[JournalFile], contents: &[Contents]) -> BTreeSet<u64> {
    let there: BTreeSet<u64> = files.iter().map(|file| file.header.lineage.file_sequence).collect();
    let is_end = there.is_empty() && matches!(contents, [only] if only.start.is_end);
    let needed_from = contents.iter().map(|contents| contents.start.file_sequence).min();
    let Some(needed_from) = needed_from.filter(|_| !is_end) else { return BTreeSet::new() };
    let last = there.last().copied().unwrap_or(needed_from);
    (needed_from..=last).filter(|sequence| !there.contains(sequence)).collect()
}

/// The file's header; or what its first group says, if both copies are lost, or are those of an earlier use of the
/// file because the write of the newer ones was.
fn header_of(head: &Bytes) -> Option<FileHeader> {
    let header = FileHeader::parse(head);
    let first = Group::parse_any(&head.slice(head.len().min(FILE_GROUPS_START as usize)..)).ok();
    let newer = |place: &GroupPlace| {
        header.is_none_or(|header| {
            place.lineage.journal == header.lineage.journal
                && place.lineage.file_sequence > header.lineage.file_sequence
        })
    };
    first.map(|group| group.place).filter(newer).map(header_before).or(header)
}

/// The header of a file as its first group knows it.
fn header_before(first: GroupPlace) -> FileHeader {
    FileHeader {
        lineage: first.lineage,
        last_sequence: first.sequence - 1,
        last_crc: first.previous_crc,
        synced_up_to: first.synced_up_to,
    }
}

/// What the first whole group of such a use says of the file's header, which is lost, and of its first groups, which
/// are lost as well.
fn any_group(bytes: &Bytes, is_wanted: impl Fn(&Lineage) -> bool) -> Option<FileHeader> {
    let blocks = (FILE_GROUPS_START as usize..bytes.len()).step_by(BLOCK);
    let places = blocks.filter_map(|at| Group::parse_any(&bytes.slice(at..)).ok()).map(|group| group.place);
    places.filter(|place| is_wanted(&place.lineage)).min_by_key(|place| place.sequence).map(header_before)
}

async fn walk(io: &Io, files: &[JournalFile], quarantine: &Path) -> io::Result<Walk> {
    let mut walk = Walk::default();
    for (index, file) in files.iter().enumerate() {
        if index == 0 {
            (walk.last_sequence, walk.last_crc) = (file.header.last_sequence, file.header.last_crc);
        } else if !walk.enters(&file.header, &files[index..]) {
            // Of a life whose last groups were lost with the power. A later start may have begun files behind it.
            tracing::debug!(name = file.name, header = ?file.header, "a journal file is passed over");
            continue;
        }
        let before = walk.groups.len();
        let torn = walk.read_file(file, &files[index + 1..]);
        let accepted = walk.groups.len() - before;
        let (name, header) = (&file.name, file.header);
        tracing::debug!(name, ?header, accepted, last_sequence = walk.last_sequence, torn, "a journal file was read");
        if let Some(position) = torn {
            match keep_aside(io, file, position, quarantine).await {
                Err(error) if DiskFault::lack(&error).is_some() => {
                    // Nothing that was acknowledged: a disk that is full is not to keep the broker from starting for it.
                    tracing::warn!(name = file.name, "what may be a torn group could not be kept aside: {error}");
                }
                result => result?,
            }
        }
    }
    if let Some(file) = files.last().filter(|file| walk.may_have_lost_its_end(file)) {
        tracing::error!(
            name = file.name,
            "the journal's last group cannot be read: nobody knows whether it was synced"
        );
        walk.unknown.push(walk.last_sequence + 1);
        walk.corrupt_groups += 1;
    }
    Ok(walk)
}

impl Walk {
    /// Goes on to the next file; false if what lies between shows that it was never acknowledged.
    fn enters(&mut self, header: &FileHeader, files: &[JournalFile]) -> bool {
        if header.last_sequence < self.last_sequence {
            // An earlier recovery accepted no further than this.
            self.groups.retain(|group| group.place.sequence <= header.last_sequence);
            self.lost.retain(|lost| lost.sequence <= header.last_sequence);
        } else if header.last_sequence > self.last_sequence {
            if evidence(files).max(header.synced_up_to) <= self.last_sequence {
                return false;
            }
            // The last groups of the file before are corrupt: the first group here may know of the last.
            let first = next_group(&files[0], FILE_GROUPS_START as usize, header.lineage, header.last_sequence);
            let (witness, rest) = (first.map(|(_, group)| group), std::mem::take(&mut self.rest));
            self.lose(self.last_sequence + 1, &rest, witness.as_ref(), header.last_sequence + 1);
        }
        (self.last_sequence, self.last_crc) = (header.last_sequence, header.last_crc);
        true
    }

    /// Accepts the groups of a file. Gives the position of a group that was begun and is neither whole nor
    /// proved to have been synced.
    fn read_file(&mut self, file: &JournalFile, later: &[JournalFile]) -> Option<u64> {
        let lineage = file.header.lineage;
        let mut position = FILE_GROUPS_START as usize;
        while position < file.bytes.len() {
            let here = file.bytes.slice(position..);
            self.rest = here.clone();
            let parsed =
                if planted!(NoIncarnationGuard) { Group::parse_any(&here) } else { Group::parse(&here, lineage) };
            match parsed {
                Ok(group) if self.follows(&group) => {
                    position += group.bytes.len();
                    self.accept(group);
                }
                // The next file begins with just what was accepted here: this one ends.
                _ if later.first().is_some_and(|next| next.header.last_sequence == self.last_sequence) => return None,
                _ => {
                    // A group's sequence leaves no doubt: where the next one follows, there was none between.
                    let next = next_group(file, position + BLOCK, lineage, self.last_sequence);
                    if let Some((at, group)) = next.as_ref().filter(|(_, group)| self.follows(group)) {
                        position = at + group.bytes.len();
                        self.accept(group.clone());
                        continue;
                    }
                    let proof = later_evidence(file, position, lineage).max(evidence(later));
                    let corrupt = proof > self.last_sequence && !planted!(TruncateAtCorruptMiddle);
                    match next.filter(|_| corrupt) {
                        Some((at, group)) => {
                            self.lose(self.last_sequence + 1, &here, Some(&group), group.place.sequence);
                            position = at + group.bytes.len();
                            self.accept(group);
                        }
                        None => return (Group::was_begun(&here, lineage) && !corrupt).then_some(position as u64),
                    }
                }
            }
        }
        None
    }

    /// The file from which the checkpoint replays is lost, and with it all groups up to the next file's first.
    fn lose_start(&mut self, dir: &Path, next: Option<&JournalFile>, last_sequence: u64) {
        tracing::error!(dir = %dir.display(), "the first file of the journal that is needed is lost: nobody knows what it held");
        self.unknown.push(next.map_or(last_sequence, |next| next.header.last_sequence));
        self.corrupt_groups += 1;
    }

    /// Whether a group may have stood behind the last one that was accepted, in blocks that cannot be read. A torn one
    /// can be, and is known by what it says.
    fn may_have_lost_its_end(&self, file: &JournalFile) -> bool {
        let end = file.bytes.len() - self.rest.len();
        let most =
            if Group::was_begun(&self.rest, file.header.lineage) { GROUP_BYTES + DIRECTORY_BYTES } else { BLOCK };
        let place = end as u64..(end + most) as u64;
        file.unreadable.iter().any(|block| place.contains(block))
    }

    fn follows(&self, group: &Group) -> bool {
        planted!(NoIncarnationGuard)
            || (group.place.sequence == self.last_sequence + 1 && group.place.previous_crc == self.last_crc)
    }

    fn accept(&mut self, group: Group) {
        (self.last_sequence, self.last_crc) = (group.place.sequence, group.crc);
        self.groups.push(group);
    }

    /// The groups from `from` up to `next` are corrupt; `witness` is the first whole one behind them, `bytes` is
    /// where the first of them should be.
    fn lose(&mut self, from: u64, bytes: &Bytes, witness: Option<&Group>, next: u64) {
        let witness = witness.filter(|group| group.place.sequence == next);
        tracing::error!(from, next, "journal groups that had been synced are corrupt");
        for sequence in from..next {
            match witness.filter(|_| sequence + 1 == next) {
                Some(_) if planted!(IgnorePreviousDirectory) => {}
                Some(group) => {
                    let place = if sequence == from { bytes.clone() } else { Bytes::new() };
                    let salvaged = Group::salvage(&place, &group.previous);
                    let lost = |(entry, bytes): (&Entry, _)| Lost { sequence, entry: *entry, bytes };
                    self.lost.extend(group.previous.iter().zip(salvaged).map(lost));
                }
                None => self.unknown.push(sequence),
            }
        }
        self.corrupt_groups += next - from;
    }
}

/// Of the whole groups of the lineage at or behind `position` the one whose sequence is next above `sequence`: not the
/// one that comes first, for a misdirected write may have put a later one before it.
fn next_group(file: &JournalFile, position: usize, lineage: Lineage, sequence: u64) -> Option<(usize, Group)> {
    let later = groups_behind(file, position, lineage).filter(|(_, group)| group.place.sequence > sequence);
    later.min_by_key(|(_, group)| group.place.sequence)
}

fn groups_behind(file: &JournalFile, position: usize, lineage: Lineage) -> impl Iterator<Item = (usize, Group)> + '_ {
    let blocks = (position..file.bytes.len()).step_by(BLOCK);
    blocks.filter_map(move |at| Group::parse(&file.bytes.slice(at..), lineage).ok().map(|group| (at, group)))
}

/// Up to which group the whole groups behind `position` say that the journal was synced.
fn later_evidence(file: &JournalFile, position: usize, lineage: Lineage) -> u64 {
    groups_behind(file, position + BLOCK, lineage).map(|(_, group)| group.place.synced_up_to).max().unwrap_or(0)
}

/// Up to which group these files say that the journal was synced. A file that goes on from an earlier group than the
/// files before it is of a later start, which found no more than that: the groups that it has synced behind it are
/// others of the same number.
fn evidence(files: &[JournalFile]) -> u64 {
    let of = |file: &JournalFile| {
        let seek = || later_evidence(file, FILE_GROUPS_START as usize - BLOCK, file.header.lineage);
        *file.evidence.get_or_init(|| seek().max(file.header.synced_up_to))
    };
    let branches = files.iter().scan(u64::MAX, |branch, file| {
        *branch = file.header.last_sequence.min(*branch);
        Some((file, *branch))
    });
    branches.map(|(file, branch)| of(file).min(branch)).max().unwrap_or(0)
}

/// An ambiguous tail is kept, not used: the very last group, if it had been synced, cannot prove it.
async fn keep_aside(io: &Io, file: &JournalFile, position: u64, quarantine: &Path) -> io::Result<()> {
    let rest = &file.bytes[position as usize..];
    let len = rest.len().min(GROUP_BYTES + DIRECTORY_BYTES);
    let name = format!("{}-{}-{position}", file.header.lineage.file_sequence, file.name);
    let kept = io.open(&quarantine.join(name), OpenMode::Create).await?;
    let mut copy = Buffer::copy_of(&rest[..len]);
    copy.pad_to_block();
    kept.write_at(0, copy.freeze()).await?;
    kept.sync().await?;
    io.sync_dir(quarantine).await
}

fn journal_start(io: &Io, contents: &[Contents], files: &[JournalFile], walk: &Walk) -> JournalStart {
    let checkpointed = contents.iter().map(|contents| contents.start);
    let newest = files.iter().map(|file| file.header.lineage.file_sequence);
    let known = checkpointed
        .clone()
        .map(|start| start.journal)
        .next()
        .or(files.first().map(|file| file.header.lineage.journal));
    let mut fresh = [0; 16];
    fresh[..8].copy_from_slice(&io.random_u64().to_le_bytes());
    fresh[8..].copy_from_slice(&io.random_u64().to_le_bytes());
    // A clean stop leaves no file to replay: numbering goes on from what the checkpoint says.
    let next_file = newest
        .map(|sequence| sequence + 1)
        .chain(checkpointed.clone().map(|start| start.file_sequence + u64::from(!start.is_end)))
        .max()
        .unwrap_or(1);
    let checkpointed_sequence = checkpointed.map(|start| start.last_sequence).max().unwrap_or(0);
    let (last_sequence, last_crc) =
        if files.is_empty() { (checkpointed_sequence, 0) } else { (walk.last_sequence, walk.last_crc) };
    JournalStart { journal: known.unwrap_or(fresh), file_sequence: next_file, last_sequence, last_crc }
}

/// Partitions that may have had entries in groups of which nothing is known.
fn note_gaps(journal: usize, contents: &[Contents], walk: &Walk, gaps: &mut BTreeMap<PartitionId, Vec<Gap>>) {
    let Some(&last_unknown) = walk.unknown.iter().max() else { return };
    let entries = walk.groups.iter().flat_map(|group| &group.entries).chain(walk.lost.iter().map(|lost| &lost.entry));
    let records = contents.iter().flat_map(|contents| contents.logs.values());
    let known = records.map(|record| (record.id, record.ownership));
    let mut newest: BTreeMap<PartitionId, u64> = BTreeMap::new();
    for (id, ownership) in known.chain(entries.map(|entry| (entry.id, entry.ownership))) {
        let newest = newest.entry(id).or_default();
        *newest = ownership.max(*newest);
    }
    for (id, ownership) in newest {
        gaps.entry(id).or_default().push(Gap { journal, last_unknown, ownership });
    }
}

/// The record with the highest ownership counts; of one ownership, the newest (they come newest first).
fn collect_records(contents: Vec<Contents>, records: &mut BTreeMap<PartitionId, LogRecord>) {
    for (id, record) in contents.into_iter().flat_map(|contents| contents.logs) {
        match records.get(&id) {
            Some(known) if known.ownership >= record.ownership => {}
            _ => drop(records.insert(id, record)),
        }
    }
}

fn collect_entries(journal: usize, walk: Walk, said: &mut BTreeMap<PartitionId, Vec<Said>>) {
    let mut add = |sequence, entry: &Entry, bytes| {
        said.entry(entry.id).or_default().push(Said { journal, sequence, entry: *entry, bytes });
    };
    for group in &walk.groups {
        group.payloads().for_each(|(entry, bytes)| add(group.place.sequence, entry, Some(bytes)));
    }
    walk.lost.into_iter().for_each(|lost| add(lost.sequence, &lost.entry, lost.bytes));
}

/// Applies what the journals say to what the checkpoint knows. Idempotent: what lies at or below the end
/// already reached is skipped.
fn replay(mut record: LogRecord, mut said: Vec<Said>, gaps: &[Gap]) -> RecoveredLog {
    said.retain(|said| said.entry.ownership >= record.ownership);
    let proves = |gap: &Gap, said: &Said| said.journal == gap.journal && said.sequence > gap.last_unknown;
    let is_open = |gap: &&Gap| gap.ownership >= record.ownership && !said.iter().any(|said| proves(gap, said));
    record.suspended |= gaps.iter().any(|gap| is_open(&gap));
    // Of one offset there may be several copies, in journals of failed starts. Any that is whole will do: what a
    // corrupt one held is taken all the same.
    said.sort_by_key(|said| (said.entry.base_offset, std::cmp::Reverse(said.entry.ownership), said.sequence));
    let mut end = record.drained_end_offset;
    let mut taken = record.damaged.last().map_or(0, |range| range.1);
    record.damaged.retain(|range| range.1 <= end);
    let (mut pieces, mut destroyed) = (Vec::new(), 0);
    for Said { entry, bytes, .. } in said {
        record.ownership = record.ownership.max(entry.ownership);
        taken = taken.max(entry.end_offset);
        match bytes {
            _ if entry.kind == EntryKind::LogStart => {
                record.log_start_offset = record.log_start_offset.max(entry.base_offset);
            }
            Some(bytes) if entry.end_offset > end => {
                if entry.base_offset > end {
                    destroyed += entry.base_offset - end;
                    pieces.push(Piece::Damaged(entry.base_offset));
                    end = entry.base_offset;
                }
                let rest = Entry { base_offset: end, ..entry };
                end = entry.end_offset;
                pieces.push(match entry.kind {
                    EntryKind::Extent => {
                        Extent::decode(&bytes).map_or(Piece::Damaged(end), |at| Piece::Extent(rest, at))
                    }
                    _ => Piece::Bytes(rest, behind(&bytes, rest.base_offset)),
                });
            }
            _ => {}
        }
    }
    if taken > end {
        destroyed += taken - end;
        pieces.push(Piece::Damaged(taken));
        end = taken;
    }
    if destroyed > 0 {
        tracing::error!(partition = %record.id, destroyed, "records of the journal are lost to damage");
    }
    record.log_start_offset = record.log_start_offset.min(end);
    let (ownership, drained_end) = (record.ownership, record.drained_end_offset);
    tracing::debug!(partition = %record.id, ownership, drained_end, end, destroyed, suspended = record.suspended, "a log was found");
    RecoveredLog { record, pieces }
}

/// The batches from `offset` on.
pub fn behind(bytes: &Bytes, offset: i64) -> Bytes {
    let before =
        |batch: &Result<crate::record::BatchView<'_>, _>| matches!(batch, Ok(batch) if batch.last_offset() < offset);
    let skipped: usize = batches(bytes).take_while(before).flatten().map(|batch| batch.total_size()).sum();
    bytes.slice(skipped..)
}

#[cfg(test)]
mod tests;
