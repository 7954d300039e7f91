//! What tests of transactions share.

use std::collections::{BTreeMap, BTreeSet};

use engine::record::batches;
use engine::record::control::parse_marker;
use engine::shard::message::ReadPart;

/// What Kafka's consumer hands to its user with isolation.level=read_committed, of one answer to a Fetch from
/// `offset` on; gives the offset to go on from.
pub(crate) fn consume_committed(part: &ReadPart, mut offset: i64, values: &mut BTreeMap<i64, String>) -> i64 {
    let mut to_come = part.aborted_transactions.clone();
    to_come.sort_by_key(|(_, first_offset)| std::cmp::Reverse(*first_offset));
    let mut aborted = BTreeSet::new();
    for batch in part.records.iter().flat_map(|bytes| batches(bytes)) {
        let batch = batch.expect("whole batches");
        while to_come.last().is_some_and(|(_, first)| *first <= batch.last_offset()) {
            aborted.extend(to_come.pop().map(|(id, _)| id));
        }
        offset = batch.last_offset() + 1;
        if let Ok(marker) = parse_marker(&batch) {
            if marker.is_some_and(|marker| !marker.committed) {
                aborted.remove(&batch.producer_id());
            }
            continue;
        }
        if batch.attributes().is_transactional() && aborted.contains(&batch.producer_id()) {
            continue;
        }
        let mut records = engine::record::Records::new(batch.records_section(), 1);
        let record = records.next().expect("one record").expect("a whole record");
        let value = String::from_utf8(record.value.expect("a value").to_vec()).expect("text");
        values.insert(batch.base_offset(), value);
    }
    offset
}
