//! Batches written by the Java client of Kafka 4.1 (`MemoryRecords.withIdempotentRecords`): three
//! records under each codec, and a marker.

use super::super::control::{EndTransactionMarker, end_transaction_marker};
use super::*;

const NONE: &str = "\
    000000000000000000000149ffffffff029bd464730000000000020000018bcfe567fb0000018bcfe5680000\
    0000000000000700020000002800000003f403000000066b6579e00376616c75652076616c75652076616c75\
    652076616c75652076616c75652076616c75652076616c75652076616c75652076616c75652076616c756520\
    76616c75652076616c75652076616c75652076616c75652076616c75652076616c75652076616c7565207661\
    6c75652076616c75652076616c75652076616c75652076616c75652076616c75652076616c75652076616c75\
    652076616c75652076616c75652076616c75652076616c75652076616c75652076616c75652076616c756520\
    76616c75652076616c75652076616c75652076616c75652076616c75652076616c75652076616c7565207661\
    6c7565200028000a020100040a74726163650231086e6f6e65010c000704000100";
const GZIP: &str = "\
    000000000000000000000075ffffffff025c4639f80001000000020000018bcfe567fb0000018bcfe5680000\
    00000000000007000200000028000000031f8b08000000000000fffbc2ccc0c0c0969d5af980b92c31a73455\
    61e4900c1a0c5c4c8c0c2c5c254589c9a94c861c79f979a98c3c0cec2c0c8c0c00f470525218010000";
const SNAPPY: &str = "\
    000000000000000000000083ffffffff022fc9a3320002000000020000018bcfe567fb0000018bcfe5680000\
    000000000000070002000000280000000382534e415050590000000001000000010000003e980240f4030000\
    00066b6579e00376616c756520fe0600fe0600fe0600a60600700028000a020100040a74726163650231086e\
    6f6e65010c000704000100";
const LZ4: &str = "\
    000000000000000000000075ffffffff02cf79526d0003000000020000018bcfe567fb0000018bcfe5680000\
    000000000000070002000000280000000304224d1860408235000000ff02f403000000066b6579e00376616c\
    7565200600d7f00e0028000a020100040a74726163650231086e6f6e65010c00070400010000000000";
const ZSTD: &str = "\
    000000000000000000000073ffffffff022ad780fe0004000000020000018bcfe567fb0000018bcfe5680000\
    000000000000070002000000280000000328b52ffd0058b40100e402f403000000066b6579e00376616c7565\
    200028000a020100040a74726163650231086e6f6e65010c0007040001000100cfa1ca12010000";
const MARKER: &str = "\
    000000000000000000000042ffffffff02a8da87310030000000000000018bcfe568000000018bcfe5680000\
    000000000012670003ffffffff000000012000000008000000010c00000000000900";

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
    (0..hex.len()).step_by(2).map(digit).collect()
}

fn same_records() -> BatchBuilder {
    let value = b"value ".repeat(40);
    let mut builder = BatchBuilder::new().producer(7, 2, 40);
    builder.append(NOW - 5, Some(b"key"), Some(&value), &[]);
    let headers: [(&[u8], Option<&[u8]>); 2] = [(b"trace", Some(b"1")), (b"none", None)];
    builder.append(NOW, None, Some(b""), &headers);
    builder.append(NOW - 9, Some(b""), None, &[]);
    builder
}

#[test]
fn the_same_records_give_the_same_bytes() {
    assert_eq!(same_records().finish(), bytes(NONE));
    let marker = EndTransactionMarker { committed: true, producer_id: 4711, producer_epoch: 3, coordinator_epoch: 9 };
    assert_eq!(end_transaction_marker(&marker, NOW), bytes(MARKER));
}

#[test]
fn every_codec_is_read() {
    let expected = plain_records(&same_records().finish());
    for (hex, codec) in [NONE, GZIP, SNAPPY, LZ4, ZSTD].into_iter().zip(Codec::ALL) {
        let java = bytes(hex);
        let validated = produce(&java, &TopicRules::default()).expect("valid");
        assert_eq!(validated.batch, java, "{codec:?} is kept");
        let view = BatchView::parse(&validated.batch).expect("a batch");
        assert_eq!(view.attributes().codec(), Some(codec));
        assert_eq!(plain_records(&java), expected, "{codec:?}");
    }
}
