//! What a partition remembers of its producers: the last five batches of each, and its open transaction.
//!
//! Kafka's rules (ProducerAppendInfo, ProducerStateEntry): the same batch again is answered as its original,
//! a gap or an older duplicate is out of order, an older epoch is fenced, an unknown producer is accepted. A
//! transaction opens with its first batch and ends with a marker. Unlike Kafka's snapshot, which keeps the
//! last batch alone, all five survive a restart. Everything here follows from the batches in the log alone,
//! so that a replay comes to the same state. Invariant: a producer with an open transaction is not forgotten.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::{Buf, BufMut};

use super::transaction_index::AbortedTransaction;
use crate::io::Instant;
use crate::limits::{BATCHES_PER_PRODUCER, PRODUCERS_PER_PARTITION};
use crate::protocol::ErrorCode;
use crate::record::batch::{BatchView, NO_SEQUENCE};
use crate::record::control::{EndTransactionMarker, parse_marker};

/// One batch of a producer, as it stands in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerBatch {
    /// The sequence of its first record; −1 if a coordinator wrote it for the producer.
    pub first_sequence: i32,
    /// The sequence of its last record; they wrap from 2³¹−1 to 0.
    pub last_sequence: i32,
    /// The offset of its first record.
    pub base_offset: i64,
    /// The offset of its last record.
    pub last_offset: i64,
    /// Its greatest timestamp, in milliseconds.
    pub timestamp: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Producer {
    epoch: i16,
    /// The coordinator's epoch in the last marker, −1 before the first.
    coordinator_epoch: i32,
    /// Where its open transaction begins.
    open_since: Option<i64>,
    /// The offset of its newest batch or marker.
    last_offset: i64,
    /// The timestamp of its newest batch or marker, in milliseconds.
    last_timestamp: i64,
    /// Of the present epoch. None if a marker alone has brought that epoch.
    batches: VecDeque<ProducerBatch>,
}

impl Producer {
    fn new(epoch: i16) -> Producer {
        Producer {
            epoch,
            coordinator_epoch: -1,
            open_since: None,
            last_offset: -1,
            last_timestamp: -1,
            batches: VecDeque::new(),
        }
    }

    fn enter_epoch(&mut self, epoch: i16) {
        if self.epoch != epoch {
            self.batches.clear();
            self.epoch = epoch;
        }
    }
}

/// A batch with a producer id (≥ 0) that asks to be appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incoming {
    /// The producer.
    pub producer_id: i64,
    /// Its epoch.
    pub epoch: i16,
    /// The sequence of the first record; −1 if a coordinator writes for the producer, which has no numbering.
    pub first_sequence: i32,
    /// That of the last record.
    pub last_sequence: i32,
    /// Whether it belongs to a transaction.
    pub transactional: bool,
}

/// What to do with a batch of an idempotent producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SequenceCheck {
    /// It is the next one.
    Append,
    /// It is in the log already, as this batch.
    Duplicate(ProducerBatch),
    /// It is refused with this error.
    Reject(ErrorCode),
}

/// A transaction that a marker has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// The offset of its first record.
    pub first_offset: i64,
    /// The offset of its marker.
    pub marker_offset: i64,
    /// Its entry in the transaction index, if it was aborted.
    pub aborted: Option<AbortedTransaction>,
}

/// A producer as DescribeProducers tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActiveProducer {
    /// Its id.
    pub producer_id: i64,
    /// Its epoch.
    pub epoch: i16,
    /// The sequence of its last record, −1 for none.
    pub last_sequence: i32,
    /// The timestamp of its last batch or marker, in milliseconds.
    pub last_timestamp: i64,
    /// The coordinator's epoch in the last marker, −1 for none.
    pub coordinator_epoch: i32,
    /// Where its open transaction begins, −1 for none.
    pub open_since: i64,
}

/// The producers of a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProducerStates {
    producers: BTreeMap<i64, Producer>,
    /// Who has a transaction open, by its first offset. Follows from `producers`.
    open: BTreeMap<i64, i64>,
}

/// Where a log ended at times past: what tells how long its producers have been silent. Kafka takes the records' timestamps
/// for that, which are the clients' own: a producer of yesterday's records would be forgotten while it is at work.
/// Counts from the start of the broker.
#[derive(Debug, Default)]
pub struct Ends {
    noted: VecDeque<(Instant, i64)>,
    reached: i64,
}

impl Ends {
    /// Notes where the log ends now; gives where it ended `age` ago.
    pub fn note(&mut self, now: Instant, log_end_offset: i64, age: Duration) -> i64 {
        if self.noted.back().map_or(self.reached, |(_, end)| *end) < log_end_offset {
            self.noted.push_back((now, log_end_offset));
        }
        while let Some((_, end)) = self.noted.pop_front_if(|(noted, _)| now.since(*noted) >= age) {
            self.reached = end;
        }
        self.reached
    }
}

fn next_sequence(last: i32) -> i32 {
    if last == i32::MAX { 0 } else { last + 1 }
}

impl ProducerStates {
    /// Judges a batch before it is appended.
    pub fn check(&self, batch: &Incoming) -> SequenceCheck {
        let Some(producer) = self.producers.get(&batch.producer_id) else { return SequenceCheck::Append };
        if batch.epoch < producer.epoch {
            return SequenceCheck::Reject(ErrorCode::InvalidProducerEpoch);
        }
        let numbered = batch.first_sequence != NO_SEQUENCE;
        let same = |known: &&ProducerBatch| {
            known.first_sequence == batch.first_sequence && known.last_sequence == batch.last_sequence
        };
        if let Some(original) = producer.batches.iter().find(same).filter(|_| numbered && batch.epoch == producer.epoch)
        {
            return SequenceCheck::Duplicate(*original);
        }
        let last = producer.batches.back().filter(|_| batch.epoch == producer.epoch);
        // A producer that is known, but not in this epoch, begins at 0.
        if numbered && batch.first_sequence != last.map_or(0, |last| next_sequence(last.last_sequence)) {
            return SequenceCheck::Reject(ErrorCode::OutOfOrderSequenceNumber);
        }
        if producer.open_since.is_some() && !batch.transactional {
            return SequenceCheck::Reject(ErrorCode::InvalidTxnState);
        }
        SequenceCheck::Append
    }

    /// Judges a marker before it is appended. If `bumped`, the coordinator raised the epoch for it (KIP-890):
    /// one that is no newer than the open transaction's data belongs to an earlier transaction.
    ///
    /// # Errors
    /// INVALID_PRODUCER_EPOCH or TRANSACTION_COORDINATOR_FENCED.
    pub fn check_marker(&self, marker: &EndTransactionMarker, bumped: bool) -> Result<(), ErrorCode> {
        let Some(producer) = self.producers.get(&marker.producer_id) else { return Ok(()) };
        let late = bumped && producer.open_since.is_some() && marker.producer_epoch == producer.epoch;
        if (marker.producer_epoch < producer.epoch || late) && !planted!(MarkerOfPreviousEpochAccepted) {
            return Err(ErrorCode::InvalidProducerEpoch);
        }
        if marker.coordinator_epoch < producer.coordinator_epoch {
            return Err(ErrorCode::TransactionCoordinatorFenced);
        }
        Ok(())
    }

    /// Whether the producer has a transaction open in this epoch.
    pub fn has_open_transaction(&self, producer_id: i64, epoch: i16) -> bool {
        self.producers
            .get(&producer_id)
            .is_some_and(|producer| producer.open_since.is_some() && producer.epoch == epoch)
    }

    /// Whether anything is known of the producer.
    pub fn knows(&self, producer_id: i64) -> bool {
        self.producers.contains_key(&producer_id)
    }

    /// Whether one more producer could not be remembered, because all that are have a transaction open.
    pub fn is_full_of_transactions(&self) -> bool {
        self.open.len() >= PRODUCERS_PER_PARTITION
    }

    /// The first offset of the transaction that was opened first, of those that are open.
    pub fn first_open_offset(&self) -> Option<i64> {
        self.open.first_key_value().map(|(offset, _)| *offset)
    }

    /// Remembers a batch that stands at `base_offset`; one without a producer id leaves no trace. Gives the
    /// transaction that it ends, if it is a marker of one that is open.
    pub fn note(&mut self, batch: &BatchView<'_>, base_offset: i64) -> Option<Ended> {
        if batch.producer_id() < 0 {
            return None;
        }
        if !self.knows(batch.producer_id()) && self.producers.len() >= PRODUCERS_PER_PARTITION {
            self.forget_the_most_silent();
        }
        if batch.attributes().is_control() {
            // Control records of other types say nothing of producers.
            let marker = parse_marker(batch).ok().flatten()?;
            return self.note_marker(&marker, base_offset, batch.max_timestamp());
        }
        let epoch = batch.producer_epoch();
        let producer = self.producers.entry(batch.producer_id()).or_insert_with(|| Producer::new(epoch));
        producer.enter_epoch(epoch);
        producer.last_offset = base_offset + i64::from(batch.last_offset_delta());
        producer.last_timestamp = batch.max_timestamp();
        if producer.batches.len() == BATCHES_PER_PRODUCER {
            producer.batches.pop_front();
        }
        producer.batches.push_back(ProducerBatch {
            first_sequence: batch.base_sequence(),
            last_sequence: batch.last_sequence(),
            base_offset,
            last_offset: producer.last_offset,
            timestamp: batch.max_timestamp(),
        });
        if batch.attributes().is_transactional() && producer.open_since.is_none() {
            producer.open_since = Some(base_offset);
            self.open.insert(base_offset, batch.producer_id());
        }
        None
    }

    fn note_marker(&mut self, marker: &EndTransactionMarker, offset: i64, timestamp: i64) -> Option<Ended> {
        let id = marker.producer_id;
        let producer = self.producers.entry(id).or_insert_with(|| Producer::new(marker.producer_epoch));
        producer.enter_epoch(marker.producer_epoch);
        producer.coordinator_epoch = marker.coordinator_epoch;
        producer.last_offset = offset;
        producer.last_timestamp = timestamp;
        let first_offset = producer.open_since.take()?;
        self.open.remove(&first_offset);
        let last_stable_offset = self.first_open_offset().unwrap_or(offset + 1);
        let entry = AbortedTransaction { producer_id: id, first_offset, last_offset: offset, last_stable_offset };
        Some(Ended { first_offset, marker_offset: offset, aborted: (!marker.committed).then_some(entry) })
    }

    fn forget_the_most_silent(&mut self) {
        let silent = self.producers.iter().filter(|(_, producer)| producer.open_since.is_none());
        if let Some(id) = silent.min_by_key(|(_, producer)| producer.last_offset).map(|(id, _)| *id) {
            self.producers.remove(&id);
        }
    }

    /// Forgets producers that have appended nothing at or behind `offset`, unless a transaction is open.
    pub fn forget_silent(&mut self, offset: i64) {
        self.producers.retain(|_, producer| producer.open_since.is_some() || producer.last_offset >= offset);
    }

    /// How many producers are remembered.
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// All of them, by id.
    pub fn active(&self) -> Vec<ActiveProducer> {
        let active = |(id, producer): (&i64, &Producer)| ActiveProducer {
            producer_id: *id,
            epoch: producer.epoch,
            last_sequence: producer.batches.back().map_or(NO_SEQUENCE, |batch| batch.last_sequence),
            last_timestamp: producer.last_timestamp,
            coordinator_epoch: producer.coordinator_epoch,
            open_since: producer.open_since.unwrap_or(-1),
        };
        self.producers.iter().map(active).collect()
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32_le(self.producers.len() as u32);
        for (id, producer) in &self.producers {
            out.put_i64_le(*id);
            out.put_i16_le(producer.epoch);
            out.put_i32_le(producer.coordinator_epoch);
            out.put_i64_le(producer.open_since.unwrap_or(-1));
            out.put_i64_le(producer.last_offset);
            out.put_i64_le(producer.last_timestamp);
            out.put_u8(producer.batches.len() as u8);
            for batch in &producer.batches {
                out.put_i32_le(batch.first_sequence);
                out.put_i32_le(batch.last_sequence);
                out.put_i64_le(batch.base_offset);
                out.put_i64_le(batch.last_offset);
                out.put_i64_le(batch.timestamp);
            }
        }
    }

    pub(super) fn decode(bytes: &mut &[u8]) -> Option<ProducerStates> {
        let count = bytes.try_get_u32_le().ok()? as usize;
        let mut states = ProducerStates::default();
        for _ in 0..count {
            let id = bytes.try_get_i64_le().ok()?;
            let epoch = bytes.try_get_i16_le().ok()?;
            let coordinator_epoch = bytes.try_get_i32_le().ok()?;
            let open_since = Some(bytes.try_get_i64_le().ok()?).filter(|offset| *offset >= 0);
            let last_offset = bytes.try_get_i64_le().ok()?;
            let last_timestamp = bytes.try_get_i64_le().ok()?;
            let batches = bytes.try_get_u8().ok()?;
            let batches = (0..batches).map(|_| decode_batch(bytes)).collect::<Option<_>>()?;
            states.open.extend(open_since.map(|offset| (offset, id)));
            let producer = Producer { epoch, coordinator_epoch, open_since, last_offset, last_timestamp, batches };
            states.producers.insert(id, producer);
        }
        Some(states)
    }
}

fn decode_batch(bytes: &mut &[u8]) -> Option<ProducerBatch> {
    Some(ProducerBatch {
        first_sequence: bytes.try_get_i32_le().ok()?,
        last_sequence: bytes.try_get_i32_le().ok()?,
        base_offset: bytes.try_get_i64_le().ok()?,
        last_offset: bytes.try_get_i64_le().ok()?,
        timestamp: bytes.try_get_i64_le().ok()?,
    })
}

#[cfg(test)]
mod tests;
