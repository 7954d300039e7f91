//! Bugs put in on purpose: would the simulation find them? Each is lived with for many seeds; the table says which
//! seed is the first to see it and how many do.
//!
//! `cargo test -p corelog --features planted --test simulation planted -- --nocapture`; `SEEDS` (200) is the budget,
//! `BUG` names one alone.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use engine::planted::{Bug, plant};

use crate::report::{Kind, judge};
use crate::{COORDINATORS, RECORDS, setting};

/// They need groups or transactions: for the workload that has them.
const OF_COORDINATORS: [Bug; 7] = [
    Bug::AssignBeforeRevoke,
    Bug::FencedGenerationCommits,
    Bug::CoordinatorAnswersEarly,
    Bug::MarkerOfPreviousEpochAccepted,
    Bug::StableOffsetAheadOfOpenTransaction,
    Bug::PruneBeforeSnapshotIsWhole,
    Bug::SnapshotLeavesOutPending,
];

/// They need an error in one certain place: for the scripted lives, each struck in so many of its places.
const OF_INJECTION: [(Bug, u64); 2] = [(Bug::DirectoryForgottenAfterFullDisk, 3), (Bug::EmfileIsDiskFailure, 3)];

/// Which of the seeds see the bug, and what the first of them saw.
fn found_by(kind: Kind, bug: Option<Bug>, seeds: u64, threads: usize) -> (Vec<u64>, String) {
    let next = AtomicU64::new(0);
    let found = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                plant(bug);
                while let Some(seed) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|seed| *seed < seeds) {
                    if let Err(wrong) = judge(kind, seed) {
                        found.lock().expect("nobody panics with it").push((seed, wrong[0].clone()));
                    }
                }
            });
        }
    });
    let mut found = found.into_inner().expect("nobody panics with it");
    found.sort();
    let what = found.first().map_or(String::new(), |(_, what)| what.clone());
    (found.into_iter().map(|(seed, _)| seed).collect(), what)
}

#[test]
fn planted_bugs_are_found() {
    let seeds = setting("SEEDS").unwrap_or(200);
    let threads = setting("THREADS").unwrap_or(2) as usize;
    let only = std::env::var("BUG").ok();
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    let wanted = |bug: &Bug| match &only {
        Some(only) => *only == format!("{bug:?}"),
        None => true,
    };
    for bug in Bug::ALL.into_iter().filter(wanted) {
        let every = OF_INJECTION.iter().find(|(of_injection, _)| *of_injection == bug).map(|(_, every)| *every);
        if every.is_some() || bug == Bug::BadFileIsDiskFailure {
            let found = match every {
                Some(every) => crate::injection::found(bug, every),
                None => crate::injection::found_by_bad_files(bug),
            };
            println!("{bug:?}: {} struck lives; {:.90}", found.len(), found.first().map_or("-", String::as_str));
            if found.is_empty() {
                missed.push(bug);
            }
            continue;
        }
        let kind = if OF_COORDINATORS.contains(&bug) { COORDINATORS } else { RECORDS };
        let (found, what) = found_by(kind, Some(bug), seeds, threads);
        let first = found.first().map_or("-".to_owned(), u64::to_string);
        println!("{bug:?}: first seed {first}, {} of {seeds} seeds; {what:.90}", found.len());
        if found.is_empty() {
            missed.push(bug);
        }
    }
    drop(std::panic::take_hook());
    assert!(missed.is_empty(), "not found in {seeds} seeds: {missed:?}");
}
