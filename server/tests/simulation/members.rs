//! Members of groups: what those of both protocols have in common, which is to read what is theirs and to commit how
//! far they are.
//!
//! A member begins where the group is when it was given a partition, commits only growing positions, and after a
//! commit or a heartbeat whose answer is lost it is gone: what it sent may still arrive, but nothing behind it.

use std::collections::BTreeMap;
use std::rc::Rc;

use engine::io::Io;
use engine::protocol::ErrorCode;

use crate::chance::Chance;
use crate::clients::Topic;
use crate::offsets::{Committer, commit, committed};
use crate::readers::{draw_how, fetch};
use crate::shared::{Line, Shared, may_pass};
use crate::wire::Lost;

/// The group of the classic protocol.
pub(crate) const CLASSIC: &str = "classic";
/// The group of KIP-848.
pub(crate) const CONSUMER: &str = "consumer";

/// Why a member is no longer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gone {
    /// The coordinator says so, or it left.
    Out,
    /// Nobody knows what the coordinator holds it for.
    Lost,
}

impl From<Lost> for Gone {
    fn from(_: Lost) -> Gone {
        Gone::Lost
    }
}

/// What a member of either protocol reads and commits with.
pub(crate) struct Member {
    pub(crate) line: Line,
    pub(crate) chance: Chance,
    pub(crate) topic: Topic,
    pub(crate) committer: Committer,
    /// Its partitions with its position in each, and how far each may be read.
    pub(crate) positions: BTreeMap<i32, (i64, i64)>,
}

impl Member {
    pub(crate) fn new(shared: Rc<Shared>, io: Io, chance: Chance, topic: Topic, group: &'static str) -> Member {
        let committer = Committer { group, member: String::new(), generation: -1 };
        Member { line: Line::new(shared, io), chance, topic, committer, positions: BTreeMap::new() }
    }

    /// Begins with partitions that are new to it, where the group is.
    pub(crate) async fn begin(&mut self, partitions: &[i32]) -> Result<(), Gone> {
        if partitions.is_empty() {
            return Ok(());
        }
        for _ in 0..20 {
            let (line, chance) = (&mut self.line, &mut self.chance);
            let told = committed(line, chance, &self.topic, self.committer.group, partitions).await?;
            if let Some(offsets) = told {
                let positions = partitions.iter().zip(offsets).map(|(at, offset)| (*at, (offset.max(0), 0)));
                self.positions.extend(positions);
                return Ok(());
            }
            self.line.pause(20).await;
        }
        Err(Gone::Lost)
    }

    /// Goes on in one of its partitions and commits how far it is. `newest`: see `checker::Groups::accepted`.
    pub(crate) async fn consume(&mut self, newest: i32) -> Result<ErrorCode, Gone> {
        let mine: Vec<i32> = self.positions.keys().copied().collect();
        if mine.is_empty() {
            return Ok(ErrorCode::None);
        }
        let partition = *self.chance.pick(&mine);
        let (position, mut end) = self.positions[&partition];
        if position >= end {
            let how = draw_how(&mut self.chance);
            end = fetch(&mut self.line, &self.topic, partition, position, how).await?.end;
            self.positions.insert(partition, (position, end));
        }
        if position >= end {
            return Ok(ErrorCode::None);
        }
        let position = position + self.chance.between(1, 4).min((end - position) as u64) as i64;
        self.positions.insert(partition, (position, end));
        let told = commit(&mut self.line, &self.topic, &self.committer, (partition, position), newest).await?;
        Ok(if may_pass(told) { ErrorCode::None } else { told })
    }

    /// A commit of a generation that is over, of an offset that is over too.
    pub(crate) async fn commit_late(&mut self, generation: i32, newest: i32) -> Result<(), Gone> {
        let Some((partition, (position, _))) = self.positions.first_key_value().map(|(at, found)| (*at, *found)) else {
            return Ok(());
        };
        let late = Committer { generation, ..self.committer.clone() };
        let offset = position.saturating_sub(self.chance.log_below(4) as i64).max(0);
        self.line.shared.count("commits too late");
        commit(&mut self.line, &self.topic, &late, (partition, offset), newest).await?;
        Ok(())
    }

    /// It is thought to be dead, and commits once more what it had read.
    pub(crate) fn haunt(&mut self, newest: impl Fn(&Shared) -> i32 + 'static) {
        let (shared, io) = (self.line.shared.clone(), self.line.io.clone());
        let Some((partition, (position, end))) = self.positions.pop_first() else { return };
        if position >= end {
            return;
        }
        let (topic, committer) = (self.topic.clone(), self.committer.clone());
        let mut line = Line::new(shared.clone(), io.clone());
        let late = self.chance.log_below(13);
        shared.count("zombies");
        shared.clone().run(&io, async move {
            line.pause(late).await;
            let newest = newest(&shared);
            let _ = commit(&mut line, &topic, &committer, (partition, position + 1), newest).await;
        });
    }
}
