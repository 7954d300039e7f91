//! What a partition remembers of its idempotent producers: the last five batches of each.
//!
//! Kafka's rules (ProducerAppendInfo, ProducerStateEntry): the same batch again is answered as its original,
//! a gap or an older duplicate is out of order, an older epoch is fenced, an unknown producer is accepted.
//! Unlike Kafka's snapshot, which keeps the last batch alone, all five survive a restart.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf, BufMut};

use crate::limits::{BATCHES_PER_PRODUCER, PRODUCERS_PER_PARTITION};
use crate::protocol::ErrorCode;
use crate::record::batch::BatchView;

/// One batch of a producer, as it stands in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerBatch {
    /// The sequence of its first record.
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

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Producer {
    epoch: i16,
    batches: VecDeque<ProducerBatch>,
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

/// The producers of a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProducerStates(BTreeMap<i64, Producer>);

fn next_sequence(last: i32) -> i32 {
    if last == i32::MAX { 0 } else { last + 1 }
}

impl ProducerStates {
    /// Judges a batch with a producer id (≥ 0) before it is appended.
    pub fn check(&self, producer_id: i64, epoch: i16, first_sequence: i32, last_sequence: i32) -> SequenceCheck {
        let Some(producer) = self.0.get(&producer_id) else { return SequenceCheck::Append };
        if epoch < producer.epoch {
            return SequenceCheck::Reject(ErrorCode::InvalidProducerEpoch);
        }
        if epoch > producer.epoch {
            return if first_sequence == 0 {
                SequenceCheck::Append
            } else {
                SequenceCheck::Reject(ErrorCode::OutOfOrderSequenceNumber)
            };
        }
        let same =
            |batch: &&ProducerBatch| batch.first_sequence == first_sequence && batch.last_sequence == last_sequence;
        if let Some(original) = producer.batches.iter().find(same) {
            return SequenceCheck::Duplicate(*original);
        }
        let expected = producer.batches.back().map(|batch| next_sequence(batch.last_sequence));
        if expected.is_none_or(|expected| expected == first_sequence) {
            SequenceCheck::Append
        } else {
            SequenceCheck::Reject(ErrorCode::OutOfOrderSequenceNumber)
        }
    }

    /// Remembers a batch that stands at `base_offset`; one without a producer id leaves no trace.
    pub fn note(&mut self, batch: &BatchView<'_>, base_offset: i64) {
        if batch.producer_id() < 0 {
            return;
        }
        if !self.0.contains_key(&batch.producer_id()) && self.0.len() >= PRODUCERS_PER_PARTITION {
            self.forget_the_most_silent();
        }
        let producer = self.0.entry(batch.producer_id()).or_default();
        if producer.epoch != batch.producer_epoch() {
            producer.batches.clear();
            producer.epoch = batch.producer_epoch();
        }
        if producer.batches.len() == BATCHES_PER_PRODUCER {
            producer.batches.pop_front();
        }
        producer.batches.push_back(ProducerBatch {
            first_sequence: batch.base_sequence(),
            last_sequence: batch.last_sequence(),
            base_offset,
            last_offset: base_offset + i64::from(batch.last_offset_delta()),
            timestamp: batch.max_timestamp(),
        });
    }

    fn forget_the_most_silent(&mut self) {
        let last_seen = |producer: &Producer| producer.batches.back().map_or(i64::MIN, |batch| batch.last_offset);
        if let Some(id) = self.0.iter().min_by_key(|(_, producer)| last_seen(producer)).map(|(id, _)| *id) {
            self.0.remove(&id);
        }
    }

    /// Forgets producers whose last batch is older than `expiration_ms`.
    pub fn expire(&mut self, now_ms: i64, expiration_ms: i64) {
        self.0.retain(|_, producer| {
            producer.batches.back().is_some_and(|batch| now_ms.saturating_sub(batch.timestamp) <= expiration_ms)
        });
    }

    /// How many producers are remembered.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32_le(self.0.len() as u32);
        for (id, producer) in &self.0 {
            out.put_i64_le(*id);
            out.put_i16_le(producer.epoch);
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
        let mut producers = BTreeMap::new();
        for _ in 0..count {
            let id = bytes.try_get_i64_le().ok()?;
            let epoch = bytes.try_get_i16_le().ok()?;
            let batches = bytes.try_get_u8().ok()?;
            let batches = (0..batches).map(|_| decode_batch(bytes)).collect::<Option<_>>()?;
            producers.insert(id, Producer { epoch, batches });
        }
        Some(ProducerStates(producers))
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
