//! A core's memory for requests and for answers.
//!
//! The invariant: what is reserved never exceeds the budget, except that a single reservation larger than the
//! whole budget is granted when nothing else is held. It does not know what the bytes are for.

use std::cell::Cell;
use std::rc::Rc;

use engine::io::local::Bell;

/// Bytes to reserve from. Clones share them.
#[derive(Clone)]
pub struct Budget(Rc<State>);

struct State {
    limit: usize,
    used: Cell<usize>,
    freed: Bell,
}

/// Bytes reserved, until dropped.
pub struct Reservation {
    budget: Budget,
    bytes: usize,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Budget {
        Budget(Rc::new(State { limit, used: Cell::new(0), freed: Bell::default() }))
    }

    /// Bytes held now.
    pub fn used(&self) -> usize {
        self.0.used.get()
    }

    /// Reserves `bytes`, if there is room.
    pub fn try_reserve(&self, bytes: usize) -> Option<Reservation> {
        let used = self.0.used.get();
        if used > 0 && used.saturating_add(bytes) > self.0.limit {
            return None;
        }
        self.0.used.set(used + bytes);
        Some(Reservation { budget: self.clone(), bytes })
    }

    /// Reserves `bytes`, waiting for room.
    pub async fn reserve(&self, bytes: usize) -> Reservation {
        self.0.freed.until(|| self.try_reserve(bytes)).await
    }

    /// A reservation of nothing, to be grown.
    pub fn nothing(&self) -> Reservation {
        Reservation { budget: self.clone(), bytes: 0 }
    }
}

impl Reservation {
    /// How many bytes it holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds as much of `wanted` bytes as is left, but `least` in any case: what cannot be done without. Gives
    /// the bytes added.
    pub fn grow(&mut self, wanted: usize, least: usize) -> usize {
        let state = &self.budget.0;
        let left = state.limit.saturating_sub(state.used.get());
        let added = wanted.min(left.max(least));
        self.resize(self.bytes + added);
        added
    }

    /// Makes it hold `bytes` from now on, be they fewer or more.
    pub fn resize(&mut self, bytes: usize) {
        let used = self.budget.0.used.get();
        self.budget.0.used.set(used - self.bytes + bytes);
        let freed = bytes < self.bytes;
        self.bytes = bytes;
        if freed {
            self.budget.0.freed.ring();
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.resize(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_stays_within_the_limit() {
        let budget = Budget::new(100);
        let first = budget.try_reserve(60).expect("there is room");
        assert!(budget.try_reserve(41).is_none());
        let second = budget.try_reserve(40).expect("there is room");
        drop(first);
        assert!(budget.try_reserve(61).is_none());
        drop(second);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn one_request_larger_than_all_goes_alone() {
        let budget = Budget::new(100);
        let small = budget.try_reserve(1).expect("there is room");
        assert!(budget.try_reserve(1000).is_none());
        drop(small);
        let large = budget.try_reserve(1000).expect("it is alone");
        assert!(budget.try_reserve(1).is_none());
        drop(large);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn an_answer_shrinks_to_what_is_left_but_not_below_its_least() {
        let budget = Budget::new(100);
        let (mut first, mut second) = (budget.nothing(), budget.nothing());
        assert_eq!(first.grow(70, 10), 70);
        assert_eq!(second.grow(70, 10), 30);
        assert_eq!(second.grow(70, 31), 31);
        drop(second);
        first.resize(5);
        assert_eq!(budget.used(), 5);
    }
}
