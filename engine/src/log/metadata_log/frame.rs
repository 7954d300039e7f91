//! The metadata log's bytes: a file's header, and frames, each all there or not at all.
//!
//! A file is `header block | frames`. A frame is `head | payload | zeros to the block`, little-endian, with
//! one CRC-32C over everything behind the CRC field. Each names its file's nonce, its own sequence and the CRC
//! before it, so nothing but the frame that was written to this place of this file passes for it. This module
//! does no I/O.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::io::buffer::{BLOCK, Buffer, round_up};

/// Most bytes of payload in one frame.
pub(super) const MAX_PAYLOAD_BYTES: usize = 16 << 20;

/// Where a file's frames start: behind its header.
pub(super) const FRAMES_START: usize = BLOCK;

/// "CLMF": the header of a file of the metadata log.
const FILE_MAGIC: u32 = u32::from_le_bytes(*b"CLMF");
/// "CLMR": a frame of records.
const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"CLMR");
const VERSION: u16 = 1;
const FRAME_HEAD_BYTES: usize = 52;
/// The CRC covers what stands behind it.
const CRC_FROM: usize = 8;

/// The header of a file; the same in both mirrors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileHeader {
    /// Grows with each compaction.
    pub(super) generation: u64,
    /// Random, drawn for this generation.
    pub(super) nonce: u64,
    /// Where the frames of the snapshot end: all before it was durable before the file got its name.
    pub(super) snapshot_end: u64,
    /// The index of the last record that the snapshot covers; −1 for none.
    pub(super) snapshot_index: i64,
}

impl FileHeader {
    /// The header's block.
    pub(super) fn encode(&self) -> Buffer {
        let mut body = BytesMut::with_capacity(BLOCK);
        body.put_u32_le(FILE_MAGIC);
        body.put_u32_le(0);
        body.put_u16_le(VERSION);
        body.put_u16_le(0);
        body.put_u64_le(self.generation);
        body.put_u64_le(self.nonce);
        body.put_u64_le(self.snapshot_end);
        body.put_i64_le(self.snapshot_index);
        body.resize(BLOCK, 0);
        let crc = crc32c::crc32c(&body[CRC_FROM..]);
        body[4..CRC_FROM].copy_from_slice(&crc.to_le_bytes());
        Buffer::copy_of(&body)
    }

    /// The header at the front of a file, unless it is damaged.
    pub(super) fn decode(file: &[u8]) -> Option<FileHeader> {
        let mut block = file.get(..BLOCK)?;
        let crc = crc32c::crc32c(&block[CRC_FROM..]);
        if block.get_u32_le() != FILE_MAGIC || block.get_u32_le() != crc || block.get_u16_le() != VERSION {
            return None;
        }
        block.advance(2);
        Some(FileHeader {
            generation: block.get_u64_le(),
            nonce: block.get_u64_le(),
            snapshot_end: block.get_u64_le(),
            snapshot_index: block.get_i64_le(),
        })
    }

    /// The place of the first frame.
    pub(super) fn first_frame(&self) -> Place {
        Place { nonce: self.nonce, sequence: 0, previous_crc: 0 }
    }
}

/// What ties a frame to its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// The file's nonce.
    pub(super) nonce: u64,
    /// Counts the file's frames.
    pub(super) sequence: u64,
    /// The CRC of the frame before; 0 for the first.
    pub(super) previous_crc: u32,
}

impl Place {
    /// The place after a frame with this CRC.
    pub(super) fn after(&self, crc: u32) -> Place {
        Place { nonce: self.nonce, sequence: self.sequence + 1, previous_crc: crc }
    }
}

/// A batch of records, whatever they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The term of the leader that wrote it.
    pub term: i32,
    /// The index of its first record.
    pub index: i64,
    /// How many records it holds.
    pub count: u32,
    /// Their bytes.
    pub payload: Bytes,
}

/// A frame as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) place: Place,
    pub(super) crc: u32,
    /// Its bytes in the file, zeros to the block included.
    pub(super) size: usize,
    pub(super) batch: Batch,
}

/// The frame of a batch, as whole blocks, and its CRC.
pub(super) fn encode(place: &Place, batch: &Batch) -> (Buffer, u32) {
    assert!(batch.payload.len() <= MAX_PAYLOAD_BYTES, "the caller bounds its batches");
    let mut head = BytesMut::with_capacity(FRAME_HEAD_BYTES);
    head.put_u32_le(FRAME_MAGIC);
    head.put_u32_le(0);
    head.put_u16_le(VERSION);
    head.put_u16_le(0);
    head.put_u32_le(u32::try_from(batch.payload.len()).expect("bounded above"));
    head.put_u64_le(place.nonce);
    head.put_u64_le(place.sequence);
    head.put_u32_le(place.previous_crc);
    head.put_i32_le(batch.term);
    head.put_i64_le(batch.index);
    head.put_u32_le(batch.count);
    assert_eq!(head.len(), FRAME_HEAD_BYTES, "the head is as long as its fields");
    let crc = crc32c::crc32c_append(crc32c::crc32c(&head[CRC_FROM..]), &batch.payload);
    head[4..CRC_FROM].copy_from_slice(&crc.to_le_bytes());
    let mut buffer = Buffer::with_capacity(round_up(FRAME_HEAD_BYTES + batch.payload.len()));
    buffer.extend_from_slice(&head);
    buffer.extend_from_slice(&batch.payload);
    buffer.pad_to_block();
    (buffer, crc)
}

/// The frame at the front of `bytes`, wherever it belongs; `None` if there is none that is whole.
pub(super) fn decode(bytes: &[u8]) -> Option<Frame> {
    let mut head = bytes.get(..FRAME_HEAD_BYTES)?;
    let magic = head.get_u32_le();
    let crc = head.get_u32_le();
    let version = head.get_u16_le();
    head.advance(2);
    let length = head.get_u32_le() as usize;
    if magic != FRAME_MAGIC || version != VERSION || length > MAX_PAYLOAD_BYTES {
        return None;
    }
    let covered = bytes.get(CRC_FROM..FRAME_HEAD_BYTES + length)?;
    if crc32c::crc32c(covered) != crc {
        return None;
    }
    let place = Place { nonce: head.get_u64_le(), sequence: head.get_u64_le(), previous_crc: head.get_u32_le() };
    let batch = Batch {
        term: head.get_i32_le(),
        index: head.get_i64_le(),
        count: head.get_u32_le(),
        payload: Bytes::copy_from_slice(&bytes[FRAME_HEAD_BYTES..FRAME_HEAD_BYTES + length]),
    };
    Some(Frame { place, crc, size: round_up(FRAME_HEAD_BYTES + length), batch })
}
