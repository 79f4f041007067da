//! Why: typed values become JSON text without losing a bit. Never converts a value whose kind is not the column's: the table below is all there is.
//!
//! | Column | Value kinds taken (NULL also, where nullable) |
//! |---|---|
//! | BOOL | bool |
//! | INT8 … INT64, UINT64 | int, uint, in range |
//! | FLOAT, DOUBLE | double, finite; int and uint that it holds exactly |
//! | DECIMAL | string; int, uint |
//! | STRING, DATE, TIME, UUID, JSON | string |
//! | BYTES | bytes |
//! | TIMESTAMP | timestamp; string in RFC 3339 |
//!
//! What is written for each is told by the table of [`super::row`].

use std::borrow::Cow;

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;

use super::{
    Column, ColumnType, DecodeError, RecordFault, RecordSchema, TypedValue,
    piece::{LineWriter, Lines},
    row::{self, Cell},
    scalar,
};
use crate::clock::Timestamp;

/// Writes records as lines; those that do not fit the columns are refused.
pub(super) fn decode(records: Vec<Vec<TypedValue>>, schema: &RecordSchema) -> Result<Lines, DecodeError> {
    let keys: Vec<Vec<u8>> = schema.columns.iter().enumerate().map(|(index, column)| key(index, &column.name)).collect();
    let mut lines = LineWriter::default();
    for values in records {
        lines.record(|out| write_record(schema, &keys, &values, out), || original(&values))?;
    }
    Ok(lines.finish())
}

/// What stands before the value of column `index`.
pub(super) fn key(index: usize, name: &str) -> Vec<u8> {
    let mut key = vec![if index == 0 { b'{' } else { b',' }];
    row::write_json(&mut key, &name);
    key.push(b':');
    key
}

fn write_record(schema: &RecordSchema, keys: &[Vec<u8>], values: &[TypedValue], out: &mut Vec<u8>) -> Result<(), RecordFault> {
    if values.len() != keys.len() {
        let message = format!("the record has {} values and the schema {} columns", values.len(), keys.len());
        return Err(RecordFault { kind: super::RecordFaultKind::Invalid, message, column: None });
    }
    for ((column, key), value) in schema.columns.iter().zip(keys).zip(values) {
        out.extend(key);
        row::write(column, &cell(column, value)?, out);
    }
    out.extend(if keys.is_empty() { "{}" } else { "}" }.bytes());
    Ok(())
}

fn cell<'a>(column: &Column, value: &'a TypedValue) -> Result<Cell<'a>, RecordFault> {
    match (value, column.column_type) {
        (TypedValue::Null, _) if column.nullable => Ok(Cell::Null),
        (TypedValue::Null, _) => Err(row::fault(column, "must not be null")),
        (TypedValue::Bool(truth), ColumnType::Bool) => Ok(Cell::Bool(*truth)),
        (TypedValue::Int(number), _) => row::from_integer(column, i128::from(*number)),
        (TypedValue::Uint(number), _) => row::from_integer(column, i128::from(*number)),
        (TypedValue::Double(number), ColumnType::Double) if number.is_finite() => Ok(Cell::Double(*number)),
        (TypedValue::Double(number), ColumnType::Float) if (*number as f32).is_finite() => Ok(Cell::Float(*number as f32)),
        (TypedValue::Double(_), ColumnType::Double | ColumnType::Float) => Err(row::range(column)),
        (TypedValue::Bytes(bytes), ColumnType::Bytes) => row::from_bytes(column, bytes.to_vec()),
        (TypedValue::Timestamp(instant), ColumnType::Timestamp) => {
            let micros = instant.micros();
            scalar::write_timestamp(micros, 1_000_000, &mut Vec::new()).ok_or_else(|| row::fault(column, "takes the years 0000 to 9999 only"))?;
            Ok(Cell::Timestamp(micros))
        }
        (TypedValue::String(_), ColumnType::Bytes | ColumnType::Bool | ColumnType::Double | ColumnType::Float) => Err(row::mismatch(column, "a string")),
        (TypedValue::String(_), ColumnType::Int8 | ColumnType::Int16 | ColumnType::Int32 | ColumnType::Int64 | ColumnType::Uint64) => {
            Err(row::mismatch(column, "a string"))
        }
        (TypedValue::String(text), _) => row::from_text(column, Cow::Borrowed(text)),
        (other, _) => Err(row::mismatch(column, kind(other))),
    }
}

fn kind(value: &TypedValue) -> &'static str {
    match value {
        TypedValue::Null => "null",
        TypedValue::Bool(_) => "a bool",
        TypedValue::Int(_) | TypedValue::Uint(_) => "an integer",
        TypedValue::Double(_) => "a double",
        TypedValue::String(_) => "a string",
        TypedValue::Bytes(_) => "bytes",
        TypedValue::Timestamp(_) => "a timestamp",
    }
}

/// A refused record for its dead letter: its values in order, as a JSON array.
fn original(values: &[TypedValue]) -> Vec<u8> {
    let natural = |value: &TypedValue| match value {
        TypedValue::Null => serde_json::Value::Null,
        TypedValue::Bool(truth) => (*truth).into(),
        TypedValue::Int(number) => (*number).into(),
        TypedValue::Uint(number) => (*number).into(),
        TypedValue::Double(number) if number.is_finite() => (*number).into(),
        TypedValue::Double(number) => number.to_string().into(),
        TypedValue::String(text) => text.as_str().into(),
        TypedValue::Bytes(bytes) => BASE64_STANDARD.encode(bytes).into(),
        TypedValue::Timestamp(instant) => instant.to_string().into(),
    };
    serde_json::Value::from_iter(values.iter().map(natural)).to_string().into_bytes()
}

/// The typed value of a checked one.
pub(super) fn from_cell(column: &Column, cell: Cell<'_>) -> TypedValue {
    match cell {
        Cell::Null => TypedValue::Null,
        Cell::Bool(truth) => TypedValue::Bool(truth),
        Cell::Int(number) => TypedValue::Int(number),
        Cell::Uint(number) => TypedValue::Uint(number),
        Cell::Float(number) => TypedValue::Double(f64::from(number)),
        Cell::Double(number) => TypedValue::Double(number),
        Cell::String(text) | Cell::Json(text) => TypedValue::String(text.into_owned()),
        Cell::Bytes(bytes) => TypedValue::Bytes(Bytes::from(bytes)),
        Cell::Timestamp(micros) => TypedValue::Timestamp(Timestamp::from_micros(micros)),
        Cell::Decimal(_) | Cell::Date(_) | Cell::Time(_) | Cell::Uuid(_) => {
            let mut quoted = Vec::new();
            row::write(column, &cell, &mut quoted);
            let text = String::from_utf8(quoted).expect("digits and punctuation");
            TypedValue::String(text.trim_matches('"').to_owned())
        }
    }
}
