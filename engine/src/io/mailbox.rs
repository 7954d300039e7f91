//! Messages between cores.
//!
//! A [`Mailbox`] belongs to one core and can send to each core that was made with it. Messages of one pair
//! of cores arrive in the order in which they were sent. A mailbox is unbounded by itself: what bounds it is
//! that each request in it holds a place in its connection's window (`limits.rs`), and each answer its request.
//!
//! The sender puts the message into a slot of the receiver (`staged`); the backend then moves it within the
//! receiver's reach (`ready`): at once in production, in seeded order and after a seeded delay in simulation.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Poll, Waker};

use super::Io;

/// What a backend may do with a message on its way: deliver the oldest one of its sender.
pub trait Letterbox: Send + Sync {
    /// Moves the oldest message staged by core `from` to the receiver and gives the waker, if it waits.
    /// Called once for each message.
    fn deliver_from(&self, from: usize) -> Option<Waker>;
}

struct State<M> {
    staged: Vec<VecDeque<M>>,
    ready: VecDeque<M>,
    waker: Option<Waker>,
}

struct Inbox<M>(Mutex<State<M>>);

impl<M> Inbox<M> {
    fn lock(&self) -> MutexGuard<'_, State<M>> {
        self.0.lock().expect("no holder of an inbox's lock panics")
    }
}

impl<M: Send> Letterbox for Inbox<M> {
    fn deliver_from(&self, from: usize) -> Option<Waker> {
        let mut state = self.lock();
        let message = state.staged[from].pop_front().expect("one delivery for each staged message");
        state.ready.push_back(message);
        state.waker.take()
    }
}

/// One core's end of the mailboxes between cores.
pub struct Mailbox<M> {
    core: usize,
    inboxes: Vec<Arc<Inbox<M>>>,
}

/// Mailboxes for `cores` cores, each to be moved to its core.
pub fn mailboxes<M: Send + 'static>(cores: usize) -> Vec<Mailbox<M>> {
    let inbox = |_| {
        let staged = (0..cores).map(|_| VecDeque::new()).collect();
        Arc::new(Inbox(Mutex::new(State { staged, ready: VecDeque::new(), waker: None })))
    };
    let inboxes: Vec<_> = (0..cores).map(inbox).collect();
    (0..cores).map(|core| Mailbox { core, inboxes: inboxes.clone() }).collect()
}

impl<M: Send + 'static> Mailbox<M> {
    /// How many cores there are.
    pub fn cores(&self) -> usize {
        self.inboxes.len()
    }

    /// Sends `message` to core `to`, which may be this one.
    pub fn send(&self, io: &Io, to: usize, message: M) {
        let inbox = &self.inboxes[to];
        inbox.lock().staged[self.core].push_back(message);
        io.deliver(to, inbox.clone());
    }

    /// All messages that have arrived, at least one, oldest first.
    pub async fn receive(&self) -> VecDeque<M> {
        std::future::poll_fn(|cx| {
            let mut state = self.inboxes[self.core].lock();
            if state.ready.is_empty() {
                state.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(std::mem::take(&mut state.ready))
        })
        .await
    }
}
