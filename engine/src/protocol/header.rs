//! The headers in front of requests and responses.
//!
//! Invariant: the client id is an inflexible string in every version of the request header, so that
//! a broker can read it before it knows the API (KIP-511). Does not know the bodies.

use bytes::Bytes;

use super::api::ApiKey;
use super::decoder::{DecodeError, Decoder};
use super::encoder::{EncodeError, Encoder};
use super::message::{Message, Request};
use super::types::Str;

/// The header of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHeader<'a> {
    /// The API; one that this codec knows.
    pub api_key: ApiKey,
    /// The version the body is in; may be one this codec does not know.
    pub api_version: i16,
    /// What the response repeats.
    pub correlation_id: i32,
    /// What the client calls itself.
    pub client_id: Option<Str<'a>>,
}

impl<'a> RequestHeader<'a> {
    /// Reads the header; the body is what `d` has left.
    ///
    /// The version is not judged here, because ApiVersions answers a version it does not know, and
    /// with a body that was not read. There the header ends at the client id: what follows it in
    /// a version of the future is not known. For another API an unknown version closes the
    /// connection; so does an unknown key, which is an error here.
    pub fn decode(d: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        let api_key = ApiKey::try_from(d.i16()?)?;
        let api_version = d.i16()?;
        let correlation_id = d.i32()?;
        let client_id = d.nullable_string(false)?;
        let header = RequestHeader { api_key, api_version, correlation_id, client_id };
        if header.is_known() && api_key.request_header_version(api_version) >= 2 {
            d.skip_tagged_fields()?;
        }
        Ok(header)
    }

    /// Whether this codec has the version of the API.
    pub fn is_known(&self) -> bool {
        self.api_key.versions().contains(&self.api_version)
    }

    /// Writes the header.
    pub fn encode(&self, e: &mut Encoder) {
        e.i16(self.api_key.code());
        e.i16(self.api_version);
        e.i32(self.correlation_id);
        e.nullable_string(self.client_id.as_deref(), false);
        if self.api_key.request_header_version(self.api_version) >= 2 {
            e.uvarint(0);
        }
    }
}

/// The header of a response. Its form follows the request's API and version, see
/// [`ApiKey::response_header_version`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseHeader {
    /// That of the request.
    pub correlation_id: i32,
}

impl ResponseHeader {
    /// Reads the header of a response to a request of `api_key` in `api_version`.
    pub fn decode(d: &mut Decoder<'_>, api_key: ApiKey, api_version: i16) -> Result<Self, DecodeError> {
        let correlation_id = d.i32()?;
        if api_key.response_header_version(api_version) >= 1 {
            d.skip_tagged_fields()?;
        }
        Ok(ResponseHeader { correlation_id })
    }

    /// Writes the header of a response to a request of `api_key` in `api_version`.
    pub fn encode(&self, e: &mut Encoder, api_key: ApiKey, api_version: i16) {
        e.i32(self.correlation_id);
        if api_key.response_header_version(api_version) >= 1 {
            e.uvarint(0);
        }
    }
}

/// A whole request: size, header and body, to be sent in this order.
pub fn request_frame<'a, R: Request<'a>>(
    api_version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
    body: &R,
) -> Result<Vec<Bytes>, EncodeError> {
    let client_id = client_id.map(Str::Borrowed);
    let header = RequestHeader { api_key: R::API_KEY, api_version, correlation_id, client_id };
    let mut e = Encoder::frame();
    header.encode(&mut e);
    body.encode(&mut e, api_version);
    e.finish()
}

/// A whole response to a request of `R` in `api_version`: size, header and body, to be sent in this
/// order.
pub fn response_frame<'a, R: Request<'a>>(
    api_version: i16,
    correlation_id: i32,
    body: &R::Response<'_>,
) -> Result<Vec<Bytes>, EncodeError> {
    let mut e = Encoder::frame();
    ResponseHeader { correlation_id }.encode(&mut e, R::API_KEY, api_version);
    body.encode(&mut e, api_version);
    e.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_keep_an_inflexible_client_id() {
        let v1 = [0, 3, 0, 8, 0, 0, 0, 42, 0, 2, b'm', b'e', 0xbb];
        let mut d = Decoder::new(&v1);
        let header = RequestHeader::decode(&mut d).unwrap();
        assert_eq!((header.api_key, header.api_version), (ApiKey::Metadata, 8));
        assert_eq!((header.correlation_id, header.client_id.as_deref()), (42, Some("me")));
        assert_eq!(d.remaining(), [0xbb]);

        // Version 2 with one tagged field, which nobody knows.
        let v2 = [0, 3, 0, 9, 0, 0, 0, 42, 0xff, 0xff, 1, 5, 2, 7, 7, 0xbb];
        let mut d = Decoder::new(&v2);
        assert_eq!(RequestHeader::decode(&mut d).unwrap().client_id, None);
        assert_eq!(d.remaining(), [0xbb]);
    }

    #[test]
    fn a_header_of_an_unknown_version_is_read_and_of_an_unknown_key_is_not() {
        // ApiVersions of version 99, whose tagged fields would not parse.
        let mut d = Decoder::new(&[0, 18, 0, 99, 0, 0, 0, 1, 0xff, 0xff, 0xff]);
        let header = RequestHeader::decode(&mut d).unwrap();
        assert!(!header.is_known());
        assert_eq!(header.correlation_id, 1);
        let mut d = Decoder::new(&[3, 231, 0, 0, 0, 0, 0, 1, 0xff, 0xff]);
        assert_eq!(RequestHeader::decode(&mut d), Err(DecodeError::UnknownApiKey(999)));
    }

    #[test]
    fn headers_are_read_as_written() {
        for (api_key, api_version) in [(ApiKey::Produce, 8), (ApiKey::Produce, 9), (ApiKey::ApiVersions, 4)] {
            let client_id = Some("client".into());
            let request = RequestHeader { api_key, api_version, correlation_id: -7, client_id };
            let response = ResponseHeader { correlation_id: -7 };
            let mut e = Encoder::new();
            request.encode(&mut e);
            response.encode(&mut e, api_key, api_version);
            let bytes = e.finish_contiguous().unwrap();
            let mut d = Decoder::new(&bytes);
            assert_eq!(RequestHeader::decode(&mut d), Ok(request));
            assert_eq!(ResponseHeader::decode(&mut d, api_key, api_version), Ok(response));
            assert_eq!(d.finish(), Ok(()));
        }
    }

    #[test]
    fn answers_are_those_of_a_kafka_broker() {
        use crate::protocol::messages::api_versions::{ApiVersion, ApiVersionsRequest};
        use crate::protocol::messages::{ApiVersionsResponse, MetadataRequest, MetadataResponse};
        let hex = |frame: Vec<Bytes>| -> String { frame.concat().iter().map(|byte| format!("{byte:02x}")).collect() };
        // Recorded from Kafka 4.1: ApiVersions of version 99 is answered in version 0.
        let own = ApiVersion { api_key: 18, min_version: 0, max_version: 4 };
        let unsupported = ApiVersionsResponse { error_code: 35, api_keys: vec![own], ..Default::default() };
        let frame = response_frame::<ApiVersionsRequest>(0, 1, &unsupported).unwrap();
        assert_eq!(hex(frame), "0000001000000001002300000001001200000004");
        // Likewise a client without a name, in version 4: a flexible body behind header version 0.
        let invalid = ApiVersionsResponse { error_code: 42, ..Default::default() };
        let frame = response_frame::<ApiVersionsRequest>(4, 2, &invalid).unwrap();
        assert_eq!(hex(frame), "0000000c00000002002a010000000000");
        // Any other API answers a flexible version with header version 1.
        let frame = response_frame::<MetadataRequest>(12, 3, &MetadataResponse::default()).unwrap();
        assert_eq!(hex(frame), "000000110000000300000000000100ffffffff0100");
        let request = ApiVersionsRequest::default();
        let frame = request_frame(0, 4, Some("c"), &request).unwrap();
        assert_eq!(hex(frame), "0000000b0012000000000004000163");
    }
}
