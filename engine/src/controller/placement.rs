//! Which brokers hold which partition of a new topic.
//!
//! The brokers' choice goes round from a random start, so that leaders and replicas spread evenly; a client's
//! choice is checked. Knows the brokers' ids, not their racks or load.

use super::Context;
use super::broker_configs::BrokerValues;
use super::request::{NewTopic, Refusal};
use super::topics::MAX_PARTITIONS_PER_REQUEST;
use crate::protocol::ErrorCode;

/// The replicas of each partition of a new topic, the leader first. At least one partition, at least one replica.
pub(super) fn of_new_topic(context: &mut Context<'_>, topic: &NewTopic) -> Result<Vec<Vec<i32>>, Refusal> {
    if !topic.assignments.is_empty() {
        return assigned(context, topic);
    }
    let broker = BrokerValues::new(context.settings, context.image);
    let replication_factor = match i64::from(topic.replication_factor) {
        -1 => broker.number("default.replication.factor"),
        factor => factor,
    };
    let partitions = match i64::from(topic.partitions) {
        -1 => broker.number("num.partitions"),
        partitions => partitions,
    };
    if replication_factor < 1 {
        let why = "Replication factor must be larger than 0, or -1 to use the default value.";
        return Err(Refusal::new(ErrorCode::InvalidReplicationFactor, why));
    }
    if partitions < 1 {
        let why = "Number of partitions was set to an invalid non-positive value.";
        return Err(Refusal::new(ErrorCode::InvalidPartitions, why));
    }
    let brokers = context.brokers.len();
    if replication_factor > i64::try_from(brokers).expect("few brokers") {
        let why = format!(
            "Unable to replicate the partition {replication_factor} time(s): The target replication factor of \
             {replication_factor} cannot be reached because only {brokers} broker(s) are registered."
        );
        return Err(Refusal::new(ErrorCode::InvalidReplicationFactor, why));
    }
    // What is too many is refused by its number: no need to place two thousand million first.
    let partitions = usize::try_from(partitions).expect("checked above").min(MAX_PARTITIONS_PER_REQUEST + 1);
    Ok(place(context, partitions, usize::try_from(replication_factor).expect("checked above")))
}

/// Places `partitions` new partitions.
pub(super) fn place(context: &mut Context<'_>, partitions: usize, replication_factor: usize) -> Vec<Vec<i32>> {
    let brokers = context.brokers;
    let start = (context.random)() as usize % brokers.len();
    let replicas = |partition: usize| {
        (0..replication_factor.min(brokers.len())).map(|n| brokers[(start + partition + n) % brokers.len()]).collect()
    };
    (0..partitions).map(replicas).collect()
}

fn assigned(context: &Context<'_>, topic: &NewTopic) -> Result<Vec<Vec<i32>>, Refusal> {
    let must_be_unset = |what: &str| {
        let why = format!("A manual partition assignment was specified, but {what} was not set to -1.");
        Err(Refusal::new(ErrorCode::InvalidRequest, why))
    };
    if topic.replication_factor != -1 {
        return must_be_unset("replication factor");
    }
    if topic.partitions != -1 {
        return must_be_unset("numPartitions");
    }
    let invalid = |why: String| Err(Refusal::new(ErrorCode::InvalidReplicaAssignment, why));
    let mut assignments = topic.assignments.clone();
    assignments.sort_by_key(|(partition, _)| *partition);
    let mut replication_factor = None;
    for ((partition, replicas), expected) in assignments.iter().zip(0..) {
        if *partition < expected && *partition >= 0 {
            return invalid(format!("Found multiple manual partition assignments for partition {partition}"));
        }
        if *partition != expected {
            return invalid("partitions should be a consecutive 0-based integer sequence".to_owned());
        }
        check_assignment(context, replicas, replication_factor)?;
        replication_factor = Some(replicas.len());
    }
    Ok(assignments.into_iter().map(|(_, replicas)| replicas).collect())
}

/// Checks a client's choice of one partition's brokers.
pub(super) fn check_assignment(
    context: &Context<'_>,
    replicas: &[i32],
    replication_factor: Option<usize>,
) -> Result<(), Refusal> {
    let invalid = |why: String| Err(Refusal::new(ErrorCode::InvalidReplicaAssignment, why));
    if replicas.is_empty() {
        return invalid("The manual partition assignment includes an empty replica list.".to_owned());
    }
    for (n, broker) in replicas.iter().enumerate() {
        if !context.brokers.contains(broker) {
            return invalid(format!(
                "The manual partition assignment includes broker {broker}, but no such broker is registered."
            ));
        }
        if replicas[..n].contains(broker) {
            return invalid(format!("The manual partition assignment includes the broker {broker} more than once."));
        }
    }
    match replication_factor {
        Some(factor) if factor != replicas.len() => invalid(format!(
            "The manual partition assignment includes a partition with {} replica(s), but this is not consistent \
             with previous partitions, which have {factor} replica(s).",
            replicas.len()
        )),
        _ => Ok(()),
    }
}
