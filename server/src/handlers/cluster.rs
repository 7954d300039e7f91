//! What is asked of the cluster as a whole: elections, reassignments, features, brokers.
//!
//! One broker is the cluster.

use std::rc::Rc;

use engine::controller::elections::{self, ElectionType};
use engine::controller::features::FeatureUpdate;
use engine::controller::image::MetadataImage;
use engine::controller::{ControllerReply, ControllerRequest, Refusal as Refused};
use engine::protocol::messages::alter_partition_reassignments::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, ReassignablePartitionResponse,
    ReassignableTopicResponse,
};
use engine::protocol::messages::elect_leaders::{
    ElectLeadersRequest, ElectLeadersResponse, PartitionResult, ReplicaElectionResult,
};
use engine::protocol::messages::list_partition_reassignments::{
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse,
};
use engine::protocol::messages::unregister_broker::{UnregisterBrokerRequest, UnregisterBrokerResponse};
use engine::protocol::messages::update_features::{
    UpdatableFeatureResult, UpdateFeaturesRequest, UpdateFeaturesResponse,
};
use engine::protocol::{ErrorCode, Str};

use super::{in_time, outcome};
use crate::authorizer::{Operation, Resource, authorize, sentence};
use crate::broker::Broker;
use crate::dispatch::{Answer, Call, Refusal};

/// The refusal of who may not do that to the cluster.
pub(super) fn may(broker: &Broker, call: &Call, operation: Operation) -> Result<(), Refused> {
    authorize(broker, call, operation, Resource::Cluster).map_err(|error| Refused::new(error, sentence(error)))
}

/// Elects leaders.
///
/// # Errors
/// If the request cannot be read.
pub fn elect_leaders(broker: &Broker, call: &Call) -> Result<Answer, Refusal> {
    let request: ElectLeadersRequest<'_> = call.decode()?;
    let image = broker.image();
    // Version 0 knows preferred elections alone.
    let kind =
        if call.version == 0 { Some(ElectionType::Preferred) } else { ElectionType::from_code(request.election_type) };
    let kind = may(broker, call, Operation::Alter)
        .and_then(|()| in_time(request.timeout_ms).map_err(Refused::plain))
        .and_then(|()| kind.ok_or_else(|| Refused::new(ErrorCode::InvalidRequest, "Unknown election type")));
    let elect = |topic: &str, partition| {
        let result = kind.clone().and_then(|kind| elections::elect(&image, kind, topic, partition));
        let error = result.as_ref().err().map_or(ErrorCode::None, |refused| refused.error);
        let error_message = result.err().and_then(|refused| refused.message).map(Str::Owned);
        (error, PartitionResult { partition_id: partition, error_code: error.code(), error_message })
    };
    let results = match &request.topic_partitions {
        Some(topics) => {
            let results = topics.iter().map(|topic| ReplicaElectionResult {
                topic: topic.topic.clone(),
                partition_result: topic.partitions.iter().map(|partition| elect(&topic.topic, *partition).1).collect(),
            });
            results.collect()
        }
        None if kind.is_ok() => elect_all(&image, elect),
        None => Vec::new(),
    };
    let error_code = kind.as_ref().err().map_or(ErrorCode::None, |refused| refused.error).code();
    let is_named = call.version == 0 || error_code == ErrorCode::RequestTimedOut.code();
    let replica_election_results = if error_code == 0 || is_named { results } else { Vec::new() };
    call.answer(&ElectLeadersResponse { error_code, replica_election_results, ..Default::default() })
}

/// Of all partitions, those for which an election was needed.
fn elect_all<'i>(
    image: &'i MetadataImage,
    elect: impl Fn(&str, i32) -> (ErrorCode, PartitionResult<'static>),
) -> Vec<ReplicaElectionResult<'i>> {
    let mut results = Vec::new();
    for topic in image.topics.values() {
        let partitions = 0..i32::try_from(topic.partitions.len()).expect("partitions are counted in an i32");
        let elected = partitions.map(|partition| elect(&topic.name, partition));
        let needed = elected.filter(|(error, _)| *error != ErrorCode::ElectionNotNeeded);
        let partition_result: Vec<_> = needed.map(|(_, result)| result).collect();
        if !partition_result.is_empty() {
            results.push(ReplicaElectionResult { topic: Str::Borrowed(&topic.name), partition_result });
        }
    }
    results
}

/// Moves partitions to other brokers.
///
/// # Errors
/// If the request cannot be read.
pub fn alter_reassignments(broker: &Broker, call: &Call) -> Result<Answer, Refusal> {
    let request: AlterPartitionReassignmentsRequest<'_> = call.decode()?;
    let allow_replication_factor_change = request.allow_replication_factor_change;
    let allowed = may(broker, call, Operation::Alter);
    if allowed.is_err() {
        let (error_code, error_message) = outcome(&allowed);
        return call.answer(&AlterPartitionReassignmentsResponse {
            allow_replication_factor_change,
            error_code,
            error_message,
            ..Default::default()
        });
    }
    let in_time = in_time(request.timeout_ms);
    let image = broker.image();
    let brokers = [broker.node_id()];
    let responses = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|asked| {
            let (partition_index, replicas) = (asked.partition_index, asked.replicas.as_deref());
            let may_change = allow_replication_factor_change;
            let result = in_time.map_err(Refused::plain).and_then(|()| {
                elections::reassign(&image, &brokers, &topic.name, partition_index, replicas, may_change)
            });
            let error_code = result.as_ref().err().map_or(ErrorCode::None, |refused| refused.error).code();
            let error_message = result.err().and_then(|refused| refused.message).map(Str::Owned);
            ReassignablePartitionResponse { partition_index, error_code, error_message }
        });
        ReassignableTopicResponse { name: topic.name.clone(), partitions: partitions.collect() }
    });
    call.answer(&AlterPartitionReassignmentsResponse {
        allow_replication_factor_change,
        error_code: in_time.err().unwrap_or(ErrorCode::None).code(),
        error_message: None,
        responses: responses.collect(),
        ..Default::default()
    })
}

/// None: partitions do not move while there is one broker.
///
/// # Errors
/// If the request cannot be read.
pub fn list_reassignments(broker: &Broker, call: &Call) -> Result<Answer, Refusal> {
    let _: ListPartitionReassignmentsRequest<'_> = call.decode()?;
    let allowed = may(broker, call, Operation::Describe);
    let (error_code, error_message) = outcome(&allowed);
    call.answer(&ListPartitionReassignmentsResponse { error_code, error_message, ..Default::default() })
}

/// Finalises levels of features.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn update_features(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: UpdateFeaturesRequest<'_> = call.decode()?;
    let result = match may(broker, call, Operation::Alter) {
        Ok(()) => finalise(broker, &request, call.version).await?.map_err(of_all_features),
        refused => refused,
    };
    let (error_code, error_message) = outcome(&result);
    let results = request.feature_updates.iter().map(|update| UpdatableFeatureResult {
        feature: update.feature.clone(),
        error_code,
        error_message: error_message.clone(),
    });
    let results = if call.version <= 1 { results.collect() } else { Vec::new() };
    call.answer(&UpdateFeaturesResponse {
        error_code,
        error_message: error_message.clone(),
        results,
        ..Default::default()
    })
}

fn of_all_features(refused: Refused) -> Refused {
    let because = "The update failed for all features since the following feature had an error";
    Refused { message: refused.message.map(|why| format!("{because}: {why}")), ..refused }
}

async fn finalise(
    broker: &Broker,
    request: &UpdateFeaturesRequest<'_>,
    version: i16,
) -> Result<Result<(), Refused>, Refusal> {
    const UPGRADE: i8 = 1;
    const SAFE_DOWNGRADE: i8 = 2;
    let updates = request.feature_updates.iter().map(|update| FeatureUpdate {
        name: update.feature.to_string(),
        level: update.max_version_level,
        upgrade_type: match version {
            0 if update.allow_downgrade => SAFE_DOWNGRADE,
            0 => UPGRADE,
            _ => update.upgrade_type,
        },
    });
    let asked = ControllerRequest::UpdateFeatures { updates: updates.collect(), validate_only: request.validate_only };
    match broker.core.controller(asked).await {
        Some(ControllerReply::UpdateFeatures(result)) => Ok(result),
        _ => Err(Refusal::Stopping),
    }
}

/// Forgets a broker that is gone for good. The only one there is cannot be.
///
/// # Errors
/// If the request cannot be read.
pub fn unregister_broker(broker: &Broker, call: &Call) -> Result<Answer, Refusal> {
    let request: UnregisterBrokerRequest = call.decode()?;
    let id = request.broker_id;
    let result: Result<(), Refused> = may(broker, call, Operation::Alter).and_then(|()| match id == broker.node_id() {
        true => Err(Refused::new(ErrorCode::InvalidRequest, "The only broker of the cluster cannot be unregistered.")),
        false => {
            let why = format!("Broker ID {id} is not currently registered");
            Err(Refused::new(ErrorCode::BrokerIdNotRegistered, why))
        }
    });
    let (error_code, error_message) = outcome(&result);
    call.answer(&UnregisterBrokerResponse { error_code, error_message, ..Default::default() })
}
