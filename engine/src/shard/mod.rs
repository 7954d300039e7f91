//! One core's loop over its partitions.
//!
//! A request enters by [`Shard::handle`], in the order of the calls; batches are judged and appended one
//! after another, so that a connection's order is its partitions' order; what must wait for stable storage
//! waits in the [`purgatory`], not in the loop. [`node`] is what ties the cores of a broker together.

mod coordinator;
mod delete_records;
mod figures;
pub mod housekeeping;
mod identity;
mod lane;
pub mod message;
pub mod node;
pub mod partition;
pub mod purgatory;
pub mod quorum;
mod refusals;
mod removal;
mod share;
mod transactions;
pub mod verification;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use crate::accounts::{Accounts, Class as Memory};
use crate::controller::image::Topic;
use crate::controller::{MetadataImage, Settings};
use crate::io::local::{self, Bell};
use crate::io::{Class, Instant, Io, Pace};
use crate::limits::{DRAIN_BYTES, TAIL_BUFFERS_AT_ONCE};
use crate::log::checkpoint::Checkpoint;
use crate::log::direct;
use crate::log::drain::SharedLog;
use crate::log::group::EntryKind;
use crate::log::journal::{DiskFailure, Journal};
use crate::log::partition_log::LogRecord;
use crate::log::reader::{self, Found, OpenSegments, TimedOffset, Wanted};
use crate::log::tail_cache::TailCache;
use crate::log::{Log, PartitionId};
use crate::protocol::ErrorCode;
use crate::record::{Scratch, Validated, batches};
use crate::stats::Unflushed;

use coordinator::Coordinators;
use lane::Lane;
use message::{
    Await, EpochEnd, EpochEnded, ListOffset, ListedOffset, Produce, Produced, Read, ReadFrom, ReadPart, Reply, Request,
};
use node::ReplyTo;
use partition::{Outcome, Partition};
use purgatory::{PendingAwait, PendingProduce, Purgatory};
use removal::{remove_dir_with_files, remove_partition_dir};
use share::Shares;

pub use node::{Core, Message, NodeConfig, StartError, Waiting, node_mailboxes, start};

/// One core's partitions and what they share: journal, checkpoint, tail cache.
pub struct Shard {
    io: Io,
    data_dir: PathBuf,
    settings: Arc<Settings>,
    /// The newest image that has been applied.
    image: RefCell<Arc<MetadataImage>>,
    coordinators: Coordinators,
    shares: Shares,
    /// Requests to other shards.
    outgoing: Outgoing,
    number: usize,
    shards: usize,
    journal: Journal,
    failure: DiskFailure,
    largest_batch: usize,
    partitions: RefCell<BTreeMap<PartitionId, Partition>>,
    /// Each with when it came.
    produces: RefCell<VecDeque<(Produce, ReplyTo, Instant)>>,
    produce_bell: Bell,
    lane: Lane,
    applies: RefCell<VecDeque<(Arc<MetadataImage>, ReplyTo)>>,
    apply_bell: Bell,
    purgatory: Rc<Purgatory>,
    opened: OpenSegments,
    scratch: RefCell<Scratch>,
    cache: RefCell<TailCache>,
    /// Bytes of all logs that are in no segment yet; with [`Shard::most_undrained`] of them appends wait.
    undrained: Rc<Cell<usize>>,
    most_undrained: usize,
    checkpoint: RefCell<Option<Checkpoint>>,
    /// Partitions that are gone and that the checkpoint still names.
    removed: RefCell<Vec<PartitionId>>,
    /// Whether the tail cache may hold something of partitions that are gone.
    has_gone: Cell<bool>,
    /// Directories to be unlinked.
    doomed: RefCell<VecDeque<PathBuf>>,
    doomed_bell: Bell,
    /// Rings when a log begins later than before, or is gone.
    started: Bell,
    /// Rings when a drain has ended.
    drained: Bell,
    /// Rings when there may be something to drain or to checkpoint.
    housekeeping: Bell,
    disk_full: Cell<bool>,
    /// When a lack other than of space was last told.
    lack_was_told: Cell<Option<Instant>>,
    /// When logs whose files are at fault are tried again.
    broken_due: Cell<Instant>,
    stopping: Cell<bool>,
    /// Whether drains and checkpoints are under way.
    keeping_house: Cell<bool>,
    /// Batches of at least so many bytes go past the journal.
    past_journal: usize,
    /// Growth of a coordinator's log after which its state is written anew, in bytes.
    snapshot_after_bytes: u64,
    /// Bytes that may have gone past it since the last checkpoint.
    most_extent_bytes: u64,
    /// Bytes that have; with the most of them, large batches go to the journal until there is a checkpoint.
    extent_bytes: Cell<u64>,
    /// Logs with batches on their way past the journal.
    direct_writers: Cell<usize>,
    /// What is acknowledged and not durable.
    unflushed: RefCell<Unflushed<PartitionId>>,
}

/// What this shard asks of others, on its way to the mailbox.
#[derive(Default)]
pub(crate) struct Outgoing {
    queue: RefCell<VecDeque<(usize, Request, local::Sender<Reply>)>>,
    bell: Bell,
}

/// A part's answer, and the offset that must be durable for it.
type Appended = (Produced, Option<(PartitionId, i64)>);

/// What a shard starts from.
pub struct ShardStart {
    /// The core's handle.
    pub io: Io,
    /// The broker's data directory.
    pub data_dir: PathBuf,
    /// The broker's static settings.
    pub settings: Arc<Settings>,
    /// The image that the shard starts from.
    pub image: Arc<MetadataImage>,
    /// This shard's number, and how many there are.
    pub number: (usize, usize),
    /// The journal, which has begun.
    pub journal: Journal,
    /// Tells the core when the disk has failed.
    pub failure: DiskFailure,
    /// The largest batch that the journal takes, in bytes.
    pub largest_batch: usize,
    /// The journal's checkpoint files.
    pub checkpoint: Checkpoint,
    /// The core's memory by its use.
    pub accounts: Accounts,
    /// Batches of at least so many bytes go past the journal.
    pub past_journal: usize,
    /// Growth of a coordinator's log after which its state is written anew, in bytes.
    pub snapshot_after_bytes: u64,
    /// Bytes that may have gone past the journal since the last checkpoint.
    pub most_extent_bytes: u64,
}

impl Shard {
    /// A shard without partitions; [`Shard::run`] starts its tasks.
    pub fn new(start: ShardStart) -> Rc<Shard> {
        Rc::new(Shard {
            io: start.io,
            data_dir: start.data_dir,
            settings: start.settings,
            image: RefCell::new(start.image),
            coordinators: Coordinators::default(),
            shares: Shares::default(),
            outgoing: Outgoing::default(),
            number: start.number.0,
            shards: start.number.1,
            journal: start.journal,
            failure: start.failure,
            largest_batch: start.largest_batch,
            partitions: RefCell::default(),
            produces: RefCell::default(),
            produce_bell: Bell::default(),
            lane: Lane::default(),
            applies: RefCell::default(),
            apply_bell: Bell::default(),
            purgatory: Rc::default(),
            opened: OpenSegments::default(),
            scratch: RefCell::new(Scratch::new()),
            cache: RefCell::new(TailCache::new(
                start.accounts.limit(Memory::TailCache) + start.accounts.limit(Memory::Undrained),
            )),
            undrained: Rc::default(),
            most_undrained: start.accounts.limit(Memory::Undrained),
            checkpoint: RefCell::new(Some(start.checkpoint)),
            removed: RefCell::default(),
            has_gone: Cell::new(false),
            doomed: RefCell::default(),
            doomed_bell: Bell::default(),
            started: Bell::default(),
            drained: Bell::default(),
            housekeeping: Bell::default(),
            disk_full: Cell::new(false),
            lack_was_told: Cell::new(None),
            broken_due: Cell::default(),
            stopping: Cell::new(false),
            keeping_house: Cell::new(false),
            past_journal: start.past_journal,
            snapshot_after_bytes: start.snapshot_after_bytes,
            most_extent_bytes: start.most_extent_bytes,
            extent_bytes: Cell::new(0),
            direct_writers: Cell::new(0),
            unflushed: RefCell::default(),
        })
    }

    /// Starts the shard's tasks.
    pub fn run(self: &Rc<Shard>) {
        let shard = self.clone();
        self.io.spawn(Class::Foreground, async move { shard.append_produces().await });
        self.io.spawn(Class::Foreground, self.clone().append_late());
        let shard = self.clone();
        self.io.spawn(Class::Foreground, async move { shard.apply_images().await });
        let shard = self.clone();
        self.io.spawn(Class::Foreground, async move { shard.purgatory.run(&shard.io).await });
        let shard = self.clone();
        self.io.spawn(Class::Background, async move { shard.keep_house().await });
        self.io.spawn(Class::Background, self.clone().unlink_doomed());
        let image = self.image.borrow().clone();
        self.open_coordinators(&image);
        let shard = self.clone();
        self.io.spawn(Class::Foreground, async move { shard.coordinate().await });
        let shard = self.clone();
        self.io.spawn(Class::Foreground, async move { shard.send_markers().await });
        let shard = self.clone();
        self.io.spawn(Class::Foreground, async move { shard.keep_share_locks().await });
    }

    /// Starts the task that hands durable groups to their partitions.
    pub fn run_settling(self: &Rc<Shard>) {
        let shard = self.clone();
        self.io.spawn(Class::Foreground, async move { shard.settle_durable_groups().await });
    }

    /// Asks the shard of that number, which may be this one.
    fn ask(self: &Rc<Shard>, shard: usize, request: Request) -> local::Receiver<Reply> {
        let (sender, receiver) = local::oneshot();
        if shard == self.number {
            self.handle(request, ReplyTo::Local(sender));
        } else {
            self.outgoing.queue.borrow_mut().push_back((shard, request, sender));
            self.outgoing.bell.ring();
        }
        receiver
    }

    /// The next request of this shard to another one.
    pub(super) async fn next_outgoing(&self) -> (usize, Request, local::Sender<Reply>) {
        self.outgoing.bell.until(|| self.outgoing.queue.borrow_mut().pop_front()).await
    }

    /// Takes a request. Produces are judged in the order of these calls; others are answered when they can be.
    pub fn handle(self: &Rc<Shard>, request: Request, reply: ReplyTo) {
        match request {
            Request::Produce(produce) => {
                self.produces.borrow_mut().push_back((produce, reply, self.io.now()));
                self.produce_bell.ring();
            }
            Request::Read(read) => {
                let shard = self.clone();
                self.io.spawn(Class::Foreground, async move { reply.send(Reply::Read(shard.read(read).await)) });
            }
            Request::Await(wait) => {
                let shard = self.clone();
                let pending = PendingAwait::new(reply, wait.deadline, &self.purgatory);
                self.io.spawn(Class::Foreground, async move { shard.wait_for_news(wait, &pending).await });
            }
            Request::ListOffsets(parts) => {
                let shard = self.clone();
                self.io.spawn(Class::Foreground, async move {
                    reply.send(Reply::ListOffsets(shard.list_offsets(parts).await))
                });
            }
            Request::EpochEnd(parts) => {
                reply.send(Reply::EpochEnd(parts.iter().map(|part| self.epoch_end(part)).collect()))
            }
            Request::VerifyTransactions(parts) => {
                reply.send(Reply::VerifyTransactions(parts.iter().map(|part| self.verify_transaction(part)).collect()))
            }
            Request::WriteMarkers(parts) => {
                let shard = self.clone();
                self.io.spawn(Class::Foreground, async move { shard.write_markers(parts, reply).await });
            }
            Request::DescribeProducers(ids) => {
                reply.send(Reply::DescribeProducers(ids.into_iter().map(|id| self.describe_producers(id)).collect()))
            }
            Request::Coordinate(id, request) => self.coordinators.request(id, request, None, reply),
            Request::CoordinateInTransaction(id, request, producer, guard) => {
                self.coordinators.request(id, request, Some((producer, guard)), reply)
            }
            Request::DeleteRecords(wanted) => {
                let shard = self.clone();
                self.io.spawn(Class::Foreground, async move {
                    reply.send(Reply::DeleteRecords(shard.delete_records(wanted).await))
                });
            }
            Request::ShareAcquire(wanted) => {
                let shard = self.clone();
                self.io.spawn(Class::Foreground, async move {
                    reply.send(Reply::ShareAcquire(shard.acquire_shares(wanted).await))
                });
            }
            Request::ShareAwait(wait) => self.wait_for_shares(wait, reply),
            Request::ShareAcknowledge(taken) => {
                let shard = self.clone();
                self.io.spawn(Class::Foreground, async move {
                    reply.send(Reply::ShareAcknowledge(shard.acknowledge_shares(taken).await))
                });
            }
            Request::ShareRelease(member, of) => {
                let shard = self.clone();
                self.io.spawn(Class::Foreground, async move {
                    reply.send(Reply::ShareAcknowledge(shard.release_shares(&member, of).await))
                });
            }
            Request::ShareForget(of) => {
                self.forget_shares(&of);
                reply.send(Reply::ShareForget);
            }
            Request::LogSizes => reply.send(Reply::LogSizes(self.log_sizes())),
            Request::Apply(image) => {
                self.applies.borrow_mut().push_back((image, reply));
                self.apply_bell.ring();
            }
            Request::Stop => {
                let shard = self.clone();
                self.io.spawn(Class::Foreground, async move {
                    let is_clean = shard.stop().await;
                    reply.send(Reply::Stop(is_clean));
                });
            }
        }
    }

    /// Appends a batch that has passed its check; gives its answer and the offset that must be durable for it.
    async fn append(
        self: &Rc<Shard>,
        produce: &Produce,
        part: &message::ProducePart,
        batch: Validated<'_>,
    ) -> Appended {
        let size = batch.batch.len();
        loop {
            let has_all = (self.journal.has_room(size) || self.wait_for_room(size, produce.deadline).await)
                && self.wait_for_memory(produce.deadline).await
                && self.wait_for_direct_room(part.id, produce.deadline).await;
            if !has_all {
                return (self.refuse_for_now(part, ErrorCode::RequestTimedOut), None);
            }
            // The queue and the slow lane may have waited for the same room.
            if self.journal.has_room(size) {
                break;
            }
        }
        let mut partitions = self.partitions.borrow_mut();
        let Some(partition) = partitions.get_mut(&part.id) else {
            return (Produced::refused(ErrorCode::NotLeaderOrFollower), None);
        };
        if size >= self.past_journal && self.may_have_extents() {
            self.open_direct(&partition.log);
        }
        match partition.append(&self.journal, &batch, part.guard) {
            Outcome::Answered(result) => (result, None),
            Outcome::Appended(_, result) if produce.acks == 0 => (result, None),
            Outcome::Appended(end, result) if partition.is_relaxed() => {
                self.count_unflushed(part.id, partition.log.borrow().durable_end_offset(), end);
                (result, None)
            }
            Outcome::Appended(end, result) => (result, Some((part.id, end))),
        }
    }

    /// Refuses what its producer sends again when there is room.
    fn refuse_for_now(&self, part: &message::ProducePart, error: ErrorCode) -> Produced {
        if let Some(partition) = self.partitions.borrow_mut().get_mut(&part.id) {
            partition.note_refused(part);
        }
        Produced::refused(error)
    }

    /// From now on the log's appends go past the journal, until none waits.
    fn open_direct(self: &Rc<Shard>, log: &SharedLog) {
        if !log.borrow_mut().open_direct() {
            return;
        }
        self.direct_writers.set(self.direct_writers.get() + 1);
        let (shard, log) = (self.clone(), log.clone());
        self.io.spawn(Class::Foreground, async move {
            let may_go_on = || shard.may_have_extents();
            let result = direct::write_waiting(&shard.io, &log, &shard.journal, &shard.drained, may_go_on).await;
            shard.direct_writers.set(shard.direct_writers.get() - 1);
            shard.drained.ring();
            if result.is_err()
                && let Err(error) = shard.judge_log(&log, result)
            {
                shard.judge("a write to a segment", Err(error)).await;
            }
        });
    }

    /// Whether more may go past the journal before the next checkpoint.
    fn may_have_extents(&self) -> bool {
        self.extent_bytes.get() < self.most_extent_bytes
    }

    /// Waits until there is memory for what is in no segment yet; false if the request's time is over.
    async fn wait_for_memory(&self, deadline: Instant) -> bool {
        let has_memory = || self.undrained.get() < self.most_undrained || self.undrained.get() == 0;
        if has_memory() {
            return true;
        }
        self.housekeeping.ring();
        let room = async {
            self.drained.until(|| has_memory().then_some(())).await;
            true
        };
        let late = async {
            self.io.sleep_until(deadline).await;
            false
        };
        futures_lite::future::or(room, late).await
    }

    /// Waits until another batch of the partition may wait for its segment; false if the request's time is over.
    async fn wait_for_direct_room(&self, id: PartitionId, deadline: Instant) -> bool {
        let has_room = || {
            let partitions = self.partitions.borrow();
            partitions.get(&id).is_none_or(|partition| partition.log.borrow().has_direct_room())
        };
        if has_room() {
            return true;
        }
        let room = async {
            self.drained.until(|| has_room().then_some(())).await;
            true
        };
        let late = async {
            self.io.sleep_until(deadline).await;
            false
        };
        futures_lite::future::or(room, late).await
    }

    /// Whether anything may be appended: the disk has room and works, and the shard is not being stopped.
    pub(super) fn takes_appends(&self) -> bool {
        !self.disk_full.get() && !self.failure.is_set() && !self.stopping.get()
    }

    /// Waits until the journal has room; false if the request's time is over, or there is never going to be.
    async fn wait_for_room(&self, len: usize, deadline: Instant) -> bool {
        self.housekeeping.ring();
        let room = async {
            self.journal.room(len).await;
            true
        };
        let late = async {
            self.io.sleep_until(deadline).await;
            false
        };
        let failed = async {
            self.failure.wait().await;
            false
        };
        futures_lite::future::or(room, futures_lite::future::or(late, failed)).await
    }

    fn answer_when_durable(
        &self,
        produce: &Produce,
        results: Vec<Produced>,
        ends: Vec<Option<(PartitionId, i64)>>,
        reply: ReplyTo,
    ) {
        let waiting = ends.iter().map(Option::is_some).collect();
        let pending = PendingProduce::new(results, waiting, reply, &self.purgatory, Reply::Produce);
        for (index, end) in ends.into_iter().enumerate() {
            if let Some((id, end)) = end {
                self.settle_when_durable(id, end, &pending, index);
            }
        }
        pending.expire_at(produce.deadline);
    }

    fn settle_when_durable(&self, id: PartitionId, end: i64, pending: &Rc<PendingProduce>, index: usize) {
        match self.partitions.borrow_mut().get_mut(&id) {
            Some(partition) if partition.log.borrow().durable_end_offset() >= end => pending.settle(index, None),
            Some(partition) => partition.wait_durable(end, pending, index),
            None => pending.settle(index, Some(ErrorCode::NotLeaderOrFollower)),
        }
    }

    /// Hands each durable group to its partitions, for ever.
    async fn settle_durable_groups(&self) {
        loop {
            let durable = self.journal.next_durable().await;
            let mut partitions = self.partitions.borrow_mut();
            let mut touched = Vec::with_capacity(durable.group.entries.len());
            let mut cached = Vec::with_capacity(durable.group.entries.len());
            for (entry, bytes) in durable.group.payloads() {
                let Some(partition) = partitions.get_mut(&entry.id) else { continue };
                let mut log = partition.log.borrow_mut();
                let bytes = log.on_durable(entry, bytes, durable.file_sequence);
                if entry.kind == EntryKind::Extent {
                    self.extent_bytes.set(self.extent_bytes.get() + bytes.len() as u64);
                    self.cache.borrow_mut().note(&bytes, vec![(entry.id, entry.end_offset)]);
                }
                if entry.kind == EntryKind::LogStart {
                    self.started.ring();
                    continue;
                }
                if log.undrained_bytes() >= DRAIN_BYTES {
                    self.housekeeping.ring();
                }
                if entry.kind == EntryKind::Append {
                    cached.push((entry.id, entry.end_offset));
                }
                touched.push(entry.id);
            }
            touched.sort_unstable();
            touched.dedup();
            for id in touched {
                if let Some(partition) = partitions.get_mut(&id) {
                    partition.on_durable();
                    self.count_durable(id, partition.log.borrow().durable_end_offset());
                    self.coordinators.settle(id, partition.log.borrow().durable_end_offset());
                }
            }
            drop(partitions);
            self.cache.borrow_mut().note(&durable.group.bytes, cached);
            if self.undrained.get() > self.most_undrained / 2 {
                self.housekeeping.ring();
            }
            self.evict(TAIL_BUFFERS_AT_ONCE);
            self.journal.dealt_with();
        }
    }

    /// Lets tails go that are more than the cache may hold, looking at `most` buffers.
    fn evict(&self, most: usize) {
        let partitions = self.partitions.borrow();
        let evicted =
            self.cache.borrow_mut().evict(most, |id| partitions.get(&id).map(|partition| partition.log.clone()));
        self.io.stats().housekeeping.evicted_bytes.add(evicted as u64);
    }

    async fn wait_for_news(&self, wait: Await, pending: &Rc<PendingAwait>) {
        let pace = Pace::new(&self.io);
        for (id, seen_end) in &wait.parts {
            pace.spend(1).await;
            if pending.is_answered() {
                return;
            }
            let mut partitions = self.partitions.borrow_mut();
            let waits = partitions
                .get_mut(id)
                .is_some_and(|partition| partition.wait_news(*seen_end, wait.read_committed, pending));
            if !waits {
                return pending.answer();
            }
        }
    }

    /// Whoever waited for news under that token no longer does.
    pub(super) fn cancel(&self, asker: purgatory::Asker) {
        self.purgatory.cancel(asker);
    }

    /// Requests that wait here.
    pub(super) fn waiting(&self) -> usize {
        self.purgatory.waiting()
    }

    async fn read(&self, read: Read) -> Vec<ReadPart> {
        let mut left = read.max_bytes;
        let mut found_any = false;
        let mut parts = Vec::with_capacity(read.parts.len());
        let pace = Pace::new(&self.io);
        for from in &read.parts {
            pace.spend(1).await;
            let part = self.read_part(from, read.read_committed, left, read.first_whole && !found_any).await;
            let bytes: usize = part.records.iter().map(bytes::Bytes::len).sum();
            left = left.saturating_sub(bytes);
            found_any |= bytes > 0;
            parts.push(part);
        }
        parts
    }

    async fn read_part(&self, from: &ReadFrom, read_committed: bool, left: usize, at_least_one: bool) -> ReadPart {
        let (frame, log) = {
            let partitions = self.partitions.borrow();
            let Some(partition) = partitions.get(&from.id) else {
                return ReadPart::refused(ErrorCode::NotLeaderOrFollower);
            };
            (
                partition.read_frame(from.current_leader_epoch, from.last_fetched_epoch, from.offset),
                partition.log.clone(),
            )
        };
        if frame.error != ErrorCode::None || frame.diverging_epoch.is_some() {
            return frame;
        }
        let visible = if read_committed { frame.last_stable_offset } else { frame.high_watermark };
        let bound = visible.min(log.borrow().durable_end_offset());
        let found =
            reader::read(&self.io, &log, &self.opened, from.offset, bound, left.min(from.max_bytes), at_least_one)
                .await;
        match found {
            Ok(Found::Batches(records)) if read_committed => self.with_aborted(from, &log, records, frame).await,
            Ok(Found::Batches(records)) => ReadPart { records, ..frame },
            Ok(Found::Damaged) => ReadPart::refused(ErrorCode::CorruptMessage),
            Err(error) => read_failed(from, &log, &error),
        }
    }

    /// The records with the aborted transactions that a reader must leave out of them.
    async fn with_aborted(
        &self,
        from: &ReadFrom,
        log: &SharedLog,
        records: Vec<bytes::Bytes>,
        frame: ReadPart,
    ) -> ReadPart {
        let last = records.last().and_then(|chunk| batches(chunk).map_while(Result::ok).last());
        let Some(end) = last.map(|batch| batch.last_offset() + 1) else { return frame };
        match reader::aborted_transactions(&self.io, log, &self.opened, from.offset, end).await {
            Ok(found) => {
                let aborted_transactions = found.iter().map(|found| (found.producer_id, found.first_offset)).collect();
                ReadPart { records, aborted_transactions, ..frame }
            }
            // Without them nobody can say which of the records are committed.
            Err(error) => read_failed(from, log, &error),
        }
    }

    async fn list_offsets(&self, parts: Vec<ListOffset>) -> Vec<ListedOffset> {
        let mut listed = Vec::with_capacity(parts.len());
        for part in &parts {
            listed.push(self.list_offset(part).await);
        }
        listed
    }

    async fn list_offset(&self, part: &ListOffset) -> ListedOffset {
        let unknown = |error| ListedOffset { error, timestamp: -1, offset: -1, leader_epoch: -1 };
        let (log, end) = {
            let partitions = self.partitions.borrow();
            let Some(partition) = partitions.get(&part.id) else { return unknown(ErrorCode::NotLeaderOrFollower) };
            let error = partition.check_epoch(part.current_leader_epoch);
            if error != ErrorCode::None {
                return unknown(error);
            }
            if let Some(named) = partition.named_offset(part.timestamp, part.read_committed) {
                return named;
            }
            let end = partition.visible_end(part.read_committed);
            (partition.log.clone(), end)
        };
        let wanted = if part.timestamp == -3 { Wanted::Greatest } else { Wanted::AtOrAfter(part.timestamp) };
        let mut scratch = Scratch::new();
        match reader::find_by_time(&self.io, &log, &self.opened, wanted, end, &mut scratch).await {
            Ok(Some(TimedOffset { timestamp, offset, leader_epoch })) => {
                ListedOffset { error: ErrorCode::None, timestamp, offset, leader_epoch }
            }
            Ok(None) => unknown(ErrorCode::None),
            Err(error) => {
                tracing::error!(partition = %part.id, "a search by time failed: {error}");
                unknown(ErrorCode::KafkaStorageError)
            }
        }
    }

    fn epoch_end(&self, part: &EpochEnd) -> EpochEnded {
        match self.partitions.borrow().get(&part.id) {
            Some(partition) => partition.epoch_end(part.current_leader_epoch, part.leader_epoch),
            None => EpochEnded { error: ErrorCode::NotLeaderOrFollower, leader_epoch: -1, end_offset: -1 },
        }
    }

    /// Applies images in their order, for ever.
    async fn apply_images(self: &Rc<Shard>) {
        loop {
            let (image, reply) = self.apply_bell.until(|| self.applies.borrow_mut().pop_front()).await;
            match self.apply(&image).await {
                Ok(()) => self.open_coordinators(&image),
                Err(error) => self.failure.set(format!("a change of topics failed on disk: {error}")),
            }
            *self.image.borrow_mut() = image;
            reply.send(Reply::Apply);
        }
    }

    /// Makes the shard's partitions those of the image: removed ones first, for a name may be used again.
    async fn apply(&self, image: &MetadataImage) -> io::Result<()> {
        self.remove_gone(image).await?;
        for topic in image.topics.values() {
            for partition in 0..topic.partitions.len() as i32 {
                let id = PartitionId { topic_id: topic.id, partition };
                if message::owner(id, self.shards) == self.number {
                    self.apply_partition(topic, id);
                }
            }
        }
        Ok(())
    }

    fn apply_partition(&self, topic: &Arc<Topic>, id: PartitionId) {
        let mut partitions = self.partitions.borrow_mut();
        if let Some(partition) = partitions.get_mut(&id) {
            partition.apply(topic, &topic.partitions[id.partition as usize], self.largest_batch);
            return;
        }
        let mut log = Log::restore(
            LogRecord::new(id),
            partition_dir(&self.data_dir, &topic.name, id.partition),
            Default::default(),
        );
        log.set_ownership(1);
        log.count_undrained_in(&self.undrained);
        partitions.insert(id, Partition::new(log, topic, id.partition, self.largest_batch));
    }

    /// Adds a partition whose log recovery has brought back.
    pub fn add(&self, topic: &Topic, mut log: Log) {
        let id = log.id;
        log.count_undrained_in(&self.undrained);
        let partition = Partition::new(log, topic, id.partition, self.largest_batch);
        self.partitions.borrow_mut().insert(id, partition);
    }
}

/// Where a partition's files are.
pub fn partition_dir(data_dir: &Path, topic: &str, partition: i32) -> PathBuf {
    data_dir.join(format!("{topic}-{partition}"))
}

/// A partition's part of a read that could not be done.
fn read_failed(from: &ReadFrom, log: &SharedLog, error: &io::Error) -> ReadPart {
    // A segment may go away under a reader: with its topic, or behind the log's start.
    if log.borrow().log_start_offset() > from.offset {
        return ReadPart::refused(ErrorCode::OffsetOutOfRange);
    }
    if log.borrow().is_deleted() {
        return ReadPart::refused(ErrorCode::UnknownTopicOrPartition);
    }
    tracing::error!(partition = %from.id, "a read failed: {error}");
    ReadPart::refused(match error.kind() {
        // Records whose file is gone are as lost as those that a fault has changed.
        io::ErrorKind::InvalidData | io::ErrorKind::NotFound => ErrorCode::CorruptMessage,
        _ => ErrorCode::KafkaStorageError,
    })
}

/// A shard's logs, for its housekeeping.
fn logs(partitions: &BTreeMap<PartitionId, Partition>) -> Vec<SharedLog> {
    partitions.values().map(|partition| partition.log.clone()).collect()
}
