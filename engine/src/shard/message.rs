//! What connections ask of a shard, and what it answers.
//!
//! Everything here is `Send`: a request travels to the core that owns the partitions, its answer back. One
//! request carries all parts of a client's request that one core owns. Names of topics are gone by now:
//! partitions are named by topic id.

use std::sync::Arc;

use bytes::Bytes;

use crate::controller::image::MetadataImage;
use crate::coordinator;
use crate::io::Instant;
pub use crate::log::PartitionId;
pub use crate::log::producer_state::ActiveProducer;
use crate::protocol::ErrorCode;
pub use crate::record::control::EndTransactionMarker;
pub use crate::replication::share_partition::{Acknowledgement, Acquired, Span};

/// Which core owns a partition, of `shards` cores: the partitions of a topic go round the cores.
pub fn owner(id: PartitionId, shards: usize) -> usize {
    let start = u64::from_be_bytes(id.topic_id.0[8..].try_into().expect("8 of 16 bytes"));
    (start.wrapping_add(id.partition as u64) % shards as u64) as usize
}

/// A connection's request to one shard.
#[derive(Debug)]
pub enum Request {
    /// Append batches. Parts of one connection enter their partitions in the order of the calls.
    Produce(Produce),
    /// Read what is visible now, without waiting.
    Read(Read),
    /// Answered once one of the partitions has more to show than the reader has seen, or at the deadline.
    Await(Await),
    /// Offsets by time or by name.
    ListOffsets(Vec<ListOffset>),
    /// The end offset of a leader epoch.
    EpochEnd(Vec<EpochEnd>),
    /// Whether producers have transactions open that allow them to append.
    VerifyTransactions(Vec<VerifyTransaction>),
    /// End transactions; answered when the markers are on stable storage.
    WriteMarkers(Vec<MarkerPart>),
    /// The producers that partitions remember.
    DescribeProducers(Vec<PartitionId>),
    /// Ask the coordinator over that partition of an internal topic.
    Coordinate(PartitionId, coordinator::Request),
    /// The same, for records within the producer's transaction. The guard is needed if they open it there.
    CoordinateInTransaction(PartitionId, coordinator::Request, coordinator::Producer, Option<Guard>),
    /// Give up the records before an offset; answered when the new starts are on stable storage.
    DeleteRecords(DeleteRecords),
    /// Give a member records of share partitions, without waiting.
    ShareAcquire(ShareAcquire),
    /// Answered, as [`Reply::Await`], once one of the share partitions may have something to give, or at the deadline.
    ShareAwait(ShareAwait),
    /// Take a member's acknowledgements; answered when they are on stable storage.
    ShareAcknowledge(ShareAcknowledge),
    /// The member is gone: what it has of these is free again; answered, as [`Reply::ShareAcknowledge`], when that is
    /// on stable storage.
    ShareRelease(String, SharesOf),
    /// What is recorded of these has been changed by others: load them anew.
    ShareForget(SharesOf),
    /// How large each of the shard's partitions is.
    LogSizes,
    /// Make the shard's partitions those of this image; answered when they are.
    Apply(Arc<MetadataImage>),
    /// Drain everything to segments, write the clean-stop marker; answered when nothing is left to replay.
    Stop,
}

/// The answer to the request of the same name.
#[derive(Debug)]
pub enum Reply {
    /// One result for each part, in order; sent when all are settled.
    Produce(Vec<Produced>),
    /// One result for each part, in order.
    Read(Vec<ReadPart>),
    /// Something may have changed, or the deadline has passed.
    Await,
    /// One result for each part, in order.
    ListOffsets(Vec<ListedOffset>),
    /// One result for each part, in order.
    EpochEnd(Vec<EpochEnded>),
    /// One result for each part, in order.
    VerifyTransactions(Vec<Result<Verification, ErrorCode>>),
    /// NONE or why not for each part, in order.
    WriteMarkers(Vec<ErrorCode>),
    /// One result for each partition, in order.
    DescribeProducers(Vec<Result<Vec<ActiveProducer>, ErrorCode>>),
    /// The coordinator's answer.
    Coordinate(coordinator::Reply),
    /// One result for each part, in order.
    DeleteRecords(Vec<DeletedRecords>),
    /// One result for each partition, in order.
    ShareAcquire(Vec<ShareAcquired>),
    /// One result for each partition, in order.
    ShareAcknowledge(Vec<Result<(), ShareRefused>>),
    /// They are loaded anew when they are next asked for.
    ShareForget,
    /// Each partition and its bytes.
    LogSizes(Vec<(PartitionId, u64)>),
    /// The image is in force on this shard.
    Apply,
    /// The shard has stopped; whether it left nothing to replay.
    Stop(bool),
}

/// A connection of a core: (core, connection).
pub type Origin = (usize, u64);

/// Append batches.
#[derive(Debug)]
pub struct Produce {
    /// The producer's wish: 0 answers when appended, 1 and −1 when on stable storage (−1: on every member of
    /// the ISR).
    pub acks: i16,
    /// The Produce request's version; some checks depend on it.
    pub version: i16,
    /// Whose requests keep their order.
    pub origin: Origin,
    /// When to give up waiting for stable storage (REQUEST_TIMED_OUT; the batches may be in the log).
    pub deadline: Instant,
    /// The batches, one for each partition.
    pub parts: Vec<ProducePart>,
}

/// One partition's batch.
#[derive(Debug)]
pub struct ProducePart {
    /// Where to.
    pub id: PartitionId,
    /// The records field as it came: one v2 batch, if the client is right.
    pub records: Bytes,
    /// What [`Request::VerifyTransactions`] gave, if the coordinator knows the transaction; the batch that
    /// opens a transaction in the partition needs it.
    pub guard: Option<Guard>,
}

/// Allows one batch to open a transaction, unless a marker came in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard(pub u64);

/// A producer that wants to append to a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyTransaction {
    /// Where to.
    pub id: PartitionId,
    /// Who.
    pub producer_id: i64,
    /// Its epoch.
    pub epoch: i16,
    /// The sequence of the batch's first record.
    pub first_sequence: i32,
    /// Whether each of its transactions has an epoch of its own (transactions version 2).
    pub bumps_epoch: bool,
}

/// What a partition says of a producer's transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verification {
    /// It is open: the batch may come.
    Open,
    /// The coordinator must be asked first; the batch then comes with this.
    Ask(Guard),
}

/// A transaction's end in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MarkerPart {
    /// Where.
    pub id: PartitionId,
    /// What is written.
    pub marker: EndTransactionMarker,
    /// Whether the coordinator raised the producer's epoch for this marker, so that one that is no newer than
    /// an open transaction's data is late.
    pub bumped: bool,
}

/// What became of one partition's batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Produced {
    /// NONE if it is in the log (or was already: a duplicate is answered as its original).
    pub error: ErrorCode,
    /// The offset of the batch's first record, or −1.
    pub base_offset: i64,
    /// The time that the log stamped, or −1 when the records keep their own (CreateTime).
    pub log_append_time_ms: i64,
    /// The partition's first offset, or −1.
    pub log_start_offset: i64,
    /// The records to blame: index within the batch, and why.
    pub record_errors: Vec<(i32, Option<String>)>,
    /// One sentence for all of them.
    pub error_message: Option<String>,
}

impl Produced {
    /// The answer to a batch that is not in the log.
    pub fn refused(error: ErrorCode) -> Produced {
        Produced {
            error,
            base_offset: -1,
            log_append_time_ms: -1,
            log_start_offset: -1,
            record_errors: Vec::new(),
            error_message: None,
        }
    }
}

/// Read what is visible now.
#[derive(Debug)]
pub struct Read {
    /// Whether to stop at the last stable offset and to list aborted transactions.
    pub read_committed: bool,
    /// Most bytes for all parts together.
    pub max_bytes: usize,
    /// Whether the first batch found is given even if larger (KIP-74).
    pub first_whole: bool,
    /// In the order in which the client wants them served.
    pub parts: Vec<ReadFrom>,
}

/// One partition of a read.
#[derive(Debug, Clone)]
pub struct ReadFrom {
    /// Where from.
    pub id: PartitionId,
    /// The leader epoch that the client believes in, −1 for none.
    pub current_leader_epoch: i32,
    /// The epoch of the last record that the client has, −1 for none: a divergence is told (KIP-595).
    pub last_fetched_epoch: i32,
    /// The first offset wanted.
    pub offset: i64,
    /// Most bytes of this partition.
    pub max_bytes: usize,
}

/// What one partition shows.
#[derive(Debug, Clone)]
pub struct ReadPart {
    /// NONE, OFFSET_OUT_OF_RANGE, CORRUPT_MESSAGE, FENCED_LEADER_EPOCH, UNKNOWN_LEADER_EPOCH,
    /// NOT_LEADER_OR_FOLLOWER, KAFKA_STORAGE_ERROR or UNKNOWN_TOPIC_ID.
    pub error: ErrorCode,
    /// One past the last visible offset; −1 with an error.
    pub high_watermark: i64,
    /// One past the last offset that no open transaction holds back; −1 with an error.
    pub last_stable_offset: i64,
    /// The partition's first offset; −1 with an error.
    pub log_start_offset: i64,
    /// (epoch, end offset) where the client's log leaves the leader's.
    pub diverging_epoch: Option<(i32, i64)>,
    /// (producer id, first offset) of aborted transactions among the records; for read_committed alone.
    pub aborted_transactions: Vec<(i64, i64)>,
    /// Whole batches, in order, sharing the log's memory.
    pub records: Vec<Bytes>,
}

impl ReadPart {
    /// The answer of a partition that shows nothing.
    pub fn refused(error: ErrorCode) -> ReadPart {
        ReadPart {
            error,
            high_watermark: -1,
            last_stable_offset: -1,
            log_start_offset: -1,
            diverging_epoch: None,
            aborted_transactions: Vec::new(),
            records: Vec::new(),
        }
    }
}

/// Wait for news.
#[derive(Debug)]
pub struct Await {
    /// When to answer without news.
    pub deadline: Instant,
    /// Whether the last stable offset is watched instead of the high watermark.
    pub read_committed: bool,
    /// Each partition and the visible end that the reader has already seen.
    pub parts: Vec<(PartitionId, i64)>,
}

/// One partition of a ListOffsets.
#[derive(Debug, Clone)]
pub struct ListOffset {
    /// Which partition.
    pub id: PartitionId,
    /// The leader epoch that the client believes in, −1 for none.
    pub current_leader_epoch: i32,
    /// A time in milliseconds, or −1 latest, −2 earliest, −3 greatest timestamp, −4 earliest local,
    /// −5 latest tiered.
    pub timestamp: i64,
    /// Whether "latest" is the last stable offset.
    pub read_committed: bool,
}

/// The answer for one partition; −1 throughout when there is no such record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedOffset {
    /// NONE or why not.
    pub error: ErrorCode,
    /// The record's timestamp, −1 for the names.
    pub timestamp: i64,
    /// The offset.
    pub offset: i64,
    /// The epoch of that record's leader, −1 if unknown.
    pub leader_epoch: i32,
}

/// One partition of an OffsetForLeaderEpoch.
#[derive(Debug, Clone)]
pub struct EpochEnd {
    /// Which partition.
    pub id: PartitionId,
    /// The leader epoch that the client believes in, −1 for none.
    pub current_leader_epoch: i32,
    /// The epoch asked for.
    pub leader_epoch: i32,
}

/// The largest epoch not above the one asked for, and its end; (−1, −1) if there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochEnded {
    /// NONE or why not.
    pub error: ErrorCode,
    /// The epoch found.
    pub leader_epoch: i32,
    /// One past its last offset.
    pub end_offset: i64,
}

/// Give up records.
#[derive(Debug)]
pub struct DeleteRecords {
    /// When to give up waiting for stable storage (REQUEST_TIMED_OUT; the records may be gone all the same).
    pub deadline: Instant,
    /// Each partition and the first offset that it shall keep; −1 for its high watermark.
    pub parts: Vec<(PartitionId, i64)>,
}

/// What became of one partition's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeletedRecords {
    /// NONE, or why nothing was given up.
    pub error: ErrorCode,
    /// The partition's first offset from now on; −1 with an error.
    pub low_watermark: i64,
}

impl DeletedRecords {
    /// The answer of a partition that keeps what it has.
    pub fn refused(error: ErrorCode) -> DeletedRecords {
        DeletedRecords { error, low_watermark: -1 }
    }
}

/// Share partitions of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharesOf {
    /// The group.
    pub group: String,
    /// The partitions.
    pub ids: Vec<PartitionId>,
}

/// Give a member records.
#[derive(Debug)]
pub struct ShareAcquire {
    /// The group.
    pub group: String,
    /// The member.
    pub member: String,
    /// In the order in which they are served.
    pub ids: Vec<PartitionId>,
    /// Most bytes of all of them together; the first batch found is given even if larger.
    pub max_bytes: usize,
    /// With fewer bytes than this nothing is given.
    pub min_bytes: usize,
    /// Most records of all of them together; the batch that holds the last of them is given whole.
    pub max_records: i64,
    /// How many records a run of acquired records should have at most.
    pub batch_size: i64,
}

/// What a member gets of one share partition.
#[derive(Debug)]
pub enum ShareAcquired {
    /// Nothing can be given now: it is being loaded, or too much is in flight, or there is too little.
    Nothing,
    /// What is its own now; nothing if others were faster, or the log has no more.
    Records {
        /// Whole batches that hold them, in order, sharing the log's memory.
        records: Vec<Bytes>,
        /// Which of their records it has.
        acquired: Vec<Acquired>,
    },
    /// Why it cannot be read.
    Refused(ErrorCode),
}

/// Wait until there may be something to give.
#[derive(Debug)]
pub struct ShareAwait {
    /// When to answer in any case.
    pub deadline: Instant,
    /// The group.
    pub group: String,
    /// The partitions.
    pub ids: Vec<PartitionId>,
}

/// Take acknowledgements.
#[derive(Debug)]
pub struct ShareAcknowledge {
    /// The group.
    pub group: String,
    /// The member.
    pub member: String,
    /// Each partition's, in order of their offsets.
    pub parts: Vec<(PartitionId, Vec<Acknowledgement>)>,
}

/// Why acknowledgements are refused: Kafka's error and a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShareRefused(pub ErrorCode, pub &'static str);
