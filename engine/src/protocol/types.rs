//! The values messages are made of that Rust has no type for: [`Str`], [`Blob`], [`Records`],
//! [`Uuid`].
//!
//! Each borrows from the frame when decoded and may own when a handler builds an answer, so one
//! struct serves both directions. [`IntoStatic`] turns the first kind into the second.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

/// A string: borrowed from the frame it was decoded from, or owned by who built it.
pub type Str<'a> = Cow<'a, str>;

/// Opaque bytes: borrowed from the frame they were decoded from, or owned by who built them.
pub type Blob<'a> = Cow<'a, [u8]>;

/// Record batches, as they stand in a Produce request or a Fetch response.
///
/// Equality is that of the bytes, however they are cut.
#[derive(Debug, Clone)]
pub enum Records<'a> {
    /// What a decoder found, still inside the frame. A holder of the frame's [`Bytes`] turns it
    /// into a chunk without copying by `frame.slice_ref(records)`.
    Borrowed(&'a [u8]),
    /// Runs of batches from caches and files; the encoder hands them on as they are.
    Chunks(Vec<Bytes>),
}

impl Records<'_> {
    /// The size in bytes.
    pub fn len(&self) -> usize {
        self.slices().map(<[u8]>::len).sum()
    }

    /// Whether there is not a single byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes in order, cut as they are held.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let (one, many): (&[u8], &[Bytes]) = match self {
            Records::Borrowed(bytes) => (bytes, &[]),
            Records::Chunks(chunks) => (&[], chunks),
        };
        std::iter::once(one).chain(many.iter().map(|chunk| &chunk[..]))
    }
}

impl Default for Records<'_> {
    fn default() -> Self {
        Records::Borrowed(&[])
    }
}

impl PartialEq for Records<'_> {
    fn eq(&self, other: &Records<'_>) -> bool {
        self.len() == other.len() && self.slices().flatten().eq(other.slices().flatten())
    }
}

impl From<Bytes> for Records<'_> {
    fn from(bytes: Bytes) -> Self {
        Records::Chunks(vec![bytes])
    }
}

/// Gives a decoded value a life of its own, by copying what it borrows.
pub trait IntoStatic {
    /// The same type, borrowing nothing.
    type Static: 'static;

    /// Copies every borrowed part.
    fn into_static(self) -> Self::Static;
}

impl IntoStatic for Str<'_> {
    type Static = Str<'static>;
    fn into_static(self) -> Self::Static {
        Cow::Owned(self.into_owned())
    }
}

impl IntoStatic for Blob<'_> {
    type Static = Blob<'static>;
    fn into_static(self) -> Self::Static {
        Cow::Owned(self.into_owned())
    }
}

impl IntoStatic for Records<'_> {
    type Static = Records<'static>;
    fn into_static(self) -> Self::Static {
        match self {
            Records::Borrowed(bytes) => Records::Chunks(vec![Bytes::copy_from_slice(bytes)]),
            Records::Chunks(chunks) => Records::Chunks(chunks),
        }
    }
}

impl<T: IntoStatic> IntoStatic for Option<T> {
    type Static = Option<T::Static>;
    fn into_static(self) -> Self::Static {
        self.map(T::into_static)
    }
}

impl<T: IntoStatic> IntoStatic for Vec<T> {
    type Static = Vec<T::Static>;
    fn into_static(self) -> Self::Static {
        self.into_iter().map(T::into_static).collect()
    }
}

/// A topic's, directory's or member's id: 16 bytes, big-endian, written as 22 characters of
/// unpadded base64url (Kafka's `Uuid`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Uuid(pub [u8; 16]);

/// The alphabet of base64url, RFC 4648 §5.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl Uuid {
    /// The id that stands for "none".
    pub const ZERO: Uuid = Uuid([0; 16]);

    /// Whether this is [`Uuid::ZERO`].
    pub fn is_zero(&self) -> bool {
        *self == Uuid::ZERO
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // 128 bits are 21 digits of 6 bits, and 2 bits over that the 22nd digit holds at its top.
        let bits = u128::from_be_bytes(self.0);
        for digit in 0..22u32 {
            let value = match digit {
                21 => (bits & 0x3) << 4,
                _ => bits >> (122 - 6 * digit),
            };
            let place = usize::try_from(value & 0x3f).expect("six bits fit");
            write!(f, "{}", char::from(ALPHABET[place]))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not 22 characters of base64url for 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the 22 base64url characters of a uuid")]
pub struct UuidError;

impl FromStr for Uuid {
    type Err = UuidError;

    fn from_str(text: &str) -> Result<Self, UuidError> {
        // Java's decoder takes padding; anything else of another length is not ours.
        let text = text.strip_suffix("==").unwrap_or(text).as_bytes();
        if text.len() != 22 {
            return Err(UuidError);
        }
        let mut bits: u128 = 0;
        for (i, &c) in text.iter().enumerate() {
            let value = ALPHABET.iter().position(|&a| a == c).ok_or(UuidError)? as u128;
            bits = match i {
                21 if value & 0xf != 0 => return Err(UuidError),
                21 => bits << 2 | value >> 4,
                _ => bits << 6 | value,
            };
        }
        Ok(Uuid(bits.to_be_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_written_as_kafka_writes_it() {
        // From a 4.1 broker's CreateTopics answer: the text, and its bytes by base64url.
        let id: Uuid = "7a77XLY4TPSvHSwmaU-p1Q".parse().unwrap();
        assert_eq!(id.0[..4], [0xed, 0xae, 0xfb, 0x5c]);
        assert_eq!(id.0[12..], [0x69, 0x4f, 0xa9, 0xd5]);
        assert_eq!(id.to_string(), "7a77XLY4TPSvHSwmaU-p1Q");
        assert_eq!(Uuid::ZERO.to_string(), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!("AAAAAAAAAAAAAAAAAAAAAA==".parse(), Ok(Uuid::ZERO));
        for bad in ["", "AAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAAB", "+AAAAAAAAAAAAAAAAAAAAA"] {
            assert_eq!(bad.parse::<Uuid>(), Err(UuidError), "{bad}");
        }
    }

    #[test]
    fn records_are_equal_by_their_bytes() {
        let whole = Records::Borrowed(b"abcd");
        let cut = Records::Chunks(vec![Bytes::from_static(b"a"), Bytes::from_static(b"bcd")]);
        assert_eq!(whole, cut);
        assert_ne!(whole, Records::Borrowed(b"abce"));
        assert_eq!(whole.clone().into_static(), whole);
    }
}
