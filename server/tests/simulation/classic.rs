//! Members of a classic group: JoinGroup, SyncGroup, Heartbeat, LeaveGroup.

use std::collections::BTreeSet;
use std::rc::Rc;

use checker::Partition;
use engine::io::Io;
use engine::protocol::ErrorCode;
use engine::protocol::messages::heartbeat::{HeartbeatRequest, HeartbeatResponse};
use engine::protocol::messages::join_group::{JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse};
use engine::protocol::messages::leave_group::{LeaveGroupRequest, MemberIdentity};
use engine::protocol::messages::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment, SyncGroupResponse};

use crate::clients::error;
use crate::members::{CLASSIC, Gone, Member};
use crate::shared::{Shared, list, may_pass};

/// How long a member may be silent, and how long the others wait for it.
const SESSION_MS: i32 = 1_000;
const REBALANCE_MS: i32 = 1_500;
/// The version of JoinGroup; SyncGroup's, Heartbeat's and LeaveGroup's.
const JOIN: i16 = 9;
const SYNC: i16 = 5;
const HEARTBEAT: i16 = 4;
const LEAVE: i16 = 5;

/// A member of the group again and again until the clients stop.
pub(crate) async fn take_part(shared: Rc<Shared>, io: Io, number: u64) {
    let mut chance = shared.chance(0x700 + number);
    let topic = shared.topic(&io).await;
    while !shared.is_stopping() {
        let own = shared.chance(0x70_0000 + shared.number());
        let mut member = Member::new(shared.clone(), io.clone(), own, topic.clone(), CLASSIC);
        let gone = loop {
            match member.generation().await {
                Ok(()) => {}
                Err(gone) => break gone,
            }
        };
        tracing::debug!(member = member.committer.member, ?gone, "a classic member is gone");
        if chance.one_in(2) {
            member.haunt(|shared| shared.groups.borrow().newest(CLASSIC));
        }
        member.line.pause(chance.log_below(10)).await;
    }
}

impl Member {
    /// Joins, syncs, and lives in one generation; an error if it is no member any more.
    async fn generation(&mut self) -> Result<(), Gone> {
        let before = self.committer.generation;
        let joined = self.join().await?;
        let partitions = self.sync(joined).await?;
        let Some(partitions) = partitions else { return Ok(()) };
        let shared = self.line.shared.clone();
        let places: Vec<Partition> = partitions.iter().map(|index| list(&self.topic, *index)).collect();
        let generation = self.committer.generation;
        shared.groups.borrow_mut().synced(CLASSIC, generation, &self.committer.member, &places);
        tracing::debug!(member = self.committer.member, generation, ?partitions, "synced");
        self.positions.clear();
        self.begin(&partitions).await?;
        if before >= 0 && before < generation && self.chance.one_in(2) {
            let newest = shared.groups.borrow().newest(CLASSIC);
            self.commit_late(before, newest).await?;
        }
        loop {
            if shared.is_stopping() || self.chance.one_in(60) {
                self.leave().await?;
                return Err(Gone::Out);
            }
            match self.chance.below(80) {
                0 => return Err(Gone::Out), // without a word
                1 => self.line.pause(2 * SESSION_MS as u64).await,
                2 => return Ok(()), // joins again, as if it had other topics now
                _ => self.line.pause(self.chance.between(5, 150)).await,
            }
            let newest = shared.groups.borrow().newest(CLASSIC);
            let told = if self.chance.one_in(3) { self.beat().await? } else { self.consume(newest).await? };
            match told {
                ErrorCode::None => {}
                ErrorCode::RebalanceInProgress => return Ok(()),
                _ => return Err(Gone::Out),
            }
        }
    }

    /// Joins; the ids of all members if it leads.
    async fn join(&mut self) -> Result<Vec<String>, Gone> {
        // What differs from the join before makes the coordinator begin a new generation.
        let metadata = subscription(&self.topic.name, self.chance.next());
        loop {
            if self.line.shared.is_stopping() {
                return Err(Gone::Out);
            }
            let protocol = JoinGroupRequestProtocol { name: "range".into(), metadata: metadata.clone().into() };
            let request = JoinGroupRequest {
                group_id: CLASSIC.into(),
                session_timeout_ms: SESSION_MS,
                rebalance_timeout_ms: REBALANCE_MS,
                member_id: self.committer.member.clone().into(),
                protocol_type: "consumer".into(),
                protocols: vec![protocol],
                ..Default::default()
            };
            let answer = self.line.ask(&request, JOIN).await?;
            let response: JoinGroupResponse<'_> = answer.message();
            match error(response.error_code) {
                ErrorCode::None => {
                    self.committer.member = response.member_id.to_string();
                    self.committer.generation = response.generation_id;
                    return Ok(response.members.iter().map(|member| member.member_id.to_string()).collect());
                }
                ErrorCode::MemberIdRequired => self.committer.member = response.member_id.to_string(),
                other if may_pass(other) || other == ErrorCode::RebalanceInProgress => self.line.pause(20).await,
                _ => return Err(Gone::Out),
            }
        }
    }

    /// Its partitions; `None` if there is another generation already.
    async fn sync(&mut self, members: Vec<String>) -> Result<Option<Vec<i32>>, Gone> {
        let share = |at: usize| {
            let own = |index: &i32| *index as usize % members.len() == at;
            assignment(&self.topic.name, (0..self.topic.partitions).filter(own))
        };
        let assigned = members.iter().enumerate().map(|(at, member)| SyncGroupRequestAssignment {
            member_id: member.clone().into(),
            assignment: share(at).into(),
        });
        let request = SyncGroupRequest {
            group_id: CLASSIC.into(),
            generation_id: self.committer.generation,
            member_id: self.committer.member.clone().into(),
            protocol_type: Some("consumer".into()),
            protocol_name: Some("range".into()),
            assignments: assigned.collect(),
            ..Default::default()
        };
        loop {
            let answer = self.line.ask(&request, SYNC).await?;
            let response: SyncGroupResponse<'_> = answer.message();
            match error(response.error_code) {
                ErrorCode::None => return Ok(Some(partitions(&response.assignment))),
                ErrorCode::RebalanceInProgress => return Ok(None),
                other if may_pass(other) => self.line.pause(20).await,
                _ => return Err(Gone::Out),
            }
        }
    }

    async fn beat(&mut self) -> Result<ErrorCode, Gone> {
        let request = HeartbeatRequest {
            group_id: CLASSIC.into(),
            generation_id: self.committer.generation,
            member_id: self.committer.member.clone().into(),
            ..Default::default()
        };
        let answer = self.line.ask(&request, HEARTBEAT).await?;
        let told = error(answer.message::<HeartbeatResponse>().error_code);
        Ok(if may_pass(told) { ErrorCode::None } else { told })
    }

    async fn leave(&mut self) -> Result<(), Gone> {
        let identity = MemberIdentity { member_id: self.committer.member.clone().into(), ..Default::default() };
        let request = LeaveGroupRequest { group_id: CLASSIC.into(), members: vec![identity], ..Default::default() };
        self.line.ask(&request, LEAVE).await?;
        Ok(())
    }
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as i16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// A ConsumerProtocolSubscription of version 0: one topic, and something of the member's own.
fn subscription(topic: &str, own: u64) -> Vec<u8> {
    let mut out = vec![0, 0, 0, 0, 0, 1];
    put_string(&mut out, topic);
    out.extend_from_slice(&8i32.to_be_bytes());
    out.extend_from_slice(&own.to_be_bytes());
    out
}

/// A ConsumerProtocolAssignment of version 0: partitions of one topic, no user data.
fn assignment(topic: &str, partitions: impl Iterator<Item = i32>) -> Vec<u8> {
    let partitions: BTreeSet<i32> = partitions.collect();
    let mut out = vec![0, 0, 0, 0, 0, 1];
    put_string(&mut out, topic);
    out.extend_from_slice(&(partitions.len() as i32).to_be_bytes());
    partitions.iter().for_each(|index| out.extend_from_slice(&index.to_be_bytes()));
    out.extend_from_slice(&(-1i32).to_be_bytes());
    out
}

/// The partitions of what [`assignment`] gave; none of nothing.
fn partitions(assignment: &[u8]) -> Vec<i32> {
    let Some(rest) = assignment.get(6..) else { return Vec::new() };
    let (length, rest) = rest.split_at(2);
    let rest = &rest[i16::from_be_bytes([length[0], length[1]]) as usize..];
    let int = |bytes: &[u8]| i32::from_be_bytes(bytes.try_into().expect("4 bytes"));
    let (count, rest) = rest.split_at(4);
    rest.chunks(4).take(int(count) as usize).map(int).collect()
}
