//! Bytes that no honest client sends: never a panic, never an unbounded cost, never accepted
//! unless well-formed.

use std::cell::Cell;

use futures_lite::future::block_on;
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::compression::{CompressionError, compress, decompress};
use super::super::record::Records;
use super::super::validate::{RejectReason, validate_in_turns};
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

/// A record whose value is that many zeros, but for the zeros at its end: the last of them says that it has no headers.
fn start_of_giant(zeros: u32) -> Vec<u8> {
    let varint = |value: u32| {
        let mut value = u64::from(value) << 1;
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    };
    let length = varint(zeros);
    let record = 4 + length.len() as u32 + zeros + 1;
    // Attributes, timestamp, offset, no key.
    [&varint(record)[..], &[0, 0, 0, 1], &length].concat()
}

/// Compressed data of a record with a value of `zeros` zeros, of whole 64 KiB, without compressing so many.
fn bomb(codec: Codec, zeros: u32) -> Vec<u8> {
    let block = vec![0; 64 * 1024];
    let times = zeros as usize / block.len();
    let part = |data: &[u8]| {
        let mut out = Vec::new();
        compress(codec, codec.default_level(), data, &mut out);
        out
    };
    let (head, block, tail) = (part(&start_of_giant(zeros)), part(&block), part(&[0]));
    match codec {
        Codec::None => unreachable!("not compressed"),
        // Members, streams and frames may be repeated as a whole.
        Codec::Gzip | Codec::Zstd | Codec::Snappy => [head, block.repeat(times), tail].concat(),
        // Past the frame's header, and before its end mark.
        Codec::Lz4 => {
            let body = |frame: &[u8]| frame[7..frame.len() - 4].to_vec();
            [&head[..head.len() - 4], &body(&block).repeat(times), &body(&tail), &[0; 4]].concat()
        }
    }
}

/// However much a batch unpacks to, its check needs little memory and comes in short turns.
#[test]
fn bombs_are_checked_in_turns() {
    const ZEROS: u32 = 80 << 20;
    let append = Append { origin: Origin::Client { produce_version: 12 }, now_ms: NOW, partition: &"t-0" };
    let mut scratch = Scratch::new();
    for codec in COMPRESSED {
        let bytes = batch_of_compressed(&bomb(codec, ZEROS), codec, 1);
        let mut rules = TopicRules { max_message_bytes: 8 << 20, ..TopicRules::default() };
        let (all, longest) = (Cell::new(0), Cell::new(0));
        let work = async |bytes: usize| {
            all.set(all.get() + bytes);
            longest.set(longest.get().max(bytes));
        };
        let checked = block_on(validate_in_turns(&bytes, &rules, &append, &mut scratch, &work)).expect("it is right");
        assert_eq!((&checked.batch[..], checked.record_count), (&bytes[..], 1), "{codec:?}");
        assert!(all.get() >= ZEROS as usize && longest.get() <= 128 << 10, "{codec:?}: {all:?} {longest:?}");
        assert!(scratch.retained() < 1 << 20, "{codec:?}");

        // The topic wants it compressed otherwise: that too comes out of the stream.
        let target = if codec == Codec::Zstd { Codec::Gzip } else { Codec::Zstd };
        rules.compression = Some((target, 1));
        let checked = produce_with(&bytes, &rules, &mut scratch).expect("it is right");
        let view = BatchView::parse(&checked.batch).expect("a batch");
        assert_eq!((view.attributes().codec(), view.crc_ok()), (Some(target), true));
        assert!(view.total_size() < 1 << 20 && scratch.retained() < 1 << 20, "{codec:?}");

        rules.compression = Some((Codec::None, 0));
        let rejected = produce_with(&bytes, &rules, &mut scratch).expect_err("it is larger than a batch may be");
        assert_eq!(rejected.reason, RejectReason::MessageTooLarge, "{codec:?}");
        assert!(scratch.retained() < 1 << 20, "{codec:?}");

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
