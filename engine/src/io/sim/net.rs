//! The simulated network: byte streams that keep their order and promise nothing else.
//!
//! A connection is two lanes. What is written to a lane is cut into chunks that fly for a seeded time; a lane
//! holds a bounded number of bytes, and a write beyond that waits. A cut link holds what arrives on it until
//! it heals. A read or write that was issued goes on when its future is dropped, as it does on the ring:
//! bytes that nobody waits for any more are gone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use bytes::{Buf, Bytes, BytesMut};

use super::executor::{Event, SharedSignals, Sim, address_of, lock};
use super::faults::FaultClass;
use super::random::Random;
use super::{NodeId, SimIo};
use crate::io::local::{Sender, oneshot};

/// Connections that wait to be accepted, per listener.
const BACKLOG: usize = 128;
/// The longest that a connect waits for a node that does not answer. 10 s.
const CONNECT_TIMEOUT: u64 = 10_000_000_000;
const FIRST_EPHEMERAL_PORT: u16 = 32_768;

type ReadAnswer = (io::Result<usize>, BytesMut);
type WriteAnswer = (io::Result<usize>, Vec<Bytes>);
type AcceptAnswer = io::Result<(SimStream, SocketAddr)>;

enum Item {
    Data(Bytes),
    End,
    Reset,
}

/// One direction of a connection: from its side to the other.
struct Lane {
    flight: VecDeque<Item>,
    arrived: VecDeque<Bytes>,
    /// Bytes in flight or arrived and not yet read.
    held: usize,
    window: usize,
    last_arrival: u64,
    /// Arrivals that a cut link holds back.
    stuck: usize,
    ended: bool,
    /// Reads under way: each with the most that it takes.
    reader: VecDeque<(BytesMut, usize, Sender<ReadAnswer>)>,
    writer: VecDeque<(Vec<Bytes>, Sender<WriteAnswer>)>,
}

struct End {
    node: usize,
    address: SocketAddr,
    /// A handle exists.
    open: bool,
    /// Asked to end by `shutdown`.
    shut: bool,
    /// Has learnt that the connection was reset.
    reset: bool,
}

struct Connection {
    ends: [End; 2],
    lanes: [Lane; 2],
}

struct Listening {
    node: usize,
    core: usize,
    address: SocketAddr,
    backlog: VecDeque<u64>,
    acceptors: VecDeque<(SimIo, Sender<AcceptAnswer>)>,
}

pub(super) struct Connecting {
    io: SimIo,
    to: SocketAddr,
    node: usize,
    gives_up: u64,
    done: Sender<io::Result<SimStream>>,
}

pub(super) struct Net {
    connections: BTreeMap<u64, Connection>,
    listeners: BTreeMap<u64, Listening>,
    cut: BTreeSet<(usize, usize)>,
    next: u64,
    next_port: u16,
    random: Random,
}

impl Net {
    pub(super) fn new(random: Random) -> Net {
        Net {
            connections: BTreeMap::new(),
            listeners: BTreeMap::new(),
            cut: BTreeSet::new(),
            next: 0,
            next_port: FIRST_EPHEMERAL_PORT,
            random,
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn port(&mut self) -> u16 {
        let port = self.next_port;
        self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_EPHEMERAL_PORT);
        port
    }

    pub(super) fn cut(&mut self, links: &[(usize, usize)]) {
        self.cut.extend(links);
    }

    /// The listener for a connection to `port` of `node`; one of several that share it.
    fn listener(&mut self, node: usize, port: u16) -> Option<u64> {
        let fits = |(id, listening): (&u64, &Listening)| {
            (listening.node == node && listening.address.port() == port).then_some(*id)
        };
        let ids: Vec<u64> = self.listeners.iter().filter_map(fits).collect();
        (!ids.is_empty()).then(|| ids[self.random.below(ids.len() as u64) as usize])
    }
}

impl Lane {
    fn new(window: usize) -> Lane {
        Lane {
            flight: VecDeque::new(),
            arrived: VecDeque::new(),
            held: 0,
            window,
            last_arrival: 0,
            stuck: 0,
            ended: false,
            reader: VecDeque::new(),
            writer: VecDeque::new(),
        }
    }
}

fn os_error(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

/// The handle that closes its side when it goes.
struct Side {
    io: SimIo,
    connection: u64,
    side: usize,
    /// Given up to another core: closing is no longer ours.
    detached: std::cell::Cell<bool>,
}

impl Drop for Side {
    fn drop(&mut self) {
        if !self.detached.get() {
            self.io.sim.close_stream(self.connection, self.side);
        }
    }
}

/// One side of a simulated connection.
#[derive(Clone)]
pub struct SimStream(Rc<Side>);

/// A simulated connection on its way to another core.
pub struct DetachedSimStream {
    connection: u64,
    side: usize,
    adopted: bool,
    signals: SharedSignals,
}

impl Drop for DetachedSimStream {
    fn drop(&mut self) {
        if !self.adopted {
            lock(&self.signals).dropped_streams.push((self.connection, self.side));
        }
    }
}

impl SimStream {
    fn new(io: &SimIo, connection: u64, side: usize) -> SimStream {
        SimStream(Rc::new(Side { io: io.clone(), connection, side, detached: std::cell::Cell::new(false) }))
    }

    /// One read of up to `most` bytes into the spare capacity of `buffer`.
    pub async fn read_once(&self, buffer: BytesMut, most: usize) -> (io::Result<usize>, BytesMut) {
        self.0.io.check_alive().await;
        let (done, answer) = oneshot();
        self.0.io.sim.start_read(self.0.connection, self.0.side, (buffer, most), done);
        match answer.await {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }

    /// One write of a first part of `chunks`.
    pub async fn write_once(&self, chunks: Vec<Bytes>) -> (io::Result<usize>, Vec<Bytes>) {
        self.0.io.check_alive().await;
        let (done, answer) = oneshot();
        self.0.io.sim.start_write(self.0.connection, self.0.side, chunks, done);
        match answer.await {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }

    /// See [`crate::io::Stream::shutdown`].
    pub fn shutdown(&self) {
        self.0.io.sim.shut_stream(self.0.connection, self.0.side);
    }

    /// See [`crate::io::Stream::detach`].
    pub fn detach(self) -> Option<DetachedSimStream> {
        let side = Rc::into_inner(self.0)?;
        side.detached.set(true);
        let signals = side.io.sim.signals.clone();
        Some(DetachedSimStream { connection: side.connection, side: side.side, adopted: false, signals })
    }
}

/// A listening simulated socket.
pub struct SimListener {
    io: SimIo,
    id: u64,
    address: SocketAddr,
}

impl SimListener {
    /// See [`crate::io::Listener::accept`].
    pub async fn accept(&self) -> io::Result<(SimStream, SocketAddr)> {
        self.io.check_alive().await;
        let (done, answer) = oneshot();
        self.io.sim.start_accept(&self.io, self.id, done);
        match answer.await {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }

    /// The address that it listens on.
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        self.io.sim.close_listener(self.id);
    }
}

impl SimIo {
    /// See [`crate::io::Io::listen`].
    pub async fn listen(&self, address: SocketAddr) -> io::Result<SimListener> {
        self.check_alive().await;
        let own = address.ip().is_unspecified()
            || address.ip().is_loopback()
            || address.ip() == address_of(NodeId(self.node));
        if !own {
            return Err(os_error(libc::EADDRNOTAVAIL));
        }
        let mut net = self.sim.net.borrow_mut();
        let port = if address.port() == 0 { net.port() } else { address.port() };
        let address = SocketAddr::new(address.ip(), port);
        // Cores may share a port (SO_REUSEPORT), a core may not take it twice.
        let taken = net
            .listeners
            .values()
            .any(|other| other.node == self.node && other.core == self.core && other.address.port() == port);
        if taken {
            return Err(os_error(libc::EADDRINUSE));
        }
        let id = net.number();
        let listening = Listening {
            node: self.node,
            core: self.core,
            address,
            backlog: VecDeque::new(),
            acceptors: VecDeque::new(),
        };
        net.listeners.insert(id, listening);
        Ok(SimListener { io: self.clone(), id, address })
    }

    /// See [`crate::io::Io::connect`].
    pub async fn connect(&self, address: SocketAddr) -> io::Result<SimStream> {
        self.check_alive().await;
        let node = self.node_at(address.ip()).ok_or_else(|| os_error(libc::EHOSTUNREACH))?;
        let (done, answer) = oneshot();
        let gives_up = self.sim.now() + CONNECT_TIMEOUT;
        let delay = self.sim.network_delay();
        self.sim.schedule(delay, Event::Connect(Connecting { io: self.clone(), to: address, node, gives_up, done }));
        match answer.await {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }

    fn node_at(&self, address: IpAddr) -> Option<usize> {
        if address.is_loopback() || address.is_unspecified() {
            return Some(self.node);
        }
        let nodes = self.sim.machines.borrow().len();
        (0..nodes).find(|node| address_of(NodeId(*node)) == address)
    }

    /// See [`crate::io::Io::adopt`].
    pub fn adopt(&self, mut stream: DetachedSimStream) -> SimStream {
        stream.adopted = true;
        SimStream::new(self, stream.connection, stream.side)
    }
}

impl Sim {
    fn network_delay(&self) -> u64 {
        let faults = self.faults.borrow();
        let random = &mut self.net.borrow_mut().random;
        if random.chance(faults.network_delay) {
            self.count(FaultClass::NetworkDelay);
            return random.between(100_000, super::executor::nanoseconds(faults.network_delay_max).max(100_000));
        }
        random.between(20_000, 300_000)
    }

    pub(super) fn finish_connect(self: &Rc<Self>, connecting: Connecting) {
        let Connecting { io, to, node, gives_up, done } = connecting;
        if !self.is_alive(io.node, io.incarnation) {
            return;
        }
        let parted = {
            let net = self.net.borrow();
            net.cut.contains(&(io.node, node)) || net.cut.contains(&(node, io.node))
        };
        if parted {
            if self.now() < gives_up {
                let connecting = Connecting { io, to, node, gives_up, done };
                self.schedule(100_000_000, Event::Connect(connecting));
            } else {
                done.send(Err(os_error(libc::ETIMEDOUT)));
            }
            return;
        }
        let answer = self.establish(&io, to, node).ok_or_else(|| os_error(libc::ECONNREFUSED));
        self.note(10, node as u64, u64::from(answer.is_ok()));
        done.send(answer);
    }

    fn establish(&self, io: &SimIo, to: SocketAddr, node: usize) -> Option<SimStream> {
        let mut net = self.net.borrow_mut();
        let listener = net.listener(node, to.port())?;
        if net.listeners[&listener].backlog.len() >= BACKLOG {
            return None;
        }
        let local = if to.ip().is_loopback() { to.ip() } else { address_of(NodeId(io.node)) };
        let from = SocketAddr::new(local, net.port());
        let end = |node: usize, address: SocketAddr| End { node, address, open: true, shut: false, reset: false };
        let window = 16_384 << net.random.below(6);
        let connection =
            Connection { ends: [end(io.node, from), end(node, to)], lanes: [Lane::new(window), Lane::new(window)] };
        let id = net.number();
        net.connections.insert(id, connection);
        let listening = net.listeners.get_mut(&listener).expect("found above");
        listening.backlog.push_back(id);
        drop(net);
        self.match_acceptors(listener);
        Some(SimStream::new(io, id, 0))
    }

    fn start_accept(&self, io: &SimIo, listener: u64, done: Sender<AcceptAnswer>) {
        let mut net = self.net.borrow_mut();
        let p = self.faults.borrow().accept_error;
        if net.random.chance(p) {
            self.count(FaultClass::AcceptError);
            let code = if net.random.coin() { libc::ECONNABORTED } else { libc::EMFILE };
            drop(net);
            done.send(Err(os_error(code)));
            return;
        }
        let listening = net.listeners.get_mut(&listener).expect("a listener lives as long as its handle");
        listening.acceptors.push_back((io.clone(), done));
        drop(net);
        self.match_acceptors(listener);
    }

    fn match_acceptors(&self, listener: u64) {
        let matched = {
            let mut net = self.net.borrow_mut();
            let Net { listeners, connections, .. } = &mut *net;
            let Some(listening) = listeners.get_mut(&listener) else { return };
            if listening.acceptors.is_empty() || listening.backlog.is_empty() {
                return;
            }
            let (Some((io, done)), Some(id)) = (listening.acceptors.pop_front(), listening.backlog.pop_front()) else {
                return;
            };
            (io, done, id, connections.get(&id).map(|connection| connection.ends[0].address))
        };
        let (io, done, id, peer) = matched;
        let Some(peer) = peer else { return };
        // Sent outside of the borrow: if nobody waits any more, the stream closes at once.
        done.send(Ok((SimStream::new(&io, id, 1), peer)));
    }

    fn close_listener(&self, id: u64) {
        let Some(listening) = self.net.borrow_mut().listeners.remove(&id) else { return };
        for connection in &listening.backlog {
            self.close_stream(*connection, 1);
        }
    }

    fn start_read(&self, id: u64, side: usize, (buffer, most): (BytesMut, usize), done: Sender<ReadAnswer>) {
        {
            let mut net = self.net.borrow_mut();
            let Some(connection) = net.connections.get_mut(&id) else {
                drop(net);
                return done.send((Err(os_error(libc::ECONNRESET)), buffer));
            };
            connection.lanes[1 - side].reader.push_back((buffer, most, done));
        }
        self.pump_readers(id, 1 - side);
    }

    fn start_write(&self, id: u64, side: usize, chunks: Vec<Bytes>, done: Sender<WriteAnswer>) {
        let reset = {
            let p = self.faults.borrow().reset;
            self.net.borrow_mut().random.chance(p)
        };
        if reset {
            self.count(FaultClass::Reset);
            self.reset_connection(id);
        }
        let refusal = self.net.borrow().connections.get(&id).map_or(Some(libc::ECONNRESET), |connection| {
            let end = &connection.ends[side];
            if end.reset { Some(libc::ECONNRESET) } else { end.shut.then_some(libc::EPIPE) }
        });
        if let Some(code) = refusal {
            return done.send((Err(os_error(code)), chunks));
        }
        if let Some(connection) = self.net.borrow_mut().connections.get_mut(&id) {
            connection.lanes[side].writer.push_back((chunks, done));
        }
        self.pump_writers(id, side);
    }

    /// Takes from waiting writes what the lane has room for.
    fn pump_writers(&self, id: u64, lane_index: usize) {
        let chunking = self.faults.borrow().chunking;
        loop {
            let mut net = self.net.borrow_mut();
            let Net { connections, random, .. } = &mut *net;
            let Some(connection) = connections.get_mut(&id) else { return };
            let lane = &mut connection.lanes[lane_index];
            let mut room = lane.window.saturating_sub(lane.held);
            if room == 0 {
                return;
            }
            let Some((chunks, done)) = lane.writer.pop_front() else { return };
            if random.chance(chunking) {
                self.count(FaultClass::Chunking);
                room = random.between(1, room as u64) as usize;
            }
            let mut pieces = Vec::new();
            let mut taken = 0;
            for chunk in &chunks {
                let len = chunk.len().min(room - taken);
                if len == 0 {
                    break;
                }
                let mut piece = chunk.slice(..len);
                if len > 1 && random.chance(chunking) {
                    pieces.push(piece.split_to(random.between(1, len as u64 - 1) as usize));
                }
                pieces.push(piece);
                taken += len;
            }
            lane.held += taken;
            drop(net);
            for piece in pieces {
                self.launch(id, lane_index, Item::Data(piece));
            }
            done.send((Ok(taken), chunks));
        }
    }

    /// Sends an item on its way; it arrives after those before it.
    fn launch(&self, id: u64, lane_index: usize, item: Item) {
        let delay = self.network_delay();
        let mut net = self.net.borrow_mut();
        let Some(connection) = net.connections.get_mut(&id) else { return };
        let lane = &mut connection.lanes[lane_index];
        lane.last_arrival = lane.last_arrival.max(self.now() + delay);
        lane.flight.push_back(item);
        self.schedule_at(lane.last_arrival, Event::Arrival { connection: id, lane: lane_index });
    }

    pub(super) fn arrive(&self, id: u64, lane_index: usize) {
        let item = {
            let mut net = self.net.borrow_mut();
            let Net { connections, cut, .. } = &mut *net;
            let Some(connection) = connections.get_mut(&id) else { return };
            let link = (connection.ends[lane_index].node, connection.ends[1 - lane_index].node);
            let lane = &mut connection.lanes[lane_index];
            if cut.contains(&link) {
                lane.stuck += 1;
                return;
            }
            lane.flight.pop_front()
        };
        match item {
            Some(Item::Data(bytes)) => self.arrive_data(id, lane_index, bytes),
            Some(Item::End) => {
                self.note(11, id, lane_index as u64);
                if let Some(connection) = self.net.borrow_mut().connections.get_mut(&id) {
                    connection.lanes[lane_index].ended = true;
                }
                self.pump_readers(id, lane_index);
            }
            Some(Item::Reset) => self.reset_end(id, 1 - lane_index),
            None => {}
        }
    }

    fn arrive_data(&self, id: u64, lane_index: usize, bytes: Bytes) {
        self.note(12, id << 1 | lane_index as u64, bytes.len() as u64);
        let nobody = {
            let mut net = self.net.borrow_mut();
            let Some(connection) = net.connections.get_mut(&id) else { return };
            let receiver = &connection.ends[1 - lane_index];
            let nobody = !receiver.open;
            let lane = &mut connection.lanes[lane_index];
            if nobody || receiver.shut || receiver.reset {
                lane.held -= bytes.len();
            } else {
                lane.arrived.push_back(bytes);
            }
            nobody
        };
        if nobody {
            self.launch(id, 1 - lane_index, Item::Reset);
        } else {
            self.pump_readers(id, lane_index);
        }
    }

    /// Answers waiting reads with what has arrived, or with the end.
    fn pump_readers(&self, id: u64, lane_index: usize) {
        let chunking = self.faults.borrow().chunking;
        loop {
            let mut net = self.net.borrow_mut();
            let Net { connections, random, .. } = &mut *net;
            let Some(connection) = connections.get_mut(&id) else { return };
            let receiver = &connection.ends[1 - lane_index];
            let lane = &mut connection.lanes[lane_index];
            let over = lane.ended || receiver.shut;
            if lane.reader.is_empty() || (lane.arrived.is_empty() && !over && !receiver.reset) {
                return;
            }
            let Some((mut buffer, most, done)) = lane.reader.pop_front() else { return };
            let result = if receiver.reset {
                Err(os_error(libc::ECONNRESET))
            } else {
                let mut room = (buffer.capacity() - buffer.len()).min(most);
                if room > 1 && random.chance(chunking) {
                    room = random.between(1, room as u64) as usize;
                }
                Ok(lane.take(&mut buffer, room))
            };
            drop(net);
            let moved = matches!(result, Ok(moved) if moved > 0);
            done.send((result, buffer));
            if moved {
                self.pump_writers(id, lane_index);
            }
        }
    }

    pub(super) fn reset_connection(&self, id: u64) {
        self.reset_end(id, 0);
        self.reset_end(id, 1);
    }

    /// The end learns that the connection is gone: its reads and writes fail from now on.
    fn reset_end(&self, id: u64, side: usize) {
        let mut failed = Vec::new();
        {
            let mut net = self.net.borrow_mut();
            let Some(connection) = net.connections.get_mut(&id) else { return };
            self.note(13, id, side as u64);
            connection.ends[side].reset = true;
            connection.lanes[side].drop_flight();
            failed.extend(connection.lanes[side].writer.drain(..));
            let incoming = &mut connection.lanes[1 - side];
            let unread: usize = incoming.arrived.drain(..).map(|bytes| bytes.len()).sum();
            incoming.held -= unread;
        }
        for (chunks, done) in failed {
            done.send((Err(os_error(libc::ECONNRESET)), chunks));
        }
        self.pump_readers(id, 1 - side);
    }

    fn shut_stream(&self, id: u64, side: usize) {
        {
            let mut net = self.net.borrow_mut();
            let Some(connection) = net.connections.get_mut(&id) else { return };
            let end = &mut connection.ends[side];
            if std::mem::replace(&mut end.shut, true) || end.reset {
                return;
            }
        }
        self.launch(id, side, Item::End);
        self.pump_readers(id, 1 - side);
    }

    /// The last handle of a side is gone.
    pub(super) fn close_stream(&self, id: u64, side: usize) {
        let goodbye;
        let dropped;
        {
            let mut net = self.net.borrow_mut();
            let Some(connection) = net.connections.get_mut(&id) else { return };
            let end = &mut connection.ends[side];
            if !std::mem::replace(&mut end.open, false) {
                return;
            }
            // As TCP does: bytes that nobody will read are answered with a reset.
            let unread = !connection.lanes[1 - side].arrived.is_empty();
            goodbye = match (end.reset, unread, end.shut) {
                (true, ..) => None,
                (_, true, _) => Some(Item::Reset),
                (.., true) => None,
                _ => Some(Item::End),
            };
            dropped = (
                std::mem::take(&mut connection.lanes[1 - side].reader),
                std::mem::take(&mut connection.lanes[side].writer),
            );
            if !connection.ends[1 - side].open {
                net.connections.remove(&id);
            }
        }
        drop(dropped);
        if let Some(goodbye) = goodbye {
            self.launch(id, side, goodbye);
        }
    }

    /// A process is gone: its peers learn that by a reset, soon, or later if the power is gone too.
    pub(super) fn drop_connections(&self, node: usize, silent: bool) {
        let mut sides = Vec::new();
        let listeners;
        {
            let mut net = self.net.borrow_mut();
            let ids: Vec<u64> =
                net.listeners.iter().filter(|(_, listening)| listening.node == node).map(|(id, _)| *id).collect();
            listeners = ids.into_iter().filter_map(|id| net.listeners.remove(&id)).collect::<Vec<_>>();
            for (id, connection) in &mut net.connections {
                for side in 0..2 {
                    if connection.ends[side].node == node && connection.ends[side].open {
                        connection.ends[side].shut = true;
                        sides.push((*id, side));
                    }
                }
            }
        }
        drop(listeners);
        for (id, side) in sides {
            if silent {
                let mut net = self.net.borrow_mut();
                let pause = net.random.between(0, 5_000_000_000);
                if let Some(connection) = net.connections.get_mut(&id) {
                    let lane = &mut connection.lanes[side];
                    lane.last_arrival = lane.last_arrival.max(self.now() + pause);
                }
            }
            self.launch(id, side, Item::Reset);
            self.close_stream(id, side);
        }
    }

    pub(super) fn heal_links(&self, links: &[(usize, usize)]) {
        let mut net = self.net.borrow_mut();
        let mut released = Vec::new();
        let Net { connections, cut, .. } = &mut *net;
        for link in links {
            cut.remove(link);
        }
        for (id, connection) in connections {
            for lane in 0..2 {
                let link = (connection.ends[lane].node, connection.ends[1 - lane].node);
                if !cut.contains(&link) {
                    let stuck = std::mem::take(&mut connection.lanes[lane].stuck);
                    released.extend(std::iter::repeat_n((*id, lane), stuck));
                }
            }
        }
        drop(net);
        self.note(14, links.len() as u64, released.len() as u64);
        for (connection, lane) in released {
            self.schedule(1_000, Event::Arrival { connection, lane });
        }
    }

    /// Heals all links.
    pub(super) fn heal_all(&self) {
        let links: Vec<_> = self.net.borrow().cut.iter().copied().collect();
        self.heal_links(&links);
    }
}

impl Lane {
    /// Moves up to `room` arrived bytes into `buffer`; how many.
    fn take(&mut self, buffer: &mut BytesMut, room: usize) -> usize {
        let mut taken = 0;
        while let Some(chunk) = self.arrived.front_mut() {
            let len = chunk.len().min(room - taken);
            buffer.extend_from_slice(&chunk[..len]);
            chunk.advance(len);
            taken += len;
            if !chunk.is_empty() {
                break;
            }
            self.arrived.pop_front();
        }
        self.held -= taken;
        taken
    }

    /// Data in flight is lost; its arrivals find nothing.
    fn drop_flight(&mut self) {
        for item in self.flight.drain(..) {
            if let Item::Data(bytes) = item {
                self.held -= bytes.len();
            }
        }
    }
}
