//! The topics that members' regular expressions stand for.
//!
//! An expression is looked up by a heartbeat of a member that has it: the first one, and then whenever topics have
//! changed or the last time is long ago. What it stands for is recorded, for all members that have it, and is of
//! the topics that the member may see whose heartbeat it was (KIP-848, as Kafka does it). Invariant: a topic that
//! none of them may see is in no expression for longer than `group.consumer.regex.refresh.interval.ms` after that was
//! decided. Who may see what it does not know.

use std::collections::BTreeSet;

use super::records::Change;
use super::{ConsumerGroup, Failure, Turn, Visible, fail};
use crate::coordinator::Topics;
use crate::coordinator::pattern::Pattern;
use crate::protocol::ErrorCode;

/// What an expression stands for.
#[derive(Debug, Clone)]
pub(super) struct Expression {
    pub(super) topics: BTreeSet<String>,
    /// When it was looked up, on the clock of deadlines; `None` if it must be with the next heartbeat.
    looked_up_ms: Option<u64>,
}

impl Expression {
    /// As it was recorded.
    pub(super) fn new(topics: BTreeSet<String>) -> Expression {
        Expression { topics, looked_up_ms: None }
    }

    /// Topics are other ones than before.
    pub(super) fn expire(&mut self) {
        self.looked_up_ms = None;
    }
}

impl ConsumerGroup {
    /// The expression of a member after its heartbeat. Whether its topics may be other ones.
    pub(super) fn follow_regex(
        &mut self,
        turn: &mut Turn<'_, '_>,
        before: Option<&str>,
        after: Option<&str>,
        visible: Option<&Visible>,
    ) -> bool {
        let mut changed = before != after;
        if changed && let Some(before) = before {
            self.drop_regex(turn, before);
        }
        if let (Some(after), Some(visible)) = (after, visible) {
            changed |= self.look_up(turn, after, visible);
        }
        changed
    }

    /// Looks the expression up if it is time to. Whether its topics are other ones.
    fn look_up(&mut self, turn: &mut Turn<'_, '_>, regex: &str, visible: &Visible) -> bool {
        let now_ms = turn.context.now_ms;
        let known = self.expressions.get(regex);
        let is_recent = |at: u64| now_ms < at.saturating_add(turn.config.consumer.regex_refresh_ms);
        if known.and_then(|known| known.looked_up_ms).is_some_and(is_recent) {
            return false;
        }
        let topics = resolve(regex, turn.context.topics, visible);
        let changed = known.is_none_or(|known| known.topics != topics);
        if changed {
            self.change(turn, Change::Regex(regex.to_owned(), topics, turn.context.wall_clock_ms));
        }
        self.expressions.get_mut(regex).expect("it is known now").looked_up_ms = Some(now_ms);
        changed
    }

    /// An expression that nobody has is not kept.
    pub(super) fn drop_regex(&mut self, turn: &mut Turn<'_, '_>, regex: &str) {
        let is_used = self.members.values().any(|member| member.metadata.regex.as_deref() == Some(regex));
        if !is_used && self.expressions.contains_key(regex) {
            self.change(turn, Change::RegexEnd(regex.to_owned()));
        }
    }
}

/// Whether a member may have the expression; it may have an empty one, which is none.
///
/// # Errors
/// Why it may not.
pub fn check_regex(regex: Option<&str>) -> Result<(), Failure> {
    let Some(regex) = regex.filter(|regex| !regex.is_empty()) else { return Ok(()) };
    match Pattern::compile(regex) {
        Ok(_) => Ok(()),
        Err(why) => fail(
            ErrorCode::InvalidRegularExpression,
            format!("SubscribedTopicRegex `{regex}` is not a valid regular expression: {why}."),
        ),
    }
}

/// The visible topics whose names match, the internal ones too: whether they are wanted is the expression's say.
fn resolve(regex: &str, topics: &Topics, visible: &Visible) -> BTreeSet<String> {
    let Ok(compiled) = Pattern::compile(regex) else { return BTreeSet::new() };
    let names = topics.iter().map(|(name, _)| name);
    names.filter(|name| compiled.is_match(name) && visible.has(name)).map(str::to_owned).collect()
}
