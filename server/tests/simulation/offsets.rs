//! Committed offsets: how members commit and ask, and observers who only ask.

use std::rc::Rc;

use checker::Rule;
use engine::io::Io;
use engine::protocol::ErrorCode;
use engine::protocol::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic, OffsetCommitResponse,
};
use engine::protocol::messages::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics, OffsetFetchResponse,
};

use crate::chance::Chance;
use crate::clients::{Topic, error};
use crate::members::{CLASSIC, CONSUMER};
use crate::shared::{Line, Shared, list, may_pass};
use crate::transactions::group_of;
use crate::wire::Lost;

/// Who commits.
#[derive(Debug, Clone)]
pub(crate) struct Committer {
    pub(crate) group: &'static str,
    pub(crate) member: String,
    /// Its generation, or its epoch.
    pub(crate) generation: i32,
}

/// Commits one offset; the outer error is a loss, after which it is unknown whether it is committed.
pub(crate) async fn commit(
    line: &mut Line,
    topic: &Topic,
    committer: &Committer,
    (partition, offset): (i32, i64),
    newest: i32,
) -> Result<ErrorCode, Lost> {
    let shared = line.shared.clone();
    let place = list(topic, partition);
    shared.groups.borrow_mut().commit_sent(committer.group, place, offset);
    let asked =
        OffsetCommitRequestPartition { partition_index: partition, committed_offset: offset, ..Default::default() };
    let request = OffsetCommitRequest {
        group_id: committer.group.into(),
        generation_id_or_member_epoch: committer.generation,
        member_id: committer.member.clone().into(),
        topics: vec![OffsetCommitRequestTopic { name: topic.name.clone().into(), partitions: vec![asked] }],
        ..Default::default()
    };
    let answer = line.ask(&request, 9).await?;
    let told = error(answer.message::<OffsetCommitResponse<'_>>().topics[0].partitions[0].error_code);
    tracing::debug!(?committer, partition, offset, ?told, "commit");
    if told == ErrorCode::None {
        let mut groups = shared.groups.borrow_mut();
        groups.accepted(committer.group, place, committer.generation, newest);
        groups.commit_acknowledged(committer.group, place, offset);
        shared.note_acknowledged();
    }
    Ok(told)
}

/// What is committed of each partition, −1 for nothing; `None` if it is not told now.
pub(crate) async fn committed(
    line: &mut Line,
    chance: &mut Chance,
    topic: &Topic,
    group: &str,
    partitions: &[i32],
) -> Result<Option<Vec<i64>>, Lost> {
    let shared = line.shared.clone();
    let floors: Vec<i64> =
        partitions.iter().map(|index| shared.groups.borrow().told(group, list(topic, *index))).collect();
    let Some(offsets) = ask(line, chance, topic, group, partitions).await? else { return Ok(None) };
    for ((partition, floor), offset) in partitions.iter().zip(floors).zip(&offsets) {
        shared.groups.borrow_mut().shown(group, list(topic, *partition), floor, *offset);
    }
    Ok(Some(offsets))
}

async fn ask(
    line: &mut Line,
    chance: &mut Chance,
    topic: &Topic,
    group: &str,
    partitions: &[i32],
) -> Result<Option<Vec<i64>>, Lost> {
    let topics =
        vec![OffsetFetchRequestTopics { name: topic.name.clone().into(), partition_indexes: partitions.to_vec() }];
    let asked = OffsetFetchRequestGroup {
        group_id: group.to_owned().into(),
        member_epoch: -1,
        topics: Some(topics),
        ..Default::default()
    };
    let request = OffsetFetchRequest { groups: vec![asked], require_stable: chance.one_in(2), ..Default::default() };
    let answer = line.ask(&request, chance.between(8, 9) as i16).await?;
    let response: OffsetFetchResponse<'_> = answer.message();
    let told = &response.groups[0];
    let whole = error(told.error_code);
    if whole != ErrorCode::None {
        if !may_pass(whole) {
            shared_broken(&line.shared, format!("OffsetFetch of {group} answers {whole:?}"));
        }
        return Ok(None);
    }
    let told = &told.topics[0].partitions;
    let is_told = told.iter().all(|partition| error(partition.error_code) == ErrorCode::None);
    Ok(is_told.then(|| told.iter().map(|partition| partition.committed_offset).collect()))
}

fn shared_broken(shared: &Shared, what: String) {
    shared.groups.borrow_mut().broken(Rule::Stuck, what);
}

/// What a writer has committed in its transactions; 0 for nothing, `None` if it is not told now.
pub(crate) async fn committed_by(
    line: &mut Line,
    chance: &mut Chance,
    topic: &Topic,
    writer: u64,
) -> Result<Option<u64>, Lost> {
    let shared = line.shared.clone();
    let floor = shared.transactions.borrow().offset(writer);
    let Some(offsets) = ask(line, chance, topic, &group_of(writer), &[0]).await? else { return Ok(None) };
    let offset = offsets[0].max(0) as u64;
    match offset {
        0 if floor == 0 => {}
        offset => shared.transactions.borrow_mut().offset_seen(writer, floor, offset),
    }
    Ok(Some(offset))
}

/// Asks for what is committed until the clients stop.
pub(crate) async fn observe(shared: Rc<Shared>, io: Io) {
    let mut chance = shared.chance(0x600);
    let topic = shared.topic(&io).await;
    let mut line = Line::new(shared.clone(), io);
    let partitions: Vec<i32> = (0..topic.partitions).collect();
    while !shared.is_stopping() {
        line.pause(chance.between(1, 40)).await;
        let _ = match chance.below(3) {
            0 => committed(&mut line, &mut chance, &topic, CLASSIC, &partitions).await.map(drop),
            1 => committed(&mut line, &mut chance, &topic, CONSUMER, &partitions).await.map(drop),
            _ => {
                let writer = chance.below(shared.load.writers);
                committed_by(&mut line, &mut chance, &topic, writer).await.map(drop)
            }
        };
    }
}
