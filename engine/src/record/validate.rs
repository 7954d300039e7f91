//! What a leader checks in the records of a Produce request before it appends them, and how it
//! rewrites them if the topic asks for that: one pure function.
//!
//! The order of the checks, and so which error wins, is Kafka's: `ProduceRequest.validateRecords`,
//! `UnifiedLog.analyzeAndValidateRecords`, `LogValidator`, then sizes again. Stricter than Kafka
//! in what no client sends: offset deltas are also checked in uncompressed batches, and the codecs'
//! formats are exact (see [`super::compression`]).
//!
//! However much a batch unpacks to, it is checked through a window of memory, and in turns: whoever
//! drives the check learns of the bytes that were worked on, and may let others work between.
//!
//! Invariant: a batch that passes has a right CRC, exactly `record_count` well-formed records with
//! offset deltas 0, 1, 2, …, and a right maxTimestamp. Sequence numbers, transactions and the log
//! are judged elsewhere.

use std::borrow::Cow;
use std::fmt::{self, Display, Write as _};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::batch::{self, BatchError, BatchView, HEADER_SIZE, NO_PRODUCER_ID, NO_TIMESTAMP, TimestampType};
use super::compression::{Codec, CompressionError, Encoder, Scratch, Stream, StreamError};
use super::record::{Parsed, SliceSource, Source, next_record, read_record};

/// First Produce version that may carry zstd (KIP-110).
const FIRST_VERSION_WITH_ZSTD: i16 = 7;

/// Record errors that a rejection lists at most. Kafka has no bound, so that a rejection of many
/// tiny records can outgrow the request.
pub const MAX_RECORD_ERRORS: usize = 100;

/// Bytes that one batch gives at most where all of it is unpacked at once: what is validated never is.
pub const DEFAULT_MAX_DECOMPRESSED_BYTES: usize = 64 * 1024 * 1024;

/// The topic configs that decide about a produced batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRules {
    /// `compression.type` with its level; `None` stands for "producer", which keeps what comes.
    pub compression: Option<(Codec, i32)>,
    /// `message.timestamp.type`.
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`: how far a CreateTime may lie in the past.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`: how far it may lie in the future.
    pub timestamp_after_max_ms: i64,
    /// `max.message.bytes`: greatest batch, header included, as stored.
    pub max_message_bytes: usize,
    /// `segment.bytes`: no batch is greater than a segment.
    pub segment_bytes: usize,
    /// Whether `cleanup.policy` includes compact, so that every record needs a key.
    pub compacted: bool,
}

impl Default for TopicRules {
    /// Kafka 4.1's defaults.
    fn default() -> Self {
        Self {
            compression: None,
            timestamp_type: TimestampType::CreateTime,
            timestamp_before_max_ms: i64::MAX,
            timestamp_after_max_ms: 3_600_000,
            max_message_bytes: 1_048_588,
            segment_bytes: 1 << 30,
            compacted: false,
        }
    }
}

/// Who wants to append (Kafka's `AppendOrigin`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A Produce request of this version.
    Client {
        /// The request's version.
        produce_version: i16,
    },
    /// A coordinator of this cluster, which may write control batches.
    Coordinator,
}

/// The circumstances of an append.
#[derive(Clone, Copy)]
pub struct Append<'a> {
    /// Who appends.
    pub origin: Origin,
    /// The broker's clock, in ms since 1970.
    pub now_ms: i64,
    /// The partition's name (`topic-0`), for messages to the client.
    pub partition: &'a dyn Display,
}

impl fmt::Debug for Append<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Append").field("origin", &self.origin).field("now_ms", &self.now_ms).finish_non_exhaustive()
    }
}

/// A batch that may be appended. Base offset and leader epoch are still the producer's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validated<'a> {
    /// The bytes to store: those that came, or others if the topic compresses or stamps.
    pub batch: Cow<'a, [u8]>,
    /// Records in it; at least 1 from a client.
    pub record_count: i32,
    /// Last offset minus base offset.
    pub last_offset_delta: i32,
    /// Greatest timestamp (ms since 1970), or [`NO_TIMESTAMP`].
    pub max_timestamp: i64,
    /// Offset delta of the first record that has it.
    pub max_timestamp_delta: i32,
    /// The time stamped on the batch, if the topic uses LogAppendTime; for the answer.
    pub log_append_time_ms: Option<i64>,
    /// The idempotent producer, if it is one.
    pub producer: Option<ProducerBatch>,
    /// The transactional bit.
    pub is_transactional: bool,
    /// The control bit.
    pub is_control: bool,
}

/// A verdict that outlives the bytes that it is about.
#[derive(Debug, Clone)]
pub struct Verdict {
    facts: Validated<'static>,
    /// Bytes of the batch, of those that came.
    size: usize,
}

impl Validated<'_> {
    /// Lets go of the bytes that came.
    pub fn detach(self) -> Verdict {
        let size = self.batch.len();
        let facts = self.with_batch(|batch| match batch {
            Cow::Borrowed(_) => Cow::Borrowed(&[][..]),
            Cow::Owned(rewritten) => Cow::Owned(rewritten),
        });
        Verdict { facts, size }
    }

    fn with_batch<'b>(self, other: impl FnOnce(Cow<'_, [u8]>) -> Cow<'b, [u8]>) -> Validated<'b> {
        Validated {
            batch: other(self.batch),
            record_count: self.record_count,
            last_offset_delta: self.last_offset_delta,
            max_timestamp: self.max_timestamp,
            max_timestamp_delta: self.max_timestamp_delta,
            log_append_time_ms: self.log_append_time_ms,
            producer: self.producer,
            is_transactional: self.is_transactional,
            is_control: self.is_control,
        }
    }
}

impl Verdict {
    /// The verdict with the bytes that came.
    pub fn attach(self, records: &[u8]) -> Validated<'_> {
        self.facts.with_batch(|batch| match batch {
            Cow::Borrowed(_) => Cow::Borrowed(&records[..self.size]),
            Cow::Owned(rewritten) => Cow::Owned(rewritten),
        })
    }
}

/// The part of an idempotent producer's numbering that a batch takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerBatch {
    /// producerId, at least 0.
    pub id: i64,
    /// producerEpoch.
    pub epoch: i16,
    /// Sequence number of the first record; -1 in a marker.
    pub base_sequence: i32,
    /// That of the last record: 0 follows 2³¹−1.
    pub last_sequence: i32,
}

/// The error of a rejection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectReason {
    /// CORRUPT_MESSAGE; clients retry it.
    CorruptMessage,
    /// MESSAGE_TOO_LARGE; clients split the batch and retry.
    MessageTooLarge,
    /// RECORD_LIST_TOO_LARGE.
    RecordListTooLarge,
    /// INVALID_TIMESTAMP.
    InvalidTimestamp,
    /// UNSUPPORTED_COMPRESSION_TYPE.
    UnsupportedCompressionType,
    /// INVALID_RECORD.
    InvalidRecord,
}

impl RejectReason {
    /// Kafka's error number.
    pub fn code(self) -> i16 {
        match self {
            Self::CorruptMessage => 2,
            Self::MessageTooLarge => 10,
            Self::RecordListTooLarge => 18,
            Self::InvalidTimestamp => 32,
            Self::UnsupportedCompressionType => 76,
            Self::InvalidRecord => 87,
        }
    }
}

/// One bad record of a rejected batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordError {
    /// Its place in the batch.
    pub batch_index: i32,
    /// What the client is told.
    pub message: String,
}

/// A refusal; nothing of the batch may be appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The error.
    pub reason: RejectReason,
    /// What is wrong, for the broker's own log; the wire has no place for it.
    pub detail: &'static str,
    /// The answer's errorMessage (Produce v8 and later): Kafka sets it only beside record errors.
    pub message: Option<String>,
    /// The answer's recordErrors: the first [`MAX_RECORD_ERRORS`] of them.
    pub record_errors: Vec<RecordError>,
    /// Whether Kafka's answer tells the log start offset (or -1), which depends on the layer that
    /// refuses.
    pub tells_log_start: bool,
}

impl Rejected {
    /// A refusal before the log is asked.
    fn early(reason: RejectReason, detail: &'static str) -> Self {
        Self { reason, detail, message: None, record_errors: Vec::new(), tells_log_start: false }
    }

    /// A refusal by the log.
    fn late(reason: RejectReason, detail: &'static str) -> Self {
        Self { tells_log_start: true, ..Self::early(reason, detail) }
    }

    fn invalid(detail: &'static str) -> Self {
        Self::late(RejectReason::InvalidRecord, detail)
    }
}

impl From<StreamError> for Rejected {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Malformed(error) => error.into(),
            StreamError::Compression(error) => error.into(),
        }
    }
}

impl From<super::record::Malformed> for Rejected {
    fn from(_: super::record::Malformed) -> Self {
        Self::invalid("a record is malformed")
    }
}

impl From<CompressionError> for Rejected {
    fn from(error: CompressionError) -> Self {
        match error {
            CompressionError::UnknownCodec => {
                Self::late(RejectReason::UnsupportedCompressionType, "unknown compression type")
            }
            // Kafka answers UNKNOWN_SERVER_ERROR, which tells the client as little as it tells
            // the operator. Both are final for the client.
            CompressionError::Corrupt(_) => Self::invalid("the records do not decompress"),
            // Splitting may help.
            CompressionError::TooLarge(_) => {
                Self::early(RejectReason::MessageTooLarge, "the records are too large when decompressed")
            }
        }
    }
}

/// Checks `records`, the records of one partition in a Produce request, for an append.
///
/// An uncompressed batch is passed over twice, for its CRC and for its records, and nothing is
/// allocated unless it must be rewritten. A compressed batch is decompressed through a window of
/// `scratch`, and compressed anew from there if the topic asks for that.
///
/// # Errors
/// The first failing check, see [`Rejected`].
pub fn validate<'a>(
    records: &'a [u8],
    rules: &TopicRules,
    append: &Append<'_>,
    scratch: &mut Scratch,
) -> Result<Validated<'a>, Rejected> {
    let nobody_waits = async |_: usize| {};
    let in_turns = pin!(validate_in_turns(records, rules, append, scratch, &nobody_waits));
    match in_turns.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => unreachable!("only the pause between turns waits, and here is none"),
    }
}

/// As [`validate`]; `work` is told how many bytes have been worked on since it was told last, and
/// may take its time.
///
/// # Errors
/// As there.
pub async fn validate_in_turns<'a>(
    records: &'a [u8],
    rules: &TopicRules,
    append: &Append<'_>,
    scratch: &mut Scratch,
    work: &impl AsyncFn(usize),
) -> Result<Validated<'a>, Rejected> {
    let batch = sole_batch(records, append.origin)?;
    check_envelope(&batch, rules, append.origin)?;
    if let Origin::Client { .. } = append.origin {
        check_client_header(&batch)?;
    }
    let source = batch.attributes().codec().ok_or(CompressionError::UnknownCodec)?;
    let mut walk = Walk::new(&batch, rules, append);
    let section = batch.records_section();
    let bytes = match rules.compression {
        Some((target, level)) if target != source => {
            let header = batch.bytes()[..HEADER_SIZE].to_vec();
            let encoder = Encoder::new(target, level, header, rules.max_message_bytes);
            let mut stream = scratch.stream(source, section, usize::MAX, Some(encoder))?;
            walk.stream(&mut stream, work).await?;
            Some(stream.into_copy().expect("it was given one").finish())
        }
        _ if source == Codec::None => {
            work(section.len()).await;
            walk.slice(section)?;
            None
        }
        _ => {
            let mut stream = scratch.stream(source, section, usize::MAX, None)?;
            walk.stream(&mut stream, work).await?;
            None
        }
    };
    let newest = walk.finish()?;
    let bytes = match bytes {
        None => Cow::Borrowed(batch.bytes()),
        Some(compressed) => {
            let (target, _) = rules.compression.expect("it was compressed as the topic says");
            Cow::Owned(sealed(&batch, target, compressed.ok_or_else(too_large)?))
        }
    };
    let validated = stamp(&batch, bytes, rules, append.now_ms, newest);
    check_sizes(&validated.batch, rules)?;
    Ok(validated)
}

/// The batch with the same records, compressed anew. A records section is the same bytes under every
/// codec, so no record is built anew.
fn sealed(batch: &BatchView<'_>, target: Codec, mut bytes: Vec<u8>) -> Vec<u8> {
    let attributes = batch.attributes().with_codec(target);
    batch::put(&mut bytes, batch::ATTRIBUTES, attributes.0.to_be_bytes());
    batch::seal(&mut bytes);
    bytes
}

/// The one batch that the bytes are. A torn one that follows it is dropped, as Kafka does.
fn sole_batch(records: &[u8], origin: Origin) -> Result<BatchView<'_>, Rejected> {
    let corrupt = |detail| Rejected::early(RejectReason::CorruptMessage, detail);
    let invalid = |detail| Rejected::early(RejectReason::InvalidRecord, detail);
    let batch = BatchView::parse(records).map_err(|error| match error {
        BatchError::Truncated { .. } => invalid("no complete record batch"),
        BatchError::UnsupportedMagic(0 | 1) => invalid("magic is less than 2"),
        BatchError::UnsupportedMagic(_) => corrupt("unknown magic"),
        BatchError::InvalidLength(_) => corrupt("batch length less than a header"),
    })?;
    if let Origin::Client { produce_version } = origin
        && produce_version < FIRST_VERSION_WITH_ZSTD
        && batch.attributes().codec() == Some(Codec::Zstd)
    {
        return Err(Rejected::early(
            RejectReason::UnsupportedCompressionType,
            "zstd in a Produce request before version 7",
        ));
    }
    match what_follows(&records[batch.total_size()..]) {
        Follower::Nothing => Ok(batch),
        Follower::Batch => Err(invalid("more than one record batch")),
        Follower::Garbage => Err(corrupt("something that is no batch follows the batch")),
    }
}

/// What comes behind the first batch of a partition, as Kafka's `ByteBufferLogInputStream` sees it.
enum Follower {
    /// Too little for a batch: it is dropped.
    Nothing,
    Batch,
    Garbage,
}

fn what_follows(rest: &[u8]) -> Follower {
    /// The shortest record of Kafka's first format.
    const SHORTEST: i32 = 14;
    /// Base offset and length.
    const PREFIX: usize = 12;
    const MAGIC_AT: usize = 16;
    let Some(size) = rest.get(8..PREFIX) else { return Follower::Nothing };
    let size = i32::from_be_bytes(size.try_into().expect("four bytes"));
    if size < SHORTEST {
        return Follower::Garbage;
    }
    match rest.get(MAGIC_AT) {
        None => Follower::Nothing,
        Some(3..) => Follower::Garbage,
        Some(_) if rest.len() - PREFIX < size as usize => Follower::Nothing,
        Some(_) => Follower::Batch,
    }
}

fn check_envelope(batch: &BatchView<'_>, rules: &TopicRules, origin: Origin) -> Result<(), Rejected> {
    if origin != Origin::Coordinator && batch.base_offset() != 0 {
        return Err(Rejected::invalid("the base offset is not 0"));
    }
    if batch.total_size() > rules.max_message_bytes {
        return Err(too_large());
    }
    if !batch.crc_ok() {
        return Err(Rejected::early(RejectReason::CorruptMessage, "the CRC does not match"));
    }
    Ok(())
}

fn check_client_header(batch: &BatchView<'_>) -> Result<(), Rejected> {
    let count = batch.record_count();
    if count <= 0 {
        return Err(Rejected::invalid("no records, or a negative count"));
    }
    // In i64, where the sum cannot wrap.
    if i64::from(batch.last_offset_delta()) + 1 != i64::from(count) {
        return Err(Rejected::invalid("the offset range is not the count"));
    }
    if batch.attributes().is_control() {
        return Err(Rejected::invalid("a control batch from a client"));
    }
    if batch.producer_id() > NO_PRODUCER_ID && batch.base_sequence() < 0 {
        return Err(Rejected::invalid("a producer id without a sequence number"));
    }
    Ok(())
}

/// Sets timestamp type and maxTimestamp where they are not as they should be, and gathers what
/// the log wants to know.
fn stamp<'a>(
    source: &BatchView<'a>,
    mut bytes: Cow<'a, [u8]>,
    rules: &TopicRules,
    now_ms: i64,
    newest: Newest,
) -> Validated<'a> {
    let log_append_time_ms = (rules.timestamp_type == TimestampType::LogAppendTime).then_some(now_ms);
    let newest = match log_append_time_ms {
        // All records have it, so the first is the first.
        Some(timestamp) => Newest { timestamp, offset_delta: 0 },
        None => newest,
    };
    let attributes = source.attributes();
    if attributes.timestamp_type() != rules.timestamp_type || source.max_timestamp() != newest.timestamp {
        batch::set_max_timestamp_and_type(bytes.to_mut(), rules.timestamp_type, newest.timestamp);
    }
    let producer = (source.producer_id() > NO_PRODUCER_ID).then(|| ProducerBatch {
        id: source.producer_id(),
        epoch: source.producer_epoch(),
        base_sequence: source.base_sequence(),
        last_sequence: source.last_sequence(),
    });
    Validated {
        batch: bytes,
        record_count: source.record_count(),
        last_offset_delta: source.last_offset_delta(),
        max_timestamp: newest.timestamp,
        max_timestamp_delta: newest.offset_delta,
        log_append_time_ms,
        producer,
        is_transactional: attributes.is_transactional(),
        is_control: attributes.is_control(),
    }
}

fn check_sizes(batch: &[u8], rules: &TopicRules) -> Result<(), Rejected> {
    if batch.len() > rules.max_message_bytes {
        return Err(too_large());
    }
    if batch.len() > rules.segment_bytes {
        return Err(Rejected::early(RejectReason::RecordListTooLarge, "the batch exceeds segment.bytes"));
    }
    Ok(())
}

fn too_large() -> Rejected {
    Rejected::early(RejectReason::MessageTooLarge, "the batch exceeds max.message.bytes")
}

/// The greatest timestamp of a batch, and the first record that has it.
#[derive(Clone, Copy)]
struct Newest {
    timestamp: i64,
    offset_delta: i32,
}

/// The checks of each record, and what they find out.
struct Walk<'r> {
    rules: &'r TopicRules,
    append: &'r Append<'r>,
    count: i32,
    base_timestamp: i64,
    stamped_by_client: bool,
    consecutive: bool,
    newest: Newest,
    errors: RecordErrors,
}

impl<'r> Walk<'r> {
    fn new(batch: &BatchView<'_>, rules: &'r TopicRules, append: &'r Append<'r>) -> Self {
        let stamped = batch.attributes().timestamp_type() == TimestampType::LogAppendTime;
        Self {
            rules,
            append,
            count: batch.record_count(),
            base_timestamp: batch.base_timestamp(),
            stamped_by_client: stamped,
            consecutive: true,
            newest: Newest { timestamp: NO_TIMESTAMP, offset_delta: 0 },
            errors: RecordErrors::default(),
        }
    }

    /// Checks a section in memory.
    fn slice(&mut self, section: &[u8]) -> Result<(), Rejected> {
        let mut source = SliceSource::new(section);
        self.records(&mut source)?;
        if !source.is_empty() {
            return Err(Rejected::invalid("bytes follow the last record"));
        }
        Ok(())
    }

    /// Checks a section as it comes out of a stream.
    async fn stream(&mut self, stream: &mut Stream<'_>, work: &impl AsyncFn(usize)) -> Result<(), Rejected> {
        let mut told = 0;
        for index in 0..self.count {
            let record = next_record(stream, &mut told, work).await?;
            self.record(index, &record);
        }
        work((stream.position() - told) as usize).await;
        match stream.at_end()? {
            true => Ok(()),
            false => Err(Rejected::invalid("bytes follow the last record")),
        }
    }

    fn records<S: Source>(&mut self, source: &mut S) -> Result<(), S::Error> {
        for index in 0..self.count {
            let record = read_record(source)?;
            self.record(index, &record);
        }
        Ok(())
    }

    #[inline]
    fn record<B>(&mut self, index: i32, record: &Parsed<B>) {
        self.consecutive &= record.offset_delta == index;
        let timestamp = self.base_timestamp.wrapping_add(record.timestamp_delta);
        if timestamp > self.newest.timestamp {
            self.newest = Newest { timestamp, offset_delta: record.offset_delta };
        }
        if self.rules.compacted && record.key.is_none() {
            self.refuse_null_key(index);
        } else if self.stamped_by_client || self.out_of_range(timestamp) {
            self.refuse_timestamp(index, timestamp);
        }
    }

    fn out_of_range(&self, timestamp: i64) -> bool {
        let age = self.append.now_ms.saturating_sub(timestamp);
        self.rules.timestamp_type == TimestampType::CreateTime
            && timestamp != NO_TIMESTAMP
            && (age > self.rules.timestamp_before_max_ms || age.saturating_neg() > self.rules.timestamp_after_max_ms)
    }

    #[cold]
    fn refuse_null_key(&mut self, index: i32) {
        let partition = self.append.partition;
        self.errors
            .add(index, || format!("Compacted topic cannot accept message without key in topic partition {partition}"));
    }

    #[cold]
    fn refuse_timestamp(&mut self, index: i32, timestamp: i64) {
        let stamped = self.stamped_by_client;
        // Wrapping, as Java does in its message for an unlimited range.
        let from = self.append.now_ms.wrapping_sub(self.rules.timestamp_before_max_ms);
        let to = self.append.now_ms.wrapping_add(self.rules.timestamp_after_max_ms);
        self.errors.any_timestamp = true;
        self.errors.add(index, || {
            if stamped {
                return format!(
                    "Invalid timestamp type in message with offset {index}. Producer should not \
                     set timestamp type to LogAppendTime."
                );
            }
            format!(
                "Timestamp {timestamp} of message with offset {index} is out of range. The \
                 timestamp should be within [{from}, {to}]"
            )
        });
    }

    /// The verdict on all records.
    fn finish(self) -> Result<Newest, Rejected> {
        // A coordinator's batches may have any increasing deltas.
        if !self.consecutive && self.append.origin != Origin::Coordinator {
            return Err(Rejected::invalid("the offset deltas are not 0, 1, 2, …"));
        }
        match self.errors.rejection() {
            Some(rejected) => Err(rejected),
            None => Ok(self.newest),
        }
    }
}

#[derive(Default)]
struct RecordErrors {
    total: usize,
    any_timestamp: bool,
    listed: Vec<RecordError>,
}

impl RecordErrors {
    fn add(&mut self, batch_index: i32, message: impl FnOnce() -> String) {
        self.total += 1;
        if self.listed.len() < MAX_RECORD_ERRORS {
            let message = message();
            self.listed.push(RecordError { batch_index, message });
        }
    }

    fn rejection(self) -> Option<Rejected> {
        if self.total == 0 {
            return None;
        }
        let (reason, message) = if self.any_timestamp {
            let message = "One or more records have been rejected due to invalid timestamp";
            (RejectReason::InvalidTimestamp, message.to_owned())
        } else {
            (RejectReason::InvalidRecord, self.summary())
        };
        Some(Rejected {
            message: Some(message),
            record_errors: self.listed,
            ..Rejected::late(reason, "some records were refused")
        })
    }

    /// As Java prints a list of at most three `RecordError`s.
    fn summary(&self) -> String {
        let mut text = format!(
            "One or more records have been rejected due to {} record errors in total, and only \
             showing the first three errors at most: [",
            self.total
        );
        for (i, error) in self.listed.iter().take(3).enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            let (index, message) = (error.batch_index, &error.message);
            write!(text, "{comma}RecordError(batchIndex={index}, message='{message}')")
                .expect("a write to a String does not fail");
        }
        text.push(']');
        text
    }
}
