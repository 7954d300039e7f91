//! InitProducerId: ids from blocks that the controller gives out for good.

use std::rc::Rc;

use engine::controller::{ControllerReply, ControllerRequest};
use engine::protocol::ErrorCode;
use engine::protocol::messages::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};

use crate::authorizer::{Operation, Resource, allows, allows_on_any_topic, authorize};
use crate::broker::Broker;
use crate::dispatch::{Answer, Call, Refusal};
use crate::limits;

/// Gives an idempotent producer its id.
///
/// # Errors
/// If the request cannot be read.
pub async fn init(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: InitProducerIdRequest<'_> = call.decode()?;
    let given = match may(broker, call, &request).and_then(|()| check(&request)) {
        Ok(()) => next_id(broker).await,
        Err(error) => Err(error),
    };
    call.answer(&match given {
        Ok(producer_id) => InitProducerIdResponse { producer_id, producer_epoch: 0, ..Default::default() },
        Err(error) => InitProducerIdResponse {
            error_code: error.code(),
            producer_id: -1,
            producer_epoch: -1,
            ..Default::default()
        },
    })
}

/// An idempotent producer must be allowed to write somewhere.
fn may(broker: &Broker, call: &Call, request: &InitProducerIdRequest<'_>) -> Result<(), ErrorCode> {
    match request.transactional_id.as_deref() {
        Some(id) => authorize(broker, call, Operation::Write, Resource::TransactionalId(id)),
        None if allows(broker, call, Operation::IdempotentWrite, Resource::Cluster) => Ok(()),
        None if allows_on_any_topic(broker, call, Operation::Write) => Ok(()),
        None => Err(ErrorCode::ClusterAuthorizationFailed),
    }
}

fn check(request: &InitProducerIdRequest<'_>) -> Result<(), ErrorCode> {
    match request.transactional_id.as_deref() {
        Some("") => Err(ErrorCode::InvalidRequest),
        // There is no transaction coordinator yet; producers ask again.
        Some(_) => Err(ErrorCode::CoordinatorNotAvailable),
        // An id comes with its epoch, or neither.
        None if (request.producer_id == -1) != (request.producer_epoch == -1) => Err(ErrorCode::InvalidRequest),
        None => Ok(()),
    }
}

/// The next id of this core's block, or the first of a new one. What two requests at once take too much is
/// never given out: ids may have gaps.
async fn next_id(broker: &Broker) -> Result<i64, ErrorCode> {
    if let Some(id) = broker.producer_ids.borrow_mut().next() {
        return Ok(id);
    }
    let request = ControllerRequest::AllocateProducerIds { count: limits::PRODUCER_ID_BLOCK };
    let Some(ControllerReply::AllocateProducerIds(allocated)) = broker.core.controller(request).await else {
        return Err(ErrorCode::CoordinatorNotAvailable);
    };
    let block = allocated.map_err(|refusal| refusal.error)?;
    let mut ids = block.first..block.first + i64::from(block.count);
    let id = ids.next().ok_or(ErrorCode::CoordinatorLoadInProgress)?;
    *broker.producer_ids.borrow_mut() = ids;
    Ok(id)
}
