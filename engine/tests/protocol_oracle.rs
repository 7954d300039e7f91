//! The wire codec against another one.
//!
//! For every API, in every version, request and response, random messages are written by this
//! codec, read and written again by the crate `kafka-protocol`, and must come out as the same
//! bytes; and this codec must read back what it wrote. The random messages are generated from the
//! schema too: a field at fault in the schema shows in the other codec's bytes, and a field that
//! reader or writer forgets shows in the comparison with the original.

use bytes::{Bytes, BytesMut};
use engine::protocol::{Blob, Records, Str, Uuid};
use engine::protocol::{DecodeError, Decoder, Encoder, Message, Request};
use kafka_protocol::messages::ApiKey as OracleKey;

include!(concat!(env!("OUT_DIR"), "/arbitrary.rs"));

/// Random messages per API, version and direction.
const ROUNDS: u64 = 24;

/// A message of random content, in which only fields that the version has differ from default.
trait Arbitrary: Sized {
    fn arbitrary(r: &mut Random, version: i16) -> Self;
}

/// SplitMix64: a failure names its seed and is repeated by it.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// Bits of any width, so that small numbers, −1 and extremes all occur.
    fn bits(&mut self) -> u64 {
        match self.below(8) {
            0 => 0,
            1 => u64::MAX,
            _ => self.next() >> self.below(64),
        }
    }

    fn null(&mut self) -> bool {
        self.below(4) == 0
    }

    fn bool(&mut self) -> bool {
        self.below(2) == 1
    }

    fn i8(&mut self) -> i8 {
        self.bits() as i8
    }

    fn i16(&mut self) -> i16 {
        self.bits() as i16
    }

    fn u16(&mut self) -> u16 {
        self.bits() as u16
    }

    fn i32(&mut self) -> i32 {
        self.bits() as i32
    }

    fn i64(&mut self) -> i64 {
        self.bits() as i64
    }

    fn f64(&mut self) -> f64 {
        f64::from(self.i32()) / 8.0
    }

    fn uuid(&mut self) -> Uuid {
        let high = u128::from(self.bits());
        Uuid((high << 64 | u128::from(self.bits())).to_be_bytes())
    }

    /// Empty, short, or long enough for a length varint of two bytes; with characters of one, two
    /// and four bytes.
    fn string(&mut self) -> Str<'static> {
        let length = [0, 1, 5, 60][self.below(4)];
        let alphabet = ['a', 'Z', '-', '\0', 'é', '😀'];
        let letters = (0..length).map(|_| alphabet[self.below(6)]);
        letters.collect::<String>().into()
    }

    fn bytes(&mut self) -> Blob<'static> {
        let length = [0, 1, 3, 200][self.below(4)];
        Vec::from_iter((0..length).map(|_| self.next() as u8)).into()
    }

    fn records(&mut self) -> Records<'static> {
        let pieces = self.below(4);
        Records::Chunks((0..pieces).map(|_| self.bytes().into_owned().into()).collect())
    }

    fn array<T>(&mut self, mut element: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let length = self.below(3);
        (0..length).map(|_| element(self)).collect()
    }
}

/// What is tried, with all that is needed to try it again.
fn case(name: &str, version: i16, seed: u64) -> String {
    format!("{name} version {version} seed {seed}")
}

/// Writes the message, reads it back, holds the two together, and hands out the bytes.
macro_rules! round_trip {
    ($type:ident, $message:expr, $version:expr, $case:expr) => {{
        let mut e = Encoder::new();
        $message.encode(&mut e, $version);
        let bytes = e.finish_contiguous().unwrap_or_else(|e| panic!("{}: {e}", $case));
        {
            let mut d = Decoder::new(&bytes);
            let again = $type::decode(&mut d, $version);
            assert_eq!(again.as_ref(), Ok(&$message), "{}", $case);
            assert_eq!(d.finish(), Ok(()), "{}", $case);
        }
        bytes
    }};
}

macro_rules! through_oracle {
    ($name:ident, $kind:ident) => {
        /// The oracle's bytes for a message that the oracle has read from ours.
        fn $name(api: OracleKey, ours: &Bytes, version: i16, tried: &str) -> Bytes {
            let mut input = ours.clone();
            let message = kafka_protocol::messages::$kind::decode(api, &mut input, version)
                .unwrap_or_else(|e| panic!("{tried}: the oracle cannot read it: {e:#}"));
            assert!(input.is_empty(), "{tried}: the oracle leaves {} bytes", input.len());
            let mut output = BytesMut::new();
            let written = message.encode(&mut output, version);
            written.unwrap_or_else(|e| panic!("{tried}: the oracle cannot write it: {e:#}"));
            output.freeze()
        }
    };
}

through_oracle!(request_through_oracle, RequestKind);
through_oracle!(response_through_oracle, ResponseKind);

/// The versions of all APIs together: one that drops out of the schema must be missed.
const VERSIONS_IN_ALL: usize = 264;

macro_rules! compare_with_oracle {
    ($($api:ident $request:ident $response:ident,)*) => {
        #[test]
        fn every_request_and_response_is_as_the_oracle_has_it() {
            let mut compared = 0;
            $({
                use engine::protocol::messages::{$request, $response};
                assert_eq!($request::API_KEY.name(), stringify!($api));
                assert_eq!(<$request as Message>::VERSIONS, $request::API_KEY.versions());
                assert_eq!(<$response as Message>::VERSIONS, $request::API_KEY.versions());
                // A function for each API: one for all of them would be slow to compile.
                fn compare(version: i16, seed: u64) {
                    let r = &mut Random(seed);
                    let tried = case(stringify!($request), version, seed);
                    let message = $request::arbitrary(r, version);
                    let ours = round_trip!($request, message, version, tried);
                    let theirs = request_through_oracle(OracleKey::$api, &ours, version, &tried);
                    assert_eq!(ours, theirs, "{tried}: {message:?}");

                    let tried = case(stringify!($response), version, seed);
                    let message = $response::arbitrary(r, version);
                    let ours = round_trip!($response, message, version, tried);
                    let theirs = response_through_oracle(OracleKey::$api, &ours, version, &tried);
                    assert_eq!(ours, theirs, "{tried}: {message:?}");
                }
                for version in $request::API_KEY.versions() {
                    (0..ROUNDS).for_each(|seed| compare(version, seed));
                    compared += 1;
                }
            })*
            assert_eq!(compared, VERSIONS_IN_ALL, "versions compared");
        }

        #[test]
        fn headers_are_of_the_oracles_versions() {
            $({
                use engine::protocol::messages::$request;
                let oracle = OracleKey::$api;
                let key = $request::API_KEY;
                assert_eq!(key.code(), oracle as i16);
                for version in key.versions() {
                    let request = oracle.request_header_version(version);
                    assert_eq!(key.request_header_version(version), request, "{key:?} {version}");
                    let response = oracle.response_header_version(version);
                    assert_eq!(key.response_header_version(version), response, "{key:?} {version}");
                }
            })*
        }
    };
}

every_api!(compare_with_oracle);

macro_rules! read_back_data {
    ($($data:ident,)*) => {
        #[test]
        fn data_in_records_reads_back_as_written() {
            $({
                use engine::protocol::data::$data;
                for version in <$data as Message>::VERSIONS {
                    for seed in 0..ROUNDS {
                        let tried = case(stringify!($data), version, seed);
                        let message = $data::arbitrary(&mut Random(seed), version);
                        let _ = round_trip!($data, message, version, tried);
                    }
                }
            })*
        }
    };
}

every_data!(read_back_data);

/// Tries every cut of a valid message, which must be an error, and many changes, which may be one.
fn damage(mut bytes: Vec<u8>, r: &mut Random, decodes: impl Fn(&[u8]) -> bool) {
    for cut in 0..bytes.len().min(64) {
        assert!(!decodes(&bytes[..cut]), "{cut} of {} bytes", bytes.len());
    }
    for _ in 0..32.min(bytes.len()) {
        let place = r.below(bytes.len());
        bytes[place] = r.bits() as u8;
        decodes(&bytes);
    }
}

macro_rules! damage_all {
    ($($api:ident $request:ident $response:ident,)*) => {
        /// Whatever a peer changes in a valid message, the decoder answers with a message or an
        /// error; and with an error, whatever the peer cuts from its end.
        #[test]
        fn damaged_messages_never_panic() {
            $({
                use engine::protocol::messages::{$request, $response};
                fn damaged(version: i16, seed: u64) {
                    let r = &mut Random(seed);
                    let mut e = Encoder::new();
                    $request::arbitrary(r, version).encode(&mut e, version);
                    let bytes = e.finish_contiguous().expect("it is valid");
                    damage(bytes.into(), r, |bytes| {
                        $request::decode(&mut Decoder::new(bytes), version).is_ok()
                    });
                    let mut e = Encoder::new();
                    $response::arbitrary(r, version).encode(&mut e, version);
                    let bytes = e.finish_contiguous().expect("it is valid");
                    damage(bytes.into(), r, |bytes| {
                        $response::decode(&mut Decoder::new(bytes), version).is_ok()
                    });
                }
                for version in $request::API_KEY.versions() {
                    (0..ROUNDS).for_each(|seed| damaged(version, seed));
                }
            })*
        }
    };
}

every_api!(damage_all);

macro_rules! compare_data_with_oracle {
    ($($test:ident $data:ident,)*) => {
        $(
            #[test]
            fn $test() {
                use engine::protocol::data::$data;
                use kafka_protocol::protocol::{Decodable, Encodable};
                for version in <$data as Message>::VERSIONS {
                    for seed in 0..ROUNDS {
                        let tried = case(stringify!($data), version, seed);
                        let message = $data::arbitrary(&mut Random(seed), version);
                        let ours = round_trip!($data, message, version, tried);
                        let mut input = ours.clone();
                        let read = kafka_protocol::messages::$data::decode(&mut input, version);
                        let mut theirs = BytesMut::new();
                        read.expect(&tried).encode(&mut theirs, version).expect(&tried);
                        assert_eq!(ours, theirs, "{tried}: {message:?}");
                    }
                }
            }
        )*
    };
}

compare_data_with_oracle!(
    subscriptions_are_as_the_oracle_has_them ConsumerProtocolSubscription,
    assignments_are_as_the_oracle_has_them ConsumerProtocolAssignment,
    transaction_markers_are_as_the_oracle_has_them EndTxnMarker,
);

#[test]
fn a_message_outlives_its_frame_once_it_is_static() {
    use engine::protocol::IntoStatic;
    use engine::protocol::messages::ProduceRequest;
    for seed in 0..ROUNDS {
        let message = ProduceRequest::arbitrary(&mut Random(seed), 13);
        let kept: ProduceRequest<'static> = {
            let frame = round_trip!(ProduceRequest, message, 13, seed);
            let read = ProduceRequest::decode(&mut Decoder::new(&frame), 13);
            read.expect("it was read before").into_static()
        };
        assert_eq!(kept, message);
    }
}

/// Topic names borrow from the frame, and records do, so that a producer's bytes are not copied.
#[test]
fn decoding_copies_neither_strings_nor_records() {
    use engine::protocol::messages::ProduceRequest;
    use std::borrow::Cow;
    let mut message = ProduceRequest::arbitrary(&mut Random(0), 3);
    while message.topic_data.iter().all(|topic| topic.partition_data.is_empty()) {
        message = ProduceRequest::arbitrary(&mut Random(message.timeout_ms as u64 + 1), 3);
    }
    let frame = round_trip!(ProduceRequest, message, 3, "borrowing");
    let read = ProduceRequest::decode(&mut Decoder::new(&frame), 3).expect("it was read before");
    for topic in &read.topic_data {
        assert!(matches!(topic.name, Cow::Borrowed(_)));
        for records in topic.partition_data.iter().filter_map(|p| p.records.as_ref()) {
            let Records::Borrowed(bytes) = records else { panic!("records were copied") };
            assert_eq!(frame.slice_ref(bytes), bytes[..]);
        }
    }
}

#[test]
fn a_short_produce_that_claims_two_billion_topics_is_refused() {
    use engine::protocol::messages::ProduceRequest;
    // No transactional id, acks, timeout, and the length of an array that never comes.
    let bytes = [0xff, 0xff, 0, 1, 0, 0, 0, 100, 0x7f, 0xff, 0xff, 0xff];
    let read = ProduceRequest::decode(&mut Decoder::new(&bytes), 8);
    let claimed = i32::MAX as usize;
    assert_eq!(read, Err(DecodeError::ArrayTooLong { claimed, remaining: 0 }));
    let unknown = DecodeError::UnsupportedVersion { name: "ProduceRequest", version: 2 };
    assert_eq!(ProduceRequest::decode(&mut Decoder::new(&bytes), 2), Err(unknown));
}
