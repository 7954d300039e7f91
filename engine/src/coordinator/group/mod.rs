//! The group coordinator: groups of either protocol and their offsets, over one partition.
//!
//! Here requests are checked as a whole and find their group; [`classic`] is the protocol in which clients assign,
//! [`consumer`] the one in which the coordinator does, [`share`] that of groups that read together. A group is there as
//! long as it has members, offsets or a record. Invariant: after each request the group's next deadline is in the
//! timers, or an earlier one.

mod admin;
pub mod assignor;
pub mod classic;
pub mod config;
pub mod consumer;
mod offset_requests;
pub mod share;
pub mod shares;
mod snapshot;
mod without_room;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::offsets::Offsets;
use super::passes::Passes;
use super::{Context, Producer, Record, Reply, Step, Ticket};
use crate::protocol::data::{
    ConsumerGroupPartitionMetadataKey, GroupMetadataKey, LegacyOffsetCommitKey, OffsetCommitKey,
};
use crate::protocol::messages::consumer_group_describe::DescribedGroup as DescribedConsumerGroup;
use crate::protocol::messages::consumer_group_heartbeat::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse,
};
use crate::protocol::messages::delete_groups::DeletableGroupResult;
use crate::protocol::messages::describe_groups::DescribedGroup;
use crate::protocol::messages::heartbeat::HeartbeatRequest;
use crate::protocol::messages::join_group::{JoinGroupRequest, JoinGroupResponse};
use crate::protocol::messages::leave_group::{LeaveGroupRequest, LeaveGroupResponse, MemberResponse};
use crate::protocol::messages::list_groups::ListedGroup;
use crate::protocol::messages::offset_commit::{OffsetCommitRequest, OffsetCommitResponse};
use crate::protocol::messages::offset_delete::{OffsetDeleteRequest, OffsetDeleteResponse};
use crate::protocol::messages::offset_fetch::{OffsetFetchRequestGroup, OffsetFetchResponseGroup};
use crate::protocol::messages::sync_group::{SyncGroupRequest, SyncGroupResponse};
use crate::protocol::messages::txn_offset_commit::{TxnOffsetCommitRequest, TxnOffsetCommitResponse};
use crate::protocol::value::{decode_key, record_type};
use crate::protocol::{DecodeError, ErrorCode, RecordData};
use classic::ClassicGroup;
use config::GroupConfig;
use consumer::records::Change;
use consumer::{ConsumerGroup, Failure};
use share::ShareGroup;
use shares::{ShareGroupReply, ShareGroupRequest};
use snapshot::Place;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Client {
    /// What it calls itself.
    pub id: String,
    /// Its address, behind a slash as Java writes it.
    pub host: String,
}

/// Whether someone may see a topic.
type MaySee = dyn Fn(&str) -> bool + Send + Sync;

/// The topics that someone may see, as was decided where his request came in.
#[derive(Clone, Default)]
pub struct Visible(Option<Arc<MaySee>>);

impl Visible {
    /// Those for whose names `may_see` is true, whenever it is asked.
    pub fn only(may_see: impl Fn(&str) -> bool + Send + Sync + 'static) -> Visible {
        Visible(Some(Arc::new(may_see)))
    }

    /// Whether the topic is one of them.
    pub fn has(&self, topic: &str) -> bool {
        self.0.as_ref().is_none_or(|may_see| may_see(topic))
    }
}

impl fmt::Debug for Visible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_none() { "Visible(all)" } else { "Visible(some)" })
    }
}

/// What the group coordinator is asked. The requests are those of the clients, or one group's part of them.
#[derive(Debug)]
pub enum GroupRequest {
    /// A member joins.
    Join {
        /// The request.
        request: JoinGroupRequest<'static>,
        /// Its version.
        version: i16,
        /// Who asks.
        client: Client,
    },
    /// A member wants its assignment.
    Sync(SyncGroupRequest<'static>),
    /// A member lives.
    Heartbeat(HeartbeatRequest<'static>),
    /// Members leave. In the form of version 3 and later.
    Leave(LeaveGroupRequest<'static>),
    /// Offsets are committed. Its topics exist.
    Commit {
        /// The request.
        request: OffsetCommitRequest<'static>,
        /// Its version.
        version: i16,
    },
    /// Offsets are committed in a transaction, which has been checked to be open. Its topics exist.
    CommitInTransaction(TxnOffsetCommitRequest<'static>),
    /// Offsets are asked for.
    Fetch {
        /// The group's part of the request.
        request: OffsetFetchRequestGroup<'static>,
        /// Whether those of open transactions are waited for.
        stable: bool,
    },
    /// Offsets are deleted. Its topics exist.
    DeleteOffsets(OffsetDeleteRequest<'static>),
    /// Classic groups are described, in this order.
    Describe(Vec<String>),
    /// All groups are listed that are in one of these states and of one of these types; none named: any.
    List {
        /// States, in lower case.
        states: Arc<BTreeSet<String>>,
        /// Types, in lower case.
        types: Arc<BTreeSet<String>>,
    },
    /// Groups are deleted, in this order.
    Delete(Vec<String>),
    /// A member of the consumer protocol lives, joins or leaves.
    ConsumerHeartbeat {
        /// The request.
        request: ConsumerGroupHeartbeatRequest<'static>,
        /// Who asks.
        client: Client,
        /// The topics that he may see.
        visible: Visible,
    },
    /// Consumer groups are described, in this order.
    ConsumerDescribe(Vec<String>),
    /// About share groups.
    Share(ShareGroupRequest),
}

/// The answer to the request of the same name.
#[derive(Debug, Clone, PartialEq)]
pub enum GroupReply {
    /// To a join.
    Join(JoinGroupResponse<'static>),
    /// To a sync.
    Sync(SyncGroupResponse<'static>),
    /// To a heartbeat.
    Heartbeat(ErrorCode),
    /// To members that leave.
    Leave(LeaveGroupResponse<'static>),
    /// To a commit.
    Commit(OffsetCommitResponse<'static>),
    /// To a commit in a transaction.
    CommitInTransaction(TxnOffsetCommitResponse<'static>),
    /// To a fetch of offsets.
    Fetch(OffsetFetchResponseGroup<'static>),
    /// To a deletion of offsets.
    DeleteOffsets(OffsetDeleteResponse<'static>),
    /// One for each group.
    Describe(Vec<DescribedGroup<'static>>),
    /// By id.
    List(Vec<ListedGroup<'static>>),
    /// One for each group.
    Delete(Vec<DeletableGroupResult<'static>>),
    /// To a heartbeat of the consumer protocol.
    ConsumerHeartbeat(ConsumerGroupHeartbeatResponse<'static>),
    /// One for each group.
    ConsumerDescribe(Vec<DescribedConsumerGroup<'static>>),
    /// About share groups.
    Share(ShareGroupReply),
}

/// What a group decides on, and where its decisions go.
pub struct Turn<'a, 'c> {
    /// Times, topics and chance.
    pub context: &'a mut Context<'c>,
    /// The configs.
    pub config: &'a GroupConfig,
    /// Records and answers.
    pub step: &'a mut Step,
}

#[derive(Debug, Clone)]
enum Group {
    Classic(ClassicGroup),
    Consumer(ConsumerGroup),
    Share(ShareGroup),
}

impl Group {
    fn deadline(&self) -> Option<u64> {
        match self {
            Group::Classic(group) => group.deadline(),
            Group::Consumer(group) => group.deadline(),
            Group::Share(group) => group.deadline(),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Group::Classic(group) => group.state() == classic::State::Empty,
            Group::Consumer(group) => group.is_empty(),
            Group::Share(group) => group.is_empty(),
        }
    }

    fn is_subscribed_to(&self, topic: &str) -> bool {
        match self {
            Group::Classic(group) => group.is_subscribed_to(topic),
            Group::Consumer(group) => group.is_subscribed_to(topic),
            Group::Share(group) => group.is_subscribed_to(topic),
        }
    }

    /// When the retention of an offset began that was committed then; `None` while it does not run.
    fn retention_start(&self, commit_timestamp: i64) -> Option<i64> {
        match self {
            Group::Classic(group) => group.retention_start(commit_timestamp),
            Group::Consumer(_) | Group::Share(_) => Some(commit_timestamp),
        }
    }
}

/// The coordinator of the groups of one partition.
pub struct GroupCoordinator {
    config: GroupConfig,
    groups: BTreeMap<String, Group>,
    offsets: Offsets,
    /// When which group wants to act; an entry may be too early, never too late.
    timers: BTreeSet<(u64, String)>,
    /// The entry of each group in the timers.
    scheduled: BTreeMap<String, u64>,
    /// When offsets are next looked through for old ones.
    expire_at: Option<u64>,
    passes: Passes,
    /// How far the pass under way has come.
    place: Place,
}

impl GroupCoordinator {
    /// A coordinator without groups, which writes its state anew when its log has grown by `snapshot_after_bytes`.
    pub fn new(config: GroupConfig, snapshot_after_bytes: u64) -> GroupCoordinator {
        GroupCoordinator {
            config,
            groups: BTreeMap::new(),
            offsets: Offsets::default(),
            timers: BTreeSet::new(),
            scheduled: BTreeMap::new(),
            expire_at: None,
            passes: Passes::new(snapshot_after_bytes),
            place: Place::default(),
        }
    }

    /// Takes a request.
    pub fn handle(&mut self, context: &mut Context<'_>, ticket: Ticket, request: GroupRequest) -> Step {
        match context.has_room {
            true => self.decide(context, ticket, request),
            false => self.handle_without_room(context, ticket, request),
        }
    }

    fn decide(&mut self, context: &mut Context<'_>, ticket: Ticket, request: GroupRequest) -> Step {
        let mut step = Step::default();
        match request {
            GroupRequest::Join { request, version, client } => {
                self.join(context, &mut step, ticket, &request, version, client);
            }
            GroupRequest::Sync(request) => self.sync(context, &mut step, ticket, &request),
            GroupRequest::Heartbeat(request) => {
                let error = self.heartbeat(context, &mut step, &request);
                step.reply(ticket, GroupReply::Heartbeat(error));
            }
            GroupRequest::Leave(request) => {
                let reply = self.leave(context, &mut step, &request);
                step.reply(ticket, reply);
            }
            GroupRequest::Commit { request, version } => {
                let reply = self.commit(context, &mut step, &request, version);
                step.reply(ticket, reply);
            }
            GroupRequest::CommitInTransaction(request) => {
                let reply = self.commit_in_transaction(context, &mut step, &request);
                step.reply(ticket, reply);
            }
            GroupRequest::Fetch { request, stable } => {
                let reply = self.fetch(&request, stable);
                step.reply(ticket, reply);
            }
            GroupRequest::DeleteOffsets(request) => {
                let reply = self.delete_offsets(&mut step, &request);
                step.reply(ticket, reply);
            }
            GroupRequest::Describe(ids) => {
                let groups = ids.iter().map(|id| self.describe(id)).collect();
                step.reply(ticket, GroupReply::Describe(groups));
            }
            GroupRequest::List { states, types } => {
                let listed = self.list(&states, &types);
                step.reply(ticket, GroupReply::List(listed));
            }
            GroupRequest::Delete(ids) => {
                let results = ids.iter().map(|id| self.delete(context, &mut step, id)).collect();
                step.reply(ticket, GroupReply::Delete(results));
            }
            GroupRequest::ConsumerHeartbeat { request, client, visible } => {
                let result = self.consumer_heartbeat(context, &mut step, &request, (&client, &visible));
                let response = result.unwrap_or_else(|Failure(error, why)| ConsumerGroupHeartbeatResponse {
                    error_code: error.code(),
                    error_message: Some(why.into()),
                    ..Default::default()
                });
                step.reply(ticket, GroupReply::ConsumerHeartbeat(response));
            }
            GroupRequest::ConsumerDescribe(ids) => {
                let groups = ids.iter().map(|id| self.describe_consumer(id, context)).collect();
                step.reply(ticket, GroupReply::ConsumerDescribe(groups));
            }
            GroupRequest::Share(request) => self.handle_share(context, &mut step, ticket, request),
        }
        step
    }

    /// Runs `act` on a group, if there is one, and sees to its deadline.
    fn with_group<T>(
        &mut self,
        context: &mut Context<'_>,
        step: &mut Step,
        id: &str,
        act: impl FnOnce(&mut Group, &mut Turn<'_, '_>) -> T,
    ) -> Option<T> {
        let group = self.groups.get_mut(id)?;
        let result = act(group, &mut Turn { context, config: &self.config, step });
        let deadline = group.deadline();
        self.schedule(id, deadline);
        Some(result)
    }

    /// The group wants to act by then, or earlier.
    fn schedule_by(&mut self, id: &str, deadline: Option<u64>) {
        let is_late = |deadline: u64| self.scheduled.get(id).is_none_or(|at| deadline < *at);
        if deadline.is_some_and(is_late) {
            self.schedule(id, deadline);
        }
    }

    fn schedule(&mut self, id: &str, deadline: Option<u64>) {
        if let Some(at) = self.scheduled.remove(id) {
            self.timers.remove(&(at, id.to_owned()));
        }
        if let Some(deadline) = deadline {
            self.scheduled.insert(id.to_owned(), deadline);
            self.timers.insert((deadline, id.to_owned()));
        }
    }

    fn forget(&mut self, id: &str) {
        self.schedule(id, None);
        self.groups.remove(id);
    }

    /// A group of which nothing is left is not kept.
    fn forget_if_blank(&mut self, id: &str) {
        let is_blank = match self.groups.get(id) {
            Some(Group::Classic(group)) => group.is_blank(),
            Some(Group::Consumer(group)) => group.is_blank(),
            Some(Group::Share(group)) => group.is_blank(),
            None => false,
        };
        if is_blank && !self.offsets.has_any(id) {
            self.forget(id);
        }
    }
}

/// Members.
impl GroupCoordinator {
    fn join(
        &mut self,
        context: &mut Context<'_>,
        step: &mut Step,
        ticket: Ticket,
        request: &JoinGroupRequest<'static>,
        version: i16,
        client: Client,
    ) {
        let id = &*request.group_id;
        let refuse = |step: &mut Step, error: ErrorCode| {
            let member_id = request.member_id.clone();
            let response = JoinGroupResponse { error_code: error.code(), member_id, ..Default::default() };
            step.reply(ticket, GroupReply::Join(response));
        };
        let timeouts = self.config.min_session_timeout_ms..=self.config.max_session_timeout_ms;
        if id.is_empty() {
            return refuse(step, ErrorCode::InvalidGroupId);
        }
        if !timeouts.contains(&request.session_timeout_ms) {
            return refuse(step, ErrorCode::InvalidSessionTimeout);
        }
        if !self.groups.contains_key(id) {
            if !request.member_id.is_empty() {
                return refuse(step, ErrorCode::UnknownMemberId);
            }
            self.groups.insert(id.to_owned(), Group::Classic(ClassicGroup::new(id)));
        }
        self.give_way_to_classic(context, step, id);
        let joined = self.with_group(context, step, id, |group, turn| match group {
            Group::Classic(group) => {
                group.join(turn, ticket, request, version, client);
                Ok(())
            }
            Group::Consumer(_) if joined_bytes(request) > turn.context.largest_record => {
                Err(Failure(ErrorCode::UnknownServerError, consumer::TOO_LARGE.to_owned()))
            }
            Group::Consumer(group) => group.join(turn, ticket, request, version, &client),
            Group::Share(_) => Err(Failure(ErrorCode::InconsistentGroupProtocol, String::new())),
        });
        if let Some(Err(Failure(error, _))) = joined {
            let response = JoinGroupResponse { error_code: error.code(), ..Default::default() };
            step.reply(ticket, GroupReply::Join(response));
        }
        self.downgrade_if_classic(context, step, id, true);
        self.forget_if_blank(id);
    }

    /// A consumer group without members is no reason to refuse the classic protocol.
    fn give_way_to_classic(&mut self, context: &mut Context<'_>, step: &mut Step, id: &str) {
        if let Some(Group::Consumer(group)) = self.groups.get_mut(id)
            && group.is_empty()
        {
            group.end(&mut Turn { context, config: &self.config, step });
            self.groups.insert(id.to_owned(), Group::Classic(ClassicGroup::new(id)));
        }
    }

    /// When only members of the classic protocol are left, the group is theirs. They join again, unless the last
    /// other member was replaced by one that joins and has its share already.
    fn downgrade_if_classic(&mut self, context: &mut Context<'_>, step: &mut Step, id: &str, is_replaced: bool) {
        let mut turn = Turn { context, config: &self.config, step };
        match self.groups.remove(id) {
            Some(Group::Consumer(group)) if group.may_become_classic(&turn) => {
                let group = group.into_classic(&mut turn, is_replaced);
                let deadline = group.deadline();
                self.groups.insert(id.to_owned(), Group::Classic(group));
                self.schedule(id, deadline);
            }
            Some(group) => drop(self.groups.insert(id.to_owned(), group)),
            None => {}
        }
    }

    /// A member of the consumer protocol; a classic group of consumers becomes a consumer group for it.
    fn consumer_heartbeat(
        &mut self,
        context: &mut Context<'_>,
        step: &mut Step,
        request: &ConsumerGroupHeartbeatRequest<'static>,
        (client, visible): (&Client, &Visible),
    ) -> Result<ConsumerGroupHeartbeatResponse<'static>, Failure> {
        let id = &*request.group_id;
        check_consumer_heartbeat(&self.config, request)?;
        if heartbeat_bytes(request) > context.largest_record {
            return Err(Failure(ErrorCode::UnknownServerError, consumer::TOO_LARGE.to_owned()));
        }
        self.give_way_to_consumer(context, step, request)?;
        let mut turn = Turn { context, config: &self.config, step };
        let Some(Group::Consumer(group)) = self.groups.get_mut(id) else {
            let why = format!("Group {id} is not a consumer group.");
            return Err(Failure(ErrorCode::GroupIdNotFound, why));
        };
        let members = group.len();
        let result = group.heartbeat(&mut turn, request, client, visible);
        let deadline = group.deadline_of(&request.member_id);
        let has_shrunk = group.len() < members;
        self.schedule_by(id, deadline);
        if has_shrunk {
            self.downgrade_if_classic(context, step, id, false);
        }
        self.forget_if_blank(id);
        result
    }

    /// Makes the consumer group that a new member asks for, out of a classic one if there is such.
    fn give_way_to_consumer(
        &mut self,
        context: &mut Context<'_>,
        step: &mut Step,
        request: &ConsumerGroupHeartbeatRequest<'static>,
    ) -> Result<(), Failure> {
        let id = &*request.group_id;
        let mut turn = Turn { context, config: &self.config, step };
        let group = match self.groups.get_mut(id) {
            Some(Group::Consumer(_) | Group::Share(_)) => return Ok(()),
            _ if request.member_epoch != 0 => {
                return Err(Failure(ErrorCode::GroupIdNotFound, format!("Consumer group {id} not found.")));
            }
            other => {
                // What the heartbeat itself would say must not leave a changed group behind.
                consumer::expressions::check_regex(request.subscribed_topic_regex.as_deref())?;
                match other {
                    Some(Group::Classic(group)) if group.state() == classic::State::Empty => {
                        turn.step.records.push(group.tombstone());
                        ConsumerGroup::new(id)
                    }
                    Some(Group::Classic(group)) => ConsumerGroup::from_classic(&mut turn, group)?,
                    Some(Group::Consumer(_) | Group::Share(_)) => unreachable!("it was found above"),
                    None => ConsumerGroup::new(id),
                }
            }
        };
        let deadline = group.deadline();
        self.groups.insert(id.to_owned(), Group::Consumer(group));
        self.schedule(id, deadline);
        Ok(())
    }

    fn sync(
        &mut self,
        context: &mut Context<'_>,
        step: &mut Step,
        ticket: Ticket,
        request: &SyncGroupRequest<'static>,
    ) {
        let synced = self.with_group(context, step, &request.group_id, |group, turn| {
            match group {
                Group::Classic(group) => group.sync(turn, ticket, request),
                Group::Consumer(group) => group.sync(turn, ticket, request),
                Group::Share(_) => return false,
            }
            true
        });
        if synced != Some(true) {
            let error =
                if request.group_id.is_empty() { ErrorCode::InvalidGroupId } else { ErrorCode::UnknownMemberId };
            let response = SyncGroupResponse { error_code: error.code(), ..Default::default() };
            step.reply(ticket, GroupReply::Sync(response));
        }
    }

    fn heartbeat(&mut self, context: &mut Context<'_>, step: &mut Step, request: &HeartbeatRequest<'_>) -> ErrorCode {
        if request.group_id.is_empty() {
            return ErrorCode::InvalidGroupId;
        }
        match self.groups.get_mut(&*request.group_id) {
            // A session's new end is later than the one in the timers, which need not change.
            Some(Group::Classic(group)) => group.heartbeat(context.now_ms, request),
            Some(Group::Consumer(group)) => {
                let error = group.classic_heartbeat(&mut Turn { context, config: &self.config, step }, request);
                let deadline = group.deadline_of(&request.member_id);
                self.schedule_by(&request.group_id, deadline);
                error
            }
            Some(Group::Share(_)) | None => ErrorCode::UnknownMemberId,
        }
    }

    fn leave(&mut self, context: &mut Context<'_>, step: &mut Step, request: &LeaveGroupRequest<'static>) -> Reply {
        if request.group_id.is_empty() {
            return Reply::Refused(ErrorCode::InvalidGroupId);
        }
        let members = self.with_group(context, step, &request.group_id, |group, turn| match group {
            Group::Classic(group) => group.leave(turn, &request.members),
            Group::Consumer(group) => {
                let left = request.members.iter().map(|identity| MemberResponse {
                    member_id: identity.member_id.clone(),
                    group_instance_id: identity.group_instance_id.clone(),
                    error_code: group.leave_classic(turn, identity).code(),
                });
                left.collect()
            }
            Group::Share(_) => Vec::new(),
        });
        let members = members.filter(|members| !members.is_empty() || request.members.is_empty());
        let unknown = || {
            let member = request.members.iter().map(|identity| MemberResponse {
                member_id: identity.member_id.clone(),
                group_instance_id: identity.group_instance_id.clone(),
                error_code: ErrorCode::UnknownMemberId.code(),
            });
            member.collect()
        };
        let members = members.unwrap_or_else(unknown);
        self.downgrade_if_classic(context, step, &request.group_id, false);
        self.forget_if_blank(&request.group_id);
        GroupReply::Leave(LeaveGroupResponse { members, ..Default::default() }).into()
    }
}

/// About what the record of the member takes that joins a consumer group like this, in bytes.
fn joined_bytes(request: &JoinGroupRequest<'_>) -> usize {
    // The topics that it subscribes to are kept beside the metadata that names them.
    let protocols = request.protocols.iter().map(|protocol| protocol.name.len() + 2 * protocol.metadata.len() + 8);
    protocols.sum::<usize>() + request.group_id.len() + consumer::RECORD_BYTES
}

/// About what the record of the member takes that sends it, in bytes.
fn heartbeat_bytes(request: &ConsumerGroupHeartbeatRequest<'_>) -> usize {
    let names = request.subscribed_topic_names.iter().flatten().map(|name| name.len() + 2);
    let texts = [&request.instance_id, &request.rack_id, &request.subscribed_topic_regex, &request.server_assignor];
    let texts = texts.into_iter().flatten().map(|text| text.len());
    names.chain(texts).sum::<usize>() + request.group_id.len() + request.member_id.len() + consumer::RECORD_BYTES
}

/// What can be said against a heartbeat of the consumer protocol without its group.
fn check_consumer_heartbeat(config: &GroupConfig, request: &ConsumerGroupHeartbeatRequest<'_>) -> Result<(), Failure> {
    let invalid = |why: &str| Err(Failure(ErrorCode::InvalidRequest, why.to_owned()));
    let is_blank = |text: Option<&str>| text.is_some_and(|text| text.trim().is_empty());
    if request.group_id.trim().is_empty() {
        return invalid("GroupId can't be empty.");
    }
    if request.member_id.trim().is_empty() {
        return invalid("MemberId can't be empty.");
    }
    if is_blank(request.instance_id.as_deref()) {
        return invalid("InstanceId can't be empty.");
    }
    if is_blank(request.rack_id.as_deref()) {
        return invalid("RackId can't be empty.");
    }
    match request.member_epoch {
        1.. | -1 => {}
        0 if request.rebalance_timeout_ms == -1 => {
            return invalid("RebalanceTimeoutMs must be provided in first request.");
        }
        0 if request.topic_partitions.as_ref().is_none_or(|owned| !owned.is_empty()) => {
            return invalid("TopicPartitions must be empty when (re-)joining.");
        }
        0 if request.subscribed_topic_names.is_none() && request.subscribed_topic_regex.is_none() => {
            return invalid("Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.");
        }
        0 => {}
        -2 if request.instance_id.is_none() => return invalid("InstanceId can't be null."),
        -2 => {}
        _ => return invalid("MemberEpoch is invalid."),
    }
    match request.server_assignor.as_deref() {
        Some(name) if !config.consumer.assignors.iter().any(|assignor| assignor.name() == name) => {
            let names: BTreeSet<&str> = config.consumer.assignors.iter().map(|assignor| assignor.name()).collect();
            let names: Vec<&str> = names.into_iter().collect();
            let why = format!("ServerAssignor {name} is not supported. Supported assignors: {}.", names.join(", "));
            Err(Failure(ErrorCode::UnsupportedAssignor, why))
        }
        _ => Ok(()),
    }
}

/// Time, topics and the log.
impl GroupCoordinator {
    /// What is due.
    pub fn tick(&mut self, context: &mut Context<'_>) -> Step {
        let mut step = Step::default();
        let now_ms = context.now_ms;
        let due: Vec<String> =
            self.timers.iter().take_while(|(at, _)| *at <= now_ms).map(|(_, id)| id.clone()).collect();
        for id in due {
            if context.has_room {
                self.tick_group(context, &mut step, &id);
                continue;
            }
            let ticked = self.attempt(context, &id, |groups, context| {
                let mut step = Step::default();
                groups.tick_group(context, &mut step, &id);
                step
            });
            step.replies.extend(ticked.into_iter().flat_map(|ticked| ticked.replies));
        }
        if !context.has_room {
            return step;
        }
        if self.expire_at.is_some_and(|at| at <= now_ms) {
            self.expire_at = Some(now_ms + self.config.retention_check_interval_ms);
            self.expire_offsets(context, &mut step);
        }
        if self.passes.is_due(now_ms) {
            self.write_anew(context, &mut step);
        }
        step
    }

    fn tick_group(&mut self, context: &mut Context<'_>, step: &mut Step, id: &str) {
        let lost = self.with_group(context, step, id, |group, turn| match group {
            Group::Classic(group) => {
                group.tick(turn);
                false
            }
            Group::Consumer(group) => group.tick(turn),
            Group::Share(group) => {
                group.tick(turn);
                false
            }
        });
        if lost == Some(true) {
            self.downgrade_if_classic(context, step, id, false);
        }
        self.forget_if_blank(id);
    }

    /// When [`GroupCoordinator::tick`] is due.
    pub fn next_deadline(&self) -> Option<u64> {
        let timer = self.timers.first().map(|(at, _)| *at);
        timer.into_iter().chain(self.expire_at).chain(self.passes.next_deadline()).min()
    }

    /// Offsets of topics that are gone go too; those of the names in `gone`, or of any if there is none.
    pub fn topics_changed(&mut self, context: &mut Context<'_>, gone: Option<&[String]>) -> Step {
        let mut step = Step::default();
        let held = if gone.is_none() { self.offsets.topics() } else { BTreeSet::new() };
        let named = gone.into_iter().flatten().chain(&held);
        for topic in named.filter(|topic| context.topics.get(topic).is_none()) {
            self.offsets.remove_topic(topic, &mut step);
        }
        for group in self.groups.values_mut() {
            match group {
                Group::Classic(_) => {}
                Group::Consumer(group) => group.topics_changed(),
                Group::Share(group) => {
                    group.topics_changed(&mut Turn { context, config: &self.config, step: &mut step });
                }
            }
        }
        step
    }

    /// Sessions begin.
    pub fn loaded(&mut self, context: &mut Context<'_>) {
        self.expire_at = Some(context.now_ms + self.config.retention_check_interval_ms);
        let ids: Vec<String> = self.groups.keys().cloned().collect();
        let mut step = Step::default();
        for id in ids {
            self.with_group(context, &mut step, &id, |group, turn| match group {
                Group::Classic(group) => group.loaded(turn.context.now_ms),
                Group::Consumer(group) => group.loaded(turn),
                Group::Share(group) => group.loaded(turn),
            });
            self.forget_if_blank(&id);
        }
        assert!(step.records.is_empty() && step.replies.is_empty(), "a load decides nothing");
    }

    /// The producer's transaction has ended.
    pub fn transaction_ended(&mut self, producer_id: i64, committed: bool) {
        self.offsets.transaction_ended(producer_id, committed);
    }

    /// Takes a record of the log.
    ///
    /// # Errors
    /// If it is none that this coordinator writes.
    pub fn replay(
        &mut self,
        offset: i64,
        producer: Option<Producer>,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), DecodeError> {
        self.passes.note(offset, Record::size_of(key, value));
        match record_type(key)? {
            kind @ (LegacyOffsetCommitKey::RECORD_TYPE | OffsetCommitKey::RECORD_TYPE) => {
                if let Some(group) = self.offsets.replay(kind, producer, key, value)?
                    && !self.groups.contains_key(&group)
                {
                    let simple = ClassicGroup::new(&group);
                    self.groups.insert(group, Group::Classic(simple));
                }
            }
            GroupMetadataKey::RECORD_TYPE => {
                let key: GroupMetadataKey<'_> = decode_key(key)?;
                match value {
                    None if matches!(self.groups.get(&*key.group), Some(Group::Classic(_))) => {
                        self.replay_end(&key.group);
                    }
                    None => {}
                    Some(value) => {
                        let group = ClassicGroup::from_record(&key.group, value)?;
                        self.groups.insert(key.group.into_owned(), Group::Classic(group));
                    }
                }
            }
            // What topics a group read was kept by earlier versions of Kafka.
            ConsumerGroupPartitionMetadataKey::RECORD_TYPE => {}
            kind => match Change::read(kind, key, value)? {
                Some((group, change)) => self.replay_change(group, change),
                None => match share::records::Change::read(kind, key, value)? {
                    Some((group, change)) => self.replay_share_change(group, change),
                    // A later version's.
                    None => {
                        return Err(DecodeError::UnsupportedVersion {
                            name: "the record type of a group",
                            version: kind,
                        });
                    }
                },
            },
        }
        Ok(())
    }

    /// A group that has ended may still have offsets, until their own tombstones.
    fn replay_end(&mut self, id: &str) {
        self.groups.remove(id);
        if self.offsets.has_any(id) {
            self.groups.insert(id.to_owned(), Group::Classic(ClassicGroup::new(id)));
        }
    }

    fn replay_change(&mut self, id: String, change: Change) {
        if !matches!(self.groups.get(&id), Some(Group::Consumer(_))) {
            // A tombstone of a group that is not there any more, or is of the other kind by now, begins none.
            if !matches!(change, Change::Group { .. } | Change::Member(..) | Change::Regex(..)) {
                return;
            }
            self.groups.insert(id.clone(), Group::Consumer(ConsumerGroup::new(&id)));
        }
        let Some(Group::Consumer(group)) = self.groups.get_mut(&id) else { return };
        if change == Change::GroupEnd {
            return self.replay_end(&id);
        }
        group.apply(change);
    }
}

/// Share groups, replayed.
impl GroupCoordinator {
    fn replay_share_change(&mut self, id: String, change: share::records::Change) {
        use share::records::Change;
        if !matches!(self.groups.get(&id), Some(Group::Share(_))) {
            if !matches!(change, Change::Group { .. } | Change::Member(..) | Change::Partitions(..)) {
                return;
            }
            self.groups.insert(id.clone(), Group::Share(ShareGroup::new(&id)));
        }
        let Some(Group::Share(group)) = self.groups.get_mut(&id) else { return };
        if change == Change::GroupEnd {
            return self.replay_end(&id);
        }
        group.apply(change);
    }
}

#[cfg(test)]
mod tests;
