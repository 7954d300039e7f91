//! Groups at their boundary: requests in, answers and records out, and the same again after a replay.

use super::*;
use crate::coordinator::{Record, TopicInfo, Topics};
use crate::protocol::Uuid;
use crate::protocol::messages::join_group::JoinGroupRequestProtocol;
use crate::protocol::messages::leave_group::MemberIdentity;
use crate::protocol::messages::offset_commit::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use crate::protocol::messages::offset_delete::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use crate::protocol::messages::sync_group::SyncGroupRequestAssignment;

mod classic;
mod consumer;
mod share;
mod snapshot;

/// Reached by no test.
const SNAPSHOT_AFTER_BYTES: u64 = 1 << 20;

/// A coordinator, its log and its clock.
pub(super) struct Bench {
    coordinator: GroupCoordinator,
    log: Vec<(Option<Producer>, Record)>,
    now_ms: u64,
    bits: u64,
    last_ticket: Ticket,
    topics: Topics,
    pub(super) has_room: bool,
    pub(super) largest_record: usize,
    replies: BTreeMap<Ticket, Reply>,
}

impl Bench {
    pub(super) fn new() -> Bench {
        Bench::with(GroupConfig::default())
    }

    pub(super) fn with(config: GroupConfig) -> Bench {
        let topic = |name: &str, id: u8, partitions| (name.to_owned(), TopicInfo { id: Uuid([id; 16]), partitions });
        let mut bench = Bench {
            coordinator: GroupCoordinator::new(config, SNAPSHOT_AFTER_BYTES),
            log: Vec::new(),
            now_ms: 1_000_000,
            bits: 1,
            last_ticket: 0,
            topics: Topics::new([topic("t", 1, 6), topic("u", 2, 3)]),
            has_room: true,
            largest_record: 1 << 20,
            replies: BTreeMap::new(),
        };
        bench.step(|coordinator, context| {
            coordinator.loaded(context);
            Step::default()
        });
        bench
    }

    fn step(&mut self, act: impl FnOnce(&mut GroupCoordinator, &mut Context<'_>) -> Step) {
        let bits = &mut self.bits;
        let mut random = || {
            *bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *bits
        };
        let mut context = Context {
            now_ms: self.now_ms,
            wall_clock_ms: self.now_ms as i64 + 1_700_000_000_000,
            topics: &self.topics,
            has_room: self.has_room,
            largest_record: self.largest_record,
            random: &mut random,
        };
        let step = act(&mut self.coordinator, &mut context);
        self.log.extend(step.records.into_iter().map(|record| (step.producer, record)));
        for (ticket, reply) in step.replies {
            assert!(self.replies.insert(ticket, reply).is_none(), "a ticket is answered once");
        }
    }

    /// Asks; the answer may come later.
    pub(super) fn send(&mut self, request: GroupRequest) -> Ticket {
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        self.step(|coordinator, context| coordinator.handle(context, ticket, request));
        ticket
    }

    pub(super) fn reply(&mut self, ticket: Ticket) -> Option<Reply> {
        self.replies.remove(&ticket)
    }

    /// Asks; the answer comes at once.
    pub(super) fn ask(&mut self, request: GroupRequest) -> Reply {
        let ticket = self.send(request);
        self.reply(ticket).expect("an answer at once")
    }

    /// Lets time pass, deadline by deadline.
    pub(super) fn pass(&mut self, ms: u64) {
        let end = self.now_ms + ms;
        while let Some(next) = self.coordinator.next_deadline().filter(|next| *next <= end) {
            self.now_ms = self.now_ms.max(next);
            self.step(GroupCoordinator::tick);
            let after = self.coordinator.next_deadline();
            assert!(after.is_none_or(|after| after > self.now_ms), "a tick does what is due");
        }
        self.now_ms = end;
    }

    /// What a crash leaves: the log.
    pub(super) fn restart(&mut self) {
        let mut again = GroupCoordinator::new(self.coordinator.config.clone(), SNAPSHOT_AFTER_BYTES);
        for (offset, (producer, record)) in (0..).zip(&self.log) {
            again.replay(offset, *producer, &record.key, record.value.as_deref()).expect("own records are read");
        }
        self.coordinator = again;
        self.replies.clear();
        self.step(|coordinator, context| {
            coordinator.loaded(context);
            Step::default()
        });
    }

    pub(super) fn records(&self) -> usize {
        self.log.len()
    }

    pub(super) fn commit(&mut self, group: &str, generation: i32, member: &str, offset: i64) -> ErrorCode {
        let request = commit_request(group, generation, member, offset);
        match self.ask(GroupRequest::Commit { request, version: 9 }) {
            Reply::Group(GroupReply::Commit(response)) => error(response.topics[0].partitions[0].error_code),
            Reply::Refused(error) => error,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn committed(&mut self, group: &str) -> (i64, ErrorCode) {
        let topics = vec![crate::protocol::messages::offset_fetch::OffsetFetchRequestTopics {
            name: "t".into(),
            partition_indexes: vec![0],
        }];
        let group_id = group.to_owned().into();
        let request = OffsetFetchRequestGroup { group_id, topics: Some(topics), member_id: None, member_epoch: -1 };
        match self.ask(GroupRequest::Fetch { request, stable: true }) {
            Reply::Group(GroupReply::Fetch(response)) => {
                let partition = &response.topics[0].partitions[0];
                (partition.committed_offset, error(partition.error_code))
            }
            Reply::Refused(error) => (-1, error),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn listed(&mut self) -> Vec<(String, String, String)> {
        match self.ask(GroupRequest::List { states: Arc::default(), types: Arc::default() }) {
            Reply::Group(GroupReply::List(groups)) => groups
                .into_iter()
                .map(|group| {
                    (group.group_id.into_owned(), group.group_state.into_owned(), group.group_type.into_owned())
                })
                .collect(),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn delete(&mut self, group: &str) -> ErrorCode {
        match self.ask(GroupRequest::Delete(vec![group.to_owned()])) {
            Reply::Group(GroupReply::Delete(results)) => error(results[0].error_code),
            other => panic!("{other:?}"),
        }
    }
}

pub(super) fn error(code: i16) -> ErrorCode {
    ErrorCode::from_code(code).expect("a code of Kafka's")
}

pub(super) fn commit_request(group: &str, generation: i32, member: &str, offset: i64) -> OffsetCommitRequest<'static> {
    let partition = OffsetCommitRequestPartition {
        committed_offset: offset,
        committed_metadata: Some("".into()),
        ..Default::default()
    };
    OffsetCommitRequest {
        group_id: group.to_owned().into(),
        generation_id_or_member_epoch: generation,
        member_id: member.to_owned().into(),
        topics: vec![OffsetCommitRequestTopic { name: "t".into(), partitions: vec![partition] }],
        ..Default::default()
    }
}
