//! The index of a segment: runs of whole batches, each with a checksum over all of its bytes.
//!
//! A batch's own CRC leaves its base offset, length and leader epoch uncovered, and a misdirected block may
//! hold a batch that is valid by itself. So a read from disk takes whole runs and is held against the
//! checksum made while the bytes were in memory. The same entries are the time index: each run carries its
//! greatest timestamp (a second file would hold the same positions again). On disk: 48 bytes an entry, each
//! with a checksum of its own, so that rewriting the last block in place can only repeat what is there.

use bytes::{Buf, BufMut};

use crate::record::batch::BatchView;
use crate::record::crc::concatenated;

/// Bytes of an entry on disk.
pub const ENTRY_BYTES: usize = 48;

/// About 64 KiB of whole batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first batch's base offset.
    pub base_offset: i64,
    /// One past the last batch's last offset.
    pub end_offset: i64,
    /// Where in the segment it starts.
    pub position: u64,
    /// Its bytes.
    pub length: u32,
    /// CRC-32C over all of them.
    pub crc: u32,
    /// The greatest timestamp of its batches, in milliseconds.
    pub max_timestamp: i64,
}

impl Run {
    /// One past its last byte.
    pub fn end_position(&self) -> u64 {
        self.position + u64::from(self.length)
    }

    /// The run with a batch more behind it.
    pub fn extended(self, batch: &BatchView<'_>) -> Run {
        Run {
            length: self.length + batch.total_size() as u32,
            crc: concatenated(self.crc, batch.crc_of_all(), batch.total_size()),
            end_offset: batch.last_offset() + 1,
            max_timestamp: self.max_timestamp.max(batch.max_timestamp()),
            ..self
        }
    }

    /// Appends the entry.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.put_i64_le(self.base_offset);
        out.put_i64_le(self.end_offset);
        out.put_u64_le(self.position);
        out.put_u32_le(self.length);
        out.put_u32_le(self.crc);
        out.put_i64_le(self.max_timestamp);
        out.put_u32_le(0);
        let crc = crc32c::crc32c(&out[start..]);
        out.put_u32_le(crc);
    }

    /// The entry at the start of `bytes`; `None` if they are short or damaged.
    pub fn decode(bytes: &[u8]) -> Option<Run> {
        let entry = bytes.get(..ENTRY_BYTES)?;
        let (mut body, mut crc) = entry.split_at(ENTRY_BYTES - 4);
        if crc32c::crc32c(body) != crc.get_u32_le() {
            return None;
        }
        Some(Run {
            base_offset: body.get_i64_le(),
            end_offset: body.get_i64_le(),
            position: body.get_u64_le(),
            length: body.get_u32_le(),
            crc: body.get_u32_le(),
            max_timestamp: body.get_i64_le(),
        })
    }
}

/// The index of the run that holds `offset`, or else of the first one behind it.
pub fn find(runs: &[Run], offset: i64) -> usize {
    runs.partition_point(|run| run.end_offset <= offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_and_damage_shows() {
        let run = Run { base_offset: 5, end_offset: 9, position: 4096, length: 70, crc: 3, max_timestamp: -1 };
        let mut bytes = Vec::new();
        run.encode(&mut bytes);
        assert_eq!(bytes.len(), ENTRY_BYTES);
        assert_eq!(Run::decode(&bytes), Some(run));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Run::decode(&damaged), None);
        }
    }

    #[test]
    fn finding_skips_what_ends_before() {
        let run =
            |base_offset, end_offset| Run { base_offset, end_offset, position: 0, length: 1, crc: 0, max_timestamp: 0 };
        let runs = [run(0, 10), run(10, 20), run(25, 30)];
        assert_eq!([0, 9, 10, 22, 29, 30].map(|offset| find(&runs, offset)), [0, 0, 1, 2, 2, 3]);
    }
}
