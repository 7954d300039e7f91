//! Time-outs of requests: what a time of 0 or less means to each that has one.

use engine::protocol::ErrorCode as E;
use engine::protocol::messages::alter_partition_reassignments::{
    AlterPartitionReassignmentsRequest, ReassignablePartition, ReassignableTopic,
};
use engine::protocol::messages::create_partitions::{CreatePartitionsRequest, CreatePartitionsTopic};
use engine::protocol::messages::delete_topics::{DeleteTopicState, DeleteTopicsRequest};
use engine::protocol::messages::elect_leaders::{ElectLeadersRequest, TopicPartitions};
use engine::protocol::messages::produce::ProduceRequest;
use engine::protocol::messages::update_features::UpdateFeaturesRequest;

use super::support::{Bench, Client};
use super::{delete_before, feature, produce, topic};

const LATE: i16 = E::RequestTimedOut as i16;

#[test]
fn a_change_of_the_cluster_without_time_does_not_happen() {
    Bench::new(51, &[]).ask(|io, address| async move {
        let mut client = Client::connect(&io, address, "c").await;
        for timeout_ms in [0, -1, i32::MIN] {
            let mut create = topic("t", 1);
            create.timeout_ms = timeout_ms;
            assert_eq!(client.ask(&create, 7).await.topics[0].error_code, LATE);
            create.timeout_ms = 1;
            assert_eq!(client.ask(&create, 7).await.topics[0].error_code, 0, "it was not made before");

            let grow = CreatePartitionsTopic { name: "t".into(), count: 2, assignments: None };
            let mut grow = CreatePartitionsRequest { topics: vec![grow], timeout_ms, ..Default::default() };
            assert_eq!(client.ask(&grow, 3).await.results[0].error_code, LATE);
            grow.timeout_ms = 1;
            assert_eq!(client.ask(&grow, 3).await.results[0].error_code, 0, "it did not grow before");

            let partitions = vec![TopicPartitions { topic: "t".into(), partitions: vec![0] }];
            for topic_partitions in [Some(partitions), None] {
                let elect = ElectLeadersRequest { topic_partitions, timeout_ms, ..Default::default() };
                let elected = client.ask(&elect, 2).await;
                assert_eq!(elected.error_code, LATE);
                let of_each = elected.replica_election_results.iter().flat_map(|topic| &topic.partition_result);
                assert!(of_each.map(|partition| partition.error_code).all(|error| error == LATE));
            }

            let partition = ReassignablePartition { partition_index: 0, replicas: Some(vec![1]) };
            let moved = ReassignableTopic { name: "t".into(), partitions: vec![partition] };
            let reassign = AlterPartitionReassignmentsRequest { topics: vec![moved], timeout_ms, ..Default::default() };
            let reassigned = client.ask(&reassign, 1).await;
            assert_eq!((reassigned.error_code, reassigned.responses[0].partitions[0].error_code), (LATE, LATE));

            let features = UpdateFeaturesRequest { timeout_ms, ..feature("group.version", 1, 1) };
            assert_eq!(client.ask(&features, 2).await.error_code, 0, "Kafka gives this one no deadline");

            let remove = DeleteTopicState { name: Some("t".into()), ..Default::default() };
            let mut remove = DeleteTopicsRequest { topics: vec![remove], timeout_ms, ..Default::default() };
            assert_eq!(client.ask(&remove, 6).await.responses[0].error_code, LATE);
            remove.timeout_ms = 1;
            assert_eq!(client.ask(&remove, 6).await.responses[0].error_code, 0, "it was still there");
        }
    });
}

#[test]
fn the_leaders_own_flush_is_no_matter_of_the_clients_time() {
    Bench::new(52, &[]).ask(|io, address| async move {
        let mut client = Client::connect(&io, address, "c").await;
        client.ask(&topic("t", 1), 7).await;
        let mut next = 0;
        for timeout_ms in [0, -1, i32::MIN, 1] {
            for acks in [-1, 1] {
                let request = ProduceRequest { acks, timeout_ms, ..produce("t", 10) };
                let response = client.ask(&request, 12).await;
                let partition = &response.responses[0].partition_responses[0];
                assert_eq!((partition.error_code, partition.base_offset), (0, next), "acks={acks} in {timeout_ms} ms");
                next += 1;
            }
            let mut delete = delete_before("t", next - 1);
            for (offset, low_watermark) in [(next - 1, next - 1), (-1, next)] {
                delete.timeout_ms = timeout_ms;
                delete.topics[0].partitions[0].offset = offset;
                let deleted = client.ask(&delete, 2).await;
                let partition = &deleted.topics[0].partitions[0];
                assert_eq!((partition.error_code, partition.low_watermark), (0, low_watermark), "in {timeout_ms} ms");
            }
        }
    });
}
