//! Offsets of groups: committed, also within transactions, fetched, deleted, expired.

use super::classic::ClassicGroup;
use super::{Group, GroupCoordinator, GroupReply};
use crate::coordinator::offsets::{CommittedOffset, Fetched};
use crate::coordinator::{Context, Producer, Reply, Step};
use crate::protocol::ErrorCode;
use crate::protocol::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use crate::protocol::messages::offset_delete::{
    OffsetDeleteRequest, OffsetDeleteResponse, OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use crate::protocol::messages::offset_fetch::{
    OffsetFetchRequestGroup, OffsetFetchResponseGroup, OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
};
use crate::protocol::messages::txn_offset_commit::{
    TxnOffsetCommitRequest, TxnOffsetCommitResponse, TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};

/// What an offset's record takes besides its strings, at most, in bytes.
const RECORD_BYTES: usize = 60;

/// From this OffsetCommit version on clients know of member epochs, and of groups that are not there.
const COMMIT_KNOWS_EPOCHS: i16 = 9;

impl GroupCoordinator {
    pub(super) fn commit(
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
            Some(Group::Consumer(group)) => {
                let knows_epochs = version >= COMMIT_KNOWS_EPOCHS;
                group.check_commit(member_id, instance_id, generation, false, knows_epochs)
            }
            Some(Group::Share(_)) => Err(ErrorCode::GroupIdNotFound),
            None => self.make_simple(id, generation, version >= COMMIT_KNOWS_EPOCHS),
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
                let to = (context.largest_record, &mut *step);
                let error = self.commit_one(id, &topic.name, asked.partition_index, committed, None, to);
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
        (largest_record, step): (usize, &mut Step),
    ) -> ErrorCode {
        // Kafka counts the characters of a Java string, whatever the config's name says.
        let longest = self.config.longest_metadata;
        if committed.metadata.len() > longest && committed.metadata.encode_utf16().count() > longest {
            return ErrorCode::OffsetMetadataTooLarge;
        }
        if committed.metadata.len() + id.len() + topic.len() + RECORD_BYTES > largest_record {
            return ErrorCode::InvalidCommitOffsetSize;
        }
        self.offsets.commit(id, topic, partition, committed, producer, step);
        ErrorCode::None
    }

    pub(super) fn commit_in_transaction(
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
            Some(Group::Consumer(group)) => group.check_commit(member_id, instance_id, generation, true, true),
            Some(Group::Share(_)) => Err(ErrorCode::GroupIdNotFound),
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
                let to = (context.largest_record, &mut *step);
                let error = self.commit_one(id, &topic.name, asked.partition_index, committed, Some(producer), to);
                TxnOffsetCommitResponsePartition { partition_index: asked.partition_index, error_code: error.code() }
            });
            topics.push(TxnOffsetCommitResponseTopic { partitions: partitions.collect(), name: topic.name.clone() });
        }
        self.forget_if_blank(id);
        GroupReply::CommitInTransaction(TxnOffsetCommitResponse { topics, ..Default::default() }).into()
    }

    pub(super) fn fetch(&self, request: &OffsetFetchRequestGroup<'static>, stable: bool) -> Reply {
        let id = &*request.group_id;
        if let Some(Group::Consumer(group)) = self.groups.get(id)
            && let Err(error) = group.check_fetch(request.member_id.as_deref(), request.member_epoch)
        {
            return error.into();
        }
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
        let group_id = request.group_id.clone();
        GroupReply::Fetch(OffsetFetchResponseGroup { group_id, topics, error_code: 0 }).into()
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

    pub(super) fn delete_offsets(&mut self, step: &mut Step, request: &OffsetDeleteRequest<'static>) -> Reply {
        let id = &*request.group_id;
        let checked = match self.groups.get(id) {
            _ if id.is_empty() => Err(ErrorCode::InvalidGroupId),
            Some(Group::Classic(group)) => group.check_offset_delete(),
            Some(Group::Consumer(_)) => Ok(()),
            Some(Group::Share(_)) | None => Err(ErrorCode::GroupIdNotFound),
        };
        if let Err(error) = checked {
            return error.into();
        }
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let is_subscribed = self.groups[id].is_subscribed_to(&topic.name);
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
    pub(super) fn expire_offsets(&mut self, context: &mut Context<'_>, step: &mut Step) {
        let (groups, now_ms, retention_ms) = (&self.groups, context.wall_clock_ms, self.config.retention_ms);
        let had_offsets: Vec<String> = groups.keys().filter(|id| self.offsets.has_any(id)).cloned().collect();
        let is_expired = |group: &str, topic: &str, committed: &CommittedOffset| {
            let start = match groups.get(group) {
                Some(group) if group.is_subscribed_to(topic) => None,
                Some(group) => group.retention_start(committed.commit_timestamp),
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
                self.delete_if_empty(context, step, &id);
            }
        }
    }
}
