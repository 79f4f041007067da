//! Why: what makes a JSON object a row of a table: every column checked against its type, exactly, and the primary key encoded so that keys sort as values do. Pure.

use std::{borrow::Cow, fmt};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::{
    limits,
    record::{Column, ColumnType, RecordFault, RecordFaultKind, RecordSchema},
};

/// A checked row: JSON text in which every value has its column's own form, and its encoded primary key where the table has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// One JSON object, on one line.
    pub json: Bytes,
    /// Sorts as the primary key's values do.
    pub key: Option<Vec<u8>>,
}

/// Checks one JSON object against a table's columns. The text is kept as it came where all its values already have their column's form.
pub fn check_row(schema: &RecordSchema, line: Bytes) -> Result<Row, RecordFault> {
    let mut found: Vec<Option<Canonical>> = vec![None; schema.columns.len()];
    let mut faults = Faults::default();
    let visitor = RowVisitor { schema, found: &mut found, faults: &mut faults };
    let unparsable = |fault: &dyn fmt::Display| RecordFault {
        kind: RecordFaultKind::Unparsable,
        message: format!("the record is not a JSON object: {fault}"),
        column: None,
    };
    // Rows share values of the store, a line each.
    if line.contains(&b'\n') {
        return Err(unparsable(&"it has more than one line"));
    }
    let mut text = serde_json::Deserializer::from_slice(&line);
    text.deserialize_map(visitor).and_then(|()| text.end()).map_err(|fault| unparsable(&fault))?;
    for (column, value) in schema.columns.iter().zip(&found) {
        if value.is_none() && !column.nullable {
            faults.add(column, format!("column {:?} is missing and not nullable", column.name));
        }
    }
    if let Some(fault) = faults.first {
        return Err(fault);
    }
    let key = encode_key(schema, &found)?;
    let rewritten = found.iter().flatten().any(Canonical::is_replaced).then(|| rewritten(schema, &found));
    drop(found);
    Ok(Row { json: rewritten.unwrap_or(line), key })
}

/// The first fault leads; a record has one.
#[derive(Default)]
struct Faults {
    first: Option<RecordFault>,
}

impl Faults {
    fn add(&mut self, column: &Column, message: String) {
        self.first.get_or_insert(RecordFault { kind: RecordFaultKind::Invalid, message, column: Some(column.name.clone()) });
    }
}

struct RowVisitor<'a, 'de> {
    schema: &'a RecordSchema,
    found: &'a mut Vec<Option<Canonical<'de>>>,
    faults: &'a mut Faults,
}

impl<'de> Visitor<'de> for RowVisitor<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Text<'de>>()? {
            let Some(index) = self.schema.columns.iter().position(|column| column.name == name.0) else {
                map.next_value::<IgnoredAny>()?;
                self.faults.first.get_or_insert(RecordFault {
                    kind: RecordFaultKind::Invalid,
                    message: format!("the table has no column {:?}", shortened(&name.0)),
                    column: Some(shortened(&name.0).to_owned()),
                });
                continue;
            };
            let column = &self.schema.columns[index];
            let raw: &'de RawValue = map.next_value()?;
            if self.found[index].is_some() {
                self.faults.add(column, format!("column {:?} is given twice", column.name));
                continue;
            }
            match canonical(column, raw.get()) {
                Ok(value) => self.found[index] = Some(value),
                Err(wanted) => {
                    // Named so that "missing" is not said as well.
                    self.found[index] = Some(Canonical::null());
                    self.faults.add(column, format!("column {:?} takes {wanted}, not {}", column.name, shortened(raw.get())));
                }
            }
        }
        Ok(())
    }
}

/// A key or a string, borrowed where nothing is escaped.
struct Text<'a>(Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E: serde::de::Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        from.deserialize_str(TextVisitor).map_err(D::Error::custom)
    }
}

fn shortened(text: &str) -> &str {
    let end = text.char_indices().nth(80).map_or(text.len(), |(at, _)| at);
    &text[..end]
}

/// A value in its column's own form.
#[derive(Debug, Clone)]
struct Canonical<'a> {
    /// JSON text; owned where it differs from what came.
    text: Cow<'a, str>,
    /// Its place in the order of the column's values; empty where the column is no part of the primary key.
    order: Vec<u8>,
}

impl<'a> Canonical<'a> {
    fn null() -> Self {
        Self { text: Cow::Borrowed("null"), order: Vec::new() }
    }

    fn kept(raw: &'a str, order: Vec<u8>) -> Self {
        Self { text: Cow::Borrowed(raw), order }
    }

    fn new(raw: &'a str, text: String, order: Vec<u8>) -> Self {
        Self { text: if raw == text { Cow::Borrowed(raw) } else { Cow::Owned(text) }, order }
    }

    fn is_replaced(&self) -> bool {
        matches!(self.text, Cow::Owned(_))
    }
}

/// The place in the order, computed only where a primary key needs it.
fn order_of(column: &Column, order: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
    if column.primary_key { order() } else { Vec::new() }
}

/// Checks one value; the error says what the column takes.
fn canonical<'a>(column: &Column, raw: &'a str) -> Result<Canonical<'a>, String> {
    if raw == "null" {
        return if column.nullable { Ok(Canonical::null()) } else { Err("a value, because it is not nullable".to_owned()) };
    }
    match column.column_type {
        ColumnType::Bool => match raw {
            "true" | "false" => Ok(Canonical::kept(raw, order_of(column, || vec![u8::from(raw == "true")]))),
            _ => Err("true or false".to_owned()),
        },
        ColumnType::Int8 => signed(column, raw, i8::MIN.into(), i8::MAX.into()),
        ColumnType::Int16 => signed(column, raw, i16::MIN.into(), i16::MAX.into()),
        ColumnType::Int32 => signed(column, raw, i32::MIN.into(), i32::MAX.into()),
        ColumnType::Int64 => signed(column, raw, i64::MIN, i64::MAX),
        ColumnType::Uint64 => {
            let wanted = || format!("a whole number from 0 to {}", u64::MAX);
            let number: u64 = digits(raw).and_then(|text| text.parse().ok()).ok_or_else(wanted)?;
            Ok(Canonical { text: whole(raw, number), order: order_of(column, || number.to_be_bytes().to_vec()) })
        }
        ColumnType::Float => float(column, raw, f64::from(f32::MAX)),
        ColumnType::Double => float(column, raw, f64::MAX),
        ColumnType::Decimal { precision, scale } => decimal(column, raw, precision, scale),
        ColumnType::String => {
            let text = string(raw).ok_or("a string")?;
            within(column, text.len())?;
            Ok(Canonical::kept(raw, order_of(column, || terminated(text.as_bytes()))))
        }
        ColumnType::Bytes => {
            let bytes = string(raw).and_then(|text| STANDARD.decode(text.as_bytes()).ok()).ok_or("a base64 string")?;
            within(column, bytes.len())?;
            Ok(Canonical::kept(raw, order_of(column, || terminated(&bytes))))
        }
        ColumnType::Date => {
            let date = shaped(raw, "0000-00-00").and_then(|text| text.parse::<jiff::civil::Date>().ok()).ok_or("a date as in \"2026-11-24\"")?;
            let order = order_of(column, || ordered(i64::from(date.year()) * 400 + i64::from(date.day_of_year())));
            Ok(Canonical::new(raw, format!("\"{date}\""), order))
        }
        ColumnType::Time => {
            let wanted = "a time of day as in \"13:45:00.123456\"";
            let time = shaped(raw, "00:00:00*").and_then(|text| text.parse::<jiff::civil::Time>().ok()).ok_or(wanted)?;
            let nanos = time.duration_since(jiff::civil::Time::midnight()).as_nanos();
            Ok(Canonical::new(raw, format!("\"{time}\""), order_of(column, || ordered(i64::try_from(nanos).unwrap_or(i64::MAX)))))
        }
        ColumnType::Timestamp => {
            let wanted = "an instant as in \"2026-11-24T13:45:00.123456Z\"";
            let at = shaped(raw, "0000-00-00T00:00:00*").and_then(|text| text.parse::<jiff::Timestamp>().ok()).ok_or(wanted)?;
            let order = order_of(column, || (at.as_nanosecond().cast_unsigned() ^ (1 << 127)).to_be_bytes().to_vec());
            Ok(Canonical::new(raw, format!("\"{at}\""), order))
        }
        ColumnType::Uuid => {
            let id: uuid::Uuid = parsed(raw).ok_or("a UUID")?;
            Ok(Canonical::new(raw, format!("\"{id}\""), order_of(column, || id.as_bytes().to_vec())))
        }
        ColumnType::Json => Ok(Canonical::kept(raw, order_of(column, || terminated(raw.as_bytes())))),
    }
}

fn within(column: &Column, length: usize) -> Result<(), String> {
    match usize::try_from(column.max_length) {
        Ok(max) if max > 0 && length > max => Err(format!("at most {max} bytes")),
        _ => Ok(()),
    }
}

/// The text of a JSON string.
fn string(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') { serde_json::from_str(raw).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(inner)) }
}

fn parsed<T: std::str::FromStr>(raw: &str) -> Option<T> {
    string(raw)?.parse().ok()
}

/// The text of a date, a time or both that begins as `shape` (`0` any digit, `T` also a space or `t`, `*` anything but an annotation). The parser behind it is
/// more lenient: it drops a time behind a date, a zone's name, and the sixtieth second, all without a word.
fn shaped<'a>(raw: &'a str, shape: &str) -> Option<Cow<'a, str>> {
    let text = string(raw)?;
    let (fixed, open) = shape.strip_suffix('*').map_or((shape, false), |fixed| (fixed, true));
    let fits = |(byte, wanted): (u8, u8)| match wanted {
        b'0' => byte.is_ascii_digit(),
        b'T' => matches!(byte, b'T' | b't' | b' '),
        other => byte == other,
    };
    let (head, tail) = text.as_bytes().split_at_checked(fixed.len())?;
    let as_shaped = head.iter().copied().zip(fixed.bytes()).all(fits) && (open || tail.is_empty());
    (as_shaped && !tail.contains(&b'[') && !(open && head.ends_with(b":60"))).then_some(text)
}

/// A number's text, also where it came as a string of digits, as senders of large integers do.
fn digits(raw: &str) -> Option<Cow<'_, str>> {
    let text = if raw.starts_with('"') { string(raw)? } else { Cow::Borrowed(raw) };
    let unsigned = text.strip_prefix('-').unwrap_or(&text);
    (!unsigned.is_empty() && unsigned.bytes().all(|byte| byte.is_ascii_digit())).then_some(text)
}

/// An integer's own text: what came, unless that was a string of digits or a negative zero.
fn whole(raw: &str, number: impl ToString) -> Cow<'_, str> {
    if raw.starts_with('"') || raw == "-0" { Cow::Owned(number.to_string()) } else { Cow::Borrowed(raw) }
}

fn signed<'a>(column: &Column, raw: &'a str, min: i64, max: i64) -> Result<Canonical<'a>, String> {
    let number = digits(raw).and_then(|text| text.parse::<i64>().ok()).filter(|number| (min..=max).contains(number));
    let number = number.ok_or_else(|| format!("a whole number from {min} to {max}"))?;
    Ok(Canonical { text: whole(raw, number), order: order_of(column, || ordered(number)) })
}

fn float<'a>(column: &Column, raw: &'a str, max: f64) -> Result<Canonical<'a>, String> {
    let number = Some(raw).filter(|raw| !raw.starts_with('"')).and_then(|raw| raw.parse::<f64>().ok()).filter(|number| number.abs() <= max);
    let number = number.ok_or_else(|| format!("a number within ±{max:e}"))?;
    let bits = number.to_bits();
    let order = if bits >> 63 == 0 { bits ^ (1 << 63) } else { !bits };
    Ok(Canonical::kept(raw, order_of(column, || order.to_be_bytes().to_vec())))
}

/// Exact: digits are counted in the text, and no float is involved.
fn decimal<'a>(column: &Column, raw: &'a str, precision: u8, scale: u8) -> Result<Canonical<'a>, String> {
    let wanted = || format!("a decimal with at most {precision} digits, {scale} of them after the point");
    let text = if raw.starts_with('"') { string(raw) } else { Some(Cow::Borrowed(raw)) }.ok_or_else(wanted)?;
    let unsigned = text.strip_prefix('-').unwrap_or(&text);
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let (significant, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    if whole.is_empty()
        || unsigned.ends_with('.')
        || !all_digits(whole)
        || !all_digits(fraction)
        || significant.len() > usize::from(precision - scale)
        || fraction.len() > usize::from(scale)
    {
        return Err(wanted());
    }
    let scaled: i128 = format!("{whole}{fraction:0<width$}", width = usize::from(scale)).parse().map_err(|_| wanted())?;
    let scaled = if text.starts_with('-') { -scaled } else { scaled };
    Ok(Canonical::kept(raw, order_of(column, || (scaled.cast_unsigned() ^ (1 << 127)).to_be_bytes().to_vec())))
}

fn ordered(number: i64) -> Vec<u8> {
    (number.cast_unsigned() ^ (1 << 63)).to_be_bytes().to_vec()
}

/// Bytes that end before any longer ones begin: NUL is escaped, and two NULs end.
fn terminated(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 2);
    for byte in bytes {
        out.push(*byte);
        if *byte == 0 {
            out.push(0xff);
        }
    }
    out.extend_from_slice(&[0, 0]);
    out
}

fn encode_key(schema: &RecordSchema, found: &[Option<Canonical<'_>>]) -> Result<Option<Vec<u8>>, RecordFault> {
    let mut key = None;
    for (column, value) in schema.columns.iter().zip(found).filter(|(column, _)| column.primary_key) {
        let Some(order) = value.as_ref().filter(|value| value.text != "null").map(|value| value.order.as_slice()) else {
            return Err(RecordFault {
                kind: RecordFaultKind::Invalid,
                message: format!("column {:?} is part of the primary key and must have a value", column.name),
                column: Some(column.name.clone()),
            });
        };
        key.get_or_insert_with(Vec::new).extend_from_slice(order);
        if key.as_ref().is_some_and(|key| key.len() + 64 > limits::STORE_KEY_BYTES_MAX) {
            return Err(RecordFault {
                kind: RecordFaultKind::TooLarge,
                message: format!("the primary key must have less than {} bytes", limits::STORE_KEY_BYTES_MAX - 64),
                column: Some(column.name.clone()),
            });
        }
    }
    Ok(key)
}

fn rewritten(schema: &RecordSchema, found: &[Option<Canonical<'_>>]) -> Bytes {
    let mut out = String::from("{");
    for (column, value) in schema.columns.iter().zip(found) {
        let Some(value) = value else { continue };
        if out.len() > 1 {
            out.push(',');
        }
        out.push_str(&serde_json::Value::from(column.name.as_str()).to_string());
        out.push(':');
        out.push_str(&value.text);
    }
    out.push('}');
    out.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn column(name: &str, column_type: ColumnType) -> Column {
        Column { name: name.to_owned(), column_type, nullable: false, max_length: 0, primary_key: false }
    }

    fn one(column_type: ColumnType) -> RecordSchema {
        RecordSchema { columns: vec![column("v", column_type)] }
    }

    fn check(schema: &RecordSchema, value: &str) -> Result<String, String> {
        check_row(schema, Bytes::from(format!("{{\"v\":{value}}}"))).map(|row| String::from_utf8(row.json.to_vec()).unwrap()).map_err(|fault| fault.message)
    }

    #[test]
    fn every_type_takes_its_values_and_no_others() {
        let decimal = ColumnType::Decimal { precision: 5, scale: 2 };
        let table: &[(ColumnType, &[&str], &[&str])] = &[
            (ColumnType::Bool, &["true", "false"], &["0", "\"true\"", "null"]),
            (ColumnType::Int8, &["-128", "127", "\"7\""], &["128", "-129", "1.0", "\"\"", "true"]),
            (ColumnType::Int64, &["9223372036854775807", "-9223372036854775808"], &["9223372036854775808", "1e3", "\"x\""]),
            (ColumnType::Uint64, &["18446744073709551615", "0"], &["-1", "18446744073709551616"]),
            (ColumnType::Float, &["1.5", "-3e38"], &["1e39", "\"1.5\""]),
            (ColumnType::Double, &["1e308", "0.1"], &["1e309", "\"NaN\""]),
            (decimal, &["123.45", "\"-0.5\"", "0", "00012.30"], &["1234.5", "0.123", "\"\"", "1e2", "\"1.\"", "\".5\""]),
            (ColumnType::String, &["\"\"", "\"\\u00e9\""], &["1", "{}"]),
            (ColumnType::Bytes, &["\"AAEC\"", "\"\""], &["\"%%\"", "5"]),
            (ColumnType::Date, &["\"2026-11-24\""], &["\"2026-13-01\"", "20261124"]),
            (ColumnType::Time, &["\"13:45:00.123456\""], &["\"25:00:00\""]),
            (ColumnType::Timestamp, &["\"2026-11-24T13:45:00Z\"", "\"2026-11-24T13:45:00+01:00\""], &["\"2026-11-24 later\"", "0"]),
            (ColumnType::Uuid, &["\"6f0c3a1e-0d2b-4c0e-9a53-0d0f6f3e7b11\""], &["\"6f0c\""]),
            (ColumnType::Json, &["{\"a\":[1]}", "5", "\"x\""], &["null"]),
        ];
        for (column_type, good, bad) in table {
            for value in *good {
                let fit = check(&one(*column_type), value);
                assert!(fit.is_ok() || value.starts_with("000"), "{column_type:?} {value}: {fit:?}");
            }
            for value in *bad {
                assert!(check(&one(*column_type), value).is_err(), "{column_type:?} takes {value}");
            }
        }
    }

    #[test]
    fn values_take_their_columns_form_and_untouched_text_is_kept() {
        assert_eq!(check(&one(ColumnType::Int64), "\"42\"").unwrap(), "{\"v\":42}");
        assert_eq!(check(&one(ColumnType::Timestamp), "\"2026-11-24T13:45:00+01:00\"").unwrap(), "{\"v\":\"2026-11-24T12:45:00Z\"}");
        assert_eq!(check(&one(ColumnType::String), " \"a\"").unwrap(), "{\"v\": \"a\"}");
    }

    #[test]
    fn faults_name_the_column() {
        let mut schema = one(ColumnType::String);
        schema.columns[0].max_length = 2;
        schema.columns.push(Column { nullable: true, ..column("w", ColumnType::Bool) });
        for (line, named) in
            [("{}", "v"), ("{\"v\":\"abc\"}", "v"), ("{\"v\":\"a\",\"x\":1}", "x"), ("{\"v\":\"a\",\"w\":3}", "w"), ("{\"v\":\"a\",\"v\":\"b\"}", "v")]
        {
            let fault = check_row(&schema, Bytes::from(line)).unwrap_err();
            assert_eq!(fault.column.as_deref(), Some(named), "{line}: {}", fault.message);
        }
        assert!(check_row(&schema, Bytes::from("{\"v\":\"a\",\"w\":null}")).is_ok());
        assert_eq!(check_row(&schema, Bytes::from("[1]")).unwrap_err().kind, RecordFaultKind::Unparsable);
    }

    fn key(column_type: ColumnType, value: &str) -> Vec<u8> {
        let mut schema = one(column_type);
        schema.columns[0].primary_key = true;
        check_row(&schema, Bytes::from(format!("{{\"v\":{value}}}"))).unwrap().key.unwrap()
    }

    #[test]
    fn nothing_of_a_value_is_dropped_without_a_word() {
        for (column_type, value) in [
            (ColumnType::Date, "2026-11-24T10:00:00"),
            (ColumnType::Date, "-000001-01-01"),
            (ColumnType::Time, "2026-11-24T10:00:00"),
            (ColumnType::Time, "23:59:60"),
            (ColumnType::Timestamp, "2026-12-31T23:59:60Z"),
            (ColumnType::Timestamp, "2026-11-24T23:59:50Z[America/New_York]"),
            (ColumnType::Timestamp, "2026-11-24T23:59:50"),
        ] {
            let taken = check(&one(column_type), &format!("\"{value}\""));
            assert!(taken.is_err(), "{column_type:?} took {value} as {taken:?}");
        }
        assert_eq!(check(&one(ColumnType::Timestamp), "\"2026-11-24 13:45:00.5+01:00\"").unwrap(), "{\"v\":\"2026-11-24T12:45:00.5Z\"}");
        let key = |value: &str| check_row(&keyed(ColumnType::Timestamp), format!("{{\"v\":\"2026-11-24T13:45:00.{value}Z\"}}").into()).unwrap().key;
        assert!(key("000000001") < key("000000002"), "instants that differ have different keys");
        for line in ["{\"v\":1} x", "{\"v\":1}{\"v\":2}", "{\"v\":\n1}"] {
            let fault = check_row(&one(ColumnType::Int8), Bytes::from_static(line.as_bytes())).unwrap_err();
            assert_eq!(fault.kind, RecordFaultKind::Unparsable, "{line:?}");
        }
    }

    fn keyed(column_type: ColumnType) -> RecordSchema {
        RecordSchema { columns: vec![Column { primary_key: true, nullable: true, ..column("v", column_type) }] }
    }

    #[test]
    fn a_primary_key_has_a_value_whatever_its_column_says() {
        for line in ["{\"v\":null}", "{}"] {
            let fault = check_row(&keyed(ColumnType::Int8), Bytes::from_static(line.as_bytes())).unwrap_err();
            assert!(fault.message.contains("primary key"), "{fault:?}");
        }
    }

    proptest! {
        #[test]
        fn keys_sort_as_integers_do(a: i64, b: i64) {
            prop_assert_eq!(key(ColumnType::Int64, &a.to_string()).cmp(&key(ColumnType::Int64, &b.to_string())), a.cmp(&b));
        }

        #[test]
        fn keys_sort_as_strings_do(a: String, b: String) {
            let text = |s: &String| serde_json::Value::from(s.as_str()).to_string();
            prop_assert_eq!(key(ColumnType::String, &text(&a)).cmp(&key(ColumnType::String, &text(&b))), a.as_bytes().cmp(b.as_bytes()));
        }

        #[test]
        fn keys_sort_as_doubles_do(a in -1e300f64..1e300, b in -1e300f64..1e300) {
            let text = |n: f64| format!("{n:?}");
            prop_assert_eq!(key(ColumnType::Double, &text(a)).cmp(&key(ColumnType::Double, &text(b))), a.total_cmp(&b));
        }

        #[test]
        fn keys_sort_as_decimals_do(a in -99_999i64..=99_999, b in -99_999i64..=99_999) {
            let text = |n: i64| format!("\"{}{}.{:02}\"", if n < 0 { "-" } else { "" }, n.abs() / 100, n.abs() % 100);
            let column_type = ColumnType::Decimal { precision: 5, scale: 2 };
            prop_assert_eq!(key(column_type, &text(a)).cmp(&key(column_type, &text(b))), a.cmp(&b));
        }
    }
}
