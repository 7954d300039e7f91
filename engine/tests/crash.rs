//! The engine in simulation: produce, crash at random moments, start again, and read everything back.
//!
//! The judge is simple and strict: an acknowledged batch is at its offset with its bytes after every crash, and
//! whatever else is there was sent and never answered.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use engine::controller::{ControllerRequest, NewTopic, Settings};
use engine::io::Io;
use engine::io::sim::{CrashKind, Faults, NodeId, World};
use engine::protocol::ErrorCode;
use engine::record::{BatchBuilder, batches};
use engine::shard::message::{PartitionId, Produce, ProducePart, Read, ReadFrom, Reply, Request, owner};
use engine::shard::{Core, NodeConfig, node_mailboxes, start};

const PARTITIONS: i32 = 5;

/// What the clients know: acknowledged values by partition and offset, and all values that were ever sent.
#[derive(Default)]
struct History {
    acknowledged: BTreeMap<(i32, i64), String>,
    sent: u64,
}

struct Run {
    world: World,
    node: NodeId,
    history: Rc<RefCell<History>>,
}

impl Run {
    /// Starts the node and its clients; whatever fails leaves the node to the next crash.
    fn start(&self, shards: usize) -> Rc<RefCell<Option<Core>>> {
        // In two of three worlds some or all batches go past the journal.
        let past_journal_bytes = [None, Some(400), Some(1)][(self.world.seed() % 3) as usize];
        let settings = Settings::new(1, BTreeMap::new()).expect("the defaults are valid");
        let config = Arc::new(NodeConfig {
            data_dir: "/data".into(),
            node_id: 1,
            shards,
            journal_bytes: 64 << 20,
            memory_bytes: 64 << 20,
            settings,
            accept_loss: false,
            past_journal_bytes,
            snapshot_after_bytes: None,
            descriptors: None,
        });
        let mut mailboxes: Vec<_> = node_mailboxes(&config).into_iter().map(Some).collect();
        let ready = Rc::new(RefCell::new(None));
        self.world.start(self.node, shards + 1, |io| {
            let mailbox = mailboxes[io.core()].take().expect("a core starts once");
            let (config, history, ready) = (config.clone(), self.history.clone(), ready.clone());
            async move {
                let core = match start(io.clone(), mailbox, config).await {
                    Ok(core) => core,
                    Err(error) => return println!("core {} does not start: {error}", io.core()),
                };
                if io.core() == 0 {
                    make_topic(&core).await;
                    *ready.borrow_mut() = Some(core.clone());
                    for partition in 0..PARTITIONS {
                        let client = produce_for_ever(io.clone(), core.clone(), history.clone(), partition);
                        io.spawn(engine::io::Class::Foreground, client);
                    }
                }
                std::future::pending().await
            }
        });
        ready
    }
}

async fn make_topic(core: &Core) {
    let topic = NewTopic { name: "t".into(), partitions: PARTITIONS, replication_factor: 1, ..NewTopic::default() };
    core.controller(ControllerRequest::CreateTopics { topics: vec![topic], validate_only: false }).await;
}

fn partition_id(core: &Core, partition: i32) -> Option<PartitionId> {
    Some(PartitionId { topic_id: core.image().topic("t")?.id, partition })
}

async fn produce_for_ever(io: Io, core: Core, history: Rc<RefCell<History>>, partition: i32) {
    let Some(id) = partition_id(&core, partition) else { return };
    loop {
        let number = history.borrow().sent;
        history.borrow_mut().sent += 1;
        let value = format!("{partition}-{number}-{}", "x".repeat((number % 700) as usize));
        let mut batch = BatchBuilder::new();
        batch.append(io.wall_clock_ms(), None, Some(value.as_bytes()), &[]);
        let part = ProducePart { id, records: batch.finish().into(), guard: None };
        let deadline = io.now() + Duration::from_secs(30);
        let request = Request::Produce(Produce { acks: -1, version: 12, origin: (0, 0), deadline, parts: vec![part] });
        let Some(Reply::Produce(results)) = core.request(owner(id, core.shards()), request).await else { return };
        if results[0].error != ErrorCode::None {
            return;
        }
        history.borrow_mut().acknowledged.insert((partition, results[0].base_offset), value);
    }
}

/// Everything that the partition shows, by offset.
async fn read_all(core: Core, partition: i32) -> BTreeMap<i64, String> {
    let mut values = BTreeMap::new();
    let Some(id) = partition_id(&core, partition) else { return values };
    loop {
        let offset = values.last_key_value().map_or(0, |(offset, _)| offset + 1);
        let from = ReadFrom { id, current_leader_epoch: -1, last_fetched_epoch: -1, offset, max_bytes: 1 << 20 };
        let read = Read { read_committed: false, max_bytes: 1 << 20, first_whole: true, parts: vec![from] };
        let Some(Reply::Read(parts)) = core.request(owner(id, core.shards()), Request::Read(read)).await else {
            panic!("a running node answers");
        };
        assert_eq!(parts[0].error, ErrorCode::None, "partition {partition} at {offset}");
        if parts[0].records.is_empty() {
            return values;
        }
        parts[0].records.iter().for_each(|bytes| collect(bytes, &mut values));
    }
}

fn collect(bytes: &Bytes, values: &mut BTreeMap<i64, String>) {
    for batch in batches(bytes) {
        let batch = batch.expect("whole batches");
        assert!(batch.crc_ok());
        let records = batch.records_section();
        let record = engine::record::Records::new(records, 1).next().expect("one record").expect("a whole record");
        let value = String::from_utf8(record.value.expect("a value").to_vec()).expect("text");
        values.insert(batch.base_offset(), value);
    }
}

/// One seed: several lives of the node, with other cores each time. Gives how much was acknowledged.
fn live(seed: u64, crashes: u64) -> (usize, u64) {
    let mut faults = Faults::swarm(seed, false);
    faults.no_space = 0.0;
    let world = World::new(seed, faults);
    let node = world.add_node();
    let run = Run { world, node, history: Rc::default() };
    for life in 0..crashes {
        let ready = run.start([1, 3, 2][((seed + life) % 3) as usize]);
        run.world.run_for(Duration::from_millis(200 + (seed * 31 + life * 977) % 1500));
        drop(ready);
        let kind = if (seed + life).is_multiple_of(2) { CrashKind::PowerLoss } else { CrashKind::Kill };
        run.world.crash(run.node, kind);
        run.world.run_for(Duration::from_secs(40));
    }
    run.world.set_faults(Faults::none());
    let ready = run.start(2);
    let started = run.world.run_until(Duration::from_secs(120), || ready.borrow().is_some());
    assert!(started, "seed {seed}: the node starts once the faults are over");
    let core = ready.borrow().clone().expect("it is ready");
    let expected = run.history.borrow().acknowledged.clone();
    let found: Rc<RefCell<BTreeMap<i32, BTreeMap<i64, String>>>> = Rc::default();
    for partition in 0..PARTITIONS {
        let values = run.world.block_on(run.node, |_| read_all(core.clone(), partition));
        found.borrow_mut().insert(partition, values);
    }
    for ((partition, offset), value) in &expected {
        let there = found.borrow().get(partition).and_then(|values| values.get(offset).cloned());
        assert_eq!(there.as_ref(), Some(value), "seed {seed}: acknowledged at {partition}/{offset}");
    }
    for values in found.borrow().values() {
        let mut distinct: Vec<_> = values.values().collect();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), values.len(), "seed {seed}: no value is there twice");
    }
    (expected.len(), run.world.trace_hash())
}

#[test]
fn acknowledged_records_survive_crashes() {
    let seeds = std::env::var("SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(40);
    let first = std::env::var("SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let acknowledged: usize = (first..first + seeds).map(|seed| live(seed, 3).0).sum();
    println!("{acknowledged} acknowledged records over {seeds} seeds");
    assert!(acknowledged > 0);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    assert_eq!(live(7, 2), live(7, 2));
}

async fn remove_tree(io: &Io, dir: &Path) {
    for entry in io.read_dir(dir).await.expect("it is there") {
        let path = dir.join(&entry.name);
        match entry.is_dir {
            true => Box::pin(remove_tree(io, &path)).await,
            false => io.remove_file(&path).await.expect("a file goes"),
        }
    }
    io.remove_dir(dir).await.expect("an empty directory goes");
}

fn partition_directories(run: &Run) -> usize {
    let listed = run.world.block_on(run.node, |io| async move { io.read_dir(Path::new("/data")).await });
    run.world.crash(run.node, CrashKind::Kill);
    listed.expect("readable").into_iter().filter(|entry| entry.name.starts_with("t-")).count()
}

/// Losing one of our own directories is an operator's mistake that must not cost the records as well.
#[test]
fn records_are_not_removed_when_what_names_them_is_lost() {
    for lost in ["@journal", "@metadata"] {
        let world = World::new(1, Faults::none());
        let node = world.add_node();
        let run = Run { world, node, history: Rc::default() };
        let core = run.start(2);
        run.world.run_for(Duration::from_secs(3));
        let running = core.borrow().clone().expect("it runs");
        run.world.block_on(node, |_| async move { running.stop().await });
        run.world.crash(node, CrashKind::Kill);
        assert_eq!(partition_directories(&run), PARTITIONS as usize, "all of them have records");
        run.world.block_on(node, |io| async move { remove_tree(&io, &Path::new("/data").join(lost)).await });
        run.world.crash(node, CrashKind::Kill);
        let core = run.start(2);
        run.world.run_for(Duration::from_secs(60));
        assert!(core.borrow().is_none(), "it must not start without {lost}");
        run.world.crash(node, CrashKind::Kill);
        assert_eq!(partition_directories(&run), PARTITIONS as usize, "nothing is removed without {lost}");
    }
}
