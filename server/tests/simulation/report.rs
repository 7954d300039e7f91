//! Many seeds on some threads, and what they came to together.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use engine::io::sim::{Coverage, FaultClass};

use crate::ledger::Excuse;
use crate::seed::Outcome;

/// A workload.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    /// Its name as a test.
    pub(crate) test: &'static str,
    /// How it lives a seed.
    pub(crate) live: fn(u64) -> Outcome,
    /// What a seed must have had acknowledged.
    pub(crate) least_acknowledged: u64,
    /// Whether every odd seed damages the disk at rest.
    pub(crate) damages: bool,
}

/// With fewer seeds than this a class of faults may by chance not fire.
const SEEDS_FOR_COVERAGE: u64 = 100;
/// Violations that are printed for a seed.
const SHOWN: usize = 6;

/// What many seeds came to.
pub(crate) struct Report {
    kind: Kind,
    seeds: u64,
    sent: u64,
    acknowledged: u64,
    read: u64,
    crashes: u64,
    starts: u64,
    coverage: Coverage,
    excused: BTreeMap<Excuse, u64>,
    failed: Vec<(u64, Vec<String>)>,
    /// The seeds' own time, added up.
    lived: Duration,
    tally: BTreeMap<&'static str, u64>,
}

/// Lives one seed; a panic in it is a failure like any other.
pub(crate) fn judge(kind: Kind, seed: u64) -> Result<Outcome, Vec<String>> {
    let outcome = catch_unwind(AssertUnwindSafe(|| (kind.live)(seed))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        vec![format!("panic: {}", text.unwrap_or_default())]
    })?;
    let mut wrong: Vec<_> = outcome.violations.iter().map(ToString::to_string).collect();
    if wrong.is_empty() && (outcome.summary.acknowledged < kind.least_acknowledged || outcome.crashes == 0) {
        wrong.push("too little was acknowledged, or nothing crashed".to_owned());
    }
    if wrong.is_empty() { Ok(outcome) } else { Err(wrong) }
}

/// Lives all of `seeds`.
pub(crate) fn run_seeds(kind: Kind, seeds: Range<u64>, threads: usize) -> Report {
    let next = AtomicU64::new(seeds.start);
    let report = Mutex::new(Report::new(kind, seeds.end - seeds.start));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(seed) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|seed| *seed < seeds.end) {
                    let outcome = judge(kind, seed);
                    report.lock().expect("nobody panics with it").add(seed, outcome);
                }
            });
        }
    });
    let mut report = report.into_inner().expect("nobody panics with it");
    report.failed.sort();
    report
}

impl Report {
    fn new(kind: Kind, seeds: u64) -> Report {
        Report {
            kind,
            seeds,
            sent: 0,
            acknowledged: 0,
            read: 0,
            crashes: 0,
            starts: 0,
            coverage: Coverage::default(),
            excused: BTreeMap::new(),
            failed: Vec::new(),
            lived: Duration::ZERO,
            tally: BTreeMap::new(),
        }
    }

    fn add(&mut self, seed: u64, outcome: Result<Outcome, Vec<String>>) {
        match outcome {
            Ok(outcome) => {
                self.sent += outcome.summary.sent;
                self.acknowledged += outcome.summary.acknowledged;
                self.read += outcome.summary.read;
                self.crashes += outcome.crashes;
                self.starts += outcome.starts;
                self.lived += outcome.lived;
                self.coverage.merge(&outcome.coverage);
                for (what, times) in outcome.tally {
                    *self.tally.entry(what).or_default() += times;
                }
                for (excuse, records) in outcome.excused {
                    *self.excused.entry(excuse).or_default() += records;
                }
            }
            Err(wrong) => {
                let shown: Vec<_> = wrong.iter().take(SHOWN).map(String::as_str).collect();
                println!("seed {seed} ({} violations): {}", wrong.len(), shown.join("; "));
                self.failed.push((seed, wrong));
            }
        }
    }

    /// Whether the workload's seeds meet the class.
    fn expects(&self, class: FaultClass) -> bool {
        match class {
            FaultClass::BitFlip | FaultClass::LostWrite | FaultClass::MisdirectedWrite => self.kind.damages,
            // Of the scripted lives alone.
            FaultClass::Planned => false,
            // Not drawn yet.
            FaultClass::Unreadable | FaultClass::UnreadableRead => false,
            FaultClass::LostFile | FaultClass::ShortenedFile => false,
            _ => true,
        }
    }

    /// What must not be.
    pub(crate) fn red(&self) -> Vec<String> {
        let failed = self.failed.iter().map(|(seed, wrong)| {
            let test = self.kind.test;
            format!("seed {seed}: {} (SEED={seed} cargo test -p corelog --test simulation {test})", wrong[0])
        });
        let all_classes = self.seeds >= SEEDS_FOR_COVERAGE;
        let silent = self.coverage.iter().filter(|(class, times)| *times == 0 && all_classes && self.expects(*class));
        let silent = silent.map(|(class, _)| format!("{class:?} never happened"));
        let excused: u64 = self.excused.values().sum();
        let too_many =
            (excused * 100 > self.acknowledged && all_classes).then(|| format!("{excused} records are excused"));
        failed.chain(silent).chain(too_many).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} seeds, {} failed: {} values sent, {} acknowledged, {} read, {} starts, {} crashes",
            self.seeds,
            self.failed.len(),
            self.sent,
            self.acknowledged,
            self.read,
            self.starts,
            self.crashes
        )?;
        let tally: Vec<_> = self.tally.iter().map(|(what, times)| format!("{times} {what}")).collect();
        writeln!(
            f,
            "{:.1} hours of their own time{}{}",
            self.lived.as_secs_f64() / 3600.0,
            if tally.is_empty() { "" } else { ": " },
            tally.join(", ")
        )?;
        let excused: u64 = self.excused.values().sum();
        let share = excused as f64 * 100.0 / self.acknowledged.max(1) as f64;
        writeln!(f, "excused by damage at rest: {excused} records, {share:.3} %: {:?}", self.excused)?;
        let classes: Vec<_> = self.coverage.iter().map(|(class, times)| format!("{class:?} {times}")).collect();
        write!(f, "faults: {}", classes.join(", "))
    }
}
