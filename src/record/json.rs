//! Why: a protobuf Struct becomes the text a person would write, and back. Never lets a number pass that a double cannot hold.

use std::fmt;

use serde::{
    Serialize, Serializer,
    de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor},
};

use super::{
    DecodeError, RecordFault,
    arrow_text::short,
    piece::{LineWriter, Lines},
};
use crate::limits::RECORD_DEPTH_MAX;

/// The largest integer up to which doubles hold every integer.
const DOUBLE_INTEGER_MAX: u64 = 1 << 53;

/// A protobuf `Value`, one to one: numbers are doubles and may be NaN or infinite.
#[derive(Debug, Clone, PartialEq)]
pub enum JsonValue {
    /// null.
    Null,
    /// true or false.
    Bool(bool),
    /// A number.
    Number(f64),
    /// A text.
    String(String),
    /// A list.
    Array(Vec<JsonValue>),
    /// An object.
    Object(JsonObject),
}

/// A protobuf `Struct`: its fields in the order they came.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct JsonObject(pub Vec<(String, JsonValue)>);

/// Writes objects as lines; those with a number that JSON does not know are refused.
pub(super) fn decode(objects: Vec<JsonObject>) -> Result<Lines, DecodeError> {
    let mut lines = LineWriter::default();
    for object in objects {
        lines.record(|out| write_record(&object, out), || text(&object))?;
    }
    Ok(lines.finish())
}

fn write_record(object: &JsonObject, out: &mut Vec<u8>) -> Result<(), RecordFault> {
    for (name, value) in &object.0 {
        check(value, 1).map_err(|problem| match problem {
            Problem::NotFinite(number) => {
                let name = short(name);
                RecordFault::invalid(&name, format!("field {name:?} holds {number}, which JSON does not know; send null or a string instead"))
            }
            Problem::TooDeep => RecordFault::unparsable(format!("the record nests more than {RECORD_DEPTH_MAX} levels deep")),
        })?;
    }
    out.extend(text(object));
    Ok(())
}

enum Problem {
    NotFinite(f64),
    TooDeep,
}

/// Checks `value`, which is inside `depth` containers.
fn check(value: &JsonValue, depth: usize) -> Result<(), Problem> {
    if matches!(value, JsonValue::Array(_) | JsonValue::Object(_)) && depth == RECORD_DEPTH_MAX {
        return Err(Problem::TooDeep);
    }
    match value {
        JsonValue::Number(number) if !number.is_finite() => Err(Problem::NotFinite(*number)),
        JsonValue::Array(items) => items.iter().try_for_each(|item| check(item, depth + 1)),
        JsonValue::Object(fields) => fields.0.iter().try_for_each(|(_, item)| check(item, depth + 1)),
        _ => Ok(()),
    }
}

/// The JSON text; what JSON does not know is written as a string, which only dead letters see.
fn text(object: &JsonObject) -> Vec<u8> {
    serde_json::to_vec(object).expect("keys are strings and nothing else can fail")
}

impl Serialize for JsonObject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl Serialize for JsonValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(truth) => serializer.serialize_bool(*truth),
            Self::Number(number) => match as_integer(*number) {
                Some(integer) => serializer.serialize_i64(integer),
                None if number.is_finite() => serializer.serialize_f64(*number),
                None => serializer.collect_str(number),
            },
            Self::String(string) => serializer.serialize_str(string),
            Self::Array(items) => serializer.collect_seq(items),
            Self::Object(object) => object.serialize(serializer),
        }
    }
}

/// The integer that a double is, so that 3.0 is written as 3; −0.0 is none, it would lose its sign.
fn as_integer(number: f64) -> Option<i64> {
    let integral = number.fract() == 0.0 && number.abs() < 9.2e18 && !(number == 0.0 && number.is_sign_negative());
    integral.then_some(number as i64)
}

impl<'de> Deserialize<'de> for JsonValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

/// Reads any JSON value; an integer that a double cannot hold becomes a string of its digits, as the interface asks of senders.
struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = JsonValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<JsonValue, E> {
        Ok(JsonValue::Null)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<JsonValue, E> {
        Ok(JsonValue::Bool(truth))
    }

    fn visit_i64<E>(self, number: i64) -> Result<JsonValue, E> {
        Ok(if number.unsigned_abs() <= DOUBLE_INTEGER_MAX { JsonValue::Number(number as f64) } else { JsonValue::String(number.to_string()) })
    }

    fn visit_u64<E>(self, number: u64) -> Result<JsonValue, E> {
        Ok(if number <= DOUBLE_INTEGER_MAX { JsonValue::Number(number as f64) } else { JsonValue::String(number.to_string()) })
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<JsonValue, E> {
        // Beyond 2^64 the parser has rounded integers already, and nobody can tell any more.
        if number.fract() == 0.0 && number.abs() >= u64::MAX as f64 {
            return Err(E::custom("a number beyond 2^64, which a protobuf Struct may round; ask for ndjson instead"));
        }
        Ok(JsonValue::Number(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<JsonValue, E> {
        Ok(JsonValue::String(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<JsonValue, E> {
        Ok(JsonValue::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<JsonValue, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element()? {
            array.push(item);
        }
        Ok(JsonValue::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<JsonValue, A::Error> {
        let mut object = JsonObject::default();
        while let Some(entry) = entries.next_entry()? {
            object.0.push(entry);
        }
        Ok(JsonValue::Object(object))
    }
}
