//! One connection: requests in, answers out, in the order of the requests.
//!
//! Two tasks share it. The reader cuts frames, waits until a request may start beside those under way, and
//! starts it; the writer waits for the oldest answer and writes all that are ready. The invariants: answers
//! leave in the order of their requests; consecutive Produce requests overlap, and so do consecutive Fetches,
//! every other request starts when all before it are answered; a request's memory is reserved as its bytes arrive
//! and given back with its answer, and who sends slowly makes room when others wait for it. What a request means is
//! for [`crate::dispatch`].

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use engine::accounts::{self, Reservation};
use engine::io::local::Bell;
use engine::io::{Class, Instant, Stream};
use engine::protocol::frame::{FrameError, PREFIX_BYTES, announced_size, next_frame};
use futures_lite::future;

use crate::authorizer::Client;
use crate::broker::Broker;
use crate::dispatch::{self, Answer, Call, Overlap, Pending, Refusal};
use crate::figures;
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
    /// What has arrived of a request, if only a part has.
    body: Cell<Option<Body>>,
    /// Whether it must make room for others.
    is_cut: Cell<bool>,
    /// Until when no request is taken from the client, for it has used too much.
    muted_until: Cell<Instant>,
}

/// A request of which only a part has arrived.
#[derive(Debug, Clone, Copy)]
struct Body {
    size: usize,
    arrived: usize,
    /// How long its client was waited for.
    reading: Duration,
    /// Since when it is, if it is.
    reading_since: Option<Instant>,
}

impl Body {
    fn class(&self) -> accounts::Class {
        class_of(self.size)
    }

    fn reading(&self, now: Instant) -> Duration {
        self.reading + self.reading_since.map_or(Duration::ZERO, |since| now.since(since))
    }

    /// Bytes a second.
    fn rate(&self, now: Instant) -> u64 {
        let us = self.reading(now).as_micros().max(1) as u64;
        self.arrived as u64 * 1_000_000 / us
    }

    /// Whether it will hold its memory for long.
    fn is_slow(&self, now: Instant) -> bool {
        let rate = self.rate(now);
        let missing = self.size.saturating_sub(self.arrived) as u64;
        self.reading(now) >= limits::MEMORY_PATIENCE && rate < limits::SLOW_RATE && missing > rate
    }
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
}

/// Why a connection ends.
pub(crate) enum End {
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
            body: Cell::new(None),
            is_cut: Cell::new(false),
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
        figures::closed(&self.broker, end);
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
        let mut reader = Reader {
            connection: self,
            buffer: BytesMut::new(),
            size: *limits::READ_BYTES.start(),
            was_filled: false,
            held: None,
            began: Instant::default(),
        };
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
        let call = Call::open(frame, held, self.client.clone()).map_err(End::Refused)?;
        self.admit(call.overlap(), bytes).await?;
        self.unmuted().await;
        let pending = dispatch::start(&self.broker, self, call).await.map_err(End::Refused)?;
        self.mute(pending.throttle());
        let mut window = self.window.borrow_mut();
        window.unanswered += 1;
        window.unanswered_bytes += bytes;
        window.queue.push_back(Started { pending, bytes });
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

    /// Waits for memory for `more` bytes of an answer, as long as somebody waits for that. Those who do not read small
    /// answers make room.
    pub async fn wait_for_memory(&self, held: &mut Reservation, more: usize) {
        loop {
            let grown = async {
                held.grow_in_turn(more).await;
                true
            };
            let waited = async {
                future::or(self.broker.io().sleep(limits::MEMORY_PATIENCE), self.writer_is_gone()).await;
                false
            };
            if future::or(grown, waited).await || self.window.borrow().writer_gone || self.is_cut.get() {
                return;
            }
            if held.class() == accounts::Class::AnswersSmall {
                self.broker.connections.cut_slow_readers(&self.broker);
            }
        }
    }

    async fn writer_is_gone(&self) {
        self.changed.until(|| self.window.borrow().writer_gone.then_some(())).await;
    }

    /// The answer with memory for all of it.
    pub async fn with_memory(&self, answer: Answer) -> Answer {
        match dispatch::reserve_now(&self.broker, answer) {
            Ok(answer) => answer,
            Err(mut answer) => {
                let mut held = answer.held.take().expect("it has a reservation");
                let more = answer.bytes() - held.bytes();
                self.wait_for_memory(&mut held, more).await;
                Answer { held: Some(held), ..answer }
            }
        }
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
        let answer = self.with_memory(started.pending.answer().await).await;
        self.answered(started.bytes);
        Some(answer)
    }

    /// The oldest request's answer, if it is there and there is memory for it.
    async fn ready_answer(&self) -> Option<Answer> {
        let mut started = self.window.borrow_mut().queue.pop_front()?;
        match future::poll_once(started.pending.answer()).await {
            Some(answer) => match dispatch::reserve_now(&self.broker, answer) {
                Ok(answer) => {
                    self.answered(started.bytes);
                    Some(answer)
                }
                Err(answer) => {
                    let pending = Pending::Answered(Some(answer));
                    self.window.borrow_mut().queue.push_front(Started { pending, ..started });
                    None
                }
            },
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
            let began = self.writing_since.take().expect("set above");
            written?;
            self.active.set(self.broker.io().now());
            self.broker.io().stats().stages.respond.record(self.active.get().since(began));
        }
        Ok(())
    }

    /// Whether the connection has outstayed its welcome.
    fn is_overdue(&self, now: Instant) -> bool {
        let quiet = now.since(self.active.get());
        let waits = self.window.borrow().unanswered > 0 || now < self.muted_until.get();
        let stalled = self.writing_since.get().is_some_and(|since| now.since(since) > limits::WRITE_STALL);
        let in_body = self.body.get().is_some_and(|body| body.reading_since.is_some());
        stalled || in_body && quiet > limits::BODY_STALL || !waits && quiet > self.broker.limits.idle
    }

    /// Ends the connection, for others need its memory.
    fn cut(&self) {
        self.is_cut.set(true);
        self.stream.shutdown();
        self.changed.ring();
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
    /// Whether the last read was filled, so that there is probably more.
    was_filled: bool,
    /// Memory reserved for the frame that has begun.
    held: Option<Reservation>,
    /// When its first bytes came.
    began: Instant,
}

impl Reader<'_> {
    /// The next frame, with its memory.
    async fn next(&mut self) -> Result<(Bytes, Reservation), End> {
        let connection = self.connection;
        let max = connection.broker.limits.request_bytes;
        loop {
            let Some(size) = announced_size(&self.buffer, max).map_err(End::Frame)? else {
                self.fill(0, usize::MAX).await?;
                continue;
            };
            let arrived = self.buffer.len() - PREFIX_BYTES;
            if arrived >= size {
                self.hold(size, size).await?;
                let last = connection.active.get();
                let first = if connection.body.get().is_some() { self.began } else { last };
                connection.broker.io().stats().stages.receive.record(last.since(first));
                connection.body.set(None);
                let frame = next_frame(&mut self.buffer, max).map_err(End::Frame)?.expect("it has arrived");
                let held = self.held.take().expect("its memory was reserved");
                return Ok((frame, held));
            }
            if connection.body.get().is_none() {
                self.began = connection.active.get();
                connection.body.set(Some(Body { size, arrived: 0, reading: Duration::ZERO, reading_since: None }));
            }
            let missing = size - arrived;
            let piece = missing.min(self.piece(size));
            self.hold(size, arrived + piece).await?;
            self.fill(missing.min(limits::LARGE_REQUEST), piece).await?;
        }
    }

    /// How much memory to reserve ahead of what arrives.
    fn piece(&self, size: usize) -> usize {
        let broker = &self.connection.broker;
        if self.connection.body.get().is_some_and(|body| body.is_slow(broker.io().now())) {
            return limits::PIECE_OF_SLOW;
        }
        let (accounts, class) = (broker.core.accounts(), class_of(size));
        match accounts.left(class) > accounts.limit(class) / 2 {
            true => limits::PIECE_WITH_ROOM,
            false => limits::PIECE,
        }
    }

    /// Reserves `bytes` in all for the frame that has begun, which is `size` bytes long. If there is no room, those who
    /// are slow make it; who is not slow has his turn.
    async fn hold(&mut self, size: usize, bytes: usize) -> Result<(), End> {
        let connection = self.connection;
        let (broker, class) = (&connection.broker, class_of(size));
        let mut held = self.held.take().unwrap_or_else(|| broker.core.accounts().nothing(class));
        let more = bytes.saturating_sub(held.bytes());
        if !held.try_grow(more) {
            loop {
                let seen = connection.changed.rings();
                let is_slow = connection.body.get().is_some_and(|body| body.is_slow(broker.io().now()));
                let grown = async {
                    match is_slow {
                        true => held.grow(more).await,
                        false => held.grow_in_turn(more).await,
                    }
                    true
                };
                let waited = async {
                    let rung = connection.changed.rung_since(seen);
                    future::or(broker.io().sleep(limits::MEMORY_PATIENCE), rung).await;
                    false
                };
                if future::or(grown, waited).await {
                    break;
                }
                if connection.is_cut.get() || connection.window.borrow().writer_gone {
                    return Err(End::Closed);
                }
                broker.connections.cut_slow_bodies(broker, class);
            }
        }
        self.held = Some(held);
        Ok(())
    }

    /// Reads `most` bytes at most, into room for `missing` bytes if a frame has begun.
    async fn fill(&mut self, missing: usize, most: usize) -> Result<(), End> {
        let connection = self.connection;
        let io = connection.broker.io();
        let mut size = self.size;
        if self.buffer.is_empty() {
            // What is left of a buffer keeps the whole of it from being freed.
            self.buffer = BytesMut::new();
            if !self.was_filled {
                // Nothing may come for long.
                size = size.min(limits::READ_BYTES_WHEN_QUIET);
            }
        }
        self.buffer.reserve(missing.max(size));
        let room = (self.buffer.capacity() - self.buffer.len()).min(most);
        let body = connection.body.get();
        let since = io.now();
        connection.body.set(body.map(|body| Body { reading_since: Some(since), ..body }));
        let result;
        (result, self.buffer) = connection.stream.read_up_to(std::mem::take(&mut self.buffer), most).await;
        let reading = io.now().since(since);
        let read = result.map_err(|_| End::Closed)?;
        connection.body.set(body.map(|body| Body {
            arrived: body.arrived + read,
            reading: body.reading + reading,
            ..body
        }));
        if read == 0 {
            return Err(End::Closed);
        }
        connection.active.set(io.now());
        self.adapt(read, room);
        Ok(())
    }

    /// Reads twice as much next time if this read was filled, half as much if it came nearly empty.
    fn adapt(&mut self, read: usize, room: usize) {
        self.was_filled = read == room;
        let size = match read {
            _ if read == room => self.size * 2,
            _ if read < self.size / 4 => self.size / 2,
            _ => self.size,
        };
        self.size = size.clamp(*limits::READ_BYTES.start(), *limits::READ_BYTES.end());
    }
}

/// Requests of one class wait for memory behind their like only.
fn class_of(size: usize) -> accounts::Class {
    match size {
        _ if size <= limits::SMALL_REQUEST => accounts::Class::ReceivedSmall,
        _ if size <= limits::LARGE_REQUEST => accounts::Class::Received,
        _ => accounts::Class::ReceivedLarge,
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
    /// When slow ones were last made to make room.
    cut_bodies_at: Cell<Option<Instant>>,
    cut_readers_at: Cell<Option<Instant>>,
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

    /// How many are open.
    pub(crate) fn count(&self) -> usize {
        self.open.borrow().len()
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

    /// Ends connections whose requests arrive slowly, the slowest first, until a quarter of the class is free: others
    /// wait for their memory.
    fn cut_slow_bodies(&self, broker: &Broker, class: accounts::Class) {
        let now = broker.io().now();
        let recently = |last: Instant| now.since(last) < limits::MEMORY_PATIENCE;
        if self.cut_bodies_at.get().is_some_and(recently) {
            return;
        }
        self.cut_bodies_at.set(Some(now));
        let is_candidate = |connection: &Rc<Connection>| {
            let body = connection.body.get().filter(|body| body.class() == class && body.is_slow(now));
            body.filter(|_| !connection.is_cut.get()).map(|body| (body.rate(now), body.arrived))
        };
        let mut slow: Vec<_> = self
            .list()
            .into_iter()
            .filter_map(|connection| is_candidate(&connection).map(|(rate, arrived)| (rate, arrived, connection)))
            .collect();
        slow.sort_by_key(|(rate, ..)| *rate);
        let mut freed = 0;
        for (_, arrived, connection) in slow {
            if freed >= broker.core.accounts().limit(class) / 4 {
                break;
            }
            freed += arrived;
            connection.complain("its request arrives slowly, and others wait for the memory");
            connection.cut();
        }
    }

    /// Ends connections that leave their answers unread, those that do so longest first, as long as anything is missing:
    /// others wait for the memory of theirs.
    fn cut_slow_readers(&self, broker: &Broker) {
        let now = broker.io().now();
        if self.cut_readers_at.get().is_some_and(|last| now.since(last) < limits::MEMORY_PATIENCE) {
            return;
        }
        self.cut_readers_at.set(Some(now));
        let stalled_since = |connection: &Rc<Connection>| {
            let since = connection.writing_since.get().filter(|_| !connection.is_cut.get());
            since.filter(|since| now.since(*since) >= limits::SMALL_ANSWER_STALL)
        };
        let mut stalled: Vec<_> = self.list();
        stalled.retain(|connection| stalled_since(connection).is_some());
        stalled.sort_by_key(|connection| connection.writing_since.get());
        for connection in stalled.iter().take(stalled.len().div_ceil(4)) {
            connection.complain("its answers are not read, and others wait for the memory");
            connection.cut();
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

/// Classes that never hold more than they may, whatever clients do.
const KEPT_STRICTLY: [accounts::Class; 7] = [
    accounts::Class::ReceivedSmall,
    accounts::Class::Received,
    accounts::Class::ReceivedLarge,
    accounts::Class::AnswersSmall,
    accounts::Class::FetchSessions,
    accounts::Class::ShareSessions,
    accounts::Class::Waiters,
];

/// Cuts connections that are idle or stalled.
pub async fn janitor(broker: Rc<Broker>) {
    while !broker.is_stopping() {
        broker.io().sleep(limits::JANITOR_INTERVAL).await;
        let now = broker.io().now();
        let exceeded = broker.core.accounts().exceeded();
        debug_assert!(
            !exceeded.iter().any(|class| KEPT_STRICTLY.contains(class)),
            "{exceeded:?} hold more than they may"
        );
        for connection in broker.connections.list() {
            if connection.is_overdue(now) {
                tracing::debug!(peer = %connection.peer, "connection idle or stalled, closed");
                connection.stream.shutdown();
            }
        }
    }
}
