//! A group of the classic protocol: members join, their leader assigns, all of them sync, and then heartbeat.
//!
//! The transitions (Kafka's `ClassicGroupState`):
//!
//! ```text
//! Empty ──first join──▶ PreparingRebalance ──all have joined, or time is up──▶ CompletingRebalance
//!   ▲                     ▲        │                                              │        │
//!   └──nobody is left─────┼────────┘◀──a join, a leave or a lost member───────────┘        │ the leader syncs
//!                         └─────────────a join, a leave or a lost member──── Stable ◀──────┘
//! ```
//!
//! Invariants: a member has at most one join and one sync waiting; a generation's assignment is in the log
//! before any member hears of it; what the log holds is the last completed generation. Assignments and the
//! members' metadata are the clients' own, and are opaque here except for the topics of a consumer.

mod join;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{Client, GroupReply, Turn};
use crate::coordinator::{Record, Ticket};
use crate::protocol::data::group_metadata_value::{GroupMetadataValue, MemberMetadata};
use crate::protocol::data::{ConsumerProtocolSubscription, GroupMetadataKey};
use crate::protocol::messages::describe_groups::{DescribedGroup, DescribedGroupMember};
use crate::protocol::messages::heartbeat::HeartbeatRequest;
use crate::protocol::messages::join_group::{
    JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse, JoinGroupResponseMember,
};
use crate::protocol::messages::leave_group::{MemberIdentity, MemberResponse};
use crate::protocol::messages::sync_group::{SyncGroupRequest, SyncGroupResponse};
use crate::protocol::value::{decode_value, encode_key, encode_value};
use crate::protocol::{DecodeError, Decoder, ErrorCode, Message, Str};

/// The protocol type of consumers, whose metadata is understood here.
pub const CONSUMER: &str = "consumer";
/// The value's version without tagged fields, which older brokers read too.
const VALUE_VERSION: i16 = 3;
/// From this version on a new member must come back with the id that it is given.
pub(super) const NEEDS_KNOWN_MEMBER: i16 = 4;
/// From this version on a static leader that comes back may skip its assignment.
const SKIPS_ASSIGNMENT: i16 = 9;
/// How long a new member's join may wait before the member counts as gone: it does not heartbeat yet.
const NEW_MEMBER_JOIN_TIMEOUT_MS: u64 = 5 * 60 * 1000;

/// Where a group is in the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It has no members; it may have offsets.
    Empty,
    /// Members are joining.
    PreparingRebalance,
    /// Members wait for the leader's assignment.
    CompletingRebalance,
    /// Members have their assignments.
    Stable,
}

impl State {
    /// Kafka's name of the state.
    pub fn name(self) -> &'static str {
        match self {
            State::Empty => "Empty",
            State::PreparingRebalance => "PreparingRebalance",
            State::CompletingRebalance => "CompletingRebalance",
            State::Stable => "Stable",
        }
    }
}

/// A member.
#[derive(Debug, Clone)]
pub struct Member {
    /// The instance that it is, if it is static.
    pub instance_id: Option<String>,
    /// Its client.
    pub client: Client,
    /// How long it may take to join, in milliseconds.
    pub rebalance_timeout_ms: i32,
    /// How long it may be silent, in milliseconds.
    pub session_timeout_ms: i32,
    /// The protocols that it supports, the one that it prefers first, with its metadata for each.
    pub protocols: Vec<(String, Bytes)>,
    /// What the leader assigned to it.
    pub assignment: Bytes,
    is_new: bool,
    session_deadline: u64,
    joining: Option<Ticket>,
    syncing: Option<Ticket>,
}

impl Member {
    /// A member that is there already; its session begins now. The timeouts are those of a rebalance and of
    /// the session, in milliseconds.
    pub fn known(
        instance_id: Option<String>,
        client: Client,
        (rebalance_timeout_ms, session_timeout_ms): (i32, i32),
        protocols: Vec<(String, Bytes)>,
        assignment: Bytes,
        now_ms: u64,
    ) -> Member {
        Member {
            instance_id,
            client,
            rebalance_timeout_ms,
            session_timeout_ms,
            protocols,
            assignment,
            is_new: false,
            session_deadline: now_ms.saturating_add(millis(session_timeout_ms)),
            joining: None,
            syncing: None,
        }
    }

    fn metadata(&self, protocol: &str) -> Bytes {
        self.protocols.iter().find(|(name, _)| name == protocol).map_or(Bytes::new(), |(_, metadata)| metadata.clone())
    }

    /// When it counts as lost. One whose request waits here is not silent, unless it never heard its id.
    fn deadline(&self) -> Option<u64> {
        let waits = self.joining.is_some() || self.syncing.is_some();
        (self.is_new || !waits).then_some(self.session_deadline)
    }

    fn matches(&self, protocols: &[JoinGroupRequestProtocol<'_>]) -> bool {
        let same = |(own, other): (&(String, Bytes), &JoinGroupRequestProtocol<'_>)| {
            own.0 == *other.name && own.1[..] == *other.metadata
        };
        self.protocols.len() == protocols.len() && self.protocols.iter().zip(protocols).all(same)
    }
}

/// When the joins are complete whoever is missing.
#[derive(Debug, Clone, Copy)]
enum JoinDeadline {
    /// A new group waits for others to come; each that comes gives it as much time again, up to `remaining_ms`.
    Initial { at: u64, delay_ms: u64, remaining_ms: u64 },
    /// The members' rebalance timeout.
    Final { at: u64 },
}

impl JoinDeadline {
    fn at(self) -> u64 {
        match self {
            JoinDeadline::Initial { at, .. } | JoinDeadline::Final { at } => at,
        }
    }
}

/// A group.
#[derive(Debug, Clone)]
pub struct ClassicGroup {
    id: String,
    state: State,
    previous: State,
    state_timestamp: Option<i64>,
    generation: i32,
    protocol_type: Option<String>,
    protocol: Option<String>,
    leader: Option<String>,
    members: BTreeMap<String, Member>,
    /// Member ids by instance id.
    instances: BTreeMap<String, String>,
    /// Ids that were given out and whose owner has not come back yet, with the time when they lapse.
    pending_joins: BTreeMap<String, u64>,
    pending_syncs: BTreeSet<String>,
    join_deadline: Option<JoinDeadline>,
    sync_deadline: Option<u64>,
    new_member_added: bool,
    /// The topics that its consumers have subscribed to, if that is known.
    subscribed: Option<BTreeSet<String>>,
    /// The value of its record in the log, if it has one: the last stable generation, or what became of it.
    recorded: Option<Bytes>,
}

/// The error of a member's request that names what is not, or not any more.
type Check = Result<(), ErrorCode>;

impl ClassicGroup {
    /// A group without members.
    pub fn new(id: &str) -> ClassicGroup {
        ClassicGroup {
            id: id.to_owned(),
            state: State::Empty,
            previous: State::Empty,
            state_timestamp: None,
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            instances: BTreeMap::new(),
            pending_joins: BTreeMap::new(),
            pending_syncs: BTreeSet::new(),
            join_deadline: None,
            sync_deadline: None,
            new_member_added: false,
            subscribed: None,
            recorded: None,
        }
    }

    /// The group that a record's value holds. Its members' sessions begin with [`ClassicGroup::loaded`].
    ///
    /// # Errors
    /// If the value cannot be read.
    pub fn from_record(id: &str, recorded: &[u8]) -> Result<ClassicGroup, DecodeError> {
        let value: GroupMetadataValue<'_> = decode_value(recorded)?;
        let mut group = ClassicGroup::new(id);
        group.recorded = Some(Bytes::copy_from_slice(recorded));
        group.state = if value.members.is_empty() { State::Empty } else { State::Stable };
        group.previous = group.state;
        group.state_timestamp = (value.current_state_timestamp >= 0).then_some(value.current_state_timestamp);
        group.generation = value.generation;
        group.protocol_type = (!value.protocol_type.is_empty()).then(|| value.protocol_type.to_string());
        group.protocol = value.protocol.as_deref().map(str::to_owned);
        group.leader = value.leader.as_deref().map(str::to_owned);
        let protocol = group.protocol.clone().unwrap_or_default();
        for member in &value.members {
            let instance_id = member.group_instance_id.as_deref().map(str::to_owned);
            if let Some(instance_id) = &instance_id {
                group.instances.insert(instance_id.clone(), member.member_id.to_string());
            }
            let rebalance_timeout_ms =
                if member.rebalance_timeout >= 0 { member.rebalance_timeout } else { member.session_timeout };
            let known = Member::known(
                instance_id,
                Client { id: member.client_id.to_string(), host: member.client_host.to_string() },
                (rebalance_timeout_ms, member.session_timeout),
                vec![(protocol.clone(), Bytes::copy_from_slice(&member.subscription))],
                Bytes::copy_from_slice(&member.assignment),
                u64::MAX,
            );
            group.members.insert(member.member_id.to_string(), known);
        }
        group.subscribed = group.compute_subscribed();
        Ok(group)
    }

    /// A stable group of consumers that were members of a group of the other protocol.
    pub fn of_members(
        id: &str,
        generation: i32,
        members: BTreeMap<String, Member>,
        wall_clock_ms: i64,
    ) -> ClassicGroup {
        let mut group = ClassicGroup::new(id);
        let instance = |(id, member): (&String, &Member)| Some((member.instance_id.clone()?, id.clone()));
        group.instances = members.iter().filter_map(instance).collect();
        group.leader = members.keys().next().cloned();
        group.members = members;
        group.generation = generation;
        group.protocol_type = Some(CONSUMER.to_owned());
        group.protocol = group.select_protocol();
        group.subscribed = group.compute_subscribed();
        group.transition(State::Stable, wall_clock_ms);
        group
    }

    /// Such a group is kept as it is, and then has its members join unless they need not.
    pub fn begin(mut self, turn: &mut Turn<'_, '_>, is_stable: bool) -> ClassicGroup {
        self.persist(turn);
        if !is_stable {
            self.prepare_rebalance(turn);
        }
        self
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its generation.
    pub fn generation(&self) -> i32 {
        self.generation
    }

    /// Its members by id.
    pub fn members(&self) -> &BTreeMap<String, Member> {
        &self.members
    }

    /// Whoever waits for the group's next step is told that there is none.
    pub fn fail_waiting(&mut self, turn: &mut Turn<'_, '_>, error: ErrorCode) {
        for (id, member) in &mut self.members {
            if let Some(ticket) = member.joining.take() {
                refuse_join(turn, ticket, id, error);
            }
            if let Some(ticket) = member.syncing.take() {
                refuse_sync(turn, ticket, error);
            }
        }
    }

    /// Its members' sessions begin now.
    pub fn loaded(&mut self, now_ms: u64) {
        for member in self.members.values_mut() {
            member.session_deadline = now_ms + millis(member.session_timeout_ms);
        }
    }

    /// Its state.
    pub fn state(&self) -> State {
        self.state
    }

    /// What its members are: "consumer", "connect" or another; none for a group that only has offsets.
    pub fn protocol_type(&self) -> Option<&str> {
        self.protocol_type.as_deref()
    }

    /// Whether nothing would be lost with it but offsets.
    pub fn is_blank(&self) -> bool {
        self.state == State::Empty
            && self.generation == 0
            && self.protocol_type.is_none()
            && self.pending_joins.is_empty()
    }

    /// When it wants [`ClassicGroup::tick`].
    pub fn deadline(&self) -> Option<u64> {
        let members = self.members.values().filter_map(Member::deadline);
        let pending = self.pending_joins.values().copied();
        let phases = self.join_deadline.map(JoinDeadline::at).into_iter().chain(self.sync_deadline);
        members.chain(pending).chain(phases).min()
    }

    fn is_leader(&self, member_id: &str) -> bool {
        self.leader.as_deref() == Some(member_id)
    }

    fn transition(&mut self, to: State, wall_clock_ms: i64) {
        self.previous = self.state;
        self.state = to;
        self.state_timestamp = Some(wall_clock_ms);
    }

    /// Whether the member is who it says, under the instance id that it says.
    fn check_member(&self, member_id: &str, instance_id: Option<&str>) -> Check {
        if let Some(instance_id) = instance_id {
            match self.instances.get(instance_id) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(current) if current != member_id => return Err(ErrorCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.members.contains_key(member_id) { Ok(()) } else { Err(ErrorCode::UnknownMemberId) }
    }

    /// Whether a member that supports these can be with those who are there.
    fn supports(&self, protocol_type: &str, protocols: &[JoinGroupRequestProtocol<'_>]) -> bool {
        if self.state == State::Empty {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        let of_all = common_protocols(self.members.values().map(|member| &member.protocols[..]));
        self.protocol_type.as_deref() == Some(protocol_type)
            && protocols.iter().any(|protocol| is_in(&of_all, &protocol.name))
    }

    fn rebalance_timeout_ms(&self) -> u64 {
        self.members.values().map(|member| millis(member.rebalance_timeout_ms)).max().unwrap_or(0)
    }

    fn has_all_joined(&self) -> bool {
        self.pending_joins.is_empty() && self.members.values().all(|member| member.joining.is_some())
    }

    /// The members' metadata, for the leader.
    fn members_for_leader(&self) -> Vec<JoinGroupResponseMember<'static>> {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let member = |(id, member): (&String, &Member)| JoinGroupResponseMember {
            member_id: id.clone().into(),
            group_instance_id: member.instance_id.clone().map(Into::into),
            metadata: member.metadata(protocol).to_vec().into(),
        };
        self.members.iter().map(member).collect()
    }

    /// The answer to a join of the current generation.
    fn joined(&self, member_id: &str, members: Vec<JoinGroupResponseMember<'static>>) -> JoinGroupResponse<'static> {
        JoinGroupResponse {
            generation_id: self.generation,
            protocol_type: self.protocol_type.clone().map(Into::into),
            protocol_name: self.protocol.clone().map(Into::into),
            leader: self.leader.clone().unwrap_or_default().into(),
            member_id: member_id.to_owned().into(),
            members,
            ..Default::default()
        }
    }
}

/// Syncing, heartbeats, leaving.
impl ClassicGroup {
    /// A member asks for its assignment; the leader brings all of them.
    pub fn sync(&mut self, turn: &mut Turn<'_, '_>, ticket: Ticket, request: &SyncGroupRequest<'_>) {
        let member_id = &*request.member_id;
        let is_other =
            |asked: &Option<Str<'_>>, own: &Option<String>| asked.is_some() && asked.as_deref() != own.as_deref();
        let checked = self.check_member(member_id, request.group_instance_id.as_deref()).and_then(|()| {
            if request.generation_id != self.generation {
                return Err(ErrorCode::IllegalGeneration);
            }
            if is_other(&request.protocol_type, &self.protocol_type) || is_other(&request.protocol_name, &self.protocol)
            {
                return Err(ErrorCode::InconsistentGroupProtocol);
            }
            Ok(())
        });
        if let Err(error) = checked {
            return refuse_sync(turn, ticket, error);
        }
        match self.state {
            State::Empty => refuse_sync(turn, ticket, ErrorCode::UnknownMemberId),
            State::PreparingRebalance => refuse_sync(turn, ticket, ErrorCode::RebalanceInProgress),
            State::Stable => {
                self.pending_syncs.remove(member_id);
                self.touch(turn.context.now_ms, member_id);
                turn.step.reply(ticket, GroupReply::Sync(self.synced(member_id)));
            }
            State::CompletingRebalance => {
                self.pending_syncs.remove(member_id);
                if let Some(earlier) = self.member_mut(member_id).syncing.replace(ticket) {
                    refuse_sync(turn, earlier, ErrorCode::RebalanceInProgress);
                }
                if self.is_leader(member_id) {
                    self.assign(turn, request);
                }
            }
        }
    }

    /// The leader has assigned: the generation is complete.
    fn assign(&mut self, turn: &mut Turn<'_, '_>, request: &SyncGroupRequest<'_>) {
        let by_member: BTreeMap<&str, &[u8]> =
            request.assignments.iter().map(|assigned| (&*assigned.member_id, &*assigned.assignment)).collect();
        let mut waiting = Vec::new();
        for (id, member) in &mut self.members {
            member.assignment = by_member.get(id.as_str()).map_or(Bytes::new(), |bytes| Bytes::copy_from_slice(bytes));
            if let Some(ticket) = member.syncing.take() {
                member.session_deadline = turn.context.now_ms + millis(member.session_timeout_ms);
                waiting.push((ticket, id.clone()));
            }
        }
        if self.is_too_large(turn) {
            waiting.into_iter().for_each(|(ticket, _)| refuse_sync(turn, ticket, ErrorCode::UnknownServerError));
            self.fail_syncs(turn, ErrorCode::UnknownServerError);
            return self.prepare_rebalance(turn);
        }
        self.transition(State::Stable, turn.context.wall_clock_ms);
        self.persist(turn);
        for (ticket, id) in waiting {
            turn.step.reply(ticket, GroupReply::Sync(self.synced(&id)));
        }
    }

    fn synced(&self, member_id: &str) -> SyncGroupResponse<'static> {
        SyncGroupResponse {
            protocol_type: self.protocol_type.clone().map(Into::into),
            protocol_name: self.protocol.clone().map(Into::into),
            assignment: self.members[member_id].assignment.to_vec().into(),
            ..Default::default()
        }
    }

    fn fail_syncs(&mut self, turn: &mut Turn<'_, '_>, error: ErrorCode) {
        for member in self.members.values_mut() {
            member.assignment = Bytes::new();
            if let Some(ticket) = member.syncing.take() {
                member.session_deadline = turn.context.now_ms + millis(member.session_timeout_ms);
                refuse_sync(turn, ticket, error);
            }
        }
    }

    /// A member says that it lives.
    pub fn heartbeat(&mut self, now_ms: u64, request: &HeartbeatRequest<'_>) -> ErrorCode {
        let member_id = &*request.member_id;
        if let Err(error) = self.check_member(member_id, request.group_instance_id.as_deref()) {
            return error;
        }
        if request.generation_id != self.generation {
            return ErrorCode::IllegalGeneration;
        }
        self.touch(now_ms, member_id);
        match self.state {
            State::Empty => ErrorCode::UnknownMemberId,
            State::PreparingRebalance => ErrorCode::RebalanceInProgress,
            State::CompletingRebalance | State::Stable => ErrorCode::None,
        }
    }

    fn touch(&mut self, now_ms: u64, member_id: &str) {
        if let Some(member) = self.members.get_mut(member_id).filter(|member| !member.is_new) {
            member.session_deadline = now_ms + millis(member.session_timeout_ms);
        }
    }

    /// Members leave, or are made to by instance id.
    pub fn leave(&mut self, turn: &mut Turn<'_, '_>, leaving: &[MemberIdentity<'_>]) -> Vec<MemberResponse<'static>> {
        let mut any = false;
        let mut responses = Vec::with_capacity(leaving.len());
        for identity in leaving {
            let error = self.leave_one(turn, identity);
            any |= error == ErrorCode::None;
            responses.push(MemberResponse {
                member_id: identity.member_id.to_string().into(),
                group_instance_id: identity.group_instance_id.as_deref().map(|id| id.to_owned().into()),
                error_code: error.code(),
            });
        }
        if any {
            self.go_on_without(turn);
        }
        responses
    }

    fn leave_one(&mut self, turn: &mut Turn<'_, '_>, identity: &MemberIdentity<'_>) -> ErrorCode {
        let instance_id = identity.group_instance_id.as_deref();
        if identity.member_id.is_empty() {
            let Some(member_id) = instance_id.and_then(|id| self.instances.get(id)).cloned() else {
                return ErrorCode::UnknownMemberId;
            };
            self.remove_answered(turn, &member_id);
            return ErrorCode::None;
        }
        if self.pending_joins.remove(&*identity.member_id).is_some() {
            return ErrorCode::None;
        }
        match self.check_member(&identity.member_id, instance_id) {
            Ok(()) => {
                self.remove_answered(turn, &identity.member_id);
                ErrorCode::None
            }
            Err(error) => error,
        }
    }

    /// Removes a member and tells it so if it waits.
    fn remove_answered(&mut self, turn: &mut Turn<'_, '_>, member_id: &str) {
        let Some(member) = self.remove(member_id) else { return };
        if let Some(ticket) = member.joining {
            refuse_join(turn, ticket, "", ErrorCode::UnknownMemberId);
        }
        if let Some(ticket) = member.syncing {
            refuse_sync(turn, ticket, ErrorCode::UnknownMemberId);
        }
    }

    fn remove(&mut self, member_id: &str) -> Option<Member> {
        let member = self.members.remove(member_id)?;
        self.pending_syncs.remove(member_id);
        if let Some(instance_id) = &member.instance_id {
            self.instances.remove(instance_id);
        }
        if self.is_leader(member_id) {
            self.leader = self.members.keys().next().cloned();
        }
        Some(member)
    }

    /// Somebody is gone.
    fn go_on_without(&mut self, turn: &mut Turn<'_, '_>) {
        match self.state {
            State::Empty => {}
            State::PreparingRebalance => self.complete_join_if_ready(turn),
            State::CompletingRebalance | State::Stable => self.prepare_rebalance(turn),
        }
    }

    /// Does what is due.
    pub fn tick(&mut self, turn: &mut Turn<'_, '_>) {
        let now_ms = turn.context.now_ms;
        let pending = self.pending_joins.len();
        self.pending_joins.retain(|_, lapses| *lapses > now_ms);
        let is_lost = |member: &Member| member.deadline().is_some_and(|deadline| deadline <= now_ms);
        let lost: Vec<_> =
            self.members.iter().filter(|(_, member)| is_lost(member)).map(|(id, _)| id.clone()).collect();
        for member_id in &lost {
            tracing::info!(group = self.id, member = member_id, "a member was silent for too long and is removed");
            self.remove_answered(turn, member_id);
        }
        if !lost.is_empty() || self.pending_joins.len() < pending {
            self.go_on_without_lost(turn, !lost.is_empty());
        }
        if self.join_deadline.is_some_and(|deadline| deadline.at() <= now_ms) {
            self.on_join_deadline(turn);
        }
        if self.sync_deadline.is_some_and(|deadline| deadline <= now_ms) {
            self.on_sync_deadline(turn);
        }
    }

    /// An id that lapsed was no member: only joins may wait for it.
    fn go_on_without_lost(&mut self, turn: &mut Turn<'_, '_>, members_too: bool) {
        if members_too {
            self.go_on_without(turn);
        } else {
            self.complete_join_if_ready(turn);
        }
    }

    /// Members that joined and did not sync are out.
    fn on_sync_deadline(&mut self, turn: &mut Turn<'_, '_>) {
        self.sync_deadline = None;
        let late = std::mem::take(&mut self.pending_syncs);
        if late.is_empty() || !matches!(self.state, State::CompletingRebalance | State::Stable) {
            return;
        }
        late.iter().for_each(|member_id| self.remove_answered(turn, member_id));
        self.prepare_rebalance(turn);
    }
}

/// Offsets.
impl ClassicGroup {
    /// Whether a commit is by a member of this generation, or by somebody outside while there are no members.
    ///
    /// # Errors
    /// Kafka's answer otherwise.
    pub fn check_commit(
        &self,
        member_id: &str,
        instance_id: Option<&str>,
        generation: i32,
        is_transactional: bool,
    ) -> Check {
        if generation < 0 && self.state == State::Empty {
            return Ok(());
        }
        if generation >= 0 || !member_id.is_empty() || instance_id.is_some() {
            self.check_member(member_id, instance_id)?;
            if generation != self.generation && !planted!(FencedGenerationCommits) {
                return Err(ErrorCode::IllegalGeneration);
            }
        } else if !is_transactional && self.state != State::Empty {
            return Err(ErrorCode::UnknownMemberId);
        }
        // The member knows of the new generation already, but not yet of its assignment.
        if !is_transactional && self.state == State::CompletingRebalance {
            return Err(ErrorCode::RebalanceInProgress);
        }
        Ok(())
    }

    /// A member that commits lives.
    pub fn on_commit(&mut self, now_ms: u64, member_id: &str) {
        if matches!(self.state, State::Stable | State::PreparingRebalance) {
            self.touch(now_ms, member_id);
        }
    }

    /// Whether offsets may be deleted one by one.
    ///
    /// # Errors
    /// NON_EMPTY_GROUP if the members' subscriptions are not known here.
    pub fn check_offset_delete(&self) -> Check {
        match self.state {
            State::Empty => Ok(()),
            _ if self.protocol_type.as_deref() == Some(CONSUMER) => Ok(()),
            _ => Err(ErrorCode::NonEmptyGroup),
        }
    }

    /// Whether a member reads the topic, or may for all that is known.
    pub fn is_subscribed_to(&self, topic: &str) -> bool {
        match &self.subscribed {
            Some(topics) => topics.contains(topic),
            None => self.protocol_type.as_deref() == Some(CONSUMER),
        }
    }

    /// When the retention of an offset began that was committed then; `None` while it does not run.
    pub fn retention_start(&self, commit_timestamp: i64) -> Option<i64> {
        match (&self.protocol_type, self.state) {
            (None, _) => Some(commit_timestamp),
            (Some(_), State::Empty) => Some(self.state_timestamp.unwrap_or(commit_timestamp)),
            (Some(kind), State::Stable) if kind == CONSUMER && self.subscribed.is_some() => Some(commit_timestamp),
            _ => None,
        }
    }

    fn compute_subscribed(&self) -> Option<BTreeSet<String>> {
        if self.protocol_type.as_deref() != Some(CONSUMER) {
            return None;
        }
        if self.members.is_empty() {
            return Some(BTreeSet::new());
        }
        let protocol = self.protocol.as_deref()?;
        let mut topics = BTreeSet::new();
        for member in self.members.values() {
            topics.extend(subscribed_topics(&member.metadata(protocol))?);
        }
        Some(topics)
    }
}

/// What others are told, and the log.
impl ClassicGroup {
    /// The group for DescribeGroups.
    pub fn describe(&self) -> DescribedGroup<'static> {
        let is_stable = self.state == State::Stable;
        let protocol = self.protocol.as_deref().filter(|_| is_stable).unwrap_or_default();
        let member = |(id, member): (&String, &Member)| DescribedGroupMember {
            member_id: id.clone().into(),
            group_instance_id: member.instance_id.clone().map(Into::into),
            client_id: member.client.id.clone().into(),
            client_host: member.client.host.clone().into(),
            member_metadata: if is_stable { member.metadata(protocol).to_vec().into() } else { Vec::new().into() },
            member_assignment: if is_stable { member.assignment.to_vec().into() } else { Vec::new().into() },
        };
        DescribedGroup {
            group_id: self.id.clone().into(),
            group_state: self.state.name().into(),
            protocol_type: self.protocol_type.clone().unwrap_or_default().into(),
            protocol_data: protocol.to_owned().into(),
            members: self.members.iter().map(member).collect(),
            ..Default::default()
        }
    }

    /// Whether no record can hold the group as it is.
    fn is_too_large(&self, turn: &Turn<'_, '_>) -> bool {
        self.record_bytes() > turn.context.largest_record
    }

    /// Whether none can if the member joins again like this.
    pub(super) fn is_too_large_with(&self, turn: &Turn<'_, '_>, member: &str, request: &JoinGroupRequest<'_>) -> bool {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let joined = request.protocols.iter().find(|joined| *joined.name == *protocol);
        let before = self.members[member].metadata(protocol).len();
        let after = self.record_bytes() - before + joined.map_or(0, |joined| joined.metadata.len());
        after > turn.context.largest_record.max(self.record_bytes())
    }

    /// What the group's record takes, at most, in bytes.
    fn record_bytes(&self) -> usize {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let members = self.members.iter().map(|(id, member)| {
            let metadata = member.protocols.iter().find(|(name, _)| name == protocol);
            let texts = [id.len(), member.client.id.len(), member.client.host.len(), member.assignment.len()];
            texts.iter().sum::<usize>()
                + metadata.map_or(0, |(_, metadata)| metadata.len())
                + member.instance_id.as_ref().map_or(0, String::len)
                + MEMBER_BYTES
        });
        members.sum::<usize>() + self.id.len() + GROUP_BYTES
    }

    fn persist(&mut self, turn: &mut Turn<'_, '_>) {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let member = |(id, member): (&String, &Member)| MemberMetadata {
            member_id: id.clone().into(),
            group_instance_id: member.instance_id.clone().map(Into::into),
            client_id: member.client.id.clone().into(),
            client_host: member.client.host.clone().into(),
            rebalance_timeout: member.rebalance_timeout_ms,
            session_timeout: member.session_timeout_ms,
            subscription: member.metadata(protocol).to_vec().into(),
            assignment: member.assignment.to_vec().into(),
        };
        let value = GroupMetadataValue {
            protocol_type: self.protocol_type.clone().unwrap_or_default().into(),
            generation: self.generation,
            protocol: self.protocol.as_deref().map(Into::into),
            leader: self.leader.as_deref().map(Into::into),
            current_state_timestamp: self.state_timestamp.unwrap_or(-1),
            members: self.members.iter().map(member).collect(),
        };
        let value = encode_value(&value, VALUE_VERSION).expect("a group's strings came in requests");
        self.recorded = Some(value);
        turn.step.records.extend(self.record());
    }

    /// The group's record as it stands in the log, if one does.
    pub fn record(&self) -> Option<Record> {
        let value = self.recorded.clone()?;
        Some(Record { key: group_key(&self.id), value: Some(value) })
    }

    /// The record that ends the group.
    pub fn tombstone(&self) -> Record {
        Record { key: group_key(&self.id), value: None }
    }
}

/// The names of the protocols that all of these members support; `None`, which stands for all names, without members.
pub(super) fn common_protocols<'m>(members: impl Iterator<Item = &'m [(String, Bytes)]>) -> Option<BTreeSet<&'m str>> {
    let names = members.map(|protocols| protocols.iter().map(|(name, _)| name.as_str()).collect::<BTreeSet<&str>>());
    names.reduce(|mut common, other| {
        common.retain(|name| other.contains(name));
        common
    })
}

/// Whether a name is among [`common_protocols`].
pub(super) fn is_in(common: &Option<BTreeSet<&str>>, name: &str) -> bool {
    common.as_ref().is_none_or(|common| common.contains(name))
}

/// What a group's record takes besides its members, at most: protocol names and the leader are of few bytes as a rule.
const GROUP_BYTES: usize = 1_000;
/// What a member takes in it besides what it names, at most, in bytes.
const MEMBER_BYTES: usize = 40;

fn group_key(group: &str) -> Bytes {
    encode_key(&GroupMetadataKey { group: group.into() }).expect("a group's name came in a request")
}

/// The topics of a consumer's subscription; `None` if it cannot be read.
pub fn subscribed_topics(metadata: &[u8]) -> Option<Vec<String>> {
    let subscription = read_subscription(metadata)?;
    Some(subscription.topics.into_iter().map(Str::into_owned).collect())
}

/// A consumer's subscription; of a version to come what this one knows. `None` if it cannot be read.
pub fn read_subscription(metadata: &[u8]) -> Option<ConsumerProtocolSubscription<'_>> {
    if let Ok(subscription) = decode_value(metadata) {
        return Some(subscription);
    }
    let mut decoder = Decoder::new(metadata);
    let newest = *ConsumerProtocolSubscription::VERSIONS.end();
    let version = decoder.i16().ok().filter(|version| *version >= 0)?;
    ConsumerProtocolSubscription::decode(&mut decoder, version.min(newest)).ok()
}

fn refuse_join(turn: &mut Turn<'_, '_>, ticket: Ticket, member_id: &str, error: ErrorCode) {
    let member_id = member_id.to_owned().into();
    let response = JoinGroupResponse { error_code: error.code(), member_id, ..Default::default() };
    turn.step.reply(ticket, GroupReply::Join(response));
}

fn refuse_sync(turn: &mut Turn<'_, '_>, ticket: Ticket, error: ErrorCode) {
    let response = SyncGroupResponse { error_code: error.code(), ..Default::default() };
    turn.step.reply(ticket, GroupReply::Sync(response));
}

pub(super) fn protocols_of(request: &JoinGroupRequest<'_>) -> Vec<(String, Bytes)> {
    let protocols = request.protocols.iter();
    protocols.map(|protocol| (protocol.name.to_string(), Bytes::copy_from_slice(&protocol.metadata))).collect()
}

/// Version 0 has no rebalance timeout; the session's stands for it.
pub(super) fn rebalance_timeout(request: &JoinGroupRequest<'_>) -> i32 {
    if request.rebalance_timeout_ms >= 0 { request.rebalance_timeout_ms } else { request.session_timeout_ms }
}

fn millis(timeout_ms: i32) -> u64 {
    u64::try_from(timeout_ms).unwrap_or(0)
}
