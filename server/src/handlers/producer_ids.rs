//! InitProducerId: ids from blocks that the controller gives out for good; with a transactional id, the id and
//! epoch that its coordinator decides on.

use std::rc::Rc;

use engine::controller::{ControllerReply, ControllerRequest};
use engine::coordinator::Producer;
use engine::coordinator::transaction::{TransactionReply, TransactionRequest};
use engine::protocol::ErrorCode;
use engine::protocol::messages::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};

use super::verification;
use crate::authorizer::{Operation, Resource, allows, allows_on_any_topic, authorize};
use crate::broker::Broker;
use crate::dispatch::{Answer, Call, Refusal};
use crate::limits;

/// From this version on PRODUCER_FENCED is told apart from INVALID_PRODUCER_EPOCH.
const TELLS_FENCED: i16 = 4;

/// Gives a producer its id and epoch.
///
/// # Errors
/// If the request cannot be read.
pub async fn init(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: InitProducerIdRequest<'_> = call.decode()?;
    let allowed = may(broker, call, &request).and_then(|()| check(&request));
    let given = match (allowed, request.transactional_id.as_deref()) {
        (Err(error), _) => Err(error),
        (Ok(()), None) => next_id(broker).await.map(|id| Producer { id, epoch: 0 }),
        (Ok(()), Some(id)) => init_transactional(broker, &request, id).await?,
    };
    call.answer(&match given {
        Ok(Producer { id, epoch }) => {
            InitProducerIdResponse { producer_id: id, producer_epoch: epoch, ..Default::default() }
        }
        Err(ErrorCode::ProducerFenced) if call.version < TELLS_FENCED => {
            let error_code = ErrorCode::InvalidProducerEpoch.code();
            InitProducerIdResponse { error_code, producer_id: -1, producer_epoch: -1, ..Default::default() }
        }
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
        // An id comes with its epoch, or neither.
        _ if (request.producer_id == -1) != (request.producer_epoch == -1) => Err(ErrorCode::InvalidRequest),
        _ => Ok(()),
    }
}

async fn init_transactional(
    broker: &Broker,
    request: &InitProducerIdRequest<'_>,
    id: &str,
) -> Result<Result<Producer, ErrorCode>, Refusal> {
    let spare_id = match next_id(broker).await {
        Ok(id) => id,
        Err(error) => return Ok(Err(error)),
    };
    let known = Producer { id: request.producer_id, epoch: request.producer_epoch };
    let init = TransactionRequest::InitProducerId {
        transactional_id: id.to_owned(),
        timeout_ms: request.transaction_timeout_ms,
        expected: (known.id >= 0).then_some(known),
        spare_id,
    };
    Ok(match verification::ask(broker, id, init).await? {
        Ok(TransactionReply::Producer(producer)) => Ok(producer),
        Ok(other) => unreachable!("not the answer to this question: {other:?}"),
        Err(error) => Err(error),
    })
}

/// The next id of this core's block, or the first of a new one. What two requests at once take too much is
/// never given out: ids may have gaps.
pub(super) async fn next_id(broker: &Broker) -> Result<i64, ErrorCode> {
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
