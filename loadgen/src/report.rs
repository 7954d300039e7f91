//! What a run came to, for people on standard output and for programs as JSON; and the machine it ran on.
//!
//! Reads `/proc` and writes report files directly, not through `Io`: this is a measuring tool, and these are
//! not on its data path.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::json;

use crate::config::Common;
use crate::run::{Failures, Outcome};

/// Clock ticks in a second in `/proc/PID/stat`: fixed in Linux's interface (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor time of a process since it began, in ticks: all its threads, those that the kernel runs for its
/// io_uring included.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProcessTime(u64);

impl ProcessTime {
    /// Now; none if there is no such process.
    pub(crate) fn of(pid: u32) -> Option<ProcessTime> {
        parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Seconds spent since then.
    pub(crate) fn seconds_since(self, earlier: ProcessTime) -> f64 {
        self.0.saturating_sub(earlier.0) as f64 / TICKS_PER_SECOND
    }
}

/// utime and stime, fields 14 and 15; the command in field 2 may hold spaces and parentheses.
fn parse_stat(stat: &str) -> Option<ProcessTime> {
    let (_, after_command) = stat.rsplit_once(')')?;
    let mut fields = after_command.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some(ProcessTime(ticks()? + ticks()?))
}

/// The machine.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    kernel: Option<String>,
    cpu: Option<String>,
    cpus: Option<usize>,
    cpu_governor: Option<String>,
    load_average_before: Option<String>,
}

fn line_of(path: &str) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

fn load_average() -> Option<String> {
    line_of("/proc/loadavg")
}

impl Machine {
    /// As it is before the run.
    pub(crate) fn now() -> Machine {
        let cpuinfo = line_of("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(':'));
        Machine {
            kernel: line_of("/proc/sys/kernel/osrelease"),
            cpu: model.map(|(_, name)| name.trim().to_owned()),
            cpus: std::thread::available_parallelism().ok().map(usize::from),
            cpu_governor: line_of("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            load_average_before: load_average(),
        }
    }
}

/// Everything there is to tell.
pub(crate) struct Report<'a> {
    /// `produce` or `consume`.
    pub(crate) command: &'static str,
    pub(crate) common: &'a Common,
    /// The settings, defaults included.
    pub(crate) settings: serde_json::Value,
    pub(crate) machine: Machine,
    pub(crate) partitions: usize,
    /// What a latency is.
    pub(crate) latency: &'static str,
    pub(crate) outcome: Outcome,
    pub(crate) failures: Failures,
}

/// `value` per `unit`, if there is any unit.
fn per(value: f64, unit: f64) -> Option<f64> {
    (unit > 0.0).then(|| value / unit)
}

impl Report<'_> {
    fn gigabytes(&self) -> f64 {
        self.outcome.totals.bytes as f64 / 1e9
    }

    fn million_records(&self) -> f64 {
        self.outcome.totals.records as f64 / 1e6
    }

    /// Prints the summary, and writes the files that were asked for.
    pub(crate) fn publish(&self) -> Result<()> {
        self.print();
        if let Some(path) = &self.common.json {
            let json = serde_json::to_string_pretty(&self.json())?;
            write(path, &(json + "\n"))?;
        }
        if let Some(path) = &self.common.hgrm {
            write(path, &self.outcome.latencies.hgrm())?;
        }
        Ok(())
    }

    fn print(&self) {
        let Outcome { totals, seconds, .. } = &self.outcome;
        let rate = |value: u64| per(value as f64, *seconds).unwrap_or(0.0);
        println!(
            "{} {}: {} partitions, {} connections, seed {}",
            self.command, self.common.topic, self.partitions, self.common.connections, self.common.seed
        );
        println!(
            "measured    {} records, {:.3} GB, {} requests in {seconds:.3} s",
            totals.records,
            self.gigabytes(),
            totals.requests
        );
        println!(
            "throughput  {:.0} records/s  {:.1} MB/s  {:.0} requests/s",
            rate(totals.records),
            rate(totals.bytes) / 1e6,
            rate(totals.requests)
        );
        println!("latency     {}", self.outcome.latencies.summary());
        println!("            ({})", self.latency);
        self.print_cpu("broker CPU", self.outcome.broker_cpu_s);
        self.print_cpu("own CPU", self.outcome.own_cpu_s);
        match self.failures.count {
            0 => println!("OK"),
            count => {
                for failure in &self.failures.first {
                    println!("  {failure}");
                }
                println!("FAILED: {count} failures");
            }
        }
    }

    fn print_cpu(&self, whose: &str, seconds: Option<f64>) {
        let Some(seconds) = seconds else { return };
        let text = |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{value:.3}"));
        let (gb, million) = (per(seconds, self.gigabytes()), per(seconds, self.million_records()));
        println!("{whose:<11} {seconds:.2} s  {} CPU-s/GB  {} CPU-s per million records", text(gb), text(million));
    }

    fn json(&self) -> serde_json::Value {
        let Outcome { totals, seconds, all, latencies, rows, broker_cpu_s, own_cpu_s } = &self.outcome;
        let cpu = |seconds: &Option<f64>| {
            seconds.map(|seconds| {
                json!({
                    "seconds": seconds,
                    "per_gb": per(seconds, self.gigabytes()),
                    "per_million_records": per(seconds, self.million_records()),
                })
            })
        };
        json!({
            "command_line": std::env::args().collect::<Vec<_>>(),
            "version": env!("CARGO_PKG_VERSION"),
            "command": self.command,
            "settings": self.settings,
            "seed": self.common.seed,
            "machine": self.machine,
            "load_average_after": load_average(),
            "partitions": self.partitions,
            "ok": self.failures.count == 0,
            "failures": { "count": self.failures.count, "first": self.failures.first },
            "seconds": seconds,
            "records": totals.records,
            "bytes": totals.bytes,
            "requests": totals.requests,
            "records_with_warmup": all.records,
            "records_per_s": per(totals.records as f64, *seconds),
            "mb_per_s": per(totals.bytes as f64 / 1e6, *seconds),
            "latency_is": self.latency,
            "latency": latencies.summary(),
            "broker_cpu": cpu(broker_cpu_s),
            "own_cpu": cpu(own_cpu_s),
            "series": rows,
        })
    }
}

#[allow(clippy::disallowed_methods, reason = "a report is written after the run, not on its data path")]
fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_behind_a_command_of_any_name() {
        let stat = "4242 (a) b (c)) S 1 4242 4242 0 -1 4194560 1 2 3 4 150 50 7 8 20 0 1 0 100 200 300";
        let time = parse_stat(stat).unwrap();
        assert_eq!(time.0, 200);
        assert_eq!(time.seconds_since(ProcessTime(100)), 1.0);
        assert!(parse_stat("4242 (a").is_none());
        assert!(ProcessTime::of(std::process::id()).is_some());
    }
}
