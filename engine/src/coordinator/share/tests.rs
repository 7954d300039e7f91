use super::*;
use crate::coordinator::{Machine, TopicInfo, Topics};

const TOPIC: Uuid = Uuid([3; 16]);

fn topics() -> Topics {
    Topics::new([("t".to_owned(), TopicInfo { id: TOPIC, partitions: 2 })])
}

fn key(partition: i32) -> SharePartitionKey {
    SharePartitionKey { group: "g".to_owned(), topic_id: TOPIC, partition }
}

struct Bench {
    machine: ShareCoordinator,
    topics: Topics,
    log: Vec<crate::coordinator::Record>,
}

impl Bench {
    fn new(updates_per_snapshot: u32) -> Bench {
        let machine = ShareCoordinator::new(ShareConfig { updates_per_snapshot });
        Bench { machine, topics: topics(), log: Vec::new() }
    }

    fn ask(&mut self, partition: i32, action: ShareAction) -> ShareReply {
        let mut random = || 4;
        let mut context = Context { now_ms: 0, wall_clock_ms: 1000, topics: &self.topics, random: &mut random };
        let step = self.machine.handle(&mut context, 9, ShareRequest { key: key(partition), action });
        self.log.extend(step.records);
        match &step.replies[..] {
            [(9, Reply::Share(reply))] => reply.clone(),
            other => panic!("one answer, not {other:?}"),
        }
    }

    fn done(&mut self, partition: i32, action: ShareAction) -> Result<(), ErrorCode> {
        match self.ask(partition, action) {
            ShareReply::Done(result) => result.map_err(|refusal| refusal.0),
            other => panic!("{other:?}"),
        }
    }

    fn initialize(&mut self, state_epoch: i32, start_offset: i64) -> Result<(), ErrorCode> {
        self.done(0, ShareAction::Initialize { state_epoch, start_offset })
    }

    fn write(&mut self, leader_epoch: i32, start_offset: i64, first: i64, last: i64) -> Result<(), ErrorCode> {
        let batch = write_share_group_state::StateBatch {
            first_offset: first,
            last_offset: last,
            delivery_state: 2,
            delivery_count: 1,
        };
        self.done(0, ShareAction::Write { state_epoch: 1, leader_epoch, start_offset, batches: vec![batch] })
    }

    fn read(&mut self, leader_epoch: i32) -> Result<ShareRead, ErrorCode> {
        match self.ask(0, ShareAction::Read { leader_epoch }) {
            ShareReply::Read(result) => result.map_err(|refusal| refusal.0),
            other => panic!("{other:?}"),
        }
    }

    /// The machine that a restart makes of the log.
    fn restarted(&self) -> ShareCoordinator {
        let mut machine = ShareCoordinator::new(self.machine.config.clone());
        for record in &self.log {
            machine.replay(&record.key, record.value.as_deref()).expect("its own record");
        }
        machine
    }
}

#[test]
fn states_are_begun_changed_and_read_and_survive_restarts() {
    let mut bench = Bench::new(3);
    assert_eq!(bench.read(0), Err(ErrorCode::InvalidRequest));
    assert_eq!(bench.write(0, 0, 0, 4), Err(ErrorCode::InvalidRequest));
    assert_eq!(bench.initialize(1, -1), Ok(()));
    assert_eq!(bench.read(0), Ok(ShareRead { state_epoch: 1, start_offset: -1, batches: vec![] }));
    for at in 0..10 {
        assert_eq!(bench.write(0, at, at * 2, at * 2), Ok(()));
        assert_eq!(bench.restarted().states, bench.machine.states, "after write {at}");
    }
    let snapshots = bench.log.iter().filter(|record| record.key[..2] == [0, 0]).count();
    assert_eq!((bench.log.len(), snapshots), (11, 3), "one at first, and one after each three updates");
    let read = bench.read(0).expect("it is there");
    assert_eq!((read.start_offset, read.batches.len(), read.batches[0].first_offset), (9, 5, 10));
    assert_eq!(bench.done(0, ShareAction::Delete), Ok(()));
    assert_eq!(bench.done(0, ShareAction::Delete), Ok(()), "it is gone already");
    assert!(bench.restarted().states.is_empty() && bench.machine.states.is_empty());
}

#[test]
fn older_epochs_are_fenced() {
    let mut bench = Bench::new(500);
    bench.initialize(1, 0).expect("it is begun");
    assert_eq!(bench.read(4).map(|read| read.start_offset), Ok(0));
    assert_eq!(bench.read(3), Err(ErrorCode::FencedLeaderEpoch));
    assert_eq!(bench.write(3, 0, 0, 1), Err(ErrorCode::FencedLeaderEpoch));
    assert_eq!(bench.write(4, 0, 0, 1), Ok(()));
    assert_eq!(bench.initialize(5, 100), Ok(()));
    assert_eq!(bench.write(4, 0, 2, 3), Err(ErrorCode::FencedStateEpoch));
    assert_eq!(bench.initialize(4, 0), Err(ErrorCode::FencedStateEpoch));
    assert_eq!(bench.read(4), Ok(ShareRead { state_epoch: 5, start_offset: 100, batches: vec![] }));
    assert_eq!(bench.restarted().states, bench.machine.states);
}

#[test]
fn what_is_not_there_is_refused_and_what_goes_is_forgotten() {
    let mut bench = Bench::new(500);
    let begin = |bench: &mut Bench, partition| {
        bench.done(partition, ShareAction::Initialize { state_epoch: 1, start_offset: 3 })
    };
    assert_eq!(begin(&mut bench, -1), Err(ErrorCode::InvalidRequest));
    assert_eq!(begin(&mut bench, 2), Err(ErrorCode::UnknownTopicOrPartition));
    assert_eq!(begin(&mut bench, 1), Ok(()));
    let summary = |bench: &mut Bench, partition| match bench.ask(partition, ShareAction::Summarize) {
        ShareReply::Summary(result) => result.map(|summary| summary.start_offset).map_err(|refusal| refusal.0),
        other => panic!("{other:?}"),
    };
    assert_eq!(summary(&mut bench, 1), Ok(3));
    assert_eq!(summary(&mut bench, 0), Ok(-1));
    assert_eq!(summary(&mut bench, 2), Err(ErrorCode::UnknownTopicOrPartition));
    bench.topics = Topics::default();
    let mut random = || 4;
    let mut context = Context { now_ms: 0, wall_clock_ms: 1000, topics: &bench.topics, random: &mut random };
    let step = bench.machine.topics_changed(&mut context);
    bench.log.extend(step.records);
    assert!(bench.machine.states.is_empty() && bench.restarted().states.is_empty());
}

#[test]
fn states_are_bounded() {
    let mut bench = Bench::new(500);
    bench.initialize(1, 0).expect("it is begun");
    let batch = |at: i64| write_share_group_state::StateBatch {
        first_offset: at,
        last_offset: at,
        delivery_state: if at % 2 == 0 { 2 } else { 0 },
        delivery_count: 1,
    };
    let write = |bench: &mut Bench, from: i64, count: i64| {
        let batches = (from..from + count).map(batch).collect();
        bench.done(0, ShareAction::Write { state_epoch: 1, leader_epoch: 0, start_offset: 0, batches })
    };
    assert_eq!(write(&mut bench, 0, 41_000), Err(ErrorCode::InvalidRequest));
    assert_eq!(write(&mut bench, 0, 30_000), Ok(()));
    assert_eq!(write(&mut bench, 30_000, 11_000), Err(ErrorCode::InvalidRequest));
    assert_eq!(bench.read(0).expect("it is there").batches.len(), 30_000, "a refusal changes nothing");
    assert_eq!(write(&mut bench, 10, 20_000), Ok(()), "these are the same");
}

#[test]
fn keys_are_kafkas() {
    assert!(SharePartitionKey::is_coordinator_key(&key(3).coordinator_key()));
    for wrong in ["", "g", "g:t:0", " :AwMDAwMDAwMDAwMDAwMDAw:0", "g:AwMDAwMDAwMDAwMDAwMDAw:x", "a:b:c:d"] {
        assert!(!SharePartitionKey::is_coordinator_key(wrong), "{wrong}");
    }
    let mut machine = Machine::Share(Box::new(ShareCoordinator::new(ShareConfig::default())));
    machine.replay(None, &[0, 77], None).expect_err("a record of another kind");
}
