//! Writes the structs of the messages with their readers and writers.

use std::fmt::Write as _;

use crate::schema::*;

pub(crate) fn rust_modules(items: &[Item]) -> String {
    let mut out = String::new();
    for item in items {
        line!(out, "/// {}, versions {}.", item.name, doc_range(item.versions));
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
        let tops: Vec<&str> = item.messages.iter().map(|m| m.structs[0].name.as_str()).collect();
        line!(out, "pub use {}::{{{}}};", item.module(), tops.join(", "));
    }
    out
}

pub(crate) fn doc_range(range: Range) -> String {
    match range.lo == range.hi {
        true => format!("{}", range.lo),
        false => format!("{} to {}", range.lo, range.hi),
    }
}

fn rust_struct(out: &mut String, item: &Item, message: &Message, s: &Struct) {
    let plain_default = s.fields.iter().all(Field::has_plain_default);
    let derived = if plain_default { ", Default" } else { "" };
    line!(out, "/// `{}` of {}.", s.schema_name, message.structs[0].name);
    line!(out, "#[derive(Debug, Clone, PartialEq{derived})]");
    line!(out, "pub struct {} {{", message.struct_rust(s, "'a"));
    for field in &s.fields {
        rust_field_doc(out, item, field);
        line!(out, "pub {}: {},", field.rust_name(), field.rust_type(message, "'a"));
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
        Some(range) => write!(doc, "; may be null in version {}", doc_range(range)).expect("String"),
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
pub(crate) fn flexible(item: &Item) -> String {
    match item.flexible {
        None => "false".to_string(),
        Some(first) if first <= item.versions.lo => "true".to_string(),
        Some(first) => format!("version >= {first}"),
    }
}

fn rust_read(out: &mut String, item: &Item, message: &Message, s: &Struct) {
    let decoder = if message.struct_borrows(s) { "Decoder<'a>" } else { "Decoder<'_>" };
    line!(out, "fn read(d: &mut {decoder}, version: i16) -> Result<Self, DecodeError> {{");
    line!(out, "let _ = version;");
    line!(out, "let flexible = {};", flexible(item));
    let tagged: Vec<&Field> = s.fields.iter().filter(|f| f.tag.is_some()).collect();
    let binding = if tagged.is_empty() { "let this" } else { "let mut this" };
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
                line!(out, "{name}: if {cond} {{ {value} }} else {{ {} }},", field.default_value())
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
            format!("d.nullable_struct(|d| {}::read(d, version))", message.find(name).name)
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
    let count: Vec<String> = (0..tagged.len()).map(|i| format!("u32::from(has{i})")).collect();
    let count = if count.is_empty() { "0".to_string() } else { count.join(" + ") };
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
    if field.rust_name() == "throttle_time_ms" {
        return format!("e.throttle_time({access})");
    }
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
    line!(out, "impl<'a> Message<'a> for {} {{", message.struct_rust(top, "'a"));
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
        line!(out, "impl<'a> RecordData<'a> for {} {{", message.struct_rust(top, "'a"));
        line!(out, "const RECORD_TYPE: i16 = {key};\n}}");
    }
}

fn rust_request(out: &mut String, item: &Item) {
    let (request, response) = (&item.messages[0], &item.messages[1]);
    line!(out, "impl<'a> Request<'a> for {} {{", request.struct_rust(&request.structs[0], "'a"));
    line!(out, "const API_KEY: ApiKey = ApiKey::{};", item.name);
    line!(out, "type Response<'r> = {};", response.struct_rust(&response.structs[0], "'r"));
    line!(out, "}}");
}
