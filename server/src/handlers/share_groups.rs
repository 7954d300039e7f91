//! Share groups (KIP-932): ShareGroupHeartbeat and ShareGroupDescribe; and what of their deletion the share
//! coordinators see.
//!
//! There are share groups from `share.version` 1 on. A member's heartbeat may find partitions that the share
//! coordinators do not know: they are told behind the answer, and the member gets the partitions with a later one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;

use engine::controller::features::{self, SHARE_VERSION};
use engine::coordinator::group::assignor::Assignment;
use engine::coordinator::group::share::offsets::Initialization;
use engine::coordinator::group::shares::{ShareGroupReply, ShareGroupRequest};
use engine::coordinator::group::{GroupReply, GroupRequest};
use engine::coordinator::{Kind, Reply};
use engine::io::Class;
use engine::protocol::messages::share_group_describe::{
    DescribedGroup, ShareGroupDescribeRequest, ShareGroupDescribeResponse,
};
use engine::protocol::messages::share_group_heartbeat::{ShareGroupHeartbeatRequest, ShareGroupHeartbeatResponse};
use engine::protocol::{ErrorCode, IntoStatic, Str, Uuid};
use engine::shard::message::{PartitionId, Request, SharesOf, owner};

use super::groups::{self, client, for_each_group};
use super::{coordinators, share_state};
use crate::authorizer::{Operation, Resource, allows, authorize, authorized_operations};
use crate::broker::Broker;
use crate::dispatch::{Answer, Call, Refusal};

/// Whether there are share groups.
pub(super) fn are_enabled(broker: &Broker) -> bool {
    features::level(&broker.image(), SHARE_VERSION) > 0
}

/// Asks the group's coordinator about a share group. The inner error is for the client.
pub(super) async fn ask(
    broker: &Broker,
    group: &str,
    request: ShareGroupRequest,
) -> Result<Result<ShareGroupReply, ErrorCode>, Refusal> {
    Ok(match groups::ask(broker, group, GroupRequest::Share(request)).await? {
        Reply::Group(GroupReply::Share(reply)) => Ok(reply),
        Reply::Refused(error) => Err(error),
        other => unreachable!("a coordinator answers what it is asked, not {other:?}"),
    })
}

/// A member lives, joins or leaves.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn heartbeat(broker: &Rc<Broker>, call: &Call, peer: SocketAddr) -> Result<Answer, Refusal> {
    let request = call.decode::<ShareGroupHeartbeatRequest<'_>>()?.into_static();
    let refuse =
        |error: ErrorCode| call.answer(&ShareGroupHeartbeatResponse { error_code: error.code(), ..Default::default() });
    if !are_enabled(broker) {
        return refuse(ErrorCode::UnsupportedVersion);
    }
    let group = request.group_id.to_string();
    if let Err(error) = authorize(broker, call, Operation::Read, Resource::Group(&group)) {
        return refuse(error);
    }
    let may_see = |name: &Str<'_>| authorize(broker, call, Operation::Describe, Resource::Topic(name));
    if let Some(error) = request.subscribed_topic_names.iter().flatten().map(may_see).find_map(Result::err) {
        return refuse(error);
    }
    // Whoever joins will need it.
    if let Err(error) = coordinators::make_topic(broker, Kind::Share).await? {
        return refuse(error);
    }
    let asked = ShareGroupRequest::Heartbeat { request, client: client(call, peer) };
    match ask(broker, &group, asked).await? {
        Ok(ShareGroupReply::Heartbeat(response, initialization)) => {
            if let Some(initialization) = initialization {
                let of_task = broker.clone();
                broker.io().spawn(Class::Foreground, async move {
                    // If the node stops, the partitions are told of after its next start.
                    drop(initialize(&of_task, &group, &initialization).await);
                });
            }
            call.answer(&response)
        }
        Ok(other) => unreachable!("a coordinator answers what it is asked, not {other:?}"),
        Err(error) => refuse(error),
    }
}

/// Tells the share coordinators of a group's new partitions, and the group's coordinator that they know.
async fn initialize(broker: &Broker, group: &str, initialization: &Initialization) -> Result<(), Refusal> {
    let outcomes = share_state::begin(broker, group, initialization).await?;
    let failed = outcomes.iter().find_map(|((topic, partition), outcome)| Some((topic, partition, outcome.err()?)));
    if let Some((topic, partition, (error, why))) = failed {
        tracing::warn!(group, %topic, partition, error = error.name(), "a share partition is not begun: {why}");
    }
    finish_initialization(broker, group, initialization, failed.is_none()).await
}

/// Tells the group's coordinator what became of an initialization.
pub(super) async fn finish_initialization(
    broker: &Broker,
    group: &str,
    initialization: &Initialization,
    succeeded: bool,
) -> Result<(), Refusal> {
    let partitions: Assignment = initialization
        .partitions
        .iter()
        .map(|(topic, partitions)| (*topic, partitions.keys().copied().collect::<BTreeSet<i32>>()))
        .collect();
    let request = ShareGroupRequest::Initialized { group: group.to_owned(), partitions, succeeded };
    if let Err(error) = ask(broker, group, request).await? {
        tracing::warn!(group, error = error.name(), "that share partitions are begun is not recorded");
    }
    Ok(())
}

/// The leaders of share partitions, whose recorded state has been changed, load it anew.
pub(super) async fn load_anew(
    broker: &Broker,
    group: &str,
    partitions: impl Iterator<Item = (Uuid, i32)>,
) -> Result<(), Refusal> {
    let shards = broker.core.shards();
    let mut ids: BTreeMap<usize, Vec<PartitionId>> = BTreeMap::new();
    for (topic_id, partition) in partitions {
        let id = PartitionId { topic_id, partition };
        ids.entry(owner(id, shards)).or_default().push(id);
    }
    let tell = |(shard, ids)| {
        let of = SharesOf { group: group.to_owned(), ids };
        broker.core.request(shard, Request::ShareForget(of))
    };
    let told: Vec<_> = ids.into_iter().map(tell).collect();
    for told in told {
        told.await.ok_or(Refusal::Stopping)?;
    }
    Ok(())
}

/// Describes groups.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn describe(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: ShareGroupDescribeRequest<'_> = call.decode()?;
    let unknown =
        |id: &str, error_code| DescribedGroup { error_code, group_id: id.to_owned().into(), ..Default::default() };
    if !are_enabled(broker) {
        let groups = request.group_ids.iter().map(|id| unknown(id, ErrorCode::UnsupportedVersion.code())).collect();
        return call.answer(&ShareGroupDescribeResponse { groups, ..Default::default() });
    }
    let mut groups = for_each_group(
        broker,
        (call, Operation::Describe),
        request.group_ids.iter().map(|id| &**id),
        |ids| GroupRequest::Share(ShareGroupRequest::Describe(ids)),
        |reply| match reply {
            GroupReply::Share(ShareGroupReply::Describe(groups)) => Some(groups),
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
    call.answer(&ShareGroupDescribeResponse { groups, ..Default::default() })
}

/// A group whose members have topics that the client may not see is not shown.
fn hide_topics(broker: &Broker, call: &Call, group: &mut DescribedGroup<'static>) {
    let may_see = |name: &str| allows(broker, call, Operation::Describe, Resource::Topic(name));
    let mut topics = group.members.iter().flat_map(|member| &member.assignment.topic_partitions);
    if !topics.all(|topic| may_see(&topic.topic_name)) {
        *group = DescribedGroup {
            group_id: group.group_id.clone(),
            error_code: ErrorCode::TopicAuthorizationFailed.code(),
            error_message: Some(
                "The group has described topic(s) that the client is not authorized to describe.".into(),
            ),
            ..Default::default()
        };
    }
}

/// Lets the share coordinators forget what they know of groups that are about to be deleted; gives those that must
/// not be, and why.
pub(super) async fn forget_states(
    broker: &Broker,
    call: &Call,
    ids: &[Str<'_>],
) -> Result<BTreeMap<String, ErrorCode>, Refusal> {
    let states = for_each_group(
        broker,
        (call, Operation::Delete),
        ids.iter().map(|id| &**id),
        |ids| GroupRequest::Share(ShareGroupRequest::BeginDelete(ids)),
        |reply| match reply {
            GroupReply::Share(ShareGroupReply::BeginDelete(states)) => Some(states),
            _ => None,
        },
        // Who may not, or whose coordinator is not ready, is told so when the group itself is to be deleted.
        |_, _| Ok(Assignment::new()),
    )
    .await?;
    let mut kept = BTreeMap::new();
    for (id, partitions) in ids.iter().zip(states) {
        let failed = match partitions {
            Err(error) => Some(error),
            Ok(partitions) if partitions.is_empty() => None,
            Ok(partitions) => {
                let outcomes = share_state::forget(broker, id, &partitions).await?;
                let flat = partitions.iter().flat_map(|(topic, all)| all.iter().map(|index| (*topic, *index)));
                load_anew(broker, id, flat).await?;
                outcomes.values().find_map(|outcome| outcome.err()).map(|(error, _)| error)
            }
        };
        if let Some(error) = failed {
            kept.insert(id.to_string(), error);
        }
    }
    Ok(kept)
}
