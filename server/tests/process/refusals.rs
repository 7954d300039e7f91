//! A broker that cannot start says why and what to do, in one sentence, and leaves with status 1.

use std::fs;
use std::net::TcpListener;

use super::broker::{Broker, Ended, Folder, command};

/// Starts a broker that must not, and gives the sentence.
fn sentence(folder: &Folder, flags: &[&str]) -> String {
    let mut command = command(folder);
    let Err(Ended { status, log }) = Broker::spawn(folder, command.args(flags)) else {
        panic!("it starts with {flags:?}");
    };
    let said: Vec<_> = log.lines().filter_map(|line| line.strip_prefix("corelog: ")).collect();
    assert_eq!((status.code(), said.len()), (Some(1), 1), "{log}");
    assert!(said[0].ends_with('.') && said[0].len() > 40, "{}", said[0]);
    said[0].to_owned()
}

fn assert_says(sentence: &str, parts: &[&str]) {
    assert!(parts.iter().all(|part| sentence.contains(part)), "{sentence} lacks one of {parts:?}");
}

#[test]
fn a_port_in_use_is_named() {
    let folder = Folder::new("port");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address");
    let said = sentence(&folder, &["--listen", &address.to_string()]);
    assert_says(&said, &[&format!("Port {}", address.port()), "in use", "--listen"]);
}

#[test]
fn a_directory_of_another_node_or_a_running_broker_is_refused_and_kept() {
    let folder = Folder::new("others-directory");
    let broker = Broker::start(&folder, "").expect("it starts");
    let said = sentence_beside(&folder, &broker);
    assert_says(&said, &["in use", "--data-dir"]);
    assert!(broker.stop().status.success());

    let said = sentence(&folder, &["--listen", "127.0.0.1:0", "--node-id", "2"]);
    assert_says(&said, &["node 1", "node 2", "--node-id 1", "--data-dir"]);
    let broker = Broker::start(&folder, "").expect("it is still node 1's");
    assert!(broker.stop().status.success());
}

/// As [`sentence`], without writing over the running broker's log.
fn sentence_beside(folder: &Folder, _running: &Broker) -> String {
    let output = command(folder).args(["--listen", "127.0.0.1:0"]).output().expect("the broker's binary runs");
    assert_eq!(output.status.code(), Some(1));
    let log = String::from_utf8(output.stderr).expect("text");
    let said = log.lines().find_map(|line| line.strip_prefix("corelog: "));
    said.unwrap_or_else(|| panic!("no sentence: {log}")).to_owned()
}

#[test]
fn a_data_directory_that_is_a_file_is_refused() {
    let folder = Folder::new("file");
    fs::write(folder.data(), "a file").expect("the folder is writable");
    assert_says(&sentence(&folder, &["--listen", "127.0.0.1:0"]), &["data directory", "data"]);
    assert_eq!(fs::read(folder.data()).expect("it is there"), b"a file");
}

#[test]
fn journals_without_their_metadata_are_refused() {
    let folder = Folder::new("no-metadata");
    let broker = Broker::start(&folder, "").expect("it starts");
    assert!(broker.stop().status.success());
    fs::rename(folder.data().join("@metadata"), folder.path("lost")).expect("it is there");
    assert_says(&sentence(&folder, &["--listen", "127.0.0.1:0"]), &["@metadata", "restore"]);
}

#[test]
fn flags_without_sense_are_refused_with_a_remedy() {
    let folder = Folder::new("flags");
    let listen = ["--listen", "127.0.0.1:0"];
    let with = |flags: &[&'static str]| sentence(&folder, &[&listen[..], flags].concat());
    assert_says(&sentence(&folder, &["--listen", "0.0.0.0:0"]), &["--insecure"]);
    assert_says(&with(&["--set", "num.partitions"]), &["--set", "KEY=VALUE"]);
    assert_says(&with(&["--set", "num.partitions=many"]), &["num.partitions"]);
    assert_says(&with(&["--config", "/nowhere/at/all.toml"]), &["/nowhere/at/all.toml"]);
    assert_says(&with(&["--metadata-cores", "99999"]), &["99999"]);
}
