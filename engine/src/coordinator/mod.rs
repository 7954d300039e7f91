//! Coordinators: which records and answers a request of a group or of a transaction becomes.
//!
//! A coordinator is a state machine over one partition of an internal topic. Its state is that partition's
//! records, replayed in order, and what clients that wait have asked; a request becomes records to append and
//! answers. The invariant that whoever drives a machine keeps: an answer leaves only when all records that
//! were appended before it are on stable storage, so that nobody sees state that a crash could take back. If
//! an append fails the machine is thrown away and built anew by replay; there is no other rollback.
//!
//! Knows no logs, no clocks and no connections: times come in as numbers.

pub mod group;
pub mod offsets;
mod passes;
pub mod pattern;
pub mod share;
pub mod transaction;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::protocol::{DecodeError, ErrorCode, Uuid};
use group::config::GroupConfig;
use group::{GroupCoordinator, GroupReply, GroupRequest};
use share::{ShareAction, ShareConfig, ShareCoordinator, ShareReply, ShareRequest};
use transaction::{TransactionConfig, TransactionCoordinator, TransactionReply, TransactionRequest};

/// The topic that groups and committed offsets are kept in.
pub const GROUP_TOPIC: &str = "__consumer_offsets";

/// The topic that transactional ids are kept in.
pub const TRANSACTION_TOPIC: &str = "__transaction_state";

/// The topic that the state of share partitions is kept in.
pub const SHARE_TOPIC: &str = "__share_group_state";

/// Stands for a request whose answer is still to come. The driver gives each request another one, and each
/// is answered once.
pub type Ticket = u64;

/// Which machine an internal topic is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Groups and committed offsets.
    Group,
    /// Transactional ids.
    Transaction,
    /// Share partitions.
    Share,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::Group, Kind::Transaction, Kind::Share];

    /// The topic whose partitions have a machine of this kind each.
    pub fn topic(self) -> &'static str {
        match self {
            Kind::Group => GROUP_TOPIC,
            Kind::Transaction => TRANSACTION_TOPIC,
            Kind::Share => SHARE_TOPIC,
        }
    }
}

/// The partition of an internal topic of `partitions` that a group or a transactional id belongs to: that of
/// Java's `String.hashCode`, by which clients and tools find it too.
pub fn partition_of(key: &str, partitions: usize) -> i32 {
    let hash = key.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    // The absolute value, and zero for the number that has none (`Utils.abs`).
    let positive = hash.checked_abs().unwrap_or(0);
    positive % i32::try_from(partitions.max(1)).expect("a topic's partitions are bounded")
}

/// What a step is decided on besides the machine's own state.
pub struct Context<'a> {
    /// A monotonic clock in milliseconds; for deadlines.
    pub now_ms: u64,
    /// Milliseconds since 1970; for timestamps in records.
    pub wall_clock_ms: i64,
    /// The topics there are.
    pub topics: &'a Topics,
    /// Whether there is room for records. Without it a decision that needs some is refused, or put off.
    pub has_room: bool,
    /// The largest record that can be appended, in bytes of its key and value. A decision that needs a larger one is
    /// refused.
    pub largest_record: usize,
    /// 64 random bits.
    pub random: &'a mut dyn FnMut() -> u64,
}

impl Context<'_> {
    /// A random id in the form of Java's `UUID.randomUUID`.
    pub fn random_id(&mut self) -> String {
        let (high, low) = ((self.random)(), (self.random)());
        let (high, low) = (high & !0xf000 | 0x4000, low & !(0b11 << 62) | 0b10 << 62);
        let (a, b, c) = (high >> 32, high >> 16 & 0xffff, high & 0xffff);
        format!("{a:08x}-{b:04x}-{c:04x}-{:04x}-{:012x}", low >> 48, low & 0xffff_ffff_ffff)
    }
}

/// The topics there are, as coordinators see them; and what is set for single groups.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Topics {
    by_name: BTreeMap<String, TopicInfo>,
    names: BTreeMap<Uuid, String>,
    group_settings: BTreeMap<String, BTreeMap<String, String>>,
}

/// A topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicInfo {
    /// Its id.
    pub id: Uuid,
    /// How many partitions it has.
    pub partitions: i32,
}

impl Topics {
    /// The topics of these names.
    pub fn new(topics: impl IntoIterator<Item = (String, TopicInfo)>) -> Topics {
        let by_name: BTreeMap<_, _> = topics.into_iter().collect();
        let names = by_name.iter().map(|(name, topic)| (topic.id, name.clone())).collect();
        Topics { by_name, names, group_settings: BTreeMap::new() }
    }

    /// From now on this is set for groups, by their ids, under Kafka's names of group configs.
    pub fn set_group_settings(&mut self, settings: impl IntoIterator<Item = (String, BTreeMap<String, String>)>) {
        self.group_settings = settings.into_iter().collect();
    }

    /// The number that is set for the group, if one is.
    pub fn group_number<T: std::str::FromStr>(&self, group: &str, name: &str) -> Option<T> {
        self.group_settings.get(group)?.get(name)?.trim().parse().ok()
    }

    /// The topic of that name.
    pub fn get(&self, name: &str) -> Option<TopicInfo> {
        self.by_name.get(name).copied()
    }

    /// There is such a topic, of that id, from now on.
    pub fn insert(&mut self, name: &str, topic: TopicInfo) {
        if let Some(before) = self.by_name.insert(name.to_owned(), topic) {
            self.names.remove(&before.id);
        }
        self.names.insert(topic.id, name.to_owned());
    }

    /// There is no topic of that id any more: its name, if no other one has it by now.
    pub fn remove(&mut self, id: Uuid) -> Option<String> {
        let name = self.names.remove(&id)?;
        match self.by_name.get(&name) {
            Some(topic) if topic.id == id => {
                self.by_name.remove(&name);
                Some(name)
            }
            _ => None,
        }
    }

    /// The name of the topic with that id.
    pub fn name(&self, id: Uuid) -> Option<&str> {
        self.names.get(&id).map(String::as_str)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, TopicInfo)> {
        self.by_name.iter().map(|(name, topic)| (name.as_str(), *topic))
    }
}

/// A record to append; without a value it ends what the key stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The key, in Kafka's format.
    pub key: Bytes,
    /// The value, in Kafka's format.
    pub value: Option<Bytes>,
}

impl Record {
    /// What a record takes besides its key and value, at most, in bytes: lengths, attributes, timestamp, offset, headers.
    const OVERHEAD: usize = 32;

    /// What it takes in a log, at most, in bytes.
    pub fn size_bytes(&self) -> usize {
        Record::size_of(&self.key, self.value.as_deref())
    }

    fn size_of(key: &[u8], value: Option<&[u8]>) -> usize {
        key.len() + value.map_or(0, <[u8]>::len) + Record::OVERHEAD
    }
}

/// The producer in whose transaction records stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Producer {
    /// Its id.
    pub id: i64,
    /// Its epoch.
    pub epoch: i16,
}

/// The end of a transaction, to be written to each of its partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Markers {
    /// Whose it is.
    pub transactional_id: String,
    /// Its producer, with the epoch of the markers.
    pub producer: Producer,
    /// Whether it is committed; if not, aborted.
    pub committed: bool,
    /// Whether the epoch was raised for the markers.
    pub bumped: bool,
    /// Where, by topic.
    pub partitions: BTreeMap<String, BTreeSet<i32>>,
}

/// What a request, a deadline or a change of topics becomes.
#[derive(Debug, Default)]
pub struct Step {
    /// Records to append now, in this order. The machine's state counts on them already.
    pub records: Vec<Record>,
    /// The producer in whose transaction the records stand, if in one.
    pub producer: Option<Producer>,
    /// Answers, to leave when these records and all before them are durable.
    pub replies: Vec<(Ticket, Reply)>,
    /// Markers, to be written when these records and all before them are durable. When all of them are durable
    /// too, the machine is told by [`Machine::markers_written`].
    pub markers: Vec<Markers>,
    /// No load needs what the log holds before this offset, once these records and all before them are durable.
    pub first_needed: Option<i64>,
}

impl Step {
    /// A step that is nothing but a refusal.
    pub fn refused(ticket: Ticket, error: ErrorCode) -> Step {
        let mut step = Step::default();
        step.reply(ticket, error);
        step
    }

    /// Answers a ticket.
    pub fn reply(&mut self, ticket: Ticket, reply: impl Into<Reply>) {
        self.replies.push((ticket, reply.into()));
    }
}

/// What a machine is asked. Travels between cores.
#[derive(Debug)]
pub enum Request {
    /// Of the group coordinator.
    Group(GroupRequest),
    /// Of the transaction coordinator.
    Transaction(TransactionRequest),
    /// Of the share coordinator.
    Share(ShareRequest),
}

impl Request {
    /// Whether it records nothing as a rule, so that it does not wait until something can be recorded.
    pub fn is_urgent(&self) -> bool {
        match self {
            Request::Group(request) => request.is_urgent(),
            Request::Transaction(request) => request.is_urgent(),
            Request::Share(request) => matches!(request.action, ShareAction::Summarize),
        }
    }
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// Of the group coordinator.
    Group(GroupReply),
    /// Of the transaction coordinator.
    Transaction(TransactionReply),
    /// Of the share coordinator.
    Share(ShareReply),
    /// The request as a whole is refused: the coordinator is loading, or is not here, or could not write; or
    /// the request is wrong as a whole. Whoever asked knows the form that its answer has.
    Refused(ErrorCode),
}

impl From<GroupReply> for Reply {
    fn from(reply: GroupReply) -> Reply {
        Reply::Group(reply)
    }
}

impl From<ErrorCode> for Reply {
    fn from(error: ErrorCode) -> Reply {
        Reply::Refused(error)
    }
}

/// What machines are configured by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Growth of the log of groups or of transactions after which the state is written anew, in bytes of records.
    pub snapshot_after_bytes: u64,
    /// The group coordinator's part.
    pub group: GroupConfig,
    /// The transaction coordinator's part.
    pub transaction: TransactionConfig,
    /// The share coordinator's part.
    pub share: ShareConfig,
}

/// A coordinator over one partition.
pub enum Machine {
    /// Of groups and offsets.
    Group(Box<GroupCoordinator>),
    /// Of transactional ids.
    Transaction(Box<TransactionCoordinator>),
    /// Of share partitions.
    Share(Box<ShareCoordinator>),
}

impl Machine {
    /// A machine of which nothing has been replayed yet.
    pub fn new(kind: Kind, config: &Config) -> Machine {
        match kind {
            Kind::Group => {
                Machine::Group(Box::new(GroupCoordinator::new(config.group.clone(), config.snapshot_after_bytes)))
            }
            Kind::Transaction => {
                let (config, after_bytes) = (config.transaction.clone(), config.snapshot_after_bytes);
                Machine::Transaction(Box::new(TransactionCoordinator::new(config, after_bytes)))
            }
            Kind::Share => Machine::Share(Box::new(ShareCoordinator::new(config.share.clone()))),
        }
    }

    /// Takes a record of the partition's log, in the order of the log.
    ///
    /// # Errors
    /// If the record is not one that this machine understands; it then leaves no trace.
    pub fn replay(
        &mut self,
        offset: i64,
        producer: Option<Producer>,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), DecodeError> {
        match self {
            Machine::Group(groups) => groups.replay(offset, producer, key, value),
            Machine::Transaction(transactions) => transactions.replay(offset, key, value),
            Machine::Share(shares) => shares.replay(offset, key, value),
        }
    }

    /// The records of its last step stand in the log, the first at this offset and the rest right behind.
    pub fn appended(&mut self, first_offset: i64, records: &[Record]) {
        match self {
            Machine::Group(groups) => groups.appended(first_offset, records),
            Machine::Transaction(transactions) => transactions.appended(first_offset, records),
            Machine::Share(shares) => shares.appended(first_offset, records),
        }
    }

    /// A marker of the log: the producer's transaction has ended. For a replay and for a marker that is
    /// appended while the machine runs alike.
    pub fn transaction_ended(&mut self, producer_id: i64, committed: bool) {
        match self {
            Machine::Group(groups) => groups.transaction_ended(producer_id, committed),
            // Their own logs are in no transaction.
            Machine::Transaction(_) | Machine::Share(_) => {}
        }
    }

    /// Markers that a step gave out are durable, all of them.
    pub fn markers_written(&mut self, context: &mut Context<'_>, markers: &Markers) -> Step {
        match self {
            Machine::Group(_) | Machine::Share(_) => Step::default(),
            Machine::Transaction(transactions) => transactions.markers_written(context, markers),
        }
    }

    /// The whole log has been replayed; what the state demands in time is scheduled from now.
    pub fn loaded(&mut self, context: &mut Context<'_>) {
        match self {
            Machine::Group(groups) => groups.loaded(context),
            Machine::Transaction(transactions) => transactions.loaded(context),
            Machine::Share(shares) => shares.loaded(context),
        }
    }

    /// Takes a request. Its ticket is answered in this step or in a later one.
    pub fn handle(&mut self, context: &mut Context<'_>, ticket: Ticket, request: Request) -> Step {
        match (self, request) {
            (Machine::Group(groups), Request::Group(request)) => groups.handle(context, ticket, request),
            (Machine::Transaction(transactions), Request::Transaction(request)) => {
                transactions.handle(context, ticket, request)
            }
            (Machine::Share(shares), Request::Share(request)) => shares.handle(context, ticket, request),
            (Machine::Group(_) | Machine::Transaction(_) | Machine::Share(_), _) => {
                Step::refused(ticket, ErrorCode::NotCoordinator)
            }
        }
    }

    /// The topics in the context are other ones than before; those of the names in `gone` are not there any more, or
    /// any may be if there is none.
    pub fn topics_changed(&mut self, context: &mut Context<'_>, gone: Option<&[String]>) -> Step {
        match self {
            Machine::Group(groups) => groups.topics_changed(context, gone),
            Machine::Transaction(_) => Step::default(),
            Machine::Share(shares) => shares.topics_changed(context),
        }
    }

    /// Does what is due. It may be called too early.
    pub fn tick(&mut self, context: &mut Context<'_>) -> Step {
        match self {
            Machine::Group(groups) => groups.tick(context),
            Machine::Transaction(transactions) => transactions.tick(context),
            Machine::Share(shares) => shares.tick(context),
        }
    }

    /// When [`Machine::tick`] is to be called next, on the clock of [`Context::now_ms`].
    pub fn next_deadline(&self) -> Option<u64> {
        match self {
            Machine::Group(groups) => groups.next_deadline(),
            Machine::Transaction(transactions) => transactions.next_deadline(),
            Machine::Share(shares) => shares.next_deadline(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_to_the_partitions_that_java_puts_them() {
        // "polygenelubricants" hashes to the number that has no absolute value.
        for (key, partition) in [("", 0), ("a", 47), ("abc", 4), ("hello", 22), ("polygenelubricants", 0)] {
            assert_eq!(partition_of(key, 50), partition, "{key}");
        }
        assert_eq!(partition_of("x", 1), 0);
    }

    #[test]
    fn random_ids_have_the_form_of_version_4() {
        let mut bits = u64::MAX;
        let mut random = || {
            bits = !bits;
            bits
        };
        let topics = Topics::default();
        let mut context = Context {
            now_ms: 0,
            wall_clock_ms: 0,
            topics: &topics,
            has_room: true,
            largest_record: 1 << 20,
            random: &mut random,
        };
        assert_eq!(context.random_id(), "00000000-0000-4000-bfff-ffffffffffff");
    }
}
