//! CreateTopics, DeleteTopics and CreatePartitions.
//!
//! What is allowed is for the controller to decide; here its words are put into messages and back. An answer
//! leaves when the change is on stable storage and in force on every core.

use std::collections::BTreeMap;
use std::rc::Rc;

use engine::controller::{
    BrokerValues, ConfigEntry, ControllerReply, ControllerRequest, CreatedTopic, DeletedTopic, NewPartitions, NewTopic,
    Refusal as Refused, TopicName,
};
use engine::io::Pace;
use engine::protocol::messages::create_partitions::{
    CreatePartitionsAssignment, CreatePartitionsRequest, CreatePartitionsResponse, CreatePartitionsTopic,
    CreatePartitionsTopicResult,
};
use engine::protocol::messages::create_topics::{
    CreatableTopic, CreatableTopicConfigs, CreatableTopicResult, CreateTopicsRequest, CreateTopicsResponse,
};
use engine::protocol::messages::delete_topics::{DeletableTopicResult, DeleteTopicsRequest, DeleteTopicsResponse};
use engine::protocol::{ErrorCode, Str, Uuid};

use super::in_time;
use crate::authorizer::{Operation, Resource, allows, authorize, sentence};
use crate::broker::Broker;
use crate::dispatch::{Answer, Call, Refusal};

/// Makes topics.
///
/// # Errors
/// If the request cannot be read.
pub async fn create(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: CreateTopicsRequest<'_> = call.decode()?;
    let quota = Mutations { call, strict: call.version >= 6, counts: !request.validate_only };
    let may_create_all = allows(broker, call, Operation::Create, Resource::Cluster);
    let (mut refused, mut topics, mut counted) = (Vec::new(), Vec::new(), BTreeMap::new());
    let pace = Pace::new(broker.io());
    for topic in &request.topics {
        pace.spend(1).await;
        let partitions = partitions_of(broker, topic);
        let allowed = match may_create_all {
            true => Ok(()),
            false => authorize(broker, call, Operation::Create, Resource::Topic(&topic.name)),
        };
        let allowed = allowed.map_err(|error| Refused::new(error, "Authorization failed."));
        match allowed.and_then(|()| quota.take(request.timeout_ms, partitions)) {
            Ok(()) => {
                counted.insert(topic.name.to_string(), partitions);
                topics.push(new_topic(topic));
            }
            Err(why) => refused.push(CreatedTopic { name: topic.name.to_string(), result: Err(why) }),
        }
    }
    let asked = ControllerRequest::CreateTopics { topics, validate_only: request.validate_only };
    let Some(ControllerReply::CreateTopics(mut created)) = broker.core.controller(asked).await else {
        return Err(Refusal::Stopping);
    };
    quota.give_back(created.iter().filter(|topic| topic.result.is_err()).filter_map(|topic| counted.get(&topic.name)));
    created.extend(refused);
    let may_see_configs = |name: &str| allows(broker, call, Operation::DescribeConfigs, Resource::Topic(name));
    let topics = created.iter().map(|created| match &created.result {
        Ok(state) if !may_see_configs(&created.name) => CreatableTopicResult {
            name: Str::Borrowed(&created.name),
            topic_id: state.id,
            error_message: None,
            topic_config_error_code: ErrorCode::TopicAuthorizationFailed.code(),
            configs: Some(Vec::new()),
            ..Default::default()
        },
        Ok(state) => CreatableTopicResult {
            name: Str::Borrowed(&created.name),
            topic_id: state.id,
            error_message: None,
            num_partitions: state.partitions,
            replication_factor: state.replication_factor,
            configs: Some(state.configs.iter().map(created_config).collect()),
            ..Default::default()
        },
        Err(refused) => CreatableTopicResult {
            name: Str::Borrowed(&created.name),
            error_code: refused.error.code(),
            error_message: message(refused),
            configs: Some(Vec::new()),
            ..Default::default()
        },
    });
    call.answer(&CreateTopicsResponse { topics: topics.collect(), ..Default::default() })
}

/// How many partitions a topic would get.
fn partitions_of(broker: &Broker, topic: &CreatableTopic<'_>) -> usize {
    let image = broker.image();
    let default = || BrokerValues::new(broker.settings(), &image).number("num.partitions");
    match topic.num_partitions {
        _ if !topic.assignments.is_empty() => topic.assignments.len(),
        -1 => usize::try_from(default()).unwrap_or(1),
        partitions => usize::try_from(partitions).unwrap_or(0),
    }
}

/// The account of partitions that a request makes or removes (KIP-599). Older clients do not know the error of
/// who is over it: they are only told to be silent.
struct Mutations<'c> {
    call: &'c Call,
    strict: bool,
    counts: bool,
}

impl Mutations<'_> {
    /// Counts partitions, if there is time for them. Who knows the error is refused for what was counted before, and
    /// told to be silent only then; who does not is told at once.
    fn take(&self, timeout_ms: i32, partitions: usize) -> Result<(), Refused> {
        in_time(timeout_ms).map_err(Refused::plain)?;
        if !self.counts {
            return Ok(());
        }
        let (client, client_id) = (&self.call.client, self.call.client_id());
        let taken = client.quotas.mutate(client, client_id, partitions, self.strict);
        if !taken || !self.strict {
            self.call.throttle(client.quotas.mutation_throttle(client, client_id));
        }
        if taken { Ok(()) } else { Err(Refused::plain(ErrorCode::ThrottlingQuotaExceeded)) }
    }

    /// Takes back what was counted for nothing.
    fn give_back<'n>(&self, partitions: impl Iterator<Item = &'n usize>) {
        let (client, client_id) = (&self.call.client, self.call.client_id());
        let partitions: usize = partitions.sum();
        if self.counts && partitions > 0 {
            client.quotas.unmutate(client, client_id, partitions);
        }
    }
}

fn new_topic(topic: &CreatableTopic<'_>) -> NewTopic {
    NewTopic {
        name: topic.name.to_string(),
        partitions: topic.num_partitions,
        replication_factor: topic.replication_factor,
        assignments: topic
            .assignments
            .iter()
            .map(|assigned| (assigned.partition_index, assigned.broker_ids.clone()))
            .collect(),
        configs: topic
            .configs
            .iter()
            .map(|config| (config.name.to_string(), config.value.as_deref().map(str::to_owned)))
            .collect(),
    }
}

fn created_config(entry: &ConfigEntry) -> CreatableTopicConfigs<'_> {
    CreatableTopicConfigs {
        name: Str::Borrowed(&entry.name),
        value: entry.value.as_deref().map(Str::Borrowed),
        read_only: entry.read_only,
        config_source: entry.source.code(),
        is_sensitive: entry.is_sensitive,
    }
}

fn message(refused: &Refused) -> Option<Str<'_>> {
    refused.message.as_deref().map(Str::Borrowed)
}

/// Removes topics, by name or from version 6 on also by id.
///
/// # Errors
/// If the request cannot be read.
pub async fn delete(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: DeleteTopicsRequest<'_> = call.decode()?;
    let by_name =
        request.topic_names.iter().map(|name| TopicName { name: Some(name.to_string()), ..Default::default() });
    let by_either = request
        .topics
        .iter()
        .map(|topic| TopicName { name: topic.name.as_deref().map(str::to_owned), id: topic.topic_id });
    let quota = Mutations { call, strict: call.version >= 5, counts: true };
    let (mut refused, mut topics) = (Vec::new(), Vec::new());
    let pace = Pace::new(broker.io());
    for topic in by_name.chain(by_either) {
        pace.spend(1).await;
        match may_delete(broker, call, &topic) {
            Err(deleted) => refused.push(deleted),
            Ok(partitions) => match quota.take(request.timeout_ms, partitions) {
                Err(why) => refused.push(DeletedTopic { name: topic.name, id: topic.id, result: Err(why) }),
                Ok(()) => topics.push(topic),
            },
        }
    }
    let asked = ControllerRequest::DeleteTopics(topics);
    let Some(ControllerReply::DeleteTopics(mut deleted)) = broker.core.controller(asked).await else {
        return Err(Refusal::Stopping);
    };
    deleted.extend(refused);
    let responses = deleted.iter().map(|deleted| {
        let refused = deleted.result.as_ref().err();
        DeletableTopicResult {
            name: deleted.name.as_deref().map(Str::Borrowed),
            topic_id: deleted.id,
            error_code: refused.map_or(ErrorCode::None, |refused| refused.error).code(),
            error_message: refused.and_then(message),
        }
    });
    call.answer(&DeleteTopicsResponse { responses: responses.collect(), ..Default::default() })
}

/// How many partitions would go with the topic; or the answer to who may not delete it, which names it as far
/// as he knew it.
fn may_delete(broker: &Broker, call: &Call, topic: &TopicName) -> Result<usize, DeletedTopic> {
    let image = broker.image();
    let found = match &topic.name {
        Some(name) => image.topic(name),
        None => image.topics.get(&topic.id),
    };
    let name = topic.name.as_deref().or(found.map(|found| found.name.as_str()));
    let allowed = |operation| name.map_or(Ok(()), |name| authorize(broker, call, operation, Resource::Topic(name)));
    let refused = |error, name: Option<&str>, id| {
        let result = Err(Refused::new(error, sentence(error)));
        DeletedTopic { name: name.map(str::to_owned), id, result }
    };
    allowed(Operation::Describe).map_err(|error| refused(error, topic.name.as_deref(), topic.id))?;
    allowed(Operation::Delete).map_err(|error| refused(error, name, found.map_or(Uuid::ZERO, |found| found.id)))?;
    Ok(found.map_or(0, |found| found.partitions.len()))
}

/// Gives topics more partitions.
///
/// # Errors
/// If the request cannot be read.
pub async fn create_partitions(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: CreatePartitionsRequest<'_> = call.decode()?;
    let quota = Mutations { call, strict: call.version >= 3, counts: !request.validate_only };
    let (mut refused, mut topics, mut counted) = (Vec::new(), Vec::new(), BTreeMap::new());
    let pace = Pace::new(broker.io());
    for topic in &request.topics {
        pace.spend(1).await;
        let allowed = authorize(broker, call, Operation::Alter, Resource::Topic(&topic.name));
        let partitions = added_partitions(broker, topic);
        let allowed = allowed.map_err(|error| Refused::new(error, sentence(error)));
        match allowed.and_then(|()| quota.take(request.timeout_ms, partitions)) {
            Ok(()) => {
                counted.insert(topic.name.to_string(), partitions);
                topics.push(new_partitions(topic));
            }
            Err(why) => refused.push((topic.name.to_string(), Err(why))),
        }
    }
    let asked = ControllerRequest::CreatePartitions { topics, validate_only: request.validate_only };
    let Some(ControllerReply::CreatePartitions(mut results)) = broker.core.controller(asked).await else {
        return Err(Refusal::Stopping);
    };
    quota.give_back(results.iter().filter(|(_, result)| result.is_err()).filter_map(|(name, _)| counted.get(name)));
    results.extend(refused);
    let results = results.iter().map(|(name, result)| {
        let refused = result.as_ref().err();
        CreatePartitionsTopicResult {
            name: Str::Borrowed(name),
            error_code: refused.map_or(ErrorCode::None, |refused| refused.error).code(),
            error_message: refused.and_then(message),
        }
    });
    call.answer(&CreatePartitionsResponse { results: results.collect(), ..Default::default() })
}

fn new_partitions(topic: &CreatePartitionsTopic<'_>) -> NewPartitions {
    let assigned = |all: &Vec<CreatePartitionsAssignment>| all.iter().map(|one| one.broker_ids.clone()).collect();
    NewPartitions {
        name: topic.name.to_string(),
        count: topic.count,
        assignments: topic.assignments.as_ref().map(assigned),
    }
}

fn added_partitions(broker: &Broker, topic: &CreatePartitionsTopic<'_>) -> usize {
    let known = broker.image().topic(&topic.name).map_or(0, |known| known.partitions.len());
    usize::try_from(topic.count).unwrap_or(0).saturating_sub(known)
}
