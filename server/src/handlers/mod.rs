//! What the broker does for each request, one file for a family of APIs.
//!
//! A handler decodes its request, asks whether the client may ([`crate::authorizer`]), asks the shards or the
//! controller, and answers. It decides what a client may ask and what it is told; it knows neither sockets nor
//! files.

pub mod acls;
pub mod api_versions;
pub mod cluster;
pub mod configs;
pub mod consumer_groups;
pub mod coordinators;
pub mod credentials;
pub mod fetch;
pub mod group_offsets;
pub mod groups;
pub mod logs;
pub mod metadata;
pub mod offsets;
pub mod produce;
pub mod producer_ids;
pub mod quorum;
pub mod quotas;
pub mod records;
pub mod route;
pub mod share_fetch;
pub mod share_groups;
pub mod share_offsets;
pub mod share_state;
pub mod topics;
pub mod transactions;
pub mod verification;

use std::time::Duration;

use engine::controller::Refusal;
use engine::io::Instant;
use engine::protocol::{ErrorCode, Str};

use crate::limits;

/// Code and sentence of a result, as answers have them.
pub(crate) fn outcome<T>(result: &Result<T, Refusal>) -> (i16, Option<Str<'_>>) {
    match result {
        Ok(_) => (ErrorCode::None.code(), None),
        Err(refused) => (refused.error.code(), refused.message.as_deref().map(Str::Borrowed)),
    }
}

/// Whether a request that changes the cluster leaves any time for it. As in Kafka, whose controller looks at the
/// deadline before it decides, nothing happens if it does not.
pub(crate) fn in_time(timeout_ms: i32) -> Result<(), ErrorCode> {
    if timeout_ms > 0 { Ok(()) } else { Err(ErrorCode::RequestTimedOut) }
}

/// The deadline of a request that waits for this broker's own disk. In Kafka the client's time begins when the leader has
/// appended, and is for the other replicas alone: here the leader's own flush, however short the time, gets
/// [`limits::LEAST_FLUSH_WAIT`].
pub(crate) fn flush_deadline(now: Instant, timeout_ms: i32) -> Instant {
    now + Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0)).max(limits::LEAST_FLUSH_WAIT)
}
