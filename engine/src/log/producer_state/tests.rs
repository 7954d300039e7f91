use super::*;
use crate::record::BatchBuilder;
use crate::record::control::end_transaction_marker;

const ID: i64 = 7;

struct Partition {
    states: ProducerStates,
    end: i64,
}

impl Partition {
    fn new() -> Partition {
        Partition { states: ProducerStates::default(), end: 0 }
    }

    fn try_append(&mut self, epoch: i16, sequence: i32, transactional: bool) -> SequenceCheck {
        self.try_append_of(ID, epoch, sequence, transactional)
    }

    /// Three records.
    fn try_append_of(&mut self, id: i64, epoch: i16, sequence: i32, transactional: bool) -> SequenceCheck {
        let mut batch = BatchBuilder::new().producer(id, epoch, sequence).transactional(transactional);
        (0..3).for_each(|_| batch.append(1000, None, Some(b"x"), &[]));
        let bytes = batch.finish();
        let view = BatchView::parse(&bytes).expect("it was built");
        let last_sequence = view.last_sequence();
        let wanted = Incoming { producer_id: id, epoch, first_sequence: sequence, last_sequence, transactional };
        let verdict = self.states.check(&wanted);
        if verdict == SequenceCheck::Append {
            assert_eq!(self.states.note(&view, self.end), None);
            self.end += 3;
        }
        verdict
    }

    fn try_end(
        &mut self,
        id: i64,
        epoch: i16,
        committed: bool,
        coordinator_epoch: i32,
    ) -> Result<Option<Ended>, ErrorCode> {
        let marker = EndTransactionMarker { committed, producer_id: id, producer_epoch: epoch, coordinator_epoch };
        self.states.check_marker(&marker, false)?;
        let bytes = end_transaction_marker(&marker, 2000);
        let ended = self.states.note(&BatchView::parse(&bytes).expect("it was built"), self.end);
        self.end += 1;
        Ok(ended)
    }
}

fn refused(error: ErrorCode) -> SequenceCheck {
    SequenceCheck::Reject(error)
}

#[test]
fn sequences_follow_kafkas_rules() {
    let mut partition = Partition::new();
    assert_eq!(partition.try_append(3, 10, false), SequenceCheck::Append, "an unknown producer may start anywhere");
    assert_eq!(partition.try_append(3, 14, false), refused(ErrorCode::OutOfOrderSequenceNumber));
    assert!(
        matches!(partition.try_append(3, 10, false), SequenceCheck::Duplicate(original) if original.base_offset == 0)
    );
    assert_eq!(partition.try_append(2, 13, false), refused(ErrorCode::InvalidProducerEpoch));
    assert_eq!(partition.try_append(4, 13, false), refused(ErrorCode::OutOfOrderSequenceNumber));
    assert_eq!(partition.try_append(4, 0, false), SequenceCheck::Append);
}

#[test]
fn a_transaction_opens_with_its_first_batch_and_ends_with_its_marker() {
    let mut partition = Partition::new();
    assert_eq!(partition.try_append(0, 0, true), SequenceCheck::Append);
    assert_eq!(partition.try_append(0, 3, true), SequenceCheck::Append);
    assert_eq!(partition.states.first_open_offset(), Some(0));
    assert!(partition.states.has_open_transaction(ID, 0) && !partition.states.has_open_transaction(ID, 1));
    assert_eq!(partition.try_append(0, 6, false), refused(ErrorCode::InvalidTxnState));
    let ended = partition.try_end(ID, 0, true, 5).expect("it is its own").expect("one was open");
    assert_eq!((ended.first_offset, ended.marker_offset, ended.aborted), (0, 6, None));
    assert_eq!(partition.states.first_open_offset(), None);
    assert_eq!(partition.try_append(0, 6, false), SequenceCheck::Append, "numbering goes on behind the marker");
    assert_eq!(partition.try_end(ID, 0, true, 5), Ok(None), "a second marker ends nothing");
    assert_eq!(partition.try_end(ID, 0, true, 4), Err(ErrorCode::TransactionCoordinatorFenced));
}

#[test]
fn a_marker_with_the_next_epoch_fences_and_the_next_transaction_starts_at_zero() {
    let mut partition = Partition::new();
    partition.try_append(0, 0, true);
    partition.try_end(ID, 1, false, 0).expect("a newer epoch").expect("one was open");
    assert_eq!(partition.try_append(0, 3, true), refused(ErrorCode::InvalidProducerEpoch));
    assert_eq!(partition.try_append(1, 3, true), refused(ErrorCode::OutOfOrderSequenceNumber));
    assert_eq!(partition.try_append(1, 0, true), SequenceCheck::Append);
    assert_eq!(partition.try_end(ID, 0, false, 0), Err(ErrorCode::InvalidProducerEpoch), "of the previous epoch");
    let late = EndTransactionMarker { committed: true, producer_id: ID, producer_epoch: 1, coordinator_epoch: 0 };
    assert_eq!(partition.states.check_marker(&late, true), Err(ErrorCode::InvalidProducerEpoch), "of the one before");
    assert_eq!(partition.states.check_marker(&late, false), Ok(()), "version 1 of transactions keeps its epoch");
}

#[test]
fn the_first_open_transaction_holds_back_what_is_stable() {
    let mut partition = Partition::new();
    partition.try_append_of(1, 0, 0, true);
    partition.try_append_of(2, 0, 0, true);
    let second = partition.try_end(2, 0, false, 0).expect("accepted").expect("one was open");
    let entry = second.aborted.expect("it was aborted");
    assert_eq!((entry.first_offset, entry.last_offset, entry.last_stable_offset), (3, 6, 0));
    let first = partition.try_end(1, 0, false, 0).expect("accepted").expect("one was open");
    assert_eq!(first.aborted.map(|entry| entry.last_stable_offset), Some(8));
}

#[test]
fn a_coordinators_batches_have_no_numbering() {
    let mut partition = Partition::new();
    for _ in 0..3 {
        assert_eq!(partition.try_append(0, NO_SEQUENCE, true), SequenceCheck::Append);
    }
    assert_eq!(partition.try_append(1, NO_SEQUENCE, true), SequenceCheck::Append);
    assert_eq!(partition.try_append(0, NO_SEQUENCE, true), refused(ErrorCode::InvalidProducerEpoch));
}

#[test]
fn everything_survives_a_checkpoint_and_open_transactions_survive_silence() {
    let mut partition = Partition::new();
    partition.try_append_of(1, 0, 0, true);
    partition.try_append_of(2, 4, 9, false);
    partition.try_end(3, 1, false, 6).expect("accepted");
    let mut bytes = Vec::new();
    partition.states.encode(&mut bytes);
    assert_eq!(ProducerStates::decode(&mut &bytes[..]).as_ref(), Some(&partition.states));
    for cut in 0..bytes.len() {
        assert_eq!(ProducerStates::decode(&mut &bytes[..cut]), None);
    }
    let known = |states: &ProducerStates| states.active().iter().map(|active| active.producer_id).collect::<Vec<_>>();
    partition.states.forget_silent(6);
    assert_eq!(known(&partition.states), [1, 3]);
    partition.states.forget_silent(1_000_000);
    assert_eq!(known(&partition.states), [1]);
}

#[test]
fn ends_are_told_when_they_are_old_enough() {
    let (mut ends, minute) = (Ends::default(), |count: u64| Instant(0) + Duration::from_secs(60 * count));
    let age = Duration::from_secs(600);
    assert_eq!(ends.note(minute(0), 5, age), 0);
    assert_eq!(ends.note(minute(5), 7, age), 0);
    assert_eq!(ends.note(minute(9), 7, age), 0);
    assert_eq!(ends.note(minute(10), 7, age), 5);
    assert_eq!(ends.note(minute(15), 7, age), 7);
    (16..100).for_each(|at| assert_eq!(ends.note(minute(at), 7, age), 7));
    assert!(ends.noted.is_empty(), "an idle log costs nothing");
    assert_eq!(ends.note(minute(200), 8, Duration::ZERO), 8);
}
