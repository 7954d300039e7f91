//! The whole broker in simulation, under load and faults, judged by what its clients were told.
//!
//! One seed is one history: a broker of one to four shards, idempotent and plain producers, consumers and an
//! admin, all over Kafka's protocol; crashes and power losses, also while it starts, failing, slow and full disks,
//! lost connections, jumping clocks, other cores in each life. Every odd seed also damages the disk at rest.
//!
//! A second workload has groups and transactions for the same broker with the same faults, and nothing damaged at
//! rest: producers that append to several lists in a transaction, vanish, and are fenced by who takes their place;
//! requests that come twice, late or out of order; readers of committed and of all records; members of a classic and
//! of a KIP-848 group that vanish and come back as if nothing had been; observers of committed offsets; an operator
//! whose markers are too late. It is judged by `checker::Transactions` (I6) and `checker::Groups` (I8).
//!
//! Two more do not draw their faults. Scripted lives (`injection.rs`) meet each error at each disk operation in turn.
//! Uneven ones (`uneven.rs`) have idle beside hot partitions, bursts, hours of silence and clients that are a nuisance,
//! and ask that others are answered soon.
//!
//! `cargo test -p corelog --test simulation` runs 200 seeds of the first and 100 of the second; `SEEDS=5000` more of
//! them, from `SEED` on (0), on `THREADS` (2). `SEED=123 cargo test -p corelog --test simulation NAME` replays one of
//! the workload with the test of that name, `CORELOG_LOG=info` with what its broker says.

mod caller;
mod chance;
mod classic;
mod clients;
mod cluster;
mod consumer;
mod coordinators;
mod injection;
mod ledger;
mod lives;
mod members;
mod offsets;
mod operator;
#[cfg(feature = "planted")]
mod planted;
mod producer;
mod readers;
mod reconciling;
mod report;
mod seed;
mod shared;
mod transactions;
mod uneven;
mod wire;

use report::{Kind, run_seeds};

/// Producers and consumers.
const RECORDS: Kind = Kind {
    test: "acknowledged_records_are_kept",
    live: seed::live,
    least_acknowledged: seed::LEAST_ACKNOWLEDGED,
    damages: true,
};
/// Groups and transactions.
const COORDINATORS: Kind = Kind {
    test: "coordinators_keep_their_word",
    live: coordinators::live,
    least_acknowledged: coordinators::LEAST_ACKNOWLEDGED,
    damages: false,
};

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// `CORELOG_LOG=debug` shows what a seed's broker says.
fn show_log() {
    if let Ok(filter) = std::env::var("CORELOG_LOG") {
        let subscriber = tracing_subscriber::fmt().with_env_filter(filter).without_time().with_target(false);
        subscriber.try_init().ok();
    }
}

/// Lives so many seeds, or those that the environment names.
fn keeps_its_promises(kind: Kind, seeds: u64) {
    show_log();
    let first = setting("SEED");
    let seeds = setting("SEEDS").unwrap_or(if first.is_some() { 1 } else { seeds });
    let first = first.unwrap_or(0);
    let threads = setting("THREADS").unwrap_or(2);
    let report = run_seeds(kind, first..first + seeds, threads as usize);
    println!("{report}");
    let red = report.red();
    assert!(red.is_empty(), "{}", red.join("\n"));
}

#[test]
fn acknowledged_records_are_kept() {
    keeps_its_promises(RECORDS, 200);
}

#[test]
fn coordinators_keep_their_word() {
    keeps_its_promises(COORDINATORS, 100);
}

#[test]
fn a_seed_is_one_history() {
    for seed in [7, 8] {
        assert_eq!(seed::live(seed).trace, seed::live(seed).trace, "seed {seed}");
        assert_eq!(coordinators::live(seed).trace, coordinators::live(seed).trace, "seed {seed} of coordinators");
    }
}
