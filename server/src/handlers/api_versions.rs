//! ApiVersions: what is served; and SASL's requests, which without SASL are only refused.

use engine::controller::features::{self, FEATURES, Feature};
use engine::controller::image::MetadataImage;
use engine::protocol::messages::api_versions::{
    ApiVersion, ApiVersionsRequest, ApiVersionsResponse, FinalizedFeatureKey, SupportedFeatureKey,
};
use engine::protocol::messages::sasl_authenticate::{SaslAuthenticateRequest, SaslAuthenticateResponse};
use engine::protocol::messages::sasl_handshake::{SaslHandshakeRequest, SaslHandshakeResponse};
use engine::protocol::{ApiKey, ErrorCode, Str};

use crate::broker::Broker;
use crate::dispatch::{Answer, Call, Refusal, SERVED};

/// From this version on a feature may be supported from level 0 (KAFKA-17011): older clients take that for an
/// error.
const TELLS_LEVEL_ZERO: i16 = 4;

/// Tells what is served. A version that is not known is answered in version 0, with its body unread.
///
/// # Errors
/// If the request cannot be read.
pub fn api_versions(broker: &Broker, call: &Call) -> Result<Answer, Refusal> {
    if !ApiKey::ApiVersions.versions().contains(&call.version) {
        let api_keys = vec![listed(ApiKey::ApiVersions)];
        let error_code = ErrorCode::UnsupportedVersion.code();
        return call.answer_in(&ApiVersionsResponse { error_code, api_keys, ..Default::default() }, 0);
    }
    let request: ApiVersionsRequest<'_> = call.decode()?;
    let names = [&request.client_software_name, &request.client_software_version];
    if call.version >= 3 && !names.iter().all(|name| is_software_name(name)) {
        let error_code = ErrorCode::InvalidRequest.code();
        return call.answer(&ApiVersionsResponse { error_code, ..Default::default() });
    }
    let image = broker.image();
    call.answer(&ApiVersionsResponse {
        api_keys: SERVED.iter().copied().map(listed).collect(),
        supported_features: supported_features(call.version),
        finalized_features_epoch: image.offset.max(0),
        finalized_features: finalized_features(&image),
        ..Default::default()
    })
}

fn listed(api: ApiKey) -> ApiVersion {
    let versions = api.advertised_versions();
    ApiVersion { api_key: api.code(), min_version: *versions.start(), max_version: *versions.end() }
}

fn supported_features(version: i16) -> Vec<SupportedFeatureKey<'static>> {
    let told = FEATURES.iter().filter(|feature| version >= TELLS_LEVEL_ZERO || feature.min > 0);
    let key = |feature: &Feature| SupportedFeatureKey {
        name: Str::Borrowed(feature.name),
        min_version: feature.min,
        max_version: feature.max,
    };
    told.map(key).collect()
}

/// Level 0 is not told.
fn finalized_features(image: &MetadataImage) -> Vec<FinalizedFeatureKey<'static>> {
    let levels = FEATURES.iter().map(|feature| (feature.name, features::level(image, feature.name)));
    let key = |(name, level)| FinalizedFeatureKey {
        name: Str::Borrowed(name),
        max_version_level: level,
        min_version_level: level,
    };
    levels.filter(|(_, level)| *level > 0).map(key).collect()
}

/// Letters and digits, with `-` and `.` between them (KIP-511).
fn is_software_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    let outer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    name.chars().all(inner) && outer(name.chars().next()) && outer(name.chars().next_back())
}

/// Refuses: this listener has no SASL.
///
/// # Errors
/// If the request cannot be read.
pub fn sasl_handshake(call: &Call) -> Result<Answer, Refusal> {
    let _: SaslHandshakeRequest<'_> = call.decode()?;
    call.answer(&SaslHandshakeResponse { error_code: ErrorCode::IllegalSaslState.code(), ..Default::default() })
}

/// Refuses, as [`sasl_handshake`] does.
///
/// # Errors
/// If the request cannot be read.
pub fn sasl_authenticate(call: &Call) -> Result<Answer, Refusal> {
    let _: SaslAuthenticateRequest = call.decode()?;
    call.answer(&SaslAuthenticateResponse {
        error_code: ErrorCode::IllegalSaslState.code(),
        error_message: Some("SaslAuthenticate request received after successful authentication".into()),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_names_follow_kip_511() {
        for good in ["a", "apache-kafka-java", "4.1.0", "x.y-z1"] {
            assert!(is_software_name(good), "{good}");
        }
        for bad in ["", "-a", "a-", ".", "a b", "a_b", "ä"] {
            assert!(!is_software_name(bad), "{bad}");
        }
    }

    #[test]
    fn what_is_listed_is_sorted_and_old_clients_see_no_level_zero() {
        assert!(SERVED.is_sorted());
        let names = |version| supported_features(version).iter().map(|key| key.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(3), ["metadata.version"]);
        let all = [
            "eligible.leader.replicas.version",
            "group.version",
            "kraft.version",
            "metadata.version",
            "share.version",
            "transaction.version",
        ];
        assert_eq!(names(4), all);
    }
}
