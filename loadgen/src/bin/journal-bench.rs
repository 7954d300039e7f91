//! `journal-bench`: durable commits below the log, in a journal shared by all partitions (as the engine does
//! it) against a file for each partition, on the real ring.
//!
//! Each partition commits one batch after the other: it appends, waits until the bytes are on stable storage,
//! and goes on. With the journal, whoever is ready joins a group; with files, each commit is a write of its
//! own, padded to whole blocks, with a flush of its own (RWF_DSYNC). Both write into files that were written
//! before, so that no flush moves metadata, and both checksum what they write.
//!
//! Rounds alternate between the two within one run, since a disk's speed changes from minute to minute.
//! Nothing here knows clients, records or logs.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use engine::io::buffer::{BLOCK, Buffer};
use engine::io::local::{Bell, Sender, oneshot};
use engine::io::uring::{self, CoreSpec};
use engine::io::{Class, File, Io, OpenMode};
use engine::log::PartitionId;
use engine::log::group::{Entry, EntryKind};
use engine::log::journal::{DiskFailure, Journal, JournalConfig, JournalStart, file_name};
use engine::protocol::Uuid;
use hdrhistogram::Histogram;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Size of a file, for the journal's and for the partitions'.
const JOURNAL_FILE_BYTES: u64 = 64 << 20;
const PARTITION_FILE_BYTES: u64 = 8 << 20;
/// Journal files that are there from the start, so that none is made while the clock runs.
const JOURNAL_FILES_READY: u32 = 4;
/// Clock ticks in a second in `/proc`: fixed in Linux's interface (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

/// Durable commits per second and processor time for each: one journal against a file per partition.
///
/// Prints CSV. cpu_us_per_commit is this process's processor time; machine_cpu_us_per_commit is that of the
/// whole machine, kernel threads and everybody else included. Latencies are from the append until durable.
#[derive(Debug, Clone, Parser)]
#[command(name = "journal-bench", version)]
struct Settings {
    /// Directory for the files, which are removed at the end; on the disk to be measured
    #[arg(long, value_name = "DIR", default_value = "journal-bench-data")]
    dir: PathBuf,
    /// Numbers of partitions to measure with; each has one commit under way
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,16,64")]
    partitions: Vec<usize>,
    /// Bytes of one commit
    #[arg(long, value_name = "BYTES", default_value_t = 170)]
    bytes: usize,
    /// How long to measure each
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    seconds: f64,
    /// How long to run before measuring
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5)]
    warmup: f64,
    /// How often to alternate between journal and files
    #[arg(long, value_name = "N", default_value_t = 2)]
    rounds: usize,
}

#[derive(Debug, Clone, Copy)]
enum Layout {
    Journal,
    Files,
}

impl Layout {
    fn name(self) -> &'static str {
        match self {
            Layout::Journal => "journal",
            Layout::Files => "file-per-partition",
        }
    }
}

fn main() -> Result<()> {
    let settings = Settings::parse();
    validate(&settings)?;
    println!(
        "round,layout,partitions,bytes,seconds,commits,commits_per_s,cpu_us_per_commit,machine_cpu_us_per_commit,p50_us,p99_us,max_us"
    );
    for round in 1..=settings.rounds {
        for &partitions in &settings.partitions {
            for layout in [Layout::Journal, Layout::Files] {
                let outcome = measure(&settings, layout, partitions)
                    .with_context(|| format!("{} with {partitions} partitions", layout.name()))?;
                print(round, layout, partitions, settings.bytes, &outcome);
            }
        }
    }
    Ok(())
}

fn validate(settings: &Settings) -> Result<()> {
    ensure!(settings.partitions.iter().all(|n| (1..=1024).contains(n)), "--partitions are between 1 and 1024");
    ensure!((1..=1 << 20).contains(&settings.bytes), "--bytes is between 1 and {}", 1 << 20);
    ensure!(settings.seconds > 0.0 && settings.seconds <= 3600.0, "--seconds is above 0 and at most 3600");
    ensure!((0.0..=3600.0).contains(&settings.warmup), "--warmup is between 0 and 3600");
    Ok(())
}

/// One measurement.
struct Outcome {
    seconds: f64,
    commits: u64,
    cpu_s: f64,
    machine_cpu_s: f64,
    latencies_ns: Histogram<u64>,
}

fn print(round: usize, layout: Layout, partitions: usize, bytes: usize, outcome: &Outcome) {
    let Outcome { seconds, commits, cpu_s, machine_cpu_s, latencies_ns } = outcome;
    let each = |cpu_s: f64| cpu_s * 1e6 / (*commits).max(1) as f64;
    let us = |quantile| latencies_ns.value_at_quantile(quantile) as f64 / 1e3;
    println!(
        "{round},{},{partitions},{bytes},{seconds:.3},{commits},{:.0},{:.2},{:.2},{:.0},{:.0},{:.0}",
        layout.name(),
        *commits as f64 / seconds,
        each(*cpu_s),
        each(*machine_cpu_s),
        us(0.5),
        us(0.99),
        us(1.0),
    );
}

#[allow(clippy::disallowed_methods, reason = "directories are made and removed while no clock runs")]
fn measure(settings: &Settings, layout: Layout, partitions: usize) -> Result<Outcome> {
    let dir = settings.dir.join(format!("{}-{}", std::process::id(), layout.name()));
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let result = Arc::new(Mutex::new(None));
    let (place, settings, data) = (result.clone(), settings.clone(), dir.clone());
    let started = uring::run(vec![CoreSpec::new("journal-bench", None, Duration::ZERO)], move |io| {
        let (place, settings, data) = (place.clone(), settings.clone(), data.clone());
        async move {
            let outcome = on_core(&io, &settings, &data, layout, partitions).await;
            *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        }
    });
    std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    started?;
    let outcome = result.lock().unwrap_or_else(PoisonError::into_inner).take();
    outcome.context("interrupted")?
}

async fn on_core(io: &Io, settings: &Settings, dir: &Path, layout: Layout, partitions: usize) -> Result<Outcome> {
    let commits: Commits = match layout {
        Layout::Journal => Commits::Journal(Rc::new(JournalCommits::begin(io, dir, partitions).await?)),
        Layout::Files => Commits::Files(Rc::new(FileCommits::begin(io, dir, partitions).await?)),
    };
    let meter = Rc::new(Meter::new(partitions)?);
    for partition in 0..partitions {
        let (io, commits, meter, bytes) = (io.clone(), commits.clone(), meter.clone(), settings.bytes);
        io.clone().spawn(Class::Foreground, async move {
            if let Err(error) = commit_repeatedly(&io, &commits, &meter, partition, bytes).await {
                meter.error.borrow_mut().get_or_insert(error);
            }
            meter.left.set(meter.left.get() - 1);
            meter.ended.ring();
        });
    }
    io.sleep(Duration::from_secs_f64(settings.warmup)).await;
    let (begun, own, machine) = (io.now(), own_ticks()?, machine_ticks()?);
    meter.counting.set(true);
    io.sleep(Duration::from_secs_f64(settings.seconds)).await;
    meter.counting.set(false);
    let seconds = io.now().since(begun).as_secs_f64();
    let (cpu_s, machine_cpu_s) = (own_ticks()? - own, machine_ticks()? - machine);
    meter.stop.set(true);
    meter.ended.until(|| (meter.left.get() == 0).then_some(())).await;
    let failed = meter.error.borrow_mut().take();
    failed.map_or(Ok(()), Err)?;
    let latencies_ns = meter.latencies_ns.borrow().clone();
    Ok(Outcome { seconds, commits: latencies_ns.len(), cpu_s, machine_cpu_s, latencies_ns })
}

/// What the partitions report to.
struct Meter {
    /// Of the commits that became durable while `counting`.
    latencies_ns: RefCell<Histogram<u64>>,
    counting: Cell<bool>,
    stop: Cell<bool>,
    /// Partitions that have not ended.
    left: Cell<usize>,
    ended: Bell,
    error: RefCell<Option<anyhow::Error>>,
}

impl Meter {
    fn new(partitions: usize) -> Result<Meter> {
        Ok(Meter {
            latencies_ns: RefCell::new(Histogram::new_with_bounds(1_000, 600_000_000_000, 3)?),
            counting: Cell::new(false),
            stop: Cell::new(false),
            left: Cell::new(partitions),
            ended: Bell::default(),
            error: RefCell::new(None),
        })
    }
}

async fn commit_repeatedly(io: &Io, to: &Commits, meter: &Meter, partition: usize, bytes: usize) -> Result<()> {
    let payload = vec![partition as u8; bytes];
    while !meter.stop.get() {
        let from = io.now();
        match to {
            Commits::Journal(journal) => journal.commit(partition, &payload).await?,
            Commits::Files(files) => files.commit(partition, &payload).await?,
        }
        if meter.counting.get() {
            meter.latencies_ns.borrow_mut().saturating_record(io.now().since(from).as_nanos() as u64);
        }
    }
    Ok(())
}

#[derive(Clone)]
enum Commits {
    Journal(Rc<JournalCommits>),
    Files(Rc<FileCommits>),
}

/// Commits through the engine's journal.
struct JournalCommits {
    journal: Journal,
    failure: DiskFailure,
    /// Who waits for its partition's entry.
    waiting: Rc<RefCell<Vec<Option<Sender<()>>>>>,
    offsets: RefCell<Vec<i64>>,
}

impl JournalCommits {
    async fn begin(io: &Io, dir: &Path, partitions: usize) -> Result<JournalCommits> {
        let mut ready = Vec::new();
        for number in 0..JOURNAL_FILES_READY {
            ready.push(written_file(io, &dir.join(file_name(number)), JOURNAL_FILE_BYTES).await?);
        }
        let mut id = [0; 16];
        id[..8].copy_from_slice(&io.random_u64().to_le_bytes());
        let start = JournalStart { journal: id, file_sequence: 1, last_sequence: 0, last_crc: 0 };
        let config = JournalConfig { dir: dir.to_owned(), file_bytes: JOURNAL_FILE_BYTES };
        let failure = DiskFailure::default();
        let journal = Journal::new(io.clone(), config, start, ready, JOURNAL_FILES_READY, failure.clone());
        journal.begin().await?;
        let waiting = Rc::new(RefCell::new(Vec::new()));
        waiting.borrow_mut().resize_with(partitions, || None);
        io.spawn(Class::Foreground, settle(journal.clone(), waiting.clone()));
        Ok(JournalCommits { journal, failure, waiting, offsets: RefCell::new(vec![0; partitions]) })
    }

    async fn commit(&self, partition: usize, payload: &[u8]) -> Result<()> {
        self.journal.room(payload.len()).await;
        let (sender, durable) = oneshot();
        self.waiting.borrow_mut()[partition] = Some(sender);
        self.journal.append(self.next_entry(partition), payload, |_| {});
        durable.await.with_context(|| format!("the journal has failed: {}", self.failure.is_set()))
    }

    fn next_entry(&self, partition: usize) -> Entry {
        let offset = &mut self.offsets.borrow_mut()[partition];
        *offset += 1;
        Entry {
            kind: EntryKind::Append,
            id: PartitionId { topic_id: Uuid([7; 16]), partition: partition as i32 },
            ownership: 1,
            base_offset: *offset - 1,
            end_offset: *offset,
            leader_epoch: 0,
            length: 0,
            crc: 0,
        }
    }
}

/// Tells the partitions of each durable group, and gives its file back: nothing else needs it here.
async fn settle(journal: Journal, waiting: Rc<RefCell<Vec<Option<Sender<()>>>>>) {
    loop {
        let durable = journal.next_durable().await;
        for entry in &durable.group.entries {
            let sender = waiting.borrow_mut()[entry.id.partition as usize].take();
            sender.expect("a partition waits for its one commit").send(());
        }
        journal.release_before(durable.file_sequence);
        journal.dealt_with();
    }
}

/// Commits to a file for each partition, each with a write and a flush of its own.
struct FileCommits(RefCell<Vec<(File, u64)>>);

impl FileCommits {
    async fn begin(io: &Io, dir: &Path, partitions: usize) -> Result<FileCommits> {
        let mut files = Vec::new();
        for partition in 0..partitions {
            files.push((written_file(io, &dir.join(format!("{partition}.log")), PARTITION_FILE_BYTES).await?, 0));
        }
        Ok(FileCommits(RefCell::new(files)))
    }

    async fn commit(&self, partition: usize, payload: &[u8]) -> Result<()> {
        let mut block = Buffer::with_capacity(4 + payload.len());
        block.extend_from_slice(&crc32c::crc32c(payload).to_le_bytes());
        block.extend_from_slice(payload);
        block.pad_to_block();
        let (file, position) = {
            let (file, position) = &mut self.0.borrow_mut()[partition];
            if *position + block.len() as u64 > PARTITION_FILE_BYTES {
                *position = 0;
            }
            let at = *position;
            *position += block.len() as u64;
            (file.clone(), at)
        };
        Ok(file.write_durable_at(position, block.freeze()).await?)
    }
}

/// A file of `size` bytes that has been written and flushed.
async fn written_file(io: &Io, path: &Path, size: u64) -> Result<File> {
    let file = io.open(path, OpenMode::Create).await.with_context(|| format!("cannot open {}", path.display()))?;
    file.allocate(0, size).await?;
    let zeros = Buffer::zeroed(256 * BLOCK).freeze();
    let mut position = 0;
    while position < size {
        let len = (size - position).min(zeros.len() as u64);
        file.write_at(position, zeros.slice(..len as usize)).await?;
        position += len;
    }
    file.sync().await?;
    Ok(file)
}

/// Processor seconds of this process, its io_uring workers included: utime and stime, fields 14 and 15.
fn own_ticks() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").context("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').context("/proc/self/stat has no command")?;
    sum(fields.split_whitespace().skip(11).take(2))
}

/// Processor seconds that the machine was not idle: all of `cpu` but idle and iowait.
fn machine_ticks() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/stat").context("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat is empty")?;
    let fields: Vec<&str> = line.split_whitespace().collect();
    ensure!(fields.len() > 7, "/proc/stat has no line for all processors");
    sum(fields[1..4].iter().chain(&fields[6..8]).copied())
}

fn sum<'a>(fields: impl Iterator<Item = &'a str>) -> Result<f64> {
    let mut ticks = 0.0;
    for field in fields {
        ticks += field.parse::<f64>().context("a number of /proc")?;
    }
    Ok(ticks / TICKS_PER_SECOND)
}
