//! Why: what a JSON value means in a column is decided once, for typed records and Arrow alike; `store/row.rs` says what is a row of a table. Never rounds, truncates or guesses.
//!
//! | Column | JSON taken | JSON written |
//! |---|---|---|
//! | BOOL | `true`, `false` | the same |
//! | INT8 … INT64, UINT64 | a number without point or exponent, or a string of its digits, in range | the number |
//! | FLOAT | a number in range; becomes the nearest 32-bit float | the number, shortest form |
//! | DOUBLE | a finite number in range; becomes the nearest double | the number, shortest form |
//! | DECIMAL | a string or a number, exact within precision and scale | a string with exactly `scale` digits after the point |
//! | STRING | a string of at most `max_length` bytes | the string |
//! | BYTES | a string: standard base64, padded; at most `max_length` bytes decoded | the same |
//! | DATE | `"2026-11-24"` | the same |
//! | TIME | `"13:45"`, `"13:45:00"`, up to microseconds | `"13:45:00.000000"` |
//! | TIMESTAMP | RFC 3339 with a zone, up to microseconds, years 0000–9999 | in UTC: `"2026-11-24T13:45:00.000000Z"` |
//! | UUID | the hyphenated form, in any case | in lower case |
//! | JSON | any value, embedded; kept as its text, line breaks made spaces | the same text |
//!
//! `null` and an absent key are NULL; NULL is written as `null`, never left out: to a destination that updates rows the two differ. Unknown and repeated keys are refused.

use std::{borrow::Cow, fmt};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{Column, ColumnType, RecordFault, RecordSchema, arrow_text::short, ndjson, scalar};

/// One value of a column, checked.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Float(f32),
    Double(f64),
    /// Scaled by the column's scale.
    Decimal(i128),
    String(Cow<'a, str>),
    Bytes(Vec<u8>),
    /// Days since 1970-01-01.
    Date(i32),
    /// Microseconds since midnight.
    Time(i64),
    /// Microseconds since the epoch.
    Timestamp(i64),
    Uuid(Uuid),
    /// JSON text without line breaks.
    Json(Cow<'a, str>),
}

/// The values of one record in column order.
pub(super) fn read<'a>(schema: &RecordSchema, record: &'a [u8]) -> Result<Vec<Cell<'a>>, RecordFault> {
    let mut deserializer = serde_json::Deserializer::from_slice(record);
    let fields = Fields { schema }.deserialize(&mut deserializer).and_then(|fields| deserializer.end().map(|()| fields));
    let fields = fields.map_err(|error| RecordFault::unparsable(format!("the record is not a JSON object: {error}")))?;
    if let Some((name, problem)) = fields.problem {
        let name = short(&name);
        return Err(RecordFault::invalid(&name, format!("column {name:?} {problem}")));
    }
    schema.columns.iter().zip(fields.raw).map(|(column, raw)| parse(column, raw.map_or("null", RawValue::get))).collect()
}

/// The raw values of a record's keys, by column.
struct RawFields<'a> {
    raw: Vec<Option<&'a RawValue>>,
    problem: Option<(String, &'static str)>,
}

struct Fields<'s> {
    schema: &'s RecordSchema,
}

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = RawFields<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = RawFields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let columns = &self.schema.columns;
        let mut fields = RawFields { raw: vec![None; columns.len()], problem: None };
        // Senders mostly keep the columns' order: the search then ends at its first step.
        let mut expected = 0;
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            let value = map.next_value::<&RawValue>()?;
            let found = (expected..columns.len()).chain(0..expected).find(|index| columns[*index].name == key);
            match found {
                None => fields.problem = fields.problem.or(Some((key.into_owned(), "does not exist"))),
                Some(index) if fields.raw[index].is_some() => fields.problem = fields.problem.or(Some((key.into_owned(), "is given twice"))),
                Some(index) => {
                    fields.raw[index] = Some(value);
                    expected = index + 1;
                }
            }
        }
        Ok(fields)
    }
}

/// The value that the JSON text `raw` is in `column`.
fn parse<'a>(column: &Column, raw: &'a str) -> Result<Cell<'a>, RecordFault> {
    if raw == "null" {
        return if column.nullable { Ok(Cell::Null) } else { Err(fault(column, "must not be null or absent")) };
    }
    if column.column_type == ColumnType::Json {
        return embedded(column, raw);
    }
    match raw.as_bytes()[0] {
        b'"' => {
            let text: Cow<'a, str> = borrowed_string(raw).map_err(|_| fault(column, "holds a string that cannot be read"))?;
            from_text(column, text)
        }
        b'-' | b'0'..=b'9' => from_number(column, raw),
        b't' | b'f' if column.column_type == ColumnType::Bool => Ok(Cell::Bool(raw == "true")),
        _ => Err(mismatch(column, "another JSON value")),
    }
}

/// The string that `raw` quotes, borrowed if it has no escapes.
fn borrowed_string(raw: &str) -> serde_json::Result<Cow<'_, str>> {
    #[derive(serde::Deserialize)]
    struct Borrowed<'b>(#[serde(borrow)] Cow<'b, str>);
    serde_json::from_str::<Borrowed<'_>>(raw).map(|borrowed| borrowed.0)
}

fn from_number<'a>(column: &Column, raw: &str) -> Result<Cell<'a>, RecordFault> {
    match column.column_type {
        ColumnType::Float => finite(raw.parse().ok(), f32::is_finite).map(Cell::Float).ok_or_else(|| range(column)),
        ColumnType::Double => finite(raw.parse().ok(), f64::is_finite).map(Cell::Double).ok_or_else(|| range(column)),
        ColumnType::Decimal { precision, scale } => scalar::parse_decimal(raw, precision, scale).map(Cell::Decimal).ok_or_else(|| range(column)),
        _ if integer_range(column.column_type).is_some() => integer(column, raw),
        _ => Err(mismatch(column, "a number")),
    }
}

fn finite<T: Copy>(number: Option<T>, is_finite: impl Fn(T) -> bool) -> Option<T> {
    number.filter(|number| is_finite(*number))
}

/// The value that a text is in `column`, in JSON and in typed records.
pub(super) fn from_text<'a>(column: &Column, text: Cow<'a, str>) -> Result<Cell<'a>, RecordFault> {
    match column.column_type {
        ColumnType::String => {
            check_length(column, text.len())?;
            Ok(Cell::String(text))
        }
        ColumnType::Bytes => {
            let bytes = BASE64_STANDARD.decode(text.as_bytes()).map_err(|_| fault(column, "needs standard base64 with padding"))?;
            from_bytes(column, bytes)
        }
        ColumnType::Decimal { precision, scale } => scalar::parse_decimal(&text, precision, scale).map(Cell::Decimal).ok_or_else(|| range(column)),
        ColumnType::Date => scalar::parse_date(&text).map(Cell::Date).ok_or_else(|| fault(column, "needs a date like 2026-11-24")),
        ColumnType::Time => {
            scalar::parse_time(&text).map(Cell::Time).ok_or_else(|| fault(column, "needs a time like 13:45:00.123456, with at most microseconds"))
        }
        ColumnType::Timestamp => {
            let needed = "needs an RFC 3339 instant like 2026-11-24T13:45:00.123456Z, with at most microseconds, in the years 0000 to 9999";
            scalar::parse_timestamp(&text).map(Cell::Timestamp).ok_or_else(|| fault(column, needed))
        }
        // The parser of UUIDs takes other forms as well; one form is enough.
        ColumnType::Uuid if text.len() == 36 => Uuid::try_parse(&text).map(Cell::Uuid).map_err(|_| bad_uuid(column)),
        ColumnType::Uuid => Err(bad_uuid(column)),
        ColumnType::Json => {
            ndjson::check_embedded(text.as_bytes()).map_err(|flaw| fault(column, format!("needs JSON text: {flaw}"))).map(|()| Cell::Json(one_line(text)))
        }
        _ if integer_range(column.column_type).is_some() => integer(column, &text),
        _ => Err(mismatch(column, "a string")),
    }
}

fn bad_uuid(column: &Column) -> RecordFault {
    fault(column, "needs a UUID like 6f0c3a1e-0d2b-4c0e-9a53-0d0f6f3e7b11")
}

/// The value that bytes are in a BYTES column.
pub(super) fn from_bytes<'a>(column: &Column, bytes: Vec<u8>) -> Result<Cell<'a>, RecordFault> {
    check_length(column, bytes.len())?;
    Ok(Cell::Bytes(bytes))
}

fn check_length(column: &Column, len: usize) -> Result<(), RecordFault> {
    match column.max_length as usize {
        most @ 1.. if len > most => Err(fault(column, format!("takes at most {most} bytes, not {len}"))),
        _ => Ok(()),
    }
}

fn embedded<'a>(column: &Column, raw: &'a str) -> Result<Cell<'a>, RecordFault> {
    ndjson::check_embedded(raw.as_bytes()).map_err(|flaw| fault(column, format!("holds JSON that cannot be read: {flaw}")))?;
    Ok(Cell::Json(one_line(Cow::Borrowed(raw))))
}

/// JSON text on one line: outside strings a line break is white space, and inside it cannot be.
pub(super) fn one_line(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.contains(['\n', '\r']) { Cow::Owned(text.replace(['\n', '\r'], " ")) } else { text }
}

/// The least and the greatest integer of an integer column.
fn integer_range(column_type: ColumnType) -> Option<(i128, i128)> {
    Some(match column_type {
        ColumnType::Int8 => (i8::MIN.into(), i8::MAX.into()),
        ColumnType::Int16 => (i16::MIN.into(), i16::MAX.into()),
        ColumnType::Int32 => (i32::MIN.into(), i32::MAX.into()),
        ColumnType::Int64 => (i64::MIN.into(), i64::MAX.into()),
        ColumnType::Uint64 => (0, u64::MAX.into()),
        _ => return None,
    })
}

fn integer<'a>(column: &Column, digits: &str) -> Result<Cell<'a>, RecordFault> {
    // `parse` would take a plus sign as well.
    let number = digits.parse::<i128>().ok().filter(|_| !digits.starts_with('+'));
    number
        .ok_or_else(|| fault(column, format!("needs an integer of type {}, without point or exponent", type_name(column.column_type))))
        .and_then(|number| from_integer(column, number))
}

/// The value that an integer is in a numeric column.
pub(super) fn from_integer<'a>(column: &Column, number: i128) -> Result<Cell<'a>, RecordFault> {
    match (column.column_type, integer_range(column.column_type)) {
        (ColumnType::Uint64, _) => u64::try_from(number).map(Cell::Uint).map_err(|_| range(column)),
        (_, Some((least, greatest))) if (least..=greatest).contains(&number) => i64::try_from(number).map(Cell::Int).map_err(|_| range(column)),
        (_, Some(_)) => Err(range(column)),
        (ColumnType::Decimal { precision, scale }, _) => {
            scalar::parse_decimal(&number.to_string(), precision, scale).map(Cell::Decimal).ok_or_else(|| range(column))
        }
        (ColumnType::Double, _) if (number as f64) as i128 == number => Ok(Cell::Double(number as f64)),
        (ColumnType::Float, _) if (number as f32) as i128 == number => Ok(Cell::Float(number as f32)),
        (ColumnType::Double | ColumnType::Float, _) => Err(range(column)),
        _ => Err(mismatch(column, "an integer")),
    }
}

/// Writes the JSON text of a value of `column`; see the table above.
pub(super) fn write(column: &Column, cell: &Cell<'_>, out: &mut Vec<u8>) {
    let quoted = |out: &mut Vec<u8>, write: &dyn Fn(&mut Vec<u8>)| {
        out.push(b'"');
        write(out);
        out.push(b'"');
    };
    let in_range = "checked when it was read";
    match cell {
        Cell::Null => out.extend(b"null"),
        Cell::Bool(truth) => out.extend(if *truth { "true" } else { "false" }.bytes()),
        Cell::Int(number) => write_json(out, number),
        Cell::Uint(number) => write_json(out, number),
        Cell::Float(number) => write_json(out, number),
        Cell::Double(number) => write_json(out, number),
        Cell::Decimal(unscaled) => {
            let ColumnType::Decimal { scale, .. } = column.column_type else { unreachable!("a decimal comes from a decimal column") };
            quoted(out, &|out| scalar::write_decimal(*unscaled, scale, out));
        }
        Cell::String(text) => write_json(out, text),
        Cell::Bytes(bytes) => quoted(out, &|out| out.extend(BASE64_STANDARD.encode(bytes).bytes())),
        Cell::Date(days) => quoted(out, &|out| scalar::write_date(i64::from(*days), out).expect(in_range)),
        Cell::Time(micros) => quoted(out, &|out| scalar::write_time(micros * 1_000, out).expect(in_range)),
        Cell::Timestamp(micros) => quoted(out, &|out| scalar::write_timestamp(*micros, 1_000_000, out).expect(in_range)),
        Cell::Uuid(uuid) => quoted(out, &|out| out.extend(uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()).bytes())),
        Cell::Json(text) => out.extend(text.bytes()),
    }
}

/// Writes a number or a string as JSON.
pub(super) fn write_json(out: &mut Vec<u8>, value: &impl serde::Serialize) {
    serde_json::to_writer(out, value).expect("numbers and strings always have a JSON text, and a Vec takes it");
}

/// A type's name as the interface spells it.
pub(super) fn type_name(column_type: ColumnType) -> String {
    match column_type {
        ColumnType::Decimal { precision, scale } => format!("DECIMAL({precision},{scale})"),
        other => format!("{other:?}").to_uppercase(),
    }
}

pub(super) fn fault(column: &Column, problem: impl fmt::Display) -> RecordFault {
    RecordFault::invalid(&column.name, format!("column {:?} {problem}", column.name))
}

pub(super) fn range(column: &Column) -> RecordFault {
    fault(column, format!("holds a number that {} cannot hold exactly or at all", type_name(column.column_type)))
}

pub(super) fn mismatch(column: &Column, found: &str) -> RecordFault {
    fault(column, format!("has type {} and holds {found}", type_name(column.column_type)))
}
