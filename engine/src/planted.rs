//! Bugs put in on purpose, so that the simulator can show that it would find them.
//!
//! Compiled only under the feature `planted`, which only the simulator's tests enable; the broker's binary
//! holds nothing of it. One bug at a time is on, for the current thread. A whole process built with the feature
//! takes the bug's name from `CORELOG_PLANTED`, for the tests that need a real disk.

use std::cell::Cell;

/// A bug that can be switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A group counts as durable when its write was submitted.
    AcknowledgeBeforeFlush,
    /// A group is written without its flush.
    WriteWithoutFlush,
    /// A group counts as durable although one before it is not.
    AcknowledgePastGap,
    /// Groups of an earlier use of a file are accepted at recovery.
    NoIncarnationGuard,
    /// Groups and runs are believed without their checksum.
    NoCrcAtRecovery,
    /// A failed durable write is tried again, and its success believed.
    RetryFailedFlush,
    /// Recovery stops at a corrupt group as if it were torn.
    TruncateAtCorruptMiddle,
    /// Producer state starts empty after a restart.
    ForgetProducerState,
    /// A corrupt group's offsets are given to other records.
    IgnorePreviousDirectory,
    /// A journal file is used again before the segments that hold its bytes are flushed.
    RecycleBeforeSegmentFlush,
    /// A checkpoint names a segment end that is not flushed.
    CheckpointAheadOfFlush,
    /// Recovery serves before what it read, and has written anew, is flushed.
    ServeBeforeRecoveryFlush,
    /// Consumers see the log end.
    HighWatermarkIsLogEnd,
    /// A duplicate is answered although its original is not durable.
    DuplicateAnsweredEarly,
    /// The checkpoint's producer state holds batches that the checkpoint's log end cuts off.
    SnapshotHoldsCutOffBatch,
    /// A producer id is answered before its block is durable.
    ProducerIdReused,
    /// The journal names batches of a segment that are not flushed.
    ExtentBeforeSegmentFlush,
    /// A partition of a consumer group is given to a member before another has given it up.
    AssignBeforeRevoke,
    /// Offsets of a member whose generation is over are accepted.
    FencedGenerationCommits,
    /// A coordinator answers before what it has decided is durable.
    CoordinatorAnswersEarly,
    /// A partition takes a transaction marker of an epoch that has passed.
    MarkerOfPreviousEpochAccepted,
    /// The last stable offset passes an open transaction.
    StableOffsetAheadOfOpenTransaction,
    /// A flush that a full disk refuses forgets that the directory has new names.
    DirectoryForgottenAfterFullDisk,
    /// A lack of file descriptors ends the log.
    EmfileIsDiskFailure,
    /// A segment that cannot be opened ends the log of its whole core.
    BadFileIsDiskFailure,
    /// A coordinator's log is given up before its state is written anew as a whole.
    PruneBeforeSnapshotIsWhole,
    /// A coordinator's log is given up although open transactions have offsets in it.
    SnapshotLeavesOutPending,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 27] = [
        Bug::AcknowledgeBeforeFlush,
        Bug::WriteWithoutFlush,
        Bug::AcknowledgePastGap,
        Bug::NoIncarnationGuard,
        Bug::NoCrcAtRecovery,
        Bug::RetryFailedFlush,
        Bug::TruncateAtCorruptMiddle,
        Bug::ForgetProducerState,
        Bug::IgnorePreviousDirectory,
        Bug::RecycleBeforeSegmentFlush,
        Bug::CheckpointAheadOfFlush,
        Bug::ServeBeforeRecoveryFlush,
        Bug::HighWatermarkIsLogEnd,
        Bug::DuplicateAnsweredEarly,
        Bug::SnapshotHoldsCutOffBatch,
        Bug::ProducerIdReused,
        Bug::ExtentBeforeSegmentFlush,
        Bug::AssignBeforeRevoke,
        Bug::FencedGenerationCommits,
        Bug::CoordinatorAnswersEarly,
        Bug::MarkerOfPreviousEpochAccepted,
        Bug::StableOffsetAheadOfOpenTransaction,
        Bug::DirectoryForgottenAfterFullDisk,
        Bug::EmfileIsDiskFailure,
        Bug::BadFileIsDiskFailure,
        Bug::PruneBeforeSnapshotIsWhole,
        Bug::SnapshotLeavesOutPending,
    ];
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = Cell::new(from_environment());
}

/// The bug that the environment names.
///
/// # Panics
/// If there is no such bug: a test that plants nothing would prove nothing.
fn from_environment() -> Option<Bug> {
    let name = std::env::var("CORELOG_PLANTED").ok()?;
    let bug = Bug::ALL.into_iter().find(|bug| format!("{bug:?}") == name);
    Some(bug.unwrap_or_else(|| panic!("CORELOG_PLANTED names no bug: {name}")))
}

/// Switches one bug on, or all off.
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether `bug` is on.
pub fn is(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}
