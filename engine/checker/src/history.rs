//! What was sent, acknowledged and read, and what that breaks.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

/// A partition of a topic, by the topic's id: a topic of the same name made later is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Partition {
    /// The topic's id.
    pub topic: [u8; 16],
    /// The partition's number.
    pub number: i32,
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let topic = u32::from_be_bytes([self.topic[0], self.topic[1], self.topic[2], self.topic[3]]);
        write!(f, "{topic:08x}-{}", self.number)
    }
}

/// A promise that was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// I1, and T3: what was acknowledged or read is no longer at its offset.
    Lost,
    /// I2: a value is at two offsets.
    Duplicate,
    /// I3: a value that was never sent to this partition.
    Phantom,
    /// I4, T3: an offset was given to two values.
    Changed,
    /// I4: a read skipped offsets.
    Gap,
    /// I5: a producer's values are not in the order in which it sent them.
    Order,
    /// I5: of an idempotent producer a later value is there and an earlier one is not.
    Hole,
    /// I10: bytes that are not what was sent, or a CORRUPT_MESSAGE where nothing was damaged.
    Corrupt,
    /// I12: an end that somebody had been told went back, or a log start did.
    WentBack,
    /// Something at or behind the end that the same answer named.
    PastEnd,
    /// An idempotent producer's next batch is refused, or an id is given to two producers.
    Producer,
    /// A topic that was acknowledged is gone, or one that was deleted is back.
    Topic,
    /// I11: with all faults over, something is still refused.
    Stuck,
    /// I6: of a transaction one part is there and another is not, or an end was told and the other one happened.
    Torn,
    /// I6: readers of committed records were shown what nobody had asked to commit (G1a, G1b).
    Dirty,
    /// I6: committed transactions depend on each other in a circle (G0, G1c).
    Cycle,
    /// I6: the last stable offset passed an open transaction.
    Unstable,
    /// I6 and I8: who had been fenced was listened to.
    Fenced,
    /// I8: a committed offset that was told went back, or one was told that nobody had committed.
    Offset,
    /// I8: two members own a partition at the same time, or in the same generation.
    Owners,
}

/// A broken promise, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which promise.
    pub rule: Rule,
    /// Where; `None` if it concerns no partition.
    pub partition: Option<Partition>,
    /// The offset that it is about, or −1.
    pub offset: i64,
    /// The value that it is about, if there is one.
    pub value: Option<u64>,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.partition {
            Some(partition) => write!(f, "{:?} at {partition}@{}: {}", self.rule, self.offset, self.what),
            None => write!(f, "{:?}: {}", self.rule, self.what),
        }
    }
}

/// How much was judged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Values sent.
    pub sent: u64,
    /// Values acknowledged, each counted once.
    pub acknowledged: u64,
    /// Values read, each counted as often as it was.
    pub read: u64,
}

/// Values that one producer sent to one partition, in the order in which they must stand there.
struct Stream {
    partition: Partition,
    idempotent: bool,
    /// In the order of their sending.
    values: Vec<Range<u64>>,
}

/// What is known of an offset.
struct Slot {
    value: u64,
    acknowledged: bool,
    /// The newest sweep that found it there.
    sweep: u64,
}

#[derive(Default)]
struct Log {
    slots: BTreeMap<i64, Slot>,
    /// The greatest end, and the greatest start, that anybody was told.
    end: i64,
    start: i64,
    /// Offsets that were answered CORRUPT_MESSAGE.
    damaged: BTreeSet<i64>,
}

#[derive(Default)]
struct Topic {
    delete_sent: bool,
    deleted: bool,
}

/// The history so far. Values are numbers that are unique in it.
#[derive(Default)]
pub struct History {
    logs: BTreeMap<Partition, Log>,
    streams: BTreeMap<u64, Stream>,
    /// Which stream sent a value: by the first of its range, (end, stream).
    senders: BTreeMap<u64, (u64, u64)>,
    /// Where each value is.
    places: BTreeMap<u64, (Partition, i64)>,
    producer_ids: BTreeSet<i64>,
    topics: BTreeMap<[u8; 16], Topic>,
    sweep: u64,
    violations: Vec<Violation>,
    summary: Summary,
}

impl History {
    /// Opens a stream: what one producer sends to one partition, and whose order the log promises to keep.
    /// Of an idempotent stream it also promises that there are no holes. Its number is unique.
    pub fn open_stream(&mut self, stream: u64, partition: Partition, idempotent: bool) {
        let opened = self.streams.insert(stream, Stream { partition, idempotent, values: Vec::new() });
        assert!(opened.is_none(), "a stream is opened once");
    }

    /// A producer is about to send these values for the first time; again is no news.
    pub fn sent(&mut self, stream: u64, values: Range<u64>) {
        self.summary.sent += values.end - values.start;
        self.senders.insert(values.start, (values.end, stream));
        self.streams.get_mut(&stream).expect("a stream is opened first").values.push(values);
    }

    /// The values are acknowledged: the first at `base_offset`, the others behind it.
    pub fn acknowledged(&mut self, partition: Partition, values: Range<u64>, base_offset: i64) {
        for (offset, value) in (base_offset..).zip(values) {
            if self.place(partition, offset, value) {
                let slot = self.log(partition).slots.get_mut(&offset).expect("it was just placed");
                let first = !std::mem::replace(&mut slot.acknowledged, true);
                self.summary.acknowledged += u64::from(first);
            }
            let log = self.log(partition);
            log.end = log.end.max(offset + 1);
        }
    }

    /// A read from `from` on gave these (offset, value): whole batches, of which the first may begin before it.
    /// `end` is the end that the same answer named.
    pub fn read(&mut self, partition: Partition, from: i64, end: i64, records: &[(i64, u64)]) {
        let mut expected = records.first().map_or(from, |first| first.0.min(from));
        for &(offset, value) in records {
            if offset != expected {
                self.break_rule(Rule::Gap, partition, offset, format!("a read from {from} skips from {expected}"));
            }
            if offset >= end {
                self.break_rule(Rule::PastEnd, partition, offset, format!("read, but the end is {end}"));
            }
            expected = offset + 1;
            self.summary.read += 1;
            if self.place(partition, offset, value) {
                let sweep = self.sweep;
                self.log(partition).slots.get_mut(&offset).expect("it was just placed").sweep = sweep;
            }
        }
        let log = self.log(partition);
        log.end = log.end.max(expected);
    }

    /// A read found bytes that no producer sent.
    pub fn read_garbage(&mut self, partition: Partition, offset: i64, what: String) {
        self.break_rule(Rule::Corrupt, partition, offset, what);
    }

    /// A read at this offset was answered CORRUPT_MESSAGE: fine only where something was damaged.
    pub fn read_damaged(&mut self, partition: Partition, offset: i64) {
        if self.log(partition).damaged.insert(offset) {
            let value = self.log(partition).slots.get(&offset).map(|slot| slot.value);
            self.violations.push(Violation {
                rule: Rule::Corrupt,
                partition: Some(partition),
                offset,
                value,
                what: "answered CORRUPT_MESSAGE".to_owned(),
            });
        }
    }

    /// The greatest end that anybody was told: whoever asks from now on must be told no less.
    pub fn end(&self, partition: Partition) -> i64 {
        self.logs.get(&partition).map_or(0, |log| log.end)
    }

    /// An answer named this end; `floor` is what [`History::end`] gave before the request was sent.
    pub fn end_seen(&mut self, partition: Partition, floor: i64, end: i64) {
        if end < floor {
            self.break_rule(Rule::WentBack, partition, end, format!("the end was {floor} before"));
        }
        let log = self.log(partition);
        log.end = log.end.max(end);
    }

    /// The greatest log start that anybody was told.
    pub fn start(&self, partition: Partition) -> i64 {
        self.logs.get(&partition).map_or(0, |log| log.start)
    }

    /// As [`History::end_seen`], for the log's start.
    pub fn start_seen(&mut self, partition: Partition, floor: i64, start: i64) {
        if start < floor {
            self.break_rule(Rule::WentBack, partition, start, format!("the log start was {floor} before"));
        }
        let log = self.log(partition);
        log.start = log.start.max(start);
    }

    /// A producer was given this id.
    pub fn producer_id(&mut self, id: i64) {
        if !self.producer_ids.insert(id) {
            self.break_general(Rule::Producer, format!("producer id {id} was given out twice"));
        }
    }

    /// A topic was seen, or its making acknowledged. `deleted_before` is what [`History::is_deleted`] gave
    /// before the request was sent.
    pub fn topic_seen(&mut self, topic: [u8; 16], deleted_before: bool) {
        self.topics.entry(topic).or_default();
        if deleted_before {
            self.break_general(Rule::Topic, format!("topic {} is back", name(topic)));
        }
    }

    /// A topic's deletion is about to be asked for.
    pub fn topic_delete_sent(&mut self, topic: [u8; 16]) {
        self.topics.entry(topic).or_default().delete_sent = true;
    }

    /// A topic's deletion was acknowledged.
    pub fn topic_deleted(&mut self, topic: [u8; 16]) {
        self.topics.entry(topic).or_default().deleted = true;
    }

    /// Whether the topic's deletion was acknowledged.
    pub fn is_deleted(&self, topic: [u8; 16]) -> bool {
        self.topics.get(&topic).is_some_and(|topic| topic.deleted)
    }

    /// Whether the topic's deletion was asked for: from then on it may be gone.
    pub fn is_delete_sent(&self, topic: [u8; 16]) -> bool {
        self.topics.get(&topic).is_some_and(|topic| topic.delete_sent)
    }

    /// Something else that no correct broker does.
    pub fn broken(&mut self, rule: Rule, partition: Option<Partition>, what: String) {
        self.violations.push(Violation { rule, partition, offset: -1, value: None, what });
    }

    /// How much was judged so far.
    pub fn summary(&self) -> Summary {
        self.summary
    }

    /// Begins a sweep: from now on everything is read once more.
    pub fn begin_sweep(&mut self) {
        self.sweep += 1;
    }

    /// A sweep has read every partition of the topics that there are: whatever it did not find is lost.
    pub fn end_sweep(&mut self, topics: &BTreeSet<[u8; 16]>) {
        let mut lost = Vec::new();
        for (partition, log) in self.logs.iter().filter(|(partition, _)| topics.contains(&partition.topic)) {
            let missing = log.slots.iter().filter(|(_, slot)| slot.sweep != self.sweep);
            lost.extend(missing.map(|(offset, slot)| {
                let told = if slot.acknowledged { "acknowledged" } else { "read" };
                let what = match log.damaged.contains(offset) {
                    true => format!("value {} was {told}; its offset answers CORRUPT_MESSAGE", slot.value),
                    false => format!("value {} was {told}", slot.value),
                };
                Violation {
                    rule: Rule::Lost,
                    partition: Some(*partition),
                    offset: *offset,
                    value: Some(slot.value),
                    what,
                }
            }));
        }
        self.violations.extend(lost);
        let known: Vec<_> = self.topics.iter().map(|(id, topic)| (*id, topic.delete_sent, topic.deleted)).collect();
        for (id, delete_sent, deleted) in known {
            match topics.contains(&id) {
                false if !delete_sent => self.break_general(Rule::Topic, format!("topic {} is gone", name(id))),
                true if deleted => self.break_general(Rule::Topic, format!("topic {} is back", name(id))),
                _ => {}
            }
        }
    }

    /// Judges order and holes, and gives all that was broken.
    pub fn finish(mut self) -> (Summary, Vec<Violation>) {
        let streams = std::mem::take(&mut self.streams);
        for stream in streams.values() {
            self.judge_stream(stream);
        }
        (self.summary, self.violations)
    }

    fn judge_stream(&mut self, stream: &Stream) {
        let mut last = -1;
        let mut missing: Option<u64> = None;
        for value in stream.values.iter().cloned().flatten() {
            let Some((_, offset)) = self.places.get(&value).copied() else {
                missing = missing.or(Some(value));
                continue;
            };
            if offset <= last {
                let what = format!("value {value} stands before one that was sent earlier, at {last}");
                self.break_rule(Rule::Order, stream.partition, offset, what);
            }
            if let Some(missing) = missing.filter(|_| stream.idempotent) {
                let what = format!("value {value} is there, but not {missing} of the same producer before it");
                self.break_rule(Rule::Hole, stream.partition, offset, what);
                return;
            }
            last = last.max(offset);
        }
    }

    /// Notes that `value` is at `offset`; false if that breaks a rule.
    fn place(&mut self, partition: Partition, offset: i64, value: u64) -> bool {
        let sender = self.senders.range(..=value).next_back().filter(|(_, (end, _))| value < *end);
        let stream = sender.and_then(|(_, (_, stream))| self.streams.get(stream));
        if stream.is_none_or(|stream| stream.partition != partition) {
            self.break_value(Rule::Phantom, partition, offset, value, "was never sent here".to_owned());
            return false;
        }
        let known = self.places.get(&value).copied();
        if let Some((_, other)) = known.filter(|(_, other)| *other != offset) {
            self.break_value(Rule::Duplicate, partition, offset, value, format!("is at {other} too"));
            return false;
        }
        let sweep = self.sweep;
        let log = self.log(partition);
        let slot = log.slots.entry(offset).or_insert(Slot { value, acknowledged: false, sweep });
        let (holds, was_damaged) = (slot.value, log.damaged.contains(&offset));
        if holds != value {
            self.break_value(Rule::Changed, partition, offset, value, format!("is where value {holds} was"));
            return false;
        }
        if was_damaged {
            self.break_value(Rule::Changed, partition, offset, value, "is where CORRUPT_MESSAGE was".to_owned());
        }
        self.places.insert(value, (partition, offset));
        true
    }

    fn log(&mut self, partition: Partition) -> &mut Log {
        self.logs.entry(partition).or_default()
    }

    fn break_rule(&mut self, rule: Rule, partition: Partition, offset: i64, what: String) {
        self.violations.push(Violation { rule, partition: Some(partition), offset, value: None, what });
    }

    fn break_value(&mut self, rule: Rule, partition: Partition, offset: i64, value: u64, what: String) {
        let what = format!("value {value} {what}");
        self.violations.push(Violation { rule, partition: Some(partition), offset, value: Some(value), what });
    }

    fn break_general(&mut self, rule: Rule, what: String) {
        self.broken(rule, None, what);
    }
}

fn name(topic: [u8; 16]) -> String {
    format!("{:08x}", u32::from_be_bytes([topic[0], topic[1], topic[2], topic[3]]))
}

#[cfg(test)]
mod tests;
