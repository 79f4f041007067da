//! Why: a server killed before, during and after the finish of an ON_FINISH stream: its rows are there all or not at all, and the stream can always be brought to its end. Never asks when.

use std::time::Duration;

use datasink::api::pb::{Column, ColumnType, CommitMode, CreateDataSinkRequest, CreateTableRequest, EndReason, OpenStream, RecordSchema};

use crate::{
    server::{Caller, Place},
    stream::{Stream, open},
};

const ROWS: u64 = 6_000;
const BATCH: u64 = 1_000;

async fn sink(admin: &Caller, name: &str, keyed: bool) {
    let column = Column { name: "n".to_owned(), r#type: ColumnType::Int64.into(), primary_key: keyed, ..Column::default() };
    let table = CreateTableRequest { name: name.to_owned(), schema: Some(RecordSchema { columns: vec![column] }), ..CreateTableRequest::default() };
    admin.tables().create_table(table).await.unwrap();
    let sink = CreateDataSinkRequest { name: name.to_owned(), destination: format!("table://{name}"), ..CreateDataSinkRequest::default() };
    admin.sinks().create_data_sink(sink).await.unwrap();
}

fn aside(sink: &str) -> OpenStream {
    OpenStream { commit_mode: CommitMode::OnFinish.into(), ..open(sink, "load") }
}

async fn stage(stream: &mut Stream, from: u64) {
    for first in (from..ROWS).step_by(usize::try_from(BATCH).unwrap()) {
        stream.numbers(first, BATCH).await;
        stream.acked(first + BATCH).await;
    }
}

#[tokio::test]
async fn killed_around_finish_rows_are_there_all_or_not_at_all() {
    let place = Place::new();
    let everything: Vec<u64> = (0..ROWS).collect();
    for (round, keyed) in [false, true, true, true, true, false].into_iter().enumerate() {
        let name = format!("default.t{round}");
        let server = place.start().await;
        let admin = server.admin().await;
        sink(&admin, &name, keyed).await;
        let (mut stream, _) = Stream::open(&admin, aside(&name)).await;
        stream.numbers(0, BATCH).await;
        stream.acked(BATCH).await;
        server.kill().await;

        let server = place.start().await;
        let admin = server.admin().await;
        assert!(admin.numbers_in(&name).await.is_empty(), "nothing of an unfinished stream is seen");
        let (mut stream, opened) = Stream::open(&admin, aside(&name)).await;
        assert_eq!((opened.next_offset.unsigned_abs(), opened.rolled_back), (BATCH, false), "it goes on from its mark");
        stage(&mut stream, BATCH).await;
        assert!(admin.numbers_in(&name).await.is_empty());
        stream.finish().await;
        // Somewhere between the frame's way to the server and the end of the folding.
        tokio::time::sleep(Duration::from_millis(5 << round)).await;
        server.kill().await;

        let server = place.start().await;
        let admin = server.admin().await;
        let found = admin.numbers_in(&name).await;
        assert!(found.is_empty() || found == everything, "round {round}: {} rows are seen", found.len());
        let (mut stream, opened) = Stream::open(&admin, aside(&name)).await;
        assert_eq!(opened.next_offset.unsigned_abs(), ROWS);
        if found.is_empty() {
            stream.finish().await;
        }
        assert_eq!(stream.ended().await.reason(), EndReason::Committed);
        assert_eq!(admin.numbers_in(&name).await, everything, "round {round}");
        server.stop().await;
    }
}
