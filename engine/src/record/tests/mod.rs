//! Tests of the record layer at its boundary.

mod codecs;
mod format;
mod hostile;
mod java;
mod rejections;

use super::batch::{self, BatchView};
use super::builder::BatchBuilder;
use super::compression::{Codec, Scratch};
use super::validate::{Append, Origin, Rejected, TopicRules, Validated, validate};

/// The broker's clock in these tests, in ms since 1970.
const NOW: i64 = 1_700_000_000_000;
const CAP: usize = 1 << 20;

/// Validates as a Produce v12 for the partition `t-0` at [`NOW`].
fn produce<'a>(records: &'a [u8], rules: &TopicRules) -> Result<Validated<'a>, Rejected> {
    produce_with(records, rules, &mut Scratch::new())
}

fn produce_with<'a>(records: &'a [u8], rules: &TopicRules, scratch: &mut Scratch) -> Result<Validated<'a>, Rejected> {
    let append = Append { origin: Origin::Client { produce_version: 12 }, now_ms: NOW, partition: &"t-0" };
    validate(records, rules, &append, scratch)
}

/// Three records with times, null and empty fields, and headers.
fn sample(codec: Codec) -> BatchBuilder {
    let mut builder = BatchBuilder::new().codec(codec).producer(7, 2, 40);
    builder.append(NOW - 5, Some(b"key"), Some(b"value"), &[]);
    builder.append(NOW, None, Some(b""), &[(b"trace", Some(b"1")), (b"none", None)]);
    builder.append(NOW - 9, Some(b""), None, &[(b"", Some(b""))]);
    builder
}

/// A batch around a given records section, compressed, with a right CRC.
fn batch_of(section: &[u8], codec: Codec, count: i32) -> Vec<u8> {
    let mut compressed = Vec::new();
    super::compression::compress(codec, codec.default_level(), section, &mut compressed);
    batch_of_compressed(&compressed, codec, count)
}

fn batch_of_compressed(compressed: &[u8], codec: Codec, count: i32) -> Vec<u8> {
    let mut bytes = BatchBuilder::new().finish();
    bytes.truncate(batch::HEADER_SIZE);
    bytes.extend_from_slice(compressed);
    let attributes = batch::Attributes::default().with_codec(codec);
    batch::put(&mut bytes, batch::ATTRIBUTES, attributes.0.to_be_bytes());
    batch::put(&mut bytes, batch::RECORD_COUNT, count.to_be_bytes());
    batch::put(&mut bytes, batch::LAST_OFFSET_DELTA, (count - 1).to_be_bytes());
    batch::seal(&mut bytes);
    bytes
}

type Plain = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(Vec<u8>, Option<Vec<u8>>)>);

/// All of a batch's records, owned.
fn plain_records(bytes: &[u8]) -> Vec<Plain> {
    let view = BatchView::parse(bytes).expect("a batch");
    let mut buffer = Vec::new();
    let records = view.records(&mut Scratch::new(), &mut buffer, CAP);
    records
        .expect("decompresses")
        .map(|record| {
            let record = record.expect("well-formed");
            let headers = record.headers();
            (
                view.base_timestamp() + record.timestamp_delta,
                record.key.map(<[u8]>::to_vec),
                record.value.map(<[u8]>::to_vec),
                headers.map(|(key, value)| (key.to_vec(), value.map(<[u8]>::to_vec))).collect(),
            )
        })
        .collect()
}
