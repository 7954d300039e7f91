//! What the clients of a seed share, and the admin among them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use checker::{History, Partition, Rule};
use engine::io::{Class, Io};
use engine::protocol::messages::create_topics::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequest, CreateTopicsResponse,
};
use engine::protocol::messages::delete_topics::{DeleteTopicState, DeleteTopicsRequest, DeleteTopicsResponse};
use engine::protocol::messages::metadata::{MetadataRequest, MetadataResponse};
use engine::protocol::{ErrorCode, Uuid};

use crate::chance::Chance;
use crate::wire::{Connection, Lost};
use crate::{consumer, producer};

/// The topic that is deleted and made again under load.
pub(crate) const CHURN: &str = "churn";

/// A topic as the clients know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Topic {
    pub(crate) name: String,
    pub(crate) id: Uuid,
    pub(crate) partitions: i32,
}

/// What one seed's clients do.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) idempotent_producers: usize,
    pub(crate) plain_producers: usize,
    pub(crate) consumers: usize,
    /// Topics that stay.
    pub(crate) topics: usize,
    pub(crate) churn: bool,
    /// The longest value in bytes.
    pub(crate) value_bytes: u64,
    /// The longest pause of a producer between rounds, in milliseconds.
    pub(crate) pause_ms: u64,
    /// Configs of the topics that stay.
    pub(crate) configs: Vec<(String, String)>,
}

/// What the clients share.
pub(crate) struct Clients {
    pub(crate) seed: u64,
    pub(crate) load: Load,
    pub(crate) address: SocketAddr,
    pub(crate) history: RefCell<History>,
    pub(crate) topics: RefCell<Vec<Topic>>,
    /// Whether faults may have damaged what a client reads: then a sequence may be refused.
    pub(crate) damage: bool,
    /// Crashes so far.
    pub(crate) crashes: Cell<u64>,
    /// How many crashes there had been when a client first knew that a value is there.
    known: RefCell<BTreeMap<u64, u64>>,
    /// The names of all topics that ever were.
    names: RefCell<BTreeMap<[u8; 16], String>>,
    next_value: Cell<u64>,
    next_stream: Cell<u64>,
    pub(crate) stopping: Cell<bool>,
    /// Whether a topic's deletion was asked for and not answered yet.
    deleting: Cell<bool>,
    pub(crate) running: Cell<usize>,
}

pub(crate) fn place(topic: Uuid, partition: i32) -> Partition {
    Partition { topic: topic.0, number: partition }
}

pub(crate) fn error(code: i16) -> ErrorCode {
    ErrorCode::from_code(code).expect("a code of Kafka's")
}

impl Clients {
    pub(crate) fn new(seed: u64, load: Load, address: SocketAddr, damage: bool) -> Rc<Clients> {
        Rc::new(Clients {
            seed,
            load,
            address,
            history: RefCell::default(),
            topics: RefCell::default(),
            damage,
            crashes: Cell::new(0),
            known: RefCell::default(),
            names: RefCell::default(),
            next_value: Cell::new(0),
            next_stream: Cell::new(0),
            stopping: Cell::new(false),
            deleting: Cell::new(false),
            running: Cell::new(0),
        })
    }

    /// Starts all clients on the machine of `io`.
    pub(crate) fn start(self: &Rc<Clients>, io: &Io) {
        let load = &self.load;
        self.run(io, administrate);
        for number in 0..load.idempotent_producers + load.plain_producers {
            let idempotent = number < load.idempotent_producers;
            self.run(io, move |clients, io| producer::produce(clients, io, number as u64, idempotent));
        }
        for number in 0..load.consumers {
            self.run(io, move |clients, io| consumer::consume(clients, io, number as u64));
        }
    }

    fn run<F: Future<Output = ()> + 'static>(self: &Rc<Clients>, io: &Io, make: impl FnOnce(Rc<Clients>, Io) -> F) {
        self.running.set(self.running.get() + 1);
        let clients = self.clone();
        let client = make(self.clone(), io.clone());
        io.spawn(Class::Foreground, async move {
            client.await;
            clients.running.set(clients.running.get() - 1);
        });
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// New values, never used before.
    pub(crate) fn values(&self, count: u64) -> std::ops::Range<u64> {
        let first = self.next_value.get();
        self.next_value.set(first + count);
        first..first + count
    }

    pub(crate) fn stream(&self, partition: Partition, idempotent: bool) -> u64 {
        let stream = self.next_stream.get();
        self.next_stream.set(stream + 1);
        self.history.borrow_mut().open_stream(stream, partition, idempotent);
        stream
    }

    /// A client has learnt that these values are there.
    pub(crate) fn note_known(&self, values: impl Iterator<Item = u64>, crashes: u64) {
        let mut known = self.known.borrow_mut();
        for value in values {
            known.entry(value).or_insert(crashes);
        }
    }

    /// How many crashes there had been when a client first knew that a value is there.
    pub(crate) fn known_since(&self, value: u64) -> u64 {
        self.known.borrow().get(&value).copied().unwrap_or(0)
    }

    /// The name of a partition's directory.
    pub(crate) fn directory(&self, partition: Partition) -> String {
        let names = self.names.borrow();
        format!("{}-{}", names.get(&partition.topic).map_or("", String::as_str), partition.number)
    }

    pub(crate) fn chance(&self, name: u64) -> Chance {
        Chance::new(self.seed, name)
    }

    /// Some partitions, once there are any; none if the clients stop before.
    pub(crate) async fn some_partitions(&self, io: &Io, chance: &mut Chance, most: u64) -> Vec<(Topic, i32)> {
        loop {
            let topics = self.topics.borrow().clone();
            if self.is_stopping() {
                return Vec::new();
            }
            if topics.len() >= self.load.topics {
                let mut all: Vec<_> =
                    topics.iter().flat_map(|topic| (0..topic.partitions).map(|index| (topic.clone(), index))).collect();
                let count = chance.between(1, most).min(all.len() as u64);
                return (0..count).map(|_| all.swap_remove(chance.below(all.len() as u64) as usize)).collect();
            }
            io.sleep(Duration::from_millis(5)).await;
        }
    }

    fn learn(&self, topic: Topic, deleted_before: bool) {
        self.history.borrow_mut().topic_seen(topic.id.0, deleted_before);
        self.names.borrow_mut().insert(topic.id.0, topic.name.clone());
        let mut topics = self.topics.borrow_mut();
        topics.retain(|known| known.name != topic.name);
        topics.push(topic);
    }
}

/// Every topic of the broker.
pub(crate) async fn list_topics(connection: &mut Connection) -> Result<Vec<Topic>, Lost> {
    let request = MetadataRequest { topics: None, allow_auto_topic_creation: false, ..Default::default() };
    let answer = connection.ask(&request, 12).await?;
    let response: MetadataResponse<'_> = answer.message();
    let topic = |topic: &engine::protocol::messages::metadata::MetadataResponseTopic<'_>| Topic {
        name: topic.name.as_deref().unwrap_or_default().to_owned(),
        id: topic.topic_id,
        partitions: topic.partitions.len() as i32,
    };
    Ok(response.topics.iter().map(topic).collect())
}

/// Makes the topics that stay; then deletes and makes the other one for as long as the clients run.
async fn administrate(clients: Rc<Clients>, io: Io) {
    let mut chance = clients.chance(1);
    let mut wanted: Vec<String> = (0..clients.load.topics).map(|number| format!("topic-{number}")).collect();
    if clients.load.churn {
        wanted.push(CHURN.to_owned());
    }
    // A deletion whose answer was lost is asked for again: producers wait to hear whether their topic is gone.
    let is_done = || clients.is_stopping() && !clients.deleting.get();
    while !is_done() {
        let Ok(mut connection) = Connection::open(&io, clients.address, clients.crashes.get()).await else {
            io.sleep(Duration::from_millis(20)).await;
            continue;
        };
        while !is_done() {
            if step(&clients, &io, &mut chance, &mut connection, &wanted).await.is_err() {
                break;
            }
        }
    }
}

async fn step(
    clients: &Clients,
    io: &Io,
    chance: &mut Chance,
    connection: &mut Connection,
    wanted: &[String],
) -> Result<(), Lost> {
    let known = |name: &String| clients.topics.borrow().iter().any(|topic| topic.name == *name);
    if let Some(missing) = wanted.iter().find(|name| !known(name)) {
        return make(clients, chance, connection, missing).await;
    }
    io.sleep(Duration::from_millis(chance.between(20, 400))).await;
    let wants = clients.load.churn && !clients.is_stopping() && chance.one_in(2);
    if wants || clients.deleting.get() {
        delete(clients, connection).await?;
    }
    Ok(())
}

async fn make(clients: &Clients, chance: &mut Chance, connection: &mut Connection, name: &str) -> Result<(), Lost> {
    let partitions = chance.between(1, 4) as i32;
    let configs = clients.load.configs.iter();
    let config = |(name, value): &(String, String)| CreatableTopicConfig {
        name: name.clone().into(),
        value: Some(value.clone().into()),
    };
    let topic = CreatableTopic {
        name: name.into(),
        num_partitions: partitions,
        replication_factor: 1,
        configs: configs.map(config).collect(),
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, validate_only: false };
    let answer = connection.ask(&request, 7).await?;
    let response: CreateTopicsResponse<'_> = answer.message();
    let made = &response.topics[0];
    match error(made.error_code) {
        ErrorCode::None => clients.learn(Topic { name: name.to_owned(), id: made.topic_id, partitions }, false),
        ErrorCode::TopicAlreadyExists => find(clients, connection, name).await?,
        // The disk is full, or fails: it is tried again.
        ErrorCode::KafkaStorageError | ErrorCode::RequestTimedOut => return Err(Lost),
        other => panic!("CreateTopics {name}: {other:?}"),
    }
    Ok(())
}

/// An earlier request has made it, and its answer was lost.
async fn find(clients: &Clients, connection: &mut Connection, name: &str) -> Result<(), Lost> {
    for topic in list_topics(connection).await? {
        let deleted = clients.history.borrow().is_deleted(topic.id.0);
        if topic.name == name {
            clients.learn(topic, deleted);
        }
    }
    Ok(())
}

async fn delete(clients: &Clients, connection: &mut Connection) -> Result<(), Lost> {
    let Some(topic) = clients.topics.borrow().iter().find(|topic| topic.name == CHURN).cloned() else { return Ok(()) };
    clients.deleting.set(true);
    clients.history.borrow_mut().topic_delete_sent(topic.id.0);
    let state = DeleteTopicState { name: None, topic_id: topic.id };
    let request = DeleteTopicsRequest { topics: vec![state], timeout_ms: 10_000, ..Default::default() };
    let answer = connection.ask(&request, 6).await?;
    let response: DeleteTopicsResponse<'_> = answer.message();
    match error(response.responses[0].error_code) {
        // Unknown: an earlier request has deleted it, and its answer was lost.
        ErrorCode::None | ErrorCode::UnknownTopicId => {
            clients.history.borrow_mut().topic_deleted(topic.id.0);
            clients.topics.borrow_mut().retain(|known| known.id != topic.id);
        }
        ErrorCode::KafkaStorageError | ErrorCode::RequestTimedOut => return Err(Lost),
        other => {
            let what = format!("DeleteTopics answers {other:?}");
            clients.history.borrow_mut().broken(Rule::Topic, None, what);
        }
    }
    clients.deleting.set(false);
    Ok(())
}
