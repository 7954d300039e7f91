//! A broker in simulation, and clients that ask it one request at a time or send several before they listen.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use corelog::broker::{self, BrokerConfig, Shared};
use engine::controller::Settings;
use engine::io::sim::{CrashKind, Faults, NodeId, World};
use engine::io::{Io, Stream};
use engine::protocol::{Decoder, Encoder, Message, Request, RequestHeader, ResponseHeader, next_frame};
use engine::shard::{NodeConfig, node_mailboxes};

pub(crate) const PORT: u16 = 9092;
const SHARDS: usize = 2;

/// A broker that runs, and a machine for its clients.
pub(crate) struct Bench {
    world: World,
    broker: NodeId,
    clients: NodeId,
    address: SocketAddr,
    configs: BTreeMap<String, String>,
    memory_bytes: u64,
}

impl Bench {
    /// A broker with these settings, under Kafka's names.
    pub(crate) fn new(seed: u64, configs: &[(&str, &str)]) -> Bench {
        Bench::with_memory(seed, 256 << 20, configs)
    }

    /// The same with so much memory.
    pub(crate) fn with_memory(seed: u64, memory_bytes: u64, configs: &[(&str, &str)]) -> Bench {
        let world = World::new(seed, Faults::none());
        let (broker, clients) = (world.add_node(), world.add_node());
        let address = SocketAddr::new(world.address(broker), PORT);
        let configs = configs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let bench = Bench { world, broker, clients, address, configs, memory_bytes };
        bench.start();
        bench
    }

    fn start(&self) {
        let node = NodeConfig {
            data_dir: "/data".into(),
            node_id: 1,
            shards: SHARDS,
            journal_bytes: 256 << 20,
            memory_bytes: self.memory_bytes,
            settings: Settings::new(1, self.configs.clone()).expect("valid settings"),
            accept_loss: false,
            past_journal_bytes: None,
            snapshot_after_bytes: None,
            descriptors: None,
        };
        let mut mailboxes: Vec<_> = node_mailboxes(&node).into_iter().map(Some).collect();
        let config = Arc::new(BrokerConfig {
            node: Arc::new(node),
            listen: self.address,
            advertised_host: self.address.ip().to_string(),
            advertised_port: 0,
            shared: Shared::default(),
        });
        let ready = Rc::new(RefCell::new(false));
        self.world.start(self.broker, SHARDS + 1, |io| {
            let mailbox = mailboxes[io.core()].take().expect("a core starts once");
            let (config, ready) = (config.clone(), ready.clone());
            async move {
                let ended = broker::run_core(io, mailbox, config, |_, _| *ready.borrow_mut() = true).await;
                ended.expect("the broker starts");
            }
        });
        assert!(self.world.run_until(Duration::from_secs(60), || *ready.borrow()), "the broker listens");
    }

    /// Loses power and starts again: nothing is left but what was flushed.
    pub(crate) fn lose_power(&self) {
        self.world.crash(self.broker, CrashKind::PowerLoss);
        self.start();
    }

    /// Stops in order and starts again.
    pub(crate) fn restart(&self) {
        self.world.stop(self.broker);
        assert!(self.world.run_until(Duration::from_secs(60), || !self.world.is_running(self.broker)), "it stops");
        self.start();
    }

    /// Lets time pass.
    pub(crate) fn run_for(&self, duration: Duration) {
        self.world.run_for(duration);
    }

    /// How many files of the broker have this ending.
    pub(crate) fn files(&self, ending: &str) -> usize {
        self.world.files(self.broker).iter().filter(|(path, _)| path.to_string_lossy().ends_with(ending)).count()
    }

    /// The most that one poll of a task has done.
    pub(crate) fn longest_turn(&self) -> usize {
        self.world.longest_turn()
    }

    /// The broker's files.
    pub(crate) fn paths(&self) -> Vec<String> {
        self.world.files(self.broker).iter().map(|(path, _)| path.to_string_lossy().into_owned()).collect()
    }

    /// Runs a client.
    pub(crate) fn ask<T: 'static, F: Future<Output = T> + 'static>(&self, make: impl FnOnce(Io, SocketAddr) -> F) -> T {
        let address = self.address;
        self.world.block_on(self.clients, |io| make(io, address))
    }
}

/// A client's end of a connection.
pub(crate) struct Client {
    stream: Stream,
    arrived: BytesMut,
    /// The number of the last request; they count from 1.
    pub(crate) sent: i32,
    client_id: String,
}

impl Client {
    /// Connects.
    pub(crate) async fn connect(io: &Io, address: SocketAddr, client_id: &str) -> Client {
        let stream = io.connect(address).await.expect("the broker listens");
        Client { stream, arrived: BytesMut::new(), sent: 0, client_id: client_id.to_owned() }
    }

    /// The answer to a request; `None` if the broker has closed the connection.
    pub(crate) async fn try_ask<'a, R: Request<'a>>(
        &mut self,
        request: &R,
        version: i16,
    ) -> Option<R::Response<'static>> {
        let frame = self.frame(request, version);
        self.stream.write(vec![frame.concat().into()]).await.ok()?;
        self.try_answer::<R>(self.sent, version).await
    }

    /// The answer to a request.
    pub(crate) async fn ask<'a, R: Request<'a>>(&mut self, request: &R, version: i16) -> R::Response<'static> {
        self.try_ask(request, version).await.expect("an answer")
    }

    /// The bytes of a request.
    pub(crate) fn frame<'a, R: Request<'a>>(&mut self, request: &R, version: i16) -> Vec<Bytes> {
        self.sent += 1;
        let mut encoder = Encoder::frame();
        let client_id = Some(self.client_id.as_str().into());
        let header = RequestHeader { api_key: R::API_KEY, api_version: version, correlation_id: self.sent, client_id };
        header.encode(&mut encoder);
        request.encode(&mut encoder, version);
        encoder.finish().expect("the request is right")
    }

    /// Sends bytes, such as those of several requests at once.
    pub(crate) async fn send(&self, chunks: Vec<Bytes>) {
        self.stream.write(vec![chunks.concat().into()]).await.expect("the broker reads");
    }

    /// Sends bytes; whether the broker has not closed the connection.
    pub(crate) async fn try_send(&self, chunks: Vec<Bytes>) -> bool {
        self.stream.write(vec![chunks.concat().into()]).await.is_ok()
    }

    /// The next answer, which must be that of the request with this number; `None` if the broker has closed the connection.
    /// Answers live as long as the test.
    async fn try_answer<'a, R: Request<'a>>(&mut self, number: i32, version: i16) -> Option<R::Response<'static>> {
        let frame: &'static [u8] = Box::leak(self.receive().await?.to_vec().into_boxed_slice());
        let mut decoder = Decoder::new(frame);
        let header = ResponseHeader::decode(&mut decoder, R::API_KEY, version).expect("a header");
        assert_eq!(header.correlation_id, number, "answers leave in the order of their requests");
        let response = R::Response::decode(&mut decoder, version).expect("an answer");
        decoder.finish().expect("nothing follows the answer");
        Some(response)
    }

    /// The next answer, which must be that of the request with this number.
    pub(crate) async fn answer<'a, R: Request<'a>>(&mut self, number: i32, version: i16) -> R::Response<'static> {
        self.try_answer::<R>(number, version).await.expect("an answer")
    }

    /// The next answer's bytes; `None` if the broker has closed the connection.
    pub(crate) async fn receive(&mut self) -> Option<Bytes> {
        loop {
            if let Some(frame) = next_frame(&mut self.arrived, 1 << 30).expect("a frame") {
                return Some(frame);
            }
            self.arrived.reserve(4096);
            let result;
            (result, self.arrived) = self.stream.read(std::mem::take(&mut self.arrived)).await;
            if result.unwrap_or(0) == 0 {
                return None;
            }
        }
    }
}
