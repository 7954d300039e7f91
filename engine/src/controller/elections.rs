//! Leader elections and reassignments that clients ask for, as a cluster of one broker answers them.
//!
//! With one broker there is nobody else to lead or to hold a partition, so nothing here makes a record: an
//! election is not needed, and a reassignment to the one broker is complete at once. Messages have the words of
//! Kafka's `ReplicationControlManager`.

use super::image::{MetadataImage, PartitionState};
use super::request::{Refusal, shown};
use crate::protocol::ErrorCode;

/// Which replica shall lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElectionType {
    /// The first replica.
    Preferred,
    /// Any, also one that is not in sync, if there is no leader.
    Unclean,
}

impl ElectionType {
    /// That of a code (`ElectionType`).
    pub fn from_code(code: i8) -> Option<ElectionType> {
        match code {
            0 => Some(ElectionType::Preferred),
            1 => Some(ElectionType::Unclean),
            _ => None,
        }
    }
}

/// Elects a partition's leader.
///
/// # Errors
/// ELECTION_NOT_NEEDED if it leads already; or why no other can.
pub fn elect(image: &MetadataImage, kind: ElectionType, topic: &str, partition: i32) -> Result<(), Refusal> {
    let unknown = |what: String| Refusal::new(ErrorCode::UnknownTopicOrPartition, what);
    if image.topic(topic).is_none() {
        return Err(unknown(format!("No such topic as {}", shown(topic))));
    }
    let state = state_of(image, topic, partition)
        .ok_or_else(|| unknown(format!("No such partition as {topic}-{partition}")))?;
    let preferred = state.replicas.first().copied().unwrap_or(-1);
    match kind {
        ElectionType::Preferred if state.leader == preferred => Err(Refusal::plain(ErrorCode::ElectionNotNeeded)),
        ElectionType::Preferred => Err(Refusal::plain(ErrorCode::PreferredLeaderNotAvailable)),
        ElectionType::Unclean if state.leader >= 0 => Err(Refusal::plain(ErrorCode::ElectionNotNeeded)),
        ElectionType::Unclean => Err(Refusal::plain(ErrorCode::EligibleLeadersNotAvailable)),
    }
}

/// Moves a partition to `replicas`, or with `None` takes a move back. `brokers` are those that there are.
///
/// # Errors
/// Why not.
pub fn reassign(
    image: &MetadataImage,
    brokers: &[i32],
    topic: &str,
    partition: i32,
    replicas: Option<&[i32]>,
    may_change_factor: bool,
) -> Result<(), Refusal> {
    let unknown = |what: String| Refusal::new(ErrorCode::UnknownTopicOrPartition, what);
    if image.topic(topic).is_none() {
        return Err(unknown(format!("Unable to find a topic named {}.", shown(topic))));
    }
    let state = state_of(image, topic, partition)
        .ok_or_else(|| unknown(format!("Unable to find partition {topic}:{partition}.")))?;
    let Some(replicas) = replicas else { return Err(Refusal::plain(ErrorCode::NoReassignmentInProgress)) };
    check_replicas(brokers, replicas)?;
    if !may_change_factor && replicas.len() != state.replicas.len() {
        let why = format!("The replication factor is changed from {} to {}", state.replicas.len(), replicas.len());
        return Err(Refusal::new(ErrorCode::InvalidReplicationFactor, why));
    }
    Ok(())
}

fn check_replicas(brokers: &[i32], replicas: &[i32]) -> Result<(), Refusal> {
    let invalid = |why: String| Err(Refusal::new(ErrorCode::InvalidReplicaAssignment, why));
    if replicas.is_empty() {
        return invalid("The manual partition assignment includes an empty replica list.".to_owned());
    }
    let mut sorted = replicas.to_vec();
    sorted.sort_unstable();
    if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return invalid(format!("The manual partition assignment includes the broker {} more than once.", twice[0]));
    }
    match sorted.iter().find(|id| !brokers.contains(id)) {
        Some(id) => {
            invalid(format!("The manual partition assignment includes broker {id}, but no such broker is registered."))
        }
        None => Ok(()),
    }
}

fn state_of<'i>(image: &'i MetadataImage, topic: &str, partition: i32) -> Option<&'i PartitionState> {
    image.topic(topic)?.partitions.get(usize::try_from(partition).ok()?)
}
