//! The newest durable batches of a log, in the very memory from which the journal was written.
//!
//! Invariant: chunks are in offset order; those at and behind the drained end are pinned, those before it
//! are a cache and may go at any time, oldest first. It knows nothing of files.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;

use crate::record::batch::batches;

/// The payload of one journal entry: whole batches.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// Its first offset.
    pub base_offset: i64,
    /// One past its last offset.
    pub end_offset: i64,
    /// Its batches.
    pub bytes: Bytes,
    /// The journal file that holds it.
    pub file_sequence: u64,
}

/// Recent chunks of a log.
#[derive(Debug, Default)]
pub struct Tail(VecDeque<Chunk>);

impl Tail {
    /// Adds the next chunk.
    pub fn push(&mut self, chunk: Chunk) {
        assert!(self.0.back().is_none_or(|last| last.end_offset <= chunk.base_offset), "chunks come in offset order");
        self.0.push_back(chunk);
    }

    /// A chunk was written again to a newer journal file: the older one no longer matters for it.
    pub fn moved(&mut self, copy: Chunk) {
        let at = self.0.partition_point(|chunk| chunk.base_offset < copy.base_offset);
        if let Some(chunk) = self.0.get_mut(at)
            && chunk.base_offset == copy.base_offset
        {
            *chunk = copy;
        }
    }

    /// The bytes of the chunk that ends at `end_offset`, if they lie in that memory; an empty range is anywhere.
    pub fn len_in(&self, memory: &Range<usize>, end_offset: i64) -> Option<usize> {
        let chunk = self.0.get(self.0.partition_point(|chunk| chunk.end_offset < end_offset))?;
        (chunk.end_offset == end_offset && lies_in(chunk, memory)).then_some(chunk.bytes.len())
    }

    /// Gives the chunk that ends at `end_offset` memory of its own, if it lies in that.
    pub fn copy_out(&mut self, memory: &Range<usize>, end_offset: i64) {
        let at = self.0.partition_point(|chunk| chunk.end_offset < end_offset);
        if let Some(chunk) = self.0.get_mut(at)
            && chunk.end_offset == end_offset
            && lies_in(chunk, memory)
        {
            chunk.bytes = Bytes::copy_from_slice(&chunk.bytes);
        }
    }

    /// Lets go of the chunks that end at or before `offset`.
    pub fn evict_before(&mut self, offset: i64) {
        while self.0.front().is_some_and(|chunk| chunk.end_offset <= offset) {
            self.0.pop_front();
        }
    }

    /// The first offset that is here.
    pub fn start_offset(&self) -> Option<i64> {
        self.0.front().map(|chunk| chunk.base_offset)
    }

    /// The chunks that hold `offset` or lie behind it.
    pub fn from(&self, offset: i64) -> impl Iterator<Item = &Chunk> {
        let at = self.0.partition_point(|chunk| chunk.end_offset <= offset);
        self.0.range(at..)
    }

    /// Whole batches from the one that holds `offset`, up to `end_offset` and `max_bytes`; if `at_least_one`,
    /// the first of them even if it is larger. `None` if `offset` lies before what is here.
    pub fn read(&self, offset: i64, end_offset: i64, max_bytes: usize, at_least_one: bool) -> Option<Vec<Bytes>> {
        if self.start_offset()? > offset {
            return None;
        }
        let mut taken = Taken { chunks: Vec::new(), bytes: 0, max_bytes, at_least_one };
        for chunk in self.from(offset) {
            if chunk.end_offset > end_offset || !taken.take(&chunk.bytes, chunk.base_offset, offset) {
                break;
            }
        }
        Some(taken.chunks)
    }
}

fn lies_in(chunk: &Chunk, memory: &Range<usize>) -> bool {
    memory.is_empty() || memory.contains(&(chunk.bytes.as_ptr() as usize))
}

/// What a read has gathered.
pub(super) struct Taken {
    pub(super) chunks: Vec<Bytes>,
    pub(super) bytes: usize,
    pub(super) max_bytes: usize,
    pub(super) at_least_one: bool,
}

impl Taken {
    /// Takes the batches of `bytes` that reach `offset`, as many as fit; false when no more will.
    pub(super) fn take(&mut self, bytes: &Bytes, base_offset: i64, offset: i64) -> bool {
        let whole = base_offset >= offset && self.bytes + bytes.len() <= self.max_bytes;
        if whole {
            self.add(bytes.clone());
            return true;
        }
        let (mut from, mut to) = (None, 0);
        let mut more = true;
        let mut position = 0;
        for batch in batches(bytes) {
            let Ok(batch) = batch else { break };
            let start = position;
            position += batch.total_size();
            if batch.last_offset() < offset {
                continue;
            }
            let first = self.bytes == 0 && from.is_none() && self.at_least_one;
            let taken_here = position - from.unwrap_or(start);
            if self.bytes + taken_here > self.max_bytes && !first {
                more = false;
                break;
            }
            from.get_or_insert(start);
            to = position;
        }
        if let Some(from) = from {
            self.add(bytes.slice(from..to));
        }
        more && self.bytes < self.max_bytes
    }

    fn add(&mut self, bytes: Bytes) {
        self.bytes += bytes.len();
        self.chunks.push(bytes);
    }
}
