//! The journal's unit on disk: a group, all of it durable or none of it counted.
//!
//! A group is `header | payload | entries | previous group's entries | zeros to the block`, little-endian,
//! with one CRC-32C over everything behind the CRC field. Stale bytes of a recycled file never parse as one:
//! the header names the journal, the file's sequence and the incarnation that the file drew at this use, and
//! the CRC of the group before it. The previous group's entries are repeated so that a group which a bit
//! destroyed still says whose offsets it held. This module does no I/O.

use bytes::{Buf, BufMut, Bytes};

use super::PartitionId;
use crate::io::buffer::{BLOCK, Buffer, round_up};
use crate::protocol::Uuid;
use crate::record::batch::{WORTH_COMBINING, batches};
use crate::record::crc::concatenated;

/// "CLJG" as it stands on disk.
const MAGIC: u32 = u32::from_le_bytes(*b"CLJG");
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 80;
const CRC_FROM: usize = 12;
const ENTRY_BYTES: usize = 57;
/// "CLJF": the header of a journal file.
const FILE_MAGIC: u32 = u32::from_le_bytes(*b"CLJF");
const FILE_HEADER_BYTES: usize = 64;

/// Where a journal file's groups start: behind two copies of its header.
pub const FILE_GROUPS_START: u64 = 2 * BLOCK as u64;

/// What ties a group to one use of one file of one journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lineage {
    /// The journal's random id.
    pub journal: [u8; 16],
    /// Grows with each file that the journal begins.
    pub file_sequence: u64,
    /// Random, drawn anew at each use of the file.
    pub incarnation: u64,
}

/// What an entry does to its partition's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryKind {
    /// Record batches from `base_offset` up to `end_offset`.
    Append = 1,
    /// The log now starts at `base_offset`; no payload.
    LogStart = 2,
    /// Record batches that are on stable storage in a segment; the payload is their [`super::direct::Extent`].
    Extent = 3,
}

/// One partition's part of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// What it does.
    pub kind: EntryKind,
    /// To which partition.
    pub id: PartitionId,
    /// Grows each time that the partition moves to another journal.
    pub ownership: u64,
    /// The first offset.
    pub base_offset: i64,
    /// One past the last offset.
    pub end_offset: i64,
    /// The leader epoch of the batches.
    pub leader_epoch: i32,
    /// Bytes of payload.
    pub length: u32,
    /// CRC-32C of the payload.
    pub crc: u32,
}

impl Entry {
    fn encode(&self, out: &mut impl BufMut) {
        out.put_u8(self.kind as u8);
        out.put_slice(&self.id.topic_id.0);
        out.put_i32_le(self.id.partition);
        out.put_u64_le(self.ownership);
        out.put_i64_le(self.base_offset);
        out.put_i64_le(self.end_offset);
        out.put_i32_le(self.leader_epoch);
        out.put_u32_le(self.length);
        out.put_u32_le(self.crc);
    }

    fn decode(bytes: &mut &[u8]) -> Option<Entry> {
        if bytes.len() < ENTRY_BYTES {
            return None;
        }
        let kind = match bytes.get_u8() {
            1 => EntryKind::Append,
            2 => EntryKind::LogStart,
            3 => EntryKind::Extent,
            _ => return None,
        };
        let mut topic_id = [0; 16];
        bytes.copy_to_slice(&mut topic_id);
        let id = PartitionId { topic_id: Uuid(topic_id), partition: bytes.get_i32_le() };
        Some(Entry {
            kind,
            id,
            ownership: bytes.get_u64_le(),
            base_offset: bytes.get_i64_le(),
            end_offset: bytes.get_i64_le(),
            leader_epoch: bytes.get_i32_le(),
            length: bytes.get_u32_le(),
            crc: bytes.get_u32_le(),
        })
    }
}

/// What the writer of a group knows beside its entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupPlace {
    /// The file's lineage.
    pub lineage: Lineage,
    /// Grows by one with each group of the journal.
    pub sequence: u64,
    /// Every group up to this sequence was durable when this one was made.
    pub synced_up_to: u64,
    /// The CRC of the group before this one.
    pub previous_crc: u32,
}

/// A group that is being filled. Its payload is written once, in the buffer that goes to disk.
pub struct GroupBuilder {
    buffer: Buffer,
    entries: Vec<Entry>,
}

impl GroupBuilder {
    /// An empty group, with room for about `expected` bytes before it has to move.
    pub fn new(expected: usize) -> GroupBuilder {
        let mut buffer = Buffer::with_capacity(expected.max(BLOCK));
        buffer.set_len(HEADER_BYTES);
        GroupBuilder { buffer, entries: Vec::new() }
    }

    /// Whether nothing has been added.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The group's size on disk as it stands.
    pub fn size(&self, previous_entries: usize) -> usize {
        round_up(self.buffer.len() + ENTRY_BYTES * (self.entries.len() + previous_entries))
    }

    /// The group's size on disk if `more` payload bytes were added as one entry.
    pub fn size_with(&self, more: usize, previous_entries: usize) -> usize {
        round_up(self.buffer.len() + more + ENTRY_BYTES * (self.entries.len() + 1 + previous_entries))
    }

    /// Adds an entry with a copy of its payload, which `patch` may change in place before it is checksummed;
    /// `entry.length` and `entry.crc` are set here.
    pub fn push(&mut self, mut entry: Entry, payload: &[u8], patch: impl FnOnce(&mut [u8])) {
        self.reserve(payload.len());
        let start = self.buffer.len();
        self.buffer.extend_from_slice(payload);
        patch(&mut self.buffer[start..]);
        entry.length = u32::try_from(payload.len()).expect("an entry is far smaller than 4 GiB");
        entry.crc = crc_of_batches(&self.buffer[start..]);
        self.entries.push(entry);
    }

    /// The checksum of the payload, of all entries. Small ones are passed again: that is faster.
    fn payload_crc(&self) -> u32 {
        let payload = &self.buffer[HEADER_BYTES..];
        if payload.len() < self.entries.len() * WORTH_COMBINING {
            return crc32c::crc32c(payload);
        }
        self.entries.iter().fold(0, |crc, entry| concatenated(crc, entry.crc, entry.length as usize))
    }

    fn reserve(&mut self, more: usize) {
        let needed = self.buffer.len() + more;
        if needed > self.buffer.capacity() {
            self.move_to(Buffer::with_capacity(needed.max(self.buffer.capacity() * 2)));
        }
    }

    fn move_to(&mut self, mut roomier: Buffer) {
        roomier.extend_from_slice(&self.buffer);
        self.buffer = roomier;
    }

    /// Completes the group: its bytes, padded to blocks, and what it holds.
    pub fn finish(mut self, place: GroupPlace, previous: &[Entry]) -> Group {
        let payload_len = self.buffer.len() - HEADER_BYTES;
        let mut directory = Vec::with_capacity(ENTRY_BYTES * (self.entries.len() + previous.len()));
        for entry in self.entries.iter().chain(previous) {
            entry.encode(&mut directory);
        }
        let total = self.buffer.len() + directory.len();
        let payload_crc = self.payload_crc();
        // A small group in a large buffer would pin all of it for as long as its records are cached.
        if round_up(total) > self.buffer.capacity() || round_up(total) * 2 < self.buffer.capacity() {
            self.move_to(Buffer::with_capacity(round_up(total)));
        }
        self.buffer.extend_from_slice(&directory);
        self.buffer.pad_to_block();
        write_header(&mut self.buffer, place, total, payload_len, self.entries.len(), previous.len());
        let head_crc = crc32c::crc32c(&self.buffer[CRC_FROM..HEADER_BYTES]);
        let crc = crc32c::crc32c_append(concatenated(head_crc, payload_crc, payload_len), &directory);
        self.buffer[8..CRC_FROM].copy_from_slice(&crc.to_le_bytes());
        Group { bytes: self.buffer.freeze(), crc, place, entries: self.entries, previous: previous.to_vec() }
    }
}

/// The checksum of some batches, each of which knows its own; of other bytes they are passed.
pub(super) fn crc_of_batches(bytes: &[u8]) -> u32 {
    let (mut crc, mut at) = (0, 0);
    for batch in batches(bytes).map_while(Result::ok) {
        crc = concatenated(crc, batch.crc_of_all(), batch.total_size());
        at += batch.total_size();
    }
    crc32c::crc32c_append(crc, &bytes[at..])
}

fn write_header(buffer: &mut Buffer, place: GroupPlace, total: usize, payload: usize, entries: usize, previous: usize) {
    let mut header = &mut buffer[..HEADER_BYTES];
    header.put_u32_le(MAGIC);
    header.put_u16_le(VERSION);
    header.put_u16_le(0);
    header.put_u32_le(0);
    header.put_u32_le(total as u32);
    header.put_slice(&place.lineage.journal);
    header.put_u64_le(place.lineage.file_sequence);
    header.put_u64_le(place.lineage.incarnation);
    header.put_u64_le(place.sequence);
    header.put_u64_le(place.synced_up_to);
    header.put_u32_le(place.previous_crc);
    header.put_u32_le(payload as u32);
    header.put_u32_le(entries as u32);
    header.put_u32_le(previous as u32);
}

/// A whole, checked group.
#[derive(Debug, Clone)]
pub struct Group {
    /// All of it, padded to blocks.
    pub bytes: Bytes,
    /// Its checksum, which the next group names.
    pub crc: u32,
    /// Where it stands.
    pub place: GroupPlace,
    /// What it holds, in order.
    pub entries: Vec<Entry>,
    /// What the group before it held.
    pub previous: Vec<Entry>,
}

/// Why bytes are not a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAGroup {
    /// Nothing of this use of the file: zeros, or what an earlier use left.
    Stale,
    /// A header of this use of the file, but the whole does not match its checksum.
    Damaged,
}

impl Group {
    /// Each entry with its payload, which shares the group's memory.
    pub fn payloads(&self) -> impl Iterator<Item = (&Entry, Bytes)> {
        let mut at = HEADER_BYTES;
        self.entries.iter().map(move |entry| {
            let from = at;
            at += entry.length as usize;
            (entry, self.bytes.slice(from..at))
        })
    }

    /// The group at the start of `bytes`, if it belongs to `lineage`.
    pub fn parse(bytes: &Bytes, lineage: Lineage) -> Result<Group, NotAGroup> {
        let group = Group::parse_any(bytes)?;
        if group.place.lineage == lineage { Ok(group) } else { Err(NotAGroup::Stale) }
    }

    /// The group at the start of `bytes`, whatever its lineage: for a file whose own header is lost.
    pub fn parse_any(bytes: &Bytes) -> Result<Group, NotAGroup> {
        let header = Header::parse(bytes).ok_or(NotAGroup::Stale)?;
        let total = header.total as usize;
        let directory = HEADER_BYTES + header.payload as usize;
        let entries_bytes = ENTRY_BYTES * (header.entries as usize + header.previous as usize);
        if total > bytes.len() || directory + entries_bytes != total {
            return Err(NotAGroup::Damaged);
        }
        if !planted!(NoCrcAtRecovery) && crc32c::crc32c(&bytes[CRC_FROM..total]) != header.crc {
            return Err(NotAGroup::Damaged);
        }
        let mut rest = &bytes[directory..total];
        let mut take = |count: u32| (0..count).map(|_| Entry::decode(&mut rest)).collect::<Option<Vec<_>>>();
        let entries = take(header.entries).ok_or(NotAGroup::Damaged)?;
        let previous = take(header.previous).ok_or(NotAGroup::Damaged)?;
        if entries.iter().map(|entry| entry.length as u64).sum::<u64>() != u64::from(header.payload) {
            return Err(NotAGroup::Damaged);
        }
        let bytes = bytes.slice(..round_up(total).min(bytes.len()));
        Ok(Group { bytes, crc: header.crc, place: header.place, entries, previous })
    }

    /// What is whole of a group that is not: each entry's payload in the group at the start of `bytes`, if it
    /// matches the checksum that the entry has in `directory`, the next group's copy.
    pub fn salvage(bytes: &Bytes, directory: &[Entry]) -> Vec<Option<Bytes>> {
        let mut at = HEADER_BYTES;
        let payload = |entry: &Entry| {
            let from = at;
            at += entry.length as usize;
            let payload = bytes.get(from..at).map(|_| bytes.slice(from..at))?;
            (crc32c::crc32c(&payload) == entry.crc).then_some(payload)
        };
        directory.iter().map(payload).collect()
    }

    /// Whether a group of `lineage` was begun at the start of `bytes`, whole or not.
    pub fn was_begun(bytes: &[u8], lineage: Lineage) -> bool {
        Header::parse(bytes).is_some_and(|header| header.place.lineage == lineage)
    }
}

struct Header {
    crc: u32,
    total: u32,
    payload: u32,
    entries: u32,
    previous: u32,
    place: GroupPlace,
}

impl Header {
    fn parse(mut bytes: &[u8]) -> Option<Header> {
        if bytes.len() < HEADER_BYTES || bytes.get_u32_le() != MAGIC || bytes.get_u16_le() != VERSION {
            return None;
        }
        let _flags = bytes.get_u16_le();
        let crc = bytes.get_u32_le();
        let total = bytes.get_u32_le();
        let mut journal = [0; 16];
        bytes.copy_to_slice(&mut journal);
        let lineage = Lineage { journal, file_sequence: bytes.get_u64_le(), incarnation: bytes.get_u64_le() };
        let (sequence, synced_up_to) = (bytes.get_u64_le(), bytes.get_u64_le());
        let place = GroupPlace { lineage, sequence, synced_up_to, previous_crc: bytes.get_u32_le() };
        let (payload, entries, previous) = (bytes.get_u32_le(), bytes.get_u32_le(), bytes.get_u32_le());
        let fits = (HEADER_BYTES as u64 + u64::from(payload)) <= u64::from(total) && total as usize >= HEADER_BYTES;
        fits.then_some(Header { crc, total, payload, entries, previous, place })
    }
}

/// The header of a journal file: which use of it this is, and after which group it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileHeader {
    /// The lineage of the groups in the file.
    pub lineage: Lineage,
    /// The last group before the file: whatever an older file holds behind it was never acknowledged.
    pub last_sequence: u64,
    /// That group's CRC.
    pub last_crc: u32,
    /// Every group up to this sequence was durable when the file was begun.
    pub synced_up_to: u64,
}

impl FileHeader {
    /// Two copies, a block each.
    pub fn encode(&self) -> Bytes {
        let mut block = Vec::with_capacity(BLOCK);
        block.put_u32_le(FILE_MAGIC);
        block.put_u16_le(VERSION);
        block.put_u16_le(0);
        block.put_slice(&self.lineage.journal);
        block.put_u64_le(self.lineage.file_sequence);
        block.put_u64_le(self.lineage.incarnation);
        block.put_u64_le(self.last_sequence);
        block.put_u32_le(self.last_crc);
        block.put_u64_le(self.synced_up_to);
        let crc = crc32c::crc32c(&block);
        block.put_u32_le(crc);
        block.resize(BLOCK, 0);
        let mut both = Buffer::with_capacity(2 * BLOCK);
        both.extend_from_slice(&block);
        both.extend_from_slice(&block);
        both.freeze()
    }

    /// The header in either of the file's first two blocks.
    pub fn parse(bytes: &[u8]) -> Option<FileHeader> {
        bytes.chunks(BLOCK).take(2).find_map(FileHeader::parse_copy)
    }

    fn parse_copy(block: &[u8]) -> Option<FileHeader> {
        let checked = block.get(..FILE_HEADER_BYTES)?;
        let (mut body, mut crc) = checked.split_at(FILE_HEADER_BYTES - 4);
        if crc32c::crc32c(body) != crc.get_u32_le() || body.get_u32_le() != FILE_MAGIC || body.get_u16_le() != VERSION {
            return None;
        }
        let _flags = body.get_u16_le();
        let mut journal = [0; 16];
        body.copy_to_slice(&mut journal);
        let lineage = Lineage { journal, file_sequence: body.get_u64_le(), incarnation: body.get_u64_le() };
        Some(FileHeader {
            lineage,
            last_sequence: body.get_u64_le(),
            last_crc: body.get_u32_le(),
            synced_up_to: body.get_u64_le(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lineage() -> Lineage {
        Lineage { journal: [7; 16], file_sequence: 3, incarnation: 99 }
    }

    fn group(payload: &[u8]) -> Group {
        let id = PartitionId { topic_id: Uuid([1; 16]), partition: 4 };
        let entry = |base_offset| Entry {
            kind: EntryKind::Append,
            id,
            ownership: 2,
            base_offset,
            end_offset: base_offset + 10,
            leader_epoch: 5,
            length: 0,
            crc: 0,
        };
        let mut builder = GroupBuilder::new(0);
        builder.push(entry(10), payload, |_| {});
        builder.push(entry(20), b"second", |_| {});
        let place = GroupPlace { lineage: lineage(), sequence: 8, synced_up_to: 7, previous_crc: 1234 };
        builder.finish(place, &[entry(0)])
    }

    #[test]
    fn what_was_written_is_read_back() {
        for size in [0, 1, 4000, 4096, 100_000] {
            let written = group(&vec![3; size]);
            assert_eq!(written.bytes.len() % BLOCK, 0);
            let read = Group::parse(&written.bytes, lineage()).expect("a whole group");
            assert_eq!((read.place, read.crc), (written.place, written.crc));
            assert_eq!((&read.entries, &read.previous), (&written.entries, &written.previous));
            let payloads: Vec<_> = read.payloads().map(|(_, bytes)| bytes).collect();
            assert_eq!(payloads, [Bytes::from(vec![3; size]), Bytes::from_static(b"second")]);
        }
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let whole = group(b"first payload");
        let used = HEADER_BYTES + 19 + 3 * ENTRY_BYTES;
        for bit in 0..used * 8 {
            let mut bytes = whole.bytes.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            // The flags are not interpreted, and lie outside of the checksum like magic and version.
            if (6..8).contains(&(bit / 8)) {
                continue;
            }
            assert!(Group::parse(&bytes.into(), lineage()).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn another_use_of_the_file_is_stale() {
        let whole = group(b"x");
        let other = Lineage { incarnation: 100, ..lineage() };
        assert_eq!(Group::parse(&whole.bytes, other).expect_err("stale"), NotAGroup::Stale);
        assert_eq!(Group::parse(&Bytes::from(vec![0; BLOCK]), other).expect_err("zeros"), NotAGroup::Stale);
    }

    #[test]
    fn either_copy_of_a_file_header_serves() {
        let header = FileHeader { lineage: lineage(), last_sequence: 41, last_crc: 5, synced_up_to: 40 };
        let mut bytes = header.encode().to_vec();
        bytes[20] ^= 1;
        assert_eq!(FileHeader::parse(&bytes), Some(header));
        bytes[BLOCK + 20] ^= 1;
        assert_eq!(FileHeader::parse(&bytes), None);
    }
}
