//! The wire codec against another one.
//!
//! For every API, in every version, request and response, random messages are written by this
//! codec, read and written again by the crate `kafka-protocol`, and must come out as the same
//! bytes; and this codec must read back what it wrote. The random messages are generated from the
//! schema too: a field at fault in the schema shows in the other codec's bytes, and a field that
//! reader or writer forgets shows in the comparison with the original.

use engine::protocol::{Blob, Records, Str, Uuid};
use engine::protocol::{DecodeError, Decoder, Encoder, Message, Request};

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
        Records::Chunks(
            (0..pieces)
                .map(|_| self.bytes().into_owned().into())
                .collect(),
        )
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
        let bytes = e
            .finish_contiguous()
            .unwrap_or_else(|e| panic!("{}: {e}", $case));
        let mut d = Decoder::new(&bytes);
        let again = $type::decode(&mut d, $version).unwrap_or_else(|e| panic!("{}: {e}", $case));
        assert_eq!(d.finish(), Ok(()), "{}", $case);
        assert_eq!(again, $message, "{}", $case);
        drop(again);
        bytes
    }};
}

/// The oracle's bytes for a message that the oracle has read from ours.
macro_rules! through_oracle {
    ($kind:ident, $api:ident, $bytes:expr, $version:expr, $case:expr) => {{
        use kafka_protocol::messages::{ApiKey, $kind};
        let mut input = $bytes.clone();
        let message = $kind::decode(ApiKey::$api, &mut input, $version)
            .unwrap_or_else(|e| panic!("{}: the oracle cannot read it: {e:#}", $case));
        assert!(
            input.is_empty(),
            "{}: the oracle leaves {} bytes",
            $case,
            input.len()
        );
        let mut output = bytes::BytesMut::new();
        let written = message.encode(&mut output, $version);
        written.unwrap_or_else(|e| panic!("{}: the oracle cannot write it: {e:#}", $case));
        output.freeze()
    }};
}

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
                for version in $request::API_KEY.versions() {
                    for seed in 0..ROUNDS {
                        let r = &mut Random(seed);
                        let tried = case(stringify!($request), version, seed);
                        let message = $request::arbitrary(r, version);
                        let ours = round_trip!($request, message, version, tried);
                        let theirs = through_oracle!(RequestKind, $api, ours, version, tried);
                        assert_eq!(ours, theirs, "{tried}: {message:?}");

                        let tried = case(stringify!($response), version, seed);
                        let message = $response::arbitrary(r, version);
                        let ours = round_trip!($response, message, version, tried);
                        let theirs = through_oracle!(ResponseKind, $api, ours, version, tried);
                        assert_eq!(ours, theirs, "{tried}: {message:?}");
                    }
                    compared += 1;
                }
            })*
            assert_eq!(compared, VERSIONS_IN_ALL, "versions compared");
        }

        #[test]
        fn headers_are_of_the_oracles_versions() {
            $({
                use engine::protocol::messages::$request;
                let oracle = kafka_protocol::messages::ApiKey::$api;
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

macro_rules! damage {
    ($($api:ident $request:ident $response:ident,)*) => {
        /// Whatever a client changes in a valid request, the decoder answers with a request or an
        /// error; and with an error, whatever the client cuts from its end.
        #[test]
        fn damaged_requests_never_panic() {
            $({
                use engine::protocol::messages::$request;
                for version in $request::API_KEY.versions() {
                    for seed in 0..ROUNDS {
                        let r = &mut Random(seed);
                        let mut e = Encoder::new();
                        $request::arbitrary(r, version).encode(&mut e, version);
                        let mut bytes = e.finish_contiguous().expect("it is valid").to_vec();
                        for cut in 0..bytes.len().min(64) {
                            let read = $request::decode(&mut Decoder::new(&bytes[..cut]), version);
                            assert!(read.is_err(), "{} of {} bytes", cut, bytes.len());
                        }
                        for _ in 0..32.min(bytes.len()) {
                            let place = r.below(bytes.len());
                            bytes[place] = r.bits() as u8;
                            let _ = $request::decode(&mut Decoder::new(&bytes), version);
                        }
                    }
                }
            })*
        }
    };
}

every_api!(damage);

#[test]
fn a_short_produce_that_claims_two_billion_topics_is_refused() {
    use engine::protocol::messages::ProduceRequest;
    // No transactional id, acks, timeout, and the length of an array that never comes.
    let bytes = [0xff, 0xff, 0, 1, 0, 0, 0, 100, 0x7f, 0xff, 0xff, 0xff];
    let read = ProduceRequest::decode(&mut Decoder::new(&bytes), 8);
    let claimed = i32::MAX as usize;
    assert_eq!(
        read,
        Err(DecodeError::ArrayTooLong {
            claimed,
            remaining: 0
        })
    );
    let unknown = DecodeError::UnsupportedVersion {
        name: "ProduceRequest",
        version: 2,
    };
    assert_eq!(
        ProduceRequest::decode(&mut Decoder::new(&bytes), 2),
        Err(unknown)
    );
}
