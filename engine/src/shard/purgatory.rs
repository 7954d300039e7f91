//! Requests that wait: a produce or a marker for stable storage, a reader for news; each until its deadline.
//!
//! Invariant: each is answered exactly once, by what it waits for, by its deadline, by its partition's end, or
//! because it is no longer waited for; and it then stands in no list any more. It knows no logs: partitions say what
//! has happened.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use super::message::{Produced, Reply};
use super::node::ReplyTo;
use crate::io::local::Bell;
use crate::io::{Instant, Io};
use crate::protocol::ErrorCode;

/// A produce request of which some parts are not yet on stable storage.
pub struct PendingProduce {
    results: RefCell<Vec<Produced>>,
    /// Which parts still wait.
    waiting: RefCell<Vec<bool>>,
    remaining: Cell<usize>,
    /// Makes the answer of the results.
    answer: fn(Vec<Produced>) -> Reply,
    waiter: Waiter,
}

/// Who is to be answered, and where its deadline is noted.
struct Waiter {
    reply: Cell<Option<ReplyTo>>,
    deadline: Cell<Option<Key>>,
    purgatory: Rc<Purgatory>,
}

type Key = (Instant, u64);

impl Waiter {
    fn new(reply: ReplyTo, purgatory: &Rc<Purgatory>) -> Waiter {
        Waiter { reply: Cell::new(Some(reply)), deadline: Cell::new(None), purgatory: purgatory.clone() }
    }

    /// Takes the right to answer, once; the deadline no longer matters.
    fn take(&self) -> Option<ReplyTo> {
        let reply = self.reply.take()?;
        if let Some(key) = self.deadline.take() {
            self.purgatory.deadlines.borrow_mut().remove(&key);
        }
        Some(reply)
    }
}

impl PendingProduce {
    /// The results as they are if all goes well; `waiting` says which parts wait, `answer` what becomes of the
    /// results. Answers at once if none waits.
    pub fn new(
        results: Vec<Produced>,
        waiting: Vec<bool>,
        reply: ReplyTo,
        purgatory: &Rc<Purgatory>,
        answer: fn(Vec<Produced>) -> Reply,
    ) -> Rc<PendingProduce> {
        let remaining = waiting.iter().filter(|waits| **waits).count();
        let (results, waiting) = (RefCell::new(results), RefCell::new(waiting));
        let pending = Rc::new(PendingProduce {
            results,
            waiting,
            remaining: Cell::new(remaining),
            answer,
            waiter: Waiter::new(reply, purgatory),
        });
        pending.answer_if_settled();
        pending
    }

    /// Parts that still wait fail with REQUEST_TIMED_OUT at `deadline`.
    pub fn expire_at(self: &Rc<PendingProduce>, deadline: Instant) {
        if self.remaining.get() > 0 {
            let key = self.waiter.purgatory.add(deadline, Expiring::Produce(self.clone()));
            self.waiter.deadline.set(Some(key));
        }
    }

    /// One part is settled: as promised, or with an error. The last one answers the request.
    pub fn settle(&self, part: usize, error: Option<ErrorCode>) {
        if !std::mem::replace(&mut self.waiting.borrow_mut()[part], false) {
            return;
        }
        if let Some(error) = error {
            self.results.borrow_mut()[part] = Produced::refused(error);
        }
        self.remaining.set(self.remaining.get() - 1);
        self.answer_if_settled();
    }

    fn answer_if_settled(&self) {
        if self.remaining.get() == 0
            && let Some(reply) = self.waiter.take()
        {
            reply.send((self.answer)(self.results.take()));
        }
    }

    fn time_out(&self) {
        let parts = self.waiting.borrow().len();
        (0..parts).for_each(|part| self.settle(part, Some(ErrorCode::RequestTimedOut)));
    }
}

/// A reader that waits for news of some partitions.
pub struct PendingAwait {
    waiter: Waiter,
    /// No two of a core have the same.
    number: u64,
    /// Under what it can be cancelled.
    asker: Option<Asker>,
    /// Where it is noted.
    noted: RefCell<Vec<Rc<Readers>>>,
}

/// Who asked: a core, and its token.
pub type Asker = (usize, u64);

impl PendingAwait {
    /// To be answered once, at `deadline` at the latest.
    pub fn new(reply: ReplyTo, deadline: Instant, purgatory: &Rc<Purgatory>) -> Rc<PendingAwait> {
        let asker = reply.asker();
        let number = purgatory.added.get();
        let waiter = Waiter::new(reply, purgatory);
        let pending = Rc::new(PendingAwait { waiter, number, asker, noted: RefCell::default() });
        pending.waiter.deadline.set(Some(purgatory.add(deadline, Expiring::Await(pending.clone()))));
        if let Some(asker) = asker {
            purgatory.awaits.borrow_mut().insert(asker, pending.clone());
        }
        pending
    }

    /// Whether it has been answered.
    pub fn is_answered(&self) -> bool {
        let reply = self.waiter.reply.take();
        let is_answered = reply.is_none();
        self.waiter.reply.set(reply);
        is_answered
    }

    /// There is news, or no more time.
    pub fn answer(&self) {
        let Some(reply) = self.waiter.take() else { return };
        for readers in self.noted.take() {
            readers.0.borrow_mut().remove(&self.number);
        }
        if let Some(asker) = self.asker {
            self.waiter.purgatory.awaits.borrow_mut().remove(&asker);
        }
        reply.send(Reply::Await);
    }
}

/// The readers that wait for news of one thing, each once.
#[derive(Default)]
pub struct Readers(RefCell<BTreeMap<u64, Reader>>);

struct Reader {
    /// The end that it has seen, and of what.
    seen_end: i64,
    read_committed: bool,
    pending: Rc<PendingAwait>,
}

impl Readers {
    /// Notes a reader until it is answered.
    pub fn add(self: &Rc<Readers>, seen_end: i64, read_committed: bool, pending: &Rc<PendingAwait>) {
        if pending.is_answered() {
            return;
        }
        let mut readers = self.0.borrow_mut();
        let reader = Reader { seen_end, read_committed, pending: pending.clone() };
        match readers.insert(pending.number, reader) {
            None => pending.noted.borrow_mut().push(self.clone()),
            // It names the partition twice: what it has not seen of it once is news.
            Some(before) => {
                let reader = readers.get_mut(&pending.number).expect("it was added");
                reader.seen_end = reader.seen_end.min(before.seen_end);
            }
        }
    }

    /// Answers those who have not seen so much.
    pub fn show(&self, high_watermark: i64, last_stable_offset: i64) {
        let is_news = |reader: &&Reader| {
            let visible = if reader.read_committed { last_stable_offset } else { high_watermark };
            visible > reader.seen_end
        };
        let told: Vec<_> = self.0.borrow().values().filter(is_news).map(|reader| reader.pending.clone()).collect();
        told.iter().for_each(|pending| pending.answer());
    }

    /// Answers all.
    pub fn answer_all(&self) {
        let all: Vec<_> = self.0.borrow().values().map(|reader| reader.pending.clone()).collect();
        all.iter().for_each(|pending| pending.answer());
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }
}

enum Expiring {
    Produce(Rc<PendingProduce>),
    Await(Rc<PendingAwait>),
}

/// The deadlines of all that wait on one core.
#[derive(Default)]
pub struct Purgatory {
    deadlines: RefCell<BTreeMap<Key, Expiring>>,
    /// Readers that can be cancelled.
    awaits: RefCell<BTreeMap<Asker, Rc<PendingAwait>>>,
    added: Cell<u64>,
    bell: Bell,
}

impl Purgatory {
    fn add(&self, deadline: Instant, waiter: Expiring) -> Key {
        let key = (deadline, self.added.get());
        self.added.set(key.1 + 1);
        let mut deadlines = self.deadlines.borrow_mut();
        let earliest = deadlines.first_key_value().is_none_or(|(first, _)| deadline < first.0);
        deadlines.insert(key, waiter);
        drop(deadlines);
        if earliest {
            self.bell.ring();
        }
        key
    }

    /// Nobody waits for this answer any more. It may have been given already.
    pub fn cancel(&self, asker: Asker) {
        let pending = self.awaits.borrow().get(&asker).cloned();
        if let Some(pending) = pending {
            pending.answer();
        }
    }

    /// How many requests wait.
    pub fn waiting(&self) -> usize {
        self.deadlines.borrow().len()
    }

    /// Answers what is overdue, for ever.
    pub async fn run(&self, io: &Io) {
        loop {
            let rings = self.bell.rings();
            let next = self.deadlines.borrow().first_key_value().map(|(key, _)| key.0);
            match next {
                Some(next) => futures_lite::future::or(io.sleep_until(next), self.bell.rung_since(rings)).await,
                None => self.bell.rung_since(rings).await,
            }
            self.expire(io.now());
        }
    }

    fn expire(&self, now: Instant) {
        loop {
            let overdue = {
                let mut deadlines = self.deadlines.borrow_mut();
                deadlines.first_entry().filter(|entry| entry.key().0 <= now).map(|entry| entry.remove())
            };
            match overdue {
                None => return,
                Some(Expiring::Produce(pending)) => pending.time_out(),
                Some(Expiring::Await(pending)) => pending.answer(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::local;

    fn waits(purgatory: &Rc<Purgatory>) -> Rc<PendingAwait> {
        PendingAwait::new(ReplyTo::Local(local::oneshot().0), Instant::default(), purgatory)
    }

    #[test]
    fn a_reader_is_noted_once_and_nowhere_when_it_is_answered() {
        let (purgatory, one, other) = (Rc::default(), Rc::<Readers>::default(), Rc::<Readers>::default());
        let (first, second) = (waits(&purgatory), waits(&purgatory));
        for seen in [7, 5, 6] {
            one.add(seen, false, &first);
        }
        other.add(1, true, &first);
        one.add(7, true, &second);
        assert_eq!((one.0.borrow().len(), other.0.borrow().len(), purgatory.waiting()), (2, 1, 2));
        one.show(5, 0);
        assert_eq!(one.0.borrow().len(), 2);
        one.show(6, 0);
        assert_eq!((one.0.borrow().len(), other.0.borrow().len(), purgatory.waiting()), (1, 0, 1));
        one.answer_all();
        assert!(one.is_empty());
        assert_eq!(purgatory.waiting(), 0);
        assert_eq!((Rc::strong_count(&first), Rc::strong_count(&second)), (1, 1));
    }
}
