//! Reads Kafka's primitive types from a slice.
//!
//! Invariant: nothing a client writes makes the decoder panic, read past the slice, or reserve
//! memory out of proportion to it. Every length is held against the bytes that remain before
//! anything is reserved, and one message may hold at most [`MAX_ELEMENTS`] array elements.
//! Does not know which message it reads.

use std::borrow::Cow;

use super::types::{Blob, Records, Str, Uuid};

/// The most array elements, of all arrays together, that one message may hold. A frame of 100 MiB
/// of nothing but tiny elements would otherwise grow some tenfold when decoded.
pub const MAX_ELEMENTS: usize = 1 << 20;

/// The longest string Kafka reads or writes, in bytes (`MessageDataGenerator`: 0x7fff).
pub const MAX_STRING_BYTES: usize = i16::MAX as usize;

/// Why bytes are not the message they should be. All are the client's fault; Kafka closes the
/// connection on each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end before the value does.
    #[error("needs {wanted} bytes where {remaining} remain")]
    Truncated {
        /// Bytes the value takes.
        wanted: usize,
        /// Bytes there are.
        remaining: usize,
    },
    /// Bytes are left over after the message.
    #[error("{0} bytes after the end of the message")]
    TrailingBytes(usize),
    /// A length below −1.
    #[error("negative length {0}")]
    NegativeLength(i64),
    /// An array claims more elements than its bytes can hold.
    #[error("an array of {claimed} elements in {remaining} bytes")]
    ArrayTooLong {
        /// Elements claimed.
        claimed: usize,
        /// Bytes there are.
        remaining: usize,
    },
    /// The arrays of the message hold more than [`MAX_ELEMENTS`] elements.
    #[error("more than {MAX_ELEMENTS} array elements in one message")]
    TooManyElements,
    /// A string longer than [`MAX_STRING_BYTES`].
    #[error("a string of {0} bytes")]
    StringTooLong(usize),
    /// A string that is not UTF-8.
    #[error("a string is not UTF-8")]
    NotUtf8,
    /// A null where the version allows none.
    #[error("null in a field that cannot be null")]
    UnexpectedNull,
    /// A varint longer than its type.
    #[error("a varint of more than 32 bits")]
    VarintTooLong,
    /// A tagged field whose value does not fill its declared size.
    #[error("a tagged field does not have its declared size")]
    TaggedFieldSize,
    /// A version of the message that is not decodable.
    #[error("{name} has no version {version}")]
    UnsupportedVersion {
        /// The message.
        name: &'static str,
        /// The version asked for.
        version: i16,
    },
    /// A key for which there is no API.
    #[error("there is no API with key {0}")]
    UnknownApiKey(i16),
}

/// A cursor over one message.
///
/// `flexible` in its methods tells whether the message's version writes lengths as varints (KIP-482).
#[derive(Debug, Clone)]
pub struct Decoder<'a> {
    rest: &'a [u8],
    elements_left: usize,
}

type Decoded<T> = Result<T, DecodeError>;

impl<'a> Decoder<'a> {
    /// A decoder at the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Decoder { rest: bytes, elements_left: MAX_ELEMENTS }
    }

    /// The bytes not yet read.
    pub fn remaining(&self) -> &'a [u8] {
        self.rest
    }

    /// Ends the reading: an error if bytes are left.
    pub fn finish(&self) -> Decoded<()> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(DecodeError::TrailingBytes(left)),
        }
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Decoded<&'a [u8]> {
        let truncated = DecodeError::Truncated { wanted: count, remaining: self.rest.len() };
        let (head, tail) = self.rest.split_at_checked(count).ok_or(truncated)?;
        self.rest = tail;
        Ok(head)
    }

    fn take_array<const N: usize>(&mut self) -> Decoded<[u8; N]> {
        let truncated = DecodeError::Truncated { wanted: N, remaining: self.rest.len() };
        let (head, tail) = self.rest.split_first_chunk::<N>().ok_or(truncated)?;
        self.rest = tail;
        Ok(*head)
    }

    /// A byte; anything but 0 is true.
    pub fn bool(&mut self) -> Decoded<bool> {
        Ok(self.take_array::<1>()? != [0])
    }

    /// One byte.
    pub fn i8(&mut self) -> Decoded<i8> {
        self.take_array().map(i8::from_be_bytes)
    }

    /// Two bytes, big-endian, as everything that follows.
    pub fn i16(&mut self) -> Decoded<i16> {
        self.take_array().map(i16::from_be_bytes)
    }

    /// Two bytes, unsigned: a port.
    pub fn u16(&mut self) -> Decoded<u16> {
        self.take_array().map(u16::from_be_bytes)
    }

    /// Four bytes.
    pub fn i32(&mut self) -> Decoded<i32> {
        self.take_array().map(i32::from_be_bytes)
    }

    /// Eight bytes.
    pub fn i64(&mut self) -> Decoded<i64> {
        self.take_array().map(i64::from_be_bytes)
    }

    /// Eight bytes, IEEE 754.
    pub fn f64(&mut self) -> Decoded<f64> {
        self.take_array().map(f64::from_be_bytes)
    }

    /// Sixteen bytes.
    pub fn uuid(&mut self) -> Decoded<Uuid> {
        self.take_array().map(Uuid)
    }

    /// An unsigned varint of at most 32 bits, seven to a byte, low ones first.
    pub fn uvarint(&mut self) -> Decoded<u32> {
        let mut value = 0u32;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.take_array()?;
            if shift == 28 && byte > 0x0f {
                return Err(DecodeError::VarintTooLong);
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::VarintTooLong)
    }

    /// A length that `fixed` reads in inflexible versions; `None` is null.
    fn length(&mut self, flexible: bool, fixed: fn(&mut Self) -> Decoded<i64>) -> Decoded<Option<usize>> {
        let length = match flexible {
            true => i64::from(self.uvarint()?) - 1,
            false => fixed(self)?,
        };
        match length {
            -1 => Ok(None),
            _ => usize::try_from(length).map(Some).map_err(|_| DecodeError::NegativeLength(length)),
        }
    }

    /// A string or null.
    pub fn nullable_string(&mut self, flexible: bool) -> Decoded<Option<Str<'a>>> {
        let Some(length) = self.length(flexible, |d| d.i16().map(i64::from))? else {
            return Ok(None);
        };
        if length > MAX_STRING_BYTES {
            return Err(DecodeError::StringTooLong(length));
        }
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| DecodeError::NotUtf8)?;
        Ok(Some(Cow::Borrowed(text)))
    }

    /// A string.
    pub fn string(&mut self, flexible: bool) -> Decoded<Str<'a>> {
        self.nullable_string(flexible)?.ok_or(DecodeError::UnexpectedNull)
    }

    fn nullable_slice(&mut self, flexible: bool) -> Decoded<Option<&'a [u8]>> {
        let length = self.length(flexible, |d| d.i32().map(i64::from))?;
        length.map(|length| self.take(length)).transpose()
    }

    /// Bytes or null.
    pub fn nullable_bytes(&mut self, flexible: bool) -> Decoded<Option<Blob<'a>>> {
        Ok(self.nullable_slice(flexible)?.map(Cow::Borrowed))
    }

    /// Bytes.
    pub fn bytes(&mut self, flexible: bool) -> Decoded<Blob<'a>> {
        self.nullable_bytes(flexible)?.ok_or(DecodeError::UnexpectedNull)
    }

    /// Record batches or null; what is in them is not looked at.
    pub fn nullable_records(&mut self, flexible: bool) -> Decoded<Option<Records<'a>>> {
        Ok(self.nullable_slice(flexible)?.map(Records::Borrowed))
    }

    /// Record batches; what is in them is not looked at.
    pub fn records(&mut self, flexible: bool) -> Decoded<Records<'a>> {
        self.nullable_records(flexible)?.ok_or(DecodeError::UnexpectedNull)
    }

    /// An array or null, whose elements `read` reads and take at least `least` bytes each.
    pub fn nullable_array<T>(
        &mut self,
        flexible: bool,
        least: usize,
        mut read: impl FnMut(&mut Self) -> Decoded<T>,
    ) -> Decoded<Option<Vec<T>>> {
        let Some(length) = self.array_length(flexible, least)? else {
            return Ok(None);
        };
        let mut elements = Vec::with_capacity(length);
        for _ in 0..length {
            elements.push(read(self)?);
        }
        Ok(Some(elements))
    }

    /// An array, whose elements `read` reads and take at least `least` bytes each.
    pub fn array<T>(
        &mut self,
        flexible: bool,
        least: usize,
        read: impl FnMut(&mut Self) -> Decoded<T>,
    ) -> Decoded<Vec<T>> {
        self.nullable_array(flexible, least, read)?.ok_or(DecodeError::UnexpectedNull)
    }

    fn array_length(&mut self, flexible: bool, least: usize) -> Decoded<Option<usize>> {
        let Some(claimed) = self.length(flexible, |d| d.i32().map(i64::from))? else {
            return Ok(None);
        };
        let remaining = self.rest.len();
        if claimed > remaining / least.max(1) {
            return Err(DecodeError::ArrayTooLong { claimed, remaining });
        }
        let left = self.elements_left.checked_sub(claimed);
        self.elements_left = left.ok_or(DecodeError::TooManyElements)?;
        Ok(Some(claimed))
    }

    /// A struct or null: a byte, negative for null, goes before it.
    pub fn nullable_struct<T>(&mut self, read: impl FnOnce(&mut Self) -> Decoded<T>) -> Decoded<Option<T>> {
        match self.i8()? {
            ..0 => Ok(None),
            _ => read(self).map(Some),
        }
    }

    /// The tag of the next tagged field, and where it ends: a mark for [`Decoder::skip_to`] and
    /// [`Decoder::expect_at`].
    pub fn tag(&mut self) -> Decoded<(u32, TaggedEnd)> {
        let tag = self.uvarint()?;
        let size = self.uvarint()? as usize;
        let remaining = self.rest.len();
        let left = remaining.checked_sub(size);
        let left = left.ok_or(DecodeError::Truncated { wanted: size, remaining })?;
        Ok((tag, TaggedEnd(left)))
    }

    /// Passes over a tagged field that this side does not know.
    pub fn skip_to(&mut self, end: TaggedEnd) {
        let skipped = self.rest.len().saturating_sub(end.0);
        self.rest = &self.rest[skipped..];
    }

    /// An error unless the tagged field was read to its very end.
    pub fn expect_at(&self, end: TaggedEnd) -> Decoded<()> {
        match self.rest.len() == end.0 {
            true => Ok(()),
            false => Err(DecodeError::TaggedFieldSize),
        }
    }

    /// Passes over a buffer of tagged fields none of which is known.
    pub fn skip_tagged_fields(&mut self) -> Decoded<()> {
        for _ in 0..self.uvarint()? {
            let (_, end) = self.tag()?;
            self.skip_to(end);
        }
        Ok(())
    }
}

/// Where a tagged field ends: the bytes that remain behind it.
#[derive(Debug, Clone, Copy)]
pub struct TaggedEnd(usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_end_at_32_bits() {
        let read = |bytes: &[u8]| Decoder::new(bytes).uvarint();
        assert_eq!(read(&[0x00]), Ok(0));
        assert_eq!(read(&[0xac, 0x02]), Ok(300));
        assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0x0f]), Ok(u32::MAX));
        assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0x1f]), Err(DecodeError::VarintTooLong));
        assert_eq!(read(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00]), Err(DecodeError::VarintTooLong));
        assert!(matches!(read(&[0x80]), Err(DecodeError::Truncated { .. })));
    }

    #[test]
    fn lengths_are_held_against_the_bytes_there_are() {
        let mut d = Decoder::new(&[0xff, 0xff]);
        assert_eq!(d.nullable_string(false), Ok(None));
        let mut d = Decoder::new(&[0xff, 0xfe]);
        assert_eq!(d.nullable_string(false), Err(DecodeError::NegativeLength(-2)));
        let mut d = Decoder::new(&[0x00]);
        assert_eq!(d.string(true), Err(DecodeError::UnexpectedNull));
        let mut d = Decoder::new(&[0x81, 0x80, 0x02, b'x']);
        assert_eq!(d.string(true), Err(DecodeError::StringTooLong(0x8000)));
        let mut d = Decoder::new(&[0x00, 0x02, 0xc3, 0x28]);
        assert_eq!(d.string(false), Err(DecodeError::NotUtf8));
        let mut d = Decoder::new(&[0x7f, 0xff, 0xff, 0xff, 0x00]);
        let truncated = DecodeError::Truncated { wanted: i32::MAX as usize, remaining: 1 };
        assert_eq!(d.bytes(false), Err(truncated));
        let mut d = Decoder::new(&[0x00, 0x00, 0x00, 0x03, 1, 2, 3, 4, 5]);
        let long = DecodeError::ArrayTooLong { claimed: 3, remaining: 5 };
        assert_eq!(d.array(false, 2, Decoder::i16), Err(long));
    }

    #[test]
    fn one_message_holds_a_bounded_number_of_elements() {
        let half = MAX_ELEMENTS / 2 + 1;
        let mut one = u32::try_from(half).unwrap().to_be_bytes().to_vec();
        one.resize(4 + half, 0);
        let bytes = [one.clone(), one].concat();
        let mut d = Decoder::new(&bytes);
        assert_eq!(d.array(false, 1, Decoder::i8).map(|v| v.len()), Ok(half));
        assert_eq!(d.array(false, 1, Decoder::i8), Err(DecodeError::TooManyElements));
    }

    #[test]
    fn a_tagged_field_must_fill_its_size() {
        let bytes = [0x07, 0x03, 1, 2, 3, 9];
        let mut d = Decoder::new(&bytes);
        let (tag, end) = d.tag().unwrap();
        assert_eq!(tag, 7);
        assert_eq!(d.expect_at(end), Err(DecodeError::TaggedFieldSize));
        d.skip_to(end);
        assert_eq!(d.expect_at(end), Ok(()));
        assert_eq!(d.finish(), Err(DecodeError::TrailingBytes(1)));
        assert!(matches!(Decoder::new(&[0x07, 0x03, 1, 2]).tag(), Err(DecodeError::Truncated { .. })));
    }
}
