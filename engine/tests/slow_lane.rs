//! What unpacks to much holds up nobody but those behind it: overtaking, order and short turns, in simulation.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use engine::controller::{ControllerRequest, NewTopic, Settings};
use engine::io::sim::{Faults, World};
use engine::io::{Io, TURN};
use engine::protocol::ErrorCode;
use engine::record::{BatchBuilder, Codec};
use engine::shard::message::{Origin, PartitionId, Produce, ProducePart, Reply, Request};
use engine::shard::{Core, NodeConfig, node_mailboxes, start};

const PARTITIONS: i32 = 8;

fn batch(codec: Codec, value: &[u8]) -> Bytes {
    let mut batch = BatchBuilder::new().codec(codec);
    batch.append(0, None, Some(value), &[]);
    batch.finish().into()
}

/// Sends batches without waiting for their answers; gives their partitions' errors and offsets.
fn send(core: &Core, origin: Origin, parts: Vec<(i32, Bytes)>) -> impl Future<Output = Vec<(ErrorCode, i64)>> + use<> {
    let topic_id = core.image().topic("t").expect("it was made").id;
    let part = |(partition, records)| ProducePart { id: PartitionId { topic_id, partition }, records, guard: None };
    let parts = parts.into_iter().map(part).collect();
    let deadline = core.io().now() + Duration::from_secs(30);
    let reply = core.request(0, Request::Produce(Produce { acks: -1, version: 12, origin, deadline, parts }));
    async move {
        let Some(Reply::Produce(results)) = reply.await else { panic!("a running node answers") };
        results.iter().map(|result| (result.error, result.base_offset)).collect()
    }
}

async fn judge(core: Core) {
    let configs = [("compression.type".to_owned(), Some("producer".to_owned()))].into_iter().collect();
    let topic =
        NewTopic { name: "t".into(), partitions: PARTITIONS, replication_factor: 1, configs, ..NewTopic::default() };
    core.controller(ControllerRequest::CreateTopics { topics: vec![topic], validate_only: false }).await;

    let (bomb, small) = (batch(Codec::Zstd, &vec![0; 32 << 20]), batch(Codec::Zstd, b"small"));
    let (hostile, peaceful) = ((0, 1), (0, 2));
    let bombs = send(&core, hostile, (0..PARTITIONS).map(|partition| (partition, bomb.clone())).collect());
    let behind = send(&core, hostile, vec![(0, small.clone()), (7, batch(Codec::None, b"plain"))]);
    let others = send(&core, peaceful, vec![(0, small.clone()), (7, small.clone())]);
    let none = ErrorCode::None;
    assert_eq!(others.await, [(none, 0), (none, 0)], "another connection overtakes");
    let bombs = bombs.await;
    assert!(bombs.iter().all(|(error, _)| *error == none), "they are right: {bombs:?}");
    assert_eq!((bombs[0].1, bombs[7].1, bombs[3].1), (1, 1, 0));
    assert_eq!(behind.await, [(none, 2), (none, 2)], "the same connection does not");

    // The lane is empty again: nobody waits for anything.
    assert_eq!(send(&core, hostile, vec![(0, small)]).await, [(none, 3)]);
}

#[test]
fn what_unpacks_to_much_is_overtaken_but_not_by_its_own_connection() {
    for seed in 0..20 {
        let world = World::new(seed, Faults::none());
        let node = world.add_node();
        let config = Arc::new(NodeConfig {
            data_dir: "/data".into(),
            node_id: 1,
            shards: 1,
            journal_bytes: 64 << 20,
            memory_bytes: 64 << 20,
            settings: Settings::new(1, BTreeMap::new()).expect("the defaults are valid"),
            accept_loss: false,
            past_journal_bytes: None,
            snapshot_after_bytes: None,
            descriptors: None,
        });
        let mut mailboxes: Vec<_> = node_mailboxes(&config).into_iter().map(Some).collect();
        let ready: Rc<RefCell<Option<Core>>> = Rc::default();
        world.start(node, 2, |io: Io| {
            let mailbox = mailboxes[io.core()].take().expect("a core starts once");
            let (config, ready) = (config.clone(), ready.clone());
            async move {
                let core = start(io.clone(), mailbox, config).await.expect("the node starts");
                if io.core() == 0 {
                    *ready.borrow_mut() = Some(core);
                }
                std::future::pending().await
            }
        });
        assert!(world.run_until(Duration::from_secs(60), || ready.borrow().is_some()), "the node is ready");
        let core = ready.borrow().clone().expect("it is ready");
        world.block_on(node, |_| judge(core));
        let turn = world.longest_turn();
        assert!(turn > TURN / 2 && turn <= 2 * TURN, "seed {seed}: a core was held for {turn}");
    }
}
