//! The one seam to the world: clock, chance, disk, network, tasks, and the mailboxes between cores.
//!
//! Everything above this module reaches the world through an [`Io`], a concrete handle with two backends:
//! [`uring`], a glommio executor with an io_uring of its own per core, and [`sim`], a seeded simulation.
//! The invariant: given the same answers from here, the rest of the engine does the same things.
//! This module does not know what the bytes mean.
//!
//! An operation owns its buffers until its completion has arrived, also when its future is dropped.

pub mod buffer;
pub mod fault;
pub mod local;
pub mod mailbox;
mod pace;
mod ring;
pub mod sim;
pub mod uring;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};

use crate::stats::CoreStats;
use buffer::{BLOCK, Buffer};

pub use pace::{BYTES_PER_COST, Pace, TURN};

/// A point of the monotonic clock, in nanoseconds since an origin that only the backend knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// The time from `earlier` to `self`; zero if `earlier` is later.
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, duration: Duration) -> Instant {
        Instant(self.0.saturating_add(duration.as_nanos() as u64))
    }
}

/// Classes of work; each has its share of a core (design: foreground, replication, catch-up, background).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Connections, the shard's loop, the journal.
    Foreground,
    /// Replication links and the metadata log.
    Replication,
    /// Reads of consumers that are behind the tail cache.
    CatchUp,
    /// Draining the journal, checkpoints, retention, compaction, scrub.
    Background,
}

/// How a file is opened. All files are opened for direct I/O.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Existing, for reading.
    Read,
    /// Existing, for reading and writing.
    ReadWrite,
    /// Made if absent, for reading and writing.
    Create,
    /// Made; it is an error (`AlreadyExists`) if there is one.
    CreateNew,
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// The name within its directory. Names that are not UTF-8 are not listed: none of ours is such.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// A core's handle to the world. Cheap to clone; stays on its core.
#[derive(Clone)]
pub struct Io(Backend, Arc<CoreStats>);

#[derive(Clone)]
enum Backend {
    Uring(uring::UringIo),
    Sim(sim::SimIo),
}

/// Calls the backend's method of the same name.
macro_rules! backend {
    ($self:ident, $enum:ident, $io:ident => $call:expr) => {
        match &$self.0 {
            $enum::Uring($io) => $call,
            $enum::Sim($io) => $call,
        }
    };
}

impl From<uring::UringIo> for Io {
    fn from(io: uring::UringIo) -> Io {
        Io(Backend::Uring(io), Arc::default())
    }
}

impl From<sim::SimIo> for Io {
    fn from(io: sim::SimIo) -> Io {
        Io(Backend::Sim(io), Arc::default())
    }
}

impl Io {
    /// This core's index among the cores that were started together, from 0.
    pub fn core(&self) -> usize {
        backend!(self, Backend, io => io.core())
    }

    /// What this core counts. Any thread may read it.
    pub fn stats(&self) -> &Arc<CoreStats> {
        &self.1
    }

    /// The monotonic clock. The only clock that the engine's decisions may use.
    pub fn now(&self) -> Instant {
        backend!(self, Backend, io => io.now())
    }

    /// The wall clock in milliseconds since 1970; it may jump either way. For timestamps alone.
    pub fn wall_clock_ms(&self) -> i64 {
        backend!(self, Backend, io => io.wall_clock_ms())
    }

    /// 64 random bits: unpredictable in production, from the seed in simulation.
    pub fn random_u64(&self) -> u64 {
        backend!(self, Backend, io => io.random_u64())
    }

    /// Completes `duration` from now, never earlier.
    pub async fn sleep(&self, duration: Duration) {
        backend!(self, Backend, io => io.sleep(duration).await)
    }

    /// Completes at `deadline` or at once when that has passed.
    pub async fn sleep_until(&self, deadline: Instant) {
        let remaining = deadline.since(self.now());
        if !remaining.is_zero() {
            self.sleep(remaining).await;
        }
    }

    /// Runs `future` on this core, detached, in its class.
    pub fn spawn(&self, class: Class, future: impl Future<Output = ()> + 'static) {
        backend!(self, Backend, io => io.spawn(class, future))
    }

    /// Lets the core's other ready tasks run before this one goes on.
    pub async fn yield_now(&self) {
        backend!(self, Backend, io => io.yield_now().await)
    }

    /// Tells the simulation what this task does in its turn; see [`Pace`].
    fn note_work(&self, cost: usize) {
        if let Backend::Sim(io) = &self.0 {
            io.note_work(cost);
        }
    }

    /// Completes when the process has been asked to stop (SIGTERM or SIGINT). Waited for on one core.
    pub async fn terminated(&self) {
        backend!(self, Backend, io => io.terminated().await)
    }

    /// Opens a file for direct I/O. A made file is on stable storage only after [`File::sync`] and
    /// [`Io::sync_dir`] of its directory.
    pub async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<File> {
        Ok(File(match &self.0 {
            Backend::Uring(io) => FileBackend::Uring(io.open(path, mode).await?),
            Backend::Sim(io) => FileBackend::Sim(io.open(path, mode).await?),
        }))
    }

    /// Makes a directory (mode 0700); `AlreadyExists` if there is one.
    pub async fn create_dir(&self, path: &Path) -> io::Result<()> {
        backend!(self, Backend, io => io.create_dir(path).await)
    }

    /// The directory's entries, sorted by name.
    pub async fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = backend!(self, Backend, io => io.read_dir(path).await)?;
        entries.sort();
        Ok(entries)
    }

    /// Renames a file or directory; an existing file at `to` is replaced. Durable after [`Io::sync_dir`].
    pub async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        backend!(self, Backend, io => io.rename(from, to).await)
    }

    /// Removes a file. Durable after [`Io::sync_dir`].
    pub async fn remove_file(&self, path: &Path) -> io::Result<()> {
        backend!(self, Backend, io => io.remove_file(path).await)
    }

    /// Removes an empty directory. Durable after [`Io::sync_dir`] of its parent.
    pub async fn remove_dir(&self, path: &Path) -> io::Result<()> {
        backend!(self, Backend, io => io.remove_dir(path).await)
    }

    /// Makes the directory's entries durable.
    pub async fn sync_dir(&self, path: &Path) -> io::Result<()> {
        backend!(self, Backend, io => io.sync_dir(path).await)
    }

    /// (total, available) bytes of the filesystem that holds `path`.
    pub async fn disk_space(&self, path: &Path) -> io::Result<(u64, u64)> {
        backend!(self, Backend, io => io.disk_space(path).await)
    }

    /// Listens on `address`; port 0 takes a free one.
    pub async fn listen(&self, address: SocketAddr) -> io::Result<Listener> {
        Ok(Listener(match &self.0 {
            Backend::Uring(io) => ListenerBackend::Uring(io.listen(address).await?),
            Backend::Sim(io) => ListenerBackend::Sim(io.listen(address).await?),
        }))
    }

    /// Connects to `address`.
    pub async fn connect(&self, address: SocketAddr) -> io::Result<Stream> {
        Ok(Stream(match &self.0 {
            Backend::Uring(io) => StreamBackend::Uring(io.connect(address).await?),
            Backend::Sim(io) => StreamBackend::Sim(io.connect(address).await?),
        }))
    }

    /// Takes over a connection that another core detached.
    ///
    /// # Panics
    /// If it comes from another backend.
    pub fn adopt(&self, stream: DetachedStream) -> Stream {
        Stream(match (&self.0, stream.0) {
            (Backend::Uring(io), DetachedBackend::Uring(stream)) => StreamBackend::Uring(io.adopt(stream)),
            (Backend::Sim(io), DetachedBackend::Sim(stream)) => StreamBackend::Sim(io.adopt(stream)),
            _ => unreachable!("a stream is adopted by the backend that made it"),
        })
    }

    /// Puts the message that `letterbox` was given by this core within reach of core `to`.
    fn deliver(&self, to: usize, letterbox: std::sync::Arc<dyn mailbox::Letterbox>) {
        backend!(self, Backend, io => io.deliver(to, letterbox))
    }
}

/// An open file. Clones share it; it is closed with the last one.
#[derive(Clone)]
pub struct File(FileBackend);

#[derive(Clone)]
enum FileBackend {
    Uring(uring::UringFile),
    Sim(sim::SimFile),
}

/// How often a block that cannot be read is asked for again, and how long after.
const READ_RETRIES: usize = 3;
const READ_RETRY_PAUSE: Duration = Duration::from_millis(10);

/// Whether an operation that failed in this way is simply done again.
fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

impl File {
    /// Reads `len` bytes (whole blocks) at `position` (a whole block). Shorter only at the file's end.
    pub async fn read_at(&self, position: u64, len: usize) -> io::Result<Buffer> {
        assert_aligned(position, len);
        let mut whole = self.read_blocks(position, len).await?;
        while whole.len() < len {
            // A short read may end inside a block; direct I/O goes on from that block's start.
            let done = buffer::round_down(whole.len());
            let more = self.read_blocks(position + done as u64, len - done).await?;
            if done + more.len() <= whole.len() {
                // No progress: the file's end, or a second short read inside the same block.
                if self.len().await? <= position + whole.len() as u64 {
                    break;
                }
                continue;
            }
            whole.set_len(done);
            whole.extend_from_slice(&more);
        }
        Ok(whole)
    }

    /// As [`File::read_at`], but what cannot be read comes back as zeros, block by block, with the positions of these
    /// blocks. A block counts as unreadable when several tries have failed: an error may pass.
    pub async fn read_around_faults(&self, io: &Io, position: u64, len: usize) -> io::Result<(Buffer, Vec<u64>)> {
        let mut unreadable = Vec::new();
        match self.read_at(position, len).await {
            Err(error) if fault::DiskFault::is_of_file(&error) => {}
            result => return result.map(|whole| (whole, unreadable)),
        }
        let len = len.min(buffer::round_up(self.len().await?.saturating_sub(position) as usize));
        let mut whole = Buffer::with_capacity(len);
        for block in (position..position + len as u64).step_by(BLOCK) {
            match self.read_patiently(io, block).await {
                Ok(bytes) => whole.extend_from_slice(&bytes),
                Err(error) if fault::DiskFault::is_of_file(&error) => {
                    tracing::error!(block, "a block cannot be read: {error}");
                    unreadable.push(block);
                    whole.extend_from_slice(&[0; BLOCK]);
                }
                Err(error) => return Err(error),
            }
        }
        Ok((whole, unreadable))
    }

    async fn read_patiently(&self, io: &Io, block: u64) -> io::Result<Buffer> {
        let mut result = self.read_at(block, BLOCK).await;
        for _ in 0..READ_RETRIES {
            if !result.as_ref().is_err_and(fault::DiskFault::is_of_file) {
                break;
            }
            io.sleep(READ_RETRY_PAUSE).await;
            result = self.read_at(block, BLOCK).await;
        }
        result
    }

    async fn read_blocks(&self, position: u64, len: usize) -> io::Result<Buffer> {
        loop {
            let mut buffer = Buffer::with_capacity(len);
            buffer.set_len(len);
            let (result, mut buffer) = backend!(self, FileBackend, file => file.read_once(position, buffer).await);
            match result {
                Ok(read) => {
                    assert!(read <= len, "a read returns no more than was asked for");
                    buffer.set_len(read);
                    return Ok(buffer);
                }
                Err(error) if is_transient(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes all of `bytes` (whole blocks, in aligned memory) at `position` (a whole block).
    pub async fn write_at(&self, position: u64, bytes: Bytes) -> io::Result<()> {
        self.write_all(position, bytes, false).await
    }

    /// As [`File::write_at`], and complete only when the bytes are on stable storage (RWF_DSYNC).
    pub async fn write_durable_at(&self, position: u64, bytes: Bytes) -> io::Result<()> {
        self.write_all(position, bytes, true).await.map_err(fault::of_durable_write)
    }

    async fn write_all(&self, mut position: u64, mut bytes: Bytes, durable: bool) -> io::Result<()> {
        assert_aligned(position, bytes.len());
        assert_eq!(bytes.as_ptr() as usize % BLOCK, 0, "direct I/O writes from aligned memory");
        while !bytes.is_empty() {
            match backend!(self, FileBackend, file => file.write_once(position, bytes.clone(), durable).await) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                // The rest starts at a block again: what a short write left of its last block is rewritten.
                Ok(written) => {
                    assert!(written <= bytes.len(), "a write takes no more than it was given");
                    let whole = if written == bytes.len() { written } else { buffer::round_down(written) };
                    position += whole as u64;
                    bytes.advance(whole);
                }
                Err(error) if is_transient(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Makes all completed writes of the file durable (fdatasync). An error voids them for good: whoever
    /// sees one must not call this again and believe a later success.
    pub async fn sync(&self) -> io::Result<()> {
        backend!(self, FileBackend, file => file.sync().await).map_err(fault::of_flush)
    }

    /// Reserves space for `[position, position + len)`; the file grows to cover it.
    pub async fn allocate(&self, position: u64, len: u64) -> io::Result<()> {
        backend!(self, FileBackend, file => file.allocate(position, len).await)
    }

    /// Cuts or extends the file to exactly `len` bytes.
    pub async fn truncate(&self, len: u64) -> io::Result<()> {
        backend!(self, FileBackend, file => file.truncate(len).await)
    }

    /// The file's length in bytes.
    pub async fn len(&self) -> io::Result<u64> {
        backend!(self, FileBackend, file => file.len().await)
    }

    /// Takes the exclusive lock (flock) that lives as long as this open file; false if another holds it.
    pub fn try_lock(&self) -> io::Result<bool> {
        backend!(self, FileBackend, file => file.try_lock())
    }
}

fn assert_aligned(position: u64, len: usize) {
    assert_eq!(position % BLOCK as u64, 0, "direct I/O starts at a block");
    assert_eq!(len % BLOCK, 0, "direct I/O moves whole blocks");
}

/// A listening socket.
pub struct Listener(ListenerBackend);

enum ListenerBackend {
    Uring(uring::UringListener),
    Sim(sim::SimListener),
}

impl Listener {
    /// The next connection and its peer's address.
    pub async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        match &self.0 {
            ListenerBackend::Uring(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Stream(StreamBackend::Uring(stream)), peer))
            }
            ListenerBackend::Sim(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Stream(StreamBackend::Sim(stream)), peer))
            }
        }
    }

    /// The address that it listens on.
    pub fn local_address(&self) -> SocketAddr {
        backend!(self, ListenerBackend, listener => listener.local_address())
    }
}

/// A connection: a byte stream each way. Clones share it; it is closed with the last one.
#[derive(Clone)]
pub struct Stream(StreamBackend);

#[derive(Clone)]
enum StreamBackend {
    Uring(uring::UringStream),
    Sim(sim::SimStream),
}

/// A connection on its way from one core to another.
pub struct DetachedStream(DetachedBackend);

enum DetachedBackend {
    Uring(uring::DetachedUringStream),
    Sim(sim::DetachedSimStream),
}

impl Stream {
    /// Reads what has arrived into the spare capacity of `buffer`, which it extends; 0 bytes mean that the
    /// peer has closed. The buffer comes back whatever happens.
    ///
    /// # Panics
    /// If the buffer has no spare capacity.
    pub async fn read(&self, buffer: BytesMut) -> (io::Result<usize>, BytesMut) {
        self.read_up_to(buffer, usize::MAX).await
    }

    /// As [`Stream::read`], but `most` bytes at most.
    ///
    /// # Panics
    /// If the buffer has no spare capacity, or `most` is 0.
    pub async fn read_up_to(&self, mut buffer: BytesMut, most: usize) -> (io::Result<usize>, BytesMut) {
        assert!(buffer.capacity() > buffer.len() && most > 0, "a read needs room");
        loop {
            let result;
            (result, buffer) = backend!(self, StreamBackend, stream => stream.read_once(buffer, most).await);
            match result {
                Err(error) if is_transient(&error) => {}
                result => return (result, buffer),
            }
        }
    }

    /// Writes all of `chunks`, in order.
    pub async fn write(&self, mut chunks: Vec<Bytes>) -> io::Result<()> {
        chunks.retain(|chunk| !chunk.is_empty());
        while !chunks.is_empty() {
            let result;
            (result, chunks) = backend!(self, StreamBackend, stream => stream.write_once(chunks).await);
            match result {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => advance(&mut chunks, written),
                Err(error) if is_transient(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Ends both directions; reads and writes under way complete.
    pub fn shutdown(&self) {
        backend!(self, StreamBackend, stream => stream.shutdown())
    }

    /// Gives the connection up to another core; `None` if clones of it are still in use.
    pub fn detach(self) -> Option<DetachedStream> {
        Some(DetachedStream(match self.0 {
            StreamBackend::Uring(stream) => DetachedBackend::Uring(stream.detach()?),
            StreamBackend::Sim(stream) => DetachedBackend::Sim(stream.detach()?),
        }))
    }
}

/// Drops the first `written` bytes of `chunks`.
fn advance(chunks: &mut Vec<Bytes>, mut written: usize) {
    let mut whole = 0;
    for chunk in chunks.iter_mut() {
        if written < chunk.len() {
            chunk.advance(written);
            break;
        }
        written -= chunk.len();
        whole += 1;
    }
    chunks.drain(..whole);
}
