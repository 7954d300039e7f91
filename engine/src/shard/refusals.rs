//! Producers whose first batch in a partition was refused for want of room, for now.
//!
//! A log takes any sequence from a producer that it does not know, as Kafka's does. So with several batches in
//! flight, of which the first finds a full disk and the next one room again, the next would be taken before it: a
//! hole that the first one's repetition cannot fill any more. Here it is remembered which sequence must come first. A
//! restart forgets it: then the connection is gone too, and the producer begins with its first batch.

use std::collections::BTreeMap;

use crate::limits::PRODUCERS_PER_PARTITION;
use crate::log::producer_state::Incoming;
use crate::record::batch::NO_SEQUENCE;

/// By producer id: the epoch and the lowest sequence that was refused.
#[derive(Default)]
pub(super) struct Refusals(BTreeMap<i64, (i16, i32)>);

impl Refusals {
    /// A batch that its producer is going to send again was refused.
    pub(super) fn note(&mut self, producer_id: i64, epoch: i16, first_sequence: i32) {
        if producer_id < 0 || first_sequence == NO_SEQUENCE {
            return;
        }
        if self.0.len() >= PRODUCERS_PER_PARTITION && !self.0.contains_key(&producer_id) {
            // Ids grow: the smallest is the one that is most likely gone.
            self.0.pop_first();
        }
        let refused = self.0.entry(producer_id).or_insert((epoch, first_sequence));
        if refused.0 != epoch {
            *refused = (epoch, first_sequence);
        }
        refused.1 = refused.1.min(first_sequence);
    }

    /// Whether the batch of a producer that the log does not know would overtake one that was refused.
    pub(super) fn is_overtaking(&self, batch: &Incoming) -> bool {
        let refused = self.0.get(&batch.producer_id);
        refused.is_some_and(|(epoch, sequence)| *epoch == batch.epoch && batch.first_sequence > *sequence)
    }

    /// The log knows the producer from now on.
    pub(super) fn settled(&mut self, producer_id: i64) {
        self.0.remove(&producer_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_overtakes_what_was_refused() {
        let batch = |producer_id, epoch, first_sequence| Incoming {
            producer_id,
            epoch,
            first_sequence,
            last_sequence: first_sequence,
            transactional: false,
        };
        let mut refusals = Refusals::default();
        refusals.note(7, 0, 3);
        refusals.note(7, 0, 5);
        refusals.note(-1, -1, NO_SEQUENCE);
        assert!(refusals.is_overtaking(&batch(7, 0, 5)));
        assert!(!refusals.is_overtaking(&batch(7, 0, 3)), "the one that was refused itself");
        assert!(!refusals.is_overtaking(&batch(7, 1, 5)), "a new epoch begins anew");
        assert!(!refusals.is_overtaking(&batch(8, 0, 5)));
        refusals.settled(7);
        assert!(!refusals.is_overtaking(&batch(7, 0, 5)));
        for id in 0..2 * PRODUCERS_PER_PARTITION as i64 {
            refusals.note(id, 0, 0);
        }
        assert_eq!(refusals.0.len(), PRODUCERS_PER_PARTITION);
    }
}
