use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_lite::future::block_on;

use super::features::FeatureUpdate;
use super::*;
use crate::protocol::ErrorCode;

/// A controller whose records take effect at once.
struct Cluster {
    controller: Controller,
    chance: u64,
}

impl Cluster {
    fn new(static_configs: &[(&str, &str)]) -> Cluster {
        let configs = static_configs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let settings = Settings::new(1, configs.collect()).expect("valid settings");
        Cluster { controller: Controller::new(settings), chance: 0 }
    }

    fn handle(&mut self, request: ControllerRequest) -> ControllerReply {
        let chance = &mut self.chance;
        let mut random = || {
            *chance = chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
            (*chance ^ (*chance >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
        };
        let (records, reply) = block_on(self.controller.handle(&request, &mut random, &Pace::default()));
        let decoded = MetadataRecord::decode_all(records::encode_all(&records));
        assert_eq!(decoded.as_ref(), Ok(&records), "records survive the disk");
        let offset = self.controller.image().offset + records.len() as i64;
        self.controller.apply(&records, offset).expect("the controller's records fit");
        reply
    }

    fn create(&mut self, topics: Vec<NewTopic>) -> Vec<CreatedTopic> {
        match self.handle(ControllerRequest::CreateTopics { topics, validate_only: false }) {
            ControllerReply::CreateTopics(created) => created,
            other => panic!("not an answer to CreateTopics: {other:?}"),
        }
    }

    fn create_one(&mut self, topic: NewTopic) -> Result<NewTopicState, Refusal> {
        self.create(vec![topic]).pop().expect("one result").result
    }

    fn alter(&mut self, resource: ConfigResource, changes: &[(&str, i8, Option<&str>)]) -> Result<(), Refusal> {
        let change = |(name, operation, value): &(&str, i8, Option<&str>)| ConfigChange {
            name: (*name).to_owned(),
            operation: *operation,
            value: value.map(str::to_owned),
        };
        let resources = vec![(resource, changes.iter().map(change).collect())];
        match self.handle(ControllerRequest::IncrementalAlterConfigs { resources, validate_only: false }) {
            ControllerReply::AlterConfigs(mut altered) => altered.pop().expect("one result").1,
            other => panic!("not an answer to IncrementalAlterConfigs: {other:?}"),
        }
    }

    fn topic(&self, name: &str) -> Arc<image::Topic> {
        self.controller.image().topic(name).expect("a topic of that name").clone()
    }
}

fn topic(name: &str, partitions: i32, replication_factor: i16) -> NewTopic {
    NewTopic { name: name.to_owned(), partitions, replication_factor, ..NewTopic::default() }
}

fn with_config(name: &str, value: &str) -> NewTopic {
    NewTopic { configs: vec![(name.to_owned(), Some(value.to_owned()))], ..topic("configured", 1, 1) }
}

fn with_assignments(assignments: &[(i32, &[i32])]) -> NewTopic {
    let assignments = assignments.iter().map(|(partition, replicas)| (*partition, replicas.to_vec())).collect();
    NewTopic { assignments, ..topic("assigned", -1, -1) }
}

fn is(refusal: Option<Refusal>, error: ErrorCode, message: &str) {
    assert_eq!(refusal, Some(Refusal::new(error, message)));
}

fn named(name: &str) -> ConfigResource {
    ConfigResource::Topic(name.to_owned())
}

fn broker(name: &str) -> ConfigResource {
    ConfigResource::Broker(name.to_owned())
}

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

#[test]
fn a_topic_is_what_was_asked_for() {
    let mut cluster = Cluster::new(&[("num.partitions", "4")]);
    let state = cluster.create_one(topic("t1", -1, -1)).expect("a topic");
    assert_eq!((state.partitions, state.replication_factor), (4, 1));
    assert!(!state.id.is_zero() && !state.id.to_string().starts_with('-'));
    assert_eq!(state.configs.len(), topic_configs::TOPIC_CONFIGS.len());
    let made = cluster.topic("t1");
    assert_eq!(made.id, state.id);
    assert_eq!(made.partitions.len(), 4);
    for partition in &made.partitions {
        assert_eq!((partition.leader, partition.leader_epoch, partition.partition_epoch), (1, 0, 0));
        assert_eq!((&partition.replicas, &partition.isr), (&vec![1], &vec![1]));
    }
    let assigned = cluster.create_one(with_assignments(&[(1, &[1]), (0, &[1])])).expect("a topic");
    assert_eq!((assigned.partitions, assigned.replication_factor), (2, 1));
}

#[test]
fn topics_are_refused_in_kafkas_words() {
    let mut cluster = Cluster::new(&[]);
    cluster.create_one(topic("t1", 4, 1)).expect("a topic");
    cluster.create_one(topic("a.b", 1, 1)).expect("a topic");
    let mut refused = |topic| cluster.create_one(topic).err();
    is(
        refused(topic("rf3", 1, 3)),
        ErrorCode::InvalidReplicationFactor,
        "Unable to replicate the partition 3 time(s): The target replication factor of 3 cannot be reached because \
         only 1 broker(s) are registered.",
    );
    is(
        refused(topic("a b", 1, 1)),
        ErrorCode::InvalidTopicException,
        "Topic name is invalid: 'a b' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'",
    );
    is(
        refused(with_config("retention.ms", "-5")),
        ErrorCode::InvalidConfig,
        "Invalid value -5 for configuration retention.ms: Value must be at least -1",
    );
    is(refused(with_config("nosuch", "1")), ErrorCode::InvalidConfig, "Unknown topic config name: nosuch");
    is(refused(topic("t1", 1, 1)), ErrorCode::TopicAlreadyExists, "Topic 't1' already exists.");
    is(refused(topic("a_b", 1, 1)), ErrorCode::InvalidTopicException, "Topic 'a_b' collides with existing topic: a.b");
    is(
        refused(with_assignments(&[(0, &[9])])),
        ErrorCode::InvalidReplicaAssignment,
        "The manual partition assignment includes broker 9, but no such broker is registered.",
    );
    let mut error = |topic| cluster.create_one(topic).err().map(|refusal| refusal.error);
    assert_eq!(error(topic("none", 0, 1)), Some(ErrorCode::InvalidPartitions));
    assert_eq!(error(topic("none", 1, 0)), Some(ErrorCode::InvalidReplicationFactor));
    assert_eq!(error(topic("many", i32::MAX, 1)), Some(ErrorCode::PolicyViolation));
    assert_eq!(error(topic("", 1, 1)), Some(ErrorCode::InvalidTopicException));
    assert_eq!(error(topic("..", 1, 1)), Some(ErrorCode::InvalidTopicException));
    assert_eq!(error(topic(&"x".repeat(250), 1, 1)), Some(ErrorCode::InvalidTopicException));
    assert_eq!(error(topic("@metadata", 1, 1)), Some(ErrorCode::InvalidTopicException));
    assert_eq!(error(with_config("remote.storage.enable", "true")), Some(ErrorCode::InvalidConfig));
    assert_eq!(error(with_assignments(&[(0, &[])])), Some(ErrorCode::InvalidReplicaAssignment));
    assert_eq!(error(with_assignments(&[(0, &[1]), (0, &[1])])), Some(ErrorCode::InvalidReplicaAssignment));
    assert_eq!(error(with_assignments(&[(1, &[1])])), Some(ErrorCode::InvalidReplicaAssignment));
    let both = NewTopic { partitions: 1, ..with_assignments(&[(0, &[1])]) };
    assert_eq!(error(both), Some(ErrorCode::InvalidRequest));
    assert_eq!(error(topic(&"x".repeat(249), 1, 1)), None);
}

#[test]
fn topics_of_one_request_do_not_know_each_other() {
    let mut cluster = Cluster::new(&[]);
    let topics = vec![topic("c.d", 1, 1), topic("twice", 1, 1), topic("c_d", 1, 1), topic("twice", 2, 1)];
    let created = cluster.create(topics);
    let names: Vec<_> = created.iter().map(|topic| (topic.name.as_str(), topic.result.is_ok())).collect();
    assert_eq!(names, [("c.d", true), ("twice", false), ("c_d", true)]);
    is(created[1].result.clone().err(), ErrorCode::InvalidRequest, "Duplicate topic name.");
    assert_eq!(cluster.controller.image().topics.len(), 2);
}

#[test]
fn a_check_changes_nothing() {
    let mut cluster = Cluster::new(&[]);
    let request = ControllerRequest::CreateTopics { topics: vec![topic("vo", 2, -1)], validate_only: true };
    let ControllerReply::CreateTopics(created) = cluster.handle(request) else { panic!("another reply") };
    let state = created[0].result.clone().expect("a valid topic");
    assert_eq!((state.id, state.partitions, state.replication_factor), (Uuid::ZERO, 2, 1));
    assert_eq!(**cluster.controller.image(), MetadataImage::default());
}

#[test]
fn a_deleted_topic_comes_back_as_another() {
    let mut cluster = Cluster::new(&[]);
    let first = cluster.create_one(with_config("retention.ms", "7")).expect("a topic").id;
    let mut delete = |topics: Vec<TopicName>| match cluster.handle(ControllerRequest::DeleteTopics(topics)) {
        ControllerReply::DeleteTopics(deleted) => deleted,
        other => panic!("not an answer to DeleteTopics: {other:?}"),
    };
    let by_name = |name: &str| TopicName { name: Some(name.to_owned()), id: Uuid::ZERO };
    let by_id = |id| TopicName { name: None, id };
    let error = |deleted: &DeletedTopic| deleted.result.as_ref().err().map(|refusal| refusal.error);

    let deleted = delete(vec![by_name("nope"), by_id(Uuid([9; 16])), by_id(Uuid::ZERO)]);
    let errors: Vec<_> = deleted.iter().map(error).collect();
    let expected = [ErrorCode::UnknownTopicOrPartition, ErrorCode::UnknownTopicId, ErrorCode::InvalidRequest];
    assert_eq!(errors, expected.map(Some));
    let twice = delete(vec![by_name("configured"), by_id(first)]);
    assert!(twice.iter().all(|deleted| error(deleted) == Some(ErrorCode::InvalidRequest)));
    let deleted = delete(vec![by_id(first)]);
    assert_eq!((deleted[0].name.as_deref(), error(&deleted[0])), (Some("configured"), None));

    let second = cluster.create_one(topic("configured", 1, 1)).expect("a topic").id;
    assert_ne!(first, second);
    assert_eq!(cluster.topic("configured").configs, BTreeMap::new());
    assert_eq!(cluster.controller.image().topics.len(), 1);
}

#[test]
fn topics_can_be_kept_from_deletion() {
    let mut cluster = Cluster::new(&[("delete.topic.enable", "false")]);
    let id = cluster.create_one(topic("t1", 1, 1)).expect("a topic").id;
    let request = ControllerRequest::DeleteTopics(vec![TopicName { name: None, id }]);
    let ControllerReply::DeleteTopics(deleted) = cluster.handle(request) else { panic!("another reply") };
    assert_eq!(deleted[0].result, Err(Refusal::plain(ErrorCode::TopicDeletionDisabled)));
    cluster.topic("t1");
}

#[test]
fn partitions_only_grow() {
    let mut cluster = Cluster::new(&[]);
    cluster.create_one(topic("t1", 4, 1)).expect("a topic");
    let mut grow = |name: &str, count, assignments: Option<Vec<Vec<i32>>>| {
        let topics = vec![NewPartitions { name: name.to_owned(), count, assignments }];
        match cluster.handle(ControllerRequest::CreatePartitions { topics, validate_only: false }) {
            ControllerReply::CreatePartitions(mut grown) => grown.pop().expect("one result").1.err(),
            other => panic!("not an answer to CreatePartitions: {other:?}"),
        }
    };
    is(
        grow("t1", 1, None),
        ErrorCode::InvalidPartitions,
        "The topic t1 currently has 4 partition(s); 1 would not be an increase.",
    );
    is(grow("t1", 4, None), ErrorCode::InvalidPartitions, "Topic already has 4 partition(s).");
    is(
        grow("t1", 6, Some(vec![vec![1]])),
        ErrorCode::InvalidReplicaAssignment,
        "Attempted to add 2 additional partition(s), but only 1 assignment(s) were specified.",
    );
    assert_eq!(grow("nope", 5, None), Some(Refusal::plain(ErrorCode::UnknownTopicOrPartition)));
    assert_eq!(grow("t1", i32::MAX, None).map(|refusal| refusal.error), Some(ErrorCode::PolicyViolation));
    assert_eq!(grow("t1", 6, None), None);
    assert_eq!(grow("t1", 7, Some(vec![vec![1]])), None);
    assert_eq!(cluster.topic("t1").partitions.len(), 7);
}

#[test]
fn topic_configs_change_one_by_one() {
    let mut cluster = Cluster::new(&[]);
    cluster.create_one(topic("t1", 1, 1)).expect("a topic");
    let t1 = || named("t1");
    is(
        cluster.alter(t1(), &[("segment.bytes", SET, Some("10"))]).err(),
        ErrorCode::InvalidConfig,
        "Invalid value 10 for configuration segment.bytes: Value must be at least 1048576",
    );
    is(
        cluster.alter(t1(), &[("segment.bytes", APPEND, Some("10"))]).err(),
        ErrorCode::InvalidConfig,
        "Can't APPEND to key segment.bytes because its type is not LIST.",
    );
    is(
        cluster.alter(named("nope"), &[("segment.bytes", SET, Some("10000000"))]).err(),
        ErrorCode::UnknownTopicOrPartition,
        "The topic 'nope' does not exist.",
    );
    is(
        cluster.alter(t1(), &[("retention.ms", SET, Some("1")), ("retention.ms", SET, Some("2"))]).err(),
        ErrorCode::InvalidRequest,
        "Error due to duplicate config keys",
    );
    is(
        cluster.alter(t1(), &[("retention.ms", SET, None)]).err(),
        ErrorCode::InvalidRequest,
        "Null value not supported for : retention.ms",
    );
    cluster.alter(t1(), &[("cleanup.policy", APPEND, Some("compact"))]).expect("a list");
    assert_eq!(cluster.topic("t1").configs["cleanup.policy"], "delete,compact");
    assert!(cluster.topic("t1").effective.compact && cluster.topic("t1").effective.delete);
    cluster.alter(t1(), &[("cleanup.policy", SUBTRACT, Some("delete"))]).expect("a list");
    assert!(!cluster.topic("t1").effective.delete);
    cluster.alter(t1(), &[("cleanup.policy", DELETE, None), ("retention.ms", SET, Some("9"))]).expect("valid changes");
    let t1 = cluster.topic("t1");
    assert_eq!(t1.configs, BTreeMap::from([("retention.ms".to_owned(), "9".to_owned())]));
    assert_eq!((t1.effective.compact, t1.effective.retention_ms), (false, 9));

    // One bad change spoils all of its resource.
    let changes = [("retention.ms", SET, Some("8")), ("nosuch", SET, Some("1"))];
    is(cluster.alter(named("t1"), &changes).err(), ErrorCode::InvalidConfig, "Unknown topic config name: nosuch");
    assert_eq!(cluster.topic("t1").effective.retention_ms, 9);
}

#[test]
fn alter_configs_replaces_all() {
    let mut cluster = Cluster::new(&[]);
    let configs =
        vec![("retention.ms".to_owned(), Some("5".to_owned())), ("flush.ms".to_owned(), Some("6".to_owned()))];
    cluster.create_one(NewTopic { configs, ..topic("t1", 1, 1) }).expect("a topic");
    let resources = vec![(named("t1"), vec![("segment.ms".to_owned(), Some("70".to_owned()))])];
    let reply = cluster.handle(ControllerRequest::AlterConfigs { resources, validate_only: false });
    assert_eq!(reply, ControllerReply::AlterConfigs(vec![(named("t1"), Ok(()))]));
    let t1 = cluster.topic("t1");
    assert_eq!(t1.configs, BTreeMap::from([("segment.ms".to_owned(), "70".to_owned())]));
    assert_eq!((t1.effective.segment_ms, t1.effective.retention_ms), (70, 604_800_000));
}

#[test]
fn broker_configs_reach_topics() {
    let mut cluster = Cluster::new(&[("log.retention.hours", "1")]);
    cluster.create_one(topic("t1", 1, 1)).expect("a topic");
    assert_eq!(cluster.topic("t1").effective.retention_ms, 3_600_000);
    is(
        cluster.alter(broker("1"), &[("node.id", SET, Some("9"))]).err(),
        ErrorCode::InvalidRequest,
        "Cannot update these configs dynamically: Set(node.id)",
    );
    is(
        cluster.alter(broker("2"), &[("log.retention.ms", SET, Some("9"))]).err(),
        ErrorCode::InvalidRequest,
        "Unexpected broker id, expected 1, but received 2",
    );
    cluster.alter(broker(""), &[("log.retention.ms", SET, Some("20"))]).expect("a dynamic config");
    assert_eq!(cluster.topic("t1").effective.retention_ms, 20);
    cluster.alter(broker("1"), &[("log.retention.ms", SET, Some("30"))]).expect("a dynamic config");
    assert_eq!(cluster.topic("t1").effective.retention_ms, 30);
    cluster.alter(named("t1"), &[("retention.ms", SET, Some("40"))]).expect("a topic config");
    assert_eq!(cluster.topic("t1").effective.retention_ms, 40);
    cluster.alter(named("t1"), &[("retention.ms", DELETE, None)]).expect("a topic config");
    cluster.alter(broker("1"), &[("log.retention.ms", DELETE, None)]).expect("a dynamic config");
    cluster.alter(broker(""), &[("log.retention.ms", DELETE, None)]).expect("a dynamic config");
    assert_eq!(cluster.topic("t1").effective.retention_ms, 3_600_000);
    assert_eq!(cluster.controller.image().broker_configs, BTreeMap::new());
}

#[test]
fn configs_that_nobody_knows_are_kept_and_not_shown() {
    let mut cluster = Cluster::new(&[]);
    for resource in ["", "1"] {
        cluster.alter(broker(resource), &[("plugin.secret", SET, Some("x"))]).expect("a custom config");
    }
    for name in ["listener.name.x.ssl.truststore.type", "security.inter.broker.protocol", "log.retenion.ms"] {
        let why = format!("Cannot update these configs dynamically: Set({name})");
        is(cluster.alter(broker("1"), &[(name, SET, Some("x"))]).err(), ErrorCode::InvalidRequest, &why);
    }
    let settings = Settings::new(1, BTreeMap::new()).expect("valid settings");
    for (resource, levels) in [("", 1), ("1", 2)] {
        let entries = describe(cluster.controller.image(), &settings, &broker(resource)).expect("a broker");
        let shown = entries.iter().find(|entry| entry.name == "plugin.secret").expect("it is set");
        assert_eq!((shown.value.as_deref(), shown.is_sensitive, shown.synonyms.len()), (None, true, levels));
    }
    cluster.alter(broker("1"), &[("plugin.secret", DELETE, None)]).expect("it is there");
    assert_eq!(cluster.controller.image().broker_configs, BTreeMap::new());
}

#[test]
fn producer_ids_are_given_once() {
    let mut cluster = Cluster::new(&[]);
    let mut next = 0;
    for count in [1000, 1, -3, i32::MAX] {
        let reply = cluster.handle(ControllerRequest::AllocateProducerIds { count });
        let ControllerReply::AllocateProducerIds(Ok(mut block)) = reply else { panic!("another reply") };
        assert_eq!(block.first, next);
        next += i64::from(block.count);
        assert!((1..=producer_ids::MAX_BLOCK).contains(&block.count));
        assert_eq!(block.take(), Some(block.first - 1));
    }
    assert_eq!(cluster.controller.image().next_producer_id, next);
}

#[test]
fn an_images_records_make_it_again() {
    let mut cluster = Cluster::new(&[("num.partitions", "3")]);
    let founded = cluster.controller.found(&mut || 77);
    cluster.controller.apply(&founded, 0).expect("the first record");
    assert_eq!(cluster.controller.image().cluster_id.len(), 22);
    assert_eq!(cluster.controller.found(&mut || 78), []);
    cluster.create(vec![topic("t1", -1, -1), topic("t2", 7, 1), with_config("durability", "relaxed")]);
    cluster.alter(broker(""), &[("log.segment.bytes", SET, Some("2000000"))]).expect("a dynamic config");
    cluster.alter(broker("1"), &[("log.roll.ms", SET, Some("1234"))]).expect("a dynamic config");
    cluster.handle(ControllerRequest::AllocateProducerIds { count: 5 });
    let image = cluster.controller.image();
    assert!(cluster.topic("configured").effective.durability_relaxed);

    let mut again = Cluster::new(&[("num.partitions", "3")]);
    again.controller.apply(&image.to_records(), image.offset).expect("an image's own records");
    assert_eq!(again.controller.image(), image);
}

/// So many items that comparing each with each would take minutes.
const MANY: usize = 100_000;

/// Names all different, and the same name as often.
fn many_names() -> [Vec<String>; 2] {
    [(0..MANY).map(|at| format!("many.names_{at}")).collect(), vec!["the.same_name".to_owned(); MANY]]
}

#[test]
fn many_topics_are_created_and_deleted_in_linear_time() {
    for names in many_names() {
        let mut cluster = Cluster::new(&[]);
        let distinct: BTreeSet<&String> = names.iter().collect();
        let results = cluster.create(names.iter().map(|name| topic(name, 1, 1)).collect());
        let made = results.iter().filter(|created| created.result.is_ok()).count();
        assert_eq!(results.len(), distinct.len(), "one answer for each name");
        assert_eq!(made, if distinct.len() == 1 { 0 } else { topics::MAX_PARTITIONS_PER_REQUEST });

        // Each has a twin among those that there are, or is there itself.
        let topics = names.iter().map(|name| topic(&name.replace('_', "."), 1, 1)).collect();
        let request = ControllerRequest::CreateTopics { topics, validate_only: true };
        let ControllerReply::CreateTopics(results) = cluster.handle(request) else { panic!("another answer") };
        let collide = |created: &&CreatedTopic| {
            created.result.as_ref().is_err_and(|refusal| refusal.error == ErrorCode::InvalidTopicException)
        };
        assert_eq!((results.len(), results.iter().filter(collide).count()), (distinct.len(), made));

        let grow = |name: &String| NewPartitions { name: name.clone(), count: 2, assignments: None };
        let request =
            ControllerRequest::CreatePartitions { topics: names.iter().map(grow).collect(), validate_only: true };
        let ControllerReply::CreatePartitions(results) = cluster.handle(request) else { panic!("another answer") };
        let grown = results.iter().filter(|(_, result)| result.is_ok()).count();
        assert_eq!((results.len(), grown), (distinct.len(), made));

        let by_name = |name: &String| TopicName { name: Some(name.clone()), ..TopicName::default() };
        let request = ControllerRequest::DeleteTopics(names.iter().map(by_name).collect());
        let ControllerReply::DeleteTopics(results) = cluster.handle(request) else { panic!("another answer") };
        assert_eq!((results.len(), results.iter().filter(|deleted| deleted.result.is_ok()).count()), (MANY, made));
        assert_eq!(cluster.controller.image().twin("many_names.0"), None, "what is gone has no twin");
    }
}

#[test]
fn many_resources_are_altered_in_linear_time() {
    for names in many_names() {
        let mut cluster = Cluster::new(&[]);
        let distinct = names.iter().collect::<BTreeSet<&String>>().len();
        let change = ConfigChange {
            name: "share.record.lock.duration.ms".to_owned(),
            operation: 0,
            value: Some("20000".to_owned()),
        };
        let resources = names.iter().map(|name| (ConfigResource::Group(name.clone()), vec![change.clone()])).collect();
        let request = ControllerRequest::IncrementalAlterConfigs { resources, validate_only: false };
        let ControllerReply::AlterConfigs(results) = cluster.handle(request) else { panic!("another answer") };
        let altered = results.iter().filter(|(_, result)| result.is_ok()).count();
        assert_eq!((results.len(), altered), (distinct, if distinct == 1 { 0 } else { MANY }));

        let update = |name: &String| FeatureUpdate { name: name.clone(), level: 1, upgrade_type: 1 };
        let updates = names.iter().map(update).collect();
        let request = ControllerRequest::UpdateFeatures { updates, validate_only: false };
        let ControllerReply::UpdateFeatures(refused) = cluster.handle(request) else { panic!("another answer") };
        assert_eq!(refused.expect_err("no such feature").error, ErrorCode::InvalidUpdateVersion);
    }
    // The same feature at its own level, which is fine but for the second time.
    let same = FeatureUpdate { name: features::METADATA_VERSION.to_owned(), level: 27, upgrade_type: 1 };
    let request = ControllerRequest::UpdateFeatures { updates: vec![same; MANY], validate_only: false };
    let ControllerReply::UpdateFeatures(refused) = Cluster::new(&[]).handle(request) else { panic!("another answer") };
    assert_eq!(refused.expect_err("each at most once").error, ErrorCode::InvalidRequest);
}

#[test]
fn long_lists_are_edited_in_linear_time() {
    const LIST: &str = "leader.replication.throttled.replicas";
    let mut cluster = Cluster::new(&[]);
    cluster.create_one(topic("t", 1, 1)).expect("a topic");
    let list = |range: std::ops::Range<usize>| range.map(|at| format!("{at}:1")).collect::<Vec<_>>().join(",");
    let (append, subtract) = (2, 3);
    // A value may be 256 KiB; what is taken out of it is as long as the request.
    let most = MANY / 4;
    for (operation, range, expected) in [
        (append, 0..most, list(0..most)),
        (append, most / 2..most + 10, list(0..most + 10)),
        (subtract, 10..most, format!("{},{}", list(0..10), list(most..most + 10))),
        (subtract, 0..MANY, String::new()),
    ] {
        let change = [(LIST, operation, Some(&*list(range)))];
        cluster.alter(ConfigResource::Topic("t".to_owned()), &change).expect("a right list");
        assert_eq!(cluster.topic("t").configs[LIST], expected);
    }
}

#[test]
fn how_many_replicas_must_be_in_sync_is_the_clusters_matter() {
    let mut cluster = Cluster::new(&[("min.insync.replicas", "2")]);
    let founded = cluster.controller.found(&mut || 77);
    cluster.controller.apply(&founded, 0).expect("the first records");
    let in_force = |cluster: &Cluster| cluster.controller.image().cluster_configs.get("min.insync.replicas").cloned();
    assert_eq!(in_force(&cluster).as_deref(), Some("2"), "what this broker was started with holds for all");

    let name = "min.insync.replicas";
    for (operation, value) in [(SET, Some("1")), (DELETE, None)] {
        let refused = cluster.alter(broker("1"), &[(name, operation, value)]).expect_err("not a broker's matter");
        assert_eq!(refused.error, ErrorCode::InvalidConfig);
    }
    let refused = cluster.alter(broker(""), &[(name, DELETE, None)]).expect_err("it must stay");
    assert_eq!(refused.error, ErrorCode::InvalidConfig);
    cluster.alter(broker(""), &[(name, SET, Some("3"))]).expect("the cluster's matter");

    let level = |level, upgrade_type| {
        let name = features::ELIGIBLE_LEADER_REPLICAS_VERSION.to_owned();
        let updates = vec![features::FeatureUpdate { name, level, upgrade_type }];
        ControllerRequest::UpdateFeatures { updates, validate_only: false }
    };
    assert_eq!(cluster.handle(level(0, 2)), ControllerReply::UpdateFeatures(Ok(())));
    cluster.alter(broker("1"), &[(name, SET, Some("1"))]).expect("each broker may have its own again");
    cluster.alter(broker(""), &[(name, DELETE, None)]).expect("and the cluster none");
    assert_eq!(cluster.handle(level(1, 1)), ControllerReply::UpdateFeatures(Ok(())));
    assert_eq!(in_force(&cluster).as_deref(), Some("2"));
    assert!(!cluster.controller.image().broker_configs.values().any(|configs| configs.contains_key(name)));
}

#[test]
fn a_refusal_repeats_no_more_of_a_name_than_there_can_be() {
    let name = "ü".repeat(16_000);
    let update = FeatureUpdate { name: name.clone(), level: 1, upgrade_type: 1 };
    let request = ControllerRequest::UpdateFeatures { updates: vec![update], validate_only: false };
    let ControllerReply::UpdateFeatures(refused) = Cluster::new(&[]).handle(request) else { panic!("another answer") };
    let image = MetadataImage::default();
    let refusals = [
        refused,
        elections::elect(&image, elections::ElectionType::Preferred, &name, 0),
        elections::reassign(&image, &[1], &name, 0, None, false),
    ];
    for refused in refusals {
        let message = refused.expect_err("there is no such thing").message.expect("a sentence");
        assert!(message.contains("üüü") && message.len() < 400, "{message}");
    }
}
