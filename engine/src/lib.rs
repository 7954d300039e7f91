//! Corelog's engine: all that is deterministic once it is given an [`io::Io`].
//!
//! Read in this order: [`io`] is the seam to the world, `record` and `protocol` know bytes, `log` keeps
//! them, `shard` is one core's loop over them.

pub mod io;
pub mod protocol;
pub mod record;
pub mod replication;
