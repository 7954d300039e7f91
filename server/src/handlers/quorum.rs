//! The quorum that keeps the metadata: who votes in it, and the refusal to change that.
//!
//! One broker is the whole quorum.

use engine::controller::Refusal as Refused;
use engine::protocol::messages::add_raft_voter::{AddRaftVoterRequest, AddRaftVoterResponse};
use engine::protocol::messages::describe_quorum::{
    DescribeQuorumRequest, DescribeQuorumResponse, Listener, Node, ReplicaState, ResponsePartitionData,
    ResponseTopicData,
};
use engine::protocol::messages::remove_raft_voter::{RemoveRaftVoterRequest, RemoveRaftVoterResponse};
use engine::protocol::{ErrorCode, Str, Uuid};

use super::cluster::may;
use super::outcome;
use crate::authorizer::Operation;
use crate::broker::Broker;
use crate::dispatch::{Answer, Call, Refusal};

/// The name under which the metadata log is asked for.
const METADATA_TOPIC: &str = "__cluster_metadata";

/// Who votes in the quorum, and how far they are.
///
/// # Errors
/// If the request cannot be read.
pub fn describe(broker: &Broker, call: &Call) -> Result<Answer, Refusal> {
    let request: DescribeQuorumRequest<'_> = call.decode()?;
    let allowed = may(broker, call, Operation::Describe);
    if allowed.is_err() {
        let (error_code, error_message) = outcome(&allowed);
        return call.answer(&DescribeQuorumResponse { error_code, error_message, ..Default::default() });
    }
    let topics = request.topics.iter().map(|topic| ResponseTopicData {
        topic_name: topic.topic_name.clone(),
        partitions: topic
            .partitions
            .iter()
            .map(|asked| quorum_of(broker, &topic.topic_name, asked.partition_index))
            .collect(),
    });
    let (host, port) = broker.config.advertised();
    let listener = Listener { name: Str::Borrowed("PLAINTEXT"), host: Str::Borrowed(host), port };
    let node = Node { node_id: broker.node_id(), listeners: vec![listener] };
    call.answer(&DescribeQuorumResponse {
        error_message: None,
        topics: topics.collect(),
        nodes: vec![node],
        ..Default::default()
    })
}

fn quorum_of(broker: &Broker, topic: &str, partition_index: i32) -> ResponsePartitionData<'static> {
    if topic != METADATA_TOPIC || partition_index != 0 {
        let error_code = ErrorCode::UnknownTopicOrPartition.code();
        return ResponsePartitionData { partition_index, error_code, error_message: None, ..Default::default() };
    }
    let end = broker.image().offset + 1;
    let now = broker.io().wall_clock_ms();
    let voter = ReplicaState {
        replica_id: broker.node_id(),
        replica_directory_id: Uuid::ZERO,
        log_end_offset: end,
        last_fetch_timestamp: now,
        last_caught_up_timestamp: now,
    };
    ResponsePartitionData {
        partition_index,
        error_message: None,
        leader_id: broker.node_id(),
        leader_epoch: 1,
        high_watermark: end,
        current_voters: vec![voter],
        ..Default::default()
    }
}

/// Refuses another voter.
///
/// # Errors
/// If the request cannot be read.
pub fn add_voter(broker: &Broker, call: &Call) -> Result<Answer, Refusal> {
    let request: AddRaftVoterRequest<'_> = call.decode()?;
    let result: Result<(), Refused> =
        may_change(broker, call, request.cluster_id.as_deref()).and_then(|()| match request.voter_id {
            id if id == broker.node_id() => {
                let why = format!("The voter id {id} is already part of the set of voters.");
                Err(Refused::new(ErrorCode::DuplicateVoter, why))
            }
            _ => Err(Refused::new(ErrorCode::InvalidRequest, "This quorum has one voter and cannot be extended.")),
        });
    let (error_code, error_message) = outcome(&result);
    call.answer(&AddRaftVoterResponse { error_code, error_message, ..Default::default() })
}

/// Refuses to take a voter away.
///
/// # Errors
/// If the request cannot be read.
pub fn remove_voter(broker: &Broker, call: &Call) -> Result<Answer, Refusal> {
    let request: RemoveRaftVoterRequest<'_> = call.decode()?;
    let result: Result<(), Refused> = may_change(broker, call, request.cluster_id.as_deref()).and_then(|()| {
        // The last voter is not removed either, and Kafka says so with the same error.
        let why = format!("Cannot remove voter {} from the set of voters [{}].", request.voter_id, broker.node_id());
        Err(Refused::new(ErrorCode::VoterNotFound, why))
    });
    let (error_code, error_message) = outcome(&result);
    call.answer(&RemoveRaftVoterResponse { error_code, error_message, ..Default::default() })
}

fn may_change(broker: &Broker, call: &Call, cluster_id: Option<&str>) -> Result<(), Refused> {
    may(broker, call, Operation::Alter)?;
    let image = broker.image();
    match cluster_id.filter(|id| *id != image.cluster_id) {
        Some(id) => {
            let why = format!("The given id \"{id}\" doesn't match the cluster id \"{}\"", image.cluster_id);
            Err(Refused::new(ErrorCode::InconsistentClusterId, why))
        }
        None => Ok(()),
    }
}
