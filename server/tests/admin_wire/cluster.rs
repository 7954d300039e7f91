//! What a cluster of one says of itself, its features, and what of it survives a loss of power.

use engine::protocol::Blob;
use engine::protocol::ErrorCode as E;
use engine::protocol::messages::add_raft_voter::AddRaftVoterRequest;
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
use engine::protocol::messages::create_acls::CreateAclsRequest;
use engine::protocol::messages::create_delegation_token::CreateDelegationTokenRequest;
use engine::protocol::messages::delete_acls::{DeleteAclsFilter, DeleteAclsRequest};
use engine::protocol::messages::describe_client_quotas::DescribeClientQuotasRequest;
use engine::protocol::messages::describe_cluster::DescribeClusterRequest;
use engine::protocol::messages::describe_configs::{DescribeConfigsRequest, DescribeConfigsResource};
use engine::protocol::messages::describe_log_dirs::DescribeLogDirsRequest;
use engine::protocol::messages::describe_quorum::{
    DescribeQuorumRequest, RequestPartitionData as QuorumPartition, RequestTopicData as QuorumTopic,
};
use engine::protocol::messages::describe_user_scram_credentials::DescribeUserScramCredentialsRequest;
use engine::protocol::messages::elect_leaders::{ElectLeadersRequest, TopicPartitions};
use engine::protocol::messages::incremental_alter_configs::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
};
use engine::protocol::messages::list_config_resources::ListConfigResourcesRequest;
use engine::protocol::messages::remove_raft_voter::RemoveRaftVoterRequest;
use engine::protocol::messages::sasl_authenticate::SaslAuthenticateRequest;
use engine::protocol::messages::unregister_broker::UnregisterBrokerRequest;
use engine::protocol::messages::update_features::{FeatureUpdateKey, UpdateFeaturesRequest};

use super::support::{Bench, Client};
use super::{OPEN, acl, any_acl, appended, feature, quota, topic};

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

#[test]
fn features_are_only_moved_where_this_build_can_go() {
    Bench::new(3, &[]).ask(|io, address| async move {
        let mut client = Client::connect(&io, address, "c").await;
        for (name, level, upgrade_type) in [
            ("metadata.version", 28, 1),
            ("metadata.version", 22, 2),
            ("kraft.version", 0, 1),
            ("kraft.version", 0, 2),
            ("kraft.version", 0, 3),
            ("none", 1, 1),
        ] {
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

/// What `kafka-features` sends for a release.
fn release(features: &[(&'static str, i16)], upgrade_type: i8) -> UpdateFeaturesRequest<'static> {
    let update = |(name, max_version_level): &(&'static str, i16)| FeatureUpdateKey {
        feature: (*name).into(),
        max_version_level: *max_version_level,
        allow_downgrade: false,
        upgrade_type,
    };
    UpdateFeaturesRequest { feature_updates: features.iter().map(update).collect(), ..Default::default() }
}

#[test]
fn a_release_is_what_tools_take_it_for() {
    Bench::new(41, &[]).ask(|io, address| async move {
        let mut client = Client::connect(&io, address, "c").await;
        let levels = async |client: &mut Client| {
            let request =
                ApiVersionsRequest { client_software_name: "test".into(), client_software_version: "1".into() };
            let versions = client.ask(&request, 4).await;
            let level = |name: &str| {
                let found = versions.finalized_features.iter().find(|feature| &*feature.name == name);
                found.map(|feature| feature.max_version_level)
            };
            (level("eligible.leader.replicas.version"), level("kraft.version"), level("metadata.version"))
        };
        assert_eq!(levels(&mut client).await, (Some(1), Some(1), Some(27)));
        let of_4_1 = [
            ("eligible.leader.replicas.version", 1),
            ("group.version", 1),
            ("kraft.version", 1),
            ("metadata.version", 27),
            ("transaction.version", 2),
        ];
        let of_4_0 = [("group.version", 1), ("kraft.version", 1), ("metadata.version", 25), ("transaction.version", 2)];
        assert_eq!(client.ask(&release(&of_4_1, 1), 2).await.error_code, 0);
        // That is no upgrade; as a downgrade nothing is lost by it.
        let refused = client.ask(&release(&of_4_0, 1), 2).await;
        assert_eq!(refused.error_code, E::InvalidUpdateVersion.code());
        let why = "The update failed for all features since the following feature had an error: Invalid update version \
                   25 for feature metadata.version. Can't downgrade the version of this feature without setting the \
                   upgrade type to either safe or unsafe downgrade.";
        assert_eq!(refused.error_message.as_deref(), Some(why));
        let down =
            [&of_4_0[..], &[("eligible.leader.replicas.version", 0), ("share.version", 0), ("streams.version", 0)]];
        assert_eq!(client.ask(&release(&down.concat(), 2), 2).await.error_code, 0);
        assert_eq!(levels(&mut client).await, (None, Some(1), Some(25)));
        assert_eq!(client.ask(&release(&of_4_1, 1), 2).await.error_code, 0);
        assert_eq!(levels(&mut client).await, (Some(1), Some(1), Some(27)));
    });
}

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
