//! The APIs: which keys and versions there are, and which header goes with each.
//!
//! The table is generated from `schema/api.schema`: what an Apache Kafka 4.1 broker serves to
//! clients. Does not know which of them this broker advertises; that is the server's choice.

use std::ops::RangeInclusive;

use super::decoder::DecodeError;

include!(concat!(env!("OUT_DIR"), "/api_key.rs"));

struct ApiInfo {
    name: &'static str,
    min: i16,
    max: i16,
    /// The first flexible version; `i16::MAX` if there is none.
    flexible: i16,
}

impl ApiKey {
    /// The API with the key, if there is one.
    pub fn from_code(key: i16) -> Option<ApiKey> {
        let place = *PLACE.get(usize::try_from(key).ok()?)?;
        ApiKey::ALL.get(usize::from(place)).copied()
    }

    /// The key as requests carry it.
    pub fn code(self) -> i16 {
        self as i16
    }

    fn info(self) -> &'static ApiInfo {
        let key = usize::try_from(self.code()).expect("keys are not negative");
        &INFO[usize::from(PLACE[key])]
    }

    /// Kafka's name of the API.
    pub fn name(self) -> &'static str {
        self.info().name
    }

    /// The versions this codec reads and writes.
    pub fn versions(self) -> RangeInclusive<i16> {
        self.info().min..=self.info().max
    }

    /// The versions to put in an ApiVersions answer. They are [`ApiKey::versions`], but for Produce:
    /// its versions 0 to 2 are named and not served, since librdkafka takes their absence for a
    /// broker without compression (KAFKA-18659).
    pub fn advertised_versions(self) -> RangeInclusive<i16> {
        match self {
            ApiKey::Produce => 0..=self.info().max,
            _ => self.versions(),
        }
    }

    /// Whether the version has compact lengths and tagged fields (KIP-482).
    pub fn is_flexible(self, version: i16) -> bool {
        version >= self.info().flexible
    }

    /// The version of the request header: 2 where the request is flexible, else 1.
    pub fn request_header_version(self, version: i16) -> i16 {
        if self.is_flexible(version) { 2 } else { 1 }
    }

    /// The version of the response header: 1 where the response is flexible, else 0. ApiVersions
    /// always answers with 0, because a client reads it before it knows what the broker speaks.
    pub fn response_header_version(self, version: i16) -> i16 {
        i16::from(self != ApiKey::ApiVersions && self.is_flexible(version))
    }
}

impl TryFrom<i16> for ApiKey {
    type Error = DecodeError;

    fn try_from(key: i16) -> Result<Self, DecodeError> {
        ApiKey::from_code(key).ok_or(DecodeError::UnknownApiKey(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_their_apis() {
        for key in i16::MIN..=i16::MAX {
            if let Some(api) = ApiKey::from_code(key) {
                assert_eq!(api.code(), key);
            }
        }
        assert_eq!(ApiKey::from_code(92), Some(ApiKey::DeleteShareGroupOffsets));
        for absent in [-1, 4, 52, 88, 93, 999] {
            assert_eq!(ApiKey::try_from(absent), Err(DecodeError::UnknownApiKey(absent)));
        }
        assert_eq!(ApiKey::Fetch.name(), "Fetch");
        assert_eq!(ApiKey::Produce.versions(), 3..=13);
        assert_eq!(ApiKey::Produce.advertised_versions(), 0..=13);
    }

    #[test]
    fn unstable_versions_are_off() {
        assert_eq!(ApiKey::OffsetCommit.versions(), 2..=9);
        assert_eq!(ApiKey::OffsetFetch.versions(), 1..=9);
        assert_eq!(ApiKey::InitProducerId.versions(), 0..=5);
    }

    #[test]
    fn headers_follow_the_version() {
        assert_eq!(ApiKey::Metadata.request_header_version(8), 1);
        assert_eq!(ApiKey::Metadata.request_header_version(9), 2);
        assert_eq!(ApiKey::Metadata.response_header_version(9), 1);
        assert_eq!(ApiKey::ApiVersions.request_header_version(3), 2);
        assert_eq!(ApiKey::ApiVersions.response_header_version(4), 0);
        assert_eq!(ApiKey::SaslHandshake.request_header_version(1), 1);
    }
}
