//! A client's end of a connection: Kafka's frames over the simulated network, with patience that ends.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use engine::io::{Io, Stream};
use engine::protocol::{ApiKey, Decoder, Message, Request, ResponseHeader, next_frame, request_frame};
use futures_lite::future;

/// Longer than any request's own timeout: a broker that says nothing for so long has forgotten it.
const PATIENCE: Duration = Duration::from_secs(20);

/// The connection is lost, or nothing came for too long: what was asked may have happened or not.
#[derive(Debug)]
pub(crate) struct Lost;

/// A connection. After a [`Lost`] it is of no more use.
pub(crate) struct Connection {
    io: Io,
    stream: Stream,
    arrived: BytesMut,
    sent: i32,
    answered: i32,
    /// How many crashes there had been when it was opened: what it brings was said before the next one.
    pub(crate) crashes: u64,
}

/// An answer's frame, from which its message is read.
pub(crate) struct Answer {
    frame: Bytes,
    body: usize,
    version: i16,
}

impl Answer {
    /// The message. A frame that does not hold it, and nothing else, is a broken broker.
    pub(crate) fn message<'a, M: Message<'a>>(&'a self) -> M {
        let mut decoder = Decoder::new(&self.frame[self.body..]);
        let message = M::decode(&mut decoder, self.version).expect("an answer that can be read");
        decoder.finish().expect("nothing follows the answer");
        message
    }
}

impl Connection {
    pub(crate) async fn open(io: &Io, address: SocketAddr, crashes: u64) -> Result<Connection, Lost> {
        let stream = io.connect(address).await.map_err(|_| Lost)?;
        Ok(Connection { io: io.clone(), stream, arrived: BytesMut::new(), sent: 0, answered: 0, crashes })
    }

    /// Sends a request without waiting for its answer.
    pub(crate) async fn send<'a, R: Request<'a>>(&mut self, request: &R, version: i16) -> Result<(), Lost> {
        self.sent += 1;
        let chunks =
            request_frame(version, self.sent, Some("simulation"), request).expect("a request that can be written");
        let write = async { self.stream.write(chunks).await.map_err(|_| Lost) };
        let late = async {
            self.io.sleep(PATIENCE).await;
            Err(Lost)
        };
        future::or(write, late).await
    }

    /// The next answer, which must be that of the oldest request that has none.
    pub(crate) async fn receive(&mut self, api_key: ApiKey, version: i16) -> Result<Answer, Lost> {
        let frame = self.frame().await?;
        let mut decoder = Decoder::new(&frame);
        let header = ResponseHeader::decode(&mut decoder, api_key, version).expect("a response header");
        self.answered += 1;
        assert_eq!(header.correlation_id, self.answered, "answers come in the order of their requests");
        let body = frame.len() - decoder.remaining().len();
        Ok(Answer { frame, body, version })
    }

    pub(crate) async fn ask<'a, R: Request<'a>>(&mut self, request: &R, version: i16) -> Result<Answer, Lost> {
        self.send(request, version).await?;
        self.receive(R::API_KEY, version).await
    }

    async fn frame(&mut self) -> Result<Bytes, Lost> {
        let deadline = self.io.now() + PATIENCE;
        loop {
            if let Some(frame) = next_frame(&mut self.arrived, 64 << 20).expect("a frame of a bearable size") {
                return Ok(frame);
            }
            let mut buffer = std::mem::take(&mut self.arrived);
            buffer.reserve(16 << 10);
            let read = async { Some(self.stream.read(buffer).await) };
            let late = async {
                self.io.sleep_until(deadline).await;
                None
            };
            let (result, buffer) = future::or(read, late).await.ok_or(Lost)?;
            self.arrived = buffer;
            if result.map_err(|_| Lost)? == 0 {
                return Err(Lost);
            }
        }
    }
}
