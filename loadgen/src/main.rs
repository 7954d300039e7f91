//! `loadgen`: a load generator for any Kafka broker, whose numbers a sceptic may believe.
//!
//! Two phases, each on cores of its own: [`prepare`] asks the cluster who leads what, then the connections
//! run ([`producer`], [`consumer`]) while [`run`] watches them. Every record says who wrote it, its place in
//! the sequence and when it was due ([`payload`]), so that both sides can be verified.

mod client;
mod config;
mod consumer;
mod histogram;
mod payload;
mod producer;
mod report;
mod run;
mod schedule;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use engine::io::local::Bell;
use engine::io::uring::{self, CoreSpec};
use engine::io::{Class, Io};

use client::{Connection, Lane, Topic, deal};
use config::{Cli, Command, Common, ProduceArgs};
use report::{Machine, Report};
use run::{Outcome, Run, Span, Watcher};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Operations that a core has under way at once at most: a read and a write for each connection, and timers.
const COMPLETIONS: u32 = 32 << 10;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = cli.validate().and_then(|()| match cli.command {
        Command::Produce(args) => produce(args),
        Command::Consume(args) => consume(args),
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("loadgen: {error:#}");
            println!("FAILED");
            ExitCode::FAILURE
        }
    }
}

/// True if the run is in order.
fn produce(args: ProduceArgs) -> Result<bool> {
    let plan = prepare(&args.common, Some(&args))?;
    let settings = serde_json::to_value(&args)?;
    let args = Arc::new(args);
    let (job_args, topic, lanes) = (args.clone(), plan.topic.clone(), plan.lanes.len());
    let connect = move |io: Io, run: Arc<Run>, index: usize, lane: Lane| {
        let (args, topic) = (job_args.clone(), topic.clone());
        producer::produce(io, producer::Job { run, args, topic, lane, index, lanes })
    };
    let machine = Machine::now();
    let (run, outcome) = execute(&args.common, &plan, connect)?;
    if args.rate.is_some() && run::backlog_grows(&outcome.rows) {
        let behind = outcome.rows.last().map_or(0.0, |row| row.lag_ms);
        run.fail(|| format!("the broker does not keep up with --rate: {behind:.0} ms behind schedule, and growing"));
    }
    let latency = match (args.rate, args.acks.0) {
        (_, 0) => "one sample a request: until it was written to the socket; nothing is acknowledged",
        (Some(_), _) => "one sample a request: from when it was due until its acknowledgement",
        (None, _) => "one sample a request: from its send until its acknowledgement",
    };
    finish(Report {
        command: "produce",
        common: &args.common,
        settings,
        machine,
        partitions: plan.partitions,
        latency,
        outcome,
        failures: run.failures(),
    })
}

fn consume(args: config::ConsumeArgs) -> Result<bool> {
    let plan = prepare(&args.common, None)?;
    let settings = serde_json::to_value(&args)?;
    let args = Arc::new(args);
    let (job_args, topic) = (args.clone(), plan.topic.clone());
    let connect = move |io: Io, run: Arc<Run>, index: usize, lane: Lane| {
        let (args, topic) = (job_args.clone(), topic.clone());
        consumer::consume(io, consumer::Job { run, args, topic, lane, index })
    };
    let machine = Machine::now();
    let (run, outcome) = execute(&args.common, &plan, connect)?;
    if let Some(wanted) = args.common.records.filter(|wanted| outcome.all.records < *wanted) {
        run.fail(|| format!("{} records instead of {wanted}", outcome.all.records));
    }
    finish(Report {
        command: "consume",
        common: &args.common,
        settings,
        machine,
        partitions: plan.partitions,
        latency: "one sample a batch: from when its records were due at the producer until they arrived here; of what was written since the start",
        outcome,
        failures: run.failures(),
    })
}

fn finish(report: Report<'_>) -> Result<bool> {
    report.publish()?;
    Ok(report.failures.count == 0)
}

/// What the connections have to do.
struct Plan {
    topic: Arc<Topic>,
    partitions: usize,
    lanes: Vec<Lane>,
}

/// Creates the topic if asked to, and deals its partitions out.
fn prepare(common: &Common, create: Option<&ProduceArgs>) -> Result<Plan> {
    let address = common.bootstrap_address()?;
    let (name, wanted) = (common.topic.clone(), create.cloned());
    let core = CoreSpec::new("prepare", None, Duration::ZERO);
    let find = move |io: Io| find_topic(io, address, name.clone(), wanted.clone());
    let mut topic = on_first_core(vec![core], find)?.context("interrupted")??;
    if let Some(chosen) = &common.partitions {
        for &partition in &chosen.0 {
            let there = i32::try_from(partition).is_ok_and(|partition| topic.leaders.contains_key(&partition));
            ensure!(there, "topic {:?} has no partition {partition}", topic.name);
        }
        topic.leaders.retain(|partition, _| chosen.0.contains(&(*partition as usize)));
    }
    let mut lanes = deal(&topic.leaders, common.connections)?;
    if create.is_none() {
        // One reader for each partition: several would read the same.
        let mut seen = BTreeSet::new();
        lanes.retain(|lane| lane.partitions.iter().all(|partition| seen.insert(*partition)));
    }
    Ok(Plan { partitions: topic.leaders.len(), topic: Arc::new(topic), lanes })
}

async fn find_topic(io: Io, address: SocketAddr, name: String, create: Option<ProduceArgs>) -> Result<Topic> {
    let mut connection = Connection::open(&io, address).await?;
    let wanted = create.as_ref().and_then(|args| Some((args, args.create?)));
    if let Some((args, partitions)) = wanted {
        connection.create_topic(&name, partitions, args.replication_factor, &args.topic_config).await?;
    }
    let topic = connection.topic(&io, &name, wanted.is_some()).await?;
    if let Some((_, partitions)) = wanted {
        let there = topic.leaders.len();
        ensure!(
            there == partitions as usize,
            "topic {name:?} is there with {there} partitions, --create says {partitions}"
        );
        client::leaders_ready(&io, &topic).await?;
    }
    Ok(topic)
}

/// Runs `main` on the cores and gives what it returns on the first; none if that has not ended by itself.
fn on_first_core<T, F, Fut>(cores: Vec<CoreSpec>, main: F) -> Result<Option<T>>
where
    T: Send + 'static,
    F: Fn(Io) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = T> + 'static,
{
    let result = Arc::new(Mutex::new(None));
    let place = result.clone();
    uring::run(cores, move |io| {
        let (place, future, first) = (place.clone(), main(io.clone()), io.core() == 0);
        async move {
            let value = future.await;
            if first {
                *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
            }
        }
    })?;
    Ok(result.lock().unwrap_or_else(PoisonError::into_inner).take())
}

/// Runs the connections, dealt out to the cores, and watches them from the first.
fn execute<F, Fut>(common: &Common, plan: &Plan, connect: F) -> Result<(Arc<Run>, Outcome)>
where
    F: Fn(Io, Arc<Run>, usize, Lane) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let specs = cores(common);
    let span = Span { warmup: common.warmup(), measured: common.measured() };
    let run = Arc::new(Run::new(span, plan.lanes.len(), specs.len()));
    let (shared, lanes, n) = (run.clone(), plan.lanes.clone(), specs.len());
    let (broker_pid, prints) = (common.broker_pid, !common.quiet);
    let outcome = on_first_core(specs, move |io| {
        let (run, connect) = (shared.clone(), connect.clone());
        let mine: Vec<_> = lanes.iter().cloned().enumerate().skip(io.core()).step_by(n).collect();
        async move {
            let lanes = Lanes::spawn(&io, &run, mine, connect);
            if io.core() > 0 {
                lanes.ended().await;
                return None;
            }
            stop_on_signal(&io, run.clone());
            let outcome = Watcher { io: &io, run: &run, broker_pid, prints }.watch().await;
            Some(outcome)
        }
    })?;
    let outcome = outcome.flatten().context("the run has not ended by itself")?;
    Ok((run, outcome))
}

fn cores(common: &Common) -> Vec<CoreSpec> {
    let spin = Duration::from_micros(common.spin_us);
    let spec = |name: String, cpu| CoreSpec { completion_entries: COMPLETIONS, ..CoreSpec::new(name, cpu, spin) };
    match &common.cores {
        None => vec![spec("loadgen".into(), None)],
        Some(list) => list.0.iter().map(|cpu| spec(format!("loadgen-{cpu}"), Some(*cpu))).collect(),
    }
}

/// SIGINT and SIGTERM end the run early; it is then reported as far as it went.
fn stop_on_signal(io: &Io, run: Arc<Run>) {
    let waiting = io.clone();
    io.spawn(Class::Foreground, async move {
        waiting.terminated().await;
        run.stop();
    });
}

/// The connections of one core.
struct Lanes {
    left: Rc<Cell<usize>>,
    bell: Bell,
}

impl Lanes {
    fn spawn<F, Fut>(io: &Io, run: &Arc<Run>, lanes: Vec<(usize, Lane)>, connect: F) -> Lanes
    where
        F: Fn(Io, Arc<Run>, usize, Lane) -> Fut,
        Fut: Future<Output = ()> + 'static,
    {
        let (left, bell) = (Rc::new(Cell::new(lanes.len())), Bell::default());
        for (index, lane) in lanes {
            let (connection, left, bell) = (connect(io.clone(), run.clone(), index, lane), left.clone(), bell.clone());
            io.spawn(Class::Foreground, async move {
                connection.await;
                left.set(left.get() - 1);
                bell.ring();
            });
        }
        Lanes { left, bell }
    }

    async fn ended(&self) {
        self.bell.until(|| (self.left.get() == 0).then_some(())).await;
    }
}
