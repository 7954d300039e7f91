//! One transactional id: its producer, the transaction that it has, and the record that keeps both.
//!
//! ```text
//! Empty, CompleteCommit, CompleteAbort --partitions added--> Ongoing
//! Ongoing --EndTxn--> PrepareCommit | PrepareAbort      --markers written--> CompleteCommit | CompleteAbort
//! Ongoing --time is over, or another producer--> PrepareAbort, with epochs that fence the old producer
//! Empty, CompleteCommit, CompleteAbort --EndTxn(abort), version 2--> PrepareAbort --> CompleteAbort
//! Empty, CompleteCommit, CompleteAbort --InitProducerId--> Empty
//! ```
//! Kafka's PrepareEpochFence is a state of memory alone and not needed here: fencing and preparing to abort is
//! one record. Invariant: only Prepare states have markers to write, and they always get to Complete.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{Producer, Record};
use crate::protocol::data::transaction_log_value::PartitionsSchema;
use crate::protocol::data::{TransactionLogKey, TransactionLogValue};
use crate::protocol::value::{decode_value, encode_key, encode_value};
use crate::protocol::{DecodeError, RecordData, Str};

/// The epoch of a producer that has never been given one.
pub const NO_EPOCH: i16 = -1;
/// The greatest epoch that a client is given; one more is for the marker that ends its last transaction.
pub const LAST_EPOCH: i16 = i16::MAX - 1;

/// The version of the value with tagged fields, since transaction.version 1.
const VALUE_VERSION: i16 = 1;
/// transaction.version under which each transaction has an epoch of its own (KIP-890).
const BUMPS_EPOCH: i16 = 2;

/// Where a transaction stands; the numbers are those of the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i8)]
pub enum State {
    /// None since the producer was given its epoch.
    Empty = 0,
    /// It has partitions.
    Ongoing = 1,
    /// It is committed; markers are being written.
    PrepareCommit = 2,
    /// It is aborted; markers are being written.
    PrepareAbort = 3,
    /// All markers of the commit are durable.
    CompleteCommit = 4,
    /// All markers of the abort are durable.
    CompleteAbort = 5,
    /// The id is being removed. Only in records of other brokers.
    Dead = 6,
    /// The producer is being fenced. Only in records of other brokers.
    PrepareEpochFence = 7,
}

impl State {
    /// All of them.
    pub const ALL: [State; 8] = [
        State::Empty,
        State::Ongoing,
        State::PrepareCommit,
        State::PrepareAbort,
        State::CompleteCommit,
        State::CompleteAbort,
        State::Dead,
        State::PrepareEpochFence,
    ];

    /// As Kafka writes it.
    pub fn name(self) -> &'static str {
        match self {
            State::Empty => "Empty",
            State::Ongoing => "Ongoing",
            State::PrepareCommit => "PrepareCommit",
            State::PrepareAbort => "PrepareAbort",
            State::CompleteCommit => "CompleteCommit",
            State::CompleteAbort => "CompleteAbort",
            State::Dead => "Dead",
            State::PrepareEpochFence => "PrepareEpochFence",
        }
    }

    /// The state of that name.
    pub fn from_name(name: &str) -> Option<State> {
        State::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Whether markers are being written.
    pub fn is_prepared(self) -> bool {
        matches!(self, State::PrepareCommit | State::PrepareAbort)
    }

    /// Whether there is no transaction.
    pub fn is_idle(self) -> bool {
        matches!(self, State::Empty | State::CompleteCommit | State::CompleteAbort)
    }
}

/// Partitions by topic.
pub type Partitions = BTreeMap<String, BTreeSet<i32>>;

/// A transactional id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// Its producer.
    pub producer: Producer,
    /// The epoch that the producer had before the last bump, −1 if that producer is fenced. Not on disk.
    pub last_epoch: i16,
    /// The producer id before the last rotation, −1 for none.
    pub previous_id: i64,
    /// The producer id that comes when the present end is complete, −1 for the same.
    pub next_id: i64,
    /// How long a transaction may take, in milliseconds.
    pub timeout_ms: i32,
    /// Where it stands.
    pub state: State,
    /// Where its records and offsets are.
    pub partitions: Partitions,
    /// When it began, in ms since 1970; −1 for none.
    pub started_ms: i64,
    /// When the state changed last, in ms since 1970.
    pub updated_ms: i64,
    /// Whether the client gets a new epoch for each transaction (transactions version 2).
    pub bumps_epoch: bool,
}

impl Transaction {
    /// A new id, whose producer has no epoch yet.
    pub fn new(producer_id: i64, timeout_ms: i32, now_ms: i64) -> Transaction {
        Transaction {
            producer: Producer { id: producer_id, epoch: NO_EPOCH },
            last_epoch: NO_EPOCH,
            previous_id: -1,
            next_id: -1,
            timeout_ms,
            state: State::Empty,
            partitions: Partitions::new(),
            started_ms: -1,
            updated_ms: now_ms,
            bumps_epoch: false,
        }
    }

    /// Whether the producer has had its last epoch, so that the next one needs another id.
    pub fn is_exhausted(&self) -> bool {
        self.producer.epoch >= LAST_EPOCH
    }

    /// When an ongoing transaction is aborted, in ms since 1970.
    pub fn deadline(&self) -> Option<i64> {
        (self.state == State::Ongoing).then(|| self.started_ms.saturating_add(i64::from(self.timeout_ms)))
    }

    /// No transaction, and the producer has this epoch.
    pub fn begin_epoch(&mut self, producer: Producer, last_epoch: i16, timeout_ms: i32, now_ms: i64) {
        if producer.id != self.producer.id {
            self.previous_id = self.producer.id;
        }
        self.producer = producer;
        self.last_epoch = last_epoch;
        self.timeout_ms = timeout_ms;
        self.state = State::Empty;
        self.partitions.clear();
        self.started_ms = -1;
        self.updated_ms = now_ms;
    }

    /// Adds partitions; the first ones begin the transaction.
    pub fn add(&mut self, partitions: &Partitions, bumps_epoch: bool, now_ms: i64) {
        if self.state != State::Ongoing {
            self.state = State::Ongoing;
            self.started_ms = now_ms;
            self.partitions.clear();
        }
        for (topic, indexes) in partitions {
            self.partitions.entry(topic.clone()).or_default().extend(indexes);
        }
        self.bumps_epoch = bumps_epoch;
        self.updated_ms = now_ms;
    }

    /// Whether all of these are in the transaction.
    pub fn holds(&self, partitions: &Partitions) -> bool {
        partitions.iter().all(|(topic, indexes)| {
            self.partitions.get(topic).is_some_and(|held| indexes.iter().all(|index| held.contains(index)))
        })
    }

    /// The client ends the transaction. `spare_id` becomes the producer's id if its epochs are used up.
    pub fn prepare(&mut self, commit: bool, bumps_epoch: bool, spare_id: i64, now_ms: i64) {
        if self.state.is_idle() {
            self.started_ms = now_ms;
        }
        if bumps_epoch {
            self.next_id = if self.is_exhausted() { spare_id } else { -1 };
            self.last_epoch = self.producer.epoch;
            self.producer.epoch = self.producer.epoch.saturating_add(1);
        }
        self.state = if commit { State::PrepareCommit } else { State::PrepareAbort };
        self.bumps_epoch = bumps_epoch;
        self.updated_ms = now_ms;
    }

    /// The transaction is aborted without its producer. In version 2 the producer's own abort, when it comes, is
    /// one that it repeats, and gives it this epoch: as with Kafka, a producer that was too slow goes on. A
    /// producer whose place another one takes does not, for that one's epoch is another one higher.
    pub fn fence(&mut self, now_ms: i64) {
        self.producer.epoch = self.producer.epoch.saturating_add(1);
        self.last_epoch = NO_EPOCH;
        self.state = State::PrepareAbort;
        self.updated_ms = now_ms;
    }

    /// Its markers are durable.
    pub fn complete(&mut self, now_ms: i64) {
        assert!(self.state.is_prepared(), "markers are written for a decision");
        self.state = if self.state == State::PrepareCommit { State::CompleteCommit } else { State::CompleteAbort };
        if self.next_id >= 0 {
            self.previous_id = self.producer.id;
            self.producer = Producer { id: self.next_id, epoch: 0 };
            self.next_id = -1;
        }
        self.partitions.clear();
        self.updated_ms = now_ms;
    }

    /// About what its record takes, in bytes.
    pub fn size_bytes(&self, transactional_id: &str) -> u64 {
        let partitions = self.partitions.iter().map(|(topic, indexes)| topic.len() + 4 * indexes.len() + 8);
        (transactional_id.len() + partitions.sum::<usize>() + 96) as u64
    }

    /// The record of the state.
    pub fn record(&self, transactional_id: &str) -> Record {
        let partitions = self.partitions.iter().map(|(topic, indexes)| PartitionsSchema {
            topic: Str::Borrowed(topic),
            partition_ids: indexes.iter().copied().collect(),
        });
        let value = TransactionLogValue {
            producer_id: self.producer.id,
            previous_producer_id: self.previous_id,
            next_producer_id: self.next_id,
            producer_epoch: self.producer.epoch,
            transaction_timeout_ms: self.timeout_ms,
            transaction_status: self.state as i8,
            transaction_partitions: (self.state != State::Empty).then(|| partitions.collect()),
            transaction_last_update_timestamp_ms: self.updated_ms,
            transaction_start_timestamp_ms: self.started_ms,
            client_transaction_version: if self.bumps_epoch { BUMPS_EPOCH } else { 0 },
            ..Default::default()
        };
        let value = encode_value(&value, VALUE_VERSION).expect("its strings came in a request");
        Record { key: key(transactional_id), value: Some(value) }
    }

    /// The state that a record's value keeps.
    ///
    /// # Errors
    /// If it cannot be read, or its state is none that stays.
    pub fn decode(value: &[u8]) -> Result<Transaction, DecodeError> {
        let value: TransactionLogValue<'_> = decode_value(value)?;
        let found = State::ALL.into_iter().find(|state| *state as i8 == value.transaction_status);
        let state = found.filter(|state| !matches!(state, State::Dead | State::PrepareEpochFence));
        let unknown =
            DecodeError::UnsupportedVersion { name: "TransactionState", version: value.transaction_status.into() };
        let state = state.ok_or(unknown)?;
        let partitions = value.transaction_partitions.unwrap_or_default();
        let partitions =
            partitions.into_iter().map(|topic| (topic.topic.to_string(), topic.partition_ids.into_iter().collect()));
        Ok(Transaction {
            producer: Producer { id: value.producer_id, epoch: value.producer_epoch },
            last_epoch: NO_EPOCH,
            previous_id: value.previous_producer_id,
            next_id: value.next_producer_id,
            timeout_ms: value.transaction_timeout_ms,
            state,
            partitions: partitions.collect(),
            started_ms: value.transaction_start_timestamp_ms,
            updated_ms: value.transaction_last_update_timestamp_ms,
            bumps_epoch: value.client_transaction_version >= BUMPS_EPOCH,
        })
    }
}

/// The key of a transactional id.
pub fn key(transactional_id: &str) -> bytes::Bytes {
    encode_key(&TransactionLogKey { transactional_id: Str::Borrowed(transactional_id) })
        .expect("its string came in a request")
}

/// The record that forgets a transactional id.
pub fn tombstone(transactional_id: &str) -> Record {
    Record { key: key(transactional_id), value: None }
}

/// The type that the keys begin with.
pub const RECORD_TYPE: i16 = <TransactionLogKey<'_> as RecordData<'_>>::RECORD_TYPE;
