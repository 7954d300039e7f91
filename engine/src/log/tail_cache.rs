//! The memory of one core's tails: which buffers hold durable batches, oldest first, and which of them may go.
//!
//! A journal group is one buffer, shared by the chunks of all partitions that have a part in it. Chunks that are in a
//! segment may go at any time. A chunk that is not yet, is *pinned*: with few of them in a buffer they are copied out of
//! it, with many the buffer stays and is looked at again later; in neither case do they keep a later buffer from going.
//! Invariant: with nothing pinned, what is held stays within the budget after each [`TailCache::evict`].

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;

use super::PartitionId;
use super::drain::SharedLog;
use crate::io::buffer::capacity_for;

/// A buffer, by the addresses of its bytes, and the chunks that may lie in it.
struct Held {
    memory: Range<usize>,
    /// What it takes of the budget.
    bytes: usize,
    chunks: Vec<(PartitionId, i64)>,
}

/// See the module.
pub struct TailCache {
    held: VecDeque<Held>,
    bytes: usize,
    budget: usize,
}

impl TailCache {
    /// An empty one that is to hold no more than `budget` bytes.
    pub fn new(budget: usize) -> TailCache {
        TailCache { held: VecDeque::new(), bytes: 0, budget }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes that it is to hold at most.
    pub fn budget(&self) -> usize {
        self.budget
    }

    /// A buffer whose chunks, by partition and end offset, have become part of their logs.
    pub fn note(&mut self, buffer: &Bytes, chunks: Vec<(PartitionId, i64)>) {
        if chunks.is_empty() {
            return;
        }
        let start = buffer.as_ptr() as usize;
        self.hold(Held { memory: start..start + buffer.len(), bytes: capacity_for(buffer.len()), chunks });
    }

    fn hold(&mut self, held: Held) {
        self.bytes += held.bytes;
        self.held.push_back(held);
    }

    /// Lets the oldest buffers go while there is more than the budget allows, looking at `most` of them.
    pub fn evict(&mut self, most: usize, log_of: impl Fn(PartitionId) -> Option<SharedLog>) -> usize {
        let before = self.bytes;
        for _ in 0..most.min(self.held.len()) {
            if self.bytes <= self.budget {
                break;
            }
            let held = self.held.pop_front().expect("so many are held");
            self.bytes -= held.bytes;
            self.let_go(held, &log_of);
        }
        before.saturating_sub(self.bytes)
    }

    /// Forgets what is held for partitions that are gone.
    pub fn forget_gone(&mut self, is_gone: impl Fn(PartitionId) -> bool) {
        self.held.retain_mut(|held| {
            held.chunks.retain(|(id, _)| !is_gone(*id));
            let stays = !held.chunks.is_empty();
            self.bytes -= if stays { 0 } else { held.bytes };
            stays
        });
    }

    fn let_go(&mut self, mut held: Held, log_of: &impl Fn(PartitionId) -> Option<SharedLog>) {
        let mut pinned_bytes = 0;
        held.chunks.retain(|(id, end_offset)| {
            let Some(log) = log_of(*id) else { return false };
            let mut log = log.borrow_mut();
            log.evict_before(*end_offset);
            let pinned = log.pinned_in(&held.memory, *end_offset);
            pinned_bytes += pinned.unwrap_or(0);
            pinned.is_some()
        });
        if held.chunks.is_empty() {
            return;
        }
        if held.memory.is_empty() {
            // Copies, each in memory of its own: what is left of them is what they take.
            held.bytes = pinned_bytes;
            return self.hold(held);
        }
        if 2 * pinned_bytes > held.bytes {
            return self.hold(held);
        }
        for (id, end_offset) in &held.chunks {
            if let Some(log) = log_of(*id) {
                log.borrow_mut().copy_out(&held.memory, *end_offset);
            }
        }
        self.hold(Held { memory: 0..0, bytes: pinned_bytes, chunks: held.chunks });
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::rc::Rc;
    use std::sync::{Arc, Weak};

    use super::*;
    use crate::io::buffer::Buffer;
    use crate::log::Log;
    use crate::log::group::{Entry, EntryKind};
    use crate::log::partition_log::LogRecord;
    use crate::protocol::Uuid;

    const GROUP: usize = 64 << 10;

    /// Logs whose chunks share buffers as those of journal groups do.
    struct Bench {
        cache: TailCache,
        logs: BTreeMap<PartitionId, SharedLog>,
        /// What tells whether a group's memory is still in use.
        groups: Vec<Weak<()>>,
    }

    /// A buffer that is told of.
    struct Watched {
        buffer: Buffer,
        _alive: Arc<()>,
    }

    impl AsRef<[u8]> for Watched {
        fn as_ref(&self) -> &[u8] {
            &self.buffer
        }
    }

    fn id(partition: i32) -> PartitionId {
        PartitionId { topic_id: Uuid([7; 16]), partition }
    }

    impl Bench {
        fn new(budget: usize) -> Bench {
            Bench { cache: TailCache::new(budget), logs: BTreeMap::new(), groups: Vec::new() }
        }

        /// A group with so many bytes of each of these partitions has become durable.
        fn group(&mut self, parts: &[(i32, usize)]) {
            let alive = Arc::new(());
            self.groups.push(Arc::downgrade(&alive));
            let buffer = Bytes::from_owner(Watched { buffer: Buffer::zeroed(GROUP), _alive: alive });
            let (mut chunks, mut at) = (Vec::new(), 0);
            for (partition, len) in parts {
                let id = id(*partition);
                let log = self.logs.entry(id).or_insert_with(|| {
                    Rc::new(RefCell::new(Log::restore(LogRecord::new(id), "/t".into(), Default::default())))
                });
                let base_offset = log.borrow().durable_end_offset();
                let entry = Entry {
                    kind: EntryKind::Append,
                    id,
                    ownership: 0,
                    base_offset,
                    end_offset: base_offset + 1,
                    leader_epoch: 0,
                    length: *len as u32,
                    crc: 0,
                };
                log.borrow_mut().on_durable(&entry, buffer.slice(at..at + len), 1);
                chunks.push((id, base_offset + 1));
                at += len;
            }
            self.cache.note(&buffer, chunks);
        }

        fn drained(&self, partition: i32) {
            let mut log = self.logs[&id(partition)].borrow_mut();
            log.drained_end_offset = log.durable_end_offset();
        }

        fn evict(&mut self, most: usize) {
            let logs = &self.logs;
            self.cache.evict(most, |id| logs.get(&id).cloned());
        }

        fn groups_in_memory(&self) -> usize {
            self.groups.iter().filter(|group| group.strong_count() > 0).count()
        }
    }

    #[test]
    fn an_idle_partition_keeps_nothing_but_its_own_few_bytes() {
        let mut bench = Bench::new(4 * GROUP);
        bench.group(&[(0, 100), (1, 60_000)]);
        for _ in 0..100 {
            bench.group(&[(1, 60_000)]);
            bench.drained(1);
            bench.evict(8);
            assert!(bench.cache.bytes() <= 4 * GROUP);
        }
        assert!(bench.groups_in_memory() <= 4);
        let idle = bench.logs[&id(0)].borrow();
        assert_eq!(idle.undrained_bytes(), 100);
        assert_eq!(idle.pinned_in(&(0..0), 1), Some(100), "its record is still there");
    }

    #[test]
    fn pinned_buffers_stay_and_go_when_they_are_drained() {
        let mut bench = Bench::new(2 * GROUP);
        for _ in 0..10 {
            bench.group(&[(0, 60_000)]);
            bench.evict(64);
        }
        assert_eq!(bench.groups_in_memory(), 10, "nothing of it is in a segment");
        bench.drained(0);
        bench.evict(64);
        assert_eq!(bench.groups_in_memory(), 2);
        assert!(bench.cache.bytes() <= 2 * GROUP);
    }

    #[test]
    fn what_many_idle_partitions_share_is_counted_until_it_is_drained_or_gone() {
        let mut bench = Bench::new(GROUP);
        for partition in 0..50 {
            bench.group(&[(partition, 200), (1_000, 60_000)]);
            bench.drained(1_000);
            bench.evict(usize::MAX);
        }
        assert_eq!(bench.groups_in_memory(), 0, "their records were copied out");
        assert_eq!(bench.cache.bytes(), 50 * 200);
        let gone = |id: PartitionId| id.partition < 30;
        bench.logs.retain(|id, _| !gone(*id));
        bench.cache.forget_gone(gone);
        assert_eq!(bench.cache.bytes(), 20 * 200);
        bench.cache.forget_gone(|_| true);
        assert_eq!(bench.cache.bytes(), 0);
    }
}
