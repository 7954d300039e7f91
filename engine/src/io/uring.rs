//! The production backend: a glommio executor per core, with an io_uring of its own for all data.
//!
//! glommio runs the tasks (placement, queues with shares); files, sockets, timers and wake-ups between cores
//! go through [`super::ring`] and the pump, the task that submits and reaps it. The invariant: while
//! anything is ready the pump runs; when nothing is, the core sleeps until a completion, a timer or another
//! core wakes it. This module does not know what the bytes mean.

mod doorbell;
mod file;
mod net;
mod pump;
mod start;
mod timers;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use glommio::{Task, TaskQueueHandle};

use super::mailbox::Letterbox;
use super::ring::op::{self, Op};
use super::ring::{Operation, Ring, system};
use super::{Class, DirEntry, Instant, OpenMode};
use doorbell::Doorbell;
use timers::Timers;

pub use super::ring::system::raise_descriptor_limit;
pub use file::UringFile;
pub use net::{DetachedUringStream, UringListener, UringStream};
pub use start::{CoreSpec, StartError, run, spawn_beside};

/// The clock of [`super::Io::now`], for threads that are no core.
pub fn now() -> Instant {
    Instant(system::monotonic_ns())
}

/// What the tasks of one core share.
struct Core {
    index: usize,
    ring: Ring,
    doorbells: Arc<[Doorbell]>,
    queues: Queues,
    timers: Timers,
    /// Longest time that the pump goes on looking for events before it sleeps.
    spin: Duration,
    /// The pump's waker while it sleeps.
    pump: RefCell<Option<Waker>>,
    random: RefCell<RandomNumbers>,
    tasks: Tasks,
    stopping: Cell<bool>,
}

/// The executor's queue of each class.
struct Queues {
    foreground: TaskQueueHandle,
    replication: TaskQueueHandle,
    catch_up: TaskQueueHandle,
    background: TaskQueueHandle,
}

impl Queues {
    fn of(&self, class: Class) -> TaskQueueHandle {
        match class {
            Class::Foreground => self.foreground,
            Class::Replication => self.replication,
            Class::CatchUp => self.catch_up,
            Class::Background => self.background,
        }
    }
}

/// Random numbers fetched from the kernel in blocks.
#[derive(Default)]
struct RandomNumbers(Vec<u64>);

impl RandomNumbers {
    fn next(&mut self) -> u64 {
        if self.0.is_empty() {
            self.0.extend(system::random());
        }
        self.0.pop().expect("just filled")
    }
}

/// The tasks that have not ended, so that a core that ends can drop them: glommio would leak them, and with
/// them their files and locks.
#[derive(Default)]
struct Tasks {
    /// `None` where a task is being made or has ended.
    places: RefCell<Vec<Option<Task<()>>>>,
    free: RefCell<Vec<usize>>,
    /// Futures not yet dropped.
    alive: Cell<usize>,
}

impl Tasks {
    fn reserve(&self) -> usize {
        self.free.borrow_mut().pop().unwrap_or_else(|| {
            self.places.borrow_mut().push(None);
            self.places.borrow().len() - 1
        })
    }

    /// Drops all tasks; their futures go when the executor next runs them.
    fn cancel_all(&self) {
        let tasks: Vec<_> = self.places.borrow_mut().iter_mut().filter_map(Option::take).collect();
        drop(tasks);
    }
}

/// Counts a task's future, from its making until it is dropped.
struct Alive {
    core: Rc<Core>,
    place: usize,
}

impl Drop for Alive {
    fn drop(&mut self) {
        let tasks = &self.core.tasks;
        tasks.alive.set(tasks.alive.get() - 1);
        let ended = tasks.places.borrow_mut()[self.place].take();
        tasks.free.borrow_mut().push(self.place);
        // Detached, since dropping it would cancel the task that runs this.
        if let Some(task) = ended {
            task.detach();
        }
    }
}

impl Core {
    /// Queues `op` and sees to it that the pump runs.
    fn start(&self, op: Op) -> Operation {
        let operation = self.ring.start(op);
        self.wake_pump();
        operation
    }

    fn wake_pump(&self) {
        let waker = self.pump.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn spawn(self: &Rc<Core>, class: Class, future: impl Future<Output = ()> + 'static) {
        if self.stopping.get() {
            return;
        }
        let place = self.tasks.reserve();
        self.tasks.alive.set(self.tasks.alive.get() + 1);
        let alive = Alive { core: self.clone(), place };
        let counted = async move {
            let _alive = alive;
            future.await;
        };
        let task =
            glommio::spawn_local_into(counted, self.queues.of(class)).expect("a core's queues live as long as it");
        self.tasks.places.borrow_mut()[place] = Some(task);
    }
}

/// A core's handle; clones share it.
#[derive(Clone)]
pub struct UringIo(Rc<Core>);

impl UringIo {
    /// See [`super::Io::core`].
    pub fn core(&self) -> usize {
        self.0.index
    }

    /// See [`super::Io::now`]; CLOCK_MONOTONIC, so that the cores of a machine agree.
    pub fn now(&self) -> Instant {
        Instant(system::monotonic_ns())
    }

    /// See [`super::Io::wall_clock_ms`].
    #[allow(clippy::disallowed_methods, reason = "this is where Io reads the clock")]
    pub fn wall_clock_ms(&self) -> i64 {
        match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
            Ok(since) => since.as_millis() as i64,
            Err(before) => -(before.duration().as_millis() as i64),
        }
    }

    /// See [`super::Io::random_u64`].
    pub fn random_u64(&self) -> u64 {
        self.0.random.borrow_mut().next()
    }

    /// See [`super::Io::sleep`].
    pub async fn sleep(&self, duration: Duration) {
        let deadline = system::monotonic_ns().saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
        timers::sleep_until(&self.0, deadline).await;
    }

    /// See [`super::Io::spawn`].
    pub fn spawn(&self, class: Class, future: impl Future<Output = ()> + 'static) {
        self.0.spawn(class, future);
    }

    /// See [`super::Io::yield_now`].
    pub async fn yield_now(&self) {
        glommio::executor().yield_task_queue_now().await;
    }

    /// See [`super::Io::terminated`]. Once asked, it stays so.
    pub async fn terminated(&self) {
        let event = system::catch_termination().expect("`run` has installed the handlers");
        let event = Rc::new(event);
        while self.0.start(Op::Readable { event: event.clone() }).await.0.is_err() {
            // Out of memory for the poll, or closing: the task is dropped in that case.
            self.sleep(Duration::from_millis(100)).await;
        }
    }

    /// See [`super::Io::open`].
    pub async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<UringFile> {
        file::open(&self.0, path, mode).await
    }

    /// See [`super::Io::create_dir`].
    pub async fn create_dir(&self, path: &Path) -> io::Result<()> {
        let path = system::path(path)?;
        self.done(Op::MakeDir { path }).await
    }

    /// See [`super::Io::read_dir`]. It blocks: directories are read at start and by the background alone.
    pub async fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string() {
                entries.push(DirEntry { name, is_dir: entry.file_type()?.is_dir() });
            }
        }
        Ok(entries)
    }

    /// See [`super::Io::rename`].
    pub async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (system::path(from)?, system::path(to)?);
        self.done(Op::Rename { from, to }).await
    }

    /// See [`super::Io::remove_file`].
    pub async fn remove_file(&self, path: &Path) -> io::Result<()> {
        let path = system::path(path)?;
        self.done(Op::Remove { path, dir: false }).await
    }

    /// See [`super::Io::remove_dir`].
    pub async fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let path = system::path(path)?;
        self.done(Op::Remove { path, dir: true }).await
    }

    /// See [`super::Io::sync_dir`].
    pub async fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let path = system::path(path)?;
        let (result, _) = self.0.start(Op::Open { path, flags: libc::O_RDONLY | libc::O_DIRECTORY }).await;
        let file = Rc::new(op::opened(result?));
        self.done(Op::Sync { file, metadata: true }).await.map_err(super::fault::of_flush)
    }

    /// See [`super::Io::disk_space`].
    pub async fn disk_space(&self, path: &Path) -> io::Result<(u64, u64)> {
        system::disk_space(path)
    }

    /// See [`super::Io::listen`].
    pub async fn listen(&self, address: std::net::SocketAddr) -> io::Result<UringListener> {
        net::listen(&self.0, address)
    }

    /// See [`super::Io::connect`].
    pub async fn connect(&self, address: std::net::SocketAddr) -> io::Result<UringStream> {
        net::connect(&self.0, address).await
    }

    /// See [`super::Io::adopt`].
    pub fn adopt(&self, stream: DetachedUringStream) -> UringStream {
        net::adopt(&self.0, stream)
    }

    /// Makes the message that `letterbox` was given ready, and wakes its receiver on core `to`.
    pub(super) fn deliver(&self, to: usize, letterbox: Arc<dyn Letterbox>) {
        let Some(waker) = letterbox.deliver_from(self.0.index) else { return };
        if to == self.0.index {
            waker.wake();
        } else {
            self.0.doorbells[to].ring(waker);
        }
    }

    async fn done(&self, op: Op) -> io::Result<()> {
        self.0.start(op).await.0.map(|_| ())
    }
}

/// The descriptor of a shared file in the form that operations own.
fn descriptor<F: AsRawFd + 'static>(file: &Rc<F>) -> op::Descriptor {
    file.clone()
}
