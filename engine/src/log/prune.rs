//! Giving up whole segments that lie before a log's start.
//!
//! Order: the start is durable, then the log forgets the segments, then a checkpoint says so durably, and only
//! then do their files go. A crash between the last two leaves files that no checkpoint names: they go the next
//! time. It does not decide where a log starts.

use std::io;
use std::path::Path;

use super::drain::SharedLog;
use crate::io::Io;

/// Digits of the base offset that a segment's files are named after.
const NAME_DIGITS: usize = 20;

/// Removes the files of segments that the log has forgotten. A checkpoint without them is durable. Does nothing
/// while the log is drained; the caller tells who waits for that when this is over.
///
/// # Errors
/// If the directory cannot be read or a file not be removed.
pub async fn remove_old_files(io: &Io, log: &SharedLog) -> io::Result<()> {
    let (dir, first) = {
        let mut log = log.borrow_mut();
        let first = log.segments.first().map(|segment| segment.base_offset);
        let Some(first) = first.filter(|_| !log.deleted && !log.draining) else { return Ok(()) };
        // Whoever deletes the topic waits until this is over: its name may be another topic's then.
        log.draining = true;
        (log.dir.clone(), first)
    };
    let result = remove_before(io, &dir, first).await;
    log.borrow_mut().draining = false;
    result
}

async fn remove_before(io: &Io, dir: &Path, first: i64) -> io::Result<()> {
    let entries = io.read_dir(dir).await?;
    let old: Vec<_> =
        entries.iter().filter(|entry| base_offset(&entry.name).is_some_and(|base| base < first)).collect();
    for entry in &old {
        io.remove_file(&dir.join(&entry.name)).await?;
    }
    if old.is_empty() { Ok(()) } else { io.sync_dir(dir).await }
}

fn base_offset(name: &str) -> Option<i64> {
    let digits = name.split('.').next().filter(|digits| digits.len() == NAME_DIGITS)?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_segments_have_a_base_offset() {
        assert_eq!(base_offset("00000000000000000042.log"), Some(42));
        assert_eq!(base_offset("00000000000000000042.index"), Some(42));
        for other in ["partition.metadata", "42.log", "0000000000000000004x.log", ""] {
            assert_eq!(base_offset(other), None);
        }
    }
}
