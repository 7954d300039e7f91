//! Accepts connections on core 0 and deals them out to the shards' cores in turn.
//!
//! The invariant: a connection is counted from its acceptance until its end, and no more than
//! `max.connections` are; further ones wait in the kernel's queue. It reads nothing from them.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use engine::controller::{BrokerValues, quotas};
use engine::io::{Class, Instant, Listener, Stream};

use crate::broker::{Broker, Failure};
use crate::limits;
use crate::quota::{ConnectionRates, Windows};

/// Listens, and accepts from then on until the node stops; gives the address.
///
/// # Errors
/// The sentence that says why it cannot listen there.
pub async fn listen(broker: Rc<Broker>) -> Result<SocketAddr, Failure> {
    let address = broker.config.listen;
    let listener =
        broker.io().listen(address).await.map_err(|error| Failure::Listen(cannot_listen(address, &error)))?;
    let bound = listener.local_address();
    broker.config.shared.port.store(bound.port(), Ordering::Relaxed);
    broker.io().spawn(Class::Foreground, accept(broker.clone(), listener));
    Ok(bound)
}

fn cannot_listen(address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "Port {} of {} is in use by another process; stop that one, or choose another with --listen.",
            address.port(),
            address.ip()
        ),
        io::ErrorKind::AddrNotAvailable => {
            format!("{} is not an address of this machine; choose another with --listen.", address.ip())
        }
        io::ErrorKind::PermissionDenied => {
            format!("This process may not listen on port {}; choose one from 1024 on with --listen.", address.port())
        }
        _ => format!("Cannot listen on {address}: {error}."),
    }
}

async fn accept(broker: Rc<Broker>, listener: Listener) {
    let mut next = 0;
    let mut gate = Gate::new(&broker);
    let mut complaints = Complaints::default();
    while !broker.is_stopping() {
        wait_for_room(&broker, &mut complaints).await;
        let accepted = futures_lite::future::or(async { Some(listener.accept().await) }, async {
            broker.stopping.rung_since(0).await;
            None
        });
        match accepted.await {
            None => return,
            Some(Ok((stream, peer))) => {
                if let Some(stream) = gate.admit(&broker, stream, peer) {
                    deal(&broker, next, stream, peer);
                    next = (next + 1) % broker.core.shards();
                }
                let pause = gate.pause(&broker);
                if !pause.is_zero() {
                    broker.io().sleep(pause).await;
                }
            }
            Some(Err(error)) => {
                // For want of descriptors or memory, say: those who connect wait in the kernel's queue.
                complaints
                    .say(broker.io().now(), || format!("connections cannot be accepted now, new ones wait: {error}"));
                broker.io().stats().connections.refused.resources.add(1);
                broker.io().sleep(limits::ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Holds back addresses that connect too often (`connection_creation_rate`), and all of them together
/// (`max.connection.creation.rate`).
struct Gate {
    rates: ConnectionRates,
    windows: Windows,
    /// Connections that wait to be closed.
    held: Rc<Cell<usize>>,
}

impl Gate {
    fn new(broker: &Broker) -> Gate {
        let image = broker.image();
        let windows = Windows::new(&BrokerValues::new(broker.settings(), &image), "quota");
        Gate { rates: ConnectionRates::default(), windows, held: Rc::default() }
    }

    /// The connection, unless its address has had too many: then it is closed, but only after the time in
    /// which a new one would be too many again.
    fn admit(&mut self, broker: &Rc<Broker>, stream: Stream, peer: SocketAddr) -> Option<Stream> {
        let ip = peer.ip().to_canonical();
        let bound = quotas::connection_rate(&broker.image().quotas, ip);
        let Err(throttle) = self.rates.admit(broker.io().now(), self.windows, ip, bound) else { return Some(stream) };
        broker.io().stats().connections.refused.rate.add(1);
        if self.held.get() < limits::HELD_CONNECTIONS {
            self.held.set(self.held.get() + 1);
            let (broker_of_task, held) = (broker.clone(), self.held.clone());
            broker.io().spawn(Class::Foreground, async move {
                broker_of_task.io().sleep(throttle).await;
                drop(stream);
                held.set(held.get() - 1);
            });
        }
        None
    }

    /// How long to wait before the next connection is accepted.
    fn pause(&mut self, broker: &Broker) -> Duration {
        let image = broker.image();
        let bound = BrokerValues::new(broker.settings(), &image).number("max.connection.creation.rate");
        if bound >= i64::from(i32::MAX) {
            return Duration::ZERO;
        }
        self.rates.pause(broker.io().now(), self.windows, bound as f64).min(limits::LONGEST_THROTTLE)
    }
}

/// What is said of connections that must wait: one line a minute at most.
#[derive(Default)]
struct Complaints {
    said: Option<Instant>,
    unsaid: u64,
}

impl Complaints {
    fn say(&mut self, now: Instant, what: impl FnOnce() -> String) {
        if self.said.is_some_and(|said| now.since(said) < limits::COMPLAINTS_INTERVAL) {
            self.unsaid += 1;
            return;
        }
        self.said = Some(now);
        let (what, times_unsaid) = (what(), std::mem::take(&mut self.unsaid));
        tracing::warn!(times_unsaid, "{what}");
    }
}

async fn wait_for_room(broker: &Broker, complaints: &mut Complaints) {
    let full = || broker.config.shared.connections.load(Ordering::Relaxed) >= broker.max_connections();
    if full() {
        let most = broker.max_connections();
        complaints.say(broker.io().now(), || {
            format!("all {most} connections are in use (max.connections, or what descriptors there are), new ones wait")
        });
    }
    while full() && !broker.is_stopping() {
        broker.io().sleep(limits::ACCEPT_PAUSE).await;
    }
}

fn deal(broker: &Broker, core: usize, stream: Stream, peer: SocketAddr) {
    let stream = stream.detach().expect("nobody else has the stream yet");
    broker.config.shared.connections.fetch_add(1, Ordering::Relaxed);
    broker.io().stats().connections.accepted.add(1);
    broker.core.hand_over(core, stream, peer);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_minute_is_said() {
        let (mut complaints, mut said) = (Complaints::default(), 0);
        for tenth in 0..1500 {
            complaints.say(Instant(tenth * 100_000_000), || {
                said += 1;
                String::new()
            });
        }
        assert_eq!((said, complaints.unsaid), (3, 299));
    }
}
