//! Consumers: they follow partitions by Fetch, go back now and then, and ask where logs begin and end.

use std::rc::Rc;
use std::time::Duration;

use checker::{Rule, payload};
use engine::io::Io;
use engine::protocol::messages::fetch::{FetchPartition, FetchRequest, FetchResponse, FetchTopic, PartitionData};
use engine::protocol::messages::list_offsets::{
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsResponse, ListOffsetsTopic,
};
use engine::protocol::messages::offset_for_leader_epoch::{
    OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use engine::protocol::{ErrorCode, Uuid};
use engine::record::{BatchView, Scratch, batches};

use crate::chance::Chance;
use crate::clients::{CHURN, Clients, error, place};
use crate::wire::{Connection, Lost};

/// A partition that a consumer follows.
pub(crate) struct Followed {
    pub(crate) name: String,
    pub(crate) topic: Uuid,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// What anybody had been told of its ends before the request that is under way.
    floor: (i64, i64),
    pub(crate) closed: bool,
}

impl Followed {
    pub(crate) fn new(name: String, topic: Uuid, partition: i32) -> Followed {
        Followed { name, topic, partition, offset: 0, floor: (0, 0), closed: false }
    }

    fn note_floor(&mut self, clients: &Clients) {
        let (history, place) = (clients.history.borrow(), place(self.topic, self.partition));
        self.floor = (history.end(place), history.start(place));
    }
}

struct Consumer {
    clients: Rc<Clients>,
    io: Io,
    chance: Chance,
    followed: Vec<Followed>,
}

/// Consumes until the clients stop.
pub(crate) async fn consume(clients: Rc<Clients>, io: Io, number: u64) {
    let chance = clients.chance(0x200 + number);
    let mut consumer = Consumer { clients, io, chance, followed: Vec::new() };
    while !consumer.clients.is_stopping() {
        let Ok(mut connection) =
            Connection::open(&consumer.io, consumer.clients.address, consumer.clients.crashes.get()).await
        else {
            consumer.io.sleep(Duration::from_millis(20)).await;
            continue;
        };
        while !consumer.clients.is_stopping() {
            if consumer.step(&mut connection).await.is_err() {
                break;
            }
        }
    }
}

impl Consumer {
    async fn step(&mut self, connection: &mut Connection) -> Result<(), Lost> {
        self.followed.retain(|followed| !followed.closed);
        if self.followed.is_empty() || self.chance.one_in(100) {
            let some = self.clients.some_partitions(&self.io, &mut self.chance, 6).await;
            self.followed = some.into_iter().map(|(topic, index)| Followed::new(topic.name, topic.id, index)).collect();
        }
        match self.chance.below(20) {
            0 => self.list_offsets(connection).await,
            1 => self.ask_epochs(connection).await,
            2 => {
                // From somewhere before: what was read once is read again, from the disk perhaps.
                for followed in &mut self.followed {
                    followed.offset = self.chance.below(followed.offset as u64 + 1) as i64;
                }
                Ok(())
            }
            _ => {
                let wait = self.chance.log_below(10) as i32;
                let most = 100 << self.chance.below(14);
                let version = self.chance.between(12, 17) as i16;
                let gave = fetch(&self.clients, connection, &mut self.followed, (version, wait, most)).await?;
                if !gave {
                    self.io.sleep(Duration::from_millis(self.chance.between(1, 20))).await;
                }
                Ok(())
            }
        }
    }

    async fn list_offsets(&mut self, connection: &mut Connection) -> Result<(), Lost> {
        let timestamp = *self.chance.pick(&[-1, -2]);
        self.followed.iter_mut().for_each(|followed| followed.note_floor(&self.clients));
        let topic = |followed: &Followed| ListOffsetsTopic {
            name: followed.name.clone().into(),
            partitions: vec![ListOffsetsPartition {
                partition_index: followed.partition,
                current_leader_epoch: -1,
                timestamp,
            }],
        };
        let topics = self.followed.iter().map(topic).collect();
        let request = ListOffsetsRequest { replica_id: -1, topics, ..Default::default() };
        let answer = connection.ask(&request, self.chance.between(4, 9) as i16).await?;
        let response: ListOffsetsResponse<'_> = answer.message();
        for (followed, topic) in self.followed.iter().zip(&response.topics) {
            let told = &topic.partitions[0];
            let place = place(followed.topic, followed.partition);
            let mut history = self.clients.history.borrow_mut();
            match error(told.error_code) {
                ErrorCode::None if is_stable(&self.clients, followed) && timestamp == -1 => {
                    history.end_seen(place, followed.floor.0, told.offset);
                }
                ErrorCode::None if is_stable(&self.clients, followed) => {
                    history.start_seen(place, followed.floor.1, told.offset);
                }
                ErrorCode::None | ErrorCode::UnknownTopicOrPartition => {}
                ErrorCode::NotLeaderOrFollower | ErrorCode::KafkaStorageError => {}
                other => history.broken(Rule::Stuck, Some(place), format!("ListOffsets answers {other:?}")),
            }
        }
        Ok(())
    }

    async fn ask_epochs(&mut self, connection: &mut Connection) -> Result<(), Lost> {
        self.followed.iter_mut().for_each(|followed| followed.note_floor(&self.clients));
        let topic = |followed: &Followed| OffsetForLeaderTopic {
            topic: followed.name.clone().into(),
            partitions: vec![OffsetForLeaderPartition {
                partition: followed.partition,
                current_leader_epoch: -1,
                leader_epoch: 0,
            }],
        };
        let topics = self.followed.iter().map(topic).collect();
        let request = OffsetForLeaderEpochRequest { replica_id: -1, topics };
        let answer = connection.ask(&request, 4).await?;
        let response: OffsetForLeaderEpochResponse<'_> = answer.message();
        for (followed, topic) in self.followed.iter().zip(&response.topics) {
            let told = &topic.partitions[0];
            // There is one epoch: its end is the log's, of which all that is told is durable.
            if error(told.error_code) == ErrorCode::None && told.leader_epoch == 0 && is_stable(&self.clients, followed)
            {
                let place = place(followed.topic, followed.partition);
                self.clients.history.borrow_mut().end_seen(place, followed.floor.0, told.end_offset);
            }
        }
        Ok(())
    }
}

/// Whether the followed topic's name stands for it for as long as it lives: one that is deleted and made
/// again is another one, and by name alone nobody can tell which of them answered.
fn is_stable(clients: &Clients, followed: &Followed) -> bool {
    !clients.load.churn || followed.name != CHURN
}

/// One Fetch of all that is followed: (version, longest wait in ms, most bytes). Whether it gave any record.
pub(crate) async fn fetch(
    clients: &Clients,
    connection: &mut Connection,
    followed: &mut [Followed],
    (version, max_wait_ms, max_bytes): (i16, i32, i32),
) -> Result<bool, Lost> {
    followed.iter_mut().for_each(|followed| followed.note_floor(clients));
    let mut topics: Vec<FetchTopic<'_>> = Vec::new();
    for followed in followed.iter().filter(|followed| version >= 13 || is_stable(clients, followed)) {
        let partition = FetchPartition {
            partition: followed.partition,
            fetch_offset: followed.offset,
            partition_max_bytes: max_bytes,
            ..Default::default()
        };
        let by_name = version < 13;
        let (name, topic_id) =
            if by_name { (followed.name.clone(), Uuid::ZERO) } else { (String::new(), followed.topic) };
        match topics.iter_mut().find(|topic| *topic.topic == *name && topic.topic_id == topic_id) {
            Some(topic) => topic.partitions.push(partition),
            None => topics.push(FetchTopic { topic: name.into(), topic_id, partitions: vec![partition] }),
        }
    }
    let request = FetchRequest { max_wait_ms, min_bytes: 1, max_bytes: 1 << 20, topics, ..Default::default() };
    let answer = connection.ask(&request, version).await?;
    let response: FetchResponse<'_> = answer.message();
    let mut gave = false;
    for topic in &response.responses {
        for data in &topic.partitions {
            let is_it = |followed: &&mut Followed| {
                followed.partition == data.partition_index
                    && (if version < 13 { followed.name == *topic.topic } else { followed.topic == topic.topic_id })
            };
            let followed = followed.iter_mut().find(is_it).expect("an answer is to a question");
            gave |= take(clients, connection.crashes, followed, data);
        }
    }
    Ok(gave)
}

/// Takes one partition's part of an answer; whether there were records.
fn take(clients: &Clients, crashes: u64, followed: &mut Followed, data: &PartitionData<'_>) -> bool {
    let place = place(followed.topic, followed.partition);
    let mut history = clients.history.borrow_mut();
    tracing::trace!(%place, offset = followed.offset, error = ?error(data.error_code), hw = data.high_watermark, bytes = data.records.as_ref().map_or(0, |r| r.slices().map(|s| s.len()).sum::<usize>()), "take");
    match error(data.error_code) {
        ErrorCode::None => {}
        ErrorCode::CorruptMessage => {
            history.read_damaged(place, followed.offset);
            followed.offset += 1;
            return true;
        }
        ErrorCode::UnknownTopicOrPartition | ErrorCode::UnknownTopicId => {
            followed.closed = history.is_delete_sent(followed.topic.0);
            return false;
        }
        ErrorCode::OffsetOutOfRange => {
            history.end_seen(place, followed.offset, -1);
            followed.closed = true;
            return false;
        }
        ErrorCode::NotLeaderOrFollower | ErrorCode::KafkaStorageError => return false,
        other => {
            history.broken(Rule::Stuck, Some(place), format!("Fetch answers {other:?}"));
            followed.closed = true;
            return false;
        }
    }
    history.end_seen(place, followed.floor.0, data.high_watermark);
    history.start_seen(place, followed.floor.1, data.log_start_offset);
    let bytes: Vec<u8> =
        data.records.as_ref().map_or(Vec::new(), |records| records.slices().flatten().copied().collect());
    let mut records = Vec::new();
    if let Err(what) = unpack(&bytes, &mut records) {
        history.read_garbage(place, followed.offset, what);
        followed.closed = true;
        return false;
    }
    history.read(place, followed.offset, data.high_watermark, &records);
    clients.note_known(records.iter().map(|(_, value)| *value), crashes);
    if let Some((last, _)) = records.last() {
        if *last < followed.offset {
            history.broken(Rule::Gap, Some(place), format!("a read from {} gives what is before it", followed.offset));
            followed.closed = true;
        }
        followed.offset = followed.offset.max(last + 1);
    }
    !records.is_empty()
}

/// The (offset, value) of whole batches.
fn unpack(bytes: &[u8], records: &mut Vec<(i64, u64)>) -> Result<(), String> {
    for batch in batches(bytes) {
        unpack_batch(&batch.map_err(|error| format!("a batch: {error}"))?, records)?;
    }
    Ok(())
}

/// The (offset, value) of a batch.
pub(crate) fn unpack_batch(batch: &BatchView<'_>, records: &mut Vec<(i64, u64)>) -> Result<(), String> {
    if !batch.crc_ok() {
        return Err("a batch's CRC does not match".to_owned());
    }
    let mut plain = Vec::new();
    let found = batch.records(&mut Scratch::new(), &mut plain, 64 << 20).map_err(|error| error.to_string())?;
    for record in found {
        let record = record.map_err(|error| error.to_string())?;
        let value = record.value.and_then(payload::read).ok_or("a value that nobody wrote")?;
        records.push((batch.base_offset() + i64::from(record.offset_delta), value));
    }
    Ok(())
}
