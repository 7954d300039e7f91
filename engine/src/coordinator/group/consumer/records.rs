//! The records of a consumer group: each change of its state is one, and nothing else changes what it keeps.
//!
//! Invariant: what is decided and what is replayed goes through [`ConsumerGroup::apply`] alike.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::expressions::Expression;
use super::{Assignment, ClassicMetadata, ConsumerGroup, Current, MemberState, Metadata};
use crate::coordinator::group::Client;
use crate::coordinator::group::snapshot::ids_after;
use crate::coordinator::passes::Piece;
use crate::coordinator::{Record, Step};
use crate::protocol::data::consumer_group_current_member_assignment_value::{
    ConsumerGroupCurrentMemberAssignmentValue, TopicPartitions,
};
use crate::protocol::data::consumer_group_member_metadata_value::{
    ClassicMemberMetadata, ClassicProtocol, ConsumerGroupMemberMetadataValue,
};
use crate::protocol::data::consumer_group_regular_expression_value::ConsumerGroupRegularExpressionValue;
use crate::protocol::data::consumer_group_target_assignment_member_value::{
    ConsumerGroupTargetAssignmentMemberValue, TopicPartition,
};
use crate::protocol::data::{
    ConsumerGroupCurrentMemberAssignmentKey, ConsumerGroupMemberMetadataKey, ConsumerGroupMetadataKey,
    ConsumerGroupMetadataValue, ConsumerGroupRegularExpressionKey, ConsumerGroupTargetAssignmentMemberKey,
    ConsumerGroupTargetAssignmentMetadataKey, ConsumerGroupTargetAssignmentMetadataValue,
};
use crate::protocol::value::{decode_key, decode_value, encode_key, encode_value};
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
    /// The topics that a regular expression stands for, and since when, in ms since 1970.
    Regex(String, BTreeSet<String>, i64),
    /// Nobody uses the expression.
    RegexEnd(String),
}

/// About what a record of a member takes besides what can be long, in bytes.
const MEMBER_BYTES: usize = 100;

/// Only what strings of requests make too long for its length field; a request has the same field.
pub const FITS: &str = "a group's strings came in requests";

/// A record's content.
pub fn value<'a, V: crate::protocol::Message<'a>>(value: &V) -> Option<Bytes> {
    Some(encode_value(value, 0).expect(FITS))
}

fn group_key(group: &str) -> Bytes {
    encode_key(&ConsumerGroupMetadataKey { group_id: group.into() }).expect(FITS)
}

fn member_key(group: &str, member: &str) -> Bytes {
    let key = ConsumerGroupMemberMetadataKey { group_id: group.into(), member_id: member.into() };
    encode_key(&key).expect(FITS)
}

fn target_epoch_key(group: &str) -> Bytes {
    encode_key(&ConsumerGroupTargetAssignmentMetadataKey { group_id: group.into() }).expect(FITS)
}

fn target_key(group: &str, member: &str) -> Bytes {
    let key = ConsumerGroupTargetAssignmentMemberKey { group_id: group.into(), member_id: member.into() };
    encode_key(&key).expect(FITS)
}

fn current_key(group: &str, member: &str) -> Bytes {
    let key = ConsumerGroupCurrentMemberAssignmentKey { group_id: group.into(), member_id: member.into() };
    encode_key(&key).expect(FITS)
}

fn regex_key(group: &str, regex: &str) -> Bytes {
    let key = ConsumerGroupRegularExpressionKey { group_id: group.into(), regular_expression: regex.into() };
    encode_key(&key).expect(FITS)
}

impl Change {
    /// The record of the change.
    pub fn record(&self, group: &str) -> Record {
        let (key, value) = match self {
            Change::Group { epoch, hash } => {
                (group_key(group), value(&ConsumerGroupMetadataValue { epoch: *epoch, metadata_hash: *hash }))
            }
            Change::GroupEnd => (group_key(group), None),
            Change::Member(member, metadata) => (member_key(group, member), value(&metadata_value(metadata))),
            Change::MemberEnd(member) => (member_key(group, member), None),
            Change::TargetEpoch(assignment_epoch) => {
                let content = ConsumerGroupTargetAssignmentMetadataValue { assignment_epoch: *assignment_epoch };
                (target_epoch_key(group), value(&content))
            }
            Change::TargetEpochEnd => (target_epoch_key(group), None),
            Change::Target(member, target) => {
                let partitions = target.iter().map(|(topic_id, partitions)| TopicPartition {
                    topic_id: *topic_id,
                    partitions: partitions.iter().copied().collect(),
                });
                let content = ConsumerGroupTargetAssignmentMemberValue { topic_partitions: partitions.collect() };
                (target_key(group, member), value(&content))
            }
            Change::TargetEnd(member) => (target_key(group, member), None),
            Change::Current(member, current) => (current_key(group, member), value(&current_value(current))),
            Change::CurrentEnd(member) => (current_key(group, member), None),
            Change::Regex(regex, topics, timestamp) => {
                let content = ConsumerGroupRegularExpressionValue {
                    topics: topics.iter().map(|topic| topic.as_str().into()).collect(),
                    version: 0,
                    timestamp: *timestamp,
                };
                (regex_key(group, regex), value(&content))
            }
            Change::RegexEnd(regex) => (regex_key(group, regex), None),
        };
        Record { key, value }
    }

    /// The group and the change that a record of this type holds; `None` if the type is another's.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(record_type: i16, key: &[u8], value: Option<&[u8]>) -> Result<Option<(String, Change)>, DecodeError> {
        let read = match record_type {
            ConsumerGroupMetadataKey::RECORD_TYPE => {
                let key: ConsumerGroupMetadataKey<'_> = decode_key(key)?;
                let change = match value {
                    Some(value) => {
                        let value: ConsumerGroupMetadataValue = decode_value(value)?;
                        Change::Group { epoch: value.epoch, hash: value.metadata_hash }
                    }
                    None => Change::GroupEnd,
                };
                (key.group_id.into_owned(), change)
            }
            ConsumerGroupMemberMetadataKey::RECORD_TYPE => {
                let key: ConsumerGroupMemberMetadataKey<'_> = decode_key(key)?;
                let member = key.member_id.into_owned();
                let change = match value {
                    Some(value) => Change::Member(member, metadata_of(&decode_value(value)?)),
                    None => Change::MemberEnd(member),
                };
                (key.group_id.into_owned(), change)
            }
            ConsumerGroupTargetAssignmentMetadataKey::RECORD_TYPE => {
                let key: ConsumerGroupTargetAssignmentMetadataKey<'_> = decode_key(key)?;
                let change = match value {
                    Some(value) => {
                        let value: ConsumerGroupTargetAssignmentMetadataValue = decode_value(value)?;
                        Change::TargetEpoch(value.assignment_epoch)
                    }
                    None => Change::TargetEpochEnd,
                };
                (key.group_id.into_owned(), change)
            }
            ConsumerGroupTargetAssignmentMemberKey::RECORD_TYPE => {
                let key: ConsumerGroupTargetAssignmentMemberKey<'_> = decode_key(key)?;
                let member = key.member_id.into_owned();
                let change = match value {
                    Some(value) => {
                        let value: ConsumerGroupTargetAssignmentMemberValue = decode_value(value)?;
                        let partitions = value.topic_partitions.into_iter();
                        Change::Target(member, assignment(partitions.map(|topic| (topic.topic_id, topic.partitions))))
                    }
                    None => Change::TargetEnd(member),
                };
                (key.group_id.into_owned(), change)
            }
            ConsumerGroupCurrentMemberAssignmentKey::RECORD_TYPE => {
                let key: ConsumerGroupCurrentMemberAssignmentKey<'_> = decode_key(key)?;
                let member = key.member_id.into_owned();
                let change = match value {
                    Some(value) => Change::Current(member, current_of(decode_value(value)?)),
                    None => Change::CurrentEnd(member),
                };
                (key.group_id.into_owned(), change)
            }
            ConsumerGroupRegularExpressionKey::RECORD_TYPE => {
                let key: ConsumerGroupRegularExpressionKey<'_> = decode_key(key)?;
                let regex = key.regular_expression.into_owned();
                let change = match value {
                    Some(value) => {
                        let value: ConsumerGroupRegularExpressionValue<'_> = decode_value(value)?;
                        let topics = value.topics.into_iter().map(|topic| topic.into_owned()).collect();
                        Change::Regex(regex, topics, value.timestamp)
                    }
                    None => Change::RegexEnd(regex),
                };
                (key.group_id.into_owned(), change)
            }
            _ => return Ok(None),
        };
        Ok(Some(read))
    }
}

/// Partitions by topic, without empty ones.
pub fn assignment(partitions: impl Iterator<Item = (Uuid, Vec<i32>)>) -> Assignment {
    let mut all = Assignment::new();
    for (topic, partitions) in partitions.filter(|(_, partitions)| !partitions.is_empty()) {
        all.entry(topic).or_default().extend(partitions);
    }
    all
}

fn metadata_value(metadata: &Metadata) -> ConsumerGroupMemberMetadataValue<'_> {
    let classic = metadata.classic.as_ref().map(|classic| ClassicMemberMetadata {
        session_timeout_ms: classic.session_timeout_ms,
        supported_protocols: classic
            .protocols
            .iter()
            .map(|(name, metadata)| ClassicProtocol { name: name.as_str().into(), metadata: (&metadata[..]).into() })
            .collect(),
    });
    ConsumerGroupMemberMetadataValue {
        instance_id: metadata.instance_id.as_deref().map(Into::into),
        rack_id: metadata.rack_id.as_deref().map(Into::into),
        client_id: metadata.client.id.as_str().into(),
        client_host: metadata.client.host.as_str().into(),
        subscribed_topic_names: metadata.subscribed.iter().map(|topic| topic.as_str().into()).collect(),
        subscribed_topic_regex: metadata.regex.as_deref().map(Into::into),
        rebalance_timeout_ms: metadata.rebalance_timeout_ms,
        server_assignor: metadata.assignor.as_deref().map(Into::into),
        classic_member_metadata: classic,
    }
}

fn metadata_of(value: &ConsumerGroupMemberMetadataValue<'_>) -> Metadata {
    let classic = value.classic_member_metadata.as_ref().map(|classic| ClassicMetadata {
        session_timeout_ms: classic.session_timeout_ms,
        protocols: classic
            .supported_protocols
            .iter()
            .map(|protocol| (protocol.name.to_string(), Bytes::copy_from_slice(&protocol.metadata)))
            .collect(),
    });
    Metadata {
        instance_id: value.instance_id.as_deref().map(str::to_owned),
        rack_id: value.rack_id.as_deref().map(str::to_owned),
        client: Client { id: value.client_id.to_string(), host: value.client_host.to_string() },
        rebalance_timeout_ms: value.rebalance_timeout_ms,
        subscribed: value.subscribed_topic_names.iter().map(|topic| topic.to_string()).collect(),
        regex: value.subscribed_topic_regex.as_deref().filter(|regex| !regex.is_empty()).map(str::to_owned),
        assignor: value.server_assignor.as_deref().map(str::to_owned),
        classic,
    }
}

fn current_value(current: &Current) -> ConsumerGroupCurrentMemberAssignmentValue {
    let partitions = |assignment: &Assignment| {
        let topic = |(topic_id, partitions): (&Uuid, &BTreeSet<i32>)| TopicPartitions {
            topic_id: *topic_id,
            partitions: partitions.iter().copied().collect(),
        };
        assignment.iter().map(topic).collect()
    };
    ConsumerGroupCurrentMemberAssignmentValue {
        member_epoch: current.epoch,
        previous_member_epoch: current.previous_epoch,
        state: current.state.code(),
        assigned_partitions: partitions(&current.assigned),
        partitions_pending_revocation: partitions(&current.revoking),
    }
}

fn current_of(value: ConsumerGroupCurrentMemberAssignmentValue) -> Current {
    let partitions =
        |topics: Vec<TopicPartitions>| assignment(topics.into_iter().map(|topic| (topic.topic_id, topic.partitions)));
    Current {
        epoch: value.member_epoch,
        previous_epoch: value.previous_member_epoch,
        state: MemberState::from_code(value.state),
        assigned: partitions(value.assigned_partitions),
        revoking: partitions(value.partitions_pending_revocation),
    }
}

impl ConsumerGroup {
    /// Makes the change.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Group { epoch, hash } => (self.epoch, self.hash) = (epoch, hash),
            // The group itself is whoever's keeps it.
            Change::GroupEnd => {}
            Change::Member(id, metadata) => {
                if let Some(instance) = &metadata.instance_id {
                    self.instances.insert(instance.clone(), id.clone());
                }
                self.members.entry(id).or_default().metadata = metadata;
            }
            Change::MemberEnd(id) => {
                self.hold(&id, Current::default());
                if let Some(member) = self.members.remove(&id)
                    && let Some(instance) = member.metadata.instance_id
                    && self.instances.get(&instance) == Some(&id)
                {
                    self.instances.remove(&instance);
                }
            }
            Change::TargetEpoch(epoch) => self.assignment_epoch = epoch,
            Change::TargetEpochEnd => self.assignment_epoch = 0,
            Change::Target(id, target) => drop(self.targets.insert(id, target)),
            Change::TargetEnd(id) => drop(self.targets.remove(&id)),
            Change::Current(id, current) => self.hold(&id, current),
            Change::CurrentEnd(id) => self.hold(&id, Current::default()),
            Change::Regex(regex, topics, _) => drop(self.expressions.insert(regex, Expression::new(topics))),
            Change::RegexEnd(regex) => drop(self.expressions.remove(&regex)),
        }
    }

    /// Puts the records of its state into the step: what concerns the group as a whole, then members by id, those
    /// behind `after` if it was written up to there. The last member that is written if there are more.
    pub(in crate::coordinator) fn write_anew(
        &self,
        after: Option<&str>,
        now_ms: i64,
        piece: &mut Piece,
        step: &mut Step,
    ) -> Option<String> {
        let mut push = |piece: &mut Piece, change: Change| piece.push(step, change.record(&self.id));
        if after.is_none() {
            push(piece, Change::Group { epoch: self.epoch, hash: self.hash });
            push(piece, Change::TargetEpoch(self.assignment_epoch));
            for (regex, expression) in &self.expressions {
                push(piece, Change::Regex(regex.clone(), expression.topics.clone(), now_ms));
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
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let assigned =
            |assignment: &Assignment| assignment.values().map(|partitions| 20 + 4 * partitions.len()).sum::<usize>();
        let members = self.members.values().map(|member| {
            let Metadata { instance_id, rack_id, client, subscribed, regex, classic, .. } = &member.metadata;
            let protocols = classic.iter().flat_map(|classic| &classic.protocols);
            text(instance_id)
                + text(rack_id)
                + text(regex)
                + client.id.len()
                + client.host.len()
                + subscribed.iter().map(|topic| topic.len() + 2).sum::<usize>()
                + protocols.map(|(name, metadata)| name.len() + metadata.len()).sum::<usize>()
                + assigned(&member.current.assigned)
                + assigned(&member.current.revoking)
                + 3 * (self.id.len() + MEMBER_BYTES)
        });
        let expressions = self.expressions.iter().map(|(regex, expression)| {
            regex.len() + expression.topics.iter().map(|topic| topic.len() + 2).sum::<usize>()
        });
        (members.chain(expressions).chain(self.targets.values().map(assigned)).sum::<usize>() + MEMBER_BYTES) as u64
    }

    /// The member holds this now, and nothing else.
    fn hold(&mut self, id: &str, current: Current) {
        let Some(member) = self.members.get_mut(id) else { return };
        let before = std::mem::replace(&mut member.current, current);
        for (topic, partitions) in before.assigned.iter().chain(&before.revoking) {
            let Some(owners) = self.owners.get_mut(topic) else { continue };
            for partition in partitions {
                if owners.get(partition).is_some_and(|owner| owner == id) {
                    owners.remove(partition);
                }
            }
            if owners.is_empty() {
                self.owners.remove(topic);
            }
        }
        for (topic, partitions) in member.current.assigned.iter().chain(&member.current.revoking) {
            let owners = self.owners.entry(*topic).or_default();
            owners.extend(partitions.iter().map(|partition| (*partition, id.to_owned())));
        }
    }
}
