//! DescribeAcls, CreateAcls and DeleteAcls.
//!
//! Without an authorizer all of them answer SECURITY_DISABLED: an ACL that nobody would obey is not taken.

use std::collections::BTreeMap;
use std::rc::Rc;

use engine::controller::acls::{
    AclBinding, AclFilter, AclRule, PatternFilter, PatternType, Permission, ResourcePattern, ResourceType,
};
use engine::controller::{ControllerReply, ControllerRequest, Refusal as Refused};
use engine::protocol::messages::create_acls::{AclCreation, AclCreationResult, CreateAclsRequest, CreateAclsResponse};
use engine::protocol::messages::delete_acls::{
    DeleteAclsFilterResult, DeleteAclsMatchingAcl, DeleteAclsRequest, DeleteAclsResponse,
};
use engine::protocol::messages::describe_acls::{
    AclDescription, DescribeAclsRequest, DescribeAclsResource, DescribeAclsResponse,
};
use engine::protocol::{ErrorCode, Str};

use super::outcome;
use crate::authorizer::{Operation, Resource, authorize, sentence};
use crate::broker::Broker;
use crate::dispatch::{Answer, Call, Refusal};

/// The code that stands for all of a set.
const ANY: i8 = 1;
/// The code of patterns that are about a resource (`PatternType.MATCH`).
const MATCH: i8 = 2;

/// Whether the client may, and there is an authorizer to keep ACLs for.
fn may(broker: &Broker, call: &Call, operation: Operation) -> Result<(), Refused> {
    authorize(broker, call, operation, Resource::Cluster).map_err(|error| Refused::new(error, sentence(error)))?;
    match broker.authorizer {
        Some(_) => Ok(()),
        None => Err(Refused::new(ErrorCode::SecurityDisabled, "No Authorizer is configured on the broker")),
    }
}

fn unknown<T>(what: &str, value: i8) -> Result<T, Refused> {
    Err(Refused::new(ErrorCode::InvalidRequest, format!("Invalid {what} {value}")))
}

/// What a filter's code means: `None` for all.
fn wanted<T>(what: &str, code: i8, from_code: impl Fn(i8) -> Option<T>) -> Result<Option<T>, Refused> {
    match from_code(code) {
        _ if code == ANY => Ok(None),
        Some(value) => Ok(Some(value)),
        None => unknown(what, code),
    }
}

/// What messages say of a filter.
struct WireFilter<'a> {
    kind: i8,
    name: Option<&'a str>,
    pattern: i8,
    principal: Option<&'a str>,
    host: Option<&'a str>,
    operation: i8,
    permission: i8,
}

impl WireFilter<'_> {
    fn read(&self) -> Result<AclFilter, Refused> {
        let pattern = match (self.pattern, PatternType::from_code(self.pattern)) {
            (ANY, _) => PatternFilter::Any,
            (MATCH, _) => PatternFilter::Match,
            (_, Some(pattern)) => PatternFilter::Of(pattern),
            (code, None) => return unknown("patternType", code),
        };
        Ok(AclFilter {
            kind: wanted("resourceType", self.kind, ResourceType::from_code)?,
            name: self.name.map(str::to_owned),
            pattern,
            principal: self.principal.map(str::to_owned),
            host: self.host.map(str::to_owned),
            operation: wanted("operation", self.operation, Operation::from_code)?,
            permission: wanted("permissionType", self.permission, Permission::from_code)?,
        })
    }
}

/// Shows the ACLs that a filter means.
///
/// # Errors
/// If the request cannot be read.
pub fn describe(broker: &Broker, call: &Call) -> Result<Answer, Refusal> {
    let request: DescribeAclsRequest<'_> = call.decode()?;
    let filter = WireFilter {
        kind: request.resource_type_filter,
        name: request.resource_name_filter.as_deref(),
        pattern: request.pattern_type_filter,
        principal: request.principal_filter.as_deref(),
        host: request.host_filter.as_deref(),
        operation: request.operation,
        permission: request.permission_type,
    };
    let filter = may(broker, call, Operation::Describe).and_then(|()| filter.read());
    let (error_code, error_message) = outcome(&filter);
    let image = broker.image();
    let mut found: BTreeMap<ResourcePattern, Vec<AclRule>> = BTreeMap::new();
    if let Ok(filter) = &filter {
        for binding in image.acls.iter().filter(|binding| filter.matches(binding)) {
            found.entry(binding.resource).or_default().push(binding.rule);
        }
    }
    let resources = found.iter().map(|(resource, rules)| DescribeAclsResource {
        resource_type: resource.kind.code(),
        resource_name: Str::Borrowed(&resource.name),
        pattern_type: resource.pattern.code(),
        acls: rules.iter().map(described).collect(),
    });
    let resources = resources.collect();
    call.answer(&DescribeAclsResponse { error_code, error_message, resources, ..Default::default() })
}

fn described(rule: &AclRule) -> AclDescription<'_> {
    AclDescription {
        principal: Str::Borrowed(&rule.principal),
        host: Str::Borrowed(&rule.host),
        operation: rule.operation.code(),
        permission_type: rule.permission.code(),
    }
}

/// Adds ACLs.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn create(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: CreateAclsRequest<'_> = call.decode()?;
    let allowed = may(broker, call, Operation::Alter);
    let read = |creation| allowed.clone().and_then(|()| binding(creation));
    let bindings: Vec<_> = request.creations.iter().map(read).collect();
    let right: Vec<_> = bindings.iter().filter_map(|binding| binding.as_ref().ok().cloned()).collect();
    let Some(ControllerReply::CreateAcls(created)) = ask(broker, ControllerRequest::CreateAcls(right)).await else {
        return Err(Refusal::Stopping);
    };
    let mut created = created.into_iter();
    let results: Vec<Result<(), Refused>> = bindings
        .into_iter()
        .map(|binding| binding.and_then(|_| created.next().expect("one result for each ACL")))
        .collect();
    let results = results.iter().map(|result| {
        let (error_code, error_message) = outcome(result);
        AclCreationResult { error_code, error_message }
    });
    call.answer(&CreateAclsResponse { results: results.collect(), ..Default::default() })
}

fn binding(creation: &AclCreation<'_>) -> Result<AclBinding, Refused> {
    fn known<T>(what: &str, code: i8, value: Option<T>) -> Result<T, Refused> {
        value.map_or_else(|| unknown(what, code), Ok)
    }
    let (kind, pattern) = (creation.resource_type, creation.resource_pattern_type);
    let (operation, permission) = (creation.operation, creation.permission_type);
    Ok(AclBinding {
        resource: ResourcePattern {
            kind: known("resourceType", kind, ResourceType::from_code(kind))?,
            pattern: known("patternType", pattern, PatternType::from_code(pattern))?,
            name: creation.resource_name.to_string(),
        },
        rule: AclRule {
            principal: creation.principal.to_string(),
            host: creation.host.to_string(),
            operation: known("operation", operation, Operation::from_code(operation))?,
            permission: known("permissionType", permission, Permission::from_code(permission))?,
        },
    })
}

/// Removes the ACLs that filters mean.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn delete(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: DeleteAclsRequest<'_> = call.decode()?;
    let allowed = may(broker, call, Operation::Alter);
    let filters: Vec<_> = request
        .filters
        .iter()
        .map(|filter| {
            let filter = WireFilter {
                kind: filter.resource_type_filter,
                name: filter.resource_name_filter.as_deref(),
                pattern: filter.pattern_type_filter,
                principal: filter.principal_filter.as_deref(),
                host: filter.host_filter.as_deref(),
                operation: filter.operation,
                permission: filter.permission_type,
            };
            allowed.clone().and_then(|()| filter.read())
        })
        .collect();
    let right: Vec<_> = filters.iter().filter_map(|filter| filter.as_ref().ok().cloned()).collect();
    let Some(ControllerReply::DeleteAcls(deleted)) = ask(broker, ControllerRequest::DeleteAcls(right)).await else {
        return Err(Refusal::Stopping);
    };
    let mut deleted = deleted.into_iter();
    let results: Vec<Result<Vec<AclBinding>, Refused>> = filters
        .into_iter()
        .map(|filter| filter.and_then(|_| deleted.next().expect("one result for each filter")))
        .collect();
    let filter_results = results.iter().map(|result| {
        let (error_code, error_message) = outcome(result);
        let matching_acls = result.iter().flatten().map(matching).collect();
        DeleteAclsFilterResult { error_code, error_message, matching_acls }
    });
    call.answer(&DeleteAclsResponse { filter_results: filter_results.collect(), ..Default::default() })
}

fn matching(binding: &AclBinding) -> DeleteAclsMatchingAcl<'_> {
    DeleteAclsMatchingAcl {
        error_message: None,
        resource_type: binding.resource.kind.code(),
        resource_name: Str::Borrowed(&binding.resource.name),
        pattern_type: binding.resource.pattern.code(),
        principal: Str::Borrowed(&binding.rule.principal),
        host: Str::Borrowed(&binding.rule.host),
        operation: binding.rule.operation.code(),
        permission_type: binding.rule.permission.code(),
        ..Default::default()
    }
}

/// Asks the controller; nothing is asked of it for nothing.
async fn ask(broker: &Broker, request: ControllerRequest) -> Option<ControllerReply> {
    match &request {
        ControllerRequest::CreateAcls(bindings) if bindings.is_empty() => Some(ControllerReply::CreateAcls(Vec::new())),
        ControllerRequest::DeleteAcls(filters) if filters.is_empty() => Some(ControllerReply::DeleteAcls(Vec::new())),
        _ => broker.core.controller(request).await,
    }
}
