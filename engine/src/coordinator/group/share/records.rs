//! The records of a share group: each change of its state is one, and nothing else changes what it keeps.
//!
//! Invariant: what is decided and what is replayed goes through [`ShareGroup::apply`] alike.
//!
//! [`ShareGroup::apply`]: super::ShareGroup::apply

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::offsets::{StatePartitions, TopicPartitions};
use super::{Current, Metadata, ShareGroup};
use crate::coordinator::group::Client;
use crate::coordinator::group::assignor::Assignment;
use crate::coordinator::group::consumer::records::{FITS, assignment, value};
use crate::coordinator::group::snapshot::ids_after;
use crate::coordinator::passes::Piece;
use crate::coordinator::{Record, Step};
use crate::protocol::data::share_group_current_member_assignment_value::{
    self, ShareGroupCurrentMemberAssignmentValue,
};
use crate::protocol::data::share_group_member_metadata_value::ShareGroupMemberMetadataValue;
use crate::protocol::data::share_group_state_partition_metadata_value::{
    ShareGroupStatePartitionMetadataValue, TopicInfo, TopicPartitionsInfo,
};
use crate::protocol::data::share_group_target_assignment_member_value::{
    ShareGroupTargetAssignmentMemberValue, TopicPartition,
};
use crate::protocol::data::{
    ShareGroupCurrentMemberAssignmentKey, ShareGroupMemberMetadataKey, ShareGroupMetadataKey, ShareGroupMetadataValue,
    ShareGroupStatePartitionMetadataKey, ShareGroupTargetAssignmentMemberKey, ShareGroupTargetAssignmentMetadataKey,
    ShareGroupTargetAssignmentMetadataValue,
};
use crate::protocol::value::{decode_key, decode_value, encode_key};
use crate::protocol::{DecodeError, RecordData, Uuid};

/// A change of a group. Those without content are tombstones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The group's epoch, and a hash of the topics that it reads.
    Group {
        /// Grows with each change of members, subscriptions or topics.
        epoch: i32,
        /// The hash.
        hash: i64,
    },
    /// There is no such group.
    GroupEnd,
    /// Who a member is and what it wants.
    Member(String, Metadata),
    /// There is no such member.
    MemberEnd(String),
    /// The epoch that the targets are for.
    TargetEpoch(i32),
    /// There are no targets.
    TargetEpochEnd,
    /// What a member is to have.
    Target(String, Assignment),
    /// It is to have nothing.
    TargetEnd(String),
    /// What a member has.
    Current(String, Current),
    /// It has nothing.
    CurrentEnd(String),
    /// What the share coordinator knows of.
    Partitions(StatePartitions),
    /// It knows nothing.
    PartitionsEnd,
}

fn member_key(group: &str, member: &str) -> Bytes {
    encode_key(&ShareGroupMemberMetadataKey { group_id: group.into(), member_id: member.into() }).expect(FITS)
}

fn target_key(group: &str, member: &str) -> Bytes {
    let key = ShareGroupTargetAssignmentMemberKey { group_id: group.into(), member_id: member.into() };
    encode_key(&key).expect(FITS)
}

fn current_key(group: &str, member: &str) -> Bytes {
    let key = ShareGroupCurrentMemberAssignmentKey { group_id: group.into(), member_id: member.into() };
    encode_key(&key).expect(FITS)
}

impl Change {
    /// The record of the change.
    pub fn record(&self, group: &str) -> Record {
        let group_key = || encode_key(&ShareGroupMetadataKey { group_id: group.into() }).expect(FITS);
        let target_epoch_key =
            || encode_key(&ShareGroupTargetAssignmentMetadataKey { group_id: group.into() }).expect(FITS);
        let partitions_key =
            || encode_key(&ShareGroupStatePartitionMetadataKey { group_id: group.into() }).expect(FITS);
        let (key, value) = match self {
            Change::Group { epoch, hash } => {
                (group_key(), value(&ShareGroupMetadataValue { epoch: *epoch, metadata_hash: *hash }))
            }
            Change::GroupEnd => (group_key(), None),
            Change::Member(member, metadata) => (member_key(group, member), value(&metadata_value(metadata))),
            Change::MemberEnd(member) => (member_key(group, member), None),
            Change::TargetEpoch(assignment_epoch) => {
                let content = ShareGroupTargetAssignmentMetadataValue { assignment_epoch: *assignment_epoch };
                (target_epoch_key(), value(&content))
            }
            Change::TargetEpochEnd => (target_epoch_key(), None),
            Change::Target(member, target) => {
                let partitions = target.iter().map(|(topic_id, partitions)| TopicPartition {
                    topic_id: *topic_id,
                    partitions: partitions.iter().copied().collect(),
                });
                let content = ShareGroupTargetAssignmentMemberValue { topic_partitions: partitions.collect() };
                (target_key(group, member), value(&content))
            }
            Change::TargetEnd(member) => (target_key(group, member), None),
            Change::Current(member, current) => (current_key(group, member), value(&current_value(current))),
            Change::CurrentEnd(member) => (current_key(group, member), None),
            Change::Partitions(partitions) => (partitions_key(), value(&partitions_value(partitions))),
            Change::PartitionsEnd => (partitions_key(), None),
        };
        Record { key, value }
    }

    /// The group and the change that a record of this type holds; `None` if the type is another's.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(record_type: i16, key: &[u8], value: Option<&[u8]>) -> Result<Option<(String, Change)>, DecodeError> {
        let read = match record_type {
            ShareGroupMetadataKey::RECORD_TYPE => {
                let key: ShareGroupMetadataKey<'_> = decode_key(key)?;
                let change = match value {
                    Some(value) => {
                        let value: ShareGroupMetadataValue = decode_value(value)?;
                        Change::Group { epoch: value.epoch, hash: value.metadata_hash }
                    }
                    None => Change::GroupEnd,
                };
                (key.group_id.into_owned(), change)
            }
            ShareGroupMemberMetadataKey::RECORD_TYPE => {
                let key: ShareGroupMemberMetadataKey<'_> = decode_key(key)?;
                let member = key.member_id.into_owned();
                let change = match value {
                    Some(value) => Change::Member(member, metadata_of(&decode_value(value)?)),
                    None => Change::MemberEnd(member),
                };
                (key.group_id.into_owned(), change)
            }
            ShareGroupTargetAssignmentMetadataKey::RECORD_TYPE => {
                let key: ShareGroupTargetAssignmentMetadataKey<'_> = decode_key(key)?;
                let change = match value {
                    Some(value) => {
                        let value: ShareGroupTargetAssignmentMetadataValue = decode_value(value)?;
                        Change::TargetEpoch(value.assignment_epoch)
                    }
                    None => Change::TargetEpochEnd,
                };
                (key.group_id.into_owned(), change)
            }
            ShareGroupTargetAssignmentMemberKey::RECORD_TYPE => {
                let key: ShareGroupTargetAssignmentMemberKey<'_> = decode_key(key)?;
                let member = key.member_id.into_owned();
                let change = match value {
                    Some(value) => {
                        let value: ShareGroupTargetAssignmentMemberValue = decode_value(value)?;
                        let partitions = value.topic_partitions.into_iter();
                        Change::Target(member, assignment(partitions.map(|topic| (topic.topic_id, topic.partitions))))
                    }
                    None => Change::TargetEnd(member),
                };
                (key.group_id.into_owned(), change)
            }
            ShareGroupCurrentMemberAssignmentKey::RECORD_TYPE => {
                let key: ShareGroupCurrentMemberAssignmentKey<'_> = decode_key(key)?;
                let member = key.member_id.into_owned();
                let change = match value {
                    Some(value) => Change::Current(member, current_of(decode_value(value)?)),
                    None => Change::CurrentEnd(member),
                };
                (key.group_id.into_owned(), change)
            }
            ShareGroupStatePartitionMetadataKey::RECORD_TYPE => {
                let key: ShareGroupStatePartitionMetadataKey<'_> = decode_key(key)?;
                let change = match value {
                    Some(value) => Change::Partitions(partitions_of(&decode_value(value)?)),
                    None => Change::PartitionsEnd,
                };
                (key.group_id.into_owned(), change)
            }
            _ => return Ok(None),
        };
        Ok(Some(read))
    }
}

fn metadata_value(metadata: &Metadata) -> ShareGroupMemberMetadataValue<'_> {
    ShareGroupMemberMetadataValue {
        rack_id: metadata.rack_id.as_deref().map(Into::into),
        client_id: metadata.client.id.as_str().into(),
        client_host: metadata.client.host.as_str().into(),
        subscribed_topic_names: metadata.subscribed.iter().map(|topic| topic.as_str().into()).collect(),
    }
}

fn metadata_of(value: &ShareGroupMemberMetadataValue<'_>) -> Metadata {
    Metadata {
        rack_id: value.rack_id.as_deref().map(str::to_owned),
        client: Client { id: value.client_id.to_string(), host: value.client_host.to_string() },
        subscribed: value.subscribed_topic_names.iter().map(|topic| topic.to_string()).collect(),
    }
}

fn current_value(current: &Current) -> ShareGroupCurrentMemberAssignmentValue {
    let topic = |(topic_id, partitions): (&Uuid, &BTreeSet<i32>)| {
        share_group_current_member_assignment_value::TopicPartitions {
            topic_id: *topic_id,
            partitions: partitions.iter().copied().collect(),
        }
    };
    ShareGroupCurrentMemberAssignmentValue {
        member_epoch: current.epoch,
        previous_member_epoch: current.previous_epoch,
        // Kafka's members of share groups are always stable.
        state: 0,
        assigned_partitions: current.assigned.iter().map(topic).collect(),
    }
}

fn current_of(value: ShareGroupCurrentMemberAssignmentValue) -> Current {
    let partitions = value.assigned_partitions.into_iter();
    Current {
        epoch: value.member_epoch,
        previous_epoch: value.previous_member_epoch,
        assigned: assignment(partitions.map(|topic| (topic.topic_id, topic.partitions))),
    }
}

fn partitions_value(known: &StatePartitions) -> ShareGroupStatePartitionMetadataValue<'_> {
    fn topics(known: &BTreeMap<Uuid, TopicPartitions>) -> Vec<TopicPartitionsInfo<'_>> {
        let topic = known.iter().map(|(topic_id, known)| TopicPartitionsInfo {
            topic_id: *topic_id,
            topic_name: known.name.as_str().into(),
            partitions: known.partitions.iter().copied().collect(),
        });
        topic.collect()
    }
    let deleting = known.deleting.iter();
    ShareGroupStatePartitionMetadataValue {
        initializing_topics: topics(&known.initializing),
        initialized_topics: topics(&known.initialized),
        deleting_topics: deleting
            .map(|(topic_id, name)| TopicInfo { topic_id: *topic_id, topic_name: name.as_str().into() })
            .collect(),
    }
}

fn partitions_of(value: &ShareGroupStatePartitionMetadataValue<'_>) -> StatePartitions {
    let topics = |topics: &[TopicPartitionsInfo<'_>]| {
        let topic = |topic: &TopicPartitionsInfo<'_>| {
            let partitions = topic.partitions.iter().copied().collect();
            (topic.topic_id, TopicPartitions { name: topic.topic_name.to_string(), partitions, since_ms: None })
        };
        topics.iter().map(topic).collect()
    };
    let deleting = value.deleting_topics.iter();
    StatePartitions {
        initializing: topics(&value.initializing_topics),
        initialized: topics(&value.initialized_topics),
        deleting: deleting.map(|topic| (topic.topic_id, topic.topic_name.to_string())).collect(),
    }
}

/// The state, written anew.
impl ShareGroup {
    /// Puts the records of its state into the step: what concerns the group as a whole, then members by id, those
    /// behind `after` if it was written up to there. The last member that is written if there are more.
    pub(in crate::coordinator) fn write_anew(
        &self,
        after: Option<&str>,
        piece: &mut Piece,
        step: &mut Step,
    ) -> Option<String> {
        let mut push = |piece: &mut Piece, change: Change| piece.push(step, change.record(&self.id));
        if after.is_none() {
            push(piece, Change::Group { epoch: self.epoch, hash: self.hash });
            push(piece, Change::TargetEpoch(self.assignment_epoch));
            if let Some(partitions) = &self.partitions {
                push(piece, Change::Partitions(partitions.clone()));
            }
        }
        let mut last = after;
        for id in ids_after(&self.members, &self.targets, after) {
            if piece.is_full() {
                return Some(last.unwrap_or_default().to_owned());
            }
            piece.look();
            if let Some(member) = self.members.get(id) {
                push(piece, Change::Member(id.to_owned(), member.metadata.clone()));
                push(piece, Change::Current(id.to_owned(), member.current.clone()));
            }
            if let Some(target) = self.targets.get(id) {
                push(piece, Change::Target(id.to_owned(), target.clone()));
            }
            last = Some(id);
        }
        None
    }

    /// About what the records of its state take, in bytes.
    pub fn size_bytes(&self) -> u64 {
        let assigned =
            |assignment: &Assignment| assignment.values().map(|partitions| 20 + 4 * partitions.len()).sum::<usize>();
        let members = self.members.values().map(|member| {
            let Metadata { rack_id, client, subscribed } = &member.metadata;
            rack_id.as_ref().map_or(0, String::len)
                + client.id.len()
                + client.host.len()
                + subscribed.iter().map(|topic| topic.len() + 2).sum::<usize>()
                + assigned(&member.current.assigned)
                + 3 * (self.id.len() + MEMBER_BYTES)
        });
        let known =
            self.partitions.iter().flat_map(|known| known.initializing.values().chain(known.initialized.values()));
        let known = known.map(|topic| 20 + topic.name.len() + 4 * topic.partitions.len());
        (members.chain(known).chain(self.targets.values().map(assigned)).sum::<usize>() + MEMBER_BYTES) as u64
    }
}

/// About what a record of a member takes besides what can be long, in bytes.
const MEMBER_BYTES: usize = 100;
