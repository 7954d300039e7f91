//! Long work in short turns.
//!
//! Whoever works through what a client sent, an item or some bytes at a time, says what it costs; after each
//! [`TURN`] the core's other tasks run first. The invariant: between two such pauses no more is done than a turn and
//! the last item.

use std::cell::Cell;

use super::Io;

/// The cost of one turn. A cost of one is about a microsecond: an item that is looked up and answered, or
/// [`BYTES_PER_COST`]. So others wait about a millisecond, which is little beside a flush, and the pauses cost nothing
/// beside the work.
pub const TURN: usize = 1000;

/// So many bytes of records are checked or decompressed for a cost of one.
pub const BYTES_PER_COST: usize = 512;

/// How far a task is in its turn. The default never pauses: for work that nobody waits for, and for tests.
#[derive(Default)]
pub struct Pace {
    io: Option<Io>,
    spent: Cell<usize>,
}

impl Pace {
    /// At the start of a turn of a task on this core.
    pub fn new(io: &Io) -> Pace {
        Pace { io: Some(io.clone()), spent: Cell::new(0) }
    }

    /// Notes what is about to be done; lets the core's other tasks run first if the turn is over.
    pub async fn spend(&self, cost: usize) {
        let spent = self.spent.get() + cost;
        let Some(io) = &self.io else { return };
        if spent <= TURN {
            self.spent.set(spent);
        } else {
            self.spent.set(cost.min(TURN));
            io.yield_now().await;
        }
        io.note_work(cost);
    }
}
