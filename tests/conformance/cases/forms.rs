//! Why: every form and compression of objects is opened by readers that are not ours and holds the values that were sent. Never compares bytes: strangers read values.

use std::collections::BTreeMap;

use datasink::api::pb::{Column, ColumnType, OpenStream, RecordSchema};
use serde_json::{Value, json};

use crate::{
    kind::Kind,
    stream::{Stream, open},
    world::{World, create_sink},
};

const RECORDS: u64 = 500;
/// Records of one batch, so that a form of columns has more than one piece.
const BATCH: u64 = 137;

fn schema() -> RecordSchema {
    let column = |name: &str, column_type: ColumnType| Column { name: name.to_owned(), r#type: column_type.into(), nullable: true, ..Column::default() };
    let columns = vec![
        column("n", ColumnType::Int64),
        column("large", ColumnType::Int64),
        column("unsigned", ColumnType::Uint64),
        column("ratio", ColumnType::Double),
        column("flag", ColumnType::Bool),
        column("text", ColumnType::String),
        column("at", ColumnType::Timestamp),
        column("day", ColumnType::Date),
        column("nested", ColumnType::Json),
    ];
    RecordSchema { columns }
}

/// Numbers that a double cannot hold, nulls, the empty text, what is not ASCII, a value in a value, instants before 1970.
fn record(n: u64) -> Value {
    let texts = ["", "ü ☃ 𝄞", "a,b;\"c\"\r\nd", " outside ", "null", "plain"];
    let sign = if n.is_multiple_of(2) { 1 } else { -1 };
    let small = n.cast_signed();
    let or_null = |null: bool, value: Value| if null { Value::Null } else { value };
    json!({
        "n": n,
        "large": or_null(n % 7 == 3, json!(sign * (9_007_199_254_740_993 + small))),
        "unsigned": or_null(n % 11 == 4, json!(u64::MAX - n)),
        "ratio": or_null(n % 5 == 1, json!(-2.5 * f64::from(u32::try_from(n).expect("small")))),
        "flag": or_null(n % 3 == 2, json!(n.is_multiple_of(2))),
        "text": or_null(n % 13 == 5, json!(texts[usize::try_from(n).expect("small") % texts.len()])),
        "at": or_null(n % 17 == 6, json!(format!("{}-11-24T13:45:{:02}.{:06}Z", 1950 + n % 100, n % 60, n * 997))),
        "day": or_null(n % 19 == 7, json!(format!("{}-02-28", 1960 + n % 100))),
        "nested": or_null(n % 4 == 3, json!({ "list": [n, null, -1.5], "text": "ü", "deep": { "empty": {} } })),
    })
}

pub async fn forms_read_by_strangers(kind: &dyn Kind) {
    let world = World::bare(kind).await;
    let forms = world.target.forms();
    for (index, form) in forms.iter().enumerate() {
        let name = format!("default.form_{index}");
        // One object a form, so that order within it is told too.
        let options = form.iter().cloned().chain([("max_object_age".to_owned(), "60".to_owned())]).collect();
        create_sink(&world.admin(), &name, &world.target.sink().with(options)).await.expect("the sink is made");
        let (mut stream, _) = Stream::open(&world.admin(), OpenStream { schema: Some(schema()), ..open(&name, "forms") }).await;
        for first in (0..RECORDS).step_by(usize::try_from(BATCH).expect("small")) {
            let lines: String = (first..RECORDS.min(first + BATCH)).map(|n| record(n).to_string() + "\n").collect();
            stream.lines(first, &lines).await;
        }
        stream.flush("all").await;
        assert_eq!(stream.flushed("all").await.next_offset.unsigned_abs(), RECORDS);
    }
    let mut places: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for seen in world.read().await {
        places.entry(seen.place).or_default().push(seen.record);
    }
    assert_eq!(places.len(), forms.len(), "an object a form");
    for (index, form) in forms.iter().enumerate() {
        let found = places.iter().find(|(place, _)| place.contains(&format!("/form_{index}/"))).map(|(_, records)| records.as_slice()).unwrap_or_default();
        for (n, found) in (0..).zip(found) {
            assert_eq!(found, &record(n), "record {n} of {form:?}");
        }
        assert_eq!(found.len() as u64, RECORDS, "{form:?}");
    }
}
