//! Block-aligned buffers, pooled per core.
//!
//! Direct I/O wants memory, position and length in whole blocks. A [`Buffer`] is such memory: owned and
//! writable, then frozen into [`Bytes`], whose clones and slices share it without a copy, on any core.
//! The invariant: a buffer's memory starts on a block and its capacity is whole blocks; every byte below
//! its capacity has been initialised. It does not know what it holds.

#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use bytes::Bytes;

/// The unit of direct I/O: positions, lengths and memory are multiples of it. 4096 bytes.
pub const BLOCK: usize = 4096;

/// The largest buffer that goes back to the pool, as a power of two: 2 MiB.
const LARGEST_POOLED_CLASS: usize = 21;
const SMALLEST_CLASS: usize = BLOCK.trailing_zeros() as usize;
/// Most bytes that one core keeps in its pool unless [`bound_pool`] says less: 64 MiB, what eviction from the tail and
/// segment writes give back at once. What does not fit is unmapped, and costs page faults when it is taken again.
const POOL_BYTES: usize = 64 << 20;

/// `len` rounded up to whole blocks.
pub const fn round_up(len: usize) -> usize {
    len.next_multiple_of(BLOCK)
}

/// `len` rounded down to whole blocks.
pub const fn round_down(len: usize) -> usize {
    len - len % BLOCK
}

/// Owned, writable, block-aligned memory with a length.
pub struct Buffer {
    memory: NonNull<u8>,
    len: usize,
    capacity: usize,
}

// SAFETY: a Buffer owns its memory alone, like a Vec<u8>; nothing in it is tied to a thread.
unsafe impl Send for Buffer {}
// SAFETY: shared access only reads.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// A buffer of length 0 that can grow to `capacity` bytes (rounded up to a size class) in place.
    /// Bytes from the pool keep what they held; only [`Buffer::zeroed`] promises zeros.
    pub fn with_capacity(capacity: usize) -> Buffer {
        let capacity = class_capacity(capacity.max(1));
        take_pooled(capacity).unwrap_or_else(|| Buffer::allocate(capacity))
    }

    /// A buffer of `len` zero bytes.
    pub fn zeroed(len: usize) -> Buffer {
        let mut buffer = Buffer::with_capacity(len);
        buffer.len = len;
        buffer.fill(0);
        buffer
    }

    /// A buffer that holds a copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Buffer {
        let mut buffer = Buffer::with_capacity(bytes.len());
        buffer.extend_from_slice(bytes);
        buffer
    }

    fn allocate(capacity: usize) -> Buffer {
        let layout = layout(capacity);
        // SAFETY: the layout's size is at least one block, never zero.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(memory) = NonNull::new(memory) else { handle_alloc_error(layout) };
        Buffer { memory, len: 0, capacity }
    }

    /// Bytes that the buffer can hold without moving.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Sets the length; bytes that it uncovers are whatever was there (initialised, but stale).
    ///
    /// # Panics
    /// If `len` exceeds the capacity.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity, "a buffer cannot be longer than its memory");
        self.len = len;
    }

    /// Appends a copy of `bytes`.
    ///
    /// # Panics
    /// If they do not fit into the capacity: callers size their buffers first.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        let start = self.len;
        self.set_len(start + bytes.len());
        self[start..].copy_from_slice(bytes);
    }

    /// Appends zeros up to the next whole block.
    pub fn pad_to_block(&mut self) {
        let start = self.len;
        self.set_len(round_up(start));
        self[start..].fill(0);
    }

    /// The first byte's address, for an operation of the ring that fills the memory.
    pub(crate) fn as_mut_pointer(&mut self) -> *mut u8 {
        self.memory.as_ptr()
    }

    /// Makes the buffer immutable and shareable. The memory returns to a pool with the last clone.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: memory is valid and initialised for `capacity >= len` bytes and owned by self.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and self is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr(), self.len) }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} of {} bytes)", self.len, self.capacity)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if !give_to_pool(self) {
            // SAFETY: the memory came from the global allocator with this very layout.
            unsafe { dealloc(self.memory.as_ptr(), layout(self.capacity)) }
        }
    }
}

fn layout(capacity: usize) -> Layout {
    Layout::from_size_align(capacity, BLOCK).expect("a capacity far below isize::MAX")
}

/// The memory, in bytes, that a buffer made for `len` bytes takes.
pub fn capacity_for(len: usize) -> usize {
    class_capacity(len.max(1))
}

/// Pooled sizes are powers of two; larger buffers are whole blocks and not pooled.
fn class_capacity(capacity: usize) -> usize {
    let class = capacity.next_power_of_two().max(BLOCK);
    if class <= 1 << LARGEST_POOLED_CLASS { class } else { round_up(capacity) }
}

struct Pool {
    free: [Vec<NonNull<u8>>; LARGEST_POOLED_CLASS - SMALLEST_CLASS + 1],
    bytes: usize,
    most_bytes: usize,
    /// The fewest bytes that it has held since [`trim_pool`].
    least_bytes: usize,
}

impl Pool {
    /// Gives memory back to the system until no more than `bytes` are held.
    fn shrink_to(&mut self, bytes: usize) {
        for class in (0..self.free.len()).rev() {
            while self.bytes > bytes {
                let Some(memory) = self.free[class].pop() else { break };
                let capacity = 1 << (class + SMALLEST_CLASS);
                self.bytes -= capacity;
                // SAFETY: pooled memory was allocated with its class's layout and has no other owner.
                unsafe { dealloc(memory.as_ptr(), layout(capacity)) }
            }
        }
        self.least_bytes = self.least_bytes.min(self.bytes);
    }
}

/// From now on this core's pool holds no more than so many bytes.
pub fn bound_pool(bytes: usize) {
    POOL.with_borrow_mut(|pool| {
        pool.most_bytes = bytes.min(POOL_BYTES);
        pool.shrink_to(pool.most_bytes);
    });
}

/// Gives back what the pool of this core has held without use since the last call.
pub fn trim_pool() {
    POOL.with_borrow_mut(|pool| {
        pool.shrink_to(pool.bytes - pool.least_bytes);
        pool.least_bytes = pool.bytes;
    });
}

/// Bytes that this core's pool holds.
pub fn pooled_bytes() -> usize {
    POOL.with_borrow(|pool| pool.bytes)
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { free: [const { Vec::new() }; LARGEST_POOLED_CLASS - SMALLEST_CLASS + 1], bytes: 0, most_bytes: POOL_BYTES, least_bytes: 0 }) };
}

fn class_of(capacity: usize) -> Option<usize> {
    let pooled = capacity.is_power_of_two() && capacity <= 1 << LARGEST_POOLED_CLASS;
    pooled.then(|| capacity.trailing_zeros() as usize - SMALLEST_CLASS)
}

fn take_pooled(capacity: usize) -> Option<Buffer> {
    let class = class_of(capacity)?;
    POOL.with_borrow_mut(|pool| {
        let memory = pool.free[class].pop()?;
        pool.bytes -= capacity;
        pool.least_bytes = pool.least_bytes.min(pool.bytes);
        Some(Buffer { memory, len: 0, capacity })
    })
}

/// Keeps the buffer's memory for the next one of its size; false if the pool has enough or is gone.
fn give_to_pool(buffer: &mut Buffer) -> bool {
    let Some(class) = class_of(buffer.capacity) else { return false };
    let kept = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        let fits = pool.bytes + buffer.capacity <= pool.most_bytes;
        if fits {
            pool.bytes += buffer.capacity;
            pool.free[class].push(buffer.memory);
        }
        fits
    });
    kept.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_aligned_and_lengths_hold() {
        for len in [1, 511, 4096, 5000, 1 << 20, (2 << 20) + 1] {
            let buffer = Buffer::zeroed(len);
            assert_eq!(buffer.as_ptr() as usize % BLOCK, 0);
            assert_eq!(buffer.len(), len);
            assert!(buffer.iter().all(|b| *b == 0));
            assert_eq!(buffer.capacity() % BLOCK, 0);
        }
    }

    #[test]
    fn zeroed_hides_what_the_pool_held() {
        let mut dirty = Buffer::zeroed(8192);
        dirty.fill(7);
        drop(dirty);
        assert!(Buffer::zeroed(8192).iter().all(|b| *b == 0));
    }

    #[test]
    fn frozen_slices_share_the_memory() {
        let bytes = Buffer::copy_of(b"hello world").freeze();
        let word = bytes.slice(6..);
        assert_eq!(word.as_ptr() as usize, bytes.as_ptr() as usize + 6);
        drop(bytes);
        assert_eq!(&word[..], b"world");
    }

    #[test]
    fn the_pool_gives_back_what_nobody_used_for_a_while() {
        bound_pool(POOL_BYTES);
        drop((0..8).map(|_| Buffer::zeroed(1 << 20)).collect::<Vec<_>>());
        trim_pool();
        let in_use = Buffer::zeroed(1 << 20);
        let held = pooled_bytes();
        trim_pool();
        assert_eq!(pooled_bytes(), 0, "of {held} nothing was used");
        drop(in_use);
        trim_pool();
        let taken = Buffer::zeroed(1 << 20);
        drop(taken);
        trim_pool();
        assert_eq!(pooled_bytes(), 1 << 20, "it was used");
        bound_pool(BLOCK);
        assert!(pooled_bytes() <= BLOCK);
    }

    #[test]
    fn padding_is_zero() {
        let mut buffer = Buffer::with_capacity(BLOCK);
        buffer.extend_from_slice(&[9; 100]);
        buffer.pad_to_block();
        assert_eq!(buffer.len(), BLOCK);
        assert!(buffer[100..].iter().all(|b| *b == 0));
    }
}
