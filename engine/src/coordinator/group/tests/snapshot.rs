//! What a load needs is what a pass has left in the log, wherever decisions came between its pieces.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::*;
use crate::coordinator::offsets::Fetched;
use crate::protocol::messages::txn_offset_commit::{TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic};

const GROUPS: u64 = 6;
const PARTITIONS: i32 = 4;
const PRODUCERS: u64 = 3;

/// An entry of the log.
#[derive(Debug, Clone)]
enum Entry {
    Record(Option<Producer>, Record),
    Marker(i64, bool),
}

/// A coordinator over a log that is given up as it says.
struct World {
    coordinator: GroupCoordinator,
    log: BTreeMap<i64, Entry>,
    /// All that was ever in it.
    all: BTreeMap<i64, Entry>,
    topics: Topics,
    now_ms: u64,
    bits: u64,
    end: i64,
    gave_up: u64,
}

fn replayed(log: &BTreeMap<i64, Entry>) -> GroupCoordinator {
    let mut coordinator = GroupCoordinator::new(GroupConfig::default(), 600);
    for (offset, entry) in log {
        match entry {
            Entry::Record(producer, record) => coordinator
                .replay(*offset, *producer, &record.key, record.value.as_deref())
                .expect("own records are read"),
            Entry::Marker(producer_id, committed) => coordinator.transaction_ended(*producer_id, *committed),
        }
    }
    coordinator
}

impl World {
    fn random(&mut self, below: u64) -> u64 {
        self.bits = self.bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.bits >> 33) % below
    }

    fn step(&mut self, act: impl FnOnce(&mut GroupCoordinator, &mut Context<'_>) -> Step) {
        let bits = &mut self.bits;
        let mut random = || {
            *bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *bits
        };
        let wall_clock_ms = self.now_ms as i64 + 1_700_000_000_000;
        let mut context = Context {
            now_ms: self.now_ms,
            wall_clock_ms,
            topics: &self.topics,
            has_room: true,
            largest_record: 1 << 20,
            random: &mut random,
        };
        let step = act(&mut self.coordinator, &mut context);
        self.coordinator.appended(self.end, &step.records);
        for record in step.records {
            self.append(Entry::Record(step.producer, record));
        }
        if let Some(first) = step.first_needed {
            self.log = self.log.split_off(&first);
            self.gave_up += 1;
        }
    }

    fn append(&mut self, entry: Entry) {
        self.all.insert(self.end, entry.clone());
        self.log.insert(self.end, entry);
        self.end += 1;
    }

    fn end_transaction(&mut self, producer: i64, committed: bool) {
        self.coordinator.transaction_ended(producer, committed);
        self.append(Entry::Marker(producer, committed));
    }

    fn act(&mut self) {
        let group = format!("g{}", self.random(GROUPS));
        let (partition, offset) = (self.random(PARTITIONS as u64) as i32, self.end);
        match self.random(10) {
            0..3 => self.commit(&group, partition, offset, None),
            3..6 => {
                let producer = self.random(PRODUCERS) as i64;
                self.commit(&group, partition, offset, Some(producer));
            }
            6 => {
                let (producer, committed) = (self.random(PRODUCERS) as i64, self.random(3) > 0);
                self.end_transaction(producer, committed);
            }
            7 if self.random(3) == 0 => self.ask(GroupRequest::Delete(vec![group])),
            7 => self.heartbeat(&group),
            _ => {
                self.now_ms += 1 + 2_000 * u64::from(self.random(4) == 0);
                self.step(GroupCoordinator::tick);
            }
        }
    }

    fn ask(&mut self, request: GroupRequest) {
        self.step(|coordinator, context| coordinator.handle(context, 1, request));
    }

    fn heartbeat(&mut self, group: &str) {
        let member_id = format!("m{}", self.random(4));
        let request = ConsumerGroupHeartbeatRequest {
            group_id: group.to_owned().into(),
            member_id: member_id.into(),
            member_epoch: if self.random(2) == 0 { -1 } else { 0 },
            rebalance_timeout_ms: 300_000,
            subscribed_topic_names: Some(vec!["t".into()]),
            topic_partitions: Some(Vec::new()),
            ..Default::default()
        };
        self.ask(GroupRequest::ConsumerHeartbeat { request, client: Client::default(), visible: Visible::default() });
    }

    fn commit(&mut self, group: &str, partition: i32, offset: i64, producer: Option<i64>) {
        let Some(producer_id) = producer else {
            let mut request = commit_request(group, -1, "", offset);
            request.topics[0].partitions[0].partition_index = partition;
            return self.ask(GroupRequest::Commit { request, version: 9 });
        };
        let asked = TxnOffsetCommitRequestPartition {
            partition_index: partition,
            committed_offset: offset,
            ..Default::default()
        };
        let request = TxnOffsetCommitRequest {
            group_id: group.to_owned().into(),
            producer_id,
            generation_id: -1,
            topics: vec![TxnOffsetCommitRequestTopic { name: "t".into(), partitions: vec![asked] }],
            ..Default::default()
        };
        self.ask(GroupRequest::CommitInTransaction(request));
    }

    /// A load of the log that is left gives what one of all that ever was in it gives, whatever becomes of open
    /// transactions; and that is what there is.
    fn check(&mut self) {
        for committed in [true, false] {
            let [left, all] = [&self.log, &self.all].map(|log| {
                let mut coordinator = replayed(log);
                (0..PRODUCERS as i64).for_each(|producer| coordinator.transaction_ended(producer, committed));
                coordinator
            });
            assert_eq!(self.state(left), self.state(all));
        }
        (0..PRODUCERS as i64).for_each(|producer| self.end_transaction(producer, true));
        let left = replayed(&self.log);
        let left = self.state(left);
        let coordinator = std::mem::replace(&mut self.coordinator, replayed(&self.log));
        assert_eq!(left, self.state(coordinator));
    }

    /// The state's own records.
    fn state(&self, mut coordinator: GroupCoordinator) -> BTreeMap<Bytes, Option<Bytes>> {
        let mut random = || 4;
        let mut context = Context {
            now_ms: 0,
            wall_clock_ms: 0,
            topics: &self.topics,
            has_room: true,
            largest_record: 1 << 20,
            random: &mut random,
        };
        coordinator.loaded(&mut context);
        coordinator.passes = Passes::new(1 << 20);
        coordinator.passes.note(0, 1 << 30);
        let mut step = Step::default();
        while step.first_needed.is_none() {
            coordinator.write_anew(&context, &mut step);
        }
        step.records.into_iter().map(|record| (record.key, record.value)).collect()
    }
}

#[test]
fn what_a_pass_leaves_in_the_log_is_the_state() {
    for seed in 0..40 {
        let topics = Topics::new([("t".to_owned(), TopicInfo { id: Uuid([1; 16]), partitions: PARTITIONS })]);
        let (log, all) = (BTreeMap::new(), BTreeMap::new());
        let coordinator = replayed(&log);
        let mut world = World { coordinator, log, all, topics, now_ms: 1, bits: seed, end: 0, gave_up: 0 };
        for round in 0..3_000 {
            world.act();
            if round % 300 == 299 {
                world.check();
            }
        }
        assert!(world.gave_up > 5, "passes come to their end");
    }
}

#[test]
fn an_offset_of_a_transaction_that_began_before_a_pass_outlives_it() {
    let topics = Topics::new([("t".to_owned(), TopicInfo { id: Uuid([1; 16]), partitions: PARTITIONS })]);
    let (log, all) = (BTreeMap::new(), BTreeMap::new());
    let coordinator = replayed(&log);
    let mut world = World { coordinator, log, all, topics, now_ms: 1, bits: 1, end: 0, gave_up: 0 };
    world.commit("g1", 0, 4, None);
    world.commit("g1", 0, 7, Some(1));
    let pass = |world: &mut World| {
        for _ in 0..20 {
            world.commit("g2", 0, 5, None);
            world.now_ms += 1_000;
            world.step(GroupCoordinator::tick);
        }
    };
    pass(&mut world);
    assert_eq!((world.gave_up, world.log.len()), (0, world.all.len()), "the open transaction holds the log");
    world.end_transaction(1, true);
    pass(&mut world);
    assert!(world.gave_up > 0);
    let loaded = replayed(&world.log);
    assert!(matches!(loaded.offsets.fetch("g1", "t", 0, true), Fetched::Committed(kept) if kept.offset == 7));
}
