//! The first half of a rebalance: members join, and when all have, one of them is to lead.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    ClassicGroup, JoinDeadline, Member, NEEDS_KNOWN_MEMBER, NEW_MEMBER_JOIN_TIMEOUT_MS, SKIPS_ASSIGNMENT, State,
    common_protocols, is_in, millis, protocols_of, rebalance_timeout, refuse_join, refuse_sync,
};
use crate::coordinator::Ticket;
use crate::coordinator::group::{Client, GroupReply, Turn};
use crate::protocol::ErrorCode;
use crate::protocol::messages::join_group::{JoinGroupRequest, JoinGroupResponse};

impl ClassicGroup {
    /// A member joins, or joins again.
    pub fn join(
        &mut self,
        turn: &mut Turn<'_, '_>,
        ticket: Ticket,
        request: &JoinGroupRequest<'_>,
        version: i16,
        client: Client,
    ) {
        let member_id = &*request.member_id;
        if !self.accepts(member_id, turn.config.max_size) {
            self.pending_joins.remove(member_id);
            return refuse_join(turn, ticket, "", ErrorCode::GroupMaxSizeReached);
        }
        if !self.supports(&request.protocol_type, &request.protocols) {
            return refuse_join(turn, ticket, member_id, ErrorCode::InconsistentGroupProtocol);
        }
        let instance_id = request.group_instance_id.as_deref();
        if !member_id.is_empty() {
            return self.join_again(turn, ticket, request, client);
        }
        let new_id = format!("{}-{}", instance_id.unwrap_or(&client.id), turn.context.random_id());
        if let Some(instance_id) = instance_id {
            match self.instances.get(instance_id).cloned() {
                Some(old_id) => self.replace_static(turn, ticket, request, version, &old_id, new_id),
                None => self.add(turn, ticket, request, new_id, client),
            }
        } else if version >= NEEDS_KNOWN_MEMBER {
            let lapses = turn.context.now_ms + millis(request.session_timeout_ms);
            self.pending_joins.insert(new_id.clone(), lapses);
            refuse_join(turn, ticket, &new_id, ErrorCode::MemberIdRequired);
        } else {
            self.add(turn, ticket, request, new_id, client);
        }
    }

    fn accepts(&self, member_id: &str, max_size: usize) -> bool {
        match self.state {
            State::Empty => true,
            State::PreparingRebalance => {
                let waiting = self.members.values().filter(|member| member.joining.is_some()).count();
                self.members.get(member_id).is_some_and(|member| member.joining.is_some()) || waiting < max_size
            }
            State::CompletingRebalance | State::Stable => {
                self.members.contains_key(member_id) || self.members.len() < max_size
            }
        }
    }

    fn join_again(&mut self, turn: &mut Turn<'_, '_>, ticket: Ticket, request: &JoinGroupRequest<'_>, client: Client) {
        let member_id = &*request.member_id;
        if self.pending_joins.contains_key(member_id) && request.group_instance_id.is_none() {
            return self.add(turn, ticket, request, member_id.to_owned(), client);
        }
        if let Err(error) = self.check_member(member_id, request.group_instance_id.as_deref()) {
            return refuse_join(turn, ticket, member_id, error);
        }
        let unchanged = self.members[member_id].matches(&request.protocols);
        match self.state {
            State::PreparingRebalance => self.update(turn, ticket, request),
            // It may have missed the answer to its join.
            State::CompletingRebalance if unchanged => {
                let members = if self.is_leader(member_id) { self.members_for_leader() } else { Vec::new() };
                turn.step.reply(ticket, GroupReply::Join(self.joined(member_id, members)));
            }
            // A leader joins again to have everything assigned anew.
            State::Stable if unchanged && !self.is_leader(member_id) => {
                turn.step.reply(ticket, GroupReply::Join(self.joined(member_id, Vec::new())));
            }
            State::CompletingRebalance | State::Stable => self.update(turn, ticket, request),
            State::Empty => refuse_join(turn, ticket, member_id, ErrorCode::UnknownMemberId),
        }
    }

    fn add(
        &mut self,
        turn: &mut Turn<'_, '_>,
        ticket: Ticket,
        request: &JoinGroupRequest<'_>,
        member_id: String,
        client: Client,
    ) {
        if self.state == State::PreparingRebalance && self.previous == State::Empty {
            self.new_member_added = true;
        }
        if self.members.is_empty() {
            self.protocol_type = Some(request.protocol_type.to_string());
        }
        self.leader.get_or_insert_with(|| member_id.clone());
        let instance_id = request.group_instance_id.as_deref().map(str::to_owned);
        if let Some(instance_id) = &instance_id {
            self.instances.insert(instance_id.clone(), member_id.clone());
        }
        self.pending_joins.remove(&member_id);
        let member = Member {
            instance_id,
            client,
            rebalance_timeout_ms: rebalance_timeout(request),
            session_timeout_ms: request.session_timeout_ms,
            protocols: protocols_of(request),
            assignment: Bytes::new(),
            is_new: true,
            session_deadline: turn.context.now_ms + NEW_MEMBER_JOIN_TIMEOUT_MS,
            joining: Some(ticket),
            syncing: None,
        };
        self.members.insert(member_id, member);
        self.rebalance_or_complete(turn);
    }

    fn update(&mut self, turn: &mut Turn<'_, '_>, ticket: Ticket, request: &JoinGroupRequest<'_>) {
        self.note_join(turn, &request.member_id, ticket, request);
        self.rebalance_or_complete(turn);
    }

    /// The member's newest wishes, and whom to answer. A join of the same member that waited is given up.
    fn note_join(&mut self, turn: &mut Turn<'_, '_>, member_id: &str, ticket: Ticket, request: &JoinGroupRequest<'_>) {
        let member = self.members.get_mut(member_id).expect("the member was checked");
        member.protocols = protocols_of(request);
        member.rebalance_timeout_ms = rebalance_timeout(request);
        member.session_timeout_ms = request.session_timeout_ms;
        if let Some(earlier) = member.joining.replace(ticket) {
            refuse_join(turn, earlier, member_id, ErrorCode::RebalanceInProgress);
        }
    }

    /// A static member that was started again takes the place of its former self.
    fn replace_static(
        &mut self,
        turn: &mut Turn<'_, '_>,
        ticket: Ticket,
        request: &JoinGroupRequest<'_>,
        version: i16,
        old_id: &str,
        new_id: String,
    ) {
        if self.state == State::Stable && self.is_too_large_with(turn, old_id, request) {
            return refuse_join(turn, ticket, &new_id, ErrorCode::UnknownServerError);
        }
        let old_leader = self.leader.clone().unwrap_or_default();
        let mut member = self.members.remove(old_id).expect("an instance is a member");
        if let Some(waiting) = member.joining.take() {
            refuse_join(turn, waiting, old_id, ErrorCode::FencedInstanceId);
        }
        if let Some(waiting) = member.syncing.take() {
            refuse_sync(turn, waiting, ErrorCode::FencedInstanceId);
        }
        member.session_deadline = turn.context.now_ms + millis(request.session_timeout_ms);
        let instance_id = member.instance_id.clone().expect("a static member has an instance id");
        self.instances.insert(instance_id, new_id.clone());
        if self.pending_syncs.remove(old_id) {
            self.pending_syncs.insert(new_id.clone());
        }
        if self.is_leader(old_id) {
            self.leader = Some(new_id.clone());
        }
        self.members.insert(new_id.clone(), member);
        self.note_join(turn, &new_id, ticket, request);
        if self.state != State::Stable || self.select_protocol() != self.protocol {
            return self.rebalance_or_complete(turn);
        }
        // Nothing changes for the others: no rebalance.
        self.member_mut(&new_id).joining = None;
        self.persist(turn);
        let is_leader = self.is_leader(&new_id);
        let response = if version >= SKIPS_ASSIGNMENT {
            let members = if is_leader { self.members_for_leader() } else { Vec::new() };
            JoinGroupResponse { skip_assignment: is_leader, ..self.joined(&new_id, members) }
        } else {
            // It is not told that it leads, or it would assign although nobody else joins.
            JoinGroupResponse { leader: old_leader.into(), ..self.joined(&new_id, Vec::new()) }
        };
        turn.step.reply(ticket, GroupReply::Join(response));
    }

    pub(super) fn member_mut(&mut self, member_id: &str) -> &mut Member {
        self.members.get_mut(member_id).expect("the member is there")
    }

    pub(super) fn rebalance_or_complete(&mut self, turn: &mut Turn<'_, '_>) {
        match self.state {
            State::PreparingRebalance => self.complete_join_if_ready(turn),
            _ => self.prepare_rebalance(turn),
        }
    }

    pub(super) fn prepare_rebalance(&mut self, turn: &mut Turn<'_, '_>) {
        if self.state == State::CompletingRebalance {
            self.fail_syncs(turn, ErrorCode::RebalanceInProgress);
        }
        self.sync_deadline = None;
        let is_initial = self.state == State::Empty;
        self.transition(State::PreparingRebalance, turn.context.wall_clock_ms);
        let (now_ms, timeout_ms) = (turn.context.now_ms, self.rebalance_timeout_ms());
        if is_initial {
            let delay_ms = turn.config.initial_rebalance_delay_ms;
            let remaining_ms = timeout_ms.saturating_sub(delay_ms);
            self.join_deadline = Some(JoinDeadline::Initial { at: now_ms + delay_ms, delay_ms, remaining_ms });
            if delay_ms == 0 {
                self.on_join_deadline(turn);
            }
            return;
        }
        if self.has_all_joined() {
            return self.complete_join(turn);
        }
        self.join_deadline = Some(JoinDeadline::Final { at: now_ms + timeout_ms });
    }

    /// A new group waits out its delay even if all who are there have joined.
    pub(super) fn complete_join_if_ready(&mut self, turn: &mut Turn<'_, '_>) {
        if self.state == State::PreparingRebalance && self.previous != State::Empty && self.has_all_joined() {
            self.complete_join(turn);
        }
    }

    pub(super) fn on_join_deadline(&mut self, turn: &mut Turn<'_, '_>) {
        if let Some(JoinDeadline::Initial { delay_ms, remaining_ms, .. }) = self.join_deadline
            && self.new_member_added
            && remaining_ms > 0
        {
            self.new_member_added = false;
            let next_ms = turn.config.initial_rebalance_delay_ms.min(remaining_ms);
            let at = turn.context.now_ms + next_ms;
            let remaining_ms = remaining_ms.saturating_sub(delay_ms);
            self.join_deadline = Some(JoinDeadline::Initial { at, delay_ms: next_ms, remaining_ms });
            return;
        }
        self.complete_join(turn);
    }

    /// The joins are over: whoever did not come is out, unless it is static and may still come back.
    fn complete_join(&mut self, turn: &mut Turn<'_, '_>) {
        self.join_deadline = None;
        self.new_member_added = false;
        let late = |(id, member): (&String, &Member)| {
            (member.joining.is_none() && member.instance_id.is_none()).then(|| id.clone())
        };
        let late: Vec<_> = self.members.iter().filter_map(late).collect();
        late.iter().for_each(|id| drop(self.remove(id)));
        if !self.members.is_empty() && !self.elect_joined_leader() {
            let at = turn.context.now_ms + self.rebalance_timeout_ms();
            self.join_deadline = Some(JoinDeadline::Final { at });
            return;
        }
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.pending_syncs.clear();
        if self.members.is_empty() {
            self.protocol = None;
            self.subscribed = self.compute_subscribed();
            self.transition(State::Empty, turn.context.wall_clock_ms);
            return self.persist(turn);
        }
        self.protocol = self.select_protocol();
        self.subscribed = self.compute_subscribed();
        self.transition(State::CompletingRebalance, turn.context.wall_clock_ms);
        self.answer_joins(turn);
        self.sync_deadline = Some(turn.context.now_ms + self.rebalance_timeout_ms());
    }

    fn answer_joins(&mut self, turn: &mut Turn<'_, '_>) {
        self.pending_syncs = self.members.keys().cloned().collect();
        let mut answers = Vec::with_capacity(self.members.len());
        for (id, member) in &self.members {
            if let Some(ticket) = member.joining {
                let members = if self.is_leader(id) { self.members_for_leader() } else { Vec::new() };
                answers.push((ticket, self.joined(id, members)));
            }
        }
        for member in self.members.values_mut() {
            member.joining = None;
            member.is_new = false;
            member.session_deadline = turn.context.now_ms + millis(member.session_timeout_ms);
        }
        answers.into_iter().for_each(|(ticket, answer)| turn.step.reply(ticket, GroupReply::Join(answer)));
    }

    /// The leader stays if it has joined, or another who has takes its place; false if nobody has.
    fn elect_joined_leader(&mut self) -> bool {
        let has_joined = |id: &str| self.members.get(id).is_some_and(|member| member.joining.is_some());
        if self.leader.as_deref().is_some_and(has_joined) {
            return true;
        }
        let other = self.members.iter().find(|(_, member)| member.joining.is_some()).map(|(id, _)| id.clone());
        let found = other.is_some();
        self.leader = other.or(self.leader.take());
        found
    }

    /// Each member votes for the first of its protocols that all support; most votes win.
    pub(super) fn select_protocol(&self) -> Option<String> {
        let of_all = common_protocols(self.members.values().map(|member| &member.protocols[..]));
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            if let Some((name, _)) = member.protocols.iter().find(|(name, _)| is_in(&of_all, name)) {
                *votes.entry(name).or_default() += 1;
            }
        }
        let most = votes.values().copied().max()?;
        votes.into_iter().find(|(_, count)| *count == most).map(|(name, _)| name.to_owned())
    }
}
