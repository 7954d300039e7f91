//! The simulated world behind [`crate::io::Io`]: seeded, single-threaded, with a clock of its own.
//!
//! A [`World`] holds nodes: each a machine with a disk that stays, an address, and at most one process of
//! some cores. It runs their tasks, lets their operations take time and fail, and crashes them when asked.
//! The invariant: a seed and a program give one history, whose hash is [`World::trace_hash`].
//! It does not know what its nodes do; what a run should have shown is for a test's judge, to whom
//! [`World::damage`] tells which bytes the simulator itself has spoilt.

mod disk;
mod executor;
mod faults;
mod files;
mod net;
mod pages;
mod random;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

pub use disk::Damage;
use executor::{Event, Sim, Task, WALL_CLOCK_ORIGIN_MS, address_of, nanoseconds};
pub use faults::{Coverage, FaultClass, Faults, PathFilter};
pub use files::SimFile;
pub use net::{DetachedSimStream, SimListener, SimStream};

use super::local::oneshot;
use super::mailbox::Letterbox;
use super::{Class, Instant, Io};

/// A node of a [`World`], counted from 0. Node n has the address 10.0.0.(n + 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub usize);

/// How a process ends against its will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashKind {
    /// As by kill -9: the operating system goes on. What it had accepted stays; what was in flight lands,
    /// now or later, whole, in part or not at all.
    Kill,
    /// As by a pulled plug: what no flush has covered may be lost, by sector, in any order.
    PowerLoss,
    /// As by a pulled plug, and nothing that no flush has covered is kept: the worst that a power loss may do to who
    /// forgot a flush.
    TotalPowerLoss,
}

/// The longest that [`World::block_on`] waits, in virtual time.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// A simulated world. Dropping it ends all of its processes.
pub struct World(Rc<Sim>);

impl World {
    /// An empty world of this seed.
    pub fn new(seed: u64, faults: Faults) -> World {
        World(Rc::new(Sim::new(seed, faults)))
    }

    /// The seed that it was made with.
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// A machine more, with an empty disk, on which nothing runs.
    pub fn add_node(&self) -> NodeId {
        NodeId(self.0.add_machine())
    }

    /// The node's IP address.
    pub fn address(&self, node: NodeId) -> IpAddr {
        address_of(node)
    }

    /// Starts a process: `main` is called for each core, from 0, and its futures are the cores' main tasks.
    /// The process ends when all of them have returned.
    ///
    /// # Panics
    /// If one runs on this node already.
    pub fn start<F>(&self, node: NodeId, cores: usize, mut main: impl FnMut(Io) -> F)
    where
        F: Future<Output = ()> + 'static,
    {
        let incarnation = self.0.begin(node.0, cores, cores);
        for core in 0..cores {
            let io = self.handle(node, incarnation, core);
            let task: Task = Box::pin(main(Io::from(io)));
            self.0.spawn(node.0, incarnation, true, task);
        }
    }

    fn handle(&self, node: NodeId, incarnation: u32, core: usize) -> SimIo {
        SimIo { sim: self.0.clone(), node: node.0, incarnation, core }
    }

    /// A handle of a core of the process that runs on `node`. Starts an empty one of one core if none does.
    pub fn io(&self, node: NodeId, core: usize) -> Io {
        if !self.is_running(node) {
            // Its only main never returns: the process lasts until it is crashed.
            self.0.begin(node.0, 1, 1);
        }
        let incarnation = self.0.machines.borrow()[node.0].incarnation;
        Io::from(self.handle(node, incarnation, core))
    }

    /// Whether a process runs on the node.
    pub fn is_running(&self, node: NodeId) -> bool {
        self.0.machines.borrow()[node.0].running
    }

    /// Asks the node's process to stop: its [`Io::terminated`] completes.
    pub fn stop(&self, node: NodeId) {
        let waiting = {
            let machine = &mut self.0.machines.borrow_mut()[node.0];
            machine.terminating = true;
            std::mem::take(&mut machine.termination)
        };
        for waiting in waiting {
            waiting.send(());
        }
    }

    /// Ends the node's process at once. A power loss strikes the disk also when no process runs.
    pub fn crash(&self, node: NodeId, kind: CrashKind) {
        self.0.end_process(node.0, Some(kind));
    }

    /// Crashes the process that now runs on `node` after `delay`, if it still runs then.
    pub fn crash_after(&self, node: NodeId, kind: CrashKind, delay: Duration) {
        let incarnation = self.0.machines.borrow()[node.0].incarnation;
        self.0.schedule(nanoseconds(delay), Event::Crash { node: node.0, incarnation, kind });
    }

    /// What a task may end its process with, as by abort().
    pub fn killer(&self, node: NodeId) -> Killer {
        Killer { sim: self.0.clone(), node: node.0 }
    }

    /// Stops the process's tasks for `duration`, as by SIGSTOP and SIGCONT; what it asked for goes on.
    pub fn pause(&self, node: NodeId, duration: Duration) {
        self.0.pause(node.0, nanoseconds(duration));
    }

    /// Replaces the fault classes from now on.
    pub fn set_faults(&self, faults: Faults) {
        *self.0.faults.borrow_mut() = faults;
        self.0.start_mischief();
    }

    /// The fault classes now in force.
    pub fn faults(&self) -> Faults {
        self.0.faults.borrow().clone()
    }

    /// Bounds the node's disk, in bytes. At first it has 1 TiB.
    pub fn set_disk_capacity(&self, node: NodeId, bytes: u64) {
        self.0.disks.borrow_mut()[node.0].set_capacity(bytes);
    }

    /// Leaves the node's disk no more room than `spare` bytes.
    pub fn fill_disk(&self, node: NodeId, spare: u64) {
        let disk = &mut self.0.disks.borrow_mut()[node.0];
        disk.set_capacity(disk.used() + spare);
    }

    /// How many operations the node's disk has been asked for: the number of the next one.
    pub fn disk_operations(&self, node: NodeId) -> u64 {
        self.0.disks.borrow()[node.0].operations
    }

    /// Lets the disk operations with these numbers fail with the error `code` (of errno), those of them that can:
    /// ENOSPC takes what needs space, EMFILE and ENFILE what needs a descriptor, EIO and ENOMEM everything. After EIO
    /// any part of a write may have landed, and what a flush should have covered may be gone.
    /// [`FaultClass::Planned`] counts those that did fail. Replaces what was asked for before.
    pub fn fail_operations(&self, node: NodeId, numbers: Range<u64>, code: i32) {
        self.0.disks.borrow_mut()[node.0].planned = Some((numbers, code));
    }

    /// Makes sectors of the file at `path` unreadable: until they are written, or for good; then they cannot be
    /// written either. They are damage. False if there is no such file.
    pub fn make_unreadable(&self, node: NodeId, path: &Path, range: Range<u64>, for_good: bool) -> bool {
        let disk = &mut self.0.disks.borrow_mut()[node.0];
        let Ok(inode) = disk.resolve(path) else { return false };
        disk.make_unreadable(inode, range, for_good);
        self.0.count(FaultClass::Unreadable);
        true
    }

    /// Takes a file away, for good: what the repair of a file system may do between two lives.
    ///
    /// # Errors
    /// As the removal of a file.
    pub fn lose_file(&self, node: NodeId, path: &Path) -> io::Result<()> {
        self.0.disks.borrow_mut()[node.0].lose_file(path)?;
        self.0.count(FaultClass::LostFile);
        Ok(())
    }

    /// Cuts a file to `len` bytes, for good.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn shorten_file(&self, node: NodeId, path: &Path, len: u64) -> io::Result<()> {
        self.0.disks.borrow_mut()[node.0].shorten_file(path, len)?;
        self.0.count(FaultClass::ShortenedFile);
        Ok(())
    }

    /// Holds back what `from` sends to `to`, until a heal.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.0.net.borrow_mut().cut(&[(from.0, to.0)]);
    }

    /// Cuts both ways between two nodes.
    pub fn partition(&self, a: NodeId, b: NodeId) {
        self.0.net.borrow_mut().cut(&[(a.0, b.0), (b.0, a.0)]);
    }

    /// Mends all cuts; what they held back arrives.
    pub fn heal(&self) {
        self.0.heal_all();
    }

    /// Moves the node's wall clock, either way.
    pub fn jump_wall_clock(&self, node: NodeId, milliseconds: i64) {
        self.0.machines.borrow_mut()[node.0].clock_offset_ms += milliseconds;
    }

    /// Virtual time.
    pub fn now(&self) -> Instant {
        Instant(self.0.now())
    }

    /// How many polls and events there have been.
    pub fn steps(&self) -> u64 {
        self.0.steps()
    }

    /// The most that one poll of a task has done, as a [`super::Pace`] counts it.
    pub fn longest_turn(&self) -> usize {
        self.0.longest_turn()
    }

    /// A hash of all that has happened, in its order and at its times.
    pub fn trace_hash(&self) -> u64 {
        self.0.trace_hash()
    }

    /// How often each fault class fired so far.
    pub fn coverage(&self) -> Coverage {
        self.0.coverage.borrow().clone()
    }

    /// Runs for `duration` of virtual time.
    pub fn run_for(&self, duration: Duration) {
        self.run_until(duration, || false);
    }

    /// Runs until `condition` holds (asked after each step) or `limit` of virtual time has passed; whether
    /// it held.
    pub fn run_until(&self, limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
        let end = self.0.now().saturating_add(nanoseconds(limit));
        loop {
            if condition() {
                return true;
            }
            if self.0.now() >= end {
                return false;
            }
            if !self.0.step(end) {
                self.0.idle_until(end);
            }
        }
    }

    /// Runs the world until `make`'s future, a task of core 0 of the process on `node` (an empty one if none
    /// runs), has completed; its value.
    ///
    /// # Panics
    /// If it has not after a day of virtual time, or if the node crashes meanwhile.
    pub fn block_on<T: 'static, F>(&self, node: NodeId, make: impl FnOnce(Io) -> F) -> T
    where
        F: Future<Output = T> + 'static,
    {
        let io = self.io(node, 0);
        let value: Rc<RefCell<Option<T>>> = Rc::default();
        let future = make(io.clone());
        let result = value.clone();
        io.spawn(Class::Foreground, async move {
            let value = future.await;
            *result.borrow_mut() = Some(value);
        });
        let seed = self.0.seed;
        let done = self.run_until(PATIENCE, || {
            let done = value.borrow().is_some();
            assert!(done || self.is_running(node), "seed {seed}: the process that is waited for has ended");
            done
        });
        assert!(done, "seed {seed}: nothing completes the future that is waited for");
        let value = value.borrow_mut().take();
        value.expect("just seen")
    }

    /// All damage at rest on the node's disk that nothing has overwritten.
    pub fn damage(&self, node: NodeId) -> Vec<Damage> {
        self.0.disks.borrow()[node.0].all_damage()
    }

    /// Whether the simulator has damaged any of these bytes of the file that is now at `path`, and nothing
    /// has overwritten them. False for a file that does not exist.
    pub fn is_damaged(&self, node: NodeId, path: &Path, range: Range<u64>) -> bool {
        let disk = &self.0.disks.borrow()[node.0];
        disk.resolve(path).is_ok_and(|inode| !disk.damaged(inode, range).is_empty())
    }

    /// Flips one random bit, at rest, in a random flushed page of the file at `path`; where its sector starts.
    pub fn flip_bit(&self, node: NodeId, path: &Path) -> Option<u64> {
        let disk = &mut self.0.disks.borrow_mut()[node.0];
        let position = disk.resolve(path).ok().and_then(|inode| disk.flip_bit(inode))?;
        self.0.coverage.borrow_mut().add(FaultClass::BitFlip, 1);
        Some(position)
    }

    /// What a process would read from a file now, with no fault; `None` if there is none.
    pub fn file_content(&self, node: NodeId, path: &Path) -> Option<Vec<u8>> {
        let disk = &self.0.disks.borrow()[node.0];
        let inode = disk.resolve(path).ok()?;
        let mut content = vec![0; disk.len(inode) as usize];
        disk.read(inode, 0, &mut content);
        Some(content)
    }

    /// All files of the node's disk with their lengths.
    pub fn files(&self, node: NodeId) -> Vec<(PathBuf, u64)> {
        self.0.disks.borrow()[node.0].files().into_iter().map(|(_, path, len)| (path, len)).collect()
    }
}

/// Ends the process of a node from within the world.
#[derive(Clone)]
pub struct Killer {
    sim: Rc<Sim>,
    node: usize,
}

impl Killer {
    /// Kills the process that runs now, before anything else happens at a later time.
    pub fn kill(&self) {
        let incarnation = self.sim.machines.borrow()[self.node].incarnation;
        self.sim.schedule(0, Event::Crash { node: self.node, incarnation, kind: CrashKind::Kill });
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "simulation: seed {}, {} ns, step {}, trace {:016x}",
                self.0.seed,
                self.0.now(),
                self.0.steps(),
                self.0.trace_hash()
            );
        }
        self.0.tear_down();
    }
}

/// One core's handle to the simulated world.
#[derive(Clone)]
pub struct SimIo {
    sim: Rc<Sim>,
    node: usize,
    incarnation: u32,
    core: usize,
}

impl SimIo {
    /// A handle that outlives its process does nothing any more.
    async fn check_alive(&self) {
        if !self.sim.is_alive(self.node, self.incarnation) {
            std::future::pending::<()>().await;
        }
    }

    /// See [`Io::core`].
    pub fn core(&self) -> usize {
        self.core
    }

    /// See [`Io::now`].
    pub fn now(&self) -> Instant {
        Instant(self.sim.now())
    }

    /// See [`Io::wall_clock_ms`].
    pub fn wall_clock_ms(&self) -> i64 {
        let offset = self.sim.machines.borrow()[self.node].clock_offset_ms;
        WALL_CLOCK_ORIGIN_MS + offset + (self.sim.now() / 1_000_000) as i64
    }

    /// See [`Io::random_u64`].
    pub fn random_u64(&self) -> u64 {
        self.sim.machines.borrow_mut()[self.node].random.next()
    }

    /// See [`Io::sleep`].
    pub async fn sleep(&self, duration: Duration) {
        let (done, rings) = oneshot();
        let late = self.sim.timer_slack();
        self.sim.schedule(nanoseconds(duration) + late, Event::Timer(done));
        if rings.await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// See [`Io::spawn`].
    pub fn spawn(&self, _class: Class, future: impl Future<Output = ()> + 'static) {
        self.sim.spawn(self.node, self.incarnation, false, Box::pin(future));
    }

    /// Counts what the task that runs does before it lets others run.
    pub(super) fn note_work(&self, cost: usize) {
        self.sim.note_work(cost);
    }

    /// See [`Io::yield_now`].
    pub async fn yield_now(&self) {
        let mut yielded = false;
        std::future::poll_fn(|cx| {
            if std::mem::replace(&mut yielded, true) {
                return std::task::Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            std::task::Poll::Pending
        })
        .await;
    }

    /// See [`Io::terminated`].
    pub async fn terminated(&self) {
        self.check_alive().await;
        let asked = {
            let machine = &mut self.sim.machines.borrow_mut()[self.node];
            if machine.terminating {
                return;
            }
            let (done, asked) = oneshot();
            machine.termination.push(done);
            asked
        };
        if asked.await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// See [`super::mailbox`].
    pub fn deliver(&self, to: usize, letterbox: Arc<dyn Letterbox>) {
        self.sim.deliver(self.node, self.incarnation, self.core, to, letterbox);
    }
}
