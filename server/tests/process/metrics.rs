//! What the broker shows of itself: in Prometheus' format, by the names of the README's table, and true.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;

use super::broker::{Broker, Folder, await_some, command};
use super::client::Client;

/// A broker that shows its figures, and where.
fn watched(folder: &Folder, flags: &[&str]) -> (Broker, SocketAddr) {
    let mut command = command(folder);
    command.args(["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]).args(flags);
    let broker = Broker::spawn(folder, &mut command).expect("it starts");
    let log = broker.log();
    let (_, rest) = log.split_once("metrics on http://").expect("it says where");
    let address = rest.split_once('/').expect("a path").0.parse().expect("an address");
    (broker, address)
}

/// The status and the body of an answer to `request`.
fn ask(address: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("text until the end");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
    (status, body.to_owned())
}

fn get(address: SocketAddr, path: &str) -> (u16, String) {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"))
}

/// A text in Prometheus' format, read strictly.
struct Figures {
    /// Each family's type.
    kinds: BTreeMap<String, String>,
    /// Each sample, by its name with its labels.
    samples: BTreeMap<String, f64>,
}

impl Figures {
    fn of(text: &str) -> Figures {
        assert!(text.ends_with('\n'), "the last line ends");
        let (mut kinds, mut samples) = (BTreeMap::new(), BTreeMap::new());
        let (mut helped, mut family) = (String::new(), String::new());
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a help");
                assert!(help.ends_with('.') && !kinds.contains_key(name), "{line}");
                helped = name.to_owned();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a type");
                assert_eq!(name, helped, "the type follows the help");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                kinds.insert(name.to_owned(), kind.to_owned());
                family = name.to_owned();
            } else {
                let (name, value) = line.rsplit_once(' ').expect("a sample");
                let bare = name.split('{').next().expect("a name");
                let part = bare.strip_prefix(family.as_str()).unwrap_or_else(|| panic!("{line} stands in {family}"));
                let parts: &[&str] = if kinds[&family] == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
                assert!(parts.contains(&part), "{line} stands in {family}");
                let value = value.parse().unwrap_or_else(|_| panic!("{line} ends with a number"));
                assert!(samples.insert(name.to_owned(), value).is_none(), "{line} stands there once");
            }
        }
        Figures { kinds, samples }
    }

    /// The value of a sample; 0 if there is none.
    fn value(&self, name: &str) -> f64 {
        self.samples.get(name).copied().unwrap_or(0.0)
    }
}

fn figures(address: SocketAddr) -> Figures {
    let (status, body) = get(address, "/metrics");
    assert_eq!(status, 200, "{body}");
    Figures::of(&body)
}

/// The rows of the README's table: name and type.
fn table() -> BTreeMap<String, String> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = std::fs::read_to_string(readme).expect("the README");
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
        let name = cells.next()?.trim_end_matches('`').to_owned();
        let prefixed = name.starts_with("corelog_") || name.starts_with("process_");
        prefixed.then_some((name, cells.next()?.to_owned()))
    };
    text.lines().filter_map(row).collect()
}

#[test]
fn what_is_served_is_what_the_readme_says() {
    let folder = Folder::new("metrics-names");
    let (broker, address) = watched(&folder, &[]);
    assert_eq!(figures(address).kinds, table());
    assert!(broker.stop().status.success());
}

#[test]
fn what_clients_do_is_counted() {
    let folder = Folder::new("metrics-counts");
    let (broker, address) = watched(&folder, &[]);
    let before = figures(address);
    assert_eq!(before.value("corelog_requests_total{api=\"Produce\"}"), 0.0);
    let mut client = Client::connect(broker.address).expect("it listens");
    assert_eq!(client.create_topic().expect("an answer"), 0);
    for value in 0..3u8 {
        assert_eq!(client.produce(&[value; 100]).expect("an answer").0, 0);
    }
    assert_eq!(client.consume().expect("an answer").len(), 3);
    let mut nonsense = Client::connect(broker.address).expect("it listens");
    nonsense.send(&[0, 0, 0, 4, 0x7f, 0xff, 0, 0]).expect("it reads");
    assert!(nonsense.receive().expect("no silence").is_none(), "it is cut");

    let after = figures(address);
    let grown = |name: &str| after.value(name) - before.value(name);
    assert_eq!(grown("corelog_requests_total{api=\"Produce\"}"), 3.0);
    assert_eq!(grown("corelog_request_seconds_count{api=\"Produce\"}"), 3.0);
    assert!(grown("corelog_request_bytes_total{api=\"Produce\"}") > 300.0);
    assert!(grown("corelog_response_bytes_total{api=\"Fetch\"}") > 300.0);
    assert_eq!(grown("corelog_stage_seconds_count{stage=\"queue\"}"), 3.0);
    assert_eq!(grown("corelog_stage_seconds_count{stage=\"append\"}"), 3.0);
    assert!(grown("corelog_stage_seconds_count{stage=\"receive\"}") >= 5.0);
    assert!(grown("corelog_stage_seconds_count{stage=\"respond\"}") >= 5.0);
    assert!(grown("corelog_journal_groups_total") >= 3.0);
    assert!(grown("corelog_journal_appended_bytes_total") > 300.0);
    assert_eq!(grown("corelog_connections_accepted_total"), 2.0);
    assert_eq!(grown("corelog_requests_refused_total{reason=\"malformed\"}"), 1.0);
    assert_eq!(after.value("corelog_acknowledged_not_durable_records"), 0.0);
    let is_bucket = |name: &&String| name.starts_with("corelog_request_seconds_bucket{api=\"Produce\"");
    let buckets: Vec<_> = after.samples.keys().filter(is_bucket).collect();
    assert_eq!(buckets.len(), engine::stats::BUCKETS + 1);
    assert_eq!(after.value("corelog_request_seconds_bucket{api=\"Produce\",le=\"+Inf\"}"), 3.0);
    // States are shown every second.
    await_some("the states", || (figures(address).value("corelog_partitions") == 1.0).then_some(()));
    await_some("the connection", || (figures(address).value("corelog_connections") == 1.0).then_some(()));
    assert!(after.value("process_resident_memory_bytes") > 1e6);
    assert!(broker.stop().status.success());
}

#[test]
fn it_says_whether_it_is_ready_and_alive() {
    let folder = Folder::new("metrics-ready");
    let (broker, address) = watched(&folder, &[]);
    assert_eq!(get(address, "/ready"), (200, "ok\n".to_owned()));
    assert_eq!(get(address, "/live"), (200, "ok\n".to_owned()));
    assert_eq!(get(address, "/elsewhere").0, 404);
    assert_eq!(ask(address, "POST /metrics HTTP/1.1\r\n\r\n").0, 400);
    assert_eq!(ask(address, "\0\0\0\u{8}nonsense").0, 400);
    assert!(broker.stop().status.success());
}

#[test]
fn a_port_of_metrics_in_use_is_refused_if_it_was_named() {
    let folder = Folder::new("metrics-port");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let mut command = command(&folder);
    let ended = Broker::spawn(&folder, command.args(["--listen", "127.0.0.1:0", "--metrics", &address]));
    let Err(ended) = ended else { panic!("it starts") };
    assert!(
        ended.failed_orderly() && ended.log.contains(&address) && ended.log.contains("--metrics off"),
        "{}",
        ended.log
    );
}

/// Whoever holds the default port, this test or another broker of this machine, costs the metrics and nothing else.
#[test]
fn the_default_port_in_use_costs_a_warning() {
    let folder = Folder::new("metrics-default");
    let taken = TcpListener::bind("127.0.0.1:9644");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_corelog"));
    command.args(["--memory", "64MiB", "--journal", "16MiB", "--listen", "127.0.0.1:0", "--data-dir"]);
    let broker = Broker::spawn(&folder, command.arg(folder.data())).expect("it starts all the same");
    assert_eq!(broker.log().matches("no metrics: cannot listen on 127.0.0.1:9644").count(), 1, "{}", broker.log());
    assert!(Client::connect(broker.address).and_then(|mut client| client.create_topic()).is_ok_and(|error| error == 0));
    drop(taken);
    assert!(broker.stop().status.success());
}

/// Figures of all kinds keep their names apart.
#[test]
fn the_table_names_nothing_twice() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = std::fs::read_to_string(readme).expect("the README");
    let names: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("| `corelog_")?.split('`').next()).collect();
    assert!(names.len() > 20);
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
}
