//! From a frame to its handler, and from a handler's response to the bytes of an answer.
//!
//! The invariant: what ApiVersions lists is what is served, both from [`SERVED`]. An unknown API or version
//! closes the connection without an answer, except for ApiVersions, which tells the versions it has. What a
//! request does is for its handler.

use std::rc::Rc;

use bytes::Bytes;
use engine::io::Class;
use engine::io::local::{self, Receiver};
use engine::protocol::{
    ApiKey, DecodeError, Decoder, EncodeError, Encoder, Message, Request, RequestHeader, ResponseHeader,
};

use crate::broker::Broker;
use crate::budget::Reservation;
use crate::connection::Connection;
use crate::handlers::{self, produce};

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
    ApiKey::InitProducerId,
    ApiKey::OffsetForLeaderEpoch,
    ApiKey::AddPartitionsToTxn,
    ApiKey::AddOffsetsToTxn,
    ApiKey::EndTxn,
    ApiKey::WriteTxnMarkers,
    ApiKey::TxnOffsetCommit,
    ApiKey::DescribeConfigs,
    ApiKey::AlterConfigs,
    ApiKey::CreatePartitions,
    ApiKey::DeleteGroups,
    ApiKey::IncrementalAlterConfigs,
    ApiKey::ListPartitionReassignments,
    ApiKey::OffsetDelete,
    ApiKey::DescribeCluster,
    ApiKey::DescribeProducers,
    ApiKey::DescribeTransactions,
    ApiKey::ListTransactions,
    ApiKey::ConsumerGroupHeartbeat,
    ApiKey::ConsumerGroupDescribe,
    ApiKey::DescribeTopicPartitions,
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
    correlation_id: i32,
    frame: Bytes,
    client_id: Bytes,
    body: usize,
}

impl Call {
    /// Reads the header of the request in `frame`.
    ///
    /// # Errors
    /// If it cannot be read or is not served.
    pub fn open(frame: Bytes) -> Result<Call, Refusal> {
        let mut decoder = Decoder::new(&frame);
        let header = RequestHeader::decode(&mut decoder)?;
        let (api_key, version) = (header.api_key, header.api_version);
        let served = SERVED.contains(&api_key) && (header.is_known() || api_key == ApiKey::ApiVersions);
        if !served {
            return Err(Refusal::NotServed { api_key, version });
        }
        let client_id = header.client_id.as_deref().map_or(Bytes::new(), |id| frame.slice_ref(id.as_bytes()));
        let body = frame.len() - decoder.remaining().len();
        Ok(Call { api_key, version, correlation_id: header.correlation_id, client_id, body, frame })
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
        let mut encoder = Encoder::frame();
        ResponseHeader { correlation_id: self.correlation_id }.encode(&mut encoder, self.api_key, version);
        response.encode(&mut encoder, version);
        Ok(Answer { chunks: encoder.finish()?, held: None, close: false })
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
}

impl Answer {
    /// No answer, and the connection goes on.
    pub fn nothing() -> Answer {
        Answer { chunks: Vec::new(), held: None, close: false }
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
    let answer = match call.api_key {
        ApiKey::Produce => return produce::start(broker, call).await,
        ApiKey::Fetch => {
            let (of_task, connection) = (broker.clone(), connection.clone());
            return Ok(spawn(broker, async move { handlers::fetch::answer(&of_task, &connection, call).await }));
        }
        ApiKey::JoinGroup => {
            let (of_task, peer) = (broker.clone(), connection.peer());
            return Ok(spawn(broker, async move { handlers::groups::join(&of_task, &call, peer).await }));
        }
        ApiKey::SyncGroup => {
            let of_task = broker.clone();
            return Ok(spawn(broker, async move { handlers::groups::sync(&of_task, &call).await }));
        }
        ApiKey::ConsumerGroupHeartbeat => handlers::consumer_groups::heartbeat(broker, &call, connection.peer()).await,
        ApiKey::ConsumerGroupDescribe => handlers::consumer_groups::describe(broker, &call).await,
        ApiKey::FindCoordinator => handlers::coordinators::find(broker, &call).await,
        ApiKey::Heartbeat => handlers::groups::heartbeat(broker, &call).await,
        ApiKey::LeaveGroup => handlers::groups::leave(broker, &call).await,
        ApiKey::DescribeGroups => handlers::groups::describe(broker, &call).await,
        ApiKey::ListGroups => handlers::groups::list(broker, &call).await,
        ApiKey::DeleteGroups => handlers::groups::delete(broker, &call).await,
        ApiKey::OffsetCommit => handlers::group_offsets::commit(broker, &call).await,
        ApiKey::OffsetFetch => handlers::group_offsets::fetch(broker, &call).await,
        ApiKey::OffsetDelete => handlers::group_offsets::delete(broker, &call).await,
        ApiKey::ListOffsets => handlers::offsets::list(broker, &call).await,
        ApiKey::OffsetForLeaderEpoch => handlers::offsets::for_leader_epoch(broker, &call).await,
        ApiKey::Metadata => handlers::metadata::metadata(broker, &call).await,
        ApiKey::DescribeCluster => handlers::metadata::describe_cluster(broker, &call),
        ApiKey::DescribeTopicPartitions => handlers::metadata::describe_topic_partitions(broker, &call),
        ApiKey::SaslHandshake => handlers::api_versions::sasl_handshake(&call),
        ApiKey::ApiVersions => handlers::api_versions::api_versions(broker, &call),
        ApiKey::CreateTopics => handlers::topics::create(broker, &call).await,
        ApiKey::DeleteTopics => handlers::topics::delete(broker, &call).await,
        ApiKey::CreatePartitions => handlers::topics::create_partitions(broker, &call).await,
        ApiKey::ListPartitionReassignments => handlers::topics::list_reassignments(broker, &call),
        ApiKey::InitProducerId => handlers::producer_ids::init(broker, &call).await,
        ApiKey::AddPartitionsToTxn => handlers::transactions::add_partitions(broker, &call).await,
        ApiKey::AddOffsetsToTxn => handlers::transactions::add_offsets(broker, &call).await,
        ApiKey::EndTxn => handlers::transactions::end(broker, &call).await,
        ApiKey::WriteTxnMarkers => handlers::transactions::write_markers(broker, &call).await,
        ApiKey::TxnOffsetCommit => handlers::transactions::commit_offsets(broker, &call).await,
        ApiKey::DescribeProducers => handlers::transactions::describe_producers(broker, &call).await,
        ApiKey::DescribeTransactions => handlers::transactions::describe(broker, &call).await,
        ApiKey::ListTransactions => handlers::transactions::list(broker, &call).await,
        ApiKey::DescribeConfigs => handlers::configs::describe(broker, &call),
        ApiKey::AlterConfigs => handlers::configs::alter(broker, &call).await,
        ApiKey::IncrementalAlterConfigs => handlers::configs::incremental_alter(broker, &call).await,
        api_key => return Err(Refusal::NotServed { api_key, version: call.version }),
    };
    Ok(Pending::Answered(Some(answer?)))
}

/// Lets a task of its own answer.
fn spawn(broker: &Rc<Broker>, answer: impl Future<Output = Result<Answer, Refusal>> + 'static) -> Pending {
    let (sender, receiver) = local::oneshot();
    broker.io().spawn(Class::Foreground, async move {
        sender.send(answer.await.unwrap_or_else(|refusal| {
            tracing::debug!(%refusal, "a request is refused");
            Answer::hang_up()
        }));
    });
    Pending::Task(receiver)
}
