//! `corelog`: reads its settings, plans its cores, and runs a broker on them.
//!
//! The only place that chooses the production backend. Everything after the start is in the library.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use clap::Parser;
use corelog::broker::{self, BrokerConfig, Shared};
use corelog::config::{Cli, Settings, enough_memory};
use corelog::cores::CorePlan;
use corelog::metrics;
use engine::controller::Settings as BrokerSettings;
use engine::io::Io;
use engine::io::mailbox::Mailbox;
use engine::io::uring::{self, CoreSpec};
use engine::limits::{LEAST_MEMORY_PER_CORE, SMALLEST_JOURNAL};
use engine::shard::{Message, NodeConfig, node_mailboxes};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Memory if there is no telling how much the machine has.
const FALLBACK_MEMORY: u64 = 1 << 30;
/// Memory of each shard by default, half of it the tail's cache. Consumers that keep up need far less, those that
/// do not read whole runs from the disk; more would be cleared page by page for nothing.
const MEMORY_PER_SHARD: u64 = 1 << 30;
/// Journal of each shard by default: a start after kill -9 reads some three of its eight files, in a fraction of a
/// second.
const JOURNAL_PER_SHARD: u64 = 256 << 20;

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logging();
    let outcome = cli.settings().and_then(|settings| run(&settings));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("corelog: {}", sentence(&why));
            ExitCode::FAILURE
        }
    }
}

/// To standard error, at the levels of CORELOG_LOG (`info` if unset), such as `debug` or `corelog=trace,info`.
fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("CORELOG_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi).init();
}

fn run(settings: &Settings) -> Result<(), String> {
    let available: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
    let plan = CorePlan::new(&available, settings.cores.as_deref(), settings.metadata_cores.as_deref())?;
    let config = broker_config(settings, &plan)?;
    if let Some(listener) = metrics::listen(settings.metrics)? {
        metrics::serve(listener, config.clone(), &plan)
            .map_err(|error| format!("There is no thread for metrics: {error}."))?;
    }
    let mailboxes = node_mailboxes(&config.node).into_iter().map(Some).collect();
    let node = Arc::new(Node { config, plan: plan.clone(), mailboxes: Mutex::new(mailboxes) });
    let specs = core_specs(&plan, settings.spin);
    uring::run(specs, move |io| node.clone().run_core(io)).map_err(|error| sentence(&error.to_string()))
}

fn broker_config(settings: &Settings, plan: &CorePlan) -> Result<Arc<BrokerConfig>, String> {
    let shards = plan.shards.len() as u64;
    let memory_bytes = match settings.memory_bytes {
        Some(bytes) => enough_memory(bytes, shards)?,
        None => half_of_memory().min(MEMORY_PER_SHARD * shards).max(LEAST_MEMORY_PER_CORE * shards),
    };
    let node = NodeConfig {
        data_dir: settings.data_dir.clone(),
        node_id: settings.node_id,
        shards: plan.shards.len(),
        journal_bytes: settings.journal_bytes.unwrap_or(JOURNAL_PER_SHARD * shards).max(SMALLEST_JOURNAL * shards),
        memory_bytes,
        settings: BrokerSettings::new(settings.node_id, settings.static_configs())?,
        accept_loss: settings.accept_loss,
        past_journal_bytes: settings.past_journal_bytes,
        snapshot_after_bytes: None,
        descriptors: uring::raise_descriptor_limit(),
    };
    let (advertised_host, advertised_port) = settings.advertise.clone();
    Ok(Arc::new(BrokerConfig {
        node: Arc::new(node),
        listen: settings.listen,
        advertised_host,
        advertised_port,
        shared: Shared::default(),
    }))
}

/// The shards spin as asked for; the metadata never does where it would take the time from a shard.
fn core_specs(plan: &CorePlan, spin: Duration) -> Vec<CoreSpec> {
    let shard = |(index, cpu): (usize, &usize)| CoreSpec::new(format!("shard-{index}"), Some(*cpu), spin);
    let metadata_spin = if plan.metadata_shares() { Duration::ZERO } else { spin };
    let metadata = CoreSpec::new("metadata", Some(plan.metadata), metadata_spin);
    plan.shards.iter().enumerate().map(shard).chain([metadata]).collect()
}

/// What the cores' threads are given.
struct Node {
    config: Arc<BrokerConfig>,
    plan: CorePlan,
    /// Each core takes its own end.
    mailboxes: Mutex<Vec<Option<Mailbox<Message>>>>,
}

impl Node {
    async fn run_core(self: Arc<Self>, io: Io) {
        let mailbox = self.mailboxes.lock().expect("no holder of the lock panics")[io.core()].take();
        let mailbox = mailbox.expect("a core runs once");
        let ready = |cluster_id: &str, address| {
            tracing::info!(
                "listening on {address}, data in {}, {}, cluster {cluster_id}",
                self.config.node.data_dir.display(),
                self.plan
            );
        };
        let outcome = broker::run_core(io, mailbox, self.config.clone(), ready).await;
        match outcome {
            // The other cores have nothing left to do: all is on stable storage.
            Ok(()) => std::process::exit(0),
            Err(error) => {
                // All cores learn of it, and one tells: the first, as the process ends with it.
                SAID.call_once(|| {
                    eprintln!("corelog: {}", sentence(&error.to_string()));
                    std::process::exit(1)
                });
            }
        }
    }
}

/// Whether the reason of the end has been told.
static SAID: Once = Once::new();

fn sentence(text: &str) -> String {
    let text = text.trim();
    if text.ends_with('.') { text.to_owned() } else { format!("{text}.") }
}

/// Half of what this process may use: of the machine's memory, or of its control group's.
#[expect(clippy::disallowed_methods, reason = "the machine is asked before there is a core with an Io")]
fn half_of_memory() -> u64 {
    let read = |path: &str| std::fs::read(path).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let total = read("/proc/meminfo").and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemTotal:"))?.to_owned();
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
    });
    let group = read("/sys/fs/cgroup/memory.max").and_then(|text| text.trim().parse::<u64>().ok());
    total.into_iter().chain(group).min().map_or(FALLBACK_MEMORY, |bytes| bytes / 2)
}
