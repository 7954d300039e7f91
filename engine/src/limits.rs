//! Every bound of the engine, with its reason.

use std::time::Duration;

use crate::accounts::Class;

/// The least memory of a core: its class of ordinary requests then holds one of the greatest size that is ordinary,
/// which has a batch of the default largest size in it.
pub const LEAST_MEMORY_PER_CORE: u64 = 32 << 20;

/// A core's memory is dealt out to its classes in so many shares.
pub const ACCOUNT_SHARES_IN_ALL: u64 = 64;

/// How many of them a class has; what remains is the pool's of buffers that nobody uses, see [`POOL_SHARE`].
pub const fn account_shares(class: Class) -> u64 {
    match class {
        // In a core's least memory sixteen requests of 64 KiB, or thousands of ordinary heartbeats.
        Class::ReceivedSmall => 2,
        // What ordinary producers have on its way.
        Class::Received => 5,
        // As much again, so that who sends large requests slowly holds up his like only.
        Class::ReceivedLarge => 5,
        // Those who do not read theirs hold up their like only.
        Class::AnswersSmall => 2,
        // Consumers that lag read runs of a MiB; more in memory does not make disks faster.
        Class::Answers => 8,
        // Logs are drained from 512 KiB on, so that hundreds of busy ones find room with a GiB.
        Class::Undrained => 10,
        // What is left, for it turns into speed whatever it gets.
        Class::TailCache => 14,
        // Some 200 bytes each, so that a GiB for a core remembers 300 000.
        Class::Producers => 4,
        // See FETCH_SESSION_PARTITION_BYTES: a GiB for a core has 60 000 partitions.
        Class::FetchSessions => 1,
        // They keep less for a partition.
        Class::ShareSessions => 1,
        // See WAITER_BYTES: a GiB for a core has 160 000 partitions that are waited for.
        Class::Waiters => 2,
        // Members with their subscriptions, and offsets.
        Class::Groups => 3,
        // Some 500 bytes each.
        Class::Transactions => 2,
        // On their way between cores for microseconds.
        Class::Replies => 1,
    }
}

/// Journal groups in flight on one core. Measured: 8 durable 4 KiB writes in flight reach 37 k commits/s at
/// a fifth of the CPU of one at a time; more only lengthens the wait of each.
pub const GROUPS_IN_FLIGHT: usize = 8;

/// Payload after which a group is full. Larger groups gain no throughput (the device is at its limit from
/// 256 KiB on) and hold their memory longer. A single larger batch still makes a group of its own.
pub const GROUP_BYTES: usize = 1 << 20;

/// Files that a journal is made of. Eight, so that an eighth at a time is recycled.
pub const JOURNAL_FILES: usize = 8;

/// A journal file's size is a multiple of this; the least is for tests that want to see files used again.
pub const JOURNAL_FILE_STEP: u64 = 64 << 10;

/// The smallest journal of a broker, for each shard: its files must hold a batch of the largest size that topics
/// allow by default (see [`largest_batch`]).
pub const SMALLEST_JOURNAL: u64 = JOURNAL_FILES as u64 * (4 << 20);

/// The largest batch that a journal with files of `file_bytes` takes: half a file, so that a file switch
/// never wastes more than that.
pub const fn largest_batch(file_bytes: u64) -> usize {
    (file_bytes / 2) as usize
}

/// Room for the two copies of a checkpoint that a start writes on a full disk: some ten thousand partitions.
pub const CHECKPOINT_RESERVE_BYTES: u64 = 4 << 20;

/// How long the journal may be idle before a seal group says that its last group was durable.
pub const SEAL_AFTER: Duration = Duration::from_millis(50);

/// Bytes of a partition that wait for their segment before they are drained without being asked for.
pub const DRAIN_BYTES: usize = 512 << 10;

/// How often a log's few bytes are put into the journal once more before they get a segment of their own: an idle
/// partition is not to be copied for ever.
pub const COPIES_FORWARD: u32 = 2;

/// Small logs that get a segment within one checkpoint because they were copied so often: each costs files and flushes.
pub const SEGMENTS_OF_IDLE_LOGS: usize = 256;

/// Buffers of the tail cache that are looked at behind each durable group: enough to keep up with what comes in, few
/// enough not to be felt when most are pinned.
pub const TAIL_BUFFERS_AT_ONCE: usize = 64;

/// The share of a core's memory that its pool of buffers may keep.
pub const POOL_SHARE: u64 = 16;

/// How often a core gives back what its pool has not used.
pub const POOL_TRIM_INTERVAL: Duration = Duration::from_secs(5);

/// The longest write to a segment.
pub const SEGMENT_WRITE_BYTES: usize = 1 << 20;

/// Batches that go past the journal share an entry up to so many bytes: a start reads and takes over that much at once.
pub const EXTENT_BYTES: usize = 64 << 10;

/// Room that the journal must have for the extents of one write to a segment: two neighbours are more than
/// [`EXTENT_BYTES`], so that there are 33 at most, of 81 bytes each.
pub const EXTENTS_ROOM: usize = 4 << 10;

/// Bytes of a partition that wait for their segment past the journal; with more, appends wait.
pub const DIRECT_QUEUE_BYTES: usize = 4 << 20;

/// Partitions that one core drains at the same time.
pub const DRAINS_AT_ONCE: usize = 8;

/// Segments that one core flushes at the same time: a filesystem commits what comes together at once, so that a
/// checkpoint of a thousand partitions costs some tens of commits.
pub const FLUSHES_AT_ONCE: usize = 32;

/// A run of whole batches that one checksum of the offset index covers (a larger batch is a run alone).
pub const RUN_BYTES: usize = 64 << 10;

/// Most bytes that one partition's part of a read from disk takes at once.
pub const DISK_READ_BYTES: usize = 1 << 20;

/// By how much a segment file grows ahead of its writes (fallocate), off the acknowledgement's path.
pub const SEGMENT_STEP: u64 = 1 << 20;

/// Loaded offset indexes of sealed segments that one core keeps.
pub const CACHED_INDEXES: usize = 256;

/// Descriptors of a process that are neither the log's nor connections: rings, event counters, standard streams,
/// directories that are being read; so many, and as many again for each core.
pub const OWN_DESCRIPTORS: usize = 16;

/// The log's part of the `descriptors` that a process may have: half. A connection too many is held back until another
/// has ended; a log that cannot open a file refuses what was sent.
pub const fn log_descriptors(descriptors: usize) -> usize {
    descriptors / 2
}

/// Open segment files that one core keeps for reading.
pub const OPEN_SEGMENTS: usize = 512;

/// A coordinator's batch, in bytes, unless a single record is larger; so much room is waited for before each of
/// its decisions. Most decisions are one record of some hundred bytes.
pub const COORDINATOR_BATCH_BYTES: usize = 64 << 10;

/// Growth of a coordinator's log, in bytes of records, before its state is written anew: fifty coordinators of one core
/// then load some 100 MB, which takes half a second.
pub const COORDINATOR_SNAPSHOT_BYTES: u64 = 1 << 20;

/// Bytes of records of a coordinator's state that are written anew at one go: less than [`COORDINATOR_BATCH_BYTES`],
/// so that they are one batch as a rule.
pub const COORDINATOR_PIECE_BYTES: usize = 48 << 10;

/// Offsets, members or transactional ids that are looked at for that at one go: about a millisecond.
pub const COORDINATOR_PIECE_LOOKS: usize = 4_096;

/// Bytes of a coordinator's log that its load holds in memory at a time.
pub const COORDINATOR_LOAD_BYTES: usize = 1 << 20;

/// Transactional ids that one partition of `__transaction_state` keeps: about 500 bytes each. Ids of clients
/// that make a new one at each start go after `transactional.id.expiration.ms`.
pub const TRANSACTIONAL_IDS_PER_COORDINATOR: usize = 200_000;

/// Batches of a producer that are kept to recognise duplicates. Kafka's number, which clients rely on: at
/// most five requests of an idempotent producer are in flight.
pub const BATCHES_PER_PRODUCER: usize = 5;

/// Producers that one partition remembers; the one that was silent longest goes first.
pub const PRODUCERS_PER_PARTITION: usize = 10_000;

/// What a fetch session keeps for each partition, in bytes, without its topic's name: measured.
pub const FETCH_SESSION_PARTITION_BYTES: usize = 256;

/// What a share session keeps for each partition, in bytes: it stands in two maps.
pub const SHARE_SESSION_PARTITION_BYTES: usize = 160;

/// What a request that waits for news keeps for each partition, on both cores together, in bytes.
pub const WAITER_BYTES: usize = 200;

/// How long a share partition's leader waits until it asks its share coordinator again that was not ready.
pub const SHARE_COORDINATOR_RETRY: Duration = Duration::from_millis(50);

/// How long it goes on with that before its members are told.
pub const SHARE_COORDINATOR_PATIENCE: Duration = Duration::from_secs(5);

/// Runs of records in one state that a share partition may be cut into, each some hundred bytes: what members
/// acknowledge in ever smaller pieces is refused beyond. With `group.share.partition.max.record.locks` at its greatest
/// there are ten thousand, unless batches hold far more records than that.
pub const SHARE_PIECES: usize = 20_000;

/// Runs of records in one state that the recorded state of a share partition may hold, 20 bytes each: its snapshot must
/// fit into one batch of the smallest journal (see [`SMALLEST_JOURNAL`]). Its leader has no more than
/// [`SHARE_PIECES`]; what is recorded may lag behind.
pub const SHARE_STATE_BATCHES: usize = 40_000;

/// Records that came back one by one and are given out again at once, if the member takes fewer.
pub const SHARE_SINGLES_AT_ONCE: i64 = 10_000;

/// A share partition that nobody has asked for this long, and of which nobody has records, is not kept in memory:
/// about a hundred bytes, and as much for each run of records that is in flight.
pub const SHARE_IDLE: Duration = Duration::from_secs(600);

/// How often such share partitions are looked for.
pub const SHARE_LOOK_AROUND: Duration = Duration::from_secs(60);

/// What a client's pattern may take while it is compiled and matched, in bytes: an alternation of names as long as the
/// protocol's longest string takes a quarter of it, also if case is ignored. It lives as long as one look at the names.
pub const PATTERN_BYTES: usize = 16 << 20;
