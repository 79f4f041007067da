//! Why: what a reader finds in an object is what was sent, in every form and compression, and the bytes depend on the records alone. Never trusts the code that wrote: other code reads.

mod csv_text;
mod forms;

use std::{io::Read, sync::Arc};

use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use proptest::prelude::*;

use super::*;
use crate::{
    connectors::error::ErrorClass,
    record::{Column, ColumnType, Ndjson, Offset, Records},
};

fn formats() -> Vec<Format> {
    let pairs = FILE_FORMATS.iter().flat_map(|file| COMPRESSIONS.iter().map(move |compression| Format::parse(file, compression)));
    pairs.filter_map(Result::ok).collect()
}

fn column(name: &str, column_type: ColumnType) -> Column {
    Column { name: name.to_owned(), column_type, nullable: true, max_length: 0, primary_key: false }
}

/// A column of every type, and one that cannot be null.
fn every_type() -> RecordSchema {
    use ColumnType as T;
    let types = [
        ("bool", T::Bool),
        ("int8", T::Int8),
        ("int16", T::Int16),
        ("int32", T::Int32),
        ("int64", T::Int64),
        ("uint64", T::Uint64),
        ("float", T::Float),
        ("double", T::Double),
        ("decimal", T::Decimal { precision: 38, scale: 9 }),
        ("price", T::Decimal { precision: 7, scale: 2 }),
        ("string", T::String),
        ("bytes", T::Bytes),
        ("date", T::Date),
        ("time", T::Time),
        ("timestamp", T::Timestamp),
        ("uuid", T::Uuid),
        ("json", T::Json),
    ];
    let id = Column { nullable: false, ..column("id", T::Int64) };
    RecordSchema { columns: std::iter::once(id).chain(types.map(|(name, column_type)| column(name, column_type))).collect() }
}

/// The JSON texts of corners, by column of [`every_type`].
fn corners(column_type: ColumnType) -> Vec<&'static str> {
    use ColumnType as T;
    match column_type {
        T::Bool => vec!["true", "false"],
        T::Int8 => vec!["-128", "127"],
        T::Int16 => vec!["-32768", "32767"],
        T::Int32 => vec!["-2147483648", "2147483647"],
        T::Int64 => vec!["-9223372036854775808", "9223372036854775807", "0"],
        T::Uint64 => vec!["0", "9223372036854775808", "18446744073709551615"],
        T::Float => vec!["0.1", "-3.4028235e38", "1e-45", "-0.0"],
        T::Double => vec!["0.1", "-1.7976931348623157e308", "5e-324", "1e22", "-0.0"],
        T::Decimal { precision: 38, .. } => vec!["\"-99999999999999999999999999999.999999999\"", "\"0.000000001\"", "0"],
        T::Decimal { .. } => vec!["\"-99999.99\"", "\"0.10\""],
        T::String => vec!["\"\"", "\"a,b\"", "\"a\\\"b\"", "\"line\\r\\nbreak\"", "\" é \u{1f600}\"", "\"null\"", "\"=1+1\"", "\"\\u0000\""],
        T::Bytes => vec!["\"\"", "\"AP/+\"", "\"AA==\""],
        T::Date => vec!["\"0000-01-01\"", "\"9999-12-31\"", "\"2026-11-24\""],
        T::Time => vec!["\"00:00:00\"", "\"23:59:59.999999\""],
        T::Timestamp => vec!["\"0000-01-01T00:00:00Z\"", "\"9999-12-31T23:59:59.999999Z\"", "\"1969-12-31T23:59:59.000001Z\""],
        T::Uuid => vec!["\"6f0c3a1e-0d2b-4c0e-9a53-0d0f6f3e7b11\"", "\"ffffffff-ffff-ffff-ffff-ffffffffffff\""],
        T::Json => vec!["1", "\"x\"", "\"\"", "[1, {\"a\":null}]", "{}", "18446744073709551615"],
    }
}

/// A record of [`every_type`] as text: a corner's number for each column, or null.
fn line(schema: &RecordSchema, id: i64, picks: &[Option<usize>]) -> String {
    let mut line = format!("{{\"id\":{id}");
    for (column, pick) in schema.columns[1..].iter().zip(picks) {
        let corners = corners(column.column_type);
        let value = pick.map_or("null", |pick| corners[pick % corners.len()]);
        line += &format!(",{:?}:{value}", column.name);
    }
    line + "}"
}

fn ndjson(first_offset: Offset, lines: &[String]) -> Batch {
    let (mut text, mut places) = (String::new(), Vec::new());
    for line in lines {
        let start = text.len() as u32;
        text += line;
        places.push((start, text.len() as u32));
        text.push('\n');
    }
    batch(first_offset, Records::Ndjson(Ndjson::from_checked(text.into(), places.into())))
}

fn batch(first_offset: Offset, records: Records) -> Batch {
    Batch::new(first_offset, records)
}

fn arrow(first_offset: Offset, columns: Vec<(&str, ArrayRef)>) -> Batch {
    let fields: Vec<_> = columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
    let columns = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|(_, array)| array).collect()).unwrap();
    batch(first_offset, Records::Arrow(columns))
}

fn columns_of(batch: &Batch, schema: &RecordSchema) -> RecordBatch {
    let Records::Arrow(columns) = batch.to_arrow(schema).unwrap().records else { unreachable!() };
    columns
}

fn joined(parts: Vec<Bytes>) -> Vec<u8> {
    assert!(parts.iter().all(|part| !part.is_empty()));
    parts.concat()
}

/// The object that appends of these make, taken after each.
fn object(format: Format, schema: Option<&RecordSchema>, batches: &[Batch]) -> Vec<u8> {
    let mut encoder = format.encoder(schema).unwrap();
    let mut parts = Vec::new();
    for batch in batches {
        encoder.append(batch).unwrap();
        parts.extend(encoder.take());
    }
    parts.extend(encoder.finish().unwrap());
    joined(parts)
}

fn unpacked(compression: Compression, object: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    match compression {
        Compression::None => text.extend_from_slice(object),
        Compression::Gzip => drop(flate2::read::GzDecoder::new(object).read_to_end(&mut text).unwrap()),
        Compression::Zstd => drop(zstd::Decoder::new(object).unwrap().read_to_end(&mut text).unwrap()),
        Compression::Snappy => drop(snap::read::FrameDecoder::new(object).read_to_end(&mut text).unwrap()),
    }
    text
}

/// What a reader finds, as columns of `schema`; `None` where there is no record.
fn read(format: Format, object: Vec<u8>, schema: &RecordSchema) -> Option<RecordBatch> {
    let expected = schema.to_arrow_schema();
    let object = Bytes::from(object);
    let batches: Vec<RecordBatch> = match format.file {
        FileFormat::Ndjson => {
            let text = unpacked(format.compression, &object);
            let lines: Vec<String> = String::from_utf8(text).unwrap().lines().map(str::to_owned).collect();
            vec![columns_of(&ndjson(0, &lines), schema)]
        }
        FileFormat::Csv => {
            let text = String::from_utf8(unpacked(format.compression, &object)).unwrap();
            vec![columns_of(&ndjson(0, &csv_text::as_json(&text, schema)), schema)]
        }
        FileFormat::Parquet => {
            let reader = ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(object).unwrap();
            assert_eq!(reader.schema().fields(), expected.fields());
            reader.build().unwrap().map(Result::unwrap).collect()
        }
        FileFormat::ArrowIpc => {
            let reader = arrow_ipc::reader::FileReader::try_new(std::io::Cursor::new(object), None).unwrap();
            assert_eq!(reader.schema().fields(), expected.fields());
            reader.map(Result::unwrap).collect()
        }
        FileFormat::Avro => {
            let reader = arrow_avro::reader::ReaderBuilder::new().build(std::io::Cursor::new(object)).unwrap();
            reader.map(|batch| as_expected(&batch.unwrap(), &expected)).collect()
        }
    };
    let first = batches.first()?.schema();
    let all = arrow_select::concat::concat_batches(&first, &batches).unwrap();
    (all.num_rows() > 0).then(|| RecordBatch::try_new(expected, all.columns().to_vec()).unwrap())
}

/// Avro has fewer types: back to those that were written, exactly.
fn as_expected(batch: &RecordBatch, expected: &Arc<Schema>) -> RecordBatch {
    let exact = arrow_cast::CastOptions { safe: false, ..Default::default() };
    let cast = |(array, field): (&ArrayRef, &Arc<Field>)| arrow_cast::cast_with_options(array, field.data_type(), &exact).unwrap();
    RecordBatch::try_new(Arc::clone(expected), batch.columns().iter().zip(expected.fields()).map(cast).collect()).unwrap()
}

fn records() -> impl Strategy<Value = Vec<String>> {
    let picks = prop::collection::vec(prop::option::weighted(0.8, 0..24_usize), every_type().columns.len() - 1);
    prop::collection::vec((any::<i64>(), picks), 1..30).prop_map(|records| records.iter().map(|(id, picks)| line(&every_type(), *id, picks)).collect())
}

/// The records cut at the places.
fn grouped(lines: &[String], cuts: &[prop::sample::Index]) -> Vec<Batch> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(lines.len() + 1)).chain([0, lines.len()]).collect();
    cuts.sort_unstable();
    cuts.windows(2).map(|cut| ndjson(cut[0] as u64, &lines[cut[0]..cut[1]])).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_form_gives_back_what_it_was_given(lines in records(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4)) {
        let schema = every_type();
        let given = columns_of(&ndjson(0, &lines), &schema);
        for format in formats() {
            let found = read(format, object(format, Some(&schema), &grouped(&lines, &cuts)), &schema);
            prop_assert_eq!(found.as_ref(), Some(&given), "{:?}", format);
        }
    }

    #[test]
    fn the_same_records_give_the_same_bytes(lines in records(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4)) {
        let schema = every_type();
        for format in formats() {
            let once = object(format, Some(&schema), &grouped(&lines, &cuts));
            prop_assert_eq!(&object(format, Some(&schema), &grouped(&lines, &cuts)), &once, "{:?}", format);
            if !matches!(format.file, FileFormat::Parquet | FileFormat::ArrowIpc) {
                prop_assert_eq!(&object(format, Some(&schema), &[ndjson(0, &lines)]), &once, "{:?}", format);
            }
        }
    }
}

#[test]
fn every_corner_comes_back() {
    let schema = every_type();
    let lines: Vec<_> = (0..24).map(|pick| line(&schema, 1, &vec![(pick < 23).then_some(pick); schema.columns.len() - 1])).collect();
    let given = columns_of(&ndjson(0, &lines), &schema);
    for format in formats() {
        assert_eq!(read(format, object(format, Some(&schema), &[ndjson(0, &lines)]), &schema).as_ref(), Some(&given), "{format:?}");
    }
}

/// So many records, each a few hundred bytes that do not compress to nothing.
fn many(count: u64) -> (RecordSchema, Vec<String>) {
    let mut state = 1_u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        format!("{:x}", state >> 8)
    };
    let schema = RecordSchema { columns: vec![column("k", ColumnType::Int64), column("v", ColumnType::String)] };
    let lines = (0..count).map(|k| format!("{{\"k\":{k},\"v\":\"{}\"}}", (0..25).map(|_| noise()).collect::<String>())).collect();
    (schema, lines)
}

#[test]
fn long_objects_come_in_parts_and_groups_do_not_matter() {
    let (schema, lines) = many(5_000);
    let given = columns_of(&ndjson(0, &lines), &schema);
    let by = |size: usize| -> Vec<Batch> {
        lines
            .chunks(size)
            .scan(0, |next, lines| Some((std::mem::replace(next, *next + lines.len() as u64), lines)))
            .map(|(first, lines)| ndjson(first, lines))
            .collect()
    };
    for format in formats() {
        let mut encoder = format.encoder(Some(&schema)).unwrap();
        let mut parts = Vec::new();
        for batch in by(100) {
            encoder.append(&batch).unwrap();
            parts.extend(encoder.take());
        }
        let (early, estimate) = (parts.iter().map(Bytes::len).sum::<usize>(), encoder.size() as usize);
        // A row group is larger than all this.
        assert!(format.file == FileFormat::Parquet || early > 0, "{format:?}");
        parts.extend(encoder.finish().unwrap());
        let whole = joined(parts);
        assert!((whole.len() / 2..=whole.len() * 2).contains(&estimate), "{format:?}: {estimate} of {}", whole.len());
        if format.compression == Compression::None && matches!(format.file, FileFormat::Ndjson | FileFormat::Csv) {
            assert_eq!((early, estimate), (whole.len(), whole.len()));
        }
        if !matches!(format.file, FileFormat::Parquet | FileFormat::ArrowIpc) {
            for size in [5_000, 77] {
                assert!(object(format, Some(&schema), &by(size)) == whole, "{format:?} depends on groups of {size}");
            }
        }
        assert_eq!(read(format, whole, &schema).as_ref(), Some(&given), "{format:?}");
    }
}

#[test]
fn a_poison_record_is_named_and_nothing_of_its_batch_is_taken() {
    let schema = every_type();
    let lines: Vec<_> = (0..6).map(|id| line(&schema, id, &vec![Some(3); schema.columns.len() - 1])).collect();
    let mut poisoned = lines[3..].to_vec();
    poisoned[1] = poisoned[1].replace("\"id\":4", "\"id\":\"four\"");
    for format in formats().into_iter().filter(|format| format.file != FileFormat::Ndjson) {
        let mut encoder = format.encoder(Some(&schema)).unwrap();
        encoder.append(&ndjson(100, &lines[..3])).unwrap();
        let error = encoder.append(&ndjson(103, &poisoned)).unwrap_err();
        assert_eq!(error.class, ErrorClass::Record, "{format:?}");
        let [(104, fault)] = &error.records[..] else { panic!("{:?}", error.records) };
        assert_eq!(fault.column.as_deref(), Some("id"));
        assert!(error.message.contains("104") && error.message.contains("id"), "{}", error.message);
        encoder.append(&ndjson(103, &lines[3..])).unwrap();
        let found = read(format, joined(encoder.finish().unwrap()), &schema);
        assert_eq!(found, Some(columns_of(&ndjson(0, &lines), &schema)), "{format:?}");
    }
}

#[test]
fn columns_that_change_or_are_not_known_are_refused() {
    let numbers = |name: &str| arrow(0, vec![(name, Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef)]);
    for format in formats().into_iter().filter(|format| format.file != FileFormat::Ndjson) {
        let mut encoder = format.encoder(None).unwrap();
        let error = encoder.append(&ndjson(0, &["{\"a\":1}".to_owned()])).unwrap_err();
        assert_eq!((error.kind, error.class), (ConnectorErrorKind::SchemaMismatch, ErrorClass::Configuration), "{format:?}");
        assert!(error.message.contains("schema"), "{}", error.message);
        encoder.append(&numbers("a")).unwrap();
        let error = encoder.append(&numbers("b")).unwrap_err();
        assert_eq!((error.kind, error.class), (ConnectorErrorKind::SchemaMismatch, ErrorClass::Configuration), "{format:?}");
        assert!(error.message.contains("\"b\" Int64 instead of \"a\" Int64"), "{}", error.message);
        encoder.append(&numbers("a")).unwrap();
        let schema = RecordSchema { columns: vec![column("a", ColumnType::Int64)] };
        let found = read(format, joined(encoder.finish().unwrap()), &schema).unwrap();
        assert_eq!(found.column(0).as_ref(), &Int64Array::from(vec![1, 2, 1, 2]) as &dyn Array, "{format:?}");
        // Where the stream's columns are known, other ones are the records' fault.
        let error = format.encoder(Some(&schema)).unwrap().append(&numbers("b")).unwrap_err();
        assert_eq!((error.class, error.records.len()), (ErrorClass::Record, 2), "{format:?}");
    }
}

#[test]
fn an_object_without_records_can_be_read() {
    let schema = every_type();
    for format in formats() {
        let mut encoder = format.encoder(Some(&schema)).unwrap();
        encoder.append(&ndjson(0, &[])).unwrap();
        assert_eq!(read(format, joined(encoder.finish().unwrap()), &schema), None, "{format:?}");
        let unknown = format.encoder(None).unwrap().finish();
        assert_eq!(unknown.is_ok(), format.file == FileFormat::Ndjson, "{format:?}");
    }
}

#[test]
fn words_become_formats() {
    assert_eq!(formats().len(), 4 * 4 + 2);
    for format in formats() {
        assert_eq!(format.takes(), if format.file == FileFormat::Ndjson { Encoding::Ndjson } else { Encoding::ArrowIpc });
        assert_eq!(format.content_encoding(), None);
    }
    let ends = |file, compression| Format::parse(file, compression).unwrap().extension();
    assert_eq!([ends("ndjson", "none"), ends("ndjson", "gzip"), ends("csv", "zstd"), ends("csv", "snappy")], ["ndjson", "ndjson.gz", "csv.zst", "csv.sz"]);
    assert_eq!([ends("parquet", "snappy"), ends("arrow", "zstd"), ends("avro", "gzip")], ["parquet", "arrow", "avro"]);
    assert_eq!(Format::parse("csv", "gzip").unwrap().content_type(), "application/gzip");
    for compression in ["gzip", "snappy"] {
        let fault = Format::parse("arrow", compression).unwrap_err();
        assert_eq!((fault.kind, fault.field.as_str()), (ConfigFaultKind::Conflict, "options[\"file_compression\"]"));
        assert!(fault.message.contains("zstd or none"), "{}", fault.message);
    }
    let fault = Format::parse("parket", "none").unwrap_err();
    assert_eq!((fault.kind, fault.field.as_str()), (ConfigFaultKind::InvalidOption, "options[\"file_format\"]"));
    assert!(fault.message.contains("did you mean \"parquet\""), "{}", fault.message);
    assert_eq!(Format::parse("csv", "lz4").unwrap_err().field, "options[\"file_compression\"]");
}
