//! The broker on one core: what its connections and handlers share.
//!
//! Every core runs [`run_core`] over its [`Io`], in production and in simulation alike. Core 0 also accepts
//! connections and sees to the stop. The invariant: nothing in a [`Broker`] is shared with another core but
//! what is `Send` and said so. It does not know bytes or files.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use engine::controller::image::MetadataImage;
use engine::controller::{BrokerValues, Settings};
use engine::io::local::Bell;
use engine::io::mailbox::Mailbox;
use engine::io::{Class, Io};
use engine::replication::fetch_session::FetchSessions;
use engine::shard::{Core, Message, NodeConfig};

use crate::budget::Budget;
use crate::connection::{self, Connections};
use crate::{limits, listener};

/// What the node is told at its start; the cores share it.
#[derive(Debug)]
pub struct BrokerConfig {
    /// The engine's part.
    pub node: Arc<NodeConfig>,
    /// The static configs under Kafka's names.
    pub settings: Arc<Settings>,
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The host that clients are told to connect to.
    pub advertised_host: String,
    /// The port that clients are told; 0 for the one that is listened on.
    pub advertised_port: u16,
    /// What the cores tell each other without messages.
    pub shared: Shared,
}

/// What the cores tell each other without messages.
#[derive(Debug, Default)]
pub struct Shared {
    /// Connections open on all cores.
    pub connections: AtomicUsize,
    /// The port that is listened on; 0 before that.
    pub port: AtomicU16,
}

impl BrokerConfig {
    /// The host and port that clients are told to connect to.
    pub fn advertised(&self) -> (&str, u16) {
        let port = match self.advertised_port {
            0 => self.shared.port.load(Ordering::Relaxed),
            port => port,
        };
        (&self.advertised_host, port)
    }
}

/// What the connections and handlers of one core share.
pub struct Broker {
    /// The engine on this core.
    pub core: Core,
    /// What the node was told.
    pub config: Arc<BrokerConfig>,
    /// Memory for requests, from before their bodies are read until they are answered.
    pub receive: Budget,
    /// Memory for the records of answers, until they are written.
    pub respond: Budget,
    /// The fetch sessions of this core's connections.
    pub fetch_sessions: RefCell<FetchSessions>,
    /// Producer ids that this core may give out.
    pub producer_ids: RefCell<Range<i64>>,
    /// The connections of this core.
    pub connections: Connections,
    /// What of the configs every request asks for.
    pub limits: FixedLimits,
    /// Rings when the node stops.
    pub stopping: Bell,
    stopped: Cell<bool>,
}

/// Configs that change only by a restart, read once.
#[derive(Debug, Clone, Copy)]
pub struct FixedLimits {
    /// The largest request in bytes (`socket.request.max.bytes`).
    pub request_bytes: usize,
    /// The most bytes of a Fetch answer (`fetch.max.bytes`).
    pub fetch_bytes: usize,
    /// When an idle connection is closed (`connections.max.idle.ms`); never if negative there.
    pub idle: Duration,
    /// Whether Metadata makes topics (`auto.create.topics.enable`).
    pub auto_create_topics: bool,
    /// Partitions in one answer to DescribeTopicPartitions (`max.request.partition.size.limit`).
    pub described_partitions: usize,
    /// Fetch sessions of the node (`max.incremental.fetch.session.cache.slots`).
    pub fetch_sessions: usize,
}

impl FixedLimits {
    fn new(values: &BrokerValues<'_>) -> FixedLimits {
        let size = |name| usize::try_from(values.number(name)).unwrap_or(0);
        let idle_ms = u64::try_from(values.number("connections.max.idle.ms")).unwrap_or(u64::MAX);
        FixedLimits {
            request_bytes: size("socket.request.max.bytes"),
            fetch_bytes: size("fetch.max.bytes"),
            idle: Duration::from_millis(idle_ms),
            auto_create_topics: values.boolean("auto.create.topics.enable"),
            described_partitions: size("max.request.partition.size.limit"),
            fetch_sessions: size("max.incremental.fetch.session.cache.slots"),
        }
    }
}

impl Broker {
    fn new(core: Core, config: Arc<BrokerConfig>) -> Rc<Broker> {
        let shards = core.shards() as u64;
        let budget = (config.node.memory_bytes / shards / limits::BUDGET_SHARE).max(limits::LEAST_BUDGET) as usize;
        let fixed = FixedLimits::new(&BrokerValues::new(&config.settings, &core.image()));
        let slots = fixed.fetch_sessions.div_ceil(core.shards());
        Rc::new(Broker {
            core,
            config,
            receive: Budget::new(budget),
            respond: Budget::new(budget),
            fetch_sessions: RefCell::new(FetchSessions::new(slots, limits::FETCH_SESSION_EVICTION)),
            producer_ids: RefCell::new(0..0),
            connections: Connections::default(),
            limits: fixed,
            stopping: Bell::default(),
            stopped: Cell::new(false),
        })
    }

    /// The core's clock, chance, disk and net.
    pub fn io(&self) -> &Io {
        self.core.io()
    }

    /// The newest metadata that this core has applied.
    pub fn image(&self) -> Arc<MetadataImage> {
        self.core.image()
    }

    /// The most connections of the node (`max.connections`), which may change at any time.
    pub fn max_connections(&self) -> usize {
        let image = self.image();
        let most = BrokerValues::new(&self.config.settings, &image).number("max.connections");
        usize::try_from(most).unwrap_or(0)
    }

    /// This broker's id.
    pub fn node_id(&self) -> i32 {
        self.config.node.node_id
    }

    /// Whether the node has been asked to stop.
    pub fn is_stopping(&self) -> bool {
        self.stopped.get()
    }
}

/// Why a node does not start, in a sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The engine cannot: its directory, its disk or its metadata.
    #[error(transparent)]
    Engine(#[from] engine::shard::StartError),
    /// The listener cannot.
    #[error("{0}")]
    Listen(String),
    /// The disk failed under the running node: it leaves, and the next start recovers from what the disk holds.
    #[error("{0}; stopping, for only a restart can tell what is on disk")]
    Disk(String),
}

/// Runs the node's part on the core of `io`. On core 0 it returns when the node has stopped cleanly, after
/// SIGTERM or SIGINT; on the others it goes on for as long as the core lives. `ready` is called on core 0 with
/// the cluster's id and the address listened on, once clients can connect.
///
/// # Errors
/// The sentence that says why the node cannot start.
pub async fn run_core(
    io: Io,
    mailbox: Mailbox<Message>,
    config: Arc<BrokerConfig>,
    ready: impl FnOnce(&str, SocketAddr),
) -> Result<(), StartError> {
    let core = engine::shard::start(io.clone(), mailbox, config.node.clone()).await?;
    let failing = core.clone();
    let failed = async move { Err(StartError::Disk(failing.failed().await)) };
    futures_lite::future::or(failed, serve(io, core, config, ready)).await
}

async fn serve(
    io: Io,
    core: Core,
    config: Arc<BrokerConfig>,
    ready: impl FnOnce(&str, SocketAddr),
) -> Result<(), StartError> {
    if io.core() >= core.shards() {
        // The metadata core has no connections.
        return std::future::pending().await;
    }
    let broker = Broker::new(core, config);
    io.spawn(Class::Foreground, connection::janitor(broker.clone()));
    io.spawn(Class::Foreground, serve_connections(broker.clone()));
    if io.core() == 0 {
        let address = listener::listen(broker.clone()).await?;
        ready(&broker.image().cluster_id, address);
        io.terminated().await;
        tracing::info!("stopping");
        stop(&broker);
        broker.core.stop().await;
        tracing::info!("stopped; everything is on stable storage");
        return Ok(());
    }
    std::future::pending().await
}

/// Takes the connections that are handed to this core.
async fn serve_connections(broker: Rc<Broker>) {
    while !broker.is_stopping() {
        let (stream, peer) = broker.core.next_connection().await;
        broker.io().spawn(Class::Foreground, connection::serve(broker.clone(), stream, peer));
    }
}

fn stop(broker: &Broker) {
    broker.stopped.set(true);
    broker.stopping.ring();
    broker.connections.close_all();
}
