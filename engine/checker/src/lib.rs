//! The history checker: judges what clients were told against what a commit log promises.
//!
//! It is fed what clients did and saw, in the order in which they saw it, by a simulation, by clients of real
//! processes or by a load generator, and knows none of them. Invariant: a [`Violation`] is recorded only for
//! something that no correct log can do; whatever a client does not know (an answer that never came) may have
//! happened or not. The rules follow Jepsen's Kafka workload: acknowledged is there at its offset (I1), nothing
//! is there twice (I2) or was never sent (I3), an offset never changes what it holds (I4), a producer's order is
//! kept (I5), ends never go back (I12). [`Transactions`] judges transactions (I6), [`Groups`] groups (I8).

mod graph;
mod groups;
mod history;
pub mod payload;
mod transactions;

pub use groups::Groups;
pub use history::{History, Partition, Rule, Summary, Violation};
pub use transactions::{Seen, Transactions};
