//! The bytes themselves: markers, patches, iteration, and agreement with another implementation.

use bytes::{Bytes, BytesMut};
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records as other;

use super::super::batch::{self, Attributes, BatchError, BatchView, TimestampType, add_sequence, batches};
use super::super::control::{
    ControlError, ControlRecordType, EndTransactionMarker, control_record_type, end_transaction_marker, parse_marker,
};
use super::super::record::{Malformed, Records};
use super::*;

const MARKER: EndTransactionMarker =
    EndTransactionMarker { committed: true, producer_id: 4711, producer_epoch: 3, coordinator_epoch: 9 };

#[test]
fn markers_parse_back() {
    for committed in [true, false] {
        let marker = EndTransactionMarker { committed, ..MARKER };
        let bytes = end_transaction_marker(&marker, NOW);
        let view = BatchView::parse(&bytes).expect("a batch");
        assert!(view.crc_ok() && view.attributes() == Attributes(0x30));
        assert_eq!(view.last_sequence(), -1);
        assert_eq!(parse_marker(&view), Ok(Some(marker)));
    }
}

#[test]
fn control_batches_that_are_no_markers() {
    let data = sample(Codec::None).finish();
    let view = BatchView::parse(&data).expect("a batch");
    assert_eq!(parse_marker(&view), Err(ControlError::NotControl));

    let control = |key: &[u8]| {
        let mut builder = BatchBuilder::new().control(true);
        builder.append(NOW, Some(key), Some(&[0, 0]), &[]);
        builder.finish()
    };
    let leader_change = control(&[0, 0, 0, 2]);
    let view = BatchView::parse(&leader_change).expect("a batch");
    assert_eq!(parse_marker(&view), Ok(None));
    assert_eq!(control_record_type(&view), Ok(ControlRecordType::Other(2)));
    for malformed in [&[][..], &[0, 0, 0], &[0xff, 0xff, 0, 0], &[0, 0, 0, 1]] {
        let bytes = control(malformed);
        let view = BatchView::parse(&bytes).expect("a batch");
        assert_eq!(parse_marker(&view), Err(ControlError::Schema));
    }
}

#[test]
fn offset_and_epoch_lie_outside_the_crc() {
    let mut bytes = sample(Codec::None).finish();
    batch::set_base_offset(&mut bytes, 1 << 40);
    batch::set_leader_epoch(&mut bytes, 12);
    let view = BatchView::parse(&bytes).expect("a batch");
    assert!(view.crc_ok());
    assert_eq!((view.base_offset(), view.last_offset()), (1 << 40, (1 << 40) + 2));
    assert_eq!(view.partition_leader_epoch(), 12);
}

#[test]
fn stamping_keeps_the_other_attributes_and_the_crc_right() {
    let mut bytes = sample(Codec::Zstd).transactional(true).finish();
    batch::set_max_timestamp_and_type(&mut bytes, TimestampType::LogAppendTime, 99);
    let view = BatchView::parse(&bytes).expect("a batch");
    assert!(view.crc_ok() && view.attributes().is_transactional());
    assert_eq!(view.attributes().codec(), Some(Codec::Zstd));
    assert_eq!(view.attributes().timestamp_type(), TimestampType::LogAppendTime);
    assert_eq!(view.max_timestamp(), 99);
}

#[test]
fn iteration_ends_with_the_part_of_a_batch() {
    let mut bytes = sample(Codec::None).finish();
    let size = bytes.len();
    sample(Codec::Gzip).finish_into(&mut bytes);
    let whole = bytes.len();
    assert_eq!(batches(&bytes).filter(Result::is_ok).count(), 2);
    for cut in size + 1..whole {
        let mut iterator = batches(&bytes[..cut]);
        assert!(iterator.next().is_some_and(|batch| batch.is_ok()));
        let partial = iterator.next().expect("an outcome");
        assert!(matches!(partial, Err(BatchError::Truncated { .. })), "{cut}");
        assert!(iterator.next().is_none());
        assert_eq!(iterator.position(), size);
    }
}

#[test]
fn sequences_wrap_to_zero() {
    assert_eq!(add_sequence(i32::MAX, 1), 0);
    assert_eq!(add_sequence(i32::MAX - 1, 5), 3);
    assert_eq!(add_sequence(10, 5), 15);
}

/// Each row breaks one rule of the record format.
#[test]
fn malformed_records_are_told_apart() {
    // Length 6, attributes, timestamp delta, offset delta, null key, null value, no headers.
    let good = [12, 0, 0, 0, 1, 1, 0];
    let rows: [(&[u8], i32, Malformed); 9] = [
        (&good[..6], 1, Malformed::Truncated),
        (&good, 2, Malformed::Truncated),
        (&[12, 0, 0, 0, 1, 1, 0, 0], 1, Malformed::TrailingBytes),
        (&[11, 0, 0, 0, 1, 1, 0], 1, Malformed::FieldLength),
        (&[12, 0, 0, 0, 2, 65, 1, 0], 1, Malformed::RecordSize),
        (&[12, 0, 0, 0, 40, 1, 0], 1, Malformed::FieldLength),
        (&[12, 0, 0, 0, 1, 1, 1], 1, Malformed::HeaderCount),
        (&[16, 0, 0, 0, 1, 1, 2, 1, 0], 1, Malformed::HeaderKey),
        (&[0xff, 0xff, 0xff, 0xff, 0x1f, 0], 1, Malformed::Varint),
    ];
    assert!(Records::new(&good, 1).all(|record| record.is_ok()));
    for (section, count, expected) in rows {
        let last = Records::new(section, count).last().expect("an item");
        assert_eq!(last.expect_err("malformed"), expected, "{section:?}");
    }
}

fn other_record(offset: i64, key: Option<&'static [u8]>) -> other::Record {
    let mut record = other::Record {
        transactional: true,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: -1,
        producer_id: 7,
        producer_epoch: 2,
        timestamp_type: other::TimestampType::Creation,
        offset,
        sequence: 40 + offset as i32,
        timestamp: NOW - offset,
        key: key.map(Bytes::from_static),
        value: Some(Bytes::from_static(b"value")),
        headers: Default::default(),
    };
    let name = StrBytes::from_static_str("trace");
    record.headers.insert(name, Some(Bytes::from_static(b"1")));
    record
}

#[test]
fn reads_batches_of_another_implementation() {
    let records = [other_record(0, None), other_record(1, Some(b"key"))];
    let options = other::RecordEncodeOptions { version: 2, compression: other::Compression::None };
    let mut bytes = BytesMut::new();
    other::RecordBatchEncoder::encode(&mut bytes, &records, &options).expect("encodes");
    let validated = produce(&bytes, &TopicRules::default()).expect("valid");
    let producer = validated.producer.expect("idempotent");
    assert_eq!((producer.base_sequence, producer.last_sequence), (40, 41));
    assert!(validated.is_transactional);
    let headers = vec![(b"trace".to_vec(), Some(b"1".to_vec()))];
    let value = Some(b"value".to_vec());
    let expected = vec![(NOW, None, value.clone(), headers.clone()), (NOW - 1, Some(b"key".to_vec()), value, headers)];
    assert_eq!(plain_records(&validated.batch), expected);
}

#[test]
fn another_implementation_reads_our_batches() {
    let mut bytes = Bytes::from(sample(Codec::None).base_offset(100).finish());
    let set = other::RecordBatchDecoder::decode(&mut bytes).expect("decodes");
    let [first, second, third] = &set.records[..] else {
        panic!("three records");
    };
    assert_eq!((first.offset, third.offset), (100, 102));
    assert_eq!((first.timestamp, third.timestamp), (NOW - 5, NOW - 9));
    assert_eq!((third.sequence, third.producer_epoch), (42, 2));
    assert_eq!(second.key, None);
    assert_eq!(second.value, Some(Bytes::new()));
    assert_eq!(second.headers.len(), 2);
    assert_eq!(second.headers[1], None);
    assert_eq!((&third.key, &third.value), (&Some(Bytes::new()), &None));
}
