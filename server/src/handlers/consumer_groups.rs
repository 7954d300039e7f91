//! Groups of the consumer protocol (KIP-848): ConsumerGroupHeartbeat and ConsumerGroupDescribe.

use std::net::SocketAddr;
use std::rc::Rc;

use engine::controller::features;
use engine::coordinator::Reply;
use engine::coordinator::group::{GroupReply, GroupRequest};
use engine::protocol::messages::consumer_group_describe::{
    ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, DescribedGroup,
};
use engine::protocol::messages::consumer_group_heartbeat::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse,
};
use engine::protocol::{ErrorCode, IntoStatic};

use super::groups::{ask_for, client, for_each_group, refused};
use crate::authorizer::{Operation, Resource, allows, authorize, authorized_operations, visible_topics};
use crate::broker::Broker;
use crate::dispatch::{Answer, Call, Refusal};

/// Up to this version a member may leave it to the broker to choose its id.
const CHOOSES_MEMBER_ID: i16 = 0;

/// Whether there are groups of this protocol at all: the configs and the feature say so.
fn are_enabled(broker: &Broker) -> bool {
    broker.limits.consumer_groups && features::level(&broker.image(), features::GROUP_VERSION) > 0
}

/// A member lives, joins or leaves.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn heartbeat(broker: &Rc<Broker>, call: &Call, peer: SocketAddr) -> Result<Answer, Refusal> {
    let mut request = call.decode::<ConsumerGroupHeartbeatRequest<'_>>()?.into_static();
    if !are_enabled(broker) {
        let error_code = ErrorCode::UnsupportedVersion.code();
        return call.answer(&ConsumerGroupHeartbeatResponse { error_code, ..Default::default() });
    }
    if call.version <= CHOOSES_MEMBER_ID && request.member_epoch == 0 && request.member_id.is_empty() {
        request.member_id = random_id(broker).into();
    }
    let group = request.group_id.to_string();
    let may_see =
        |name: &engine::protocol::Str<'_>| authorize(broker, call, Operation::Describe, Resource::Topic(name));
    let named = request.subscribed_topic_names.iter().flatten();
    let hidden = named.map(may_see).find_map(Result::err);
    let may_read = authorize(broker, call, Operation::Read, Resource::Group(&group));
    if let Some(error) = hidden.filter(|_| may_read.is_ok()) {
        let error_code = error.code();
        return call.answer(&ConsumerGroupHeartbeatResponse { error_code, ..Default::default() });
    }
    let visible = visible_topics(broker, call);
    let asked = GroupRequest::ConsumerHeartbeat { request, client: client(call, peer), visible };
    let response = match ask_for(broker, call, Operation::Read, &group, asked).await? {
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
    if !are_enabled(broker) {
        let groups = request.group_ids.iter().map(|id| unknown(id, ErrorCode::UnsupportedVersion.code())).collect();
        return call.answer(&ConsumerGroupDescribeResponse { groups, ..Default::default() });
    }
    let mut groups = for_each_group(
        broker,
        (call, Operation::Describe),
        request.group_ids.iter().map(|id| &**id),
        GroupRequest::ConsumerDescribe,
        |reply| match reply {
            GroupReply::ConsumerDescribe(groups) => Some(groups),
            _ => None,
        },
        unknown,
    )
    .await?;
    for group in groups.iter_mut().filter(|group| group.error_code == 0) {
        if request.include_authorized_operations {
            group.authorized_operations = authorized_operations(broker, call, Resource::Group(&group.group_id));
        }
        hide_topics(broker, call, group);
    }
    call.answer(&ConsumerGroupDescribeResponse { groups, ..Default::default() })
}

/// A group whose members have topics that the client may not see is not shown (KIP-848).
fn hide_topics(broker: &Broker, call: &Call, group: &mut DescribedGroup<'static>) {
    let may_see = |name: &str| allows(broker, call, Operation::Describe, Resource::Topic(name));
    let shows_all = group.members.iter().all(|member| {
        let assignments = [&member.assignment, &member.target_assignment];
        assignments.iter().all(|topics| topics.topic_partitions.iter().all(|topic| may_see(&topic.topic_name)))
    });
    if !shows_all {
        group.error_code = ErrorCode::TopicAuthorizationFailed.code();
        group.error_message =
            Some("The group has described topic(s) that the client is not authorized to describe.".into());
        group.members.clear();
    }
}
