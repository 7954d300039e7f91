//! The lives of a seed's broker: several that end badly, then peace. Whatever its clients do ([`Workload`]).

use std::rc::Rc;
use std::time::Duration;

use engine::io::sim::{CrashKind, Faults};

use crate::chance::Chance;
use crate::cluster::Cluster;
use crate::ledger::Ledger;

/// The longest life, in virtual time.
const LONGEST_LIFE: Duration = Duration::from_secs(15);
/// How often the ledger looks for new damage.
const GLANCE: Duration = Duration::from_millis(10);
/// A journal that has not filled by then is one of the large ones.
const CHECKPOINT: Duration = Duration::from_millis(300);
/// What a broker may need to start, or clients to get on, once all faults are over.
pub(crate) const RECOVERY: Duration = Duration::from_secs(120);

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

/// The clients of a seed, as its lives see them.
pub(crate) trait Workload {
    /// Each seed acknowledges at least so much.
    const LEAST_ACKNOWLEDGED: u64;

    /// How much has been acknowledged.
    fn acknowledged(&self) -> u64;

    /// There have been so many crashes.
    fn crashed(&self, crashes: u64);

    /// Whether wall clocks may jump.
    fn clocks_jump(&self) -> bool {
        true
    }

    /// Asks all clients to end what they have begun.
    fn stop(&self);

    /// Whether they have.
    fn have_stopped(&self) -> bool;

    /// With all faults over, something does not get on.
    fn stuck(&self, what: &str);

    /// Journal and memory in bytes for each shard: of every life anew.
    fn draw_sizes(chance: &mut Chance) -> (u64, u64);

    /// Asks whether every partition takes records, and says which does not.
    fn probe(self: Rc<Self>, _cluster: &Cluster) {}

    /// Reads everything, and says what is missing.
    fn sweep(self: Rc<Self>, cluster: &Cluster);
}

/// A seed under way.
pub(crate) struct Run<W> {
    pub(crate) cluster: Cluster,
    pub(crate) clients: Rc<W>,
    pub(crate) chance: Chance,
    pub(crate) ledger: Ledger,
    pub(crate) crashes: u64,
    pub(crate) starts: u64,
}

impl<W: Workload> Run<W> {
    /// One that has not begun.
    pub(crate) fn new(cluster: Cluster, clients: Rc<W>, chance: Chance) -> Run<W> {
        Run { cluster, clients, chance, ledger: Ledger::default(), crashes: 0, starts: 0 }
    }

    /// Lives that end badly, some of them before they have begun.
    pub(crate) fn hard_times(&mut self) {
        let lives = self.chance.between(4, 9);
        let quota = 3 * W::LEAST_ACKNOWLEDGED / lives;
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
        let (journal, memory) = self.sizes();
        tracing::info!(now = ?self.cluster.world.now(), shards, journal, memory, accept_loss, ?end, "--- a life");
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
                let grown = |run: &Run<W>| run.cluster.checkpoint_bytes() != before;
                self.run_until(CHECKPOINT, |run| !run.cluster.is_running() || grown(run));
                self.run_until(moment, |run| !run.cluster.is_running());
            }
        }
        self.crash();
    }

    /// Those of the next life; half of them are as the one before.
    fn sizes(&mut self) -> (u64, u64) {
        if self.chance.one_in(2) {
            let (journal, memory) = W::draw_sizes(&mut self.chance);
            self.cluster.resize(journal, memory);
        }
        self.cluster.sizes()
    }

    /// Runs until the condition holds, with an eye on what is damaged meanwhile; whether it held.
    fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&Run<W>) -> bool) -> bool {
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
        if self.chance.one_in(8) && self.clients.clocks_jump() {
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
        self.clients.crashed(self.crashes);
    }

    /// No more faults: the broker starts, clients get on until they have what a seed must have, everything is
    /// read, stopped cleanly, started once more and read again.
    pub(crate) fn peace(&mut self) {
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
        if !self.run_until(RECOVERY, |run| run.clients.acknowledged() >= W::LEAST_ACKNOWLEDGED) {
            self.clients.stuck("producers get nothing acknowledged");
        }
        self.clients.stop();
        if !self.run_until(RECOVERY, |run| run.clients.have_stopped()) {
            self.clients.stuck("clients wait for answers");
        }
        self.clients.clone().probe(&self.cluster);
        self.clients.clone().sweep(&self.cluster);
        self.cluster.world.stop(self.cluster.broker);
        if !self.run_until(RECOVERY, |run| !run.cluster.is_running()) {
            self.clients.stuck("the broker does not stop");
            self.cluster.world.crash(self.cluster.broker, CrashKind::Kill);
        }
        if self.start_in_peace() {
            self.clients.clone().probe(&self.cluster);
            self.clients.clone().sweep(&self.cluster);
        }
    }

    fn start_in_peace(&mut self) -> bool {
        self.starts += 1;
        self.sizes();
        self.cluster.start(self.chance.between(1, 4) as usize, true);
        self.run_until(RECOVERY, |run| run.cluster.is_ready() || !run.cluster.is_running());
        let cluster = &self.cluster;
        if !cluster.is_ready() || !cluster.is_running() {
            let why = cluster.take_failures();
            self.clients.stuck(&format!("the broker does not start: {why:?}"));
            return false;
        }
        true
    }
}
