//! A log and its journal on a simulated disk, with batches past the journal, to be cut off at any moment.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::io::Class;
use crate::io::sim::{CrashKind, Faults, NodeId, World};
use crate::log::Log;
use crate::log::journal::{DiskFailure, JournalConfig, JournalStart};
use crate::log::partition_log::LogRecord;
use crate::log::recovery::{self, Piece};
use crate::protocol::Uuid;
use crate::record::BatchBuilder;
use crate::record::batch::{BatchView, batches};

const ID: PartitionId = PartitionId { topic_id: Uuid([7; 16]), partition: 0 };
const DIR: &str = "/t-0";
/// Batches past the journal, behind a first one in it.
const BATCHES: i64 = 60;

fn batch(number: i64) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    builder.append(1_000, None, Some(&vec![number as u8; 300 + 997 * number as usize % 9_000]), &[]);
    builder.finish()
}

/// What the test sees of a run.
#[derive(Clone, Default)]
struct Seen {
    durable: Rc<Cell<i64>>,
    drained: Rc<Cell<i64>>,
    refused: Rc<Cell<bool>>,
    /// Whether the writer must not go on when so many are durable.
    stops_at: Rc<Cell<i64>>,
}

/// Appends a batch to the journal and all others past it.
async fn append_all(io: Io, seen: Seen) -> io::Result<()> {
    let failure = DiskFailure::default();
    let root = Path::new("/@journal/0");
    io.create_dir(Path::new("/@journal")).await?;
    io.create_dir(root).await?;
    for dir in ["/@quarantine", "/@journal"] {
        io.create_dir(Path::new(dir)).await.or_else(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Ok(()),
            _ => Err(error),
        })?;
        io.sync_dir(Path::new(dir)).await?;
    }
    io.sync_dir(Path::new("/")).await?;
    let start = JournalStart { journal: [1; 16], file_sequence: 1, last_sequence: 0, last_crc: 0 };
    let config = JournalConfig { dir: root.to_owned(), file_bytes: 1 << 20 };
    let journal = Journal::new(io.clone(), config, start, Vec::new(), 0, failure);
    journal.begin().await?;
    let mut log = Log::restore(LogRecord::new(ID), DIR.into(), Default::default());
    log.set_ownership(1);
    let log: SharedLog = Rc::new(RefCell::new(log));
    let (settled, group_journal, group_seen) = (log.clone(), journal.clone(), seen.clone());
    io.spawn(Class::Foreground, async move {
        loop {
            let durable = group_journal.next_durable().await;
            for (entry, bytes) in durable.group.payloads() {
                settled.borrow_mut().on_durable(entry, bytes, durable.file_sequence);
            }
            group_seen.durable.set(settled.borrow().durable_end_offset());
            group_journal.dealt_with();
        }
    });
    append(&log, &journal, 0);
    assert!(!log.borrow_mut().open_direct(), "nothing knows of the log yet");
    journal.idle().await;
    for number in 1..=BATCHES {
        if log.borrow_mut().open_direct() {
            let (io, log, journal, seen) = (io.clone(), log.clone(), journal.clone(), seen.clone());
            let writer_io = io.clone();
            io.spawn(Class::Foreground, async move {
                let may_go_on =
                    || seen.durable.get() < seen.stops_at.get() || seen.durable.get() > seen.stops_at.get() + 5;
                let result = write_waiting(&writer_io, &log, &journal, &Bell::default(), may_go_on).await;
                seen.refused.set(seen.refused.get() || result.is_err());
                seen.drained.set(log.borrow().drained_end_offset());
            });
        }
        append(&log, &journal, number);
        io.sleep(Duration::from_micros(100)).await;
    }
    std::future::pending().await
}

fn append(log: &SharedLog, journal: &Journal, number: i64) {
    let bytes = batch(number);
    let view = BatchView::parse(&bytes).expect("the test's own batch");
    log.borrow_mut().append(journal, &view, 3);
}

/// What recovery finds: each offset's record, and how many came from extents.
fn recovered(world: &World, node: NodeId) -> (BTreeMap<i64, Vec<u8>>, usize) {
    world.block_on(node, |io| async move {
        let found = recovery::recover(&io, Path::new("/@journal"), Path::new("/@quarantine")).await.expect("readable");
        let (mut values, mut extents) = (BTreeMap::new(), 0);
        for piece in found.logs.get(&ID).map_or(&[][..], |log| &log.pieces) {
            let bytes = match piece {
                Piece::Bytes(_, bytes) => bytes.clone(),
                Piece::Extent(entry, extent) => {
                    extents += 1;
                    let bytes = extent.read(&io, Path::new(DIR), ID).await.expect("readable");
                    recovery::behind(&bytes.expect("what the journal names is whole"), entry.base_offset)
                }
                Piece::Damaged(end) => panic!("damaged up to {end} on a disk without faults"),
            };
            for batch in batches(&bytes).map(|batch| batch.expect("whole")) {
                values.insert(batch.base_offset(), bytes_of(&batch));
            }
        }
        (values, extents)
    })
}

/// The batch as its producer sent it.
fn bytes_of(batch: &BatchView<'_>) -> Vec<u8> {
    let mut bytes = batch.bytes().to_vec();
    crate::record::batch::set_base_offset(&mut bytes, 0);
    crate::record::batch::set_leader_epoch(&mut bytes, -1);
    bytes
}

fn started(seed: u64) -> (World, NodeId, Seen) {
    let world = World::new(seed, Faults::none());
    let (node, seen) = (world.add_node(), Seen::default());
    seen.stops_at.set(i64::MAX / 2);
    world.start(node, 1, |io| {
        let seen = seen.clone();
        async move { append_all(io, seen).await.expect("a disk without faults") }
    });
    (world, node, seen)
}

#[test]
fn what_was_durable_is_found_whenever_the_power_goes() {
    let mut all_extents = 0;
    for seed in 0..150 {
        let (world, node, seen) = started(seed);
        seen.stops_at.set(1 + seed as i64 % BATCHES);
        assert!(world.run_until(Duration::from_secs(5), || seen.durable.get() > 0), "the first batch is durable");
        world.run_for(Duration::from_micros(seed * 100));
        let durable = seen.durable.get();
        world.crash(node, CrashKind::PowerLoss);
        let (found, extents) = recovered(&world, node);
        all_extents += extents;
        assert!(found.len() as i64 >= durable, "seed {seed}: {} of {durable}", found.len());
        for (place, (offset, bytes)) in found.iter().enumerate() {
            assert_eq!(*offset, place as i64, "seed {seed}: there is no gap");
            assert_eq!(*bytes, batch(*offset), "seed {seed}: each is what was appended");
        }
    }
    assert!(all_extents > 100, "there was something past the journal: {all_extents}");
}

#[test]
fn all_goes_past_the_journal_and_only_once() {
    let (world, node, seen) = started(1);
    assert!(world.run_until(Duration::from_secs(5), || seen.durable.get() == BATCHES + 1), "all become durable");
    world.run_for(Duration::from_secs(1));
    assert_eq!(seen.drained.get(), BATCHES + 1, "what is durable past the journal is drained");
    let name = format!("{DIR}/{:020}.log", 0);
    let segment = world.file_content(node, Path::new(&name)).expect("a segment");
    let expected: usize = (0..=BATCHES).map(|number| batch(number).len()).sum();
    assert_eq!(batches(&segment[..expected]).filter(Result::is_ok).count() as i64, BATCHES + 1);
    let written: usize = world.files(node).iter().filter(|(path, _)| path.starts_with("/@journal")).count();
    assert!(written <= 2, "the journal did not need the room of the batches: {written} files");
}

#[test]
fn damaged_batches_are_not_given_out() {
    let mut all_damaged = 0;
    for seed in 0..10 {
        let (world, node, seen) = started(seed);
        assert!(world.run_until(Duration::from_secs(5), || seen.durable.get() == BATCHES + 1), "all become durable");
        world.crash(node, CrashKind::Kill);
        let name = format!("{DIR}/{:020}.log", 0);
        world.flip_bit(node, Path::new(&name)).expect("there is something to damage");
        let damaged = world.block_on(node, damaged_extents);
        assert!(damaged <= 1, "one bit is in one extent: {damaged}");
        all_damaged += damaged;
    }
    // A bit may also have been in the first batch or behind the last one, which are no extent's.
    assert!(all_damaged >= 5, "damage is seen: {all_damaged}");
}

async fn damaged_extents(io: Io) -> usize {
    let found = recovery::recover(&io, Path::new("/@journal"), Path::new("/@quarantine")).await.expect("readable");
    let mut damaged = 0;
    for piece in &found.logs[&ID].pieces {
        if let Piece::Extent(_, extent) = piece {
            damaged += usize::from(extent.read(&io, Path::new(DIR), ID).await.expect("readable").is_none());
        }
    }
    damaged
}

#[test]
fn a_full_disk_sends_what_waits_through_the_journal() {
    let (world, node, seen) = started(3);
    assert!(world.run_until(Duration::from_secs(5), || seen.durable.get() >= 1), "the first batch is durable");
    let used = world.files(node).iter().map(|(_, len)| len.next_multiple_of(4096)).sum();
    world.set_disk_capacity(node, used);
    assert!(world.run_until(Duration::from_secs(5), || seen.durable.get() == BATCHES + 1), "all become durable");
    assert!(seen.refused.get(), "the segment took nothing");
    world.crash(node, CrashKind::PowerLoss);
    let (found, extents) = recovered(&world, node);
    assert_eq!((found.len() as i64, extents), (BATCHES + 1, 0), "the journal holds them all");
}
