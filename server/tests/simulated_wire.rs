//! The whole broker in simulation, asked over connections as a client would: what may overlap, what must not,
//! in which order answers leave, and what closes a connection.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use corelog::broker::{self, BrokerConfig, Shared};
use engine::controller::Settings;
use engine::io::sim::{Faults, NodeId, World};
use engine::io::{Io, Stream};
use engine::protocol::messages::api_versions::{ApiVersionsRequest, ApiVersionsResponse};
use engine::protocol::messages::create_topics::{CreatableTopic, CreateTopicsRequest, CreateTopicsResponse};
use engine::protocol::messages::fetch::{FetchPartition, FetchRequest, FetchResponse, FetchTopic};
use engine::protocol::messages::metadata::{MetadataRequest, MetadataRequestTopic, MetadataResponse};
use engine::protocol::messages::produce::{PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData};
use engine::protocol::{
    ApiKey, Decoder, Encoder, ErrorCode, Message, Records, Request, RequestHeader, ResponseHeader, next_frame,
};
use engine::record::{BatchBuilder, batches};
use engine::shard::{NodeConfig, node_mailboxes};

const PORT: u16 = 9092;
const SHARDS: usize = 2;

/// A broker that runs, and a machine for its clients.
struct Bench {
    world: World,
    broker: NodeId,
    clients: NodeId,
    address: SocketAddr,
}

impl Bench {
    fn new(seed: u64) -> Bench {
        let world = World::new(seed, Faults::none());
        let (broker, clients) = (world.add_node(), world.add_node());
        let address = SocketAddr::new(world.address(broker), PORT);
        let bench = Bench { world, broker, clients, address };
        bench.start();
        bench
    }

    fn start(&self) {
        let node = NodeConfig {
            data_dir: "/data".into(),
            node_id: 1,
            shards: SHARDS,
            journal_bytes: 256 << 20,
            memory_bytes: 256 << 20,
            settings: Settings::new(1, BTreeMap::new()).expect("defaults are valid"),
            accept_loss: false,
            past_journal_bytes: None,
        };
        let mut mailboxes: Vec<_> = node_mailboxes(&node).into_iter().map(Some).collect();
        let config = Arc::new(BrokerConfig {
            node: Arc::new(node),
            listen: self.address,
            advertised_host: self.address.ip().to_string(),
            advertised_port: 0,
            shared: Shared::default(),
        });
        let ready = Rc::new(RefCell::new(false));
        self.world.start(self.broker, SHARDS + 1, |io| {
            let mailbox = mailboxes[io.core()].take().expect("a core starts once");
            let (config, ready) = (config.clone(), ready.clone());
            async move {
                let ended = broker::run_core(io, mailbox, config, |_, _| *ready.borrow_mut() = true).await;
                ended.expect("the broker starts");
            }
        });
        assert!(self.world.run_until(Duration::from_secs(60), || *ready.borrow()), "the broker listens");
    }

    fn ask<T: 'static, F: Future<Output = T> + 'static>(&self, make: impl FnOnce(Io, SocketAddr) -> F) -> T {
        let address = self.address;
        self.world.block_on(self.clients, |io| make(io, address))
    }
}

/// A client's end of a connection.
struct Client {
    stream: Stream,
    arrived: BytesMut,
    sent: i32,
}

impl Client {
    async fn connect(io: &Io, address: SocketAddr) -> Client {
        let stream = io.connect(address).await.expect("the broker listens");
        Client { stream, arrived: BytesMut::new(), sent: 0 }
    }

    /// The bytes of a request; correlation ids count from 1.
    fn frame<'a, R: Request<'a>>(&mut self, request: &R, version: i16) -> Vec<Bytes> {
        self.sent += 1;
        let mut encoder = Encoder::frame();
        let client_id = Some("test".into());
        let header = RequestHeader { api_key: R::API_KEY, api_version: version, correlation_id: self.sent, client_id };
        header.encode(&mut encoder);
        request.encode(&mut encoder, version);
        encoder.finish().expect("the request is right")
    }

    async fn send(&self, chunks: Vec<Bytes>) {
        self.stream.write(vec![chunks.concat().into()]).await.expect("the broker reads");
    }

    /// The next answer's bytes; `None` if the broker has closed the connection.
    async fn receive(&mut self) -> Option<Bytes> {
        loop {
            if let Some(frame) = next_frame(&mut self.arrived, 1 << 30).expect("a frame") {
                return Some(frame);
            }
            self.arrived.reserve(4096);
            let result;
            (result, self.arrived) = self.stream.read(std::mem::take(&mut self.arrived)).await;
            if result.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// The next answer, which must be that of the request with this number, read by `read`.
    async fn answer<T>(
        &mut self,
        number: i32,
        api_key: ApiKey,
        version: i16,
        read: impl FnOnce(&mut Decoder<'_>) -> T,
    ) -> T {
        let frame = self.receive().await.expect("an answer");
        let mut decoder = Decoder::new(&frame);
        let header = ResponseHeader::decode(&mut decoder, api_key, version).expect("a header");
        assert_eq!(header.correlation_id, number, "answers leave in the order of their requests");
        let value = read(&mut decoder);
        decoder.finish().expect("nothing follows the answer");
        value
    }
}

fn create(name: &str, partitions: i32) -> CreateTopicsRequest<'_> {
    let topic =
        CreatableTopic { name: name.into(), num_partitions: partitions, replication_factor: 1, ..Default::default() };
    CreateTopicsRequest { topics: vec![topic], timeout_ms: 1000, validate_only: false }
}

fn metadata(name: &str) -> MetadataRequest<'_> {
    let topic = MetadataRequestTopic { name: Some(name.into()), ..Default::default() };
    MetadataRequest { topics: Some(vec![topic]), allow_auto_topic_creation: false, ..Default::default() }
}

fn produce(name: &str, acks: i16, partition: i32, value: &str) -> ProduceRequest<'static> {
    let mut batch = BatchBuilder::new();
    batch.append(-1, Some(b"key"), Some(value.as_bytes()), &[]);
    let records = Some(Records::Chunks(vec![batch.finish().into()]));
    let data = PartitionProduceData { index: partition, records };
    let topic = TopicProduceData { name: name.to_owned().into(), partition_data: vec![data], ..Default::default() };
    ProduceRequest { acks, timeout_ms: 10_000, topic_data: vec![topic], ..Default::default() }
}

fn fetch(name: &str, partitions: i32, offset: i64, max_wait_ms: i32) -> FetchRequest<'_> {
    let partition = |partition| FetchPartition {
        partition,
        fetch_offset: offset,
        partition_max_bytes: 1 << 20,
        ..Default::default()
    };
    let topic =
        FetchTopic { topic: name.into(), partitions: (0..partitions).map(partition).collect(), ..Default::default() };
    FetchRequest { max_wait_ms, min_bytes: 1, max_bytes: 1 << 20, topics: vec![topic], ..Default::default() }
}

fn base_offset(decoder: &mut Decoder<'_>, version: i16) -> (i16, i64) {
    let response = ProduceResponse::decode(decoder, version).expect("an answer to Produce");
    let partition = &response.responses[0].partition_responses[0];
    (partition.error_code, partition.base_offset)
}

/// (partition, records) of a Fetch answer.
fn fetched(decoder: &mut Decoder<'_>, version: i16) -> Vec<(i32, i64)> {
    let response = FetchResponse::decode(decoder, version).expect("an answer to Fetch");
    assert_eq!(response.error_code, 0);
    let partitions = response.responses.iter().flat_map(|topic| &topic.partitions);
    let count = |partition: &engine::protocol::messages::fetch::PartitionData<'_>| {
        assert_eq!(partition.error_code, 0);
        let records = partition.records.as_ref().expect("records");
        let bytes: Vec<u8> = records.slices().flatten().copied().collect();
        let count: i64 = batches(&bytes).map(|batch| i64::from(batch.expect("whole batches").record_count())).sum();
        (partition.partition_index, count)
    };
    partitions.map(count).collect()
}

async fn made(client: &mut Client, name: &str, partitions: i32) {
    let request = client.frame(&create(name, partitions), 7);
    client.send(request).await;
    let number = client.sent;
    let read = |d: &mut Decoder<'_>| CreateTopicsResponse::decode(d, 7).expect("an answer").topics[0].error_code;
    assert_eq!(client.answer(number, ApiKey::CreateTopics, 7, read).await, 0);
}

#[test]
fn pipelined_requests_are_answered_in_order_and_see_what_came_before() {
    for seed in 0..10 {
        Bench::new(seed).ask(|io, address| async move {
            let mut client = Client::connect(&io, address).await;
            let mut all = client.frame(&create("t", 3), 7);
            all.extend(client.frame(&metadata("t"), 12));
            for i in 0..12 {
                all.extend(client.frame(&produce("t", -1, i % 3, &format!("v{i}")), 12));
            }
            all.extend(client.frame(&fetch("t", 3, 0, 0), 12));
            all.extend(client.frame(&ApiVersionsRequest::default(), 0));
            client.send(all).await;

            let created =
                |d: &mut Decoder<'_>| CreateTopicsResponse::decode(d, 7).expect("an answer").topics[0].error_code;
            assert_eq!(client.answer(1, ApiKey::CreateTopics, 7, created).await, 0);
            let partitions = |d: &mut Decoder<'_>| {
                let response = MetadataResponse::decode(d, 12).expect("an answer");
                (response.topics[0].error_code, response.topics[0].partitions.len(), response.brokers[0].port)
            };
            assert_eq!(client.answer(2, ApiKey::Metadata, 12, partitions).await, (0, 3, i32::from(PORT)));
            for i in 0..12 {
                let acknowledged = client.answer(3 + i, ApiKey::Produce, 12, |d| base_offset(d, 12)).await;
                assert_eq!(acknowledged, (0, i64::from(i / 3)), "each partition takes its batches in order");
            }
            let records = client.answer(15, ApiKey::Fetch, 12, |d| fetched(d, 12)).await;
            assert_eq!(records, [(0, 4), (1, 4), (2, 4)]);
            let keys = |d: &mut Decoder<'_>| ApiVersionsResponse::decode(d, 0).expect("an answer").api_keys.len();
            assert_eq!(client.answer(16, ApiKey::ApiVersions, 0, keys).await, corelog::dispatch::SERVED.len());
        });
    }
}

#[test]
fn a_fetch_waits_for_records_and_holds_up_what_follows() {
    let bench = Bench::new(1);
    bench.ask(|io, address| async move {
        let mut reader = Client::connect(&io, address).await;
        let mut writer = Client::connect(&io, address).await;
        made(&mut writer, "t", 2).await;

        // Nothing comes: the fetch waits its time, and the request behind it waits too.
        let began = io.now();
        let mut both = reader.frame(&fetch("t", 2, 0, 500), 12);
        both.extend(reader.frame(&ApiVersionsRequest::default(), 0));
        reader.send(both).await;
        assert_eq!(reader.answer(1, ApiKey::Fetch, 12, |d| fetched(d, 12)).await, [(0, 0), (1, 0)]);
        assert!(io.now().since(began) >= Duration::from_millis(500));
        reader
            .answer(2, ApiKey::ApiVersions, 0, |d| ApiVersionsResponse::decode(d, 0).map(drop).expect("an answer"))
            .await;

        // Something comes: the fetch ends long before its time.
        let began = io.now();
        let request = reader.frame(&fetch("t", 2, 0, 600_000), 12);
        reader.send(request).await;
        io.sleep(Duration::from_millis(100)).await;
        let request = writer.frame(&produce("t", -1, 1, "v"), 12);
        writer.send(request).await;
        assert_eq!(reader.answer(3, ApiKey::Fetch, 12, |d| fetched(d, 12)).await, [(0, 0), (1, 1)]);
        assert!(io.now().since(began) < Duration::from_secs(10));
    });
}

#[test]
fn without_acks_there_is_no_answer_and_an_error_closes_behind_earlier_answers() {
    let bench = Bench::new(2);
    bench.ask(|io, address| async move {
        let mut client = Client::connect(&io, address).await;
        made(&mut client, "t", 1).await;
        let mut all = client.frame(&produce("t", 0, 0, "a"), 12);
        all.extend(client.frame(&produce("t", 1, 0, "b"), 12));
        all.extend(client.frame(&fetch("t", 1, 0, 0), 12));
        all.extend(client.frame(&produce("absent", 0, 0, "c"), 12));
        all.extend(client.frame(&ApiVersionsRequest::default(), 0));
        client.send(all).await;
        assert_eq!(client.answer(3, ApiKey::Produce, 12, |d| base_offset(d, 12)).await, (0, 1));
        assert_eq!(client.answer(4, ApiKey::Fetch, 12, |d| fetched(d, 12)).await, [(0, 2)]);
        assert_eq!(client.receive().await, None, "the error closes the connection");
    });
}

#[test]
fn what_is_not_served_closes_the_connection_but_api_versions_answers() {
    let bench = Bench::new(3);
    bench.ask(|io, address| async move {
        // (what is sent, the answer): an unknown key, an unknown version, a frame too large, and ApiVersions
        // of a version to come, whose golden answer is Kafka's.
        let golden: &[u8] = &[0, 0, 0, 9, 0, 35, 0, 0, 0, 1, 0, 18, 0, 0, 0, 4];
        let cases: [(&[u8], Option<&[u8]>); 5] = [
            (&[0, 0, 0, 11, 3, 231, 0, 0, 0, 0, 0, 9, 0, 1, b'p'], None),
            (&[0, 0, 0, 11, 0, 1, 0, 3, 0, 0, 0, 9, 0, 1, b'p'], None),
            (&[12, 128, 0, 0, 0, 0, 0, 0], None),
            (&[0, 0, 0, 3, 0, 1, 0], None),
            (&[0, 0, 0, 14, 0, 18, 0, 99, 0, 0, 0, 9, 0, 1, b'p', 1, 2, 3], Some(golden)),
        ];
        for (sent, expected) in cases {
            let mut client = Client::connect(&io, address).await;
            client.send(vec![Bytes::copy_from_slice(sent)]).await;
            assert_eq!(client.receive().await.as_deref(), expected, "{sent:?}");
        }
    });
}

#[test]
fn errors_of_produce_and_fetch_are_kafkas() {
    let bench = Bench::new(4);
    bench.ask(|io, address| async move {
        let mut client = Client::connect(&io, address).await;
        made(&mut client, "t", 1).await;
        let cases = [
            (produce("t", 2, 0, "v"), ErrorCode::InvalidRequiredAcks),
            (produce("absent", 1, 0, "v"), ErrorCode::UnknownTopicOrPartition),
            (produce("t", 1, 7, "v"), ErrorCode::UnknownTopicOrPartition),
            (produce("__consumer_offsets", 1, 0, "v"), ErrorCode::InvalidTopicException),
        ];
        for (request, error) in cases {
            let frame = client.frame(&request, 12);
            client.send(frame).await;
            let number = client.sent;
            assert_eq!(client.answer(number, ApiKey::Produce, 12, |d| base_offset(d, 12)).await, (error.code(), -1));
        }
        let frame = client.frame(&fetch("t", 1, 9999, 100), 12);
        client.send(frame).await;
        let number = client.sent;
        let read = |d: &mut Decoder<'_>| {
            let response = FetchResponse::decode(d, 12).expect("an answer");
            let partition = &response.responses[0].partitions[0];
            (partition.error_code, partition.high_watermark, partition.aborted_transactions.is_none())
        };
        let expected = (ErrorCode::OffsetOutOfRange.code(), -1, true);
        assert_eq!(client.answer(number, ApiKey::Fetch, 12, read).await, expected);
    });
}

#[test]
fn what_was_acknowledged_is_there_after_a_stop() {
    let bench = Bench::new(5);
    bench.ask(|io, address| async move {
        let mut client = Client::connect(&io, address).await;
        made(&mut client, "t", 1).await;
        let request = client.frame(&produce("t", -1, 0, "v"), 12);
        client.send(request).await;
        assert_eq!(client.answer(2, ApiKey::Produce, 12, |d| base_offset(d, 12)).await, (0, 0));
    });
    bench.world.stop(bench.broker);
    assert!(bench.world.run_until(Duration::from_secs(60), || !bench.world.is_running(bench.broker)), "it stops");
    bench.start();
    bench.ask(|io, address| async move {
        let mut client = Client::connect(&io, address).await;
        let request = client.frame(&fetch("t", 1, 0, 0), 12);
        client.send(request).await;
        assert_eq!(client.answer(1, ApiKey::Fetch, 12, |d| fetched(d, 12)).await, [(0, 1)]);
    });
}
