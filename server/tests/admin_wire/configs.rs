//! Configs of brokers: which change while the broker runs, and what the change does.

use std::time::Duration;

use engine::protocol::ErrorCode as E;
use engine::protocol::Records;
use engine::protocol::messages::consumer_group_describe::ConsumerGroupDescribeRequest;
use engine::protocol::messages::consumer_group_heartbeat::ConsumerGroupHeartbeatRequest;
use engine::protocol::messages::create_topics::CreatableTopicConfig;
use engine::protocol::messages::describe_configs::{DescribeConfigsRequest, DescribeConfigsResource};
use engine::protocol::messages::describe_producers::{DescribeProducersRequest, TopicRequest};
use engine::protocol::messages::find_coordinator::FindCoordinatorRequest;
use engine::protocol::messages::incremental_alter_configs::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
};
use engine::protocol::messages::init_producer_id::InitProducerIdRequest;
use engine::protocol::messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use engine::record::BatchBuilder;

use super::support::{Bench, Client};
use super::{set, set_for_broker, topic};

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

/// Sets a config (operation 0) or removes it (1).
fn altered(
    kind: i8,
    name: &'static str,
    config: &'static str,
    value: &str,
    set: bool,
) -> IncrementalAlterConfigsRequest<'static> {
    let value = set.then(|| value.to_owned().into());
    let config = AlterableConfig { name: config.into(), config_operation: i8::from(!set), value };
    let resource = AlterConfigsResource { resource_type: kind, resource_name: name.into(), configs: vec![config] };
    IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false }
}

fn described(kind: i8, name: &'static str, keys: &[&'static str]) -> DescribeConfigsRequest<'static> {
    let configuration_keys = (!keys.is_empty()).then(|| keys.iter().map(|key| (*key).into()).collect());
    let resource = DescribeConfigsResource { resource_type: kind, resource_name: name.into(), configuration_keys };
    DescribeConfigsRequest { resources: vec![resource], include_synonyms: true, include_documentation: true }
}

#[test]
fn what_means_nothing_on_one_node_is_taken_and_shown() {
    let bench = Bench::new(61, &[("unclean.leader.election.enable", "true")]);
    bench.ask(|io, address| async move {
        let mut client = Client::connect(&io, address, "c").await;
        let names = ["remote.log.copy.disable", "remote.log.delete.on.disable", "unclean.leader.election.enable"];
        let mut create = topic("t", 1);
        let config = |name: &&'static str| CreatableTopicConfig { name: (*name).into(), value: Some("true".into()) };
        create.topics[0].configs = names.iter().map(config).collect();
        assert_eq!(client.ask(&create, 7).await.topics[0].error_code, 0);
        for name in names {
            for set in [false, true] {
                let answer = client.ask(&altered(2, "t", name, "true", set), 1).await;
                assert_eq!(answer.responses[0].error_code, 0, "{name}");
            }
        }
        let shown = client.ask(&described(2, "t", &names), 4).await;
        let shown = &shown.results[0].configs;
        assert!(shown.len() == 3 && shown.iter().all(|config| config.value.as_deref() == Some("true")));
        for broker in ["1", ""] {
            for set in [true, false] {
                let request = altered(4, broker, "unclean.leader.election.enable", "true", set);
                assert_eq!(client.ask(&request, 1).await.responses[0].error_code, 0, "broker {broker:?}");
            }
        }
        let tiered = client.ask(&altered(2, "t", "remote.storage.enable", "true", true), 1).await;
        assert_eq!(tiered.responses[0].error_code, E::InvalidConfig.code(), "records would not be where it says");
    });
}

#[test]
fn configs_of_sasl_and_tls_are_a_brokers_own() {
    Bench::new(62, &[]).ask(|io, address| async move {
        let mut client = Client::connect(&io, address, "c").await;
        for (name, value) in [
            ("sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-256"),
            ("sasl.kerberos.min.time.before.relogin", "1000"),
            ("sasl.login.refresh.window.factor", "0.5"),
            ("ssl.client.auth", "required"),
        ] {
            assert_eq!(client.ask(&altered(4, "1", name, value, true), 1).await.responses[0].error_code, 0, "{name}");
            let shown = client.ask(&described(4, "1", &[name]), 4).await;
            let shown = &shown.results[0].configs[0];
            assert_eq!((shown.value.as_deref(), shown.config_source, shown.read_only), (Some(value), 2, false));
            let refused = client.ask(&altered(4, "", name, value, true), 1).await;
            let why = "Cannot update these configs at default cluster level, broker id must be specified";
            let why = format!("{why}: Set({name})");
            let refused = &refused.responses[0];
            assert_eq!((refused.error_code, refused.error_message.as_deref()), (E::InvalidRequest.code(), Some(&*why)));
            for broker in ["1", ""] {
                let removed = client.ask(&altered(4, broker, name, value, false), 1).await;
                assert_eq!(removed.responses[0].error_code, 0, "{name}");
            }
        }
    });
}

#[test]
fn a_new_cluster_has_kafkas_own_defaults() {
    let bench = Bench::new(63, &[]);
    for _ in 0..2 {
        bench.ask(|io, address| async move {
            let mut client = Client::connect(&io, address, "c").await;
            client.ask(&topic("t", 1), 7).await;
            let name = "min.insync.replicas";
            for (kind, resource, levels) in [(2, "t", &[3, 5][..]), (4, "1", &[3, 5][..]), (4, "", &[3][..])] {
                let shown = client.ask(&described(kind, resource, &[name]), 4).await;
                let shown = &shown.results[0].configs[0];
                assert_eq!((shown.value.as_deref(), shown.config_source), (Some("1"), 3));
                let sources: Vec<_> = shown.synonyms.iter().map(|synonym| synonym.source).collect();
                assert_eq!(sources, levels, "of {resource:?}");
            }
            let refused = client.ask(&altered(4, "1", name, "2", true), 1).await;
            let why = "Broker-level min.insync.replicas cannot be altered while ELR is enabled.";
            let refused = &refused.responses[0];
            assert_eq!((refused.error_code, refused.error_message.as_deref()), (E::InvalidConfig.code(), Some(why)));
            let refused = client.ask(&altered(4, "", name, "2", false), 1).await;
            assert_eq!(refused.responses[0].error_code, E::InvalidConfig.code());
        });
        bench.lose_power();
    }
}

#[test]
fn each_config_says_what_it_is_for_to_who_asks() {
    Bench::new(64, &[]).ask(|io, address| async move {
        let mut client = Client::connect(&io, address, "c").await;
        client.ask(&topic("t", 1), 7).await;
        for (kind, resource) in [(2, "t"), (4, "1"), (4, ""), (16, "m"), (32, "g")] {
            let mut request = described(kind, resource, &[]);
            let shown = client.ask(&request, 4).await;
            let shown = &shown.results[0].configs;
            assert!(!shown.is_empty());
            for config in shown {
                assert!(config.documentation.as_deref().is_some_and(|text| text.ends_with('.')), "{}", config.name);
            }
            request.include_documentation = false;
            let shown = client.ask(&request, 4).await;
            assert!(shown.results[0].configs.iter().all(|config| config.documentation.is_none()));
        }
        let needed = ["group.streams.max.size", "producer.purgatory.purge.interval.requests"];
        assert_eq!(client.ask(&described(4, "1", &needed), 4).await.results[0].configs.len(), 2);
    });
}
