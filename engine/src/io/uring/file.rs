//! Files, all opened for direct I/O.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::rc::Rc;

use bytes::Bytes;

use super::{Core, descriptor};
use crate::io::OpenMode;
use crate::io::buffer::Buffer;
use crate::io::ring::op::{self, Op};
use crate::io::ring::system;

/// Most bytes that Linux reads or writes at once.
const MOST_AT_ONCE: usize = 0x7fff_f000;

/// An open file; clones share it.
#[derive(Clone)]
pub struct UringFile {
    core: Rc<Core>,
    file: Rc<fs::File>,
}

/// See [`crate::io::Io::open`].
pub(super) async fn open(core: &Rc<Core>, path: &Path, mode: OpenMode) -> io::Result<UringFile> {
    let flags = match mode {
        OpenMode::Read => libc::O_RDONLY,
        OpenMode::ReadWrite => libc::O_RDWR,
        OpenMode::Create => libc::O_RDWR | libc::O_CREAT,
        OpenMode::CreateNew => libc::O_RDWR | libc::O_CREAT | libc::O_EXCL,
    };
    let name = system::path(path)?;
    let (result, _) = core.start(Op::Open { path: name, flags: flags | libc::O_DIRECT }).await;
    let opened = op::opened(result.map_err(|error| explain_direct(error, path))?);
    Ok(UringFile { core: core.clone(), file: Rc::new(fs::File::from(opened)) })
}

/// Says what EINVAL means at an open: a filesystem without direct I/O.
fn explain_direct(error: io::Error, path: &Path) -> io::Error {
    if error.raw_os_error() != Some(libc::EINVAL) {
        return error;
    }
    let place = path.display();
    let sentence = format!(
        "{place}: the filesystem does not support direct I/O (O_DIRECT); put the data directory on ext4 or XFS"
    );
    io::Error::new(io::ErrorKind::Unsupported, sentence)
}

impl UringFile {
    /// Fills `buffer`, or less.
    pub(in crate::io) async fn read_once(&self, position: u64, buffer: Buffer) -> (io::Result<usize>, Buffer) {
        assert!(buffer.len() <= MOST_AT_ONCE, "a read of less than 2 GiB");
        let file = descriptor(&self.file);
        match self.core.start(Op::Read { file, position, buffer }).await {
            (result, Op::Read { buffer, .. }) => (result, buffer),
            _ => unreachable!("an operation comes back as it went"),
        }
    }

    /// Writes `bytes`, or less; to stable storage if `durable`.
    pub(in crate::io) async fn write_once(&self, position: u64, bytes: Bytes, durable: bool) -> io::Result<usize> {
        assert!(bytes.len() <= MOST_AT_ONCE, "a write of less than 2 GiB");
        let file = descriptor(&self.file);
        self.core.start(Op::Write { file, position, bytes, durable }).await.0
    }

    /// See [`crate::io::File::sync`].
    pub async fn sync(&self) -> io::Result<()> {
        self.core.start(Op::Sync { file: descriptor(&self.file), metadata: false }).await.0.map(|_| ())
    }

    /// See [`crate::io::File::allocate`].
    pub async fn allocate(&self, position: u64, len: u64) -> io::Result<()> {
        self.core.start(Op::Allocate { file: descriptor(&self.file), position, len }).await.0.map(|_| ())
    }

    /// See [`crate::io::File::truncate`]. It blocks for the change of metadata: the ring's operation for
    /// this came with Linux 6.9 only.
    pub async fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    /// See [`crate::io::File::len`].
    pub async fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// See [`crate::io::File::try_lock`].
    pub fn try_lock(&self) -> io::Result<bool> {
        match self.file.try_lock() {
            Ok(()) => Ok(true),
            Err(fs::TryLockError::WouldBlock) => Ok(false),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

impl std::fmt::Debug for UringFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "UringFile({})", self.file.as_raw_fd())
    }
}
