//! The broker on one core: what its connections and handlers share.
//!
//! Every core runs [`run_core`] over its [`Io`], in production and in simulation alike. Core 0 also accepts
//! connections and sees to the stop. The invariant: nothing in a [`Broker`] is shared with another core but
//! what is `Send` and said so. It does not know bytes or files.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use engine::controller::image::MetadataImage;
use engine::controller::{BrokerValues, Settings};
use engine::io::local::Bell;
use engine::io::mailbox::Mailbox;
use engine::io::{Class, Io};
use engine::limits::{OWN_DESCRIPTORS, log_descriptors};
use engine::replication::fetch_session::FetchSessions;
use engine::replication::share_session::ShareSessions;
use engine::shard::{Core, Message, NodeConfig};
use engine::stats::CoreStats;
use futures_lite::future;

use crate::authorizer::Authorizer;
use crate::connection::{self, Connections};
use crate::quota::{Accounts, QuotaManager};
use crate::{figures, limits, listener};

/// What the node is told at its start; the cores share it.
#[derive(Debug)]
pub struct BrokerConfig {
    /// The engine's part.
    pub node: Arc<NodeConfig>,
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
    /// Whether the node has been asked to stop.
    pub stopping: AtomicBool,
    /// Whether it has stopped.
    pub stopped: AtomicBool,
    /// What clients under a quota have used.
    pub accounts: Arc<Mutex<Accounts>>,
    /// What each core counts, in the order of their starts.
    pub stats: Mutex<Vec<Arc<CoreStats>>>,
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
    /// The fetch sessions of this core's connections.
    pub fetch_sessions: RefCell<FetchSessions>,
    /// The share sessions of this core's connections.
    pub share_sessions: RefCell<ShareSessions>,
    /// Producer ids that this core may give out.
    pub producer_ids: RefCell<Range<i64>>,
    /// The connections of this core.
    pub connections: Connections,
    /// What of the configs every request asks for.
    pub limits: FixedLimits,
    /// Who may do what; `None` if everyone may do everything.
    pub authorizer: Option<Arc<Authorizer>>,
    /// How much clients use.
    pub quotas: Rc<QuotaManager>,
    /// Rings when the node stops.
    pub stopping: Bell,
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
    /// Share sessions of the node (`group.share.max.share.sessions`).
    pub share_sessions: usize,
    /// Whether there are groups of the consumer protocol (`group.coordinator.rebalance.protocols`).
    pub consumer_groups: bool,
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
            share_sessions: size("group.share.max.share.sessions"),
            consumer_groups: values
                .list("group.coordinator.rebalance.protocols")
                .any(|protocol| protocol == "consumer"),
        }
    }
}

impl Broker {
    fn new(core: Core, config: Arc<BrokerConfig>) -> Rc<Broker> {
        let image = core.image();
        let values = BrokerValues::new(&config.node.settings, &image);
        let fixed = FixedLimits::new(&values);
        let quotas = Rc::new(QuotaManager::new(core.clone(), config.shared.accounts.clone(), &values));
        let authorizer = Authorizer::new(&values).map(Arc::new);
        let slots = fixed.fetch_sessions.div_ceil(core.shards());
        let accounts = core.accounts().clone();
        let share_slots = fixed.share_sessions.div_ceil(core.shards());
        Rc::new(Broker {
            core,
            config,
            fetch_sessions: RefCell::new(FetchSessions::new(slots, limits::FETCH_SESSION_EVICTION, accounts.clone())),
            share_sessions: RefCell::new(ShareSessions::new(share_slots, accounts)),
            producer_ids: RefCell::new(0..0),
            connections: Connections::default(),
            limits: fixed,
            authorizer,
            quotas,
            stopping: Bell::default(),
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

    /// The static configs under Kafka's names.
    pub fn settings(&self) -> &Settings {
        &self.config.node.settings
    }

    /// The most connections of the node: `max.connections`, which may change at any time, or fewer if there are not
    /// descriptors for so many.
    pub fn max_connections(&self) -> usize {
        let image = self.image();
        let most = BrokerValues::new(self.settings(), &image).number("max.connections");
        let most = usize::try_from(most).unwrap_or(0);
        let cores = self.core.shards() + 1;
        most.min(self.config.node.descriptors.map_or(usize::MAX, |all| connection_descriptors(all, cores)))
    }

    /// This broker's id.
    pub fn node_id(&self) -> i32 {
        self.config.node.node_id
    }

    /// Whether the node has been asked to stop.
    pub fn is_stopping(&self) -> bool {
        self.config.shared.stopping.load(Ordering::Relaxed)
    }
}

/// Why a node does not run, in a sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The engine cannot start: its directory, its disk or its metadata.
    #[error(transparent)]
    Start(#[from] engine::shard::StartError),
    /// The listener cannot.
    #[error("{0}")]
    Listen(String),
    /// It has stopped, but not cleanly: the reason has been told. What was acknowledged is on stable storage.
    #[error("stopped, but not cleanly: some records are in the journal alone, and the next start replays it")]
    Stop,
    /// The disk failed under it. What was acknowledged is on stable storage; the next start reads it back.
    #[error("the disk has failed ({0}); nothing more was acknowledged. Check the device, then start again")]
    Disk(String),
}

/// Runs the node's part on the core of `io`; returns when the node has stopped cleanly after SIGTERM or SIGINT,
/// on core 0 first and on the others soon after. `ready` is called on core 0 with the cluster's id and the
/// address listened on, once clients can connect.
///
/// # Errors
/// The sentence that says why the node cannot start or go on. The process must then leave.
pub async fn run_core(
    io: Io,
    mailbox: Mailbox<Message>,
    config: Arc<BrokerConfig>,
    ready: impl FnOnce(&str, SocketAddr),
) -> Result<(), Failure> {
    figures::keep_heart(&io, &config.shared);
    let core = engine::shard::start(io, mailbox, config.node.clone()).await?;
    let work = async {
        match core.io().core() {
            // The metadata core has no connections.
            metadata if metadata >= core.shards() => wait_for(&core, &config.shared.stopped).await,
            first_or_other => serve(first_or_other == 0, core.clone(), config.clone(), ready).await?,
        }
        Ok(())
    };
    future::or(work, async { Err(Failure::Disk(core.failed().await)) }).await
}

/// Serves connections on a shard's core until the node has stopped.
async fn serve(
    first: bool,
    core: Core,
    config: Arc<BrokerConfig>,
    ready: impl FnOnce(&str, SocketAddr),
) -> Result<(), Failure> {
    let shared = &config.shared;
    let broker = Broker::new(core, config.clone());
    broker.io().spawn(Class::Foreground, connection::janitor(broker.clone()));
    broker.io().spawn(Class::Foreground, take_connections(broker.clone()));
    broker.io().spawn(Class::Foreground, figures::publish(broker.clone()));
    if !first {
        wait_for(&broker.core, &shared.stopping).await;
        close(&broker);
        wait_for(&broker.core, &shared.stopped).await;
        return Ok(());
    }
    let address = listener::listen(broker.clone()).await?;
    ready(&broker.image().cluster_id, address);
    broker.io().terminated().await;
    tracing::info!("stopping");
    shared.stopping.store(true, Ordering::Relaxed);
    close(&broker);
    let is_clean = broker.core.stop().await;
    shared.stopped.store(true, Ordering::Relaxed);
    if !is_clean {
        return Err(Failure::Stop);
    }
    tracing::info!("stopped, everything is on stable storage");
    Ok(())
}

/// Descriptors for connections, of all that the process has: what its cores and the log leave, but at least one.
fn connection_descriptors(all: usize, cores: usize) -> usize {
    let others = log_descriptors(all) + OWN_DESCRIPTORS * (1 + cores);
    all.saturating_sub(others).max(1)
}

/// Looks at a flag that another core raises, now and then: a stop is in no hurry.
async fn wait_for(core: &Core, flag: &AtomicBool) {
    while !flag.load(Ordering::Relaxed) {
        core.io().sleep(limits::JANITOR_INTERVAL).await;
    }
}

/// Takes the connections that are handed to this core.
async fn take_connections(broker: Rc<Broker>) {
    while !broker.is_stopping() {
        let (stream, peer) = broker.core.next_connection().await;
        broker.io().spawn(Class::Foreground, connection::serve(broker.clone(), stream, peer));
    }
}

fn close(broker: &Broker) {
    broker.stopping.ring();
    broker.connections.close_all();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_to_the_log_and_the_cores() {
        assert_eq!(connection_descriptors(1024, 3), 512 - 64);
        assert_eq!(connection_descriptors(64, 3), 1);
        assert!(connection_descriptors(1 << 20, 65) > 500_000);
    }
}
