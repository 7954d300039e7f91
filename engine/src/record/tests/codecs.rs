//! Every codec round trips, through validation and through recompression.

use futures_lite::future::block_on;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use super::super::batch::TimestampType;
use super::super::compression::{CompressionError, compress, decompress};
use super::*;

fn any_codec() -> impl Strategy<Value = Codec> {
    (0u8..5).prop_map(|id| Codec::from_id(id).expect("a codec"))
}

fn any_records() -> impl Strategy<Value = Vec<Plain>> {
    let bytes = || vec(any::<u8>(), 0..200);
    let headers = vec((bytes(), of(bytes())), 0..3);
    vec((-1..NOW, of(bytes()), of(bytes()), headers), 1..40)
}

fn build(records: &[Plain], codec: Codec) -> Vec<u8> {
    let mut builder = BatchBuilder::new().codec(codec);
    for (timestamp, key, value, headers) in records {
        let headers: Vec<_> = headers.iter().map(|(key, value)| (&key[..], value.as_deref())).collect();
        builder.append(*timestamp, key.as_deref(), value.as_deref(), &headers);
    }
    builder.finish()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn batches_round_trip(
        records in any_records(),
        codec in any_codec(),
        target in of(any_codec()),
        log_append_time in any::<bool>(),
    ) {
        let bytes = build(&records, codec);
        let rules = TopicRules {
            compression: target.map(|codec| (codec, codec.default_level())),
            timestamp_type: match log_append_time {
                true => TimestampType::LogAppendTime,
                false => TimestampType::CreateTime,
            },
            ..TopicRules::default()
        };
        let validated = produce(&bytes, &rules).expect("valid");
        let view = BatchView::parse(&validated.batch).expect("a batch");
        prop_assert!(view.crc_ok());
        prop_assert_eq!(view.total_size(), validated.batch.len());
        prop_assert_eq!(view.attributes().codec(), Some(target.unwrap_or(codec)));
        prop_assert_eq!(plain_records(&validated.batch), records.clone());

        let newest = records.iter().map(|record| record.0).max().expect("not empty");
        let first = records.iter().position(|record| record.0 == newest).expect("is there");
        let expected = match log_append_time {
            true => (NOW, 0, Some(NOW)),
            // Every record of time -1 is as none; the first stands for them.
            false => (newest, first as i32, None),
        };
        prop_assert_eq!(view.max_timestamp(), validated.max_timestamp);
        let found = (
            validated.max_timestamp,
            validated.max_timestamp_delta,
            validated.log_append_time_ms,
        );
        prop_assert_eq!(found, expected);
        let kept = !log_append_time && target.is_none_or(|target| target == codec);
        prop_assert_eq!(matches!(validated.batch, std::borrow::Cow::Borrowed(_)), kept);
    }

    #[test]
    fn codecs_round_trip_at_every_level(
        data in vec(any::<u8>(), 0..4000),
        repeat in 1usize..60,
        level in -2i32..13,
        codec in any_codec(),
    ) {
        let data = data.repeat(repeat);
        let mut compressed = b"before".to_vec();
        compress(codec, level, &data, &mut compressed);
        let mut out = b"stale".to_vec();
        let mut scratch = Scratch::new();
        decompress(codec, &compressed[6..], data.len(), &mut scratch, &mut out).expect("ours");
        prop_assert_eq!(&out, &data);
    }
}

#[test]
fn bare_snappy_is_read() {
    let data = b"snappy ".repeat(10_000);
    let bare = snap::raw::Encoder::new().compress_vec(&data).expect("compresses");
    let mut out = Vec::new();
    decompress(Codec::Snappy, &bare, data.len(), &mut Scratch::new(), &mut out).expect("bare");
    assert_eq!(out, data);
}

#[test]
fn xerial_header_is_javas() {
    let mut out = Vec::new();
    compress(Codec::Snappy, 0, b"abc", &mut out);
    let header = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
    assert_eq!(&out[..16], header);
    // Length of the block: its own length 3, a literal's tag, and the literal.
    assert_eq!(&out[16..], b"\0\0\0\x05\x03\x08abc");
}

/// The LZ4 decoder must not take input that stops between blocks, or a second frame, for an end.
#[test]
fn cut_or_continued_streams_are_corrupt() {
    let data = b"0123456789".repeat(20_000);
    let mut scratch = Scratch::new();
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let mut whole = Vec::new();
        compress(codec, codec.default_level(), &data, &mut whole);
        let mut decode = |input: &[u8]| {
            let mut out = Vec::new();
            decompress(codec, input, CAP, &mut scratch, &mut out).map(|()| out.len())
        };
        assert_eq!(decode(&whole), Ok(data.len()));
        let corrupt = Err(CompressionError::Corrupt(codec));
        let cuts = [whole.len() - 1, whole.len() - 4, whole.len() - 8, 5];
        for cut in cuts {
            assert_eq!(decode(&whole[..cut]), corrupt, "{codec:?} cut to {cut}");
            // A context left in the middle of a frame must not spoil the next batch.
            assert_eq!(decode(&whole), Ok(data.len()), "{codec:?}");
        }
        whole.extend_from_slice(&[1, 2, 3, 4]);
        assert_eq!(decode(&whole), corrupt, "{codec:?} with a tail");
    }
}

#[test]
fn lz4_with_dependent_blocks_is_refused_as_by_java() {
    use lz4_flex::frame::{BlockMode, FrameEncoder, FrameInfo};
    use std::io::Write;
    let info = FrameInfo::new().block_mode(BlockMode::Linked);
    let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(b"data").expect("writes");
    let frame = encoder.finish().expect("finishes");
    let result = decompress(Codec::Lz4, &frame, CAP, &mut Scratch::new(), &mut Vec::new());
    assert_eq!(result, Err(CompressionError::Corrupt(Codec::Lz4)));
}

/// Several members, streams or frames in one batch are kept as they are; what is none is refused.
#[test]
fn what_follows_compressed_data() {
    let section = sample(Codec::None).finish().split_off(batch::HEADER_SIZE);
    let (first, second) = section.split_at(section.len() / 2);
    let part = |codec: Codec, data: &[u8]| {
        let mut out = Vec::new();
        compress(codec, codec.default_level(), data, &mut out);
        out
    };
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Zstd] {
        let two = [part(codec, first), part(codec, second)].concat();
        let bytes = batch_of_compressed(&two, codec, 3);
        let kept = produce(&bytes, &TopicRules::default()).expect("both are read").batch;
        assert_eq!(kept[batch::HEADER_SIZE..], two, "{codec:?}");
        assert_eq!(plain_records(&bytes), plain_records(&batch_of(&section, Codec::None, 3)), "{codec:?}");
    }
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let bytes = batch_of_compressed(&[&part(codec, &section)[..], b"garbage"].concat(), codec, 3);
        let rejected = produce(&bytes, &TopicRules::default()).expect_err("no reader but Java's passes over it");
        assert_eq!(rejected.reason.code(), 87, "{codec:?}");
    }
}

/// A search finds what reading all records finds, also where more unpacks than is ever read at once.
#[test]
fn records_are_found_in_turns() {
    let (mut scratch, nobody_waits) = (Scratch::new(), async |_: usize| {});
    for codec in Codec::ALL {
        let bytes = sample(codec).finish();
        let batch = BatchView::parse(&bytes).expect("a batch");
        for (from_time, from_offset, found) in [
            (NOW - 5, 0, Some((NOW - 5, 0))),
            (NOW - 4, 0, Some((NOW, 1))),
            (NOW - 9, 2, Some((NOW - 9, 2))),
            (NOW + 1, 0, None),
        ] {
            let wanted = |timestamp, offset| timestamp >= from_time && offset >= from_offset;
            assert_eq!(block_on(batch.first_record(&mut scratch, wanted, &nobody_waits)), found, "{codec:?}");
        }
    }
    let mut large = BatchBuilder::new().codec(Codec::Zstd);
    large.append(NOW, None, Some(&vec![0; 65 << 20]), &[]);
    large.append(NOW + 1, None, None, &[]);
    let bytes = large.finish();
    let batch = BatchView::parse(&bytes).expect("a batch");
    let found = block_on(batch.first_record(&mut scratch, |timestamp, _| timestamp > NOW, &nobody_waits));
    assert_eq!(found, Some((NOW + 1, 1)));
}
