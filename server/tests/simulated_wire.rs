//! The whole broker in simulation, asked over connections as a client would: what may overlap, what must not,
//! in which order answers leave, and what closes a connection.

#[allow(dead_code, reason = "shared with other tests, which use more of it")]
mod support;

use std::time::Duration;

use bytes::Bytes;
use engine::protocol::messages::api_versions::ApiVersionsRequest;
use engine::protocol::messages::create_topics::{CreatableTopic, CreateTopicsRequest};
use engine::protocol::messages::delete_topics::DeleteTopicsRequest;
use engine::protocol::messages::fetch::{FetchPartition, FetchRequest, FetchTopic, PartitionData};
use engine::protocol::messages::metadata::{MetadataRequest, MetadataRequestTopic};
use engine::protocol::messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use engine::protocol::{ErrorCode, Records};
use engine::record::{BatchBuilder, batches};
use support::{Bench, Client, PORT};

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

/// (error, base offset) of the next answer, that of the Produce with this number.
async fn acknowledged(client: &mut Client, number: i32) -> (i16, i64) {
    let response = client.answer::<ProduceRequest<'_>>(number, 12).await;
    let partition = &response.responses[0].partition_responses[0];
    (partition.error_code, partition.base_offset)
}

/// (partition, records) of the next answer, that of the Fetch with this number.
async fn fetched(client: &mut Client, number: i32) -> Vec<(i32, i64)> {
    let response = client.answer::<FetchRequest<'_>>(number, 12).await;
    assert_eq!(response.error_code, 0);
    let partitions = response.responses.iter().flat_map(|topic| &topic.partitions);
    let count = |partition: &PartitionData<'_>| {
        assert_eq!(partition.error_code, 0);
        let records = partition.records.as_ref().expect("records");
        let bytes: Vec<u8> = records.slices().flatten().copied().collect();
        let count: i64 = batches(&bytes).map(|batch| i64::from(batch.expect("whole batches").record_count())).sum();
        (partition.partition_index, count)
    };
    partitions.map(count).collect()
}

async fn made(client: &mut Client, name: &str, partitions: i32) {
    assert_eq!(client.ask(&create(name, partitions), 7).await.topics[0].error_code, 0);
}

#[test]
fn pipelined_requests_are_answered_in_order_and_see_what_came_before() {
    for seed in 0..10 {
        Bench::new(seed, &[]).ask(|io, address| async move {
            let mut client = Client::connect(&io, address, "test").await;
            let mut all = client.frame(&create("t", 3), 7);
            all.extend(client.frame(&metadata("t"), 12));
            for i in 0..12 {
                all.extend(client.frame(&produce("t", -1, i % 3, &format!("v{i}")), 12));
            }
            all.extend(client.frame(&fetch("t", 3, 0, 0), 12));
            all.extend(client.frame(&ApiVersionsRequest::default(), 0));
            client.send(all).await;

            assert_eq!(client.answer::<CreateTopicsRequest<'_>>(1, 7).await.topics[0].error_code, 0);
            let known = client.answer::<MetadataRequest<'_>>(2, 12).await;
            assert_eq!((known.topics[0].error_code, known.topics[0].partitions.len()), (0, 3));
            assert_eq!(known.brokers[0].port, i32::from(PORT));
            for i in 0..12 {
                let answer = acknowledged(&mut client, 3 + i).await;
                assert_eq!(answer, (0, i64::from(i / 3)), "each partition takes its batches in order");
            }
            let records = fetched(&mut client, 15).await;
            assert_eq!(records, [(0, 4), (1, 4), (2, 4)]);
            let versions = client.answer::<ApiVersionsRequest<'_>>(16, 0).await;
            assert_eq!(versions.api_keys.len(), corelog::dispatch::SERVED.len());
        });
    }
}

#[test]
fn a_fetch_waits_for_records_and_holds_up_what_follows() {
    let bench = Bench::new(1, &[]);
    bench.ask(|io, address| async move {
        let mut reader = Client::connect(&io, address, "test").await;
        let mut writer = Client::connect(&io, address, "test").await;
        made(&mut writer, "t", 2).await;

        // Nothing comes: the fetch waits its time, and the request behind it waits too.
        let began = io.now();
        let mut both = reader.frame(&fetch("t", 2, 0, 500), 12);
        both.extend(reader.frame(&ApiVersionsRequest::default(), 0));
        reader.send(both).await;
        assert_eq!(fetched(&mut reader, 1).await, [(0, 0), (1, 0)]);
        assert!(io.now().since(began) >= Duration::from_millis(500));
        reader.answer::<ApiVersionsRequest<'_>>(2, 0).await;

        // Something comes: the fetch ends long before its time.
        let began = io.now();
        let request = reader.frame(&fetch("t", 2, 0, 600_000), 12);
        reader.send(request).await;
        io.sleep(Duration::from_millis(100)).await;
        let request = writer.frame(&produce("t", -1, 1, "v"), 12);
        writer.send(request).await;
        assert_eq!(fetched(&mut reader, 3).await, [(0, 0), (1, 1)]);
        assert!(io.now().since(began) < Duration::from_secs(10));
    });
}

#[test]
fn without_acks_there_is_no_answer_and_an_error_closes_behind_earlier_answers() {
    let bench = Bench::new(2, &[]);
    bench.ask(|io, address| async move {
        let mut client = Client::connect(&io, address, "test").await;
        made(&mut client, "t", 1).await;
        let mut all = client.frame(&produce("t", 0, 0, "a"), 12);
        all.extend(client.frame(&produce("t", 1, 0, "b"), 12));
        all.extend(client.frame(&fetch("t", 1, 0, 0), 12));
        all.extend(client.frame(&produce("absent", 0, 0, "c"), 12));
        all.extend(client.frame(&ApiVersionsRequest::default(), 0));
        client.send(all).await;
        assert_eq!(acknowledged(&mut client, 3).await, (0, 1));
        assert_eq!(fetched(&mut client, 4).await, [(0, 2)]);
        assert_eq!(client.receive().await, None, "the error closes the connection");
    });
}

#[test]
fn what_is_not_served_closes_the_connection_but_api_versions_answers() {
    let bench = Bench::new(3, &[]);
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
            let mut client = Client::connect(&io, address, "test").await;
            client.send(vec![Bytes::copy_from_slice(sent)]).await;
            assert_eq!(client.receive().await.as_deref(), expected, "{sent:?}");
        }
    });
}

#[test]
fn errors_of_produce_and_fetch_are_kafkas() {
    let bench = Bench::new(4, &[]);
    bench.ask(|io, address| async move {
        let mut client = Client::connect(&io, address, "test").await;
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
            assert_eq!(acknowledged(&mut client, number).await, (error.code(), -1));
        }
        let response = client.ask(&fetch("t", 1, 9999, 100), 12).await;
        let partition = &response.responses[0].partitions[0];
        assert_eq!((partition.error_code, partition.high_watermark), (ErrorCode::OffsetOutOfRange.code(), -1));
        assert!(partition.aborted_transactions.is_none());
    });
}

#[test]
fn what_was_acknowledged_is_there_after_a_stop() {
    let bench = Bench::new(5, &[]);
    bench.ask(|io, address| async move {
        let mut client = Client::connect(&io, address, "test").await;
        made(&mut client, "t", 1).await;
        let request = client.frame(&produce("t", -1, 0, "v"), 12);
        client.send(request).await;
        assert_eq!(acknowledged(&mut client, 2).await, (0, 0));
    });
    bench.restart();
    bench.ask(|io, address| async move {
        let mut client = Client::connect(&io, address, "test").await;
        let request = client.frame(&fetch("t", 1, 0, 0), 12);
        client.send(request).await;
        assert_eq!(fetched(&mut client, 1).await, [(0, 1)]);
    });
}

/// A deletion is answered when the names are free; its files go behind it, or at the next start if that is cut off.
#[test]
fn a_deletion_does_not_wait_for_its_files() {
    const PARTITIONS: i32 = 20;
    let value = "v".repeat(600 << 10);
    for seed in 0..8 {
        let bench = Bench::new(seed, &[]);
        let doomed = || bench.paths().iter().filter(|path| path.contains("-delete/")).count();
        for round in 0..2 {
            let value = value.clone();
            bench.ask(|io, address| async move {
                let mut client = Client::connect(&io, address, "test").await;
                made(&mut client, "t", PARTITIONS).await;
                for partition in 0..PARTITIONS {
                    let frame = client.frame(&produce("t", -1, partition, &value), 12);
                    client.send(frame).await;
                    let number = client.sent;
                    assert_eq!(acknowledged(&mut client, number).await, (0, 0), "the name begins anew");
                }
                // So much is drained at once.
                io.sleep(Duration::from_secs(5)).await;
                let delete =
                    DeleteTopicsRequest { topic_names: vec!["t".into()], timeout_ms: 1000, ..Default::default() };
                assert_eq!(client.ask(&delete, 4).await.responses[0].error_code, 0);
            });
            assert!(doomed() > 0, "seed {seed}: it was answered before all files were gone");
            // The files go while the broker lives, or at the start after a crash.
            match round {
                0 => bench.run_for(Duration::from_secs(5)),
                _ => bench.lose_power(),
            }
            assert_eq!(doomed(), 0, "seed {seed}: they go");
        }
    }
}
