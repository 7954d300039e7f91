//! A Kafka client as small as can be: a connection, the versions its broker speaks, and the few requests that
//! prepare a run.
//!
//! Invariant: a request goes out in the highest version that both sides know. Does not know load.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use engine::io::{Io, Stream};
use engine::protocol::frame::{PREFIX_BYTES, announced_size};
use engine::protocol::messages::api_versions::{ApiVersionsRequest, ApiVersionsResponse};
use engine::protocol::messages::create_topics::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest};
use engine::protocol::messages::init_producer_id::InitProducerIdRequest;
use engine::protocol::messages::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use engine::protocol::messages::metadata::{MetadataRequest, MetadataRequestTopic, MetadataResponse};
use engine::protocol::{ApiKey, Decoder, ErrorCode, Message, Request, ResponseHeader, Uuid, next_frame, request_frame};

use crate::config::resolve;

/// What this client calls itself.
pub(crate) const CLIENT_ID: &str = "loadgen";
/// The largest answer that is read.
const MAX_FRAME: usize = 1 << 30;
/// Room for a read, if the frame's size is not known.
const READ_BYTES: usize = 64 << 10;
/// How long a new topic may take to have leaders.
const LEADERS_PATIENCE: Duration = Duration::from_secs(30);
const RETRY_EVERY: Duration = Duration::from_millis(50);

/// Timestamps that ListOffsets takes for the two ends of a partition.
pub(crate) const LATEST: i64 = -1;
pub(crate) const EARLIEST: i64 = -2;

/// The name of an error code.
pub(crate) fn error_name(code: i16) -> String {
    ErrorCode::from_code(code).map_or_else(|| format!("error {code}"), |error| error.name().to_owned())
}

/// The versions that a broker speaks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Versions(BTreeMap<i16, (i16, i16)>);

impl Versions {
    /// The highest version of the API that both sides know.
    pub(crate) fn highest(&self, key: ApiKey) -> Result<i16> {
        let ours = key.versions();
        let (min, max) = *self.0.get(&key.code()).with_context(|| format!("the broker has no {}", key.name()))?;
        let version = max.min(*ours.end());
        ensure!(version >= min.max(*ours.start()), "the broker speaks {} {min} to {max}, loadgen {ours:?}", key.name());
        Ok(version)
    }
}

/// The reading half: cuts what arrives into frames.
pub(crate) struct FrameReader {
    stream: Stream,
    buffer: BytesMut,
}

impl FrameReader {
    /// Reads from `stream`, alone.
    pub(crate) fn new(stream: Stream) -> FrameReader {
        FrameReader { stream, buffer: BytesMut::with_capacity(READ_BYTES) }
    }

    /// The next frame; none if the peer has closed the connection between frames. Its future is not to be
    /// dropped: what was read would be lost.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(frame) = next_frame(&mut self.buffer, MAX_FRAME)? {
                return Ok(Some(frame));
            }
            let known = announced_size(&self.buffer, MAX_FRAME)?.map_or(0, |size| size + PREFIX_BYTES);
            let wanted = known.max(self.buffer.len() + PREFIX_BYTES);
            if self.buffer.capacity() < wanted || self.buffer.capacity() == self.buffer.len() {
                self.buffer.reserve(wanted.max(READ_BYTES) - self.buffer.len());
            }
            let (result, buffer) = self.stream.read(std::mem::take(&mut self.buffer)).await;
            self.buffer = buffer;
            match result {
                Ok(0) if self.buffer.is_empty() => return Ok(None),
                Ok(0) => bail!("the broker closed the connection inside an answer"),
                Ok(_) => {}
                Err(error) => return Err(error).context("reading from the broker"),
            }
        }
    }
}

/// Reads an answer to a request of `R` in `version`: its correlation id and its body.
pub(crate) fn decode<'r, R: Request<'static>>(frame: &'r [u8], version: i16) -> Result<(i32, R::Response<'r>)> {
    let mut d = Decoder::new(frame);
    let header = ResponseHeader::decode(&mut d, R::API_KEY, version)?;
    let body = R::Response::decode(&mut d, version).with_context(|| format!("an answer to {} {version}", R::NAME))?;
    d.finish()?;
    Ok((header.correlation_id, body))
}

/// A connection that has learnt what its broker speaks.
pub(crate) struct Connection {
    pub(crate) stream: Stream,
    pub(crate) reader: FrameReader,
    pub(crate) versions: Versions,
    correlation_id: i32,
}

impl Connection {
    /// Connects, and asks for the versions.
    pub(crate) async fn open(io: &Io, address: SocketAddr) -> Result<Connection> {
        let stream = io.connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        let reader = FrameReader::new(stream.clone());
        let mut connection = Connection { stream, reader, versions: Versions::default(), correlation_id: 0 };
        connection.versions = connection.ask_versions().await.context("asking the broker for its versions")?;
        Ok(connection)
    }

    async fn ask_versions(&mut self) -> Result<Versions> {
        let request = ApiVersionsRequest {
            client_software_name: CLIENT_ID.into(),
            client_software_version: env!("CARGO_PKG_VERSION").into(),
        };
        // A broker that knows less answers in version 0, whatever it was asked in (KIP-511).
        for version in [3, 0] {
            let frame = self.exchange(&request, version).await?;
            let unsupported = i16::from(ErrorCode::UnsupportedVersion);
            if version > 0 && frame.get(4..6) == Some(&unsupported.to_be_bytes()[..]) {
                continue;
            }
            let (_, answer): (_, ApiVersionsResponse<'_>) = decode::<ApiVersionsRequest<'static>>(&frame, version)?;
            ensure!(answer.error_code == 0, "{}", error_name(answer.error_code));
            let of = |api: &engine::protocol::messages::api_versions::ApiVersion| {
                (api.api_key, (api.min_version, api.max_version))
            };
            return Ok(Versions(answer.api_keys.iter().map(of).collect()));
        }
        bail!("the broker answers no version of ApiVersions")
    }

    /// Sends one request and waits for its answer's frame.
    async fn exchange<'q, R: Request<'q>>(&mut self, request: &R, version: i16) -> Result<Bytes> {
        self.correlation_id += 1;
        let chunks = request_frame(version, self.correlation_id, Some(CLIENT_ID), request)?;
        self.stream.write(chunks).await.context("writing to the broker")?;
        let frame = self.reader.next().await?.context("the broker closed the connection")?;
        let answered = frame.first_chunk().map(|id| i32::from_be_bytes(*id));
        ensure!(answered == Some(self.correlation_id), "an answer to another request");
        Ok(frame)
    }

    /// Sends a request in the highest version; gives the answer's frame and the version.
    async fn call<'q, R: Request<'q>>(&mut self, request: &R) -> Result<(Bytes, i16)> {
        let version = self.versions.highest(R::API_KEY)?;
        let frame =
            self.exchange(request, version).await.with_context(|| format!("{} {version}", R::API_KEY.name()))?;
        Ok((frame, version))
    }

    /// Creates a topic; it may be there already.
    pub(crate) async fn create_topic(
        &mut self,
        name: &str,
        partitions: i32,
        replicas: i16,
        configs: &[String],
    ) -> Result<()> {
        let config = |text: &'_ String| {
            let (name, value) = text.split_once('=').expect("settings are validated");
            CreatableTopicConfig { name: name.to_owned().into(), value: Some(value.to_owned().into()) }
        };
        let topic = CreatableTopic {
            name: name.into(),
            num_partitions: partitions,
            replication_factor: replicas,
            configs: configs.iter().map(config).collect(),
            ..Default::default()
        };
        let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 30_000, ..Default::default() };
        let (frame, version) = self.call(&request).await?;
        let (_, answer) = decode::<CreateTopicsRequest<'static>>(&frame, version)?;
        let result = answer.topics.first().context("an answer without the topic")?;
        if result.error_code != 0 && result.error_code != i16::from(ErrorCode::TopicAlreadyExists) {
            let message = result.error_message.as_deref().unwrap_or_default();
            bail!("cannot create topic {name:?}: {} {message}", error_name(result.error_code));
        }
        Ok(())
    }

    /// The topic, once all its partitions have leaders. One that was just `created` may take a while to be known.
    pub(crate) async fn topic(&mut self, io: &Io, name: &str, created: bool) -> Result<Topic> {
        let unknown = i16::from(ErrorCode::UnknownTopicOrPartition);
        let patience = io.now() + LEADERS_PATIENCE;
        loop {
            let attempt = self.ask_topic(name).await?;
            match attempt {
                Ok(topic) => return Ok(topic),
                Err(error) if error == unknown && !created => {
                    bail!("there is no topic {name:?}: loadgen produce --create N makes it, with N partitions")
                }
                Err(error) if io.now() >= patience => bail!("topic {name:?}: {}", error_name(error)),
                Err(_) => io.sleep(RETRY_EVERY).await,
            }
        }
    }

    /// The topic, or an error code that may pass.
    async fn ask_topic(&mut self, name: &str) -> Result<Result<Topic, i16>> {
        let topic = MetadataRequestTopic { name: Some(name.into()), ..Default::default() };
        let request =
            MetadataRequest { topics: Some(vec![topic]), allow_auto_topic_creation: false, ..Default::default() };
        let (frame, version) = self.call(&request).await?;
        let (_, answer) = decode::<MetadataRequest<'static>>(&frame, version)?;
        read_topic(&answer, name)
    }

    /// An id and an epoch for an idempotent producer.
    pub(crate) async fn init_producer_id(&mut self, io: &Io) -> Result<(i64, i16)> {
        let request = InitProducerIdRequest { transaction_timeout_ms: 60_000, ..Default::default() };
        let patience = io.now() + LEADERS_PATIENCE;
        loop {
            let (frame, version) = self.call(&request).await?;
            let (_, answer) = decode::<InitProducerIdRequest<'static>>(&frame, version)?;
            match ErrorCode::from_code(answer.error_code) {
                Some(ErrorCode::None) => return Ok((answer.producer_id, answer.producer_epoch)),
                Some(error) if error.retriable() && io.now() < patience => io.sleep(RETRY_EVERY).await,
                _ => bail!("InitProducerId: {}", error_name(answer.error_code)),
            }
        }
    }

    /// The offsets of the partitions at [`LATEST`] or [`EARLIEST`], in the partitions' order.
    pub(crate) async fn list_offsets(&mut self, topic: &str, partitions: &[i32], timestamp: i64) -> Result<Vec<i64>> {
        let of = |&partition_index: &i32| ListOffsetsPartition { partition_index, timestamp, ..Default::default() };
        let topic = ListOffsetsTopic { name: topic.into(), partitions: partitions.iter().map(of).collect() };
        let request =
            ListOffsetsRequest { replica_id: -1, topics: vec![topic], timeout_ms: 30_000, ..Default::default() };
        let (frame, version) = self.call(&request).await?;
        let (_, answer) = decode::<ListOffsetsRequest<'static>>(&frame, version)?;
        let answered = answer.topics.iter().flat_map(|topic| &topic.partitions);
        let mut offsets = BTreeMap::new();
        for partition in answered {
            let index = partition.partition_index;
            ensure!(
                partition.error_code == 0,
                "ListOffsets of partition {index}: {}",
                error_name(partition.error_code)
            );
            offsets.insert(index, partition.offset);
        }
        let offset = |index| offsets.get(index).copied().with_context(|| format!("no offset of partition {index}"));
        partitions.iter().map(offset).collect()
    }
}

/// A topic as the cluster describes it.
#[derive(Debug, Clone)]
pub(crate) struct Topic {
    pub(crate) name: String,
    /// Zero from brokers that have no ids.
    pub(crate) id: Uuid,
    /// The address of each partition's leader, by partition.
    pub(crate) leaders: BTreeMap<i32, SocketAddr>,
}

/// Completes when all leaders of a topic that was just created know that they are: the metadata may say so earlier.
pub(crate) async fn leaders_ready(io: &Io, topic: &Topic) -> Result<()> {
    let patience = io.now() + LEADERS_PATIENCE;
    for lane in deal(&topic.leaders, topic.leaders.len())? {
        let mut connection = Connection::open(io, lane.address).await?;
        while let Err(error) = connection.list_offsets(&topic.name, &lane.partitions, LATEST).await {
            if io.now() >= patience {
                return Err(error.context(format!("topic {:?} is not ready", topic.name)));
            }
            io.sleep(RETRY_EVERY).await;
        }
    }
    Ok(())
}

fn read_topic(answer: &MetadataResponse<'_>, name: &str) -> Result<Result<Topic, i16>> {
    let topic = answer.topics.iter().find(|topic| topic.name.as_deref() == Some(name));
    let topic = topic.with_context(|| format!("the broker does not answer for topic {name:?}"))?;
    if topic.error_code != 0 {
        let passing = ErrorCode::from_code(topic.error_code).is_some_and(ErrorCode::retriable);
        ensure!(passing, "topic {name:?}: {}", error_name(topic.error_code));
        return Ok(Err(topic.error_code));
    }
    let mut leaders = BTreeMap::new();
    for partition in &topic.partitions {
        let Some(broker) = answer.brokers.iter().find(|broker| broker.node_id == partition.leader_id) else {
            return Ok(Err(ErrorCode::LeaderNotAvailable.into()));
        };
        let host = broker.host.trim_matches(['[', ']']);
        let address =
            if host.contains(':') { format!("[{host}]:{}", broker.port) } else { format!("{host}:{}", broker.port) };
        leaders.insert(partition.partition_index, resolve(&address)?);
    }
    Ok(Ok(Topic { name: name.to_owned(), id: topic.topic_id, leaders }))
}

/// What one connection has to do: a broker, and partitions that it leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lane {
    pub(crate) address: SocketAddr,
    pub(crate) partitions: Vec<i32>,
    /// Whether another lane has some of the partitions too.
    pub(crate) shared: bool,
}

/// Deals `partitions` out to `connections` connections, each to a partition's leader. A broker gets
/// connections in turn; if it has more of them than partitions, several share one.
///
/// # Errors
/// If there are fewer connections than brokers that lead something.
pub(crate) fn deal(partitions: &BTreeMap<i32, SocketAddr>, connections: usize) -> Result<Vec<Lane>> {
    let mut brokers: BTreeMap<SocketAddr, Vec<i32>> = BTreeMap::new();
    for (&partition, &leader) in partitions {
        brokers.entry(leader).or_default().push(partition);
    }
    ensure!(!brokers.is_empty(), "there are no partitions to use");
    ensure!(connections >= brokers.len(), "{} brokers lead the partitions: use as many --connections", brokers.len());
    let mut lanes = Vec::new();
    for (place, (&address, led)) in brokers.iter().enumerate() {
        let own = connections / brokers.len() + usize::from(place < connections % brokers.len());
        for lane in 0..own {
            let shared = own > led.len();
            let partitions = match shared {
                true => vec![led[lane % led.len()]],
                false => led.iter().copied().skip(lane).step_by(own).collect(),
            };
            lanes.push(Lane { address, partitions, shared });
        }
    }
    Ok(lanes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn dealt(leaders: &[u16], connections: usize) -> Vec<(u16, Vec<i32>, bool)> {
        let partitions = leaders.iter().enumerate().map(|(index, port)| (index as i32, address(*port))).collect();
        let lanes = deal(&partitions, connections).unwrap();
        lanes.into_iter().map(|lane| (lane.address.port(), lane.partitions, lane.shared)).collect()
    }

    #[test]
    fn each_partition_goes_to_a_connection_of_its_leader() {
        assert_eq!(dealt(&[1; 5], 2), [(1, vec![0, 2, 4], false), (1, vec![1, 3], false)]);
        assert_eq!(dealt(&[1, 2, 1], 3), [(1, vec![0], false), (1, vec![2], false), (2, vec![1], false)]);
        assert_eq!(dealt(&[1], 2), [(1, vec![0], true), (1, vec![0], true)]);
        assert!(deal(&BTreeMap::from([(0, address(1)), (1, address(2))]), 1).is_err());
    }

    #[test]
    fn the_highest_common_version_is_chosen() {
        let versions = Versions(BTreeMap::from([(0, (0, 12)), (1, (2, 99)), (3, (50, 60))]));
        assert_eq!(versions.highest(ApiKey::Produce).unwrap(), 12);
        assert_eq!(versions.highest(ApiKey::Fetch).unwrap(), *ApiKey::Fetch.versions().end());
        assert!(versions.highest(ApiKey::Metadata).is_err());
        assert!(versions.highest(ApiKey::CreateTopics).is_err());
    }
}
