//! Drains and flushes that meet a full disk, a lack of descriptors, and files that are gone, short or unwritable.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::io::sim::{CrashKind, Faults, NodeId, World};
use crate::log::PartitionId;
use crate::log::group::{Entry, EntryKind};
use crate::log::partition_log::LogRecord;
use crate::log::reader::{self, Found, OpenSegments};
use crate::record::BatchBuilder;

const ID: PartitionId = PartitionId { topic_id: Uuid([7; 16]), partition: 0 };
const DIR: &str = "/t-0";

/// A log on a disk of its own.
struct Bench {
    world: World,
    node: NodeId,
    log: SharedLog,
    next_offset: i64,
}

impl Bench {
    fn new(seed: u64) -> Bench {
        let world = World::new(seed, Faults::none());
        let node = world.add_node();
        let log = Log::restore(LogRecord::new(ID), DIR.into(), Default::default());
        Bench { world, node, log: Rc::new(RefCell::new(log)), next_offset: 0 }
    }

    /// So many batches of one record have become durable in the journal.
    fn push(&mut self, batches: usize) {
        for _ in 0..batches {
            let mut batch = BatchBuilder::new();
            batch.append(1, None, Some(&[self.next_offset as u8; 40_000]), &[]);
            let mut bytes = batch.finish();
            crate::record::batch::set_base_offset(&mut bytes, self.next_offset);
            let entry = Entry {
                kind: EntryKind::Append,
                id: ID,
                ownership: 0,
                base_offset: self.next_offset,
                end_offset: self.next_offset + 1,
                leader_epoch: 0,
                length: bytes.len() as u32,
                crc: 0,
            };
            self.log.borrow_mut().on_durable(&entry, Bytes::from(bytes), 1);
            self.next_offset += 1;
        }
    }

    fn drain(&self) -> io::Result<()> {
        let log = self.log.clone();
        self.world.block_on(self.node, |io| async move { drain(&io, &log, &Bell::default()).await })
    }

    fn flush(&self) -> io::Result<LogRecord> {
        let log = self.log.clone();
        let flushed = self.world.block_on(self.node, |io| async move { flush(&io, &log).await });
        flushed.map(|record| record.expect("no drain is under way"))
    }

    /// The log as the next start finds it from this record.
    fn restart(&mut self, record: &LogRecord) {
        let log = Log::restore(record.clone(), DIR.into(), Default::default());
        self.log = Rc::new(RefCell::new(log));
    }

    /// What a reader is given at an offset: the first byte of the record's value, or nothing if it is lost.
    fn read(&self, offset: i64) -> io::Result<Option<u8>> {
        self.log.borrow_mut().evict_before(i64::MAX);
        let log = self.log.clone();
        let end = self.next_offset;
        let opened = OpenSegments::default();
        let found = self
            .world
            .block_on(self.node, |io| async move { reader::read(&io, &log, &opened, offset, end, 1, true).await });
        Ok(match found? {
            Found::Damaged => None,
            Found::Batches(chunks) => {
                let batch = BatchView::parse(&chunks[0]).expect("a whole batch");
                assert_eq!(batch.base_offset(), offset);
                chunks[0].last_chunk::<2>().map(|end| end[0])
            }
        })
    }
}

#[test]
fn a_new_segments_name_is_durable_when_a_record_says_so_though_a_full_disk_refused_the_flush_before() {
    for seed in 0..50 {
        let mut bench = Bench::new(seed);
        bench.push(4);
        bench.drain().expect("there is room");
        bench.world.set_faults(Faults { no_space: 1.0, ..Faults::none() });
        let refused = bench.flush().expect_err("the index cannot grow");
        assert_eq!(DiskFault::lack(&refused), Some(crate::io::fault::Lack::Space));
        assert!(bench.log.borrow().is_dirty(), "the checkpoint still lacks what was not flushed");
        bench.world.set_faults(Faults::none());
        let record = bench.flush().expect("there is room again");
        assert_eq!(record.drained_end_offset, 4);
        bench.world.crash(bench.node, CrashKind::PowerLoss);
        bench.world.run_for(Duration::from_secs(1));
        let content = bench.world.file_content(bench.node, &record.segments[0].log_path(Path::new(DIR)));
        let size = content.map_or(0, |bytes| bytes.len() as u64);
        assert!(size >= record.segments[0].size, "seed {seed}: the segment of a record is gone");
    }
}

/// A log with four records in a segment that a checkpoint knows, after a restart, and two more in the journal.
fn with_a_known_segment(seed: u64) -> (Bench, std::path::PathBuf) {
    let mut bench = Bench::new(seed);
    bench.push(4);
    bench.drain().expect("a disk that works");
    let record = bench.flush().expect("a disk that works");
    let path = record.segments[0].log_path(Path::new(DIR));
    bench.restart(&record);
    bench.push(2);
    (bench, path)
}

#[test]
fn a_segment_that_is_gone_costs_what_it_held_and_the_log_goes_on() {
    let (bench, path) = with_a_known_segment(1);
    bench.world.block_on(bench.node, |io| async move { io.remove_file(&path).await }).expect("it is there");
    bench.drain().expect("the log goes on in a new segment");
    bench.flush().expect("a disk that works");
    assert_eq!(bench.log.borrow().drained_end_offset(), 6);
    assert!(bench.read(1).is_err(), "its file is gone");
    assert_eq!(bench.read(4).expect("a new segment"), Some(4));
    assert_eq!(bench.read(5).expect("a new segment"), Some(5));
}

#[test]
fn a_segment_that_was_shortened_costs_what_it_lacks() {
    let (bench, path) = with_a_known_segment(2);
    let cut = bench.world.block_on(bench.node, |io| async move {
        io.open(&path, OpenMode::ReadWrite).await?.truncate(2 * 40_960).await
    });
    cut.expect("it is there");
    bench.drain().expect("the log goes on in a new segment");
    bench.flush().expect("a disk that works");
    assert_eq!(bench.read(0).expect("what is left is served"), Some(0));
    assert_eq!(bench.read(3).expect("damage is no error"), None);
    assert_eq!(bench.read(5).expect("a new segment"), Some(5));
}

#[test]
fn a_directory_that_is_gone_is_made_anew() {
    let (bench, path) = with_a_known_segment(3);
    let index = path.with_extension("index");
    let gone = bench.world.block_on(bench.node, |io| async move {
        io.remove_file(&path).await?;
        io.remove_file(&index).await?;
        io.remove_file(&Path::new(DIR).join(PARTITION_METADATA)).await?;
        io.remove_dir(Path::new(DIR)).await
    });
    gone.expect("it is there");
    bench.drain().expect("the log goes on in a new directory");
    bench.flush().expect("a disk that works");
    assert_eq!(bench.read(5).expect("a new segment"), Some(5));
}

#[test]
fn a_segment_that_takes_no_writes_is_left_and_another_begun() {
    let mut left = 0;
    for seed in 0..300 {
        let mut bench = Bench::new(seed);
        bench.push(1);
        bench.drain().expect("a disk that works");
        bench.world.set_faults(Faults { write_error: 0.2, ..Faults::none() });
        bench.push(3);
        let drained = bench.drain();
        bench.world.set_faults(Faults::none());
        if let Err(error) = &drained {
            assert!(DiskFault::is_of_file(error), "a write's error is the file's own");
            bench.drain().expect("a disk that works again");
        }
        left += usize::from(bench.log.borrow().segments().len() > 1);
        let record = bench.flush().expect("a disk that works");
        bench.world.crash(bench.node, CrashKind::PowerLoss);
        bench.world.run_for(Duration::from_secs(1));
        bench.restart(&record);
        for offset in 0..4 {
            assert_eq!(bench.read(offset).expect("flushed"), Some(offset as u8), "seed {seed}");
        }
    }
    assert!(left > 20, "segments were left: {left}");
}
