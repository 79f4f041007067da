//! Why: where records say where they lie, the manifests of a stream name each of its records once, whatever happens between the objects and the manifest. Never a network, but for one test.

use super::*;
use crate::{
    connectors::object::manifest::Manifest,
    limits::{OBJECT_GROUPS_MAX, OBJECTS_OF_A_UNIT_MAX},
    record::{Column, ColumnType, RecordSchema},
};

const TEMPLATE: (&str, &str) = ("path_template", "x/{stream}/r={field:r}");

fn world_with(given: &[(&str, &str)]) -> World {
    World { options: options(&[&[TEMPLATE], given].concat()), ..World::new() }
}

fn world() -> World {
    world_with(&[])
}

/// Records of the two paths in turns.
fn parted(range: Range<Offset>) -> Vec<String> {
    range.map(|n| format!(r#"{{"n":{n},"r":"{}"}}"#, if n % 2 == 0 { "a" } else { "b/c" })).collect()
}

fn parted_mark(next: Offset) -> Mark {
    let mut hash = RollingHash::default();
    parted(0..next).iter().for_each(|text| hash.add(text.as_bytes()));
    Mark { next, hash: hash.value(), ..Mark::default() }
}

async fn write_parted(writer: &mut Box<dyn SinkWriter>, range: Range<Offset>) -> Result<Outcome, ConnectorError> {
    writer.append(&records_of(&parted(range.clone()), range.start)).await?;
    writer.commit(parted_mark(range.end)).await
}

async fn push_parted(session: &Session, range: Range<Offset>) {
    session.input.send(batch(Some(range.start), &parted(range))).await.expect("the session is open");
}

impl World {
    async fn manifests(&self) -> Vec<Manifest> {
        let mut manifests = Vec::new();
        for key in self.store.keys().await.iter().filter(|key| key.contains("/_manifests/")) {
            manifests.push(serde_json::from_str(&self.store.text(key).await).expect("a manifest"));
        }
        manifests
    }

    /// The records that manifests name, by their number, after each object was found to be what its entry says.
    async fn named(&self) -> Vec<Offset> {
        let mut found = Vec::new();
        for entry in self.manifests().await.iter().flat_map(|manifest| &manifest.objects) {
            let text = self.store.text(&entry.key).await;
            assert_eq!((text.lines().count() as u64, text.len() as u64), (entry.record_count, entry.byte_count));
            for line in text.lines() {
                let record: serde_json::Value = serde_json::from_str(line).expect("JSON");
                let folder = if record["r"] == "a" { "x/s/r=a/" } else { "x/s/r=b%2Fc/" };
                assert!(entry.key.starts_with(folder), "{} holds {line}", entry.key);
                found.push(record["n"].as_u64().expect("a number"));
            }
        }
        found.sort_unstable();
        found
    }

    async fn open_with(&self, schema: RecordSchema) -> Opened {
        let terms =
            Terms { commit_mode: CommitMode::Continuous, key_columns: Vec::new(), schema: Some(schema), options: Options::default(), noted: Noted::default() };
        let (connector, cx) = self.connect().await.expect("a connector");
        connector.open(&cx, &self.stream(), Epoch(1), &terms).await.expect("it opens")
    }
}

fn all(range: Range<Offset>) -> Vec<Offset> {
    range.collect()
}

#[tokio::test]
async fn a_unit_becomes_an_object_a_path_and_a_manifest() {
    let world = world();
    let mut opened = world.open().await;
    assert_eq!((opened.mark, opened.delivery.guarantee), (FoundMark::Missing, Guarantee::ExactlyOnce));
    assert!(opened.delivery.basis.contains("who lists folders"), "{}", opened.delivery.basis);
    let first = write_parted(&mut opened.writer, 0..5).await.expect("written");
    let second = write_parted(&mut opened.writer, 5..8).await.expect("written");
    assert_eq!((world.named().await, world.objects().await.len(), world.manifests().await.len()), (all(0..8), 4, 2));
    let receipts: Vec<_> = second.artifacts.iter().map(|receipt| (receipt.first_offset, receipt.record_count)).collect();
    assert_eq!(receipts, [(5, 2), (6, 1), (5, 0)], "an object each, and the manifest, which counts no record");
    assert!(second.artifacts[0].uri.starts_with("s3://b/x/s/r=b%2Fc/00000000000000000005-"), "{second:?}");
    assert!(second.artifacts[2].uri.starts_with("s3://b/x/s/_manifests/00000000000000000005-") && second.artifacts[2].uri.ends_with(".json"), "{second:?}");
    assert_eq!(second.bytes, second.artifacts.iter().map(|receipt| receipt.byte_count).sum::<u64>());
    for (next, outcome) in [(0, &Outcome::default()), (5, &first), (8, &second)] {
        let noted = Noted { mark: parted_mark(next), here: true, receipts: outcome.artifacts.clone() };
        let again = world.try_open(CommitMode::Continuous, noted).await.expect("it opens");
        assert_eq!((again.mark, again.epoch), (FoundMark::At(parted_mark(8)), Epoch(2)));
    }
}

#[tokio::test]
async fn opening_by_the_noted_manifest_costs_a_few_requests() {
    let world = world();
    let mut opened = world.open().await;
    let mut last = Outcome::default();
    for offset in 0..50 {
        last = write_parted(&mut opened.writer, offset..offset + 1).await.expect("written");
    }
    let before = world.store.requests();
    let noted = Noted { mark: parted_mark(50), here: true, receipts: last.artifacts[last.artifacts.len() - 1..].to_vec() };
    world.try_open(CommitMode::Continuous, noted).await.expect("it opens");
    assert!(world.store.requests() - before <= 6, "{}", world.store.requests() - before);
}

#[tokio::test]
async fn a_lost_reply_of_a_manifest_is_unclear_and_the_unit_counts() {
    let world = world();
    let mut opened = world.open().await;
    world.store.at_next_manifests([Fault::ReplyLost]);
    assert_eq!(write_parted(&mut opened.writer, 0..4).await.expect_err("the reply was lost").class, ErrorClass::Destination);
    let mut again = world.open().await;
    assert_eq!(again.mark, FoundMark::At(parted_mark(4)));
    write_parted(&mut again.writer, 4..6).await.expect("written");
    assert_eq!(world.named().await, all(0..6));
}

#[tokio::test]
async fn what_broke_off_before_its_manifest_counts_for_nothing() {
    let world = world();
    let mut opened = world.open().await;
    world.store.at_next_manifests([Fault::Refused]);
    assert!(write_parted(&mut opened.writer, 0..4).await.is_err());
    assert_eq!((world.named().await, world.objects().await.len()), (all(0..0), 2));
    let mut again = world.open().await;
    assert_eq!(again.mark, FoundMark::Missing);
    write_parted(&mut again.writer, 0..3).await.expect("in another cut");
    write_parted(&mut again.writer, 3..6).await.expect("written");
    assert_eq!(world.named().await, all(0..6));
    assert_eq!(
        world.objects().await.len(),
        5,
        "of the unit that broke off, an object that no manifest names: its other one has the same content as one that is named"
    );
}

#[tokio::test]
async fn an_object_that_fails_leaves_no_manifest() {
    let world = world();
    let mut opened = world.open().await;
    world.store.at_next_puts([Fault::ReplyLost]);
    assert!(write_parted(&mut opened.writer, 0..4).await.is_err());
    assert!(world.manifests().await.is_empty());
    let mut again = world.open().await;
    let outcome = write_parted(&mut again.writer, 0..4).await.expect("what is there already is what was wanted");
    assert!(outcome.artifacts.iter().all(|receipt| receipt.attributes.iter().any(|(name, _)| name == "etag")), "{outcome:?}");
    assert_eq!((world.named().await, world.objects().await.len()), (all(0..4), 2));
}

#[tokio::test(start_paused = true)]
async fn a_manifest_is_never_created_before_its_objects_nor_before_the_one_ahead() {
    let world = world();
    let mut opened = world.open().await;
    world.store.at_next_puts([Fault::Hang]);
    opened.writer.append(&records_of(&parted(0..2), 0)).await.expect("taken");
    let mut first = opened.writer.commit(parted_mark(2));
    opened.writer.append(&records_of(&parted(2..4), 2)).await.expect("taken");
    let mut second = opened.writer.commit(parted_mark(4));
    assert!(timeout(Duration::from_secs(60), async { tokio::join!(&mut first, &mut second) }).await.is_err());
    assert!(world.manifests().await.is_empty());
    drop(first);
    assert_eq!(second.await.expect_err("the one ahead never came").kind, Kind::Unknown);
    assert!(world.manifests().await.is_empty());
}

#[tokio::test]
async fn a_twin_counts_as_our_own_and_another_cut_does_not() {
    let world = world();
    let (mut one, mut two, mut three) = (world.open().await, world.open().await, world.open().await);
    let first = write_parted(&mut one.writer, 0..4).await.expect("written");
    let again = write_parted(&mut two.writer, 0..4).await.expect("the same records up to the same mark");
    assert_eq!(again.artifacts, first.artifacts);
    assert_eq!(write_parted(&mut three.writer, 0..3).await.expect_err("another cut").kind, Kind::Unknown);
    write_parted(&mut two.writer, 4..6).await.expect("and it goes on");
    assert_eq!(world.named().await, all(0..6));
}

#[tokio::test]
async fn a_twin_whose_bytes_differ_gives_the_receipts_of_what_is_named() {
    let world = world();
    // Of a twin with other settings, so that its bytes surely differ.
    let other = World { store: world.store.clone(), ..world_with(&[("file_format", "csv")]) };
    let (mut one, mut two) = (world.open().await, other.open_with(columns()).await);
    let first = write_parted(&mut one.writer, 0..4).await.expect("written");
    two.writer.append(&records_of(&parted(0..4), 0)).await.expect("taken");
    let again = two.writer.commit(parted_mark(4)).await.expect("the same records up to the same mark");
    let receipts = |outcome: &Outcome| outcome.artifacts.iter().map(|receipt| (receipt.uri.clone(), receipt.byte_count)).collect::<Vec<_>>();
    assert_eq!(receipts(&again), receipts(&first));
    assert_eq!(world.objects().await.len(), 4, "the twin's own objects are there, and unnamed");
}

fn columns() -> RecordSchema {
    let column = |name: &str, column_type| Column { name: name.to_owned(), column_type, nullable: true, primary_key: false, max_length: 0 };
    RecordSchema { columns: vec![column("n", ColumnType::Int64), column("r", ColumnType::String)] }
}

#[tokio::test]
async fn columns_are_sorted_by_path_too() {
    let world = world_with(&[("file_format", "csv")]);
    let mut opened = world.open_with(columns()).await;
    let columns = records_of(&parted(0..5), 0).to_arrow(&columns()).expect("they fit");
    opened.writer.append(&columns).await.expect("taken");
    opened.writer.commit(parted_mark(5)).await.expect("written");
    let mut texts = Vec::new();
    for entry in &world.manifests().await[0].objects {
        texts.push(world.store.text(&entry.key).await.replace("\r\n", "\n"));
    }
    assert_eq!(texts, ["n,r\n0,a\n2,a\n4,a\n", "n,r\n1,b/c\n3,b/c\n"]);
}

#[tokio::test]
async fn of_a_batch_with_a_record_that_has_no_path_nothing_is_taken() {
    let world = world();
    let mut opened = world.open().await;
    let long = format!(r#"{{"n":4,"r":"{}"}}"#, "x".repeat(2_000));
    let bad = [r#"{"n":1}"#, r#"{"n":2,"r":null}"#, r#"{"n":3,"r":{}}"#, long.as_str(), r#"{"n":5,"r":[1]}"#].map(str::to_owned);
    let texts = [parted(0..1), bad.to_vec(), parted(6..7)].concat();
    let error = opened.writer.append(&records_of(&texts, 10)).await.expect_err("they have no path");
    assert_eq!((error.class, error.records.iter().map(|(offset, _)| *offset).collect::<Vec<_>>()), (ErrorClass::Record, vec![11, 12, 13, 14, 15]));
    assert!(error.records.iter().all(|(_, fault)| fault.column.as_deref() == Some("r") && fault.message.contains("\"r\"")), "{error:?}");
    assert!(error.message.contains("record 11"), "{error}");
    opened.writer.append(&records_of(&parted(0..3), 0)).await.expect("taken");
    opened.writer.commit(parted_mark(3)).await.expect("written");
    assert_eq!(world.named().await, all(0..3));
}

#[tokio::test]
async fn a_value_that_the_form_refuses_leaves_every_path_as_it_was() {
    let world = world_with(&[("file_format", "csv")]);
    let mut opened = world.open_with(columns()).await;
    let texts = [parted(0..3), vec![r#"{"n":"none","r":"b/c"}"#.to_owned()]].concat();
    let error = opened.writer.append(&records_of(&texts, 0)).await.expect_err("one is no number");
    assert_eq!((error.class, error.records.iter().map(|(offset, _)| *offset).collect::<Vec<_>>()), (ErrorClass::Record, vec![3]));
    opened.writer.append(&records_of(&parted(0..3), 0)).await.expect("taken");
    let outcome = opened.writer.commit(parted_mark(3)).await.expect("written");
    assert_eq!(outcome.artifacts.iter().map(|receipt| receipt.record_count).collect::<Vec<_>>(), [2, 1, 0]);
}

fn scattered(range: Range<Offset>) -> Vec<String> {
    range.map(|n| format!(r#"{{"n":{n},"r":{n}}}"#)).collect()
}

#[tokio::test]
async fn a_unit_is_full_at_the_most_paths_and_a_batch_with_more_is_written_nonetheless() {
    let world = world();
    let mut opened = world.open().await;
    let most = OBJECT_GROUPS_MAX as Offset;
    assert_eq!(opened.writer.append(&records_of(&scattered(0..most - 1), 0)).await.expect("taken"), Appended::Room);
    assert_eq!(opened.writer.append(&records_of(&scattered(most - 1..most), most - 1)).await.expect("taken"), Appended::Full);
    opened.writer.commit(mark(most)).await.expect("written");
    let (first, next) = (most, 4 * most + 7);
    assert_eq!(opened.writer.append(&records_of(&scattered(first..next), first)).await.expect("taken"), Appended::Full);
    let outcome = opened.writer.commit(mark(next)).await.expect("written");
    assert_eq!(outcome.artifacts.iter().map(|receipt| receipt.record_count).sum::<u64>(), next - first);
    let firsts: Vec<Offset> = world.manifests().await.iter().flat_map(|manifest| &manifest.objects).map(|entry| entry.first_offset).collect();
    assert_eq!(firsts, all(0..next));
}

#[tokio::test]
async fn a_batch_of_more_paths_than_a_unit_has_objects_is_not_taken_whole() {
    let world = world();
    let mut opened = world.open().await;
    let most = OBJECTS_OF_A_UNIT_MAX as Offset;
    assert_eq!(opened.writer.append(&records_of(&scattered(0..10), 0)).await.expect("taken"), Appended::Room);
    let error = opened.writer.append(&records_of(&scattered(10..most + 1), 10)).await.expect_err("too many objects");
    assert_eq!((error.kind, error.class, error.records.len()), (Kind::TooLarge, ErrorClass::Record, 0), "a session cuts the batch: {error}");
    assert!(error.message.contains("path_template"), "{error}");
    // Nothing of it was taken, and one less fits.
    assert_eq!(opened.writer.append(&records_of(&scattered(10..most), 10)).await.expect("taken"), Appended::Full);
    opened.writer.commit(mark(most)).await.expect("written");
    assert_eq!(world.manifests().await.iter().map(|manifest| manifest.objects.len()).collect::<Vec<_>>(), [OBJECTS_OF_A_UNIT_MAX]);
}

#[tokio::test]
async fn a_unit_without_records_is_a_manifest_without_objects_and_finish_is_final() {
    let world = world();
    let mut opened = world.open().await;
    let refused = Mark { next: 2, rejected: 2, ..Mark::default() };
    assert!(opened.writer.commit(refused).await.expect("written").artifacts.is_empty());
    assert_eq!(world.open().await.mark, FoundMark::At(refused));
    let end = Mark { finished: true, ..refused };
    opened.writer.finish(Finish::Commit, end).await.expect("finished");
    assert_eq!((world.open().await.mark, world.objects().await.len()), (FoundMark::At(end), 0));
    assert!(world.manifests().await.iter().all(|manifest| manifest.objects.is_empty()));
}

#[tokio::test]
async fn a_large_object_goes_up_in_parts() {
    let world = world();
    let mut opened = world.open().await;
    for offset in 0..LARGE {
        let text = format!(r#"{{"n":{offset},"r":"a","x":"{}"}}"#, "x".repeat(500_000));
        opened.writer.append(&records_of(&[text], offset)).await.expect("taken");
    }
    opened.writer.commit(large_mark(LARGE)).await.expect("written");
    assert_eq!((world.named().await, world.store.uploads()), (all(0..LARGE), 0));
}

#[tokio::test]
async fn on_finish_is_refused_at_open() {
    let error = world().try_open(CommitMode::OnFinish, Noted::default()).await.expect_err("one object has one path");
    assert!(error.kind == Kind::Misconfigured && error.message.contains("path_template"), "{error}");
}

#[tokio::test]
async fn a_store_that_ignores_the_condition_is_said_to_be_idempotent() {
    let world = world();
    world.store.ignore_conditions();
    let mut opened = world.open().await;
    assert_eq!(opened.delivery.guarantee, Guarantee::Idempotent);
    write_parted(&mut opened.writer, 0..4).await.expect("written");
    assert_eq!(world.named().await, all(0..4));
}

#[tokio::test]
async fn a_forgotten_stream_begins_anew() {
    let world = world();
    let mut opened = world.open().await;
    write_parted(&mut opened.writer, 0..4).await.expect("written");
    let (connector, cx) = world.connect().await.expect("a connector");
    connector.forget(&cx, &world.stream()).await.expect("forgotten");
    assert_eq!(world.open().await.mark, FoundMark::Missing);
}

// ---- through a session ----

#[tokio::test(start_paused = true)]
async fn a_session_over_a_bucket_that_fails_names_every_record_once() {
    let world = world_with(&[("max_object_records", "7")]);
    let session = server(1).open(world.order()).await.expect("it opens");
    world.store.at_next_puts([Fault::ReplyLost, Fault::Refused, Fault::ReplyLost, Fault::Refused]);
    world.store.at_next_manifests([Fault::ReplyLost, Fault::Refused, Fault::ReplyLost]);
    for first in (0..200).step_by(20) {
        push_parted(&session, first..first + 20).await;
    }
    let last = end(session).await;
    assert!(matches!(&last, Event::Ended(ended) if ended.next_offset == 200 && ended.counts.delivered == 200), "{last:?}");
    assert_eq!(world.named().await, all(0..200));
}

#[tokio::test(start_paused = true)]
async fn a_session_cuts_a_batch_of_many_paths() {
    let world = world();
    let session = server(1).open(world.order()).await.expect("it opens");
    let count = 3 * OBJECTS_OF_A_UNIT_MAX as Offset;
    session.input.send(batch(Some(0), &scattered(0..count))).await.expect("the session is open");
    let last = end(session).await;
    assert!(matches!(&last, Event::Ended(ended) if (ended.next_offset, ended.counts.delivered, ended.counts.rejected) == (count, count, 0)), "{last:?}");
    let manifests = world.manifests().await;
    let firsts: Vec<Offset> = manifests.iter().flat_map(|manifest| &manifest.objects).map(|entry| entry.first_offset).collect();
    assert_eq!(firsts, all(0..count));
    let largest = manifests.iter().map(|manifest| manifest.objects.len()).max();
    assert!(largest.is_some_and(|largest| largest <= OBJECTS_OF_A_UNIT_MAX), "{largest:?}");
}

#[tokio::test(start_paused = true)]
async fn a_session_adopts_what_its_twin_wrote() {
    let world = world_with(&[("max_object_records", "7")]);
    let (one, two) = (server(1), server(2));
    let (first, second) = (one.open(world.order()).await.expect("it opens"), two.open(world.order()).await.expect("it opens"));
    push_parted(&first, 0..5).await;
    push_parted(&second, 0..20).await;
    assert!(matches!(end(first).await, Event::Ended(ended) if ended.next_offset == 5));
    assert!(matches!(end(second).await, Event::Ended(ended) if ended.next_offset == 20));
    assert_eq!(world.named().await, all(0..20));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_skips_passes_over_records_without_a_path() {
    let world = world();
    let order = OpenOrder { policy: RecordErrorPolicy::Skip, ..world.order() };
    let session = server(1).open(order).await.expect("it opens");
    let mut texts = parted(0..20);
    texts[3] = r#"{"n":3}"#.to_owned();
    texts[11] = r#"{"n":11,"r":null}"#.to_owned();
    session.input.send(batch(Some(0), &texts)).await.expect("the session is open");
    let last = end(session).await;
    assert!(matches!(&last, Event::Ended(ended) if (ended.next_offset, ended.counts.delivered, ended.counts.rejected) == (20, 18, 2)), "{last:?}");
    assert_eq!(world.named().await, (0..20).filter(|n| ![3, 11].contains(n)).collect::<Vec<_>>());
}
