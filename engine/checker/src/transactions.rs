//! I6: what readers are shown of transactions, judged against what was written in them.
//!
//! Values are numbers of records, each appended once, in one transaction, to one partition: a partition is a list, and
//! offsets are the order of its versions. A transaction may also commit an offset for its writer's own place, which
//! counts as one more value. Invariant: a transaction has one fate, and every evidence of it (the answer to its end, a
//! reader that is shown a value or is told that it was aborted, a committed offset) must agree; so it is seen whole or
//! not at all.
//!
//! Circles: an edge leads from T to U if U began when T's commit had been told to somebody (that is real time, and
//! holds the order of each writer), if U read a value that T appended (wr), and, of transactions of one writer, if in
//! one partition T's values stand before U's (ww). All of these say that T was decided before U was; a circle of them
//! is G0 or G1c. There are no ww edges between different writers: Kafka lets their transactions append at the same
//! time and in any order, which would be a G0 if a transaction were a moment. Nor are there rw edges: an end is
//! answered before its markers are written, so that a read that begins later may not show it yet.

use std::collections::{BTreeMap, BTreeSet};

use crate::graph::{Graph, circles};
use crate::{Partition, Rule, Violation};

/// What one answer to a reader of committed records said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// (offset, value) of records that are committed.
    pub shown: Vec<(i64, u64)>,
    /// (offset, value) of records that the answer says were aborted.
    pub hidden: Vec<(i64, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Committed,
    Aborted,
}

struct Transaction {
    writer: u64,
    /// The moment at which it began: which ends had been told by then.
    began: u64,
    /// Its values, and where they go.
    values: Vec<(u64, Partition)>,
    /// The values of others that it was shown.
    read: BTreeSet<u64>,
    /// Whether it commits an offset at its writer's own place; the offset is its number.
    commits_offset: bool,
    commit_sent: bool,
    /// Whether nobody has yet done what could end it.
    surely_open: bool,
    /// What became of it, once somebody was told, and how that was known.
    fate: Option<(Fate, &'static str)>,
}

/// The history of transactions so far.
#[derive(Default)]
pub struct Transactions {
    transactions: BTreeMap<u64, Transaction>,
    /// The transaction of each value.
    writers: BTreeMap<u64, u64>,
    slots: BTreeMap<(Partition, i64), u64>,
    places: BTreeMap<u64, i64>,
    /// First offsets of transactions that are open for sure.
    open: BTreeMap<Partition, BTreeMap<i64, u64>>,
    /// (high watermark, last stable offset): the greatest that anybody was told.
    ends: BTreeMap<Partition, (i64, i64)>,
    /// The greatest offset that was shown at each writer's own place.
    offsets: BTreeMap<u64, u64>,
    /// Ends that were told, in order: moment n is when the first n of them had been.
    told: Vec<u64>,
    /// How many producers of each writer have been acknowledged.
    producers: BTreeMap<u64, u64>,
    /// Records found by the sweep that is under way.
    swept: BTreeSet<u64>,
    violations: Vec<Violation>,
    read: u64,
}

impl Transactions {
    /// A transaction begins; its number is unique, and greater than all before. `may_time_out`: whether the broker
    /// may end it by itself.
    pub fn begin(&mut self, transaction: u64, writer: u64, may_time_out: bool) {
        let begun = Transaction {
            writer,
            began: self.told.len() as u64,
            values: Vec::new(),
            read: BTreeSet::new(),
            commits_offset: false,
            commit_sent: false,
            surely_open: !may_time_out,
            fate: None,
        };
        assert!(self.transactions.insert(transaction, begun).is_none(), "a transaction begins once");
    }

    /// A value of the transaction is about to be sent for the first time.
    pub fn sent(&mut self, transaction: u64, value: u64, partition: Partition) {
        self.get(transaction).values.push((value, partition));
        assert!(self.writers.insert(value, transaction).is_none(), "a value is sent first once");
    }

    /// The transaction is about to commit an offset.
    pub fn offset_sent(&mut self, transaction: u64) {
        self.get(transaction).commits_offset = true;
    }

    /// The value is acknowledged, at this offset.
    pub fn acknowledged(&mut self, value: u64, offset: i64) {
        let transaction = self.writers[&value];
        let partition = self.partition_of(value);
        self.place(partition, offset, value);
        let end = self.ends.entry(partition).or_default();
        end.0 = end.0.max(offset + 1);
        if self.transactions[&transaction].surely_open {
            self.open.entry(partition).or_default().insert(offset, transaction);
        }
    }

    /// Somebody is about to ask for the transaction's end, be it its commit.
    pub fn end_sent(&mut self, transaction: u64, commit: bool) {
        self.get(transaction).commit_sent |= commit;
        self.no_longer_open(transaction);
    }

    /// Its end was acknowledged.
    pub fn ended(&mut self, transaction: u64, commit: bool) {
        let (fate, why) = match commit {
            true => (Fate::Committed, "its commit was acknowledged"),
            false => (Fate::Aborted, "its abort was acknowledged"),
        };
        self.evidence(transaction, fate, why, None);
    }

    /// A new producer of the writer is about to be asked for: that aborts what is open.
    pub fn producer_sent(&mut self, writer: u64) {
        let of_writer = self.transactions.iter().filter(|(_, found)| found.writer == writer && found.surely_open);
        for transaction in of_writer.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.no_longer_open(transaction);
        }
    }

    /// The writer has a new producer; gives its number among them, 1 for the first.
    pub fn producer_given(&mut self, writer: u64) -> u64 {
        let given = self.producers.entry(writer).or_default();
        *given += 1;
        *given
    }

    /// How many producers the writer has been given: a request of an earlier one that is sent now must be refused.
    pub fn producers(&self, writer: u64) -> u64 {
        self.producers.get(&writer).copied().unwrap_or(0)
    }

    /// A request of the `number`th producer of a writer was accepted; `newest` is what [`Transactions::producers`]
    /// gave before it was sent.
    pub fn accepted(&mut self, what: &str, number: u64, newest: u64) {
        if number < newest {
            let what = format!("{what} of producer {number} was accepted, although {newest} of them had been given");
            self.broken(Rule::Fenced, None, what);
        }
    }

    /// The greatest last stable offset that anybody was told.
    pub fn stable(&self, partition: Partition) -> i64 {
        self.ends.get(&partition).map_or(0, |ends| ends.1)
    }

    /// An answer named these ends; `floor` is what [`Transactions::stable`] gave before the request was sent.
    pub fn ends_seen(&mut self, partition: Partition, floor: i64, high_watermark: i64, stable: i64) {
        if stable > high_watermark {
            let what = format!("the last stable offset is past the high watermark {high_watermark}");
            self.break_at(Rule::Unstable, partition, stable, None, what);
        }
        if stable < floor {
            let what = format!("the last stable offset was {floor} before");
            self.break_at(Rule::WentBack, partition, stable, None, what);
        }
        let passed = self.open.get(&partition).and_then(|open| open.first_key_value()).filter(|open| *open.0 < stable);
        if let Some((offset, transaction)) = passed.map(|(offset, transaction)| (*offset, *transaction)) {
            let what = format!("transaction {transaction} is open here, and the last stable offset is {stable}");
            self.break_at(Rule::Unstable, partition, offset, None, what);
        }
        let ends = self.ends.entry(partition).or_default();
        *ends = (ends.0.max(high_watermark), ends.1.max(stable));
    }

    /// A reader of committed records was given these, up to the last stable offset that the same answer named.
    pub fn read_committed(&mut self, partition: Partition, stable: i64, seen: &Seen) {
        self.read += (seen.shown.len() + seen.hidden.len()) as u64;
        let cases = [(&seen.shown, Fate::Committed, "a value of it was shown as committed")].into_iter().chain([(
            &seen.hidden,
            Fate::Aborted,
            "a value of it was shown as aborted",
        )]);
        for (records, fate, why) in cases {
            for (offset, value) in records.iter().copied() {
                if offset >= stable {
                    let what = format!("value {value} is read, and the last stable offset is {stable}");
                    self.break_at(Rule::Unstable, partition, offset, Some(value), what);
                }
                if self.place(partition, offset, value) {
                    self.evidence(self.writers[&value], fate, why, Some((partition, offset, value)));
                }
            }
        }
    }

    /// A reader of everything was given these.
    pub fn read_uncommitted(&mut self, partition: Partition, records: &[(i64, u64)]) {
        self.read += records.len() as u64;
        for (offset, value) in records {
            self.place(partition, *offset, *value);
        }
    }

    /// A transaction was itself shown these values as committed.
    pub fn read_within(&mut self, transaction: u64, seen: &Seen) {
        let read: Vec<u64> = seen.shown.iter().filter_map(|(_, value)| self.writers.get(value).copied()).collect();
        self.get(transaction).read.extend(read);
    }

    /// The greatest offset that anybody was shown at the writer's own place.
    pub fn offset(&self, writer: u64) -> u64 {
        self.offsets.get(&writer).copied().unwrap_or(0)
    }

    /// At a writer's own place this offset was shown; `floor` is what [`Transactions::offset`] gave before.
    pub fn offset_seen(&mut self, writer: u64, floor: u64, offset: u64) {
        let found = self.transactions.get(&offset).filter(|found| found.writer == writer && found.commits_offset);
        if found.is_none() {
            self.broken(Rule::Phantom, None, format!("offset {offset} of writer {writer} was never committed"));
            return;
        }
        if offset < floor {
            self.broken(Rule::Offset, None, format!("offset {offset} of writer {writer} was {floor} before"));
        }
        self.evidence(offset, Fate::Committed, "its offset was shown", None);
        let known = self.offsets.entry(writer).or_default();
        *known = (*known).max(offset);
    }

    /// Something else that no correct broker does.
    pub fn broken(&mut self, rule: Rule, partition: Option<Partition>, what: String) {
        self.violations.push(Violation { rule, partition, offset: -1, value: None, what });
    }

    /// How many transactions are known to be committed and to be aborted, and how many values were read.
    pub fn counts(&self) -> (u64, u64, u64) {
        let count = |fate| {
            let known = self.transactions.values().filter(|found| found.fate.is_some_and(|(known, _)| known == fate));
            known.count() as u64
        };
        (count(Fate::Committed), count(Fate::Aborted), self.read)
    }

    /// Begins a sweep: from now on everything is read once more as committed.
    pub fn begin_sweep(&mut self) {
        self.swept.clear();
    }

    /// A sweep has read every partition to its end, and `offsets` are those shown at the writers' own places (0 for
    /// none): whatever it did not find is lost.
    pub fn end_sweep(&mut self, offsets: &BTreeMap<u64, u64>) {
        let missing: Vec<_> = self.places.iter().filter(|(value, _)| !self.swept.contains(value)).collect();
        let missing: Vec<_> = missing.into_iter().map(|(value, offset)| (*value, *offset)).collect();
        for (value, offset) in missing {
            let what = format!("value {value} was told to be there");
            self.break_at(Rule::Lost, self.partition_of(value), offset, Some(value), what);
        }
        let mut torn = Vec::new();
        for (number, found) in &self.transactions {
            let Some((Fate::Committed, why)) = found.fate else { continue };
            let missing = found.values.iter().find(|(value, _)| !self.swept.contains(value));
            torn.extend(missing.map(|(value, partition)| {
                (Some(*partition), format!("transaction {number}: {why}, but value {value} is not there"))
            }));
            let shown = offsets.get(&found.writer).copied().unwrap_or(0);
            if found.commits_offset && shown < *number {
                let what = format!("transaction {number}: {why}, but the offset shown is {shown}, not its own");
                torn.push((None, what));
            }
        }
        torn.into_iter().for_each(|(partition, what)| self.broken(Rule::Torn, partition, what));
    }

    /// Looks for circles, and gives all that was broken.
    pub fn finish(mut self) -> Vec<Violation> {
        for circle in circles(&self.graph()) {
            let members: Vec<_> = circle.into_iter().filter(|node| node % 2 == 0).map(|node| node / 2).collect();
            let what = format!("transactions {members:?} each depend on the one before");
            self.broken(Rule::Cycle, None, what);
        }
        self.violations
    }

    /// Transactions are even nodes. Odd ones are moments: 2n + 1 stands behind the first n ends that were told.
    fn graph(&self) -> Graph {
        let mut graph = Graph::new();
        let committed = |number: &u64| {
            self.transactions.get(number).is_some_and(|found| matches!(found.fate, Some((Fate::Committed, _))))
        };
        let mut add = |from: u64, to: u64| graph.entry(from).or_default().extend([to]);
        for (index, number) in self.told.iter().enumerate() {
            let moment = 2 * (index as u64 + 1) + 1;
            add(moment - 2, moment);
            if committed(number) {
                add(2 * number, moment);
            }
        }
        for (number, found) in self.transactions.iter().filter(|(number, _)| committed(number)) {
            add(2 * found.began + 1, 2 * number);
            for read in found.read.iter().filter(|read| *read != number && committed(read)) {
                add(2 * read, 2 * number);
            }
        }
        // Slots are in the order of offsets, partition by partition.
        let mut last: BTreeMap<(Partition, u64), u64> = BTreeMap::new();
        for ((partition, _), value) in &self.slots {
            let number = self.writers[value];
            if !committed(&number) {
                continue;
            }
            let before = last.insert((*partition, self.transactions[&number].writer), number);
            if let Some(before) = before.filter(|before| *before != number) {
                add(2 * before, 2 * number);
            }
        }
        graph
    }

    fn get(&mut self, transaction: u64) -> &mut Transaction {
        self.transactions.get_mut(&transaction).expect("a transaction begins first")
    }

    fn partition_of(&self, value: u64) -> Partition {
        let values = &self.transactions[&self.writers[&value]].values;
        values.iter().find(|(sent, _)| *sent == value).expect("a value is its transaction's").1
    }

    fn no_longer_open(&mut self, transaction: u64) {
        if std::mem::replace(&mut self.get(transaction).surely_open, false) {
            for open in self.open.values_mut() {
                open.retain(|_, of| *of != transaction);
            }
        }
    }

    /// Notes that `value` is at `offset`; false if that breaks a rule.
    fn place(&mut self, partition: Partition, offset: i64, value: u64) -> bool {
        if !self.writers.contains_key(&value) || self.partition_of(value) != partition {
            let what = format!("value {value} was never sent here");
            self.break_at(Rule::Phantom, partition, offset, Some(value), what);
            return false;
        }
        let other = *self.places.entry(value).or_insert(offset);
        if other != offset {
            let what = format!("value {value} is at {other} too");
            self.break_at(Rule::Duplicate, partition, offset, Some(value), what);
            return false;
        }
        let holds = *self.slots.entry((partition, offset)).or_insert(value);
        if holds != value {
            let what = format!("value {value} is where value {holds} was");
            self.break_at(Rule::Changed, partition, offset, Some(value), what);
            return false;
        }
        self.swept.insert(value);
        true
    }

    fn evidence(&mut self, transaction: u64, fate: Fate, why: &'static str, at: Option<(Partition, i64, u64)>) {
        let found = self.get(transaction);
        if fate == Fate::Committed && !found.commit_sent {
            let what = format!("transaction {transaction}: {why}, and nobody had asked to commit it");
            self.break_maybe_at(Rule::Dirty, at, what);
            return;
        }
        match found.fate {
            None => {
                found.fate = Some((fate, why));
                self.no_longer_open(transaction);
                self.told.push(transaction);
            }
            Some((known, before)) if known != fate => {
                let what = format!("transaction {transaction}: {why}, but before {before}");
                self.break_maybe_at(Rule::Torn, at, what);
            }
            Some(_) => {}
        }
    }

    fn break_maybe_at(&mut self, rule: Rule, at: Option<(Partition, i64, u64)>, what: String) {
        match at {
            Some((partition, offset, value)) => self.break_at(rule, partition, offset, Some(value), what),
            None => self.broken(rule, None, what),
        }
    }

    fn break_at(&mut self, rule: Rule, partition: Partition, offset: i64, value: Option<u64>, what: String) {
        self.violations.push(Violation { rule, partition: Some(partition), offset, value, what });
    }
}

#[cfg(test)]
mod tests;
