//! The admin APIs of a broker in simulation: what is answered, what survives a loss of power, what ACLs and
//! quotas do to clients.

#[allow(dead_code, reason = "shared with other tests, which use more of it")]
mod support;

use std::time::Duration;

use engine::controller::broker_configs::STANDARD_AUTHORIZER;
use engine::protocol::ErrorCode as E;
use engine::protocol::messages::add_offsets_to_txn::AddOffsetsToTxnRequest;
use engine::protocol::messages::add_partitions_to_txn::{AddPartitionsToTxnRequest, AddPartitionsToTxnTopic};
use engine::protocol::messages::add_raft_voter::AddRaftVoterRequest;
use engine::protocol::messages::alter_client_quotas::{
    AlterClientQuotasRequest, OpData, RequestEntityData, RequestEntryData,
};
use engine::protocol::messages::alter_partition_reassignments::{
    AlterPartitionReassignmentsRequest, ReassignablePartition, ReassignableTopic,
};
use engine::protocol::messages::alter_replica_log_dirs::{
    AlterReplicaLogDir, AlterReplicaLogDirTopic, AlterReplicaLogDirsRequest,
};
use engine::protocol::messages::alter_user_scram_credentials::{
    AlterUserScramCredentialsRequest, ScramCredentialUpsertion,
};
use engine::protocol::messages::api_versions::ApiVersionsRequest;
use engine::protocol::messages::consumer_group_describe::ConsumerGroupDescribeRequest;
use engine::protocol::messages::consumer_group_heartbeat::ConsumerGroupHeartbeatRequest;
use engine::protocol::messages::create_acls::{AclCreation, CreateAclsRequest};
use engine::protocol::messages::create_delegation_token::CreateDelegationTokenRequest;
use engine::protocol::messages::create_partitions::{CreatePartitionsRequest, CreatePartitionsTopic};
use engine::protocol::messages::create_topics::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest};
use engine::protocol::messages::delete_acls::{DeleteAclsFilter, DeleteAclsRequest};
use engine::protocol::messages::delete_groups::DeleteGroupsRequest;
use engine::protocol::messages::delete_records::{DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic};
use engine::protocol::messages::delete_topics::{DeleteTopicState, DeleteTopicsRequest};
use engine::protocol::messages::describe_acls::DescribeAclsRequest;
use engine::protocol::messages::describe_client_quotas::DescribeClientQuotasRequest;
use engine::protocol::messages::describe_cluster::DescribeClusterRequest;
use engine::protocol::messages::describe_configs::{DescribeConfigsRequest, DescribeConfigsResource};
use engine::protocol::messages::describe_groups::DescribeGroupsRequest;
use engine::protocol::messages::describe_log_dirs::DescribeLogDirsRequest;
use engine::protocol::messages::describe_producers::{DescribeProducersRequest, TopicRequest};
use engine::protocol::messages::describe_quorum::{
    DescribeQuorumRequest, RequestPartitionData as QuorumPartition, RequestTopicData as QuorumTopic,
};
use engine::protocol::messages::describe_topic_partitions::DescribeTopicPartitionsRequest;
use engine::protocol::messages::describe_transactions::DescribeTransactionsRequest;
use engine::protocol::messages::describe_user_scram_credentials::DescribeUserScramCredentialsRequest;
use engine::protocol::messages::elect_leaders::{ElectLeadersRequest, TopicPartitions};
use engine::protocol::messages::end_txn::EndTxnRequest;
use engine::protocol::messages::fetch::{FetchPartition, FetchRequest, FetchTopic};
use engine::protocol::messages::find_coordinator::FindCoordinatorRequest;
use engine::protocol::messages::heartbeat::HeartbeatRequest;
use engine::protocol::messages::incremental_alter_configs::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
};
use engine::protocol::messages::init_producer_id::InitProducerIdRequest;
use engine::protocol::messages::join_group::JoinGroupRequest;
use engine::protocol::messages::leave_group::LeaveGroupRequest;
use engine::protocol::messages::list_config_resources::ListConfigResourcesRequest;
use engine::protocol::messages::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use engine::protocol::messages::metadata::{MetadataRequest, MetadataRequestTopic};
use engine::protocol::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use engine::protocol::messages::offset_delete::OffsetDeleteRequest;
use engine::protocol::messages::offset_fetch::OffsetFetchRequest;
use engine::protocol::messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use engine::protocol::messages::remove_raft_voter::RemoveRaftVoterRequest;
use engine::protocol::messages::sasl_authenticate::SaslAuthenticateRequest;
use engine::protocol::messages::sync_group::SyncGroupRequest;
use engine::protocol::messages::unregister_broker::UnregisterBrokerRequest;
use engine::protocol::messages::update_features::{FeatureUpdateKey, UpdateFeaturesRequest};
use engine::protocol::{Blob, Records};
use engine::record::BatchBuilder;

use support::{Bench, Client};

fn topic(name: &str, partitions: i32) -> CreateTopicsRequest<'_> {
    let topic =
        CreatableTopic { name: name.into(), num_partitions: partitions, replication_factor: 1, ..Default::default() };
    CreateTopicsRequest { topics: vec![topic], timeout_ms: 1000, validate_only: false }
}

fn produce(name: &str, value_bytes: usize) -> ProduceRequest<'static> {
    let mut batch = BatchBuilder::new();
    batch.append(-1, None, Some(&vec![7; value_bytes]), &[]);
    let records = Some(Records::Chunks(vec![batch.finish().into()]));
    let topic = TopicProduceData {
        name: name.to_owned().into(),
        partition_data: vec![PartitionProduceData { index: 0, records }],
        ..Default::default()
    };
    ProduceRequest { acks: -1, timeout_ms: 10_000, topic_data: vec![topic], ..Default::default() }
}

fn fetch(name: &str, offset: i64) -> FetchRequest<'_> {
    let partition = FetchPartition { fetch_offset: offset, partition_max_bytes: 1 << 20, ..Default::default() };
    let topic = FetchTopic { topic: name.into(), partitions: vec![partition], ..Default::default() };
    FetchRequest { max_wait_ms: 0, min_bytes: 1, max_bytes: 1 << 20, topics: vec![topic], ..Default::default() }
}

fn delete_before(name: &str, offset: i64) -> DeleteRecordsRequest<'_> {
    let partitions = vec![DeleteRecordsPartition { partition_index: 0, offset }];
    DeleteRecordsRequest { topics: vec![DeleteRecordsTopic { name: name.into(), partitions }], timeout_ms: 10_000 }
}

fn earliest(name: &str) -> ListOffsetsRequest<'_> {
    let partition = ListOffsetsPartition { timestamp: -2, ..Default::default() };
    let topic = ListOffsetsTopic { name: name.into(), partitions: vec![partition] };
    ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..Default::default() }
}

async fn appended(client: &mut Client, name: &str, value_bytes: usize) -> (i16, i64) {
    let response = client.ask(&produce(name, value_bytes), 12).await;
    let partition = &response.responses[0].partition_responses[0];
    (partition.error_code, partition.base_offset)
}

async fn fetched(client: &mut Client, name: &str, offset: i64) -> i16 {
    client.ask(&fetch(name, offset), 12).await.responses[0].partitions[0].error_code
}

async fn deleted(client: &mut Client, name: &str, offset: i64) -> (i16, i64) {
    let response = client.ask(&delete_before(name, offset), 2).await;
    let partition = &response.topics[0].partitions[0];
    (partition.error_code, partition.low_watermark)
}

async fn first_offset(client: &mut Client, name: &str) -> i64 {
    client.ask(&earliest(name), 7).await.topics[0].partitions[0].offset
}

#[test]
fn deleted_records_stay_deleted_over_a_loss_of_power() {
    for seed in 0..5 {
        let bench = Bench::new(seed, &[]);
        bench.ask(|io, address| async move {
            let mut client = Client::connect(&io, address, "c").await;
            client.ask(&topic("t", 1), 7).await;
            for offset in 0..10 {
                assert_eq!(appended(&mut client, "t", 10).await, (0, offset));
            }
            assert_eq!(deleted(&mut client, "t", 11).await, (E::OffsetOutOfRange.code(), -1));
            assert_eq!(deleted(&mut client, "t", -2).await, (E::OffsetOutOfRange.code(), -1));
            assert_eq!(deleted(&mut client, "t", 4).await, (0, 4));
            assert_eq!(deleted(&mut client, "t", 3).await, (0, 4), "a start never goes back");
            assert_eq!(deleted(&mut client, "absent", 3).await, (E::UnknownTopicOrPartition.code(), -1));
            assert_eq!(fetched(&mut client, "t", 3).await, E::OffsetOutOfRange.code());
        });
        bench.lose_power();
        bench.ask(|io, address| async move {
            let mut client = Client::connect(&io, address, "c").await;
            assert_eq!(first_offset(&mut client, "t").await, 4);
            assert_eq!(fetched(&mut client, "t", 3).await, E::OffsetOutOfRange.code());
            assert_eq!(fetched(&mut client, "t", 4).await, 0);
            assert_eq!(deleted(&mut client, "t", -1).await, (0, 10));
        });
        bench.lose_power();
        bench.ask(|io, address| async move {
            let mut client = Client::connect(&io, address, "c").await;
            assert_eq!(first_offset(&mut client, "t").await, 10);
            assert_eq!(appended(&mut client, "t", 10).await, (0, 10), "the next offset is what it was");
        });
    }
}

#[test]
fn whole_segments_before_the_start_give_back_their_room() {
    let bench = Bench::new(10, &[]);
    bench.ask(|io, address| async move {
        let mut client = Client::connect(&io, address, "c").await;
        let mut request = topic("t", 1);
        let size = CreatableTopicConfig { name: "segment.bytes".into(), value: Some("1048576".into()) };
        request.topics[0].configs.push(size);
        client.ask(&request, 7).await;
        for offset in 0..4 {
            assert_eq!(appended(&mut client, "t", 900_000).await, (0, offset));
        }
        // Housekeeping drains them.
        io.sleep(Duration::from_secs(5)).await;
    });
    assert_eq!(bench.files(".log"), 4);
    bench.ask(|io, address| async move {
        let mut client = Client::connect(&io, address, "c").await;
        assert_eq!(deleted(&mut client, "t", 3).await, (0, 3));
        io.sleep(Duration::from_secs(5)).await;
        assert_eq!(fetched(&mut client, "t", 3).await, 0);
    });
    assert_eq!(bench.files(".log"), 1, "only the segment that holds offset 3 is left");
    bench.lose_power();
    bench.run_for(Duration::from_secs(2));
    bench.ask(|io, address| async move {
        let mut client = Client::connect(&io, address, "c").await;
        assert_eq!(first_offset(&mut client, "t").await, 3);
        assert_eq!(fetched(&mut client, "t", 3).await, 0);
        assert_eq!(appended(&mut client, "t", 1).await, (0, 4));
    });
}

#[test]
fn what_is_compacted_is_not_deleted() {
    Bench::new(1, &[]).ask(|io, address| async move {
        let mut client = Client::connect(&io, address, "c").await;
        let mut request = topic("t", 1);
        let policy = CreatableTopicConfig { name: "cleanup.policy".into(), value: Some("compact".into()) };
        request.topics[0].configs.push(policy);
        client.ask(&request, 7).await;
        assert_eq!(deleted(&mut client, "t", 0).await, (E::PolicyViolation.code(), -1));
        assert_eq!(deleted(&mut client, "__consumer_offsets", 0).await, (E::InvalidTopicException.code(), -1));
    });
}

#[test]
fn a_cluster_of_one_answers_as_kafka_does() {
    Bench::new(2, &[]).ask(|io, address| async move {
        let mut client = Client::connect(&io, address, "c").await;
        client.ask(&topic("t", 2), 7).await;
        appended(&mut client, "t", 1000).await;

        let dirs = client.ask(&DescribeLogDirsRequest { topics: None }, 4).await;
        let partitions = &dirs.results[0].topics[0].partitions;
        assert_eq!((dirs.results[0].topics[0].name.as_ref(), partitions.len()), ("t", 2));
        assert!(partitions[0].partition_size > 1000 && partitions[1].partition_size == 0);
        assert!(dirs.results[0].total_bytes >= dirs.results[0].usable_bytes);

        let elect = |topic: &'static str, partition| ElectLeadersRequest {
            topic_partitions: Some(vec![TopicPartitions { topic: topic.into(), partitions: vec![partition] }]),
            ..Default::default()
        };
        for (name, partition, error) in
            [("t", 0, E::ElectionNotNeeded), ("t", 9, E::UnknownTopicOrPartition), ("x", 0, E::UnknownTopicOrPartition)]
        {
            let elected = client.ask(&elect(name, partition), 2).await;
            let result = &elected.replica_election_results[0].partition_result[0];
            assert_eq!(result.error_code, error.code(), "{name}-{partition}");
        }
        let all = ElectLeadersRequest { topic_partitions: None, ..Default::default() };
        assert!(client.ask(&all, 2).await.replica_election_results.is_empty());

        let move_to = |replicas: Option<Vec<i32>>| AlterPartitionReassignmentsRequest {
            topics: vec![ReassignableTopic {
                name: "t".into(),
                partitions: vec![ReassignablePartition { partition_index: 0, replicas }],
            }],
            ..Default::default()
        };
        let cases = [
            (Some(vec![1]), E::None, None),
            (None, E::NoReassignmentInProgress, None),
            (
                Some(vec![9]),
                E::InvalidReplicaAssignment,
                Some("The manual partition assignment includes broker 9, but no such broker is registered."),
            ),
        ];
        for (replicas, error, message) in cases {
            let moved = client.ask(&move_to(replicas), 1).await;
            let result = &moved.responses[0].partitions[0];
            assert_eq!((result.error_code, result.error_message.as_deref()), (error.code(), message));
        }

        let dir = AlterReplicaLogDir {
            path: "/nope".into(),
            topics: vec![AlterReplicaLogDirTopic { name: "t".into(), partitions: vec![0] }],
        };
        let altered = client.ask(&AlterReplicaLogDirsRequest { dirs: vec![dir] }, 2).await;
        assert_eq!(altered.results[0].partitions[0].error_code, E::LogDirNotFound.code());

        let quorum = DescribeQuorumRequest {
            topics: vec![QuorumTopic {
                topic_name: "__cluster_metadata".into(),
                partitions: vec![QuorumPartition { partition_index: 0 }],
            }],
        };
        let quorum = client.ask(&quorum, 2).await;
        let partition = &quorum.topics[0].partitions[0];
        assert_eq!((partition.leader_id, partition.current_voters[0].replica_id), (1, 1));
        assert_eq!(partition.high_watermark, partition.current_voters[0].log_end_offset);

        let gone = client.ask(&UnregisterBrokerRequest { broker_id: 77 }, 0).await;
        assert_eq!(gone.error_code, E::BrokerIdNotRegistered.code());
        assert_eq!(gone.error_message.as_deref(), Some("Broker ID 77 is not currently registered"));
        let cluster = client.ask(&DescribeClusterRequest::default(), 0).await.cluster_id;
        for (cluster_id, voter_id, error) in [
            ("other", 1, E::InconsistentClusterId),
            (&*cluster, 1, E::DuplicateVoter),
            (&*cluster, 2, E::InvalidRequest),
        ] {
            let cluster_id = Some(cluster_id.into());
            let added = client.ask(&AddRaftVoterRequest { cluster_id, voter_id, ..Default::default() }, 0).await;
            assert_eq!(added.error_code, error.code(), "{voter_id}");
        }
        let removed =
            client.ask(&RemoveRaftVoterRequest { cluster_id: None, voter_id: 1, ..Default::default() }, 0).await;
        assert_eq!(removed.error_code, E::VoterNotFound.code());
        let sasl = client.ask(&SaslAuthenticateRequest::default(), 2).await;
        assert_eq!(sasl.error_code, E::IllegalSaslState.code());
        let token = client.ask(&CreateDelegationTokenRequest::default(), 3).await;
        assert_eq!(token.error_code, E::DelegationTokenRequestNotAllowed.code());
        let acls = client.ask(&any_acl(), 3).await;
        assert_eq!(acls.error_code, E::SecurityDisabled.code());
        let created = client.ask(&CreateAclsRequest { creations: vec![acl(2, "t", "User:x", 3, 3)] }, 3).await;
        assert_eq!(created.results[0].error_code, E::SecurityDisabled.code());

        let resources = client.ask(&ListConfigResourcesRequest::default(), 1).await;
        let kinds: Vec<_> = resources.config_resources.iter().map(|resource| resource.resource_type).collect();
        assert_eq!(kinds, [8, 4, 2]);
    });
}

fn feature(name: &'static str, max_version_level: i16, upgrade_type: i8) -> UpdateFeaturesRequest<'static> {
    let update = FeatureUpdateKey { feature: name.into(), max_version_level, allow_downgrade: false, upgrade_type };
    UpdateFeaturesRequest { feature_updates: vec![update], ..Default::default() }
}

#[test]
fn features_are_only_moved_where_this_build_can_go() {
    Bench::new(3, &[]).ask(|io, address| async move {
        let mut client = Client::connect(&io, address, "c").await;
        for (name, level, upgrade_type) in [("metadata.version", 28, 1), ("metadata.version", 26, 2), ("none", 1, 1)] {
            let updated = client.ask(&feature(name, level, upgrade_type), 2).await;
            assert_eq!(updated.error_code, E::InvalidUpdateVersion.code(), "{name} {level}");
            let told = client.ask(&feature(name, level, upgrade_type), 1).await;
            assert_eq!(told.results[0].error_code, E::InvalidUpdateVersion.code());
        }
        assert_eq!(client.ask(&feature("metadata.version", 27, 1), 2).await.error_code, 0);
        let versions = client.ask(&ApiVersionsRequest::default(), 0).await;
        assert_eq!(versions.api_keys.len(), corelog::dispatch::SERVED.len());
    });
}

fn set_for_broker(name: &'static str, value: &'static str) -> IncrementalAlterConfigsRequest<'static> {
    let config = AlterableConfig { name: name.into(), config_operation: 0, value: Some(value.into()) };
    let resource = AlterConfigsResource { resource_type: 4, resource_name: "1".into(), configs: vec![config] };
    IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false }
}

async fn set(client: &mut Client, name: &'static str, value: &'static str) -> i16 {
    client.ask(&set_for_broker(name, value), 1).await.responses[0].error_code
}

#[test]
fn what_groups_and_transactions_are_set_to_changes_only_by_a_restart() {
    Bench::new(21, &[("group.coordinator.rebalance.protocols", "classic")]).ask(|io, address| async move {
        let mut client = Client::connect(&io, address, "c").await;
        let unsupported = E::UnsupportedVersion.code();
        let live = ConsumerGroupHeartbeatRequest { group_id: "g".into(), ..Default::default() };
        assert_eq!(client.ask(&live, 1).await.error_code, unsupported);
        let describe = ConsumerGroupDescribeRequest { group_ids: vec!["g".into()], ..Default::default() };
        assert_eq!(client.ask(&describe, 1).await.groups[0].error_code, unsupported);

        let broker = DescribeConfigsResource { resource_type: 4, resource_name: "1".into(), configuration_keys: None };
        let shown = client.ask(&DescribeConfigsRequest { resources: vec![broker], ..Default::default() }, 4).await;
        let shown = &shown.results[0].configs;
        for (name, value) in [
            ("group.consumer.session.timeout.ms", "50000"),
            ("group.coordinator.rebalance.protocols", "classic,consumer"),
            ("group.coordinator.threads", "8"),
            ("group.share.max.size", "100"),
            ("offsets.retention.minutes", "5"),
            ("offsets.topic.replication.factor", "1"),
            ("share.coordinator.threads", "2"),
            ("transaction.max.timeout.ms", "60000"),
            ("transaction.state.log.min.isr", "1"),
            ("transactional.id.expiration.ms", "60000"),
        ] {
            let answer = client.ask(&set_for_broker(name, value), 1).await;
            let why = format!("Cannot update these configs dynamically: Set({name})");
            let answer = &answer.responses[0];
            assert_eq!((answer.error_code, answer.error_message.as_deref()), (E::InvalidRequest.code(), Some(&*why)));
            let shown = shown.iter().find(|config| config.name == name).expect("it is shown");
            assert!(shown.read_only, "{name}");
        }
        let internal = |name: &str| shown.iter().any(|config| config.name == name);
        assert!(!internal("share.coordinator.state.topic.prune.interval.ms"), "Kafka keeps it to itself");
    });
}

#[test]
fn partitions_of_transactions_are_verified_unless_that_is_turned_off() {
    Bench::new(22, &[]).ask(|io, address| async move {
        let mut client = Client::connect(&io, address, "c").await;
        client.ask(&topic("t", 1), 7).await;
        let init = InitProducerIdRequest {
            transactional_id: Some("x".into()),
            transaction_timeout_ms: 60_000,
            producer_id: -1,
            producer_epoch: -1,
        };
        let find = FindCoordinatorRequest { key_type: 1, coordinator_keys: vec!["x".into()], ..Default::default() };
        client.ask(&find, 4).await;
        let mut producer = client.ask(&init, 4).await;
        while producer.error_code == E::CoordinatorLoadInProgress.code() {
            io.sleep(Duration::from_millis(50)).await;
            producer = client.ask(&init, 4).await;
        }
        assert_eq!(producer.error_code, 0);
        let records = || {
            let id = (producer.producer_id, producer.producer_epoch);
            let mut batch = BatchBuilder::new().producer(id.0, id.1, 0).transactional(true);
            batch.append(-1, None, Some(b"value"), &[]);
            Some(Records::Chunks(vec![batch.finish().into()]))
        };
        let produce = || ProduceRequest {
            acks: -1,
            timeout_ms: 10_000,
            transactional_id: Some("x".into()),
            topic_data: vec![TopicProduceData {
                name: "t".into(),
                partition_data: vec![PartitionProduceData { index: 0, records: records() }],
                ..Default::default()
            }],
        };
        let refused = client.ask(&produce(), 11).await.responses[0].partition_responses[0].error_code;
        assert_eq!(refused, E::TransactionAbortable.code(), "it was not added to the transaction");
        let off = set_for_broker("transaction.partition.verification.enable", "false");
        assert_eq!(client.ask(&off, 1).await.responses[0].error_code, 0);
        assert_eq!(client.ask(&produce(), 11).await.responses[0].partition_responses[0].error_code, 0);
    });
}

/// A batch of a producer with no transaction.
fn produce_as(name: &str, producer_id: i64, sequence: i32) -> ProduceRequest<'static> {
    let mut batch = BatchBuilder::new().producer(producer_id, 0, sequence);
    batch.append(-1, None, Some(b"value"), &[]);
    let records = Some(Records::Chunks(vec![batch.finish().into()]));
    let partition_data = vec![PartitionProduceData { index: 0, records }];
    let topic = TopicProduceData { name: name.to_owned().into(), partition_data, ..Default::default() };
    ProduceRequest { acks: -1, timeout_ms: 10_000, topic_data: vec![topic], ..Default::default() }
}

async fn appended_as(client: &mut Client, producer_id: i64, sequence: i32) -> i16 {
    let response = client.ask(&produce_as("t", producer_id, sequence), 12).await;
    response.responses[0].partition_responses[0].error_code
}

async fn producers_of(client: &mut Client, name: &str) -> Vec<i64> {
    let topic = TopicRequest { name: name.into(), partition_indexes: vec![0] };
    let response = client.ask(&DescribeProducersRequest { topics: vec![topic] }, 0).await;
    response.topics[0].partitions[0].active_producers.iter().map(|producer| producer.producer_id).collect()
}

#[test]
fn a_silent_producer_is_forgotten_in_its_time() {
    Bench::new(31, &[("producer.id.expiration.ms", "60000")]).ask(|io, address| async move {
        let mut client = Client::connect(&io, address, "c").await;
        client.ask(&topic("t", 1), 7).await;
        assert_eq!(appended_as(&mut client, 7, 0).await, 0);
        for sequence in 0..5 {
            assert_eq!(appended_as(&mut client, 8, sequence).await, 0);
            assert_eq!(producers_of(&mut client, "t").await, [7, 8]);
            io.sleep(Duration::from_secs(10)).await;
        }
        assert_eq!(appended_as(&mut client, 7, 5).await, E::OutOfOrderSequenceNumber.code());
        io.sleep(Duration::from_secs(30)).await;
        assert_eq!(producers_of(&mut client, "t").await, [8], "it said something 40 s ago");
        assert_eq!(appended_as(&mut client, 8, 6).await, E::OutOfOrderSequenceNumber.code());
        assert_eq!(appended_as(&mut client, 7, 5).await, 0, "who is not known begins anywhere");
        assert_eq!(set(&mut client, "producer.id.expiration.ms", "600000").await, 0);
        io.sleep(Duration::from_secs(120)).await;
        assert_eq!(producers_of(&mut client, "t").await, [7, 8], "it may change while the broker runs");
    });
}

fn acl(kind: i8, name: &str, principal: &str, operation: i8, permission: i8) -> AclCreation<'static> {
    AclCreation {
        resource_type: kind,
        resource_name: name.to_owned().into(),
        resource_pattern_type: 3,
        principal: principal.to_owned().into(),
        host: "*".into(),
        operation,
        permission_type: permission,
    }
}

fn any_acl() -> DescribeAclsRequest<'static> {
    DescribeAclsRequest {
        resource_type_filter: 1,
        resource_name_filter: None,
        pattern_type_filter: 1,
        principal_filter: None,
        host_filter: None,
        operation: 1,
        permission_type: 1,
    }
}

fn quota(
    kind: &'static str,
    name: Option<&'static str>,
    key: &'static str,
    value: f64,
) -> AlterClientQuotasRequest<'static> {
    let entity = vec![RequestEntityData { entity_type: kind.into(), entity_name: name.map(Into::into) }];
    let ops = vec![OpData { key: key.into(), value, remove: false }];
    AlterClientQuotasRequest { entries: vec![RequestEntryData { entity, ops }], validate_only: false }
}

const OPEN: [(&str, &str); 2] =
    [("authorizer.class.name", STANDARD_AUTHORIZER), ("allow.everyone.if.no.acl.found", "true")];

#[test]
fn what_was_set_survives_a_loss_of_power() {
    let bench = Bench::new(4, &OPEN);
    bench.ask(|io, address| async move {
        let mut client = Client::connect(&io, address, "c").await;
        let creations =
            vec![acl(2, "t", "User:bob", 3, 3), acl(3, "g", "User:bob", 3, 3), acl(2, "", "User:bob", 3, 3)];
        let created = client.ask(&CreateAclsRequest { creations }, 3).await;
        let codes: Vec<_> = created.results.iter().map(|result| result.error_code).collect();
        assert_eq!(codes, [0, 0, E::InvalidRequest.code()]);
        let filter = DeleteAclsFilter {
            resource_type_filter: 3,
            resource_name_filter: Some("g".into()),
            pattern_type_filter: 3,
            principal_filter: None,
            host_filter: None,
            operation: 1,
            permission_type: 1,
        };
        let removed = client.ask(&DeleteAclsRequest { filters: vec![filter] }, 3).await;
        assert_eq!(removed.filter_results[0].matching_acls.len(), 1);

        let altered = client.ask(&quota("user", Some("alice"), "producer_byte_rate", 1024.0), 1).await;
        assert_eq!(altered.entries[0].error_code, 0);
        let altered = client.ask(&quota("user", Some("alice"), "producer_byte_rate", 0.5), 1).await;
        assert_eq!(altered.entries[0].error_code, E::InvalidRequest.code());

        let upsertion = ScramCredentialUpsertion {
            name: "alice".into(),
            mechanism: 1,
            iterations: 4096,
            salt: Blob::Borrowed(b"salt"),
            salted_password: Blob::Borrowed(&[1; 32]),
        };
        let request = AlterUserScramCredentialsRequest { deletions: Vec::new(), upsertions: vec![upsertion] };
        assert_eq!(client.ask(&request, 0).await.results[0].error_code, 0);

        let config = AlterableConfig {
            name: "consumer.session.timeout.ms".into(),
            config_operation: 0,
            value: Some("50000".into()),
        };
        let resource = AlterConfigsResource { resource_type: 32, resource_name: "g848".into(), configs: vec![config] };
        let request = IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false };
        assert_eq!(client.ask(&request, 1).await.responses[0].error_code, 0);
    });
    bench.lose_power();
    bench.ask(|io, address| async move {
        let mut client = Client::connect(&io, address, "c").await;
        let acls = client.ask(&any_acl(), 3).await;
        assert_eq!(acls.resources.len(), 1);
        assert_eq!((&*acls.resources[0].resource_name, &*acls.resources[0].acls[0].principal), ("t", "User:bob"));
        let quotas = client.ask(&DescribeClientQuotasRequest::default(), 1).await;
        let entry = &quotas.entries.expect("entries")[0];
        assert_eq!((entry.entity[0].entity_name.as_deref(), entry.values[0].value), (Some("alice"), 1024.0));
        let users = client.ask(&DescribeUserScramCredentialsRequest { users: None }, 0).await;
        let info = &users.results[0].credential_infos[0];
        assert_eq!((&*users.results[0].user, info.mechanism, info.iterations), ("alice", 1, 4096));
        let resource =
            DescribeConfigsResource { resource_type: 32, resource_name: "g848".into(), configuration_keys: None };
        let request = DescribeConfigsRequest { resources: vec![resource], ..Default::default() };
        let configs = &client.ask(&request, 4).await.results[0].configs;
        let timeout = configs.iter().find(|config| config.name == "consumer.session.timeout.ms").expect("the config");
        assert_eq!((timeout.value.as_deref(), timeout.config_source), (Some("50000"), 8));
    });
}

#[test]
fn acls_are_obeyed_by_every_handler() {
    Bench::new(5, &OPEN).ask(|io, address| async move {
        let mut client = Client::connect(&io, address, "c").await;
        for name in ["secret", "readable", "free"] {
            client.ask(&topic(name, 1), 7).await;
            assert_eq!(appended(&mut client, name, 1).await.0, 0);
        }
        let creations = vec![
            acl(2, "secret", "User:alice", 2, 3),
            acl(2, "readable", "User:ANONYMOUS", 3, 3),
            acl(2, "unborn", "User:alice", 2, 3),
            acl(4, "kafka-cluster", "User:alice", 2, 3),
        ];
        let created = client.ask(&CreateAclsRequest { creations }, 3).await;
        assert!(created.results.iter().all(|result| result.error_code == 0));

        let denied = E::TopicAuthorizationFailed.code();
        assert_eq!(appended(&mut client, "free", 1).await.0, 0);
        assert_eq!(fetched(&mut client, "readable", 0).await, 0);
        assert_eq!(appended(&mut client, "readable", 1).await.0, denied);
        assert_eq!(appended(&mut client, "secret", 1).await.0, denied);
        assert_eq!(fetched(&mut client, "secret", 0).await, denied);
        assert_eq!(deleted(&mut client, "secret", 0).await.0, denied);
        assert_eq!(client.ask(&earliest("secret"), 7).await.topics[0].partitions[0].error_code, denied);
        let grow = CreatePartitionsTopic { name: "readable".into(), count: 2, assignments: None };
        let grow = CreatePartitionsRequest { topics: vec![grow], ..Default::default() };
        assert_eq!(client.ask(&grow, 3).await.results[0].error_code, denied);
        let remove = DeleteTopicState { name: Some("secret".into()), ..Default::default() };
        let remove = DeleteTopicsRequest { topics: vec![remove], ..Default::default() };
        assert_eq!(client.ask(&remove, 6).await.responses[0].error_code, denied);
        assert_eq!(client.ask(&topic("unborn", 1), 7).await.topics[0].error_code, denied);
        let resource =
            DescribeConfigsResource { resource_type: 2, resource_name: "secret".into(), configuration_keys: None };
        let request = DescribeConfigsRequest { resources: vec![resource], ..Default::default() };
        assert_eq!(client.ask(&request, 4).await.results[0].error_code, denied);
        let resource = AlterConfigsResource { resource_type: 2, resource_name: "secret".into(), configs: Vec::new() };
        let request = IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false };
        assert_eq!(client.ask(&request, 1).await.responses[0].error_code, denied);

        // By name it is refused, without its id; among all topics it is not seen; by id it has no name.
        let by_name = MetadataRequestTopic { name: Some("secret".into()), ..Default::default() };
        let by_name = MetadataRequest { topics: Some(vec![by_name]), ..Default::default() };
        let shown = client.ask(&by_name, 12).await;
        assert_eq!((shown.topics[0].error_code, shown.topics[0].topic_id.is_zero()), (denied, true));
        let all = MetadataRequest { topics: None, ..Default::default() };
        let all = client.ask(&all, 12).await;
        let names: Vec<_> = all.topics.iter().map(|topic| topic.name.as_deref().expect("a name")).collect();
        assert_eq!(names, ["free", "readable"]);
        let page = DescribeTopicPartitionsRequest { response_partition_limit: 10, ..Default::default() };
        let paged = client.ask(&page, 0).await;
        assert_eq!(paged.topics.len(), 2);
        let readable =
            paged.topics.iter().find(|topic| topic.name.as_deref() == Some("readable")).expect("it is there");
        assert_eq!(readable.topic_authorized_operations, 1 << 3 | 1 << 8, "to read is to describe");

        let cluster_denied = E::ClusterAuthorizationFailed.code();
        let created = client.ask(&CreateAclsRequest { creations: vec![acl(2, "x", "User:x", 2, 3)] }, 3).await;
        assert_eq!(created.results[0].error_code, cluster_denied);
        assert_eq!(client.ask(&any_acl(), 3).await.error_code, cluster_denied);
        assert_eq!(client.ask(&DescribeLogDirsRequest { topics: None }, 4).await.error_code, cluster_denied);
        assert_eq!(
            client.ask(&quota("user", None, "request_percentage", 1.0), 1).await.entries[0].error_code,
            cluster_denied
        );
        assert_eq!(
            client.ask(&DescribeUserScramCredentialsRequest { users: None }, 0).await.error_code,
            cluster_denied
        );
        assert_eq!(client.ask(&feature("metadata.version", 27, 1), 2).await.error_code, cluster_denied);
        assert_eq!(client.ask(&ListConfigResourcesRequest::default(), 1).await.error_code, cluster_denied);
        let id =
            InitProducerIdRequest { transactional_id: None, producer_id: -1, producer_epoch: -1, ..Default::default() };
        assert_eq!(client.ask(&id, 4).await.error_code, cluster_denied);
    });
}

#[test]
fn acls_of_groups_and_transactional_ids_are_obeyed() {
    Bench::new(11, &OPEN).ask(|io, address| async move {
        let mut client = Client::connect(&io, address, "c").await;
        client.ask(&topic("secret", 1), 7).await;
        let creations = vec![
            acl(2, "secret", "User:alice", 2, 3),
            acl(3, "hers", "User:alice", 2, 3),
            acl(5, "hers", "User:alice", 2, 3),
            acl(4, "kafka-cluster", "User:alice", 2, 3),
        ];
        client.ask(&CreateAclsRequest { creations }, 3).await;
        let (group, transaction) = (E::GroupAuthorizationFailed.code(), E::TransactionalIdAuthorizationFailed.code());

        for (key_type, error) in [(0, group), (1, transaction)] {
            let find = FindCoordinatorRequest {
                key_type,
                coordinator_keys: vec!["hers".into(), "mine".into()],
                ..Default::default()
            };
            let found = client.ask(&find, 4).await.coordinators;
            assert_eq!((found[0].error_code, found[1].error_code), (error, 0));
        }
        let join = JoinGroupRequest {
            group_id: "hers".into(),
            session_timeout_ms: 10_000,
            protocol_type: "consumer".into(),
            ..Default::default()
        };
        assert_eq!(client.ask(&join, 5).await.error_code, group);
        let sync = SyncGroupRequest { group_id: "hers".into(), ..Default::default() };
        assert_eq!(client.ask(&sync, 3).await.error_code, group);
        let heartbeat = HeartbeatRequest { group_id: "hers".into(), ..Default::default() };
        assert_eq!(client.ask(&heartbeat, 3).await.error_code, group);
        let leave = LeaveGroupRequest { group_id: "hers".into(), ..Default::default() };
        assert_eq!(client.ask(&leave, 3).await.error_code, group);
        let live = ConsumerGroupHeartbeatRequest { group_id: "hers".into(), ..Default::default() };
        assert_eq!(client.ask(&live, 1).await.error_code, group);
        let subscribe = ConsumerGroupHeartbeatRequest {
            group_id: "mine".into(),
            subscribed_topic_names: Some(vec!["secret".into()]),
            ..Default::default()
        };
        assert_eq!(client.ask(&subscribe, 1).await.error_code, E::TopicAuthorizationFailed.code());
        let describe = DescribeGroupsRequest { groups: vec!["hers".into()], ..Default::default() };
        assert_eq!(client.ask(&describe, 5).await.groups[0].error_code, group);
        let remove = DeleteGroupsRequest { groups_names: vec!["hers".into()] };
        assert_eq!(client.ask(&remove, 2).await.results[0].error_code, group);
        let fetch = OffsetFetchRequest { group_id: "hers".into(), topics: None, ..Default::default() };
        assert_eq!(client.ask(&fetch, 7).await.error_code, group);
        let forget = OffsetDeleteRequest { group_id: "hers".into(), ..Default::default() };
        assert_eq!(client.ask(&forget, 0).await.error_code, group);
        for (id, error) in [("hers", group), ("mine", E::TopicAuthorizationFailed.code())] {
            let partition = OffsetCommitRequestPartition { committed_offset: 1, ..Default::default() };
            let topic = OffsetCommitRequestTopic { name: "secret".into(), partitions: vec![partition] };
            let commit = OffsetCommitRequest { group_id: id.into(), topics: vec![topic], ..Default::default() };
            assert_eq!(client.ask(&commit, 7).await.topics[0].partitions[0].error_code, error, "{id}");
        }

        let init = InitProducerIdRequest {
            transactional_id: Some("hers".into()),
            transaction_timeout_ms: 1000,
            producer_id: -1,
            producer_epoch: -1,
        };
        assert_eq!(client.ask(&init, 4).await.error_code, transaction);
        let end = EndTxnRequest { transactional_id: "hers".into(), ..Default::default() };
        assert_eq!(client.ask(&end, 3).await.error_code, transaction);
        let add = AddOffsetsToTxnRequest { transactional_id: "hers".into(), ..Default::default() };
        assert_eq!(client.ask(&add, 3).await.error_code, transaction);
        let topics = vec![AddPartitionsToTxnTopic { name: "secret".into(), partitions: vec![0] }];
        let add = AddPartitionsToTxnRequest {
            v3_and_below_transactional_id: "hers".into(),
            v3_and_below_topics: topics,
            ..Default::default()
        };
        let added = client.ask(&add, 3).await;
        let result = &added.results_by_topic_v3_and_below[0].results_by_partition[0];
        assert_eq!(result.partition_error_code, transaction);
        let batched = AddPartitionsToTxnRequest::default();
        assert_eq!(client.ask(&batched, 5).await.error_code, E::ClusterAuthorizationFailed.code());
        let describe = DescribeTransactionsRequest { transactional_ids: vec!["hers".into()] };
        assert_eq!(client.ask(&describe, 0).await.transaction_states[0].error_code, transaction);
    });
}

#[test]
fn an_expression_subscribes_to_no_topic_that_its_member_may_not_see() {
    Bench::new(12, &OPEN).ask(|io, address| async move {
        let mut client = Client::connect(&io, address, "c").await;
        for name in ["free", "secret"] {
            client.ask(&topic(name, 1), 7).await;
        }
        // To read is to see, for alice.
        client.ask(&CreateAclsRequest { creations: vec![acl(2, "secret", "User:alice", 3, 3)] }, 3).await;
        let find = FindCoordinatorRequest { coordinator_keys: vec!["g".into()], ..Default::default() };
        client.ask(&find, 4).await;
        let mut live = ConsumerGroupHeartbeatRequest {
            group_id: "g".into(),
            member_id: "m".into(),
            rebalance_timeout_ms: 60_000,
            subscribed_topic_regex: Some("free|secret".into()),
            topic_partitions: Some(Vec::new()),
            ..Default::default()
        };
        let mut joined = client.ask(&live, 1).await;
        while joined.error_code == E::CoordinatorLoadInProgress.code() {
            io.sleep(Duration::from_millis(50)).await;
            joined = client.ask(&live, 1).await;
        }
        let topics = joined.assignment.expect("who joins is told").topic_partitions;
        assert_eq!((joined.error_code, topics.len()), (0, 1));

        // What it may see from now on it gets when the expression is looked up again.
        let all = DeleteAclsFilter {
            resource_type_filter: 1,
            resource_name_filter: None,
            pattern_type_filter: 1,
            principal_filter: None,
            host_filter: None,
            operation: 1,
            permission_type: 1,
        };
        client.ask(&DeleteAclsRequest { filters: vec![all] }, 3).await;
        (live.subscribed_topic_regex, live.topic_partitions, live.rebalance_timeout_ms) = (None, None, -1);
        let began = io.now();
        let assigned = loop {
            live.member_epoch = joined.member_epoch;
            joined = client.ask(&live, 1).await;
            assert_eq!(joined.error_code, 0);
            if let Some(assigned) = joined.assignment.take() {
                break assigned;
            }
            io.sleep(Duration::from_secs(20)).await;
        };
        assert_eq!(assigned.topic_partitions.len(), 2);
        let took = io.now().since(began);
        assert!(took >= Duration::from_secs(580) && took <= Duration::from_secs(620), "{took:?}");
    });
}

#[test]
fn who_has_no_acl_gets_nothing_unless_he_is_super() {
    let strict = ("authorizer.class.name", STANDARD_AUTHORIZER);
    Bench::new(6, &[strict]).ask(|io, address| async move {
        let mut client = Client::connect(&io, address, "c").await;
        assert_eq!(client.ask(&topic("t", 1), 7).await.topics[0].error_code, E::TopicAuthorizationFailed.code());
        assert!(client.ask(&MetadataRequest { topics: None, ..Default::default() }, 12).await.topics.is_empty());
    });
    Bench::new(7, &[strict, ("super.users", "User:admin;User:ANONYMOUS")]).ask(|io, address| async move {
        let mut client = Client::connect(&io, address, "c").await;
        let denial = acl(2, "t", "User:*", 2, 2);
        assert_eq!(client.ask(&CreateAclsRequest { creations: vec![denial] }, 3).await.results[0].error_code, 0);
        assert_eq!(client.ask(&topic("t", 1), 7).await.topics[0].error_code, 0);
        assert_eq!(appended(&mut client, "t", 1).await.0, 0);
    });
}

#[test]
fn who_produces_and_fetches_too_much_is_answered_and_then_not_heard() {
    Bench::new(8, &[]).ask(|io, address| async move {
        let mut client = Client::connect(&io, address, "greedy").await;
        let mut other = Client::connect(&io, address, "modest").await;
        client.ask(&topic("t", 1), 7).await;
        other.ask(&quota("client-id", Some("greedy"), "producer_byte_rate", 1000.0), 1).await;
        other.ask(&quota("client-id", Some("greedy"), "consumer_byte_rate", 2000.0), 1).await;

        let first = client.ask(&produce("t", 9_000), 12).await;
        assert_eq!(first.throttle_time_ms, 0, "the windows hold ten seconds' worth");
        let began = io.now();
        let second = client.ask(&produce("t", 9_000), 12).await;
        assert_eq!(second.responses[0].partition_responses[0].error_code, 0);
        let throttle = Duration::from_millis(u64::try_from(second.throttle_time_ms).expect("a time"));
        assert!((Duration::from_secs(7)..Duration::from_secs(10)).contains(&throttle), "{throttle:?}");
        assert!(io.now().since(began) < Duration::from_secs(1), "it is answered at once");
        client.ask(&ApiVersionsRequest::default(), 0).await;
        assert!(io.now().since(began) >= throttle, "and then not heard");
        let began = io.now();
        assert_eq!(other.ask(&produce("t", 9_000), 12).await.throttle_time_ms, 0);
        assert!(io.now().since(began) < Duration::from_secs(1));

        // Of three batches of 9 kB the windows hold two.
        io.sleep(Duration::from_secs(20)).await;
        let read = client.ask(&fetch("t", 0), 12).await;
        let bytes = |read: &engine::protocol::messages::fetch::FetchResponse<'_>| {
            let records = read.responses[0].partitions[0].records.as_ref();
            records.map_or(0, |records| records.slices().map(<[u8]>::len).sum::<usize>())
        };
        assert_eq!(read.throttle_time_ms, 0);
        assert!((18_000..20_000).contains(&bytes(&read)), "{}", bytes(&read));
        let began = io.now();
        let throttled = client.ask(&fetch("t", 2), 12).await;
        assert!(throttled.throttle_time_ms > 0 && bytes(&throttled) == 0);
        let mut later = client.ask(&fetch("t", 2), 12).await;
        assert!(io.now().since(began) >= Duration::from_millis(throttled.throttle_time_ms as u64));
        while bytes(&later) == 0 {
            later = client.ask(&fetch("t", 2), 12).await;
        }
        let waited = io.now().since(began);
        assert!(waited < Duration::from_secs(15), "shown as soon as the windows have forgotten: {waited:?}");
    });
}

#[test]
fn partitions_and_connections_have_their_rates() {
    Bench::new(9, &[]).ask(|io, address| async move {
        let mut client = Client::connect(&io, address, "c").await;
        client.ask(&quota("user", None, "controller_mutation_rate", 1.0), 1).await;
        assert_eq!(client.ask(&topic("a", 12), 7).await.topics[0].error_code, 0);
        // The account is the user's: on another connection, which is still heard, it is over as well.
        let mut other = Client::connect(&io, address, "d").await;
        let refused = other.ask(&topic("b", 1), 7).await;
        assert_eq!(refused.topics[0].error_code, E::ThrottlingQuotaExceeded.code());
        assert!(refused.throttle_time_ms > 0);
        let mut old = Client::connect(&io, address, "f").await;
        let told = old.ask(&topic("c", 1), 5).await;
        assert_eq!(told.topics[0].error_code, 0, "old clients are only told to wait");
        assert!(told.throttle_time_ms > refused.throttle_time_ms);

        other.ask(&quota("ip", None, "connection_creation_rate", 1.0), 1).await;
        let mut served = 0;
        for _ in 0..15 {
            let mut client = Client::connect(&io, address, "e").await;
            served += usize::from(client.try_ask(&ApiVersionsRequest::default(), 0).await.is_some());
        }
        assert!((10..15).contains(&served), "{served} of 15 were served");
    });
}
