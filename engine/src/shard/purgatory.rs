//! Requests that wait: a produce or a marker for stable storage, a reader for news; each until its deadline.
//!
//! Invariant: each is answered exactly once, by what it waits for, by its deadline, or by its partition's
//! end. It knows no logs: partitions say what has happened.

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
pub struct PendingAwait(Waiter);

impl PendingAwait {
    /// To be answered once, at `deadline` at the latest.
    pub fn new(reply: ReplyTo, deadline: Instant, purgatory: &Rc<Purgatory>) -> Rc<PendingAwait> {
        let pending = Rc::new(PendingAwait(Waiter::new(reply, purgatory)));
        pending.0.deadline.set(Some(purgatory.add(deadline, Expiring::Await(pending.clone()))));
        pending
    }

    /// There is news, or no more time.
    pub fn answer(&self) {
        if let Some(reply) = self.0.take() {
            reply.send(Reply::Await);
        }
    }

    /// Whether it has been answered.
    pub fn is_answered(&self) -> bool {
        let reply = self.0.reply.take();
        let answered = reply.is_none();
        self.0.reply.set(reply);
        answered
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
