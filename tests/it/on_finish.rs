//! Why: COMMIT_MODE_ON_FINISH of local tables as a client meets it: nothing before finish, everything after, nothing of what is given up. Never looks into the store.

use datasink::api::pb::{
    AlterDataSinkRequest, Column, ColumnType, CommitMode, CreateDataSinkRequest, CreateTableRequest, DropDataSinkRequest, DropPushStreamRequest, EndReason,
    FinishAction, FinishStream, InsertRowsRequest, OpenStream, RecordSchema, ShowTableRequest, SinkKind, push_request,
};
use tonic::Code;

use crate::{
    stream::{Stream, assert_error, numbers, open},
    support::{Caller, Server},
};

fn aside(sink: &str, stream: &str) -> OpenStream {
    OpenStream { commit_mode: CommitMode::OnFinish.into(), ..open(sink, stream) }
}

async fn staged(stream: &mut Stream, first: u64, count: u64) {
    stream.numbers(first, count).await;
    stream.acked(first + count).await;
}

/// How many rows a scan gives; the table's own count must be the same.
async fn rows(admin: &Caller, table: &str) -> usize {
    let found = admin.rows(table).await.len();
    let shown = admin.tables().show_table(ShowTableRequest { name: table.to_owned(), ..Default::default() }).await.unwrap().into_inner();
    assert_eq!(usize::try_from(shown.tables[0].row_count).unwrap(), found);
    found
}

async fn keyed_sink(admin: &Caller, name: &str) {
    let column = |name: &str, column_type: ColumnType, primary_key| Column {
        name: name.to_owned(),
        r#type: column_type.into(),
        primary_key,
        nullable: !primary_key,
        ..Column::default()
    };
    let schema = RecordSchema { columns: vec![column("n", ColumnType::Int64, true), column("pad", ColumnType::String, false)] };
    admin.tables().create_table(CreateTableRequest { name: name.to_owned(), schema: Some(schema), ..Default::default() }).await.unwrap();
    let sink = CreateDataSinkRequest { name: name.to_owned(), destination: format!("table://{name}"), ..Default::default() };
    admin.sinks().create_data_sink(sink).await.unwrap();
}

#[tokio::test]
async fn nothing_is_seen_before_finish_and_everything_after_also_over_a_lost_connection() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.table_and_sink("default.t", "default.s").await;
    let (mut stream, opened) = Stream::open(&admin, aside("default.s", "one")).await;
    assert!(opened.delivery_basis.contains("finish"), "{}", opened.delivery_basis);
    staged(&mut stream, 0, 100).await;
    assert_eq!(rows(&admin, "default.t").await, 0);
    // The connection is lost without a word; what was acknowledged stays acknowledged.
    drop(stream);
    let (mut stream, opened) = Stream::open(&admin, aside("default.s", "one")).await;
    assert_eq!((opened.next_offset, opened.rolled_back), (100, false));
    staged(&mut stream, 100, 100).await;
    let (mut beside, _) = Stream::open(&admin, open("default.s", "beside")).await;
    beside.send(push_request::Frame::Batch(numbers(None, 7))).await;
    beside.acked(7).await;
    assert_eq!(rows(&admin, "default.t").await, 7);
    stream.finish().await;
    let ended = stream.ended().await;
    assert_eq!((ended.reason(), ended.next_offset, ended.resumable), (EndReason::Committed, 200, false));
    let receipt = ended.artifacts.last().expect("a receipt of all rows");
    assert_eq!((receipt.first_offset, receipt.record_count), (0, 200));
    assert_eq!(rows(&admin, "default.t").await, 207);
    let (mut again, opened) = Stream::open(&admin, aside("default.s", "one")).await;
    assert_eq!(opened.next_offset, 200);
    assert_eq!(again.ended().await.reason(), EndReason::Committed);
}

#[tokio::test]
async fn a_newer_writer_has_what_was_put_aside_and_the_older_one_is_fenced() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.table_and_sink("default.t", "default.s").await;
    let (mut old, _) = Stream::open(&admin, aside("default.s", "one")).await;
    staged(&mut old, 0, 10).await;
    let (mut new, opened) = Stream::open(&admin, aside("default.s", "one")).await;
    assert_eq!(opened.next_offset, 10);
    old.finish().await;
    assert_error(&old.failure().await, Code::Aborted, "STREAM_FENCED");
    assert_eq!(rows(&admin, "default.t").await, 0);
    staged(&mut new, 10, 10).await;
    new.finish().await;
    new.ended().await;
    assert_eq!(rows(&admin, "default.t").await, 20);
}

#[tokio::test]
async fn what_is_aborted_dropped_or_of_one_session_only_leaves_nothing() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.table_and_sink("default.t", "default.s").await;
    let (mut stream, _) = Stream::open(&admin, aside("default.s", "one")).await;
    staged(&mut stream, 0, 10).await;
    stream.send(push_request::Frame::Finish(FinishStream { action: FinishAction::Abort.into(), expected_next_offset: None })).await;
    assert_eq!(stream.ended().await.reason(), EndReason::Aborted);
    let (mut stream, opened) = Stream::open(&admin, aside("default.s", "one")).await;
    assert_eq!(opened.next_offset, 0, "an aborted stream begins anew");
    staged(&mut stream, 0, 10).await;
    let drop_stream = DropPushStreamRequest { data_sink: "default.s".to_owned(), stream: "one".to_owned(), ..Default::default() };
    admin.push().drop_push_stream(drop_stream).await.unwrap();
    stream.failure().await;
    let (mut stream, opened) = Stream::open(&admin, aside("default.s", "one")).await;
    assert_eq!(opened.next_offset, 0, "a dropped stream begins anew");
    let (mut once, _) = Stream::open(&admin, aside("default.s", "")).await;
    staged(&mut once, 0, 10).await;
    drop(once);
    staged(&mut stream, 0, 3).await;
    stream.finish().await;
    stream.ended().await;
    assert_eq!(rows(&admin, "default.t").await, 3);
    let (mut stream, _) = Stream::open(&admin, aside("default.s", "two")).await;
    staged(&mut stream, 0, 10).await;
    admin.sinks().drop_data_sink(DropDataSinkRequest { name: "default.s".to_owned(), ..Default::default() }).await.unwrap();
    stream.failure().await;
    assert_eq!(rows(&admin, "default.t").await, 3);
}

#[tokio::test]
async fn primary_keys_that_came_in_between_stop_a_finish_whole() {
    let server = Server::start().await;
    let admin = server.admin();
    keyed_sink(&admin, "default.k").await;
    let (mut stream, _) = Stream::open(&admin, aside("default.k", "one")).await;
    staged(&mut stream, 0, 100).await;
    let insert = InsertRowsRequest { table: "default.k".to_owned(), batch: Some(numbers(Some(50), 1)), ..Default::default() };
    let insert = InsertRowsRequest { batch: insert.batch.map(|batch| datasink::api::pb::RecordBatch { first_offset: None, ..batch }), ..insert };
    admin.tables().insert_rows(insert).await.unwrap();
    stream.finish().await;
    let refused = stream.failure().await;
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("1 records"), "{}", refused.message());
    assert_eq!(rows(&admin, "default.k").await, 1);
    // The stream is as it was; under another policy it can be finished.
    let updates = [("on_conflict".to_owned(), "update".to_owned())].into();
    admin.sinks().alter_data_sink(AlterDataSinkRequest { name: "default.k".to_owned(), updates, ..Default::default() }).await.unwrap();
    let (mut stream, opened) = Stream::open(&admin, aside("default.k", "one")).await;
    assert_eq!(opened.next_offset, 100);
    stream.finish().await;
    assert_eq!(stream.ended().await.reason(), EndReason::Committed);
    assert_eq!(rows(&admin, "default.k").await, 100);
}

#[tokio::test]
async fn it_is_announced() {
    let server = Server::start().await;
    let request = datasink::api::pb::ShowSinkKindsRequest { kind: SinkKind::Local.into() };
    let kinds = server.admin().sinks().show_sink_kinds(request).await.unwrap().into_inner().kinds;
    assert!(kinds[0].commit_on_finish);
}
