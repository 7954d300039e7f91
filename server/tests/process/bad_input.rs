//! Clients that send nonsense: each gets Kafka's error or a closed connection, and no other client notices.

use super::broker::{Broker, Folder};
use super::client::{Client, produce_request};
use engine::protocol::ErrorCode;
use engine::record::{BatchBuilder, Codec};

/// How much more memory the broker may hold after all of it.
const GROWTH_BYTES: u64 = 96 << 20;

fn framed(body: &[u8]) -> Vec<u8> {
    [&i32::try_from(body.len()).expect("short").to_be_bytes()[..], body].concat()
}

/// A request's header (correlation id 9, client "p"; no tagged fields if flexible), then `body`.
fn request(api_key: i16, version: i16, flexible: bool, body: &[u8]) -> Vec<u8> {
    let mut bytes = [&api_key.to_be_bytes()[..], &version.to_be_bytes(), &[0, 0, 0, 9, 0, 1, b'p']].concat();
    if flexible {
        bytes.push(0);
    }
    bytes.extend_from_slice(body);
    framed(&bytes)
}

/// (what it is, what is sent): all of it closes the connection.
fn refused() -> Vec<(&'static str, Vec<u8>)> {
    let claims = [0x7f, 0xff, 0xff, 0xff];
    vec![
        ("a negative frame", vec![0xff; 8]),
        ("the most negative frame", vec![0x80, 0, 0, 0]),
        ("a frame of 2 GiB", claims.to_vec()),
        ("a frame above socket.request.max.bytes", 104_857_601_i32.to_be_bytes().to_vec()),
        ("an empty frame", vec![0; 4]),
        ("half a header", framed(&[0, 1, 0])),
        ("an unknown API", request(999, 0, false, &[])),
        ("a negative API", request(-1, 0, false, &[])),
        ("an API between brokers", request(4, 0, false, &[])),
        ("a version too old", request(1, 3, false, &[])),
        ("a version too new", request(3, 99, true, &[])),
        ("a negative version", request(0, -1, false, &[])),
        ("a client id longer than the frame", framed(&[0, 3, 0, 1, 0, 0, 0, 9, 0x7f, 0xff, b'p'])),
        ("a Produce of 2^31 topics", request(0, 8, false, &[&[0xff, 0xff, 0, 1, 0, 0, 0, 100][..], &claims].concat())),
        (
            "a compact Produce of 2^32 topics",
            request(0, 9, true, &[0, 0, 1, 0, 0, 0, 100, 0xff, 0xff, 0xff, 0xff, 0x0f]),
        ),
        ("a varint without an end", request(3, 12, true, &[0xff; 32])),
        ("a Metadata of 2^31 topics", request(3, 1, false, &claims)),
        ("a Metadata of −2 topics", request(3, 1, false, &[0xff, 0xff, 0xff, 0xfe])),
        ("a CreateTopics of 2^31 topics", request(19, 2, false, &claims)),
        ("a name that is not UTF-8", request(3, 1, false, &[0, 0, 0, 1, 0, 2, 0xc3, 0x28])),
        ("a request cut short", request(19, 2, false, &[0, 0, 0, 1, 0, 1])),
        ("text", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
    ]
}

fn batch() -> BatchBuilder {
    let mut batch = BatchBuilder::new();
    batch.append(-1, None, Some(b"bad"), &[]);
    batch
}

/// (what it is, the batch, the error).
fn bad_batches() -> Vec<(&'static str, Vec<u8>, ErrorCode)> {
    let spoilt = |at: usize, byte: u8| {
        let mut bytes = batch().finish();
        bytes[at] ^= byte;
        bytes
    };
    // Much in a few kilobytes, which is checked however much it is.
    let mut bomb = BatchBuilder::new().codec(Codec::Zstd);
    bomb.append(-1, None, Some(&vec![0; 80 << 20]), &[]);
    let mut bomb = bomb.finish();
    let last = bomb.len() - 1;
    bomb[last] ^= 1;
    let mut large = BatchBuilder::new();
    large.append(-1, None, Some(&vec![b'x'; 2 << 20]), &[]);
    vec![
        ("nothing", Vec::new(), ErrorCode::InvalidRecord),
        ("half a batch", batch().finish()[..40].to_vec(), ErrorCode::InvalidRecord),
        ("a wrong CRC", spoilt(20, 1), ErrorCode::CorruptMessage),
        ("a flipped bit", spoilt(66, 1), ErrorCode::CorruptMessage),
        ("an unknown magic", spoilt(16, 8), ErrorCode::CorruptMessage),
        ("an old magic", spoilt(16, 3), ErrorCode::InvalidRecord),
        ("a base offset", batch().base_offset(5).finish(), ErrorCode::InvalidRecord),
        ("two batches", [batch().finish(), batch().finish()].concat(), ErrorCode::InvalidRecord),
        ("a control batch", batch().control(true).finish(), ErrorCode::InvalidRecord),
        ("a batch above max.message.bytes", large.finish(), ErrorCode::MessageTooLarge),
        ("a decompression bomb", bomb, ErrorCode::CorruptMessage),
    ]
}

/// A client that sends only what is right, and must notice nothing.
struct Bystander {
    client: Client,
    sent: Vec<Vec<u8>>,
}

impl Bystander {
    fn new(broker: &Broker) -> Bystander {
        let mut client = Client::connect(broker.address).expect("it listens");
        assert_eq!(client.create_topic().expect("an answer"), 0);
        Bystander { client, sent: Vec::new() }
    }

    fn goes_on(&mut self, after: &str) {
        let value = format!("after {after}").into_bytes();
        let answer = self.client.produce(&value).unwrap_or_else(|error| panic!("after {after}: {error}"));
        assert_eq!(answer, (0, self.sent.len() as i64), "after {after}");
        self.sent.push(value);
    }

    fn finds_its_records(&mut self) {
        assert_eq!(self.client.consume().expect("an answer"), self.sent);
    }
}

#[test]
fn what_is_no_request_closes_its_connection_and_nothing_else() {
    let folder = Folder::new("bad-frames");
    let broker = Broker::start(&folder, "").expect("it starts");
    let mut bystander = Bystander::new(&broker);
    let before = broker.resident_bytes();
    for (what, bytes) in refused() {
        let mut client = Client::connect(broker.address).expect("it listens");
        client.send(&bytes).unwrap_or_else(|error| panic!("{what}: {error}"));
        let answer = client.receive().unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(answer, None, "{what}");
        bystander.goes_on(what);
    }
    let grown = broker.resident_bytes().saturating_sub(before);
    assert!(grown < GROWTH_BYTES, "{grown} bytes more");
    bystander.finds_its_records();
    assert!(broker.stop().status.success());
}

#[test]
fn bad_batches_get_kafkas_errors_and_the_connection_goes_on() {
    let folder = Folder::new("bad-batches");
    let broker = Broker::start(&folder, "").expect("it starts");
    let mut bystander = Bystander::new(&broker);
    let mut client = Client::connect(broker.address).expect("it listens");
    for (what, batch, error) in bad_batches() {
        let answer = client.produce_batch(batch).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(answer, (error.code(), -1), "{what}");
        bystander.goes_on(what);
    }
    bystander.finds_its_records();
    assert!(broker.stop().status.success());
}

#[test]
fn slow_and_silent_clients_hold_up_nobody() {
    let folder = Folder::new("slow");
    let broker = Broker::start(&folder, "").expect("it starts");
    let mut bystander = Bystander::new(&broker);

    // Byte by byte, with others' requests in between; in the end it is answered like any other.
    let mut slow = Client::connect(broker.address).expect("it listens");
    let bytes = slow.frame(&produce_request(batch().finish()), 12);
    for (number, byte) in bytes.iter().enumerate() {
        slow.send(&[*byte]).expect("the broker reads");
        if number % 16 == 0 {
            bystander.goes_on("a byte of a slow request");
        }
    }
    assert!(slow.receive().expect("an answer").is_some());
    bystander.sent.push(b"bad".to_vec());

    // The largest requests that are allowed, announced and never sent: more than there is memory for.
    let mut silent = Vec::new();
    for _ in 0..16 {
        let mut client = Client::connect(broker.address).expect("it listens");
        client.send(&(100_i32 << 20).to_be_bytes()).expect("the broker reads");
        silent.push(client);
    }
    // So often that the broker has read them all on the way.
    (0..64).for_each(|_| bystander.goes_on("announcements"));

    // Some say nothing, some part of a size, some part of a request.
    let parts: [&[u8]; 4] = [&[], &[0, 0], &[0, 0, 0, 100], &bytes[..bytes.len() / 2]];
    for number in 0..128 {
        let mut client = Client::connect(broker.address).expect("it listens");
        client.send(parts[number % parts.len()]).expect("the broker reads");
        silent.push(client);
    }
    bystander.goes_on("silence");

    drop(silent);
    bystander.goes_on("broken connections");
    bystander.finds_its_records();
    assert!(broker.stop().status.success());
}
