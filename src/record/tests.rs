//! Why: the room's promises hold across its files: dense offsets, hashes free of cuts, values that never change silently.

mod hostile_arrow;
mod lattice;

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::limits::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, RECORD_BYTES_MAX};

fn incoming(payload: Payload) -> Incoming {
    Incoming { payload, first_offset: 100, stated_count: None, change: Change::Update, event_time: None, traceparent: None }
}

fn ndjson(text: impl Into<Bytes>) -> Incoming {
    incoming(Payload::Ndjson(text.into()))
}

fn column(name: &str, column_type: ColumnType) -> Column {
    Column { name: name.to_owned(), column_type, nullable: true, max_length: 0, primary_key: false }
}

/// Each piece as text: the lines of good runs, or `!` and what was refused.
fn shown(pieces: &[Piece]) -> Vec<String> {
    pieces
        .iter()
        .map(|piece| match piece {
            Piece::Good(batch) => String::from_utf8(lines(batch).collect::<Vec<_>>().join(&b' ')).unwrap(),
            Piece::Bad(record) => format!("!{}", String::from_utf8_lossy(&record.original)),
        })
        .collect()
}

fn lines(batch: &Batch) -> impl Iterator<Item = Bytes> {
    let Records::Ndjson(lines) = batch.to_ndjson().unwrap().records else { unreachable!() };
    (0..lines.len()).map(move |index| lines.line(index))
}

fn assert_dense(pieces: &[Piece], first: Offset, count: usize) {
    let mut next = first;
    for piece in pieces {
        match piece {
            Piece::Good(batch) => {
                assert!(!batch.is_empty());
                assert_eq!(batch.first_offset, next);
                next = batch.next_offset();
            }
            Piece::Bad(record) => {
                assert_eq!((record.offset, record.index as u64), (next, next - first));
                next += 1;
            }
        }
    }
    assert_eq!(next, first + count as u64);
}

#[test]
fn good_lines_are_one_piece_that_shares_the_payload() {
    let payload = Bytes::from_static(b"{\"a\":1}\r\n  {\"a\":2}\t\n{\"a\":3}");
    let pieces = decode(ndjson(payload.clone()), None).unwrap();
    assert_eq!(shown(&pieces), [r#"{"a":1} {"a":2} {"a":3}"#]);
    let Piece::Good(batch) = &pieces[0] else { panic!() };
    assert_eq!((batch.first_offset, batch.change), (100, Change::Update));
    assert!(payload.as_ptr_range().contains(&lines(batch).next().unwrap().as_ptr()));
}

#[test]
fn bad_lines_are_isolated() {
    let pieces = decode(ndjson("{}\n{}\n\nnull\n{}\n{\"a\":}\n{}\n"), None).unwrap();
    assert_eq!(shown(&pieces), ["{} {}", "!", "!null", "{}", "!{\"a\":}", "{}"]);
    assert_dense(&pieces, 100, 7);
    let pieces = decode(ndjson(&b"{\"a\":\"\xff\"}\n{\"a\":\"\xc3\xbc\"}"[..]), None).unwrap();
    assert_eq!(shown(&pieces)[1], "{\"a\":\"ü\"}");
    let Piece::Bad(bad) = &pieces[0] else { panic!() };
    assert_eq!((bad.fault.kind, &bad.original[..]), (RecordFaultKind::Unparsable, &b"{\"a\":\"\xff\"}"[..]));
    assert!(decode(ndjson(""), None).unwrap().is_empty());
    assert_eq!(shown(&decode(ndjson("{}\n\n"), None).unwrap()), ["{}", "!"]);
}

#[test]
fn records_and_batches_have_their_sizes() {
    let sized = |len: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(len - 8));
    let kinds = |text: String| -> Vec<_> {
        let pieces = decode(ndjson(text), None).unwrap();
        pieces.into_iter().map(|piece| if let Piece::Bad(record) = piece { Some(record.fault.kind) } else { None }).collect()
    };
    assert_eq!(kinds(sized(RECORD_BYTES_MAX - 1)), [None]);
    assert_eq!(kinds(sized(RECORD_BYTES_MAX)), [None]);
    assert_eq!(kinds(sized(RECORD_BYTES_MAX + 1)), [Some(RecordFaultKind::TooLarge)]);
    assert!(decode(ndjson(vec![b'\n'; BATCH_BYTES_MAX + 1]), None).is_err_and(|error| matches!(error, DecodeError::TooLarge { .. })));
    assert_eq!(decode(ndjson("{}\n".repeat(BATCH_RECORDS_MAX)), None).unwrap().len(), 1);
    assert_eq!(decode(ndjson("{}\n".repeat(BATCH_RECORDS_MAX + 1)), None).unwrap_err(), DecodeError::TooManyRecords { limit: BATCH_RECORDS_MAX });
}

#[test]
fn counts_and_offsets_are_checked() {
    let stated = |stated| decode(Incoming { stated_count: Some(stated), ..ndjson("{}\nx\n") }, None);
    assert_eq!(stated(2).unwrap().len(), 2);
    assert_eq!(stated(3).unwrap_err(), DecodeError::CountMismatch { stated: 3, found: 2 });
    let from = |first_offset| decode(Incoming { first_offset, ..ndjson("{}\n{}\n") }, None);
    assert!(from(i64::MAX as u64 - 2).is_ok());
    assert!(from(i64::MAX as u64 - 1).is_err());
    assert!(from(u64::MAX).is_err());
}

fn object(fields: &[(&str, JsonValue)]) -> JsonObject {
    JsonObject(fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
}

#[test]
fn structs_become_the_text_a_person_would_write() {
    let number = JsonValue::Number;
    let nested = JsonValue::Array(vec![JsonValue::Null, number(-0.0), JsonValue::Object(object(&[("é\n", JsonValue::Bool(true))]))]);
    let objects = vec![
        object(&[("i", number(3.0)), ("f", number(0.1)), ("big", number(1e300)), ("n", nested)]),
        object(&[("ok", number(1.0)), ("bad", JsonValue::Array(vec![number(f64::NAN)]))]),
        JsonObject::default(),
    ];
    let pieces = decode(incoming(Payload::Json(objects)), None).unwrap();
    assert_eq!(shown(&pieces), [r#"{"i":3,"f":0.1,"big":1e+300,"n":[null,-0.0,{"é\n":true}]}"#, r#"!{"ok":1,"bad":["NaN"]}"#, "{}"]);
    let Piece::Bad(bad) = &pieces[1] else { panic!() };
    assert_eq!(bad.fault.column.as_deref(), Some("bad"));
    assert_dense(&pieces, 100, 3);
}

#[test]
fn structs_nest_as_deep_as_lines_do() {
    let nested = |levels: usize| (1..levels).fold(JsonValue::Null, |inner, _| JsonValue::Array(vec![inner]));
    let bad = |levels| matches!(decode(incoming(Payload::Json(vec![object(&[("a", nested(levels))])])), None).unwrap()[0], Piece::Bad(_));
    assert!(!bad(64));
    assert!(bad(65));
}

#[test]
fn typed_records_need_a_schema_and_its_types() {
    let schema = RecordSchema { columns: vec![Column { nullable: false, ..column("id", ColumnType::Int8) }, column("x", ColumnType::Float)] };
    let row = |id: TypedValue, x: TypedValue| vec![id, x];
    let records = vec![
        row(TypedValue::Int(-128), TypedValue::Double(0.1)),
        row(TypedValue::Int(128), TypedValue::Null),
        row(TypedValue::Null, TypedValue::Null),
        row(TypedValue::Uint(7), TypedValue::Double(f64::INFINITY)),
        row(TypedValue::Bool(true), TypedValue::Null),
        vec![TypedValue::Int(1)],
        row(TypedValue::Uint(127), TypedValue::Int(16_777_217)),
        row(TypedValue::Uint(127), TypedValue::Null),
    ];
    assert_eq!(decode(incoming(Payload::Typed(records.clone())), None).unwrap_err(), DecodeError::SchemaMissing);
    let pieces = decode(incoming(Payload::Typed(records)), Some(&schema)).unwrap();
    let expected =
        [r#"{"id":-128,"x":0.1}"#, "![128,null]", "![null,null]", "![7,\"inf\"]", "![true,null]", "![1]", "![127,16777217]", r#"{"id":127,"x":null}"#];
    assert_eq!(shown(&pieces), expected);
    let columns: Vec<_> = pieces.iter().filter_map(|piece| if let Piece::Bad(bad) = piece { Some(bad.fault.column.as_deref()) } else { None }).collect();
    assert_eq!(columns, [Some("id"), Some("id"), Some("x"), Some("id"), None, Some("x")]);
}

#[test]
fn records_are_checked_against_columns() {
    let schema = RecordSchema {
        columns: vec![
            column("i", ColumnType::Int64),
            column("d", ColumnType::Decimal { precision: 5, scale: 2 }),
            Column { max_length: 3, ..column("s", ColumnType::String) },
            column("t", ColumnType::Timestamp),
            column("f", ColumnType::Float),
            column("u", ColumnType::Uuid),
            Column { max_length: 2, ..column("b", ColumnType::Bytes) },
        ],
    };
    let fault = |record: &str| row::read(&schema, record.as_bytes()).err().map(|fault| fault.column.unwrap_or_default());
    for good in
        ["{}", r#"{"i":"-9223372036854775808"}"#, r#"{"i":-0}"#, r#"{"d":1.50,"s":"ab\n"}"#, r#"{"f":0.1,"d":"-999.99"}"#, r#"{"b":"AQI="}"#, r#"{"\u0069":1}"#]
    {
        assert_eq!(fault(good), None, "{good}");
    }
    let refused = [
        (r#"{"i":1.0}"#, "i"),
        (r#"{"i":1e3}"#, "i"),
        (r#"{"i":"+1"}"#, "i"),
        (r#"{"i":9223372036854775808}"#, "i"),
        (r#"{"i":true}"#, "i"),
        (r#"{"i":[1]}"#, "i"),
        (r#"{"d":1.505}"#, "d"),
        (r#"{"d":1000}"#, "d"),
        (r#"{"s":"abcd"}"#, "s"),
        (r#"{"s":1}"#, "s"),
        (r#"{"t":"2026-11-24T13:45:00"}"#, "t"),
        (r#"{"f":1e39}"#, "f"),
        (r#"{"u":"6f0c3a1e0d2b4c0e9a530d0f6f3e7b11"}"#, "u"),
        (r#"{"b":"AQID"}"#, "b"),
        (r#"{"b":"AQI"}"#, "b"),
        (r#"{"unknown":1}"#, "unknown"),
        (r#"{"i":1,"i":1}"#, "i"),
    ];
    for (record, column) in refused {
        assert_eq!(fault(record).as_deref(), Some(column), "{record}");
    }
}

#[tokio::test]
async fn arrow_is_decoded_off_the_thread() {
    let schema = RecordSchema { columns: vec![column("a", ColumnType::Int64)] };
    let Piece::Good(batch) = decode(ndjson("{\"a\":1}\n{}\n"), None).unwrap().remove(0) else { panic!() };
    let Records::Ndjson(rows) = &batch.records else { panic!() };
    let payload = encode(rows, Encoding::ArrowIpc, &schema).unwrap();
    let pieces = decode_off_thread(incoming(payload), Some(Arc::new(schema))).await.unwrap();
    assert_eq!(shown(&pieces), [r#"{"a":1} {"a":null}"#]);
}

proptest! {
    #[test]
    fn pieces_are_dense_and_hashes_free_of_cuts(good in prop::collection::vec(any::<bool>(), 0..60), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6), stored in any::<u64>()) {
        let text: String = good.iter().enumerate().map(|(index, good)| if *good { format!("{{\"n\":{index}}}\n") } else { "oops\n".to_owned() }).collect();
        let pieces = decode(ndjson(text.clone()), None).unwrap();
        assert_dense(&pieces, 100, good.len());
        let hash_of = |pieces: &[Piece], mut hash: RollingHash| {
            for piece in pieces {
                if let Piece::Good(batch) = piece {
                    batch.advance(&mut hash).unwrap();
                }
            }
            hash
        };
        let start = RollingHash::from_value(stored);
        let whole = hash_of(&pieces, start);
        let mut hash = start;
        let all: Vec<&str> = text.lines().collect();
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(all.len() + 1)).chain([0, all.len()]).collect();
        places.sort_unstable();
        for pair in places.windows(2) {
            let part: String = all[pair[0]..pair[1]].iter().flat_map(|line| [*line, "\n"]).collect();
            hash = RollingHash::from_value(hash_of(&decode(ndjson(part), None).unwrap(), hash).value());
        }
        prop_assert_eq!(whole, hash);
        prop_assert_eq!(whole == start, !good.contains(&true));
    }

    #[test]
    fn no_payload_panics(bytes in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'{'), Just(b'}'), Just(b'"'), any::<u8>()], 0..200)) {
        let count = bytes.iter().filter(|byte| **byte == b'\n').count() + usize::from(bytes.last().is_some_and(|byte| *byte != b'\n'));
        assert_dense(&decode(ndjson(bytes.clone()), None).unwrap(), 100, count);
        let _ = decode(incoming(Payload::ArrowIpc(bytes.into())), None);
    }
}
