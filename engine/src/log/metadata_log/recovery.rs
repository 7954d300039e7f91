//! What two mirrors say together: the longest log that either can prove, or that there is none.
//!
//! Frame by frame one whole copy is enough. Where no copy is whole the log ends, if nothing behind says that
//! more was written: then it is an append that was never acknowledged, because an acknowledged one is whole in
//! both mirrors. If something does, acknowledged records are gone, and the log is refused. Does no I/O.

use super::MetadataLogError;
use super::frame::{self, Batch, FRAMES_START, FileHeader, Place};
use crate::io::buffer::BLOCK;

/// What a file held.
pub(super) struct Copy {
    /// Its bytes; zeros where it could not be read.
    pub(super) bytes: Vec<u8>,
    /// One past the last byte that could not be read; 0 if all could.
    pub(super) unreadable_to: usize,
}

impl Copy {
    /// Its header, unless it is damaged.
    pub(super) fn header(&self) -> Option<FileHeader> {
        FileHeader::decode(&self.bytes)
    }

    /// Whether the file holds just `content`, and behind it nothing but zeros.
    pub(super) fn is_exactly(&self, content: &[u8]) -> bool {
        self.unreadable_to == 0
            && self.bytes.starts_with(content)
            && self.bytes[content.len()..].iter().all(|byte| *byte == 0)
    }
}

/// What the copies of one generation hold together.
pub(super) struct Whole {
    /// The bytes of a file that is in order.
    pub(super) content: Vec<u8>,
    /// The snapshot's batches, then those after it.
    pub(super) batches: Vec<Batch>,
    /// Where the next frame goes.
    pub(super) next: Place,
    /// The index of the next record.
    pub(super) next_index: i64,
}

/// Puts the copies together; all have this header.
pub(super) fn recover(header: &FileHeader, copies: &[&Copy]) -> Result<Whole, MetadataLogError> {
    let mut whole = Whole {
        content: header.encode().to_vec(),
        batches: Vec::new(),
        next: header.first_frame(),
        next_index: header.snapshot_index + 1,
    };
    assert_eq!(whole.content.len(), FRAMES_START, "a header is a block");
    while copies.iter().any(|copy| whole.take_frame(header, copy)) {}
    let end = whole.content.len();
    let is_lost = (end as u64) < header.snapshot_end || copies.iter().any(|copy| whole.is_followed(copy));
    if is_lost {
        return Err(MetadataLogError::Damaged { position: end as u64 });
    }
    // What cannot be read might have been acknowledged: only what was read and is torn may go.
    if copies.iter().any(|copy| copy.unreadable_to > end) {
        return Err(MetadataLogError::Unreadable { position: end as u64 });
    }
    Ok(whole)
}

impl Whole {
    /// Goes on by one frame if this copy has it.
    fn take_frame(&mut self, header: &FileHeader, copy: &Copy) -> bool {
        let position = self.content.len();
        let Some(found) = copy.bytes.get(position..).and_then(frame::decode) else { return false };
        let in_snapshot = (position as u64) < header.snapshot_end;
        let index = if in_snapshot { header.snapshot_index } else { self.next_index };
        if found.place != self.next || found.batch.index != index {
            return false;
        }
        let end = (position + found.size).min(copy.bytes.len());
        self.content.extend_from_slice(&copy.bytes[position..end]);
        self.content.resize(position + found.size, 0);
        self.next = found.place.after(found.crc);
        if !in_snapshot {
            self.next_index += i64::from(found.batch.count);
        }
        self.batches.push(found.batch);
        true
    }

    /// Whether the copy proves that a frame was written here or later.
    fn is_followed(&self, copy: &Copy) -> bool {
        (self.content.len()..copy.bytes.len()).step_by(BLOCK).any(|position| {
            let found = frame::decode(&copy.bytes[position..]);
            found
                .is_some_and(|found| found.place.nonce == self.next.nonce && found.place.sequence >= self.next.sequence)
        })
    }
}
