//! Decisions while nothing can be recorded: the disk is full, or its writes lag far behind.
//!
//! Members live on, and whoever only asks is answered. What would need a record is refused, or put off if it is due by
//! itself. Invariant: a decision that is refused leaves the groups as they were.

use super::shares::ShareGroupRequest;
use super::{Group, GroupCoordinator, GroupRequest};
use crate::coordinator::{Context, Step, Ticket};
use crate::protocol::ErrorCode;

/// What a request may change.
enum Reach<'r> {
    Nothing,
    /// This group, but no offsets.
    Group(&'r str),
    /// More than that, or it needs a record in any case.
    More,
}

impl GroupRequest {
    fn reach(&self) -> Reach<'_> {
        match self {
            GroupRequest::Fetch { .. }
            | GroupRequest::Describe(_)
            | GroupRequest::List { .. }
            | GroupRequest::ConsumerDescribe(_)
            | GroupRequest::Share(ShareGroupRequest::Describe(_) | ShareGroupRequest::Partitions(_)) => Reach::Nothing,
            GroupRequest::Join { request, .. } => Reach::Group(&request.group_id),
            GroupRequest::Sync(request) => Reach::Group(&request.group_id),
            GroupRequest::Heartbeat(request) => Reach::Group(&request.group_id),
            GroupRequest::Leave(request) => Reach::Group(&request.group_id),
            GroupRequest::ConsumerHeartbeat { request, .. } => Reach::Group(&request.group_id),
            GroupRequest::Share(ShareGroupRequest::Heartbeat { request, .. }) => Reach::Group(&request.group_id),
            GroupRequest::Commit { .. }
            | GroupRequest::CommitInTransaction(_)
            | GroupRequest::DeleteOffsets(_)
            | GroupRequest::Delete(_)
            | GroupRequest::Share(_) => Reach::More,
        }
    }

    /// Whether it records nothing as a rule, so that it does not wait until something can be recorded.
    pub fn is_urgent(&self) -> bool {
        let is_heartbeat = matches!(
            self,
            GroupRequest::Heartbeat(_)
                | GroupRequest::ConsumerHeartbeat { .. }
                | GroupRequest::Share(ShareGroupRequest::Heartbeat { .. })
        );
        is_heartbeat || matches!(self.reach(), Reach::Nothing)
    }
}

impl GroupCoordinator {
    /// Takes a request that must not need a record.
    pub(super) fn handle_without_room(
        &mut self,
        context: &mut Context<'_>,
        ticket: Ticket,
        request: GroupRequest,
    ) -> Step {
        let step = match request.reach() {
            Reach::Nothing => return self.decide(context, ticket, request),
            Reach::Group(id) => {
                let id = id.to_owned();
                self.attempt(context, &id, |groups, context| groups.decide(context, ticket, request))
            }
            Reach::More => None,
        };
        step.unwrap_or_else(|| Step::refused(ticket, ErrorCode::CoordinatorNotAvailable))
    }

    /// Lets a group act unless that needs a record.
    pub(super) fn attempt(
        &mut self,
        context: &mut Context<'_>,
        id: &str,
        act: impl FnOnce(&mut GroupCoordinator, &mut Context<'_>) -> Step,
    ) -> Option<Step> {
        let before = self.groups.get(id).cloned();
        let step = act(self, context);
        if step.records.is_empty() {
            return Some(step);
        }
        // Whoever is answered in the step still waits.
        self.forget(id);
        if let Some(group) = before {
            self.restore(id, group);
        }
        None
    }

    fn restore(&mut self, id: &str, group: Group) {
        let deadline = group.deadline();
        self.groups.insert(id.to_owned(), group);
        self.schedule(id, deadline);
    }
}
