//! What an error of the disk means for whoever meets it.
//!
//! Three kinds call for three answers. A *lack* (of space, descriptors, memory) passes: the work is put off and tried
//! again. A failed *flush* voids what was written before it, also if a later flush succeeds (Rebello et al., "Can
//! Applications Recover from fsync Failures?", 2020): whoever relies on it leaves and recovers from disk. Everything
//! else is the fault of the one *file* that was touched, and costs what that file holds.

use std::fmt;
use std::io;

/// What an error means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFault {
    /// The machine has too little of something; nothing is broken.
    Lack(Lack),
    /// A flush has failed: what was written before it is void.
    Flush,
    /// The file is missing, shorter than it was, or cannot be read or written.
    File,
}

/// What a machine may have too little of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// ENOSPC, EDQUOT.
    Space,
    /// EMFILE, ENFILE.
    Descriptors,
    /// ENOMEM, ENOBUFS.
    Memory,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Lack::Space => "space on the disk",
            Lack::Descriptors => "file descriptors",
            Lack::Memory => "memory",
        })
    }
}

/// A flush's error, with the one that the kernel gave.
#[derive(Debug, thiserror::Error)]
#[error("a flush failed: {0}")]
struct FlushFailed(io::Error);

/// Marks an error as that of a flush. It is one whatever its code says, ENOSPC included.
pub(crate) fn of_flush(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), FlushFailed(error))
}

/// Marks an error of a write that flushes as it writes (RWF_DSYNC). A lack was met before anything was written.
pub(super) fn of_durable_write(error: io::Error) -> io::Error {
    match DiskFault::of(&error) {
        DiskFault::Lack(_) => error,
        _ => of_flush(error),
    }
}

impl DiskFault {
    /// What the error means.
    pub fn of(error: &io::Error) -> DiskFault {
        let is_flush = error.get_ref().is_some_and(|inner| inner.is::<FlushFailed>());
        if is_flush {
            return DiskFault::Flush;
        }
        if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return DiskFault::Lack(Lack::Space);
        }
        match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => DiskFault::Lack(Lack::Descriptors),
            Some(libc::ENOMEM | libc::ENOBUFS) => DiskFault::Lack(Lack::Memory),
            _ if error.kind() == io::ErrorKind::OutOfMemory => DiskFault::Lack(Lack::Memory),
            _ => DiskFault::File,
        }
    }

    /// Whether it is one file's fault alone.
    pub fn is_of_file(error: &io::Error) -> bool {
        DiskFault::of(error) == DiskFault::File
    }

    /// What there is too little of, if that is what the error says.
    pub fn lack(error: &io::Error) -> Option<Lack> {
        match DiskFault::of(error) {
            DiskFault::Lack(lack) => Some(lack),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_is_no_broken_disk_and_a_flush_is_a_flush_whatever_its_code() {
        let of = |code| DiskFault::of(&io::Error::from_raw_os_error(code));
        assert_eq!(of(libc::ENOSPC), DiskFault::Lack(Lack::Space));
        assert_eq!(of(libc::EDQUOT), DiskFault::Lack(Lack::Space));
        assert_eq!(of(libc::EMFILE), DiskFault::Lack(Lack::Descriptors));
        assert_eq!(of(libc::ENFILE), DiskFault::Lack(Lack::Descriptors));
        assert_eq!(of(libc::ENOMEM), DiskFault::Lack(Lack::Memory));
        assert_eq!(of(libc::EIO), DiskFault::File);
        assert_eq!(of(libc::ENOENT), DiskFault::File);
        let flush = |code| DiskFault::of(&of_flush(io::Error::from_raw_os_error(code)));
        assert_eq!(flush(libc::EIO), DiskFault::Flush);
        assert_eq!(flush(libc::ENOSPC), DiskFault::Flush);
        let durable = |code| DiskFault::of(&of_durable_write(io::Error::from_raw_os_error(code)));
        assert_eq!(durable(libc::ENOSPC), DiskFault::Lack(Lack::Space));
        assert_eq!(durable(libc::EIO), DiskFault::Flush);
    }
}
