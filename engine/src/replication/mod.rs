//! How readers keep up with a leader: decisions without I/O.

pub mod fetch_session;
pub mod share_partition;
pub mod share_session;
