//! A group of the consumer protocol (KIP-848): the coordinator assigns, members heartbeat and follow.
//!
//! Members tell what they want; each change of that, of the members or of the topics is a new group epoch.
//! The first heartbeat after it computes the targets of that epoch; each member then goes its own way from
//! what it has to its target ([`reconcile`]), so that nobody stops for others. Invariant: at any time a
//! partition is held by one member at most, where what a member has yet to give up counts as held. All state
//! but the deadlines is made of [`records`]. [`bridge`] lets members of the classic protocol take part.

pub mod bridge;
pub mod expressions;
pub mod reconcile;
pub mod records;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::assignor::{Assignor, Subscriber};
use super::config::GroupConfig;
use super::{Client, Turn, Visible};
use crate::coordinator::Topics;
use crate::protocol::messages::consumer_group_describe::{
    Assignment as DescribedAssignment, DescribedGroup, Member as DescribedMember, TopicPartitions,
};
use crate::protocol::messages::consumer_group_heartbeat::{
    Assignment as HeartbeatAssignment, ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse,
    ResponseTopicPartitions,
};
use crate::protocol::{ErrorCode, Uuid};
use expressions::{Expression, check_regex};
use records::{Change, assignment};

pub use super::assignor::Assignment;

/// The epoch of a member that leaves, and of a static one that will come back.
const LEAVES: i32 = -1;
const LEAVES_FOR_NOW: i32 = -2;

/// Where a member stands; see [`reconcile`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MemberState {
    /// It has what it is to have in its epoch.
    #[default]
    Stable,
    /// It has yet to give partitions up.
    UnrevokedPartitions,
    /// Others have yet to give up what it is to have.
    UnreleasedPartitions,
}

impl MemberState {
    fn code(self) -> i8 {
        match self {
            MemberState::Stable => 0,
            MemberState::UnrevokedPartitions => 1,
            MemberState::UnreleasedPartitions => 2,
        }
    }

    /// A state that a later version may have counts as one from which everything is computed anew.
    fn from_code(code: i8) -> MemberState {
        match code {
            0 => MemberState::Stable,
            1 => MemberState::UnrevokedPartitions,
            _ => MemberState::UnreleasedPartitions,
        }
    }
}

/// Who a member is and what it wants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metadata {
    /// The instance that it is, if it is static.
    pub instance_id: Option<String>,
    /// Where it runs.
    pub rack_id: Option<String>,
    /// Its client.
    pub client: Client,
    /// How long it may take to give partitions up, in milliseconds.
    pub rebalance_timeout_ms: i32,
    /// The topics that it names.
    pub subscribed: BTreeSet<String>,
    /// The expression that topics of its choice match.
    pub regex: Option<String>,
    /// The assignor that it votes for.
    pub assignor: Option<String>,
    /// What it said when it joined by the classic protocol, if it did.
    pub classic: Option<ClassicMetadata>,
}

/// What a member of the classic protocol said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClassicMetadata {
    /// How long it may be silent, in milliseconds.
    pub session_timeout_ms: i32,
    /// Its protocols, each with its metadata.
    pub protocols: Vec<(String, Bytes)>,
}

/// What a member has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Current {
    /// The epoch that it has reached.
    pub epoch: i32,
    /// The one before, which it may still be in if an answer was lost.
    pub previous_epoch: i32,
    /// Where it stands.
    pub state: MemberState,
    /// What it may read.
    pub assigned: Assignment,
    /// What it has yet to give up.
    pub revoking: Assignment,
}

/// A member.
#[derive(Debug, Clone, Default)]
pub struct Member {
    /// Who it is and what it wants.
    pub metadata: Metadata,
    /// What it has.
    pub current: Current,
    session_deadline: Option<u64>,
    /// When it must have given up what it is asked to; or, of the classic protocol, have joined again.
    rebalance_deadline: Option<u64>,
    /// When it must have synced, of the classic protocol.
    sync_deadline: Option<u64>,
}

impl Member {
    fn deadline(&self) -> Option<u64> {
        [self.session_deadline, self.rebalance_deadline, self.sync_deadline].into_iter().flatten().min()
    }
}

/// Why a request is refused: the error, and a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure(pub ErrorCode, pub String);

/// The sentence for a member that no record can hold.
pub(super) const TOO_LARGE: &str = "The member's record would be larger than any that can be written.";
/// About what a member's record takes besides what it names, in bytes.
pub(super) const RECORD_BYTES: usize = 1_000;

fn fail<T>(error: ErrorCode, why: impl Into<String>) -> Result<T, Failure> {
    Err(Failure(error, why.into()))
}

/// A group.
#[derive(Debug, Clone, Default)]
pub struct ConsumerGroup {
    id: String,
    epoch: i32,
    hash: i64,
    members: BTreeMap<String, Member>,
    /// Member ids by instance id.
    instances: BTreeMap<String, String>,
    assignment_epoch: i32,
    targets: BTreeMap<String, Assignment>,
    /// Who has a partition, or has yet to give it up.
    owners: BTreeMap<Uuid, BTreeMap<i32, String>>,
    /// What members' expressions stand for.
    expressions: BTreeMap<String, Expression>,
    /// Whether topics have changed since they were last looked at.
    topics_changed: bool,
}

impl ConsumerGroup {
    /// A group without members.
    pub fn new(id: &str) -> ConsumerGroup {
        ConsumerGroup { id: id.to_owned(), topics_changed: true, ..Default::default() }
    }

    /// Makes a change and records it.
    fn change(&mut self, turn: &mut Turn<'_, '_>, change: Change) {
        turn.step.records.push(change.record(&self.id));
        self.apply(change);
    }

    /// Whether it has no members.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// How many members it has.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether it has never had any.
    pub fn is_blank(&self) -> bool {
        self.members.is_empty() && self.epoch == 0
    }

    /// Kafka's name of its state.
    pub fn state(&self) -> &'static str {
        let is_there = |member: &Member| {
            member.current.state == MemberState::Stable && member.current.epoch == self.assignment_epoch
        };
        if self.members.is_empty() {
            "Empty"
        } else if self.epoch > self.assignment_epoch {
            "Assigning"
        } else if self.members.values().all(is_there) {
            "Stable"
        } else {
            "Reconciling"
        }
    }

    /// When it wants [`ConsumerGroup::tick`].
    pub fn deadline(&self) -> Option<u64> {
        self.members.values().filter_map(Member::deadline).min()
    }

    /// When the member does.
    pub fn deadline_of(&self, member_id: &str) -> Option<u64> {
        self.members.get(member_id)?.deadline()
    }

    /// Topics are other ones than before; looked at with the next heartbeat.
    pub fn topics_changed(&mut self) {
        self.topics_changed = true;
        self.expressions.values_mut().for_each(Expression::expire);
    }

    /// Its members' sessions begin now.
    pub fn loaded(&mut self, turn: &mut Turn<'_, '_>) {
        let (now_ms, of_group) = (turn.context.now_ms, self.session_timeout_ms(turn));
        for member in self.members.values_mut() {
            member.session_deadline = Some(now_ms + session_timeout_ms(&member.metadata, of_group));
            let must_revoke = member.current.state == MemberState::UnrevokedPartitions;
            member.rebalance_deadline = must_revoke.then(|| now_ms + millis(member.metadata.rebalance_timeout_ms));
        }
    }

    /// How long a member of the consumer protocol may be silent: what is set for the group, or for all.
    fn session_timeout_ms(&self, turn: &Turn<'_, '_>) -> u64 {
        let own = turn.context.topics.group_number(&self.id, "consumer.session.timeout.ms");
        own.unwrap_or(turn.config.consumer.session_timeout_ms)
    }

    /// The topics that a member reads: those it names, and those its expression stands for.
    fn topics_of<'s>(&'s self, metadata: &'s Metadata) -> impl Iterator<Item = &'s String> {
        let matched = metadata.regex.as_ref().and_then(|regex| self.expressions.get(regex));
        metadata.subscribed.iter().chain(matched.into_iter().flat_map(|expression| &expression.topics))
    }

    /// Whether a member reads the topic.
    pub fn is_subscribed_to(&self, topic: &str) -> bool {
        self.members.values().any(|member| self.topics_of(&member.metadata).any(|name| name == topic))
    }

    fn compute_hash(&self, topics: &Topics) -> i64 {
        let names: BTreeSet<&String> =
            self.members.values().flat_map(|member| self.topics_of(&member.metadata)).collect();
        hash_of(names.into_iter().map(String::as_str), topics)
    }
}

/// Tells sets of topics, in order, from each other across restarts; 0 if there is none of them.
pub(super) fn hash_of<'n>(names: impl Iterator<Item = &'n str>, topics: &Topics) -> i64 {
    let mut hash = Fnv::default();
    let mut any = false;
    for name in names {
        let Some(topic) = topics.get(name) else { continue };
        any = true;
        hash.add(name.as_bytes());
        hash.add(&topic.id.0);
        hash.add(&topic.partitions.to_be_bytes());
    }
    if any { hash.0 as i64 } else { 0 }
}

/// FNV-1a, 64 bits: tells one set of topics from another across restarts.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().copied().chain([0xff]) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// What a heartbeat, or a join of the classic protocol, says about its member.
struct Wish<'r> {
    member_id: &'r str,
    instance_id: Option<&'r str>,
    /// Who it is and what it wants from now on, given what it was and wanted.
    update: &'r dyn Fn(&Metadata) -> Metadata,
    /// What it says that it has, if it says so.
    owned: Option<&'r Assignment>,
    /// The topics that its expression may stand for; a member of the classic protocol has none.
    visible: Option<&'r Visible>,
}

/// How a member is found for a request.
enum Place {
    /// It is there.
    Known,
    /// It comes now.
    New,
    /// It is a static member that left for a while under this id.
    Returns(String),
}

/// Heartbeats.
impl ConsumerGroup {
    /// A member says that it lives, what it wants and what it has; it is told what it may read.
    ///
    /// # Errors
    /// Kafka's error and why; the group is then as it was.
    pub fn heartbeat(
        &mut self,
        turn: &mut Turn<'_, '_>,
        request: &ConsumerGroupHeartbeatRequest<'_>,
        client: &Client,
        visible: &Visible,
    ) -> Result<ConsumerGroupHeartbeatResponse<'static>, Failure> {
        let (member_id, epoch) = (&*request.member_id, request.member_epoch);
        if epoch == LEAVES || epoch == LEAVES_FOR_NOW {
            return self.leave(turn, request);
        }
        if self.members.len() >= turn.config.consumer.max_size && !self.members.contains_key(member_id) {
            return fail(ErrorCode::GroupMaxSizeReached, "The consumer group has reached its maximum capacity.");
        }
        let owned = request
            .topic_partitions
            .as_ref()
            .map(|topics| assignment(topics.iter().map(|topic| (topic.topic_id, topic.partitions.clone()))));
        check_regex(request.subscribed_topic_regex.as_deref())?;
        let instance_id = request.instance_id.as_deref();
        let place = self.place(member_id, instance_id, epoch, owned.as_ref())?;
        let update = |before: &Metadata| updated(before, request, client);
        let wish = Wish { member_id, instance_id, update: &update, owned: owned.as_ref(), visible: Some(visible) };
        let before = self.members.get(member_id).map(|member| member.current.assigned.clone()).unwrap_or_default();
        self.follow(turn, &wish, place);
        let of_group = self.session_timeout_ms(turn);
        let interval_ms = turn.context.topics.group_number(&self.id, "consumer.heartbeat.interval.ms");
        let member = self.members.get_mut(member_id).expect("the member is there now");
        member.session_deadline = Some(turn.context.now_ms + session_timeout_ms(&member.metadata, of_group));
        let says_all = request.rebalance_timeout_ms != -1
            && (request.subscribed_topic_names.is_some() || request.subscribed_topic_regex.is_some())
            && request.topic_partitions.is_some();
        let told = epoch == 0 || says_all || member.current.assigned != before;
        Ok(ConsumerGroupHeartbeatResponse {
            member_id: Some(member_id.to_owned().into()),
            member_epoch: member.current.epoch,
            heartbeat_interval_ms: interval_ms.unwrap_or(turn.config.consumer.heartbeat_interval_ms),
            assignment: told.then(|| heartbeat_assignment(&member.current.assigned)),
            ..Default::default()
        })
    }

    fn place(
        &self,
        member_id: &str,
        instance_id: Option<&str>,
        epoch: i32,
        owned: Option<&Assignment>,
    ) -> Result<Place, Failure> {
        let joins = epoch == 0;
        let Some(instance_id) = instance_id else {
            return match self.members.get(member_id) {
                Some(member) => check_epoch(&member.current, epoch, owned).map(|()| Place::Known),
                None if joins => Ok(Place::New),
                None => unknown_member(member_id, &self.id),
            };
        };
        let Some(known_id) = self.instances.get(instance_id) else {
            return match joins {
                true => Ok(Place::New),
                false => unknown_instance(instance_id),
            };
        };
        let known = &self.members[known_id].current;
        if joins && known.epoch == LEAVES_FOR_NOW {
            return Ok(Place::Returns(known_id.clone()));
        }
        if known_id == member_id {
            return check_epoch(known, epoch, owned).map(|()| Place::Known);
        }
        match joins {
            true => fail(
                ErrorCode::UnreleasedInstanceId,
                format!(
                    "Static member {member_id} with instance id {instance_id} cannot join the group because the \
                     instance id is owned by {known_id}."
                ),
            ),
            false => fenced_instance(member_id, instance_id, known_id),
        }
    }

    /// The steps of every heartbeat: what the member wants, a new epoch if that or the topics have changed,
    /// new targets if the epoch is new, and the member's next step towards its target.
    fn follow(&mut self, turn: &mut Turn<'_, '_>, wish: &Wish<'_>, place: Place) {
        let id = wish.member_id;
        if let Place::Returns(former) = &place {
            self.replace(turn, former, id);
        }
        let before = self.members.get(id).map(|member| member.metadata.clone());
        let is_new = before.is_none();
        let before = before.unwrap_or_default();
        let mut after = (wish.update)(&before);
        after.instance_id = wish.instance_id.map(str::to_owned).or(after.instance_id);
        let mut changed = is_new || self.epoch == 0 || after.subscribed != before.subscribed;
        if is_new || after != before {
            self.change(turn, Change::Member(id.to_owned(), after.clone()));
        }
        changed |= self.follow_regex(turn, before.regex.as_deref(), after.regex.as_deref(), wish.visible);
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
        self.reconcile(turn, id, wish.owned);
    }

    /// The member's step towards its target, if it has one to make.
    fn reconcile(&mut self, turn: &mut Turn<'_, '_>, id: &str, owned: Option<&Assignment>) {
        let none = Assignment::new();
        let target = self.targets.get(id).unwrap_or(&none);
        let owners = &self.owners;
        let is_free = |topic: Uuid, partition: i32| {
            planted!(AssignBeforeRevoke) || owners.get(&topic).is_none_or(|owners| !owners.contains_key(&partition))
        };
        let current = &self.members[id].current;
        let Some(next) = reconcile::next(current, self.assignment_epoch, target, owned, is_free) else { return };
        let must_revoke = next.state == MemberState::UnrevokedPartitions;
        self.change(turn, Change::Current(id.to_owned(), next));
        let member = self.members.get_mut(id).expect("the member is there");
        if member.metadata.classic.is_none() {
            let timeout_ms = millis(member.metadata.rebalance_timeout_ms);
            member.rebalance_deadline = must_revoke.then(|| turn.context.now_ms + timeout_ms);
        }
    }

    /// A static member is back under another id: it has what it had, and nobody else need move.
    fn replace(&mut self, turn: &mut Turn<'_, '_>, former: &str, id: &str) {
        let Member { metadata, current, .. } = self.members[former].clone();
        let target = self.targets.get(former).cloned();
        if former != id {
            self.change(turn, Change::CurrentEnd(former.to_owned()));
            self.change(turn, Change::TargetEnd(former.to_owned()));
            self.change(turn, Change::MemberEnd(former.to_owned()));
            self.change(turn, Change::Member(id.to_owned(), metadata));
            if let Some(target) = target {
                self.change(turn, Change::Target(id.to_owned(), target));
            }
        }
        let current = Current {
            epoch: 0,
            previous_epoch: 0,
            state: MemberState::Stable,
            assigned: current.assigned,
            revoking: Assignment::new(),
        };
        self.change(turn, Change::Current(id.to_owned(), current));
    }

    /// The assignor that most members vote for, of those that are configured; or the first of these.
    fn assignor(&self, config: &GroupConfig) -> Assignor {
        let allowed = &config.consumer.assignors;
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for name in self.members.values().filter_map(|member| member.metadata.assignor.as_deref()) {
            *votes.entry(name).or_default() += 1;
        }
        let by_votes = allowed.iter().rev().max_by_key(|assignor| votes.get(assignor.name()).copied().unwrap_or(0));
        by_votes.copied().unwrap_or(Assignor::Uniform)
    }

    /// Computes the targets of the group's epoch.
    fn assign(&mut self, turn: &mut Turn<'_, '_>) {
        let subscriber = |(id, member): (&String, &Member)| {
            let subscriber = Subscriber {
                instance_id: member.metadata.instance_id.clone(),
                topics: self.topics_of(&member.metadata).cloned().collect(),
                target: self.targets.get(id).cloned().unwrap_or_default(),
            };
            (id.clone(), subscriber)
        };
        let subscribers: BTreeMap<String, Subscriber> = self.members.iter().map(subscriber).collect();
        let targets = self.assignor(turn.config).assign(&subscribers, turn.context.topics);
        for (id, target) in targets {
            if self.targets.get(&id) != Some(&target) {
                self.change(turn, Change::Target(id, target));
            }
        }
        self.change(turn, Change::TargetEpoch(self.epoch));
    }
}

/// Leaving.
impl ConsumerGroup {
    fn leave(
        &mut self,
        turn: &mut Turn<'_, '_>,
        request: &ConsumerGroupHeartbeatRequest<'_>,
    ) -> Result<ConsumerGroupHeartbeatResponse<'static>, Failure> {
        let member_id = &*request.member_id;
        match request.instance_id.as_deref() {
            None if self.members.contains_key(member_id) => self.remove(turn, member_id),
            None => return unknown_member(member_id, &self.id),
            Some(instance_id) => {
                let Some(known_id) = self.instances.get(instance_id).cloned() else {
                    return unknown_instance(instance_id);
                };
                if known_id != member_id {
                    return fenced_instance(member_id, instance_id, &known_id);
                }
                match request.member_epoch {
                    LEAVES_FOR_NOW => self.leave_for_now(turn, member_id),
                    _ => self.remove(turn, member_id),
                }
            }
        }
        Ok(ConsumerGroupHeartbeatResponse {
            member_id: Some(member_id.to_owned().into()),
            member_epoch: request.member_epoch,
            ..Default::default()
        })
    }

    /// It keeps what it has for as long as its session lasts.
    fn leave_for_now(&mut self, turn: &mut Turn<'_, '_>, id: &str) {
        let current = self.members[id].current.clone();
        let current =
            Current { epoch: LEAVES_FOR_NOW, previous_epoch: current.epoch, revoking: Assignment::new(), ..current };
        self.change(turn, Change::Current(id.to_owned(), current));
        self.members.get_mut(id).expect("the member is there").rebalance_deadline = None;
    }

    /// The member is out: a new epoch for those who are left, unless their group is about to be a classic one.
    pub fn remove(&mut self, turn: &mut Turn<'_, '_>, id: &str) {
        let Some(member) = self.members.get(id) else { return };
        let regex = member.metadata.regex.clone();
        self.change(turn, Change::CurrentEnd(id.to_owned()));
        self.change(turn, Change::TargetEnd(id.to_owned()));
        self.change(turn, Change::MemberEnd(id.to_owned()));
        if let Some(regex) = regex {
            self.drop_regex(turn, &regex);
        }
        // The classic group that is made of the rest goes on in the epoch that its members know: to another
        // generation they would answer by giving up all that they have.
        if self.may_become_classic(turn) {
            return;
        }
        let hash = self.compute_hash(turn.context.topics);
        self.change(turn, Change::Group { epoch: self.epoch + 1, hash });
    }

    /// Members that were silent for too long, or did not give up what they had to, are out. Whether any were.
    pub fn tick(&mut self, turn: &mut Turn<'_, '_>) -> bool {
        let now_ms = turn.context.now_ms;
        let is_late = |member: &Member| member.deadline().is_some_and(|deadline| deadline <= now_ms);
        let late: Vec<_> =
            self.members.iter().filter(|(_, member)| is_late(member)).map(|(id, _)| id.clone()).collect();
        for id in &late {
            tracing::info!(group = self.id, member = id, "a member is late and is removed");
            self.remove(turn, id);
        }
        !late.is_empty()
    }

    /// The records that end a group without members.
    pub fn end(&mut self, turn: &mut Turn<'_, '_>) {
        for regex in self.expressions.keys().cloned().collect::<Vec<_>>() {
            self.change(turn, Change::RegexEnd(regex));
        }
        for id in self.targets.keys().cloned().collect::<Vec<_>>() {
            self.change(turn, Change::TargetEnd(id));
        }
        self.change(turn, Change::TargetEpochEnd);
        self.change(turn, Change::GroupEnd);
    }

    /// Whether a commit is by a member in its epoch, or by somebody outside while there are no members.
    ///
    /// # Errors
    /// Kafka's answer otherwise.
    pub fn check_commit(
        &self,
        member_id: &str,
        instance_id: Option<&str>,
        epoch: i32,
        transactional: bool,
        knows_epochs: bool,
    ) -> Result<(), ErrorCode> {
        if epoch < 0 && self.members.is_empty() {
            return Ok(());
        }
        if transactional && epoch == -1 && member_id.is_empty() && instance_id.is_none() {
            return Ok(());
        }
        let member = self.members.get(member_id).ok_or(ErrorCode::UnknownMemberId)?;
        let is_classic = member.metadata.classic.is_some();
        if !transactional && !is_classic && !knows_epochs {
            return Err(ErrorCode::UnsupportedVersion);
        }
        match (epoch == member.current.epoch, is_classic) {
            (true, _) => Ok(()),
            (false, true) => Err(ErrorCode::IllegalGeneration),
            (false, false) => Err(ErrorCode::StaleMemberEpoch),
        }
    }

    /// Whether a fetch of offsets is by a member in its epoch, or by somebody who does not say.
    ///
    /// # Errors
    /// Kafka's answer otherwise.
    pub fn check_fetch(&self, member_id: Option<&str>, epoch: i32) -> Result<(), ErrorCode> {
        if member_id.is_none() && epoch < 0 {
            return Ok(());
        }
        let member = self.members.get(member_id.unwrap_or_default()).ok_or(ErrorCode::UnknownMemberId)?;
        match (epoch == member.current.epoch, member.metadata.classic.is_some()) {
            (true, _) => Ok(()),
            (false, true) => Err(ErrorCode::IllegalGeneration),
            (false, false) => Err(ErrorCode::StaleMemberEpoch),
        }
    }

    /// The group for ConsumerGroupDescribe.
    pub fn describe(&self, config: &GroupConfig, topics: &Topics) -> DescribedGroup<'static> {
        let described = |assignment: &Assignment| {
            let topic = |(id, partitions): (&Uuid, &BTreeSet<i32>)| {
                let topic_name = topics.name(*id)?.to_owned().into();
                Some(TopicPartitions { topic_id: *id, topic_name, partitions: partitions.iter().copied().collect() })
            };
            DescribedAssignment { topic_partitions: assignment.iter().filter_map(topic).collect() }
        };
        let none = Assignment::new();
        let member = |(id, member): (&String, &Member)| DescribedMember {
            member_id: id.clone().into(),
            instance_id: member.metadata.instance_id.clone().map(Into::into),
            rack_id: member.metadata.rack_id.clone().map(Into::into),
            member_epoch: member.current.epoch,
            client_id: member.metadata.client.id.clone().into(),
            client_host: member.metadata.client.host.clone().into(),
            subscribed_topic_names: member.metadata.subscribed.iter().map(|name| name.clone().into()).collect(),
            subscribed_topic_regex: Some(member.metadata.regex.clone().unwrap_or_default().into()),
            assignment: described(&member.current.assigned),
            target_assignment: described(self.targets.get(id).unwrap_or(&none)),
            member_type: i8::from(member.metadata.classic.is_none()),
        };
        DescribedGroup {
            group_id: self.id.clone().into(),
            group_state: self.state().into(),
            group_epoch: self.epoch,
            assignment_epoch: self.assignment_epoch,
            assignor_name: self.assignor(config).name().into(),
            // The order says nothing; this is the one that Kafka's tables mostly give.
            members: self.members.iter().rev().map(member).collect(),
            ..Default::default()
        }
    }
}

fn updated(before: &Metadata, request: &ConsumerGroupHeartbeatRequest<'_>, client: &Client) -> Metadata {
    let mut after = Metadata { client: client.clone(), classic: None, ..before.clone() };
    if let Some(rack) = request.rack_id.as_deref() {
        after.rack_id = Some(rack.to_owned());
    }
    if request.rebalance_timeout_ms != -1 {
        after.rebalance_timeout_ms = request.rebalance_timeout_ms;
    }
    if let Some(assignor) = request.server_assignor.as_deref() {
        after.assignor = Some(assignor.to_owned());
    }
    if let Some(topics) = &request.subscribed_topic_names {
        after.subscribed = topics.iter().map(|topic| topic.to_string()).collect();
    }
    if let Some(regex) = request.subscribed_topic_regex.as_deref() {
        after.regex = (!regex.is_empty()).then(|| regex.to_owned());
    }
    after
}

/// A member is in its epoch, or was in the one before when an answer was lost.
fn check_epoch(current: &Current, epoch: i32, owned: Option<&Assignment>) -> Result<(), Failure> {
    let own = current.epoch;
    if epoch > own {
        return fail(
            ErrorCode::FencedMemberEpoch,
            format!(
                "The consumer group member has a greater member epoch ({epoch}) than the one known by the group \
                 coordinator ({own}). The member must abandon all its partitions and rejoin."
            ),
        );
    }
    let may_be_late =
        epoch == current.previous_epoch && owned.is_some_and(|owned| reconcile::is_within(owned, &current.assigned));
    if epoch < own && !may_be_late {
        return fail(
            ErrorCode::FencedMemberEpoch,
            format!(
                "The consumer group member has a smaller member epoch ({epoch}) than the one known by the group \
                 coordinator ({own}). The member must abandon all its partitions and rejoin."
            ),
        );
    }
    Ok(())
}

fn unknown_member<T>(member_id: &str, group: &str) -> Result<T, Failure> {
    fail(ErrorCode::UnknownMemberId, format!("Member {member_id} is not a member of group {group}."))
}

fn unknown_instance<T>(instance_id: &str) -> Result<T, Failure> {
    fail(ErrorCode::UnknownMemberId, format!("Instance id {instance_id} is unknown."))
}

fn fenced_instance<T>(member_id: &str, instance_id: &str, known_id: &str) -> Result<T, Failure> {
    let why = format!("Static member {member_id} with instance id {instance_id} was fenced by member {known_id}.");
    fail(ErrorCode::FencedInstanceId, why)
}

fn heartbeat_assignment(assigned: &Assignment) -> HeartbeatAssignment {
    let topic = |(topic_id, partitions): (&Uuid, &BTreeSet<i32>)| ResponseTopicPartitions {
        topic_id: *topic_id,
        partitions: partitions.iter().copied().collect(),
    };
    HeartbeatAssignment { topic_partitions: assigned.iter().map(topic).collect() }
}

/// How long a member may be silent; of the classic protocol what it said itself.
fn session_timeout_ms(metadata: &Metadata, of_group: u64) -> u64 {
    metadata.classic.as_ref().map_or(of_group, |classic| millis(classic.session_timeout_ms))
}

fn millis(timeout_ms: i32) -> u64 {
    u64::try_from(timeout_ms).unwrap_or(0)
}
