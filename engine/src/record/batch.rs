//! The 61-byte header of a v2 record batch: a view over bytes, and the patches a broker makes.
//!
//! Layout (big endian; Kafka's `DefaultRecordBatch`):
//!
//! | at | field | at | field |
//! |--|--|--|--|
//! | 0 | baseOffset i64 | 27 | baseTimestamp i64 |
//! | 8 | batchLength i32, bytes after it | 35 | maxTimestamp i64 |
//! | 12 | partitionLeaderEpoch i32 | 43 | producerId i64 |
//! | 16 | magic i8 = 2 | 51 | producerEpoch i16 |
//! | 17 | crc u32 (CRC-32C from 21 to the end) | 53 | baseSequence i32 |
//! | 21 | attributes i16 | 57 | record count i32 |
//! | 23 | lastOffsetDelta i32 | 61 | records, compressed as one block |
//!
//! Invariant: a [`BatchView`] has magic 2 and spans exactly the bytes its length field claims.
//! Nothing else is promised of its fields; [`BatchView::crc_ok`] and [`super::validate`] judge
//! those. The base offset and the leader epoch lie before the CRC's range, so that a broker can
//! set them without computing it again.

use thiserror::Error;

use super::compression::{self, Codec, CompressionError, Scratch};
use super::crc::concatenated;
use super::record::{Records, next_record};

/// Bytes of a batch before its records.
pub const HEADER_SIZE: usize = 61;
/// Bytes of base offset and length, which the length field does not count (Kafka: LOG_OVERHEAD).
pub const LOG_OVERHEAD: usize = 12;
/// The only magic number accepted; 0 and 1 left Kafka with 4.0 (KIP-724).
pub const MAGIC: i8 = 2;

/// "No producer" in producerId; such a batch is not idempotent.
pub const NO_PRODUCER_ID: i64 = -1;
/// The producer epoch beside [`NO_PRODUCER_ID`].
pub const NO_PRODUCER_EPOCH: i16 = -1;
/// "No sequence number" in baseSequence; also that of markers.
pub const NO_SEQUENCE: i32 = -1;
/// "No timestamp" in milliseconds since 1970.
pub const NO_TIMESTAMP: i64 = -1;

pub(super) const BASE_OFFSET: usize = 0;
pub(super) const BATCH_LENGTH: usize = 8;
pub(super) const PARTITION_LEADER_EPOCH: usize = 12;
pub(super) const MAGIC_AT: usize = 16;
pub(super) const CRC: usize = 17;
/// Fewer bytes are passed again faster than their checksum is combined.
pub const WORTH_COMBINING: usize = 2048;
pub(super) const ATTRIBUTES: usize = 21;
pub(super) const LAST_OFFSET_DELTA: usize = 23;
pub(super) const BASE_TIMESTAMP: usize = 27;
pub(super) const MAX_TIMESTAMP: usize = 35;
pub(super) const PRODUCER_ID: usize = 43;
pub(super) const PRODUCER_EPOCH: usize = 51;
pub(super) const BASE_SEQUENCE: usize = 53;
pub(super) const RECORD_COUNT: usize = 57;

/// Who stamped the records of a batch (attribute bit 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer; each record has its own time.
    CreateTime,
    /// The broker, when it appended; every record's time is the batch's maxTimestamp.
    LogAppendTime,
}

/// The attribute bits of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes(pub i16);

impl Attributes {
    const CODEC_MASK: i16 = 0b111;
    const LOG_APPEND_TIME: i16 = 1 << 3;
    const TRANSACTIONAL: i16 = 1 << 4;
    const CONTROL: i16 = 1 << 5;
    const DELETE_HORIZON: i16 = 1 << 6;

    /// How the records are compressed; `None` for the numbers 5 to 7, which no Kafka defines.
    pub fn codec(self) -> Option<Codec> {
        Codec::from_id((self.0 & Self::CODEC_MASK) as u8)
    }

    /// Who stamped the records.
    pub fn timestamp_type(self) -> TimestampType {
        if self.0 & Self::LOG_APPEND_TIME == 0 { TimestampType::CreateTime } else { TimestampType::LogAppendTime }
    }

    /// Whether the batch belongs to a transaction.
    pub fn is_transactional(self) -> bool {
        self.0 & Self::TRANSACTIONAL != 0
    }

    /// Whether the batch holds control records, which consumers never hand to their user.
    pub fn is_control(self) -> bool {
        self.0 & Self::CONTROL != 0
    }

    /// Whether baseTimestamp holds the time after which the cleaner may drop the batch's
    /// tombstones (KIP-534).
    pub fn has_delete_horizon(self) -> bool {
        self.0 & Self::DELETE_HORIZON != 0
    }

    /// The same bits, with another codec.
    #[must_use]
    pub fn with_codec(self, codec: Codec) -> Self {
        Self((self.0 & !Self::CODEC_MASK) | i16::from(codec.id()))
    }

    /// The same bits, with another timestamp type.
    #[must_use]
    pub fn with_timestamp_type(self, timestamp_type: TimestampType) -> Self {
        self.with(Self::LOG_APPEND_TIME, timestamp_type == TimestampType::LogAppendTime)
    }

    /// The same bits, with the transactional bit set or cleared.
    #[must_use]
    pub fn with_transactional(self, on: bool) -> Self {
        self.with(Self::TRANSACTIONAL, on)
    }

    /// The same bits, with the control bit set or cleared.
    #[must_use]
    pub fn with_control(self, on: bool) -> Self {
        self.with(Self::CONTROL, on)
    }

    /// The same bits, with the delete-horizon bit set or cleared.
    #[must_use]
    pub fn with_delete_horizon(self, on: bool) -> Self {
        self.with(Self::DELETE_HORIZON, on)
    }

    fn with(self, bit: i16, on: bool) -> Self {
        Self(if on { self.0 | bit } else { self.0 & !bit })
    }
}

/// Why bytes do not start with a v2 batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BatchError {
    /// The bytes end before the batch does. Normal at the end of a fetched range.
    #[error("{have} bytes hold only a part of a batch of {need} or more")]
    Truncated {
        /// Bytes that the batch, as far as it can be read, needs at least.
        need: usize,
        /// Bytes there are.
        have: usize,
    },
    /// A magic number other than 2.
    #[error("magic {0} is not 2")]
    UnsupportedMagic(i8),
    /// A length field too small for the header (or negative).
    #[error("batch length {0} is less than a header")]
    InvalidLength(i32),
}

/// One batch in a slice. Copying it copies a pointer.
#[derive(Debug, Clone, Copy)]
pub struct BatchView<'a> {
    bytes: &'a [u8],
}

impl<'a> BatchView<'a> {
    /// The batch at the start of `bytes`; what follows it is left out of the view.
    ///
    /// # Errors
    /// See [`BatchError`]. The magic number is judged before the length, because a v0 or v1
    /// message set may be shorter than a v2 header.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BatchError> {
        let truncated = |need| BatchError::Truncated { need, have: bytes.len() };
        let magic = *bytes.get(MAGIC_AT).ok_or(truncated(HEADER_SIZE))? as i8;
        if magic != MAGIC {
            return Err(BatchError::UnsupportedMagic(magic));
        }
        let length = i32::from_be_bytes(array(bytes, BATCH_LENGTH));
        if length < (HEADER_SIZE - LOG_OVERHEAD) as i32 {
            return Err(BatchError::InvalidLength(length));
        }
        let total = LOG_OVERHEAD + length as usize;
        match bytes.get(..total) {
            Some(bytes) => Ok(Self { bytes }),
            None => Err(truncated(total)),
        }
    }

    /// All bytes of the batch.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Bytes of the whole batch, header included; at least [`HEADER_SIZE`].
    pub fn total_size(&self) -> usize {
        self.bytes.len()
    }

    /// Offset of the first record the batch was built with; compaction may have removed it.
    pub fn base_offset(&self) -> i64 {
        i64::from_be_bytes(array(self.bytes, BASE_OFFSET))
    }

    /// Offset of the last record the batch was built with. Wraps if the fields are nonsense; in a
    /// validated batch they are not.
    pub fn last_offset(&self) -> i64 {
        self.base_offset().wrapping_add(i64::from(self.last_offset_delta()))
    }

    /// Epoch of the leader that appended the batch, or -1 from a producer.
    pub fn partition_leader_epoch(&self) -> i32 {
        i32::from_be_bytes(array(self.bytes, PARTITION_LEADER_EPOCH))
    }

    /// The stored checksum.
    pub fn crc(&self) -> u32 {
        u32::from_be_bytes(array(self.bytes, CRC))
    }

    /// Whether the stored checksum is that of the bytes.
    pub fn crc_ok(&self) -> bool {
        self.crc() == crc32c::crc32c(&self.bytes[ATTRIBUTES..])
    }

    /// The CRC-32C of all the batch's bytes, from the stored checksum, which is taken to be right.
    pub fn crc_of_all(&self) -> u32 {
        let (head, covered) = self.bytes.split_at(ATTRIBUTES);
        if covered.len() < WORTH_COMBINING {
            return crc32c::crc32c(self.bytes);
        }
        let crc = concatenated(crc32c::crc32c(head), self.crc(), covered.len());
        debug_assert_eq!(crc, crc32c::crc32c(self.bytes), "a batch that was accepted has the checksum that it names");
        crc
    }

    /// The attribute bits.
    pub fn attributes(&self) -> Attributes {
        Attributes(i16::from_be_bytes(array(self.bytes, ATTRIBUTES)))
    }

    /// Last offset minus base offset.
    pub fn last_offset_delta(&self) -> i32 {
        i32::from_be_bytes(array(self.bytes, LAST_OFFSET_DELTA))
    }

    /// The time that the records' timestamp deltas count from, in ms since 1970; or the delete
    /// horizon, see [`Attributes::has_delete_horizon`].
    pub fn base_timestamp(&self) -> i64 {
        i64::from_be_bytes(array(self.bytes, BASE_TIMESTAMP))
    }

    /// Greatest timestamp of the records, in ms since 1970.
    pub fn max_timestamp(&self) -> i64 {
        i64::from_be_bytes(array(self.bytes, MAX_TIMESTAMP))
    }

    /// Who produced it, or [`NO_PRODUCER_ID`].
    pub fn producer_id(&self) -> i64 {
        i64::from_be_bytes(array(self.bytes, PRODUCER_ID))
    }

    /// The producer's epoch, or -1.
    pub fn producer_epoch(&self) -> i16 {
        i16::from_be_bytes(array(self.bytes, PRODUCER_EPOCH))
    }

    /// Sequence number of the first record, or [`NO_SEQUENCE`].
    pub fn base_sequence(&self) -> i32 {
        i32::from_be_bytes(array(self.bytes, BASE_SEQUENCE))
    }

    /// Sequence number of the last record: 0 follows 2³¹−1. [`NO_SEQUENCE`] if there is none.
    pub fn last_sequence(&self) -> i32 {
        match self.base_sequence() {
            NO_SEQUENCE => NO_SEQUENCE,
            base => add_sequence(base, self.last_offset_delta()),
        }
    }

    /// Records claimed by the header; may be negative in bytes that were not validated.
    pub fn record_count(&self) -> i32 {
        i32::from_be_bytes(array(self.bytes, RECORD_COUNT))
    }

    /// The bytes of the records, compressed if [`Attributes::codec`] says so.
    pub fn records_section(&self) -> &'a [u8] {
        &self.bytes[HEADER_SIZE..]
    }

    /// The records. A compressed section is decompressed into `plain` (cleared first); an
    /// uncompressed one is read where it lies.
    ///
    /// # Errors
    /// An unknown codec, data that does not decompress, or more than `cap` bytes of it.
    pub fn records<'s>(
        &self,
        scratch: &mut Scratch,
        plain: &'s mut Vec<u8>,
        cap: usize,
    ) -> Result<Records<'s>, CompressionError>
    where
        'a: 's,
    {
        let codec = self.attributes().codec().ok_or(CompressionError::UnknownCodec)?;
        let section = match codec {
            Codec::None => self.records_section(),
            codec => {
                compression::decompress(codec, self.records_section(), cap, scratch, plain)?;
                plain
            }
        };
        Ok(Records::new(section, self.record_count()))
    }

    /// (timestamp, offset) of the first record for which these are wanted. However much the batch unpacks to, it is
    /// searched through a window of memory, and in turns: `work` is told how many bytes have been worked on since it was
    /// told last, and may take its time. What cannot be read has no such record.
    pub async fn first_record(
        &self,
        scratch: &mut Scratch,
        wanted: impl Fn(i64, i64) -> bool,
        work: &impl AsyncFn(usize),
    ) -> Option<(i64, i64)> {
        let codec = self.attributes().codec()?;
        let mut stream = scratch.stream(codec, self.records_section(), usize::MAX, None).ok()?;
        let mut told = 0;
        for _ in 0..self.record_count() {
            let record = next_record(&mut stream, &mut told, work).await.ok()?;
            let timestamp = self.base_timestamp().wrapping_add(record.timestamp_delta);
            let offset = self.base_offset().wrapping_add(i64::from(record.offset_delta));
            if wanted(timestamp, offset) {
                return Some((timestamp, offset));
            }
        }
        None
    }
}

/// `sequence` + `increment` in the numbers 0 to 2³¹−1, which wrap (Kafka's
/// `DefaultRecordBatch.incrementSequence`).
pub fn add_sequence(sequence: i32, increment: i32) -> i32 {
    sequence.wrapping_add(increment) & i32::MAX
}

/// The batches that lie one after another in `bytes`.
pub fn batches(bytes: &[u8]) -> Batches<'_> {
    Batches { bytes, at: 0 }
}

/// See [`batches`]. After an error (a part of a batch at the end is one:
/// [`BatchError::Truncated`]) it yields nothing more.
#[derive(Debug, Clone)]
pub struct Batches<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Batches<'_> {
    /// Position after the last batch yielded; where the failing bytes start, after an error.
    pub fn position(&self) -> usize {
        self.at.min(self.bytes.len())
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<BatchView<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = &self.bytes[self.at..];
        if rest.is_empty() {
            return None;
        }
        let parsed = BatchView::parse(rest);
        match parsed {
            Ok(batch) => self.at += batch.total_size(),
            // Cut, so that the position stays and the next call finds the end.
            Err(_) => self.bytes = &self.bytes[..self.at],
        }
        Some(parsed)
    }
}

/// Sets the base offset of the batch at the start of `batch`. The CRC does not cover it.
pub fn set_base_offset(batch: &mut [u8], base_offset: i64) {
    put(batch, BASE_OFFSET, base_offset.to_be_bytes());
}

/// Sets the leader epoch of the batch at the start of `batch`. The CRC does not cover it.
pub fn set_leader_epoch(batch: &mut [u8], epoch: i32) {
    put(batch, PARTITION_LEADER_EPOCH, epoch.to_be_bytes());
}

/// Sets who stamped the records and the greatest timestamp, and the CRC. `batch` is exactly one
/// batch.
pub fn set_max_timestamp_and_type(batch: &mut [u8], timestamp_type: TimestampType, max: i64) {
    let attributes = Attributes(i16::from_be_bytes(array(batch, ATTRIBUTES)));
    let attributes = attributes.with_timestamp_type(timestamp_type);
    put(batch, ATTRIBUTES, attributes.0.to_be_bytes());
    put(batch, MAX_TIMESTAMP, max.to_be_bytes());
    set_crc(batch);
}

/// Sets length and CRC from the bytes of a batch whose other fields are complete.
pub(super) fn seal(batch: &mut [u8]) {
    let length = i32::try_from(batch.len() - LOG_OVERHEAD)
        .expect("a batch is built of fewer bytes than its length field can say");
    put(batch, BATCH_LENGTH, length.to_be_bytes());
    set_crc(batch);
}

/// Writes one header field.
pub(super) fn put<const N: usize>(batch: &mut [u8], at: usize, value: [u8; N]) {
    batch[at..at + N].copy_from_slice(&value);
}

fn set_crc(batch: &mut [u8]) {
    let crc = crc32c::crc32c(&batch[ATTRIBUTES..]);
    put(batch, CRC, crc.to_be_bytes());
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("a header field lies within the checked header")
}
