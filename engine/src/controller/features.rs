//! Features of the cluster (KIP-584): which levels this build supports, and which are finalised.
//!
//! A feature stands in the table once all its APIs are served, never before: clients choose their protocol by
//! it. A cluster is founded with the table's levels; UpdateFeatures moves them. Messages have the words of
//! Kafka's `FeatureControlManager`.

use std::collections::BTreeSet;

use super::Context;
use super::broker_configs::{MIN_INSYNC_REPLICAS, Settings};
use super::image::MetadataImage;
use super::records::MetadataRecord;
use super::request::{Refusal, shown};
use crate::protocol::ErrorCode;

/// Whether replicas that have all that was acknowledged are known when they are not in sync (KIP-966), from level 1
/// on. `min.insync.replicas` is then the cluster's matter and its topics', not a broker's.
pub const ELIGIBLE_LEADER_REPLICAS_VERSION: &str = "eligible.leader.replicas.version";

/// The level of the quorum's format: from 1 on its voters may change.
pub const KRAFT_VERSION: &str = "kraft.version";

/// Kafka 4.1 knows this feature and supports none of its levels but 0, which tools ask for.
const STREAMS_VERSION: &str = "streams.version";

/// The level of the metadata's format.
pub const METADATA_VERSION: &str = "metadata.version";

/// Whether there are groups of the consumer protocol (KIP-848): from level 1 on.
pub const GROUP_VERSION: &str = "group.version";

/// Whether there are share groups: from level 1 on.
pub const SHARE_VERSION: &str = "share.version";

/// A feature and its levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    /// Kafka's name.
    pub name: &'static str,
    /// The lowest level that this build supports.
    pub min: i16,
    /// The highest level that this build supports.
    pub max: i16,
    /// The level that a new cluster has; 0 is not told.
    pub initial: i16,
}

/// All features, sorted by name.
pub const FEATURES: &[Feature] = &[
    Feature { name: ELIGIBLE_LEADER_REPLICAS_VERSION, min: 0, max: 1, initial: 1 },
    Feature { name: GROUP_VERSION, min: 0, max: 1, initial: 1 },
    Feature { name: KRAFT_VERSION, min: 0, max: 1, initial: 1 },
    // 7 is 3.3-IV3, 27 is 4.1-IV1.
    Feature { name: METADATA_VERSION, min: 7, max: 27, initial: 27 },
    // KIP-932, which Kafka 4.1 has as a preview: finalised only by who asks for it.
    Feature { name: SHARE_VERSION, min: 0, max: 1, initial: 0 },
    // Version 2 is KIP-890: Produce 12, EndTxn 5 and TxnOffsetCommit 5 rely on it.
    Feature { name: "transaction.version", min: 0, max: 2, initial: 2 },
];

/// The feature of that name.
pub fn find(name: &str) -> Option<&'static Feature> {
    FEATURES.iter().find(|feature| feature.name == name)
}

/// The level of a feature that is in force; 0 if there is no such feature.
pub fn level(image: &MetadataImage, name: &str) -> i16 {
    let finalised = image.features.get(name).copied();
    finalised.unwrap_or_else(|| find(name).map_or(0, |feature| feature.initial))
}

/// A new level of a feature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureUpdate {
    /// The feature.
    pub name: String,
    /// Its new level; 0 takes it back.
    pub level: i16,
    /// `FeatureUpdate.UpgradeType`: 1 upgrade, 2 safe downgrade, 3 unsafe downgrade.
    pub upgrade_type: i8,
}

const UPGRADE: i8 = 1;
const SAFE_DOWNGRADE: i8 = 2;
const UNSAFE_DOWNGRADE: i8 = 3;

/// Finalises levels: all that are asked for, or none.
pub(super) async fn update(
    context: &mut Context<'_>,
    updates: &[FeatureUpdate],
    validate_only: bool,
) -> Result<(), Refusal> {
    let mut records = Vec::new();
    let mut named = BTreeSet::new();
    for update in updates {
        context.pace.spend(1).await;
        let current = level(context.image, &update.name);
        check(update, current, context.settings.node_id)?;
        if !named.insert(&update.name) {
            return Err(Refusal::new(ErrorCode::InvalidRequest, "Each feature must appear at most once."));
        }
        if update.level != current {
            records.push(MetadataRecord::Feature { name: update.name.clone(), level: update.level });
            if update.name == ELIGIBLE_LEADER_REPLICAS_VERSION && current == 0 {
                records.extend(min_insync_replicas(context.image, context.settings));
            }
        }
    }
    if !validate_only {
        context.records.extend(records);
    }
    Ok(())
}

/// The records by which `min.insync.replicas` becomes the cluster's matter: all brokers get the value that this one was
/// started with, unless they have one, and no broker has its own.
pub(super) fn min_insync_replicas(image: &MetadataImage, settings: &Settings) -> Vec<MetadataRecord> {
    let record = |broker, value| MetadataRecord::BrokerConfig { broker, name: MIN_INSYNC_REPLICAS.to_owned(), value };
    let mut records = Vec::new();
    if !image.cluster_configs.contains_key(MIN_INSYNC_REPLICAS) {
        let started_with = settings.static_configs.get(MIN_INSYNC_REPLICAS).map_or("1", |value| value.trim());
        records.push(record(None, Some(started_with.to_owned())));
    }
    let own = image.broker_configs.iter().filter(|(_, configs)| configs.contains_key(MIN_INSYNC_REPLICAS));
    records.extend(own.map(|(broker, _)| record(Some(*broker), None)));
    records
}

fn check(update: &FeatureUpdate, current: i16, node_id: i32) -> Result<(), Refusal> {
    let FeatureUpdate { name, level, upgrade_type } = update;
    let invalid = |why: &str| {
        let why = format!("Invalid update version {level} for feature {}. {why}", shown(name));
        Err(Refusal::new(ErrorCode::InvalidUpdateVersion, why))
    };
    if name == STREAMS_VERSION && *level == 0 {
        return Ok(());
    }
    let Some(feature) = find(name) else {
        return invalid(&format!("Local controller {node_id} does not support this feature."));
    };
    if !matches!(*upgrade_type, UPGRADE | SAFE_DOWNGRADE | UNSAFE_DOWNGRADE) {
        return invalid("The controller does not support the given upgrade type.");
    }
    if *level < 0 {
        return invalid("A feature version cannot be less than 0.");
    }
    if *level != 0 && !(feature.min..=feature.max).contains(level) || *level == 0 && name == METADATA_VERSION {
        let supported = format!("{}-{}", feature.min, feature.max);
        return invalid(&format!("Local controller {node_id} only supports versions {supported}"));
    }
    if *level < current {
        if *upgrade_type == UPGRADE {
            return invalid(
                "Can't downgrade the version of this feature without setting the upgrade type to either safe or \
                 unsafe downgrade.",
            );
        }
        if name == KRAFT_VERSION {
            return invalid("Can't downgrade the version of this feature.");
        }
        if name == METADATA_VERSION && METADATA_CHANGES.iter().any(|changed| (level + 1..=current).contains(changed)) {
            return Err(downgrade_of_metadata(*level, *upgrade_type));
        }
    }
    if *level > current && *upgrade_type != UPGRADE {
        return invalid("Can't downgrade to a newer version.");
    }
    Ok(())
}

/// The levels of the metadata's format that brought something new with them (`MetadataVersion.didMetadataChange`).
const METADATA_CHANGES: &[i16] = &[7, 8, 11, 13, 14, 15, 17, 23];

/// Records of a newer format would be lost.
fn downgrade_of_metadata(level: i16, upgrade_type: i8) -> Refusal {
    let why = match upgrade_type {
        UNSAFE_DOWNGRADE => "Unsafe metadata downgrade is not supported in this version.",
        _ => "Refusing to perform the requested downgrade because it might delete metadata information.",
    };
    Refusal::new(ErrorCode::InvalidUpdateVersion, format!("Invalid metadata.version {level}. {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_consistent() {
        assert!(FEATURES.is_sorted_by(|a, b| a.name < b.name));
        assert!(FEATURES.iter().all(|feature| feature.initial == 0 || feature.initial >= feature.min));
        assert!(FEATURES.iter().all(|feature| feature.initial <= feature.max));
    }

    #[test]
    fn only_what_is_supported_is_finalised() {
        let check = |name: &str, level, upgrade_type, current| {
            check(&FeatureUpdate { name: name.to_owned(), level, upgrade_type }, current, 1)
        };
        assert_eq!(check(METADATA_VERSION, 27, UPGRADE, 27), Ok(()));
        assert_eq!(check(METADATA_VERSION, 27, UPGRADE, 26), Ok(()));
        for level in 23..27 {
            assert_eq!(check(METADATA_VERSION, level, SAFE_DOWNGRADE, 27), Ok(()), "nothing is lost above 23");
        }
        assert_eq!(check(KRAFT_VERSION, 1, UPGRADE, 1), Ok(()));
        assert_eq!(check(KRAFT_VERSION, 1, UPGRADE, 0), Ok(()), "for who was once let down to 0");
        assert_eq!(check(ELIGIBLE_LEADER_REPLICAS_VERSION, 1, UPGRADE, 1), Ok(()));
        assert_eq!(check(ELIGIBLE_LEADER_REPLICAS_VERSION, 0, SAFE_DOWNGRADE, 1), Ok(()));
        assert_eq!(check(STREAMS_VERSION, 0, SAFE_DOWNGRADE, 0), Ok(()));
        for (name, level, upgrade_type) in [
            ("no.such.version", 1, UPGRADE),
            (METADATA_VERSION, 28, UPGRADE),
            (METADATA_VERSION, 6, UNSAFE_DOWNGRADE),
            (METADATA_VERSION, 0, UNSAFE_DOWNGRADE),
            (METADATA_VERSION, 26, UPGRADE),
            (METADATA_VERSION, 22, SAFE_DOWNGRADE),
            (METADATA_VERSION, 22, UNSAFE_DOWNGRADE),
            (METADATA_VERSION, 27, 9),
            (KRAFT_VERSION, 2, UPGRADE),
            (KRAFT_VERSION, -1, UPGRADE),
            (KRAFT_VERSION, 0, UPGRADE),
            (KRAFT_VERSION, 0, SAFE_DOWNGRADE),
            (KRAFT_VERSION, 0, UNSAFE_DOWNGRADE),
            (ELIGIBLE_LEADER_REPLICAS_VERSION, 2, UPGRADE),
            (ELIGIBLE_LEADER_REPLICAS_VERSION, 0, UPGRADE),
            (STREAMS_VERSION, 1, UPGRADE),
        ] {
            let current = find(name).map_or(0, |feature| feature.initial);
            let refused = check(name, level, upgrade_type, current).expect_err("it is not supported");
            assert_eq!(refused.error, ErrorCode::InvalidUpdateVersion, "{name} {level}");
        }
    }
}
