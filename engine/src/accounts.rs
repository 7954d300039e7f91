//! A core's memory, by what it is used for.
//!
//! Whoever keeps what clients can make large asks first, and waits, shrinks, evicts or refuses when there is no
//! room. The invariant: a class never holds more than its bound, but for one holder that began while nobody else
//! held anything, and one whose turn it is (see [`Reservation::grow_in_turn`]); and what was taken is given back
//! exactly once. It does not know what the bytes are, nor whether they are really allocated.

use std::cell::Cell;
use std::rc::Rc;

use crate::io::local::Bell;
use crate::limits::{ACCOUNT_SHARES_IN_ALL, LEAST_MEMORY_PER_CORE, account_shares};

/// What memory is used for. Each class has a bound of its own, so that none starves another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum Class {
    /// Small requests, from before their bodies are read until they are answered.
    ReceivedSmall,
    /// Ordinary requests.
    Received,
    /// Large requests.
    ReceivedLarge,
    /// Small answers, until they are written.
    AnswersSmall,
    /// Answers, until they are written.
    Answers,
    /// Appended batches that are in no segment yet.
    Undrained,
    /// Drained batches that are kept for those who read the end of a log.
    TailCache,
    /// What partitions remember of their producers.
    Producers,
    /// Partitions of fetch sessions.
    FetchSessions,
    /// Partitions of share sessions.
    ShareSessions,
    /// Requests that wait for news, for each partition that they wait for.
    Waiters,
    /// Groups, their members and their offsets.
    Groups,
    /// Transactional ids and open transactions.
    Transactions,
    /// Answers on their way between cores.
    Replies,
}

impl Class {
    /// All classes, in the order of their numbers.
    pub const ALL: [Class; 14] = [
        Class::ReceivedSmall,
        Class::Received,
        Class::ReceivedLarge,
        Class::AnswersSmall,
        Class::Answers,
        Class::Undrained,
        Class::TailCache,
        Class::Producers,
        Class::FetchSessions,
        Class::ShareSessions,
        Class::Waiters,
        Class::Groups,
        Class::Transactions,
        Class::Replies,
    ];

    fn index(self) -> usize {
        self as usize
    }
}

/// The accounts of one core. Clones share them.
#[derive(Clone)]
pub struct Accounts(Rc<[Account; Class::ALL.len()]>);

#[derive(Default)]
struct Account {
    limit: usize,
    used: Cell<usize>,
    /// Reservations that hold anything.
    holders: Cell<usize>,
    /// Tasks that wait for room.
    waiting: Cell<usize>,
    /// Whether it is somebody's turn.
    turn: Cell<bool>,
    /// Bytes that are held by him.
    in_turn: Cell<usize>,
    freed: Bell,
}

impl Accounts {
    /// The accounts of a core that may use `memory_bytes` in all; with less than [`LEAST_MEMORY_PER_CORE`] only what logs
    /// hold gets smaller.
    pub fn new(memory_bytes: u64) -> Accounts {
        let limits = Class::ALL.map(|class| {
            let memory = match class {
                Class::TailCache | Class::Undrained => memory_bytes,
                _ => memory_bytes.max(LEAST_MEMORY_PER_CORE),
            };
            (memory / ACCOUNT_SHARES_IN_ALL * account_shares(class)) as usize
        });
        Accounts::with_limits(limits)
    }

    fn with_limits(limits: [usize; Class::ALL.len()]) -> Accounts {
        Accounts(Rc::new(limits.map(|limit| Account { limit, ..Account::default() })))
    }

    /// The most bytes that the class may hold.
    pub fn limit(&self, class: Class) -> usize {
        self.of(class).limit
    }

    /// Bytes that the class holds now.
    pub fn used(&self, class: Class) -> usize {
        self.of(class).used.get()
    }

    /// Bytes that may still be reserved.
    pub fn left(&self, class: Class) -> usize {
        self.limit(class).saturating_sub(self.used(class))
    }

    /// Bytes that all classes hold now.
    pub fn total(&self) -> usize {
        Class::ALL.iter().map(|class| self.used(*class)).sum()
    }

    /// Whether somebody waits for room.
    pub fn is_short(&self, class: Class) -> bool {
        self.of(class).waiting.get() > 0
    }

    /// Classes that hold more than they may: none, but for what [`Reservation::hold`] took on.
    pub fn exceeded(&self) -> Vec<Class> {
        Class::ALL.into_iter().filter(|class| !self.of(*class).is_within_bounds()).collect()
    }

    /// Reserves `bytes`, if there is room.
    pub fn try_reserve(&self, class: Class, bytes: usize) -> Option<Reservation> {
        let mut reservation = self.nothing(class);
        reservation.try_grow(bytes).then_some(reservation)
    }

    /// Reserves `bytes`, waiting for room.
    pub async fn reserve(&self, class: Class, bytes: usize) -> Reservation {
        let mut reservation = self.nothing(class);
        reservation.grow(bytes).await;
        reservation
    }

    /// A reservation of nothing, to be grown.
    pub fn nothing(&self, class: Class) -> Reservation {
        Reservation { accounts: self.clone(), class, bytes: 0, has_turn: false }
    }

    fn of(&self, class: Class) -> &Account {
        &self.0[class.index()]
    }
}

impl Account {
    fn is_within_bounds(&self) -> bool {
        let in_turn = self.in_turn.get();
        self.used.get() - in_turn <= self.limit || self.holders.get() - usize::from(in_turn > 0) <= 1
    }
}

/// Counts itself among those who wait, until dropped: a wait may be given up.
struct Waiting<'a>(&'a Cell<usize>);

impl<'a> Waiting<'a> {
    fn new(waiting: &'a Cell<usize>) -> Waiting<'a> {
        waiting.set(waiting.get() + 1);
        Waiting(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Bytes of a class that are reserved, until dropped.
pub struct Reservation {
    accounts: Accounts,
    class: Class,
    bytes: usize,
    /// Whether its turn has come: then until it is dropped, or has shrunk to what there is room for.
    has_turn: bool,
}

impl Reservation {
    /// What it is for.
    pub fn class(&self) -> Class {
        self.class
    }

    /// How many bytes it holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds `more` bytes if there is room, or if nobody else holds any, or if its turn has come.
    pub fn try_grow(&mut self, more: usize) -> bool {
        let account = self.accounts.of(self.class);
        let used = account.used.get();
        let is_alone = used == self.bytes;
        let has_room = used.saturating_add(more) <= account.limit;
        let may_grow = has_room || is_alone || self.has_turn || more == 0;
        if may_grow {
            self.resize(self.bytes + more);
        }
        may_grow
    }

    /// Adds `more` bytes, waiting for room.
    pub async fn grow(&mut self, more: usize) {
        self.wait_until(|reservation| reservation.try_grow(more)).await;
    }

    /// Adds `more` bytes, waiting for room or for its turn: it has room then, whatever others hold. It is the turn of
    /// one at a time, until its reservation is dropped. Those who take what they need in pieces would otherwise each
    /// wait for what the others have.
    pub async fn grow_in_turn(&mut self, more: usize) {
        self.wait_until(|reservation| reservation.try_grow(more) || reservation.take_turn(more)).await;
    }

    async fn wait_until(&mut self, mut grow: impl FnMut(&mut Reservation) -> bool) {
        if grow(self) {
            return;
        }
        let accounts = self.accounts.clone();
        let account = accounts.of(self.class);
        let _waiting = Waiting::new(&account.waiting);
        account.freed.until(|| grow(self).then_some(())).await;
    }

    fn take_turn(&mut self, more: usize) -> bool {
        let turn = &self.accounts.of(self.class).turn;
        if turn.replace(true) {
            return false;
        }
        self.has_turn = true;
        self.resize(self.bytes + more);
        true
    }

    /// Adds as much of `wanted` bytes as there is room for, or all of it if nobody else holds any; gives the bytes
    /// added.
    pub fn grow_up_to(&mut self, wanted: usize) -> usize {
        let added = match self.try_grow(wanted) {
            true => wanted,
            false => wanted.min(self.accounts.left(self.class)),
        };
        if added < wanted {
            self.resize(self.bytes + added);
        }
        added
    }

    /// Gives back all but `bytes`. If there is room for it then, its turn is over.
    ///
    /// # Panics
    /// If it holds fewer.
    pub fn shrink_to(&mut self, bytes: usize) {
        assert!(bytes <= self.bytes, "a reservation does not shrink from {} to {bytes}", self.bytes);
        self.resize(bytes);
        let account = self.accounts.of(self.class);
        if self.has_turn && account.used.get() <= account.limit {
            self.end_turn();
        }
    }

    /// Makes it hold `bytes`, room or not: for memory that is there already, by whoever has made room before or
    /// makes it right after.
    pub fn hold(&mut self, bytes: usize) {
        self.resize(bytes);
    }

    fn end_turn(&mut self) {
        self.has_turn = false;
        let account = self.accounts.of(self.class);
        account.in_turn.set(0);
        account.turn.set(false);
        account.freed.ring();
    }

    fn resize(&mut self, bytes: usize) {
        let account = self.accounts.of(self.class);
        let others = account.used.get().checked_sub(self.bytes).expect("what is given back was taken");
        account.used.set(others + bytes);
        let holders = account.holders.get() + usize::from(bytes > 0);
        account.holders.set(holders.checked_sub(usize::from(self.bytes > 0)).expect("a holder is counted"));
        if self.has_turn {
            account.in_turn.set(bytes);
        }
        let freed = bytes < self.bytes;
        self.bytes = bytes;
        if freed && account.waiting.get() > 0 {
            account.freed.ring();
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.resize(0);
        if self.has_turn {
            self.end_turn();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::POOL_SHARE;

    const CLASS: Class = Class::Answers;

    fn accounts() -> Accounts {
        Accounts::with_limits([100; Class::ALL.len()])
    }

    #[test]
    fn the_shares_are_the_whole_memory_and_classes_have_their_own() {
        let of_pool = ACCOUNT_SHARES_IN_ALL / POOL_SHARE;
        let shares = Class::ALL.into_iter().map(account_shares).sum::<u64>();
        assert_eq!(shares + of_pool, ACCOUNT_SHARES_IN_ALL);
        let memory = 3 * LEAST_MEMORY_PER_CORE;
        let accounts = Accounts::new(memory);
        let limits = Class::ALL.iter().map(|class| accounts.limit(*class) as u64).sum::<u64>();
        assert_eq!(limits + memory / POOL_SHARE, memory);
        assert!(Class::ALL.iter().enumerate().all(|(index, class)| class.index() == index));
        let all = accounts.try_reserve(Class::Producers, accounts.limit(Class::Producers)).expect("there is room");
        assert!(accounts.try_reserve(Class::Producers, 1).is_none());
        let other = accounts.try_reserve(Class::Groups, 1).expect("another class has room");
        assert_eq!(accounts.total(), all.bytes() + other.bytes());
        assert!(Accounts::new(1).limit(Class::Received) > 0);
        assert_eq!(Accounts::new(1).limit(Class::TailCache), 0);
    }

    #[test]
    fn what_is_held_stays_within_the_limit() {
        let accounts = accounts();
        let first = accounts.try_reserve(CLASS, 60).expect("there is room");
        assert!(accounts.try_reserve(CLASS, 41).is_none());
        let second = accounts.try_reserve(CLASS, 40).expect("there is room");
        drop(first);
        assert!(accounts.try_reserve(CLASS, 61).is_none());
        drop(second);
        assert_eq!(accounts.used(CLASS), 0);
    }

    #[test]
    fn one_larger_than_all_goes_alone() {
        let accounts = accounts();
        let small = accounts.try_reserve(CLASS, 1).expect("there is room");
        assert!(accounts.try_reserve(CLASS, 1000).is_none());
        drop(small);
        let mut large = accounts.try_reserve(CLASS, 50).expect("there is room");
        assert!(large.try_grow(950));
        assert!(accounts.try_reserve(CLASS, 1).is_none());
        assert!(accounts.exceeded().is_empty());
        drop(large);
        assert_eq!(accounts.used(CLASS), 0);
    }

    #[test]
    fn an_answer_shrinks_to_what_is_left() {
        let accounts = accounts();
        let (mut first, mut second) = (accounts.nothing(CLASS), accounts.nothing(CLASS));
        assert_eq!(first.grow_up_to(70), 70);
        assert_eq!(second.grow_up_to(70), 30);
        assert_eq!(second.grow_up_to(70), 0);
        drop(second);
        assert_eq!(first.grow_up_to(500), 500);
        first.shrink_to(5);
        assert_eq!(accounts.used(CLASS), 5);
    }

    #[test]
    fn those_who_take_pieces_have_their_turn_one_after_another() {
        let poll = |future: &mut std::pin::Pin<Box<dyn Future<Output = ()> + '_>>| {
            futures_lite::future::block_on(futures_lite::future::poll_once(future)).is_some()
        };
        let accounts = accounts();
        let mut first = accounts.try_reserve(CLASS, 50).expect("there is room");
        let mut second = accounts.try_reserve(CLASS, 50).expect("there is room");
        futures_lite::future::block_on(first.grow_in_turn(30));
        futures_lite::future::block_on(first.grow_in_turn(30));
        assert!(accounts.exceeded().is_empty());
        let mut wait: std::pin::Pin<Box<dyn Future<Output = ()> + '_>> = Box::pin(second.grow_in_turn(70));
        assert!(!poll(&mut wait), "it is the turn of the first");
        drop(first);
        assert!(poll(&mut wait));
        drop(wait);
        assert_eq!((accounts.used(CLASS), accounts.exceeded()), (120, vec![]));
        drop(second);
        assert_eq!(accounts.used(CLASS), 0);
        assert!(accounts.try_reserve(CLASS, 60).is_some());
    }

    #[test]
    fn what_is_there_already_is_counted_and_seen() {
        let accounts = accounts();
        let (mut first, mut second) = (accounts.nothing(CLASS), accounts.nothing(CLASS));
        first.hold(70);
        second.hold(70);
        assert_eq!(accounts.exceeded(), [CLASS]);
        assert_eq!(accounts.left(CLASS), 0);
        first.hold(10);
        assert!(accounts.exceeded().is_empty());
    }

    #[test]
    fn who_waits_is_counted_until_there_is_room_or_the_wait_is_given_up() {
        let accounts = accounts();
        let first = accounts.try_reserve(CLASS, 100).expect("there is room");
        let mut wait = Box::pin(accounts.reserve(CLASS, 1));
        assert!(futures_lite::future::block_on(futures_lite::future::poll_once(&mut wait)).is_none());
        assert!(accounts.is_short(CLASS));
        drop(wait);
        assert!(!accounts.is_short(CLASS));
        let mut wait = Box::pin(accounts.reserve(CLASS, 1));
        assert!(futures_lite::future::block_on(futures_lite::future::poll_once(&mut wait)).is_none());
        drop(first);
        let second = futures_lite::future::block_on(futures_lite::future::poll_once(&mut wait));
        assert_eq!(second.map(|reservation| reservation.bytes()), Some(1));
        drop(wait);
        assert!(!accounts.is_short(CLASS));
        assert_eq!(accounts.used(CLASS), 0);
    }
}
