//! The transaction coordinator: which producer a transactional id has, and how its transactions end.
//!
//! Invariant: markers go out only when the record of the decision is durable, and their completion is recorded
//! only when all of them are; whatever is found prepared after a restart is sent again. So each transaction
//! that has begun ends: by its producer, by the next producer of its id, or by its timeout. Epochs fence: once
//! a decision is durable, no producer with an earlier epoch is listened to. ([`state`] has the transitions.)

pub mod state;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use super::passes::{Passes, Progress};
use super::{Context, Markers, Producer, Record, Reply, Step, Ticket};
use crate::limits::TRANSACTIONAL_IDS_PER_COORDINATOR;
use crate::protocol::data::TransactionLogKey;
use crate::protocol::value::{decode_key, record_type};
use crate::protocol::{DecodeError, ErrorCode};
use state::{LAST_EPOCH, NO_EPOCH, Partitions, RECORD_TYPE, State, Transaction, tombstone};

/// How often ids are looked through for those that were silent too long.
const EXPIRY_INTERVAL_MS: u64 = 3_600_000;

/// What the transaction coordinator is configured by, under Kafka's names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionConfig {
    /// `transaction.max.timeout.ms`.
    pub max_timeout_ms: i64,
    /// `transactional.id.expiration.ms`.
    pub id_expiration_ms: i64,
}

impl Default for TransactionConfig {
    /// Kafka 4.1's.
    fn default() -> TransactionConfig {
        TransactionConfig { max_timeout_ms: 900_000, id_expiration_ms: 604_800_000 }
    }
}

impl TransactionConfig {
    /// From the values of the configs.
    pub fn new(number: impl Fn(&str) -> i64) -> TransactionConfig {
        TransactionConfig {
            max_timeout_ms: number("transaction.max.timeout.ms"),
            id_expiration_ms: number("transactional.id.expiration.ms"),
        }
    }
}

/// What the transaction coordinator is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransactionRequest {
    /// A producer wants its id and epoch; answered by [`TransactionReply::Producer`].
    InitProducerId {
        /// The id; not empty.
        transactional_id: String,
        /// How long its transactions may take.
        timeout_ms: i32,
        /// The id and epoch that the client believes to have, if it recovers from an error.
        expected: Option<Producer>,
        /// A producer id that was never used, should one be needed.
        spare_id: i64,
    },
    /// Partitions join the transaction, or are looked for in it; answered by [`TransactionReply::Partitions`].
    AddPartitions {
        /// The id; not empty.
        transactional_id: String,
        /// Who asks.
        producer: Producer,
        /// The partitions, of topics that exist.
        partitions: Partitions,
        /// Whether the client gets a new epoch for each transaction.
        bumps_epoch: bool,
        /// Whether nothing is added: partitions that are not there are TRANSACTION_ABORTABLE.
        verify_only: bool,
    },
    /// The transaction ends; answered by [`TransactionReply::Producer`].
    End {
        /// The id; not empty.
        transactional_id: String,
        /// Who asks.
        producer: Producer,
        /// Whether it is committed.
        committed: bool,
        /// Whether the client gets a new epoch (EndTxn from version 5 on).
        bumps_epoch: bool,
        /// A producer id that was never used; only needed if the producer's epochs are used up.
        spare_id: i64,
    },
    /// What is known of an id; answered by [`TransactionReply::Described`].
    Describe {
        /// The id.
        transactional_id: String,
    },
    /// All ids that pass the filters; answered by [`TransactionReply::Listed`].
    List {
        /// Only in these states; all if empty.
        states: Arc<BTreeSet<State>>,
        /// Only of these producers; all if empty.
        producer_ids: Arc<BTreeSet<i64>>,
        /// Only with transactions older than this; all if negative.
        older_than_ms: i64,
    },
}

impl TransactionRequest {
    /// The one id that it is about.
    fn id(&self) -> Option<&str> {
        match self {
            TransactionRequest::InitProducerId { transactional_id, .. }
            | TransactionRequest::AddPartitions { transactional_id, .. }
            | TransactionRequest::End { transactional_id, .. }
            | TransactionRequest::Describe { transactional_id } => Some(transactional_id),
            TransactionRequest::List { .. } => None,
        }
    }

    /// Whether it records nothing, so that it does not wait until something can be recorded.
    pub fn is_urgent(&self) -> bool {
        match self {
            TransactionRequest::AddPartitions { verify_only, .. } => *verify_only,
            TransactionRequest::Describe { .. } | TransactionRequest::List { .. } => true,
            TransactionRequest::InitProducerId { .. } | TransactionRequest::End { .. } => false,
        }
    }
}

/// The transaction coordinator's answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransactionReply {
    /// The producer's id and epoch from now on.
    Producer(Producer),
    /// An error, or NONE, for each partition that was named.
    Partitions(Vec<(String, i32, ErrorCode)>),
    /// The state of the id.
    Described(Box<Transaction>),
    /// Ids with their producers and states.
    Listed(Vec<(String, Producer, State)>),
}

/// The transaction coordinator over one partition of `__transaction_state`.
pub struct TransactionCoordinator {
    config: TransactionConfig,
    ids: BTreeMap<String, Transaction>,
    /// Ongoing transactions by deadline, in ms since 1970.
    deadlines: BTreeSet<(i64, String)>,
    /// Ids that were found prepared after a load and whose markers go out again.
    resumed: Vec<String>,
    /// The wall clock minus the monotonic one, as last seen, in ms.
    wall_ahead_ms: i64,
    /// When ids are looked through next, on the monotonic clock.
    next_expiry_ms: u64,
    passes: Passes,
    /// The last id that the pass under way has written.
    written: Option<String>,
}

type Answer = Result<TransactionReply, ErrorCode>;

impl TransactionCoordinator {
    /// One that knows no ids, and writes its state anew when its log has grown by `snapshot_after_bytes`.
    pub fn new(config: TransactionConfig, snapshot_after_bytes: u64) -> TransactionCoordinator {
        TransactionCoordinator {
            config,
            ids: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            resumed: Vec::new(),
            wall_ahead_ms: 0,
            next_expiry_ms: EXPIRY_INTERVAL_MS,
            passes: Passes::new(snapshot_after_bytes),
            written: None,
        }
    }

    /// Takes a record of the log.
    ///
    /// # Errors
    /// If it is none of this coordinator's.
    pub fn replay(&mut self, offset: i64, key: &[u8], value: Option<&[u8]>) -> Result<(), DecodeError> {
        self.passes.note(offset, Record::size_of(key, value));
        let found = record_type(key)?;
        if found != RECORD_TYPE {
            return Err(DecodeError::UnsupportedVersion { name: "TransactionLogKey", version: found });
        }
        let key: TransactionLogKey<'_> = decode_key(key)?;
        let transaction = value.map(Transaction::decode).transpose()?;
        let id = key.transactional_id.to_string();
        self.forget(&id);
        if let Some(transaction) = transaction {
            self.insert(&id, transaction);
        }
        Ok(())
    }

    /// The log has been replayed: what is prepared goes on with its markers at the next tick.
    pub fn loaded(&mut self, context: &mut Context<'_>) {
        self.see_clock(context);
        self.next_expiry_ms = context.now_ms + EXPIRY_INTERVAL_MS;
        let prepared = self.ids.iter().filter(|(_, transaction)| transaction.state.is_prepared());
        self.resumed = prepared.map(|(id, _)| id.clone()).collect();
    }

    fn see_clock(&mut self, context: &Context<'_>) {
        self.wall_ahead_ms = context.wall_clock_ms - context.now_ms as i64;
    }

    /// Takes a request.
    pub fn handle(&mut self, context: &mut Context<'_>, ticket: Ticket, request: TransactionRequest) -> Step {
        if context.has_room {
            return self.decide(context, ticket, request);
        }
        let id = request.id().map(str::to_owned);
        let before = id.as_ref().and_then(|id| self.ids.get(id).cloned());
        let step = self.decide(context, ticket, request);
        if step.records.is_empty() {
            return step;
        }
        // It cannot be recorded: all is as it was.
        let id = id.expect("what is recorded is of one id");
        self.forget(&id);
        if let Some(before) = before {
            self.insert(&id, before);
        }
        Step::refused(ticket, ErrorCode::CoordinatorNotAvailable)
    }

    fn decide(&mut self, context: &mut Context<'_>, ticket: Ticket, request: TransactionRequest) -> Step {
        self.see_clock(context);
        let mut step = Step::default();
        let (now_ms, largest_record) = (context.wall_clock_ms, context.largest_record);
        let answer = match request {
            TransactionRequest::InitProducerId { transactional_id, timeout_ms, expected, spare_id } => {
                self.init_producer_id(&transactional_id, timeout_ms, expected, spare_id, now_ms, &mut step)
            }
            TransactionRequest::AddPartitions { transactional_id, producer, partitions, bumps_epoch, verify_only } => {
                let added = Added { partitions, bumps_epoch, largest_record };
                match verify_only {
                    true => self.verify(&transactional_id, producer, added.partitions),
                    false => self.add(&transactional_id, producer, added, now_ms, &mut step),
                }
            }
            TransactionRequest::End { transactional_id, producer, committed, bumps_epoch, spare_id } => {
                let end = End { producer, committed, spare_id };
                match bumps_epoch {
                    true => self.end_and_bump(&transactional_id, &end, now_ms, &mut step),
                    false => self.end(&transactional_id, &end, now_ms, &mut step),
                }
            }
            TransactionRequest::Describe { transactional_id } => {
                let found = self.ids.get(&transactional_id).cloned();
                found
                    .map(|found| TransactionReply::Described(Box::new(found)))
                    .ok_or(ErrorCode::TransactionalIdNotFound)
            }
            TransactionRequest::List { states, producer_ids, older_than_ms } => {
                Ok(self.list(&states, &producer_ids, older_than_ms, now_ms))
            }
        };
        step.reply(ticket, answer.map_or_else(Reply::Refused, Reply::Transaction));
        step
    }

    fn init_producer_id(
        &mut self,
        id: &str,
        timeout_ms: i32,
        expected: Option<Producer>,
        spare_id: i64,
        now_ms: i64,
        step: &mut Step,
    ) -> Answer {
        if timeout_ms <= 0 || i64::from(timeout_ms) > self.config.max_timeout_ms {
            return Err(ErrorCode::InvalidTransactionTimeout);
        }
        let known = self.ids.get(id);
        if known.is_none() && self.ids.len() >= TRANSACTIONAL_IDS_PER_COORDINATOR {
            return Err(ErrorCode::PolicyViolation);
        }
        let mut transaction = known.cloned().unwrap_or_else(|| Transaction::new(spare_id, timeout_ms, now_ms));
        if transaction.state.is_prepared() {
            return Err(ErrorCode::ConcurrentTransactions);
        }
        if expected.is_some_and(|expected| !may_init(&transaction, expected)) {
            return Err(ErrorCode::ProducerFenced);
        }
        if transaction.state == State::Ongoing {
            // The client asks again, and gets an epoch above the one that fences.
            self.abort_and_fence(id, now_ms, step);
            return Err(ErrorCode::ConcurrentTransactions);
        }
        let (producer, last_epoch) = next_producer(&transaction, expected, spare_id)?;
        transaction.begin_epoch(producer, last_epoch, timeout_ms, now_ms);
        self.put(id, transaction, step);
        Ok(TransactionReply::Producer(producer))
    }

    fn add(
        &mut self,
        id: &str,
        producer: Producer,
        Added { partitions, bumps_epoch, largest_record }: Added,
        now_ms: i64,
        step: &mut Step,
    ) -> Answer {
        // First of all: who asks may have the epoch, or the id, that comes with the end that is under way.
        if self.ids.get(id).is_some_and(|transaction| transaction.state.is_prepared()) {
            return Err(ErrorCode::ConcurrentTransactions);
        }
        let transaction = self.find_current(id, producer)?;
        if transaction.state == State::Ongoing && transaction.holds(&partitions) {
            return Ok(all(partitions, ErrorCode::None));
        }
        let mut transaction = transaction.clone();
        transaction.add(&partitions, bumps_epoch, now_ms);
        if transaction.size_bytes(id) > largest_record as u64 {
            return Err(ErrorCode::UnknownServerError);
        }
        self.put(id, transaction, step);
        Ok(all(partitions, ErrorCode::None))
    }

    fn verify(&mut self, id: &str, producer: Producer, partitions: Partitions) -> Answer {
        let transaction = self.find_current(id, producer)?;
        let held = |topic: &str, index| transaction.partitions.get(topic).is_some_and(|held| held.contains(&index));
        let mut results = all_partitions(partitions);
        for (topic, index, error) in &mut results {
            *error = if held(topic, *index) { ErrorCode::None } else { ErrorCode::TransactionAbortable };
        }
        Ok(TransactionReply::Partitions(results))
    }

    /// The id's transaction, if this is its producer and nothing is being ended.
    fn find_current(&self, id: &str, producer: Producer) -> Result<&Transaction, ErrorCode> {
        let transaction = self.ids.get(id).ok_or(ErrorCode::InvalidProducerIdMapping)?;
        if transaction.producer.id != producer.id {
            return Err(ErrorCode::InvalidProducerIdMapping);
        }
        if transaction.producer.epoch != producer.epoch {
            return Err(ErrorCode::ProducerFenced);
        }
        if transaction.state.is_prepared() {
            return Err(ErrorCode::ConcurrentTransactions);
        }
        Ok(transaction)
    }

    /// EndTxn before version 5: the epoch stays, and a repeated request is known by the state alone.
    fn end(&mut self, id: &str, end: &End, now_ms: i64, step: &mut Step) -> Answer {
        let transaction = self.ids.get(id).ok_or(ErrorCode::InvalidProducerIdMapping)?;
        if transaction.producer.id != end.producer.id {
            return Err(ErrorCode::InvalidProducerIdMapping);
        }
        if transaction.producer.epoch != end.producer.epoch {
            return Err(ErrorCode::ProducerFenced);
        }
        match transaction.state {
            State::Ongoing => Ok(TransactionReply::Producer(self.prepare(id, end, false, now_ms, step))),
            State::CompleteCommit if end.committed => Ok(TransactionReply::Producer(end.producer)),
            State::CompleteAbort if !end.committed => Ok(TransactionReply::Producer(end.producer)),
            State::PrepareCommit | State::PrepareAbort => Err(ErrorCode::ConcurrentTransactions),
            _ => Err(ErrorCode::InvalidTxnState),
        }
    }

    /// EndTxn from version 5 on: the epoch grows at each end, so that the epoch tells a repeated request.
    fn end_and_bump(&mut self, id: &str, end: &End, now_ms: i64, step: &mut Step) -> Answer {
        let transaction = self.ids.get(id).ok_or(ErrorCode::InvalidProducerIdMapping)?;
        let current = transaction.producer;
        let repeats_over_rotation = transaction.previous_id == end.producer.id
            && end.producer.epoch == LAST_EPOCH
            && current.epoch == 0
            && transaction.state.is_idle();
        // An epoch at the very end comes only from fencing once the transaction is over.
        let repeats_bump = current.epoch == end.producer.epoch.saturating_add(1)
            && current.id == end.producer.id
            && current.epoch != i16::MAX;
        let repeats = repeats_bump || repeats_over_rotation;
        // First of all: who asks may have the epoch, or the id, that comes with the end that is under way.
        if transaction.state.is_prepared() {
            return Err(ErrorCode::ConcurrentTransactions);
        }
        if current.id != end.producer.id && !repeats_over_rotation {
            return Err(ErrorCode::InvalidProducerIdMapping);
        }
        let is_current = current == end.producer;
        match transaction.state {
            State::Ongoing if is_current => Ok(TransactionReply::Producer(self.prepare(id, end, true, now_ms, step))),
            State::CompleteCommit | State::CompleteAbort if repeats => {
                let same = (transaction.state == State::CompleteCommit) == end.committed;
                if same { Ok(TransactionReply::Producer(current)) } else { Err(ErrorCode::InvalidTxnState) }
            }
            // An abort of nothing still gives an epoch, which what the client may have sent is fenced by.
            State::Empty | State::CompleteCommit | State::CompleteAbort if is_current && !end.committed => {
                Ok(TransactionReply::Producer(self.prepare(id, end, true, now_ms, step)))
            }
            State::Empty | State::CompleteCommit | State::CompleteAbort if is_current => {
                Err(ErrorCode::InvalidTxnState)
            }
            _ => Err(ErrorCode::ProducerFenced),
        }
    }

    /// Records the decision of a client and gives what its producer is from now on.
    fn prepare(&mut self, id: &str, end: &End, bumps_epoch: bool, now_ms: i64, step: &mut Step) -> Producer {
        let mut transaction = self.ids.get(id).expect("the caller has found it").clone();
        transaction.prepare(end.committed, bumps_epoch, end.spare_id, now_ms);
        let next = match transaction.next_id {
            -1 => transaction.producer,
            next => Producer { id: next, epoch: 0 },
        };
        self.put_prepared(id, transaction, now_ms, step);
        next
    }

    fn abort_and_fence(&mut self, id: &str, now_ms: i64, step: &mut Step) {
        let mut transaction = self.ids.get(id).expect("the caller has found it").clone();
        transaction.fence(now_ms);
        self.put_prepared(id, transaction, now_ms, step);
    }

    /// Records a decision; its markers follow, or if there are none it is complete.
    fn put_prepared(&mut self, id: &str, mut transaction: Transaction, now_ms: i64, step: &mut Step) {
        if transaction.partitions.is_empty() {
            step.records.push(transaction.record(id));
            transaction.complete(now_ms);
        } else {
            step.markers.push(markers(id, &transaction));
        }
        self.put(id, transaction, step);
    }

    /// All markers of the transaction are durable.
    pub fn markers_written(&mut self, context: &mut Context<'_>, written: &Markers) -> Step {
        self.see_clock(context);
        let mut step = Step::default();
        let found = self.ids.get(&written.transactional_id);
        let same = found.filter(|found| found.state.is_prepared() && found.producer == written.producer);
        if let Some(mut transaction) = same.cloned() {
            transaction.complete(context.wall_clock_ms);
            self.put(&written.transactional_id, transaction, &mut step);
        }
        step
    }

    fn put(&mut self, id: &str, transaction: Transaction, step: &mut Step) {
        step.records.push(transaction.record(id));
        self.forget(id);
        self.insert(id, transaction);
    }

    fn insert(&mut self, id: &str, transaction: Transaction) {
        self.deadlines.extend(transaction.deadline().map(|deadline| (deadline, id.to_owned())));
        self.ids.insert(id.to_owned(), transaction);
    }

    fn forget(&mut self, id: &str) {
        if let Some(deadline) = self.ids.remove(id).and_then(|transaction| transaction.deadline()) {
            self.deadlines.remove(&(deadline, id.to_owned()));
        }
    }

    fn list(
        &self,
        states: &BTreeSet<State>,
        producer_ids: &BTreeSet<i64>,
        older_than_ms: i64,
        now_ms: i64,
    ) -> TransactionReply {
        let passes = |transaction: &Transaction| {
            (states.is_empty() || states.contains(&transaction.state))
                && (producer_ids.is_empty() || producer_ids.contains(&transaction.producer.id))
                && (older_than_ms < 0 || now_ms.saturating_sub(transaction.started_ms) > older_than_ms)
        };
        let passing = self.ids.iter().filter(|(_, transaction)| passes(transaction));
        let listed = passing.map(|(id, transaction)| (id.clone(), transaction.producer, transaction.state));
        TransactionReply::Listed(listed.collect())
    }

    /// Aborts what took too long, sends again what was found prepared, forgets ids that were silent too long.
    pub fn tick(&mut self, context: &mut Context<'_>) -> Step {
        self.see_clock(context);
        let mut step = Step::default();
        if !context.has_room {
            return step;
        }
        let now_ms = context.wall_clock_ms;
        for id in std::mem::take(&mut self.resumed) {
            let found = self.ids.get(&id).filter(|transaction| transaction.state.is_prepared()).cloned();
            match found {
                Some(transaction) if !transaction.partitions.is_empty() => {
                    step.markers.push(markers(&id, &transaction))
                }
                Some(mut transaction) => {
                    transaction.complete(now_ms);
                    self.put(&id, transaction, &mut step);
                }
                None => {}
            }
        }
        while let Some((_, id)) = self.deadlines.first().filter(|(deadline, _)| *deadline <= now_ms).cloned() {
            self.abort_and_fence(&id, now_ms, &mut step);
        }
        if context.now_ms >= self.next_expiry_ms {
            self.next_expiry_ms = context.now_ms + EXPIRY_INTERVAL_MS;
            self.expire(now_ms, &mut step);
        }
        if self.passes.is_due(context.now_ms) {
            self.write_anew(context.now_ms, &mut step);
        }
        step
    }

    /// A step's records stand in the log, the first at this offset.
    pub fn appended(&mut self, first_offset: i64, records: &[Record]) {
        for (offset, record) in (first_offset..).zip(records) {
            self.passes.note(offset, record.size_bytes());
        }
    }

    /// Writes another piece of the state; begins with it if it is time.
    fn write_anew(&mut self, now_ms: u64, step: &mut Step) {
        if !self.passes.is_running() {
            let state_bytes = self.ids.iter().map(|(id, transaction)| transaction.size_bytes(id)).sum();
            if !self.passes.begin(state_bytes) {
                return;
            }
            self.written = None;
        }
        let mut piece = self.passes.piece();
        let from = self.written.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut left = self.ids.range::<String, _>((from, Bound::Unbounded)).peekable();
        let mut written = None;
        while let Some((id, transaction)) = left.next_if(|_| !piece.is_full()) {
            piece.look();
            piece.push(step, transaction.record(id));
            written = Some(id.clone());
        }
        let progress = if left.peek().is_some() { Progress::More } else { Progress::Whole };
        self.written = written.or(self.written.take());
        self.passes.go_on(now_ms, progress, step);
    }

    fn expire(&mut self, now_ms: i64, step: &mut Step) {
        let silent = |transaction: &Transaction| {
            let silent_ms = now_ms.saturating_sub(transaction.updated_ms);
            transaction.state.is_idle() && silent_ms >= self.config.id_expiration_ms
        };
        let expired: Vec<_> =
            self.ids.iter().filter(|(_, transaction)| silent(transaction)).map(|(id, _)| id.clone()).collect();
        for id in expired {
            self.forget(&id);
            step.records.push(tombstone(&id));
        }
    }

    /// When [`TransactionCoordinator::tick`] is due, on the monotonic clock.
    pub fn next_deadline(&self) -> Option<u64> {
        if !self.resumed.is_empty() {
            return Some(0);
        }
        let timeout = self
            .deadlines
            .first()
            .map(|(deadline, _)| u64::try_from(deadline.saturating_sub(self.wall_ahead_ms)).unwrap_or(0));
        let expiry = (!self.ids.is_empty()).then_some(self.next_expiry_ms);
        timeout.into_iter().chain(expiry).chain(self.passes.next_deadline()).min()
    }
}

/// A client's wish to add partitions.
struct Added {
    partitions: Partitions,
    bumps_epoch: bool,
    /// The largest record that can be appended, in bytes.
    largest_record: usize,
}

/// A client's wish to end its transaction.
struct End {
    producer: Producer,
    committed: bool,
    spare_id: i64,
}

/// Whether a producer that believes in this id and epoch may get a new one (Kafka's `isValidProducerId`).
fn may_init(transaction: &Transaction, expected: Producer) -> bool {
    transaction.producer.epoch == NO_EPOCH
        || expected.id == transaction.producer.id
        || (expected.id == transaction.previous_id && expected.epoch >= LAST_EPOCH)
}

/// The producer that InitProducerId gives, and the epoch before it.
fn next_producer(
    transaction: &Transaction,
    expected: Option<Producer>,
    spare_id: i64,
) -> Result<(Producer, i16), ErrorCode> {
    let current = transaction.producer;
    let matches = expected.is_none_or(|expected| expected.epoch == current.epoch);
    let last_epoch = if expected.is_some() { current.epoch } else { NO_EPOCH };
    if transaction.is_exhausted() && matches {
        return Ok((Producer { id: spare_id, epoch: 0 }, last_epoch));
    }
    if matches || current.epoch == NO_EPOCH {
        return Ok((Producer { id: current.id, epoch: current.epoch + 1 }, last_epoch));
    }
    // The client repeats a request whose answer it has not seen: nobody was given an epoch since.
    let repeats = expected.is_some_and(|expected| expected.epoch == transaction.last_epoch);
    if repeats { Ok((current, transaction.last_epoch)) } else { Err(ErrorCode::ProducerFenced) }
}

/// The markers that end a prepared transaction.
fn markers(id: &str, transaction: &Transaction) -> Markers {
    Markers {
        transactional_id: id.to_owned(),
        producer: transaction.producer,
        committed: transaction.state == State::PrepareCommit,
        bumped: transaction.bumps_epoch,
        partitions: transaction.partitions.clone(),
    }
}

fn all_partitions(partitions: Partitions) -> Vec<(String, i32, ErrorCode)> {
    let each = |(topic, indexes): (String, BTreeSet<i32>)| {
        indexes.into_iter().map(move |index| (topic.clone(), index, ErrorCode::None))
    };
    partitions.into_iter().flat_map(each).collect()
}

fn all(partitions: Partitions, error: ErrorCode) -> TransactionReply {
    let mut results = all_partitions(partitions);
    results.iter_mut().for_each(|(_, _, result)| *result = error);
    TransactionReply::Partitions(results)
}
