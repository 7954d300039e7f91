//! Transactional producers that may open a transaction in a partition (KIP-890).
//!
//! A batch that opens a transaction is appended only with a [`Guard`]: given before the coordinator was asked,
//! good until the marker of that transaction or the batch itself is appended. So a batch that was verified, then
//! delayed, cannot open a transaction behind the marker of the one that it belonged to. Nothing of this is on
//! stable storage: after a restart producers are verified again. It knows no coordinator.

use std::collections::BTreeMap;

use super::message::{Guard, VerifyTransaction};
use crate::limits::PRODUCERS_PER_PARTITION;
use crate::protocol::ErrorCode;

struct Entry {
    guard: Guard,
    epoch: i16,
    /// The lowest sequence that asked: no later batch may overtake it.
    lowest_sequence: i32,
    bumps_epoch: bool,
}

/// The guards that a partition has given out.
#[derive(Default)]
pub struct Verifications {
    entries: BTreeMap<i64, Entry>,
    given: u64,
}

impl Verifications {
    /// The guard of the producer. Requests that ask at the same time get the same one.
    pub fn begin(&mut self, wanted: &VerifyTransaction) -> Guard {
        if self.entries.len() >= PRODUCERS_PER_PARTITION && !self.entries.contains_key(&wanted.producer_id) {
            self.drop_oldest();
        }
        if self.entries.get(&wanted.producer_id).is_some_and(|entry| entry.epoch < wanted.epoch) {
            self.entries.remove(&wanted.producer_id);
        }
        let given = &mut self.given;
        let entry = self.entries.entry(wanted.producer_id).or_insert_with(|| {
            *given += 1;
            Entry {
                guard: Guard(*given),
                epoch: wanted.epoch,
                lowest_sequence: wanted.first_sequence,
                bumps_epoch: wanted.bumps_epoch,
            }
        });
        if wanted.epoch == entry.epoch {
            entry.lowest_sequence = entry.lowest_sequence.min(wanted.first_sequence);
        }
        entry.guard
    }

    fn drop_oldest(&mut self) {
        if let Some(id) = self.entries.iter().min_by_key(|(_, entry)| entry.guard.0).map(|(id, _)| *id) {
            self.entries.remove(&id);
        }
    }

    /// Judges the batch that would open a transaction; `known` says whether the partition remembers anything of
    /// the producer. If it does, the batch is the next one: its sequence has been judged, and a lower one that asked
    /// was of a batch that came twice.
    ///
    /// # Errors
    /// INVALID_TXN_STATE without the right guard; OUT_OF_ORDER_SEQUENCE_NUMBER for a batch that overtook another.
    pub fn check(
        &self,
        producer_id: i64,
        first_sequence: i32,
        guard: Option<Guard>,
        known: bool,
    ) -> Result<(), ErrorCode> {
        let entry = self.entries.get(&producer_id).filter(|entry| Some(entry.guard) == guard);
        let entry = entry.ok_or(ErrorCode::InvalidTxnState)?;
        let starts_late = first_sequence > entry.lowest_sequence || entry.bumps_epoch && first_sequence > 0;
        if !known && starts_late {
            return Err(ErrorCode::OutOfOrderSequenceNumber);
        }
        Ok(())
    }

    /// The producer's transaction has opened: its guard is used up.
    pub fn opened(&mut self, producer_id: i64) {
        self.entries.remove(&producer_id);
    }

    /// A marker has ended a transaction: guards of it and of earlier ones are void. If the epoch was raised for the
    /// marker, the next transaction has the marker's epoch, and its first batch may have asked already.
    pub fn ended(&mut self, producer_id: i64, marker_epoch: i16, bumped: bool) {
        let is_over = |epoch: i16| epoch < marker_epoch || !bumped && epoch == marker_epoch;
        if self.entries.get(&producer_id).is_some_and(|entry| is_over(entry.epoch)) {
            self.entries.remove(&producer_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::PartitionId;
    use crate::protocol::Uuid;

    fn wants(first_sequence: i32) -> VerifyTransaction {
        let id = PartitionId { topic_id: Uuid([1; 16]), partition: 0 };
        VerifyTransaction { id, producer_id: 7, epoch: 0, first_sequence, bumps_epoch: true }
    }

    #[test]
    fn a_guard_is_good_until_the_transaction_opens_or_ends() {
        let mut verifications = Verifications::default();
        assert_eq!(verifications.check(7, 0, None, true), Err(ErrorCode::InvalidTxnState));
        let guard = verifications.begin(&wants(0));
        assert_eq!(verifications.begin(&wants(3)), guard);
        assert_eq!(verifications.check(7, 0, Some(guard), false), Ok(()));
        verifications.opened(7);
        assert_eq!(verifications.check(7, 0, Some(guard), false), Err(ErrorCode::InvalidTxnState));
        let next = verifications.begin(&wants(0));
        assert_ne!(next, guard);
        assert_eq!(verifications.check(7, 0, Some(guard), false), Err(ErrorCode::InvalidTxnState));
    }

    #[test]
    fn a_marker_voids_the_guards_of_its_transaction_and_not_of_the_next() {
        let mut verifications = Verifications::default();
        let guard = Some(verifications.begin(&wants(0)));
        verifications.ended(7, 0, true);
        assert_eq!(verifications.check(7, 0, guard, true), Ok(()), "the marker of the transaction before");
        verifications.ended(7, 1, true);
        assert_eq!(verifications.check(7, 0, guard, true), Err(ErrorCode::InvalidTxnState));
        let guard = Some(verifications.begin(&wants(0)));
        verifications.ended(7, 0, false);
        assert_eq!(verifications.check(7, 0, guard, true), Err(ErrorCode::InvalidTxnState), "version 1");
        let old = verifications.begin(&wants(0));
        let next = verifications.begin(&VerifyTransaction { epoch: 1, ..wants(0) });
        assert_ne!(old, next);
        assert_eq!(verifications.check(7, 0, Some(old), true), Err(ErrorCode::InvalidTxnState));
    }

    #[test]
    fn a_batch_that_came_twice_does_not_hold_up_the_next_transaction() {
        let mut verifications = Verifications::default();
        let version_1 = |first_sequence| VerifyTransaction { bumps_epoch: false, ..wants(first_sequence) };
        // Its transaction has ended, and the coordinator refuses it; the guard stays.
        verifications.begin(&version_1(0));
        let guard = Some(verifications.begin(&version_1(3)));
        assert_eq!(verifications.check(7, 3, guard, true), Ok(()));
    }

    #[test]
    fn no_batch_overtakes_the_first_that_asked() {
        let mut verifications = Verifications::default();
        let guard = Some(verifications.begin(&wants(4)));
        assert_eq!(verifications.check(7, 4, guard, true), Ok(()));
        assert_eq!(verifications.check(7, 4, guard, false), Err(ErrorCode::OutOfOrderSequenceNumber));
        assert_eq!(verifications.check(7, 5, guard, false), Err(ErrorCode::OutOfOrderSequenceNumber));
    }
}
