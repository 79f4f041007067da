//! Why: what only one form or compression has, each with its pitfall. Never repeats what all forms share.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, DictionaryArray, Int32Array, StringArray, StructArray, Time64NanosecondArray, TimestampSecondArray, UInt64Array, types::Int32Type,
};

use super::*;

fn format(file: &str, compression: &str) -> Format {
    Format::parse(file, compression).unwrap()
}

#[test]
fn text_keeps_its_bytes() {
    let lines = ["{\"b\" : 1.0,  \"a\":\"\\u00e9\"}".to_owned(), "{}".to_owned()];
    assert_eq!(object(format("ndjson", "none"), None, &[ndjson(0, &lines)]), format!("{}\n{}\n", lines[0], lines[1]).into_bytes());
    let columns = arrow(0, vec![("a", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]);
    assert_eq!(object(format("ndjson", "none"), None, &[columns]), b"{\"a\":1}\n");
}

#[test]
fn compressed_text_says_nothing_about_when_and_where() {
    let gzip = object(format("ndjson", "gzip"), None, &[ndjson(0, &["{}".to_owned()])]);
    // Magic, deflate, no flags, no time, fastest, no operating system.
    assert_eq!(gzip[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255]);
    let zstd = object(format("ndjson", "zstd"), None, &[ndjson(0, &["{}".to_owned()])]);
    assert_eq!((&zstd[..4], zstd[4] & 4), (&[0x28, 0xb5, 0x2f, 0xfd][..], 4), "a checksum");
    assert_eq!(object(format("csv", "snappy"), Some(&every_type()), &[])[..10], *b"\xff\x06\x00\x00sNaPpY");
}

#[test]
fn a_flipped_bit_is_noticed() {
    let mut object = object(format("ndjson", "zstd"), None, &[ndjson(0, &["{\"a\":1}".to_owned()])]);
    let last = object.len() - 1;
    object[last] ^= 1;
    assert!(zstd::decode_all(&object[..]).is_err());
}

#[test]
fn parquet_says_who_wrote_it_and_closes_row_groups() {
    let (schema, lines) = many(1_000);
    let whole = object(format("parquet", "zstd"), Some(&schema), &[ndjson(0, &lines)]);
    let file = ::parquet::file::reader::SerializedFileReader::new(Bytes::from(whole)).unwrap();
    let metadata = ::parquet::file::reader::FileReader::metadata(&file);
    assert_eq!(metadata.file_metadata().created_by(), Some(concat!("datasink version ", env!("CARGO_PKG_VERSION"))));
    assert!(matches!(metadata.row_group(0).column(0).compression(), ::parquet::basic::Compression::ZSTD(_)));

    // Twenty-four MiB that do not compress are more than a row group, so some of it is out before the end.
    let mut encoder = format("parquet", "none").encoder(None).unwrap();
    let mut parts = Vec::new();
    for number in 0..24_u64 {
        let block: Vec<String> = (0..16_u64).map(|row| format!("{:08}", number * 16 + row).repeat(65_536 / 8)).collect();
        encoder.append(&arrow(number * 16, vec![("v", Arc::new(StringArray::from(block)) as ArrayRef)])).unwrap();
        parts.extend(encoder.take());
    }
    assert!(!parts.is_empty());
    parts.extend(encoder.finish().unwrap());
    let file = ::parquet::file::reader::SerializedFileReader::new(Bytes::from(joined(parts))).unwrap();
    assert!(::parquet::file::reader::FileReader::num_row_groups(&file) > 1);
}

#[test]
fn small_appends_do_not_make_small_record_batches_or_blocks() {
    let (schema, lines) = many(5_000);
    let one_by_one: Vec<_> = (0..).zip(&lines).map(|(offset, line)| ndjson(offset, std::slice::from_ref(line))).collect();
    for file in ["arrow", "avro"] {
        let apart = object(format(file, "none"), Some(&schema), &one_by_one).len();
        let together = object(format(file, "none"), Some(&schema), &[ndjson(0, &lines)]).len();
        assert!(apart.abs_diff(together) < together / 50, "{file}: {apart} and {together}");
    }
}

#[test]
fn dictionaries_are_written_as_their_values() {
    let of = |words: Vec<Option<&str>>| {
        let numbers: Int64Array = (0..words.len() as i64).map(Some).collect();
        let words: DictionaryArray<Int32Type> = words.into_iter().collect();
        arrow(0, vec![("d", Arc::new(words) as ArrayRef), ("n", Arc::new(numbers) as ArrayRef)])
    };
    let batches = [of(vec![Some("a"), None, Some("b")]), of(vec![Some("c"), Some("a")])];
    let schema = RecordSchema { columns: vec![column("d", ColumnType::String), column("n", ColumnType::Int64)] };
    for format in formats() {
        let found = read(format, object(format, None, &batches), &schema).unwrap();
        assert_eq!(found.column(0).as_ref(), &StringArray::from(vec![Some("a"), None, Some("b"), Some("c"), Some("a")]) as &dyn Array, "{format:?}");
    }
}

#[test]
fn csv_of_one_column_cannot_tell_null_from_the_empty_text() {
    let texts = arrow(0, vec![("d", Arc::new(StringArray::from(vec![Some("a"), None, Some("")])) as ArrayRef)]);
    assert_eq!(object(format("csv", "none"), None, &[texts]), b"d\r\na\r\n\"\"\r\n\"\"\r\n");
}

#[test]
fn a_dictionary_whose_values_hold_null_is_refused_where_null_is() {
    let values = StringArray::from(vec![Some("a"), None]);
    let array = DictionaryArray::new(Int32Array::from(vec![0, 1, 0]), Arc::new(values) as ArrayRef);
    let schema = Schema::new(vec![Field::new("d", array.data_type().clone(), false)]);
    let columns = RecordBatch::try_new(Arc::new(schema), vec![Arc::new(array)]).unwrap();
    for format in formats().into_iter().filter(|format| format.file != FileFormat::Ndjson) {
        let error = format.encoder(None).unwrap().append(&batch(5, Records::Arrow(columns.clone()))).unwrap_err();
        assert_eq!(error.records.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [6], "{format:?}: {error}");
    }
}

#[test]
fn avro_names_the_record_that_it_cannot_hold() {
    let times = |seconds: Vec<i64>| arrow(7, vec![("t", Arc::new(TimestampSecondArray::from(seconds)) as ArrayRef)]);
    let mut encoder = format("avro", "none").encoder(None).unwrap();
    encoder.append(&times(vec![1])).unwrap();
    let error = encoder.append(&times(vec![2, i64::MAX, 3])).unwrap_err();
    assert_eq!(error.records.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [8], "{error}");
    encoder.append(&times(vec![2, 3])).unwrap();
    let object = joined(encoder.finish().unwrap());
    let rows: usize = arrow_avro::reader::ReaderBuilder::new().build(std::io::Cursor::new(object)).unwrap().map(|batch| batch.unwrap().num_rows()).sum();
    assert_eq!(rows, 3);
}

#[test]
fn avro_takes_odd_names_and_refuses_what_it_would_lose() {
    let one = || Arc::new(UInt64Array::from(vec![u64::MAX])) as ArrayRef;
    let encoded = object(format("avro", "none"), None, &[arrow(0, vec![("a.b", one()), ("1", one())])]);
    let text = String::from_utf8_lossy(&encoded);
    assert!(text.contains("\"name\":\"a_b\"") && text.contains("\"name\":\"_1\"") && text.contains("\"precision\":20"), "{text}");

    let refused = |columns| format("avro", "none").encoder(None).unwrap().append(&arrow(0, columns)).unwrap_err();
    let error = refused(vec![("a.b", one()), ("a:b", one())]);
    assert_eq!(error.kind, ConnectorErrorKind::SchemaMismatch);
    assert!(error.message.contains("\"a.b\"") && error.message.contains("\"a:b\""), "{error}");
    let inner =
        StructArray::from(vec![(Arc::new(Field::new("x-y", DataType::UInt64, true)), one()), (Arc::new(Field::new("x.y", DataType::UInt64, true)), one())]);
    assert!(refused(vec![("s", Arc::new(inner))]).message.contains("\"x.y\""));
    let nanoseconds = refused(vec![("t", Arc::new(Time64NanosecondArray::from(vec![1])) as ArrayRef)]);
    assert_eq!(nanoseconds.kind, ConnectorErrorKind::SchemaMismatch);
    assert!(nanoseconds.message.contains("\"t\""), "{nanoseconds}");
}

#[test]
fn what_a_sender_says_about_its_columns_changes_no_file_but_its_own() {
    let column = Int64Array::from(vec![1]);
    let metadata = [("avro.name", "evil"), ("doc", "x"), ("logicalType", "timestamp-micros")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let field = Field::new("a", DataType::Int64, true).with_metadata(metadata.into());
    let schema = Schema::new_with_metadata(vec![field], [("avro.schema".to_owned(), "\"string\"".to_owned())].into());
    let columns = RecordBatch::try_new(Arc::new(schema), vec![Arc::new(column.clone())]).unwrap();
    let plain = object(format("avro", "none"), None, &[arrow(0, vec![("a", Arc::new(column) as ArrayRef)])]);
    assert_eq!(object(format("avro", "none"), None, &[batch(0, Records::Arrow(columns))]), plain);
}
