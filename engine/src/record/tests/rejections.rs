//! What a leader refuses, with which error, and what it tells of it: rows measured on Kafka 4.1.

use super::super::batch::{Attributes, TimestampType};
use super::super::control::{EndTransactionMarker, end_transaction_marker};
use super::super::validate::{MAX_RECORD_ERRORS, RejectReason};
use super::*;

/// The error number, and whether the answer tells the log start offset.
fn outcome(records: &[u8], rules: &TopicRules) -> (i16, bool) {
    let rejected = produce(records, rules).expect_err("refused");
    assert_eq!(rejected.message, None, "only record errors are explained");
    assert!(rejected.record_errors.is_empty());
    (rejected.reason.code(), rejected.tells_log_start)
}

fn patched<const N: usize>(at: usize, value: [u8; N]) -> Vec<u8> {
    let mut bytes = sample(Codec::None).finish();
    batch::put(&mut bytes, at, value);
    // The length field counts the bytes there are, except where it is the patch.
    if at >= batch::ATTRIBUTES {
        batch::seal(&mut bytes);
    }
    bytes
}

#[test]
fn rules_of_a_batch() {
    let good = sample(Codec::None).finish();
    let rules = TopicRules::default();
    let refused = |records: &[u8]| outcome(records, &rules);
    assert!(produce(&good, &rules).is_ok());

    assert_eq!(refused(b""), (87, false), "no batch");
    assert_eq!(refused(&good[..good.len() - 1]), (87, false), "a part");
    assert_eq!(refused(&good.repeat(2)), (87, false), "two batches");
    for (garbage, why) in [(vec![0; 20], "no length"), ([&good[..16], &[3, 0]].concat(), "no magic")] {
        assert_eq!(refused(&[&good[..], &garbage].concat()), (2, false), "{why}");
    }
    // What is too short for another batch is dropped.
    for torn in [&[0][..], &[0; 11], &good[..16], &good[..good.len() - 1]] {
        let with_tail = [&good[..], torn].concat();
        assert_eq!(produce(&with_tail, &rules).expect("one whole batch").batch, good);
    }
    assert_eq!(refused(&patched(batch::MAGIC_AT, [1])), (87, false));
    assert_eq!(refused(&patched(batch::MAGIC_AT, [3])), (2, false));
    let short = patched(batch::BATCH_LENGTH, 48i32.to_be_bytes());
    assert_eq!(refused(&short), (2, false));
    assert_eq!(refused(&patched(batch::CRC, [0; 4])), (2, false));
    let shifted = patched(batch::BASE_OFFSET, 5i64.to_be_bytes());
    assert_eq!(refused(&shifted), (87, true));

    let delta = patched(batch::LAST_OFFSET_DELTA, 3i32.to_be_bytes());
    assert_eq!(refused(&delta), (87, true), "three records, four offsets");
    let no_sequence = patched(batch::BASE_SEQUENCE, (-1i32).to_be_bytes());
    assert_eq!(refused(&no_sequence), (87, true));
    let codec_5 = patched(batch::ATTRIBUTES, 5i16.to_be_bytes());
    assert_eq!(refused(&codec_5), (76, true));
    let none = BatchBuilder::new().finish();
    assert_eq!(refused(&none), (87, true), "a count of 0");
    let control = sample(Codec::None).control(true).finish();
    assert_eq!(refused(&control), (87, true));
}

/// A header that counts fewer or more records than there are, and offsets that do not follow.
#[test]
fn records_must_match_the_header() {
    let rules = TopicRules::default();
    for codec in Codec::ALL {
        let section = sample(Codec::None).finish().split_off(batch::HEADER_SIZE);
        for count in [2, 4] {
            let bytes = batch_of(&section, codec, count);
            assert_eq!(outcome(&bytes, &rules), (87, true), "{codec:?} {count}");
        }
        assert!(produce(&batch_of(&section, codec, 3), &rules).is_ok());

        let mut gap = BatchBuilder::new();
        gap.append(NOW, None, None, &[]);
        gap.append_at(2, NOW, None, None, &[]);
        let section = gap.finish().split_off(batch::HEADER_SIZE);
        let bytes = batch_of(&section, codec, 2);
        assert_eq!(outcome(&bytes, &rules), (87, true), "{codec:?} with a gap");
    }
    let garbage = batch_of_compressed(b"garbage", Codec::Lz4, 3);
    assert_eq!(outcome(&garbage, &rules), (87, true));
}

#[test]
fn sizes_are_inclusive_and_checked_again_after_recompression() {
    let bytes = sample(Codec::None).finish();
    let mut rules = TopicRules { max_message_bytes: bytes.len(), segment_bytes: bytes.len(), ..TopicRules::default() };
    assert!(produce(&bytes, &rules).is_ok());
    rules.segment_bytes -= 1;
    assert_eq!(outcome(&bytes, &rules), (18, false));
    rules.max_message_bytes -= 1;
    assert_eq!(outcome(&bytes, &rules), (10, false));

    let mut zeros = BatchBuilder::new().codec(Codec::Zstd);
    zeros.append(NOW, None, Some(&[0; 5000]), &[]);
    let small = zeros.finish();
    let mut rules = TopicRules { max_message_bytes: 1000, ..TopicRules::default() };
    assert!(produce(&small, &rules).is_ok());
    rules.compression = Some((Codec::None, 0));
    assert_eq!(outcome(&small, &rules), (10, false));
}

#[test]
fn zstd_needs_produce_7() {
    let bytes = sample(Codec::Zstd).finish();
    for (produce_version, code) in [(6, Some(76)), (7, None)] {
        let append = Append { origin: Origin::Client { produce_version }, now_ms: NOW, partition: &"t-0" };
        let rules = TopicRules::default();
        let result = validate(&bytes, &rules, &append, &mut Scratch::new());
        assert_eq!(result.err().map(|rejected| rejected.reason.code()), code);
    }
}

#[test]
fn null_keys_on_a_compacted_topic() {
    let rules = TopicRules { compacted: true, ..TopicRules::default() };
    for codec in Codec::ALL {
        let bytes = sample(codec).finish();
        let rejected = produce(&bytes, &rules).expect_err("record 1 has no key");
        assert_eq!(rejected.reason, RejectReason::InvalidRecord);
        assert!(rejected.tells_log_start);
        let [error] = &rejected.record_errors[..] else {
            panic!("one record error");
        };
        let message = "Compacted topic cannot accept message without key in topic partition t-0";
        assert_eq!((error.batch_index, error.message.as_str()), (1, message));
        let summary = format!(
            "One or more records have been rejected due to 1 record errors in total, and only \
             showing the first three errors at most: [RecordError(batchIndex=1, \
             message='{message}')]"
        );
        assert_eq!(rejected.message, Some(summary));
    }
}

#[test]
fn record_errors_are_bounded() {
    let rules = TopicRules { compacted: true, ..TopicRules::default() };
    let mut builder = BatchBuilder::new();
    for _ in 0..5000 {
        builder.append(NOW, None, None, &[]);
    }
    let bytes = builder.finish();
    let rejected = produce(&bytes, &rules).expect_err("no keys");
    assert_eq!(rejected.record_errors.len(), MAX_RECORD_ERRORS);
    let message = rejected.message.expect("a summary");
    assert!(message.contains("due to 5000 record errors in total"));
    assert_eq!(message.matches("RecordError(").count(), 3);
}

fn at(timestamp: i64) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    builder.append(timestamp, None, None, &[]);
    builder.finish()
}

#[test]
fn timestamps_have_a_range() {
    let rules = TopicRules { timestamp_before_max_ms: 1000, timestamp_after_max_ms: 100, ..TopicRules::default() };
    for good in [NOW - 1000, NOW, NOW + 100, -1] {
        assert!(produce(&at(good), &rules).is_ok(), "{good}");
    }
    for bad in [NOW - 1001, NOW + 101, 0, i64::MIN, i64::MAX] {
        let bytes = at(bad);
        let rejected = produce(&bytes, &rules).expect_err("out of range");
        assert_eq!(rejected.reason, RejectReason::InvalidTimestamp);
        let message = "One or more records have been rejected due to invalid timestamp";
        assert_eq!(rejected.message.as_deref(), Some(message));
        let expected = format!(
            "Timestamp {bad} of message with offset 0 is out of range. The timestamp should be \
             within [{}, {}]",
            NOW - 1000,
            NOW + 100
        );
        assert_eq!(rejected.record_errors[0].message, expected);
    }
    // A topic that stamps does not mind.
    let stamps = TopicRules { timestamp_type: TimestampType::LogAppendTime, ..rules };
    let bytes = at(0);
    let validated = produce(&bytes, &stamps).expect("valid");
    assert_eq!(validated.log_append_time_ms, Some(NOW));
}

/// As Java prints the lower end of an unlimited range (with the measured clock).
#[test]
fn unlimited_range_wraps_as_in_java() {
    let append =
        Append { origin: Origin::Client { produce_version: 12 }, now_ms: 1_795_251_783_182, partition: &"pz-0" };
    let bytes = at(1_795_258_983_137);
    let rules = TopicRules::default();
    let rejected = validate(&bytes, &rules, &append, &mut Scratch::new());
    let message = "Timestamp 1795258983137 of message with offset 0 is out of range. The \
                   timestamp should be within [-9223370241602992625, 1795255383182]";
    let rejected = rejected.expect_err("two hours ahead");
    assert_eq!(rejected.record_errors[0].message, message);
}

#[test]
fn clients_may_not_stamp() {
    for timestamp_type in [TimestampType::CreateTime, TimestampType::LogAppendTime] {
        let rules = TopicRules { timestamp_type, ..TopicRules::default() };
        let builder = sample(Codec::Lz4).timestamp_type(TimestampType::LogAppendTime);
        let bytes = builder.finish();
        let rejected = produce(&bytes, &rules).expect_err("stamped by the client");
        assert_eq!(rejected.reason, RejectReason::InvalidTimestamp);
        assert_eq!(rejected.record_errors.len(), 3);
    }
}

/// Kafka corrects a maxTimestamp that is not the records'.
#[test]
fn wrong_max_timestamps_are_corrected() {
    let mut bytes = sample(Codec::Gzip).finish();
    batch::set_max_timestamp_and_type(&mut bytes, TimestampType::CreateTime, 1);
    let validated = produce(&bytes, &TopicRules::default()).expect("valid");
    let view = BatchView::parse(&validated.batch).expect("a batch");
    assert!(view.crc_ok());
    assert_eq!(view.max_timestamp(), NOW);
    assert_eq!(validated.max_timestamp_delta, 1);
}

#[test]
fn sequences_wrap_in_what_is_reported() {
    let mut builder = BatchBuilder::new().producer(7, 2, i32::MAX);
    builder.append(NOW, None, None, &[]);
    builder.append(NOW, None, None, &[]);
    let bytes = builder.finish();
    let validated = produce(&bytes, &TopicRules::default()).expect("valid");
    assert_eq!(validated.max_timestamp_delta, 0, "the first of two equals");
    let producer = validated.producer.expect("idempotent");
    assert_eq!((producer.base_sequence, producer.last_sequence), (i32::MAX, 0));
}

#[test]
fn coordinators_may_write_markers() {
    let marker = EndTransactionMarker { committed: false, producer_id: 1, producer_epoch: 0, coordinator_epoch: 0 };
    let bytes = end_transaction_marker(&marker, NOW);
    let append = Append { origin: Origin::Coordinator, now_ms: NOW, partition: &"t-0" };
    let rules = TopicRules::default();
    let validated = validate(&bytes, &rules, &append, &mut Scratch::new()).expect("valid");
    assert!(validated.is_control && validated.is_transactional);
    assert_eq!(outcome(&bytes, &rules).0, 87);
    let view = BatchView::parse(&bytes).expect("a batch");
    assert_eq!(view.attributes(), Attributes(0x30));
}
