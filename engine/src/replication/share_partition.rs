//! A share partition at its leader (KIP-932): which records are in whose hands, and how often they were given out.
//!
//! Records between the start offset and the next offset that nobody was given are in flight: available, acquired by
//! a member until a deadline, acknowledged or archived. They are kept as pieces, runs of offsets in one state. What a
//! member acquires is not recorded: after a crash it is given out again. What is acknowledged, released or taken
//! back is a [`Write`] that has to be on stable storage before anybody is told, and before the records may change
//! again. Invariants: pieces do not overlap; none lies below the start offset; a piece whose change is being written
//! is neither given out nor acknowledged; nothing is given out beyond what the log has shown.
//!
//! Knows no logs, no clocks and no storage: times come in as numbers.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::limits::{SHARE_PIECES, SHARE_SINGLES_AT_ONCE};
use crate::protocol::ErrorCode;
use crate::protocol::messages::{read_share_group_state, write_share_group_state};

/// The start offset of a share partition of which nothing is known yet.
pub const UNKNOWN_START: i64 = -1;

/// What may be done to a record, with the code in the recorded state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub enum RecordState {
    /// It may be given out.
    Available = 0,
    /// A member has it.
    Acquired = 1,
    /// It is done with.
    Acknowledged = 2,
    /// It is given up.
    Archived = 4,
}

impl RecordState {
    /// A state of a later version counts as given up.
    fn from_code(code: i8) -> RecordState {
        match code {
            0 => RecordState::Available,
            1 => RecordState::Acquired,
            2 => RecordState::Acknowledged,
            _ => RecordState::Archived,
        }
    }

    fn is_final(self) -> bool {
        matches!(self, RecordState::Acknowledged | RecordState::Archived)
    }

    /// What an acknowledgement of that type makes of a record: 0 gap, 1 accept, 2 release, 3 reject.
    fn of_acknowledgement(kind: i8) -> Option<RecordState> {
        match kind {
            1 => Some(RecordState::Acknowledged),
            2 => Some(RecordState::Available),
            0 | 3 => Some(RecordState::Archived),
            _ => None,
        }
    }
}

/// What share partitions are configured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How often a record is given out at most (`group.share.delivery.count.limit`).
    pub max_deliveries: i16,
    /// Records in flight above which no new ones are given out (`group.share.partition.max.record.locks`).
    pub max_in_flight: i64,
    /// How long a member has a record, in milliseconds (`share.record.lock.duration.ms`).
    pub lock_ms: u64,
}

/// The offsets of a batch of the log, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Its first offset.
    pub first: i64,
    /// Its last offset.
    pub last: i64,
}

impl Span {
    fn len(self) -> i64 {
        self.last - self.first + 1
    }
}

/// What was read from the log for a member.
#[derive(Debug, Clone, Copy)]
pub struct Fetched<'a> {
    /// The offset that was read from.
    pub offset: i64,
    /// The batches that were found, in order.
    pub batches: &'a [Span],
    /// Those of them that an aborted transaction wrote; empty unless only committed records are given out.
    pub aborted: &'a [Span],
    /// The most records that the member takes; a batch of the log is not cut for it.
    pub max_records: i64,
    /// How many records a run of acquired records should have at most.
    pub batch_size: i64,
}

/// Records that a member has now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acquired {
    /// Which.
    pub span: Span,
    /// How often they have been given out, this time included.
    pub deliveries: i16,
}

/// One run of acknowledgements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledgement {
    /// Which records.
    pub span: Span,
    /// One type for all of them, or one for each.
    pub kinds: Vec<i8>,
}

/// A change to be written to stable storage; then [`SharePartition::written`] or [`SharePartition::failed`].
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    /// Its number.
    pub number: u64,
    /// The epoch of the state that it changes.
    pub state_epoch: i32,
    /// The start offset.
    pub start_offset: i64,
    /// The records that have changed.
    pub batches: Vec<write_share_group_state::StateBatch>,
}

/// Why acknowledgements are refused: Kafka's error and sentence. Nothing has changed then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal(pub ErrorCode, pub &'static str);

const NOT_IN_FLIGHT: Refusal = Refusal(
    ErrorCode::InvalidRecordState,
    "Batch record not found. The request batch offsets are not found in the cache.",
);
const FIRST_PAST: Refusal =
    Refusal(ErrorCode::InvalidRequest, "Batch record not found. The first offset in request is past acquired records.");
const LAST_PAST: Refusal =
    Refusal(ErrorCode::InvalidRequest, "Batch record not found. The last offset in request is past acquired records.");
const NOT_ACQUIRED: Refusal =
    Refusal(ErrorCode::InvalidRecordState, "The batch cannot be acknowledged. The batch is not in the acquired state.");
const NOT_OWNER: Refusal = Refusal(ErrorCode::InvalidRecordState, "Member is not the owner of batch record");
const TOO_MANY_PIECES: Refusal =
    Refusal(ErrorCode::InvalidRequest, "Too many records of the share partition have fates of their own.");
const BAD_KIND: Refusal = Refusal(ErrorCode::InvalidRequest, "Invalid acknowledge type.");

/// What records of a piece are, but for a change that is being written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Status {
    state: RecordState,
    deliveries: i16,
    owner: Option<Rc<str>>,
    deadline_ms: Option<u64>,
}

#[derive(Debug, Clone)]
struct Piece {
    last: i64,
    status: Status,
    /// Whether its records are given out one by one: part of what was acquired together has gone another way.
    single: bool,
    /// The change that is being written, and what to go back to if it cannot be.
    change: Option<(u64, Option<Status>)>,
}

impl Piece {
    fn is_available(&self) -> bool {
        self.status.state == RecordState::Available && self.change.is_none()
    }
}

/// How a change counts deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Count {
    /// The delivery stands; after the last one the record is given up.
    Stands,
    /// The member had no chance to do anything with it.
    TakenBack,
}

/// The state of one share partition.
#[derive(Debug, Default)]
pub struct SharePartition {
    state_epoch: i32,
    start: i64,
    /// One past the last offset that was ever given out.
    next: i64,
    pieces: BTreeMap<i64, Piece>,
    /// What was given out before a restart and of which nothing is recorded, by first offset: first to last.
    gaps: BTreeMap<i64, i64>,
    last_change: u64,
    /// No deadline is earlier.
    earliest_ms: Option<u64>,
}

impl SharePartition {
    /// The state as it is recorded. `start` is a known offset.
    pub fn load(state_epoch: i32, start: i64, batches: &[read_share_group_state::StateBatch]) -> SharePartition {
        let mut loaded = SharePartition { state_epoch, start, next: start, ..SharePartition::default() };
        let mut sorted: Vec<_> = batches.iter().filter(|batch| batch.last_offset >= start).collect();
        sorted.sort_by_key(|batch| batch.first_offset);
        for batch in sorted {
            let first = batch.first_offset.max(loaded.next);
            if first > batch.last_offset {
                continue;
            }
            if first > loaded.next {
                loaded.gaps.insert(loaded.next, first - 1);
            }
            let state = match RecordState::from_code(batch.delivery_state) {
                RecordState::Acquired => RecordState::Available,
                state => state,
            };
            let status = Status { state, deliveries: batch.delivery_count, owner: None, deadline_ms: None };
            loaded.pieces.insert(first, Piece { last: batch.last_offset, status, single: false, change: None });
            loaded.next = batch.last_offset + 1;
        }
        loaded.advance();
        loaded
    }

    /// The first offset that is still of interest.
    pub fn start_offset(&self) -> i64 {
        self.start
    }

    /// The epoch of the recorded state.
    pub fn state_epoch(&self) -> i32 {
        self.state_epoch
    }

    /// The offset to read from for the next member.
    pub fn next_fetch_offset(&self) -> i64 {
        let available = self.pieces.iter().find(|(_, piece)| piece.is_available()).map(|(first, _)| *first);
        let gap = self.gaps.keys().next().copied();
        available.into_iter().chain(gap).min().unwrap_or(self.next)
    }

    /// Whether anything may be given out, if the log has it.
    pub fn can_acquire(&self, rules: &Rules) -> bool {
        self.next_fetch_offset() != self.next || self.pieces.is_empty() || self.next - self.start < rules.max_in_flight
    }

    /// Whether anything is acquired or being written.
    pub fn is_idle(&self) -> bool {
        self.pieces.values().all(|piece| piece.status.state != RecordState::Acquired && piece.change.is_none())
    }

    /// When [`SharePartition::expire`] has something to do at the earliest.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.earliest_ms
    }
}

/// Giving out.
impl SharePartition {
    /// Gives a member what is available of what was read.
    pub fn acquire(&mut self, now_ms: u64, member: &str, rules: &Rules, fetched: &Fetched<'_>) -> Vec<Acquired> {
        let (Some(first), Some(last)) = (fetched.batches.first(), fetched.batches.last()) else { return Vec::new() };
        if fetched.max_records <= 0 {
            return Vec::new();
        }
        self.pass_over(fetched.offset, first.first);
        let range = Span { first: first.first.max(self.start), last: last.last };
        let lock = Status {
            state: RecordState::Acquired,
            deliveries: 1,
            owner: Some(member.into()),
            deadline_ms: Some(now_ms.saturating_add(rules.lock_ms)),
        };
        let mut acquired = Vec::new();
        let mut taken = 0;
        for target in self.targets(range) {
            if taken >= fetched.max_records {
                break;
            }
            taken += match target {
                Target::Piece(first) => {
                    self.acquire_piece(first, range, fetched.max_records - taken, &lock, &mut acquired)
                }
                Target::Gap(span) => {
                    let end = self.acquire_new(span, fetched, fetched.max_records - taken, &lock, &mut acquired);
                    self.shrink_gap(span.first, end);
                    end - span.first + 1
                }
                Target::New(span) => {
                    let end = self.acquire_new(span, fetched, fetched.max_records - taken, &lock, &mut acquired);
                    if self.pieces.first_key_value().is_some_and(|(first, _)| *first == span.first) {
                        self.start = span.first;
                    }
                    self.next = end + 1;
                    end - span.first + 1
                }
            };
        }
        if !acquired.is_empty() {
            self.expects(lock.deadline_ms);
        }
        for aborted in fetched.aborted {
            self.archive_acquired(*aborted);
        }
        self.advance();
        without(acquired, fetched.aborted)
    }

    /// What of a range may be given out, in order.
    fn targets(&self, range: Span) -> Vec<Target> {
        let pieces = self.overlapping(range).into_iter().filter(|first| self.pieces[first].is_available());
        let gaps = self.gaps.iter().map(|(first, last)| Span { first: *first, last: *last });
        let clipped = gaps.filter_map(|gap| {
            let span = Span { first: gap.first.max(range.first), last: gap.last.min(range.last) };
            (span.first <= span.last).then_some(Target::Gap(span))
        });
        let mut targets: Vec<Target> = pieces.map(Target::Piece).chain(clipped).collect();
        targets.sort_by_key(Target::first);
        if range.last >= self.next {
            targets.push(Target::New(Span { first: range.first.max(self.next), last: range.last }));
        }
        targets
    }

    fn acquire_piece(
        &mut self,
        first: i64,
        range: Span,
        budget: i64,
        lock: &Status,
        acquired: &mut Vec<Acquired>,
    ) -> i64 {
        let Piece { last, single, .. } = self.pieces[&first];
        let mut span = Span { first: first.max(range.first), last: last.min(range.last) };
        if single {
            span.last = span.last.min(span.first + budget.max(SHARE_SINGLES_AT_ONCE) - 1);
        }
        self.cut_out(span);
        let piece = self.pieces.get_mut(&span.first).expect("the piece was just cut out");
        let deliveries = piece.status.deliveries.saturating_add(1);
        piece.status = Status { deliveries, ..lock.clone() };
        match piece.single {
            true => acquired
                .extend((span.first..=span.last).map(|at| Acquired { span: Span { first: at, last: at }, deliveries })),
            false => acquired.push(Acquired { span, deliveries }),
        }
        span.len()
    }

    /// Gives out what was never given out, up to the end of the batch that holds the last record of the `budget`;
    /// gives the last offset.
    fn acquire_new(
        &mut self,
        span: Span,
        fetched: &Fetched<'_>,
        budget: i64,
        lock: &Status,
        acquired: &mut Vec<Acquired>,
    ) -> i64 {
        let mut end = span.last;
        if budget < span.len() {
            let wanted = span.first + budget - 1;
            let holds = fetched.batches.iter().find(|batch| (batch.first..=batch.last).contains(&wanted));
            end = holds.map_or(wanted, |batch| batch.last).min(span.last);
        }
        let mut first = span.first;
        if end - span.first + 1 > fetched.batch_size {
            for batch in fetched.batches.iter().take_while(|batch| batch.first <= end) {
                if batch.first - first >= fetched.batch_size.max(1) {
                    self.put_acquired(Span { first, last: batch.first - 1 }, lock, acquired);
                    first = batch.first;
                }
            }
        }
        self.put_acquired(Span { first, last: end }, lock, acquired);
        end
    }

    fn put_acquired(&mut self, span: Span, lock: &Status, acquired: &mut Vec<Acquired>) {
        self.pieces.insert(span.first, Piece { last: span.last, status: lock.clone(), single: false, change: None });
        acquired.push(Acquired { span, deliveries: lock.deliveries });
    }

    /// The log has nothing in `[from, to)` any more.
    fn pass_over(&mut self, from: i64, to: i64) {
        if from >= to {
            return;
        }
        let range = Span { first: from, last: to - 1 };
        for first in self.overlapping(range) {
            let piece = &self.pieces[&first];
            if piece.is_available() {
                let span = Span { first: first.max(from), last: piece.last.min(range.last) };
                self.cut_out(span);
                let piece = self.pieces.get_mut(&span.first).expect("the piece was just cut out");
                piece.status.state = RecordState::Archived;
            }
        }
        for (first, last) in self.gaps.clone() {
            if first < to && last >= from {
                self.gaps.remove(&first);
                if first < from {
                    self.gaps.insert(first, from - 1);
                }
                if last >= to {
                    self.gaps.insert(to, last);
                }
            }
        }
        self.advance();
    }

    fn shrink_gap(&mut self, from: i64, end: i64) {
        let Some((first, last)) = self.gaps.range(..=from).next_back().map(|(first, last)| (*first, *last)) else {
            return;
        };
        self.gaps.remove(&first);
        if first < from {
            self.gaps.insert(first, from - 1);
        }
        if last > end {
            self.gaps.insert(end + 1, last);
        }
    }

    /// Records that were just acquired turn out to be of an aborted transaction.
    fn archive_acquired(&mut self, range: Span) {
        for first in self.overlapping(range) {
            let piece = &self.pieces[&first];
            if piece.status.state != RecordState::Acquired || piece.change.is_some() {
                continue;
            }
            let span = Span { first: first.max(range.first), last: piece.last.min(range.last) };
            self.cut_out(span);
            let status = &mut self.pieces.get_mut(&span.first).expect("the piece was just cut out").status;
            *status = Status { state: RecordState::Archived, owner: None, deadline_ms: None, ..status.clone() };
        }
    }
}

enum Target {
    Piece(i64),
    Gap(Span),
    New(Span),
}

impl Target {
    fn first(&self) -> i64 {
        match self {
            Target::Piece(first) => *first,
            Target::Gap(span) | Target::New(span) => span.first,
        }
    }
}

/// Leaves out the records of some spans, which are in order.
fn without(acquired: Vec<Acquired>, left_out: &[Span]) -> Vec<Acquired> {
    if left_out.is_empty() {
        return acquired;
    }
    let mut kept = Vec::with_capacity(acquired.len());
    for run in acquired {
        let mut first = run.span.first;
        for out in left_out.iter().filter(|out| out.last >= run.span.first && out.first <= run.span.last) {
            if out.first > first {
                kept.push(Acquired { span: Span { first, last: out.first - 1 }, ..run });
            }
            first = first.max(out.last + 1);
        }
        if first <= run.span.last {
            kept.push(Acquired { span: Span { first, last: run.span.last }, ..run });
        }
    }
    kept
}

/// Taking back.
impl SharePartition {
    /// A member says what it did with what it has: all of it, or nothing. `None` if there is nothing to write.
    ///
    /// # Errors
    /// If some of it is not the member's, or not acquired at all.
    pub fn acknowledge(
        &mut self,
        member: &str,
        rules: &Rules,
        acknowledgements: &[Acknowledgement],
    ) -> Result<Option<Write>, Refusal> {
        let mut changes: Vec<(Span, RecordState)> = Vec::new();
        for acknowledgement in acknowledgements {
            let runs = runs(acknowledgement)?;
            if acknowledgement.span.last < self.start {
                continue;
            }
            self.check_in_flight(acknowledgement.span)?;
            for (span, state) in runs {
                let span = Span { first: span.first.max(self.start), last: span.last };
                if span.first > span.last {
                    continue;
                }
                self.check_owned(span, member)?;
                changes.push((span, state));
            }
        }
        changes.sort_by_key(|(span, _)| span.first);
        if changes.windows(2).any(|pair| pair[1].0.first <= pair[0].0.last) {
            // The second would find what the first has changed.
            return Err(NOT_ACQUIRED);
        }
        if self.pieces.len() + 2 * changes.len() > SHARE_PIECES {
            return Err(TOO_MANY_PIECES);
        }
        let mut write = self.begin();
        for (span, state) in changes {
            for first in self.overlapping(span) {
                let part = Span { first: first.max(span.first), last: self.pieces[&first].last.min(span.last) };
                self.change(part, state, Count::Stands, rules, true, &mut write);
            }
        }
        Ok(finish(write))
    }

    /// A member is gone: what it has is available again, as if it had never had it.
    pub fn release(&mut self, member: &str, rules: &Rules) -> Option<Write> {
        let mut write = self.begin();
        let is_his = |piece: &Piece| {
            piece.status.state == RecordState::Acquired
                && piece.change.is_none()
                && piece.status.owner.as_deref() == Some(member)
        };
        let his: Vec<Span> = self.spans(is_his);
        for span in his {
            self.change(span, RecordState::Available, Count::TakenBack, rules, true, &mut write);
        }
        finish(write)
    }

    /// What members have had for too long is available again, or given up after the last delivery.
    pub fn expire(&mut self, now_ms: u64, rules: &Rules) -> Option<Write> {
        if self.earliest_ms.is_none_or(|earliest| earliest > now_ms) {
            return None;
        }
        let mut write = self.begin();
        let is_late = |piece: &Piece| {
            piece.status.state == RecordState::Acquired
                && piece.change.is_none()
                && piece.status.deadline_ms.is_some_and(|deadline| deadline <= now_ms)
        };
        let late: Vec<Span> = self.spans(is_late);
        for span in late {
            // There is nobody to take it back for if it cannot be written.
            self.change(span, RecordState::Available, Count::Stands, rules, false, &mut write);
        }
        self.find_earliest();
        finish(write)
    }

    /// A change is on stable storage.
    pub fn written(&mut self, number: u64) {
        for piece in self.pieces.values_mut() {
            if piece.change.as_ref().is_some_and(|(change, _)| *change == number) {
                piece.change = None;
            }
        }
        self.advance();
    }

    /// A change could not be written: what can go back does.
    pub fn failed(&mut self, number: u64) {
        for piece in self.pieces.values_mut() {
            if piece.change.as_ref().is_some_and(|(change, _)| *change == number)
                && let Some((_, Some(before))) = piece.change.take()
            {
                piece.status = before;
            }
        }
        self.find_earliest();
        self.advance();
    }

    /// The log begins later: what lies before is of no interest any more.
    pub fn log_start_moved(&mut self, start: i64) {
        if start <= self.start {
            return;
        }
        for first in self.overlapping(Span { first: self.start, last: start - 1 }) {
            let mut piece = self.pieces.remove(&first).expect("it was just found");
            if piece.last >= start {
                piece.single = true;
                self.pieces.insert(start, piece);
            }
        }
        for (first, last) in std::mem::take(&mut self.gaps) {
            if last >= start {
                self.gaps.insert(first.max(start), last);
            }
        }
        self.start = start;
        self.next = self.next.max(start);
        self.advance();
    }

    fn begin(&mut self) -> Write {
        self.last_change += 1;
        Write {
            number: self.last_change,
            state_epoch: self.state_epoch,
            // Not what it will be: Kafka's, too, is a write behind, and its tools show it so.
            start_offset: self.start,
            batches: Vec::new(),
        }
    }

    fn change(
        &mut self,
        span: Span,
        state: RecordState,
        count: Count,
        rules: &Rules,
        may_go_back: bool,
        write: &mut Write,
    ) {
        self.cut_out(span);
        let piece = self.pieces.get_mut(&span.first).expect("the piece was just cut out");
        let before = piece.status.clone();
        let is_spent = before.deliveries >= rules.max_deliveries && count == Count::Stands;
        let state = if state == RecordState::Available && is_spent { RecordState::Archived } else { state };
        let deliveries = before.deliveries - i16::from(count == Count::TakenBack);
        piece.status = Status { state, deliveries, owner: None, deadline_ms: None };
        piece.change = Some((write.number, may_go_back.then_some(before)));
        write.batches.push(write_share_group_state::StateBatch {
            first_offset: span.first,
            last_offset: span.last,
            delivery_state: state as i8,
            delivery_count: deliveries,
        });
    }

    /// Kafka's three ways of saying that what is acknowledged was never given out.
    fn check_in_flight(&self, span: Span) -> Result<(), Refusal> {
        let has_moved = span.first < self.start && span.last >= self.start;
        let from = if has_moved { self.start } else { span.first };
        let floor = self.pieces.range(..=from).next_back().map(|(first, _)| *first).ok_or(NOT_IN_FLIGHT)?;
        let behind = self.pieces.range(floor..).take_while(|(first, _)| **first <= span.last).last();
        match behind.map(|(_, piece)| piece.last) {
            Some(last) if last < span.first => Err(FIRST_PAST),
            Some(last) if last < span.last => Err(LAST_PAST),
            Some(_) => Ok(()),
            None => Err(NOT_IN_FLIGHT),
        }
    }

    fn check_owned(&self, span: Span, member: &str) -> Result<(), Refusal> {
        for first in self.overlapping(span) {
            let piece = &self.pieces[&first];
            if piece.status.state != RecordState::Acquired || piece.change.is_some() {
                return Err(NOT_ACQUIRED);
            }
            if piece.status.owner.as_deref() != Some(member) {
                return Err(NOT_OWNER);
            }
        }
        Ok(())
    }
}

/// The runs of one type in an acknowledgement.
fn runs(acknowledgement: &Acknowledgement) -> Result<Vec<(Span, RecordState)>, Refusal> {
    let Acknowledgement { span, kinds } = acknowledgement;
    let states: Option<Vec<RecordState>> = kinds.iter().map(|kind| RecordState::of_acknowledgement(*kind)).collect();
    let states = states.filter(|states| !states.is_empty()).ok_or(BAD_KIND)?;
    if states.len() == 1 {
        return Ok(vec![(*span, states[0])]);
    }
    let mut runs: Vec<(Span, RecordState)> = Vec::new();
    for (at, state) in (span.first..=span.last).zip(states) {
        match runs.last_mut() {
            Some((run, of)) if *of == state => run.last = at,
            _ => runs.push((Span { first: at, last: at }, state)),
        }
    }
    Ok(runs)
}

fn finish(write: Write) -> Option<Write> {
    (!write.batches.is_empty()).then_some(write)
}

/// Pieces.
impl SharePartition {
    /// The first offsets of the pieces that have records in the range.
    fn overlapping(&self, range: Span) -> Vec<i64> {
        let floor = self.pieces.range(..=range.first).next_back().filter(|(_, piece)| piece.last >= range.first);
        let from = floor.map_or(range.first, |(first, _)| *first);
        self.pieces.range(from..).take_while(|(first, _)| **first <= range.last).map(|(first, _)| *first).collect()
    }

    fn spans(&self, wanted: impl Fn(&Piece) -> bool) -> Vec<Span> {
        let found = self.pieces.iter().filter(|(_, piece)| wanted(piece));
        found.map(|(first, piece)| Span { first: *first, last: piece.last }).collect()
    }

    /// Makes a span, which lies in one piece, a piece by itself.
    fn cut_out(&mut self, span: Span) {
        let (first, whole) = self.pieces.range(..=span.first).next_back().expect("the span lies in a piece");
        let (first, whole) = (*first, whole.clone());
        if (first, whole.last) == (span.first, span.last) {
            return;
        }
        let part = |last| Piece { last, single: true, ..whole.clone() };
        if first < span.first {
            self.pieces.insert(first, part(span.first - 1));
        }
        self.pieces.insert(span.first, part(span.last));
        if whole.last > span.last {
            self.pieces.insert(span.last + 1, part(whole.last));
        }
    }

    /// Moves the start over what is done with.
    fn advance(&mut self) {
        while let Some((first, piece)) = self.pieces.first_key_value() {
            let (first, last) = (*first, piece.last);
            let is_behind_gap = self.gaps.first_key_value().is_some_and(|(gap, _)| *gap < first);
            if is_behind_gap || piece.change.is_some() || !piece.status.state.is_final() {
                return;
            }
            self.pieces.remove(&first);
            let next = self.pieces.keys().next().copied().unwrap_or(self.next);
            let gap = self.gaps.keys().next().copied();
            self.start = gap.map_or(next, |gap| gap.min(next)).max(last + 1);
        }
    }

    fn expects(&mut self, deadline_ms: Option<u64>) {
        self.earliest_ms = self.earliest_ms.into_iter().chain(deadline_ms).min();
    }

    fn find_earliest(&mut self) {
        let deadlines = self.pieces.values().filter(|piece| piece.change.is_none());
        self.earliest_ms = deadlines.filter_map(|piece| piece.status.deadline_ms).min();
    }
}

#[cfg(test)]
mod tests;
