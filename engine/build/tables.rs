//! Writes the table of APIs, and generators of random messages for `tests/protocol_oracle.rs`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::messages::doc_range;
use crate::schema::*;

pub(crate) fn rust_api_key(items: &[Item]) -> String {
    let mut out = String::new();
    line!(out, "/// The APIs a broker serves to clients, by the key that requests carry.");
    line!(out, "#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]");
    line!(out, "#[repr(i16)]\npub enum ApiKey {{");
    for item in items {
        line!(out, "/// {}, versions {}.", item.name, doc_range(item.versions));
        line!(out, "{} = {},", item.name, item.key.expect("an api has a key"));
    }
    line!(out, "}}");
    line!(out, "impl ApiKey {{");
    line!(out, "/// Every API, in the order of their keys.");
    line!(out, "pub const ALL: [ApiKey; {}] = [", items.len());
    for item in items {
        line!(out, "ApiKey::{},", item.name);
    }
    line!(out, "];\n}}");
    line!(out, "const INFO: [ApiInfo; {}] = [", items.len());
    for item in items {
        let Range { lo, hi } = item.versions;
        let first = item.flexible.map_or("i16::MAX".to_string(), |v| v.to_string());
        let name = &item.name;
        line!(out, "ApiInfo {{ name: \"{name}\", min: {lo}, max: {hi}, flexible: {first} }},");
    }
    line!(out, "];");
    line!(out, "/// Key to place in `ALL` and `INFO`; 255 where there is no such API.");
    let by_key: BTreeMap<i16, usize> =
        items.iter().enumerate().map(|(i, item)| (item.key.expect("an api has a key"), i)).collect();
    let last = *by_key.keys().next_back().expect("there are APIs");
    line!(out, "const PLACE: [u8; {}] = [", last + 1);
    for key in 0..=last {
        line!(out, "{},", by_key.get(&key).copied().unwrap_or(255));
    }
    line!(out, "];");
    out
}

pub(crate) fn rust_arbitrary(apis: &[Item], data: &[Item]) -> String {
    let mut out = String::new();
    for (items, root) in [(apis, "messages"), (data, "data")] {
        for item in items {
            for message in &item.messages {
                for s in &message.structs {
                    arbitrary_struct(&mut out, root, item, message, s);
                }
            }
        }
    }
    line!(out, "macro_rules! every_api {{ ($m:ident) => {{ $m! {{");
    for item in apis {
        line!(out, "{} {}Request {}Response,", item.name, item.name, item.name);
    }
    line!(out, "}} }} }}");
    line!(out, "macro_rules! every_data {{ ($m:ident) => {{ $m! {{");
    for item in data {
        line!(out, "{},", item.name);
    }
    line!(out, "}} }} }}");
    out
}

fn arbitrary_struct(out: &mut String, root: &str, item: &Item, message: &Message, s: &Struct) {
    let path = format!("engine::protocol::{root}::{}::{}", item.module(), s.name);
    let borrowed = if message.struct_borrows(s) { "<'static>" } else { "" };
    line!(out, "#[allow(clippy::field_reassign_with_default)]");
    line!(out, "impl Arbitrary for {path}{borrowed} {{");
    line!(out, "fn arbitrary(r: &mut Random, version: i16) -> Self {{");
    line!(out, "let _ = version;\nlet mut x = {path}::default();");
    for field in &s.fields {
        let value = arbitrary_value(&field.ty);
        let value = match field.nullable.map(|n| n.condition(item.versions)) {
            None => value,
            Some(None) => format!("if r.null() {{ None }} else {{ Some({value}) }}"),
            Some(Some(c)) => format!("if {c} && r.null() {{ None }} else {{ Some({value}) }}"),
        };
        let name = field.rust_name();
        match field.versions.condition(item.versions) {
            None => line!(out, "x.{name} = {value};"),
            Some(cond) => line!(out, "if {cond} {{ x.{name} = {value}; }}"),
        }
    }
    line!(out, "x\n}}\n}}");
}

fn arbitrary_value(ty: &Type) -> String {
    match ty {
        Type::Primitive(p) => format!("r.{}()", p.rust),
        Type::Uuid => "r.uuid()".to_string(),
        Type::String => "r.string()".to_string(),
        Type::Bytes => "r.bytes()".to_string(),
        Type::Records => "r.records()".to_string(),
        Type::Struct(_) => "Arbitrary::arbitrary(r, version)".to_string(),
        Type::Array(element) => format!("r.array(|r| {})", arbitrary_value(element)),
    }
}
