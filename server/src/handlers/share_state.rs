//! The state of share partitions (KIP-932): InitializeShareGroupState, ReadShareGroupState, WriteShareGroupState,
//! DeleteShareGroupState, ReadShareGroupStateSummary; and asking the share coordinators for other handlers.
//!
//! Between brokers these are the APIs of the share coordinators. Here a share partition's leader asks them without,
//! so that who uses the APIs is a tool; he must be allowed to act for the cluster.

use std::collections::BTreeMap;
use std::rc::Rc;

use engine::coordinator::group::assignor::Assignment;
use engine::coordinator::group::share::offsets::Initialization;
use engine::coordinator::share::{ShareAction, SharePartitionKey, ShareRefusal, ShareReply, ShareRequest};
use engine::coordinator::{self, Kind, Reply};
use engine::limits::{SHARE_COORDINATOR_PATIENCE, SHARE_COORDINATOR_RETRY};
use engine::protocol::messages::delete_share_group_state as delete_api;
use engine::protocol::messages::initialize_share_group_state as initialize_api;
use engine::protocol::messages::read_share_group_state as read_api;
use engine::protocol::messages::read_share_group_state_summary as summary_api;
use engine::protocol::messages::write_share_group_state as write_api;
use engine::protocol::{ErrorCode, Str, Uuid};

use super::coordinators;
use crate::authorizer::{Operation, Resource, authorize, sentence};
use crate::broker::Broker;
use crate::dispatch::{Answer, Call, Refusal};

/// Asks the share coordinators about share partitions, all at once; gives one answer for each, in their order.
/// While one is not ready, it is asked again if `patient`.
pub(super) async fn ask(
    broker: &Broker,
    keys: &[SharePartitionKey],
    action: impl Fn(usize) -> ShareAction,
    patient: bool,
) -> Result<Vec<Result<ShareReply, ErrorCode>>, Refusal> {
    let until = broker.io().now() + SHARE_COORDINATOR_PATIENCE;
    let mut answers: Vec<Option<Result<ShareReply, ErrorCode>>> = keys.iter().map(|_| None).collect();
    loop {
        let ask = |place: usize| {
            let key = &keys[place];
            let request = ShareRequest { key: key.clone(), action: action(place) };
            let at = coordinators::partition(broker, Kind::Share, &key.coordinator_key())?;
            Ok(coordinators::ask_partition(broker, at, coordinator::Request::Share(request)))
        };
        let places: Vec<usize> = (0..keys.len()).filter(|place| answers[*place].is_none()).collect();
        let asked: Vec<_> = places.iter().map(|place| ask(*place)).collect();
        let may_retry = patient && broker.io().now() < until;
        for (place, asked) in places.into_iter().zip(asked) {
            let answer = match asked {
                Ok(asked) => match asked.answer().await? {
                    Reply::Share(reply) => Ok(reply),
                    Reply::Refused(error) => Err(error),
                    other => unreachable!("a coordinator answers what it is asked, not {other:?}"),
                },
                Err(error) => Err(error),
            };
            let is_final = answer.as_ref().err().is_none_or(|error| !may_retry || !error.retriable());
            answers[place] = is_final.then_some(answer);
        }
        if answers.iter().all(Option::is_some) {
            return Ok(answers.into_iter().map(|answer| answer.expect("all are there")).collect());
        }
        broker.io().sleep(SHARE_COORDINATOR_RETRY).await;
    }
}

/// What became of a share partition's change: Kafka's error and sentence.
pub(super) type Outcome = Result<(), (ErrorCode, &'static str)>;

fn done(answer: Result<ShareReply, ErrorCode>) -> Outcome {
    match answer {
        Ok(ShareReply::Done(result)) => result.map_err(|ShareRefusal(error, why)| (error, why)),
        Ok(other) => unreachable!("a coordinator answers what it is asked, not {other:?}"),
        Err(error) => Err((error, "The share coordinator is not available.")),
    }
}

/// Tells the share coordinators of new share partitions.
pub(super) async fn begin(
    broker: &Broker,
    group: &str,
    initialization: &Initialization,
) -> Result<BTreeMap<(Uuid, i32), Outcome>, Refusal> {
    let partitions = initialization.partitions.iter();
    let flat: Vec<(Uuid, i32, i64)> = partitions
        .flat_map(|(topic, partitions)| partitions.iter().map(|(partition, start)| (*topic, *partition, *start)))
        .collect();
    let key = |(topic_id, partition, _): &(Uuid, i32, i64)| SharePartitionKey {
        group: group.to_owned(),
        topic_id: *topic_id,
        partition: *partition,
    };
    let keys: Vec<SharePartitionKey> = flat.iter().map(key).collect();
    let state_epoch = initialization.state_epoch;
    let action = |place: usize| ShareAction::Initialize { state_epoch, start_offset: flat[place].2 };
    let answers = ask(broker, &keys, action, true).await?;
    Ok(flat.iter().map(|(topic, partition, _)| (*topic, *partition)).zip(answers.into_iter().map(done)).collect())
}

/// Lets the share coordinators forget share partitions; gives, for each topic, the first that went wrong.
pub(super) async fn forget(
    broker: &Broker,
    group: &str,
    partitions: &Assignment,
) -> Result<BTreeMap<Uuid, Outcome>, Refusal> {
    let flat = partitions.iter().flat_map(|(topic, partitions)| partitions.iter().map(|index| (*topic, *index)));
    let key = |(topic_id, partition)| SharePartitionKey { group: group.to_owned(), topic_id, partition };
    let keys: Vec<SharePartitionKey> = flat.map(key).collect();
    let answers = ask(broker, &keys, |_| ShareAction::Delete, true).await?;
    let mut outcomes = BTreeMap::new();
    for (key, answer) in keys.iter().zip(answers) {
        let outcome = outcomes.entry(key.topic_id).or_insert(Ok(()));
        if outcome.is_ok() {
            *outcome = done(answer);
        }
    }
    Ok(outcomes)
}

/// Topics of a request with their partitions.
type Asked<T> = Vec<(Uuid, Vec<(i32, T)>)>;
/// The same with an answer for each partition.
type Answered = Vec<(Uuid, Vec<(i32, Result<ShareReply, (ErrorCode, String)>)>)>;

/// Asks about each partition of a request of a client, if he may.
async fn ask_for<T>(
    broker: &Broker,
    call: &Call,
    group: &str,
    asked: &Asked<T>,
    action: impl Fn(&T) -> ShareAction,
) -> Result<Answered, Refusal> {
    // Kafka answers nothing at all to a request that names nothing.
    if group.is_empty() || asked.iter().any(|(_, partitions)| partitions.is_empty()) {
        return Ok(Vec::new());
    }
    let flat: Vec<(Uuid, i32, &T)> = asked
        .iter()
        .flat_map(|(topic, partitions)| partitions.iter().map(|(partition, content)| (*topic, *partition, content)))
        .collect();
    let allowed = authorize(broker, call, Operation::ClusterAction, Resource::Cluster);
    let answers = match allowed {
        Err(error) => flat.iter().map(|_| Err(error)).collect(),
        Ok(()) => {
            let key = |(topic_id, partition, _): &(Uuid, i32, &T)| SharePartitionKey {
                group: group.to_owned(),
                topic_id: *topic_id,
                partition: *partition,
            };
            let keys: Vec<SharePartitionKey> = flat.iter().map(key).collect();
            ask(broker, &keys, |place| action(flat[place].2), false).await?
        }
    };
    let why = |error: ErrorCode| match error {
        ErrorCode::ClusterAuthorizationFailed => sentence(error).to_owned(),
        _ => "The share coordinator is not available.".to_owned(),
    };
    let mut answers = answers.into_iter().map(|answer| answer.map_err(|error| (error, why(error))));
    let of_topic = |(topic, partitions): &(Uuid, Vec<(i32, T)>)| {
        let answered = partitions.iter().map(|(partition, _)| *partition).zip(answers.by_ref()).collect();
        (*topic, answered)
    };
    Ok(asked.iter().map(of_topic).collect())
}

/// Code and sentence of what was done.
fn told(answer: Result<ShareReply, (ErrorCode, String)>) -> (i16, Option<Str<'static>>) {
    match answer {
        Ok(ShareReply::Done(Ok(()))) => (0, None),
        Ok(ShareReply::Done(Err(ShareRefusal(error, why)))) => (error.code(), Some(why.into())),
        Ok(other) => unreachable!("a coordinator answers what it is asked, not {other:?}"),
        Err((error, why)) => (error.code(), Some(why.into())),
    }
}

/// Begins states.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn initialize(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    use initialize_api::{InitializeShareGroupStateResponse, InitializeStateResult, PartitionResult};
    let request: initialize_api::InitializeShareGroupStateRequest<'_> = call.decode()?;
    let asked: Asked<(i32, i64)> = request
        .topics
        .iter()
        .map(|topic| {
            let partitions = topic.partitions.iter();
            (
                topic.topic_id,
                partitions.map(|asked| (asked.partition, (asked.state_epoch, asked.start_offset))).collect(),
            )
        })
        .collect();
    let action = |(state_epoch, start_offset): &_| ShareAction::Initialize {
        state_epoch: *state_epoch,
        start_offset: *start_offset,
    };
    let answered = ask_for(broker, call, &request.group_id, &asked, action).await?;
    let result = |(partition, answer)| {
        let (error_code, error_message) = told(answer);
        PartitionResult { partition, error_code, error_message }
    };
    let results = answered.into_iter().map(|(topic_id, partitions)| InitializeStateResult {
        topic_id,
        partitions: partitions.into_iter().map(result).collect(),
    });
    call.answer(&InitializeShareGroupStateResponse { results: results.collect() })
}

/// Reads states for their leaders.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn read(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    use read_api::{PartitionResult, ReadShareGroupStateResponse, ReadStateResult};
    let request: read_api::ReadShareGroupStateRequest<'_> = call.decode()?;
    let asked: Asked<i32> = request
        .topics
        .iter()
        .map(|topic| {
            let partitions = topic.partitions.iter();
            (topic.topic_id, partitions.map(|asked| (asked.partition, asked.leader_epoch)).collect())
        })
        .collect();
    let action = |leader_epoch: &i32| ShareAction::Read { leader_epoch: *leader_epoch };
    let answered = ask_for(broker, call, &request.group_id, &asked, action).await?;
    let result = |(partition, answer)| match answer {
        Ok(ShareReply::Read(Ok(read))) => PartitionResult {
            partition,
            state_epoch: read.state_epoch,
            start_offset: read.start_offset,
            state_batches: read.batches,
            ..Default::default()
        },
        Ok(ShareReply::Read(Err(refusal))) => {
            let (error_code, error_message) = told(Ok(ShareReply::Done(Err(refusal))));
            PartitionResult { partition, error_code, error_message, ..Default::default() }
        }
        other => {
            let (error_code, error_message) = told(other);
            PartitionResult { partition, error_code, error_message, ..Default::default() }
        }
    };
    let results = answered.into_iter().map(|(topic_id, partitions)| ReadStateResult {
        topic_id,
        partitions: partitions.into_iter().map(result).collect(),
    });
    call.answer(&ReadShareGroupStateResponse { results: results.collect() })
}

/// Changes states.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn write(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    use write_api::{PartitionResult, WriteShareGroupStateResponse, WriteStateResult};
    let request: write_api::WriteShareGroupStateRequest<'_> = call.decode()?;
    let asked: Asked<&write_api::PartitionData> = request
        .topics
        .iter()
        .map(|topic| (topic.topic_id, topic.partitions.iter().map(|asked| (asked.partition, asked)).collect()))
        .collect();
    let action = |asked: &&write_api::PartitionData| ShareAction::Write {
        state_epoch: asked.state_epoch,
        leader_epoch: asked.leader_epoch,
        start_offset: asked.start_offset,
        batches: asked.state_batches.clone(),
    };
    let answered = ask_for(broker, call, &request.group_id, &asked, action).await?;
    let result = |(partition, answer)| {
        let (error_code, error_message) = told(answer);
        PartitionResult { partition, error_code, error_message }
    };
    let results = answered.into_iter().map(|(topic_id, partitions)| WriteStateResult {
        topic_id,
        partitions: partitions.into_iter().map(result).collect(),
    });
    call.answer(&WriteShareGroupStateResponse { results: results.collect() })
}

/// Forgets states.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn delete(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    use delete_api::{DeleteShareGroupStateResponse, DeleteStateResult, PartitionResult};
    let request: delete_api::DeleteShareGroupStateRequest<'_> = call.decode()?;
    let asked: Asked<()> = request
        .topics
        .iter()
        .map(|topic| (topic.topic_id, topic.partitions.iter().map(|asked| (asked.partition, ())).collect()))
        .collect();
    let answered = ask_for(broker, call, &request.group_id, &asked, |()| ShareAction::Delete).await?;
    let result = |(partition, answer)| {
        let (error_code, error_message) = told(answer);
        PartitionResult { partition, error_code, error_message }
    };
    let results = answered.into_iter().map(|(topic_id, partitions)| DeleteStateResult {
        topic_id,
        partitions: partitions.into_iter().map(result).collect(),
    });
    call.answer(&DeleteShareGroupStateResponse { results: results.collect() })
}

/// Reads starts and epochs.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn summarize(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    use summary_api::{PartitionResult, ReadShareGroupStateSummaryResponse, ReadStateSummaryResult};
    let request: summary_api::ReadShareGroupStateSummaryRequest<'_> = call.decode()?;
    let asked: Asked<()> = request
        .topics
        .iter()
        .map(|topic| (topic.topic_id, topic.partitions.iter().map(|asked| (asked.partition, ())).collect()))
        .collect();
    let answered = ask_for(broker, call, &request.group_id, &asked, |()| ShareAction::Summarize).await?;
    let result = |(partition, answer)| match answer {
        Ok(ShareReply::Summary(Ok(summary))) => PartitionResult {
            partition,
            state_epoch: summary.state_epoch,
            leader_epoch: summary.leader_epoch,
            start_offset: summary.start_offset,
            ..Default::default()
        },
        Ok(ShareReply::Summary(Err(refusal))) => {
            let (error_code, error_message) = told(Ok(ShareReply::Done(Err(refusal))));
            PartitionResult { partition, error_code, error_message, ..Default::default() }
        }
        other => {
            let (error_code, error_message) = told(other);
            PartitionResult { partition, error_code, error_message, ..Default::default() }
        }
    };
    let results = answered.into_iter().map(|(topic_id, partitions)| ReadStateSummaryResult {
        topic_id,
        partitions: partitions.into_iter().map(result).collect(),
    });
    call.answer(&ReadShareGroupStateSummaryResponse { results: results.collect() })
}
