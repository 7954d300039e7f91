//! One seed of producers and consumers: several lives of a broker under load and faults, then peace, and judgement.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use checker::{Partition, Rule, Summary, Violation};
use engine::io::Instant;
use engine::io::sim::{Coverage, Faults};

use crate::chance::Chance;
use crate::clients::{Clients, Load, list_topics};
use crate::cluster::{Cluster, Layout};
use crate::consumer::{Followed, fetch};
use crate::ledger::Excuse;
use crate::lives::{Run, Workload};
use crate::producer::append_one;
use crate::setting;
use crate::wire::{Connection, Lost};

/// Each seed acknowledges at least so many records.
pub(crate) const LEAST_ACKNOWLEDGED: u64 = 1_000;
/// The stream of chance that decides what goes past the journal.
const PAST_JOURNAL: u64 = 101;
/// The stream of chance for lacks of descriptors and memory; whether they are drawn if `LACKS` does not say so.
const STREAM_OF_LACKS: u64 = 102;
const LACKS: u64 = 1;

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
    /// How long the seed was, in its own time.
    pub(crate) lived: Duration,
    /// What else was counted.
    pub(crate) tally: BTreeMap<&'static str, u64>,
}

/// Lives the seed.
pub(crate) fn live(seed: u64) -> Outcome {
    let mut chance = Chance::new(seed, 0);
    let damage = seed % 2 == 1;
    let ready = Rc::new(Cell::new(false));
    let faults = draw_faults(seed, damage, &mut chance, ready.clone());
    let mut layout = draw_layout(&mut chance);
    layout.past_journal_bytes = *Chance::new(seed, PAST_JOURNAL).pick(&[None, Some(1), Some(1500), Some(6000)]);
    let cluster = Cluster::new(seed, faults, layout, ready);
    let load = draw_load(&mut chance);
    let clients = Clients::new(seed, load, cluster.address, damage);
    clients.start(&cluster.world.io(cluster.clients, 0));
    let mut run = Run::new(cluster, clients, chance);
    run.hard_times();
    run.peace();
    judge(run)
}

/// The simulator's swarm, in some seeds with rarer classes far more often: each of them ends a life, and a seed
/// has few.
pub(crate) fn draw_faults(seed: u64, damage: bool, chance: &mut Chance, ready: Rc<Cell<bool>>) -> Faults {
    let mut faults = Faults::swarm(seed, damage);
    let mirror = *chance.pick(&["-a", "-b"]);
    let more_damage = *chance.pick(&[1.0, 5.0, 25.0]);
    faults.lost_write *= more_damage;
    faults.misdirected_write *= more_damage;
    if setting("LACKS").unwrap_or(LACKS) == 1 {
        let mut lacks = Chance::new(seed, STREAM_OF_LACKS);
        faults.no_descriptors = if lacks.one_in(3) { 0.02 * lacks.below(100) as f64 / 100.0 } else { 0.0 };
        faults.no_memory = if lacks.one_in(3) { 0.001 * lacks.below(100) as f64 / 100.0 } else { 0.0 };
    }
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

fn draw_sizes(chance: &mut Chance) -> (u64, u64) {
    let journal_bytes = 8 * *chance.pick(&[64 << 10, 64 << 10, 128 << 10, 256 << 10, 1 << 20]);
    (journal_bytes, *chance.pick(&[16 << 10, 128 << 10, 32 << 20]))
}

fn draw_layout(chance: &mut Chance) -> Layout {
    let (journal_bytes, memory_bytes) = draw_sizes(chance);
    let settings = BTreeMap::new();
    Layout { journal_bytes, memory_bytes, settings, past_journal_bytes: None, snapshot_after_bytes: None }
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

impl Workload for Clients {
    const LEAST_ACKNOWLEDGED: u64 = LEAST_ACKNOWLEDGED;

    fn acknowledged(&self) -> u64 {
        self.history.borrow().summary().acknowledged
    }

    fn crashed(&self, crashes: u64) {
        self.crashes.set(crashes);
    }

    fn stop(&self) {
        self.stopping.set(true);
    }

    fn have_stopped(&self) -> bool {
        self.running.get() == 0
    }

    fn stuck(&self, what: &str) {
        self.history.borrow_mut().broken(Rule::Stuck, None, what.to_owned());
    }

    fn draw_sizes(chance: &mut Chance) -> (u64, u64) {
        draw_sizes(chance)
    }

    fn probe(self: Rc<Self>, cluster: &Cluster) {
        let clients = self.clone();
        let probed = cluster.world.block_on(cluster.clients, move |io| async move {
            let mut connection = Connection::open(&io, clients.address, clients.crashes.get()).await?;
            for topic in list_topics(&mut connection).await? {
                for partition in 0..topic.partitions {
                    append_one(&clients, &io, &mut connection, &topic, partition).await?;
                }
            }
            Ok::<_, Lost>(())
        });
        if probed.is_err() {
            self.stuck("a connection is lost in peace");
        }
    }

    /// Reads every partition from its start to its end, and says what is missing.
    fn sweep(self: Rc<Self>, cluster: &Cluster) {
        let clients = self.clone();
        clients.history.borrow_mut().begin_sweep();
        let topics = cluster.world.block_on(cluster.clients, move |io| async move {
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
            Some(topics) => self.history.borrow_mut().end_sweep(&topics),
            None => self.stuck("the last connection is lost"),
        }
    }
}

/// What the seed came to. Where the simulator itself has damaged what was at rest, the ledger says which of the
/// broken promises that excuses.
fn judge(run: Run<Clients>) -> Outcome {
    let history = run.clients.history.take();
    let (summary, broken) = history.finish();
    let mut excused: BTreeMap<Excuse, BTreeSet<(Option<Partition>, i64)>> = BTreeMap::new();
    let mut violations = Vec::new();
    for violation in broken {
        let excuse = excuse(&run, &violation);
        tracing::debug!(?excuse, "{violation}");
        match excuse {
            Some(excuse) => {
                excused.entry(excuse).or_default().insert((violation.partition, violation.offset));
            }
            None => violations.push(violation),
        }
    }
    let excused = excused.into_iter().map(|(excuse, records)| (excuse, records.len() as u64)).collect();
    let world = &run.cluster.world;
    Outcome {
        summary,
        crashes: run.crashes,
        starts: run.starts,
        coverage: world.coverage(),
        excused,
        violations,
        trace: world.trace_hash(),
        lived: world.now().since(Instant::default()),
        tally: BTreeMap::new(),
    }
}

fn excuse(run: &Run<Clients>, violation: &Violation) -> Option<Excuse> {
    let partition = violation.partition?;
    let directory = run.clients.directory(partition);
    let told = violation.what.ends_with("CORRUPT_MESSAGE") || violation.what.ends_with("CORRUPT_MESSAGE was");
    let of_value = |value| {
        let since = run.clients.known_since(value);
        run.ledger.excuse(partition, &directory, violation.offset, since, told)
    };
    match (violation.rule, violation.value) {
        // A loss is told, unless it cannot be told from what was never durable.
        (Rule::Lost, Some(value)) => of_value(value),
        (Rule::Corrupt, Some(value)) if told => of_value(value),
        // A record of which no client knew.
        (Rule::Corrupt, None) if told => run.ledger.is_touched(&directory).then_some(Excuse::Journal),
        // An unsealed segment's last block is written again with the next batch, and so made whole.
        (Rule::Changed, _) if told && run.ledger.is_segment_damaged(&directory) => Some(Excuse::Segment),
        // What came behind a journal's damaged end is as if it had never been.
        (Rule::Changed | Rule::WentBack | Rule::Order, _) => run.ledger.was_ambiguous().then_some(Excuse::Tail),
        // The producer's state went with the record.
        (Rule::Duplicate | Rule::Hole, _) => run.ledger.is_touched(&directory).then_some(Excuse::Journal),
        _ => None,
    }
}
