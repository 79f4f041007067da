//! Why: where an object lies is told by a template and by what records hold, and no record can make it lie elsewhere. Never lets a value name a folder, and never gives two values one path.
//!
//! A template is a path of segments: letters, digits and `- _ . =` stand for themselves, and placeholders for what differs:
//!
//! | Placeholder | Stands for |
//! |---|---|
//! | `{sink}`, `{schema}` | the sink's name and its schema's |
//! | `{stream}` | the stream's name; every template has it, so that streams never share a chain of objects |
//! | `{field:NAME}` | the value of a record's top-level field: a text, a number as it is spelt, `true` or `false` |
//! | `{field:NAME\|date}` | the day in UTC of a field that holds an instant, or the date that it holds: `2026-11-24`; likewise `year`, `month`, `day` |
//! | `{field:NAME\|hour}` | the hour in UTC of an instant, `00` to `23` |
//!
//! Nothing depends on the clock: the same records always come to the same place. Of values, letters, digits and `- _ .` stand for themselves and every other byte is written `%XX`, also the first
//! character if it is `_` or `.`; so a value can have no `/`, be no `..`, hold no control or bidirectional character, and begin none of the product's own names (`_datasink`, `_tmp`, `.plan`),
//! nor one that Hive and Spark would hide. The empty text is [`EMPTY_VALUE`], as theirs. A segment of a template begins with a letter, a digit or a placeholder for the same reasons, and
//! between two placeholders there is a `/` or `=`, which no value has: so different values have different paths.
//!
//! The paths hold `%`, which stands for itself there: they go through `object_store`'s `Path::parse`, which leaves it alone, and never through `Path::from`, which would encode it again.

use std::borrow::Cow;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::{
    connectors::{
        connector::StreamId,
        options::{ConfigFault, ConfigFaultKind, did_you_mean},
    },
    limits::NAME_CHARS_MAX,
    name::QualifiedName,
    record::RecordFault,
};

/// The option that holds the template.
pub(super) const PATH_TEMPLATE: &str = "path_template";
/// The longest key that stores take, in bytes.
pub(super) const KEY_BYTES_MAX: usize = 1_024;
/// What the key's last segment, the object's own name, may take of it, in bytes, the `/` before it included.
pub(super) const FILE_NAME_BYTES_MAX: usize = 128;
/// The longest path, in bytes.
pub(super) const PATH_BYTES_MAX: usize = KEY_BYTES_MAX - FILE_NAME_BYTES_MAX;
/// The longest segment, in bytes: stores that keep objects as files take no longer ones.
pub(super) const SEGMENT_BYTES_MAX: usize = 255;
/// The most placeholders of a template.
const PLACEHOLDERS_MAX: usize = 20;
/// What an empty text is called in a path; no other value begins with `_`.
pub(super) const EMPTY_VALUE: &str = "__HIVE_DEFAULT_PARTITION__";
/// The words for placeholders, as they are suggested.
const PLACEHOLDERS: [&str; 4] = ["sink", "schema", "stream", "field"];
/// The words behind a field's name.
const PARTS: [&str; 5] = ["date", "year", "month", "day", "hour"];

const _: () = assert!(EMPTY_VALUE.len() < SEGMENT_BYTES_MAX);
const _: () = assert!(SEGMENT_BYTES_MAX < PATH_BYTES_MAX);

/// A checked template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PathTemplate {
    parts: Vec<Part>,
    /// The fields that it reads, each once.
    fields: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Sink,
    Schema,
    Stream,
    /// The field's place in `fields`.
    Field(usize, Take),
}

/// What of a field is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Take {
    All,
    Date,
    Year,
    Month,
    Day,
    Hour,
}

impl PathTemplate {
    /// Reads a template; all that is wrong with it in one fault.
    pub(super) fn parse(text: &str) -> Result<Self, ConfigFault> {
        let mut template = Self { parts: Vec::new(), fields: Vec::new() };
        let mut problems = Vec::new();
        if text.len() <= PATH_BYTES_MAX {
            template.read(text, &mut problems);
            template.check(&mut problems);
        } else {
            // Nothing is looked at then: the list of problems might be as long.
            problems.push(format!("it has {} bytes and may have {PATH_BYTES_MAX}", text.len()));
        }
        if problems.is_empty() {
            return Ok(template);
        }
        let message = format!("option {PATH_TEMPLATE:?} is no path: {}", problems.join("; "));
        Err(ConfigFault::option(ConfigFaultKind::InvalidOption, PATH_TEMPLATE, message))
    }

    fn read(&mut self, text: &str, problems: &mut Vec<String>) {
        let mut rest = text;
        while !rest.is_empty() {
            let literal = &rest[..rest.find('{').unwrap_or(rest.len())];
            if !literal.is_empty() {
                check_literal(literal, problems);
                self.parts.push(Part::Literal(literal.to_owned()));
            }
            rest = &rest[literal.len()..];
            let Some(inside) = rest.strip_prefix('{') else { continue };
            let Some((placeholder, behind)) = inside.split_once('}') else {
                problems.push(format!("{:?} has no closing brace", short(rest)));
                return;
            };
            match self.placeholder(placeholder) {
                Ok(part) => self.parts.push(part),
                Err(problem) => problems.push(problem),
            }
            rest = behind;
        }
    }

    fn placeholder(&mut self, text: &str) -> Result<Part, String> {
        let (word, argument) = text.split_once(':').map_or((text, None), |(word, argument)| (word, Some(argument)));
        match (word, argument) {
            ("sink", None) => Ok(Part::Sink),
            ("schema", None) => Ok(Part::Schema),
            ("stream", None) => Ok(Part::Stream),
            ("field", Some(field)) => self.field(field),
            ("field", None) => Err("{field} names no field; write {field:NAME}".to_owned()),
            ("sink" | "schema" | "stream", Some(_)) => Err(format!("{{{word}}} takes nothing behind a colon")),
            (part, None) if PARTS.contains(&part) => {
                Err(format!("{{{part}}} would depend on the clock, and the same records must always come to the same place; write {{field:NAME|{part}}}"))
            }
            _ => {
                let near = did_you_mean(word, PLACEHOLDERS.into_iter()).map(|near| format!("; did you mean {{{near}}}?")).unwrap_or_default();
                Err(format!("{{{}}} is no placeholder; {{sink}}, {{schema}}, {{stream}} and {{field:NAME}} are{near}", short(text)))
            }
        }
    }

    fn field(&mut self, text: &str) -> Result<Part, String> {
        let (name, part) = text.split_once('|').map_or((text, None), |(name, part)| (name, Some(part)));
        if name.is_empty() || name.chars().count() > NAME_CHARS_MAX {
            return Err(format!("the field's name in {{field:{}}} must have 1 to {NAME_CHARS_MAX} characters", short(text)));
        }
        let take = match part {
            None => Take::All,
            Some("date") => Take::Date,
            Some("year") => Take::Year,
            Some("month") => Take::Month,
            Some("day") => Take::Day,
            Some("hour") => Take::Hour,
            Some(other) => return Err(format!("{:?} is no part of a field; {} are", short(other), PARTS.join(", "))),
        };
        let place = self.fields.iter().position(|known| known == name).unwrap_or_else(|| {
            self.fields.push(name.to_owned());
            self.fields.len() - 1
        });
        Ok(Part::Field(place, take))
    }

    /// That segments begin well, values stay apart, and the stream is named.
    fn check(&self, problems: &mut Vec<String>) {
        if self.parts.is_empty() && problems.is_empty() {
            problems.push("it is empty".to_owned());
            return;
        }
        let placeholders = self.parts.iter().filter(|part| !matches!(part, Part::Literal(_))).count();
        if placeholders > PLACEHOLDERS_MAX {
            problems.push(format!("it has {placeholders} placeholders and may have {PLACEHOLDERS_MAX}"));
        }
        if !self.parts.contains(&Part::Stream) && problems.is_empty() {
            problems.push("it lacks {stream}, without which streams would share their objects".to_owned());
        }
        if matches!(self.parts.first(), Some(Part::Literal(text)) if text.starts_with('/')) {
            problems.push("it begins with \"/\"".to_owned());
        }
        if matches!(self.parts.last(), Some(Part::Literal(text)) if text.ends_with('/')) {
            problems.push("it ends with \"/\"".to_owned());
        }
        // A placeholder stands for something that is never empty and begins well: here, for "x".
        let shape: String = self.parts.iter().map(|part| if let Part::Literal(text) = part { text.as_str() } else { "x" }).collect();
        for segment in shape.trim_matches('/').split('/') {
            check_segment(segment, problems);
        }
        let mut apart = true;
        for part in &self.parts {
            match part {
                Part::Literal(text) => apart |= text.contains(['/', '=']),
                _ if !apart => {
                    problems.push("two placeholders have neither \"/\" nor \"=\" between them, so that different values could have one path".to_owned());
                    break;
                }
                _ => apart = false,
            }
        }
    }

    /// The fields of records that it reads, each once. None: the path is constant, and an object under it is a commit point of its own.
    pub(super) fn fields(&self) -> &[String] {
        &self.fields
    }

    /// The path where no record has a say; `None` where one has. A fault where the names are so long that the path is longer than [`PATH_BYTES_MAX`] or a segment than [`SEGMENT_BYTES_MAX`].
    pub(super) fn constant(&self, stream: &StreamId, sink: &QualifiedName) -> Result<Option<String>, ConfigFault> {
        if !self.fields.is_empty() {
            return Ok(None);
        }
        let path = self.build(stream, sink, &[]);
        self.check_names(&path, stream)?;
        Ok(Some(path))
    }

    /// The folder of what belongs to a stream as a whole where records have a say in paths: the segments before the first that a record decides, and the stream's name unless it is among
    /// them. A fault where the names make it longer than [`PATH_BYTES_MAX`] or a segment longer than [`SEGMENT_BYTES_MAX`].
    pub(super) fn lead(&self, stream: &StreamId, sink: &QualifiedName) -> Result<String, ConfigFault> {
        let constant = self.parts.iter().position(|part| matches!(part, Part::Field(..))).unwrap_or(self.parts.len());
        let (mut path, mut named) = (String::new(), None);
        for part in &self.parts[..constant] {
            if *part == Part::Stream {
                named = named.or(Some(path.len()));
            }
            self.put(part, stream, sink, &[], &mut path);
        }
        if constant < self.parts.len() {
            // A record has a say in the last segment, or in the next.
            path.truncate(path.rfind('/').unwrap_or(0));
        }
        if named.is_none_or(|start| start >= path.len()) {
            if !path.is_empty() {
                path.push('/');
            }
            encode(stream.name.as_str(), &mut path);
        }
        self.check_names(&path, stream)?;
        Ok(path)
    }

    fn check_names(&self, path: &str, stream: &StreamId) -> Result<(), ConfigFault> {
        check_length(path).map_err(|problem| {
            let message =
                format!("option {PATH_TEMPLATE:?} makes too long a path for the stream {:?}: {problem}; shorten the template or the names", stream.name);
            ConfigFault::option(ConfigFaultKind::InvalidOption, PATH_TEMPLATE, message)
        })
    }

    /// The path of a record, given as the text of a JSON object. The fault of a record that lacks a field or holds in it what is no part of a path names the field.
    pub(super) fn of_record(&self, stream: &StreamId, sink: &QualifiedName, line: &[u8]) -> Result<String, RecordFault> {
        let values = self.values(line)?;
        let path = self.build(stream, sink, &values);
        check_length(&path).map_err(|problem| {
            let longest = self.fields.iter().zip(&values).max_by_key(|(_, value)| value.len()).map_or("", |(field, _)| field);
            RecordFault {
                column: Some(short(longest)),
                ..RecordFault::too_large(format!("the record's path is too long: {problem}; shorten field {longest:?}"))
            }
        })?;
        Ok(path)
    }

    /// `values`: of the fields, in their order.
    fn build(&self, stream: &StreamId, sink: &QualifiedName, values: &[Cow<'_, str>]) -> String {
        let mut path = String::new();
        for part in &self.parts {
            self.put(part, stream, sink, values, &mut path);
        }
        path
    }

    fn put(&self, part: &Part, stream: &StreamId, sink: &QualifiedName, values: &[Cow<'_, str>], path: &mut String) {
        match part {
            Part::Literal(text) => path.push_str(text),
            Part::Sink => encode(sink.name.as_str(), path),
            Part::Schema => encode(sink.schema.as_str(), path),
            Part::Stream => encode(stream.name.as_str(), path),
            Part::Field(place, Take::All) => encode(&values[*place], path),
            Part::Field(place, take) => path.push_str(&self.moment(*place, *take, values).expect("it was read once already, with the values")),
        }
    }

    /// The fields' values, each fit for all that the template takes of it.
    fn values<'a>(&self, line: &'a [u8]) -> Result<Vec<Cow<'a, str>>, RecordFault> {
        let mut deserializer = serde_json::Deserializer::from_slice(line);
        let raw = Wanted { fields: &self.fields }
            .deserialize(&mut deserializer)
            .and_then(|raw| deserializer.end().map(|()| raw))
            .map_err(|error| RecordFault::unparsable(format!("the record is not a JSON object: {error}")))?;
        let values = self.fields.iter().zip(raw).map(|(field, raw)| value(field, raw)).collect::<Result<Vec<_>, _>>()?;
        for part in &self.parts {
            if let Part::Field(place, take) = part
                && *take != Take::All
            {
                self.moment(*place, *take, &values)?;
            }
        }
        Ok(values)
    }

    /// Part of the instant or the date that a field holds.
    fn moment(&self, place: usize, take: Take, values: &[Cow<'_, str>]) -> Result<String, RecordFault> {
        let (field, text) = (&self.fields[place], &values[place]);
        let instant = text.parse::<jiff::Timestamp>().map(|instant| instant.to_zoned(jiff::tz::TimeZone::UTC).datetime()).ok();
        // A text that holds a time without a zone is no date either: it might be another day in UTC.
        let date = || if text.len() == "2026-11-24".len() { text.parse::<jiff::civil::Date>().ok() } else { None };
        let day = instant.map(|instant| instant.date()).or_else(date).filter(|day| (0..=9_999).contains(&day.year()));
        let shown = || match (take, instant, day) {
            (Take::Hour, Some(instant), Some(_)) => Some(format!("{:02}", instant.hour())),
            (Take::Hour, ..) | (_, _, None) => None,
            (Take::Year, _, Some(day)) => Some(format!("{:04}", day.year())),
            (Take::Month, _, Some(day)) => Some(format!("{:02}", day.month())),
            (Take::Day, _, Some(day)) => Some(format!("{:02}", day.day())),
            (Take::Date | Take::All, _, Some(day)) => Some(format!("{:04}-{:02}-{:02}", day.year(), day.month(), day.day())),
        };
        shown().ok_or_else(|| {
            let needed = if take == Take::Hour { "an RFC 3339 instant" } else { "an RFC 3339 instant or a date" };
            RecordFault::invalid(field, format!("field {field:?} must hold {needed} like 2026-11-24T13:45:00Z, because the object's path is made of it"))
        })
    }
}

fn short(text: &str) -> String {
    text.chars().take(100).collect()
}

fn check_literal(literal: &str, problems: &mut Vec<String>) {
    let allowed = |c: &char| c.is_ascii_alphanumeric() || "-_.=/".contains(*c);
    if let Some(bad) = literal.chars().find(|c| !allowed(c)) {
        problems.push(format!("{bad:?} is not allowed; letters, digits, - _ . = and / are, and placeholders in braces"));
    }
}

fn check_segment(segment: &str, problems: &mut Vec<String>) {
    match segment.chars().next() {
        None => problems.push("it has an empty segment".to_owned()),
        Some('.' | '_') => problems.push(format!(
            "the segment {:?} begins with {:?}: such names are folders' (\".\", \"..\"), the product's own (\"_datasink\", \"_tmp\", \".plan\") or hidden from Hive and Spark",
            short(segment),
            &segment[..1]
        )),
        Some('-' | '=') => problems.push(format!("the segment {:?} must begin with a letter, a digit or a placeholder", short(segment))),
        Some(_) => {}
    }
    if segment.len() > SEGMENT_BYTES_MAX {
        problems.push(format!("the segment {:?} has {} bytes and may have {SEGMENT_BYTES_MAX}", short(segment), segment.len()));
    }
}

fn check_length(path: &str) -> Result<(), String> {
    if path.len() > PATH_BYTES_MAX {
        return Err(format!("it has {} bytes and may have {PATH_BYTES_MAX}", path.len()));
    }
    match path.split('/').map(str::len).max() {
        Some(longest) if longest > SEGMENT_BYTES_MAX => Err(format!("a segment of it has {longest} bytes and may have {SEGMENT_BYTES_MAX}")),
        _ => Ok(()),
    }
}

/// Appends a value so that it is one part of one segment, whatever it holds.
fn encode(value: &str, path: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    if value.is_empty() {
        path.push_str(EMPTY_VALUE);
    }
    for (index, byte) in value.bytes().enumerate() {
        if byte.is_ascii_alphanumeric() || byte == b'-' || (index > 0 && matches!(byte, b'_' | b'.')) {
            path.push(char::from(byte));
        } else {
            path.push('%');
            path.push(char::from(DIGITS[usize::from(byte >> 4)]));
            path.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
}

/// The text that a value is in a path.
fn value<'a>(field: &str, raw: Option<&'a RawValue>) -> Result<Cow<'a, str>, RecordFault> {
    let fault = |problem: &str| {
        Err(RecordFault::invalid(field, format!("field {field:?} {problem}, and the object's path is made of it: send a text, a number or a truth value")))
    };
    let Some(raw) = raw.map(RawValue::get) else { return fault("is missing") };
    match raw.as_bytes().first() {
        Some(b'n') => fault("is null"),
        Some(b'{') => fault("holds an object"),
        Some(b'[') => fault("holds an array"),
        Some(b'"') => match serde_json::from_str::<Text<'a>>(raw) {
            Ok(Text(text)) => Ok(text),
            Err(_) => fault("holds a string that cannot be read"),
        },
        _ => Ok(Cow::Borrowed(raw)),
    }
}

/// A JSON string, borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Finds fields in a record; of a repeated one the last counts, as for most readers of JSON.
struct Wanted<'t> {
    fields: &'t [String],
}

impl<'de> DeserializeSeed<'de> for Wanted<'_> {
    type Value = Vec<Option<&'de RawValue>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Wanted<'_> {
    type Value = Vec<Option<&'de RawValue>>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = vec![None; self.fields.len()];
        while let Some(Text(key)) = map.next_key::<Text<'de>>()? {
            match self.fields.iter().position(|field| *field == key) {
                Some(place) => found[place] = Some(map.next_value()?),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests;
