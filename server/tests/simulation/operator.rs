//! An operator who ends transactions by hand, and always too late: his markers are of epochs that have passed, and no
//! partition may take them.

use std::rc::Rc;

use checker::Rule;
use engine::io::Io;
use engine::protocol::ErrorCode;
use engine::protocol::messages::write_txn_markers::{
    WritableTxnMarker, WritableTxnMarkerTopic, WriteTxnMarkersRequest, WriteTxnMarkersResponse,
};

use crate::clients::error;
use crate::shared::{Line, Shared, list, may_pass};

/// As if a coordinator had sent it that is newer than any.
const COORDINATOR_EPOCH: i32 = 1_000;

/// Sends markers until the clients stop.
pub(crate) async fn operate(shared: Rc<Shared>, io: Io) {
    let mut chance = shared.chance(0x500);
    let topic = shared.topic(&io).await;
    let mut line = Line::new(shared.clone(), io);
    while !shared.is_stopping() {
        line.pause(chance.between(1, 100)).await;
        let stale = shared.stale.borrow().clone();
        if stale.is_empty() {
            continue;
        }
        let stale = *chance.pick(&stale);
        let marker = WritableTxnMarker {
            producer_id: stale.producer_id,
            producer_epoch: stale.epoch,
            transaction_result: chance.one_in(2),
            topics: vec![WritableTxnMarkerTopic {
                name: topic.name.clone().into(),
                partition_indexes: vec![stale.partition],
            }],
            coordinator_epoch: COORDINATOR_EPOCH,
        };
        let request = WriteTxnMarkersRequest { markers: vec![marker] };
        let Ok(answer) = line.ask(&request, 1).await else { continue };
        let response: WriteTxnMarkersResponse<'_> = answer.message();
        let told = error(response.markers[0].topics[0].partitions[0].error_code);
        shared.count("markers too late");
        if told != ErrorCode::InvalidProducerEpoch && !may_pass(told) {
            let what = format!("a marker of an epoch that has passed is answered {told:?}: {stale:?}");
            let place = list(&topic, stale.partition);
            shared.transactions.borrow_mut().broken(Rule::Fenced, Some(place), what);
        }
    }
}
