//! Transactions over several partitions and their coordinators in simulation, with crashes at random moments.
//!
//! Clients begin, write, commit, abort, or vanish in the midst. The judge: a committed transaction is there with
//! all of its records, any other with none, and once its time is over no transaction is open.

mod support;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use engine::controller::{ControllerRequest, NewTopic, Settings};
use engine::coordinator::transaction::{TransactionReply, TransactionRequest};
use engine::coordinator::{self, Producer, TRANSACTION_TOPIC, partition_of};
use engine::io::sim::{CrashKind, Faults, NodeId, World};
use engine::io::{Class, Io};
use engine::protocol::ErrorCode;
use engine::record::BatchBuilder;
use engine::shard::message::{
    Guard, ListOffset, PartitionId, Produce, ProducePart, Read, ReadFrom, Reply, Request, Verification,
    VerifyTransaction, owner,
};
use engine::shard::{Core, NodeConfig, node_mailboxes, start};

const PARTITIONS: i32 = 4;
const COORDINATORS: i32 = 3;
const CLIENTS: u64 = 4;
const TIMEOUT_MS: i32 = 3000;

/// What a client knows of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Its end was never answered.
    Unknown,
    Committed,
    Aborted,
}

#[derive(Default)]
struct History {
    /// Transactions by number, with what they wrote and the partitions of it.
    transactions: BTreeMap<u64, (Fate, BTreeSet<String>)>,
    last_id: i64,
}

type Shared = Rc<RefCell<History>>;

struct Client {
    io: Io,
    core: Core,
    history: Shared,
    /// Its transactional id.
    name: String,
    bumps_epoch: bool,
}

impl Client {
    async fn coordinate(&self, request: TransactionRequest) -> Result<TransactionReply, ErrorCode> {
        let topic_id = self.core.image().topic(TRANSACTION_TOPIC).ok_or(ErrorCode::NotCoordinator)?.id;
        let id = PartitionId { topic_id, partition: partition_of(&self.name, COORDINATORS as usize) };
        let request = Request::Coordinate(id, coordinator::Request::Transaction(request));
        match self.core.request(owner(id, self.core.shards()), request).await {
            Some(Reply::Coordinate(coordinator::Reply::Transaction(reply))) => Ok(reply),
            Some(Reply::Coordinate(coordinator::Reply::Refused(error))) => Err(error),
            other => panic!("not the answer: {other:?}"),
        }
    }

    async fn producer(&self, request: TransactionRequest) -> Result<Producer, ErrorCode> {
        self.coordinate(request).await.map(|reply| match reply {
            TransactionReply::Producer(producer) => producer,
            other => panic!("not the answer: {other:?}"),
        })
    }

    async fn init(&self) -> Producer {
        loop {
            self.history.borrow_mut().last_id += 1;
            let spare_id = self.history.borrow().last_id;
            let transactional_id = self.name.clone();
            let init = TransactionRequest::InitProducerId {
                transactional_id,
                timeout_ms: TIMEOUT_MS,
                expected: None,
                spare_id,
            };
            match self.producer(init).await {
                Ok(producer) => return producer,
                Err(_) => self.io.sleep(Duration::from_millis(20)).await,
            }
        }
    }

    fn partition(&self, index: i32) -> PartitionId {
        PartitionId { topic_id: self.core.image().topic("t").expect("it was made").id, partition: index }
    }

    async fn ask(&self, id: PartitionId, request: Request) -> Reply {
        self.core.request(owner(id, self.core.shards()), request).await.expect("a running node answers")
    }

    /// A client of version 1 adds the partition itself, before it sends anything; the broker then looks for it. For
    /// one of version 2 the broker adds it.
    async fn guard(&self, producer: Producer, sequence: i32, index: i32) -> Result<Option<Guard>, ErrorCode> {
        if !self.bumps_epoch {
            self.add(producer, index, false).await?;
        }
        let id = self.partition(index);
        let Producer { id: producer_id, epoch } = producer;
        let wanted =
            VerifyTransaction { id, producer_id, epoch, first_sequence: sequence, bumps_epoch: self.bumps_epoch };
        let Reply::VerifyTransactions(verified) = self.ask(id, Request::VerifyTransactions(vec![wanted])).await else {
            panic!("answers its request")
        };
        let Verification::Ask(guard) = verified[0]? else { return Ok(None) };
        self.add(producer, index, !self.bumps_epoch).await?;
        Ok(Some(guard))
    }

    async fn add(&self, producer: Producer, index: i32, verify_only: bool) -> Result<(), ErrorCode> {
        for _ in 0..50 {
            let add = TransactionRequest::AddPartitions {
                transactional_id: self.name.clone(),
                producer,
                partitions: [("t".to_owned(), [index].into())].into(),
                bumps_epoch: self.bumps_epoch,
                verify_only,
            };
            match self.coordinate(add).await {
                Ok(TransactionReply::Partitions(results)) if results[0].2 == ErrorCode::None => return Ok(()),
                Ok(TransactionReply::Partitions(results)) => return Err(results[0].2),
                Err(ErrorCode::ConcurrentTransactions) => self.io.sleep(Duration::from_millis(5)).await,
                Err(error) => return Err(error),
                other => panic!("not the answer: {other:?}"),
            }
        }
        Err(ErrorCode::ConcurrentTransactions)
    }

    async fn write(&self, producer: Producer, sequence: i32, index: i32, value: &str) -> Result<(), ErrorCode> {
        let guard = self.guard(producer, sequence, index).await?;
        let mut batch = BatchBuilder::new().producer(producer.id, producer.epoch, sequence).transactional(true);
        batch.append(self.io.wall_clock_ms(), None, Some(value.as_bytes()), &[]);
        let part = ProducePart { id: self.partition(index), records: batch.finish().into(), guard };
        let deadline = self.io.now() + Duration::from_secs(10);
        let produce = Request::Produce(Produce { acks: -1, version: 12, origin: (0, 0), deadline, parts: vec![part] });
        let Reply::Produce(results) = self.ask(self.partition(index), produce).await else {
            panic!("answers its request")
        };
        assert_ne!(results[0].error, ErrorCode::InvalidTxnState, "{} was verified for {value}", self.name);
        if results[0].error == ErrorCode::None { Ok(()) } else { Err(results[0].error) }
    }

    async fn run(self) {
        loop {
            let mut producer = self.init().await;
            let mut sequences = [0; PARTITIONS as usize];
            while let Ok(next) = self.transaction(producer, &mut sequences).await {
                if next != producer {
                    sequences = [0; PARTITIONS as usize];
                }
                producer = next;
            }
        }
    }

    async fn transaction(
        &self,
        producer: Producer,
        sequences: &mut [i32; PARTITIONS as usize],
    ) -> Result<Producer, ErrorCode> {
        let number = self.history.borrow().transactions.len() as u64;
        self.history.borrow_mut().transactions.insert(number, (Fate::Unknown, BTreeSet::new()));
        for record in 0..1 + self.io.random_u64() % 4 {
            let index = (self.io.random_u64() % PARTITIONS as u64) as i32;
            let value = format!("{number}/{record}/{index}");
            self.history.borrow_mut().transactions.get_mut(&number).expect("begun").1.insert(value.clone());
            self.write(producer, sequences[index as usize], index, &value).await?;
            sequences[index as usize] += 1;
        }
        match self.io.random_u64() % 12 {
            // Takes too long, comes back as if nothing had been, and must not be listened to.
            0 => self.io.sleep(Duration::from_millis(TIMEOUT_MS as u64 * 3)).await,
            // Starts again without a word.
            1 => return Err(ErrorCode::UnknownServerError),
            _ => {}
        }
        let committed = !self.io.random_u64().is_multiple_of(3);
        let end = || TransactionRequest::End {
            transactional_id: self.name.clone(),
            producer,
            committed,
            bumps_epoch: self.bumps_epoch,
            spare_id: -1,
        };
        // An answer may be lost: the same request again has the same answer.
        let mut result = self.producer(end()).await;
        while result.is_ok() && self.io.random_u64().is_multiple_of(4)
            || result == Err(ErrorCode::ConcurrentTransactions)
        {
            self.io.sleep(Duration::from_millis(3)).await;
            result = self.producer(end()).await;
        }
        let next = result?;
        let fate = if committed { Fate::Committed } else { Fate::Aborted };
        self.history.borrow_mut().transactions.get_mut(&number).expect("begun").0 = fate;
        Ok(next)
    }
}

fn start_node(
    world: &World,
    node: NodeId,
    history: &Shared,
    shards: usize,
    clients: bool,
) -> Rc<RefCell<Option<Core>>> {
    let settings = Settings::new(1, BTreeMap::new()).expect("the defaults are valid");
    let config = Arc::new(NodeConfig {
        data_dir: "/data".into(),
        node_id: 1,
        shards,
        journal_bytes: 64 << 20,
        memory_bytes: 64 << 20,
        settings,
        accept_loss: false,
        past_journal_bytes: None,
        snapshot_after_bytes: Some(2_000),
        descriptors: None,
    });
    let mut mailboxes: Vec<_> = node_mailboxes(&config).into_iter().map(Some).collect();
    let ready: Rc<RefCell<Option<Core>>> = Rc::default();
    world.start(node, shards + 1, |io| {
        let mailbox = mailboxes[io.core()].take().expect("a core starts once");
        let (config, history, ready) = (config.clone(), history.clone(), ready.clone());
        async move {
            let core = start(io.clone(), mailbox, config).await.expect("the node starts");
            if io.core() == 0 {
                make_topics(&core).await;
                *ready.borrow_mut() = Some(core.clone());
                for number in (0..CLIENTS).filter(|_| clients) {
                    let (io_of_client, core) = (io.clone(), core.clone());
                    let (history, name) = (history.clone(), format!("client-{number}"));
                    let client = Client { io: io_of_client, core, history, name, bumps_epoch: number % 2 == 0 };
                    io.spawn(Class::Foreground, client.run());
                }
            }
            std::future::pending().await
        }
    });
    ready
}

async fn make_topics(core: &Core) {
    let topic = |name: &str, partitions| NewTopic {
        name: name.into(),
        partitions,
        replication_factor: 1,
        ..NewTopic::default()
    };
    let topics = vec![topic(TRANSACTION_TOPIC, COORDINATORS), topic("t", PARTITIONS)];
    core.controller(ControllerRequest::CreateTopics { topics, validate_only: false }).await;
}

async fn ends(core: &Core, id: PartitionId) -> (i64, i64) {
    let part = |read_committed| ListOffset { id, current_leader_epoch: -1, timestamp: -1, read_committed };
    let request = Request::ListOffsets(vec![part(true), part(false)]);
    let Some(Reply::ListOffsets(listed)) = core.request(owner(id, core.shards()), request).await else {
        panic!("a running node answers");
    };
    (listed[0].offset, listed[1].offset)
}

async fn read_committed(core: Core) -> BTreeSet<String> {
    let topic_id = core.image().topic("t").expect("it was made").id;
    let mut all = BTreeSet::new();
    for partition in 0..PARTITIONS {
        let id = PartitionId { topic_id, partition };
        let (last_stable_offset, high_watermark) = ends(&core, id).await;
        assert_eq!(last_stable_offset, high_watermark, "every transaction of {partition} has ended");
        let (mut values, mut offset) = (BTreeMap::new(), 0);
        while offset < high_watermark {
            let from = ReadFrom { id, current_leader_epoch: -1, last_fetched_epoch: -1, offset, max_bytes: 1000 };
            let read =
                Request::Read(Read { read_committed: true, max_bytes: 1000, first_whole: true, parts: vec![from] });
            let Some(Reply::Read(parts)) = core.request(owner(id, core.shards()), read).await else {
                panic!("a running node answers");
            };
            offset = support::consume_committed(&parts[0], offset, &mut values);
        }
        let count = values.len();
        let before = all.len();
        all.extend(values.into_values());
        assert_eq!(all.len(), before + count, "no value is there twice");
    }
    all
}

/// Several lives of a node; gives how many transactions were committed, aborted and left unknown.
fn live(seed: u64) -> [usize; 3] {
    let world = World::new(seed, Faults::none());
    let node = world.add_node();
    let history: Shared = Rc::new(RefCell::new(History { last_id: 1000, ..History::default() }));
    for life in 0..3u64 {
        let ready = start_node(&world, node, &history, [1, 3, 2][((seed + life) % 3) as usize], true);
        assert!(world.run_until(Duration::from_secs(60), || ready.borrow().is_some()), "seed {seed}: it starts");
        world.run_for(Duration::from_millis(300 + (seed * 131 + life * 977) % 9000));
        drop(ready);
        world.crash(node, if (seed + life).is_multiple_of(2) { CrashKind::PowerLoss } else { CrashKind::Kill });
        world.run_for(Duration::from_secs(40));
    }
    let ready = start_node(&world, node, &history, 2, false);
    assert!(world.run_until(Duration::from_secs(60), || ready.borrow().is_some()), "seed {seed}: it starts");
    // No client comes back: what hangs ends by its timeout alone.
    world.run_for(Duration::from_millis(TIMEOUT_MS as u64 + 2000));
    let core = ready.borrow().clone().expect("it is ready");
    let shown = world.block_on(node, |_| read_committed(core));
    let mut counts = [0; 3];
    let mut expected = 0;
    for (number, (fate, values)) in &history.borrow().transactions {
        let there = values.iter().filter(|value| shown.contains(*value)).count();
        let whole = there == values.len();
        match fate {
            Fate::Committed => assert!(whole, "seed {seed}: {number} is committed, {there} of {values:?}"),
            Fate::Aborted => assert_eq!(there, 0, "seed {seed}: {number} is aborted: {values:?}"),
            Fate::Unknown => assert!(whole || there == 0, "seed {seed}: {number} is torn: {there} of {values:?}"),
        }
        expected += there;
        counts[*fate as usize] += 1;
    }
    assert_eq!(shown.len(), expected, "seed {seed}: nothing else is shown");
    counts
}

#[test]
fn transactions_are_whole_or_not_there_over_crashes() {
    let seeds = std::env::var("SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(6);
    let first = std::env::var("SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut sum = [0; 3];
    for seed in first..first + seeds {
        let counts = live(seed);
        (0..3).for_each(|at| sum[at] += counts[at]);
    }
    println!("{} committed, {} aborted, {} unknown over {seeds} seeds", sum[1], sum[2], sum[0]);
    assert!(sum[1] > 10 && sum[2] > 10);
}
