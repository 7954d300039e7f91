//! What may go wrong, how often, and how often it did.
//!
//! Each class is a probability of its own, so that a seed can switch classes on and off (swarm testing): a
//! run in which everything fails hides the bugs that need one fault and quiet around it.

use std::fmt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use super::random::Random;

/// Which paths may be damaged at rest or by lost and misdirected writes.
pub type PathFilter = Rc<dyn Fn(&Path) -> bool>;

/// Probabilities of the fault classes; per operation unless said otherwise. All are in `0.0..=1.0`.
#[derive(Clone)]
pub struct Faults {
    /// A disk read returns fewer blocks than asked for (never none).
    pub short_read: f64,
    /// A disk write takes fewer bytes than given: whole sectors, never none.
    pub short_write: f64,
    /// A disk operation ends with EINTR or EAGAIN and has done nothing.
    pub transient: f64,
    /// A read fails with EIO.
    pub read_error: f64,
    /// A write fails with EIO; any part of it may have landed.
    pub write_error: f64,
    /// A flush fails with EIO; unsynced writes of the file may be gone, though a later flush succeeds.
    pub sync_error: f64,
    /// A write or flush ends with ECANCELED and has done nothing.
    pub canceled: f64,
    /// A write or allocation that grows a file, a new name or a renaming fails with ENOSPC (besides the disk's real
    /// bound).
    pub no_space: f64,
    /// An operation that needs a descriptor (an open, the listing or the flush of a directory) fails with EMFILE or
    /// ENFILE.
    pub no_descriptors: f64,
    /// An operation ends with ENOMEM and has done nothing. Flushes and durable writes do not: after such an error
    /// of theirs nobody knows what is on the medium, so they are for [`super::World::fail_operations`].
    pub no_memory: f64,
    /// A few sectors cannot be read any more; until they are written, or for good. Per node and
    /// [`Faults::MISCHIEF_INTERVAL`].
    pub unreadable: f64,
    /// A disk operation takes 20 to 1000 times as long as usual.
    pub slow_disk: f64,
    /// A disk operation stalls for 1 to 10 s.
    pub stall: f64,
    /// A write is acknowledged and flushed but never reaches the medium.
    pub lost_write: f64,
    /// A write goes to another block of the same or another file.
    pub misdirected_write: f64,
    /// A bit flips at rest; per node and [`Faults::MISCHIEF_INTERVAL`].
    pub bit_flip: f64,
    /// What may be damaged; `None` is everything.
    pub damage_filter: Option<PathFilter>,
    /// A network write or read moves only a part of what it could; and how often a chunk is cut in two.
    pub chunking: f64,
    /// A network delivery takes up to [`Faults::network_delay_max`] instead of a fraction of a millisecond.
    pub network_delay: f64,
    /// The longest ordinary network delay.
    pub network_delay_max: Duration,
    /// A connection is reset at a write.
    pub reset: f64,
    /// An accept fails (ECONNABORTED or EMFILE).
    pub accept_error: f64,
    /// A pair of nodes is parted, one way or both; per [`Faults::MISCHIEF_INTERVAL`]. It heals by itself.
    pub partition: f64,
    /// A node's wall clock jumps, by up to a year either way; per node and [`Faults::MISCHIEF_INTERVAL`].
    pub clock_jump: f64,
    /// A message between cores is late (up to 1 ms).
    pub slow_mail: f64,
}

impl Faults {
    /// The mean time between two looks at the periodic classes.
    pub const MISCHIEF_INTERVAL: Duration = Duration::from_millis(250);

    /// Nothing goes wrong; only order and latency are drawn from the seed.
    pub fn none() -> Faults {
        Faults {
            short_read: 0.0,
            short_write: 0.0,
            transient: 0.0,
            read_error: 0.0,
            write_error: 0.0,
            sync_error: 0.0,
            canceled: 0.0,
            no_space: 0.0,
            no_descriptors: 0.0,
            no_memory: 0.0,
            unreadable: 0.0,
            slow_disk: 0.0,
            stall: 0.0,
            lost_write: 0.0,
            misdirected_write: 0.0,
            bit_flip: 0.0,
            damage_filter: None,
            chunking: 0.0,
            network_delay: 0.0,
            network_delay_max: Duration::from_millis(50),
            reset: 0.0,
            accept_error: 0.0,
            partition: 0.0,
            clock_jump: 0.0,
            slow_mail: 0.0,
        }
    }

    /// Switches each class on for about half of the seeds, at a rate drawn from the seed.
    /// `damage` allows the classes that the ledger excuses: lost and misdirected writes, flips. Lacks of descriptors and
    /// of memory and lasting EIO are for the caller to add.
    pub fn swarm(seed: u64, damage: bool) -> Faults {
        let mut random = Random::stream(seed, 0x5357_4152_4d21);
        let network_delay_max = Duration::from_millis(1 + random.below(200));
        let mut draw = |most: f64| {
            let on = random.coin();
            let rate = most * (random.below(1000) + 1) as f64 / 1000.0;
            if on { rate } else { 0.0 }
        };
        let mut faults = Faults {
            short_read: draw(0.1),
            short_write: draw(0.1),
            transient: draw(0.1),
            read_error: draw(0.001),
            write_error: draw(0.0005),
            sync_error: draw(0.002),
            canceled: draw(0.0005),
            no_space: draw(0.0005),
            no_descriptors: 0.0,
            no_memory: 0.0,
            unreadable: 0.0,
            slow_disk: draw(0.02),
            stall: draw(0.001),
            lost_write: draw(0.0005),
            misdirected_write: draw(0.0005),
            bit_flip: draw(0.05),
            damage_filter: None,
            chunking: draw(0.5),
            network_delay: draw(0.1),
            network_delay_max,
            reset: draw(0.002),
            accept_error: draw(0.05),
            partition: draw(0.05),
            clock_jump: draw(0.02),
            slow_mail: draw(0.1),
        };
        if !damage {
            faults.lost_write = 0.0;
            faults.misdirected_write = 0.0;
            faults.bit_flip = 0.0;
        }
        faults
    }

    pub(super) fn may_damage(&self, path: &Path) -> bool {
        self.damage_filter.as_ref().is_none_or(|filter| filter(path))
    }
}

/// A class of faults, as counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
#[allow(missing_docs)] // named as the fields of `Faults`, or by themselves
pub enum FaultClass {
    ShortRead,
    ShortWrite,
    Transient,
    ReadError,
    WriteError,
    SyncError,
    SyncErrorDropped,
    Canceled,
    NoSpace,
    NoDescriptors,
    NoMemory,
    Unreadable,
    UnreadableRead,
    LostFile,
    ShortenedFile,
    Planned,
    SlowDisk,
    Stall,
    LostWrite,
    MisdirectedWrite,
    BitFlip,
    Chunking,
    NetworkDelay,
    Reset,
    AcceptError,
    Partition,
    ClockJump,
    SlowMail,
    Pause,
    Kill,
    KillInFlight,
    PowerLoss,
    LostUnsynced,
    TornSector,
    LostName,
    LostLength,
}

const CLASSES: [FaultClass; 36] = [
    FaultClass::ShortRead,
    FaultClass::ShortWrite,
    FaultClass::Transient,
    FaultClass::ReadError,
    FaultClass::WriteError,
    FaultClass::SyncError,
    FaultClass::SyncErrorDropped,
    FaultClass::Canceled,
    FaultClass::NoSpace,
    FaultClass::NoDescriptors,
    FaultClass::NoMemory,
    FaultClass::Unreadable,
    FaultClass::UnreadableRead,
    FaultClass::LostFile,
    FaultClass::ShortenedFile,
    FaultClass::Planned,
    FaultClass::SlowDisk,
    FaultClass::Stall,
    FaultClass::LostWrite,
    FaultClass::MisdirectedWrite,
    FaultClass::BitFlip,
    FaultClass::Chunking,
    FaultClass::NetworkDelay,
    FaultClass::Reset,
    FaultClass::AcceptError,
    FaultClass::Partition,
    FaultClass::ClockJump,
    FaultClass::SlowMail,
    FaultClass::Pause,
    FaultClass::Kill,
    FaultClass::KillInFlight,
    FaultClass::PowerLoss,
    FaultClass::LostUnsynced,
    FaultClass::TornSector,
    FaultClass::LostName,
    FaultClass::LostLength,
];

/// How often each class of faults fired.
#[derive(Clone, PartialEq, Eq)]
pub struct Coverage([u64; CLASSES.len()]);

impl Default for Coverage {
    fn default() -> Coverage {
        Coverage([0; CLASSES.len()])
    }
}

impl Coverage {
    pub(super) fn add(&mut self, class: FaultClass, times: u64) {
        self.0[class as usize] += times;
    }

    /// How often `class` fired.
    pub fn count(&self, class: FaultClass) -> u64 {
        self.0[class as usize]
    }

    /// All classes with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (FaultClass, u64)> + '_ {
        CLASSES.iter().map(|class| (*class, self.count(*class)))
    }

    /// Adds another run's counts.
    pub fn merge(&mut self, other: &Coverage) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }
}

impl fmt::Debug for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}
