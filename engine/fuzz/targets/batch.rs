//! Validates what a Produce request carries for a partition, decompression and recompression included.
//!
//! Holds: no input panics or takes memory beyond the limits that scripts/fuzz.sh sets; a batch that passes has
//! a right CRC and exactly its records, keeps them when it is compressed anew, and passes again.
//!
//! The first byte chooses the topic's rules, the second how the rest becomes a batch: as it is, with length and
//! CRC put right, or as a records section that is compressed and given a header. Else hardly an input would
//! come past the checksum.
#![no_main]

use std::cell::RefCell;

use engine::record::compression::{CompressionError, compress, decompress};
use engine::record::validate::{Append, Origin};
use engine::record::{BatchView, Codec, Scratch, TimestampType, TopicRules, Validated, batches, validate};
use libfuzzer_sys::fuzz_target;

const NOW: i64 = 1_700_000_000_000;
/// What the records may take decompressed, in bytes.
const CAP: usize = 1 << 20;
const HEADER: usize = 61;
const LENGTH_AT: usize = 8;
const MAGIC_AT: usize = 16;
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const LAST_OFFSET_DELTA_AT: usize = 23;
const PRODUCER_AT: usize = 43;
const COUNT_AT: usize = 57;

fn rules(choice: u8) -> TopicRules {
    let compression = Codec::from_id(choice & 7).map(|codec| (codec, codec.default_level()));
    let appended = choice & 8 != 0;
    TopicRules {
        compression,
        timestamp_type: if appended { TimestampType::LogAppendTime } else { TimestampType::CreateTime },
        timestamp_before_max_ms: if choice & 16 != 0 { 86_400_000 } else { i64::MAX },
        compacted: choice & 32 != 0,
        ..TopicRules::default()
    }
}

fn put(batch: &mut [u8], at: usize, bytes: &[u8]) {
    batch[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Gives the bytes a right length, magic and CRC.
fn seal(batch: &mut [u8]) {
    let length = u32::try_from(batch.len() - 12).expect("inputs are short");
    put(batch, LENGTH_AT, &length.to_be_bytes());
    put(batch, MAGIC_AT, &[2]);
    let crc = crc32c::crc32c(&batch[ATTRIBUTES_AT..]);
    put(batch, CRC_AT, &crc.to_be_bytes());
}

fn batch_of(how: u8, bytes: &[u8]) -> Vec<u8> {
    match how & 3 {
        0 => bytes.to_vec(),
        1 => {
            let mut batch = bytes.to_vec();
            if batch.len() >= HEADER {
                put(&mut batch, 0, &[0; 8]);
                seal(&mut batch);
            }
            batch
        }
        // How many records the section claims to be is its first byte.
        _ => {
            let codec = Codec::ALL[usize::from(how >> 2) % Codec::ALL.len()];
            let (count, section) = bytes.split_first().map_or((1, bytes), |(count, rest)| (i32::from(*count), rest));
            let mut batch = vec![0; HEADER];
            put(&mut batch, ATTRIBUTES_AT, &i16::from(codec.id()).to_be_bytes());
            put(&mut batch, LAST_OFFSET_DELTA_AT, &count.wrapping_sub(1).to_be_bytes());
            put(&mut batch, PRODUCER_AT, &[0xff; 14]);
            put(&mut batch, COUNT_AT, &count.to_be_bytes());
            compress(codec, codec.default_level(), section, &mut batch);
            seal(&mut batch);
            batch
        }
    }
}

/// The records section as it is uncompressed.
fn plain(batch: &BatchView<'_>, scratch: &mut Scratch) -> Vec<u8> {
    let codec = batch.attributes().codec().expect("a validated codec");
    let mut out = Vec::new();
    decompress(codec, batch.records_section(), CAP, scratch, &mut out).expect("a validated section");
    out
}

fn check(validated: &Validated<'_>, input: &[u8], rules: &TopicRules, append: &Append<'_>, scratch: &mut Scratch) {
    let view = BatchView::parse(&validated.batch).expect("a validated batch");
    assert!(view.crc_ok());
    assert_eq!((view.total_size(), view.record_count()), (validated.batch.len(), validated.record_count));
    assert_eq!((view.max_timestamp(), view.last_offset_delta()), (validated.max_timestamp, validated.record_count - 1));

    let mut buffer = Vec::new();
    let mut newest = i64::MIN;
    let mut seen = 0;
    let records = match view.records(scratch, &mut buffer, CAP) {
        // However much a batch unpacks to, it is validated.
        Err(CompressionError::TooLarge(_)) => return,
        records => records.expect("a validated section"),
    };
    for record in records {
        let record = record.expect("a validated record");
        assert_eq!(record.offset_delta, seen);
        record.headers().for_each(drop);
        newest = newest.max(view.base_timestamp().wrapping_add(record.timestamp_delta));
        seen += 1;
    }
    assert_eq!(seen, validated.record_count);
    match validated.log_append_time_ms {
        Some(stamped) => assert_eq!(view.max_timestamp(), stamped),
        None => assert_eq!(view.max_timestamp(), newest.max(-1)),
    }

    let before = BatchView::parse(input).expect("its input was a batch");
    assert_eq!(plain(&before, scratch), plain(&view, scratch), "the records are the producer's");
    if validated.log_append_time_ms.is_none() {
        let again = validate(&validated.batch, rules, append, scratch).expect("what passed passes again");
        assert_eq!(again.batch, validated.batch);
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

fuzz_target!(|data: &[u8]| {
    let [choice, how, bytes @ ..] = data else { return };
    let (rules, input) = (rules(*choice), batch_of(*how, bytes));
    let append = Append { origin: Origin::Client { produce_version: 12 }, now_ms: NOW, partition: &"t-0" };
    SCRATCH.with_borrow_mut(|scratch| {
        // As a reader of the log meets them, unvalidated.
        for batch in batches(&input) {
            let Ok(batch) = batch else { break };
            let mut buffer = Vec::new();
            if let Ok(records) = batch.records(scratch, &mut buffer, CAP) {
                records.flatten().for_each(|record| record.headers().for_each(drop));
            }
        }
        if let Ok(validated) = validate(&input, &rules, &append, scratch) {
            check(&validated, &input, &rules, &append, scratch);
        }
    });
});
