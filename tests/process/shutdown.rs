//! Why: a stop is announced, loses nothing and comes to an end whatever the clients do. Never relies on a client's good manners.

use std::time::{Duration, Instant};

use datasink::api::pb::{DrainReason, EndReason, PushRequest, push_request, push_response};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use crate::{
    server::{PATIENCE, Place, assert_no_panic},
    stream::{Next, Stream, assert_error, numbers, open},
};

/// What is promised to whoever sends SIGTERM.
const STOPPED_WITHIN: Duration = Duration::from_secs(30);

/// Reads to the end of the session; gives whether drain came, the highest ack and how it ended.
async fn drained(stream: &mut Stream) -> (bool, i64) {
    let (mut drain_seen, mut acked) = (false, 0);
    loop {
        match stream.next().await {
            Next::Frame(push_response::Frame::Drain(drain)) => {
                assert_eq!(drain.reason(), DrainReason::Shutdown);
                assert!(drain.deadline.is_some() && drain.reconnect_after.is_some(), "{drain:?}");
                drain_seen = true;
            }
            Next::Frame(push_response::Frame::Ack(ack)) => {
                assert!(ack.next_offset >= acked, "acks never fall");
                acked = ack.next_offset;
            }
            Next::Frame(push_response::Frame::Ended(ended)) => {
                assert_eq!((ended.reason(), ended.resumable), (EndReason::Drained, true));
                assert!(ended.next_offset >= acked);
                assert!(matches!(stream.next().await, Next::Ok), "nothing but OK follows ended");
                return (drain_seen, ended.next_offset);
            }
            Next::Frame(_) => {}
            other => panic!("expected drain, acks and ended, got {other:?}"),
        }
    }
}

#[tokio::test]
async fn sigterm_drains_idle_and_busy_sessions_and_the_next_server_goes_on() {
    let place = Place::new();
    // With every default: what an operator gets.
    let mut server = place.serve().args(&["--drain-delay", "5s"]).start().await;
    let admin = server.admin().await;
    admin.local_sink("default.t").await;

    let mut health = server.health().await.watch(HealthCheckRequest { service: "datasink.v1.PushService".to_owned() }).await.unwrap().into_inner();
    assert_eq!(health.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let (mut idle, _) = Stream::open(&admin, open("default.t", "idle")).await;
    idle.numbers(0, 10).await;
    idle.flush("settled").await;
    idle.flushed("settled").await;

    // Busy: a task that sends until the server does not read any more.
    let (frames, outgoing) = mpsc::channel::<PushRequest>(4);
    let send = |frame| PushRequest { frame: Some(frame) };
    frames.send(send(push_request::Frame::Open(open("default.t", "busy")))).await.unwrap();
    let mut busy = admin.push().push(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
    #[expect(clippy::disallowed_methods, reason = "the test owns the task")]
    let sender = tokio::spawn(async move {
        let mut next = 0;
        while frames.send(send(push_request::Frame::Batch(numbers(Some(next), 100)))).await.is_ok() {
            next += 100;
        }
        next
    });
    // It is under way once the first ack is there.
    let mut acked = 0;
    while acked == 0 {
        if let Some(push_response::Frame::Ack(ack)) = busy.message().await.unwrap().expect("it goes on").frame {
            acked = ack.next_offset;
        }
    }

    let began = Instant::now();
    server.terminate();
    assert_eq!(health.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    let (drain_seen, next_offset) = drained(&mut idle).await;
    assert!(drain_seen);
    assert_eq!(next_offset, 10);

    let (mut drain_seen, mut ended) = (false, None);
    while let Some(answer) = busy.message().await.unwrap() {
        match answer.frame {
            Some(push_response::Frame::Drain(_)) => drain_seen = true,
            Some(push_response::Frame::Ended(frame)) => ended = Some(frame),
            Some(push_response::Frame::Ack(ack)) => acked = ack.next_offset,
            _ => {}
        }
    }
    let ended = ended.expect("ended comes before OK");
    assert!(drain_seen && ended.reason() == EndReason::Drained && ended.next_offset >= acked, "{ended:?}");
    drop(busy);
    sender.await.unwrap();
    drop((idle, health));
    let status = server.process.wait(STOPPED_WITHIN).await;
    assert!(status.success() && began.elapsed() < STOPPED_WITHIN, "{status} after {:?}", began.elapsed());
    assert_no_panic(&server.process.stderr());
    drop(server);

    let server = place.start().await;
    let admin = server.admin().await;
    let (_stream, opened) = Stream::open(&admin, open("default.t", "idle")).await;
    assert_eq!(opened.next_offset, 10);
    let (_stream, opened) = Stream::open(&admin, open("default.t", "busy")).await;
    assert_eq!(opened.next_offset, ended.next_offset, "the next server begins where the last one ended");
    assert_eq!(admin.numbers_in("default.t").await.len() as i64, 10 + ended.next_offset);
    server.stop().await;
}

#[tokio::test]
async fn new_streams_are_refused_while_draining() {
    let place = Place::new();
    let server = place.serve().args(&["--drain-delay", "3s"]).start().await;
    let admin = server.admin().await;
    admin.local_sink("default.t").await;
    let mut health = server.health().await.watch(HealthCheckRequest { service: String::new() }).await.unwrap().into_inner();
    health.message().await.unwrap();
    server.terminate();
    assert_eq!(health.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    // Before anything of it was read: a mesh may send the same call to another replica.
    let status = admin.push().push(tokio_stream::pending()).await.unwrap_err();
    assert_error(&status, Code::Unavailable, "SERVER_DRAINING");
    drop((health, admin));
    let mut server = server;
    assert!(server.process.wait(STOPPED_WITHIN).await.success());
}

#[tokio::test]
async fn a_client_that_never_reads_cannot_hold_the_server() {
    let place = Place::new();
    let mut server = place.start().await;
    let admin = server.admin().await;
    admin.local_sink("default.t").await;
    let (mut stream, _) = Stream::open(&admin, open("default.t", "deaf")).await;
    // Sends what fits into all windows, and reads nothing any more.
    for batch in 0..2_000 {
        if tokio::time::timeout(Duration::from_millis(500), stream.numbers(batch * 100, 100)).await.is_err() {
            break;
        }
    }
    let began = Instant::now();
    server.terminate();
    let status = server.process.wait(STOPPED_WITHIN).await;
    assert!(status.success(), "{status}");
    assert!(began.elapsed() < STOPPED_WITHIN, "{:?}", began.elapsed());
    assert_no_panic(&server.process.stderr());
    drop(stream);
}

#[tokio::test]
async fn a_second_sigterm_still_ends_well() {
    let place = Place::new();
    let mut server = place.start().await;
    let admin = server.admin().await;
    admin.local_sink("default.t").await;
    let (mut stream, _) = Stream::open(&admin, open("default.t", "s")).await;
    stream.numbers(0, 5).await;
    stream.flush("f").await;
    stream.flushed("f").await;
    server.terminate();
    if server.process.ended().is_none() {
        server.terminate();
    }
    let status = server.process.wait(STOPPED_WITHIN).await;
    assert!(status.success(), "{status}");
    assert_no_panic(&server.process.stderr());
    drop(server);
    let server = place.start().await;
    assert_eq!(server.admin().await.numbers_in("default.t").await, [0, 1, 2, 3, 4]);
    server.stop().await;
}

#[tokio::test]
async fn a_data_directory_has_one_server() {
    let place = Place::new();
    let server = place.start().await;
    let second = place.serve().patience(PATIENCE).start_refused().await;
    second.refused(74, &["data", "another process"]);
    assert_eq!(second.stdout, "", "a server that is not ready says so nowhere");
    server.admin().await.local_sink("default.t").await;
    server.stop().await;
    place.start().await.stop().await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let (place, other) = (Place::new(), Place::new());
    let server = place.start().await;
    let refused = other.serve().args(&["--listen", server.address()]).start_refused().await;
    refused.refused(69, &[server.address()]);
    server.stop().await;
}
