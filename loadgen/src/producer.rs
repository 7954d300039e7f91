//! One connection that produces: it sends what is due, and verifies every acknowledgement.
//!
//! Invariant: a request's latency counts from when it was due, however late it was sent. Answers come in the
//! order of the requests; a partition that this connection alone writes to gets offsets without a gap.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use engine::io::local::Bell;
use engine::io::{Class, Instant, Io, Stream};
use engine::protocol::messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use engine::protocol::{ApiKey, request_frame};

use crate::client::{CLIENT_ID, Connection, FrameReader, Lane, Topic, decode, error_name};
use crate::config::{Acks, ProduceArgs};
use crate::payload::{Stamp, Template};
use crate::run::{Run, Sample};
use crate::schedule::{Random, Schedule};

/// Requests that are due together go to the kernel together, up to so many parts or bytes.
const WRITE_CHUNKS: usize = 60;
const WRITE_BYTES: usize = 256 << 10;
/// The longest sleep, so that the end of the run is seen.
const LONGEST_SLEEP: Duration = Duration::from_millis(100);
const LOOK_FOR_TIMEOUT_EVERY: Duration = Duration::from_millis(250);
/// What the broker may take for a request.
const REQUEST_TIMEOUT_MS: i32 = 30_000;

/// What a connection is told.
pub(crate) struct Job {
    pub(crate) run: Arc<Run>,
    pub(crate) args: Arc<ProduceArgs>,
    pub(crate) topic: Arc<Topic>,
    pub(crate) lane: Lane,
    /// The connection's number, and how many there are.
    pub(crate) index: usize,
    pub(crate) lanes: usize,
}

impl Job {
    /// Requests that this connection sends at most.
    fn quota(&self) -> u64 {
        let Some(records) = self.args.common.records else { return u64::MAX };
        let requests = records.div_ceil(self.args.records_in_request() as u64);
        let (lanes, index) = (self.lanes as u64, self.index as u64);
        requests / lanes + u64::from(index < requests % lanes)
    }
}

/// A request on its way.
struct Sent {
    correlation_id: i32,
    due_ns: u64,
    sent_ns: u64,
    /// The partitions in it, by their place in the lane, with the batches to be used again.
    parts: Vec<(usize, Template)>,
}

/// A partition of the lane.
struct Partition {
    index: i32,
    /// Sequence of the next record, from 0.
    sequence: u64,
    /// Offset that the next batch should get, after the first.
    next_offset: Option<i64>,
}

struct State {
    in_flight: VecDeque<Sent>,
    free: Vec<Template>,
    partitions: Vec<Partition>,
    /// The connection is gone or of no more use.
    closed: bool,
}

struct Producer {
    io: Io,
    job: Job,
    stream: Stream,
    version: i16,
    /// Who writes, in the records.
    producer: u64,
    /// Producer id and epoch, if idempotent.
    idempotent: Option<(i64, i16)>,
    prototype: Template,
    state: RefCell<State>,
    bell: Bell,
}

/// Runs one connection from its start to its end.
pub(crate) async fn produce(io: Io, job: Job) {
    let (run, index) = (job.run.clone(), job.index);
    if let Err(error) = Producer::connect_and_run(io, job).await {
        run.fail(|| format!("connection {index}: {error:#}"));
        run.stop();
    }
    run.lane_done(index);
}

impl Producer {
    async fn connect_and_run(io: Io, job: Job) -> Result<()> {
        let (led, asked) = (job.lane.partitions.len(), job.args.partitions_per_request);
        ensure!(led >= asked, "has {led} partitions where a request takes {asked}: use fewer --connections");
        let mut connection = Connection::open(&io, job.lane.address).await?;
        let version = connection.versions.highest(ApiKey::Produce)?;
        let idempotent = match job.args.idempotent {
            true => Some(connection.init_producer_id(&io).await?),
            false => None,
        };
        let producer = Rc::new(Producer::new(io, job, connection.stream, version, idempotent));
        let Some(start) = producer.job.run.start(&producer.io).await else { return Ok(()) };
        producer.clone().spawn_reader(connection.reader);
        producer.clone().spawn_watchdog();
        let sent = producer.send_until(producer.job.run.end(start), start).await;
        if sent.is_ok() {
            producer.bell.until(|| producer.state(|s| (s.closed || s.in_flight.is_empty()).then_some(()))).await;
        }
        producer.state(|s| s.closed = true);
        producer.stream.shutdown();
        sent
    }

    fn new(io: Io, job: Job, stream: Stream, version: i16, idempotent: Option<(i64, i16)>) -> Producer {
        let args = &job.args;
        let mut random = Random::new(args.common.seed, (1 << 32) + job.index as u64);
        let prototype =
            Template::new(args.records_per_batch(), args.record_bytes, args.payload, args.compression, &mut random);
        let partition = |&index: &i32| Partition { index, sequence: 0, next_offset: None };
        let state = State {
            in_flight: VecDeque::new(),
            free: Vec::new(),
            partitions: job.lane.partitions.iter().map(partition).collect(),
            closed: false,
        };
        // Not from the seed: runs with the same seed may write to the same topic.
        let producer = io.random_u64();
        let (state, bell) = (RefCell::new(state), Bell::default());
        Producer { io, job, stream, version, producer, idempotent, prototype, state, bell }
    }

    fn state<T>(&self, of: impl FnOnce(&mut State) -> T) -> T {
        of(&mut self.state.borrow_mut())
    }

    fn schedule(&self, start: Instant) -> Option<Schedule> {
        let args = &self.job.args;
        let requests_per_s = args.rate? / args.records_in_request() as f64 / self.job.lanes as f64;
        let lane = (self.job.index, self.job.lanes);
        Some(Schedule::new(args.arrival, requests_per_s, args.burst, start.0, lane, args.common.seed))
    }

    async fn send_until(&self, end: Instant, start: Instant) -> Result<()> {
        let mut schedule = self.schedule(start);
        let mut left = self.job.quota();
        let mut outgoing = Outgoing::default();
        let mut next_partition = 0;
        let mut correlation_id = 1000;
        while left > 0 && !self.job.run.is_over() {
            let now = self.io.now();
            let due = schedule.as_ref().map_or(now, |schedule| Instant(schedule.due()));
            if due >= end {
                break;
            }
            let (in_flight, closed) = self.state(|s| (s.in_flight.len(), s.closed));
            if closed {
                break;
            }
            self.job.run.plan(self.job.index, schedule.as_ref().map(|_| due.0));
            let room = in_flight < self.job.args.in_flight;
            if !room || due > now {
                self.wait(&mut outgoing, room.then_some(due)).await?;
                continue;
            }
            correlation_id += 1;
            self.prepare(correlation_id, due, now, &mut next_partition, &mut outgoing)?;
            left -= 1;
            if let Some(schedule) = &mut schedule {
                schedule.advance();
            }
            if outgoing.is_full() {
                self.flush(&mut outgoing).await?;
            }
        }
        self.flush(&mut outgoing).await
    }

    /// Sends what is prepared; if nothing is, waits for the due time, or without one for room.
    async fn wait(&self, outgoing: &mut Outgoing, due: Option<Instant>) -> Result<()> {
        if !outgoing.chunks.is_empty() {
            return self.flush(outgoing).await;
        }
        match due {
            Some(due) => self.io.sleep_until(due.min(self.io.now() + LONGEST_SLEEP)).await,
            None => {
                let limit = self.job.args.in_flight;
                let room = || self.state(|s| (s.closed || s.in_flight.len() < limit).then_some(()));
                self.bell.until(room).await;
            }
        }
        Ok(())
    }

    /// Stamps the batches of one request and encodes it.
    fn prepare(
        &self,
        correlation_id: i32,
        due: Instant,
        now: Instant,
        next: &mut usize,
        outgoing: &mut Outgoing,
    ) -> Result<()> {
        let args = &self.job.args;
        let wall_clock_ms = self.io.wall_clock_ms();
        let mut parts = Vec::with_capacity(args.partitions_per_request);
        let mut partition_data = Vec::with_capacity(args.partitions_per_request);
        self.state(|state| {
            for _ in 0..args.partitions_per_request {
                let place = *next;
                *next = (place + 1) % state.partitions.len();
                let mut template = state.free.pop().unwrap_or_else(|| self.prototype.copy());
                let partition = &mut state.partitions[place];
                let sequence = partition.sequence;
                let base_sequence = (sequence & i32::MAX as u64) as i32;
                let batch = template.stamp(&Stamp {
                    producer: self.producer,
                    sequence,
                    due_ns: due.0,
                    wall_clock_ms,
                    idempotent: self.idempotent.map(|(id, epoch)| (id, epoch, base_sequence)),
                });
                partition.sequence += args.records_per_batch() as u64;
                partition_data.push(PartitionProduceData { index: partition.index, records: Some(batch.into()) });
                parts.push((place, template));
            }
            state.in_flight.push_back(Sent { correlation_id, due_ns: due.0, sent_ns: now.0, parts });
            self.job.run.in_flight(self.job.index, state.in_flight.len());
        });
        let topic = &self.job.topic;
        let topic_data =
            vec![TopicProduceData { name: topic.name.as_str().into(), topic_id: topic.id, partition_data }];
        let request =
            ProduceRequest { acks: args.acks.0, timeout_ms: REQUEST_TIMEOUT_MS, topic_data, ..Default::default() };
        outgoing.extend(request_frame(self.version, correlation_id, Some(CLIENT_ID), &request)?);
        Ok(())
    }

    async fn flush(&self, outgoing: &mut Outgoing) -> Result<()> {
        let chunks = outgoing.take();
        if chunks.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.stream.write(chunks).await {
            // Whoever closed the connection has said why.
            return if self.state(|s| s.closed) { Ok(()) } else { Err(error).context("writing to the broker") };
        }
        if self.job.args.acks == Acks(0) {
            while let Some(sent) = self.state(|s| s.in_flight.pop_front()) {
                self.complete(sent);
            }
        }
        Ok(())
    }

    fn spawn_reader(self: Rc<Self>, mut reader: FrameReader) {
        let io = self.io.clone();
        io.spawn(Class::Foreground, async move {
            if let Err(error) = self.read(&mut reader).await {
                self.give_up(&format!("{error:#}"));
            }
        });
    }

    async fn read(&self, reader: &mut FrameReader) -> Result<()> {
        loop {
            let frame = reader.next().await;
            if self.state(|s| s.closed) {
                return Ok(());
            }
            let Some(frame) = frame? else { bail!("the broker closed the connection") };
            self.acknowledge(&frame)?;
            self.bell.ring();
        }
    }

    fn acknowledge(&self, frame: &Bytes) -> Result<()> {
        let (correlation_id, answer) = decode::<ProduceRequest<'static>>(frame, self.version)?;
        let sent = self.state(|s| s.in_flight.pop_front()).context("an answer without a request")?;
        ensure!(correlation_id == sent.correlation_id, "answer {correlation_id} where {} is next", sent.correlation_id);
        let mut answered = 0;
        for partition in answer.responses.iter().flat_map(|topic| &topic.partition_responses) {
            let place = self.place_in(&sent, partition.index).context("an answer for another partition")?;
            if partition.error_code != 0 {
                let message = partition.error_message.as_deref().unwrap_or_default();
                bail!("partition {}: {} {message}", partition.index, error_name(partition.error_code));
            }
            self.check_offset(place, partition.base_offset)?;
            answered += 1;
        }
        ensure!(answered == sent.parts.len(), "{answered} of {} partitions were answered for", sent.parts.len());
        self.complete(sent);
        Ok(())
    }

    fn place_in(&self, sent: &Sent, index: i32) -> Option<usize> {
        let state = self.state.borrow();
        sent.parts.iter().map(|(place, _)| *place).find(|place| state.partitions[*place].index == index)
    }

    fn check_offset(&self, place: usize, base_offset: i64) -> Result<()> {
        let alone = !self.job.lane.shared && !self.job.args.shared;
        self.state(|state| state.partitions[place].check_offset(base_offset, alone, self.job.args.records_per_batch()))
    }

    /// Counts a request that is done with.
    fn complete(&self, sent: Sent) {
        let now = self.io.now();
        let records = self.job.args.records_in_request() as u64;
        let sample = Sample { due_ns: sent.due_ns, latency_ns: now.0.saturating_sub(sent.due_ns) };
        self.job.run.answered(self.io.core(), now, records, records * self.job.args.record_bytes as u64, Some(sample));
        self.state(|state| {
            state.free.extend(sent.parts.into_iter().map(|(_, template)| template));
            self.job.run.in_flight(self.job.index, state.in_flight.len());
        });
    }

    /// Ends the run: this connection cannot go on.
    fn give_up(&self, reason: &str) {
        self.job.run.fail(|| format!("connection {}: {reason}", self.job.index));
        self.job.run.stop();
        self.state(|s| s.closed = true);
        self.stream.shutdown();
        self.bell.ring();
    }

    /// Gives up on a broker that does not answer.
    fn spawn_watchdog(self: Rc<Self>) {
        let io = self.io.clone();
        io.spawn(Class::Foreground, async move {
            let patience = Duration::from_secs_f64(self.job.args.ack_timeout);
            loop {
                self.io.sleep(LOOK_FOR_TIMEOUT_EVERY).await;
                let (closed, oldest) = self.state(|s| (s.closed, s.in_flight.front().map(|sent| sent.sent_ns)));
                if closed {
                    return;
                }
                if oldest.is_some_and(|sent_ns| Instant(sent_ns) + patience < self.io.now()) {
                    return self.give_up(&format!("no acknowledgement within {} s", patience.as_secs_f64()));
                }
            }
        });
    }
}

impl Partition {
    /// Holds an acknowledged base offset against the one before. If this connection is `alone` on the
    /// partition it follows at once.
    fn check_offset(&mut self, base_offset: i64, alone: bool, records: usize) -> Result<()> {
        let index = self.index;
        ensure!(base_offset >= 0, "partition {index}: acknowledged at offset {base_offset}");
        if let Some(expected) = self.next_offset {
            ensure!(
                base_offset >= expected,
                "partition {index}: offset {base_offset} was acknowledged before, {expected} is next"
            );
            ensure!(
                !alone || base_offset == expected,
                "partition {index}: acknowledged at offset {base_offset}, {expected} is next (--shared if others write too)"
            );
        }
        self.next_offset = Some(base_offset + records as i64);
        Ok(())
    }
}

/// What goes to the kernel next.
#[derive(Default)]
struct Outgoing {
    chunks: Vec<Bytes>,
    bytes: usize,
}

impl Outgoing {
    fn extend(&mut self, frame: Vec<Bytes>) {
        self.bytes += frame.iter().map(Bytes::len).sum::<usize>();
        self.chunks.extend(frame);
    }

    fn is_full(&self) -> bool {
        self.chunks.len() >= WRITE_CHUNKS || self.bytes >= WRITE_BYTES
    }

    fn take(&mut self) -> Vec<Bytes> {
        self.bytes = 0;
        std::mem::take(&mut self.chunks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledged_offsets_have_neither_gap_nor_repetition() {
        let partition = || Partition { index: 0, sequence: 0, next_offset: None };
        let mut alone = partition();
        assert!(alone.check_offset(100, true, 10).is_ok(), "the first may be anywhere");
        assert!(alone.check_offset(110, true, 10).is_ok());
        assert!(alone.check_offset(121, true, 10).is_err(), "a gap");
        assert!(alone.check_offset(110, true, 10).is_err(), "the same again");
        let mut shared = partition();
        assert!(shared.check_offset(0, false, 10).is_ok());
        assert!(shared.check_offset(50, false, 10).is_ok());
        assert!(shared.check_offset(59, false, 10).is_err(), "inside the batch before");
        assert!(partition().check_offset(-1, false, 1).is_err());
    }
}
