//! Committed offsets: kept by group, topic and partition, some of them in transactions that are still open.
//!
//! Invariant: what is kept is what the records of the log say, in their order; an offset of a transaction
//! counts when the marker has said so. Who may commit is for the group to decide.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::passes::{Piece, Progress};
use super::{Producer, Record, Step};
use crate::protocol::data::{LegacyOffsetCommitKey, OffsetCommitKey, OffsetCommitValue};
use crate::protocol::value::{decode_key, decode_value, encode_key, encode_value};
use crate::protocol::{DecodeError, RecordData};

/// The value's version without tagged fields, which older brokers read too.
const VALUE_VERSION: i16 = 3;
/// The one version that holds a time of expiry.
const EXPIRING_VALUE_VERSION: i16 = 1;

/// A committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The next record to read.
    pub offset: i64,
    /// The leader epoch of the last record that was read; −1 if the client did not say.
    pub leader_epoch: i32,
    /// What the client wants kept with it.
    pub metadata: String,
    /// When it was committed, in ms since 1970.
    pub commit_timestamp: i64,
    /// When it expires, in ms since 1970, if an old client said so.
    pub expire_timestamp: Option<i64>,
}

impl CommittedOffset {
    fn record(&self, group: &str, topic: &str, partition: i32) -> Record {
        let value = OffsetCommitValue {
            offset: self.offset,
            leader_epoch: self.leader_epoch,
            metadata: self.metadata.as_str().into(),
            commit_timestamp: self.commit_timestamp,
            expire_timestamp: self.expire_timestamp.unwrap_or(-1),
            ..Default::default()
        };
        let version = if self.expire_timestamp.is_some() { EXPIRING_VALUE_VERSION } else { VALUE_VERSION };
        let value = encode_value(&value, version).expect("an offset's strings came in a request");
        Record { key: key(group, topic, partition), value: Some(value) }
    }

    /// About what its record takes, in bytes.
    fn size_bytes(&self, group: &str, topic: &str) -> u64 {
        (group.len() + topic.len() + self.metadata.len()) as u64 + RECORD_BYTES
    }
}

/// About what an offset's record takes besides its strings, in bytes.
const RECORD_BYTES: u64 = 62;

/// An offset and its place among all records.
#[derive(Debug, Clone)]
struct Kept {
    committed: CommittedOffset,
    sequence: u64,
}

type Partitions = BTreeMap<i32, Kept>;
type ByTopic = BTreeMap<String, Partitions>;

/// What a partition of a group has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched<'a> {
    /// This offset.
    Committed(&'a CommittedOffset),
    /// None.
    Nothing,
    /// A transaction that is still open has one (UNSTABLE_OFFSET_COMMIT).
    Unstable,
}

/// All committed offsets of a coordinator.
#[derive(Debug, Default)]
pub struct Offsets {
    groups: BTreeMap<String, ByTopic>,
    /// The groups that have committed offsets of a topic.
    by_topic: BTreeMap<String, BTreeSet<String>>,
    /// Offsets of open transactions, by producer id and group.
    pending: BTreeMap<i64, BTreeMap<String, ByTopic>>,
    /// The producers that have such, by group.
    open: BTreeMap<String, BTreeSet<i64>>,
    sequence: u64,
    /// About what the records of the committed offsets take, in bytes.
    bytes: u64,
    pass: Option<Pass>,
}

/// A pass that writes the committed offsets anew (see [`super::passes`]).
///
/// One of which an open transaction has another waits for the transaction's end: behind the transaction's own record it
/// would count as the later one, whatever the end. One that a transaction has brought whose record stands before the
/// pass is written when the transaction has ended. So the pass is whole when neither an offset nor an open
/// transaction's is left from before it.
#[derive(Debug)]
struct Pass {
    /// The sequence of the last offset before the pass: what is later has its record behind the pass's beginning.
    before: u64,
    /// All up to here are looked at.
    place: Option<Place>,
    /// Whether all of them are.
    is_through: bool,
    /// Those that have been passed over since a transaction had others, and those that a transaction has brought.
    left: BTreeSet<Place>,
}

/// A group, a topic and a partition.
type Place = (String, String, i32);

impl Offsets {
    /// Commits an offset; within a transaction if there is a producer.
    pub fn commit(
        &mut self,
        group: &str,
        topic: &str,
        partition: i32,
        committed: CommittedOffset,
        producer: Option<Producer>,
        step: &mut Step,
    ) {
        step.records.push(committed.record(group, topic, partition));
        self.put(group, topic, partition, committed, producer);
    }

    fn put(
        &mut self,
        group: &str,
        topic: &str,
        partition: i32,
        committed: CommittedOffset,
        producer: Option<Producer>,
    ) {
        self.sequence += 1;
        let kept = Kept { committed, sequence: self.sequence };
        match producer {
            None => self.keep(group, topic, partition, kept),
            Some(producer) => {
                entry(&mut self.open, group).insert(producer.id);
                let by_topic = entry(self.pending.entry(producer.id).or_default(), group);
                entry(by_topic, topic).insert(partition, kept);
            }
        }
    }

    fn keep(&mut self, group: &str, topic: &str, partition: i32, kept: Kept) {
        self.bytes += kept.committed.size_bytes(group, topic);
        let partitions = entry(entry(&mut self.groups, group), topic);
        if partitions.is_empty() {
            entry(&mut self.by_topic, topic).insert(group.to_owned());
        }
        let before = partitions.insert(partition, kept);
        self.bytes -= before.map_or(0, |before| before.committed.size_bytes(group, topic));
    }

    /// About what the records of all committed offsets take, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.bytes
    }

    /// What a partition has; with `stable`, what it will keep.
    pub fn fetch(&self, group: &str, topic: &str, partition: i32, stable: bool) -> Fetched<'_> {
        if stable && self.is_pending(group, topic, partition) {
            return Fetched::Unstable;
        }
        let kept = self.groups.get(group).and_then(|topics| topics.get(topic)?.get(&partition));
        kept.map_or(Fetched::Nothing, |kept| Fetched::Committed(&kept.committed))
    }

    /// Every topic and partition of the group that has an offset.
    pub fn partitions(&self, group: &str) -> impl Iterator<Item = (&str, impl Iterator<Item = i32>)> {
        let topics = self.groups.get(group).into_iter().flatten();
        topics.map(|(topic, partitions)| (topic.as_str(), partitions.keys().copied()))
    }

    fn is_pending(&self, group: &str, topic: &str, partition: i32) -> bool {
        is_pending(&self.open, &self.pending, group, topic, partition)
    }

    /// Whether the group has offsets, or a transaction that may bring some.
    pub fn has_any(&self, group: &str) -> bool {
        self.groups.contains_key(group) || self.open.contains_key(group)
    }

    /// Removes an offset, also one of an open transaction.
    pub fn remove(&mut self, group: &str, topic: &str, partition: i32, step: &mut Step) {
        if self.forget(group, topic, partition) {
            step.records.push(Record { key: key(group, topic, partition), value: None });
        }
    }

    /// Removes all offsets of a group.
    pub fn remove_group(&mut self, group: &str, step: &mut Step) {
        let mut doomed = BTreeSet::new();
        doom(&mut doomed, group, self.groups.get(group).into_iter().flatten());
        for producer in self.open.get(group).into_iter().flatten() {
            let topics = self.pending.get(producer).and_then(|groups| groups.get(group));
            doom(&mut doomed, group, topics.into_iter().flatten());
        }
        doomed.iter().for_each(|(group, topic, partition)| self.remove(group, topic, *partition, step));
    }

    /// Every topic of which there are offsets, also in open transactions.
    pub fn topics(&self) -> BTreeSet<String> {
        let pending = self.pending.values().flat_map(BTreeMap::values).flat_map(BTreeMap::keys);
        self.by_topic.keys().chain(pending).cloned().collect()
    }

    /// Removes all offsets of a topic.
    pub fn remove_topic(&mut self, topic: &str, step: &mut Step) {
        let mut doomed = BTreeSet::new();
        for group in self.by_topic.get(topic).into_iter().flatten() {
            doom(&mut doomed, group, self.groups.get(group).and_then(|topics| topics.get_key_value(topic)));
        }
        for (group, topics) in self.pending.values().flatten() {
            doom(&mut doomed, group, topics.get_key_value(topic));
        }
        doomed.iter().for_each(|(group, topic, partition)| self.remove(group, topic, *partition, step));
    }

    /// Removes offsets that are too old, by `is_expired` of group, topic and offset. Those of which an open
    /// transaction has another stay.
    pub fn expire(&mut self, is_expired: impl Fn(&str, &str, &CommittedOffset) -> bool, step: &mut Step) {
        let mut doomed = Vec::new();
        for (group, topics) in &self.groups {
            for (topic, partitions) in topics {
                for (partition, kept) in partitions {
                    if is_expired(group, topic, &kept.committed) && !self.is_pending(group, topic, *partition) {
                        doomed.push((group.clone(), topic.clone(), *partition));
                    }
                }
            }
        }
        doomed.iter().for_each(|(group, topic, partition)| self.remove(group, topic, *partition, step));
    }

    /// Whether there was such an offset.
    fn forget(&mut self, group: &str, topic: &str, partition: i32) -> bool {
        let taken = take(&mut self.groups, group, topic, partition);
        self.bytes -= taken.as_ref().map_or(0, |taken| taken.committed.size_bytes(group, topic));
        if taken.is_some() && self.groups.get(group).is_none_or(|topics| !topics.contains_key(topic)) {
            let groups = self.by_topic.get_mut(topic).expect("it is known who has offsets of a topic");
            groups.remove(group);
            if groups.is_empty() {
                self.by_topic.remove(topic);
            }
        }
        let mut found = taken.is_some();
        for producer in self.open.get(group).cloned().into_iter().flatten() {
            let Some(groups) = self.pending.get_mut(&producer) else { continue };
            found |= take(groups, group, topic, partition).is_some();
        }
        found
    }

    /// The producer's transaction has ended: its offsets count, or never were.
    pub fn transaction_ended(&mut self, producer_id: i64, committed: bool) {
        let Some(groups) = self.pending.remove(&producer_id) else { return };
        self.open.retain(|_, producers| {
            producers.remove(&producer_id);
            !producers.is_empty()
        });
        for (group, topics) in groups.into_iter().filter(|_| committed) {
            for (topic, partitions) in topics {
                for (partition, kept) in partitions {
                    self.settle(&group, &topic, partition, kept);
                }
            }
        }
    }

    /// An offset that was committed outside of the transaction, but later, stays.
    fn settle(&mut self, group: &str, topic: &str, partition: i32, kept: Kept) {
        let present = self.groups.get(group).and_then(|topics| topics.get(topic)?.get(&partition));
        if present.is_some_and(|present| present.sequence > kept.sequence) {
            return;
        }
        if let Some(pass) = self.pass.as_mut().filter(|pass| kept.sequence <= pass.before) {
            pass.left.insert((group.to_owned(), topic.to_owned(), partition));
        }
        self.keep(group, topic, partition, kept);
    }

    /// Begins to write all committed offsets anew.
    pub(super) fn begin_pass(&mut self) {
        self.pass = Some(Pass { before: self.sequence, place: None, is_through: false, left: BTreeSet::new() });
    }

    /// Writes some of those that stand before the pass.
    pub(super) fn write_anew(&mut self, piece: &mut Piece, step: &mut Step) -> Progress {
        let mut pass = self.pass.take().expect("a pass has begun");
        if !pass.is_through {
            self.go_through(&mut pass, piece, step);
        }
        if pass.is_through && !piece.is_full() {
            self.write_left(&mut pass, piece, step);
        }
        let progress = match () {
            () if !pass.is_through || piece.is_full() => Progress::More,
            () if planted!(SnapshotLeavesOutPending) => Progress::Whole,
            () if !pass.left.is_empty() || self.has_pending_before(&pass) => Progress::Waits,
            () => Progress::Whole,
        };
        self.pass = (progress != Progress::Whole).then_some(pass);
        progress
    }

    fn go_through(&mut self, pass: &mut Pass, piece: &mut Piece, step: &mut Step) {
        let Offsets { groups, pending, open, sequence, .. } = self;
        let from = pass.place.clone();
        let first = from.as_ref().map_or(Bound::Unbounded, |(group, ..)| Bound::Included(group.as_str()));
        let mut last: Option<(&String, &String, i32)> = None;
        for (group, topics) in groups.range_mut::<str, _>((first, Bound::Unbounded)) {
            let from = from.as_ref().filter(|(of, ..)| of == group);
            let first = from.map_or(Bound::Unbounded, |(_, topic, _)| Bound::Included(topic.as_str()));
            for (topic, partitions) in topics.range_mut::<str, _>((first, Bound::Unbounded)) {
                let from = from.filter(|(_, of, _)| of == topic);
                let first = from.map_or(Bound::Unbounded, |(_, _, partition)| Bound::Excluded(*partition));
                for (partition, kept) in partitions.range_mut((first, Bound::Unbounded)) {
                    if piece.is_full() {
                        let last = last.map(|(group, topic, partition)| (group.clone(), topic.clone(), partition));
                        pass.place = last.or(pass.place.take());
                        return;
                    }
                    piece.look();
                    last = Some((group, topic, *partition));
                    if kept.sequence > pass.before {
                        continue;
                    }
                    if is_pending(open, pending, group, topic, *partition) {
                        pass.left.insert((group.clone(), topic.clone(), *partition));
                        continue;
                    }
                    *sequence += 1;
                    kept.sequence = *sequence;
                    piece.push(step, kept.committed.record(group, topic, *partition));
                }
            }
        }
        pass.is_through = true;
    }

    fn write_left(&mut self, pass: &mut Pass, piece: &mut Piece, step: &mut Step) {
        let Offsets { groups, pending, open, sequence, .. } = self;
        pass.left.retain(|(group, topic, partition)| {
            if piece.is_full() {
                return true;
            }
            piece.look();
            let kept = groups.get_mut(group).and_then(|topics| topics.get_mut(topic)?.get_mut(partition));
            let Some(kept) = kept.filter(|kept| kept.sequence <= pass.before) else { return false };
            if is_pending(open, pending, group, topic, *partition) {
                return true;
            }
            *sequence += 1;
            kept.sequence = *sequence;
            piece.push(step, kept.committed.record(group, topic, *partition));
            false
        });
    }

    fn has_pending_before(&self, pass: &Pass) -> bool {
        let topics = self.pending.values().flat_map(|groups| groups.values().flat_map(BTreeMap::values));
        topics.flat_map(BTreeMap::values).any(|kept| kept.sequence <= pass.before)
    }

    /// Takes a record of the log; gives the group if it now has an offset there.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn replay(
        &mut self,
        record_type: i16,
        producer: Option<Producer>,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<Option<String>, DecodeError> {
        let (group, topic, partition) = if record_type == LegacyOffsetCommitKey::RECORD_TYPE {
            let key: LegacyOffsetCommitKey<'_> = decode_key(key)?;
            (key.group.into_owned(), key.topic.into_owned(), key.partition)
        } else {
            let key: OffsetCommitKey<'_> = decode_key(key)?;
            (key.group.into_owned(), key.topic.into_owned(), key.partition)
        };
        let Some(value) = value else {
            self.forget(&group, &topic, partition);
            return Ok(None);
        };
        let value: OffsetCommitValue<'_> = decode_value(value)?;
        let committed = CommittedOffset {
            offset: value.offset,
            leader_epoch: value.leader_epoch,
            metadata: value.metadata.into_owned(),
            commit_timestamp: value.commit_timestamp,
            expire_timestamp: (value.expire_timestamp >= 0).then_some(value.expire_timestamp),
        };
        self.put(&group, &topic, partition, committed, producer);
        Ok(Some(group))
    }
}

fn key(group: &str, topic: &str, partition: i32) -> bytes::Bytes {
    let key = OffsetCommitKey { group: group.into(), topic: topic.into(), partition };
    encode_key(&key).expect("an offset's names came in a request")
}

/// Puts the group's partitions of these topics among the doomed ones.
fn doom<'o>(doomed: &mut BTreeSet<Place>, group: &str, topics: impl IntoIterator<Item = (&'o String, &'o Partitions)>) {
    for (topic, partitions) in topics {
        doomed.extend(partitions.keys().map(|partition| (group.to_owned(), topic.clone(), *partition)));
    }
}

/// Whether an open transaction has an offset for it.
fn is_pending(
    open: &BTreeMap<String, BTreeSet<i64>>,
    pending: &BTreeMap<i64, BTreeMap<String, ByTopic>>,
    group: &str,
    topic: &str,
    partition: i32,
) -> bool {
    let producers = open.get(group).into_iter().flatten();
    producers
        .filter_map(|producer| pending.get(producer)?.get(group)?.get(topic))
        .any(|partitions| partitions.contains_key(&partition))
}

/// The entry, made if absent, with a copy of the name only then.
fn entry<'m, V: Default>(map: &'m mut BTreeMap<String, V>, name: &str) -> &'m mut V {
    if !map.contains_key(name) {
        map.insert(name.to_owned(), V::default());
    }
    map.get_mut(name).expect("it is there now")
}

/// Takes an offset out, and what it leaves empty.
fn take(groups: &mut BTreeMap<String, ByTopic>, group: &str, topic: &str, partition: i32) -> Option<Kept> {
    let topics = groups.get_mut(group)?;
    let partitions = topics.get_mut(topic)?;
    let taken = partitions.remove(&partition);
    if partitions.is_empty() {
        topics.remove(topic);
    }
    if topics.is_empty() {
        groups.remove(group);
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offset(offset: i64) -> CommittedOffset {
        CommittedOffset {
            offset,
            leader_epoch: 1,
            metadata: "m".to_owned(),
            commit_timestamp: 5,
            expire_timestamp: None,
        }
    }

    fn replayed(records: &[(Option<Producer>, Record)]) -> Offsets {
        let mut offsets = Offsets::default();
        for (producer, record) in records {
            offsets.replay(1, *producer, &record.key, record.value.as_deref()).expect("own records are read");
        }
        offsets
    }

    fn at(offsets: &Offsets, partition: i32) -> Option<i64> {
        match offsets.fetch("g", "t", partition, false) {
            Fetched::Committed(committed) => Some(committed.offset),
            _ => None,
        }
    }

    #[test]
    fn a_transaction_counts_when_it_is_committed_and_a_later_commit_wins() {
        let producer = Some(Producer { id: 7, epoch: 0 });
        let mut offsets = Offsets::default();
        let mut step = Step::default();
        offsets.commit("g", "t", 0, offset(1), None, &mut step);
        offsets.commit("g", "t", 0, offset(2), producer, &mut step);
        offsets.commit("g", "t", 1, offset(3), producer, &mut step);
        assert_eq!((at(&offsets, 0), at(&offsets, 1)), (Some(1), None));
        assert_eq!(offsets.fetch("g", "t", 1, true), Fetched::Unstable);
        offsets.commit("g", "t", 1, offset(4), None, &mut step);
        offsets.transaction_ended(7, true);
        assert_eq!((at(&offsets, 0), at(&offsets, 1)), (Some(2), Some(4)));
        assert!(matches!(offsets.fetch("g", "t", 1, true), Fetched::Committed(_)));

        let mut step = Step::default();
        offsets.commit("g", "t", 2, offset(9), producer, &mut step);
        offsets.transaction_ended(7, false);
        assert_eq!(at(&offsets, 2), None);
    }

    #[test]
    fn a_replay_gives_the_same_state() {
        let producer = Producer { id: 7, epoch: 0 };
        let (mut offsets, mut log) = (Offsets::default(), Vec::new());
        let mut step = Step::default();
        offsets.commit("g", "t", 0, offset(1), None, &mut step);
        offsets.commit("h", "t", 0, CommittedOffset { expire_timestamp: Some(8), ..offset(1) }, None, &mut step);
        log.extend(step.records.drain(..).map(|record| (None, record)));
        offsets.commit("g", "u", 3, offset(5), Some(producer), &mut step);
        log.extend(step.records.drain(..).map(|record| (Some(producer), record)));
        offsets.remove("g", "t", 0, &mut step);
        offsets.remove("g", "absent", 0, &mut step);
        assert_eq!(step.records.len(), 1, "what is not there needs no tombstone");
        log.extend(step.records.drain(..).map(|record| (None, record)));
        let mut again = replayed(&log);
        for offsets in [&mut offsets, &mut again] {
            offsets.transaction_ended(7, true);
            assert!(matches!(offsets.fetch("g", "u", 3, true), Fetched::Committed(_)));
            assert_eq!(offsets.fetch("g", "t", 0, true), Fetched::Nothing);
            let Fetched::Committed(kept) = offsets.fetch("h", "t", 0, false) else { panic!("it is there") };
            assert_eq!((kept.offset, kept.expire_timestamp), (1, Some(8)));
        }
    }

    #[test]
    fn a_removed_group_is_gone_with_its_open_transactions() {
        let mut offsets = Offsets::default();
        let mut step = Step::default();
        offsets.commit("g", "t", 0, offset(1), None, &mut step);
        offsets.commit("g", "t", 0, offset(2), Some(Producer { id: 7, epoch: 0 }), &mut step);
        offsets.commit("h", "t", 0, offset(3), None, &mut step);
        let mut step = Step::default();
        offsets.remove_group("g", &mut step);
        assert_eq!(step.records.len(), 1);
        offsets.transaction_ended(7, true);
        assert!(!offsets.has_any("g") && offsets.has_any("h"));
        offsets.expire(|_, _, committed| committed.offset == 3, &mut step);
        assert!(!offsets.has_any("h"));
        assert!(offsets.topics().is_empty() && offsets.by_topic.is_empty() && offsets.size_bytes() == 0);
    }

    #[test]
    fn a_topic_takes_its_offsets_with_it_and_no_others() {
        let mut offsets = Offsets::default();
        let mut step = Step::default();
        for (group, topic, producer) in [("g", "t", None), ("g", "u", None), ("h", "t", None), ("i", "t", Some(7))] {
            let producer = producer.map(|id| Producer { id, epoch: 0 });
            (0..2).for_each(|partition| offsets.commit(group, topic, partition, offset(1), producer, &mut step));
        }
        assert_eq!(offsets.topics(), ["t", "u"].map(str::to_owned).into());
        let mut step = Step::default();
        offsets.remove_topic("t", &mut step);
        assert_eq!(step.records.len(), 6, "one for each partition of a group");
        assert_eq!(offsets.topics(), ["u".to_owned()].into());
        offsets.remove_topic("t", &mut step);
        assert_eq!(step.records.len(), 6);
        offsets.transaction_ended(7, true);
        assert!(offsets.has_any("g") && !offsets.has_any("h") && !offsets.has_any("i"));
    }
}
