//! Why: every type through every encoding: what comes back is equal, or was refused with the column's name.

use proptest::{prelude::*, sample::select};

use super::*;

fn column_type() -> impl Strategy<Value = ColumnType> {
    use ColumnType as T;
    let plain = select(vec![
        T::Bool,
        T::Int8,
        T::Int16,
        T::Int32,
        T::Int64,
        T::Uint64,
        T::Float,
        T::Double,
        T::String,
        T::Bytes,
        T::Date,
        T::Time,
        T::Timestamp,
        T::Uuid,
        T::Json,
    ]);
    prop_oneof![
        plain,
        (1..=38_u8, any::<prop::sample::Index>())
            .prop_map(|(precision, scale)| T::Decimal { precision, scale: u8::try_from(scale.index(usize::from(precision) + 1)).unwrap() })
    ]
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> TypedValue {
    let mut out = Vec::new();
    write(&mut out);
    TypedValue::String(String::from_utf8(out).unwrap())
}

/// A value that fits, in the one form that a reader is given.
fn fitting(column_type: ColumnType) -> BoxedStrategy<TypedValue> {
    use ColumnType as T;
    const DAY: i64 = 86_400_000_000;
    match column_type {
        T::Bool => any::<bool>().prop_map(TypedValue::Bool).boxed(),
        T::Int8 => any::<i8>().prop_map(|n| TypedValue::Int(n.into())).boxed(),
        T::Int16 => any::<i16>().prop_map(|n| TypedValue::Int(n.into())).boxed(),
        T::Int32 => any::<i32>().prop_map(|n| TypedValue::Int(n.into())).boxed(),
        T::Int64 => prop_oneof![any::<i64>(), Just(i64::MIN), Just(i64::MAX), Just((1 << 53) + 1)].prop_map(TypedValue::Int).boxed(),
        T::Uint64 => prop_oneof![any::<u64>(), Just(u64::MAX)].prop_map(TypedValue::Uint).boxed(),
        T::Float => any::<f32>().prop_filter("finite", |x| x.is_finite()).prop_map(|x| TypedValue::Double(x.into())).boxed(),
        T::Double => {
            prop_oneof![any::<f64>(), Just(-0.0), Just(f64::MIN_POSITIVE / 2.0)].prop_filter("finite", |x| x.is_finite()).prop_map(TypedValue::Double).boxed()
        }
        T::Decimal { precision, scale } => {
            let bound = 10_i128.pow(precision.into());
            ((1 - bound)..bound).prop_map(move |unscaled| written(|out| scalar::write_decimal(unscaled, scale, out))).boxed()
        }
        T::String => any::<String>().prop_map(TypedValue::String).boxed(),
        T::Bytes => any::<Vec<u8>>().prop_map(|bytes| TypedValue::Bytes(bytes.into())).boxed(),
        T::Date => (-719_528..=2_932_896_i64).prop_map(|days| written(|out| scalar::write_date(days, out).unwrap())).boxed(),
        T::Time => (0..DAY).prop_map(|micros| written(|out| scalar::write_time(micros * 1_000, out).unwrap())).boxed(),
        T::Timestamp => (-719_528 * DAY..2_932_897 * DAY).prop_map(|micros| TypedValue::Timestamp(Timestamp::from_micros(micros))).boxed(),
        T::Uuid => any::<u128>().prop_map(|bits| TypedValue::String(uuid::Uuid::from_u128(bits).to_string())).boxed(),
        T::Json => select(vec!["1", "\"x\\n\"", "[1, {\"a\":null}]", "{}", "18446744073709551615", "-0.5e3"])
            .prop_map(|text| TypedValue::String(text.to_owned()))
            .boxed(),
    }
}

/// Any value of any kind, fitting or not.
fn any_value() -> impl Strategy<Value = TypedValue> {
    let text = prop_oneof![any::<String>(), "[0-9.eE+-]{0,12}", "[0-9T:Z.-]{0,30}", "[A-Za-z0-9+/=]{0,12}"];
    prop_oneof![
        Just(TypedValue::Null),
        any::<bool>().prop_map(TypedValue::Bool),
        any::<i64>().prop_map(TypedValue::Int),
        any::<u64>().prop_map(TypedValue::Uint),
        any::<f64>().prop_map(TypedValue::Double),
        text.prop_map(TypedValue::String),
        any::<Vec<u8>>().prop_map(|bytes| TypedValue::Bytes(bytes.into())),
        any::<i64>().prop_map(|micros| TypedValue::Timestamp(Timestamp::from_micros(micros))),
    ]
}

fn table() -> impl Strategy<Value = (RecordSchema, Vec<Vec<TypedValue>>)> {
    prop::collection::vec(column_type(), 1..6).prop_flat_map(|types| {
        let cells: Vec<_> = types.iter().map(|column_type| prop::option::of(fitting(*column_type)).prop_map(|cell| cell.unwrap_or(TypedValue::Null))).collect();
        let columns = types.iter().enumerate().map(|(index, column_type)| column(&format!("c{index}"), *column_type)).collect();
        (Just(RecordSchema { columns }), prop::collection::vec(cells, 1..8))
    })
}

fn only_good(payload: Payload, schema: &RecordSchema) -> Batch {
    let mut pieces = decode(incoming(payload), Some(schema)).unwrap();
    assert_eq!(pieces.len(), 1, "{pieces:?}");
    match pieces.remove(0) {
        Piece::Good(batch) => batch,
        Piece::Bad(record) => panic!("{record:?}"),
    }
}

fn encoded(batch: &Batch, encoding: Encoding, schema: &RecordSchema) -> Payload {
    let Records::Ndjson(rows) = batch.to_ndjson().unwrap().records else { unreachable!() };
    encode(&rows, encoding, schema).unwrap()
}

fn typed(batch: &Batch, schema: &RecordSchema) -> Vec<Vec<TypedValue>> {
    let Payload::Typed(values) = encoded(batch, Encoding::Typed, schema) else { unreachable!() };
    values
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn every_encoding_gives_back_what_it_was_given((schema, values) in table()) {
        let batch = only_good(Payload::Typed(values.clone()), &schema);
        prop_assert_eq!(&typed(&batch, &schema), &values);
        let text: Vec<Bytes> = lines(&batch).collect();

        let again = only_good(encoded(&batch, Encoding::Ndjson, &schema), &schema);
        prop_assert_eq!(lines(&again).collect::<Vec<_>>(), text.clone());

        let columns = only_good(encoded(&batch, Encoding::ArrowIpc, &schema), &schema);
        prop_assert!(matches!(columns.records, Records::Arrow(_)));
        prop_assert_eq!(lines(&columns).collect::<Vec<_>>(), text.clone());
        prop_assert_eq!(typed(&columns.to_arrow(&schema).unwrap(), &schema), values.clone());
        prop_assert_eq!(columns.original(0), text[0].clone());
        let (mut by_text, mut by_columns) = (RollingHash::default(), RollingHash::default());
        batch.advance(&mut by_text).unwrap();
        columns.advance(&mut by_columns).unwrap();
        prop_assert_eq!(by_text, by_columns);

        // As doubles: integers beyond 2^53 in JSON columns come back as strings, all else equal.
        let structs = typed(&only_good(encoded(&batch, Encoding::Json, &schema), &schema), &schema);
        for (row, expected) in structs.iter().zip(&values) {
            for ((value, expected), column) in row.iter().zip(expected).zip(&schema.columns) {
                if column.column_type != ColumnType::Json {
                    prop_assert_eq!(value, expected);
                }
            }
        }
    }

    #[test]
    fn any_value_fits_or_is_refused(column_type in column_type(), value in any_value()) {
        let schema = RecordSchema { columns: vec![column("c", column_type)] };
        let mut pieces = decode(incoming(Payload::Typed(vec![vec![value.clone()]])), Some(&schema)).unwrap();
        match pieces.remove(0) {
            Piece::Bad(record) => prop_assert_eq!(record.fault.column.as_deref(), Some("c")),
            Piece::Good(batch) => {
                let once = typed(&batch, &schema);
                let twice = typed(&only_good(Payload::Typed(once.clone()), &schema).to_arrow(&schema).unwrap(), &schema);
                prop_assert_eq!(&once, &twice);
                let same = match (&value, &once[0][0]) {
                    (TypedValue::Int(a), TypedValue::Uint(b)) => i128::from(*a) == i128::from(*b),
                    (TypedValue::Uint(a), TypedValue::Int(b)) => i128::from(*a) == i128::from(*b),
                    (TypedValue::Int(a), TypedValue::Double(b)) => *a as i128 == *b as i128,
                    (TypedValue::Uint(a), TypedValue::Double(b)) => *a as i128 == *b as i128,
                    (TypedValue::Double(a), TypedValue::Double(b)) if column_type == ColumnType::Float => *a as f32 == *b as f32,
                    // Another spelling of a decimal, an instant, a time.
                    (TypedValue::String(_) | TypedValue::Int(_) | TypedValue::Uint(_), TypedValue::String(_) | TypedValue::Timestamp(_)) if column_type != ColumnType::String => true,
                    (a, b) => a == b,
                };
                prop_assert!(same, "{value:?} became {once:?}");
            }
        }
    }

    #[test]
    fn any_text_fits_or_is_refused(column_type in column_type(), raw in "-?[0-9]{1,25}(\\.[0-9]{1,8})?([eE][+-]?[0-9]{1,3})?|\"[0-9a-zA-Z:.+/= -]{0,30}\"|true|null|\\[\\]") {
        let schema = RecordSchema { columns: vec![column("c", column_type)] };
        let line = format!("{{\"c\":{raw}}}");
        if decode(ndjson(line.clone()), None).is_ok_and(|pieces| matches!(pieces[0], Piece::Good(_))) {
            let batch = only_good(Payload::Ndjson(line.clone().into()), &schema);
            match (row::read(&schema, line.as_bytes()).map(drop), batch.to_arrow(&schema)) {
                (Ok(()), Ok(columns)) => prop_assert_eq!(typed(&batch, &schema), typed(&columns, &schema)),
                (Err(one), Err(RecordFaults(other))) => prop_assert_eq!(vec![(100, one)], other),
                (one, other) => prop_assert!(false, "{one:?} {other:?}"),
            }
        }
    }
}
