//! Writes the inputs that fuzzing starts from into `seeds/<target>/`; `cargo run --example seeds` in this folder, when a format changes.

use std::path::{Path, PathBuf};

use engine::protocol::messages::create_topics::{CreatableTopic, CreatableTopicConfig};
use engine::protocol::messages::fetch::{FetchPartition, FetchTopic};
use engine::protocol::messages::metadata::MetadataRequestTopic;
use engine::protocol::messages::produce::{PartitionProduceData, TopicProduceData};
use engine::protocol::messages::{CreateTopicsRequest, FetchRequest, MetadataRequest, ProduceRequest};
use engine::protocol::{ApiKey, Encoder, Message, Records, Request, RequestHeader};
use engine::record::{BatchBuilder, Codec};

const NOW: i64 = 1_700_000_000_000;

fn main() -> std::io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    frames(&root.join("frame"))?;
    requests(&root.join("request"))?;
    batches(&root.join("batch"))
}

fn save(folder: &Path, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(PathBuf::from(folder).join(name), bytes)
}

fn frames(folder: &Path) -> std::io::Result<()> {
    save(folder, "two", &[3, 1, 0, 0, 0, 2, b'a', b'b', 0, 0, 0, 1, b'c'])?;
    save(folder, "empty-and-partial", &[1, 1, 0, 0, 0, 0, 0, 0, 0, 9, b'x'])?;
    save(folder, "negative", &[2, 1, 0xff, 0xff, 0xff, 0xff])?;
    save(folder, "huge", &[2, 1, 0x7f, 0xff, 0xff, 0xff])
}

fn request<'a, R: Request<'a>>(request: &R, version: i16) -> Vec<u8> {
    let mut encoder = Encoder::new();
    let client_id = Some("seed".into());
    RequestHeader { api_key: R::API_KEY, api_version: version, correlation_id: 1, client_id }.encode(&mut encoder);
    request.encode(&mut encoder, version);
    encoder.finish_contiguous().expect("a seed can be written").to_vec()
}

fn requests(folder: &Path) -> std::io::Result<()> {
    // Of each API the oldest and the newest version with an empty body, most of which do not parse: enough to
    // lead to the API.
    for api_key in ApiKey::ALL {
        for version in [*api_key.versions().start(), *api_key.versions().end()] {
            let mut encoder = Encoder::new();
            RequestHeader { api_key, api_version: version, correlation_id: 1, client_id: None }.encode(&mut encoder);
            let mut bytes = encoder.finish_contiguous().expect("a seed can be written").to_vec();
            bytes.extend([0; 16]);
            save(folder, &format!("{}-{version}", api_key.name()), &bytes)?;
        }
    }
    for version in ProduceRequest::VERSIONS {
        let records = Some(Records::Chunks(vec![batch(Codec::None).into()]));
        let data = PartitionProduceData { index: 1, records };
        let topic = TopicProduceData { name: "topic".into(), partition_data: vec![data], ..Default::default() };
        let body = ProduceRequest { acks: -1, timeout_ms: 1000, topic_data: vec![topic], ..Default::default() };
        save(folder, &format!("Produce-{version}-full"), &request(&body, version))?;
    }
    for version in [4, 7, 12, 18] {
        let partition = FetchPartition { partition: 1, partition_max_bytes: 1 << 20, ..Default::default() };
        let topic = FetchTopic { topic: "topic".into(), partitions: vec![partition], ..Default::default() };
        let body = FetchRequest { max_wait_ms: 500, min_bytes: 1, topics: vec![topic], ..Default::default() };
        save(folder, &format!("Fetch-{version}-full"), &request(&body, version))?;
    }
    for version in [0, 9, 13] {
        let topic = MetadataRequestTopic { name: Some("topic".into()), ..Default::default() };
        let body = MetadataRequest { topics: Some(vec![topic]), ..Default::default() };
        save(folder, &format!("Metadata-{version}-full"), &request(&body, version))?;
    }
    for version in [2, 7] {
        let config = CreatableTopicConfig { name: "retention.ms".into(), value: Some("1".into()) };
        let topic = CreatableTopic {
            name: "topic".into(),
            num_partitions: 3,
            replication_factor: 1,
            configs: vec![config],
            ..Default::default()
        };
        let body = CreateTopicsRequest { topics: vec![topic], timeout_ms: 1000, ..Default::default() };
        save(folder, &format!("CreateTopics-{version}-full"), &request(&body, version))?;
    }
    Ok(())
}

fn batch(codec: Codec) -> Vec<u8> {
    let mut builder = BatchBuilder::new().codec(codec).producer(7, 2, 40);
    builder.append(NOW - 5, Some(b"key"), Some(b"value"), &[]);
    builder.append(NOW, None, Some(b""), &[(b"trace", Some(b"1")), (b"none", None)]);
    builder.append(NOW - 9, Some(b""), None, &[(b"", Some(b""))]);
    builder.finish()
}

fn batches(folder: &Path) -> std::io::Result<()> {
    let section = batch(Codec::None)[61..].to_vec();
    for codec in Codec::ALL {
        // The topic keeps the codec, or compresses with the next one.
        let id = codec.id();
        for (name, rules) in [("kept", 7), ("recompressed", (id + 1) % 5), ("stamped", 7 | 8)] {
            let sealed = [&[rules, 1][..], &batch(codec)].concat();
            save(folder, &format!("{}-{name}", codec.name()), &sealed)?;
        }
        let by_section = [&[7, 2 | id << 2, 3][..], &section].concat();
        save(folder, &format!("{}-section", codec.name()), &by_section)?;
    }
    let two = [&[7, 0][..], &batch(Codec::None), &batch(Codec::Lz4)].concat();
    save(folder, "two-batches", &two)?;
    save(folder, "cut", &two[..100])
}
