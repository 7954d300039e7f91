use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::controller::{NewTopic, ProducerIds, TopicName};
use crate::io::sim::{CrashKind, Faults, NodeId, World};
use crate::protocol::Uuid;

async fn open(io: Io) -> Quorum {
    let settings = Settings::new(1, BTreeMap::new()).expect("valid settings");
    Quorum::open(io, Path::new("/"), settings).await.expect("whole metadata")
}

fn create(name: &str, partitions: i32) -> ControllerRequest {
    let topic = NewTopic { name: name.to_owned(), partitions, replication_factor: 1, ..NewTopic::default() };
    ControllerRequest::CreateTopics { topics: vec![topic], validate_only: false }
}

fn delete(name: &str) -> ControllerRequest {
    ControllerRequest::DeleteTopics(vec![TopicName { name: Some(name.to_owned()), id: Uuid::ZERO }])
}

fn ids(reply: &ControllerReply) -> ProducerIds {
    match reply {
        ControllerReply::AllocateProducerIds(Ok(ids)) => *ids,
        other => panic!("not a block of ids: {other:?}"),
    }
}

fn image_of(world: &World, node: NodeId) -> MetadataImage {
    let image = world.block_on(node, async |io: Io| MetadataImage::clone(&open(io).await.image()));
    world.stop(node);
    image
}

#[test]
fn requests_of_one_commit_see_each_other() {
    let world = World::new(1, Faults::none());
    let node = world.add_node();
    let image = world.block_on(node, async |io: Io| {
        let mut quorum = open(io).await;
        let appended = quorum.log.last_index();
        let requests = vec![create("a", 2), create("a", 3), delete("a"), create("a", 5), create("b", 1)];
        let (replies, image) = quorum.handle_all(requests).await;
        let is_ok = |reply: &ControllerReply| match reply {
            ControllerReply::CreateTopics(created) => created[0].result.is_ok(),
            ControllerReply::DeleteTopics(deleted) => deleted[0].result.is_ok(),
            _ => false,
        };
        assert_eq!(replies.iter().map(is_ok).collect::<Vec<_>>(), [true, false, true, true, true]);
        let image = image.expect("a new image");
        assert_eq!(image.topic("a").expect("a topic").partitions.len(), 5);
        assert_eq!(image.offset, quorum.log.last_index());
        assert!(image.offset > appended);
        let (_, unchanged) = quorum.handle(create("a", 1)).await;
        assert_eq!(unchanged, None);
        MetadataImage::clone(&image)
    });
    world.stop(node);
    assert_eq!(image.cluster_id.len(), 22);
    assert_eq!(image_of(&world, node), image);
}

#[test]
fn a_restart_finds_the_image_that_was_shown() {
    for seed in 0..40 {
        let world = World::new(seed, Faults::none());
        let node = world.add_node();
        let mut cluster_id = None;
        for round in 0..4 {
            let kind = if (seed + round) % 2 == 0 { CrashKind::PowerLoss } else { CrashKind::Kill };
            let shown = world.block_on(node, async move |io: Io| {
                let mut quorum = open(io).await;
                let mut last_id = -1;
                for n in 0..10 {
                    quorum.handle(create(&format!("t{round}-{n}"), 1 + n)).await;
                    let (reply, _) = quorum.handle(ControllerRequest::AllocateProducerIds { count: 10 }).await;
                    assert!(ids(&reply).first > last_id, "a producer id is given once");
                    last_id = ids(&reply).first;
                }
                quorum.handle(delete(&format!("t{round}-{}", seed % 10))).await;
                MetadataImage::clone(&quorum.image())
            });
            world.crash(node, kind);
            world.run_for(Duration::from_secs(1));
            let found = image_of(&world, node);
            assert_eq!(found, shown, "seed {seed}, round {round}");
            assert_eq!(found.topics.len(), 9 * (round as usize + 1));
            assert_eq!(*cluster_id.get_or_insert(found.cluster_id.clone()), found.cluster_id);
        }
    }
}

#[test]
fn a_grown_log_is_compacted() {
    let world = World::new(1, Faults::none());
    let node = world.add_node();
    let shown = world.block_on(node, async |io: Io| {
        let mut quorum = open(io).await;
        quorum.handle(create("kept", 3)).await;
        for _ in 0..1300 {
            quorum.handle(ControllerRequest::AllocateProducerIds { count: 1000 }).await;
        }
        MetadataImage::clone(&quorum.image())
    });
    world.stop(node);
    assert_eq!(shown.next_producer_id, 1_300_000);
    let content = world.file_content(node, Path::new("/@metadata/log-a")).expect("a file");
    assert!(content.len() <= 3 << 20, "{} bytes are a compacted log", content.len());
    assert_eq!(image_of(&world, node), shown);
}

#[test]
fn a_failing_disk_refuses_and_shows_nothing() {
    let world = World::new(1, Faults::none());
    let node = world.add_node();
    image_of(&world, node);
    let io = world.io(node, 0);
    let mut quorum = world.block_on(node, open);
    drop(io);
    world.set_faults(Faults { write_error: 1.0, ..Faults::none() });
    let failed = world.block_on(node, async move |_| {
        let (reply, image) = quorum.handle(create("t", 1)).await;
        assert_eq!(image, None);
        assert!(quorum.has_failed());
        assert_eq!(quorum.image().topics.len(), 0);
        let ControllerReply::CreateTopics(created) = reply else { panic!("another reply") };
        created[0].result.clone().expect_err("a failing disk").error
    });
    assert_eq!(failed, ErrorCode::KafkaStorageError);
}
