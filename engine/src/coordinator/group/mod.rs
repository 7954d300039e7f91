//! The group coordinator: groups of either protocol and their offsets, over one partition.
//!
//! Here requests are checked as a whole and find their group; [`classic`] is the protocol in which clients
//! assign. A group is there as long as it has members, offsets or a record. Invariant: after each request the
//! group's next deadline is in the timers, or an earlier one.

pub mod classic;

use std::collections::{BTreeMap, BTreeSet};

use super::offsets::{CommittedOffset, Fetched, Offsets};
use super::{Context, Producer, Reply, Step, Ticket};
use crate::protocol::data::group_metadata_value::GroupMetadataValue;
use crate::protocol::data::{GroupMetadataKey, LegacyOffsetCommitKey, OffsetCommitKey};
use crate::protocol::messages::delete_groups::DeletableGroupResult;
use crate::protocol::messages::describe_groups::DescribedGroup;
use crate::protocol::messages::heartbeat::HeartbeatRequest;
use crate::protocol::messages::join_group::{JoinGroupRequest, JoinGroupResponse};
use crate::protocol::messages::leave_group::{LeaveGroupRequest, LeaveGroupResponse, MemberResponse};
use crate::protocol::messages::list_groups::ListedGroup;
use crate::protocol::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use crate::protocol::messages::offset_delete::{
    OffsetDeleteRequest, OffsetDeleteResponse, OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use crate::protocol::messages::offset_fetch::{
    OffsetFetchRequestGroup, OffsetFetchResponseGroup, OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
};
use crate::protocol::messages::sync_group::{SyncGroupRequest, SyncGroupResponse};
use crate::protocol::messages::txn_offset_commit::{
    TxnOffsetCommitRequest, TxnOffsetCommitResponse, TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use crate::protocol::value::{decode_key, decode_value, record_type};
use crate::protocol::{DecodeError, ErrorCode, RecordData};
use classic::ClassicGroup;

/// From this OffsetCommit version on clients know of groups that are not there.
const COMMIT_KNOWS_MISSING_GROUPS: i16 = 9;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Client {
    /// What it calls itself.
    pub id: String,
    /// Its address, behind a slash as Java writes it.
    pub host: String,
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
        /// States, in any case.
        states: Vec<String>,
        /// Types, in any case.
        types: Vec<String>,
    },
    /// Groups are deleted, in this order.
    Delete(Vec<String>),
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
}

/// What the group coordinator is configured by; Kafka's names stand behind each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupConfig {
    /// `group.initial.rebalance.delay.ms`.
    pub initial_rebalance_delay_ms: u64,
    /// `group.min.session.timeout.ms`.
    pub min_session_timeout_ms: i32,
    /// `group.max.session.timeout.ms`.
    pub max_session_timeout_ms: i32,
    /// `group.max.size`.
    pub max_size: usize,
    /// `offset.metadata.max.bytes`.
    pub max_metadata_bytes: usize,
    /// `offsets.retention.minutes`, in milliseconds.
    pub retention_ms: i64,
    /// `offsets.retention.check.interval.ms`.
    pub retention_check_interval_ms: u64,
}

impl GroupConfig {
    /// The values that `number` and `text` give for Kafka's names.
    pub fn new(number: impl Fn(&'static str) -> i64, _text: impl Fn(&'static str) -> String) -> GroupConfig {
        let int = |name| i32::try_from(number(name)).unwrap_or(i32::MAX);
        let positive = |name| u64::try_from(number(name)).unwrap_or(0);
        GroupConfig {
            initial_rebalance_delay_ms: positive("group.initial.rebalance.delay.ms"),
            min_session_timeout_ms: int("group.min.session.timeout.ms"),
            max_session_timeout_ms: int("group.max.session.timeout.ms"),
            max_size: usize::try_from(number("group.max.size")).unwrap_or(0),
            max_metadata_bytes: usize::try_from(number("offset.metadata.max.bytes")).unwrap_or(0),
            retention_ms: number("offsets.retention.minutes").saturating_mul(60_000),
            retention_check_interval_ms: positive("offsets.retention.check.interval.ms").max(1),
        }
    }
}

impl Default for GroupConfig {
    /// Kafka 4.1's defaults.
    fn default() -> GroupConfig {
        GroupConfig {
            initial_rebalance_delay_ms: 3000,
            min_session_timeout_ms: 6000,
            max_session_timeout_ms: 1_800_000,
            max_size: i32::MAX as usize,
            max_metadata_bytes: 4096,
            retention_ms: 7 * 24 * 3_600_000,
            retention_check_interval_ms: 600_000,
        }
    }
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

enum Group {
    Classic(ClassicGroup),
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
}

impl GroupCoordinator {
    /// A coordinator without groups.
    pub fn new(config: GroupConfig) -> GroupCoordinator {
        GroupCoordinator {
            config,
            groups: BTreeMap::new(),
            offsets: Offsets::default(),
            timers: BTreeSet::new(),
            scheduled: BTreeMap::new(),
            expire_at: None,
        }
    }

    /// Takes a request.
    pub fn handle(&mut self, context: &mut Context<'_>, ticket: Ticket, request: GroupRequest) -> Step {
        let mut step = Step::default();
        match request {
            GroupRequest::Join { request, version, client } => {
                self.join(context, &mut step, ticket, &request, version, client);
            }
            GroupRequest::Sync(request) => self.sync(context, &mut step, ticket, &request),
            GroupRequest::Heartbeat(request) => {
                let error = self.heartbeat(context, &request);
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
                let response = self.fetch(&request, stable);
                step.reply(ticket, GroupReply::Fetch(response));
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
                let results = ids.iter().map(|id| self.delete(&mut step, id)).collect();
                step.reply(ticket, GroupReply::Delete(results));
            }
        }
        step
    }

    /// Runs `act` on a classic group, and sees to its deadline.
    fn with_classic<T>(
        &mut self,
        context: &mut Context<'_>,
        step: &mut Step,
        id: &str,
        act: impl FnOnce(&mut ClassicGroup, &mut Turn<'_, '_>) -> T,
    ) -> Option<T> {
        let Some(Group::Classic(group)) = self.groups.get_mut(id) else { return None };
        let result = act(group, &mut Turn { context, config: &self.config, step });
        let deadline = group.deadline();
        self.schedule(id, deadline);
        Some(result)
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
        let joined =
            self.with_classic(context, step, id, |group, turn| group.join(turn, ticket, request, version, client));
        if joined.is_none() {
            refuse(step, ErrorCode::InconsistentGroupProtocol);
        }
        self.forget_if_blank(id);
    }

    fn sync(
        &mut self,
        context: &mut Context<'_>,
        step: &mut Step,
        ticket: Ticket,
        request: &SyncGroupRequest<'static>,
    ) {
        let synced =
            self.with_classic(context, step, &request.group_id, |group, turn| group.sync(turn, ticket, request));
        if synced.is_none() {
            let error =
                if request.group_id.is_empty() { ErrorCode::InvalidGroupId } else { ErrorCode::UnknownMemberId };
            let response = SyncGroupResponse { error_code: error.code(), ..Default::default() };
            step.reply(ticket, GroupReply::Sync(response));
        }
    }

    /// A session's new end is later than the one in the timers, which need not change.
    fn heartbeat(&mut self, context: &mut Context<'_>, request: &HeartbeatRequest<'_>) -> ErrorCode {
        if request.group_id.is_empty() {
            return ErrorCode::InvalidGroupId;
        }
        match self.groups.get_mut(&*request.group_id) {
            Some(Group::Classic(group)) => group.heartbeat(context.now_ms, request),
            None => ErrorCode::UnknownMemberId,
        }
    }

    fn leave(&mut self, context: &mut Context<'_>, step: &mut Step, request: &LeaveGroupRequest<'static>) -> Reply {
        if request.group_id.is_empty() {
            return Reply::Refused(ErrorCode::InvalidGroupId);
        }
        let members =
            self.with_classic(context, step, &request.group_id, |group, turn| group.leave(turn, &request.members));
        let unknown = || {
            let member = request.members.iter().map(|identity| MemberResponse {
                member_id: identity.member_id.clone(),
                group_instance_id: identity.group_instance_id.clone(),
                error_code: ErrorCode::UnknownMemberId.code(),
            });
            member.collect()
        };
        let members = members.unwrap_or_else(unknown);
        self.forget_if_blank(&request.group_id);
        GroupReply::Leave(LeaveGroupResponse { members, ..Default::default() }).into()
    }
}

/// Offsets.
impl GroupCoordinator {
    fn commit(
        &mut self,
        context: &mut Context<'_>,
        step: &mut Step,
        request: &OffsetCommitRequest<'static>,
        version: i16,
    ) -> Reply {
        let id = &*request.group_id;
        let (generation, member_id) = (request.generation_id_or_member_epoch, &*request.member_id);
        let instance_id = request.group_instance_id.as_deref();
        let checked = match self.groups.get_mut(id) {
            Some(Group::Classic(group)) => {
                let checked = group.check_commit(member_id, instance_id, generation, false);
                if checked.is_ok() {
                    group.on_commit(context.now_ms, member_id);
                }
                checked
            }
            None => self.make_simple(id, generation, version >= COMMIT_KNOWS_MISSING_GROUPS),
        };
        if let Err(error) = checked {
            return error.into();
        }
        let expire_timestamp =
            (request.retention_time_ms >= 0).then(|| context.wall_clock_ms.saturating_add(request.retention_time_ms));
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let partitions = topic.partitions.iter().map(|asked| {
                let committed = CommittedOffset {
                    offset: asked.committed_offset,
                    leader_epoch: asked.committed_leader_epoch,
                    metadata: asked.committed_metadata.as_deref().unwrap_or_default().to_owned(),
                    commit_timestamp: context.wall_clock_ms,
                    expire_timestamp,
                };
                let error = self.commit_one(id, &topic.name, asked.partition_index, committed, None, step);
                OffsetCommitResponsePartition { partition_index: asked.partition_index, error_code: error.code() }
            });
            topics.push(OffsetCommitResponseTopic { partitions: partitions.collect(), name: topic.name.clone() });
        }
        self.forget_if_blank(id);
        GroupReply::Commit(OffsetCommitResponse { topics, ..Default::default() }).into()
    }

    /// Whoever commits without being a member makes the group that the offsets are for.
    fn make_simple(&mut self, id: &str, generation: i32, knows_missing_groups: bool) -> Result<(), ErrorCode> {
        match generation {
            ..0 => {
                self.groups.insert(id.to_owned(), Group::Classic(ClassicGroup::new(id)));
                Ok(())
            }
            _ if knows_missing_groups => Err(ErrorCode::GroupIdNotFound),
            _ => Err(ErrorCode::IllegalGeneration),
        }
    }

    fn commit_one(
        &mut self,
        id: &str,
        topic: &str,
        partition: i32,
        committed: CommittedOffset,
        producer: Option<Producer>,
        step: &mut Step,
    ) -> ErrorCode {
        if committed.metadata.len() > self.config.max_metadata_bytes {
            return ErrorCode::OffsetMetadataTooLarge;
        }
        self.offsets.commit(id, topic, partition, committed, producer, step);
        ErrorCode::None
    }

    fn commit_in_transaction(
        &mut self,
        context: &mut Context<'_>,
        step: &mut Step,
        request: &TxnOffsetCommitRequest<'static>,
    ) -> Reply {
        let id = &*request.group_id;
        let (generation, member_id) = (request.generation_id, &*request.member_id);
        let instance_id = request.group_instance_id.as_deref();
        let checked = match self.groups.get_mut(id) {
            Some(Group::Classic(group)) => group.check_commit(member_id, instance_id, generation, true),
            None => self.make_simple(id, generation, false),
        };
        if let Err(error) = checked {
            return error.into();
        }
        let producer = Producer { id: request.producer_id, epoch: request.producer_epoch };
        step.producer = Some(producer);
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let partitions = topic.partitions.iter().map(|asked| {
                let committed = CommittedOffset {
                    offset: asked.committed_offset,
                    leader_epoch: asked.committed_leader_epoch,
                    metadata: asked.committed_metadata.as_deref().unwrap_or_default().to_owned(),
                    commit_timestamp: context.wall_clock_ms,
                    expire_timestamp: None,
                };
                let error = self.commit_one(id, &topic.name, asked.partition_index, committed, Some(producer), step);
                TxnOffsetCommitResponsePartition { partition_index: asked.partition_index, error_code: error.code() }
            });
            topics.push(TxnOffsetCommitResponseTopic { partitions: partitions.collect(), name: topic.name.clone() });
        }
        self.forget_if_blank(id);
        GroupReply::CommitInTransaction(TxnOffsetCommitResponse { topics, ..Default::default() }).into()
    }

    fn fetch(&self, request: &OffsetFetchRequestGroup<'static>, stable: bool) -> OffsetFetchResponseGroup<'static> {
        let id = &*request.group_id;
        let topics = match &request.topics {
            Some(topics) => topics
                .iter()
                .map(|topic| self.fetch_topic(id, &topic.name, topic.partition_indexes.iter().copied(), stable))
                .collect(),
            None => self
                .offsets
                .partitions(id)
                .map(|(topic, partitions)| self.fetch_topic(id, topic, partitions, stable))
                .collect(),
        };
        OffsetFetchResponseGroup { group_id: request.group_id.clone(), topics, error_code: 0 }
    }

    fn fetch_topic(
        &self,
        group: &str,
        topic: &str,
        partitions: impl Iterator<Item = i32>,
        stable: bool,
    ) -> OffsetFetchResponseTopics<'static> {
        let partition = |partition_index| {
            let nothing = |error: ErrorCode| OffsetFetchResponsePartitions {
                partition_index,
                committed_offset: -1,
                committed_leader_epoch: -1,
                metadata: Some("".into()),
                error_code: error.code(),
            };
            match self.offsets.fetch(group, topic, partition_index, stable) {
                Fetched::Nothing => nothing(ErrorCode::None),
                Fetched::Unstable => nothing(ErrorCode::UnstableOffsetCommit),
                Fetched::Committed(committed) => OffsetFetchResponsePartitions {
                    partition_index,
                    committed_offset: committed.offset,
                    committed_leader_epoch: committed.leader_epoch,
                    metadata: Some(committed.metadata.clone().into()),
                    error_code: 0,
                },
            }
        };
        OffsetFetchResponseTopics { name: topic.to_owned().into(), partitions: partitions.map(partition).collect() }
    }

    fn delete_offsets(&mut self, step: &mut Step, request: &OffsetDeleteRequest<'static>) -> Reply {
        let id = &*request.group_id;
        let checked = match self.groups.get(id) {
            Some(Group::Classic(group)) => group.check_offset_delete(),
            None => Err(ErrorCode::GroupIdNotFound),
        };
        if let Err(error) = checked {
            return error.into();
        }
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let is_subscribed = match &self.groups[id] {
                Group::Classic(group) => group.is_subscribed_to(&topic.name),
            };
            let partitions = topic.partitions.iter().map(|asked| {
                let error = if is_subscribed { ErrorCode::GroupSubscribedToTopic } else { ErrorCode::None };
                if !is_subscribed {
                    self.offsets.remove(id, &topic.name, asked.partition_index, step);
                }
                OffsetDeleteResponsePartition { partition_index: asked.partition_index, error_code: error.code() }
            });
            topics.push(OffsetDeleteResponseTopic { partitions: partitions.collect(), name: topic.name.clone() });
        }
        self.forget_if_blank(id);
        GroupReply::DeleteOffsets(OffsetDeleteResponse { topics, ..Default::default() }).into()
    }

    /// Offsets that nobody has refreshed for long, and groups that have nothing else.
    fn expire_offsets(&mut self, context: &mut Context<'_>, step: &mut Step) {
        let (groups, now_ms, retention_ms) = (&self.groups, context.wall_clock_ms, self.config.retention_ms);
        let had_offsets: Vec<String> = groups.keys().filter(|id| self.offsets.has_any(id)).cloned().collect();
        let is_expired = |group: &str, topic: &str, committed: &CommittedOffset| {
            let start = match groups.get(group) {
                Some(Group::Classic(group)) if group.is_subscribed_to(topic) => None,
                Some(Group::Classic(group)) => group.retention_start(committed.commit_timestamp),
                None => Some(committed.commit_timestamp),
            };
            match committed.expire_timestamp {
                Some(expires) => start.is_some() && now_ms >= expires,
                None => start.is_some_and(|start| now_ms.saturating_sub(start) >= retention_ms),
            }
        };
        self.offsets.expire(is_expired, step);
        for id in had_offsets {
            if !self.offsets.has_any(&id) {
                self.delete_if_empty(&id, step);
            }
        }
    }
}

/// Groups as a whole.
impl GroupCoordinator {
    fn describe(&self, id: &str) -> DescribedGroup<'static> {
        match self.groups.get(id) {
            Some(Group::Classic(group)) => group.describe(),
            None => DescribedGroup {
                error_code: ErrorCode::GroupIdNotFound.code(),
                error_message: Some(format!("Group {id} not found.").into()),
                group_id: id.to_owned().into(),
                group_state: "Dead".into(),
                ..Default::default()
            },
        }
    }

    fn list(&self, states: &[String], types: &[String]) -> Vec<ListedGroup<'static>> {
        let is_wanted =
            |wanted: &[String], name: &str| wanted.is_empty() || wanted.iter().any(|w| w.eq_ignore_ascii_case(name));
        let listed = self.groups.iter().map(|(id, group)| match group {
            Group::Classic(group) => ListedGroup {
                group_id: id.clone().into(),
                protocol_type: group.protocol_type().unwrap_or_default().to_owned().into(),
                group_state: group.state().name().into(),
                group_type: "Classic".into(),
            },
        });
        listed.filter(|group| is_wanted(states, &group.group_state) && is_wanted(types, &group.group_type)).collect()
    }

    fn delete(&mut self, step: &mut Step, id: &str) -> DeletableGroupResult<'static> {
        let error = match self.groups.get(id) {
            None => ErrorCode::GroupIdNotFound,
            Some(Group::Classic(group)) if group.state() != classic::State::Empty => ErrorCode::NonEmptyGroup,
            Some(_) => {
                self.offsets.remove_group(id, step);
                self.delete_if_empty(id, step);
                ErrorCode::None
            }
        };
        DeletableGroupResult { group_id: id.to_owned().into(), error_code: error.code() }
    }

    fn delete_if_empty(&mut self, id: &str, step: &mut Step) {
        match self.groups.get(id) {
            Some(Group::Classic(group)) if group.state() == classic::State::Empty => {
                step.records.push(group.tombstone());
                self.forget(id);
            }
            _ => {}
        }
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
            self.with_classic(context, &mut step, &id, |group, turn| group.tick(turn));
            self.forget_if_blank(&id);
        }
        if self.expire_at.is_some_and(|at| at <= now_ms) {
            self.expire_at = Some(now_ms + self.config.retention_check_interval_ms);
            self.expire_offsets(context, &mut step);
        }
        step
    }

    /// When [`GroupCoordinator::tick`] is due.
    pub fn next_deadline(&self) -> Option<u64> {
        self.timers.first().map(|(at, _)| *at).into_iter().chain(self.expire_at).min()
    }

    /// Offsets of topics that are gone go too.
    pub fn topics_changed(&mut self, context: &mut Context<'_>) -> Step {
        let mut step = Step::default();
        let topics = context.topics;
        self.offsets.remove_topics(|topic| topics.get(topic).is_none(), &mut step);
        step
    }

    /// Sessions begin.
    pub fn loaded(&mut self, context: &mut Context<'_>) {
        self.expire_at = Some(context.now_ms + self.config.retention_check_interval_ms);
        let ids: Vec<String> = self.groups.keys().cloned().collect();
        let mut step = Step::default();
        for id in ids {
            self.with_classic(context, &mut step, &id, |group, turn| group.loaded(turn.context.now_ms));
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
    pub fn replay(&mut self, producer: Option<Producer>, key: &[u8], value: Option<&[u8]>) -> Result<(), DecodeError> {
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
                    None => drop(self.groups.remove(&*key.group)),
                    Some(value) => {
                        let value: GroupMetadataValue<'_> = decode_value(value)?;
                        let group = ClassicGroup::from_record(&key.group, &value);
                        self.groups.insert(key.group.into_owned(), Group::Classic(group));
                    }
                }
            }
            // A later version's.
            kind => return Err(DecodeError::UnsupportedVersion { name: "the record type of a group", version: kind }),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
