//! When a coordinator writes its whole state anew, so that a load reads little.
//!
//! The state of groups and of transactions is the last record of each key. A pass writes those that stand before its
//! beginning once more, piece by piece, with decisions between the pieces: whatever changes a key meanwhile has its own
//! record behind the beginning anyway. When all of it is durable no load needs what lies before the pass. Invariants:
//! a record that a pass writes says what the state says at that moment, so that a pass that a crash cuts off changes
//! nothing; and a pass begins only if the log has grown by at least twice of what it will write. What the state is it
//! does not know.

use super::{Record, Step};
use crate::limits::{COORDINATOR_PIECE_BYTES, COORDINATOR_PIECE_LOOKS};

/// How long a pass that has more to write leaves to others, in milliseconds.
const PIECE_PAUSE_MS: u64 = 1;
/// How long a pass pauses that waits for transactions to end, in milliseconds.
const WAIT_MS: u64 = 1_000;
/// Pieces that a pass with little to write still has, so that small ones take the way of large ones.
const LEAST_PIECES: u64 = 4;

/// The passes over one log.
#[derive(Debug)]
pub(super) struct Passes {
    /// Growth of the log below which no pass begins, in bytes.
    after_bytes: u64,
    /// One past the log's last record.
    end: i64,
    /// Bytes of the records since the last pass began.
    bytes: u64,
    /// With so many of them the state's size is looked at.
    look_at_bytes: u64,
    /// When there is something to do, on the clock of deadlines, in milliseconds.
    due_at: Option<u64>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    /// The first offset that a load needs when the pass is durable.
    first_needed: i64,
    /// Bytes of the records before it.
    bytes_before: u64,
}

/// How far a pass has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// There is more to write.
    More,
    /// What is left is in open transactions.
    Waits,
    /// All of the state is written.
    Whole,
}

/// What a pass may do at one go.
#[derive(Debug)]
pub(super) struct Piece {
    bytes_left: u64,
    looks_left: usize,
}

impl Piece {
    pub(super) fn is_full(&self) -> bool {
        self.bytes_left == 0 || self.looks_left == 0
    }

    /// A part of the state was looked at.
    pub(super) fn look(&mut self) {
        self.looks_left = self.looks_left.saturating_sub(1);
    }

    pub(super) fn push(&mut self, step: &mut Step, record: Record) {
        self.bytes_left = self.bytes_left.saturating_sub(record.size_bytes() as u64);
        step.records.push(record);
    }
}

impl Passes {
    /// Over an empty log. A pass begins when the log has grown by `after_bytes`, or by more if the state is large.
    pub(super) fn new(after_bytes: u64) -> Passes {
        let after_bytes = after_bytes.max(1);
        Passes { after_bytes, end: 0, bytes: 0, look_at_bytes: after_bytes, due_at: None, running: None }
    }

    /// A record of that size stands at the offset.
    pub(super) fn note(&mut self, offset: i64, size_bytes: usize) {
        self.end = offset + 1;
        self.bytes += size_bytes as u64;
        if self.running.is_none() && self.bytes >= self.look_at_bytes {
            self.due_at = Some(0);
        }
    }

    /// When there is something to do.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.due_at
    }

    pub(super) fn is_due(&self, now_ms: u64) -> bool {
        self.due_at.is_some_and(|at| at <= now_ms)
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Begins a pass over a state that takes so many bytes, if the log has grown enough for it.
    pub(super) fn begin(&mut self, state_bytes: u64) -> bool {
        assert!(self.running.is_none(), "there is one pass at a time");
        let enough = self.after_bytes.max(state_bytes.saturating_mul(2));
        if self.bytes < enough {
            (self.look_at_bytes, self.due_at) = (enough, None);
            return false;
        }
        self.running = Some(Running { first_needed: self.end, bytes_before: self.bytes });
        true
    }

    /// The size of the next piece.
    pub(super) fn piece(&self) -> Piece {
        let bytes_left = (self.after_bytes / LEAST_PIECES).clamp(1, COORDINATOR_PIECE_BYTES as u64);
        Piece { bytes_left, looks_left: COORDINATOR_PIECE_LOOKS }
    }

    /// The step holds another piece.
    pub(super) fn go_on(&mut self, now_ms: u64, progress: Progress, step: &mut Step) {
        let running = self.running.as_ref().expect("a pass has begun");
        if planted!(PruneBeforeSnapshotIsWhole) {
            step.first_needed = Some(running.first_needed);
        }
        let pause_ms = match progress {
            Progress::More => PIECE_PAUSE_MS,
            Progress::Waits => WAIT_MS,
            Progress::Whole => {
                step.first_needed = Some(running.first_needed);
                self.bytes = self.bytes.saturating_sub(running.bytes_before);
                (self.look_at_bytes, self.due_at, self.running) = (self.after_bytes, None, None);
                return;
            }
        };
        self.due_at = Some(now_ms.saturating_add(pause_ms));
    }
}
