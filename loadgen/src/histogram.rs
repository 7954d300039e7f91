//! Latencies: an HDR histogram of three digits from 1 µs to 10 minutes, and how it is put into words.
//!
//! Invariant: a percentile is told only if there are samples enough to have it; p99.99 needs a million.

use std::fmt::Write;

use hdrhistogram::Histogram;
use serde::Serialize;

const LOWEST_NS: u64 = 1_000;
const HIGHEST_NS: u64 = 600_000_000_000;
const DIGITS: u8 = 3;
/// Samples that p99.99 needs: a hundred are then above it.
const SAMPLES_OF_P9999: u64 = 1_000_000;

/// Latencies in ns.
#[derive(Clone)]
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    /// None yet.
    pub(crate) fn new() -> Latencies {
        Latencies(Histogram::new_with_bounds(LOWEST_NS, HIGHEST_NS, DIGITS).expect("the bounds are sound"))
    }

    /// Adds one. What is out of bounds counts as the nearest bound.
    pub(crate) fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns.clamp(LOWEST_NS, HIGHEST_NS));
    }

    /// Adds all of `other`, which has none afterwards.
    pub(crate) fn take(&mut self, other: &mut Latencies) {
        if !other.0.is_empty() {
            self.0.add(&other.0).expect("all have the same bounds");
            other.0.reset();
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> u64 {
        self.0.len()
    }

    /// Nanoseconds that `percentile` percent of the samples do not exceed; none without samples.
    pub(crate) fn percentile(&self, percentile: f64) -> Option<u64> {
        (!self.0.is_empty()).then(|| self.0.value_at_quantile(percentile / 100.0))
    }

    /// The figures of the report.
    pub(crate) fn summary(&self) -> Summary {
        let ms = |percentile| self.percentile(percentile).map(|ns| ns as f64 / 1e6);
        Summary {
            n: self.len(),
            mean_ms: (!self.0.is_empty()).then(|| self.0.mean() / 1e6),
            p50_ms: ms(50.0),
            p75_ms: ms(75.0),
            p90_ms: ms(90.0),
            p99_ms: ms(99.0),
            p99_9_ms: ms(99.9),
            p99_99_ms: ms(99.99).filter(|_| self.len() >= SAMPLES_OF_P9999),
            max_ms: ms(100.0),
        }
    }

    /// The distribution in HdrHistogram's text form (`.hgrm`), in milliseconds.
    pub(crate) fn hgrm(&self) -> String {
        let mut text =
            format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
        let mut total = 0;
        for step in self.0.iter_quantiles(5) {
            total += step.count_since_last_iteration();
            let value = step.value_iterated_to() as f64 / 1e6;
            let quantile = step.quantile_iterated_to();
            let _ = write!(text, "{value:12.3} {quantile:2.12} {total:10}");
            let _ = match quantile < 1.0 {
                true => writeln!(text, " {:14.2}", 1.0 / (1.0 - quantile)),
                false => writeln!(text),
            };
        }
        let (mean, deviation) = (self.0.mean() / 1e6, self.0.stdev() / 1e6);
        let max = self.0.max() as f64 / 1e6;
        let _ = writeln!(text, "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]");
        let _ = writeln!(text, "#[Max     = {max:12.3}, Total count    = {:12}]", self.len());
        let _ = writeln!(text, "#[Buckets = {:12}, SubBuckets     = {:12}]", self.0.buckets(), 2048);
        text
    }
}

/// A histogram's figures in ms; none where there are too few samples.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Summary {
    pub(crate) n: u64,
    pub(crate) mean_ms: Option<f64>,
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p75_ms: Option<f64>,
    pub(crate) p90_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
    pub(crate) p99_9_ms: Option<f64>,
    pub(crate) p99_99_ms: Option<f64>,
    pub(crate) max_ms: Option<f64>,
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = ["p50", "p75", "p90", "p99", "p99.9", "p99.99", "max"];
        let values = [self.p50_ms, self.p75_ms, self.p90_ms, self.p99_ms, self.p99_9_ms, self.p99_99_ms, self.max_ms];
        for (name, value) in names.into_iter().zip(values) {
            write!(f, "{name} {}  ", milliseconds(value))?;
        }
        write!(f, "ms  n {}", self.n)
    }
}

/// Three digits after the point, or a dash.
pub(crate) fn milliseconds(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evenly(n: u64) -> Latencies {
        let mut latencies = Latencies::new();
        for i in 1..=n {
            latencies.record(i * 1_000_000_000 / n);
        }
        latencies
    }

    #[test]
    fn percentiles_are_told_to_three_digits() {
        let summary = evenly(1000).summary();
        let text = summary.to_string();
        let near = |value: Option<f64>, expected: f64| (value.unwrap() / expected - 1.0).abs() < 0.001;
        assert!(near(summary.p50_ms, 500.0) && near(summary.p75_ms, 750.0) && near(summary.p99_ms, 990.0), "{text}");
        assert!(near(summary.max_ms, 1000.0) && summary.n == 1000, "{text}");
    }

    #[test]
    fn a_percentile_without_samples_is_a_dash() {
        let text = Latencies::new().summary().to_string();
        assert_eq!(text, "p50 -  p75 -  p90 -  p99 -  p99.9 -  p99.99 -  max -  ms  n 0");
        assert!(evenly(999_999).summary().to_string().contains("p99.99 -  max"));
        let enough = evenly(1_000_000).summary();
        assert!((enough.p99_99_ms.unwrap() / 999.9 - 1.0).abs() < 0.001);
    }

    #[test]
    fn out_of_bounds_is_the_bound() {
        let mut latencies = Latencies::new();
        latencies.record(0);
        latencies.record(u64::MAX);
        assert_eq!(latencies.len(), 2);
        let max = latencies.summary().max_ms.unwrap();
        assert!((599_000.0..602_000.0).contains(&max), "{max}");
    }

    #[test]
    fn taking_moves_all_samples() {
        let (mut total, mut second) = (evenly(10), evenly(5));
        total.take(&mut second);
        assert_eq!((total.len(), second.len()), (15, 0));
    }

    #[test]
    fn the_text_form_ends_with_all_samples() {
        let text = evenly(100).hgrm();
        let last = text.lines().rfind(|line| !line.starts_with('#')).unwrap();
        let fields: Vec<&str> = last.split_whitespace().collect();
        assert_eq!((fields[1].parse::<f64>().unwrap(), fields[2]), (1.0, "100"));
    }
}
