//! One seed of groups and transactions: the lives of a broker as in the other workload, with transactional producers,
//! readers, members of groups of both protocols, observers and a late operator as its clients.
//!
//! Nothing is damaged at rest: there the ledger of the other workload would have to know which coordinator's record
//! a lost group was, to say whose promise that excuses.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use checker::Summary;
use engine::io::Instant;

use crate::chance::Chance;
use crate::cluster::{Cluster, Layout};
use crate::lives::{RECOVERY, Run, Workload};
use crate::readers::{How, fetch, list_offsets};
use crate::seed::{Outcome, draw_faults};
use crate::shared::{Line, Load, Shared, administrate, list};
use crate::{classic, offsets, operator, readers, reconciling, transactions};

/// Each seed has at least so many ends of transactions and commits of offsets acknowledged.
pub(crate) const LEAST_ACKNOWLEDGED: u64 = 150;
/// Apart from the other workload's, so that the seeds of both are not alike.
const STREAM: u64 = 0x636f_6f72_6400;

/// Lives the seed.
pub(crate) fn live(seed: u64) -> Outcome {
    let mut chance = Chance::new(seed, STREAM);
    let ready = Rc::new(Cell::new(false));
    let world = chance.next();
    let mut faults = draw_faults(world, false, &mut chance, ready.clone());
    let load = draw_load(&mut chance);
    if !load.clocks_jump {
        faults.clock_jump = 0.0;
    }
    let cluster = Cluster::new(world, faults, draw_layout(&mut chance), ready);
    let shared = Shared::new(world, load, cluster.address);
    start(&shared, &cluster);
    let mut run = Run::new(cluster, shared, chance);
    run.hard_times();
    run.peace();
    judge(run)
}

fn draw_load(chance: &mut Chance) -> Load {
    Load {
        writers: chance.between(2, 4),
        readers: chance.between(2, 3),
        classic_members: chance.below(4),
        consumer_members: chance.below(4),
        partitions: chance.between(2, 5) as i32,
        clocks_jump: chance.one_in(3),
        pause_ms: *chance.pick(&[0, 5, 40]),
    }
}

fn draw_sizes(chance: &mut Chance) -> (u64, u64) {
    // The smallest in which a coordinator's largest batch finds room.
    let journal_bytes = 8 * *chance.pick(&[128 << 10, 128 << 10, 256 << 10, 1 << 20]);
    (journal_bytes, *chance.pick(&[16 << 10, 128 << 10, 32 << 20]))
}

fn draw_layout(chance: &mut Chance) -> Layout {
    let sessions = crate::reconciling::SESSION_MS.to_string();
    let settings = [
        ("offsets.topic.num.partitions", "3"),
        ("transaction.state.log.num.partitions", "3"),
        ("group.initial.rebalance.delay.ms", *chance.pick(&["0", "50"])),
        ("group.min.session.timeout.ms", "100"),
        ("group.consumer.heartbeat.interval.ms", "100"),
        ("group.consumer.min.heartbeat.interval.ms", "100"),
        ("group.consumer.min.session.timeout.ms", "200"),
        ("group.consumer.session.timeout.ms", &sessions),
        // Clocks may jump by a year.
        ("offsets.retention.minutes", "2147483647"),
    ];
    let (journal_bytes, memory_bytes) = draw_sizes(chance);
    Layout {
        journal_bytes,
        memory_bytes,
        past_journal_bytes: *chance.pick(&[None, Some(1), Some(1500), Some(6000)]),
        snapshot_after_bytes: *chance.pick(&[Some(400), Some(2_000), Some(10_000), None]),
        settings: settings.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
    }
}

/// Starts all clients.
fn start(shared: &Rc<Shared>, cluster: &Cluster) {
    let io = cluster.world.io(cluster.clients, 0);
    shared.run(&io, administrate(shared.clone(), io.clone()));
    for writer in 0..shared.load.writers {
        shared.run(&io, transactions::write(shared.clone(), io.clone(), writer));
    }
    for number in 0..shared.load.readers {
        shared.run(&io, readers::read(shared.clone(), io.clone(), number));
    }
    for number in 0..shared.load.classic_members {
        shared.run(&io, classic::take_part(shared.clone(), io.clone(), number));
    }
    for number in 0..shared.load.consumer_members {
        shared.run(&io, reconciling::take_part(shared.clone(), io.clone(), number));
    }
    shared.run(&io, offsets::observe(shared.clone(), io.clone()));
    shared.run(&io, operator::operate(shared.clone(), io.clone()));
}

impl Workload for Shared {
    const LEAST_ACKNOWLEDGED: u64 = LEAST_ACKNOWLEDGED;

    fn acknowledged(&self) -> u64 {
        self.acknowledged.get()
    }

    fn draw_sizes(chance: &mut Chance) -> (u64, u64) {
        draw_sizes(chance)
    }

    fn crashed(&self, crashes: u64) {
        self.crashes.set(crashes);
    }

    fn clocks_jump(&self) -> bool {
        self.load.clocks_jump
    }

    fn stop(&self) {
        self.stopping.set(true);
    }

    fn have_stopped(&self) -> bool {
        self.running.get() == 0
    }

    fn stuck(&self, what: &str) {
        self.transactions.borrow_mut().broken(checker::Rule::Stuck, None, what.to_owned());
    }

    /// Waits until no transaction is open any more, reads every list from its start to its end, and looks at what is
    /// committed.
    fn sweep(self: Rc<Self>, cluster: &Cluster) {
        let shared = self.clone();
        let is_swept = cluster.world.block_on(cluster.clients, move |io| async move {
            let deadline = io.now() + RECOVERY;
            let late = {
                let io = io.clone();
                async move {
                    io.sleep_until(deadline).await;
                    false
                }
            };
            futures_lite::future::or(sweep(shared, io), late).await
        });
        if !is_swept {
            self.stuck("a transaction does not end, or what is committed is not told");
        }
    }
}

async fn sweep(shared: Rc<Shared>, io: engine::io::Io) -> bool {
    let topic = shared.topic(&io).await;
    let mut chance = shared.chance(0x900);
    let mut line = Line::new(shared.clone(), io);
    shared.transactions.borrow_mut().begin_sweep();
    for partition in 0..topic.partitions {
        let mut offset = 0;
        let end = loop {
            let all = How { committed: false, version: 17, wait_ms: 0, max_bytes: 1 << 20 };
            let committed = How { committed: true, ..all };
            let Ok(fetched) = fetch(&mut line, &topic, partition, offset, committed).await else { continue };
            let moved = fetched.next > offset;
            offset = fetched.next;
            if moved {
                continue;
            }
            let Ok(fetched) = fetch(&mut line, &topic, partition, offset, all).await else { continue };
            if fetched.end == offset {
                break offset;
            }
            line.pause(20).await;
        };
        shared.groups.borrow_mut().end_is(list(&topic, partition), end);
    }
    while list_offsets(&mut line, &mut chance, &topic).await.is_err() {}
    let mut committed = BTreeMap::new();
    for writer in 0..shared.load.writers {
        let offset = loop {
            match offsets::committed_by(&mut line, &mut chance, &topic, writer).await {
                Ok(Some(offset)) => break offset,
                _ => line.pause(20).await,
            }
        };
        committed.insert(writer, offset);
    }
    let partitions: Vec<i32> = (0..topic.partitions).collect();
    for group in [crate::members::CLASSIC, crate::members::CONSUMER] {
        while !matches!(offsets::committed(&mut line, &mut chance, &topic, group, &partitions).await, Ok(Some(_))) {
            line.pause(20).await;
        }
    }
    shared.transactions.borrow_mut().end_sweep(&committed);
    true
}

fn judge(run: Run<Shared>) -> Outcome {
    let shared = run.clients;
    let (transactions, groups) = (shared.transactions.take(), shared.groups.take());
    let (committed, aborted, read) = transactions.counts();
    let (commits, shown, assignments) = groups.counts();
    let mut tally = shared.tally.take();
    tally.extend([
        ("transactions committed", committed),
        ("transactions aborted", aborted),
        ("offsets committed", commits),
        ("offsets shown", shown),
        ("assignments", assignments),
    ]);
    let mut violations = transactions.finish();
    violations.extend(groups.finish());
    violations.iter().for_each(|violation| tracing::debug!("{violation}"));
    let world = &run.cluster.world;
    Outcome {
        summary: Summary { sent: committed + aborted, acknowledged: shared.acknowledged.get(), read },
        crashes: run.crashes,
        starts: run.starts,
        coverage: world.coverage(),
        excused: BTreeMap::new(),
        violations,
        trace: world.trace_hash(),
        lived: world.now().since(Instant::default()),
        tally,
    }
}
