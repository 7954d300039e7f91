//! The share partitions whose logs this core owns: reads, waits, locks and what is recorded of them.
//!
//! A [`SharePartition`] decides; here its records are read, its changes are sent to the share coordinator, and time
//! passes. It is loaded from the share coordinator when it is first asked for. Invariants: whoever acknowledges is
//! answered when the share coordinator has the change on stable storage; a share partition that was thrown away is
//! never told of a change's end (each load has a number); whoever waits is woken by everything that may give it
//! records, and by nothing else twice.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::Bytes;

use super::Shard;
use super::message::{
    ListOffset, PartitionId, ReadFrom, ReadPart, Reply, Request, ShareAcknowledge, ShareAcquire, ShareAcquired,
    ShareAwait, ShareRefused, SharesOf, owner,
};
use super::node::ReplyTo;
use super::purgatory::{PendingAwait, Readers};
use crate::controller::BrokerValues;
use crate::controller::configs::duration_ms;
use crate::controller::resource_configs::{self, ResourceKind};
use crate::coordinator::share::{ShareAction, SharePartitionKey, ShareRefusal, ShareReply, ShareRequest, UNKNOWN};
use crate::coordinator::{self, SHARE_TOPIC, partition_of};
use crate::io::local::{self, Bell};
use crate::io::{Class, Instant};
use crate::limits::{SHARE_COORDINATOR_PATIENCE, SHARE_COORDINATOR_RETRY, SHARE_IDLE, SHARE_LOOK_AROUND};
use crate::protocol::ErrorCode;
use crate::record::{BatchView, batches, control};
use crate::replication::share_partition::{Fetched, Refusal, Rules, SharePartition, Span, Write};

const NOT_HOSTED: ShareRefused =
    ShareRefused(ErrorCode::UnknownTopicOrPartition, "This server does not host this topic-partition.");
const NOT_LOADED: ShareRefused =
    ShareRefused(ErrorCode::InvalidRecordState, "The share partition is not loaded: nothing of it is acquired.");
const NOT_AVAILABLE: ShareRefused =
    ShareRefused(ErrorCode::CoordinatorNotAvailable, "The share coordinator is not available.");

/// The share partitions of one core.
#[derive(Default)]
pub(super) struct Shares {
    entries: RefCell<BTreeMap<PartitionId, BTreeMap<String, Entry>>>,
    last_load: Cell<u64>,
    /// When the task that ends locks will look at them, if it will.
    armed_ms: Cell<Option<u64>>,
    /// Rings when it must look earlier.
    bell: Bell,
}

struct Entry {
    /// Tells one life of it from the next.
    load: u64,
    state: State,
    waiters: Rc<Readers>,
    used: Instant,
}

enum State {
    Loading,
    Active(SharePartition),
    /// It could not be loaded; the next who asks is told, and it is loaded anew.
    Failed(ErrorCode),
}

/// What a request changes of a share partition: the load that it is of, and what is to be written, if anything.
type Change = (PartitionId, Result<Option<(u64, Write)>, ShareRefused>);

impl Entry {
    fn wake(&mut self) {
        self.waiters.answer_all();
    }
}

impl Shares {
    fn with<T>(&self, id: PartitionId, group: &str, act: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        self.entries.borrow_mut().get_mut(&id)?.get_mut(group).map(act)
    }

    fn with_active<T>(&self, id: PartitionId, group: &str, act: impl FnOnce(&mut SharePartition) -> T) -> Option<T> {
        self.with(id, group, |entry| match &mut entry.state {
            State::Active(machine) => Some(act(machine)),
            State::Loading | State::Failed(_) => None,
        })?
    }

    /// Throws a share partition away; who waits for it asks anew.
    fn forget_one(&self, id: PartitionId, group: &str) {
        let mut entries = self.entries.borrow_mut();
        let Some(groups) = entries.get_mut(&id) else { return };
        if let Some(mut entry) = groups.remove(group) {
            entry.wake();
        }
        if groups.is_empty() {
            entries.remove(&id);
        }
    }

    /// The partition leaves this core.
    pub(super) fn close(&self, id: PartitionId) {
        for mut entry in self.entries.borrow_mut().remove(&id).into_iter().flat_map(BTreeMap::into_values) {
            entry.wake();
        }
    }

    /// A lock ends then.
    fn expect(&self, deadline_ms: Option<u64>) {
        if deadline_ms.is_some_and(|deadline| self.armed_ms.get().is_none_or(|armed| deadline < armed)) {
            self.bell.ring();
        }
    }

    fn next_deadline_ms(&self) -> Option<u64> {
        let entries = self.entries.borrow();
        let active = entries.values().flat_map(BTreeMap::values).filter_map(|entry| match &entry.state {
            State::Active(machine) => machine.next_deadline_ms(),
            State::Loading | State::Failed(_) => None,
        });
        active.min()
    }

    fn keys(&self) -> Vec<(PartitionId, String)> {
        let entries = self.entries.borrow();
        let keys = entries.iter().flat_map(|(id, groups)| groups.keys().map(|group| (*id, group.clone())));
        keys.collect()
    }
}

fn millis(now: Instant) -> u64 {
    now.0 / 1_000_000
}

/// What a group has set, or the broker for all.
struct GroupRules {
    rules: Rules,
    read_committed: bool,
}

impl Shard {
    fn share_rules(&self, group: &str) -> GroupRules {
        let image = self.image.borrow().clone();
        let values = BrokerValues::new(&self.settings, &image);
        let none = BTreeMap::new();
        let settings = image.resource_configs.get(&(ResourceKind::Group, group.to_owned())).unwrap_or(&none);
        let number = |name| values.number(name);
        let lock_ms = resource_configs::number("share.record.lock.duration.ms", settings, &values);
        let isolation = settings.get("share.isolation.level").map(|level| level.trim());
        GroupRules {
            rules: Rules {
                max_deliveries: i16::try_from(number("group.share.delivery.count.limit")).unwrap_or(i16::MAX),
                max_in_flight: number("group.share.partition.max.record.locks"),
                lock_ms: u64::try_from(lock_ms).unwrap_or(0),
            },
            read_committed: isolation == Some("read_committed"),
        }
    }
}

/// Giving out.
impl Shard {
    /// Gives a member what is there of share partitions, in order, without waiting.
    pub(super) async fn acquire_shares(self: &Rc<Shard>, wanted: ShareAcquire) -> Vec<ShareAcquired> {
        let group = self.share_rules(&wanted.group);
        let acquirable = wanted.ids.iter().filter(|id| self.can_acquire(**id, &wanted.group, &group.rules)).count();
        let each = wanted.max_bytes / acquirable.max(1);
        let mut reads: Vec<Result<Option<Found>, ErrorCode>> = Vec::with_capacity(wanted.ids.len());
        let mut bytes = 0;
        for id in &wanted.ids {
            let read = self.read_share(*id, &wanted.group, &group, each, bytes == 0).await;
            bytes += read.as_ref().ok().and_then(Option::as_ref).map_or(0, Found::bytes);
            reads.push(read);
        }
        let is_enough = bytes >= wanted.min_bytes || reads.iter().any(Result::is_err);
        let mut left = wanted.max_records;
        let give = |(id, read): (&PartitionId, Result<Option<Found>, ErrorCode>)| match read {
            Err(error) => ShareAcquired::Refused(error),
            Ok(Some(found)) if is_enough => {
                let given = self.give_out(*id, &wanted, &group.rules, found, left);
                if let ShareAcquired::Records { acquired, .. } = &given {
                    left -= acquired.iter().map(|run| run.span.last - run.span.first + 1).sum::<i64>();
                }
                given
            }
            Ok(_) => ShareAcquired::Nothing,
        };
        wanted.ids.iter().zip(reads).map(give).collect()
    }

    fn can_acquire(&self, id: PartitionId, group: &str, rules: &Rules) -> bool {
        self.shares.with_active(id, group, |machine| machine.can_acquire(rules)).unwrap_or(false)
    }

    /// Reads from where the next record to give out is. `None` if there is to be none now.
    async fn read_share(
        self: &Rc<Shard>,
        id: PartitionId,
        group: &str,
        rules: &GroupRules,
        max_bytes: usize,
        at_least_one: bool,
    ) -> Result<Option<Found>, ErrorCode> {
        // A second time when the log begins later than was known.
        for _ in 0..2 {
            let Some(offset) = self.share_offset(id, group, &rules.rules)? else { return Ok(None) };
            let from = ReadFrom { id, current_leader_epoch: -1, last_fetched_epoch: -1, offset, max_bytes };
            let read = self.read_part(&from, rules.read_committed, max_bytes, at_least_one).await;
            match read.error {
                ErrorCode::None => return Ok(Some(Found::new(offset, read))),
                ErrorCode::OffsetOutOfRange => {
                    let start =
                        self.partitions.borrow().get(&id).map(|partition| partition.log.borrow().log_start_offset());
                    let Some(start) = start.filter(|start| *start > offset) else {
                        // What is wanted is still to come.
                        return Ok(Some(Found { offset, ..Found::default() }));
                    };
                    self.shares.with_active(id, group, |machine| machine.log_start_moved(start));
                }
                error => return Err(error),
            }
        }
        Ok(None)
    }

    /// Where to read; loads the share partition if nobody has asked for it yet.
    fn share_offset(self: &Rc<Shard>, id: PartitionId, group: &str, rules: &Rules) -> Result<Option<i64>, ErrorCode> {
        if !self.partitions.borrow().contains_key(&id) {
            return Err(ErrorCode::NotLeaderOrFollower);
        }
        let now = self.io.now();
        let found = self.shares.with(id, group, |entry| {
            entry.used = now;
            match &entry.state {
                State::Loading => Ok(None),
                State::Active(machine) => Ok(machine.can_acquire(rules).then(|| machine.next_fetch_offset())),
                State::Failed(error) => Err(*error),
            }
        });
        match found {
            Some(Err(error)) => {
                self.shares.forget_one(id, group);
                Err(error)
            }
            Some(Ok(offset)) => Ok(offset),
            None => {
                self.load_share(id, group);
                Ok(None)
            }
        }
    }

    fn give_out(
        &self,
        id: PartitionId,
        wanted: &ShareAcquire,
        rules: &Rules,
        found: Found,
        max_records: i64,
    ) -> ShareAcquired {
        let fetched = Fetched {
            offset: found.offset,
            batches: &found.batches,
            aborted: &found.aborted,
            max_records,
            batch_size: wanted.batch_size,
        };
        let now_ms = millis(self.io.now());
        let acquired = self.shares.with_active(id, &wanted.group, |machine| {
            (machine.acquire(now_ms, &wanted.member, rules, &fetched), machine.next_deadline_ms())
        });
        let Some((acquired, deadline_ms)) = acquired else { return ShareAcquired::Nothing };
        self.shares.expect(deadline_ms);
        let (Some(first), Some(last)) = (acquired.first(), acquired.last()) else {
            return ShareAcquired::Records { records: Vec::new(), acquired };
        };
        let records = slice(found.records, Span { first: first.span.first, last: last.span.last });
        ShareAcquired::Records { records, acquired }
    }

    /// Answers when one of the share partitions may have something to give out, or at the deadline.
    pub(super) fn wait_for_shares(&self, wait: ShareAwait, reply: ReplyTo) {
        let pending = PendingAwait::new(reply, wait.deadline, &self.purgatory);
        let group = self.share_rules(&wait.group);
        for id in &wait.ids {
            let waits = self.shares.with(*id, &wait.group, |entry| {
                entry.waiters.add(0, false, &pending);
                match &entry.state {
                    State::Loading => true,
                    State::Failed(_) => false,
                    State::Active(machine) if machine.can_acquire(&group.rules) => {
                        self.wait_behind(*id, machine.next_fetch_offset(), group.read_committed, &pending)
                    }
                    State::Active(_) => true,
                }
            });
            if waits != Some(true) {
                return pending.answer();
            }
        }
    }

    /// Waits for something at or behind the offset; false if it is there.
    fn wait_behind(&self, id: PartitionId, offset: i64, read_committed: bool, pending: &Rc<PendingAwait>) -> bool {
        let mut partitions = self.partitions.borrow_mut();
        let Some(partition) = partitions.get_mut(&id) else { return false };
        let visible = partition.visible_end(read_committed);
        visible <= offset && partition.wait_news(visible, read_committed, pending)
    }
}

/// What was read of a share partition's log.
#[derive(Default)]
struct Found {
    offset: i64,
    records: Vec<Bytes>,
    batches: Vec<Span>,
    aborted: Vec<Span>,
}

impl Found {
    fn new(offset: i64, read: ReadPart) -> Found {
        let views = || read.records.iter().flat_map(|chunk| batches(chunk)).map_while(Result::ok);
        let aborted = aborted(views(), &read.aborted_transactions);
        let batches = views().map(|batch| span(&batch)).collect();
        Found { offset, batches, aborted, records: read.records }
    }

    fn bytes(&self) -> usize {
        self.records.iter().map(Bytes::len).sum()
    }
}

fn span(batch: &BatchView<'_>) -> Span {
    Span { first: batch.base_offset(), last: batch.last_offset() }
}

/// The batches that aborted transactions wrote; those are (producer id, first offset).
fn aborted<'b>(views: impl Iterator<Item = BatchView<'b>>, transactions: &[(i64, i64)]) -> Vec<Span> {
    let mut to_come: Vec<(i64, i64)> = transactions.to_vec();
    to_come.sort_unstable_by_key(|(_, first_offset)| std::cmp::Reverse(*first_offset));
    let mut open = BTreeSet::new();
    let mut found = Vec::new();
    for batch in views {
        while to_come.last().is_some_and(|(_, first_offset)| *first_offset <= batch.last_offset()) {
            open.extend(to_come.pop().map(|(producer, _)| producer));
        }
        if batch.attributes().is_control() {
            if matches!(control::parse_marker(&batch), Ok(Some(marker)) if !marker.committed) {
                open.remove(&batch.producer_id());
            }
        } else if batch.attributes().is_transactional() && open.contains(&batch.producer_id()) {
            found.push(span(&batch));
        }
    }
    found
}

/// The batches that have offsets of the range.
fn slice(chunks: Vec<Bytes>, range: Span) -> Vec<Bytes> {
    let mut kept = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        let (mut at, mut from, mut to) = (0, None, 0);
        for batch in batches(&chunk).map_while(Result::ok) {
            let end = at + batch.total_size();
            if batch.last_offset() >= range.first && batch.base_offset() <= range.last {
                from.get_or_insert(at);
                to = end;
            }
            at = end;
        }
        if let Some(from) = from {
            kept.push(chunk.slice(from..to));
        }
    }
    kept
}

/// Taking back.
impl Shard {
    /// Takes a member's acknowledgements; answers when they are on stable storage.
    pub(super) async fn acknowledge_shares(self: &Rc<Shard>, taken: ShareAcknowledge) -> Vec<Result<(), ShareRefused>> {
        let rules = self.share_rules(&taken.group).rules;
        let act = |(id, acknowledgements): &(PartitionId, Vec<_>)| {
            let changed = self.shares.with(*id, &taken.group, |entry| match &mut entry.state {
                State::Active(machine) => machine
                    .acknowledge(&taken.member, &rules, acknowledgements)
                    .map_err(|Refusal(error, why)| ShareRefused(error, why))
                    .map(|write| write.map(|write| (entry.load, write))),
                State::Loading | State::Failed(_) => Err(NOT_LOADED),
            });
            changed.unwrap_or(Err(NOT_HOSTED))
        };
        let changes = taken.parts.iter().map(|part| (part.0, act(part))).collect();
        self.persist_all(&taken.group, changes).await
    }

    /// What a member has of share partitions is free again; answers when that is on stable storage.
    pub(super) async fn release_shares(self: &Rc<Shard>, member: &str, of: SharesOf) -> Vec<Result<(), ShareRefused>> {
        let rules = self.share_rules(&of.group).rules;
        let act = |id: PartitionId| {
            let changed = self.shares.with(id, &of.group, |entry| match &mut entry.state {
                State::Active(machine) => Ok(machine.release(member, &rules).map(|write| (entry.load, write))),
                State::Loading | State::Failed(_) => Ok(None),
            });
            changed.unwrap_or(Err(NOT_HOSTED))
        };
        let changes = of.ids.iter().map(|id| (*id, act(*id))).collect();
        self.persist_all(&of.group, changes).await
    }

    /// Share partitions whose recorded state was changed by others are loaded anew.
    pub(super) fn forget_shares(&self, of: &SharesOf) {
        of.ids.iter().for_each(|id| self.shares.forget_one(*id, &of.group));
    }

    /// Writes changes, all at once; gives what became of each.
    async fn persist_all(self: &Rc<Shard>, group: &str, changes: Vec<Change>) -> Vec<Result<(), ShareRefused>> {
        let start = |(id, change): Change| {
            change.map(|write| write.map(|(load, write)| self.start_persisting(id, group.to_owned(), load, write)))
        };
        let under_way: Vec<_> = changes.into_iter().map(start).collect();
        let mut results = Vec::with_capacity(under_way.len());
        for result in under_way {
            results.push(match result {
                Ok(Some(receiver)) => receiver.await.unwrap_or(Err(NOT_AVAILABLE)),
                Ok(None) => Ok(()),
                Err(refused) => Err(refused),
            });
        }
        results
    }

    fn start_persisting(
        self: &Rc<Shard>,
        id: PartitionId,
        group: String,
        load: u64,
        write: Write,
    ) -> local::Receiver<Result<(), ShareRefused>> {
        let (sender, receiver) = local::oneshot();
        let shard = self.clone();
        self.io.spawn(Class::Foreground, async move { sender.send(shard.persist(id, group, load, write).await) });
        receiver
    }

    async fn persist(
        self: Rc<Shard>,
        id: PartitionId,
        group: String,
        load: u64,
        write: Write,
    ) -> Result<(), ShareRefused> {
        let leader_epoch = self.partitions.borrow().get(&id).map_or(UNKNOWN, |partition| partition.leader_epoch());
        let action = || ShareAction::Write {
            state_epoch: write.state_epoch,
            leader_epoch,
            start_offset: write.start_offset,
            batches: write.batches.clone(),
        };
        let result = match self.ask_share_coordinator(id, &group, action).await {
            Ok(ShareReply::Done(result)) => result.map_err(|ShareRefusal(error, why)| ShareRefused(error, why)),
            Ok(other) => unreachable!("a coordinator answers what it is asked, not {other:?}"),
            Err(error) => Err(ShareRefused(error, NOT_AVAILABLE.1)),
        };
        let ended = self.shares.with(id, &group, |entry| {
            let State::Active(machine) = &mut entry.state else { return false };
            if entry.load != load {
                return false;
            }
            match result {
                Ok(()) => machine.written(write.number),
                Err(_) => machine.failed(write.number),
            }
            let deadline_ms = machine.next_deadline_ms();
            entry.wake();
            self.shares.expect(deadline_ms);
            true
        });
        let Err(ShareRefused(error, why)) = result else { return Ok(()) };
        tracing::warn!(partition = %id, group, error = error.name(), "a change of a share partition is not recorded");
        let is_over = matches!(
            error,
            ErrorCode::FencedLeaderEpoch | ErrorCode::FencedStateEpoch | ErrorCode::UnknownTopicOrPartition
        );
        if is_over && ended == Some(true) {
            self.shares.forget_one(id, &group);
        }
        Err(ShareRefused(told_to_members(error), why))
    }

    /// Ends locks when they are due, and throws away what nobody uses, for ever.
    pub(super) async fn keep_share_locks(self: &Rc<Shard>) {
        let mut looked_around = self.io.now();
        loop {
            let seen = self.shares.bell.rings();
            let now = self.io.now();
            self.expire_share_locks(millis(now));
            if now.since(looked_around) >= SHARE_LOOK_AROUND {
                looked_around = now;
                self.forget_idle_shares(now);
            }
            let around = looked_around + SHARE_LOOK_AROUND;
            let deadline_ms = self.shares.next_deadline_ms();
            self.shares.armed_ms.set(deadline_ms);
            let deadline = deadline_ms.map(|at| Instant(at.saturating_mul(1_000_000)));
            let until = deadline.map_or(around, |deadline| deadline.min(around));
            futures_lite::future::or(self.io.sleep_until(until), self.shares.bell.rung_since(seen)).await;
        }
    }

    fn expire_share_locks(self: &Rc<Shard>, now_ms: u64) {
        if self.shares.next_deadline_ms().is_none_or(|deadline| deadline > now_ms) {
            return;
        }
        for (id, group) in self.shares.keys() {
            let rules = self.share_rules(&group).rules;
            let change = self.shares.with(id, &group, |entry| match &mut entry.state {
                State::Active(machine) => machine.expire(now_ms, &rules).map(|write| (entry.load, write)),
                State::Loading | State::Failed(_) => None,
            });
            if let Some(Some((load, write))) = change {
                let shard = self.clone();
                // A failure is logged there, and changes nothing for the records.
                self.io.spawn(Class::Foreground, async move {
                    let _ = shard.persist(id, group, load, write).await;
                });
            }
        }
    }

    fn forget_idle_shares(&self, now: Instant) {
        for (id, group) in self.shares.keys() {
            let is_idle = self.shares.with(id, &group, |entry| {
                let has_nothing = match &entry.state {
                    State::Active(machine) => machine.is_idle(),
                    State::Loading => false,
                    State::Failed(_) => true,
                };
                has_nothing && entry.waiters.is_empty() && now.since(entry.used) >= SHARE_IDLE
            });
            if is_idle == Some(true) {
                self.shares.forget_one(id, &group);
            }
        }
    }
}

/// The error that members are told when the share coordinator has refused their share partition's leader.
fn told_to_members(error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::NotCoordinator | ErrorCode::CoordinatorNotAvailable | ErrorCode::CoordinatorLoadInProgress => {
            ErrorCode::CoordinatorNotAvailable
        }
        ErrorCode::GroupIdNotFound | ErrorCode::UnknownTopicOrPartition => error,
        ErrorCode::FencedLeaderEpoch | ErrorCode::FencedStateEpoch => ErrorCode::NotLeaderOrFollower,
        _ => ErrorCode::UnknownServerError,
    }
}

/// Loading.
impl Shard {
    fn load_share(self: &Rc<Shard>, id: PartitionId, group: &str) {
        let load = self.shares.last_load.get() + 1;
        self.shares.last_load.set(load);
        let entry = Entry { load, state: State::Loading, waiters: Rc::default(), used: self.io.now() };
        self.shares.entries.borrow_mut().entry(id).or_default().insert(group.to_owned(), entry);
        let (shard, group) = (self.clone(), group.to_owned());
        self.io.spawn(Class::Foreground, async move {
            let state = match shard.loaded_share(id, &group).await {
                Ok(machine) => State::Active(machine),
                Err(error) => {
                    tracing::warn!(partition = %id, group, error = error.name(), "a share partition is not loaded");
                    State::Failed(told_to_members(error))
                }
            };
            shard.shares.with(id, &group, |entry| {
                if entry.load == load {
                    entry.state = state;
                    entry.wake();
                }
            });
        });
    }

    async fn loaded_share(self: &Rc<Shard>, id: PartitionId, group: &str) -> Result<SharePartition, ErrorCode> {
        let leader_epoch = {
            let partitions = self.partitions.borrow();
            partitions.get(&id).ok_or(ErrorCode::UnknownTopicOrPartition)?.leader_epoch()
        };
        let read = match self.ask_share_coordinator(id, group, || ShareAction::Read { leader_epoch }).await? {
            ShareReply::Read(result) => result.map_err(|refusal| refusal.0)?,
            other => unreachable!("a coordinator answers what it is asked, not {other:?}"),
        };
        let start = match read.start_offset {
            ..0 => self.first_share_offset(id, group).await?,
            known => known,
        };
        Ok(SharePartition::load(read.state_epoch, start, &read.batches))
    }

    /// Where a group begins that has no offset (`share.auto.offset.reset`).
    async fn first_share_offset(self: &Rc<Shard>, id: PartitionId, group: &str) -> Result<i64, ErrorCode> {
        let image = self.image.borrow().clone();
        let settings = image.resource_configs.get(&(ResourceKind::Group, group.to_owned()));
        let reset = settings.and_then(|settings| settings.get("share.auto.offset.reset"));
        let reset = reset.map_or("latest", |reset| reset.trim());
        let timestamp = match reset.strip_prefix("by_duration:").and_then(duration_ms) {
            Some(duration) => self.io.wall_clock_ms().saturating_sub(duration).max(0),
            None if reset == "earliest" => -2,
            None => -1,
        };
        let part = |timestamp| ListOffset { id, current_leader_epoch: -1, timestamp, read_committed: false };
        let listed = self.list_offset(&part(timestamp)).await;
        match listed.error {
            // Nothing is as young: what comes next is.
            ErrorCode::None if listed.offset < 0 => Ok(self.list_offset(&part(-1)).await.offset.max(0)),
            ErrorCode::None => Ok(listed.offset),
            error => Err(error),
        }
    }

    /// Asks the share coordinator of a share partition, again while it says that it will know soon.
    async fn ask_share_coordinator(
        self: &Rc<Shard>,
        id: PartitionId,
        group: &str,
        action: impl Fn() -> ShareAction,
    ) -> Result<ShareReply, ErrorCode> {
        let key = SharePartitionKey { group: group.to_owned(), topic_id: id.topic_id, partition: id.partition };
        let until = self.io.now() + SHARE_COORDINATOR_PATIENCE;
        loop {
            let error = match self.ask_share_coordinator_once(&key, action()).await {
                Err(error) if error.retriable() && self.io.now() < until => error,
                result => return result,
            };
            tracing::debug!(partition = %id, group, error = error.name(), "a share coordinator is asked again");
            self.io.sleep(SHARE_COORDINATOR_RETRY).await;
        }
    }

    async fn ask_share_coordinator_once(
        self: &Rc<Shard>,
        key: &SharePartitionKey,
        action: ShareAction,
    ) -> Result<ShareReply, ErrorCode> {
        let image = self.image.borrow().clone();
        let topic = image.topic(SHARE_TOPIC).ok_or(ErrorCode::CoordinatorNotAvailable)?;
        let partition = partition_of(&key.coordinator_key(), topic.partitions.len());
        let at = PartitionId { topic_id: topic.id, partition };
        let request = coordinator::Request::Share(ShareRequest { key: key.clone(), action });
        match self.ask(owner(at, self.shards), Request::Coordinate(at, request)).await {
            Some(Reply::Coordinate(coordinator::Reply::Share(reply))) => Ok(reply),
            Some(Reply::Coordinate(coordinator::Reply::Refused(error))) => Err(error),
            _ => Err(ErrorCode::CoordinatorNotAvailable),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::BatchBuilder;
    use crate::record::control::{EndTransactionMarker, end_transaction_marker};

    fn batch(base_offset: i64, records: usize, producer: Option<i64>) -> Vec<u8> {
        let mut builder = BatchBuilder::new();
        if let Some(id) = producer {
            builder = builder.producer(id, 0, -1).transactional(true);
        }
        (0..records).for_each(|_| builder.append(0, None, Some(b"value"), &[]));
        let mut bytes = builder.finish();
        crate::record::batch::set_base_offset(&mut bytes, base_offset);
        bytes
    }

    fn marker(base_offset: i64, producer_id: i64, committed: bool) -> Vec<u8> {
        let marker = EndTransactionMarker { committed, producer_id, producer_epoch: 0, coordinator_epoch: 0 };
        let mut bytes = end_transaction_marker(&marker, 0).to_vec();
        crate::record::batch::set_base_offset(&mut bytes, base_offset);
        bytes
    }

    #[test]
    fn aborted_batches_are_found_as_readers_of_committed_records_do() {
        let log = [
            batch(0, 5, Some(7)),
            batch(5, 1, None),
            batch(6, 2, Some(8)),
            marker(8, 7, false),
            batch(9, 3, Some(7)),
            marker(12, 7, true),
            marker(13, 8, false),
        ]
        .concat();
        let views = || batches(&log).map_while(Result::ok);
        let found = aborted(views(), &[(7, 0), (8, 6)]);
        assert_eq!(found, [Span { first: 0, last: 4 }, Span { first: 6, last: 7 }]);
        assert_eq!(aborted(views(), &[]), []);
    }

    #[test]
    fn only_batches_of_the_range_are_handed_out() {
        let chunks = || vec![Bytes::from([batch(0, 5, None), batch(5, 5, None)].concat()), batch(10, 5, None).into()];
        let offsets = |range: (i64, i64)| {
            let kept = slice(chunks(), Span { first: range.0, last: range.1 });
            let views = kept.iter().flat_map(|chunk| batches(chunk)).map_while(Result::ok);
            views.map(|batch| batch.base_offset()).collect::<Vec<_>>()
        };
        assert_eq!(offsets((0, 14)), [0, 5, 10]);
        assert_eq!(offsets((6, 7)), [5]);
        assert_eq!(offsets((9, 10)), [5, 10]);
        assert!(offsets((15, 20)).is_empty());
    }
}
