//! I8: what consumer groups promise of committed offsets and of who owns a partition.
//!
//! It holds for groups whose members commit growing positions, begin where the group's committed offset is after they
//! were assigned a partition, and do not commit again after a commit whose answer they lack: then an offset that was
//! acknowledged or shown to anybody is never followed by a smaller one. Invariant: whatever could be over by the time
//! that an answer arrives (a session whose last heartbeat is too old) is not held against the broker.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Partition, Rule, Violation};

/// A partition as a group sees it.
type Place = (String, Partition);

#[derive(Default)]
struct Offset {
    sent: BTreeSet<i64>,
    /// The greatest that was acknowledged, or that anybody was shown; −1 for none.
    told: Option<i64>,
}

/// A member's hold on a partition.
struct Hold {
    /// When it was told of it.
    since: u64,
    /// When its session may be over, as far as it knows.
    until: u64,
}

/// The history of groups so far.
#[derive(Default)]
pub struct Groups {
    offsets: BTreeMap<Place, Offset>,
    /// What members of each generation were assigned.
    generations: BTreeMap<(String, i32), BTreeMap<Partition, String>>,
    newest: BTreeMap<String, i32>,
    holds: BTreeMap<Place, BTreeMap<String, Hold>>,
    /// (offsets acknowledged, offsets shown, assignments told).
    counts: (u64, u64, u64),
    violations: Vec<Violation>,
}

impl Groups {
    /// A member is about to commit this offset.
    pub fn commit_sent(&mut self, group: &str, partition: Partition, offset: i64) {
        self.offset(group, partition).sent.insert(offset);
    }

    /// A commit was acknowledged.
    pub fn commit_acknowledged(&mut self, group: &str, partition: Partition, offset: i64) {
        self.counts.0 += 1;
        let known = self.offset(group, partition);
        known.told = known.told.max(Some(offset));
    }

    /// The greatest offset that anybody was told, −1 for none: whoever asks from now on must be shown no less.
    pub fn told(&self, group: &str, partition: Partition) -> i64 {
        self.offsets.get(&(group.to_owned(), partition)).and_then(|known| known.told).unwrap_or(-1)
    }

    /// A committed offset was shown, −1 for none; `floor` is what [`Groups::told`] gave before the request was sent.
    pub fn shown(&mut self, group: &str, partition: Partition, floor: i64, offset: i64) {
        self.counts.1 += 1;
        if offset < floor {
            let what = format!("group {group} is shown {offset}, and {floor} was told before");
            self.break_at(Rule::Offset, partition, offset, what);
        }
        let known = self.offset(group, partition);
        let was_sent = offset < 0 || known.sent.contains(&offset);
        known.told = known.told.max(Some(offset).filter(|offset| *offset >= 0));
        if !was_sent {
            let what = format!("group {group} is shown {offset}, which nobody has committed");
            self.break_at(Rule::Offset, partition, offset, what);
        }
    }

    /// The partition ends here: no offset that anybody was told may be past that.
    pub fn end_is(&mut self, partition: Partition, end: i64) {
        let past: Vec<_> = self
            .offsets
            .iter()
            .filter(|((_, of), known)| *of == partition && known.told.is_some_and(|told| told > end))
            .map(|((group, _), known)| (group.clone(), known.told.unwrap_or(-1)))
            .collect();
        for (group, offset) in past {
            self.break_at(
                Rule::PastEnd,
                partition,
                offset,
                format!("group {group} committed it, but the end is {end}"),
            );
        }
    }

    /// A member was told what is its own in a generation.
    pub fn synced(&mut self, group: &str, generation: i32, member: &str, partitions: &[Partition]) {
        self.counts.2 += 1;
        let newest = self.newest.entry(group.to_owned()).or_insert(generation);
        *newest = (*newest).max(generation);
        for partition in partitions {
            let owners = self.generations.entry((group.to_owned(), generation)).or_default();
            let owner = owners.entry(*partition).or_insert_with(|| member.to_owned()).clone();
            if owner != member {
                let what = format!("{owner} and {member} own it in generation {generation} of {group}");
                self.break_at(Rule::Owners, *partition, -1, what);
            }
        }
    }

    /// The newest generation of which a member was told its assignment: requests of an earlier one that are sent now
    /// must be refused.
    pub fn newest(&self, group: &str) -> i32 {
        self.newest.get(group).copied().unwrap_or(-1)
    }

    /// A commit of a generation, or of a member's epoch, was accepted; `newest` is the newest one before it was sent:
    /// [`Groups::newest`], or what the member itself had been told.
    pub fn accepted(&mut self, group: &str, partition: Partition, generation: i32, newest: i32) {
        if generation < newest {
            let what = format!("{group} accepts a commit of {generation}, although {newest} had begun");
            self.break_at(Rule::Fenced, partition, -1, what);
        }
    }

    /// A member of a KIP-848 group was told at `now` that these are its own, all of them, by the answer to a
    /// heartbeat; its session lasts until `until` at least. Times are of one monotonic clock, in any unit.
    pub fn owns(&mut self, group: &str, member: &str, partitions: &BTreeSet<Partition>, now: u64, until: u64) {
        self.counts.2 += 1;
        self.gives_up(group, member, |partition| !partitions.contains(&partition));
        for partition in partitions {
            let holds = self.holds.entry((group.to_owned(), *partition)).or_default();
            let mine = holds.entry(member.to_owned()).or_insert(Hold { since: now, until });
            mine.until = mine.until.max(until);
            let is_sure = |hold: &Hold| hold.since <= now && now < hold.until;
            let other = holds.iter().find(|(other, hold)| *other != member && is_sure(hold));
            if let Some(other) = other.map(|(other, _)| other.clone()).filter(|_| now < until) {
                let what = format!("{other} and {member} of {group} own it at the same time");
                self.break_at(Rule::Owners, *partition, -1, what);
            }
        }
    }

    /// The member is about to say that it has no more of those that `which` names.
    pub fn gives_up(&mut self, group: &str, member: &str, which: impl Fn(Partition) -> bool) {
        for ((of, partition), holds) in &mut self.holds {
            if of == group && which(*partition) {
                holds.remove(member);
            }
        }
    }

    /// The member is about to leave, or cannot know any more what the coordinator holds it for.
    pub fn leaves(&mut self, group: &str, member: &str) {
        self.gives_up(group, member, |_| true);
    }

    /// Something else that no correct coordinator does.
    pub fn broken(&mut self, rule: Rule, what: String) {
        self.violations.push(Violation { rule, partition: None, offset: -1, value: None, what });
    }

    /// How many commits were acknowledged, offsets shown and assignments told.
    pub fn counts(&self) -> (u64, u64, u64) {
        self.counts
    }

    /// Gives all that was broken.
    pub fn finish(self) -> Vec<Violation> {
        self.violations
    }

    fn offset(&mut self, group: &str, partition: Partition) -> &mut Offset {
        self.offsets.entry((group.to_owned(), partition)).or_default()
    }

    fn break_at(&mut self, rule: Rule, partition: Partition, offset: i64, what: String) {
        self.violations.push(Violation { rule, partition: Some(partition), offset, value: None, what });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: Partition = Partition { topic: [1; 16], number: 0 };
    const Q: Partition = Partition { topic: [1; 16], number: 1 };

    fn broken_by(tell: impl FnOnce(&mut Groups)) -> Vec<Rule> {
        let mut groups = Groups::default();
        tell(&mut groups);
        groups.finish().into_iter().map(|violation| violation.rule).collect()
    }

    fn commit(groups: &mut Groups, offset: i64) {
        groups.commit_sent("g", P, offset);
        groups.commit_acknowledged("g", P, offset);
    }

    #[test]
    fn offsets_that_were_told_do_not_go_back() {
        let grows = |groups: &mut Groups| {
            groups.shown("g", P, groups.told("g", P), -1);
            commit(groups, 4);
            let floor = groups.told("g", P);
            groups.commit_sent("g", P, 6);
            groups.shown("g", P, floor, 4);
            groups.shown("g", P, floor, 6);
            groups.end_is(P, 6);
        };
        assert_eq!(broken_by(grows), []);
        let lost = |groups: &mut Groups| {
            commit(groups, 4);
            groups.shown("g", P, groups.told("g", P), -1);
        };
        assert_eq!(broken_by(lost), [Rule::Offset]);
        // Shown, although never acknowledged, and then no more.
        let vanished = |groups: &mut Groups| {
            commit(groups, 4);
            groups.commit_sent("g", P, 6);
            groups.shown("g", P, groups.told("g", P), 6);
            groups.shown("g", P, groups.told("g", P), 4);
        };
        assert_eq!(broken_by(vanished), [Rule::Offset]);
        assert_eq!(broken_by(|groups| groups.shown("g", P, -1, 3)), [Rule::Offset]);
        let past = |groups: &mut Groups| {
            commit(groups, 4);
            groups.end_is(P, 3);
        };
        assert_eq!(broken_by(past), [Rule::PastEnd]);
    }

    #[test]
    fn a_generation_has_one_owner_of_a_partition() {
        let moves = |groups: &mut Groups| {
            groups.synced("g", 1, "a", &[P]);
            groups.synced("g", 1, "b", &[Q]);
            groups.synced("g", 1, "a", &[P]);
            groups.synced("g", 2, "b", &[P, Q]);
            groups.synced("other", 1, "c", &[P]);
        };
        assert_eq!(broken_by(moves), []);
        let both = |groups: &mut Groups| {
            groups.synced("g", 1, "a", &[P]);
            groups.synced("g", 1, "b", &[P, Q]);
        };
        assert_eq!(broken_by(both), [Rule::Owners]);
    }

    #[test]
    fn a_generation_that_is_over_does_not_commit() {
        let tell = |newest_when_sent: fn(&Groups) -> i32| {
            broken_by(|groups| {
                groups.synced("g", 1, "a", &[P]);
                let before = newest_when_sent(groups);
                groups.synced("g", 2, "b", &[P]);
                let newest = if before > 0 { before } else { groups.newest("g") };
                groups.accepted("g", P, 1, newest);
            })
        };
        assert_eq!(tell(|groups| groups.newest("g")), []);
        assert_eq!(tell(|_| 0), [Rule::Fenced]);
    }

    #[test]
    fn two_sessions_that_last_do_not_own_the_same() {
        let set = |partitions: &[Partition]| partitions.iter().copied().collect::<BTreeSet<_>>();
        let tell = |between: fn(&mut Groups), now: u64| {
            broken_by(|groups| {
                groups.owns("g", "a", &set(&[P, Q]), 10, 100);
                between(groups);
                groups.owns("g", "b", &set(&[P]), now, now + 50);
            })
        };
        assert_eq!(tell(|_| {}, 50), [Rule::Owners]);
        assert_eq!(tell(|_| {}, 100), []);
        assert_eq!(tell(|groups| groups.gives_up("g", "a", |partition| partition == P), 50), []);
        assert_eq!(tell(|groups| groups.gives_up("g", "a", |partition| partition == Q), 50), [Rule::Owners]);
        assert_eq!(tell(|groups| groups.leaves("g", "a"), 50), []);
        assert_eq!(tell(|groups| groups.owns("g", "a", &BTreeSet::from([Q]), 20, 100), 50), []);
        // An answer that comes after its member's session may be over says nothing.
        let late = broken_by(|groups| {
            groups.owns("g", "a", &set(&[P]), 10, 100);
            groups.owns("g", "b", &set(&[P]), 50, 40);
        });
        assert_eq!(late, []);
    }
}
