//! What a core of the broker counts for those who watch it; [`crate::metrics`] shows it.
//!
//! The hot files call one function here for each event. None of it decides anything.

use std::rc::Rc;

use engine::io::{Class, Instant, Io};
use engine::protocol::ApiKey;

use crate::authorizer::Client;
use crate::broker::{Broker, Shared};
use crate::connection::End;
use crate::dispatch::Refusal;
use crate::limits;

/// Gives the core's figures to those who show them, and has its heart beat from now on.
pub fn keep_heart(io: &Io, shared: &Shared) {
    shared.stats.lock().expect("no holder of the lock panics").push(io.stats().clone());
    let of_task = io.clone();
    io.spawn(Class::Foreground, async move {
        loop {
            of_task.stats().beat(of_task.now());
            of_task.sleep(limits::HEARTBEAT_INTERVAL).await;
        }
    });
}

/// Shows what is only a state every now and then, for ever.
pub async fn publish(broker: Rc<Broker>) {
    let stats = broker.io().stats();
    loop {
        broker.core.publish_figures();
        stats.connections.open.set(broker.connections.count() as i64);
        broker.io().sleep(limits::HEARTBEAT_INTERVAL).await;
    }
}

/// A request has come whose header could be read; gives the time.
pub fn request(client: &Client, api_key: ApiKey, bytes: usize) -> Instant {
    let of_api = client.quotas.stats().api(api_key.code());
    of_api.requests.add(1);
    of_api.request_bytes.add(bytes as u64);
    client.quotas.now()
}

/// Its answer is ready to be written.
pub fn answer(client: &Client, api_key: ApiKey, began: Instant, bytes: usize) {
    let stats = client.quotas.stats();
    let times = match api_key {
        ApiKey::Produce => &stats.requests.produce,
        ApiKey::Fetch | ApiKey::ShareFetch => &stats.requests.fetch,
        _ => &stats.requests.other,
    };
    times.record(client.quotas.now().since(began));
    stats.api(api_key.code()).response_bytes.add(bytes as u64);
}

/// A connection has ended in this way.
pub(crate) fn closed(broker: &Broker, end: &End) {
    let refusals = &broker.io().stats().refusals;
    match end {
        End::Closed => {}
        End::Frame(_) => refusals.size.add(1),
        End::Refused(Refusal::Malformed(_)) => refusals.malformed.add(1),
        End::Refused(Refusal::NotServed { .. }) => refusals.not_served.add(1),
        End::Refused(Refusal::Answer(_) | Refusal::Stopping) => refusals.unanswerable.add(1),
    }
}
