//! What the command line and the configuration file say, and what follows from them.
//!
//! The invariant: [`Settings`] are complete and consistent, or there is a sentence that says what to change.
//! A flag wins over the file, `--set` over the file's settings under Kafka's names. It opens nothing but the
//! configuration file.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};

use engine::limits::LEAST_MEMORY_PER_CORE;

use crate::cores::parse_cores;

const EXAMPLES: &str = "\
Examples:
  corelog                                     a broker on 127.0.0.1:9092, data in ./corelog-data
  corelog --data-dir /var/lib/corelog --cores 0-3 --memory 8GiB
  corelog --listen 0.0.0.0:9092 --advertise broker1.example.org:9092 --insecure
  corelog --set num.partitions=8 --set log.retention.hours=24

Any Kafka client finds it at the address of --listen:
  kafka-console-producer.sh --bootstrap-server 127.0.0.1:9092 --topic greetings";

/// A commit log that Kafka clients take for Apache Kafka: records are on stable storage before they are
/// acknowledged, and each core works on its own.
#[derive(Debug, Parser)]
#[command(name = "corelog", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do; `serve` if nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to serve.
    #[command(flatten)]
    pub serve: Serve,
}

/// What the binary can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a broker (what happens without a command)
    #[command(after_help = EXAMPLES)]
    Serve(Serve),
}

/// The flags of a broker. Each may stand in the file of `--config` under the same name, without the dashes.
#[derive(Debug, Clone, Default, Args)]
pub struct Serve {
    /// Directory for all data; made if absent [default: ./corelog-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Address to listen on [default: 127.0.0.1:9092]
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Address that clients are told to connect to [default: that of --listen]
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// This broker's id [default: 1]
    #[arg(long, value_name = "N")]
    node_id: Option<i32>,
    /// Processors to run on, one shard on each, such as 0-3,6 [default: all that this process may use]
    #[arg(long, value_name = "LIST")]
    cores: Option<String>,
    /// Processor for the metadata [default: with four or more cores the last one, else it shares one]
    #[arg(long, value_name = "LIST")]
    metadata_cores: Option<String>,
    /// Memory to use, such as 8GiB [default: 1GiB for each core, at most half of what there is]
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// Journal on disk for all cores together, such as 2GiB [default: 256MiB for each core]
    #[arg(long, value_name = "SIZE")]
    journal: Option<String>,
    /// Batches of at least this size, such as 64KiB, are written to their segment alone and not to the journal as well;
    /// off: none are [default: off]
    #[arg(long, value_name = "SIZE|off")]
    past_journal: Option<String>,
    /// Microseconds that a core looks for work before it sleeps: lower latency for more processor time [default: 0]
    #[arg(long, value_name = "N")]
    spin_us: Option<u64>,
    /// Serve figures as Prometheus' text on /metrics, and /ready and /live; off: do not [default: 127.0.0.1:9644, if free]
    #[arg(long, value_name = "HOST:PORT|off")]
    metrics: Option<String>,
    /// File with flags and with settings under Kafka's names, as TOML
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A broker setting under Kafka's name, such as num.partitions=8; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Listen beyond this machine without encryption and authentication
    #[arg(long)]
    insecure: bool,
    /// Take writes again on partitions whose last acknowledged records the disk has destroyed
    #[arg(long)]
    accept_loss: bool,
}

/// Everything that a broker is told at its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The directory for all data.
    pub data_dir: PathBuf,
    /// Where to listen.
    pub listen: SocketAddr,
    /// The host and port that clients are told; port 0 for that of the listener.
    pub advertise: (String, u16),
    /// This broker's id.
    pub node_id: i32,
    /// Processors for the shards, if named.
    pub cores: Option<Vec<usize>>,
    /// Processors for the metadata, if named.
    pub metadata_cores: Option<Vec<usize>>,
    /// Memory in bytes, if named.
    pub memory_bytes: Option<u64>,
    /// The journals of all cores together, in bytes, if given.
    pub journal_bytes: Option<u64>,
    /// Batches of at least so many bytes are written straight to their segment; `None` for never.
    pub past_journal_bytes: Option<usize>,
    /// How long a core looks for work before it sleeps.
    pub spin: std::time::Duration,
    /// Where to serve metrics; `None` for nowhere.
    pub metrics: Option<MetricsAddress>,
    /// Whether partitions that lost records to the disk take writes again.
    pub accept_loss: bool,
    /// Broker settings under Kafka's names.
    pub broker_configs: BTreeMap<String, String>,
}

/// Where metrics are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricsAddress {
    /// The address; port 0 takes a free one.
    pub address: SocketAddr,
    /// Whether nobody has named it, so that the broker does without if it is taken.
    pub is_default: bool,
}

const DEFAULT_METRICS: &str = "127.0.0.1:9644";
const DEFAULT_DATA_DIR: &str = "./corelog-data";
const DEFAULT_LISTEN: &str = "127.0.0.1:9092";

/// The largest configuration file that is read, in bytes.
const LARGEST_FILE: u64 = 1 << 20;

impl Settings {
    /// The static level of this broker's configs: the settings, and what flags stand for under Kafka's names.
    pub fn static_configs(&self) -> BTreeMap<String, String> {
        let (host, port) = &self.advertise;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let of_flags = [
            ("advertised.listeners", format!("PLAINTEXT://{host}:{port}")),
            ("listeners", format!("PLAINTEXT://{}", self.listen)),
            ("log.dirs", self.data_dir.display().to_string()),
        ];
        let mut configs = self.broker_configs.clone();
        configs.extend(of_flags.map(|(name, value)| (name.to_owned(), value)));
        configs
    }
}

impl Cli {
    /// What the command line says, after the file it names has been read.
    ///
    /// # Errors
    /// A sentence that says what is wrong and what would be right.
    pub fn settings(self) -> Result<Settings, String> {
        let serve = match self.command {
            Some(Command::Serve(serve)) => serve,
            None => self.serve,
        };
        let text = serve.config.as_deref().map(read_file).transpose()?;
        serve.settings(text.as_deref())
    }
}

#[expect(clippy::disallowed_methods, reason = "the file is read before there is a core with an Io")]
fn read_file(path: &Path) -> Result<String, String> {
    let cannot = |why: &dyn std::fmt::Display| format!("Cannot read the configuration file {}: {why}.", path.display());
    let size = std::fs::metadata(path).map_err(|error| cannot(&error))?.len();
    if size > LARGEST_FILE {
        return Err(cannot(&"it is larger than 1 MiB"));
    }
    let bytes = std::fs::read(path).map_err(|error| cannot(&error))?;
    String::from_utf8(bytes).map_err(|_| cannot(&"it is not UTF-8"))
}

impl Serve {
    /// What the flags say over what `file` says.
    ///
    /// # Errors
    /// A sentence that says what is wrong and what would be right.
    pub fn settings(mut self, file: Option<&str>) -> Result<Settings, String> {
        let mut broker_configs = file.map_or(Ok(BTreeMap::new()), read_toml)?;
        self.take_flags(&mut broker_configs)?;
        for setting in &self.set {
            let (key, value) = setting.split_once('=').ok_or_else(|| {
                format!("--set {setting} has no value; write --set KEY=VALUE, for example --set num.partitions=8.")
            })?;
            broker_configs.insert(key.trim().to_owned(), value.trim().to_owned());
        }
        self.take_kafkas_names(&mut broker_configs)?;
        let listen = resolve(self.listen.as_deref().unwrap_or(DEFAULT_LISTEN))?;
        if !listen.ip().is_loopback() && !self.insecure {
            return Err(format!(
                "Listening on {listen} would let anyone who reaches this machine read and write everything: there is \
                 no encryption or authentication on it. Listen on 127.0.0.1, or accept that with --insecure."
            ));
        }
        let cores = |flag: &str, text: &Option<String>| {
            text.as_deref().map(|text| parse_cores(text).map_err(|why| format!("--{flag}: {why}."))).transpose()
        };
        let size = |flag: &str, text: &Option<String>| {
            text.as_deref().map(|text| parse_size(text).map_err(|why| format!("--{flag}: {why}."))).transpose()
        };
        Ok(Settings {
            advertise: advertised(self.advertise.as_deref(), listen)?,
            listen,
            node_id: self.node_id.unwrap_or(1),
            cores: cores("cores", &self.cores)?,
            metadata_cores: cores("metadata-cores", &self.metadata_cores)?,
            memory_bytes: self.memory.as_deref().map(parse_memory).transpose()?,
            journal_bytes: size("journal", &self.journal)?,
            past_journal_bytes: match self.past_journal.as_deref() {
                None | Some("off") => None,
                Some(_) => size("past-journal", &self.past_journal)?.map(|bytes| bytes as usize),
            },
            metrics: match self.metrics.as_deref() {
                Some("off") => None,
                given => Some(MetricsAddress {
                    address: resolve(given.unwrap_or(DEFAULT_METRICS))?,
                    is_default: given.is_none(),
                }),
            },
            spin: std::time::Duration::from_micros(self.spin_us.unwrap_or(0)),
            data_dir: self.data_dir.unwrap_or_else(|| DEFAULT_DATA_DIR.into()),
            accept_loss: self.accept_loss,
            broker_configs,
        })
    }

    /// Takes the flags that stand in the file, where the command line has none.
    fn take_flags(&mut self, file: &mut BTreeMap<String, String>) -> Result<(), String> {
        let number = |name: &str, text: String| {
            text.parse().map_err(|_| format!("{name} in the configuration file is {text}, which is not a number."))
        };
        let mut take = |name: &str| file.remove(name);
        fill(&mut self.data_dir, take("data-dir").map(PathBuf::from));
        fill(&mut self.listen, take("listen"));
        fill(&mut self.advertise, take("advertise"));
        fill(&mut self.cores, take("cores"));
        fill(&mut self.metadata_cores, take("metadata-cores"));
        fill(&mut self.memory, take("memory"));
        fill(&mut self.journal, take("journal"));
        fill(&mut self.past_journal, take("past-journal"));
        fill(&mut self.metrics, take("metrics"));
        let node_id = take("node-id").map(|text| number("node-id", text)).transpose()?;
        fill(&mut self.node_id, node_id.map(|id: i64| i32::try_from(id).unwrap_or(-1)));
        let spin_us = take("spin-us").map(|text| number("spin-us", text)).transpose()?;
        fill(&mut self.spin_us, spin_us.map(|us: i64| u64::try_from(us).unwrap_or(0)));
        self.insecure |= take("insecure").is_some_and(|text| text == "true");
        Ok(())
    }

    /// What Kafka has a name for and this broker a flag: the id may be given by either, an address or directory by the
    /// flag alone, for Kafka's are lists.
    fn take_kafkas_names(&mut self, configs: &mut BTreeMap<String, String>) -> Result<(), String> {
        for name in ["node.id", "broker.id"] {
            let Some(text) = configs.remove(name) else { continue };
            let id = text.parse().map_err(|_| format!("{name} is {text}, which is not a number."))?;
            if let Some(flag) = self.node_id.replace(id).filter(|flag| *flag != id) {
                return Err(format!("{name} is {id}, and the node's id is {flag} elsewhere; leave one of them out."));
            }
        }
        let flags = [("listeners", "listen"), ("advertised.listeners", "advertise"), ("log.dirs", "data-dir")];
        match flags.into_iter().find(|(name, _)| configs.contains_key(*name)) {
            Some((name, flag)) => Err(format!("{name} is not set by its Kafka name here; use --{flag}.")),
            None => Ok(()),
        }
    }
}

fn fill<T>(flag: &mut Option<T>, file: Option<T>) {
    if flag.is_none() {
        *flag = file;
    }
}

/// The file's values by their names: `log.retention.ms = 1` and `[log] retention.ms = 1` mean the same.
fn read_toml(text: &str) -> Result<BTreeMap<String, String>, String> {
    let table: toml::Table = text.parse().map_err(|error| format!("The configuration file is not TOML: {error}"))?;
    let mut values = BTreeMap::new();
    flatten("", &toml::Value::Table(table), &mut values)?;
    Ok(values)
}

fn flatten(name: &str, value: &toml::Value, values: &mut BTreeMap<String, String>) -> Result<(), String> {
    let text = match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                flatten(&name, value, values)?;
            }
            return Ok(());
        }
        toml::Value::String(text) => text.clone(),
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::Float(number) => number.to_string(),
        toml::Value::Boolean(flag) => flag.to_string(),
        toml::Value::Array(_) | toml::Value::Datetime(_) => {
            return Err(format!("{name} in the configuration file must be a text, a number, true or false."));
        }
    };
    values.insert(name.to_owned(), text);
    Ok(())
}

fn resolve(address: &str) -> Result<SocketAddr, String> {
    let found = address.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
    found.ok_or_else(|| {
        format!("\"{address}\" is not an address to listen on; write HOST:PORT, for example {DEFAULT_LISTEN}.")
    })
}

/// What clients are told: every client connects to this address after the first one.
fn advertised(flag: Option<&str>, listen: SocketAddr) -> Result<(String, u16), String> {
    if let Some(address) = flag {
        let parts = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        let parts = parts.filter(|(host, port): &(&str, u16)| !host.is_empty() && *port > 0);
        let (host, port) = parts
            .ok_or_else(|| format!("--advertise {address} is not HOST:PORT, for example broker1.example.org:9092."))?;
        return Ok((host.trim_start_matches('[').trim_end_matches(']').to_owned(), port));
    }
    if listen.ip().is_unspecified() {
        return Err(format!(
            "{listen} stands for every address of this machine, and clients cannot connect to that: name the one they \
             shall use with --advertise HOST:PORT."
        ));
    }
    Ok((listen.ip().to_string(), listen.port()))
}

/// A number without a unit is hardly ever meant as bytes if it is as small as this.
const SMALL_NUMBER: u64 = 1 << 20;

/// Reads `--memory`: a size, but not a small number that lacks its unit.
fn parse_memory(text: &str) -> Result<u64, String> {
    let bytes = parse_size(text).map_err(|why| format!("--memory: {why}."))?;
    let number = text.trim();
    if bytes < SMALL_NUMBER && number.chars().all(|c| c.is_ascii_digit()) {
        return Err(format!("--memory {number} would be {number} bytes; write {number}MiB or {number}GiB."));
    }
    Ok(bytes)
}

/// `bytes` of memory, if so many shards can work with them.
///
/// # Errors
/// A sentence that says the least that works.
pub fn enough_memory(bytes: u64, shards: u64) -> Result<u64, String> {
    let least = LEAST_MEMORY_PER_CORE * shards;
    if bytes >= least {
        return Ok(bytes);
    }
    let cores = if shards == 1 { "one core needs" } else { &format!("{shards} cores need") };
    Err(format!(
        "--memory is {bytes} bytes, and {cores} at least {}MiB; give more, or fewer cores with --cores",
        least >> 20
    ))
}

/// Reads a size such as `512MiB`, `8GiB`, `2g` or a number of bytes. K, M, G and T are powers of 1024.
///
/// # Errors
/// Why it is not a size.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(format!("\"{text}\" is not a size; write for example 512MiB or 8GiB")),
    };
    let number: u64 =
        number.parse().map_err(|_| format!("\"{text}\" is not a size; write for example 512MiB or 8GiB"))?;
    number.checked_mul(1 << shift).filter(|size| *size > 0).ok_or_else(|| format!("\"{text}\" is out of range"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(flags: &[&str], file: Option<&str>) -> Result<Settings, String> {
        let cli = Cli::try_parse_from([&["corelog"], flags].concat()).map_err(|error| error.to_string())?;
        cli.serve.settings(file)
    }

    #[test]
    fn without_a_word_it_serves_this_machine() {
        let defaults = settings(&[], None).expect("defaults are complete");
        assert_eq!(defaults.listen, "127.0.0.1:9092".parse().expect("an address"));
        assert_eq!(defaults.advertise, ("127.0.0.1".to_owned(), 9092));
        assert_eq!((defaults.node_id, defaults.cores), (1, None));
        let metrics = |flags: &[&str]| settings(flags, Some("metrics = \"127.0.0.1:2\"")).expect("an address").metrics;
        let at = |port, is_default| Some(MetricsAddress { address: ([127, 0, 0, 1], port).into(), is_default });
        assert_eq!(defaults.metrics, at(9644, true));
        assert_eq!((metrics(&[]), metrics(&["--metrics", "127.0.0.1:3"])), (at(2, false), at(3, false)));
        assert_eq!(metrics(&["--metrics", "off"]), None);
        let numbered = settings(&["--set", "broker.id=0", "--set", "node.id=0"], None).expect("Kafka's names");
        assert_eq!((numbered.node_id, numbered.broker_configs.is_empty()), (0, true));
    }

    #[test]
    fn flags_win_over_the_file_and_kafkas_names_come_through() {
        let file =
            "node-id = 7\ncores = \"0-1\"\nnum.partitions = 3\nlog.retention.ms = 5\n\"min.insync.replicas\" = \"2\"\n";
        let read = settings(&["--cores", "2", "--set", "num.partitions=8"], Some(file)).expect("a right file");
        assert_eq!((read.node_id, read.cores), (7, Some(vec![2])));
        let configs = [("log.retention.ms", "5"), ("min.insync.replicas", "2"), ("num.partitions", "8")];
        assert_eq!(read.broker_configs, configs.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    }

    #[test]
    fn open_doors_and_unreachable_addresses_are_refused_with_a_remedy() {
        let refused = |flags: &[&str]| settings(flags, None).expect_err("it is refused");
        assert!(refused(&["--listen", "0.0.0.0:9092"]).contains("--insecure"));
        assert!(refused(&["--listen", "0.0.0.0:9092", "--insecure"]).contains("--advertise"));
        assert!(refused(&["--listen", "nonsense"]).contains("HOST:PORT"));
        assert!(refused(&["--metrics", "on"]).contains("HOST:PORT"));
        assert!(refused(&["--set", "num.partitions"]).contains("KEY=VALUE"));
        assert!(refused(&["--set", "listeners=PLAINTEXT://:9093"]).contains("--listen"));
        assert!(refused(&["--set", "node.id=one"]).contains("not a number"));
        assert!(refused(&["--set", "node.id=1", "--node-id", "2"]).contains("leave one"));
        assert!(refused(&["--memory", "10"]).contains("10MiB"));
        assert!(refused(&["--memory", "10x"]).contains("not a size"));
        assert_eq!(settings(&["--memory", "536870912"], None).expect("bytes").memory_bytes, Some(512 << 20));
        let open = ["--listen", "0.0.0.0:9092", "--insecure", "--advertise", "b1:9093"];
        assert_eq!(settings(&open, None).expect("accepted").advertise, ("b1".to_owned(), 9093));
        let v6 = settings(&["--listen", "[::1]:0"], None).expect("loopback");
        assert_eq!(v6.advertise, ("::1".to_owned(), 0));
        assert_eq!(v6.static_configs()["advertised.listeners"], "PLAINTEXT://[::1]:0");
    }

    #[test]
    fn memory_that_is_too_small_for_the_cores_is_refused_with_the_least_that_works() {
        assert_eq!(enough_memory(64 << 20, 2), Ok(64 << 20));
        let refused = enough_memory((64 << 20) - 1, 2).expect_err("it is too small");
        assert!(refused.contains("64MiB") && refused.contains("2 cores") && refused.contains("--cores"), "{refused}");
        assert!(enough_memory(1, 1).expect_err("it is too small").contains("32MiB"));
    }

    #[test]
    fn sizes_are_read() {
        for (text, size) in [("512", 512), ("4k", 4096), ("512MiB", 512 << 20), ("8 GiB", 8 << 30), ("1T", 1 << 40)] {
            assert_eq!(parse_size(text), Ok(size), "{text}");
        }
        for bad in ["", "GiB", "1.5GiB", "-1", "0", "99999999999T", "1x"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
