//! A member's way from what it has to what it is to have (KIP-848).
//!
//! ```text
//! Stable ──a new target takes partitions away──▶ UnrevokedPartitions ──the member has given them up──┐
//!   ▲  └──a new target gives partitions──▶ UnreleasedPartitions ◀──others still have some of them────┤
//!   └──────────────── everything of the target is there ─────────────────────────────────────────────┘
//! ```
//!
//! Invariant: a partition is added only if it is free, that is, no member has it or has yet to give it up.

use super::{Assignment, Current, MemberState};
use crate::protocol::Uuid;

/// Where the member goes next from `current`, towards `target` of `target_epoch`; `None` if it stays. `owned`
/// is what it says that it has, if it says so; `is_free` tells whether nobody has a partition.
pub fn next(
    current: &Current,
    target_epoch: i32,
    target: &Assignment,
    owned: Option<&Assignment>,
    is_free: impl Fn(Uuid, i32) -> bool,
) -> Option<Current> {
    let next = match current.state {
        MemberState::Stable if current.epoch == target_epoch => return None,
        MemberState::Stable | MemberState::UnreleasedPartitions => {
            towards(current, current.epoch, target_epoch, target, owned, is_free)
        }
        MemberState::UnrevokedPartitions => {
            let owned = owned?;
            if overlaps(&current.revoking, owned) {
                return None;
            }
            // What it had to give up is free only with the record of this step.
            towards(current, current.epoch + 1, target_epoch, target, Some(owned), is_free)
        }
    };
    let same_as_before = Current { previous_epoch: current.previous_epoch, ..next.clone() } == *current;
    (!same_as_before).then_some(next)
}

fn towards(
    current: &Current,
    epoch: i32,
    target_epoch: i32,
    target: &Assignment,
    owned: Option<&Assignment>,
    is_free: impl Fn(Uuid, i32) -> bool,
) -> Current {
    let mut assigned = Assignment::new();
    let mut revoking = Assignment::new();
    for (topic, partitions) in &current.assigned {
        for partition in partitions {
            let keeps = target.get(topic).is_some_and(|wanted| wanted.contains(partition));
            let to = if keeps { &mut assigned } else { &mut revoking };
            to.entry(*topic).or_default().insert(*partition);
        }
    }
    let step = |epoch: i32, state, assigned, revoking| {
        let previous_epoch = current.epoch;
        Current { epoch, previous_epoch, state, assigned, revoking }
    };
    let still_owned = owned.is_none_or(|owned| overlaps(&revoking, owned));
    if !revoking.is_empty() && still_owned {
        return step(epoch, MemberState::UnrevokedPartitions, assigned, revoking);
    }
    let mut state = MemberState::Stable;
    for (topic, partitions) in target {
        for partition in partitions {
            let has = assigned.get(topic).is_some_and(|has| has.contains(partition));
            if has {
                continue;
            }
            if is_free(*topic, *partition) {
                assigned.entry(*topic).or_default().insert(*partition);
            } else {
                state = MemberState::UnreleasedPartitions;
            }
        }
    }
    step(target_epoch, state, assigned, Assignment::new())
}

/// Whether they have a partition in common.
pub fn overlaps(some: &Assignment, other: &Assignment) -> bool {
    let topic = |(topic, partitions): (&Uuid, &std::collections::BTreeSet<i32>)| {
        other.get(topic).is_some_and(|others| !others.is_disjoint(partitions))
    };
    some.iter().any(topic)
}

/// Whether all of `some` is in `other`.
pub fn is_within(some: &Assignment, other: &Assignment) -> bool {
    some.iter().all(|(topic, partitions)| other.get(topic).is_some_and(|others| partitions.is_subset(others)))
}
