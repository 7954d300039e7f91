//! ACLs are obeyed, by every handler and for every resource.

use std::time::Duration;

use engine::controller::broker_configs::STANDARD_AUTHORIZER;
use engine::protocol::ErrorCode as E;
use engine::protocol::messages::add_offsets_to_txn::AddOffsetsToTxnRequest;
use engine::protocol::messages::add_partitions_to_txn::{AddPartitionsToTxnRequest, AddPartitionsToTxnTopic};
use engine::protocol::messages::consumer_group_heartbeat::ConsumerGroupHeartbeatRequest;
use engine::protocol::messages::create_acls::CreateAclsRequest;
use engine::protocol::messages::create_partitions::{CreatePartitionsRequest, CreatePartitionsTopic};
use engine::protocol::messages::delete_acls::{DeleteAclsFilter, DeleteAclsRequest};
use engine::protocol::messages::delete_groups::DeleteGroupsRequest;
use engine::protocol::messages::delete_topics::{DeleteTopicState, DeleteTopicsRequest};
use engine::protocol::messages::describe_configs::{DescribeConfigsRequest, DescribeConfigsResource};
use engine::protocol::messages::describe_groups::DescribeGroupsRequest;
use engine::protocol::messages::describe_log_dirs::DescribeLogDirsRequest;
use engine::protocol::messages::describe_topic_partitions::DescribeTopicPartitionsRequest;
use engine::protocol::messages::describe_transactions::DescribeTransactionsRequest;
use engine::protocol::messages::describe_user_scram_credentials::DescribeUserScramCredentialsRequest;
use engine::protocol::messages::end_txn::EndTxnRequest;
use engine::protocol::messages::find_coordinator::FindCoordinatorRequest;
use engine::protocol::messages::heartbeat::HeartbeatRequest;
use engine::protocol::messages::incremental_alter_configs::{AlterConfigsResource, IncrementalAlterConfigsRequest};
use engine::protocol::messages::init_producer_id::InitProducerIdRequest;
use engine::protocol::messages::join_group::JoinGroupRequest;
use engine::protocol::messages::leave_group::LeaveGroupRequest;
use engine::protocol::messages::list_config_resources::ListConfigResourcesRequest;
use engine::protocol::messages::metadata::{MetadataRequest, MetadataRequestTopic};
use engine::protocol::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use engine::protocol::messages::offset_delete::OffsetDeleteRequest;
use engine::protocol::messages::offset_fetch::OffsetFetchRequest;
use engine::protocol::messages::sync_group::SyncGroupRequest;

use super::support::{Bench, Client};
use super::{OPEN, acl, any_acl, appended, deleted, earliest, feature, fetched, quota, topic};

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
