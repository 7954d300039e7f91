//! Producers: rounds of pipelined requests; what is not answered is sent again with the same sequence numbers.

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use checker::{Rule, payload};
use engine::io::Io;
use engine::protocol::messages::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};
use engine::protocol::messages::produce::{
    PartitionProduceData, PartitionProduceResponse, ProduceRequest, ProduceResponse, TopicProduceData,
};
use engine::protocol::{ApiKey, ErrorCode, Records, Uuid};
use engine::record::{BatchBuilder, Codec};

use crate::chance::Chance;
use crate::clients::{CHURN, Clients, Topic, error, place};
use crate::wire::{Connection, Lost};

/// As many as a broker remembers of a producer: more in flight could not be told from new ones.
const MOST_UNANSWERED: usize = 5;
/// A partition of a broker with which nothing is wrong takes a record within this time.
const AVAILABLE: Duration = Duration::from_secs(10);

struct Batch {
    values: Range<u64>,
    bytes: Bytes,
}

/// A partition that a producer writes to.
struct Target {
    name: String,
    topic: Uuid,
    partition: i32,
    stream: u64,
    next_sequence: i32,
    /// Sent or about to be, and not acknowledged, in order.
    unanswered: VecDeque<Batch>,
    /// Refused for good: the topic is gone.
    closed: bool,
}

/// What a request holds: (target, the first value of a batch).
type Parts = Vec<(usize, u64)>;

struct Producer {
    clients: Rc<Clients>,
    io: Io,
    chance: Chance,
    idempotent: bool,
    acks: i16,
    codec: Codec,
    /// Id and epoch, of an idempotent producer that has one.
    id: Option<(i64, i16)>,
    targets: Vec<Target>,
}

/// Produces until the clients stop and everything that could be is answered.
pub(crate) async fn produce(clients: Rc<Clients>, io: Io, number: u64, idempotent: bool) {
    let mut chance = clients.chance(0x100 + number);
    let acks = if idempotent || chance.one_in(2) { -1 } else { 1 };
    let codec = *chance.pick(&[Codec::None, Codec::None, Codec::None, Codec::Lz4, Codec::Zstd]);
    let mut producer = Producer { clients, io, chance, idempotent, acks, codec, id: None, targets: Vec::new() };
    while !producer.is_done() {
        let Ok(mut connection) =
            Connection::open(&producer.io, producer.clients.address, producer.clients.crashes.get()).await
        else {
            producer.io.sleep(Duration::from_millis(20)).await;
            continue;
        };
        producer.begin_connection();
        while !producer.is_done() {
            if producer.round(&mut connection).await.is_err() {
                break;
            }
            let pause = producer.chance.below(1000 * producer.clients.load.pause_ms + 1);
            producer.io.sleep(Duration::from_micros(pause)).await;
        }
    }
}

/// One record to a partition, that must be taken now that nothing is wrong any more.
pub(crate) async fn append_one(
    clients: &Clients,
    io: &Io,
    connection: &mut Connection,
    topic: &Topic,
    index: i32,
) -> Result<(), Lost> {
    let place = place(topic.id, index);
    let deadline = io.now() + AVAILABLE;
    loop {
        let stream = clients.stream(place, false);
        let values = clients.values(1);
        clients.history.borrow_mut().sent(stream, values.clone());
        let mut builder = BatchBuilder::new();
        let payload = payload::write(values.start, payload::SHORTEST);
        builder.append(io.wall_clock_ms(), None, Some(&payload), &[]);
        let records = Some(Records::Chunks(vec![builder.finish().into()]));
        let data = TopicProduceData {
            topic_id: topic.id,
            partition_data: vec![PartitionProduceData { index, records }],
            ..Default::default()
        };
        let request = ProduceRequest { acks: -1, timeout_ms: 5_000, topic_data: vec![data], ..Default::default() };
        let answer = connection.ask(&request, 13).await?;
        let response: ProduceResponse<'_> = answer.message();
        let told = &response.responses[0].partition_responses[0];
        match error(told.error_code) {
            ErrorCode::None => {
                clients.history.borrow_mut().acknowledged(place, values.clone(), told.base_offset);
                clients.note_known(values, connection.crashes);
                return Ok(());
            }
            other if io.now() >= deadline => {
                let what = format!("with all faults over it takes nothing: {other:?}");
                clients.history.borrow_mut().broken(Rule::Stuck, Some(place), what);
                return Ok(());
            }
            _ => io.sleep(Duration::from_millis(100)).await,
        }
    }
}

impl Producer {
    fn is_done(&self) -> bool {
        self.clients.is_stopping() && self.targets.iter().all(|target| target.unanswered.is_empty())
    }

    /// What a plain producer sent before may still arrive behind what it sends now: only on one connection its
    /// order is promised, and it does not repeat itself.
    fn begin_connection(&mut self) {
        if !self.idempotent {
            self.targets.clear();
        }
    }

    /// One round: some requests in one go, then their answers.
    async fn round(&mut self, connection: &mut Connection) -> Result<(), Lost> {
        self.targets.retain(|target| !target.closed);
        if self.targets.is_empty() {
            self.choose_targets().await;
        }
        if self.idempotent && self.id.is_none() && !self.targets.is_empty() {
            return self.get_id(connection).await;
        }
        let requests = self.plan();
        // A name may stand for another topic by the time that it is read: only an id names the one that is meant.
        let by_id = self.targets.iter().any(|target| target.name == CHURN);
        let version = if by_id { 13 } else { self.chance.between(11, 13) as i16 };
        for parts in &requests {
            let request = self.request(parts, version);
            connection.send(&request, version).await?;
            if self.chance.one_in(200) {
                return Err(Lost); // the client itself goes away in the midst of it
            }
        }
        let mut failed = vec![false; self.targets.len()];
        for parts in &requests {
            let answer = connection.receive(ApiKey::Produce, version).await?;
            let response: ProduceResponse<'_> = answer.message();
            self.note(parts, &response, connection.crashes, &mut failed);
        }
        if failed.contains(&true) {
            self.io.sleep(Duration::from_millis(10)).await;
        }
        if self.chance.one_in(40) {
            self.choose_others();
        }
        Ok(())
    }

    async fn choose_targets(&mut self) {
        let some = self.clients.some_partitions(&self.io, &mut self.chance, 4).await;
        for (topic, partition) in some {
            let stream = self.clients.stream(place(topic.id, partition), self.idempotent);
            let (name, topic) = (topic.name, topic.id);
            let unanswered = VecDeque::new();
            self.targets.push(Target { name, topic, partition, stream, next_sequence: 0, unanswered, closed: false });
        }
        // Sequences begin at 0 again.
        self.id = None;
    }

    /// Goes on elsewhere, if nothing is owed here.
    fn choose_others(&mut self) {
        if self.targets.iter().all(|target| target.unanswered.is_empty()) {
            self.targets.clear();
        }
    }

    async fn get_id(&mut self, connection: &mut Connection) -> Result<(), Lost> {
        let request = InitProducerIdRequest {
            transactional_id: None,
            transaction_timeout_ms: 60_000,
            producer_id: -1,
            producer_epoch: -1,
        };
        let version = self.chance.between(2, 5) as i16;
        let answer = connection.ask(&request, version).await?;
        let response: InitProducerIdResponse = answer.message();
        match error(response.error_code) {
            ErrorCode::None => {
                self.clients.history.borrow_mut().producer_id(response.producer_id);
                self.id = Some((response.producer_id, response.producer_epoch));
                Ok(())
            }
            _ => {
                self.io.sleep(Duration::from_millis(50)).await;
                Err(Lost)
            }
        }
    }

    /// What goes into this round's requests: first what is owed, in its order, then new batches.
    fn plan(&mut self) -> Vec<Parts> {
        let mut requests = Vec::new();
        let mut next = vec![0; self.targets.len()];
        for _ in 0..self.chance.between(1, MOST_UNANSWERED as u64) {
            let mut parts = Parts::new();
            for (index, next) in next.iter_mut().enumerate() {
                if self.chance.one_in(3) && self.targets.len() > 1 {
                    continue;
                }
                if *next == self.targets[index].unanswered.len() {
                    let full = *next == MOST_UNANSWERED;
                    if full || self.clients.is_stopping() {
                        continue;
                    }
                    self.add_batch(index);
                }
                parts.push((index, self.targets[index].unanswered[*next].values.start));
                *next += 1;
            }
            if !parts.is_empty() {
                requests.push(parts);
            }
        }
        requests
    }

    fn add_batch(&mut self, index: usize) {
        let count = self.chance.between(1, 12);
        let values = self.clients.values(count);
        let target = &mut self.targets[index];
        let mut builder = BatchBuilder::new().codec(self.codec);
        if let Some((id, epoch)) = self.id {
            builder = builder.producer(id, epoch, target.next_sequence);
            target.next_sequence += count as i32;
        }
        for value in values.clone() {
            let len = payload::SHORTEST as u64 + self.chance.log_below(self.clients.load.value_bytes.ilog2().into());
            let key = self.chance.one_in(2).then(|| value.to_be_bytes());
            let bytes = payload::write(value, len as usize);
            builder.append(self.io.wall_clock_ms(), key.as_ref().map(|key| &key[..]), Some(&bytes), &[]);
        }
        self.clients.history.borrow_mut().sent(target.stream, values.clone());
        target.unanswered.push_back(Batch { values, bytes: builder.finish().into() });
    }

    fn request(&self, parts: &Parts, version: i16) -> ProduceRequest<'static> {
        let mut topics: Vec<TopicProduceData<'static>> = Vec::new();
        for (index, first) in parts {
            let target = &self.targets[*index];
            let batch = target.unanswered.iter().find(|batch| batch.values.start == *first).expect("it was planned");
            let data = PartitionProduceData {
                index: target.partition,
                records: Some(Records::Chunks(vec![batch.bytes.clone()])),
            };
            let (name, topic_id) =
                if version < 13 { (target.name.clone(), Uuid::ZERO) } else { (String::new(), target.topic) };
            match topics.iter_mut().find(|topic| *topic.name == *name && topic.topic_id == topic_id) {
                Some(topic) => topic.partition_data.push(data),
                None => topics.push(TopicProduceData { name: name.into(), topic_id, partition_data: vec![data] }),
            }
        }
        ProduceRequest { acks: self.acks, timeout_ms: 5_000, topic_data: topics, ..Default::default() }
    }

    fn note(&mut self, parts: &Parts, response: &ProduceResponse<'_>, crashes: u64, failed: &mut [bool]) {
        for (index, first) in parts {
            let target = &self.targets[*index];
            let (name, topic, partition) = (target.name.clone(), target.topic, target.partition);
            let answers = response.responses.iter().filter(|answer| *answer.name == *name || answer.topic_id == topic);
            let mut answers = answers.flat_map(|answer| &answer.partition_responses);
            let answer = answers.find(|answer| answer.index == partition).expect("each part has its answer");
            self.note_part(*index, *first, answer, crashes, failed);
        }
    }

    fn note_part(
        &mut self,
        index: usize,
        first: u64,
        answer: &PartitionProduceResponse<'_>,
        crashes: u64,
        failed: &mut [bool],
    ) {
        let target = &mut self.targets[index];
        let partition = place(target.topic, target.partition);
        let Some(at) = target.unanswered.iter().position(|batch| batch.values.start == first) else { return };
        let outcome = error(answer.error_code);
        let mut history = self.clients.history.borrow_mut();
        match outcome {
            ErrorCode::None => {
                let batch = target.unanswered.remove(at).expect("just found");
                history.acknowledged(partition, batch.values.clone(), answer.base_offset);
                self.clients.note_known(batch.values, crashes);
                if answer.log_start_offset > 0 {
                    history.broken(Rule::WentBack, Some(partition), "a log start moved, and nobody moved it".into());
                }
                return;
            }
            ErrorCode::UnknownTopicOrPartition | ErrorCode::UnknownTopicId => {
                target.closed = history.is_delete_sent(target.topic.0);
            }
            // It may have been appended or not, or the disk is full or failing.
            ErrorCode::KafkaStorageError | ErrorCode::RequestTimedOut | ErrorCode::NotLeaderOrFollower => {}
            ErrorCode::OutOfOrderSequenceNumber if failed[index] => {}
            other => {
                if !(self.clients.damage && other == ErrorCode::OutOfOrderSequenceNumber) {
                    let what = format!("value {first} is refused: {other:?}");
                    history.broken(Rule::Producer, Some(partition), what);
                }
                target.closed = true;
            }
        }
        failed[index] = true;
        if !self.idempotent || target.closed {
            target.unanswered.clear();
        }
        if target.closed && self.idempotent && self.targets.iter().all(|target| target.closed) {
            self.id = None;
        }
    }
}
