//! How one core wakes a task of another.
//!
//! The waker is handed over, never used on a foreign thread: the owner's pump wakes it. The invariant: a
//! core that has announced its sleep and then found no waker is signalled by whoever hands one over later.
//! Each side writes its own flag, then a full fence, then reads the other's, so at least one sees the other.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::task::Waker;

use crate::io::ring::system;

/// One core's doorbell.
pub(super) struct Doorbell {
    /// The event counter on which the core sleeps; its ring signals it too.
    event: OwnedFd,
    asleep: AtomicBool,
    has_wakers: AtomicBool,
    /// `None` once the core has ended.
    wakers: Mutex<Option<Vec<Waker>>>,
}

impl Doorbell {
    pub(super) fn new(event: OwnedFd) -> Doorbell {
        Doorbell {
            event,
            asleep: AtomicBool::new(false),
            has_wakers: AtomicBool::new(false),
            wakers: Mutex::new(Some(Vec::new())),
        }
    }

    pub(super) fn event(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    /// The event counter as a file of this thread's executor.
    pub(super) fn executor_file(&self) -> std::io::Result<glommio::io::BufferedFile> {
        system::executor_file(self.event.as_fd())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Vec<Waker>>> {
        self.wakers.lock().expect("no holder of a doorbell's lock panics")
    }

    /// Hands over a waker of one of the core's tasks and wakes the core if it sleeps. From any core.
    pub(super) fn ring(&self, waker: Waker) {
        match self.lock().as_mut() {
            Some(wakers) => wakers.push(waker),
            None => return,
        }
        self.has_wakers.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        // The swap leaves one signal to one of several who find it asleep.
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            self.signal();
        }
    }

    /// Ends the core's read of its event counter.
    pub(super) fn signal(&self) {
        system::signal(self.event.as_fd());
    }

    /// Announces the owner's sleep; false if there is a waker to be taken first.
    pub(super) fn fall_asleep(&self) -> bool {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        !self.has_wakers.load(Ordering::Relaxed)
    }

    /// Takes the announcement back.
    pub(super) fn awake(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// Wakes, on the owner's thread, all that were handed over; how many.
    pub(super) fn answer(&self, spare: &mut Vec<Waker>) -> usize {
        if !self.has_wakers.load(Ordering::Relaxed) || !self.has_wakers.swap(false, Ordering::Acquire) {
            return 0;
        }
        if let Some(wakers) = self.lock().as_mut() {
            std::mem::swap(wakers, spare);
        }
        let count = spare.len();
        spare.drain(..).for_each(Waker::wake);
        count
    }

    /// Takes no more wakers; gives the ones left.
    pub(super) fn close(&self) -> Option<Vec<Waker>> {
        self.lock().take()
    }
}
