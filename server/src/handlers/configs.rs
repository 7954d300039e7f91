//! DescribeConfigs, AlterConfigs, IncrementalAlterConfigs and ListConfigResources.

use std::collections::BTreeMap;
use std::rc::Rc;

use engine::controller::config_docs;
use engine::controller::describe::{ConfigEntry, describe as describe_resource};
use engine::controller::request::{ConfigChange, ConfigResource, Refusal as Refused};
use engine::controller::{ControllerReply, ControllerRequest};
use engine::io::Pace;
use engine::protocol::messages::describe_configs::{
    DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult, DescribeConfigsResponse,
    DescribeConfigsResult, DescribeConfigsSynonym,
};
use engine::protocol::messages::list_config_resources::{
    ConfigResource as ListedResource, ListConfigResourcesRequest, ListConfigResourcesResponse,
};
use engine::protocol::messages::{alter_configs, incremental_alter_configs};
use engine::protocol::{ErrorCode, Str};

use super::outcome;
use crate::authorizer::{Operation, Resource, authorize, sentence};
use crate::broker::Broker;
use crate::dispatch::{Answer, Call, Refusal};

/// What it costs to describe a resource (see [`Pace`]).
const DESCRIBE_COST: usize = 50;

/// Shows configs.
///
/// # Errors
/// If the request cannot be read.
pub async fn describe(broker: &Broker, call: &Call) -> Result<Answer, Refusal> {
    let request: DescribeConfigsRequest<'_> = call.decode()?;
    let image = broker.image();
    let pace = Pace::new(broker.io());
    let mut described = Vec::with_capacity(request.resources.len());
    for asked in &request.resources {
        pace.spend(DESCRIBE_COST).await;
        let resource = ConfigResource::from_wire(asked.resource_type, asked.resource_name.to_string());
        let allowed = may(broker, call, Operation::DescribeConfigs, &resource);
        let entries = allowed.and_then(|()| describe_resource(&image, broker.settings(), &resource));
        described.push(match entries {
            Ok(entries) => Ok(asked_for(asked, entries, &pace).await),
            Err(refused) => Err(refused),
        });
    }
    let results = request.resources.iter().zip(&described).map(|(asked, described)| {
        let mut result = DescribeConfigsResult {
            resource_type: asked.resource_type,
            resource_name: asked.resource_name.clone(),
            error_message: None,
            ..Default::default()
        };
        match described {
            Ok(entries) => {
                let shown = |entry| shown_entry(entry, request.include_synonyms, request.include_documentation);
                result.configs = entries.iter().map(shown).collect();
            }
            Err(refused) => {
                result.error_code = refused.error.code();
                result.error_message = refused.message.as_deref().map(Str::Borrowed);
            }
        }
        result
    });
    call.answer(&DescribeConfigsResponse { results: results.collect(), ..Default::default() })
}

/// The entries that are asked for: all if none is named.
async fn asked_for(asked: &DescribeConfigsResource<'_>, entries: Vec<ConfigEntry>, pace: &Pace) -> Vec<ConfigEntry> {
    let Some(keys) = asked.configuration_keys.as_deref().filter(|keys| !keys.is_empty()) else { return entries };
    let mut entries: BTreeMap<String, ConfigEntry> =
        entries.into_iter().map(|entry| (entry.name.to_string(), entry)).collect();
    let mut named = Vec::new();
    for key in keys {
        pace.spend(1).await;
        named.extend(entries.remove(&**key));
    }
    named
}

fn shown_entry(entry: &ConfigEntry, synonyms: bool, documentation: bool) -> DescribeConfigsResourceResult<'_> {
    let shown_synonyms = entry.synonyms.iter().filter(|_| synonyms).map(|synonym| DescribeConfigsSynonym {
        name: Str::Borrowed(&synonym.name),
        value: synonym.value.as_deref().map(Str::Borrowed),
        source: synonym.source.code(),
    });
    DescribeConfigsResourceResult {
        name: Str::Borrowed(&entry.name),
        value: entry.value.as_deref().map(Str::Borrowed),
        read_only: entry.read_only,
        config_source: entry.source.code(),
        is_sensitive: entry.is_sensitive,
        synonyms: shown_synonyms.collect(),
        config_type: entry.kind.code(),
        documentation: documentation.then(|| config_docs::documentation(&entry.name)).flatten().map(Str::Owned),
    }
}

/// Replaces all configs of resources.
///
/// # Errors
/// If the request cannot be read.
pub async fn alter(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: alter_configs::AlterConfigsRequest<'_> = call.decode()?;
    let resources = request.resources.iter().map(|resource| {
        let configs =
            resource.configs.iter().map(|config| (config.name.to_string(), config.value.as_deref().map(str::to_owned)));
        (ConfigResource::from_wire(resource.resource_type, resource.resource_name.to_string()), configs.collect())
    });
    let asked =
        ControllerRequest::AlterConfigs { resources: resources.collect(), validate_only: request.validate_only };
    let altered = change(broker, call, asked).await?;
    let responses = altered.iter().map(|(resource, result)| {
        let (resource_type, name) = resource.to_wire();
        let (error_code, error_message) = outcome(result);
        let resource_name = Str::Borrowed(name);
        alter_configs::AlterConfigsResourceResponse { error_code, error_message, resource_type, resource_name }
    });
    call.answer(&alter_configs::AlterConfigsResponse { responses: responses.collect(), ..Default::default() })
}

/// Changes single configs.
///
/// # Errors
/// If the request cannot be read.
pub async fn incremental_alter(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: incremental_alter_configs::IncrementalAlterConfigsRequest<'_> = call.decode()?;
    let resources = request.resources.iter().map(|resource| {
        let changes = resource.configs.iter().map(|config| ConfigChange {
            name: config.name.to_string(),
            operation: config.config_operation,
            value: config.value.as_deref().map(str::to_owned),
        });
        (ConfigResource::from_wire(resource.resource_type, resource.resource_name.to_string()), changes.collect())
    });
    let asked = ControllerRequest::IncrementalAlterConfigs {
        resources: resources.collect(),
        validate_only: request.validate_only,
    };
    let altered = change(broker, call, asked).await?;
    let responses = altered.iter().map(|(resource, result)| {
        let (resource_type, name) = resource.to_wire();
        let (error_code, error_message) = outcome(result);
        let resource_name = Str::Borrowed(name);
        incremental_alter_configs::AlterConfigsResourceResponse {
            error_code,
            error_message,
            resource_type,
            resource_name,
        }
    });
    call.answer(&incremental_alter_configs::IncrementalAlterConfigsResponse {
        responses: responses.collect(),
        ..Default::default()
    })
}

type Altered = Vec<(ConfigResource, Result<(), Refused>)>;

/// Has what the client may change changed; the rest is refused.
async fn change(broker: &Broker, call: &Call, mut asked: ControllerRequest) -> Result<Altered, Refusal> {
    let mut refused: Altered = Vec::new();
    let mut check = |resource: &ConfigResource| match may(broker, call, Operation::AlterConfigs, resource) {
        Ok(()) => true,
        Err(why) => {
            refused.push((resource.clone(), Err(why)));
            false
        }
    };
    match &mut asked {
        ControllerRequest::AlterConfigs { resources, .. } => resources.retain(|(resource, _)| check(resource)),
        ControllerRequest::IncrementalAlterConfigs { resources, .. } => {
            resources.retain(|(resource, _)| check(resource));
        }
        _ => unreachable!("only configs are changed here"),
    }
    let Some(ControllerReply::AlterConfigs(mut altered)) = broker.core.controller(asked).await else {
        return Err(Refusal::Stopping);
    };
    altered.extend(refused);
    Ok(altered)
}

/// A topic's and a group's configs are its own matter, all others the cluster's.
fn may(broker: &Broker, call: &Call, operation: Operation, resource: &ConfigResource) -> Result<(), Refused> {
    let resource = match resource {
        ConfigResource::Topic(name) => Resource::Topic(name),
        ConfigResource::Group(name) => Resource::Group(name),
        _ => Resource::Cluster,
    };
    authorize(broker, call, operation, resource).map_err(|error| Refused::new(error, sentence(error)))
}

/// From this version on kinds can be named; before it, subscriptions to metrics are meant.
const NAMES_KINDS: i16 = 1;
/// The kinds that can be listed, in the order of the answer: groups, metrics, loggers, brokers, topics.
const LISTED_KINDS: [i8; 5] = [32, 16, 8, 4, 2];
/// Subscriptions to metrics.
const CLIENT_METRICS: i8 = 16;

/// Lists what has configs.
///
/// # Errors
/// If the request cannot be read.
pub fn list_resources(broker: &Broker, call: &Call) -> Result<Answer, Refusal> {
    let request: ListConfigResourcesRequest = call.decode()?;
    let wanted = match &request.resource_types[..] {
        _ if call.version < NAMES_KINDS => vec![CLIENT_METRICS],
        [] => LISTED_KINDS.to_vec(),
        named => LISTED_KINDS.into_iter().filter(|kind| named.contains(kind)).collect(),
    };
    let is_unknown = request.resource_types.iter().any(|kind| !LISTED_KINDS.contains(kind));
    let allowed = authorize(broker, call, Operation::DescribeConfigs, Resource::Cluster);
    let allowed = allowed.and(if is_unknown { Err(ErrorCode::UnsupportedVersion) } else { Ok(()) });
    if let Err(error) = allowed {
        let error_code = error.code();
        return call.answer(&ListConfigResourcesResponse { error_code, ..Default::default() });
    }
    let image = broker.image();
    let node_id = broker.node_id().to_string();
    let mut config_resources = Vec::new();
    for resource_type in wanted {
        let names: Vec<&str> = match resource_type {
            2 => image.names.keys().map(String::as_str).collect(),
            4 | 8 => vec![&node_id],
            kind => {
                let set = image.resource_configs.keys().filter(|(other, _)| *other as i8 == kind);
                set.map(|(_, name)| name.as_str()).collect()
            }
        };
        let resource = |name| ListedResource { resource_name: Str::Borrowed(name), resource_type };
        config_resources.extend(names.into_iter().map(resource));
    }
    call.answer(&ListConfigResourcesResponse { config_resources, ..Default::default() })
}
