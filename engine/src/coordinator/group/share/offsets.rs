//! What the share coordinator knows of a share group's partitions, as the group keeps account of it.
//!
//! A step here is the first or the last of several: between them whoever drives the machine asks the share
//! coordinators. Whatever lies between, the account says so: a partition is initializing, initialized, or its
//! topic's offsets are being deleted; what was left half done is done again.

use std::collections::{BTreeMap, BTreeSet};

use super::records::Change;
use super::{ShareGroup, Turn};
use crate::coordinator::Topics;
use crate::coordinator::group::assignor::Assignment;
use crate::protocol::messages::alter_share_group_offsets::{
    AlterShareGroupOffsetsRequestTopic, AlterShareGroupOffsetsResponsePartition, AlterShareGroupOffsetsResponseTopic,
};
use crate::protocol::messages::delete_share_group_offsets::DeleteShareGroupOffsetsResponseTopic;
use crate::protocol::{ErrorCode, Uuid};

/// How long partitions may be initializing before that is begun anew, in milliseconds (twice
/// `offsets.commit.timeout.ms`, as Kafka has it).
const RETRY_MS: u64 = 10_000;
/// What Kafka says of a topic or partition that is not there.
const NOT_HOSTED: &str = "This server does not host this topic-partition.";

/// A topic and some of its partitions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TopicPartitions {
    /// Its name.
    pub name: String,
    /// The partitions.
    pub partitions: BTreeSet<i32>,
    /// Since when, on the clock of deadlines; not recorded, so that after a load it is long ago.
    pub since_ms: Option<u64>,
}

/// Partitions by what the share coordinator knows of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StatePartitions {
    /// It is being told.
    pub initializing: BTreeMap<Uuid, TopicPartitions>,
    /// It knows.
    pub initialized: BTreeMap<Uuid, TopicPartitions>,
    /// It is being told to forget; with the topics' names.
    pub deleting: BTreeMap<Uuid, String>,
}

/// What the share coordinator is to be told: begin these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Initialization {
    /// The epoch of their state.
    pub state_epoch: i32,
    /// Partitions with their start offsets, −1 for what the leader chooses.
    pub partitions: BTreeMap<Uuid, BTreeMap<i32, i64>>,
}

impl StatePartitions {
    /// What members of these topics may read.
    pub fn readable(&self, names: &BTreeSet<&str>, topics: &Topics) -> Assignment {
        let wanted = self.initialized.iter().filter_map(|(id, known)| {
            let name = topics.name(*id)?;
            (names.contains(name) && !known.partitions.is_empty()).then(|| (*id, known.partitions.clone()))
        });
        wanted.collect()
    }

    /// The same without topics that are gone, if any are.
    pub fn without_missing(&self, topics: &Topics) -> Option<StatePartitions> {
        let is_there = |id: &Uuid| topics.name(*id).is_some();
        let mut left = self.clone();
        left.initializing.retain(|id, _| is_there(id));
        left.initialized.retain(|id, _| is_there(id));
        left.deleting.retain(|id, _| is_there(id));
        (left != *self).then_some(left)
    }

    fn begin(&mut self, topic: Uuid, name: &str, partitions: &BTreeSet<i32>, now_ms: u64) {
        let entry = self.initializing.entry(topic).or_default();
        entry.name = name.to_owned();
        entry.partitions.extend(partitions);
        entry.since_ms = Some(now_ms);
        self.deleting.remove(&topic);
    }
}

fn remove(from: &mut BTreeMap<Uuid, TopicPartitions>, topic: Uuid, partitions: &BTreeSet<i32>) {
    if let Some(known) = from.get_mut(&topic) {
        known.partitions.retain(|partition| !partitions.contains(partition));
        if known.partitions.is_empty() {
            from.remove(&topic);
        }
    }
}

/// Beginning.
impl ShareGroup {
    /// Partitions of members' topics that the share coordinator does not know yet.
    pub(super) fn initialize_new(&mut self, turn: &mut Turn<'_, '_>) -> Option<Initialization> {
        let now_ms = turn.context.now_ms;
        let mut after = self.partitions.clone().unwrap_or_default();
        let mut partitions: BTreeMap<Uuid, BTreeMap<i32, i64>> = BTreeMap::new();
        for name in self.subscribed() {
            let Some(topic) = turn.context.topics.get(name) else { continue };
            let is_under_way = |known: &&TopicPartitions| known.since_ms.is_some_and(|since| now_ms < since + RETRY_MS);
            let initialized = after.initialized.get(&topic.id).map(|known| &known.partitions);
            let initializing = after.initializing.get(&topic.id).filter(is_under_way).map(|known| &known.partitions);
            let is_known = |partition: &i32| {
                initialized.is_some_and(|known| known.contains(partition))
                    || initializing.is_some_and(|known| known.contains(partition))
            };
            let new: BTreeSet<i32> = (0..topic.partitions).filter(|partition| !is_known(partition)).collect();
            if !new.is_empty() {
                partitions.insert(topic.id, new.iter().map(|partition| (*partition, -1)).collect());
                after.begin(topic.id, name, &new, now_ms);
            }
        }
        if partitions.is_empty() {
            return None;
        }
        self.change(turn, Change::Partitions(after));
        Some(Initialization { state_epoch: self.epoch, partitions })
    }

    /// The share coordinator knows these now; or it could not be told, and they will be begun anew.
    pub fn initialized(&mut self, turn: &mut Turn<'_, '_>, partitions: &Assignment, succeeded: bool) {
        let Some(mut after) = self.partitions.clone() else { return };
        for (topic, partitions) in partitions {
            let Some(name) = turn.context.topics.name(*topic) else { continue };
            // What was taken back meanwhile is not known after all.
            let begun = after.initializing.get(topic).map(|known| known.partitions.clone()).unwrap_or_default();
            remove(&mut after.initializing, *topic, partitions);
            if succeeded {
                let known = after.initialized.entry(*topic).or_default();
                known.name = name.to_owned();
                known.partitions.extend(partitions.intersection(&begun));
                if known.partitions.is_empty() {
                    after.initialized.remove(topic);
                }
            }
        }
        if Some(&after) != self.partitions.as_ref() {
            self.change(turn, Change::Partitions(after));
        }
    }

    /// Partitions that the share coordinator knows.
    pub fn initialized_partitions(&self) -> Assignment {
        let known = self.partitions.iter().flat_map(|known| &known.initialized);
        known.map(|(topic, known)| (*topic, known.partitions.clone())).collect()
    }

    /// New start offsets for a group without members: what is answered if the share coordinator takes them, and what
    /// it is to be told.
    ///
    /// # Errors
    /// NON_EMPTY_GROUP.
    pub fn alter_offsets(
        &mut self,
        turn: &mut Turn<'_, '_>,
        topics: &[AlterShareGroupOffsetsRequestTopic<'static>],
    ) -> Result<(Vec<AlterShareGroupOffsetsResponseTopic<'static>>, Initialization), ErrorCode> {
        if !self.is_empty() {
            return Err(ErrorCode::NonEmptyGroup);
        }
        let now_ms = turn.context.now_ms;
        let mut after = self.partitions.clone().unwrap_or_default();
        let mut partitions: BTreeMap<Uuid, BTreeMap<i32, i64>> = BTreeMap::new();
        let mut answers = Vec::with_capacity(topics.len());
        for asked in topics {
            let topic = turn.context.topics.get(&asked.topic_name);
            let mut answer = AlterShareGroupOffsetsResponseTopic {
                topic_name: asked.topic_name.clone(),
                topic_id: topic.map_or(Uuid::ZERO, |topic| topic.id),
                partitions: Vec::with_capacity(asked.partitions.len()),
            };
            let mut begun = BTreeSet::new();
            for partition in &asked.partitions {
                let index = partition.partition_index;
                let found = topic.filter(|topic| (0..topic.partitions).contains(&index));
                if let Some(topic) = found {
                    partitions.entry(topic.id).or_default().insert(index, partition.start_offset);
                    begun.insert(index);
                }
                let error = if found.is_some() { ErrorCode::None } else { ErrorCode::UnknownTopicOrPartition };
                answer.partitions.push(AlterShareGroupOffsetsResponsePartition {
                    partition_index: index,
                    error_code: error.code(),
                    error_message: found.is_none().then(|| NOT_HOSTED.into()),
                });
            }
            if let Some(topic) = topic.filter(|_| !begun.is_empty()) {
                after.begin(topic.id, &asked.topic_name, &begun, now_ms);
            }
            answers.push(answer);
        }
        if !partitions.is_empty() {
            self.change(turn, Change::Partitions(after));
        }
        Ok((answers, Initialization { state_epoch: self.epoch, partitions }))
    }
}

/// Forgetting.
impl ShareGroup {
    /// The offsets of topics go, of a group without members: answers for what has none, and what the share
    /// coordinator is to forget.
    ///
    /// # Errors
    /// NON_EMPTY_GROUP.
    pub fn begin_delete_offsets(
        &mut self,
        turn: &mut Turn<'_, '_>,
        topics: &[String],
    ) -> Result<(Vec<DeleteShareGroupOffsetsResponseTopic<'static>>, Assignment), ErrorCode> {
        if !self.is_empty() {
            return Err(ErrorCode::NonEmptyGroup);
        }
        let Some(mut after) = self.partitions.clone() else { return Ok((Vec::new(), Assignment::new())) };
        let mut refused = Vec::new();
        let mut forgotten = Assignment::new();
        let mut refuse = |name: &str, why: &'static str| {
            refused.push(DeleteShareGroupOffsetsResponseTopic {
                topic_name: name.to_owned().into(),
                error_code: ErrorCode::UnknownTopicOrPartition.code(),
                error_message: Some(why.into()),
                ..Default::default()
            });
        };
        for name in topics {
            let Some(topic) = turn.context.topics.get(name) else {
                refuse(name, NOT_HOSTED);
                continue;
            };
            if let Some(known) = after.initialized.remove(&topic.id) {
                forgotten.insert(topic.id, known.partitions);
                after.deleting.insert(topic.id, name.clone());
            } else if after.deleting.contains_key(&topic.id) {
                forgotten.insert(topic.id, (0..topic.partitions).collect());
            } else {
                refuse(name, "There is no offset information to delete.");
            }
        }
        if !forgotten.is_empty() {
            self.change(turn, Change::Partitions(after));
        }
        Ok((refused, forgotten))
    }

    /// The share coordinator has forgotten all it knew of these topics.
    pub fn finish_delete_offsets(&mut self, turn: &mut Turn<'_, '_>, topics: &BTreeSet<Uuid>) {
        let Some(mut after) = self.partitions.clone() else { return };
        after.deleting.retain(|id, _| !topics.contains(id));
        if Some(&after) != self.partitions.as_ref() {
            self.change(turn, Change::Partitions(after));
        }
    }

    /// The group goes, if it has no members: what the share coordinator is to forget first.
    ///
    /// # Errors
    /// NON_EMPTY_GROUP.
    pub fn begin_delete(&mut self, turn: &mut Turn<'_, '_>) -> Result<Assignment, ErrorCode> {
        if !self.is_empty() {
            return Err(ErrorCode::NonEmptyGroup);
        }
        let Some(before) = self.partitions.clone() else { return Ok(Assignment::new()) };
        let mut forgotten = Assignment::new();
        for (topic, known) in before.initialized.iter().chain(&before.initializing) {
            forgotten.entry(*topic).or_default().extend(&known.partitions);
        }
        for (topic, name) in &before.deleting {
            if let Some(known) = turn.context.topics.get(name).filter(|known| known.id == *topic) {
                forgotten.entry(*topic).or_default().extend(0..known.partitions);
            }
        }
        let name = |topic: &Uuid| turn.context.topics.name(*topic).map(str::to_owned);
        let deleting = forgotten.keys().filter_map(|topic| Some((*topic, name(topic)?))).collect();
        forgotten.retain(|topic, _| turn.context.topics.name(*topic).is_some());
        let after = StatePartitions { deleting, ..Default::default() };
        if after != before {
            self.change(turn, Change::Partitions(after));
        }
        Ok(forgotten)
    }
}
