//! Loads of coordinators: a partition's log becomes a machine again.
//!
//! Invariant: whoever has begun the last load of a seat is the one who fills it. What the records mean it does not
//! know.

use std::rc::Rc;
use std::time::Duration;

use super::{Input, Seat, State, config_of};
use crate::controller::BrokerValues;
use crate::coordinator::{Kind, Machine, Producer};
use crate::io::Class;
use crate::limits::COORDINATOR_LOAD_BYTES;
use crate::log::reader::{self, Found};
use crate::protocol::ErrorCode;
use crate::record::control;
use crate::record::validate::DEFAULT_MAX_DECOMPRESSED_BYTES;
use crate::record::{BatchView, Scratch, batches};
use crate::shard::Shard;
use crate::shard::message::PartitionId;

/// How long a load pauses that waits for the log to become durable.
const LOAD_PAUSE: Duration = Duration::from_millis(5);
/// How long a load pauses that cannot read the log.
const LOAD_RETRY: Duration = Duration::from_secs(1);

impl Shard {
    /// Replays the partition's log into a new machine, which then has the seat.
    pub(super) fn load_coordinator(self: &Rc<Shard>, id: PartitionId, kind: Kind, mut seat: Seat) {
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
    pub(super) fn reload_coordinator(self: &Rc<Shard>, id: PartitionId) {
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
        self.with_context(true, |context| machine.loaded(context));
        if let Some(seat) = self.coordinators.seats.borrow_mut().get_mut(&id) {
            seat.state = State::Active(machine);
        }
        self.coordinators.push(Input::TopicsChanged(id, None));
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
