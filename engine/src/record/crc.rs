//! The CRC-32C of a concatenation, from those of its parts.
//!
//! A batch's bytes are passed once, when its own CRC is checked; the journal's and the segments' checksums over
//! the same bytes follow from that one by arithmetic. A checksum that was never taken from memory again also
//! tells, at the next read, of bytes that changed in memory after the check.
//!
//! Bits stand reflected, as in the CRC itself: the highest bit is the coefficient of x⁰ (RFC 3720, appendix B.4).

/// The CRC-32C polynomial (Castagnoli) without its x³².
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// x⁰.
const ONE: u32 = 1 << 31;

/// `x^(8 · 2^n)` for each n: what a CRC is multiplied by when 2^n bytes follow.
const BEHIND_BYTES: [u32; 64] = {
    let mut powers = [0; 64];
    // x⁸.
    powers[0] = ONE >> 8;
    let mut n = 1;
    while n < powers.len() {
        powers[n] = product(powers[n - 1], powers[n - 1]);
        n += 1;
    }
    powers
};

/// The product of two polynomials, modulo the CRC's.
const fn product(a: u32, b: u32) -> u32 {
    let (mut sum, mut shifted, mut bit) = (0, b, ONE);
    while bit != 0 {
        if a & bit != 0 {
            sum ^= shifted;
        }
        shifted = if shifted & 1 == 0 { shifted >> 1 } else { (shifted >> 1) ^ POLYNOMIAL };
        bit >>= 1;
    }
    sum
}

/// The CRC-32C of some bytes followed by `second_len` others, of which `first` and `second` are the CRCs.
pub fn concatenated(first: u32, second: u32, second_len: usize) -> u32 {
    let mut moved = first;
    let mut rest = second_len;
    while rest != 0 {
        moved = product(BEHIND_BYTES[rest.trailing_zeros() as usize], moved);
        rest &= rest - 1;
    }
    moved ^ second
}

#[cfg(test)]
mod tests {
    use super::concatenated;
    use crc32c::crc32c;

    #[test]
    fn a_concatenation_has_the_crc_of_all_its_bytes() {
        let bytes: Vec<u8> = (0..200_000u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
        for end in [0, 1, 21, 61, 4096, 65_536, 65_557, 199_999, 200_000] {
            for cut in [0, 1, 20, 21, 4095, 4096, 100_000] {
                let (first, second) = bytes[..end].split_at(cut.min(end));
                let crc = concatenated(crc32c(first), crc32c(second), second.len());
                assert_eq!(crc, crc32c(&bytes[..end]), "{cut} of {end}");
            }
        }
    }
}
