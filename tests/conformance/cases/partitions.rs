//! Why: records that say where they lie are each found once in the place that they name, and count only once a manifest says so. Never trusts a folder that no manifest tells of.

use datasink::api::pb::{Column, ColumnType, OpenStream, RecordDisposition, RecordErrorPolicy, RecordSchema};

use crate::{
    kind::{Kind, Target},
    stream::Stream,
    world::{Sent, World, create_sink},
};

/// Records of one value in one push.
const RECORDS_A_VALUE: u64 = 8;
/// Paths of the unit that is broken, and its records of one path: more objects than go up at once, each long under way.
const PATHS: u64 = 12;
const RECORDS_A_PATH: u64 = 12;
const PAD: usize = 5_000;

/// What could name another place than its own, or none.
fn values() -> Vec<String> {
    let hard =
        ["eu", "b/../c", "../../etc", "/", "", ".", "..", "_tmp", ".plan", "100%", "%2F", "%", "a=b", "a b", "ü ☃", "line\nend", "\u{202e}abc", "C:\\x", "eu/"];
    hard.into_iter().map(str::to_owned).chain(["v".repeat(240)]).collect()
}

fn schema() -> RecordSchema {
    let column = |name: &str, column_type: ColumnType| Column { name: name.to_owned(), r#type: column_type.into(), nullable: true, ..Column::default() };
    RecordSchema { columns: vec![column("n", ColumnType::Int64), column("pad", ColumnType::String), column("region", ColumnType::String)] }
}

/// The reader fails where a record is not in the place of its region, or an object is not what its manifest says.
pub async fn partitions_by_value(kind: &dyn Kind) {
    let world = World::bare(kind).await;
    let (mut sent, mut first) = (Sent::default(), 0);
    for (index, form) in world.target.forms().into_iter().enumerate() {
        let name = format!("default.form_{index}");
        create_sink(&world.admin(), &name, &world.target.sink().with(form)).await.expect("the sink is made");
        first = by_value(&world, &name, &mut sent, first).await;
    }
    world.check(&sent).await;
}

async fn by_value(world: &World, sink: &str, sent: &mut Sent, first: u64) -> u64 {
    let values = values();
    let open = OpenStream { record_error_policy: RecordErrorPolicy::Skip.into(), schema: Some(schema()), ..crate::stream::open(sink, sink) };
    let (mut stream, opened) = Stream::open(&world.admin(), open).await;
    assert_eq!(opened.delivery(), world.promises.guarantee, "{}", opened.delivery_basis);
    let count = RECORDS_A_VALUE * values.len() as u64;
    let mut lines = String::new();
    for n in 0..count {
        let region = &values[usize::try_from(n).expect("small") % values.len()];
        lines += &sent.record(first + n, serde_json::json!({ "n": first + n, "pad": format!("{n} \"ü\""), "region": region }));
        lines.push('\n');
    }
    // No place is as long as this one's.
    lines += &format!("{{\"n\":{},\"pad\":\"\",\"region\":\"{}\"}}\n", first + count, "w".repeat(300));
    stream.lines(0, &lines).await;
    stream.flush("all").await;
    let errors = stream.record_errors().await.errors;
    assert_eq!(errors.iter().map(|error| error.offset.unsigned_abs()).collect::<Vec<_>>(), [count]);
    assert_eq!(errors[0].disposition(), RecordDisposition::Skipped);
    assert!(errors[0].message.contains("region"), "it names the field: {}", errors[0].message);
    let counts = stream.flushed("all").await.counts.unwrap();
    assert_eq!((counts.delivered_records, counts.rejected_records), (count.cast_signed(), 1));
    stream.half_close();
    assert_eq!(stream.ended().await.next_offset.unsigned_abs(), count + 1);
    first + count + 1
}

/// The server dies when some objects of a unit are there and its manifest is not: they count for nothing, then and later.
pub async fn partitions_counted_by_manifest(kind: &dyn Kind) {
    let (mut world, mut sent) = (World::new(kind).await, Sent::default());
    let (mut stream, _) = Stream::open(&world.admin(), world.open("broken")).await;
    stream.lines(0, &sent.lines(0..50)).await;
    stream.flush("whole").await;
    stream.flushed("whole").await;
    assert_eq!(world.target.unnamed().await, 0, "of a unit that is whole everything is named");
    let whole = sent.clone();
    world.target.slow().await;
    let lines = large(&mut sent, 50, 50 + PATHS * RECORDS_A_PATH);
    stream.lines(50, &lines).await;
    stream.flush("broken").await;
    until_some_are_there(&*world.target).await;
    world.kill().await;
    drop(stream);
    assert!(world.target.unnamed().await > 0, "objects are there that no manifest names");
    world.check(&whole).await;
    world.target.up().await;
    let (mut stream, opened) = Stream::open(&world.admin(), world.open("broken")).await;
    assert_eq!(opened.next_offset, 50, "what no manifest names is not committed");
    // In other cuts, so that most objects of before are named by nobody for good.
    let (one, two) = (large(&mut sent, 50, 93), large(&mut sent, 93, 50 + PATHS * RECORDS_A_PATH));
    stream.lines(50, &one).await;
    stream.flush("one").await;
    stream.flushed("one").await;
    stream.lines(93, &two).await;
    stream.flush("two").await;
    assert_eq!(stream.flushed("two").await.next_offset.unsigned_abs(), 50 + PATHS * RECORDS_A_PATH);
    assert!(world.target.unnamed().await > 0, "and they stay unnamed");
    world.check(&sent).await;
}

fn large(sent: &mut Sent, from: u64, to: u64) -> String {
    let line = |n: u64| serde_json::json!({ "n": n, "pad": "x".repeat(PAD), "region": format!("path {}", n % PATHS) });
    (from..to).map(|n| sent.record(n, line(n)) + "\n").collect()
}

async fn until_some_are_there(target: &dyn Target) {
    while target.unnamed().await == 0 {}
}
