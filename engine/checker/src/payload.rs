//! Record values that say which value they are, and that no byte of them has changed.
//!
//! A value is `tag | number | length | filler`, little-endian, the filler being a function of the number: so a
//! reader knows all its bytes. The invariant: [`read`] gives a number only for exactly what [`write`] gave.

const TAG: [u8; 4] = *b"clv1";
const HEADER_BYTES: usize = 16;
/// The shortest value: with less filler another number would be as good.
pub const SHORTEST: usize = HEADER_BYTES + 4;

/// The value of this number, in `len` bytes (at least [`SHORTEST`]).
pub fn write(number: u64, len: usize) -> Vec<u8> {
    let len = len.max(SHORTEST);
    let mut out = Vec::with_capacity(len + 8);
    out.extend_from_slice(&TAG);
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&u32::try_from(len).expect("a value is smaller than 4 GiB").to_le_bytes());
    let mut word = number;
    while out.len() < len {
        word = scramble(word);
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.truncate(len);
    out
}

/// The number of a value, if all its bytes are as [`write`] made them.
pub fn read(value: &[u8]) -> Option<u64> {
    let number = u64::from_le_bytes(value.get(4..12)?.try_into().ok()?);
    let len = u32::from_le_bytes(value.get(12..HEADER_BYTES)?.try_into().ok()?) as usize;
    (len == value.len() && write(number, len) == value).then_some(number)
}

/// The numbers of the values that begin in `bytes`, whole or not, at any alignment, with where they begin.
pub fn find(bytes: &[u8]) -> impl Iterator<Item = (usize, u64)> + '_ {
    let starts = bytes.windows(TAG.len()).enumerate().filter(|(_, window)| *window == TAG).map(|(at, _)| at);
    starts.filter_map(|at| Some((at, u64::from_le_bytes(bytes.get(at + 4..at + 12)?.try_into().ok()?))))
}

/// SplitMix64's step: every bit of the number moves every byte of the filler.
fn scramble(word: u64) -> u64 {
    let mut z = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_bit_is_seen() {
        for len in [SHORTEST, 21, 100] {
            let value = write(7, len);
            assert_eq!(read(&value), Some(7));
            assert_eq!(find(&value).collect::<Vec<_>>(), [(0, 7)]);
            for bit in 0..8 * len {
                let mut flipped = value.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(read(&flipped), None);
            }
            assert_eq!(read(&value[..len - 1]), None);
        }
    }
}
