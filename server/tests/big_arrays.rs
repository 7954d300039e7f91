//! Requests that name very many things, all different or all the same: each is answered as a small one would be, and
//! none holds a core for long. What costs the square of the number would take minutes here.

#[allow(dead_code, reason = "shared with other tests, which use more of it")]
mod support;

use std::collections::BTreeSet;

use engine::io::TURN;
use engine::protocol::messages::create_topics::{CreatableTopic, CreateTopicsRequest};
use engine::protocol::messages::describe_configs::{DescribeConfigsRequest, DescribeConfigsResource};
use engine::protocol::messages::describe_log_dirs::{DescribableLogDirTopic, DescribeLogDirsRequest};
use engine::protocol::messages::describe_user_scram_credentials::{DescribeUserScramCredentialsRequest, UserName};
use engine::protocol::messages::incremental_alter_configs::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
};
use engine::protocol::messages::list_groups::ListGroupsRequest;
use engine::protocol::messages::share_acknowledge::{AcknowledgePartition, AcknowledgeTopic, ShareAcknowledgeRequest};
use engine::protocol::messages::share_fetch::{FetchPartition, FetchTopic, ShareFetchRequest};
use engine::protocol::messages::update_features::{FeatureUpdateKey, UpdateFeaturesRequest};
use engine::protocol::{ErrorCode, Uuid};
use support::{Bench, Client};

const MANY: usize = 60_000;

/// Names all different, and the same name as often.
fn many_names() -> [Vec<String>; 2] {
    [(0..MANY).map(|at| format!("name_{at}")).collect(), vec!["one.name".to_owned(); MANY]]
}

/// Ids all different, and the same id as often.
fn many_ids() -> [Vec<Uuid>; 2] {
    let id = |at: usize| Uuid((at as u128 + 1).to_be_bytes());
    [(0..MANY).map(id).collect(), vec![id(1); MANY]]
}

fn distinct<T: Ord>(all: &[T]) -> usize {
    all.iter().collect::<BTreeSet<_>>().len()
}

/// Has a client ask a broker; no core is held for longer than two turns.
fn ask<F: Future<Output = ()> + 'static>(make: impl FnOnce(Client) -> F + 'static) {
    // A share session of sixty thousand partitions wants its memory.
    let bench = Bench::with_memory(1, 4 << 30, &[]);
    bench.ask(|io, address| async move { make(Client::connect(&io, address, "test").await).await });
    let turn = bench.longest_turn();
    assert!(turn <= 2 * TURN, "a core was held for {turn}");
}

#[test]
fn create_topics() {
    ask(|mut client| async move {
        for names in many_names() {
            let topic = |name: &String| CreatableTopic {
                name: name.clone().into(),
                num_partitions: 1,
                replication_factor: 1,
                ..Default::default()
            };
            let topics = names.iter().map(topic).collect();
            let answer = client.ask(&CreateTopicsRequest { topics, timeout_ms: 1000, validate_only: true }, 7).await;
            assert_eq!(answer.topics.len(), distinct(&names));
        }
    });
}

#[test]
fn configs() {
    ask(|mut client| async move {
        for names in many_names() {
            let config = AlterableConfig {
                name: "share.record.lock.duration.ms".into(),
                config_operation: 0,
                value: Some("20000".into()),
            };
            let resource = |name: &String| AlterConfigsResource {
                resource_type: 32,
                resource_name: name.clone().into(),
                configs: vec![config.clone()],
            };
            let resources = names.iter().map(resource).collect();
            let answer = client.ask(&IncrementalAlterConfigsRequest { resources, validate_only: true }, 1).await;
            assert_eq!(answer.responses.len(), distinct(&names));

            let mut keys: Vec<_> = names.iter().map(|name| name.clone().into()).collect();
            keys.push("num.partitions".into());
            let resource =
                DescribeConfigsResource { resource_type: 4, resource_name: "1".into(), configuration_keys: Some(keys) };
            let request = DescribeConfigsRequest { resources: vec![resource], ..Default::default() };
            assert_eq!(client.ask(&request, 4).await.results[0].configs.len(), 1);

            let unknown = |name: &String| DescribeConfigsResource {
                resource_type: 2,
                resource_name: name.clone().into(),
                configuration_keys: None,
            };
            let request =
                DescribeConfigsRequest { resources: names.iter().map(unknown).collect(), ..Default::default() };
            assert_eq!(client.ask(&request, 4).await.results.len(), MANY);
        }
    });
}

#[test]
fn features() {
    ask(|mut client| async move {
        for names in many_names() {
            let update = |name: &String| FeatureUpdateKey {
                feature: name.clone().into(),
                max_version_level: 1,
                allow_downgrade: false,
                upgrade_type: 1,
            };
            let request =
                UpdateFeaturesRequest { feature_updates: names.iter().map(update).collect(), ..Default::default() };
            assert_ne!(client.ask(&request, 1).await.error_code, 0);
        }
    });
}

#[test]
fn users() {
    ask(|mut client| async move {
        for names in many_names() {
            let user = |name: &String| UserName { name: name.clone().into() };
            let request = DescribeUserScramCredentialsRequest { users: Some(names.iter().map(user).collect()) };
            assert_eq!(client.ask(&request, 0).await.results.len(), distinct(&names));
        }
    });
}

#[test]
fn lists() {
    ask(|mut client| async move {
        for names in many_names() {
            let states_filter = names.iter().map(|name| name.clone().into()).collect();
            let request = ListGroupsRequest { states_filter, ..Default::default() };
            assert_eq!(client.ask(&request, 5).await.error_code, 0);
            let topic = DescribableLogDirTopic { topic: "t".into(), partitions: (0..MANY as i32).collect() };
            let request = DescribeLogDirsRequest { topics: Some(vec![topic]) };
            assert_eq!(client.ask(&request, 4).await.results[0].topics.len(), 0);
        }
    });
}

#[test]
fn share_partitions() {
    ask(|mut client| async move {
        let update = FeatureUpdateKey {
            feature: "share.version".into(),
            max_version_level: 1,
            allow_downgrade: false,
            upgrade_type: 1,
        };
        let request = UpdateFeaturesRequest { feature_updates: vec![update], ..Default::default() };
        assert_eq!(client.ask(&request, 2).await.error_code, 0);
        for ids in many_ids() {
            let (group_id, member_id) = (Some("g".into()), Some(Uuid([7; 16]).to_string().into()));
            let fetched = |id: &Uuid| FetchTopic { topic_id: *id, partitions: vec![FetchPartition::default()] };
            let request = ShareFetchRequest {
                group_id: group_id.clone(),
                member_id: member_id.clone(),
                max_bytes: 1 << 20,
                max_records: 1,
                topics: ids.iter().map(fetched).collect(),
                ..Default::default()
            };
            let answer = client.ask(&request, 1).await;
            assert_eq!((answer.error_code, answer.responses.len()), (0, distinct(&ids)));

            let acknowledged =
                |id: &Uuid| AcknowledgeTopic { topic_id: *id, partitions: vec![AcknowledgePartition::default()] };
            let batch = share_batch();
            let mut topics: Vec<AcknowledgeTopic> = ids.iter().map(acknowledged).collect();
            topics.iter_mut().for_each(|topic| topic.partitions[0].acknowledgement_batches = vec![batch.clone()]);
            let request = ShareAcknowledgeRequest { group_id, member_id, share_session_epoch: 1, topics };
            let answer = client.ask(&request, 1).await;
            assert_eq!((answer.error_code, answer.responses.len()), (0, distinct(&ids)));
            let parts: Vec<_> = answer.responses.iter().flat_map(|topic| &topic.partitions).collect();
            assert_eq!(parts.len(), MANY);
            assert!(parts.iter().all(|part| part.error_code == ErrorCode::UnknownTopicId.code()));
        }
    });
}

fn share_batch() -> engine::protocol::messages::share_acknowledge::AcknowledgementBatch {
    engine::protocol::messages::share_acknowledge::AcknowledgementBatch {
        first_offset: 0,
        last_offset: 0,
        acknowledge_types: vec![1],
    }
}
