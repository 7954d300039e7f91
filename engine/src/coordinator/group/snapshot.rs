//! Groups and offsets, written anew so that the log before can go (see [`super::super::passes`]).
//!
//! Groups come first, by id, a large one member by member; offsets follow. Invariant: what is written of a group is
//! what its records in the log say, not what it is about to become.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::{Group, GroupCoordinator};
use crate::coordinator::passes::{Piece, Progress};
use crate::coordinator::{Context, Record, Step};

/// How far a pass has come.
#[derive(Debug, Default)]
pub(super) enum Place {
    /// Nothing is written.
    #[default]
    Start,
    /// All groups up to this one, and of this one the members up to that one.
    Member(String, String),
    /// All groups up to this one.
    Group(String),
    /// All groups.
    Groups,
}

/// Ids after `after` of members, and of those that have left and whose target assignment the log still has.
pub(super) fn ids_after<'a, M, T>(
    members: &'a BTreeMap<String, M>,
    targets: &'a BTreeMap<String, T>,
    after: Option<&str>,
) -> BTreeSet<&'a str> {
    let from = || (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
    let members = members.range::<str, _>(from()).map(|(id, _)| id.as_str());
    members.chain(targets.range::<str, _>(from()).map(|(id, _)| id.as_str())).collect()
}

impl GroupCoordinator {
    /// A step's records stand in the log, the first at this offset.
    pub fn appended(&mut self, first_offset: i64, records: &[Record]) {
        for (offset, record) in (first_offset..).zip(records) {
            self.passes.note(offset, record.size_bytes());
        }
    }

    /// Writes another piece of the state; begins with it if it is time.
    pub(super) fn write_anew(&mut self, context: &Context<'_>, step: &mut Step) {
        if !self.passes.is_running() {
            let groups: u64 = self.groups.iter().map(|(id, group)| id.len() as u64 + group.size_bytes()).sum();
            if !self.passes.begin(groups + self.offsets.size_bytes()) {
                return;
            }
            self.place = Place::Start;
            self.offsets.begin_pass();
        }
        let mut piece = self.passes.piece();
        self.write_groups(context.wall_clock_ms, &mut piece, step);
        let progress = match self.place {
            Place::Groups => self.offsets.write_anew(&mut piece, step),
            _ => Progress::More,
        };
        self.passes.go_on(context.now_ms, progress, step);
    }

    fn write_groups(&mut self, now_ms: i64, piece: &mut Piece, step: &mut Step) {
        while !piece.is_full() {
            let (from, after) = match &self.place {
                Place::Start => (Bound::Unbounded, None),
                Place::Member(group, member) => (Bound::Included(group.as_str()), Some((group, member))),
                Place::Group(group) => (Bound::Excluded(group.as_str()), None),
                Place::Groups => return,
            };
            let Some((id, group)) = self.groups.range::<str, _>((from, Bound::Unbounded)).next() else {
                self.place = Place::Groups;
                return;
            };
            // A group that has ended since, and its members, have their tombstones.
            let after = after.filter(|(of, _)| *of == id).map(|(_, member)| member.as_str());
            piece.look();
            let last = match group {
                Group::Classic(group) => {
                    group.record().into_iter().for_each(|record| piece.push(step, record));
                    None
                }
                Group::Consumer(group) => group.write_anew(after, now_ms, piece, step),
                Group::Share(group) => group.write_anew(after, piece, step),
            };
            self.place = match last {
                Some(member) => Place::Member(id.clone(), member),
                None => Place::Group(id.clone()),
            };
        }
    }
}

impl Group {
    /// About what its records take, in bytes.
    fn size_bytes(&self) -> u64 {
        match self {
            Group::Classic(group) => group.record().map_or(0, |record| record.size_bytes() as u64),
            Group::Consumer(group) => group.size_bytes(),
            Group::Share(group) => group.size_bytes(),
        }
    }
}
