//! One connection: requests in, answers out, in the order of the requests.
//!
//! Two tasks share it. The reader cuts frames, waits until a request may start beside those under way, and
//! starts it; the writer waits for the oldest answer and writes all that are ready. The invariants: answers
//! leave in the order of their requests; consecutive Produce requests overlap, and so do consecutive Fetches,
//! every other request starts when all before it are answered; a request's memory is reserved before its body
//! is read and given back with its answer. What a request means is for [`crate::dispatch`].

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use engine::io::local::Bell;
use engine::io::{Class, Instant, Stream};
use engine::protocol::frame::{FrameError, PREFIX_BYTES, announced_size, next_frame};
use futures_lite::future;

use crate::authorizer::Client;
use crate::broker::Broker;
use crate::budget::Reservation;
use crate::dispatch::{self, Answer, Call, Overlap, Pending, Refusal};
use crate::handlers;
use crate::limits;

/// A connection's state, shared by its reader, its writer and its requests.
pub struct Connection {
    broker: Rc<Broker>,
    stream: Stream,
    peer: SocketAddr,
    client: Rc<Client>,
    /// Its number among those of the core; no two at any time have the same.
    number: Cell<u64>,
    window: RefCell<Window>,
    /// Rings when the window changes.
    changed: Bell,
    /// When something last arrived or left.
    active: Cell<Instant>,
    /// Since when the piece now being written has been waiting, if one is.
    writing_since: Cell<Option<Instant>>,
    /// Whether a request's body is being read.
    in_body: Cell<bool>,
    /// By when the request whose memory is reserved must have arrived.
    body_due: Cell<Option<Instant>>,
    /// Until when no request is taken from the client, for it has used too much.
    muted_until: Cell<Instant>,
}

/// The requests under way, oldest first.
struct Window {
    queue: VecDeque<Started>,
    /// Requests started and not answered; one of them may be in the writer's hands.
    unanswered: usize,
    unanswered_bytes: usize,
    /// What the requests under way are, if there are any.
    overlap: Overlap,
    reader_gone: bool,
    writer_gone: bool,
}

/// A request under way, with what it holds.
struct Started {
    pending: Pending,
    bytes: usize,
    _held: Reservation,
}

/// Why a connection ends.
enum End {
    /// The peer closed it, or it was cut.
    Closed,
    /// What came is no request, or none that is served.
    Refused(Refusal),
    /// What came is no frame.
    Frame(FrameError),
}

/// Serves a connection until its end.
pub async fn serve(broker: Rc<Broker>, stream: Stream, peer: SocketAddr) {
    let connection = Rc::new(Connection::new(broker.clone(), stream, peer));
    let number = broker.connections.add(&connection);
    connection.number.set(number);
    if !broker.is_stopping() {
        broker.io().spawn(Class::Foreground, write_answers(connection.clone()));
        let end = connection.read_requests().await;
        connection.report(&end);
        connection.window.borrow_mut().reader_gone = true;
        connection.changed.ring();
        connection.changed.until(|| connection.window.borrow().writer_gone.then_some(())).await;
    }
    connection.stream.shutdown();
    handlers::share_fetch::disconnected(&broker, number);
    broker.connections.remove(number);
    broker.config.shared.connections.fetch_sub(1, Ordering::Relaxed);
}

impl Connection {
    fn new(broker: Rc<Broker>, stream: Stream, peer: SocketAddr) -> Connection {
        let window = Window {
            queue: VecDeque::new(),
            unanswered: 0,
            unanswered_bytes: 0,
            overlap: Overlap::Barrier,
            reader_gone: false,
            writer_gone: false,
        };
        let active = Cell::new(broker.io().now());
        let (window, changed) = (RefCell::new(window), Bell::default());
        let client = Rc::new(Client::anonymous(peer.ip(), broker.quotas.clone()));
        Connection {
            broker,
            stream,
            peer,
            client,
            number: Cell::new(0),
            window,
            changed,
            active,
            writing_since: Cell::new(None),
            in_body: Cell::new(false),
            body_due: Cell::new(None),
            muted_until: Cell::default(),
        }
    }

    /// Its number among the connections of the core.
    pub fn number(&self) -> u64 {
        self.number.get()
    }

    /// The other end's address.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    fn report(&self, end: &End) {
        match end {
            End::Closed => tracing::trace!(peer = %self.peer, "connection closed"),
            End::Refused(refusal) => self.complain(&refusal.to_string()),
            End::Frame(error) => self.complain(&error.to_string()),
        }
    }

    /// One line a second at most, from all connections of the core: what clients send must not fill the disk.
    fn complain(&self, why: &str) {
        if let Some(unsaid) = self.broker.connections.may_complain(self.broker.io().now()) {
            tracing::warn!(peer = %self.peer, unsaid, "connection closed: {why}");
        }
    }

    async fn read_requests(self: &Rc<Self>) -> End {
        let mut reader =
            Reader { connection: self, buffer: BytesMut::new(), size: *limits::READ_BYTES.start(), held: None };
        loop {
            self.unmuted().await;
            let (frame, held) = match reader.next().await {
                Ok(next) => next,
                Err(end) => return end,
            };
            if let Err(end) = self.start(frame, held).await {
                return end;
            }
        }
    }

    async fn start(self: &Rc<Self>, frame: Bytes, held: Reservation) -> Result<(), End> {
        let bytes = frame.len();
        let call = Call::open(frame, self.client.clone()).map_err(End::Refused)?;
        self.admit(call.overlap(), bytes).await?;
        self.unmuted().await;
        let pending = dispatch::start(&self.broker, self, call).await.map_err(End::Refused)?;
        self.mute(pending.throttle());
        let mut window = self.window.borrow_mut();
        window.unanswered += 1;
        window.unanswered_bytes += bytes;
        window.queue.push_back(Started { pending, bytes, _held: held });
        drop(window);
        self.changed.ring();
        Ok(())
    }

    /// Waits until the client may be heard again, or is gone. Nothing is read meanwhile: it is held back by what
    /// its own machine buffers.
    async fn unmuted(&self) {
        let io = self.broker.io();
        while io.now() < self.muted_until.get() && !self.window.borrow().writer_gone {
            let seen = self.changed.rings();
            future::or(io.sleep_until(self.muted_until.get()), self.changed.rung_since(seen)).await;
        }
    }

    /// Takes no request for a while.
    fn mute(&self, time: Duration) {
        if !time.is_zero() {
            let until = self.broker.io().now() + time;
            self.muted_until.set(self.muted_until.get().max(until));
        }
    }

    /// Waits until a request may start beside those under way.
    async fn admit(&self, overlap: Overlap, bytes: usize) -> Result<(), End> {
        let admitted = || {
            let mut window = self.window.borrow_mut();
            if window.writer_gone {
                return Some(Err(End::Closed));
            }
            window.admits(overlap, bytes).then(|| {
                window.overlap = overlap;
                Ok(())
            })
        };
        self.changed.until(admitted).await
    }

    /// Completes when nobody waits for answers any more: what still waits for news may give up.
    pub async fn abandoned(&self) {
        self.changed
            .until(|| {
                let window = self.window.borrow();
                (window.reader_gone || window.writer_gone).then_some(())
            })
            .await;
    }

    /// The oldest request's answer; `None` when there are no more.
    async fn oldest_answer(&self) -> Option<Answer> {
        let oldest = || {
            let mut window = self.window.borrow_mut();
            match window.queue.pop_front() {
                Some(started) => Some(Some(started)),
                None => window.reader_gone.then_some(None),
            }
        };
        let mut started = self.changed.until(oldest).await?;
        let answer = started.pending.answer().await;
        self.answered(started.bytes);
        Some(answer)
    }

    /// The oldest request's answer, if it is there.
    async fn ready_answer(&self) -> Option<Answer> {
        let mut started = self.window.borrow_mut().queue.pop_front()?;
        match future::poll_once(started.pending.answer()).await {
            Some(answer) => {
                self.answered(started.bytes);
                Some(answer)
            }
            None => {
                self.window.borrow_mut().queue.push_front(started);
                None
            }
        }
    }

    fn answered(&self, bytes: usize) {
        let mut window = self.window.borrow_mut();
        window.unanswered -= 1;
        window.unanswered_bytes -= bytes;
        drop(window);
        self.changed.ring();
    }

    /// Writes in pieces, each of which the peer must accept in time.
    async fn write(&self, chunks: Vec<Bytes>) -> std::io::Result<()> {
        for piece in pieces(chunks) {
            self.writing_since.set(Some(self.broker.io().now()));
            let written = self.stream.write(piece).await;
            self.writing_since.set(None);
            written?;
            self.active.set(self.broker.io().now());
        }
        Ok(())
    }

    /// Whether the connection has outstayed its welcome.
    fn is_overdue(&self, now: Instant) -> bool {
        let quiet = now.since(self.active.get());
        let waits = self.window.borrow().unanswered > 0 || now < self.muted_until.get();
        let stalled = self.writing_since.get().is_some_and(|since| now.since(since) > limits::WRITE_STALL);
        let late = self.body_due.get().is_some_and(|due| now > due);
        stalled || late || self.in_body.get() && quiet > limits::BODY_STALL || !waits && quiet > self.broker.limits.idle
    }
}

impl Window {
    fn admits(&self, overlap: Overlap, bytes: usize) -> bool {
        if self.unanswered == 0 {
            return true;
        }
        let most = match overlap {
            Overlap::Barrier => return false,
            Overlap::Produce => limits::REQUESTS_IN_FLIGHT,
            Overlap::Fetch => limits::FETCHES_IN_FLIGHT,
        };
        overlap == self.overlap
            && self.unanswered < most
            && self.unanswered_bytes + bytes <= limits::REQUEST_BYTES_IN_FLIGHT
    }
}

/// Cuts the stream into frames.
struct Reader<'a> {
    connection: &'a Rc<Connection>,
    buffer: BytesMut,
    /// How much to read at a time; follows the traffic.
    size: usize,
    /// Memory reserved for the frame that has begun.
    held: Option<Reservation>,
}

impl Reader<'_> {
    /// The next frame, with its memory.
    async fn next(&mut self) -> Result<(Bytes, Reservation), End> {
        let connection = self.connection;
        let broker = &connection.broker;
        let max = broker.limits.request_bytes;
        loop {
            let announced = announced_size(&self.buffer, max).map_err(End::Frame)?;
            let mut missing = 0;
            if let Some(size) = announced {
                if self.held.is_none() {
                    let budget = if size > limits::LARGE_REQUEST { &broker.receive_large } else { &broker.receive };
                    self.held = Some(budget.reserve(size).await);
                    let by_rate = Duration::from_secs((size / limits::BODY_RATE) as u64);
                    connection.body_due.set(Some(broker.io().now() + limits::BODY_STALL + by_rate));
                }
                missing = (PREFIX_BYTES + size).saturating_sub(self.buffer.len());
            }
            if let Some(frame) = next_frame(&mut self.buffer, max).map_err(End::Frame)? {
                let held = self.held.take().expect("a frame's size was announced");
                connection.body_due.set(None);
                return Ok((frame, held));
            }
            self.fill(missing).await?;
        }
    }

    async fn fill(&mut self, missing: usize) -> Result<(), End> {
        let connection = self.connection;
        connection.in_body.set(missing > 0);
        self.buffer.reserve(missing.max(self.size));
        let room = self.buffer.capacity() - self.buffer.len();
        let result;
        (result, self.buffer) = connection.stream.read(std::mem::take(&mut self.buffer)).await;
        connection.in_body.set(false);
        let read = result.map_err(|_| End::Closed)?;
        if read == 0 {
            return Err(End::Closed);
        }
        connection.active.set(connection.broker.io().now());
        self.adapt(read, room);
        Ok(())
    }

    /// Reads twice as much next time if this read was filled, half as much if it came nearly empty.
    fn adapt(&mut self, read: usize, room: usize) {
        let size = match read {
            _ if read == room => self.size * 2,
            _ if read < self.size / 4 => self.size / 2,
            _ => self.size,
        };
        self.size = size.clamp(*limits::READ_BYTES.start(), *limits::READ_BYTES.end());
    }
}

/// Writes answers until there are no more to come, or the peer takes no more.
async fn write_answers(connection: Rc<Connection>) {
    while let Some(first) = connection.oldest_answer().await {
        let mut bytes = first.bytes();
        let mut close = first.close;
        let mut chunks = first.chunks;
        let mut held = vec![first.held];
        // Before the window says that the request is answered, so that none behind it slips through.
        connection.mute(first.throttle);
        while !close && bytes < limits::WRITE_BATCH_BYTES {
            let Some(more) = connection.ready_answer().await else { break };
            bytes += more.bytes();
            close = more.close;
            connection.mute(more.throttle);
            chunks.extend(more.chunks);
            held.push(more.held);
        }
        let written = connection.write(chunks).await;
        drop(held);
        if close || written.is_err() {
            break;
        }
    }
    connection.window.borrow_mut().writer_gone = true;
    connection.stream.shutdown();
    connection.changed.ring();
}

/// Cuts `chunks` into pieces of [`limits::WRITE_BYTES`] at most.
fn pieces(chunks: Vec<Bytes>) -> Vec<Vec<Bytes>> {
    let mut pieces = Vec::with_capacity(1);
    let mut piece = Vec::with_capacity(chunks.len());
    let mut room = limits::WRITE_BYTES;
    for mut chunk in chunks {
        while chunk.len() > room {
            piece.push(chunk.split_to(room));
            pieces.push(std::mem::take(&mut piece));
            room = limits::WRITE_BYTES;
        }
        room -= chunk.len();
        piece.push(chunk);
    }
    pieces.push(piece);
    pieces
}

/// The connections of a core.
#[derive(Default)]
pub struct Connections {
    open: RefCell<BTreeMap<u64, Weak<Connection>>>,
    next: Cell<u64>,
    complained: Cell<Option<Instant>>,
    unsaid: Cell<u64>,
}

impl Connections {
    fn add(&self, connection: &Rc<Connection>) -> u64 {
        let number = self.next.get();
        self.next.set(number + 1);
        self.open.borrow_mut().insert(number, Rc::downgrade(connection));
        number
    }

    fn remove(&self, number: u64) {
        self.open.borrow_mut().remove(&number);
    }

    fn list(&self) -> Vec<Rc<Connection>> {
        self.open.borrow().values().filter_map(Weak::upgrade).collect()
    }

    /// Cuts all connections.
    pub fn close_all(&self) {
        for connection in self.list() {
            connection.stream.shutdown();
        }
    }

    /// How many complaints went unsaid since the last one, if one may be said now.
    fn may_complain(&self, now: Instant) -> Option<u64> {
        let soon = self.complained.get().is_some_and(|last| now.since(last) < Duration::from_secs(1));
        if soon {
            self.unsaid.set(self.unsaid.get() + 1);
            return None;
        }
        self.complained.set(Some(now));
        Some(self.unsaid.take())
    }
}

/// Cuts connections that are idle or stalled.
pub async fn janitor(broker: Rc<Broker>) {
    while !broker.is_stopping() {
        broker.io().sleep(limits::JANITOR_INTERVAL).await;
        let now = broker.io().now();
        for connection in broker.connections.list() {
            if connection.is_overdue(now) {
                tracing::debug!(peer = %connection.peer, "connection idle or stalled, closed");
                connection.stream.shutdown();
            }
        }
    }
}
