//! The schema: its model, its parser, and what follows from it without regard to Rust's syntax.

use std::collections::BTreeSet;

/// An inclusive range of versions.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Range {
    pub(crate) lo: i16,
    pub(crate) hi: i16,
}

/// One `api` or `data` of the schema: the messages that share a key and a range of versions.
pub(crate) struct Item {
    pub(crate) is_api: bool,
    pub(crate) key: Option<i16>,
    pub(crate) name: String,
    pub(crate) versions: Range,
    /// The first flexible version (KIP-482), if there is one.
    pub(crate) flexible: Option<i16>,
    pub(crate) messages: Vec<Message>,
}

/// A top-level struct and those nested in it; `structs[0]` is the top.
pub(crate) struct Message {
    pub(crate) structs: Vec<Struct>,
}

pub(crate) struct Struct {
    pub(crate) schema_name: String,
    pub(crate) name: String,
    pub(crate) fields: Vec<Field>,
}

pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) ty: Type,
    pub(crate) versions: Range,
    pub(crate) nullable: Option<Range>,
    pub(crate) default: Option<String>,
    pub(crate) tag: Option<u32>,
}

#[derive(Clone, PartialEq)]
pub(crate) enum Type {
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
pub(crate) struct Primitive {
    pub(crate) schema: &'static str,
    pub(crate) rust: &'static str,
    pub(crate) size: usize,
}

const PRIMITIVES: [Primitive; 7] = [
    Primitive::new("bool", "bool", 1),
    Primitive::new("int8", "i8", 1),
    Primitive::new("int16", "i16", 2),
    Primitive::new("uint16", "u16", 2),
    Primitive::new("int32", "i32", 4),
    Primitive::new("int64", "i64", 8),
    Primitive::new("float64", "f64", 8),
];

impl Primitive {
    const fn new(schema: &'static str, rust: &'static str, size: usize) -> Self {
        Primitive { schema, rust, size }
    }
}

/// Reads a schema; `path` is for the messages of a panic.
pub(crate) fn parse(text: &str, path: &str) -> Vec<Item> {
    let mut parser = Parser::default();
    for (number, line) in text.lines().enumerate() {
        let at = format!("{path}:{}", number + 1);
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.first().is_none_or(|first| first.starts_with('#')) {
            continue;
        }
        match (line.len() - line.trim_start().len()) / 2 {
            0 => parser.heading(&words, &at),
            depth => parser.member(&words, depth, &at),
        }
    }
    let mut items = parser.items;
    for item in &mut items {
        for message in &mut item.messages {
            message.drop_empty_scopes();
        }
        rename_clashing_structs(item);
    }
    items
}

#[derive(Default)]
struct Parser {
    items: Vec<Item>,
    /// The structs that enclose the current line, outermost first: their places in the message,
    /// and the versions in which they are there.
    enclosing: Vec<(usize, Range)>,
}

impl Parser {
    /// A line that is not indented: a new item, or a message of the last one.
    fn heading(&mut self, words: &[&str], at: &str) {
        let suffix = match words[0] {
            "api" => return self.items.push(parse_item(words, at)),
            "data" => {
                self.items.push(parse_item(words, at));
                ""
            }
            "request" => "Request",
            "response" => "Response",
            word => panic!("{at}: unknown word {word}"),
        };
        let item = self.items.last_mut();
        let item = item.unwrap_or_else(|| panic!("{at}: no api or data yet"));
        let top = Struct::new(format!("{}{suffix}", item.name));
        item.messages.push(Message { structs: vec![top] });
        self.enclosing = vec![(0, item.versions)];
    }

    /// A line within a message: a field, or a struct for several fields.
    fn member(&mut self, words: &[&str], depth: usize, at: &str) {
        let item = self.items.last_mut();
        let item = item.unwrap_or_else(|| panic!("{at}: no api or data yet"));
        let message = item.messages.last_mut();
        let message = message.unwrap_or_else(|| panic!("{at}: no message yet"));
        self.enclosing.truncate(depth);
        assert!(self.enclosing.len() == depth, "{at}: indented too deep");
        let (parent, outer) = self.enclosing[depth - 1];
        let (opened, versions) = if words[0] == "struct" {
            (Some(words[1].to_string()), item.versions)
        } else {
            let field = parse_field(words, outer, at);
            assert!(
                field.tag.is_none() || item.flexible.is_some_and(|v| v <= field.versions.lo),
                "{at}: tagged in an inflexible version"
            );
            let opened = (field.ty.struct_name().map(str::to_string), field.versions);
            message.structs[parent].fields.push(field);
            opened
        };
        // Deeper lines, if any, are the fields of the struct that a field is of.
        if let Some(name) = opened {
            message.structs.push(Struct::new(name));
            self.enclosing.push((message.structs.len() - 1, versions));
        }
    }
}

fn parse_item(words: &[&str], at: &str) -> Item {
    let everything = Range { lo: 0, hi: i16::MAX };
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
            field.tag = Some(tag.parse().unwrap_or_else(|_| panic!("{at}: bad tag {tag}")));
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
        name if name.starts_with(|c: char| c.is_ascii_uppercase()) => Type::Struct(name.to_string()),
        _ => panic!("{at}: unknown type {word}"),
    }
}

fn parse_range(word: &str, outer: Range, at: &str) -> Range {
    let number = |text: &str, absent: i16| match text {
        "" => absent,
        _ => text.parse().unwrap_or_else(|_| panic!("{at}: bad version in {word}")),
    };
    let (lo, hi) = word.split_once('-').unwrap_or((word, word));
    let range = Range { lo: number(lo, outer.lo), hi: number(hi, outer.hi) };
    assert!(range.lo <= range.hi, "{at}: empty range {word}");
    assert!(outer.lo <= range.lo && range.hi <= outer.hi, "{at}: {word} leaves its parent's range");
    range
}

/// A request and its response share a Rust module. Where both have a struct of one name, each is
/// prefixed with the side it belongs to.
fn rename_clashing_structs(item: &mut Item) {
    if !item.is_api {
        return;
    }
    let names = |m: &Message| m.structs.iter().map(|s| s.schema_name.clone()).collect::<BTreeSet<_>>();
    let clashing: BTreeSet<String> =
        names(&item.messages[0]).intersection(&names(&item.messages[1])).cloned().collect();
    for (message, side) in item.messages.iter_mut().zip(["Request", "Response"]) {
        for s in &mut message.structs {
            if clashing.contains(&s.schema_name) {
                s.name = format!("{side}{}", s.schema_name);
            }
        }
    }
}

impl Struct {
    pub(crate) fn new(name: String) -> Self {
        Struct { schema_name: name.clone(), name, fields: Vec::new() }
    }
}

impl Type {
    /// The struct that the type is, or is an array of.
    fn struct_name(&self) -> Option<&str> {
        match self {
            Type::Struct(name) => Some(name),
            Type::Array(element) => element.struct_name(),
            _ => None,
        }
    }
}

impl Message {
    /// Drops what a field opened in passing, when its struct is defined by a `struct` line.
    fn drop_empty_scopes(&mut self) {
        let top = self.structs.remove(0);
        self.structs.retain(|s| !s.fields.is_empty());
        self.structs.insert(0, top);
    }

    pub(crate) fn find(&self, schema_name: &str) -> &Struct {
        let found = self.structs.iter().find(|s| s.schema_name == schema_name);
        found.unwrap_or_else(|| panic!("struct {schema_name} is used but not defined"))
    }

    /// Whether the type borrows from what it was decoded from.
    pub(crate) fn borrows(&self, ty: &Type) -> bool {
        match ty {
            Type::String | Type::Bytes | Type::Records => true,
            Type::Primitive(_) | Type::Uuid => false,
            Type::Array(element) => self.borrows(element),
            Type::Struct(name) => self.struct_borrows(self.find(name)),
        }
    }

    pub(crate) fn struct_borrows(&self, s: &Struct) -> bool {
        s.fields.iter().any(|f| self.borrows(&f.ty))
    }

    /// The Rust type, with `lifetime` as its argument where it borrows.
    pub(crate) fn rust(&self, ty: &Type, lifetime: &str) -> String {
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

    pub(crate) fn struct_rust(&self, s: &Struct, lifetime: &str) -> String {
        match self.struct_borrows(s) {
            true => format!("{}<{lifetime}>", s.name),
            false => s.name.clone(),
        }
    }

    /// The fewest bytes a value takes at `version`: what bounds an array's claimed length.
    pub(crate) fn min_size(&self, ty: &Type, item: &Item, version: i16) -> usize {
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

    pub(crate) fn struct_min_size(&self, s: &Struct, item: &Item, version: i16) -> usize {
        let present = s.fields.iter().filter(|f| f.tag.is_none() && f.versions.contains(version));
        let body: usize = present
            .map(|f| match (&f.ty, f.nullable) {
                (Type::Struct(_), Some(_)) => 1,
                _ => self.min_size(&f.ty, item, version),
            })
            .sum();
        body + usize::from(item.is_flexible(version))
    }

    /// [`Message::min_size`] over every version, and at least one byte.
    pub(crate) fn min_size_ever(&self, ty: &Type, item: &Item) -> usize {
        let versions = item.versions.lo..=item.versions.hi;
        versions.map(|v| self.min_size(ty, item, v)).min().unwrap_or(1).max(1)
    }
}

impl Item {
    pub(crate) fn is_flexible(&self, version: i16) -> bool {
        self.flexible.is_some_and(|first| version >= first)
    }

    pub(crate) fn module(&self) -> String {
        snake(&self.name)
    }
}

impl Range {
    pub(crate) fn contains(self, version: i16) -> bool {
        (self.lo..=self.hi).contains(&version)
    }

    /// The Rust condition for `version` to be in this range, given that it is in `outer`.
    pub(crate) fn condition(self, outer: Range) -> Option<String> {
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
    pub(crate) fn rust_name(&self) -> String {
        match snake(&self.name).as_str() {
            word @ ("match" | "type") => format!("{word}_"),
            word => word.to_string(),
        }
    }

    pub(crate) fn rust_type(&self, message: &Message, lifetime: &str) -> String {
        let inner = message.rust(&self.ty, lifetime);
        match self.nullable {
            Some(_) => format!("Option<{inner}>"),
            None => inner,
        }
    }

    pub(crate) fn default_is_null(&self) -> bool {
        // Kafka's generator starts a nullable field empty unless told `null`; records start null.
        self.default.as_deref() == Some("null") || (self.nullable.is_some() && self.ty == Type::Records)
    }

    pub(crate) fn default_value(&self) -> String {
        match (&self.default, self.nullable) {
            _ if self.default_is_null() => "None".to_string(),
            (Some(value), _) => value.clone(),
            (None, Some(_)) => "Some(Default::default())".to_string(),
            (None, None) => "Default::default()".to_string(),
        }
    }

    pub(crate) fn has_plain_default(&self) -> bool {
        match self.nullable {
            Some(_) => self.default_is_null(),
            None => self.default.is_none(),
        }
    }
}

pub(crate) fn snake(name: &str) -> String {
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
