//! The journal of one core: group commit for all its partitions.
//!
//! Appends fill the open group; up to [`GROUPS_IN_FLIGHT`] groups are being written, each with its own flush
//! (RWF_DSYNC) into files that were written before, so that a flush moves no metadata. Invariant: a group is
//! handed out by [`Journal::next_durable`] only when its write and those of all groups before it, and of the
//! headers of their files, are complete. A failed write ends the journal for good: nothing more becomes
//! durable, and [`DiskFailure`] tells the core to leave. It does not know what the entries mean.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use bytes::Bytes;

use super::group::{Entry, FILE_GROUPS_START, FileHeader, Group, GroupBuilder, GroupPlace, Lineage};
use crate::io::buffer::{BLOCK, Buffer};
use crate::io::local::Bell;
use crate::io::{Class, File, Instant, Io, OpenMode};
use crate::limits::{GROUP_BYTES, GROUPS_IN_FLIGHT, JOURNAL_FILES, SEAL_AFTER};

/// The disk has failed under the log. Whoever sees it stops acknowledging; the process leaves and recovers
/// from what the disk really holds.
#[derive(Clone, Default)]
pub struct DiskFailure(Rc<RefCell<Option<String>>>, Bell);

impl DiskFailure {
    /// Records the first failure; later ones change nothing.
    pub fn set(&self, what: String) {
        tracing::error!("{what}: the log's state in memory is void; leaving to recover from disk");
        self.0.borrow_mut().get_or_insert(what);
        self.1.ring();
    }

    /// Whether the disk has failed.
    pub fn is_set(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Completes when the disk has failed, with what happened.
    pub async fn wait(&self) -> String {
        self.1.until(|| self.0.borrow().clone()).await
    }
}

/// How a journal is laid out.
#[derive(Debug, Clone)]
pub struct JournalConfig {
    /// The journal's directory, which exists.
    pub dir: PathBuf,
    /// Bytes of one file; [`JOURNAL_FILES`] of them are the journal's bound.
    pub file_bytes: u64,
}

/// Where a journal goes on: behind the last group that recovery accepted.
#[derive(Debug, Clone, Copy)]
pub struct JournalStart {
    /// The journal's id, random at its making.
    pub journal: [u8; 16],
    /// The sequence of the first file that will be begun.
    pub file_sequence: u64,
    /// The last accepted group, 0 if there is none.
    pub last_sequence: u64,
    /// Its CRC.
    pub last_crc: u32,
}

/// A group that is on stable storage, with the file that holds it.
pub struct DurableGroup {
    /// The group.
    pub group: Group,
    /// The sequence of its file, which must not be used again while the group is needed.
    pub file_sequence: u64,
}

struct Current {
    file: File,
    lineage: Lineage,
    position: u64,
}

struct Written {
    /// `None` for a file's header.
    group: Option<Group>,
    /// When something was first appended to the group.
    opened: Instant,
    done: bool,
}

struct State {
    start: JournalStart,
    current: Option<Current>,
    /// Files behind the current one, oldest first: their groups may still be needed.
    full: VecDeque<(u64, File)>,
    /// Pre-written files that hold nothing of worth.
    free: Vec<File>,
    /// Files that there are, in use or not.
    files: usize,
    /// Whether there may be more than [`JOURNAL_FILES`]: while a start takes over what it found, which may be of
    /// more journals than there are now, nothing can be drained to make room.
    unbounded: bool,
    /// Why the next file could not be made, if the last try has failed.
    unmade: Option<String>,
    /// The number that names the next file made.
    next_name: u32,
    open: GroupBuilder,
    /// When something was first appended to it.
    opened: Instant,
    last_sequence: u64,
    last_crc: u32,
    last_entries: Vec<Entry>,
    synced_up_to: u64,
    sealed: bool,
    in_flight: VecDeque<Written>,
    /// Position of `in_flight`'s front among all writes ever begun.
    first_in_flight: u64,
    durable: VecDeque<DurableGroup>,
}

/// The journal. Clones share it.
#[derive(Clone)]
pub struct Journal {
    io: Io,
    config: Rc<JournalConfig>,
    state: Rc<RefCell<State>>,
    /// Rings when a group becomes durable.
    durable_bell: Bell,
    /// Rings when there may be something to write, or room to append.
    work_bell: Bell,
    failure: DiskFailure,
}

impl Journal {
    /// A journal with nothing in it yet. `reusable` are files of its directory, written to the configured
    /// size before and no longer needed; `next_name` numbers the first file that will be made.
    pub fn new(
        io: Io,
        config: JournalConfig,
        start: JournalStart,
        reusable: Vec<File>,
        next_name: u32,
        failure: DiskFailure,
    ) -> Journal {
        let state = State {
            start,
            current: None,
            full: VecDeque::new(),
            files: reusable.len(),
            unbounded: true,
            unmade: None,
            free: reusable,
            next_name,
            open: GroupBuilder::new(BLOCK),
            opened: Instant::default(),
            last_sequence: start.last_sequence,
            last_crc: start.last_crc,
            last_entries: Vec::new(),
            synced_up_to: start.last_sequence,
            sealed: true,
            in_flight: VecDeque::new(),
            first_in_flight: 0,
            durable: VecDeque::new(),
        };
        Journal {
            io,
            config: Rc::new(config),
            state: Rc::new(RefCell::new(state)),
            durable_bell: Bell::default(),
            work_bell: Bell::default(),
            failure,
        }
    }

    /// Starts the tasks that write groups, seal an idle journal and keep a file ready ahead of need; makes
    /// the first file ready and begins it, durably, so that what an older file holds behind the last
    /// accepted group is cut off for ever.
    pub async fn begin(&self) -> io::Result<()> {
        if self.state.borrow().free.is_empty() {
            self.prepare_file().await?;
        }
        let header = self.switch_file();
        header.0.write_durable_at(0, header.1).await?;
        self.complete(header.2);
        let journal = self.clone();
        self.io.spawn(Class::Foreground, async move { journal.write_groups().await });
        let journal = self.clone();
        self.io.spawn(Class::Foreground, async move { journal.seal_when_idle().await });
        let journal = self.clone();
        self.io.spawn(Class::Background, async move { journal.keep_files_ready().await });
        Ok(())
    }

    /// Whether an entry of `len` bytes can be appended now.
    pub fn has_room(&self, len: usize) -> bool {
        let state = self.state.borrow();
        if self.failure.is_set() {
            return false;
        }
        let size = state.open.size_with(len, state.last_entries.len());
        // In the smallest files a group leaves room for the next one's copy of its directory.
        let most = GROUP_BYTES.min(crate::limits::largest_batch(self.config.file_bytes));
        if !state.open.is_empty() && size > most {
            return false;
        }
        let left = state.current.as_ref().map_or(0, |current| self.config.file_bytes - current.position);
        size as u64 <= left || !state.free.is_empty()
    }

    /// Completes when an entry of `len` bytes can be appended.
    ///
    /// # Panics
    /// If it could never be: larger batches are refused before.
    pub async fn room(&self, len: usize) {
        assert!(len <= crate::limits::largest_batch(self.config.file_bytes), "a batch fits into a journal file");
        self.work_bell.until(|| self.has_room(len).then_some(())).await;
    }

    /// Adds an entry to the open group, with a copy of its payload that `patch` may change. There must be room.
    pub fn append(&self, entry: Entry, payload: &[u8], patch: impl FnOnce(&mut [u8])) {
        let mut state = self.state.borrow_mut();
        if state.open.is_empty() {
            state.opened = self.io.now();
        }
        self.io.stats().journal.appended_bytes.add(payload.len() as u64);
        state.open.push(entry, payload, patch);
        drop(state);
        self.work_bell.ring();
    }

    /// The next group that has become durable, in order.
    pub async fn next_durable(&self) -> DurableGroup {
        self.durable_bell.until(|| self.state.borrow_mut().durable.pop_front()).await
    }

    /// Completes when everything appended so far is durable and has been handed out.
    pub async fn idle(&self) {
        self.durable_bell
            .until(|| {
                let state = self.state.borrow();
                (state.open.is_empty() && state.in_flight.is_empty() && state.durable.is_empty()).then_some(())
            })
            .await;
    }

    /// As [`Journal::idle`], but also completes when the disk has failed.
    pub async fn idle_or(&self, failure: &DiskFailure) {
        let failed = async {
            failure.wait().await;
        };
        futures_lite::future::or(self.idle(), failed).await;
    }

    /// Completes when `condition` holds, looking again each time that a durable group has been dealt with.
    pub async fn when_dealt_with(&self, mut condition: impl FnMut() -> bool) {
        self.durable_bell.until(|| condition().then_some(())).await;
    }

    /// The newest group's sequence.
    pub fn last_sequence(&self) -> u64 {
        self.state.borrow().last_sequence
    }

    /// Called by the consumer of [`Journal::next_durable`] after it has dealt with a group.
    pub fn dealt_with(&self) {
        self.durable_bell.ring();
    }

    /// The file that groups go into now, and the chain where it began: a replay from here on misses nothing
    /// of this or a later file.
    pub fn current_file_sequence(&self) -> u64 {
        let state = self.state.borrow();
        state.current.as_ref().map_or(state.start.file_sequence, |current| current.lineage.file_sequence)
    }

    /// The journal's id.
    pub fn id(&self) -> [u8; 16] {
        self.state.borrow().start.journal
    }

    /// Files in use, of [`JOURNAL_FILES`]: full ones and the current one.
    pub fn files_in_use(&self) -> usize {
        self.state.borrow().full.len() + 1
    }

    /// The oldest file with a group that has not been handed out yet: its partitions cannot know of it.
    pub fn oldest_unsettled_file(&self) -> Option<u64> {
        let state = self.state.borrow();
        let in_flight = state.in_flight.iter().filter_map(|written| written.group.as_ref());
        let durable = state.durable.iter().map(|durable| &durable.group);
        in_flight.chain(durable).map(|group| group.place.lineage.file_sequence).min()
    }

    /// Gives back the files before `file_sequence`. The caller has made durable, elsewhere, all that is
    /// needed of them, and durably said so.
    pub fn release_before(&self, file_sequence: u64) {
        let mut state = self.state.borrow_mut();
        while state.full.front().is_some_and(|(sequence, _)| *sequence < file_sequence) {
            let (_, file) = state.full.pop_front().expect("there is a front");
            if state.files > JOURNAL_FILES {
                // Left for the next start to remove.
                state.files -= 1;
            } else {
                state.free.push(file);
            }
        }
        drop(state);
        self.work_bell.ring();
    }

    /// The start has taken over what it found: from now on no more files are made than [`JOURNAL_FILES`].
    pub fn keep_to_bound(&self) {
        self.state.borrow_mut().unbounded = false;
    }

    /// Files of an earlier start, or of a journal that has no core any more, that may be used from now on.
    /// Those beyond the bound are left for the next start to remove.
    pub fn add_free(&self, mut files: Vec<File>) {
        let mut state = self.state.borrow_mut();
        files.truncate(JOURNAL_FILES.saturating_sub(state.files));
        state.files += files.len();
        state.free.extend(files);
        drop(state);
        self.work_bell.ring();
    }

    async fn write_groups(&self) {
        loop {
            self.work_bell.until(|| self.can_write().then_some(())).await;
            // Whoever is ready to append joins this group rather than the next.
            self.io.yield_now().await;
            if self.can_write() {
                self.write_group();
            }
        }
    }

    fn can_write(&self) -> bool {
        let state = self.state.borrow();
        !state.open.is_empty() && state.in_flight.len() < GROUPS_IN_FLIGHT && !self.failure.is_set()
    }

    /// Closes the open group and begins its write, and that of a new file's header if it needs one.
    fn write_group(&self) {
        let size = {
            let state = self.state.borrow();
            state.open.size(state.last_entries.len()) as u64
        };
        let left = self.state.borrow().current.as_ref().map_or(0, |current| self.config.file_bytes - current.position);
        if size > left {
            let (file, header, ticket) = self.switch_file();
            self.spawn_write(file, 0, header, ticket);
        }
        let (file, position, bytes, ticket) = self.close_group();
        if planted!(AcknowledgeBeforeFlush) {
            self.complete(ticket);
        }
        self.spawn_write(file, position, bytes, ticket);
        self.work_bell.ring();
    }

    fn close_group(&self) -> (File, u64, Bytes, u64) {
        let state = &mut *self.state.borrow_mut();
        let current = state.current.as_mut().expect("a file is begun before groups are written");
        let place = GroupPlace {
            lineage: current.lineage,
            sequence: state.last_sequence + 1,
            synced_up_to: state.synced_up_to,
            previous_crc: state.last_crc,
        };
        let next = GroupBuilder::new(state.open.size(0).min(GROUP_BYTES));
        let group = std::mem::replace(&mut state.open, next).finish(place, &state.last_entries);
        let position = current.position;
        current.position += group.bytes.len() as u64;
        assert!(current.position <= self.config.file_bytes, "a group ends within its file");
        state.last_sequence = place.sequence;
        state.last_crc = group.crc;
        state.last_entries.clone_from(&group.entries);
        state.sealed = group.entries.is_empty();
        let (file, bytes) = (current.file.clone(), group.bytes.clone());
        let ticket = state.first_in_flight + state.in_flight.len() as u64;
        state.in_flight.push_back(Written { group: Some(group), opened: state.opened, done: false });
        (file, position, bytes, ticket)
    }

    /// Makes a free file the current one; its header has to be written.
    fn switch_file(&self) -> (File, Bytes, u64) {
        let incarnation = self.io.random_u64();
        let state = &mut *self.state.borrow_mut();
        let file = state.free.pop().expect("appends wait for a free file before the current one is full");
        let file_sequence =
            state.current.as_ref().map_or(state.start.file_sequence, |current| current.lineage.file_sequence + 1);
        let lineage = Lineage { journal: state.start.journal, file_sequence, incarnation };
        let header = FileHeader {
            lineage,
            last_sequence: state.last_sequence,
            last_crc: state.last_crc,
            synced_up_to: state.synced_up_to,
        };
        let next = Current { file: file.clone(), lineage, position: FILE_GROUPS_START };
        if let Some(full) = state.current.replace(next) {
            state.full.push_back((full.lineage.file_sequence, full.file));
        }
        let ticket = state.first_in_flight + state.in_flight.len() as u64;
        state.in_flight.push_back(Written { group: None, opened: state.opened, done: false });
        (file, header.encode(), ticket)
    }

    fn spawn_write(&self, file: File, position: u64, bytes: Bytes, ticket: u64) {
        let journal = self.clone();
        self.io.spawn(Class::Foreground, async move {
            // Until a start has taken over what it found, it serves nobody.
            let is_start = planted!(ServeBeforeRecoveryFlush) && journal.state.borrow().unbounded;
            let (began, written) = (journal.io.now(), bytes.len());
            let mut result = match planted!(WriteWithoutFlush) || is_start {
                true => file.write_at(position, bytes.clone()).await,
                false => file.write_durable_at(position, bytes.clone()).await,
            };
            if result.is_err() && planted!(RetryFailedFlush) {
                result = file.sync().await;
            }
            match result {
                Ok(()) => {
                    let stats = &journal.io.stats().journal;
                    stats.flush.record(journal.io.now().since(began));
                    stats.written_bytes.add(written as u64);
                    journal.complete(ticket);
                }
                Err(error) => journal.failure.set(format!("a write of the journal failed: {error}")),
            }
        });
    }

    /// Notes a completed write and hands out the groups that are durable by it.
    fn complete(&self, ticket: u64) {
        if self.failure.is_set() {
            return;
        }
        let state = &mut *self.state.borrow_mut();
        if let Some(index) = ticket.checked_sub(state.first_in_flight) {
            state.in_flight[index as usize].done = true;
            if planted!(AcknowledgePastGap) {
                state.in_flight.iter_mut().take(index as usize).for_each(|written| written.done = true);
            }
        }
        while state.in_flight.front().is_some_and(|written| written.done) {
            let written = state.in_flight.pop_front().expect("there is a front");
            state.first_in_flight += 1;
            if let Some(group) = written.group {
                self.count_durable(&group, written.opened);
                state.synced_up_to = group.place.sequence;
                let file_sequence = group.place.lineage.file_sequence;
                state.durable.push_back(DurableGroup { group, file_sequence });
            }
        }
        self.durable_bell.ring();
        self.work_bell.ring();
    }

    /// Seals are no flush that anyone waits for.
    fn count_durable(&self, group: &Group, opened: Instant) {
        if !group.entries.is_empty() {
            self.io.stats().stages.flush.record(self.io.now().since(opened));
            self.io.stats().journal.groups.add(1);
        }
    }

    /// Writes one empty group when the journal has been idle for a while: the last synced group with nothing
    /// behind it could not be told from a torn one.
    async fn seal_when_idle(&self) {
        loop {
            self.work_bell.until(|| (!self.state.borrow().sealed).then_some(())).await;
            let seen = self.state.borrow().last_sequence;
            self.io.sleep(SEAL_AFTER).await;
            let idle = {
                let state = self.state.borrow();
                state.last_sequence == seen && state.open.is_empty() && state.in_flight.is_empty() && !state.sealed
            };
            if idle && self.has_room(0) && !self.failure.is_set() {
                self.write_group();
            }
        }
    }

    /// Keeps one pre-written file ahead of need, up to the journal's bound.
    async fn keep_files_ready(&self) {
        loop {
            self.work_bell
                .until(|| {
                    let state = self.state.borrow();
                    (state.free.is_empty() && (state.unbounded || state.files < JOURNAL_FILES)).then_some(())
                })
                .await;
            let made = self.prepare_file().await;
            self.state.borrow_mut().unmade = made.as_ref().err().map(ToString::to_string);
            self.work_bell.ring();
            if let Err(error) = made {
                // Not a failure of the log: appends wait until files are released, and it is tried again.
                tracing::warn!("no journal file could be made ({error}); appends may have to wait");
                self.io.sleep(std::time::Duration::from_secs(1)).await;
            }
        }
    }

    /// Completes when an entry of `len` bytes can be appended.
    ///
    /// # Errors
    /// If there is no room and no file can be made: nobody gives files back before a start has taken over what it found.
    pub async fn room_at_start(&self, len: usize) -> io::Result<()> {
        let room_or_none = || match (self.has_room(len), &self.state.borrow().unmade) {
            (true, _) => Some(Ok(())),
            (false, Some(why)) => Some(Err(io::Error::new(io::ErrorKind::StorageFull, why.clone()))),
            (false, None) => None,
        };
        self.work_bell.until(room_or_none).await
    }

    /// Makes a file and writes all of it once: a flush of such a file later moves no metadata. One that cannot be made
    /// leaves nothing behind.
    async fn prepare_file(&self) -> io::Result<()> {
        let name = self.state.borrow().next_name;
        let path = self.config.dir.join(file_name(name));
        let file = match self.write_file(&path).await {
            Err(error) => {
                if let Err(stays) = self.io.remove_file(&path).await
                    && stays.kind() != io::ErrorKind::NotFound
                {
                    tracing::warn!(path = %path.display(), "an unfinished journal file could not be removed: {stays}");
                }
                return Err(error);
            }
            file => file?,
        };
        let mut state = self.state.borrow_mut();
        state.next_name += 1;
        state.files += 1;
        state.free.push(file);
        Ok(())
    }

    async fn write_file(&self, path: &std::path::Path) -> io::Result<File> {
        let file = self.io.open(path, OpenMode::Create).await?;
        lock(&self.io, &file).await?;
        file.allocate(0, self.config.file_bytes).await?;
        let zeros = Buffer::zeroed(1 << 20).freeze();
        let mut position = 0;
        while position < self.config.file_bytes {
            let len = zeros.len().min((self.config.file_bytes - position) as usize);
            file.write_at(position, zeros.slice(..len)).await?;
            position += len as u64;
        }
        file.sync().await?;
        self.io.sync_dir(&self.config.dir).await?;
        Ok(file)
    }
}

/// The name of a journal file.
pub fn file_name(number: u32) -> String {
    format!("{number:08}.journal")
}

/// The number of a journal file's name.
pub fn file_number(name: &str) -> Option<u32> {
    name.strip_suffix(".journal")?.parse().ok()
}

/// Locks a file for as long as it is open. Waits for up to 30 seconds: a request of a dead process that the
/// kernel still carries out keeps the file locked until it can no longer write.
pub async fn lock(io: &Io, file: &File) -> io::Result<()> {
    for _ in 0..300 {
        if file.try_lock()? {
            return Ok(());
        }
        io.sleep(std::time::Duration::from_millis(100)).await;
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "another process holds the file's lock"))
}
