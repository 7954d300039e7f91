//! Uneven lives on a sound machine: a hot partition beside many idle ones, bursts, hours in which nothing happens, and
//! clients that are a nuisance: slow uploaders, some that announce a request and do not send it, readers that do not
//! read, waiters that vanish. Whatever they do, a small request of another client is answered within a second, every
//! partition takes records to the end, and a power loss at the end takes nothing that was acknowledged.
//!
//! Each seed draws a `--journal`, a `--memory` and a number of shards of its own for each life.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use engine::io::sim::{CrashKind, Faults};
use engine::io::{Class, Io};
use engine::protocol::messages::fetch::{FetchPartition, FetchRequest, FetchTopic};
use engine::protocol::messages::metadata::MetadataRequest;
use engine::protocol::messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use engine::protocol::{Records, request_frame};

use crate::caller::{Caller, Known, Step};
use crate::chance::Chance;
use crate::clients::Topic;
use crate::cluster::{Cluster, Layout};
use crate::wire::Connection;
use crate::{setting, show_log};

/// A small request waits no longer, in virtual time.
const SOON: Duration = Duration::from_secs(1);
/// How long one spell of load lasts.
const SPELL: Duration = Duration::from_secs(5);
/// What clients need to end what they have begun, and a broker to start.
const PATIENCE: Duration = Duration::from_secs(60);
/// The stream of chance, apart from the other workloads'.
const STREAM: u64 = 0x756e_6576_656e;
const STILL: &str = "604800000";

/// What a seed's clients share.
struct Swarm {
    address: SocketAddr,
    known: Rc<Known>,
    stopping: Cell<bool>,
    running: Cell<usize>,
    /// Small requests and the longest that one of them took.
    asked: Cell<u64>,
    longest: Cell<Duration>,
    late: RefCell<Vec<String>>,
}

impl Swarm {
    fn run<F: Future<Output = ()> + 'static>(self: &Rc<Swarm>, io: &Io, make: impl FnOnce(Rc<Swarm>, Io) -> F) {
        self.running.set(self.running.get() + 1);
        let (swarm, client) = (self.clone(), make(self.clone(), io.clone()));
        io.spawn(Class::Foreground, async move {
            client.await;
            swarm.running.set(swarm.running.get() - 1);
        });
    }

    fn note(&self, what: &str, took: Duration) {
        self.asked.set(self.asked.get() + 1);
        self.longest.set(self.longest.get().max(took));
        if took > SOON {
            self.late.borrow_mut().push(format!("{what} took {took:?}"));
        }
    }

    fn topics(&self) -> Vec<Topic> {
        self.known.topics.borrow().clone()
    }
}

/// What one seed came to.
struct Outcome {
    asked: u64,
    longest: Duration,
    wrong: Vec<String>,
}

/// How many there are of each nuisance.
struct Nuisances {
    uploaders: u64,
    announcers: u64,
    stalled: u64,
    vanishing: u64,
}

fn live(seed: u64, crowd: u64) -> Outcome {
    let mut chance = Chance::new(seed, STREAM);
    let faults = Faults { chunking: 0.1, network_delay: 0.02, slow_mail: 0.02, ..Faults::none() };
    let faults = Faults { network_delay_max: Duration::from_millis(20), ..faults };
    let cluster = Cluster::new(seed, faults, draw_layout(&mut chance), Rc::default());
    let swarm = Rc::new(Swarm {
        address: cluster.address,
        known: Rc::default(),
        stopping: Cell::new(false),
        running: Cell::new(0),
        asked: Cell::new(0),
        longest: Cell::new(Duration::ZERO),
        late: RefCell::default(),
    });
    let mut wrong = Vec::new();
    for life in 0..chance.between(1, 3) {
        cluster.redraw(draw_layout(&mut chance));
        cluster.start(chance.between(1, 3) as usize, false);
        if let Err(what) = life_of(&cluster, &swarm, &mut chance, (life == 0, crowd)) {
            wrong.push(format!("{what}: {:?}", cluster.take_failures()));
            break;
        }
        cluster.world.crash(cluster.broker, CrashKind::TotalPowerLoss);
        cluster.world.run_for(Duration::from_millis(1));
    }
    if wrong.is_empty() {
        cluster.start(2, false);
        if let Err(what) = ready(&cluster).and_then(|()| check(&cluster, &swarm)) {
            wrong.push(format!("after all {what}"));
        }
    }
    wrong.extend(swarm.late.take());
    Outcome { asked: swarm.asked.get(), longest: swarm.longest.get(), wrong }
}

fn draw_layout(chance: &mut Chance) -> Layout {
    Layout {
        journal_bytes: *chance.pick(&[8 << 20, 16 << 20, 64 << 20]),
        memory_bytes: *chance.pick(&[16 << 20, 32 << 20, 128 << 20]),
        settings: BTreeMap::new(),
        past_journal_bytes: *chance.pick(&[None, None, Some(6000)]),
        snapshot_after_bytes: None,
    }
}

fn ready(cluster: &Cluster) -> Result<(), String> {
    cluster.world.run_until(PATIENCE, || cluster.is_ready() || !cluster.is_running());
    if cluster.is_ready() && cluster.is_running() { Ok(()) } else { Err("the broker does not start".to_owned()) }
}

/// One life: spells of load, between them silence of up to a day.
fn life_of(
    cluster: &Cluster,
    swarm: &Rc<Swarm>,
    chance: &mut Chance,
    (first, crowd): (bool, u64),
) -> Result<(), String> {
    ready(cluster)?;
    let io = cluster.world.io(cluster.clients, 0);
    if first {
        let idle = chance.between(8, 40) as i32;
        swarm.run(&io, move |swarm, io| async move {
            let mut caller = Caller::new(&io, swarm.address);
            caller.act(&swarm.known, Step::Create("hot", 2, STILL)).await;
            caller.act(&swarm.known, Step::Create("idle", idle, STILL)).await;
            for partition in 0..idle {
                caller.act(&swarm.known, Step::Append("idle", partition, 1, 40)).await;
            }
        });
        settle(cluster, swarm)?;
    }
    for _ in 0..chance.between(1, 3) {
        spell(cluster, swarm, chance, crowd);
        cluster.world.run_for(SPELL);
        if !cluster.is_running() {
            return Err("the broker ends".to_owned());
        }
        settle(cluster, swarm)?;
        let silence = *chance.pick(&[0, 1, 60, 3600, 4 * 3600]);
        cluster.world.run_for(Duration::from_secs(silence));
    }
    check(cluster, swarm)
}

/// Waits until all clients have stopped.
fn settle(cluster: &Cluster, swarm: &Rc<Swarm>) -> Result<(), String> {
    swarm.stopping.set(true);
    let stopped = cluster.world.run_until(PATIENCE, || swarm.running.get() == 0 || !cluster.is_running());
    swarm.stopping.set(false);
    if stopped && cluster.is_running() { Ok(()) } else { Err(format!("{} clients do not end", swarm.running.get())) }
}

/// Load for a while. There are fewer than 2 to the power of `crowd` nuisances of a kind.
fn spell(cluster: &Cluster, swarm: &Rc<Swarm>, chance: &mut Chance, crowd: u64) {
    let io = cluster.world.io(cluster.clients, 0);
    let own = |chance: &mut Chance| Chance::new(chance.next(), STREAM);
    let nuisances = Nuisances {
        uploaders: if chance.one_in(2) { chance.log_below(crowd) } else { 0 },
        announcers: if chance.one_in(2) { chance.log_below(crowd) } else { 0 },
        stalled: if chance.one_in(2) { chance.log_below(4) } else { 0 },
        vanishing: if chance.one_in(2) { chance.log_below(4) } else { 0 },
    };
    for _ in 0..nuisances.uploaders {
        let own = own(chance);
        swarm.run(&io, |swarm, io| upload_slowly(swarm, io, own));
    }
    for _ in 0..nuisances.announcers {
        let own = own(chance);
        swarm.run(&io, |swarm, io| announce(swarm, io, own));
    }
    for _ in 0..nuisances.stalled {
        let own = own(chance);
        swarm.run(&io, |swarm, io| stall(swarm, io, own));
    }
    for _ in 0..nuisances.vanishing {
        let own = own(chance);
        swarm.run(&io, |swarm, io| vanish(swarm, io, own));
    }
    let (hot, small, asking) = (own(chance), own(chance), own(chance));
    swarm.run(&io, |swarm, io| burst(swarm, io, hot));
    swarm.run(&io, |swarm, io| append_small(swarm, io, small));
    swarm.run(&io, |swarm, io| ask_small(swarm, io, asking));
}

/// Everything acknowledged is there, and every partition takes more.
fn check(cluster: &Cluster, swarm: &Rc<Swarm>) -> Result<(), String> {
    let found: Rc<RefCell<Option<Result<(), String>>>> = Rc::default();
    let result = found.clone();
    let io = cluster.world.io(cluster.clients, 0);
    let known = swarm.known.clone();
    let mut caller = Caller::new(&io, swarm.address);
    io.spawn(Class::Foreground, async move {
        let outcome = caller.check(&known, true).await;
        *result.borrow_mut() = Some(outcome);
    });
    cluster.world.run_until(PATIENCE, || found.borrow().is_some() || !cluster.is_running());
    let outcome = found.borrow_mut().take();
    outcome.unwrap_or_else(|| Err("not everything is available".to_owned()))
}

/// Large batches to the hot topic: some in a row, then a pause.
async fn burst(swarm: Rc<Swarm>, io: Io, mut chance: Chance) {
    let topics = swarm.topics();
    let hot = topics.iter().find(|topic| topic.name == "hot").expect("it was made first");
    let mut caller = Caller::new(&io, swarm.address);
    while !swarm.stopping.get() {
        for _ in 0..chance.log_below(5) {
            let (partition, bytes) = (chance.below(2) as i32, 100 + chance.log_below(16) as usize);
            let _ = caller.produce(&swarm.known, hot, partition, bytes, None).await;
        }
        io.sleep(Duration::from_millis(chance.log_below(10))).await;
    }
}

/// One small record to an idle partition now and then, each of which must be taken soon.
async fn append_small(swarm: Rc<Swarm>, io: Io, mut chance: Chance) {
    let topics = swarm.topics();
    let mut caller = Caller::new(&io, swarm.address);
    while !swarm.stopping.get() {
        let topic = chance.pick(&topics);
        let partition = chance.below(topic.partitions as u64) as i32;
        let began = io.now();
        let taken = caller.produce(&swarm.known, topic, partition, 40, None).await;
        swarm.note(if taken { "a small Produce" } else { "a refused Produce" }, io.now().since(began));
        io.sleep(Duration::from_millis(chance.log_below(8))).await;
    }
}

/// Metadata and small reads, each of which must be answered soon.
async fn ask_small(swarm: Rc<Swarm>, io: Io, mut chance: Chance) {
    let topics = swarm.topics();
    let mut caller = Caller::new(&io, swarm.address);
    while !swarm.stopping.get() {
        let began = io.now();
        if chance.one_in(2) {
            let request = MetadataRequest { topics: Some(Vec::new()), ..Default::default() };
            let _ = caller.ask(&request, 12).await;
            swarm.note("Metadata", io.now().since(began));
        } else {
            let topic = chance.pick(&topics);
            let partition = chance.below(topic.partitions as u64) as i32;
            let _ = caller.ask(&fetch_request(topic, &[partition], 0, 1000), 17).await;
            swarm.note("a small Fetch", io.now().since(began));
        }
        io.sleep(Duration::from_millis(chance.log_below(8))).await;
    }
}

fn fetch_request(topic: &Topic, partitions: &[i32], max_wait_ms: i32, max_bytes: i32) -> FetchRequest<'static> {
    let partition = |partition: &i32| FetchPartition {
        partition: *partition,
        fetch_offset: 0,
        partition_max_bytes: max_bytes,
        ..Default::default()
    };
    let topic =
        FetchTopic { topic_id: topic.id, partitions: partitions.iter().map(partition).collect(), ..Default::default() };
    let min_bytes = if max_wait_ms > 0 { i32::MAX } else { 0 };
    FetchRequest { max_wait_ms, min_bytes, max_bytes: 1 << 20, topics: vec![topic], ..Default::default() }
}

/// A Produce of some hundred kB that comes in small pieces; never whole.
async fn upload_slowly(swarm: Rc<Swarm>, io: Io, mut chance: Chance) {
    let Ok(stream) = io.connect(swarm.address).await else { return };
    let size = chance.between(100_000, 2_000_000) as usize;
    let records = Some(Records::Chunks(vec![Bytes::from(vec![0; size])]));
    let data = TopicProduceData {
        topic_id: swarm.topics()[0].id,
        partition_data: vec![PartitionProduceData { index: 0, records }],
        ..Default::default()
    };
    let request = ProduceRequest { acks: -1, timeout_ms: 5_000, topic_data: vec![data], ..Default::default() };
    let chunks = request_frame(13, 1, Some("slow"), &request).expect("a request that can be written");
    let mut frame: Bytes = chunks.concat().into();
    let piece = chance.between(100, 2_000) as usize;
    while !swarm.stopping.get() && frame.len() > piece {
        if stream.write(vec![frame.split_to(piece)]).await.is_err() {
            return;
        }
        io.sleep(Duration::from_millis(chance.between(20, 100))).await;
    }
}

/// The length of a large request, and nothing behind it.
async fn announce(swarm: Rc<Swarm>, io: Io, mut chance: Chance) {
    let Ok(stream) = io.connect(swarm.address).await else { return };
    let size = chance.between(100_000, 2_000_000) as u32;
    let _ = stream.write(vec![Bytes::copy_from_slice(&size.to_be_bytes())]).await;
    while !swarm.stopping.get() {
        io.sleep(Duration::from_millis(100)).await;
    }
}

/// Large reads in a row whose answers nobody reads.
async fn stall(swarm: Rc<Swarm>, io: Io, mut chance: Chance) {
    let Ok(mut connection) = Connection::open(&io, swarm.address, 0).await else { return };
    let topics = swarm.topics();
    let hot = topics.iter().find(|topic| topic.name == "hot").expect("it was made first");
    for _ in 0..chance.between(1, 8) {
        if connection.send(&fetch_request(hot, &[0, 1], 0, 1 << 20), 17).await.is_err() {
            return;
        }
    }
    while !swarm.stopping.get() {
        io.sleep(Duration::from_millis(100)).await;
    }
}

/// Waits at many partitions for what does not come, and is gone before; again and again.
async fn vanish(swarm: Rc<Swarm>, io: Io, mut chance: Chance) {
    let topics = swarm.topics();
    let idle = topics.iter().find(|topic| topic.name == "idle").expect("it was made first");
    let all: Vec<i32> = (0..idle.partitions).collect();
    while !swarm.stopping.get() {
        let Ok(mut connection) = Connection::open(&io, swarm.address, 0).await else { return };
        let wait_ms = *chance.pick(&[500, 30_000, 600_000]);
        let _ = connection.send(&fetch_request(idle, &all, wait_ms, 1 << 20), 17).await;
        io.sleep(Duration::from_millis(chance.log_below(8))).await;
    }
}

fn answers_soon(seeds: u64, crowd: u64) {
    show_log();
    let first = setting("SEED").unwrap_or(0);
    let seeds = setting("SEEDS").unwrap_or(if setting("SEED").is_some() { 1 } else { seeds });
    let (mut asked, mut longest, mut wrong) = (0, Duration::ZERO, Vec::new());
    for seed in first..first + seeds {
        let outcome = live(seed, crowd);
        asked += outcome.asked;
        longest = longest.max(outcome.longest);
        wrong.extend(outcome.wrong.first().map(|what| format!("seed {seed} ({}): {what}", outcome.wrong.len())));
    }
    println!("{asked} small requests, the longest took {longest:?}");
    assert!(asked > 100 * seeds, "too few small requests");
    assert!(wrong.is_empty(), "{} seeds:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn small_requests_are_answered_soon_whatever_other_clients_do() {
    answers_soon(8, 5);
}

#[test]
fn small_requests_are_answered_soon_beside_a_crowd_of_slow_ones() {
    answers_soon(8, 9);
}
