//! A broker's cores together: start, messages between them, stop.
//!
//! Cores 0 to n−1 are shards, core n keeps the metadata. The metadata core recovers: it reads the metadata
//! log, every checkpoint and every journal, whatever cores there were, and hands each shard its logs. A shard
//! puts what was behind the drained ends into a journal file of this start, under a new ownership number,
//! and then writes a checkpoint of its own; only when all shards have, the old files are given up. A crash
//! at any point leaves either the old files or everything that replaces them.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::identity;
use super::message::{Reply, Request, owner};
use super::purgatory::Asker;
use super::quorum::Quorum;
use super::{Shard, ShardStart, partition_dir, remove_dir_with_files, remove_partition_dir};
use crate::accounts::{self, Accounts};
use crate::controller::{ControllerReply, ControllerRequest, MetadataImage, Settings};
use crate::io::buffer::bound_pool;
use crate::io::local::{self, Bell};
use crate::io::mailbox::{Mailbox, mailboxes};
use crate::io::{Class, DetachedStream, Io, OpenMode, Stream};
use crate::limits::{
    CHECKPOINT_RESERVE_BYTES, COORDINATOR_SNAPSHOT_BYTES, JOURNAL_FILE_STEP, JOURNAL_FILES, POOL_SHARE, largest_batch,
};
use crate::log::checkpoint::{self, Checkpoint};
use crate::log::drain::PARTITION_METADATA;
use crate::log::group::Entry;
use crate::log::journal::{DiskFailure, Journal, JournalConfig, JournalStart, lock};
use crate::log::recovery::{self, Piece, Recovered, RecoveredJournal, RecoveredLog};
use crate::log::reserve::Reserve;
use crate::log::{Log, PartitionId};
use crate::record::batch::batches;

/// How a broker is laid out. The same on all of its cores.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Where everything is.
    pub data_dir: PathBuf,
    /// The broker's id.
    pub node_id: i32,
    /// Cores that own partitions; one more keeps the metadata.
    pub shards: usize,
    /// The bound of all journals together, in bytes; a replay reads no more.
    pub journal_bytes: u64,
    /// Memory for the whole process, in bytes.
    pub memory_bytes: u64,
    /// The broker's static settings.
    pub settings: Arc<Settings>,
    /// Whether the operator accepts what damage has destroyed: suspended partitions take produce again.
    pub accept_loss: bool,
    /// Batches of at least so many bytes are written straight to their segment, and the journal names their place;
    /// `None` for never.
    pub past_journal_bytes: Option<usize>,
    /// Growth of a coordinator's log after which its state is written anew, in bytes; none for the usual one.
    pub snapshot_after_bytes: Option<u64>,
    /// File descriptors that the process may have; `None` for as many as it likes. See
    /// [`log_descriptors`](crate::limits::log_descriptors).
    pub descriptors: Option<usize>,
}

impl NodeConfig {
    fn journal_file_bytes(&self) -> u64 {
        let bytes = self.journal_bytes / (self.shards as u64 * JOURNAL_FILES as u64);
        bytes.max(JOURNAL_FILE_STEP).next_multiple_of(JOURNAL_FILE_STEP)
    }
}

/// Why a broker does not start: a sentence with the remedy.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub String);

impl StartError {
    pub(super) fn io(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> StartError {
        move |error| StartError(format!("{what}: {error}"))
    }
}

/// What travels between the cores of a broker.
pub enum Message {
    /// Hand these logs to the shard.
    Start(Box<StartOf>),
    /// The shard has taken over what it was handed, durably; or has not.
    Adopted(Result<(), StartError>),
    /// Old files may be given up now.
    Release,
    /// The shard has given them up; or could not.
    Released(Result<(), StartError>),
    /// The broker is ready with this image; or is not.
    Ready(Result<Arc<MetadataImage>, StartError>),
    /// A request, its sender and the token of its answer.
    Request(usize, u64, Request),
    /// The answer to the sender's token.
    Reply(u64, Reply),
    /// The sender no longer waits for the answer to this token. It is answered at once, if it is not on its way.
    Cancel(usize, u64),
    /// A request to the controller.
    Control(usize, u64, ControllerRequest),
    /// Its answer.
    ControlReply(u64, ControllerReply),
    /// A connection that the receiver serves from now on.
    Connection(DetachedStream, SocketAddr),
}

/// What a shard starts from.
pub struct StartOf {
    image: Arc<MetadataImage>,
    journal: Option<RecoveredJournal>,
    logs: Vec<RecoveredLog>,
    /// See [`Recovered::is_unproved`].
    is_unproved: bool,
}

/// The mailboxes of a broker, one for each core.
pub fn node_mailboxes(config: &NodeConfig) -> Vec<Mailbox<Message>> {
    mailboxes(config.shards + 1)
}

/// Where an answer goes.
pub enum ReplyTo {
    /// To a task of this core.
    Local(local::Sender<Reply>),
    /// To another core's token, by this core, which is gone when the broker is.
    Remote(Weak<CoreState>, usize, u64),
}

impl ReplyTo {
    /// Answers.
    pub fn send(self, reply: Reply) {
        match self {
            ReplyTo::Local(sender) => sender.send(reply),
            ReplyTo::Remote(core, to, token) => {
                let Some(core) = core.upgrade() else { return };
                match to == core.io.core() {
                    true => core.take_reply(token, reply),
                    false => core.mailbox.send(&core.io, to, Message::Reply(token, reply)),
                }
            }
        }
    }

    /// The core and token of who asked, if he gave one.
    pub(super) fn asker(&self) -> Option<Asker> {
        match self {
            ReplyTo::Local(_) => None,
            ReplyTo::Remote(_, core, token) => Some((*core, *token)),
        }
    }
}

/// The answer to a request that waits for something. Whoever drops it no longer waits, and its shard is told.
pub struct Waiting {
    core: Core,
    shard: usize,
    token: u64,
    reply: local::Receiver<Reply>,
    is_over: bool,
}

impl Future for Waiting {
    type Output = Option<Reply>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Reply>> {
        let reply = Pin::new(&mut self.reply).poll(cx);
        self.is_over |= reply.is_ready();
        reply
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.is_over {
            self.core.cancel(self.shard, self.token);
        }
    }
}

/// What a core is made of.
pub struct CoreState {
    io: Io,
    mailbox: Mailbox<Message>,
    config: Arc<NodeConfig>,
    image: RefCell<Arc<MetadataImage>>,
    shard: RefCell<Option<Rc<Shard>>>,
    next_token: Cell<u64>,
    replies: RefCell<BTreeMap<u64, local::Sender<Reply>>>,
    control_replies: RefCell<BTreeMap<u64, local::Sender<ControllerReply>>>,
    /// Requests to the controller, on the metadata core.
    controls: RefCell<VecDeque<(usize, u64, ControllerRequest)>>,
    control_bell: Bell,
    connections: RefCell<VecDeque<(DetachedStream, SocketAddr)>>,
    connection_bell: Bell,
    accounts: Accounts,
    failure: DiskFailure,
}

impl CoreState {
    fn take_reply(&self, token: u64, reply: Reply) {
        let sender = self.replies.borrow_mut().remove(&token);
        sender.expect("each answer has its question").send(reply);
    }
}

/// One core's handle to the broker.
#[derive(Clone)]
pub struct Core(Rc<CoreState>);

/// Starts this core's part of a broker; returns on every core when the broker is ready on all of them.
pub async fn start(io: Io, mailbox: Mailbox<Message>, config: Arc<NodeConfig>) -> Result<Core, StartError> {
    let state = CoreState {
        io: io.clone(),
        mailbox,
        config: config.clone(),
        image: RefCell::default(),
        shard: RefCell::new(None),
        next_token: Cell::new(0),
        replies: RefCell::default(),
        control_replies: RefCell::default(),
        controls: RefCell::default(),
        control_bell: Bell::default(),
        connections: RefCell::default(),
        connection_bell: Bell::default(),
        accounts: Accounts::new(config.memory_bytes / config.shards as u64),
        failure: DiskFailure::default(),
    };
    let core = Core(Rc::new(state));
    if io.core() == config.shards {
        core.start_metadata().await?;
    } else {
        core.start_shard().await?;
    }
    let dispatcher = core.clone();
    io.spawn(Class::Foreground, async move { dispatcher.dispatch().await });
    Ok(core)
}

impl Core {
    /// The core's handle to the world.
    pub fn io(&self) -> &Io {
        &self.0.io
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.0.config.shards
    }

    /// The layout of the broker.
    pub fn config(&self) -> &NodeConfig {
        &self.0.config
    }

    /// The newest image that this core has applied.
    pub fn image(&self) -> Arc<MetadataImage> {
        self.0.image.borrow().clone()
    }

    /// The core's memory by its use; its shard has the same.
    pub fn accounts(&self) -> &Accounts {
        &self.0.accounts
    }

    /// Shows the states of this core's shard among what it counts; the metadata core has none.
    pub fn publish_figures(&self) {
        for (class, gauge) in accounts::Class::ALL.iter().zip(&self.0.io.stats().accounts) {
            gauge.set(self.0.accounts.used(*class) as i64);
        }
        if let Some(shard) = self.0.shard.borrow().as_ref() {
            shard.publish_figures();
        }
    }

    /// Completes when the disk has failed under this core: the process must leave.
    pub async fn failed(&self) -> String {
        self.0.failure.wait().await
    }

    /// Queues the request for that shard at once, in the order of the calls. The future gives the answer, or
    /// `None` if the broker is going away.
    pub fn request(&self, shard: usize, request: Request) -> local::Receiver<Reply> {
        let (sender, receiver) = local::oneshot();
        match self.own_shard(shard) {
            Some(own) => own.handle(request, ReplyTo::Local(sender)),
            None => {
                let token = self.token();
                self.0.replies.borrow_mut().insert(token, sender);
                self.send(shard, Message::Request(self.0.io.core(), token, request));
            }
        }
        receiver
    }

    /// As [`Core::request`], for one that waits for news: it is cancelled when the answer is no longer waited for.
    pub fn wait(&self, shard: usize, request: Request) -> Waiting {
        let (sender, reply) = local::oneshot();
        let (token, own_number) = (self.token(), self.0.io.core());
        self.0.replies.borrow_mut().insert(token, sender);
        match self.own_shard(shard) {
            Some(own) => own.handle(request, ReplyTo::Remote(Rc::downgrade(&self.0), own_number, token)),
            None => self.send(shard, Message::Request(own_number, token, request)),
        }
        Waiting { core: self.clone(), shard, token, reply, is_over: false }
    }

    fn cancel(&self, shard: usize, token: u64) {
        let own_number = self.0.io.core();
        match self.own_shard(shard) {
            Some(own) => own.cancel((own_number, token)),
            None => self.send(shard, Message::Cancel(own_number, token)),
        }
    }

    /// The shard of that number, if it is this core's.
    fn own_shard(&self, number: usize) -> Option<Rc<Shard>> {
        self.0.shard.borrow().as_ref().filter(|_| number == self.0.io.core()).cloned()
    }

    /// Requests that wait on this core, for stable storage or for news.
    pub fn waiting(&self) -> usize {
        self.0.shard.borrow().as_ref().map_or(0, |shard| shard.waiting())
    }

    /// Answers that this core waits for from others.
    pub fn replies_under_way(&self) -> usize {
        self.0.replies.borrow().len()
    }

    /// Asks the controller; answered when the change is durable and in force on every core.
    pub async fn controller(&self, request: ControllerRequest) -> Option<ControllerReply> {
        let (sender, receiver) = local::oneshot();
        let token = self.token();
        self.0.control_replies.borrow_mut().insert(token, sender);
        self.send(self.shards(), Message::Control(self.0.io.core(), token, request));
        receiver.await
    }

    /// Gives a connection to another core, which gets it from [`Core::next_connection`].
    pub fn hand_over(&self, core: usize, stream: DetachedStream, peer: SocketAddr) {
        self.send(core, Message::Connection(stream, peer));
    }

    /// The next connection that was given to this core.
    pub async fn next_connection(&self) -> (Stream, SocketAddr) {
        let (stream, peer) = self.0.connection_bell.until(|| self.0.connections.borrow_mut().pop_front()).await;
        (self.0.io.adopt(stream), peer)
    }

    /// Stops every shard cleanly, so that the next start has nothing to replay; whether all could.
    pub async fn stop(&self) -> bool {
        let stops: Vec<_> = (0..self.shards()).map(|shard| self.request(shard, Request::Stop)).collect();
        let mut are_clean = true;
        for stop in stops {
            are_clean &= matches!(stop.await, Some(Reply::Stop(true)));
        }
        are_clean
    }

    /// Sends on what the shard asks of others, for ever.
    async fn forward(&self, shard: &Shard) {
        loop {
            let (to, request, sender) = shard.next_outgoing().await;
            let token = self.token();
            self.0.replies.borrow_mut().insert(token, sender);
            self.send(to, Message::Request(self.0.io.core(), token, request));
        }
    }

    fn token(&self) -> u64 {
        let token = self.0.next_token.get();
        self.0.next_token.set(token + 1);
        token
    }

    fn send(&self, to: usize, message: Message) {
        self.0.mailbox.send(&self.0.io, to, message);
    }

    async fn dispatch(&self) {
        loop {
            for message in self.0.mailbox.receive().await {
                self.receive(message);
            }
        }
    }

    fn receive(&self, message: Message) {
        match message {
            Message::Request(from, token, request) => {
                self.note_image(&request);
                let shard = self.0.shard.borrow().clone();
                match shard {
                    Some(shard) => shard.handle(request, ReplyTo::Remote(Rc::downgrade(&self.0), from, token)),
                    // The metadata core only follows the image.
                    None => self.send(from, Message::Reply(token, Reply::Apply)),
                }
            }
            Message::Reply(token, reply) => self.0.take_reply(token, reply),
            Message::Cancel(from, token) => {
                let shard = self.0.shard.borrow().clone();
                shard.expect("only shards are asked to wait").cancel((from, token));
            }
            Message::Control(from, token, request) => {
                self.0.controls.borrow_mut().push_back((from, token, request));
                self.0.control_bell.ring();
            }
            Message::ControlReply(token, reply) => {
                let sender = self.0.control_replies.borrow_mut().remove(&token);
                sender.expect("each answer has its question").send(reply);
            }
            Message::Connection(stream, peer) => {
                self.0.connections.borrow_mut().push_back((stream, peer));
                self.0.connection_bell.ring();
            }
            Message::Start(_) | Message::Adopted(_) | Message::Release | Message::Released(_) | Message::Ready(_) => {
                unreachable!("the start is over")
            }
        }
    }

    fn note_image(&self, request: &Request) {
        if let Request::Apply(image) = request {
            *self.0.image.borrow_mut() = image.clone();
        }
    }

    /// The next message of the start.
    async fn next_of_start(&self, early: &mut VecDeque<Message>) -> Message {
        if early.is_empty() {
            early.extend(self.0.mailbox.receive().await);
        }
        early.pop_front().expect("a mailbox gives at least one message")
    }
}

/// The shard's side of the start.
impl Core {
    async fn start_shard(&self) -> Result<(), StartError> {
        let metadata = self.shards();
        let mut early = VecDeque::new();
        let start = match self.next_of_start(&mut early).await {
            Message::Start(start) => *start,
            Message::Ready(Err(error)) => return Err(error),
            _ => unreachable!("a start begins with the logs"),
        };
        let old = start.journal.clone();
        let adopted = self.adopt(start).await;
        self.send(metadata, Message::Adopted(adopted.clone()));
        let mut requests = VecDeque::new();
        loop {
            match self.next_of_start(&mut early).await {
                Message::Release => {
                    let released = self.release(old.as_ref()).await;
                    self.send(metadata, Message::Released(released));
                }
                Message::Ready(ready) => {
                    let image = ready?;
                    adopted?;
                    *self.0.image.borrow_mut() = image;
                    let shard = self.0.shard.borrow().clone().expect("the shard was adopted");
                    shard.run();
                    let core = self.clone();
                    self.0.io.spawn(Class::Foreground, async move { core.forward(&shard).await });
                    requests.into_iter().chain(early).for_each(|message| self.receive(message));
                    return Ok(());
                }
                // Another core was told earlier that the broker is ready, and asks already.
                request => requests.push_back(request),
            }
        }
    }

    /// Gives up the files that an earlier start left, now that every core has taken over what they hold.
    async fn release(&self, old: Option<&RecoveredJournal>) -> Result<(), StartError> {
        let shard = self.0.shard.borrow().clone();
        match (old, shard) {
            (Some(old), Some(shard)) => {
                self.give_up_old_files(old, &shard).await.map_err(StartError::io(old.dir.display()))
            }
            _ => {
                self.keep_reserve().await;
                Ok(())
            }
        }
    }

    /// Keeps room for the next start, which may find the disk full.
    async fn keep_reserve(&self) {
        let (io, config) = (&self.0.io, &self.0.config);
        let dir = journal_dir(&config.data_dir, io.core());
        Reserve::new(io, &dir, reserve_bytes(config, config.journal_file_bytes())).keep().await;
    }

    /// Opens the journal and puts everything behind the drained ends into it, durably, then a checkpoint.
    async fn adopt(&self, start: StartOf) -> Result<(), StartError> {
        let config = &self.0.config;
        let dir = journal_dir(&config.data_dir, self.0.io.core());
        self.adopt_into(start, dir.clone()).await.map_err(StartError::io(dir.display()))
    }

    async fn adopt_into(&self, start: StartOf, dir: PathBuf) -> io::Result<()> {
        let (io, config) = (&self.0.io, &self.0.config);
        let file_bytes = config.journal_file_bytes();
        let known = start.journal;
        make_dir(io, &dir).await?;
        let free = known.as_ref().map(|journal| journal.free.clone()).unwrap_or_default();
        let reusable = open_reusable(io, &dir, &free, file_bytes).await?;
        let begin = known.as_ref().map_or_else(|| new_journal(io), |journal| journal.start);
        let next_name = known.as_ref().map_or(0, |journal| journal.next_name);
        let generation = known.as_ref().map_or(0, |journal| journal.generation);
        let journal = Journal::new(
            io.clone(),
            JournalConfig { dir: dir.clone(), file_bytes },
            begin,
            reusable,
            next_name,
            self.0.failure.clone(),
        );
        let reserve = Reserve::new(io, &dir, reserve_bytes(config, file_bytes));
        reserve.give_up_if_needed().await?;
        journal.begin().await?;
        let replay_from = journal.current_file_sequence();
        let memory = config.memory_bytes / config.shards as u64;
        bound_pool((memory / POOL_SHARE) as usize);
        let shard = Shard::new(ShardStart {
            io: io.clone(),
            data_dir: config.data_dir.clone(),
            settings: config.settings.clone(),
            image: start.image.clone(),
            number: (io.core(), config.shards),
            journal: journal.clone(),
            failure: self.0.failure.clone(),
            largest_batch: largest_batch(file_bytes),
            checkpoint: Checkpoint::after(io.clone(), dir, generation),
            accounts: self.0.accounts.clone(),
            past_journal: config.past_journal_bytes.unwrap_or(usize::MAX),
            snapshot_after_bytes: config.snapshot_after_bytes.unwrap_or(COORDINATOR_SNAPSHOT_BYTES),
            most_extent_bytes: file_bytes * JOURNAL_FILES as u64,
        });
        shard.run_settling();
        let mut waiting = Vec::new();
        for recovered in start.logs {
            let topic = start
                .image
                .topics
                .get(&recovered.record.id.topic_id)
                .expect("logs of unknown topics were dropped")
                .clone();
            waiting.push((topic.clone(), recovered));
        }
        for (topic, recovered) in waiting {
            let ownership = recovered.record.ownership + 1;
            let dir = partition_dir(&config.data_dir, &topic.name, recovered.record.id.partition);
            let mut log = Log::restore(recovered.record, dir, Default::default());
            log.set_ownership(ownership);
            if config.accept_loss && log.is_suspended() {
                tracing::warn!(partition = %log.id, "its end could not be proved; the loss is accepted");
                log.accept_loss();
            }
            let id = log.id;
            shard.add(&topic, log);
            shard.adopt(id, recovered.pieces).await?;
        }
        shard.apply_new(&start.image, start.is_unproved && !config.accept_loss);
        journal.idle_or(&self.0.failure).await;
        if self.0.failure.is_set() {
            return Err(io::Error::other("the disk failed while the logs were taken over"));
        }
        shard.write_checkpoint(replay_from).await?;
        journal.keep_to_bound();
        *self.0.shard.borrow_mut() = Some(shard);
        Ok(())
    }

    /// The files of earlier starts hold nothing that is needed now.
    async fn give_up_old_files(&self, old: &RecoveredJournal, shard: &Rc<Shard>) -> io::Result<()> {
        let io = &self.0.io;
        checkpoint::remove_others(io, &old.dir, Some(shard.checkpoint_generation())).await?;
        let files = open_reusable(io, &old.dir, &old.needed, self.0.config.journal_file_bytes()).await?;
        shard.take_free_files(files);
        self.keep_reserve().await;
        Ok(())
    }
}

/// What a start writes before it can give anything back: what was in no segment, in files of the journal, and a
/// checkpoint's two copies.
fn reserve_bytes(config: &NodeConfig, file_bytes: u64) -> u64 {
    let most_undrained = config.memory_bytes / config.shards as u64 / 4;
    let files = most_undrained.div_ceil(file_bytes) + 2;
    files.min(JOURNAL_FILES as u64) * file_bytes + CHECKPOINT_RESERVE_BYTES
}

/// Opens and locks the files of that size, for the journal to use again; removes the others.
async fn open_reusable(io: &Io, dir: &Path, names: &[String], file_bytes: u64) -> io::Result<Vec<crate::io::File>> {
    let mut files = Vec::new();
    for name in names {
        let path = dir.join(name);
        let file = io.open(&path, OpenMode::ReadWrite).await?;
        if file.len().await? == file_bytes && files.len() < JOURNAL_FILES {
            lock(io, &file).await?;
            files.push(file);
        } else {
            io.remove_file(&path).await?;
        }
    }
    Ok(files)
}

fn new_journal(io: &Io) -> JournalStart {
    let mut journal = [0; 16];
    journal[..8].copy_from_slice(&io.random_u64().to_le_bytes());
    journal[8..].copy_from_slice(&io.random_u64().to_le_bytes());
    JournalStart { journal, file_sequence: 1, last_sequence: 0, last_crc: 0 }
}

/// Makes a directory if it is not there. Its name is flushed also if it is: an earlier start may have been
/// killed before it came to that, and what is then put into the directory is no safer than its name.
async fn make_dir(io: &Io, dir: &Path) -> io::Result<()> {
    match io.create_dir(dir).await {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    match dir.parent() {
        Some(here) if here.as_os_str().is_empty() => io.sync_dir(Path::new(".")).await,
        Some(parent) => io.sync_dir(parent).await,
        None => Ok(()),
    }
}

/// Behind a journal's number: it is being removed, and nobody reads it.
const GONE: &str = "-gone";

/// Removes what is left of journals that are being removed.
async fn remove_gone_journals(io: &Io, root: &Path) -> io::Result<()> {
    for entry in io.read_dir(root).await?.iter().filter(|entry| entry.is_dir && entry.name.ends_with(GONE)) {
        remove_dir_with_files(io, &root.join(&entry.name)).await?;
    }
    io.sync_dir(root).await
}

fn journals_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("@journal")
}

fn journal_dir(data_dir: &Path, number: usize) -> PathBuf {
    journals_dir(data_dir).join(number.to_string())
}

/// The metadata core's side of the start.
impl Core {
    async fn start_metadata(&self) -> Result<(), StartError> {
        let result = self.start_all().await;
        let (ready, result) = match result {
            Ok((quorum, image)) => (Ok(image.clone()), Ok((quorum, image))),
            Err(error) => (Err(error.clone()), Err(error)),
        };
        for shard in 0..self.shards() {
            self.send(shard, Message::Ready(ready.clone()));
        }
        let (quorum, image) = result?;
        *self.0.image.borrow_mut() = image;
        let core = self.clone();
        self.0.io.spawn(Class::Foreground, async move { core.serve_controller(quorum).await });
        Ok(())
    }

    async fn start_all(&self) -> Result<(Quorum, Arc<MetadataImage>), StartError> {
        let (io, config) = (&self.0.io, &self.0.config);
        let data_dir = &config.data_dir;
        let lock_file = claim(io, data_dir).await?;
        identity::claim_for(&lock_file, data_dir, config.node_id).await?;
        refuse_lost_metadata(io, data_dir).await?;
        let quorum = Quorum::open(io.clone(), data_dir, config.settings.clone())
            .await
            .map_err(|error| StartError(error.to_string()))?;
        let image = quorum.image();
        let root = journals_dir(data_dir);
        let quarantine = data_dir.join("@quarantine");
        make_dir(io, &root).await.map_err(StartError::io(root.display()))?;
        remove_gone_journals(io, &root).await.map_err(StartError::io(root.display()))?;
        make_dir(io, &quarantine).await.map_err(StartError::io(quarantine.display()))?;
        let started = io.now();
        let recovered = recovery::recover(io, &root, &quarantine).await.map_err(StartError::io(root.display()))?;
        tracing::info!(
            bytes_read = recovered.bytes_read,
            partitions = recovered.logs.len(),
            corrupt_groups = recovered.corrupt_groups,
            millis = io.now().since(started).as_millis() as u64,
            "journals are read"
        );
        self.remove_strays(&recovered, &image).await.map_err(StartError::io(data_dir.display()))?;
        self.hand_out(recovered, &image).await?;
        // Held for as long as the process lives.
        let io_task = io.clone();
        io.spawn(Class::Background, async move {
            let _lock_file = lock_file;
            loop {
                io_task.sleep(std::time::Duration::from_secs(3600)).await;
            }
        });
        Ok((quorum, image))
    }

    /// Removes directories of topics that are gone, and what a deletion left half done.
    async fn remove_strays(&self, recovered: &Recovered, image: &MetadataImage) -> io::Result<()> {
        let (io, data_dir) = (&self.0.io, &self.0.config.data_dir);
        let mut known: Vec<String> = Vec::new();
        // A partition's first batches may have gone past the journal, to a segment of which no checkpoint knows yet.
        let is_extent = |piece: &Piece| matches!(piece, Piece::Extent(..));
        let has_files = |log: &&RecoveredLog| !log.record.segments.is_empty() || log.pieces.iter().any(is_extent);
        for log in recovered.logs.values().filter(has_files) {
            if let Some(topic) = image.topics.get(&log.record.id.topic_id) {
                known.push(format!("{}-{}", topic.name, log.record.id.partition));
            }
        }
        known.sort_unstable();
        for entry in io.read_dir(data_dir).await? {
            let is_partition = entry.is_dir && !entry.name.starts_with('@') && looks_like_partition(&entry.name);
            if is_partition && known.binary_search(&entry.name).is_err() {
                self.refuse_lost_journal(&data_dir.join(&entry.name), recovered, image).await?;
                tracing::info!(directory = entry.name, "removing a directory that no topic owns");
                let doomed = format!("@doomed-{}", entry.name);
                remove_partition_dir(io, data_dir, &data_dir.join(&entry.name), &doomed).await?;
            } else if entry.is_dir && entry.name.starts_with("@doomed-") {
                remove_dir_with_files(io, &data_dir.join(&entry.name)).await?;
            }
        }
        Ok(())
    }

    /// A partition that the metadata knows and that has a directory is known to a checkpoint or to a journal, or
    /// these are lost: then what the directory holds is not removed.
    async fn refuse_lost_journal(&self, dir: &Path, recovered: &Recovered, image: &MetadataImage) -> io::Result<()> {
        let Some(id) = partition_of(&self.0.io, dir).await? else { return Ok(()) };
        if !has_partition(image, id) || recovered.logs.contains_key(&id) {
            return Ok(());
        }
        let what = "holds records, but no journal or checkpoint in @journal knows of it; restore @journal, or move the \
                    directory away if its records may be lost";
        Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} {what}", dir.display())))
    }

    /// Gives each shard its logs, and waits until all have taken them over; then old files are given up.
    async fn hand_out(&self, recovered: Recovered, image: &Arc<MetadataImage>) -> Result<(), StartError> {
        let shards = self.shards();
        let Recovered { logs, mut journals, is_unproved, .. } = recovered;
        let mut starts: Vec<StartOf> = (0..shards)
            .map(|shard| (image.clone(), journals.remove(&shard)))
            .map(|(image, journal)| StartOf { image, journal, logs: Vec::new(), is_unproved })
            .collect();
        for (id, log) in logs {
            if has_partition(image, id) {
                starts[owner(id, shards)].logs.push(log);
            }
        }
        for (shard, start) in starts.into_iter().enumerate() {
            self.send(shard, Message::Start(Box::new(start)));
        }
        let mut early = VecDeque::new();
        let mut result = Ok(());
        for _ in 0..shards {
            let Message::Adopted(adopted) = self.next_of_start(&mut early).await else {
                unreachable!("a shard says first that it has adopted")
            };
            result = result.and(adopted);
        }
        result.clone()?;
        for shard in 0..shards {
            self.send(shard, Message::Release);
        }
        for _ in 0..shards {
            let Message::Released(released) = self.next_of_start(&mut early).await else {
                unreachable!("a shard says that it has released")
            };
            result = result.and(released);
        }
        result?;
        for journal in journals.into_values() {
            self.remove_journal(&journal).await.map_err(StartError::io(journal.dir.display()))?;
        }
        early.into_iter().for_each(|message| self.receive(message));
        Ok(())
    }

    /// Removes a journal that has no core any more: all of it at once by its name, for a part of its files would
    /// look like damage to the next start.
    async fn remove_journal(&self, journal: &RecoveredJournal) -> io::Result<()> {
        let io = &self.0.io;
        let mut gone = journal.dir.clone().into_os_string();
        gone.push(GONE);
        let root = journals_dir(&self.0.config.data_dir);
        io.rename(&journal.dir, Path::new(&gone)).await?;
        io.sync_dir(&root).await?;
        remove_gone_journals(io, &root).await
    }

    /// Serves the controller's requests in their order, for ever.
    async fn serve_controller(&self, mut quorum: Quorum) {
        loop {
            let (from, token, request) = self.0.control_bell.until(|| self.0.controls.borrow_mut().pop_front()).await;
            let (reply, image) = quorum.handle(request).await;
            if quorum.has_failed() {
                self.0.failure.set("a write of the metadata log failed".to_owned());
                return;
            }
            if let Some(image) = image {
                self.publish(image).await;
            }
            self.send(from, Message::ControlReply(token, reply));
        }
    }

    /// Puts the image in force on every core.
    async fn publish(&self, image: Arc<MetadataImage>) {
        *self.0.image.borrow_mut() = image.clone();
        let applied: Vec<_> =
            (0..self.shards()).map(|shard| self.request(shard, Request::Apply(image.clone()))).collect();
        for applied in applied {
            applied.await;
        }
    }
}

/// Journals without a metadata log: to found a new cluster over them would throw every record away.
async fn refuse_lost_metadata(io: &Io, data_dir: &Path) -> Result<(), StartError> {
    let entries = io.read_dir(data_dir).await.map_err(StartError::io(data_dir.display()))?;
    let has = |name: &str| entries.iter().any(|entry| entry.name == name);
    let holds_records =
        has("@journal") || entries.iter().any(|entry| entry.is_dir && looks_like_partition(&entry.name));
    if holds_records && !has(super::quorum::METADATA_DIRECTORY) {
        let what = "holds records but no metadata log; restore @metadata, or move the directory away to begin anew";
        return Err(StartError(format!("the data directory {} {what}", data_dir.display())));
    }
    Ok(())
}

fn has_partition(image: &MetadataImage, id: PartitionId) -> bool {
    image.topics.get(&id.topic_id).is_some_and(|topic| (id.partition as usize) < topic.partitions.len())
}

/// The partition that a directory says it belongs to; `None` if it does not say, or holds no records.
async fn partition_of(io: &Io, dir: &Path) -> io::Result<Option<PartitionId>> {
    let files = io.read_dir(dir).await?;
    let has_records = files.iter().any(|file| file.name.ends_with(".log"));
    let number = dir.file_name().and_then(|name| name.to_str()?.rsplit_once('-')?.1.parse().ok());
    let (true, Some(partition)) = (has_records && files.iter().any(|file| file.name == PARTITION_METADATA), number)
    else {
        return Ok(None);
    };
    let file = io.open(&dir.join(PARTITION_METADATA), OpenMode::Read).await?;
    let text = file.read_at(0, crate::io::buffer::BLOCK).await?;
    let topic_id =
        String::from_utf8_lossy(&text).lines().find_map(|line| line.strip_prefix("topic_id: ")?.parse().ok());
    Ok(topic_id.map(|topic_id| PartitionId { topic_id, partition }))
}

/// `<topic>-<partition>`, or `<topic id>-<partition>-delete`.
fn looks_like_partition(name: &str) -> bool {
    let name = name.strip_suffix("-delete").unwrap_or(name);
    name.rsplit_once('-').is_some_and(|(topic, partition)| !topic.is_empty() && partition.parse::<u32>().is_ok())
}

/// Makes the data directory if it is not there, and claims it for this process.
async fn claim(io: &Io, data_dir: &Path) -> Result<crate::io::File, StartError> {
    make_dir(io, data_dir)
        .await
        .map_err(StartError::io(format!("the data directory {} cannot be made", data_dir.display())))?;
    let path = data_dir.join("@lock");
    let file = io.open(&path, OpenMode::Create).await.map_err(StartError::io(format!(
        "{} cannot be opened; the data directory must be writable and on a filesystem with direct I/O (ext4, XFS)",
        path.display()
    )))?;
    match lock(io, &file).await {
        Ok(()) => Ok(file),
        Err(error) => Err(StartError(format!(
            "the data directory {} is in use: {error}; stop the other broker, or give this one a --data-dir of its own",
            data_dir.display()
        ))),
    }
}

/// What an operator is to do about a batch that no file of the journal holds.
fn too_small_a_journal(id: PartitionId, batch_bytes: usize, shards: usize) -> String {
    let least = (2 * batch_bytes as u64 + (1 << 20)) * (JOURNAL_FILES * shards) as u64;
    format!(
        "partition {id} has a batch of {batch_bytes} bytes in the journal of the last start, which is larger than this \
         journal takes; start once with --journal {}MiB or more (nothing is lost)",
        least.div_ceil(1 << 20)
    )
}

impl Shard {
    /// Takes over what recovery found behind a log's drained end.
    async fn adopt(&self, id: PartitionId, pieces: Vec<Piece>) -> io::Result<()> {
        for piece in pieces {
            match piece {
                Piece::Damaged(end) => self.adopt_damage(id, end).await,
                Piece::Bytes(entry, bytes) => self.adopt_bytes(id, &entry, &bytes).await?,
                Piece::Extent(entry, extent) => {
                    let mut dir = PathBuf::new();
                    self.with_log(id, |log| dir = log.dir().to_owned());
                    match extent.read(&self.io, &dir, id).await? {
                        Some(bytes) => {
                            self.adopt_bytes(id, &entry, &recovery::behind(&bytes, entry.base_offset)).await?
                        }
                        None => self.adopt_damage(id, entry.end_offset).await,
                    }
                }
            }
            if self.failure.is_set() {
                break;
            }
        }
        Ok(())
    }

    /// Damage counts from the durable end: what comes before it must have become durable.
    async fn adopt_damage(&self, id: PartitionId, end: i64) {
        self.journal.idle_or(&self.failure).await;
        self.with_log(id, |log| log.mark_damaged(end));
    }

    /// Batch by batch, if they came from a journal with larger files than this one's.
    async fn adopt_bytes(&self, id: PartitionId, entry: &Entry, bytes: &Bytes) -> io::Result<()> {
        if bytes.len() <= self.largest_batch {
            return self.adopt_whole(id, entry, bytes).await;
        }
        let mut position = 0;
        for batch in batches(bytes) {
            let batch = batch.expect("recovery hands on whole batches");
            let (base_offset, end_offset) = (batch.base_offset(), batch.last_offset() + 1);
            let part = bytes.slice(position..position + batch.total_size());
            position += batch.total_size();
            if part.len() > self.largest_batch {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    too_small_a_journal(id, part.len(), self.shards),
                ));
            }
            self.adopt_whole(id, &Entry { base_offset, end_offset, ..*entry }, &part).await?;
        }
        Ok(())
    }

    async fn adopt_whole(&self, id: PartitionId, entry: &Entry, bytes: &Bytes) -> io::Result<()> {
        if !self.journal.has_room(bytes.len()) {
            let failed = async {
                drop(self.failure.wait().await);
                Ok(())
            };
            futures_lite::future::or(self.journal.room_at_start(bytes.len()), failed).await?;
        }
        if !self.failure.is_set() {
            self.with_log(id, |log| log.adopt(&self.journal, entry, bytes));
        }
        Ok(())
    }

    fn with_log(&self, id: PartitionId, act: impl FnOnce(&mut Log)) {
        let partitions = self.partitions.borrow();
        act(&mut partitions.get(&id).expect("an adopted log has its partition").log.borrow_mut());
    }

    /// Makes the partitions of the image that no journal knew. If journals hold groups of which nothing is known, these
    /// may have been a partition's first: then it takes no produce until an operator accepts the loss.
    fn apply_new(&self, image: &MetadataImage, suspended: bool) {
        for topic in image.topics.values() {
            for partition in 0..topic.partitions.len() as i32 {
                let id = PartitionId { topic_id: topic.id, partition };
                let is_own = owner(id, self.shards) == self.number;
                let is_known = self.partitions.borrow().contains_key(&id);
                if is_own {
                    self.apply_partition(topic, id);
                }
                if is_own && !is_known && suspended {
                    tracing::error!(partition = %id, "its records may be among those that are lost: no produce until the loss is accepted");
                    self.with_log(id, Log::suspend);
                }
            }
        }
    }

    fn checkpoint_generation(&self) -> u64 {
        self.checkpoint.borrow().as_ref().map_or(0, Checkpoint::generation)
    }

    fn take_free_files(&self, files: Vec<crate::io::File>) {
        self.journal.add_free(files);
    }
}
