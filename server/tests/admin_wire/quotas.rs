//! Quotas: who is above one is answered, told to wait, and not heard meanwhile.

use std::time::Duration;

use engine::protocol::ErrorCode as E;
use engine::protocol::messages::api_versions::ApiVersionsRequest;
use engine::protocol::messages::create_partitions::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreatePartitionsTopic,
};
use engine::protocol::messages::create_topics::CreateTopicsResponse;
use engine::protocol::messages::delete_topics::{DeleteTopicState, DeleteTopicsRequest, DeleteTopicsResponse};

use super::support::{Bench, Client};
use super::{fetch, produce, quota, topic};

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

#[test]
fn a_quota_of_nothing_is_refused_and_almost_whole_numbers_are_taken() {
    Bench::new(42, &[]).ask(|io, address| async move {
        let mut client = Client::connect(&io, address, "c").await;
        for key in ["producer_byte_rate", "consumer_byte_rate", "request_percentage", "controller_mutation_rate"] {
            let refused = client.ask(&quota("user", Some("u"), key, 0.0), 1).await;
            let why = format!("Quota {key} must be greater than 0");
            let refused = &refused.entries[0];
            assert_eq!((refused.error_code, refused.error_message.as_deref()), (E::InvalidRequest.code(), Some(&*why)));
            assert_eq!(client.ask(&quota("user", Some("u"), key, 1_000.000_000_001), 1).await.entries[0].error_code, 0);
        }
    });
}

#[test]
fn the_request_that_goes_over_the_rate_of_changes_is_served_and_the_next_one_pays() {
    Bench::new(43, &[]).ask(|io, address| async move {
        let mut client = Client::connect(&io, address, "c").await;
        let rate = |value| quota("client-id", Some("c"), "controller_mutation_rate", value);
        client.ask(&topic("grown", 1), 7).await;
        client.ask(&topic("removed", 20), 7).await;
        client.ask(&topic("kept", 1), 7).await;
        let refused = E::ThrottlingQuotaExceeded.code();
        // Far apart, so that each begins with a full bucket.
        for case in ["create", "grow", "remove"] {
            client.ask(&rate(1.0), 1).await;
            io.sleep(Duration::from_secs(60)).await;
            let (first, second) = match case {
                "create" => {
                    let first = client.ask(&topic("a", 20), 7).await;
                    let second = client.ask(&topic("b", 1), 7).await;
                    let of = |answer: CreateTopicsResponse<'_>| (answer.topics[0].error_code, answer.throttle_time_ms);
                    (of(first), of(second))
                }
                "grow" => {
                    let first = client.ask(&grow("grown", 21), 3).await;
                    let second = client.ask(&grow("grown", 22), 3).await;
                    let of =
                        |answer: CreatePartitionsResponse<'_>| (answer.results[0].error_code, answer.throttle_time_ms);
                    (of(first), of(second))
                }
                _ => {
                    let first = client.ask(&remove("removed"), 6).await;
                    let second = client.ask(&remove("kept"), 6).await;
                    let of =
                        |answer: DeleteTopicsResponse<'_>| (answer.responses[0].error_code, answer.throttle_time_ms);
                    (of(first), of(second))
                }
            };
            assert_eq!(first, (0, 0), "{case}");
            assert_eq!(second.0, refused, "{case}");
            assert!((8_000..=9_000).contains(&second.1), "{case}: 20 of 11 leave 9 s to pay, not {} ms", second.1);
        }
    });
}

fn grow(name: &'static str, count: i32) -> CreatePartitionsRequest<'static> {
    let topic = CreatePartitionsTopic { name: name.into(), count, assignments: None };
    CreatePartitionsRequest { topics: vec![topic], timeout_ms: 1000, ..Default::default() }
}

fn remove(name: &'static str) -> DeleteTopicsRequest<'static> {
    let topic = DeleteTopicState { name: Some(name.into()), ..Default::default() };
    DeleteTopicsRequest { topics: vec![topic], timeout_ms: 1000, ..Default::default() }
}
