//! ACLs: what is kept of them, which requests change them, and what they allow (`StandardAuthorizer`).
//!
//! An ACL binds a rule (who, from where, which operation, allowed or denied) to a resource pattern. The
//! invariant: what is in the set is what [`Acls::decide`] obeys. It does not know super users, nor what
//! happens when no ACL is found: that is the authorizer's setting.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use super::Context;
use super::records::MetadataRecord;
use super::request::Refusal;
use crate::protocol::ErrorCode;

/// The name that stands for every resource of a type, in a literal pattern.
pub const WILDCARD: &str = "*";
/// The one resource of the type CLUSTER.
pub const CLUSTER_NAME: &str = "kafka-cluster";
/// Every principal of the type User.
pub const ANY_USER: &str = "User:*";
/// Most ACLs that one request makes or removes (`AclControlManager.MAX_RECORDS_PER_USER_OP`).
pub const MAX_CHANGES_PER_REQUEST: usize = 10_000;

/// Declares a set of names with the codes that messages give them.
macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $code:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i8)]
        pub enum $name {
            $($(#[$variant_doc])* $variant = $code,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// That of a code.
            pub fn from_code(code: i8) -> Option<$name> {
                match code {
                    $($code => Some($name::$variant),)*
                    _ => None,
                }
            }

            /// Its code.
            pub fn code(self) -> i8 {
                self as i8
            }
        }
    };
}

codes! {
    /// What is protected (`ResourceType`).
    ResourceType {
        /// A topic, by name.
        Topic = 2,
        /// A group of any protocol, by id.
        Group = 3,
        /// The cluster as a whole: [`CLUSTER_NAME`].
        Cluster = 4,
        /// A transactional id.
        TransactionalId = 5,
        /// A delegation token.
        DelegationToken = 6,
        /// A user, as owner of tokens.
        User = 7,
    }
}

codes! {
    /// How a pattern's name is compared (`PatternType`).
    PatternType {
        /// It is the resource's name, or [`WILDCARD`].
        Literal = 3,
        /// The resource's name begins with it.
        Prefixed = 4,
    }
}

codes! {
    /// What is done to a resource (`AclOperation`).
    Operation {
        /// Everything.
        All = 2,
        /// READ.
        Read = 3,
        /// WRITE.
        Write = 4,
        /// CREATE.
        Create = 5,
        /// DELETE.
        Delete = 6,
        /// ALTER.
        Alter = 7,
        /// DESCRIBE.
        Describe = 8,
        /// CLUSTER_ACTION.
        ClusterAction = 9,
        /// DESCRIBE_CONFIGS.
        DescribeConfigs = 10,
        /// ALTER_CONFIGS.
        AlterConfigs = 11,
        /// IDEMPOTENT_WRITE.
        IdempotentWrite = 12,
        /// CREATE_TOKENS.
        CreateTokens = 13,
        /// DESCRIBE_TOKENS.
        DescribeTokens = 14,
        /// TWO_PHASE_COMMIT.
        TwoPhaseCommit = 15,
    }
}

codes! {
    /// Whether a rule allows or forbids (`AclPermissionType`).
    Permission {
        /// Forbidden, whatever else allows it.
        Deny = 2,
        /// Allowed.
        Allow = 3,
    }
}

/// What a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourcePattern {
    /// The resource's type.
    pub kind: ResourceType,
    /// How the name is compared.
    pub pattern: PatternType,
    /// The name.
    pub name: String,
}

/// Who may do what, or may not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AclRule {
    /// `Type:name`; `User:*` is every user.
    pub principal: String,
    /// The client's address, or `*`.
    pub host: String,
    /// The operation.
    pub operation: Operation,
    /// Whether it is allowed.
    pub permission: Permission,
}

/// One ACL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AclBinding {
    /// What it is about.
    pub resource: ResourcePattern,
    /// The rule.
    pub rule: AclRule,
}

/// Which patterns a filter wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatternFilter {
    /// Patterns of any type with exactly the filter's name.
    Any,
    /// All patterns that are about the resource of that name.
    Match,
    /// Patterns of this type.
    Of(PatternType),
}

/// Which ACLs are meant; `None` stands for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AclFilter {
    /// The resource's type.
    pub kind: Option<ResourceType>,
    /// The name.
    pub name: Option<String>,
    /// How the name is compared.
    pub pattern: PatternFilter,
    /// The principal.
    pub principal: Option<String>,
    /// The host.
    pub host: Option<String>,
    /// The operation.
    pub operation: Option<Operation>,
    /// The permission.
    pub permission: Option<Permission>,
}

impl AclFilter {
    /// Whether an ACL is meant.
    pub fn matches(&self, binding: &AclBinding) -> bool {
        let rule = &binding.rule;
        self.kind.is_none_or(|kind| kind == binding.resource.kind)
            && self.principal.as_ref().is_none_or(|principal| *principal == rule.principal)
            && self.host.as_ref().is_none_or(|host| *host == rule.host)
            && self.operation.is_none_or(|operation| operation == rule.operation)
            && self.permission.is_none_or(|permission| permission == rule.permission)
            && self.matches_pattern(&binding.resource)
    }

    fn matches_pattern(&self, resource: &ResourcePattern) -> bool {
        let name = self.name.as_deref();
        match self.pattern {
            PatternFilter::Any => name.is_none_or(|name| name == resource.name),
            PatternFilter::Of(pattern) => pattern == resource.pattern && name.is_none_or(|name| name == resource.name),
            PatternFilter::Match => name.is_none_or(|name| match resource.pattern {
                PatternType::Literal => resource.name == name || resource.name == WILDCARD,
                PatternType::Prefixed => name.starts_with(&resource.name),
            }),
        }
    }
}

/// What the ACLs say of one action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// A rule allows it and none forbids it.
    Allowed,
    /// A rule forbids it.
    Denied,
    /// There are ACLs about the resource, but none about this action.
    NoRule,
    /// There is no ACL about the resource at all.
    NoAcl,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject<'a> {
    /// `Type:name`.
    pub principal: &'a str,
    /// The client's address.
    pub host: &'a str,
}

/// The rules about resources of one kind, by name.
type RulesByName = BTreeMap<String, Arc<BTreeSet<AclRule>>>;

/// All ACLs, by what they are about. A clone shares the rules.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Acls {
    patterns: BTreeMap<(ResourceType, PatternType), RulesByName>,
    count: usize,
}

impl Acls {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All of them, by type, pattern and name.
    pub fn iter(&self) -> impl Iterator<Item = AclBinding> + '_ {
        self.patterns.iter().flat_map(|(&(kind, pattern), names)| {
            names.iter().flat_map(move |(name, rules)| {
                rules.iter().map(move |rule| AclBinding {
                    resource: ResourcePattern { kind, pattern, name: name.clone() },
                    rule: rule.clone(),
                })
            })
        })
    }

    /// Whether it is there.
    pub fn contains(&self, binding: &AclBinding) -> bool {
        let resource = &binding.resource;
        let names = self.patterns.get(&(resource.kind, resource.pattern));
        names.and_then(|names| names.get(&resource.name)).is_some_and(|rules| rules.contains(&binding.rule))
    }

    /// Adds one; no matter if it is there.
    pub(super) fn insert(&mut self, binding: &AclBinding) {
        let resource = &binding.resource;
        let names = self.patterns.entry((resource.kind, resource.pattern)).or_default();
        let rules = names.entry(resource.name.clone()).or_default();
        self.count += usize::from(Arc::make_mut(rules).insert(binding.rule.clone()));
    }

    /// Removes one; no matter if it is not there.
    pub(super) fn remove(&mut self, binding: &AclBinding) {
        let resource = &binding.resource;
        let Some(names) = self.patterns.get_mut(&(resource.kind, resource.pattern)) else { return };
        let Some(rules) = names.get_mut(&resource.name) else { return };
        self.count -= usize::from(Arc::make_mut(rules).remove(&binding.rule));
        if rules.is_empty() {
            names.remove(&resource.name);
        }
    }

    /// Whether `subject` may do `operation` to the resource.
    pub fn decide(&self, subject: Subject<'_>, kind: ResourceType, name: &str, operation: Operation) -> Decision {
        let mut decision = Decision::NoAcl;
        for rules in self.about(kind, name) {
            decision = match (decision, judge(rules, subject, operation)) {
                (_, Some(Permission::Deny)) => return Decision::Denied,
                (_, Some(Permission::Allow)) => Decision::Allowed,
                (Decision::NoAcl, None) => Decision::NoRule,
                (before, None) => before,
            };
        }
        decision
    }

    /// The rules of all patterns that are about the resource.
    fn about(&self, kind: ResourceType, name: &str) -> impl Iterator<Item = &BTreeSet<AclRule>> {
        let literal = self.patterns.get(&(kind, PatternType::Literal));
        let exact = literal.and_then(|names| names.get(name));
        let wildcard = literal.and_then(|names| names.get(WILDCARD)).filter(|_| name != WILDCARD);
        let prefixed = self.patterns.get(&(kind, PatternType::Prefixed));
        let prefixes = prefixed.map(|names| prefixes_of(names, name)).unwrap_or_default();
        exact.into_iter().chain(wildcard).chain(prefixes).map(|rules| &**rules)
    }

    /// Whether `subject` may do `operation` to some resource of the type (`Authorizer.authorizeByResourceType`):
    /// a pattern allows it that no denying pattern covers.
    pub fn allows_on_any(&self, subject: Subject<'_>, kind: ResourceType, operation: Operation) -> bool {
        let is_meant = |rule: &AclRule, permission| {
            rule.permission == permission
                && is_subject(rule, subject)
                && (rule.operation == Operation::All || rule.operation == operation)
        };
        let patterns = |pattern, permission| {
            let names = self.patterns.get(&(kind, pattern)).into_iter().flatten();
            names
                .filter(move |(_, rules)| rules.iter().any(|rule| is_meant(rule, permission)))
                .map(|(name, _)| name.as_str())
        };
        let denied: BTreeSet<&str> = patterns(PatternType::Literal, Permission::Deny).collect();
        let denied_prefixes: BTreeSet<&str> = patterns(PatternType::Prefixed, Permission::Deny).collect();
        if denied.contains(WILDCARD) {
            return false;
        }
        let has_denied_prefix = |name: &str| denied_prefixes.iter().any(|prefix| name.starts_with(prefix));
        let by_name = |name: &str| name == WILDCARD || !denied.contains(name) && !has_denied_prefix(name);
        patterns(PatternType::Literal, Permission::Allow).any(by_name)
            || patterns(PatternType::Prefixed, Permission::Allow).any(|prefix| !has_denied_prefix(prefix))
    }
}

/// The entries whose keys are prefixes of `name`. Each look at the map either finds one or skips all keys that
/// differ from `name` at the same place.
fn prefixes_of<'a, V>(names: &'a BTreeMap<String, V>, name: &str) -> Vec<&'a V> {
    let mut found = Vec::new();
    let mut upper = Bound::Included(name);
    while let Some((key, value)) = names.range::<str, _>((Bound::Unbounded, upper)).next_back() {
        let common = common_prefix(key, name);
        if common.len() == key.len() {
            found.push(value);
            upper = Bound::Excluded(&name[..common.len()]);
        } else {
            upper = Bound::Included(common);
        }
    }
    found
}

fn common_prefix<'a>(other: &str, name: &'a str) -> &'a str {
    let same = name.char_indices().zip(other.chars()).take_while(|((_, a), b)| a == b);
    let len = same.last().map_or(0, |((at, c), _)| at + c.len_utf8());
    &name[..len]
}

/// What a pattern's rules say: a denial wins.
fn judge(rules: &BTreeSet<AclRule>, subject: Subject<'_>, operation: Operation) -> Option<Permission> {
    let meant = rules.iter().filter(|rule| is_subject(rule, subject) && covers(rule, operation));
    meant.map(|rule| rule.permission).min()
}

fn is_subject(rule: &AclRule, subject: Subject<'_>) -> bool {
    let is_principal = rule.principal == subject.principal || rule.principal == ANY_USER;
    is_principal && (rule.host == WILDCARD || rule.host == subject.host)
}

/// Whether a rule is about an operation. To be allowed to read, write, delete or alter is to be allowed to
/// describe; to be forbidden to is not to be forbidden to describe.
fn covers(rule: &AclRule, operation: Operation) -> bool {
    use Operation as O;
    if rule.operation == O::All || rule.operation == operation {
        return true;
    }
    let implied = match operation {
        O::Describe => matches!(rule.operation, O::Read | O::Write | O::Delete | O::Alter),
        O::DescribeConfigs => rule.operation == O::AlterConfigs,
        _ => false,
    };
    implied && rule.permission == Permission::Allow
}

/// Adds ACLs; one result for each. What is there already is fine.
pub(super) async fn create(context: &mut Context<'_>, bindings: &[AclBinding]) -> Vec<Result<(), Refusal>> {
    let mut fresh = BTreeSet::new();
    let mut results = Vec::with_capacity(bindings.len());
    for binding in bindings {
        context.pace.spend(1).await;
        let result = check(binding).and_then(|()| check_room(fresh.len()));
        if result.is_ok() && !context.image.acls.contains(binding) {
            fresh.insert(binding.clone());
        }
        results.push(result);
    }
    context.records.extend(fresh.into_iter().map(|binding| MetadataRecord::Acl { binding, removed: false }));
    results
}

/// So many ACLs are held against a filter for a cost of one (see [`crate::io::Pace`]).
const ACLS_PER_COST: usize = 10;

/// Removes ACLs; for each filter those that it meant.
pub(super) async fn delete(context: &mut Context<'_>, filters: &[AclFilter]) -> Vec<Result<Vec<AclBinding>, Refusal>> {
    let mut doomed = BTreeSet::new();
    let mut results = Vec::with_capacity(filters.len());
    for filter in filters {
        context.pace.spend(1 + context.image.acls.len() / ACLS_PER_COST).await;
        let matching: Vec<_> = context.image.acls.iter().filter(|binding| filter.matches(binding)).collect();
        let result = check_room(doomed.len() + matching.len().saturating_sub(1));
        if result.is_ok() {
            doomed.extend(matching.iter().cloned());
        }
        results.push(result.map(|()| matching));
    }
    context.records.extend(doomed.into_iter().map(|binding| MetadataRecord::Acl { binding, removed: true }));
    results
}

fn check_room(used: usize) -> Result<(), Refusal> {
    if used < MAX_CHANGES_PER_REQUEST {
        return Ok(());
    }
    let why = format!("Cannot change more than {MAX_CHANGES_PER_REQUEST} ACLs in one request.");
    Err(Refusal::new(ErrorCode::PolicyViolation, why))
}

fn check(binding: &AclBinding) -> Result<(), Refusal> {
    let invalid = |why: String| Err(Refusal::new(ErrorCode::InvalidRequest, why));
    let resource = &binding.resource;
    if resource.name.is_empty() {
        return invalid("Invalid empty resource name".to_owned());
    }
    if resource.kind == ResourceType::Cluster && resource.name != CLUSTER_NAME {
        return invalid(format!("The only valid name for the CLUSTER resource is {CLUSTER_NAME}"));
    }
    let principal = &binding.rule.principal;
    if !principal.contains(':') {
        let what = "no colon is present separating the principal type from the principal name";
        return invalid(format!("Could not parse principal from `{principal}` ({what})"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANONYMOUS: Subject<'static> = Subject { principal: "User:ANONYMOUS", host: "10.0.0.1" };

    fn acl(
        pattern: PatternType,
        name: &str,
        principal: &str,
        host: &str,
        operation: Operation,
        permission: Permission,
    ) -> AclBinding {
        AclBinding {
            resource: ResourcePattern { kind: ResourceType::Topic, pattern, name: name.to_owned() },
            rule: AclRule { principal: principal.to_owned(), host: host.to_owned(), operation, permission },
        }
    }

    fn set(bindings: &[AclBinding]) -> Acls {
        let mut acls = Acls::default();
        bindings.iter().for_each(|binding| acls.insert(binding));
        acls
    }

    fn allow(pattern: PatternType, name: &str, operation: Operation) -> AclBinding {
        acl(pattern, name, "User:ANONYMOUS", "*", operation, Permission::Allow)
    }

    fn deny(pattern: PatternType, name: &str, operation: Operation) -> AclBinding {
        acl(pattern, name, "User:ANONYMOUS", "*", operation, Permission::Deny)
    }

    #[test]
    fn each_kind_of_pattern_is_found_and_a_denial_wins() {
        use Decision::{Allowed, Denied, NoAcl, NoRule};
        use Operation::{Delete, Describe, Read, Write};
        use PatternType::{Literal, Prefixed};
        let acls = set(&[
            allow(Literal, "orders", Read),
            allow(Prefixed, "log", Write),
            deny(Prefixed, "log.secret", Operation::All),
            allow(Prefixed, "logs-of-others", Write),
            deny(Literal, "*", Delete),
            acl(Literal, "shared", ANY_USER, "*", Read, Permission::Allow),
            acl(Literal, "local", "User:ANONYMOUS", "10.0.0.2", Read, Permission::Allow),
            acl(Literal, "hers", "User:alice", "*", Read, Permission::Allow),
        ]);
        let cases = [
            ("orders", Read, Allowed),
            ("orders", Describe, Allowed),
            ("orders", Write, NoRule),
            ("orders", Delete, Denied),
            ("orders2", Read, NoRule),
            ("log", Write, Allowed),
            ("logs-of-mine", Write, Allowed),
            ("log.secret.x", Write, Denied),
            ("lo", Write, NoRule),
            ("shared", Read, Allowed),
            ("local", Read, NoRule),
            ("hers", Read, NoRule),
        ];
        for (name, operation, expected) in cases {
            let decision = acls.decide(ANONYMOUS, ResourceType::Topic, name, operation);
            assert_eq!(decision, expected, "{operation:?} {name}");
        }
        assert_eq!(acls.decide(ANONYMOUS, ResourceType::Group, "orders", Read), NoAcl);
        let without_denials = set(&[allow(Literal, "orders", Read)]);
        assert_eq!(without_denials.decide(ANONYMOUS, ResourceType::Topic, "x", Read), NoAcl);
    }

    #[test]
    fn a_denied_read_does_not_forbid_to_describe() {
        let acls = set(&[
            deny(PatternType::Literal, "t", Operation::Read),
            allow(PatternType::Literal, "t", Operation::Describe),
        ]);
        let decide = |operation| acls.decide(ANONYMOUS, ResourceType::Topic, "t", operation);
        assert_eq!(decide(Operation::Describe), Decision::Allowed);
        assert_eq!(decide(Operation::Read), Decision::Denied);
    }

    /// The walk over the map finds what trying each prefix finds.
    #[test]
    fn prefixes_are_found_however_keys_lie() {
        let keys = ["", "a", "aa", "aab", "aac", "ab", "abc", "abcd", "abd", "b", "é", "éa", "zz"];
        let names: BTreeMap<String, &str> = keys.iter().map(|key| ((*key).to_owned(), *key)).collect();
        for name in ["", "a", "aabx", "abcde", "abc", "abd", "b", "c", "éab", "ê", "z", "zzz"] {
            let mut found: Vec<&str> = prefixes_of(&names, name).into_iter().copied().collect();
            found.sort_unstable();
            let expected: Vec<&str> = keys.into_iter().filter(|key| name.starts_with(key)).collect();
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn some_resource_is_enough_unless_denials_cover_it() {
        use Operation::Write;
        use PatternType::{Literal, Prefixed};
        let any = |bindings: &[AclBinding]| set(bindings).allows_on_any(ANONYMOUS, ResourceType::Topic, Write);
        assert!(!any(&[]));
        assert!(any(&[allow(Literal, "t", Write)]));
        assert!(!any(&[allow(Literal, "t", Operation::Read)]));
        assert!(!any(&[allow(Literal, "t", Write), deny(Prefixed, "t", Write)]));
        assert!(!any(&[allow(Literal, "*", Write), deny(Literal, "*", Operation::All)]));
        assert!(any(&[allow(Prefixed, "t", Write), deny(Prefixed, "tt", Write)]));
        assert!(!any(&[allow(Prefixed, "tt", Write), deny(Prefixed, "t", Write)]));
        assert!(any(&[allow(Literal, "*", Write), deny(Prefixed, "t", Write)]));
    }

    #[test]
    fn filters_tell_names_from_matches() {
        let acls = set(&[
            allow(PatternType::Literal, "orders", Operation::Read),
            allow(PatternType::Literal, "*", Operation::Read),
            allow(PatternType::Prefixed, "ord", Operation::Read),
            allow(PatternType::Prefixed, "orders", Operation::Read),
        ]);
        let count = |pattern, name: Option<&str>| {
            let filter = AclFilter {
                kind: Some(ResourceType::Topic),
                name: name.map(str::to_owned),
                pattern,
                principal: None,
                host: None,
                operation: None,
                permission: None,
            };
            acls.iter().filter(|binding| filter.matches(binding)).count()
        };
        assert_eq!(count(PatternFilter::Any, None), 4);
        assert_eq!(count(PatternFilter::Any, Some("orders")), 2);
        assert_eq!(count(PatternFilter::Match, Some("orders")), 4);
        assert_eq!(count(PatternFilter::Of(PatternType::Literal), Some("orders")), 1);
        assert_eq!(count(PatternFilter::Match, Some("orange")), 1);
    }
}
