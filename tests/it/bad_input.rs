//! Why: what a wrong request gets: the row of the error table, all faults at once, and nothing acknowledged lost. One test a row.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use datasink::api::pb::{
    AlterDataSinkRequest, Column, ColumnType, CreateAccessTokenRequest, CreateDataSinkRequest, CreateTableRequest, DrainReason, DropDataSinkRequest,
    DropPushStreamRequest, EndReason, ObjectType, PermissionKind, PushOnceRequest, RecordBatch, RecordErrorPolicy, RecordSchema, RevokePermissionRequest,
    ScanRowsRequest, ShowDataSinkRequest, ShowPushStreamRequest, WhoAmIRequest, push_request, push_response, record_batch,
};
use datasink::clock::{Ambient, Clock, SystemIds, Timestamp};
use tonic::Code;
use tonic_types::StatusExt;

use crate::{
    stream::{Next, PATIENCE, Stream, assert_error, fact, lines_batch, numbers, open, reason},
    support::Server,
};

fn sink(name: &str, destination: &str, options: &[(&str, &str)]) -> CreateDataSinkRequest {
    CreateDataSinkRequest {
        name: name.to_owned(),
        destination: destination.to_owned(),
        options: options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<HashMap<_, _>>(),
        ..CreateDataSinkRequest::default()
    }
}

#[tokio::test]
async fn every_wrong_option_is_named_at_once() {
    let server = Server::start().await;
    let request = sink(
        "default.bad",
        "http://127.0.0.1:9",
        &[("json_formt", "flat"), ("max_batch_size", "many"), ("json_format", "round"), ("wait_timeout", "0"), ("zzz", "1")],
    );
    let status = server.admin().sinks().create_data_sink(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let details = status.get_error_details();
    let mut fields: Vec<&str> = details.bad_request().expect("BadRequest").field_violations.iter().map(|v| v.field.as_str()).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["options[\"json_format\"]", "options[\"json_formt\"]", "options[\"max_batch_size\"]", "options[\"wait_timeout\"]", "options[\"zzz\"]"]);
    let status = server.admin().sinks().create_data_sink(sink("default.bad", "http://127.0.0.1:9", &[("json_formt", "flat")])).await.unwrap_err();
    assert_error(&status, Code::InvalidArgument, "UNKNOWN_OPTION");
    assert_eq!(fact(&status, "did_you_mean"), "json_format");
    assert_eq!(fact(&status, "kind"), "webhook");
}

#[tokio::test]
async fn names_schemes_and_destinations_are_checked() {
    let server = Server::start().await;
    let mut sinks = server.admin().sinks();
    for name in ["", "a.b.c", "default.x*y", "default.", &format!("default.{}", "n".repeat(201)), "default.né"] {
        let status = sinks.create_data_sink(sink(name, "table://default.t", &[])).await.unwrap_err();
        assert_error(&status, Code::InvalidArgument, "INVALID_NAME");
    }
    for destination in ["", "ftp://host", "no scheme at all", "table://", "http://", "http://user:s3cr3t@host/", "http://h\r\nx/"] {
        let status = sinks.create_data_sink(sink("default.s", destination, &[])).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{destination}: {status:?}");
        assert!(!status.message().contains("s3cr3t"), "{}", status.message());
    }
    let status = sinks.create_data_sink(sink("default.s", "hdfs://h:8020", &[])).await.unwrap_err();
    assert_error(&status, Code::Unimplemented, "KIND_UNSUPPORTED");
}

#[tokio::test]
async fn missing_things_and_stale_etags() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.table("default.t").await;
    let status = admin.sinks().show_data_sink(ShowDataSinkRequest { name: "default.none".to_owned(), ..Default::default() }).await.unwrap_err();
    assert_error(&status, Code::NotFound, "DATA_SINK_NOT_FOUND");
    let status = admin.sinks().create_data_sink(sink("default.s", "table://default.none", &[])).await.unwrap_err();
    assert_error(&status, Code::FailedPrecondition, "TABLE_NOT_FOUND");
    let status = admin.sinks().create_data_sink(sink("default.s", "http://127.0.0.1:9", &[("credential", "default.none")])).await.unwrap_err();
    assert_error(&status, Code::FailedPrecondition, "CREDENTIAL_NOT_FOUND");

    let made = admin.sinks().create_data_sink(sink("default.s", "table://default.t", &[])).await.unwrap().into_inner().data_sink.unwrap();
    let status = admin.sinks().create_data_sink(sink("default.s", "table://default.t", &[])).await.unwrap_err();
    assert_error(&status, Code::AlreadyExists, "ALREADY_EXISTS");
    let status = admin.sinks().alter_data_sink(AlterDataSinkRequest { name: "default.s".to_owned(), ..Default::default() }).await.unwrap_err();
    assert_error(&status, Code::InvalidArgument, "NOTHING_TO_ALTER");
    let alter = |etag: &str| AlterDataSinkRequest {
        name: "default.s".to_owned(),
        updates: HashMap::from([("wait_timeout".to_owned(), "7".to_owned())]),
        etag: etag.to_owned(),
        ..Default::default()
    };
    let changed = admin.sinks().alter_data_sink(alter(&made.etag)).await.unwrap().into_inner();
    assert!(changed.changed);
    let status = admin.sinks().alter_data_sink(alter(&made.etag)).await.unwrap_err();
    assert_error(&status, Code::Aborted, "ETAG_MISMATCH");
    assert_eq!(fact(&status, "current_etag"), changed.data_sink.unwrap().etag);
}

#[tokio::test]
async fn a_destination_that_is_down_stores_no_sink_unless_validation_is_skipped() {
    let server = Server::start().await;
    let mut sinks = server.admin().sinks();
    let dead = dead_port().await;
    let status = sinks.create_data_sink(sink("default.hook", &format!("http://127.0.0.1:{dead}/x"), &[])).await.unwrap_err();
    assert_error(&status, Code::FailedPrecondition, "DESTINATION_UNREACHABLE");
    assert!(status.get_error_details().retry_info().is_none());
    let status = sinks.show_data_sink(ShowDataSinkRequest { name: "default.hook".to_owned(), ..Default::default() }).await.unwrap_err();
    assert_error(&status, Code::NotFound, "DATA_SINK_NOT_FOUND");
    sinks.create_data_sink(sink("default.hook", &format!("http://127.0.0.1:{dead}/x"), &[("skip_validation", "true")])).await.unwrap();
}

#[tokio::test]
async fn a_destination_that_is_down_mid_stream_ends_it_with_aborted_and_a_pause() {
    let server = Server::start().await;
    let admin = server.admin();
    let dead = dead_port().await;
    let options = [("skip_validation", "true"), ("wait_timeout", "2")];
    admin.sinks().create_data_sink(sink("default.hook", &format!("http://127.0.0.1:{dead}/x"), &options)).await.unwrap();
    let (mut stream, _) = Stream::open(&admin, open("default.hook", "s")).await;
    stream.numbers(0, 3).await;
    let mut told = false;
    let status = loop {
        match stream.next().await {
            Next::Frame(push_response::Frame::DestinationStatus(status)) => told |= status.problem.is_some() && status.attempt > 0,
            Next::Frame(push_response::Frame::Ack(ack)) => assert_eq!(ack.next_offset, 0, "nothing can be settled"),
            Next::Frame(_) => {}
            Next::Failed(status) => break status,
            Next::Ok => panic!("it cannot end well"),
        }
    };
    assert!(told, "destination_status tells before the end");
    assert_error(&status, Code::Aborted, "DESTINATION_UNREACHABLE");
    assert!(status.get_error_details().retry_info().is_some());
    assert_eq!(fact(&status, "next_offset"), "0");
}

#[tokio::test]
async fn frames_out_of_order() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.table_and_sink("default.t", "default.s").await;
    let mut stream = Stream::call(&admin).await;
    stream.send(push_request::Frame::Batch(numbers(Some(0), 1))).await;
    assert_error(&stream.failure().await, Code::InvalidArgument, "OPEN_REQUIRED");

    let (mut stream, _) = Stream::open(&admin, open("default.s", "twice")).await;
    stream.send(push_request::Frame::Open(open("default.s", "twice"))).await;
    assert_error(&stream.failure().await, Code::InvalidArgument, "OPEN_REPEATED");

    let (mut stream, _) = Stream::open(&admin, open("default.s", "gap")).await;
    stream.numbers(0, 5).await;
    stream.acked(5).await;
    stream.numbers(7, 1).await;
    let status = stream.failure().await;
    assert_error(&status, Code::OutOfRange, "OFFSET_GAP");
    assert_eq!((fact(&status, "expected_offset").as_str(), fact(&status, "first_offset").as_str()), ("5", "7"));
    assert_eq!(admin.rows("default.t").await.len(), 5, "the batch behind the gap wrote nothing");

    let (mut stream, opened) = Stream::open(&admin, open("default.s", "gap")).await;
    assert_eq!(opened.next_offset, 5);
    stream.numbers(3, 4).await;
    let ack = stream.acked(7).await;
    assert_eq!(ack.counts.unwrap().duplicate_records, 2);
    assert_eq!(admin.rows("default.t").await.len(), 7);
}

#[tokio::test]
async fn two_writers() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.table_and_sink("default.t", "default.s").await;
    let (mut first, opened) = Stream::open(&admin, open("default.s", "shared")).await;
    first.numbers(0, 2).await;
    first.acked(2).await;
    let other = || datasink::api::pb::OpenStream { client_id: "other".to_owned(), ..open("default.s", "shared") };
    let status = Stream::refused(&admin, other()).await;
    assert_error(&status, Code::FailedPrecondition, "STREAM_IN_USE");
    assert_eq!(fact(&status, "client_id"), "test");
    let once = PushOnceRequest { data_sink: "default.s".to_owned(), stream: "shared".to_owned(), batch: Some(numbers(None, 1)), ..Default::default() };
    assert_error(&admin.push().push_once(once).await.unwrap_err(), Code::FailedPrecondition, "STREAM_IN_USE");

    let (mut second, taken) = Stream::open(&admin, datasink::api::pb::OpenStream { takeover: true, ..other() }).await;
    assert!(taken.epoch > opened.epoch);
    assert_eq!(taken.next_offset, 2);
    let status = first.failure().await;
    assert_error(&status, Code::Aborted, "STREAM_FENCED");
    assert!(status.get_error_details().retry_info().is_none(), "the loser must not come back");
    second.numbers(2, 1).await;
    second.acked(3).await;
    assert_eq!(admin.rows("default.t").await.len(), 3);
}

#[tokio::test]
async fn records_that_are_no_records() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.table_and_sink("default.t", "default.s").await;
    for (at, line, why) in [
        (0, "not json", "RECORD_UNPARSABLE"),
        (1, "[1]", "RECORD_UNPARSABLE"),
        (2, "{\"n\":\"x\"}", "RECORD_INVALID"),
        (3, "{\"m\":1}", "RECORD_INVALID"),
        (4, &format!("{{\"n\":{}1{}}}", "[".repeat(70), "]".repeat(70)), "RECORD_UNPARSABLE"),
    ] {
        let (mut stream, opened) = Stream::open(&admin, open("default.s", "bad")).await;
        assert_eq!(opened.next_offset, at, "{line}");
        stream.lines(at.unsigned_abs(), &format!("{{\"n\":{at}}}\n{line}\n{{\"n\":99}}\n")).await;
        let errors = stream.record_errors().await;
        assert_eq!(errors.errors[0].offset, at + 1, "{line}");
        let status = stream.failure().await;
        assert_error(&status, Code::InvalidArgument, why);
        assert_eq!(fact(&status, "offset"), (at + 1).to_string());
        assert_eq!(admin.rows("default.t").await.len(), usize::try_from(at + 1).unwrap(), "everything before the bad record is there, nothing behind it");
    }
    let batch = RecordBatch { record_count: 3, ..numbers(Some(5), 2) };
    let (mut stream, _) = Stream::open(&admin, open("default.s", "bad")).await;
    stream.send(push_request::Frame::Batch(batch)).await;
    let status = stream.failure().await;
    assert_error(&status, Code::InvalidArgument, "RECORD_COUNT_MISMATCH");
    assert_eq!((fact(&status, "stated").as_str(), fact(&status, "found").as_str()), ("3", "2"));
}

#[tokio::test]
async fn an_encoding_that_is_unknown_or_not_the_agreed_one() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.table_and_sink("default.t", "default.s").await;
    let status = Stream::refused(&admin, datasink::api::pb::OpenStream { encoding: 99, ..open("default.s", "e") }).await;
    assert_error(&status, Code::InvalidArgument, "INVALID_FIELD");
    let agreed = datasink::api::pb::OpenStream { encoding: datasink::api::pb::RecordEncoding::ArrowIpc.into(), ..open("default.s", "e") };
    let (mut stream, _) = Stream::open(&admin, agreed).await;
    stream.numbers(0, 1).await;
    assert_error(&stream.failure().await, Code::InvalidArgument, "INVALID_FIELD");
    let (mut stream, _) = Stream::open(&admin, open("default.s", "f")).await;
    stream.send(push_request::Frame::Batch(RecordBatch::default())).await;
    let status = stream.failure().await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(["EMPTY_FRAME", "INVALID_FIELD"].contains(&reason(&status).as_str()));
}

#[tokio::test]
async fn a_message_over_the_limit_and_a_bomb_are_refused_with_their_size() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.table_and_sink("default.t", "default.s").await;
    let huge = RecordBatch { payload: Some(record_batch::Payload::Ndjson(vec![b' '; 17 << 20].into())), ..RecordBatch::default() };
    let (mut stream, _) = Stream::open(&admin, open("default.s", "big")).await;
    stream.send(push_request::Frame::Batch(huge.clone())).await;
    let status = stream.failure().await;
    assert_error(&status, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");

    let once = PushOnceRequest { data_sink: "default.s".to_owned(), batch: Some(huge), ..Default::default() };
    let status = admin.push().send_compressed(tonic::codec::CompressionEncoding::Gzip).push_once(once).await.unwrap_err();
    assert_error(&status, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");

    // Within the message limit, beyond the batch limit.
    let (mut stream, opened) = Stream::open(&admin, open("default.s", "big")).await;
    assert_eq!(opened.max_batch_bytes, 4 << 20);
    let lines = format!("{{\"n\":1,\"pad\":\"{}\"}}\n", "x".repeat(900 << 10)).repeat(5);
    stream.send(push_request::Frame::Batch(lines_batch(Some(0), &lines))).await;
    assert_error(&stream.failure().await, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
    // The server lives.
    assert_eq!(admin.rows("default.t").await.len(), 0);
}

#[tokio::test]
async fn a_revoked_permission_ends_the_stream_and_what_was_acknowledged_stays() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.table_and_sink("default.t", "default.s").await;
    let user = admin.user("pusher").await;
    admin.grant("pusher", ObjectType::DataSink, "default.s", PermissionKind::Connect).await;
    let (mut stream, _) = Stream::open(&user, open("default.s", "mine")).await;
    stream.numbers(0, 4).await;
    stream.acked(4).await;
    let revoke = RevokePermissionRequest {
        principal: "pusher".to_owned(),
        object_type: ObjectType::DataSink.into(),
        object: "default.s".to_owned(),
        permission: PermissionKind::Connect.into(),
        ..Default::default()
    };
    admin.permissions().revoke_permission(revoke).await.unwrap();
    assert_error(&stream.failure().await, Code::PermissionDenied, "PERMISSION_DENIED");
    assert_error(&Stream::refused(&user, open("default.s", "mine")).await, Code::PermissionDenied, "PERMISSION_DENIED");
    assert_eq!(admin.rows("default.t").await.len(), 4);
}

/// A clock that the test moves.
#[derive(Debug, Default)]
struct Hand(AtomicI64);

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::Relaxed))
    }
}

#[tokio::test]
async fn an_access_token_that_expires_ends_the_stream_and_what_was_acknowledged_stays() {
    let clock = Arc::new(Hand::default());
    let server = Server::start_at(Ambient { clock: clock.clone(), ids: Arc::new(SystemIds) }, |_| {}).await;
    let admin = server.admin();
    admin.table_and_sink("default.t", "default.s").await;
    let request = CreateAccessTokenRequest { ttl: Some(prost_types::Duration { seconds: 3_600, nanos: 0 }), ..Default::default() };
    let token = admin.permissions().create_access_token(request).await.unwrap().into_inner().token;
    let user = server.caller(&token);
    let (mut stream, _) = Stream::open(&user, open("default.s", "mine")).await;
    stream.numbers(0, 4).await;
    stream.acked(4).await;
    clock.0.store(3_600 * 1_000_000, Ordering::Relaxed);
    let status = stream.failure().await;
    assert_error(&status, Code::Unauthenticated, "UNAUTHENTICATED");
    assert!(status.message().contains("expired"), "{status:?}");
    let again = user.sinks().show_data_sink(ShowDataSinkRequest::default()).await.unwrap_err();
    assert_error(&again, Code::Unauthenticated, "UNAUTHENTICATED");
    let (_, opened) = Stream::open(&admin, open("default.s", "mine")).await;
    assert_eq!(opened.next_offset, 4);
    assert_eq!(admin.rows("default.t").await.len(), 4);
}

#[tokio::test]
async fn one_session_too_many_is_refused_until_another_ends() {
    let server = Server::start_with(|settings| settings.sessions_max = 2).await;
    let admin = server.admin();
    admin.table_and_sink("default.t", "default.s").await;
    let (_first, _) = Stream::open(&admin, open("default.s", "a")).await;
    let (mut second, _) = Stream::open(&admin, open("default.s", "b")).await;
    let refused = Stream::refused(&admin, open("default.s", "c")).await;
    assert_error(&refused, Code::ResourceExhausted, "TOO_MANY_STREAMS");
    assert_eq!(fact(&refused, "limit"), "2");
    assert!(refused.get_error_details().retry_info().is_some(), "{refused:?}");
    second.half_close();
    second.ended().await;
    let (mut third, _) = Stream::open(&admin, open("default.s", "c")).await;
    third.numbers(0, 3).await;
    third.acked(3).await;
}

#[tokio::test]
async fn an_old_connection_is_left_by_new_calls_and_its_streams_live_on() {
    let server = Server::start_with(|settings| settings.connection_age = Duration::from_millis(300)).await;
    let admin = server.admin();
    admin.table_and_sink("default.t", "default.s").await;
    let (mut stream, _) = Stream::open(&admin, open("default.s", "a")).await;
    // A call that meets the end of its connection fails on our side; whoever calls again has a new one.
    let peer = async || admin.server().who_am_i(WhoAmIRequest {}).await.map(|answer| answer.into_inner().peer).ok();
    let live = ShowPushStreamRequest { only_live: true, ..ShowPushStreamRequest::default() };
    let first = admin.push().show_push_stream(live).await.unwrap().into_inner().streams[0].peer.clone();
    for turn in 0.. {
        stream.numbers(turn * 5, 5).await;
        stream.acked(turn * 5 + 5).await;
        if peer().await.is_some_and(|peer| peer != first) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stream.ping(1).await;
    stream.finish().await;
    assert_eq!(stream.ended().await.reason(), EndReason::Committed);
}

#[tokio::test]
async fn an_old_session_is_asked_to_move_and_ends_well() {
    let server = Server::start_with(|settings| settings.session_age = Duration::from_millis(50)).await;
    let admin = server.admin();
    admin.table_and_sink("default.t", "default.s").await;
    let (mut stream, _) = Stream::open(&admin, open("default.s", "a")).await;
    stream.numbers(0, 3).await;
    let mut drained = false;
    let ended = loop {
        match stream.next().await {
            Next::Frame(push_response::Frame::Drain(drain)) => {
                assert_eq!(drain.reason(), DrainReason::Rebalance);
                drained = true;
            }
            Next::Frame(push_response::Frame::Ended(ended)) => break ended,
            Next::Frame(_) => {}
            end => panic!("{end:?}"),
        }
    };
    assert!(drained, "asked before it ended");
    // Whatever of the three records came before the drain is settled; the rest is sent to the next session.
    assert!(ended.resumable && ended.next_offset <= 3, "{ended:?}");
    assert_eq!(admin.rows("default.t").await.len() as i64, ended.next_offset);
}

#[tokio::test]
async fn a_dropped_sink_ends_its_streams_and_an_altered_one_drains_them() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.table_and_sink("default.t", "default.s").await;
    let (mut stream, _) = Stream::open(&admin, open("default.s", "a")).await;
    stream.numbers(0, 3).await;
    stream.acked(3).await;
    let alter =
        AlterDataSinkRequest { name: "default.s".to_owned(), updates: HashMap::from([("wait_timeout".to_owned(), "9".to_owned())]), ..Default::default() };
    admin.sinks().alter_data_sink(alter).await.unwrap();
    loop {
        match stream.next().await {
            Next::Frame(push_response::Frame::Drain(drain)) => {
                assert_eq!(drain.reason(), DrainReason::SinkAltered);
                break;
            }
            Next::Frame(_) => {}
            end => panic!("expected drain, got {end:?}"),
        }
    }
    assert!(stream.ended().await.resumable);
    let (mut stream, opened) = Stream::open(&admin, open("default.s", "a")).await;
    assert_eq!(opened.next_offset, 3);
    assert_eq!(opened.sink.unwrap().generation, 2);
    admin.sinks().drop_data_sink(DropDataSinkRequest { name: "default.s".to_owned(), ..Default::default() }).await.unwrap();
    assert_error(&stream.failure().await, Code::NotFound, "DATA_SINK_NOT_FOUND");
    assert_eq!(admin.rows("default.t").await.len(), 3);
    let streams = admin.push().show_push_stream(ShowPushStreamRequest { only_live: true, ..Default::default() }).await.unwrap().into_inner();
    assert!(streams.streams.is_empty(), "no ghost is left: {streams:?}");
}

#[tokio::test]
async fn a_dropped_stream_begins_anew_and_its_rows_stay() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.table_and_sink("default.t", "default.s").await;
    let (mut stream, _) = Stream::open(&admin, open("default.s", "again")).await;
    stream.numbers(0, 3).await;
    stream.acked(3).await;
    let drop = || DropPushStreamRequest { data_sink: "default.s".to_owned(), stream: "again".to_owned(), ..Default::default() };
    assert!(admin.push().drop_push_stream(drop()).await.unwrap().into_inner().dropped);
    assert_error(&stream.failure().await, Code::Aborted, "STREAM_FENCED");
    assert_error(&admin.push().drop_push_stream(drop()).await.unwrap_err(), Code::NotFound, "STREAM_NOT_FOUND");
    let (mut stream, opened) = Stream::open(&admin, open("default.s", "again")).await;
    assert_eq!(opened.next_offset, 0);
    stream.numbers(0, 1).await;
    stream.acked(1).await;
    assert_eq!(admin.rows("default.t").await.len(), 4);
}

#[tokio::test]
async fn a_silent_client_is_told_and_let_go() {
    let server = Server::start_with(|settings| settings.first_frame_timeout = Duration::from_millis(300)).await;
    let mut stream = Stream::call(&server.admin()).await;
    let status = stream.failure().await;
    assert_eq!(reason(&status), "IDLE_TIMEOUT");
}

#[tokio::test]
async fn push_once_lists_its_bad_records_and_replays_a_request_id() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.table_and_sink("default.t", "default.s").await;
    let lines: String = (0..40).map(|n| if n % 2 == 0 { format!("{{\"n\":{n}}}\n") } else { "{\"n\":\"bad\"}\n".to_owned() }).collect();
    let request = PushOnceRequest { data_sink: "default.s".to_owned(), batch: Some(lines_batch(None, &lines)), ..Default::default() };
    let status = admin.push().push_once(request.clone()).await.unwrap_err();
    assert_error(&status, Code::InvalidArgument, "RECORD_INVALID");
    let skip = PushOnceRequest {
        record_error_policy: RecordErrorPolicy::Skip.into(),
        request_id: "6f0c3a1e-0d2b-4c0e-9a53-0d0f6f3e7b11".to_owned(),
        ..request.clone()
    };
    let before = admin.rows("default.t").await.len();
    let first = admin.push().push_once(skip.clone()).await.unwrap().into_inner();
    let counts = first.counts.unwrap();
    assert_eq!((counts.delivered_records, counts.rejected_records), (20, 20));
    assert_eq!(first.record_errors.unwrap().errors.len(), 20);
    let again = admin.push().push_once(skip.clone()).await.unwrap().into_inner();
    assert!(again.replayed);
    assert_eq!(again.counts, Some(counts));
    assert_eq!(admin.rows("default.t").await.len(), before + 20);
    let other = PushOnceRequest { batch: Some(numbers(None, 1)), ..skip };
    assert_error(&admin.push().push_once(other).await.unwrap_err(), Code::InvalidArgument, "REQUEST_ID_REUSED");
    let dry = PushOnceRequest { validate_only: true, batch: Some(numbers(None, 2)), ..request };
    admin.push().push_once(dry).await.unwrap();
    assert_eq!(admin.rows("default.t").await.len(), before + 20, "validate_only writes nothing");
}

#[tokio::test]
async fn validate_only_holds_the_records_against_the_destinations_columns_and_writes_nothing() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.table_and_sink("default.t", "default.s").await;
    let lines = "{\"n\":1}\n{\"n\":\"one\"}\nno json\n{\"n\":2,\"surplus\":true}\n{\"n\":3}\n";
    let dry = PushOnceRequest { data_sink: "default.s".to_owned(), batch: Some(lines_batch(None, lines)), validate_only: true, ..Default::default() };
    let status = admin.push().push_once(dry.clone()).await.unwrap_err();
    assert_error(&status, Code::InvalidArgument, "RECORD_INVALID");
    let details = status.get_error_details();
    let fields: Vec<_> = details.bad_request().unwrap().field_violations.iter().map(|violation| violation.field.clone()).collect();
    assert_eq!(fields, ["batch.records[1][\"n\"]", "batch.records[2]", "batch.records[3][\"surplus\"]"]);
    let skip = PushOnceRequest { record_error_policy: RecordErrorPolicy::Skip.into(), ..dry.clone() };
    let answer = admin.push().push_once(skip).await.unwrap().into_inner();
    let indexes: Vec<_> = answer.record_errors.unwrap().errors.iter().map(|error| error.index).collect();
    assert_eq!(indexes, [1, 2, 3]);
    let good = PushOnceRequest { batch: Some(numbers(None, 2)), ..dry };
    admin.push().push_once(good).await.unwrap();
    assert_eq!(admin.rows("default.t").await.len(), 0);
}

#[tokio::test]
async fn what_later_work_brings_says_so() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.table("default.t").await;
    let scan = ScanRowsRequest { table: "default.t".to_owned(), filter: "n > 1".to_owned(), ..Default::default() };
    let status = match admin.tables().scan_rows(scan).await {
        Err(status) => status,
        Ok(mut answers) => answers.get_mut().message().await.unwrap_err(),
    };
    assert_error(&status, Code::Unimplemented, "NOT_IMPLEMENTED");
    assert!(status.message().len() > 20, "it says what to do instead: {}", status.message());
}

#[tokio::test]
async fn a_table_schema_with_several_faults_names_them_all() {
    let server = Server::start().await;
    let column = |name: &str, column_type: ColumnType, precision| Column { name: name.to_owned(), r#type: column_type.into(), precision, ..Default::default() };
    let schema = RecordSchema {
        columns: vec![
            column("a", ColumnType::Int64, 0),
            column("a", ColumnType::String, 0),
            column("", ColumnType::Bool, 0),
            column("d", ColumnType::Decimal, 99),
        ],
    };
    let request = CreateTableRequest { name: "default.bad".to_owned(), schema: Some(schema), ..Default::default() };
    let status = server.admin().tables().create_table(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.get_error_details().bad_request().expect("BadRequest").field_violations.len() >= 3, "{status:?}");
}

/// A port on which nothing listens: bound once and let go.
async fn dead_port() -> u16 {
    let listener = tokio::time::timeout(PATIENCE, tokio::net::TcpListener::bind("127.0.0.1:0")).await.unwrap().unwrap();
    listener.local_addr().unwrap().port()
}
