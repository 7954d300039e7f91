//! What bounds a connection and a core's memory, each with its reason.
//!
//! The invariant: whatever clients do, a core holds no more than its budgets and these bounds allow.

use std::time::Duration;

/// Requests that a connection may have started and not answered. Java's clients keep 5, librdkafka far more
/// if told to; beyond some dozens nothing gets faster.
pub const REQUESTS_IN_FLIGHT: usize = 64;

/// Bytes of requests that a connection may have started and not answered, unless a single one is larger.
pub const REQUEST_BYTES_IN_FLIGHT: usize = 16 << 20;

/// Fetches that a connection may have in flight: each may answer with `fetch.max.bytes`.
pub const FETCHES_IN_FLIGHT: usize = 4;

/// The smallest and the largest piece that is read at a time; it doubles while reads fill it. The smallest is
/// what an idle connection costs.
pub const READ_BYTES: std::ops::RangeInclusive<usize> = 4 << 10..=256 << 10;

/// The most that a read between two requests waits with, unless the one before was filled: what a connection costs that
/// was busy and is idle now.
pub const READ_BYTES_WHEN_QUIET: usize = 32 << 10;

/// Bytes written at a time: the unit in which [`WRITE_STALL`] sees progress.
pub const WRITE_BYTES: usize = 1 << 20;

/// An answer of at most this size waits for memory behind its like only: those who do not read large ones must not hold
/// up the others.
pub const SMALL_ANSWER: usize = 64 << 10;

/// How long a peer may leave a piece of an answer unread, after all that its machine buffers, while others wait for the
/// memory of small answers.
pub const SMALL_ANSWER_STALL: Duration = Duration::from_millis(500);

/// After so long a request that waits for news is answered when there is no memory to wait with.
pub const WAIT_WITHOUT_MEMORY: Duration = Duration::from_millis(100);

/// Answers that are ready go out together up to this many bytes.
pub const WRITE_BATCH_BYTES: usize = 256 << 10;

/// How long a peer may take to accept [`WRITE_BYTES`] before its connection is closed: it holds answers in
/// memory that others wait for.
pub const WRITE_STALL: Duration = Duration::from_secs(30);

/// How long a peer may pause inside a request before its connection is closed.
pub const BODY_STALL: Duration = Duration::from_secs(60);

/// A request that arrives at less than this, in bytes a second, and needs more than a second yet, makes room when others
/// wait for memory.
pub const SLOW_RATE: u64 = 1 << 20;

/// How long others wait for memory before slow ones make room. Ordinary requests are read and served in less.
pub const MEMORY_PATIENCE: Duration = Duration::from_millis(100);

/// By how much memory is reserved ahead of what arrives of a request. What is promised and does not come is wasted.
pub const PIECE: usize = 64 << 10;

/// The same for a request that arrives slowly: what others free is not for it alone.
pub const PIECE_OF_SLOW: usize = 4 << 10;

/// The same while half of the memory is free: a batch of the default largest size then takes one step.
pub const PIECE_WITH_ROOM: usize = 1 << 20;

/// A request of at most this size waits for memory behind its like only: heartbeats, commits and small batches do not
/// wait for what others upload.
pub const SMALL_REQUEST: usize = 64 << 10;

/// A request larger than this waits for memory behind its like only: who announces many large requests and never
/// sends them must not hold up the others. Above any request with a batch of the default size.
pub const LARGE_REQUEST: usize = 2 << 20;

/// How often connections are looked at for idleness and stalls.
pub const JANITOR_INTERVAL: Duration = Duration::from_secs(1);

/// How often it is said that connections cannot be accepted.
pub const COMPLAINTS_INTERVAL: Duration = Duration::from_secs(60);

/// How often a core says that it is alive and shows its states: a watcher looks every few seconds, and an idle core
/// should sleep.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// How long a core may be silent before `/live` says that it hangs: no request may keep a core so long.
pub const HEARTBEAT_PATIENCE: Duration = Duration::from_secs(10);

/// The longest request to the metrics' port that is read, in bytes: what browsers send is some hundred.
pub const METRICS_REQUEST_BYTES: usize = 8 << 10;

/// Header lines of one that are read.
pub const METRICS_HEADERS: usize = 64;

/// How long such a request, and how long its answer, may take: one is served at a time, others wait meanwhile.
pub const METRICS_PATIENCE: Duration = Duration::from_secs(2);

/// How long the acceptor pauses when `max.connections` are open, or when accepting fails (for want of file
/// descriptors, say).
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Producer ids that a core takes from the controller at a time, as in Kafka.
pub const PRODUCER_ID_BLOCK: i32 = 1000;

/// A fetch session unused for this long gives way to any other, as in Kafka.
pub const FETCH_SESSION_EVICTION: Duration = Duration::from_secs(120);

/// The longest that a client is told to be silent for what it used above its quota: what is silent for longer
/// is idle anyway (`connections.max.idle.ms` by default).
pub const LONGEST_THROTTLE: Duration = Duration::from_secs(600);

/// Accounts of use that are kept before those not in use are dropped: client ids are the clients' choice.
pub const QUOTA_ACCOUNTS: usize = 10_000;

/// Connections above the rate of their address that are held until they are closed; further ones are closed
/// at once.
pub const HELD_CONNECTIONS: usize = 1_000;

/// How long a client may make the broker wait for deleted records to be on stable storage.
pub const LONGEST_DELETE: Duration = Duration::from_secs(600);

/// How long a Produce or DeleteRecords may wait for the leader's own flush, if the client gives it less. A flush takes
/// milliseconds; of a disk that stalls for longer than this the client is told.
pub const LEAST_FLUSH_WAIT: Duration = Duration::from_secs(5);
