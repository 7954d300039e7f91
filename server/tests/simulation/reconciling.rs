//! Members of a KIP-848 group: ConsumerGroupHeartbeat, and what a member does about its answer.
//!
//! A member owns a partition from the answer that gives it until it sends the heartbeat that says it has it no more,
//! until it leaves or is told to be out, or until its session may be over for all it knows.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use checker::Partition;
use engine::io::Io;
use engine::protocol::ErrorCode;
use engine::protocol::messages::consumer_group_heartbeat::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, RequestTopicPartitions,
};

use crate::clients::error;
use crate::members::{CONSUMER, Gone, Member};
use crate::shared::{Shared, list, may_pass};

/// How long a member may be silent: `group.consumer.session.timeout.ms`.
pub(crate) const SESSION_MS: u64 = 1_500;
/// How long it may take to give partitions up; longer than a session, so that it is told before it is thrown out.
const REBALANCE_MS: i32 = 6_000;
/// The epoch of who joins, and of who leaves.
const JOINS: i32 = 0;
const LEAVES: i32 = -1;

/// A member of the group again and again until the clients stop.
pub(crate) async fn take_part(shared: Rc<Shared>, io: Io, number: u64) {
    let mut chance = shared.chance(0x800 + number);
    let topic = shared.topic(&io).await;
    while !shared.is_stopping() {
        let own = shared.chance(0x80_0000 + shared.number());
        let mut member = Member::new(shared.clone(), io.clone(), own, topic.clone(), CONSUMER);
        member.committer.member = format!("member-{}", shared.number());
        member.committer.generation = JOINS;
        let gone = member.live().await;
        tracing::debug!(member = member.committer.member, ?gone, "a member is gone");
        shared.groups.borrow_mut().leaves(CONSUMER, &member.committer.member);
        if chance.one_in(2) {
            let epoch = member.committer.generation;
            member.haunt(move |_| epoch);
        }
        member.line.pause(chance.log_below(10)).await;
    }
}

impl Member {
    async fn live(&mut self) -> Gone {
        loop {
            if let Err(gone) = self.step().await {
                return gone;
            }
        }
    }

    async fn step(&mut self) -> Result<(), Gone> {
        let shared = self.line.shared.clone();
        if shared.is_stopping() || self.chance.one_in(80) {
            shared.groups.borrow_mut().leaves(CONSUMER, &self.committer.member);
            self.heartbeat(LEAVES, None).await?;
            return Err(Gone::Out);
        }
        let before = self.committer.generation;
        let mine: BTreeSet<i32> = self.positions.keys().copied().collect();
        let says_all = before == JOINS || self.chance.one_in(3);
        let told = self.heartbeat(before, says_all.then_some(&mine)).await?;
        if let Some(told) = told {
            self.follow(told).await?;
        }
        let epoch = self.committer.generation;
        if before > JOINS && before < epoch && self.chance.one_in(3) {
            self.commit_late(before, epoch).await?;
        }
        for _ in 0..self.chance.below(5) {
            match self.consume(epoch).await? {
                // Its epoch has grown, which the next heartbeat tells it.
                ErrorCode::None | ErrorCode::StaleMemberEpoch => {}
                _ => return Err(Gone::Out),
            }
        }
        match self.chance.below(100) {
            0 => Err(Gone::Out), // without a word
            1 => {
                self.line.pause(2 * SESSION_MS).await;
                Ok(())
            }
            _ => {
                self.line.pause(self.chance.between(20, 400)).await;
                Ok(())
            }
        }
    }

    /// It is to have these and no others: what it must give up it says at once, and then begins with what is new.
    async fn follow(&mut self, wanted: BTreeSet<i32>) -> Result<(), Gone> {
        let mut wanted = wanted;
        loop {
            let gives_up: BTreeSet<i32> = self.positions.keys().copied().filter(|at| !wanted.contains(at)).collect();
            let new: Vec<i32> = wanted.iter().copied().filter(|at| !self.positions.contains_key(at)).collect();
            self.begin(&new).await?;
            if gives_up.is_empty() {
                return Ok(());
            }
            // It finishes what it has begun.
            if self.chance.one_in(2) {
                let epoch = self.committer.generation;
                self.consume(epoch).await?;
                self.line.pause(self.chance.log_below(8)).await;
            }
            self.positions.retain(|at, _| !gives_up.contains(at));
            let places: BTreeSet<Partition> = gives_up.iter().map(|at| list(&self.topic, *at)).collect();
            let shared = self.line.shared.clone();
            shared.groups.borrow_mut().gives_up(CONSUMER, &self.committer.member, |at| places.contains(&at));
            let mine = self.positions.keys().copied().collect();
            match self.heartbeat(self.committer.generation, Some(&mine)).await? {
                Some(told) => wanted = told,
                None => return Ok(()),
            }
        }
    }

    /// Says that it lives, and what it has; what it is to have, if it is told.
    async fn heartbeat(&mut self, epoch: i32, owned: Option<&BTreeSet<i32>>) -> Result<Option<BTreeSet<i32>>, Gone> {
        let shared = self.line.shared.clone();
        let of_topic = |owned: &BTreeSet<i32>| match owned.is_empty() {
            true => Vec::new(),
            false => {
                vec![RequestTopicPartitions { topic_id: self.topic.id, partitions: owned.iter().copied().collect() }]
            }
        };
        let request = ConsumerGroupHeartbeatRequest {
            group_id: CONSUMER.into(),
            member_id: self.committer.member.clone().into(),
            member_epoch: epoch,
            rebalance_timeout_ms: if epoch == JOINS || owned.is_some() { REBALANCE_MS } else { -1 },
            subscribed_topic_names: (epoch == JOINS || owned.is_some()).then(|| vec![self.topic.name.clone().into()]),
            topic_partitions: owned.map(of_topic),
            ..Default::default()
        };
        loop {
            let sent = self.line.io.now();
            let answer = self.line.ask(&request, 1).await?;
            let response: ConsumerGroupHeartbeatResponse<'_> = answer.message();
            match error(response.error_code) {
                ErrorCode::None if epoch == LEAVES => return Ok(None),
                ErrorCode::None => {
                    self.committer.generation = response.member_epoch;
                    let told = response.assignment.as_ref().map(|told| {
                        told.topic_partitions.iter().flat_map(|topic| topic.partitions.iter().copied()).collect()
                    });
                    let now = self.line.io.now();
                    let until = sent + Duration::from_millis(SESSION_MS);
                    let mut owned: BTreeSet<i32> = self.positions.keys().copied().collect();
                    owned.extend(told.iter().flatten());
                    tracing::debug!(member = self.committer.member, epoch = response.member_epoch, ?told, "heartbeat");
                    let owned = owned.into_iter().map(|at| list(&self.topic, at)).collect();
                    shared.groups.borrow_mut().owns(CONSUMER, &self.committer.member, &owned, now.0, until.0);
                    return Ok(told);
                }
                other if may_pass(other) => self.line.pause(20).await,
                other => {
                    tracing::debug!(member = self.committer.member, ?other, "a heartbeat is refused");
                    return Err(Gone::Out);
                }
            }
        }
    }
}
