//! Members of classic groups, and groups as a whole: JoinGroup, SyncGroup, Heartbeat, LeaveGroup,
//! DescribeGroups, ListGroups, DeleteGroups.
//!
//! A request goes to the coordinator of its group as it is; what versions differ in is put right here.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use engine::coordinator::group::{Client, GroupReply, GroupRequest};
use engine::coordinator::{self, Kind};
use engine::protocol::messages::delete_groups::{DeletableGroupResult, DeleteGroupsRequest, DeleteGroupsResponse};
use engine::protocol::messages::describe_groups::{DescribeGroupsRequest, DescribeGroupsResponse, DescribedGroup};
use engine::protocol::messages::heartbeat::{HeartbeatRequest, HeartbeatResponse};
use engine::protocol::messages::join_group::{JoinGroupRequest, JoinGroupResponse};
use engine::protocol::messages::leave_group::{LeaveGroupRequest, LeaveGroupResponse, MemberIdentity};
use engine::protocol::messages::list_groups::{ListGroupsRequest, ListGroupsResponse};
use engine::protocol::messages::sync_group::{SyncGroupRequest, SyncGroupResponse};
use engine::protocol::{ErrorCode, IntoStatic};

use super::{coordinators, share_groups};
use crate::authorizer::{Operation, Resource, allows, authorize, authorized_operations};
use crate::broker::Broker;
use crate::dispatch::{Answer, Call, Refusal};

/// From this JoinGroup version on an answer may lack a protocol.
const JOIN_WITHOUT_PROTOCOL: i16 = 7;
/// From this LeaveGroup version on several members leave at once.
const LEAVE_TOGETHER: i16 = 3;
/// From this DescribeGroups version on a group that is not there is an error.
const DESCRIBE_MISSES_GROUPS: i16 = 6;

/// Asks the group's coordinator for a client that must be allowed to.
pub(super) async fn ask_for(
    broker: &Broker,
    call: &Call,
    operation: Operation,
    group: &str,
    request: GroupRequest,
) -> Result<coordinator::Reply, Refusal> {
    match authorize(broker, call, operation, Resource::Group(group)) {
        Ok(()) => ask(broker, group, request).await,
        Err(error) => Ok(error.into()),
    }
}

/// Asks the group's coordinator.
pub(super) async fn ask(broker: &Broker, group: &str, request: GroupRequest) -> Result<coordinator::Reply, Refusal> {
    coordinators::ask(broker, Kind::Group, group, coordinator::Request::Group(request)).await
}

/// Who asks, in the form that coordinators keep.
pub fn client(call: &Call, peer: SocketAddr) -> Client {
    Client { id: call.client_id().to_owned(), host: format!("/{}", peer.ip()) }
}

/// A member joins; answered when all have.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn join(broker: &Rc<Broker>, call: &Call, peer: SocketAddr) -> Result<Answer, Refusal> {
    let request: JoinGroupRequest<'_> = call.decode()?;
    let (group, member_id) = (request.group_id.to_string(), request.member_id.clone());
    let asked = GroupRequest::Join {
        request: request.clone().into_static(),
        version: call.version,
        client: client(call, peer),
    };
    let mut response = match ask_for(broker, call, Operation::Read, &group, asked).await? {
        coordinator::Reply::Group(GroupReply::Join(response)) => response,
        other => JoinGroupResponse { error_code: refused(&other), member_id, ..Default::default() },
    };
    if call.version < JOIN_WITHOUT_PROTOCOL {
        response.protocol_name.get_or_insert_default();
    }
    call.answer(&response)
}

/// A member asks for its assignment; answered when the leader has assigned.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn sync(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: SyncGroupRequest<'_> = call.decode()?;
    let group = request.group_id.to_string();
    let response =
        match ask_for(broker, call, Operation::Read, &group, GroupRequest::Sync(request.into_static())).await? {
            coordinator::Reply::Group(GroupReply::Sync(response)) => response,
            other => SyncGroupResponse { error_code: refused(&other), ..Default::default() },
        };
    call.answer(&response)
}

/// A member lives.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn heartbeat(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: HeartbeatRequest<'_> = call.decode()?;
    let group = request.group_id.to_string();
    let asked = GroupRequest::Heartbeat(request.into_static());
    let error_code = match ask_for(broker, call, Operation::Read, &group, asked).await? {
        coordinator::Reply::Group(GroupReply::Heartbeat(error)) => error.code(),
        other => refused(&other),
    };
    call.answer(&HeartbeatResponse { error_code, ..Default::default() })
}

/// Members leave.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn leave(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let mut request: LeaveGroupRequest<'_> = call.decode()?;
    if call.version < LEAVE_TOGETHER {
        let member_id = std::mem::take(&mut request.member_id);
        request.members = vec![MemberIdentity { member_id, ..Default::default() }];
    }
    let group = request.group_id.to_string();
    let asked = GroupRequest::Leave(request.into_static());
    let mut response = match ask_for(broker, call, Operation::Read, &group, asked).await? {
        coordinator::Reply::Group(GroupReply::Leave(response)) => response,
        other => LeaveGroupResponse { error_code: refused(&other), ..Default::default() },
    };
    if call.version < LEAVE_TOGETHER
        && response.error_code == 0
        && let Some(member) = response.members.first()
    {
        response.error_code = member.error_code;
    }
    call.answer(&response)
}

/// Describes classic groups.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn describe(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: DescribeGroupsRequest<'_> = call.decode()?;
    let unknown =
        |id: &str, error_code| DescribedGroup { error_code, group_id: id.to_owned().into(), ..Default::default() };
    let mut groups = for_each_group(
        broker,
        (call, Operation::Describe),
        request.groups.iter().map(|id| &**id),
        GroupRequest::Describe,
        |reply| match reply {
            GroupReply::Describe(groups) => Some(groups),
            _ => None,
        },
        unknown,
    )
    .await?;
    for group in &mut groups {
        if request.include_authorized_operations && group.error_code == 0 {
            group.authorized_operations = authorized_operations(broker, call, Resource::Group(&group.group_id));
        }
        if call.version < DESCRIBE_MISSES_GROUPS && group.error_code == ErrorCode::GroupIdNotFound.code() {
            group.error_code = 0;
            group.error_message = None;
        }
    }
    call.answer(&DescribeGroupsResponse { groups, ..Default::default() })
}

/// Deletes groups that have no members.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn delete(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: DeleteGroupsRequest<'_> = call.decode()?;
    let unknown = |id: &str, error_code| DeletableGroupResult { error_code, group_id: id.to_owned().into() };
    let kept = share_groups::forget_states(broker, call, &request.groups_names).await?;
    let mut results = for_each_group(
        broker,
        (call, Operation::Delete),
        request.groups_names.iter().map(|id| &**id).filter(|id| !kept.contains_key(*id)),
        GroupRequest::Delete,
        |reply| match reply {
            GroupReply::Delete(results) => Some(results),
            _ => None,
        },
        unknown,
    )
    .await?;
    results.extend(kept.iter().map(|(id, error)| unknown(id, error.code())));
    call.answer(&DeleteGroupsResponse { results, ..Default::default() })
}

/// Asks the coordinators of those groups to which the client may do the operation for their parts of a request,
/// all of them at once; gives one result for each group, in their order.
pub(super) async fn for_each_group<'k, T>(
    broker: &Broker,
    (call, operation): (&Call, Operation),
    ids: impl Iterator<Item = &'k str> + Clone,
    request: impl Fn(Vec<String>) -> GroupRequest,
    results: impl Fn(GroupReply) -> Option<Vec<T>>,
    failed: impl Fn(&str, i16) -> T,
) -> Result<Vec<T>, Refusal> {
    let (mut found, elsewhere) = coordinators::by_partition(broker, Kind::Group, ids.clone());
    let mut all: Vec<Option<T>> = ids.clone().map(|_| None).collect();
    let ids: Vec<&str> = ids.collect();
    for parts in found.values_mut() {
        parts.retain(|(place, id)| match authorize(broker, call, operation, Resource::Group(id)) {
            Ok(()) => true,
            Err(error) => {
                all[*place] = Some(failed(id, error.code()));
                false
            }
        });
    }
    found.retain(|_, parts| !parts.is_empty());
    for (place, error) in elsewhere {
        all[place] = Some(failed(ids[place], error.code()));
    }
    let ask = |(id, parts): (_, Vec<(usize, String)>)| {
        let (places, names): (Vec<usize>, Vec<String>) = parts.into_iter().unzip();
        let asked = coordinators::ask_partition(broker, id, coordinator::Request::Group(request(names)));
        (asked, places)
    };
    let asked: Vec<_> = found.into_iter().map(ask).collect();
    for (asked, places) in asked {
        match asked.answer().await? {
            coordinator::Reply::Group(reply) => {
                let results = results(reply).expect("a coordinator answers what it is asked");
                places.iter().zip(results).for_each(|(place, result)| all[*place] = Some(result));
            }
            other => places.iter().for_each(|place| all[*place] = Some(failed(ids[*place], refused(&other)))),
        }
    }
    Ok(all.into_iter().map(|result| result.expect("each group has a coordinator or none")).collect())
}

/// Lists groups.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn list(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: ListGroupsRequest<'_> = call.decode()?;
    let names = |filter: &[engine::protocol::Str<'_>]| {
        Arc::new(filter.iter().map(|name| name.to_ascii_lowercase()).collect::<BTreeSet<String>>())
    };
    let (states, types) = (names(&request.states_filter), names(&request.types_filter));
    let partitions = coordinators::partitions(broker, Kind::Group);
    let ask = |id| {
        let asked = GroupRequest::List { states: states.clone(), types: types.clone() };
        coordinators::ask_partition(broker, id, coordinator::Request::Group(asked))
    };
    let asked: Vec<_> = partitions.into_iter().map(ask).collect();
    let mut response = ListGroupsResponse::default();
    for asked in asked {
        match asked.answer().await? {
            coordinator::Reply::Group(GroupReply::List(groups)) => response.groups.extend(groups),
            other => response.error_code = refused(&other),
        }
    }
    if !allows(broker, call, Operation::Describe, Resource::Cluster) {
        response.groups.retain(|group| allows(broker, call, Operation::Describe, Resource::Group(&group.group_id)));
    }
    call.answer(&response)
}

/// The code of the error with which a coordinator refused a request as a whole.
pub(super) fn refused(reply: &coordinator::Reply) -> i16 {
    match reply {
        coordinator::Reply::Refused(error) => error.code(),
        other => unreachable!("a coordinator answers what it is asked, not {other:?}"),
    }
}
