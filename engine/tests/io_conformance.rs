//! What every backend of `Io` must do. Each case runs on two cores of a fresh world; where the cores have
//! different parts, the case asks for its core.

#![allow(clippy::unwrap_used, reason = "a failed operation fails the case")]
#![allow(clippy::disallowed_methods, reason = "the directory of a case is made outside of the world under test")]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use engine::io::buffer::{BLOCK, Buffer};
use engine::io::local::oneshot;
use engine::io::mailbox::{Mailbox, mailboxes};
use engine::io::sim::{self, Faults};
use engine::io::uring::{self, CoreSpec};
use engine::io::{Class, DetachedStream, File, Io, OpenMode, Stream};

const CORES: usize = 2;
/// No single operation of the soak may take longer: a lost wake-up takes for ever, a late one up to here.
const LONGEST: Duration = Duration::from_secs(1);

enum Message {
    Number(u64),
    Address(SocketAddr),
    Stream(DetachedStream),
}

/// What the cores of a case share.
struct World {
    dir: PathBuf,
    mailboxes: Mutex<Vec<Option<Mailbox<Message>>>>,
}

impl World {
    fn new(dir: PathBuf) -> Arc<World> {
        let mailboxes = mailboxes(CORES).into_iter().map(Some).collect();
        Arc::new(World { dir, mailboxes: Mutex::new(mailboxes) })
    }

    fn mailbox(&self, io: &Io) -> Mailbox<Message> {
        self.mailboxes.lock().unwrap()[io.core()].take().expect("a core takes its mailbox once")
    }
}

type CaseFuture = Pin<Box<dyn Future<Output = ()>>>;

struct Case {
    name: &'static str,
    body: fn(Io, Arc<World>) -> CaseFuture,
}

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        const CASES: &[Case] = &[$(Case { name: stringify!($name), body: |io, world| Box::pin($name(io, world)) }),*];

        mod on_uring {
            $(#[test] fn $name() { super::on_uring(stringify!($name)); })*
        }

        mod on_sim {
            $(#[test] fn $name() { super::on_sim(stringify!($name)); })*
        }
    };
}

cases! {
    a_file_keeps_what_was_written,
    a_durable_write_is_read_back,
    a_read_past_the_end_is_short,
    a_file_is_truncated_and_allocated,
    a_missing_file_is_not_found_and_a_made_one_is_not_made_twice,
    a_lock_excludes_another_open_file,
    directories_are_made_listed_renamed_and_removed,
    a_dropped_write_still_happens,
    a_dropped_read_leaves_the_file_usable,
    more_operations_than_the_ring_holds,
    a_sleep_is_never_short_and_sleeps_end_in_order,
    a_dropped_sleep_wakes_nobody,
    a_yield_lets_others_run,
    a_stream_echoes_large_writes_through_small_reads,
    a_stream_is_written_in_many_chunks,
    a_shutdown_wakes_the_reader_here_and_there,
    a_dropped_stream_reaches_the_peer,
    a_dropped_accept_takes_one_connection_at_most,
    a_refused_connection_is_an_error,
    messages_arrive_in_order_both_ways,
    a_message_wakes_a_sleeping_core,
    a_connection_moves_between_cores,
    tasks_left_behind_are_dropped,
    many_small_operations_with_pauses,
}

/// Runs the named case on the production backend, in a directory of its own on a real disk.
fn on_uring(name: &str) {
    let case = CASES.iter().find(|case| case.name == name).expect("a case of that name");
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    let world = World::new(dir.clone());
    // Small queues, so that the cases reach their ends; no spin, so that every wait is a sleep.
    let small = |core| CoreSpec {
        submission_entries: 64,
        completion_entries: 256,
        ..CoreSpec::new(format!("core-{core}"), None, Duration::ZERO)
    };
    let body = case.body;
    uring::run((0..CORES).map(small).collect(), move |io| body(io, world.clone())).unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Runs the named case in simulation, under some seeds without faults.
fn on_sim(name: &str) {
    let case = CASES.iter().find(|case| case.name == name).expect("a case of that name");
    for seed in 0..8 {
        let simulation = sim::World::new(seed, Faults::none());
        let node = simulation.add_node();
        let world = World::new(PathBuf::from("/"));
        simulation.start(node, CORES, |io| (case.body)(io, world.clone()));
        let ended = simulation.run_until(Duration::from_secs(3600), || !simulation.is_running(node));
        assert!(ended, "seed {seed}: the case does not end");
    }
}

/// `blocks` blocks whose every word says which it is and which `seed` made it.
fn pattern(seed: u64, blocks: usize) -> Bytes {
    let mut buffer = Buffer::with_capacity(blocks * BLOCK);
    for word in 0..(blocks * BLOCK / 8) as u64 {
        buffer.extend_from_slice(&(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ word).to_le_bytes());
    }
    buffer.freeze()
}

async fn fresh(io: &Io, world: &World, name: &str) -> File {
    io.open(&world.dir.join(name), OpenMode::CreateNew).await.unwrap()
}

/// Only one core plays; the other ends at once.
macro_rules! on_core_0 {
    ($io:ident) => {
        if $io.core() != 0 {
            return;
        }
    };
}

async fn a_file_keeps_what_was_written(io: Io, world: Arc<World>) {
    on_core_0!(io);
    let file = fresh(&io, &world, "file").await;
    for (position, blocks) in [(0, 4), (4, 1), (100, 300), (2, 2)] {
        let bytes = pattern(position, blocks);
        file.write_at(position * BLOCK as u64, bytes.clone()).await.unwrap();
        assert_eq!(file.read_at(position * BLOCK as u64, bytes.len()).await.unwrap()[..], bytes[..]);
    }
    file.sync().await.unwrap();
    let gap = file.read_at(50 * BLOCK as u64, BLOCK).await.unwrap();
    assert!(gap.iter().all(|byte| *byte == 0), "what was never written is zeros");
    assert_eq!(file.len().await.unwrap(), 400 * BLOCK as u64);
    drop(file);
    let again = io.open(&world.dir.join("file"), OpenMode::Read).await.unwrap();
    let whole = again.read_at(0, 4 * BLOCK).await.unwrap();
    assert_eq!(whole[..2 * BLOCK], pattern(0, 4)[..2 * BLOCK]);
    assert_eq!(whole[2 * BLOCK..], pattern(2, 2)[..]);
}

async fn a_durable_write_is_read_back(io: Io, world: Arc<World>) {
    on_core_0!(io);
    let file = fresh(&io, &world, "file").await;
    io.sync_dir(&world.dir).await.unwrap();
    for round in 0..20 {
        file.write_durable_at(round * BLOCK as u64, pattern(round, 1)).await.unwrap();
    }
    for round in 0..20 {
        assert_eq!(file.read_at(round * BLOCK as u64, BLOCK).await.unwrap()[..], pattern(round, 1)[..]);
    }
}

async fn a_read_past_the_end_is_short(io: Io, world: Arc<World>) {
    on_core_0!(io);
    let file = fresh(&io, &world, "file").await;
    assert_eq!(file.read_at(0, BLOCK).await.unwrap().len(), 0);
    file.write_at(0, pattern(1, 3)).await.unwrap();
    assert_eq!(file.read_at(BLOCK as u64, 8 * BLOCK).await.unwrap()[..], pattern(1, 3)[BLOCK..]);
    assert_eq!(file.read_at(3 * BLOCK as u64, BLOCK).await.unwrap().len(), 0);
}

async fn a_file_is_truncated_and_allocated(io: Io, world: Arc<World>) {
    on_core_0!(io);
    let file = fresh(&io, &world, "file").await;
    file.write_at(0, pattern(1, 8)).await.unwrap();
    file.truncate(5 * BLOCK as u64 - 100).await.unwrap();
    assert_eq!(file.len().await.unwrap(), 5 * BLOCK as u64 - 100);
    assert_eq!(file.read_at(4 * BLOCK as u64, BLOCK).await.unwrap().len(), BLOCK - 100);
    file.allocate(0, 64 * BLOCK as u64).await.unwrap();
    assert_eq!(file.len().await.unwrap(), 64 * BLOCK as u64);
    let last = file.read_at(4 * BLOCK as u64, 2 * BLOCK).await.unwrap();
    assert_eq!(last[..BLOCK - 100], pattern(1, 8)[4 * BLOCK..5 * BLOCK - 100]);
    assert!(last[BLOCK - 100..].iter().all(|byte| *byte == 0), "what was cut off does not come back");
    let (total, available) = io.disk_space(&world.dir).await.unwrap();
    assert!(total >= available && available > 0);
}

async fn a_missing_file_is_not_found_and_a_made_one_is_not_made_twice(io: Io, world: Arc<World>) {
    on_core_0!(io);
    let path = world.dir.join("file");
    let error = |result: std::io::Result<File>| result.err().expect("an error").kind();
    for mode in [OpenMode::Read, OpenMode::ReadWrite] {
        assert_eq!(error(io.open(&path, mode).await), std::io::ErrorKind::NotFound);
    }
    io.open(&path, OpenMode::Create).await.unwrap().write_at(0, pattern(1, 1)).await.unwrap();
    assert_eq!(io.open(&path, OpenMode::Create).await.unwrap().len().await.unwrap(), BLOCK as u64);
    assert_eq!(error(io.open(&path, OpenMode::CreateNew).await), std::io::ErrorKind::AlreadyExists);
    let read_only = io.open(&path, OpenMode::Read).await.unwrap();
    assert!(read_only.write_at(0, pattern(2, 1)).await.is_err());
}

async fn a_lock_excludes_another_open_file(io: Io, world: Arc<World>) {
    on_core_0!(io);
    let path = world.dir.join("lock");
    let first = io.open(&path, OpenMode::Create).await.unwrap();
    assert!(first.try_lock().unwrap());
    let second = io.open(&path, OpenMode::Create).await.unwrap();
    assert!(!second.try_lock().unwrap());
    let clone = first.clone();
    drop(first);
    assert!(!second.try_lock().unwrap(), "a clone holds the lock");
    drop(clone);
    assert!(second.try_lock().unwrap());
}

async fn directories_are_made_listed_renamed_and_removed(io: Io, world: Arc<World>) {
    on_core_0!(io);
    let at = |name: &str| world.dir.join(name);
    let names = async || {
        let entries = io.read_dir(&world.dir).await.unwrap();
        entries
            .into_iter()
            .map(|entry| format!("{}{}", entry.name, if entry.is_dir { "/" } else { "" }))
            .collect::<Vec<_>>()
    };
    io.create_dir(&at("b")).await.unwrap();
    assert_eq!(io.create_dir(&at("b")).await.unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
    fresh(&io, &world, "c").await;
    fresh(&io, &world, "a").await.write_at(0, pattern(1, 1)).await.unwrap();
    assert_eq!(names().await, ["a", "b/", "c"]);
    io.rename(&at("a"), &at("c")).await.unwrap();
    io.rename(&at("b"), &at("d")).await.unwrap();
    io.sync_dir(&world.dir).await.unwrap();
    assert_eq!(names().await, ["c", "d/"]);
    assert_eq!(io.open(&at("c"), OpenMode::Read).await.unwrap().len().await.unwrap(), BLOCK as u64);
    assert!(io.remove_dir(&at("absent")).await.is_err());
    assert!(io.remove_file(&at("d")).await.is_err());
    io.remove_dir(&at("d")).await.unwrap();
    io.remove_file(&at("c")).await.unwrap();
    assert_eq!(names().await, Vec::<String>::new());
}

/// Polls `future` until it has started, then drops it.
async fn start_and_drop(io: &Io, future: impl Future<Output = ()>) {
    let mut future = Box::pin(future);
    let now = futures_lite::future::poll_once(&mut future).await;
    assert!(now.is_none(), "the operation is under way");
    io.yield_now().await;
}

async fn a_dropped_write_still_happens(io: Io, world: Arc<World>) {
    on_core_0!(io);
    let file = fresh(&io, &world, "file").await;
    for round in 0..50u64 {
        let bytes = pattern(round, 16);
        let writer = file.clone();
        start_and_drop(&io, async move { writer.write_at(round * 16 * BLOCK as u64, bytes).await.unwrap() }).await;
    }
    for round in 0..50u64 {
        let expected = pattern(round, 16);
        while file.read_at(round * 16 * BLOCK as u64, expected.len()).await.unwrap()[..] != expected[..] {
            io.sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn a_dropped_read_leaves_the_file_usable(io: Io, world: Arc<World>) {
    on_core_0!(io);
    let file = fresh(&io, &world, "file").await;
    let bytes = pattern(3, 64);
    file.write_at(0, bytes.clone()).await.unwrap();
    for _ in 0..200 {
        let reader = file.clone();
        start_and_drop(&io, async move { drop(reader.read_at(0, 64 * BLOCK).await.unwrap()) }).await;
        // Takes a buffer of the same size from the pool while the kernel may still fill the dropped one.
        let mut other = Buffer::with_capacity(64 * BLOCK);
        other.extend_from_slice(&pattern(4, 64));
        io.yield_now().await;
        assert_eq!(other[..], pattern(4, 64)[..], "a dropped read writes into nobody's memory");
    }
    assert_eq!(file.read_at(0, bytes.len()).await.unwrap()[..], bytes[..]);
}

async fn more_operations_than_the_ring_holds(io: Io, world: Arc<World>) {
    on_core_0!(io);
    const MANY: u64 = 3000;
    let file = fresh(&io, &world, "file").await;
    let done = Rc::new(Cell::new(0));
    let mut waits = Vec::new();
    for number in 0..MANY {
        let (sender, receiver) = oneshot();
        let (file, done) = (file.clone(), done.clone());
        io.spawn(Class::Foreground, async move {
            file.write_at(number * BLOCK as u64, pattern(number, 1)).await.unwrap();
            done.set(done.get() + 1);
            sender.send(());
        });
        waits.push(receiver);
    }
    for wait in waits {
        wait.await.unwrap();
    }
    assert_eq!(done.get(), MANY);
    for number in (0..MANY).step_by(7) {
        assert_eq!(file.read_at(number * BLOCK as u64, BLOCK).await.unwrap()[..], pattern(number, 1)[..]);
    }
}

async fn a_sleep_is_never_short_and_sleeps_end_in_order(io: Io, _: Arc<World>) {
    let ended = Rc::new(RefCell::new(Vec::new()));
    let mut waits = Vec::new();
    for ms in [30, 10, 50, 20, 40, 0] {
        let (sender, receiver) = oneshot();
        let (sleeper, ended) = (io.clone(), ended.clone());
        io.spawn(Class::Background, async move {
            let start = sleeper.now();
            sleeper.sleep(Duration::from_millis(ms)).await;
            assert!(sleeper.now().since(start) >= Duration::from_millis(ms));
            ended.borrow_mut().push(ms);
            sender.send(());
        });
        waits.push(receiver);
    }
    for wait in waits {
        wait.await.unwrap();
    }
    assert_eq!(*ended.borrow(), [0, 10, 20, 30, 40, 50]);
}

async fn a_dropped_sleep_wakes_nobody(io: Io, _: Arc<World>) {
    for _ in 0..100 {
        let sleeper = io.clone();
        start_and_drop(&io, async move { sleeper.sleep(Duration::from_secs(3600)).await }).await;
    }
    let start = io.now();
    io.sleep(Duration::from_millis(5)).await;
    assert!(io.now().since(start) < LONGEST);
}

async fn a_yield_lets_others_run(io: Io, _: Arc<World>) {
    for class in [Class::Foreground, Class::Replication, Class::CatchUp, Class::Background] {
        let ran = Rc::new(Cell::new(false));
        let seen = ran.clone();
        io.spawn(class, async move { seen.set(true) });
        let start = io.now();
        while !ran.get() {
            assert!(io.now().since(start) < LONGEST, "{class:?} never runs");
            io.yield_now().await;
        }
    }
}

/// Two ends of a connection.
async fn pair(io: &Io) -> (Stream, Stream) {
    let listener = io.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_address();
    assert_ne!(address.port(), 0);
    let (sender, receiver) = oneshot();
    let dialer = io.clone();
    io.spawn(Class::Foreground, async move { sender.send(dialer.connect(address).await.unwrap()) });
    let (accepted, peer) = listener.accept().await.unwrap();
    assert_eq!(peer.ip(), address.ip());
    (accepted, receiver.await.unwrap())
}

async fn read_exactly(stream: &Stream, len: usize, at_once: usize) -> Vec<u8> {
    let mut whole = Vec::new();
    while whole.len() < len {
        let (read, buffer) = stream.read(BytesMut::with_capacity(at_once.min(len - whole.len()))).await;
        assert!(read.unwrap() > 0, "the peer has not closed");
        whole.extend_from_slice(&buffer);
    }
    whole
}

async fn a_stream_echoes_large_writes_through_small_reads(io: Io, _: Arc<World>) {
    on_core_0!(io);
    let (server, client) = pair(&io).await;
    let bytes = pattern(9, 2048);
    let (echo, len) = (server.clone(), bytes.len());
    io.spawn(Class::Foreground, async move {
        let mut echoed = 0;
        while echoed < len {
            let (read, mut buffer) = echo.read(BytesMut::with_capacity(10_007)).await;
            echoed += read.unwrap();
            echo.write(vec![buffer.split().freeze()]).await.unwrap();
        }
    });
    let writer = client.clone();
    let sent = bytes.clone();
    io.spawn(Class::Foreground, async move { writer.write(vec![sent]).await.unwrap() });
    let back = read_exactly(&client, bytes.len(), 70_001).await;
    assert!(back == bytes[..], "the echo is what was sent");
    drop(server);
}

async fn a_stream_is_written_in_many_chunks(io: Io, _: Arc<World>) {
    on_core_0!(io);
    let (server, client) = pair(&io).await;
    let whole = pattern(5, 16);
    let chunks: Vec<_> =
        whole.chunks(331).map(Bytes::copy_from_slice).flat_map(|chunk| [chunk, Bytes::new()]).collect();
    assert!(chunks.len() > 300);
    let writer = server.clone();
    io.spawn(Class::Foreground, async move { writer.write(chunks).await.unwrap() });
    assert!(read_exactly(&client, whole.len(), 1 << 16).await == whole[..]);
    // A read extends what the buffer holds.
    server.write(vec![Bytes::from_static(b"world")]).await.unwrap();
    let mut buffer = BytesMut::with_capacity(64);
    buffer.extend_from_slice(b"hello ");
    let (read, buffer) = client.read(buffer).await;
    assert_eq!((read.unwrap(), &buffer[..]), (5, &b"hello world"[..]));
}

async fn a_shutdown_wakes_the_reader_here_and_there(io: Io, _: Arc<World>) {
    on_core_0!(io);
    let (server, client) = pair(&io).await;
    let mut ends = Vec::new();
    for stream in [server.clone(), client.clone()] {
        let (sender, receiver) = oneshot();
        io.spawn(Class::Foreground, async move {
            sender.send(stream.read(BytesMut::with_capacity(8)).await.0.unwrap_or(0))
        });
        ends.push(receiver);
    }
    io.sleep(Duration::from_millis(5)).await;
    server.shutdown();
    for end in ends {
        assert_eq!(end.await, Some(0));
    }
    assert!(server.write(vec![Bytes::from_static(b"late")]).await.is_err());
}

async fn a_dropped_stream_reaches_the_peer(io: Io, _: Arc<World>) {
    on_core_0!(io);
    let (server, client) = pair(&io).await;
    // A read that was under way must not keep the connection open.
    let reader = server.clone();
    start_and_drop(&io, async move { drop(reader.read(BytesMut::with_capacity(8)).await) }).await;
    drop(server);
    let (read, _) = client.read(BytesMut::with_capacity(8)).await;
    assert_eq!(read.unwrap(), 0);
}

/// A dropped accept may take a connection with it, and then closes it; the next one is accepted.
async fn a_dropped_accept_takes_one_connection_at_most(io: Io, _: Arc<World>) {
    on_core_0!(io);
    let listener = Rc::new(io.listen("127.0.0.1:0".parse().unwrap()).await.unwrap());
    let address = listener.local_address();
    for _ in 0..10 {
        start_and_drop(&io, async { drop(listener.accept().await) }).await;
        io.sleep(Duration::from_millis(1)).await;
        let (sender, accepted) = oneshot();
        let accepting = listener.clone();
        io.spawn(Class::Foreground, async move { sender.send(accepting.accept().await.unwrap().0) });
        let mut client = io.connect(address).await.unwrap();
        let greeted = client.write(vec![Bytes::from_static(b"hello")]).await;
        let ended = async { client.read(BytesMut::with_capacity(1)).await.0.is_ok_and(|read| read == 0) };
        let open = async {
            io.sleep(Duration::from_millis(50)).await;
            false
        };
        let closed = futures_lite::future::or(ended, open).await;
        if greeted.is_err() || closed {
            client = io.connect(address).await.unwrap();
            client.write(vec![Bytes::from_static(b"hello")]).await.unwrap();
        }
        assert_eq!(read_exactly(&accepted.await.unwrap(), 5, 5).await, b"hello");
    }
}

async fn a_refused_connection_is_an_error(io: Io, _: Arc<World>) {
    on_core_0!(io);
    let listener = io.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_address();
    drop(listener);
    io.sleep(Duration::from_millis(5)).await;
    assert!(io.connect(address).await.is_err());
}

/// The next message, one at a time.
struct Inbox {
    mailbox: Mailbox<Message>,
    arrived: VecDeque<Message>,
}

impl Inbox {
    fn new(io: &Io, world: &World) -> Inbox {
        Inbox { mailbox: world.mailbox(io), arrived: VecDeque::new() }
    }

    async fn next(&mut self) -> Message {
        while self.arrived.is_empty() {
            self.arrived = self.mailbox.receive().await;
        }
        self.arrived.pop_front().unwrap()
    }

    async fn number(&mut self) -> u64 {
        match self.next().await {
            Message::Number(number) => number,
            _ => panic!("a number was expected"),
        }
    }
}

async fn messages_arrive_in_order_both_ways(io: Io, world: Arc<World>) {
    const MANY: u64 = 50_000;
    let mut inbox = Inbox::new(&io, &world);
    let other = 1 - io.core();
    let mut received = 0;
    for number in 0..MANY {
        inbox.mailbox.send(&io, other, Message::Number(number));
        if number % 64 == 0 {
            io.yield_now().await;
        }
        // Never further ahead than the window, as a bounded sender is.
        while received + 1000 < number {
            assert_eq!(inbox.number().await, received);
            received += 1;
        }
    }
    while received < MANY {
        assert_eq!(inbox.number().await, received);
        received += 1;
    }
    // To itself as well.
    inbox.mailbox.send(&io, io.core(), Message::Number(7));
    assert_eq!(inbox.number().await, 7);
}

async fn a_message_wakes_a_sleeping_core(io: Io, world: Arc<World>) {
    let mut inbox = Inbox::new(&io, &world);
    let other = 1 - io.core();
    for round in 0..2000 {
        if io.core() == 0 {
            // Now and then the other core gets the time to fall asleep; at other times it is just about to.
            if round % 10 == 0 {
                io.sleep(Duration::from_micros(io.random_u64() % 300)).await;
            }
            let sent = io.now();
            inbox.mailbox.send(&io, other, Message::Number(round));
            assert_eq!(inbox.number().await, round);
            let took = io.now().since(sent);
            assert!(took < LONGEST, "round {round} took {took:?}");
        } else {
            let number = inbox.number().await;
            inbox.mailbox.send(&io, other, Message::Number(number));
        }
    }
}

async fn a_connection_moves_between_cores(io: Io, world: Arc<World>) {
    let mut inbox = Inbox::new(&io, &world);
    let other = 1 - io.core();
    if io.core() == 0 {
        let listener = io.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        inbox.mailbox.send(&io, other, Message::Address(listener.local_address()));
        let (stream, _) = listener.accept().await.unwrap();
        assert_eq!(read_exactly(&stream, 5, 5).await, b"first");
        let clone = stream.clone();
        assert!(stream.detach().is_none(), "a clone is in use");
        let detached = clone.detach().expect("the last clone");
        inbox.mailbox.send(&io, other, Message::Stream(detached));
        assert_eq!(inbox.number().await, 1);
        return;
    }
    let Message::Address(address) = inbox.next().await else { panic!("the address comes first") };
    let client = io.connect(address).await.unwrap();
    client.write(vec![Bytes::from_static(b"first")]).await.unwrap();
    let Message::Stream(detached) = inbox.next().await else { panic!("then the connection") };
    let server = io.adopt(detached);
    client.write(vec![Bytes::from_static(b"second")]).await.unwrap();
    assert_eq!(read_exactly(&server, 6, 6).await, b"second");
    server.write(vec![Bytes::from_static(b"third")]).await.unwrap();
    assert_eq!(read_exactly(&client, 5, 5).await, b"third");
    inbox.mailbox.send(&io, other, Message::Number(1));
}

async fn tasks_left_behind_are_dropped(io: Io, world: Arc<World>) {
    // Core 0 leaves a task that holds a lock, a read that never ends, and a sleep; each holds the world.
    on_core_0!(io);
    let file = io.open(&world.dir.join("lock"), OpenMode::Create).await.unwrap();
    assert!(file.try_lock().unwrap());
    let (server, client) = pair(&io).await;
    let sleeper = io.clone();
    io.spawn(Class::Background, async move {
        sleeper.sleep(Duration::from_secs(3600)).await;
        drop(file);
    });
    io.spawn(Class::Foreground, async move {
        drop(client.read(BytesMut::with_capacity(8)).await);
        drop(server);
    });
    io.yield_now().await;
}

/// Single small operations with random pauses, each waited for: what finds a lost wake-up.
async fn many_small_operations_with_pauses(io: Io, world: Arc<World>) {
    let rounds: u64 = std::env::var("CORELOG_SOAK").map_or(20_000, |rounds| rounds.parse().unwrap());
    let mut inbox = Inbox::new(&io, &world);
    let other = 1 - io.core();
    let file = fresh(&io, &world, &format!("file-{}", io.core())).await;
    let (server, client) = pair(&io).await;
    file.write_at(0, pattern(1, 16)).await.unwrap();
    io.spawn(Class::Foreground, async move {
        loop {
            let (read, buffer) = server.read(BytesMut::with_capacity(64)).await;
            if read.unwrap_or(0) == 0 || server.write(vec![buffer.freeze()]).await.is_err() {
                return;
            }
        }
    });
    for round in 0..rounds {
        let draw = io.random_u64();
        let start = io.now();
        match draw % 8 {
            0 => file.write_at((draw >> 8) % 16 * BLOCK as u64, pattern(round, 1)).await.unwrap(),
            1 => drop(file.read_at((draw >> 8) % 16 * BLOCK as u64, BLOCK).await.unwrap()),
            2 => io.sleep(Duration::from_micros((draw >> 8) % 200)).await,
            3 => inbox.mailbox.send(&io, other, Message::Number(round)),
            4 if draw & 0x700 == 0 => file.sync().await.unwrap(),
            _ => {
                client.write(vec![Bytes::from_static(b"ping")]).await.unwrap();
                assert_eq!(read_exactly(&client, 4, 4).await, b"ping");
            }
        }
        let took = io.now().since(start);
        assert!(took < LONGEST, "operation {} of round {round} took {took:?}", draw % 8);
        match (draw >> 32) % 16 {
            0 => io.sleep(Duration::from_micros((draw >> 40) % 500)).await,
            1..4 => io.yield_now().await,
            _ => {}
        }
    }
    // Both end together, so that nobody sends to a core that is gone.
    inbox.mailbox.send(&io, other, Message::Number(u64::MAX));
    let mut last = 0;
    while last != u64::MAX {
        let number = inbox.number().await;
        assert!(number >= last, "messages arrive in order");
        last = number;
    }
    client.shutdown();
}
