//! CreateTopics, DeleteTopics, CreatePartitions and ListPartitionReassignments.
//!
//! What is allowed is for the controller to decide; here its words are put into messages and back. An answer
//! leaves when the change is on stable storage and in force on every core.

use std::rc::Rc;

use engine::controller::{
    ConfigEntry, ControllerReply, ControllerRequest, NewPartitions, NewTopic, Refusal as Refused, TopicName,
};
use engine::protocol::messages::create_partitions::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreatePartitionsTopicResult,
};
use engine::protocol::messages::create_topics::{
    CreatableTopic, CreatableTopicConfigs, CreatableTopicResult, CreateTopicsRequest, CreateTopicsResponse,
};
use engine::protocol::messages::delete_topics::{DeletableTopicResult, DeleteTopicsRequest, DeleteTopicsResponse};
use engine::protocol::messages::list_partition_reassignments::{
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse,
};
use engine::protocol::{ErrorCode, Str};

use crate::broker::Broker;
use crate::dispatch::{Answer, Call, Refusal};

/// Makes topics.
///
/// # Errors
/// If the request cannot be read.
pub async fn create(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: CreateTopicsRequest<'_> = call.decode()?;
    let topics = request.topics.iter().map(new_topic).collect();
    let asked = ControllerRequest::CreateTopics { topics, validate_only: request.validate_only };
    let Some(ControllerReply::CreateTopics(created)) = broker.core.controller(asked).await else {
        return Err(Refusal::Stopping);
    };
    let topics = created.iter().map(|created| match &created.result {
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
        name: Str::Borrowed(entry.name),
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
    let asked = ControllerRequest::DeleteTopics(by_name.chain(by_either).collect());
    let Some(ControllerReply::DeleteTopics(deleted)) = broker.core.controller(asked).await else {
        return Err(Refusal::Stopping);
    };
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

/// Gives topics more partitions.
///
/// # Errors
/// If the request cannot be read.
pub async fn create_partitions(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: CreatePartitionsRequest<'_> = call.decode()?;
    let topics = request.topics.iter().map(|topic| NewPartitions {
        name: topic.name.to_string(),
        count: topic.count,
        assignments: topic
            .assignments
            .as_ref()
            .map(|all| all.iter().map(|assigned| assigned.broker_ids.clone()).collect()),
    });
    let asked = ControllerRequest::CreatePartitions { topics: topics.collect(), validate_only: request.validate_only };
    let Some(ControllerReply::CreatePartitions(results)) = broker.core.controller(asked).await else {
        return Err(Refusal::Stopping);
    };
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

/// None: partitions do not move while there is one broker.
///
/// # Errors
/// If the request cannot be read.
pub fn list_reassignments(_: &Broker, call: &Call) -> Result<Answer, Refusal> {
    let _: ListPartitionReassignmentsRequest<'_> = call.decode()?;
    call.answer(&ListPartitionReassignmentsResponse { error_message: None, ..Default::default() })
}
