use std::cell::RefCell;
use std::rc::Rc;

use super::*;
use crate::io::sim::{CrashKind, FaultClass, Faults, NodeId, World};

const DIRECTORY: &str = "/@metadata";

fn directory() -> &'static Path {
    Path::new(DIRECTORY)
}

fn file(which: usize) -> PathBuf {
    directory().join(NAMES[which])
}

/// A batch's payload: its number, and as many bytes more as make frames of one to some blocks.
fn payload(number: u64) -> Bytes {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(8 + (number as usize * 1009) % 9000, number as u8);
    Bytes::from(bytes)
}

fn number(payload: &Bytes) -> u64 {
    let number = u64::from_le_bytes(payload[..8].try_into().expect("8 bytes"));
    assert_eq!(*payload, self::payload(number), "a payload is as it was written");
    number
}

/// The numbers that a log holds.
fn numbers(recovered: &Recovered) -> Vec<u64> {
    recovered.batches.iter().map(|batch| number(&batch.payload)).collect()
}

/// Opens the log on `node`: what it holds.
fn reopen(world: &World, node: NodeId) -> Result<Recovered, MetadataLogError> {
    world.block_on(node, async |io: Io| MetadataLog::open(&io, directory()).await.map(|(_, recovered)| recovered))
}

fn append_some(world: &World, node: NodeId, count: u64) {
    world.block_on(node, async move |io: Io| {
        let (mut log, _) = MetadataLog::open(&io, directory()).await.expect("a whole log");
        for number in 0..count {
            assert_eq!(log.append(0, 1, payload(number)).await.expect("a good disk"), number as i64);
        }
    });
    world.stop(node);
}

/// Appends without end, now and then compacting, and notes what was acknowledged.
async fn work(io: Io, acknowledged: Rc<RefCell<Vec<u64>>>) {
    let Ok((mut log, recovered)) = MetadataLog::open(&io, directory()).await else { return };
    let mut all = numbers(&recovered);
    assert_eq!(log.last_index() + 1, all.len() as i64);
    // What a start has shown to others counts as much as what was acknowledged.
    *acknowledged.borrow_mut() = all.clone();
    loop {
        let next = all.len() as u64;
        if log.append(0, 1, payload(next)).await.is_err() {
            if log.has_failed() {
                return;
            }
            io.sleep(Duration::from_millis(1)).await;
            continue;
        }
        all.push(next);
        acknowledged.borrow_mut().push(next);
        if io.random_u64().is_multiple_of(8) {
            let snapshot = all.iter().map(|number| (1, payload(*number))).collect();
            if log.compact(0, snapshot).await.is_err() && log.has_failed() {
                return;
            }
        }
    }
}

#[test]
fn no_crash_loses_or_invents_a_batch() {
    let (mut crashes, mut total, mut repairs) = (0, 0, 0);
    for seed in 0..150 {
        let faults = match seed % 3 {
            0 => Faults::none(),
            1 => Faults::swarm(seed, false),
            // Writes of a killed process are still under way when the next one starts.
            _ => Faults { slow_disk: 0.3, ..Faults::none() },
        };
        let world = World::new(seed, faults.clone());
        let node = world.add_node();
        let acknowledged = Rc::new(RefCell::new(Vec::new()));
        for round in 0..6u64 {
            let acknowledged = acknowledged.clone();
            world.start(node, 1, move |io| work(io, acknowledged.clone()));
            let kind = if (seed + round) % 2 == 0 { CrashKind::PowerLoss } else { CrashKind::Kill };
            let delay = Duration::from_micros((seed * 7919 + round * 104_729) % 40_000);
            world.crash_after(node, kind, delay);
            world.run_until(Duration::from_secs(60), || !world.is_running(node));
            if world.is_running(node) {
                world.crash(node, kind);
            }
            crashes += 1;
        }
        world.set_faults(Faults::none());
        if seed % 2 == 0 {
            world.run_for(Duration::from_secs(20));
            world.flip_bit(node, &file(seed as usize / 2 % 2));
        }
        let recovered = reopen(&world, node).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let found = numbers(&recovered);
        total += found.len();
        repairs += recovered.repairs.len();
        let expected: Vec<u64> = (0..found.len() as u64).collect();
        assert_eq!(found, expected, "seed {seed}: batches in their order, without a gap");
        let acknowledged = acknowledged.borrow();
        let last = acknowledged.last().map_or(0, |last| last + 1);
        assert!(found.len() as u64 >= last, "seed {seed}: {last} were acknowledged, {} found", found.len());
    }
    assert_eq!(crashes, 900);
    assert!(total > 10_000 && repairs > 30, "{total} batches, {repairs} repairs");
}

/// Appends until a kill in the middle of it; slow writes are still under way then.
fn killed_at_work(seed: u64) -> (World, NodeId) {
    let world = World::new(seed, Faults { slow_disk: 0.3, ..Faults::none() });
    let node = world.add_node();
    world.start(node, 1, async |io: Io| {
        let (mut log, _) = MetadataLog::open(&io, directory()).await.expect("a new log");
        for number in 0.. {
            // A sector each, so that what a kill tears is often whole.
            log.append(0, 1, Bytes::copy_from_slice(&u64::to_le_bytes(number))).await.expect("a good disk");
        }
    });
    world.crash_after(node, CrashKind::Kill, Duration::from_millis(2000 + seed * 7));
    assert!(world.run_until(Duration::from_secs(60), || !world.is_running(node)));
    world.set_faults(Faults::none());
    (world, node)
}

/// What a log of such payloads holds.
fn small_numbers(recovered: &Recovered) -> Vec<u64> {
    let number = |batch: &Batch| u64::from_le_bytes(batch.payload[..].try_into().expect("8 bytes"));
    recovered.batches.iter().map(number).collect()
}

#[test]
fn a_dead_processs_writes_do_not_land_on_the_next_ones() {
    for seed in 0..100 {
        let (world, node) = killed_at_work(seed);
        let expected = world.block_on(node, async |io: Io| {
            let (mut log, recovered) = MetadataLog::open(&io, directory()).await.expect("a whole log");
            let mut all = small_numbers(&recovered);
            for number in 1000..1003 {
                log.append(1, 1, Bytes::copy_from_slice(&u64::to_le_bytes(number))).await.expect("a good disk");
                all.push(number);
            }
            all
        });
        world.stop(node);
        world.run_for(Duration::from_secs(20));
        let recovered = reopen(&world, node).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(small_numbers(&recovered), expected, "seed {seed}");
        assert!(recovered.repairs.is_empty(), "seed {seed}: {:?}", recovered.repairs);
    }
}

#[test]
fn what_a_start_has_shown_stays() {
    for seed in 0..40 {
        let world = World::new(seed, Faults::none());
        let node = world.add_node();
        // An append that a kill cut off between its writes and its flush: whole, in volatile caches.
        world.block_on(node, async |io: Io| {
            let (mut log, _) = MetadataLog::open(&io, directory()).await.expect("a whole log");
            log.append(0, 1, payload(0)).await.expect("a good disk");
            let batch = Batch { term: 0, index: 1, count: 1, payload: payload(1) };
            let bytes = frame::encode(&log.next, &batch).0.freeze();
            for file in &log.files {
                file.write_at(log.position, bytes.clone()).await.expect("a good disk");
            }
        });
        world.crash(node, CrashKind::Kill);
        let shown = numbers(&reopen(&world, node).expect("a whole log"));
        assert_eq!(shown, [0, 1]);
        world.crash(node, CrashKind::PowerLoss);
        let found = numbers(&reopen(&world, node).unwrap_or_else(|error| panic!("seed {seed}: {error}")));
        assert_eq!(found, shown, "seed {seed}");
    }
}

#[test]
fn one_flipped_bit_loses_nothing_and_is_repaired() {
    for seed in 0..60 {
        let world = World::new(seed, Faults::none());
        let node = world.add_node();
        append_some(&world, node, 12);
        let hit = file(seed as usize % 2);
        world.flip_bit(node, &hit).expect("a flushed byte");
        let recovered = reopen(&world, node).expect("the mirror is whole");
        assert_eq!(numbers(&recovered), (0..12).collect::<Vec<_>>(), "seed {seed}");
        assert_eq!(recovered.repairs.len(), 1, "seed {seed}");
        world.stop(node);
        let (a, b) = (world.file_content(node, &file(0)), world.file_content(node, &file(1)));
        let trimmed = |content: Option<Vec<u8>>| {
            let content = content.expect("a file");
            let end = content.iter().rposition(|byte| *byte != 0).expect("a header");
            content[..=end].to_vec()
        };
        assert_eq!(trimmed(a), trimmed(b), "seed {seed}");
        assert_eq!(reopen(&world, node).expect("a whole log").repairs, Vec::<String>::new());
        assert_eq!(world.coverage().count(FaultClass::BitFlip), 1);
    }
}

/// Overwrites a byte of a file.
fn spoil(world: &World, node: NodeId, path: PathBuf, position: u64) {
    world.block_on(node, async move |io: Io| {
        let file = io.open(&path, OpenMode::ReadWrite).await.expect("a file");
        let block = position / BLOCK as u64 * BLOCK as u64;
        let mut bytes = file.read_at(block, BLOCK).await.expect("a good disk");
        bytes[(position - block) as usize] ^= 1;
        file.write_at(block, bytes.freeze()).await.expect("a good disk");
        file.sync().await.expect("a good disk");
    });
    world.stop(node);
}

#[test]
fn what_both_mirrors_lost_is_refused() {
    let open_spoilt = |positions: [u64; 2]| {
        let world = World::new(1, Faults::none());
        let node = world.add_node();
        append_some(&world, node, 12);
        spoil(&world, node, file(0), positions[0]);
        spoil(&world, node, file(1), positions[1]);
        reopen(&world, node)
    };
    let second_frame = 2 * BLOCK as u64;
    // Damage at different places: each mirror has what the other lacks.
    let recovered = open_spoilt([second_frame + 20, BLOCK as u64 + 20]).expect("a whole log");
    assert_eq!(numbers(&recovered), (0..12).collect::<Vec<_>>());
    assert_eq!(recovered.repairs.len(), 2);
    let error = open_spoilt([second_frame + 20, second_frame + 60]).expect_err("damage in the middle");
    assert!(matches!(error, MetadataLogError::Damaged { position } if position == second_frame), "{error}");
    let error = open_spoilt([20, 30]).expect_err("no header");
    assert!(matches!(error, MetadataLogError::NoHeader(_)), "{error}");
}

#[test]
fn a_torn_append_is_taken_off() {
    let world = World::new(1, Faults::none());
    let node = world.add_node();
    append_some(&world, node, 12);
    // The last frame's last block is lost in both: an append that was under way.
    let content = world.file_content(node, &file(0)).expect("a file");
    let end = content.iter().rposition(|byte| *byte != 0).expect("a header") as u64;
    spoil(&world, node, file(0), end);
    spoil(&world, node, file(1), end);
    let recovered = reopen(&world, node).expect("a log that ends earlier");
    assert_eq!(numbers(&recovered), (0..11).collect::<Vec<_>>());
    assert_eq!(recovered.last_index, 10);
    assert_eq!(recovered.repairs.len(), 2);
}

#[test]
fn a_lost_file_comes_back() {
    for lost in 0..2 {
        let world = World::new(1, Faults::none());
        let node = world.add_node();
        append_some(&world, node, 5);
        world.block_on(node, async move |io: Io| io.remove_file(&file(lost)).await.expect("a file"));
        world.stop(node);
        assert_eq!(numbers(&reopen(&world, node).expect("the mirror")), [0, 1, 2, 3, 4]);
        world.stop(node);
        world.block_on(node, async move |io: Io| io.remove_file(&file(1 - lost)).await.expect("a file"));
        world.stop(node);
        assert_eq!(numbers(&reopen(&world, node).expect("the new mirror")), [0, 1, 2, 3, 4]);
    }
}

#[test]
fn a_damaged_snapshot_is_not_taken_for_a_torn_append() {
    let world = World::new(1, Faults::none());
    let node = world.add_node();
    append_some(&world, node, 3);
    world.block_on(node, async |io: Io| {
        let (mut log, _) = MetadataLog::open(&io, directory()).await.expect("a whole log");
        log.compact(0, (0..3).map(|number| (1, payload(number))).collect()).await.expect("a good disk");
        assert_eq!(log.last_index(), 2);
        assert_eq!(log.append(0, 1, payload(3)).await.expect("a good disk"), 3);
        log.compact(0, (0..4).map(|number| (1, payload(number))).collect()).await.expect("a good disk");
    });
    world.stop(node);
    let recovered = reopen(&world, node).expect("a whole log");
    assert_eq!((numbers(&recovered), recovered.last_index), (vec![0, 1, 2, 3], 3));
    world.stop(node);
    let content = world.file_content(node, &file(0)).expect("a file");
    let end = content.iter().rposition(|byte| *byte != 0).expect("a header") as u64;
    spoil(&world, node, file(0), end);
    spoil(&world, node, file(1), end);
    let error = reopen(&world, node).expect_err("a snapshot was durable as a whole");
    assert!(matches!(error, MetadataLogError::Damaged { .. }), "{error}");
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    let world = World::new(1, Faults::none());
    let node = world.add_node();
    world.set_disk_capacity(node, 3 << 20);
    let appended = world.block_on(node, async |io: Io| {
        let (mut log, _) = MetadataLog::open(&io, directory()).await.expect("a whole log");
        let mut appended = 0;
        loop {
            match log.append(0, 1, payload(appended)).await {
                Ok(_) => appended += 1,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
                    assert!(!log.has_failed());
                    return appended;
                }
            }
        }
    });
    assert!(appended > 50);
    world.stop(node);
    world.set_disk_capacity(node, 1 << 30);
    let next = world.block_on(node, async move |io: Io| {
        let (mut log, recovered) = MetadataLog::open(&io, directory()).await.expect("a whole log");
        assert_eq!(numbers(&recovered).len() as u64, appended);
        log.append(0, 1, payload(appended)).await.expect("room")
    });
    assert_eq!(next, appended as i64);
}
