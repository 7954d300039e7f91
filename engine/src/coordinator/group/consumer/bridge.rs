//! Members of the classic protocol in a consumer group, and the way from either protocol to the other.
//!
//! A rolling upgrade of clients has both kinds for a while (KIP-848, "Upgrade"). To a classic member the
//! coordinator plays a group of one: it joins, is told its member epoch as its generation, syncs, and finds
//! its partitions; a heartbeat tells it to join again when it has a step to make.

use std::collections::BTreeSet;

use super::reconcile::is_within;
use super::records::{Change, assignment};
use super::{
    Assignment, ClassicMetadata, ConsumerGroup, Current, Failure, Member, MemberState, Metadata, Place, Wish, fail,
    fenced_instance, millis, unknown_instance, unknown_member,
};
use crate::coordinator::group::classic::{self, CONSUMER, ClassicGroup, protocols_of, read_subscription};
use crate::coordinator::group::{Client, GroupReply, Turn};
use crate::coordinator::{Ticket, Topics};
use crate::protocol::data::ConsumerProtocolAssignment;
use crate::protocol::data::consumer_protocol_assignment::TopicPartition;
use crate::protocol::messages::heartbeat::HeartbeatRequest;
use crate::protocol::messages::join_group::{JoinGroupRequest, JoinGroupResponse};
use crate::protocol::messages::leave_group::MemberIdentity;
use crate::protocol::messages::sync_group::{SyncGroupRequest, SyncGroupResponse};
use crate::protocol::value::{decode_value, encode_value};
use crate::protocol::{Decoder, ErrorCode, Message, Uuid};

impl ConsumerGroup {
    /// A member of the classic protocol joins.
    ///
    /// # Errors
    /// Kafka's error; the group is then as it was.
    pub fn join(
        &mut self,
        turn: &mut Turn<'_, '_>,
        ticket: Ticket,
        request: &JoinGroupRequest<'_>,
        version: i16,
        client: &Client,
    ) -> Result<(), Failure> {
        let instance_id = request.group_instance_id.as_deref();
        let asked_id = &*request.member_id;
        if self.members.len() >= turn.config.consumer.max_size && !self.members.contains_key(asked_id) {
            return fail(ErrorCode::GroupMaxSizeReached, "The consumer group has reached its maximum capacity.");
        }
        let subscription = match request.protocols.first() {
            Some(first) if self.supports(request) => read_subscription(&first.metadata),
            _ => None,
        };
        let Some(subscription) = subscription else {
            return fail(ErrorCode::InconsistentGroupProtocol, "The protocols are not those of the group.");
        };
        let new_id = format!("{}-{}", instance_id.unwrap_or(&client.id), turn.context.random_id());
        if asked_id.is_empty() && instance_id.is_none() && version >= classic::NEEDS_KNOWN_MEMBER {
            let error_code = ErrorCode::MemberIdRequired.code();
            let response = JoinGroupResponse { error_code, member_id: new_id.into(), ..Default::default() };
            turn.step.reply(ticket, GroupReply::Join(response));
            return Ok(());
        }
        let id = if asked_id.is_empty() { new_id.as_str() } else { asked_id };
        let place = self.place_classic(id, asked_id.is_empty(), instance_id)?;
        let owned = named_partitions(
            subscription.owned_partitions.iter().map(|topic| (&*topic.topic, topic.partitions.clone())),
            turn.context.topics,
        );
        let update = |before: &Metadata| Metadata {
            client: client.clone(),
            rack_id: subscription.rack_id.as_deref().map(str::to_owned).or(before.rack_id.clone()),
            rebalance_timeout_ms: classic::rebalance_timeout(request),
            subscribed: subscription.topics.iter().map(|topic| topic.to_string()).collect(),
            regex: None,
            classic: Some(ClassicMetadata {
                session_timeout_ms: request.session_timeout_ms,
                protocols: protocols_of(request),
            }),
            ..before.clone()
        };
        let wish = Wish { member_id: id, instance_id, update: &update, owned: Some(&owned), visible: None };
        self.follow(turn, &wish, place);
        let now_ms = turn.context.now_ms;
        let member = self.members.get_mut(id).expect("the member is there now");
        member.session_deadline = Some(now_ms + millis(request.session_timeout_ms));
        member.rebalance_deadline = None;
        member.sync_deadline = Some(now_ms + millis(classic::rebalance_timeout(request)));
        let response = JoinGroupResponse {
            generation_id: member.current.epoch,
            protocol_type: Some(CONSUMER.into()),
            protocol_name: Some(request.protocols[0].name.to_string().into()),
            member_id: id.to_owned().into(),
            ..Default::default()
        };
        turn.step.reply(ticket, GroupReply::Join(response));
        Ok(())
    }

    /// Whether the classic members have a protocol in common with the one that joins.
    fn supports(&self, request: &JoinGroupRequest<'_>) -> bool {
        let classic = self.members.values().filter_map(|member| member.metadata.classic.as_ref());
        let of_all = classic::common_protocols(classic.map(|member| &member.protocols[..]));
        request.protocol_type == CONSUMER
            && request.protocols.iter().any(|protocol| classic::is_in(&of_all, &protocol.name))
    }

    fn place_classic(&self, id: &str, is_unknown: bool, instance_id: Option<&str>) -> Result<Place, Failure> {
        let known = instance_id.and_then(|instance_id| self.instances.get(instance_id));
        match (instance_id, known) {
            (Some(_), Some(known)) if is_unknown => Ok(Place::Returns(known.clone())),
            (Some(instance_id), Some(known)) if known != id => fenced_instance(id, instance_id, known),
            (Some(instance_id), None) if !is_unknown => unknown_instance(instance_id),
            _ if self.members.contains_key(id) => Ok(Place::Known),
            _ => Ok(Place::New),
        }
    }

    /// The classic member of that name.
    fn classic_member(&self, member_id: &str, instance_id: Option<&str>) -> Result<&Member, Failure> {
        match self.member_named(member_id, instance_id)? {
            member if member.metadata.classic.is_some() => Ok(member),
            _ => unknown_member(member_id, &self.id),
        }
    }

    /// The member of that name.
    fn member_named(&self, member_id: &str, instance_id: Option<&str>) -> Result<&Member, Failure> {
        if let Some(instance_id) = instance_id {
            match self.instances.get(instance_id) {
                None => return unknown_instance(instance_id),
                Some(known) if known != member_id => return fenced_instance(member_id, instance_id, known),
                Some(_) => {}
            }
        }
        match self.members.get(member_id) {
            Some(member) => Ok(member),
            None => unknown_member(member_id, &self.id),
        }
    }

    /// A classic member asks for its partitions.
    pub fn sync(&mut self, turn: &mut Turn<'_, '_>, ticket: Ticket, request: &SyncGroupRequest<'_>) {
        let response = self
            .synced(turn, request)
            .unwrap_or_else(|Failure(error, _)| SyncGroupResponse { error_code: error.code(), ..Default::default() });
        turn.step.reply(ticket, GroupReply::Sync(response));
    }

    fn synced(
        &mut self,
        turn: &mut Turn<'_, '_>,
        request: &SyncGroupRequest<'_>,
    ) -> Result<SyncGroupResponse<'static>, Failure> {
        let member = self.classic_member(&request.member_id, request.group_instance_id.as_deref())?;
        check_generation(member, request.generation_id)?;
        let classic = member.metadata.classic.clone().expect("it is a classic member");
        let (name, metadata) = classic.protocols.first().expect("a classic member has protocols");
        let is_other = |asked: Option<&str>, own: &str| asked.is_some_and(|asked| asked != own);
        if is_other(request.protocol_type.as_deref(), CONSUMER) || is_other(request.protocol_name.as_deref(), name) {
            return fail(ErrorCode::InconsistentGroupProtocol, "");
        }
        if self.epoch > member.current.epoch && member.current.state != MemberState::UnrevokedPartitions {
            self.expect_join(turn, &request.member_id);
            return fail(ErrorCode::RebalanceInProgress, "");
        }
        let assignment = assignment_bytes(&member.current.assigned, metadata, turn.context.topics);
        let member = self.members.get_mut(&*request.member_id).expect("the member was found");
        member.sync_deadline = None;
        member.session_deadline = Some(turn.context.now_ms + millis(classic.session_timeout_ms));
        Ok(SyncGroupResponse {
            protocol_type: Some(CONSUMER.into()),
            protocol_name: Some(name.clone().into()),
            assignment: assignment.into(),
            ..Default::default()
        })
    }

    /// A classic member lives; it is told to join again if it has a step to make.
    pub fn classic_heartbeat(&mut self, turn: &mut Turn<'_, '_>, request: &HeartbeatRequest<'_>) -> ErrorCode {
        let member_id = &*request.member_id;
        let checked = self
            .classic_member(member_id, request.group_instance_id.as_deref())
            .and_then(|member| check_generation(member, request.generation_id).map(|()| member));
        let must_join = match checked {
            Err(Failure(error, _)) => return error,
            Ok(member) => {
                let current = &member.current;
                let waits = || self.waits_for_others(member_id, current);
                current.epoch < self.epoch
                    || current.state == MemberState::UnrevokedPartitions
                    || (current.state == MemberState::UnreleasedPartitions && !waits())
            }
        };
        let of_group = self.session_timeout_ms(turn);
        let member = self.members.get_mut(member_id).expect("the member was found");
        let timeout_ms = super::session_timeout_ms(&member.metadata, of_group);
        member.session_deadline = Some(turn.context.now_ms + timeout_ms);
        if must_join {
            self.expect_join(turn, member_id);
            return ErrorCode::RebalanceInProgress;
        }
        ErrorCode::None
    }

    /// Whether nothing that the member lacks is free.
    fn waits_for_others(&self, member_id: &str, current: &Current) -> bool {
        let lacks = |topic: &Uuid, partition: &i32| {
            !current.assigned.get(topic).is_some_and(|assigned| assigned.contains(partition))
        };
        let is_held =
            |topic: &Uuid, partition: &i32| self.owners.get(topic).is_some_and(|owners| owners.contains_key(partition));
        let target = self.targets.get(member_id).into_iter().flatten();
        target
            .flat_map(|(topic, partitions)| partitions.iter().map(move |partition| (topic, partition)))
            .filter(|(topic, partition)| lacks(topic, partition))
            .all(|(topic, partition)| is_held(topic, partition))
    }

    /// It has been told to join again, and has its rebalance timeout for that.
    fn expect_join(&mut self, turn: &Turn<'_, '_>, member_id: &str) {
        let member = self.members.get_mut(member_id).expect("the member was found");
        let by = turn.context.now_ms + millis(member.metadata.rebalance_timeout_ms);
        member.rebalance_deadline.get_or_insert(by);
    }

    /// A classic member leaves, or an administrator removes any member.
    pub fn leave_classic(&mut self, turn: &mut Turn<'_, '_>, identity: &MemberIdentity<'_>) -> ErrorCode {
        let instance_id = identity.group_instance_id.as_deref();
        let id = if identity.member_id.is_empty() {
            instance_id.and_then(|id| self.instances.get(id)).cloned().ok_or(ErrorCode::UnknownMemberId)
        } else {
            let found = self.member_named(&identity.member_id, instance_id);
            found.map(|_| identity.member_id.to_string()).map_err(|Failure(error, _)| error)
        };
        match id {
            Ok(id) => {
                self.remove(turn, &id);
                ErrorCode::None
            }
            Err(error) => error,
        }
    }

    /// Whether the last member of the consumer protocol has left, and those who are left are of the classic one.
    pub fn may_become_classic(&self, turn: &Turn<'_, '_>) -> bool {
        turn.config.consumer.may_downgrade
            && !self.members.is_empty()
            && self.members.len() <= turn.config.max_size
            && self.members.values().all(|member| member.metadata.classic.is_some())
    }

    /// The classic group that this one becomes. Its members join again at once, unless each `has_its_share`.
    pub fn into_classic(mut self, turn: &mut Turn<'_, '_>, has_its_share: bool) -> ClassicGroup {
        let is_stable = has_its_share
            && self.epoch == self.assignment_epoch
            && self
                .members
                .values()
                .all(|member| member.current.state == MemberState::Stable && member.current.epoch == self.epoch);
        let topics = turn.context.topics;
        let members = self.members.iter().filter_map(|(id, member)| {
            let classic = member.metadata.classic.as_ref()?;
            let metadata = classic.protocols.first().map(|(_, metadata)| metadata.clone()).unwrap_or_default();
            let member = classic::Member::known(
                member.metadata.instance_id.clone(),
                member.metadata.client.clone(),
                (member.metadata.rebalance_timeout_ms, classic.session_timeout_ms),
                classic.protocols.clone(),
                assignment_bytes(&member.current.assigned, &metadata, topics).into(),
                turn.context.now_ms,
            );
            Some((id.clone(), member))
        });
        let group = ClassicGroup::of_members(&self.id, self.epoch, members.collect(), turn.context.wall_clock_ms);
        for id in self.members.keys().cloned().collect::<Vec<_>>() {
            self.change(turn, Change::CurrentEnd(id.clone()));
            self.change(turn, Change::TargetEnd(id.clone()));
            self.change(turn, Change::MemberEnd(id));
        }
        self.end(turn);
        group.begin(turn, is_stable)
    }

    /// The consumer group that a classic one of consumers becomes; its members stay, with what they have.
    ///
    /// # Errors
    /// If it may not become one; it is then as it was.
    pub fn from_classic(turn: &mut Turn<'_, '_>, classic: &mut ClassicGroup) -> Result<ConsumerGroup, Failure> {
        check_upgrade(turn, classic)?;
        classic.fail_waiting(turn, ErrorCode::RebalanceInProgress);
        turn.step.records.push(classic.tombstone());
        let mut group = ConsumerGroup::new(classic.id());
        let epoch = classic.generation();
        let mut given = Assignment::new();
        for (id, member) in classic.members() {
            let topics = member.protocols.first().and_then(|(_, metadata)| classic::subscribed_topics(metadata));
            let metadata = Metadata {
                instance_id: member.instance_id.clone(),
                client: member.client.clone(),
                rebalance_timeout_ms: member.rebalance_timeout_ms,
                subscribed: topics.unwrap_or_default().into_iter().collect(),
                classic: Some(ClassicMetadata {
                    session_timeout_ms: member.session_timeout_ms,
                    protocols: member.protocols.clone(),
                }),
                ..Default::default()
            };
            // What clients assigned twice by mistake has one holder from now on.
            let assigned = without(read_assignment(&member.assignment, turn.context.topics), &given);
            for (topic, partitions) in &assigned {
                given.entry(*topic).or_default().extend(partitions);
            }
            group.change(turn, Change::Member(id.clone(), metadata));
            group.change(turn, Change::Target(id.clone(), assigned.clone()));
            let current = Current { epoch, previous_epoch: epoch, assigned, ..Default::default() };
            group.change(turn, Change::Current(id.clone(), current));
            let deadline = turn.context.now_ms + millis(member.session_timeout_ms);
            group.members.get_mut(id).expect("the member was made").session_deadline = Some(deadline);
        }
        let hash = group.compute_hash(turn.context.topics);
        group.change(turn, Change::Group { epoch, hash });
        group.change(turn, Change::TargetEpoch(epoch));
        Ok(group)
    }
}

/// Whether a classic group may become a consumer group (`GroupMetadataManager.validateOnlineUpgrade`).
fn check_upgrade(turn: &Turn<'_, '_>, classic: &ClassicGroup) -> Result<(), Failure> {
    let config = &turn.config.consumer;
    let assignments = classic.members().values().map(|member| &member.assignment).filter(|bytes| !bytes.is_empty());
    let assignments: Vec<_> = assignments.map(|bytes| parse_assignment(bytes)).collect();
    let has_user_data = |assignment: &ConsumerProtocolAssignment<'_>| {
        assignment.user_data.as_ref().is_some_and(|data| !data.is_empty())
    };
    let why = if !config.may_upgrade {
        "online upgrade is disabled."
    } else if classic.protocol_type() != Some(CONSUMER) {
        "the group does not use the consumer embedded protocol."
    } else if classic.members().len() > config.max_size {
        "the group size exceeds the consumer group maximum size."
    } else if assignments.iter().any(Option::is_none) {
        "the embedded consumer protocol is malformed."
    } else if assignments.iter().flatten().any(has_user_data) {
        "an unsupported custom assignor is in use. Please refer to the documentation or switch to a default assignor \
         before re-attempting the upgrade."
    } else {
        return Ok(());
    };
    let why = format!("Cannot upgrade classic group {} to consumer group because {why}", classic.id());
    fail(ErrorCode::GroupIdNotFound, why)
}

fn check_generation(member: &Member, generation: i32) -> Result<(), Failure> {
    if member.current.epoch == generation { Ok(()) } else { fail(ErrorCode::IllegalGeneration, "") }
}

/// Partitions that are named by topic; those of topics that are not there are left out.
fn named_partitions<'n>(named: impl Iterator<Item = (&'n str, Vec<i32>)>, topics: &Topics) -> Assignment {
    assignment(named.filter_map(|(name, partitions)| Some((topics.get(name)?.id, partitions))))
}

fn without(mut assigned: Assignment, given: &Assignment) -> Assignment {
    if is_within(&assigned, &Assignment::new()) {
        return assigned;
    }
    assigned.retain(|topic, partitions| {
        partitions.retain(|partition| !given.get(topic).is_some_and(|given| given.contains(partition)));
        !partitions.is_empty()
    });
    assigned
}

/// An assignment as a leader wrote it; nothing if it cannot be read.
fn read_assignment(bytes: &[u8], topics: &Topics) -> Assignment {
    let Some(assignment) = parse_assignment(bytes) else { return Assignment::new() };
    named_partitions(
        assignment.assigned_partitions.iter().map(|topic| (&*topic.topic, topic.partitions.clone())),
        topics,
    )
}

/// The same, under the topics' names; of a version to come what this one knows.
fn parse_assignment(bytes: &[u8]) -> Option<ConsumerProtocolAssignment<'_>> {
    if let Ok(assignment) = decode_value(bytes) {
        return Some(assignment);
    }
    let mut decoder = Decoder::new(bytes);
    let newest = *ConsumerProtocolAssignment::VERSIONS.end();
    let version = decoder.i16().ok().filter(|version| *version >= 0)?;
    ConsumerProtocolAssignment::decode(&mut decoder, version.min(newest)).ok()
}

/// An assignment as a leader would write it, in the version of the member's subscription.
fn assignment_bytes(assigned: &Assignment, metadata: &[u8], topics: &Topics) -> Vec<u8> {
    let newest = *ConsumerProtocolAssignment::VERSIONS.end();
    let version = Decoder::new(metadata).i16().unwrap_or(0).clamp(0, newest);
    let topic = |(id, partitions): (&Uuid, &BTreeSet<i32>)| {
        let topic = topics.name(*id)?.to_owned().into();
        Some(TopicPartition { topic, partitions: partitions.iter().copied().collect() })
    };
    let assignment = ConsumerProtocolAssignment {
        assigned_partitions: assigned.iter().filter_map(topic).collect(),
        user_data: None,
    };
    encode_value(&assignment, version).expect("topics have short names").to_vec()
}
