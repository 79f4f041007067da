//! Why: what passes is waited out and what a person must mend is told at once; neither loses what was acknowledged. Never sleeps: every fault is awaited by its own sign.

use datasink::api::pb::{AlterCredentialRequest, DestinationState, DestinationStatus, alter_credential_request, push_response};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::{
    kind::{Kind, SinkSpec},
    stream::{Next, Stream, reason},
    world::{SINK, Sent, World, create_sink, distinct},
};

/// Attempts that a refused credential may cost: one connection asks more than once before it writes.
const REFUSED_ATTEMPTS_MAX: u64 = 6;

pub async fn unreachable_backs_off_and_heals(kind: &dyn Kind) {
    let (world, mut sent) = (World::new(kind).await, Sent::default());
    let (mut stream, _) = Stream::open(&world.admin(), world.open("down")).await;
    stream.lines(0, &sent.lines(0..50)).await;
    stream.flush("before").await;
    stream.flushed("before").await;
    world.target.down().await;
    stream.lines(50, &sent.lines(50..100)).await;
    stream.flush("after").await;
    let mut attempt = 0;
    while attempt < 3 {
        let status = destination_status(&mut stream).await;
        assert_eq!(status.state(), DestinationState::Retrying, "{status:?}");
        assert!(status.attempt > attempt, "attempts are counted: {status:?} after {attempt}");
        attempt = status.attempt;
        let problem = status.problem.expect("a cause");
        assert!(problem.retryable && problem.message.contains(SINK), "it names the sink: {}", problem.message);
        assert!(status.next_attempt_time.is_some(), "and says when it tries again");
    }
    world.target.up().await;
    // The ack is the first sign that it heals; the status says so, too.
    let (mut acked, mut healthy) = (false, false);
    while !(acked && healthy) {
        match stream.next().await {
            Next::Frame(push_response::Frame::Ack(ack)) => acked = ack.flush_token == "after" && ack.next_offset == 100,
            Next::Frame(push_response::Frame::DestinationStatus(status)) => healthy = status.state() == DestinationState::Healthy,
            Next::Frame(push_response::Frame::Heartbeat(_)) => {}
            other => panic!("expected that it heals, got {other:?}"),
        }
    }
    world.check_after_crash(&sent).await;
}

/// The next status of the destination; until it heals nothing is acknowledged.
async fn destination_status(stream: &mut Stream) -> DestinationStatus {
    loop {
        match stream.next().await {
            Next::Frame(push_response::Frame::DestinationStatus(status)) => return status,
            Next::Frame(push_response::Frame::Heartbeat(_)) => {}
            other => panic!("expected destination_status, got {other:?}"),
        }
    }
}

/// The line breaks while a unit is half sent: a reader finds the units before it and nothing of this one, and later all of it.
pub async fn cut_in_the_middle_of_a_unit(kind: &dyn Kind) {
    let (world, mut sent) = (World::new(kind).await, Sent::default());
    let (mut stream, _) = Stream::open(&world.admin(), world.open("cut")).await;
    stream.lines(0, &sent.lines(0..50)).await;
    stream.flush("before").await;
    stream.flushed("before").await;
    let before = sent.clone();
    world.target.slow().await;
    stream.lines(50, &sent.lines(50..2_000)).await;
    stream.flush("after").await;
    world.target.break_in_the_middle().await;
    let status = destination_status(&mut stream).await;
    assert_eq!(status.state(), DestinationState::Retrying, "{status:?}");
    before.check(&world.read().await, false);
    world.target.up().await;
    assert_eq!(stream.flushed("after").await.next_offset, 2_000);
    world.check_after_crash(&sent).await;
}

/// Told at creation where it can be told without writing, and in a session at the first refusal.
pub async fn wrong_credential_never_retried(kind: &dyn Kind) {
    let world = World::guarded(kind).await;
    let spec = SinkSpec { credential: Some(world.target.wrong_credential()), ..world.target.sink() };
    if let Err(status) = world.create_sink("default.checked", &spec).await {
        is_refused(&status, &["DESTINATION_AUTH_FAILED", "DESTINATION_FORBIDDEN"]);
    }
    let before = world.target.attempts();
    let status = fails_for_good(&world, spec).await;
    is_refused(&status, &["DESTINATION_AUTH_FAILED", "DESTINATION_FORBIDDEN"]);
    let attempts = world.target.attempts() - before;
    assert!((1..=REFUSED_ATTEMPTS_MAX).contains(&attempts), "{attempts} attempts with a credential that was refused");
    let secret = world.target.wrong_credential().secret;
    assert!(!format!("{status:?}").contains(&secret), "an error never carries a secret");
}

/// The topic, bucket or path is not there.
pub async fn destination_missing(kind: &dyn Kind) {
    let world = World::bare(kind).await;
    let (spec, named) = world.target.nowhere();
    if let Err(status) = world.create_sink("default.checked", &spec).await {
        assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
        assert!(status.message().contains(&named), "it names {named:?}: {}", status.message());
    }
    let status = fails_for_good(&world, spec).await;
    is_refused(&status, &["DESTINATION_NOT_FOUND", "TABLE_NOT_FOUND"]);
    assert!(status.message().contains(&named), "it names {named:?}: {}", status.message());
}

/// Stores the sink unchecked and pushes through it, to the error that ends the session; a retry on the way is a fault.
async fn fails_for_good(world: &World, mut spec: SinkSpec) -> Status {
    spec.options.push(("skip_validation".to_owned(), "true".to_owned()));
    if let Err(status) = create_sink(&world.admin(), SINK, &spec).await {
        return status;
    }
    let mut stream = Stream::call(&world.admin()).await;
    stream.send(datasink::api::pb::push_request::Frame::Open(world.open("refused"))).await;
    let mut sent = false;
    loop {
        match stream.next().await {
            Next::Frame(push_response::Frame::Opened(_)) if !sent => {
                sent = true;
                stream.lines(0, &Sent::default().lines(0..5)).await;
                stream.flush("now").await;
            }
            Next::Frame(push_response::Frame::DestinationStatus(status)) if status.state() == DestinationState::Retrying => {
                panic!("it is tried again, and cannot succeed: {status:?}")
            }
            Next::Frame(push_response::Frame::Ack(ack)) => panic!("acknowledged by a destination that refuses: {ack:?}"),
            Next::Frame(_) => {}
            Next::Failed(status) => return status,
            Next::Ok => panic!("the session ended well"),
        }
    }
}

fn is_refused(status: &Status, reasons: &[&str]) {
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    assert!(reasons.contains(&reason(status).as_str()), "{status:?}");
    assert!(status.get_error_details().retry_info().is_none(), "no retry mends it: {status:?}");
}

/// A stored credential replaced by another is used from the next connection on; the session goes on.
pub async fn rotated_credential_taken_up(kind: &dyn Kind) {
    let (world, mut sent) = (World::guarded(kind).await, Sent::default());
    world.create_sink(SINK, &world.target.sink()).await.expect("the sink is made");
    let (mut stream, opened) = Stream::open(&world.admin(), world.open("rotated")).await;
    stream.lines(0, &sent.lines(0..50)).await;
    stream.flush("old").await;
    stream.flushed("old").await;
    let next = world.target.rotate().await;
    let request = AlterCredentialRequest {
        name: SINK.to_owned(),
        identity: Some(next.identity),
        secret_source: Some(alter_credential_request::SecretSource::Secret(next.secret)),
        ..AlterCredentialRequest::default()
    };
    assert!(world.admin().credentials().alter_credential(request).await.unwrap().into_inner().changed);
    world.target.retire_first_credential().await;
    for round in 1..4 {
        stream.lines(round * 50, &sent.lines(round * 50..round * 50 + 50)).await;
        stream.flush("new").await;
        // Whatever interrupts the session is no ack: `drain`, an end and a failure all panic here.
        loop {
            match stream.next().await {
                Next::Frame(push_response::Frame::Ack(ack)) if ack.flush_token == "new" => break,
                Next::Frame(push_response::Frame::Ack(_) | push_response::Frame::Heartbeat(_)) => {}
                other => panic!("the session was interrupted: {other:?}"),
            }
        }
    }
    world.check(&sent).await;
    assert_eq!(distinct(&world.read().await), 200);
    stream.half_close();
    assert_eq!(stream.ended().await.next_offset, 200, "of the session with epoch {}", opened.epoch);
}
