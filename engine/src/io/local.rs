//! What tasks of one core wait on: a one-shot value, and a bell.
//!
//! Nothing here crosses a core ([`super::mailbox`] does) and nothing here reads a clock or chance, so it is
//! the same under both backends.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

struct Slot<T> {
    value: Option<T>,
    waker: Option<Waker>,
    sender_gone: bool,
}

/// The end that sends a one-shot's value.
pub struct Sender<T>(Rc<RefCell<Slot<T>>>);

/// A future of a one-shot's value; `None` when the sender was dropped without sending.
pub struct Receiver<T>(Rc<RefCell<Slot<T>>>);

/// A channel for one value between two tasks of a core.
pub fn oneshot<T>() -> (Sender<T>, Receiver<T>) {
    let slot = Rc::new(RefCell::new(Slot { value: None, waker: None, sender_gone: false }));
    (Sender(slot.clone()), Receiver(slot))
}

impl<T> Sender<T> {
    /// Hands over the value and wakes the receiver; a receiver that is gone loses it.
    pub fn send(self, value: T) {
        self.0.borrow_mut().value = Some(value);
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let waker = {
            let mut slot = self.0.borrow_mut();
            slot.sender_gone = true;
            slot.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Future for Receiver<T> {
    type Output = Option<T>;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut slot = self.0.borrow_mut();
        if let Some(value) = slot.value.take() {
            return Poll::Ready(Some(value));
        }
        if slot.sender_gone {
            return Poll::Ready(None);
        }
        slot.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

#[derive(Default)]
struct BellState {
    rings: u64,
    waiting: Vec<Waker>,
}

/// A bell that any number of tasks of a core can wait for. A ring is never missed by one who noted
/// [`Bell::rings`] before looking at the state that the bell announces.
#[derive(Clone, Default)]
pub struct Bell(Rc<RefCell<BellState>>);

impl Bell {
    /// How often the bell has rung.
    pub fn rings(&self) -> u64 {
        self.0.borrow().rings
    }

    /// Wakes all who wait.
    pub fn ring(&self) {
        let waiting = {
            let mut state = self.0.borrow_mut();
            state.rings += 1;
            std::mem::take(&mut state.waiting)
        };
        for waker in waiting {
            waker.wake();
        }
    }

    /// Completes once the bell has rung more often than `seen` times.
    pub async fn rung_since(&self, seen: u64) {
        std::future::poll_fn(|cx| {
            let mut state = self.0.borrow_mut();
            if state.rings > seen {
                return Poll::Ready(());
            }
            if !state.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                state.waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    /// Waits until `condition` gives a value, looking again at each ring.
    pub async fn until<T>(&self, mut condition: impl FnMut() -> Option<T>) -> T {
        loop {
            let seen = self.rings();
            if let Some(value) = condition() {
                return value;
            }
            self.rung_since(seen).await;
        }
    }
}
