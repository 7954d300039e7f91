use super::*;
use crate::coordinator::{Record, Topics};

const ID: &str = "app-1";
/// Seldom reached but by the test that wants it.
const SNAPSHOT_AFTER_BYTES: u64 = 1 << 20;

/// A machine, its log, and a clock.
struct World {
    machine: TransactionCoordinator,
    log: Vec<Record>,
    markers: Vec<Markers>,
    now_ms: u64,
    next_id: i64,
    /// Where the log begins.
    start: i64,
    has_room: bool,
}

impl World {
    fn new() -> World {
        let machine = TransactionCoordinator::new(TransactionConfig::default(), SNAPSHOT_AFTER_BYTES);
        World { machine, log: Vec::new(), markers: Vec::new(), now_ms: 1_000, next_id: 100, start: 0, has_room: true }
    }

    fn with<T>(&mut self, act: impl FnOnce(&mut TransactionCoordinator, &mut Context<'_>) -> T) -> T {
        let topics = Topics::default();
        let mut random = || 4;
        let wall_clock_ms = 1_700_000_000_000 + self.now_ms as i64;
        act(
            &mut self.machine,
            &mut Context {
                now_ms: self.now_ms,
                wall_clock_ms,
                topics: &topics,
                has_room: self.has_room,
                largest_record: 1 << 14,
                random: &mut random,
            },
        )
    }

    fn take(&mut self, step: Step) -> Option<Reply> {
        self.machine.appended(self.log.len() as i64, &step.records);
        self.log.extend(step.records);
        self.start = step.first_needed.unwrap_or(self.start);
        self.markers.extend(step.markers);
        step.replies.into_iter().next().map(|(_, reply)| reply)
    }

    fn ask(&mut self, request: TransactionRequest) -> Result<TransactionReply, ErrorCode> {
        let step = self.with(|machine, context| machine.handle(context, 1, request));
        match self.take(step).expect("every request is answered at once") {
            Reply::Transaction(reply) => Ok(reply),
            Reply::Refused(error) => Err(error),
            other => panic!("not of this machine: {other:?}"),
        }
    }

    fn producer(&mut self, request: TransactionRequest) -> Result<(i64, i16), ErrorCode> {
        self.ask(request).map(|reply| match reply {
            TransactionReply::Producer(producer) => (producer.id, producer.epoch),
            other => panic!("not a producer: {other:?}"),
        })
    }

    fn init(&mut self, expected: Option<(i64, i16)>) -> Result<(i64, i16), ErrorCode> {
        self.next_id += 1;
        let expected = expected.map(|(id, epoch)| Producer { id, epoch });
        let spare_id = self.next_id;
        self.producer(TransactionRequest::InitProducerId {
            transactional_id: ID.into(),
            timeout_ms: 60_000,
            expected,
            spare_id,
        })
    }

    fn add(
        &mut self,
        (id, epoch): (i64, i16),
        bumps_epoch: bool,
        verify_only: bool,
        index: i32,
    ) -> Result<(), ErrorCode> {
        let partitions = [("t".to_owned(), [index].into())].into();
        let producer = Producer { id, epoch };
        let transactional_id = ID.into();
        let request =
            TransactionRequest::AddPartitions { transactional_id, producer, partitions, bumps_epoch, verify_only };
        match self.ask(request)? {
            TransactionReply::Partitions(results) if results[0].2 == ErrorCode::None => Ok(()),
            TransactionReply::Partitions(results) => Err(results[0].2),
            other => panic!("not partitions: {other:?}"),
        }
    }

    fn end(&mut self, (id, epoch): (i64, i16), bumps_epoch: bool, committed: bool) -> Result<(i64, i16), ErrorCode> {
        self.next_id += 1;
        let (producer, spare_id) = (Producer { id, epoch }, self.next_id);
        self.producer(TransactionRequest::End {
            transactional_id: ID.into(),
            producer,
            committed,
            bumps_epoch,
            spare_id,
        })
    }

    /// The markers are durable.
    fn complete(&mut self) -> Markers {
        assert_eq!(self.markers.len(), 1, "one decision is under way");
        let markers = self.markers.remove(0);
        let step = self.with(|machine, context| machine.markers_written(context, &markers));
        assert!(self.take(step).is_none());
        markers
    }

    fn tick(&mut self) {
        let step = self.with(|machine, context| machine.tick(context));
        assert!(self.take(step).is_none());
    }

    fn restart(&mut self) {
        self.machine = TransactionCoordinator::new(TransactionConfig::default(), SNAPSHOT_AFTER_BYTES);
        for (offset, record) in (self.start..).zip(&self.log[self.start as usize..]) {
            self.machine.replay(offset, &record.key, record.value.as_deref()).expect("its own records");
        }
        self.markers.clear();
        self.with(|machine, context| machine.loaded(context));
    }

    fn state(&self) -> State {
        self.machine.ids[ID].state
    }

    fn set_epoch(&mut self, epoch: i16) {
        self.machine.ids.get_mut(ID).expect("it was made").producer.epoch = epoch;
    }
}

#[test]
fn a_transaction_of_version_1_keeps_its_epoch() {
    let mut world = World::new();
    let producer = world.init(None).expect("a new id");
    assert_eq!(producer, (101, 0));
    assert_eq!(world.end(producer, false, true), Err(ErrorCode::InvalidTxnState), "nothing to end");
    assert_eq!(world.add(producer, false, true, 0), Err(ErrorCode::TransactionAbortable), "not added yet");
    assert_eq!(world.add(producer, false, false, 0), Ok(()));
    assert_eq!(world.add(producer, false, true, 0), Ok(()));
    let records = world.log.len();
    assert_eq!(world.add(producer, false, false, 0), Ok(()));
    assert_eq!(world.log.len(), records, "what is there needs no record");
    assert_eq!(world.end(producer, false, true), Ok(producer));
    assert_eq!(world.end(producer, false, true), Err(ErrorCode::ConcurrentTransactions));
    assert_eq!(world.add(producer, false, false, 1), Err(ErrorCode::ConcurrentTransactions));
    let markers = world.complete();
    assert!(markers.committed && !markers.bumped && markers.producer.epoch == 0);
    assert_eq!(world.end(producer, false, true), Ok(producer), "a repeated request");
    assert_eq!(world.end(producer, false, false), Err(ErrorCode::InvalidTxnState));
    assert_eq!(world.add(producer, false, false, 1), Ok(()));
}

#[test]
fn a_transaction_of_version_2_ends_with_a_new_epoch() {
    let mut world = World::new();
    let first = world.init(None).expect("a new id");
    assert_eq!(world.add(first, true, false, 0), Ok(()));
    let second = world.end(first, true, true).expect("it is open");
    assert_eq!(second, (101, 1));
    assert_eq!(world.end(first, true, true), Err(ErrorCode::ConcurrentTransactions), "repeated, not complete");
    assert_eq!(world.add(second, true, false, 0), Err(ErrorCode::ConcurrentTransactions), "not complete");
    for committed in [true, false] {
        assert_eq!(
            world.end(second, true, committed),
            Err(ErrorCode::ConcurrentTransactions),
            "the next epoch is early"
        );
    }
    assert_eq!(world.complete().producer, Producer { id: 101, epoch: 1 });
    assert_eq!(world.end(first, true, true), Ok(second), "a repeated request");
    assert_eq!(world.end(first, true, false), Err(ErrorCode::InvalidTxnState));
    assert_eq!(world.end(second, true, true), Err(ErrorCode::InvalidTxnState), "nothing to commit");
    assert_eq!(world.end(second, true, false), Ok((101, 2)), "an abort of nothing");
    assert_eq!(world.state(), State::CompleteAbort);
    assert_eq!(world.add(second, true, false, 0), Err(ErrorCode::ProducerFenced));
}

#[test]
fn the_next_producer_of_an_id_fences_the_one_before() {
    for bumps_epoch in [false, true] {
        let mut world = World::new();
        let old = world.init(None).expect("a new id");
        world.add(old, bumps_epoch, false, 0).expect("it is current");
        assert_eq!(world.init(None), Err(ErrorCode::ConcurrentTransactions), "the open one is aborted first");
        assert_eq!(world.init(None), Err(ErrorCode::ConcurrentTransactions));
        for committed in [true, false] {
            let busy = if bumps_epoch { ErrorCode::ConcurrentTransactions } else { ErrorCode::ProducerFenced };
            assert_eq!(world.end(old, bumps_epoch, committed), Err(busy));
        }
        let markers = world.complete();
        assert!(!markers.committed && markers.producer.epoch > old.1);
        let refused = if bumps_epoch { ErrorCode::InvalidTxnState } else { ErrorCode::ProducerFenced };
        assert_eq!(world.end(old, bumps_epoch, true), Err(refused));
        let new = world.init(None).expect("nothing is open");
        assert!(new.1 > markers.producer.epoch);
        for committed in [true, false] {
            assert_eq!(world.end(old, bumps_epoch, committed), Err(ErrorCode::ProducerFenced));
        }
        assert_eq!(world.add(old, bumps_epoch, false, 0), Err(ErrorCode::ProducerFenced));
        assert_eq!(world.init(Some(old)), Err(ErrorCode::ProducerFenced));
    }
}

#[test]
fn a_transaction_that_takes_too_long_is_aborted() {
    let mut world = World::new();
    let old = world.init(None).expect("a new id");
    world.add(old, true, false, 0).expect("it is current");
    let due = world.machine.next_deadline().expect("it has a timeout");
    assert_eq!(due, world.now_ms + 60_000);
    world.now_ms = due - 1;
    world.tick();
    assert_eq!(world.state(), State::Ongoing);
    world.now_ms = due;
    world.tick();
    assert_eq!(world.state(), State::PrepareAbort);
    assert_eq!(world.end(old, true, true), Err(ErrorCode::ConcurrentTransactions));
    world.complete();
    assert_eq!(world.end(old, true, true), Err(ErrorCode::InvalidTxnState), "it is not committed");
    assert_eq!(world.add(old, true, false, 0), Err(ErrorCode::ProducerFenced), "its epoch is over");
    let next = world.end(old, true, false).expect("it is aborted");
    assert_eq!(next, (old.0, old.1 + 1));
    assert_eq!(world.add(next, true, false, 0), Ok(()), "a producer that was too slow goes on");
}

#[test]
fn what_was_decided_before_a_crash_is_carried_out_after_it() {
    let mut world = World::new();
    let producer = world.init(None).expect("a new id");
    world.add(producer, true, false, 0).expect("it is current");
    let before = world.machine.ids.clone();
    world.restart();
    assert_eq!(world.machine.ids, before);
    assert_eq!(world.machine.deadlines.len(), 1, "the timeout goes on");
    let next = world.end(producer, true, true).expect("it is open");
    let sent = world.markers.clone();
    world.restart();
    assert_eq!(world.machine.next_deadline(), Some(0));
    world.tick();
    assert_eq!(world.markers, sent);
    world.complete();
    assert_eq!((world.state(), world.end(producer, true, true)), (State::CompleteCommit, Ok(next)));
    world.restart();
    assert_eq!((world.state(), world.end(producer, true, true)), (State::CompleteCommit, Ok(next)));
}

#[test]
fn a_producer_whose_epochs_are_used_up_gets_another_id() {
    let mut world = World::new();
    let (id, _) = world.init(None).expect("a new id");
    world.set_epoch(LAST_EPOCH);
    let last = (id, LAST_EPOCH);
    world.add(last, true, false, 0).expect("it is current");
    let (next, epoch) = world.end(last, true, true).expect("it is open");
    assert!(next != id && epoch == 0);
    assert_eq!(world.end(last, true, true), Err(ErrorCode::ConcurrentTransactions));
    assert_eq!(world.add((next, 0), true, false, 0), Err(ErrorCode::ConcurrentTransactions));
    assert_eq!(world.complete().producer, Producer { id, epoch: i16::MAX });
    assert_eq!(world.end(last, true, true), Ok((next, 0)), "a repeated request");
    world.set_epoch(LAST_EPOCH);
    assert!(world.init(None).is_ok_and(|(rotated, epoch)| rotated != next && epoch == 0));
}

#[test]
fn an_answer_that_was_lost_is_given_again() {
    let mut world = World::new();
    let first = world.init(None).expect("a new id");
    let second = world.init(Some(first)).expect("it is current");
    assert_eq!(second.1, first.1 + 1);
    assert_eq!(world.init(Some(first)), Ok(second));
    let third = world.init(None).expect("another producer");
    assert_eq!(world.init(Some(first)), Err(ErrorCode::ProducerFenced));
    assert_eq!(world.init(Some((999, 0))), Err(ErrorCode::ProducerFenced));
    assert_eq!(third.1, second.1 + 1);
}

#[test]
fn unknown_ids_wrong_producers_and_bad_timeouts_change_nothing() {
    let mut world = World::new();
    assert_eq!(world.add((1, 0), true, false, 0), Err(ErrorCode::InvalidProducerIdMapping));
    assert_eq!(world.end((1, 0), true, true), Err(ErrorCode::InvalidProducerIdMapping));
    for timeout_ms in [-1, 0, 900_001] {
        let request =
            TransactionRequest::InitProducerId { transactional_id: ID.into(), timeout_ms, expected: None, spare_id: 5 };
        assert_eq!(world.ask(request), Err(ErrorCode::InvalidTransactionTimeout));
    }
    assert!(world.log.is_empty());
    let (id, epoch) = world.init(None).expect("a new id");
    let records = world.log.len();
    assert_eq!(world.add((id + 1, epoch), true, false, 0), Err(ErrorCode::InvalidProducerIdMapping));
    assert_eq!(world.add((id, epoch + 1), true, false, 0), Err(ErrorCode::ProducerFenced));
    assert_eq!(world.log.len(), records);
}

#[test]
fn ids_that_were_silent_for_a_week_are_forgotten() {
    let mut world = World::new();
    let producer = world.init(None).expect("a new id");
    world.now_ms += 604_800_000 - 3_600_000;
    world.tick();
    assert_eq!(world.machine.ids.len(), 1);
    world.now_ms = world.machine.next_deadline().expect("ids are looked through");
    world.tick();
    assert!(world.machine.ids.is_empty());
    assert_eq!(world.end(producer, true, false), Err(ErrorCode::InvalidProducerIdMapping));
    world.restart();
    assert!(world.machine.ids.is_empty());
}

#[test]
fn the_log_begins_where_the_state_was_written_anew() {
    let mut world = World::new();
    world.machine = TransactionCoordinator::new(TransactionConfig::default(), 2_000);
    let mut last = (0, 0);
    for round in 0..500 {
        last = world.init(None).expect("nothing is open");
        if round % 7 == 0 {
            world.add(last, true, false, 0).expect("it is current");
            world.end(last, true, round % 2 == 0).expect("it is open");
            world.complete();
        }
        let other = TransactionRequest::InitProducerId {
            transactional_id: format!("other-{}", round % 40),
            timeout_ms: 60_000,
            expected: None,
            spare_id: 10_000 + round,
        };
        world.producer(other).expect("nothing is open");
        world.now_ms += 2;
        world.tick();
    }
    assert!(world.log.len() as i64 - world.start < 300, "a load reads what a pass has left");
    let before = world.machine.ids.clone();
    world.restart();
    let kept = |ids: &BTreeMap<String, Transaction>| -> Vec<_> {
        ids.iter().map(|(id, known)| (id.clone(), known.producer, known.state)).collect()
    };
    assert_eq!(kept(&world.machine.ids), kept(&before));
    assert_eq!(world.init(None).map(|next| next.1), Ok(last.1 + 1));
}

#[test]
fn without_room_nothing_changes_and_whoever_asks_is_answered() {
    let mut world = World::new();
    let producer = world.init(None).expect("a new id");
    world.add(producer, true, false, 0).expect("it is current");
    let before = world.machine.ids.clone();
    let deadline = world.machine.next_deadline();
    world.has_room = false;
    assert_eq!(world.init(None), Err(ErrorCode::CoordinatorNotAvailable));
    assert_eq!(world.add(producer, true, false, 1), Err(ErrorCode::CoordinatorNotAvailable));
    assert_eq!(world.end(producer, true, true), Err(ErrorCode::CoordinatorNotAvailable));
    assert_eq!(world.add(producer, true, true, 0), Ok(()), "it only asks");
    world.now_ms += 100_000;
    world.tick();
    assert!(world.markers.is_empty());
    assert_eq!((&world.machine.ids, world.machine.deadlines.len()), (&before, 1));
    assert_eq!(world.machine.next_deadline(), deadline);
    world.has_room = true;
    world.tick();
    assert_eq!(world.state(), State::PrepareAbort, "what was put off is done");
}

#[test]
fn a_transaction_that_no_record_can_hold_is_refused() {
    let mut world = World::new();
    let producer = world.init(None).expect("a new id");
    let request = |partitions: i32| TransactionRequest::AddPartitions {
        transactional_id: ID.into(),
        producer: Producer { id: producer.0, epoch: producer.1 },
        partitions: [("t".to_owned(), (0..partitions).collect())].into(),
        bumps_epoch: true,
        verify_only: false,
    };
    let before = world.machine.ids.clone();
    assert_eq!(world.ask(request(5_000)), Err(ErrorCode::UnknownServerError));
    assert_eq!(world.machine.ids, before);
    assert!(world.ask(request(3_000)).is_ok());
}
