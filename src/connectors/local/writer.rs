//! Why: a unit of rows and the mark behind it become one transaction. Never writes a row without the mark, nor the other way round.

use std::sync::Arc;

use async_trait::async_trait;
use uuid::Uuid;

use crate::{
    connectors::{
        connector::{Appended, Artifact, Finish, Mark, Outcome, Settlement, SinkWriter},
        error::{ConnectorError, ConnectorErrorKind, ErrorClass, Retry},
    },
    record::{Batch, Offset, RecordFault, RecordFaultKind, RecordSchema, Records},
    store::{
        StoreError,
        row::{Row, check_row},
        rows::{OnConflict, Rows, RowsError, StreamMark},
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
    open: Vec<(Offset, Row)>,
}

impl LocalWriter {
    pub(super) fn new(rows: Rows, table: Uuid, schema: Arc<RecordSchema>, stream: String, mark: StreamMark, on_conflict: OnConflict, uri: String) -> Self {
        Self { rows, table, schema, stream, mark: Arc::new(tokio::sync::Mutex::new(mark)), on_conflict, uri, open: Vec::new() }
    }
}

#[async_trait]
impl SinkWriter for LocalWriter {
    async fn append(&mut self, batch: &Batch) -> Result<Appended, ConnectorError> {
        let Records::Ndjson(lines) = &batch.records else {
            return Err(ConnectorError::new(ConnectorErrorKind::Internal, "a local table was given records in another encoding than it asked for"));
        };
        let before = self.open.len();
        let mut error: Option<ConnectorError> = None;
        for (index, offset) in (0..lines.len()).zip(batch.first_offset..) {
            match check_row(&self.schema, lines.line(index)) {
                Ok(row) => self.open.push((offset, row)),
                Err(fault) => {
                    let refused = error.take().unwrap_or_else(|| {
                        ConnectorError::new(ConnectorErrorKind::Rejected, format!("{} refuses record {offset}: {}", self.uri, fault.message))
                    });
                    error = Some(refused.record(offset, fault));
                }
            }
        }
        match error {
            None => Ok(Appended::Room),
            Some(error) => {
                self.open.truncate(before);
                Err(error)
            }
        }
    }

    fn commit(&mut self, mark: Mark) -> Settlement {
        let (rows, table, stream, on_conflict, uri) = (self.rows.clone(), self.table, self.stream.clone(), self.on_conflict, self.uri.clone());
        let kept = Arc::clone(&self.mark);
        let unit = std::mem::take(&mut self.open);
        Box::pin(async move {
            // Settlements resolve in order: the lock is free once the one ahead is done.
            let mut old = kept.lock().await;
            let first_offset = unit.first().map(|(offset, _)| *offset);
            let (offsets, unit): (Vec<Offset>, Vec<Row>) = unit.into_iter().unzip();
            let new = StreamMark { next: mark.next, rejected: mark.rejected, hash: mark.hash, finished: mark.finished, ..*old };
            let (new, written) = rows.commit(table, &stream, *old, new, &unit, on_conflict).await.map_err(|error| match error {
                RowsError::Duplicate(place) => duplicate(&uri, offsets.get(place).copied().unwrap_or_default()),
                other => rows_error(other),
            })?;
            *old = new;
            let artifacts = first_offset.map(|first_offset| Artifact {
                uri,
                first_offset,
                record_count: unit.len() as u64,
                byte_count: written.bytes,
                attributes: written
                    .first_row
                    .map(|row| ("first_row".to_owned(), row.to_string()))
                    .into_iter()
                    .chain([("epoch".to_owned(), new.epoch.to_string())])
                    .collect(),
            });
            Ok(Outcome { artifacts: artifacts.into_iter().collect(), bytes: written.bytes })
        })
    }

    async fn abandon(&mut self) {
        self.open.clear();
    }

    async fn finish(mut self: Box<Self>, action: Finish, mark: Mark) -> Result<Outcome, ConnectorError> {
        match action {
            Finish::Commit => self.commit(Mark { finished: true, ..mark }).await,
            Finish::Abort => {
                Err(ConnectorError::new(ConnectorErrorKind::Misconfigured, "rows of a local table are there already and cannot be taken back by finish"))
            }
        }
    }
}

fn duplicate(uri: &str, offset: Offset) -> ConnectorError {
    let message = format!("{uri} has a row with the primary key of record {offset} already; set the sink's option on_conflict to ignore or update to allow it");
    let fault = RecordFault { kind: RecordFaultKind::Invalid, message: message.clone(), column: None };
    ConnectorError::new(ConnectorErrorKind::Rejected, message).record(offset, fault)
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
        RowsError::Duplicate(_) => ConnectorError::new(ConnectorErrorKind::Rejected, message),
        RowsError::Busy => ConnectorError::new(ConnectorErrorKind::Throttled, message),
        // A write whose answer did not come may still have been applied.
        RowsError::Store(StoreError::Unavailable(_)) => ConnectorError::new(ConnectorErrorKind::Store, message),
        RowsError::Store(_) => ConnectorError::new(ConnectorErrorKind::Store, message).class(ErrorClass::Configuration).retry(Retry::Never),
    }
}
