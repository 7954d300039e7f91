//! Figures as Prometheus' text, version 0.0.4.
//!
//! The invariant: each family is told once, with its help and type before its samples; the README's table names them all,
//! and `tests/process` holds that. It decides what a figure is called and nothing else.

use std::fmt::{Display, Write};
use std::sync::Arc;
use std::time::Duration;

use engine::accounts::Class;
use engine::io::Instant;
use engine::protocol::{ApiKey, ErrorCode};
use engine::stats::{ApiStats, BOUNDS_US, BUCKETS, CoreStats, Counter, Gauge, Histogram};

use super::process::ProcessFigures;
use crate::dispatch::SERVED;

/// Picks a figure of an API, or of a core.
type OfApi = fn(&ApiStats) -> &Counter;
type CounterOf = fn(&CoreStats) -> &Counter;
type HistogramOf = fn(&CoreStats) -> &Histogram;

/// The type of such a text.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What belongs to the node and to none of its cores.
pub(super) struct Node {
    pub(super) is_ready: bool,
    pub(super) memory_limit_bytes: u64,
    pub(super) now: Instant,
}

/// All figures. Those of cores are their sums, but for what says which core it is of.
pub(super) fn render(cores: &[Arc<CoreStats>], node: &Node, process: &ProcessFigures) -> String {
    let mut text = Text { out: String::with_capacity(32 << 10), cores };
    text.requests();
    text.produce();
    text.journal();
    text.connections();
    text.node(node);
    text.process(process);
    text.out
}

struct Text<'a> {
    out: String,
    cores: &'a [Arc<CoreStats>],
}

/// The parts.
impl Text<'_> {
    fn requests(&mut self) {
        let of_api: [(_, _, OfApi); 3] = [
            ("corelog_requests_total", "Requests whose header was read, by API.", |api| &api.requests),
            ("corelog_request_bytes_total", "Bytes of requests, by API.", |api| &api.request_bytes),
            ("corelog_response_bytes_total", "Bytes of answers, by API.", |api| &api.response_bytes),
        ];
        for (name, help, of) in of_api {
            self.family(name, "counter", help);
            for api in SERVED {
                let total = self.sum(|core| of(core.api(api.code())));
                self.sample_if_any(name, "api", ApiKey::name(*api), total);
            }
        }
        let help = "Time from a request's header until its answer is ready. Fetches may wait for news.";
        self.histograms(
            "corelog_request_seconds",
            help,
            "api",
            &[
                ("Produce", |core| &core.requests.produce),
                ("Fetch", |core| &core.requests.fetch),
                ("other", |core| &core.requests.other),
            ],
        );
        let help = "Time of each stage of a request; flush has one sample a journal group.";
        self.histograms(
            "corelog_stage_seconds",
            help,
            "stage",
            &[
                ("receive", |core| &core.stages.receive),
                ("queue", |core| &core.stages.queue),
                ("append", |core| &core.stages.append),
                ("flush", |core| &core.stages.flush),
                ("respond", |core| &core.stages.respond),
            ],
        );
        let help = "Requests that closed their connection instead of being answered, by reason.";
        self.counters(
            "corelog_requests_refused_total",
            help,
            "reason",
            &[
                ("size", |core| &core.refusals.size),
                ("malformed", |core| &core.refusals.malformed),
                ("not_served", |core| &core.refusals.not_served),
                ("unanswerable", |core| &core.refusals.unanswerable),
            ],
        );
    }

    fn produce(&mut self) {
        let name = "corelog_produce_refused_total";
        self.family(name, "counter", "Batches that were refused, by the error that the producer was told.");
        for error in ErrorCode::ALL.iter().filter(|error| error.code() != 0) {
            let total = self.cores.iter().map(|core| core.produce_errors.get(error.code())).sum();
            self.sample_if_any(name, "error", error.name(), total);
        }
        let help = "Records acknowledged before they were durable, and still not: 0 but for durability=relaxed.";
        self.gauge("corelog_acknowledged_not_durable_records", help, |core| &core.acknowledged_not_durable);
        self.gauge("corelog_partitions", "Partitions of this broker.", |core| &core.partitions);
    }

    fn journal(&mut self) {
        let help = "Bytes of batches appended to the journal.";
        self.counter("corelog_journal_appended_bytes_total", help, |core| &core.journal.appended_bytes);
        let help = "Bytes written to the journal, directories and padding of groups included.";
        self.counter("corelog_journal_written_bytes_total", help, |core| &core.journal.written_bytes);
        self.counter("corelog_journal_groups_total", "Groups that became durable.", |core| &core.journal.groups);
        let help = "Journal files in use; each core has eight at most.";
        self.gauge("corelog_journal_files", help, |core| &core.journal.files);
        self.family("corelog_journal_flush_seconds", "histogram", "Time of a group's write with its flush.");
        self.histogram("corelog_journal_flush_seconds", "", |core| &core.journal.flush);
        let help = "Bytes that left the tail cache to keep its bound.";
        self.counter("corelog_evicted_bytes_total", help, |core| &core.housekeeping.evicted_bytes);
        self.counter("corelog_drains_total", "Writes to segments.", |core| &core.housekeeping.drains);
        self.counter("corelog_drained_bytes_total", "Bytes written to segments.", |core| {
            &core.housekeeping.drained_bytes
        });
        let help = "Time of a checkpoint, the flushes of segments before it included.";
        self.family("corelog_checkpoint_seconds", "histogram", help);
        self.histogram("corelog_checkpoint_seconds", "", |core| &core.housekeeping.checkpoints);
    }

    fn connections(&mut self) {
        self.gauge("corelog_connections", "Connections open.", |core| &core.connections.open);
        let help = "Connections accepted.";
        self.counter("corelog_connections_accepted_total", help, |core| &core.connections.accepted);
        let help = "Connections not served, by reason.";
        self.counters(
            "corelog_connections_refused_total",
            help,
            "reason",
            &[
                ("rate", |core| &core.connections.refused.rate),
                ("resources", |core| &core.connections.refused.resources),
            ],
        );
        let name = "corelog_account_bytes";
        self.family(name, "gauge", "Memory by class.");
        for (index, class) in Class::ALL.iter().enumerate() {
            let bytes: i64 = self.cores.iter().map(|core| core.accounts[index].get()).sum();
            self.sample(name, &label("class", class_name(*class)), bytes);
        }
    }

    fn node(&mut self, node: &Node) {
        let help = "1 while clients can connect and produce, as /ready says.";
        self.one("corelog_ready", "gauge", help, u8::from(node.is_ready));
        self.one("corelog_memory_limit_bytes", "gauge", "Memory that the broker was given.", node.memory_limit_bytes);
        let name = "corelog_core_silent_seconds";
        self.family(name, "gauge", "Time since each core last ran its tasks; the last one keeps the metadata.");
        for (index, core) in self.cores.iter().enumerate() {
            self.sample(name, &label("core", &index.to_string()), super::since(core, node.now).as_secs_f64());
        }
        self.family("corelog_build_info", "gauge", "1, with the version.");
        self.sample("corelog_build_info", &label("version", env!("CARGO_PKG_VERSION")), 1);
    }

    fn process(&mut self, process: &ProcessFigures) {
        let cpu = process.cpu_seconds;
        self.one_if_known("process_cpu_seconds_total", "counter", "Processor time of this process.", cpu);
        let resident = process.resident_bytes;
        self.one_if_known("process_resident_memory_bytes", "gauge", "Memory of this process.", resident);
        self.one_if_known("process_open_fds", "gauge", "Open file descriptors.", process.open_descriptors);
        self.one_if_known("process_max_fds", "gauge", "The most there may be.", process.most_descriptors);
        self.one_if_known("process_threads", "gauge", "Threads of this process.", process.threads);
    }
}

/// The format.
impl Text<'_> {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        self.line(format_args!("{name}{labels} {value}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.out, "{line}").expect("a String takes all");
    }

    fn sum(&self, of: impl Fn(&CoreStats) -> &Counter) -> u64 {
        self.cores.iter().map(|core| of(core).get()).sum()
    }

    /// A sample for each of a hundred names that never occur would only be read past.
    fn sample_if_any(&mut self, name: &str, key: &str, value: &str, total: u64) {
        if total > 0 {
            self.sample(name, &label(key, value), total);
        }
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, "", value);
    }

    fn one_if_known(&mut self, name: &str, kind: &str, help: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.one(name, kind, help, value);
        }
    }

    fn counter(&mut self, name: &str, help: &str, of: fn(&CoreStats) -> &Counter) {
        let total = self.sum(of);
        self.one(name, "counter", help, total);
    }

    fn gauge(&mut self, name: &str, help: &str, of: fn(&CoreStats) -> &Gauge) {
        let value: i64 = self.cores.iter().map(|core| of(core).get()).sum();
        self.one(name, "gauge", help, value);
    }

    fn counters(&mut self, name: &str, help: &str, key: &str, values: &[(&str, CounterOf)]) {
        self.family(name, "counter", help);
        for (value, of) in values {
            let total = self.sum(of);
            self.sample(name, &label(key, value), total);
        }
    }

    fn histograms(&mut self, name: &str, help: &str, key: &str, values: &[(&str, HistogramOf)]) {
        self.family(name, "histogram", help);
        for (value, of) in values {
            self.histogram(name, &format!("{key}=\"{value}\""), *of);
        }
    }

    /// The samples of one; `label` is empty or one pair. Counts are cumulative, and their last one is the whole count,
    /// whatever a core adds meanwhile.
    fn histogram(&mut self, name: &str, label: &str, of: fn(&CoreStats) -> &Histogram) {
        let (mut counts, mut sum) = ([0; BUCKETS + 1], Duration::ZERO);
        for histogram in self.cores.iter().map(|core| of(core)) {
            counts.iter_mut().zip(histogram.counts()).for_each(|(all, own)| *all += own);
            sum += histogram.sum();
        }
        let comma = if label.is_empty() { "" } else { "," };
        let mut count = 0;
        for (bucket, of_bucket) in counts.into_iter().enumerate() {
            count += of_bucket;
            let bound = match BOUNDS_US.get(bucket) {
                Some(us) => (*us as f64 / 1e6).to_string(),
                None => "+Inf".to_owned(),
            };
            self.line(format_args!("{name}_bucket{{{label}{comma}le=\"{bound}\"}} {count}"));
        }
        let labels = if label.is_empty() { String::new() } else { format!("{{{label}}}") };
        self.line(format_args!("{name}_sum{labels} {}", sum.as_secs_f64()));
        self.line(format_args!("{name}_count{labels} {count}"));
    }
}

fn label(key: &str, value: &str) -> String {
    format!("{{{key}=\"{value}\"}}")
}

fn class_name(class: Class) -> &'static str {
    match class {
        Class::ReceivedSmall => "received_small",
        Class::Received => "received",
        Class::ReceivedLarge => "received_large",
        Class::AnswersSmall => "answers_small",
        Class::Answers => "answers",
        Class::Undrained => "undrained",
        Class::TailCache => "tail_cache",
        Class::Producers => "producers",
        Class::FetchSessions => "fetch_sessions",
        Class::ShareSessions => "share_sessions",
        Class::Waiters => "waiters",
        Class::Groups => "groups",
        Class::Transactions => "transactions",
        Class::Replies => "replies",
    }
}
