//! How readers keep up with a leader: decisions without I/O.

pub mod fetch_session;
