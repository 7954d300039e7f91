//! Produce: batches to their shards, and what became of them.
//!
//! [`start`] has sent every batch to its shard when it returns, so that the order of a connection's requests
//! is the order in which they enter their partitions. What is in a batch is for the shard to check.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use engine::coordinator::Producer;
use engine::io::local::Receiver;
use engine::protocol::messages::produce::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, PartitionProduceResponse, ProduceRequest, ProduceResponse,
    TopicProduceData, TopicProduceResponse,
};
use engine::protocol::{ErrorCode, Records, Str, Uuid};
use engine::record::{BatchView, batches};
use engine::shard::message::{PartitionId, Produce, ProducePart, Produced, Reply, Request};

use super::flush_deadline;
use super::route::{self, Fan, Leaders};
use super::verification::{self, Wanted};
use crate::authorizer::{Operation, Resource, authorize};
use crate::broker::Broker;
use crate::dispatch::{Answer, Call, Pending, Refusal};
use crate::quota::Kind;

/// The client id under which Kafka's own tools may write internal topics.
const ADMIN_CLIENT: &str = "__admin_client";

/// From this version on the broker adds partitions to transactions (KIP-890).
const ADDS_PARTITIONS: i16 = 12;
/// From this version on clients know TRANSACTION_ABORTABLE.
const KNOWS_ABORTABLE: i16 = 11;
/// From this version on the answer says who leads (KIP-951).
const NAMES_LEADERS: i16 = 10;

/// A Produce whose batches are on their way.
pub struct UnderWay {
    broker: Rc<Broker>,
    call: Call,
    sent: Sent,
}

/// What was sent, and what has come back.
struct Sent {
    acks: i16,
    topics: Vec<TopicParts>,
    outcomes: Vec<Outcome>,
    waiting: Vec<(Receiver<Reply>, Vec<usize>)>,
}

/// A topic of the request; its partitions are those that follow the ones of the topic before it.
struct TopicParts {
    name: Bytes,
    id: Uuid,
    partitions: usize,
}

struct Outcome {
    partition: i32,
    id: Option<PartitionId>,
    produced: Produced,
}

/// Sends the batches of a request to their shards. Those of transactions are verified first; nothing that the
/// client sends behind them overtakes them.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn start(broker: &Rc<Broker>, connection: u64, call: Call) -> Result<Pending, Refusal> {
    let throttle = call.client.quotas.record(&call.client, call.client_id(), Kind::Produce, call.size() as f64);
    call.throttle(throttle);
    let sent = {
        let mut work = pin!(send(broker, connection, &call));
        poll_fn(|cx| call.timed(|| work.as_mut().poll(cx))).await?
    };
    Ok(Pending::Produce(UnderWay { broker: broker.clone(), call, sent }))
}

/// Checks the batches and sends them on.
async fn send(broker: &Rc<Broker>, connection: u64, call: &Call) -> Result<Sent, Refusal> {
    let request: ProduceRequest<'_> = call.decode()?;
    let acks = request.acks;
    let (mut topics, mut outcomes, mut parts) = (Vec::new(), Vec::new(), Vec::new());
    let checks = Checks::new(broker, call, &request);
    for topic in &request.topic_data {
        let (name, partitions) = (call.share(topic.name.as_bytes()), topic.partition_data.len());
        topics.push(TopicParts { name, id: topic.topic_id, partitions });
        for data in &topic.partition_data {
            let records = data.records.as_ref().map_or(&[][..], bytes_of);
            let id = checks.partition(topic, data.index);
            let error = id.err().unwrap_or(ErrorCode::None);
            if let Ok(id) = id {
                parts.push((outcomes.len(), ProducePart { id, records: call.share(records), guard: None }));
            }
            outcomes.push(Outcome { partition: data.index, id: id.ok(), produced: unappended(error) });
        }
    }
    if let Some(transactional_id) = request.transactional_id.as_deref() {
        let refused = verify(broker, transactional_id, call.version, &mut parts).await?;
        refused.into_iter().for_each(|(place, error)| outcomes[place].produced = unappended(error));
    }
    let mut fan = Fan::new(broker);
    parts.into_iter().for_each(|(place, part)| fan.add(part.id, place, part));
    let deadline = flush_deadline(broker.io().now(), request.timeout_ms);
    let origin = (broker.io().core(), connection);
    let send_group = |group: route::Group<ProducePart>| {
        let produce = Produce { acks, version: call.version, origin, deadline, parts: group.parts };
        (broker.core.request(group.shard, Request::Produce(produce)), group.places)
    };
    let waiting = fan.into_groups().into_iter().map(send_group).collect();
    Ok(Sent { acks, topics, outcomes, waiting })
}

/// The bytes that a decoded field borrows from the frame.
fn bytes_of<'a>(records: &'a Records<'_>) -> &'a [u8] {
    records.slices().next().expect("decoded records are one slice")
}

fn unappended(error: ErrorCode) -> Produced {
    Produced {
        error,
        base_offset: -1,
        log_append_time_ms: -1,
        log_start_offset: -1,
        record_errors: Vec::new(),
        error_message: None,
    }
}

/// What is checked before a batch is sent to its shard.
struct Checks<'b> {
    broker: &'b Broker,
    call: &'b Call,
    image: std::sync::Arc<engine::controller::image::MetadataImage>,
    whole: Result<(), ErrorCode>,
    may_write_internal: bool,
    duplicates: BTreeSet<(Uuid, &'b str, i32)>,
}

impl<'b> Checks<'b> {
    fn new(broker: &'b Broker, call: &'b Call, request: &'b ProduceRequest<'_>) -> Checks<'b> {
        Checks {
            broker,
            call,
            image: broker.image(),
            whole: check_whole(request).and_then(|()| may_write_transactionally(broker, call, request)),
            may_write_internal: call.client_id() == ADMIN_CLIENT,
            duplicates: duplicates(request),
        }
    }

    fn partition(&self, topic: &TopicProduceData<'_>, partition: i32) -> Result<PartitionId, ErrorCode> {
        self.whole?;
        if topic.topic_id.is_zero() {
            authorize(self.broker, self.call, Operation::Write, Resource::Topic(&topic.name))?;
        }
        if route::is_internal(&topic.name) && !self.may_write_internal {
            return Err(ErrorCode::InvalidTopicException);
        }
        let found = route::find_topic(&self.image, &topic.name, topic.topic_id)?;
        authorize(self.broker, self.call, Operation::Write, Resource::Topic(&found.name))?;
        if route::is_internal(&found.name) && !self.may_write_internal {
            return Err(ErrorCode::InvalidTopicException);
        }
        if self.duplicates.contains(&(topic.topic_id, &*topic.name, partition)) {
            return Err(ErrorCode::InvalidRequest);
        }
        route::find_partition(self.broker, found, partition)
    }
}

/// Verifies the transactional batches among `parts`; those that are refused are taken out.
async fn verify(
    broker: &Broker,
    transactional_id: &str,
    version: i16,
    parts: &mut Vec<(usize, ProducePart)>,
) -> Result<BTreeMap<usize, ErrorCode>, Refusal> {
    let operation = match version {
        ADDS_PARTITIONS.. => verification::Operation::Add,
        KNOWS_ABORTABLE => verification::Operation::VerifyAbortable,
        _ => verification::Operation::Verify,
    };
    let wanted = |(place, part): (usize, &(usize, ProducePart))| {
        let batch = BatchView::parse(&part.1.records).ok().filter(|batch| batch.attributes().is_transactional())?;
        let producer = Producer { id: batch.producer_id(), epoch: batch.producer_epoch() };
        Some((place, Wanted { id: part.1.id, producer, first_sequence: batch.base_sequence() }))
    };
    let (places, wanted): (Vec<usize>, Vec<Wanted>) = parts.iter().enumerate().filter_map(wanted).unzip();
    if wanted.is_empty() {
        return Ok(BTreeMap::new());
    }
    // A request is one producer's.
    let mixed = wanted.iter().any(|other| other.producer != wanted[0].producer);
    let verified = match mixed {
        true => vec![Err(ErrorCode::InvalidProducerIdMapping); wanted.len()],
        false => verification::verify(broker, transactional_id, operation, &wanted).await?,
    };
    let mut refused = BTreeMap::new();
    for (place, verified) in places.into_iter().zip(verified) {
        let (of_request, part) = &mut parts[place];
        match verified {
            Ok(guard) => part.guard = guard,
            Err(error) => drop(refused.insert(*of_request, error)),
        }
    }
    parts.retain(|(of_request, _)| !refused.contains_key(of_request));
    Ok(refused)
}

fn may_write_transactionally(broker: &Broker, call: &Call, request: &ProduceRequest<'_>) -> Result<(), ErrorCode> {
    match request.transactional_id.as_deref() {
        Some(id) => authorize(broker, call, Operation::Write, Resource::TransactionalId(id)),
        None => Ok(()),
    }
}

/// What refuses all partitions of a request alike.
fn check_whole(request: &ProduceRequest<'_>) -> Result<(), ErrorCode> {
    if !(-1..=1).contains(&request.acks) {
        return Err(ErrorCode::InvalidRequiredAcks);
    }
    let all = request.topic_data.iter().flat_map(|topic| &topic.partition_data);
    let transactional =
        || all.filter_map(|data| data.records.as_ref()).any(|records| is_transactional(bytes_of(records)));
    if request.transactional_id.is_none() && transactional() {
        return Err(ErrorCode::TransactionalIdAuthorizationFailed);
    }
    Ok(())
}

fn is_transactional(records: &[u8]) -> bool {
    batches(records).map_while(Result::ok).any(|batch: BatchView<'_>| batch.attributes().is_transactional())
}

/// Partitions that the request names more than once. Of their batches none can be said to come first.
fn duplicates<'r>(request: &'r ProduceRequest<'_>) -> BTreeSet<(Uuid, &'r str, i32)> {
    let one = matches!(&request.topic_data[..], [topic] if topic.partition_data.len() == 1);
    let mut seen = BTreeSet::new();
    if one {
        return seen;
    }
    let mut twice = BTreeSet::new();
    for topic in &request.topic_data {
        for data in &topic.partition_data {
            let key = (topic.topic_id, &*topic.name, data.index);
            if !seen.insert(key) {
                twice.insert(key);
            }
        }
    }
    twice
}

impl UnderWay {
    /// How long the client shall be silent for what it has sent.
    pub fn throttled(&self) -> Duration {
        self.call.throttled()
    }

    /// The answer, when every shard has answered. The future may be dropped and asked for again.
    pub async fn answer(&mut self) -> Answer {
        while let Some((receiver, places)) = self.sent.waiting.last_mut() {
            let Some(Reply::Produce(produced)) = receiver.await else { return Answer::hang_up() };
            assert_eq!(produced.len(), places.len(), "a shard answers each part");
            for (place, produced) in places.iter().zip(produced) {
                self.sent.outcomes[*place].produced = produced;
            }
            self.sent.waiting.pop();
        }
        match self.sent.acks {
            0 => self.silence(),
            _ => self.call.answer(&self.response(&mut Leaders::new(&self.broker))).unwrap_or_else(|error| {
                tracing::error!(%error, "a Produce could not be answered");
                Answer::hang_up()
            }),
        }
    }

    /// acks=0 asks for no answer; that something went wrong is told by closing the connection.
    fn silence(&self) -> Answer {
        match self.sent.outcomes.iter().find(|outcome| outcome.produced.error != ErrorCode::None) {
            None => Answer { throttle: self.call.throttled(), ..Answer::nothing() },
            Some(outcome) => {
                tracing::debug!(error = outcome.produced.error.name(), "a Produce with acks=0 failed");
                Answer::hang_up()
            }
        }
    }

    fn response<'a>(&'a self, leaders: &'a mut Leaders<'_>) -> ProduceResponse<'a> {
        let mut outcomes = self.sent.outcomes.iter();
        let mut responses = Vec::with_capacity(self.sent.topics.len());
        for topic in &self.sent.topics {
            let of_topic = outcomes.by_ref().take(topic.partitions);
            let partition_responses = of_topic.map(|outcome| self.partition_response(outcome, leaders)).collect();
            let name = std::str::from_utf8(&topic.name).expect("the request was decoded from it");
            responses.push(TopicProduceResponse { name: Str::Borrowed(name), topic_id: topic.id, partition_responses });
        }
        ProduceResponse { responses, node_endpoints: leaders.produce_endpoints(), ..Default::default() }
    }

    fn partition_response<'a>(&self, outcome: &'a Outcome, leaders: &mut Leaders<'_>) -> PartitionProduceResponse<'a> {
        let produced = &outcome.produced;
        let record_error = |(batch_index, message): &'a (i32, Option<String>)| BatchIndexAndErrorMessage {
            batch_index: *batch_index,
            batch_index_error_message: message.as_deref().map(Str::Borrowed),
        };
        let mut response = PartitionProduceResponse {
            index: outcome.partition,
            error_code: produced.error.code(),
            base_offset: produced.base_offset,
            log_append_time_ms: produced.log_append_time_ms,
            log_start_offset: produced.log_start_offset,
            record_errors: produced.record_errors.iter().map(record_error).collect(),
            error_message: produced.error_message.as_deref().map(Str::Borrowed),
            ..Default::default()
        };
        let moved = produced.error == ErrorCode::NotLeaderOrFollower && self.call.version >= NAMES_LEADERS;
        if let Some(id) = outcome.id.filter(|_| moved)
            && let Some((leader_id, leader_epoch)) = leaders.name(id)
        {
            response.current_leader = LeaderIdAndEpoch { leader_id, leader_epoch };
        }
        response
    }
}
