//! Transactions: AddPartitionsToTxn, AddOffsetsToTxn, EndTxn, TxnOffsetCommit, and what operators ask.
//!
//! What names a topic that is not there is answered here; the rest is the coordinator's to decide, or the
//! partitions'. What versions differ in is put right here.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use engine::controller::MetadataImage;
use engine::coordinator::group::{GroupReply, GroupRequest};
use engine::coordinator::pattern::Pattern;
use engine::coordinator::transaction::state::{Partitions, State};
use engine::coordinator::transaction::{TransactionReply, TransactionRequest};
use engine::coordinator::{self, Kind, Producer};
use engine::protocol::messages::add_offsets_to_txn::{AddOffsetsToTxnRequest, AddOffsetsToTxnResponse};
use engine::protocol::messages::add_partitions_to_txn::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnRequest, AddPartitionsToTxnResponse, AddPartitionsToTxnResult,
    AddPartitionsToTxnTopic, AddPartitionsToTxnTopicResult,
};
use engine::protocol::messages::describe_producers::{
    DescribeProducersRequest, DescribeProducersResponse, PartitionResponse, ProducerState, TopicResponse,
};
use engine::protocol::messages::describe_transactions::{
    DescribeTransactionsRequest, DescribeTransactionsResponse, TopicData, TransactionState,
};
use engine::protocol::messages::end_txn::{EndTxnRequest, EndTxnResponse};
use engine::protocol::messages::list_transactions::{self, ListTransactionsRequest, ListTransactionsResponse};
use engine::protocol::messages::txn_offset_commit::{
    TxnOffsetCommitRequest, TxnOffsetCommitRequestTopic, TxnOffsetCommitResponse, TxnOffsetCommitResponsePartition,
    TxnOffsetCommitResponseTopic,
};
use engine::protocol::messages::write_txn_markers::{
    WritableTxnMarkerPartitionResult, WritableTxnMarkerResult, WritableTxnMarkerTopicResult, WriteTxnMarkersRequest,
    WriteTxnMarkersResponse,
};
use engine::protocol::{ErrorCode, IntoStatic, Str, Uuid};
use engine::shard::message::{ActiveProducer, EndTransactionMarker, MarkerPart, PartitionId, Reply, Request, owner};

use super::route::{self, Fan};
use super::verification::{self, Wanted};
use super::{coordinators, producer_ids};
use crate::authorizer::{Operation, Resource, allows, authorize};
use crate::broker::Broker;
use crate::dispatch::{Answer, Call, Refusal};

/// From this AddPartitionsToTxn version on brokers ask, for several transactions.
const ADD_BATCHED: i16 = 4;
/// From these versions on PRODUCER_FENCED is told apart from INVALID_PRODUCER_EPOCH.
const ADD_FENCED: i16 = 2;
const END_FENCED: i16 = 2;
/// From this EndTxn version on each transaction has an epoch of its own.
const END_BUMPS_EPOCH: i16 = 5;
/// From this AddPartitionsToTxn version on too.
const ADD_BUMPS_EPOCH: i16 = 5;
/// From this TxnOffsetCommit version on the broker adds the group to the transaction.
const COMMIT_ADDS: i16 = 5;
/// From this TxnOffsetCommit version on TRANSACTION_ABORTABLE is understood.
const COMMIT_ABORTABLE: i16 = 4;
/// The epoch from which on a producer may need another id.
const LAST_EPOCH: i16 = coordinator::transaction::state::LAST_EPOCH;

fn exists(image: &MetadataImage, topic: &str, partition: i32) -> bool {
    image.topic(topic).is_some_and(|topic| route::partition_state(topic, partition).is_some())
}

/// Whether the partition is there, for a client that may do the operation to its topic.
fn look_up(
    broker: &Broker,
    call: &Call,
    operation: Operation,
    image: &MetadataImage,
    (topic, partition): (&str, i32),
) -> Result<(), ErrorCode> {
    authorize(broker, call, operation, Resource::Topic(topic))?;
    if exists(image, topic, partition) { Ok(()) } else { Err(ErrorCode::UnknownTopicOrPartition) }
}

/// Whether the client may write with the transactional id.
fn may_write(broker: &Broker, call: &Call, id: &str) -> Result<(), ErrorCode> {
    authorize(broker, call, Operation::Write, Resource::TransactionalId(id))
}

/// What older clients are told of a fenced producer.
fn fenced_as(error: ErrorCode, told_apart: bool) -> ErrorCode {
    match error {
        ErrorCode::ProducerFenced if !told_apart => ErrorCode::InvalidProducerEpoch,
        other => other,
    }
}

/// Adds partitions to transactions, or looks whether they are in them.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn add_partitions(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: AddPartitionsToTxnRequest<'_> = call.decode()?;
    if call.version < ADD_BATCHED {
        let producer = Producer { id: request.v3_and_below_producer_id, epoch: request.v3_and_below_producer_epoch };
        let add = Add {
            id: &request.v3_and_below_transactional_id,
            producer,
            verify_only: false,
            bumps_epoch: false,
            from_client: true,
        };
        let results_by_topic_v3_and_below =
            add_to_one(broker, call, &add, &request.v3_and_below_topics, call.version >= ADD_FENCED).await?;
        return call.answer(&AddPartitionsToTxnResponse { results_by_topic_v3_and_below, ..Default::default() });
    }
    if let Err(error) = authorize(broker, call, Operation::ClusterAction, Resource::Cluster) {
        return call.answer(&AddPartitionsToTxnResponse { error_code: error.code(), ..Default::default() });
    }
    let mut results_by_transaction = Vec::with_capacity(request.transactions.len());
    for asked in &request.transactions {
        let producer = Producer { id: asked.producer_id, epoch: asked.producer_epoch };
        let bumps_epoch = call.version >= ADD_BUMPS_EPOCH;
        let add = Add {
            id: &asked.transactional_id,
            producer,
            verify_only: asked.verify_only,
            bumps_epoch,
            from_client: false,
        };
        results_by_transaction.push(AddPartitionsToTxnResult {
            transactional_id: asked.transactional_id.clone(),
            topic_results: add_to_one(broker, call, &add, &asked.topics, true).await?,
        });
    }
    call.answer(&AddPartitionsToTxnResponse { results_by_transaction, ..Default::default() })
}

struct Add<'a> {
    id: &'a str,
    producer: Producer,
    verify_only: bool,
    bumps_epoch: bool,
    /// Whether a client asks, not another broker.
    from_client: bool,
}

/// All partitions are added, or none: if one is not there, the others are not attempted.
async fn add_to_one<'t>(
    broker: &Broker,
    call: &Call,
    add: &Add<'_>,
    topics: &[AddPartitionsToTxnTopic<'t>],
    told_apart: bool,
) -> Result<Vec<AddPartitionsToTxnTopicResult<'t>>, Refusal> {
    let image = broker.image();
    let named = || topics.iter().flat_map(|topic| topic.partitions.iter().map(move |index| (&*topic.name, *index)));
    let refuse = |topic: &str, index| match () {
        // Groups join a transaction by AddOffsetsToTxn.
        () if add.from_client && route::is_internal(topic) => Some(ErrorCode::TopicAuthorizationFailed),
        () if add.from_client => look_up(broker, call, Operation::Write, &image, (topic, index)).err(),
        () if !exists(&image, topic, index) => Some(ErrorCode::UnknownTopicOrPartition),
        () => None,
    };
    let allowed = if add.from_client { may_write(broker, call, add.id) } else { Ok(()) };
    let (mut whole, mut single) = (ErrorCode::None, Vec::new());
    if let Err(error) = allowed {
        whole = error;
    } else if add.id.is_empty() {
        whole = ErrorCode::InvalidRequest;
    } else if named().any(|(topic, index)| refuse(topic, index).is_some()) {
        whole = ErrorCode::OperationNotAttempted;
        single = named().map(|(topic, index)| refuse(topic, index)).collect();
    } else {
        let mut partitions = Partitions::new();
        for (topic, index) in named() {
            partitions.entry(topic.to_owned()).or_default().insert(index);
        }
        let request = TransactionRequest::AddPartitions {
            transactional_id: add.id.to_owned(),
            producer: add.producer,
            partitions,
            bumps_epoch: add.bumps_epoch,
            verify_only: add.verify_only,
        };
        match verification::ask(broker, add.id, request).await? {
            Ok(TransactionReply::Partitions(results)) => {
                let found: BTreeMap<(&str, i32), ErrorCode> =
                    results.iter().map(|(topic, index, error)| ((topic.as_str(), *index), *error)).collect();
                single = named().map(|named| found.get(&named).copied()).collect();
            }
            Ok(other) => unreachable!("not the answer to this question: {other:?}"),
            Err(error) => whole = fenced_as(error, told_apart),
        }
    }
    let mut single = single.into_iter();
    let mut result = || single.next().flatten().unwrap_or(whole).code();
    let topic_result = |topic: &AddPartitionsToTxnTopic<'t>| AddPartitionsToTxnTopicResult {
        name: topic.name.clone(),
        results_by_partition: topic
            .partitions
            .iter()
            .map(|index| AddPartitionsToTxnPartitionResult { partition_index: *index, partition_error_code: result() })
            .collect(),
    };
    Ok(topics.iter().map(topic_result).collect())
}

/// Adds a group's offsets to a transaction.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn add_offsets(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: AddOffsetsToTxnRequest<'_> = call.decode()?;
    let allowed = may_write(broker, call, &request.transactional_id)
        .and_then(|()| authorize(broker, call, Operation::Read, Resource::Group(&request.group_id)));
    let error = match allowed {
        Ok(()) => add_group(broker, &request).await?,
        Err(error) => error,
    };
    let error_code = fenced_as(error, call.version >= ADD_FENCED).code();
    call.answer(&AddOffsetsToTxnResponse { error_code, ..Default::default() })
}

async fn add_group(broker: &Rc<Broker>, request: &AddOffsetsToTxnRequest<'_>) -> Result<ErrorCode, Refusal> {
    if request.transactional_id.is_empty() {
        return Ok(ErrorCode::InvalidRequest);
    }
    if let Err(error) = coordinators::make_topic(broker, Kind::Group).await? {
        return Ok(error);
    }
    let id = match coordinators::partition(broker, Kind::Group, &request.group_id) {
        Ok(id) => id,
        Err(error) => return Ok(error),
    };
    let partitions = [(Kind::Group.topic().to_owned(), [id.partition].into())].into();
    let add = TransactionRequest::AddPartitions {
        transactional_id: request.transactional_id.to_string(),
        producer: Producer { id: request.producer_id, epoch: request.producer_epoch },
        partitions,
        bumps_epoch: false,
        verify_only: false,
    };
    Ok(verification::ask(broker, &request.transactional_id, add).await?.err().unwrap_or(ErrorCode::None))
}

/// Ends a transaction.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn end(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: EndTxnRequest<'_> = call.decode()?;
    let ended = match may_write(broker, call, &request.transactional_id) {
        Err(error) => Err(error),
        Ok(()) if request.transactional_id.is_empty() => Err(ErrorCode::InvalidRequest),
        Ok(()) => end_one(broker, &request, call.version >= END_BUMPS_EPOCH).await?,
    };
    call.answer(&match ended {
        Ok(producer) if call.version >= END_BUMPS_EPOCH => {
            EndTxnResponse { producer_id: producer.id, producer_epoch: producer.epoch, ..Default::default() }
        }
        Ok(_) => EndTxnResponse::default(),
        Err(error) => {
            let error_code = fenced_as(error, call.version >= END_FENCED).code();
            EndTxnResponse { error_code, ..Default::default() }
        }
    })
}

async fn end_one(
    broker: &Broker,
    request: &EndTxnRequest<'_>,
    bumps_epoch: bool,
) -> Result<Result<Producer, ErrorCode>, Refusal> {
    let spare_id = match bumps_epoch && request.producer_epoch >= LAST_EPOCH {
        true => match producer_ids::next_id(broker).await {
            Ok(id) => id,
            Err(error) => return Ok(Err(error)),
        },
        false => -1,
    };
    let end = TransactionRequest::End {
        transactional_id: request.transactional_id.to_string(),
        producer: Producer { id: request.producer_id, epoch: request.producer_epoch },
        committed: request.committed,
        bumps_epoch,
        spare_id,
    };
    Ok(match verification::ask(broker, &request.transactional_id, end).await? {
        Ok(TransactionReply::Producer(producer)) => Ok(producer),
        Ok(other) => unreachable!("not the answer to this question: {other:?}"),
        Err(error) => Err(error),
    })
}

/// Commits offsets within a transaction.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn commit_offsets(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: TxnOffsetCommitRequest<'_> = call.decode()?;
    let image = broker.image();
    let find_to_read = |name: &str, index| look_up(broker, call, Operation::Read, &image, (name, index));
    let allowed = may_write(broker, call, &request.transactional_id)
        .and_then(|()| authorize(broker, call, Operation::Read, Resource::Group(&request.group_id)));
    let known = |topic: &TxnOffsetCommitRequestTopic<'_>| TxnOffsetCommitRequestTopic {
        name: topic.name.to_string().into(),
        partitions: topic
            .partitions
            .iter()
            .filter(|asked| find_to_read(&topic.name, asked.partition_index).is_ok())
            .map(|asked| asked.clone().into_static())
            .collect(),
    };
    let topics: Vec<_> = request.topics.iter().map(known).filter(|topic| !topic.partitions.is_empty()).collect();
    let committed = match allowed {
        Err(error) => Err(error),
        Ok(()) if topics.is_empty() => Err(ErrorCode::UnknownTopicOrPartition),
        Ok(()) => {
            let asked = TxnOffsetCommitRequest { topics, ..request.clone() }.into_static();
            commit_in_transaction(broker, call.version, asked).await?
        }
    };
    let mut results = committed.as_ref().ok().into_iter().flat_map(|response| {
        response.topics.iter().flat_map(|topic| &topic.partitions).map(|partition| partition.error_code)
    });
    let refused = committed.as_ref().err().copied().unwrap_or(ErrorCode::UnknownServerError).code();
    let topics = request.topics.iter().map(|topic| TxnOffsetCommitResponseTopic {
        name: topic.name.clone(),
        partitions: topic
            .partitions
            .iter()
            .map(|asked| TxnOffsetCommitResponsePartition {
                partition_index: asked.partition_index,
                error_code: match allowed.and(find_to_read(&topic.name, asked.partition_index)) {
                    Ok(()) => results.next().unwrap_or(refused),
                    Err(error) => error.code(),
                },
            })
            .collect(),
    });
    call.answer(&TxnOffsetCommitResponse { topics: topics.collect(), ..Default::default() })
}

/// The group must be in the transaction; then its coordinator decides.
async fn commit_in_transaction(
    broker: &Broker,
    version: i16,
    request: TxnOffsetCommitRequest<'static>,
) -> Result<Result<TxnOffsetCommitResponse<'static>, ErrorCode>, Refusal> {
    let id = match coordinators::partition(broker, Kind::Group, &request.group_id) {
        Ok(id) => id,
        Err(error) => return Ok(Err(error)),
    };
    let producer = Producer { id: request.producer_id, epoch: request.producer_epoch };
    let operation = match version {
        COMMIT_ADDS.. => verification::Operation::Add,
        COMMIT_ABORTABLE => verification::Operation::VerifyAbortable,
        _ => verification::Operation::Verify,
    };
    let wanted = Wanted { id, producer, first_sequence: -1 };
    let verified = verification::verify(broker, &request.transactional_id, operation, &[wanted]).await?;
    let guard = match verified[0] {
        Ok(guard) => guard,
        // Clients look for the coordinator again after this one.
        Err(ErrorCode::NotEnoughReplicas) => return Ok(Err(ErrorCode::CoordinatorNotAvailable)),
        Err(error) => return Ok(Err(error)),
    };
    let request = coordinator::Request::Group(GroupRequest::CommitInTransaction(request));
    let request = Request::CoordinateInTransaction(id, request, producer, guard);
    let reply = broker.core.request(owner(id, broker.core.shards()), request).await;
    Ok(match reply {
        Some(Reply::Coordinate(coordinator::Reply::Group(GroupReply::CommitInTransaction(response)))) => Ok(response),
        Some(Reply::Coordinate(coordinator::Reply::Refused(error))) => Err(error),
        Some(other) => unreachable!("not the answer to this question: {other:?}"),
        None => return Err(Refusal::Stopping),
    })
}

/// Writes markers for an operator who ends a transaction that hangs.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn write_markers(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: WriteTxnMarkersRequest<'_> = call.decode()?;
    let image = broker.image();
    let allowed = match allows(broker, call, Operation::ClusterAction, Resource::Cluster) {
        true => Ok(()),
        false => authorize(broker, call, Operation::Alter, Resource::Cluster),
    };
    let (mut fan, mut results) = (Fan::new(broker), Vec::new());
    for asked in &request.markers {
        let marker = EndTransactionMarker {
            committed: asked.transaction_result,
            producer_id: asked.producer_id,
            producer_epoch: asked.producer_epoch,
            coordinator_epoch: asked.coordinator_epoch,
        };
        for topic in &asked.topics {
            for index in &topic.partition_indexes {
                let found = allowed.and_then(|()| find(broker, &image, &topic.name, *index));
                if let Ok(id) = found {
                    fan.add(id, results.len(), MarkerPart { id, marker, bumped: false });
                }
                results.push(found.err().unwrap_or(ErrorCode::None));
            }
        }
    }
    let asked: Vec<_> = fan
        .into_groups()
        .into_iter()
        .map(|group| (group.places, broker.core.request(group.shard, Request::WriteMarkers(group.parts))))
        .collect();
    for (places, reply) in asked {
        let Some(Reply::WriteMarkers(written)) = reply.await else { return Err(Refusal::Stopping) };
        places.into_iter().zip(written).for_each(|(place, error)| results[place] = error);
    }
    let mut results = results.into_iter();
    let markers = request.markers.iter().map(|marker| WritableTxnMarkerResult {
        producer_id: marker.producer_id,
        topics: marker
            .topics
            .iter()
            .map(|topic| WritableTxnMarkerTopicResult {
                name: topic.name.clone(),
                partitions: topic
                    .partition_indexes
                    .iter()
                    .zip(results.by_ref())
                    .map(|(index, error)| WritableTxnMarkerPartitionResult {
                        partition_index: *index,
                        error_code: error.code(),
                    })
                    .collect(),
            })
            .collect(),
    });
    call.answer(&WriteTxnMarkersResponse { markers: markers.collect() })
}

fn find(broker: &Broker, image: &MetadataImage, topic: &str, partition: i32) -> Result<PartitionId, ErrorCode> {
    route::find_partition(broker, route::find_topic(image, topic, Uuid::ZERO)?, partition)
}

/// Tells which producers partitions remember.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn describe_producers(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: DescribeProducersRequest<'_> = call.decode()?;
    let image = broker.image();
    let (mut fan, mut results) = (Fan::new(broker), Vec::new());
    for topic in &request.topics {
        for index in &topic.partition_indexes {
            let found = authorize(broker, call, Operation::Read, Resource::Topic(&topic.name))
                .and_then(|()| find(broker, &image, &topic.name, *index));
            if let Ok(id) = found {
                fan.add(id, results.len(), id);
            }
            results.push(found.map(|_| Vec::new()));
        }
    }
    let asked: Vec<_> = fan
        .into_groups()
        .into_iter()
        .map(|group| (group.places, broker.core.request(group.shard, Request::DescribeProducers(group.parts))))
        .collect();
    for (places, reply) in asked {
        let Some(Reply::DescribeProducers(described)) = reply.await else { return Err(Refusal::Stopping) };
        places.into_iter().zip(described).for_each(|(place, described)| results[place] = described);
    }
    let mut results = results.into_iter();
    let topics = request.topics.iter().map(|topic| TopicResponse {
        name: topic.name.clone(),
        partitions: topic
            .partition_indexes
            .iter()
            .zip(results.by_ref())
            .map(|(index, result)| PartitionResponse {
                partition_index: *index,
                error_code: result.as_ref().err().copied().unwrap_or(ErrorCode::None).code(),
                active_producers: result.into_iter().flatten().map(producer_state).collect(),
                ..Default::default()
            })
            .collect(),
    });
    call.answer(&DescribeProducersResponse { topics: topics.collect(), ..Default::default() })
}

fn producer_state(active: ActiveProducer) -> ProducerState {
    ProducerState {
        producer_id: active.producer_id,
        producer_epoch: active.epoch.into(),
        last_sequence: active.last_sequence,
        last_timestamp: active.last_timestamp,
        coordinator_epoch: active.coordinator_epoch,
        current_txn_start_offset: active.open_since,
    }
}

/// Tells the state of transactional ids.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn describe(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: DescribeTransactionsRequest<'_> = call.decode()?;
    let mut transaction_states = Vec::with_capacity(request.transactional_ids.len());
    for id in &request.transactional_ids {
        transaction_states.push(match authorize(broker, call, Operation::Describe, Resource::TransactionalId(id)) {
            Ok(()) => describe_one(broker, id).await?,
            Err(error) => {
                TransactionState { error_code: error.code(), transactional_id: id.clone(), ..Default::default() }
            }
        });
    }
    for state in &mut transaction_states {
        state.topics.retain(|topic| allows(broker, call, Operation::Describe, Resource::Topic(&topic.topic)));
    }
    call.answer(&DescribeTransactionsResponse { transaction_states, ..Default::default() })
}

async fn describe_one<'i>(broker: &Broker, id: &Str<'i>) -> Result<TransactionState<'i>, Refusal> {
    let described = match id.is_empty() {
        true => Err(ErrorCode::InvalidRequest),
        false => {
            let describe = TransactionRequest::Describe { transactional_id: id.to_string() };
            verification::ask(broker, id, describe).await?
        }
    };
    Ok(match described {
        Ok(TransactionReply::Described(found)) => TransactionState {
            error_code: ErrorCode::None.code(),
            transactional_id: id.clone(),
            transaction_state: Str::Borrowed(found.state.name()),
            transaction_timeout_ms: found.timeout_ms,
            transaction_start_time_ms: found.started_ms,
            producer_id: found.producer.id,
            producer_epoch: found.producer.epoch,
            topics: found
                .partitions
                .into_iter()
                .map(|(topic, indexes)| TopicData { topic: topic.into(), partitions: indexes.into_iter().collect() })
                .collect(),
        },
        Ok(other) => unreachable!("not the answer to this question: {other:?}"),
        Err(error) => TransactionState { error_code: error.code(), transactional_id: id.clone(), ..Default::default() },
    })
}

/// Lists transactional ids.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn list(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: ListTransactionsRequest<'_> = call.decode()?;
    let (mut states, mut unknown_state_filters) = (BTreeSet::new(), Vec::new());
    for name in &request.state_filters {
        match State::from_name(name) {
            Some(state) => drop(states.insert(state)),
            None => unknown_state_filters.push(name.clone()),
        }
    }
    if states.is_empty() && !request.state_filters.is_empty() {
        return call.answer(&ListTransactionsResponse { unknown_state_filters, ..Default::default() });
    }
    let pattern = match pattern(request.transactional_id_pattern.as_deref()) {
        Ok(pattern) => pattern,
        Err(error) => {
            let error_code = error.code();
            return call.answer(&ListTransactionsResponse { error_code, ..Default::default() });
        }
    };
    let (states, producer_ids) = (Arc::new(states), Arc::new(request.producer_id_filters.iter().copied().collect()));
    let asked: Vec<_> = coordinators::partitions(broker, Kind::Transaction)
        .into_iter()
        .map(|id| {
            let list = TransactionRequest::List {
                states: states.clone(),
                producer_ids: Arc::clone(&producer_ids),
                older_than_ms: request.duration_filter,
            };
            coordinators::ask_partition(broker, id, coordinator::Request::Transaction(list))
        })
        .collect();
    let mut transaction_states = Vec::new();
    for asked in asked {
        match asked.answer().await? {
            coordinator::Reply::Transaction(TransactionReply::Listed(listed)) => {
                let matching =
                    listed.into_iter().filter(|(id, ..)| pattern.as_ref().is_none_or(|pattern| pattern.is_match(id)));
                transaction_states.extend(matching.map(|(id, producer, state)| list_transactions::TransactionState {
                    transactional_id: id.into(),
                    producer_id: producer.id,
                    transaction_state: Str::Borrowed(state.name()),
                }));
            }
            coordinator::Reply::Refused(error) => {
                let error_code = error.code();
                return call.answer(&ListTransactionsResponse { error_code, ..Default::default() });
            }
            other => unreachable!("not of the transaction coordinator: {other:?}"),
        }
    }
    let may_see = |id: &str| allows(broker, call, Operation::Describe, Resource::TransactionalId(id));
    transaction_states.retain(|state| may_see(&state.transactional_id));
    call.answer(&ListTransactionsResponse { unknown_state_filters, transaction_states, ..Default::default() })
}

/// The filter on ids.
fn pattern(text: Option<&str>) -> Result<Option<Pattern>, ErrorCode> {
    let compile = |text| Pattern::compile(text).map_err(|_| ErrorCode::InvalidRegularExpression);
    text.filter(|text| !text.is_empty()).map(compile).transpose()
}
