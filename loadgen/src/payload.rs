//! What is in a record, and how a batch of them is stamped anew for each send at little cost.
//!
//! A record's value, big endian:
//!
//! | at | field |
//! |--|--|
//! | 0 | magic u32 |
//! | 4 | checksum u32: CRC-32C of bytes 8 to 31 and of the CRC-32C of the filler |
//! | 8 | producer u64: one connection of one run |
//! | 16 | sequence u64: from 0, in each partition for each producer |
//! | 24 | due time u64: CLOCK_MONOTONIC in ns, when the record was to be sent |
//! | 32 | filler |
//!
//! A [`Template`] is a whole batch whose filler never changes. Stamping it writes 32 bytes a record and
//! computes the batch's CRC from those and from the known CRCs of what lies between: a CRC is linear, so
//! passing over constant bytes is a table look-up ([`Shift`]). The broker's CRC check stays as expensive.
//!
//! Invariant: a stamped template is a valid v2 batch. Does not know partitions or connections.

use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use clap::ValueEnum;
use engine::record::batch::{HEADER_SIZE, LOG_OVERHEAD};
use engine::record::compression::{Codec, compress};
use engine::record::{BatchBuilder, BatchView, Records};
use serde::Serialize;

use crate::schedule::Random;

/// Bytes of a value before its filler; the shortest value.
pub(crate) const STAMP_BYTES: usize = 32;
const MAGIC: u32 = 0x434c_4731;

// The batch's fields that are stamped (see the table in `engine::record::batch`).
const BATCH_LENGTH: usize = 8;
const CRC: usize = 17;
const ATTRIBUTES: usize = 21;
const BASE_TIMESTAMP: usize = 27;
const MAX_TIMESTAMP: usize = 35;
const PRODUCER_ID: usize = 43;
const PRODUCER_EPOCH: usize = 51;
const BASE_SEQUENCE: usize = 53;

/// What records are filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Filler {
    /// Bytes that do not compress
    Random,
    /// Zero bytes
    Zeros,
    /// Words
    Text,
}

const WORDS: [&str; 32] = [
    "partition",
    "leader",
    "broker",
    "offset",
    "record",
    "batch",
    "segment",
    "journal",
    "a",
    "the",
    "of",
    "and",
    "is",
    "was",
    "not",
    "with",
    "user",
    "order",
    "payment",
    "status",
    "created",
    "updated",
    "amount",
    "currency",
    "region",
    "north",
    "south",
    "2024",
    "17",
    "true",
    "false",
    "null",
];

impl Filler {
    fn fill(self, bytes: &mut [u8], random: &mut Random) {
        match self {
            Filler::Zeros => bytes.fill(0),
            Filler::Random => {
                for part in bytes.chunks_mut(8) {
                    part.copy_from_slice(&random.next().to_le_bytes()[..part.len()]);
                }
            }
            Filler::Text => {
                let words = std::iter::repeat_with(|| WORDS[(random.next() % WORDS.len() as u64) as usize]);
                let mut letters = words.flat_map(|word| word.bytes().chain(*b" "));
                bytes.fill_with(|| letters.next().expect("words without end"));
            }
        }
    }
}

/// How many records with values of `value_bytes` fit into `bytes` of a batch's records, without compression.
pub(crate) fn records_that_fit(bytes: usize, value_bytes: usize) -> usize {
    let varint = |n: usize| match n {
        0..=63 => 1,
        64..=8191 => 2,
        8192..=1_048_575 => 3,
        _ => 4,
    };
    let mut used = 0;
    let mut count = 0;
    loop {
        // Attributes, timestamp delta, null key and header count are one byte each.
        let body = 4 + varint(count) + varint(value_bytes) + value_bytes;
        used += varint(body) + body;
        if used > bytes {
            return count;
        }
        count += 1;
    }
}

/// The CRC-32C register after `bytes`, which was `register` before; without the inversions at both ends.
fn advance(register: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!register, bytes)
}

/// Moves a CRC register over a number of zero bytes, as a table for each of its four bytes.
struct Shift(Box<[[u32; 256]; 4]>);

impl Shift {
    fn new(len: usize) -> Shift {
        let zeros = vec![0; len];
        let basis: Vec<u32> = (0..32).map(|bit| advance(1 << bit, &zeros)).collect();
        let mut tables = Box::new([[0; 256]; 4]);
        for (at, table) in tables.iter_mut().enumerate() {
            for (byte, entry) in table.iter_mut().enumerate() {
                let bits = (0..8).filter(|bit| byte >> bit & 1 == 1);
                *entry = bits.fold(0, |sum, bit| sum ^ basis[at * 8 + bit]);
            }
        }
        Shift(tables)
    }

    fn apply(&self, register: u32) -> u32 {
        let [a, b, c, d] = register.to_le_bytes().map(usize::from);
        self.0[0][a] ^ self.0[1][b] ^ self.0[2][c] ^ self.0[3][d]
    }
}

/// What the batches of a run have in common.
pub(crate) struct Layout {
    codec: Codec,
    /// Where each value starts in the batch.
    values: Vec<usize>,
    /// For each record, which of `shifts` leads over the bytes after its stamp to the next stamp or the end.
    spans: Vec<usize>,
    shifts: Vec<Shift>,
}

/// Values that change from send to send, for one batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp {
    /// Who writes; see the module's table.
    pub(crate) producer: u64,
    /// Sequence of the first record.
    pub(crate) sequence: u64,
    /// When the records were due, CLOCK_MONOTONIC in ns.
    pub(crate) due_ns: u64,
    /// The records' timestamp: ms since 1970.
    pub(crate) wall_clock_ms: i64,
    /// Producer id, epoch and first sequence number of an idempotent producer.
    pub(crate) idempotent: Option<(i64, i16, i32)>,
}

/// A batch to be stamped and sent, again and again.
pub(crate) struct Template {
    bytes: Bytes,
    layout: Rc<Layout>,
    fixed: Rc<[Fixed]>,
}

/// What never changes of one record.
struct Fixed {
    filler_crc: u32,
    /// The register after the bytes from this stamp's end to the next stamp, from zero.
    span_crc: u32,
}

impl Template {
    /// A batch of `records` records with values of `value_bytes` each.
    pub(crate) fn new(
        records: usize,
        value_bytes: usize,
        filler: Filler,
        codec: Codec,
        random: &mut Random,
    ) -> Template {
        assert!(records > 0 && value_bytes >= STAMP_BYTES, "settings are validated");
        let mut builder = BatchBuilder::new();
        let mut value = vec![0; value_bytes];
        for _ in 0..records {
            filler.fill(&mut value[STAMP_BYTES..], random);
            builder.append(0, None, Some(&value), &[]);
        }
        let batch = builder.finish();
        let layout = Layout::of(&batch, codec);
        let fixed = layout.fixed(&batch, value_bytes);
        Template { bytes: Bytes::from(batch), layout: Rc::new(layout), fixed }
    }

    /// Stamps the batch and gives it for sending. While a clone of what was given lives, stamping copies.
    pub(crate) fn stamp(&mut self, stamp: &Stamp) -> Bytes {
        let bytes = std::mem::take(&mut self.bytes);
        let mut batch = bytes.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        stamp_header(&mut batch, stamp, self.layout.codec);
        if self.layout.codec == Codec::None {
            let crc = self.stamp_records::<true>(&mut batch, stamp);
            put(&mut batch, CRC, crc.to_be_bytes());
            self.bytes = batch.freeze();
            return self.bytes.clone();
        }
        self.stamp_records::<false>(&mut batch, stamp);
        let packed = pack(&batch, self.layout.codec);
        self.bytes = batch.freeze();
        Bytes::from(packed)
    }

    /// Another template with the same filler, which can be stamped while this one's batch is on its way.
    pub(crate) fn copy(&self) -> Template {
        Template { bytes: Bytes::copy_from_slice(&self.bytes), layout: self.layout.clone(), fixed: self.fixed.clone() }
    }

    /// Writes the stamps, and if asked for computes the batch's CRC along the way.
    fn stamp_records<const CHECKSUM: bool>(&self, batch: &mut [u8], stamp: &Stamp) -> u32 {
        let mut register = match CHECKSUM {
            true => advance(!0, &batch[ATTRIBUTES..self.layout.values[0]]),
            false => 0,
        };
        let mut fields = [0; STAMP_BYTES];
        put(&mut fields, 0, MAGIC.to_be_bytes());
        put(&mut fields, 8, stamp.producer.to_be_bytes());
        put(&mut fields, 24, stamp.due_ns.to_be_bytes());
        for (i, (&at, fixed)) in self.layout.values.iter().zip(&*self.fixed).enumerate() {
            put(&mut fields, 16, (stamp.sequence + i as u64).to_be_bytes());
            let sum = checksum(&fields, fixed.filler_crc);
            put(&mut fields, 4, sum.to_be_bytes());
            put(batch, at, fields);
            if CHECKSUM {
                register = self.layout.shifts[self.layout.spans[i]].apply(advance(register, &fields)) ^ fixed.span_crc;
            }
        }
        !register
    }
}

impl Layout {
    fn of(batch: &[u8], codec: Codec) -> Layout {
        let view = BatchView::parse(batch).expect("the builder makes batches");
        let start = batch.as_ptr() as usize;
        let position = |value: &[u8]| value.as_ptr() as usize - start;
        let values: Vec<usize> = Records::new(view.records_section(), view.record_count())
            .map(|record| position(record.expect("the builder makes records").value.expect("with values")))
            .collect();
        let (mut shifts, mut known) = (Vec::new(), BTreeMap::new());
        let mut shift_over = |len| {
            *known.entry(len).or_insert_with(|| {
                shifts.push(Shift::new(len));
                shifts.len() - 1
            })
        };
        let spans = span_ranges(&values, batch.len()).map(|span| shift_over(span.len())).collect();
        Layout { codec, values, spans, shifts }
    }

    fn fixed(&self, batch: &[u8], value_bytes: usize) -> Rc<[Fixed]> {
        let spans = span_ranges(&self.values, batch.len());
        let of = |(&at, span): (&usize, std::ops::Range<usize>)| Fixed {
            filler_crc: crc32c::crc32c(&batch[at + STAMP_BYTES..at + value_bytes]),
            span_crc: advance(0, &batch[span]),
        };
        self.values.iter().zip(spans).map(of).collect()
    }
}

/// The bytes between stamps, after each of them.
fn span_ranges(values: &[usize], end: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let next = values[1..].iter().copied().chain([end]);
    values.iter().zip(next).map(|(at, next)| at + STAMP_BYTES..next)
}

fn stamp_header(batch: &mut [u8], stamp: &Stamp, codec: Codec) {
    put(batch, ATTRIBUTES, i16::from(codec.id()).to_be_bytes());
    put(batch, BASE_TIMESTAMP, stamp.wall_clock_ms.to_be_bytes());
    put(batch, MAX_TIMESTAMP, stamp.wall_clock_ms.to_be_bytes());
    if let Some((id, epoch, sequence)) = stamp.idempotent {
        put(batch, PRODUCER_ID, id.to_be_bytes());
        put(batch, PRODUCER_EPOCH, epoch.to_be_bytes());
        put(batch, BASE_SEQUENCE, sequence.to_be_bytes());
    }
}

/// The batch with its records compressed.
fn pack(batch: &[u8], codec: Codec) -> Vec<u8> {
    let mut packed = batch[..HEADER_SIZE].to_vec();
    compress(codec, codec.default_level(), &batch[HEADER_SIZE..], &mut packed);
    let length = i32::try_from(packed.len() - LOG_OVERHEAD).expect("settings bound a batch");
    put(&mut packed, BATCH_LENGTH, length.to_be_bytes());
    let crc = crc32c::crc32c(&packed[ATTRIBUTES..]);
    put(&mut packed, CRC, crc.to_be_bytes());
    packed
}

fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&value);
}

fn checksum(fields: &[u8], filler_crc: u32) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&fields[8..STAMP_BYTES]), &filler_crc.to_be_bytes())
}

/// What a record says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamped {
    pub(crate) producer: u64,
    pub(crate) sequence: u64,
    pub(crate) due_ns: u64,
}

/// How a value is not one of ours, or no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unverifiable {
    /// Too short, or without the magic number: somebody else's record.
    Foreign,
    /// The checksum is not that of the contents.
    Corrupt,
}

/// Reads a value and checks all of it.
pub(crate) fn read(value: &[u8]) -> Result<Stamped, Unverifiable> {
    let number = |at: usize| u64::from_be_bytes(*value[at..].first_chunk().expect("the length was checked"));
    if value.len() < STAMP_BYTES || number(0) >> 32 != u64::from(MAGIC) {
        return Err(Unverifiable::Foreign);
    }
    let filler_crc = crc32c::crc32c(&value[STAMP_BYTES..]);
    if number(0) as u32 != checksum(&value[..STAMP_BYTES], filler_crc) {
        return Err(Unverifiable::Corrupt);
    }
    Ok(Stamped { producer: number(8), sequence: number(16), due_ns: number(24) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::record::Scratch;

    const STAMP: Stamp = Stamp {
        producer: 77,
        sequence: 1 << 40,
        due_ns: 123_456_789,
        wall_clock_ms: 1_700_000_000_000,
        idempotent: Some((4242, 3, 99)),
    };

    fn values(batch: &[u8]) -> Vec<Result<Stamped, Unverifiable>> {
        let view = BatchView::parse(batch).unwrap();
        assert!(view.crc_ok(), "the batch's CRC");
        let mut plain = Vec::new();
        let records = view.records(&mut Scratch::new(), &mut plain, 1 << 24).unwrap();
        records.map(|record| read(record.unwrap().value.unwrap())).collect()
    }

    #[test]
    fn a_stamped_batch_is_valid_however_often_and_whatever_the_codec() {
        for (records, size) in [(1, 32), (1, 100), (200, 33), (63, 1024), (3, 70_000)] {
            for (codec, filler) in
                [(Codec::None, Filler::Random), (Codec::Lz4, Filler::Text), (Codec::Zstd, Filler::Zeros)]
            {
                let mut template = Template::new(records, size, filler, codec, &mut Random::new(1, 2));
                let mut kept = Vec::new();
                for round in 0..3 {
                    let stamp = Stamp { sequence: STAMP.sequence + round, due_ns: STAMP.due_ns * round, ..STAMP };
                    let batch = template.stamp(&stamp);
                    let expected = |i| Ok(Stamped { producer: 77, sequence: stamp.sequence + i, due_ns: stamp.due_ns });
                    assert_eq!(values(&batch), (0..records as u64).map(expected).collect::<Vec<_>>());
                    let view = BatchView::parse(&batch).unwrap();
                    assert_eq!((view.producer_id(), view.producer_epoch(), view.base_sequence()), (4242, 3, 99));
                    assert_eq!(view.max_timestamp(), STAMP.wall_clock_ms);
                    // Kept through the next round: a batch on its way must not change under it.
                    kept.push((batch.clone(), batch.to_vec()));
                }
                assert!(kept.iter().all(|(sent, then)| sent[..] == then[..]));
            }
        }
    }

    #[test]
    fn a_batch_is_stamped_in_place_once_it_was_sent() {
        let mut template = Template::new(4, 100, Filler::Random, Codec::None, &mut Random::new(1, 2));
        let memory = template.stamp(&STAMP).as_ptr();
        assert_eq!(template.stamp(&STAMP).as_ptr(), memory);
    }

    #[test]
    fn any_changed_byte_is_seen() {
        let mut template = Template::new(1, 60, Filler::Text, Codec::None, &mut Random::new(1, 2));
        let batch = template.stamp(&STAMP);
        let at = template.layout.values[0];
        let value = &batch[at..at + 60];
        assert!(read(value).is_ok());
        for byte in 0..value.len() {
            let mut changed = value.to_vec();
            changed[byte] ^= 0x10;
            let expected = if byte < 4 { Unverifiable::Foreign } else { Unverifiable::Corrupt };
            assert_eq!(read(&changed), Err(expected), "byte {byte}");
        }
        assert_eq!(read(&value[..59]), Err(Unverifiable::Corrupt));
        assert_eq!(read(&value[..31]), Err(Unverifiable::Foreign));
    }

    #[test]
    fn the_size_of_a_batch_is_foreseen() {
        for (bytes, size) in [(1000, 32), (65_475, 1024), (9000, 8000), (100_000, 100), (40, 100)] {
            let count = records_that_fit(bytes, size);
            let section = |count| {
                let template = Template::new(count, size, Filler::Zeros, Codec::None, &mut Random::new(0, 0));
                template.bytes.len() - HEADER_SIZE
            };
            assert!(count == 0 || section(count) <= bytes, "{count} records fit into {bytes}");
            assert!(section(count + 1) > bytes, "and no more");
        }
    }
}
