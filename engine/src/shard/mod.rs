//! One core's loop over its partitions.

pub mod message;
pub mod quorum;
