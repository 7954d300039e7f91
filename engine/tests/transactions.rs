//! Transactions of a partition in simulation: what a reader of committed records is shown, over crashes.
//!
//! A model knows every transaction and how it ended. The judge reads the partition as Kafka's consumer does,
//! leaving out what the list of aborted transactions tells it to, after each life of the node: after a power
//! loss from the journal's replay, after a clean stop from segments and their transaction indexes.

mod support;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use engine::controller::{ControllerRequest, NewTopic, Settings};
use engine::io::Io;
use engine::io::sim::{CrashKind, Faults, NodeId, World};
use engine::protocol::ErrorCode;
use engine::record::BatchBuilder;
use engine::shard::message::{
    Await, EndTransactionMarker, Guard, ListOffset, MarkerPart, PartitionId, Produce, ProducePart, Read, ReadFrom,
    ReadPart, Reply, Request, Verification, VerifyTransaction,
};
use engine::shard::{Core, NodeConfig, node_mailboxes, start};

struct Broker {
    world: Rc<World>,
    node: NodeId,
    core: Core,
}

impl Broker {
    fn start(world: Rc<World>, node: NodeId) -> Broker {
        let settings = Settings::new(1, BTreeMap::new()).expect("the defaults are valid");
        let config = Arc::new(NodeConfig {
            data_dir: "/data".into(),
            node_id: 1,
            shards: 1,
            journal_bytes: 64 << 20,
            memory_bytes: 64 << 20,
            settings,
            accept_loss: false,
            past_journal_bytes: None,
            snapshot_after_bytes: None,
            descriptors: None,
        });
        let mut mailboxes: Vec<_> = node_mailboxes(&config).into_iter().map(Some).collect();
        let ready: Rc<RefCell<Option<Core>>> = Rc::default();
        world.start(node, 2, |io: Io| {
            let mailbox = mailboxes[io.core()].take().expect("a core starts once");
            let (config, ready) = (config.clone(), ready.clone());
            async move {
                let core = start(io.clone(), mailbox, config).await.expect("the node starts");
                if io.core() == 0 {
                    *ready.borrow_mut() = Some(core);
                }
                std::future::pending().await
            }
        });
        assert!(world.run_until(Duration::from_secs(60), || ready.borrow().is_some()), "the node is ready");
        let core = ready.borrow().clone().expect("it is ready");
        let broker = Broker { world, node, core };
        let configs = [("segment.bytes".to_owned(), Some("1048576".to_owned()))].into_iter().collect();
        let topic = NewTopic { name: "t".into(), partitions: 1, replication_factor: 1, configs, ..NewTopic::default() };
        let request = ControllerRequest::CreateTopics { topics: vec![topic], validate_only: false };
        broker.block_on(|core| async move { core.controller(request).await });
        broker
    }

    fn block_on<T: 'static, F: Future<Output = T> + 'static>(&self, make: impl FnOnce(Core) -> F) -> T {
        let core = self.core.clone();
        self.world.block_on(self.node, |_| make(core))
    }

    fn id(&self) -> PartitionId {
        PartitionId { topic_id: self.core.image().topic("t").expect("it was made").id, partition: 0 }
    }

    fn ask(&self, request: Request) -> Reply {
        self.block_on(|core| async move { core.request(0, request).await.expect("a running node answers") })
    }

    fn produce(&self, producer: &Producer, value: &str, guard: Option<Guard>) -> (ErrorCode, i64) {
        let mut batch = BatchBuilder::new()
            .producer(producer.id, producer.epoch, producer.sequence)
            .transactional(producer.transactional);
        batch.append(0, None, Some(value.as_bytes()), &[]);
        let part = ProducePart { id: self.id(), records: batch.finish().into(), guard };
        let deadline = self.core.io().now() + Duration::from_secs(30);
        let produce = Produce { acks: -1, version: 12, origin: (0, 0), deadline, parts: vec![part] };
        let Reply::Produce(results) = self.ask(Request::Produce(produce)) else { panic!("answers its request") };
        (results[0].error, results[0].base_offset)
    }

    fn verify(&self, producer: &Producer) -> Verification {
        let wanted = VerifyTransaction {
            id: self.id(),
            producer_id: producer.id,
            epoch: producer.epoch,
            first_sequence: producer.sequence,
            bumps_epoch: true,
        };
        let Reply::VerifyTransactions(results) = self.ask(Request::VerifyTransactions(vec![wanted])) else {
            panic!("answers its request")
        };
        results[0].expect("the partition is here")
    }

    fn end(&self, producer_id: i64, producer_epoch: i16, committed: bool) -> ErrorCode {
        let marker = EndTransactionMarker { committed, producer_id, producer_epoch, coordinator_epoch: 0 };
        let part = MarkerPart { id: self.id(), marker, bumped: true };
        let Reply::WriteMarkers(results) = self.ask(Request::WriteMarkers(vec![part])) else {
            panic!("answers its request")
        };
        results[0]
    }

    /// Ends well: all is in segments.
    fn stop(self) {
        self.block_on(|core| async move { core.stop().await });
        self.world.crash(self.node, CrashKind::Kill);
    }

    fn read(&self, offset: i64, read_committed: bool) -> ReadPart {
        let part = self.try_read(offset, read_committed);
        assert_eq!(part.error, ErrorCode::None, "at {offset}");
        part
    }

    fn try_read(&self, offset: i64, read_committed: bool) -> ReadPart {
        let from =
            ReadFrom { id: self.id(), current_leader_epoch: -1, last_fetched_epoch: -1, offset, max_bytes: 90_000 };
        let read = Read { read_committed, max_bytes: 90_000, first_whole: true, parts: vec![from] };
        let Reply::Read(mut parts) = self.ask(Request::Read(read)) else { panic!("answers its request") };
        parts.remove(0)
    }

    fn latest(&self, read_committed: bool) -> i64 {
        let part = ListOffset { id: self.id(), current_leader_epoch: -1, timestamp: -1, read_committed };
        let Reply::ListOffsets(listed) = self.ask(Request::ListOffsets(vec![part])) else {
            panic!("answers its request")
        };
        listed[0].offset
    }

    /// What Kafka's consumer hands to its user with isolation.level=read_committed.
    fn consume_committed(&self) -> BTreeMap<i64, String> {
        let mut values = BTreeMap::new();
        let mut offset = 0;
        loop {
            let part = self.read(offset, true);
            let before = offset;
            offset = support::consume_committed(&part, offset, &mut values);
            if offset == before {
                assert_eq!(offset, part.last_stable_offset, "everything stable was shown");
                return values;
            }
        }
    }
}

#[derive(Clone)]
struct Producer {
    id: i64,
    epoch: i16,
    sequence: i32,
    transactional: bool,
    /// Of the transaction that is open.
    open: BTreeMap<i64, String>,
}

/// What must be true of the partition.
struct Model {
    producers: Vec<Producer>,
    committed: BTreeMap<i64, String>,
    end: i64,
    written: u64,
    chance: u64,
}

impl Model {
    fn new(seed: u64) -> Model {
        let producer = |id| Producer { id, epoch: 0, sequence: 0, transactional: id != 5, open: BTreeMap::new() };
        Model {
            producers: (1..=5).map(producer).collect(),
            committed: BTreeMap::new(),
            end: 0,
            written: 0,
            chance: seed,
        }
    }

    fn draw(&mut self, bound: u64) -> u64 {
        self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.chance >> 33) % bound
    }

    fn last_stable_offset(&self) -> i64 {
        let first = |producer: &Producer| producer.open.first_key_value().map(|(offset, _)| *offset);
        self.producers.iter().filter_map(first).min().unwrap_or(self.end)
    }

    fn step(&mut self, broker: &Broker) {
        let at = self.draw(self.producers.len() as u64) as usize;
        let ends = self.producers[at].transactional && self.draw(4) == 0;
        if ends { self.end_transaction(broker, at) } else { self.produce(broker, at) }
    }

    fn produce(&mut self, broker: &Broker, at: usize) {
        let size = if self.draw(3) == 0 { 40_000 } else { 20 };
        let value = format!("{}-{}", self.written, "x".repeat(size));
        self.written += 1;
        let producer = self.producers[at].clone();
        let guard = match producer.transactional.then(|| broker.verify(&producer)) {
            Some(Verification::Ask(guard)) => {
                assert!(producer.open.is_empty(), "an open transaction is not asked for");
                assert_eq!(broker.produce(&producer, &value, None).0, ErrorCode::InvalidTxnState);
                Some(guard)
            }
            Some(Verification::Open) => {
                assert!(!producer.open.is_empty(), "only an open transaction needs no guard");
                None
            }
            None => None,
        };
        assert_eq!(broker.produce(&producer, &value, guard), (ErrorCode::None, self.end));
        match producer.transactional {
            true => self.producers[at].open.insert(self.end, value),
            false => self.committed.insert(self.end, value),
        };
        self.producers[at].sequence += 1;
        self.end += 1;
    }

    fn end_transaction(&mut self, broker: &Broker, at: usize) {
        let committed = self.draw(2) == 0;
        let producer = &mut self.producers[at];
        if !producer.open.is_empty() {
            let previous = broker.end(producer.id, producer.epoch, committed);
            assert_eq!(previous, ErrorCode::InvalidProducerEpoch, "a marker of the previous epoch");
        }
        producer.epoch += 1;
        producer.sequence = 0;
        assert_eq!(broker.end(producer.id, producer.epoch, committed), ErrorCode::None);
        let open = std::mem::take(&mut producer.open);
        if committed {
            self.committed.extend(open);
        }
        self.end += 1;
    }

    fn judge(&self, broker: &Broker) {
        let stable = self.last_stable_offset();
        assert_eq!(broker.latest(true), stable);
        assert_eq!(broker.latest(false), self.end);
        let mut expected = self.committed.clone();
        expected.retain(|offset, _| *offset < stable);
        let found = broker.consume_committed();
        assert!(found == expected, "committed offsets {:?}, shown {:?}", expected.keys(), found.keys());
    }
}

fn live(seed: u64) {
    let world = Rc::new(World::new(seed, Faults::none()));
    let node = world.add_node();
    let mut model = Model::new(seed);
    for life in 0..4 {
        let broker = Broker::start(world.clone(), node);
        model.judge(&broker);
        for _ in 0..120 {
            model.step(&broker);
        }
        model.judge(&broker);
        if life % 2 == 0 {
            world.crash(node, CrashKind::PowerLoss);
        } else {
            broker.stop();
        }
        world.run_for(Duration::from_secs(40));
    }
}

#[test]
fn committed_records_alone_are_shown_over_crashes() {
    let seeds = std::env::var("SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    let first = std::env::var("SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    (first..first + seeds).for_each(live);
}

/// The partition's files with this ending, and what is in them.
fn files(world: &World, node: NodeId, ending: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let all = world.files(node).into_iter().map(|(path, _)| path);
    let wanted = all.filter(|path| path.to_string_lossy().ends_with(ending));
    wanted.map(|path| (path.clone(), world.file_content(node, &path).expect("it is there"))).collect()
}

/// A life of some segments that ends well.
fn fill(broker: Broker, model: &mut Model) {
    for _ in 0..300 {
        model.step(&broker);
    }
    broker.stop();
}

/// Takes files away from a stopped node.
fn remove(world: &World, node: NodeId, paths: Vec<PathBuf>) {
    world.start(node, 1, |io: Io| {
        let paths = paths.clone();
        async move {
            for path in &paths {
                io.remove_file(path).await.expect("it is there");
                io.sync_dir(path.parent().expect("a directory")).await.expect("it is there");
            }
            std::future::pending::<()>().await
        }
    });
    world.run_for(Duration::from_secs(1));
    world.crash(node, CrashKind::Kill);
}

#[test]
fn a_lost_index_is_made_again_as_it_was() {
    for seed in 0..4 {
        let world = Rc::new(World::new(seed, Faults::none()));
        let node = world.add_node();
        let mut model = Model::new(seed);
        fill(Broker::start(world.clone(), node), &mut model);
        let before = files(&world, node, ".txnindex");
        assert!(before.len() > 2, "seed {seed}: several segments have aborted transactions");
        match seed % 2 {
            0 => remove(&world, node, before.keys().cloned().collect()),
            _ => before.keys().for_each(|path| drop((0..400).map(|_| world.flip_bit(node, path)).collect::<Vec<_>>())),
        }
        let harmed = files(&world, node, ".txnindex");
        assert!(before.iter().all(|(path, content)| harmed.get(path) != Some(content)));

        let broker = Broker::start(world.clone(), node);
        model.judge(&broker);
        let sealed = before.keys().rev().skip(1);
        for path in sealed {
            assert!(world.file_content(node, path).as_ref() == before.get(path), "seed {seed}: {}", path.display());
        }
        // The one of the segment that goes on is written anew with what comes.
        fill(broker, &mut model);
        let after = files(&world, node, ".txnindex");
        let (path, content) = before.last_key_value().expect("there are several");
        let entries = content.iter().rposition(|byte| *byte != 0).expect("it has entries");
        assert!(after[path][..=entries] == content[..=entries], "seed {seed}");
        model.judge(&Broker::start(world, node));
    }
}

#[test]
fn where_records_are_lost_too_no_aborted_one_is_shown() {
    for seed in 0..6 {
        let world = Rc::new(World::new(seed, Faults::none()));
        let node = world.add_node();
        let mut model = Model::new(seed);
        fill(Broker::start(world.clone(), node), &mut model);
        let logs: Vec<PathBuf> =
            files(&world, node, ".log").into_keys().filter(|path| path.to_string_lossy().contains("/t-0/")).collect();
        world.flip_bit(node, &logs[1]).expect("it has content");
        let indexes = files(&world, node, ".txnindex").into_keys().collect();
        remove(&world, node, indexes);

        let broker = Broker::start(world, node);
        let (mut shown, mut refused, mut offset) = (BTreeMap::new(), BTreeSet::new(), 0);
        while offset < model.last_stable_offset() {
            let part = broker.try_read(offset, true);
            match part.error {
                ErrorCode::None => offset = support::consume_committed(&part, offset, &mut shown),
                error => {
                    assert_eq!(error, ErrorCode::CorruptMessage);
                    refused.insert(offset);
                    offset += 1;
                }
            }
        }
        assert!(!refused.is_empty(), "seed {seed}: the damage is met");
        let last_refused = *refused.last().expect("some are");
        for (offset, value) in &shown {
            assert_eq!(model.committed.get(offset), Some(value), "seed {seed}: {offset} was not committed");
        }
        let missing = |(offset, _): &(&i64, &String)| !shown.contains_key(offset) && !refused.contains(offset);
        let lost = model.committed.range(..model.last_stable_offset()).find(missing);
        assert_eq!(lost, None, "seed {seed}: what is not shown is refused");
        assert!(shown.keys().any(|offset| *offset > last_refused), "seed {seed}: behind the damage all is well");
    }
}

#[test]
fn a_reader_of_committed_records_waits_for_the_marker() {
    let world = Rc::new(World::new(1, Faults::none()));
    let node = world.add_node();
    let broker = Broker::start(world, node);
    let mut model = Model::new(1);
    model.produce(&broker, 0);
    let deadline = broker.core.io().now() + Duration::from_secs(3600);
    let wait = |read_committed, seen| {
        let wait = Await { deadline, read_committed, parts: vec![(broker.id(), seen)] };
        broker.block_on(|core| async move {
            let io = core.io().clone();
            let news = async {
                core.request(0, Request::Await(wait)).await;
                true
            };
            let patience = async {
                io.sleep(Duration::from_secs(1)).await;
                false
            };
            futures_lite::future::or(news, patience).await
        })
    };
    assert!(wait(false, 0), "the record is on stable storage");
    assert!(!wait(true, 0), "its transaction is open");
    model.end_transaction(&broker, 0);
    assert!(wait(true, 0), "its transaction has ended");
}

#[cfg(feature = "planted")]
#[test]
fn planted_bugs_are_found() {
    use engine::planted::{Bug, plant};
    for bug in [Bug::MarkerOfPreviousEpochAccepted, Bug::StableOffsetAheadOfOpenTransaction, Bug::ForgetProducerState] {
        let found = (0..4).filter(|seed| {
            plant(Some(bug));
            let result = std::panic::catch_unwind(|| live(*seed));
            plant(None);
            result.is_err()
        });
        let found = found.count();
        println!("{bug:?} found by {found} of 4 seeds");
        assert!(found > 0, "{bug:?} goes unnoticed");
    }
}
