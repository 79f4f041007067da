//! Why: the fifteen laws of Push as a client meets them on the wire; each test has its law's number. The engine's own tests hold the same laws over a connector that lies and crashes.

use std::{collections::HashMap, time::Duration};

use datasink::api::pb::{
    CreateDataSinkRequest, DeliveryGuarantee, EndReason, FinishAction, FinishStream, OpenStream, RecordErrorPolicy, ShowPushStreamRequest, push_request,
    push_response,
};
use tonic::Code;

use crate::{
    receiver::{Answer, Receiver},
    stream::{Next, Stream, assert_error, fact, numbers, open},
    support::{Caller, Server},
};

async fn hook(admin: &Caller, receiver: &Receiver, options: &[(&str, &str)]) {
    let options: HashMap<String, String> = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let request = CreateDataSinkRequest { name: "default.hook".to_owned(), destination: receiver.url.clone(), options, ..Default::default() };
    admin.sinks().create_data_sink(request).await.unwrap();
}

#[tokio::test]
async fn law_01_opened_is_first_ended_is_last_and_nothing_follows_finish() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.table_and_sink("default.t", "default.s").await;
    let (mut stream, opened) = Stream::open(&admin, open("default.s", "one")).await;
    assert_eq!((opened.next_offset, opened.stream.as_str()), (0, "one"));
    assert_eq!(opened.delivery(), DeliveryGuarantee::ExactlyOnce);
    assert!(!opened.delivery_basis.is_empty());
    stream.numbers(0, 10).await;
    stream.finish().await;
    let ended = stream.ended().await;
    assert_eq!((ended.reason(), ended.next_offset, ended.resumable), (EndReason::Committed, 10, false));

    let (mut stream, _) = Stream::open(&admin, open("default.s", "after")).await;
    stream.finish().await;
    stream.numbers(0, 1).await;
    // Either the end came before the frame was read, or the frame is refused; it is never written.
    loop {
        match stream.next().await {
            Next::Frame(_) => {}
            Next::Ok => break,
            Next::Failed(status) => {
                assert_error(&status, Code::FailedPrecondition, "STREAM_FINISHED");
                break;
            }
        }
    }
    assert_eq!(admin.rows("default.t").await.len(), 10);
}

#[tokio::test]
async fn law_02_next_offset_never_falls() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.table_and_sink("default.t", "default.s").await;
    let mut last = 0;
    for round in 0..5_u64 {
        let (mut stream, opened) = Stream::open(&admin, open("default.s", "two")).await;
        assert!(opened.next_offset >= last, "opened {} after an ack of {last}", opened.next_offset);
        last = opened.next_offset;
        stream.numbers(last.unsigned_abs(), 50 + round).await;
        let goal = last + 50;
        while last < goal {
            match stream.next().await {
                Next::Frame(push_response::Frame::Ack(ack)) => {
                    assert!(ack.next_offset >= last);
                    last = ack.next_offset;
                }
                Next::Frame(_) => {}
                end => panic!("{end:?}"),
            }
        }
        // The connection is lost without a word.
    }
}

#[tokio::test]
async fn law_03_an_ack_comes_after_the_destination_has_it() {
    let server = Server::start().await;
    let admin = server.admin();
    let receiver = Receiver::start().await;
    hook(&admin, &receiver, &[("json_format", "nested"), ("max_batch_size", "5")]).await;
    receiver.script([Answer::Late(Duration::from_millis(400)), Answer::Status(503), Answer::Status(503)]);
    let (mut stream, opened) = Stream::open(&admin, open("default.hook", "three")).await;
    assert_eq!(opened.delivery(), DeliveryGuarantee::Idempotent);
    stream.numbers(0, 15).await;
    loop {
        match stream.next().await {
            Next::Frame(push_response::Frame::Ack(ack)) => {
                assert!(receiver.records().len() as i64 >= ack.next_offset, "acknowledged {} of which {} are there", ack.next_offset, receiver.records().len());
                if ack.next_offset == 15 {
                    break;
                }
            }
            Next::Frame(_) => {}
            end => panic!("{end:?}"),
        }
    }
    assert_eq!(receiver.records().iter().map(|record| record["n"].as_u64().unwrap()).collect::<Vec<_>>(), (0..15).collect::<Vec<_>>());
}

#[tokio::test]
async fn law_04_overlap_is_skipped_and_counted_and_acknowledged() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.table_and_sink("default.t", "default.s").await;
    let (mut stream, _) = Stream::open(&admin, open("default.s", "four")).await;
    stream.numbers(0, 10).await;
    stream.acked(10).await;
    stream.numbers(0, 10).await;
    stream.flush("again").await;
    let ack = stream.flushed("again").await;
    assert_eq!((ack.next_offset, ack.counts.unwrap().duplicate_records), (10, 10));
    stream.numbers(5, 10).await;
    let ack = stream.acked(15).await;
    assert_eq!(ack.counts.unwrap().duplicate_records, 15);
    assert_eq!(admin.rows("default.t").await.len(), 15);
}

#[tokio::test]
async fn law_05_the_same_client_takes_over_at_once_and_the_older_session_is_fenced() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.table_and_sink("default.t", "default.s").await;
    let (mut old, first) = Stream::open(&admin, open("default.s", "five")).await;
    old.numbers(0, 3).await;
    old.acked(3).await;
    let (mut new, second) = Stream::open(&admin, open("default.s", "five")).await;
    assert!(second.epoch > first.epoch);
    old.numbers(3, 5).await;
    let status = old.failure().await;
    assert_error(&status, Code::Aborted, "STREAM_FENCED");
    assert_eq!(fact(&status, "epoch"), first.epoch.to_string());
    new.numbers(3, 2).await;
    new.acked(5).await;
    assert_eq!(admin.rows("default.t").await.len(), 5);
}

#[tokio::test]
async fn law_06_a_session_holds_no_more_than_its_window_and_one_batch() {
    let server = Server::start().await;
    let admin = server.admin();
    let receiver = Receiver::start().await;
    hook(&admin, &receiver, &[("json_format", "nested"), ("max_batch_size", "100")]).await;
    receiver.always(Some(Answer::Never));
    let (mut stream, opened) = Stream::open(&admin, open("default.hook", "six")).await;
    let window = opened.window.unwrap();
    let pad = "x".repeat(1_000);
    let mut sent = 0;
    // Twice the window: the client must be stopped on the way, by HTTP/2's own flow control.
    let stopped = tokio::time::timeout(Duration::from_secs(3), async {
        for batch in 0..64_u64 {
            let lines: String = (0..500).map(|n| format!("{{\"n\":{},\"pad\":\"{pad}\"}}\n", batch * 500 + n)).collect();
            stream.lines(batch * 500, &lines).await;
            sent += 500;
        }
    })
    .await;
    assert!(stopped.is_err() || sent <= window.max_outstanding_records + 32_000, "the client was never stopped");
    let live = admin.push().show_push_stream(ShowPushStreamRequest { only_live: true, ..Default::default() }).await.unwrap().into_inner().streams;
    assert_eq!(live.len(), 1);
    assert!(live[0].outstanding_records <= window.max_outstanding_records + 500, "{} outstanding", live[0].outstanding_records);
    assert!(live[0].outstanding_bytes <= window.max_outstanding_bytes + opened.max_batch_bytes, "{} bytes outstanding", live[0].outstanding_bytes);
}

#[tokio::test]
async fn law_07_a_client_that_sends_everything_and_reads_afterwards_never_deadlocks() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.table_and_sink("default.t", "default.s").await;
    let skip = OpenStream { record_error_policy: RecordErrorPolicy::Skip.into(), ..open("default.s", "seven") };
    let (mut stream, _) = Stream::open(&admin, skip).await;
    for batch in 0..300_u64 {
        let lines: String = (0..20).map(|n| if n == 7 { "{\"n\":\"bad\"}\n".to_owned() } else { format!("{{\"n\":{n}}}\n") }).collect();
        stream.lines(batch * 20, &lines).await;
    }
    stream.half_close();
    let mut rejected = 0;
    let ended = loop {
        match stream.next().await {
            Next::Frame(push_response::Frame::RecordErrors(errors)) => {
                assert!(errors.errors.len() <= 100);
                rejected += errors.errors.len() as i64 + errors.more;
            }
            Next::Frame(push_response::Frame::Ended(ended)) => break ended,
            Next::Frame(_) => {}
            end => panic!("{end:?}"),
        }
    };
    let counts = ended.counts.unwrap();
    assert_eq!((ended.next_offset, counts.delivered_records, counts.rejected_records), (6_000, 5_700, 300));
    assert_eq!(rejected, 300, "every rejected record is listed or counted");
}

#[tokio::test]
async fn law_08_the_call_returns_before_the_first_frame() {
    let server = Server::start().await;
    // `call` sends nothing and would wait for ever otherwise.
    let _stream = Stream::call(&server.admin()).await;
}

#[tokio::test]
async fn law_09_half_close_settles_everything_and_can_be_resumed() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.table_and_sink("default.t", "default.s").await;
    let (mut stream, _) = Stream::open(&admin, open("default.s", "nine")).await;
    stream.numbers(0, 100).await;
    stream.half_close();
    let ended = stream.ended().await;
    assert_eq!((ended.reason(), ended.next_offset, ended.resumable), (EndReason::HalfClosed, 100, true));
    assert_eq!(admin.rows("default.t").await.len(), 100);
    let (_, opened) = Stream::open(&admin, open("default.s", "nine")).await;
    assert_eq!(opened.next_offset, 100);
}

#[tokio::test]
async fn law_10_a_finished_stream_says_so_again_and_takes_nothing_more() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.table_and_sink("default.t", "default.s").await;
    let (mut stream, _) = Stream::open(&admin, open("default.s", "ten")).await;
    stream.numbers(0, 4).await;
    stream.send(push_request::Frame::Finish(FinishStream { action: FinishAction::Commit.into(), expected_next_offset: Some(5) })).await;
    assert_error(&stream.failure().await, Code::OutOfRange, "OFFSET_GAP");
    let (mut stream, opened) = Stream::open(&admin, open("default.s", "ten")).await;
    stream.numbers(opened.next_offset.unsigned_abs(), 4 - opened.next_offset.unsigned_abs()).await;
    stream.finish().await;
    assert_eq!(stream.ended().await.reason(), EndReason::Committed);
    for _ in 0..2 {
        let (mut again, opened) = Stream::open(&admin, open("default.s", "ten")).await;
        assert_eq!(opened.next_offset, 4);
        let ended = again.ended().await;
        assert_eq!((ended.reason(), ended.next_offset), (EndReason::Committed, 4));
    }
    assert_eq!(admin.rows("default.t").await.len(), 4);
}

// Law 11 is in `bad_input`: a revoked permission, a dropped and an altered sink.

#[tokio::test]
async fn law_12_a_passing_fault_does_not_end_the_session() {
    let server = Server::start().await;
    let admin = server.admin();
    let receiver = Receiver::start().await;
    hook(&admin, &receiver, &[]).await;
    receiver.script([Answer::Status(503), Answer::Status(502), Answer::Status(429)]);
    let (mut stream, _) = Stream::open(&admin, open("default.hook", "twelve")).await;
    stream.numbers(0, 1).await;
    let (mut attempts, mut healed) = (0, false);
    loop {
        match stream.next().await {
            Next::Frame(push_response::Frame::DestinationStatus(status)) => {
                attempts = attempts.max(status.attempt);
                healed |= status.state() == datasink::api::pb::DestinationState::Healthy;
            }
            Next::Frame(push_response::Frame::Ack(ack)) if ack.next_offset == 1 => break,
            Next::Frame(_) => {}
            end => panic!("{end:?}"),
        }
    }
    assert!(attempts >= 1, "the client is told of the failures");
    stream.ping(7).await;
    loop {
        match stream.next().await {
            Next::Frame(push_response::Frame::Heartbeat(beat)) if beat.ping_id == 7 => {
                assert_eq!(beat.next_offset, 1);
                break;
            }
            Next::Frame(push_response::Frame::DestinationStatus(status)) => healed |= status.state() == datasink::api::pb::DestinationState::Healthy,
            Next::Frame(_) => {}
            end => panic!("{end:?}"),
        }
    }
    assert!(healed, "and of the end of them");
    assert_eq!(receiver.records().len(), 1);
}

#[tokio::test]
async fn law_13_stop_skip_and_dead_letter() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.table_and_sink("default.t", "default.s").await;
    admin.dead_letter_table("default.dead").await;
    let lines = "{\"n\":0}\n{\"n\":1}\nnonsense\n{\"n\":3}\n{\"n\":\"x\"}\n{\"n\":5}\n";
    let (mut stream, _) = Stream::open(&admin, open("default.s", "stop")).await;
    stream.lines(0, lines).await;
    let errors = stream.record_errors().await;
    assert_eq!((errors.errors[0].offset, errors.errors[0].disposition()), (2, datasink::api::pb::RecordDisposition::Stopped));
    assert_error(&stream.failure().await, Code::InvalidArgument, "RECORD_UNPARSABLE");
    assert_eq!(admin.rows("default.t").await.len(), 2);

    for round in 0..2 {
        let dead = OpenStream {
            record_error_policy: RecordErrorPolicy::DeadLetter.into(),
            dead_letter_sink: "table://default.dead".to_owned(),
            ..open("default.s", "dead")
        };
        let (mut stream, opened) = Stream::open(&admin, dead).await;
        assert_eq!(opened.next_offset, if round == 0 { 0 } else { 6 });
        stream.lines(0, lines).await;
        stream.flush("f").await;
        let ack = stream.flushed("f").await;
        let counts = ack.counts.unwrap();
        assert_eq!((ack.next_offset, counts.delivered_records, counts.rejected_records), (6, 4, 2));
    }
    assert_eq!(admin.rows("default.t").await.len(), 6);
    let letters = admin.rows("default.dead").await;
    assert_eq!(letters.len(), 2, "each dead letter once: {letters:?}");
    assert_eq!(letters[0]["record"], "nonsense");
    assert_eq!(letters[0]["offset"], 2);
    assert_eq!(letters[1]["offset"], 4);
}

#[tokio::test]
async fn law_14_a_lost_connection_unsettles_nothing_and_leaves_no_ghost() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.table_and_sink("default.t", "default.s").await;
    let (mut stream, _) = Stream::open(&admin, open("default.s", "fourteen")).await;
    stream.numbers(0, 10).await;
    stream.acked(10).await;
    stream.numbers(10, 10).await;
    drop(stream);
    let deadline = tokio::time::Instant::now() + crate::stream::PATIENCE;
    loop {
        let live = admin.push().show_push_stream(ShowPushStreamRequest { only_live: true, ..Default::default() }).await.unwrap().into_inner().streams;
        if live.is_empty() {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "a ghost is left: {live:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (mut stream, opened) = Stream::open(&admin, open("default.s", "fourteen")).await;
    assert!((10..=20).contains(&opened.next_offset));
    assert_eq!(admin.rows("default.t").await.len() as i64, opened.next_offset);
    stream.numbers(10, 10).await;
    stream.acked(20).await;
    assert_eq!(admin.rows("default.t").await.len(), 20);
}

#[tokio::test]
async fn law_15_counters_add_up() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.table_and_sink("default.t", "default.s").await;
    for round in 0..3_u64 {
        let skip = OpenStream { record_error_policy: RecordErrorPolicy::Skip.into(), ..open("default.s", "fifteen") };
        let (mut stream, opened) = Stream::open(&admin, skip).await;
        assert_eq!(opened.next_offset.unsigned_abs(), round * 10);
        stream.lines(round * 10, &"{\"n\":1}\n{\"n\":2}\n{}\n{\"n\":4}\nx\n".repeat(2)).await;
        let ack = stream.acked((round + 1) * 10).await;
        let counts = ack.counts.unwrap();
        assert_eq!(counts.delivered_records + counts.rejected_records, ack.next_offset);
        assert_eq!(counts.rejected_records.unsigned_abs(), (round + 1) * 4, "the mark carries the rejected ones over sessions");
    }
    let shown = admin.push().show_push_stream(ShowPushStreamRequest { stream: "fifteen".to_owned(), ..Default::default() }).await.unwrap().into_inner().streams;
    let counts = shown[0].counts.unwrap();
    assert_eq!((shown[0].next_offset, counts.delivered_records, counts.rejected_records), (30, 18, 12));
}

#[tokio::test]
async fn a_guarantee_that_the_kind_cannot_give_is_refused_at_open() {
    let server = Server::start().await;
    let admin = server.admin();
    let receiver = Receiver::start().await;
    hook(&admin, &receiver, &[]).await;
    let demand = OpenStream { required_delivery: DeliveryGuarantee::ExactlyOnce.into(), ..open("default.hook", "x") };
    assert_error(&Stream::refused(&admin, demand).await, Code::FailedPrecondition, "DELIVERY_UNSUPPORTED");
    let mode = OpenStream { commit_mode: datasink::api::pb::CommitMode::OnFinish.into(), ..open("default.hook", "x") };
    assert_error(&Stream::refused(&admin, mode).await, Code::FailedPrecondition, "COMMIT_MODE_UNSUPPORTED");
}

#[tokio::test]
async fn the_next_offset_may_be_left_to_the_server() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.table_and_sink("default.t", "default.s").await;
    let (mut stream, _) = Stream::open(&admin, open("default.s", "")).await;
    for _ in 0..3 {
        stream.send(push_request::Frame::Batch(numbers(None, 4))).await;
    }
    stream.acked(12).await;
    assert_eq!(admin.rows("default.t").await.len(), 12);
}
