//! Which member of a share group reads which partitions: the assignor `simple` (KIP-932).
//!
//! A pure function of what members may read and of the present targets. Invariants: each partition that anybody may
//! read has a reader, and each member that may read anything reads something. Each member has a partition of its
//! own by the hash of its id; what then has no reader goes round, to those who read it already first.

use std::collections::{BTreeMap, BTreeSet};

use crate::coordinator::group::assignor::Assignment;
use crate::protocol::Uuid;

/// Its name.
pub const NAME: &str = "simple";

type Partition = (Uuid, i32);

/// Everybody's partitions, by what each may read and has until now.
pub fn assign(
    wanted: &BTreeMap<String, Assignment>,
    now: &BTreeMap<String, Assignment>,
) -> BTreeMap<String, Assignment> {
    let readable: BTreeMap<&str, BTreeSet<Partition>> =
        wanted.iter().map(|(id, topics)| (id.as_str(), flat(topics).collect())).collect();
    let all: BTreeSet<Partition> = readable.values().flatten().copied().collect();
    let most_each = all.len().div_ceil(wanted.len().max(1));
    let mut assigned: BTreeMap<&str, BTreeSet<Partition>> = BTreeMap::new();
    let mut read: BTreeSet<Partition> = BTreeSet::new();
    for (id, partitions) in readable.iter().filter(|(_, partitions)| !partitions.is_empty()) {
        let at = java_hash(id).wrapping_rem(partitions.len() as i32).unsigned_abs() as usize;
        let own = *partitions.iter().nth(at).expect("a remainder is within");
        assigned.entry(id).or_default().insert(own);
        read.insert(own);
    }
    let by_hash = read.clone();
    for (id, topics) in now {
        let Some((id, may_read)) = readable.get_key_value(id.as_str()) else { continue };
        for partition in flat(topics).filter(|partition| may_read.contains(partition)) {
            let has = assigned.entry(id).or_default();
            if has.len() < most_each && !by_hash.contains(&partition) {
                has.insert(partition);
                read.insert(partition);
            }
        }
    }
    for partition in all.difference(&read) {
        let readers = readable.iter().filter(|(_, partitions)| partitions.contains(partition)).map(|(id, _)| *id);
        let least = readers.min_by_key(|id| (assigned.get(id).map_or(0, BTreeSet::len), *id));
        let least = least.expect("somebody may read it");
        assigned.entry(least).or_default().insert(*partition);
    }
    let mut of = |id: &str| {
        let mut topics = Assignment::new();
        for (topic, partition) in assigned.remove(id).unwrap_or_default() {
            topics.entry(topic).or_default().insert(partition);
        }
        topics
    };
    wanted.keys().map(|id| (id.clone(), of(id))).collect()
}

fn flat(topics: &Assignment) -> impl Iterator<Item = Partition> + '_ {
    topics.iter().flat_map(|(topic, partitions)| partitions.iter().map(|partition| (*topic, *partition)))
}

/// Java's `String.hashCode`.
fn java_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(counts: &[(u8, i32)]) -> Assignment {
        counts.iter().map(|(topic, count)| (Uuid([*topic; 16]), (0..*count).collect())).collect()
    }

    fn sizes(assigned: &BTreeMap<String, Assignment>) -> Vec<usize> {
        assigned.values().map(|topics| flat(topics).count()).collect()
    }

    fn members(ids: &[&str], topics: &Assignment) -> BTreeMap<String, Assignment> {
        ids.iter().map(|id| ((*id).to_owned(), topics.clone())).collect()
    }

    fn check(wanted: &BTreeMap<String, Assignment>, assigned: &BTreeMap<String, Assignment>) {
        let read: BTreeSet<Partition> = assigned.values().flat_map(flat).collect();
        let all: BTreeSet<Partition> = wanted.values().flat_map(flat).collect();
        assert_eq!(read, all, "each partition has a reader");
        for (id, topics) in assigned {
            let may_read: BTreeSet<Partition> = flat(&wanted[id]).collect();
            assert!(flat(topics).all(|partition| may_read.contains(&partition)), "{id} reads what it may not");
            assert!(may_read.is_empty() || !topics.is_empty(), "{id} reads nothing");
        }
    }

    #[test]
    fn partitions_are_shared_when_there_are_more_members() {
        let wanted = members(&["a", "b", "c", "d"], &topics(&[(1, 2)]));
        let assigned = assign(&wanted, &BTreeMap::new());
        check(&wanted, &assigned);
        assert_eq!(sizes(&assigned), [1, 1, 1, 1]);
    }

    #[test]
    fn what_a_member_has_it_keeps_as_far_as_it_is_its_share() {
        let wanted = members(&["a", "b"], &topics(&[(1, 6)]));
        let first = assign(&wanted, &BTreeMap::new());
        check(&wanted, &first);
        assert_eq!(sizes(&first), [3, 3]);
        assert_eq!(assign(&wanted, &first), first, "nothing moves without a reason");
        let more = members(&["a", "b", "c"], &topics(&[(1, 6)]));
        let second = assign(&more, &first);
        check(&more, &second);
        assert!(sizes(&second).iter().all(|size| *size <= 3), "{second:?}");
        let fewer = members(&["c"], &topics(&[(1, 6)]));
        assert_eq!(sizes(&assign(&fewer, &second)), [6]);
    }

    #[test]
    fn any_subscriptions_are_served() {
        let mut bits = 5u64;
        let mut random = |below: u64| {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (bits >> 33) % below
        };
        let mut now = BTreeMap::new();
        for _ in 0..500 {
            let counts: Vec<(u8, i32)> = (1..=4).map(|topic| (topic, random(5) as i32)).collect();
            let mut wanted = BTreeMap::new();
            for member in 0..random(6) {
                let some: Vec<(u8, i32)> = counts.iter().copied().filter(|_| random(2) == 0).collect();
                let some = some.into_iter().filter(|(_, count)| *count > 0).collect::<Vec<_>>();
                wanted.insert(format!("member-{member}"), topics(&some));
            }
            now = assign(&wanted, &now);
            check(&wanted, &now);
        }
    }
}
