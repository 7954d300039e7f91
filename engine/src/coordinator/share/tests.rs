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
    /// From the offset on that a load needs.
    log: Vec<Record>,
    start: i64,
    now_ms: u64,
}

impl Bench {
    fn new(updates_per_snapshot: u32) -> Bench {
        let machine = ShareCoordinator::new(ShareConfig { updates_per_snapshot, ..ShareConfig::default() });
        let mut bench = Bench { machine, topics: topics(), log: Vec::new(), start: 0, now_ms: 1000 };
        bench.step(|machine, context| {
            machine.loaded(context);
            Step::default()
        });
        bench
    }

    fn step(&mut self, act: impl FnOnce(&mut ShareCoordinator, &mut Context<'_>) -> Step) -> Vec<(Ticket, Reply)> {
        let mut random = || 4;
        let (now_ms, wall_clock_ms) = (self.now_ms, self.now_ms as i64);
        let mut context = Context {
            now_ms,
            wall_clock_ms,
            topics: &self.topics,
            has_room: true,
            largest_record: 1 << 20,
            random: &mut random,
        };
        let step = act(&mut self.machine, &mut context);
        let end = self.start + self.log.len() as i64;
        self.machine.appended(end, &step.records);
        self.log.extend(step.records);
        if let Some(first) = step.first_needed {
            self.log.drain(..(first - self.start) as usize);
            self.start = first;
        }
        step.replies
    }

    /// Lets time pass, deadline by deadline.
    fn pass(&mut self, ms: u64) {
        let end = self.now_ms + ms;
        while let Some(next) = self.machine.next_deadline().filter(|next| *next <= end) {
            self.now_ms = next;
            assert!(self.step(ShareCoordinator::tick).is_empty());
            assert!(self.machine.next_deadline().is_some_and(|after| after > next), "a tick does what is due");
        }
        self.now_ms = end;
    }

    fn ask(&mut self, partition: i32, action: ShareAction) -> ShareReply {
        let request = ShareRequest { key: key(partition), action };
        match &self.step(|machine, context| machine.handle(context, 9, request))[..] {
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
        for (offset, record) in (self.start..).zip(&self.log) {
            machine.replay(offset, &record.key, record.value.as_deref()).expect("its own record");
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
    bench.step(ShareCoordinator::topics_changed);
    assert!(bench.machine.states.is_empty() && bench.restarted().states.is_empty());
}

#[test]
fn the_log_is_as_long_as_its_states_need() {
    let mut bench = Bench::new(5);
    bench.done(1, ShareAction::Initialize { state_epoch: 1, start_offset: 7 }).expect("it is begun");
    bench.initialize(1, 0).expect("it is begun");
    for round in 0..20 {
        for at in 0..30 {
            assert_eq!(bench.write(0, 30 * round + at, 30 * round + at, 30 * round + at), Ok(()));
            assert_eq!(bench.restarted().states, bench.machine.states);
        }
        bench.pass(300_000);
        assert_eq!(bench.restarted().states, bench.machine.states, "a load needs nothing that was given up");
        // What was written since the round before, and the snapshot of the one that is cold.
        assert!(bench.log.len() <= 40, "round {round}: {} records", bench.log.len());
    }
    // Who is not written to is not snapshotted again and again.
    bench.pass(600_000);
    let records = bench.start + bench.log.len() as i64;
    bench.pass(6_000_000);
    assert_eq!(bench.start + bench.log.len() as i64, records);
    assert!(bench.log.len() < 4, "{} records", bench.log.len());
    let ShareReply::Summary(Ok(cold)) = bench.ask(1, ShareAction::Summarize) else { panic!("it is there") };
    assert_eq!((cold.start_offset, cold.state_epoch), (7, 1));

    // Of what is gone nothing is left, after a load too.
    bench.topics = Topics::default();
    bench.step(ShareCoordinator::topics_changed);
    bench.machine = bench.restarted();
    bench.step(|machine, context| {
        machine.loaded(context);
        Step::default()
    });
    bench.pass(300_000);
    assert_eq!(bench.log.len(), 0);
}

#[test]
fn cold_states_are_snapshotted_a_bounded_part_at_a_time() {
    let mut bench = Bench::new(0);
    let states = 5;
    bench.topics = Topics::new([("t".to_owned(), TopicInfo { id: TOPIC, partitions: states + 1 })]);
    let batch = |at: i64| write_share_group_state::StateBatch {
        first_offset: at,
        last_offset: at,
        delivery_state: if at % 2 == 0 { 2 } else { 0 },
        delivery_count: 1,
    };
    for partition in 0..=states {
        bench.done(partition, ShareAction::Initialize { state_epoch: 1, start_offset: 0 }).expect("it is begun");
        let batches = (0..30_000).map(batch).collect();
        let write = ShareAction::Write { state_epoch: 1, leader_epoch: 0, start_offset: 0, batches };
        bench.done(partition, write).expect("it is not too large");
    }
    for _ in 0..30 {
        bench.write(0, 0, 0, 0).expect("it is known");
    }
    bench.now_ms += 300_000;
    let mut rounds = 0;
    while bench.machine.next_deadline().is_some_and(|at| at <= bench.now_ms) {
        let before = bench.start + bench.log.len() as i64;
        bench.step(ShareCoordinator::tick);
        assert!(bench.start + bench.log.len() as i64 - before <= 2, "two of them are more than enough");
        bench.now_ms += 1;
        rounds += 1;
    }
    assert_eq!(rounds, 3);
    bench.pass(300_000);
    assert_eq!(bench.log.len(), states as usize + 1);
    assert_eq!(bench.restarted().states, bench.machine.states);
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
    machine.replay(0, None, &[0, 77], None).expect_err("a record of another kind");
}
