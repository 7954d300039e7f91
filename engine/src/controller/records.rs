//! The records of the metadata log: each a change of the image, small enough to be understood alone.
//!
//! A record on disk is its kind (u16), its version (u8), its length (u32) and that many bytes; numbers are
//! big-endian. A kind or version that this build does not know is an error that says so: a record is never
//! skipped, for whoever wrote it has told a client that it holds. New fields come with a new version.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

use super::acls::{AclBinding, AclRule, Operation, PatternType, Permission, ResourcePattern, ResourceType};
use super::image::PartitionState;
use super::quotas::{Entity, EntityType};
use super::resource_configs::ResourceKind;
use super::scram::{ScramCredential, ScramMechanism};
use crate::protocol::Uuid;

/// A change of the image.
#[derive(Debug, Clone, PartialEq)]
pub enum MetadataRecord {
    /// The cluster got its id: the first record of all.
    Cluster {
        /// The id, as clients see it.
        id: String,
    },
    /// A topic was made; its partitions and configs follow in the same batch.
    Topic {
        /// Its id.
        id: Uuid,
        /// Its name.
        name: String,
    },
    /// A partition was made, or its state changed.
    Partition {
        /// The topic.
        topic_id: Uuid,
        /// The partition's index; a new one is one past the last.
        partition: i32,
        /// Its whole state.
        state: PartitionState,
    },
    /// A topic was removed, with its partitions and configs.
    RemoveTopic {
        /// Its id.
        id: Uuid,
    },
    /// A topic's config was set (`Some`) or removed (`None`). By id: a topic made again has none of them.
    TopicConfig {
        /// The topic.
        topic_id: Uuid,
        /// The config's name.
        name: String,
        /// Its value.
        value: Option<String>,
    },
    /// A broker's config, or with no broker that of all, was set or removed.
    BrokerConfig {
        /// The broker.
        broker: Option<i32>,
        /// The config's name.
        name: String,
        /// Its value.
        value: Option<String>,
    },
    /// A block of producer ids was taken.
    ProducerIds {
        /// The first id that no block has taken.
        next: i64,
    },
    /// An ACL was added or removed.
    Acl {
        /// The ACL.
        binding: AclBinding,
        /// Whether it was removed.
        removed: bool,
    },
    /// A client quota was set or removed.
    ClientQuota {
        /// Whose it is.
        entity: Entity,
        /// Which it is.
        key: String,
        /// Its value.
        value: Option<f64>,
    },
    /// A user's SCRAM credential was set or removed.
    ScramCredential {
        /// The user.
        user: String,
        /// The mechanism.
        mechanism: ScramMechanism,
        /// The credential.
        credential: Option<ScramCredential>,
    },
    /// A feature's level was finalised.
    Feature {
        /// Its name.
        name: String,
        /// Its level.
        level: i16,
    },
    /// A config of a group or of a subscription to metrics was set or removed.
    ResourceConfig {
        /// What has it.
        kind: ResourceKind,
        /// Its name.
        resource: String,
        /// The config's name.
        name: String,
        /// Its value.
        value: Option<String>,
    },
}

/// Why bytes are not a record.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RecordError {
    /// Written by a newer build.
    #[error("a metadata record of kind {kind}, version {version}, which this version of Corelog does not know")]
    Unknown {
        /// Its kind.
        kind: u16,
        /// Its version.
        version: u8,
    },
    /// Not what a record of that kind looks like.
    #[error("a malformed metadata record of kind {kind}")]
    Malformed {
        /// Its kind.
        kind: u16,
    },
    /// The bytes end within a record.
    #[error("a metadata record that is cut off")]
    Truncated,
}

const CLUSTER: u16 = 1;
const TOPIC: u16 = 2;
const PARTITION: u16 = 3;
const REMOVE_TOPIC: u16 = 4;
const TOPIC_CONFIG: u16 = 5;
const BROKER_CONFIG: u16 = 6;
const PRODUCER_IDS: u16 = 7;
const ACL: u16 = 16;
const CLIENT_QUOTA: u16 = 17;
const SCRAM_CREDENTIAL: u16 = 18;
const FEATURE: u16 = 19;
const RESOURCE_CONFIG: u16 = 20;
const VERSION: u8 = 0;
const HEADER_BYTES: usize = 7;

impl MetadataRecord {
    /// Appends the record's bytes.
    pub fn encode(&self, out: &mut BytesMut) {
        let start = out.len();
        out.put_u16(self.kind());
        out.put_u8(VERSION);
        out.put_u32(0);
        self.encode_body(out);
        let body = u32::try_from(out.len() - start - HEADER_BYTES).expect("a record far below 4 GiB");
        out[start + 3..start + HEADER_BYTES].copy_from_slice(&body.to_be_bytes());
    }

    fn kind(&self) -> u16 {
        match self {
            MetadataRecord::Cluster { .. } => CLUSTER,
            MetadataRecord::Topic { .. } => TOPIC,
            MetadataRecord::Partition { .. } => PARTITION,
            MetadataRecord::RemoveTopic { .. } => REMOVE_TOPIC,
            MetadataRecord::TopicConfig { .. } => TOPIC_CONFIG,
            MetadataRecord::BrokerConfig { .. } => BROKER_CONFIG,
            MetadataRecord::ProducerIds { .. } => PRODUCER_IDS,
            MetadataRecord::Acl { .. } => ACL,
            MetadataRecord::ClientQuota { .. } => CLIENT_QUOTA,
            MetadataRecord::ScramCredential { .. } => SCRAM_CREDENTIAL,
            MetadataRecord::Feature { .. } => FEATURE,
            MetadataRecord::ResourceConfig { .. } => RESOURCE_CONFIG,
        }
    }

    fn encode_body(&self, out: &mut BytesMut) {
        match self {
            MetadataRecord::Cluster { id } => put_text(out, id),
            MetadataRecord::Topic { id, name } => {
                out.put_slice(&id.0);
                put_text(out, name);
            }
            MetadataRecord::Partition { topic_id, partition, state } => {
                out.put_slice(&topic_id.0);
                out.put_i32(*partition);
                out.put_i32(state.leader);
                out.put_i32(state.leader_epoch);
                out.put_i32(state.partition_epoch);
                put_ids(out, &state.replicas);
                put_ids(out, &state.isr);
            }
            MetadataRecord::RemoveTopic { id } => out.put_slice(&id.0),
            MetadataRecord::TopicConfig { topic_id, name, value } => {
                out.put_slice(&topic_id.0);
                put_text(out, name);
                put_value(out, value.as_deref());
            }
            MetadataRecord::BrokerConfig { broker, name, value } => {
                out.put_i32(broker.unwrap_or(-1));
                put_text(out, name);
                put_value(out, value.as_deref());
            }
            MetadataRecord::ProducerIds { next } => out.put_i64(*next),
            MetadataRecord::Acl { binding, removed } => {
                out.put_u8((*removed).into());
                put_acl(out, binding);
            }
            MetadataRecord::ClientQuota { entity, key, value } => {
                out.put_u8(u8::try_from(entity.len()).expect("an entity has a few kinds"));
                for (kind, name) in entity {
                    out.put_u8(*kind as u8);
                    put_value(out, name.as_deref());
                }
                put_text(out, key);
                out.put_u8(value.is_some().into());
                out.put_f64(value.unwrap_or(0.0));
            }
            MetadataRecord::ScramCredential { user, mechanism, credential } => {
                put_text(out, user);
                out.put_i8(mechanism.code());
                out.put_u8(credential.is_some().into());
                if let Some(credential) = credential {
                    put_bytes(out, &credential.salt);
                    put_bytes(out, &credential.stored_key);
                    put_bytes(out, &credential.server_key);
                    out.put_i32(credential.iterations);
                }
            }
            MetadataRecord::Feature { name, level } => {
                put_text(out, name);
                out.put_i16(*level);
            }
            MetadataRecord::ResourceConfig { kind, resource, name, value } => {
                out.put_i8(*kind as i8);
                put_text(out, resource);
                put_text(out, name);
                put_value(out, value.as_deref());
            }
        }
    }

    /// Reads the record at the front of `bytes`, which it takes off.
    ///
    /// # Errors
    /// If there is none; `bytes` is then of no use.
    pub fn decode(bytes: &mut Bytes) -> Result<MetadataRecord, RecordError> {
        let kind = bytes.try_get_u16().map_err(|_| RecordError::Truncated)?;
        let version = bytes.try_get_u8().map_err(|_| RecordError::Truncated)?;
        let length = bytes.try_get_u32().map_err(|_| RecordError::Truncated)? as usize;
        let is_known = matches!(kind, CLUSTER..=PRODUCER_IDS | ACL..=RESOURCE_CONFIG);
        if version != VERSION || !is_known {
            return Err(RecordError::Unknown { kind, version });
        }
        if length > bytes.len() {
            return Err(RecordError::Truncated);
        }
        let mut body = bytes.split_to(length);
        let record = decode_body(kind, &mut body).filter(|_| body.is_empty());
        record.ok_or(RecordError::Malformed { kind })
    }

    /// Reads all records of `bytes`.
    ///
    /// # Errors
    /// If one of them is none.
    pub fn decode_all(mut bytes: Bytes) -> Result<Vec<MetadataRecord>, RecordError> {
        let mut records = Vec::new();
        while !bytes.is_empty() {
            records.push(MetadataRecord::decode(&mut bytes)?);
        }
        Ok(records)
    }
}

fn decode_body(kind: u16, body: &mut Bytes) -> Option<MetadataRecord> {
    Some(match kind {
        CLUSTER => MetadataRecord::Cluster { id: get_text(body)? },
        TOPIC => MetadataRecord::Topic { id: get_uuid(body)?, name: get_text(body)? },
        PARTITION => MetadataRecord::Partition {
            topic_id: get_uuid(body)?,
            partition: body.try_get_i32().ok()?,
            state: PartitionState {
                leader: body.try_get_i32().ok()?,
                leader_epoch: body.try_get_i32().ok()?,
                partition_epoch: body.try_get_i32().ok()?,
                replicas: get_ids(body)?,
                isr: get_ids(body)?,
            },
        },
        REMOVE_TOPIC => MetadataRecord::RemoveTopic { id: get_uuid(body)? },
        TOPIC_CONFIG => {
            MetadataRecord::TopicConfig { topic_id: get_uuid(body)?, name: get_text(body)?, value: get_value(body)? }
        }
        BROKER_CONFIG => {
            let broker = body.try_get_i32().ok()?;
            MetadataRecord::BrokerConfig {
                broker: (broker >= 0).then_some(broker),
                name: get_text(body)?,
                value: get_value(body)?,
            }
        }
        PRODUCER_IDS => MetadataRecord::ProducerIds { next: body.try_get_i64().ok()? },
        ACL => {
            let removed = body.try_get_u8().ok()? != 0;
            MetadataRecord::Acl { binding: get_acl(body)?, removed }
        }
        CLIENT_QUOTA => MetadataRecord::ClientQuota {
            entity: get_entity(body)?,
            key: get_text(body)?,
            value: {
                let is_set = body.try_get_u8().ok()? != 0;
                Some(body.try_get_f64().ok()?).filter(|_| is_set)
            },
        },
        SCRAM_CREDENTIAL => MetadataRecord::ScramCredential {
            user: get_text(body)?,
            mechanism: ScramMechanism::from_code(body.try_get_i8().ok()?)?,
            credential: match body.try_get_u8().ok()? {
                0 => None,
                _ => Some(ScramCredential {
                    salt: get_bytes(body)?,
                    stored_key: get_bytes(body)?,
                    server_key: get_bytes(body)?,
                    iterations: body.try_get_i32().ok()?,
                }),
            },
        },
        FEATURE => MetadataRecord::Feature { name: get_text(body)?, level: body.try_get_i16().ok()? },
        RESOURCE_CONFIG => MetadataRecord::ResourceConfig {
            kind: ResourceKind::from_code(body.try_get_i8().ok()?)?,
            resource: get_text(body)?,
            name: get_text(body)?,
            value: get_value(body)?,
        },
        _ => unreachable!("the kind was checked"),
    })
}

fn put_text(out: &mut BytesMut, text: &str) {
    put_bytes(out, text.as_bytes());
}

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32(u32::try_from(bytes.len()).expect("a field far below 4 GiB"));
    out.put_slice(bytes);
}

fn put_acl(out: &mut BytesMut, binding: &AclBinding) {
    let AclBinding { resource, rule } = binding;
    out.put_i8(resource.kind.code());
    out.put_i8(resource.pattern.code());
    put_text(out, &resource.name);
    put_text(out, &rule.principal);
    put_text(out, &rule.host);
    out.put_i8(rule.operation.code());
    out.put_i8(rule.permission.code());
}

fn put_value(out: &mut BytesMut, value: Option<&str>) {
    out.put_u8(value.is_some().into());
    if let Some(value) = value {
        put_text(out, value);
    }
}

fn put_ids(out: &mut BytesMut, ids: &[i32]) {
    out.put_u32(u32::try_from(ids.len()).expect("few brokers"));
    ids.iter().for_each(|id| out.put_i32(*id));
}

fn get_text(body: &mut Bytes) -> Option<String> {
    String::from_utf8(get_bytes(body)?).ok()
}

fn get_bytes(body: &mut Bytes) -> Option<Vec<u8>> {
    let length = body.try_get_u32().ok()? as usize;
    if length > body.len() {
        return None;
    }
    Some(body.split_to(length).to_vec())
}

fn get_acl(body: &mut Bytes) -> Option<AclBinding> {
    let resource = ResourcePattern {
        kind: ResourceType::from_code(body.try_get_i8().ok()?)?,
        pattern: PatternType::from_code(body.try_get_i8().ok()?)?,
        name: get_text(body)?,
    };
    let rule = AclRule {
        principal: get_text(body)?,
        host: get_text(body)?,
        operation: Operation::from_code(body.try_get_i8().ok()?)?,
        permission: Permission::from_code(body.try_get_i8().ok()?)?,
    };
    Some(AclBinding { resource, rule })
}

fn get_entity(body: &mut Bytes) -> Option<Entity> {
    let kinds = body.try_get_u8().ok()?;
    let kind = |body: &mut Bytes| {
        let code = body.try_get_u8().ok()?;
        let kind = EntityType::ALL.into_iter().find(|kind| *kind as u8 == code)?;
        Some((kind, get_value(body)?))
    };
    (0..kinds).map(|_| kind(body)).collect()
}

fn get_value(body: &mut Bytes) -> Option<Option<String>> {
    match body.try_get_u8().ok()? {
        0 => Some(None),
        1 => Some(Some(get_text(body)?)),
        _ => None,
    }
}

fn get_ids(body: &mut Bytes) -> Option<Vec<i32>> {
    let count = body.try_get_u32().ok()? as usize;
    if count > body.len() / size_of::<i32>() {
        return None;
    }
    Some((0..count).map(|_| body.get_i32()).collect())
}

fn get_uuid(body: &mut Bytes) -> Option<Uuid> {
    let mut id = [0; 16];
    body.try_copy_to_slice(&mut id).ok()?;
    Some(Uuid(id))
}

/// The bytes of records, one after the other.
pub fn encode_all(records: &[MetadataRecord]) -> Bytes {
    let mut out = BytesMut::new();
    records.iter().for_each(|record| record.encode(&mut out));
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_of_each() -> Vec<MetadataRecord> {
        let id = Uuid([7; 16]);
        let state =
            PartitionState { leader: 3, leader_epoch: 4, partition_epoch: 5, replicas: vec![3, 1], isr: vec![3] };
        let broker_config =
            |broker| MetadataRecord::BrokerConfig { broker, name: "message.max.bytes".to_owned(), value: None };
        vec![
            MetadataRecord::Cluster { id: "8ABSq1GTRX6ocHhEMEERaA".to_owned() },
            MetadataRecord::Topic { id, name: "orders".to_owned() },
            MetadataRecord::Partition { topic_id: id, partition: 2, state },
            MetadataRecord::TopicConfig { topic_id: id, name: "retention.ms".to_owned(), value: Some("5".to_owned()) },
            broker_config(None),
            broker_config(Some(0)),
            MetadataRecord::ProducerIds { next: 1000 },
            MetadataRecord::RemoveTopic { id },
            MetadataRecord::Acl { binding: acl(), removed: true },
            quota(Some(12.5)),
            quota(None),
            credential(None),
            credential(Some(ScramCredential::new(ScramMechanism::Sha512, b"salt", b"salted", 4096))),
            MetadataRecord::Feature { name: "share.version".to_owned(), level: 1 },
            MetadataRecord::ResourceConfig {
                kind: ResourceKind::Group,
                resource: "g".to_owned(),
                name: "consumer.session.timeout.ms".to_owned(),
                value: Some("50000".to_owned()),
            },
        ]
    }

    fn acl() -> AclBinding {
        AclBinding {
            resource: ResourcePattern {
                kind: ResourceType::Group,
                pattern: PatternType::Prefixed,
                name: "g".to_owned(),
            },
            rule: AclRule {
                principal: "User:bob".to_owned(),
                host: "*".to_owned(),
                operation: Operation::Read,
                permission: Permission::Deny,
            },
        }
    }

    fn quota(value: Option<f64>) -> MetadataRecord {
        let entity = Entity::from([(EntityType::User, Some("u".to_owned())), (EntityType::ClientId, None)]);
        MetadataRecord::ClientQuota { entity, key: "request_percentage".to_owned(), value }
    }

    fn credential(credential: Option<ScramCredential>) -> MetadataRecord {
        MetadataRecord::ScramCredential { user: "u".to_owned(), mechanism: ScramMechanism::Sha512, credential }
    }

    #[test]
    fn records_come_back_as_they_went() {
        let records = one_of_each();
        assert_eq!(MetadataRecord::decode_all(encode_all(&records)), Ok(records));
    }

    #[test]
    fn cut_off_bytes_are_never_records() {
        for record in one_of_each() {
            let bytes = encode_all(std::slice::from_ref(&record));
            for end in 1..bytes.len() {
                assert_eq!(MetadataRecord::decode_all(bytes.slice(..end)), Err(RecordError::Truncated));
            }
        }
    }

    #[test]
    fn what_a_newer_build_wrote_is_named() {
        let mut bytes = BytesMut::from(&encode_all(&[MetadataRecord::ProducerIds { next: 1 }])[..]);
        bytes[2] = 9;
        let error = MetadataRecord::decode_all(bytes.clone().freeze()).expect_err("a newer version");
        assert_eq!(error, RecordError::Unknown { kind: PRODUCER_IDS, version: 9 });
        bytes[1] = 200;
        let error = MetadataRecord::decode_all(bytes.freeze()).expect_err("a newer kind");
        assert_eq!(error, RecordError::Unknown { kind: 200, version: 9 });
    }
}
