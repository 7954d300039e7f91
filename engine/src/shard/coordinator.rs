//! Drives the coordinators of the internal topics' partitions that this core owns.
//!
//! Each such partition has a seat: a machine (see [`crate::coordinator`]) that is loading or active. One task
//! feeds the machines, in the order of the requests, and appends what they decide to their partitions.
//! Invariants: a machine's records enter its log in the order of its decisions, with nothing between a
//! decision and its records; an answer leaves only when the log is durable up to its end at the time of the
//! decision; a machine whose records cannot be appended is thrown away and loaded anew. What a request means
//! it does not know.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::Shard;
use super::message::{Guard, PartitionId, Reply, owner};
use super::node::ReplyTo;
use crate::controller::resource_configs::ResourceKind;
use crate::controller::{BrokerValues, MetadataImage};
use crate::coordinator::group::config::GroupConfig;
use crate::coordinator::share::ShareConfig;
use crate::coordinator::transaction::TransactionConfig;
use crate::coordinator::{self, Context, Kind, Machine, Markers, Producer, Record, Step, Ticket, TopicInfo, Topics};
use crate::io::local::Bell;
use crate::io::{Class, Instant};
use crate::limits::{COORDINATOR_BATCH_BYTES, COORDINATOR_LOAD_BYTES};
use crate::log::reader::{self, Found};
use crate::protocol::ErrorCode;
use crate::record::control;
use crate::record::validate::DEFAULT_MAX_DECOMPRESSED_BYTES;
use crate::record::{BatchBuilder, BatchView, Scratch, batches};

/// Inputs that are taken before deadlines are looked at again.
const INPUTS_AT_ONCE: usize = 64;
/// How long a decision waits for room in the journal before its requests are refused.
const ROOM_WAIT: Duration = Duration::from_secs(5);
/// How long the giving up of records waits for stable storage.
const GIVE_UP_WAIT: Duration = Duration::from_secs(30);
/// How long a load pauses that waits for the log to become durable.
const LOAD_PAUSE: Duration = Duration::from_millis(5);
/// How long a load pauses that cannot read the log, and a deadline that finds no room in the journal.
const LOAD_RETRY: Duration = Duration::from_secs(1);

/// The coordinators of one core.
#[derive(Default)]
pub(super) struct Coordinators {
    seats: RefCell<BTreeMap<PartitionId, Seat>>,
    inputs: RefCell<VecDeque<Input>>,
    bell: Bell,
    topics: RefCell<Arc<Topics>>,
    /// Markers whose decision is durable, with the partition of their coordinator.
    markers: RefCell<VecDeque<(PartitionId, Markers)>>,
    markers_bell: Bell,
    /// Whose markers are being written, so that a coordinator that was loaded anew does not write them twice: late
    /// ones would end the next transaction.
    sending: RefCell<BTreeSet<(PartitionId, String)>>,
    last_ticket: Cell<Ticket>,
    last_load: Cell<u64>,
}

enum Input {
    Request(PartitionId, Box<coordinator::Request>, Option<InTransaction>, ReplyTo),
    TopicsChanged(PartitionId),
    MarkersWritten(PartitionId, Markers),
    /// No load needs what is before the offset.
    GiveUp(PartitionId, i64),
}

/// The producer in whose transaction a request's records are to stand, and its guard if they open it there.
pub(super) type InTransaction = (Producer, Option<Guard>);

/// What leaves when the log is durable.
enum Leaving {
    Answer(ReplyTo, coordinator::Reply),
    Markers(Markers),
    FirstNeeded(i64),
}

/// A partition's coordinator.
struct Seat {
    kind: Kind,
    state: State,
    /// Whoever waits for an answer that the machine has not given yet.
    tickets: BTreeMap<Ticket, ReplyTo>,
    /// Answers and markers by the end that must be durable before they leave.
    leaving: VecDeque<(i64, Leaving)>,
    /// Whether a decision's records are still on their way into the log.
    appending: bool,
}

enum State {
    /// The log is being replayed, by the load of this number.
    Loading(u64),
    Active(Machine),
}

impl Seat {
    fn new(kind: Kind, load: u64) -> Seat {
        let state = State::Loading(load);
        Seat { kind, state, tickets: BTreeMap::new(), leaving: VecDeque::new(), appending: false }
    }

    fn refuse_tickets(&mut self, error: ErrorCode) {
        for reply in std::mem::take(&mut self.tickets).into_values() {
            reply.send(Reply::Coordinate(error.into()));
        }
    }
}

impl Coordinators {
    /// Takes a request for the machine over that partition.
    pub(super) fn request(
        &self,
        id: PartitionId,
        request: coordinator::Request,
        transaction: Option<InTransaction>,
        reply: ReplyTo,
    ) {
        self.push(Input::Request(id, Box::new(request), transaction, reply));
    }

    /// All markers of a transaction are durable.
    pub(super) fn markers_written(&self, id: PartitionId, markers: Markers) {
        self.sending.borrow_mut().remove(&(id, markers.transactional_id.clone()));
        self.push(Input::MarkersWritten(id, markers));
    }

    fn push(&self, input: Input) {
        self.inputs.borrow_mut().push_back(input);
        self.bell.ring();
    }

    /// The partition is durable up to `durable_end`: answers that waited for it leave.
    pub(super) fn settle(&self, id: PartitionId, durable_end: i64) {
        let mut seats = self.seats.borrow_mut();
        let Some(seat) = seats.get_mut(&id) else { return };
        while seat.leaving.front().is_some_and(|(end, ..)| *end <= durable_end) {
            match seat.leaving.pop_front().expect("there is a front").1 {
                Leaving::Answer(to, reply) => to.send(Reply::Coordinate(reply)),
                Leaving::Markers(markers) => {
                    self.markers.borrow_mut().push_back((id, markers));
                    self.markers_bell.ring();
                }
                Leaving::FirstNeeded(offset) => self.push(Input::GiveUp(id, offset)),
            }
        }
    }

    /// The next markers that may be written, and the partition of the coordinator that wants them.
    pub(super) async fn next_markers(&self) -> (PartitionId, Markers) {
        self.markers_bell
            .until(|| {
                let mut queue = self.markers.borrow_mut();
                loop {
                    let (id, markers) = queue.pop_front()?;
                    if self.sending.borrow_mut().insert((id, markers.transactional_id.clone())) {
                        return Some((id, markers));
                    }
                }
            })
            .await
    }

    /// Whether there is a coordinator over the partition.
    pub(super) fn has_seat(&self, id: PartitionId) -> bool {
        self.seats.borrow().contains_key(&id)
    }

    /// The partition leaves this core.
    pub(super) fn close(&self, id: PartitionId) {
        let Some(mut seat) = self.seats.borrow_mut().remove(&id) else { return };
        seat.refuse_tickets(ErrorCode::NotCoordinator);
        for (_, leaving) in seat.leaving {
            if let Leaving::Answer(to, _) = leaving {
                to.send(Reply::Coordinate(ErrorCode::NotCoordinator.into()));
            }
        }
    }

    /// Whether a machine over the partition has decided what is not in the log yet. Whoever appends to such a
    /// partition by himself (a marker) must wait until this is false, and then append and tell
    /// [`Shard::coordinator_sees_marker`] without an await between.
    pub(super) fn is_appending(&self, id: PartitionId) -> bool {
        self.seats.borrow().get(&id).is_some_and(|seat| seat.appending)
    }

    fn next_deadline(&self) -> Option<u64> {
        let seats = self.seats.borrow();
        let deadlines = seats.values().filter_map(|seat| match &seat.state {
            State::Active(machine) => machine.next_deadline(),
            State::Loading(_) => None,
        });
        deadlines.min()
    }

    fn overdue(&self, now_ms: u64) -> Vec<PartitionId> {
        let seats = self.seats.borrow();
        let is_due = |seat: &Seat| match &seat.state {
            State::Active(machine) => machine.next_deadline().is_some_and(|deadline| deadline <= now_ms),
            State::Loading(_) => false,
        };
        seats.iter().filter(|(_, seat)| is_due(seat)).map(|(id, _)| *id).collect()
    }
}

/// The topics of an image, as coordinators see them.
fn topics_of(image: &MetadataImage) -> Topics {
    let topics = Topics::new(image.topics.values().map(|topic| {
        let partitions = i32::try_from(topic.partitions.len()).expect("a topic's partitions are bounded");
        (topic.name.clone(), TopicInfo { id: topic.id, partitions })
    }));
    let settings = image.resource_configs.iter().filter(|((kind, _), _)| *kind == ResourceKind::Group);
    topics.with_group_settings(settings.map(|((_, group), values)| (group.clone(), values.clone())))
}

/// The configs of the coordinators, as Kafka names them.
fn config_of(values: &BrokerValues<'_>, snapshot_after_bytes: u64) -> coordinator::Config {
    let group = GroupConfig::new(|name| values.number(name), |name| values.text(name).unwrap_or_default().to_owned());
    let transaction = TransactionConfig::new(|name| values.number(name));
    let share = ShareConfig::new(|name| values.number(name));
    coordinator::Config { snapshot_after_bytes, group, transaction, share }
}

fn millis(now: Instant) -> u64 {
    now.0 / 1_000_000
}

impl Shard {
    /// Takes a seat for each partition of an internal topic that this core owns, and tells the machines that
    /// there are they if topics have changed.
    pub(super) fn open_coordinators(self: &Rc<Shard>, image: &MetadataImage) {
        for kind in Kind::ALL {
            let Some(topic) = image.topic(kind.topic()) else { continue };
            for partition in 0..topic.partitions.len() as i32 {
                let id = PartitionId { topic_id: topic.id, partition };
                let is_new = !self.coordinators.seats.borrow().contains_key(&id);
                if owner(id, self.shards) == self.number && is_new {
                    self.load_coordinator(id, kind, Seat::new(kind, 0));
                }
            }
        }
        if self.coordinators.seats.borrow().is_empty() {
            return;
        }
        let topics = topics_of(image);
        if **self.coordinators.topics.borrow() == topics {
            return;
        }
        *self.coordinators.topics.borrow_mut() = Arc::new(topics);
        for id in self.coordinators.seats.borrow().keys() {
            self.coordinators.push(Input::TopicsChanged(*id));
        }
    }

    /// Feeds the machines, for ever.
    pub(super) async fn coordinate(self: &Rc<Shard>) {
        loop {
            let seen = self.coordinators.bell.rings();
            for _ in 0..INPUTS_AT_ONCE {
                let Some(input) = self.coordinators.inputs.borrow_mut().pop_front() else { break };
                self.take_input(input).await;
            }
            for id in self.coordinators.overdue(millis(self.io.now())) {
                self.decide(id, None, None, Machine::tick).await;
            }
            if !self.coordinators.inputs.borrow().is_empty() {
                self.io.yield_now().await;
                continue;
            }
            let news = self.coordinators.bell.rung_since(seen);
            match self.coordinators.next_deadline() {
                Some(deadline) => {
                    let at = Instant(deadline.saturating_mul(1_000_000));
                    futures_lite::future::or(self.io.sleep_until(at), news).await;
                }
                None => news.await,
            }
        }
    }

    async fn take_input(self: &Rc<Shard>, input: Input) {
        match input {
            Input::TopicsChanged(id) => {
                if !self.decide(id, None, None, Machine::topics_changed).await {
                    self.coordinators.push(Input::TopicsChanged(id));
                }
            }
            Input::MarkersWritten(id, markers) => {
                let act = |machine: &mut Machine, context: &mut Context<'_>| machine.markers_written(context, &markers);
                if !self.decide(id, None, None, act).await {
                    self.coordinators.push(Input::MarkersWritten(id, markers));
                }
            }
            Input::GiveUp(id, offset) => self.give_up(id, offset),
            Input::Request(id, request, transaction, reply) => {
                let ticket = self.coordinators.last_ticket.get() + 1;
                self.coordinators.last_ticket.set(ticket);
                let act =
                    move |machine: &mut Machine, context: &mut Context<'_>| machine.handle(context, ticket, *request);
                self.decide(id, Some((ticket, reply)), transaction, act).await;
            }
        }
    }

    /// Lets a machine decide, and appends what it has decided. False if there was no room, and no decision.
    async fn decide(
        self: &Rc<Shard>,
        id: PartitionId,
        asked: Option<(Ticket, ReplyTo)>,
        transaction: Option<InTransaction>,
        act: impl FnOnce(&mut Machine, &mut Context<'_>) -> Step,
    ) -> bool {
        // Room first, so that the decision and its records enter the log at one go.
        if !self.has_coordinator_room(COORDINATOR_BATCH_BYTES).await {
            match asked {
                Some(_) => refuse(asked, ErrorCode::CoordinatorNotAvailable),
                // What was due is still due.
                None => self.io.sleep(LOAD_RETRY).await,
            }
            return false;
        }
        if let Some(Err(error)) = transaction.map(|(producer, guard)| self.check_transaction(id, producer, guard)) {
            refuse(asked, error);
            return true;
        }
        let step = {
            let mut seats = self.coordinators.seats.borrow_mut();
            let Some(seat) = seats.get_mut(&id) else {
                refuse(asked, ErrorCode::NotCoordinator);
                return true;
            };
            let State::Active(machine) = &mut seat.state else {
                refuse(asked, ErrorCode::CoordinatorLoadInProgress);
                return true;
            };
            seat.tickets.extend(asked);
            self.with_context(|context| act(machine, context))
        };
        match self.append_step(id, &step).await {
            true => self.release_step(id, step),
            false => self.reload_coordinator(id),
        }
        true
    }

    fn with_context<T>(&self, act: impl FnOnce(&mut Context<'_>) -> T) -> T {
        let topics = self.coordinators.topics.borrow().clone();
        let mut random = || self.io.random_u64();
        act(&mut Context {
            now_ms: millis(self.io.now()),
            wall_clock_ms: self.io.wall_clock_ms(),
            topics: &topics,
            random: &mut random,
        })
    }

    /// Whether the journal takes a batch of that size now or soon.
    async fn has_coordinator_room(&self, len: usize) -> bool {
        if self.disk_full.get() || self.failure.is_set() || self.stopping.get() {
            return false;
        }
        if self.journal.has_room(len) {
            return true;
        }
        self.housekeeping.ring();
        let room = async {
            self.journal.room(len).await;
            true
        };
        let late = async {
            self.io.sleep(ROOM_WAIT).await;
            false
        };
        let failed = async {
            self.failure.wait().await;
            false
        };
        futures_lite::future::or(room, futures_lite::future::or(late, failed)).await
    }

    /// Appends a step's records; false if they cannot be.
    async fn append_step(&self, id: PartitionId, step: &Step) -> bool {
        if step.records.is_empty() {
            return true;
        }
        let batches = batches_of(&step.records, step.producer, self.io.wall_clock_ms());
        let mut first_offset = None;
        for batch in batches {
            if batch.len() > self.largest_batch {
                tracing::error!(partition = %id, bytes = batch.len(), "a coordinator's record is too large");
                return false;
            }
            if !self.journal.has_room(batch.len()) {
                self.set_appending(id, true);
                let has_room = self.has_coordinator_room(batch.len()).await;
                self.set_appending(id, false);
                if !has_room {
                    return false;
                }
            }
            let mut partitions = self.partitions.borrow_mut();
            let Some(partition) = partitions.get_mut(&id) else { return false };
            first_offset.get_or_insert(partition.log.borrow().log_end_offset());
            partition.append_own(&self.journal, &batch);
        }
        let mut seats = self.coordinators.seats.borrow_mut();
        if let (Some(first), Some(State::Active(machine))) =
            (first_offset, seats.get_mut(&id).map(|seat| &mut seat.state))
        {
            machine.appended(first, &step.records);
        }
        true
    }

    /// Lets a log begin at `offset`. If that fails a later offset comes in time.
    fn give_up(self: &Rc<Shard>, id: PartitionId, offset: i64) {
        let shard = self.clone();
        self.io.spawn(Class::Background, async move {
            let deadline = Instant(shard.io.now().0.saturating_add(GIVE_UP_WAIT.as_nanos() as u64));
            if let Err(error) = shard.give_up_records(id, offset, deadline).await {
                tracing::warn!(partition = %id, offset, error = error.name(), "a coordinator's log keeps what it does not need");
            }
        });
    }

    fn set_appending(&self, id: PartitionId, appending: bool) {
        if let Some(seat) = self.coordinators.seats.borrow_mut().get_mut(&id) {
            seat.appending = appending;
        }
    }

    /// Lets answers and markers go when all that is in the log now is durable.
    fn release_step(&self, id: PartitionId, step: Step) {
        let ends = self.partitions.borrow().get(&id).map(|partition| {
            let log = partition.log.borrow();
            (log.log_end_offset(), log.durable_end_offset())
        });
        let mut seats = self.coordinators.seats.borrow_mut();
        let (Some(seat), Some((end, durable_end))) = (seats.get_mut(&id), ends) else { return };
        for (ticket, reply) in step.replies {
            let to = seat.tickets.remove(&ticket).expect("a ticket is answered once");
            let end = if planted!(CoordinatorAnswersEarly) { durable_end } else { end };
            seat.leaving.push_back((end, Leaving::Answer(to, reply)));
        }
        seat.leaving.extend(step.markers.into_iter().map(|markers| (end, Leaving::Markers(markers))));
        seat.leaving.extend(step.first_needed.map(|offset| (end, Leaving::FirstNeeded(offset))));
        drop(seats);
        self.coordinators.settle(id, durable_end);
    }

    /// A marker that is in the log now: the producer's transaction has ended.
    pub(super) fn coordinator_sees_marker(&self, id: PartitionId, producer_id: i64, committed: bool) {
        let mut seats = self.coordinators.seats.borrow_mut();
        if let Some(State::Active(machine)) = seats.get_mut(&id).map(|seat| &mut seat.state) {
            machine.transaction_ended(producer_id, committed);
        }
    }
}

fn refuse(asked: Option<(Ticket, ReplyTo)>, error: ErrorCode) {
    if let Some((_, reply)) = asked {
        reply.send(Reply::Coordinate(error.into()));
    }
}

/// The records as batches, each of at most [`COORDINATOR_BATCH_BYTES`] unless a single record is larger.
fn batches_of(records: &[Record], producer: Option<Producer>, now_ms: i64) -> Vec<Vec<u8>> {
    let mut builder = BatchBuilder::new();
    if let Some(Producer { id, epoch }) = producer {
        builder = builder.producer(id, epoch, -1).transactional(true);
    }
    let mut batches = Vec::with_capacity(1);
    for record in records {
        let size = record.size_bytes();
        if !builder.is_empty() && builder.size() + size > COORDINATOR_BATCH_BYTES {
            batches.push(builder.finish());
            builder.clear();
        }
        builder.append(now_ms, Some(&record.key), record.value.as_deref(), &[]);
    }
    batches.push(builder.finish());
    batches
}

/// Loading.
impl Shard {
    /// Replays the partition's log into a new machine, which then has the seat.
    fn load_coordinator(self: &Rc<Shard>, id: PartitionId, kind: Kind, mut seat: Seat) {
        let load = self.coordinators.last_load.get() + 1;
        self.coordinators.last_load.set(load);
        seat.state = State::Loading(load);
        self.coordinators.seats.borrow_mut().insert(id, seat);
        let shard = self.clone();
        self.io.spawn(Class::Foreground, async move {
            let values = shard.image.borrow().clone();
            let config = config_of(&BrokerValues::new(&shard.settings, &values), shard.snapshot_after_bytes);
            if let Some(machine) = shard.replay_log(id, load, Machine::new(kind, &config)).await {
                shard.seat_machine(id, load, machine);
            }
        });
    }

    /// The machine's decisions could not be appended: back to what the log says.
    fn reload_coordinator(self: &Rc<Shard>, id: PartitionId) {
        let Some(mut seat) = self.coordinators.seats.borrow_mut().remove(&id) else { return };
        seat.refuse_tickets(ErrorCode::CoordinatorNotAvailable);
        tracing::warn!(partition = %id, "a coordinator's records could not be appended; it is loaded anew");
        self.load_coordinator(id, seat.kind, seat);
    }

    fn is_loading(&self, id: PartitionId, load: u64) -> bool {
        let seats = self.coordinators.seats.borrow();
        seats.get(&id).is_some_and(|seat| matches!(seat.state, State::Loading(current) if current == load))
    }

    fn seat_machine(&self, id: PartitionId, load: u64, mut machine: Machine) {
        if !self.is_loading(id, load) {
            return;
        }
        self.with_context(|context| machine.loaded(context));
        if let Some(seat) = self.coordinators.seats.borrow_mut().get_mut(&id) {
            seat.state = State::Active(machine);
        }
        self.coordinators.push(Input::TopicsChanged(id));
    }

    /// Replays the log from its start to its end, some of it in memory at a time. `None` if somebody else has
    /// the seat by now.
    async fn replay_log(&self, id: PartitionId, load: u64, machine: Machine) -> Option<Machine> {
        let mut replay = Replay { id, machine, scratch: Scratch::new(), plain: Vec::new(), offset: 0 };
        let began = self.io.now();
        loop {
            if !self.is_loading(id, load) {
                return None;
            }
            let log = self.partitions.borrow().get(&id).map(|partition| partition.log.clone())?;
            let (start, durable_end, end) = {
                let log = log.borrow();
                (log.log_start_offset(), log.durable_end_offset(), log.log_end_offset())
            };
            replay.offset = replay.offset.max(start);
            if replay.offset >= end {
                break;
            }
            if replay.offset >= durable_end {
                self.io.sleep(LOAD_PAUSE).await;
                continue;
            }
            let read =
                reader::read(&self.io, &log, &self.opened, replay.offset, durable_end, COORDINATOR_LOAD_BYTES, true);
            match read.await {
                Ok(Found::Batches(chunks)) if !chunks.is_empty() => chunks.iter().for_each(|chunk| replay.take(chunk)),
                Ok(Found::Batches(_)) => self.io.sleep(LOAD_PAUSE).await,
                Ok(Found::Damaged) => {
                    let end = log.borrow().damage_at(replay.offset).map_or(replay.offset + 1, |(_, end)| end);
                    tracing::error!(partition = %id, from = replay.offset, to = end, "a coordinator's log is damaged");
                    replay.offset = end;
                }
                Err(error) => {
                    tracing::error!(partition = %id, "a coordinator's log cannot be read: {error}");
                    self.io.sleep(LOAD_RETRY).await;
                }
            }
            self.io.yield_now().await;
        }
        let millis = self.io.now().since(began).as_millis() as u64;
        tracing::debug!(partition = %id, end = replay.offset, millis, "a coordinator is loaded");
        Some(replay.machine)
    }
}

/// A log on its way into a machine.
struct Replay {
    id: PartitionId,
    machine: Machine,
    scratch: Scratch,
    plain: Vec<u8>,
    /// One past the last offset that has been replayed.
    offset: i64,
}

impl Replay {
    fn take(&mut self, chunk: &[u8]) {
        for batch in batches(chunk) {
            let batch = batch.expect("a log gives whole batches");
            if batch.last_offset() >= self.offset {
                self.take_batch(&batch);
                self.offset = batch.last_offset() + 1;
            }
        }
    }

    fn take_batch(&mut self, batch: &BatchView<'_>) {
        let attributes = batch.attributes();
        if attributes.is_control() {
            return self.take_marker(batch);
        }
        let producer =
            attributes.is_transactional().then(|| Producer { id: batch.producer_id(), epoch: batch.producer_epoch() });
        let records = batch.records(&mut self.scratch, &mut self.plain, DEFAULT_MAX_DECOMPRESSED_BYTES);
        let records = match records {
            Ok(records) => records,
            Err(error) => return complain(self.id, batch.base_offset(), &error),
        };
        for record in records {
            let offset = batch.base_offset();
            match record {
                Ok(record) => {
                    let key = record.key.unwrap_or_default();
                    let offset = offset + i64::from(record.offset_delta);
                    if let Err(error) = self.machine.replay(offset, producer, key, record.value) {
                        complain(self.id, offset, &error);
                    }
                }
                Err(error) => return complain(self.id, offset, &error),
            }
        }
    }

    fn take_marker(&mut self, batch: &BatchView<'_>) {
        match control::parse_marker(batch) {
            Ok(Some(marker)) => self.machine.transaction_ended(batch.producer_id(), marker.committed),
            Ok(None) => {}
            Err(error) => complain(self.id, batch.base_offset(), &error),
        }
    }
}

/// A record that no machine of this version wrote is passed over: the rest of the log is still good.
fn complain(id: PartitionId, offset: i64, error: &dyn std::fmt::Display) {
    tracing::warn!(partition = %id, offset, "a coordinator's log holds what is no record of it: {error}");
}
