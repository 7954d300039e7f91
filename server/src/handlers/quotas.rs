//! DescribeClientQuotas and AlterClientQuotas.

use std::collections::BTreeMap;
use std::rc::Rc;

use engine::controller::quotas::{self, Entity, QuotaAlteration};
use engine::controller::{ControllerReply, ControllerRequest, Refusal as Refused};
use engine::protocol::Str;
use engine::protocol::messages::alter_client_quotas::{
    AlterClientQuotasRequest, AlterClientQuotasResponse, RequestEntryData, ResponseEntityData, ResponseEntryData,
};
use engine::protocol::messages::describe_client_quotas::{
    DescribeClientQuotasRequest, DescribeClientQuotasResponse, EntityData, EntryData, ValueData,
};

use super::outcome;
use crate::authorizer::{Operation, Resource, authorize, sentence};
use crate::broker::Broker;
use crate::dispatch::{Answer, Call, Refusal};

fn may(broker: &Broker, call: &Call, operation: Operation) -> Result<(), Refused> {
    authorize(broker, call, operation, Resource::Cluster).map_err(|error| Refused::new(error, sentence(error)))
}

/// Shows the quotas that a filter means.
///
/// # Errors
/// If the request cannot be read.
pub fn describe(broker: &Broker, call: &Call) -> Result<Answer, Refusal> {
    let request: DescribeClientQuotasRequest<'_> = call.decode()?;
    let components: Vec<_> = request
        .components
        .iter()
        .map(|component| (&*component.entity_type, component.match_type, component.match_.as_deref()))
        .collect();
    let filter = may(broker, call, Operation::DescribeConfigs).and_then(|()| quotas::filter(&components));
    let (error_code, error_message) = outcome(&filter);
    let image = broker.image();
    let entries = filter.as_ref().ok().map(|filter| {
        let meant = image.quotas.iter().filter(|(entity, _)| quotas::matches(filter, request.strict, entity));
        let entry = |(entity, values): (&Entity, &BTreeMap<String, f64>)| EntryData {
            entity: entity.iter().map(|(kind, name)| named(kind.name(), name.as_deref())).collect(),
            values: values.iter().map(|(key, value)| ValueData { key: owned(key), value: *value }).collect(),
        };
        meant.map(entry).collect()
    });
    call.answer(&DescribeClientQuotasResponse { error_code, error_message, entries, ..Default::default() })
}

fn owned(text: &str) -> Str<'static> {
    Str::Owned(text.to_owned())
}

fn named(kind: &'static str, name: Option<&str>) -> EntityData<'static> {
    EntityData { entity_type: Str::Borrowed(kind), entity_name: name.map(owned) }
}

/// Changes quotas.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn alter(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: AlterClientQuotasRequest<'_> = call.decode()?;
    let results = match may(broker, call, Operation::AlterConfigs) {
        Err(refused) => request.entries.iter().map(|_| Err(refused.clone())).collect(),
        Ok(()) => {
            let alterations = request.entries.iter().map(alteration).collect();
            let asked = ControllerRequest::AlterClientQuotas { alterations, validate_only: request.validate_only };
            let Some(ControllerReply::AlterClientQuotas(results)) = broker.core.controller(asked).await else {
                return Err(Refusal::Stopping);
            };
            results
        }
    };
    let entries = request.entries.iter().zip(&results).map(|(entry, result)| {
        let (error_code, error_message) = outcome(result);
        let entity = entry.entity.iter().map(|entity| ResponseEntityData {
            entity_type: entity.entity_type.clone(),
            entity_name: entity.entity_name.clone(),
        });
        ResponseEntryData { error_code, error_message, entity: entity.collect() }
    });
    call.answer(&AlterClientQuotasResponse { entries: entries.collect(), ..Default::default() })
}

fn alteration(entry: &RequestEntryData<'_>) -> QuotaAlteration {
    QuotaAlteration {
        entity: entry
            .entity
            .iter()
            .map(|entity| (entity.entity_type.to_string(), entity.entity_name.as_deref().map(str::to_owned)))
            .collect(),
        values: entry.ops.iter().map(|op| (op.key.to_string(), (!op.remove).then_some(op.value))).collect(),
    }
}
