//! Why: every way in which a bucket can answer, or not, leads to a chain that holds each record once, or to an error that says what to do. Never a network.

mod partitioned;

use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::time::timeout;

use super::{
    bucket::{Bucket, BucketSource},
    chain::StreamTag,
    connector::connector,
    faulty::{Fault, Faulty},
    format::Format,
    layout::Place,
    options::OBJECT_OPTIONS,
};
use crate::{
    connectors::{
        connector::{
            Appended, CommitMode, ConnectContext, Connector, Epoch, Finish, FoundMark, Guarantee, Kind as _, Mark, Noted, Opened, Outcome, SinkKind,
            SinkWriter, StreamId, Terms,
        },
        credential::{CredentialType, OpenCredential},
        destination::Destination,
        egress::{Egress, EgressPolicy},
        error::{ConnectorError, ConnectorErrorKind as Kind, ErrorClass},
        options::{OptionSpec, Options},
    },
    delivery::{
        Connections, Delivery, DeliverySettings, Event, Input, OpenOrder, RecordErrorPolicy, Session,
        tests::sim::{self, Family, SimConnections, SimTarget, batch, texts},
    },
    limits::OBJECT_PART_BYTES,
    name::StreamName,
    problem::Reason,
    record::{Batch, Offset, Piece, RollingHash},
    secret::Secret,
};

#[derive(Debug, Clone)]
struct World {
    store: Faulty,
    conditional_completion: bool,
    options: Options,
}

#[async_trait]
impl BucketSource for World {
    async fn bucket(&self, _: &ConnectContext) -> Result<Bucket, ConnectorError> {
        let store = Arc::new(self.store.clone());
        Ok(Bucket { kind: SinkKind::S3, name: "b".to_owned(), store: store.clone(), parts: store, conditional_completion: self.conditional_completion })
    }
}

#[async_trait]
impl Connections for World {
    async fn connect(&self) -> Result<(Arc<dyn Connector>, ConnectContext), ConnectorError> {
        let (_, cx) = SimConnections(SimTarget::new(Family::Discard)).connect().await?;
        Ok((self.connector(), cx))
    }
}

const STREAM: &str = "s";
/// The folder of the stream, by the default template and the names that the simulation gives.
const FOLDER: &str = "s/sim/s";

impl World {
    fn new() -> Self {
        Self { store: Faulty::default(), conditional_completion: true, options: options(&[]) }
    }

    fn connector(&self) -> Arc<dyn Connector> {
        connector(Ok(self.clone()), &self.options, &[]).expect("the options are right")
    }

    fn order(&self) -> OpenOrder {
        OpenOrder { connections: Arc::new(self.clone()), ..sim::order(&SimTarget::new(Family::Discard), STREAM) }
    }

    fn stream(&self) -> StreamId {
        StreamId { name: StreamName::parse(STREAM).expect("a name"), ..self.order().stream }
    }

    async fn try_open(&self, mode: CommitMode, noted: Noted) -> Result<Opened, ConnectorError> {
        let terms = Terms { commit_mode: mode, key_columns: Vec::new(), schema: None, options: Options::default(), noted };
        let (connector, cx) = self.connect().await?;
        connector.open(&cx, &self.stream(), Epoch(1), &terms).await
    }

    async fn open(&self) -> Opened {
        self.try_open(CommitMode::Continuous, Noted::default()).await.expect("the stream opens")
    }

    async fn open_on_finish(&self) -> Opened {
        self.try_open(CommitMode::OnFinish, Noted::default()).await.expect("the stream opens")
    }

    /// Keys of objects of records.
    async fn objects(&self) -> Vec<String> {
        self.store.keys().await.into_iter().filter(|key| !key.contains("/_") && !key.contains("/.")).collect()
    }

    /// What a reader finds, in the order of names.
    async fn read(&self) -> String {
        let mut all = String::new();
        for key in self.objects().await {
            all += &self.store.text(&key).await;
        }
        all
    }
}

fn options(given: &[(&str, &str)]) -> Options {
    static SPECS: [OptionSpec; 7] = OBJECT_OPTIONS;
    let given: BTreeMap<String, String> = given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Options::check("s3", &SPECS, &given).expect("the options are allowed")
}

fn records_of(texts: &[String], first: Offset) -> Batch {
    let Input::Batch(incoming) = batch(None, texts) else { unreachable!("a batch was asked for") };
    match incoming.pieces.into_iter().next() {
        Some(Piece::Good(mut batch)) => {
            batch.first_offset = first;
            batch
        }
        other => unreachable!("good records were given: {other:?}"),
    }
}

fn records(range: Range<Offset>) -> Batch {
    records_of(&texts(range.clone()), range.start)
}

fn mark(next: Offset) -> Mark {
    let mut hash = RollingHash::default();
    texts(0..next).iter().for_each(|text| hash.add(text.as_bytes()));
    Mark { next, hash: hash.value(), ..Mark::default() }
}

fn lines(range: Range<Offset>) -> String {
    texts(range).iter().map(|text| format!("{text}\n")).collect()
}

async fn write(writer: &mut Box<dyn SinkWriter>, range: Range<Offset>) -> Result<Outcome, ConnectorError> {
    writer.append(&records(range.clone())).await?;
    writer.commit(mark(range.end)).await
}

fn noted(next: Offset, outcome: &Outcome) -> Noted {
    Noted { mark: mark(next), here: true, receipts: outcome.artifacts.clone() }
}

/// Texts so large that `count` of them make several parts.
fn large(range: Range<Offset>) -> Vec<String> {
    range.map(|offset| format!(r#"{{"n":{offset},"x":"{}"}}"#, "x".repeat(500_000))).collect()
}

fn large_mark(next: Offset) -> Mark {
    let mut hash = RollingHash::default();
    large(0..next).iter().for_each(|text| hash.add(text.as_bytes()));
    Mark { next, hash: hash.value(), ..Mark::default() }
}

async fn write_large(writer: &mut Box<dyn SinkWriter>, range: Range<Offset>) -> Result<Outcome, ConnectorError> {
    for offset in range.clone() {
        writer.append(&records_of(&large(offset..offset + 1), offset)).await?;
    }
    writer.commit(large_mark(range.end)).await
}

/// Enough for three parts.
const LARGE: Offset = 40;

// ---- the chain ----

#[tokio::test]
async fn units_become_a_chain_and_the_mark_is_its_end() {
    let world = World::new();
    let mut opened = world.open().await;
    assert_eq!((opened.mark, opened.delivery.guarantee), (FoundMark::Missing, Guarantee::ExactlyOnce));
    let first = write(&mut opened.writer, 0..3).await.expect("written");
    let second = write(&mut opened.writer, 3..5).await.expect("written");
    let keys = world.objects().await;
    assert_eq!(keys.len(), 2);
    assert!(keys[0].starts_with(&format!("{FOLDER}/{:020}-", 0)) && keys[1].starts_with(&format!("{FOLDER}/{:020}-", 3)), "{keys:?}");
    assert_eq!(world.read().await, lines(0..5));
    let receipt = &second.artifacts[0];
    assert_eq!((receipt.uri.clone(), receipt.first_offset, receipt.record_count), (format!("s3://b/{}", keys[1]), 3, 2));
    assert_eq!(receipt.byte_count, lines(3..5).len() as u64);
    assert!(receipt.attributes.iter().any(|(name, value)| name == "sha256" && value.len() == 64));
    for noted in [Noted::default(), noted(3, &first), noted(5, &second)] {
        let again = world.try_open(CommitMode::Continuous, noted).await.expect("it opens");
        assert_eq!((again.mark, again.epoch), (FoundMark::At(mark(5)), Epoch(2)));
    }
}

#[tokio::test]
async fn a_lost_reply_is_unclear_and_the_object_counts() {
    let world = World::new();
    let mut opened = world.open().await;
    world.store.at_next_puts([Fault::ReplyLost]);
    let error = write(&mut opened.writer, 0..3).await.expect_err("the reply was lost");
    assert_eq!(error.class, ErrorClass::Destination);
    assert_eq!(world.open().await.mark, FoundMark::At(mark(3)));
}

#[tokio::test]
async fn a_twin_counts_as_our_own() {
    let world = World::new();
    let (mut one, mut two) = (world.open().await, world.open().await);
    let first = write(&mut one.writer, 0..3).await.expect("written");
    let again = write(&mut two.writer, 0..3).await.expect("the same records up to the same mark");
    assert_eq!(again.artifacts, first.artifacts);
    write(&mut two.writer, 3..4).await.expect("and it goes on");
    assert_eq!(world.read().await, lines(0..4));
}

#[tokio::test]
async fn another_cut_or_other_records_are_unclear_and_nothing_is_overwritten() {
    let world = World::new();
    let (mut one, mut two, mut three) = (world.open().await, world.open().await, world.open().await);
    write(&mut one.writer, 0..3).await.expect("written");
    assert_eq!(write(&mut two.writer, 0..2).await.expect_err("another cut").kind, Kind::Unknown);
    three.writer.append(&records(10..13)).await.expect("taken");
    let other = Mark { hash: 1, ..mark(3) };
    assert_eq!(three.writer.commit(other).await.expect_err("other records").kind, Kind::Unknown);
    assert_eq!(world.read().await, lines(0..3));
}

#[tokio::test]
async fn a_strangers_object_at_our_name_stops_and_is_named() {
    let world = World::new();
    let mut opened = world.open().await;
    let outcome = write(&mut opened.writer, 0..3).await.expect("written");
    let next = world.objects().await[0].replace("00000-", "00003-");
    world.store.plant(&next, "somebody's").await;
    for error in [
        write(&mut opened.writer, 3..5).await.expect_err("the name is taken"),
        world.try_open(CommitMode::Continuous, noted(3, &outcome)).await.expect_err("the chain leads to it"),
    ] {
        assert_eq!((error.kind, error.class), (Kind::Misconfigured, ErrorClass::Configuration));
        assert!(error.message.contains(&next), "{error}");
    }
    assert_eq!(world.store.text(&next).await, "somebody's");
}

#[tokio::test]
async fn a_hole_names_what_is_missing() {
    let world = World::new();
    let mut opened = world.open().await;
    let mut last = Outcome::default();
    for range in [0..1, 1..2, 2..3, 3..4] {
        last = write(&mut opened.writer, range).await.expect("written");
    }
    let gone = world.objects().await[1].clone();
    world.store.remove(&gone).await;
    let error = world.try_open(CommitMode::Continuous, Noted::default()).await.expect_err("a hole");
    assert!(error.class == ErrorClass::Configuration && error.message.contains(&gone), "{error}");
    assert_eq!(world.try_open(CommitMode::Continuous, noted(4, &last)).await.expect("our note is past it").mark, FoundMark::At(mark(4)));
}

#[tokio::test]
async fn a_lost_tail_is_seen_by_our_note_and_a_moved_head_harms_nobody() {
    let world = World::new();
    let mut opened = world.open().await;
    let mut last = Outcome::default();
    for range in [0..1, 1..2, 2..3] {
        last = write(&mut opened.writer, range).await.expect("written");
    }
    let keys = world.objects().await;
    world.store.remove(&keys[0]).await;
    assert_eq!(world.open().await.mark, FoundMark::At(mark(3)), "who reads the objects may move them");
    world.store.remove(&keys[2]).await;
    assert_eq!(world.try_open(CommitMode::Continuous, noted(3, &last)).await.expect("it says where it is").mark, FoundMark::At(mark(2)));
    world.store.remove(&keys[1]).await;
    assert_eq!(world.try_open(CommitMode::Continuous, noted(3, &last)).await.expect("it says so").mark, FoundMark::Missing);
}

#[tokio::test]
async fn a_chain_that_goes_on_is_found_though_the_noted_object_was_moved() {
    let world = World::new();
    let mut opened = world.open().await;
    let first = write(&mut opened.writer, 0..1).await.expect("written");
    write(&mut opened.writer, 1..2).await.expect("written");
    world.store.remove(&world.objects().await[0]).await;
    assert_eq!(world.try_open(CommitMode::Continuous, noted(1, &first)).await.expect("it opens").mark, FoundMark::At(mark(2)));
}

#[tokio::test]
async fn opening_a_long_chain_by_our_note_costs_a_few_requests() {
    let world = World::new();
    let mut opened = world.open().await;
    let mut last = Outcome::default();
    for offset in 0..100 {
        last = write(&mut opened.writer, offset..offset + 1).await.expect("written");
    }
    let before = world.store.requests();
    world.try_open(CommitMode::Continuous, noted(100, &last)).await.expect("it opens");
    assert!(world.store.requests() - before <= 6, "{}", world.store.requests() - before);
}

#[tokio::test]
async fn where_the_sink_came_from_elsewhere_a_new_run_begins() {
    let world = World::new();
    let mut opened = world.open().await;
    write(&mut opened.writer, 0..2).await.expect("written");
    // The records 2..5 went to another place meanwhile.
    let elsewhere = Noted { mark: mark(5), here: false, receipts: Vec::new() };
    let mut back = world.try_open(CommitMode::Continuous, elsewhere).await.expect("it opens");
    let outcome = write(&mut back.writer, 5..7).await.expect("written");
    for noted in [Noted::default(), noted(7, &outcome)] {
        assert_eq!(world.try_open(CommitMode::Continuous, noted).await.expect("no hole").mark, FoundMark::At(mark(7)));
    }
}

#[tokio::test]
async fn a_unit_without_records_keeps_the_chain_whole() {
    let world = World::new();
    let mut opened = world.open().await;
    let refused = Mark { next: 2, rejected: 2, ..Mark::default() };
    assert!(opened.writer.commit(refused).await.expect("written").artifacts.is_empty());
    assert_eq!(world.open().await.mark, FoundMark::At(refused));
    assert_eq!(world.read().await, "");
}

#[tokio::test]
async fn finish_ends_the_chain_for_good() {
    let world = World::new();
    let mut opened = world.open().await;
    write(&mut opened.writer, 0..3).await.expect("written");
    let end = Mark { finished: true, ..mark(3) };
    world.store.at_next_puts([Fault::ReplyLost]);
    assert!(opened.writer.finish(Finish::Commit, end).await.is_err(), "the reply was lost");
    assert_eq!(world.open().await.mark, FoundMark::At(end));
    assert_eq!(world.read().await, lines(0..3));
}

#[tokio::test(start_paused = true)]
async fn an_object_is_never_created_before_the_one_ahead() {
    let world = World::new();
    let mut opened = world.open().await;
    world.store.at_next_puts([Fault::Hang]);
    opened.writer.append(&records(0..2)).await.expect("taken");
    let mut first = opened.writer.commit(mark(2));
    opened.writer.append(&records(2..4)).await.expect("taken");
    let mut second = opened.writer.commit(mark(4));
    let both = async { tokio::join!(&mut first, &mut second) };
    assert!(timeout(Duration::from_secs(60), both).await.is_err());
    assert_eq!(world.objects().await, Vec::<String>::new());
    drop(first);
    assert_eq!(second.await.expect_err("the one ahead never came").kind, Kind::Unknown);
    assert_eq!(world.objects().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_store_that_overwrites_is_seen_and_said() {
    let world = World::new();
    world.store.ignore_conditions();
    for _ in 0..2 {
        let opened = world.open().await;
        assert_eq!(opened.delivery.guarantee, Guarantee::Idempotent);
        assert!(opened.delivery.basis.contains("s3://b"), "{}", opened.delivery.basis);
    }
    let (mut one, mut two) = (world.open().await, world.open().await);
    write(&mut one.writer, 0..3).await.expect("written");
    assert_eq!(write(&mut two.writer, 0..2).await.expect_err("we look before").kind, Kind::Unknown);
    assert_eq!(world.read().await, lines(0..3));
}

#[tokio::test]
async fn a_forgotten_stream_begins_anew_beside_what_it_wrote() {
    let world = World::new();
    let mut opened = world.open().await;
    write(&mut opened.writer, 0..3).await.expect("written");
    let (connector, cx) = world.connect().await.expect("it connects");
    connector.forget(&cx, &world.stream()).await.expect("forgotten");
    let mut again = world.open().await;
    assert_eq!(again.mark, FoundMark::Missing);
    write(&mut again.writer, 0..2).await.expect("written");
    assert_eq!(world.objects().await.len(), 2);
    assert_eq!(world.open().await.mark, FoundMark::At(mark(2)));
}

// ---- large objects ----

#[tokio::test]
async fn a_large_object_goes_up_in_parts_and_is_created_once() {
    let world = World::new();
    let (mut one, mut two, mut three) = (world.open().await, world.open().await, world.open().await);
    let first = write_large(&mut one.writer, 0..LARGE).await.expect("written");
    assert!(first.artifacts[0].byte_count > 2 * OBJECT_PART_BYTES as u64);
    assert_eq!(write_large(&mut two.writer, 0..LARGE).await.expect("a twin").artifacts, first.artifacts);
    assert_eq!(write_large(&mut three.writer, 0..LARGE - 1).await.expect_err("another cut").kind, Kind::Unknown);
    tokio::task::yield_now().await;
    assert_eq!((world.objects().await.len(), world.store.uploads()), (1, 0));
    assert_eq!(world.read().await, large(0..LARGE).iter().map(|text| format!("{text}\n")).collect::<String>());
    assert_eq!(world.open().await.mark, FoundMark::At(large_mark(LARGE)));
}

#[tokio::test]
async fn a_large_object_is_put_whole_where_completion_knows_no_condition() {
    let world = World { conditional_completion: false, ..World::new() };
    let (mut one, mut two) = (world.open().await, world.open().await);
    write_large(&mut one.writer, 0..LARGE).await.expect("written");
    assert_eq!(write_large(&mut two.writer, 0..LARGE - 1).await.expect_err("another cut").kind, Kind::Unknown);
    assert_eq!(world.open().await.mark, FoundMark::At(large_mark(LARGE)));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_settlement_leaves_no_upload() {
    let world = World::new();
    let mut opened = world.open().await;
    world.store.at_next_completions([Fault::Hang]);
    let hanging = timeout(Duration::from_secs(60), write_large(&mut opened.writer, 0..LARGE)).await;
    assert!(hanging.is_err());
    // The removal is a task of its own, and a broken one must fail here instead of hanging.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.store.uploads(), 0);
    assert_eq!(world.objects().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_lost_reply_of_a_completion_is_unclear_and_the_object_counts() {
    let world = World::new();
    let mut opened = world.open().await;
    world.store.at_next_completions([Fault::ReplyLost]);
    assert_eq!(write_large(&mut opened.writer, 0..LARGE).await.expect_err("the reply was lost").class, ErrorClass::Destination);
    assert_eq!(world.open().await.mark, FoundMark::At(large_mark(LARGE)));
}

/// One upload that nobody completes any more, as a kill leaves it at a store that has no way to remove it.
async fn leave_an_upload(world: &World) {
    let mut opened = world.open().await;
    world.store.at_next_completions([Fault::Hang]);
    let mut hanging = Box::pin(write_large(&mut opened.writer, 0..LARGE));
    assert!(timeout(Duration::from_millis(50), &mut hanging).await.is_err());
    std::mem::forget(hanging);
    kill(opened.writer);
}

#[tokio::test]
async fn parts_that_a_kill_left_keep_no_smaller_object_out() {
    let world = World::new();
    world.store.count_parts_as_present();
    leave_an_upload(&world).await;
    assert_eq!((world.store.uploads(), world.objects().await.len()), (1, 0));
    let (mut heir, mut twin, mut other) = (world.open().await, world.open().await, world.open().await);
    let written = write(&mut heir.writer, 0..3).await.expect("written");
    assert_eq!(world.read().await, lines(0..3));
    assert_eq!(write(&mut twin.writer, 0..3).await.expect("a twin").artifacts, written.artifacts);
    assert_eq!(write(&mut other.writer, 0..2).await.expect_err("another cut").kind, Kind::Unknown);
    tokio::task::yield_now().await;
    assert_eq!((world.objects().await.len(), world.store.uploads()), (1, 1), "none of theirs is left");
    assert_eq!(world.open().await.mark, FoundMark::At(mark(3)));
}

#[tokio::test]
async fn parts_that_a_kill_left_keep_no_object_without_records_out() {
    let world = World::new();
    world.store.count_parts_as_present();
    leave_an_upload(&world).await;
    let end = Mark { finished: true, ..Mark::default() };
    world.open().await.writer.finish(Finish::Commit, end).await.expect("finished");
    assert_eq!(world.open().await.mark, FoundMark::At(end));
}

// ---- on finish ----

#[tokio::test]
async fn a_small_stream_appears_at_finish_and_not_before() {
    let world = World::new();
    let mut opened = world.open_on_finish().await;
    write(&mut opened.writer, 0..3).await.expect("staged");
    write(&mut opened.writer, 3..5).await.expect("staged");
    assert_eq!(world.objects().await, Vec::<String>::new());
    assert_eq!(world.open_on_finish().await.mark, FoundMark::Missing);
    let end = Mark { finished: true, ..mark(5) };
    let outcome = opened.writer.finish(Finish::Commit, end).await.expect("finished");
    assert_eq!((outcome.artifacts.len(), outcome.artifacts[0].record_count), (1, 5));
    assert_eq!(world.read().await, lines(0..5));
    assert_eq!(world.open_on_finish().await.mark, FoundMark::At(end));
}

async fn stage_large(world: &World) -> Box<dyn SinkWriter> {
    staged_large(world.open_on_finish().await).await
}

async fn staged_large(mut opened: Opened) -> Box<dyn SinkWriter> {
    write_large(&mut opened.writer, 0..LARGE / 2).await.expect("staged");
    write_large(&mut opened.writer, LARGE / 2..LARGE).await.expect("staged");
    opened.writer
}

fn large_end() -> Mark {
    Mark { finished: true, ..large_mark(LARGE) }
}

#[tokio::test]
async fn a_large_stream_appears_at_finish_on_every_sort_of_store() {
    for conditional_completion in [true, false] {
        let world = World { conditional_completion, ..World::new() };
        let writer = stage_large(&world).await;
        assert_eq!((world.objects().await.len(), world.store.uploads()), (0, 1));
        let outcome = writer.finish(Finish::Commit, large_end()).await.expect("finished");
        assert_eq!((outcome.artifacts.len(), outcome.artifacts[0].record_count), (1, LARGE));
        assert_eq!(world.read().await, large(0..LARGE).iter().map(|text| format!("{text}\n")).collect::<String>());
        assert_eq!(world.open_on_finish().await.mark, FoundMark::At(large_end()));
        let keys = world.store.keys().await;
        assert!(world.store.uploads() == 0 && !keys.iter().any(|key| key.contains("_tmp")), "{keys:?}");
    }
}

#[tokio::test]
async fn whatever_fails_between_plan_and_object_is_rolled_forward() {
    for conditional_completion in [true, false] {
        for fault in [Fault::Refused, Fault::ReplyLost] {
            let world = World { conditional_completion, ..World::new() };
            let writer = stage_large(&world).await;
            world.store.at_next_completions([fault]);
            // A lost reply heals at once: the object is looked at.
            let healed = writer.finish(Finish::Commit, large_end()).await.is_ok();
            assert_eq!(healed, fault == Fault::ReplyLost);
            assert_eq!(world.open_on_finish().await.mark, FoundMark::At(large_end()));
            assert_eq!(world.objects().await.len(), 1);
        }
    }
}

#[tokio::test]
async fn a_plan_that_may_not_be_there_is_never_half_a_finish() {
    for (fault, found) in [(Fault::Refused, FoundMark::Missing), (Fault::ReplyLost, FoundMark::At(large_end()))] {
        let world = World::new();
        let writer = stage_large(&world).await;
        world.store.at_next_puts([fault]);
        assert!(writer.finish(Finish::Commit, large_end()).await.is_err());
        assert_eq!(world.open_on_finish().await.mark, found);
        assert_eq!(world.objects().await.len(), usize::from(found != FoundMark::Missing));
    }
}

#[tokio::test]
async fn of_two_owners_one_finishes_and_the_other_hears_of_it() {
    let world = World::new();
    let (one, two) = (world.open_on_finish().await, world.open_on_finish().await);
    let (one, two) = (staged_large(one).await, staged_large(two).await);
    one.finish(Finish::Commit, large_end()).await.expect("finished");
    assert_eq!(two.finish(Finish::Commit, large_end()).await.expect_err("the plan is another's").kind, Kind::Unknown);
    assert_eq!(world.open_on_finish().await.mark, FoundMark::At(large_end()));
    tokio::task::yield_now().await;
    assert_eq!((world.objects().await.len(), world.store.uploads()), (1, 0));
}

#[tokio::test]
async fn who_opens_later_gives_up_what_an_earlier_owner_staged() {
    for conditional_completion in [true, false] {
        let world = World { conditional_completion, ..World::new() };
        let one = stage_large(&world).await;
        let two = stage_large(&world).await;
        assert_eq!(world.store.uploads(), 1, "the first one's upload is removed");
        assert_eq!(one.finish(Finish::Commit, large_end()).await.expect_err("it was given up").kind, Kind::Unknown);
        two.finish(Finish::Commit, large_end()).await.expect("finished");
        assert_eq!(world.open_on_finish().await.mark, FoundMark::At(large_end()));
        assert_eq!((world.objects().await.len(), world.store.uploads()), (1, 0));
    }
}

/// A writer of which nothing runs any more, as after a kill.
fn kill(writer: Box<dyn SinkWriter>) {
    std::mem::forget(writer);
}

#[tokio::test]
async fn an_upload_that_a_kill_left_is_removed_at_the_next_open() {
    for conditional_completion in [true, false] {
        let world = World { conditional_completion, ..World::new() };
        let zombie = world.open_on_finish().await;
        for _ in 0..3 {
            kill(stage_large(&world).await);
            assert_eq!(world.store.uploads(), 1);
            assert_eq!((world.open_on_finish().await.mark, world.store.uploads()), (FoundMark::Missing, 0));
        }
        // What one begins that was left behind long ago goes at the next open, too.
        kill(staged_large(zombie).await);
        assert_eq!(world.store.uploads(), 1);
        stage_large(&world).await.finish(Finish::Commit, large_end()).await.expect("finished");
        assert_eq!(world.open_on_finish().await.mark, FoundMark::At(large_end()));
        let keys = world.store.keys().await;
        assert!(world.store.uploads() == 0 && !keys.iter().any(|key| key.contains("_tmp") || key.ends_with(".upload")), "{keys:?}");
    }
}

#[tokio::test]
async fn an_upload_whose_plan_is_written_is_completed_and_not_removed() {
    for conditional_completion in [true, false] {
        let world = World { conditional_completion, ..World::new() };
        let writer = stage_large(&world).await;
        // The plan is there, its completion is not, and nothing runs any more.
        world.store.at_next_completions([Fault::Hang]);
        assert!(timeout(Duration::from_millis(50), writer.finish(Finish::Commit, large_end())).await.is_err());
        assert_eq!(world.open_on_finish().await.mark, FoundMark::At(large_end()));
        assert_eq!((world.objects().await.len(), world.store.uploads()), (1, 0));
    }
}

#[tokio::test]
async fn what_cannot_be_removed_is_left_to_a_rule_and_the_stream_goes_on() {
    let world = World::new();
    kill(stage_large(&world).await);
    world.store.forget_uploads();
    assert_eq!(world.open_on_finish().await.mark, FoundMark::Missing);
    stage_large(&world).await.finish(Finish::Commit, large_end()).await.expect("finished");
    assert_eq!(world.open_on_finish().await.mark, FoundMark::At(large_end()));
}

#[tokio::test]
async fn a_plan_whose_upload_and_object_are_gone_asks_a_person() {
    let world = World::new();
    let writer = stage_large(&world).await;
    world.store.at_next_completions([Fault::Refused]);
    assert!(writer.finish(Finish::Commit, large_end()).await.is_err());
    world.store.forget_uploads();
    let error = world.try_open(CommitMode::OnFinish, Noted::default()).await.expect_err("nothing can be told");
    assert!(error.class == ErrorClass::Configuration && error.message.contains(".plan/"), "{error}");
}

#[tokio::test]
async fn abort_and_abandon_leave_nothing() {
    let world = World::new();
    stage_large(&world).await.finish(Finish::Abort, large_mark(LARGE)).await.expect("aborted");
    let mut left = stage_large(&world).await;
    left.abandon().await;
    drop(stage_large(&world).await);
    tokio::task::yield_now().await;
    assert_eq!((world.objects().await.len(), world.store.uploads()), (0, 0));
    assert_eq!(world.open_on_finish().await.mark, FoundMark::Missing);
}

#[tokio::test(start_paused = true)]
async fn a_part_is_tried_again_and_not_for_ever() {
    let world = World::new();
    world.store.at_next_parts([Fault::Refused, Fault::ReplyLost, Fault::Refused]);
    stage_large(&world).await.finish(Finish::Commit, large_end()).await.expect("finished");
    let world = World::new();
    world.store.at_next_parts(std::iter::repeat_n(Fault::Refused, 100));
    let mut opened = world.open_on_finish().await;
    assert!(write_large(&mut opened.writer, 0..LARGE).await.is_err());
}

// ---- through a session ----

fn server(seed: u64) -> Delivery {
    Delivery::new(DeliverySettings::default(), sim::ambient(seed), Arc::new(sim::SimProgress::default()))
}

async fn push(session: &Session, range: Range<Offset>) {
    session.input.send(batch(Some(range.start), &texts(range))).await.expect("the session is open");
}

async fn end(session: Session) -> Event {
    session.input.half_close();
    let (mut output, mut last) = (session.output, None);
    while let Some(event) = output.next().await {
        last = Some(event);
    }
    last.expect("a session says how it ended")
}

fn small() -> World {
    World { options: options(&[("max_object_records", "7")]), ..World::new() }
}

#[tokio::test(start_paused = true)]
async fn a_session_over_a_bucket_that_fails_writes_every_record_once() {
    let world = small();
    let session = server(1).open(world.order()).await.expect("it opens");
    let faults = [Fault::ReplyLost, Fault::Refused, Fault::Refused, Fault::ReplyLost, Fault::Hang, Fault::ReplyLost];
    world.store.at_next_puts(faults);
    for first in (0..200).step_by(20) {
        push(&session, first..first + 20).await;
    }
    assert!(matches!(end(session).await, Event::Ended(ended) if ended.next_offset == 200));
    assert_eq!(world.read().await, lines(0..200));
}

#[tokio::test(start_paused = true)]
async fn a_session_adopts_what_its_twin_wrote_in_other_cuts() {
    let world = small();
    let (one, two) = (server(1), server(2));
    let (first, second) = (one.open(world.order()).await.expect("it opens"), two.open(world.order()).await.expect("it opens"));
    push(&first, 0..5).await;
    push(&second, 0..20).await;
    assert!(matches!(end(first).await, Event::Ended(ended) if ended.next_offset == 5));
    assert!(matches!(end(second).await, Event::Ended(ended) if ended.next_offset == 20));
    assert_eq!(world.read().await, lines(0..20));
}

#[tokio::test(start_paused = true)]
async fn a_session_stops_where_somebody_else_wrote_other_records() {
    let world = small();
    let session = server(1).open(world.order()).await.expect("it opens");
    let mut stranger = world.open().await;
    stranger.writer.append(&records(50..53)).await.expect("taken");
    stranger.writer.commit(Mark { hash: 77, ..mark(3) }).await.expect("written");
    push(&session, 0..5).await;
    let Event::Failed(problem) = end(session).await else { panic!("the session goes on") };
    assert!(problem.reason == Reason::StreamFenced && problem.message.contains("other data"), "{problem:?}");
}

// ---- on a real server: tests/services/with s3 -- sh -c 'tests/services/make-bucket s3 engine && S3_BUCKET=engine cargo test --lib object::tests::real' ----

/// A sink on the server that the environment names.
#[derive(Debug, Clone)]
struct Real {
    endpoint: String,
    key: String,
    secret: String,
    bucket: String,
    folder: String,
    records_max: &'static str,
}

impl Real {
    fn new(records_max: &'static str) -> Option<Self> {
        let variable = |name: &str| {
            let found = std::env::var(name).ok();
            if found.is_none() {
                assert!(std::env::var_os("CONFORMANCE_REQUIRED").is_none(), "{name} is not set, and CONFORMANCE_REQUIRED is");
                eprintln!("did not run: {name} is not set");
            }
            found
        };
        let (endpoint, bucket) = (variable("S3_ENDPOINT")?, variable("S3_BUCKET")?);
        let folder = format!("t{}", crate::clock::Ambient::system().ids.uuid().simple());
        Some(Self { endpoint, key: variable("S3_ACCESS_KEY")?, secret: variable("S3_SECRET_KEY")?, bucket, folder, records_max })
    }

    async fn open(&self, mode: CommitMode) -> Opened {
        let terms = Terms { commit_mode: mode, key_columns: Vec::new(), schema: None, options: Options::default(), noted: Noted::default() };
        let (connector, cx) = self.connect().await.expect("a connector");
        connector.open(&cx, &World::new().stream(), Epoch(1), &terms).await.expect("it opens")
    }
}

#[async_trait]
impl Connections for Real {
    async fn connect(&self) -> Result<(Arc<dyn Connector>, ConnectContext), ConnectorError> {
        let kind = crate::connectors::s3::S3;
        let template = format!("{}/{{stream}}", self.folder);
        let given = [
            ("s3_bucket_name", self.bucket.as_str()),
            ("s3_region", "us-east-1"),
            ("use_https", "false"),
            ("path_template", &template),
            ("max_object_records", self.records_max),
        ];
        let given = given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let options = Options::check("s3", kind.descriptor().options, &given).expect("the options are allowed");
        let destination = Destination::parse(&self.endpoint.replace("http://", "s3://")).expect("a destination");
        let policy = EgressPolicy { private_allowed: true, ..EgressPolicy::default() };
        let (_, cx) = SimConnections(SimTarget::new(Family::Discard)).connect().await?;
        let credential = OpenCredential {
            credential_type: CredentialType::AwsAccessKey,
            identity: self.key.clone(),
            secret: Some(Secret::from(self.secret.clone())),
            options: BTreeMap::new(),
            secret_options: BTreeMap::new(),
            version: 1,
        };
        let egress = Arc::new(Egress::new(policy, &[]).expect("an egress"));
        Ok((kind.configure(&destination, &options).expect("a sink"), ConnectContext { credential: Some(credential), egress, ..cx }))
    }
}

#[tokio::test]
async fn real_sessions_write_a_chain_that_is_found_again() {
    let Some(real) = Real::new("50") else { return };
    for next in [600, 1_000] {
        let order = OpenOrder { connections: Arc::new(real.clone()), ..World::new().order() };
        let session = server(next).open(order).await.expect("it opens");
        let from = session.opened.next_offset;
        assert_eq!((from, session.opened.delivery.guarantee), (if next == 600 { 0 } else { 600 }, Guarantee::ExactlyOnce));
        push(&session, from..next).await;
        let last = end(session).await;
        assert!(matches!(&last, Event::Ended(ended) if ended.next_offset == next), "{last:?}");
    }
    assert_eq!(real.open(CommitMode::Continuous).await.mark, FoundMark::At(mark(1_000)));
}

#[tokio::test]
async fn real_names_are_taken_once_whole_and_in_parts() {
    let Some(real) = Real::new("1000000") else { return };
    let mut writers = Vec::new();
    for _ in 0..4 {
        writers.push(real.open(CommitMode::Continuous).await.writer);
    }
    let first = write(&mut writers[0], 0..3).await.expect("written");
    assert_eq!(write(&mut writers[1], 0..3).await.expect("a twin").artifacts, first.artifacts);
    assert_eq!(write(&mut writers[2], 0..2).await.expect_err("another cut").kind, Kind::Unknown);
    let parts = |writer: Box<dyn SinkWriter>, count| async move {
        let mut writer = writer;
        let end = Mark { hash: count, ..mark(3 + count) };
        for offset in 3..3 + count {
            writer.append(&records_of(&large(offset..offset + 1), offset)).await.expect("taken");
        }
        writer.commit(end).await
    };
    let (two, one) = (writers.swap_remove(1), writers.swap_remove(0));
    let first = parts(one, LARGE).await.expect("written in parts");
    assert_eq!(parts(two, LARGE).await.expect("a twin").artifacts, first.artifacts);
    let late = real.open(CommitMode::Continuous).await;
    assert_eq!(late.mark, FoundMark::At(Mark { hash: LARGE, ..mark(3 + LARGE) }));
}

#[tokio::test]
async fn real_stream_appears_at_finish() {
    let Some(real) = Real::new("1000000") else { return };
    let mut opened = real.open(CommitMode::OnFinish).await;
    write_large(&mut opened.writer, 0..LARGE).await.expect("staged");
    let outcome = opened.writer.finish(Finish::Commit, large_end()).await.expect("finished");
    assert_eq!(outcome.artifacts[0].record_count, LARGE);
    assert_eq!(real.open(CommitMode::OnFinish).await.mark, FoundMark::At(large_end()));
}

/// Uploads in parts of an object, as boto3 lists them.
async fn uploads_by_a_stranger(bucket: &str, key: &str) -> usize {
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services/stores.py");
    let python = std::env::var("SERVICES_PYTHON").expect("set beside S3_ENDPOINT");
    let told = tokio::process::Command::new(python).arg("-B").arg(script).args(["s3", "uploads", bucket, key]).output().await.expect("it runs");
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    String::from_utf8_lossy(&told.stdout).lines().filter(|line| *line == key).count()
}

#[tokio::test]
async fn real_upload_of_a_kill_is_removed_at_the_next_open() {
    let Some(real) = Real::new("1000000") else { return };
    let tag = StreamTag::of(&World::new().stream(), 0);
    let key = Place::new(&format!("{}/{STREAM}", real.folder), tag, Format::parse("ndjson", "none").expect("a pair")).object(0).to_string();
    let mut opened = real.open(CommitMode::OnFinish).await;
    assert_eq!(uploads_by_a_stranger(&real.bucket, &key).await, 0);
    write_large(&mut opened.writer, 0..LARGE).await.expect("staged");
    kill(opened.writer);
    assert_eq!(uploads_by_a_stranger(&real.bucket, &key).await, 1, "a kill removes nothing");
    let mut again = real.open(CommitMode::OnFinish).await;
    assert_eq!((again.mark, uploads_by_a_stranger(&real.bucket, &key).await), (FoundMark::Missing, 0));
    write_large(&mut again.writer, 0..LARGE).await.expect("staged");
    again.writer.finish(Finish::Commit, large_end()).await.expect("finished");
    assert_eq!((real.open(CommitMode::OnFinish).await.mark, uploads_by_a_stranger(&real.bucket, &key).await), (FoundMark::At(large_end()), 0));
}
