//! Errors at every place: short scripted lives, in which the n-th disk operation fails, for each n.
//!
//! Chance seldom puts an error where a few steps later it matters: a flush refused just behind a new segment, a success
//! later, the power gone before that directory's next file. Here a script is lived once without errors, which counts its
//! operations; then once for each of them and each error. After the error the life goes on: what was a lack must be
//! waited out by the broker itself, from an error of the disk it may end and is started again. When the script is done
//! the power goes, nothing unflushed is kept, and the next life must have all that was acknowledged and take more.
//!
//! `EVERY=1 cargo test -p corelog --test simulation injection` takes each operation, not every 13th of them from `FROM`
//! on; `LIFE` names one script, `CODE` one error and `NTH` one operation.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use engine::io::Class;
use engine::io::sim::{CrashKind, FaultClass, Faults};

use crate::caller::{Caller, Known, Step};
use crate::cluster::{Cluster, Layout};
use crate::{setting, show_log};

use Step::{Append, Commit, Create, Delete, DeleteRecords, Restart, Transaction, Wait};

/// How long a step may take before it counts as stuck, in virtual time.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a step is tried on a disk that stays full.
const FULL_PATIENCE: Duration = Duration::from_secs(2);
/// What is still to be tried again is done by then.
const QUIET: Duration = Duration::from_secs(4);
const BLOCK: u64 = 4096;
/// How often a client that is given up looks whether it is.
const GLANCE: Duration = Duration::from_millis(20);
/// A start takes no longer, in virtual time.
const START: Duration = Duration::from_secs(10);
/// Lacks that do end the broker, and should not: `STRICT=1` finds their places.
const KNOWN: [&str; 3] = [
    "a write of the journal failed: Cannot allocate memory",
    "a write of the metadata log failed",
    "a change of topics failed on disk",
];
/// Files that cannot be read make their partition unavailable, and should not: `STRICT=1` shows it.
const KNOWN_BAD_FILES: [&str; 1] = [".index"];
/// A segment that nothing but its size ends.
const STILL: &str = "604800000";

/// A scripted life, or several.
struct Script {
    name: &'static str,
    shards: usize,
    journal_bytes: u64,
    past_journal_bytes: Option<usize>,
    steps: &'static [Step],
}

const fn script(name: &'static str, shards: usize, steps: &'static [Step]) -> Script {
    Script { name, shards, journal_bytes: 512 << 10, past_journal_bytes: None, steps }
}

/// The least journal in which a coordinator's largest batch finds room.
const fn coordinators(name: &'static str, shards: usize, steps: &'static [Step]) -> Script {
    Script { journal_bytes: 1 << 20, ..script(name, shards, steps) }
}

/// Journals of 512 KiB have files of 64 KiB: a few batches of 20 kB make a checkpoint.
const SCRIPTS: [Script; 14] = [
    script("drain", 1, &[Create("t", 1, STILL), Append("t", 0, 12, 20_000), Wait(1500), Append("t", 0, 2, 100)]),
    script(
        "segment_roll",
        1,
        &[Create("t", 1, "20"), Append("t", 0, 8, 20_000), Wait(100), Append("t", 0, 8, 20_000), Wait(1500)],
    ),
    script(
        "recreate",
        1,
        &[
            Create("t", 2, STILL),
            Append("t", 0, 8, 20_000),
            Delete("t"),
            Create("t", 2, STILL),
            Append("t", 1, 8, 20_000),
        ],
    ),
    script("full_journal", 1, &[Create("t", 3, STILL), Append("t", 0, 30, 20_000), Append("t", 1, 6, 20_000)]),
    script(
        "idle_beside_hot",
        1,
        &[Create("t", 2, STILL), Append("t", 1, 2, 50), Append("t", 0, 16, 20_000), Append("t", 1, 1, 50)],
    ),
    script(
        "other_cores",
        3,
        &[
            Create("t", 4, STILL),
            Append("t", 0, 3, 5_000),
            Append("t", 3, 3, 5_000),
            Restart(Some(CrashKind::Kill), 1),
            Append("t", 1, 3, 5_000),
            Restart(Some(CrashKind::TotalPowerLoss), 2),
            Append("t", 2, 3, 5_000),
        ],
    ),
    script(
        "clean_stop",
        2,
        &[
            Create("t", 2, STILL),
            Append("t", 0, 2, 9_000),
            Restart(None, 2),
            Append("t", 1, 2, 9_000),
            Restart(None, 1),
        ],
    ),
    coordinators(
        "groups",
        1,
        &[Create("t", 1, STILL), Append("t", 0, 1, 10), Commit("t", 1), Commit("t", 2), Wait(200)],
    ),
    coordinators(
        "groups_restart",
        2,
        &[Create("t", 1, STILL), Commit("t", 1), Restart(Some(CrashKind::TotalPowerLoss), 1), Commit("t", 2)],
    ),
    coordinators(
        "transactions",
        1,
        &[Create("t", 2, STILL), Transaction("t", true), Transaction("t", false), Transaction("t", true)],
    ),
    coordinators(
        "transactions_drained",
        2,
        &[
            Create("t", 2, "20"),
            Transaction("t", false),
            Append("t", 0, 8, 20_000),
            Wait(600),
            Transaction("t", true),
            Append("t", 0, 8, 20_000),
        ],
    ),
    script(
        "delete_records",
        1,
        &[
            Create("t", 1, "20"),
            Append("t", 0, 8, 20_000),
            Wait(100),
            Append("t", 0, 8, 20_000),
            DeleteRecords("t", 10),
            Append("t", 0, 8, 20_000),
            Wait(1500),
        ],
    ),
    script(
        "many_topics",
        2,
        &[
            Create("a", 8, STILL),
            Create("b", 8, STILL),
            Delete("a"),
            Create("c", 8, STILL),
            Append("b", 7, 1, 10),
            Delete("b"),
            Append("c", 2, 1, 10),
        ],
    ),
    Script {
        past_journal_bytes: Some(6000),
        ..script(
            "past_journal",
            1,
            &[Create("t", 2, STILL), Append("t", 0, 3, 20_000), Append("t", 0, 3, 100), Append("t", 1, 6, 20_000)],
        )
    },
];

const BAD_FILE: Script = coordinators(
    "bad_file",
    1,
    &[Create("t", 2, STILL), Transaction("t", false), Append("t", 0, 8, 20_000), Append("t", 1, 2, 20_000)],
);

/// What becomes of a file between two lives.
#[derive(Debug, Clone, Copy)]
enum Harm {
    Lost,
    Shortened,
    /// Its last block, until it is written.
    Unreadable,
    /// Its last block, for good.
    Dead,
    AllDead,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Error {
    NoSpace,
    NoDescriptor,
    NoMemory,
    Broken,
}

impl Error {
    const ALL: [Error; 4] = [Error::NoSpace, Error::NoDescriptor, Error::NoMemory, Error::Broken];

    fn code(self) -> i32 {
        match self {
            Error::NoSpace => libc::ENOSPC,
            Error::NoDescriptor => libc::EMFILE,
            Error::NoMemory => libc::ENOMEM,
            Error::Broken => libc::EIO,
        }
    }
}

/// A life under way.
struct Life {
    script: &'static Script,
    cluster: Cluster,
    known: Rc<Known>,
    shards: usize,
    /// What goes wrong in it.
    error: Option<Error>,
    /// How often the broker ended by itself.
    ends: u64,
}

/// What a life came to.
struct Lived {
    operations: u64,
    /// Whether the error struck.
    struck: bool,
    ends: u64,
}

impl Life {
    fn begin(script: &'static Script, number: u64) -> Life {
        let layout = Layout {
            journal_bytes: script.journal_bytes,
            memory_bytes: 1 << 20,
            settings: [("offsets.topic.num.partitions", "2"), ("transaction.state.log.num.partitions", "2")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            past_journal_bytes: script.past_journal_bytes,
            snapshot_after_bytes: None,
        };
        let cluster = Cluster::new(number, Faults::none(), layout, Rc::default());
        Life { script, cluster, known: Rc::default(), shards: script.shards, error: None, ends: 0 }
    }

    /// Lives the script and what comes after; `nth` is the operation that fails.
    fn live(mut self, fault: Option<(u64, Error)>) -> Result<Lived, String> {
        if let Some((nth, error)) = fault {
            self.error = Some(error);
            self.cluster.world.fail_operations(self.cluster.broker, nth..nth + 1, error.code());
        }
        self.cluster.start(self.shards, false);
        for step in self.script.steps {
            self.step(*step)?;
        }
        self.watch(QUIET, || false)?;
        let operations = self.cluster.world.disk_operations(self.cluster.broker);
        self.crash(CrashKind::TotalPowerLoss);
        self.cluster.world.fail_operations(self.cluster.broker, 0..0, 0);
        self.start_in_peace()?;
        self.check(true)?;
        let struck = self.cluster.world.coverage().count(FaultClass::Planned) > 0;
        Ok(Lived { operations, struck, ends: self.ends })
    }

    /// As [`Life::live`], but from the `nth` operation of a broker that serves on there is no room on the disk any more, until the power has
    /// gone and the broker has been started without any.
    fn live_full(mut self, nth: u64) -> Result<Lived, String> {
        self.error = Some(Error::NoSpace);
        self.start_in_peace()?;
        let nth = self.cluster.world.disk_operations(self.cluster.broker) + nth;
        self.cluster.world.fail_operations(self.cluster.broker, nth..u64::MAX, libc::ENOSPC);
        for step in self.script.steps {
            match step {
                Wait(_) => self.step(*step)?,
                // The power goes in the midst of it.
                Restart(..) => break,
                step if !self.attempt(*step, FULL_PATIENCE)? => break,
                _ => {}
            }
        }
        self.watch(QUIET, || false)?;
        let operations = self.cluster.world.disk_operations(self.cluster.broker);
        self.crash(CrashKind::TotalPowerLoss);
        self.start_in_peace().map_err(|what| format!("with a full disk {what}"))?;
        self.check(false).map_err(|what| format!("with a full disk {what}"))?;
        self.crash(CrashKind::Kill);
        self.cluster.world.fail_operations(self.cluster.broker, 0..0, 0);
        self.start_in_peace()?;
        self.check(true)?;
        Ok(Lived { operations, struck: true, ends: self.ends })
    }

    fn crash(&mut self, kind: CrashKind) {
        self.cluster.world.crash(self.cluster.broker, kind);
        self.cluster.world.run_for(Duration::from_millis(1));
        self.cluster.take_failures();
    }

    /// A start that nothing disturbs.
    fn start_in_peace(&mut self) -> Result<(), String> {
        let (world, cluster) = (&self.cluster.world, &self.cluster);
        cluster.start(self.shards, false);
        world.run_until(START, || cluster.is_ready() || !cluster.is_running());
        let is_up = cluster.is_ready() && cluster.is_running();
        if is_up { Ok(()) } else { Err(format!("the broker does not start: {:?}", cluster.take_failures())) }
    }

    fn step(&mut self, step: Step) -> Result<(), String> {
        match step {
            Wait(milliseconds) => self.watch(Duration::from_millis(milliseconds), || false).map(drop),
            Restart(how, shards) => {
                self.shards = shards;
                self.restart(how)
            }
            step => match self.attempt(step, PATIENCE)? {
                true => Ok(()),
                false => Err(format!("{step:?} is stuck")),
            },
        }
    }

    /// Lets a client do the step; whether it got it done in this time.
    fn attempt(&mut self, step: Step, patience: Duration) -> Result<bool, String> {
        let done = Rc::new(Cell::new(false));
        let io = self.cluster.world.io(self.cluster.clients, 0);
        let mut caller = Caller::new(&io, self.cluster.address);
        let (known, ended, given_up) = (self.known.clone(), done.clone(), Rc::new(Cell::new(false)));
        let (stop, clock) = (given_up.clone(), io.clone());
        io.spawn(Class::Foreground, async move {
            let work = async {
                caller.act(&known, step).await;
                ended.set(true);
            };
            let give_up = async {
                while !stop.get() {
                    clock.sleep(GLANCE).await;
                }
            };
            futures_lite::future::or(work, give_up).await;
        });
        let result = self.watch(patience, || done.get());
        given_up.set(true);
        result
    }

    fn restart(&mut self, how: Option<CrashKind>) -> Result<(), String> {
        match how {
            Some(kind) => self.crash(kind),
            None => self.stop()?,
        }
        self.cluster.start(self.shards, false);
        Ok(())
    }

    fn stop(&mut self) -> Result<(), String> {
        self.cluster.world.stop(self.cluster.broker);
        let cluster = &self.cluster;
        if !cluster.world.run_until(PATIENCE, || !cluster.is_running()) {
            return Err("the broker does not stop".to_owned());
        }
        self.cluster.take_failures();
        Ok(())
    }

    /// One file of partition 0 is harmed between two lives: all else goes on, also after the next power loss.
    fn live_with_bad_file(mut self, harm: Harm, ending: &str, holds_records: bool) -> Result<(), String> {
        self.start_in_peace()?;
        for step in self.script.steps {
            self.step(*step)?;
        }
        self.stop()?;
        let is_it = |path: &Path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let is_mirror = ending == "-a" && name.starts_with("checkpoint-");
            name.ends_with(ending) && (is_mirror || path.parent().is_some_and(|parent| parent.ends_with("t-0")))
        };
        let mut files = self.cluster.world.files(self.cluster.broker);
        files.retain(|(path, len)| *len > 0 && is_it(path));
        let (path, len) = files.pop().ok_or_else(|| format!("there is no {ending}"))?;
        self.harm(harm, &path, len);
        if holds_records {
            let topic = self.known.topics.borrow()[0].id.0;
            self.known.excused.borrow_mut().insert((topic, 0));
        }
        self.start_in_peace()?;
        self.step(Append("t", 1, 6, 20_000))?;
        // The harmed partition takes it or not; and the journal goes round, whatever it still holds.
        self.attempt(Append("t", 0, 2, 20_000), FULL_PATIENCE)?;
        self.step(Append("t", 1, 80, 20_000))?;
        self.watch(QUIET, || false)?;
        self.check(true)?;
        self.crash(CrashKind::TotalPowerLoss);
        self.start_in_peace()?;
        self.check(true)
    }

    fn harm(&self, harm: Harm, path: &Path, len: u64) {
        let (world, broker) = (&self.cluster.world, self.cluster.broker);
        let last_block = len.saturating_sub(1) / BLOCK * BLOCK;
        match harm {
            Harm::Lost => world.lose_file(broker, path).expect("it is there"),
            Harm::Shortened => world.shorten_file(broker, path, len / 2 / BLOCK * BLOCK).expect("it is there"),
            Harm::Unreadable => assert!(world.make_unreadable(broker, path, last_block..len, false)),
            Harm::Dead => assert!(world.make_unreadable(broker, path, last_block..len, true)),
            Harm::AllDead => assert!(world.make_unreadable(broker, path, 0..len, true)),
        }
    }

    /// Lets time pass until the condition holds, starting the broker again where it may end; whether it held.
    fn watch(&mut self, limit: Duration, done: impl Fn() -> bool) -> Result<bool, String> {
        let end = self.cluster.world.now() + limit;
        loop {
            let left = end.since(self.cluster.world.now());
            let cluster = &self.cluster;
            cluster.world.run_until(left, || done() || !cluster.is_running());
            if self.cluster.is_running() {
                return Ok(done());
            }
            self.ends += 1;
            let failures = self.cluster.take_failures();
            let is_known = |failure: &String| KNOWN.iter().any(|known| failure.contains(known));
            let may_end = !self.cluster.is_ready()
                || self.error == Some(Error::Broken)
                || failures.iter().any(|failure| failure.contains("flush failed"))
                || (setting("STRICT").is_none() && failures.iter().any(is_known));
            if !may_end {
                return Err(format!("the broker ends by itself: {failures:?}"));
            }
            if self.ends > 3 {
                return Err(format!("the broker ends again and again: {failures:?}"));
            }
            self.cluster.world.run_for(Duration::from_millis(1));
            self.cluster.start(self.shards, false);
        }
    }

    /// Everything acknowledged is there; and, if there is room for it, every partition takes more.
    fn check(&self, takes_more: bool) -> Result<(), String> {
        let (known, address) = (self.known.clone(), self.cluster.address);
        let found: Rc<RefCell<Option<Result<(), String>>>> = Rc::default();
        let result = found.clone();
        let io = self.cluster.world.io(self.cluster.clients, 0);
        let mut caller = Caller::new(&io, address);
        io.spawn(Class::Foreground, async move {
            let outcome = caller.check(&known, takes_more).await;
            *result.borrow_mut() = Some(outcome);
        });
        let cluster = &self.cluster;
        cluster.world.run_until(PATIENCE, || found.borrow().is_some() || !cluster.is_running());
        let outcome = found.borrow_mut().take();
        outcome.unwrap_or_else(|| Err(format!("not everything is available: {:?}", cluster.take_failures())))
    }
}

/// What one script's lives came to.
#[derive(Default)]
struct Tally {
    lives: u64,
    struck: u64,
    ends: u64,
}

/// Lives each script with an error at every `every`th place, on threads that are `prepared`; what went wrong.
fn strike(
    errors: &[Error],
    every: u64,
    prepare: impl Fn() + Sync,
    live: impl Fn(Life, u64, Error) -> Result<Lived, String> + Sync,
) -> Vec<String> {
    let jobs = jobs(errors, every);
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    let tallies = Mutex::new(BTreeMap::<&str, Tally>::new());
    std::thread::scope(|scope| {
        for _ in 0..setting("THREADS").unwrap_or(2) {
            scope.spawn(|| {
                prepare();
                while let Some((number, error, nth)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let script = &SCRIPTS[*number];
                    let lived =
                        catch_unwind(AssertUnwindSafe(|| live(Life::begin(script, *number as u64), *nth, *error)));
                    let mut tallies = tallies.lock().expect("nobody panics with it");
                    let tally = tallies.entry(script.name).or_default();
                    tally.lives += 1;
                    match lived.unwrap_or_else(|_| Err("a panic".to_owned())) {
                        Ok(lived) => {
                            tally.struck += u64::from(lived.struck);
                            tally.ends += lived.ends;
                        }
                        Err(what) => {
                            let how = format!("LIFE={} CODE={error:?} NTH={nth}", script.name);
                            wrong.lock().expect("nobody panics with it").push(format!("{how}: {what}"));
                        }
                    }
                }
            });
        }
    });
    for (name, Tally { lives, struck, ends }) in tallies.into_inner().expect("nobody panics with it") {
        println!("{name}: {lives} lives, {struck} struck, {ends} ends of the broker by itself");
    }
    let mut wrong = wrong.into_inner().expect("nobody panics with it");
    wrong.sort();
    wrong
}

/// Which script is to be struck, with what and where.
fn jobs(errors: &[Error], every: u64) -> Vec<(usize, Error, u64)> {
    let (only, code) = (std::env::var("LIFE").ok(), std::env::var("CODE").ok());
    let mut jobs = Vec::new();
    for (number, script) in SCRIPTS.iter().enumerate() {
        if only.as_ref().is_some_and(|only| only != script.name) {
            continue;
        }
        let lived = Life::begin(script, number as u64).live(None);
        let operations = lived.unwrap_or_else(|what| panic!("{}: {what}", script.name)).operations;
        println!("{}: {operations} operations", script.name);
        for (index, error) in errors.iter().enumerate() {
            if code.as_ref().is_some_and(|code| *code != format!("{error:?}")) {
                continue;
            }
            let from = (setting("FROM").unwrap_or(0) + 17 * index as u64) % every;
            let places: Vec<u64> = match setting("NTH") {
                Some(nth) => vec![nth],
                None => (from..operations).step_by(every as usize).collect(),
            };
            jobs.extend(places.into_iter().map(|nth| (number, *error, nth)));
        }
    }
    jobs
}

/// Each kind of file, harmed in each way; what went wrong.
fn harm_files() -> Vec<String> {
    // (how its name ends, whether it holds records that nothing else holds)
    let files = [(".log", true), (".index", false), (".txnindex", false), ("-a", false)];
    let mut wrong = Vec::new();
    for (ending, holds_records) in files {
        for harm in [Harm::Lost, Harm::Shortened, Harm::Unreadable, Harm::Dead, Harm::AllDead] {
            // A disk that no checkpoint can be written to is a broken one.
            if ending == "-a" && matches!(harm, Harm::Dead | Harm::AllDead) {
                continue;
            }
            if setting("STRICT").is_none()
                && KNOWN_BAD_FILES.contains(&ending)
                && !matches!(harm, Harm::Lost | Harm::Shortened)
            {
                continue;
            }
            let live = || Life::begin(&BAD_FILE, 1).live_with_bad_file(harm, ending, holds_records);
            let lived = catch_unwind(AssertUnwindSafe(live)).unwrap_or_else(|_| Err("a panic".to_owned()));
            wrong.extend(lived.err().map(|what| format!("{ending} {harm:?}: {what}")));
        }
    }
    wrong
}

#[test]
fn one_bad_file_costs_its_partition_alone() {
    show_log();
    let wrong = harm_files();
    assert!(wrong.is_empty(), "{} lives:\n{}", wrong.len(), wrong.join("\n"));
}

/// What a planted bug does to the lives with a bad file.
#[cfg(feature = "planted")]
pub(crate) fn found_by_bad_files(bug: engine::planted::Bug) -> Vec<String> {
    engine::planted::plant(Some(bug));
    let wrong = harm_files();
    engine::planted::plant(None);
    wrong
}

/// What a planted bug does to the lives, each struck at every `every`th place.
#[cfg(feature = "planted")]
pub(crate) fn found(bug: engine::planted::Bug, every: u64) -> Vec<String> {
    let plant = || engine::planted::plant(Some(bug));
    strike(&Error::ALL, every, plant, |life, nth, error| life.live(Some((nth, error))))
}

fn every() -> u64 {
    setting("EVERY").unwrap_or(13)
}

#[test]
fn an_error_at_any_operation_loses_nothing() {
    show_log();
    let wrong = strike(&Error::ALL, every(), || {}, |life, nth, error| life.live(Some((nth, error))));
    assert!(wrong.is_empty(), "{} lives:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
#[ignore = "a start on a full disk waits for a room that it would have to make"]
fn a_disk_that_stays_full_serves_what_it_has_after_a_power_loss() {
    show_log();
    let wrong = strike(&[Error::NoSpace], every(), || {}, |life, nth, _| life.live_full(nth));
    assert!(wrong.is_empty(), "{} lives:\n{}", wrong.len(), wrong.join("\n"));
}
