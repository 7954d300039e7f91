//! Fetch sessions (KIP-227): a client names its partitions once, then sends and gets only what changed.
//!
//! A session's epoch moves with each of its requests:
//! ```text
//!   none --epoch 0--> open(next 1) --epoch n--> open(next n + 1, after 2³¹ − 1 comes 1)
//!   open --epoch 0 or −1, or its last partition forgotten, or evicted--> none
//! ```
//! The invariant: a session's partitions are those that its client believes in, in the order in which they
//! are to be served: one that gave records goes behind all others, so that none starves under a bound on
//! bytes. A session is never needed for a right answer: a client that loses one starts again with a full
//! request. This module knows no partitions' state, only what their readers were last told.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use crate::accounts::{Accounts, Class, Reservation};
use crate::io::Instant;
use crate::limits::FETCH_SESSION_PARTITION_BYTES;
use crate::protocol::{ErrorCode, Uuid};

/// No session: answers with this id tell the client to go on with full requests.
pub const NO_SESSION: i32 = 0;
/// The epoch of a request that opens a session.
pub const FIRST_EPOCH: i32 = 0;
/// The epoch of a request that wants no session, or ends one.
pub const LAST_EPOCH: i32 = -1;

/// How a topic is named: by name up to Fetch v12, by id from v13. A session never mixes the two.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum TopicKey {
    /// Its name.
    Name(Rc<str>),
    /// Its id.
    Id(Uuid),
}

/// A partition as a client names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartitionKey {
    /// The topic.
    pub topic: TopicKey,
    /// The partition's index.
    pub partition: i32,
}

impl PartitionKey {
    /// What a session keeps for it. A name that several share is counted for each: one of them may stay alone.
    fn bytes(&self) -> usize {
        let name = match &self.topic {
            TopicKey::Name(name) => name.len(),
            TopicKey::Id(_) => 0,
        };
        FETCH_SESSION_PARTITION_BYTES + name
    }
}

/// What a client wants of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// The first offset.
    pub offset: i64,
    /// Most bytes.
    pub max_bytes: i32,
    /// The leader epoch that the client believes in, −1 for none.
    pub current_leader_epoch: i32,
    /// The epoch of the client's last record, −1 for none.
    pub last_fetched_epoch: i32,
}

/// The part of a Fetch request that concerns sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// The session, or [`NO_SESSION`].
    pub session_id: i32,
    /// The epoch.
    pub epoch: i32,
    /// Whether topics are named by id (v13 and later).
    pub by_id: bool,
    /// All partitions of a full request; those new or changed of an incremental one.
    pub wanted: Vec<(PartitionKey, Wanted)>,
    /// Partitions that leave the session.
    pub forgotten: Vec<PartitionKey>,
}

/// A Fetch under way: what to serve, in this order, and how to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// Every partition to serve.
    pub wanted: Vec<(PartitionKey, Wanted)>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sessionless,
    Full { by_id: bool },
    Incremental { session_id: i32 },
}

/// What one partition is about to show its reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// The partition's error.
    pub error: ErrorCode,
    /// Its high watermark.
    pub high_watermark: i64,
    /// Its first offset.
    pub log_start_offset: i64,
    /// Bytes of records.
    pub bytes: usize,
    /// Whether the reader must be told even without news: its log diverges, or another replica is preferred.
    pub urgent: bool,
}

/// How to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The session for the client's next request, or [`NO_SESSION`].
    pub session_id: i32,
    /// For each partition of [`Fetch::wanted`], whether it is in the answer.
    pub included: Vec<bool>,
}

/// The sessions of a core's connections, bounded in number and in memory.
pub struct FetchSessions {
    slots: usize,
    accounts: Accounts,
    /// A session unused for this long gives way to any other; one older than this to a larger one.
    eviction: Duration,
    sessions: BTreeMap<i32, Session>,
}

struct Session {
    /// Memory for its partitions.
    held: Reservation,
    by_id: bool,
    next_epoch: i32,
    created: Instant,
    last_used: Instant,
    /// Partitions by their turn; the lowest is served first.
    turns: BTreeMap<u64, (PartitionKey, Cached)>,
    places: BTreeMap<PartitionKey, u64>,
    next_turn: u64,
}

#[derive(Clone, Copy)]
struct Cached {
    wanted: Wanted,
    told_high_watermark: i64,
    told_log_start_offset: i64,
}

impl FetchSessions {
    /// Room for `slots` sessions (`max.incremental.fetch.session.cache.slots`), as far as the core has memory for them.
    pub fn new(slots: usize, eviction: Duration, accounts: Accounts) -> FetchSessions {
        FetchSessions { slots, accounts, eviction, sessions: BTreeMap::new() }
    }

    /// How many sessions are open.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Takes in a request.
    ///
    /// # Errors
    /// What the whole request is answered with: FETCH_SESSION_ID_NOT_FOUND, INVALID_FETCH_SESSION_EPOCH or
    /// FETCH_SESSION_TOPIC_ID_ERROR.
    pub fn begin(&mut self, now: Instant, opening: Opening) -> Result<Fetch, ErrorCode> {
        if opening.epoch == FIRST_EPOCH || opening.epoch == LAST_EPOCH {
            self.sessions.remove(&opening.session_id);
            let full = opening.epoch == FIRST_EPOCH;
            let kind = if full { Kind::Full { by_id: opening.by_id } } else { Kind::Sessionless };
            return Ok(Fetch { wanted: opening.wanted, kind });
        }
        let id = opening.session_id;
        let session = self.sessions.get_mut(&id).ok_or(ErrorCode::FetchSessionIdNotFound)?;
        if session.next_epoch != opening.epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        if session.by_id != opening.by_id {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        let changes = !opening.wanted.is_empty() || !opening.forgotten.is_empty();
        session.take_in(opening.wanted, &opening.forgotten);
        if changes && !session.has_memory(&self.accounts) {
            // Its client begins anew, and asks for all each time.
            self.sessions.remove(&id);
            return Err(ErrorCode::FetchSessionIdNotFound);
        }
        session.next_epoch = next_epoch(session.next_epoch);
        session.last_used = now;
        if session.turns.is_empty() {
            self.sessions.remove(&id);
            return Ok(Fetch { wanted: Vec::new(), kind: Kind::Sessionless });
        }
        let wanted = session.turns.values().map(|(key, cached)| (key.clone(), cached.wanted)).collect();
        Ok(Fetch { wanted, kind: Kind::Incremental { session_id: id } })
    }

    /// Settles what the answer to `fetch` shows; `shown` are its partitions in order. `random` draws ids.
    ///
    /// # Panics
    /// If `shown` is not as long as the fetch's partitions.
    pub fn finish(&mut self, now: Instant, fetch: &Fetch, shown: &[Shown], random: impl FnMut() -> u64) -> Answer {
        assert_eq!(fetch.wanted.len(), shown.len(), "each partition of a fetch shows something");
        match fetch.kind {
            Kind::Sessionless => Answer { session_id: NO_SESSION, included: vec![true; shown.len()] },
            Kind::Full { by_id } => {
                let session_id = self.open(now, by_id, fetch, shown, random);
                Answer { session_id, included: vec![true; shown.len()] }
            }
            Kind::Incremental { session_id } => {
                let tell = |session: &mut Session| session.tell_changes(&fetch.wanted, shown);
                // The session may have been evicted while the fetch waited; its client is told all, and
                // learns of the loss with its next request.
                let included = self.sessions.get_mut(&session_id).map(tell);
                Answer { session_id, included: included.unwrap_or_else(|| vec![true; shown.len()]) }
            }
        }
    }

    fn open(&mut self, now: Instant, by_id: bool, fetch: &Fetch, shown: &[Shown], random: impl FnMut() -> u64) -> i32 {
        if fetch.wanted.is_empty() || !self.make_room(now, fetch.wanted.len()) {
            return NO_SESSION;
        }
        let bytes = fetch.wanted.iter().map(|(key, _)| key.bytes()).sum();
        let Some(held) = self.reserve(now, bytes) else { return NO_SESSION };
        let mut session = Session::new(now, by_id, held);
        for ((key, wanted), shown) in fetch.wanted.iter().zip(shown) {
            session.add(key.clone(), Cached::told(*wanted, shown));
        }
        let id = self.free_id(random);
        self.sessions.insert(id, session);
        id
    }

    /// Memory for a session; those that lie idle make room.
    fn reserve(&mut self, now: Instant, bytes: usize) -> Option<Reservation> {
        if self.accounts.left(Class::FetchSessions) < bytes {
            self.sessions.retain(|_, session| now.since(session.last_used) <= self.eviction);
        }
        let has_room = self.accounts.left(Class::FetchSessions) >= bytes;
        has_room.then(|| self.accounts.try_reserve(Class::FetchSessions, bytes)).flatten()
    }

    fn free_id(&self, mut random: impl FnMut() -> u64) -> i32 {
        loop {
            let id = (random() & 0x7fff_ffff) as i32;
            if id != NO_SESSION && !self.sessions.contains_key(&id) {
                return id;
            }
        }
    }

    /// Whether there is room for one more session of `size` partitions, after evicting at most one: one that
    /// lies idle, or else the smallest of those past their first youth, if it is smaller than the newcomer.
    fn make_room(&mut self, now: Instant, size: usize) -> bool {
        if self.sessions.len() < self.slots {
            return true;
        }
        let by_use = self.sessions.iter().min_by_key(|(id, session)| (session.last_used, **id));
        let idle = by_use.filter(|(_, session)| now.since(session.last_used) > self.eviction);
        let old = || {
            let old = self.sessions.iter().filter(|(_, session)| now.since(session.created) > self.eviction);
            old.min_by_key(|(id, session)| (session.turns.len(), **id))
                .filter(|(_, session)| session.turns.len() < size)
        };
        let Some(id) = idle.or_else(old).map(|(id, _)| *id) else { return false };
        self.sessions.remove(&id);
        true
    }
}

impl Session {
    fn new(now: Instant, by_id: bool, held: Reservation) -> Session {
        let (turns, places) = (BTreeMap::new(), BTreeMap::new());
        Session {
            held,
            by_id,
            next_epoch: next_epoch(FIRST_EPOCH),
            created: now,
            last_used: now,
            turns,
            places,
            next_turn: 0,
        }
    }

    fn add(&mut self, key: PartitionKey, cached: Cached) {
        if let Some(turn) = self.places.get(&key) {
            self.turns.insert(*turn, (key, cached));
            return;
        }
        self.places.insert(key.clone(), self.next_turn);
        self.turns.insert(self.next_turn, (key, cached));
        self.next_turn += 1;
    }

    /// Whether there is memory for the partitions that it has now.
    fn has_memory(&mut self, accounts: &Accounts) -> bool {
        let bytes: usize = self.places.keys().map(PartitionKey::bytes).sum();
        let more = bytes.saturating_sub(self.held.bytes());
        if more > 0 {
            return accounts.left(Class::FetchSessions) >= more && self.held.try_grow(more);
        }
        self.held.shrink_to(bytes);
        true
    }

    fn remove(&mut self, key: &PartitionKey) -> Option<Cached> {
        let turn = self.places.remove(key)?;
        self.turns.remove(&turn).map(|(_, cached)| cached)
    }

    fn take_in(&mut self, wanted: Vec<(PartitionKey, Wanted)>, forgotten: &[PartitionKey]) {
        for (key, wanted) in wanted {
            let known = self.places.get(&key).and_then(|turn| self.turns.get_mut(turn));
            match known {
                Some((_, cached)) => cached.wanted = wanted,
                None => self.add(key, Cached { wanted, told_high_watermark: -1, told_log_start_offset: -1 }),
            }
        }
        for key in forgotten {
            self.remove(key);
        }
    }

    /// Which partitions have news; those that give records go to the end.
    fn tell_changes(&mut self, wanted: &[(PartitionKey, Wanted)], shown: &[Shown]) -> Vec<bool> {
        let mut included = Vec::with_capacity(shown.len());
        for ((key, _), shown) in wanted.iter().zip(shown) {
            let cached = self.places.get(key).and_then(|turn| self.turns.get_mut(turn)).map(|(_, cached)| cached);
            included.push(cached.is_none_or(|cached| cached.tell(shown)));
            if shown.bytes > 0
                && let Some(cached) = self.remove(key)
            {
                self.add(key.clone(), cached);
            }
        }
        included
    }
}

impl Cached {
    fn told(wanted: Wanted, shown: &Shown) -> Cached {
        let mut cached = Cached { wanted, told_high_watermark: -1, told_log_start_offset: -1 };
        cached.tell(shown);
        cached
    }

    /// Whether that is news to the reader, who is taken to have been told.
    fn tell(&mut self, shown: &Shown) -> bool {
        let moved =
            self.told_high_watermark != shown.high_watermark || self.told_log_start_offset != shown.log_start_offset;
        let failed = shown.error != ErrorCode::None;
        self.told_log_start_offset = shown.log_start_offset;
        // After an error the partition is told once more when the error goes.
        self.told_high_watermark = if failed { -1 } else { shown.high_watermark };
        moved || failed || shown.bytes > 0 || shown.urgent
    }
}

fn next_epoch(epoch: i32) -> i32 {
    epoch.checked_add(1).unwrap_or(1)
}

#[cfg(test)]
mod tests;
