//! Starting and ending the cores.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::{self, Write};
use std::rc::Rc;
use std::sync::{Arc, Once, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use glommio::{GlommioError, Latency, LocalExecutor, LocalExecutorBuilder, Placement, ReactorErrorKind, Shares};

use super::doorbell::Doorbell;
use super::pump::{bridge, pump};
use super::timers::Timers;
use super::{Core, Queues, RandomNumbers, Tasks, UringIo};
use crate::io::ring::{Ring, system};
use crate::io::{Class, Io};

/// Memory that each executor of glommio's locks for reads and writes of its own, of which there are none.
const EXECUTOR_MEMORY: usize = 64 << 10;
/// Depth of glommio's own rings, which only the bridge uses. glommio preempts after as many completions there
/// without a look at them; see [`PREEMPT`] for why that must not happen.
const EXECUTOR_DEPTH: usize = 256;
/// When glommio preempts a queue: never. If its timer fires before the first queue of a round has run,
/// glommio 0.9 takes the round for idle and sleeps although tasks are ready (`run_task_queues` breaks off,
/// `park` counts only events that woke a task). A core then hangs until something else interrupts it, which
/// a timer of 2 ms reached within seconds on a busy machine. The pump gives way after each round instead,
/// and long work is to call [`Io::yield_now`].
const PREEMPT: Duration = Duration::from_secs(24 * 3600);
/// How long the operations of a core that ends may take to complete.
const CLOSE_PATIENCE_NS: u64 = 60_000_000_000;

/// One core to be started.
#[derive(Debug, Clone)]
pub struct CoreSpec {
    /// The thread's name, at most 15 bytes of it are shown by Linux.
    pub name: String,
    /// The processor that it is pinned to; several cores may share one. `None`: wherever Linux puts it.
    pub cpu: Option<usize>,
    /// How long the core looks for events before it sleeps. It buys latency with processor time; zero for none.
    pub spin: Duration,
    /// Places in the ring's submission queue: how many operations go to the kernel in one call at most.
    pub submission_entries: u32,
    /// Places in the ring's completion queue: how many operations are under way at once at most. Each idle
    /// connection that is read from takes one. Linux allows 65 536.
    pub completion_entries: u32,
}

impl CoreSpec {
    /// A core with the usual ring.
    pub fn new(name: impl Into<String>, cpu: Option<usize>, spin: Duration) -> CoreSpec {
        CoreSpec { name: name.into(), cpu, spin, submission_entries: 512, completion_entries: 32 << 10 }
    }
}

/// Why the cores could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A processor that this process may not run on.
    #[error(
        "core {core} cannot run on processor {cpu}: this process may use {available:?}; choose among these or widen its cpuset"
    )]
    Processor {
        /// The core's index.
        core: usize,
        /// The processor asked for.
        cpu: usize,
        /// The ones there are.
        available: Vec<usize>,
    },
    /// io_uring is switched off or filtered.
    #[error(
        "io_uring is not available ({0}): set kernel.io_uring_disabled=0, and allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile"
    )]
    Forbidden(#[source] io::Error),
    /// The kernel lacks what the ring needs.
    #[error("the kernel is too old ({0}): Linux 6.1 or later is needed for io_uring with deferred task work")]
    Kernel(#[source] io::Error),
    /// Too little memory may be locked.
    #[error(
        "only {limit} bytes may be locked in memory, {needed} are needed: raise RLIMIT_MEMLOCK (ulimit -l, LimitMEMLOCK=)"
    )]
    LockedMemory {
        /// The limit in bytes.
        limit: u64,
        /// What is needed, in bytes.
        needed: u64,
    },
    /// Any other error of the system.
    #[error("core {core} could not be started: {source}")]
    System {
        /// The core's index.
        core: usize,
        /// What the system said.
        source: io::Error,
    },
}

/// Starts one thread for each of `cores`, runs `main` on each, and returns when all have ended. Tasks that a
/// core's main leaves behind are dropped with the core. From its call on, SIGTERM and SIGINT end
/// [`Io::terminated`] rather than the process.
///
/// A panic on any core aborts the process: half a broker must not go on.
///
/// # Errors
/// If a core cannot be started; then no main has run.
pub fn run<F, Fut>(cores: Vec<CoreSpec>, main: F) -> Result<(), StartError>
where
    F: Fn(Io) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    check_processors(&cores)?;
    let failed = |core| move |source| StartError::System { core, source };
    abort_on_panic();
    system::without_huge_pages();
    system::catch_termination().map_err(failed(0))?;
    let doorbell = |core| Ok(Doorbell::new(system::eventfd().map_err(failed(core))?));
    let doorbells: Arc<[Doorbell]> = (0..cores.len()).map(doorbell).collect::<Result<Vec<_>, _>>()?.into();
    let (report, reports) = mpsc::channel();
    let mut threads = Vec::new();
    // Dropped without a word if a core fails: then those that wait for it end.
    let mut starts = Vec::new();
    for (index, spec) in cores.into_iter().enumerate() {
        let (start, started) = mpsc::channel();
        starts.push(start);
        let place = Place { index, spec, doorbells: doorbells.clone(), report: report.clone(), started };
        let main = main.clone();
        threads.push(spawn(place, main).map_err(failed(index))?);
    }
    drop(report);
    let ready = reports.into_iter().take(threads.len()).collect::<Result<(), StartError>>();
    if ready.is_ok() {
        for start in &starts {
            // A core that has reported success waits for this.
            start.send(()).expect("a core waits for its start");
        }
    }
    drop(starts);
    for thread in threads {
        thread.join().expect("a core's panic aborts the process");
    }
    ready
}

/// What a core's thread is given.
struct Place {
    index: usize,
    spec: CoreSpec,
    doorbells: Arc<[Doorbell]>,
    report: mpsc::Sender<Result<(), StartError>>,
    started: mpsc::Receiver<()>,
}

fn spawn<F, Fut>(place: Place, main: F) -> io::Result<JoinHandle<()>>
where
    F: Fn(Io) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let name = place.spec.name.clone();
    let body = move || {
        ABORTS_ON_PANIC.set(true);
        core_thread(place, main);
    };
    system::with_signals_blocked(|| std::thread::Builder::new().name(name).spawn(body))
}

/// Runs `body` on a thread of its own beside the cores: pinned to `processor` if one is named, and after the cores where
/// both want to run.
///
/// # Errors
/// If the system has no thread for it.
pub fn spawn_beside(name: &str, processor: Option<usize>, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let body = move || {
        if let Some(id) = processor {
            // Elsewhere it is as well off: it only sleeps and reads.
            core_affinity::set_for_current(core_affinity::CoreId { id });
        }
        system::lower_priority();
        body();
    };
    system::with_signals_blocked(|| std::thread::Builder::new().name(name.to_owned()).spawn(body)).map(drop)
}

thread_local! {
    static ABORTS_ON_PANIC: Cell<bool> = const { Cell::new(false) };
}

/// Has a panic on a core's thread end the process where it happens, before anything unwinds: the ring's
/// memory must outlive its operations, and a core dump should show the place.
fn abort_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            report(panic);
            if ABORTS_ON_PANIC.get() {
                // Written again and past a test's output capture, which the end of the process would lose.
                let thread = std::thread::current();
                let name = thread.name().unwrap_or("?");
                let _ = writeln!(io::stderr(), "core thread {name}: {panic}\naborting the process");
                std::process::abort();
            }
        }));
    });
}

fn check_processors(cores: &[CoreSpec]) -> Result<(), StartError> {
    let available: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|id| id.id).collect();
    for (core, spec) in cores.iter().enumerate() {
        if let Some(cpu) = spec.cpu
            && !available.contains(&cpu)
        {
            return Err(StartError::Processor { core, cpu, available });
        }
    }
    Ok(())
}

fn core_thread<F, Fut>(place: Place, main: F)
where
    F: Fn(Io) -> Fut,
    Fut: Future<Output = ()> + 'static,
{
    // The ring comes first: it says what the kernel lacks, where glommio would panic.
    let prepared = make_ring(&place).and_then(|ring| Ok((ring, make_executor(&place)?)));
    let (ring, executor) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            let _ = place.report.send(Err(error));
            return;
        }
    };
    let _ = place.report.send(Ok(()));
    if place.started.recv().is_err() {
        ring.close(CLOSE_PATIENCE_NS);
        return;
    }
    executor.run(live(place, ring, main));
}

fn make_ring(place: &Place) -> Result<Ring, StartError> {
    let spec = &place.spec;
    let event = place.doorbells[place.index].event();
    Ring::new(spec.submission_entries, spec.completion_entries, spec.cpu, event).map_err(|error| {
        match error.raw_os_error() {
            Some(libc::ENOSYS | libc::EPERM | libc::EACCES) => StartError::Forbidden(error),
            Some(libc::EINVAL) => StartError::Kernel(error),
            _ => StartError::System { core: place.index, source: error },
        }
    })
}

fn make_executor(place: &Place) -> Result<LocalExecutor, StartError> {
    let placement = place.spec.cpu.map_or(Placement::Unbound, Placement::Fixed);
    let builder = LocalExecutorBuilder::new(placement)
        .name(&place.spec.name)
        .io_memory(EXECUTOR_MEMORY)
        .ring_depth(EXECUTOR_DEPTH)
        .preempt_timer(PREEMPT);
    builder.make().map_err(|error| match error {
        GlommioError::ReactorError(ReactorErrorKind::MemLockLimit(limit, needed)) => {
            StartError::LockedMemory { limit, needed }
        }
        error => StartError::System { core: place.index, source: io::Error::other(error.to_string()) },
    })
}

/// A core's life inside its executor.
async fn live<F, Fut>(place: Place, ring: Ring, main: F)
where
    F: Fn(Io) -> Fut,
    Fut: Future<Output = ()> + 'static,
{
    let core = Rc::new(Core {
        index: place.index,
        ring,
        doorbells: place.doorbells,
        queues: make_queues(),
        timers: Timers::default(),
        spin: place.spec.spin,
        pump: RefCell::new(None),
        random: RefCell::new(RandomNumbers::default()),
        tasks: Tasks::default(),
        stopping: Cell::new(false),
    });
    let event = core.doorbells[core.index].executor_file().expect("a descriptor for the bridge");
    let stop = Rc::new(Cell::new(false));
    let foreground = core.queues.of(Class::Foreground);
    let in_foreground = "the queue was just made";
    let pump = glommio::spawn_local_into(pump(core.clone()), foreground).expect(in_foreground);
    let bridge = glommio::spawn_local_into(bridge(core.clone(), event, stop.clone()), foreground).expect(in_foreground);
    let io = Io::from(UringIo(core.clone()));
    glommio::spawn_local_into(main(io), foreground).expect(in_foreground).await;

    end_tasks(&core).await;
    pump.cancel().await;
    core.ring.close(CLOSE_PATIENCE_NS);
    drop(core.doorbells[core.index].close());
    stop.set(true);
    core.doorbells[core.index].signal();
    bridge.await;
}

/// Drops all tasks of the core, and those that they start while they go.
async fn end_tasks(core: &Core) {
    core.stopping.set(true);
    core.tasks.cancel_all();
    while core.tasks.alive.get() > 0 {
        glommio::executor().yield_task_queue_now().await;
    }
}

fn make_queues() -> Queues {
    let queue =
        |shares, name| glommio::executor().create_task_queue(Shares::Static(shares), Latency::NotImportant, name);
    Queues {
        foreground: queue(1000, "foreground"),
        replication: queue(500, "replication"),
        catch_up: queue(200, "catch-up"),
        background: queue(100, "background"),
    }
}
