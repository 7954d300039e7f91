//! Builds a batch from records: load generators, coordinators, the cleaner and tests.
//!
//! Invariant: what [`BatchBuilder::finish`] gives passes [`super::validate`]'s structural checks
//! as long as offset deltas were not chosen by the caller.

use super::batch::{
    self, Attributes, HEADER_SIZE, MAGIC, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE, NO_TIMESTAMP, TimestampType,
};
use super::compression::{Codec, compress};
use super::varint::{put_varint, put_varlong, varlong_size};

/// Gathers records, uncompressed, and gives batches. Reusable by [`BatchBuilder::clear`].
#[derive(Debug, Clone)]
pub struct BatchBuilder {
    base_offset: i64,
    partition_leader_epoch: i32,
    attributes: Attributes,
    codec: Codec,
    level: i32,
    producer_id: i64,
    producer_epoch: i16,
    base_sequence: i32,
    base_timestamp: i64,
    max_timestamp: i64,
    last_offset_delta: i32,
    count: i32,
    records: Vec<u8>,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl BatchBuilder {
    /// No records, no producer, base offset 0, leader epoch -1, not compressed.
    pub fn new() -> Self {
        Self {
            base_offset: 0,
            partition_leader_epoch: -1,
            attributes: Attributes::default(),
            codec: Codec::None,
            level: 0,
            producer_id: NO_PRODUCER_ID,
            producer_epoch: NO_PRODUCER_EPOCH,
            base_sequence: NO_SEQUENCE,
            base_timestamp: NO_TIMESTAMP,
            max_timestamp: NO_TIMESTAMP,
            last_offset_delta: -1,
            count: 0,
            records: Vec::new(),
        }
    }

    /// Compresses with `codec` at its default level.
    #[must_use]
    pub fn codec(self, codec: Codec) -> Self {
        self.codec_level(codec, codec.default_level())
    }

    /// Compresses with `codec` at `level`, see [`compress`].
    #[must_use]
    pub fn codec_level(mut self, codec: Codec, level: i32) -> Self {
        self.codec = codec;
        self.level = level;
        self
    }

    /// Makes the batch one of an idempotent producer.
    #[must_use]
    pub fn producer(mut self, id: i64, epoch: i16, base_sequence: i32) -> Self {
        self.producer_id = id;
        self.producer_epoch = epoch;
        self.base_sequence = base_sequence;
        self
    }

    /// Sets or clears the transactional bit.
    #[must_use]
    pub fn transactional(mut self, on: bool) -> Self {
        self.attributes = self.attributes.with_transactional(on);
        self
    }

    /// Sets or clears the control bit.
    #[must_use]
    pub fn control(mut self, on: bool) -> Self {
        self.attributes = self.attributes.with_control(on);
        self
    }

    /// Sets who stamped the records. The greatest time appended stays the batch's maxTimestamp.
    #[must_use]
    pub fn timestamp_type(mut self, timestamp_type: TimestampType) -> Self {
        self.attributes = self.attributes.with_timestamp_type(timestamp_type);
        self
    }

    /// Sets the offset that deltas count from.
    #[must_use]
    pub fn base_offset(mut self, base_offset: i64) -> Self {
        self.base_offset = base_offset;
        self
    }

    /// Sets the leader epoch.
    #[must_use]
    pub fn partition_leader_epoch(mut self, epoch: i32) -> Self {
        self.partition_leader_epoch = epoch;
        self
    }

    /// Appends a record at the next offset. `timestamp` is in ms since 1970, or
    /// [`NO_TIMESTAMP`].
    pub fn append(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) {
        let next = self.last_offset_delta + 1;
        self.append_at(next, timestamp, key, value, headers);
    }

    /// Appends a record at `offset_delta`, which is greater than the last one: a compacted batch
    /// has gaps.
    pub fn append_at(
        &mut self,
        offset_delta: i32,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) {
        assert!(offset_delta > self.last_offset_delta, "offsets increase in a batch");
        if self.count == 0 {
            self.base_timestamp = timestamp;
        }
        let timestamp_delta = timestamp.wrapping_sub(self.base_timestamp);
        let size = 1
            + varlong_size(timestamp_delta)
            + varlong_size(i64::from(offset_delta))
            + nullable_size(key)
            + nullable_size(value)
            + varlong_size(headers.len() as i64)
            + headers.iter().map(|(key, value)| nullable_size(Some(key)) + nullable_size(*value)).sum::<usize>();
        let out = &mut self.records;
        out.reserve(size + 5);
        put_varint(out, length(size));
        out.push(0);
        put_varlong(out, timestamp_delta);
        put_varint(out, offset_delta);
        put_nullable(out, key);
        put_nullable(out, value);
        put_varint(out, length(headers.len()));
        for (key, value) in headers {
            put_nullable(out, Some(key));
            put_nullable(out, *value);
        }
        self.last_offset_delta = offset_delta;
        self.max_timestamp = self.max_timestamp.max(timestamp);
        self.count += 1;
    }

    /// Sets the last offset past the last record's: the cleaner keeps the offsets (and with them
    /// the sequence numbers) of the batch it filters.
    pub fn set_last_offset_delta(&mut self, delta: i32) {
        assert!(delta >= self.last_offset_delta, "the last record lies within the batch's offsets");
        self.last_offset_delta = delta;
    }

    /// Records appended.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether no record was appended.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of the batch, were it not compressed.
    pub fn size(&self) -> usize {
        HEADER_SIZE + self.records.len()
    }

    /// Forgets the records, and keeps everything else.
    pub fn clear(&mut self) {
        self.records.clear();
        self.count = 0;
        self.last_offset_delta = -1;
        self.base_timestamp = NO_TIMESTAMP;
        self.max_timestamp = NO_TIMESTAMP;
    }

    /// Sets the base sequence, for the next batch of the same producer.
    pub fn set_base_sequence(&mut self, base_sequence: i32) {
        self.base_sequence = base_sequence;
    }

    /// The batch.
    pub fn finish(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.size());
        self.finish_into(&mut out);
        out
    }

    /// Appends the batch to `out`.
    pub fn finish_into(&self, out: &mut Vec<u8>) {
        let at = out.len();
        out.resize(at + HEADER_SIZE, 0);
        compress(self.codec, self.level, &self.records, out);
        let bytes = &mut out[at..];
        let attributes = self.attributes.with_codec(self.codec);
        batch::put(bytes, batch::BASE_OFFSET, self.base_offset.to_be_bytes());
        batch::put(bytes, batch::PARTITION_LEADER_EPOCH, self.partition_leader_epoch.to_be_bytes());
        batch::put(bytes, batch::MAGIC_AT, MAGIC.to_be_bytes());
        batch::put(bytes, batch::ATTRIBUTES, attributes.0.to_be_bytes());
        batch::put(bytes, batch::LAST_OFFSET_DELTA, self.last_offset_delta.to_be_bytes());
        batch::put(bytes, batch::BASE_TIMESTAMP, self.base_timestamp.to_be_bytes());
        batch::put(bytes, batch::MAX_TIMESTAMP, self.max_timestamp.to_be_bytes());
        batch::put(bytes, batch::PRODUCER_ID, self.producer_id.to_be_bytes());
        batch::put(bytes, batch::PRODUCER_EPOCH, self.producer_epoch.to_be_bytes());
        batch::put(bytes, batch::BASE_SEQUENCE, self.base_sequence.to_be_bytes());
        batch::put(bytes, batch::RECORD_COUNT, self.count.to_be_bytes());
        batch::seal(bytes);
    }
}

fn nullable_size(field: Option<&[u8]>) -> usize {
    match field {
        Some(bytes) => varlong_size(bytes.len() as i64) + bytes.len(),
        None => varlong_size(-1),
    }
}

fn put_nullable(out: &mut Vec<u8>, field: Option<&[u8]>) {
    match field {
        Some(bytes) => {
            put_varint(out, length(bytes.len()));
            out.extend_from_slice(bytes);
        }
        None => put_varint(out, -1),
    }
}

fn length(n: usize) -> i32 {
    i32::try_from(n).expect("a record is smaller than 2 GiB")
}
