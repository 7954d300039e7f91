//! Who may do what: Kafka's StandardAuthorizer over the ACLs of the metadata.
//!
//! Without `authorizer.class.name` everything is allowed, and there are no ACLs to ask. With it, a handler
//! asks [`authorize`] before it does anything, or tells anything, about a resource. The invariant: an ACL that
//! was accepted is obeyed from the moment its answer left, on every core. It does not know how clients
//! authenticate: on a plain listener everyone is [`ANONYMOUS`].

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::rc::Rc;

use engine::controller::BrokerValues;
use engine::controller::acls::{self, Decision, ResourceType, Subject};
use engine::coordinator::group::Visible;
use engine::protocol::ErrorCode;

pub use engine::controller::acls::Operation;

use crate::broker::Broker;
use crate::dispatch::Call;
use crate::quota::QuotaManager;

/// The name of a user who has not said who he is.
pub const ANONYMOUS: &str = "ANONYMOUS";

/// The operations were not asked for.
pub const OPERATIONS_NOT_ASKED: i32 = i32::MIN;

/// Who is at the other end of a connection.
pub struct Client {
    /// The principal's name.
    pub user: String,
    /// `User:name`.
    pub principal: String,
    /// The address that he comes from.
    pub address: IpAddr,
    /// That address as ACLs write it.
    pub host: String,
    /// What keeps account of his use.
    pub quotas: Rc<QuotaManager>,
}

impl Client {
    /// Someone unknown, from an address.
    pub fn anonymous(address: IpAddr, quotas: Rc<QuotaManager>) -> Client {
        let address = address.to_canonical();
        Client {
            user: ANONYMOUS.to_owned(),
            principal: format!("User:{ANONYMOUS}"),
            address,
            host: address.to_string(),
            quotas,
        }
    }

    fn subject(&self) -> Subject<'_> {
        Subject { principal: &self.principal, host: &self.host }
    }
}

/// What is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource<'a> {
    /// A topic, by name.
    Topic(&'a str),
    /// A group of any protocol, by id.
    Group(&'a str),
    /// The cluster as a whole.
    Cluster,
    /// A transactional id.
    TransactionalId(&'a str),
}

impl<'a> Resource<'a> {
    fn kind(self) -> ResourceType {
        match self {
            Resource::Topic(_) => ResourceType::Topic,
            Resource::Group(_) => ResourceType::Group,
            Resource::Cluster => ResourceType::Cluster,
            Resource::TransactionalId(_) => ResourceType::TransactionalId,
        }
    }

    fn name(self) -> &'a str {
        match self {
            Resource::Topic(name) | Resource::Group(name) | Resource::TransactionalId(name) => name,
            Resource::Cluster => acls::CLUSTER_NAME,
        }
    }

    /// The error of who is turned away.
    pub fn error(self) -> ErrorCode {
        match self {
            Resource::Topic(_) => ErrorCode::TopicAuthorizationFailed,
            Resource::Group(_) => ErrorCode::GroupAuthorizationFailed,
            Resource::Cluster => ErrorCode::ClusterAuthorizationFailed,
            Resource::TransactionalId(_) => ErrorCode::TransactionalIdAuthorizationFailed,
        }
    }

    /// What can be done to it at all (`AclEntry.supportedOperations`).
    fn operations(self) -> &'static [Operation] {
        use Operation as O;
        match self {
            Resource::Topic(_) => {
                &[O::Read, O::Write, O::Create, O::Delete, O::Alter, O::Describe, O::DescribeConfigs, O::AlterConfigs]
            }
            Resource::Group(_) => &[O::Read, O::Delete, O::Describe, O::DescribeConfigs, O::AlterConfigs],
            Resource::Cluster => &[
                O::Create,
                O::Alter,
                O::Describe,
                O::ClusterAction,
                O::DescribeConfigs,
                O::AlterConfigs,
                O::IdempotentWrite,
            ],
            Resource::TransactionalId(_) => &[O::Write, O::Describe, O::TwoPhaseCommit],
        }
    }
}

/// The sentence that goes with an error of [`Resource::error`].
pub fn sentence(error: ErrorCode) -> &'static str {
    match error {
        ErrorCode::TopicAuthorizationFailed => "Topic authorization failed.",
        ErrorCode::GroupAuthorizationFailed => "Group authorization failed.",
        ErrorCode::TransactionalIdAuthorizationFailed => "Transactional Id authorization failed.",
        _ => "Cluster authorization failed.",
    }
}

/// How the ACLs are used. The same on all cores.
#[derive(Debug, PartialEq, Eq)]
pub struct Authorizer {
    super_users: BTreeSet<String>,
    allows_without_acl: bool,
}

impl Authorizer {
    /// The authorizer of the configs; `None` if there is none.
    pub fn new(values: &BrokerValues<'_>) -> Option<Authorizer> {
        values.text("authorizer.class.name").filter(|name| !name.is_empty())?;
        let super_users = values.text("super.users").unwrap_or_default().split(';').map(str::trim);
        Some(Authorizer {
            super_users: super_users.filter(|user| !user.is_empty()).map(str::to_owned).collect(),
            allows_without_acl: values.boolean("allow.everyone.if.no.acl.found"),
        })
    }

    fn is_super(&self, subject: Subject<'_>) -> bool {
        self.super_users.contains(subject.principal)
    }

    fn allows(&self, acls: &acls::Acls, subject: Subject<'_>, operation: Operation, resource: Resource<'_>) -> bool {
        self.is_super(subject)
            || match acls.decide(subject, resource.kind(), resource.name(), operation) {
                Decision::Allowed => true,
                Decision::Denied | Decision::NoRule => false,
                Decision::NoAcl => self.allows_without_acl,
            }
    }
}

/// Whether the client of a call may do `operation` to `resource`.
///
/// # Errors
/// The error that he is turned away with.
pub fn authorize(broker: &Broker, call: &Call, operation: Operation, resource: Resource<'_>) -> Result<(), ErrorCode> {
    match allows(broker, call, operation, resource) {
        true => Ok(()),
        false => Err(resource.error()),
    }
}

/// Whether the client of a call may do `operation` to `resource`.
pub fn allows(broker: &Broker, call: &Call, operation: Operation, resource: Resource<'_>) -> bool {
    let Some(authorizer) = &broker.authorizer else { return true };
    let allowed = authorizer.allows(&broker.image().acls, call.client.subject(), operation, resource);
    if !allowed {
        let client = &call.client;
        tracing::debug!(principal = client.principal, host = client.host, ?operation, ?resource, "denied");
    }
    allowed
}

/// Whether the client of a call may do `operation` to some topic.
pub fn allows_on_any_topic(broker: &Broker, call: &Call, operation: Operation) -> bool {
    let Some(authorizer) = &broker.authorizer else { return true };
    let acls = broker.image().acls.clone();
    authorizer.is_super(call.client.subject())
        || acls.allows_on_any(call.client.subject(), ResourceType::Topic, operation)
        || authorizer.allows_without_acl && acls.is_empty()
}

/// The topics that the client of a call may see, by the ACLs of now.
pub fn visible_topics(broker: &Broker, call: &Call) -> Visible {
    let Some(authorizer) = broker.authorizer.clone() else { return Visible::default() };
    let acls = broker.image().acls.clone();
    let (principal, host) = (call.client.principal.clone(), call.client.host.clone());
    Visible::only(move |topic| {
        let subject = Subject { principal: &principal, host: &host };
        authorizer.allows(&acls, subject, Operation::Describe, Resource::Topic(topic))
    })
}

/// What the client of a call may do to `resource`, as bits of `AclOperation`.
pub fn authorized_operations(broker: &Broker, call: &Call, resource: Resource<'_>) -> i32 {
    let allowed = resource.operations().iter().filter(|operation| allows(broker, call, **operation, resource));
    allowed.fold(0, |bits, operation| bits | 1 << operation.code())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use engine::controller::{MetadataImage, Settings};

    use super::*;

    fn authorizer(configs: &[(&str, &str)]) -> Option<Authorizer> {
        let configs = configs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let settings = Settings::new(1, configs).expect("valid settings");
        Authorizer::new(&BrokerValues::new(&settings, &MetadataImage::default()))
    }

    #[test]
    fn settings_are_read_as_kafka_reads_them() {
        assert_eq!(authorizer(&[]), None);
        let standard = ("authorizer.class.name", engine::controller::broker_configs::STANDARD_AUTHORIZER);
        let strict = authorizer(&[standard]).expect("an authorizer");
        assert!(!strict.allows_without_acl && strict.super_users.is_empty());
        let open = authorizer(&[
            standard,
            ("super.users", "User:admin; User:CN=a,O=b"),
            ("allow.everyone.if.no.acl.found", "true"),
        ]);
        let open = open.expect("an authorizer");
        assert!(open.allows_without_acl);
        assert_eq!(open.super_users, ["User:admin", "User:CN=a,O=b"].map(str::to_owned).into());
        let unknown = BTreeMap::from([("authorizer.class.name".to_owned(), "com.example.Mine".to_owned())]);
        Settings::new(1, unknown).expect_err("an authorizer that there is not must not be taken for one");
    }
}
