//! Why: a unit of rows and the mark behind it become one transaction, among the rows or aside until finish. Never writes a row without the mark, nor the other way round.

use std::sync::Arc;

use async_trait::async_trait;
use uuid::Uuid;

use crate::{
    clock::Ambient,
    connectors::{
        connector::{Appended, Artifact, Finish, Mark, Outcome, Settlement, SinkWriter},
        error::{ConnectorError, ConnectorErrorKind, ErrorClass, Retry},
    },
    record::{Batch, Offset, RecordFault, RecordFaultKind, RecordSchema, Records},
    store::{
        StoreError,
        row::{Row, check_row},
        rows::{Finished, OnConflict, Rows, RowsError, Staging, StreamMark, Written},
    },
};

/// Writes one stream into one table.
pub(super) struct LocalWriter {
    rows: Rows,
    table: Uuid,
    schema: Arc<RecordSchema>,
    stream: String,
    /// The mark as this writer leaves it with the commits handed out so far.
    mark: Arc<tokio::sync::Mutex<StreamMark>>,
    on_conflict: OnConflict,
    uri: String,
    aside: Option<Ambient>,
    /// Nobody can open the stream again, so its mark goes with its writer.
    once: bool,
    open: Vec<(Offset, Row)>,
}

impl LocalWriter {
    pub(super) fn new(rows: Rows, table: Uuid, schema: Arc<RecordSchema>, stream: String, mark: StreamMark, on_conflict: OnConflict, uri: String) -> Self {
        Self { rows, table, schema, stream, mark: Arc::new(tokio::sync::Mutex::new(mark)), on_conflict, uri, aside: None, once: false, open: Vec::new() }
    }

    /// Nothing counts before finish: until then rows are put aside.
    pub(super) fn on_finish(self, ambient: Ambient) -> Self {
        Self { aside: Some(ambient), ..self }
    }

    /// Nobody can open the stream again.
    pub(super) fn once(self) -> Self {
        Self { once: true, ..self }
    }

    /// Leaves nothing of a stream that nobody can open again but its rows. A mark that stays costs a little room; it is looked for every hour.
    async fn leave(&self) {
        if self.once
            && let Err(error) = self.rows.forget(self.table, &self.stream).await
        {
            tracing::warn!(%error, "the mark of a stream that has ended is left, with what was put aside; it is removed within an hour");
        }
    }
}

type Checked<T> = Vec<(Offset, T)>;

/// The rows that records are, and the faults of those that are none.
pub(super) fn checked(schema: &RecordSchema, batch: &Batch) -> Result<(Checked<Row>, Checked<RecordFault>), ConnectorError> {
    let Records::Ndjson(lines) = &batch.records else {
        return Err(ConnectorError::new(ConnectorErrorKind::Internal, "a local table was given records in another encoding than it asked for"));
    };
    let (mut rows, mut faults) = (Vec::with_capacity(lines.len()), Vec::new());
    for (index, offset) in (0..lines.len()).zip(batch.first_offset..) {
        match check_row(schema, lines.line(index)) {
            Ok(row) => rows.push((offset, row)),
            Err(fault) => faults.push((offset, fault)),
        }
    }
    Ok((rows, faults))
}

#[async_trait]
impl SinkWriter for LocalWriter {
    async fn append(&mut self, batch: &Batch) -> Result<Appended, ConnectorError> {
        let (rows, faults) = checked(&self.schema, batch)?;
        let Some((first, fault)) = faults.first() else {
            self.open.extend(rows);
            return Ok(Appended::Room);
        };
        let refused = ConnectorError::new(ConnectorErrorKind::Rejected, format!("{} refuses record {first}: {}", self.uri, fault.message));
        Err(faults.into_iter().fold(refused, |error, (offset, fault)| error.record(offset, fault)))
    }

    fn commit(&mut self, mark: Mark) -> Settlement {
        let (rows, table, stream, on_conflict, uri) = (self.rows.clone(), self.table, self.stream.clone(), self.on_conflict, self.uri.clone());
        let (kept, aside) = (Arc::clone(&self.mark), self.aside.clone());
        let unit = std::mem::take(&mut self.open);
        Box::pin(async move {
            // Settlements resolve in order: the lock is free once the one ahead is done.
            let mut old = kept.lock().await;
            let first_offset = unit.first().map(|(offset, _)| *offset);
            let (offsets, unit): (Vec<Offset>, Vec<Row>) = unit.into_iter().unzip();
            let new = StreamMark { next: mark.next, rejected: mark.rejected, hash: mark.hash, finished: mark.finished, ..*old };
            let done = match &aside {
                None => rows.commit(table, &stream, *old, new, &unit, on_conflict).await,
                Some(ambient) => {
                    let staging = Staging { id: ambient.ids.uuid(), first_offset, now: ambient.now() };
                    rows.stage(table, &stream, *old, new, &unit, on_conflict, staging).await
                }
            };
            let (new, written) = match done {
                Ok(done) => done,
                Err(RowsError::Duplicate(first)) => {
                    // All at once: each refusal costs the session a new writer.
                    let mut places = rows.duplicates(table, &unit, old.staged).await.unwrap_or_default();
                    if !places.contains(&first) {
                        places.insert(0, first);
                    }
                    return Err(duplicates(&uri, places.iter().filter_map(|place| offsets.get(*place).copied())));
                }
                Err(other) => return Err(written_or_not(other, &uri)),
            };
            *old = new;
            let receipt = first_offset.filter(|_| aside.is_none());
            let artifacts = receipt.map(|first_offset| artifact(uri, first_offset, unit.len() as u64, &written, &new)).into_iter().collect();
            Ok(Outcome { artifacts, bytes: written.bytes })
        })
    }

    async fn abandon(&mut self) {
        self.open.clear();
        self.leave().await;
    }

    async fn finish(mut self: Box<Self>, action: Finish, mark: Mark) -> Result<Outcome, ConnectorError> {
        let mark = Mark { finished: action == Finish::Commit, ..mark };
        let done = match (action, &self.aside) {
            (Finish::Commit, None) => self.commit(mark).await,
            (Finish::Commit, Some(_)) => self.publish(mark).await,
            (Finish::Abort, Some(_)) => {
                // Without its mark the stream is as if it had never been.
                let epoch = self.mark.lock().await.epoch;
                self.rows.abort(self.table, &self.stream, epoch).await.map_err(|error| written_or_not(error, &self.uri))?;
                Ok(Outcome::default())
            }
            (Finish::Abort, None) => {
                Err(ConnectorError::new(ConnectorErrorKind::Misconfigured, "rows of a local table are there already and cannot be taken back by finish"))
            }
        };
        if done.is_ok() {
            self.leave().await;
        }
        done
    }
}

impl LocalWriter {
    /// Puts the last unit aside, too, and lets everything count.
    async fn publish(&mut self, mark: Mark) -> Result<Outcome, ConnectorError> {
        if !self.open.is_empty() {
            self.commit(Mark { finished: false, ..mark }).await?;
        }
        let old = *self.mark.lock().await;
        let new = StreamMark { next: mark.next, rejected: mark.rejected, hash: mark.hash, finished: true, ..old };
        let done = self.rows.finish(self.table, &self.stream, old, new, self.on_conflict).await;
        let (new, Finished { written, first_offset }) = done.map_err(|error| match error {
            RowsError::Taken(count) => {
                let message = format!(
                    "{} got rows since with the primary keys of {count} records of the stream; finish again once the sink's option on_conflict is ignore or update, or abort",
                    self.uri
                );
                ConnectorError::new(ConnectorErrorKind::Rejected, message).class(ErrorClass::Configuration).retry(Retry::Never)
            }
            other => written_or_not(other, &self.uri),
        })?;
        let count = written.inserted + written.updated + written.ignored;
        let artifacts = first_offset.map(|first_offset| artifact(self.uri.clone(), first_offset, count, &written, &new));
        // Its bytes were told as they were put aside.
        Ok(Outcome { artifacts: artifacts.into_iter().collect(), bytes: 0 })
    }
}

/// The receipt of rows.
fn artifact(uri: String, first_offset: Offset, record_count: u64, written: &Written, mark: &StreamMark) -> Artifact {
    let first_row = written.first_row.map(|row| ("first_row".to_owned(), row.to_string()));
    let attributes = first_row.into_iter().chain([("epoch".to_owned(), mark.epoch.to_string())]).collect();
    Artifact { uri, first_offset, record_count, byte_count: written.bytes, attributes }
}

/// A transaction may be on the disk although its answer is none: only the mark can tell.
fn written_or_not(error: RowsError, uri: &str) -> ConnectorError {
    match error {
        RowsError::Store(StoreError::Unavailable(why)) => ConnectorError::new(ConnectorErrorKind::Unknown, format!("{uri}: {why}")),
        other => rows_error(other),
    }
}

fn duplicates(uri: &str, offsets: impl Iterator<Item = Offset>) -> ConnectorError {
    let message = format!("{uri} has rows with these primary keys already; set the sink's option on_conflict to ignore or update to allow that");
    offsets.fold(ConnectorError::new(ConnectorErrorKind::Rejected, message), |error, offset| {
        let message = format!("{uri} has a row with the primary key of record {offset} already; on_conflict=ignore or update would allow it");
        error.record(offset, RecordFault { kind: RecordFaultKind::Invalid, message, column: None })
    })
}

pub(super) fn mark_of(mark: &StreamMark) -> Mark {
    Mark { next: mark.next, rejected: mark.rejected, hash: mark.hash, finished: mark.finished }
}

pub(super) fn rows_error(error: RowsError) -> ConnectorError {
    let message = error.to_string();
    match error {
        RowsError::Fenced(epoch) => ConnectorError::new(ConnectorErrorKind::Fenced, message).with("current_epoch", epoch.to_string()),
        RowsError::Full(limit) => {
            ConnectorError::new(ConnectorErrorKind::TooLarge, format!("{message}; drop rows, or raise the server's setting table_bytes_max"))
                .class(ErrorClass::Configuration)
                .with("limit_bytes", limit.to_string())
        }
        RowsError::Duplicate(_) | RowsError::Taken(_) => ConnectorError::new(ConnectorErrorKind::Rejected, message),
        RowsError::Busy => ConnectorError::new(ConnectorErrorKind::Throttled, message),
        RowsError::Store(StoreError::Unavailable(_)) => ConnectorError::new(ConnectorErrorKind::Store, message),
        RowsError::Store(_) => ConnectorError::new(ConnectorErrorKind::Store, message).class(ErrorClass::Configuration).retry(Retry::Never),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        record::{Column, ColumnType, Ndjson},
        store::{
            SharedStore, Store, Table,
            memory::MemoryStore,
            sled::{SledOptions, SledStore},
        },
    };

    fn schema() -> Arc<RecordSchema> {
        let column = |name: &str, primary_key| Column { name: name.to_owned(), column_type: ColumnType::Int64, nullable: false, max_length: 0, primary_key };
        Arc::new(RecordSchema { columns: vec![column("k", true), column("v", false)] })
    }

    /// Records `{"k": key, "v": offset}` of these keys.
    fn batch(first_offset: Offset, keys: &[&str]) -> Batch {
        let (mut text, mut lines) = (String::new(), Vec::new());
        for (key, offset) in keys.iter().zip(first_offset..) {
            let start = text.len() as u32;
            text += &format!("{{\"k\":{key},\"v\":{offset}}}");
            lines.push((start, text.len() as u32));
            text.push('\n');
        }
        let records = Records::Ndjson(Ndjson::from_checked(text.into(), lines.into()));
        Batch::new(first_offset, records)
    }

    async fn open(rows: &Rows, table: Uuid, on_conflict: OnConflict) -> LocalWriter {
        let (mark, _) = rows.fence(table, "s", 1).await.unwrap();
        LocalWriter::new(rows.clone(), table, schema(), "s".to_owned(), mark, on_conflict, "table://x.t".to_owned())
    }

    fn engines() -> (tempfile::TempDir, Vec<SharedStore>) {
        let dir = tempfile::tempdir().unwrap();
        let sled = SledStore::open(dir.path(), SledOptions { ballast: false, ..SledOptions::default() }).unwrap();
        (dir, vec![Arc::new(MemoryStore::new()), Arc::new(sled)])
    }

    fn at(next: Offset) -> Mark {
        Mark { next, ..Mark::default() }
    }

    async fn texts(rows: &Rows, table: Uuid) -> Vec<Bytes> {
        rows.scan(table, true, None).await.unwrap().next(100).await.unwrap()
    }

    #[tokio::test]
    async fn a_batch_with_bad_records_is_refused_whole_and_every_one_is_named() {
        let (_dir, stores) = engines();
        for store in stores {
            let (rows, table) = (Rows::new(store, 1 << 20), Uuid::new_v4());
            let mut writer = open(&rows, table, OnConflict::Error).await;
            writer.append(&batch(0, &["1"])).await.unwrap();
            let refused = writer.append(&batch(1, &["2", "true", "3", "null"])).await.unwrap_err();
            assert_eq!(refused.class, ErrorClass::Record);
            assert_eq!(refused.records.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [2, 4]);
            writer.commit(at(1)).await.unwrap();
            assert_eq!(texts(&rows, table).await.len(), 1, "nothing of the refused batch was taken");
        }
    }

    #[tokio::test]
    async fn a_unit_with_keys_that_are_there_leaves_nothing_and_names_all_of_them() {
        let (_dir, stores) = engines();
        for store in stores {
            let (rows, table) = (Rows::new(store, 1 << 20), Uuid::new_v4());
            let mut writer = open(&rows, table, OnConflict::Error).await;
            writer.append(&batch(0, &["1", "2"])).await.unwrap();
            writer.commit(at(2)).await.unwrap();
            writer.append(&batch(2, &["2", "3", "1", "3"])).await.unwrap();
            let refused = writer.commit(at(6)).await.unwrap_err();
            assert_eq!(refused.class, ErrorClass::Record);
            assert_eq!(refused.records.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [2, 4, 5]);
            assert_eq!(texts(&rows, table).await.len(), 2);
            let (mark, known) = rows.fence(table, "s", 1).await.unwrap();
            assert!(known && mark.next == 2, "{mark:?}");
        }
    }

    #[tokio::test]
    async fn an_older_writer_is_fenced_and_an_empty_unit_moves_the_mark() {
        let (_dir, stores) = engines();
        for store in stores {
            let (rows, table) = (Rows::new(store, 1 << 20), Uuid::new_v4());
            let mut old = open(&rows, table, OnConflict::Update).await;
            let mut new = open(&rows, table, OnConflict::Update).await;
            old.append(&batch(0, &["1"])).await.unwrap();
            assert_eq!(old.commit(at(1)).await.unwrap_err().kind, ConnectorErrorKind::Fenced);
            let none = new.commit(Mark { next: 3, rejected: 3, ..Mark::default() }).await.unwrap();
            assert!(none.artifacts.is_empty());
            assert!(texts(&rows, table).await.is_empty());
            assert_eq!(rows.fence(table, "s", 1).await.unwrap().0.rejected, 3);
        }
    }

    #[tokio::test]
    async fn a_stream_that_nobody_can_open_again_leaves_its_rows_and_no_mark() {
        let (_dir, stores) = engines();
        for store in stores {
            let (rows, table) = (Rows::new(store, 1 << 20), Uuid::new_v4());
            for (turn, finishes) in [(0, false), (1, true)] {
                let mut writer = open(&rows, table, OnConflict::Error).await.once();
                writer.append(&batch(0, &[["1", "2"], ["3", "4"]][turn])).await.unwrap();
                writer.commit(at(2)).await.unwrap();
                match finishes {
                    true => drop(Box::new(writer).finish(Finish::Commit, at(2)).await.unwrap()),
                    false => writer.abandon().await,
                }
                assert_eq!(rows.size(table).await.unwrap().0, 2 * (turn as u64 + 1), "what it wrote still counts");
                let (mark, known) = rows.fence(table, "s", 1).await.unwrap();
                assert!(!known && mark.next == 0, "{mark:?}");
                rows.forget(table, "s").await.unwrap();
            }
        }
    }

    /// Applies every transaction and tells nobody.
    #[derive(Debug)]
    struct Silent(MemoryStore);

    #[async_trait]
    impl Store for Silent {
        async fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
            self.0.get(table, key).await
        }
        async fn scan(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<crate::store::Entry>, StoreError> {
            self.0.scan(table, prefix, after, limit).await
        }
        async fn transact(&self, transaction: crate::store::Transaction) -> Result<(), StoreError> {
            let unit = transaction.writes.len() > 1;
            self.0.transact(transaction).await?;
            if unit { Err(StoreError::Unavailable("the answer is lost".to_owned())) } else { Ok(()) }
        }
        fn watch(&self, table: Table, prefix: &[u8]) -> crate::store::Watch {
            self.0.watch(table, prefix)
        }
        async fn sync(&self) -> Result<(), StoreError> {
            self.0.sync().await
        }
        async fn export(&self, to: &std::path::Path) -> Result<u64, StoreError> {
            self.0.export(to).await
        }
        async fn import(&self, from: &std::path::Path) -> Result<u64, StoreError> {
            self.0.import(from).await
        }
        async fn verify(&self) -> Result<crate::store::Verified, StoreError> {
            self.0.verify().await
        }
    }

    #[tokio::test]
    async fn a_lost_answer_is_unknown_and_the_mark_tells() {
        let (rows, table) = (Rows::new(Arc::new(Silent(MemoryStore::new())), 1 << 20), Uuid::new_v4());
        let mut writer = open(&rows, table, OnConflict::Error).await;
        writer.append(&batch(0, &["1"])).await.unwrap();
        assert_eq!(writer.commit(at(1)).await.unwrap_err().kind, ConnectorErrorKind::Unknown);
        assert_eq!(rows.fence(table, "s", 1).await.unwrap().0.next, 1);
    }
}
