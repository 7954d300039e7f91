//! Partitions that are gone, and their files.
//!
//! A log is dropped from memory first; then its directory gets a name that no topic can have, so that its own is free
//! at once; when that is on stable storage, the change of topics is answered. The files are unlinked behind it, which
//! for many or large ones takes seconds. The invariant: what a crash leaves under such a name the next start removes.

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use super::Shard;
use crate::controller::MetadataImage;
use crate::io::Io;
use crate::io::fault::DiskFault;
use crate::log::PartitionId;
use crate::log::drain::SharedLog;
use crate::protocol::ErrorCode;

/// How long it is left alone until what the machine had too little of is tried again.
const LACK_PAUSE: Duration = Duration::from_millis(100);

impl Shard {
    /// Gives up the partitions that the image does not have. Their names are free when this returns.
    pub(super) async fn remove_gone(&self, image: &MetadataImage) -> io::Result<()> {
        let is_gone = |id: &PartitionId| !image.topics.contains_key(&id.topic_id);
        let gone: Vec<PartitionId> = self.partitions.borrow().keys().copied().filter(is_gone).collect();
        let logs: Vec<(PartitionId, SharedLog)> = gone.into_iter().filter_map(|id| self.take_away(id)).collect();
        self.started.ring();
        let mut doomed = Vec::with_capacity(logs.len());
        for (id, log) in logs {
            self.drained.until(|| (!log.borrow().is_draining()).then_some(())).await;
            self.opened.forget(id);
            self.removed.borrow_mut().push(id);
            self.has_gone.set(true);
            let dir = log.borrow().dir().to_owned();
            let renamed = self.data_dir.join(format!("{id}-delete"));
            match self.despite_lacks(async || self.io.rename(&dir, &renamed).await).await {
                // Nothing of it has reached a segment yet.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result.map(|()| doomed.push(renamed))?,
            }
        }
        if !doomed.is_empty() {
            self.despite_lacks(async || self.io.sync_dir(&self.data_dir).await).await?;
            self.doomed.borrow_mut().extend(doomed);
            self.doomed_bell.ring();
        }
        Ok(())
    }

    /// Nobody finds the partition any more, and who waits for it is told.
    fn take_away(&self, id: PartitionId) -> Option<(PartitionId, SharedLog)> {
        let mut partition = self.partitions.borrow_mut().remove(&id)?;
        partition.close(ErrorCode::UnknownTopicOrPartition);
        self.count_gone(id);
        self.coordinators.close(id);
        self.shares.close(id);
        let log = partition.log.clone();
        log.borrow_mut().mark_deleted();
        Some((id, log))
    }

    /// Unlinks what has been renamed, for ever. What cannot be unlinked only takes room: it is tried again at the next
    /// start.
    pub(super) async fn unlink_doomed(self: Rc<Shard>) {
        loop {
            let dir: PathBuf = self.doomed_bell.until(|| self.doomed.borrow_mut().pop_front()).await;
            if let Err(error) = self.despite_lacks(async || remove_dir_with_files(&self.io, &dir).await).await {
                tracing::warn!("{} could not be removed: {error}", dir.display());
            }
        }
    }

    /// Does `work` again as long as it only lacks something.
    async fn despite_lacks(&self, work: impl AsyncFn() -> io::Result<()>) -> io::Result<()> {
        loop {
            match work().await {
                Err(error) if matches!(DiskFault::of(&error), DiskFault::Lack(_)) && !self.failure.is_set() => {
                    tracing::debug!("the removal of a partition waits: {error}");
                    self.io.sleep(LACK_PAUSE).await;
                }
                result => return result,
            }
        }
    }
}

/// Renames a partition's directory, so that its name is free at once, and removes what is in it.
pub(super) async fn remove_partition_dir(io: &Io, data_dir: &Path, dir: &Path, renamed: &str) -> io::Result<()> {
    let doomed = data_dir.join(renamed);
    match io.rename(dir, &doomed).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result?,
    }
    io.sync_dir(data_dir).await?;
    remove_dir_with_files(io, &doomed).await
}

/// Removes a directory and the files in it; it holds no directories.
pub(super) async fn remove_dir_with_files(io: &Io, dir: &Path) -> io::Result<()> {
    for entry in io.read_dir(dir).await? {
        io.remove_file(&dir.join(entry.name)).await?;
    }
    io.remove_dir(dir).await
}
