//! Share sessions (KIP-932): which share partitions a member fetches over a connection.
//!
//! A member's first ShareFetch names its partitions, later ones only what changes. Each request carries the epoch
//! that the one before made due, so that a lost or repeated one is found out. Invariant: a session lives no longer
//! than the connection that began it; whoever ends it is told what partitions it had, so that what the member has
//! acquired of them can be taken back.
//!
//! Knows no partitions' contents and no connections but their numbers.

use std::collections::BTreeMap;

use crate::accounts::{Accounts, Class, Reservation};
use crate::limits::SHARE_SESSION_PARTITION_BYTES;
use crate::protocol::{ErrorCode, Uuid};

/// The epoch of a request that begins a session, and of one that ends it.
pub const INITIAL_EPOCH: i32 = 0;
/// See [`INITIAL_EPOCH`].
pub const FINAL_EPOCH: i32 = -1;

/// A topic's id and one of its partitions.
pub type Key = (Uuid, i32);

/// Whose a session is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionKey {
    /// The group.
    pub group: String,
    /// The member.
    pub member: String,
}

/// A ShareFetch's part that concerns the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// Whose it is.
    pub key: SessionKey,
    /// Its epoch.
    pub epoch: i32,
    /// Partitions that are fetched from now on.
    pub wanted: Vec<Key>,
    /// Partitions that are not fetched any more.
    pub forgotten: Vec<Key>,
    /// Whether it acknowledges anything.
    pub acknowledges: bool,
    /// The connection that it came on.
    pub connection: u64,
}

/// What a ShareFetch stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// The end of the session, which is to be [closed](ShareSessions::close) when all is acknowledged.
    Final,
    /// A fetch from these partitions, in the order in which they are served.
    Fetch(Vec<Key>),
}

struct Session {
    /// Memory for its partitions and names.
    held: Reservation,
    /// Bytes of its names.
    names: usize,
    connection: u64,
    /// The epoch of the next request.
    epoch: i32,
    /// Partitions by their turn.
    turns: BTreeMap<u64, Key>,
    /// Each one's turn, and whether the next answer must name it.
    places: BTreeMap<Key, (u64, bool)>,
    next_turn: u64,
}

impl Session {
    /// Puts a partition last.
    fn push(&mut self, key: Key, must_name: bool) {
        self.remove(key);
        self.turns.insert(self.next_turn, key);
        self.places.insert(key, (self.next_turn, must_name));
        self.next_turn += 1;
    }

    /// Whether there is memory for the partitions that it has now.
    fn has_memory(&mut self, accounts: &Accounts) -> bool {
        let bytes = self.names + self.places.len() * SHARE_SESSION_PARTITION_BYTES;
        let more = bytes.saturating_sub(self.held.bytes());
        if more > 0 {
            return accounts.left(Class::ShareSessions) >= more && self.held.try_grow(more);
        }
        self.held.shrink_to(bytes);
        true
    }

    fn remove(&mut self, key: Key) {
        if let Some((turn, _)) = self.places.remove(&key) {
            self.turns.remove(&turn);
        }
    }

    fn partitions(&self) -> Vec<Key> {
        self.turns.values().copied().collect()
    }
}

/// The sessions of a core's connections, bounded in number and in memory.
pub struct ShareSessions {
    slots: usize,
    accounts: Accounts,
    sessions: BTreeMap<SessionKey, Session>,
}

/// What an answer says of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// The partition.
    pub key: Key,
    /// Whether it gives records.
    pub has_records: bool,
    /// Whether it gives an error.
    pub is_error: bool,
}

impl ShareSessions {
    /// Room for `slots` sessions (`group.share.max.share.sessions`), as far as the core has memory for them.
    pub fn new(slots: usize, accounts: Accounts) -> ShareSessions {
        ShareSessions { slots, accounts, sessions: BTreeMap::new() }
    }

    /// Begins, goes on with or ends a session.
    ///
    /// # Errors
    /// SHARE_SESSION_NOT_FOUND, INVALID_SHARE_SESSION_EPOCH, SHARE_SESSION_LIMIT_REACHED, or INVALID_REQUEST if it
    /// acknowledges what it cannot have.
    pub fn begin(&mut self, opening: Opening) -> Result<Begun, ErrorCode> {
        match opening.epoch {
            FINAL_EPOCH if self.sessions.contains_key(&opening.key) => Ok(Begun::Final),
            FINAL_EPOCH => Err(ErrorCode::ShareSessionNotFound),
            INITIAL_EPOCH => self.create(opening),
            _ => self.go_on(opening),
        }
    }

    fn create(&mut self, opening: Opening) -> Result<Begun, ErrorCode> {
        if opening.acknowledges {
            return Err(ErrorCode::InvalidRequest);
        }
        self.sessions.remove(&opening.key);
        if self.sessions.len() >= self.slots {
            return Err(ErrorCode::ShareSessionLimitReached);
        }
        let epoch = next_epoch(INITIAL_EPOCH);
        let mut session = Session {
            held: self.accounts.nothing(Class::ShareSessions),
            names: 2 * (opening.key.group.len() + opening.key.member.len()),
            connection: opening.connection,
            epoch,
            turns: BTreeMap::new(),
            places: BTreeMap::new(),
            next_turn: 0,
        };
        for key in opening.wanted {
            if !session.places.contains_key(&key) {
                session.push(key, false);
            }
        }
        if !session.has_memory(&self.accounts) {
            return Err(ErrorCode::ShareSessionLimitReached);
        }
        let wanted = session.partitions();
        self.sessions.insert(opening.key, session);
        Ok(Begun::Fetch(wanted))
    }

    fn go_on(&mut self, opening: Opening) -> Result<Begun, ErrorCode> {
        let accounts = self.accounts.clone();
        let session = self.advance(&opening.key, opening.epoch)?;
        for key in opening.wanted {
            if session.places.contains_key(&key) {
                continue;
            }
            session.push(key, true);
            if !session.has_memory(&accounts) {
                // What the member has of the others stays his. He is not served this one, and may name it again.
                session.remove(key);
                break;
            }
        }
        opening.forgotten.into_iter().for_each(|key| session.remove(key));
        let mut wanted = session.partitions();
        if !wanted.is_empty() {
            // Another partition is the first each time.
            let turn = usize::try_from(opening.epoch).unwrap_or(0) % wanted.len();
            wanted.rotate_left(turn);
        }
        Ok(Begun::Fetch(wanted))
    }

    fn advance(&mut self, key: &SessionKey, epoch: i32) -> Result<&mut Session, ErrorCode> {
        let session = self.sessions.get_mut(key).ok_or(ErrorCode::ShareSessionNotFound)?;
        if session.epoch != epoch {
            return Err(ErrorCode::InvalidShareSessionEpoch);
        }
        session.epoch = next_epoch(epoch);
        Ok(session)
    }

    /// Goes on with a session for a ShareAcknowledge. One of the last epoch leaves it open, to be
    /// [closed](ShareSessions::close) when all is acknowledged.
    ///
    /// # Errors
    /// SHARE_SESSION_NOT_FOUND or INVALID_SHARE_SESSION_EPOCH.
    pub fn acknowledge(&mut self, key: &SessionKey, epoch: i32) -> Result<(), ErrorCode> {
        match epoch {
            INITIAL_EPOCH => Err(ErrorCode::InvalidShareSessionEpoch),
            FINAL_EPOCH if self.sessions.contains_key(key) => Ok(()),
            FINAL_EPOCH => Err(ErrorCode::ShareSessionNotFound),
            _ => self.advance(key, epoch).map(drop),
        }
    }

    /// For each partition of an answer to a fetch of that epoch, whether it is in the answer.
    pub fn told(&mut self, key: &SessionKey, epoch: i32, shown: &[Shown]) -> Vec<bool> {
        let session = match self.sessions.get_mut(key) {
            Some(session) if epoch != INITIAL_EPOCH => session,
            _ => return vec![true; shown.len()],
        };
        let mut included = Vec::with_capacity(shown.len());
        for part in shown {
            let Some((_, must_name)) = session.places.get_mut(&part.key) else {
                included.push(true);
                continue;
            };
            included.push(part.has_records || part.is_error || *must_name);
            *must_name = part.is_error;
            if part.has_records {
                session.push(part.key, part.is_error);
            }
        }
        included
    }

    /// Ends a session; gives the partitions that it had.
    pub fn close(&mut self, key: &SessionKey) -> Option<Vec<Key>> {
        self.sessions.remove(key).map(|session| session.partitions())
    }

    /// Ends the sessions of a connection.
    pub fn disconnected(&mut self, connection: u64) -> Vec<(SessionKey, Vec<Key>)> {
        let of_connection = |session: &Session| session.connection == connection;
        let ended: Vec<SessionKey> =
            self.sessions.iter().filter(|(_, session)| of_connection(session)).map(|(key, _)| key.clone()).collect();
        ended.into_iter().filter_map(|key| self.close(&key).map(|partitions| (key, partitions))).collect()
    }
}

/// The epoch of the request after one of that epoch; never that of a session's begin or end.
fn next_epoch(epoch: i32) -> i32 {
    if epoch == i32::MAX { 1 } else { epoch + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::LEAST_MEMORY_PER_CORE;

    fn key() -> SessionKey {
        SessionKey { group: "g".to_owned(), member: "m".to_owned() }
    }

    fn partition(index: i32) -> Key {
        (Uuid([7; 16]), index)
    }

    fn opening(epoch: i32, wanted: &[i32], forgotten: &[i32]) -> Opening {
        Opening {
            key: key(),
            epoch,
            wanted: wanted.iter().copied().map(partition).collect(),
            forgotten: forgotten.iter().copied().map(partition).collect(),
            acknowledges: false,
            connection: 1,
        }
    }

    fn shown(index: i32, has_records: bool, is_error: bool) -> Shown {
        Shown { key: partition(index), has_records, is_error }
    }

    #[test]
    fn epochs_count_up_and_anything_else_is_refused() {
        let mut sessions = ShareSessions::new(2, Accounts::new(LEAST_MEMORY_PER_CORE));
        assert_eq!(sessions.begin(opening(1, &[], &[])), Err(ErrorCode::ShareSessionNotFound));
        assert_eq!(sessions.begin(opening(FINAL_EPOCH, &[], &[])), Err(ErrorCode::ShareSessionNotFound));
        let acknowledging = Opening { acknowledges: true, ..opening(0, &[0], &[]) };
        assert_eq!(sessions.begin(acknowledging), Err(ErrorCode::InvalidRequest));
        assert_eq!(sessions.begin(opening(0, &[0, 1, 0], &[])), Ok(Begun::Fetch(vec![partition(0), partition(1)])));
        assert_eq!(sessions.begin(opening(2, &[], &[])), Err(ErrorCode::InvalidShareSessionEpoch));
        assert_eq!(sessions.begin(opening(1, &[], &[])), Ok(Begun::Fetch(vec![partition(1), partition(0)])));
        assert_eq!(sessions.acknowledge(&key(), INITIAL_EPOCH), Err(ErrorCode::InvalidShareSessionEpoch));
        assert_eq!(sessions.acknowledge(&key(), 1), Err(ErrorCode::InvalidShareSessionEpoch));
        assert_eq!(sessions.acknowledge(&key(), 2), Ok(()));
        assert_eq!(sessions.begin(opening(3, &[2], &[0])), Ok(Begun::Fetch(vec![partition(2), partition(1)])));
        assert_eq!(sessions.begin(opening(FINAL_EPOCH, &[], &[])), Ok(Begun::Final));
        assert_eq!(sessions.close(&key()), Some(vec![partition(1), partition(2)]));
        assert_eq!(sessions.acknowledge(&key(), FINAL_EPOCH), Err(ErrorCode::ShareSessionNotFound));
        assert_eq!((next_epoch(0), next_epoch(i32::MAX)), (1, 1));
    }

    #[test]
    fn sessions_are_bounded_and_end_with_their_connection() {
        let mut sessions = ShareSessions::new(1, Accounts::new(LEAST_MEMORY_PER_CORE));
        sessions.begin(opening(0, &[0], &[])).expect("there is room");
        let other = SessionKey { group: "g".to_owned(), member: "n".to_owned() };
        let full = sessions.begin(Opening { key: other.clone(), ..opening(0, &[0], &[]) });
        assert_eq!(full, Err(ErrorCode::ShareSessionLimitReached));
        sessions.begin(opening(0, &[1], &[])).expect("it takes the place of its own");
        assert_eq!(sessions.disconnected(2), []);
        assert_eq!(sessions.disconnected(1), [(key(), vec![partition(1)])]);
        sessions.begin(Opening { key: other, ..opening(0, &[0], &[]) }).expect("there is room again");
    }

    #[test]
    fn later_answers_name_only_what_is_new() {
        let mut sessions = ShareSessions::new(1, Accounts::new(LEAST_MEMORY_PER_CORE));
        sessions.begin(opening(0, &[0, 1], &[])).expect("a session");
        assert_eq!(sessions.told(&key(), 0, &[shown(0, false, false)]), [true]);
        sessions.begin(opening(1, &[2], &[])).expect("it goes on");
        let parts = [shown(0, false, false), shown(1, false, true), shown(2, false, false)];
        assert_eq!(sessions.told(&key(), 1, &parts), [false, true, true]);
        // What was an error is named once more when it is none.
        let parts = [shown(0, true, false), shown(1, false, false), shown(2, false, false)];
        assert_eq!(sessions.told(&key(), 2, &parts), [true, true, false]);
        assert_eq!(sessions.close(&key()), Some(vec![partition(1), partition(2), partition(0)]));
    }

    #[test]
    fn sessions_keep_to_their_memory() {
        let accounts = Accounts::new(LEAST_MEMORY_PER_CORE);
        let mut sessions = ShareSessions::new(1000, accounts.clone());
        let most = (accounts.limit(Class::ShareSessions) / SHARE_SESSION_PARTITION_BYTES) as i32;
        let all: Vec<i32> = (0..=most).collect();
        assert_eq!(sessions.begin(opening(0, &all, &[])), Err(ErrorCode::ShareSessionLimitReached));
        sessions.begin(opening(0, &all[..10], &[])).expect("there is room");
        let Ok(Begun::Fetch(served)) = sessions.begin(opening(1, &all, &[])) else { panic!("it goes on") };
        assert!(served.len() > 10 && served.len() <= most as usize);
        assert!(accounts.used(Class::ShareSessions) <= accounts.limit(Class::ShareSessions));
        sessions.disconnected(1);
        assert_eq!(accounts.used(Class::ShareSessions), 0);
    }
}
