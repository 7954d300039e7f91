//! Timers of a core, fired by its pump.
//!
//! They are the ring's rather than glommio's, which looks at its own only when it parks or preempts.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::Core;
use crate::io::ring::system;

/// The sleeping tasks by deadline (monotonic nanoseconds), then by the order in which they went to sleep.
#[derive(Default)]
pub(super) struct Timers {
    sleepers: RefCell<BTreeMap<(u64, u64), Waker>>,
    next: Cell<u64>,
}

impl Timers {
    /// The earliest deadline.
    pub(super) fn first(&self) -> Option<u64> {
        self.sleepers.borrow().first_key_value().map(|((deadline, _), _)| *deadline)
    }

    /// Wakes all whose deadline has passed, in order; how many.
    pub(super) fn fire(&self) -> usize {
        let Some(first) = self.first() else { return 0 };
        let now = system::monotonic_ns();
        if first > now {
            return 0;
        }
        let later = self.sleepers.borrow_mut().split_off(&(now + 1, 0));
        let due = std::mem::replace(&mut *self.sleepers.borrow_mut(), later);
        let count = due.len();
        due.into_values().for_each(Waker::wake);
        count
    }

    fn put(&self, key: (u64, u64), waker: &Waker) {
        self.sleepers.borrow_mut().insert(key, waker.clone());
    }

    fn remove(&self, key: (u64, u64)) {
        let waker = self.sleepers.borrow_mut().remove(&key);
        drop(waker);
    }
}

/// Takes the sleeper out if its future is dropped.
struct Sleeper {
    core: Rc<Core>,
    key: (u64, u64),
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.core.timers.remove(self.key);
    }
}

/// Completes once the monotonic clock shows `deadline` nanoseconds.
pub(super) async fn sleep_until(core: &Rc<Core>, deadline: u64) {
    let number = core.timers.next.get();
    core.timers.next.set(number + 1);
    let sleeper = Sleeper { core: core.clone(), key: (deadline, number) };
    poll_fn(|cx| {
        if system::monotonic_ns() >= deadline {
            return Poll::Ready(());
        }
        core.timers.put(sleeper.key, cx.waker());
        // A pump that sleeps has armed the ring for an earlier set of timers.
        core.wake_pump();
        Poll::Pending
    })
    .await;
}
