//! One seed: several lives of a broker under load and faults, then peace, and judgement.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use checker::{Rule, Summary, Violation};
use engine::io::sim::{Coverage, CrashKind, Faults};

use crate::chance::Chance;
use crate::clients::{Clients, Load, list_topics};
use crate::cluster::{Cluster, Layout};
use crate::consumer::{Followed, fetch};
use crate::wire::Connection;

/// Each seed acknowledges at least so many records.
pub(crate) const LEAST_ACKNOWLEDGED: u64 = 1_000;
/// The longest life, in virtual time.
const LONGEST_LIFE: Duration = Duration::from_secs(15);
/// What a broker may need to start, or clients to get on, once all faults are over.
const RECOVERY: Duration = Duration::from_secs(120);

/// What one seed came to.
pub(crate) struct Outcome {
    pub(crate) summary: Summary,
    pub(crate) crashes: u64,
    pub(crate) starts: u64,
    pub(crate) coverage: Coverage,
    pub(crate) violations: Vec<Violation>,
    pub(crate) trace: u64,
}

/// How a life ends.
#[derive(Debug, Clone, Copy)]
enum End {
    /// After so many steps of the world: most likely in the midst of the start.
    Steps(u64),
    /// Once so many more records are acknowledged, and a moment later.
    Acknowledged(u64, Duration),
}

/// Lives the seed.
pub(crate) fn live(seed: u64) -> Outcome {
    let mut chance = Chance::new(seed, 0);
    let damage = seed % 2 == 1;
    let cluster = Cluster::new(seed, draw_faults(seed, &mut chance), draw_layout(&mut chance));
    let load = draw_load(&mut chance);
    let clients = Clients::new(seed, load, cluster.address, damage);
    clients.start(&cluster.world.io(cluster.clients, 0));
    let mut run = Run { cluster, clients, chance, crashes: 0, starts: 0 };
    run.hard_times();
    run.peace();
    let coverage = run.cluster.world.coverage();
    let trace = run.cluster.world.trace_hash();
    let history = run.clients.history.take();
    let (summary, violations) = history.finish();
    Outcome { summary, crashes: run.crashes, starts: run.starts, coverage, violations, trace }
}

/// The simulator's swarm, in some seeds with rarer classes far more often: each of them ends a life, and a seed
/// has few.
fn draw_faults(seed: u64, chance: &mut Chance) -> Faults {
    let mut faults = Faults::swarm(seed, false);
    let more = *chance.pick(&[1.0, 1.0, 5.0, 20.0]);
    for rate in [
        &mut faults.read_error,
        &mut faults.write_error,
        &mut faults.sync_error,
        &mut faults.canceled,
        &mut faults.no_space,
        &mut faults.stall,
        &mut faults.reset,
    ] {
        *rate *= more;
    }
    faults
}

fn draw_layout(chance: &mut Chance) -> Layout {
    Layout {
        journal_bytes: 8 * *chance.pick(&[64 << 10, 64 << 10, 128 << 10, 256 << 10, 1 << 20]),
        memory_bytes: *chance.pick(&[16 << 10, 128 << 10, 32 << 20]),
    }
}

fn draw_load(chance: &mut Chance) -> Load {
    let mut configs = vec![("message.timestamp.after.max.ms".to_owned(), i64::MAX.to_string())];
    if chance.one_in(3) {
        configs.push(("segment.ms".to_owned(), chance.pick(&["50", "1000"]).to_string()));
    }
    if chance.one_in(4) {
        configs.push(("message.timestamp.type".to_owned(), "LogAppendTime".to_owned()));
    }
    Load {
        idempotent_producers: chance.between(1, 4) as usize,
        plain_producers: chance.below(3) as usize,
        consumers: chance.between(1, 3) as usize,
        topics: chance.between(1, 3) as usize,
        churn: chance.one_in(2),
        value_bytes: *chance.pick(&[32, 256, 1024]),
        pause_ms: *chance.pick(&[0, 2, 20]),
        configs,
    }
}

struct Run {
    cluster: Cluster,
    clients: Rc<Clients>,
    chance: Chance,
    crashes: u64,
    starts: u64,
}

impl Run {
    /// Lives that end badly, some of them before they have begun.
    fn hard_times(&mut self) {
        let lives = self.chance.between(4, 9);
        let quota = 3 * LEAST_ACKNOWLEDGED / lives;
        for _ in 0..lives {
            while self.chance.one_in(3) {
                self.life(End::Steps(self.chance.clone().log_below(12)));
                self.chance.next();
            }
            let more = self.chance.below(quota) + quota / 2;
            let moment = Duration::from_micros(self.chance.log_below(17));
            self.life(End::Acknowledged(more, moment));
        }
    }

    /// One life, with cores of its own.
    fn life(&mut self, end: End) {
        let shards = self.chance.between(1, 4) as usize;
        tracing::info!(now = ?self.cluster.world.now(), shards, ?end, "--- a life");
        self.cluster.start(shards);
        self.starts += 1;
        match end {
            End::Steps(steps) => {
                let until = self.cluster.world.steps() + steps;
                let world = &self.cluster.world;
                world.run_until(LONGEST_LIFE, || world.steps() >= until || !self.cluster.is_running());
            }
            End::Acknowledged(more, moment) => {
                self.trouble();
                let goal = self.clients.acknowledged() + more;
                let (cluster, clients) = (&self.cluster, &self.clients);
                let done = || !cluster.is_running() || clients.acknowledged() >= goal;
                cluster.world.run_until(LONGEST_LIFE, done);
                cluster.world.run_until(moment, || !cluster.is_running());
            }
        }
        self.crash();
    }

    /// What the fault classes do not do by themselves.
    fn trouble(&mut self) {
        let (world, broker) = (&self.cluster.world, self.cluster.broker);
        let used: u64 = world.files(broker).iter().map(|(_, len)| len.next_multiple_of(4096)).sum();
        let capacity = if self.chance.one_in(6) { used + self.chance.below(2 << 20) } else { 1 << 40 };
        world.set_disk_capacity(broker, capacity);
        if self.chance.one_in(6) {
            world.run_for(Duration::from_millis(self.chance.below(200)));
            world.pause(broker, Duration::from_millis(self.chance.below(5_000)));
        }
        if self.chance.one_in(8) {
            world.jump_wall_clock(broker, self.chance.below(20_000) as i64 - 10_000);
        }
    }

    /// Ends the life, if it has not ended itself, and leaves the machine alone for a while.
    fn crash(&mut self) {
        self.crashes += 1;
        let kind = if self.chance.one_in(2) { CrashKind::PowerLoss } else { CrashKind::Kill };
        let failures = self.cluster.take_failures();
        tracing::info!(now = ?self.cluster.world.now(), ?kind, ready = self.cluster.is_ready(), ?failures, "--- a crash");
        self.cluster.world.crash(self.cluster.broker, kind);
        let pause = Duration::from_micros(self.chance.log_below(22));
        self.cluster.world.run_for(pause);
    }

    /// No more faults: the broker starts, clients get on until they have what a seed must have, everything is
    /// read, stopped cleanly, started once more and read again.
    fn peace(&mut self) {
        let world = &self.cluster.world;
        world.set_faults(Faults::none());
        world.heal();
        world.set_disk_capacity(self.cluster.broker, 1 << 40);
        // What a dead process had in flight, held up for up to ten seconds, keeps files locked.
        world.run_for(Duration::from_secs(11));
        self.cluster.take_failures();
        if !self.start_in_peace() {
            return;
        }
        let clients = self.clients.clone();
        let enough = || clients.acknowledged() >= LEAST_ACKNOWLEDGED;
        if !self.cluster.world.run_until(RECOVERY, enough) {
            self.stuck("producers get nothing acknowledged");
        }
        self.clients.stop();
        if !self.cluster.world.run_until(RECOVERY, || clients.have_stopped()) {
            self.stuck("clients wait for answers");
        }
        self.sweep();
        self.cluster.world.stop(self.cluster.broker);
        if !self.cluster.world.run_until(RECOVERY, || !self.cluster.is_running()) {
            self.stuck("the broker does not stop");
            self.cluster.world.crash(self.cluster.broker, CrashKind::Kill);
        }
        if self.start_in_peace() {
            self.sweep();
        }
    }

    fn start_in_peace(&mut self) -> bool {
        self.starts += 1;
        self.cluster.start(self.chance.between(1, 4) as usize);
        let cluster = &self.cluster;
        cluster.world.run_until(RECOVERY, || cluster.is_ready() || !cluster.is_running());
        if !cluster.is_ready() || !cluster.is_running() {
            let why = cluster.take_failures();
            self.stuck(&format!("the broker does not start: {why:?}"));
            return false;
        }
        true
    }

    fn stuck(&self, what: &str) {
        self.clients.history.borrow_mut().broken(Rule::Stuck, None, what.to_owned());
    }

    /// Reads every partition from its start to its end, and says what is missing.
    fn sweep(&self) {
        let clients = self.clients.clone();
        clients.history.borrow_mut().begin_sweep();
        let topics = self.cluster.world.block_on(self.cluster.clients, move |io| async move {
            let mut connection = Connection::open(&io, clients.address).await.ok()?;
            let topics = list_topics(&mut connection).await.ok()?;
            for topic in &topics {
                let partitions = 0..topic.partitions;
                let mut followed: Vec<_> =
                    partitions.map(|index| Followed::new(topic.name.clone(), topic.id, index)).collect();
                while fetch(&clients, &mut connection, &mut followed, (17, 0, 1 << 20)).await.ok()? {}
            }
            Some(topics.into_iter().map(|topic| topic.id.0).collect::<BTreeSet<_>>())
        });
        match topics {
            Some(topics) => self.clients.history.borrow_mut().end_sweep(&topics),
            None => self.stuck("the last connection is lost"),
        }
    }
}
