//! Transactional producers that may open a transaction in a partition (KIP-890).
//!
//! A batch that opens a transaction is appended only with a [`Guard`]: given before the coordinator was asked,
//! good until a marker of that producer or the batch itself is appended. So a batch that was verified, then
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
        if wanted.epoch > entry.epoch {
            (entry.epoch, entry.lowest_sequence) = (wanted.epoch, wanted.first_sequence);
        } else if wanted.epoch == entry.epoch {
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
    /// the producer.
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
        let starts_late = entry.bumps_epoch && !known && first_sequence > 0;
        if first_sequence > entry.lowest_sequence || starts_late {
            return Err(ErrorCode::OutOfOrderSequenceNumber);
        }
        Ok(())
    }

    /// The producer's transaction has opened or ended: its guard is void.
    pub fn end(&mut self, producer_id: i64) {
        self.entries.remove(&producer_id);
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
        verifications.end(7);
        assert_eq!(verifications.check(7, 0, Some(guard), false), Err(ErrorCode::InvalidTxnState));
        let next = verifications.begin(&wants(0));
        assert_ne!(next, guard);
        assert_eq!(verifications.check(7, 0, Some(guard), false), Err(ErrorCode::InvalidTxnState));
    }

    #[test]
    fn no_batch_overtakes_the_first_that_asked() {
        let mut verifications = Verifications::default();
        let guard = Some(verifications.begin(&wants(4)));
        assert_eq!(verifications.check(7, 4, guard, true), Ok(()));
        assert_eq!(verifications.check(7, 4, guard, false), Err(ErrorCode::OutOfOrderSequenceNumber));
        assert_eq!(verifications.check(7, 5, guard, true), Err(ErrorCode::OutOfOrderSequenceNumber));
    }
}
