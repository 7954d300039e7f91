//! The task that drives a core's ring, timers and doorbell, and the bridge on which it sleeps.
//!
//! The pump stands in the foreground's queue: each round of ready tasks is followed by one turn of the pump,
//! so that all they queued goes to the kernel in one system call. The order before sleep is the invariant:
//! announce (completions signal, the doorbell rings), then look once more, inside the kernel too, then sleep.
//! With deferred task work the kernel signals before it posts, so after a wake it always enters the kernel.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use glommio::io::BufferedFile;

use super::Core;
use crate::io::ring::system;

/// How many rounds of the other tasks the pump waits for, seeing nothing, before it prepares to sleep.
const IDLE_ROUNDS: u32 = 1;

/// Drives the core's ring until it is dropped.
pub(super) async fn pump(core: Rc<Core>) {
    let mut spare = Vec::new();
    let mut enter = false;
    loop {
        work(&core, &mut enter, &mut spare).await;
        enter = sleep(&core, &mut spare).await;
    }
}

/// Goes round until nothing has happened for a while.
async fn work(core: &Core, enter: &mut bool, spare: &mut Vec<Waker>) {
    let spin_ns = core.spin.as_nanos() as u64;
    let mut idle_rounds = 0;
    let mut idle_since = 0;
    loop {
        if round(core, std::mem::take(enter), spare) {
            idle_rounds = 0;
        } else {
            if idle_rounds == 0 && spin_ns > 0 {
                idle_since = system::monotonic_ns();
            }
            idle_rounds += 1;
            let spun = spin_ns == 0 || system::monotonic_ns() - idle_since >= spin_ns;
            if idle_rounds > IDLE_ROUNDS && spun {
                return;
            }
        }
        glommio::executor().yield_task_queue_now().await;
    }
}

/// One turn of everything; whether anything happened or is left to do.
fn round(core: &Core, enter: bool, spare: &mut Vec<Waker>) -> bool {
    let answered = core.doorbells[core.index].answer(spare);
    let turn = core.ring.turn(enter);
    let fired = core.timers.fire();
    answered + turn.submitted + turn.completed + fired > 0 || turn.unsubmitted
}

/// Sleeps unless something is ready after all; whether it slept.
async fn sleep(core: &Core, spare: &mut Vec<Waker>) -> bool {
    let doorbell = &core.doorbells[core.index];
    core.ring.signal_completions(true);
    let quiet = doorbell.fall_asleep();
    if let Some(deadline) = core.timers.first() {
        core.ring.arm_timer(deadline);
    }
    // What the ring was armed with counts as an event; only completions and wakers keep us up.
    let found = !quiet | settle(core, spare);
    if !found {
        let mut slept = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut slept, true) {
                return Poll::Ready(());
            }
            *core.pump.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
        core.pump.borrow_mut().take();
    }
    doorbell.awake();
    core.ring.signal_completions(false);
    !found
}

/// Enters the kernel once more before sleep; whether that brought anything.
fn settle(core: &Core, spare: &mut Vec<Waker>) -> bool {
    let turn = core.ring.turn(true);
    turn.completed > 0 || turn.unsubmitted || core.timers.fire() > 0 || core.doorbells[core.index].answer(spare) > 0
}

/// Reads the core's event counter for as long as the core lives, one read after the other, and wakes the
/// pump at each. It is never dropped before its end: the read owns memory of glommio's.
pub(super) async fn bridge(core: Rc<Core>, event: BufferedFile, stop: Rc<Cell<bool>>) {
    while !stop.get() {
        let read = event.read_at(0, size_of::<u64>()).await;
        if let Err(error) = read {
            panic!("an event counter can be read: {error}");
        }
        core.wake_pump();
    }
    // The descriptor is a copy; nothing depends on its close.
    let _ = event.close().await;
}
