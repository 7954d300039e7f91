//! Faults on the real backend, for tests of a whole process: the n-th completion of a kind goes wrong.
//!
//! Only in builds with the feature `faults`. `CORELOG_FAULT` holds rules separated by commas, each
//! `<what>:<operation>:<n>[+]`: what is `eio`, `ecanceled`, `short` or `delay`; the operation is `write`,
//! `durable-write`, `sync` or `read`; n counts that operation's completions on each core from 1, and `+`
//! means from then on. The kernel has done the operation all the same, as a disk may have that reports an
//! error; a short result is half of the true one, a delay is a second.

use super::op::Op;

const DELAY_NS: u64 = 1_000_000_000;

/// What happens to a completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is reported with this result.
    Report(i32),
    /// It is reported with its result, this many nanoseconds later.
    Delay(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Error(i32),
    Short,
    Delay,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Write,
    DurableWrite,
    Sync,
    Read,
}

#[derive(Debug)]
struct Rule {
    fault: Fault,
    target: Target,
    first: u64,
    lasting: bool,
    seen: u64,
}

/// The rules and how far each has counted.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Rule>);

impl Faults {
    /// The rules of the environment.
    ///
    /// # Panics
    /// If they are malformed: a test that injects nothing would prove nothing.
    pub(super) fn from_environment() -> Faults {
        Faults::parse(&std::env::var("CORELOG_FAULT").unwrap_or_default())
    }

    fn parse(rules: &str) -> Faults {
        let rules = rules.split(',').filter(|rule| !rule.is_empty());
        Faults(
            rules.map(|rule| parse(rule).unwrap_or_else(|| panic!("CORELOG_FAULT has no meaning: {rule}"))).collect(),
        )
    }

    /// Counts a completion; what becomes of it.
    pub(super) fn strike(&mut self, op: &Op, result: i32) -> Verdict {
        let mut verdict = Verdict::Report(result);
        for rule in self.0.iter_mut().filter(|rule| rule.target.matches(op)) {
            rule.seen += 1;
            if rule.seen == rule.first || (rule.lasting && rule.seen > rule.first) {
                // Tests look for this: a rule that never struck would prove nothing.
                let (fault, operation, number) = (rule.fault, rule.target, rule.seen);
                tracing::warn!(?fault, ?operation, number, result, "a fault is injected");
                verdict = match rule.fault {
                    Fault::Error(errno) => Verdict::Report(-errno),
                    Fault::Short => Verdict::Report(if result > 0 { (result / 2).max(1) } else { result }),
                    Fault::Delay => Verdict::Delay(DELAY_NS),
                };
            }
        }
        verdict
    }
}

impl Target {
    fn matches(self, op: &Op) -> bool {
        match self {
            Target::Write => matches!(op, Op::Write { .. }),
            Target::DurableWrite => matches!(op, Op::Write { durable: true, .. }),
            Target::Sync => matches!(op, Op::Sync { .. }),
            Target::Read => matches!(op, Op::Read { .. }),
        }
    }
}

fn parse(rule: &str) -> Option<Rule> {
    let mut parts = rule.split(':');
    let fault = match parts.next()? {
        "eio" => Fault::Error(libc::EIO),
        "ecanceled" => Fault::Error(libc::ECANCELED),
        "short" => Fault::Short,
        "delay" => Fault::Delay,
        _ => return None,
    };
    let target = match parts.next()? {
        "write" => Target::Write,
        "durable-write" => Target::DurableWrite,
        "sync" => Target::Sync,
        "read" => Target::Read,
        _ => return None,
    };
    let count = parts.next()?;
    let (count, lasting) = count.strip_suffix('+').map_or((count, false), |count| (count, true));
    let first = count.parse().ok().filter(|first| *first > 0)?;
    parts.next().is_none().then_some(Rule { fault, target, first, lasting, seen: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    fn sync() -> Op {
        let file = super::super::system::eventfd().expect("a descriptor");
        Op::Sync { file: Rc::new(file), metadata: false }
    }

    #[test]
    fn the_nth_completion_of_its_kind_is_struck() {
        let mut faults = Faults::parse("eio:sync:2,ecanceled:sync:4+,eio:write:1");
        let mut results = (0..5).map(|_| faults.strike(&sync(), 0));
        let expected = [0, -libc::EIO, 0, -libc::ECANCELED, -libc::ECANCELED].map(Verdict::Report);
        assert!(expected.iter().all(|expected| results.next() == Some(*expected)));
    }

    #[test]
    fn short_results_make_progress() {
        let mut faults = Faults::parse("short:sync:1+");
        assert_eq!(faults.strike(&sync(), 8192), Verdict::Report(4096));
        assert_eq!(faults.strike(&sync(), 1), Verdict::Report(1));
        assert_eq!(faults.strike(&sync(), -libc::EIO), Verdict::Report(-libc::EIO));
    }

    #[test]
    #[should_panic(expected = "CORELOG_FAULT has no meaning")]
    fn a_rule_without_meaning_is_refused() {
        Faults::parse("eio:write:0");
    }
}
