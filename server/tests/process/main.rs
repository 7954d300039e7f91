//! The broker as its own process, over real sockets and on a real disk: what it does when its disk fails, when
//! clients send nonsense, when it cannot start, and what it shows of itself.
//!
//! Nothing here depends on how fast anything is; patience is bounded so that a hang is a failure.
#![expect(clippy::disallowed_methods, reason = "a client of the process has no Io")]

mod bad_input;
mod broker;
mod client;
mod disk_faults;
mod metrics;
mod refusals;
