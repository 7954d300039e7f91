//! What the group coordinator is asked about share groups, and how they are found for it.

use std::collections::BTreeSet;

use super::admin::not_such;
use super::assignor::Assignment;
use super::consumer::{self, Failure};
use super::share::offsets::Initialization;
use super::share::{self, ShareGroup};
use super::{Client, Group, GroupCoordinator, GroupReply, Turn};
use crate::coordinator::{Context, Step, Ticket};
use crate::protocol::messages::alter_share_group_offsets::{
    AlterShareGroupOffsetsRequestTopic, AlterShareGroupOffsetsResponseTopic,
};
use crate::protocol::messages::delete_share_group_offsets::DeleteShareGroupOffsetsResponseTopic;
use crate::protocol::messages::share_group_describe::DescribedGroup;
use crate::protocol::messages::share_group_heartbeat::{ShareGroupHeartbeatRequest, ShareGroupHeartbeatResponse};
use crate::protocol::{ErrorCode, Uuid};

/// What is asked about share groups.
#[derive(Debug)]
pub enum ShareGroupRequest {
    /// A member lives, joins or leaves.
    Heartbeat {
        /// The request.
        request: ShareGroupHeartbeatRequest<'static>,
        /// Who asks.
        client: Client,
    },
    /// Groups are described, in this order.
    Describe(Vec<String>),
    /// The share coordinators have been told of partitions, or could not be.
    Initialized {
        /// The group.
        group: String,
        /// The partitions.
        partitions: Assignment,
        /// Whether they have.
        succeeded: bool,
    },
    /// Which partitions the share coordinators know of.
    Partitions(String),
    /// A group without members gets other start offsets.
    AlterOffsets {
        /// The group.
        group: String,
        /// Topics, partitions and offsets.
        topics: Vec<AlterShareGroupOffsetsRequestTopic<'static>>,
    },
    /// A group without members loses its offsets of these topics.
    BeginDeleteOffsets {
        /// The group.
        group: String,
        /// The topics' names.
        topics: Vec<String>,
    },
    /// The share coordinators have forgotten these topics' partitions.
    FinishDeleteOffsets {
        /// The group.
        group: String,
        /// The topics.
        topics: BTreeSet<Uuid>,
    },
    /// These are about to be deleted; those that are no share groups, or not there, have nothing to forget.
    BeginDelete(Vec<String>),
}

/// The answer to the request of the same name.
#[derive(Debug, Clone, PartialEq)]
pub enum ShareGroupReply {
    /// To a heartbeat; and what the share coordinators are to be told.
    Heartbeat(ShareGroupHeartbeatResponse<'static>, Option<Initialization>),
    /// One for each group.
    Describe(Vec<DescribedGroup<'static>>),
    /// It is recorded.
    Done,
    /// The partitions.
    Partitions(Assignment),
    /// What is answered when the share coordinators have been told, and what they are to be told.
    AlterOffsets(Result<(Vec<AlterShareGroupOffsetsResponseTopic<'static>>, Initialization), Failure>),
    /// Answers for topics that have nothing to delete, and what the share coordinators are to forget.
    BeginDeleteOffsets(Result<(Vec<DeleteShareGroupOffsetsResponseTopic<'static>>, Assignment), Failure>),
    /// What the share coordinators are to forget, for each group.
    BeginDelete(Vec<Result<Assignment, ErrorCode>>),
}

impl GroupCoordinator {
    pub(super) fn handle_share(
        &mut self,
        context: &mut Context<'_>,
        step: &mut Step,
        ticket: Ticket,
        request: ShareGroupRequest,
    ) {
        let reply = match request {
            ShareGroupRequest::Heartbeat { request, client } => {
                let result = self.share_heartbeat(context, step, &request, &client);
                let (response, initialization) = result.unwrap_or_else(|Failure(error, why)| {
                    let error_code = error.code();
                    let error_message = Some(why.into());
                    (ShareGroupHeartbeatResponse { error_code, error_message, ..Default::default() }, None)
                });
                ShareGroupReply::Heartbeat(response, initialization)
            }
            ShareGroupRequest::Describe(ids) => {
                ShareGroupReply::Describe(ids.iter().map(|id| self.describe_share(id, context)).collect())
            }
            ShareGroupRequest::Initialized { group, partitions, succeeded } => {
                self.with_share_group(context, step, &group, |group, turn| {
                    group.initialized(turn, &partitions, succeeded);
                });
                ShareGroupReply::Done
            }
            ShareGroupRequest::Partitions(group) => ShareGroupReply::Partitions(match self.groups.get(&group) {
                Some(Group::Share(group)) => group.initialized_partitions(),
                _ => Assignment::new(),
            }),
            ShareGroupRequest::AlterOffsets { group: id, topics } => {
                let altered =
                    self.with_share_group(context, step, &id, |group, turn| group.alter_offsets(turn, &topics));
                ShareGroupReply::AlterOffsets(self.outcome(&id, altered))
            }
            ShareGroupRequest::BeginDeleteOffsets { group: id, topics } => {
                let begun =
                    self.with_share_group(context, step, &id, |group, turn| group.begin_delete_offsets(turn, &topics));
                ShareGroupReply::BeginDeleteOffsets(self.outcome(&id, begun))
            }
            ShareGroupRequest::FinishDeleteOffsets { group, topics } => {
                self.with_share_group(context, step, &group, |group, turn| group.finish_delete_offsets(turn, &topics));
                ShareGroupReply::Done
            }
            ShareGroupRequest::BeginDelete(ids) => {
                let begin = |id: &String| {
                    let begun = self.with_share_group(context, step, id, |group, turn| group.begin_delete(turn));
                    begun.unwrap_or(Ok(Assignment::new()))
                };
                ShareGroupReply::BeginDelete(ids.iter().map(begin).collect())
            }
        };
        step.reply(ticket, GroupReply::Share(reply));
    }

    fn with_share_group<T>(
        &mut self,
        context: &mut Context<'_>,
        step: &mut Step,
        id: &str,
        act: impl FnOnce(&mut ShareGroup, &mut Turn<'_, '_>) -> T,
    ) -> Option<T> {
        match self.groups.get_mut(id) {
            Some(Group::Share(group)) => Some(act(group, &mut Turn { context, config: &self.config, step })),
            _ => None,
        }
    }

    /// What came of a request to a share group, if there is one.
    fn outcome<T>(&self, id: &str, result: Option<Result<T, ErrorCode>>) -> Result<T, Failure> {
        match result {
            Some(result) => result.map_err(|error| Failure(error, "The group is not empty.".to_owned())),
            None => Err(Failure(ErrorCode::GroupIdNotFound, self.no_share_group(id))),
        }
    }

    fn no_share_group(&self, id: &str) -> String {
        not_such(id, self.groups.contains_key(id), "share")
    }

    fn share_heartbeat(
        &mut self,
        context: &mut Context<'_>,
        step: &mut Step,
        request: &ShareGroupHeartbeatRequest<'static>,
        client: &Client,
    ) -> Result<(ShareGroupHeartbeatResponse<'static>, Option<Initialization>), Failure> {
        let id = &*request.group_id;
        share::check_heartbeat(request)?;
        let names = request.subscribed_topic_names.iter().flatten().map(|name| name.len() + 2);
        if names.sum::<usize>() + id.len() + consumer::RECORD_BYTES > context.largest_record {
            return Err(Failure(ErrorCode::UnknownServerError, consumer::TOO_LARGE.to_owned()));
        }
        if !self.groups.contains_key(id) {
            if request.member_epoch != 0 {
                let why = match request.member_epoch {
                    -1 => format!("Group {id} not found."),
                    _ => format!("Share group {id} not found."),
                };
                return Err(Failure(ErrorCode::GroupIdNotFound, why));
            }
            self.groups.insert(id.to_owned(), Group::Share(ShareGroup::new(id)));
        }
        let Some(Group::Share(group)) = self.groups.get_mut(id) else {
            return Err(Failure(ErrorCode::GroupIdNotFound, format!("Group {id} is not a share group.")));
        };
        let result = group.heartbeat(&mut Turn { context, config: &self.config, step }, request, client);
        let deadline = group.deadline_of(&request.member_id);
        self.schedule_by(id, deadline);
        self.forget_if_blank(id);
        result
    }

    fn describe_share(&self, id: &str, context: &Context<'_>) -> DescribedGroup<'static> {
        match self.groups.get(id) {
            _ if id.is_empty() => DescribedGroup { error_code: ErrorCode::InvalidGroupId.code(), ..Default::default() },
            Some(Group::Share(group)) => group.describe(context.topics),
            _ => DescribedGroup {
                error_code: ErrorCode::GroupIdNotFound.code(),
                error_message: Some(self.no_share_group(id).into()),
                group_id: id.to_owned().into(),
                ..Default::default()
            },
        }
    }
}
