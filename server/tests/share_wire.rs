//! Share groups of a broker in simulation: what members are given, what becomes of what they acknowledge, and what
//! a loss of power leaves of it.

#[allow(dead_code, reason = "shared with other tests, which use more of it")]
mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use engine::controller::broker_configs::STANDARD_AUTHORIZER;
use engine::io::Io;
use engine::protocol::messages::add_partitions_to_txn::{AddPartitionsToTxnRequest, AddPartitionsToTxnTopic};
use engine::protocol::messages::alter_share_group_offsets::{
    AlterShareGroupOffsetsRequest, AlterShareGroupOffsetsRequestPartition, AlterShareGroupOffsetsRequestTopic,
};
use engine::protocol::messages::create_topics::{CreatableTopic, CreateTopicsRequest};
use engine::protocol::messages::delete_groups::DeleteGroupsRequest;
use engine::protocol::messages::delete_records::{DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic};
use engine::protocol::messages::delete_share_group_offsets::{
    DeleteShareGroupOffsetsRequest, DeleteShareGroupOffsetsRequestTopic,
};
use engine::protocol::messages::describe_groups::DescribeGroupsRequest;
use engine::protocol::messages::describe_share_group_offsets::{
    DescribeShareGroupOffsetsRequest, DescribeShareGroupOffsetsRequestGroup,
};
use engine::protocol::messages::end_txn::EndTxnRequest;
use engine::protocol::messages::find_coordinator::FindCoordinatorRequest;
use engine::protocol::messages::incremental_alter_configs::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
};
use engine::protocol::messages::init_producer_id::InitProducerIdRequest;
use engine::protocol::messages::join_group::{JoinGroupRequest, JoinGroupRequestProtocol};
use engine::protocol::messages::list_groups::ListGroupsRequest;
use engine::protocol::messages::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use engine::protocol::messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use engine::protocol::messages::read_share_group_state::{
    PartitionData as ReadPartition, ReadShareGroupStateRequest, ReadStateData,
};
use engine::protocol::messages::share_acknowledge::{self, ShareAcknowledgeRequest};
use engine::protocol::messages::share_fetch::{self, ShareFetchRequest};
use engine::protocol::messages::share_group_describe::ShareGroupDescribeRequest;
use engine::protocol::messages::share_group_heartbeat::ShareGroupHeartbeatRequest;
use engine::protocol::messages::update_features::{FeatureUpdateKey, UpdateFeaturesRequest};
use engine::protocol::{ErrorCode as E, Records, Uuid};
use engine::record::BatchBuilder;

use support::{Bench, Client};

const ACCEPT: i8 = 1;
const RELEASE: i8 = 2;
const REJECT: i8 = 3;

async fn enable(client: &mut Client) {
    let update = FeatureUpdateKey {
        feature: "share.version".into(),
        max_version_level: 1,
        allow_downgrade: false,
        upgrade_type: 1,
    };
    let request = UpdateFeaturesRequest { feature_updates: vec![update], ..Default::default() };
    assert_eq!(client.ask(&request, 2).await.error_code, 0);
}

/// Makes the topic that groups are kept in.
async fn find_coordinator(client: &mut Client) {
    let request = FindCoordinatorRequest { coordinator_keys: vec!["g".into()], ..Default::default() };
    assert_eq!(client.ask(&request, 4).await.coordinators[0].error_code, 0);
}

async fn make_topic(client: &mut Client, name: &str, partitions: i32) -> Uuid {
    let topic =
        CreatableTopic { name: name.into(), num_partitions: partitions, replication_factor: 1, ..Default::default() };
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 1000, validate_only: false };
    let created = client.ask(&request, 7).await;
    assert_eq!(created.topics[0].error_code, 0);
    created.topics[0].topic_id
}

async fn configure(client: &mut Client, settings: &[(&str, &str)]) {
    let configs = settings.iter().map(|(name, value)| AlterableConfig {
        name: (*name).into(),
        config_operation: 0,
        value: Some((*value).into()),
    });
    let resource = AlterConfigsResource { resource_type: 32, resource_name: "g".into(), configs: configs.collect() };
    let request = IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false };
    assert_eq!(client.ask(&request, 1).await.responses[0].error_code, 0);
}

async fn append(client: &mut Client, topic: &str, partition: i32, batch: Vec<u8>, transactional: bool) {
    let records = Some(Records::Chunks(vec![batch.into()]));
    let data = TopicProduceData {
        name: topic.into(),
        partition_data: vec![PartitionProduceData { index: partition, records }],
        ..Default::default()
    };
    let request = ProduceRequest {
        acks: -1,
        timeout_ms: 10_000,
        transactional_id: transactional.then(|| "x".into()),
        topic_data: vec![data],
    };
    assert_eq!(client.ask(&request, 11).await.responses[0].partition_responses[0].error_code, 0);
}

fn batch(records: usize) -> BatchBuilder {
    let mut builder = BatchBuilder::new();
    (0..records).for_each(|_| builder.append(-1, None, Some(b"value"), &[]));
    builder
}

async fn produce(client: &mut Client, topic: &str, partition: i32, records: usize) {
    append(client, topic, partition, batch(records).finish(), false).await;
}

/// Partition, first offset, last offset, deliveries.
type Run = (i32, i64, i64, i16);

/// A member over a connection of its own.
struct Member {
    client: Client,
    io: Io,
    id: String,
    epoch: i32,
    session: i32,
    topic: Uuid,
}

impl Member {
    async fn connect(io: &Io, address: SocketAddr, number: u8, topic: Uuid) -> Member {
        let client = Client::connect(io, address, "member").await;
        Member { client, io: io.clone(), id: Uuid([number; 16]).to_string(), epoch: 0, session: 0, topic }
    }

    /// Joins and waits for partitions.
    async fn join(io: &Io, address: SocketAddr, number: u8, topic: Uuid) -> Member {
        let mut member = Member::connect(io, address, number, topic).await;
        for _ in 0..100 {
            if member.heartbeat().await > 0 {
                return member;
            }
            io.sleep(Duration::from_millis(100)).await;
        }
        panic!("the member gets no partitions");
    }

    /// Says that it lives; gives the number of its partitions if it is told.
    async fn heartbeat(&mut self) -> usize {
        let request = ShareGroupHeartbeatRequest {
            group_id: "g".into(),
            member_id: self.id.clone().into(),
            member_epoch: self.epoch,
            rack_id: None,
            subscribed_topic_names: (self.epoch == 0).then(|| vec!["t".into()]),
        };
        let answer = self.client.ask(&request, 1).await;
        let error = E::from_code(answer.error_code).expect("a code of Kafka's");
        assert!(error == E::None || error.retriable(), "{error:?} {:?}", answer.error_message);
        if error != E::None {
            return 0;
        }
        self.epoch = answer.member_epoch;
        let partitions = answer.assignment.iter().flat_map(|assignment| &assignment.topic_partitions);
        partitions.map(|topic| topic.partitions.len()).sum()
    }

    async fn leave(&mut self) {
        self.epoch = -1;
        let request = ShareGroupHeartbeatRequest {
            group_id: "g".into(),
            member_id: self.id.clone().into(),
            member_epoch: -1,
            ..Default::default()
        };
        assert_eq!(self.client.ask(&request, 1).await.error_code, 0);
    }

    fn fetch_request(&self, partitions: &[i32], max_wait_ms: i32) -> ShareFetchRequest<'static> {
        let partition = |index: &i32| share_fetch::FetchPartition { partition_index: *index, ..Default::default() };
        let topic =
            share_fetch::FetchTopic { topic_id: self.topic, partitions: partitions.iter().map(partition).collect() };
        ShareFetchRequest {
            group_id: Some("g".into()),
            member_id: Some(self.id.clone().into()),
            share_session_epoch: self.session,
            max_wait_ms,
            min_bytes: 1,
            max_bytes: 1 << 20,
            max_records: 500,
            batch_size: 500,
            topics: if partitions.is_empty() { Vec::new() } else { vec![topic] },
            forgotten_topics_data: Vec::new(),
        }
    }

    async fn ask_fetch(&mut self, request: ShareFetchRequest<'static>) -> Result<Vec<Run>, E> {
        let answer = self.client.ask(&request, 1).await;
        if answer.error_code != 0 {
            return Err(E::from_code(answer.error_code).expect("a code of Kafka's"));
        }
        if self.session >= 0 {
            self.session += 1;
        }
        let mut runs = Vec::new();
        for part in answer.responses.iter().flat_map(|topic| &topic.partitions) {
            let error = E::from_code(part.error_code).expect("a code of Kafka's");
            assert!(error == E::None || error.retriable(), "{error:?}");
            assert_eq!(part.acknowledge_error_code, 0);
            assert_eq!(part.records.is_empty(), part.acquired_records.is_empty());
            let run = |run: &share_fetch::AcquiredRecords| {
                (part.partition_index, run.first_offset, run.last_offset, run.delivery_count)
            };
            runs.extend(part.acquired_records.iter().map(run));
        }
        Ok(runs)
    }

    /// Fetches from what it fetches from already, and from these.
    async fn fetch(&mut self, partitions: &[i32], max_wait_ms: i32) -> Vec<Run> {
        let request = self.fetch_request(partitions, max_wait_ms);
        self.ask_fetch(request).await.expect("the session is right")
    }

    async fn acknowledge(&mut self, partition: i32, first: i64, last: i64, kinds: &[i8]) -> E {
        let batch = share_acknowledge::AcknowledgementBatch {
            first_offset: first,
            last_offset: last,
            acknowledge_types: kinds.to_vec(),
        };
        let part = share_acknowledge::AcknowledgePartition {
            partition_index: partition,
            acknowledgement_batches: vec![batch],
        };
        let topic = share_acknowledge::AcknowledgeTopic { topic_id: self.topic, partitions: vec![part] };
        let request = ShareAcknowledgeRequest {
            group_id: Some("g".into()),
            member_id: Some(self.id.clone().into()),
            share_session_epoch: self.session,
            topics: vec![topic],
        };
        let answer = self.client.ask(&request, 1).await;
        assert_eq!(answer.error_code, 0);
        self.session += 1;
        E::from_code(answer.responses[0].partitions[0].error_code).expect("a code of Kafka's")
    }

    /// Fetches until it has got so many records.
    async fn fetch_all(&mut self, partitions: &[i32], records: i64) -> Vec<Run> {
        let mut runs = self.fetch(partitions, 500).await;
        for _ in 0..100 {
            if runs.iter().map(|(_, first, last, _)| last - first + 1).sum::<i64>() >= records {
                runs.sort_unstable();
                return runs;
            }
            runs.extend(self.fetch(&[], 500).await);
            self.io.sleep(Duration::from_millis(10)).await;
        }
        panic!("only {runs:?} come");
    }
}

const EARLIEST: (&str, &str) = ("share.auto.offset.reset", "earliest");

/// A broker with share groups, and a topic of so many partitions with so many records each.
fn bench(seed: u64, partitions: i32, records: usize, settings: &'static [(&str, &str)]) -> (Bench, Uuid) {
    bench_with(seed, partitions, records, settings, &[])
}

/// The same with these settings of the broker.
fn bench_with(
    seed: u64,
    partitions: i32,
    records: usize,
    settings: &'static [(&str, &str)],
    configs: &[(&str, &str)],
) -> (Bench, Uuid) {
    let configs = [&[("group.share.min.record.lock.duration.ms", "1000")][..], configs].concat();
    let bench = Bench::new(seed, &configs);
    let topic = bench.ask(move |io, address| async move {
        let mut client = Client::connect(&io, address, "c").await;
        enable(&mut client).await;
        find_coordinator(&mut client).await;
        configure(&mut client, settings).await;
        let topic = make_topic(&mut client, "t", partitions).await;
        for partition in 0..partitions {
            if records > 0 {
                produce(&mut client, "t", partition, records).await;
            }
        }
        topic
    });
    (bench, topic)
}

#[test]
fn there_are_no_share_groups_before_they_are_finalised() {
    Bench::new(1, &[]).ask(|io, address| async move {
        let mut client = Client::connect(&io, address, "c").await;
        let unsupported = E::UnsupportedVersion.code();
        let heartbeat = ShareGroupHeartbeatRequest {
            group_id: "g".into(),
            member_id: "m".into(),
            subscribed_topic_names: Some(vec!["t".into()]),
            ..Default::default()
        };
        assert_eq!(client.ask(&heartbeat, 1).await.error_code, unsupported);
        let describe = ShareGroupDescribeRequest { group_ids: vec!["g".into()], ..Default::default() };
        assert_eq!(client.ask(&describe, 1).await.groups[0].error_code, unsupported);
        let fetch = ShareFetchRequest { group_id: Some("g".into()), ..Default::default() };
        assert_eq!(client.ask(&fetch, 1).await.error_code, unsupported);
        let acknowledge = ShareAcknowledgeRequest { group_id: Some("g".into()), ..Default::default() };
        assert_eq!(client.ask(&acknowledge, 1).await.error_code, unsupported);
        let group = DescribeShareGroupOffsetsRequestGroup { group_id: "g".into(), topics: None };
        let offsets = DescribeShareGroupOffsetsRequest { groups: vec![group] };
        assert_eq!(client.ask(&offsets, 0).await.groups[0].error_code, unsupported);
        let alter = AlterShareGroupOffsetsRequest { group_id: "g".into(), ..Default::default() };
        assert_eq!(client.ask(&alter, 0).await.error_code, unsupported);
        let delete = DeleteShareGroupOffsetsRequest { group_id: "g".into(), ..Default::default() };
        assert_eq!(client.ask(&delete, 0).await.error_code, unsupported);
        enable(&mut client).await;
        find_coordinator(&mut client).await;
        let invalid = ShareGroupHeartbeatRequest { subscribed_topic_names: None, ..heartbeat.clone() };
        let loading = E::CoordinatorLoadInProgress.code();
        let mut refused = client.ask(&invalid, 1).await;
        while refused.error_code == loading {
            io.sleep(Duration::from_millis(50)).await;
            refused = client.ask(&invalid, 1).await;
        }
        assert_eq!(refused.error_code, E::InvalidRequest.code());
        // The share coordinators are told of the topic first; here there is none.
        let joined = client.ask(&heartbeat, 1).await;
        assert_eq!((joined.error_code, joined.member_epoch), (0, 1));
        assert!(joined.assignment.expect("an answer to a join has one").topic_partitions.is_empty());
    });
}

#[test]
fn what_is_acknowledged_is_so_after_a_loss_of_power_and_the_rest_comes_again() {
    for seed in 0..6 {
        let (bench, topic) = bench(seed, 2, 10, &[EARLIEST]);
        bench.ask(move |io, address| async move {
            let mut member = Member::join(&io, address, 1, topic).await;
            assert_eq!(member.fetch_all(&[0, 1], 20).await, [(0, 0, 9, 1), (1, 0, 9, 1)]);
            assert_eq!(member.acknowledge(0, 0, 4, &[ACCEPT]).await, E::None);
            assert_eq!(member.acknowledge(0, 5, 7, &[RELEASE, REJECT, ACCEPT]).await, E::None);
            assert_eq!(member.acknowledge(1, 3, 3, &[ACCEPT]).await, E::None);
            assert_eq!(member.acknowledge(1, 3, 3, &[ACCEPT]).await, E::InvalidRecordState);
            assert_eq!(member.acknowledge(1, 9, 10, &[ACCEPT]).await, E::InvalidRequest);
        });
        bench.lose_power();
        bench.ask(move |io, address| async move {
            // The group remembers its member, and this one is another.
            let mut member = Member::join(&io, address, 2, topic).await;
            let again = member.fetch_all(&[0, 1], 12).await;
            assert_eq!(again, [(0, 5, 5, 2), (0, 8, 9, 1), (1, 0, 2, 1), (1, 4, 9, 1)], "seed {seed}");
        });
    }
}

#[test]
fn the_recorded_states_stay_short_and_lose_nothing_over_losses_of_power() {
    let configs = [
        ("share.coordinator.state.topic.num.partitions", "1"),
        ("share.coordinator.state.topic.prune.interval.ms", "5000"),
        ("share.coordinator.cold.partition.snapshot.interval.ms", "5000"),
        ("share.coordinator.snapshot.update.records.per.snapshot", "5"),
    ];
    let (bench, topic) = bench_with(21, 2, 60, &[EARLIEST, ("share.session.timeout.ms", "45000")], &configs);
    // Partition 1 is begun and then left alone.
    for round in 0..3 {
        bench.ask(move |io, address| async move {
            let mut member = Member::join(&io, address, round, topic).await;
            let first = 20 * i64::from(round);
            member.fetch_all(&[0], 60 - first).await;
            for at in first..first + 20 {
                assert_eq!(member.acknowledge(0, at, at, &[ACCEPT]).await, E::None);
            }
        });
        bench.run_for(Duration::from_secs(16));
        bench.ask(move |io, address| async move {
            let mut client = Client::connect(&io, address, "c").await;
            let (start, end) = bounds(&mut client, "__share_group_state").await;
            assert!(start > 10 * i64::from(round) && end - start <= 12, "round {round}: {start} to {end}");
        });
        bench.lose_power();
    }
    bench.ask(move |io, address| async move {
        let mut member = Member::join(&io, address, 9, topic).await;
        assert_eq!(member.fetch_all(&[0, 1], 60).await, [(1, 0, 59, 1)]);
        member.leave().await;
        // Those of before end by their sessions.
        io.sleep(Duration::from_secs(50)).await;
        let mut client = Client::connect(&io, address, "c").await;
        let remove = DeleteGroupsRequest { groups_names: vec!["g".into()] };
        assert_eq!(client.ask(&remove, 2).await.results[0].error_code, 0);
        io.sleep(Duration::from_secs(11)).await;
        let (start, end) = bounds(&mut client, "__share_group_state").await;
        assert_eq!(start, end, "nothing is left of a group that is gone");
    });
}

/// The first offset of a topic's only partition, and its end.
async fn bounds(client: &mut Client, name: &'static str) -> (i64, i64) {
    let mut offsets = Vec::new();
    for timestamp in [-2, -1] {
        let partition = ListOffsetsPartition { timestamp, ..Default::default() };
        let topic = ListOffsetsTopic { name: name.into(), partitions: vec![partition] };
        let request = ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..Default::default() };
        offsets.push(client.ask(&request, 7).await.topics[0].partitions[0].offset);
    }
    (offsets[0], offsets[1])
}

#[test]
fn members_share_a_partition_and_a_lost_connection_gives_all_back() {
    let (bench, topic) = bench(11, 1, 0, &[EARLIEST]);
    bench.ask(move |io, address| async move {
        let mut producer = Client::connect(&io, address, "p").await;
        let mut first = Member::join(&io, address, 1, topic).await;
        let mut second = Member::join(&io, address, 2, topic).await;
        produce(&mut producer, "t", 0, 5).await;
        assert_eq!(first.fetch_all(&[0], 5).await, [(0, 0, 4, 1)]);
        // A waiting fetch is answered when there is something, and not before.
        let began = io.now();
        let waiting = second.fetch(&[0], 10_000);
        let producing = async {
            io.sleep(Duration::from_secs(2)).await;
            produce(&mut producer, "t", 0, 5).await;
        };
        let (got, ()) = futures_lite::future::zip(waiting, producing).await;
        assert_eq!(got, [(0, 5, 9, 1)]);
        let waited = io.now().since(began);
        assert!(waited >= Duration::from_secs(2) && waited < Duration::from_secs(5), "{waited:?}");
        assert_eq!(second.acknowledge(0, 0, 4, &[ACCEPT]).await, E::InvalidRecordState, "they are the other's");
        drop(first);
        // As if the first had never had them.
        assert_eq!(second.fetch_all(&[], 5).await, [(0, 0, 4, 1)]);
        assert_eq!(second.acknowledge(0, 0, 9, &[ACCEPT]).await, E::None);
        assert_eq!(second.fetch(&[], 0).await, []);
    });
}

#[test]
fn sessions_have_epochs_and_end_with_what_they_hold() {
    let (bench, topic) = bench(12, 1, 4, &[EARLIEST]);
    bench.ask(move |io, address| async move {
        let mut member = Member::join(&io, address, 1, topic).await;
        member.session = 1;
        let early = member.fetch_request(&[0], 0);
        assert_eq!(member.ask_fetch(early.clone()).await, Err(E::ShareSessionNotFound));
        member.session = 0;
        assert_eq!(member.fetch_all(&[0], 4).await, [(0, 0, 3, 1)]);
        let repeated = ShareFetchRequest { share_session_epoch: 7, ..early.clone() };
        assert_eq!(member.ask_fetch(repeated).await, Err(E::InvalidShareSessionEpoch));
        let nobody = ShareFetchRequest { member_id: Some("nobody".into()), ..early.clone() };
        assert_eq!(member.ask_fetch(nobody).await, Err(E::UnknownServerError));
        // Some clients write their 16 bytes in base64's standard alphabet.
        for id in ["+/+/+/+/+/+/+/+/+/+/+w", "////////////////////+A=="] {
            let member_id = Some(id.into());
            let other = ShareFetchRequest { member_id, share_session_epoch: 0, topics: Vec::new(), ..early.clone() };
            assert!(member.ask_fetch(other).await.is_ok(), "{id} is as good as another");
            let acknowledge = ShareAcknowledgeRequest {
                group_id: Some("g".into()),
                member_id: Some(id.into()),
                share_session_epoch: 1,
                ..Default::default()
            };
            assert_eq!(member.client.ask(&acknowledge, 1).await.error_code, 0, "{id} has a session");
        }
        // The last request acknowledges some of what the member has; the rest is free again.
        let mut last = ShareFetchRequest { share_session_epoch: -1, ..early };
        last.topics[0].partitions[0].acknowledgement_batches = vec![share_fetch::AcknowledgementBatch {
            first_offset: 0,
            last_offset: 1,
            acknowledge_types: vec![ACCEPT],
        }];
        assert_eq!(member.ask_fetch(last.clone()).await, Ok(vec![]));
        assert_eq!(member.ask_fetch(last).await, Err(E::ShareSessionNotFound));
        member.session = 0;
        assert_eq!(member.fetch_all(&[0], 2).await, [(0, 2, 2, 1), (0, 3, 3, 1)], "what was cut comes one by one");
    });
}

#[test]
fn locks_end_and_records_are_given_up_after_the_last_delivery() {
    const SHORT: &[(&str, &str)] = &[EARLIEST, ("share.record.lock.duration.ms", "1000")];
    let (bench, topic) = bench(13, 1, 3, SHORT);
    bench.ask(move |io, address| async move {
        let mut member = Member::join(&io, address, 1, topic).await;
        let mut partitions = &[0][..];
        for delivery in 1..=5 {
            let began = io.now();
            assert_eq!(member.fetch_all(partitions, 3).await, [(0, 0, 2, delivery)]);
            let waited = io.now().since(began);
            assert!(delivery == 1 || waited >= Duration::from_millis(900), "{waited:?}");
            partitions = &[];
        }
        assert_eq!(member.fetch(&[], 3000).await, [], "five deliveries are all there are");
        let mut producer = Client::connect(&io, address, "p").await;
        produce(&mut producer, "t", 0, 1).await;
        assert_eq!(member.fetch_all(&[], 1).await, [(0, 3, 3, 1)]);
    });
}

#[test]
fn a_log_that_begins_later_takes_its_records_from_the_members() {
    let (bench, topic) = bench(14, 1, 5, &[EARLIEST]);
    bench.ask(move |io, address| async move {
        let mut client = Client::connect(&io, address, "c").await;
        let mut member = Member::join(&io, address, 1, topic).await;
        produce(&mut client, "t", 0, 5).await;
        let partitions = vec![DeleteRecordsPartition { partition_index: 0, offset: 5 }];
        let topics = vec![DeleteRecordsTopic { name: "t".into(), partitions }];
        let deleted = client.ask(&DeleteRecordsRequest { topics, timeout_ms: 1000 }, 2).await;
        assert_eq!(deleted.topics[0].partitions[0].error_code, 0);
        assert_eq!(member.fetch_all(&[0], 5).await, [(0, 5, 9, 1)]);
    });
}

#[test]
fn aborted_records_are_kept_from_groups_that_read_what_is_committed() {
    const COMMITTED: &[(&str, &str)] = &[EARLIEST, ("share.isolation.level", "read_committed")];
    let (bench, topic) = bench(15, 1, 2, COMMITTED);
    bench.ask(move |io, address| async move {
        let mut client = Client::connect(&io, address, "c").await;
        let init = InitProducerIdRequest {
            transactional_id: Some("x".into()),
            transaction_timeout_ms: 10_000,
            producer_id: -1,
            producer_epoch: -1,
        };
        let find = FindCoordinatorRequest { key_type: 1, coordinator_keys: vec!["x".into()], ..Default::default() };
        assert_eq!(client.ask(&find, 4).await.coordinators[0].error_code, 0);
        let mut producer = client.ask(&init, 4).await;
        while producer.error_code != 0 {
            io.sleep(Duration::from_millis(50)).await;
            producer = client.ask(&init, 4).await;
        }
        let (id, epoch) = (producer.producer_id, producer.producer_epoch);
        let mut sequence = 0;
        for committed in [false, true] {
            let topic = AddPartitionsToTxnTopic { name: "t".into(), partitions: vec![0] };
            let add = AddPartitionsToTxnRequest {
                v3_and_below_transactional_id: "x".into(),
                v3_and_below_producer_id: id,
                v3_and_below_producer_epoch: epoch,
                v3_and_below_topics: vec![topic],
                ..Default::default()
            };
            loop {
                let added = client.ask(&add, 3).await;
                match added.results_by_topic_v3_and_below[0].results_by_partition[0].partition_error_code {
                    0 => break,
                    _ => io.sleep(Duration::from_millis(50)).await,
                }
            }
            let batch = batch(3).producer(id, epoch, sequence).transactional(true).finish();
            sequence += 3;
            append(&mut client, "t", 0, batch, true).await;
            let end = EndTxnRequest { transactional_id: "x".into(), producer_id: id, producer_epoch: epoch, committed };
            assert_eq!(client.ask(&end, 4).await.error_code, 0);
        }
        let mut member = Member::join(&io, address, 1, topic).await;
        // 2 to 4 were aborted, 5 and 9 are the markers.
        let got = member.fetch_all(&[0], 7).await;
        let offsets: BTreeSet<i64> = got.iter().flat_map(|(_, first, last, _)| *first..=*last).collect();
        assert_eq!(offsets, [0, 1, 5, 6, 7, 8, 9].into(), "{got:?}");
    });
}

async fn start_offsets(client: &mut Client) -> Vec<(i32, i64)> {
    let group = DescribeShareGroupOffsetsRequestGroup { group_id: "g".into(), topics: None };
    let answer = client.ask(&DescribeShareGroupOffsetsRequest { groups: vec![group] }, 0).await;
    let group = &answer.groups[0];
    assert_eq!(group.error_code, 0);
    let partitions = group.topics.iter().flat_map(|topic| &topic.partitions);
    let mut offsets: Vec<_> = partitions.map(|part| (part.partition_index, part.start_offset)).collect();
    offsets.sort_unstable();
    offsets
}

#[test]
fn offsets_are_described_altered_and_deleted_and_so_is_the_group() {
    let (bench, topic) = bench(16, 2, 10, &[EARLIEST]);
    bench.ask(move |io, address| async move {
        let mut client = Client::connect(&io, address, "c").await;
        let mut member = Member::join(&io, address, 1, topic).await;
        member.fetch_all(&[0, 1], 20).await;
        assert_eq!(member.acknowledge(0, 0, 4, &[ACCEPT]).await, E::None);
        assert_eq!(member.acknowledge(0, 5, 5, &[ACCEPT]).await, E::None);
        let alter = |partition_index, start_offset| {
            let partition = AlterShareGroupOffsetsRequestPartition { partition_index, start_offset };
            let topic = AlterShareGroupOffsetsRequestTopic { topic_name: "t".into(), partitions: vec![partition] };
            AlterShareGroupOffsetsRequest { group_id: "g".into(), topics: vec![topic] }
        };
        let delete = DeleteShareGroupOffsetsRequest {
            group_id: "g".into(),
            topics: vec![DeleteShareGroupOffsetsRequestTopic { topic_name: "t".into() }],
        };
        let remove = DeleteGroupsRequest { groups_names: vec!["g".into()] };
        let not_empty = E::NonEmptyGroup.code();
        assert_eq!(client.ask(&alter(0, 2), 0).await.error_code, not_empty);
        assert_eq!(client.ask(&delete, 0).await.error_code, not_empty);
        assert_eq!(client.ask(&remove, 2).await.results[0].error_code, not_empty);
        member.leave().await;
        drop(member);
        assert_eq!(start_offsets(&mut client).await[0].0, 0);
        let altered = client.ask(&alter(0, 2), 0).await;
        assert_eq!((altered.error_code, altered.responses[0].partitions[0].error_code), (0, 0));
        let unknown = client.ask(&alter(7, 2), 0).await;
        assert_eq!(unknown.responses[0].partitions[0].error_code, E::UnknownTopicOrPartition.code());
        assert_eq!(start_offsets(&mut client).await[0], (0, 2));
        let mut member = Member::join(&io, address, 2, topic).await;
        assert_eq!(member.fetch_all(&[0], 8).await, [(0, 2, 9, 1)]);
        member.leave().await;
        drop(member);
        let deleted = client.ask(&delete, 0).await;
        assert_eq!((deleted.error_code, deleted.responses[0].error_code), (0, 0));
        let again = client.ask(&delete, 0).await;
        assert_eq!(again.responses[0].error_code, E::UnknownTopicOrPartition.code());
        assert_eq!(start_offsets(&mut client).await, []);
        let mut member = Member::join(&io, address, 3, topic).await;
        assert_eq!(member.fetch_all(&[1], 10).await, [(1, 0, 9, 1)], "it begins anew");
        member.leave().await;
        assert_eq!(client.ask(&remove, 2).await.results[0].error_code, 0);
        assert_eq!(client.ask(&remove, 2).await.results[0].error_code, E::GroupIdNotFound.code());
        let key = |partition| ReadPartition { partition, leader_epoch: 0 };
        let read = ReadShareGroupStateRequest {
            group_id: "g".into(),
            topics: vec![ReadStateData { topic_id: topic, partitions: vec![key(0), key(1)] }],
        };
        let state = client.ask(&read, 0).await;
        assert!(state.results[0].partitions.iter().all(|part| part.error_code == E::InvalidRequest.code()));
    });
}

#[test]
fn offsets_of_groups_and_topics_that_are_not_there_are_refused() {
    let (bench, topic) = bench(19, 2, 1, &[EARLIEST]);
    bench.ask(move |io, address| async move {
        let mut client = Client::connect(&io, address, "c").await;
        let mut member = Member::join(&io, address, 1, topic).await;
        member.leave().await;
        let delete = |group: &'static str, names: &[&'static str]| DeleteShareGroupOffsetsRequest {
            group_id: group.into(),
            topics: names
                .iter()
                .map(|name| DeleteShareGroupOffsetsRequestTopic { topic_name: (*name).into() })
                .collect(),
        };
        let refused = client.ask(&delete("", &["t"]), 0).await;
        let why = refused.error_message.as_deref();
        assert_eq!((refused.error_code, why), (E::InvalidGroupId.code(), Some("The group id is invalid.")));
        let unknown = E::GroupIdNotFound.code();
        assert_eq!(client.ask(&delete("other", &["t"]), 0).await.error_code, unknown);
        let partition = AlterShareGroupOffsetsRequestPartition { partition_index: 0, start_offset: 1 };
        let altered = AlterShareGroupOffsetsRequestTopic { topic_name: "t".into(), partitions: vec![partition] };
        let alter = AlterShareGroupOffsetsRequest { group_id: "other".into(), topics: vec![altered] };
        assert_eq!(client.ask(&alter, 0).await.error_code, unknown);
        for (group, error) in [("", E::InvalidGroupId), ("other", E::GroupIdNotFound)] {
            let describe = ShareGroupDescribeRequest { group_ids: vec![group.into()], ..Default::default() };
            assert_eq!(client.ask(&describe, 1).await.groups[0].error_code, error.code());
        }
        let deleted = client.ask(&delete("g", &["none", "t"]), 0).await;
        let told: Vec<_> = deleted.responses.iter().map(|topic| (&*topic.topic_name, topic.error_code)).collect();
        assert_eq!(told, [("t", 0), ("none", E::UnknownTopicOrPartition.code())]);
    });
}

#[test]
fn other_apis_know_share_groups_and_the_other_protocols_leave_them_alone() {
    let (bench, topic) = bench(17, 1, 0, &[]);
    bench.ask(move |io, address| async move {
        let mut client = Client::connect(&io, address, "c").await;
        let mut member = Member::join(&io, address, 1, topic).await;
        let listed =
            client.ask(&ListGroupsRequest { types_filter: vec!["Share".into()], ..Default::default() }, 5).await;
        let group = &listed.groups[0];
        let told = (&*group.group_id, &*group.group_state, &*group.group_type, &*group.protocol_type);
        assert_eq!(told, ("g", "Stable", "share", "share"));
        let classic = ListGroupsRequest { types_filter: vec!["classic".into()], ..Default::default() };
        assert!(client.ask(&classic, 5).await.groups.is_empty());
        let describe = DescribeGroupsRequest { groups: vec!["g".into()], ..Default::default() };
        assert_eq!(client.ask(&describe, 6).await.groups[0].error_code, E::GroupIdNotFound.code());
        let protocol = JoinGroupRequestProtocol { name: "range".into(), metadata: vec![1].into() };
        let join = JoinGroupRequest {
            group_id: "g".into(),
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: 10_000,
            protocol_type: "consumer".into(),
            protocols: vec![protocol],
            ..Default::default()
        };
        assert_eq!(client.ask(&join, 5).await.error_code, E::InconsistentGroupProtocol.code());
        let described =
            client.ask(&ShareGroupDescribeRequest { group_ids: vec!["g".into()], ..Default::default() }, 1).await;
        let group = &described.groups[0];
        assert_eq!((&*group.group_state, &*group.assignor_name, group.members.len()), ("Stable", "simple", 1));
        assert_eq!(group.members[0].assignment.topic_partitions[0].partitions, [0]);
        let key = |key: &str| FindCoordinatorRequest {
            key_type: 2,
            coordinator_keys: vec![key.to_owned().into()],
            ..Default::default()
        };
        let found = client.ask(&key(&format!("g:{topic}:0")), 6).await;
        assert_eq!(found.coordinators[0].error_code, 0);
        assert_eq!(client.ask(&key("g"), 6).await.coordinators[0].error_code, E::InvalidRequest.code());
        assert_eq!(
            client.ask(&key(&format!("g:{topic}:0")), 5).await.coordinators[0].error_code,
            E::InvalidRequest.code()
        );
        // A member that is silent for too long is out.
        assert_eq!(member.heartbeat().await, 0);
        io.sleep(Duration::from_secs(50)).await;
        let empty = ListGroupsRequest { states_filter: vec!["Empty".into()], ..Default::default() };
        assert_eq!(client.ask(&empty, 5).await.groups.len(), 1);
    });
}

#[test]
fn only_who_may_act_for_the_cluster_sees_states() {
    let configs = [("authorizer.class.name", STANDARD_AUTHORIZER), ("allow.everyone.if.no.acl.found", "false")];
    Bench::new(18, &configs).ask(|io, address| async move {
        let mut client = Client::connect(&io, address, "c").await;
        let denied = E::ClusterAuthorizationFailed.code();
        let key = FindCoordinatorRequest { key_type: 2, coordinator_keys: vec!["g:x:0".into()], ..Default::default() };
        assert_eq!(client.ask(&key, 6).await.coordinators[0].error_code, denied);
        let read = ReadShareGroupStateRequest {
            group_id: "g".into(),
            topics: vec![ReadStateData {
                topic_id: Uuid([1; 16]),
                partitions: vec![ReadPartition { partition: 0, leader_epoch: 0 }],
            }],
        };
        assert_eq!(client.ask(&read, 0).await.results[0].partitions[0].error_code, denied);
    });
}
