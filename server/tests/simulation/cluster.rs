//! The broker's machine and its lives: start, end, what it said when it did not start.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use corelog::broker::{self, BrokerConfig, Shared};
use engine::controller::Settings;
use engine::io::sim::{Faults, NodeId, World};
use engine::shard::{NodeConfig, node_mailboxes};

const PORT: u16 = 9092;
pub(crate) const DATA_DIR: &str = "/data";

/// What of a broker's configuration a seed draws.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    /// For each shard: small, so that files are used again within a seed.
    pub(crate) journal_bytes: u64,
    /// For each shard: small, so that reads come from the disk.
    pub(crate) memory_bytes: u64,
    /// Of the broker's configs, those that are not at their default.
    pub(crate) settings: BTreeMap<String, String>,
    /// Batches of at least so many bytes are written straight to their segment.
    pub(crate) past_journal_bytes: Option<usize>,
    /// Growth of a coordinator's log after which its state is written anew: small, so that it often is.
    pub(crate) snapshot_after_bytes: Option<u64>,
}

/// One broker and the machine of its clients.
pub(crate) struct Cluster {
    pub(crate) world: World,
    pub(crate) broker: NodeId,
    pub(crate) clients: NodeId,
    pub(crate) address: SocketAddr,
    layout: RefCell<Layout>,
    ready: Rc<Cell<bool>>,
    failures: Rc<RefCell<Vec<String>>>,
}

impl Cluster {
    /// `ready` tells, from here on, whether clients can connect.
    pub(crate) fn new(seed: u64, faults: Faults, layout: Layout, ready: Rc<Cell<bool>>) -> Cluster {
        let world = World::new(seed, faults);
        let (broker, clients) = (world.add_node(), world.add_node());
        let address = SocketAddr::new(world.address(broker), PORT);
        let layout = RefCell::new(layout);
        Cluster { world, broker, clients, address, layout, ready, failures: Rc::default() }
    }

    /// The next lives have another layout: an operator may change it between any two.
    pub(crate) fn redraw(&self, layout: Layout) {
        *self.layout.borrow_mut() = layout;
    }

    /// The next lives have journals and memory of these sizes, for each shard.
    pub(crate) fn resize(&self, journal_bytes: u64, memory_bytes: u64) {
        let mut layout = self.layout.borrow_mut();
        (layout.journal_bytes, layout.memory_bytes) = (journal_bytes, memory_bytes);
    }

    /// Journal and memory of the next life, for each shard.
    pub(crate) fn sizes(&self) -> (u64, u64) {
        let layout = self.layout.borrow();
        (layout.journal_bytes, layout.memory_bytes)
    }

    /// Starts a life of the broker, with so many shards and one core for the metadata. As in its `main`, a core
    /// that fails ends the process. `accept_loss` is the operator's word on logs whose end damage has made unsure.
    pub(crate) fn start(&self, shards: usize, accept_loss: bool) {
        self.ready.set(false);
        let layout = self.layout.borrow().clone();
        let node = NodeConfig {
            data_dir: DATA_DIR.into(),
            node_id: 1,
            shards,
            journal_bytes: layout.journal_bytes * shards as u64,
            memory_bytes: layout.memory_bytes * shards as u64,
            settings: Settings::new(1, layout.settings).expect("a test sets what is valid"),
            accept_loss,
            past_journal_bytes: layout.past_journal_bytes,
            snapshot_after_bytes: layout.snapshot_after_bytes,
            descriptors: None,
        };
        let mut mailboxes: Vec<_> = node_mailboxes(&node).into_iter().map(Some).collect();
        let config = Arc::new(BrokerConfig {
            node: Arc::new(node),
            listen: self.address,
            advertised_host: self.address.ip().to_string(),
            advertised_port: 0,
            shared: Shared::default(),
        });
        self.world.start(self.broker, shards + 1, |io| {
            let mailbox = mailboxes[io.core()].take().expect("a core starts once");
            let (config, ready, failures) = (config.clone(), self.ready.clone(), self.failures.clone());
            let killer = self.world.killer(self.broker);
            async move {
                if let Err(failure) = broker::run_core(io, mailbox, config, |_, _| ready.set(true)).await {
                    failures.borrow_mut().push(failure.to_string());
                    killer.kill();
                    std::future::pending::<()>().await;
                }
            }
        });
    }

    /// Whether clients can connect in this life.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.get()
    }

    /// Bytes of all checkpoints on the broker's disk.
    pub(crate) fn checkpoint_bytes(&self) -> u64 {
        let is_checkpoint = |path: &Path| path.to_string_lossy().contains("/checkpoint-");
        self.world.files(self.broker).iter().filter(|(path, _)| is_checkpoint(path)).map(|(_, len)| *len).sum()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.world.is_running(self.broker)
    }

    /// Why lives ended by themselves, since this was asked last.
    pub(crate) fn take_failures(&self) -> Vec<String> {
        self.failures.take()
    }
}
