//! Turns `src/protocol/schema/*.schema` into Rust: the wire messages, the table of APIs, and, for the
//! tests, generators of random messages.
//!
//! Invariant: the schema is the only source of facts about Kafka's messages; this program knows how
//! to write Rust and nothing about any one message. A schema it does not understand stops the build
//! with the line at fault.
#![allow(
    clippy::disallowed_methods,
    reason = "a build script runs before there is an Io to go through"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
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

// ---------------------------------------------------------------------------------------------
// The schema
// ---------------------------------------------------------------------------------------------

/// An inclusive range of versions.
#[derive(Clone, Copy, PartialEq)]
struct Range {
    lo: i16,
    hi: i16,
}

/// One `api` or `data` of the schema: the messages that share a key and a range of versions.
struct Item {
    is_api: bool,
    key: Option<i16>,
    name: String,
    versions: Range,
    /// The first flexible version (KIP-482), if there is one.
    flexible: Option<i16>,
    messages: Vec<Message>,
}

/// A top-level struct and those nested in it; `structs[0]` is the top.
struct Message {
    structs: Vec<Struct>,
}

struct Struct {
    schema_name: String,
    name: String,
    fields: Vec<Field>,
}

struct Field {
    name: String,
    ty: Type,
    versions: Range,
    nullable: Option<Range>,
    default: Option<String>,
    tag: Option<u32>,
}

#[derive(Clone, PartialEq)]
enum Type {
    Primitive(&'static Primitive),
    Uuid,
    String,
    Bytes,
    Records,
    Struct(String),
    Array(Box<Type>),
}

/// A number or bool: its schema name, Rust type, codec method, and size on the wire in bytes.
#[derive(PartialEq)]
struct Primitive {
    schema: &'static str,
    rust: &'static str,
    size: usize,
}

const PRIMITIVES: [Primitive; 7] = [
    Primitive {
        schema: "bool",
        rust: "bool",
        size: 1,
    },
    Primitive {
        schema: "int8",
        rust: "i8",
        size: 1,
    },
    Primitive {
        schema: "int16",
        rust: "i16",
        size: 2,
    },
    Primitive {
        schema: "uint16",
        rust: "u16",
        size: 2,
    },
    Primitive {
        schema: "int32",
        rust: "i32",
        size: 4,
    },
    Primitive {
        schema: "int64",
        rust: "i64",
        size: 8,
    },
    Primitive {
        schema: "float64",
        rust: "f64",
        size: 8,
    },
];

fn parse(text: &str, path: &str) -> Vec<Item> {
    let mut items: Vec<Item> = Vec::new();
    // The structs that enclose the current line, as (index in the message, effective versions).
    let mut enclosing: Vec<(usize, Range)> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let at = format!("{path}:{}", number + 1);
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some(&first) = words.first() else {
            continue;
        };
        if first.starts_with('#') {
            continue;
        }
        let depth = (line.len() - line.trim_start().len()) / 2;
        if depth == 0 {
            match first {
                "api" | "data" => items.push(parse_item(&words, &at)),
                "request" | "response" => {}
                _ => panic!("{at}: unknown word {first}"),
            }
            let item = items
                .last_mut()
                .unwrap_or_else(|| panic!("{at}: no api or data yet"));
            let suffix = match first {
                "api" => continue,
                "request" => "Request",
                "response" => "Response",
                _ => "",
            };
            let top = Struct::new(format!("{}{suffix}", item.name));
            item.messages.push(Message { structs: vec![top] });
            enclosing = vec![(0, item.versions)];
            continue;
        }
        let item = items
            .last_mut()
            .unwrap_or_else(|| panic!("{at}: no api or data yet"));
        let message = item
            .messages
            .last_mut()
            .unwrap_or_else(|| panic!("{at}: no message yet"));
        enclosing.truncate(depth);
        assert!(enclosing.len() == depth, "{at}: indented too deep");
        if first == "struct" {
            message.structs.push(Struct::new(words[1].to_string()));
            enclosing.push((message.structs.len() - 1, item.versions));
            continue;
        }
        let (parent, outer) = enclosing[depth - 1];
        let field = parse_field(&words, outer, &at);
        let opens = match &field.ty {
            Type::Struct(name) => Some(name.clone()),
            Type::Array(element) => match &**element {
                Type::Struct(name) => Some(name.clone()),
                _ => None,
            },
            _ => None,
        };
        let versions = field.versions;
        message.structs[parent].fields.push(field);
        // A struct field opens a scope: deeper lines, if any, are the struct's fields. A struct
        // that is defined elsewhere by a `struct` line has none, and its empty scope is dropped.
        if let Some(name) = opens {
            message.structs.push(Struct::new(name));
            enclosing.push((message.structs.len() - 1, versions));
        }
    }
    for item in &mut items {
        for message in &mut item.messages {
            let mut index = 0;
            message.structs.retain(|s| {
                index += 1;
                index == 1 || !s.fields.is_empty()
            });
        }
        rename_clashing_structs(item);
    }
    items
}

fn parse_item(words: &[&str], at: &str) -> Item {
    let everything = Range {
        lo: 0,
        hi: i16::MAX,
    };
    let versions = parse_range(words[3], everything, at);
    let flexible = words.iter().position(|w| *w == "flexible");
    Item {
        is_api: words[0] == "api",
        key: words[1].parse().ok(),
        name: words[2].to_string(),
        versions,
        flexible: flexible.map(|i| parse_range(words[i + 1], versions, at).lo),
        messages: Vec::new(),
    }
}

fn parse_field(words: &[&str], outer: Range, at: &str) -> Field {
    let mut field = Field {
        name: words[0].to_string(),
        ty: parse_type(words[1], at),
        versions: outer,
        nullable: None,
        default: None,
        tag: None,
    };
    for word in &words[2..] {
        if *word == "nullable" {
            field.nullable = Some(field.versions);
        } else if let Some(range) = word.strip_prefix("nullable=") {
            field.nullable = Some(parse_range(range, field.versions, at));
        } else if let Some(value) = word.strip_prefix("default=") {
            field.default = Some(value.to_string());
        } else if let Some(tag) = word.strip_prefix("tag=") {
            field.tag = Some(
                tag.parse()
                    .unwrap_or_else(|_| panic!("{at}: bad tag {tag}")),
            );
        } else {
            field.versions = parse_range(word, outer, at);
        }
    }
    field
}

fn parse_type(word: &str, at: &str) -> Type {
    if let Some(element) = word.strip_prefix("[]") {
        return Type::Array(Box::new(parse_type(element, at)));
    }
    if let Some(primitive) = PRIMITIVES.iter().find(|p| p.schema == word) {
        return Type::Primitive(primitive);
    }
    match word {
        "uuid" => Type::Uuid,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "records" => Type::Records,
        name if name.starts_with(|c: char| c.is_ascii_uppercase()) => {
            Type::Struct(name.to_string())
        }
        _ => panic!("{at}: unknown type {word}"),
    }
}

fn parse_range(word: &str, outer: Range, at: &str) -> Range {
    let number = |text: &str, absent: i16| match text {
        "" => absent,
        _ => text
            .parse()
            .unwrap_or_else(|_| panic!("{at}: bad version in {word}")),
    };
    let (lo, hi) = word.split_once('-').unwrap_or((word, word));
    let range = Range {
        lo: number(lo, outer.lo),
        hi: number(hi, outer.hi),
    };
    assert!(range.lo <= range.hi, "{at}: empty range {word}");
    assert!(
        outer.lo <= range.lo && range.hi <= outer.hi,
        "{at}: {word} leaves its parent's range"
    );
    range
}

/// A request and its response share a Rust module. Where both have a struct of one name, each is
/// prefixed with the side it belongs to.
fn rename_clashing_structs(item: &mut Item) {
    if !item.is_api {
        return;
    }
    let names = |m: &Message| {
        m.structs
            .iter()
            .map(|s| s.schema_name.clone())
            .collect::<BTreeSet<_>>()
    };
    let clashing: BTreeSet<String> = names(&item.messages[0])
        .intersection(&names(&item.messages[1]))
        .cloned()
        .collect();
    for (message, side) in item.messages.iter_mut().zip(["Request", "Response"]) {
        for s in &mut message.structs {
            if clashing.contains(&s.schema_name) {
                s.name = format!("{side}{}", s.schema_name);
            }
        }
    }
}

impl Struct {
    fn new(name: String) -> Self {
        Struct {
            schema_name: name.clone(),
            name,
            fields: Vec::new(),
        }
    }
}

impl Message {
    fn find(&self, schema_name: &str) -> &Struct {
        let found = self.structs.iter().find(|s| s.schema_name == schema_name);
        found.unwrap_or_else(|| panic!("struct {schema_name} is used but not defined"))
    }

    /// Whether the type borrows from what it was decoded from.
    fn borrows(&self, ty: &Type) -> bool {
        match ty {
            Type::String | Type::Bytes | Type::Records => true,
            Type::Primitive(_) | Type::Uuid => false,
            Type::Array(element) => self.borrows(element),
            Type::Struct(name) => self.struct_borrows(self.find(name)),
        }
    }

    fn struct_borrows(&self, s: &Struct) -> bool {
        s.fields.iter().any(|f| self.borrows(&f.ty))
    }

    /// The Rust type, with `lifetime` as its argument where it borrows.
    fn rust(&self, ty: &Type, lifetime: &str) -> String {
        match ty {
            Type::Primitive(p) => p.rust.to_string(),
            Type::Uuid => "Uuid".to_string(),
            Type::String => format!("Str<{lifetime}>"),
            Type::Bytes => format!("Blob<{lifetime}>"),
            Type::Records => format!("Records<{lifetime}>"),
            Type::Array(element) => format!("Vec<{}>", self.rust(element, lifetime)),
            Type::Struct(name) => self.struct_rust(self.find(name), lifetime),
        }
    }

    fn struct_rust(&self, s: &Struct, lifetime: &str) -> String {
        match self.struct_borrows(s) {
            true => format!("{}<{lifetime}>", s.name),
            false => s.name.clone(),
        }
    }

    /// The fewest bytes a value takes at `version`: what bounds an array's claimed length.
    fn min_size(&self, ty: &Type, item: &Item, version: i16) -> usize {
        let flexible = item.is_flexible(version);
        match ty {
            Type::Primitive(p) => p.size,
            Type::Uuid => 16,
            Type::String if !flexible => 2,
            Type::Bytes | Type::Records | Type::Array(_) if !flexible => 4,
            Type::String | Type::Bytes | Type::Records | Type::Array(_) => 1,
            Type::Struct(name) => self.struct_min_size(self.find(name), item, version),
        }
    }

    fn struct_min_size(&self, s: &Struct, item: &Item, version: i16) -> usize {
        let present = s
            .fields
            .iter()
            .filter(|f| f.tag.is_none() && f.versions.contains(version));
        let body: usize = present
            .map(|f| match (&f.ty, f.nullable) {
                (Type::Struct(_), Some(_)) => 1,
                _ => self.min_size(&f.ty, item, version),
            })
            .sum();
        body + usize::from(item.is_flexible(version))
    }

    /// [`Message::min_size`] over every version, and at least one byte.
    fn min_size_ever(&self, ty: &Type, item: &Item) -> usize {
        let versions = item.versions.lo..=item.versions.hi;
        versions
            .map(|v| self.min_size(ty, item, v))
            .min()
            .unwrap_or(1)
            .max(1)
    }
}

impl Item {
    fn is_flexible(&self, version: i16) -> bool {
        self.flexible.is_some_and(|first| version >= first)
    }

    fn module(&self) -> String {
        snake(&self.name)
    }
}

impl Range {
    fn contains(self, version: i16) -> bool {
        (self.lo..=self.hi).contains(&version)
    }

    /// The Rust condition for `version` to be in this range, given that it is in `outer`.
    fn condition(self, outer: Range) -> Option<String> {
        match (self.lo > outer.lo, self.hi < outer.hi) {
            (false, false) => None,
            (true, false) => Some(format!("version >= {}", self.lo)),
            (false, true) => Some(format!("version <= {}", self.hi)),
            (true, true) if self.lo == self.hi => Some(format!("version == {}", self.lo)),
            (true, true) => Some(format!("({}..={}).contains(&version)", self.lo, self.hi)),
        }
    }
}

impl Field {
    fn rust_name(&self) -> String {
        match snake(&self.name).as_str() {
            word @ ("match" | "type") => format!("{word}_"),
            word => word.to_string(),
        }
    }

    fn rust_type(&self, message: &Message, lifetime: &str) -> String {
        let inner = message.rust(&self.ty, lifetime);
        match self.nullable {
            Some(_) => format!("Option<{inner}>"),
            None => inner,
        }
    }

    fn default_is_null(&self) -> bool {
        // Kafka's generator starts a nullable field empty unless told `null`; records start null.
        self.default.as_deref() == Some("null")
            || (self.nullable.is_some() && self.ty == Type::Records)
    }

    fn default_value(&self) -> String {
        match (&self.default, self.nullable) {
            _ if self.default_is_null() => "None".to_string(),
            (Some(value), _) => value.clone(),
            (None, Some(_)) => "Some(Default::default())".to_string(),
            (None, None) => "Default::default()".to_string(),
        }
    }

    fn has_plain_default(&self) -> bool {
        match self.nullable {
            Some(_) => self.default_is_null(),
            None => self.default.is_none(),
        }
    }
}

fn snake(name: &str) -> String {
    let chars: Vec<char> = name.chars().collect();
    let mut out = String::new();
    for (i, c) in chars.iter().enumerate() {
        let after_lower = i > 0 && !chars[i - 1].is_ascii_uppercase();
        let before_lower = i > 0 && chars.get(i + 1).is_some_and(char::is_ascii_lowercase);
        if c.is_ascii_uppercase() && (after_lower || before_lower) {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

// ---------------------------------------------------------------------------------------------
// Messages
// ---------------------------------------------------------------------------------------------

macro_rules! line {
    ($out:expr, $($arg:tt)*) => { writeln!($out, $($arg)*).expect("a String takes every write") };
}

fn rust_modules(items: &[Item]) -> String {
    let mut out = String::new();
    for item in items {
        line!(
            out,
            "/// {}, versions {}.",
            item.name,
            doc_range(item.versions)
        );
        line!(out, "pub mod {} {{", item.module());
        line!(out, "use super::prelude::*;");
        for message in &item.messages {
            for s in &message.structs {
                rust_struct(&mut out, item, message, s);
            }
            rust_message(&mut out, item, message);
        }
        if item.is_api {
            rust_request(&mut out, item);
        }
        line!(out, "}}");
        let tops: Vec<&str> = item
            .messages
            .iter()
            .map(|m| m.structs[0].name.as_str())
            .collect();
        line!(out, "pub use {}::{{{}}};", item.module(), tops.join(", "));
    }
    out
}

fn doc_range(range: Range) -> String {
    match range.lo == range.hi {
        true => format!("{}", range.lo),
        false => format!("{} to {}", range.lo, range.hi),
    }
}

fn rust_struct(out: &mut String, item: &Item, message: &Message, s: &Struct) {
    let plain_default = s.fields.iter().all(Field::has_plain_default);
    let derived = if plain_default { ", Default" } else { "" };
    line!(
        out,
        "/// `{}` of {}.",
        s.schema_name,
        message.structs[0].name
    );
    line!(out, "#[derive(Debug, Clone, PartialEq{derived})]");
    line!(out, "pub struct {} {{", message.struct_rust(s, "'a"));
    for field in &s.fields {
        rust_field_doc(out, item, field);
        line!(
            out,
            "pub {}: {},",
            field.rust_name(),
            field.rust_type(message, "'a")
        );
    }
    line!(out, "}}");
    if !plain_default {
        rust_default(out, message, s);
    }
    let head = match message.struct_borrows(s) {
        true => format!("impl<'a> {}<'a>", s.name),
        false => format!("impl {}", s.name),
    };
    line!(out, "{head} {{");
    rust_read(out, item, message, s);
    rust_write(out, item, message, s);
    line!(out, "}}");
    if message.struct_borrows(s) {
        rust_into_static(out, message, s);
    }
}

fn rust_field_doc(out: &mut String, item: &Item, field: &Field) {
    let mut doc = match field.versions == item.versions {
        true => "In every version".to_string(),
        false => format!("In version {}", doc_range(field.versions)),
    };
    match field.nullable {
        Some(range) if range == field.versions => doc.push_str("; may be null"),
        Some(range) => {
            write!(doc, "; may be null in version {}", doc_range(range)).expect("String")
        }
        None => {}
    }
    if let Some(tag) = field.tag {
        write!(doc, "; tag {tag}").expect("a String takes every write");
    }
    if let Some(default) = field.default.as_deref().filter(|d| *d != "null") {
        write!(doc, "; starts as {default}").expect("a String takes every write");
    }
    line!(out, "/// {doc}.");
}

fn rust_default(out: &mut String, message: &Message, s: &Struct) {
    line!(out, "impl Default for {} {{", message.struct_rust(s, "'_"));
    line!(out, "fn default() -> Self {{ Self {{");
    for field in &s.fields {
        line!(out, "{}: {},", field.rust_name(), field.default_value());
    }
    line!(out, "}} }} }}");
}

fn rust_into_static(out: &mut String, message: &Message, s: &Struct) {
    line!(out, "impl IntoStatic for {}<'_> {{", s.name);
    line!(out, "type Static = {}<'static>;", s.name);
    line!(out, "fn into_static(self) -> Self::Static {{ {} {{", s.name);
    for field in &s.fields {
        let name = field.rust_name();
        match message.borrows(&field.ty) {
            true => line!(out, "{name}: self.{name}.into_static(),"),
            false => line!(out, "{name}: self.{name},"),
        }
    }
    line!(out, "}} }} }}");
}

/// The Rust expression for "this version is flexible".
fn flexible(item: &Item) -> String {
    match item.flexible {
        None => "false".to_string(),
        Some(first) if first <= item.versions.lo => "true".to_string(),
        Some(first) => format!("version >= {first}"),
    }
}

fn rust_read(out: &mut String, item: &Item, message: &Message, s: &Struct) {
    let decoder = if message.struct_borrows(s) {
        "Decoder<'a>"
    } else {
        "Decoder<'_>"
    };
    line!(
        out,
        "fn read(d: &mut {decoder}, version: i16) -> Result<Self, DecodeError> {{"
    );
    line!(out, "let _ = version;");
    line!(out, "let flexible = {};", flexible(item));
    let tagged: Vec<&Field> = s.fields.iter().filter(|f| f.tag.is_some()).collect();
    let binding = if tagged.is_empty() {
        "let this"
    } else {
        "let mut this"
    };
    line!(out, "{binding} = Self {{");
    for field in &s.fields {
        let name = field.rust_name();
        if field.tag.is_some() {
            line!(out, "{name}: {},", field.default_value());
            continue;
        }
        let value = read_field(item, message, field);
        match field.versions.condition(item.versions) {
            None => line!(out, "{name}: {value},"),
            Some(cond) => {
                line!(
                    out,
                    "{name}: if {cond} {{ {value} }} else {{ {} }},",
                    field.default_value()
                )
            }
        }
    }
    line!(out, "}};");
    if tagged.is_empty() {
        line!(out, "if flexible {{ d.skip_tagged_fields()?; }}");
    } else {
        line!(out, "if flexible {{ for _ in 0..d.uvarint()? {{");
        line!(out, "let (tag, end) = d.tag()?;");
        line!(out, "match tag {{");
        for field in &tagged {
            let guard = field.versions.condition(item.versions);
            let guard = guard.map(|c| format!(" if {c}")).unwrap_or_default();
            let tag = field.tag.expect("the list was filtered on it");
            let value = read_field(item, message, field);
            line!(out, "{tag}{guard} => this.{} = {value},", field.rust_name());
        }
        line!(out, "_ => d.skip_to(end),");
        line!(out, "}}");
        line!(out, "d.expect_at(end)?;");
        line!(out, "}} }}");
    }
    line!(out, "Ok(this)\n}}");
}

fn read_field(item: &Item, message: &Message, field: &Field) -> String {
    let plain = read_value(item, message, &field.ty, false);
    let Some(nullable) = field.nullable else {
        return format!("{plain}?");
    };
    let option = read_value(item, message, &field.ty, true);
    match nullable.condition(field.versions) {
        None => format!("{option}?"),
        Some(cond) => format!("if {cond} {{ {option}? }} else {{ Some({plain}?) }}"),
    }
}

fn read_value(item: &Item, message: &Message, ty: &Type, nullable: bool) -> String {
    let prefix = if nullable { "nullable_" } else { "" };
    match ty {
        Type::Primitive(p) => format!("d.{}()", p.rust),
        Type::Uuid => "d.uuid()".to_string(),
        Type::String => format!("d.{prefix}string(flexible)"),
        Type::Bytes => format!("d.{prefix}bytes(flexible)"),
        Type::Records => format!("d.{prefix}records(flexible)"),
        Type::Struct(name) if nullable => {
            format!(
                "d.nullable_struct(|d| {}::read(d, version))",
                message.find(name).name
            )
        }
        Type::Struct(name) => format!("{}::read(d, version)", message.find(name).name),
        Type::Array(element) => {
            let least = message.min_size_ever(element, item);
            let read = read_value(item, message, element, false);
            format!("d.{prefix}array(flexible, {least}, |d| {read})")
        }
    }
}

fn rust_write(out: &mut String, item: &Item, message: &Message, s: &Struct) {
    line!(out, "fn write(&self, e: &mut Encoder, version: i16) {{");
    line!(out, "let _ = version;");
    line!(out, "let flexible = {};", flexible(item));
    for field in s.fields.iter().filter(|f| f.tag.is_none()) {
        let value = write_field(message, s, field);
        match field.versions.condition(item.versions) {
            None => line!(out, "{value};"),
            Some(cond) => line!(out, "if {cond} {{ {value}; }}"),
        }
    }
    let mut tagged: Vec<&Field> = s.fields.iter().filter(|f| f.tag.is_some()).collect();
    tagged.sort_by_key(|f| f.tag);
    line!(out, "if flexible {{");
    for (i, field) in tagged.iter().enumerate() {
        let set = tagged_is_set(message, field);
        let set = match field.versions.condition(item.versions) {
            None => set,
            Some(cond) => format!("{cond} && {set}"),
        };
        line!(out, "let has{i} = {set};");
    }
    let count: Vec<String> = (0..tagged.len())
        .map(|i| format!("u32::from(has{i})"))
        .collect();
    let count = if count.is_empty() {
        "0".to_string()
    } else {
        count.join(" + ")
    };
    line!(out, "e.uvarint({count});");
    for (i, field) in tagged.iter().enumerate() {
        let tag = field.tag.expect("the list was filtered on it");
        let value = write_field(message, s, field);
        line!(out, "if has{i} {{ e.tagged({tag}, |e| {{ {value}; }}); }}");
    }
    line!(out, "}}\n}}");
}

/// Whether a tagged field differs from its default: only then does it go on the wire.
fn tagged_is_set(message: &Message, field: &Field) -> String {
    let name = field.rust_name();
    if field.default_is_null() {
        return format!("self.{name}.is_some()");
    }
    match (&field.ty, field.nullable, &field.default) {
        (Type::Array(_) | Type::String | Type::Bytes, None, None) => {
            format!("!self.{name}.is_empty()")
        }
        (Type::Struct(s), None, _) => format!("self.{name} != {}::default()", message.find(s).name),
        (Type::Uuid, None, _) => format!("self.{name} != Uuid::ZERO"),
        (Type::Primitive(p), None, None) if p.rust == "bool" => format!("self.{name}"),
        (Type::Primitive(p), None, None) if p.rust == "f64" => format!("self.{name} != 0.0"),
        (Type::Primitive(_), None, None) => format!("self.{name} != 0"),
        _ => format!("self.{name} != {}", field.default_value()),
    }
}

fn write_field(message: &Message, s: &Struct, field: &Field) -> String {
    let access = format!("self.{}", field.rust_name());
    let Some(nullable) = field.nullable else {
        return write_value(message, &field.ty, &access);
    };
    let option = write_option(message, &field.ty, &access);
    match nullable.condition(field.versions) {
        None => option,
        Some(cond) => format!(
            "if {cond} || {access}.is_some() {{ {option} }} else {{ e.refuse_null(\"{}.{}\") }}",
            s.name,
            field.rust_name()
        ),
    }
}

/// Writes `access`, a place of the type itself.
fn write_value(message: &Message, ty: &Type, access: &str) -> String {
    match ty {
        Type::Primitive(p) => format!("e.{}({access})", p.rust),
        Type::Uuid => format!("e.uuid({access})"),
        Type::String => format!("e.string(&{access}, flexible)"),
        Type::Bytes => format!("e.bytes(&{access}, flexible)"),
        Type::Records => format!("e.records(&{access}, flexible)"),
        Type::Struct(_) => format!("{access}.write(e, version)"),
        Type::Array(element) => {
            let write = write_element(message, element);
            format!("e.array(&{access}, flexible, |e, x| {write})")
        }
    }
}

/// Writes `access`, an `Option` of the type.
fn write_option(message: &Message, ty: &Type, access: &str) -> String {
    match ty {
        Type::String => format!("e.nullable_string({access}.as_deref(), flexible)"),
        Type::Bytes => format!("e.nullable_bytes({access}.as_deref(), flexible)"),
        Type::Records => format!("e.nullable_records({access}.as_ref(), flexible)"),
        Type::Struct(_) => {
            format!("e.nullable_struct({access}.as_ref(), |e, x| x.write(e, version))")
        }
        Type::Array(element) => {
            let write = write_element(message, element);
            format!("e.nullable_array({access}.as_deref(), flexible, |e, x| {write})")
        }
        Type::Primitive(_) | Type::Uuid => panic!("Kafka has no nullable numbers"),
    }
}

fn write_element(message: &Message, element: &Type) -> String {
    match element {
        Type::String => "e.string(x, flexible)".to_string(),
        Type::Struct(_) => "x.write(e, version)".to_string(),
        Type::Primitive(_) | Type::Uuid => write_value(message, element, "*x"),
        _ => panic!("Kafka has no arrays of arrays or of bytes"),
    }
}

fn rust_message(out: &mut String, item: &Item, message: &Message) {
    let top = &message.structs[0];
    let Range { lo, hi } = item.versions;
    line!(
        out,
        "impl<'a> Message<'a> for {} {{",
        message.struct_rust(top, "'a")
    );
    line!(out, "const NAME: &'static str = \"{}\";", top.name);
    line!(out, "const VERSIONS: RangeInclusive<i16> = {lo}..={hi};");
    line!(
        out,
        "fn decode(d: &mut Decoder<'a>, version: i16) -> Result<Self, DecodeError> {{ \
         check_version::<Self>(version)?; Self::read(d, version) }}"
    );
    line!(
        out,
        "fn encode(&self, e: &mut Encoder, version: i16) {{ \
         if e.accept::<Self>(version) {{ self.write(e, version); }} }}"
    );
    line!(out, "}}");
    if let (false, Some(key)) = (item.is_api, item.key) {
        line!(
            out,
            "impl<'a> RecordData<'a> for {} {{",
            message.struct_rust(top, "'a")
        );
        line!(out, "const RECORD_TYPE: i16 = {key};\n}}");
    }
}

fn rust_request(out: &mut String, item: &Item) {
    let (request, response) = (&item.messages[0], &item.messages[1]);
    line!(
        out,
        "impl<'a> Request<'a> for {} {{",
        request.struct_rust(&request.structs[0], "'a")
    );
    line!(out, "const API_KEY: ApiKey = ApiKey::{};", item.name);
    line!(
        out,
        "type Response<'r> = {};",
        response.struct_rust(&response.structs[0], "'r")
    );
    line!(out, "}}");
}

// ---------------------------------------------------------------------------------------------
// The table of APIs
// ---------------------------------------------------------------------------------------------

fn rust_api_key(items: &[Item]) -> String {
    let mut out = String::new();
    line!(
        out,
        "/// The APIs a broker serves to clients, by the key that requests carry."
    );
    line!(
        out,
        "#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]"
    );
    line!(out, "#[repr(i16)]\npub enum ApiKey {{");
    for item in items {
        line!(
            out,
            "/// {}, versions {}.",
            item.name,
            doc_range(item.versions)
        );
        line!(
            out,
            "{} = {},",
            item.name,
            item.key.expect("an api has a key")
        );
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
        let first = item
            .flexible
            .map_or("i16::MAX".to_string(), |v| v.to_string());
        let name = &item.name;
        line!(
            out,
            "ApiInfo {{ name: \"{name}\", min: {lo}, max: {hi}, flexible: {first} }},"
        );
    }
    line!(out, "];");
    line!(
        out,
        "/// Key to place in `ALL` and `INFO`; 255 where there is no such API."
    );
    let by_key: BTreeMap<i16, usize> = items
        .iter()
        .enumerate()
        .map(|(i, item)| (item.key.expect("an api has a key"), i))
        .collect();
    let last = *by_key.keys().next_back().expect("there are APIs");
    line!(out, "const PLACE: [u8; {}] = [", last + 1);
    for key in 0..=last {
        line!(out, "{},", by_key.get(&key).copied().unwrap_or(255));
    }
    line!(out, "];");
    out
}

// ---------------------------------------------------------------------------------------------
// Random messages, for tests/protocol_oracle.rs
// ---------------------------------------------------------------------------------------------

fn rust_arbitrary(apis: &[Item], data: &[Item]) -> String {
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
        line!(
            out,
            "{} {}Request {}Response,",
            item.name,
            item.name,
            item.name
        );
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
    let borrowed = if message.struct_borrows(s) {
        "<'static>"
    } else {
        ""
    };
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
        let mut conditions = Vec::from_iter(field.versions.condition(item.versions));
        if let (Some(_), Some(first)) = (field.tag, item.flexible) {
            let tagged = Range {
                lo: first,
                ..item.versions
            };
            conditions.extend(tagged.condition(item.versions));
        }
        if conditions.is_empty() {
            conditions.push("true".to_string());
        }
        line!(
            out,
            "if {} {{ x.{} = {value}; }}",
            conditions.join(" && "),
            field.rust_name()
        );
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
