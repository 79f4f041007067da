//! Why: the mark and the records move together or not at all, whatever dies. Never believes an ack without reading the destination.

use datasink::api::pb::{CommitMode, EndReason, FinishAction, FinishStream, OpenStream, push_request, push_response};
use tonic::Code;
use tonic_types::StatusExt;

use crate::{
    kind::{Fence, Kind},
    stream::{Next, Stream, assert_error, reason},
    world::{Sent, World, distinct},
};

/// Kills of the server in one case.
const KILLS: u64 = 4;
/// Long enough that only a flush or an end closes a unit; the product's own limit.
const LINGER: prost_types::Duration = prost_types::Duration { seconds: 60, nanos: 0 };

/// The server is killed in the middle of everything; opening again finds the mark where the records are.
pub async fn mark_moves_with_data(kind: &dyn Kind) {
    let (mut world, mut sent, mut acked) = (World::new(kind).await, Sent::default(), 0);
    for _ in 0..KILLS {
        let next = opens_where_the_records_end(&world, &mut sent, acked).await;
        let (mut stream, opened) = Stream::open(&world.admin(), world.open("mark")).await;
        assert_eq!(opened.next_offset.unsigned_abs(), next);
        for batch in 0..12 {
            let first = next + batch * 25;
            stream.lines(first, &sent.lines(first..first + 25)).await;
            if batch == 5 {
                stream.flush("half").await;
            }
        }
        acked = stream.acked(next + 100).await.next_offset.unsigned_abs();
        world.kill().await;
    }
    let next = opens_where_the_records_end(&world, &mut sent, acked).await;
    let (mut stream, _) = Stream::open(&world.admin(), world.open("mark")).await;
    let end = sent.len().max(next) + 50;
    stream.lines(next, &sent.lines(next..end)).await;
    stream.flush("end").await;
    assert_eq!(stream.flushed("end").await.next_offset.unsigned_abs(), end);
    world.check_after_crash(&sent).await;
}

/// Opens, which fences whatever was still on its way, and compares the mark with what a reader finds.
async fn opens_where_the_records_end(world: &World, sent: &mut Sent, acked: u64) -> u64 {
    let (stream, opened) = Stream::open(&world.admin(), world.open("mark")).await;
    let next = opened.next_offset.unsigned_abs();
    assert!(next >= acked, "the stream is at {next} after an ack of {acked}");
    let seen = world.read().await;
    sent.invented(&seen);
    let found = distinct(&seen);
    if world.promises.mark_kept {
        assert_eq!(found, next, "the mark says {next}, and {found} records are there");
    } else {
        assert!(found >= next, "the mark says {next}, and only {found} records are there");
    }
    drop(stream);
    next
}

/// A commit takes effect and its reply is lost: read the mark, never guess.
pub async fn unknown_outcome_reread(kind: &dyn Kind) {
    let (world, mut sent) = (World::new(kind).await, Sent::default());
    let (mut stream, _) = Stream::open(&world.admin(), world.open("unknown")).await;
    stream.lines(0, &sent.lines(0..100)).await;
    stream.flush("before").await;
    stream.flushed("before").await;
    for round in 1..=3 {
        let first = round * 100;
        world.target.lose_reply().await;
        stream.lines(first, &sent.lines(first..first + 100)).await;
        stream.flush("after").await;
        let ack = stream.flushed("after").await;
        assert_eq!(ack.next_offset.unsigned_abs(), first + 100);
        assert_eq!(world.target.replies_lost(), round, "the reply was lost");
    }
    world.check(&sent).await;
}

/// A paused owner wakes after another one took the stream over; both send what the client really has.
pub async fn zombie_fenced(kind: &dyn Kind) {
    let (world, mut sent) = (World::new(kind).await, Sent::default());
    let (mut zombie, first) = Stream::open(&world.admin(), world.open("zombie")).await;
    zombie.lines(0, &sent.lines(0..10)).await;
    zombie.flush("mine").await;
    zombie.flushed("mine").await;
    let other = world.another().await;
    let (mut owner, second) = Stream::open(&other.admin(), world.open("zombie")).await;
    assert!(second.epoch > first.epoch && second.next_offset == 10);
    zombie.lines(10, &sent.lines(10..20)).await;
    zombie.flush("not any more").await;
    let acked = loop {
        match zombie.next().await {
            Next::Frame(push_response::Frame::Ack(ack)) if ack.flush_token == "not any more" => break Some(ack.next_offset),
            Next::Frame(_) => {}
            Next::Failed(status) => {
                assert_error(&status, Code::Aborted, "STREAM_FENCED");
                assert!(status.get_error_details().retry_info().is_none(), "a fenced writer is not to come back");
                break None;
            }
            Next::Ok => panic!("the zombie was told that all is well"),
        }
    };
    assert!(acked.is_none() || world.promises.fence == Fence::Names, "the zombie was told that {acked:?} are settled");
    // Other cuts than the zombie's.
    owner.lines(10, &sent.lines(10..17)).await;
    owner.lines(17, &sent.lines(17..40)).await;
    owner.flush("mine").await;
    assert_eq!(owner.flushed("mine").await.next_offset, 40);
    world.check(&sent).await;
}

/// The destination lacks what was acknowledged: say so and write nothing.
pub async fn went_back_detected(kind: &dyn Kind) {
    let (world, mut sent) = (World::new(kind).await, Sent::default());
    let (mut stream, _) = Stream::open(&world.admin(), world.open("back")).await;
    for first in [0, 100] {
        stream.lines(first, &sent.lines(first..first + 100)).await;
        stream.flush("unit").await;
        stream.flushed("unit").await;
    }
    stream.half_close();
    assert_eq!(stream.ended().await.next_offset, 200);
    world.target.go_back("back", 100).await;
    let before = world.read().await;
    assert!(distinct(&before) < 200, "records were lost, which is what this is about");
    let status = Stream::refused(&world.admin(), world.open("back")).await;
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "STREAM_MISMATCH"), "{status:?}");
    assert!(status.message().contains("default.sink") || status.message().contains("back"), "it names the object: {}", status.message());
    assert!(status.get_error_details().retry_info().is_none(), "no retry mends it");
    assert_eq!(world.read().await.len(), before.len(), "nothing was written");
}

/// A unit that is open when the server dies leaves nothing, and none is seen while it is open.
pub async fn half_a_unit_never_visible(kind: &dyn Kind) {
    let (mut world, mut sent) = (World::new(kind).await, Sent::default());
    // A full unit would be right to be seen, so the open one stays below every limit of a unit.
    let open = |world: &World| OpenStream { linger: Some(LINGER), ..world.open("half") };
    let (mut stream, _) = Stream::open(&world.admin(), open(&world)).await;
    stream.lines(0, &sent.lines(0..10)).await;
    stream.flush("whole").await;
    stream.flushed("whole").await;
    let unsettled = Sent::default().lines(10..15);
    stream.lines(10, &unsettled).await;
    // The answer to a ping comes after the batch before it was taken.
    stream.ping(7).await;
    while !matches!(stream.next().await, Next::Frame(push_response::Frame::Heartbeat(beat)) if beat.ping_id == 7) {}
    world.check(&sent).await;
    world.kill().await;
    world.check(&sent).await;
    let (mut stream, opened) = Stream::open(&world.admin(), open(&world)).await;
    assert_eq!(opened.next_offset, 10);
    stream.lines(10, &sent.lines(10..30)).await;
    stream.flush("end").await;
    stream.flushed("end").await;
    world.check(&sent).await;
}

/// What a killed server had sent of an object that is not finished goes when its stream is opened again.
pub async fn upload_of_a_kill_removed(kind: &dyn Kind) {
    let (mut world, mut sent) = (World::new(kind).await, Sent::default());
    let mut stream = stage_a_dozen(&world, &mut sent).await;
    stream.flush("staged").await;
    stream.flushed("staged").await;
    let under_way = world.target.uploads(&[]).await;
    assert_eq!(under_way.len(), 1, "one upload is under way: {under_way:?}");
    world.kill().await;
    drop(stream);
    assert_eq!(world.target.uploads(&[]).await, under_way, "a kill removes nothing");
    let mut stream = stage_a_dozen(&world, &mut sent).await;
    assert!(world.target.uploads(&under_way).await.is_empty(), "the next open removes it");
    stream.finish().await;
    let ended = stream.ended().await;
    assert_eq!((ended.reason(), ended.next_offset), (EndReason::Committed, 12));
    assert!(world.target.uploads(&under_way).await.is_empty(), "nor does the new one leave anything");
    world.check(&sent).await;
}

/// What a killed server had sent of a large object keeps no smaller one from its name.
pub async fn smaller_object_after_a_kill(kind: &dyn Kind) {
    let (mut world, mut sent) = (World::new(kind).await, Sent::default());
    // Nobody is to read these.
    let mut stream = stage_a_dozen(&world, &mut Sent::default()).await;
    stream.flush("staged").await;
    stream.flushed("staged").await;
    world.kill().await;
    drop(stream);
    let (mut stream, opened) = Stream::open(&world.admin(), staged(&world)).await;
    assert_eq!(opened.next_offset, 0, "what was staged counts for nothing");
    stream.lines(0, &sent.lines(0..3)).await;
    stream.finish().await;
    let ended = stream.ended().await;
    assert_eq!((ended.reason(), ended.next_offset), (EndReason::Committed, 3));
    world.check(&sent).await;
}

fn staged(world: &World) -> OpenStream {
    OpenStream { commit_mode: CommitMode::OnFinish.into(), ..world.open("staged") }
}

/// A stream of which nothing counts yet, and twelve records in it, more than a part of an object.
async fn stage_a_dozen(world: &World, sent: &mut Sent) -> Stream {
    let (mut stream, opened) = Stream::open(&world.admin(), staged(world)).await;
    assert_eq!(opened.next_offset, 0, "what was staged counts for nothing");
    for first in [0, 4, 8] {
        let line = |n: u64| serde_json::json!({ "n": n, "pad": "x".repeat(900_000), "region": "" });
        let lines: String = (first..first + 4).map(|n| sent.record(n, line(n)) + "\n").collect();
        stream.lines(first, &lines).await;
    }
    stream
}

/// Nothing before finish, everything after, nothing on abort.
pub async fn on_finish(kind: &dyn Kind) {
    let (world, mut sent) = (World::new(kind).await, Sent::default());
    let open = |name: &str| OpenStream { commit_mode: CommitMode::OnFinish.into(), ..world.open(name) };
    let (mut kept, _) = Stream::open(&world.admin(), open("kept")).await;
    let (mut left, _) = Stream::open(&world.admin(), open("left")).await;
    for first in [0, 100] {
        for (stream, lines) in [(&mut kept, sent.lines(first..first + 100)), (&mut left, Sent::default().lines(5_000 + first..5_100 + first))] {
            stream.lines(first, &lines).await;
            stream.flush("staged").await;
            assert_eq!(stream.flushed("staged").await.next_offset.unsigned_abs(), first + 100);
        }
        assert!(world.read().await.is_empty(), "nothing is seen before finish");
    }
    let finish = |action: FinishAction| push_request::Frame::Finish(FinishStream { action: action.into(), expected_next_offset: Some(200) });
    left.send(finish(FinishAction::Abort)).await;
    assert_eq!(left.ended().await.reason(), EndReason::Aborted);
    assert!(world.read().await.is_empty(), "an abort leaves nothing");
    kept.send(finish(FinishAction::Commit)).await;
    let ended = kept.ended().await;
    assert_eq!((ended.reason(), ended.next_offset, ended.resumable), (EndReason::Committed, 200, false));
    world.check(&sent).await;
}
