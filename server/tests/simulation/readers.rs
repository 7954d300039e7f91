//! Readers of lists: of committed records as Kafka's consumers are, and of all records.

use std::collections::BTreeSet;
use std::rc::Rc;

use checker::{Rule, Seen};
use engine::io::Io;
use engine::protocol::messages::fetch::{FetchPartition, FetchRequest, FetchResponse, FetchTopic, PartitionData};
use engine::protocol::messages::list_offsets::{
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsResponse, ListOffsetsTopic,
};
use engine::protocol::{ErrorCode, Uuid};
use engine::record::batches;
use engine::record::control::parse_marker;

use crate::chance::Chance;
use crate::clients::{Topic, error};
use crate::consumer::unpack_batch;
use crate::shared::{Line, Shared, list, may_pass};
use crate::wire::Lost;

/// A version from which on Fetch names topics by id.
const BY_ID: i16 = 13;

/// How a Fetch is asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct How {
    pub(crate) committed: bool,
    pub(crate) version: i16,
    pub(crate) wait_ms: i32,
    pub(crate) max_bytes: i32,
}

/// What a Fetch gave.
#[derive(Default)]
pub(crate) struct Fetched {
    pub(crate) seen: Seen,
    /// Where to go on.
    pub(crate) next: i64,
    /// The end as far as this reader may read.
    pub(crate) end: i64,
}

/// Reads until the clients stop.
pub(crate) async fn read(shared: Rc<Shared>, io: Io, number: u64) {
    let mut chance = shared.chance(0x400 + number);
    let topic = shared.topic(&io).await;
    let mut line = Line::new(shared.clone(), io);
    let mut offsets = vec![0; topic.partitions as usize];
    let committed = number % 3 != 2;
    while !shared.is_stopping() {
        let partition = chance.below(topic.partitions as u64) as i32;
        let offset = &mut offsets[partition as usize];
        match chance.below(24) {
            0 => drop(list_offsets(&mut line, &mut chance, &topic).await),
            1 => *offset = chance.below(*offset as u64 + 1) as i64,
            _ => {
                let how = How { committed, ..draw_how(&mut chance) };
                if let Ok(fetched) = fetch(&mut line, &topic, partition, *offset, how).await {
                    let gave = fetched.next > *offset;
                    *offset = fetched.next;
                    let longest = if gave { 5 } else { 40 };
                    line.pause(chance.between(1, longest)).await;
                }
            }
        }
    }
}

pub(crate) fn draw_how(chance: &mut Chance) -> How {
    How {
        committed: true,
        version: chance.between(11, 17) as i16,
        wait_ms: chance.log_below(8) as i32,
        max_bytes: 100 << chance.below(12),
    }
}

/// One Fetch of one partition, all that it says being judged. What was refused for now gave nothing.
pub(crate) async fn fetch(
    line: &mut Line,
    topic: &Topic,
    partition: i32,
    offset: i64,
    how: How,
) -> Result<Fetched, Lost> {
    let shared = line.shared.clone();
    let floor = shared.transactions.borrow().stable(list(topic, partition));
    let asked =
        FetchPartition { partition, fetch_offset: offset, partition_max_bytes: how.max_bytes, ..Default::default() };
    let (name, topic_id) = if how.version < BY_ID { (&*topic.name, Uuid::ZERO) } else { ("", topic.id) };
    let request = FetchRequest {
        max_wait_ms: how.wait_ms,
        min_bytes: 1,
        max_bytes: 1 << 20,
        isolation_level: i8::from(how.committed),
        topics: vec![FetchTopic { topic: name.into(), topic_id, partitions: vec![asked] }],
        ..Default::default()
    };
    let answer = line.ask(&request, how.version).await?;
    let response: FetchResponse<'_> = answer.message();
    let data = &response.responses[0].partitions[0];
    match error(data.error_code) {
        ErrorCode::None => Ok(take(&shared, topic, (partition, offset, floor), how.committed, data)),
        other => {
            if !may_pass(other) {
                let what = format!("Fetch from {offset} answers {other:?}");
                shared.transactions.borrow_mut().broken(Rule::Stuck, Some(list(topic, partition)), what);
            }
            Ok(Fetched { next: offset, end: offset, ..Fetched::default() })
        }
    }
}

fn take(
    shared: &Shared,
    topic: &Topic,
    (partition, offset, floor): (i32, i64, i64),
    committed: bool,
    data: &PartitionData<'_>,
) -> Fetched {
    let place = list(topic, partition);
    let mut history = shared.transactions.borrow_mut();
    history.ends_seen(place, floor, data.high_watermark, data.last_stable_offset);
    let bytes: Vec<u8> =
        data.records.as_ref().map_or(Vec::new(), |records| records.slices().flatten().copied().collect());
    let mut aborted: Vec<(i64, i64)> =
        data.aborted_transactions.iter().flatten().map(|found| (found.first_offset, found.producer_id)).collect();
    aborted.sort_by(|one, other| other.cmp(one));
    let end = if committed { data.last_stable_offset } else { data.high_watermark };
    let mut fetched = Fetched { next: offset, end, ..Fetched::default() };
    match unpack(&bytes, offset, aborted, &mut fetched) {
        Err((rule, what)) => history.broken(rule, Some(place), what),
        Ok(()) if committed => history.read_committed(place, end, &fetched.seen),
        Ok(()) => history.read_uncommitted(place, &fetched.seen.shown),
    }
    fetched
}

/// Takes batches apart as Kafka's consumer does: of the producers of `aborted` transactions (first offset and producer,
/// the greatest first), what stands between the first offset and the marker is hidden.
fn unpack(bytes: &[u8], from: i64, mut aborted: Vec<(i64, i64)>, fetched: &mut Fetched) -> Result<(), (Rule, String)> {
    let mut expected = None;
    let mut skipping = BTreeSet::new();
    for batch in batches(bytes) {
        let batch = batch.map_err(|error| (Rule::Corrupt, format!("a batch: {error}")))?;
        let follows = expected.map_or(batch.base_offset() <= from, |expected| batch.base_offset() == expected);
        if !follows {
            return Err((Rule::Gap, format!("a read from {from} skips to {}", batch.base_offset())));
        }
        expected = Some(batch.last_offset() + 1);
        while let Some((_, producer)) = aborted.pop_if(|(first, _)| *first <= batch.last_offset()) {
            skipping.insert(producer);
        }
        fetched.next = fetched.next.max(batch.last_offset() + 1);
        if batch.attributes().is_control() {
            let marker = parse_marker(&batch).map_err(|error| (Rule::Corrupt, format!("a marker: {error}")))?;
            if marker.is_some_and(|marker| !marker.committed) {
                skipping.remove(&batch.producer_id());
            }
            continue;
        }
        let is_hidden = batch.attributes().is_transactional() && skipping.contains(&batch.producer_id());
        let records = if is_hidden { &mut fetched.seen.hidden } else { &mut fetched.seen.shown };
        unpack_batch(&batch, records).map_err(|what| (Rule::Corrupt, what))?;
    }
    Ok(())
}

/// Where all lists end for readers of committed records.
pub(crate) async fn list_offsets(line: &mut Line, chance: &mut Chance, topic: &Topic) -> Result<Vec<i64>, Lost> {
    let shared = line.shared.clone();
    let floors: Vec<_> =
        (0..topic.partitions).map(|index| shared.transactions.borrow().stable(list(topic, index))).collect();
    let partition = |partition_index| ListOffsetsPartition { partition_index, current_leader_epoch: -1, timestamp: -1 };
    let asked = ListOffsetsTopic {
        name: topic.name.clone().into(),
        partitions: (0..topic.partitions).map(partition).collect(),
    };
    let request = ListOffsetsRequest { replica_id: -1, isolation_level: 1, topics: vec![asked], ..Default::default() };
    let answer = line.ask(&request, chance.between(4, 9) as i16).await?;
    let response: ListOffsetsResponse<'_> = answer.message();
    let mut ends = Vec::new();
    for (told, floor) in response.topics[0].partitions.iter().zip(floors) {
        match error(told.error_code) {
            ErrorCode::None => {
                let place = list(topic, told.partition_index);
                shared.transactions.borrow_mut().ends_seen(place, floor, told.offset, told.offset);
                ends.push(told.offset);
            }
            other if may_pass(other) => ends.push(-1),
            other => panic!("ListOffsets answers {other:?}"),
        }
    }
    Ok(ends)
}
