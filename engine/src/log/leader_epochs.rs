//! Which leader epoch began at which offset (KIP-101, KIP-279).
//!
//! Invariant: epochs and start offsets both grow strictly. Derived from the batches, so it is as durable as
//! they are.

use bytes::{Buf, BufMut};

/// The epochs of a log, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaderEpochs(Vec<(i32, i64)>);

impl LeaderEpochs {
    /// Notes that `epoch` is in force from `start_offset` on; an epoch that is not newer changes nothing.
    pub fn assign(&mut self, epoch: i32, start_offset: i64) {
        if self.latest().is_some_and(|latest| latest >= epoch) {
            return;
        }
        // An epoch in which nothing was written leaves no trace.
        while self.0.last().is_some_and(|(_, start)| *start >= start_offset) {
            self.0.pop();
        }
        self.0.push((epoch, start_offset));
    }

    /// The newest epoch.
    pub fn latest(&self) -> Option<i32> {
        self.0.last().map(|(epoch, _)| *epoch)
    }

    /// The epoch that wrote `offset`.
    pub fn epoch_of(&self, offset: i64) -> Option<i32> {
        self.0.iter().rev().find(|(_, start)| *start <= offset).map(|(epoch, _)| *epoch)
    }

    /// The largest epoch not above `epoch` and the offset where it ends; (−1, −1) if `epoch` is above all
    /// or nothing is known. An epoch below all ends where the first begins.
    pub fn end_of(&self, epoch: i32, log_end_offset: i64) -> (i32, i64) {
        match self.latest() {
            None => (-1, -1),
            Some(latest) if epoch > latest => (-1, -1),
            Some(latest) if epoch == latest => (epoch, log_end_offset),
            Some(_) => {
                let next = self.0.iter().position(|(known, _)| *known > epoch).expect("the latest epoch is above");
                let found = if next == 0 { epoch } else { self.0[next - 1].0 };
                (found, self.0[next].1)
            }
        }
    }

    /// Forgets what lies before `log_start_offset`, but for the epoch in force there.
    pub fn truncate_start(&mut self, log_start_offset: i64) {
        let keep = self.0.iter().rposition(|(_, start)| *start <= log_start_offset).unwrap_or(0);
        self.0.drain(..keep);
        if let Some(first) = self.0.first_mut() {
            first.1 = first.1.max(log_start_offset);
        }
    }

    /// The epochs that began before `offset`: those of a log that ends there.
    pub fn before(&self, offset: i64) -> LeaderEpochs {
        LeaderEpochs(self.0.iter().copied().filter(|(_, start)| *start < offset).collect())
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32_le(self.0.len() as u32);
        for (epoch, start) in &self.0 {
            out.put_i32_le(*epoch);
            out.put_i64_le(*start);
        }
    }

    pub(super) fn decode(bytes: &mut &[u8]) -> Option<LeaderEpochs> {
        let count = bytes.try_get_u32_le().ok()? as usize;
        let entry = |bytes: &mut &[u8]| Some((bytes.try_get_i32_le().ok()?, bytes.try_get_i64_le().ok()?));
        if bytes.len() < count * 12 {
            return None;
        }
        (0..count).map(|_| entry(bytes)).collect::<Option<Vec<_>>>().map(LeaderEpochs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_follow_kip_279() {
        let mut epochs = LeaderEpochs::default();
        assert_eq!(epochs.end_of(0, 0), (-1, -1));
        epochs.assign(2, 10);
        epochs.assign(5, 20);
        epochs.assign(4, 30);
        assert_eq!(epochs.end_of(1, 40), (1, 10));
        assert_eq!(epochs.end_of(2, 40), (2, 20));
        assert_eq!(epochs.end_of(3, 40), (2, 20));
        assert_eq!(epochs.end_of(5, 40), (5, 40));
        assert_eq!(epochs.end_of(6, 40), (-1, -1));
        assert_eq!((epochs.epoch_of(9), epochs.epoch_of(19), epochs.epoch_of(20)), (None, Some(2), Some(5)));
    }

    #[test]
    fn an_epoch_without_records_leaves_no_trace() {
        let mut epochs = LeaderEpochs::default();
        epochs.assign(0, 0);
        epochs.assign(1, 7);
        epochs.assign(2, 7);
        assert_eq!(epochs.end_of(1, 9), (0, 7));
        let mut bytes = Vec::new();
        epochs.encode(&mut bytes);
        assert_eq!(LeaderEpochs::decode(&mut &bytes[..]), Some(epochs));
    }
}
