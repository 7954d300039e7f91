//! Bytes that no honest client sends: never a panic, never an unbounded cost, never accepted
//! unless well-formed.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::compression::{CompressionError, compress, decompress};
use super::super::record::Records;
use super::super::validate::RejectReason;
use super::*;

const COMPRESSED: [Codec; 4] = [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

/// What validation promises of a batch that it accepts.
fn assert_sound(validated: &Validated<'_>) {
    let view = BatchView::parse(&validated.batch).expect("accepted only if it parses");
    assert!(view.crc_ok());
    assert_eq!(view.total_size(), validated.batch.len());
    let mut buffer = Vec::new();
    let records = view.records(&mut Scratch::new(), &mut buffer, usize::MAX).expect("accepted only if it decompresses");
    let mut count = 0;
    for record in records {
        let record = record.expect("accepted only if well-formed");
        assert_eq!(record.offset_delta, count);
        record.headers().for_each(drop);
        count += 1;
    }
    assert_eq!(count, validated.record_count);
}

fn rules_of(target: u8) -> TopicRules {
    TopicRules {
        compression: Codec::from_id(target).map(|codec| (codec, codec.default_level())),
        max_decompressed_bytes: CAP,
        ..TopicRules::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn mutated_batches(
        codec in 0u8..5,
        target in 0u8..6,
        edits in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::weighted(0.1, any::<prop::sample::Index>()),
        sealed in any::<bool>(),
    ) {
        let mut bytes = sample(Codec::from_id(codec).expect("a codec")).finish();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if sealed && bytes.len() >= batch::HEADER_SIZE {
            batch::seal(&mut bytes);
        }
        if let Ok(validated) = produce(&bytes, &rules_of(target)) {
            prop_assert!(BatchView::parse(&bytes).expect("a batch").crc_ok());
            assert_sound(&validated);
        }
    }

    /// Whether records are read from memory or from a stream must make no difference.
    #[test]
    fn streams_and_slices_agree(
        edits in vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        tail in vec(any::<u8>(), 0..2),
        codec in 1u8..5,
    ) {
        let mut section = sample(Codec::None).finish().split_off(batch::HEADER_SIZE);
        for (at, byte) in edits {
            let at = at.index(section.len());
            section[at] = byte;
        }
        section.extend(tail);
        let codec = Codec::from_id(codec).expect("a codec");
        let rules = TopicRules::default();
        let outcome = |codec| {
            let bytes = batch_of(&section, codec, 3);
            let validated = produce(&bytes, &rules);
            validated.map(|validated| (validated.max_timestamp, validated.max_timestamp_delta))
        };
        prop_assert_eq!(outcome(Codec::None), outcome(codec));
    }

    #[test]
    fn arbitrary_bytes(bytes in vec(any::<u8>(), 0..300), count in any::<i32>(), codec in 0u8..5) {
        let _ = produce(&bytes, &rules_of(5));
        for record in Records::new(&bytes, count).flatten() {
            record.headers().for_each(drop);
        }
        let codec = Codec::from_id(codec).expect("a codec");
        let _ = decompress(codec, &bytes, CAP, &mut Scratch::new(), &mut Vec::new());
        let as_batch = batch_of_compressed(&bytes, codec, count.wrapping_rem(5));
        if let Ok(validated) = produce(&as_batch, &rules_of(5)) {
            assert_sound(&validated);
        }
    }

    /// Damage inside compressed data, past its magic number, with one context for all batches.
    #[test]
    fn mutated_compressed_data(
        codec in 1u8..5,
        edits in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        data in vec(0u8..4, 0..3000),
    ) {
        let codec = Codec::from_id(codec).expect("a codec");
        let mut compressed = Vec::new();
        compress(codec, codec.default_level(), &data, &mut compressed);
        let intact = compressed.clone();
        for (at, byte) in edits {
            let at = at.index(compressed.len());
            compressed[at] = byte;
        }
        let (mut scratch, mut out) = (Scratch::new(), Vec::new());
        let _ = decompress(codec, &compressed, CAP, &mut scratch, &mut out);
        let again = decompress(codec, &intact, CAP, &mut scratch, &mut out);
        prop_assert_eq!(again, Ok(()));
        prop_assert_eq!(out, data);
    }
}

/// The start of a record whose value is 2 GiB less a little, all of it zeros that follow.
const GIANT_RECORD: [u8; 14] = [0xe0, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0, 1, 0x80, 0xff, 0xff, 0xff, 0x0f];

/// Compressed data of at least `total` zeros after [`GIANT_RECORD`], without compressing so many.
fn bomb(codec: Codec, total: usize) -> Vec<u8> {
    let zeros = vec![0; 64 * 1024];
    let times = total / zeros.len();
    let part = |data: &[u8]| {
        let mut out = Vec::new();
        compress(codec, codec.default_level(), data, &mut out);
        out
    };
    let (head, block) = (part(&GIANT_RECORD), part(&zeros));
    match codec {
        Codec::None => unreachable!("not compressed"),
        // Members and frames may be repeated as a whole.
        Codec::Gzip | Codec::Zstd => [head, block.repeat(times)].concat(),
        // Past the stream's header.
        Codec::Snappy => [head, block[16..].repeat(times)].concat(),
        // Past the frame's header, and before its end mark.
        Codec::Lz4 => {
            let (head, block) = (&head[..head.len() - 4], &block[7..block.len() - 4]);
            [head, &block.repeat(times), &[0; 4]].concat()
        }
    }
}

#[test]
fn bombs_are_capped() {
    let mut scratch = Scratch::new();
    for codec in COMPRESSED {
        // 1 GiB where that fits in a few megabytes.
        let total = match codec {
            Codec::Snappy => 80 << 20,
            _ => 1 << 30,
        };
        let bytes = batch_of_compressed(&bomb(codec, total), codec, 1);
        let mut rules = TopicRules { max_message_bytes: usize::MAX, ..TopicRules::default() };
        let rejected = produce_with(&bytes, &rules, &mut scratch).expect_err("a bomb");
        assert_eq!(rejected.reason, RejectReason::MessageTooLarge, "{codec:?}");
        assert!(scratch.retained() < 1 << 20, "{codec:?}");

        rules.compression = Some((Codec::None, 0));
        rules.max_decompressed_bytes = 4 << 20;
        let rejected = produce_with(&bytes, &rules, &mut scratch).expect_err("a bomb");
        assert_eq!(rejected.reason, RejectReason::MessageTooLarge, "{codec:?}");
        assert!(scratch.retained() < 2 << 20, "{codec:?}");

        let mut out = Vec::new();
        let section = &bytes[batch::HEADER_SIZE..];
        let result = decompress(codec, section, 4 << 20, &mut scratch, &mut out);
        assert_eq!(result, Err(CompressionError::TooLarge(4 << 20)));
        assert!(out.capacity() <= 8 << 20, "{codec:?}");
    }
}

/// A bare Snappy block states its length first; what it states is not allocated on trust.
#[test]
fn snappy_lengths_are_not_believed() {
    let claims_4_gib = [0xff, 0xff, 0xff, 0xff, 0x0f, 0, b'a'];
    let mut scratch = Scratch::new();
    let mut decode = |cap| decompress(Codec::Snappy, &claims_4_gib, cap, &mut scratch, &mut Vec::new());
    assert_eq!(decode(usize::MAX), Err(CompressionError::Corrupt(Codec::Snappy)));
    assert_eq!(decode(CAP), Err(CompressionError::Corrupt(Codec::Snappy)));
    assert!(scratch.retained() < CAP);
}
