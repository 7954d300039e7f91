//! Each rule: a history that keeps it, and one that breaks it and nothing else.

use super::*;

const P: Partition = Partition { topic: [1; 16], number: 0 };
const Q: Partition = Partition { topic: [1; 16], number: 1 };

/// Transactions 1 (of writer 1) and 2 (of writer 2), with values 10 and 11, 20 and 21 for P and Q; what `tell` adds,
/// and the rules that it broke.
fn broken_by(tell: impl FnOnce(&mut Transactions)) -> Vec<Rule> {
    let mut history = Transactions::default();
    for transaction in [1, 2] {
        history.begin(transaction, transaction, false);
        history.sent(transaction, 10 * transaction, P);
        history.sent(transaction, 10 * transaction + 1, Q);
    }
    tell(&mut history);
    let mut rules: Vec<_> = history.finish().into_iter().map(|violation| violation.rule).collect();
    rules.dedup();
    rules
}

fn shown(records: &[(i64, u64)]) -> Seen {
    Seen { shown: records.to_vec(), hidden: Vec::new() }
}

fn hidden(records: &[(i64, u64)]) -> Seen {
    Seen { shown: Vec::new(), hidden: records.to_vec() }
}

fn end(history: &mut Transactions, transaction: u64, commit: bool) {
    history.end_sent(transaction, commit);
    history.ended(transaction, commit);
}

/// Both partitions hold the values of 1, then those of 2.
fn sweep(history: &mut Transactions, first: fn(&[(i64, u64)]) -> Seen, second: fn(&[(i64, u64)]) -> Seen) {
    history.begin_sweep();
    for (partition, number) in [(P, 0), (Q, 1)] {
        history.read_committed(partition, 9, &first(&[(0, 10 + number)]));
        history.read_committed(partition, 9, &second(&[(2, 20 + number)]));
    }
    history.end_sweep(&BTreeMap::new());
}

#[test]
fn what_a_correct_broker_does_breaks_nothing() {
    let rules = broken_by(|history| {
        history.acknowledged(10, 0);
        history.ends_seen(P, 0, 1, 0);
        history.acknowledged(11, 0);
        history.acknowledged(20, 2);
        end(history, 1, true);
        history.ends_seen(P, 0, 3, 2);
        // Its end is never answered: either may have happened.
        history.end_sent(2, true);
        sweep(history, shown, hidden);
        assert_eq!(history.counts(), (1, 1, 4));
    });
    assert_eq!(rules, []);
}

#[test]
fn atomicity_is_seen_to_be_broken() {
    type Told = fn(&mut Transactions);
    let cases: [(Rule, Told); 11] = [
        // Aborted, and shown.
        (Rule::Torn, |history| {
            history.end_sent(1, true);
            history.ended(1, false);
            history.read_committed(P, 9, &shown(&[(0, 10)]));
        }),
        // Committed, and told to be aborted.
        (Rule::Torn, |history| {
            end(history, 1, true);
            history.read_committed(P, 9, &hidden(&[(0, 10)]));
        }),
        // One part of it is shown, the other not; nobody was told its end.
        (Rule::Torn, |history| {
            history.end_sent(1, true);
            history.read_committed(P, 9, &shown(&[(0, 10)]));
            history.read_committed(Q, 9, &hidden(&[(0, 11)]));
        }),
        // One part is not there at all.
        (Rule::Torn, |history| {
            end(history, 1, true);
            history.begin_sweep();
            history.read_committed(P, 9, &shown(&[(0, 10)]));
            history.end_sweep(&BTreeMap::new());
        }),
        // Its values are there, its offset is not.
        (Rule::Torn, |history| {
            history.offset_sent(1);
            end(history, 1, true);
            sweep(history, shown, hidden);
        }),
        // Its offset is there, and it was aborted.
        (Rule::Torn, |history| {
            history.offset_sent(1);
            history.end_sent(1, true);
            history.ended(1, false);
            history.offset_seen(1, 0, 1);
        }),
        (Rule::Dirty, |history| history.read_committed(P, 9, &shown(&[(0, 10)]))),
        (Rule::Dirty, |history| {
            history.end_sent(1, false);
            history.read_committed(P, 9, &shown(&[(0, 10)]));
        }),
        (Rule::Lost, |history| {
            history.acknowledged(10, 0);
            history.begin_sweep();
            history.end_sweep(&BTreeMap::new());
        }),
        (Rule::Duplicate, |history| history.read_uncommitted(P, &[(0, 10), (1, 10)])),
        (Rule::Phantom, |history| history.read_uncommitted(P, &[(0, 11)])),
    ];
    for (at, (rule, told)) in cases.into_iter().enumerate() {
        assert_eq!(broken_by(told), [rule], "case {at}");
    }
}

#[test]
fn the_stable_end_waits_for_what_is_open_for_sure() {
    let passes = |before: fn(&mut Transactions)| {
        broken_by(|history| {
            history.acknowledged(10, 4);
            before(history);
            history.ends_seen(P, 0, 9, 5);
        })
    };
    assert_eq!(passes(|_| {}), [Rule::Unstable]);
    assert_eq!(passes(|history| history.end_sent(1, false)), []);
    assert_eq!(passes(|history| history.producer_sent(1)), []);
    assert_eq!(passes(|history| history.producer_sent(2)), [Rule::Unstable]);
    assert_eq!(broken_by(|history| history.ends_seen(P, 0, 3, 4)), [Rule::Unstable]);
    assert_eq!(broken_by(|history| history.ends_seen(P, 4, 9, 3)), [Rule::WentBack]);
    let past = |history: &mut Transactions| {
        history.end_sent(1, true);
        history.read_committed(P, 4, &shown(&[(4, 10)]));
    };
    assert_eq!(broken_by(past), [Rule::Unstable]);
    let timed_out = |history: &mut Transactions| {
        history.begin(3, 3, true);
        history.sent(3, 30, P);
        history.acknowledged(30, 0);
        history.ends_seen(P, 0, 9, 5);
    };
    assert_eq!(broken_by(timed_out), []);
}

#[test]
fn who_was_fenced_is_not_listened_to() {
    let rules = broken_by(|history| {
        let first = history.producer_given(1);
        history.accepted("a batch", first, history.producers(1));
        history.producer_given(1);
        // It was on its way already.
        history.accepted("a batch", first, first);
    });
    assert_eq!(rules, []);
    let rules = broken_by(|history| {
        let first = history.producer_given(1);
        history.producer_given(1);
        history.accepted("a batch", first, history.producers(1));
    });
    assert_eq!(rules, [Rule::Fenced]);
}

#[test]
fn offsets_of_transactions_do_not_go_back() {
    let two = |history: &mut Transactions| {
        for transaction in [5, 6] {
            history.begin(transaction, 1, false);
            history.offset_sent(transaction);
            history.end_sent(transaction, true);
            history.offset_seen(1, 0, transaction);
        }
    };
    assert_eq!(broken_by(two), []);
    let back = |history: &mut Transactions| {
        two(history);
        history.offset_seen(1, history.offset(1), 5);
    };
    assert_eq!(broken_by(back), [Rule::Offset]);
    assert_eq!(broken_by(|history| history.offset_seen(1, 0, 1)), [Rule::Phantom]);
}

#[test]
fn circles_are_seen() {
    // G1c: each has read what the other wrote.
    let each_other = |history: &mut Transactions| {
        for transaction in [1, 2] {
            history.end_sent(transaction, true);
        }
        history.read_within(1, &shown(&[(2, 20)]));
        history.read_within(2, &shown(&[(0, 10)]));
        sweep(history, shown, shown);
    };
    assert_eq!(broken_by(each_other), [Rule::Cycle]);
    let one_way = |history: &mut Transactions| {
        for transaction in [1, 2] {
            history.end_sent(transaction, true);
        }
        history.read_within(2, &shown(&[(0, 10)]));
        sweep(history, shown, shown);
    };
    assert_eq!(broken_by(one_way), []);
    // G1c with real time: what was read began when the reader's end had been told.
    let from_the_future = |history: &mut Transactions| {
        end(history, 1, true);
        history.begin(3, 3, false);
        history.sent(3, 30, P);
        end(history, 3, true);
        history.read_within(1, &shown(&[(4, 30)]));
        sweep(history, shown, shown);
        history.read_committed(P, 9, &shown(&[(4, 30)]));
    };
    // Transaction 2 is shown, and nobody asked to commit it.
    assert!(broken_by(from_the_future).contains(&Rule::Cycle));
    // G0: one writer's transactions stand in another order in Q than in P.
    let crossed = |history: &mut Transactions| {
        history.begin(3, 1, false);
        history.sent(3, 30, P);
        history.sent(3, 31, Q);
        history.end_sent(1, true);
        history.end_sent(3, true);
        history.read_committed(P, 9, &shown(&[(0, 10), (1, 30)]));
        history.read_committed(Q, 9, &shown(&[(0, 31), (1, 11)]));
    };
    assert_eq!(broken_by(crossed), [Rule::Cycle]);
    // Those of two writers may.
    let interleaved = |history: &mut Transactions| {
        history.end_sent(1, true);
        history.end_sent(2, true);
        history.read_committed(P, 9, &shown(&[(0, 10), (1, 20)]));
        history.read_committed(Q, 9, &shown(&[(0, 21), (1, 11)]));
    };
    assert_eq!(broken_by(interleaved), []);
}
