//! The command line: what `loadgen produce` and `loadgen consume` are told, and whether it makes sense.
//!
//! Invariant: after [`Cli::validate`] every number is within its bounds and no two options contradict each
//! other. Knows nothing of brokers.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use engine::record::Codec;
use engine::record::batch::HEADER_SIZE;
use serde::Serialize;

use crate::payload::{self, Filler};

/// Most connections of one run.
const MAX_CONNECTIONS: usize = 10_000;
/// Most requests in flight on one connection.
const MAX_IN_FLIGHT: usize = 10_000;
/// Most requests that an idempotent producer may have in flight: a broker remembers that many batches.
const MAX_IDEMPOTENT_IN_FLIGHT: usize = 5;
/// The largest record and batch; brokers refuse them much earlier (`message.max.bytes`).
const MAX_BATCH_BYTES: usize = 64 << 20;
/// The longest run, in seconds.
const MAX_SECONDS: f64 = 30.0 * 86_400.0;

const EXAMPLES: &str = "\
Examples:
  As fast as the broker takes 1 KiB records, in 64 KiB batches, over 4 connections, for 10 s after 2 s of warm-up:
    loadgen produce --bootstrap localhost:9092 --topic t --create 6 --duration 10 --warmup 2
  Latency at a fixed rate (open loop): 50 000 records/s arriving at random, 10 in each request:
    loadgen produce --bootstrap localhost:9092 --topic t --rate 50000 --arrival poisson --batch-records 10
  Read everything that is there, verify it, and stop at the end:
    loadgen consume --bootstrap localhost:9092 --topic t --from earliest --until-end
  With the broker's processor time per GB, a report and a histogram:
    loadgen produce ... --broker-pid 4242 --json run.json --hgrm run.hgrm

The exit status is 1, and the last line FAILED, if any acknowledgement or record is wrong or missing, or if
the broker does not keep up with --rate.";

/// Load generator for any Kafka broker.
///
/// It writes records that say who wrote them, when they were due and what they contain, checks every
/// acknowledgement and every record that it reads back, and reports throughput and latency.
#[derive(Debug, Parser)]
#[command(name = "loadgen", version, after_help = EXAMPLES, after_long_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write records: at a fixed rate (open loop, --rate), or as fast as the broker acknowledges
    Produce(ProduceArgs),
    /// Read the records that `produce` wrote, and verify each
    Consume(ConsumeArgs),
}

/// What both commands understand.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct Common {
    /// Any broker of the cluster
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) bootstrap: String,
    /// The topic
    #[arg(long)]
    pub(crate) topic: String,
    /// Only these partitions, such as 0-5,7 (default: all of the topic)
    #[arg(long, value_name = "LIST")]
    pub(crate) partitions: Option<IndexList>,
    /// TCP connections; partitions are dealt out to them, those of a broker to its connections
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub(crate) connections: usize,
    /// Processors to run on, such as 0,2-3: a thread with a ring of its own is pinned to each (default: one
    /// thread, wherever the system puts it)
    #[arg(long, value_name = "LIST")]
    pub(crate) cores: Option<IndexList>,
    /// How long a thread looks for events before it sleeps; buys precision with processor time
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 0)]
    pub(crate) spin_us: u64,
    /// How long to measure
    #[arg(long, value_name = "SECONDS")]
    pub(crate) duration: Option<f64>,
    /// How long to run before measuring
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0)]
    pub(crate) warmup: f64,
    /// Stop after so many records, warm-up included (produce: rounded up to whole requests)
    #[arg(long, value_name = "N")]
    pub(crate) records: Option<u64>,
    /// Seed of arrival times and payload; the same seed gives the same schedule and the same bytes
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Process of the broker on this machine: its processor time is reported per GB and per million records
    #[arg(long, value_name = "PID")]
    pub(crate) broker_pid: Option<u32>,
    /// Write a report here: command, machine, summary, and a row for each second
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write the latency distribution here, in HdrHistogram's text form, in milliseconds
    #[arg(long, value_name = "FILE")]
    pub(crate) hgrm: Option<PathBuf>,
    /// Print no line each second
    #[arg(long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct ProduceArgs {
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) common: Common,
    /// Create the topic with N partitions, unless it is there
    #[arg(long, value_name = "N")]
    pub(crate) create: Option<i32>,
    /// Replicas of a created topic (-1: the broker's default)
    #[arg(long, value_name = "N", default_value_t = -1, requires = "create", allow_negative_numbers = true)]
    pub(crate) replication_factor: i16,
    /// Config of a created topic, such as flush.messages=1; may be given several times
    #[arg(long, value_name = "NAME=VALUE", requires = "create")]
    pub(crate) topic_config: Vec<String>,
    /// Size of a record's value; at least 32, which hold what is verified
    #[arg(long, value_name = "BYTES", default_value_t = 1024)]
    pub(crate) record_bytes: usize,
    /// Records in a batch
    #[arg(long, value_name = "N", conflicts_with_all = ["batch_bytes", "records_per_request"])]
    pub(crate) batch_records: Option<usize>,
    /// As many records in a batch as fit into so many bytes, at least one [default: 65536]
    #[arg(long, value_name = "BYTES", conflicts_with = "records_per_request")]
    pub(crate) batch_bytes: Option<usize>,
    /// Records in a request, evenly over its batches; another way to say --batch-records
    #[arg(long, value_name = "N")]
    pub(crate) records_per_request: Option<usize>,
    /// Batches in a request, each for another partition
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) partitions_per_request: usize,
    /// Most unacknowledged requests on a connection
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) in_flight: usize,
    /// Which acknowledgement to ask for: all, 1, or 0 for none (then nothing can be verified here)
    #[arg(long, default_value = "all")]
    pub(crate) acks: Acks,
    /// Records per second over all connections, whatever the broker does (open loop). A schedule of requests
    /// is made; the records of a request are due together, and latency counts from then, also if the request
    /// could not be sent in time. Without --rate each connection sends as soon as --in-flight allows, and
    /// latency counts from the send
    #[arg(long, value_name = "RECORDS/S")]
    pub(crate) rate: Option<f64>,
    /// How requests are spread over time, with --rate
    #[arg(long, value_enum, default_value_t = Arrival::Uniform, requires = "rate")]
    pub(crate) arrival: Arrival,
    /// Requests that are due at once, with --arrival burst
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub(crate) burst: u32,
    /// Codec of the batches: none, gzip, snappy, lz4 or zstd
    #[arg(long, default_value = "none", value_parser = parse_codec)]
    #[serde(serialize_with = "codec_name")]
    pub(crate) compression: Codec,
    /// What records are filled with: random does not compress, text does by about 3, zeros vanish
    #[arg(long, value_enum, default_value_t = Filler::Random)]
    pub(crate) payload: Filler,
    /// Be an idempotent producer on each connection (producer id, sequence numbers)
    #[arg(long)]
    pub(crate) idempotent: bool,
    /// Others write to these partitions too: acknowledged offsets may have gaps, and must only increase
    #[arg(long)]
    pub(crate) shared: bool,
    /// How long to wait for an acknowledgement before the run has failed
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0)]
    pub(crate) ack_timeout: f64,
}

#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct ConsumeArgs {
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) common: Common,
    /// Where to start in each partition
    #[arg(long, value_enum, default_value_t = From::Earliest)]
    pub(crate) from: From,
    /// Stop at the end that the partitions had at the start
    #[arg(long)]
    pub(crate) until_end: bool,
    /// Most bytes of one answer
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 20)]
    pub(crate) max_bytes: i32,
    /// Most bytes of one partition in an answer
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20)]
    pub(crate) partition_max_bytes: i32,
    /// Bytes that the broker waits for before it answers
    #[arg(long, value_name = "BYTES", default_value_t = 1)]
    pub(crate) min_bytes: i32,
    /// Longest time that the broker waits for them
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 500)]
    pub(crate) max_wait_ms: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Arrival {
    /// One after another, evenly
    Uniform,
    /// At random, independent of each other
    Poisson,
    /// Several at once (--burst), then a pause
    Burst,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum From {
    /// The oldest record there is
    Earliest,
    /// Only what is written from now on
    Latest,
}

/// `acks` of a Produce request: -1, 0 or 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Acks(pub(crate) i16);

impl FromStr for Acks {
    type Err = String;

    fn from_str(text: &str) -> Result<Acks, String> {
        match text {
            "all" | "-1" => Ok(Acks(-1)),
            "1" => Ok(Acks(1)),
            "0" => Ok(Acks(0)),
            _ => Err("acks are all, 1 or 0".into()),
        }
    }
}

fn parse_codec(text: &str) -> Result<Codec, String> {
    let known = || Codec::ALL.map(Codec::name).join(", ");
    Codec::ALL.into_iter().find(|codec| codec.name() == text).ok_or_else(|| format!("choose one of {}", known()))
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn codec_name<S: serde::Serializer>(codec: &Codec, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(codec.name())
}

/// A list of numbers and ranges such as `0-5,7`, sorted, each once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct IndexList(pub(crate) Vec<usize>);

impl FromStr for IndexList {
    type Err = String;

    fn from_str(text: &str) -> Result<IndexList, String> {
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| format!("{text:?} is not a number"));
        let mut indexes = Vec::new();
        for part in text.split(',') {
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(part)?, number(part)?),
            };
            if first > last || last - first > 1 << 20 {
                return Err(format!("{part:?} is not a range"));
            }
            indexes.extend(first..=last);
        }
        indexes.sort_unstable();
        indexes.dedup();
        Ok(IndexList(indexes))
    }
}

impl Cli {
    /// Checks what the parser could not.
    pub(crate) fn validate(&self) -> Result<()> {
        match &self.command {
            Command::Produce(args) => args.validate(),
            Command::Consume(args) => args.validate(),
        }
    }
}

impl Common {
    fn validate(&self) -> Result<()> {
        ensure!((1..=MAX_CONNECTIONS).contains(&self.connections), "--connections is between 1 and {MAX_CONNECTIONS}");
        ensure!((0.0..=MAX_SECONDS).contains(&self.warmup), "--warmup is between 0 and {MAX_SECONDS} seconds");
        if let Some(duration) = self.duration {
            ensure!(
                duration > 0.0 && duration <= MAX_SECONDS,
                "--duration is above 0 and at most {MAX_SECONDS} seconds"
            );
        }
        ensure!(self.records != Some(0), "--records is at least 1");
        Ok(())
    }

    /// The broker to ask first.
    pub(crate) fn bootstrap_address(&self) -> Result<SocketAddr> {
        resolve(&self.bootstrap)
    }

    /// How long to measure; without an end a very long time.
    pub(crate) fn measured(&self) -> Duration {
        Duration::from_secs_f64(self.duration.unwrap_or(MAX_SECONDS))
    }

    /// How long to run before measuring.
    pub(crate) fn warmup(&self) -> Duration {
        Duration::from_secs_f64(self.warmup)
    }
}

/// The first address of `HOST:PORT`, IPv4 before IPv6.
pub(crate) fn resolve(name: &str) -> Result<SocketAddr> {
    let mut addresses: Vec<_> =
        name.to_socket_addrs().with_context(|| format!("cannot resolve {name:?} (it takes HOST:PORT)"))?.collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    addresses.first().copied().with_context(|| format!("{name:?} has no address"))
}

impl ProduceArgs {
    fn validate(&self) -> Result<()> {
        self.common.validate()?;
        if self.common.duration.is_none() && self.common.records.is_none() {
            bail!("say when to stop: --duration or --records");
        }
        ensure!(self.record_bytes >= payload::STAMP_BYTES, "--record-bytes is at least {}", payload::STAMP_BYTES);
        ensure!(self.record_bytes <= MAX_BATCH_BYTES, "--record-bytes is at most {MAX_BATCH_BYTES}");
        ensure!(self.partitions_per_request >= 1, "--partitions-per-request is at least 1");
        ensure!((1..=MAX_IN_FLIGHT).contains(&self.in_flight), "--in-flight is between 1 and {MAX_IN_FLIGHT}");
        ensure!(self.burst >= 1, "--burst is at least 1");
        ensure!(self.rate.is_none_or(|rate| rate > 0.0 && rate.is_finite()), "--rate is above 0");
        ensure!(self.create.is_none_or(|partitions| partitions > 0), "--create takes a number of partitions");
        ensure!(self.ack_timeout > 0.0 && self.ack_timeout <= MAX_SECONDS, "--ack-timeout is above 0");
        if let Some(records) = self.records_per_request {
            let even = records >= 1 && records.is_multiple_of(self.partitions_per_request);
            ensure!(even, "--records-per-request is a multiple of --partitions-per-request");
        }
        if self.idempotent {
            ensure!(
                self.in_flight <= MAX_IDEMPOTENT_IN_FLIGHT,
                "--idempotent allows --in-flight {MAX_IDEMPOTENT_IN_FLIGHT}"
            );
            ensure!(self.acks == Acks(-1), "--idempotent needs --acks all");
        }
        for config in &self.topic_config {
            ensure!(config.contains('='), "--topic-config {config:?} is not NAME=VALUE");
        }
        let records = self.records_per_batch();
        ensure!(records >= 1, "a batch holds at least one record");
        ensure!(
            records.saturating_mul(self.record_bytes) <= MAX_BATCH_BYTES,
            "a batch holds at most {MAX_BATCH_BYTES} bytes"
        );
        Ok(())
    }

    /// Records in each batch.
    pub(crate) fn records_per_batch(&self) -> usize {
        if let Some(records) = self.batch_records {
            return records;
        }
        if let Some(records) = self.records_per_request {
            return records / self.partitions_per_request;
        }
        let bytes = self.batch_bytes.unwrap_or(64 << 10);
        payload::records_that_fit(bytes.saturating_sub(HEADER_SIZE), self.record_bytes).max(1)
    }

    /// Records in each request.
    pub(crate) fn records_in_request(&self) -> usize {
        self.records_per_batch() * self.partitions_per_request
    }
}

impl ConsumeArgs {
    fn validate(&self) -> Result<()> {
        self.common.validate()?;
        let endless = self.common.duration.is_none() && self.common.records.is_none() && !self.until_end;
        ensure!(!endless, "say when to stop: --duration, --records or --until-end");
        ensure!(
            self.max_bytes > 0 && self.partition_max_bytes > 0,
            "--max-bytes and --partition-max-bytes are above 0"
        );
        ensure!(self.min_bytes >= 0 && self.max_wait_ms >= 0, "--min-bytes and --max-wait-ms are not negative");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn produce(options: &str) -> Result<ProduceArgs> {
        let words = "loadgen produce --bootstrap 127.0.0.1:9092 --topic t".split(' ').chain(options.split_whitespace());
        let cli = Cli::try_parse_from(words)?;
        cli.validate()?;
        match cli.command {
            Command::Produce(args) => Ok(args),
            Command::Consume(_) => unreachable!("parsed from produce"),
        }
    }

    #[test]
    fn lists_are_numbers_and_ranges() {
        assert_eq!("7,0-2,1".parse(), Ok(IndexList(vec![0, 1, 2, 7])));
        for wrong in ["", "3-1", "a", "1,", "-2"] {
            assert!(wrong.parse::<IndexList>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn batches_are_as_large_as_asked_for() {
        assert_eq!(produce("--duration 1 --batch-records 3").unwrap().records_per_batch(), 3);
        let args = produce("--duration 1 --records-per-request 6 --partitions-per-request 2").unwrap();
        assert_eq!((args.records_per_batch(), args.records_in_request()), (3, 6));
        let args = produce("--duration 1 --record-bytes 1024 --batch-bytes 65536").unwrap();
        assert_eq!(args.records_per_batch(), 63, "64 KiB hold 63 records of 1 KiB with their framing");
    }

    #[test]
    fn contradictions_are_refused() {
        for wrong in [
            "",
            "--duration 0",
            "--records 0",
            "--duration 1 --batch-records 2 --batch-bytes 100",
            "--duration 1 --records-per-request 3 --partitions-per-request 2",
            "--duration 1 --idempotent --in-flight 6",
            "--duration 1 --idempotent --acks 1",
            "--duration 1 --record-bytes 31",
            "--duration 1 --arrival poisson",
            "--duration 1 --acks 2",
        ] {
            assert!(produce(wrong).is_err(), "{wrong:?}");
        }
    }
}
