//! The controller: which change of the cluster a request becomes.
//!
//! Given an image, the settings of this broker and a source of chance it answers a request with records and a
//! reply; whoever drives it makes the records durable, applies them, and only then sends the reply. The
//! invariant: an image is its records applied in order, and nothing else. Knows no files, clocks or
//! connections.

pub mod acls;
mod alter;
pub mod broker_configs;
pub mod config_docs;
pub mod configs;
pub mod describe;
pub mod elections;
pub mod features;
pub mod image;
mod placement;
pub mod producer_ids;
pub mod quotas;
pub mod records;
pub mod request;
pub mod resource_configs;
pub mod scram;
pub mod topic_configs;
pub mod topics;

use std::sync::Arc;

pub use broker_configs::{BrokerValues, ConfigSource, Settings};
pub use configs::{ConfigType, TopicConfig};
pub use describe::{ConfigEntry, ConfigSynonym, describe};
pub use image::MetadataImage;
pub use records::MetadataRecord;
pub use request::{
    ConfigChange, ConfigResource, ControllerReply, ControllerRequest, CreatedTopic, DeletedTopic, NewPartitions,
    NewTopic, NewTopicState, ProducerIds, Refusal, Setting, TopicName,
};

use image::ApplyError;

use crate::io::Pace;
use crate::protocol::Uuid;

/// What a decision is made on, and the records that it becomes.
pub(crate) struct Context<'a> {
    image: &'a MetadataImage,
    settings: &'a Settings,
    /// Ids of the brokers, sorted.
    brokers: &'a [i32],
    random: &'a mut dyn FnMut() -> u64,
    records: Vec<MetadataRecord>,
    /// Requests of a million items let the core's other tasks run between.
    pace: &'a Pace,
}

impl Context<'_> {
    /// A random id that is not zero and whose text does not begin with '-' (as `Uuid.randomUuid` of Kafka).
    fn random_uuid(&mut self) -> Uuid {
        loop {
            let bits = u128::from((self.random)()) << 64 | u128::from((self.random)());
            let id = Uuid(bits.to_be_bytes());
            if !id.is_zero() && !id.to_string().starts_with('-') {
                return id;
            }
        }
    }
}

/// The newest image, and how requests change it. A clone is a draft: it shares all that does not change.
#[derive(Debug, Clone)]
pub struct Controller {
    image: Arc<MetadataImage>,
    settings: Arc<Settings>,
    brokers: Vec<i32>,
}

impl Controller {
    /// The controller of a cluster that has no records yet; this broker is its only one.
    pub fn new(settings: Arc<Settings>) -> Controller {
        let brokers = vec![settings.node_id];
        Controller { image: Arc::default(), settings, brokers }
    }

    /// The newest image.
    pub fn image(&self) -> &Arc<MetadataImage> {
        &self.image
    }

    /// Decides a request on the newest image, which stays as it is. Without records nothing changes, and the
    /// reply may leave at once.
    pub async fn handle(
        &self,
        request: &ControllerRequest,
        random: &mut dyn FnMut() -> u64,
        pace: &Pace,
    ) -> (Vec<MetadataRecord>, ControllerReply) {
        let mut context = self.context(random, pace);
        let reply = match request {
            ControllerRequest::CreateTopics { topics, validate_only } => {
                ControllerReply::CreateTopics(topics::create(&mut context, topics, *validate_only).await)
            }
            ControllerRequest::DeleteTopics(topics) => {
                ControllerReply::DeleteTopics(topics::delete(&mut context, topics).await)
            }
            ControllerRequest::CreatePartitions { topics, validate_only } => {
                ControllerReply::CreatePartitions(topics::create_partitions(&mut context, topics, *validate_only).await)
            }
            ControllerRequest::IncrementalAlterConfigs { resources, validate_only } => {
                ControllerReply::AlterConfigs(alter::incremental(&mut context, resources, *validate_only).await)
            }
            ControllerRequest::AlterConfigs { resources, validate_only } => {
                ControllerReply::AlterConfigs(alter::replace(&mut context, resources, *validate_only).await)
            }
            ControllerRequest::AllocateProducerIds { count } => {
                ControllerReply::AllocateProducerIds(producer_ids::allocate(&mut context, *count))
            }
            ControllerRequest::CreateAcls(bindings) => {
                ControllerReply::CreateAcls(acls::create(&mut context, bindings).await)
            }
            ControllerRequest::DeleteAcls(filters) => {
                ControllerReply::DeleteAcls(acls::delete(&mut context, filters).await)
            }
            ControllerRequest::AlterClientQuotas { alterations, validate_only } => {
                ControllerReply::AlterClientQuotas(quotas::alter(&mut context, alterations, *validate_only).await)
            }
            ControllerRequest::AlterUserScramCredentials(alterations) => {
                ControllerReply::AlterUserScramCredentials(scram::alter(&mut context, alterations).await)
            }
            ControllerRequest::UpdateFeatures { updates, validate_only } => {
                ControllerReply::UpdateFeatures(features::update(&mut context, updates, *validate_only).await)
            }
        };
        (context.records, reply)
    }

    /// The records that found a cluster; none if it has been founded.
    pub fn found(&self, random: &mut dyn FnMut() -> u64) -> Vec<MetadataRecord> {
        if !self.image.cluster_id.is_empty() {
            return Vec::new();
        }
        let mut records =
            vec![MetadataRecord::Cluster { id: self.context(random, &Pace::default()).random_uuid().to_string() }];
        records.extend(features::min_insync_replicas(&self.image, &self.settings));
        records
    }

    /// Applies records of the log, the last of which has this offset.
    ///
    /// # Errors
    /// If a record does not fit. The controller is then of no use.
    pub fn apply(&mut self, records: &[MetadataRecord], last_offset: i64) -> Result<(), ApplyError> {
        let image = Arc::make_mut(&mut self.image);
        records.iter().try_for_each(|record| image.apply(record, &self.settings))?;
        image.offset = last_offset;
        Ok(())
    }

    fn context<'a>(&'a self, random: &'a mut dyn FnMut() -> u64, pace: &'a Pace) -> Context<'a> {
        let (image, settings, brokers) = (&self.image, &self.settings, &self.brokers);
        Context { image, settings, brokers, random, records: Vec::new(), pace }
    }
}

#[cfg(test)]
mod tests;
