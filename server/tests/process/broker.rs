//! A broker's process, and the folder that is its own.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Longer than any start or stop takes on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(5);

/// What the broker writes for each fault that `CORELOG_FAULT` injects.
pub(crate) const INJECTED: &str = "a fault is injected";

/// A folder for one test, on the disk of the build and not in memory; removed when the test has passed.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(test: &str) -> Folder {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("the build's folder is writable");
        Folder(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path("data")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !thread::panicking() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// A running broker with one shard; killed when dropped.
pub(crate) struct Broker {
    child: Child,
    log: PathBuf,
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

/// A broker that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// How.
    pub(crate) status: ExitStatus,
    /// All that it has said.
    pub(crate) log: String,
}

impl Ended {
    /// Whether it ended by itself and said that something is wrong; a panic or a signal is neither.
    pub(crate) fn failed_orderly(&self) -> bool {
        self.status.code() == Some(1) && self.log.contains("corelog: ")
    }
}

/// The broker's command; flags that come later win over none of these.
pub(crate) fn command(folder: &Folder) -> Command {
    let core = core_affinity::get_core_ids().expect("the machine tells its cores")[0].id;
    let mut command = Command::new(env!("CARGO_BIN_EXE_corelog"));
    command.args(["--cores", &core.to_string(), "--memory", "64MiB", "--journal", "16MiB", "--data-dir"]);
    command.arg(folder.data()).env_remove("CORELOG_FAULT").env_remove("CORELOG_LOG").stdin(Stdio::null());
    command
}

impl Broker {
    /// Starts a broker under the rules of `CORELOG_FAULT`, or says how it ended before it listened.
    pub(crate) fn start(folder: &Folder, faults: &str) -> Result<Broker, Ended> {
        let mut command = command(folder);
        Broker::spawn(
            folder,
            command.args(["--listen", "127.0.0.1:0", "--metrics", "off"]).env("CORELOG_FAULT", faults),
        )
    }

    pub(crate) fn spawn(folder: &Folder, command: &mut Command) -> Result<Broker, Ended> {
        let log = folder.path("log");
        let output = File::create(&log).expect("the folder is writable");
        let mut child = command.stdout(Stdio::null()).stderr(output).spawn().expect("the broker's binary runs");
        let ended = |status| Ended { status, log: fs::read_to_string(&log).expect("its log") };
        let address = await_some("a start", || {
            if let Some(status) = child.try_wait().expect("its status") {
                return Some(Err(ended(status)));
            }
            listening(&fs::read_to_string(&log).expect("its log")).map(Ok)
        })?;
        Ok(Broker { child, log, address })
    }

    /// All that it has said so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("its log")
    }

    /// Asks it to stop, and waits until it has.
    pub(crate) fn stop(self) -> Ended {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status().expect("there is kill");
        assert!(sent.success(), "the process is there until it is waited for");
        self.end()
    }

    /// Waits until it ends by itself.
    pub(crate) fn end(mut self) -> Ended {
        let status = await_some("an end", || self.child.try_wait().expect("its status"));
        Ended { status, log: self.log() }
    }

    /// Bytes of memory that are its own.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("Linux tells it").to_owned();
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") << 10
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address of the line that ends the start.
fn listening(log: &str) -> Option<SocketAddr> {
    let (_, rest) = log.split_once("listening on ")?;
    rest.split_once(',')?.0.parse().ok()
}

/// Asks until there is an answer.
pub(crate) fn await_some<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what} does not come");
        thread::sleep(TICK);
    }
}
