//! A partition on the core that owns it: its log, its leader's state, and who waits for it.
//!
//! This is where the log, which knows no clients, meets what a client may be told. Invariant: nothing at or
//! behind the high watermark is shown, and the high watermark never passes the durable end; a reader of
//! committed records is shown nothing at or behind the last stable offset.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use super::message::{
    EpochEnded, Guard, ListedOffset, MarkerPart, ProducePart, Produced, ReadPart, Verification, VerifyTransaction,
};
use super::purgatory::{PendingAwait, PendingProduce, Readers};
use super::refusals::Refusals;
use super::verification::Verifications;
use crate::controller::TopicConfig;
use crate::controller::image::{PartitionState, Topic};
use crate::log::Log;
use crate::log::drain::SharedLog;
use crate::log::journal::Journal;
use crate::log::partition_log::LogConfig;
use crate::log::producer_state::{Incoming, SequenceCheck};
use crate::protocol::ErrorCode;
use crate::record::batch::{BatchView, NO_SEQUENCE};
use crate::record::control::end_transaction_marker;
use crate::record::validate::{Append, Origin, Rejected};
use crate::record::{Codec, Scratch, TimestampType, TopicRules, Validated, validate};

/// A partition that this core leads.
pub struct Partition {
    /// Its log.
    pub log: SharedLog,
    /// `topic-partition`, for messages.
    pub name: Rc<str>,
    leader_epoch: i32,
    rules: TopicRules,
    relaxed: bool,
    /// Whether records may be deleted at all (`cleanup.policy`).
    deletes: bool,
    /// Produces by the end offset that must be durable, in offset order but for duplicates.
    produces: VecDeque<(i64, Rc<PendingProduce>, usize)>,
    /// Readers, the end that each has seen, and whether it reads committed records alone.
    readers: Rc<Readers>,
    verifications: Verifications,
    refusals: Refusals,
}

/// What a partition demands of batches.
pub struct Rules {
    /// The topic's configs.
    pub topic: TopicRules,
    /// `topic-partition`, for messages.
    name: Rc<str>,
}

impl Rules {
    /// The circumstances of an append by a Produce request of that version.
    pub fn append(&self, version: i16, now_ms: i64) -> Append<'_> {
        Append { origin: Origin::Client { produce_version: version }, now_ms, partition: &self.name }
    }

    /// Whether the check of a batch passes over the bytes that came alone, so that it costs no more than these.
    pub fn checks_at_once(&self, part: &ProducePart) -> bool {
        let codec = BatchView::parse(&part.records).ok().and_then(|batch| batch.attributes().codec());
        let compresses = self.topic.compression.is_some_and(|(target, _)| Some(target) != codec);
        !compresses && matches!(codec, None | Some(Codec::None))
    }

    /// Checks a batch's bytes.
    ///
    /// # Errors
    /// Why they may not be appended.
    pub fn validate<'a>(
        &self,
        part: &'a ProducePart,
        version: i16,
        now_ms: i64,
        scratch: &mut Scratch,
    ) -> Result<Validated<'a>, Rejected> {
        validate(&part.records, &self.topic, &self.append(version, now_ms), scratch)
    }
}

/// A batch that has been judged.
pub enum Outcome {
    /// It is in the log, durable when the durable end reaches the offset; with this answer.
    Appended(i64, Produced),
    /// It is answered at once.
    Answered(Produced),
}

/// The rules of a topic's configs for batches.
fn rules(config: &TopicConfig, largest_batch: usize) -> TopicRules {
    let level = |codec| match codec {
        Codec::Gzip => config.compression_gzip_level,
        Codec::Lz4 => config.compression_lz4_level,
        Codec::Zstd => config.compression_zstd_level,
        other => other.default_level(),
    };
    TopicRules {
        compression: config.compression.map(|codec| (codec, level(codec))),
        timestamp_type: if config.log_append_time { TimestampType::LogAppendTime } else { TimestampType::CreateTime },
        timestamp_before_max_ms: config.message_timestamp_before_max_ms,
        timestamp_after_max_ms: config.message_timestamp_after_max_ms,
        max_message_bytes: (config.max_message_bytes.max(0) as usize).min(largest_batch),
        segment_bytes: config.segment_bytes.max(0) as usize,
        compacted: config.compact,
    }
}

impl Partition {
    /// The leader of `log`, as the image has it.
    pub fn new(log: Log, topic: &Topic, partition: i32, largest_batch: usize) -> Partition {
        let mut partition = Partition {
            name: format!("{}-{partition}", topic.name).into(),
            log: Rc::new(RefCell::new(log)),
            leader_epoch: -1,
            rules: TopicRules::default(),
            relaxed: false,
            deletes: true,
            produces: VecDeque::new(),
            readers: Rc::default(),
            verifications: Verifications::default(),
            refusals: Refusals::default(),
        };
        let index = partition.log.borrow().id.partition;
        partition.apply(topic, &topic.partitions[index as usize], largest_batch);
        partition
    }

    /// What the newest image says.
    pub fn apply(&mut self, topic: &Topic, state: &PartitionState, largest_batch: usize) {
        let config = &topic.effective;
        self.rules = rules(config, largest_batch);
        self.relaxed = config.durability_relaxed;
        self.deletes = config.delete;
        let mut log = self.log.borrow_mut();
        log.configure(LogConfig { segment_bytes: config.segment_bytes.max(1) as u64, segment_ms: config.segment_ms });
        if state.leader_epoch > self.leader_epoch {
            self.leader_epoch = state.leader_epoch;
            let end = log.log_end_offset();
            log.epochs().assign(state.leader_epoch, end);
        }
    }

    /// One past the last offset that anyone may see.
    pub fn high_watermark(&self) -> i64 {
        let log = self.log.borrow();
        if planted!(HighWatermarkIsLogEnd) { log.log_end_offset() } else { log.durable_end_offset() }
    }

    /// One past the last offset that a reader may see: the last stable offset for those of committed records.
    pub fn visible_end(&self, read_committed: bool) -> i64 {
        if read_committed { self.log.borrow().last_stable_offset() } else { self.high_watermark() }
    }

    /// Whether producers are answered before the flush.
    pub fn is_relaxed(&self) -> bool {
        self.relaxed
    }

    /// The offset that the log shall begin at when a client wants it to begin at `offset`, −1 for the high
    /// watermark.
    ///
    /// # Errors
    /// POLICY_VIOLATION where nothing is deleted, OFFSET_OUT_OF_RANGE for what no consumer could have read.
    pub fn start_to_be(&self, offset: i64) -> Result<i64, ErrorCode> {
        if !self.deletes {
            return Err(ErrorCode::PolicyViolation);
        }
        let offset = if offset == -1 { self.high_watermark() } else { offset };
        self.own_start_to_be(offset)
    }

    /// Where the log begins when the broker itself has given up what is before `offset`.
    ///
    /// # Errors
    /// OFFSET_OUT_OF_RANGE.
    pub fn own_start_to_be(&self, offset: i64) -> Result<i64, ErrorCode> {
        (0..=self.high_watermark()).contains(&offset).then_some(offset).ok_or(ErrorCode::OffsetOutOfRange)
    }

    /// NONE, or why a client that believes in `epoch` is turned away (KIP-320).
    pub fn check_epoch(&self, epoch: i32) -> ErrorCode {
        match epoch {
            -1 => ErrorCode::None,
            epoch if epoch < self.leader_epoch => ErrorCode::FencedLeaderEpoch,
            epoch if epoch > self.leader_epoch => ErrorCode::UnknownLeaderEpoch,
            _ => ErrorCode::None,
        }
    }

    /// What a batch's bytes must keep to, which is checked before there need be room for it.
    ///
    /// # Errors
    /// KAFKA_STORAGE_ERROR if it takes no batches.
    pub fn rules(&self) -> Result<Rules, Produced> {
        if self.log.borrow().is_suspended() || self.log.borrow().is_broken() {
            return Err(Produced::refused(ErrorCode::KafkaStorageError));
        }
        Ok(Rules { topic: self.rules.clone(), name: self.name.clone() })
    }

    /// There is no room for the part now; its producer is going to send it again.
    pub fn note_refused(&mut self, part: &ProducePart) {
        if let Ok(batch) = BatchView::parse(&part.records) {
            self.refusals.note(batch.producer_id(), batch.producer_epoch(), batch.base_sequence());
        }
    }

    /// The answer to a batch that was rejected.
    pub fn refused(&self, refusal: Rejected) -> Produced {
        tracing::debug!(partition = &*self.name, "batch refused: {}", refusal.detail);
        Produced {
            error: ErrorCode::from_code(refusal.reason.code()).expect("a rejection has one of Kafka's codes"),
            base_offset: -1,
            log_append_time_ms: -1,
            log_start_offset: if refusal.tells_log_start { self.log.borrow().log_start_offset() } else { -1 },
            record_errors: refusal
                .record_errors
                .into_iter()
                .map(|error| (error.batch_index, Some(error.message)))
                .collect(),
            error_message: refusal.message,
        }
    }

    /// Whether the producer's transaction is open here, or the guard that its first batch needs.
    pub fn verify_transaction(&mut self, wanted: &VerifyTransaction) -> Verification {
        match self.log.borrow_mut().producers().has_open_transaction(wanted.producer_id, wanted.epoch) {
            true => Verification::Open,
            false => Verification::Ask(self.verifications.begin(wanted)),
        }
    }

    /// Whether the producer may open a transaction with this batch, or go on with one.
    fn check_transaction(&self, log: &mut Log, batch: &Incoming, guard: Option<Guard>) -> Result<(), ErrorCode> {
        let producers = log.producers();
        if !batch.transactional || producers.has_open_transaction(batch.producer_id, batch.epoch) {
            return Ok(());
        }
        let known = producers.knows(batch.producer_id);
        if !known && producers.is_full_of_transactions() {
            return Err(ErrorCode::ThrottlingQuotaExceeded);
        }
        self.verifications.check(batch.producer_id, batch.first_sequence, guard, known)
    }

    /// Whether a coordinator may append records in the producer's transaction.
    ///
    /// # Errors
    /// INVALID_PRODUCER_EPOCH, or INVALID_TXN_STATE if the transaction is not open here and the guard is void.
    pub fn check_own(&mut self, producer_id: i64, epoch: i16, guard: Option<Guard>) -> Result<(), ErrorCode> {
        let (first_sequence, last_sequence) = (NO_SEQUENCE, NO_SEQUENCE);
        let incoming = Incoming { producer_id, epoch, first_sequence, last_sequence, transactional: true };
        let mut log = self.log.borrow_mut();
        match log.producers().check(&incoming) {
            SequenceCheck::Reject(error) => Err(error),
            SequenceCheck::Append | SequenceCheck::Duplicate(_) => self.check_transaction(&mut log, &incoming, guard),
        }
    }

    /// The epoch of its leader.
    pub fn leader_epoch(&self) -> i32 {
        self.leader_epoch
    }

    /// Ends a transaction: gives the offset that must be durable. The journal has room.
    ///
    /// # Errors
    /// INVALID_PRODUCER_EPOCH, TRANSACTION_COORDINATOR_FENCED or KAFKA_STORAGE_ERROR.
    pub fn append_marker(&mut self, journal: &Journal, part: &MarkerPart, now_ms: i64) -> Result<i64, ErrorCode> {
        let mut log = self.log.borrow_mut();
        if log.is_suspended() || log.is_broken() {
            return Err(ErrorCode::KafkaStorageError);
        }
        log.producers().check_marker(&part.marker, part.bumped)?;
        self.verifications.ended(part.marker.producer_id, part.marker.producer_epoch, part.bumped);
        let bytes = end_transaction_marker(&part.marker, now_ms);
        let view = BatchView::parse(&bytes).expect("a marker parses");
        Ok(log.append(journal, &view, self.leader_epoch).end_offset)
    }

    /// Judges the producer's sequence and transaction and appends. The journal has room.
    pub fn append(&mut self, journal: &Journal, batch: &Validated<'_>, guard: Option<Guard>) -> Outcome {
        let mut log = self.log.borrow_mut();
        let log_start_offset = log.log_start_offset();
        let done = |base_offset, log_append_time_ms| Produced {
            error: ErrorCode::None,
            base_offset,
            log_append_time_ms,
            log_start_offset,
            record_errors: Vec::new(),
            error_message: None,
        };
        if let Some(producer) = &batch.producer {
            let incoming = Incoming {
                producer_id: producer.id,
                epoch: producer.epoch,
                first_sequence: producer.base_sequence,
                last_sequence: producer.last_sequence,
                transactional: batch.is_transactional,
            };
            let refused = |error| Outcome::Answered(Produced { log_start_offset, ..Produced::refused(error) });
            match log.producers().check(&incoming) {
                SequenceCheck::Append => {
                    if !log.producers().knows(producer.id) && self.refusals.is_overtaking(&incoming) {
                        return refused(ErrorCode::OutOfOrderSequenceNumber);
                    }
                    if let Err(error) = self.check_transaction(&mut log, &incoming, guard) {
                        return refused(error);
                    }
                    self.refusals.settled(producer.id);
                }
                SequenceCheck::Reject(error) => return refused(error),
                SequenceCheck::Duplicate(original) => {
                    // Kafka gives a duplicate's timestamp also where records keep their own time.
                    let answer = done(original.base_offset, original.timestamp);
                    let settled = original.last_offset < log.durable_end_offset() || planted!(DuplicateAnsweredEarly);
                    return if settled {
                        Outcome::Answered(answer)
                    } else {
                        Outcome::Appended(original.last_offset + 1, answer)
                    };
                }
            }
        }
        let view = BatchView::parse(&batch.batch).expect("a validated batch parses");
        let appended = log.append(journal, &view, self.leader_epoch);
        if batch.is_transactional {
            self.verifications.opened(view.producer_id());
        }
        Outcome::Appended(appended.end_offset, done(appended.base_offset, batch.log_append_time_ms.unwrap_or(-1)))
    }

    /// Appends a batch that this broker itself made. The journal has room.
    pub fn append_own(&mut self, journal: &Journal, batch: &[u8]) {
        let view = BatchView::parse(batch).expect("the broker's own batches parse");
        if view.attributes().is_transactional() {
            self.verifications.opened(view.producer_id());
        }
        self.log.borrow_mut().append(journal, &view, self.leader_epoch);
    }

    /// Answers the part when the durable end has reached `end_offset`.
    pub fn wait_durable(&mut self, end_offset: i64, pending: &Rc<PendingProduce>, part: usize) {
        let at = self.produces.iter().rposition(|waiting| waiting.0 <= end_offset).map_or(0, |before| before + 1);
        self.produces.insert(at, (end_offset, pending.clone(), part));
    }

    /// Answers the reader when there is something at or behind `seen_end`; false if there is already.
    pub fn wait_news(&mut self, seen_end: i64, read_committed: bool, pending: &Rc<PendingAwait>) -> bool {
        if self.visible_end(read_committed) > seen_end {
            return false;
        }
        self.readers.add(seen_end, read_committed, pending);
        true
    }

    /// The durable end has moved.
    pub fn on_durable(&mut self) {
        let durable_end = self.log.borrow().durable_end_offset();
        while self.produces.front().is_some_and(|(end, _, _)| *end <= durable_end) {
            let (_, pending, part) = self.produces.pop_front().expect("there is a front");
            pending.settle(part, None);
        }
        if !self.readers.is_empty() {
            self.readers.show(self.visible_end(false), self.visible_end(true));
        }
    }

    /// The partition leaves this core: who waits is told to look elsewhere.
    pub fn close(&mut self, error: ErrorCode) {
        self.produces.drain(..).for_each(|(_, pending, part)| pending.settle(part, Some(error)));
        self.readers.answer_all();
    }

    /// The frame of a read's answer: the ends, and whether `offset` can be read (Kafka's checks, in order).
    pub fn read_frame(&self, current_leader_epoch: i32, last_fetched_epoch: i32, offset: i64) -> ReadPart {
        let epoch_error = self.check_epoch(current_leader_epoch);
        if epoch_error != ErrorCode::None {
            return ReadPart::refused(epoch_error);
        }
        let high_watermark = self.high_watermark();
        let mut log = self.log.borrow_mut();
        let frame = ReadPart {
            high_watermark,
            last_stable_offset: log.last_stable_offset().min(high_watermark),
            log_start_offset: log.log_start_offset(),
            ..ReadPart::refused(ErrorCode::None)
        };
        if last_fetched_epoch >= 0 {
            let end = log.log_end_offset();
            let (epoch, epoch_end) = log.epochs().end_of(last_fetched_epoch, end);
            if epoch < 0 {
                return ReadPart::refused(ErrorCode::OffsetOutOfRange);
            }
            if epoch < last_fetched_epoch || epoch_end < offset {
                return ReadPart { diverging_epoch: Some((epoch, epoch_end)), ..frame };
            }
        }
        if offset > log.log_end_offset() || offset < log.log_start_offset() {
            return ReadPart::refused(ErrorCode::OffsetOutOfRange);
        }
        frame
    }

    /// The end of the largest epoch not above the one asked for.
    pub fn epoch_end(&self, current_leader_epoch: i32, leader_epoch: i32) -> EpochEnded {
        let error = self.check_epoch(current_leader_epoch);
        if error != ErrorCode::None {
            return EpochEnded { error, leader_epoch: -1, end_offset: -1 };
        }
        let mut log = self.log.borrow_mut();
        let end = log.durable_end_offset();
        let (leader_epoch, end_offset) = log.epochs().end_of(leader_epoch, end);
        EpochEnded { error, leader_epoch, end_offset }
    }

    /// An offset by name: −1 latest that is visible, −2 earliest, −4 earliest local, −5 latest tiered. `None` for a time.
    pub fn named_offset(&self, timestamp: i64, read_committed: bool) -> Option<ListedOffset> {
        let offset = match timestamp {
            -1 => self.visible_end(read_committed),
            -2 | -4 => self.log.borrow().log_start_offset(),
            -5 => -1,
            _ => return None,
        };
        let leader_epoch = match timestamp {
            -5 => -1,
            -1 => self.leader_epoch,
            _ => self.log.borrow_mut().epochs().epoch_of(offset).unwrap_or(-1),
        };
        Some(ListedOffset { error: ErrorCode::None, timestamp: -1, offset, leader_epoch })
    }
}
