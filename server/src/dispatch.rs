//! From a frame to its handler, and from a handler's response to the bytes of an answer.
//!
//! The invariant: what ApiVersions lists is what is served, both from [`SERVED`]. An unknown API or version
//! closes the connection without an answer, except for ApiVersions, which tells the versions it has. What a
//! request does is for its handler.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use engine::accounts::{Class as Memory, Reservation};
use engine::io::Class;
use engine::io::Instant;
use engine::io::local::{self, Receiver};
use engine::limits::WAITER_BYTES;
use engine::protocol::frame::PREFIX_BYTES;
use engine::protocol::{
    ApiKey, DecodeError, Decoder, EncodeError, Encoder, Message, Request, RequestHeader, ResponseHeader,
};

use crate::authorizer::Client;
use crate::broker::Broker;
use crate::connection::Connection;
use crate::figures;
use crate::handlers::{self, produce};
use crate::limits;

/// The APIs that are served, by key.
pub const SERVED: &[ApiKey] = &[
    ApiKey::Produce,
    ApiKey::Fetch,
    ApiKey::ListOffsets,
    ApiKey::Metadata,
    ApiKey::OffsetCommit,
    ApiKey::OffsetFetch,
    ApiKey::FindCoordinator,
    ApiKey::JoinGroup,
    ApiKey::Heartbeat,
    ApiKey::LeaveGroup,
    ApiKey::SyncGroup,
    ApiKey::DescribeGroups,
    ApiKey::ListGroups,
    ApiKey::SaslHandshake,
    ApiKey::ApiVersions,
    ApiKey::CreateTopics,
    ApiKey::DeleteTopics,
    ApiKey::DeleteRecords,
    ApiKey::InitProducerId,
    ApiKey::OffsetForLeaderEpoch,
    ApiKey::AddPartitionsToTxn,
    ApiKey::AddOffsetsToTxn,
    ApiKey::EndTxn,
    ApiKey::WriteTxnMarkers,
    ApiKey::TxnOffsetCommit,
    ApiKey::DescribeAcls,
    ApiKey::CreateAcls,
    ApiKey::DeleteAcls,
    ApiKey::DescribeConfigs,
    ApiKey::AlterConfigs,
    ApiKey::AlterReplicaLogDirs,
    ApiKey::DescribeLogDirs,
    ApiKey::SaslAuthenticate,
    ApiKey::CreatePartitions,
    ApiKey::CreateDelegationToken,
    ApiKey::RenewDelegationToken,
    ApiKey::ExpireDelegationToken,
    ApiKey::DescribeDelegationToken,
    ApiKey::DeleteGroups,
    ApiKey::ElectLeaders,
    ApiKey::IncrementalAlterConfigs,
    ApiKey::AlterPartitionReassignments,
    ApiKey::ListPartitionReassignments,
    ApiKey::OffsetDelete,
    ApiKey::DescribeClientQuotas,
    ApiKey::AlterClientQuotas,
    ApiKey::DescribeUserScramCredentials,
    ApiKey::AlterUserScramCredentials,
    ApiKey::DescribeQuorum,
    ApiKey::UpdateFeatures,
    ApiKey::DescribeCluster,
    ApiKey::DescribeProducers,
    ApiKey::UnregisterBroker,
    ApiKey::DescribeTransactions,
    ApiKey::ListTransactions,
    ApiKey::ConsumerGroupHeartbeat,
    ApiKey::ConsumerGroupDescribe,
    ApiKey::ListConfigResources,
    ApiKey::DescribeTopicPartitions,
    ApiKey::ShareGroupHeartbeat,
    ApiKey::ShareGroupDescribe,
    ApiKey::ShareFetch,
    ApiKey::ShareAcknowledge,
    ApiKey::AddRaftVoter,
    ApiKey::RemoveRaftVoter,
    ApiKey::InitializeShareGroupState,
    ApiKey::ReadShareGroupState,
    ApiKey::WriteShareGroupState,
    ApiKey::DeleteShareGroupState,
    ApiKey::ReadShareGroupStateSummary,
    ApiKey::DescribeShareGroupOffsets,
    ApiKey::AlterShareGroupOffsets,
    ApiKey::DeleteShareGroupOffsets,
];

/// What may run beside a request of the same connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    /// Other Produce requests.
    Produce,
    /// Other Fetches.
    Fetch,
    /// Nothing.
    Barrier,
}

/// Why a request closes its connection.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It cannot be read.
    #[error("malformed request: {0}")]
    Malformed(#[from] DecodeError),
    /// Its API is not served, or not in this version.
    #[error("{} version {version} is not served", api_key.name())]
    NotServed {
        /// The API.
        api_key: ApiKey,
        /// The version.
        version: i16,
    },
    /// Its answer cannot be said in its version.
    #[error("the answer cannot be written: {0}")]
    Answer(#[from] EncodeError),
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

/// A request: its header, and its body still in the frame.
pub struct Call {
    /// The API.
    pub api_key: ApiKey,
    /// The version of request and response.
    pub version: i16,
    /// Who asks.
    pub client: Rc<Client>,
    /// How long the client shall be silent for what it used.
    throttle: Cell<Duration>,
    /// The time that this core has spent on the request.
    spent: Cell<Duration>,
    /// Since when it has been at it, if it is.
    at_it_since: Cell<Option<Instant>>,
    /// When its header was read.
    began: Instant,
    correlation_id: i32,
    frame: Bytes,
    client_id: Bytes,
    body: usize,
    /// Memory reserved for the frame.
    held: RefCell<Reservation>,
}

impl Call {
    /// Reads the header of the request in `frame`, whose memory is `held`.
    ///
    /// # Errors
    /// If it cannot be read or is not served.
    pub fn open(frame: Bytes, held: Reservation, client: Rc<Client>) -> Result<Call, Refusal> {
        let mut decoder = Decoder::new(&frame);
        let header = RequestHeader::decode(&mut decoder)?;
        let (api_key, version) = (header.api_key, header.api_version);
        let served = SERVED.contains(&api_key) && (header.is_known() || api_key == ApiKey::ApiVersions);
        if !served {
            return Err(Refusal::NotServed { api_key, version });
        }
        let client_id = header.client_id.as_deref().map_or(Bytes::new(), |id| frame.slice_ref(id.as_bytes()));
        let body = frame.len() - decoder.remaining().len();
        let correlation_id = header.correlation_id;
        let (throttle, spent, at_it_since) = Default::default();
        let began = figures::request(&client, api_key, frame.len() + PREFIX_BYTES);
        Ok(Call {
            api_key,
            version,
            client,
            throttle,
            spent,
            at_it_since,
            began,
            correlation_id,
            client_id,
            body,
            frame,
            held: RefCell::new(held),
        })
    }

    /// What may run beside it.
    pub fn overlap(&self) -> Overlap {
        match self.api_key {
            ApiKey::Produce => Overlap::Produce,
            ApiKey::Fetch => Overlap::Fetch,
            _ => Overlap::Barrier,
        }
    }

    /// What the client calls itself; empty if nothing.
    pub fn client_id(&self) -> &str {
        std::str::from_utf8(&self.client_id).expect("the header was decoded from it")
    }

    /// Reads the body. Bytes behind it are ignored, as Kafka does.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn decode<'a, R: Request<'a>>(&'a self) -> Result<R, Refusal> {
        let mut decoder = Decoder::new(&self.frame[self.body..]);
        Ok(R::decode(&mut decoder, self.version)?)
    }

    /// The part of the frame that `slice` borrows, shared without a copy.
    ///
    /// # Panics
    /// If it does not borrow from the frame.
    pub fn share(&self, slice: &[u8]) -> Bytes {
        if slice.is_empty() { Bytes::new() } else { self.frame.slice_ref(slice) }
    }

    /// Writes the answer.
    ///
    /// # Errors
    /// If the response holds what its version cannot say.
    pub fn answer<'r>(&self, response: &impl Message<'r>) -> Result<Answer, Refusal> {
        self.answer_in(response, self.version)
    }

    /// Writes the answer with a body of another version.
    ///
    /// # Errors
    /// If the response holds what that version cannot say.
    pub fn answer_in<'r>(&self, response: &impl Message<'r>, version: i16) -> Result<Answer, Refusal> {
        let throttle = self.count_time();
        let mut encoder = Encoder::frame();
        encoder.throttle(i32::try_from(throttle.as_millis()).unwrap_or(i32::MAX));
        ResponseHeader { correlation_id: self.correlation_id }.encode(&mut encoder, self.api_key, version);
        response.encode(&mut encoder, version);
        let answer = Answer { chunks: encoder.finish()?, held: None, close: false, throttle };
        figures::answer(&self.client, self.api_key, self.began, answer.bytes());
        Ok(answer)
    }

    /// Whether there is memory to wait with for news of so many partitions, or for others. Then its frame holds no
    /// memory of requests any more: those that wait must not hold up what they wait for.
    pub fn may_wait(&self, broker: &Broker, partitions: usize) -> bool {
        let bytes = self.size() + partitions * WAITER_BYTES;
        let waiting = broker.core.accounts().try_reserve(Memory::Waiters, bytes);
        let may = waiting.is_some();
        if let Some(waiting) = waiting {
            self.held.replace(waiting);
        }
        may
    }

    /// Bytes of the request, its length before it included.
    pub fn size(&self) -> usize {
        self.frame.len() + PREFIX_BYTES
    }

    /// The client shall be silent for at least this long behind the answer.
    pub fn throttle(&self, time: Duration) {
        self.throttle.set(self.throttle.get().max(time));
    }

    /// How long the client shall be silent, as far as is known.
    pub fn throttled(&self) -> Duration {
        self.throttle.get()
    }

    /// Counts the time that was spent on the request; gives how long the client shall be silent in all.
    fn count_time(&self) -> Duration {
        let quotas = &self.client.quotas;
        if quotas.are_set() {
            let running = self.at_it_since.get().map(|since| quotas.now().since(since)).unwrap_or_default();
            let spent = self.spent.replace(Duration::ZERO) + running;
            self.at_it_since.set(self.at_it_since.get().map(|_| quotas.now()));
            self.throttle(quotas.record_time(&self.client, self.client_id(), spent));
        }
        self.throttle.get()
    }

    /// Does `work` on the request, and notes how long that took.
    pub fn timed<T>(&self, work: impl FnOnce() -> T) -> T {
        if !self.client.quotas.are_set() {
            return work();
        }
        self.at_it_since.set(Some(self.client.quotas.now()));
        let done = work();
        if let Some(since) = self.at_it_since.take() {
            self.spent.set(self.spent.get() + self.client.quotas.now().since(since));
        }
        done
    }
}

/// An answer's bytes.
pub struct Answer {
    /// What to write; empty if the client wants no answer.
    pub chunks: Vec<Bytes>,
    /// Memory reserved for it.
    pub held: Option<Reservation>,
    /// Whether the connection is closed behind it.
    pub close: bool,
    /// How long the connection is not read from behind it.
    pub throttle: Duration,
}

impl Answer {
    /// No answer, and the connection goes on.
    pub fn nothing() -> Answer {
        Answer { chunks: Vec::new(), held: None, close: false, throttle: Duration::ZERO }
    }

    /// No answer, and the connection is closed.
    pub fn hang_up() -> Answer {
        Answer { close: true, ..Answer::nothing() }
    }

    /// Bytes to write.
    pub fn bytes(&self) -> usize {
        self.chunks.iter().map(Bytes::len).sum()
    }
}

/// A request that has started.
pub enum Pending {
    /// Answered already.
    Answered(Option<Answer>),
    /// Batches on their way to their shards.
    Produce(produce::UnderWay),
    /// A task of its own will answer.
    Task(Receiver<Answer>),
}

impl Pending {
    /// How long the client shall be silent for what it has sent, if that is known before the answer: what it has
    /// pipelined behind it waits as well.
    pub fn throttle(&self) -> Duration {
        match self {
            Pending::Produce(under_way) => under_way.throttled(),
            Pending::Answered(_) | Pending::Task(_) => Duration::ZERO,
        }
    }

    /// The answer; to be taken once. The future may be dropped and asked for again.
    pub async fn answer(&mut self) -> Answer {
        match self {
            Pending::Answered(answer) => answer.take().expect("an answer is taken once"),
            Pending::Produce(under_way) => under_way.answer().await,
            Pending::Task(receiver) => receiver.await.unwrap_or_else(Answer::hang_up),
        }
    }
}

/// Starts a request. A Produce has entered its shards' queues when this returns, a Fetch is under way, and so
/// is what waits for other members of a group; any other request is done.
///
/// # Errors
/// What closes the connection.
pub async fn start(broker: &Rc<Broker>, connection: &Rc<Connection>, call: Call) -> Result<Pending, Refusal> {
    match call.api_key {
        ApiKey::Produce => return produce::start(broker, connection.number(), call).await,
        ApiKey::Fetch | ApiKey::ShareFetch | ApiKey::JoinGroup | ApiKey::SyncGroup => {
            return Ok(spawn(broker, connection, call));
        }
        _ => {}
    }
    let answer = serve_timed(broker, connection, &call).await?;
    let answer = match reserve_now(broker, answer) {
        Ok(answer) => answer,
        // It is made again when there is memory for it.
        Err(answer) if changes_nothing(call.api_key) => {
            let bytes = answer.bytes();
            drop(answer);
            let mut held = broker.core.accounts().nothing(memory_of(bytes));
            connection.wait_for_memory(&mut held, bytes).await;
            let answer = serve_timed(broker, connection, &call).await?;
            held.shrink_to(held.bytes().min(answer.bytes()));
            connection.with_memory(Answer { held: Some(held), ..answer }).await
        }
        Err(answer) => connection.with_memory(answer).await,
    };
    Ok(Pending::Answered(Some(answer)))
}

async fn serve_timed(broker: &Rc<Broker>, connection: &Rc<Connection>, call: &Call) -> Result<Answer, Refusal> {
    let mut work = pin!(serve(broker, connection, call));
    poll_fn(|cx| call.timed(|| work.as_mut().poll(cx))).await
}

/// The class of an answer of that size.
pub fn memory_of(bytes: usize) -> Memory {
    if bytes <= limits::SMALL_ANSWER { Memory::AnswersSmall } else { Memory::Answers }
}

/// The answer with memory for all of it, or as it was if there is none.
pub fn reserve_now(broker: &Broker, mut answer: Answer) -> Result<Answer, Answer> {
    let bytes = answer.bytes();
    let class = memory_of(bytes);
    let held = answer.held.take().filter(|held| held.class() == class);
    let mut held = held.unwrap_or_else(|| broker.core.accounts().nothing(class));
    let has_room = held.try_grow(bytes.saturating_sub(held.bytes()));
    answer.held = Some(held);
    if has_room { Ok(answer) } else { Err(answer) }
}

/// Whether a request can be served twice.
fn changes_nothing(api_key: ApiKey) -> bool {
    matches!(
        api_key,
        ApiKey::Metadata
            | ApiKey::ListOffsets
            | ApiKey::OffsetForLeaderEpoch
            | ApiKey::OffsetFetch
            | ApiKey::FindCoordinator
            | ApiKey::DescribeGroups
            | ApiKey::ListGroups
            | ApiKey::ApiVersions
            | ApiKey::DescribeAcls
            | ApiKey::DescribeConfigs
            | ApiKey::DescribeLogDirs
            | ApiKey::ListPartitionReassignments
            | ApiKey::DescribeClientQuotas
            | ApiKey::DescribeUserScramCredentials
            | ApiKey::DescribeQuorum
            | ApiKey::DescribeCluster
            | ApiKey::DescribeProducers
            | ApiKey::DescribeTransactions
            | ApiKey::ListTransactions
            | ApiKey::ConsumerGroupDescribe
            | ApiKey::ListConfigResources
            | ApiKey::DescribeTopicPartitions
            | ApiKey::ShareGroupDescribe
            | ApiKey::ReadShareGroupState
            | ApiKey::ReadShareGroupStateSummary
            | ApiKey::DescribeShareGroupOffsets
    )
}

/// Serves a request, but for Produce.
async fn serve(broker: &Rc<Broker>, connection: &Rc<Connection>, call: &Call) -> Result<Answer, Refusal> {
    match call.api_key {
        ApiKey::Fetch => handlers::fetch::answer(broker, connection, call).await,
        ApiKey::JoinGroup => handlers::groups::join(broker, call, connection.peer()).await,
        ApiKey::SyncGroup => handlers::groups::sync(broker, call).await,
        ApiKey::ListOffsets => handlers::offsets::list(broker, call).await,
        ApiKey::OffsetForLeaderEpoch => handlers::offsets::for_leader_epoch(broker, call).await,
        ApiKey::Metadata => handlers::metadata::metadata(broker, call).await,
        ApiKey::DescribeCluster => handlers::metadata::describe_cluster(broker, call),
        ApiKey::DescribeTopicPartitions => handlers::metadata::describe_topic_partitions(broker, call),
        ApiKey::SaslHandshake => handlers::api_versions::sasl_handshake(call),
        ApiKey::SaslAuthenticate => handlers::api_versions::sasl_authenticate(call),
        ApiKey::ApiVersions => handlers::api_versions::api_versions(broker, call),
        ApiKey::CreateTopics => handlers::topics::create(broker, call).await,
        ApiKey::DeleteTopics => handlers::topics::delete(broker, call).await,
        ApiKey::CreatePartitions => handlers::topics::create_partitions(broker, call).await,
        ApiKey::InitProducerId => handlers::producer_ids::init(broker, call).await,
        ApiKey::DescribeConfigs => handlers::configs::describe(broker, call).await,
        ApiKey::AlterConfigs => handlers::configs::alter(broker, call).await,
        ApiKey::IncrementalAlterConfigs => handlers::configs::incremental_alter(broker, call).await,
        ApiKey::ListConfigResources => handlers::configs::list_resources(broker, call),
        ApiKey::DeleteRecords => handlers::logs::delete_records(broker, call).await,
        ApiKey::DescribeLogDirs => handlers::logs::describe_dirs(broker, call).await,
        ApiKey::AlterReplicaLogDirs => handlers::logs::alter_replica_dirs(broker, call),
        ApiKey::ElectLeaders => handlers::cluster::elect_leaders(broker, call),
        ApiKey::AlterPartitionReassignments => handlers::cluster::alter_reassignments(broker, call),
        ApiKey::ListPartitionReassignments => handlers::cluster::list_reassignments(broker, call),
        ApiKey::DescribeQuorum => handlers::quorum::describe(broker, call),
        ApiKey::AddRaftVoter => handlers::quorum::add_voter(broker, call),
        ApiKey::RemoveRaftVoter => handlers::quorum::remove_voter(broker, call),
        ApiKey::UpdateFeatures => handlers::cluster::update_features(broker, call).await,
        ApiKey::UnregisterBroker => handlers::cluster::unregister_broker(broker, call),
        ApiKey::DescribeAcls => handlers::acls::describe(broker, call),
        ApiKey::CreateAcls => handlers::acls::create(broker, call).await,
        ApiKey::DeleteAcls => handlers::acls::delete(broker, call).await,
        ApiKey::DescribeClientQuotas => handlers::quotas::describe(broker, call),
        ApiKey::AlterClientQuotas => handlers::quotas::alter(broker, call).await,
        ApiKey::DescribeUserScramCredentials => handlers::credentials::describe_scram(broker, call),
        ApiKey::AlterUserScramCredentials => handlers::credentials::alter_scram(broker, call).await,
        ApiKey::CreateDelegationToken => handlers::credentials::create_token(call),
        ApiKey::RenewDelegationToken => handlers::credentials::renew_token(call),
        ApiKey::ExpireDelegationToken => handlers::credentials::expire_token(call),
        ApiKey::DescribeDelegationToken => handlers::credentials::describe_tokens(call),
        ApiKey::ConsumerGroupHeartbeat => handlers::consumer_groups::heartbeat(broker, call, connection.peer()).await,
        ApiKey::ConsumerGroupDescribe => handlers::consumer_groups::describe(broker, call).await,
        ApiKey::ShareFetch => handlers::share_fetch::fetch(broker, connection, call).await,
        ApiKey::ShareAcknowledge => handlers::share_fetch::acknowledge(broker, call).await,
        ApiKey::ShareGroupHeartbeat => handlers::share_groups::heartbeat(broker, call, connection.peer()).await,
        ApiKey::ShareGroupDescribe => handlers::share_groups::describe(broker, call).await,
        ApiKey::DescribeShareGroupOffsets => handlers::share_offsets::describe(broker, call).await,
        ApiKey::AlterShareGroupOffsets => handlers::share_offsets::alter(broker, call).await,
        ApiKey::DeleteShareGroupOffsets => handlers::share_offsets::delete(broker, call).await,
        ApiKey::InitializeShareGroupState => handlers::share_state::initialize(broker, call).await,
        ApiKey::ReadShareGroupState => handlers::share_state::read(broker, call).await,
        ApiKey::WriteShareGroupState => handlers::share_state::write(broker, call).await,
        ApiKey::DeleteShareGroupState => handlers::share_state::delete(broker, call).await,
        ApiKey::ReadShareGroupStateSummary => handlers::share_state::summarize(broker, call).await,
        ApiKey::FindCoordinator => handlers::coordinators::find(broker, call).await,
        ApiKey::Heartbeat => handlers::groups::heartbeat(broker, call).await,
        ApiKey::LeaveGroup => handlers::groups::leave(broker, call).await,
        ApiKey::DescribeGroups => handlers::groups::describe(broker, call).await,
        ApiKey::ListGroups => handlers::groups::list(broker, call).await,
        ApiKey::DeleteGroups => handlers::groups::delete(broker, call).await,
        ApiKey::OffsetCommit => handlers::group_offsets::commit(broker, call).await,
        ApiKey::OffsetFetch => handlers::group_offsets::fetch(broker, call).await,
        ApiKey::OffsetDelete => handlers::group_offsets::delete(broker, call).await,
        ApiKey::AddPartitionsToTxn => handlers::transactions::add_partitions(broker, call).await,
        ApiKey::AddOffsetsToTxn => handlers::transactions::add_offsets(broker, call).await,
        ApiKey::EndTxn => handlers::transactions::end(broker, call).await,
        ApiKey::WriteTxnMarkers => handlers::transactions::write_markers(broker, call).await,
        ApiKey::TxnOffsetCommit => handlers::transactions::commit_offsets(broker, call).await,
        ApiKey::DescribeProducers => handlers::transactions::describe_producers(broker, call).await,
        ApiKey::DescribeTransactions => handlers::transactions::describe(broker, call).await,
        ApiKey::ListTransactions => handlers::transactions::list(broker, call).await,
        api_key => Err(Refusal::NotServed { api_key, version: call.version }),
    }
}

/// Lets a task of its own answer: it may wait for what other clients do.
fn spawn(broker: &Rc<Broker>, connection: &Rc<Connection>, call: Call) -> Pending {
    let (sender, receiver) = local::oneshot();
    let (of_task, connection) = (broker.clone(), connection.clone());
    broker.io().spawn(Class::Foreground, async move {
        // It waits for other members, whose requests must find memory too.
        let waits_for_members = matches!(call.api_key, ApiKey::JoinGroup | ApiKey::SyncGroup);
        if waits_for_members && !call.may_wait(&of_task, 0) {
            tracing::debug!("a request of a group waits with memory of requests");
        }
        let answer = serve_timed(&of_task, &connection, &call).await;
        sender.send(answer.unwrap_or_else(|refusal| {
            tracing::debug!(%refusal, "a request is refused");
            Answer::hang_up()
        }));
    });
    Pending::Task(receiver)
}
