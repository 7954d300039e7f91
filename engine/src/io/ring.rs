//! One core's io_uring: submissions, completions, and the memory that the kernel works on in between.
//!
//! The invariant: what an operation points to is owned by its slot from the moment it is queued until its
//! completion has been reaped, whether or not anyone still waits for it. The number of operations in the
//! kernel never exceeds the completion queue's entries; what goes beyond waits in a backlog.
//! This file does not know tasks, executors or files' meaning. It is also where the few other system calls
//! without a safe binding live ([`system`]).

#![allow(unsafe_code)]

#[cfg(feature = "faults")]
mod faults;
pub(super) mod op;
pub(super) mod system;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use io_uring::types::{CancelBuilder, TimeoutFlags, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};

use op::Op;

/// `user_data` of completions that concern nobody: cancellations and changes of the timer.
const IGNORED: u64 = u64::MAX;
/// `user_data` of the one timer.
const TIMER: u64 = u64::MAX - 1;
/// Places in the completion queue that only cancellations and the timer may use, so that operations that
/// wait for a peer cannot keep their own cancellation out.
const CONTROL_PLACES: usize = 64;
/// Most kernel worker threads of one ring for work that ends by itself, and for work that may not.
const WORKERS: [u32; 2] = [8, 16];

enum Slot {
    Free,
    /// Queued or in the kernel; `waker` is of the task that waits.
    Waiting {
        op: Op,
        waker: Option<Waker>,
    },
    /// Queued or in the kernel, its future dropped; the completion frees it.
    Abandoned(Op),
    Done {
        op: Op,
        result: i32,
    },
}

struct Inner {
    ring: IoUring,
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// Submissions for which there was no room, oldest first.
    backlog: VecDeque<squeue::Entry>,
    control: VecDeque<squeue::Entry>,
    /// Submissions handed to the queue and not yet completed.
    in_flight: usize,
    timespec: Box<Timespec>,
    /// The monotonic time in nanoseconds at which the timer fires.
    armed: Option<u64>,
    /// Wakers of completed operations, kept to save its allocation.
    woken: Vec<Waker>,
    #[cfg(feature = "faults")]
    faults: faults::Faults,
    /// Completions held back: when each is due, its slot and its result.
    #[cfg(feature = "faults")]
    held: Vec<(u64, usize, i32)>,
}

/// What one [`Ring::turn`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Turn {
    /// Submissions that the kernel took.
    pub(super) submitted: usize,
    /// Completions reaped.
    pub(super) completed: usize,
    /// Submissions are left that the kernel would not take now.
    pub(super) unsubmitted: bool,
}

/// A handle to the ring of this thread; clones share it.
#[derive(Clone)]
pub(super) struct Ring(Rc<RefCell<Option<Inner>>>);

impl Ring {
    /// A ring of this thread whose kernel workers run on `cpu` and that signals `eventfd`.
    ///
    /// # Errors
    /// The kernel's: ENOSYS and EPERM when io_uring is forbidden, EINVAL when the kernel is too old.
    pub(super) fn new(entries: u32, completions: u32, cpu: Option<usize>, eventfd: RawFd) -> io::Result<Ring> {
        let ring: IoUring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(completions)
            .setup_clamp()
            .dontfork()
            .build(entries)?;
        let submitter = ring.submitter();
        submitter.register_eventfd(eventfd)?;
        submitter.register_iowq_max_workers(&mut WORKERS.clone())?;
        if let Some(cpu) = cpu {
            submitter.register_iowq_aff(&system::cpu_set(cpu))?;
        }
        Ok(Ring(Rc::new(RefCell::new(Some(Inner {
            ring,
            slots: Vec::new(),
            free: Vec::new(),
            backlog: VecDeque::new(),
            control: VecDeque::new(),
            in_flight: 0,
            timespec: Box::new(Timespec::new()),
            armed: None,
            woken: Vec::new(),
            #[cfg(feature = "faults")]
            faults: faults::Faults::from_environment(),
            #[cfg(feature = "faults")]
            held: Vec::new(),
        })))))
    }

    /// Queues `op`; its future gives it back with the kernel's result. Submitted by the next turn.
    pub(super) fn start(&self, op: Op) -> Operation {
        let mut inner = self.0.borrow_mut();
        let state = match inner.as_mut() {
            Some(inner) => Progress::Queued(inner.start(op)),
            None => Progress::Refused(op),
        };
        Operation { ring: self.clone(), state }
    }

    /// Submits what is queued, reaps what is complete and wakes who waits for it. Enters the kernel only
    /// when there is reason to, or when `enter` says so.
    pub(super) fn turn(&self, enter: bool) -> Turn {
        let (turn, mut woken) = {
            let mut inner = self.0.borrow_mut();
            let Some(inner) = inner.as_mut() else { return Turn::default() };
            (inner.turn(enter), std::mem::take(&mut inner.woken))
        };
        // Woken outside of the borrow: a waker may drop a task, and that task's operations.
        woken.drain(..).for_each(Waker::wake);
        if let Some(inner) = self.0.borrow_mut().as_mut() {
            inner.woken = woken;
        }
        turn
    }

    /// Lets completions signal the eventfd, or not. Not while awake: the signal would cost and say nothing.
    pub(super) fn signal_completions(&self, signal: bool) {
        if let Some(inner) = self.0.borrow_mut().as_mut() {
            let completion = inner.ring.completion();
            if signal { completion.enable_eventfd() } else { completion.disable_eventfd() }
        }
    }

    /// Makes a completion arrive at monotonic time `deadline_ns`, or earlier.
    pub(super) fn arm_timer(&self, deadline_ns: u64) {
        if let Some(inner) = self.0.borrow_mut().as_mut() {
            inner.arm_timer(deadline_ns);
        }
    }

    /// Cancels what waits for a peer, waits for every operation to complete, and frees the ring. Later
    /// operations fail with ECANCELED.
    ///
    /// # Panics
    /// If an operation has not completed after `patience_ns`: its memory cannot be freed.
    pub(super) fn close(&self, patience_ns: u64) {
        let deadline = system::monotonic_ns() + patience_ns;
        loop {
            {
                let mut inner = self.0.borrow_mut();
                let Some(inner) = inner.as_mut() else { return };
                if inner.in_flight == 0 && inner.backlog.is_empty() && inner.control.is_empty() {
                    break;
                }
                inner.cancel_waiting();
            }
            self.turn(true);
            self.wait_briefly();
            assert!(system::monotonic_ns() < deadline, "an operation does not complete; its memory cannot be freed");
        }
        let closed = self.0.borrow_mut().take();
        drop(closed);
    }

    /// Blocks the thread until a completion arrives, 10 ms at most.
    fn wait_briefly(&self) {
        let mut inner = self.0.borrow_mut();
        let Some(inner) = inner.as_mut() else { return };
        if inner.in_flight == 0 {
            return;
        }
        let timeout = Timespec::new().nsec(10_000_000);
        let arguments = io_uring::types::SubmitArgs::new().timespec(&timeout);
        // Its only outcomes are a completion, the timeout and a signal; the caller looks again in any case.
        let _ = inner.ring.submitter().submit_with_args(1, &arguments);
    }

    fn poll_slot(&self, index: usize, cx: &mut Context<'_>) -> Poll<(i32, Op)> {
        let mut inner = self.0.borrow_mut();
        let inner = inner.as_mut().expect("a ring closes after its operations have completed");
        match &mut inner.slots[index] {
            Slot::Waiting { waker, .. } => {
                if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    *waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
            Slot::Done { .. } => {
                let Slot::Done { op, result } = inner.take(index) else { unreachable!("matched above") };
                inner.free.push(index);
                Poll::Ready((result, op))
            }
            Slot::Free | Slot::Abandoned(_) => unreachable!("a slot outlives its future"),
        }
    }

    fn abandon(&self, index: usize) {
        let leftover = {
            let mut inner = self.0.borrow_mut();
            // A closed ring has completed and freed all.
            let Some(inner) = inner.as_mut() else { return };
            inner.abandon(index)
        };
        drop(leftover);
    }
}

impl Inner {
    fn start(&mut self, op: Op) -> usize {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::Free);
            self.slots.len() - 1
        });
        self.slots[index] = Slot::Waiting { op, waker: None };
        let Slot::Waiting { op, .. } = &mut self.slots[index] else { unreachable!("just set") };
        let entry = op.entry().user_data(index as u64);
        if !self.backlog.is_empty() || !self.push(&entry, CONTROL_PLACES) {
            self.backlog.push_back(entry);
        }
        index
    }

    /// Takes what is in the slot, which the caller then frees or fills.
    fn take(&mut self, index: usize) -> Slot {
        std::mem::replace(&mut self.slots[index], Slot::Free)
    }

    /// Puts `entry` into the submission queue if that and, `spare` places aside, the completion queue have
    /// room for it.
    fn push(&mut self, entry: &squeue::Entry, spare: usize) -> bool {
        if self.in_flight + spare >= self.ring.params().cq_entries() as usize {
            return false;
        }
        // SAFETY: what the entry points to is owned by its slot until its completion has been reaped, or,
        // for the timer, by `timespec`, which lives as long as the ring.
        let pushed = unsafe { self.ring.submission().push(entry) }.is_ok();
        self.in_flight += usize::from(pushed);
        pushed
    }

    fn fill(&mut self) {
        while let Some(entry) = self.control.front().cloned() {
            if !self.push(&entry, 0) {
                return;
            }
            self.control.pop_front();
        }
        while let Some(entry) = self.backlog.front().cloned() {
            if !self.push(&entry, CONTROL_PLACES) {
                return;
            }
            self.backlog.pop_front();
        }
    }

    fn push_control(&mut self, entry: squeue::Entry) {
        if !self.control.is_empty() || !self.push(&entry, 0) {
            self.control.push_back(entry);
        }
    }

    fn turn(&mut self, mut enter: bool) -> Turn {
        let mut turn = Turn::default();
        #[cfg(feature = "faults")]
        self.release_held();
        loop {
            self.fill();
            let (submitted, refused) = self.enter(enter);
            enter = false;
            let reaped = self.reap();
            turn.submitted += submitted;
            turn.completed += reaped;
            // A refusal ends with room for completions; a full queue, with room for the rest.
            let more = self.room_for_more() || self.kernel_has_completions();
            if (submitted == 0 && reaped == 0) || !more || (refused && reaped == 0) {
                break;
            }
        }
        turn.unsubmitted = !self.ring.submission().is_empty() || self.room_for_more();
        turn
    }

    /// Whether something waits in a backlog for which the queues now have a place.
    fn room_for_more(&mut self) -> bool {
        let entries = self.ring.params().cq_entries() as usize;
        let control = !self.control.is_empty() && self.in_flight < entries;
        let backlog = !self.backlog.is_empty() && self.in_flight + CONTROL_PLACES < entries;
        control || backlog
    }

    fn kernel_has_completions(&mut self) -> bool {
        let submission = self.ring.submission();
        submission.taskrun() || submission.cq_overflow()
    }

    /// Enters the kernel if there is something to submit or to run there; how much it took, and whether it
    /// refused for now.
    fn enter(&mut self, force: bool) -> (usize, bool) {
        let queued = self.ring.submission().len();
        if queued == 0 && !force && !self.kernel_has_completions() {
            return (0, false);
        }
        loop {
            // SAFETY: no argument is passed, and all that the queued entries point to lives (see `push`).
            let result = unsafe {
                let submitter = self.ring.submitter();
                submitter.enter::<libc::sigset_t>(queued as u32, 0, EnterFlags::GETEVENTS.bits(), None)
            };
            match result {
                Ok(submitted) => return (submitted, submitted < queued),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The completion queue is full or memory is short: reaping comes first.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN | libc::ENOMEM)) => {
                    return (0, true);
                }
                Err(error) => panic!("the kernel refuses a ring that it gave: {error}"),
            }
        }
    }

    fn reap(&mut self) -> usize {
        let mut reaped = 0;
        loop {
            let Some(entry) = self.ring.completion().next() else { return reaped };
            reaped += 1;
            assert!(!cqueue::more(entry.flags()), "no operation here completes more than once");
            self.in_flight -= 1;
            self.complete(entry.user_data(), entry.result());
        }
    }

    fn complete(&mut self, user_data: u64, result: i32) {
        match user_data {
            IGNORED => return,
            TIMER => {
                self.armed = None;
                return;
            }
            _ => {}
        }
        let index = user_data as usize;
        #[cfg(feature = "faults")]
        let Some(result) = self.strike(index, result) else { return };
        self.finish(index, result);
    }

    fn finish(&mut self, index: usize, result: i32) {
        match self.take(index) {
            Slot::Waiting { op, waker } => {
                self.slots[index] = Slot::Done { op, result };
                self.woken.extend(waker);
            }
            Slot::Abandoned(op) => {
                self.free.push(index);
                op.discard(result);
            }
            Slot::Free | Slot::Done { .. } => unreachable!("an operation completes once"),
        }
    }

    /// The result to report; `None` if it is held back.
    #[cfg(feature = "faults")]
    fn strike(&mut self, index: usize, result: i32) -> Option<i32> {
        let (Slot::Waiting { op, .. } | Slot::Abandoned(op)) = &self.slots[index] else { return Some(result) };
        match self.faults.strike(op, result) {
            faults::Verdict::Report(result) => Some(result),
            faults::Verdict::Delay(delay_ns) => {
                let due = system::monotonic_ns() + delay_ns;
                self.held.push((due, index, result));
                // The ring's memory is not given up before this one has ended.
                self.in_flight += 1;
                self.arm_timer(due);
                None
            }
        }
    }

    /// Reports what has been held back long enough, and has the timer wake the core for the rest.
    #[cfg(feature = "faults")]
    fn release_held(&mut self) {
        let now = system::monotonic_ns();
        while let Some(place) = self.held.iter().position(|(due, ..)| *due <= now) {
            let (_, index, result) = self.held.swap_remove(place);
            self.in_flight -= 1;
            self.finish(index, result);
        }
        if let Some(due) = self.held.iter().map(|(due, ..)| *due).min() {
            self.arm_timer(due);
        }
    }

    /// Leaves the slot to its completion; gives what is to be dropped now.
    fn abandon(&mut self, index: usize) -> Option<Op> {
        match self.take(index) {
            Slot::Done { op, result } => {
                self.free.push(index);
                op.discard(result);
                None
            }
            Slot::Waiting { op, .. } => {
                let queued = self.backlog.iter().position(|entry| entry.get_user_data() == index as u64);
                if let Some(queued) = queued {
                    self.backlog.remove(queued);
                    self.free.push(index);
                    return Some(op);
                }
                if op.waits_for_peer() {
                    let cancel = opcode::AsyncCancel::new(index as u64).build().user_data(IGNORED);
                    self.push_control(cancel);
                }
                self.slots[index] = Slot::Abandoned(op);
                None
            }
            Slot::Free | Slot::Abandoned(_) => unreachable!("a slot outlives its future"),
        }
    }

    fn arm_timer(&mut self, deadline_ns: u64) {
        if self.armed.is_some_and(|armed| armed <= deadline_ns) {
            return;
        }
        *self.timespec = Timespec::new().sec(deadline_ns / 1_000_000_000).nsec((deadline_ns % 1_000_000_000) as u32);
        let timespec: *const Timespec = &*self.timespec;
        let entry = match self.armed {
            None => opcode::Timeout::new(timespec).flags(TimeoutFlags::ABS).build().user_data(TIMER),
            // If the timer fires before this arrives, its completion has us armed anew.
            Some(_) => opcode::TimeoutUpdate::new(TIMER, timespec).flags(TimeoutFlags::ABS).build().user_data(IGNORED),
        };
        self.armed = Some(deadline_ns);
        self.push_control(entry);
    }

    /// Cancels all that would not complete by itself: file operations are left to end.
    fn cancel_waiting(&mut self) {
        for index in 0..self.slots.len() {
            let (Slot::Waiting { op, .. } | Slot::Abandoned(op)) = &self.slots[index] else { continue };
            if op.waits_for_peer() {
                let cancel = opcode::AsyncCancel::new(index as u64).build().user_data(IGNORED);
                self.push_control(cancel);
            }
        }
        if self.armed.is_some() {
            let cancel = opcode::AsyncCancel2::new(CancelBuilder::user_data(TIMER)).build().user_data(IGNORED);
            self.push_control(cancel);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Memory that the kernel may still write to must not be freed; an unwinding thread gets here too.
        if self.in_flight > 0 {
            std::process::abort();
        }
    }
}

enum Progress {
    Queued(usize),
    Refused(Op),
    Taken,
}

/// A queued operation: a future of the kernel's result (negative: an errno) and of what the operation owned.
/// Dropping it abandons the operation; what waits for a peer is cancelled, file operations run to their end.
pub(super) struct Operation {
    ring: Ring,
    state: Progress,
}

impl Future for Operation {
    type Output = (io::Result<usize>, Op);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (result, op) = match std::mem::replace(&mut self.state, Progress::Taken) {
            Progress::Refused(op) => (-libc::ECANCELED, op),
            Progress::Taken => unreachable!("a completed future is not polled"),
            Progress::Queued(index) => match self.ring.poll_slot(index, cx) {
                Poll::Ready(done) => done,
                Poll::Pending => {
                    self.state = Progress::Queued(index);
                    return Poll::Pending;
                }
            },
        };
        let result = if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result as usize) };
        Poll::Ready((result, op))
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        if let Progress::Queued(index) = self.state {
            self.ring.abandon(index);
        }
    }
}

/// The raw descriptor in the form that submissions want.
fn target(file: &dyn AsRawFd) -> io_uring::types::Fd {
    io_uring::types::Fd(file.as_raw_fd())
}
