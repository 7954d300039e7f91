//! The records inside a batch, once they are not compressed.
//!
//! A record is: varint length of what follows, attributes i8 (unused), varlong timestamp delta,
//! varint offset delta, key and value (varint length, negative for null; bytes), varint header
//! count, and headers (key, never null; value) (Kafka's `DefaultRecord`).
//!
//! Invariant: a record that was yielded fills exactly the length it claims, with every field
//! inside. The same parser reads a slice, giving parts of it, and a decompressing stream, giving
//! nothing but the numbers: [`Source`] is the difference.

use thiserror::Error;

use super::compression::{Stream, StreamError};

/// How a records section breaks the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Malformed {
    /// The section ends inside a record, or before as many records as the header counts.
    #[error("Incorrect declared batch size, premature EOF reached")]
    Truncated,
    /// Bytes follow the last record.
    #[error("Incorrect declared batch size, records still remaining in file")]
    TrailingBytes,
    /// A varint that its type cannot hold.
    #[error("Variable length integer is too long")]
    Varint,
    /// A negative record length, or a field that passes its record's end.
    #[error("Invalid length of a field in a record")]
    FieldLength,
    /// A negative header count, or one that the record cannot hold.
    #[error("Invalid number of record headers")]
    HeaderCount,
    /// A header whose key is null.
    #[error("Invalid negative header key size")]
    HeaderKey,
    /// A record whose fields end before the record does, or after.
    #[error("Invalid record size: the fields do not fill the record")]
    RecordSize,
}

/// One record; its slices point into the records section.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Attribute bits; none is defined.
    pub attributes: i8,
    /// Milliseconds since the batch's base timestamp.
    pub timestamp_delta: i64,
    /// Offset minus the batch's base offset.
    pub offset_delta: i32,
    /// The key, if not null.
    pub key: Option<&'a [u8]>,
    /// The value, if not null; a null is a tombstone to compaction.
    pub value: Option<&'a [u8]>,
    headers: &'a [u8],
    header_count: i32,
}

impl<'a> Record<'a> {
    /// The headers in the record's order; keys may repeat.
    pub fn headers(&self) -> Headers<'a> {
        Headers { source: SliceSource::new(self.headers), left: self.header_count }
    }
}

/// See [`Record::headers`]. Keys should be UTF-8; nobody has checked.
#[derive(Debug, Clone)]
pub struct Headers<'a> {
    source: SliceSource<'a>,
    left: i32,
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let end = self.source.total;
        let header = read_header(&mut self.source, end);
        Some(header.expect("the headers of a yielded record were parsed once"))
    }
}

/// The records of an uncompressed section, strictly `count` of them. Yields an error once, as the
/// last item, if the section breaks the format anywhere up to that point.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    source: SliceSource<'a>,
    left: i32,
}

impl<'a> Records<'a> {
    /// Reads `section` as `count` records; a negative count is as zero.
    pub fn new(section: &'a [u8], count: i32) -> Self {
        Self { source: SliceSource::new(section), left: count.max(0) }
    }

    fn fail(&mut self, error: Malformed) -> Option<Result<Record<'a>, Malformed>> {
        self.left = 0;
        self.source.rest = &[];
        Some(Err(error))
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return match self.source.rest {
                [] => None,
                _ => self.fail(Malformed::TrailingBytes),
            };
        }
        self.left -= 1;
        match read_record(&mut self.source) {
            Ok(parsed) => Some(Ok(Record {
                attributes: parsed.attributes,
                timestamp_delta: parsed.timestamp_delta,
                offset_delta: parsed.offset_delta,
                key: parsed.key,
                value: parsed.value,
                headers: parsed.headers,
                header_count: parsed.header_count,
            })),
            Err(error) => self.fail(error),
        }
    }
}

/// What records are parsed from.
pub(super) trait Source {
    /// What [`Source::take`] gives of the bytes it passes.
    type Bytes;
    /// [`Malformed`], or also a failure of the source itself.
    type Error: From<Malformed>;

    /// The next byte.
    fn byte(&mut self) -> Result<u8, Self::Error>;
    /// The next `n` bytes.
    fn take(&mut self, n: u64) -> Result<Self::Bytes, Self::Error>;
    /// Bytes passed so far.
    fn position(&self) -> u64;
    /// The bytes from an earlier position to the present one.
    fn since(&self, position: u64) -> Self::Bytes;

    /// A zig-zag varint of at most 5 bytes.
    fn varint(&mut self) -> Result<i32, Self::Error> {
        let first = self.byte()?;
        if first < 0x80 {
            return Ok(unzigzag(u64::from(first)) as i32);
        }
        self.varint_rest(first, 32).map(|value| value as i32)
    }

    /// A zig-zag varint of at most 10 bytes.
    fn varlong(&mut self) -> Result<i64, Self::Error> {
        let first = self.byte()?;
        self.varint_rest(first, 64)
    }

    /// Continues a varint of at most `bits` bits from its first byte.
    fn varint_rest(&mut self, first: u8, bits: u32) -> Result<i64, Self::Error> {
        let mut value = u64::from(first & 0x7f);
        let mut last = first;
        let mut shift = 7;
        while last >= 0x80 {
            last = self.byte()?;
            let part = u64::from(last & 0x7f);
            if shift >= bits || (bits - shift < 7 && part >> (bits - shift) != 0) {
                return Err(Malformed::Varint.into());
            }
            value |= part << shift;
            shift += 7;
        }
        Ok(unzigzag(value))
    }
}

fn unzigzag(value: u64) -> i64 {
    ((value >> 1) as i64) ^ -((value & 1) as i64)
}

/// A record as read from any source.
pub(super) struct Parsed<B> {
    attributes: i8,
    pub(super) timestamp_delta: i64,
    pub(super) offset_delta: i32,
    pub(super) key: Option<B>,
    value: Option<B>,
    headers: B,
    header_count: i32,
}

/// Reads one record and checks that its fields fill it.
pub(super) fn read_record<S: Source>(source: &mut S) -> Result<Parsed<S::Bytes>, S::Error> {
    let end = read_end(source)?;
    read_fields(source, end)
}

/// Reads a record's length; gives the position of its end.
fn read_end<S: Source>(source: &mut S) -> Result<u64, S::Error> {
    let length = u64::try_from(source.varint()?).map_err(|_| Malformed::FieldLength)?;
    Ok(source.position() + length)
}

/// Reads what follows a record's length.
fn read_fields<S: Source>(source: &mut S, end: u64) -> Result<Parsed<S::Bytes>, S::Error> {
    let attributes = source.byte()? as i8;
    let timestamp_delta = source.varlong()?;
    let offset_delta = source.varint()?;
    let key = read_nullable(source, end)?;
    let value = read_nullable(source, end)?;
    let header_count = source.varint()?;
    let headers_at = source.position();
    check_header_count(header_count, headers_at, end)?;
    for _ in 0..header_count {
        read_header(source, end)?;
    }
    if source.position() != end {
        return Err(Malformed::RecordSize.into());
    }
    Ok(Parsed {
        attributes,
        timestamp_delta,
        offset_delta,
        key,
        value,
        headers: source.since(headers_at),
        header_count,
    })
}

/// A header is at least its two lengths.
fn check_header_count(count: i32, headers_at: u64, end: u64) -> Result<(), Malformed> {
    let room = end.saturating_sub(headers_at) / 2;
    match u64::try_from(count) {
        Ok(count) if count <= room => Ok(()),
        _ => Err(Malformed::HeaderCount),
    }
}

/// A record of at most so many bytes is read in one turn.
const SHORT_RECORD: u64 = 64 * 1024;

/// Reads the next record of a stream, in turns; `told` is how far `work` knows already.
pub(super) async fn next_record(
    stream: &mut Stream<'_>,
    told: &mut u64,
    work: &impl AsyncFn(usize),
) -> Result<Parsed<()>, StreamError> {
    let passed = stream.position() - *told;
    if passed >= SHORT_RECORD {
        work(passed as usize).await;
        *told += passed;
    }
    let end = read_end(stream)?;
    if end - stream.position() <= SHORT_RECORD {
        return read_fields(stream, end);
    }
    let record = pass_fields(stream, end, work).await?;
    *told = stream.position();
    Ok(record)
}

/// As [`read_fields`] for a stream, which has none of a record's bytes, in turns: a single record may be as large as
/// what hostile bytes unpack to.
async fn pass_fields(stream: &mut Stream<'_>, end: u64, work: &impl AsyncFn(usize)) -> Result<Parsed<()>, StreamError> {
    let attributes = stream.byte()? as i8;
    let timestamp_delta = stream.varlong()?;
    let offset_delta = stream.varint()?;
    let key = pass_nullable(stream, end, work).await?;
    let value = pass_nullable(stream, end, work).await?;
    let header_count = stream.varint()?;
    check_header_count(header_count, stream.position(), end)?;
    for _ in 0..header_count {
        pass_nullable(stream, end, work).await?.ok_or(Malformed::HeaderKey)?;
        pass_nullable(stream, end, work).await?;
    }
    match stream.position() == end {
        true => Ok(Parsed { attributes, timestamp_delta, offset_delta, key, value, headers: (), header_count }),
        false => Err(Malformed::RecordSize.into()),
    }
}

async fn pass_nullable(
    stream: &mut Stream<'_>,
    end: u64,
    work: &impl AsyncFn(usize),
) -> Result<Option<()>, StreamError> {
    let Ok(mut left) = u64::try_from(stream.varint()?) else {
        return Ok(None);
    };
    if left > end.saturating_sub(stream.position()) {
        return Err(Malformed::FieldLength.into());
    }
    work(NULLABLE_WORK).await;
    while left > 0 {
        let passed = left;
        left = stream.pass_some(left)?;
        work((passed - left) as usize).await;
    }
    Ok(Some(()))
}

/// What a field costs beside its bytes, in bytes: a record may have millions of empty ones.
const NULLABLE_WORK: usize = 8;

type Header<B> = (B, Option<B>);

fn read_header<S: Source>(source: &mut S, end: u64) -> Result<Header<S::Bytes>, S::Error> {
    let key = read_nullable(source, end)?.ok_or(Malformed::HeaderKey)?;
    let value = read_nullable(source, end)?;
    Ok((key, value))
}

fn read_nullable<S: Source>(source: &mut S, end: u64) -> Result<Option<S::Bytes>, S::Error> {
    let Ok(length) = u64::try_from(source.varint()?) else {
        return Ok(None);
    };
    if length > end.saturating_sub(source.position()) {
        return Err(Malformed::FieldLength.into());
    }
    source.take(length).map(Some)
}

/// Records that lie in memory.
#[derive(Debug, Clone)]
pub(super) struct SliceSource<'a> {
    all: &'a [u8],
    rest: &'a [u8],
    total: u64,
}

impl<'a> SliceSource<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { all: bytes, rest: bytes, total: bytes.len() as u64 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

impl<'a> Source for SliceSource<'a> {
    type Bytes = &'a [u8];
    type Error = Malformed;

    #[inline]
    fn byte(&mut self) -> Result<u8, Malformed> {
        let (&first, rest) = self.rest.split_first().ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(first)
    }

    #[inline]
    fn take(&mut self, n: u64) -> Result<&'a [u8], Malformed> {
        let n = usize::try_from(n).map_err(|_| Malformed::Truncated)?;
        let (taken, rest) = self.rest.split_at_checked(n).ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn position(&self) -> u64 {
        self.total - self.rest.len() as u64
    }

    #[inline]
    fn since(&self, position: u64) -> &'a [u8] {
        &self.all[position as usize..self.all.len() - self.rest.len()]
    }
}
