//! What all messages have in common, and the generated messages themselves.
//!
//! Invariant: a message is read and written as the schema says for its version. A field that a
//! version lacks has its default after decoding and is dropped in encoding; a tagged field that
//! this side does not know is skipped.

use std::ops::RangeInclusive;

use super::api::ApiKey;
use super::decoder::{DecodeError, Decoder};
use super::encoder::Encoder;

/// A top-level message: a request, a response, or data kept in records.
pub trait Message<'a>: Sized {
    /// Kafka's name of the message.
    const NAME: &'static str;

    /// The versions that can be read and written.
    const VERSIONS: RangeInclusive<i16>;

    /// Reads the message; strings, bytes and records borrow from what `d` reads. Bytes behind the
    /// message are left to the caller, see [`Decoder::finish`].
    fn decode(d: &mut Decoder<'a>, version: i16) -> Result<Self, DecodeError>;

    /// Writes the message. What cannot be written is told by [`Encoder::finish`].
    fn encode(&self, e: &mut Encoder, version: i16);
}

/// A request, which knows its API and its response.
pub trait Request<'a>: Message<'a> {
    /// The API.
    const API_KEY: ApiKey;

    /// What a broker answers.
    type Response<'r>: Message<'r>;
}

/// The key or the value of a record in a coordinator's internal topic.
pub trait RecordData<'a>: Message<'a> {
    /// The int16 that the record's key begins with.
    const RECORD_TYPE: i16;
}

fn check_version<'a, M: Message<'a>>(version: i16) -> Result<(), DecodeError> {
    match M::VERSIONS.contains(&version) {
        true => Ok(()),
        false => Err(DecodeError::UnsupportedVersion { name: M::NAME, version }),
    }
}

/// What generated modules import.
mod prelude {
    #![allow(unused_imports, reason = "not every set of messages uses all of it")]
    pub(super) use std::ops::RangeInclusive;

    pub(super) use super::super::api::ApiKey;
    pub(super) use super::super::decoder::{DecodeError, Decoder};
    pub(super) use super::super::encoder::Encoder;
    pub(super) use super::super::types::{Blob, IntoStatic, Records, Str, Uuid};
    pub(super) use super::{Message, RecordData, Request, check_version};
}

/// Requests and responses, a module for each API: `messages::produce` holds `ProduceRequest`,
/// `ProduceResponse` and the structs in them. Generated from `schema/api.schema`.
pub mod messages {
    #![allow(unused_imports, clippy::all, reason = "generated")]
    use super::prelude;
    include!(concat!(env!("OUT_DIR"), "/messages.rs"));
}

/// What coordinators keep in records and clients in blobs, a module for each: `data::
/// group_metadata_value` holds `GroupMetadataValue`. Generated from `schema/data.schema`.
pub mod data {
    #![allow(unused_imports, clippy::all, reason = "generated")]
    use super::prelude;
    include!(concat!(env!("OUT_DIR"), "/data.rs"));
}
