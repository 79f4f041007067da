//! Why: each Arrow value has one JSON text, the same that a JSON or typed sender would have caused. Never writes a value that the text cannot give back: that record is refused.
//!
//! Strings, integers, booleans, nulls (written as `null`), lists, structs and maps with text keys (objects) are written as themselves; half, single and double floats as numbers, NaN and
//! infinities refused; decimals as strings; binary as standard base64; dates, times and instants as [`super::scalar`] writes them, with nine digits where microseconds would lose something, an
//! instant without a zone taken as UTC; dictionaries as their values; `arrow.json` text embedded. Intervals, durations, unions, run-end and list-view columns are not supported.

use arrow_array::{
    Array, ArrayRef, FixedSizeListArray, MapArray, OffsetSizeTrait, RecordBatch, StructArray,
    cast::AsArray,
    types::{
        Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, DecimalType, Float16Type, Float32Type, Float64Type, Int8Type,
        Int16Type, Int32Type, Int64Type, Time32MillisecondType, Time32SecondType, Time64MicrosecondType, Time64NanosecondType, TimestampMicrosecondType,
        TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
    },
};
use arrow_schema::{DataType, Field, TimeUnit, extension::EXTENSION_TYPE_NAME_KEY};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;

use super::{
    Batch, Ndjson, RecordFault, RecordFaults, Records,
    arrow::JSON_EXTENSION,
    ndjson::{check_embedded, check_object, check_record_size},
    row::{one_line, write_json},
    scalar, typed,
};
use crate::limits::NAME_CHARS_MAX;

/// A column's or field's name, cut to what a message may carry.
pub(super) fn short(name: &str) -> String {
    name.chars().take(NAME_CHARS_MAX).collect()
}

/// That a type has a JSON text; if not, the part of it that has none.
pub(super) fn check_type(data_type: &DataType) -> Result<(), String> {
    use DataType as D;
    match data_type {
        D::Null
        | D::Boolean
        | D::Int8
        | D::Int16
        | D::Int32
        | D::Int64
        | D::UInt8
        | D::UInt16
        | D::UInt32
        | D::UInt64
        | D::Float16
        | D::Float32
        | D::Float64 => Ok(()),
        D::Decimal32(..) | D::Decimal64(..) | D::Decimal128(..) | D::Decimal256(..) => Ok(()),
        D::Utf8 | D::LargeUtf8 | D::Utf8View | D::Binary | D::LargeBinary | D::BinaryView | D::FixedSizeBinary(_) => Ok(()),
        D::Date32 | D::Date64 | D::Time32(_) | D::Time64(_) | D::Timestamp(..) => Ok(()),
        D::Dictionary(_, values) if !values.is_nested() => check_type(values),
        D::List(item) | D::LargeList(item) | D::FixedSizeList(item, _) => check_type(item.data_type()),
        D::Struct(fields) => fields.iter().try_for_each(|field| check_type(field.data_type())),
        D::Map(entries, _) => match entries.data_type() {
            D::Struct(pair) if pair.len() == 2 && matches!(pair[0].data_type(), D::Utf8 | D::LargeUtf8 | D::Utf8View) => check_type(pair[1].data_type()),
            other => Err(format!("Map of {other}")),
        },
        other => Err(other.to_string()),
    }
}

/// A bound of the JSON text of all records, in bytes, but for escapes (at most six times as much).
pub(super) fn bytes_at_most(batch: &RecordBatch) -> u64 {
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns());
    columns.fold(3 * batch.num_rows() as u64, |sum, (field, column)| {
        let names = (field.name().len() as u64 + 4).saturating_mul(batch.num_rows() as u64);
        sum.saturating_add(names).saturating_add(column_bytes(column))
    })
}

/// The same for one column. What a list's or a map's rows leave out of their values is counted all the same.
fn column_bytes(array: &dyn Array) -> u64 {
    let len = array.len() as u64;
    let texts = |lengths: &mut dyn Iterator<Item = usize>| lengths.fold(7 * len, |sum, length| sum.saturating_add(length as u64 * 4 / 3));
    match array.data_type() {
        DataType::Null | DataType::Boolean => 5 * len,
        DataType::Utf8 => texts(&mut array.as_string::<i32>().iter().flatten().map(str::len)),
        DataType::LargeUtf8 => texts(&mut array.as_string::<i64>().iter().flatten().map(str::len)),
        DataType::Utf8View => texts(&mut array.as_string_view().iter().flatten().map(str::len)),
        DataType::Binary => texts(&mut array.as_binary::<i32>().iter().flatten().map(<[u8]>::len)),
        DataType::LargeBinary => texts(&mut array.as_binary::<i64>().iter().flatten().map(<[u8]>::len)),
        DataType::BinaryView => texts(&mut array.as_binary_view().iter().flatten().map(<[u8]>::len)),
        DataType::FixedSizeBinary(width) => texts(&mut std::iter::repeat_n((*width).unsigned_abs() as usize, array.len())),
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            let values = dictionary.values();
            if values.is_empty() {
                return 5 * len;
            }
            let sizes: Vec<u64> = (0..values.len()).map(|index| column_bytes(&values.slice(index, 1)).max(5)).collect();
            dictionary.normalized_keys().into_iter().fold(0, |sum, key| sum.saturating_add(sizes[key]))
        }
        DataType::List(_) => (3 * len).saturating_add(column_bytes(array.as_list::<i32>().values())),
        DataType::LargeList(_) => (3 * len).saturating_add(column_bytes(array.as_list::<i64>().values())),
        DataType::FixedSizeList(..) => (3 * len).saturating_add(column_bytes(array.as_fixed_size_list().values())),
        DataType::Map(..) => (3 * len).saturating_add(column_bytes(array.as_map().entries())),
        DataType::Struct(fields) => fields
            .iter()
            .zip(array.as_struct().columns())
            .fold(3 * len, |sum, (field, column)| sum.saturating_add((field.name().len() as u64 + 4).saturating_mul(len)).saturating_add(column_bytes(column))),
        // The longest scalar is a decimal of 256 bits; most are far shorter, so they are counted by their width.
        other => other.primitive_width().unwrap_or(32) as u64 * 3 * len + 5 * len,
    }
}

impl Batch {
    /// These records as JSON text; the same batch if they are that already. Fails with every record that has a value without a JSON text, or is too large as text.
    pub fn to_ndjson(&self) -> Result<Self, RecordFaults> {
        let Records::Arrow(columns) = &self.records else { return Ok(self.clone()) };
        let mut writers = Columns::new(columns, false);
        let (mut text, mut lines, mut faults) = (Vec::new(), Vec::with_capacity(columns.num_rows()), Vec::new());
        for (offset, index) in (self.first_offset..).zip(0..columns.num_rows()) {
            let start = text.len();
            if let Err(fault) = writers.record(index, &mut text) {
                text.truncate(start);
                faults.push((offset, fault));
            }
            let place = |at: usize| u32::try_from(at).expect("decoded batches are far below 4 GiB as text");
            lines.push((place(start), place(text.len())));
            text.push(b'\n');
        }
        if !faults.is_empty() {
            return Err(RecordFaults(faults));
        }
        Ok(Self { records: Records::Ndjson(Ndjson::from_checked(text.into(), lines.into())), ..self.clone() })
    }

    /// Record `index` as a dead letter carries it: its JSON text, where a value that JSON does not know is a string.
    pub fn original(&self, index: usize) -> Bytes {
        match &self.records {
            Records::Ndjson(lines) => lines.line(index),
            Records::Arrow(columns) => {
                let mut text = Vec::new();
                // What is refused even so (text in an `arrow.json` column that is no JSON) leaves what was written before it.
                let _ = Columns::new(columns, true).record(index, &mut text);
                text.into()
            }
        }
    }
}

/// The columns of a batch, ready to be written row by row.
struct Columns<'a> {
    /// Key with brace or comma, name, values.
    columns: Vec<(Vec<u8>, &'a str, Values<'a>)>,
    nested: bool,
}

impl<'a> Columns<'a> {
    fn new(batch: &'a RecordBatch, lenient: bool) -> Self {
        let fields = batch.schema_ref().fields();
        let writer = |(index, (field, array)): (usize, (&'a std::sync::Arc<Field>, &'a ArrayRef))| {
            (typed::key(index, field.name()), field.name().as_str(), Values::new(field, array, lenient))
        };
        let columns = fields.iter().zip(batch.columns()).enumerate().map(writer).collect();
        // Only then can a record nest deeper than one may.
        let nested = fields.iter().any(|field| field.data_type().is_nested());
        Self { columns, nested }
    }

    fn record(&mut self, index: usize, out: &mut Vec<u8>) -> Result<(), RecordFault> {
        let start = out.len();
        for (key, name, values) in &self.columns {
            out.extend_from_slice(key);
            values.write(index, out).map_err(|problem| {
                let name = short(name);
                RecordFault::invalid(&name, format!("column {name:?} {problem}"))
            })?;
        }
        out.extend_from_slice(if self.columns.is_empty() { b"{}" } else { b"}" });
        check_record_size(out.len() - start)?;
        if self.nested
            && let Err(flaw) = check_object(&out[start..])
        {
            return Err(RecordFault::unparsable(format!("the record has no JSON text: {flaw}")));
        }
        Ok(())
    }
}

/// Writes one value, whatever its type; the problem of one that has no text.
type Write<'a> = Box<dyn Fn(usize, &mut Vec<u8>) -> Result<(), String> + 'a>;

/// A column, or what is inside one, with its type resolved once.
struct Values<'a> {
    array: &'a dyn Array,
    write: Write<'a>,
}

impl<'a> Values<'a> {
    fn new(field: &Field, array: &'a dyn Array, lenient: bool) -> Self {
        let is_json = field.metadata().get(EXTENSION_TYPE_NAME_KEY).is_some_and(|name| name == JSON_EXTENSION);
        Self { array, write: writer(field, array, is_json, lenient) }
    }

    fn write(&self, index: usize, out: &mut Vec<u8>) -> Result<(), String> {
        if self.array.is_null(index) {
            out.extend_from_slice(b"null");
            return Ok(());
        }
        (self.write)(index, out)
    }
}

fn writer<'a>(field: &Field, array: &'a dyn Array, is_json: bool, lenient: bool) -> Write<'a> {
    use DataType as D;
    macro_rules! number {
        ($type:ty) => {{
            let values = array.as_primitive::<$type>().values();
            Box::new(|index, out| Ok(write_json(out, &values[index])))
        }};
    }
    macro_rules! float {
        ($type:ty, $convert:expr) => {{
            let values = array.as_primitive::<$type>().values();
            Box::new(move |index, out| float(out, f64::from($convert(values[index])), &$convert(values[index]), lenient))
        }};
    }
    macro_rules! ticks {
        ($type:ty, $write:expr) => {{
            let values = array.as_primitive::<$type>().values();
            Box::new(move |index, out| temporal(out, i64::from(values[index]), lenient, &$write))
        }};
    }
    match array.data_type() {
        D::Boolean => {
            let values = array.as_boolean();
            Box::new(|index, out| {
                let _: () = out.extend_from_slice(if values.value(index) { b"true" } else { b"false" });
                Ok(())
            })
        }
        D::Int8 => number!(Int8Type),
        D::Int16 => number!(Int16Type),
        D::Int32 => number!(Int32Type),
        D::Int64 => number!(Int64Type),
        D::UInt8 => number!(UInt8Type),
        D::UInt16 => number!(UInt16Type),
        D::UInt32 => number!(UInt32Type),
        D::UInt64 => number!(UInt64Type),
        D::Float16 => {
            let values = array.as_primitive::<Float16Type>().values();
            Box::new(move |index, out| float(out, f64::from(values[index].to_f32()), &values[index].to_f32(), lenient))
        }
        D::Float32 => float!(Float32Type, std::convert::identity::<f32>),
        D::Float64 => float!(Float64Type, std::convert::identity::<f64>),
        D::Decimal32(..) => decimal::<Decimal32Type>(array),
        D::Decimal64(..) => decimal::<Decimal64Type>(array),
        D::Decimal128(..) => decimal::<Decimal128Type>(array),
        D::Decimal256(..) => decimal::<Decimal256Type>(array),
        D::Utf8 => text(move |index| array.as_string::<i32>().value(index), is_json),
        D::LargeUtf8 => text(move |index| array.as_string::<i64>().value(index), is_json),
        D::Utf8View => text(move |index| array.as_string_view().value(index), is_json),
        D::Binary => base64(move |index| array.as_binary::<i32>().value(index)),
        D::LargeBinary => base64(move |index| array.as_binary::<i64>().value(index)),
        D::BinaryView => base64(move |index| array.as_binary_view().value(index)),
        D::FixedSizeBinary(_) => base64(move |index| array.as_fixed_size_binary().value(index)),
        D::Date32 => ticks!(Date32Type, scalar::write_date),
        // Milliseconds, but always whole days.
        D::Date64 => {
            ticks!(Date64Type, |millis: i64, out: &mut Vec<u8>| if millis % 86_400_000 == 0 { scalar::write_date(millis / 86_400_000, out) } else { None })
        }
        D::Time32(TimeUnit::Second) => ticks!(Time32SecondType, time_in(1_000_000_000)),
        D::Time32(_) => ticks!(Time32MillisecondType, time_in(1_000_000)),
        D::Time64(TimeUnit::Microsecond) => ticks!(Time64MicrosecondType, time_in(1_000)),
        D::Time64(_) => ticks!(Time64NanosecondType, time_in(1)),
        D::Timestamp(TimeUnit::Second, _) => ticks!(TimestampSecondType, instant_in(1)),
        D::Timestamp(TimeUnit::Millisecond, _) => ticks!(TimestampMillisecondType, instant_in(1_000)),
        D::Timestamp(TimeUnit::Microsecond, _) => ticks!(TimestampMicrosecondType, instant_in(1_000_000)),
        D::Timestamp(TimeUnit::Nanosecond, _) => ticks!(TimestampNanosecondType, instant_in(1_000_000_000)),
        D::Dictionary(..) => dictionary(field, array, lenient),
        D::List(item) => list::<i32>(item, array, lenient),
        D::LargeList(item) => list::<i64>(item, array, lenient),
        D::FixedSizeList(item, _) => fixed_size_list(item, array.as_fixed_size_list(), lenient),
        D::Struct(_) => structure(array.as_struct(), lenient),
        D::Map(..) => map(array.as_map(), lenient),
        // A null column; other types were refused when the batch was decoded.
        _ => Box::new(|_, out| {
            let _: () = out.extend_from_slice(b"null");
            Ok(())
        }),
    }
}

fn time_in(nanos_per_tick: i64) -> impl Fn(i64, &mut Vec<u8>) -> Option<()> {
    move |ticks, out| scalar::write_time(ticks.checked_mul(nanos_per_tick)?, out)
}

fn instant_in(per_second: i64) -> impl Fn(i64, &mut Vec<u8>) -> Option<()> {
    move |ticks, out| scalar::write_timestamp(ticks, per_second, out)
}

fn float(out: &mut Vec<u8>, value: f64, shortest: &impl serde::Serialize, lenient: bool) -> Result<(), String> {
    match value.is_finite() {
        true => write_json(out, shortest),
        false if lenient => write_json(out, &value.to_string()),
        false => return Err(format!("holds {value}, which JSON does not know; send null instead")),
    }
    Ok(())
}

fn temporal(out: &mut Vec<u8>, ticks: i64, lenient: bool, write: &dyn Fn(i64, &mut Vec<u8>) -> Option<()>) -> Result<(), String> {
    let start = out.len();
    out.push(b'"');
    if write(ticks, out).is_none() {
        out.truncate(start);
        if !lenient {
            return Err(format!("holds {ticks}, which is no time of a day or no day of the years 0000 to 9999"));
        }
        write_json(out, &ticks);
        return Ok(());
    }
    out.push(b'"');
    Ok(())
}

fn decimal<'a, T: DecimalType>(array: &'a dyn Array) -> Write<'a> {
    let values = array.as_primitive::<T>();
    Box::new(move |index, out| {
        let _: () = write_json(out, &values.value_as_string(index));
        Ok(())
    })
}

fn text<'a>(value: impl Fn(usize) -> &'a str + 'a, is_json: bool) -> Write<'a> {
    if is_json {
        return Box::new(move |index, out| {
            let text = value(index);
            check_embedded(text.as_bytes()).map_err(|flaw| format!("needs JSON text: {flaw}"))?;
            out.extend_from_slice(one_line(text.trim().into()).as_bytes());
            Ok(())
        });
    }
    Box::new(move |index, out| {
        let _: () = write_json(out, &value(index));
        Ok(())
    })
}

fn base64<'a>(value: impl Fn(usize) -> &'a [u8] + 'a) -> Write<'a> {
    Box::new(move |index, out| {
        let _: () = write_json(out, &BASE64_STANDARD.encode(value(index)));
        Ok(())
    })
}

fn dictionary<'a>(field: &Field, array: &'a dyn Array, lenient: bool) -> Write<'a> {
    let dictionary = array.as_any_dictionary();
    let values = Values::new(field, dictionary.values(), lenient);
    if values.array.is_empty() {
        return Box::new(|_, out| {
            let _: () = out.extend_from_slice(b"null");
            Ok(())
        });
    }
    let keys = dictionary.normalized_keys();
    Box::new(move |index, out| values.write(keys[index], out))
}

/// Writes `range` of `values` as a JSON array.
fn items(values: &Values<'_>, range: std::ops::Range<usize>, out: &mut Vec<u8>) -> Result<(), String> {
    out.push(b'[');
    for index in range.clone() {
        if index > range.start {
            out.push(b',');
        }
        values.write(index, out)?;
    }
    out.push(b']');
    Ok(())
}

fn list<'a, O: OffsetSizeTrait>(item: &Field, array: &'a dyn Array, lenient: bool) -> Write<'a> {
    let list = array.as_list::<O>();
    let values = Values::new(item, list.values(), lenient);
    Box::new(move |index, out| items(&values, list.value_offsets()[index].as_usize()..list.value_offsets()[index + 1].as_usize(), out))
}

fn fixed_size_list<'a>(item: &Field, list: &'a FixedSizeListArray, lenient: bool) -> Write<'a> {
    let values = Values::new(item, list.values(), lenient);
    let width = list.value_length().unsigned_abs() as usize;
    Box::new(move |index, out| items(&values, index * width..(index + 1) * width, out))
}

fn structure<'a>(array: &'a StructArray, lenient: bool) -> Write<'a> {
    let fields = array.fields().iter().zip(array.columns()).enumerate();
    let fields: Vec<_> = fields.map(|(index, (field, column))| (typed::key(index, field.name()), Values::new(field, column, lenient))).collect();
    Box::new(move |index, out| {
        for (key, values) in &fields {
            out.extend_from_slice(key);
            values.write(index, out)?;
        }
        out.extend_from_slice(if fields.is_empty() { b"{}" } else { b"}" });
        Ok(())
    })
}

fn map<'a>(map: &'a MapArray, lenient: bool) -> Write<'a> {
    let (keys, values) = map.entries_fields();
    let keys = Values::new(keys, map.keys(), lenient);
    let values = Values::new(values, map.values(), lenient);
    let offsets = map.value_offsets();
    Box::new(move |index, out| {
        out.push(b'{');
        let (start, end) = (offsets[index] as usize, offsets[index + 1] as usize);
        for entry in start..end {
            if entry > start {
                out.push(b',');
            }
            if keys.array.is_null(entry) {
                return Err("holds a map with a null key".to_owned());
            }
            keys.write(entry, out)?;
            out.push(b':');
            values.write(entry, out)?;
        }
        out.push(b'}');
        Ok(())
    })
}
