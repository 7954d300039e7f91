//! What the simulator damaged by itself, and which records that excuses.
//!
//! A record may be gone only if each of its stored copies meets the damage: its batch in a segment of its
//! partition, or the group that holds it in a journal. The ledger looks at the disk now and then, and at each
//! crash also at the journals' bytes: what is whole there is read by the next start. It knows of the journal's
//! format no more than how to find a group and its checksum, so that it does not repeat the engine's mistakes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use engine::io::sim::{FaultClass, NodeId, World};

use crate::consumer::unpack;

const BLOCK: usize = 4096;
/// "CLJG", and the group's header: CRC at 8 over all from 12 on, total length at 12, incarnation at 40, length of
/// the batches behind the header at 68.
const GROUP_MAGIC: &[u8] = b"CLJG";
const GROUP_HEADER: usize = 80;
/// "CLJF", and the file's header: sequence at 24, incarnation at 32.
const FILE_MAGIC: &[u8] = b"CLJF";

/// What a crash left in the journals, if anything in them is damaged.
struct Snapshot {
    /// Values in whole groups.
    whole: BTreeSet<u64>,
    /// Whether damage hit the end of a journal, where nothing behind it says what was synced.
    ambiguous: bool,
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
    /// No whole group holds it, and something later shows that it was synced.
    Journal,
    /// No whole group holds it, and it was in a journal's last: it cannot be told from a torn one.
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
        let mut snapshot = Snapshot { whole: BTreeSet::new(), ambiguous: false };
        for (path, _) in world.files(broker).into_iter().filter(|(path, _)| is_journal(path)) {
            let bytes = world.file_content(broker, &path).expect("it was just listed");
            let groups = whole_groups(&bytes);
            for group in &groups {
                let mut records = Vec::new();
                unpack(&bytes[group.batches.clone()], &mut records).expect("a whole group holds whole batches");
                snapshot.whole.extend(records.into_iter().map(|(_, value)| value));
            }
            let ranges = damage.get(&path).map_or(&[][..], Vec::as_slice);
            snapshot.ambiguous |= ranges.iter().any(|range| is_at_end(&bytes, &groups, range));
        }
        self.snapshots.insert(number, snapshot);
    }

    /// Whether anything that this partition's records were ever in was damaged.
    pub(crate) fn is_touched(&self, directory: &str) -> bool {
        !self.snapshots.is_empty() || self.excuse(directory, 0, u64::MAX).is_some()
    }

    /// Whether a journal's end was damaged at some crash.
    pub(crate) fn was_ambiguous(&self) -> bool {
        self.snapshots.values().any(|snapshot| snapshot.ambiguous)
    }

    /// Why a value of this partition (by its directory's name), which a client knew of after `since` crashes, may be
    /// gone; `None` if nothing excuses it.
    pub(crate) fn excuse(&self, directory: &str, value: u64, since: u64) -> Option<Excuse> {
        if self.paths.iter().any(|path| path.parent().is_some_and(|parent| parent.ends_with(directory))) {
            return Some(Excuse::Segment);
        }
        let mut gone = self.snapshots.range(since..).map(|(_, snapshot)| snapshot);
        let snapshot = gone.find(|snapshot| !snapshot.whole.contains(&value))?;
        Some(if snapshot.ambiguous { Excuse::Tail } else { Excuse::Journal })
    }
}

fn is_journal(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "journal")
}

struct Group {
    start: u64,
    batches: Range<usize>,
    incarnation: u64,
}

/// The groups whose checksum is right, of any use of the file.
fn whole_groups(bytes: &[u8]) -> Vec<Group> {
    let starts = (0..bytes.len()).step_by(BLOCK).filter(|at| bytes[*at..].starts_with(GROUP_MAGIC));
    starts.filter_map(|at| group_at(bytes, at)).collect()
}

fn group_at(bytes: &[u8], at: usize) -> Option<Group> {
    let header = bytes.get(at..at + GROUP_HEADER)?;
    let total = u32::from_le_bytes(header[12..16].try_into().ok()?) as usize;
    let checked = bytes.get(at + 12..at + total)?;
    let crc = u32::from_le_bytes(header[8..12].try_into().ok()?);
    let incarnation = u64::from_le_bytes(header[40..48].try_into().ok()?);
    let batches = u32::from_le_bytes(header[68..72].try_into().ok()?) as usize;
    let batches = at + GROUP_HEADER..at + GROUP_HEADER + batches;
    (crc32c::crc32c(checked) == crc).then_some(Group { start: at as u64, batches, incarnation })
}

/// Whether no whole group of the file's present use lies behind the damage. (A newer file could still prove
/// it; that the engine must know, and a judge that asks for less than it could is no worse.)
fn is_at_end(bytes: &[u8], groups: &[Group], damage: &Range<u64>) -> bool {
    let copies = [bytes.get(..BLOCK), bytes.get(BLOCK..2 * BLOCK)];
    let header = copies.into_iter().flatten().find(|block| block.starts_with(FILE_MAGIC));
    let incarnation = header.map(|block| u64::from_le_bytes(block[32..40].try_into().expect("8 bytes")));
    let behind = |group: &Group| group.start >= damage.end && Some(group.incarnation) == incarnation;
    !groups.iter().any(behind)
}
