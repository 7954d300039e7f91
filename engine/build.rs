//! Turns `src/protocol/schema/*.schema` into Rust: the wire messages, the table of APIs, and, for the
//! tests, generators of random messages.
//!
//! Invariant: the schema is the only source of facts about Kafka's messages; this program knows how
//! to write Rust and nothing about any one message. A schema it does not understand stops the build
//! with the line at fault.
#![allow(clippy::disallowed_methods, reason = "a build script runs before there is an Io to go through")]

use std::path::{Path, PathBuf};
use std::{env, fs};

/// `writeln!` into a `String`.
macro_rules! line {
    ($out:expr, $($arg:tt)*) => { writeln!($out, $($arg)*).expect("a String takes every write") };
}

#[path = "build/schema.rs"]
mod schema;

#[path = "build/messages.rs"]
mod messages;

#[path = "build/tables.rs"]
mod tables;

use messages::rust_modules;
use schema::{Item, parse};
use tables::{rust_api_key, rust_arbitrary};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=build");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let apis = parse_file("src/protocol/schema/api.schema");
    let data = parse_file("src/protocol/schema/data.schema");
    emit(&out.join("messages.rs"), &rust_modules(&apis));
    emit(&out.join("data.rs"), &rust_modules(&data));
    emit(&out.join("api_key.rs"), &rust_api_key(&apis));
    emit(&out.join("arbitrary.rs"), &rust_arbitrary(&apis, &data));
}

fn parse_file(path: &str) -> Vec<Item> {
    println!("cargo:rerun-if-changed={path}");
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("cannot read {path}: {e}"));
    parse(&text, path)
}

fn emit(path: &Path, code: &str) {
    fs::write(path, code).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
}
