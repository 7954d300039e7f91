//! One seed: several lives of a broker under load and faults, then peace, and judgement.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use checker::{Partition, Rule, Summary, Violation};
use engine::io::sim::{Coverage, CrashKind, Faults};

use crate::chance::Chance;
use crate::clients::{Clients, Load, list_topics};
use crate::cluster::{Cluster, Layout};
use crate::consumer::{Followed, fetch};
use crate::ledger::{Excuse, Ledger};
use crate::wire::Connection;

/// Each seed acknowledges at least so many records.
pub(crate) const LEAST_ACKNOWLEDGED: u64 = 1_000;
/// The stream of chance that decides what goes past the journal.
const PAST_JOURNAL: u64 = 101;
/// The longest life, in virtual time.
const LONGEST_LIFE: Duration = Duration::from_secs(15);
/// How often the ledger looks for new damage.
const GLANCE: Duration = Duration::from_millis(10);
/// A journal that has not filled by then is one of the large ones.
const CHECKPOINT: Duration = Duration::from_millis(300);
/// What a broker may need to start, or clients to get on, once all faults are over.
const RECOVERY: Duration = Duration::from_secs(120);

/// What one seed came to.
pub(crate) struct Outcome {
    pub(crate) summary: Summary,
    pub(crate) crashes: u64,
    pub(crate) starts: u64,
    pub(crate) coverage: Coverage,
    /// Acknowledged or read records that damage at rest excuses, by why.
    pub(crate) excused: BTreeMap<Excuse, u64>,
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
    /// Once so many more are, and then a checkpoint has grown: what it says too much of is still in flight.
    Checkpoint(u64, Duration),
}

/// Lives the seed.
pub(crate) fn live(seed: u64) -> Outcome {
    let mut chance = Chance::new(seed, 0);
    let damage = seed % 2 == 1;
    let ready = Rc::new(Cell::new(false));
    let faults = draw_faults(seed, &mut chance, ready.clone());
    let mut layout = draw_layout(&mut chance);
    layout.past_journal_bytes = *Chance::new(seed, PAST_JOURNAL).pick(&[None, Some(1), Some(1500), Some(6000)]);
    let cluster = Cluster::new(seed, faults, layout, ready);
    let load = draw_load(&mut chance);
    let clients = Clients::new(seed, load, cluster.address, damage);
    clients.start(&cluster.world.io(cluster.clients, 0));
    let mut run = Run { cluster, clients, chance, ledger: Ledger::default(), crashes: 0, starts: 0 };
    run.hard_times();
    run.peace();
    run.judge()
}

/// The simulator's swarm, in some seeds with rarer classes far more often: each of them ends a life, and a seed
/// has few.
fn draw_faults(seed: u64, chance: &mut Chance, ready: Rc<Cell<bool>>) -> Faults {
    let mut faults = Faults::swarm(seed, seed % 2 == 1);
    let mirror = *chance.pick(&["-a", "-b"]);
    let more_damage = *chance.pick(&[1.0, 5.0, 25.0]);
    faults.lost_write *= more_damage;
    faults.misdirected_write *= more_damage;
    faults.damage_filter = Some(Rc::new(move |path: &Path| may_be_damaged(path, mirror, ready.get())));
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

/// What is kept twice is damaged in one of its copies: both together only say that the broker must not start. Journals
/// are damaged while the broker serves: the ledger looks at them when it has crashed, and would not see what strikes
/// between that and their reading.
fn may_be_damaged(path: &Path, mirror: &str, ready: bool) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let mirrored = name.starts_with("log-") || name.starts_with("checkpoint-");
    let is_journal = name.ends_with(".journal");
    if mirrored {
        name.trim_end_matches(".new").ends_with(mirror)
    } else {
        name.contains('.') && (ready || !is_journal)
    }
}

fn draw_layout(chance: &mut Chance) -> Layout {
    Layout {
        journal_bytes: 8 * *chance.pick(&[64 << 10, 64 << 10, 128 << 10, 256 << 10, 1 << 20]),
        memory_bytes: *chance.pick(&[16 << 10, 128 << 10, 32 << 20]),
        past_journal_bytes: None,
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
    ledger: Ledger,
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
            let at_checkpoint = self.chance.one_in(4);
            let moment = Duration::from_micros(self.chance.log_below(if at_checkpoint { 9 } else { 17 }));
            self.life(if at_checkpoint { End::Checkpoint(more / 2, moment) } else { End::Acknowledged(more, moment) });
        }
    }

    /// One life, with cores of its own.
    fn life(&mut self, end: End) {
        let shards = self.chance.between(1, 4) as usize;
        let accept_loss = self.chance.one_in(4);
        tracing::info!(now = ?self.cluster.world.now(), shards, accept_loss, ?end, "--- a life");
        self.cluster.start(shards, accept_loss);
        self.starts += 1;
        match end {
            End::Steps(steps) => {
                let until = self.cluster.world.steps() + steps;
                self.run_until(LONGEST_LIFE, |run| run.cluster.world.steps() >= until || !run.cluster.is_running());
            }
            End::Acknowledged(more, moment) => {
                self.trouble();
                let goal = self.clients.acknowledged() + more;
                self.run_until(LONGEST_LIFE, |run| !run.cluster.is_running() || run.clients.acknowledged() >= goal);
                self.run_until(moment, |run| !run.cluster.is_running());
            }
            End::Checkpoint(more, moment) => {
                self.trouble();
                let goal = self.clients.acknowledged() + more;
                self.run_until(LONGEST_LIFE, |run| !run.cluster.is_running() || run.clients.acknowledged() >= goal);
                let before = self.cluster.checkpoint_bytes();
                let grown = |run: &Run| run.cluster.checkpoint_bytes() != before;
                self.run_until(CHECKPOINT, |run| !run.cluster.is_running() || grown(run));
                self.run_until(moment, |run| !run.cluster.is_running());
            }
        }
        self.crash();
    }

    /// Runs until the condition holds, with an eye on what is damaged meanwhile; whether it held.
    fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&Run) -> bool) -> bool {
        let end = self.cluster.world.now() + limit;
        loop {
            let left = end.since(self.cluster.world.now());
            let held = self.cluster.world.run_until(left.min(GLANCE), || done(self));
            self.ledger.look(&self.cluster.world, self.cluster.broker);
            if held || left <= GLANCE {
                return held;
            }
        }
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
        self.ledger.crash(&self.cluster.world, self.cluster.broker, self.crashes - 1);
        self.clients.crashes.set(self.crashes);
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
        if !self.run_until(RECOVERY, |run| run.clients.acknowledged() >= LEAST_ACKNOWLEDGED) {
            self.stuck("producers get nothing acknowledged");
        }
        self.clients.stop();
        if !self.run_until(RECOVERY, |run| run.clients.have_stopped()) {
            self.stuck("clients wait for answers");
        }
        self.sweep();
        self.cluster.world.stop(self.cluster.broker);
        if !self.run_until(RECOVERY, |run| !run.cluster.is_running()) {
            self.stuck("the broker does not stop");
            self.cluster.world.crash(self.cluster.broker, CrashKind::Kill);
        }
        if self.start_in_peace() {
            self.sweep();
        }
    }

    fn start_in_peace(&mut self) -> bool {
        self.starts += 1;
        self.cluster.start(self.chance.between(1, 4) as usize, true);
        self.run_until(RECOVERY, |run| run.cluster.is_ready() || !run.cluster.is_running());
        let cluster = &self.cluster;
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
            let mut connection = Connection::open(&io, clients.address, clients.crashes.get()).await.ok()?;
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

    /// What the seed came to. Where the simulator itself has damaged what was at rest, the ledger says which of the
    /// broken promises that excuses.
    fn judge(self) -> Outcome {
        let history = self.clients.history.take();
        let (summary, broken) = history.finish();
        let mut excused: BTreeMap<Excuse, BTreeSet<(Option<Partition>, i64)>> = BTreeMap::new();
        let mut violations = Vec::new();
        for violation in broken {
            let excuse = self.excuse(&violation);
            tracing::debug!(?excuse, "{violation}");
            match excuse {
                Some(excuse) => {
                    excused.entry(excuse).or_default().insert((violation.partition, violation.offset));
                }
                None => violations.push(violation),
            }
        }
        let excused = excused.into_iter().map(|(excuse, records)| (excuse, records.len() as u64)).collect();
        let (coverage, trace) = (self.cluster.world.coverage(), self.cluster.world.trace_hash());
        Outcome { summary, crashes: self.crashes, starts: self.starts, coverage, excused, violations, trace }
    }

    fn excuse(&self, violation: &Violation) -> Option<Excuse> {
        let partition = violation.partition?;
        let directory = self.clients.directory(partition);
        let told = violation.what.ends_with("CORRUPT_MESSAGE") || violation.what.ends_with("CORRUPT_MESSAGE was");
        let of_value = |value| {
            let since = self.clients.known_since(value);
            self.ledger.excuse(partition, &directory, violation.offset, since, told)
        };
        match (violation.rule, violation.value) {
            // A loss is told, unless it cannot be told from what was never durable.
            (Rule::Lost, Some(value)) => of_value(value),
            (Rule::Corrupt, Some(value)) if told => of_value(value),
            // A record of which no client knew.
            (Rule::Corrupt, None) if told => self.ledger.is_touched(&directory).then_some(Excuse::Journal),
            // An unsealed segment's last block is written again with the next batch, and so made whole.
            (Rule::Changed, _) if told && self.ledger.is_segment_damaged(&directory) => Some(Excuse::Segment),
            // What came behind a journal's damaged end is as if it had never been.
            (Rule::Changed | Rule::WentBack | Rule::Order, _) => self.ledger.was_ambiguous().then_some(Excuse::Tail),
            // The producer's state went with the record.
            (Rule::Duplicate | Rule::Hole, _) => self.ledger.is_touched(&directory).then_some(Excuse::Journal),
            _ => None,
        }
    }
}
