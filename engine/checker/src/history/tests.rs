//! Each rule: a history that keeps it, and one that breaks it and nothing else.

use super::*;

const P: Partition = Partition { topic: [1; 16], number: 0 };

/// A history in which an idempotent stream has sent values 0 to 9, with what `tell` adds; the rules broken.
fn broken_by(tell: impl FnOnce(&mut History)) -> Vec<Rule> {
    let mut history = History::default();
    history.open_stream(1, P, true);
    history.sent(1, 0..5);
    history.sent(1, 5..10);
    history.topic_seen(P.topic, false);
    tell(&mut history);
    let mut rules: Vec<_> = history.finish().1.into_iter().map(|violation| violation.rule).collect();
    rules.dedup();
    rules
}

fn sweep(history: &mut History, records: &[(i64, u64)]) {
    history.begin_sweep();
    history.read(P, 0, 100, records);
    history.end_sweep(&BTreeSet::from([P.topic]));
}

fn in_order(values: Range<u64>) -> Vec<(i64, u64)> {
    values.clone().map(|value| (value as i64, value)).collect()
}

#[test]
fn what_a_correct_log_does_breaks_nothing() {
    let rules = broken_by(|history| {
        history.acknowledged(P, 0..5, 0);
        history.acknowledged(P, 0..5, 0); // a duplicate, answered as its original
        history.read(P, 2, 5, &in_order(0..5));
        history.end_seen(P, 5, 5);
        sweep(history, &in_order(0..10)); // an unanswered batch may be there
        assert_eq!(history.summary(), Summary { sent: 10, acknowledged: 5, read: 15 });
    });
    assert_eq!(rules, []);
}

#[test]
fn each_rule_is_seen_to_be_broken() {
    type Told = fn(&mut History);
    let cases: [(Rule, Told); 13] = [
        (Rule::Lost, |history| {
            history.acknowledged(P, 0..5, 0);
            sweep(history, &in_order(0..4));
        }),
        (Rule::Lost, |history| {
            history.read(P, 0, 5, &in_order(0..5));
            sweep(history, &[]);
        }),
        (Rule::Duplicate, |history| {
            history.acknowledged(P, 0..5, 0);
            history.acknowledged(P, 0..5, 5);
        }),
        (Rule::Phantom, |history| history.read(P, 0, 100, &[(0, 77)])),
        (Rule::Changed, |history| {
            history.acknowledged(P, 0..5, 0);
            history.acknowledged(P, 5..10, 0);
        }),
        (Rule::Gap, |history| history.read(P, 0, 100, &[(0, 0), (2, 1)])),
        (Rule::Order, |history| {
            history.acknowledged(P, 0..5, 5);
            history.acknowledged(P, 5..10, 0);
        }),
        (Rule::Hole, |history| history.acknowledged(P, 5..10, 0)),
        (Rule::Corrupt, |history| history.read_damaged(P, 3)),
        (Rule::WentBack, |history| {
            history.acknowledged(P, 0..5, 0);
            let floor = history.end(P);
            history.end_seen(P, floor, 4);
        }),
        (Rule::PastEnd, |history| history.read(P, 0, 4, &in_order(0..5))),
        (Rule::Producer, |history| {
            history.producer_id(1000);
            history.producer_id(1000);
        }),
        (Rule::Topic, |history| history.end_sweep(&BTreeSet::new())),
    ];
    for (rule, told) in cases {
        assert_eq!(broken_by(told), [rule]);
    }
}

#[test]
fn a_deleted_topic_owes_nothing_but_to_stay_away() {
    let rules = broken_by(|history| {
        history.acknowledged(P, 0..5, 0);
        history.topic_delete_sent(P.topic);
        history.end_sweep(&BTreeSet::new());
    });
    assert_eq!(rules, []);
    let rules = broken_by(|history| {
        history.topic_delete_sent(P.topic);
        history.topic_deleted(P.topic);
        let deleted = history.is_deleted(P.topic);
        history.topic_seen(P.topic, deleted);
    });
    assert_eq!(rules, [Rule::Topic]);
}
