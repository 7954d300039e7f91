//! A share group (KIP-932): members read the same partitions together.
//!
//! Like a [consumer group](super::consumer), but nobody has to give anything up: a partition may be of several
//! members, so that a member is at its target at once. What a partition's members share is kept by the share
//! coordinator, which must know of a partition before any member gets it: partitions are first *initializing*, and
//! *initialized* when whoever drives this machine has said that it knows ([`ShareGroup::initialized`]). Invariant:
//! only initialized partitions are in a target. All state but the deadlines is made of [`records`].

pub mod assignor;
pub mod offsets;
pub mod records;

use std::collections::{BTreeMap, BTreeSet};

use super::assignor::Assignment;
use super::consumer::Failure;
use super::{Client, Turn};
use crate::coordinator::Topics;
use crate::protocol::messages::share_group_describe::{
    Assignment as DescribedAssignment, DescribedGroup, Member as DescribedMember, TopicPartitions,
};
use crate::protocol::messages::share_group_heartbeat::{
    Assignment as HeartbeatAssignment, ShareGroupHeartbeatRequest, ShareGroupHeartbeatResponse,
    TopicPartitions as HeartbeatPartitions,
};
use crate::protocol::{ErrorCode, Uuid};
use offsets::{Initialization, StatePartitions};
use records::Change;

/// The epoch of a member that leaves.
const LEAVES: i32 = -1;

/// A member.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Member {
    /// Who it is and what it wants.
    pub metadata: Metadata,
    /// What it has.
    pub current: Current,
    session_deadline: Option<u64>,
}

/// Who a member is and what it wants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metadata {
    /// Where it runs.
    pub rack_id: Option<String>,
    /// Its client.
    pub client: Client,
    /// The topics that it reads.
    pub subscribed: BTreeSet<String>,
}

/// What a member has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Current {
    /// The epoch that it has reached.
    pub epoch: i32,
    /// The one before, which it may still be in if an answer was lost.
    pub previous_epoch: i32,
    /// What it reads.
    pub assigned: Assignment,
}

/// A group.
#[derive(Debug, Clone, Default)]
pub struct ShareGroup {
    id: String,
    epoch: i32,
    hash: i64,
    members: BTreeMap<String, Member>,
    assignment_epoch: i32,
    targets: BTreeMap<String, Assignment>,
    /// What the share coordinator knows of; `None` if nothing was ever recorded.
    partitions: Option<StatePartitions>,
    topics_changed: bool,
}

impl ShareGroup {
    /// A group without members.
    pub fn new(id: &str) -> ShareGroup {
        ShareGroup { id: id.to_owned(), topics_changed: true, ..Default::default() }
    }

    fn change(&mut self, turn: &mut Turn<'_, '_>, change: Change) {
        turn.step.records.push(change.record(&self.id));
        self.apply(change);
    }

    /// Whether it has no members.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether it has never had any.
    pub fn is_blank(&self) -> bool {
        self.members.is_empty() && self.epoch == 0
    }

    /// Kafka's name of its state.
    pub fn state(&self) -> &'static str {
        if self.members.is_empty() { "Empty" } else { "Stable" }
    }

    /// When it wants [`ShareGroup::tick`].
    pub fn deadline(&self) -> Option<u64> {
        self.members.values().filter_map(|member| member.session_deadline).min()
    }

    /// When the member does.
    pub fn deadline_of(&self, member_id: &str) -> Option<u64> {
        self.members.get(member_id)?.session_deadline
    }

    /// Whether a member reads the topic.
    pub fn is_subscribed_to(&self, topic: &str) -> bool {
        self.members.values().any(|member| member.metadata.subscribed.contains(topic))
    }

    /// Its members' sessions begin now.
    pub fn loaded(&mut self, turn: &mut Turn<'_, '_>) {
        let deadline = turn.context.now_ms + self.session_timeout_ms(turn);
        for member in self.members.values_mut() {
            member.session_deadline = Some(deadline);
        }
    }

    fn session_timeout_ms(&self, turn: &Turn<'_, '_>) -> u64 {
        let own = turn.context.topics.group_number(&self.id, "share.session.timeout.ms");
        own.unwrap_or(turn.config.share.session_timeout_ms)
    }

    /// Topics that its members read.
    fn subscribed(&self) -> BTreeSet<&str> {
        self.members.values().flat_map(|member| &member.metadata.subscribed).map(String::as_str).collect()
    }

    fn compute_hash(&self, topics: &Topics) -> i64 {
        super::consumer::hash_of(self.subscribed().into_iter(), topics)
    }

    /// Topics are other ones than before: what is gone is not kept, the rest is looked at with the next heartbeat.
    pub fn topics_changed(&mut self, turn: &mut Turn<'_, '_>) {
        self.topics_changed = true;
        let topics = turn.context.topics;
        if let Some(left) = self.partitions.as_ref().and_then(|known| known.without_missing(topics)) {
            self.change(turn, Change::Partitions(left));
        }
    }
}

/// Heartbeats.
impl ShareGroup {
    /// A member says that it lives and what it wants; it is told what it reads. The second value is what the share
    /// coordinator is to be told.
    ///
    /// # Errors
    /// Kafka's error and why; the group is then as it was.
    pub fn heartbeat(
        &mut self,
        turn: &mut Turn<'_, '_>,
        request: &ShareGroupHeartbeatRequest<'_>,
        client: &Client,
    ) -> Result<(ShareGroupHeartbeatResponse<'static>, Option<Initialization>), Failure> {
        let (id, epoch) = (&*request.member_id, request.member_epoch);
        if epoch == LEAVES {
            return self.leave(turn, id).map(|response| (response, None));
        }
        self.check(turn, id, epoch)?;
        let is_new = !self.members.contains_key(id);
        let before = self.members.get(id).cloned().unwrap_or_default();
        let after = updated(&before.metadata, request, client);
        let wants_other = is_new || after.subscribed != before.metadata.subscribed;
        let awaits = !is_new && self.awaits_assignment(turn.context.topics);
        if is_new || after != before.metadata {
            self.change(turn, Change::Member(id.to_owned(), after));
        }
        self.follow(turn, wants_other || awaits);
        self.reconcile(turn, id);
        let deadline = turn.context.now_ms + self.session_timeout_ms(turn);
        let interval_ms = turn.context.topics.group_number(&self.id, "share.heartbeat.interval.ms");
        let member = self.members.get_mut(id).expect("the member is there now");
        member.session_deadline = Some(deadline);
        let told = epoch == 0
            || request.subscribed_topic_names.is_some()
            || member.current.assigned != before.current.assigned;
        let response = ShareGroupHeartbeatResponse {
            member_id: Some(id.to_owned().into()),
            member_epoch: member.current.epoch,
            heartbeat_interval_ms: interval_ms.unwrap_or(turn.config.share.heartbeat_interval_ms),
            assignment: told.then(|| heartbeat_assignment(&member.current.assigned)),
            ..Default::default()
        };
        Ok((response, self.initialize_new(turn)))
    }

    fn check(&self, turn: &Turn<'_, '_>, id: &str, epoch: i32) -> Result<(), Failure> {
        let most = turn.config.share.max_size;
        let Some(member) = self.members.get(id) else {
            if self.members.len() >= most {
                let why = format!("The share group has reached its maximum capacity of {most} members.");
                return Err(Failure(ErrorCode::GroupMaxSizeReached, why));
            }
            return match epoch {
                0 => Ok(()),
                _ => Err(unknown_member(id, &self.id)),
            };
        };
        let Current { epoch: own, previous_epoch: previous, .. } = member.current;
        let fenced = |why: String| Err(Failure(ErrorCode::FencedMemberEpoch, why));
        if epoch > own {
            return fenced(format!(
                "The share group member has a greater member epoch ({epoch}) than the one known by the group \
                 coordinator ({own}). The member must abandon all its partitions and rejoin."
            ));
        }
        if epoch < own && epoch != previous {
            return fenced(format!(
                "The share group member has a smaller member epoch ({epoch}) than the one known by the group \
                 coordinator ({own}), and it does not match the previous member epoch ({previous}). The member \
                 must abandon all its partitions and rejoin."
            ));
        }
        Ok(())
    }

    /// Whether partitions that can be read are in nobody's target, or some that cannot are.
    fn awaits_assignment(&self, topics: &Topics) -> bool {
        let Some(known) = &self.partitions else { return false };
        let mut assigned = Assignment::new();
        for (topic, partitions) in self.targets.values().flatten() {
            assigned.entry(*topic).or_default().extend(partitions);
        }
        known.readable(&self.subscribed(), topics) != assigned
    }

    /// A new group epoch if something has changed, and its targets.
    fn follow(&mut self, turn: &mut Turn<'_, '_>, changed: bool) {
        if changed || self.topics_changed {
            self.topics_changed = false;
            let hash = self.compute_hash(turn.context.topics);
            if changed || hash != self.hash {
                self.change(turn, Change::Group { epoch: self.epoch + 1, hash });
            }
        }
        if self.epoch > self.assignment_epoch {
            self.assign(turn);
        }
    }

    fn assign(&mut self, turn: &mut Turn<'_, '_>) {
        let readable = |names: &BTreeSet<&str>| match &self.partitions {
            Some(known) => known.readable(names, turn.context.topics),
            None => Assignment::new(),
        };
        let wanted = self.members.iter().map(|(id, member)| {
            let names = member.metadata.subscribed.iter().map(String::as_str).collect();
            (id.clone(), readable(&names))
        });
        let wanted: BTreeMap<String, Assignment> = wanted.collect();
        let targets = assignor::assign(&wanted, &self.targets);
        for (id, target) in targets {
            if self.targets.get(&id) != Some(&target) {
                self.change(turn, Change::Target(id, target));
            }
        }
        self.change(turn, Change::TargetEpoch(self.epoch));
    }

    fn reconcile(&mut self, turn: &mut Turn<'_, '_>, id: &str) {
        let current = &self.members[id].current;
        if current.epoch == self.assignment_epoch {
            return;
        }
        let next = Current {
            epoch: self.assignment_epoch,
            previous_epoch: current.epoch,
            assigned: self.targets.get(id).cloned().unwrap_or_default(),
        };
        self.change(turn, Change::Current(id.to_owned(), next));
    }

    fn leave(&mut self, turn: &mut Turn<'_, '_>, id: &str) -> Result<ShareGroupHeartbeatResponse<'static>, Failure> {
        if !self.members.contains_key(id) {
            return Err(unknown_member(id, &self.id));
        }
        self.remove(turn, id);
        let member_id = Some(id.to_owned().into());
        Ok(ShareGroupHeartbeatResponse { member_id, member_epoch: LEAVES, ..Default::default() })
    }

    fn remove(&mut self, turn: &mut Turn<'_, '_>, id: &str) {
        self.change(turn, Change::CurrentEnd(id.to_owned()));
        self.change(turn, Change::TargetEnd(id.to_owned()));
        self.change(turn, Change::MemberEnd(id.to_owned()));
        let hash = self.compute_hash(turn.context.topics);
        self.change(turn, Change::Group { epoch: self.epoch + 1, hash });
    }

    /// Members that were silent for too long are out.
    pub fn tick(&mut self, turn: &mut Turn<'_, '_>) {
        let now_ms = turn.context.now_ms;
        let is_late = |member: &Member| member.session_deadline.is_some_and(|deadline| deadline <= now_ms);
        let late: Vec<String> =
            self.members.iter().filter(|(_, member)| is_late(member)).map(|(id, _)| id.clone()).collect();
        for id in late {
            tracing::info!(group = self.id, member = id, "a member is late and is removed");
            self.remove(turn, &id);
        }
    }

    /// The records that end a group without members.
    pub fn end(&mut self, turn: &mut Turn<'_, '_>) {
        for id in self.targets.keys().cloned().collect::<Vec<_>>() {
            self.change(turn, Change::TargetEnd(id));
        }
        self.change(turn, Change::TargetEpochEnd);
        self.change(turn, Change::PartitionsEnd);
        self.change(turn, Change::GroupEnd);
    }

    /// The group for ShareGroupDescribe.
    pub fn describe(&self, topics: &Topics) -> DescribedGroup<'static> {
        let described = |assignment: &Assignment| {
            let topic = |(id, partitions): (&Uuid, &BTreeSet<i32>)| {
                let topic_name = topics.name(*id)?.to_owned().into();
                Some(TopicPartitions { topic_id: *id, topic_name, partitions: partitions.iter().copied().collect() })
            };
            DescribedAssignment { topic_partitions: assignment.iter().filter_map(topic).collect() }
        };
        let member = |(id, member): (&String, &Member)| DescribedMember {
            member_id: id.clone().into(),
            rack_id: member.metadata.rack_id.clone().map(Into::into),
            member_epoch: member.current.epoch,
            client_id: member.metadata.client.id.clone().into(),
            client_host: member.metadata.client.host.clone().into(),
            subscribed_topic_names: member.metadata.subscribed.iter().map(|name| name.clone().into()).collect(),
            assignment: described(&member.current.assigned),
        };
        DescribedGroup {
            group_id: self.id.clone().into(),
            group_state: self.state().into(),
            group_epoch: self.epoch,
            assignment_epoch: self.assignment_epoch,
            assignor_name: assignor::NAME.into(),
            members: self.members.iter().map(member).collect(),
            ..Default::default()
        }
    }
}

/// What can be said against a heartbeat without its group.
///
/// # Errors
/// INVALID_REQUEST, and why.
pub fn check_heartbeat(request: &ShareGroupHeartbeatRequest<'_>) -> Result<(), Failure> {
    let invalid = |why: &str| Err(Failure(ErrorCode::InvalidRequest, why.to_owned()));
    if request.member_id.trim().is_empty() {
        return invalid("MemberId can't be empty.");
    }
    if request.group_id.trim().is_empty() {
        return invalid("GroupId can't be empty.");
    }
    if request.rack_id.as_deref().is_some_and(|rack| rack.trim().is_empty()) {
        return invalid("RackId can't be empty.");
    }
    match request.member_epoch {
        0 if request.subscribed_topic_names.as_ref().is_none_or(Vec::is_empty) => {
            invalid("SubscribedTopicNames must be set in first request.")
        }
        LEAVES.. => Ok(()),
        _ => invalid("MemberEpoch is invalid."),
    }
}

fn updated(before: &Metadata, request: &ShareGroupHeartbeatRequest<'_>, client: &Client) -> Metadata {
    let rack_id = request.rack_id.as_deref().map(str::to_owned).or_else(|| before.rack_id.clone());
    let subscribed = match &request.subscribed_topic_names {
        Some(names) => names.iter().map(|name| name.to_string()).collect(),
        None => before.subscribed.clone(),
    };
    Metadata { rack_id, client: client.clone(), subscribed }
}

fn unknown_member(member_id: &str, group: &str) -> Failure {
    Failure(ErrorCode::UnknownMemberId, format!("Member {member_id} is not a member of group {group}."))
}

fn heartbeat_assignment(assigned: &Assignment) -> HeartbeatAssignment {
    let topic = |(topic_id, partitions): (&Uuid, &BTreeSet<i32>)| HeartbeatPartitions {
        topic_id: *topic_id,
        partitions: partitions.iter().copied().collect(),
    };
    HeartbeatAssignment { topic_partitions: assigned.iter().map(topic).collect() }
}

impl ShareGroup {
    /// Makes the change.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Group { epoch, hash } => (self.epoch, self.hash) = (epoch, hash),
            // The group itself is whoever's keeps it.
            Change::GroupEnd => {}
            Change::Member(id, metadata) => self.members.entry(id).or_default().metadata = metadata,
            Change::MemberEnd(id) => drop(self.members.remove(&id)),
            Change::TargetEpoch(epoch) => self.assignment_epoch = epoch,
            Change::TargetEpochEnd => self.assignment_epoch = 0,
            Change::Target(id, target) => drop(self.targets.insert(id, target)),
            Change::TargetEnd(id) => drop(self.targets.remove(&id)),
            Change::Current(id, current) => {
                if let Some(member) = self.members.get_mut(&id) {
                    member.current = current;
                }
            }
            Change::CurrentEnd(id) => {
                if let Some(member) = self.members.get_mut(&id) {
                    member.current = Current::default();
                }
            }
            Change::Partitions(partitions) => self.partitions = Some(partitions),
            Change::PartitionsEnd => self.partitions = None,
        }
    }
}
