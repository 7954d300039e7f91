//! The admin APIs of a broker in simulation: what is answered, what survives a loss of power, what ACLs and
//! quotas do to clients. A family of handlers is a file; what they share is here.

#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "shared with other tests, which use more of it")]
mod support;

mod acls;
mod cluster;
mod configs;
mod patterns;
mod quotas;
mod records;
mod timeouts;

use engine::controller::broker_configs::STANDARD_AUTHORIZER;
use engine::protocol::Records;
use engine::protocol::messages::alter_client_quotas::{
    AlterClientQuotasRequest, OpData, RequestEntityData, RequestEntryData,
};
use engine::protocol::messages::create_acls::AclCreation;
use engine::protocol::messages::create_topics::{CreatableTopic, CreateTopicsRequest};
use engine::protocol::messages::delete_records::{DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic};
use engine::protocol::messages::describe_acls::DescribeAclsRequest;
use engine::protocol::messages::fetch::{FetchPartition, FetchRequest, FetchTopic};
use engine::protocol::messages::incremental_alter_configs::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
};
use engine::protocol::messages::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use engine::protocol::messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use engine::protocol::messages::update_features::{FeatureUpdateKey, UpdateFeaturesRequest};
use engine::record::BatchBuilder;

use support::Client;

pub(crate) fn topic(name: &str, partitions: i32) -> CreateTopicsRequest<'_> {
    let topic =
        CreatableTopic { name: name.into(), num_partitions: partitions, replication_factor: 1, ..Default::default() };
    CreateTopicsRequest { topics: vec![topic], timeout_ms: 1000, validate_only: false }
}

pub(crate) fn produce(name: &str, value_bytes: usize) -> ProduceRequest<'static> {
    let mut batch = BatchBuilder::new();
    batch.append(-1, None, Some(&vec![7; value_bytes]), &[]);
    let records = Some(Records::Chunks(vec![batch.finish().into()]));
    let topic = TopicProduceData {
        name: name.to_owned().into(),
        partition_data: vec![PartitionProduceData { index: 0, records }],
        ..Default::default()
    };
    ProduceRequest { acks: -1, timeout_ms: 10_000, topic_data: vec![topic], ..Default::default() }
}

pub(crate) fn fetch(name: &str, offset: i64) -> FetchRequest<'_> {
    let partition = FetchPartition { fetch_offset: offset, partition_max_bytes: 1 << 20, ..Default::default() };
    let topic = FetchTopic { topic: name.into(), partitions: vec![partition], ..Default::default() };
    FetchRequest { max_wait_ms: 0, min_bytes: 1, max_bytes: 1 << 20, topics: vec![topic], ..Default::default() }
}

pub(crate) fn delete_before(name: &str, offset: i64) -> DeleteRecordsRequest<'_> {
    let partitions = vec![DeleteRecordsPartition { partition_index: 0, offset }];
    DeleteRecordsRequest { topics: vec![DeleteRecordsTopic { name: name.into(), partitions }], timeout_ms: 10_000 }
}

pub(crate) fn earliest(name: &str) -> ListOffsetsRequest<'_> {
    let partition = ListOffsetsPartition { timestamp: -2, ..Default::default() };
    let topic = ListOffsetsTopic { name: name.into(), partitions: vec![partition] };
    ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..Default::default() }
}

pub(crate) async fn appended(client: &mut Client, name: &str, value_bytes: usize) -> (i16, i64) {
    let response = client.ask(&produce(name, value_bytes), 12).await;
    let partition = &response.responses[0].partition_responses[0];
    (partition.error_code, partition.base_offset)
}

pub(crate) async fn fetched(client: &mut Client, name: &str, offset: i64) -> i16 {
    client.ask(&fetch(name, offset), 12).await.responses[0].partitions[0].error_code
}

pub(crate) async fn deleted(client: &mut Client, name: &str, offset: i64) -> (i16, i64) {
    let response = client.ask(&delete_before(name, offset), 2).await;
    let partition = &response.topics[0].partitions[0];
    (partition.error_code, partition.low_watermark)
}

pub(crate) async fn first_offset(client: &mut Client, name: &str) -> i64 {
    client.ask(&earliest(name), 7).await.topics[0].partitions[0].offset
}

pub(crate) fn feature(name: &'static str, max_version_level: i16, upgrade_type: i8) -> UpdateFeaturesRequest<'static> {
    let update = FeatureUpdateKey { feature: name.into(), max_version_level, allow_downgrade: false, upgrade_type };
    UpdateFeaturesRequest { feature_updates: vec![update], ..Default::default() }
}

pub(crate) fn set_for_broker(name: &'static str, value: &'static str) -> IncrementalAlterConfigsRequest<'static> {
    let config = AlterableConfig { name: name.into(), config_operation: 0, value: Some(value.into()) };
    let resource = AlterConfigsResource { resource_type: 4, resource_name: "1".into(), configs: vec![config] };
    IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false }
}

pub(crate) async fn set(client: &mut Client, name: &'static str, value: &'static str) -> i16 {
    client.ask(&set_for_broker(name, value), 1).await.responses[0].error_code
}

pub(crate) fn acl(kind: i8, name: &str, principal: &str, operation: i8, permission: i8) -> AclCreation<'static> {
    AclCreation {
        resource_type: kind,
        resource_name: name.to_owned().into(),
        resource_pattern_type: 3,
        principal: principal.to_owned().into(),
        host: "*".into(),
        operation,
        permission_type: permission,
    }
}

pub(crate) fn any_acl() -> DescribeAclsRequest<'static> {
    DescribeAclsRequest {
        resource_type_filter: 1,
        resource_name_filter: None,
        pattern_type_filter: 1,
        principal_filter: None,
        host_filter: None,
        operation: 1,
        permission_type: 1,
    }
}

pub(crate) fn quota(
    kind: &'static str,
    name: Option<&'static str>,
    key: &'static str,
    value: f64,
) -> AlterClientQuotasRequest<'static> {
    let entity = vec![RequestEntityData { entity_type: kind.into(), entity_name: name.map(Into::into) }];
    let ops = vec![OpData { key: key.into(), value, remove: false }];
    AlterClientQuotasRequest { entries: vec![RequestEntryData { entity, ops }], validate_only: false }
}

pub(crate) const OPEN: [(&str, &str); 2] =
    [("authorizer.class.name", STANDARD_AUTHORIZER), ("allow.everyone.if.no.acl.found", "true")];
