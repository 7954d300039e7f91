//! Fetch: what partitions show, now or as soon as there is enough of it.
//!
//! The session says which partitions are meant ([`FetchSessions`]); each owning shard reads its parts; if that
//! is too little, the shards tell when there is more, and only those that did are read again. The invariant:
//! an answer holds whole batches, in the request's order of partitions, within the client's bound on bytes,
//! except that the first batch of all is given however large (KIP-74).
//!
//! [`FetchSessions`]: engine::replication::fetch_session::FetchSessions

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use engine::controller::image::MetadataImage;
use engine::io::local::Receiver;
use engine::io::{Instant, Pace};
use engine::protocol::messages::fetch::{
    AbortedTransaction, EpochEndOffset, FetchRequest, FetchResponse, FetchableTopicResponse, LeaderIdAndEpoch,
    PartitionData,
};
use engine::protocol::{ErrorCode, Records, Str, Uuid};
use engine::record::batches;
use engine::replication::fetch_session::{self, Opening, PartitionKey, Shown, TopicKey, Wanted};
use engine::shard::Waiting;
use engine::shard::message::{Await, PartitionId, Read, ReadFrom, ReadPart, Reply, Request};
use futures_lite::future;

use super::records::RecordsRoom;
use super::route::{self, Fan, Group, Leaders};
use crate::authorizer::{Operation, Resource, authorize};
use crate::broker::Broker;
use crate::connection::Connection;
use crate::dispatch::{Answer, Call, Refusal};
use crate::limits;
use crate::quota::Kind;

/// From this version on topics are named by id.
const BY_ID: i16 = 13;
/// From this version on the answer says where the leaders are (KIP-951).
const NAMES_LEADERS: i16 = 16;

/// Serves a Fetch.
///
/// # Errors
/// What closes the connection.
pub async fn answer(broker: &Rc<Broker>, connection: &Connection, call: &Call) -> Result<Answer, Refusal> {
    let request: FetchRequest<'_> = call.decode()?;
    let now = broker.io().now();
    let begun = broker.fetch_sessions.borrow_mut().begin(now, opening(&request, call.version));
    let fetch = match begun {
        Ok(fetch) => fetch,
        Err(error) => return call.answer(&FetchResponse { error_code: error.code(), ..Default::default() }),
    };
    let mut gathering = Gathering::new(broker, call, &request, &fetch).await;
    gathering.read_all().await?;
    let until = now + Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    future::or(gathering.wait_until(call, until), async {
        connection.abandoned().await;
        Ok(())
    })
    .await?;
    gathering.cut_to_size();
    let (throttle, may_show) = within_quota(call, gathering.bytes());
    call.throttle(throttle);
    if !may_show {
        gathering.let_go();
    }

    let shown: Vec<Shown> = gathering.parts.iter().map(Part::shown).collect();
    let told = broker.fetch_sessions.borrow_mut().finish(broker.io().now(), &fetch, &shown, || session_id(broker));
    let mut leaders = Leaders::new(broker);
    let responses = gathering.responses(&fetch, &told.included, call.version, &mut leaders);
    let response = FetchResponse {
        session_id: told.session_id,
        responses,
        node_endpoints: leaders.fetch_endpoints(),
        ..Default::default()
    };
    let answer = call.answer(&response)?;
    Ok(Answer { held: Some(gathering.room.into_held()), ..answer })
}

/// Counts the bytes of an answer: how long the client shall be silent, and whether it may have them now. If
/// not, they are not counted, and are read again when it may.
fn within_quota(call: &Call, bytes: usize) -> (Duration, bool) {
    let (client, client_id) = (&call.client, call.client_id());
    let Some(most) = client.quotas.most_fetched(client, client_id) else { return (Duration::ZERO, true) };
    let before = client.quotas.record(client, client_id, Kind::Fetch, 0.0);
    if !before.is_zero() {
        return (before, bytes == 0);
    }
    let throttle = client.quotas.record(client, client_id, Kind::Fetch, bytes as f64);
    // A single batch larger than all windows hold would otherwise never be within the bound.
    if throttle.is_zero() || bytes > most {
        return (throttle, true);
    }
    client.quotas.unrecord(client, client_id, Kind::Fetch, bytes as f64);
    (throttle, false)
}

/// A session id that no other core gives: a client that comes back on another core must not find there the
/// session of someone else.
fn session_id(broker: &Broker) -> u64 {
    let shards = broker.core.shards() as u64;
    let draws = (1 << 31) / shards;
    broker.io().random_u64() % draws * shards + broker.io().core() as u64
}

fn opening(request: &FetchRequest<'_>, version: i16) -> Opening {
    let by_id = version >= BY_ID;
    let key = |name: &str, id: Uuid| if by_id { TopicKey::Id(id) } else { TopicKey::Name(name.into()) };
    let mut wanted = Vec::new();
    for topic in &request.topics {
        let topic_key = key(&topic.topic, topic.topic_id);
        wanted.extend(topic.partitions.iter().map(|asked| {
            let want = Wanted {
                offset: asked.fetch_offset,
                max_bytes: asked.partition_max_bytes,
                current_leader_epoch: asked.current_leader_epoch,
                last_fetched_epoch: asked.last_fetched_epoch,
            };
            (PartitionKey { topic: topic_key.clone(), partition: asked.partition }, want)
        }));
    }
    let mut forgotten = Vec::new();
    for topic in &request.forgotten_topics_data {
        let topic_key = key(&topic.topic, topic.topic_id);
        forgotten.extend(
            topic.partitions.iter().map(|partition| PartitionKey { topic: topic_key.clone(), partition: *partition }),
        );
    }
    Opening { session_id: request.session_id, epoch: request.session_epoch, by_id, wanted, forgotten }
}

/// One partition of a fetch.
struct Part {
    id: Result<PartitionId, ErrorCode>,
    result: ReadPart,
}

impl Part {
    fn bytes(&self) -> usize {
        self.result.records.iter().map(Bytes::len).sum()
    }

    fn shown(&self) -> Shown {
        Shown {
            error: self.result.error,
            high_watermark: self.result.high_watermark,
            log_start_offset: self.result.log_start_offset,
            bytes: self.bytes(),
            urgent: self.result.diverging_epoch.is_some(),
        }
    }
}

/// A fetch under way: what was read so far, and who is waited for.
struct Gathering<'a> {
    broker: &'a Broker,
    read_committed: bool,
    min_bytes: usize,
    max_bytes: usize,
    parts: Vec<Part>,
    groups: Vec<Group<ReadFrom>>,
    /// For each group, its shard's promise of news.
    news: Vec<Option<Waiting>>,
    /// Memory for the records that were read.
    room: RecordsRoom,
}

impl<'a> Gathering<'a> {
    async fn new(
        broker: &'a Broker,
        call: &Call,
        request: &FetchRequest<'_>,
        fetch: &fetch_session::Fetch,
    ) -> Gathering<'a> {
        let image = broker.image();
        let mut fan = Fan::new(broker);
        let mut parts = Vec::with_capacity(fetch.wanted.len());
        let pace = Pace::new(broker.io());
        for (key, wanted) in &fetch.wanted {
            pace.spend(1).await;
            let id = find(broker, call, &image, key);
            if let Ok(id) = id {
                fan.add(id, parts.len(), read_from(id, wanted));
            }
            parts.push(Part { id, result: failed(id.err().unwrap_or(ErrorCode::None)) });
        }
        let groups = fan.into_groups();
        let max_bytes = usize::try_from(request.max_bytes).unwrap_or(0).min(broker.limits.fetch_bytes);
        // More than the quota's windows hold could never be within it.
        let most = call.client.quotas.most_fetched(&call.client, call.client_id()).unwrap_or(usize::MAX);
        let max_bytes = max_bytes.min(most);
        let min_bytes = usize::try_from(request.min_bytes).unwrap_or(0).min(max_bytes);
        let news = groups.iter().map(|_| None).collect();
        Gathering {
            broker,
            read_committed: request.isolation_level == 1,
            min_bytes,
            max_bytes,
            parts,
            groups,
            news,
            room: RecordsRoom::new(broker.core.accounts()),
        }
    }

    /// Reads all parts, each shard's in one request, all shards at once.
    async fn read_all(&mut self) -> Result<(), Refusal> {
        let replies: Vec<_> = (0..self.groups.len()).map(|group| self.send_read(group)).collect();
        for (group, reply) in replies.into_iter().enumerate() {
            self.take_read(group, reply.await)?;
        }
        self.hold_what_is_there();
        Ok(())
    }

    fn send_read(&mut self, group: usize) -> Receiver<Reply> {
        let Group { shard, parts, .. } = &self.groups[group];
        let asked: usize = parts.iter().map(|part| part.max_bytes).fold(0, usize::saturating_add);
        let wanted = asked.min(self.max_bytes);
        let room = self.room.take(wanted);
        let (max_bytes, first_whole) = (room.unwrap_or(0), room.is_some());
        let read = Read { read_committed: self.read_committed, max_bytes, first_whole, parts: parts.clone() };
        self.broker.core.request(*shard, Request::Read(read))
    }

    fn take_read(&mut self, group: usize, reply: Option<Reply>) -> Result<(), Refusal> {
        let Some(Reply::Read(results)) = reply else { return Err(Refusal::Stopping) };
        let places = &self.groups[group].places;
        assert_eq!(results.len(), places.len(), "a shard answers each part");
        for (place, result) in places.iter().zip(results) {
            self.parts[*place].result = result;
        }
        Ok(())
    }

    /// Gives back the memory that was reserved for more than came. If more came than there is memory for, it goes.
    fn hold_what_is_there(&mut self) {
        if !self.room.settle(self.bytes()) {
            self.parts.iter_mut().for_each(|part| part.result.records.clear());
        }
    }

    fn bytes(&self) -> usize {
        self.parts.iter().map(Part::bytes).sum()
    }

    /// Whether the client wants to be answered with this.
    fn is_enough(&self) -> bool {
        let urgent = |part: &Part| part.result.error != ErrorCode::None || part.result.diverging_epoch.is_some();
        self.groups.is_empty() || self.parts.iter().any(urgent) || self.bytes() >= self.min_bytes
    }

    /// Reads again whatever has news, until there is enough or `deadline` comes.
    async fn wait_until(&mut self, call: &Call, deadline: Instant) -> Result<(), Refusal> {
        let mut waits = false;
        while !self.is_enough() && self.broker.io().now() < deadline {
            if self.room.is_missing() {
                if !self.room.wait(self.broker.io().sleep_until(deadline)).await {
                    break;
                }
                self.read_all().await?;
                continue;
            }
            waits = waits || call.may_wait(self.broker, self.parts.len());
            if !waits {
                // Without memory to wait with it asks again soon.
                let soon = self.broker.io().now() + limits::WAIT_WITHOUT_MEMORY;
                self.broker.io().sleep_until(deadline.min(soon)).await;
                return self.read_all().await;
            }
            self.ask_for_news(deadline);
            let group = self.next_news().await?;
            let reply = self.send_read(group).await;
            self.take_read(group, reply)?;
            self.hold_what_is_there();
        }
        // Nobody waits for it any more.
        self.news.iter_mut().for_each(|news| *news = None);
        Ok(())
    }

    fn ask_for_news(&mut self, deadline: Instant) {
        for (group, news) in self.groups.iter().zip(&mut self.news) {
            if news.is_some() {
                continue;
            }
            let seen = |place: &usize| {
                let Part { id, result } = &self.parts[*place];
                let end = if self.read_committed { result.last_stable_offset } else { result.high_watermark };
                (id.expect("only partitions that were found are in a group"), end)
            };
            let parts = group.places.iter().map(seen).collect();
            let request = Await { deadline, read_committed: self.read_committed, parts };
            *news = Some(self.broker.core.wait(group.shard, Request::Await(request)));
        }
    }

    /// The next group whose shard has news, or whose wait is over.
    async fn next_news(&mut self) -> Result<usize, Refusal> {
        let news = &mut self.news;
        let (group, reply) = poll_fn(|cx| {
            for (group, news) in news.iter_mut().enumerate() {
                let Some(receiver) = news else { continue };
                if let Poll::Ready(reply) = Future::poll(Pin::new(receiver), cx) {
                    return Poll::Ready((group, reply));
                }
            }
            Poll::Pending
        })
        .await;
        self.news[group] = None;
        reply.map(|_| group).ok_or(Refusal::Stopping)
    }

    /// Leaves out what exceeds the client's bound on bytes: every shard was given the whole of it.
    fn cut_to_size(&mut self) {
        let mut room = self.max_bytes;
        let mut first = true;
        for part in &mut self.parts {
            let had_records = !part.result.records.is_empty();
            let taken = keep_whole_batches(&mut part.result.records, room, first);
            room = room.saturating_sub(taken);
            first &= !had_records;
        }
        self.hold_what_is_there();
    }

    /// Shows no records after all.
    fn let_go(&mut self) {
        self.parts.iter_mut().for_each(|part| part.result.records.clear());
        self.hold_what_is_there();
    }

    fn responses<'r>(
        &mut self,
        fetch: &'r fetch_session::Fetch,
        included: &[bool],
        version: i16,
        leaders: &mut Leaders<'_>,
    ) -> Vec<FetchableTopicResponse<'r>> {
        let mut topics: Vec<FetchableTopicResponse<'r>> = Vec::new();
        let mut last = None;
        for ((key, _), (part, included)) in
            fetch.wanted.iter().map(|(key, wanted)| (key, wanted)).zip(self.parts.iter_mut().zip(included))
        {
            if !included {
                continue;
            }
            if last != Some(&key.topic) {
                topics.push(topic_response(&key.topic));
                last = Some(&key.topic);
            }
            let data = partition_data(key.partition, part, self.read_committed, version, leaders);
            topics.last_mut().expect("one was pushed").partitions.push(data);
        }
        topics
    }
}

fn find(broker: &Broker, call: &Call, image: &MetadataImage, key: &PartitionKey) -> Result<PartitionId, ErrorCode> {
    let may_read = |name: &str| authorize(broker, call, Operation::Read, Resource::Topic(name));
    let topic = match &key.topic {
        TopicKey::Name(name) => {
            may_read(name)?;
            route::find_topic(image, name, Uuid::ZERO)?
        }
        TopicKey::Id(id) => image.topics.get(id).ok_or(ErrorCode::UnknownTopicId)?,
    };
    may_read(&topic.name)?;
    route::find_partition(broker, topic, key.partition)
}

fn read_from(id: PartitionId, wanted: &Wanted) -> ReadFrom {
    ReadFrom {
        id,
        current_leader_epoch: wanted.current_leader_epoch,
        last_fetched_epoch: wanted.last_fetched_epoch,
        offset: wanted.offset,
        max_bytes: usize::try_from(wanted.max_bytes).unwrap_or(0),
    }
}

fn failed(error: ErrorCode) -> ReadPart {
    ReadPart::refused(error)
}

fn topic_response(key: &TopicKey) -> FetchableTopicResponse<'_> {
    match key {
        TopicKey::Name(name) => FetchableTopicResponse { topic: Str::Borrowed(name), ..Default::default() },
        TopicKey::Id(id) => FetchableTopicResponse { topic_id: *id, ..Default::default() },
    }
}

fn partition_data(
    partition_index: i32,
    part: &mut Part,
    read_committed: bool,
    version: i16,
    leaders: &mut Leaders<'_>,
) -> PartitionData<'static> {
    let result = &mut part.result;
    let aborted = |(producer_id, first_offset): &(i64, i64)| AbortedTransaction {
        producer_id: *producer_id,
        first_offset: *first_offset,
    };
    // Kafka answers null to those who read uncommitted, but an empty list for a partition it could not find.
    let lists_aborted = read_committed || part.id.is_err();
    let mut data = PartitionData {
        partition_index,
        error_code: result.error.code(),
        high_watermark: result.high_watermark,
        last_stable_offset: result.last_stable_offset,
        log_start_offset: result.log_start_offset,
        aborted_transactions: lists_aborted.then(|| result.aborted_transactions.iter().map(aborted).collect()),
        records: Some(Records::Chunks(std::mem::take(&mut result.records))),
        ..Default::default()
    };
    if let Some((epoch, end_offset)) = result.diverging_epoch {
        data.diverging_epoch = EpochEndOffset { epoch, end_offset };
    }
    let moved = matches!(result.error, ErrorCode::NotLeaderOrFollower | ErrorCode::FencedLeaderEpoch);
    if let Ok(id) = part.id
        && moved
        && version >= NAMES_LEADERS
        && let Some((leader_id, leader_epoch)) = leaders.name(id)
    {
        data.current_leader = LeaderIdAndEpoch { leader_id, leader_epoch };
    }
    data
}

/// Cuts `records` to whole batches of `room` bytes at most, or to the first batch if `first_of_all` and that
/// alone is larger; gives the bytes kept.
fn keep_whole_batches(records: &mut Vec<Bytes>, room: usize, first_of_all: bool) -> usize {
    let mut kept = 0;
    let mut whole = 0;
    for chunk in records.iter_mut() {
        if kept + chunk.len() <= room {
            kept += chunk.len();
            whole += 1;
            continue;
        }
        let mut end = 0;
        for batch in batches(chunk).map_while(Result::ok) {
            let goes_first = first_of_all && kept + end == 0;
            if kept + end + batch.total_size() > room && !goes_first {
                break;
            }
            end += batch.total_size();
        }
        chunk.truncate(end);
        kept += end;
        whole += usize::from(end > 0);
        break;
    }
    records.truncate(whole);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::record::BatchBuilder;

    fn batch(value_bytes: usize) -> Bytes {
        let mut builder = BatchBuilder::new();
        builder.append(0, None, Some(&vec![7; value_bytes]), &[]);
        builder.finish().into()
    }

    #[test]
    fn batches_are_kept_whole() {
        let (small, large) = (batch(10), batch(1000));
        let chunk: Bytes = [&small[..], &small[..], &large[..]].concat().into();
        let cut = |room, first| {
            let mut records = vec![chunk.clone(), large.clone()];
            let kept = keep_whole_batches(&mut records, room, first);
            assert_eq!(records.iter().map(Bytes::len).sum::<usize>(), kept);
            kept
        };
        let both = chunk.len() + large.len();
        assert_eq!(cut(both, false), both);
        assert_eq!(cut(both - 1, false), chunk.len());
        assert_eq!(cut(2 * small.len() + 5, false), 2 * small.len());
        assert_eq!(cut(small.len(), false), small.len());
        assert_eq!(cut(1, false), 0);
        assert_eq!(cut(1, true), small.len());
    }
}
