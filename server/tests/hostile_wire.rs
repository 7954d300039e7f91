//! The whole broker in simulation, beside clients that are slow, ask for much, do not read, or are gone: what others
//! ask meanwhile is answered within a second of virtual time.

#[allow(dead_code, reason = "shared with other tests, which use more of it")]
mod support;

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use engine::io::{Class, Io};
use engine::protocol::messages::create_topics::{CreatableTopic, CreateTopicsRequest};
use engine::protocol::messages::metadata::{MetadataRequest, MetadataRequestTopic};
use engine::protocol::messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use engine::protocol::{ErrorCode, Records};
use engine::record::BatchBuilder;
use support::{Bench, Client};

/// The least memory of its two cores.
const MEMORY: u64 = 64 << 20;
/// Within this, others are answered.
const SOON: Duration = Duration::from_secs(1);

fn produce(partition: i32, value_bytes: usize) -> ProduceRequest<'static> {
    let mut batch = BatchBuilder::new();
    batch.append(-1, None, Some(&vec![7; value_bytes]), &[]);
    let records = Some(Records::Chunks(vec![batch.finish().into()]));
    let data = PartitionProduceData { index: partition, records };
    let topic = TopicProduceData { name: "t".into(), partition_data: vec![data], ..Default::default() };
    ProduceRequest { acks: -1, timeout_ms: 30_000, topic_data: vec![topic], ..Default::default() }
}

async fn make_topic(client: &mut Client, name: &'static str, partitions: i32) {
    let topic =
        CreatableTopic { name: name.into(), num_partitions: partitions, replication_factor: 1, ..Default::default() };
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 1000, validate_only: false };
    assert_eq!(client.ask(&request, 7).await.topics[0].error_code, 0);
}

/// Produces and asserts that it is soon acknowledged.
async fn is_soon_acknowledged(io: &Io, client: &mut Client, partition: i32, value_bytes: usize, who: &str) {
    let began = io.now();
    let response = client.ask(&produce(partition, value_bytes), 12).await;
    assert_eq!(response.responses[0].partition_responses[0].error_code, ErrorCode::None.code());
    let took = io.now().since(began);
    assert!(took <= SOON, "{who}: {value_bytes} bytes took {took:?}");
}

/// Announces a Produce of that size, sends it at that rate, and begins anew when it is done or cut off.
async fn upload_slowly(io: Io, address: SocketAddr, size: usize, bytes_per_second: usize) {
    let step = Duration::from_millis(250);
    loop {
        let client = Client::connect(&io, address, "slow").await;
        let prefix = i32::try_from(size).expect("a frame").to_be_bytes();
        let mut sent = client.try_send(vec![Bytes::copy_from_slice(&prefix)]).await;
        let mut left = size;
        while sent && left > 0 {
            io.sleep(step).await;
            let piece = left.min(bytes_per_second / 4);
            sent = client.try_send(vec![Bytes::from(vec![0; piece])]).await;
            left -= piece;
        }
    }
}

#[test]
fn requests_are_answered_beside_slow_uploads() {
    for seed in 0..3 {
        Bench::with_memory(seed, MEMORY, &[]).ask(|io, address| async move {
            let mut old = Client::connect(&io, address, "old").await;
            make_topic(&mut old, "t", 8).await;
            for number in 0..70 {
                let (size, rate) = match number % 7 {
                    0 => (20 << 20, 50_000),
                    1 | 2 => (60 << 10, 1_000 + 100 * number),
                    _ => (2 << 20, 25_000 + 300 * number),
                };
                io.spawn(Class::Foreground, upload_slowly(io.clone(), address, size, rate));
            }
            for round in 0..60 {
                io.sleep(Duration::from_millis(500)).await;
                let partition = round % 8;
                is_soon_acknowledged(&io, &mut old, partition, 100, "an old connection").await;
                let mut new = Client::connect(&io, address, "new").await;
                is_soon_acknowledged(&io, &mut new, partition, 100, "a new connection").await;
                is_soon_acknowledged(&io, &mut new, partition, 20_000, "a new connection").await;
                is_soon_acknowledged(&io, &mut new, partition, 500_000, "a new connection").await;
            }
        });
    }
}

#[test]
fn who_is_not_slow_is_served_however_many_there_are() {
    for seed in 0..3 {
        Bench::with_memory(seed, MEMORY, &[]).ask(|io, address| async move {
            let mut client = Client::connect(&io, address, "test").await;
            make_topic(&mut client, "t", 8).await;
            const CLIENTS: i32 = 40;
            let served = Rc::new(Cell::new(0));
            for number in 0..CLIENTS {
                let (of_task, served) = (io.clone(), served.clone());
                io.spawn(Class::Foreground, async move {
                    let mut client = Client::connect(&of_task, address, "fast").await;
                    for _ in 0..3 {
                        let response = client.ask(&produce(number % 8, 1_000_000), 12).await;
                        assert_eq!(response.responses[0].partition_responses[0].error_code, 0);
                    }
                    served.set(served.get() + 1);
                });
            }
            while served.get() < CLIENTS {
                io.sleep(Duration::from_millis(100)).await;
            }
        });
    }
}

/// Asks what each of so many partitions holds, and reads nothing of the answer before a while has passed.
async fn ask_much_and_read_late(io: Io, address: SocketAddr, answered: Rc<Cell<usize>>) {
    const NAMES: usize = 10_000;
    let mut client = Client::connect(&io, address, "late").await;
    let topic = MetadataRequestTopic { name: Some("t".into()), ..Default::default() };
    let request = MetadataRequest { topics: Some(vec![topic; NAMES]), ..Default::default() };
    let frame = client.frame(&request, 8);
    client.send(frame).await;
    io.sleep(Duration::from_secs(20)).await;
    let response = client.answer::<MetadataRequest<'_>>(client.sent, 8).await;
    assert_eq!(response.topics.len(), NAMES);
    assert!(response.topics.iter().all(|topic| topic.error_code == 0 && topic.partitions.len() == 8));
    answered.set(answered.get() + 1);
}

#[test]
fn large_answers_that_are_not_read_wait_and_hold_up_nobody_else() {
    const CLIENTS: usize = 16;
    Bench::with_memory(1, MEMORY, &[]).ask(|io, address| async move {
        let mut old = Client::connect(&io, address, "old").await;
        make_topic(&mut old, "t", 8).await;
        let answered = Rc::new(Cell::new(0));
        for _ in 0..CLIENTS {
            io.spawn(Class::Foreground, ask_much_and_read_late(io.clone(), address, answered.clone()));
        }
        for round in 0..30 {
            io.sleep(Duration::from_millis(500)).await;
            is_soon_acknowledged(&io, &mut old, round % 8, 100, "an old connection").await;
        }
        let deadline = io.now() + Duration::from_secs(60);
        while answered.get() < CLIENTS {
            assert!(io.now() < deadline, "{} are answered", answered.get());
            io.sleep(Duration::from_millis(100)).await;
        }
    });
}
