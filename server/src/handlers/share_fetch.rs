//! ShareFetch and ShareAcknowledge (KIP-932): members take records of share partitions and say what became of them.
//!
//! A session says which partitions are meant ([`ShareSessions`]). The owning shards give what is there, one after
//! another within the client's bounds; if that is nothing, they tell when there may be something. What a request
//! acknowledges is on its way before it fetches, and is on stable storage when it is answered. The invariant: what a
//! member has when its session ends, by its own last request or with its connection, is free again.
//!
//! [`ShareSessions`]: engine::replication::share_session::ShareSessions

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use engine::controller::BrokerValues;
use engine::controller::image::MetadataImage;
use engine::controller::resource_configs::{self, ResourceKind};
use engine::io::Instant;
use engine::io::local::Receiver;
use engine::protocol::messages::share_acknowledge::{
    self, ShareAcknowledgeRequest, ShareAcknowledgeResponse, ShareAcknowledgeTopicResponse,
};
use engine::protocol::messages::share_fetch::{
    self, AcquiredRecords, ShareFetchRequest, ShareFetchResponse, ShareFetchableTopicResponse,
};
use engine::protocol::{ErrorCode, Records, Str, Uuid};
use engine::replication::share_session::{Begun, FINAL_EPOCH, Key, Opening, SessionKey, Shown};
use engine::shard::Waiting;
use engine::shard::message::{
    Acknowledgement, PartitionId, Reply, Request, ShareAcknowledge, ShareAcquire, ShareAcquired, ShareAwait,
    ShareRefused, SharesOf, Span, owner,
};
use futures_lite::future;

use super::records::RecordsRoom;
use super::route::{self, Fan, Group, Leaders};
use super::share_groups;
use crate::authorizer::{Operation, Resource, authorize};
use crate::broker::Broker;
use crate::connection::Connection;
use crate::dispatch::{Answer, Call, Refusal};
use crate::limits;
use crate::quota::Kind;

/// The greatest type of an acknowledgement (reject).
const LAST_KIND: i8 = 3;

/// Who asks, if he may.
fn open_session(
    broker: &Broker,
    call: &Call,
    group: Option<&str>,
    member: Option<&str>,
) -> Result<SessionKey, ErrorCode> {
    if !share_groups::are_enabled(broker) {
        return Err(ErrorCode::UnsupportedVersion);
    }
    let group = group.unwrap_or_default();
    authorize(broker, call, Operation::Read, Resource::Group(group))?;
    // Kafka stumbles over a member without an id, and over one whose 16 bytes are in the standard alphabet: the latter is
    // how some clients write them, who would ask again without end.
    let is_id = |member: &&str| member.replace('+', "-").replace('/', "_").parse::<Uuid>().is_ok();
    let member = member.filter(is_id).ok_or(ErrorCode::UnknownServerError)?;
    Ok(SessionKey { group: group.to_owned(), member: member.to_owned() })
}

/// The partition, if it is there and the client may read it.
fn find(broker: &Broker, call: &Call, image: &MetadataImage, key: Key) -> Result<PartitionId, ErrorCode> {
    let topic = image.topics.get(&key.0).ok_or(ErrorCode::UnknownTopicId)?;
    authorize(broker, call, Operation::Read, Resource::Topic(&topic.name))?;
    route::find_partition(broker, topic, key.1)
}

/// Serves a ShareFetch.
///
/// # Errors
/// What closes the connection.
pub async fn fetch(broker: &Rc<Broker>, connection: &Connection, call: &Call) -> Result<Answer, Refusal> {
    let request: ShareFetchRequest<'_> = call.decode()?;
    let refuse = |error: ErrorCode| call.answer(&ShareFetchResponse { error_code: error.code(), ..Default::default() });
    let session = match open_session(broker, call, request.group_id.as_deref(), request.member_id.as_deref()) {
        Ok(session) => session,
        Err(error) => return refuse(error),
    };
    let deadline = broker.io().now() + Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let begun = broker.share_sessions.borrow_mut().begin(opening(&request, &session, connection.number()));
    let wanted = match begun {
        Ok(Begun::Fetch(wanted)) => wanted,
        Ok(Begun::Final) => Vec::new(),
        Err(ErrorCode::ShareSessionLimitReached) => {
            // The client asks again at once.
            future::or(broker.io().sleep_until(deadline), connection.abandoned()).await;
            return refuse(ErrorCode::ShareSessionLimitReached);
        }
        Err(error) => return refuse(error),
    };
    let acknowledging = start_acknowledging(broker, call, &session, &acknowledged_in_fetch(&request));
    let mut gathering = Gathering::new(broker, call, &request, &session, &wanted);
    future::or(gathering.gather(call, deadline), async {
        connection.abandoned().await;
        Ok(())
    })
    .await?;
    let acknowledged = acknowledging.results().await?;
    if request.share_session_epoch == FINAL_EPOCH {
        close(broker, &session);
    }
    let bytes = gathering.bytes();
    if call.client.quotas.are_set() {
        call.throttle(call.client.quotas.record(&call.client, call.client_id(), Kind::Fetch, bytes as f64));
    }
    let response = gathering.response(request.share_session_epoch, &acknowledged);
    let answer = call.answer(&response)?;
    gathering.room.settle_in_any_case(bytes);
    Ok(Answer { held: Some(gathering.room.into_held()), ..answer })
}

fn opening(request: &ShareFetchRequest<'_>, session: &SessionKey, connection: u64) -> Opening {
    let wanted = request
        .topics
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(|partition| (topic.topic_id, partition.partition_index)));
    let forgotten = request.forgotten_topics_data.iter();
    Opening {
        key: session.clone(),
        epoch: request.share_session_epoch,
        wanted: wanted.collect(),
        forgotten: forgotten
            .flat_map(|topic| topic.partitions.iter().map(|partition| (topic.topic_id, *partition)))
            .collect(),
        acknowledges: acknowledged_in_fetch(request).iter().any(|(_, batches)| !batches.is_empty()),
        connection,
    }
}

/// A partition's acknowledgements, as a request has them.
type Asked = Vec<(Key, Vec<Acknowledgement>)>;

fn acknowledged_in_fetch(request: &ShareFetchRequest<'_>) -> Asked {
    let batch = |batch: &share_fetch::AcknowledgementBatch| Acknowledgement {
        span: Span { first: batch.first_offset, last: batch.last_offset },
        kinds: batch.acknowledge_types.clone(),
    };
    let partitions = request.topics.iter().flat_map(|topic| topic.partitions.iter().map(|part| (topic.topic_id, part)));
    partitions
        .map(|(topic, part)| ((topic, part.partition_index), part.acknowledgement_batches.iter().map(batch).collect()))
        .collect()
}

/// One partition's acknowledgements: what became of them.
type Result1 = (Key, Result<(), ShareRefused>);

/// Acknowledgements on their way.
struct Acknowledging {
    results: Vec<Result1>,
    under_way: Vec<(Vec<usize>, Receiver<Reply>)>,
}

impl Acknowledging {
    /// What became of them, when it is on stable storage.
    async fn results(mut self) -> Result<Vec<Result1>, Refusal> {
        for (places, reply) in self.under_way {
            let Some(Reply::ShareAcknowledge(results)) = reply.await else { return Err(Refusal::Stopping) };
            for (place, result) in places.into_iter().zip(results) {
                self.results[place].1 = result;
            }
        }
        Ok(self.results)
    }
}

/// Sends a request's acknowledgements to the shards. Partitions without any have a result only beside others.
fn start_acknowledging(broker: &Broker, call: &Call, session: &SessionKey, asked: &Asked) -> Acknowledging {
    let mut acknowledging = Acknowledging { results: Vec::new(), under_way: Vec::new() };
    if asked.iter().all(|(_, batches)| batches.is_empty()) {
        return acknowledging;
    }
    let image = broker.image();
    let mut fan = Fan::new(broker);
    let mut is_any = false;
    for (key, batches) in asked {
        let found = match image.topics.contains_key(&key.0) {
            true => check(batches).and_then(|()| find(broker, call, &image, *key)),
            false => Err(ErrorCode::UnknownTopicId),
        };
        let result = match found {
            Ok(id) if !batches.is_empty() => {
                is_any = true;
                fan.add(id, acknowledging.results.len(), (id, batches.clone()));
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(error) => Err(ShareRefused(error, "")),
        };
        acknowledging.results.push((*key, result));
    }
    if !is_any {
        acknowledging.results.retain(|(_, result)| result.is_err());
    }
    let (group, member) = (&session.group, &session.member);
    for Group { shard, places, parts } in fan.into_groups() {
        let taken = ShareAcknowledge { group: group.clone(), member: member.clone(), parts };
        acknowledging.under_way.push((places, broker.core.request(shard, Request::ShareAcknowledge(taken))));
    }
    acknowledging
}

/// What can be said against acknowledgements without their share partition.
fn check(batches: &[Acknowledgement]) -> Result<(), ErrorCode> {
    let mut last = -1;
    for Acknowledgement { span, kinds } in batches {
        let is_right = span.first <= span.last
            && span.first >= last
            && !kinds.is_empty()
            && (kinds.len() == 1 || span.last - span.first == kinds.len() as i64 - 1)
            && kinds.iter().all(|kind| (0..=LAST_KIND).contains(kind));
        if !is_right {
            return Err(ErrorCode::InvalidRequest);
        }
        last = span.last;
    }
    Ok(())
}

/// One partition of a fetch.
struct Part {
    key: Key,
    id: Result<PartitionId, ErrorCode>,
    given: Option<ShareAcquired>,
}

impl Part {
    fn error(&self) -> ErrorCode {
        match (&self.id, &self.given) {
            (Err(error), _) | (Ok(_), Some(ShareAcquired::Refused(error))) => *error,
            _ => ErrorCode::None,
        }
    }

    fn records(&self) -> &[Bytes] {
        match &self.given {
            Some(ShareAcquired::Records { records, .. }) => records,
            _ => &[],
        }
    }

    /// Whether it is in an answer at all.
    fn is_shown(&self) -> bool {
        self.id.is_err() || matches!(self.given, Some(ShareAcquired::Records { .. } | ShareAcquired::Refused(_)))
    }
}

/// A fetch under way.
struct Gathering<'a> {
    broker: &'a Broker,
    session: &'a SessionKey,
    parts: Vec<Part>,
    groups: Vec<Group<PartitionId>>,
    /// For each group, its shard's promise of news.
    news: Vec<Option<Waiting>>,
    max_bytes: usize,
    min_bytes: usize,
    max_records: i64,
    batch_size: i64,
    lock_ms: i32,
    /// Memory for the records that were read.
    room: RecordsRoom,
}

impl<'a> Gathering<'a> {
    fn new(
        broker: &'a Broker,
        call: &Call,
        request: &ShareFetchRequest<'_>,
        session: &'a SessionKey,
        wanted: &[Key],
    ) -> Gathering<'a> {
        let image = broker.image();
        let mut fan = Fan::new(broker);
        let mut parts = Vec::with_capacity(wanted.len());
        for key in wanted {
            let id = find(broker, call, &image, *key);
            if let Ok(id) = id {
                fan.add(id, parts.len(), id);
            }
            parts.push(Part { key: *key, id, given: None });
        }
        let most = call.client.quotas.most_fetched(&call.client, call.client_id()).unwrap_or(usize::MAX);
        let max_bytes = usize::try_from(request.max_bytes).unwrap_or(0).min(broker.limits.fetch_bytes).min(most);
        let values = BrokerValues::new(broker.settings(), &image);
        let none = BTreeMap::new();
        let settings = image.resource_configs.get(&(ResourceKind::Group, session.group.clone())).unwrap_or(&none);
        let lock_ms = resource_configs::number("share.record.lock.duration.ms", settings, &values);
        let groups = fan.into_groups();
        Gathering {
            broker,
            session,
            parts,
            news: groups.iter().map(|_| None).collect(),
            groups,
            max_bytes,
            min_bytes: usize::try_from(request.min_bytes).unwrap_or(0).min(max_bytes),
            max_records: request.max_records.into(),
            batch_size: request.batch_size.into(),
            lock_ms: i32::try_from(lock_ms).unwrap_or(i32::MAX),
            room: RecordsRoom::new(broker.core.accounts()),
        }
    }

    /// Takes what there is, or waits for it until the deadline.
    async fn gather(&mut self, call: &Call, deadline: Instant) -> Result<(), Refusal> {
        if self.groups.is_empty() {
            return Ok(());
        }
        let mut waits = false;
        loop {
            let is_late = self.broker.io().now() >= deadline;
            self.take(if is_late { 0 } else { self.min_bytes }).await?;
            if is_late || self.is_enough() {
                return Ok(());
            }
            if self.room.is_missing() {
                if !self.room.wait(self.broker.io().sleep_until(deadline)).await {
                    return Ok(());
                }
                continue;
            }
            waits = waits || call.may_wait(self.broker, self.parts.len());
            if !waits {
                // Without memory to wait with it asks again soon.
                let soon = self.broker.io().now() + limits::WAIT_WITHOUT_MEMORY;
                self.broker.io().sleep_until(deadline.min(soon)).await;
                return self.take(0).await;
            }
            self.wait(deadline).await?;
        }
    }

    /// Takes what is there now, of one shard after another.
    async fn take(&mut self, min_bytes: usize) -> Result<(), Refusal> {
        // Without memory nothing is taken: who waits for it asks again.
        let Some(mut bytes_left) = self.room.take(self.max_bytes) else { return Ok(()) };
        let mut records_left = self.max_records;
        for group in 0..self.groups.len() {
            if group > 0 && bytes_left == 0 {
                break;
            }
            let Group { shard, parts, .. } = &self.groups[group];
            let wanted = ShareAcquire {
                group: self.session.group.clone(),
                member: self.session.member.clone(),
                ids: parts.clone(),
                max_bytes: bytes_left,
                min_bytes,
                max_records: records_left,
                batch_size: self.batch_size,
            };
            let reply = self.broker.core.request(*shard, Request::ShareAcquire(wanted)).await;
            let Some(Reply::ShareAcquire(given)) = reply else { return Err(Refusal::Stopping) };
            let places = self.groups[group].places.clone();
            for (place, given) in places.into_iter().zip(given) {
                if let ShareAcquired::Records { records, acquired } = &given {
                    bytes_left = bytes_left.saturating_sub(records.iter().map(Bytes::len).sum());
                    records_left -= acquired.iter().map(|run| run.span.last - run.span.first + 1).sum::<i64>();
                }
                self.parts[place].given = Some(given);
            }
        }
        // What was given out is the member's, and must reach it.
        self.room.settle_in_any_case(self.bytes());
        Ok(())
    }

    /// Whether the client wants to be answered with this.
    fn is_enough(&self) -> bool {
        self.parts.iter().any(|part| match &part.given {
            Some(ShareAcquired::Records { acquired, .. }) => !acquired.is_empty() || self.min_bytes == 0,
            Some(ShareAcquired::Refused(_)) => true,
            Some(ShareAcquired::Nothing) | None => false,
        })
    }

    /// Waits until a shard may have something, or for the deadline.
    async fn wait(&mut self, deadline: Instant) -> Result<(), Refusal> {
        for (Group { shard, parts, .. }, news) in self.groups.iter().zip(&mut self.news) {
            if news.is_none() {
                let wait = ShareAwait { deadline, group: self.session.group.clone(), ids: parts.clone() };
                *news = Some(self.broker.core.wait(*shard, Request::ShareAwait(wait)));
            }
        }
        let news = &mut self.news;
        let any = poll_fn(|cx| {
            for news in news.iter_mut() {
                let Some(receiver) = news else { continue };
                if let Poll::Ready(reply) = Future::poll(Pin::new(receiver), cx) {
                    *news = None;
                    return Poll::Ready(reply);
                }
            }
            Poll::Pending
        });
        any.await.map(drop).ok_or(Refusal::Stopping)
    }

    fn bytes(&self) -> usize {
        self.parts.iter().flat_map(Part::records).map(Bytes::len).sum()
    }

    fn response(&mut self, epoch: i32, acknowledged: &[Result1]) -> ShareFetchResponse<'a> {
        let shown: Vec<&mut Part> = self.parts.iter_mut().filter(|part| part.is_shown()).collect();
        let of_answer: Vec<Shown> = shown
            .iter()
            .map(|part| Shown {
                key: part.key,
                has_records: !part.records().is_empty(),
                is_error: part.error().is_error(),
            })
            .collect();
        let included = self.broker.share_sessions.borrow_mut().told(self.session, epoch, &of_answer);
        let mut leaders = Leaders::new(self.broker);
        let mut topics = ByTopic::new();
        let mut acknowledged = Results::new(acknowledged);
        for (part, _) in shown.into_iter().zip(included).filter(|(_, included)| *included) {
            let mut data = partition_data(part, &mut leaders);
            if let Some(result) = acknowledged.take(part.key) {
                data.acknowledge_error_code = code(result);
            }
            topics.add(part.key.0, data);
        }
        for (key, result) in acknowledged.left() {
            let acknowledge_error_code = code(result);
            let data =
                share_fetch::PartitionData { partition_index: key.1, acknowledge_error_code, ..Default::default() };
            topics.add(key.0, data);
        }
        let response = |(topic_id, partitions)| ShareFetchableTopicResponse { topic_id, partitions };
        ShareFetchResponse {
            acquisition_lock_timeout_ms: self.lock_ms,
            responses: topics.topics.into_iter().map(response).collect(),
            node_endpoints: leaders.share_fetch_endpoints(),
            ..Default::default()
        }
    }
}

fn code(result: &Result<(), ShareRefused>) -> i16 {
    result.err().map_or(0, |ShareRefused(error, _)| error.code())
}

/// The parts of an answer by topic, topics in the order in which they came first.
struct ByTopic<T> {
    topics: Vec<(Uuid, Vec<T>)>,
    places: BTreeMap<Uuid, usize>,
}

impl<T> ByTopic<T> {
    fn new() -> ByTopic<T> {
        ByTopic { topics: Vec::new(), places: BTreeMap::new() }
    }

    fn add(&mut self, topic: Uuid, part: T) {
        let place = *self.places.entry(topic).or_insert(self.topics.len());
        if place == self.topics.len() {
            self.topics.push((topic, Vec::new()));
        }
        self.topics[place].1.push(part);
    }
}

/// Results of acknowledgements that have not been told yet, in the request's order.
struct Results<'r> {
    all: Vec<Option<&'r Result1>>,
    /// The places of each partition's, the first one last.
    places: BTreeMap<Key, Vec<usize>>,
}

impl<'r> Results<'r> {
    fn new(results: &'r [Result1]) -> Results<'r> {
        let mut places: BTreeMap<Key, Vec<usize>> = BTreeMap::new();
        for (place, (key, _)) in results.iter().enumerate().rev() {
            places.entry(*key).or_default().push(place);
        }
        Results { all: results.iter().map(Some).collect(), places }
    }

    /// The first of the partition's that is left.
    fn take(&mut self, key: Key) -> Option<&'r Result<(), ShareRefused>> {
        let place = self.places.get_mut(&key)?.pop()?;
        self.all[place].take().map(|(_, result)| result)
    }

    fn left(&self) -> impl Iterator<Item = &'r Result1> {
        self.all.iter().flatten().copied()
    }
}

fn partition_data(part: &mut Part, leaders: &mut Leaders<'_>) -> share_fetch::PartitionData<'static> {
    let error = part.error();
    let mut data =
        share_fetch::PartitionData { partition_index: part.key.1, error_code: error.code(), ..Default::default() };
    if let Some(ShareAcquired::Records { records, acquired }) = part.given.take() {
        data.acquired_records = acquired
            .iter()
            .map(|run| AcquiredRecords {
                first_offset: run.span.first,
                last_offset: run.span.last,
                delivery_count: run.deliveries,
            })
            .collect();
        data.records = Records::Chunks(records);
    }
    if let Ok(id) = part.id
        && has_moved(error)
        && let Some((leader_id, leader_epoch)) = leaders.name(id)
    {
        data.current_leader = share_fetch::LeaderIdAndEpoch { leader_id, leader_epoch };
    }
    data
}

fn has_moved(error: ErrorCode) -> bool {
    matches!(error, ErrorCode::NotLeaderOrFollower | ErrorCode::FencedLeaderEpoch)
}

/// Serves a ShareAcknowledge.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn acknowledge(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: ShareAcknowledgeRequest<'_> = call.decode()?;
    let epoch = request.share_session_epoch;
    let session = open_session(broker, call, request.group_id.as_deref(), request.member_id.as_deref());
    let session = session.and_then(|session| {
        broker.share_sessions.borrow_mut().acknowledge(&session, epoch)?;
        Ok(session)
    });
    let session = match session {
        Ok(session) => session,
        Err(error) => {
            return call.answer(&ShareAcknowledgeResponse { error_code: error.code(), ..Default::default() });
        }
    };
    let batch = |batch: &share_acknowledge::AcknowledgementBatch| Acknowledgement {
        span: Span { first: batch.first_offset, last: batch.last_offset },
        kinds: batch.acknowledge_types.clone(),
    };
    let partitions = request.topics.iter().flat_map(|topic| topic.partitions.iter().map(|part| (topic.topic_id, part)));
    let asked: Asked = partitions
        .map(|(topic, part)| ((topic, part.partition_index), part.acknowledgement_batches.iter().map(batch).collect()))
        .collect();
    let results = start_acknowledging(broker, call, &session, &asked).results().await?;
    if epoch == FINAL_EPOCH {
        close(broker, &session);
    }
    let mut leaders = Leaders::new(broker);
    let mut topics = ByTopic::new();
    for (key, result) in results {
        let mut data = share_acknowledge::PartitionData { partition_index: key.1, ..Default::default() };
        if let Err(ShareRefused(error, why)) = result {
            data.error_code = error.code();
            data.error_message = (!why.is_empty()).then_some(Str::Borrowed(why));
            let id = PartitionId { topic_id: key.0, partition: key.1 };
            if has_moved(error)
                && let Some((leader_id, leader_epoch)) = leaders.name(id)
            {
                data.current_leader = share_acknowledge::LeaderIdAndEpoch { leader_id, leader_epoch };
            }
        }
        topics.add(key.0, data);
    }
    let response = |(topic_id, partitions)| ShareAcknowledgeTopicResponse { topic_id, partitions };
    let responses = topics.topics.into_iter().map(response).collect();
    let node_endpoints = leaders.share_acknowledge_endpoints();
    call.answer(&ShareAcknowledgeResponse { responses, node_endpoints, ..Default::default() })
}

/// Ends a session: what its member has is free again.
fn close(broker: &Broker, session: &SessionKey) {
    let ended = broker.share_sessions.borrow_mut().close(session);
    if let Some(partitions) = ended {
        release(broker, session, &partitions);
    }
}

/// A connection is gone, and its sessions with it.
pub fn disconnected(broker: &Broker, connection: u64) {
    let ended = broker.share_sessions.borrow_mut().disconnected(connection);
    for (session, partitions) in ended {
        release(broker, &session, &partitions);
    }
}

/// Nobody waits for it: what others want of these partitions they get when it is on stable storage.
fn release(broker: &Broker, session: &SessionKey, partitions: &[Key]) {
    let shards = broker.core.shards();
    let mut of_shards: BTreeMap<usize, Vec<PartitionId>> = BTreeMap::new();
    for (topic_id, partition) in partitions {
        let id = PartitionId { topic_id: *topic_id, partition: *partition };
        of_shards.entry(owner(id, shards)).or_default().push(id);
    }
    for (shard, ids) in of_shards {
        let of = SharesOf { group: session.group.clone(), ids };
        drop(broker.core.request(shard, Request::ShareRelease(session.member.clone(), of)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_are_checked_as_kafka_does() {
        let batch = |first, last, kinds: &[i8]| Acknowledgement { span: Span { first, last }, kinds: kinds.to_vec() };
        for right in [
            vec![],
            vec![batch(0, 4, &[1])],
            vec![batch(0, 2, &[0, 1, 2]), batch(3, 3, &[3])],
            // The last offset of one may be the first of the next.
            vec![batch(0, 2, &[1]), batch(2, 4, &[1])],
        ] {
            assert_eq!(check(&right), Ok(()), "{right:?}");
        }
        for wrong in [
            vec![batch(4, 3, &[1])],
            vec![batch(0, 4, &[])],
            vec![batch(0, 4, &[1, 1])],
            vec![batch(0, 0, &[4])],
            vec![batch(0, 0, &[-1])],
            vec![batch(5, 9, &[1]), batch(0, 4, &[1])],
        ] {
            assert_eq!(check(&wrong), Err(ErrorCode::InvalidRequest), "{wrong:?}");
        }
    }
}
