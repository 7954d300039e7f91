//! DescribeConfigs, AlterConfigs and IncrementalAlterConfigs.

use std::rc::Rc;

use engine::controller::describe::{ConfigEntry, describe as describe_resource};
use engine::controller::request::{ConfigChange, ConfigResource, Refusal as Refused};
use engine::controller::{ControllerReply, ControllerRequest};
use engine::protocol::messages::describe_configs::{
    DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult, DescribeConfigsResponse,
    DescribeConfigsResult, DescribeConfigsSynonym,
};
use engine::protocol::messages::{alter_configs, incremental_alter_configs};
use engine::protocol::{ErrorCode, Str};

use crate::broker::Broker;
use crate::dispatch::{Answer, Call, Refusal};

/// Shows configs.
///
/// # Errors
/// If the request cannot be read.
pub fn describe(broker: &Broker, call: &Call) -> Result<Answer, Refusal> {
    let request: DescribeConfigsRequest<'_> = call.decode()?;
    let image = broker.image();
    let mut described = Vec::with_capacity(request.resources.len());
    for asked in &request.resources {
        let resource = ConfigResource::from_wire(asked.resource_type, asked.resource_name.to_string());
        described.push(describe_resource(&image, broker.settings(), &resource));
    }
    let results = request.resources.iter().zip(&described).map(|(asked, described)| {
        let mut result = DescribeConfigsResult {
            resource_type: asked.resource_type,
            resource_name: asked.resource_name.clone(),
            error_message: None,
            ..Default::default()
        };
        match described {
            Ok(entries) => result.configs = shown(asked, entries, request.include_synonyms),
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
fn shown<'a>(
    asked: &DescribeConfigsResource<'_>,
    entries: &'a [ConfigEntry],
    synonyms: bool,
) -> Vec<DescribeConfigsResourceResult<'a>> {
    let keys = asked.configuration_keys.as_deref().filter(|keys| !keys.is_empty());
    let is_asked = |entry: &&ConfigEntry| keys.is_none_or(|keys| keys.iter().any(|key| key == entry.name));
    entries.iter().filter(is_asked).map(|entry| shown_entry(entry, synonyms)).collect()
}

fn shown_entry(entry: &ConfigEntry, synonyms: bool) -> DescribeConfigsResourceResult<'_> {
    let shown_synonyms = entry.synonyms.iter().filter(|_| synonyms).map(|synonym| DescribeConfigsSynonym {
        name: Str::Borrowed(synonym.name),
        value: synonym.value.as_deref().map(Str::Borrowed),
        source: synonym.source.code(),
    });
    DescribeConfigsResourceResult {
        name: Str::Borrowed(entry.name),
        value: entry.value.as_deref().map(Str::Borrowed),
        read_only: entry.read_only,
        config_source: entry.source.code(),
        is_sensitive: entry.is_sensitive,
        synonyms: shown_synonyms.collect(),
        config_type: entry.kind.code(),
        documentation: None,
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
    let altered = change(broker, asked).await?;
    let responses = altered.iter().map(|(resource, result)| {
        let (resource_type, name) = resource.to_wire();
        let (error_code, error_message) = error_of(result);
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
    let altered = change(broker, asked).await?;
    let responses = altered.iter().map(|(resource, result)| {
        let (resource_type, name) = resource.to_wire();
        let (error_code, error_message) = error_of(result);
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

async fn change(
    broker: &Broker,
    asked: ControllerRequest,
) -> Result<Vec<(ConfigResource, Result<(), Refused>)>, Refusal> {
    let Some(ControllerReply::AlterConfigs(altered)) = broker.core.controller(asked).await else {
        return Err(Refusal::Stopping);
    };
    Ok(altered)
}

fn error_of(result: &Result<(), Refused>) -> (i16, Option<Str<'_>>) {
    match result {
        Ok(()) => (ErrorCode::None.code(), None),
        Err(refused) => (refused.error.code(), refused.message.as_deref().map(Str::Borrowed)),
    }
}
