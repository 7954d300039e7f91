//! What the clients of groups and transactions share: the topic, what was seen so far, and how to go on after a loss.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use checker::{Groups, Partition, Transactions};
use engine::io::{Class, Io};
use engine::protocol::messages::create_topics::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequest, CreateTopicsResponse,
};
use engine::protocol::messages::find_coordinator::{FindCoordinatorRequest, FindCoordinatorResponse};
use engine::protocol::{ErrorCode, Request};

use crate::chance::Chance;
use crate::clients::{Topic, error, list_topics, place};
use crate::wire::{Answer, Connection, Lost};

/// The topic whose partitions are the lists that transactions append to.
const LISTS: &str = "lists";
/// Markers that an operator may send too late; older ones are forgotten.
const MOST_STALE: usize = 64;

/// What one seed's clients do.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    /// Transactional ids, each with one producer at a time that is alive.
    pub(crate) writers: u64,
    /// Readers of committed records, and of all.
    pub(crate) readers: u64,
    /// Members of the classic group, and of that of KIP-848.
    pub(crate) classic_members: u64,
    pub(crate) consumer_members: u64,
    pub(crate) partitions: i32,
    /// Whether wall clocks may jump, so that any transaction may time out.
    pub(crate) clocks_jump: bool,
    /// The longest pause between two transactions of a writer, in milliseconds.
    pub(crate) pause_ms: u64,
}

/// An epoch that a producer once had in a partition, where it has a later one by now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stale {
    pub(crate) partition: i32,
    pub(crate) producer_id: i64,
    pub(crate) epoch: i16,
}

/// What the clients share.
pub(crate) struct Shared {
    pub(crate) seed: u64,
    pub(crate) load: Load,
    pub(crate) address: SocketAddr,
    pub(crate) transactions: RefCell<Transactions>,
    pub(crate) groups: RefCell<Groups>,
    pub(crate) crashes: Cell<u64>,
    /// Transactions whose end and commits that were acknowledged.
    pub(crate) acknowledged: Cell<u64>,
    pub(crate) stopping: Cell<bool>,
    pub(crate) running: Cell<usize>,
    pub(crate) stale: RefCell<Vec<Stale>>,
    pub(crate) tally: RefCell<BTreeMap<&'static str, u64>>,
    topic: RefCell<Option<Topic>>,
    /// The epoch that a producer last had acknowledged in a partition.
    epochs: RefCell<BTreeMap<(i32, i64), i16>>,
    numbers: Cell<u64>,
}

impl Shared {
    pub(crate) fn new(seed: u64, load: Load, address: SocketAddr) -> Rc<Shared> {
        Rc::new(Shared {
            seed,
            load,
            address,
            transactions: RefCell::default(),
            groups: RefCell::default(),
            crashes: Cell::new(0),
            acknowledged: Cell::new(0),
            stopping: Cell::new(false),
            running: Cell::new(0),
            stale: RefCell::default(),
            tally: RefCell::default(),
            topic: RefCell::default(),
            epochs: RefCell::default(),
            numbers: Cell::new(0),
        })
    }

    /// Starts a client on the machine of `io`; the seed waits for its end.
    pub(crate) fn run(self: &Rc<Shared>, io: &Io, client: impl Future<Output = ()> + 'static) {
        self.running.set(self.running.get() + 1);
        let shared = self.clone();
        io.spawn(Class::Foreground, async move {
            client.await;
            shared.running.set(shared.running.get() - 1);
        });
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    pub(crate) fn chance(&self, name: u64) -> Chance {
        Chance::new(self.seed, name)
    }

    /// A number that was never given before.
    pub(crate) fn number(&self) -> u64 {
        self.numbers.set(self.numbers.get() + 1);
        self.numbers.get()
    }

    pub(crate) fn count(&self, what: &'static str) {
        *self.tally.borrow_mut().entry(what).or_default() += 1;
    }

    pub(crate) fn note_acknowledged(&self) {
        self.acknowledged.set(self.acknowledged.get() + 1);
    }

    /// A producer had a batch acknowledged in this epoch.
    pub(crate) fn note_epoch(&self, partition: i32, producer_id: i64, epoch: i16) {
        let before = self.epochs.borrow_mut().insert((partition, producer_id), epoch);
        if let Some(before) = before.filter(|before| *before < epoch) {
            let mut stale = self.stale.borrow_mut();
            stale.push(Stale { partition, producer_id, epoch: before });
            if stale.len() > MOST_STALE {
                stale.remove(0);
            }
        }
    }

    /// The topic, once it is there.
    pub(crate) async fn topic(&self, io: &Io) -> Topic {
        loop {
            if let Some(topic) = self.topic.borrow().clone() {
                return topic;
            }
            io.sleep(Duration::from_millis(5)).await;
        }
    }

    /// The topic, for those who know that it is there.
    pub(crate) fn known_topic(&self) -> Option<Topic> {
        self.topic.borrow().clone()
    }
}

/// A partition of the topic, as the checkers name it.
pub(crate) fn list(topic: &Topic, partition: i32) -> Partition {
    place(topic.id, partition)
}

/// What a coordinator answers whose state is being loaded, or a disk that fails or is full: asked again, it may be
/// well.
pub(crate) fn may_pass(error: ErrorCode) -> bool {
    matches!(
        error,
        ErrorCode::CoordinatorLoadInProgress
            | ErrorCode::CoordinatorNotAvailable
            | ErrorCode::NotCoordinator
            | ErrorCode::NotLeaderOrFollower
            | ErrorCode::KafkaStorageError
            | ErrorCode::NotEnoughReplicas
            | ErrorCode::NotEnoughReplicasAfterAppend
            | ErrorCode::RequestTimedOut
            | ErrorCode::ConcurrentTransactions
            | ErrorCode::UnknownTopicOrPartition
            | ErrorCode::UnknownTopicId
    )
}

/// A client's connection, opened anew after each loss.
pub(crate) struct Line {
    pub(crate) shared: Rc<Shared>,
    pub(crate) io: Io,
    connection: Option<Connection>,
}

impl Line {
    pub(crate) fn new(shared: Rc<Shared>, io: Io) -> Line {
        Line { shared, io, connection: None }
    }

    /// The connection; a loss if the broker is not there. Coordinators are looked for when it is opened, which makes
    /// their topics.
    pub(crate) async fn connection(&mut self) -> Result<&mut Connection, Lost> {
        if self.connection.is_none() {
            let opened = Connection::open(&self.io, self.shared.address, self.shared.crashes.get()).await;
            let Ok(mut opened) = opened else {
                self.pause(20).await;
                return Err(Lost);
            };
            for key_type in [0, 1] {
                find_coordinator(&mut opened, key_type).await?;
            }
            self.connection = Some(opened);
        }
        Ok(self.connection.as_mut().expect("it was just opened"))
    }

    /// Asks once.
    pub(crate) async fn ask<'a, R: Request<'a>>(&mut self, request: &R, version: i16) -> Result<Answer, Lost> {
        let asked = match self.connection().await {
            Ok(connection) => connection.ask(request, version).await,
            Err(lost) => Err(lost),
        };
        if asked.is_err() {
            self.hang_up();
        }
        asked
    }

    pub(crate) fn hang_up(&mut self) {
        self.connection = None;
    }

    pub(crate) async fn pause(&self, milliseconds: u64) {
        self.io.sleep(Duration::from_millis(milliseconds)).await;
    }
}

async fn find_coordinator(connection: &mut Connection, key_type: i8) -> Result<(), Lost> {
    let request = FindCoordinatorRequest { key_type, coordinator_keys: vec!["any".into()], ..Default::default() };
    let answer = connection.ask(&request, 4).await?;
    let found = answer.message::<FindCoordinatorResponse<'_>>().coordinators[0].error_code;
    if error(found) == ErrorCode::None { Ok(()) } else { Err(Lost) }
}

/// Makes the topic.
pub(crate) async fn administrate(shared: Rc<Shared>, io: Io) {
    while shared.known_topic().is_none() && !shared.is_stopping() {
        if make(&shared, &io).await.is_err() {
            io.sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn make(shared: &Shared, io: &Io) -> Result<(), Lost> {
    let mut connection = Connection::open(io, shared.address, shared.crashes.get()).await?;
    let topic = CreatableTopic {
        name: LISTS.into(),
        num_partitions: shared.load.partitions,
        replication_factor: 1,
        // Clocks may jump by a year, and the producers' with them.
        configs: vec![CreatableTopicConfig {
            name: "message.timestamp.after.max.ms".into(),
            value: Some(i64::MAX.to_string().into()),
        }],
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, validate_only: false };
    let answer = connection.ask(&request, 7).await?;
    let made = error(answer.message::<CreateTopicsResponse<'_>>().topics[0].error_code);
    if !matches!(made, ErrorCode::None | ErrorCode::TopicAlreadyExists) {
        return Err(Lost);
    }
    let found = list_topics(&mut connection).await?.into_iter().find(|topic| topic.name == LISTS);
    *shared.topic.borrow_mut() = found;
    Ok(())
}
