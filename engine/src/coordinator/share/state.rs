//! The state of a share partition as it is recorded, and its records.

use std::collections::BTreeMap;

use super::{SharePartitionKey, UNKNOWN};
use crate::coordinator::Record;
use crate::protocol::data::share_snapshot_value::{self, ShareSnapshotValue};
use crate::protocol::data::share_update_value::{self, ShareUpdateValue};
use crate::protocol::data::{ShareSnapshotKey, ShareUpdateKey};
use crate::protocol::messages::{read_share_group_state, write_share_group_state};
use crate::protocol::value::{encode_key, encode_value};

/// Records of a share partition that have the same fate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// The first offset.
    pub first: i64,
    /// The last offset.
    pub last: i64,
    /// What may be done to them; see `RecordState`.
    pub state: i8,
    /// How often they have been given out.
    pub deliveries: i16,
}

impl Batch {
    fn fate(&self) -> (i8, i16) {
        (self.state, self.deliveries)
    }
}

impl From<&write_share_group_state::StateBatch> for Batch {
    fn from(batch: &write_share_group_state::StateBatch) -> Batch {
        Batch {
            first: batch.first_offset,
            last: batch.last_offset,
            state: batch.delivery_state,
            deliveries: batch.delivery_count,
        }
    }
}

impl From<&Batch> for read_share_group_state::StateBatch {
    fn from(batch: &Batch) -> read_share_group_state::StateBatch {
        read_share_group_state::StateBatch {
            first_offset: batch.first,
            last_offset: batch.last,
            delivery_state: batch.state,
            delivery_count: batch.deliveries,
        }
    }
}

/// The batches of `known`, changed by `new` in its order, from the start offset on (−1: all).
pub fn combine(known: &[Batch], new: &[Batch], start_offset: i64) -> Vec<Batch> {
    let mut all: BTreeMap<i64, Batch> = BTreeMap::new();
    for batch in known.iter().chain(new).filter(|batch| batch.first <= batch.last) {
        let floor = all.range(..batch.first).next_back().filter(|(_, old)| old.last >= batch.first);
        let from = floor.map_or(batch.first, |(first, _)| *first);
        let overlapped: Vec<Batch> = all.range(from..=batch.last).map(|(_, old)| *old).collect();
        for old in overlapped {
            all.remove(&old.first);
            if old.first < batch.first {
                all.insert(old.first, Batch { last: batch.first - 1, ..old });
            }
            if old.last > batch.last {
                all.insert(batch.last + 1, Batch { first: batch.last + 1, ..old });
            }
        }
        all.insert(batch.first, *batch);
    }
    let mut combined: Vec<Batch> = Vec::with_capacity(all.len());
    for mut batch in all.into_values().filter(|batch| batch.last >= start_offset) {
        batch.first = batch.first.max(start_offset);
        match combined.last_mut() {
            Some(last) if last.last + 1 == batch.first && last.fate() == batch.fate() => last.last = batch.last,
            _ => combined.push(batch),
        }
    }
    combined
}

/// A share partition's state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ShareState {
    /// The number of its last snapshot.
    pub snapshot_epoch: i32,
    /// Which life of the share partition it is of.
    pub state_epoch: i32,
    /// The epoch of the leader that wrote last.
    pub leader_epoch: i32,
    /// Where it starts, −1 if the leader shall choose.
    pub start_offset: i64,
    /// When the last snapshot's content and the snapshot itself were made, in ms since 1970.
    pub created_ms: i64,
    /// See `created_ms`.
    pub written_ms: i64,
    /// What is known behind the start.
    pub batches: Vec<Batch>,
    /// Updates since the last snapshot.
    pub updates: u32,
}

impl ShareState {
    /// Makes a change.
    pub fn take(&mut self, leader_epoch: i32, start_offset: i64, batches: &[Batch]) {
        if leader_epoch != UNKNOWN {
            self.leader_epoch = leader_epoch;
        }
        if start_offset != i64::from(UNKNOWN) {
            self.start_offset = start_offset;
        }
        self.batches = combine(&self.batches, batches, self.start_offset);
    }

    /// Takes an update's record.
    pub fn take_update(&mut self, value: ShareUpdateValue) {
        let batch = |batch: &share_update_value::StateBatch| Batch {
            first: batch.first_offset,
            last: batch.last_offset,
            state: batch.delivery_state,
            deliveries: batch.delivery_count,
        };
        let batches: Vec<Batch> = value.state_batches.iter().map(batch).collect();
        self.take(value.leader_epoch, value.start_offset, &batches);
        self.updates += 1;
    }

    /// The state of a snapshot's record.
    pub fn from_snapshot(value: ShareSnapshotValue) -> ShareState {
        let batch = |batch: &share_snapshot_value::StateBatch| Batch {
            first: batch.first_offset,
            last: batch.last_offset,
            state: batch.delivery_state,
            deliveries: batch.delivery_count,
        };
        ShareState {
            snapshot_epoch: value.snapshot_epoch,
            state_epoch: value.state_epoch,
            leader_epoch: value.leader_epoch,
            start_offset: value.start_offset,
            created_ms: value.create_timestamp,
            written_ms: value.write_timestamp,
            batches: value.state_batches.iter().map(batch).collect(),
            updates: 0,
        }
    }
}

/// Only what strings of requests make too long for its length field; a request has the same field.
const FITS: &str = "a group's id came in a request";

fn snapshot_key(key: &SharePartitionKey) -> bytes::Bytes {
    let key =
        ShareSnapshotKey { group_id: key.group.as_str().into(), topic_id: key.topic_id, partition: key.partition };
    encode_key(&key).expect(FITS)
}

/// The record of a whole state.
pub fn snapshot_record(key: &SharePartitionKey, state: &ShareState) -> Record {
    let batch = |batch: &Batch| share_snapshot_value::StateBatch {
        first_offset: batch.first,
        last_offset: batch.last,
        delivery_state: batch.state,
        delivery_count: batch.deliveries,
    };
    let value = ShareSnapshotValue {
        snapshot_epoch: state.snapshot_epoch,
        state_epoch: state.state_epoch,
        leader_epoch: state.leader_epoch,
        start_offset: state.start_offset,
        create_timestamp: state.created_ms,
        write_timestamp: state.written_ms,
        state_batches: state.batches.iter().map(batch).collect(),
    };
    Record { key: snapshot_key(key), value: Some(encode_value(&value, 0).expect(FITS)) }
}

/// The record of a change.
pub fn update_record(
    key: &SharePartitionKey,
    snapshot_epoch: i32,
    leader_epoch: i32,
    start_offset: i64,
    batches: &[Batch],
) -> Record {
    let batch = |batch: &Batch| share_update_value::StateBatch {
        first_offset: batch.first,
        last_offset: batch.last,
        delivery_state: batch.state,
        delivery_count: batch.deliveries,
    };
    let state_batches = batches.iter().map(batch).collect();
    let value = ShareUpdateValue { snapshot_epoch, leader_epoch, start_offset, state_batches };
    let key = ShareUpdateKey { group_id: key.group.as_str().into(), topic_id: key.topic_id, partition: key.partition };
    Record { key: encode_key(&key).expect(FITS), value: Some(encode_value(&value, 0).expect(FITS)) }
}

/// The record that ends a state.
pub fn tombstone(key: &SharePartitionKey) -> Record {
    Record { key: snapshot_key(key), value: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(first: i64, last: i64, state: i8, deliveries: i16) -> Batch {
        Batch { first, last, state, deliveries }
    }

    #[test]
    fn batches_are_overridden_merged_and_cut_off() {
        let known = [batch(0, 9, 0, 1), batch(20, 29, 2, 1)];
        assert_eq!(
            combine(&known, &[batch(5, 24, 4, 3)], -1),
            [batch(0, 4, 0, 1), batch(5, 24, 4, 3), batch(25, 29, 2, 1)]
        );
        assert_eq!(combine(&known, &[batch(10, 19, 2, 1)], 5), [batch(5, 9, 0, 1), batch(10, 29, 2, 1)]);
        assert_eq!(combine(&known, &[batch(3, 3, 0, 2)], 0).len(), 4);
        assert_eq!(combine(&known, &[], 30), []);
        assert_eq!(combine(&[], &[batch(1, 1, 2, 1), batch(2, 2, 2, 1), batch(1, 2, 2, 1)], -1), [batch(1, 2, 2, 1)]);
        assert_eq!(combine(&[], &[batch(5, 4, 2, 1)], -1), [], "what holds nothing");
    }

    #[test]
    fn any_batches_combine_as_if_each_record_were_kept_alone() {
        let mut bits = 3u64;
        let mut random = |below: i64| {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((bits >> 33) % below as u64) as i64
        };
        for _ in 0..300 {
            let (mut known, mut alone) = (Vec::new(), BTreeMap::new());
            let mut start = -1;
            for _ in 0..20 {
                let mut draw = || {
                    let first = random(40);
                    batch(first, first + random(8), random(3) as i8, random(2) as i16)
                };
                let new = [draw(), draw()];
                start = start.max(random(60) - 30);
                known = combine(&known, &new, start);
                for one in &new {
                    alone.extend((one.first..=one.last).map(|at| (at, one.fate())));
                }
                alone.retain(|at, _| *at >= start);
                let flat: BTreeMap<i64, (i8, i16)> =
                    known.iter().flat_map(|one| (one.first..=one.last).map(|at| (at, one.fate()))).collect();
                assert_eq!(flat, alone);
                let touch = |pair: &[Batch]| pair[0].last + 1 == pair[1].first && pair[0].fate() == pair[1].fate();
                assert!(known.windows(2).all(|pair| pair[0].last < pair[1].first && !touch(pair)));
            }
        }
    }
}
