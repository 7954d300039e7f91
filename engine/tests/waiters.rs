//! Who waits for news is forgotten when nobody waits for the answer any more, on each core that was asked.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use engine::controller::{ControllerRequest, NewTopic, Settings};
use engine::io::sim::{Faults, World};
use engine::shard::message::{Await, PartitionId, Request, owner};
use engine::shard::{Core, NodeConfig, node_mailboxes, start};

const SHARDS: usize = 3;
const PARTITIONS: i32 = 12;

/// What is left on all shards: requests that wait, and answers that are waited for.
fn left(cores: &BTreeMap<usize, Core>) -> (usize, usize) {
    (cores.values().map(Core::waiting).sum(), cores.values().map(Core::replies_under_way).sum())
}

#[test]
fn an_abandoned_wait_is_forgotten_by_every_core() {
    for seed in 0..5 {
        let world = World::new(seed, Faults::none());
        let node = world.add_node();
        let config = Arc::new(NodeConfig {
            data_dir: "/data".into(),
            node_id: 1,
            shards: SHARDS,
            journal_bytes: 64 << 20,
            memory_bytes: 64 << 20,
            settings: Settings::new(1, BTreeMap::new()).expect("the defaults are valid"),
            accept_loss: false,
            past_journal_bytes: None,
            descriptors: None,
            snapshot_after_bytes: None,
        });
        let mut mailboxes: Vec<_> = node_mailboxes(&config).into_iter().map(Some).collect();
        let cores: Rc<RefCell<BTreeMap<usize, Core>>> = Rc::default();
        let done = Rc::new(RefCell::new(false));
        world.start(node, SHARDS + 1, |io| {
            let mailbox = mailboxes[io.core()].take().expect("a core starts once");
            let (config, cores, done) = (config.clone(), cores.clone(), done.clone());
            async move {
                let core = start(io.clone(), mailbox, config).await.expect("the node starts");
                if io.core() < SHARDS {
                    cores.borrow_mut().insert(io.core(), core.clone());
                }
                if io.core() == 0 {
                    abandon_waits(&core).await;
                    *done.borrow_mut() = true;
                }
                std::future::pending().await
            }
        });
        assert!(world.run_until(Duration::from_secs(60), || *done.borrow()), "the waits were begun");
        world.run_for(Duration::from_secs(1));
        assert_eq!(left(&cores.borrow()), (0, 0), "seed {seed}");
    }
}

/// Waits on all cores for a day, names each partition many times, and gives up; some at once, some after a while.
async fn abandon_waits(core: &Core) {
    let topic = NewTopic { name: "t".into(), partitions: PARTITIONS, replication_factor: 1, ..NewTopic::default() };
    core.controller(ControllerRequest::CreateTopics { topics: vec![topic], validate_only: false }).await;
    let topic_id = core.image().topic("t").expect("it was made").id;
    let deadline = core.io().now() + Duration::from_secs(86_400);
    for round in 0..20 {
        let ids = (0..PARTITIONS).map(|partition| PartitionId { topic_id, partition });
        let mut waits = Vec::new();
        for shard in 0..core.shards() {
            let parts: Vec<_> = ids.clone().filter(|id| owner(*id, core.shards()) == shard).map(|id| (id, 0)).collect();
            let parts = parts.repeat(50);
            waits.push(core.wait(shard, Request::Await(Await { deadline, read_committed: false, parts })));
        }
        core.io().sleep(Duration::from_millis(round % 3)).await;
        let settled = futures_lite::future::poll_once(&mut waits[0]).await;
        assert!(settled.is_none(), "there is no news");
    }
}
