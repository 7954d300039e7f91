//! Patterns that clients send: one dialect, Kafka's, whichever request brings them.

use std::time::Duration;

use engine::protocol::ErrorCode as E;
use engine::protocol::messages::consumer_group_heartbeat::ConsumerGroupHeartbeatRequest;
use engine::protocol::messages::find_coordinator::FindCoordinatorRequest;
use engine::protocol::messages::list_transactions::ListTransactionsRequest;

use super::support::{Bench, Client};
use super::topic;

const REFUSED: [&str; 6] = ["a**", "a++", "(?x)a", "\\u0061", "a(?=b)", "(a{1000}){1000}"];

#[test]
fn a_pattern_of_re2j_is_taken_and_any_other_refused_by_each_request() {
    Bench::new(71, &[]).ask(|io, address| async move {
        let mut client = Client::connect(&io, address, "c").await;
        for name in ["t.1", "t-1"] {
            client.ask(&topic(name, 1), 7).await;
        }
        let list = |pattern: &'static str| ListTransactionsRequest {
            transactional_id_pattern: Some(pattern.into()),
            ..Default::default()
        };
        let live = |member: &str, pattern: String| ConsumerGroupHeartbeatRequest {
            group_id: "g".into(),
            member_id: member.to_owned().into(),
            rebalance_timeout_ms: 60_000,
            subscribed_topic_regex: Some(pattern.into()),
            topic_partitions: Some(Vec::new()),
            ..Default::default()
        };
        client.ask(&FindCoordinatorRequest { coordinator_keys: vec!["g".into()], ..Default::default() }, 4).await;
        while client.ask(&live("first", "none".into()), 1).await.error_code == E::CoordinatorLoadInProgress.code() {
            io.sleep(Duration::from_millis(50)).await;
        }
        let invalid = E::InvalidRegularExpression.code();
        for pattern in REFUSED {
            assert_eq!(client.ask(&list(pattern), 2).await.error_code, invalid, "{pattern}");
            let refused = client.ask(&live("other", pattern.to_owned()), 1).await;
            assert_eq!(refused.error_code, invalid, "{pattern}");
            let why = refused.error_message.expect("why it is refused");
            assert!(why.starts_with(&format!("SubscribedTopicRegex `{pattern}` is not a valid regular")), "{why}");
        }
        let long = (0..1_000).map(|number| format!("t.{number}")).collect::<Vec<_>>().join("|");
        let patterns =
            [("\\Qt.1\\E", 1), ("t.1", 2), ("\\164.1", 2), ("[a-z&&[^b]]", 0), ("(?i)T\\W1", 2), (long.as_str(), 2)];
        for (number, (pattern, topics)) in patterns.into_iter().enumerate() {
            // Each in a group of its own, so that its only member gets all.
            let group = format!("g{number}");
            let request =
                ConsumerGroupHeartbeatRequest { group_id: group.clone().into(), ..live("m", pattern.to_owned()) };
            client.ask(&FindCoordinatorRequest { coordinator_keys: vec![group.into()], ..Default::default() }, 4).await;
            let mut joined = client.ask(&request, 1).await;
            while joined.error_code == E::CoordinatorLoadInProgress.code() {
                io.sleep(Duration::from_millis(50)).await;
                joined = client.ask(&request, 1).await;
            }
            assert_eq!(joined.error_code, 0, "{pattern}");
            let assigned = joined.assignment.map_or(0, |assigned| assigned.topic_partitions.len());
            assert_eq!(assigned, topics, "{pattern}");
        }
        assert_eq!(client.ask(&list("\\Qa\\E|b{,2}"), 2).await.error_code, 0);
    });
}
