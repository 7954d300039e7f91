//! Metadata, DescribeCluster and DescribeTopicPartitions: brokers, topics, and who leads what.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use engine::controller::image::{MetadataImage, PartitionState, Topic};
use engine::controller::request::NewTopic;
use engine::controller::{ControllerReply, ControllerRequest, topics as topic_rules};
use engine::io::Pace;
use engine::protocol::messages::describe_cluster::{
    DescribeClusterBroker, DescribeClusterRequest, DescribeClusterResponse,
};
use engine::protocol::messages::describe_topic_partitions::{
    DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse, DescribeTopicPartitionsResponsePartition,
    DescribeTopicPartitionsResponseTopic, ResponseCursor,
};
use engine::protocol::messages::metadata::{
    MetadataRequest, MetadataRequestTopic, MetadataResponse, MetadataResponseBroker, MetadataResponsePartition,
    MetadataResponseTopic,
};
use engine::protocol::{ErrorCode, Str, Uuid};

use super::route;
use crate::authorizer::{OPERATIONS_NOT_ASKED, Operation, Resource, allows, authorize, authorized_operations};
use crate::broker::Broker;
use crate::dispatch::{Answer, Call, Refusal};

/// From this version on topics may be named by id.
const BY_ID: i16 = 12;
/// DescribeCluster's code for brokers, as against controllers.
const BROKERS: i8 = 1;

/// Brokers and topics; topics that are not there are made, if the client and the broker allow it.
///
/// # Errors
/// If the request cannot be read.
pub async fn metadata(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: MetadataRequest<'_> = call.decode()?;
    let image = broker.image();
    let asked = request.topics.as_deref().filter(|topics| call.version > 0 || !topics.is_empty());
    let mut topics: Vec<MetadataResponseTopic<'_>> = match asked {
        None => {
            let shown = |topic: &&Topic| allows(broker, call, Operation::Describe, Resource::Topic(&topic.name));
            let all = image.names.keys().filter_map(|name| image.topic(name)).map(|topic| &**topic);
            all.filter(shown).map(known_topic).collect()
        }
        Some(asked) => {
            let made = match request.allow_auto_topic_creation && broker.limits.auto_create_topics {
                true => make_missing(broker, call, &image, asked).await,
                false => BTreeMap::new(),
            };
            let pace = Pace::new(broker.io());
            let mut topics = Vec::with_capacity(asked.len());
            for asked in asked {
                let topic = authorized_topic(broker, call, &image, asked, &made);
                pace.spend(1 + topic.partitions.len()).await;
                topics.push(topic);
            }
            topics
        }
    };
    for topic in &mut topics {
        let known = topic.name.as_deref().filter(|_| topic.error_code == ErrorCode::None.code());
        topic.topic_authorized_operations = match known {
            Some(name) if request.include_topic_authorized_operations => {
                authorized_operations(broker, call, Resource::Topic(name))
            }
            _ => OPERATIONS_NOT_ASKED,
        };
    }
    let (host, port) = broker.config.advertised();
    let this =
        MetadataResponseBroker { node_id: broker.node_id(), host: Str::Borrowed(host), port: port.into(), rack: None };
    let cluster_authorized_operations = cluster_operations(broker, call, request.include_cluster_authorized_operations);
    call.answer(&MetadataResponse {
        brokers: vec![this],
        cluster_id: Some(Str::Borrowed(&image.cluster_id)),
        controller_id: broker.node_id(),
        topics,
        cluster_authorized_operations,
        ..Default::default()
    })
}

/// What the client may do to the cluster, if it asks; nothing, if it may not even ask that.
fn cluster_operations(broker: &Broker, call: &Call, asked: bool) -> i32 {
    match asked {
        false => OPERATIONS_NOT_ASKED,
        true if allows(broker, call, Operation::Describe, Resource::Cluster) => {
            authorized_operations(broker, call, Resource::Cluster)
        }
        true => 0,
    }
}

/// A topic that is asked for, unless the client may not see it: then neither an id is shown to who knows the
/// name, nor a name to who knows the id, and what is not there looks as what is.
fn authorized_topic<'a>(
    broker: &Broker,
    call: &Call,
    image: &'a MetadataImage,
    asked: &'a MetadataRequestTopic<'a>,
    made: &BTreeMap<String, ErrorCode>,
) -> MetadataResponseTopic<'a> {
    let named_by_id = call.version >= BY_ID && !asked.topic_id.is_zero();
    let name = match named_by_id {
        true => image.topics.get(&asked.topic_id).map(|topic| topic.name.as_str()),
        false => asked.name.as_deref(),
    };
    match name.map(|name| authorize(broker, call, Operation::Describe, Resource::Topic(name))) {
        Some(Err(error)) => MetadataResponseTopic {
            error_code: error.code(),
            name: name.filter(|_| !named_by_id).map(Str::Borrowed),
            topic_id: if named_by_id { asked.topic_id } else { Uuid::ZERO },
            ..Default::default()
        },
        _ => asked_topic(image, asked, call.version, made),
    }
}

fn asked_topic<'a>(
    image: &'a MetadataImage,
    asked: &'a MetadataRequestTopic<'a>,
    version: i16,
    made: &BTreeMap<String, ErrorCode>,
) -> MetadataResponseTopic<'a> {
    let name = asked.name.as_deref();
    // Topic ids may be sent from version 10 on, but were never understood before version 12.
    if version < BY_ID && (name.is_none() || !asked.topic_id.is_zero()) {
        let name = Some(Str::Borrowed(name.unwrap_or_default()));
        return MetadataResponseTopic {
            error_code: ErrorCode::InvalidRequest.code(),
            name,
            topic_id: asked.topic_id,
            ..Default::default()
        };
    }
    match route::find_topic(image, name.unwrap_or_default(), asked.topic_id) {
        Ok(topic) => known_topic(topic),
        Err(error) if !asked.topic_id.is_zero() => MetadataResponseTopic {
            error_code: error.code(),
            name: None,
            topic_id: asked.topic_id,
            ..Default::default()
        },
        Err(error) => {
            let name = name.unwrap_or_default();
            let invalid = topic_rules::check_name(name).is_err();
            let error =
                if invalid { ErrorCode::InvalidTopicException } else { made.get(name).copied().unwrap_or(error) };
            MetadataResponseTopic { error_code: error.code(), name: Some(Str::Borrowed(name)), ..Default::default() }
        }
    }
}

/// Makes the topics that are asked for by name and not there. Even what could be made is answered with
/// UNKNOWN_TOPIC_OR_PARTITION this time, as Kafka does; the client finds it when it asks again.
async fn make_missing(
    broker: &Broker,
    call: &Call,
    image: &MetadataImage,
    asked: &[MetadataRequestTopic<'_>],
) -> BTreeMap<String, ErrorCode> {
    let missing = asked.iter().filter(|topic| topic.topic_id.is_zero()).filter_map(|topic| topic.name.as_deref());
    let missing = missing.filter(|name| image.topic(name).is_none() && topic_rules::check_name(name).is_ok());
    let shown = missing.filter(|name| allows(broker, call, Operation::Describe, Resource::Topic(name)));
    let may_create = |name: &&str| {
        allows(broker, call, Operation::Create, Resource::Cluster)
            || allows(broker, call, Operation::Create, Resource::Topic(name))
    };
    let (names, denied): (BTreeSet<&str>, BTreeSet<&str>) = shown.partition(may_create);
    let denied = denied.into_iter().map(|name| (name.to_owned(), ErrorCode::TopicAuthorizationFailed));
    let denied: BTreeMap<String, ErrorCode> = denied.collect();
    if names.is_empty() {
        return denied;
    }
    let topic =
        |name: &str| NewTopic { name: name.to_owned(), partitions: -1, replication_factor: -1, ..Default::default() };
    let request =
        ControllerRequest::CreateTopics { topics: names.into_iter().map(topic).collect(), validate_only: false };
    let Some(ControllerReply::CreateTopics(created)) = broker.core.controller(request).await else {
        return denied;
    };
    let refused = created.into_iter().filter_map(|created| Some((created.name, created.result.err()?.error)));
    refused.filter(|(_, error)| *error != ErrorCode::TopicAlreadyExists).chain(denied).collect()
}

fn known_topic(topic: &Topic) -> MetadataResponseTopic<'_> {
    let partitions = topic.partitions.iter().zip(0..).map(|(state, partition_index)| MetadataResponsePartition {
        error_code: leader_error(state).code(),
        partition_index,
        leader_id: state.leader,
        leader_epoch: state.leader_epoch,
        replica_nodes: state.replicas.clone(),
        isr_nodes: state.isr.clone(),
        offline_replicas: Vec::new(),
    });
    MetadataResponseTopic {
        name: Some(Str::Borrowed(&topic.name)),
        topic_id: topic.id,
        is_internal: route::is_internal(&topic.name),
        partitions: partitions.collect(),
        ..Default::default()
    }
}

fn leader_error(state: &PartitionState) -> ErrorCode {
    if state.leader < 0 { ErrorCode::LeaderNotAvailable } else { ErrorCode::None }
}

/// Brokers alone.
///
/// # Errors
/// If the request cannot be read.
pub fn describe_cluster(broker: &Broker, call: &Call) -> Result<Answer, Refusal> {
    let request: DescribeClusterRequest = call.decode()?;
    let image = broker.image();
    if call.version >= 1 && request.endpoint_type != BROKERS {
        let controllers = request.endpoint_type == 2;
        let error = if controllers { ErrorCode::MismatchedEndpointType } else { ErrorCode::UnsupportedEndpointType };
        let message = match controllers {
            true => "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER",
            false => "Unsupported endpoint type",
        };
        let error_message = Some(Str::Borrowed(message));
        return call.answer(&DescribeClusterResponse { error_code: error.code(), error_message, ..Default::default() });
    }
    let (host, port) = broker.config.advertised();
    let this = DescribeClusterBroker {
        broker_id: broker.node_id(),
        host: Str::Borrowed(host),
        port: port.into(),
        ..Default::default()
    };
    let asked = request.include_cluster_authorized_operations;
    call.answer(&DescribeClusterResponse {
        endpoint_type: BROKERS,
        cluster_id: Str::Borrowed(&image.cluster_id),
        controller_id: broker.node_id(),
        brokers: vec![this],
        cluster_authorized_operations: cluster_operations(broker, call, asked),
        ..Default::default()
    })
}

/// Topics and their partitions, page by page.
///
/// # Errors
/// If the request cannot be read.
pub fn describe_topic_partitions(broker: &Broker, call: &Call) -> Result<Answer, Refusal> {
    let request: DescribeTopicPartitionsRequest<'_> = call.decode()?;
    let image = broker.image();
    let mut names: Vec<&str> = match request.topics.is_empty() {
        true => {
            let all = image.names.keys().map(String::as_str);
            all.filter(|name| allows(broker, call, Operation::Describe, Resource::Topic(name))).collect()
        }
        false => request.topics.iter().map(|topic| &*topic.name).collect(),
    };
    names.sort_unstable();
    names.dedup();
    let start = request.cursor.as_ref().map(|cursor| (&*cursor.topic_name, cursor.partition_index));
    let first = start.map_or(0, |(name, _)| names.partition_point(|other| *other < name));
    let limit = usize::try_from(request.response_partition_limit)
        .unwrap_or(0)
        .clamp(1, broker.limits.described_partitions.max(1));
    let mut page = Page { broker, call, left: limit, topics: Vec::new(), next: None };
    for name in &names[first..] {
        let from = start.filter(|(at, _)| at == name).map_or(0, |(_, partition)| partition);
        page.add(&image, name, from);
        if page.next.is_some() {
            break;
        }
    }
    call.answer(&DescribeTopicPartitionsResponse { topics: page.topics, next_cursor: page.next, ..Default::default() })
}

/// One answer's worth of partitions.
struct Page<'a> {
    broker: &'a Broker,
    call: &'a Call,
    left: usize,
    topics: Vec<DescribeTopicPartitionsResponseTopic<'a>>,
    next: Option<ResponseCursor<'a>>,
}

impl<'a> Page<'a> {
    /// Adds a topic's partitions, from one on, as far as they fit.
    fn add(&mut self, image: &'a MetadataImage, name: &'a str, from: i32) {
        if let Err(error) = authorize(self.broker, self.call, Operation::Describe, Resource::Topic(name)) {
            return self.add_refused(name, error);
        }
        let from = usize::try_from(from).unwrap_or(0);
        let topic = image.topic(name).filter(|topic| from == 0 || from < topic.partitions.len());
        let Some(topic) = topic else { return self.add_unknown(name) };
        if self.left == 0 {
            self.next = Some(ResponseCursor { topic_name: Str::Borrowed(name), partition_index: from as i32 });
            return;
        }
        let rest = topic.partitions.iter().zip(0..).skip(from);
        let partitions: Vec<_> = rest.take(self.left).map(|(state, index)| described_partition(state, index)).collect();
        self.left -= partitions.len();
        let end = from + partitions.len();
        if end < topic.partitions.len() {
            self.next = Some(ResponseCursor { topic_name: Str::Borrowed(name), partition_index: end as i32 });
        }
        self.topics.push(DescribeTopicPartitionsResponseTopic {
            name: Some(Str::Borrowed(name)),
            topic_id: topic.id,
            is_internal: route::is_internal(name),
            partitions,
            topic_authorized_operations: authorized_operations(self.broker, self.call, Resource::Topic(name)),
            ..Default::default()
        });
    }

    fn add_unknown(&mut self, name: &'a str) {
        let invalid = topic_rules::check_name(name).is_err();
        let error = if invalid { ErrorCode::InvalidTopicException } else { ErrorCode::UnknownTopicOrPartition };
        self.add_refused(name, error);
    }

    fn add_refused(&mut self, name: &'a str, error: ErrorCode) {
        self.topics.push(DescribeTopicPartitionsResponseTopic {
            error_code: error.code(),
            name: Some(Str::Borrowed(name)),
            topic_id: Uuid::ZERO,
            ..Default::default()
        });
    }
}

fn described_partition(state: &PartitionState, partition_index: i32) -> DescribeTopicPartitionsResponsePartition {
    DescribeTopicPartitionsResponsePartition {
        error_code: leader_error(state).code(),
        partition_index,
        leader_id: state.leader,
        leader_epoch: state.leader_epoch,
        replica_nodes: state.replicas.clone(),
        isr_nodes: state.isr.clone(),
        eligible_leader_replicas: Some(Vec::new()),
        last_known_elr: Some(Vec::new()),
        offline_replicas: Vec::new(),
    }
}
