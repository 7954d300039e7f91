//! Writes Kafka's primitive types.
//!
//! Invariant: the output is the message in order, and record chunks in it are the very [`Bytes`]
//! that were put in: they are never copied. What cannot be written (a null where none may be, a
//! string past the limit, a version that is not there) is remembered and told once, by
//! [`Encoder::finish`]; so a message is never sent half right. Does not know which message it writes.

use bytes::{BufMut, Bytes, BytesMut};

use super::decoder::MAX_STRING_BYTES;
use super::message::Message;
use super::types::{Records, Uuid};

/// Why a message could not be written. Each is a fault of who built the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A null in a field that this version cannot say null in.
    #[error("{0} is null where the version allows none")]
    UnexpectedNull(&'static str),
    /// A string longer than [`MAX_STRING_BYTES`].
    #[error("a string of {0} bytes")]
    StringTooLong(usize),
    /// Bytes, an array or a frame whose length does not fit an int32.
    #[error("a length of {0} does not fit an int32")]
    LengthTooLarge(usize),
    /// A version the message does not have.
    #[error("{name} has no version {version}")]
    UnsupportedVersion {
        /// The message.
        name: &'static str,
        /// The version asked for.
        version: i16,
    },
}

/// Bytes reserved for the small parts of a message: most answers need no second reservation.
const INITIAL_CAPACITY: usize = 256;

/// Bytes of the length that opens a frame.
const FRAME_PREFIX: usize = 4;

/// Collects one message, or one frame.
///
/// `flexible` in its methods tells whether the message's version writes lengths as varints (KIP-482).
#[derive(Debug)]
pub struct Encoder {
    /// Everything but the record chunks.
    small: BytesMut,
    /// The chunks, each with the length of `small` when it came.
    spliced: Vec<(usize, Bytes)>,
    framed: bool,
    /// The least time that a response tells its client to be silent, in milliseconds.
    throttle_time_ms: i32,
    error: Option<EncodeError>,
}

impl Encoder {
    /// An encoder for a bare message: the value of a record, a header in a test.
    #[expect(clippy::new_without_default, reason = "there are two kinds, neither the usual one")]
    pub fn new() -> Self {
        let small = BytesMut::with_capacity(INITIAL_CAPACITY);
        Encoder { small, spliced: Vec::new(), framed: false, throttle_time_ms: 0, error: None }
    }

    /// An encoder for a whole frame: header, then body; the int32 of its size goes before them.
    pub fn frame() -> Self {
        let mut encoder = Encoder::new();
        encoder.small.put_bytes(0, FRAME_PREFIX);
        encoder.framed = true;
        encoder
    }

    /// Whatever response is written from now on tells its client to be silent for at least this long.
    pub fn throttle(&mut self, time_ms: i32) {
        self.throttle_time_ms = time_ms;
    }

    /// A response's field `ThrottleTimeMs`.
    pub(super) fn throttle_time(&mut self, time_ms: i32) {
        self.i32(if self.throttle_time_ms > 0 { time_ms.max(self.throttle_time_ms) } else { time_ms });
    }

    /// The output, in chunks to be sent one after another; or the first error met.
    pub fn finish(mut self) -> Result<Vec<Bytes>, EncodeError> {
        let records: usize = self.spliced.iter().map(|(_, chunk)| chunk.len()).sum();
        if self.framed {
            let size = self.small.len() - FRAME_PREFIX + records;
            let prefix = self.int32_length(size).to_be_bytes();
            self.small[..FRAME_PREFIX].copy_from_slice(&prefix);
        }
        if let Some(error) = self.error {
            return Err(error);
        }
        let mut chunks = Vec::with_capacity(2 * self.spliced.len() + 1);
        let mut cut = 0;
        for (at, chunk) in self.spliced {
            if at > cut {
                chunks.push(self.small.split_to(at - cut).freeze());
                cut = at;
            }
            chunks.push(chunk);
        }
        if !self.small.is_empty() {
            chunks.push(self.small.freeze());
        }
        Ok(chunks)
    }

    /// The output in one piece; copies the records, if there are any.
    pub fn finish_contiguous(self) -> Result<Bytes, EncodeError> {
        let mut chunks = self.finish()?;
        match chunks.len() {
            0 | 1 => Ok(chunks.pop().unwrap_or_default()),
            _ => Ok(chunks.concat().into()),
        }
    }

    fn fail(&mut self, error: EncodeError) {
        self.error.get_or_insert(error);
    }

    /// Whether `M` has the version; if not, that is the error.
    pub(super) fn accept<'a, M: Message<'a>>(&mut self, version: i16) -> bool {
        let known = M::VERSIONS.contains(&version);
        if !known {
            self.fail(EncodeError::UnsupportedVersion { name: M::NAME, version });
        }
        known
    }

    /// Remembers that `field` is null and may not be.
    pub(super) fn refuse_null(&mut self, field: &'static str) {
        self.fail(EncodeError::UnexpectedNull(field));
    }

    /// One byte, 0 or 1.
    pub fn bool(&mut self, value: bool) {
        self.small.put_u8(value.into());
    }

    /// One byte.
    pub fn i8(&mut self, value: i8) {
        self.small.put_i8(value);
    }

    /// Two bytes, big-endian, as everything that follows.
    pub fn i16(&mut self, value: i16) {
        self.small.put_i16(value);
    }

    /// Two bytes, unsigned: a port.
    pub fn u16(&mut self, value: u16) {
        self.small.put_u16(value);
    }

    /// Four bytes.
    pub fn i32(&mut self, value: i32) {
        self.small.put_i32(value);
    }

    /// Eight bytes.
    pub fn i64(&mut self, value: i64) {
        self.small.put_i64(value);
    }

    /// Eight bytes, IEEE 754.
    pub fn f64(&mut self, value: f64) {
        self.small.put_f64(value);
    }

    /// Sixteen bytes.
    pub fn uuid(&mut self, value: Uuid) {
        self.small.put_slice(&value.0);
    }

    /// An unsigned varint, seven bits to a byte, low ones first.
    pub fn uvarint(&mut self, value: u32) {
        let (bytes, count) = uvarint(value);
        self.small.put_slice(&bytes[..count]);
    }

    fn int32_length(&mut self, length: usize) -> i32 {
        i32::try_from(length).unwrap_or_else(|_| {
            self.fail(EncodeError::LengthTooLarge(length));
            0
        })
    }

    /// The length of bytes or of an array; `None` is null.
    fn length(&mut self, length: Option<usize>, flexible: bool) {
        let length = length.map_or(-1, |length| self.int32_length(length));
        match flexible {
            true => self.uvarint(length.cast_unsigned().wrapping_add(1)),
            false => self.i32(length),
        }
    }

    /// A string or null.
    pub fn nullable_string(&mut self, value: Option<&str>, flexible: bool) {
        let length = value.map_or(-1, |text| match i16::try_from(text.len()) {
            Ok(length) => length,
            Err(_) => {
                self.fail(EncodeError::StringTooLong(text.len()));
                0
            }
        });
        match flexible {
            true => self.uvarint(u32::from(length.cast_unsigned().wrapping_add(1))),
            false => self.i16(length),
        }
        self.small.put_slice(value.unwrap_or_default().as_bytes());
    }

    /// A string.
    pub fn string(&mut self, value: &str, flexible: bool) {
        self.nullable_string(Some(value), flexible);
    }

    /// Bytes or null.
    pub fn nullable_bytes(&mut self, value: Option<&[u8]>, flexible: bool) {
        self.length(value.map(<[u8]>::len), flexible);
        self.small.put_slice(value.unwrap_or_default());
    }

    /// Bytes.
    pub fn bytes(&mut self, value: &[u8], flexible: bool) {
        self.nullable_bytes(Some(value), flexible);
    }

    /// Record batches or null; chunks go out as they are.
    pub fn nullable_records(&mut self, value: Option<&Records<'_>>, flexible: bool) {
        self.length(value.map(Records::len), flexible);
        match value {
            None => {}
            Some(Records::Borrowed(bytes)) => self.small.put_slice(bytes),
            Some(Records::Chunks(chunks)) => {
                let at = self.small.len();
                let full = chunks.iter().filter(|chunk| !chunk.is_empty());
                self.spliced.extend(full.map(|chunk| (at, chunk.clone())));
            }
        }
    }

    /// Record batches; chunks go out as they are.
    pub fn records(&mut self, value: &Records<'_>, flexible: bool) {
        self.nullable_records(Some(value), flexible);
    }

    /// An array or null, whose elements `write` writes.
    pub fn nullable_array<T>(&mut self, value: Option<&[T]>, flexible: bool, mut write: impl FnMut(&mut Self, &T)) {
        self.length(value.map(<[T]>::len), flexible);
        for element in value.unwrap_or_default() {
            write(self, element);
        }
    }

    /// An array, whose elements `write` writes.
    pub fn array<T>(&mut self, value: &[T], flexible: bool, write: impl FnMut(&mut Self, &T)) {
        self.nullable_array(Some(value), flexible, write);
    }

    /// A struct or null: a byte, 1 or −1, goes before it.
    pub fn nullable_struct<T>(&mut self, value: Option<&T>, write: impl FnOnce(&mut Self, &T)) {
        match value {
            None => self.i8(-1),
            Some(value) => {
                self.i8(1);
                write(self, value);
            }
        }
    }

    /// A tagged field: tag, size, and what `write` writes.
    pub fn tagged(&mut self, tag: u32, write: impl FnOnce(&mut Self)) {
        self.uvarint(tag);
        let (start, spliced) = (self.small.len(), self.spliced.len());
        write(self);
        assert_eq!(spliced, self.spliced.len(), "Kafka has no records in tagged fields");
        // The size goes before the value and is known after it, so the value moves up. Tagged
        // values are small: nodes, features, a leader.
        let size = self.small.len() - start;
        let (bytes, count) = uvarint(self.int32_length(size).unsigned_abs());
        self.small.put_bytes(0, count);
        self.small.copy_within(start..start + size, start + count);
        self.small[start..start + count].copy_from_slice(&bytes[..count]);
    }
}

fn uvarint(mut value: u32) -> ([u8; 5], usize) {
    let mut bytes = [0; 5];
    let mut count = 0;
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        bytes[count] = if value == 0 { low } else { low | 0x80 };
        count += 1;
        if value == 0 {
            return (bytes, count);
        }
    }
}

const _: () = assert!(MAX_STRING_BYTES == i16::MAX as usize, "an int16 counts a string's bytes");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_spliced_and_not_copied() {
        let (a, b) = (Bytes::from_static(b"first"), Bytes::from_static(b"second"));
        let mut e = Encoder::frame();
        e.i16(7);
        e.records(&Records::Chunks(vec![a.clone(), Bytes::new(), b.clone()]), false);
        e.records(&Records::Borrowed(b"x"), true);
        let chunks = e.finish().unwrap();
        assert_eq!(chunks.len(), 4);
        assert_eq!(chunks[0][..], [0, 0, 0, 19, 0, 7, 0, 0, 0, 11]);
        assert_eq!(chunks[1].as_ptr(), a.as_ptr());
        assert_eq!(chunks[2].as_ptr(), b.as_ptr());
        assert_eq!(chunks[3][..], [2, b'x']);
    }

    #[test]
    fn a_tagged_value_is_moved_behind_its_size() {
        let mut e = Encoder::new();
        e.i8(1);
        e.tagged(3, |e| e.bytes(&[9; 200], true));
        e.i8(2);
        let bytes = e.finish_contiguous().unwrap();
        // 200 + 1 = 201 is the length's varint in two bytes; with them the value has 202.
        assert_eq!(bytes[..7], [1, 3, 0xca, 0x01, 0xc9, 0x01, 9]);
        assert_eq!(bytes[bytes.len() - 2..], [9, 2]);
        assert_eq!(bytes.len(), 1 + 1 + 2 + 202 + 1);
    }

    #[test]
    fn the_first_error_is_told_at_the_end() {
        let mut e = Encoder::new();
        e.string(&"x".repeat(MAX_STRING_BYTES), true);
        e.string(&"x".repeat(MAX_STRING_BYTES + 1), true);
        e.refuse_null("Later.field");
        assert_eq!(e.finish(), Err(EncodeError::StringTooLong(MAX_STRING_BYTES + 1)));
    }

    #[test]
    fn the_longest_lengths_do_not_overflow() {
        let mut e = Encoder::new();
        e.length(Some(i32::MAX as usize), true);
        e.length(Some(1 << 31), false);
        assert_eq!(e.error, Some(EncodeError::LengthTooLarge(1 << 31)));
        assert_eq!(e.small[..5], [0x80, 0x80, 0x80, 0x80, 0x08]);
    }
}
