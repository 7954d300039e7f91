//! Producer ids: blocks that are taken for good before the first id of them is given out.
//!
//! A restart forgets what was left of a block, and no id is ever given twice.

use super::Context;
use super::records::MetadataRecord;
use super::request::{ProducerIds, Refusal};
use crate::protocol::ErrorCode;

/// How many ids a broker takes at once (`ProducerIdsBlock.PRODUCER_ID_BLOCK_SIZE`).
pub const BLOCK: i32 = 1000;
/// Most ids that one request takes.
pub const MAX_BLOCK: i32 = 1_000_000;

pub(super) fn allocate(context: &mut Context<'_>, count: i32) -> Result<ProducerIds, Refusal> {
    let count = count.clamp(1, MAX_BLOCK);
    let first = context.image.next_producer_id;
    let Some(next) = first.checked_add(i64::from(count)) else {
        return Err(Refusal::new(ErrorCode::UnknownServerError, "All producer ids have been given out."));
    };
    context.records.push(MetadataRecord::ProducerIds { next });
    Ok(ProducerIds { first, count })
}
