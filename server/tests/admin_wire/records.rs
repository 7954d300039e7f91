//! Records that are deleted stay deleted, and give back their room.

use std::time::Duration;

use engine::protocol::ErrorCode as E;
use engine::protocol::messages::create_topics::CreatableTopicConfig;

use super::support::{Bench, Client};
use super::{appended, deleted, fetched, first_offset, topic};

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
