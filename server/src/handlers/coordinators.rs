//! Finding coordinators, for clients and for the handlers of their requests.
//!
//! A key's coordinator is the leader of the internal topic's partition that the key's hash names. The internal
//! topics are made when somebody first looks for a coordinator.

use std::collections::BTreeMap;
use std::rc::Rc;

use engine::controller::{BrokerValues, ControllerReply, ControllerRequest, NewTopic};
use engine::coordinator::share::SharePartitionKey;
use engine::coordinator::{self, Kind, partition_of};
use engine::io::local::Receiver;
use engine::protocol::messages::find_coordinator::{Coordinator, FindCoordinatorRequest, FindCoordinatorResponse};
use engine::protocol::{ErrorCode, Str};
use engine::shard::message::{PartitionId, Reply, Request, owner};

use super::{route, share_groups};
use crate::authorizer::{Operation, Resource, authorize, sentence};
use crate::broker::Broker;
use crate::dispatch::{Answer, Call, Refusal};

/// From this version on a request names several keys.
const BATCHED: i16 = 4;
/// The codes of FindCoordinator for kinds of keys.
const GROUP_KEY: i8 = 0;
const TRANSACTION_KEY: i8 = 1;
const SHARE_KEY: i8 = 2;
/// From this version on share partitions have coordinators.
const FINDS_SHARES: i16 = 6;

/// Names the coordinators of groups and of transactional ids.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn find(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: FindCoordinatorRequest<'_> = call.decode()?;
    let kind = match request.key_type {
        GROUP_KEY => Ok(Kind::Group),
        TRANSACTION_KEY => Ok(Kind::Transaction),
        SHARE_KEY if call.version >= FINDS_SHARES => Ok(Kind::Share),
        _ => Err(ErrorCode::InvalidRequest),
    };
    let may_find = |key: &str| match kind {
        Ok(Kind::Group) => authorize(broker, call, Operation::Describe, Resource::Group(key)),
        Ok(Kind::Transaction) => authorize(broker, call, Operation::Describe, Resource::TransactionalId(key)),
        Ok(Kind::Share) => {
            authorize(broker, call, Operation::ClusterAction, Resource::Cluster)?;
            let is_right = share_groups::are_enabled(broker) && SharePartitionKey::is_coordinator_key(key);
            if is_right { Ok(()) } else { Err(ErrorCode::InvalidRequest) }
        }
        Err(error) => Err(error),
    };
    let mut keys = request.coordinator_keys.iter().map(|key| &**key);
    let asks_for_some = match call.version < BATCHED {
        true => may_find(&request.key).is_ok(),
        false => keys.any(|key| may_find(key).is_ok()),
    };
    // Who may not see a single one of them makes no topics.
    let made = match kind {
        Ok(kind) if asks_for_some => make_topic(broker, kind).await?.map(|()| kind),
        kind => kind,
    };
    let leads = |key: &str| {
        let found = may_find(key).and(made).and_then(|kind| partition(broker, kind, key));
        found.err().unwrap_or(ErrorCode::None)
    };
    let (host, port) = broker.config.advertised();
    let (this, host, port) = (broker.node_id(), Str::Borrowed(host), i32::from(port));
    if call.version < BATCHED {
        let error = leads(&request.key);
        let (node_id, host, port) =
            if error == ErrorCode::None { (this, host, port) } else { (-1, Str::Borrowed(""), -1) };
        let error_message = Some(Str::Borrowed(if error == ErrorCode::None { "NONE" } else { message(error) }));
        let error_code = error.code();
        let response = FindCoordinatorResponse { error_code, error_message, node_id, host, port, ..Default::default() };
        return call.answer(&response);
    }
    let coordinators = request.coordinator_keys.iter().map(|key| {
        let error = leads(key);
        let found = error == ErrorCode::None;
        Coordinator {
            key: key.clone(),
            node_id: if found { this } else { -1 },
            host: if found { host.clone() } else { Str::Borrowed("") },
            port: if found { port } else { -1 },
            error_code: error.code(),
            error_message: Some(Str::Borrowed(message(error))),
        }
    });
    call.answer(&FindCoordinatorResponse {
        coordinators: coordinators.collect(),
        error_message: Some(Str::Borrowed("")),
        ..Default::default()
    })
}

fn message(error: ErrorCode) -> &'static str {
    match error {
        ErrorCode::None => "",
        ErrorCode::InvalidRequest => "The coordinator type is not one that this broker has.",
        ErrorCode::GroupAuthorizationFailed | ErrorCode::TransactionalIdAuthorizationFailed => sentence(error),
        _ => "The coordinator is not available.",
    }
}

/// Makes the internal topic if it is not there. The inner error is for the client.
pub(super) async fn make_topic(broker: &Broker, kind: Kind) -> Result<Result<(), ErrorCode>, Refusal> {
    let image = broker.image();
    if image.topic(kind.topic()).is_some() {
        return Ok(Ok(()));
    }
    let values = BrokerValues::new(broker.settings(), &image);
    let (partitions, segment_bytes, compression) = match kind {
        Kind::Group => ("offsets.topic.num.partitions", "offsets.topic.segment.bytes", "producer"),
        Kind::Transaction => {
            ("transaction.state.log.num.partitions", "transaction.state.log.segment.bytes", "uncompressed")
        }
        Kind::Share => {
            ("share.coordinator.state.topic.num.partitions", "share.coordinator.state.topic.segment.bytes", "producer")
        }
    };
    let setting = |name: &str, value: String| (name.to_owned(), Some(value));
    // A share partition's updates have one key and add up, so that none of them may go.
    let (cleanup, more) = match kind {
        Kind::Group | Kind::Transaction => ("compact", None),
        Kind::Share => ("delete", Some(setting("retention.ms", "-1".to_owned()))),
    };
    let topic = NewTopic {
        name: kind.topic().to_owned(),
        partitions: i32::try_from(values.number(partitions)).unwrap_or(i32::MAX),
        // As many replicas as are configured, but no more than there are brokers: here one.
        replication_factor: 1,
        assignments: Vec::new(),
        configs: [
            setting("cleanup.policy", cleanup.to_owned()),
            setting("compression.type", compression.to_owned()),
            setting("segment.bytes", values.number(segment_bytes).to_string()),
        ]
        .into_iter()
        .chain(more)
        .collect(),
    };
    let request = ControllerRequest::CreateTopics { topics: vec![topic], validate_only: false };
    let Some(ControllerReply::CreateTopics(created)) = broker.core.controller(request).await else {
        return Err(Refusal::Stopping);
    };
    let refused = created.into_iter().find_map(|created| created.result.err());
    Ok(match refused {
        Some(refused) if refused.error != ErrorCode::TopicAlreadyExists => {
            tracing::error!(topic = kind.topic(), error = refused.error.name(), "an internal topic cannot be made");
            Err(ErrorCode::CoordinatorNotAvailable)
        }
        _ => Ok(()),
    })
}

/// The partition whose leader is the key's coordinator; this broker leads it.
///
/// # Errors
/// NOT_COORDINATOR if it does not.
pub fn partition(broker: &Broker, kind: Kind, key: &str) -> Result<PartitionId, ErrorCode> {
    let image = broker.image();
    let topic = image.topic(kind.topic()).ok_or(ErrorCode::NotCoordinator)?;
    let index = partition_of(key, topic.partitions.len());
    route::find_partition(broker, topic, index).map_err(|_| ErrorCode::NotCoordinator)
}

/// All partitions of the internal topic that this broker leads.
pub fn partitions(broker: &Broker, kind: Kind) -> Vec<PartitionId> {
    let image = broker.image();
    let Some(topic) = image.topic(kind.topic()) else { return Vec::new() };
    let all = 0..topic.partitions.len() as i32;
    all.filter_map(|index| route::find_partition(broker, topic, index).ok()).collect()
}

/// Keys by the partition that they belong to, each with its place among those asked for.
type KeysByPartition = BTreeMap<PartitionId, Vec<(usize, String)>>;

/// Keys by the partition that they belong to; and the places of those whose coordinator
/// is not here.
pub fn by_partition<'k>(
    broker: &Broker,
    kind: Kind,
    keys: impl Iterator<Item = &'k str>,
) -> (KeysByPartition, Vec<(usize, ErrorCode)>) {
    let (mut found, mut elsewhere) = (BTreeMap::<_, Vec<_>>::new(), Vec::new());
    for (place, key) in keys.enumerate() {
        match partition(broker, kind, key) {
            Ok(id) => found.entry(id).or_default().push((place, key.to_owned())),
            Err(error) => elsewhere.push((place, error)),
        }
    }
    (found, elsewhere)
}

/// A question that is on its way to a coordinator.
pub struct Asked(Receiver<Reply>);

impl Asked {
    /// The coordinator's answer.
    ///
    /// # Errors
    /// If the node stops.
    pub async fn answer(self) -> Result<coordinator::Reply, Refusal> {
        match self.0.await {
            Some(Reply::Coordinate(reply)) => Ok(reply),
            _ => Err(Refusal::Stopping),
        }
    }
}

/// Asks the coordinator over that partition. The question is on its way when this returns.
pub fn ask_partition(broker: &Broker, id: PartitionId, request: coordinator::Request) -> Asked {
    Asked(broker.core.request(owner(id, broker.core.shards()), Request::Coordinate(id, request)))
}

/// Asks the coordinator of that key, and waits for its answer.
///
/// # Errors
/// If the node stops.
pub async fn ask(
    broker: &Broker,
    kind: Kind,
    key: &str,
    request: coordinator::Request,
) -> Result<coordinator::Reply, Refusal> {
    match partition(broker, kind, key) {
        Ok(id) => ask_partition(broker, id, request).answer().await,
        Err(error) => Ok(error.into()),
    }
}
