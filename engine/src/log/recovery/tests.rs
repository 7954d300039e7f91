//! Journals as crashes leave them, built group by group.

use super::*;
use crate::io::sim::{Faults, World};
use crate::log::group::GroupBuilder;
use crate::protocol::Uuid;

const ID: PartitionId = PartitionId { topic_id: Uuid([7; 16]), partition: 0 };

fn entry(ownership: u64, from: i64, to: i64) -> Entry {
    let kind = EntryKind::Append;
    Entry { kind, id: ID, ownership, base_offset: from, end_offset: to, leader_epoch: 0, length: 0, crc: 0 }
}

/// A journal file that is written as the journal would.
struct Writer {
    header: FileHeader,
    groups: Vec<Group>,
}

impl Writer {
    /// The file `file_sequence`, begun behind the group `after`.
    fn new(file_sequence: u64, after: Option<&Group>) -> Writer {
        let lineage = Lineage { journal: [1; 16], file_sequence, incarnation: 100 + file_sequence };
        let (last_sequence, last_crc) = after.map_or((0, 0), |group| (group.place.sequence, group.crc));
        Writer { header: FileHeader { lineage, last_sequence, last_crc, synced_up_to: 0 }, groups: Vec::new() }
    }

    /// A group with these entries, made when those up to `synced_up_to` were durable.
    fn group(&mut self, synced_up_to: u64, entries: &[Entry]) -> Group {
        let last = self.groups.last().map(|group| (group.place.sequence, group.crc, group.entries.clone()));
        let (last, previous_crc, previous) =
            last.unwrap_or((self.header.last_sequence, self.header.last_crc, Vec::new()));
        let mut builder = GroupBuilder::new(0);
        entries.iter().for_each(|entry| builder.push(*entry, &[entry.base_offset as u8; 100], |_| {}));
        let place = GroupPlace { lineage: self.header.lineage, sequence: last + 1, synced_up_to, previous_crc };
        let group = builder.finish(place, &previous);
        self.groups.push(group.clone());
        group
    }

    /// The file without the groups of `lost`.
    fn file(&self, lost: &[u64]) -> JournalFile {
        let mut bytes = self.header.encode().to_vec();
        for group in &self.groups {
            let is_lost = lost.contains(&group.place.sequence);
            bytes.extend(group.bytes.iter().map(|byte| if is_lost { 0 } else { *byte }));
        }
        bytes.extend([0; BLOCK]);
        let name = format!("{:08}.journal", self.header.lineage.file_sequence);
        JournalFile::new(name, self.header, bytes.into(), Vec::new())
    }
}

fn walked(files: Vec<JournalFile>) -> Walk {
    let world = World::new(1, Faults::none());
    let node = world.add_node();
    world.block_on(node, async move |io: Io| {
        io.create_dir(Path::new("/quarantine")).await.expect("a new directory");
        walk(&io, &files, Path::new("/quarantine")).await.expect("a disk without faults")
    })
}

/// The pieces in short: the end of each, and whether its records are there.
fn replayed(record: LogRecord, said: Vec<Said>, gaps: &[Gap]) -> (Vec<(i64, bool)>, RecoveredLog) {
    let log = replay(record, said, gaps);
    let short = log.pieces.iter().map(|piece| match piece {
        Piece::Bytes(entry, _) | Piece::Extent(entry, _) => (entry.end_offset, true),
        Piece::Damaged(end) => (*end, false),
    });
    (short.collect(), log)
}

fn said(ownership: u64, offsets: std::ops::Range<i64>, is_whole: bool) -> Said {
    let bytes = is_whole.then(|| Bytes::from_static(b"batches"));
    Said { journal: 0, sequence: 1, entry: entry(ownership, offsets.start, offsets.end), bytes }
}

#[test]
fn a_file_begun_behind_a_torn_group_hides_no_later_one() {
    let mut first = Writer::new(1, None);
    first.group(0, &[entry(1, 0, 10)]);
    let torn = first.group(1, &[entry(1, 10, 20)]);
    // Its header was durable before the group, which the power loss took.
    let orphan = Writer::new(2, Some(&torn));
    // The next start goes on from what it found.
    let mut later = Writer::new(3, Some(&first.groups[0]));
    later.group(1, &[entry(2, 0, 10)]);
    later.group(2, &[entry(2, 10, 15)]);
    later.group(3, &[]);
    let walk = walked(vec![first.file(&[2]), orphan.file(&[]), later.file(&[])]);
    assert_eq!(walk.corrupt_groups, 0, "what the later start synced says nothing of the torn group");
    let ends: Vec<_> = walk.groups.iter().flat_map(|group| &group.entries).map(|entry| entry.end_offset).collect();
    assert_eq!(ends, [10, 10, 15]);
    assert_eq!(walk.last_sequence, 4);
}

#[test]
fn a_group_that_a_later_one_saw_synced_is_corrupt() {
    let mut file = Writer::new(1, None);
    file.group(0, &[entry(1, 0, 10)]);
    file.group(1, &[entry(1, 10, 20)]);
    file.group(2, &[entry(1, 20, 30)]);
    let walk = walked(vec![file.file(&[2])]);
    assert_eq!((walk.corrupt_groups, walk.unknown.len()), (1, 0));
    let (pieces, _) = {
        let mut said = BTreeMap::new();
        collect_entries(0, walk, &mut said);
        replayed(LogRecord::new(ID), said.remove(&ID).expect("entries of the partition"), &[])
    };
    assert_eq!(pieces, [(10, true), (20, false), (30, true)]);
    // Not so where nothing behind it says that it had been.
    let mut file = Writer::new(1, None);
    file.group(0, &[entry(1, 0, 10)]);
    file.group(1, &[entry(1, 10, 20)]);
    file.group(1, &[entry(1, 20, 30)]);
    let walk = walked(vec![file.file(&[2])]);
    assert_eq!((walk.corrupt_groups, walk.groups.len()), (0, 1));
}

#[test]
fn damage_that_a_checkpoint_knows_hides_nothing_before_it() {
    let record = LogRecord { damaged: vec![(11, 15)], ownership: 2, ..LogRecord::new(ID) };
    let entries = vec![said(2, 0..11, true), said(2, 15..20, true)];
    let (pieces, log) = replayed(record, entries, &[]);
    assert_eq!(pieces, [(11, true), (15, false), (20, true)]);
    assert!(log.record.damaged.is_empty(), "it is marked once more when it is taken over");
    // Behind everything that is left it is remembered as well: its offsets stay taken.
    let record = LogRecord { damaged: vec![(2, 3), (11, 15)], drained_end_offset: 11, ..LogRecord::new(ID) };
    let (pieces, log) = replayed(record, Vec::new(), &[]);
    assert_eq!((pieces, log.record.damaged), (vec![(15, false)], vec![(2, 3)]));
}

#[test]
fn any_whole_copy_will_do() {
    // The start that wrote the newer copies was cut off before its checkpoint, and the older are damaged since.
    let entries = vec![said(1, 0..10, false), said(1, 10..20, true), said(2, 0..10, true)];
    assert_eq!(replayed(LogRecord::new(ID), entries, &[]).0, [(10, true), (20, true)]);
    // But never one of before the checkpoint.
    let record = LogRecord { ownership: 2, ..LogRecord::new(ID) };
    let entries = vec![said(1, 0..10, true), said(2, 0..10, false)];
    assert_eq!(replayed(record, entries, &[]).0, [(10, false)]);
}

#[test]
fn an_end_that_lost_groups_may_have_moved_is_not_proved() {
    let gap = |journal| Gap { journal, last_unknown: 5, ownership: 1 };
    let said = |journal, sequence| Said { journal, sequence, ..said(1, 0..10, true) };
    let is_suspended = |entries, gaps: &[Gap]| replayed(LogRecord::new(ID), entries, gaps).1.record.suspended;
    assert!(is_suspended(vec![said(0, 4)], &[gap(0)]));
    assert!(!is_suspended(vec![said(0, 4), said(0, 6)], &[gap(0)]), "the partition's next entry was found");
    assert!(is_suspended(vec![said(0, 4), said(1, 6)], &[gap(0)]), "another journal counts by itself");
    let moved = LogRecord { ownership: 2, ..LogRecord::new(ID) };
    assert!(!replayed(moved, Vec::new(), &[gap(0)]).1.record.suspended, "it had left that journal before");
}

#[test]
fn a_file_whose_header_and_first_group_are_lost_is_found_by_its_other_groups() {
    let mut first = Writer::new(4, None);
    first.group(0, &[entry(1, 0, 10)]);
    first.group(1, &[entry(1, 10, 20)]);
    first.group(2, &[entry(1, 20, 30)]);
    let mut bytes = first.file(&[1]).bytes.to_vec();
    bytes[..FILE_GROUPS_START as usize].fill(0);
    let bytes = Bytes::from(bytes);
    assert_eq!(header_of(&bytes), None);
    let header = any_group(&bytes, |lineage| lineage.file_sequence == 4).expect("two groups are whole");
    assert_eq!((header.lineage, header.last_sequence), (first.header.lineage, 1));
    assert_eq!(any_group(&bytes, |lineage| lineage.file_sequence == 5), None, "that file is another one");
    // Nothing behind the lost group is lost with it, and the one behind it says what it held.
    let walk = walked(vec![JournalFile { header, bytes, ..first.file(&[]) }]);
    assert_eq!((walk.groups.len(), walk.last_sequence), (2, 3));
}

#[test]
fn a_file_that_must_be_there_and_is_not_is_missed() {
    let file = |sequence| Writer::new(sequence, None).file(&[]);
    let contents = |file_sequence, is_end| {
        let start = checkpoint::ReplayStart { journal: [1; 16], file_sequence, last_sequence: 9, is_end };
        Contents { generation: 1, start, logs: BTreeMap::new() }
    };
    let missing = |files: &[u64], contents: &[Contents]| {
        let files: Vec<_> = files.iter().map(|sequence| file(*sequence)).collect();
        missing(&files, contents).into_iter().collect::<Vec<_>>()
    };
    assert_eq!(missing(&[4, 5], &[contents(4, false)]), []);
    assert_eq!(missing(&[5, 7], &[contents(4, false)]), [4, 6]);
    assert_eq!(missing(&[], &[contents(4, false)]), [4], "it was begun before the checkpoint was written");
    assert_eq!(missing(&[], &[contents(4, true)]), [], "a clean stop begins none");
    assert_eq!(missing(&[], &[]), [], "a journal without a checkpoint has acknowledged nothing");
}

#[test]
fn a_group_in_the_first_place_of_another_file_does_not_make_that_file_its_own() {
    let mut real = Writer::new(5, None);
    let first = real.group(0, &[entry(1, 0, 10)]);
    let stray = real.group(1, &[entry(1, 10, 20)]);
    real.group(2, &[entry(1, 20, 30)]);
    // What was meant for the second place of the one is in the first place of the other, a free one.
    let mut bytes = Writer::new(2, Some(&first)).file(&[]).bytes.to_vec();
    bytes.truncate(FILE_GROUPS_START as usize);
    bytes.extend_from_slice(&stray.bytes);
    let bytes = Bytes::from(bytes);
    let header = header_of(&bytes).expect("a header");
    assert_eq!(header.lineage.file_sequence, 5, "so it looks at first");
    let world = World::new(1, Faults::none());
    let node = world.add_node();
    let files = vec![JournalFile { header, bytes, ..real.file(&[]) }, real.file(&[2])];
    let (kept, doubles) = world.block_on(node, async move |io: Io| {
        let mut open = Vec::new();
        for (index, file) in files.into_iter().enumerate() {
            let handle = io.open(Path::new(&format!("/{index}")), OpenMode::Create).await.expect("a new file");
            open.push((file, handle));
        }
        let (kept, doubles) = without_doubles(open);
        (kept, doubles.len())
    });
    assert_eq!((kept.len(), doubles), (1, 1));
    assert_eq!(kept[0].header.last_sequence, 0, "the one with two whole groups, not the one with one");
}

#[test]
fn a_later_group_in_the_midst_of_a_corrupt_one_hides_none_between() {
    let mut file = Writer::new(1, None);
    file.group(0, &[entry(1, 0, 10)]);
    // Large enough to hold another.
    let wide: Vec<Entry> = (0..150).map(|index| entry(1, 10 + index, 11 + index)).collect();
    file.group(1, &wide);
    file.group(2, &[entry(1, 160, 170)]);
    file.group(3, &[entry(1, 170, 180)]);
    let stray = file.group(4, &[entry(1, 180, 190)]);
    file.group(5, &[]);
    let JournalFile { bytes, .. } = file.file(&[5]);
    let mut bytes = bytes.to_vec();
    let into = FILE_GROUPS_START as usize + file.groups[0].bytes.len() + BLOCK;
    bytes[into..into + stray.bytes.len()].copy_from_slice(&stray.bytes);
    let walk = walked(vec![JournalFile { bytes: bytes.into(), ..file.file(&[]) }]);
    let found: Vec<_> = walk.groups.iter().map(|group| group.place.sequence).collect();
    assert_eq!((found, walk.corrupt_groups), (vec![1, 3, 4, 6], 2));
}
