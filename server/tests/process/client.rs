//! A blocking client: Kafka's frames over a socket.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use engine::protocol::messages::create_topics::CreatableTopic;
use engine::protocol::messages::fetch::{FetchPartition, FetchTopic};
use engine::protocol::messages::produce::{PartitionProduceData, TopicProduceData};
use engine::protocol::messages::{
    CreateTopicsRequest, CreateTopicsResponse, FetchRequest, FetchResponse, ProduceRequest, ProduceResponse,
};
use engine::protocol::{Decoder, Message, Records, Request, ResponseHeader, next_frame, request_frame};
use engine::record::{BatchBuilder, Scratch, batches};

/// Long, but shorter than the broker's own patience with a silent peer (60 s): who waits for that to end is held up.
const PATIENCE: Duration = Duration::from_secs(30);

/// The topic of all tests, with one partition.
pub(crate) const TOPIC: &str = "t";
const PRODUCE: i16 = 12;
const FETCH: i16 = 12;
const LARGEST_ANSWER: usize = 64 << 20;

/// A connection to a broker.
pub(crate) struct Client {
    stream: TcpStream,
    arrived: BytesMut,
    sent: i32,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Client> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Client { stream, arrived: BytesMut::new(), sent: 0 })
    }

    /// The bytes of a request, whose correlation id is the next one.
    pub(crate) fn frame<'a, R: Request<'a>>(&mut self, request: &R, version: i16) -> Vec<u8> {
        self.sent += 1;
        request_frame(version, self.sent, Some("test"), request).expect("a right request").concat()
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next answer's frame; `None` if the broker has closed the connection.
    ///
    /// # Errors
    /// If nothing comes for long, which no test expects.
    pub(crate) fn receive(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(frame) = next_frame(&mut self.arrived, LARGEST_ANSWER).expect("a frame of a bearable size") {
                return Ok(Some(frame));
            }
            let mut buffer = [0; 16 << 10];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(read) => self.arrived.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends a request and reads its answer; an error if the connection is lost.
    pub(crate) fn ask<'a, R: Request<'a>, T>(
        &mut self,
        request: &R,
        version: i16,
        read: impl FnOnce(R::Response<'_>) -> T,
    ) -> io::Result<T> {
        let bytes = self.frame(request, version);
        self.send(&bytes)?;
        let frame = self.receive()?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut decoder = Decoder::new(&frame);
        let header = ResponseHeader::decode(&mut decoder, R::API_KEY, version).expect("a header");
        assert_eq!(header.correlation_id, self.sent, "the answer to this request");
        let response = <R::Response<'_> as Message<'_>>::decode(&mut decoder, version).expect("an answer");
        decoder.finish().expect("nothing follows the answer");
        Ok(read(response))
    }

    pub(crate) fn create_topic(&mut self) -> io::Result<i16> {
        let topic =
            CreatableTopic { name: TOPIC.into(), num_partitions: 1, replication_factor: 1, ..Default::default() };
        let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, validate_only: false };
        self.ask(&request, 7, |response: CreateTopicsResponse<'_>| response.topics[0].error_code)
    }

    /// Produces one record with acks=all; gives the error code and the offset.
    pub(crate) fn produce(&mut self, value: &[u8]) -> io::Result<(i16, i64)> {
        let mut batch = BatchBuilder::new();
        batch.append(-1, None, Some(value), &[]);
        self.produce_batch(batch.finish())
    }

    pub(crate) fn produce_batch(&mut self, batch: Vec<u8>) -> io::Result<(i16, i64)> {
        self.ask(&produce_request(batch), PRODUCE, |response: ProduceResponse<'_>| {
            let partition = &response.responses[0].partition_responses[0];
            (partition.error_code, partition.base_offset)
        })
    }

    /// The values of all records, in order from offset 0.
    pub(crate) fn consume(&mut self) -> io::Result<Vec<Vec<u8>>> {
        let mut values = Vec::new();
        loop {
            let partition = FetchPartition {
                partition: 0,
                fetch_offset: values.len() as i64,
                partition_max_bytes: 1 << 20,
                ..Default::default()
            };
            let topic = FetchTopic { topic: TOPIC.into(), partitions: vec![partition], ..Default::default() };
            let request = FetchRequest { min_bytes: 0, max_bytes: 8 << 20, topics: vec![topic], ..Default::default() };
            let before = values.len();
            self.ask(&request, FETCH, |response: FetchResponse<'_>| {
                let partition = &response.responses[0].partitions[0];
                assert_eq!((response.error_code, partition.error_code), (0, 0));
                let records = partition.records.as_ref().expect("records");
                read_values(&records.slices().flatten().copied().collect::<Vec<u8>>(), &mut values);
            })?;
            if values.len() == before {
                return Ok(values);
            }
        }
    }
}

pub(crate) fn produce_request(batch: Vec<u8>) -> ProduceRequest<'static> {
    let records = Some(Records::Chunks(vec![batch.into()]));
    let data = PartitionProduceData { index: 0, records };
    let topic = TopicProduceData { name: TOPIC.into(), partition_data: vec![data], ..Default::default() };
    ProduceRequest { acks: -1, timeout_ms: 30_000, topic_data: vec![topic], ..Default::default() }
}

/// Adds the values behind those already there.
fn read_values(bytes: &[u8], values: &mut Vec<Vec<u8>>) {
    let mut scratch = Scratch::new();
    for batch in batches(bytes) {
        let batch = batch.expect("whole batches");
        let mut buffer = Vec::new();
        let records = batch.records(&mut scratch, &mut buffer, 1 << 24).expect("records that decompress");
        for record in records {
            let record = record.expect("a well-formed record");
            let offset = batch.base_offset() + i64::from(record.offset_delta);
            if offset >= values.len() as i64 {
                assert_eq!(offset, values.len() as i64, "offsets without a gap");
                values.push(record.value.expect("a value").to_vec());
            }
        }
    }
}
