//! One node's disk: what is on the medium, and what the process sees, until a flush makes them one.
//!
//! Files are sparse pages that know which of their sectors the medium lacks (`pages.rs`). Changes of names are
//! a list of operations that a directory flush moves to the medium; a rename is one of them, so it is atomic.
//! Damage that the simulator does on purpose is a bit per sector: the ledger.
//! This module knows neither time nor tasks; whoever calls it decides when an operation takes effect.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use super::faults::{Coverage, FaultClass};
use super::pages::{FileData, Landing, PAGE, SECTOR};
use super::random::Random;
use crate::io::{DirEntry, OpenMode};

const ROOT: u64 = 0;
/// Below so many files nothing is swept.
const SWEEP_SLACK: usize = 64;

pub(super) type Inode = u64;
#[derive(Default)]
struct Directory {
    entries: BTreeMap<String, Inode>,
    medium: BTreeMap<String, Inode>,
}

enum Kind {
    File(FileData),
    Directory(Directory),
}

struct Node {
    kind: Kind,
    /// Whether an open file holds the lock. Each open file has a clone, so its count tells what is open.
    lock: Rc<Cell<bool>>,
}

impl Node {
    fn new(kind: Kind) -> Node {
        Node { kind, lock: Rc::default() }
    }
}

enum Change {
    Link { directory: Inode, name: String, inode: Inode },
    Unlink { directory: Inode, name: String },
    Rename { from: (Inode, String), to: (Inode, String), inode: Inode },
}

impl Change {
    /// The directory whose flush makes the change durable.
    fn home(&self) -> Inode {
        match self {
            Change::Link { directory, .. } | Change::Unlink { directory, .. } => *directory,
            Change::Rename { to, .. } => to.0,
        }
    }
}

/// A change of names that no directory flush has made durable, and when it was made.
struct Pending {
    made: u64,
    change: Change,
}

/// A range that the simulator damaged and that nothing has overwritten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Where the file is now; `None` when it has been removed.
    pub path: Option<PathBuf>,
    /// The damaged bytes, in whole sectors.
    pub range: Range<u64>,
}

pub(super) struct Disk {
    nodes: BTreeMap<Inode, Node>,
    next: Inode,
    pending: Vec<Pending>,
    /// Counts changes, to tell which came before a flush was asked for.
    clock: u64,
    capacity: u64,
    used: u64,
    sweep_at: usize,
    /// How many operations there have been.
    pub(super) operations: u64,
    /// Which of them fail, and with what.
    pub(super) planned: Option<(Range<u64>, i32)>,
    pub(super) random: Random,
}

fn os_error(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

impl Disk {
    pub(super) fn new(random: Random) -> Disk {
        let root = Node::new(Kind::Directory(Directory::default()));
        Disk {
            nodes: BTreeMap::from([(ROOT, root)]),
            next: ROOT + 1,
            pending: Vec::new(),
            clock: 0,
            capacity: 1 << 40,
            used: 0,
            sweep_at: SWEEP_SLACK,
            operations: 0,
            planned: None,
            random,
        }
    }

    /// What a flush that is asked for now must cover.
    pub(super) fn clock(&self) -> u64 {
        self.clock
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    pub(super) fn set_capacity(&mut self, bytes: u64) {
        self.capacity = bytes;
    }

    pub(super) fn used(&self) -> u64 {
        self.used
    }

    /// Counts one more operation; the error that was planned for it.
    pub(super) fn count_operation(&mut self) -> Option<i32> {
        let number = self.operations;
        self.operations += 1;
        self.planned.as_ref().filter(|(numbers, _)| numbers.contains(&number)).map(|(_, code)| *code)
    }

    /// (total, available) bytes.
    pub(super) fn space(&self) -> (u64, u64) {
        (self.capacity, self.capacity.saturating_sub(self.used))
    }

    // Names.

    fn directory(&self, inode: Inode) -> io::Result<&Directory> {
        match self.nodes.get(&inode).map(|node| &node.kind) {
            Some(Kind::Directory(directory)) => Ok(directory),
            Some(Kind::File(_)) => Err(os_error(libc::ENOTDIR)),
            None => Err(os_error(libc::ENOENT)),
        }
    }

    fn directory_mut(&mut self, inode: Inode) -> &mut Directory {
        match self.nodes.get_mut(&inode).map(|node| &mut node.kind) {
            Some(Kind::Directory(directory)) => directory,
            _ => unreachable!("inode {inode} was resolved as a directory"),
        }
    }

    pub(super) fn resolve(&self, path: &Path) -> io::Result<Inode> {
        let mut inode = ROOT;
        for component in path.components() {
            if let Component::Normal(name) = component {
                let name = name.to_str().ok_or_else(|| os_error(libc::EINVAL))?;
                inode = *self.directory(inode)?.entries.get(name).ok_or_else(|| os_error(libc::ENOENT))?;
            }
        }
        Ok(inode)
    }

    fn parent(&self, path: &Path) -> io::Result<(Inode, String)> {
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| os_error(libc::EINVAL))?;
        let parent = self.resolve(path.parent().unwrap_or(Path::new("/")))?;
        self.directory(parent)?;
        Ok((parent, name.to_owned()))
    }

    fn look_up(&self, directory: Inode, name: &str) -> Option<Inode> {
        self.directory(directory).ok()?.entries.get(name).copied()
    }

    fn link(&mut self, directory: Inode, name: String, kind: Kind) -> Inode {
        let inode = self.next;
        self.next += 1;
        self.nodes.insert(inode, Node::new(kind));
        self.directory_mut(directory).entries.insert(name.clone(), inode);
        self.change(Change::Link { directory, name, inode });
        self.sweep_if_many();
        inode
    }

    fn change(&mut self, change: Change) {
        let made = self.tick();
        self.pending.push(Pending { made, change });
    }

    fn is_directory(&self, inode: Inode) -> bool {
        matches!(self.nodes.get(&inode).map(|node| &node.kind), Some(Kind::Directory(_)))
    }

    /// Opens or makes a file; the second value is its lock, shared by all who have it open.
    pub(super) fn open(&mut self, path: &Path, mode: OpenMode) -> io::Result<(Inode, Rc<Cell<bool>>)> {
        let (parent, name) = self.parent(path)?;
        let inode = match (self.look_up(parent, &name), mode) {
            (Some(_), OpenMode::CreateNew) => return Err(os_error(libc::EEXIST)),
            (Some(inode), _) if self.is_directory(inode) => return Err(os_error(libc::EISDIR)),
            (Some(inode), _) => inode,
            (None, OpenMode::Create | OpenMode::CreateNew) => self.link(parent, name, Kind::File(FileData::default())),
            (None, _) => return Err(os_error(libc::ENOENT)),
        };
        Ok((inode, self.nodes[&inode].lock.clone()))
    }

    pub(super) fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        if self.look_up(parent, &name).is_some() {
            return Err(os_error(libc::EEXIST));
        }
        self.link(parent, name, Kind::Directory(Directory::default()));
        Ok(())
    }

    pub(super) fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let entries = &self.directory(self.resolve(path)?)?.entries;
        let entry =
            |(name, inode): (&String, &Inode)| DirEntry { name: name.clone(), is_dir: self.is_directory(*inode) };
        Ok(entries.iter().map(entry).collect())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let from = self.parent(from)?;
        let to = self.parent(to)?;
        let inode = self.look_up(from.0, &from.1).ok_or_else(|| os_error(libc::ENOENT))?;
        if let Some(replaced) = self.look_up(to.0, &to.1) {
            if replaced == inode {
                return Ok(());
            }
            match (self.is_directory(inode), self.is_directory(replaced)) {
                (false, true) => return Err(os_error(libc::EISDIR)),
                (true, false) => return Err(os_error(libc::ENOTDIR)),
                (true, true) if !self.directory(replaced)?.entries.is_empty() => return Err(os_error(libc::ENOTEMPTY)),
                _ => self.discharge(replaced),
            }
        }
        self.directory_mut(from.0).entries.remove(&from.1);
        self.directory_mut(to.0).entries.insert(to.1.clone(), inode);
        self.change(Change::Rename { from, to, inode });
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path, directory: bool) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        let inode = self.look_up(parent, &name).ok_or_else(|| os_error(libc::ENOENT))?;
        match &self.nodes[&inode].kind {
            Kind::File(_) if directory => return Err(os_error(libc::ENOTDIR)),
            Kind::Directory(_) if !directory => return Err(os_error(libc::EISDIR)),
            Kind::Directory(removed) if !removed.entries.is_empty() => return Err(os_error(libc::ENOTEMPTY)),
            _ => {}
        }
        self.discharge(inode);
        self.directory_mut(parent).entries.remove(&name);
        self.change(Change::Unlink { directory: parent, name });
        Ok(())
    }

    /// Makes durable what had changed in the directory by `limit`.
    pub(super) fn sync_dir(&mut self, path: &Path, limit: u64) -> io::Result<()> {
        let directory = self.resolve(path)?;
        self.directory(directory)?;
        let (synced, pending): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|pending| pending.made <= limit && pending.change.home() == directory);
        self.pending = pending;
        for Pending { change, .. } in synced {
            // The file cannot come back under its old name once its new one is durable.
            if let Change::Rename { from, inode, .. } = &change {
                let old = |p: &Pending| matches!(&p.change, Change::Link { directory, name, inode: linked } if linked == inode && *directory == from.0 && *name == from.1);
                self.pending.retain(|pending| !old(pending));
            }
            self.apply_to_medium(change);
        }
        self.sweep_if_many();
        Ok(())
    }

    fn apply_to_medium(&mut self, change: Change) {
        match change {
            Change::Link { directory, name, inode } => {
                self.medium_names(directory, |names| names.insert(name, inode));
            }
            Change::Unlink { directory, name } => self.medium_names(directory, |names| names.remove(&name)),
            Change::Rename { from, to, inode } => {
                self.medium_names(from.0, |names| {
                    (names.get(&from.1) == Some(&inode)).then(|| names.remove(&from.1)).flatten()
                });
                self.medium_names(to.0, |names| names.insert(to.1, inode));
            }
        }
    }

    /// A directory that is gone for good has no names to change.
    fn medium_names(&mut self, directory: Inode, change: impl FnOnce(&mut BTreeMap<String, Inode>) -> Option<Inode>) {
        if let Some(Node { kind: Kind::Directory(directory), .. }) = self.nodes.get_mut(&directory) {
            change(&mut directory.medium);
        }
    }

    fn sweep_if_many(&mut self) {
        if self.nodes.len() > self.sweep_at {
            self.sweep();
            self.sweep_at = 2 * self.nodes.len() + SWEEP_SLACK;
        }
    }

    /// Forgets files that have no name, on the medium or off it, and that nobody has open.
    fn sweep(&mut self) {
        let mut live = BTreeSet::from([ROOT]);
        for node in self.nodes.values() {
            if let Kind::Directory(directory) = &node.kind {
                live.extend(directory.entries.values());
                live.extend(directory.medium.values());
            }
        }
        for pending in &self.pending {
            if let Change::Link { inode, .. } | Change::Rename { inode, .. } = &pending.change {
                live.insert(*inode);
            }
        }
        self.nodes.retain(|inode, node| live.contains(inode) || Rc::strong_count(&node.lock) > 1);
    }

    // Content.

    fn file(&self, inode: Inode) -> &FileData {
        match self.nodes.get(&inode).map(|node| &node.kind) {
            Some(Kind::File(file)) => file,
            _ => unreachable!("inode {inode} was opened as a file and is kept while open"),
        }
    }

    fn file_mut(&mut self, inode: Inode) -> &mut FileData {
        match self.nodes.get_mut(&inode).map(|node| &mut node.kind) {
            Some(Kind::File(file)) => file,
            _ => unreachable!("inode {inode} was opened as a file and is kept while open"),
        }
    }

    fn discharge(&mut self, inode: Inode) {
        if !self.is_directory(inode) {
            self.used -= std::mem::take(&mut self.file_mut(inode).allocated);
        }
    }

    /// Whether `[.., end)` needs more space than the disk has.
    pub(super) fn lacks_space(&self, inode: Inode, end: u64) -> bool {
        let more = end.next_multiple_of(PAGE as u64).saturating_sub(self.file(inode).allocated);
        more > 0 && self.used + more > self.capacity
    }

    pub(super) fn grows(&self, inode: Inode, end: u64) -> bool {
        end > self.file(inode).allocated
    }

    fn charge(&mut self, inode: Inode, end: u64) {
        let end = end.next_multiple_of(PAGE as u64);
        let file = self.file_mut(inode);
        let more = end.saturating_sub(file.allocated);
        file.allocated += more;
        self.used += more;
    }

    pub(super) fn len(&self, inode: Inode) -> u64 {
        self.file(inode).len
    }

    pub(super) fn read(&self, inode: Inode, position: u64, target: &mut [u8]) -> usize {
        let file = self.file(inode);
        let len = file.len.saturating_sub(position).min(target.len() as u64) as usize;
        let first = position / PAGE as u64;
        for (index, target) in target[..len].chunks_mut(PAGE).enumerate() {
            match file.pages.get(&(first + index as u64)).and_then(|page| page.current.as_ref()) {
                Some(content) => target.copy_from_slice(&content[..target.len()]),
                None => target.fill(0),
            }
        }
        len
    }

    /// Writes whole sectors. The caller has checked for space.
    pub(super) fn write(&mut self, inode: Inode, position: u64, bytes: &[u8], landing: Landing) {
        self.store(inode, position, bytes, landing, false);
        self.extend_to(inode, position + bytes.len() as u64);
        if landing == Landing::Durable {
            self.file_mut(inode).commit_len();
        }
    }

    /// As [`Disk::write`], but each sector lands or not.
    pub(super) fn write_torn(&mut self, inode: Inode, position: u64, bytes: &[u8]) {
        for (index, sector) in bytes.chunks(SECTOR).enumerate() {
            if self.random.coin() {
                self.write(inode, position + (index * SECTOR) as u64, sector, Landing::Cached);
            }
        }
    }

    /// The write is believed, but its bytes go nowhere: what was there stays, and is damage.
    pub(super) fn lose_write(&mut self, inode: Inode, position: u64, len: usize, landing: Landing) {
        self.mark_damaged(inode, position..position + len as u64);
        self.extend_to(inode, position + len as u64);
        if landing == Landing::Durable {
            self.file_mut(inode).commit_len();
        }
    }

    /// Puts bytes where they do not belong; the file's length stays.
    pub(super) fn misdirect(&mut self, inode: Inode, position: u64, bytes: &[u8]) {
        self.store(inode, position, bytes, Landing::Durable, true);
    }

    fn store(&mut self, inode: Inode, mut position: u64, mut bytes: &[u8], landing: Landing, damage: bool) {
        let now = self.tick();
        let file = self.file_mut(inode);
        while !bytes.is_empty() {
            let within = position as usize % PAGE;
            let (piece, rest) = bytes.split_at(bytes.len().min(PAGE - within));
            file.store_in_page(position / PAGE as u64, within, piece, landing, damage, now);
            position += piece.len() as u64;
            bytes = rest;
        }
    }

    fn extend_to(&mut self, inode: Inode, end: u64) {
        self.charge(inode, end);
        let file = self.file_mut(inode);
        file.len = file.len.max(end);
    }

    pub(super) fn allocate(&mut self, inode: Inode, end: u64) {
        self.tick();
        self.extend_to(inode, end);
    }

    pub(super) fn truncate(&mut self, inode: Inode, len: u64) {
        let now = self.tick();
        let file = self.file_mut(inode);
        file.cut(len, now);
        let kept = len.next_multiple_of(PAGE as u64);
        let freed = file.allocated.saturating_sub(kept);
        file.allocated -= freed;
        self.used -= freed;
    }

    /// Makes durable what was written by `limit`.
    pub(super) fn sync(&mut self, inode: Inode, limit: u64) {
        let file = self.file_mut(inode);
        let pages = &mut file.pages;
        file.dirty.retain(|index| {
            let page = pages.get_mut(index).expect("a dirty page exists");
            if page.dirtied <= limit {
                page.flush();
            }
            page.dirty != 0
        });
        file.commit_len();
    }

    /// A flush that fails: of what it should have covered some is gone at once, some is gone at a power loss
    /// whatever later flushes say, some is unharmed. Returns the number of pages that were lost.
    pub(super) fn fail_sync(&mut self, inode: Inode, limit: u64) -> u64 {
        let Disk { nodes, random, .. } = self;
        let Some(Kind::File(file)) = nodes.get_mut(&inode).map(|node| &mut node.kind) else { return 0 };
        let pages = &mut file.pages;
        let mut lost = 0;
        file.dirty.retain(|index| {
            let page = pages.get_mut(index).expect("a dirty page exists");
            if page.dirtied <= limit {
                match random.below(3) {
                    0 => page.revert(page.dirty),
                    1 => page.doomed |= page.dirty,
                    _ => return true,
                }
                lost += 1;
            }
            page.dirty != 0
        });
        lost
    }

    // Crashes and damage.

    /// The power fails: each unflushed sector, name and length is kept or lost by itself; all are lost if it is a
    /// `total` loss. Whoever had files open is gone.
    pub(super) fn lose_power(&mut self, total: bool, coverage: &mut Coverage) {
        self.lose_names(total, coverage);
        let Disk { nodes, random, .. } = self;
        self.used = 0;
        // In some crashes everything unflushed is lost, in some nothing, in most some.
        let survival = if total { None } else { Some([0.0, 0.5, 0.5, 0.9, 1.0][random.below(5) as usize]) };
        for node in nodes.values_mut() {
            if let Kind::File(file) = &mut node.kind {
                file.lose_power(survival, random, coverage);
                self.used += file.allocated;
            }
        }
    }

    /// The process that holds them is gone; each open file that is left of it has a lock that nobody else asks.
    pub(super) fn release_locks(&mut self) {
        self.nodes.values_mut().for_each(|node| node.lock = Rc::default());
    }

    pub(super) fn lock_of(&self, inode: Inode) -> Option<Rc<Cell<bool>>> {
        self.nodes.get(&inode).map(|node| node.lock.clone())
    }

    fn lose_names(&mut self, total: bool, coverage: &mut Coverage) {
        let pending = std::mem::take(&mut self.pending);
        // A journaling file system keeps a prefix of its changes; POSIX promises not even that.
        let in_order = self.random.coin();
        let kept = self.random.between(0, pending.len() as u64) as usize;
        for (index, Pending { change, .. }) in pending.into_iter().enumerate() {
            let survives = !total && if in_order { index < kept } else { self.random.coin() };
            if survives {
                self.apply_to_medium(change);
            } else {
                coverage.add(FaultClass::LostName, 1);
            }
        }
        let mut live = BTreeSet::new();
        self.restore_directory(ROOT, &mut live);
        self.nodes.retain(|inode, _| live.contains(inode));
    }

    /// Sets the directory and those below it to what the medium says; a file has one place only.
    fn restore_directory(&mut self, inode: Inode, live: &mut BTreeSet<Inode>) {
        live.insert(inode);
        let mut names = self.directory_mut(inode).medium.clone();
        names.retain(|_, child| self.nodes.contains_key(child) && !live.contains(child));
        for child in names.values() {
            if self.is_directory(*child) {
                self.restore_directory(*child, live);
            } else {
                live.insert(*child);
            }
        }
        let directory = self.directory_mut(inode);
        directory.entries = names.clone();
        directory.medium = names;
    }

    /// Flips one bit of an allocated page, at rest; the position of its sector.
    pub(super) fn flip_bit(&mut self, inode: Inode) -> Option<u64> {
        let Disk { nodes, random, .. } = self;
        let Some(Kind::File(file)) = nodes.get_mut(&inode).map(|node| &mut node.kind) else { return None };
        let clean: Vec<u64> = file
            .pages
            .iter()
            .filter(|(_, page)| page.dirty == 0 && page.current.is_some())
            .map(|(index, _)| *index)
            .collect();
        if clean.is_empty() {
            return None;
        }
        let index = clean[random.below(clean.len() as u64) as usize];
        let valid = (file.len - index * PAGE as u64).min(PAGE as u64);
        let byte = random.below(valid) as usize;
        let page = file.pages.get_mut(&index).expect("chosen among the pages");
        let content = page.current.as_mut().expect("chosen for its content");
        content[byte] ^= 1 << random.below(8);
        page.damage |= 1 << (byte / SECTOR);
        Some(index * PAGE as u64 + (byte / SECTOR * SECTOR) as u64)
    }

    /// Whether these bytes cannot be read.
    pub(super) fn is_unreadable(&self, inode: Inode, position: u64, len: usize) -> bool {
        self.file(inode).is_unreadable(position, len)
    }

    /// Whether these bytes cannot be written; if they can, they can be read from now on.
    pub(super) fn is_dead(&mut self, inode: Inode, position: u64, len: usize) -> bool {
        self.file_mut(inode).is_dead(position, len)
    }

    /// Makes whole sectors unreadable: until they are written, or for good. They are damage.
    pub(super) fn make_unreadable(&mut self, inode: Inode, range: Range<u64>, for_good: bool) {
        self.mark_damaged(inode, range.clone());
        let sectors = range.start / SECTOR as u64..range.end.div_ceil(SECTOR as u64);
        self.file_mut(inode).unreadable.extend(sectors.map(|sector| (sector, for_good)));
    }

    /// Up to eight sectors in a row, somewhere in what the file holds; where the first is.
    pub(super) fn spoil_sectors(&mut self, inode: Inode) -> Option<u64> {
        let sectors = self.file(inode).medium_len.min(self.file(inode).len) / SECTOR as u64;
        if sectors == 0 {
            return None;
        }
        let first = self.random.below(sectors);
        let end = (first + self.random.between(1, 8)).min(sectors);
        let for_good = self.random.coin();
        self.make_unreadable(inode, first * SECTOR as u64..end * SECTOR as u64, for_good);
        Some(first * SECTOR as u64)
    }

    /// Takes a file away, on the medium as well: what a repair of the file system may do.
    pub(super) fn lose_file(&mut self, path: &Path) -> io::Result<()> {
        self.remove(path, false)?;
        self.sync_dir(path.parent().unwrap_or(Path::new("/")), u64::MAX)
    }

    /// Cuts a file, on the medium as well.
    pub(super) fn shorten_file(&mut self, path: &Path, len: u64) -> io::Result<()> {
        let inode = self.resolve(path)?;
        self.truncate(inode, len);
        self.sync(inode, u64::MAX);
        Ok(())
    }

    fn mark_damaged(&mut self, inode: Inode, range: Range<u64>) {
        let file = self.file_mut(inode);
        for sector in range.start / SECTOR as u64..range.end.div_ceil(SECTOR as u64) {
            let per_page = (PAGE / SECTOR) as u64;
            let page = file.pages.entry(sector / per_page).or_default();
            page.damage |= 1 << (sector % per_page);
            page.medium_damage |= 1 << (sector % per_page);
        }
    }

    /// All files with their paths and lengths.
    pub(super) fn files(&self) -> Vec<(Inode, PathBuf, u64)> {
        let mut found = Vec::new();
        self.collect_files(ROOT, Path::new("/"), &mut found);
        found
    }

    /// Where a file is now.
    pub(super) fn path_of(&self, inode: Inode) -> Option<PathBuf> {
        self.files().into_iter().find_map(|(found, path, _)| (found == inode).then_some(path))
    }

    fn collect_files(&self, inode: Inode, path: &Path, found: &mut Vec<(Inode, PathBuf, u64)>) {
        match &self.nodes[&inode].kind {
            Kind::File(file) => found.push((inode, path.to_owned(), file.len)),
            Kind::Directory(directory) => {
                for (name, child) in &directory.entries {
                    self.collect_files(*child, &path.join(name), found);
                }
            }
        }
    }

    /// The damaged ranges of a file that meet `range`, neighbours joined.
    pub(super) fn damaged(&self, inode: Inode, range: Range<u64>) -> Vec<Range<u64>> {
        let mut found: Vec<Range<u64>> = Vec::new();
        let Some(Node { kind: Kind::File(file), .. }) = self.nodes.get(&inode) else { return found };
        if range.is_empty() {
            return found;
        }
        for (index, page) in file.pages.range(range.start / PAGE as u64..range.end.div_ceil(PAGE as u64)) {
            for sector in (0..PAGE / SECTOR).filter(|sector| page.damage & (1 << sector) != 0) {
                let start = index * PAGE as u64 + (sector * SECTOR) as u64;
                let end = start + SECTOR as u64;
                match found.last_mut() {
                    _ if end <= range.start || start >= range.end => {}
                    Some(last) if last.end == start => last.end = end,
                    _ => found.push(start..end),
                }
            }
        }
        found
    }

    /// All damage that is still there. Removed files that are still open have no path.
    pub(super) fn all_damage(&self) -> Vec<Damage> {
        let paths: BTreeMap<Inode, PathBuf> = self.files().into_iter().map(|(inode, path, _)| (inode, path)).collect();
        let of_file = |inode: &Inode| {
            let path = paths.get(inode).cloned();
            self.damaged(*inode, 0..u64::MAX - PAGE as u64)
                .into_iter()
                .map(move |range| Damage { path: path.clone(), range })
        };
        self.nodes.keys().flat_map(of_file).collect()
    }
}
