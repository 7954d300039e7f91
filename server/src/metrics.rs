//! The figures of all cores over HTTP, beside the brokers' own port: `/metrics` as Prometheus' text, `/ready`, `/live`.
//!
//! One thread of its own, which sleeps until somebody asks, and reads what cores count without asking them: a core that
//! hangs cannot keep its figures from being seen. One request is served at a time, within [`METRICS_PATIENCE`] each way.
//! The invariant: nothing here touches the cores' rings, files or locks of the data path. It is the only code of the
//! broker that uses sockets of the standard library; `tests/tidy.rs` of the engine names it.
//!
//! [`METRICS_PATIENCE`]: crate::limits::METRICS_PATIENCE

mod exposition;
mod process;

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use engine::io::{Instant, uring};
use engine::stats::CoreStats;

use crate::broker::{BrokerConfig, Shared};
use crate::config::MetricsAddress;
use crate::cores::CorePlan;
use crate::limits::{ACCEPT_PAUSE, HEARTBEAT_PATIENCE, METRICS_HEADERS, METRICS_PATIENCE, METRICS_REQUEST_BYTES};

/// Listens where the settings say, if anywhere.
///
/// # Errors
/// The sentence that says why it cannot, if the operator has named the address. At the default one it is said once and
/// done without: two brokers on one machine are no mistake.
pub fn listen(wanted: Option<MetricsAddress>) -> Result<Option<TcpListener>, String> {
    let Some(MetricsAddress { address, is_default }) = wanted else { return Ok(None) };
    #[expect(clippy::disallowed_methods, reason = "the thread of the metrics has no Io")]
    let listener = TcpListener::bind(address);
    match listener {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if is_default => {
            tracing::warn!("no metrics: cannot listen on {address} ({error}); choose another address with --metrics");
            Ok(None)
        }
        Err(error) => Err(format!(
            "Cannot serve metrics on {address}: {error}. Choose another address with --metrics, or none with \
             --metrics off."
        )),
    }
}

/// Serves the figures of a broker with this config from now on.
///
/// # Errors
/// If there can be no thread for it.
pub fn serve(listener: TcpListener, config: Arc<BrokerConfig>, plan: &CorePlan) -> io::Result<()> {
    tracing::info!("metrics on http://{}/metrics", listener.local_addr()?);
    // Where the metadata shares a shard's processor, the system finds it one with nothing to do.
    let processor = (!plan.metadata_shares()).then_some(plan.metadata);
    let watch = Watch { config, shards: plan.shards.len(), process: process::Process::open() };
    uring::spawn_beside("metrics", processor, move || watch.serve(&listener))
}

struct Watch {
    config: Arc<BrokerConfig>,
    shards: usize,
    process: process::Process,
}

/// What is answered: a status line's end, a type, a body.
type Answer = (&'static str, &'static str, String);

const PLAIN: &str = "text/plain; charset=utf-8";

impl Watch {
    fn serve(&self, listener: &TcpListener) {
        loop {
            match listener.accept() {
                // Who leaves early, or never asks, misses only the own answer.
                Ok((mut stream, _)) => drop(self.answer(&mut stream)),
                Err(_) => std::thread::park_timeout(ACCEPT_PAUSE),
            }
        }
    }

    fn answer(&self, stream: &mut TcpStream) -> io::Result<()> {
        let (status, kind, body) = match read_request(stream)? {
            Some(path) => self.page(&path),
            None => ("400 Bad Request", PLAIN, "not an HTTP request\n".to_owned()),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        stream.set_write_timeout(Some(METRICS_PATIENCE))?;
        stream.write_all(head.as_bytes())?;
        stream.write_all(body.as_bytes())
    }

    fn page(&self, path: &str) -> Answer {
        let says = |is: bool, no: &str| match is {
            true => ("200 OK", PLAIN, "ok\n".to_owned()),
            false => ("503 Service Unavailable", PLAIN, format!("{no}\n")),
        };
        match path {
            "/metrics" => ("200 OK", exposition::CONTENT_TYPE, self.metrics()),
            "/ready" => says(is_ready(&self.config.shared), "not taking produce"),
            "/live" => says(is_live(&self.config.shared, self.shards, uring::now()), "a core makes no progress"),
            _ => ("404 Not Found", PLAIN, "there are /metrics, /ready and /live\n".to_owned()),
        }
    }

    fn metrics(&self) -> String {
        let node = exposition::Node {
            is_ready: is_ready(&self.config.shared),
            memory_limit_bytes: self.config.node.memory_bytes,
            now: uring::now(),
        };
        exposition::render(&cores(&self.config.shared), &node, &self.process.figures())
    }
}

fn cores(shared: &Shared) -> Vec<Arc<CoreStats>> {
    shared.stats.lock().expect("no holder of the lock panics").clone()
}

/// Whether clients can connect and produce.
fn is_ready(shared: &Shared) -> bool {
    let listens = shared.port.load(Ordering::Relaxed) != 0 && !shared.stopping.load(Ordering::Relaxed);
    listens && cores(shared).iter().all(|core| core.refuses_produce.get() == 0)
}

/// Whether every core, the metadata's included, has run its tasks of late.
fn is_live(shared: &Shared, shards: usize, now: Instant) -> bool {
    let cores = cores(shared);
    cores.len() == shards + 1 && cores.iter().all(|core| since(core, now) <= HEARTBEAT_PATIENCE)
}

/// How long ago the core's heart beat.
fn since(core: &CoreStats, now: Instant) -> Duration {
    now.since(Instant(core.heartbeat_ns.get()))
}

/// The path that is asked for, without its query; `None` if what comes is no GET of a bearable size.
fn read_request(stream: &mut TcpStream) -> io::Result<Option<String>> {
    let mut bytes = Vec::with_capacity(1 << 10);
    let end = uring::now() + METRICS_PATIENCE;
    loop {
        let left = end.since(uring::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let mut piece = [0; 1 << 10];
        let read = stream.read(&mut piece)?;
        bytes.extend_from_slice(&piece[..read]);
        match parse(&bytes) {
            Parsed::Get(path) => return Ok(Some(path)),
            Parsed::Partial if read > 0 && bytes.len() < METRICS_REQUEST_BYTES => {}
            Parsed::Partial | Parsed::Other => return Ok(None),
        }
    }
}

/// What the beginning of a request says.
#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    Get(String),
    Partial,
    Other,
}

fn parse(bytes: &[u8]) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; METRICS_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Partial) => Parsed::Partial,
        Ok(httparse::Status::Complete(_)) => match (request.method, request.path) {
            (Some("GET"), Some(path)) => Parsed::Get(path.split('?').next().unwrap_or_default().to_owned()),
            _ => Parsed::Other,
        },
        Err(_) => Parsed::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_who_listens_and_takes_produce() {
        let (shared, core) = (Shared::default(), Arc::new(CoreStats::default()));
        shared.stats.lock().expect("a new lock").push(core.clone());
        assert!(!is_ready(&shared), "before it listens");
        shared.port.store(9092, Ordering::Relaxed);
        assert!(is_ready(&shared));
        core.refuses_produce.set(1);
        assert!(!is_ready(&shared), "with a full disk");
        core.refuses_produce.set(0);
        shared.stopping.store(true, Ordering::Relaxed);
        assert!(!is_ready(&shared), "while it stops");
    }

    #[test]
    fn alive_is_whose_cores_all_run() {
        let (shared, now) = (Shared::default(), Instant(100_000_000_000));
        let add = |at: Instant| {
            let core = Arc::new(CoreStats::default());
            core.beat(at);
            shared.stats.lock().expect("a new lock").push(core);
        };
        add(now);
        assert!(!is_live(&shared, 1, now), "the metadata's core has not started");
        add(now);
        assert!(is_live(&shared, 1, now) && is_live(&shared, 1, now + HEARTBEAT_PATIENCE));
        let late = now + HEARTBEAT_PATIENCE + Duration::from_nanos(1);
        assert!(!is_live(&shared, 1, late), "both hang");
        cores(&shared)[0].beat(late);
        assert!(!is_live(&shared, 1, late), "one hangs");
        cores(&shared)[1].beat(late);
        assert!(is_live(&shared, 1, late));
    }

    #[test]
    fn a_get_is_understood_and_nothing_else() {
        let get = |path: &str| Parsed::Get(path.to_owned());
        assert_eq!(parse(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"), get("/metrics"));
        assert_eq!(parse(b"GET /live?verbose=1 HTTP/1.0\r\n\r\n"), get("/live"));
        assert_eq!(parse(b"GET /metrics HTTP/1.1\r\nHost:"), Parsed::Partial);
        assert_eq!(parse(b""), Parsed::Partial);
        for other in [&b"POST /metrics HTTP/1.1\r\n\r\n"[..], b"\0\0\0\x10\0\x12\0\x03", b"GET\r\n\r\n"] {
            assert_eq!(parse(other), Parsed::Other);
        }
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(METRICS_HEADERS + 1));
        assert_eq!(parse(many.as_bytes()), Parsed::Other);
    }
}
