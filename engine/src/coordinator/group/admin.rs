//! Groups as a whole: described, listed, deleted.

use std::collections::BTreeSet;

use super::{Group, GroupCoordinator, Turn, classic};
use crate::coordinator::{Context, Step};
use crate::protocol::ErrorCode;
use crate::protocol::messages::consumer_group_describe::DescribedGroup as DescribedConsumerGroup;
use crate::protocol::messages::delete_groups::DeletableGroupResult;
use crate::protocol::messages::describe_groups::DescribedGroup;
use crate::protocol::messages::list_groups::ListedGroup;

impl GroupCoordinator {
    pub(super) fn describe(&self, id: &str) -> DescribedGroup<'static> {
        match self.groups.get(id) {
            Some(Group::Classic(group)) => group.describe(),
            other => DescribedGroup {
                error_code: ErrorCode::GroupIdNotFound.code(),
                error_message: Some(not_such(id, other.is_some(), "classic").into()),
                group_id: id.to_owned().into(),
                group_state: "Dead".into(),
                ..Default::default()
            },
        }
    }

    pub(super) fn describe_consumer(&self, id: &str, context: &Context<'_>) -> DescribedConsumerGroup<'static> {
        match self.groups.get(id) {
            _ if id.is_empty() => {
                DescribedConsumerGroup { error_code: ErrorCode::InvalidGroupId.code(), ..Default::default() }
            }
            Some(Group::Consumer(group)) => group.describe(&self.config, context.topics),
            other => DescribedConsumerGroup {
                error_code: ErrorCode::GroupIdNotFound.code(),
                error_message: Some(not_such(id, other.is_some(), "consumer").into()),
                group_id: id.to_owned().into(),
                ..Default::default()
            },
        }
    }

    pub(super) fn list(&self, states: &BTreeSet<String>, types: &BTreeSet<String>) -> Vec<ListedGroup<'static>> {
        let is_wanted =
            |wanted: &BTreeSet<String>, name: &str| wanted.is_empty() || wanted.contains(&name.to_ascii_lowercase());
        let listed = self.groups.iter().map(|(id, group)| match group {
            Group::Classic(group) => ListedGroup {
                group_id: id.clone().into(),
                protocol_type: group.protocol_type().unwrap_or_default().to_owned().into(),
                group_state: group.state().name().into(),
                group_type: "classic".into(),
            },
            Group::Consumer(group) => ListedGroup {
                group_id: id.clone().into(),
                protocol_type: classic::CONSUMER.into(),
                group_state: group.state().into(),
                group_type: "consumer".into(),
            },
            Group::Share(group) => ListedGroup {
                group_id: id.clone().into(),
                protocol_type: "share".into(),
                group_state: group.state().into(),
                group_type: "share".into(),
            },
        });
        listed.filter(|group| is_wanted(states, &group.group_state) && is_wanted(types, &group.group_type)).collect()
    }

    pub(super) fn delete(
        &mut self,
        context: &mut Context<'_>,
        step: &mut Step,
        id: &str,
    ) -> DeletableGroupResult<'static> {
        let error = match self.groups.get(id) {
            None => ErrorCode::GroupIdNotFound,
            Some(group) if !group.is_empty() => ErrorCode::NonEmptyGroup,
            Some(_) => {
                self.offsets.remove_group(id, step);
                self.delete_if_empty(context, step, id);
                ErrorCode::None
            }
        };
        DeletableGroupResult { group_id: id.to_owned().into(), error_code: error.code() }
    }

    pub(super) fn delete_if_empty(&mut self, context: &mut Context<'_>, step: &mut Step, id: &str) {
        match self.groups.get_mut(id) {
            Some(group) if !group.is_empty() => return,
            None => return,
            Some(Group::Classic(group)) => step.records.push(group.tombstone()),
            Some(Group::Consumer(group)) => group.end(&mut Turn { context, config: &self.config, step }),
            Some(Group::Share(group)) => group.end(&mut Turn { context, config: &self.config, step }),
        }
        self.forget(id);
    }
}

pub(super) fn not_such(id: &str, is_other: bool, kind: &str) -> String {
    if is_other { format!("Group {id} is not a {kind} group.") } else { format!("Group {id} not found.") }
}
