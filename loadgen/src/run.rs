//! What the connections of a run share: the clock's marks, the counters, the failures; and the task that
//! watches them, prints a line each second and takes the measurement.
//!
//! Invariant: what is measured lies between two snapshots of the same counters, clock and processor times.
//! Does not know what is produced or consumed.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use engine::io::{Instant, Io};
use serde::Serialize;

use crate::histogram::{Latencies, milliseconds};
use crate::report::ProcessTime;

/// Failures that are kept word for word; the rest is counted.
const FAILURES_KEPT: usize = 20;
/// Between the last connection's readiness and the start, so that every core sees the start ahead.
const LEAD: Duration = Duration::from_millis(20);
/// How often the watcher looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);
const SECOND_NS: u64 = 1_000_000_000;

/// What the connections of one core add up.
struct Counters {
    totals: Totals,
    /// Since the watcher last took it.
    second: Latencies,
    /// Of what was due in the measured time.
    measured: Latencies,
}

/// Sums since the start.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Totals {
    /// Acknowledged, or consumed and verified.
    pub(crate) records: u64,
    /// Of their values.
    pub(crate) bytes: u64,
    /// Requests answered.
    pub(crate) requests: u64,
    /// When the last of them was answered, in ns.
    last_ns: u64,
}

/// One connection, as the watcher sees it.
struct Gauge {
    /// When the next request is due; `u64::MAX` if none is or there is no schedule.
    next_due_ns: AtomicU64,
    in_flight: AtomicU64,
}

/// How long a run takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) warmup: Duration,
    pub(crate) measured: Duration,
}

/// Shared by all cores.
pub(crate) struct Run {
    span: Span,
    gauges: Vec<Gauge>,
    cores: Vec<Mutex<Counters>>,
    ready: AtomicUsize,
    done: AtomicUsize,
    /// Zero until it is set.
    start_ns: AtomicU64,
    stop: AtomicBool,
    records: AtomicU64,
    failures: Mutex<Failures>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Failures {
    /// All of them.
    pub(crate) count: u64,
    /// The first of them.
    pub(crate) first: Vec<String>,
}

/// A second of the run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    /// Seconds since the start, at the row's end.
    pub(crate) second: f64,
    pub(crate) warmup: bool,
    pub(crate) records_per_s: f64,
    pub(crate) mb_per_s: f64,
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
    pub(crate) max_ms: Option<f64>,
    pub(crate) in_flight: u64,
    /// How far the connection that is furthest behind is behind its schedule.
    pub(crate) lag_ms: f64,
}

/// What a run came to.
pub(crate) struct Outcome {
    /// In the measured time.
    pub(crate) totals: Totals,
    pub(crate) seconds: f64,
    /// Since the start, with the warm-up.
    pub(crate) all: Totals,
    pub(crate) latencies: Latencies,
    pub(crate) rows: Vec<Row>,
    /// Processor seconds in the measured time, of the broker and of this process.
    pub(crate) broker_cpu_s: Option<f64>,
    pub(crate) own_cpu_s: Option<f64>,
}

/// Locks; what a thread that panicked left behind is of no interest, since a panic ends the process.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Run {
    /// A run of `lanes` connections on `cores` cores.
    pub(crate) fn new(span: Span, lanes: usize, cores: usize) -> Run {
        let gauge = |_| Gauge { next_due_ns: AtomicU64::new(u64::MAX), in_flight: AtomicU64::new(0) };
        let counters = |_| {
            let (second, measured) = (Latencies::new(), Latencies::new());
            Mutex::new(Counters { totals: Totals::default(), second, measured })
        };
        Run {
            span,
            gauges: (0..lanes).map(gauge).collect(),
            cores: (0..cores).map(counters).collect(),
            ready: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
            start_ns: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            records: AtomicU64::new(0),
            failures: Mutex::default(),
        }
    }

    /// A connection is ready; completes at the common start and gives it. None if the run is over already.
    pub(crate) async fn start(&self, io: &Io) -> Option<Instant> {
        self.ready.fetch_add(1, Relaxed);
        loop {
            let start = Instant(self.start_ns.load(Relaxed));
            if self.is_over() {
                return None;
            }
            if start.0 > 0 {
                io.sleep_until(start).await;
                return Some(start);
            }
            io.sleep(Duration::from_millis(1)).await;
        }
    }

    /// When to send or fetch no more, if the run began at `start`.
    pub(crate) fn end(&self, start: Instant) -> Instant {
        start + self.span.warmup + self.span.measured
    }

    /// A connection has ended.
    pub(crate) fn lane_done(&self, lane: usize) {
        self.plan(lane, None);
        self.done.fetch_add(1, Relaxed);
    }

    /// Asks all connections to end.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// Whether they have been asked to.
    pub(crate) fn is_over(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// The run has failed; it may go on.
    pub(crate) fn fail(&self, failure: impl FnOnce() -> String) {
        let mut failures = lock(&self.failures);
        failures.count += 1;
        if failures.first.len() < FAILURES_KEPT {
            failures.first.push(failure());
        }
    }

    /// What has failed.
    pub(crate) fn failures(&self) -> Failures {
        lock(&self.failures).clone()
    }

    /// Says when a connection's next request is due.
    pub(crate) fn plan(&self, lane: usize, due_ns: Option<u64>) {
        self.gauges[lane].next_due_ns.store(due_ns.unwrap_or(u64::MAX), Relaxed);
    }

    /// Says how many requests of a connection are in flight.
    pub(crate) fn in_flight(&self, lane: usize, requests: usize) {
        self.gauges[lane].in_flight.store(requests as u64, Relaxed);
    }

    /// Counts an answered request on `core`. Gives the records of all cores so far.
    pub(crate) fn answered(&self, core: usize, now: Instant, records: u64, bytes: u64, latency: Option<Sample>) -> u64 {
        let measured_from = self.start_ns.load(Relaxed).saturating_add(self.span.warmup.as_nanos() as u64);
        let mut counters = lock(&self.cores[core]);
        counters.totals.records += records;
        counters.totals.bytes += bytes;
        counters.totals.requests += 1;
        counters.totals.last_ns = now.0;
        if let Some(sample) = latency {
            counters.add(sample, measured_from);
        }
        drop(counters);
        self.records.fetch_add(records, Relaxed) + records
    }

    /// Adds a latency alone.
    pub(crate) fn sample(&self, core: usize, sample: Sample) {
        let measured_from = self.start_ns.load(Relaxed).saturating_add(self.span.warmup.as_nanos() as u64);
        lock(&self.cores[core]).add(sample, measured_from);
    }

    fn totals(&self) -> Totals {
        let mut sum = Totals::default();
        for core in &self.cores {
            let totals = lock(core).totals;
            sum.records += totals.records;
            sum.bytes += totals.bytes;
            sum.requests += totals.requests;
            sum.last_ns = sum.last_ns.max(totals.last_ns);
        }
        sum
    }

    fn latencies(&self, of: impl Fn(&mut Counters) -> &mut Latencies) -> Latencies {
        let mut sum = Latencies::new();
        for core in &self.cores {
            sum.take(of(&mut lock(core)));
        }
        sum
    }

    fn lag_ns(&self, now: Instant) -> u64 {
        let lag = |gauge: &Gauge| now.0.saturating_sub(gauge.next_due_ns.load(Relaxed));
        self.gauges.iter().map(lag).max().unwrap_or(0)
    }

    fn requests_in_flight(&self) -> u64 {
        self.gauges.iter().map(|gauge| gauge.in_flight.load(Relaxed)).sum()
    }
}

/// One latency.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// When it should have begun.
    pub(crate) due_ns: u64,
    pub(crate) latency_ns: u64,
}

impl Counters {
    fn add(&mut self, sample: Sample, measured_from: u64) {
        self.second.record(sample.latency_ns);
        if sample.due_ns >= measured_from {
            self.measured.record(sample.latency_ns);
        }
    }
}

/// Counters, clock and processor times at one moment.
struct Snapshot {
    at: Instant,
    totals: Totals,
    broker: Option<ProcessTime>,
    own: Option<ProcessTime>,
}

/// Watches a run from its start to its end. On one core.
pub(crate) struct Watcher<'a> {
    pub(crate) io: &'a Io,
    pub(crate) run: &'a Run,
    pub(crate) broker_pid: Option<u32>,
    /// Whether to print a line each second.
    pub(crate) prints: bool,
}

impl Watcher<'_> {
    /// Starts the run when all connections are ready, and gives its outcome when all have ended.
    pub(crate) async fn watch(&self) -> Outcome {
        let lanes = self.run.gauges.len();
        while self.run.ready.load(Relaxed) < lanes && !self.run.is_over() {
            self.io.sleep(Duration::from_millis(1)).await;
        }
        let start = self.io.now() + LEAD;
        let mut from = Snapshot { at: start, ..self.snapshot() };
        self.run.start_ns.store(start.0, Relaxed);
        let measured_from = start + self.run.span.warmup;
        let mut warm = self.run.span.warmup.is_zero();
        let mut rows = Vec::new();
        let (mut row_from, mut row_totals) = (start, Totals::default());
        while self.run.done.load(Relaxed) < lanes {
            self.io.sleep(LOOK_EVERY).await;
            let now = self.io.now();
            if !warm && now >= measured_from {
                from = self.snapshot();
                warm = true;
            }
            if now >= row_from + Duration::from_secs(1) {
                let row = self.row(start, row_from, now, &mut row_totals, now < measured_from);
                rows.push(row);
                row_from.0 += (now.0 - row_from.0) / SECOND_NS * SECOND_NS;
            }
        }
        self.outcome(&from, rows)
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            at: self.io.now(),
            totals: self.run.totals(),
            broker: self.broker_pid.and_then(ProcessTime::of),
            own: ProcessTime::of(std::process::id()),
        }
    }

    fn row(&self, start: Instant, from: Instant, now: Instant, before: &mut Totals, warmup: bool) -> Row {
        let totals = self.run.totals();
        let seconds = now.since(from).as_secs_f64();
        let latencies = self.run.latencies(|counters| &mut counters.second);
        let ms = |percentile| latencies.percentile(percentile).map(|ns| ns as f64 / 1e6);
        let row = Row {
            second: now.since(start).as_secs_f64(),
            warmup,
            records_per_s: (totals.records - before.records) as f64 / seconds,
            mb_per_s: (totals.bytes - before.bytes) as f64 / seconds / 1e6,
            p50_ms: ms(50.0),
            p99_ms: ms(99.0),
            max_ms: ms(100.0),
            in_flight: self.run.requests_in_flight(),
            lag_ms: self.run.lag_ns(now) as f64 / 1e6,
        };
        *before = totals;
        if self.prints {
            print_row(&row);
        }
        row
    }

    fn outcome(&self, from: &Snapshot, rows: Vec<Row>) -> Outcome {
        let to = self.snapshot();
        let spent = |from: Option<ProcessTime>, to: Option<ProcessTime>| Some(to?.seconds_since(from?));
        let seconds = Instant(to.totals.last_ns).since(from.at).as_secs_f64();
        let totals = Totals {
            records: to.totals.records - from.totals.records,
            bytes: to.totals.bytes - from.totals.bytes,
            requests: to.totals.requests - from.totals.requests,
            ..to.totals
        };
        Outcome {
            totals,
            seconds,
            all: to.totals,
            latencies: self.run.latencies(|counters| &mut counters.measured),
            rows,
            broker_cpu_s: spent(from.broker, to.broker),
            own_cpu_s: spent(from.own, to.own),
        }
    }
}

fn print_row(row: &Row) {
    eprintln!(
        "{:6.0} s{} {:11.0} records/s {:8.1} MB/s  p50 {:>9} ms  p99 {:>9} ms  in flight {}{}",
        row.second,
        if row.warmup { " (warm-up)" } else { "" },
        row.records_per_s,
        row.mb_per_s,
        milliseconds(row.p50_ms),
        milliseconds(row.p99_ms),
        row.in_flight,
        if row.lag_ms >= 1.0 { format!("  behind {:.0} ms", row.lag_ms) } else { String::new() },
    );
}

/// Whether an open loop fell behind for good: its lag at the end is more than a moment, and more than at the
/// middle of the measured time by half again.
pub(crate) fn backlog_grows(rows: &[Row]) -> bool {
    const A_MOMENT_MS: f64 = 250.0;
    let measured: Vec<&Row> = rows.iter().filter(|row| !row.warmup).collect();
    let Some(last) = measured.last() else { return false };
    let middle = measured[measured.len() / 2];
    // Two rows at least, or the middle is the end.
    last.lag_ms > A_MOMENT_MS && (measured.len() < 3 || last.lag_ms > 1.5 * middle.lag_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(lags: &[f64]) -> Vec<Row> {
        let row = |lag_ms: &f64| Row {
            second: 0.0,
            warmup: *lag_ms < 0.0,
            records_per_s: 0.0,
            mb_per_s: 0.0,
            p50_ms: None,
            p99_ms: None,
            max_ms: None,
            in_flight: 0,
            lag_ms: lag_ms.abs(),
        };
        lags.iter().map(row).collect()
    }

    #[test]
    fn a_growing_backlog_is_told_from_a_stall() {
        assert!(backlog_grows(&rows(&[100.0, 200.0, 300.0, 400.0, 500.0])));
        assert!(backlog_grows(&rows(&[-5000.0, 0.0, 0.0, 900.0])));
        assert!(backlog_grows(&rows(&[1000.0])), "a short run that is a second behind");
        assert!(!backlog_grows(&rows(&[0.0, 3000.0, 2000.0, 1000.0, 0.0])), "a stall that was made up for");
        assert!(!backlog_grows(&rows(&[0.0, 0.0, 0.0, 200.0])), "a moment");
        assert!(!backlog_grows(&rows(&[-9000.0])) && !backlog_grows(&[]));
    }
}
