//! Corelog's engine: all that is deterministic once it is given an [`io::Io`].
//!
//! Read in this order: [`io`] is the seam to the world, [`accounts`] a core's memory, [`record`] and [`protocol`] know bytes, [`log`] keeps
//! them, [`controller`] decides what exists, [`coordinator`] what becomes of groups, [`shard`] is one core's loop
//! over its partitions.

/// Whether a planted bug is on; always false, and gone from the code, without the feature `planted`.
#[cfg(feature = "planted")]
macro_rules! planted {
    ($bug:ident) => {
        crate::planted::is(crate::planted::Bug::$bug)
    };
}
#[cfg(not(feature = "planted"))]
macro_rules! planted {
    ($bug:ident) => {
        false
    };
}

pub mod accounts;
pub mod controller;
pub mod coordinator;
pub mod io;
pub mod limits;
pub mod log;
#[cfg(feature = "planted")]
pub mod planted;
pub mod protocol;
pub mod record;
pub mod replication;
pub mod shard;
pub mod stats;
