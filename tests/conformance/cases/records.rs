//! Why: records arrive as they were sent, in order, and those that never can are set aside alone. Never looks at progress after a crash: that is `progress.rs`.

use datasink::api::pb::{OpenStream, RecordDisposition, RecordErrorPolicy};
use tonic::Code;
use tonic_types::StatusExt;

use crate::{
    foreign,
    kind::Kind,
    stream::{Stream, reason},
    world::{SINK, Sent, World, create_sink},
};

/// Records of a poison case, and the place of the bad one.
const RECORDS: u64 = 1_000;
const POISON: u64 = 371;

pub async fn order(kind: &dyn Kind) {
    let (world, mut sent) = (World::new(kind).await, Sent::default());
    let (mut stream, opened) = Stream::open(&world.admin(), world.open("order")).await;
    assert_eq!(opened.delivery(), world.promises.guarantee, "{}", opened.delivery_basis);
    assert!(!opened.delivery_basis.is_empty(), "a guarantee says what it rests on");
    let mut at = 0;
    for count in [1, 7, 92, 300, 100, 500] {
        stream.lines(at, &sent.lines(at..at + count)).await;
        at += count;
    }
    stream.flush("all").await;
    let counts = stream.flushed("all").await.counts.unwrap();
    assert_eq!((counts.delivered_records, counts.rejected_records, counts.duplicate_records), (1_000, 0, 0));
    world.check(&sent).await;
    stream.half_close();
    assert_eq!(stream.ended().await.next_offset, 1_000);
}

/// Two streams at once, everything sent again in other cuts, and nothing comes of it but what was sent.
pub async fn no_invention(kind: &dyn Kind) {
    let (world, mut sent) = (World::new(kind).await, Sent::default());
    let (mut one, _) = Stream::open(&world.admin(), world.open("one")).await;
    let (mut two, _) = Stream::open(&world.admin(), world.open("two")).await;
    for round in 0..5 {
        one.lines(round * 40, &sent.lines(round * 40..round * 40 + 40)).await;
        // The numbers of the second stream are beyond the first one's, its offsets are not.
        two.lines(round * 30, &sent.lines(1_000 + round * 30..1_030 + round * 30)).await;
    }
    // Again, cut otherwise, before and after they are settled.
    one.lines(10, &sent.lines(10..130)).await;
    one.flush("one").await;
    one.flushed("one").await;
    one.lines(0, &sent.lines(0..200)).await;
    one.lines(195, &sent.lines(195..230)).await;
    for (stream, next) in [(&mut one, 230), (&mut two, 150)] {
        stream.flush("end").await;
        assert_eq!(stream.flushed("end").await.next_offset, next);
    }
    world.check(&sent).await;
}

/// The same by generated stubs of another language.
pub async fn pushed_by_a_stranger(kind: &dyn Kind) {
    let (world, mut sent) = (World::new(kind).await, Sent::default());
    let lines = sent.lines(0..300);
    let next = foreign::push(world.server.address(), world.server.token(), SINK, "stranger", &lines).await;
    assert_eq!(next, 300);
    world.check(&sent).await;
}

pub async fn poison_skipped(kind: &dyn Kind) {
    let (world, sent) = poisoned(kind, RecordErrorPolicy::Skip, "").await;
    world.check(&sent).await;
}

pub async fn poison_to_a_dead_letter_table(kind: &dyn Kind) {
    let (world, sent) = poisoned(kind, RecordErrorPolicy::DeadLetter, "table://default.letters").await;
    world.check(&sent).await;
    is_the_letter(&world.admin().rows("default.letters").await, &world.target.poison(POISON));
}

pub async fn poison_to_a_dead_letter_sink(kind: &dyn Kind) {
    let world = World::new(kind).await;
    let letters = world.target.letters().await;
    letters.prepare(&world.admin()).await;
    world.create_sink("default.letters_sink", &letters.sink()).await.expect("the dead letter sink is made");
    let (world, sent) = poison(world, RecordErrorPolicy::DeadLetter, "default.letters_sink").await;
    world.check(&sent).await;
    let found: Vec<serde_json::Value> = letters.read(&world.admin()).await.into_iter().map(|seen| seen.record).collect();
    is_the_letter(&found, &world.target.poison(POISON));
}

async fn poisoned(kind: &dyn Kind, policy: RecordErrorPolicy, letters: &str) -> (World, Sent) {
    let world = World::new(kind).await;
    if policy == RecordErrorPolicy::DeadLetter {
        world.admin().dead_letter_table("default.letters").await;
    }
    poison(world, policy, letters).await
}

/// Pushes a thousand records of which one is bad; what must be there then.
async fn poison(world: World, policy: RecordErrorPolicy, letters: &str) -> (World, Sent) {
    let mut sent = Sent::default();
    let open = OpenStream { record_error_policy: policy.into(), dead_letter_sink: letters.to_owned(), ..world.open("poison") };
    let (mut stream, _) = Stream::open(&world.admin(), open).await;
    for first in (0..RECORDS).step_by(250) {
        let mut lines = String::new();
        for n in first..first + 250 {
            lines += &if n == POISON { world.target.poison(n) } else { sent.line(n) };
            lines += "\n";
        }
        stream.lines(first, &lines).await;
    }
    stream.flush("all").await;
    let errors = stream.record_errors().await;
    let named: Vec<i64> = errors.errors.iter().map(|error| error.offset).collect();
    assert_eq!((named.as_slice(), errors.more), ([POISON.cast_signed()].as_slice(), 0), "one record is named, and it is the bad one");
    let expected = if policy == RecordErrorPolicy::Skip { RecordDisposition::Skipped } else { RecordDisposition::DeadLettered };
    assert_eq!(errors.errors[0].disposition(), expected);
    assert!(!errors.errors[0].message.is_empty());
    let ack = stream.flushed("all").await;
    let counts = ack.counts.unwrap();
    assert_eq!((ack.next_offset.unsigned_abs(), counts.delivered_records, counts.rejected_records), (RECORDS, 999, 1), "the counters add up");
    stream.half_close();
    let ended = stream.ended().await.counts.unwrap();
    assert_eq!((ended.delivered_records, ended.rejected_records), (999, 1));
    (world, sent)
}

fn is_the_letter(letters: &[serde_json::Value], original: &str) {
    assert_eq!(letters.len(), 1, "one dead letter, once: {letters:?}");
    assert_eq!(letters[0]["offset"], POISON);
    assert_eq!(letters[0]["record"].as_str(), Some(original), "the dead letter carries the record as it came");
    assert!(letters[0]["reason"].as_str().is_some_and(|reason| !reason.is_empty()));
}

/// Under STOP everything before the record is settled, and the error names it.
pub async fn record_too_large(kind: &dyn Kind) {
    let (world, mut sent) = (World::new(kind).await, Sent::default());
    stops_at(&world, &mut sent, &world.target.too_large(10), &["RECORD_TOO_LARGE"]).await;
}

pub async fn template_field_missing(kind: &dyn Kind) {
    let world = World::bare(kind).await;
    let (options, record) = world.target.template();
    match create_sink(&world.admin(), SINK, &world.target.sink().with(options)).await {
        Ok(()) => stops_at_a_place(&world, &record).await,
        // A build that cannot place records by what they hold says so before anything is written.
        Err(status) => {
            assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_OPTION"), "{status:?}");
            assert!(status.message().contains("region"), "it names the field: {}", status.message());
        }
    }
}

async fn stops_at_a_place(world: &World, bad: &str) {
    let (mut stream, _) = Stream::open(&world.admin(), world.open("place")).await;
    stream.lines(0, &format!("{{\"n\":0,\"region\":\"eu\"}}\n{bad}\n")).await;
    assert_eq!(stream.record_errors().await.errors[0].offset, 1);
    let status = stream.failure().await;
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "RECORD_INVALID"), "{status:?}");
    assert!(status.message().contains("region"), "it names the field: {}", status.message());
    assert_eq!(world.read().await.len(), 1, "what came before it is there");
}

/// Sends ten good records, the bad one and five more.
async fn stops_at(world: &World, sent: &mut Sent, bad: &str, reasons: &[&str]) {
    let (mut stream, _) = Stream::open(&world.admin(), world.open("stop")).await;
    let lines = sent.lines(0..10) + bad + "\n" + &Sent::default().lines(11..16);
    stream.lines(0, &lines).await;
    let errors = stream.record_errors().await;
    assert_eq!(errors.errors.iter().map(|error| error.offset).collect::<Vec<_>>(), [10]);
    assert_eq!(errors.errors[0].disposition(), RecordDisposition::Stopped);
    let status = stream.failure().await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(reasons.contains(&reason(&status).as_str()), "{status:?}");
    assert!(status.get_error_details().retry_info().is_none(), "it never can succeed");
    world.check(sent).await;
    let (_, opened) = Stream::open(&world.admin(), world.open("stop")).await;
    assert_eq!(opened.next_offset, 10, "everything before it is settled");
}
