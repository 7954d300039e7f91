//! Drives the coordinators of the internal topics' partitions that this core owns.
//!
//! Each such partition has a seat: a machine (see [`crate::coordinator`]) that is loading or active. One task
//! feeds the machines, in the order of the requests, and appends what they decide to their partitions.
//! Invariants: a machine's records enter its log in the order of its decisions, with nothing between a
//! decision and its records; an answer leaves only when the log is durable up to its end at the time of the
//! decision; a machine whose records cannot be appended is thrown away and loaded anew. What a request means
//! it does not know.

mod loading;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::Shard;
use super::message::{Guard, PartitionId, Reply, owner};
use super::node::ReplyTo;
use crate::controller::image::Topic;
use crate::controller::resource_configs::ResourceKind;
use crate::controller::{BrokerValues, MetadataImage};
use crate::coordinator::group::config::GroupConfig;
use crate::coordinator::share::ShareConfig;
use crate::coordinator::transaction::TransactionConfig;
use crate::coordinator::{self, Context, Kind, Machine, Markers, Producer, Record, Step, Ticket, TopicInfo, Topics};
use crate::io::local::Bell;
use crate::io::{Class, Instant};
use crate::limits::COORDINATOR_BATCH_BYTES;
use crate::protocol::{ErrorCode, Uuid};
use crate::record::BatchBuilder;

/// Inputs that are taken before deadlines are looked at again.
const INPUTS_AT_ONCE: usize = 64;
/// How long a decision waits for room in the journal before its requests are refused.
const ROOM_WAIT: Duration = Duration::from_secs(5);
/// How long the giving up of records waits for stable storage.
const GIVE_UP_WAIT: Duration = Duration::from_secs(30);
/// How long what is due waits that found no room in the journal.
const ROOM_RETRY: Duration = Duration::from_millis(100);
/// What a batch takes besides its records, at most, in bytes; and a record besides its key and value.
const BATCH_OVERHEAD: usize = 128;

/// The coordinators of one core.
#[derive(Default)]
pub(super) struct Coordinators {
    seats: RefCell<BTreeMap<PartitionId, Seat>>,
    inputs: RefCell<VecDeque<Input>>,
    bell: Bell,
    topics: RefCell<Arc<Topics>>,
    /// The image that the topics are of.
    seen: RefCell<Option<Arc<MetadataImage>>>,
    /// Markers whose decision is durable, with the partition of their coordinator.
    markers: RefCell<VecDeque<(PartitionId, Markers)>>,
    markers_bell: Bell,
    /// Whose markers are being written, so that a coordinator that was loaded anew does not write them twice: late
    /// ones would end the next transaction.
    sending: RefCell<BTreeSet<(PartitionId, String)>>,
    last_ticket: Cell<Ticket>,
    last_load: Cell<u64>,
    /// Whether the last decision that waited for room in the journal found none: the next ones do not wait for it.
    is_starved: Cell<bool>,
    /// Deadlines wait until then, in milliseconds: without room they come to nothing.
    tick_at: Cell<u64>,
}

enum Input {
    Request(PartitionId, Box<coordinator::Request>, Option<InTransaction>, ReplyTo),
    /// Topics of these names are gone; of any name if there is none.
    TopicsChanged(PartitionId, Option<Arc<Vec<String>>>),
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
        deadlines.min().map(|deadline| deadline.max(self.tick_at.get()))
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

impl Coordinators {
    /// Takes the topics of an image; the names of those that are gone, or `None` if nothing that matters has changed. It
    /// costs what has changed, and a look at each topic's pointer.
    fn see(&self, image: &Arc<MetadataImage>) -> Option<Vec<String>> {
        let before = self.seen.replace(Some(image.clone())).unwrap_or_default();
        let (changed, removed) = differences(&before.topics, &image.topics);
        let has_settings = !Arc::ptr_eq(&before.resource_configs, &image.resource_configs)
            && before.resource_configs != image.resource_configs;
        if changed.is_empty() && removed.is_empty() && !has_settings {
            return None;
        }
        let mut seen = self.topics.borrow_mut();
        // Nobody else has it between two decisions.
        let topics = Arc::make_mut(&mut seen);
        let gone = removed.into_iter().filter_map(|id| topics.remove(id)).collect();
        for topic in changed {
            let partitions = i32::try_from(topic.partitions.len()).expect("a topic's partitions are bounded");
            topics.insert(&topic.name, TopicInfo { id: topic.id, partitions });
        }
        if has_settings {
            let settings = image.resource_configs.iter().filter(|((kind, _), _)| *kind == ResourceKind::Group);
            topics.set_group_settings(settings.map(|((_, group), values)| (group.clone(), values.clone())));
        }
        Some(gone)
    }
}

/// The topics of `after` that are new or may be others than before, and the ids of those that are not in it any more.
fn differences<'t>(
    before: &BTreeMap<Uuid, Arc<Topic>>,
    after: &'t BTreeMap<Uuid, Arc<Topic>>,
) -> (Vec<&'t Topic>, Vec<Uuid>) {
    let (mut changed, mut removed) = (Vec::new(), Vec::new());
    let (mut left, mut right) = (before.iter().peekable(), after.iter().peekable());
    loop {
        match (left.peek(), right.peek()) {
            (None, None) => return (changed, removed),
            (Some((old, _)), right) if right.is_none_or(|(new, _)| *old < *new) => {
                removed.push(**old);
                left.next();
            }
            (left_one, Some((new, topic))) => {
                let known = left_one.filter(|(old, _)| old == new);
                if known.is_none_or(|(_, known)| !Arc::ptr_eq(known, topic)) {
                    changed.push(&***topic);
                }
                if known.is_some() {
                    left.next();
                }
                right.next();
            }
            (Some(_), None) => unreachable!("it was removed above"),
        }
    }
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
    pub(super) fn open_coordinators(self: &Rc<Shard>, image: &Arc<MetadataImage>) {
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
        let Some(gone) = self.coordinators.see(image).map(Arc::new) else { return };
        for id in self.coordinators.seats.borrow().keys() {
            self.coordinators.push(Input::TopicsChanged(*id, Some(gone.clone())));
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
            self.tick_overdue().await;
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

    async fn tick_overdue(self: &Rc<Shard>) {
        let now_ms = millis(self.io.now());
        if now_ms < self.coordinators.tick_at.get() {
            return;
        }
        for id in self.coordinators.overdue(now_ms) {
            let has_room = self.has_coordinator_room();
            if !has_room {
                // What is due and must be recorded is still due.
                self.coordinators.tick_at.set(now_ms + ROOM_RETRY.as_millis() as u64);
                self.housekeeping.ring();
            }
            self.decide(id, None, None, has_room, Machine::tick).await;
        }
    }

    async fn take_input(self: &Rc<Shard>, input: Input) {
        match input {
            Input::GiveUp(id, offset) => self.give_up(id, offset),
            Input::Request(id, request, transaction, reply) => {
                let ticket = self.coordinators.last_ticket.get() + 1;
                self.coordinators.last_ticket.set(ticket);
                // Room first, so that the decision and its records enter the log at one go.
                let has_room = self.has_coordinator_room() || !request.is_urgent() && self.wait_for_own_room().await;
                let act =
                    move |machine: &mut Machine, context: &mut Context<'_>| machine.handle(context, ticket, *request);
                self.decide(id, Some((ticket, reply)), transaction, has_room, act).await;
            }
            input if !self.has_coordinator_room() => {
                let shard = self.clone();
                self.io.spawn(Class::Background, async move {
                    shard.housekeeping.ring();
                    shard.io.sleep(ROOM_RETRY).await;
                    shard.coordinators.push(input);
                });
            }
            Input::TopicsChanged(id, gone) => {
                let gone = gone.as_ref().map(|gone| &gone[..]);
                let act = |machine: &mut Machine, context: &mut Context<'_>| machine.topics_changed(context, gone);
                self.decide(id, None, None, true, act).await;
            }
            Input::MarkersWritten(id, markers) => {
                let act = |machine: &mut Machine, context: &mut Context<'_>| machine.markers_written(context, &markers);
                self.decide(id, None, None, true, act).await;
            }
        }
    }

    /// Lets a machine decide, and appends what it has decided; without room it decides nothing that must be.
    async fn decide(
        self: &Rc<Shard>,
        id: PartitionId,
        asked: Option<(Ticket, ReplyTo)>,
        transaction: Option<InTransaction>,
        has_room: bool,
        act: impl FnOnce(&mut Machine, &mut Context<'_>) -> Step,
    ) {
        if let Some(Err(error)) = transaction.map(|(producer, guard)| self.check_transaction(id, producer, guard)) {
            return refuse(asked, error);
        }
        let step = {
            let mut seats = self.coordinators.seats.borrow_mut();
            let Some(seat) = seats.get_mut(&id) else {
                return refuse(asked, ErrorCode::NotCoordinator);
            };
            let State::Active(machine) = &mut seat.state else {
                return refuse(asked, ErrorCode::CoordinatorLoadInProgress);
            };
            seat.tickets.extend(asked);
            self.with_context(has_room, |context| act(machine, context))
        };
        assert!(has_room || step.records.is_empty(), "without room nothing is recorded");
        match self.append_step(id, &step).await {
            true => self.release_step(id, step),
            false => self.reload_coordinator(id),
        }
    }

    fn with_context<T>(&self, has_room: bool, act: impl FnOnce(&mut Context<'_>) -> T) -> T {
        let topics = self.coordinators.topics.borrow().clone();
        let mut random = || self.io.random_u64();
        act(&mut Context {
            now_ms: millis(self.io.now()),
            wall_clock_ms: self.io.wall_clock_ms(),
            topics: &topics,
            has_room,
            largest_record: self.largest_batch - BATCH_OVERHEAD,
            random: &mut random,
        })
    }

    /// Whether the journal takes a batch of a coordinator now.
    fn has_coordinator_room(&self) -> bool {
        let has_room = self.takes_appends() && self.journal.has_room(COORDINATOR_BATCH_BYTES);
        if has_room {
            self.coordinators.is_starved.set(false);
        }
        has_room
    }

    /// Waits until it does, but only once as long as it does not.
    async fn wait_for_own_room(&self) -> bool {
        if !self.takes_appends() || self.coordinators.is_starved.get() {
            self.housekeeping.ring();
            return false;
        }
        let has_room = self.wait_for_room(COORDINATOR_BATCH_BYTES, self.io.now() + ROOM_WAIT).await;
        self.coordinators.is_starved.set(!has_room);
        has_room
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
                let has_room = self.takes_appends() && self.wait_for_room(batch.len(), self.io.now() + ROOM_WAIT).await;
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
