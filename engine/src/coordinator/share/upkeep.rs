//! What keeps the log of a share coordinator short.
//!
//! Of a state only the last snapshot and what follows it counts. So the log is given up before the first of the last
//! snapshots, now and then; and a state that has not been written for long is snapshotted again, so that it holds
//! nothing back. Invariant: no record is given up that a load needs, and a round of snapshots is begun only if at
//! least as many records can go by it as it writes. Where the log is it does not know, only offsets.

use std::collections::BTreeMap;

use super::state::ShareState;
use super::{ShareConfig, ShareCoordinator, SharePartitionKey};
use crate::coordinator::{Context, Step};
use crate::limits::SHARE_STATE_BATCHES;
use crate::protocol::data::ShareSnapshotKey;
use crate::protocol::value::{decode_key, record_type};
use crate::protocol::{DecodeError, RecordData};

/// Where the log's records are, and when they are looked at.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    /// The offset of each state's last snapshot.
    snapshots: BTreeMap<SharePartitionKey, i64>,
    /// One past the last record.
    end: i64,
    /// Where the log has been made to begin.
    start: i64,
    /// When states that are cold are snapshotted, on the clock of deadlines.
    snapshot_at: Option<u64>,
    /// When the log is given up to where it can be.
    prune_at: Option<u64>,
}

impl Upkeep {
    /// The first offset that a load needs.
    fn first_needed(&self) -> i64 {
        self.snapshots.values().copied().min().unwrap_or(self.end)
    }

    pub(super) fn begin(&mut self, config: &ShareConfig, now_ms: u64) {
        self.snapshot_at = Some(now_ms.saturating_add(config.cold_snapshot_ms));
        self.prune_at = Some(now_ms.saturating_add(config.prune_ms));
    }

    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.snapshot_at.into_iter().chain(self.prune_at).min()
    }

    /// A record stands at this offset.
    pub(super) fn note(&mut self, offset: i64, key: &[u8], has_value: bool) {
        self.end = offset + 1;
        let Ok(Some(key)) = snapshot_key(key) else { return };
        match has_value {
            true => drop(self.snapshots.insert(key, offset)),
            false => drop(self.snapshots.remove(&key)),
        }
    }
}

/// The share partition whose snapshot has that key; `None` if it is another record's.
fn snapshot_key(key: &[u8]) -> Result<Option<SharePartitionKey>, DecodeError> {
    match record_type(key)? {
        ShareSnapshotKey::RECORD_TYPE => Ok(Some(SharePartitionKey::from(decode_key::<ShareSnapshotKey<'_>>(key)?))),
        _ => Ok(None),
    }
}

impl ShareCoordinator {
    /// Does what is due.
    pub fn tick(&mut self, context: &mut Context<'_>) -> Step {
        let mut step = Step::default();
        if !context.has_room {
            return step;
        }
        let is_due = |at: Option<u64>| at.is_some_and(|at| at <= context.now_ms);
        if is_due(self.upkeep.snapshot_at) {
            let is_done = self.snapshot_cold(context, &mut step);
            // The rest in steps of their own.
            let delay_ms = if is_done { self.config.cold_snapshot_ms } else { 1 };
            self.upkeep.snapshot_at = Some(context.now_ms.saturating_add(delay_ms));
        }
        if is_due(self.upkeep.prune_at) {
            self.upkeep.prune_at = Some(context.now_ms.saturating_add(self.config.prune_ms));
            let first = self.upkeep.first_needed();
            if first > self.upkeep.start {
                self.upkeep.start = first;
                step.first_needed = Some(first);
            }
        }
        step
    }

    /// Snapshots states whose last snapshot is old, a bounded part of them; whether those were all.
    fn snapshot_cold(&mut self, context: &Context<'_>, step: &mut Step) -> bool {
        let records = self.upkeep.end - self.upkeep.first_needed();
        if records < 2 * self.states.len() as i64 {
            return true;
        }
        let oldest_ms = context.wall_clock_ms.saturating_sub_unsigned(self.config.cold_snapshot_ms);
        let is_cold = |(_, state): &(&SharePartitionKey, &ShareState)| state.written_ms <= oldest_ms;
        let mut cold = self.states.iter().filter(is_cold);
        let (mut taken, mut batches) = (Vec::new(), 0);
        for (key, state) in &mut cold {
            taken.push((key.clone(), state.clone()));
            batches += 1 + state.batches.len();
            if batches > SHARE_STATE_BATCHES {
                break;
            }
        }
        let is_done = cold.next().is_none();
        for (key, mut state) in taken {
            state.snapshot_epoch += 1;
            state.written_ms = context.wall_clock_ms;
            self.snapshot(step, &key, state);
        }
        is_done
    }
}
