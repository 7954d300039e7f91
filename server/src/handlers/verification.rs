//! Whether producers may append in their transactions: asked of the partition, then of the coordinator (KIP-890).
//!
//! The invariant: a batch or an offset that opens a transaction in a partition comes with a guard that the
//! partition gave out before the coordinator was asked, so that a marker in between voids it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use engine::controller::BrokerValues;
use engine::coordinator::transaction::{TransactionReply, TransactionRequest};
use engine::coordinator::{self, Kind, Producer};
use engine::protocol::ErrorCode;
use engine::shard::message::{Guard, PartitionId, Reply, Request, Verification, VerifyTransaction};

use super::coordinators;
use super::route::Fan;
use crate::broker::Broker;
use crate::dispatch::Refusal;

/// The first pause before the coordinator is asked again while it still ends the transaction before; doubled
/// each time.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// How long it is asked again (Kafka's `add.partitions.to.txn.retry.backoff.max.ms`).
const PATIENCE: Duration = Duration::from_millis(100);

/// What a client's version expects of the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Partitions were added before; old errors.
    Verify,
    /// Partitions were added before; TRANSACTION_ABORTABLE is understood.
    VerifyAbortable,
    /// The broker adds the partition; each transaction has an epoch of its own.
    Add,
}

/// A producer in a partition.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Where.
    pub id: PartitionId,
    /// Who.
    pub producer: Producer,
    /// The sequence of its first record, −1 for offsets.
    pub first_sequence: i32,
}

/// A guard if the transaction is to be opened there, `None` if it is open; or the client's error.
pub type Verified = Result<Option<Guard>, ErrorCode>;

/// Verifies each of `wanted`, in order.
///
/// # Errors
/// If the node stops.
pub async fn verify(
    broker: &Broker,
    transactional_id: &str,
    operation: Operation,
    wanted: &[Wanted],
) -> Result<Vec<Verified>, Refusal> {
    let mut verified = ask_partitions(broker, operation, wanted).await?;
    if operation != Operation::Add && !is_enabled(broker) {
        return Ok(verified);
    }
    let mut by_producer: BTreeMap<Producer, Vec<usize>> = BTreeMap::new();
    for (place, (wanted, result)) in wanted.iter().zip(&verified).enumerate() {
        if matches!(result, Ok(Some(_))) {
            by_producer.entry(wanted.producer).or_default().push(place);
        }
    }
    for (producer, places) in by_producer {
        let ids: Vec<PartitionId> = places.iter().map(|place| wanted[*place].id).collect();
        let errors = ask_coordinator(broker, transactional_id, operation, producer, &ids).await?;
        for (place, error) in places.into_iter().zip(errors) {
            if error != ErrorCode::None {
                verified[place] = Err(for_client(error, operation));
            }
        }
    }
    Ok(verified)
}

/// Whether the coordinator is asked about partitions that clients added themselves. Those that the broker adds it is
/// told of in any case.
fn is_enabled(broker: &Broker) -> bool {
    let image = broker.image();
    BrokerValues::new(broker.settings(), &image).boolean("transaction.partition.verification.enable")
}

async fn ask_partitions(broker: &Broker, operation: Operation, wanted: &[Wanted]) -> Result<Vec<Verified>, Refusal> {
    let mut fan = Fan::new(broker);
    for (place, wanted) in wanted.iter().enumerate() {
        let part = VerifyTransaction {
            id: wanted.id,
            producer_id: wanted.producer.id,
            epoch: wanted.producer.epoch,
            first_sequence: wanted.first_sequence,
            bumps_epoch: operation == Operation::Add,
        };
        fan.add(wanted.id, place, part);
    }
    let asked: Vec<_> = fan
        .into_groups()
        .into_iter()
        .map(|group| (group.places, broker.core.request(group.shard, Request::VerifyTransactions(group.parts))))
        .collect();
    let mut verified = vec![Ok(None); wanted.len()];
    for (places, reply) in asked {
        let Some(Reply::VerifyTransactions(results)) = reply.await else { return Err(Refusal::Stopping) };
        for (place, result) in places.into_iter().zip(results) {
            verified[place] = result.map(|verification| match verification {
                Verification::Open => None,
                Verification::Ask(guard) => Some(guard),
            });
        }
    }
    Ok(verified)
}

/// The coordinator's verdict on each partition. While it is still busy with the end of the transaction before, a
/// client of version 2 is not troubled: it may send as soon as its EndTxn is answered.
async fn ask_coordinator(
    broker: &Broker,
    transactional_id: &str,
    operation: Operation,
    producer: Producer,
    ids: &[PartitionId],
) -> Result<Vec<ErrorCode>, Refusal> {
    let image = broker.image();
    let mut partitions: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
    let names = ids.iter().map(|id| image.topics.get(&id.topic_id).map(|topic| (topic.name.clone(), id.partition)));
    let names: Vec<Option<(String, i32)>> = names.map(|name| name.map(|(name, at)| (name.to_string(), at))).collect();
    for (topic, partition) in names.iter().flatten() {
        partitions.entry(topic.clone()).or_default().insert(*partition);
    }
    let deadline = broker.io().now() + PATIENCE;
    let mut pause = FIRST_PAUSE;
    let reply = loop {
        let request = TransactionRequest::AddPartitions {
            transactional_id: transactional_id.to_owned(),
            producer,
            partitions: partitions.clone(),
            bumps_epoch: operation == Operation::Add,
            verify_only: operation != Operation::Add,
        };
        let reply = ask(broker, transactional_id, request).await?;
        let busy = reply == Err(ErrorCode::ConcurrentTransactions) && operation == Operation::Add;
        if !busy || broker.io().now() >= deadline {
            break reply;
        }
        broker.io().sleep(pause).await;
        pause *= 2;
    };
    let results: BTreeMap<(String, i32), ErrorCode> = match reply {
        Err(error) => return Ok(vec![error; ids.len()]),
        Ok(TransactionReply::Partitions(results)) => {
            results.into_iter().map(|(topic, partition, error)| ((topic, partition), error)).collect()
        }
        Ok(other) => unreachable!("not the answer to this question: {other:?}"),
    };
    let of = |name: Option<(String, i32)>| {
        name.and_then(|name| results.get(&name).copied()).unwrap_or(ErrorCode::UnknownTopicOrPartition)
    };
    Ok(names.into_iter().map(of).collect())
}

/// Asks the coordinator of the transactional id.
///
/// # Errors
/// If the node stops; the inner error is the coordinator's.
pub async fn ask(
    broker: &Broker,
    transactional_id: &str,
    request: TransactionRequest,
) -> Result<Result<TransactionReply, ErrorCode>, Refusal> {
    let request = coordinator::Request::Transaction(request);
    Ok(match coordinators::ask(broker, Kind::Transaction, transactional_id, request).await? {
        coordinator::Reply::Transaction(reply) => Ok(reply),
        coordinator::Reply::Refused(error) => Err(error),
        other => unreachable!("not of the transaction coordinator: {other:?}"),
    })
}

/// What a client of that version understands (`AddPartitionsToTxnManager`, `ReplicaManager`).
fn for_client(error: ErrorCode, operation: Operation) -> ErrorCode {
    match error {
        ErrorCode::ProducerFenced => ErrorCode::InvalidProducerEpoch,
        ErrorCode::TransactionAbortable if operation == Operation::Verify => ErrorCode::InvalidTxnState,
        // Older clients do not send again after these, but after NOT_ENOUGH_REPLICAS.
        ErrorCode::ConcurrentTransactions if operation != Operation::Add => ErrorCode::NotEnoughReplicas,
        ErrorCode::CoordinatorLoadInProgress | ErrorCode::CoordinatorNotAvailable | ErrorCode::NotCoordinator => {
            ErrorCode::NotEnoughReplicas
        }
        other => other,
    }
}
