//! Client quotas: what is kept of them, which requests change them, and which are in force for a client.
//!
//! An entity names a user, a client id, both, or an address; each by name or as the default of its kind. The
//! invariant: every value kept has a known key, fits its type and is above zero. It knows no rates: that is
//! the enforcer's matter. Messages have the words of Kafka's `ClientQuotaControlManager`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Context;
use super::records::MetadataRecord;
use super::request::Refusal;
use crate::protocol::ErrorCode;

/// Bytes produced in a second.
pub const PRODUCER_BYTE_RATE: &str = "producer_byte_rate";
/// Bytes fetched in a second.
pub const CONSUMER_BYTE_RATE: &str = "consumer_byte_rate";
/// Percent of one thread's time.
pub const REQUEST_PERCENTAGE: &str = "request_percentage";
/// Partitions made or removed in a second.
pub const CONTROLLER_MUTATION_RATE: &str = "controller_mutation_rate";
/// Connections from an address in a second.
pub const CONNECTION_CREATION_RATE: &str = "connection_creation_rate";

/// The kinds of names that an entity is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum EntityType {
    /// A principal's name.
    User = 0,
    /// What a client calls itself.
    ClientId = 1,
    /// A client's address.
    Ip = 2,
}

impl EntityType {
    /// All of them.
    pub const ALL: [EntityType; 3] = [EntityType::User, EntityType::ClientId, EntityType::Ip];

    /// Kafka's name of the kind.
    pub fn name(self) -> &'static str {
        match self {
            EntityType::User => "user",
            EntityType::ClientId => "client-id",
            EntityType::Ip => "ip",
        }
    }

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<EntityType> {
        EntityType::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// Whom a quota is for: a name for each kind; `None` is the default of the kind.
pub type Entity = BTreeMap<EntityType, Option<String>>;

/// The quotas of all entities: values by key.
pub type Quotas = BTreeMap<Entity, BTreeMap<String, f64>>;

/// A change of one entity's quotas.
#[derive(Debug, Clone, PartialEq)]
pub struct QuotaAlteration {
    /// The entity as the client names it: kind and name, `None` for the default.
    pub entity: Vec<(String, Option<String>)>,
    /// Keys with their new values; `None` removes one.
    pub values: Vec<(String, Option<f64>)>,
}

/// What a filter wants of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameFilter {
    /// This name.
    Exact(String),
    /// The default.
    Default,
    /// Any.
    Any,
}

/// Checks what a client filters by: (kind, match type, match).
///
/// # Errors
/// The error for the client.
pub fn filter(components: &[(&str, i8, Option<&str>)]) -> Result<BTreeMap<EntityType, NameFilter>, Refusal> {
    let invalid = |why: String| Err(Refusal::new(ErrorCode::InvalidRequest, why));
    let mut filter = BTreeMap::new();
    for (name, match_type, wanted) in components {
        if name.is_empty() {
            return invalid("Invalid empty entity type.".to_owned());
        }
        let Some(kind) = EntityType::from_name(name) else {
            let why = format!("Custom entity type '{name}' not supported");
            return Err(Refusal::new(ErrorCode::UnsupportedVersion, why));
        };
        let wanted = match (match_type, wanted) {
            (0, Some(wanted)) => NameFilter::Exact((*wanted).to_owned()),
            (0, None) => {
                return invalid("Request specified MATCH_TYPE_EXACT, but set match string to null.".to_owned());
            }
            (1, None) => NameFilter::Default,
            (2, None) => NameFilter::Any,
            (1 | 2, Some(_)) => {
                let type_name = if *match_type == 1 { "MATCH_TYPE_DEFAULT" } else { "MATCH_TYPE_SPECIFIED" };
                return invalid(format!("Request specified {type_name}, but also specified a match string."));
            }
            _ => return invalid(format!("Unknown match type {match_type}")),
        };
        if filter.insert(kind, wanted).is_some() {
            return invalid(format!("Entity type {name} cannot appear more than once in the filter."));
        }
    }
    if filter.contains_key(&EntityType::Ip) && filter.len() > 1 {
        let why = "Invalid entity filter component combination, IP filter component should not be used with user or \
                   clientId filter component.";
        return invalid(why.to_owned());
    }
    Ok(filter)
}

/// Whether an entity is meant; a strict filter wants no kinds beside its own.
pub fn matches(filter: &BTreeMap<EntityType, NameFilter>, strict: bool, entity: &Entity) -> bool {
    let is_wanted = |(kind, wanted): (&EntityType, &NameFilter)| match (entity.get(kind), wanted) {
        (None, _) => false,
        (Some(_), NameFilter::Any) => true,
        (Some(name), NameFilter::Default) => name.is_none(),
        (Some(name), NameFilter::Exact(wanted)) => name.as_ref() == Some(wanted),
    };
    (!strict || entity.len() == filter.len()) && filter.iter().all(is_wanted)
}

/// Changes quotas; one result for each entity.
pub(super) async fn alter(
    context: &mut Context<'_>,
    alterations: &[QuotaAlteration],
    validate_only: bool,
) -> Vec<Result<(), Refusal>> {
    let mut seen = BTreeSet::new();
    let mut results = Vec::with_capacity(alterations.len());
    for alteration in alterations {
        context.pace.spend(1 + alteration.values.len()).await;
        let checked = check(alteration).and_then(|entity| match seen.insert(entity.clone()) {
            true => Ok(entity),
            false => Err(Refusal::new(ErrorCode::InvalidRequest, "Each entity must appear at most once.")),
        });
        let result = checked.map(|entity| {
            let current = context.image.quotas.get(&entity);
            let differs =
                |(key, value): &&(String, Option<f64>)| current.and_then(|values| values.get(key)).copied() != *value;
            let record = |(key, value): &(String, Option<f64>)| MetadataRecord::ClientQuota {
                entity: entity.clone(),
                key: key.clone(),
                value: *value,
            };
            if !validate_only {
                context.records.extend(alteration.values.iter().filter(differs).map(record));
            }
        });
        results.push(result);
    }
    results
}

fn check(alteration: &QuotaAlteration) -> Result<Entity, Refusal> {
    let invalid = |why: String| Err(Refusal::new(ErrorCode::InvalidRequest, why));
    let mut entity = Entity::new();
    for (name, value) in &alteration.entity {
        let Some(kind) = EntityType::from_name(name) else {
            return invalid(format!("Unhandled client quota entity type: {name}"));
        };
        if value.as_deref() == Some("") {
            return invalid(format!("Empty {name} unsupported"));
        }
        if entity.insert(kind, value.clone()).is_some() {
            return invalid(format!("Invalid client quota entity, duplicate {name} entity"));
        }
    }
    if entity.is_empty() {
        return invalid("Invalid empty client quota entity".to_owned());
    }
    if let Some(ip) = entity.get(&EntityType::Ip) {
        if entity.len() > 1 {
            let why = "Invalid quota entity combination, IP entity should not be combined with User or ClientId";
            return invalid(why.to_owned());
        }
        if let Some(ip) = ip.as_ref().filter(|ip| ip.parse::<IpAddr>().is_err()) {
            return invalid(format!("{ip} is not a valid IP or resolvable host."));
        }
    }
    let mut keys = BTreeSet::new();
    for (key, value) in &alteration.values {
        if !keys.insert(key) {
            return invalid(format!("Duplicate quota key {key}"));
        }
        check_value(&entity, key, *value)?;
    }
    Ok(entity)
}

fn check_value(entity: &Entity, key: &str, value: Option<f64>) -> Result<(), Refusal> {
    let invalid = |why: String| Err(Refusal::new(ErrorCode::InvalidRequest, why));
    let is_ip = entity.contains_key(&EntityType::Ip);
    let whole = match key {
        PRODUCER_BYTE_RATE | CONSUMER_BYTE_RATE if !is_ip => Some(("a LONG", i64::MAX as f64)),
        REQUEST_PERCENTAGE | CONTROLLER_MUTATION_RATE if !is_ip => None,
        CONNECTION_CREATION_RATE if is_ip => Some(("an INT", f64::from(i32::MAX))),
        _ => return invalid(format!("Invalid configuration key {key}")),
    };
    let Some(value) = value else { return Ok(()) };
    if value <= 0.0 {
        return invalid(format!("Quota {key} must be greater than 0"));
    }
    match whole {
        Some((kind, most)) if value > most => invalid(format!("Proposed value for {key} is too large for {kind}.")),
        // Kafka takes what is no number, and no rate is ever above it.
        _ if !value.is_finite() => invalid(format!("Quota {key} must be a finite number")),
        Some(_) if value.fract() > WHOLE_NUMBER_SLACK => invalid(format!("{key} cannot be a fractional value.")),
        _ => Ok(()),
    }
}

/// How far a whole number's value may be above it: tools compute with doubles.
const WHOLE_NUMBER_SLACK: f64 = 1e-6;

/// A quota in force: its bound, and whose use counts against it.
#[derive(Debug, Clone, PartialEq)]
pub struct InForce {
    /// The bound.
    pub bound: f64,
    /// Whether clients of one user share it, whatever they call themselves.
    pub per_user: bool,
    /// Whether clients of one client id share it, whoever they are.
    pub per_client: bool,
}

/// The quota of a key for a user and client id, by Kafka's precedence (`ClientQuotaManager`): user and client
/// before user alone before client alone, at each place the name before the default.
pub fn in_force(quotas: &Quotas, user: &str, client_id: &str, key: &str) -> Option<InForce> {
    if quotas.is_empty() {
        return None;
    }
    let value = |user: Option<Option<&str>>, client_id: Option<Option<&str>>| {
        let name = |name: Option<&str>| name.map(str::to_owned);
        let user = user.map(|user| (EntityType::User, name(user)));
        let client_id = client_id.map(|client_id| (EntityType::ClientId, name(client_id)));
        let entity: Entity = user.into_iter().chain(client_id).collect();
        quotas.get(&entity)?.get(key).copied()
    };
    let (user, client_id) = (Some(user), Some(client_id));
    let places = [
        (Some(user), Some(client_id)),
        (Some(user), Some(None)),
        (Some(user), None),
        (Some(None), Some(client_id)),
        (Some(None), Some(None)),
        (Some(None), None),
        (None, Some(client_id)),
        (None, Some(None)),
    ];
    places.into_iter().find_map(|(user, client_id)| {
        let bound = value(user, client_id)?;
        Some(InForce { bound, per_user: user.is_some(), per_client: client_id.is_some() })
    })
}

/// The bound of new connections in a second from one address; `None` if there is none.
pub fn connection_rate(quotas: &Quotas, ip: IpAddr) -> Option<f64> {
    if quotas.is_empty() {
        return None;
    }
    let of = |name| quotas.get(&Entity::from([(EntityType::Ip, name)]))?.get(CONNECTION_CREATION_RATE).copied();
    of(Some(ip.to_string())).or_else(|| of(None))
}

/// Sets or removes one value.
pub(super) fn set(quotas: &mut Quotas, entity: &Entity, key: &str, value: Option<f64>) {
    match value {
        Some(value) => {
            quotas.entry(entity.clone()).or_default().insert(key.to_owned(), value);
        }
        None => {
            let Some(values) = quotas.get_mut(entity) else { return };
            values.remove(key);
            if values.is_empty() {
                quotas.remove(entity);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entity(user: Option<Option<&str>>, client_id: Option<Option<&str>>) -> Entity {
        let user = user.map(|name| (EntityType::User, name.map(str::to_owned)));
        let client_id = client_id.map(|name| (EntityType::ClientId, name.map(str::to_owned)));
        user.into_iter().chain(client_id).collect()
    }

    #[test]
    fn the_nearest_entity_wins() {
        let order = [
            entity(Some(Some("u")), Some(Some("c"))),
            entity(Some(Some("u")), Some(None)),
            entity(Some(Some("u")), None),
            entity(Some(None), Some(Some("c"))),
            entity(Some(None), Some(None)),
            entity(Some(None), None),
            entity(None, Some(Some("c"))),
            entity(None, Some(None)),
        ];
        let mut quotas = Quotas::new();
        for (bound, entity) in order.iter().enumerate() {
            set(&mut quotas, entity, PRODUCER_BYTE_RATE, Some(bound as f64));
        }
        set(&mut quotas, &order[0], CONSUMER_BYTE_RATE, Some(99.0));
        for (bound, entity) in order.iter().enumerate() {
            let found = in_force(&quotas, "u", "c", PRODUCER_BYTE_RATE).expect("a quota");
            assert_eq!(found.bound, bound as f64);
            assert_eq!(found.per_user, entity.contains_key(&EntityType::User));
            assert_eq!(found.per_client, entity.contains_key(&EntityType::ClientId));
            set(&mut quotas, entity, PRODUCER_BYTE_RATE, None);
        }
        assert_eq!(in_force(&quotas, "u", "c", PRODUCER_BYTE_RATE), None);
        assert_eq!(quotas.len(), 1);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let alteration = |entity: &[(&str, Option<&str>)], key: &str, value: f64| QuotaAlteration {
            entity: entity.iter().map(|(kind, name)| ((*kind).to_owned(), name.map(str::to_owned))).collect(),
            values: vec![(key.to_owned(), Some(value))],
        };
        let user: &[_] = &[("user", Some("u"))];
        let ip: &[_] = &[("ip", Some("10.0.0.1"))];
        for (entity, key, value) in [
            (user, PRODUCER_BYTE_RATE, 10.5),
            (user, PRODUCER_BYTE_RATE, -1.0),
            (user, PRODUCER_BYTE_RATE, 0.999_999_999),
            (user, PRODUCER_BYTE_RATE, 1.000_01),
            (user, PRODUCER_BYTE_RATE, 9.3e18),
            (user, REQUEST_PERCENTAGE, f64::NAN),
            (ip, CONNECTION_CREATION_RATE, 2_147_483_648.0),
            (user, CONNECTION_CREATION_RATE, 1.0),
            (ip, PRODUCER_BYTE_RATE, 1.0),
            (&[("ip", Some("nowhere"))], CONNECTION_CREATION_RATE, 1.0),
            (&[("ip", None), ("user", None)], CONNECTION_CREATION_RATE, 1.0),
            (&[("user", Some(""))], PRODUCER_BYTE_RATE, 1.0),
            (&[("planet", None)], PRODUCER_BYTE_RATE, 1.0),
            (&[], PRODUCER_BYTE_RATE, 1.0),
        ] {
            let refused = check(&alteration(entity, key, value)).expect_err("it makes no sense");
            assert_eq!(refused.error, ErrorCode::InvalidRequest);
        }
        for key in [PRODUCER_BYTE_RATE, CONSUMER_BYTE_RATE, REQUEST_PERCENTAGE, CONTROLLER_MUTATION_RATE] {
            check(&alteration(user, key, 0.0)).expect_err("a quota of 0 would stop its clients");
            check(&alteration(user, key, 1e-9)).expect("as near to a whole number as Kafka wants it");
            check(&alteration(user, key, 1_000.000_000_1)).expect("as near to a whole number as Kafka wants it");
        }
        check(&alteration(ip, CONNECTION_CREATION_RATE, 0.0)).expect_err("a quota of 0 would stop its clients");
        check(&alteration(user, REQUEST_PERCENTAGE, 12.5)).expect("a right quota");
        check(&alteration(ip, CONNECTION_CREATION_RATE, 3.0)).expect("a right quota");
    }

    #[test]
    fn filters_are_strict_when_asked() {
        let both = entity(Some(Some("u")), Some(None));
        let users = filter(&[("user", 2, None)]).expect("a right filter");
        assert!(matches(&users, false, &both));
        assert!(!matches(&users, true, &both));
        let exact = filter(&[("user", 0, Some("u")), ("client-id", 1, None)]).expect("a right filter");
        assert!(matches(&exact, true, &both));
        assert!(matches(&BTreeMap::new(), false, &both));
        assert!(filter(&[("user", 0, None)]).is_err());
        assert!(filter(&[("user", 1, Some("u"))]).is_err());
        assert!(filter(&[("user", 2, None), ("ip", 2, None)]).is_err());
        assert!(filter(&[("user", 2, None), ("user", 1, None)]).is_err());
    }
}
