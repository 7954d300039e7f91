//! A client that takes one step at a time, patiently, and knows what it was told: who checks with it afterwards has all
//! that must be there.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use checker::payload;
use engine::io::Io;
use engine::io::sim::CrashKind;
use engine::protocol::messages::create_topics::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequest, CreateTopicsResponse,
};
use engine::protocol::messages::delete_records::{
    DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsResponse, DeleteRecordsTopic,
};
use engine::protocol::messages::delete_topics::{DeleteTopicState, DeleteTopicsRequest, DeleteTopicsResponse};
use engine::protocol::messages::end_txn::{EndTxnRequest, EndTxnResponse};
use engine::protocol::messages::fetch::{FetchPartition, FetchRequest, FetchResponse, FetchTopic};
use engine::protocol::messages::find_coordinator::{FindCoordinatorRequest, FindCoordinatorResponse};
use engine::protocol::messages::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};
use engine::protocol::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic, OffsetCommitResponse,
};
use engine::protocol::messages::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics, OffsetFetchResponse,
};
use engine::protocol::messages::produce::{PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData};
use engine::protocol::{ErrorCode, Records, Request};
use engine::record::{BatchBuilder, batches};

use crate::clients::{Topic, error, list_topics};
use crate::consumer::unpack_batch;
use crate::wire::{Answer, Connection};

use Step::{Append, Commit, Create, Delete, DeleteRecords, Restart, Transaction, Wait};

const TRANSACTIONAL_ID: &str = "writer";

/// One step of a script.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    /// A topic: name, partitions, `segment.ms`.
    Create(&'static str, i32, &'static str),
    Delete(&'static str),
    /// To a partition: so many batches, one after another, of a value of so many bytes.
    Append(&'static str, i32, u64, usize),
    /// A transaction of one batch in each of two partitions: whether it commits.
    Transaction(&'static str, bool),
    /// A group's offset of the topic's first partition.
    Commit(&'static str, i64),
    /// The topic's first partition begins at this offset.
    DeleteRecords(&'static str, i64),
    Wait(u64),
    /// The life ends, in order or by a crash, and the next one has so many shards.
    Restart(Option<CrashKind>, usize),
}

/// Values by offset.
type Values = BTreeMap<i64, u64>;

/// What was acknowledged.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) topics: RefCell<Vec<Topic>>,
    deleted: RefCell<Vec<Topic>>,
    /// By topic, partition and offset.
    values: RefCell<BTreeMap<([u8; 16], i32), Values>>,
    starts: RefCell<BTreeMap<[u8; 16], i64>>,
    commits: RefCell<BTreeMap<[u8; 16], i64>>,
    next_value: Cell<u64>,
    /// Partitions whose files were harmed.
    pub(crate) excused: RefCell<BTreeSet<([u8; 16], i32)>>,
}

/// A client, patient without end: who waits for it is not.
pub(crate) struct Caller {
    pub(crate) io: Io,
    address: SocketAddr,
    connection: Option<Connection>,
}

impl Caller {
    /// One without a connection.
    pub(crate) fn new(io: &Io, address: SocketAddr) -> Caller {
        Caller { io: io.clone(), address, connection: None }
    }

    /// The answer; `None` if it is lost, after a pause.
    pub(crate) async fn ask<'a, R: Request<'a>>(&mut self, request: &R, version: i16) -> Option<Answer> {
        if self.connection.is_none() {
            self.connection = Connection::open(&self.io, self.address, 0).await.ok();
        }
        let answer = match &mut self.connection {
            Some(connection) => connection.ask(request, version).await.ok(),
            None => None,
        };
        if answer.is_none() {
            self.connection = None;
            self.pause().await;
        }
        answer
    }

    async fn pause(&self) {
        self.io.sleep(Duration::from_millis(20)).await;
    }

    pub(crate) async fn act(&mut self, known: &Known, step: Step) {
        let topic = |name: &str| known.topics.borrow().iter().find(|topic| topic.name == name).cloned();
        match step {
            Create(name, partitions, segment_ms) => self.create(known, name, partitions, segment_ms).await,
            Delete(name) => self.delete(known, topic(name)).await,
            Append(name, partition, batches, bytes) => {
                let Some(topic) = topic(name) else { return };
                for _ in 0..batches {
                    self.append(known, &topic, partition, bytes).await;
                }
            }
            Transaction(name, commit) => {
                let Some(topic) = topic(name) else { return };
                self.find_coordinator(1).await;
                while !self.transaction(known, &topic, commit).await {
                    self.pause().await;
                }
            }
            Commit(name, offset) => {
                let Some(topic) = topic(name) else { return };
                self.commit(known, &topic, offset).await;
            }
            DeleteRecords(name, offset) => {
                let Some(topic) = topic(name) else { return };
                self.delete_records(known, &topic, offset).await;
            }
            Wait(_) | Restart(..) => unreachable!("no client does that"),
        }
    }

    pub(crate) async fn create(
        &mut self,
        known: &Known,
        name: &'static str,
        partitions: i32,
        segment_ms: &'static str,
    ) {
        loop {
            let config = CreatableTopicConfig { name: "segment.ms".into(), value: Some(segment_ms.into()) };
            let topic = CreatableTopic {
                name: name.into(),
                num_partitions: partitions,
                replication_factor: 1,
                configs: vec![config],
                ..Default::default()
            };
            let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 5_000, validate_only: false };
            let Some(answer) = self.ask(&request, 7).await else { continue };
            let made = answer.message::<CreateTopicsResponse<'_>>().topics[0].error_code;
            if matches!(error(made), ErrorCode::None | ErrorCode::TopicAlreadyExists)
                && let Some(found) = self.list().await.into_iter().find(|topic| topic.name == name)
            {
                known.topics.borrow_mut().push(found);
                return;
            }
            self.pause().await;
        }
    }

    pub(crate) async fn list(&mut self) -> Vec<Topic> {
        loop {
            if let Some(connection) = &mut self.connection
                && let Ok(topics) = list_topics(connection).await
            {
                return topics;
            }
            self.connection = Connection::open(&self.io, self.address, 0).await.ok();
            self.pause().await;
        }
    }

    async fn delete(&mut self, known: &Known, topic: Option<Topic>) {
        let Some(topic) = topic else { return };
        // From now on it may be gone.
        known.topics.borrow_mut().retain(|known| known.id != topic.id);
        loop {
            let state = DeleteTopicState { name: None, topic_id: topic.id };
            let request = DeleteTopicsRequest { topics: vec![state], timeout_ms: 5_000, ..Default::default() };
            let Some(answer) = self.ask(&request, 6).await else { continue };
            let told = answer.message::<DeleteTopicsResponse<'_>>().responses[0].error_code;
            if matches!(error(told), ErrorCode::None | ErrorCode::UnknownTopicId) {
                known.deleted.borrow_mut().push(topic);
                return;
            }
            self.pause().await;
        }
    }

    /// One batch of one value, until it is acknowledged.
    pub(crate) async fn append(&mut self, known: &Known, topic: &Topic, partition: i32, bytes: usize) {
        while !self.produce(known, topic, partition, bytes, None).await {
            self.pause().await;
        }
    }

    pub(crate) async fn produce(
        &mut self,
        known: &Known,
        topic: &Topic,
        index: i32,
        bytes: usize,
        transaction: Option<(i64, i16)>,
    ) -> bool {
        let value = known.next_value.replace(known.next_value.get() + 1);
        let mut builder = BatchBuilder::new();
        if let Some((id, epoch)) = transaction {
            builder = builder.producer(id, epoch, 0).transactional(true);
        }
        let payload = payload::write(value, bytes.max(payload::SHORTEST));
        builder.append(self.io.wall_clock_ms(), None, Some(&payload), &[]);
        let records = Some(Records::Chunks(vec![builder.finish().into()]));
        let data = TopicProduceData {
            topic_id: topic.id,
            partition_data: vec![PartitionProduceData { index, records }],
            ..Default::default()
        };
        let request = ProduceRequest {
            transactional_id: transaction.map(|_| TRANSACTIONAL_ID.into()),
            acks: -1,
            timeout_ms: 5_000,
            topic_data: vec![data],
        };
        let Some(answer) = self.ask(&request, 13).await else { return false };
        let response = answer.message::<ProduceResponse<'_>>();
        let told = &response.responses[0].partition_responses[0];
        if error(told.error_code) != ErrorCode::None {
            return false;
        }
        let mut values = known.values.borrow_mut();
        values.entry((topic.id.0, index)).or_default().insert(told.base_offset, value);
        true
    }

    async fn find_coordinator(&mut self, key_type: i8) {
        loop {
            let request =
                FindCoordinatorRequest { key_type, coordinator_keys: vec!["any".into()], ..Default::default() };
            if let Some(answer) = self.ask(&request, 4).await {
                let found = answer.message::<FindCoordinatorResponse<'_>>().coordinators[0].error_code;
                if error(found) == ErrorCode::None {
                    return;
                }
                self.pause().await;
            }
        }
    }

    /// One try at a whole transaction, under an epoch of its own; whether it has ended as it should.
    async fn transaction(&mut self, known: &Known, topic: &Topic, committed: bool) -> bool {
        let request = InitProducerIdRequest {
            transactional_id: Some(TRANSACTIONAL_ID.into()),
            transaction_timeout_ms: 60_000,
            producer_id: -1,
            producer_epoch: -1,
        };
        let Some(answer) = self.ask(&request, 5).await else { return false };
        let given: InitProducerIdResponse = answer.message();
        if error(given.error_code) != ErrorCode::None {
            return false;
        }
        let (producer_id, producer_epoch) = (given.producer_id, given.producer_epoch);
        for partition in 0..2 {
            if !self.produce(known, topic, partition, 100, Some((producer_id, producer_epoch))).await {
                return false;
            }
        }
        let request =
            EndTxnRequest { transactional_id: TRANSACTIONAL_ID.into(), producer_id, producer_epoch, committed };
        let Some(answer) = self.ask(&request, 5).await else { return false };
        error(answer.message::<EndTxnResponse>().error_code) == ErrorCode::None
    }

    async fn commit(&mut self, known: &Known, topic: &Topic, offset: i64) {
        self.find_coordinator(0).await;
        loop {
            let partition =
                OffsetCommitRequestPartition { partition_index: 0, committed_offset: offset, ..Default::default() };
            let request = OffsetCommitRequest {
                group_id: "group".into(),
                generation_id_or_member_epoch: -1,
                topics: vec![OffsetCommitRequestTopic { name: topic.name.clone().into(), partitions: vec![partition] }],
                ..Default::default()
            };
            let Some(answer) = self.ask(&request, 9).await else { continue };
            let told = answer.message::<OffsetCommitResponse<'_>>().topics[0].partitions[0].error_code;
            if error(told) == ErrorCode::None {
                known.commits.borrow_mut().insert(topic.id.0, offset);
                return;
            }
            self.pause().await;
        }
    }

    async fn delete_records(&mut self, known: &Known, topic: &Topic, offset: i64) {
        // From now on they may be gone.
        known.starts.borrow_mut().insert(topic.id.0, offset);
        loop {
            let partitions = vec![DeleteRecordsPartition { partition_index: 0, offset }];
            let topics = vec![DeleteRecordsTopic { name: topic.name.clone().into(), partitions }];
            let request = DeleteRecordsRequest { topics, timeout_ms: 5_000 };
            let Some(answer) = self.ask(&request, 2).await else { continue };
            let told = answer.message::<DeleteRecordsResponse<'_>>().topics[0].partitions[0].error_code;
            if error(told) == ErrorCode::None {
                return;
            }
            self.pause().await;
        }
    }

    pub(crate) async fn check(&mut self, known: &Known, takes_more: bool) -> Result<(), String> {
        let there = self.list().await;
        let topics = known.topics.borrow().clone();
        if let Some(back) = known.deleted.borrow().iter().find(|gone| there.iter().any(|topic| topic.id == gone.id)) {
            return Err(format!("topic {} was deleted and is back", back.name));
        }
        for topic in &topics {
            if !there.contains(topic) {
                return Err(format!("topic {} is gone", topic.name));
            }
            for partition in 0..topic.partitions {
                if known.excused.borrow().contains(&(topic.id.0, partition)) {
                    continue;
                }
                self.check_partition(known, topic, partition).await?;
                if takes_more {
                    self.append(known, topic, partition, 10).await;
                }
            }
            self.check_commit(known, topic).await?;
        }
        Ok(())
    }

    async fn check_partition(&mut self, known: &Known, topic: &Topic, partition: i32) -> Result<(), String> {
        let start = if partition == 0 { known.starts.borrow().get(&topic.id.0).copied().unwrap_or(0) } else { 0 };
        let mut wanted = known.values.borrow().get(&(topic.id.0, partition)).cloned().unwrap_or_default();
        wanted.retain(|offset, _| *offset >= start);
        let mut offset = start;
        while let Some((last, _)) = wanted.last_key_value() {
            if offset > *last {
                break;
            }
            let (found, next) = self.fetch(topic, partition, offset).await?;
            for (offset, value) in found {
                match wanted.remove(&offset) {
                    Some(acknowledged) if acknowledged != value => {
                        return Err(format!("{}-{partition} holds another record at {offset}", topic.name));
                    }
                    _ => {}
                }
            }
            if next == offset && !wanted.is_empty() {
                return Err(format!("{}-{partition} ends at {offset}, and lacks {wanted:?}", topic.name));
            }
            offset = next;
        }
        match wanted.is_empty() {
            true => Ok(()),
            false => Err(format!("{}-{partition} lacks {wanted:?}", topic.name)),
        }
    }

    /// The (offset, value) of records from `offset` on, and where to go on.
    pub(crate) async fn fetch(
        &mut self,
        topic: &Topic,
        partition: i32,
        offset: i64,
    ) -> Result<(BTreeSet<(i64, u64)>, i64), String> {
        loop {
            let partition =
                FetchPartition { partition, fetch_offset: offset, partition_max_bytes: 1 << 20, ..Default::default() };
            let topics = vec![FetchTopic { topic_id: topic.id, partitions: vec![partition], ..Default::default() }];
            let request = FetchRequest { min_bytes: 0, max_bytes: 1 << 20, topics, ..Default::default() };
            let Some(answer) = self.ask(&request, 17).await else { continue };
            let response: FetchResponse<'_> = answer.message();
            let data = &response.responses[0].partitions[0];
            match error(data.error_code) {
                ErrorCode::None => {}
                ErrorCode::OffsetOutOfRange => return Ok((BTreeSet::new(), offset)),
                _ => {
                    self.pause().await;
                    continue;
                }
            }
            let bytes: Vec<u8> =
                data.records.as_ref().map_or(Vec::new(), |records| records.slices().flatten().copied().collect());
            let (mut found, mut next) = (Vec::new(), offset);
            for batch in batches(&bytes) {
                let batch = batch.map_err(|error| format!("a batch: {error}"))?;
                next = batch.last_offset() + 1;
                if !batch.attributes().is_control() {
                    unpack_batch(&batch, &mut found)?;
                }
            }
            return Ok((found.into_iter().collect(), next));
        }
    }

    async fn check_commit(&mut self, known: &Known, topic: &Topic) -> Result<(), String> {
        let Some(committed) = known.commits.borrow().get(&topic.id.0).copied() else { return Ok(()) };
        loop {
            let topics = vec![OffsetFetchRequestTopics { name: topic.name.clone().into(), partition_indexes: vec![0] }];
            let group = OffsetFetchRequestGroup {
                group_id: "group".into(),
                member_epoch: -1,
                topics: Some(topics),
                ..Default::default()
            };
            let request = OffsetFetchRequest { groups: vec![group], ..Default::default() };
            let Some(answer) = self.ask(&request, 9).await else { continue };
            let response: OffsetFetchResponse<'_> = answer.message();
            let told = &response.groups[0];
            if error(told.error_code) == ErrorCode::None {
                let shown = told.topics[0].partitions[0].committed_offset;
                return match shown >= committed {
                    true => Ok(()),
                    false => Err(format!("the group's offset is {shown} and was {committed}")),
                };
            }
            self.pause().await;
        }
    }
}
