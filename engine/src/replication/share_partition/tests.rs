use super::*;

const RULES: Rules = Rules { max_deliveries: 3, max_in_flight: 100, lock_ms: 1000 };

fn span(first: i64, last: i64) -> Span {
    Span { first, last }
}

fn spans(of: &[(i64, i64)]) -> Vec<Span> {
    of.iter().map(|(first, last)| span(*first, *last)).collect()
}

fn new() -> SharePartition {
    SharePartition::load(1, 0, &[])
}

/// Acquires from batches as they would be read from `next_fetch_offset` on.
fn acquire_as(
    state: &mut SharePartition,
    now_ms: u64,
    member: &str,
    batches: &[(i64, i64)],
    max_records: i64,
) -> Vec<(i64, i64, i16)> {
    let (offset, batches) = (state.next_fetch_offset(), spans(batches));
    let fetched = Fetched { offset, batches: &batches, aborted: &[], max_records, batch_size: 100 };
    let acquired = state.acquire(now_ms, member, &RULES, &fetched);
    acquired.iter().map(|run| (run.span.first, run.span.last, run.deliveries)).collect()
}

fn acquire(state: &mut SharePartition, batches: &[(i64, i64)]) -> Vec<(i64, i64, i16)> {
    acquire_as(state, 0, "m", batches, 1000)
}

fn acknowledgement(first: i64, last: i64, kinds: &[i8]) -> Acknowledgement {
    Acknowledgement { span: span(first, last), kinds: kinds.to_vec() }
}

fn try_acknowledge(
    state: &mut SharePartition,
    member: &str,
    acknowledgements: &[Acknowledgement],
) -> Result<Option<Write>, ErrorCode> {
    state.acknowledge(member, &RULES, acknowledgements).map_err(|refusal| refusal.0)
}

/// What is written: first, last, state, deliveries.
fn batches(write: &Write) -> Vec<(i64, i64, i8, i16)> {
    let batch = |batch: &write_share_group_state::StateBatch| {
        (batch.first_offset, batch.last_offset, batch.delivery_state, batch.delivery_count)
    };
    write.batches.iter().map(batch).collect()
}

/// Acknowledges, durably.
fn acknowledge(state: &mut SharePartition, first: i64, last: i64, kinds: &[i8]) -> Vec<(i64, i64, i8, i16)> {
    let write = try_acknowledge(state, "m", &[acknowledgement(first, last, kinds)]);
    let write = write.expect("they are the member's").expect("there is something to write");
    state.written(write.number);
    batches(&write)
}

#[test]
fn accepted_records_move_the_start_when_they_are_durable() {
    let mut state = new();
    assert_eq!(acquire(&mut state, &[(0, 4), (5, 9)]), [(0, 9, 1)]);
    assert_eq!((state.next_fetch_offset(), state.start_offset()), (10, 0));
    let write =
        try_acknowledge(&mut state, "m", &[acknowledgement(0, 9, &[1])]).expect("they are his").expect("a write");
    assert_eq!((batches(&write), write.start_offset, write.state_epoch), (vec![(0, 9, 2, 1)], 0, 1));
    assert_eq!(state.start_offset(), 0, "not before it is durable");
    assert!(!state.is_idle());
    let again = try_acknowledge(&mut state, "m", &[acknowledgement(0, 9, &[1])]);
    assert_eq!(again, Err(ErrorCode::InvalidRecordState), "a change that is being written is not changed");
    state.written(write.number);
    assert_eq!((state.start_offset(), state.next_fetch_offset()), (10, 10));
    assert!(state.is_idle());
    assert_eq!(try_acknowledge(&mut state, "m", &[acknowledgement(0, 9, &[1])]), Ok(None), "that is over");
}

#[test]
fn a_failed_write_takes_everything_back() {
    let mut state = new();
    acquire(&mut state, &[(0, 9)]);
    let write =
        try_acknowledge(&mut state, "m", &[acknowledgement(2, 5, &[1, 2, 3, 0])]).expect("his").expect("a write");
    assert_eq!(batches(&write), [(2, 2, 2, 1), (3, 3, 0, 1), (4, 5, 4, 1)]);
    state.failed(write.number);
    assert_eq!((state.start_offset(), state.next_fetch_offset()), (0, 10));
    assert_eq!(
        acknowledge(&mut state, 0, 9, &[1]),
        [(0, 1, 2, 1), (2, 2, 2, 1), (3, 3, 2, 1), (4, 5, 2, 1), (6, 9, 2, 1)]
    );
    assert_eq!(state.start_offset(), 10);
}

#[test]
fn released_records_are_given_out_one_by_one_and_at_last_given_up() {
    let mut state = new();
    acquire(&mut state, &[(0, 4)]);
    acknowledge(&mut state, 1, 2, &[2]);
    assert_eq!(state.next_fetch_offset(), 1);
    assert_eq!(acquire_as(&mut state, 0, "n", &[(0, 4)], 1000), [(1, 1, 2), (2, 2, 2)]);
    let not_his = try_acknowledge(&mut state, "m", &[acknowledgement(0, 4, &[1])]);
    assert_eq!(not_his, Err(ErrorCode::InvalidRecordState));
    let release = |state: &mut SharePartition, kind| {
        let write = try_acknowledge(state, "n", &[acknowledgement(1, 2, &[kind])]).expect("his").expect("a write");
        state.written(write.number);
        batches(&write)
    };
    assert_eq!(release(&mut state, 2), [(1, 2, 0, 2)]);
    assert_eq!(acquire_as(&mut state, 0, "n", &[(0, 4)], 1000), [(1, 1, 3), (2, 2, 3)]);
    assert_eq!(release(&mut state, 2), [(1, 2, 4, 3)], "after the third delivery they are archived");
    assert_eq!(state.next_fetch_offset(), 5);
    acknowledge(&mut state, 0, 0, &[1]);
    assert_eq!(state.start_offset(), 3);
}

#[test]
fn locks_end_and_a_member_that_leaves_gives_back_its_deliveries() {
    let mut state = new();
    acquire_as(&mut state, 0, "m", &[(0, 4)], 1000);
    acquire_as(&mut state, 500, "n", &[(5, 9)], 1000);
    assert_eq!(state.next_deadline_ms(), Some(1000));
    assert_eq!(state.expire(999, &RULES), None);
    let late = state.expire(1000, &RULES).expect("the first lock has ended");
    assert_eq!(batches(&late), [(0, 4, 0, 1)]);
    assert_eq!(state.next_fetch_offset(), 10, "not before it is durable");
    assert_eq!(state.next_deadline_ms(), Some(1500));
    state.failed(late.number);
    assert_eq!(state.next_fetch_offset(), 0, "whether it could be written or not");
    let left = state.release("n", &RULES).expect("it had something");
    assert_eq!(batches(&left), [(5, 9, 0, 0)]);
    state.written(left.number);
    assert_eq!(state.release("n", &RULES), None);
    assert_eq!(acquire(&mut state, &[(0, 9)]), [(0, 4, 2), (5, 9, 1)]);
}

#[test]
fn acknowledgements_of_what_was_never_given_out_change_nothing() {
    let mut state = new();
    let refused = |state: &mut SharePartition, first, last, kinds: &[i8]| {
        try_acknowledge(state, "m", &[acknowledgement(first, last, kinds)]).expect_err("it is refused")
    };
    assert_eq!(refused(&mut state, 0, 3, &[1]), ErrorCode::InvalidRecordState);
    acquire(&mut state, &[(2, 5)]);
    assert_eq!(state.start_offset(), 2);
    assert_eq!(refused(&mut state, 2, 6, &[1]), ErrorCode::InvalidRequest);
    assert_eq!(refused(&mut state, 6, 7, &[1]), ErrorCode::InvalidRequest);
    assert_eq!(refused(&mut state, 2, 5, &[4]), ErrorCode::InvalidRequest);
    assert_eq!(refused(&mut state, 2, 5, &[]), ErrorCode::InvalidRequest);
    // The first run is right, the second is not: neither counts.
    let half = [acknowledgement(2, 3, &[1]), acknowledgement(4, 9, &[1])];
    assert_eq!(try_acknowledge(&mut state, "m", &half), Err(ErrorCode::InvalidRequest));
    let twice = [acknowledgement(2, 3, &[1]), acknowledgement(3, 4, &[1])];
    assert_eq!(try_acknowledge(&mut state, "m", &twice), Err(ErrorCode::InvalidRecordState));
    assert_eq!(acknowledge(&mut state, 2, 5, &[1]), [(2, 5, 2, 1)]);
}

#[test]
fn most_records_end_with_a_batch_and_batches_are_grouped() {
    let mut state = new();
    let log = spans(&[(0, 4), (5, 9), (10, 14), (15, 19)]);
    let fetched = Fetched { offset: 0, batches: &log, aborted: &[], max_records: 7, batch_size: 5 };
    let acquired = state.acquire(0, "m", &RULES, &fetched);
    let got: Vec<_> = acquired.iter().map(|run| run.span).collect();
    assert_eq!(got, spans(&[(0, 4), (5, 9)]));
    assert_eq!(state.next_fetch_offset(), 10);
    let fetched = Fetched { offset: 10, batches: &log[2..], aborted: &[], max_records: 100, batch_size: 100 };
    assert_eq!(state.acquire(0, "m", &RULES, &fetched).len(), 1);
    let fetched = Fetched { max_records: 0, ..fetched };
    assert_eq!(state.acquire(0, "m", &RULES, &fetched), []);
}

#[test]
fn in_flight_records_are_bounded_but_what_came_back_is_given_out() {
    let mut state = new();
    acquire(&mut state, &[(0, 99)]);
    assert!(!state.can_acquire(&RULES));
    acknowledge(&mut state, 50, 50, &[2]);
    assert!(state.can_acquire(&RULES));
    assert_eq!(acquire(&mut state, &[(0, 99)]), [(50, 50, 2)]);
    assert!(!state.can_acquire(&RULES));
    acknowledge(&mut state, 0, 0, &[1]);
    assert!(state.can_acquire(&RULES), "the start has moved");
}

#[test]
fn what_is_recorded_is_taken_up_again_with_its_gaps() {
    let batch = |first_offset, last_offset, delivery_state, delivery_count| read_share_group_state::StateBatch {
        first_offset,
        last_offset,
        delivery_state,
        delivery_count,
    };
    let recorded = [batch(15, 19, 0, 1), batch(5, 9, 2, 1), batch(10, 12, 4, 3)];
    let mut state = SharePartition::load(7, 0, &recorded);
    assert_eq!((state.start_offset(), state.next_fetch_offset(), state.state_epoch()), (0, 0, 7));
    // 0 to 4 and 13, 14 had been given out when the broker went down.
    assert_eq!(acquire(&mut state, &[(0, 9), (10, 19), (20, 24)]), [(0, 4, 1), (13, 14, 1), (15, 19, 2), (20, 24, 1)]);
    acknowledge(&mut state, 0, 4, &[1]);
    assert_eq!(state.start_offset(), 13);
    let done = SharePartition::load(1, 0, &[batch(0, 9, 2, 1)]);
    assert_eq!((done.start_offset(), done.next_fetch_offset()), (10, 10));
}

#[test]
fn gaps_that_the_log_has_lost_are_passed_over() {
    let recorded =
        read_share_group_state::StateBatch { first_offset: 5, last_offset: 9, delivery_state: 0, delivery_count: 1 };
    let mut state = SharePartition::load(1, 0, &[recorded]);
    // Nothing is left between 0 and 7.
    assert_eq!(acquire(&mut state, &[(8, 11)]), [(8, 8, 2), (9, 9, 2), (10, 11, 1)]);
    assert_eq!(state.start_offset(), 8);
}

#[test]
fn a_log_that_begins_later_drops_what_lies_before() {
    let mut state = new();
    acquire(&mut state, &[(0, 9)]);
    state.log_start_moved(4);
    assert_eq!((state.start_offset(), state.next_fetch_offset()), (4, 10));
    assert_eq!(acknowledge(&mut state, 0, 9, &[1]), [(4, 9, 2, 1)]);
    state.log_start_moved(20);
    assert_eq!((state.start_offset(), state.next_fetch_offset()), (20, 20));
}

#[test]
fn aborted_records_are_given_up_at_once() {
    let mut state = new();
    let log = spans(&[(0, 4), (5, 9), (10, 10), (11, 14)]);
    let aborted = spans(&[(0, 4), (5, 9)]);
    let fetched = Fetched { offset: 0, batches: &log, aborted: &aborted[1..], max_records: 100, batch_size: 100 };
    let acquired = state.acquire(0, "m", &RULES, &fetched);
    let got: Vec<_> = acquired.iter().map(|run| run.span).collect();
    assert_eq!(got, spans(&[(0, 4), (10, 14)]));
    acknowledge(&mut state, 0, 4, &[1]);
    assert_eq!(state.start_offset(), 10);
    let mut state = new();
    let fetched = Fetched { batches: &log[..2], aborted: &aborted, ..fetched };
    assert_eq!(state.acquire(0, "m", &RULES, &fetched), []);
    assert_eq!(state.start_offset(), 10, "nobody will ever acknowledge them");
}

/// Whatever members do, each record is in one member's hands at most, and what was accepted never comes back.
#[test]
fn no_record_is_in_two_hands() {
    let mut bits = 11u64;
    let mut random = |below: i64| {
        bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((bits >> 33) % below as u64) as i64
    };
    let log: Vec<Span> = (0..60).map(|at| span(at * 5, at * 5 + 4)).collect();
    for _ in 0..200 {
        let mut state = new();
        let mut held: BTreeMap<i64, String> = BTreeMap::new();
        let mut done = std::collections::BTreeSet::new();
        let mut pending: Vec<Write> = Vec::new();
        let mut now_ms = 0;
        for _ in 0..150 {
            let member = ["a", "b", "c"][random(3) as usize];
            match random(6) {
                0 | 1 => {
                    let offset = state.next_fetch_offset();
                    let from = log.partition_point(|batch| batch.last < offset);
                    let batches = &log[from.min(log.len())..(from + 1 + random(4) as usize).min(log.len())];
                    let fetched = Fetched {
                        offset,
                        batches,
                        aborted: &[],
                        max_records: 1 + random(12),
                        batch_size: 1 + random(8),
                    };
                    for run in state.acquire(now_ms, member, &RULES, &fetched) {
                        assert!(run.deliveries <= RULES.max_deliveries);
                        for at in run.span.first..=run.span.last {
                            assert_eq!(held.insert(at, member.to_owned()), None, "{at} is in somebody's hands");
                            assert!(!done.contains(&at), "{at} was done with");
                        }
                    }
                }
                2 | 3 => {
                    let his: Vec<i64> =
                        held.iter().filter(|(_, owner)| *owner == member).map(|(at, _)| *at).take(7).collect();
                    let kind = 1 + random(3) as i8;
                    let acknowledgements: Vec<_> = his.iter().map(|at| acknowledgement(*at, *at, &[kind])).collect();
                    if let Ok(Some(write)) = try_acknowledge(&mut state, member, &acknowledgements) {
                        his.iter().for_each(|at| drop(held.remove(at)));
                        pending.push(write);
                    }
                }
                4 => {
                    now_ms += random(700) as u64;
                    if let Some(write) = state.expire(now_ms, &RULES) {
                        for batch in &write.batches {
                            (batch.first_offset..=batch.last_offset).for_each(|at| drop(held.remove(&at)));
                        }
                        pending.push(write);
                    }
                }
                _ if !pending.is_empty() => {
                    let write = pending.remove(random(pending.len() as i64) as usize);
                    for batch in write.batches.iter().filter(|batch| batch.delivery_state != 0) {
                        done.extend(batch.first_offset..=batch.last_offset);
                    }
                    let start = state.start_offset();
                    state.written(write.number);
                    assert!(state.start_offset() >= start);
                    assert!(
                        (start..state.start_offset()).all(|at| done.contains(&at)),
                        "the start moves over what is done"
                    );
                }
                _ => {}
            }
        }
    }
}
