//! Memory for the records of an answer, between their reading and their writing.
//!
//! The invariant: records are read only when there is memory for them, or for one batch of the default largest size.
//! Who finds none waits for it, in his turn if need be, and shows no records if his time is over before.

use engine::accounts::{Accounts, Class, Reservation};
use futures_lite::future;

/// With less, nothing is read: one batch of the default largest size.
const LEAST_BYTES: usize = 1 << 20;

/// Of the memory that is left a read takes this part at most, so that there is some for the next.
const FAIR_PART: usize = 4;

/// What an answer's records hold of the core's memory.
pub struct RecordsRoom {
    accounts: Accounts,
    held: Reservation,
    /// What was missing when there was not enough.
    missing: usize,
    /// What was waited for, and is reserved for the next read.
    prepaid: usize,
}

impl RecordsRoom {
    /// Nothing yet.
    pub fn new(accounts: &Accounts) -> RecordsRoom {
        let held = accounts.nothing(Class::Answers);
        RecordsRoom { accounts: accounts.clone(), held, missing: 0, prepaid: 0 }
    }

    /// Reserves memory for a read of `wanted` bytes at most; gives how many may be read, or `None` if there is not
    /// enough for any.
    pub fn take(&mut self, wanted: usize) -> Option<usize> {
        let prepaid = std::mem::take(&mut self.prepaid);
        if prepaid > 0 {
            return Some(prepaid);
        }
        let least = wanted.min(LEAST_BYTES);
        let fair = wanted.min((self.accounts.left(Class::Answers) / FAIR_PART).max(least));
        let is_taken = self.held.try_grow(fair);
        if !is_taken {
            self.missing = least;
        }
        is_taken.then_some(fair)
    }

    /// Makes it hold the `bytes` that were read, be they fewer or more than expected; false if there is no room for
    /// them: then they must go, and it holds nothing.
    pub fn settle(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.held.bytes());
        if more > 0 && !self.held.try_grow(more) {
            self.missing = bytes;
            self.held.shrink_to(0);
            return false;
        }
        self.held.shrink_to(bytes);
        true
    }

    /// Takes note that the `bytes` are there, room or not: they cannot be let go.
    pub fn settle_in_any_case(&mut self, bytes: usize) {
        self.held.hold(bytes);
    }

    /// Whether there was not enough memory.
    pub fn is_missing(&self) -> bool {
        self.missing > 0
    }

    /// Waits for what was missing; false if `time_is_over` before it is there.
    pub async fn wait(&mut self, time_is_over: impl Future<Output = ()>) -> bool {
        let missing = std::mem::take(&mut self.missing);
        let grown = async {
            self.held.grow_in_turn(missing).await;
            true
        };
        let is_there = future::or(grown, async {
            time_is_over.await;
            false
        })
        .await;
        self.prepaid = if is_there { missing } else { 0 };
        is_there
    }

    /// The reservation, for the answer.
    pub fn into_held(self) -> Reservation {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::limits::LEAST_MEMORY_PER_CORE;

    fn waited(room: &mut RecordsRoom) -> bool {
        future::block_on(room.wait(std::future::ready(())))
    }

    #[test]
    fn however_many_read_they_keep_to_the_memory_and_each_has_its_turn() {
        let accounts = Accounts::new(LEAST_MEMORY_PER_CORE);
        let limit = accounts.limit(Class::Answers);
        let mut readers: Vec<_> = (0..100).map(|_| RecordsRoom::new(&accounts)).collect();
        let given = readers.iter_mut().filter_map(|reader| reader.take(50 << 20)).count();
        assert_eq!(given, limit / LEAST_BYTES);
        assert!(accounts.used(Class::Answers) <= limit);
        // One of those who found none has his turn, and the next when he has written.
        assert!(readers[98].is_missing() && waited(&mut readers[98]));
        assert!(!waited(&mut readers[99]));
        assert_eq!(readers[98].take(50 << 20), Some(LEAST_BYTES));
        assert!(readers[98].settle(3 << 20), "in his turn he may have one large batch");
        assert!(accounts.exceeded().is_empty());
        readers.truncate(99);
        drop(readers.pop().map(RecordsRoom::into_held));
        readers.push(RecordsRoom::new(&accounts));
        assert_eq!(readers[98].take(1 << 20), None);
        assert!(waited(&mut readers[98]));
        drop(readers);
        assert_eq!(accounts.used(Class::Answers), 0);
    }

    #[test]
    fn a_batch_for_which_there_is_no_room_goes_and_is_waited_for() {
        let accounts = Accounts::new(LEAST_MEMORY_PER_CORE);
        let limit = accounts.limit(Class::Answers);
        let others = accounts.try_reserve(Class::Answers, limit - LEAST_BYTES).expect("there is room");
        let mut reader = RecordsRoom::new(&accounts);
        assert_eq!(reader.take(LEAST_BYTES), Some(LEAST_BYTES));
        assert!(!reader.settle(2 * LEAST_BYTES));
        assert_eq!(accounts.used(Class::Answers), others.bytes());
        drop(others);
        assert!(waited(&mut reader));
        assert_eq!(reader.take(LEAST_BYTES), Some(2 * LEAST_BYTES));
        assert!(reader.settle(100) && !reader.is_missing());
        assert_eq!(accounts.used(Class::Answers), 100);
    }
}
