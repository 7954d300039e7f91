//! The simulated machine room: tasks of all cores of all nodes, one virtual clock, one heap of events.
//!
//! One thread runs it. While tasks are ready the next one is drawn from the seed and its poll costs a random
//! moment; when none is, time jumps to the next event. Everything that happens is folded into the trace.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::disk::{Disk, Inode};
use super::faults::{Coverage, FaultClass, Faults};
use super::files::DiskOperation;
use super::net::Net;
use super::random::Random;
use super::{CrashKind, NodeId};
use crate::io::local::Sender;
use crate::io::mailbox::Letterbox;

pub(super) type Task = Pin<Box<dyn Future<Output = ()>>>;

/// What wakers, and drops on their way between cores, tell the executor. Locked, for a waker must be Send.
#[derive(Default)]
pub(super) struct Signals {
    ready: Vec<TaskKey>,
    /// Detached streams that were dropped unadopted: (connection, side).
    pub(super) dropped_streams: Vec<(u64, usize)>,
}

pub(super) type SharedSignals = Arc<Mutex<Signals>>;

pub(super) fn lock(signals: &SharedSignals) -> MutexGuard<'_, Signals> {
    signals.lock().expect("no holder of the signals' lock panics")
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct TaskKey {
    slot: u32,
    generation: u32,
}

struct TaskWaker {
    key: TaskKey,
    queued: AtomicBool,
    signals: SharedSignals,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            lock(&self.signals).ready.push(self.key);
        }
    }
}

struct Running {
    node: usize,
    is_main: bool,
    /// Away while it is polled.
    future: Option<Task>,
    signal: Arc<TaskWaker>,
    waker: Waker,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    task: Option<Running>,
}

#[derive(Default)]
struct Tasks {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

/// What happens at a point of time.
pub(super) enum Event {
    Timer(Sender<()>),
    Disk(u64),
    Arrival { connection: u64, lane: usize },
    Connect(super::net::Connecting),
    Letter { node: usize, incarnation: u32, from: usize, to: usize, letterbox: Arc<dyn Letterbox> },
    Crash { node: usize, incarnation: u32, kind: CrashKind },
    Resume { node: usize, incarnation: u32 },
    Heal(Vec<(usize, usize)>),
    Mischief,
}

struct Scheduled {
    at: u64,
    sequence: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// A machine: its process, if one runs, and its disk, which stays.
pub(super) struct Machine {
    pub(super) incarnation: u32,
    pub(super) cores: usize,
    pub(super) running: bool,
    mains_left: usize,
    pub(super) terminating: bool,
    pub(super) termination: Vec<Sender<()>>,
    /// While it is paused: the tasks that would run.
    paused: bool,
    parked: Vec<TaskKey>,
    /// What the wall clock shows beyond virtual time, in milliseconds.
    pub(super) clock_offset_ms: i64,
    pub(super) random: Random,
}

/// Everything that the handles share.
pub(super) struct Sim {
    pub(super) seed: u64,
    now: Cell<u64>,
    sequence: Cell<u64>,
    steps: Cell<u64>,
    trace: Cell<u64>,
    /// What the task that is polled says that it has done in this poll, and the most that one has.
    turn: Cell<usize>,
    longest_turn: Cell<usize>,
    events: RefCell<BinaryHeap<Reverse<Scheduled>>>,
    tasks: RefCell<Tasks>,
    pub(super) signals: SharedSignals,
    order: RefCell<Random>,
    chance: RefCell<Random>,
    pub(super) machines: RefCell<Vec<Machine>>,
    pub(super) disks: RefCell<Vec<Disk>>,
    pub(super) operations: RefCell<BTreeMap<u64, DiskOperation>>,
    pub(super) net: RefCell<Net>,
    pub(super) faults: RefCell<Faults>,
    pub(super) coverage: RefCell<Coverage>,
    pub(super) next_operation: Cell<u64>,
    mischief_scheduled: Cell<bool>,
}

/// 2026-01-01T00:00:00Z in milliseconds: where wall clocks begin.
pub(super) const WALL_CLOCK_ORIGIN_MS: i64 = 1_767_225_600_000;
const YEAR_MS: u64 = 365 * 24 * 3600 * 1000;

impl Sim {
    pub(super) fn new(seed: u64, faults: Faults) -> Sim {
        Sim {
            seed,
            now: Cell::new(1_000_000_000),
            sequence: Cell::new(0),
            steps: Cell::new(0),
            trace: Cell::new(seed),
            turn: Cell::new(0),
            longest_turn: Cell::new(0),
            events: RefCell::default(),
            tasks: RefCell::default(),
            signals: SharedSignals::default(),
            order: RefCell::new(Random::stream(seed, 1)),
            chance: RefCell::new(Random::stream(seed, 2)),
            machines: RefCell::default(),
            disks: RefCell::default(),
            operations: RefCell::default(),
            net: RefCell::new(Net::new(Random::stream(seed, 3))),
            faults: RefCell::new(faults),
            coverage: RefCell::default(),
            next_operation: Cell::new(0),
            mischief_scheduled: Cell::new(false),
        }
    }

    pub(super) fn now(&self) -> u64 {
        self.now.get()
    }

    pub(super) fn steps(&self) -> u64 {
        self.steps.get()
    }

    pub(super) fn trace_hash(&self) -> u64 {
        self.trace.get()
    }

    pub(super) fn note_work(&self, cost: usize) {
        self.turn.set(self.turn.get() + cost);
        self.longest_turn.set(self.longest_turn.get().max(self.turn.get()));
    }

    pub(super) fn longest_turn(&self) -> usize {
        self.longest_turn.get()
    }

    /// Folds one happening into the trace.
    pub(super) fn note(&self, kind: u64, a: u64, b: u64) {
        let mut hash = self.trace.get();
        for word in [self.now.get(), kind, a, b] {
            hash = (hash.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
        self.trace.set(hash);
    }

    pub(super) fn count(&self, class: FaultClass) {
        self.coverage.borrow_mut().add(class, 1);
    }

    pub(super) fn schedule(&self, delay_ns: u64, event: Event) {
        self.schedule_at(self.now.get() + delay_ns, event);
    }

    pub(super) fn schedule_at(&self, at: u64, event: Event) {
        let sequence = self.sequence.get();
        self.sequence.set(sequence + 1);
        self.events.borrow_mut().push(Reverse(Scheduled { at, sequence, event }));
    }

    pub(super) fn add_machine(&self) -> usize {
        let mut machines = self.machines.borrow_mut();
        let node = machines.len();
        machines.push(Machine {
            incarnation: 0,
            cores: 0,
            running: false,
            mains_left: 0,
            terminating: false,
            termination: Vec::new(),
            paused: false,
            parked: Vec::new(),
            clock_offset_ms: 0,
            random: Random::stream(self.seed, 0x1000 + node as u64),
        });
        self.disks.borrow_mut().push(Disk::new(Random::stream(self.seed, 0x2000 + node as u64)));
        node
    }

    /// Whether the process `incarnation` of `node` still runs.
    pub(super) fn is_alive(&self, node: usize, incarnation: u32) -> bool {
        let machines = self.machines.borrow();
        machines[node].running && machines[node].incarnation == incarnation
    }

    /// Begins a process; its incarnation. `mains` are the tasks whose end is the process's end.
    pub(super) fn begin(&self, node: usize, cores: usize, mains: usize) -> u32 {
        self.start_mischief();
        let mut machines = self.machines.borrow_mut();
        let machine = &mut machines[node];
        assert!(!machine.running, "node {node} runs already");
        machine.incarnation += 1;
        machine.cores = cores;
        machine.running = true;
        machine.mains_left = mains;
        machine.terminating = false;
        machine.paused = false;
        machine.parked.clear();
        self.note(1, node as u64, cores as u64);
        machine.incarnation
    }

    pub(super) fn spawn(&self, node: usize, incarnation: u32, is_main: bool, future: Task) {
        // A task of a process that is being torn down goes with it.
        if !self.is_alive(node, incarnation) {
            return;
        }
        let mut tasks = self.tasks.borrow_mut();
        let index = tasks.free.pop().unwrap_or_else(|| {
            tasks.slots.push(Slot::default());
            (tasks.slots.len() - 1) as u32
        });
        let slot = &mut tasks.slots[index as usize];
        let key = TaskKey { slot: index, generation: slot.generation };
        let signal = Arc::new(TaskWaker { key, queued: AtomicBool::new(true), signals: self.signals.clone() });
        let waker = Waker::from(signal.clone());
        slot.task = Some(Running { node, is_main, future: Some(future), signal, waker });
        lock(&self.signals).ready.push(key);
    }

    /// Does one thing: fires an event that is due, or polls a task, or moves time to the next event if that
    /// is no later than `limit`. False if there was nothing to do.
    pub(super) fn step(self: &Rc<Self>, limit: u64) -> bool {
        self.steps.set(self.steps.get() + 1);
        if let Some(event) = self.pop_event(self.now.get()) {
            self.fire(event);
            return true;
        }
        if let Some(key) = self.pick_ready() {
            self.poll(key);
            return true;
        }
        match self.pop_event(limit) {
            Some(event) => self.fire(event),
            None => return false,
        }
        true
    }

    /// Lets time pass to `at` if nothing is due before.
    pub(super) fn idle_until(&self, at: u64) {
        self.now.set(self.now.get().max(at));
    }

    fn pop_event(&self, latest: u64) -> Option<Event> {
        let mut events = self.events.borrow_mut();
        if events.peek()?.0.at > latest {
            return None;
        }
        let Reverse(scheduled) = events.pop()?;
        self.now.set(self.now.get().max(scheduled.at));
        Some(scheduled.event)
    }

    fn pick_ready(self: &Rc<Self>) -> Option<TaskKey> {
        let mut signals = lock(&self.signals);
        if !signals.dropped_streams.is_empty() {
            let dropped = std::mem::take(&mut signals.dropped_streams);
            drop(signals);
            for (connection, side) in dropped {
                self.close_stream(connection, side);
            }
            signals = lock(&self.signals);
        }
        if signals.ready.is_empty() {
            return None;
        }
        let index = self.order.borrow_mut().below(signals.ready.len() as u64) as usize;
        Some(signals.ready.swap_remove(index))
    }

    fn poll(&self, key: TaskKey) {
        let Some((mut future, waker)) = self.take_task(key) else { return };
        let cost = self.order.borrow_mut().below(1000);
        self.now.set(self.now.get() + cost);
        self.turn.set(0);
        self.note(2, u64::from(key.slot), u64::from(key.generation));
        let finished = future.as_mut().poll(&mut Context::from_waker(&waker)) == Poll::Ready(());
        if finished {
            drop(future);
            self.finish_task(key);
            return;
        }
        let mut tasks = self.tasks.borrow_mut();
        let slot = &mut tasks.slots[key.slot as usize];
        let task = slot.task.as_mut().expect("only its own end frees the slot of a task that is polled");
        task.future = Some(future);
    }

    fn take_task(&self, key: TaskKey) -> Option<(Task, Waker)> {
        let mut tasks = self.tasks.borrow_mut();
        let slot = &mut tasks.slots[key.slot as usize];
        if slot.generation != key.generation {
            return None;
        }
        let task = slot.task.as_mut()?;
        let machine = &mut self.machines.borrow_mut()[task.node];
        if machine.paused {
            machine.parked.push(key);
            return None;
        }
        task.signal.queued.store(false, Ordering::Relaxed);
        Some((task.future.take()?, task.waker.clone()))
    }

    fn finish_task(&self, key: TaskKey) {
        let task = {
            let mut tasks = self.tasks.borrow_mut();
            tasks.free.push(key.slot);
            let slot = &mut tasks.slots[key.slot as usize];
            slot.generation += 1;
            slot.task.take()
        };
        let Some(Running { node, is_main: true, .. }) = task else { return };
        let ended = {
            let mut machines = self.machines.borrow_mut();
            machines[node].mains_left -= 1;
            machines[node].mains_left == 0
        };
        if ended {
            self.note(3, node as u64, 0);
            self.end_process(node, None);
        }
    }

    /// Ends the node's process: by itself (`None`) or by a crash. Its disk stays.
    pub(super) fn end_process(&self, node: usize, crash: Option<CrashKind>) {
        {
            let mut machines = self.machines.borrow_mut();
            let machine = &mut machines[node];
            let loses_power = matches!(crash, Some(CrashKind::PowerLoss | CrashKind::TotalPowerLoss));
            if !machine.running && !loses_power {
                return;
            }
            machine.running = false;
            machine.termination.clear();
        }
        match crash {
            None => {}
            Some(CrashKind::Kill) => self.count(FaultClass::Kill),
            Some(CrashKind::PowerLoss | CrashKind::TotalPowerLoss) => self.count(FaultClass::PowerLoss),
        }
        self.note(4, node as u64, crash.map_or(0, |kind| kind as u64 + 1));
        self.drop_connections(node, matches!(crash, Some(CrashKind::PowerLoss | CrashKind::TotalPowerLoss)));
        self.drop_tasks(node);
        self.settle_operations(node, crash);
    }

    fn drop_tasks(&self, node: usize) {
        let mut dropped = Vec::new();
        {
            let mut tasks = self.tasks.borrow_mut();
            let Tasks { slots, free } = &mut *tasks;
            for (index, slot) in slots.iter_mut().enumerate() {
                if slot.task.as_ref().is_some_and(|task| task.node == node) {
                    slot.generation += 1;
                    free.push(index as u32);
                    dropped.push(slot.task.take());
                }
            }
        }
        // Outside of the borrow: a dropped future closes files and wakes others.
        drop(dropped);
    }

    fn fire(self: &Rc<Self>, event: Event) {
        match event {
            Event::Timer(done) => done.send(()),
            Event::Disk(operation) => self.complete_disk(operation),
            Event::Arrival { connection, lane } => self.arrive(connection, lane),
            Event::Connect(connecting) => self.finish_connect(connecting),
            Event::Letter { node, incarnation, from, to, letterbox } => {
                if self.is_alive(node, incarnation) {
                    self.note(5, from as u64, to as u64);
                    if let Some(waker) = letterbox.deliver_from(from) {
                        waker.wake();
                    }
                }
            }
            Event::Crash { node, incarnation, kind } => {
                if self.is_alive(node, incarnation) {
                    self.end_process(node, Some(kind));
                }
            }
            Event::Resume { node, incarnation } => self.resume(node, incarnation),
            Event::Heal(links) => self.heal_links(&links),
            Event::Mischief => {
                self.mischief_scheduled.set(false);
                self.make_mischief();
                self.start_mischief();
            }
        }
    }

    /// Stops the process's tasks, and only them, for a while: as by SIGSTOP and SIGCONT.
    pub(super) fn pause(&self, node: usize, duration: u64) {
        let machine = &mut self.machines.borrow_mut()[node];
        if machine.running && !std::mem::replace(&mut machine.paused, true) {
            self.count(FaultClass::Pause);
            self.schedule(duration, Event::Resume { node, incarnation: machine.incarnation });
        }
    }

    fn resume(&self, node: usize, incarnation: u32) {
        let machine = &mut self.machines.borrow_mut()[node];
        if machine.incarnation == incarnation {
            machine.paused = false;
            lock(&self.signals).ready.append(&mut machine.parked);
        }
    }

    /// Looks at the periodic fault classes, if any is on, now and then.
    pub(super) fn start_mischief(&self) {
        let faults = self.faults.borrow();
        let any = faults.bit_flip + faults.unreadable + faults.partition + faults.clock_jump > 0.0;
        if any && !self.mischief_scheduled.replace(true) {
            let mean = Faults::MISCHIEF_INTERVAL.as_nanos() as u64;
            let delay = self.chance.borrow_mut().between(mean / 2, mean * 3 / 2);
            self.schedule(delay, Event::Mischief);
        }
    }

    fn make_mischief(&self) {
        let faults = self.faults.borrow().clone();
        let nodes = self.machines.borrow().len();
        for node in 0..nodes {
            if self.chance.borrow_mut().chance(faults.bit_flip) {
                self.flip_bit_somewhere(node, &faults);
            }
            if self.chance.borrow_mut().chance(faults.unreadable) {
                self.spoil_sectors_somewhere(node, &faults);
            }
            if self.chance.borrow_mut().chance(faults.clock_jump) {
                self.jump_clock(node);
            }
        }
        if nodes > 1 && self.chance.borrow_mut().chance(faults.partition) {
            self.partition_somewhere(nodes as u64);
        }
    }

    fn flip_bit_somewhere(&self, node: usize, faults: &Faults) {
        let disk = &mut self.disks.borrow_mut()[node];
        if let Some(position) = some_file(disk, faults).and_then(|inode| disk.flip_bit(inode)) {
            self.count(FaultClass::BitFlip);
            self.note(6, node as u64, position);
        }
    }

    fn spoil_sectors_somewhere(&self, node: usize, faults: &Faults) {
        let disk = &mut self.disks.borrow_mut()[node];
        if let Some(position) = some_file(disk, faults).and_then(|inode| disk.spoil_sectors(inode)) {
            self.count(FaultClass::Unreadable);
            self.note(10, node as u64, position);
        }
    }

    fn jump_clock(&self, node: usize) {
        let chance = &mut *self.chance.borrow_mut();
        let reach = [2_000, 60_000, 3_600_000, YEAR_MS][chance.below(4) as usize];
        let jump = chance.between(0, 2 * reach) as i64 - reach as i64;
        self.machines.borrow_mut()[node].clock_offset_ms += jump;
        self.count(FaultClass::ClockJump);
        self.note(7, node as u64, jump as u64);
    }

    fn partition_somewhere(&self, nodes: u64) {
        let (links, duration) = {
            let chance = &mut *self.chance.borrow_mut();
            let a = chance.below(nodes) as usize;
            let b = (a + 1 + chance.below(nodes - 1) as usize) % nodes as usize;
            let links = if chance.coin() { vec![(a, b), (b, a)] } else { vec![(a, b)] };
            (links, chance.between(10_000_000, 15_000_000_000))
        };
        self.count(FaultClass::Partition);
        self.net.borrow_mut().cut(&links);
        self.schedule(duration, Event::Heal(links));
    }

    pub(super) fn deliver(&self, node: usize, incarnation: u32, from: usize, to: usize, letterbox: Arc<dyn Letterbox>) {
        let slow = {
            let p = self.faults.borrow().slow_mail;
            self.order.borrow_mut().chance(p)
        };
        if slow {
            self.count(FaultClass::SlowMail);
        }
        let delay = self.order.borrow_mut().below(if slow { 1_000_000 } else { 2_000 });
        self.schedule(delay, Event::Letter { node, incarnation, from, to, letterbox });
    }

    pub(super) fn timer_slack(&self) -> u64 {
        self.order.borrow_mut().below(50_000)
    }

    /// Drops all that could hold handles: they hold the simulation in turn.
    pub(super) fn tear_down(&self) {
        let nodes = self.machines.borrow().len();
        for node in 0..nodes {
            self.end_process(node, None);
        }
        // Outside of the borrows, for what is dropped may look at them.
        let events = std::mem::take(&mut *self.events.borrow_mut());
        let operations = std::mem::take(&mut *self.operations.borrow_mut());
        drop((events, operations));
    }
}

/// A file that is not empty and may be damaged.
fn some_file(disk: &mut Disk, faults: &Faults) -> Option<Inode> {
    let files: Vec<_> = disk.files().into_iter().filter(|(_, path, len)| *len > 0 && faults.may_damage(path)).collect();
    if files.is_empty() {
        return None;
    }
    let chosen = disk.random.below(files.len() as u64) as usize;
    Some(files[chosen].0)
}

pub(super) fn address_of(node: NodeId) -> IpAddr {
    let number = node.0 as u32 + 1;
    IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number))
}

pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4).min(u64::MAX / 4)
}
