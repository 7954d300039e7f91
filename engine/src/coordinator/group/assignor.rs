//! Which member of a consumer group gets which partitions: the assignors that run on the broker (KIP-848).
//!
//! Pure functions of the members' subscriptions, the topics, and the present targets. Invariant: every
//! partition of a topic that anybody has subscribed to goes to exactly one of its subscribers.

use std::collections::{BTreeMap, BTreeSet};

use crate::coordinator::Topics;
use crate::protocol::Uuid;

/// Partitions by topic id; no topic without partitions.
pub type Assignment = BTreeMap<Uuid, BTreeSet<i32>>;

/// An assignor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Assignor {
    /// Each member gets as many partitions as any other, and keeps what it has as far as that allows.
    Uniform,
    /// Each topic is cut into ranges, in the order of the members, so that equal partitions of topics meet.
    Range,
}

impl Assignor {
    /// The assignor of that name.
    pub fn from_name(name: &str) -> Option<Assignor> {
        match name {
            "uniform" => Some(Assignor::Uniform),
            "range" => Some(Assignor::Range),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Assignor::Uniform => "uniform",
            Assignor::Range => "range",
        }
    }

    /// Everybody's partitions.
    pub fn assign(self, members: &BTreeMap<String, Subscriber>, topics: &Topics) -> BTreeMap<String, Assignment> {
        let mut subscribed: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (id, member) in members {
            for topic in &member.topics {
                subscribed.entry(topic).or_default().push(id);
            }
        }
        // Topics that do not exist (yet) have nothing to assign.
        let known: Vec<TopicToAssign<'_>> = subscribed
            .into_iter()
            .filter_map(|(name, members)| {
                let topic = topics.get(name)?;
                Some(TopicToAssign { id: topic.id, partitions: topic.partitions, members })
            })
            .collect();
        match self {
            Assignor::Uniform => uniform(members, known),
            Assignor::Range => range(members, &known),
        }
    }
}

/// A member as assignors see it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subscriber {
    /// Its instance id, if it is static.
    pub instance_id: Option<String>,
    /// The topics that it reads.
    pub topics: BTreeSet<String>,
    /// What it was to have until now.
    pub target: Assignment,
}

struct TopicToAssign<'a> {
    id: Uuid,
    partitions: i32,
    /// Its subscribers, by id.
    members: Vec<&'a str>,
}

fn range(members: &BTreeMap<String, Subscriber>, topics: &[TopicToAssign<'_>]) -> BTreeMap<String, Assignment> {
    let mut assigned: BTreeMap<String, Assignment> = members.keys().map(|id| (id.clone(), Assignment::new())).collect();
    for topic in topics {
        let mut order = topic.members.clone();
        // Static members first, by instance, so that a restart changes nothing.
        order.sort_by_key(|id| {
            let instance = members[*id].instance_id.as_deref();
            (instance.is_none(), instance.unwrap_or(id))
        });
        let count = i32::try_from(order.len()).unwrap_or(i32::MAX);
        let (each, extra) = (topic.partitions / count, topic.partitions % count);
        let mut next = 0;
        for (place, id) in (0..).zip(order) {
            let end = next + each + i32::from(place < extra);
            if end > next {
                assigned.get_mut(id).expect("a subscriber is a member").insert(topic.id, (next..end).collect());
            }
            next = end;
        }
    }
    assigned
}

/// What everybody has so far, and how much.
struct Draft<'a> {
    assigned: BTreeMap<&'a str, Assignment>,
    load: BTreeMap<&'a str, usize>,
}

impl<'a> Draft<'a> {
    fn give(&mut self, member: &'a str, topic: Uuid, partition: i32) {
        self.assigned.entry(member).or_default().entry(topic).or_default().insert(partition);
        *self.load.entry(member).or_default() += 1;
    }

    /// Takes any partition of the topic; the highest.
    fn take(&mut self, member: &'a str, topic: Uuid) -> Option<i32> {
        let topics = self.assigned.get_mut(member)?;
        let partitions = topics.get_mut(&topic)?;
        let partition = partitions.pop_last()?;
        if partitions.is_empty() {
            topics.remove(&topic);
        }
        *self.load.get_mut(member).expect("who has partitions has a load") -= 1;
        Some(partition)
    }

    fn load(&self, member: &str) -> usize {
        self.load.get(member).copied().unwrap_or(0)
    }
}

/// Keeps what fits, gives out the rest to whoever has least, and then evens out. Loads end up no further apart
/// than subscriptions force them to: with equal subscriptions by one at most.
fn uniform(members: &BTreeMap<String, Subscriber>, mut topics: Vec<TopicToAssign<'_>>) -> BTreeMap<String, Assignment> {
    // Topics with few subscribers first: they leave the least choice.
    topics.sort_by_key(|topic| topic.members.len());
    let mut draft = Draft { assigned: BTreeMap::new(), load: BTreeMap::new() };
    let mut left: Vec<(usize, i32)> = Vec::new();
    for (index, topic) in topics.iter().enumerate() {
        let mut free: BTreeSet<i32> = (0..topic.partitions).collect();
        for id in &topic.members {
            for partition in members[*id].target.get(&topic.id).into_iter().flatten() {
                if free.remove(partition) {
                    draft.give(id, topic.id, *partition);
                }
            }
        }
        left.extend(free.into_iter().map(|partition| (index, partition)));
    }
    give_out(&mut draft, &topics, left);
    even_out(&mut draft, &topics);
    members.keys().map(|id| (id.clone(), draft.assigned.remove(id.as_str()).unwrap_or_default())).collect()
}

fn give_out<'a>(draft: &mut Draft<'a>, topics: &[TopicToAssign<'a>], left: Vec<(usize, i32)>) {
    // Per topic, its subscribers by load; entries are renewed when they prove out of date.
    let mut queue: BTreeSet<(usize, &'a str)> = BTreeSet::new();
    let mut current = usize::MAX;
    for (index, partition) in left {
        if index != current {
            current = index;
            queue = topics[index].members.iter().map(|id| (draft.load(id), *id)).collect();
        }
        let (_, id) = queue.pop_first().expect("a topic to assign has subscribers");
        draft.give(id, topics[index].id, partition);
        queue.insert((draft.load(id), id));
    }
}

/// Moves partitions from who has most to who has least, topic by topic, until no move helps.
fn even_out<'a>(draft: &mut Draft<'a>, topics: &[TopicToAssign<'a>]) {
    loop {
        let mut moved = false;
        for topic in topics {
            moved |= even_out_topic(draft, topic);
        }
        if !moved {
            return;
        }
    }
}

/// Each move makes the sum of the loads' squares smaller, so that it ends.
fn even_out_topic<'a>(draft: &mut Draft<'a>, topic: &TopicToAssign<'a>) -> bool {
    let has = |draft: &Draft<'a>, id: &str| draft.assigned.get(id).is_some_and(|all| all.contains_key(&topic.id));
    let mut all: BTreeSet<(usize, &'a str)> = topic.members.iter().map(|id| (draft.load(id), *id)).collect();
    let mut owners: BTreeSet<(usize, &'a str)> = all.iter().copied().filter(|(_, id)| has(draft, id)).collect();
    let mut moved = false;
    while let (Some(&(least, to)), Some(&(most, from))) = (all.first(), owners.last()) {
        if most < least + 2 {
            break;
        }
        let partition = draft.take(from, topic.id).expect("an owner has one");
        draft.give(to, topic.id, partition);
        moved = true;
        all.remove(&(least, to));
        all.remove(&(most, from));
        owners.remove(&(least, to));
        owners.remove(&(most, from));
        all.insert((least + 1, to));
        all.insert((most - 1, from));
        owners.insert((least + 1, to));
        if has(draft, from) {
            owners.insert((most - 1, from));
        }
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordinator::TopicInfo;

    fn topics(partitions: &[i32]) -> Topics {
        Topics::new(
            (1u8..)
                .zip(partitions)
                .map(|(id, partitions)| (format!("t{id}"), TopicInfo { id: Uuid([id; 16]), partitions: *partitions })),
        )
    }

    fn subscriber(topics: &[u8]) -> Subscriber {
        Subscriber { topics: topics.iter().map(|id| format!("t{id}")).collect(), ..Default::default() }
    }

    fn sizes(assigned: &BTreeMap<String, Assignment>) -> Vec<usize> {
        assigned.values().map(|all| all.values().map(BTreeSet::len).sum()).collect()
    }

    /// Each partition has one owner, who has subscribed to it.
    fn check(members: &BTreeMap<String, Subscriber>, topics: &Topics, assigned: &BTreeMap<String, Assignment>) {
        let mut owned = BTreeSet::new();
        for (id, all) in assigned {
            for (topic, partitions) in all {
                let name = topics.name(*topic).expect("a topic that exists");
                assert!(members[id].topics.contains(name), "{id} did not ask for {name}");
                assert!(!partitions.is_empty());
                assert!(partitions.iter().all(|partition| owned.insert((*topic, *partition))), "one owner each");
            }
        }
        let wanted: BTreeSet<&str> = members.values().flat_map(|member| &member.topics).map(String::as_str).collect();
        let all: usize = wanted.iter().filter_map(|name| topics.get(name)).map(|topic| topic.partitions as usize).sum();
        assert_eq!(owned.len(), all, "nothing is left over");
    }

    #[test]
    fn range_cuts_each_topic_in_the_order_of_the_members() {
        let topics = topics(&[5, 2]);
        let mut members: BTreeMap<String, Subscriber> =
            ["a", "b", "c"].map(|id| (id.to_owned(), subscriber(&[1, 2]))).into();
        let assigned = Assignor::Range.assign(&members, &topics);
        check(&members, &topics, &assigned);
        assert_eq!(sizes(&assigned), [3, 3, 1]);
        assert_eq!(assigned["b"][&Uuid([1; 16])], [2, 3].into());
        assert_eq!(assigned["b"][&Uuid([2; 16])], [1].into());
        members.get_mut("c").expect("c").instance_id = Some("i".to_owned());
        assert_eq!(Assignor::Range.assign(&members, &topics)["c"][&Uuid([1; 16])], [0, 1].into());
    }

    #[test]
    fn uniform_moves_no_more_than_it_must() {
        let topics = topics(&[6, 6]);
        let mut members: BTreeMap<String, Subscriber> =
            ["a", "b"].map(|id| (id.to_owned(), subscriber(&[1, 2]))).into();
        let keep = |members: &mut BTreeMap<String, Subscriber>, assigned: &BTreeMap<String, Assignment>| {
            members.iter_mut().for_each(|(id, member)| member.target = assigned[id].clone());
        };
        let two = Assignor::Uniform.assign(&members, &topics);
        check(&members, &topics, &two);
        assert_eq!(sizes(&two), [6, 6]);
        keep(&mut members, &two);
        members.insert("c".to_owned(), subscriber(&[1, 2]));
        let three = Assignor::Uniform.assign(&members, &topics);
        check(&members, &topics, &three);
        assert_eq!(sizes(&three), [4, 4, 4]);
        for id in ["a", "b"] {
            let kept = three[id].iter().all(|(topic, all)| all.is_subset(&two[id][topic]));
            assert!(kept, "{id} keeps four of its six and gets nothing else");
        }
        keep(&mut members, &three);
        members.remove("a");
        let again = Assignor::Uniform.assign(&members, &topics);
        check(&members, &topics, &again);
        assert!(three["b"].iter().all(|(topic, all)| all.is_subset(&again["b"][topic])), "b only gains");
        assert_eq!(sizes(&again), [6, 6]);
    }

    #[test]
    fn any_subscriptions_are_assigned_whole_and_fairly() {
        let mut bits = 7u64;
        let mut random = |below: u64| {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (bits >> 33) % below
        };
        for _ in 0..500 {
            let counts: Vec<i32> = (0..1 + random(4)).map(|_| random(9) as i32).collect();
            let topics = topics(&counts);
            let equal = random(2) == 0;
            let mut members = BTreeMap::new();
            for member in 0..1 + random(6) {
                let chosen: Vec<u8> =
                    (1..=5u8).filter(|id| if equal { *id < 4 } else { random(2) == 0 || *id == 1 }).collect();
                members.insert(format!("m{member}"), subscriber(&chosen));
            }
            for assignor in [Assignor::Uniform, Assignor::Range] {
                let assigned = assignor.assign(&members, &topics);
                check(&members, &topics, &assigned);
                if assignor == Assignor::Uniform && equal {
                    let sizes = sizes(&assigned);
                    let most = sizes.iter().max().expect("members");
                    assert!(most - sizes.iter().min().expect("members") <= 1, "{sizes:?}");
                }
                // Targets that are out of date in every way do no harm.
                let keys: Vec<String> = members.keys().cloned().collect();
                for (id, other) in keys.iter().zip(keys.iter().rev()) {
                    members.get_mut(id).expect("a member").target = assigned[other].clone();
                }
            }
        }
    }
}
