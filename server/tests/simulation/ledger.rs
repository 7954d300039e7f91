//! What the simulator damaged by itself, and which records that excuses.
//!
//! A record may be gone only if its stored copies meet the damage: its partition's segments, or the journal group
//! that was written last of those that hold it (every start writes what no segment holds once more, under a greater
//! ownership number; what older groups still hold is nobody's). The ledger looks for new damage now and then, and at
//! each crash at the journals, from which the next start reads. It knows of the journal's format no more than where
//! a group names what it holds, so that it does not repeat the engine's mistakes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use checker::Partition;
use engine::io::sim::{FaultClass, NodeId, World};

const BLOCK: usize = 4096;
/// "CLJG", and the group's header: CRC at 8 over all from 12 on, total length at 12, incarnation at 40, sequence at
/// 48, the last synced one at 56, length of the payload at 68, number of entries and of the previous group's at 72.
/// Entries follow the payload.
const GROUP_MAGIC: &[u8] = b"CLJG";
const GROUP_HEADER: usize = 80;
/// Kind, topic id at 1, partition at 17, ownership at 21, base offset at 29, end offset at 37.
const ENTRY: usize = 57;
/// "CLJF", and the file's header: sequence at 24, incarnation at 32, the last group before it at 40.
const FILE_MAGIC: &[u8] = b"CLJF";

/// That a group of this ownership held these offsets.
struct Held {
    ownership: u64,
    offsets: Range<i64>,
    /// The group itself says so; else only the one behind it.
    whole: bool,
}

/// What a crash left in the journals, if anything in them is damaged.
#[derive(Default)]
struct Snapshot {
    held: BTreeMap<Partition, Vec<Held>>,
    /// Whether damage hit the end of a journal, where nothing says what had been synced.
    ambiguous: bool,
    /// Whether two neighbouring groups of a journal are damaged: nothing says what the first of them held.
    unproved: bool,
}

/// All damage so far.
#[derive(Default)]
pub(crate) struct Ledger {
    seen: u64,
    paths: BTreeSet<PathBuf>,
    /// By the number of the crash.
    snapshots: BTreeMap<u64, Snapshot>,
}

/// Why a record may be gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Excuse {
    /// A segment or index of its partition is damaged.
    Segment,
    /// The group that held it is damaged.
    Journal,
    /// One of a journal's last groups is damaged, which cannot be told from a torn one; or two neighbours, so that
    /// nobody knows what the first of them held.
    Tail,
}

impl Ledger {
    /// Notes new damage; cheap if there is none.
    pub(crate) fn look(&mut self, world: &World, broker: NodeId) {
        let coverage = world.coverage();
        let classes = [FaultClass::BitFlip, FaultClass::LostWrite, FaultClass::MisdirectedWrite];
        let fired: u64 = classes.iter().map(|class| coverage.count(*class)).sum();
        if fired != std::mem::replace(&mut self.seen, fired) {
            self.paths.extend(world.damage(broker).into_iter().filter_map(|damage| damage.path));
        }
    }

    /// Looks at what a crash has left.
    pub(crate) fn crash(&mut self, world: &World, broker: NodeId, number: u64) {
        self.look(world, broker);
        let mut damage: BTreeMap<PathBuf, Vec<Range<u64>>> = BTreeMap::new();
        for found in world.damage(broker) {
            if let Some(path) = found.path.filter(|path| is_journal(path)) {
                damage.entry(path).or_default().push(found.range);
            }
        }
        if damage.is_empty() {
            return;
        }
        let mut snapshot = Snapshot::default();
        let mut sequences: BTreeMap<PathBuf, BTreeSet<(u64, u64)>> = BTreeMap::new();
        for (path, _) in world.files(broker).into_iter().filter(|(path, _)| is_journal(path)) {
            let bytes = world.file_content(broker, &path).expect("it was just listed");
            let ranges = damage.get(&path).map_or(&[][..], Vec::as_slice);
            let mut groups = whole_groups(&bytes);
            // Whole, but in another's place: nobody looks for it there.
            groups.retain(|group| !ranges.iter().any(|range| range.start < group.end && group.start < range.end));
            tracing::debug!(?path, ?ranges, "journal at crash {number}");
            for group in &groups {
                let held: Vec<_> = entries(&bytes, group)
                    .map(|(p, h)| format!("{p} {:?} o{} {}", h.offsets, h.ownership, h.whole))
                    .collect();
                tracing::trace!(
                    start = group.start,
                    incarnation = group.incarnation,
                    seq = group.sequence,
                    synced = group.synced_up_to,
                    ?held
                );
            }
            for (partition, held) in groups.iter().flat_map(|group| entries(&bytes, group)) {
                snapshot.held.entry(partition).or_default().push(held);
            }
            let journal = path.parent().expect("a journal file lies in its journal").to_owned();
            let Use { file, incarnation, last_sequence } = use_of(&bytes);
            let present = groups.iter().filter(|group| group.incarnation == incarnation);
            let of_file = present.map(|group| (file, group.sequence)).chain([(file, last_sequence)]);
            sequences.entry(journal).or_default().extend(of_file);
            // Without its header a file that held nothing else cannot be told from a free one.
            snapshot.unproved |= ranges.iter().any(|range| range.start == 0 && range.end >= 2 * BLOCK as u64);
            snapshot.ambiguous |= ranges.iter().any(|range| is_at_end(&bytes, &groups, range));
        }
        let lacks_two =
            |of: &BTreeSet<(u64, u64)>| of.iter().zip(of.iter().skip(1)).any(|(one, next)| next.1 > one.1 + 2);
        snapshot.unproved |= sequences.values().any(lacks_two);
        self.snapshots.insert(number, snapshot);
    }

    /// Why the record at this offset, of which a client knew after `since` crashes, may be gone; `None` if nothing
    /// excuses it. `directory` is the name of its partition's. Where clients were not `told` only a [`Excuse::Tail`] does.
    pub(crate) fn excuse(
        &self,
        partition: Partition,
        directory: &str,
        offset: i64,
        since: u64,
        told: bool,
    ) -> Option<Excuse> {
        let in_segment = self.is_segment_damaged(directory).then_some(Excuse::Segment);
        let in_journal = self.snapshots.range(since..).filter_map(|(_, snapshot)| snapshot.excuse(partition, offset));
        in_segment.into_iter().chain(in_journal).find(|excuse| told || *excuse == Excuse::Tail)
    }

    /// Whether anything that this partition's records were ever in was damaged.
    pub(crate) fn is_touched(&self, directory: &str) -> bool {
        !self.snapshots.is_empty() || self.is_segment_damaged(directory)
    }

    /// Whether a log may have begun anew behind an earlier end: a journal's end was damaged at some crash, or groups of
    /// which nothing is known and whose loss the operator has accepted.
    pub(crate) fn was_ambiguous(&self) -> bool {
        self.snapshots.values().any(|snapshot| snapshot.ambiguous || snapshot.unproved)
    }

    /// Whether a segment or an index of the partition of this directory is, or was, damaged.
    pub(crate) fn is_segment_damaged(&self, directory: &str) -> bool {
        self.paths.iter().any(|path| path.parent().is_some_and(|parent| parent.ends_with(directory)))
    }
}

impl Snapshot {
    fn excuse(&self, partition: Partition, offset: i64) -> Option<Excuse> {
        if self.ambiguous {
            return Some(Excuse::Tail);
        }
        let held = self.held.get(&partition).map_or(&[][..], Vec::as_slice);
        let newest = held.iter().map(|held| held.ownership).max();
        let copies = || held.iter().filter(|held| Some(held.ownership) == newest && held.offsets.contains(&offset));
        let is_whole = copies().any(|held| held.whole);
        let is_named = copies().next().is_some();
        match self.unproved {
            true => Some(Excuse::Tail),
            false => (!is_whole && is_named).then_some(Excuse::Journal),
        }
    }
}

fn is_journal(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "journal")
}

struct Group {
    start: u64,
    end: u64,
    /// Where its entries begin, and how many there are; the previous group's follow.
    directory: usize,
    entries: usize,
    previous: usize,
    incarnation: u64,
    sequence: u64,
    synced_up_to: u64,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

/// The groups whose checksum is right, of any use of the file.
fn whole_groups(bytes: &[u8]) -> Vec<Group> {
    let starts = (0..bytes.len()).step_by(BLOCK).filter(|at| bytes[*at..].starts_with(GROUP_MAGIC));
    starts.filter_map(|at| group_at(bytes, at)).collect()
}

fn group_at(bytes: &[u8], start: usize) -> Option<Group> {
    let header = bytes.get(start..start + GROUP_HEADER)?;
    let checked = bytes.get(start + 12..start + u32_at(header, 12) as usize)?;
    (crc32c::crc32c(checked) == u32_at(header, 8)).then(|| Group {
        start: start as u64,
        end: start as u64 + u64::from(u32_at(header, 12)),
        directory: start + GROUP_HEADER + u32_at(header, 68) as usize,
        entries: u32_at(header, 72) as usize,
        previous: u32_at(header, 76) as usize,
        incarnation: u64_at(header, 40),
        sequence: u64_at(header, 48),
        synced_up_to: u64_at(header, 56),
    })
}

/// What a whole group says that it holds, and the one before it.
fn entries<'a>(bytes: &'a [u8], group: &Group) -> impl Iterator<Item = (Partition, Held)> + 'a {
    let (from, own, all) = (group.directory, group.entries, group.entries + group.previous);
    (0..all).map(move |index| {
        let entry = &bytes[from + index * ENTRY..from + (index + 1) * ENTRY];
        let topic = entry[1..17].try_into().expect("16 bytes");
        let offsets = u64_at(entry, 29) as i64..u64_at(entry, 37) as i64;
        let held = Held { ownership: u64_at(entry, 21), offsets, whole: index < own };
        (Partition { topic, number: u32_at(entry, 17) as i32 }, held)
    })
}

/// Whether no whole group behind the damage, of the file's present use, says that what is damaged had been synced: the
/// last groups are written side by side. (A newer file could still prove it: then what was lost is told.)
fn is_at_end(bytes: &[u8], groups: &[Group], damage: &Range<u64>) -> bool {
    let Use { incarnation, last_sequence, .. } = use_of(bytes);
    let present = || groups.iter().filter(|group| group.incarnation == incarnation);
    let before = present().filter(|group| group.end <= damage.start).map(|group| group.sequence).max();
    let before = before.unwrap_or(last_sequence);
    let mut behind = present().filter(|group| group.start >= damage.end);
    !behind.any(|group| group.synced_up_to > before)
}

/// What a file is used for at present.
#[derive(Default)]
struct Use {
    file: u64,
    incarnation: u64,
    /// The last group before it.
    last_sequence: u64,
}

/// As its header says.
fn use_of(bytes: &[u8]) -> Use {
    let copies = [bytes.get(..BLOCK), bytes.get(BLOCK..2 * BLOCK)];
    let header = copies.into_iter().flatten().find(|block| block.starts_with(FILE_MAGIC));
    let read =
        |block| Use { file: u64_at(block, 24), incarnation: u64_at(block, 32), last_sequence: u64_at(block, 40) };
    header.map_or_else(Use::default, read)
}
