//! The disk fails under the process: what it has acknowledged is there, nothing is acknowledged after a failed
//! write or flush, and what is merely slow or short does no harm.
//!
//! The rules and their counting are those of `engine/src/io/ring/faults.rs`.

use super::broker::{Broker, Ended, Folder, INJECTED};
use super::client::Client;

/// So large that a record's group is not taken for any other write.
const RECORD_BYTES: usize = 64 << 10;

fn value(number: usize) -> Vec<u8> {
    let mut value = format!("{number} ").into_bytes();
    value.resize(RECORD_BYTES, b'.');
    value
}

/// Produces one record after another until there is no answer; gives how many were acknowledged.
fn produce_until_the_end(client: &mut Client, most: usize) -> usize {
    for number in 0..most {
        match client.produce(&value(number)) {
            Ok(answer) => assert_eq!(answer, (0, number as i64), "record {number}"),
            Err(_) => return number,
        }
    }
    most
}

fn values(folder: &Folder) -> Vec<Vec<u8>> {
    let broker = Broker::start(folder, "").expect("it starts when the disk is sound again");
    let mut client = Client::connect(broker.address).expect("it listens");
    let values = client.consume().expect("an answer");
    assert!(broker.stop().status.success());
    values
}

/// The bytes of the operation that was struck.
fn struck_bytes(log: &str) -> usize {
    let line = log.lines().find(|line| line.contains(INJECTED)).expect("a fault");
    let (_, result) = line.split_once("result=").expect("its result");
    let result = result.split_whitespace().next().expect("a value");
    result.parse().expect("the kernel did the operation")
}

#[test]
fn nothing_is_acknowledged_after_a_failed_journal_write() {
    let mut records_struck = 0;
    for (fault, number) in [("eio", 24), ("eio", 31), ("ecanceled", 27), ("ecanceled", 40)] {
        let folder = Folder::new("failed-write");
        let broker = Broker::start(&folder, &format!("{fault}:durable-write:{number}")).expect("the start writes less");
        let mut client = Client::connect(broker.address).expect("it listens");
        assert_eq!(client.create_topic().expect("an answer"), 0);
        let acknowledged = produce_until_the_end(&mut client, 1000);
        let ended = broker.end();
        assert!(ended.log.contains(INJECTED), "{ended:?}");
        assert!(ended.failed_orderly() && ended.log.contains("the disk has failed"), "{ended:?}");

        let kept = values(&folder);
        let expected: Vec<_> = (0..kept.len()).map(value).collect();
        assert!(kept == expected, "{fault} {number}: the records are those that were sent, in order");
        // The kernel has written what was struck. If that was a record, it is there and was not acknowledged;
        // a broker that acknowledged it has left before the next one was written.
        if struck_bytes(&ended.log) >= RECORD_BYTES {
            records_struck += 1;
            assert_eq!(kept.len(), acknowledged + 1, "{fault} {number}: the struck record was not acknowledged");
        } else {
            assert!(kept.len() >= acknowledged, "{fault} {number}: {acknowledged} acknowledged, {}", kept.len());
        }
    }
    assert!(records_struck > 0, "no record's write was ever struck");
}

/// Runs a broker whose n-th flush fails through start, load and stop; `None` if there were not so many.
fn with_failing_flush(folder: &Folder, number: usize) -> Option<(Ended, usize)> {
    let (ended, acknowledged) = match Broker::start(folder, &format!("eio:sync:{number}")) {
        Err(ended) => (ended, 0),
        Ok(broker) => {
            // The process may end at any moment.
            let load = |mut client: Client| match client.create_topic() {
                Ok(0) => produce_until_the_end(&mut client, 48),
                _ => 0,
            };
            let acknowledged = Client::connect(broker.address).map_or(0, load);
            (broker.stop(), acknowledged)
        }
    };
    if !ended.log.contains(INJECTED) {
        assert!(ended.status.success(), "{ended:?}");
        return None;
    }
    Some((ended, acknowledged))
}

#[test]
fn a_failed_flush_ends_the_process_and_loses_nothing() {
    let mut struck = 0;
    for number in 1..100 {
        let folder = Folder::new("failed-flush");
        let Some((ended, acknowledged)) = with_failing_flush(&folder, number) else { break };
        struck += 1;
        assert!(ended.failed_orderly(), "flush {number}: {ended:?}");
        let kept = if acknowledged > 0 { values(&folder) } else { Vec::new() };
        assert!(kept.len() >= acknowledged, "flush {number}: {} of {acknowledged}", kept.len());
        assert!(kept.iter().enumerate().all(|(number, kept)| *kept == value(number)));
    }
    assert!(struck >= 4, "a start, segments and a stop flush more often than {struck} times");
}

#[test]
fn short_writes_and_delays_are_survived() {
    let folder = Folder::new("short-and-slow");
    let rules = "short:durable-write:6,short:durable-write:15,short:durable-write:16,short:write:20,short:write:30,\
                 short:read:2,delay:durable-write:18,delay:write:25,delay:sync:4";
    let broker = Broker::start(&folder, rules).expect("it starts");
    let mut client = Client::connect(broker.address).expect("it listens");
    assert_eq!(client.create_topic().expect("an answer"), 0);
    assert_eq!(produce_until_the_end(&mut client, 64), 64, "{}", broker.log());
    let ended = broker.stop();
    assert!(ended.status.success(), "{ended:?}");
    for fault in ["Short", "Delay"] {
        let struck = ended.log.lines().filter(|line| line.contains(INJECTED) && line.contains(fault)).count();
        assert!(struck >= 2, "{fault} struck {struck} times: {}", ended.log);
    }
    assert!(values(&folder).into_iter().eq((0..64).map(value)));
}
