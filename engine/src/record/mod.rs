//! Kafka v2 record batches: reading, checking, building and compressing them.
//!
//! Everything here works on byte slices and is a pure function of them. Nothing read from a slice
//! is trusted before it was checked against the slice's length, so hostile bytes give an error and
//! never a panic, and no allocation is sized by a number that a client wrote.
//!
//! This layer knows no files, no sockets, no clock (the time of an append is an argument), no
//! partitions and no request formats.

pub mod batch;
pub mod builder;
pub mod compression;
pub mod control;
pub mod crc;
#[expect(clippy::module_inception, reason = "the layer and one record of it have the same name in Kafka too")]
pub mod record;
pub mod validate;
mod varint;

pub use batch::{Attributes, BatchError, BatchView, Batches, TimestampType, batches};
pub use builder::BatchBuilder;
pub use compression::{Codec, CompressionError, Scratch};
pub use record::{Malformed, Record, Records};
pub use validate::{RejectReason, Rejected, TopicRules, Validated, Verdict, validate, validate_in_turns};

#[cfg(test)]
mod tests;
