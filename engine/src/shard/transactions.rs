//! A shard's part in transactions: who may append to one, its markers, and who has one open.
//!
//! What a transaction is and when it ends is the coordinator's to decide. Invariant: a marker is answered when
//! it is on stable storage, and never judged twice: what was refused left no trace.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use super::Shard;
use super::message::{
    ActiveProducer, EndTransactionMarker, Guard, MarkerPart, PartitionId, Produced, Reply, Request, Verification,
    VerifyTransaction, owner,
};
use super::node::ReplyTo;
use super::purgatory::PendingProduce;
use crate::coordinator::{Markers, Producer};
use crate::io::Class;
use crate::protocol::ErrorCode;
use crate::record::control::MARKER_SIZE;

impl Shard {
    pub(super) fn verify_transaction(&self, wanted: &VerifyTransaction) -> Result<Verification, ErrorCode> {
        match self.partitions.borrow_mut().get_mut(&wanted.id) {
            Some(partition) => Ok(partition.verify_transaction(wanted)),
            None => Err(ErrorCode::NotLeaderOrFollower),
        }
    }

    pub(super) fn describe_producers(&self, id: PartitionId) -> Result<Vec<ActiveProducer>, ErrorCode> {
        match self.partitions.borrow().get(&id) {
            Some(partition) => Ok(partition.log.borrow_mut().producers().active()),
            None => Err(ErrorCode::NotLeaderOrFollower),
        }
    }

    /// Whether a coordinator's records may stand in that transaction.
    pub(super) fn check_transaction(
        &self,
        id: PartitionId,
        producer: Producer,
        guard: Option<Guard>,
    ) -> Result<(), ErrorCode> {
        match self.partitions.borrow_mut().get_mut(&id) {
            Some(partition) => partition.check_own(producer.id, producer.epoch, guard),
            None => Err(ErrorCode::NotCoordinator),
        }
    }

    /// Appends markers in their order and answers when the last of them is durable.
    pub(super) async fn write_markers(self: Rc<Shard>, parts: Vec<MarkerPart>, reply: ReplyTo) {
        let mut ends = Vec::with_capacity(parts.len());
        for part in &parts {
            ends.push(self.append_marker(part).await);
        }
        let result = |end: &Result<i64, ErrorCode>| Produced::refused(end.err().unwrap_or(ErrorCode::None));
        let (results, waiting) = (ends.iter().map(result).collect(), ends.iter().map(Result::is_ok).collect());
        let pending = PendingProduce::new(results, waiting, reply, &self.purgatory, errors);
        for (index, (part, end)) in parts.iter().zip(ends).enumerate() {
            if let Ok(end) = end {
                self.settle_when_durable(part.id, end, &pending, index);
            }
        }
    }

    /// Gives the offset that must be durable.
    async fn append_marker(&self, part: &MarkerPart) -> Result<i64, ErrorCode> {
        loop {
            if !self.takes_appends() {
                return Err(ErrorCode::KafkaStorageError);
            }
            if self.coordinators.is_appending(part.id) {
                self.io.sleep(APPENDING_PAUSE).await;
                continue;
            }
            if self.journal.has_room(MARKER_SIZE) {
                break;
            }
            self.wait_for_room(MARKER_SIZE, self.io.now() + MARKER_ROOM_WAIT).await;
        }
        let mut partitions = self.partitions.borrow_mut();
        let partition = partitions.get_mut(&part.id).ok_or(ErrorCode::NotLeaderOrFollower)?;
        let end = partition.append_marker(&self.journal, part, self.io.wall_clock_ms())?;
        drop(partitions);
        self.coordinator_sees_marker(part.id, part.marker.producer_id, part.marker.committed);
        Ok(end)
    }
}

/// What this core's transaction coordinators have decided goes to the partitions.
impl Shard {
    /// Writes the markers of each durable decision, for ever.
    pub(super) async fn send_markers(self: &Rc<Shard>) {
        loop {
            let (coordinator, markers) = self.coordinators.next_markers().await;
            let shard = self.clone();
            self.io.spawn(Class::Foreground, async move {
                if shard.write_everywhere(coordinator, &markers).await {
                    shard.coordinators.markers_written(coordinator, markers);
                }
            });
        }
    }

    /// Writes markers until each partition has its own durably, or is gone; false if the coordinator is gone.
    async fn write_everywhere(self: &Rc<Shard>, coordinator: PartitionId, markers: &Markers) -> bool {
        let mut left: Vec<Named> = markers
            .partitions
            .iter()
            .flat_map(|(topic, indexes)| indexes.iter().map(|index| (topic.clone(), *index)))
            .collect();
        let mut pause = FIRST_PAUSE;
        loop {
            if !self.coordinators.has_seat(coordinator) {
                return false;
            }
            left = self.write_once(coordinator, markers, left).await;
            if left.is_empty() {
                return true;
            }
            tracing::debug!(id = markers.transactional_id, left = left.len(), "markers are not written yet");
            self.io.sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Tries each partition once, and gives those that still lack their marker.
    async fn write_once(self: &Rc<Shard>, coordinator: PartitionId, markers: &Markers, left: Vec<Named>) -> Vec<Named> {
        let coordinator_epoch =
            self.partitions.borrow().get(&coordinator).map_or(0, |partition| partition.leader_epoch());
        let Producer { id: producer_id, epoch: producer_epoch } = markers.producer;
        let marker =
            EndTransactionMarker { committed: markers.committed, producer_id, producer_epoch, coordinator_epoch };
        let image = self.image.borrow().clone();
        let mut by_shard: BTreeMap<usize, Vec<(Named, MarkerPart)>> = BTreeMap::new();
        for (topic, partition) in left {
            // What is deleted needs no marker.
            let Some(found) = image.topic(&topic).filter(|found| (partition as usize) < found.partitions.len()) else {
                continue;
            };
            let id = PartitionId { topic_id: found.id, partition };
            let part = MarkerPart { id, marker, bumped: markers.bumped };
            by_shard.entry(owner(id, self.shards)).or_default().push(((topic, partition), part));
        }
        let mut asked = Vec::with_capacity(by_shard.len());
        for (shard, parts) in by_shard {
            let (names, parts): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
            asked.push((names, self.ask(shard, Request::WriteMarkers(parts))));
        }
        let mut lacking = Vec::new();
        for (names, reply) in asked {
            let Some(Reply::WriteMarkers(results)) = reply.await else {
                lacking.extend(names);
                continue;
            };
            assert_eq!(results.len(), names.len(), "a shard answers each part");
            let refused = names.into_iter().zip(results).filter(|(_, error)| must_try_again(*error));
            lacking.extend(refused.map(|(name, _)| name));
        }
        lacking
    }
}

/// A partition by its topic's name.
type Named = (String, i32);

/// A partition that knows a newer epoch has nothing left to end.
fn must_try_again(error: ErrorCode) -> bool {
    match error {
        ErrorCode::None => false,
        ErrorCode::InvalidProducerEpoch | ErrorCode::TransactionCoordinatorFenced => {
            tracing::warn!(error = error.name(), "a partition refuses a marker: a newer one was there first");
            false
        }
        _ => true,
    }
}

/// How long a marker waits for room in the journal before it looks whether there is ever going to be some.
const MARKER_ROOM_WAIT: Duration = Duration::from_secs(5);
/// How long a marker waits that finds a coordinator in the midst of an append to its partition.
const APPENDING_PAUSE: Duration = Duration::from_millis(1);
/// How long markers that were refused wait for their second try; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

fn errors(results: Vec<Produced>) -> Reply {
    Reply::WriteMarkers(results.into_iter().map(|result| result.error).collect())
}
