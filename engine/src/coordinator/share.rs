//! The share coordinator (KIP-932): what is recorded of share partitions, over one partition of
//! `__share_group_state`.
//!
//! A share partition's state is a snapshot and the updates behind it; an update names only what has changed. After
//! so many updates comes a snapshot again, and what lies before the last ones is given up ([`upkeep`]), so that a load
//! reads a bounded number of records for each. State epochs
//! tell one life of a share partition from the next, leader epochs one leader from the next; what is behind either is
//! refused. Invariant: batches of a state lie behind its start offset, in order, without overlap, and two that touch
//! differ.

pub mod state;
pub mod upkeep;

use std::collections::BTreeMap;

use super::{Context, Record, Reply, Step, Ticket};
use crate::limits::SHARE_STATE_BATCHES;
use crate::protocol::data::{ShareSnapshotKey, ShareUpdateKey};
use crate::protocol::messages::{read_share_group_state, write_share_group_state};
use crate::protocol::value::{decode_key, decode_value, record_type};
use crate::protocol::{DecodeError, ErrorCode, RecordData, Uuid};
use state::{Batch, ShareState, combine, snapshot_record, tombstone, update_record};
use upkeep::Upkeep;

/// Stands for "unchanged" and "unknown" in epochs and offsets.
pub const UNKNOWN: i32 = -1;

/// A share partition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SharePartitionKey {
    /// The group.
    pub group: String,
    /// The topic.
    pub topic_id: Uuid,
    /// The partition.
    pub partition: i32,
}

impl From<ShareSnapshotKey<'_>> for SharePartitionKey {
    fn from(key: ShareSnapshotKey<'_>) -> SharePartitionKey {
        SharePartitionKey { group: key.group_id.into_owned(), topic_id: key.topic_id, partition: key.partition }
    }
}

impl SharePartitionKey {
    /// The key by which its coordinator is found.
    pub fn coordinator_key(&self) -> String {
        format!("{}:{}:{}", self.group, self.topic_id, self.partition)
    }

    /// Whether a client's key to find a coordinator by is one.
    pub fn is_coordinator_key(key: &str) -> bool {
        let parts: Vec<&str> = key.split(':').collect();
        let [group, topic, partition] = parts[..] else { return false };
        !group.trim().is_empty() && topic.parse::<Uuid>().is_ok() && partition.parse::<i32>().is_ok()
    }
}

/// What the share coordinator is asked about one share partition.
#[derive(Debug)]
pub struct ShareRequest {
    /// Which.
    pub key: SharePartitionKey,
    /// What.
    pub action: ShareAction,
}

/// What is asked about a share partition.
#[derive(Debug)]
pub enum ShareAction {
    /// Begin its state.
    Initialize {
        /// Its epoch.
        state_epoch: i32,
        /// Where it starts, −1 if its leader shall choose.
        start_offset: i64,
    },
    /// Read it for a leader of this epoch.
    Read {
        /// The epoch.
        leader_epoch: i32,
    },
    /// Change it.
    Write {
        /// The epoch of the state.
        state_epoch: i32,
        /// The epoch of the leader.
        leader_epoch: i32,
        /// Where it starts now, −1 if that is unchanged.
        start_offset: i64,
        /// What has changed behind that.
        batches: Vec<write_share_group_state::StateBatch>,
    },
    /// Forget it.
    Delete,
    /// Read its start and epochs.
    Summarize,
}

/// Why the coordinator refuses: Kafka's error and sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShareRefusal(pub ErrorCode, pub &'static str);

/// The answer about one share partition.
#[derive(Debug, Clone, PartialEq)]
pub enum ShareReply {
    /// It is begun, changed or forgotten.
    Done(Result<(), ShareRefusal>),
    /// What was read.
    Read(Result<ShareRead, ShareRefusal>),
    /// Its start and epochs.
    Summary(Result<ShareSummary, ShareRefusal>),
}

/// A share partition's state for its leader.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ShareRead {
    /// Its epoch.
    pub state_epoch: i32,
    /// Where it starts, −1 if the leader shall choose.
    pub start_offset: i64,
    /// What is known behind that.
    pub batches: Vec<read_share_group_state::StateBatch>,
}

/// A share partition's start and epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShareSummary {
    /// The epoch of its state.
    pub state_epoch: i32,
    /// The epoch of its leader.
    pub leader_epoch: i32,
    /// Where it starts, −1 if that is not known.
    pub start_offset: i64,
}

/// What the share coordinator is configured by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareConfig {
    /// `share.coordinator.snapshot.update.records.per.snapshot`.
    pub updates_per_snapshot: u32,
    /// How old a snapshot grows that holds the log back (`share.coordinator.cold.partition.snapshot.interval.ms`).
    pub cold_snapshot_ms: u64,
    /// How often the log is given up to where it can be (`share.coordinator.state.topic.prune.interval.ms`).
    pub prune_ms: u64,
}

impl ShareConfig {
    /// The values that `number` gives for Kafka's names.
    pub fn new(number: impl Fn(&'static str) -> i64) -> ShareConfig {
        let updates = number("share.coordinator.snapshot.update.records.per.snapshot");
        let positive = |name| u64::try_from(number(name)).unwrap_or(0).max(1);
        ShareConfig {
            updates_per_snapshot: u32::try_from(updates).unwrap_or(0),
            cold_snapshot_ms: positive("share.coordinator.cold.partition.snapshot.interval.ms"),
            prune_ms: positive("share.coordinator.state.topic.prune.interval.ms"),
        }
    }
}

impl Default for ShareConfig {
    fn default() -> ShareConfig {
        ShareConfig { updates_per_snapshot: 500, cold_snapshot_ms: 300_000, prune_ms: 300_000 }
    }
}

const NEGATIVE_PARTITION: ShareRefusal =
    ShareRefusal(ErrorCode::InvalidRequest, "The partition id cannot be a negative number.");
const UNKNOWN_PARTITION: ShareRefusal =
    ShareRefusal(ErrorCode::UnknownTopicOrPartition, "This server does not host this topic-partition.");
const READ_UNINITIALIZED: ShareRefusal =
    ShareRefusal(ErrorCode::InvalidRequest, "Read operation on uninitialized share partition not allowed.");
const WRITE_UNINITIALIZED: ShareRefusal =
    ShareRefusal(ErrorCode::InvalidRequest, "Write operation on uninitialized share partition not allowed.");
const FENCED_LEADER: ShareRefusal = ShareRefusal(
    ErrorCode::FencedLeaderEpoch,
    "The leader epoch in the request is older than the epoch on the broker.",
);
const FENCED_STATE: ShareRefusal = ShareRefusal(
    ErrorCode::FencedStateEpoch,
    "The share coordinator rejected the request because the share-group state epoch did not match.",
);

const TOO_MANY_BATCHES: ShareRefusal =
    ShareRefusal(ErrorCode::InvalidRequest, "Too many records of the share partition have fates of their own.");

/// The coordinator of the share partitions of one partition.
pub struct ShareCoordinator {
    config: ShareConfig,
    states: BTreeMap<SharePartitionKey, ShareState>,
    upkeep: Upkeep,
}

impl ShareCoordinator {
    /// A coordinator that knows no share partition.
    pub fn new(config: ShareConfig) -> ShareCoordinator {
        ShareCoordinator { config, states: BTreeMap::new(), upkeep: Upkeep::default() }
    }

    /// Takes a request.
    pub fn handle(&mut self, context: &mut Context<'_>, ticket: Ticket, request: ShareRequest) -> Step {
        if context.has_room {
            return self.decide(context, ticket, request);
        }
        let key = request.key.clone();
        let before = self.states.get(&key).cloned();
        let step = self.decide(context, ticket, request);
        if step.records.is_empty() {
            return step;
        }
        // It cannot be recorded: all is as it was.
        match before {
            Some(before) => drop(self.states.insert(key, before)),
            None => drop(self.states.remove(&key)),
        }
        Step::refused(ticket, ErrorCode::CoordinatorNotAvailable)
    }

    fn decide(&mut self, context: &mut Context<'_>, ticket: Ticket, request: ShareRequest) -> Step {
        let mut step = Step::default();
        let ShareRequest { key, action } = request;
        let reply = match action {
            ShareAction::Initialize { state_epoch, start_offset } => {
                ShareReply::Done(self.initialize(context, &mut step, &key, state_epoch, start_offset))
            }
            ShareAction::Read { leader_epoch } => ShareReply::Read(self.read(context, &mut step, &key, leader_epoch)),
            ShareAction::Write { state_epoch, leader_epoch, start_offset, batches } => {
                let batches = batches.iter().map(Batch::from).collect();
                let change = Change { state_epoch, leader_epoch, start_offset, batches };
                ShareReply::Done(self.write(context, &mut step, &key, change))
            }
            ShareAction::Delete => ShareReply::Done(self.delete(context, &mut step, &key)),
            ShareAction::Summarize => ShareReply::Summary(self.summarize(context, &key)),
        };
        step.reply(ticket, reply);
        step
    }

    fn initialize(
        &mut self,
        context: &mut Context<'_>,
        step: &mut Step,
        key: &SharePartitionKey,
        state_epoch: i32,
        start_offset: i64,
    ) -> Result<(), ShareRefusal> {
        check_index(key)?;
        let known = self.states.get(key);
        if state_epoch != UNKNOWN && known.is_some_and(|known| known.state_epoch > state_epoch) {
            return Err(FENCED_STATE);
        }
        check_exists(context, key)?;
        let now_ms = context.wall_clock_ms;
        let state = ShareState {
            snapshot_epoch: known.map_or(0, |known| known.snapshot_epoch + 1),
            state_epoch,
            leader_epoch: 0,
            start_offset,
            created_ms: now_ms,
            written_ms: now_ms,
            batches: Vec::new(),
            updates: 0,
        };
        self.snapshot(step, key, state);
        Ok(())
    }

    fn read(
        &mut self,
        context: &mut Context<'_>,
        step: &mut Step,
        key: &SharePartitionKey,
        leader_epoch: i32,
    ) -> Result<ShareRead, ShareRefusal> {
        check_index(key)?;
        let known = self.states.get(key).ok_or(READ_UNINITIALIZED)?;
        if known.leader_epoch > leader_epoch {
            return Err(FENCED_LEADER);
        }
        check_exists(context, key)?;
        let read = ShareRead {
            state_epoch: known.state_epoch,
            start_offset: known.start_offset,
            batches: known.batches.iter().map(Into::into).collect(),
        };
        if leader_epoch != UNKNOWN && known.leader_epoch != leader_epoch {
            let change = Change {
                state_epoch: known.state_epoch,
                leader_epoch,
                start_offset: known.start_offset,
                batches: Vec::new(),
            };
            self.change(context, step, key, change);
        }
        Ok(read)
    }

    fn write(
        &mut self,
        context: &mut Context<'_>,
        step: &mut Step,
        key: &SharePartitionKey,
        change: Change,
    ) -> Result<(), ShareRefusal> {
        check_index(key)?;
        let known = self.states.get(key).ok_or(WRITE_UNINITIALIZED)?;
        if change.leader_epoch != UNKNOWN && known.leader_epoch > change.leader_epoch {
            return Err(FENCED_LEADER);
        }
        if change.state_epoch != UNKNOWN && known.state_epoch > change.state_epoch {
            return Err(FENCED_STATE);
        }
        check_exists(context, key)?;
        // A batch cuts another one in three at most; what comes of many is looked at.
        let is_large = |known: &[Batch]| {
            known.len() + 2 * change.batches.len() > SHARE_STATE_BATCHES
                && combine(known, &change.batches, change.start_offset).len() > SHARE_STATE_BATCHES
        };
        if is_large(&known.batches) || is_large(&[]) {
            return Err(TOO_MANY_BATCHES);
        }
        self.change(context, step, key, change);
        Ok(())
    }

    fn delete(
        &mut self,
        context: &mut Context<'_>,
        step: &mut Step,
        key: &SharePartitionKey,
    ) -> Result<(), ShareRefusal> {
        check_index(key)?;
        check_exists(context, key)?;
        self.forget(step, key);
        Ok(())
    }

    fn summarize(&self, context: &Context<'_>, key: &SharePartitionKey) -> Result<ShareSummary, ShareRefusal> {
        check_index(key)?;
        check_exists(context, key)?;
        Ok(match self.states.get(key) {
            Some(known) => ShareSummary {
                state_epoch: known.state_epoch,
                leader_epoch: known.leader_epoch,
                start_offset: known.start_offset,
            },
            None => ShareSummary { state_epoch: 0, leader_epoch: 0, start_offset: i64::from(UNKNOWN) },
        })
    }

    /// Makes a change of a known state: an update, or a snapshot when it is time for one.
    fn change(&mut self, context: &Context<'_>, step: &mut Step, key: &SharePartitionKey, change: Change) {
        let known = self.states.get_mut(key).expect("the state is known");
        if known.updates >= self.config.updates_per_snapshot || change.state_epoch > known.state_epoch {
            let mut state = known.clone();
            state.take(change.leader_epoch, change.start_offset, &change.batches);
            state.snapshot_epoch += 1;
            state.state_epoch = if change.state_epoch == UNKNOWN { state.state_epoch } else { change.state_epoch };
            (state.created_ms, state.written_ms) = (context.wall_clock_ms, context.wall_clock_ms);
            self.snapshot(step, key, state);
            return;
        }
        let batches = combine(&[], &change.batches, change.start_offset);
        step.records.push(update_record(key, known.snapshot_epoch, change.leader_epoch, change.start_offset, &batches));
        known.take(change.leader_epoch, change.start_offset, &batches);
        known.updates += 1;
    }

    fn snapshot(&mut self, step: &mut Step, key: &SharePartitionKey, mut state: ShareState) {
        state.updates = 0;
        step.records.push(snapshot_record(key, &state));
        self.states.insert(key.clone(), state);
    }

    fn forget(&mut self, step: &mut Step, key: &SharePartitionKey) {
        if self.states.remove(key).is_some() {
            step.records.push(tombstone(key));
        }
    }

    /// States of topics that are gone go too.
    pub fn topics_changed(&mut self, context: &mut Context<'_>) -> Step {
        let mut step = Step::default();
        let is_gone = |key: &SharePartitionKey| context.topics.name(key.topic_id).is_none();
        let gone: Vec<SharePartitionKey> = self.states.keys().filter(|key| is_gone(key)).cloned().collect();
        gone.iter().for_each(|key| self.forget(&mut step, key));
        step
    }

    /// The whole log has been replayed.
    pub fn loaded(&mut self, context: &Context<'_>) {
        self.upkeep.begin(&self.config, context.now_ms);
    }

    /// When [`ShareCoordinator::tick`] is due.
    pub fn next_deadline(&self) -> Option<u64> {
        self.upkeep.next_deadline()
    }

    /// A step's records stand in the log, the first at this offset.
    pub fn appended(&mut self, first_offset: i64, records: &[Record]) {
        for (offset, record) in (first_offset..).zip(records) {
            self.upkeep.note(offset, &record.key, record.value.is_some());
        }
    }

    /// Takes a record of the log.
    ///
    /// # Errors
    /// If it is none that this coordinator writes.
    pub fn replay(&mut self, offset: i64, key: &[u8], value: Option<&[u8]>) -> Result<(), DecodeError> {
        self.upkeep.note(offset, key, value.is_some());
        match record_type(key)? {
            ShareSnapshotKey::RECORD_TYPE => {
                let key = SharePartitionKey::from(decode_key::<ShareSnapshotKey<'_>>(key)?);
                match value {
                    Some(value) => drop(self.states.insert(key, ShareState::from_snapshot(decode_value(value)?))),
                    None => drop(self.states.remove(&key)),
                }
            }
            ShareUpdateKey::RECORD_TYPE => {
                let key: ShareUpdateKey<'_> = decode_key(key)?;
                let key = SharePartitionKey {
                    group: key.group_id.into_owned(),
                    topic_id: key.topic_id,
                    partition: key.partition,
                };
                // An update of what has been forgotten since is of no interest.
                if let (Some(value), Some(state)) = (value, self.states.get_mut(&key)) {
                    state.take_update(decode_value(value)?);
                }
            }
            kind => {
                return Err(DecodeError::UnsupportedVersion {
                    name: "the record type of a share state",
                    version: kind,
                });
            }
        }
        Ok(())
    }
}

/// A change of a state.
struct Change {
    state_epoch: i32,
    leader_epoch: i32,
    start_offset: i64,
    batches: Vec<Batch>,
}

fn check_index(key: &SharePartitionKey) -> Result<(), ShareRefusal> {
    if key.partition < 0 { Err(NEGATIVE_PARTITION) } else { Ok(()) }
}

fn check_exists(context: &Context<'_>, key: &SharePartitionKey) -> Result<(), ShareRefusal> {
    let topic = context.topics.name(key.topic_id).and_then(|name| context.topics.get(name));
    topic.filter(|topic| key.partition < topic.partitions).map(drop).ok_or(UNKNOWN_PARTITION)
}

impl From<ShareReply> for Reply {
    fn from(reply: ShareReply) -> Reply {
        Reply::Share(reply)
    }
}

#[cfg(test)]
mod tests;
