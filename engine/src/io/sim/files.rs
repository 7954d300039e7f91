//! Files of a simulated process: operations that take time, fail, and go on when nobody waits for them.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;

use super::disk::{Disk, Inode};
use super::executor::{Event, Sim};
use super::faults::{FaultClass, Faults};
use super::pages::{Landing, SECTOR};
use super::random::Random;
use super::{CrashKind, SimIo};
use crate::io::buffer::{BLOCK, Buffer};
use crate::io::fault::of_flush;
use crate::io::local::{Sender, oneshot};
use crate::io::{DirEntry, OpenMode};

/// An open file; what is in flight on it keeps it, and so its lock.
pub(super) struct OpenFile {
    inode: Inode,
    writable: bool,
    /// Shared by all open files of the inode: whether one holds the lock.
    lock: Rc<Cell<bool>>,
    holds_lock: Cell<bool>,
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if self.holds_lock.get() {
            self.lock.set(false);
        }
    }
}

type Answer<T> = Sender<io::Result<T>>;

pub(super) enum Action {
    Read { position: u64, buffer: Buffer, done: Sender<(io::Result<usize>, Buffer)> },
    Write { position: u64, bytes: Bytes, landing: Landing, done: Answer<usize> },
    Sync { limit: u64, done: Answer<()> },
    Allocate { end: u64, done: Answer<()> },
    Truncate { len: u64, done: Answer<()> },
}

pub(super) enum NameAction {
    Open { path: PathBuf, mode: OpenMode, done: Answer<Rc<OpenFile>> },
    CreateDir { path: PathBuf, done: Answer<()> },
    ReadDir { path: PathBuf, done: Answer<Vec<DirEntry>> },
    Rename { from: PathBuf, to: PathBuf, done: Answer<()> },
    Remove { path: PathBuf, directory: bool, done: Answer<()> },
    SyncDir { path: PathBuf, limit: u64, done: Answer<()> },
}

pub(super) struct DiskOperation {
    node: usize,
    on: Target,
    /// The error that it is to have, if its kind can have it.
    planned: Option<i32>,
}

enum Target {
    File(Rc<OpenFile>, Action),
    Names(NameAction),
}

/// The files of a process that has ended that operations in flight keep open, and nothing else of the process does: what the
/// process's memory still names was closed with it.
#[derive(Default)]
struct Survivors(BTreeMap<*const OpenFile, Rc<OpenFile>>);

impl Survivors {
    fn adopt(&mut self, file: &Rc<OpenFile>, disk: &Disk) -> Rc<OpenFile> {
        let adopt = || {
            let lock = disk.lock_of(file.inode).unwrap_or_default();
            let holds_lock = Cell::new(file.holds_lock.get() && !lock.replace(true));
            Rc::new(OpenFile { inode: file.inode, writable: file.writable, lock, holds_lock })
        };
        self.0.entry(Rc::as_ptr(file)).or_insert_with(adopt).clone()
    }
}

/// A file opened on a simulated disk.
#[derive(Clone)]
pub struct SimFile {
    io: SimIo,
    file: Rc<OpenFile>,
}

fn os_error(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

const CODE_EIO: i32 = libc::EIO;

impl SimFile {
    async fn ask<T>(&self, action: impl FnOnce(Sender<T>) -> Action) -> T {
        let (done, answer) = oneshot();
        self.io.check_alive().await;
        self.io.sim.submit(self.io.node, Target::File(self.file.clone(), action(done)));
        match answer.await {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }

    /// One read into the whole length of `buffer`, as the kernel may answer it.
    pub async fn read_once(&self, position: u64, buffer: Buffer) -> (io::Result<usize>, Buffer) {
        assert_direct(position, buffer.as_ptr(), buffer.len());
        self.ask(|done| Action::Read { position, buffer, done }).await
    }

    /// One write, as the kernel may answer it; with `durable`, as by RWF_DSYNC.
    pub async fn write_once(&self, position: u64, bytes: Bytes, durable: bool) -> io::Result<usize> {
        assert_direct(position, bytes.as_ptr(), bytes.len());
        if !self.file.writable {
            return Err(os_error(libc::EBADF));
        }
        let landing = if durable { Landing::Durable } else { Landing::Cached };
        self.ask(|done| Action::Write { position, bytes, landing, done }).await
    }

    /// See [`crate::io::File::sync`].
    pub async fn sync(&self) -> io::Result<()> {
        let limit = self.io.sim.disks.borrow()[self.io.node].clock();
        self.ask(|done| Action::Sync { limit, done }).await
    }

    /// See [`crate::io::File::allocate`].
    pub async fn allocate(&self, position: u64, len: u64) -> io::Result<()> {
        if !self.file.writable {
            return Err(os_error(libc::EBADF));
        }
        self.ask(|done| Action::Allocate { end: position + len, done }).await
    }

    /// See [`crate::io::File::truncate`].
    pub async fn truncate(&self, len: u64) -> io::Result<()> {
        if !self.file.writable {
            return Err(os_error(libc::EINVAL));
        }
        self.ask(|done| Action::Truncate { len, done }).await
    }

    /// See [`crate::io::File::len`].
    pub async fn len(&self) -> io::Result<u64> {
        self.io.check_alive().await;
        Ok(self.io.sim.disks.borrow()[self.io.node].len(self.file.inode))
    }

    /// See [`crate::io::File::try_lock`].
    pub fn try_lock(&self) -> io::Result<bool> {
        if self.file.holds_lock.get() {
            return Ok(true);
        }
        let free = !self.file.lock.replace(true);
        self.file.holds_lock.set(free);
        Ok(free)
    }
}

/// What the kernel answers with EINVAL is a bug of ours.
fn assert_direct(position: u64, memory: *const u8, len: usize) {
    assert_eq!(position % BLOCK as u64, 0, "direct I/O starts at a block");
    assert_eq!(memory as usize % BLOCK, 0, "direct I/O needs aligned memory");
    assert_eq!(len % BLOCK, 0, "direct I/O moves whole blocks");
}

impl SimIo {
    async fn ask_names<T>(&self, action: impl FnOnce(Answer<T>) -> NameAction) -> io::Result<T> {
        let (done, answer) = oneshot();
        self.check_alive().await;
        self.sim.submit(self.node, Target::Names(action(done)));
        match answer.await {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }

    /// See [`crate::io::Io::open`].
    pub async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<SimFile> {
        let path = path.to_owned();
        let file = self.ask_names(|done| NameAction::Open { path, mode, done }).await?;
        Ok(SimFile { io: self.clone(), file })
    }

    /// See [`crate::io::Io::create_dir`].
    pub async fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.ask_names(|done| NameAction::CreateDir { path: path.to_owned(), done }).await
    }

    /// See [`crate::io::Io::read_dir`].
    pub async fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.ask_names(|done| NameAction::ReadDir { path: path.to_owned(), done }).await
    }

    /// See [`crate::io::Io::rename`].
    pub async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.ask_names(|done| NameAction::Rename { from: from.to_owned(), to: to.to_owned(), done }).await
    }

    /// See [`crate::io::Io::remove_file`].
    pub async fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.ask_names(|done| NameAction::Remove { path: path.to_owned(), directory: false, done }).await
    }

    /// See [`crate::io::Io::remove_dir`].
    pub async fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.ask_names(|done| NameAction::Remove { path: path.to_owned(), directory: true, done }).await
    }

    /// See [`crate::io::Io::sync_dir`].
    pub async fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let limit = self.sim.disks.borrow()[self.node].clock();
        self.ask_names(|done| NameAction::SyncDir { path: path.to_owned(), limit, done }).await
    }

    /// See [`crate::io::Io::disk_space`].
    pub async fn disk_space(&self, path: &Path) -> io::Result<(u64, u64)> {
        let disk = &self.sim.disks.borrow()[self.node];
        disk.resolve(path)?;
        Ok(disk.space())
    }
}

/// What the faults make of one operation.
enum Verdict {
    Proceed,
    Fail(i32),
}

impl Sim {
    fn submit(&self, node: usize, on: Target) {
        let id = {
            let mut operations = self.operations.borrow_mut();
            let id = self.next_operation.replace(self.next_operation.get() + 1);
            let size = match &on {
                Target::File(_, Action::Read { buffer, .. }) => buffer.len(),
                Target::File(_, Action::Write { bytes, .. }) => bytes.len(),
                _ => 0,
            };
            self.note(8, id, size as u64);
            let planned = self.disks.borrow_mut()[node].count_operation();
            operations.insert(id, DiskOperation { node, on, planned });
            id
        };
        let delay = self.disk_delay(node);
        self.schedule(delay, Event::Disk(id));
    }

    fn disk_delay(&self, node: usize) -> u64 {
        let faults = self.faults.borrow();
        let random = &mut self.disks.borrow_mut()[node].random;
        let usual = random.between(10_000, 150_000);
        if random.chance(faults.stall) {
            self.count(FaultClass::Stall);
            return random.between(1_000_000_000, 10_000_000_000);
        }
        if random.chance(faults.slow_disk) {
            self.count(FaultClass::SlowDisk);
            return usual * random.between(20, 1000);
        }
        usual
    }

    pub(super) fn complete_disk(&self, id: u64) {
        // A crash may have settled it already.
        let Some(operation) = self.operations.borrow_mut().remove(&id) else { return };
        let DiskOperation { node, on, planned } = operation;
        self.note(9, id, node as u64);
        let planned = planned.filter(|code| can_fail(&self.disks.borrow()[node], &on, *code));
        if planned.is_some() {
            self.count(FaultClass::Planned);
            self.note(11, id, node as u64);
        }
        match on {
            Target::File(file, action) => self.complete_file_action(node, &file, action, planned),
            Target::Names(action) => self.complete_name_action(node, action, planned),
        }
    }

    fn complete_file_action(&self, node: usize, file: &OpenFile, action: Action, planned: Option<i32>) {
        let faults = self.faults.borrow();
        let mut disks = self.disks.borrow_mut();
        let disk = &mut disks[node];
        // Each answer is sent after the borrows' end: it may drop what is waiting for it.
        match action {
            Action::Read { position, mut buffer, done } => {
                let result = match planned {
                    Some(code) => Err(os_error(code)),
                    None => self.read(&faults, disk, file, position, &mut buffer),
                };
                drop((disks, faults));
                done.send((result, buffer));
            }
            Action::Write { position, bytes, landing, done } => {
                let result = match planned {
                    Some(code) => Err(fail_write(disk, file, position, &bytes, code)),
                    None => self.write(&faults, disk, file, position, &bytes, landing),
                };
                drop((disks, faults));
                done.send(result);
            }
            Action::Sync { limit, done } => {
                let result = match planned {
                    Some(code) => Err(self.fail_sync(disk, file, limit, code)),
                    None => self.sync(&faults, disk, file, limit),
                };
                drop((disks, faults));
                done.send(result);
            }
            Action::Allocate { end, done } => {
                let memory = self.refuse_memory(&faults, &mut disk.random);
                let space = memory.and_then(|()| self.check_space(&faults, disk, file, end));
                let result = match planned {
                    Some(code) => Err(os_error(code)),
                    None => space.map(|()| disk.allocate(file.inode, end)),
                };
                drop((disks, faults));
                done.send(result);
            }
            Action::Truncate { len, done } => {
                let result = match planned {
                    Some(code) => Err(os_error(code)),
                    None => self.refuse_memory(&faults, &mut disk.random).map(|()| disk.truncate(file.inode, len)),
                };
                drop((disks, faults));
                done.send(result);
            }
        }
    }

    fn complete_name_action(&self, node: usize, action: NameAction, planned: Option<i32>) {
        let mut disks = self.disks.borrow_mut();
        let disk = &mut disks[node];
        let refusal = planned.or_else(|| self.refuse_name_action(disk, &action));
        let refuse = || refusal.map_or(Ok(()), |code| Err(os_error(code)));
        match action {
            NameAction::Open { path, mode, done } => {
                let opened = refuse().and_then(|()| disk.open(&path, mode)).map(|(inode, lock)| {
                    let writable = mode != OpenMode::Read;
                    Rc::new(OpenFile { inode, writable, lock, holds_lock: Cell::new(false) })
                });
                drop(disks);
                done.send(opened);
            }
            NameAction::CreateDir { path, done } => done.send(refuse().and_then(|()| disk.create_dir(&path))),
            NameAction::ReadDir { path, done } => done.send(refuse().and_then(|()| disk.read_dir(&path))),
            NameAction::Rename { from, to, done } => done.send(refuse().and_then(|()| disk.rename(&from, &to))),
            NameAction::Remove { path, directory, done } => {
                done.send(refuse().and_then(|()| disk.remove(&path, directory)))
            }
            NameAction::SyncDir { path, limit, done } => {
                // Without a descriptor the directory was not even opened.
                let needs_descriptor = matches!(refusal, Some(libc::EMFILE | libc::ENFILE));
                let flushed = refuse().map_err(|error| if needs_descriptor { error } else { of_flush(error) });
                done.send(flushed.and_then(|()| disk.sync_dir(&path, limit)));
            }
        }
    }

    /// The error, if the faults want one; the action then does nothing.
    fn refuse_name_action(&self, disk: &mut Disk, action: &NameAction) -> Option<i32> {
        let faults = self.faults.borrow();
        // A name that is there already has its place.
        let is_new = |path: &Path| if disk.resolve(path).is_err() { faults.no_space } else { 0.0 };
        let new_name = match action {
            NameAction::Open { path, mode: OpenMode::Create | OpenMode::CreateNew, .. } => is_new(path),
            NameAction::CreateDir { path, .. } | NameAction::Rename { to: path, .. } => is_new(path),
            _ => 0.0,
        };
        let space = (new_name, FaultClass::NoSpace, libc::ENOSPC);
        let lacks_descriptor =
            if faults.no_descriptors > 0.0 && disk.random.coin() { libc::EMFILE } else { libc::ENFILE };
        let descriptor = (faults.no_descriptors, FaultClass::NoDescriptors, lacks_descriptor);
        let memory = (faults.no_memory, FaultClass::NoMemory, libc::ENOMEM);
        let broken = (faults.write_error, FaultClass::WriteError, CODE_EIO);
        let unsynced = (faults.sync_error, FaultClass::SyncError, CODE_EIO);
        let chances = match action {
            NameAction::Open { mode: OpenMode::Create | OpenMode::CreateNew, .. } => vec![space, descriptor, memory],
            NameAction::CreateDir { .. } => vec![space, memory],
            NameAction::Open { .. } | NameAction::ReadDir { .. } => vec![descriptor, memory],
            NameAction::Rename { .. } => vec![space, broken, memory],
            NameAction::Remove { .. } => vec![broken, memory],
            NameAction::SyncDir { .. } => vec![unsynced, descriptor],
        };
        let (_, class, code) = chances.into_iter().find(|(p, ..)| disk.random.chance(*p))?;
        self.count(class);
        Some(code)
    }

    fn refuse_memory(&self, faults: &Faults, random: &mut Random) -> io::Result<()> {
        if random.chance(faults.no_memory) {
            self.count(FaultClass::NoMemory);
            return Err(os_error(libc::ENOMEM));
        }
        Ok(())
    }

    /// The faults that all operations share; `broken` is the probability of EIO.
    fn judge(&self, faults: &Faults, random: &mut Random, broken: f64, class: FaultClass, canceled: f64) -> Verdict {
        if random.chance(faults.transient) {
            self.count(FaultClass::Transient);
            return Verdict::Fail(if random.coin() { libc::EINTR } else { libc::EAGAIN });
        }
        if random.chance(canceled) {
            self.count(FaultClass::Canceled);
            return Verdict::Fail(libc::ECANCELED);
        }
        if random.chance(broken) {
            self.count(class);
            return Verdict::Fail(CODE_EIO);
        }
        Verdict::Proceed
    }

    fn read(
        &self,
        faults: &Faults,
        disk: &mut Disk,
        file: &OpenFile,
        position: u64,
        buffer: &mut [u8],
    ) -> io::Result<usize> {
        let verdict = self.judge(faults, &mut disk.random, faults.read_error, FaultClass::ReadError, 0.0);
        if let Verdict::Fail(code) = verdict {
            return Err(os_error(code));
        }
        self.refuse_memory(faults, &mut disk.random)?;
        if disk.is_unreadable(file.inode, position, buffer.len()) {
            self.count(FaultClass::UnreadableRead);
            return Err(os_error(CODE_EIO));
        }
        let blocks = (buffer.len() / BLOCK) as u64;
        let mut len = buffer.len();
        if blocks > 1 && disk.random.chance(faults.short_read) {
            self.count(FaultClass::ShortRead);
            len = disk.random.between(1, blocks - 1) as usize * BLOCK;
        }
        Ok(disk.read(file.inode, position, &mut buffer[..len]))
    }

    fn check_space(&self, faults: &Faults, disk: &mut Disk, file: &OpenFile, end: u64) -> io::Result<()> {
        let refused = disk.lacks_space(file.inode, end);
        if refused || (disk.grows(file.inode, end) && disk.random.chance(faults.no_space)) {
            self.count(FaultClass::NoSpace);
            return Err(os_error(libc::ENOSPC));
        }
        Ok(())
    }

    fn write(
        &self,
        faults: &Faults,
        disk: &mut Disk,
        file: &OpenFile,
        position: u64,
        bytes: &[u8],
        landing: Landing,
    ) -> io::Result<usize> {
        let verdict = self.judge(faults, &mut disk.random, faults.write_error, FaultClass::WriteError, faults.canceled);
        self.check_space(faults, disk, file, position + bytes.len() as u64)?;
        if let Verdict::Fail(code) = verdict {
            return Err(fail_write(disk, file, position, bytes, code));
        }
        if landing == Landing::Cached {
            self.refuse_memory(faults, &mut disk.random)?;
        }
        if disk.is_dead(file.inode, position, bytes.len()) {
            self.count(FaultClass::UnreadableRead);
            return Err(os_error(CODE_EIO));
        }
        let sectors = (bytes.len() / SECTOR) as u64;
        let mut bytes = bytes;
        if sectors > 1 && disk.random.chance(faults.short_write) {
            self.count(FaultClass::ShortWrite);
            bytes = &bytes[..disk.random.between(1, sectors - 1) as usize * SECTOR];
        }
        let may_damage = |disk: &Disk| disk.path_of(file.inode).is_some_and(|path| faults.may_damage(&path));
        if disk.random.chance(faults.lost_write) && may_damage(disk) {
            self.count(FaultClass::LostWrite);
            disk.lose_write(file.inode, position, bytes.len(), landing);
        } else if disk.random.chance(faults.misdirected_write) && may_damage(disk) {
            self.misdirect(faults, disk, file, position, bytes, landing);
        } else {
            disk.write(file.inode, position, bytes, landing);
        }
        Ok(bytes.len())
    }

    /// Writes to another place that may be damaged and that holds all of the bytes; else writes as asked.
    fn misdirect(
        &self,
        faults: &Faults,
        disk: &mut Disk,
        file: &OpenFile,
        position: u64,
        bytes: &[u8],
        landing: Landing,
    ) {
        let len = bytes.len() as u64;
        let fits = |(_, path, file_len): &(Inode, PathBuf, u64)| *file_len >= len && faults.may_damage(path);
        let files: Vec<_> = disk.files().into_iter().filter(fits).collect();
        let target = (!files.is_empty()).then(|| {
            let (inode, _, file_len) = &files[disk.random.below(files.len() as u64) as usize];
            (*inode, disk.random.between(0, (file_len - len) / BLOCK as u64) * BLOCK as u64)
        });
        match target.filter(|target| *target != (file.inode, position)) {
            Some((inode, elsewhere)) => {
                self.count(FaultClass::MisdirectedWrite);
                disk.lose_write(file.inode, position, bytes.len(), landing);
                disk.misdirect(inode, elsewhere, bytes);
            }
            None => disk.write(file.inode, position, bytes, landing),
        }
    }

    fn sync(&self, faults: &Faults, disk: &mut Disk, file: &OpenFile, limit: u64) -> io::Result<()> {
        match self.judge(faults, &mut disk.random, faults.sync_error, FaultClass::SyncError, faults.canceled) {
            Verdict::Fail(CODE_EIO) => Err(self.fail_sync(disk, file, limit, CODE_EIO)),
            // An fdatasync is not interrupted: what it may answer instead is that it was cancelled.
            Verdict::Fail(libc::EINTR | libc::EAGAIN) | Verdict::Proceed => {
                disk.sync(file.inode, limit);
                Ok(())
            }
            Verdict::Fail(code) => Err(os_error(code)),
        }
    }

    /// A flush that fails: with EIO some of what it should have covered is lost.
    fn fail_sync(&self, disk: &mut Disk, file: &OpenFile, limit: u64, code: i32) -> io::Error {
        if code == CODE_EIO {
            let lost = disk.fail_sync(file.inode, limit);
            self.coverage.borrow_mut().add(FaultClass::SyncErrorDropped, lost);
        }
        os_error(code)
    }

    /// What becomes of the operations that a process leaves behind.
    pub(super) fn settle_operations(&self, node: usize, crash: Option<CrashKind>) {
        let operations = std::mem::take(&mut *self.operations.borrow_mut());
        let (left, others): (Vec<_>, Vec<_>) =
            operations.into_iter().partition(|(_, operation)| operation.node == node);
        self.operations.borrow_mut().extend(others);
        self.disks.borrow_mut()[node].release_locks();
        let mut survivors = Survivors::default();
        for (id, operation) in left {
            let coin = self.disks.borrow_mut()[node].random.coin();
            let goes_on = crash.is_none() || (crash == Some(CrashKind::Kill) && coin);
            match operation.on {
                // The kernel goes on with what it has, and closes the file only then.
                Target::File(file, action) if goes_on => {
                    self.coverage.borrow_mut().add(FaultClass::KillInFlight, u64::from(crash.is_some()));
                    let file = survivors.adopt(&file, &self.disks.borrow()[node]);
                    let on = Target::File(file, action);
                    self.operations.borrow_mut().insert(id, DiskOperation { node, on, planned: None });
                }
                // A process is not gone before its last system call is over.
                Target::Names(action) if goes_on => self.complete_name_action(node, action, None),
                Target::File(file, Action::Write { position, bytes, .. }) => {
                    self.cut_short(node, &file, position, &bytes)
                }
                _ => {}
            }
        }
        match crash {
            Some(CrashKind::PowerLoss) => {
                self.disks.borrow_mut()[node].lose_power(false, &mut self.coverage.borrow_mut())
            }
            Some(CrashKind::TotalPowerLoss) => {
                self.disks.borrow_mut()[node].lose_power(true, &mut self.coverage.borrow_mut());
            }
            Some(CrashKind::Kill) | None => {}
        }
    }

    /// A write that is over before it was whole: some of its sectors land, or none.
    fn cut_short(&self, node: usize, file: &OpenFile, position: u64, bytes: &[u8]) {
        let disk = &mut self.disks.borrow_mut()[node];
        if !disk.lacks_space(file.inode, position + bytes.len() as u64) && disk.random.coin() {
            disk.write_torn(file.inode, position, bytes);
        }
    }
}

/// Whether the operation can fail in this way at all.
fn can_fail(disk: &Disk, on: &Target, code: i32) -> bool {
    match (code, on) {
        (libc::ENOSPC | libc::EDQUOT, Target::File(file, action)) => match action {
            Action::Write { position, bytes, .. } => disk.grows(file.inode, position + bytes.len() as u64),
            Action::Allocate { end, .. } => disk.grows(file.inode, *end),
            Action::Read { .. } | Action::Sync { .. } | Action::Truncate { .. } => false,
        },
        (libc::ENOSPC | libc::EDQUOT, Target::Names(action)) => match action {
            NameAction::Open { path, mode: OpenMode::Create | OpenMode::CreateNew, .. } => disk.resolve(path).is_err(),
            NameAction::CreateDir { path, .. } | NameAction::Rename { to: path, .. } => disk.resolve(path).is_err(),
            _ => false,
        },
        (libc::EMFILE | libc::ENFILE, Target::Names(action)) => {
            matches!(action, NameAction::Open { .. } | NameAction::ReadDir { .. } | NameAction::SyncDir { .. })
        }
        (libc::EMFILE | libc::ENFILE, Target::File(..)) => false,
        _ => true,
    }
}

/// A write that fails: with EIO some of it may have landed.
fn fail_write(disk: &mut Disk, file: &OpenFile, position: u64, bytes: &[u8], code: i32) -> io::Error {
    if code == CODE_EIO && !disk.lacks_space(file.inode, position + bytes.len() as u64) {
        disk.write_torn(file.inode, position, bytes);
    }
    os_error(code)
}
