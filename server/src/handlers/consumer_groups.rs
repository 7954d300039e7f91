//! Groups of the consumer protocol (KIP-848): ConsumerGroupHeartbeat and ConsumerGroupDescribe.

use std::net::SocketAddr;
use std::rc::Rc;

use engine::coordinator::Reply;
use engine::coordinator::group::{GroupReply, GroupRequest};
use engine::protocol::IntoStatic;
use engine::protocol::messages::consumer_group_describe::{
    ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, DescribedGroup,
};
use engine::protocol::messages::consumer_group_heartbeat::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse,
};

use super::groups::{GROUP_OPERATIONS, ask, client, for_each_group, refused};
use crate::broker::Broker;
use crate::dispatch::{Answer, Call, Refusal};

/// Up to this version a member may leave it to the broker to choose its id.
const CHOOSES_MEMBER_ID: i16 = 0;

/// A member lives, joins or leaves.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn heartbeat(broker: &Rc<Broker>, call: &Call, peer: SocketAddr) -> Result<Answer, Refusal> {
    let mut request = call.decode::<ConsumerGroupHeartbeatRequest<'_>>()?.into_static();
    if call.version <= CHOOSES_MEMBER_ID && request.member_epoch == 0 && request.member_id.is_empty() {
        request.member_id = random_id(broker).into();
    }
    let group = request.group_id.to_string();
    let asked = GroupRequest::ConsumerHeartbeat { request, client: client(call, peer) };
    let response = match ask(broker, &group, asked).await? {
        Reply::Group(GroupReply::ConsumerHeartbeat(response)) => response,
        other => ConsumerGroupHeartbeatResponse { error_code: refused(&other), ..Default::default() },
    };
    call.answer(&response)
}

/// A random id as Kafka writes them.
fn random_id(broker: &Broker) -> String {
    let bits = u128::from(broker.io().random_u64()) << 64 | u128::from(broker.io().random_u64());
    engine::protocol::Uuid(bits.to_be_bytes()).to_string()
}

/// Describes groups.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn describe(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: ConsumerGroupDescribeRequest<'_> = call.decode()?;
    let unknown =
        |id: &str, error_code| DescribedGroup { error_code, group_id: id.to_owned().into(), ..Default::default() };
    let mut groups = for_each_group(
        broker,
        request.group_ids.iter().map(|id| &**id),
        GroupRequest::ConsumerDescribe,
        |reply| match reply {
            GroupReply::ConsumerDescribe(groups) => Some(groups),
            _ => None,
        },
        unknown,
    )
    .await?;
    if request.include_authorized_operations {
        let found = groups.iter_mut().filter(|group| group.error_code == 0);
        found.for_each(|group| group.authorized_operations = GROUP_OPERATIONS);
    }
    call.answer(&ConsumerGroupDescribeResponse { groups, ..Default::default() })
}
