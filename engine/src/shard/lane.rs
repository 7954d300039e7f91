//! Produce requests on their way into the partitions.
//!
//! Batches are judged and appended one after another, in the order of their arrival. One whose check outlasts its turn,
//! for it unpacks to much, leaves that queue for the slow lane and lets others overtake it. The invariant: what one
//! connection sends enters a partition in the order of its arrival, for whatever follows a batch that is in the slow
//! lane, from the same connection to the same partition, waits behind it there. In the slow lane one check is under way
//! at a time, so that its memory is that of one; the connections take turns.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::pin::Pin;
use std::rc::Rc;

use super::message::{Origin, Produce, ProducePart, Produced};
use super::node::ReplyTo;
use super::partition::Rules;
use super::{Appended, Shard};
use crate::io::local::Bell;
use crate::io::{BYTES_PER_COST, Instant, Io, Pace, TURN};
use crate::log::PartitionId;
use crate::protocol::{ErrorCode, Uuid};
use crate::record::{Rejected, Scratch, Validated, Verdict, validate_in_turns};

/// A request, and what has become of its parts.
pub(super) struct Gathering {
    pub(super) produce: Produce,
    reply: Cell<Option<ReplyTo>>,
    results: RefCell<Vec<Option<Appended>>>,
    left: Cell<usize>,
    /// When its turn began.
    begun: Instant,
}

impl Gathering {
    fn new(produce: Produce, reply: ReplyTo, begun: Instant) -> Rc<Gathering> {
        let left = Cell::new(produce.parts.len());
        let results = RefCell::new(produce.parts.iter().map(|_| None).collect());
        Rc::new(Gathering { produce, reply: Cell::new(Some(reply)), results, left, begun })
    }
}

/// A check under way.
type Check = Pin<Box<dyn Future<Output = Checked>>>;

/// A check that has ended.
struct Checked {
    verdict: Result<Verdict, Rejected>,
    /// What it has cost, as a [`Pace`] counts.
    cost: usize,
    scratch: Scratch,
}

/// A part in the slow lane.
struct Late {
    of: Rc<Gathering>,
    part: usize,
    /// What has been checked of it already.
    check: Option<Check>,
}

/// The slow lane.
#[derive(Default)]
pub(super) struct Lane {
    late: RefCell<BTreeMap<Origin, VecDeque<Late>>>,
    /// How many parts of a connection for a partition are in the lane.
    waiting: RefCell<BTreeMap<(Origin, PartitionId), usize>>,
    bell: Bell,
    scratch: RefCell<Option<Scratch>>,
}

impl Lane {
    fn holds(&self, origin: Origin, id: PartitionId) -> bool {
        self.waiting.borrow().contains_key(&(origin, id))
    }

    /// Whether anything of the connection is in the lane.
    fn holds_any(&self, origin: Origin) -> bool {
        let first = PartitionId { topic_id: Uuid::ZERO, partition: i32::MIN };
        self.waiting.borrow().range((origin, first)..).next().is_some_and(|((other, _), _)| *other == origin)
    }

    fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    fn push(&self, late: Late) {
        let (origin, id) = (late.of.produce.origin, late.of.produce.parts[late.part].id);
        *self.waiting.borrow_mut().entry((origin, id)).or_default() += 1;
        self.late.borrow_mut().entry(origin).or_default().push_back(late);
        self.bell.ring();
    }

    /// The next part of the connection that follows `last`.
    fn next(&self, last: Origin) -> Option<Late> {
        let mut late = self.late.borrow_mut();
        let behind = late.range((Bound::Excluded(last), Bound::Unbounded)).next();
        let origin = *behind.or_else(|| late.iter().next())?.0;
        let of_origin = late.get_mut(&origin).expect("it was found");
        let next = of_origin.pop_front().expect("a connection without parts is not kept");
        if of_origin.is_empty() {
            late.remove(&origin);
        }
        Some(next)
    }

    fn passed(&self, origin: Origin, id: PartitionId) {
        let mut waiting = self.waiting.borrow_mut();
        let count = waiting.get_mut(&(origin, id)).expect("it was in the lane");
        *count -= 1;
        if *count == 0 {
            waiting.remove(&(origin, id));
        }
    }
}

impl Shard {
    /// Judges and appends what comes, for ever.
    pub(super) async fn append_produces(self: &Rc<Shard>) {
        let pace = Pace::new(&self.io);
        loop {
            let (produce, reply, came) = self.produce_bell.until(|| self.produces.borrow_mut().pop_front()).await;
            let of = Gathering::new(produce, reply, self.count_wait(came));
            if of.produce.parts.is_empty() {
                self.answer_if_whole(&of);
            }
            for part in 0..of.produce.parts.len() {
                pace.spend(1 + of.produce.parts[part].records.len() / BYTES_PER_COST).await;
                let cost = self.take_part(&of, part).await;
                pace.spend(cost).await;
            }
        }
    }

    /// Appends the part, or leaves it to the slow lane; gives what that has cost beyond the bytes that came.
    async fn take_part(self: &Rc<Shard>, of: &Rc<Gathering>, part: usize) -> usize {
        let asked = &of.produce.parts[part];
        if self.lane.holds(of.produce.origin, asked.id) {
            self.lane.push(Late { of: of.clone(), part, check: None });
            return 0;
        }
        let rules = match self.rules_for(asked) {
            Ok(rules) => rules,
            Err(refusal) => {
                self.settle_part(of, part, (refusal, None));
                return 0;
            }
        };
        let now_ms = self.io.wall_clock_ms();
        if !rules.checks_at_once(asked) && self.lane.holds_any(of.produce.origin) {
            // Who sends one such batch sends more of them: they need not be begun here to learn that.
            self.lane.push(Late { of: of.clone(), part, check: None });
            return 0;
        }
        if rules.checks_at_once(asked) {
            let result = rules.validate(asked, of.produce.version, now_ms, &mut self.scratch.borrow_mut());
            let appended = self.judge_and_append(of, part, result).await;
            self.settle_part(of, part, appended);
            return 0;
        }
        let scratch = self.scratch.take();
        let mut check = check(&self.io, rules, asked, of.produce.version, now_ms, scratch);
        match futures_lite::future::poll_once(&mut check).await {
            None => {
                // One that is begun holds memory: it is begun anew if others are before it.
                let check = self.lane.is_empty().then_some(check);
                self.lane.push(Late { of: of.clone(), part, check });
                TURN
            }
            Some(Checked { verdict, cost, scratch }) => {
                *self.scratch.borrow_mut() = scratch;
                let result = verdict.map(|verdict| verdict.attach(&asked.records));
                let appended = self.judge_and_append(of, part, result).await;
                self.settle_part(of, part, appended);
                cost
            }
        }
    }

    /// Checks and appends what is in the slow lane, for ever.
    pub(super) async fn append_late(self: Rc<Shard>) {
        let mut last = Origin::default();
        loop {
            let Late { of, part, check: begun } = self.lane.bell.until(|| self.lane.next(last)).await;
            let asked = &of.produce.parts[part];
            last = of.produce.origin;
            let begun = match begun {
                Some(check) => Ok(check),
                None => self.rules_for(asked).map(|rules| {
                    let scratch = self.lane.scratch.take().unwrap_or_default();
                    check(&self.io, rules, asked, of.produce.version, self.io.wall_clock_ms(), scratch)
                }),
            };
            let appended = match begun {
                Err(refusal) => (refusal, None),
                Ok(check) => {
                    let Checked { verdict, scratch, .. } = check.await;
                    *self.lane.scratch.borrow_mut() = Some(scratch);
                    let result = verdict.map(|verdict| verdict.attach(&asked.records));
                    self.judge_and_append(&of, part, result).await
                }
            };
            self.lane.passed(last, asked.id);
            self.settle_part(&of, part, appended);
        }
    }

    /// What a batch must keep to, or why there is nothing to check.
    fn rules_for(&self, part: &ProducePart) -> Result<Rules, Produced> {
        if !self.takes_appends() {
            return Err(self.refuse_for_now(part, ErrorCode::KafkaStorageError));
        }
        match self.partitions.borrow().get(&part.id) {
            Some(partition) => partition.rules(),
            None => Err(Produced::refused(ErrorCode::NotLeaderOrFollower)),
        }
    }

    async fn judge_and_append(
        self: &Rc<Shard>,
        of: &Gathering,
        part: usize,
        result: Result<Validated<'_>, Rejected>,
    ) -> Appended {
        let asked = &of.produce.parts[part];
        match result {
            Ok(batch) => self.append(&of.produce, asked, batch).await,
            Err(rejected) => {
                let partitions = self.partitions.borrow();
                let refused = partitions.get(&asked.id).map(|partition| partition.refused(rejected));
                (refused.unwrap_or(Produced::refused(ErrorCode::NotLeaderOrFollower)), None)
            }
        }
    }

    fn settle_part(&self, of: &Gathering, part: usize, appended: Appended) {
        of.results.borrow_mut()[part] = Some(appended);
        of.left.set(of.left.get() - 1);
        self.answer_if_whole(of);
    }

    fn answer_if_whole(&self, of: &Gathering) {
        if of.left.get() > 0 {
            return;
        }
        let all = of.results.take().into_iter().map(|result| result.expect("none is left"));
        let (results, ends): (Vec<Produced>, Vec<_>) = all.unzip();
        self.count_append(of.begun, &results);
        let reply = of.reply.take().expect("a request is whole once");
        self.answer_when_durable(&of.produce, results, ends, reply);
    }
}

/// Begins to check a part.
fn check(io: &Io, rules: Rules, part: &ProducePart, version: i16, now_ms: i64, mut scratch: Scratch) -> Check {
    let (pace, records) = (Pace::new(io), part.records.clone());
    Box::pin(async move {
        let cost = Cell::new(0);
        let work = async |bytes: usize| {
            let more = bytes.div_ceil(BYTES_PER_COST);
            cost.set(cost.get() + more);
            pace.spend(more).await;
        };
        let append = rules.append(version, now_ms);
        let result = validate_in_turns(&records, &rules.topic, &append, &mut scratch, &work).await;
        Checked { verdict: result.map(Validated::detach), cost: cost.get(), scratch }
    })
}
