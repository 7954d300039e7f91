//! One connection that consumes: it reads its partitions from their positions on, and verifies every record.
//!
//! Invariant: offsets are read one after another without a gap, and of each producer each record once, in the
//! order of its sequence. The next Fetch is under way while the records of the last are being verified.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use engine::io::{Instant, Io};
use engine::protocol::messages::fetch::{FetchPartition, FetchRequest, FetchResponse, FetchTopic};
use engine::protocol::{ApiKey, Records, request_frame};
use engine::record::{BatchError, BatchView, Scratch, batches};

use crate::client::{CLIENT_ID, Connection, EARLIEST, LATEST, Lane, Topic, decode, error_name};
use crate::config::{ConsumeArgs, From};
use crate::payload::{self, Stamped, Unverifiable};
use crate::run::{Run, Sample};

/// The most that a batch may hold when decompressed.
const MAX_PLAIN_BYTES: usize = 256 << 20;
/// Producers that are remembered in one partition.
const MAX_PRODUCERS: usize = 1 << 16;

/// What a connection is told.
pub(crate) struct Job {
    pub(crate) run: Arc<Run>,
    pub(crate) args: Arc<ConsumeArgs>,
    pub(crate) topic: Arc<Topic>,
    pub(crate) lane: Lane,
    /// The connection's number.
    pub(crate) index: usize,
}

/// How a record breaks its producer's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OutOfOrder {
    /// Records between are missing.
    Gap { expected: u64 },
    /// It was there before, or should have been.
    Duplicate { expected: u64 },
}

/// The order of one partition's records.
#[derive(Debug, Default)]
struct Sequences {
    /// The next sequence of each producer.
    next: BTreeMap<u64, u64>,
    /// Whether everything from offset 0 on is read, so that every producer begins with its first record.
    complete: bool,
}

impl Sequences {
    fn check(&mut self, stamped: &Stamped) -> Result<(), OutOfOrder> {
        let first = if self.complete { 0 } else { stamped.sequence };
        let next = self.next.entry(stamped.producer).or_insert(first);
        let expected = *next;
        if stamped.sequence < expected {
            return Err(OutOfOrder::Duplicate { expected });
        }
        *next = stamped.sequence + 1;
        match stamped.sequence == expected {
            true => Ok(()),
            false => Err(OutOfOrder::Gap { expected }),
        }
    }
}

/// A partition of the lane.
struct Partition {
    index: i32,
    /// The offset to fetch next.
    position: i64,
    /// Where to stop.
    end: i64,
    sequences: Sequences,
}

/// What an answer holds of one partition, still to be verified.
struct Fetched<'a> {
    place: usize,
    /// The offset that was fetched; what lies before it in its batch was not asked for.
    from: i64,
    records: &'a [u8],
}

struct Consumer {
    io: Io,
    job: Job,
    connection: Connection,
    version: i16,
    partitions: Vec<Partition>,
    /// Requests sent.
    fetches: usize,
    scratch: Scratch,
    plain: Vec<u8>,
}

/// Runs one connection from its start to its end.
pub(crate) async fn consume(io: Io, job: Job) {
    let (run, index) = (job.run.clone(), job.index);
    if let Err(error) = Consumer::connect_and_run(io, job).await {
        run.fail(|| format!("connection {index}: {error:#}"));
        run.stop();
    }
    run.lane_done(index);
}

impl Consumer {
    async fn connect_and_run(io: Io, job: Job) -> Result<()> {
        let mut connection = Connection::open(&io, job.lane.address).await?;
        let version = connection.versions.highest(ApiKey::Fetch)?;
        let partitions = find_partitions(&mut connection, &job).await?;
        let (scratch, plain) = (Scratch::new(), Vec::new());
        let mut consumer = Consumer { io, job, connection, version, partitions, fetches: 0, scratch, plain };
        let Some(start) = consumer.job.run.start(&consumer.io).await else { return Ok(()) };
        let end = consumer.job.run.end(start);
        let result = consumer.consume_until(end, start).await;
        consumer.connection.stream.shutdown();
        result
    }

    async fn consume_until(&mut self, end: Instant, start: Instant) -> Result<()> {
        if self.at_end() {
            return Ok(());
        }
        self.fetch().await?;
        loop {
            let frame = self.connection.reader.next().await?.context("the broker closed the connection")?;
            let now = self.io.now();
            let (correlation_id, answer) = decode::<FetchRequest<'static>>(&frame, self.version)?;
            ensure!(correlation_id == self.fetches as i32, "answer {correlation_id} where {} is next", self.fetches);
            let fetched = self.take_positions(&answer)?;
            let last = self.at_end() || now >= end || self.job.run.is_over();
            if !last {
                self.fetch().await?;
            }
            let more = self.verify_all(&fetched, now, start);
            if last || !more {
                return Ok(());
            }
        }
    }

    fn at_end(&self) -> bool {
        self.partitions.iter().all(|partition| partition.position >= partition.end)
    }

    /// Asks for what follows the positions; the partition that comes first takes turns, because a full
    /// answer leaves out the last.
    async fn fetch(&mut self) -> Result<()> {
        self.fetches += 1;
        let args = &self.job.args;
        let (before, after) = self.partitions.split_at(self.fetches % self.partitions.len());
        let wanted = after.iter().chain(before).filter(|partition| partition.position < partition.end);
        let of = |partition: &Partition| FetchPartition {
            partition: partition.index,
            fetch_offset: partition.position,
            partition_max_bytes: args.partition_max_bytes,
            ..Default::default()
        };
        let topic = &self.job.topic;
        let topic =
            FetchTopic { topic: topic.name.as_str().into(), topic_id: topic.id, partitions: wanted.map(of).collect() };
        let request = FetchRequest {
            max_wait_ms: args.max_wait_ms,
            min_bytes: args.min_bytes,
            max_bytes: args.max_bytes,
            topics: vec![topic],
            ..Default::default()
        };
        let chunks = request_frame(self.version, self.fetches as i32, Some(CLIENT_ID), &request)?;
        self.connection.stream.write(chunks).await.context("writing to the broker")
    }

    /// Moves the positions behind the batches of an answer, by their headers alone.
    fn take_positions<'a>(&mut self, answer: &'a FetchResponse<'_>) -> Result<Vec<Fetched<'a>>> {
        ensure!(answer.error_code == 0, "Fetch: {}", error_name(answer.error_code));
        let mut fetched = Vec::new();
        for answered in answer.responses.iter().flat_map(|topic| &topic.partitions) {
            let index = answered.partition_index;
            ensure!(answered.error_code == 0, "Fetch of partition {index}: {}", error_name(answered.error_code));
            let place = self.partitions.iter().position(|partition| partition.index == index);
            let place = place.with_context(|| format!("an answer for partition {index}"))?;
            let Some(Records::Borrowed(records)) = &answered.records else { continue };
            let partition = &mut self.partitions[place];
            let from = partition.position;
            partition.position = position_after(records, from).with_context(|| format!("partition {index}"))?;
            fetched.push(Fetched { place, from, records });
        }
        Ok(fetched)
    }

    /// Verifies the records of an answer; false when the run has as many as it wanted.
    fn verify_all(&mut self, fetched: &[Fetched<'_>], now: Instant, start: Instant) -> bool {
        let (mut records, mut bytes) = (0, 0);
        for part in fetched {
            for batch in batches(part.records).map_while(Result::ok) {
                match self.verify(part, &batch, now, start) {
                    Ok((n, size)) => {
                        records += n;
                        bytes += size;
                    }
                    Err(error) => {
                        let index = self.partitions[part.place].index;
                        self.job.run.fail(|| format!("partition {index}, batch at {}: {error:#}", batch.base_offset()));
                    }
                }
            }
        }
        let all = self.job.run.answered(self.io.core(), now, records, bytes, None);
        let enough = self.job.args.common.records.is_some_and(|wanted| all >= wanted);
        if enough {
            self.job.run.stop();
        }
        !enough
    }

    /// Verifies one batch. Gives its records and the bytes of their values.
    fn verify(
        &mut self,
        part: &Fetched<'_>,
        batch: &BatchView<'_>,
        now: Instant,
        start: Instant,
    ) -> Result<(u64, u64)> {
        if batch.attributes().is_control() {
            return Ok((0, 0));
        }
        ensure!(batch.crc_ok(), "the batch's CRC is wrong");
        let partition = &mut self.partitions[part.place];
        let (mut count, mut bytes) = (0, 0);
        let mut last_due = None;
        for record in batch.records(&mut self.scratch, &mut self.plain, MAX_PLAIN_BYTES)? {
            let record = record?;
            let offset = batch.base_offset() + i64::from(record.offset_delta);
            if offset < part.from {
                continue;
            }
            let value = record.value.unwrap_or_default();
            count += 1;
            bytes += value.len() as u64;
            let stamped = match payload::read(value) {
                Ok(stamped) => stamped,
                Err(Unverifiable::Foreign) => bail!("offset {offset} is not a record of loadgen's"),
                Err(Unverifiable::Corrupt) => bail!("offset {offset} is corrupt"),
            };
            ensure!(partition.sequences.next.len() < MAX_PRODUCERS, "more than {MAX_PRODUCERS} producers");
            if let Err(wrong) = partition.sequences.check(&stamped) {
                self.job.run.fail(|| describe(partition.index, offset, &stamped, wrong));
            }
            // The records of a request are due together and are one sample. What was written before this run
            // says nothing about the way from producer to consumer.
            if last_due.replace(stamped.due_ns) != Some(stamped.due_ns) && stamped.due_ns >= start.0 {
                let latency_ns = now.0.saturating_sub(stamped.due_ns);
                self.job.run.sample(self.io.core(), Sample { due_ns: stamped.due_ns, latency_ns });
            }
        }
        Ok((count, bytes))
    }
}

fn describe(partition: i32, offset: i64, stamped: &Stamped, wrong: OutOfOrder) -> String {
    let Stamped { producer, sequence, .. } = stamped;
    let (what, expected) = match wrong {
        OutOfOrder::Gap { expected } => (format!("{} records are missing before", sequence - expected), expected),
        OutOfOrder::Duplicate { expected } => ("duplicate or out of order".into(), expected),
    };
    format!(
        "partition {partition}, offset {offset}: {what} sequence {sequence} of producer {producer:x}, expected {expected}"
    )
}

/// Where the partitions of a lane start and end.
async fn find_partitions(connection: &mut Connection, job: &Job) -> Result<Vec<Partition>> {
    let indexes = &job.lane.partitions;
    let latest = connection.list_offsets(&job.topic.name, indexes, LATEST).await?;
    let starts = match job.args.from {
        From::Latest => latest.clone(),
        From::Earliest => connection.list_offsets(&job.topic.name, indexes, EARLIEST).await?,
    };
    let partition = |((&index, position), latest): ((&i32, i64), i64)| Partition {
        index,
        position,
        end: if job.args.until_end { latest } else { i64::MAX },
        sequences: Sequences { complete: job.args.from == From::Earliest && position == 0, ..Sequences::default() },
    };
    Ok(indexes.iter().zip(starts).zip(latest).map(partition).collect())
}

/// The position after the whole batches in `records`, the first of which holds `position`.
///
/// # Errors
/// If offsets are missing or repeated, or there is something but no whole batch.
fn position_after(records: &[u8], mut position: i64) -> Result<i64> {
    let before = position;
    for (whole, batch) in batches(records).enumerate() {
        let batch = match batch {
            Ok(batch) => batch,
            // An answer may end inside a batch.
            Err(BatchError::Truncated { need, .. }) if whole == 0 => {
                bail!("no whole batch: --partition-max-bytes {need} or more")
            }
            Err(BatchError::Truncated { .. }) => break,
            Err(error) => return Err(error.into()),
        };
        let (first, last) = (batch.base_offset(), batch.last_offset());
        let follows = if position == before { first <= position && last >= position } else { first == position };
        ensure!(follows, "a batch of offsets {first} to {last} where {position} is next");
        position = last + 1;
    }
    Ok(position)
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::record::BatchBuilder;

    fn stamped(producer: u64, sequence: u64) -> Stamped {
        Stamped { producer, sequence, due_ns: 0 }
    }

    #[test]
    fn gaps_and_duplicates_are_told_of_each_producer() {
        let mut sequences = Sequences { complete: true, ..Sequences::default() };
        assert_eq!(sequences.check(&stamped(1, 0)), Ok(()));
        assert_eq!(sequences.check(&stamped(2, 0)), Ok(()));
        assert_eq!(sequences.check(&stamped(1, 1)), Ok(()));
        assert_eq!(sequences.check(&stamped(1, 3)), Err(OutOfOrder::Gap { expected: 2 }));
        assert_eq!(sequences.check(&stamped(1, 4)), Ok(()), "a gap is told once");
        assert_eq!(sequences.check(&stamped(1, 4)), Err(OutOfOrder::Duplicate { expected: 5 }));
        assert_eq!(sequences.check(&stamped(1, 2)), Err(OutOfOrder::Duplicate { expected: 5 }));
        assert_eq!(sequences.check(&stamped(3, 1)), Err(OutOfOrder::Gap { expected: 0 }), "its first is missing");
    }

    #[test]
    fn a_reader_that_comes_later_takes_any_first_record() {
        let mut sequences = Sequences::default();
        assert_eq!(sequences.check(&stamped(1, 70)), Ok(()));
        assert_eq!(sequences.check(&stamped(1, 72)), Err(OutOfOrder::Gap { expected: 71 }));
    }

    fn batch(base_offset: i64, records: usize) -> Vec<u8> {
        let mut builder = BatchBuilder::new().base_offset(base_offset);
        for _ in 0..records {
            builder.append(0, None, Some(b"value"), &[]);
        }
        builder.finish()
    }

    #[test]
    fn positions_follow_whole_batches_without_a_gap() {
        let answer = [batch(10, 5), batch(15, 2), batch(17, 9)].concat();
        assert_eq!(position_after(&answer, 10).unwrap(), 26);
        assert_eq!(position_after(&answer, 12).unwrap(), 26, "from inside a batch");
        assert_eq!(position_after(&answer[..answer.len() - 1], 10).unwrap(), 17, "a part at the end waits");
        assert_eq!(position_after(&[], 10).unwrap(), 10);
        for (first, second) in [(9, 16), (9, 13)] {
            let wrong = [batch(first, 5), batch(second, 2)].concat();
            assert!(position_after(&wrong, 10).is_err(), "{second} does not follow {first} to {}", first + 4);
        }
        assert!(position_after(&batch(11, 5), 10).is_err(), "begins too late");
        assert!(position_after(&batch(3, 5), 10).is_err(), "ends too early");
        assert!(position_after(&batch(10, 5)[..70], 10).is_err(), "no whole batch");
    }
}
