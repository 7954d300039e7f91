//! Transactional producers: they append to a few lists at a time, commit or abort, vanish in the midst, are fenced by
//! who takes their place, and go on all the same.
//!
//! Half of the writers are clients of transactions version 2, where each transaction has an epoch of its own: they
//! send ends twice, on other connections and late, and abort when they do not know whether a batch has arrived. Those
//! of version 1 (AddPartitionsToTxn 0 to 3, Produce up to 11) may not: with them a late end could end the next
//! transaction, which is the hole that version 2 closes. So they ask for a new epoch where they have lost the answer
//! to an end or to an offset; late AddPartitionsToTxn and batches they send as well. A commit is asked for only when all that it is
//! to hold was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use checker::{Rule, payload};
use engine::io::Io;
use engine::protocol::messages::add_offsets_to_txn::{AddOffsetsToTxnRequest, AddOffsetsToTxnResponse};
use engine::protocol::messages::add_partitions_to_txn::{
    AddPartitionsToTxnRequest, AddPartitionsToTxnResponse, AddPartitionsToTxnTopic,
};
use engine::protocol::messages::end_txn::{EndTxnRequest, EndTxnResponse};
use engine::protocol::messages::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};
use engine::protocol::messages::produce::{PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData};
use engine::protocol::messages::txn_offset_commit::{
    TxnOffsetCommitRequest, TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic, TxnOffsetCommitResponse,
};
use engine::protocol::{ErrorCode, Records, Request, Uuid};
use engine::record::{BatchBuilder, Codec};

use crate::chance::Chance;
use crate::clients::{Topic, error};
use crate::readers::{draw_how, fetch};
use crate::shared::{Line, Shared, list, may_pass};

/// A transaction that nobody touches for so long is aborted: the short ones by the broker, the long ones by whoever
/// comes next.
const SHORT_MS: i32 = 800;
const LONG_MS: i32 = 900_000;
/// How often something is tried again before its client gives up.
const MOST_TRIES: u64 = 40;
/// From this Produce version on the broker adds partitions, and topics go by id in the next one.
const PRODUCE_ADDS: i16 = 12;
const PRODUCE_BY_ID: i16 = 13;

/// The group in which a writer commits offsets, which nobody else does.
pub(crate) fn group_of(writer: u64) -> String {
    format!("copied-by-{writer}")
}

/// Why a producer does not go on as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// It is told that its place is taken, or cannot know where it stands: the next one takes it.
    Retire,
    /// It is gone without a word, and what it had begun is left to others.
    Vanish,
    /// The transaction is given up.
    Abort,
}

/// One that writes under a transactional id.
struct Producer {
    line: Line,
    chance: Chance,
    topic: Topic,
    writer: u64,
    name: String,
    /// Whether each transaction has an epoch of its own.
    bumps: bool,
    timeout_ms: i32,
    id: i64,
    epoch: i16,
    /// Which of its writer's producers it is.
    number: u64,
    /// By partition.
    sequences: BTreeMap<i32, i32>,
    /// Whether an answer was lost that makes a late request of this epoch possible.
    unsure: bool,
    /// Whether nothing but its own end can end the transaction.
    is_safe: bool,
}

/// Writes under one transactional id until the clients stop, and leaves nothing open behind.
pub(crate) async fn write(shared: Rc<Shared>, io: Io, writer: u64) {
    let mut chance = shared.chance(0x300 + writer);
    let topic = shared.topic(&io).await;
    let bumps = writer.is_multiple_of(2) || chance.one_in(4);
    // A late InitProducerId whose answer was lost may end anything that its writer does later.
    let mut may_be_fenced = shared.load.clocks_jump;
    while !shared.is_stopping() {
        let (line, own) = (Line::new(shared.clone(), io.clone()), shared.chance(0x30_0000 + shared.number()));
        let timeout_ms = if chance.one_in(3) { SHORT_MS } else { LONG_MS };
        let mut producer = Producer::new(line, own, topic.clone(), (writer, bumps, timeout_ms));
        may_be_fenced |= !producer.init().await;
        let mut stop = None;
        while stop.is_none() && !shared.is_stopping() {
            stop = producer.transaction(may_be_fenced).await.err();
            let pause = producer.chance.below(1000 * shared.load.pause_ms + 1);
            io.sleep(Duration::from_micros(pause)).await;
        }
        tracing::debug!(writer, ?stop, "producer {} ends", producer.number);
    }
    // Whatever hangs is aborted.
    let line = Line::new(shared.clone(), io);
    Producer::new(line, chance, topic, (writer, bumps, LONG_MS)).init().await;
}

impl Producer {
    /// One without an id: (its writer, whether each transaction has an epoch of its own, how long one may take).
    fn new(line: Line, chance: Chance, topic: Topic, (writer, bumps, timeout_ms): (u64, bool, i32)) -> Producer {
        Producer {
            line,
            chance,
            topic,
            writer,
            name: format!("writer-{writer}"),
            bumps,
            timeout_ms,
            id: -1,
            epoch: -1,
            number: 0,
            sequences: BTreeMap::new(),
            unsure: false,
            is_safe: false,
        }
    }

    fn shared(&self) -> Rc<Shared> {
        self.line.shared.clone()
    }

    /// Takes the writer's place; false if an answer to that was lost on the way.
    async fn init(&mut self) -> bool {
        let mut is_sure = true;
        loop {
            self.shared().transactions.borrow_mut().producer_sent(self.writer);
            let request = InitProducerIdRequest {
                transactional_id: Some(self.name.clone().into()),
                transaction_timeout_ms: self.timeout_ms,
                producer_id: -1,
                producer_epoch: -1,
            };
            let version = self.chance.between(2, 5) as i16;
            let Ok(answer) = self.line.ask(&request, version).await else {
                is_sure = false;
                continue;
            };
            let response: InitProducerIdResponse = answer.message();
            match error(response.error_code) {
                ErrorCode::None => {
                    (self.id, self.epoch) = (response.producer_id, response.producer_epoch);
                    self.number = self.shared().transactions.borrow_mut().producer_given(self.writer);
                    tracing::debug!(self.writer, self.number, self.id, self.epoch, "a producer");
                    self.shared().count("producers");
                    return is_sure;
                }
                other if may_pass(other) => self.line.pause(self.chance.between(1, 30)).await,
                other => {
                    let what = format!("InitProducerId of {} answers {other:?}", self.name);
                    self.shared().transactions.borrow_mut().broken(Rule::Producer, None, what);
                    self.line.pause(100).await;
                }
            }
        }
    }

    async fn transaction(&mut self, may_be_fenced: bool) -> Result<(), Stop> {
        let (shared, number) = (self.shared(), self.shared().number());
        let may_end = may_be_fenced || self.timeout_ms == SHORT_MS;
        shared.transactions.borrow_mut().begin(number, self.writer, may_end);
        self.is_safe = !may_end;
        let written = self.fill(number).await;
        match written {
            Ok(()) if self.chance.one_in(14) => {
                self.haunt(number, true);
                return Err(Stop::Vanish);
            }
            Ok(()) if self.chance.one_in(10) => self.line.pause(self.chance.between(1, 2 * SHORT_MS as u64)).await,
            Ok(()) => {}
            Err(Stop::Abort) => return self.end(number, false).await,
            Err(stop) => {
                if self.chance.one_in(3) {
                    self.haunt(number, false);
                }
                return Err(stop);
            }
        }
        let commit = !self.chance.one_in(4);
        self.end(number, commit).await
    }

    /// All that the transaction is to hold.
    async fn fill(&mut self, number: u64) -> Result<(), Stop> {
        if self.chance.one_in(3) {
            self.read_within(number).await;
        }
        let mut all: Vec<i32> = (0..self.topic.partitions).collect();
        let count = self.chance.between(1, 3).min(all.len() as u64);
        let partitions: BTreeSet<i32> =
            (0..count).map(|_| all.swap_remove(self.chance.below(all.len() as u64) as usize)).collect();
        if !self.bumps {
            self.add_partitions(&partitions).await?;
        }
        for partition in partitions {
            for _ in 0..self.chance.between(1, 2) {
                self.produce(number, partition).await?;
            }
        }
        if self.chance.one_in(3) {
            self.commit_offset(number).await?;
        }
        Ok(())
    }

    /// It reads what others have committed, as who copies does.
    async fn read_within(&mut self, number: u64) {
        let partition = self.chance.below(self.topic.partitions as u64) as i32;
        let place = list(&self.topic, partition);
        let end = self.shared().transactions.borrow().stable(place);
        let offset = (end - self.chance.log_below(5) as i64).max(0);
        let topic = self.topic.clone();
        let how = draw_how(&mut self.chance);
        if let Ok(fetched) = fetch(&mut self.line, &topic, partition, offset, how).await {
            self.shared().transactions.borrow_mut().read_within(number, &fetched.seen);
        }
    }

    async fn add_partitions(&mut self, partitions: &BTreeSet<i32>) -> Result<(), Stop> {
        let topic = AddPartitionsToTxnTopic {
            name: self.topic.name.clone().into(),
            partitions: partitions.iter().copied().collect(),
        };
        let request = AddPartitionsToTxnRequest {
            v3_and_below_transactional_id: self.name.clone().into(),
            v3_and_below_producer_id: self.id,
            v3_and_below_producer_epoch: self.epoch,
            v3_and_below_topics: vec![topic],
            ..Default::default()
        };
        let version = self.chance.between(0, 3) as i16;
        if self.chance.one_in(6) {
            self.send_also(request.clone(), version);
        }
        for _ in 0..MOST_TRIES {
            let newest = self.newest();
            let Ok(answer) = self.line.ask(&request, version).await else { continue };
            let response: AddPartitionsToTxnResponse<'_> = answer.message();
            let mut results =
                response.results_by_topic_v3_and_below.iter().flat_map(|topic| &topic.results_by_partition);
            let refused = results.find(|result| result.partition_error_code != 0);
            match refused.map_or(ErrorCode::None, |result| error(result.partition_error_code)) {
                ErrorCode::None => {
                    self.accepted("AddPartitionsToTxn", newest);
                    return Ok(());
                }
                other => self.consider("AddPartitionsToTxn", other).await?,
            }
        }
        Err(Stop::Retire)
    }

    /// One batch, until it is acknowledged.
    async fn produce(&mut self, number: u64, partition: i32) -> Result<(), Stop> {
        let shared = self.shared();
        let sequence = self.sequences.get(&partition).copied().unwrap_or(0);
        let codec = *self.chance.pick(&[Codec::None, Codec::None, Codec::Lz4]);
        let mut builder = BatchBuilder::new().codec(codec).producer(self.id, self.epoch, sequence).transactional(true);
        let values: Vec<u64> = (0..self.chance.between(1, 3)).map(|_| shared.number()).collect();
        for value in &values {
            let len = payload::SHORTEST + self.chance.log_below(6) as usize;
            builder.append(self.line.io.wall_clock_ms(), None, Some(&payload::write(*value, len)), &[]);
            shared.transactions.borrow_mut().sent(number, *value, list(&self.topic, partition));
        }
        let version = match self.bumps {
            true => self.chance.between(PRODUCE_ADDS as u64, PRODUCE_BY_ID as u64) as i16,
            false => self.chance.between(9, PRODUCE_ADDS as u64 - 1) as i16,
        };
        let request = self.produce_request(partition, builder.finish().into(), version);
        if self.chance.one_in(12) {
            self.send_also(request.clone(), version);
        }
        for _ in 0..MOST_TRIES {
            let newest = self.newest();
            let Ok(answer) = self.line.ask(&request, version).await else {
                if self.bumps && self.chance.one_in(3) {
                    return Err(Stop::Abort);
                }
                continue;
            };
            let response: ProduceResponse<'_> = answer.message();
            let told = &response.responses[0].partition_responses[0];
            let (epoch, count, base_offset) = (self.epoch, values.len(), told.base_offset);
            let outcome = error(told.error_code);
            tracing::debug!(self.name, number, epoch, partition, sequence, count, base_offset, ?outcome, "produce");
            match error(told.error_code) {
                ErrorCode::None => {
                    self.accepted("a batch", newest);
                    self.sequences.insert(partition, sequence + values.len() as i32);
                    shared.note_epoch(partition, self.id, self.epoch);
                    for (offset, value) in (told.base_offset..).zip(values) {
                        shared.transactions.borrow_mut().acknowledged(value, offset);
                    }
                    return Ok(());
                }
                other => self.consider("Produce", other).await?,
            }
        }
        Err(Stop::Retire)
    }

    fn produce_request(&self, index: i32, batch: Bytes, version: i16) -> ProduceRequest<'static> {
        let data = PartitionProduceData { index, records: Some(Records::Chunks(vec![batch])) };
        let (name, topic_id) = match version {
            PRODUCE_BY_ID.. => (String::new(), self.topic.id),
            _ => (self.topic.name.clone(), Uuid::ZERO),
        };
        ProduceRequest {
            transactional_id: Some(self.name.clone().into()),
            acks: -1,
            timeout_ms: 5_000,
            topic_data: vec![TopicProduceData { name: name.into(), topic_id, partition_data: vec![data] }],
        }
    }

    /// Commits an offset with the transaction, at its writer's own place: the transaction's number.
    async fn commit_offset(&mut self, number: u64) -> Result<(), Stop> {
        if !self.bumps {
            self.add_offsets().await?;
        }
        self.shared().transactions.borrow_mut().offset_sent(number);
        let partition = TxnOffsetCommitRequestPartition {
            partition_index: 0,
            committed_offset: number as i64,
            ..Default::default()
        };
        let request = TxnOffsetCommitRequest {
            transactional_id: self.name.clone().into(),
            group_id: group_of(self.writer).into(),
            producer_id: self.id,
            producer_epoch: self.epoch,
            generation_id: -1,
            topics: vec![TxnOffsetCommitRequestTopic {
                name: self.topic.name.clone().into(),
                partitions: vec![partition],
            }],
            ..Default::default()
        };
        let version = if self.bumps { 5 } else { self.chance.between(0, 4) as i16 };
        for _ in 0..MOST_TRIES {
            let newest = self.newest();
            let Ok(answer) = self.line.ask(&request, version).await else {
                self.unsure = true;
                continue;
            };
            let response: TxnOffsetCommitResponse<'_> = answer.message();
            match error(response.topics[0].partitions[0].error_code) {
                ErrorCode::None => {
                    self.accepted("TxnOffsetCommit", newest);
                    return Ok(());
                }
                other => self.consider("TxnOffsetCommit", other).await?,
            }
        }
        Err(Stop::Retire)
    }

    async fn add_offsets(&mut self) -> Result<(), Stop> {
        let request = AddOffsetsToTxnRequest {
            transactional_id: self.name.clone().into(),
            producer_id: self.id,
            producer_epoch: self.epoch,
            group_id: group_of(self.writer).into(),
        };
        for _ in 0..MOST_TRIES {
            let newest = self.newest();
            let Ok(answer) = self.line.ask(&request, 3).await else { continue };
            match error(answer.message::<AddOffsetsToTxnResponse>().error_code) {
                ErrorCode::None => {
                    self.accepted("AddOffsetsToTxn", newest);
                    return Ok(());
                }
                other => self.consider("AddOffsetsToTxn", other).await?,
            }
        }
        Err(Stop::Retire)
    }

    async fn end(&mut self, number: u64, commit: bool) -> Result<(), Stop> {
        let shared = self.shared();
        shared.transactions.borrow_mut().end_sent(number, commit);
        let request = EndTxnRequest {
            transactional_id: self.name.clone().into(),
            producer_id: self.id,
            producer_epoch: self.epoch,
            committed: commit,
        };
        let version = if self.bumps { 5 } else { self.chance.between(1, 4) as i16 };
        if self.bumps && self.chance.one_in(4) {
            self.end_also(number, request.clone());
        }
        for _ in 0..MOST_TRIES {
            let newest = self.newest();
            let Ok(answer) = self.line.ask(&request, version).await else {
                self.unsure = true;
                continue;
            };
            let response: EndTxnResponse = answer.message();
            match error(response.error_code) {
                ErrorCode::None => {
                    self.accepted("EndTxn", newest);
                    shared.transactions.borrow_mut().ended(number, commit);
                    shared.count(if commit { "commits" } else { "aborts" });
                    shared.note_acknowledged();
                    if !self.bumps {
                        return if self.unsure { Err(Stop::Retire) } else { Ok(()) };
                    }
                    if (response.producer_id, response.producer_epoch) != (self.id, self.epoch) {
                        (self.id, self.epoch) = (response.producer_id, response.producer_epoch);
                        self.sequences.clear();
                    }
                    return Ok(());
                }
                other => self.consider("EndTxn", other).await?,
            }
        }
        Err(Stop::Retire)
    }

    /// What an error means: a pause, or the end of this producer.
    async fn consider(&mut self, what: &str, error: ErrorCode) -> Result<(), Stop> {
        tracing::debug!(self.writer, self.number, ?error, "{what}");
        if may_pass(error) {
            self.line.pause(self.chance.between(1, 30)).await;
            return Ok(());
        }
        let is_end = matches!(
            error,
            ErrorCode::InvalidProducerEpoch
                | ErrorCode::ProducerFenced
                | ErrorCode::InvalidTxnState
                | ErrorCode::TransactionAbortable
                | ErrorCode::InvalidProducerIdMapping
                | ErrorCode::OutOfOrderSequenceNumber
        );
        let is_newest = self.number == self.newest();
        if !is_end || (self.is_safe && is_newest) {
            let what = format!("{what} of {} answers {error:?}", self.name);
            self.shared().transactions.borrow_mut().broken(Rule::Producer, None, what);
        }
        match self.bumps && error == ErrorCode::TransactionAbortable {
            true => Err(Stop::Abort),
            false => Err(Stop::Retire),
        }
    }

    fn newest(&self) -> u64 {
        self.shared().transactions.borrow().producers(self.writer)
    }

    fn accepted(&self, what: &str, newest: u64) {
        let what = format!("{what} of {}", self.name);
        self.shared().transactions.borrow_mut().accepted(&what, self.number, newest);
    }

    /// Sends the same request on a connection of its own, at once or late; nobody looks at the answer.
    fn send_also<R: Request<'static> + std::fmt::Debug + 'static>(&mut self, request: R, version: i16) {
        let (shared, io) = (self.shared(), self.line.io.clone());
        let late = self.chance.log_below(12);
        let mut line = Line::new(shared.clone(), io.clone());
        shared.count("requests sent twice");
        shared.run(&io, async move {
            line.pause(late).await;
            let told = line.ask(&request, version).await.is_ok();
            tracing::debug!(told, "sent twice: {request:?}");
        });
    }

    /// Sends the end on a connection of its own, at once or late.
    fn end_also(&mut self, transaction: u64, request: EndTxnRequest<'static>) {
        let (shared, io) = (self.shared(), self.line.io.clone());
        let (late, name, number, writer) = (self.chance.log_below(12), self.name.clone(), self.number, self.writer);
        let mut line = Line::new(shared.clone(), io.clone());
        shared.count("requests sent twice");
        shared.clone().run(&io, async move {
            line.pause(late).await;
            let newest = shared.transactions.borrow().producers(writer);
            let Ok(answer) = line.ask(&request, 5).await else { return };
            if error(answer.message::<EndTxnResponse>().error_code) == ErrorCode::None {
                let mut history = shared.transactions.borrow_mut();
                history.accepted(&format!("EndTxn of {name}"), number, newest);
                history.ended(transaction, request.committed);
            }
        });
    }

    /// One that is thought to be dead comes back, and goes on with its transaction as if nothing had been. It may
    /// commit what `is_whole`.
    fn haunt(&mut self, transaction: u64, is_whole: bool) {
        let (shared, io) = (self.shared(), self.line.io.clone());
        let line = Line::new(shared.clone(), io.clone());
        let own = Chance::new(self.chance.next(), 0x20_6d62);
        let kind = (self.writer, self.bumps, self.timeout_ms);
        let mut zombie = Producer::new(line, own, self.topic.clone(), kind);
        (zombie.id, zombie.epoch, zombie.number) = (self.id, self.epoch, self.number);
        zombie.sequences = self.sequences.clone();
        shared.count("zombies");
        shared.run(&io, async move {
            zombie.line.pause(zombie.chance.log_below(13)).await;
            let partition = zombie.chance.below(zombie.topic.partitions as u64) as i32;
            if zombie.chance.one_in(2) && zombie.produce(transaction, partition).await.is_err() {
                return;
            }
            let commit = is_whole && zombie.chance.one_in(2);
            let _ = zombie.end(transaction, commit).await;
        });
    }
}
