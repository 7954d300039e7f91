//! Room on the disk that is kept for the next start.
//!
//! A start writes what was in no segment into journal files of its own before it can give the old ones back. On a disk
//! that ran full it could not, and nobody could delete a topic to make room. So a file beside the journal holds as much
//! room as that takes; a start that finds less than this free removes it first, and makes it again at its end.

use std::io;
use std::path::{Path, PathBuf};

use crate::io::fault::DiskFault;
use crate::io::{Io, OpenMode};

const NAME: &str = "reserve";

/// The reserve of one journal.
pub struct Reserve {
    io: Io,
    dir: PathBuf,
    bytes: u64,
}

impl Reserve {
    /// That of the journal in `dir`, of so many bytes.
    pub fn new(io: &Io, dir: &Path, bytes: u64) -> Reserve {
        Reserve { io: io.clone(), dir: dir.to_owned(), bytes }
    }

    /// Gives the room to the start that is under way, unless there is enough without it.
    pub async fn give_up_if_needed(&self) -> io::Result<()> {
        let (_, available) = self.io.disk_space(&self.dir).await?;
        if available >= self.bytes {
            return Ok(());
        }
        match self.io.remove_file(&self.dir.join(NAME)).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => {
                tracing::warn!(
                    available,
                    reserve = self.bytes,
                    "the disk is nearly full: this start takes the room that was kept for it"
                );
                self.io.sync_dir(&self.dir).await
            }
        }
    }

    /// Keeps the room, as much of it as there is: without it all goes well until the disk is full.
    pub async fn keep(&self) {
        if let Err(error) = self.allocate().await {
            let what = "no room could be kept for the next start; if the disk runs full, free some before it";
            match DiskFault::lack(&error) {
                Some(_) => tracing::warn!("{what}: {error}"),
                None => tracing::error!("{what}: {error}"),
            }
        }
    }

    async fn allocate(&self) -> io::Result<()> {
        let path = self.dir.join(NAME);
        let file = self.io.open(&path, OpenMode::Create).await?;
        let held = file.len().await?;
        if held > self.bytes {
            file.truncate(self.bytes).await?;
        }
        let result = match self.bytes.checked_sub(held) {
            None | Some(0) => Ok(()),
            Some(missing) => file.allocate(held, missing).await,
        };
        match result {
            // Not every filesystem can keep room.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            result => result,
        }
    }
}
